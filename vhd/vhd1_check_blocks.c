/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Checker: BAT entries, overlapping blocks, space nothing refers to, data under 0 bits. V8 to V11, V19.
 *
 * The table is streamed; what is kept is one number per allocated block, for sorting. A table in a sparse file can
 * claim any number of blocks, so that is bounded: more than fit into the file must overlap anyway. Up to 16 GiB of
 * table may be a hole of a small file: what is in one is judged without a look at each entry.
 */
#include "vhd/vhd1_check_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bitmap.h"
#include "base/bytes.h"

#define CHUNK_ENTRIES (64u * 1024)
#define SLOTS_MAX (1u << 26)
#define DETAILS_MAX 1000u		/* findings of one kind with a text of their own */
#define TAIL_SLACK 4096u		/* padding of other writers behind the last block is no leak */

/* Allocated blocks that lie inside the file: slot << 32 | block. */
struct slots {
	uint64_t *item;
	size_t count, room;
	bool too_many;
};

static void slots_add(struct vhd1_survey *c, struct slots *s, uint32_t slot, uint32_t block)
{
	if (s->count == s->room) {
		size_t room = s->room ? 2 * s->room : 1024;
		uint64_t *p = s->count < SLOTS_MAX ? sp_realloc(s->item, room * sizeof(*p)) : NULL;

		if (!p) {
			if (s->count < SLOTS_MAX)
				c->failed = -ENOMEM;
			s->too_many = true;
			return;
		}
		s->item = p;
		s->room = room;
	}
	s->item[s->count++] = (uint64_t)slot << 32 | block;
}

static void entry_name(char name[48], uint32_t block)
{
	snprintf(name, 48, "BAT entry %" PRIu32, block);
}

/* ---- entries ------------------------------------------------------------------------------------- */

/* The file was cut inside this block: are the bytes missing known to be zeros, or to be nobody's? */
static bool missing_part_is_unwritten(struct vhd1_survey *c, uint32_t slot)
{
	const struct vhd1_shape *g = &c->shape;
	uint64_t data = vhd1_data_offset(g, slot), len = (uint64_t)g->bitmap_sectors * VHD1_SECTOR;
	uint32_t have;
	uint8_t *bits;
	bool unwritten = false;

	if (c->found.end == VHD1_END_GOOD || data > c->found.file_size ||
	    vhd1_extents_hit(&c->extents, (uint64_t)slot * VHD1_SECTOR, vhd1_slot_bytes(g)))
		return false;
	have = (uint32_t)((c->found.file_size - data) / VHD1_SECTOR);
	bits = sp_alloc((size_t)len);
	if (bits && store_read(c->store, bits, (size_t)len, (uint64_t)slot * VHD1_SECTOR) == 0)
		unwritten = sp_bits_count(bits, have, g->data_sectors - have, true) == 0;
	sp_free(bits);
	return unwritten;
}

static void check_entry(struct vhd1_survey *c, struct slots *s, uint32_t block, uint32_t slot)
{
	uint64_t at = c->shape.bat_offset + (uint64_t)block * 4;
	struct sp_err err = { 0 };
	char name[48];

	c->report->allocated_blocks++;
	if (vhd1_slot_validate(&c->shape, &c->extents, c->found.end_offset, block, slot, NULL) == 0) {
		slots_add(c, s, slot, block);
		return;
	}
	if (missing_part_is_unwritten(c, slot)) {
		entry_name(name, block);
		vhd1_note(c, VHD_SEV_ERROR, true, at, name,
			  "the file is cut inside this block, but nothing was written to the part that is missing");
		c->short_block = true;
		slots_add(c, s, slot, block);
		return;
	}
	c->sound = false;
	if (c->report->errors >= DETAILS_MAX) {
		c->report->errors++;
		return;
	}
	entry_name(name, block);
	vhd1_slot_validate(&c->shape, &c->extents, c->found.end_offset, block, slot, &err);
	vhd1_note(c, VHD_SEV_ERROR, false, at, name, "%s", sp_err_text(&err));
}

/* Zero is the footer copy's sector: as many errors as entries, and the first ones are told. */
static void check_zero_entries(struct vhd1_survey *c, struct slots *s, uint64_t block, uint64_t count)
{
	for (; count > 0 && c->report->errors < DETAILS_MAX && c->failed == 0; count--)
		check_entry(c, s, (uint32_t)block++, 0);
	if (count > 0)
		c->sound = false;
	c->report->allocated_blocks += count;
	c->report->errors += count;
}

