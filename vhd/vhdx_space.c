/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VHDX space: which MiB of the file belong to whom. Only for writable images.
 *
 *                     alloc                                 discard: free
 *   fresh end of file ─────► used ────────────────────────────────────────► limbo (generation g)
 *                             ▲                                               │ the batch sealed as g is durable
 *                             │ alloc: zeroed, then a                         ▼
 *                             │ barrier before the log entry                 limbo, announced by freed_tag()
 *                             └──────────────────────── free ◄────────────────┘ release(): nobody has I/O in flight
 *                                                            there; punched, so the host has it back
 *
 * - Space in limbo may still be named by the BAT entry on disk: whoever wrote there now would change the old block
 *   after a crash. vhd-formats.md 2.11.
 * - A unit at or after @fresh has never been part of the file: the host gives zeros. Everything free below is taken for
 *   another block's old bytes, also after punching it: a hole is durable only after a sync. On a block device
 *   nothing is fresh.
 * - Anchors (states 1 and 3 with an offset) are used space, reused by their own block only. Where they are not sane
 *   nobody owns them: they stay as they are, unused, until another open.
 */
#include "vhd/vhdx_write_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bitmap.h"
#include "base/seed.h"

#define GROW_STEP SP_MIB(64)
#define UNITS_MAX (UINT64_C(1) << 27)	/* 128 TiB of file: a full 64 TiB disk with its bitmaps, twice */
#define SCAN_BYTES (256u << 10)

struct limbo {
	uint64_t offset, len, generation;
};

struct vhdx_space {
	uint8_t *used;			/* a bit per MiB of the file */
	uint64_t units, room;		/* bits in use and allocated; all past @units are free */
	uint64_t fresh;			/* first unit of the fresh end */
	uint64_t free;			/* free units below @fresh */
	uint64_t hint;			/* no free unit below this one */
	uint64_t too_long;		/* no free run of this length below @fresh */
	uint64_t end;			/* end of the last used unit */
	bool anchors_insane;
	struct limbo *limbo;		/* in order of generation */
	size_t limbo_count, limbo_room;
	uint64_t generation, durable;
};

/* ---- the bitmap ---------------------------------------------------------------------------------- */

static int make_room(struct vhdx_space *sp, uint64_t units)
{
	uint64_t room = sp_max(sp_align_up(units, 8 * VHDX_PAGE), sp->room + sp->room / 4);
	uint8_t *used;

	if (units > UNITS_MAX)
		return -EFBIG;
	if (units <= sp->room)
		return 0;
	room = sp_align_up(room, 8);
	used = sp_realloc(sp->used, room / 8);
	if (!used)
		return -ENOMEM;
	memset(used + sp->room / 8, 0, (room - sp->room) / 8);
	sp->used = used;
	sp->room = room;
	return 0;
}

static bool is_free(const struct vhdx_space *sp, uint64_t unit, uint64_t count)
{
	return !sp_bit_get(sp->used, unit, false) && sp_bits_run(sp->used, unit, unit + count, false) == count;
}

static void mark_used(struct vhdx_space *sp, uint64_t unit, uint64_t count)
{
	sp_bits_set(sp->used, unit, count, false);
	if (unit < sp->fresh)
		sp->free -= count;
	sp->end = sp_max(sp->end, unit + count);
	if (sp->hint == unit)
		sp->hint = unit + count;
}

static void mark_free(struct vhdx_space *sp, uint64_t unit, uint64_t count)
{
	sp_bits_clear(sp->used, unit, count, false);
	sp->free += count;
	sp->hint = sp_min(sp->hint, unit);
	sp->too_long = UINT64_MAX;
	if (unit + count != sp->end)
		return;
	for (sp->end = unit; sp->end > 0 && !sp_bit_get(sp->used, sp->end - 1, false);)
		sp->end--;
}

static bool find_free(struct vhdx_space *sp, uint64_t count, uint64_t *ret_unit)
{
	uint64_t unit = sp->hint;

	if (sp->free < count || count >= sp->too_long)
		return false;
	while (unit < sp->fresh) {
		uint64_t run = sp_bits_run(sp->used, unit, sp->fresh, false);

		if (!sp_bit_get(sp->used, unit, false)) {
			if (run >= count) {
				*ret_unit = unit;
				return true;
			}
		} else if (unit == sp->hint) {
			sp->hint += run;
		}
		unit += run;
	}
	sp->too_long = count;
	return false;
}

