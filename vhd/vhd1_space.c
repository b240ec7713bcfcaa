/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Room for blocks. vhd-formats.md 1.13.
 *
 *	| structures | blocks, some set free | ROOM | footer |
 *					     ^	    ^
 *				     next_free	    footer_offset
 *
 * A block can be had from the room without touching the footer. When the room is used up, the footer goes ahead first:
 * a new one is written far behind the old, which extends the file, and is made durable; only then may anything use the
 * room between. So the file always ends in a valid footer, or, when power fails amid the extension, the copy at 0 is
 * valid.
 *
 * The old footer's sector is never made part of a block: everything in new room therefore is zeros from the host, and
 * in a dynamic image it does not matter which of BAT entry, bitmap and data reaches the disk first. Room that was there
 * already at open may hold remains of a crash; it is zeroed before use, behind a barrier.
 *
 * A block set free passes through limbo:
 *
 *	linked ── discard ──► limbo(generation) ── that flush is durable, release(tag) ──► punched, free ──► linked
 */
#include "vhd/vhd1_int.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/log.h"
#include "base/seed.h"

#define STEP_BYTES SP_MIB(64)
#define STEP_BLOCKS 16u
#define DATA_ALIGN_SECTORS 8u	/* 4 KiB: writes to 4K disks need no read-modify-write */

static int write_synced(struct vhd1 *v, const void *bytes, size_t len, uint64_t offset)
{
	int r = store_write(v->img->store, bytes, len, offset);

	return r < 0 ? r : store_sync(v->img->store);
}

int vhd1_footers_write(struct vhd1 *v)
{
	int r = 0;

	/* Two steps: whichever is cut short, the other one is whole. */
	if (v->sparse)
		r = write_synced(v, &v->footer, sizeof(v->footer), 0);
	if (r == 0)
		r = write_synced(v, &v->footer, sizeof(v->footer), v->footer_offset);
	if (r < 0)
		v->failed = r;
	return r;
}

/* ---- open: footers in order before anything is written --------------------------------------------- */

/* Behind everything that is referred to; what follows there is of no use to anybody. */
static int restore_end(struct vhd1 *v, uint64_t file_size, uint64_t used)
{
	struct store *s = v->img->store;
	int r;

	v->footer_offset = s->is_device ? file_size - VHD1_SECTOR : used;
	r = write_synced(v, &v->footer, sizeof(v->footer), v->footer_offset);
	if (r == 0 && !s->is_device && file_size > used + VHD1_SECTOR) {
		r = store_resize(s, used + VHD1_SECTOR);
		if (r == 0)
			r = store_sync(s);
	}
	return r;
}

static int repair_footers(struct vhd1 *v, const struct vhd1_footers *f, uint64_t used)
{
	int r = 0;

	v->footer_offset = f->end_offset;
	if (f->end == VHD1_END_SHORT)	/* grows the file by the one missing byte */
		r = write_synced(v, &v->footer, sizeof(v->footer), v->footer_offset);
	else if (f->end != VHD1_END_GOOD)
		r = restore_end(v, f->file_size, used);
	if (r == 0 && v->sparse && !f->copy_same)
		r = write_synced(v, &v->footer, sizeof(v->footer), 0);
	return r;
}

int vhd1_space_open(struct vhd1 *v, const struct vhd1_footers *found, struct sp_err *err)
{
	uint64_t used = 0;
	int r;

	if (v->sparse) {
		r = vhd1_bat_load(v, err);
		if (r < 0)
			return r;
		used = vhd1_used_end(v);
		if (used > found->end_offset)
			return sp_err_set(err, -EBADMSG, "structures reach to %" PRIu64 ", into the footer at %" PRIu64,
					  used, found->end_offset);
	}
	r = repair_footers(v, found, used);
	if (r < 0)
		return sp_err_set(err, r, "cannot put the footers in order: %s", strerror(-r));
	v->next_free = used;
	v->zero_from = v->footer_offset + VHD1_SECTOR;
	return 0;
}

void vhd1_space_close(struct vhd1 *v)
{
	while (v->pending) {
		struct vhd1_pending *next = v->pending->next;

		sp_free(v->pending);
		v->pending = next;
	}
	sp_free(sp_take(v->free_slot));
	sp_free(sp_take(v->limbo));
	v->free_slots = v->limbos = 0;
}

/* ---- room ---------------------------------------------------------------------------------------- */

