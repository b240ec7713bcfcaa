/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Flush: dirty BAT sectors and bitmap sectors, copied under the lock and written without it.
 *
 *	[barrier] -> bitmaps and BAT, in any order among themselves -> barrier
 *
 * The first barrier is needed when metadata would make visible what must have been written before: payload under new
 * bits, the zeroed bitmap of a differencing block, zeros in recycled space. New blocks of a dynamic image in new room
 * need none: until all of it is on disk a reader finds zeros, as before. Bitmaps and BAT need no order: a BAT entry
 * without the new bits shows the parent, bits without the entry show nothing.
 */
#include "vhd/vhd1_int.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/seed.h"

struct piece {
	uint64_t offset;
	size_t at, len;		/* in bytes[] of the batch */
};

struct vhd_flush {
	uint64_t generation;
	bool barrier;
	size_t pieces, used;
	struct piece *piece;
	uint8_t *bytes;
};

bool vhd1_dirty(struct vhd_image *img)
{
	struct vhd1 *v = vhd1_of(img);

	return v->bat_dirty_sectors > 0 || v->bitmaps.dirty;
}

static void batch_free(struct vhd_flush *b)
{
	if (!b)
		return;
	sp_free(b->piece);
	sp_free(b->bytes);
	sp_free(b);
}

static struct vhd_flush *batch_new(const struct vhd1 *v)
{
	struct vhd_flush *b = sp_zalloc(sizeof(*b));
	size_t pieces = v->bat_dirty_sectors, bytes = (size_t)v->bat_dirty_sectors * VHD1_SECTOR;

	for (const struct vhd1_page *p = v->bitmaps.dirty; p; p = p->dirty_next) {
		pieces++;
		bytes += p->dirty_to - p->dirty_from;
	}
	if (!b)
		return NULL;
	b->piece = sp_calloc(pieces, sizeof(*b->piece));
	b->bytes = sp_alloc(bytes);
	if (!b->piece || !b->bytes) {
		batch_free(b);
		return NULL;
	}
	return b;
}

static uint8_t *batch_add(struct vhd_flush *b, uint64_t offset, size_t len)
{
	uint8_t *bytes = b->bytes + b->used;

	b->piece[b->pieces++] = (struct piece){ offset, b->used, len };
	b->used += len;
	return bytes;
}

static void collect_bitmaps(struct vhd1 *v, struct vhd_flush *b)
{
	struct vhd1_page *p;

	while ((p = v->bitmaps.dirty)) {
		uint64_t at = (uint64_t)v->bat[p->key] * VHD1_SECTOR + p->dirty_from;
		size_t len = p->dirty_to - p->dirty_from;

		memcpy(batch_add(b, at, len), p->bytes + p->dirty_from, len);
		vhd1_cache_clean(&v->bitmaps, p, b->generation);
	}
}

/* Neighbouring dirty sectors go out in one piece. */
static void collect_bat(struct vhd1 *v, struct vhd_flush *b)
{
	uint64_t sectors = v->bat_room / VHD1_BAT_PER_SECTOR;

	for (uint64_t s = 0, n; s < sectors && v->bat_dirty_sectors > 0; s += n) {
		bool is_dirty = sp_bit_get(v->bat_dirty, s, false);
		const uint32_t *entry = v->bat + s * VHD1_BAT_PER_SECTOR;
		uint8_t *out;

		n = sp_bits_run(v->bat_dirty, s, sectors, false);
		if (!is_dirty)
			continue;
		out = batch_add(b, v->shape.bat_offset + s * VHD1_SECTOR, (size_t)n * VHD1_SECTOR);
		for (uint64_t i = 0; i < n * VHD1_BAT_PER_SECTOR; i++) {
			be32_t raw = be32_make(entry[i]);

			memcpy(out + i * 4, &raw, sizeof(raw));
		}
		sp_bits_clear(v->bat_dirty, s, n, false);
		v->bat_dirty_sectors -= (uint32_t)n;
	}
}

int vhd1_flush_begin(struct vhd_image *img, struct vhd_flush **ret_batch)
{
	struct vhd1 *v = vhd1_of(img);
	struct vhd_flush *b;

	*ret_batch = NULL;
	if (v->failed < 0)
		return v->failed;
	if (!vhd1_dirty(img))
		return 0;
	b = batch_new(v);
	if (!b)
		return -ENOMEM;
	b->generation = v->generation++;
	b->barrier = v->barrier;
	v->barrier = false;
	collect_bitmaps(v, b);
	collect_bat(v, b);
	*ret_batch = b;
	return 0;
}

int vhd1_flush_write(struct vhd_image *img, struct vhd_flush *b)
{
	struct store *s = img->store;
	int r = 0;

	if (b->barrier && !SP_SEED_BUG(VHD_BITMAP_BEFORE_DATA))
		r = store_sync(s);
	for (size_t i = 0; i < b->pieces && r == 0; i++)
		r = store_write(s, b->bytes + b->piece[i].at, b->piece[i].len, b->piece[i].offset);
	return r < 0 ? r : store_sync(s);
}

void vhd1_flush_end(struct vhd_image *img, struct vhd_flush *b, int result)
{
	struct vhd1 *v = vhd1_of(img);

	if (result < 0)
		v->failed = result;
	else
		v->durable = v->bitmaps.settled = b->generation;
	batch_free(b);
}

int vhd1_flush_all(struct vhd1 *v)
{
	struct vhd_flush *b;
	int r = vhd1_flush_begin(v->img, &b);

	if (r < 0)
		return r;
	if (!b)
		return store_sync(v->img->store);
	r = vhd1_flush_write(v->img, b);
	vhd1_flush_end(v->img, b, r);
	return r;
}
