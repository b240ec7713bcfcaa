/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Block allocation table. vhd-formats.md 1.10, checks V9 to V11.
 *
 * A reader asks for the pages it needs and judges each entry when it meets it. A writer must know all blocks before it
 * may put a new one anywhere: it reads the whole table at open and refuses when two blocks share a byte.
 */
#include "vhd/vhd1_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/seed.h"

#define CHUNK_ENTRIES (256u * 1024)

static int read_page(struct vhd1 *v, uint32_t page, struct vhd1_page **ret_page)
{
	uint64_t from = (uint64_t)page * v->bat_pages.page_size;
	uint64_t len = sp_min(v->bat_pages.page_size, vhd1_bat_bytes(&v->shape) - from);
	struct vhd1_page *p = vhd1_cache_find(&v->bat_pages, page);
	int r;

	if (!p) {
		v->bat_last = NULL;	/* adding may evict it */
		p = vhd1_cache_add(&v->bat_pages, page);
		if (!p)
			return -ENOMEM;
		r = store_read(v->img->store, p->bytes, (size_t)len, v->shape.bat_offset + from);
		if (r < 0) {
			vhd1_cache_drop(&v->bat_pages, page);
			return r;
		}
	}
	v->bat_last = p;
	*ret_page = p;
	return 0;
}

int vhd1_bat_get(struct vhd1 *v, uint32_t block, uint32_t *ret_slot)
{
	uint32_t per_page = v->bat_pages.page_size / 4;
	struct vhd1_page *p = v->bat_last;
	be32_t entry;
	uint32_t slot;
	int r;

	if (v->bat) {
		*ret_slot = v->bat[block];
		return 0;
	}
	if (!p || p->key != block / per_page) {
		r = read_page(v, block / per_page, &p);
		if (r < 0)
			return r;
	}
	memcpy(&entry, p->bytes + (size_t)(block % per_page) * 4, sizeof(entry));
	slot = be32_get(entry);
	if (slot != VHD1_UNUSED) {
		r = vhd1_slot_validate(&v->shape, &v->extents, v->block_limit, block, slot, NULL);
		if (r < 0)
			return r;
	}
	*ret_slot = slot;
	return 0;
}

void vhd1_bat_set(struct vhd1 *v, uint32_t block, uint32_t slot)
{
	uint32_t sector = block / VHD1_BAT_PER_SECTOR;

	v->allocated += (slot != VHD1_UNUSED) - (v->bat[block] != VHD1_UNUSED);
	v->bat[block] = slot;
	if (sp_bit_get(v->bat_dirty, sector, false))
		return;
	sp_bits_set(v->bat_dirty, sector, 1, false);
	v->bat_dirty_sectors++;
}

/* ---- the whole table ----------------------------------------------------------------------------- */

int vhd1_bat_resize(struct vhd1 *v, uint32_t blocks)
{
	uint64_t room = sp_align_up(blocks, VHD1_BAT_PER_SECTOR);
	uint64_t map = sp_div_ceil(room / VHD1_BAT_PER_SECTOR, 8),
		 old_map = sp_div_ceil(v->bat_room / VHD1_BAT_PER_SECTOR, 8);
	uint64_t full = sp_div_ceil(room, 8), old_full = sp_div_ceil(v->bat_room, 8);
	uint32_t *bat;
	uint8_t *bits;

	if (room <= v->bat_room)
		return 0;
	bat = sp_realloc(v->bat, (size_t)room * sizeof(*bat));
	if (!bat)
		return -ENOMEM;
	v->bat = bat;
	bits = sp_realloc(v->bat_dirty, (size_t)map);
	if (!bits)
		return -ENOMEM;
	v->bat_dirty = bits;
	bits = sp_realloc(v->full, (size_t)full);
	if (!bits)
		return -ENOMEM;
	v->full = bits;
	memset(v->bat_dirty + old_map, 0, (size_t)(map - old_map));
	memset(v->full + old_full, 0, (size_t)(full - old_full));
	memset(v->bat + v->bat_room, 0xff, (size_t)(room - v->bat_room) * sizeof(*bat));
	v->bat_room = (uint32_t)room;
	return 0;
}

