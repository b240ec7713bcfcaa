/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the workers of a controller do together: begin, end, be quiet, reset.
 *
 * A hold asks every worker to start nothing more and to say when nothing runs. A reset is a hold with an answer: what
 * waits in the scope of the reset is cancelled, what runs anywhere is waited for, then the worker that took the packet
 * answers it. Several may be under way at once; they end together.
 */
#include <errno.h>

#include "base/log.h"
#include "base/seed.h"
#include "storvsp/storvsp_int.h"

/* ---- holds ------------------------------------------------------------------------------------------------- */

static unsigned channels(const struct storvsp *c)
{
	return 1u + c->protocol.max_subchannels;
}

void storvsp_ring_all_locked(struct storvsp *c)
{
	for (unsigned i = 0; i < channels(c); i++)
		if (c->worker[i])
			storvsp_worker_ring(c->worker[i]);
}

void storvsp_hold_locked(struct storvsp *c)
{
	/* Release, after what the holder changed: who sees the hold sees that, too. */
	__atomic_store_n(&c->holds, c->holds + 1, __ATOMIC_RELEASE);
	storvsp_ring_all_locked(c);
}

void storvsp_release_locked(struct storvsp *c)
{
	__atomic_store_n(&c->holds, c->holds - 1, __ATOMIC_RELEASE);
	if (c->holds == 0)
		for (unsigned i = 0; i < channels(c); i++)
			if (c->worker[i])
				c->worker[i]->quiet = false;
	storvsp_ring_all_locked(c);
}

bool storvsp_all_quiet_locked(const struct storvsp *c)
{
	for (unsigned i = 0; i < channels(c); i++)
		if (c->worker[i] && !c->worker[i]->quiet)
			return false;
	return true;
}

/* Somebody became quiet, or left: whoever waits for all may look again. */
static void tell_waiters_locked(struct storvsp *c)
{
	pthread_cond_broadcast(&c->changed);
	for (unsigned i = 0; i < channels(c); i++)
		if (c->worker[i] && c->worker[i]->resetting)
			storvsp_worker_ring(c->worker[i]);
}

void storvsp_quiet(struct storvsp_worker *w)
{
	struct storvsp *c = w->controller;

	pthread_mutex_lock(&c->lock);
	/* The table first: a reset cancels what waits before its hold counts as reached. */
	if (c->holds && !w->quiet && c->table_version == w->table_version) {
		w->quiet = true;
		tell_waiters_locked(c);
	}
	pthread_mutex_unlock(&c->lock);
}

/* ---- resets ------------------------------------------------------------------------------------------------ */

void storvsp_reset_begin(struct storvsp_worker *w, struct storvsp_request *r)
{
	struct storvsp *c = w->controller;

	w->reset = r;
	pthread_mutex_lock(&c->lock);
	w->resetting = true;
	for (unsigned i = 0; i < STORVSP_UNITS; i++)
		if (c->unit[i] && storvsp_in_scope(i, &r->packet))
			__atomic_add_fetch(&c->unit[i]->cancels, 1, __ATOMIC_RELAXED);
	__atomic_store_n(&c->table_version, c->table_version + 1, __ATOMIC_RELEASE);
	storvsp_hold_locked(c);
	pthread_mutex_unlock(&c->lock);
}

bool storvsp_reset_end(struct storvsp_worker *w)
{
	struct storvsp *c = w->controller;
	bool over;

	pthread_mutex_lock(&c->lock);
	over = storvsp_all_quiet_locked(c) || SP_SEED_BUG(VSP_RESET_NO_DRAIN);
	if (over) {
		for (unsigned i = 0; i < STORVSP_UNITS; i++)
			if (c->unit[i] && storvsp_in_scope(i, &w->reset->packet))
				scsi_lu_power_on(c->unit[i]->lu, &c->unit[i]->nexus);
		w->resetting = false;
		storvsp_release_locked(c);
	}
	pthread_mutex_unlock(&c->lock);
	return over;
}

/* ---- channels ------------------------------------------------------------------------------------------------ */

static int refuse_open(struct storvsp *c, const struct vmbus_open *open)
{
	if (open->subchannel > __atomic_load_n(&c->protocol.subchannels, __ATOMIC_RELAXED))
		return -EINVAL;		/* the guest did not ask for it */
	if (c->worker[open->subchannel])
		return -EBUSY;
	return 0;
}

static int device_open(void *device, struct vmbus_channel *ch, const struct vmbus_open *open)
{
	struct storvsp *c = device;
	struct storvsp_worker *w;
	int r = refuse_open(c, open);

	if (r == 0)
		r = storvsp_worker_new(c, ch, open, &w);
	if (r < 0)
		return r;
	/* In the list first: a hold that begins now counts the worker in. */
	pthread_mutex_lock(&c->lock);
	c->worker[open->subchannel] = w;
	pthread_mutex_unlock(&c->lock);
	r = storvsp_worker_start(w);
	if (r < 0) {
		pthread_mutex_lock(&c->lock);
		c->worker[open->subchannel] = NULL;
		tell_waiters_locked(c);
		pthread_mutex_unlock(&c->lock);
		storvsp_worker_free(w);
	}
	sp_debug("storvsp", c->name, "channel %u open: %d", open->subchannel, r);
	return r;
}

/* The guest that comes next knows nothing of what this one saw. */
static void forget_guest(struct storvsp *c)
{
	storvsp_protocol_restart(&c->protocol);
	pthread_mutex_lock(&c->lock);
	for (unsigned i = 0; i < STORVSP_UNITS; i++) {
		__atomic_store_n(&c->untold[i], false, __ATOMIC_RELAXED);
		if (c->unit[i])
			__atomic_store_n(&c->unit[i]->seen, false, __ATOMIC_RELAXED);
	}
	__atomic_store_n(&c->enumerate, false, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
}

static struct storvsp_worker *worker_of(struct storvsp *c, const struct vmbus_channel *ch)
{
	for (unsigned i = 0; i < channels(c); i++)
		if (c->worker[i] && c->worker[i]->ch == ch)
			return c->worker[i];
	return NULL;
}

static void device_close(void *device, struct vmbus_channel *ch)
{
	struct storvsp *c = device;
	struct storvsp_worker *w = worker_of(c, ch);

	if (!w)
		return;
	storvsp_worker_stop(w);
	pthread_mutex_lock(&c->lock);
	c->worker[w->subchannel] = NULL;
	tell_waiters_locked(c);
	pthread_mutex_unlock(&c->lock);
	if (w->subchannel == 0)
		forget_guest(c);
	sp_debug("storvsp", c->name, "channel %u closed", w->subchannel);
	storvsp_worker_free(w);
}

const struct vmbus_device_ops storvsp_device_ops = { .open = device_open, .close = device_close };