/* Entries from @from on that are zero because they lie in a hole of the file. */
static uint64_t entries_in_hole(struct vhd1_survey *c, uint64_t from)
{
	uint64_t at = c->shape.bat_offset + from * 4, data;

	if (store_seek_data(c->store, at, &data) < 0 || data <= at)
		return 0;
	return sp_min((data - at) / 4, c->shape.max_entries - from);
}

/* Entries [from, from + n). Returns how many in use lie beyond the end of the disk. */
static uint64_t check_entries(struct vhd1_survey *c, struct slots *s, const be32_t *raw, uint64_t from, size_t n)
{
	uint64_t beyond = 0;

	for (size_t k = 0; k < n && c->failed == 0; k++) {
		uint32_t slot = be32_get(raw[k]);

		if (slot == VHD1_UNUSED)
			continue;
		if (from + k >= c->shape.blocks)
			beyond++;
		else
			check_entry(c, s, (uint32_t)(from + k), slot);
	}
	return beyond;
}

static void read_entries(struct vhd1_survey *c, struct slots *s)
{
	const struct vhd1_shape *g = &c->shape;
	be32_t *raw = sp_alloc(CHUNK_ENTRIES * sizeof(*raw));
	uint64_t beyond = 0, n;

	if (!raw)
		c->failed = -ENOMEM;
	for (uint64_t i = 0; i < g->max_entries && c->failed == 0; i += n) {
		n = entries_in_hole(c, i);
		if (n > 0) {
			uint64_t inside = i < g->blocks ? sp_min(n, g->blocks - i) : 0;

			check_zero_entries(c, s, i, inside);
			beyond += n - inside;
			continue;
		}
		n = sp_min(CHUNK_ENTRIES, g->max_entries - i);
		c->failed = store_read(c->store, raw, (size_t)n * sizeof(*raw), g->bat_offset + i * 4);
		if (c->failed == 0)
			beyond += check_entries(c, s, raw, i, (size_t)n);
	}
	sp_free(raw);
	if (beyond)
		vhd1_note(c, VHD_SEV_WARNING, false, g->bat_offset + (uint64_t)g->blocks * 4, "BAT",
			  "%" PRIu64 " entries beyond the end of the disk are in use; growing will free them",
			  beyond);
}

/* ---- overlaps and gaps --------------------------------------------------------------------------- */

