/* SPDX-License-Identifier: BSD-2-Clause */
/* Limits and turns against a clock of the test's own: rates, bursts, shares, and who waits for whom. */
#include <stdio.h>

#include "storvsp/schedule.h"
#include "tests/unit/rows.h"

#define SECOND_NS 1000000000ull
#define STEP_NS 100000ull
#define FOREVER UINT64_MAX
#define FLOWS 8
#define ENTRIES 4096

static double off_by(double found, double wanted)
{
	return (found > wanted ? found - wanted : wanted - found) / wanted;
}

/* ---- limits: as many requests as one may have in some seconds -------------------------------------------- */

static const struct rate_case {
	const char *name;
	struct storvsp_limits limits;
	uint64_t bytes;			/* of each request */
	double wanted;			/* requests per second */
} rate_cases[] = {
	{ "IOPS, 4 KiB requests cost one", { .iops = 1000 }, 4096, 1000 },
	{ "IOPS, 8 KiB requests cost one", { .iops = 1000 }, 8192, 1000 },
	{ "IOPS, 12 KiB requests cost two", { .iops = 1000 }, 12288, 500 },
	{ "IOPS, 64 KiB requests cost eight", { .iops = 1000 }, 65536, 125 },
	{ "IOPS, 1 MiB requests cost 128", { .iops = 1280 }, 1 << 20, 10 },
	{ "IOPS, flushes cost one", { .iops = 200 }, 0, 200 },
	{ "bytes per second", { .bps = 10 << 20 }, 65536, 160 },
	{ "bytes per second, each more than the burst", { .bps = 4 << 20, .burst_bps = 4096 }, 1 << 20, 4 },
	{ "both, IOPS are fewer", { .iops = 100, .bps = 100 << 20 }, 4096, 100 },
	{ "both, bytes are fewer", { .iops = 10000, .bps = 1 << 20 }, 65536, 16 },
	{ "one I/O per second", { .iops = 1 }, 4096, 1 },
	{ "a million", { .iops = 1000000 }, 4096, 1000000 },
	{ "a small burst", { .iops = 5000, .burst_iops = 1 }, 4096, 5000 },
};

/* Takes as often as it may until @until; how many times. */
static uint64_t take_until(struct storvsp_limiter *l, struct scsi_cost cost, uint64_t *now, uint64_t until)
{
	uint64_t n = 0;

	while (*now < until) {
		uint64_t wait = storvsp_limiter_take(l, cost, *now);

		if (wait == 0) {
			n++;
			continue;
		}
		assert_true(wait > *now);
		*now = wait;
	}
	return n;
}

static void rate(void **state)
{
	const struct rate_case *c = *state;
	struct scsi_cost cost = { c->bytes, true };
	struct storvsp_limiter l = { 0 };
	uint64_t now = 77 * SECOND_NS, start, seconds = c->wanted < 100 ? 60 : 2, n;

	storvsp_limiter_set(&l, &c->limits);
	take_until(&l, cost, &now, now + SECOND_NS);	/* the burst is used up */
	start = now;
	n = take_until(&l, cost, &now, start + seconds * SECOND_NS);
	assert_true(off_by((double)n, c->wanted * (double)seconds) < 0.05);
}

static void burst(void **state)
{
	struct storvsp_limits limits = { .iops = 1000, .burst_iops = 500 };
	struct scsi_cost cost = { 4096, true };
	struct storvsp_limiter l = { 0 };
	uint64_t now = SECOND_NS, n;

	storvsp_limiter_set(&l, &limits);
	for (int round = 0; round < 3; round++) {
		for (n = 0; storvsp_limiter_take(&l, cost, now) == 0; n++)
			assert_true(n < 1000);
		assert_true(n >= 500 && n <= 502);
		now += 10 * SECOND_NS;		/* idle: the burst is back, and no more than it */
	}
}

static void no_limit(void **state)
{
	struct scsi_cost cost = { 1 << 20, true };
	struct storvsp_limiter l = { 0 };

	storvsp_limiter_set(&l, NULL);
	for (int i = 0; i < 100000; i++)
		assert_int_equal(storvsp_limiter_take(&l, cost, 5), 0);
}

