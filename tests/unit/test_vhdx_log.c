/* SPDX-License-Identifier: BSD-2-Clause */
/* Log entries, active sequence, replay. Behaviour rows are those of vhd-formats 6.6. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/alloc.h"
#include "tests/unit/rows.h"
#include "tests/unit/vhdx_image.h"

#define RING (1u << 20)

static struct log_builder builder;
static uint8_t ring[RING];
static uint8_t page_bat[4096], page_count[4096], page_other[4096];
static const struct sp_guid log_guid = { { 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11,
					   0x11, 0x11, 0x11 } };

static int fill_pages(void **state)
{
	put64(page_bat, 0x0000000000400006);
	for (unsigned i = 0; i < 4096; i++) {
		page_count[i] = (uint8_t)i;
		page_other[i] = (uint8_t)(i * 7 + 3);
	}
	return 0;
}

/* ---- vectors L0, L1, L2 -------------------------------------------------------------------------- */

static uint32_t build_l0(void)
{
	log_start(&builder, 1, 0, SP_MIB(4), SP_MIB(4));
	return log_finish(&builder);
}

static uint32_t build_l1(void)
{
	log_start(&builder, 1, 0, SP_MIB(6), SP_MIB(6));
	log_data(&builder, SP_MIB(3), page_bat);
	return log_finish(&builder);
}

static uint32_t build_l2(void)
{
	log_start(&builder, 0x0000000500000007, 0, SP_MIB(6), SP_MIB(6));
	log_data(&builder, SP_MIB(5), page_count);
	log_zero(&builder, SP_MIB(4), SP_MIB(1));
	return log_finish(&builder);
}

static const struct vector {
	const char *name;
	uint32_t (*build)(void);
	uint32_t length, crc;
	unsigned descriptors;
	uint64_t sequence;
} vectors[] = {
	{ "L0", build_l0, 4096, 0x95809b1f, 0, 1 },
	{ "L1", build_l1, 8192, 0x5d78d1a8, 1, 1 },
	{ "L2", build_l2, 8192, 0x9d9e7749, 2, 0x0000000500000007 },
};

static void scan_vector(void **state)
{
	const struct vector *v = *state;
	struct vhdx_log_sequence seq;
	uint32_t length = v->build();

	assert_int_equal(length, v->length);
	assert_int_equal(get32(builder.bytes + 4), v->crc);
	memset(ring, 0, sizeof(ring));
	memcpy(ring, builder.bytes, length);
	must(vhdx_log_scan(ring, RING, &log_guid, &seq, NULL));
	assert_int_equal(seq.count, 1);
	assert_int_equal(seq.entry[0].sequence, v->sequence);
	assert_int_equal(seq.entry[0].length, length);
	assert_int_equal(seq.entry[0].descriptors, v->descriptors);
	sp_free(seq.entry);
}

/* ---- one entry: a changed field of L2 makes it invalid ------------------------------------------- */

static const struct row {
	const char *name;
	size_t at;
	unsigned bytes;
	uint64_t value;
	bool stale;
	bool valid;
} rows[] = {
	{ "as written", 28, 4, 0, false, true },
	{ "reserved field", 28, 4, 7, false, true },
	{ "stale CRC", 8100, 1, 1, true, false },
	{ "signature", 0, 1, 'L', false, false },
	{ "length 0", 8, 4, 0, true, false },
	{ "length not in sectors", 8, 4, 8000, true, false },
	{ "length of the ring and more", 8, 4, RING + 4096, true, false },
	{ "length 4 GiB - 4096", 8, 4, 0xfffff000, true, false },
	{ "a data sector short", 8, 4, 4096, true, false },
	{ "a data sector too many", 8, 4, 12288, true, false },
	{ "tail not in sectors", 12, 4, 100, false, false },
	{ "tail past the ring", 12, 4, RING, false, false },
	{ "sequence 0", 16, 8, 0, false, false },
	{ "other log", 32, 1, 0x12, false, false },
	{ "one descriptor less than sectors", 24, 4, 0, false, false },
	{ "descriptors for 512 MiB", 24, 4, 0x1000000, false, false },
	{ "descriptor count -1", 24, 4, 0xffffffff, false, false },
	{ "descriptor signature", 64, 1, 'D', false, false },
	{ "descriptor offset not in pages", 64 + 16, 8, SP_MIB(5) + 512, false, false },
	{ "descriptor of another entry", 64 + 24, 8, 6, false, false },
	{ "zero length not in pages", 96 + 8, 8, 1000, false, false },
	{ "data signature", 4096, 1, 'D', false, false },
	{ "data sequence, high half", 4100, 4, 6, false, false },
	{ "data sequence, low half", 8188, 4, 6, false, false },
};

