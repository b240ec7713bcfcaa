/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_VHD_H
#define SPINDLE_VHD_VHD_H
/*
 * libspindle: open, read and write VHD, VHDX and raw disks and their chains.
 *
 * A disk is an opened chain, leaf first. Any number of threads may use one disk: the plain functions from
 * anywhere, a queue from the thread it belongs to. All offsets and lengths are bytes.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/guid.h"

#ifdef __cplusplus
extern "C" {
#endif

enum vhd_format_id { VHD_FORMAT_AUTO, VHD_FORMAT_RAW, VHD_FORMAT_VHD, VHD_FORMAT_VHDX };
enum vhd_kind { VHD_KIND_DYNAMIC, VHD_KIND_FIXED, VHD_KIND_DIFFERENCING };

/* "raw", "vhd", "vhdx"; "vpc" is accepted for vhd. -EINVAL for another name. */
int vhd_format_from_name(const char *name, enum vhd_format_id *ret_id);
const char *vhd_format_name(enum vhd_format_id id);
const char *vhd_kind_name(enum vhd_kind kind);		/* "dynamic", "fixed", "differencing" */

/* ---- disk ---------------------------------------------------------------------------------------- */

struct vhd_disk;

enum vhd_orphan {
	VHD_ORPHAN_REFUSE,	/* a child without its parent does not open */
	VHD_ORPHAN_EIO,		/* opens; what the parent should hold reads as EIO */
	VHD_ORPHAN_ZERO,	/* opens; what the parent should hold reads as zeros and maps as unknown */
};

#define VHD_OPEN_WRITE	     0x01u
#define VHD_OPEN_NO_LOCK     0x02u	/* neither take nor test locks; read-only */
#define VHD_OPEN_NO_PARENT   0x04u	/* the leaf alone; what the parent holds maps as VHD_RANGE_BELOW */
#define VHD_OPEN_NO_URING    0x08u
#define VHD_OPEN_IGNORE_ID   0x10u	/* accept a parent whose identity is not the expected one */
#define VHD_OPEN_BULK	     0x20u	/* large aligned writes go past the page cache where they can: for a copy of
					 * which little is read again soon. Not those of a queue */

#define VHD_LAYERS_DEFAULT   1024

struct vhd_open_opts {
	unsigned flags;			/* VHD_OPEN_* */
	enum vhd_format_id format;	/* of the leaf; AUTO probes, but never decides for raw by itself unless the
					 * name is a block device or has no known signature */
	const char *image_root;		/* parents must lie below; NULL: the folder of the leaf */
	enum vhd_orphan orphan;
	unsigned max_layers;		/* 0: VHD_LAYERS_DEFAULT */
	unsigned depth;			/* 0: the whole chain; n: only the n topmost layers, the rest maps as BELOW */
};

/**
 * vhd_disk_open - open a chain by the name of its leaf
 * @path: given by the operator: symbolic links are followed; parents are confined to image_root
 * @opts: NULL for a read-only open with defaults
 *
 * Only the leaf is writable. A dirty VHDX log is replayed in the leaf when opened for writing, otherwise in memory.
 * Returns 0, -EBADMSG, -ENOTSUP, -ESTALE (parent has another identity), -ENOENT (file or parent missing), -ELOOP,
 * -EXDEV (parent outside the root), -EBUSY (locked), -EROFS, -EIO, -ENOMEM.
 */
int vhd_disk_open(const char *path, const struct vhd_open_opts *opts, struct vhd_disk **ret_disk, struct sp_err *err);

/* Flushes, leaves the leaf clean, frees. No queue may be left. The disk is gone even on failure. */
int vhd_disk_close(struct vhd_disk *d, struct sp_err *err);

uint64_t vhd_disk_size(const struct vhd_disk *d);
uint32_t vhd_disk_logical_sector(const struct vhd_disk *d);
uint32_t vhd_disk_physical_sector(const struct vhd_disk *d);
bool vhd_disk_writable(const struct vhd_disk *d);
/* 0, or the error of the first failed sync: nothing can be flushed or written any more. */
int vhd_disk_poisoned(const struct vhd_disk *d);

struct vhd_layer_info {
	const char *path;		/* as opened; valid while the disk is open and its chain stays as it is */
	enum vhd_format_id format;
	enum vhd_kind kind;
	uint64_t size;			/* virtual */
	uint64_t file_size;
	uint32_t block_size, logical_sector, physical_sector;
	struct sp_guid identity;	/* zero when the format has none */
	bool has_parent;
	const char *parent_path;	/* as stored in the image (first candidate), or NULL */
	struct sp_guid parent_identity;
	const char *warning;		/* finding at open that did not prevent it, or NULL */
};

