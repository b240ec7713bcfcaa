/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VHDX: where a virtual range lives.
 *
 *   state          base image      differencing image
 *   0              zero            parent
 *   1, 2, 3        zero            zero
 *   6              data            data
 *   7              damaged         per sector: data or parent, by the chunk's bitmap block
 *
 * Damage (a reserved state, an offset outside the file, a missing bitmap block) is an error of the block that has it
 * and of no other. Neighbouring blocks of one kind are answered as one run, and holes of the file inside the BAT are
 * not even read: an empty 64 TiB disk is one answer.
 */
#include "vhd/vhdx_write_int.h"

#include <errno.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/seed.h"

/* BAT entries looked at in one call; the lock is held meanwhile. */
#define RUN_ENTRIES_MAX (1u << 17)

static uint64_t last_block(const struct vhdx *x)
{
	return x->geo.blocks - 1;
}

uint64_t vhdx_block_len(const struct vhdx *x, uint64_t block)
{
	return sp_min(x->geo.block_size, x->geo.virtual_size - (block << x->geo.block_shift));
}

uint64_t vhdx_block_at(const struct vhdx_geometry *g, uint64_t index)
{
	uint64_t chunk = index / ((uint64_t)g->chunk_ratio + 1);

	/* The bitmap slot itself (the last of the chunk) gives the first block of the next chunk. */
	return (chunk << g->chunk_shift) + index % ((uint64_t)g->chunk_ratio + 1);
}

/* X15, X22. The last block may stick out of the file: QEMU's fixed images, vhd-formats.md 2.13. */
static int check_entry(const struct vhdx *x, uint64_t block, uint64_t entry)
{
	uint64_t offset = VHDX_BAT_OFFSET(entry);
	uint64_t need = block == last_block(x) ? 1 : x->geo.block_size;

	if (VHDX_BAT_RESERVED(entry) != 0)
		return -EBADMSG;
	switch (VHDX_BAT_STATE(entry)) {
	case VHDX_NOT_PRESENT:
	case VHDX_UNDEFINED:
	case VHDX_ZERO:
	case VHDX_UNMAPPED:
		return 0;
	case VHDX_PARTIALLY_PRESENT:
		if (!x->geo.differencing)
			return -EBADMSG;
		break;
	case VHDX_FULLY_PRESENT:
		break;
	default:
		return -EBADMSG;
	}
	return offset >= VHDX_MIB && sp_range_ok(offset, need, x->file_size) ? 0 : -EBADMSG;
}

int vhdx_block_get(struct vhdx *x, uint64_t block, uint64_t *ret_entry)
{
	uint64_t entry;
	int r = vhdx_bat_get(x, vhdx_payload_index(&x->geo, block), &entry);

	if (r == 0)
		r = check_entry(x, block, entry);
	if (r == 0)
		*ret_entry = entry;
	return r;
}

int vhdx_share_get(struct vhdx *x, uint64_t block, uint64_t *ret_offset)
{
	const struct vhdx_geometry *g = &x->geo;
	uint64_t chunk = block >> g->chunk_shift, entry;
	int r = vhdx_bat_get(x, vhdx_bitmap_index(g, chunk), &entry);

	if (r < 0)
		return r;
	if (VHDX_BAT_STATE(entry) != VHDX_BITMAP_PRESENT || VHDX_BAT_RESERVED(entry) != 0 ||
	    VHDX_BAT_OFFSET(entry) < VHDX_MIB || !sp_range_ok(VHDX_BAT_OFFSET(entry), VHDX_MIB, x->file_size))
		return -EBADMSG;
	*ret_offset = VHDX_BAT_OFFSET(entry) + (block & (g->chunk_ratio - 1)) * (VHDX_MIB >> g->chunk_shift);
	return 0;
}

struct vhdx_bits vhdx_share_piece(uint64_t share, uint64_t sector, uint64_t count)
{
	uint64_t byte = share + sector / 8;
	struct vhdx_bits b = { .page = sp_align_down(byte, VHDX_PAGE) };

	b.bit = (byte - b.page) * 8 + sector % 8;
	b.count = sp_min(count, VHDX_PAGE * 8 - b.bit);
	return b;
}

/* Length in sectors of the run of equal bits from @sector on, at most @limit. */
static int sector_run(struct vhdx *x, uint64_t block, uint64_t sector, uint64_t limit, bool *ret_set, uint64_t *ret_run)
{
	uint64_t share, run = 0;
	bool set = false;
	int r = vhdx_share_get(x, block, &share);

	while (r == 0 && run < limit) {
		struct vhdx_bits b = vhdx_share_piece(share, sector + run, limit - run);
		const uint8_t *data;
		uint64_t n;

		r = vhdx_page_get(x, b.page, VHDX_PAGE_BITMAP, &data);
		if (r < 0)
			break;
		if (run == 0)
			set = sp_bit_get(data, b.bit, false);
		else if (sp_bit_get(data, b.bit, false) != set)
			break;
		n = sp_bits_run(data, b.bit, b.bit + b.count, false);
		run += n;
		if (n < b.count)
			break;
	}
	if (r < 0)
		return r;
	*ret_set = set;
	*ret_run = run;
	return 0;
}

