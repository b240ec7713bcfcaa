/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * COMPARE AND WRITE is atomic against the writes of all workers. It is rare, writes are not, so it pays for both:
 *
 *	a write			counts itself in its own queue, then looks whether a queue has the unit to itself;
 *				if so it takes its count back and parks
 *	an exclusive command	announces its queue in lu->exclusive, then looks at the counts of all queues and
 *				begins when all are zero
 *
 * Each side stores first and loads then, all sequentially consistent: at least one of them sees the other. A write
 * costs one such store on a cache line of its own worker and one load of a line that does not change. Its end is a
 * plain store; whether somebody waits for it is looked up once for all writes that one poll found done.
 *
 * Wakes: the last write of a queue rings the bell of the queue that waits; the end of the exclusive command rings all,
 * since a worker that parks something must look again.
 */
#include "base/seed.h"
#include "storvsp/scsi_queue_int.h"

static struct scsi_queue *owner_of(struct scsi_lu *lu)
{
	return __atomic_load_n(&lu->exclusive, __ATOMIC_SEQ_CST);
}

static void ring(struct scsi_queue *q)
{
	q->bqueue->ops->wake(q->bqueue);
}

static void ring_owner(struct scsi_lu *lu)
{
	struct scsi_queue *owner;

	pthread_mutex_lock(&lu->lock);		/* it cannot be freed meanwhile: it must leave the list first */
	owner = owner_of(lu);
	if (owner)
		ring(owner);
	pthread_mutex_unlock(&lu->lock);
}

static void ring_all(struct scsi_lu *lu)
{
	pthread_mutex_lock(&lu->lock);
	for (struct scsi_queue *q = lu->queues; q; q = q->next)
		ring(q);
	pthread_mutex_unlock(&lu->lock);
}

static void park(struct scsi_task *t)
{
	struct scsi_queue *q = t->queue;

	t->req.next = NULL;
	*q->parked_tail = &t->req;
	q->parked_tail = &t->req.next;
}

/* ---- writes -------------------------------------------------------------------------------------------- */

static void count(struct scsi_queue *q, int delta)
{
	__atomic_store_n(&q->writes_inflight, q->writes_inflight + (unsigned)delta, __ATOMIC_SEQ_CST);
}

bool scsi_exclusive_enter(struct scsi_task *t)
{
	struct scsi_queue *q = t->queue;

	if (q->exclusive_task == t)
		return true;
	count(q, 1);
	if (!owner_of(q->lu) || SP_SEED_BUG(SCSI_WRITE_PASSES_EXCLUSIVE)) {
		t->counted = true;
		return true;
	}
	count(q, -1);
	ring_owner(q->lu);		/* it may have seen the count that has just gone */
	park(t);
	return false;
}

void scsi_exclusive_leave(struct scsi_task *t)
{
	struct scsi_queue *q = t->queue;

	t->counted = false;
	__atomic_store_n(&q->writes_inflight, q->writes_inflight - 1, __ATOMIC_RELEASE);
	q->writes_left = true;
}

void scsi_exclusive_left(struct scsi_queue *q)
{
	if (!q->writes_left)
		return;
	q->writes_left = false;
	count(q, 0);		/* what the plain stores said, this time before the look */
	if (owner_of(q->lu))
		ring_owner(q->lu);
}

/* ---- exclusive commands -------------------------------------------------------------------------------- */

static bool writes_are_over(struct scsi_lu *lu)
{
	bool over = true;

	pthread_mutex_lock(&lu->lock);
	for (struct scsi_queue *q = lu->queues; q && over; q = q->next)
		over = __atomic_load_n(&q->writes_inflight, __ATOMIC_SEQ_CST) == 0;
	pthread_mutex_unlock(&lu->lock);
	return over;
}

static void try_run(struct scsi_queue *q)
{
	if (SP_SEED_BUG(SCSI_EXCLUSIVE_EARLY) || writes_are_over(q->lu)) {
		q->exclusive_runs = true;
		scsi_queue_step(q->exclusive_task, 0);
	}
}

void scsi_exclusive_begin(struct scsi_task *t)
{
	struct scsi_queue *q = t->queue, *nobody = NULL;

	if (!__atomic_compare_exchange_n(&q->lu->exclusive, &nobody, q, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
		t->req.complete = NULL;		/* tells it from a parked write */
		park(t);
		return;
	}
	q->exclusive_task = t;
	q->exclusive_runs = false;
	try_run(q);
}

void scsi_exclusive_end(struct scsi_task *t)
{
	struct scsi_queue *q = t->queue;

	q->exclusive_task = NULL;
	__atomic_store_n(&q->lu->exclusive, NULL, __ATOMIC_SEQ_CST);
	ring_all(q->lu);
}

/* ---- the worker looks again ----------------------------------------------------------------------------- */

static void resume_parked(struct scsi_queue *q)
{
	struct vhd_req *req = q->parked, *next;

	/* Those that must wait again come back in the same order. */
	q->parked = NULL;
	q->parked_tail = &q->parked;
	for (; req; req = next) {
		struct scsi_task *t = (struct scsi_task *)((char *)req - offsetof(struct scsi_task, req));

		next = req->next;
		if (req->complete)
			scsi_submit(t);
		else
			scsi_exclusive_begin(t);
	}
}

void scsi_exclusive_poll(struct scsi_queue *q)
{
	scsi_exclusive_left(q);
	if (q->exclusive_task && !q->exclusive_runs)
		try_run(q);
	if (q->parked && !owner_of(q->lu))
		resume_parked(q);
}
