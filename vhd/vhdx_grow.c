/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VHDX: a larger virtual disk. vhd-formats.md 2.12.
 *
 *   1. a BAT that is too short moves: copied to free space, synced, then both region tables in one log entry
 *   2. the old last block beyond the old end reads zeros: zeroed, and over a parent its bits set
 *   3. BAT entries behind the old end: 0, over a parent ZERO, in a fixed image allocated
 *   4. the size
 *
 * Until the last log entry, which brings the size, a reader looks at nothing of 2 and 3. After moving the BAT the log
 * begins again: entries that still aim at the old place must never be replayed once it has another owner.
 */
#include "vhd/vhdx_write_int.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "vhd/vhdx_layout.h"

#define COPY_BYTES (256u << 10)
#define PAGES_PER_FLUSH 1000u

/* ---- moving the BAT ------------------------------------------------------------------------------ */

static int copy_bat(struct vhdx *x, const struct vhdx_region *from, uint64_t to)
{
	SP_AUTO_FREE uint8_t *buf = sp_alloc_aligned(VHDX_PAGE, COPY_BYTES);
	struct store *s = x->img->store;
	int r = buf ? 0 : -ENOMEM;

	for (uint64_t at = 0; r == 0 && at < from->length; at += COPY_BYTES) {
		uint64_t data = 0;

		if (store_seek_data(s, from->offset + at, &data) == 0 && data >= from->offset + at + COPY_BYTES)
			continue;		/* zeros, and so is the new place */
		r = store_read(s, buf, COPY_BYTES, from->offset + at);
		if (r == 0)
			r = store_write(s, buf, COPY_BYTES, to + at);
	}
	return r;
}

/* Both copies in one log entry: 32 pages. */
static int log_region_tables(struct vhdx *x, const struct vhdx_region *bat)
{
	struct vhdx_region *entry = &x->regions.entry[x->regions.bat], old = *entry;
	SP_AUTO_FREE uint8_t *table = sp_alloc(VHDX_REGION_TABLE_SIZE);
	int r = table ? 0 : -ENOMEM;

	for (unsigned copy = 0; r == 0 && copy < 2; copy++)
		r = vhdx_bytes_hold(x, VHDX_REGION_TABLE_OFFSET(copy), VHDX_REGION_TABLE_SIZE);
	if (r < 0)
		return r;
	*entry = *bat;
	vhdx_region_table_encode(x->regions.entry, x->regions.count, table);
	*entry = old;
	for (unsigned copy = 0; copy < 2; copy++)
		(void)vhdx_bytes_put(x, VHDX_REGION_TABLE_OFFSET(copy), table, VHDX_REGION_TABLE_SIZE);
	return vhdx_flush_must(x);
}

static int move_bat(struct vhdx *x, uint64_t entries)
{
	struct vhdx_region old = x->regions.entry[x->regions.bat], new = old;
	bool recycled;
	int r = vhdx_flush_all(x);		/* the file has the whole BAT, the cache nothing newer */

	new.length = (uint32_t)sp_align_up(entries * sizeof(le64_t), VHDX_MIB);
	if (r == 0)
		r = vhdx_space_reserve(x, 1);
	if (r == 0)
		r = vhdx_space_alloc(x, new.length, &new.offset, &recycled);
	if (r < 0)
		return r;
	r = copy_bat(x, &old, new.offset);
	if (r == 0)
		r = vhdx_log_sync(x);
	if (r == 0)
		r = log_region_tables(x, &new);
	if (r < 0) {
		if (!x->failed)
			vhdx_space_undo(x, new.offset, new.length);
		return r;
	}
	vhdx_cache_forget(x, VHDX_PAGE_BAT);
	x->regions.entry[x->regions.bat] = new;
	x->bat_offset = new.offset;
	r = vhdx_log_restart(x);
	if (r < 0)
		return x->failed = r;
	vhdx_space_free(x, old.offset, old.length);
	return 0;
}

/* ---- old last block ------------------------------------------------------------------------------ */

static int zero_payload(struct vhdx *x, uint64_t offset, uint64_t from)
{
	uint32_t block_size = x->geo.block_size;
	/* Only a last block may stick out of the file, and soon it is not the last any more. */
	int r = vhdx_space_extend(x, offset + block_size);

	x->log->barrier = true;
	return r < 0 || from == block_size ? r : store_zero(x->img->store, offset + from, block_size - from);
}

static int clear_tail(struct vhdx *x)
{
	const struct vhdx_geometry *g = &x->geo;
	uint64_t block = g->blocks - 1, from = vhdx_block_len(x, block), entry, offset;
	int r = vhdx_block_get(x, block, &entry);

	if (r < 0)
		return r;
	if (from == g->block_size && (entry & VHDX_FULLY_PRESENT) != VHDX_FULLY_PRESENT)
		return 0;
	switch (VHDX_BAT_STATE(entry)) {
	case VHDX_FULLY_PRESENT:
		return zero_payload(x, VHDX_BAT_OFFSET(entry), from);
	case VHDX_PARTIALLY_PRESENT:
		r = zero_payload(x, VHDX_BAT_OFFSET(entry), from);
		break;
	case VHDX_NOT_PRESENT:
		if (!g->differencing)
			return 0;
		r = vhdx_allocate_partial(x, block, &offset);
		x->log->barrier = true;
		break;
	default:
		return 0;
	}
	if (r == 0)
		r = vhdx_bits_set(x, block, from / g->logical_sector, (g->block_size - from) / g->logical_sector);
	return r;
}

