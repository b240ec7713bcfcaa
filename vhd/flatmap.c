/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Entry: bits 0-2 kind, 3 direct write, 4-15 level, 16-63 file offset / 512. A CELLS entry is the address of the table
 * (aligned to 8) with the kind in the low bits.
 */
#include "vhd/flatmap.h"

#include <errno.h>

#include "base/alloc.h"
#include "base/bytes.h"

#define CELL_TABLES_MAX 32768u		/* 64 MiB of tables: 32 GiB of finely mixed disk */
#define PAGE_TABLES_MAX 32768u		/* 128 MiB of pages: 16 TiB of disk in use */
#define DIRECTORY_MAX ((size_t)1 << 18)	/* 128 TiB; the size is what an image says, or a sparse file */

typedef _Atomic uint64_t entry_t;

static uint64_t encode(const struct flat_place *p, uint64_t delta)
{
	uint64_t e = p->kind;

	if (p->kind == FLAT_DATA) {
		uint64_t at = p->file_offset + delta;

		/* Byte-granular places exist (a raw file's odd tail); they stay with the formats. */
		if (at % 512 != 0 || p->level > 0xfff)
			return FLAT_SLOW;
		e |= (uint64_t)p->direct_write << 3 | (uint64_t)p->level << 4 | at / 512 << 16;
	}
	return e;
}

static void decode(uint64_t e, uint64_t within, uint64_t room, struct flat_place *ret)
{
	ret->kind = e & 7;
	ret->len = room - within;
	if (ret->kind != FLAT_DATA)
		return;
	ret->direct_write = e >> 3 & 1;
	ret->level = e >> 4 & 0xfff;
	ret->file_offset = (e >> 16) * 512 + within;
}

static entry_t *cells_of(uint64_t e)
{
	return (entry_t *)(uintptr_t)(e & ~(uint64_t)7);
}

int flatmap_init(struct flatmap *m, uint64_t size)
{
	m->size = size;
	m->pages = sp_min(sp_div_ceil(size, (uint64_t)FLATMAP_UNIT * FLATMAP_PAGE_UNITS), DIRECTORY_MAX);
	m->page_tables = 0;
	m->cell_tables = 0;
	m->cell_tables_max = CELL_TABLES_MAX;
	m->page = sp_calloc(m->pages ? m->pages : 1, sizeof(*m->page));
	return m->page ? 0 : -ENOMEM;
}

void flatmap_fini(struct flatmap *m)
{
	for (size_t i = 0; m->page && i < m->pages; i++) {
		entry_t *page = atomic_load(&m->page[i]);

		if (!page)
			continue;
		for (unsigned u = 0; u < FLATMAP_PAGE_UNITS; u++) {
			uint64_t e = atomic_load(&page[u]);

			if ((e & 7) == FLAT_CELLS)
				sp_free(cells_of(e));
		}
		sp_free(page);
	}
	sp_free(m->page);
	m->page = NULL;
}

int flatmap_reset(struct flatmap *m, uint64_t size)
{
	struct flatmap fresh;
	int r = flatmap_init(&fresh, size);

	if (r < 0)
		return r;
	flatmap_fini(m);
	*m = fresh;
	return 0;
}

/* The slot of the page that holds @unit; NULL: past the directory, where nothing is remembered. */
static _Atomic(void *) *slot_of(struct flatmap *m, uint64_t unit)
{
	uint64_t index = unit / FLATMAP_PAGE_UNITS;

	return index < m->pages ? &m->page[index] : NULL;
}

/* Bytes of the unit that holds @offset which belong to the disk. */
static uint64_t unit_room(const struct flatmap *m, uint64_t unit_start)
{
	return sp_min(FLATMAP_UNIT, m->size - unit_start);
}

void flatmap_get(struct flatmap *m, uint64_t offset, struct flat_place *ret)
{
	uint64_t unit = offset / FLATMAP_UNIT, start = unit * FLATMAP_UNIT;
	_Atomic(void *) *slot = slot_of(m, unit);
	/* Pairs with the release in page_of(): a page that is seen is seen zeroed. */
	entry_t *page = slot ? atomic_load_explicit(slot, memory_order_acquire) : NULL;
	uint64_t e;

	if (!page) {
		decode(FLAT_UNRESOLVED, offset - start, unit_room(m, start), ret);
		return;
	}
	/* Pairs with the release in flatmap_put(): a cell table that is seen is seen zeroed. */
	e = atomic_load_explicit(&page[unit % FLATMAP_PAGE_UNITS], memory_order_acquire);
	if ((e & 7) == FLAT_CELLS) {
		unsigned cell = (unsigned)((offset - start) / FLATMAP_CELL);
		uint64_t cell_start = (uint64_t)cell * FLATMAP_CELL;

		e = atomic_load_explicit(&cells_of(e)[cell], memory_order_acquire);
		decode(e, offset - start - cell_start, sp_min(FLATMAP_CELL, unit_room(m, start) - cell_start), ret);
		return;
	}
	decode(e, offset - start, unit_room(m, start), ret);
}