/* Puts the footer at @offset, behind the present one. */
static int move_footer_ahead(struct vhd1 *v, uint64_t offset)
{
	struct store *s = v->img->store;
	int r;

	if (s->is_device)	/* it stands at the end of the device for good */
		return -ENOSPC;
	r = store_write(s, &v->footer, sizeof(v->footer), offset);
	if (r < 0) {		/* part of it may have extended the file */
		if (store_resize(s, v->footer_offset + VHD1_SECTOR) < 0)
			v->failed = r;
		return r;
	}
	if (!SP_SEED_BUG(VHD_FOOTER_LATE))
		r = store_sync(s);
	if (r < 0) {
		v->failed = r;
		return r;
	}
	sp_debug("vhd", v->img->name, "footer moved from %" PRIu64 " to %" PRIu64, v->footer_offset, offset);
	v->next_free = v->zero_from = v->footer_offset + VHD1_SECTOR;
	v->footer_offset = offset;
	v->tail_changed = true;
	return 0;
}

static bool is_out_of_space(int r)
{
	return r == -ENOSPC || r == -EDQUOT || r == -EFBIG;
}

/* First sector at or behind @from where a block's data comes to lie on a 4 KiB boundary. */
static uint64_t slot_at_or_after(const struct vhd1 *v, uint64_t from)
{
	uint64_t sector = sp_div_ceil(from, VHD1_SECTOR);

	return sp_align_up(sector + v->shape.bitmap_sectors, DATA_ALIGN_SECTORS) - v->shape.bitmap_sectors;
}

static int make_room(struct vhd1 *v)
{
	uint64_t len = vhd1_slot_bytes(&v->shape) / VHD1_SECTOR, stride = sp_align_up(len, DATA_ALIGN_SECTORS);
	uint64_t first = slot_at_or_after(v, v->footer_offset + VHD1_SECTOR);
	uint64_t blocks = sp_min(STEP_BLOCKS, STEP_BYTES / v->shape.block_size);
	int r = -ENOSPC;

	blocks = sp_max(1, sp_min(blocks, v->shape.blocks - v->allocated));
	for (;;) {
		uint64_t end = first + (blocks - 1) * stride + len;

		if (end <= VHD1_LAST_SECTOR)
			r = move_footer_ahead(v, end * VHD1_SECTOR);
		if (blocks == 1 || v->failed < 0 || (r < 0 && !is_out_of_space(r)) || r == 0)
			return is_out_of_space(r) ? -ENOSPC : r;
		blocks = 1;
		r = -ENOSPC;
	}
}

int vhd1_slot_take(struct vhd1 *v, uint32_t *ret_slot, bool *ret_recycled)
{
	uint64_t len = vhd1_slot_bytes(&v->shape), at;
	int r;

	*ret_recycled = false;
	if (v->free_slots > 0) {
		*ret_slot = v->free_slot[--v->free_slots];
		*ret_recycled = true;
		return 0;
	}
	at = slot_at_or_after(v, v->next_free) * VHD1_SECTOR;
	if (!sp_range_ok(at, len, v->footer_offset)) {
		r = make_room(v);
		if (r < 0)
			return r;
		at = slot_at_or_after(v, v->next_free) * VHD1_SECTOR;
	}
	if ((at + len) / VHD1_SECTOR > VHD1_LAST_SECTOR)
		return -ENOSPC;
	if (at < v->zero_from) {
		r = SP_SEED_BUG(VHD_STALE_ROOM) ? 0 : store_zero(v->img->store, at, len);
		if (r < 0)
			return r;
		*ret_recycled = true;
		v->tail_changed = true;
	}
	v->next_free = at + len;
	*ret_slot = (uint32_t)(at / VHD1_SECTOR);
	return 0;
}

int vhd1_room_take(struct vhd1 *v, uint64_t bytes, uint64_t *ret_offset)
{
	uint64_t at = sp_align_up(v->next_free, VHD1_SECTOR);
	int r;

	if (!sp_range_ok(at, bytes, v->footer_offset)) {
		at = sp_align_up(v->footer_offset + VHD1_SECTOR, VHD1_SECTOR);
		r = move_footer_ahead(v, at + bytes);
		if (r < 0)
			return r;
	}
	v->next_free = at + bytes;
	v->zero_from = sp_max(v->zero_from, v->next_free);
	v->tail_changed = true;
	*ret_offset = at;
	return 0;
}

