/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sector bitmaps of blocks: most significant bit first, in front of the block's data. vhd-formats.md 1.11.
 *
 * Most blocks have all their sectors. One bit per block remembers that, and no bitmap is kept for them.
 */
#include "vhd/vhd1_int.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/seed.h"

#define MSB_FIRST (!SP_SEED_BUG(VHD_BIT_ORDER))

bool vhd1_block_full(const struct vhd1 *v, uint32_t block)
{
	return v->full && sp_bit_get(v->full, block, false);
}

void vhd1_block_set_full(struct vhd1 *v, uint32_t block, bool full)
{
	if (!v->full)
		return;
	if (full)
		sp_bits_set(v->full, block, 1, false);
	else
		sp_bits_clear(v->full, block, 1, false);
}

/* Bits past the end of the disk mean nothing. */
static void note_if_full(struct vhd1 *v, uint32_t block, const struct vhd1_page *p)
{
	uint32_t sectors = vhd1_block_sectors(&v->shape, block);

	if (sp_bit_get(p->bytes, 0, MSB_FIRST) && sp_bits_run(p->bytes, 0, sectors, MSB_FIRST) == sectors)
		vhd1_block_set_full(v, block, true);
}

int vhd1_bitmap_get(struct vhd1 *v, uint32_t block, uint32_t slot, struct vhd1_page **ret_page)
{
	struct vhd1_page *p = vhd1_cache_find(&v->bitmaps, block);
	int r;

	if (!p) {
		p = vhd1_cache_add(&v->bitmaps, block);
		if (!p)
			return -ENOMEM;
		r = store_read(v->img->store, p->bytes, v->bitmaps.page_size, (uint64_t)slot * VHD1_SECTOR);
		if (r < 0) {
			vhd1_cache_drop(&v->bitmaps, block);
			return r;
		}
		note_if_full(v, block, p);
	}
	*ret_page = p;
	return 0;
}

int vhd1_bitmap_run(struct vhd1 *v, uint32_t block, uint32_t slot, uint32_t from, uint32_t limit, bool *ret_present,
		    uint32_t *ret_run)
{
	struct vhd1_page *p;
	int r;

	*ret_present = true;
	*ret_run = limit - from;
	if (vhd1_block_full(v, block))
		return 0;
	r = vhd1_bitmap_get(v, block, slot, &p);
	if (r < 0)
		return r;
	*ret_present = sp_bit_get(p->bytes, from, MSB_FIRST);
	*ret_run = (uint32_t)sp_bits_run(p->bytes, from, limit, MSB_FIRST);
	/* Needed no more: the bit in v->full answers from now on. */
	if (vhd1_block_full(v, block) && p->dirty_from == p->dirty_to && p->written_by <= v->bitmaps.settled)
		vhd1_cache_drop(&v->bitmaps, block);
	return 0;
}

int vhd1_bitmap_set(struct vhd1 *v, uint32_t block, uint32_t slot, uint32_t from, uint32_t count)
{
	struct vhd1_page *p;
	uint32_t first, end;
	int r;

	if (vhd1_block_full(v, block))
		return 0;
	r = vhd1_bitmap_get(v, block, slot, &p);
	if (r < 0)
		return r;
	if (sp_bit_get(p->bytes, from, MSB_FIRST) &&
	    sp_bits_run(p->bytes, from, (uint64_t)from + count, MSB_FIRST) == count)
		return 0;
	sp_bits_set(p->bytes, from, count, MSB_FIRST);
	first = from / (VHD1_SECTOR * 8) * VHD1_SECTOR;
	end = ((from + count - 1) / (VHD1_SECTOR * 8) + 1) * VHD1_SECTOR;
	vhd1_cache_mark(&v->bitmaps, p, first, end);
	v->barrier = true;	/* a bit must not reach the disk before the data it speaks of */
	note_if_full(v, block, p);
	return 0;
}

int vhd1_bitmap_init(struct vhd1 *v, uint32_t slot, bool ones)
{
	uint8_t *bytes = sp_alloc(v->bitmaps.page_size);
	int r;

	if (!bytes)
		return -ENOMEM;
	memset(bytes, ones ? 0xff : 0, v->bitmaps.page_size);
	r = store_write(v->img->store, bytes, v->bitmaps.page_size, (uint64_t)slot * VHD1_SECTOR);
	sp_free(bytes);
	return r;
}
