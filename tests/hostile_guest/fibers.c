/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/hostile_guest/fibers.h"

/* Here they are what they are. */
#undef poll
#undef mmap
#undef munmap

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif
#ifdef WITH_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

#define FIBERS 24u
#define STACK (256u << 10)
#define GUARD 4096u
#define LOOK_NS 300u		/* what a look at the clock takes */
#define SETTLE_MAX 2000000u	/* turns: whoever needs more spins */

enum state { FREE, READY, COND, POLL, MUTEX, JOIN, DONE };

struct fiber {
	enum state state;
	void *sp;
	uint8_t *stack;			/* of others than the first */
	const void *bottom;
	size_t size;
	void *fake;
	void *(*run)(void *);
	void *arg;
	/* what it waits for */
	const void *object;		/* COND, MUTEX; JOIN: a fiber */
	bool signalled, timed, expired;
	struct pollfd *fds;
	nfds_t nfds;
	uint64_t timeout_ns;
};

static struct {
	struct fiber fiber[FIBERS];
	struct fiber *now;
	const struct fiber_ops *ops;
	void *ctx;
	uint64_t clock;
} all;

static void tell_fds(const struct fiber *f)
{
	for (nfds_t i = 0; f->state == POLL && i < f->nfds; i++)
		fprintf(stderr, "    descriptor %d: %#x of %#x\n", f->fds[i].fd, (unsigned)f->fds[i].revents,
			(unsigned)f->fds[i].events);
}

static void die(const char *what)
{
	fprintf(stderr, "hostile guest: %s\n", what);
	for (unsigned i = 0; i < FIBERS; i++) {
		if (all.fiber[i].state == FREE)
			continue;
		fprintf(stderr, "  fiber %u%s: state %d%s\n", i, &all.fiber[i] == all.now ? " (runs)" : "",
			(int)all.fiber[i].state, all.fiber[i].timed ? ", with a timeout" : "");
		tell_fds(&all.fiber[i]);
	}
	abort();
}

static uint32_t choose(uint32_t n)
{
	return n < 2 ? 0 : all.ops->choose(all.ctx, n);
}

/* ---- switching ------------------------------------------------------------------------------------------- */

void fiber_switch(void **save, void *load);

__asm__(".text\n"
	".globl fiber_switch\n"
	".type fiber_switch, @function\n"
	"fiber_switch:\n"
	"push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
	"mov %rsp, (%rdi)\n"
	"mov %rsi, %rsp\n"
	"pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n"
	"ret\n"
	".size fiber_switch, . - fiber_switch\n");

static void switch_to(struct fiber *to)
{
	struct fiber *from = all.now;

	all.now = to;
#ifdef WITH_ASAN
	__sanitizer_start_switch_fiber(from->state == DONE ? NULL : &from->fake, to->bottom, to->size);
#endif
	fiber_switch(&from->sp, to->sp);
#ifdef WITH_ASAN
	__sanitizer_finish_switch_fiber(from->fake, NULL, NULL);
#endif
}

static bool ready(struct fiber *f)
{
	switch (f->state) {
	case READY:
		return true;
	case COND:
		return f->signalled;
	case POLL:
		return poll(f->fds, f->nfds, 0) > 0;
	case MUTEX:
		return *(const int *)f->object == 0;
	case JOIN:
		return ((const struct fiber *)f->object)->state == DONE;
	default:
		return false;
	}
}

/* One that can run: which one, the input says. */
static struct fiber *pick(const struct fiber *but)
{
	uint32_t first = choose(FIBERS);

	for (uint32_t i = 0; i < FIBERS; i++) {
		struct fiber *f = &all.fiber[(first + i) % FIBERS];

		if (f != but && f->state != FREE && f->state != DONE && ready(f))
			return f;
	}
	return NULL;
}

static struct fiber *next_timeout(const struct fiber *but)
{
	struct fiber *best = NULL;

