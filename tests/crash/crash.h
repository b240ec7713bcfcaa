/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_CRASH_H
#define SPINDLE_TESTS_CRASH_H
/*
 * crash - the power-cut simulator:
 *
 *   oracle.c	what a sector may read as
 *   workload.c	what is going on when the power fails
 *   live.c	... to snapshots of disks in use
 *   client.c	the same through the provider, by a client of it
 *   cut.c	every state a cut could leave, opened and judged
 *   crash.c	options and totals
 */
#include "tests/support/store_log.h"
#include "tests/crash/oracle.h"
#include "tests/support/rng.h"
#include "vhd/disk_int.h"

struct crash {
	const struct workload *w;
	uint64_t seed;
	struct rng rng;
	struct store_folder *folder;	/* plain during setup, recording during run */
	struct store_log *log;		/* NULL during setup */
	struct vhd_disk *disk;
	struct oracle oracle;
	uint32_t stamp;
	/* budget and totals */
	uint64_t states_wanted, states, nested, opened_again, qemu_wanted, qemu;
	const char *qemu_file;
};

struct workload {
	const char *name;
	enum vhd_format_id format;
	uint64_t size;
	uint32_t block;
	const char *leaf;		/* the name that must open after every cut */
	bool may_be_absent;		/* ... or not exist at all */
	bool settled;			/* contents never change: an operation on the chain is going on */
	bool qemu;			/* qemu-img can judge the leaf */
	void (*setup)(struct crash *c);
	void (*run)(struct crash *c);
	/* On every state before anything else is done with it, and judged itself: what the start of a machine does. */
	int (*recover)(struct crash *c, struct store_folder *f, struct sp_err *err);
	/* On a state that opened: finish what was interrupted; the content must still be the same. */
	int (*finish)(struct crash *c, struct store_folder *f, struct sp_err *err);
};

extern const struct workload workloads[];
extern const size_t workload_count;

/* For workloads: the same on the disk and in the oracle. */
void crash_open(struct crash *c, const char *leaf);
void crash_close(struct crash *c);
void crash_write(struct crash *c, uint64_t sector, uint64_t count);
void crash_zero(struct crash *c, uint64_t sector, uint64_t count);
void crash_discard(struct crash *c, uint64_t sector, uint64_t count);
void crash_flush(struct crash *c);
/* Few places in many blocks, so that space that changed hands shows. */
void crash_write_anywhere(struct crash *c);
void crash_make_base(struct crash *c, const char *name);
void crash_must(struct crash *c, int r, const struct sp_err *err);

/* live.c */
void live_two_disks(struct crash *c);
void live_set(struct crash *c);
int live_set_recover(struct crash *c, struct store_folder *f, struct sp_err *err);
void live_snapshots(struct crash *c);
void live_merges(struct crash *c);
int live_merge_recover(struct crash *c, struct store_folder *f, struct sp_err *err);
int live_merge_finish(struct crash *c, struct store_folder *f, struct sp_err *err);

__attribute__((noreturn, format(printf, 2, 3))) void crash_fail(struct crash *c, const char *fmt, ...);

/* client.c: a workload. */
void crash_client(struct crash *c);

/* cut.c: judges all cuts of what the log holds. */
void crash_judge(struct crash *c);

#endif
