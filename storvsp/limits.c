/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Limits of a unit, shared by its workers without a lock. A bucket is one number, the time by which all that was taken
 * is paid for at the agreed rate. Who finds it no further ahead of the clock than the burst allows may take, and moves
 * it; a large request puts it into debt, so that it needs no bucket of its own size.
 */
#include "base/bytes.h"
#include "base/seed.h"
#include "storvsp/schedule.h"

#define SECOND_NS 1000000000ull
#define AMOUNT_MAX (1ull << 33)		/* amount x SECOND_NS fits into 64 bits */
#define BURST_PARTS 10u			/* the default burst: a tenth of a second */
#define WEIGHT_MAX 1000000u

static uint64_t get(const uint64_t *v)
{
	return __atomic_load_n(v, __ATOMIC_RELAXED);
}

static void set(uint64_t *v, uint64_t x)
{
	__atomic_store_n(v, x, __ATOMIC_RELAXED);
}

static uint64_t cost_ns(uint64_t amount, uint64_t rate)
{
	return sp_min(amount, AMOUNT_MAX) * SECOND_NS / rate;
}

static void bucket_set(struct storvsp_bucket *b, uint64_t rate, uint64_t burst)
{
	uint64_t burst_ns = burst ? cost_ns(burst, sp_max(rate, 1)) : SECOND_NS / BURST_PARTS;

	set(&b->burst_ns, burst_ns);
	set(&b->rate, rate);
	/* Debts at an old rate may lie far in the future. */
	set(&b->due_ns, 0);
}

void storvsp_limiter_set(struct storvsp_limiter *l, const struct storvsp_limits *limits)
{
	static const struct storvsp_limits none;

	if (!limits)
		limits = &none;
	bucket_set(&l->ios, limits->iops, limits->burst_iops);
	bucket_set(&l->bytes, limits->bps, limits->burst_bps);
}

/* 0: taken. */
static uint64_t bucket_take(struct storvsp_bucket *b, uint64_t amount, uint64_t now_ns, uint64_t *ret_taken_ns)
{
	uint64_t rate = get(&b->rate), burst_ns = get(&b->burst_ns), due = get(&b->due_ns), cost;

	*ret_taken_ns = 0;
	if (rate == 0 || amount == 0)
		return 0;
	cost = cost_ns(amount, rate);
	do {
		if (due > now_ns + burst_ns)
			return due - burst_ns;
	} while (!__atomic_compare_exchange_n(&b->due_ns, &due, sp_max(due, now_ns) + cost, true, __ATOMIC_RELAXED,
					      __ATOMIC_RELAXED));
	*ret_taken_ns = cost;
	return 0;
}

uint64_t storvsp_cost_ios(struct scsi_cost cost)
{
	return cost.io ? sp_max(1, sp_div_ceil(cost.bytes, STORVSP_IO_UNIT)) : 0;
}

uint64_t storvsp_limiter_take(struct storvsp_limiter *l, struct scsi_cost cost, uint64_t now_ns)
{
	uint64_t taken_ns, wait_ns = bucket_take(&l->ios, storvsp_cost_ios(cost), now_ns, &taken_ns), unused;

	if (wait_ns)
		return wait_ns;
	wait_ns = bucket_take(&l->bytes, cost.bytes, now_ns, &unused);
	/* Both or none: what the request does not use now is not lost to others. */
	if (wait_ns && taken_ns && !SP_SEED_BUG(VSP_LIMIT_NO_REFUND))
		__atomic_sub_fetch(&l->ios.due_ns, taken_ns, __ATOMIC_RELAXED);
	return wait_ns;
}

uint32_t storvsp_weight(const struct storvsp_limits *limits)
{
	uint64_t weight = limits && limits->min_iops ? limits->min_iops : STORVSP_WEIGHT_DEFAULT;

	return (uint32_t)sp_min(weight, WEIGHT_MAX);
}
