/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VHDX writes: the states of a payload block, and who moves it. vhd-formats.md 2.9.
 *
 *   base image                                   differencing image
 *
 *   0,1,2,3 ──prepare (zeroed space)──► 6        0 ──prepare (all bits clear)──► 7 ──commit sets bits──► 7
 *      ▲                                │        │                               │ commit, all bits set,
 *      2 ◄───────────discard────────────┘        │ discard                       │ or whole block
 *                                                ▼                               ▼
 *                                                2 ◄────────discard───────────── 6 ◄──prepare── 1,2,3
 *
 * - prepare changes nothing a reader could notice: the new block reads zeros or, with all bits clear, the parent. So a
 *   flush may take it before its payload arrives, and a write that fails leaves nothing to undo.
 * - commit comes after the payload's I/O, in any order, and only differencing images need it. It asks for the barrier:
 *   the payload must be durable before bits that hide the parent.
 * - A block discarded between prepare and commit stays discarded: the ticket remembers which space it meant.
 * - A discarded block never goes back to 0 over a parent: old parent data would come to light.
 */
#include "vhd/vhdx_write_int.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bitmap.h"

#define DISCARD_ENTRIES_MAX (1u << 17)	/* looked at in one call; the lock is held meanwhile */

static uint64_t block_sectors(const struct vhdx *x, uint64_t block)
{
	return vhdx_block_len(x, block) / x->geo.logical_sector;
}

/* ---- bits of one block --------------------------------------------------------------------------- */

static int clear_share(struct vhdx *x, uint64_t block)
{
	uint64_t sectors = x->geo.block_size / x->geo.logical_sector, share;
	struct vhdx_bits b;
	int r = vhdx_share_get(x, block, &share);

	for (uint64_t at = 0; r == 0 && at < sectors; at += b.count) {
		const uint8_t *data;
		uint8_t *page;

		b = vhdx_share_piece(share, at, sectors - at);
		r = vhdx_page_get(x, b.page, VHDX_PAGE_BITMAP, &data);
		if (r < 0 || sp_bits_count(data, b.bit, b.count, false) == 0)
			continue;
		r = vhdx_page_edit(x, b.page, VHDX_PAGE_BITMAP, &page);
		if (r == 0)
			sp_bits_clear(page, b.bit, b.count, false);
	}
	return r;
}

int vhdx_bits_set(struct vhdx *x, uint64_t block, uint64_t sector, uint64_t count)
{
	uint64_t share;
	struct vhdx_bits b;
	int r = vhdx_share_get(x, block, &share);

	for (uint64_t done = 0; r == 0 && done < count; done += b.count) {
		uint8_t *page;

		b = vhdx_share_piece(share, sector + done, count - done);
		r = vhdx_page_edit(x, b.page, VHDX_PAGE_BITMAP, &page);
		if (r == 0)
			sp_bits_set(page, b.bit, b.count, false);
	}
	return r;
}

static int all_set(struct vhdx *x, uint64_t block, uint64_t sector, uint64_t count, bool *ret_all)
{
	uint64_t share;
	struct vhdx_bits b;
	int r = vhdx_share_get(x, block, &share);

	*ret_all = true;
	for (uint64_t done = 0; r == 0 && *ret_all && done < count; done += b.count) {
		const uint8_t *data;

		b = vhdx_share_piece(share, sector + done, count - done);
		r = vhdx_page_get(x, b.page, VHDX_PAGE_BITMAP, &data);
		if (r == 0)
			*ret_all = sp_bits_count(data, b.bit, b.count, false) == b.count;
	}
	return r;
}

/* ---- prepare ------------------------------------------------------------------------------------- */

/* States 0 of a base image, 1, 2, 3: the block reads zeros, and so does its space. */
static int allocate_full(struct vhdx *x, uint64_t block, uint64_t entry, uint64_t *ret_offset)
{
	uint64_t offset = VHDX_BAT_OFFSET(entry);
	bool recycled = true;
	le64_t *slot;
	int r = vhdx_bat_edit(x, vhdx_payload_index(&x->geo, block), &slot);

	if (r < 0)
		return r;
	if (vhdx_space_owns_anchor(x, entry))
		r = vhdx_space_zero(x, offset, x->geo.block_size);
	else
		r = vhdx_space_alloc(x, x->geo.block_size, &offset, &recycled);
	if (r < 0)
		return r;
	x->log->barrier |= recycled;
	*slot = le64_make(offset | VHDX_FULLY_PRESENT);
	*ret_offset = offset;
	return 0;
}

static int reserve_zeroed(struct vhdx_log *log)
{
	size_t room = log->zeroed_room * 2 + 8;
	uint64_t *z;

	if (log->zeroed_count < log->zeroed_room)
		return 0;
	z = sp_realloc(log->zeroed, room * sizeof(*z));
	if (!z)
		return -ENOMEM;
	log->zeroed = z;
	log->zeroed_room = room;
	return 0;
}

