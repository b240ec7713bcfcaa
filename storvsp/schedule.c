/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Turns between the units of one worker. While there is room everybody starts at once. When more wants to run than may,
 * the unit that has had the least work for its weight is next: each start adds cost / weight to the unit's pass. One
 * that was idle joins at the pass of the others, so that idling earns no credit.
 *
 * A slow disk keeps what it was given for long, whatever its turn. So no unit ever gets more than three quarters of the
 * room, and the first few requests of each may always run.
 */
#include "storvsp/schedule.h"

#include <errno.h>
#include <stddef.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/seed.h"

#define ALWAYS	   8u		/* so many of each unit */
#define PASS_SCALE (1ull << 24)
/* Who waited for its limit or its disk may catch up on so much, but not on all that it might have done. */
#define LAG_MAX	   (1024 * PASS_SCALE / STORVSP_WEIGHT_DEFAULT)

int storvsp_schedule_init(struct storvsp_schedule *s, unsigned depth, unsigned max_flows)
{
	*s = (struct storvsp_schedule){ .depth = depth, .room = max_flows };
	s->flow = sp_calloc(max_flows, sizeof(*s->flow));
	return s->flow ? 0 : -ENOMEM;
}

void storvsp_schedule_fini(struct storvsp_schedule *s)
{
	sp_free(s->flow);
	s->flow = NULL;
}

void storvsp_flow_init(struct storvsp_flow *f, struct storvsp_limiter *limiter, uint32_t weight)
{
	*f = (struct storvsp_flow){ .limiter = limiter, .weight = weight };
}

static bool has_room(const struct storvsp_schedule *s, const struct storvsp_flow *f)
{
	if (f->running < ALWAYS)
		return true;
	return s->running < s->depth && (f->running < s->depth - s->depth / 4 || SP_SEED_BUG(VSP_NO_SHARE));
}

static void started(struct storvsp_schedule *s, struct storvsp_entry *e)
{
	struct storvsp_flow *f = e->flow;

	f->pass = sp_max(f->pass, s->pass - sp_min(s->pass, LAG_MAX));
	s->pass = sp_max(s->pass, f->pass);
	f->pass += storvsp_cost_ios(e->cost) * PASS_SCALE / f->weight;
	f->running++;
	s->running++;
}

static void append(struct storvsp_schedule *s, struct storvsp_entry *e)
{
	struct storvsp_flow *f = e->flow;

	e->next = NULL;
	if (f->waiting++ == 0) {
		f->first = e;
		f->position = s->flows;
		s->flow[s->flows++] = f;
	} else {
		f->last->next = e;
	}
	f->last = e;
	__atomic_add_fetch(&f->limiter->queued, 1, __ATOMIC_RELAXED);
}

static struct storvsp_entry *take_first(struct storvsp_schedule *s, struct storvsp_flow *f, uint64_t now_ns)
{
	struct storvsp_entry *e = f->first;

	f->first = e->next;
	if (--f->waiting == 0) {
		struct storvsp_flow *moved = s->flow[--s->flows];

		s->flow[f->position] = moved;
		moved->position = f->position;
	}
	__atomic_sub_fetch(&f->limiter->queued, 1, __ATOMIC_RELAXED);
	if (f->blocked_ns > e->since_ns) {	/* its limit held it up, or the one before it */
		__atomic_add_fetch(&f->limiter->throttled, 1, __ATOMIC_RELAXED);
		__atomic_add_fetch(&f->limiter->throttled_ns, now_ns - e->since_ns, __ATOMIC_RELAXED);
	}
	return e;
}

bool storvsp_schedule_add(struct storvsp_schedule *s, struct storvsp_entry *e, uint64_t now_ns)
{
	struct storvsp_flow *f = e->flow;

	e->since_ns = now_ns;
	if (f->running == 0 && f->waiting == 0)
		f->pass = sp_max(f->pass, s->pass);
	if (s->flows == 0 && has_room(s, f)) {
		uint64_t wait_ns = storvsp_limiter_take(f->limiter, e->cost, now_ns);

		if (wait_ns == 0) {
			started(s, e);
			return true;
		}
		f->blocked_ns = wait_ns;
	}
	append(s, e);
	return false;
}

/* Of those that have room and are not known to be limited, the one with the smallest pass. */
static struct storvsp_flow *pick(const struct storvsp_schedule *s, uint64_t now_ns, uint64_t *wake_ns)
{
	struct storvsp_flow *best = NULL;

	for (unsigned i = 0; i < s->flows; i++) {
		struct storvsp_flow *f = s->flow[i];

		if (!has_room(s, f))
			continue;
		if (f->blocked_ns > now_ns)
			*wake_ns = sp_min(*wake_ns, f->blocked_ns);
		else if (!best || f->pass < best->pass)
			best = f;
	}
	return best;
}

struct storvsp_entry *storvsp_schedule_next(struct storvsp_schedule *s, uint64_t now_ns, uint64_t *ret_wake_ns)
{
	struct storvsp_flow *f;

	*ret_wake_ns = UINT64_MAX;
	while ((f = pick(s, now_ns, ret_wake_ns))) {
		uint64_t wait_ns = storvsp_limiter_take(f->limiter, f->first->cost, now_ns);

		if (wait_ns == 0) {
			struct storvsp_entry *e = take_first(s, f, now_ns);

			started(s, e);
			return e;
		}
		f->blocked_ns = wait_ns;
	}
	return NULL;
}

void storvsp_schedule_done(struct storvsp_schedule *s, struct storvsp_flow *f)
{
	f->running--;
	s->running--;
}

struct storvsp_entry *storvsp_schedule_cancel(struct storvsp_schedule *s, struct storvsp_flow *f, uint64_t now_ns)
{
	return f->waiting ? take_first(s, f, now_ns) : NULL;
}