static void entry_valid(void **state)
{
	const struct row *c = *state;
	struct vhdx_log_sequence seq;
	uint32_t length = build_l2();

	memset(ring, 0, sizeof(ring));
	for (unsigned i = 0; i < c->bytes; i++)
		builder.bytes[c->at + i] = (uint8_t)(c->value >> 8 * i);
	if (!c->stale)
		seal(builder.bytes, length);
	memcpy(ring, builder.bytes, length);
	must(vhdx_log_scan(ring, RING, &log_guid, &seq, NULL));
	assert_int_equal(seq.count, c->valid);
	sp_free(seq.entry);
}

/* ---- sequences ----------------------------------------------------------------------------------- */

/* Entries of one sector (empty) or, with @data, two; @at in sectors; sequence 0 ends the list. */
struct piece { uint64_t sequence; uint32_t at, tail; bool data, torn; };

static const struct sequence {
	const char *name;
	struct piece piece[8];
	uint64_t first, last;	/* 0: none */
} sequences[] = {
	{ "empty log", { { 0 } }, 0, 0 },
	{ "one", { { 1, 0, 0 } }, 1, 1 },
	{ "one in the middle", { { 1, 100, 100 } }, 1, 1 },
	{ "one that points nowhere", { { 1, 100, 99 } }, 0, 0 },
	{ "5 good, 6 torn, tails 0", { { 5, 0, 0 }, { 6, 1, 0, true, true } }, 5, 5 },
	{ "5, 6, both needed", { { 5, 0, 0 }, { 6, 1, 0 } }, 5, 6 },
	{ "5, 6, tail of 6 is itself", { { 5, 0, 0 }, { 6, 1, 1 } }, 6, 6 },
	{ "5, 6, 7, tail at 6", { { 5, 0, 0, true }, { 6, 2, 0 }, { 7, 3, 2 } }, 6, 7 },
	{ "gap in the numbers", { { 5, 0, 0 }, { 7, 1, 1 } }, 7, 7 },
	{ "gap in the numbers, tail across it", { { 5, 0, 0 }, { 7, 1, 0 } }, 5, 5 },
	{ "gap in space", { { 5, 0, 0 }, { 6, 2, 2 } }, 6, 6 },
	{ "older run behind the newer", { { 9, 0, 0 }, { 3, 1, 1 }, { 4, 2, 1 } }, 9, 9 },
	{ "newer run behind the older", { { 3, 0, 0 }, { 4, 1, 0 }, { 8, 2, 2 }, { 9, 3, 2 } }, 8, 9 },
	{ "newer head, but its tail is gone", { { 3, 0, 0 }, { 8, 2, 1 }, { 9, 3, 1 } }, 3, 3 },
	{ "long old run against a newer short one", { { 3, 0, 0 }, { 4, 1, 0 }, { 5, 2, 0 }, { 6, 10, 10 } }, 6, 6 },
	{ "newer head begins with an older first",
	  { { 2, 0, 0 }, { 3, 1, 0 }, { 4, 2, 0 }, { 5, 3, 0 }, { 3, 10, 10 } },
	  2,
	  5 },
	{ "5 wraps, 6 follows, tails at 5", { { 5, 255, 255, true }, { 6, 1, 255 } }, 5, 6 },
	{ "5 ends at the end, 6 at 0", { { 5, 254, 254, true }, { 6, 0, 254 } }, 5, 6 },
	{ "wrapped run against an older one at 0",
	  { { 7, 254, 254 }, { 8, 255, 254 }, { 9, 0, 254 }, { 5, 1, 1 }, { 6, 2, 1 } },
	  7,
	  9 },
};

