/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_STORVSP_SCHEDULE_H
#define SPINDLE_STORVSP_SCHEDULE_H
/*
 * Who may start now. Two things decide: the limits of a unit (limits.c), shared by all workers without a lock, and the
 * turns that the units of one worker take when there is more to do than may run at once (schedule.c). Time is an
 * argument, so a test has its own.
 */
#include <stdbool.h>
#include <stdint.h>

#include "storvsp/scsi.h"
#include "storvsp/storvsp.h"

#define STORVSP_IO_UNIT 8192u		/* what counts as one I/O */
#define STORVSP_WEIGHT_DEFAULT 100u	/* of a unit without min_iops */

/* ---- limits: leaky buckets in virtual time ---------------------------------------------------------------- */

/* Taking moves @due ahead by what the request costs in time; it may run @burst_ns ahead of the clock. */
struct storvsp_bucket {
	uint64_t rate;			/* per second; 0: no limit */
	uint64_t burst_ns;
	uint64_t due_ns;
};

struct storvsp_limiter {		/* all fields atomic */
	struct storvsp_bucket ios, bytes;
	uint64_t throttled, throttled_ns;
	uint32_t queued;
};

void storvsp_limiter_set(struct storvsp_limiter *l, const struct storvsp_limits *limits);	/* NULL: none */
/* 0: taken. Otherwise the time at which to ask again. Any thread. */
uint64_t storvsp_limiter_take(struct storvsp_limiter *l, struct scsi_cost cost, uint64_t now_ns);
uint64_t storvsp_cost_ios(struct scsi_cost cost);
uint32_t storvsp_weight(const struct storvsp_limits *limits);

/* ---- turns -------------------------------------------------------------------------------------------------- */

struct storvsp_flow;

struct storvsp_entry {			/* in the caller's request */
	struct storvsp_entry *next;
	struct storvsp_flow *flow;
	struct scsi_cost cost;
	uint64_t since_ns;
};

struct storvsp_flow {			/* the requests of one unit */
	struct storvsp_limiter *limiter;
	uint32_t weight;
	unsigned waiting, running;
	unsigned position;		/* in the schedule, while some wait */
	uint64_t pass;			/* work done so far over weight: the smallest is next */
	uint64_t blocked_ns;		/* its limit said: not before */
	struct storvsp_entry *first, *last;
};

struct storvsp_schedule {
	unsigned depth;			/* how many may run */
	unsigned running;
	unsigned flows, room;
	struct storvsp_flow **flow;	/* those with entries waiting */
	uint64_t pass;			/* of the flow that started last: a newcomer begins here */
};

int storvsp_schedule_init(struct storvsp_schedule *s, unsigned depth, unsigned max_flows);	/* -ENOMEM */
void storvsp_schedule_fini(struct storvsp_schedule *s);
void storvsp_flow_init(struct storvsp_flow *f, struct storvsp_limiter *limiter, uint32_t weight);
/* @e->flow and @e->cost are set. True: start it now (and call storvsp_schedule_done() later). False: it waits. */
bool storvsp_schedule_add(struct storvsp_schedule *s, struct storvsp_entry *e, uint64_t now_ns);
/* The next one whose turn it is, or NULL: nothing may start before @ret_wake_ns (UINT64_MAX: before one has ended). */
struct storvsp_entry *storvsp_schedule_next(struct storvsp_schedule *s, uint64_t now_ns, uint64_t *ret_wake_ns);
void storvsp_schedule_done(struct storvsp_schedule *s, struct storvsp_flow *f);
/* Takes the first waiting entry out, whatever its turn; NULL: none. */
struct storvsp_entry *storvsp_schedule_cancel(struct storvsp_schedule *s, struct storvsp_flow *f, uint64_t now_ns);

#endif
