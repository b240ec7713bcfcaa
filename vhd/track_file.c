/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The side-car file. What a header names is never overwritten, so a header is either the one before or the one after,
 * and what it names is there.
 *
 * An intact older copy of the header is no substitute for a damaged newer one: it knows less, and nothing tells a copy
 * that was never finished from one that was relied on. A header is one sector, so no power cut tears it.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/crc32c.h"
#include "base/seed.h"
#include "vhd/track_int.h"

#define SEQUENCE_MAX (UINT64_C(1) << 62)	/* never reached by counting */

uint64_t track_blocks(uint64_t size, uint8_t shift)
{
	return sp_div_ceil(size, UINT64_C(1) << shift);
}

size_t track_bitmap_bytes(uint64_t blocks)
{
	return (size_t)sp_div_ceil(blocks, 64) * 8;
}

uint8_t track_block_shift(uint64_t size)
{
	uint8_t shift = TRACK_SHIFT_MIN;

	while (track_blocks(size, shift) > TRACK_BLOCKS_MAX)
		shift++;
	return shift;
}

/* 16 MiB, or so much that there are 256 of them. */
uint8_t track_region_shift(uint64_t size)
{
	uint8_t shift = 24;

	while (track_blocks(size, shift) > 256)
		shift++;
	return shift;
}

/* ---- sums of bitmaps ------------------------------------------------------------------------------ */

int track_sum_init(struct track_sum *sum, uint64_t size, uint8_t shift)
{
	*sum = (struct track_sum){ .size = size, .blocks = track_blocks(size, shift), .shift = shift };
	sum->bits = sp_zalloc(sp_max(track_bitmap_bytes(sum->blocks), 8));
	return sum->bits ? 0 : -ENOMEM;
}

void track_sum_range(struct track_sum *sum, uint64_t offset, uint64_t len)
{
	uint64_t first, last;

	if (offset >= sum->size || len == 0)
		return;
	first = offset >> sum->shift;
	last = (offset + sp_min(len, sum->size - offset) - 1) >> sum->shift;
	for (uint64_t b = first; b <= last; b++)
		sum->bits[b / 64] |= UINT64_C(1) << b % 64;
}

static void sum_words(struct track_sum *sum, const le64_t *words, uint64_t blocks, uint8_t shift)
{
	for (uint64_t w = 0; w * 64 < blocks; w++) {
		uint64_t bits = le64_get(words[w]);

		if (shift == sum->shift && w * 64 < sum->blocks) {
			sum->bits[w] |= bits;
			continue;
		}
		for (; bits; bits &= bits - 1) {
			uint64_t block = w * 64 + (unsigned)__builtin_ctzll(bits);

			track_sum_range(sum, block << shift, UINT64_C(1) << shift);
		}
	}
}

int track_book_add_bits(const struct track_book *b, const struct track_extent *e, uint64_t blocks, uint8_t shift,
			struct track_sum *sum)
{
	SP_AUTO_FREE le64_t *words = NULL;
	int r;

	if (e->len == 0)
		return 0;
	words = sp_alloc(e->len);
	if (!words)
		return -ENOMEM;
	r = store_read(b->store, words, e->len, e->offset);
	if (r < 0)
		return r == -ENODATA ? -EBADMSG : r;
	if (sp_crc32c(words, e->len) != e->crc && !SP_SEED_BUG(TRACK_BITS_NO_CRC))
		return -EBADMSG;
	sum_words(sum, words, blocks, shift);
	return 0;
}

/* ---- reading -------------------------------------------------------------------------------------- */

static struct track_extent extent_get(const struct track_extent_disk *d)
{
	return (struct track_extent){ le64_get(d->offset), le32_get(d->length), le32_get(d->checksum) };
}

/* Either nothing at all or exactly @len bytes inside the file. */
static bool extent_ok(const struct track_extent *e, uint64_t len, uint64_t file_size)
{
	if (e->len == 0)
		return e->offset == 0;
	return e->len == len && e->offset >= TRACK_BODY && e->offset % TRACK_PAGE == 0 &&
	       sp_range_ok(e->offset, e->len, file_size);
}