static void active_sequence(void **state)
{
	const struct sequence *c = *state;
	struct vhdx_log_sequence seq;

	memset(ring, 0, sizeof(ring));
	for (const struct piece *p = c->piece; p->sequence; p++) {
		uint32_t length;

		log_start(&builder, p->sequence, p->tail * 4096, SP_MIB(4), SP_MIB(4));
		if (p->data)
			log_data(&builder, SP_MIB(3), page_other);
		length = log_finish(&builder);
		if (p->torn)
			memset(builder.bytes + length - 512, 0x5a, 500);
		ring_put(ring, RING, p->at * 4096, builder.bytes, length);
	}
	must(vhdx_log_scan(ring, RING, &log_guid, &seq, NULL));
	assert_int_equal(seq.count, c->first ? c->last - c->first + 1 : 0);
	for (unsigned i = 0; i < seq.count; i++)
		assert_int_equal(seq.entry[i].sequence, c->first + i);
	sp_free(seq.entry);
}

/* Every sector claims to be an entry: the scan must stay linear. */
static void hostile_ring(void **state)
{
	struct vhdx_log_sequence seq;
	uint32_t at = 0;

	for (uint32_t i = 0; i < RING / 4096; i++) {	/* valid entries with tails that point to nothing */
		log_start(&builder, i + 1, (at + 8192) % RING, 0, 0);
		at = ring_put(ring, RING, at, builder.bytes, log_finish(&builder));
	}
	must(vhdx_log_scan(ring, RING, &log_guid, &seq, NULL));
	assert_int_equal(seq.count, 255);	/* the head's tail wraps to the second entry */
	sp_free(seq.entry);
	assert_int_equal(vhdx_log_scan(ring, 0, &log_guid, &seq, NULL), -EBADMSG);
	assert_int_equal(vhdx_log_scan(ring, 1000, &log_guid, &seq, NULL), -EBADMSG);
}

static void whole_ring_entry(void **state)
{
	struct vhdx_log_sequence seq;

	log_start(&builder, 1, 0, SP_MIB(4), SP_MIB(4));
	for (unsigned i = 0; i < 254; i++)
		log_data(&builder, SP_MIB(3) + 4096 * i, page_other);
	assert_int_equal(log_finish(&builder), 256 * 4096);	/* 2 descriptor sectors */
	ring_put(ring, RING, 128 * 4096, builder.bytes, RING);
	must(vhdx_log_scan(ring, RING, &log_guid, &seq, NULL));
	assert_int_equal(seq.count, 0);				/* tail 0 is inside the entry, not one */
	put32(builder.bytes + 12, 128 * 4096);
	seal(builder.bytes, RING);
	ring_put(ring, RING, 128 * 4096, builder.bytes, RING);
	must(vhdx_log_scan(ring, RING, &log_guid, &seq, NULL));
	assert_int_equal(seq.count, 1);
	assert_int_equal(seq.entry[0].offset, 128 * 4096);
	sp_free(seq.entry);
}

/* ---- replay --------------------------------------------------------------------------------------- */

static void put_entry(struct store *s, uint32_t sector)
{
	must(store_write(s, builder.bytes, log_finish(&builder), M1_LOG + sector * 4096));
}

static void entry_empty(struct store *s)
{
}

static void entry_bad_crc(struct store *s)
{
	uint32_t length = build_l1();

	builder.bytes[5000] ^= 1;
	must(store_write(s, builder.bytes, length, M1_LOG));
}

static void entry_l1(struct store *s)
{
	must(store_write(s, builder.bytes, build_l1(), M1_LOG));
}

static void entry_l2(struct store *s)
{
	uint8_t old[8192];

	memset(old, 0xee, sizeof(old));
	must(store_write(s, old, sizeof(old), SP_MIB(5) - 4096));
	must(store_write(s, builder.bytes, build_l2(), M1_LOG));
}

static void entry_last_9(struct store *s)
{
	log_start(&builder, 1, 0, SP_MIB(6), SP_MIB(9));
	put_entry(s, 0);
}

