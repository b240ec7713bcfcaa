/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The machine's loop: descriptors, timers, and what callbacks may do to the loop that calls them.
 */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/rows.h"
#include "vmm/loop.h"

static struct vmm_loop *loop;
static struct end { int fd; struct vmm_watch *watch; unsigned calls; uint32_t events; } e[3];
static unsigned ticks;
static struct vmm_watch *timer;

static void ring(int fd)
{
	uint64_t one = 1;

	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

static void quit(void *ctx)
{
	vmm_loop_quit(loop);
}

static void run_for(unsigned ms)
{
	struct vmm_watch *w;

	assert_int_equal(vmm_loop_timer(loop, ms, 0, quit, NULL, &w), 0);
	assert_int_equal(vmm_loop_run(loop), 0);
	vmm_loop_remove(w);
}

static void count(void *ctx, uint32_t events)
{
	struct end *end = ctx;
	uint64_t n;

	end->calls++;
	end->events = events;
	assert_int_equal(read(end->fd, &n, sizeof(n)), sizeof(n));
}

static void begin(void (*ready)(void *ctx, uint32_t events))
{
	assert_int_equal(vmm_loop_new(&loop), 0);
	ticks = 0;
	for (unsigned i = 0; i < 3; i++) {
		e[i] = (struct end){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
		assert_true(e[i].fd >= 0);
		assert_int_equal(vmm_loop_add(loop, e[i].fd, EPOLLIN, ready, &e[i], &e[i].watch), 0);
	}
}

static void finish(void)
{
	vmm_loop_free(loop);		/* with watches left */
	for (unsigned i = 0; i < 3; i++)
		close(e[i].fd);
}

static void descriptors(void **state)
{
	begin(count);
	ring(e[0].fd);
	ring(e[2].fd);
	run_for(5);
	assert_int_equal(e[0].calls, 1);
	assert_int_equal(e[1].calls, 0);
	assert_int_equal(e[2].calls, 1);
	assert_int_equal(e[0].events, EPOLLIN);
	finish();
}

/* Each removes the others: of three that are ready in one batch, one is called. */
static void remove_others(void *ctx, uint32_t events)
{
	struct end *end = ctx;

	count(ctx, events);
	for (unsigned i = 0; i < 3; i++)
		if (&e[i] != end)
			vmm_loop_remove(e[i].watch);
}

static void removed_in_batch(void **state)
{
	begin(remove_others);
	for (unsigned i = 0; i < 3; i++)
		ring(e[i].fd);
	run_for(5);
	assert_int_equal(e[0].calls + e[1].calls + e[2].calls, 1);
	finish();
}

/* Removes itself and puts another watch on the same descriptor, which has the next event. */
static void replace(void *ctx, uint32_t events)
{
	struct end *end = ctx;

	count(ctx, events);
	vmm_loop_remove(end->watch);
	vmm_loop_remove(end->watch);	/* twice is once */
	assert_int_equal(vmm_loop_add(loop, end->fd, EPOLLIN, count, end, &end->watch), 0);
	ring(end->fd);
}

static void replaced(void **state)
{
	begin(replace);
	ring(e[1].fd);
	run_for(5);
	assert_int_equal(e[1].calls, 2);
	finish();
}

static void modified(void **state)
{
	begin(count);
	assert_int_equal(vmm_loop_modify(e[0].watch, 0), 0);
	ring(e[0].fd);
	run_for(3);
	assert_int_equal(e[0].calls, 0);
	assert_int_equal(vmm_loop_modify(e[0].watch, EPOLLIN), 0);
	run_for(3);
	assert_int_equal(e[0].calls, 1);
	finish();
}

static void twice(void **state)
{
	struct vmm_watch *w;

	begin(count);
	assert_int_equal(vmm_loop_add(loop, e[0].fd, EPOLLIN, count, &e[0], &w), -EEXIST);
	assert_int_equal(vmm_loop_add(loop, -1, EPOLLIN, count, &e[0], &w), -EBADF);
	vmm_loop_remove(NULL);
	finish();
}

static void tick(void *ctx)
{
	if (++ticks == 3)
		vmm_loop_quit(loop);
}

static void periodic(void **state)
{
	begin(count);
	assert_int_equal(vmm_loop_timer(loop, 0, 2, tick, NULL, &timer), 0);
	assert_int_equal(vmm_loop_run(loop), 0);
	assert_int_equal(ticks, 3);
	vmm_loop_timer_set(timer, 0, 0);
	run_for(8);
	assert_int_equal(ticks, 3);
	finish();
}

static void tick_and_go(void *ctx)
{
	ticks++;
	vmm_loop_remove(timer);
}

static void removes_itself(void **state)
{
	begin(count);
	assert_int_equal(vmm_loop_timer(loop, 1, 1, tick_and_go, NULL, &timer), 0);
	run_for(8);
	assert_int_equal(ticks, 1);
	finish();
}

/* Put forward while it has expired already, in the same batch: it does not expire now. */
static void put_off(void *ctx, uint32_t events)
{
	struct timespec ms = { .tv_nsec = 3000000 };

	count(ctx, events);
	nanosleep(&ms, NULL);
	vmm_loop_timer_set(timer, 60000, 0);
}

static void put_off_in_batch(void **state)
{
	struct timespec ms = { .tv_nsec = 3000000 };

	begin(put_off);
	ring(e[0].fd);
	assert_int_equal(vmm_loop_timer(loop, 1, 0, tick, NULL, &timer), 0);
	nanosleep(&ms, NULL);
	run_for(8);
	assert_int_equal(e[0].calls, 1);
	assert_true(ticks <= 1);	/* the order within a batch is the kernel's */
	finish();
}

static const struct single_row rows[] = {
	{ "descriptors", descriptors },
	{ "removed in the same batch", removed_in_batch },
	{ "replaced out of its own callback", replaced },
	{ "events changed", modified },
	{ "the same descriptor twice, and none", twice },
	{ "a periodic timer", periodic },
	{ "a timer that removes itself", removes_itself },
	{ "a timer put off in the batch of its expiry", put_off_in_batch },
};

int main(void)
{
	return ROWS_RUN(rows, rows_single);
}
