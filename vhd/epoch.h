/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_EPOCH_H
#define SPINDLE_VHD_EPOCH_H
/*
 * epoch - who is still inside. Two questions are asked of it:
 *
 *   "Is every I/O that began before now over?"   before freed space is handed out again (grace period)
 *   "Is nobody inside at all?"			  before the leaf is switched (drain)
 *
 * Every I/O enters before it looks at the map and leaves when it has completed. Entries are counted per participant
 * (one per queue, a few shared by the plain calls) and per phase, so counting is one atomic add on a line that nobody
 * else writes. An entrant counts itself into the phase it read and looks again: if the phase has moved it
 * retries, so that a phase that was seen empty after a flip stays empty until it is current again.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct epoch_member {
	_Alignas(64) _Atomic unsigned inside[2];
	_Atomic int bell;		/* eventfd to ring once when the gate opens; -1: nobody waits for it */
	struct epoch_member *next;	/* under epoch.lock */
};

#define EPOCH_SHARED 16

struct epoch {
	_Atomic unsigned phase;
	_Atomic unsigned gate;		/* how many keep it closed: then nobody may enter */
	pthread_mutex_t lock;		/* members, and the gate's waiters */
	pthread_cond_t opened;
	struct epoch_member *members;
	struct epoch_member shared[EPOCH_SHARED];
	bool waiting;			/* a grace period is under way for the phase before the current one */
};

int epoch_init(struct epoch *e);
void epoch_fini(struct epoch *e);
void epoch_join(struct epoch *e, struct epoch_member *m);
void epoch_leave(struct epoch *e, struct epoch_member *m);	/* nothing of @m is inside */

/* The member shared by threads without a queue of their own. */
struct epoch_member *epoch_shared(struct epoch *e);

/* Returns the phase to give back to epoch_exit(), or -1 when the gate is closed. */
static inline int epoch_try_enter(struct epoch *e, struct epoch_member *m)
{
	for (;;) {
		unsigned p = atomic_load(&e->phase) & 1;

		atomic_fetch_add(&m->inside[p], 1);
		if (__builtin_expect(atomic_load(&e->gate), 0)) {
			atomic_fetch_sub(&m->inside[p], 1);
			return -1;
		}
		if (__builtin_expect((atomic_load(&e->phase) & 1) == p, 1))
			return (int)p;
		atomic_fetch_sub(&m->inside[p], 1);
	}
}

static inline void epoch_exit(struct epoch_member *m, int phase)
{
	atomic_fetch_sub_explicit(&m->inside[phase], 1, memory_order_release);
}

int epoch_enter(struct epoch *e, struct epoch_member *m);	/* waits at a closed gate */

/* Start a grace period (no-op while one runs: then start again after it). Returns true when it started. */
bool epoch_grace_begin(struct epoch *e);
/* True once everybody who was inside at epoch_grace_begin() has left. */
bool epoch_grace_over(struct epoch *e);

/* Several may keep it closed at once; it is open again when the last of them opens it. */
void epoch_close_gate(struct epoch *e);
void epoch_open_gate(struct epoch *e);
bool epoch_empty(struct epoch *e);

#endif
