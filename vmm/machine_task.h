/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_MACHINE_TASK_H
#define SPINDLE_VMM_MACHINE_TASK_H
/*
 * Work that waits for disks, beside the main thread: one piece at a time for each task, on a thread of its own; the
 * end is told on the loop.
 */
#include <pthread.h>
#include <stdbool.h>

#include "vmm/loop.h"

struct machine_task {
	pthread_t thread;
	int fd;				/* eventfd: the work has been done */
	struct vmm_watch *watch;
	bool running;
	void (*work)(void *ctx);	/* on the thread */
	void (*done)(void *ctx);	/* on the loop; may start the next piece */
	void *ctx;
};

int machine_task_init(struct machine_task *t, struct vmm_loop *loop, void *ctx);
int machine_task_start(struct machine_task *t, void (*work)(void *ctx), void (*done)(void *ctx));	/* -EBUSY */
/* Waits for the work; its end is not told any more. */
void machine_task_fini(struct machine_task *t);

#endif
