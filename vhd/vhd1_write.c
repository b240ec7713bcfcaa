/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writing into blocks. States of a block during its first write:
 *
 *	no space ── prepare ──► pending (space, initial bitmap; readers notice nothing)
 *	pending ── commit ──► linked in memory ── flush ──► linked on disk
 *	pending ── last ticket aborted ──► no space
 *
 * The initial bitmap of a dynamic image is all ones at once, because all of its data area is zeros; that of a
 * differencing image is all zeros, so that every sector still belongs to the parent.
 */
#include "vhd/vhd1_int.h"

#include <errno.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/seed.h"

/* vhd_ticket.cookie: the slot, and whether the ticket holds a reference on a pending block. */
#define COOKIE_PENDING (1ull << 32)

int vhd1_begin_write(struct vhd_image *img)
{
	struct vhd1 *v = vhd1_of(img);

	if (!(img->flags & VHD_IMG_WRITABLE))
		return -EROFS;
	if (v->failed < 0)
		return v->failed;
	v->begun = true;	/* the format has nothing that must be renewed first */
	return 0;
}

static int may_change(const struct vhd1 *v)
{
	return v->failed < 0 ? v->failed : v->begun ? 0 : -EROFS;
}

/* ---- pending blocks ------------------------------------------------------------------------------ */

static struct vhd1_pending *find_pending(const struct vhd1 *v, uint32_t block)
{
	struct vhd1_pending *p = v->pending;

	while (p && (p->block != block || p->linked))
		p = p->next;
	return p;
}