static void limit_lifted(void **state)
{
	struct storvsp_limits slow = { .bps = 1000 }, fast = { .bps = 1ull << 30 };
	struct scsi_cost cost = { 1 << 20, true };
	struct storvsp_limiter l = { 0 };

	storvsp_limiter_set(&l, &slow);
	assert_int_equal(storvsp_limiter_take(&l, cost, SECOND_NS), 0);
	assert_true(storvsp_limiter_take(&l, cost, SECOND_NS) > 900 * SECOND_NS);
	storvsp_limiter_set(&l, &fast);
	assert_int_equal(storvsp_limiter_take(&l, cost, SECOND_NS), 0);
}

/* What is refused for its bytes must not have used up I/Os. */
static void both_or_none(void **state)
{
	struct storvsp_limits limits = { .iops = 100, .burst_iops = 10, .bps = 1 << 20, .burst_bps = 4096 };
	struct scsi_cost large = { 1 << 20, true }, flush = { 0, true };
	struct storvsp_limiter l = { 0 };
	int n;

	storvsp_limiter_set(&l, &limits);
	assert_int_equal(storvsp_limiter_take(&l, (struct scsi_cost){ 8192, true }, SECOND_NS), 0);
	for (int i = 0; i < 1000; i++)
		assert_true(storvsp_limiter_take(&l, large, SECOND_NS) > 0);
	for (n = 0; n < 100 && storvsp_limiter_take(&l, flush, SECOND_NS) == 0; n++)
		;
	assert_true(n >= 9 && n <= 11);
}

static void not_io(void **state)
{
	assert_int_equal(storvsp_cost_ios((struct scsi_cost){ 4096, false }), 0);
	assert_int_equal(storvsp_cost_ios((struct scsi_cost){ 0, true }), 1);
	assert_int_equal(storvsp_cost_ios((struct scsi_cost){ 8193, true }), 2);
}

static const struct single_row limit_rows[] = {
	{ "a burst, and again after idling", burst },
	{ "no limit", no_limit },
	{ "a debt ends with its limit", limit_lifted },
	{ "both buckets or none", both_or_none },
	{ "what counts", not_io },
};

/* ---- turns: a disk that ends so many requests per step, and flows that always have more ------------------ */

struct bench {
	struct storvsp_schedule s;
	struct storvsp_limiter limiter[FLOWS];
	struct storvsp_flow flow[FLOWS];
	struct storvsp_entry entry[ENTRIES], *free, *running[ENTRIES];
	uint64_t bytes[FLOWS];
	bool stuck[FLOWS];		/* its disk never ends anything */
	unsigned flows, depth_used, ran, done[FLOWS];
	uint64_t done_bytes[FLOWS];
};

static void bench_open(struct bench *b, unsigned flows, unsigned depth)
{
	memset(b, 0, sizeof(*b));
	b->flows = flows;
	assert_int_equal(storvsp_schedule_init(&b->s, depth, FLOWS), 0);
	for (unsigned i = 0; i < ENTRIES; i++) {
		b->entry[i].next = b->free;
		b->free = &b->entry[i];
	}
	for (unsigned f = 0; f < flows; f++) {
		storvsp_limiter_set(&b->limiter[f], NULL);
		storvsp_flow_init(&b->flow[f], &b->limiter[f], STORVSP_WEIGHT_DEFAULT);
		b->bytes[f] = 4096;
	}
}

static void bench_close(struct bench *b)
{
	storvsp_schedule_fini(&b->s);
}

static void run_one(struct bench *b, struct storvsp_entry *e)
{
	b->running[b->ran++] = e;
}

/* Each flow has @queue requests waiting or running. */
static void fill(struct bench *b, unsigned queue, uint64_t now)
{
	for (unsigned f = 0; f < b->flows; f++) {
		while (b->flow[f].waiting + b->flow[f].running < queue && b->free) {
			struct storvsp_entry *e = b->free;

			b->free = e->next;
			e->flow = &b->flow[f];
			e->cost = (struct scsi_cost){ b->bytes[f], true };
			if (storvsp_schedule_add(&b->s, e, now))
				run_one(b, e);
		}
	}
}