/* The chunk's first block in state 7 brings a bitmap block of zeros. */
static int allocate_bitmap(struct vhdx *x, le64_t *slot, uint64_t *ret_offset)
{
	bool recycled;
	int r = reserve_zeroed(x->log);

	if (r == 0)
		r = vhdx_space_alloc(x, VHDX_MIB, ret_offset, &recycled);
	if (r < 0)
		return r;
	x->log->barrier |= recycled;
	x->log->zeroed[x->log->zeroed_count++] = *ret_offset;
	*slot = le64_make(*ret_offset | VHDX_BITMAP_PRESENT);
	return 0;
}

/* State 0 of a differencing image: the block still reads as its parent does. */
int vhdx_allocate_partial(struct vhdx *x, uint64_t block, uint64_t *ret_offset)
{
	const struct vhdx_geometry *g = &x->geo;
	uint64_t offset, bitmap;
	le64_t *slot, *bitmap_slot;
	bool recycled;
	int r = vhdx_bat_edit(x, vhdx_bitmap_index(g, block >> g->chunk_shift), &bitmap_slot);

	if (r == 0)
		r = vhdx_bat_edit(x, vhdx_payload_index(g, block), &slot);
	if (r == 0 && le64_get(*bitmap_slot) != 0)
		r = clear_share(x, block);
	if (r < 0)
		return r;
	r = vhdx_space_alloc(x, g->block_size, &offset, &recycled);
	if (r < 0)
		return r;
	if (le64_get(*bitmap_slot) == 0)
		r = allocate_bitmap(x, bitmap_slot, &bitmap);
	if (r < 0) {
		vhdx_space_undo(x, offset, g->block_size);
		return r;
	}
	x->log->barrier |= recycled;
	*slot = le64_make(offset | VHDX_PARTIALLY_PRESENT);
	*ret_offset = offset;
	return 0;
}

static int find_room(struct vhdx *x, uint64_t block, uint64_t *ret_offset, bool *ret_partial)
{
	uint64_t entry;
	int r = vhdx_block_get(x, block, &entry);

	if (r < 0)
		return r;
	*ret_partial = false;
	switch (VHDX_BAT_STATE(entry)) {
	case VHDX_PARTIALLY_PRESENT:
		*ret_partial = true;
		/* fall through */
	case VHDX_FULLY_PRESENT:
		*ret_offset = VHDX_BAT_OFFSET(entry);
		/* A last block that sticks out of the file gets its missing tail now. */
		return block == x->geo.blocks - 1 ? vhdx_space_extend(x, *ret_offset + x->geo.block_size) : 0;
	case VHDX_NOT_PRESENT:
		if (x->geo.differencing) {
			*ret_partial = true;
			return vhdx_allocate_partial(x, block, ret_offset);
		}
		/* fall through */
	default:
		return allocate_full(x, block, entry, ret_offset);
	}
}

/* vhd_format.prepare_write: 0, -ENOSPC, -EBADMSG, -EIO, -ENOMEM; at most one block per ticket. */
int vhdx_prepare_write(struct vhd_image *img, uint64_t offset, uint64_t len, struct vhd_ticket *ret_ticket)
{
	struct vhdx *x = vhdx_of(img);
	uint64_t block = offset >> x->geo.block_shift, in_block = offset & (x->geo.block_size - 1), room;
	bool partial, all = true;
	int r = vhdx_begin_write(img);

	if (r < 0)
		return r;
	if (!sp_range_ok(offset, len, x->geo.virtual_size) || len == 0)
		return -ERANGE;
	len = sp_min(len, x->geo.block_size - in_block);
	r = vhdx_relieve(x);
	if (r == 0)
		r = find_room(x, block, &room, &partial);
	if (r == 0 && partial)
		r = all_set(x, block, in_block / x->geo.logical_sector, len / x->geo.logical_sector, &all);
	if (r < 0)
		return r;
	*ret_ticket = (struct vhd_ticket){
		.offset = offset, .len = len, .file_offset = room + in_block, .needs_commit = !all, .cookie = room,
	};
	return 0;
}

/* ---- commit -------------------------------------------------------------------------------------- */

/* A block written as a whole needs no bits: nobody looks at them in state 6. */
static int set_and_promote(struct vhdx *x, uint64_t block, uint64_t sector, uint64_t count)
{
	uint64_t sectors = block_sectors(x, block), entry;
	bool all = sector == 0 && count == sectors;
	le64_t *slot;
	int r = 0;

	if (!all) {
		r = vhdx_bits_set(x, block, sector, count);
		if (r == 0)
			r = all_set(x, block, 0, sectors, &all);
	}
	if (r == 0 && all) {
		r = vhdx_bat_edit(x, vhdx_payload_index(&x->geo, block), &slot);
		if (r == 0) {
			entry = le64_get(*slot);
			*slot = le64_make(VHDX_BAT_OFFSET(entry) | VHDX_FULLY_PRESENT);
		}
	}
	return r;
}

