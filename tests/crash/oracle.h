/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_ORACLE_H
#define SPINDLE_TESTS_ORACLE_H
/*
 * oracle - what each sector of a disk may hold after a power cut.
 *
 * Every sector that is written carries its own number and a stamp, so that another block's bytes are seen at once. For
 * each sector the oracle keeps the stamps it may read as: the last one that a flush acknowledged, and all later ones.
 * Stamp 0 is zeros.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SECTOR 512u

/* The bytes of @sector with @stamp. */
void stamp_fill(uint8_t buf[static SECTOR], uint64_t sector, uint32_t stamp);
/* Do these bytes begin as a stamped sector does? Then they are payload, not metadata. */
bool stamp_is_payload(const uint8_t *buf, size_t len);
/* What a sector holds, for messages. */
void stamp_describe(const uint8_t *buf, char *text, size_t size);

enum history_kind { HISTORY_WRITE, HISTORY_ZERO, HISTORY_DISCARD, HISTORY_FLUSHED };

/* What the workload did, in order. Marks in the log carry the index. */
struct history {
	enum history_kind kind;
	uint64_t sector, count;	/* FLUSHED: 0, 0 for the whole disk; else FUA */
	uint32_t stamp;		/* WRITE: of all its sectors */
	uint32_t covers;	/* FLUSHED: entries before this index are durable */
};

struct candidates {
	uint32_t *stamp, *at;	/* stamp, and index of the history entry that wrote it */
	unsigned count, room;
};

struct oracle {
	uint64_t sectors, block;	/* of the disk, of a block */
	struct candidates *sector;
	bool *touched;			/* to be looked at: written, or at such a place in another block */
	struct history *entry;
	uint32_t entries, room;
	uint32_t applied;	/* history entries that have gone into the candidates */
};

void oracle_init(struct oracle *o, uint64_t size, uint32_t block);
void oracle_fini(struct oracle *o);
/* While the workload runs: appends, returns the index. */
uint32_t oracle_note(struct oracle *o, enum history_kind kind, uint64_t sector, uint64_t count, uint32_t stamp,
		     uint32_t covers);
/* While states are judged: history up to @index has begun (writes) or been acknowledged (flushes). */
void oracle_advance(struct oracle *o, uint32_t index);
/* All that was noted so far is the settled initial content. */
void oracle_settle(struct oracle *o);
bool oracle_allows(const struct oracle *o, uint64_t sector, const uint8_t *bytes);
void oracle_expectation(const struct oracle *o, uint64_t sector, char *text, size_t size);

#endif