/* Ends the @count oldest that are not stuck. */
static void serve(struct bench *b, unsigned count)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < b->ran; i++) {
		struct storvsp_entry *e = b->running[i];
		unsigned f = (unsigned)(e->flow - b->flow);

		if (count == 0 || b->stuck[f]) {
			b->running[kept++] = e;
			continue;
		}
		count--;
		b->done[f]++;
		b->done_bytes[f] += e->cost.bytes;
		storvsp_schedule_done(&b->s, e->flow);
		e->next = b->free;
		b->free = e;
	}
	b->ran = kept;
}

static void run_steps(struct bench *b, unsigned queue, unsigned per_step, unsigned steps, uint64_t *now)
{
	for (unsigned i = 0; i < steps; i++) {
		struct storvsp_entry *e;
		uint64_t wake;

		fill(b, queue, *now);
		while ((e = storvsp_schedule_next(&b->s, *now, &wake)))
			run_one(b, e);
		assert_true(wake > *now);
		serve(b, per_step);
		*now += STEP_NS;
	}
}

static const struct share_case {
	const char *name;
	uint64_t min_iops[3];
	uint64_t bytes[3];
	double share[3];		/* of the bytes */
} share_cases[] = {
	{ "equal weights", { 0, 0, 0 }, { 8192, 8192, 8192 }, { 1 / 3., 1 / 3., 1 / 3. } },
	{ "three to two to one", { 300, 200, 100 }, { 8192, 8192, 8192 }, { 1 / 2., 1 / 3., 1 / 6. } },
	{ "a minimum against two without", { 800, 0, 0 }, { 8192, 8192, 8192 }, { .8, .1, .1 } },
	{ "large requests gain nothing", { 0, 0, 0 }, { 65536, 8192, 8192 }, { 1 / 3., 1 / 3., 1 / 3. } },
};

static void share(void **state)
{
	const struct share_case *c = *state;
	static struct bench b;
	uint64_t now = SECOND_NS, all = 0;

	bench_open(&b, 3, 128);
	for (unsigned f = 0; f < 3; f++) {
		struct storvsp_limits limits = { .min_iops = c->min_iops[f] };

		b.flow[f].weight = storvsp_weight(&limits);
		b.bytes[f] = c->bytes[f];
	}
	/* The first requests of each run anyway, so a share shows only where there is more room than those take. */
	run_steps(&b, 600, 32, 300, &now);
	memset(b.done_bytes, 0, sizeof(b.done_bytes));
	run_steps(&b, 600, 32, 3000, &now);
	for (unsigned f = 0; f < 3; f++)
		all += b.done_bytes[f];
	for (unsigned f = 0; f < 3; f++) {
		double found = (double)b.done_bytes[f] / (double)all;

		if (off_by(found, c->share[f]) > 0.25)
			fail_msg("flow %u got %.3f instead of %.3f", f, found, c->share[f]);
	}
	bench_close(&b);
}

/* A disk that ends nothing keeps what it got; the other one goes on at its own pace, with room to do so. */
static void stuck_disk(void **state)
{
	static struct bench b;
	uint64_t now = SECOND_NS;

	bench_open(&b, 2, 128);
	b.stuck[0] = true;
	run_steps(&b, 500, 20, 100, &now);
	assert_int_equal(b.done[0], 0);
	assert_true(b.done[1] >= 100 * 20);
	assert_int_equal(b.flow[0].running, 96);
	bench_close(&b);
}

static void alone(void **state)
{
	static struct bench b;
	uint64_t now = SECOND_NS;

	bench_open(&b, 1, 128);
	run_steps(&b, 500, 0, 2, &now);
	assert_int_equal(b.flow[0].running, 96);
	bench_close(&b);
	bench_open(&b, 1, 1);
	run_steps(&b, 500, 0, 2, &now);
	assert_int_equal(b.flow[0].running, 8);
	bench_close(&b);
}

