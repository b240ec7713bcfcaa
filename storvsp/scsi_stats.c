/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Statistics. Each worker counts in its own queue with plain additions stored relaxed; who asks adds the queues up.
 */
#include "base/bytes.h"
#include "storvsp/scsi_queue_int.h"

#define COUNTERS (offsetof(struct scsi_stats, inflight) / sizeof(uint64_t))

static void add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

void scsi_stats_inflight(struct scsi_queue *q, int delta, uint64_t now_ns)
{
	struct scsi_stats *s = &q->stats;
	uint64_t passed = now_ns - q->changed_ns;

	if (q->inflight > 0) {
		add(&s->busy_ns, passed);
		add(&s->queue_ns, passed * q->inflight);
	}
	q->changed_ns = now_ns;
	q->inflight += (unsigned)delta;
	__atomic_store_n(&s->inflight, q->inflight, __ATOMIC_RELAXED);
	if (q->inflight > s->inflight_max)
		__atomic_store_n(&s->inflight_max, q->inflight, __ATOMIC_RELAXED);
}

/* Bucket i holds what took less than 2^i microseconds. */
static unsigned bucket(uint64_t ns)
{
	uint64_t us = ns / 1000;
	unsigned i = us == 0 ? 0 : 64u - (unsigned)__builtin_clzll(us);

	return i < SCSI_LATENCY_BUCKETS ? i : SCSI_LATENCY_BUCKETS - 1;
}

static void count_success(struct scsi_stats *s, const struct scsi_task *t, uint64_t ns)
{
	switch (t->account) {
	case SCSI_ACCOUNT_READ:
		add(&s->reads, 1);
		add(&s->read_bytes, t->transferred);
		add(&s->read_ns, ns);
		break;
	case SCSI_ACCOUNT_WRITE:
		add(&s->writes, 1);
		add(&s->write_bytes, t->transferred);
		add(&s->write_ns, ns);
		break;
	case SCSI_ACCOUNT_FLUSH:
		add(&s->flushes, 1);
		add(&s->flush_ns, ns);
		break;
	case SCSI_ACCOUNT_UNMAP:
		add(&s->unmaps, 1);		/* bytes: counted as they go */
		break;
	default:
		add(&s->others, 1);
		return;				/* no I/O: no latency worth a word */
	}
	add(&s->latency[bucket(ns)], 1);
}

void scsi_stats_task(struct scsi_queue *q, const struct scsi_task *t, uint64_t now_ns)
{
	struct scsi_stats *s = &q->stats;

	if (t->status == SCSI_GOOD)
		count_success(s, t, now_ns - t->started_ns);
	else if (t->status == SCSI_RESERVATION_CONFLICT)
		add(&s->reservation_conflicts, 1);
	else
		add(&s->errors, 1);
}

void scsi_stats_unmapped(struct scsi_queue *q, uint64_t bytes)
{
	add(&q->stats.unmap_bytes, bytes);
}

void scsi_stats_sum(struct scsi_stats *to, const struct scsi_stats *from)
{
	uint64_t *sum = (uint64_t *)(void *)to;
	const uint64_t *one = (const uint64_t *)(const void *)from;
	uint32_t most = __atomic_load_n(&from->inflight_max, __ATOMIC_RELAXED);

	for (size_t i = 0; i < COUNTERS; i++)
		sum[i] += __atomic_load_n(&one[i], __ATOMIC_RELAXED);
	to->inflight += __atomic_load_n(&from->inflight, __ATOMIC_RELAXED);
	to->inflight_max = most > to->inflight_max ? most : to->inflight_max;
}

void scsi_lu_stats(struct scsi_lu *lu, struct scsi_stats *ret_stats)
{
	pthread_mutex_lock(&lu->lock);
	*ret_stats = lu->past;
	for (const struct scsi_queue *q = lu->queues; q; q = q->next)
		scsi_stats_sum(ret_stats, &q->stats);
	pthread_mutex_unlock(&lu->lock);
}
