/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmm/machine_task.h"

#include <errno.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void *run(void *ctx)
{
	struct machine_task *t = ctx;
	uint64_t one = 1;

	t->work(t->ctx);
	return write(t->fd, &one, sizeof(one)) < 0 ? t : NULL;
}

static void on_done(void *ctx, uint32_t events)
{
	struct machine_task *t = ctx;
	uint64_t count;

	if (read(t->fd, &count, sizeof(count)) < 0)
		return;
	pthread_join(t->thread, NULL);
	t->running = false;
	t->done(t->ctx);
}

int machine_task_init(struct machine_task *t, struct vmm_loop *loop, void *ctx)
{
	int r;

	*t = (struct machine_task){ .ctx = ctx };
	t->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (t->fd < 0)
		return -errno;
	r = vmm_loop_add(loop, t->fd, EPOLLIN, on_done, t, &t->watch);
	if (r < 0) {
		close(t->fd);
		t->fd = -1;
	}
	return r;
}

int machine_task_start(struct machine_task *t, void (*work)(void *ctx), void (*done)(void *ctx))
{
	int r;

	if (t->running)
		return -EBUSY;
	t->work = work;
	t->done = done;
	r = -pthread_create(&t->thread, NULL, run, t);
	t->running = r == 0;
	return r;
}

void machine_task_fini(struct machine_task *t)
{
	if (!t->watch)
		return;
	if (t->running)
		pthread_join(t->thread, NULL);
	t->running = false;
	vmm_loop_remove(t->watch);
	close(t->fd);
	t->watch = NULL;
}