static bool geometry_ok(uint64_t size, uint8_t block_shift)
{
	return block_shift >= TRACK_SHIFT_MIN && block_shift <= TRACK_SHIFT_MAX && size <= UINT64_C(1) << 62 &&
	       track_blocks(size, block_shift) <= TRACK_BLOCKS_MAX;
}

static int head_decode(const struct track_header_disk *d, uint64_t file_size, struct track_head *h, struct sp_err *err)
{
	uint32_t crc = sp_crc32c_skip(d, sizeof(*d), offsetof(struct track_header_disk, checksum));

	if (memcmp(d->signature, TRACK_SIGNATURE, 8) != 0)
		return sp_err_set(err, -EBADMSG, "the signature is missing");
	if (crc != le32_get(d->checksum))
		return sp_err_set(err, -EBADMSG, "the checksum is %08" PRIx32 ", computed %08" PRIx32,
				  le32_get(d->checksum), crc);
	if (le32_get(d->version) != TRACK_VERSION)
		return sp_err_set(err, -EBADMSG, "the version is %" PRIu32 ", known is %u", le32_get(d->version),
				  TRACK_VERSION);
	*h = (struct track_head){
		.sequence = le64_get(d->sequence),
		.disk_size = le64_get(d->disk_size),
		.block_shift = d->block_shift,
		.region_shift = d->region_shift,
		.clean = d->clean == 1,
		.why = d->why,
		.points = le32_get(d->points),
		.format = le32_get(d->format),
		.image = d->image,
		.stamp = { le64_get(d->inode), le64_get(d->born), le64_get(d->size), le64_get(d->modified),
			   le64_get(d->changed), false },
		.parents = le64_get(d->parents),
		.table = extent_get(&d->table),
		.current = extent_get(&d->current),
	};
	for (size_t i = 0; i < SP_ARRAY_SIZE(h->doubt); i++)
		h->doubt[i] = le64_get(d->doubt[i]);
	if (!geometry_ok(h->disk_size, h->block_shift) || h->region_shift < h->block_shift || h->region_shift > 62 ||
	    track_blocks(h->disk_size, h->region_shift) > TRACK_REGIONS_MAX)
		return sp_err_set(err, -EBADMSG, "blocks of 2^%u and regions of 2^%u bytes do not fit %" PRIu64
				  " bytes", h->block_shift, h->region_shift, h->disk_size);
	if (h->why > VHD_TRACK_FAILED || h->points > VHD_TRACK_POINTS_MAX ||
	    h->table.len != h->points * sizeof(struct track_point_disk) ||
	    !extent_ok(&h->table, h->table.len, file_size) ||
	    !extent_ok(&h->current, track_bitmap_bytes(track_blocks(h->disk_size, h->block_shift)), file_size))
		return sp_err_set(err, -EBADMSG, "the table of %" PRIu32 " points or the bitmap is not in the file",
				  h->points);
	return 0;
}

static int read_heads(struct store *store, uint64_t file_size, struct track_head *ret, struct sp_err *err)
{
	struct track_head h[2];

	for (unsigned copy = 0; copy < 2; copy++) {
		struct track_header_disk d;
		int r = store_read(store, &d, sizeof(d), copy * TRACK_PAGE);

		if (r < 0 && r != -ENODATA)
			return sp_err_set(err, r, "cannot read: %s", strerror(-r));
		r = r < 0 ? sp_err_set(err, -EBADMSG, "the file ends before it") :
			    head_decode(&d, file_size, &h[copy], err);
		if (r == 0 && (h[copy].sequence % 2 != copy || h[copy].sequence > SEQUENCE_MAX))
			r = sp_err_set(err, -EBADMSG, "sequence number %" PRIu64 " does not belong here",
				       h[copy].sequence);
		if (r < 0 && copy == 1 && SP_SEED_BUG(TRACK_ONE_HEADER)) {
			*ret = h[0];
			return 0;
		}
		if (r < 0)
			return sp_err_prefix(err, r, "header at %u", copy * TRACK_PAGE);
	}
	if (h[0].sequence + 1 != h[1].sequence && h[1].sequence + 1 != h[0].sequence)
		return sp_err_set(err, -EBADMSG, "headers %" PRIu64 " and %" PRIu64 " do not follow each other",
				  h[0].sequence, h[1].sequence);
	*ret = h[0].sequence > h[1].sequence ? h[0] : h[1];
	return 0;
}