	for (unsigned i = 0; i < FIBERS; i++) {
		struct fiber *f = &all.fiber[i];

		if (f != but && (f->state == COND || f->state == POLL) && f->timed &&
		    (!best || f->timeout_ns < best->timeout_ns))
			best = f;
	}
	if (best) {
		all.clock += best->timeout_ns;
		best->expired = true;
	}
	return best;
}

static void go_to(struct fiber *f)
{
	f->state = READY;
	if (f != all.now)
		switch_to(f);
}

/* The current fiber has said what it waits for. */
static void wait(void)
{
	struct fiber *f;

	while (!(f = pick(NULL))) {
		if (choose(4) == 0 && (f = next_timeout(NULL)))
			break;
		if (all.ops->idle(all.ctx))
			continue;
		f = next_timeout(NULL);
		if (!f)
			die("deadlock: everybody waits for somebody");
		break;
	}
	go_to(f);
}

static void fiber_main(void)
{
	struct fiber *me = all.now;

#ifdef WITH_ASAN
	__sanitizer_finish_switch_fiber(NULL, NULL, NULL);
#endif
	me->run(me->arg);
	me->state = DONE;
	wait();
	abort();
}

/* ---- threads ---------------------------------------------------------------------------------------------- */

static void make_stack(struct fiber *f)
{
	void **top;

	if (!f->stack) {	/* kept for the next one */
		f->stack = mmap(NULL, STACK + GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (f->stack == MAP_FAILED || mprotect(f->stack, GUARD, PROT_NONE) < 0)
			die("no memory for a stack");
	}
	f->bottom = f->stack + GUARD;
	f->size = STACK;
	top = (void **)(void *)(f->stack + GUARD + STACK - 64);
	*--top = NULL;
	*--top = (void *)(uintptr_t)fiber_main;		/* aligned to 16: as a call would leave it */
	top -= 6;
	memset(top, 0, 6 * sizeof(*top));
	f->sp = top;
}

int fiber_create(pthread_t *ret, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
	for (unsigned i = 1; i < FIBERS; i++) {
		struct fiber *f = &all.fiber[i];

		if (f->state != FREE)
			continue;
		*f = (struct fiber){ .state = READY, .stack = f->stack, .run = run, .arg = arg };
		make_stack(f);
		*ret = i;
		return 0;
	}
	die("more threads than channels");
	return EAGAIN;
}

int fiber_join(pthread_t thread, void **ret)
{
	struct fiber *f = &all.fiber[thread];

	all.now->state = JOIN;
	all.now->object = f;
	wait();
	f->state = FREE;
	return 0;
}

int fiber_setname(pthread_t thread, const char *name)
{
	return strlen(name) < 16 ? 0 : ERANGE;
}

int fiber_sigmask(int how, const sigset_t *set, sigset_t *old)
{
	return 0;
}

/* ---- locks: the first word of each tells who has it ----------------------------------------------------------- */

static int *owner_of(pthread_mutex_t *m)
{
	return (int *)(void *)m;
}

int fiber_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *attr)
{
	*owner_of(m) = 0;
	return 0;
}

int fiber_mutex_destroy(pthread_mutex_t *m)
{
	if (*owner_of(m) != 0)
		die("a lock is destroyed that somebody has");
	return 0;
}

int fiber_mutex_lock(pthread_mutex_t *m)
{
	int me = (int)(all.now - all.fiber) + 1;

	if (*owner_of(m) == me)
		die("a lock is taken twice");
	if (choose(32) == 0)
		fibers_turn();
	if (*owner_of(m) != 0) {
		all.now->state = MUTEX;
		all.now->object = m;
		wait();
	}
	*owner_of(m) = me;
	return 0;
}

int fiber_mutex_unlock(pthread_mutex_t *m)
{
	if (*owner_of(m) != (int)(all.now - all.fiber) + 1)
		die("a lock is released by who does not have it");
	*owner_of(m) = 0;
	return 0;
}