/* ---- new entries --------------------------------------------------------------------------------- */

/* What BAT entry @index shall hold in the grown image; *@keep: leave it alone. */
static int wanted_entry(struct vhdx *x, const struct vhdx_geometry *grown, uint64_t index, bool *keep,
			uint64_t *ret_entry)
{
	uint64_t per_chunk = (uint64_t)grown->chunk_ratio + 1, offset;
	uint64_t chunks = ((x->geo.blocks - 1) >> x->geo.chunk_shift) + 1;
	bool recycled;
	int r = 0;

	*keep = false;
	*ret_entry = 0;
	if (index % per_chunk == grown->chunk_ratio) {
		*keep = grown->differencing && index / per_chunk < chunks;
	} else if (vhdx_block_at(grown, index) < grown->blocks) {
		if (grown->differencing) {
			*ret_entry = VHDX_ZERO;
		} else if (x->metadata.leave_blocks_allocated) {
			r = vhdx_space_alloc(x, grown->block_size, &offset, &recycled);
			if (r == 0) {
				*ret_entry = offset | VHDX_FULLY_PRESENT;
				x->log->barrier |= recycled;
			}
		}
	}
	return r;
}

static int fill_entry(struct vhdx *x, const struct vhdx_geometry *grown, uint64_t index)
{
	uint64_t entry, wanted;
	le64_t *slot;
	bool keep = true;
	int r = vhdx_bat_get(x, index, &entry);

	if (r == 0)
		r = wanted_entry(x, grown, index, &keep, &wanted);
	if (r < 0 || keep || entry == wanted)
		return r;
	r = vhdx_bat_edit(x, index, &slot);
	if (r == 0)
		*slot = le64_make(wanted);
	return r;
}

static int fill_entries(struct vhdx *x, const struct vhdx_geometry *grown)
{
	bool zeros = !grown->differencing && !x->metadata.leave_blocks_allocated;
	uint64_t index = vhdx_payload_index(&x->geo, x->geo.blocks - 1) + 1;
	int r = 0;

	while (r == 0 && index < grown->bat_entries) {
		uint64_t hole = zeros ? vhdx_bat_hole(x, index) : 0;

		if (hole == 0)
			r = fill_entry(x, grown, index);
		index += sp_max(hole, 1);
		if (r == 0 && vhdx_cache_dirty(x->cache) >= PAGES_PER_FLUSH)
			r = vhdx_flush_all(x);
	}
	return r;
}

/* ---- all of it ----------------------------------------------------------------------------------- */

static int grow_steps(struct vhdx *x, const struct vhdx_geometry *grown)
{
	uint64_t at = x->metadata.item[x->metadata.size_item].offset;
	le64_t size = le64_make(grown->virtual_size);
	int r = vhdx_begin_write(x->img);

	if (r == 0)
		r = vhdx_flush_all(x);
	if (r == 0 && grown->bat_entries * sizeof(le64_t) > x->regions.entry[x->regions.bat].length)
		r = move_bat(x, grown->bat_entries);
	if (r == 0)
		r = vhdx_cache_resize_bat(x, grown->bat_entries);
	if (r == 0)
		r = clear_tail(x);
	if (r == 0)
		r = fill_entries(x, grown);
	/* Pages of the metadata region are logged after all BAT pages, in the last entry of the batch. */
	if (r == 0)
		r = vhdx_bytes_hold(x, at, sizeof(size));
	if (r < 0)
		return r;
	(void)vhdx_bytes_put(x, at, &size, sizeof(size));
	return vhdx_flush_must(x);
}

/* vhd_format.grow: durable on return. -EROFS, -ENOTSUP (smaller), -EINVAL, -EBUSY (a flush is under way), -ENOSPC. */
int vhdx_grow(struct vhd_image *img, uint64_t size, struct sp_err *err)
{
	struct vhdx *x = vhdx_of(img);
	struct vhdx_metadata md = x->metadata;
	struct vhdx_geometry grown;
	int r;

	if (!x->space)
		return sp_err_set(err, -EROFS, "%s is open read-only", img->name);
	if (size < img->size)
		return sp_err_set(err, -ENOTSUP, "%s has %" PRIu64 " bytes and cannot be made smaller, to %" PRIu64,
				  img->name, img->size, size);
	if (size > VHDX_MAX_SIZE || !sp_is_aligned(size, md.logical_sector))
		return sp_err_set(err, -EINVAL, "a size of %" PRIu64 " is not a multiple of %" PRIu32 " up to 64 TiB",
				  size, md.logical_sector);
	if (size == img->size)
		return 0;
	md.virtual_size = size;
	r = vhdx_geometry_make(&md, &grown, err);
	if (r < 0)
		return r;
	r = grow_steps(x, &grown);
	if (r < 0)
		return sp_err_set(err, r, "%s: growing to %" PRIu64 " bytes: %s", img->name, size, strerror(-r));
	x->metadata.virtual_size = size;
	x->geo = grown;
	img->size = size;
	return 0;
}
