/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A logical unit: its identity and state, who talks to it, and what they must hear (unit attentions).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "storvsp/scsi_queue_int.h"

#define DVD_BLOCK 2048u

/* ---- geometry ------------------------------------------------------------------------------------------ */

/* A drive serves blocks of 2048 bytes, whatever the file below counts in; a tail that fills none is not served. */
static void as_dvd(struct scsi_geometry *g)
{
	g->size = sp_align_down(g->size, DVD_BLOCK);
	g->logical_block = DVD_BLOCK;
	g->physical_block = DVD_BLOCK;
	g->unmap_granularity = 0;
	g->read_only = true;
}

void scsi_lu_read_geometry(struct scsi_lu *lu)
{
	struct scsi_geometry g = { .logical_block = DVD_BLOCK }, *to = &lu->geometry;

	if (lu->backend)
		lu->backend->ops->geometry(lu->backend, &g);
	if (lu->kind == SCSI_DVD)
		as_dvd(&g);
	to->logical_block = g.logical_block;
	to->physical_block = g.physical_block;
	to->rotational = g.rotational;
	to->unmapped_reads_zero = g.unmapped_reads_zero;
	/* Workers read these without the lock. */
	__atomic_store_n(&to->size, g.size, __ATOMIC_RELAXED);
	__atomic_store_n(&to->unmap_granularity, g.unmap_granularity, __ATOMIC_RELAXED);
	__atomic_store_n(&to->read_only, g.read_only, __ATOMIC_RELAXED);
}

void scsi_lu_geometry(struct scsi_lu *lu, struct scsi_geometry *ret)
{
	pthread_mutex_lock(&lu->lock);
	*ret = lu->geometry;
	pthread_mutex_unlock(&lu->lock);
	ret->read_only = scsi_lu_protected(lu);
}

enum scsi_kind scsi_lu_kind(const struct scsi_lu *lu)
{
	return lu->kind;
}

/* ---- life ---------------------------------------------------------------------------------------------- */

static int new_lock(struct scsi_lu *lu)
{
	pthread_condattr_t attr;
	int r = pthread_condattr_init(&attr);

	if (r != 0)
		return -r;
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	r = pthread_cond_init(&lu->released, &attr);
	pthread_condattr_destroy(&attr);
	if (r == 0)
		pthread_mutex_init(&lu->lock, NULL);
	return -r;
}

/* What other files keep for a unit. */
static int new_rooms(struct scsi_lu *lu, const struct scsi_lu_opts *opts, struct sp_err *err)
{
	int r = 0;

	if (lu->kind == SCSI_DVD && (r = scsi_dvd_new(lu)) < 0)
		return sp_err_set(err, r, "out of memory");
	return scsi_reservations_new(opts->folder, opts->reservations, lu, err);
}

static void free_rooms(struct scsi_lu *lu)
{
	scsi_reservations_free(lu);
	scsi_dvd_free(lu);
}

static int check_geometry(const struct scsi_geometry *g, struct sp_err *err)
{
	if (!sp_is_pow2(g->logical_block) || g->logical_block < 512 || g->logical_block > 4096)
		return sp_err_set(err, -EINVAL, "logical blocks of %u bytes, a unit has 512 to 4096", g->logical_block);
	if (g->size == 0 || !sp_is_aligned(g->size, g->logical_block))
		return sp_err_set(err, -EINVAL, "%llu bytes are no whole number of blocks of %u, or none",
				  (unsigned long long)g->size, g->logical_block);
	return 0;
}

int scsi_lu_new(const struct scsi_lu_opts *opts, struct scsi_lu **ret_lu, struct sp_err *err)
{
	struct scsi_lu *lu;
	int r;

	if (!opts->backend && opts->kind == SCSI_DISK)
		return sp_err_set(err, -EINVAL, "a disk needs a backend");
	lu = sp_zalloc(sizeof(*lu));
	if (!lu)
		return sp_err_set(err, -ENOMEM, "out of memory");
	r = new_lock(lu);
	if (r < 0) {
		sp_free(lu);
		return sp_err_set(err, r, "no condition variable: %s", strerror(-r));
	}
	lu->kind = opts->kind;
	lu->read_only = opts->read_only;
	lu->write_through = opts->write_through;
	lu->identity = opts->identity;
	if (opts->serial)
		snprintf(lu->serial, sizeof(lu->serial), "%s", opts->serial);
	else
		sp_guid_format_le(&opts->identity, lu->serial);
	lu->backend = opts->backend;
	scsi_lu_read_geometry(lu);
	r = opts->backend ? check_geometry(&lu->geometry, err) : 0;
	if (r == 0) {
		lu->block_shift = (unsigned)__builtin_ctz(lu->geometry.logical_block);
		r = new_rooms(lu, opts, err);
	}
	if (r < 0) {
		lu->backend = NULL;	/* stays the caller's when there is no unit */
		scsi_lu_free(lu);
		return r;
	}
	*ret_lu = lu;
	return 0;
}

void scsi_lu_free(struct scsi_lu *lu)
{
	if (!lu)
		return;
	free_rooms(lu);
	if (lu->backend)
		lu->backend->ops->free(lu->backend);
	if (lu->leaving)
		lu->leaving->ops->free(lu->leaving);
	pthread_cond_destroy(&lu->released);
	pthread_mutex_destroy(&lu->lock);
	sp_free(lu);
}

