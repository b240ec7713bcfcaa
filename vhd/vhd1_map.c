/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where a range lives.
 *
 *			block has no space	bit 0		bit 1
 *	dynamic		zeros			zeros		data
 *	differencing	parent			parent		data
 *
 * Under a 0 bit of a dynamic image the data area holds zeros anyway, in a sound image; answering "zeros" also hides
 * what a damaged one has there.
 */
#include "vhd/vhd1_int.h"

#include "base/bytes.h"

#define BLOCKS_PER_CALL (1u << 20)	/* bounds the time of one call over huge empty stretches */
#define BITMAPS_PER_CALL 256u

static bool may_write(const struct vhd1 *v)
{
	return v->begun && v->failed == 0;
}

/* State of [offset, offset+len), which lies in one block; ret->len may come back shorter. */
static int map_in_block(struct vhd1 *v, uint64_t offset, uint64_t len, struct vhd_place *ret, bool *ret_loaded)
{
	const struct vhd1_shape *g = &v->shape;
	uint32_t block = (uint32_t)(offset >> g->block_shift);
	uint32_t in_block = (uint32_t)(offset & (g->block_size - 1));
	uint32_t first = in_block / VHD1_SECTOR, limit = (uint32_t)sp_div_ceil(in_block + len, VHD1_SECTOR);
	uint32_t slot, run;
	bool present;
	int r;

	*ret = (struct vhd_place){ .where = v->differencing ? VHD_WHERE_PARENT : VHD_WHERE_ZERO, .len = len };
	*ret_loaded = false;
	r = vhd1_bat_get(v, block, &slot);
	if (r < 0 || slot == VHD1_UNUSED)
		return r;
	*ret_loaded = true;
	r = vhd1_bitmap_run(v, block, slot, first, limit, &present, &run);
	if (r < 0)
		return r;
	ret->len = sp_min(len, ((uint64_t)first + run) * VHD1_SECTOR - in_block);
	if (present) {
		ret->where = VHD_WHERE_DATA;
		ret->file_offset = vhd1_data_offset(g, slot) + in_block;
		ret->direct_write = may_write(v);
	}
	return 0;
}

/* A reader is told of holes in the host file, which saves it reading zeros; under writes they come and go. */
static int map_fixed(struct vhd1 *v, uint64_t offset, uint64_t len, struct vhd_place *ret)
{
	struct store *s = v->img->store;
	uint64_t data, hole;
	int r;

	*ret = (struct vhd_place){ .where = VHD_WHERE_DATA, .len = len, .file_offset = offset,
				   .direct_write = may_write(v) };
	if (v->img->flags & VHD_IMG_WRITABLE)
		return 0;
	r = store_seek_data(s, offset, &data);
	if (r < 0)
		return r;
	if (data > offset) {
		ret->where = VHD_WHERE_ZERO;
		ret->len = sp_min(len, data - offset);
		return 0;
	}
	r = store_seek_hole(s, offset, &hole);
	if (r == 0 && hole > offset)
		ret->len = sp_min(len, hole - offset);
	return r;
}

int vhd1_map(struct vhd_image *img, uint64_t offset, uint64_t len, struct vhd_place *ret_place)
{
	struct vhd1 *v = vhd1_of(img);
	uint32_t bitmaps = 0;
	bool loaded;
	int r;

	if (!v->sparse)
		return map_fixed(v, offset, len, ret_place);
	for (uint32_t i = 0; i < BLOCKS_PER_CALL && bitmaps < BITMAPS_PER_CALL; i++) {
		uint64_t done = i == 0 ? 0 : ret_place->len;
		uint64_t block_end = (((offset + done) >> v->shape.block_shift) + 1) << v->shape.block_shift;
		uint64_t want = sp_min(len - done, block_end - (offset + done));
		struct vhd_place p;

		r = map_in_block(v, offset + done, want, &p, &loaded);
		if (r < 0)		/* what came before the damage is still good */
			return i == 0 ? r : 0;
		bitmaps += loaded;
		if (i == 0)
			*ret_place = p;
		else if (p.where == ret_place->where)
			ret_place->len += p.len;
		else
			return 0;
		if (p.len < want || ret_place->len == len || ret_place->where == VHD_WHERE_DATA)
			return 0;
	}
	return 0;
}
