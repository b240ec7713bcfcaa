/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/support/gate_backend.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define BLOCK 512u
#define WAIT_US 200
#define WAITS 25000		/* 5 s */

struct gate_queue {
	struct scsi_bqueue base;
	struct gate *gate;
	struct gate_queue *next;
	struct vhd_req *first, **last;
	int bell;
};

struct gate {
	struct scsi_backend base;
	pthread_mutex_t lock;		/* queues, memory */
	struct gate_queue *queues;
	uint8_t *memory;
	uint64_t size;			/* atomic */
	bool shut;			/* atomic */
	unsigned taken;			/* atomic */
};

static struct gate *of(struct scsi_backend *b)
{
	return (struct gate *)(void *)b;
}

static struct gate_queue *queue_of(struct scsi_bqueue *q)
{
	return (struct gate_queue *)(void *)q;
}

static void ring(struct gate_queue *q)
{
	uint64_t one = 1;

	if (write(q->bell, &one, sizeof(one)) != (ssize_t)sizeof(one))
		abort();
}

static void geometry(struct scsi_backend *b, struct scsi_geometry *ret)
{
	*ret = (struct scsi_geometry){
		.size = __atomic_load_n(&of(b)->size, __ATOMIC_RELAXED),
		.logical_block = BLOCK,
		.physical_block = BLOCK,
	};
}

static int mapped(struct scsi_backend *b, uint64_t offset, uint64_t len, uint64_t *ret_len, bool *ret_mapped)
{
	*ret_len = len;
	*ret_mapped = true;
	return 0;
}

static int queue_new(struct scsi_backend *b, unsigned depth, struct scsi_bqueue **ret, struct sp_err *err)
{
	struct gate_queue *q = calloc(1, sizeof(*q));
	struct gate *g = of(b);

	if (!q)
		abort();
	q->base.ops = b->ops;
	q->gate = g;
	q->last = &q->first;
	q->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_lock(&g->lock);
	q->next = g->queues;
	g->queues = q;
	pthread_mutex_unlock(&g->lock);
	*ret = &q->base;
	return 0;
}

static void queue_free(struct scsi_bqueue *b)
{
	struct gate_queue *q = queue_of(b), **at;

	pthread_mutex_lock(&q->gate->lock);
	for (at = &q->gate->queues; *at != q; at = &(*at)->next)
		;
	*at = q->next;
	pthread_mutex_unlock(&q->gate->lock);
	close(q->bell);
	free(q);
}

static int register_buffers(struct scsi_bqueue *q, const struct iovec *iov, unsigned count)
{
	return 0;
}

static void submit(struct scsi_bqueue *b, struct vhd_req *req)
{
	struct gate_queue *q = queue_of(b);

	req->next = NULL;
	*q->last = req;
	q->last = &req->next;
	__atomic_add_fetch(&q->gate->taken, 1, __ATOMIC_SEQ_CST);
	ring(q);
}

static int kick(struct scsi_bqueue *q)
{
	return 0;
}

static void move(struct gate *g, struct vhd_req *req)
{
	uint8_t *at = g->memory + req->offset;

	pthread_mutex_lock(&g->lock);
	for (int i = 0; i < req->iovcnt; i++) {
		if (req->op == VHD_REQ_READ)
			memcpy(req->iov[i].iov_base, at, req->iov[i].iov_len);
		else
			memcpy(at, req->iov[i].iov_base, req->iov[i].iov_len);
		at += req->iov[i].iov_len;
	}
	pthread_mutex_unlock(&g->lock);
}

static int poll_queue(struct scsi_bqueue *b)
{
	struct gate_queue *q = queue_of(b);
	struct vhd_req *req, *next;
	uint64_t rings;
	int n = 0;

	/* The bell first, then the gate: gate_open() opens first, then rings. */
	if (read(q->bell, &rings, sizeof(rings)) < 0 && errno != EAGAIN)
		abort();
	if (__atomic_load_n(&q->gate->shut, __ATOMIC_SEQ_CST))
		return 0;
	req = q->first;
	q->first = NULL;
	q->last = &q->first;
	for (; req; req = next, n++) {
		next = req->next;
		if (req->op == VHD_REQ_READ || req->op == VHD_REQ_WRITE)
			move(q->gate, req);
		__atomic_sub_fetch(&q->gate->taken, 1, __ATOMIC_SEQ_CST);
		req->complete(req, 0);
	}
	return n;
}

static int queue_fd(struct scsi_bqueue *q)
{
	return queue_of(q)->bell;
}

static void wake(struct scsi_bqueue *q)
{
	ring(queue_of(q));
}

static void backend_free(struct scsi_backend *b)
{
	struct gate *g = of(b);

	pthread_mutex_destroy(&g->lock);
	free(g->memory);
	free(g);
}

static const struct scsi_backend_ops gate_ops = {
	.geometry = geometry, .mapped = mapped, .queue_new = queue_new, .free = backend_free, .queue_free = queue_free,
	.register_buffers = register_buffers, .submit = submit, .kick = kick, .poll = poll_queue, .fd = queue_fd,
	.wake = wake,
};

struct gate *gate_new(uint64_t size)
{
	struct gate *g = calloc(1, sizeof(*g));

	if (!g || !(g->memory = calloc(1, size)))
		abort();
	g->base.ops = &gate_ops;
	g->size = size;
	pthread_mutex_init(&g->lock, NULL);
	return g;
}

struct scsi_backend *gate_backend(struct gate *g)
{
	return &g->base;
}

void gate_shut(struct gate *g)
{
	__atomic_store_n(&g->shut, true, __ATOMIC_SEQ_CST);
}

void gate_open(struct gate *g)
{
	__atomic_store_n(&g->shut, false, __ATOMIC_SEQ_CST);
	pthread_mutex_lock(&g->lock);
	for (struct gate_queue *q = g->queues; q; q = q->next)
		ring(q);
	pthread_mutex_unlock(&g->lock);
}

unsigned gate_taken(struct gate *g)
{
	return __atomic_load_n(&g->taken, __ATOMIC_SEQ_CST);
}

void gate_resize(struct gate *g, uint64_t size)
{
	__atomic_store_n(&g->size, size, __ATOMIC_RELAXED);
}

bool gate_wait(struct gate *g, unsigned taken)
{
	for (int i = 0; i < WAITS && gate_taken(g) < taken; i++)
		usleep(WAIT_US);
	return gate_taken(g) >= taken;
}
