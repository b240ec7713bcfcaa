/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Growing, and the identity that children compare with. vhd-formats.md 1.14.
 *
 * Whatever a size uncovers is made to read zeros first; the footers follow, copy before end, since the end footer is
 * the authority: until it is on disk the disk has its old size.
 */
#include "vhd/vhd1_int.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"

/* ---- fixed --------------------------------------------------------------------------------------- */

/*
 * The new footer goes behind the new end, or stays when the file has slack enough. It must not overlap the old one,
 * which counts until the new one is durable.
 */
static uint64_t fixed_footer_place(uint64_t old_footer, uint64_t size)
{
	uint64_t behind = old_footer + VHD1_SECTOR;

	if (size <= old_footer)
		return old_footer;
	return size >= behind ? size : sp_align_up(behind, VHD1_SECTOR);
}

static int grow_fixed(struct vhd1 *v, uint64_t size)
{
	struct store *s = v->img->store;
	uint64_t old_size = v->img->size, old_footer = v->footer_offset, at = fixed_footer_place(old_footer, size);
	uint64_t uncovered = sp_min(size, at == old_footer ? old_footer : old_footer + VHD1_SECTOR) - old_size;
	int r = 0;

	if (s->is_device && at != old_footer)
		return -ENOSPC;
	vhd1_footer_set_size(&v->footer, size);
	vhd1_footer_seal(&v->footer);
	if (at == old_footer) {		/* slack becomes data: zeros before the size that shows it */
		r = store_zero(s, old_size, uncovered);
		if (r == 0)
			r = store_sync(s);
		v->footer_offset = at;
		return r < 0 ? r : vhd1_footers_write(v);
	}
	v->footer_offset = at;
	r = vhd1_footers_write(v);
	if (r == 0)			/* the old footer is guest data now */
		r = store_zero(s, old_size, uncovered);
	return r < 0 ? r : store_sync(s);
}

/* ---- dynamic and differencing -------------------------------------------------------------------- */

/* What the last block of the old size has behind the old end was nobody's: it may be anything. */
static int uncover_last_block(struct vhd1 *v, uint64_t old_size)
{
	const struct vhd1_shape *g = &v->shape;
	uint32_t block = (uint32_t)(old_size >> g->block_shift);
	uint32_t in_block = (uint32_t)(old_size & (g->block_size - 1));
	uint32_t slot = in_block ? v->bat[block] : VHD1_UNUSED;
	uint32_t len = (uint32_t)sp_min(g->block_size, g->size - ((uint64_t)block << g->block_shift)) - in_block;
	int r;

	if (slot == VHD1_UNUSED)
		return 0;
	r = store_zero(v->img->store, vhd1_data_offset(g, slot) + in_block, len);
	if (r < 0)
		return r;
	vhd1_cache_drop(&v->bitmaps, block);	/* clean: everything was flushed */
	vhd1_block_set_full(v, block, false);
	return vhd1_bitmap_set(v, block, slot, in_block / VHD1_SECTOR, len / VHD1_SECTOR);
}

/* A parent may be larger than its child was; blocks full of zeros hide it. They are holes in the host file. */
static int hide_parent(struct vhd1 *v, uint64_t from)
{
	for (uint64_t at = from; at < v->shape.size;) {
		uint32_t block = (uint32_t)(at >> v->shape.block_shift);
		uint32_t first = (uint32_t)(at & (v->shape.block_size - 1)) / VHD1_SECTOR;
		uint32_t sectors = v->shape.data_sectors, slot = v->bat[block];
		bool recycled;
		int r = 0;

		if (slot == VHD1_UNUSED) {
			r = vhd1_slot_take(v, &slot, &recycled);
			if (r == 0)
				r = vhd1_bitmap_init(v, slot, first == 0);
			if (r < 0)
				return r;
			vhd1_bat_set(v, block, slot);
			v->barrier = true;
			vhd1_block_set_full(v, block, first == 0);
		}
		if (first > 0)
			r = vhd1_bitmap_set(v, block, slot, first, sectors - first);
		if (r < 0)
			return r;
		at = ((uint64_t)block + 1) << v->shape.block_shift;
	}
	return 0;
}

static int uncover(struct vhd1 *v, uint64_t old_size)
{
	int r = uncover_last_block(v, old_size);

	if (r == 0 && v->differencing)
		r = hide_parent(v, old_size);
	return r < 0 ? r : vhd1_flush_all(v);
}

static int grow_sparse(struct vhd1 *v, uint64_t size, struct sp_err *err)
{
	uint64_t blocks = sp_div_ceil(size, v->shape.block_size), old_size = v->shape.size;
	uint32_t old_blocks = v->shape.blocks;
	int r;

	if (size > (uint64_t)VHD1_SPARSE_SECTORS_MAX * VHD1_SECTOR || blocks > VHD1_FULL_MAP_BLOCKS)
		return sp_err_set(err, -EINVAL,
				  "size %" PRIu64 " is more than this image can have; VHDX goes to 64 TiB", size);
	r = vhd1_flush_all(v);
	if (r == 0 && blocks > v->shape.max_entries) {
		r = vhd1_table_extend(v, (uint32_t)blocks, err);
		if (r < 0)
			return r;
	}
	if (r == 0)
		r = vhd1_bat_resize(v, (uint32_t)blocks);
	if (r < 0)
		return r;
	/* Entries beyond the size were nobody's business; some writers leave anything there. */
	for (uint32_t b = old_blocks; b < blocks; b++) {
		v->bat[b] = VHD1_UNUSED;
		vhd1_bat_set(v, b, VHD1_UNUSED);
	}
	v->shape.size = size;
	v->shape.blocks = (uint32_t)blocks;
	r = uncover(v, old_size);
	if (r == 0) {
		vhd1_footer_set_size(&v->footer, size);
		vhd1_footer_seal(&v->footer);
		r = vhd1_footers_write(v);
	}
	return r;
}

int vhd1_grow(struct vhd_image *img, uint64_t size, struct sp_err *err)
{
	struct vhd1 *v = vhd1_of(img);
	int r;

	if (size % VHD1_SECTOR != 0 || size < img->size || size > INT64_MAX)
		return sp_err_set(err, -EINVAL, "cannot grow from %" PRIu64 " to %" PRIu64 " bytes", img->size, size);
	if (v->footer.saved_state == 1)
		return sp_err_set(err, -ENOTSUP, "a saved state of a virtual machine depends on this disk; resume or "
				  "discard it first");
	r = vhd1_begin_write(img);
	if (r == 0 && size > img->size)
		r = v->sparse ? grow_sparse(v, size, err) : grow_fixed(v, size);
	if (r < 0 && v->begun && v->failed == 0 && r != -EINVAL && r != -ENOTSUP)
		v->failed = r;		/* footers in memory may already speak of the new size */
	if (r < 0)
		return sp_err_prefix(err, r, "growing to %" PRIu64 " bytes", size);
	img->size = size;
	return 0;
}

/* ---- identity ------------------------------------------------------------------------------------ */

int vhd1_set_identity(struct vhd_image *img, const struct sp_guid *identity, struct sp_err *err)
{
	struct vhd1 *v = vhd1_of(img);
	int r = vhd1_begin_write(img);

	if (r == 0) {
		v->footer.unique_id = *identity;
		vhd1_footer_seal(&v->footer);
		r = vhd1_footers_write(v);
	}
	if (r < 0)
		return sp_err_set(err, r, "cannot write the unique id into the footers: %s", strerror(-r));
	img->identity = *identity;
	return 0;
}
