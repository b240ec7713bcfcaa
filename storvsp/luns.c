/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Units: the controller's table, and what each worker knows of it. A change of the table counts up its version and
 * rings every worker; each then compares the table with its own doors, under the lock. So looking a unit up is looking
 * into the worker's own memory.
 *
 * A unit leaves in this order: out of the table, every worker closes its door as soon as nothing runs behind it, the
 * unit is freed, the guest is told. Its address can be given away again when the guest has met "no such unit" there:
 * until then it would take a new disk for the old one.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/env.h"
#include "base/log.h"
#include "base/seed.h"
#include "storvsp/storvsp_int.h"

int storvsp_address_index(const struct storvsp *c, uint8_t path, uint8_t target, uint8_t lun)
{
	if (c->opts.kind == STORVSP_IDE) {
		/* Linux says path 0 on the secondary channel as well; the offer knows better. */
		path = (uint8_t)c->opts.ide_channel;
		if (target != c->opts.ide_device || lun)
			return -1;
	}
	if (path >= STORVSP_PATHS || target >= STORVSP_TARGETS || lun >= STORVSP_LUNS)
		return -1;
	return (int)((path * STORVSP_TARGETS + target) * STORVSP_LUNS + lun);
}

struct storvsp_address storvsp_index_address(unsigned index)
{
	return (struct storvsp_address){
		.path = (uint8_t)(index / STORVSP_LUNS / STORVSP_TARGETS),
		.target = (uint8_t)(index / STORVSP_LUNS % STORVSP_TARGETS),
		.lun = (uint8_t)(index % STORVSP_LUNS),
	};
}

static int index_of(const struct storvsp *c, struct storvsp_address at)
{
	if (c->opts.kind == STORVSP_IDE && at.path != c->opts.ide_channel)
		return -1;
	return storvsp_address_index(c, at.path, at.target, at.lun);
}

bool storvsp_in_scope(unsigned index, const struct vstor_packet *reset)
{
	struct storvsp_address at = storvsp_index_address(index);
	const struct vstor_srb *srb = &reset->u.srb;

	switch (le32_get(reset->operation)) {
	case VSTOR_RESET_LUN:
		return at.path == srb->path && at.target == srb->target && at.lun == srb->lun;
	case VSTOR_RESET_BUS:
		return at.path == srb->path;
	default:
		return true;
	}
}

/* ---- a worker's doors ---------------------------------------------------------------------------------- */

static unsigned list_luns(void *ctx, uint8_t ret_lun[256])
{
	const struct storvsp_door *d = ctx;
	struct storvsp_address at = storvsp_index_address(d->unit->index);

	return storvsp_doors_list(d->worker, at.path, at.target, ret_lun);
}

unsigned storvsp_doors_list(const struct storvsp_worker *w, uint8_t path, uint8_t target, uint8_t ret_lun[256])
{
	unsigned n = 0;

	for (unsigned lun = 0; lun < STORVSP_LUNS; lun++) {
		int i = storvsp_address_index(w->controller, path, target, (uint8_t)lun);

		if (i >= 0 && w->door[i].unit && !w->door[i].leaving)
			ret_lun[n++] = (uint8_t)lun;
	}
	return n;
}

static void enter(struct storvsp_worker *w, struct storvsp_door *d, struct storvsp_unit *u)
{
	*d = (struct storvsp_door){ .unit = u, .worker = w };
	d->cancels = __atomic_load_n(&u->cancels, __ATOMIC_RELAXED);
	storvsp_flow_init(&d->flow, &u->limiter, __atomic_load_n(&u->weight, __ATOMIC_RELAXED));
	w->used[w->useds++] = d;
	u->doors++;
}

static struct storvsp_request *waiting(struct storvsp_worker *w, struct storvsp_door *d)
{
	struct storvsp_entry *e = storvsp_schedule_cancel(&w->schedule, &d->flow, w->now);

	return e ? storvsp_request_of(e) : NULL;
}

void storvsp_doors_sync(struct storvsp_worker *w)
{
	struct storvsp *c = w->controller;
	struct storvsp_request *r;

	pthread_mutex_lock(&c->lock);
	w->table_version = c->table_version;
	for (unsigned i = 0; i < STORVSP_UNITS; i++) {
		struct storvsp_door *d = &w->door[i];

		if (!d->unit && c->unit[i]) {
			enter(w, d, c->unit[i]);
		} else if (d->unit && d->unit != c->unit[i] && !d->leaving) {
			d->leaving = true;
			w->leaving++;
		}
	}
	pthread_mutex_unlock(&c->lock);
	for (unsigned i = 0; i < w->useds; i++) {
		struct storvsp_door *d = w->used[i];
		unsigned cancels = __atomic_load_n(&d->unit->cancels, __ATOMIC_RELAXED);

		while (d->leaving && (r = waiting(w, d)))
			storvsp_request_refuse(r);
		while (d->cancels != cancels && (r = waiting(w, d)))
			storvsp_request_cancel(r);
		if (d->cancels != cancels && d->queue)
			scsi_queue_cancel(d->queue);
		d->cancels = cancels;
		d->flow.weight = __atomic_load_n(&d->unit->weight, __ATOMIC_RELAXED);
		if (d->flow.blocked_ns > w->now)	/* the limit may be another one now */
			d->flow.blocked_ns = w->now;
	}
}