/* vhd_format.commit_write: the payload of @t has been written. */
int vhdx_commit_write(struct vhd_image *img, const struct vhd_ticket *t)
{
	struct vhdx *x = vhdx_of(img);
	uint64_t block = t->offset >> x->geo.block_shift, in_block = t->offset & (x->geo.block_size - 1), entry;
	int r;

	if (!t->needs_commit || x->failed)
		return x->failed;
	r = vhdx_block_get(x, block, &entry);
	if (r < 0)
		return r;
	/* Discarded, or completed by a neighbour, while the payload was on its way. */
	if (VHDX_BAT_STATE(entry) != VHDX_PARTIALLY_PRESENT || VHDX_BAT_OFFSET(entry) != t->cookie)
		return 0;
	x->log->barrier = true;
	return set_and_promote(x, block, in_block / x->geo.logical_sector, t->len / x->geo.logical_sector);
}

void vhdx_abort_write(struct vhd_image *img, const struct vhd_ticket *t)
{
	/* The block reads as before, and the next write to it finds its space waiting. */
	(void)img;
	(void)t;
}

/* ---- discard ------------------------------------------------------------------------------------- */

static bool reads_zero(const struct vhdx *x, uint64_t entry)
{
	switch (VHDX_BAT_STATE(entry)) {
	case VHDX_NOT_PRESENT:
		return !x->geo.differencing;
	case VHDX_UNDEFINED:
	case VHDX_ZERO:
	case VHDX_UNMAPPED:
		return true;
	default:
		return false;
	}
}

/* To state 2, the only one that reads zeros in every program. */
static int drop_block(struct vhdx *x, uint64_t block, uint64_t entry)
{
	unsigned state = VHDX_BAT_STATE(entry);
	le64_t *slot;
	int r;

	if (state == VHDX_ZERO || (state == VHDX_NOT_PRESENT && !x->geo.differencing))
		return 0;
	r = vhdx_space_reserve(x, 1);
	if (r == 0)
		r = vhdx_bat_edit(x, vhdx_payload_index(&x->geo, block), &slot);
	if (r < 0)
		return r;
	*slot = le64_make(VHDX_ZERO);
	if (state == VHDX_FULLY_PRESENT || state == VHDX_PARTIALLY_PRESENT || vhdx_space_owns_anchor(x, entry))
		vhdx_space_free(x, VHDX_BAT_OFFSET(entry), x->geo.block_size);
	return 0;
}

/* Whole blocks [block, limit); *@ret_end is the first one not dealt with. Fails only when that is @block. */
static int drop_blocks(struct vhdx *x, uint64_t block, uint64_t limit, uint64_t *ret_end)
{
	uint64_t first = block, entry;
	int r = 0;

	for (unsigned looked = 0; block < limit && looked < DISCARD_ENTRIES_MAX; looked++) {
		uint64_t index = vhdx_payload_index(&x->geo, block);
		uint64_t hole = x->geo.differencing ? 0 : vhdx_bat_hole(x, index);

		if (hole > 0) {		/* state 0: nothing there */
			block = vhdx_block_at(&x->geo, index + hole);
			continue;
		}
		r = vhdx_relieve(x);
		if (r == 0)
			r = vhdx_block_get(x, block, &entry);
		if (r == 0)
			r = drop_block(x, block, entry);
		if (r < 0)
			break;
		block++;
	}
	*ret_end = sp_min(block, limit);
	return *ret_end > first ? 0 : r;
}

static int discard_part(struct vhdx *x, uint64_t block, uint64_t *ret_len, uint64_t len, bool *ret_done)
{
	uint64_t entry;
	int r = vhdx_block_get(x, block, &entry);

	if (r < 0)
		return r;
	*ret_len = len;
	*ret_done = reads_zero(x, entry);
	return 0;
}

/* vhd_format.discard: vhd-formats.md 2.10. Whole blocks only; the last one counts as whole when its end is reached. */
int vhdx_discard(struct vhd_image *img, uint64_t offset, uint64_t len, uint64_t *ret_len, bool *ret_done)
{
	struct vhdx *x = vhdx_of(img);
	const struct vhdx_geometry *g = &x->geo;
	uint64_t block = offset >> g->block_shift, in_block = offset & (g->block_size - 1), limit, end;
	int r;

	if (!sp_range_ok(offset, len, g->virtual_size) || len == 0)
		return -ERANGE;
	if (x->metadata.leave_blocks_allocated && !g->differencing) {
		*ret_len = len;
		*ret_done = false;
		return x->failed;
	}
	r = vhdx_begin_write(img);
	if (r < 0)
		return r;
	limit = offset + len == g->virtual_size ? g->blocks : (offset + len) >> g->block_shift;
	if (in_block != 0 || limit <= block)
		return discard_part(x, block, ret_len, sp_min(len, g->block_size - in_block), ret_done);
	r = drop_blocks(x, block, limit, &end);
	if (r < 0)
		return r;
	*ret_len = sp_min(end << g->block_shift, g->virtual_size) - offset;
	*ret_done = true;
	return 0;
}
