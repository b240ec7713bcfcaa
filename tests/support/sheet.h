/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_SHEET_H
#define SPINDLE_TESTS_SHEET_H
/*
 * sheet - what each sector of a small disk may read as when operations on it may fail.
 *
 * A sector carries its number and a stamp, so that another sector's bytes are seen at once; stamp 0 is zeros. There are
 *two truths per sector: what a read may give now ("live"), and what may be found after the process died or the power
 *failed
 * ("durable").
 *
 *	a write succeeds	live = { new }		durable += new
 *	a write fails		live += new		durable += new
 *	a flush succeeds				durable = live
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHEET_SECTOR 512u

/* The bytes of @sector with @stamp, and what some bytes are, for messages. */
void sheet_fill(uint8_t *buf, uint64_t sector, uint64_t count, uint32_t stamp);
/* 0 for zeros; -1 when these are not the bytes of @sector with any stamp. */
int64_t sheet_stamp(const uint8_t *buf, uint64_t sector);
void sheet_describe(const uint8_t *buf, char *text, size_t size);

#define SHEET_CHOICES 15

struct sheet_cell {
	uint16_t stamp[SHEET_CHOICES];
	uint16_t count;
};

struct sheet {
	uint64_t sectors;
	struct sheet_cell *live, *durable;
	bool *touched;
	uint16_t last;		/* stamp given out */
};

void sheet_init(struct sheet *s, uint64_t size);	/* all zeros, durable */
/* @s is zeroed, or a sheet of the same size. */
void sheet_copy(struct sheet *s, const struct sheet *from);
void sheet_fini(struct sheet *s);
/* @stamp 0: write zeroes. @ok: the caller was told so. */
void sheet_wrote(struct sheet *s, uint64_t sector, uint64_t count, uint16_t stamp, bool ok);
void sheet_discarded(struct sheet *s, uint64_t sector, uint64_t count);
void sheet_flushed(struct sheet *s);
/* @torn: a failed write may have stopped inside a sector. */
bool sheet_allows(const struct sheet_cell *c, const uint8_t *buf, uint64_t sector, bool torn);
void sheet_expected(const struct sheet_cell *c, char *text, size_t size);

#endif
