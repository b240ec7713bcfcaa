/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_LOOP_H
#define SPINDLE_VMM_LOOP_H
/*
 * The machine's main thread: consoles, control connections, timers, the end of the guest. Everything here is called on
 * that thread, so devices of the main thread need no locks. Nothing in it may wait.
 */
#include <stdint.h>

struct vmm_loop;
struct vmm_watch;

int vmm_loop_new(struct vmm_loop **ret_loop);
void vmm_loop_free(struct vmm_loop *l);		/* frees watches that are left; closes no descriptor but its own */

/* @events: EPOLLIN | EPOLLOUT ... The descriptor stays the caller's; remove the watch before closing it. */
int vmm_loop_add(struct vmm_loop *l, int fd, uint32_t events, void (*ready)(void *ctx, uint32_t events), void *ctx,
		 struct vmm_watch **ret_watch);
int vmm_loop_modify(struct vmm_watch *w, uint32_t events);
/* First after @first_ms, then every @every_ms (0: once). */
int vmm_loop_timer(struct vmm_loop *l, unsigned first_ms, unsigned every_ms, void (*expired)(void *ctx), void *ctx,
		   struct vmm_watch **ret_watch);
int vmm_loop_timer_set(struct vmm_watch *w, unsigned first_ms, unsigned every_ms);	/* 0, 0: off */
void vmm_loop_remove(struct vmm_watch *w);	/* also from inside a callback, its own too; NULL is fine */

/* Runs callbacks until vmm_loop_quit(). */
int vmm_loop_run(struct vmm_loop *l);
void vmm_loop_quit(struct vmm_loop *l);

#endif