void scsi_lu_add_queue(struct scsi_lu *lu, struct scsi_queue *q)
{
	pthread_mutex_lock(&lu->lock);
	q->next = lu->queues;
	lu->queues = q;
	pthread_mutex_unlock(&lu->lock);
}

void scsi_lu_remove_queue(struct scsi_lu *lu, struct scsi_queue *q)
{
	struct scsi_queue **at = &lu->queues;

	pthread_mutex_lock(&lu->lock);
	while (*at != q)
		at = &(*at)->next;
	*at = q->next;
	scsi_stats_sum(&lu->past, &q->stats);
	lu->past.inflight = 0;
	pthread_cond_broadcast(&lu->released);
	pthread_mutex_unlock(&lu->lock);
}

/* ---- unit attentions ----------------------------------------------------------------------------------- */

/* Under lock. Power on says that everything is new: what waited is told by it. */
static void queue_ua(struct scsi_lu *lu, unsigned nexus, uint32_t ua)
{
	uint32_t *list = lu->nexus[nexus].ua;
	unsigned n = ua == SCSI_UA_POWER_ON ? 0 : lu->nexus[nexus].uas;

	if (!lu->nexus[nexus].connected)
		return;
	for (unsigned i = 0; i < n; i++) {
		if (list[i] == ua)
			return;
	}
	if (n < SCSI_UAS)
		list[n++] = ua;
	__atomic_store_n(&lu->nexus[nexus].uas, n, __ATOMIC_RELEASE);
}

void scsi_ua_raise(struct scsi_lu *lu, const struct scsi_nexus *except, uint32_t ua)
{
	pthread_mutex_lock(&lu->lock);
	for (unsigned i = 0; i < SCSI_NEXUSES; i++) {
		if (!except || except->index != i)
			queue_ua(lu, i, ua);
	}
	pthread_mutex_unlock(&lu->lock);
}

void scsi_ua_raise_one(struct scsi_lu *lu, uint32_t nexus, uint32_t ua)
{
	pthread_mutex_lock(&lu->lock);
	queue_ua(lu, nexus, ua);
	pthread_mutex_unlock(&lu->lock);
}

uint32_t scsi_ua_take(struct scsi_lu *lu, const struct scsi_nexus *nexus)
{
	uint32_t *list = lu->nexus[nexus->index].ua, ua = 0;
	unsigned n;

	if (__atomic_load_n(&lu->nexus[nexus->index].uas, __ATOMIC_ACQUIRE) == 0)
		return 0;
	pthread_mutex_lock(&lu->lock);
	n = lu->nexus[nexus->index].uas;
	if (n > 0) {			/* another worker of the nexus may have been quicker */
		ua = list[0];
		memmove(list, list + 1, (n - 1) * sizeof(*list));
		__atomic_store_n(&lu->nexus[nexus->index].uas, n - 1, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&lu->lock);
	return ua;
}

/* ---- nexuses ------------------------------------------------------------------------------------------- */

int scsi_lu_connect(struct scsi_lu *lu, const struct sp_guid *id, struct scsi_nexus *ret_nexus)
{
	int r = -EMFILE;

	pthread_mutex_lock(&lu->lock);
	for (unsigned i = 0; i < SCSI_NEXUSES && r < 0; i++) {
		if (lu->nexus[i].connected)
			continue;
		lu->nexus[i].connected = true;
		lu->nexus[i].id = *id;
		queue_ua(lu, i, SCSI_UA_POWER_ON);
		*ret_nexus = (struct scsi_nexus){ *id, i };
		r = 0;
	}
	pthread_mutex_unlock(&lu->lock);
	return r;
}

/* What a nexus holds by being there, and loses by a reset too. */
static void release_held(struct scsi_lu *lu, const struct scsi_nexus *nexus)
{
	scsi_reservations_power_on(lu, nexus);
	scsi_dvd_power_on(lu, nexus);
}

void scsi_lu_disconnect(struct scsi_lu *lu, struct scsi_nexus *nexus)
{
	release_held(lu, nexus);
	pthread_mutex_lock(&lu->lock);
	lu->nexus[nexus->index].connected = false;
	__atomic_store_n(&lu->nexus[nexus->index].uas, 0, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&lu->lock);
}

void scsi_lu_power_on(struct scsi_lu *lu, struct scsi_nexus *nexus)
{
	release_held(lu, nexus);
	scsi_mode_power_on(lu);
	scsi_ua_raise_one(lu, nexus->index, SCSI_UA_POWER_ON);
}

/* ---- changes from the host's side ----------------------------------------------------------------------- */

static void reread(struct scsi_lu *lu)
{
	pthread_mutex_lock(&lu->lock);
	scsi_lu_read_geometry(lu);
	pthread_mutex_unlock(&lu->lock);
}

void scsi_lu_resized(struct scsi_lu *lu)
{
	reread(lu);
	scsi_ua_raise(lu, NULL, SCSI_UA_CAPACITY);
}

void scsi_lu_set_read_only(struct scsi_lu *lu, bool read_only)
{
	if (__atomic_exchange_n(&lu->read_only, read_only, __ATOMIC_RELAXED) == read_only)
		return;
	scsi_ua_raise(lu, NULL, SCSI_UA_MODE);
	/* Linux only notes the first one; the second makes it look at the unit again. */
	scsi_ua_raise(lu, NULL, SCSI_UA_PARAMETERS);
}

void scsi_lu_parameters_changed(struct scsi_lu *lu)
{
	reread(lu);
	scsi_ua_raise(lu, NULL, SCSI_UA_PARAMETERS);
}