static void entry_last_odd(struct store *s)
{
	log_start(&builder, 1, 0, SP_MIB(6), SP_MIB(8) + 512);
	put_entry(s, 0);
}

static void entry_flushed_20(struct store *s)
{
	log_start(&builder, 1, 0, SP_MIB(20), SP_MIB(20));
	put_entry(s, 0);
}

/* Both entries write the same page; 5 also another one. */
static void entries_5_6(struct store *s, uint32_t tail_of_6)
{
	log_start(&builder, 5, 0, SP_MIB(6), SP_MIB(6));
	log_data(&builder, SP_MIB(3), page_other);
	log_data(&builder, SP_MIB(5), page_count);
	put_entry(s, 0);
	log_start(&builder, 6, tail_of_6, SP_MIB(6), SP_MIB(6));
	log_data(&builder, SP_MIB(3), page_bat);
	put_entry(s, 3);
}

static void entries_both(struct store *s)
{
	entries_5_6(s, 0);
}

static void entries_tail_itself(struct store *s)
{
	entries_5_6(s, 3 * 4096);
}

static void entries_6_torn(struct store *s)
{
	uint8_t x = 0x5a;

	entries_5_6(s, 0);
	must(store_write(s, &x, 1, M1_LOG + 4 * 4096 + 600));
}

static void entries_wrapped(struct store *s)
{
	uint32_t length, next;

	memset(ring, 0, sizeof(ring));
	log_start(&builder, 5, 255 * 4096, SP_MIB(6), SP_MIB(6));
	log_data(&builder, SP_MIB(5), page_count);
	length = log_finish(&builder);
	next = ring_put(ring, RING, 255 * 4096, builder.bytes, length);
	log_start(&builder, 6, 255 * 4096, SP_MIB(6), SP_MIB(6));
	log_data(&builder, SP_MIB(3), page_bat);
	length = log_finish(&builder);
	ring_put(ring, RING, next, builder.bytes, length);
	must(store_write(s, ring, RING, M1_LOG));
}

static void entry_127(struct store *s)
{
	log_start(&builder, 1, 0, SP_MIB(6), SP_MIB(6));
	for (unsigned i = 0; i < 127; i++)
		log_data(&builder, SP_MIB(3) + 4096 * i, i == 126 ? page_count : i ? page_other : page_bat);
	assert_int_equal(log_finish(&builder), 129 * 4096);
	must(store_write(s, builder.bytes, 129 * 4096, M1_LOG));
}

static void target(struct store *s, uint64_t offset)
{
	log_start(&builder, 1, 0, SP_MIB(6), SP_MIB(6));
	log_data(&builder, offset, page_other);
	put_entry(s, 0);
}

static void target_header(struct store *s)
{
	target(s, 0x10000);
}

static void target_log(struct store *s)
{
	target(s, M1_LOG + 0x80000);
}

static void target_regions(struct store *s)
{
	uint8_t table[65536];

	make_region_table(table);
	log_start(&builder, 1, 0, SP_MIB(6), SP_MIB(6));
	log_data(&builder, 0x30000, table);
	put_entry(s, 0);
}

static void target_far(struct store *s)
{
	target(s, UINT64_C(1) << 50);
}

static void zero_huge(struct store *s)
{
	log_start(&builder, 1, 0, SP_MIB(6), SP_MIB(6));
	log_zero(&builder, SP_MIB(3), UINT64_C(1) << 60);
	put_entry(s, 0);
}

static void zero_over_log(struct store *s)
{
	log_start(&builder, 1, 0, SP_MIB(6), SP_MIB(6));
	log_zero(&builder, 0x50000, SP_MIB(2));
	put_entry(s, 0);
}

static void last_huge(struct store *s)
{
	log_start(&builder, 1, 0, SP_MIB(6), UINT64_C(1) << 62);
	put_entry(s, 0);
}