static int point_decode(const struct track_point_disk *d, uint64_t file_size, struct track_point *p)
{
	*p = (struct track_point){
		.id = d->id,
		.time = (int64_t)le64_get(d->time),
		.bits = extent_get(&d->bits),
		.blocks = le64_get(d->blocks),
		.block_shift = d->block_shift,
		.why = d->why,
	};
	memcpy(p->name, d->name, sizeof(p->name));
	if (p->name[0] == '\0' || p->name[sizeof(p->name) - 1] != '\0' || p->why > VHD_TRACK_FAILED ||
	    p->blocks > TRACK_BLOCKS_MAX || p->block_shift < TRACK_SHIFT_MIN || p->block_shift > TRACK_SHIFT_MAX ||
	    !extent_ok(&p->bits, track_bitmap_bytes(p->blocks), file_size))
		return -EBADMSG;
	return 0;
}

static int read_table(struct track_book *b, uint64_t file_size, struct sp_err *err)
{
	const struct track_extent *e = &b->head.table;
	SP_AUTO_FREE struct track_point_disk *disk = sp_alloc(sp_max(e->len, 1));
	int r;

	b->point = sp_calloc(sp_max(b->head.points, 1), sizeof(*b->point));
	if (!b->point || !disk)
		return sp_err_set(err, -ENOMEM, "out of memory");
	r = e->len ? store_read(b->store, disk, e->len, e->offset) : 0;
	if (r < 0)
		return sp_err_set(err, r, "cannot read the table of points: %s", strerror(-r));
	if (e->len && sp_crc32c(disk, e->len) != e->crc)
		return sp_err_set(err, -EBADMSG, "the table of points at %#" PRIx64 " has another checksum", e->offset);
	for (uint32_t i = 0; i < b->head.points; i++)
		if (point_decode(&disk[i], file_size, &b->point[i]) < 0)
			return sp_err_set(err, -EBADMSG, "point %" PRIu32 " contradicts itself", i);
	return 0;
}

int track_book_read(struct store *store, struct track_book *ret_book, struct sp_err *err)
{
	struct track_book b = { .store = store };
	uint64_t file_size;
	int r = store_size(store, &file_size);

	if (r < 0)
		return sp_err_set(err, r, "cannot learn the file size: %s", strerror(-r));
	r = read_heads(store, file_size, &b.head, err);
	if (r == 0)
		r = read_table(&b, file_size, err);
	if (r < 0) {
		track_book_free(&b);
		return r;
	}
	*ret_book = b;
	return 0;
}

void track_book_free(struct track_book *b)
{
	sp_free(sp_take(b->point));
}

/* ---- writing -------------------------------------------------------------------------------------- */

static struct track_extent_disk extent_put(const struct track_extent *e)
{
	return (struct track_extent_disk){ le64_make(e->offset), le32_make(e->len), le32_make(e->crc) };
}

static int write_head(struct store *store, const struct track_head *h)
{
	struct track_header_disk d = {
		.version = le32_make(TRACK_VERSION),
		.sequence = le64_make(h->sequence),
		.disk_size = le64_make(h->disk_size),
		.block_shift = h->block_shift,
		.region_shift = h->region_shift,
		.clean = h->clean,
		.why = (uint8_t)h->why,
		.points = le32_make(h->points),
		.format = le32_make(h->format),
		.image = h->image,
		.inode = le64_make(h->stamp.inode),
		.born = le64_make(h->stamp.born_ns),
		.size = le64_make(h->stamp.size),
		.modified = le64_make(h->stamp.modified_ns),
		.changed = le64_make(h->stamp.changed_ns),
		.parents = le64_make(h->parents),
		.table = extent_put(&h->table),
		.current = extent_put(&h->current),
	};

	memcpy(d.signature, TRACK_SIGNATURE, 8);
	for (size_t i = 0; i < SP_ARRAY_SIZE(h->doubt); i++)
		d.doubt[i] = le64_make(h->doubt[i]);
	d.checksum = le32_make(sp_crc32c_skip(&d, sizeof(d), offsetof(struct track_header_disk, checksum)));
	return store_write(store, &d, sizeof(d), h->sequence % 2 * TRACK_PAGE);
}