/* ---- file ---------------------------------------------------------------------------------------- */

int vhdx_space_zero(struct vhdx *x, uint64_t offset, uint64_t len)
{
	struct store *s = x->img->store;
	int r = s->is_device ? -EOPNOTSUPP : store_punch(s, offset, len);

	return r == -EOPNOTSUPP ? store_zero(s, offset, len) : r;
}

int vhdx_space_extend(struct vhdx *x, uint64_t end)
{
	struct store *s = x->img->store;
	uint64_t size = sp_max(end, sp_align_down(x->file_size, VHDX_MIB) + GROW_STEP);
	int r;

	if (end <= x->file_size)
		return 0;
	if (s->is_device)
		return -ENOSPC;
	r = store_resize(s, size);
	if ((r == -ENOSPC || r == -EFBIG) && size > end) {	/* no room for a step ahead: take what is needed */
		size = end;
		r = store_resize(s, size);
	}
	if (r < 0)
		return r == -EFBIG ? -ENOSPC : r;
	x->file_size = size;
	return 0;
}

static int alloc_recycled(struct vhdx *x, uint64_t units, uint64_t *ret_offset)
{
	struct vhdx_space *sp = x->space;
	uint64_t unit;
	int r;

	if (!find_free(sp, units, &unit))
		return -ENOSPC;
	r = vhdx_space_extend(x, SP_MIB(unit + units));		/* the last MiB of the file may be a part of one */
	if (r == 0 && !SP_SEED_BUG(VHDX_NO_ZERO_FILL))
		r = vhdx_space_zero(x, SP_MIB(unit), SP_MIB(units));
	if (r < 0)
		return r;
	mark_used(sp, unit, units);
	*ret_offset = SP_MIB(unit);
	return 0;
}

static int alloc_fresh(struct vhdx *x, uint64_t units, uint64_t *ret_offset)
{
	struct vhdx_space *sp = x->space;
	uint64_t unit = sp->fresh;
	int r = make_room(sp, unit + units);

	if (r == 0)
		r = vhdx_space_extend(x, SP_MIB(unit + units));
	if (r < 0)
		return r == -EFBIG ? -ENOSPC : r;
	mark_used(sp, unit, units);
	sp->fresh = unit + units;
	*ret_offset = SP_MIB(unit);
	return 0;
}

int vhdx_space_alloc(struct vhdx *x, uint64_t len, uint64_t *ret_offset, bool *ret_recycled)
{
	uint64_t units = len / VHDX_MIB;
	int r = alloc_recycled(x, units, ret_offset);

	*ret_recycled = r == 0;
	return r == -ENOSPC ? alloc_fresh(x, units, ret_offset) : r;
}

void vhdx_space_undo(struct vhdx *x, uint64_t offset, uint64_t len)
{
	mark_free(x->space, offset / VHDX_MIB, len / VHDX_MIB);
}

uint64_t vhdx_space_end(const struct vhdx *x)
{
	return SP_MIB(x->space->end);
}

/* ---- limbo --------------------------------------------------------------------------------------- */

int vhdx_space_reserve(struct vhdx *x, size_t count)
{
	struct vhdx_space *sp = x->space;
	size_t room = sp->limbo_room + sp->limbo_room / 2 + count;
	struct limbo *l;

	if (count <= sp->limbo_room - sp->limbo_count)
		return 0;
	l = sp_realloc(sp->limbo, room * sizeof(*l));
	if (!l)
		return -ENOMEM;
	sp->limbo = l;
	sp->limbo_room = room;
	return 0;
}

void vhdx_space_free(struct vhdx *x, uint64_t offset, uint64_t len)
{
	struct vhdx_space *sp = x->space;
	struct limbo *last = sp->limbo_count ? &sp->limbo[sp->limbo_count - 1] : NULL;

	if (SP_SEED_BUG(VHDX_REUSE_BEFORE_DURABLE)) {
		mark_free(sp, offset / VHDX_MIB, len / VHDX_MIB);
	} else if (last && last->generation == sp->generation && last->offset + last->len == offset) {
		last->len += len;
	} else {
		sp->limbo[sp->limbo_count++] = (struct limbo){ offset, len, sp->generation };
	}
}

