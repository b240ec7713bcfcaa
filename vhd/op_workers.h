/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_OP_WORKERS_H
#define SPINDLE_VHD_OP_WORKERS_H
/*
 * op_workers - a few threads that take windows of a disk in order and work on them.
 *
 * A window is an aligned piece of the virtual disk. No two threads ever work inside one window, so that partial
 * sectors and blocks of the target are never shared between threads. Plain vhd_disk_*() calls move the data: they
 * are lock-free once the map is known, and with a thread per core there is always one in the kernel copying.
 */
#include "base/err.h"
#include "base/job.h"
#include "vhd/vhd.h"

#define OP_WINDOW (2u << 20)		/* largest window, and the size of a worker's buffer */
#define OP_THREADS_MAX 16u		/* with two windows each: 64 MiB of buffers */

struct op_worker {
	unsigned index;
	uint8_t *buffer, *buffer2;	/* OP_WINDOW bytes each, aligned to 4 KiB; private to the thread */
	struct sp_err err;		/* story of this worker's failure */
};

struct op_window {
	uint64_t offset, len;		/* len <= OP_WINDOW unless the task's own next() makes longer ones */
};

struct op_task {
	/* Under the pool's lock, so calls come one at a time. 1: a window; 0: no more; or a negative errno. */
	int (*next)(void *arg, struct op_window *ret_window, struct sp_err *err);
	/* On any of the threads. */
	int (*work)(void *arg, struct op_worker *w, const struct op_window *window);
	/* After the first failure, once: wakes work() functions that wait for each other. May be NULL. */
	void (*failed)(void *arg);
	void *arg;
	unsigned threads;		/* 0: one per core */
	struct sp_job *job;		/* advanced by the length of each window done; may be NULL */
};

/* Runs the task to its end; the caller is one of the threads. The first failure stops the others and is returned. */
int op_run(const struct op_task *task, struct sp_err *err);
unsigned op_threads(unsigned wanted);

/* ---- walking over the map of a disk -------------------------------------------------------------- */

/* Kinds of ranges as a set. */
#define OP_DATA	   (1u << VHD_RANGE_DATA)
#define OP_ZERO	   (1u << VHD_RANGE_ZERO)
#define OP_BELOW   (1u << VHD_RANGE_BELOW)
#define OP_UNKNOWN (1u << VHD_RANGE_UNKNOWN)

/* Finds the windows that hold something of interest; the next() of most tasks. */
struct op_walk {
	struct vhd_disk *disk;
	uint64_t offset, end;
	unsigned want;			/* OP_*: kinds that make a window; others are skipped */
	unsigned refuse;		/* OP_*: kinds that fail the walk */
	struct sp_job *job;		/* advanced by what is skipped */
	struct vhd_range known;		/* private: the stretch that holds offset, when len > 0 */
};

int op_walk_next(struct op_walk *w, struct op_window *ret_window, struct sp_err *err);	/* as op_task.next */

/* One stretch at @offset; neighbours of one kind on the same side of the leaf are joined. */
int op_map_joined(struct vhd_disk *d, uint64_t offset, uint64_t len, struct vhd_range *ret_range);

/* ---- bytes --------------------------------------------------------------------------------------- */

#define OP_GRAIN 4096u			/* zeros and differences are told apart at this granularity */

bool op_is_zero(const void *buf, size_t len);
/*
 * Cuts [offset, offset+len) whose bytes are @buf into runs of zero and nonzero grains (grains are aligned on the disk,
 * not in memory). Returns the length of the first run.
 */
size_t op_zero_run(const uint8_t *buf, uint64_t offset, size_t len, bool *ret_zero);

#endif