/* A zero range over pages, a page over the zero range, and a page past the end. */
static void entry_layers(struct store *s)
{
	uint8_t old[16384];

	memset(old, 0xee, sizeof(old));
	must(store_write(s, old, sizeof(old), SP_MIB(5) - 4096));
	log_start(&builder, 1, 0, SP_MIB(6), SP_MIB(6));
	log_data(&builder, SP_MIB(5), page_other);
	log_data(&builder, SP_MIB(5) + 4096, page_other);
	put_entry(s, 0);
	log_start(&builder, 2, 0, SP_MIB(6), SP_MIB(6));
	log_zero(&builder, SP_MIB(5), 8192);
	log_data(&builder, SP_MIB(5), page_count);
	log_data(&builder, SP_MIB(7) + 4096, page_count);
	log_zero(&builder, SP_MIB(7) + 8192, 4096);
	log_data(&builder, SP_MIB(3), page_bat);
	put_entry(s, 3);
}

static const struct behaviour {
	const char *name;
	void (*prepare)(struct store *s);
	int want;
	uint64_t size_mib;
	const uint8_t *bat;	/* page expected at 3 MiB; NULL: zeros */
	const uint8_t *five;	/* at 5 MiB */
	uint64_t entries;
} behaviours[] = {
	{ "LogGuid set, log empty", entry_empty, -EBADMSG },
	{ "LogGuid set, only entry has bad CRC", entry_bad_crc, -EBADMSG },
	{ "L1", entry_l1, 0, 6, page_bat, NULL, 1 },
	{ "L2", entry_l2, 0, 6, NULL, page_count, 1 },
	{ "LastFileOffset 9 MiB, file 6 MiB", entry_last_9, 0, 9, NULL, NULL, 1 },
	{ "LastFileOffset not in MiB", entry_last_odd, 0, 9, NULL, NULL, 1 },
	{ "FlushedFileOffset 20 MiB, file 6 MiB", entry_flushed_20, -EBADMSG },
	{ "5, 6, both needed", entries_both, 0, 6, page_bat, page_count, 2 },
	{ "5 good, 6 torn", entries_6_torn, 0, 6, page_other, page_count, 1 },
	{ "5, 6, tail of 6 is itself", entries_tail_itself, 0, 6, page_bat, NULL, 1 },
	{ "5 wraps, 6 follows", entries_wrapped, 0, 6, page_bat, page_count, 2 },
	{ "127 data descriptors", entry_127, 0, 6, page_bat, NULL, 1 },
	{ "descriptor targets header 1", target_header, -EBADMSG },
	{ "descriptor targets the log", target_log, -EBADMSG },
	{ "descriptor targets region table 1", target_regions, 0, 6, NULL, NULL, 1 },
	{ "descriptor targets 1 PiB", target_far, -EBADMSG },
	{ "zero descriptor of 2^60 bytes", zero_huge, -EBADMSG },
	{ "zero descriptor across the log", zero_over_log, -EBADMSG },
	{ "LastFileOffset 2^62", last_huge, -EBADMSG },
	{ "layers", entry_layers, 0, 8, page_bat, page_count, 2 },
};

static void expect_page(struct store *s, uint64_t offset, const uint8_t *page)
{
	static const uint8_t zeros[4096];
	uint8_t got[4096];

	must(store_read(s, got, sizeof(got), offset));
	assert_memory_equal(got, page ? page : zeros, sizeof(got));
}

/* What both ways of replay must show. */
static void expect_replayed(const struct behaviour *c, struct store *s)
{
	uint64_t size;

	must(store_size(s, &size));
	assert_int_equal(size, SP_MIB(c->size_mib));
	expect_page(s, SP_MIB(3), c->bat);
	expect_page(s, SP_MIB(5), c->five);
	if (c->prepare == entry_l2)
		expect_page(s, SP_MIB(5) - 4096, NULL);
	if (c->prepare == entry_127)
		expect_page(s, SP_MIB(3) + 126 * 4096, page_count);
	if (c->prepare == entry_layers) {
		expect_page(s, SP_MIB(5) + 4096, NULL);
		expect_page(s, SP_MIB(7), NULL);
		expect_page(s, SP_MIB(7) + 4096, page_count);
	}
}

static struct store *dirty_image(const struct behaviour *c)
{
	struct store *s = make_m1(SP_MIB(6));

	set_log_guid(s, 0x11);
	c->prepare(s);
	return s;
}