int track_book_put_head(struct track_book *b, const struct track_head *head)
{
	struct track_head h = *head;
	int r;

	h.sequence = b->head.sequence + 1;
	r = write_head(b->store, &h);
	if (r == 0 && !SP_SEED_BUG(TRACK_DOUBT_NO_SYNC))
		r = store_sync(b->store);
	if (r == 0)
		b->head = h;
	return r;
}

int track_book_create(struct track_book *b)
{
	struct track_head h = b->head;
	int r = store_resize(b->store, TRACK_BODY);

	for (h.sequence = 0; r == 0 && h.sequence < 2; h.sequence++)
		r = write_head(b->store, &h);
	b->head.sequence = 1;
	return r < 0 ? r : store_sync(b->store);
}

/* The end of what @e occupies if that keeps [at, at + len) from being free, otherwise 0. */
static uint64_t in_the_way(const struct track_extent *e, uint64_t at, uint64_t len)
{
	uint64_t room = sp_align_up(e->len, TRACK_PAGE);

	return sp_ranges_overlap(at, len, e->offset, room) ? e->offset + room : 0;
}

uint64_t track_book_room(const struct track_book *b, uint64_t len, const struct track_extent *also, unsigned n)
{
	uint64_t at = TRACK_BODY, next;

	len = sp_align_up(len, TRACK_PAGE);
	do {	/* every round moves past the end of one that is in the way */
		next = sp_max(in_the_way(&b->head.table, at, len), in_the_way(&b->head.current, at, len));
		for (uint32_t i = 0; i < b->head.points; i++)
			next = sp_max(next, in_the_way(&b->point[i].bits, at, len));
		for (unsigned i = 0; i < n; i++)
			next = sp_max(next, in_the_way(&also[i], at, len));
		at = sp_max(at, next);
	} while (next);
	return at;
}

static int put_bytes(struct track_book *b, const void *bytes, size_t len, const struct track_extent *also, unsigned n,
		     struct track_extent *ret)
{
	struct track_extent e = { .len = (uint32_t)len, .crc = sp_crc32c(bytes, len) };
	int r;

	e.offset = track_book_room(b, len, also, n);
	if (SP_SEED_BUG(TRACK_BITS_IN_PLACE) && b->head.current.len == len)
		e.offset = b->head.current.offset;
	r = store_write(b->store, bytes, len, e.offset);
	if (r == 0)
		*ret = e;
	return r;
}

int track_book_put_bits(struct track_book *b, const uint64_t *words, uint64_t blocks, const struct track_extent *also,
			unsigned n, struct track_extent *ret)
{
	size_t len = track_bitmap_bytes(blocks);
	SP_AUTO_FREE le64_t *disk = sp_alloc(sp_max(len, 1));
	uint64_t any = 0;

	if (!disk)
		return -ENOMEM;
	for (size_t i = 0; i < len / 8; i++) {
		disk[i] = le64_make(words[i]);
		any |= words[i];
	}
	if (any)
		return put_bytes(b, disk, len, also, n, ret);
	*ret = (struct track_extent){ 0 };
	return 0;
}

int track_book_put_table(struct track_book *b, const struct track_point *point, uint32_t points,
			 const struct track_extent *also, unsigned n, struct track_extent *ret)
{
	SP_AUTO_FREE struct track_point_disk *disk = sp_calloc(sp_max(points, 1), sizeof(*disk));

	if (!disk)
		return -ENOMEM;
	for (uint32_t i = 0; i < points; i++) {
		const struct track_point *p = &point[i];

		memcpy(disk[i].name, p->name, sizeof(disk[i].name));
		disk[i].id = p->id;
		disk[i].time = le64_make((uint64_t)p->time);
		disk[i].bits = extent_put(&p->bits);
		disk[i].blocks = le64_make(p->blocks);
		disk[i].block_shift = p->block_shift;
		disk[i].why = (uint8_t)p->why;
	}
	*ret = (struct track_extent){ 0 };
	return points ? put_bytes(b, disk, points * sizeof(*disk), also, n, ret) : 0;
}