static int by_slot(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void check_overlaps(struct vhd1_survey *c, const struct slots *s)
{
	uint64_t len = vhd1_slot_bytes(&c->shape), found = 0;

	for (size_t i = 1; i < s->count; i++) {
		uint64_t a = (s->item[i - 1] >> 32) * VHD1_SECTOR, b = (s->item[i] >> 32) * VHD1_SECTOR;
		char name[48];

		if (b - a >= len)
			continue;
		c->sound = false;
		if (++found > DETAILS_MAX) {
			c->report->errors++;
			continue;
		}
		snprintf(name, sizeof(name), "block %" PRIu32, (uint32_t)s->item[i]);
		vhd1_note(c, VHD_SEV_ERROR, false, b, name, "at %" PRIu64 " overlaps block %" PRIu32 " at %" PRIu64
			  "; each has %" PRIu64 " bytes", b, (uint32_t)s->item[i - 1], a, len);
	}
}

/* Bytes of [from, to) that belong to no structure; 0 when they are a hole of the host file. */
static uint64_t leaked_between(struct vhd1_survey *c, uint64_t from, uint64_t to)
{
	uint64_t leaked = to - from, data;

	for (unsigned i = 0; i < c->extents.count; i++) {
		const struct vhd1_extent *e = &c->extents.item[i];
		uint64_t a = sp_max(e->offset, from), b = sp_min(e->offset + e->len, to);

		if (a < b)
			leaked -= sp_min(b - a, leaked);
	}
	if (leaked < vhd1_slot_bytes(&c->shape) || store_seek_data(c->store, from, &data) < 0 || data >= to)
		return 0;
	return leaked;
}

static void check_gaps(struct vhd1_survey *c, const struct slots *s)
{
	uint64_t end = 0, len = vhd1_slot_bytes(&c->shape), leaked = 0, gaps = 0;

	for (size_t i = 0; i < s->count; i++) {
		uint64_t at = (s->item[i] >> 32) * VHD1_SECTOR;
		uint64_t gap = at > end ? leaked_between(c, end, at) : 0;

		leaked += gap;
		gaps += gap > 0;
		end = sp_max(end, at + len);
	}
	c->used_end = sp_max(end, c->extents.end);
	c->report->image_end = c->used_end + VHD1_SECTOR;
	if (gaps)
		vhd1_note(c, VHD_SEV_LEAK, false, UINT64_MAX, "space", "%" PRIu64 " bytes in %" PRIu64
			  " places between blocks belong to nothing; compacting removes them", leaked, gaps);
	c->report->leaked_bytes += leaked;
}

static void check_tail(struct vhd1_survey *c)
{
	uint64_t end = c->found.end_offset;

	/* With entries that make no sense nobody knows what the tail is. */
	if (!c->sound || c->store->is_device || end <= c->used_end || end - c->used_end <= TAIL_SLACK)
		return;
	vhd1_note(c, VHD_SEV_LEAK, true, c->used_end, "space", "%" PRIu64
		  " bytes behind the last block belong to nothing", end - c->used_end);
	c->report->leaked_bytes += end - c->used_end;
}

/* ---- data under 0 bits of dynamic images --------------------------------------------------------- */

struct window {
	uint8_t *bits, *data;
};

static bool is_zero(const uint8_t *p, size_t len)
{
	return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

/* First sector with a 0 bit and data in [from, from + count), or UINT32_MAX. */
static uint32_t hidden_data(struct vhd1_survey *c, const struct window *w, uint64_t data, uint32_t from, uint32_t count)
{
	uint64_t at = data + (uint64_t)from * VHD1_SECTOR, end = at + (uint64_t)count * VHD1_SECTOR;

	while (at < end && c->failed == 0) {
		uint64_t n;

		if (store_seek_data(c->store, at, &n) < 0 || n >= end)
			break;
		at = sp_align_down(n - data, VHD1_SECTOR) + data;
		n = sp_min(end - at, CHUNK_ENTRIES);
		c->failed = store_read(c->store, w->data, (size_t)n, at);
		for (uint64_t k = 0; k < n && c->failed == 0; k += VHD1_SECTOR)
			if (!is_zero(w->data + k, VHD1_SECTOR))
				return (uint32_t)((at + k - data) / VHD1_SECTOR);
		at += n;
	}
	return UINT32_MAX;
}

static void check_block_bits(struct vhd1_survey *c, const struct window *w, uint32_t block, uint32_t slot)
{
	const struct vhd1_shape *g = &c->shape;
	uint32_t sectors = vhd1_block_sectors(g, block), bad = UINT32_MAX, run;
	uint64_t data = vhd1_data_offset(g, slot);
	char name[48];

	c->failed =
		store_read(c->store, w->bits, (size_t)g->bitmap_sectors * VHD1_SECTOR, (uint64_t)slot * VHD1_SECTOR);
	for (uint32_t s = 0; s < sectors && c->failed == 0 && bad == UINT32_MAX; s += run) {
		run = (uint32_t)sp_bits_run(w->bits, s, sectors, true);
		if (!sp_bit_get(w->bits, s, true))
			bad = hidden_data(c, w, data, s, run);
	}
	if (bad == UINT32_MAX)
		return;
	snprintf(name, sizeof(name), "bitmap of block %" PRIu32, block);
	vhd1_note(c, VHD_SEV_WARNING, false, (uint64_t)slot * VHD1_SECTOR, name,
		  "sector %" PRIu32 " has data (at %" PRIu64
		  ") but its bit is 0: it reads zeros here, and as data in programs that ignore bitmaps",
		  bad, data + (uint64_t)bad * VHD1_SECTOR);
}

static void check_bits(struct vhd1_survey *c, const struct slots *s)
{
	struct window w = { sp_alloc((size_t)c->shape.bitmap_sectors * VHD1_SECTOR), sp_alloc(CHUNK_ENTRIES) };

	if (!w.bits || !w.data)
		c->failed = -ENOMEM;
	for (size_t i = 0; i < s->count && c->failed == 0; i++)
		check_block_bits(c, &w, (uint32_t)s->item[i], (uint32_t)(s->item[i] >> 32));
	sp_free(w.bits);
	sp_free(w.data);
}

void vhd1_survey_blocks(struct vhd1_survey *c)
{
	struct slots s = { 0 };

	c->report->total_blocks = c->shape.blocks;
	read_entries(c, &s);
	if (s.too_many && c->failed == 0) {
		c->sound = false;
		vhd1_note(c, VHD_SEV_ERROR, false, c->shape.bat_offset, "BAT",
			  "more than %u blocks are in use; not checked for overlaps",
			  SLOTS_MAX);
	}
	if (s.count > 0)
		qsort(s.item, s.count, sizeof(*s.item), by_slot);
	if (c->failed == 0) {
		check_overlaps(c, &s);
		check_gaps(c, &s);
		check_tail(c);
	}
	if (c->failed == 0 && c->sound && !c->short_block && be32_get(c->found.footer.type) == VHD1_TYPE_DYNAMIC)
		check_bits(c, &s);
	sp_free(s.item);
}
