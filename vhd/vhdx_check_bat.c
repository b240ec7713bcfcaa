/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The checker's view of the BAT: each entry by itself, then who shares space with whom, then what nobody uses.
 *
 * The table streams by in pieces of 1 MiB. Two bits per MiB of the file remember whether a unit is used and whether it
 * was claimed twice; when that happened a second pass names every claimant, for nobody can tell who is right.
 */
#include "vhd/vhdx_check_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/seed.h"
#include "vhd/vhdx_layout.h"

#define PIECE VHDX_MIB
#define UNITS_MAX (UINT64_C(1) << 27)	/* 128 TiB of file: a full 64 TiB disk with its bitmaps, twice */

struct bat {
	struct vhdx_checker *c;
	uint64_t offset;		/* of the region */
	uint64_t units;			/* of 1 MiB, the last may be partial */
	uint8_t *used, *twice;
	bool any_twice, any_anchor;
	/* the chunk under way: payload blocks in state 7 */
	uint64_t partial_blocks, first_partial;
	uint64_t bitmap_garbage;	/* non-zero slots of an image that has no bitmaps */
};

/* One entry, taken apart. */
struct slot {
	uint64_t index, entry;
	uint64_t block;			/* payload: which; behind the disk: >= geo.blocks */
	bool bitmap;
	uint64_t offset, len;		/* space it claims, len 0: none */
};