/* One has a limit and the other has not: that is nobody's business but its own. */
static void limited_neighbour(void **state)
{
	struct storvsp_limits limits = { .iops = 500 };
	static struct bench b;
	uint64_t now = SECOND_NS;

	bench_open(&b, 2, 128);
	storvsp_limiter_set(&b.limiter[0], &limits);
	run_steps(&b, 100, 40, 10000, &now);		/* a second */
	b.done[0] = b.done[1] = 0;
	run_steps(&b, 100, 40, 20000, &now);		/* two more */
	assert_true(off_by(b.done[0], 1000) < 0.05);
	assert_true(b.done[1] > 40 * 20000 * 0.9);
	assert_true(b.limiter[0].throttled > 900);
	assert_true(b.limiter[0].throttled_ns > SECOND_NS);
	assert_int_equal(b.limiter[0].queued, b.flow[0].waiting);
	assert_int_equal(b.limiter[1].throttled, 0);
	bench_close(&b);
}

/* Who slept an hour has no hour of credit. */
static void no_credit(void **state)
{
	static struct bench b;
	uint64_t now = SECOND_NS;

	bench_open(&b, 1, 128);
	run_steps(&b, 300, 32, 5000, &now);
	b.flows = 2;
	storvsp_limiter_set(&b.limiter[1], NULL);
	storvsp_flow_init(&b.flow[1], &b.limiter[1], STORVSP_WEIGHT_DEFAULT);
	b.bytes[1] = 4096;
	b.done[0] = b.done[1] = 0;
	run_steps(&b, 300, 32, 400, &now);
	assert_true(off_by(b.done[0], b.done[1]) < 0.3);
	bench_close(&b);
}

static void wakes_in_time(void **state)
{
	struct storvsp_limits limits = { .iops = 10, .burst_iops = 1 };
	static struct bench b;
	uint64_t now = SECOND_NS, wake, started = 0, end = now + 10 * SECOND_NS;
	struct storvsp_entry *e;

	bench_open(&b, 1, 128);
	storvsp_limiter_set(&b.limiter[0], &limits);
	while (now < end) {
		fill(&b, 50, now);
		while ((e = storvsp_schedule_next(&b.s, now, &wake))) {
			run_one(&b, e);
			started++;
		}
		serve(&b, 100);
		assert_true(wake > now && wake != FOREVER);
		now = wake;
	}
	assert_true(started >= 98 && started <= 104);
	bench_close(&b);
}

static void cancel(void **state)
{
	struct storvsp_limits limits = { .iops = 1, .burst_iops = 1 };
	static struct bench b;
	uint64_t now = SECOND_NS, wake;
	unsigned n = 0;

	bench_open(&b, 2, 64);
	storvsp_limiter_set(&b.limiter[0], &limits);
	fill(&b, 40, now);
	while (storvsp_schedule_cancel(&b.s, &b.flow[0], now))
		n++;
	assert_true(n >= 38);
	assert_int_equal(b.flow[0].waiting, 0);
	assert_int_equal(b.limiter[0].queued, 0);
	while (storvsp_schedule_next(&b.s, now, &wake))
		;
	assert_int_equal(b.flow[1].waiting, 0);
	assert_int_equal(b.s.flows, 0);
	bench_close(&b);
}

static const struct single_row turn_rows[] = {
	{ "one alone gets three quarters, or the first few", alone },
	{ "a disk that hangs does not stall another", stuck_disk },
	{ "a limit is nobody's business but its own", limited_neighbour },
	{ "idling earns no credit", no_credit },
	{ "the time to wake up is right", wakes_in_time },
	{ "what waits can be cancelled", cancel },
};

int main(void)
{
	int failed = ROWS_RUN(rate_cases, rate);

	failed += ROWS_RUN(limit_rows, rows_single);
	failed += ROWS_RUN(share_cases, share);
	return failed + ROWS_RUN(turn_rows, rows_single);
}