static int replay(struct vhd_image *img, struct vhdx *x)
{
	struct sp_err err = { 0 };
	int r;

	img->state = x;
	x->img = img;
	must(store_size(img->store, &x->file_size));
	must(vhdx_header_read_current(img->store, x->file_size, &x->header, &x->header_slot, NULL));
	r = vhdx_replay(x, &err);
	assert_int_equal(err.code, r);
	return r;
}

static char image_name[] = "m1";

static void replay_in_place(void **state)
{
	const struct behaviour *c = *state;
	struct vhd_image img = { .store = dirty_image(c), .name = image_name, .flags = VHD_IMG_WRITABLE };
	struct vhdx x = { 0 };
	struct vhdx_header h;
	uint8_t before[4096], after[4096];
	unsigned slot;

	must(store_read(img.store, before, sizeof(before), 0x20000));
	assert_int_equal(replay(&img, &x), c->want);
	if (c->want == 0) {
		expect_replayed(c, img.store);
		assert_int_equal(x.file_size, SP_MIB(c->size_mib));
		assert_int_equal(x.replayed_entries, c->entries);
		assert_true(x.file_guid_changed);
		must(vhdx_header_read_current(img.store, x.file_size, &h, &slot, NULL));
		assert_true(sp_guid_is_zero(&h.log_guid));
		assert_int_equal(h.data_write_guid.b[0], 2);	/* children still know it */
		assert_false(h.file_write_guid.b[0] == 1 && h.file_write_guid.b[1] == 1);
	} else {
		must(store_read(img.store, after, sizeof(after), 0x20000));
		assert_memory_equal(before, after, sizeof(before));	/* refused means untouched */
	}
	store_close(img.store);
}

static void replay_in_memory(void **state)
{
	const struct behaviour *c = *state;
	struct store *file = dirty_image(c);
	struct vhd_image img = { .store = file, .name = image_name };
	static uint8_t before[6 << 20], after[6 << 20];
	struct vhdx x = { 0 };
	uint64_t size;

	must(store_read(file, before, sizeof(before), 0));
	assert_int_equal(replay(&img, &x), c->want);
	must(store_size(file, &size));
	assert_int_equal(size, sizeof(before));
	must(store_read(file, after, sizeof(after), 0));
	assert_memory_equal(before, after, sizeof(before));
	if (c->want == 0) {
		assert_ptr_not_equal(img.store, file);
		expect_replayed(c, img.store);
		assert_int_equal(x.file_size, SP_MIB(c->size_mib));
		assert_int_equal(x.replayed_entries, c->entries);
	} else {
		assert_ptr_equal(img.store, file);
	}
	store_close(img.store);
}

static void clean_log_is_left_alone(void **state)
{
	struct vhd_image img = { .store = make_m1(SP_MIB(6)), .name = image_name, .flags = VHD_IMG_WRITABLE };
	struct vhdx x = { 0 };

	must(store_write(img.store, builder.bytes, build_l1(), M1_LOG));	/* well-formed, but LogGuid is zero */
	must(replay(&img, &x));
	expect_page(img.store, SP_MIB(3), NULL);
	assert_int_equal(x.replayed_entries, 0);
	store_close(img.store);
}

/* ---- barriers ------------------------------------------------------------------------------------ */

static struct store_ops real;
static char trace[64];

static int tracing_writev(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	trace_note(trace, offset == 0x10000 || offset == 0x20000 ? 'h' : 'p');
	return real.writev(s, iov, iovcnt, offset);
}

static int tracing_sync(struct store *s)
{
	trace_note(trace, 's');
	return real.sync(s);
}

/* New FileWriteGuid in both headers, then the pages, and LogGuid goes only when those are safe. */
static void replay_order(void **state)
{
	struct vhd_image img = { .store = make_m1(SP_MIB(6)), .name = image_name, .flags = VHD_IMG_WRITABLE };
	struct store_ops ops = real = *img.store->ops;
	struct vhdx x = { 0 };

	set_log_guid(img.store, 0x11);
	entries_both(img.store);
	ops.writev = tracing_writev;
	ops.sync = tracing_sync;
	img.store->ops = &ops;
	must(replay(&img, &x));
	assert_string_equal(trace, "hshs" "pp" "s" "hshs");
	store_close(img.store);
}