bool storvsp_door_open(struct storvsp_door *d)
{
	struct storvsp_worker *w = d->worker;
	struct sp_err err = { 0 };
	int r;

	if (d->queue)
		return true;
	r = scsi_queue_new(d->unit->lu, w->schedule.depth, &d->queue, &err);
	if (r < 0) {
		sp_debug("storvsp", w->controller->name, "unit %u: %s", d->unit->index, sp_err_text(&err));
		return false;
	}
	scsi_queue_set_luns(d->queue, list_luns, d);
	/* Without (a limit on locked memory, a kernel too old) everything works, a little slower. */
	d->registered = w->regions > 0 && scsi_queue_register_buffers(d->queue, w->region, w->regions) == 0;
	return true;
}

static void close_door(struct storvsp_door *d)
{
	struct storvsp_worker *w = d->worker;
	struct storvsp *c = w->controller;
	struct storvsp_unit *u = d->unit;

	if (d->queue)
		scsi_queue_free(d->queue);	/* calls done() of what still runs */
	d->queue = NULL;
	d->unit = NULL;
	w->leaving -= d->leaving;
	pthread_mutex_lock(&c->lock);
	u->doors--;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
}

void storvsp_doors_reap(struct storvsp_worker *w)
{
	for (unsigned i = 0; i < w->useds && w->leaving; ) {
		struct storvsp_door *d = w->used[i];

		if (!d->leaving || d->slots) {
			i++;
			continue;
		}
		w->used[i] = w->used[--w->useds];
		close_door(d);
	}
}

void storvsp_doors_close(struct storvsp_worker *w)
{
	for (unsigned i = 0; i < w->useds; i++) {
		struct storvsp_request *r;

		while ((r = waiting(w, w->used[i])))
			storvsp_request_cancel(r);
		close_door(w->used[i]);
	}
	w->useds = 0;
}

void storvsp_absence_told(struct storvsp *c, int index)
{
	if (!__atomic_load_n(&c->untold[index], __ATOMIC_RELAXED))
		return;
	pthread_mutex_lock(&c->lock);
	__atomic_store_n(&c->untold[index], false, __ATOMIC_RELAXED);
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
}

/* ---- management ---------------------------------------------------------------------------------------- */

static void table_changed_locked(struct storvsp *c)
{
	__atomic_store_n(&c->table_version, c->table_version + 1, __ATOMIC_RELEASE);
	storvsp_ring_all_locked(c);
}

static void unit_free(struct storvsp_unit *u)
{
	scsi_lu_disconnect(u->lu, &u->nexus);
	scsi_lu_free(u->lu);
	sp_free(u);
}

static int unit_new(struct storvsp *c, unsigned index, struct scsi_lu *lu, const struct storvsp_limits *limits,
		    struct storvsp_unit **ret_unit, struct sp_err *err)
{
	struct storvsp_unit *u = sp_zalloc(sizeof(*u));
	int r;

	if (!u)
		return sp_err_set(err, -ENOMEM, "%s: no memory for a unit", c->name);
	*u = (struct storvsp_unit){ .index = index, .lu = lu, .weight = storvsp_weight(limits) };
	if (limits)
		u->limits = *limits;
	storvsp_limiter_set(&u->limiter, limits);
	r = scsi_lu_connect(lu, &c->opts.instance, &u->nexus);
	if (r < 0) {
		sp_free(u);
		return sp_err_set(err, r, "%s: the unit already has %u connections", c->name, SCSI_NEXUSES);
	}
	scsi_lu_stats(lu, &u->described);
	u->described_ns = sp_env_monotonic_ns();
	*ret_unit = u;
	return 0;
}

/* Until the guest has met the absence of the unit that was here before. */
static bool wait_told_locked(struct storvsp *c, int index, unsigned wait_ms)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	storvsp_add_ms(&until, wait_ms);
	while (c->untold[index] && !SP_SEED_BUG(VSP_REUSE_AT_ONCE))
		if (pthread_cond_timedwait(&c->changed, &c->lock, &until) == ETIMEDOUT)
			return !c->untold[index];
	return true;
}

static int attach_locked(struct storvsp *c, int index, struct storvsp_unit *u, unsigned wait_ms, struct sp_err *err)
{
	struct storvsp_address at = storvsp_index_address((unsigned)index);

	if (!wait_told_locked(c, index, wait_ms))
		return sp_err_set(err, -EBUSY, "%s: the guest has not noticed within %u ms that the unit at %u:%u:%u "
				  "was removed: try again, or use another address", c->name, wait_ms, at.path,
				  at.target, at.lun);
	c->unit[index] = u;
	table_changed_locked(c);
	return 0;
}