/* The page of a unit, made when there is none; NULL: past the directory, over budget or out of memory. */
static entry_t *page_of(struct flatmap *m, uint64_t unit)
{
	_Atomic(void *) *slot = slot_of(m, unit);
	entry_t *page = slot ? atomic_load(slot) : NULL;

	if (page || !slot || m->page_tables >= PAGE_TABLES_MAX)
		return page;
	page = sp_calloc(FLATMAP_PAGE_UNITS, sizeof(*page));
	if (page) {
		m->page_tables++;
		atomic_store_explicit(slot, page, memory_order_release);
	}
	return page;
}

/* The table of a unit, made when there is none; NULL: over budget or out of memory. */
static entry_t *cells_make(struct flatmap *m, entry_t *unit)
{
	uint64_t e = atomic_load(unit);
	entry_t *cells;

	if ((e & 7) == FLAT_CELLS)
		return cells_of(e);
	if (m->cell_tables >= m->cell_tables_max)
		return NULL;
	cells = sp_calloc(FLATMAP_CELLS, sizeof(*cells));
	if (!cells)
		return NULL;
	m->cell_tables++;
	atomic_store_explicit(unit, (uint64_t)(uintptr_t)cells | FLAT_CELLS, memory_order_release);
	return cells;
}

/* Remembers [from, to) of the unit at @start in its cells; a cell that is only touched is finer than we can say. */
static void put_cells(struct flatmap *m, entry_t *cells, uint64_t start, uint64_t from, uint64_t to,
		      const struct flat_place *place)
{
	uint64_t room = unit_room(m, start);

	for (uint64_t at = sp_align_down(from, FLATMAP_CELL); at < to; at += FLATMAP_CELL) {
		uint64_t end = sp_min(at + FLATMAP_CELL, room);
		bool whole = at >= from && end <= to;

		atomic_store_explicit(&cells[at / FLATMAP_CELL], whole ? encode(place, at - from) : FLAT_SLOW,
				      memory_order_release);
	}
}

void flatmap_put(struct flatmap *m, uint64_t offset, uint64_t len, const struct flat_place *place)
{
	uint64_t unit = offset / FLATMAP_UNIT, start = unit * FLATMAP_UNIT;
	uint64_t room = unit_room(m, start), from = offset - start, to = sp_min(from + len, room);
	entry_t *page = page_of(m, unit), *entry, *cells;

	if (!page)
		return;		/* stays unresolved: slower, not wrong */
	entry = &page[unit % FLATMAP_PAGE_UNITS];
	if (from == 0 && to == room && (atomic_load(entry) & 7) != FLAT_CELLS) {
		atomic_store_explicit(entry, encode(place, 0), memory_order_release);
		return;
	}
	cells = cells_make(m, entry);
	if (cells)
		put_cells(m, cells, start, from, to, place);
}

void flatmap_forget(struct flatmap *m, uint64_t offset, uint64_t len)
{
	uint64_t end = sp_min(offset + len, m->size);

	while (offset < end) {
		uint64_t unit = offset / FLATMAP_UNIT, start = unit * FLATMAP_UNIT;
		uint64_t to = sp_min(end, start + FLATMAP_UNIT);
		_Atomic(void *) *slot = slot_of(m, unit);
		entry_t *page, *entry;

		if (!slot)
			return;
		page = atomic_load(slot);
		if (!page) {	/* nothing known in the whole page */
			offset = sp_align_down(offset, (uint64_t)FLATMAP_UNIT * FLATMAP_PAGE_UNITS) +
				 (uint64_t)FLATMAP_UNIT * FLATMAP_PAGE_UNITS;
			continue;
		}
		entry = &page[unit % FLATMAP_PAGE_UNITS];
		if ((atomic_load(entry) & 7) == FLAT_CELLS) {
			entry_t *cells = cells_of(atomic_load(entry));
			uint64_t at = sp_align_down(offset - start, FLATMAP_CELL);

			for (; at < to - start; at += FLATMAP_CELL)
				atomic_store_explicit(&cells[at / FLATMAP_CELL], FLAT_UNRESOLVED, memory_order_release);
		} else {
			atomic_store_explicit(entry, FLAT_UNRESOLVED, memory_order_release);
		}
		offset = to;
	}
}
