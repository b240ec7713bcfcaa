/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_FLATMAP_H
#define SPINDLE_VHD_FLATMAP_H
/*
 * flatmap - the answer to "where do these bytes of the chain live", remembered, so that one layer and a
 * hundred layers cost the same.
 *
 * The disk is cut into units of 1 MiB. A unit whose bytes all live in one place is one 64-bit entry; another
 * gets a table of 4 KiB cells. Entries are filled when first asked for. Reading is lock-free from any thread;
 * filling and forgetting happen under the disk's metadata lock. Tables are never freed while the disk is open,
 * which is what lets readers go without a lock.
 *
 * Layers are numbered from the base (0) upwards, so that a new leaf renumbers nothing.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FLATMAP_UNIT (1u << 20)
#define FLATMAP_CELL 4096u
#define FLATMAP_CELLS (FLATMAP_UNIT / FLATMAP_CELL)

enum flat_kind {
	FLAT_UNRESOLVED,	/* ask the formats */
	FLAT_DATA,
	FLAT_ZERO,
	FLAT_CELLS,		/* unit entry only: a table of cells */
	FLAT_SLOW,		/* ask the formats each time (finer than a cell, damaged, unknown, over budget) */
};

/* Decoded entry, and what the formats answer when asked. */
struct flat_place {
	enum flat_kind kind;
	unsigned level;		/* layer counted from the base */
	bool direct_write;
	uint64_t file_offset;
	uint64_t len;		/* from the asked offset to the end of the entry */
};

struct flatmap {
	uint64_t size;		/* of the disk */
	size_t pages;		/* directory length; what lies past it is resolved each time */
	size_t page_tables;	/* pages made */
	_Atomic(void *) *page;	/* each FLATMAP_PAGE_UNITS unit entries */
	size_t cell_tables, cell_tables_max;
};

#define FLATMAP_PAGE_UNITS 512u

int flatmap_init(struct flatmap *m, uint64_t size);
void flatmap_fini(struct flatmap *m);

/* Lock-free. kind UNRESOLVED or SLOW: nothing else is filled but len. */
void flatmap_get(struct flatmap *m, uint64_t offset, struct flat_place *ret_place);

/*
 * Under the metadata lock: [offset, offset + len) lives at one place; remembers it for every unit or cell wholly
 * inside. @len may reach past the unit; only the unit that holds @offset is touched.
 */
void flatmap_put(struct flatmap *m, uint64_t offset, uint64_t len, const struct flat_place *place);
/* Under the lock: what was known of the range may have changed. */
void flatmap_forget(struct flatmap *m, uint64_t offset, uint64_t len);
/* Under the lock, no reader inside (drained): everything is to be asked again; after a grow @size is larger. */
int flatmap_reset(struct flatmap *m, uint64_t size);

#endif