static int finding(const struct bat *b, enum vhd_severity sev, uint64_t index, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static int finding(const struct bat *b, enum vhd_severity sev, uint64_t index, const char *fmt, ...)
{
	char structure[48], text[200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	snprintf(structure, sizeof(structure), "BAT entry %" PRIu64, index);
	return vhd_report_add(b->c->rep, sev, false, false, b->offset + index * sizeof(le64_t), structure, "%s", text);
}

/* ---- one entry ----------------------------------------------------------------------------------- */

static void slot_make(const struct vhdx_geometry *g, uint64_t index, uint64_t entry, struct slot *ret_slot)
{
	uint64_t per_chunk = g->chunk_ratio + UINT64_C(1), chunk = index / per_chunk, in_chunk = index % per_chunk;

	*ret_slot = (struct slot){
		.index = index,
		.entry = entry,
		.bitmap = in_chunk == g->chunk_ratio,
		.block = (chunk << g->chunk_shift) + in_chunk,
		.offset = VHDX_BAT_OFFSET(entry),
	};
}

/* Bytes of the file the entry cannot do without. The end of the last block, behind the disk, may be missing (2.13). */
static uint64_t bytes_needed(const struct vhdx_geometry *g, const struct slot *s)
{
	if (s->bitmap)
		return VHDX_MIB;
	if (s->block == g->blocks - 1)
		return g->virtual_size - (s->block << g->block_shift);
	return g->block_size;
}

/* An entry that names space: is it there? Sets s->len when it is. */
static int check_place(struct bat *b, struct slot *s)
{
	const struct vhdx_checker *c = b->c;
	uint64_t len = s->bitmap ? VHDX_MIB : c->geo.block_size;

	if (s->offset < VHDX_HEADER_SECTION_SIZE)
		return finding(b, VHD_SEV_ERROR, s->index, "state %u without a location", VHDX_BAT_STATE(s->entry));
	if (!sp_range_ok(s->offset, bytes_needed(&c->geo, s), c->file_size))
		return finding(b, VHD_SEV_ERROR, s->index,
			       "%" PRIu64 " bytes at %#" PRIx64 " reach past the end of the file, %#" PRIx64,
			       bytes_needed(&c->geo, s), s->offset, c->file_size);
	s->len = sp_min(len, c->file_size - s->offset);
	return 0;
}

static int check_payload(struct bat *b, struct slot *s)
{
	unsigned state = VHDX_BAT_STATE(s->entry);

	switch (state) {
	case VHDX_NOT_PRESENT:
		return 0;
	case VHDX_ZERO:
		if (s->offset != 0)
			return finding(b, VHD_SEV_WARNING, s->index, "state 2 with the location %#" PRIx64
				       ", Hyper-V refuses that", s->offset);
		return 0;
	case VHDX_UNDEFINED:
	case VHDX_UNMAPPED:
		b->any_anchor |= s->offset != 0;
		return 0;
	case VHDX_PARTIALLY_PRESENT:
		if (!b->c->geo.differencing)
			return finding(b, VHD_SEV_ERROR, s->index, "state 7 in an image without a parent");
		if (b->partial_blocks++ == 0)
			b->first_partial = s->block;
		return check_place(b, s);
	case VHDX_FULLY_PRESENT:
		return check_place(b, s);
	default:
		return finding(b, VHD_SEV_ERROR, s->index, "state %u is reserved", state);
	}
}

static int check_bitmap(struct bat *b, struct slot *s)
{
	unsigned state = VHDX_BAT_STATE(s->entry);
	uint64_t partial = b->partial_blocks;

	b->partial_blocks = 0;
	if (!b->c->geo.differencing) {
		b->bitmap_garbage += s->entry != 0;	/* some writers leave it there; nobody looks */
		return 0;
	}
	if (state == VHDX_BITMAP_PRESENT)
		return check_place(b, s);
	if (state != 0)
		return finding(b, VHD_SEV_ERROR, s->index, "bitmap slot in state %u, expected 0 or 6", state);
	if (partial > 0)
		return finding(b, VHD_SEV_ERROR, s->index, "bitmap block is missing, but %" PRIu64
			       " blocks of the chunk need it, the first is block %" PRIu64, partial, b->first_partial);
	return 0;
}

static int check_entry(struct bat *b, struct slot *s)
{
	const struct vhdx_geometry *g = &b->c->geo;

	if (s->bitmap && !g->differencing)
		return check_bitmap(b, s);
	if (VHDX_BAT_RESERVED(s->entry) != 0)
		return finding(b, VHD_SEV_ERROR, s->index, "reserved bits are set: %#018" PRIx64, s->entry);
	if (s->bitmap)
		return check_bitmap(b, s);
	if (s->block >= g->blocks && s->entry != 0)
		return finding(b, VHD_SEV_WARNING, s->index,
			       "lies behind the end of the disk but is not empty: %#" PRIx64, s->entry);
	return check_payload(b, s);
}

/* ---- space --------------------------------------------------------------------------------------- */

static void claim(struct bat *b, uint64_t offset, uint64_t len)
{
	uint64_t unit = offset / VHDX_MIB, end = sp_div_ceil(offset + len, VHDX_MIB);

	if (len == 0)
		return;
	while (unit < end) {
		uint64_t run = sp_bits_run(b->used, unit, end, false);

		if (sp_bit_get(b->used, unit, false) && !SP_SEED_BUG(VHDX_CHECK_NO_OVERLAP)) {
			sp_bits_set(b->twice, unit, run, false);
			b->any_twice = true;
		} else {
			sp_bits_set(b->used, unit, run, false);
		}
		unit += run;
	}
}

static void claim_structures(struct bat *b)
{
	const struct vhdx_checker *c = b->c;

	claim(b, 0, VHDX_HEADER_SECTION_SIZE);
	claim(b, c->header.log_offset, c->header.log_length);
	for (unsigned i = 0; i < c->regions.count; i++)
		claim(b, c->regions.entry[i].offset, c->regions.entry[i].length);
}

static const char *structure_at(const struct vhdx_checker *c, uint64_t offset, uint64_t len)
{
	if (sp_ranges_overlap(offset, len, c->header.log_offset, c->header.log_length))
		return "the log";
	for (unsigned i = 0; i < c->regions.count; i++) {
		if (!sp_ranges_overlap(offset, len, c->regions.entry[i].offset, c->regions.entry[i].length))
			continue;
		if ((int)i == c->regions.bat)
			return "the BAT";
		return (int)i == c->regions.metadata ? "the metadata" : "a region";
	}
	return "another block";
}

static bool touches(const uint8_t *map, uint64_t offset, uint64_t len)
{
	uint64_t unit = offset / VHDX_MIB, end = sp_div_ceil(offset + len, VHDX_MIB);

	return sp_bit_get(map, unit, false) || sp_bits_run(map, unit, end, false) < end - unit;
}

/* ---- passes -------------------------------------------------------------------------------------- */

static int first_pass(struct bat *b, struct slot *s)
{
	int r = check_entry(b, s);

	claim(b, s->offset, s->len);
	if (!s->bitmap && s->len > 0)
		b->c->rep->allocated_blocks++;
	return r;
}

/* Old space that a block may take back is used, unless it has become somebody else's. */
static void keep_anchor(struct bat *b, const struct slot *s)
{
	if (s->offset >= VHDX_HEADER_SECTION_SIZE && sp_range_ok(s->offset, b->c->geo.block_size, b->c->file_size) &&
	    !touches(b->used, s->offset, b->c->geo.block_size))
		claim(b, s->offset, b->c->geo.block_size);
}

static int second_pass(struct bat *b, struct slot *s)
{
	unsigned state = VHDX_BAT_STATE(s->entry);
	uint64_t len = s->bitmap ? VHDX_MIB : b->c->geo.block_size;

	if ((s->bitmap && !b->c->geo.differencing) || VHDX_BAT_RESERVED(s->entry) != 0)
		return 0;
	if (!s->bitmap && s->block >= b->c->geo.blocks)
		return 0;
	if (!s->bitmap && (state == VHDX_UNDEFINED || state == VHDX_UNMAPPED)) {
		keep_anchor(b, s);
		return 0;
	}
	if (state != VHDX_FULLY_PRESENT && state != VHDX_PARTIALLY_PRESENT)
		return 0;
	if (s->offset < VHDX_HEADER_SECTION_SIZE ||
	    !sp_range_ok(s->offset, bytes_needed(&b->c->geo, s), b->c->file_size))
		return 0;
	len = sp_min(len, b->c->file_size - s->offset);
	if (!touches(b->twice, s->offset, len))
		return 0;
	if (s->bitmap)
		return finding(b, VHD_SEV_ERROR, s->index, "bitmap block at %#" PRIx64 " shares space with %s",
			       s->offset, structure_at(b->c, s->offset, len));
	return finding(b, VHD_SEV_ERROR, s->index, "block %" PRIu64 " at %#" PRIx64 " shares space with %s", s->block,
		       s->offset, structure_at(b->c, s->offset, len));
}

static int stream(struct bat *b, int (*each)(struct bat *b, struct slot *s))
{
	SP_AUTO_FREE le64_t *piece = sp_alloc(PIECE);
	const uint64_t per_piece = PIECE / sizeof(*piece), total = b->c->geo.bat_entries;
	int r = 0;

	if (!piece)
		return -ENOMEM;
	for (uint64_t at = 0; at < total && r == 0; at += per_piece) {
		uint64_t n = sp_min(per_piece, total - at);

		r = store_read(b->c->view, piece, n * sizeof(*piece), b->offset + at * sizeof(*piece));
		for (uint64_t i = 0; i < n && r == 0; i++) {
			uint64_t entry = le64_get(piece[i]);
			struct slot s;

			slot_make(&b->c->geo, at + i, entry, &s);
			if (entry != 0 || s.bitmap)	/* an empty payload entry says nothing */
				r = each(b, &s);
		}
	}
	return r;
}

/* ---- leaks --------------------------------------------------------------------------------------- */

static int report_leak(struct bat *b, uint64_t from, uint64_t to, bool tail)
{
	struct vhdx_checker *c = b->c;
	/* A fixed image has been given its size on purpose. */
	bool fixable = tail && !c->metadata.leave_blocks_allocated;

	c->rep->leaked_bytes += to - from;
	return vhd_report_add(c->rep, VHD_SEV_LEAK, fixable, false, from, tail ? "end of file" : "space",
			      "%" PRIu64 " KiB are used by nothing%s", (to - from) / 1024,
			      tail ? "" : "; compacting gives them back");
}

static int report_leaks(struct bat *b)
{
	uint64_t file_size = b->c->file_size, unit = 0;
	int r = 0;

	while (unit < b->units && r == 0) {
		uint64_t run = sp_bits_run(b->used, unit, b->units, false), end = unit + run;

		if (sp_bit_get(b->used, unit, false))
			b->c->rep->image_end = sp_min(SP_MIB(end), file_size);
		else if (end < b->units || !b->c->file->is_device)	/* a device is as large as it is */
			r = report_leak(b, SP_MIB(unit), sp_min(SP_MIB(end), file_size), end == b->units);
		unit = end;
	}
	return r;
}

/* ---- together ------------------------------------------------------------------------------------ */

static int passes(struct bat *b)
{
	int r;

	claim_structures(b);
	r = stream(b, first_pass);
	if (r == 0 && b->partial_blocks > 0)	/* cannot be: a differencing BAT ends with a bitmap slot */
		r = -EINVAL;
	if (r == 0 && b->bitmap_garbage > 0)
		r = vhd_report_add(b->c->rep, VHD_SEV_WARNING, false, false, b->offset, "BAT", "%" PRIu64
				   " bitmap slots are not empty although the image has no bitmaps: they are ignored",
				   b->bitmap_garbage);
	if (r == 0 && (b->any_twice || b->any_anchor))
		r = stream(b, second_pass);
	if (r == 0)
		r = report_leaks(b);
	return r;
}

int vhdx_check_bat(struct vhdx_checker *c)
{
	struct bat b = {
		.c = c,
		.offset = c->regions.entry[c->regions.bat].offset,
		.units = sp_div_ceil(c->file_size, VHDX_MIB),
	};
	int r;

	c->rep->total_blocks = c->geo.blocks;
	if (b.units > UNITS_MAX)
		return vhd_report_add(c->rep, VHD_SEV_ERROR, false, false, UINT64_MAX, "file",
				      "%" PRIu64 " bytes are more than a disk of 64 TiB can need: blocks not checked",
				      c->file_size);
	b.used = sp_zalloc(b.units / 8 + 1);
	b.twice = sp_zalloc(b.units / 8 + 1);
	r = b.used && b.twice ? passes(&b) : -ENOMEM;
	sp_free(b.used);
	sp_free(b.twice);
	return r;
}