/* Space set free that does not lie in [from, to) is going to be something else. */
static void keep_free_between(struct vhd1 *v, uint64_t from, uint64_t to)
{
	uint64_t len = vhd1_slot_bytes(&v->shape);
	uint32_t n = 0;

	for (uint32_t i = 0; i < v->free_slots; i++) {
		uint64_t at = (uint64_t)v->free_slot[i] * VHD1_SECTOR;

		if (at >= from && sp_range_ok(at, len, to))
			v->free_slot[n++] = v->free_slot[i];
	}
	v->free_slots = n;
	n = 0;
	for (uint32_t i = 0; i < v->limbos; i++) {
		uint64_t at = (uint64_t)v->limbo[i].slot * VHD1_SECTOR;

		if (at >= from && sp_range_ok(at, len, to))
			v->limbo[n++] = v->limbo[i];
	}
	v->limbos = n;
}

int vhd1_space_reserve(struct vhd1 *v, uint64_t end)
{
	int r = 0;

	keep_free_between(v, end, UINT64_MAX);
	if (v->footer_offset < end)
		r = move_footer_ahead(v, sp_max(end, sp_align_up(v->footer_offset + VHD1_SECTOR, VHD1_SECTOR)));
	v->next_free = sp_max(v->next_free, end);
	return r;
}

/* ---- space set free ------------------------------------------------------------------------------ */

void vhd1_slot_give_back(struct vhd1 *v, uint32_t slot)
{
	/* What cannot be punched or remembered stays a leak, which a check finds and a compaction removes. */
	if (store_punch(v->img->store, (uint64_t)slot * VHD1_SECTOR, vhd1_slot_bytes(&v->shape)) < 0)
		return;
	if (v->free_slots == v->free_room) {
		uint32_t room = v->free_room ? 2 * v->free_room : 64;
		uint32_t *p = sp_realloc(v->free_slot, room * sizeof(*p));

		if (!p)
			return;
		v->free_slot = p;
		v->free_room = room;
	}
	v->free_slot[v->free_slots++] = slot;
}

int vhd1_slot_to_limbo(struct vhd1 *v, uint32_t slot)
{
	if (SP_SEED_BUG(VHD_RECYCLE_EARLY)) {
		vhd1_slot_give_back(v, slot);
		return 0;
	}
	if (v->limbos == v->limbo_room) {
		uint32_t room = v->limbo_room ? 2 * v->limbo_room : 64;
		struct vhd1_limbo *p = sp_realloc(v->limbo, room * sizeof(*p));

		if (!p)
			return -ENOMEM;
		v->limbo = p;
		v->limbo_room = room;
	}
	v->limbo[v->limbos++] = (struct vhd1_limbo){ slot, v->generation };
	v->tail_changed = true;
	return 0;
}

/* The oldest of limbo comes first, so one look tells whether anything waits. */
uint64_t vhd1_freed_tag(struct vhd_image *img)
{
	struct vhd1 *v = vhd1_of(img);

	return v->limbos > 0 && v->limbo[0].generation <= v->durable ? v->durable : 0;
}

void vhd1_release(struct vhd_image *img, uint64_t tag)
{
	struct vhd1 *v = vhd1_of(img);
	uint32_t n = 0;

	tag = sp_min(tag, v->durable);
	while (n < v->limbos && v->limbo[n].generation <= tag)
		vhd1_slot_give_back(v, v->limbo[n++].slot);
	if (n == 0)
		return;
	memmove(v->limbo, v->limbo + n, (v->limbos - n) * sizeof(*v->limbo));
	v->limbos -= n;
}

int vhd1_space_trim(struct vhd1 *v)
{
	struct store *s = v->img->store;
	uint64_t used;
	int r;

	if (!v->tail_changed || v->pending)	/* what is pending has room but no entry yet */
		return 0;
	used = vhd1_used_end(v);
	if (s->is_device || used + VHD1_SECTOR > v->footer_offset) /* nothing to cut, or the footers would overlap */
		return 0;
	r = write_synced(v, &v->footer, sizeof(v->footer), used);
	if (r == 0)
		r = store_resize(s, used + VHD1_SECTOR);
	if (r == 0)
		r = store_sync(s);
	if (r == 0)
		v->footer_offset = used;
	keep_free_between(v, 0, used);
	v->next_free = used;
	v->zero_from = v->footer_offset + VHD1_SECTOR;
	return r;
}