uint64_t vhdx_space_seal(struct vhdx *x)
{
	return x->space->generation++;
}

void vhdx_space_durable(struct vhdx *x, uint64_t generation)
{
	x->space->durable = sp_max(x->space->durable, generation);
}

/* vhd_format.freed_tag: the generation whose space waits for release(), 0: none. */
uint64_t vhdx_freed_tag(struct vhd_image *img)
{
	const struct vhdx_space *sp = vhdx_of(img)->space;

	return sp && sp->limbo_count > 0 && sp->limbo[0].generation <= sp->durable ? sp->durable : 0;
}

/* vhd_format.release: the space of @tag and before may be reused, and goes back to the host. */
void vhdx_release(struct vhd_image *img, uint64_t tag)
{
	struct vhdx *x = vhdx_of(img);
	struct vhdx_space *sp = x->space;
	size_t n = 0;

	if (!sp || x->failed)
		return;
	tag = sp_min(tag, sp->durable);		/* never before it is durable, whatever the caller believes */
	for (; n < sp->limbo_count && sp->limbo[n].generation <= tag; n++) {
		struct limbo *l = &sp->limbo[n];

		/* Only a courtesy to the host: before it is used again the space is zeroed with a checked result. */
		if (!img->store->is_device && l->offset < x->file_size)
			(void)store_punch(img->store, l->offset, sp_min(l->len, x->file_size - l->offset));
		mark_free(sp, l->offset / VHDX_MIB, l->len / VHDX_MIB);
	}
	if (n == 0)
		return;
	sp->limbo_count -= n;
	memmove(sp->limbo, sp->limbo + n, sp->limbo_count * sizeof(*sp->limbo));
}

/* ---- open: who owns what ------------------------------------------------------------------------- */

struct scan {
	struct vhdx *x;
	struct sp_err *err;
	bool anchors;			/* second pass: only states 1 and 3 */
	bool seen_anchors;
	uint64_t partial;		/* a block in state 7 whose bitmap slot has not been met yet, or UINT64_MAX */
};

/* Marks [offset, offset + len) unless it is out of bounds or taken. */
static bool claim(struct vhdx_space *sp, uint64_t offset, uint64_t len)
{
	uint64_t unit = offset / VHDX_MIB, count = sp_div_ceil(len, VHDX_MIB);

	if (unit == 0 || !sp_range_ok(unit, count, sp->fresh) || !is_free(sp, unit, count))
		return false;
	mark_used(sp, unit, count);
	return true;
}

static const char *owner(const struct vhdx *x, uint64_t offset, uint64_t len)
{
	if (sp_ranges_overlap(offset, len, 0, VHDX_MIB))
		return "the header section";
	if (sp_ranges_overlap(offset, len, x->header.log_offset, x->header.log_length))
		return "the log";
	for (unsigned i = 0; i < x->regions.count; i++) {
		if (sp_ranges_overlap(offset, len, x->regions.entry[i].offset, x->regions.entry[i].length))
			return (int)i == x->regions.bat ? "the BAT" :
			       (int)i == x->regions.metadata ? "the metadata region" : "a region";
	}
	return "another block";
}

static int refuse(struct scan *sc, const char *what, uint64_t number, uint64_t index, const char *why)
{
	return sp_err_set(sc->err, -EBADMSG, "%s %" PRIu64 " (BAT entry %" PRIu64 " at file offset %#" PRIx64 ") %s; "
			  "open read-only to save what is good, see vhd-tool check", what, number, index,
			  sc->x->bat_offset + index * sizeof(le64_t), why);
}

static int claim_entry(struct scan *sc, const char *what, uint64_t number, uint64_t index, uint64_t offset,
		       uint64_t len, uint64_t must_hold)
{
	struct vhdx *x = sc->x;
	char why[160];

	if (!sp_range_ok(offset, must_hold, x->file_size)) {
		snprintf(why, sizeof(why), "at %#" PRIx64 " ends past the end of the file, %#" PRIx64, offset,
			 x->file_size);
		return refuse(sc, what, number, index, why);
	}
	if (!claim(x->space, offset, len) && !SP_SEED_BUG(VHDX_SPACE_OVERLAP)) {
		snprintf(why, sizeof(why), "at %#" PRIx64 " overlaps %s", offset, owner(x, offset, len));
		return refuse(sc, what, number, index, why);
	}
	return 0;
}

