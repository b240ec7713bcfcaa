/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_FAULT_H
#define SPINDLE_TESTS_FAULT_H
/*
 * fault - every I/O and every allocation of a workload fails once:
 *
 *   work.c	the workloads
 *   run.c	one run: operations with their results in the sheet
 *   judge.c	what must hold after it
 *   fault.c	the loops and totals
 *
 * Folders of a run, from the outside:	fault ─► log ─► memory	(no log when allocations fail)
 */
#include "tests/support/rng.h"
#include "tests/support/sheet.h"
#include "tests/support/store_fault.h"
#include "tests/support/store_log.h"
#include "vhd/ops_int.h"

/* How things fail. */
struct mode {
	const char *name;
	int error;
	unsigned classes;	/* FAULT_*; 0: allocations */
	bool sticky, halves;
};

struct run;

struct work {
	const char *name;
	enum vhd_format_id format;
	uint64_t size;
	uint32_t block;
	const char *leaf;	/* the name whose content is judged */
	bool guest;		/* reads and writes of a disk: also through a queue */
	bool appears;		/* the run makes the leaf: without it there is none */
	bool damaged;		/* the checker has something to say before the run has succeeded */
	void (*setup)(struct run *run);
	void (*run)(struct run *run);
	/* Not a guest's: the same operation on a folder that does not fail. -EALREADY: it had been done after all. */
	int (*again)(const struct work *w, struct store_folder *f, struct sp_err *err);
};

extern const struct work works[];
extern const size_t work_count;

#define RUN_PENDING 4

struct pending {
	struct vhd_req req;
	struct iovec iov;
	uint8_t *buf;
	uint64_t sector, count;
	uint16_t stamp;
	int res;
};

struct run {
	const struct work *w;
	const struct mode *mode;
	uint64_t k;
	bool queued;
	struct rng rng;
	struct store_folder *mem, *folder;	/* the innermost and the outermost */
	struct store_log *log;			/* NULL: none */
	struct fault_plan plan;
	_Atomic uint64_t allocations, refused;	/* by the allocator */
	struct sheet sheet;
	uint64_t new_size;		/* virtual size when the run succeeds, 0: as before */
	struct vhd_disk *disk;
	struct vhd_queue *queue;
	struct pending pending[RUN_PENDING];
	unsigned pendings;
	int result;			/* the first error a caller got */
	bool lost;			/* a sync failed: nothing may be called durable any more */
	bool closed_clean;		/* the last close succeeded */
	unsigned violations;
};

/* run.c. Setups and workloads use them alike; what fails is noted and the workload goes on, as a guest would. */
void run_open(struct run *run, const char *leaf, bool write);
void run_close(struct run *run);
void run_write(struct run *run, uint64_t sector, uint64_t count);
void run_zero(struct run *run, uint64_t sector, uint64_t count);
void run_discard(struct run *run, uint64_t sector, uint64_t count);
void run_read(struct run *run, uint64_t sector, uint64_t count);
int run_flush(struct run *run);
void run_settle(struct run *run);	/* waits for what is queued */
/* The result of an operation on whole images. */
void run_result(struct run *run, int r, const struct sp_err *err);
uint64_t run_hits(const struct run *run);
void run_violation(struct run *run, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

struct totals {
	uint64_t runs, io_sites, alloc_sites, failed, absorbed, poisoned, refused, usable, states;
	unsigned violations;
};

/* judge.c: after the workload, with nothing failing any more. */
void judge(struct run *run, struct totals *t);

#endif
