/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmm/loop.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/alloc.h"

#define BATCH 16

struct vmm_watch {
	struct vmm_loop *loop;
	int fd;
	bool removed;			/* freed after the batch: another event of it may still be in there */
	void (*ready)(void *ctx, uint32_t events);
	void (*expired)(void *ctx);	/* a timer: fd is a timerfd of ours */
	void *ctx;
	struct vmm_watch *next;
};

struct vmm_loop {
	int epoll;
	bool quit, removed_any;
	struct vmm_watch *watches;
};

int vmm_loop_new(struct vmm_loop **ret_loop)
{
	struct vmm_loop *l = sp_zalloc(sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll < 0) {
		int r = -errno;

		sp_free(l);
		return r;
	}
	*ret_loop = l;
	return 0;
}

static void sweep(struct vmm_loop *l, bool all)
{
	struct vmm_watch **at = &l->watches;

	while (*at) {
		struct vmm_watch *w = *at;

		if (!w->removed && !all) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		if (w->expired && w->fd >= 0)
			close(w->fd);
		sp_free(w);
	}
	l->removed_any = false;
}

void vmm_loop_free(struct vmm_loop *l)
{
	if (!l)
		return;
	sweep(l, true);
	close(l->epoll);
	sp_free(l);
}

static int watch(struct vmm_loop *l, int fd, uint32_t events, struct vmm_watch *w, struct vmm_watch **ret_watch)
{
	struct epoll_event e = { .events = events, .data.ptr = w };

	w->loop = l;
	w->fd = fd;
	if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &e) < 0) {
		int r = -errno;

		sp_free(w);
		return r;
	}
	w->next = l->watches;
	l->watches = w;
	if (ret_watch)
		*ret_watch = w;
	return 0;
}

int vmm_loop_add(struct vmm_loop *l, int fd, uint32_t events, void (*ready)(void *ctx, uint32_t events), void *ctx,
		 struct vmm_watch **ret_watch)
{
	struct vmm_watch *w = sp_zalloc(sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->ready = ready;
	w->ctx = ctx;
	return watch(l, fd, events, w, ret_watch);
}

int vmm_loop_modify(struct vmm_watch *w, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.ptr = w };

	return epoll_ctl(w->loop->epoll, EPOLL_CTL_MOD, w->fd, &e) < 0 ? -errno : 0;
}

static struct timespec timespec_of(unsigned ms)
{
	return (struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };
}

int vmm_loop_timer_set(struct vmm_watch *w, unsigned first_ms, unsigned every_ms)
{
	/* An expiry of zero would disarm. */
	struct itimerspec t = {
		.it_value = timespec_of(first_ms == 0 && every_ms ? 1 : first_ms), .it_interval = timespec_of(every_ms),
	};

	return timerfd_settime(w->fd, 0, &t, NULL) < 0 ? -errno : 0;
}

int vmm_loop_timer(struct vmm_loop *l, unsigned first_ms, unsigned every_ms, void (*expired)(void *ctx), void *ctx,
		   struct vmm_watch **ret_watch)
{
	struct vmm_watch *w = sp_zalloc(sizeof(*w));
	int fd, r;

	if (!w)
		return -ENOMEM;
	fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (fd < 0) {
		r = -errno;
		sp_free(w);
		return r;
	}
	w->expired = expired;
	w->ctx = ctx;
	r = watch(l, fd, EPOLLIN, w, &w);
	if (r < 0) {
		close(fd);
		return r;
	}
	if (ret_watch)
		*ret_watch = w;
	return vmm_loop_timer_set(w, first_ms, every_ms);
}

void vmm_loop_remove(struct vmm_watch *w)
{
	if (!w || w->removed)
		return;
	epoll_ctl(w->loop->epoll, EPOLL_CTL_DEL, w->fd, NULL);
	w->removed = true;
	w->loop->removed_any = true;
}

static void dispatch(struct vmm_watch *w, uint32_t events)
{
	uint64_t expirations;

	if (w->removed)
		return;
	if (!w->expired)
		w->ready(w->ctx, events);
	else if (read(w->fd, &expirations, sizeof(expirations)) == sizeof(expirations))
		w->expired(w->ctx);
}

int vmm_loop_run(struct vmm_loop *l)
{
	struct epoll_event event[BATCH];

	while (!l->quit) {
		int n = epoll_wait(l->epoll, event, BATCH, -1);

		if (n < 0 && errno != EINTR)
			return -errno;
		for (int i = 0; i < n && !l->quit; i++)
			dispatch(event[i].data.ptr, event[i].events);
		if (l->removed_any)
			sweep(l, false);
	}
	l->quit = false;
	return 0;
}

void vmm_loop_quit(struct vmm_loop *l)
{
	l->quit = true;
}
