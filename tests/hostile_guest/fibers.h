/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_FIBERS_H
#define SPINDLE_TESTS_FIBERS_H
/*
 * Threads without threads: included before everything else in a build of the provider and the bus, this turns each of
 * their threads into a fiber of one thread. A fiber runs until it waits; who runs next is asked from the test, as is
 * whether a lock gives others a turn. So an interleaving is part of the input, and repeats with it.
 *
 * Time stands still but for looks at the clock; a timeout runs out only when nobody can run.
 */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>

int fiber_create(pthread_t *ret, const pthread_attr_t *attr, void *(*run)(void *), void *arg);
int fiber_join(pthread_t thread, void **ret);
int fiber_setname(pthread_t thread, const char *name);
int fiber_sigmask(int how, const sigset_t *set, sigset_t *old);
int fiber_mutex_init(pthread_mutex_t *m, const pthread_mutexattr_t *attr);
int fiber_mutex_destroy(pthread_mutex_t *m);
int fiber_mutex_lock(pthread_mutex_t *m);
int fiber_mutex_unlock(pthread_mutex_t *m);
int fiber_cond_init(pthread_cond_t *c, const pthread_condattr_t *attr);
int fiber_cond_destroy(pthread_cond_t *c);
int fiber_cond_wait(pthread_cond_t *c, pthread_mutex_t *m);
int fiber_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until);
int fiber_cond_signal(pthread_cond_t *c);
int fiber_cond_broadcast(pthread_cond_t *c);
int fiber_poll(struct pollfd *fds, nfds_t n, int timeout_ms);
int fiber_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask);
uint64_t fiber_monotonic_ns(void);
/* Mappings of guest pages get a page without rights on either side (memory.c). */
void *guarded_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset);
int guarded_munmap(void *addr, size_t len);

#define pthread_create fiber_create
#define pthread_join fiber_join
#define pthread_setname_np fiber_setname
#define pthread_sigmask fiber_sigmask
#define pthread_mutex_init fiber_mutex_init
#define pthread_mutex_destroy fiber_mutex_destroy
#define pthread_mutex_lock fiber_mutex_lock
#define pthread_mutex_unlock fiber_mutex_unlock
#define pthread_cond_init fiber_cond_init
#define pthread_cond_destroy fiber_cond_destroy
#define pthread_cond_wait fiber_cond_wait
#define pthread_cond_timedwait fiber_cond_timedwait
#define pthread_cond_signal fiber_cond_signal
#define pthread_cond_broadcast fiber_cond_broadcast
#define poll fiber_poll
#define ppoll fiber_ppoll
#define sp_env_monotonic_ns fiber_monotonic_ns
#define mmap guarded_mmap
#define munmap guarded_munmap

/* ---- for the test ---------------------------------------------------------------------------------------- */

struct fiber_ops {
	uint32_t (*choose)(void *ctx, uint32_t n);	/* 0 .. n-1 */
	bool (*idle)(void *ctx);	/* nobody can run: true when something has been done about it */
};

/* The caller becomes the first fiber. */
void fibers_begin(const struct fiber_ops *ops, void *ctx);
void fibers_end(void);		/* aborts when another one is still alive */
bool fibers_first(void);		/* whether the test itself runs */
bool fibers_turn(void);		/* lets one other run, if one can */
void fibers_settle(void);	/* until nobody else can run; aborts when that does not come to be */
bool fibers_expire(void);	/* the next timeout of another runs out; false: there is none */

#endif
