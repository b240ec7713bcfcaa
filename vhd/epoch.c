/* SPDX-License-Identifier: BSD-2-Clause */
#include "vhd/epoch.h"

#include <string.h>
#include <sys/eventfd.h>

#include "base/seed.h"

int epoch_init(struct epoch *e)
{
	memset(e, 0, sizeof(*e));
	if (pthread_mutex_init(&e->lock, NULL) != 0)
		return -1;
	if (pthread_cond_init(&e->opened, NULL) != 0) {
		pthread_mutex_destroy(&e->lock);
		return -1;
	}
	for (unsigned i = 0; i < EPOCH_SHARED; i++)
		epoch_join(e, &e->shared[i]);
	return 0;
}

void epoch_fini(struct epoch *e)
{
	pthread_cond_destroy(&e->opened);
	pthread_mutex_destroy(&e->lock);
}

void epoch_join(struct epoch *e, struct epoch_member *m)
{
	atomic_store(&m->bell, -1);
	pthread_mutex_lock(&e->lock);
	m->next = e->members;
	e->members = m;
	pthread_mutex_unlock(&e->lock);
}

void epoch_leave(struct epoch *e, struct epoch_member *m)
{
	pthread_mutex_lock(&e->lock);
	for (struct epoch_member **p = &e->members; *p; p = &(*p)->next) {
		if (*p == m) {
			*p = m->next;
			break;
		}
	}
	pthread_mutex_unlock(&e->lock);
}

struct epoch_member *epoch_shared(struct epoch *e)
{
	static _Atomic unsigned counter;
	static _Thread_local unsigned mine;	/* 0: not drawn yet */

	if (mine == 0)
		mine = 1 + atomic_fetch_add(&counter, 1) % EPOCH_SHARED;
	return &e->shared[mine - 1];
}

int epoch_enter(struct epoch *e, struct epoch_member *m)
{
	int phase;

	while ((phase = epoch_try_enter(e, m)) < 0) {
		pthread_mutex_lock(&e->lock);
		while (atomic_load(&e->gate))
			pthread_cond_wait(&e->opened, &e->lock);
		pthread_mutex_unlock(&e->lock);
	}
	return phase;
}

/* Somebody counted into @phase. Caller holds the lock. */
static bool occupied_locked(struct epoch *e, unsigned phase)
{
	for (struct epoch_member *m = e->members; m; m = m->next) {
		if (atomic_load(&m->inside[phase]) != 0)
			return true;
	}
	return false;
}

bool epoch_grace_begin(struct epoch *e)
{
	if (e->waiting)
		return false;
	atomic_fetch_xor(&e->phase, 1);
	e->waiting = true;
	return true;
}

bool epoch_grace_over(struct epoch *e)
{
	if (!e->waiting)
		return true;
	pthread_mutex_lock(&e->lock);
	e->waiting = occupied_locked(e, (atomic_load(&e->phase) & 1) ^ 1);
	pthread_mutex_unlock(&e->lock);
	return !e->waiting;
}

void epoch_close_gate(struct epoch *e)
{
	atomic_fetch_add(&e->gate, 1);
}

/* A member hangs up its bell, then looks at the gate again: either it sees it open, or its bell is seen here. */
static void ring_locked(struct epoch *e)
{
	for (struct epoch_member *m = e->members; m; m = m->next) {
		int fd = SP_SEED_BUG(GATE_OPENS_SILENTLY) ? -1 : atomic_exchange(&m->bell, -1);

		if (fd >= 0 && eventfd_write(fd, 1) < 0) {
			/* EAGAIN: the counter is full, it is ringing anyway. */
		}
	}
}

void epoch_open_gate(struct epoch *e)
{
	pthread_mutex_lock(&e->lock);
	if (atomic_fetch_sub(&e->gate, 1) == 1) {
		pthread_cond_broadcast(&e->opened);
		ring_locked(e);
	}
	pthread_mutex_unlock(&e->lock);
}

bool epoch_empty(struct epoch *e)
{
	bool empty;

	pthread_mutex_lock(&e->lock);
	empty = !occupied_locked(e, 0) && !occupied_locked(e, 1);
	pthread_mutex_unlock(&e->lock);
	return empty;
}