static int take_slot(struct scan *sc, uint64_t chunk, uint64_t index, uint64_t entry)
{
	bool partial = sc->partial != UINT64_MAX;
	char why[96];

	if (!sc->x->geo.differencing)	/* means nothing here, and QEMU up to 7.2 leaves garbage: quirk 33 */
		return 0;
	sc->partial = UINT64_MAX;
	if (entry == 0 && partial)
		return refuse(sc, "bitmap block", chunk, index, "is missing, but a block of its chunk is partial");
	if (VHDX_BAT_STATE(entry) == VHDX_NOT_PRESENT && !partial)
		return 0;
	if (VHDX_BAT_STATE(entry) != VHDX_BITMAP_PRESENT || VHDX_BAT_RESERVED(entry) != 0) {
		snprintf(why, sizeof(why), "holds %#" PRIx64 ", expected state 0 or 6", entry);
		return refuse(sc, "bitmap block", chunk, index, why);
	}
	return claim_entry(sc, "bitmap block", chunk, index, VHDX_BAT_OFFSET(entry), VHDX_MIB, VHDX_MIB);
}

static int take_block(struct scan *sc, uint64_t block, uint64_t index, uint64_t entry)
{
	const struct vhdx_geometry *g = &sc->x->geo;
	unsigned state = VHDX_BAT_STATE(entry);
	char why[96];

	switch (VHDX_BAT_RESERVED(entry) ? 8 : state) {
	case VHDX_UNDEFINED:
	case VHDX_UNMAPPED:
		sc->seen_anchors |= VHDX_BAT_OFFSET(entry) != 0;
		return 0;
	case VHDX_NOT_PRESENT:
	case VHDX_ZERO:
		return 0;
	case VHDX_PARTIALLY_PRESENT:
		if (!g->differencing)
			return refuse(sc, "block", block, index, "is partially present in an image without parent");
		sc->partial = block;
		break;
	case VHDX_FULLY_PRESENT:
		break;
	default:
		snprintf(why, sizeof(why), "holds %#" PRIx64 ", a reserved state or reserved bits", entry);
		return refuse(sc, "block", block, index, why);
	}
	return claim_entry(sc, "block", block, index, VHDX_BAT_OFFSET(entry), g->block_size,
			   block == g->blocks - 1 ? 1 : g->block_size);
}

static void take_anchor(struct scan *sc, uint64_t entry)
{
	unsigned state = VHDX_BAT_STATE(entry);

	if ((state == VHDX_UNDEFINED || state == VHDX_UNMAPPED) && VHDX_BAT_OFFSET(entry) != 0 &&
	    (!sp_range_ok(VHDX_BAT_OFFSET(entry), sc->x->geo.block_size, sc->x->file_size) ||
	     !claim(sc->x->space, VHDX_BAT_OFFSET(entry), sc->x->geo.block_size)))
		sc->x->space->anchors_insane = true;
}

static int take_entry(struct scan *sc, uint64_t index, uint64_t entry)
{
	const struct vhdx_geometry *g = &sc->x->geo;
	uint64_t per_chunk = (uint64_t)g->chunk_ratio + 1;
	uint64_t chunk = index / per_chunk, block = vhdx_block_at(g, index);

	if (index % per_chunk == g->chunk_ratio)
		return sc->anchors ? 0 : take_slot(sc, chunk, index, entry);
	if (block >= g->blocks)			/* filler of a differencing image's last chunk */
		return 0;
	if (sc->anchors) {
		take_anchor(sc, entry);
		return 0;
	}
	return take_block(sc, block, index, entry);
}

/* A hole holds zeros, and those only matter where a bitmap slot was due. */
static int skip_hole(struct scan *sc, uint64_t index, uint64_t end)
{
	const struct vhdx_geometry *g = &sc->x->geo;
	uint64_t slot;

	if (sc->anchors || sc->partial == UINT64_MAX)
		return 0;
	slot = vhdx_bitmap_index(g, sc->partial >> g->chunk_shift);
	return slot >= index && slot < end ? take_slot(sc, sc->partial >> g->chunk_shift, slot, 0) : 0;
}