int fiber_cond_init(pthread_cond_t *c, const pthread_condattr_t *attr)
{
	return 0;
}

int fiber_cond_destroy(pthread_cond_t *c)
{
	return 0;
}

static int cond_wait(pthread_cond_t *c, pthread_mutex_t *m, bool timed)
{
	struct fiber *me = all.now;
	bool expired;

	fiber_mutex_unlock(m);
	me->state = COND;
	me->object = c;
	me->signalled = me->expired = false;
	me->timed = timed;
	me->timeout_ns = 1000000000;
	wait();
	expired = me->expired;
	me->timed = me->expired = false;
	fiber_mutex_lock(m);
	return expired ? ETIMEDOUT : 0;
}

int fiber_cond_wait(pthread_cond_t *c, pthread_mutex_t *m)
{
	return cond_wait(c, m, false);
}

int fiber_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until)
{
	return cond_wait(c, m, true);
}

static void wake(const pthread_cond_t *c, bool everybody)
{
	uint32_t first = choose(FIBERS);

	for (uint32_t i = 0; i < FIBERS; i++) {
		struct fiber *f = &all.fiber[(first + i) % FIBERS];

		if (f->state != COND || f->object != c || f->signalled)
			continue;
		f->signalled = true;
		if (!everybody)
			return;
	}
}

int fiber_cond_signal(pthread_cond_t *c)
{
	wake(c, false);
	return 0;
}

int fiber_cond_broadcast(pthread_cond_t *c)
{
	wake(c, true);
	return 0;
}

/* ---- waiting for descriptors ----------------------------------------------------------------------------------- */

static int poll_for(struct pollfd *fds, nfds_t n, bool timed, uint64_t timeout_ns)
{
	struct fiber *me = all.now;

	me->state = POLL;
	me->fds = fds;
	me->nfds = n;
	me->timed = timed;
	me->expired = false;
	me->timeout_ns = timeout_ns;
	wait();
	me->timed = me->expired = false;
	return poll(fds, n, 0);
}

int fiber_poll(struct pollfd *fds, nfds_t n, int timeout_ms)
{
	return poll_for(fds, n, timeout_ms >= 0, (uint64_t)timeout_ms * 1000000);
}

int fiber_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
	return poll_for(fds, n, timeout != NULL,
			timeout ? (uint64_t)timeout->tv_sec * 1000000000 + (uint64_t)timeout->tv_nsec : 0);
}

uint64_t fiber_monotonic_ns(void)
{
	return all.clock += LOOK_NS;
}

/* ---- the test's side --------------------------------------------------------------------------------------------- */

void fibers_begin(const struct fiber_ops *ops, void *ctx)
{
	pthread_attr_t attr;
	void *bottom;

	for (unsigned i = 0; i < FIBERS; i++)
		all.fiber[i] = (struct fiber){ .stack = all.fiber[i].stack };
	all.now = &all.fiber[0];
	all.now->state = READY;
	if (pthread_getattr_np(pthread_self(), &attr) || pthread_attr_getstack(&attr, &bottom, &all.now->size))
		abort();
	pthread_attr_destroy(&attr);
	all.now->bottom = bottom;
	all.ops = ops;
	all.ctx = ctx;
	all.clock = 1000000000;
}

void fibers_end(void)
{
	for (unsigned i = 1; i < FIBERS; i++)
		if (all.fiber[i].state != FREE)
			die("a thread is left");
}

bool fibers_first(void)
{
	return all.now == &all.fiber[0];
}

bool fibers_turn(void)
{
	struct fiber *f = pick(all.now);

	if (f)
		go_to(f);
	return f != NULL;
}

void fibers_settle(void)
{
	for (unsigned i = 0; fibers_turn(); i++)
		if (i > SETTLE_MAX)
			die("somebody spins without end");
}

bool fibers_expire(void)
{
	struct fiber *f = next_timeout(all.now);

	if (f)
		go_to(f);
	return f != NULL;
}
