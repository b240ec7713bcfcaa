/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A drive's medium comes and goes while workers have queues on it. A worker marks when it is inside (executing or
 * polling); what is submitted keeps it as well. The host's eject takes an idle queue off the medium itself and waits
 * for the others, which let go as they leave. All of it under the unit's lock: a drive is not in a hurry.
 */
#include <errno.h>
#include <time.h>

#include "base/env.h"
#include "storvsp/scsi_queue_int.h"

#define EJECT_WAIT_NS (10 * UINT64_C(1000000000))
#define SENSE_BECOMING_READY SCSI_SENSE(0x2, 0x04, 0x01)

void scsi_medium_release(struct scsi_queue *q)
{
	if (q->bqueue)
		q->bqueue->ops->queue_free(q->bqueue);
	q->bqueue = NULL;
	q->medium = NULL;
	pthread_cond_broadcast(&q->lu->released);
}

static bool is_idle(const struct scsi_queue *q)
{
	return q->entered == 0 && q->submitted == 0;
}

void scsi_medium_enter(struct scsi_queue *q)
{
	pthread_mutex_lock(&q->lu->lock);
	q->entered++;
	pthread_mutex_unlock(&q->lu->lock);
}

void scsi_medium_leave(struct scsi_queue *q)
{
	struct scsi_lu *lu = q->lu;

	pthread_mutex_lock(&lu->lock);
	q->entered--;
	if (q->medium && q->medium != lu->backend && is_idle(q))
		scsi_medium_release(q);
	pthread_mutex_unlock(&lu->lock);
}

uint32_t scsi_lu_medium(const struct scsi_lu *lu)
{
	if (lu->kind != SCSI_DVD)
		return 0;
	if (__atomic_load_n(&lu->tray_open, __ATOMIC_ACQUIRE))
		return SCSI_SENSE_NO_MEDIUM_OPEN;
	return __atomic_load_n(&lu->backend, __ATOMIC_ACQUIRE) ? 0 : SCSI_SENSE_NO_MEDIUM_CLOSED;
}

/* Puts the queue on the present medium. It is inside, so the medium stays from here on. */
static uint32_t settle(struct scsi_queue *q, bool *ret_new)
{
	struct scsi_lu *lu = q->lu;
	uint32_t sense;

	*ret_new = false;
	pthread_mutex_lock(&lu->lock);
	sense = scsi_lu_medium(lu);
	if (sense == 0 && q->medium != lu->backend) {
		if (q->submitted > 0) {
			sense = SENSE_BECOMING_READY;	/* reads of the former medium are still under way */
		} else {
			scsi_medium_release(q);
			q->medium = lu->backend;
		}
	}
	*ret_new = sense == 0 && !q->bqueue;
	pthread_mutex_unlock(&lu->lock);
	return sense;
}

uint32_t scsi_medium_open(struct scsi_queue *q)
{
	bool is_new;
	uint32_t sense = settle(q, &is_new);

	/* A queue that cannot be had leaves q->bqueue NULL; the next command tries again. */
	if (is_new && q->medium->ops->queue_new(q->medium, q->depth, &q->bqueue, NULL) < 0)
		sense = SENSE_BECOMING_READY;
	return sense;
}

/* ---- the host's hand ----------------------------------------------------------------------------------- */

static bool is_held(const struct scsi_lu *lu, const struct scsi_backend *medium)
{
	for (const struct scsi_queue *q = lu->queues; q; q = q->next) {
		if (q->medium == medium)
			return true;
	}
	return false;
}

/* Under lock. False: somebody did not let go in time. */
static bool wait_released(struct scsi_lu *lu, struct scsi_backend *medium)
{
	uint64_t end = sp_env_monotonic_ns() + EJECT_WAIT_NS;
	struct timespec until = { (time_t)(end / 1000000000u), (long)(end % 1000000000u) };

	for (struct scsi_queue *q = lu->queues; q; q = q->next) {
		if (q->medium == medium && is_idle(q))
			scsi_medium_release(q);
	}
	while (is_held(lu, medium)) {
		if (pthread_cond_timedwait(&lu->released, &lu->lock, &until) == ETIMEDOUT)
			return !is_held(lu, medium);
	}
	return true;
}

int scsi_lu_eject(struct scsi_lu *lu, bool force)
{
	struct scsi_backend *medium = NULL;
	int r = 0;

	pthread_mutex_lock(&lu->lock);
	if (lu->kind != SCSI_DVD || !lu->backend)
		r = -ENOMEDIUM;
	else if (!force && scsi_dvd_prevented(lu))
		r = -EBUSY;
	if (r == 0) {
		medium = lu->backend;
		__atomic_store_n(&lu->backend, NULL, __ATOMIC_RELEASE);
		__atomic_store_n(&lu->tray_open, true, __ATOMIC_RELEASE);
		scsi_dvd_medium_changed(lu, false);
		if (!wait_released(lu, medium)) {
			lu->leaving = medium;
			medium = NULL;
			r = -ETIMEDOUT;
		}
	}
	pthread_mutex_unlock(&lu->lock);
	if (medium)
		medium->ops->free(medium);
	return r;
}

int scsi_lu_insert(struct scsi_lu *lu, struct scsi_backend *medium)
{
	struct scsi_backend *left = NULL;
	int r = 0;

	pthread_mutex_lock(&lu->lock);
	if (lu->kind != SCSI_DVD || lu->backend || (lu->leaving && is_held(lu, lu->leaving))) {
		r = -EBUSY;
	} else {
		left = lu->leaving;
		lu->leaving = NULL;
		__atomic_store_n(&lu->backend, medium, __ATOMIC_RELEASE);
		scsi_lu_read_geometry(lu);
		__atomic_store_n(&lu->tray_open, false, __ATOMIC_RELEASE);
		scsi_dvd_medium_changed(lu, true);
	}
	pthread_mutex_unlock(&lu->lock);
	if (left)
		left->ops->free(left);
	if (r == 0)
		scsi_ua_raise(lu, NULL, SCSI_UA_MEDIUM);
	return r;
}
