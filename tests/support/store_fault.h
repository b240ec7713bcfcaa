/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_STORE_FAULT_H
#define SPINDLE_TESTS_STORE_FAULT_H
/*
 * Stores that fail on demand. The usual loop: k = 1, 2, 3 ... until a run passes without a hit; then every I/O the
 * workload does has failed once.
 */
#include <stdatomic.h>

#include "vhd/store.h"

#define FAULT_READ   0x01u
#define FAULT_WRITE  0x02u
#define FAULT_SYNC   0x04u
#define FAULT_PUNCH  0x08u
#define FAULT_ZERO   0x10u
#define FAULT_RESIZE 0x20u
#define FAULT_OPEN   0x40u	/* folders: open and create */
#define FAULT_NAMES  0x80u	/* folders: rename, unlink, sync of a directory */
#define FAULT_ALL    0xffu

/* Shared by any number of stores and folders; the caller's storage, outlives them. Change it while no I/O runs. */
struct fault_plan {
	atomic_bool enabled;
	unsigned classes;	/* FAULT_*: which operations count and fail */
	uint64_t k;		/* the k-th one fails, counted from 1; 0: none, just count */
	int error;		/* with what: negative errno */
	bool sticky;		/* and all after it */
	bool halves;		/* reads and writes do the first half before they fail */
	/* results */
	_Atomic uint64_t counter, hits;
	_Atomic unsigned hit_classes;	/* FAULT_* of what was hit */
};

/* Sets a plan back to nothing counted, nothing hit, enabled. */
void fault_plan_set(struct fault_plan *plan, unsigned classes, uint64_t k, int error, bool sticky, bool halves);

/* This thread is in a store below: what it allocates there stands for the disk, not for the engine. */
bool fault_inside_store(void);

/* Takes over @inner, also when it fails. No descriptor: a ring runs it synchronously. */
int store_fault_new(struct store *inner, struct fault_plan *plan, struct store **ret_store);
/* Takes over @inner, also when it fails; all that is opened in it fails by the same plan. */
int store_folder_fault_new(struct store_folder *inner, struct fault_plan *plan, struct store_folder **ret_folder);

#endif