int storvsp_attach(struct storvsp *c, struct storvsp_address at, struct scsi_lu *lu,
		   const struct storvsp_limits *limits, unsigned wait_ms, struct sp_err *err)
{
	int i = index_of(c, at), r;
	struct storvsp_unit *u = NULL;

	if (i < 0)
		return sp_err_set(err, -EINVAL, "%s has no address %u:%u:%u", c->name, at.path, at.target, at.lun);
	pthread_mutex_lock(&c->manage);
	/* Only management writes the table, and we are it. */
	if (c->unit[i])
		r = sp_err_set(err, -EEXIST, "%s: there is a unit at %u:%u:%u already", c->name, at.path, at.target,
			       at.lun);
	else
		r = unit_new(c, (unsigned)i, lu, limits, &u, err);
	if (r == 0) {
		pthread_mutex_lock(&c->lock);
		r = attach_locked(c, i, u, wait_ms, err);
		pthread_mutex_unlock(&c->lock);
		if (r == 0) {
			storvsp_notify(c);
		} else {
			scsi_lu_disconnect(lu, &u->nexus);
			sp_free(u);
		}
	}
	pthread_mutex_unlock(&c->manage);
	return r;
}

int storvsp_detach(struct storvsp *c, struct storvsp_address at, struct sp_err *err)
{
	int i = index_of(c, at);
	struct storvsp_unit *u;

	pthread_mutex_lock(&c->manage);
	u = i < 0 ? NULL : c->unit[i];
	if (u) {
		pthread_mutex_lock(&c->lock);
		c->unit[i] = NULL;
		__atomic_store_n(&c->untold[i], __atomic_load_n(&u->seen, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
		table_changed_locked(c);
		while (u->doors)
			pthread_cond_wait(&c->changed, &c->lock);
		pthread_mutex_unlock(&c->lock);
		unit_free(u);
		storvsp_notify(c);
	}
	pthread_mutex_unlock(&c->manage);
	return u ? 0 : sp_err_set(err, -ENOENT, "%s: no unit at %u:%u:%u", c->name, at.path, at.target, at.lun);
}

struct scsi_lu *storvsp_lu(struct storvsp *c, struct storvsp_address at)
{
	int i = index_of(c, at);
	struct storvsp_unit *u;

	pthread_mutex_lock(&c->manage);
	u = i < 0 ? NULL : c->unit[i];
	pthread_mutex_unlock(&c->manage);
	return u ? u->lu : NULL;
}

int storvsp_set_limits(struct storvsp *c, struct storvsp_address at, const struct storvsp_limits *limits)
{
	int i = index_of(c, at), r = -ENOENT;

	pthread_mutex_lock(&c->manage);
	if (i >= 0 && c->unit[i]) {
		struct storvsp_unit *u = c->unit[i];

		u->limits = limits ? *limits : (struct storvsp_limits){ 0 };
		storvsp_limiter_set(&u->limiter, limits);
		__atomic_store_n(&u->weight, storvsp_weight(limits), __ATOMIC_RELAXED);
		pthread_mutex_lock(&c->lock);
		table_changed_locked(c);
		pthread_mutex_unlock(&c->lock);
		r = 0;
	}
	pthread_mutex_unlock(&c->manage);
	return r;
}

int storvsp_lun_stats(struct storvsp *c, struct storvsp_address at, struct storvsp_lun_stats *ret_stats)
{
	int i = index_of(c, at), r = -ENOENT;

	pthread_mutex_lock(&c->manage);
	if (i >= 0 && c->unit[i]) {
		struct storvsp_limiter *l = &c->unit[i]->limiter;

		*ret_stats = (struct storvsp_lun_stats){ .at = at };
		scsi_lu_stats(c->unit[i]->lu, &ret_stats->scsi);
		ret_stats->throttled = __atomic_load_n(&l->throttled, __ATOMIC_RELAXED);
		ret_stats->throttled_ns = __atomic_load_n(&l->throttled_ns, __ATOMIC_RELAXED);
		ret_stats->queued = __atomic_load_n(&l->queued, __ATOMIC_RELAXED);
		r = 0;
	}
	pthread_mutex_unlock(&c->manage);
	return r;
}

unsigned storvsp_addresses(struct storvsp *c, struct storvsp_address *ret_at, unsigned room)
{
	unsigned n = 0;

	pthread_mutex_lock(&c->manage);
	for (unsigned i = 0; i < STORVSP_UNITS && n < room; i++)
		if (c->unit[i])
			ret_at[n++] = storvsp_index_address(i);
	pthread_mutex_unlock(&c->manage);
	return n;
}