/* ---- the overlay as a store ---------------------------------------------------------------------- */

static void overlay_as_store(void **state)
{
	struct store *base, *o;
	struct vhdx_extent *x = sp_calloc(3, sizeof(*x));
	struct vhdx_plan plan = { .extent = x, .count = 3, .file_size = SP_MIB(2) };
	uint8_t *pages = sp_alloc(4096), buf[12288];
	struct iovec iov[3] = { { buf, 100 }, { buf + 100, 8000 }, { buf + 8100, 4188 } };
	uint64_t at;

	memcpy(pages, page_count, 4096);
	plan.pages = pages;
	x[0] = (struct vhdx_extent){ 8192, 4096, pages };
	x[1] = (struct vhdx_extent){ 12288, 8192, NULL };
	x[2] = (struct vhdx_extent){ SP_MIB(1) + 4096, 4096, pages };
	must(store_mem_new("base", SP_MIB(1), 0, &base));
	memset(buf, 0xee, sizeof(buf));
	must(store_write(base, buf, 12288, 4096));
	must(vhdx_overlay_new(base, true, &plan, &o));
	assert_null(plan.extent);

	must(store_readv(o, iov, 3, 8192 - 50));
	for (unsigned i = 0; i < 50; i++)
		assert_int_equal(buf[i], 0xee);
	assert_memory_equal(buf + 50, page_count, 4096);
	for (unsigned i = 50 + 4096; i < 12288; i++)
		assert_int_equal(buf[i], 0);
	must(store_read(o, buf, 8192, SP_MIB(1)));	/* past the end of the base */
	assert_int_equal(buf[0], 0);
	assert_memory_equal(buf + 4096, page_count, 4096);
	assert_int_equal(store_read(o, buf, 2, SP_MIB(2) - 1), -ENODATA);
	assert_int_equal(store_write(o, buf, 1, 0), -EROFS);
	assert_int_equal(o->ops->fd(o), -1);
	must(store_seek_data(o, 0, &at));
	assert_int_equal(at, 4096);
	must(store_seek_data(o, SP_MIB(1), &at));
	assert_int_equal(at, SP_MIB(1) + 4096);
	must(store_seek_data(o, SP_MIB(1) + 9000, &at));
	assert_int_equal(at, SP_MIB(2));
	must(store_seek_hole(o, 0, &at));
	assert_int_equal(at, SP_MIB(2));
	store_close(o);
}

/* ---- memory runs out ----------------------------------------------------------------------------- */

static int fails_when_zero(void *arg)
{
	return (*(int *)arg)-- == 0;
}

static void every_allocation_may_fail(void **state)
{
	const struct behaviour layers = { .prepare = entry_layers };
	int r = -ENOMEM;

	for (int k = 0; r == -ENOMEM; k++) {
		struct vhd_image img = { .store = dirty_image(&layers), .name = image_name };
		struct vhdx x = { .img = &img };
		int left = k;

		must(store_size(img.store, &x.file_size));
		must(vhdx_header_read_current(img.store, x.file_size, &x.header, &x.header_slot, NULL));
		sp_alloc_set_fault(fails_when_zero, &left);
		r = vhdx_replay(&x, NULL);
		sp_alloc_set_fault(NULL, NULL);
		store_close(img.store);
		assert_true(k < 100);
	}
	assert_int_equal(r, 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(hostile_ring),
		cmocka_unit_test(whole_ring_entry),
		cmocka_unit_test(clean_log_is_left_alone),
		cmocka_unit_test(replay_order),
		cmocka_unit_test(overlay_as_store),
		cmocka_unit_test(every_allocation_may_fail),
	};
	int failed;

	fill_pages(NULL);
	failed = cmocka_run_group_tests_name("log", tests, NULL, NULL);
	failed += ROWS_RUN(vectors, scan_vector);
	failed += ROWS_RUN(rows, entry_valid);
	failed += ROWS_RUN(sequences, active_sequence);
	failed += ROWS_RUN(behaviours, replay_in_place);
	failed += ROWS_RUN(behaviours, replay_in_memory);
	return failed != 0;
}