static int scan_bat(struct scan *sc, le64_t *buf)
{
	struct vhdx *x = sc->x;
	uint64_t entries = x->geo.bat_entries, index = 0, data;
	int r = 0;

	while (r == 0 && index < entries) {
		uint64_t at = x->bat_offset + index * sizeof(*buf);
		size_t n = (size_t)sp_min(entries - index, SCAN_BYTES / sizeof(*buf));

		if (store_seek_data(x->img->store, at, &data) == 0 && data >= at + VHDX_PAGE) {
			uint64_t end = sp_min(entries, (sp_align_down(data, VHDX_PAGE) - x->bat_offset) / sizeof(*buf));

			r = skip_hole(sc, index, end);
			index = end;
			continue;
		}
		/* Whole pages, the region is long enough: some stores want aligned transfers. */
		r = store_read(x->img->store, buf, sp_align_up(n * sizeof(*buf), VHDX_PAGE), at);
		if (r < 0)
			return sp_err_set(sc->err, r, "cannot read the BAT at file offset %#" PRIx64 ": %s", at,
					  strerror(-r));
		for (size_t i = 0; r == 0 && i < n; i++)
			r = take_entry(sc, index + i, le64_get(buf[i]));
		index += n;
	}
	return r;
}

static int take_structures(struct vhdx *x, struct sp_err *err)
{
	struct vhdx_space *sp = x->space;

	sp_bits_set(sp->used, 0, 1, false);
	sp->free--;
	sp->hint = sp->end = 1;
	if (!claim(sp, x->header.log_offset, x->header.log_length))
		return sp_err_set(err, -EBADMSG, "the log at %#" PRIx64 " does not lie free inside the file",
				  x->header.log_offset);
	for (unsigned i = 0; i < x->regions.count; i++) {
		if (!claim(sp, x->regions.entry[i].offset, x->regions.entry[i].length))
			return sp_err_set(err, -EBADMSG, "the region at %#" PRIx64 " does not lie free inside the file",
					  x->regions.entry[i].offset);
	}
	return 0;
}

static int scan_all(struct vhdx *x, struct sp_err *err)
{
	struct scan sc = { .x = x, .err = err, .partial = UINT64_MAX };
	SP_AUTO_FREE le64_t *buf = sp_alloc_aligned(VHDX_PAGE, SCAN_BYTES);
	int r = take_structures(x, err);

	if (!buf)
		return sp_err_set(err, -ENOMEM, "out of memory");
	if (r == 0)
		r = scan_bat(&sc, buf);
	if (r == 0 && sc.seen_anchors) {
		sc.anchors = true;
		r = scan_bat(&sc, buf);
	}
	return r;
}

int vhdx_space_open(struct vhdx *x, struct sp_err *err)
{
	uint64_t units = sp_div_ceil(x->file_size, VHDX_MIB), used_end;
	struct vhdx_space *sp;
	int r;

	if (x->header.log_length == 0)
		return sp_err_set(err, -ENOTSUP, "the image has no log (length 0): it can only be opened read-only");
	sp = sp_zalloc(sizeof(*sp));
	if (!sp)
		return sp_err_set(err, -ENOMEM, "out of memory");
	x->space = sp;
	sp->generation = 1;
	sp->too_long = UINT64_MAX;
	/* A last block that sticks out of the file may need up to one block more. */
	used_end = units + x->geo.block_size / VHDX_MIB;
	r = make_room(sp, used_end);
	if (r < 0) {
		vhdx_space_close(x);
		return sp_err_set(err, r, r == -ENOMEM ? "out of memory" : "the file is longer than 128 TiB");
	}
	sp->free = sp->fresh = used_end;
	r = scan_all(x, err);
	if (r < 0) {
		vhdx_space_close(x);
		return r;
	}
	/* What was added for that block is fresh unless it was taken. */
	sp->fresh = x->img->store->is_device ? x->file_size / VHDX_MIB : sp_max(units, sp->end);
	sp->free -= used_end - sp->fresh;
	return 0;
}

void vhdx_space_close(struct vhdx *x)
{
	if (!x->space)
		return;
	sp_free(x->space->limbo);
	sp_free(x->space->used);
	sp_free(x->space);
	x->space = NULL;
}

bool vhdx_space_owns_anchor(const struct vhdx *x, uint64_t entry)
{
	unsigned state = VHDX_BAT_STATE(entry);

	return (state == VHDX_UNDEFINED || state == VHDX_UNMAPPED) && VHDX_BAT_OFFSET(entry) != 0 &&
	       !x->space->anchors_insane;
}