static int add_pending(struct vhd1 *v, uint32_t block, struct vhd1_pending **ret)
{
	struct vhd1_pending *p = sp_zalloc(sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	p->block = block;
	r = vhd1_slot_take(v, &p->slot, &p->recycled);
	if (r == 0) {
		r = vhd1_bitmap_init(v, p->slot, !v->differencing);
		if (r < 0)
			vhd1_slot_give_back(v, p->slot);
	}
	if (r < 0) {
		sp_free(p);
		return r;
	}
	p->next = v->pending;
	v->pending = p;
	*ret = p;
	return 0;
}

static void put_pending(struct vhd1 *v, uint32_t slot)
{
	struct vhd1_pending **link = &v->pending, *p;

	while ((*link)->slot != slot)
		link = &(*link)->next;
	p = *link;
	if (--p->refs > 0)
		return;
	*link = p->next;
	if (!p->linked) {
		vhd1_cache_drop(&v->bitmaps, p->block);
		vhd1_slot_give_back(v, p->slot);
	}
	sp_free(p);
}

static void link_pending(struct vhd1 *v, uint32_t slot)
{
	struct vhd1_pending *p = v->pending;

	while (p->slot != slot)
		p = p->next;
	if (p->linked)
		return;
	p->linked = true;
	vhd1_bat_set(v, p->block, slot);
	vhd1_cache_drop(&v->bitmaps, p->block);
	if (!v->differencing)
		vhd1_block_set_full(v, p->block, true);
	/* Zeros and bitmap first, then the way to them. New room needs no barrier: all of it is zeros anyway. */
	if (p->recycled && !SP_SEED_BUG(VHD_RECYCLE_NO_BARRIER))
		v->barrier = true;
}

/* ---- the three calls ----------------------------------------------------------------------------- */

static int prepare_linked(struct vhd1 *v, uint32_t block, uint32_t slot, struct vhd_ticket *t)
{
	uint32_t first = (uint32_t)(t->offset & (v->shape.block_size - 1)) / VHD1_SECTOR;
	uint32_t count = (uint32_t)(t->len / VHD1_SECTOR), run;
	bool present;
	int r = vhd1_bitmap_run(v, block, slot, first, first + count, &present, &run);

	t->cookie = slot;
	t->needs_commit = !present || run < count;
	return r;
}

static int prepare_unlinked(struct vhd1 *v, uint32_t block, struct vhd_ticket *t)
{
	struct vhd1_pending *p = find_pending(v, block);
	int r = p ? 0 : add_pending(v, block, &p);

	if (r < 0)
		return r;
	p->refs++;
	t->cookie = p->slot | COOKIE_PENDING;
	t->needs_commit = true;
	return 0;
}

int vhd1_prepare_write(struct vhd_image *img, uint64_t offset, uint64_t len, struct vhd_ticket *ret_ticket)
{
	struct vhd1 *v = vhd1_of(img);
	struct vhd_ticket t = { .offset = offset, .len = len, .file_offset = offset };
	uint32_t block, in_block, slot;
	int r = may_change(v);

	if (r < 0)
		return r;
	if (v->sparse) {
		block = (uint32_t)(offset >> v->shape.block_shift);
		in_block = (uint32_t)(offset & (v->shape.block_size - 1));
		t.len = sp_min(len, v->shape.block_size - in_block);
		r = vhd1_bat_get(v, block, &slot);
		if (r == 0)
			r = slot == VHD1_UNUSED ? prepare_unlinked(v, block, &t) : prepare_linked(v, block, slot, &t);
		if (r < 0)
			return r;
		t.file_offset = vhd1_data_offset(&v->shape, (uint32_t)t.cookie) + in_block;
	}
	*ret_ticket = t;
	return 0;
}

int vhd1_commit_write(struct vhd_image *img, const struct vhd_ticket *t)
{
	struct vhd1 *v = vhd1_of(img);
	uint32_t slot = (uint32_t)t->cookie, block, first;
	int r = may_change(v);

	if (!t->needs_commit)
		return 0;
	block = (uint32_t)(t->offset >> v->shape.block_shift);
	first = (uint32_t)(t->offset & (v->shape.block_size - 1)) / VHD1_SECTOR;
	if (r == 0 && t->cookie & COOKIE_PENDING)
		link_pending(v, slot);
	/* A discard that overtook the write has taken the block away: the write counts as done before it. */
	if (r == 0 && v->bat[block] == slot)
		r = vhd1_bitmap_set(v, block, slot, first, (uint32_t)(t->len / VHD1_SECTOR));
	if (t->cookie & COOKIE_PENDING)
		put_pending(v, slot);
	return r;
}

void vhd1_abort_write(struct vhd_image *img, const struct vhd_ticket *t)
{
	if (t->cookie & COOKIE_PENDING)
		put_pending(vhd1_of(img), (uint32_t)t->cookie);
}

/* ---- discard ------------------------------------------------------------------------------------- */

/*
 * A block can be taken away where nothing lies below it. Not under a saved state, which forbids restructuring, nor
 * with XenServer's batmap, where the block would have to lose a bit.
 */
static bool can_unlink(const struct vhd1 *v)
{
	return !v->differencing && !v->batmap && v->footer.saved_state != 1;
}

/* One block's part of a discard: *ret_done as in vhd_format.discard. */
static int discard_in_block(struct vhd1 *v, uint32_t block, bool whole, bool *ret_done)
{
	uint32_t slot;
	int r = vhd1_bat_get(v, block, &slot);

	*ret_done = r == 0 && slot == VHD1_UNUSED;
	if (r < 0 || *ret_done || !whole || !can_unlink(v))
		return r;
	r = vhd1_slot_to_limbo(v, slot);
	if (r < 0)
		return r;
	vhd1_bat_set(v, block, VHD1_UNUSED);
	vhd1_cache_drop(&v->bitmaps, block);
	vhd1_block_set_full(v, block, false);
	*ret_done = true;
	return 0;
}

int vhd1_discard(struct vhd_image *img, uint64_t offset, uint64_t len, uint64_t *ret_len, bool *ret_done)
{
	struct vhd1 *v = vhd1_of(img);
	uint64_t done_len = 0;
	int r = may_change(v);

	if (r < 0)
		return r;
	*ret_len = len;
	*ret_done = false;
	if (!v->sparse || v->differencing)
		return 0;
	while (done_len < len) {
		uint64_t at = offset + done_len;
		uint32_t block = (uint32_t)(at >> v->shape.block_shift);
		uint64_t from = (uint64_t)block << v->shape.block_shift;
		uint64_t end = sp_min(from + v->shape.block_size, img->size);
		uint64_t piece = sp_min(end - at, len - done_len);
		bool done;

		r = discard_in_block(v, block, at == from && piece == end - from, &done);
		if (r < 0)
			return r;
		if (!done) {
			*ret_len = done_len > 0 ? done_len : piece;
			*ret_done = done_len > 0;
			return 0;
		}
		done_len += piece;
	}
	*ret_done = true;
	return 0;
}