static enum vhd_where where_of(const struct vhdx *x, uint64_t entry)
{
	switch (VHDX_BAT_STATE(entry)) {
	case VHDX_NOT_PRESENT:
		return x->geo.differencing ? VHD_WHERE_PARENT : VHD_WHERE_ZERO;
	case VHDX_FULLY_PRESENT:
	case VHDX_PARTIALLY_PRESENT:
		return VHD_WHERE_DATA;
	default:
		return VHD_WHERE_ZERO;
	}
}

/* First block at or after @block, below @limit, that does not live @where (ZERO or PARENT). */
static uint64_t end_of_absent(struct vhdx *x, uint64_t block, uint64_t limit, enum vhd_where where)
{
	const struct vhdx_geometry *g = &x->geo;

	for (unsigned looked = 0; block < limit && looked < RUN_ENTRIES_MAX; looked++) {
		uint64_t index = vhdx_payload_index(g, block), entry, hole = 0;

		if (where == where_of(x, 0) && (looked == 0 || index % (VHDX_PAGE / sizeof(le64_t)) == 0))
			hole = vhdx_bat_hole(x, index);
		if (hole > 0) {
			block = vhdx_block_at(g, index + hole);
			continue;
		}
		if (vhdx_block_get(x, block, &entry) < 0 || where_of(x, entry) != where)
			break;
		block++;
	}
	return sp_min(block, limit);
}

/* First block at or after @block, below @limit, whose payload does not follow on at @file_offset. */
static uint64_t end_of_data(struct vhdx *x, uint64_t block, uint64_t limit, uint64_t file_offset)
{
	for (unsigned looked = 0; block < limit && looked < RUN_ENTRIES_MAX; looked++) {
		uint64_t entry;

		if (vhdx_block_get(x, block, &entry) < 0 || VHDX_BAT_STATE(entry) != VHDX_FULLY_PRESENT ||
		    VHDX_BAT_OFFSET(entry) != file_offset)
			break;
		file_offset += x->geo.block_size;
		block++;
	}
	return block;
}

static int map_partial(struct vhdx *x, uint64_t block, uint64_t in_block, struct vhd_place *place)
{
	uint32_t lss = x->geo.logical_sector;
	uint64_t sector = in_block / lss, run;
	uint64_t limit = sp_div_ceil(in_block + place->len, lss) - sector;
	bool set;
	int r = sector_run(x, block, sector, limit, &set, &run);

	if (r < 0)
		return r;
	place->len = sp_min(place->len, run * lss - in_block % lss);
	if (!set)
		place->where = VHD_WHERE_PARENT;
	return 0;
}

/* What of the last block lies past the end of the file reads zeros. */
static void cut_at_eof(const struct vhdx *x, struct vhd_place *place)
{
	if (place->where != VHD_WHERE_DATA || SP_SEED_BUG(VHDX_BLOCK_PAST_FILE))
		return;
	if (place->file_offset >= x->file_size)
		place->where = VHD_WHERE_ZERO;
	else
		place->len = sp_min(place->len, x->file_size - place->file_offset);
}

/* vhd_format.map: vhd-formats.md 2.6.1. 0, -EBADMSG, -EIO, -ENOMEM. */
int vhdx_map(struct vhd_image *img, uint64_t offset, uint64_t len, struct vhd_place *ret_place)
{
	struct vhdx *x = vhdx_of(img);
	const struct vhdx_geometry *g = &x->geo;
	uint64_t block = offset >> g->block_shift, in_block = offset & (g->block_size - 1);
	uint64_t here = sp_min(len, g->block_size - in_block), limit, end, entry;
	struct vhd_place place = { .len = here };
	int r;

	if (!sp_range_ok(offset, len, g->virtual_size) || len == 0)
		return -ERANGE;
	limit = ((offset + len - 1) >> g->block_shift) + 1;
	r = vhdx_block_get(x, block, &entry);
	if (r < 0)
		return r;
	place.where = where_of(x, entry);
	if (place.where == VHD_WHERE_DATA)
		place.file_offset = VHDX_BAT_OFFSET(entry) + in_block;

	if (VHDX_BAT_STATE(entry) == VHDX_PARTIALLY_PRESENT) {
		r = map_partial(x, block, in_block, &place);
		if (r < 0)
			return r;
	} else if (here < len) {
		if (place.where == VHD_WHERE_DATA)
			end = end_of_data(x, block + 1, limit, VHDX_BAT_OFFSET(entry) + g->block_size);
		else
			end = end_of_absent(x, block + 1, limit, place.where);
		place.len = sp_min(len, (end << g->block_shift) - offset);
	}
	cut_at_eof(x, &place);
	place.direct_write = place.where == VHD_WHERE_DATA && x->begun;
	if (place.where != VHD_WHERE_DATA)
		place.file_offset = 0;
	*ret_place = place;
	return 0;
}