static int read_table(struct vhd1 *v)
{
	/* What stands behind the last entry in its sector is kept as it is when the sector is rewritten. */
	uint64_t want = sp_min(v->bat_room, vhd1_bat_bytes(&v->shape) / 4);
	size_t chunk = (size_t)sp_min(want, CHUNK_ENTRIES);
	be32_t *raw = sp_alloc(chunk * sizeof(*raw));
	int r = raw ? 0 : -ENOMEM;

	for (uint64_t i = 0; r == 0 && i < want; i += chunk) {
		size_t n = (size_t)sp_min(chunk, want - i);

		r = store_read(v->img->store, raw, n * sizeof(*raw), v->shape.bat_offset + i * 4);
		for (size_t k = 0; r == 0 && k < n; k++)
			v->bat[i + k] = be32_get(raw[k]);
	}
	sp_free(raw);
	return r;
}

static int by_slot(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Allocated blocks as slot << 32 | block, in the order of the file. */
static int sort_slots(const struct vhd1 *v, uint64_t **ret_slots)
{
	uint64_t *slots = sp_alloc((size_t)v->allocated * sizeof(*slots) + 1);
	uint32_t n = 0;

	if (!slots)
		return -ENOMEM;
	for (uint32_t b = 0; b < v->shape.blocks; b++)
		if (v->bat[b] != VHD1_UNUSED)
			slots[n++] = (uint64_t)v->bat[b] << 32 | b;
	qsort(slots, n, sizeof(*slots), by_slot);
	*ret_slots = slots;
	return 0;
}

static int refuse_overlaps(const struct vhd1 *v, struct sp_err *err)
{
	uint64_t len = vhd1_slot_bytes(&v->shape);
	uint64_t *slots;
	int r = sort_slots(v, &slots);

	if (r < 0)
		return sp_err_set(err, r, "out of memory");
	for (uint32_t i = 1; i < v->allocated && r == 0; i++) {
		uint64_t a = (slots[i - 1] >> 32) * VHD1_SECTOR, b = (slots[i] >> 32) * VHD1_SECTOR;

		if (b - a < len)
			r = sp_err_set(err, -EBADMSG,
				       "blocks %" PRIu32 " (at %" PRIu64 ") and %" PRIu32 " (at %" PRIu64
				       ") of %" PRIu64
				       " bytes each overlap; refusing to write, read-only access is possible",
				       (uint32_t)slots[i - 1], a, (uint32_t)slots[i], b, len);
	}
	sp_free(slots);
	return r;
}

/* A reader leaves such a structure out. When the file has grown over it, it would count, and lie over blocks. */
static int refuse_beyond(const struct vhd1 *v, struct sp_err *err)
{
	const struct vhd1_extent *e = &v->extents.beyond;

	if (e->len == 0 || SP_SEED_BUG(VHD_GROW_OVER_LOCATOR))
		return 0;
	return sp_err_set(err, -EBADMSG,
			  "%s (%" PRIu64 " bytes at %" PRIu64 ") reaches past the end of the file, where blocks would "
			  "come to lie; open read-only, or convert to a new file",
			  e->name, e->len, e->offset);
}

int vhd1_bat_load(struct vhd1 *v, struct sp_err *err)
{
	int r;

	if (v->shape.blocks > VHD1_FULL_MAP_BLOCKS)
		return sp_err_set(err, -ENOTSUP, "%" PRIu32 " blocks of %" PRIu32 " bytes are too many to write to",
				  v->shape.blocks, v->shape.block_size);
	r = vhd1_extents_disjoint(&v->extents, err);
	if (r == 0)
		r = refuse_beyond(v, err);
	if (r < 0)
		return r;
	r = vhd1_bat_resize(v, v->shape.blocks);
	if (r == 0)
		r = read_table(v);
	if (r < 0)
		return sp_err_set(err, r, "cannot read the BAT at %" PRIu64 ": %s", v->shape.bat_offset, strerror(-r));
	for (uint32_t b = 0; b < v->shape.blocks; b++) {
		if (v->bat[b] == VHD1_UNUSED)
			continue;
		v->allocated++;
		r = vhd1_slot_validate(&v->shape, &v->extents, v->block_limit, b, v->bat[b], err);
		if (r < 0)
			return r;
	}
	return refuse_overlaps(v, err);
}

uint64_t vhd1_used_end(const struct vhd1 *v)
{
	uint64_t end = v->extents.end;

	for (uint32_t b = 0; b < v->shape.blocks; b++)
		if (v->bat[b] != VHD1_UNUSED)
			end = sp_max(end, (uint64_t)v->bat[b] * VHD1_SECTOR + vhd1_slot_bytes(&v->shape));
	return end;
}
