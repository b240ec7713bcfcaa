/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A chain of images, a block device or an ISO file as the backend of a unit: all of them are a struct vhd_disk.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "storvsp/scsi.h"

#define PUNCH_UNIT 4096u	/* what file systems give back of a file */

struct disk_backend {
	struct scsi_backend base;	/* first member */
	struct vhd_disk *disk;
};

struct disk_queue {
	struct scsi_bqueue base;	/* first member */
	struct vhd_queue *queue;
	int bell;			/* atomic; the queue's descriptor once it has been asked for, else -1 */
};

static struct vhd_disk *disk_of(struct scsi_backend *b)
{
	return ((struct disk_backend *)b)->disk;
}

static struct vhd_queue *queue_of(struct scsi_bqueue *q)
{
	return ((struct disk_queue *)q)->queue;
}

/* ---- geometry ------------------------------------------------------------------------------------------ */

/* A number the kernel tells about a whole device or the device of a partition; @otherwise when it does not. */
static uint32_t device_attribute(const char *path, const char *name, uint32_t otherwise)
{
	struct stat st;
	char file[128], text[32];
	ssize_t n = -1;

	if (stat(path, &st) < 0 || !S_ISBLK(st.st_mode))
		return otherwise;
	for (int up = 0; up < 2 && n <= 0; up++) {
		int fd;

		snprintf(file, sizeof(file), "/sys/dev/block/%u:%u/%squeue/%s", major(st.st_rdev), minor(st.st_rdev),
			 up ? "../" : "", name);
		fd = open(file, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		n = read(fd, text, sizeof(text) - 1);
		close(fd);
	}
	if (n <= 0)
		return otherwise;
	text[n] = '\0';
	return (uint32_t)strtoul(text, NULL, 10);
}

/* Images free whole blocks; files and devices what their host can. */
static uint32_t granularity(const struct vhd_layer_info *leaf, uint32_t logical_block)
{
	uint32_t unit = PUNCH_UNIT;

	if (leaf->format == VHD_FORMAT_RAW)
		unit = device_attribute(leaf->path, "discard_granularity", PUNCH_UNIT);
	else if (leaf->kind != VHD_KIND_FIXED && leaf->block_size > 0)
		unit = leaf->block_size;
	return unit == 0 ? 0 : (uint32_t)sp_max(unit, logical_block);
}

static void disk_geometry(struct scsi_backend *b, struct scsi_geometry *ret)
{
	struct vhd_disk *d = disk_of(b);
	uint32_t block = vhd_disk_logical_sector(d);
	struct vhd_layer_info leaf;

	*ret = (struct scsi_geometry){
		.size = sp_align_down(vhd_disk_size(d), block),
		.logical_block = block,
		.physical_block = (uint32_t)sp_max(vhd_disk_physical_sector(d), block),
		.read_only = !vhd_disk_writable(d),
		/* What no layer holds reads as zeros, and what a missing parent holds counts as mapped. */
		.unmapped_reads_zero = true,
	};
	if (vhd_disk_layer_info(d, 0, &leaf) < 0)
		return;
	if (!ret->read_only)
		ret->unmap_granularity = granularity(&leaf, block);
	if (leaf.format == VHD_FORMAT_RAW)
		ret->rotational = device_attribute(leaf.path, "rotational", 0) != 0;
}

static int disk_mapped(struct scsi_backend *b, uint64_t offset, uint64_t len, uint64_t *ret_len, bool *ret_mapped)
{
	struct vhd_range range;
	int r = vhd_disk_map(disk_of(b), offset, len, &range);

	if (r < 0)
		return r;
	*ret_len = range.len;
	*ret_mapped = range.kind != VHD_RANGE_ZERO;
	return 0;
}

static bool disk_poisoned(struct scsi_backend *b)
{
	return vhd_disk_poisoned(disk_of(b)) != 0;
}

static void disk_free(struct scsi_backend *b)
{
	sp_free(b);
}

/* ---- queue --------------------------------------------------------------------------------------------- */

static int disk_queue_new(struct scsi_backend *b, unsigned depth, struct scsi_bqueue **ret, struct sp_err *err)
{
	struct vhd_queue_opts opts = { .depth = depth };
	struct disk_queue *q = sp_zalloc(sizeof(*q));
	int r;

	if (!q)
		return sp_err_set(err, -ENOMEM, "out of memory");
	q->base.ops = b->ops;
	q->bell = -1;
	r = vhd_queue_new(disk_of(b), &opts, &q->queue, err);
	if (r < 0) {
		sp_free(q);
		return r;
	}
	*ret = &q->base;
	return 0;
}

static void disk_queue_free(struct scsi_bqueue *q)
{
	vhd_queue_free(queue_of(q));
	sp_free(q);
}

static int disk_register_buffers(struct scsi_bqueue *q, const struct iovec *iov, unsigned count)
{
	return vhd_queue_register_buffers(queue_of(q), iov, count);
}

static void disk_submit(struct scsi_bqueue *q, struct vhd_req *req)
{
	vhd_queue_submit(queue_of(q), req);
}

static int disk_kick(struct scsi_bqueue *q)
{
	return vhd_queue_kick(queue_of(q));
}

static int disk_poll(struct scsi_bqueue *q)
{
	return vhd_queue_poll(queue_of(q));
}

static int disk_fd(struct scsi_bqueue *q)
{
	int fd = vhd_queue_fd(queue_of(q));

	__atomic_store_n(&((struct disk_queue *)q)->bell, fd, __ATOMIC_RELEASE);
	return fd;
}

/* A worker that never asked for the descriptor does not sleep on it. */
static void disk_wake(struct scsi_bqueue *q)
{
	static const uint64_t one = 1;
	int fd = __atomic_load_n(&((struct disk_queue *)q)->bell, __ATOMIC_ACQUIRE);

	if (fd >= 0 && write(fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: the counter is full, the bell is ringing anyway. */
	}
}

static const struct scsi_backend_ops disk_ops = {
	.geometry = disk_geometry,
	.mapped = disk_mapped,
	.queue_new = disk_queue_new,
	.free = disk_free,
	.queue_free = disk_queue_free,
	.register_buffers = disk_register_buffers,
	.submit = disk_submit,
	.kick = disk_kick,
	.poll = disk_poll,
	.fd = disk_fd,
	.wake = disk_wake,
	.poisoned = disk_poisoned,
};

int scsi_backend_disk(struct vhd_disk *disk, struct scsi_backend **ret_backend)
{
	struct disk_backend *b = sp_zalloc(sizeof(*b));

	if (!b)
		return -ENOMEM;
	b->base.ops = &disk_ops;
	b->disk = disk;
	*ret_backend = &b->base;
	return 0;
}