unsigned vhd_disk_layers(const struct vhd_disk *d);		/* >= 1; 0 is the leaf */
int vhd_disk_layer_info(struct vhd_disk *d, unsigned layer, struct vhd_layer_info *ret_info);
/* Adds the facts of the layer's format to a json-c object. */
void vhd_disk_layer_describe(struct vhd_disk *d, unsigned layer, void *json_object);
bool vhd_disk_orphaned(const struct vhd_disk *d);		/* the chain ends in a missing parent */

/* Plain, blocking I/O; any thread; any byte range inside the size. 0 or -EIO, -ENOSPC, -ERANGE, -EROFS, ... */
int vhd_disk_read(struct vhd_disk *d, void *buf, size_t len, uint64_t offset);
int vhd_disk_write(struct vhd_disk *d, const void *buf, size_t len, uint64_t offset);
int vhd_disk_readv(struct vhd_disk *d, const struct iovec *iov, int iovcnt, uint64_t offset);
int vhd_disk_writev(struct vhd_disk *d, const struct iovec *iov, int iovcnt, uint64_t offset);
int vhd_disk_write_zeroes(struct vhd_disk *d, uint64_t offset, uint64_t len);	/* without allocating */
int vhd_disk_discard(struct vhd_disk *d, uint64_t offset, uint64_t len);	/* advisory, reads zeros where done */
int vhd_disk_flush(struct vhd_disk *d);		/* all writes completed before are durable on return */

/**
 * vhd_disk_grow - make the disk larger, durably; the new part reads zeros
 * @size: bytes, multiple of the logical sector, not below the present size
 *
 * I/O of other threads and queues waits meanwhile. Not from a queue's completion. Returns 0, -ENOTSUP (smaller, or the
 * format cannot), -EINVAL, -EROFS, -ETIMEDOUT (I/O that does not end), -ENOSPC, -EIO.
 */
int vhd_disk_grow(struct vhd_disk *d, uint64_t size, struct sp_err *err);

enum vhd_range_kind {
	VHD_RANGE_DATA,
	VHD_RANGE_ZERO,		/* known to be zero */
	VHD_RANGE_BELOW,	/* belongs to a layer that was not opened (depth, NO_PARENT) */
	VHD_RANGE_UNKNOWN,	/* belongs to a parent that is missing (orphan) */
};

struct vhd_range {
	uint64_t offset, len;
	enum vhd_range_kind kind;
	unsigned layer;		/* which layer decides; for ZERO at the bottom: the base */
	bool unallocated;	/* ZERO because no layer says anything (never written) */
	uint64_t file_offset;	/* DATA: where in that layer's file */
};

/* One stretch of equal state starting at @offset, at most @len long. */
int vhd_disk_map(struct vhd_disk *d, uint64_t offset, uint64_t len, struct vhd_range *ret_range);

/* ---- queue --------------------------------------------------------------------------------------- */

struct vhd_queue;

enum vhd_req_op { VHD_REQ_READ, VHD_REQ_WRITE, VHD_REQ_FLUSH, VHD_REQ_DISCARD, VHD_REQ_WRITE_ZEROES };

#define VHD_REQ_FUA 0x1u	/* WRITE, WRITE_ZEROES: durable before completion */

/* Storage of the caller from submit until ->complete has been called, exactly once, from poll or wait. */
struct vhd_req {
	enum vhd_req_op op;
	unsigned flags;			/* VHD_REQ_* */
	uint64_t offset, len;		/* READ and WRITE: len is the sum of iov */
	const struct iovec *iov;	/* stays valid and unchanged until completion */
	int iovcnt;
	int buf_index;			/* registered buffer holding the single iov, or -1 */
	void (*complete)(struct vhd_req *req, int res);	/* 0 or negative errno; may submit again */
	void *user;
	/* private */
	struct vhd_req *next;
	void *slot;
};

struct vhd_queue_opts {
	unsigned depth;			/* requests in flight, default 128; more wait inside the queue */
};

/* One per thread; every call below from that thread. Free before the disk is closed. */
int vhd_queue_new(struct vhd_disk *d, const struct vhd_queue_opts *opts, struct vhd_queue **ret_queue,
		  struct sp_err *err);
void vhd_queue_free(struct vhd_queue *q);		/* waits for what is in flight */
/* For I/O straight from registered memory (guest RAM); indices are positions in @iov. */
int vhd_queue_register_buffers(struct vhd_queue *q, const struct iovec *iov, unsigned count);
void vhd_queue_submit(struct vhd_queue *q, struct vhd_req *req);	/* errors come by ->complete */
int vhd_queue_kick(struct vhd_queue *q);		/* starts what was submitted; once per batch */
int vhd_queue_poll(struct vhd_queue *q);		/* kicks, runs completions; how many, or negative errno */
int vhd_queue_wait(struct vhd_queue *q, unsigned count);	/* as poll, but at least @count, if in flight */
int vhd_queue_fd(struct vhd_queue *q);			/* polls readable when vhd_queue_poll() has work; owned by q */
unsigned vhd_queue_inflight(const struct vhd_queue *q);

#ifdef __cplusplus
}
#endif
#endif
