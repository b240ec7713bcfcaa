/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A disk in memory whose requests end when the test says. What it stores never holds the bytes that the test takes for
 * "nobody wrote here".
 */
#include "tests/hostile_guest/fibers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "tests/hostile_guest/guest.h"

#define BLOCK 512u
#define NOT_WRITTEN 0xa5u
#define HELD_MAX 4096u

struct disk_queue {
	struct scsi_bqueue base;
	struct disk *disk;
	struct vhd_req *ended, **ended_last;
	int bell;
};

struct disk {
	struct scsi_backend base;
	uint64_t size;
	bool holds;
	struct { struct vhd_req *req; struct disk_queue *queue; } held[HELD_MAX];
	unsigned held_count;
	uint8_t bytes[DISK_BYTES];
};

static struct disk *of(struct scsi_backend *b)
{
	return (struct disk *)(void *)b;
}

static struct disk_queue *queue_of(struct scsi_bqueue *q)
{
	return (struct disk_queue *)(void *)q;
}

static void geometry(struct scsi_backend *b, struct scsi_geometry *ret)
{
	*ret = (struct scsi_geometry){ .size = of(b)->size, .logical_block = BLOCK, .physical_block = 4096,
				       .unmap_granularity = 4096, .unmapped_reads_zero = true };
}

static int mapped(struct scsi_backend *b, uint64_t offset, uint64_t len, uint64_t *ret_len, bool *ret_mapped)
{
	*ret_len = len < 65536 ? len : 65536;
	*ret_mapped = offset & 65536;
	return 0;
}

static int queue_new(struct scsi_backend *b, unsigned depth, struct scsi_bqueue **ret, struct sp_err *err)
{
	struct disk_queue *q = calloc(1, sizeof(*q));

	session_check(q != NULL, "out of memory");
	q->base.ops = b->ops;
	q->disk = of(b);
	q->ended_last = &q->ended;
	q->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	*ret = &q->base;
	return 0;
}

static void queue_free(struct scsi_bqueue *b)
{
	struct disk_queue *q = queue_of(b);

	for (unsigned i = 0; i < q->disk->held_count; i++)
		session_check(q->disk->held[i].queue != q, "a queue is freed while its requests run");
	session_check(!q->ended, "a queue is freed before its requests have been told to have ended");
	close(q->bell);
	free(q);
}

static int register_buffers(struct scsi_bqueue *q, const struct iovec *iov, unsigned count)
{
	return 0;
}

static bool in_range(const struct disk *d, const struct vhd_req *req)
{
	return req->len <= d->size && req->offset <= d->size - req->len;
}

static void store(uint8_t *at, const uint8_t *from, size_t len)
{
	for (size_t i = 0; i < len; i++)
		at[i] = from[i] == NOT_WRITTEN ? 0x5a : from[i];
}

static void move(struct disk *d, const struct vhd_req *req)
{
	uint64_t at = req->offset, left = req->len;

	if (req->op == VHD_REQ_DISCARD || req->op == VHD_REQ_WRITE_ZEROES)
		memset(d->bytes + at, 0, left);
	if (req->op != VHD_REQ_READ && req->op != VHD_REQ_WRITE)
		return;
	for (int i = 0; i < req->iovcnt; i++) {
		size_t len = req->iov[i].iov_len;

		session_check(len <= left, "a request has more memory than length");
		if (req->op == VHD_REQ_READ)
			memcpy(req->iov[i].iov_base, d->bytes + at, len);
		else
			store(d->bytes + at, req->iov[i].iov_base, len);
		at += len;
		left -= len;
	}
	session_check(left == 0, "a request has less memory than length");
}

static void end(struct disk_queue *q, struct vhd_req *req, int error)
{
	uint64_t one = 1;

	if (error == 0 && !in_range(q->disk, req))	/* it has shrunk since */
		error = -ERANGE;
	if (error == 0)
		move(q->disk, req);
	req->next = NULL;
	req->slot = (void *)(intptr_t)error;		/* the backend's own */
	*q->ended_last = req;
	q->ended_last = &req->next;
	session_check(write(q->bell, &one, sizeof(one)) == (ssize_t)sizeof(one), "eventfd");
}

static void submit(struct scsi_bqueue *b, struct vhd_req *req)
{
	struct disk_queue *q = queue_of(b);
	struct disk *d = q->disk;

	session_check(in_range(d, req) || req->offset + req->len <= DISK_BYTES, "a request past the end: %llu + %llu",
		      (unsigned long long)req->offset, (unsigned long long)req->len);
	if (!d->holds) {
		end(q, req, 0);
		return;
	}
	session_check(d->held_count < HELD_MAX, "more requests than slots");
	d->held[d->held_count].req = req;
	d->held[d->held_count++].queue = q;
}

static int kick(struct scsi_bqueue *q)
{
	return 0;
}

static int poll_queue(struct scsi_bqueue *b)
{
	struct disk_queue *q = queue_of(b);
	struct vhd_req *req;
	uint64_t rings;
	int n = 0;

	session_check(read(q->bell, &rings, sizeof(rings)) > 0 || errno == EAGAIN, "eventfd");
	while ((req = q->ended)) {
		q->ended = req->next;
		if (!q->ended)
			q->ended_last = &q->ended;
		req->complete(req, (int)(intptr_t)req->slot);
		n++;
	}
	return n;
}

static int queue_fd(struct scsi_bqueue *q)
{
	return queue_of(q)->bell;
}

static void wake(struct scsi_bqueue *q)
{
	uint64_t one = 1;

	session_check(write(queue_of(q)->bell, &one, sizeof(one)) == (ssize_t)sizeof(one), "eventfd");
}

static void disk_free(struct scsi_backend *b)
{
	session_check(of(b)->held_count == 0, "a disk is freed while requests run");
	free(of(b));
}

static const struct scsi_backend_ops disk_ops = {
	.geometry = geometry, .mapped = mapped, .queue_new = queue_new, .free = disk_free, .queue_free = queue_free,
	.register_buffers = register_buffers, .submit = submit, .kick = kick, .poll = poll_queue, .fd = queue_fd,
	.wake = wake,
};

struct disk *disk_new(void)
{
	struct disk *d = malloc(sizeof(*d));

	session_check(d != NULL, "out of memory");
	d->base.ops = &disk_ops;
	d->size = DISK_BYTES;
	d->holds = false;
	d->held_count = 0;
	for (unsigned i = 0; i < DISK_BYTES; i += BLOCK)
		memset(d->bytes + i, (int)(1 + i / BLOCK % 100), BLOCK);
	return d;
}

struct scsi_backend *disk_backend(struct disk *d)
{
	return &d->base;
}

unsigned disk_held(const struct disk *d)
{
	return d->held_count;
}

unsigned disk_busy(const struct disk *d)
{
	unsigned n = 0;

	for (unsigned i = 0; i < d->held_count; i++)
		n += d->held[i].req->op != VHD_REQ_FLUSH;
	return n;
}

void disk_complete(struct disk *d, unsigned k, int error)
{
	struct vhd_req *req = d->held[k].req;
	struct disk_queue *q = d->held[k].queue;

	d->held[k] = d->held[--d->held_count];
	end(q, req, error);
}

void disk_resize(struct disk *d, uint64_t size)
{
	d->size = size;
}

void disk_hold(struct disk *d, bool hold)
{
	d->holds = hold;
	while (!hold && d->held_count > 0)
		disk_complete(d, 0, 0);
}
