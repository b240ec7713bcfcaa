/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * No disk at all: what the target itself costs. Every request is done when the queue is polled next; nothing moves.
 */
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "storvsp/scsi.h"

struct null_backend {
	struct scsi_backend base;	/* first member */
	uint64_t size;
	uint32_t logical_block;
};

struct null_queue {
	struct scsi_bqueue base;	/* first member */
	struct vhd_req *head, **tail;
	int fd;
};

static void null_geometry(struct scsi_backend *b, struct scsi_geometry *ret)
{
	struct null_backend *n = (struct null_backend *)b;

	*ret = (struct scsi_geometry){
		.size = n->size,
		.logical_block = n->logical_block,
		.physical_block = (uint32_t)sp_max(n->logical_block, 4096),
		.unmap_granularity = 4096,
	};
}

static int null_mapped(struct scsi_backend *b, uint64_t offset, uint64_t len, uint64_t *ret_len, bool *ret_mapped)
{
	*ret_len = len;
	*ret_mapped = true;
	return 0;
}

static void null_free(struct scsi_backend *b)
{
	sp_free(b);
}

static int null_queue_new(struct scsi_backend *b, unsigned depth, struct scsi_bqueue **ret, struct sp_err *err)
{
	struct null_queue *q = sp_zalloc(sizeof(*q));

	if (!q)
		return sp_err_set(err, -ENOMEM, "out of memory");
	q->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->fd < 0) {
		int r = -errno;

		sp_free(q);
		return sp_err_set(err, r, "no eventfd to be had");
	}
	q->base.ops = b->ops;
	q->tail = &q->head;
	*ret = &q->base;
	return 0;
}

static int null_poll(struct scsi_bqueue *bq)
{
	struct null_queue *q = (struct null_queue *)bq;
	struct vhd_req *req = q->head, *next;
	eventfd_t count;
	int n = 0;

	/* What the callbacks submit is for the next time: a guest cannot keep a worker in here. */
	q->head = NULL;
	q->tail = &q->head;
	(void)!eventfd_read(q->fd, &count);
	for (; req; req = next, n++) {
		next = req->next;
		req->complete(req, 0);
	}
	return n;
}

static void null_queue_free(struct scsi_bqueue *bq)
{
	struct null_queue *q = (struct null_queue *)bq;

	while (null_poll(bq) > 0)
		;
	close(q->fd);
	sp_free(q);
}

static int null_register_buffers(struct scsi_bqueue *q, const struct iovec *iov, unsigned count)
{
	return 0;
}

static void null_submit(struct scsi_bqueue *bq, struct vhd_req *req)
{
	struct null_queue *q = (struct null_queue *)bq;

	req->next = NULL;
	*q->tail = req;
	q->tail = &req->next;
}

static void null_wake(struct scsi_bqueue *q)
{
	(void)!eventfd_write(((struct null_queue *)q)->fd, 1);
}

static int null_kick(struct scsi_bqueue *bq)
{
	if (((struct null_queue *)bq)->head)
		null_wake(bq);
	return 0;
}

static int null_fd(struct scsi_bqueue *q)
{
	return ((struct null_queue *)q)->fd;
}

static const struct scsi_backend_ops null_ops = {
	.geometry = null_geometry,
	.mapped = null_mapped,
	.queue_new = null_queue_new,
	.free = null_free,
	.queue_free = null_queue_free,
	.register_buffers = null_register_buffers,
	.submit = null_submit,
	.kick = null_kick,
	.poll = null_poll,
	.fd = null_fd,
	.wake = null_wake,
};

int scsi_backend_null(uint64_t size, uint32_t logical_block, struct scsi_backend **ret_backend)
{
	struct null_backend *b = sp_zalloc(sizeof(*b));

	if (!b)
		return -ENOMEM;
	b->base.ops = &null_ops;
	b->size = size;
	b->logical_block = logical_block;
	*ret_backend = &b->base;
	return 0;
}
