/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_LOAD_H
#define SPINDLE_TESTS_LOAD_H
/*
 * load - a process that writes to a disk through a queue until it is killed, and what it has told its parent by then.
 *
 * The disk has cells of 4 KiB. Each write of a cell carries a higher stamp than the one before, with one write of a
 * cell at a time, so a cell may hold anything from the last stamp a flush acknowledged up to the last one issued. Cells
 * of the last quarter are discarded now and then: they may also hold zeros, but never another cell's bytes.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "vhd/vhd.h"

#define LOAD_CELL 4096u
#define LOAD_CELLS 2048u
#define LOAD_TRIMMED (LOAD_CELLS / 4 * 3)	/* from here on cells are discarded */
#define LOAD_SIZE (64u << 20)

/* In memory that outlives the writer: MAP_SHARED, made before the fork. */
struct load {
	_Atomic uint32_t issued[LOAD_CELLS], acked[LOAD_CELLS];
	_Atomic uint64_t writes, flushes;	/* acknowledged, of all runs */
	atomic_bool running;			/* the disk is open and the first write is under way */
	_Atomic int error;			/* the first one the writer met; it exits then */
};

struct load *load_new(void);
void load_free(struct load *l);

/* Opens @path and writes; returns only after an error, with it. @flags: VHD_OPEN_*. */
int load_write(struct load *l, const char *path, unsigned flags, uint64_t seed);
/* The same on a disk that is open, which stays open; also ends when *stop becomes true. */
int load_run(struct load *l, struct vhd_disk *d, uint64_t seed, atomic_bool *stop);
/* Writes every cell once, flushes and closes: content for operations on whole images. 0 or negative errno. */
int load_fill(struct load *l, const char *path, unsigned every, unsigned from);

/* What is found is what must be there from now on. Returns 0, or -1 with a text. @write: opens for writing, and
 * finishes with a clean close and a check. */
int load_verify(struct load *l, const char *path, bool write, uint64_t *ret_open_ns, char *text, size_t size);

#endif
