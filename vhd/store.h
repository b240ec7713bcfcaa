/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_STORE_H
#define SPINDLE_VHD_STORE_H
/*
 * store - where the bytes of one file live. Nothing else in the engine touches a file descriptor, which is
 * what makes the power-cut simulator, the fault tests and the fuzzers possible.
 *
 *   store_file	   file or block device (io_uring through a store_ring, preadv2/pwritev2 otherwise)
 *   store_mem	   memory (tests, fuzzers)
 *   tests/	   store_fault (fails the k-th operation) and store_log (records writes and barriers), stackable
 *
 * Synchronous calls may come from any thread. A store_ring belongs to one thread.
 * Return values: 0 or negative errno; there are no short transfers. Reading past the end is -ENODATA,
 * writing past the end extends the file with zeros between.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/guid.h"

struct store;

enum store_op {
	STORE_READ,
	STORE_WRITE,
	STORE_SYNC,	/* data, size and allocation durable (fdatasync) */
	STORE_PUNCH,	/* range reads zeros and its space returns to the host; never changes the size */
	STORE_ZERO,	/* range reads zeros, may stay allocated; never changes the size */
	STORE_RESIZE,	/* offset is the new size; new bytes are zeros */
};

/* Stable for the life of the store; tells two handles on one file. */
struct store_id {
	uint64_t dev, ino;
};

/*
 * What tells that a file's content may be another: of two stamps of one file that are equal in all fields, nobody wrote
 * between, if the first was settled. 0 where a field is not known.
 */
struct store_stamp {
	uint64_t inode;			/* 0 for memory: there the content itself is numbered */
	uint64_t born_ns, size, modified_ns, changed_ns;
	bool settled;			/* the clock of the file system has moved on since the last change */
};

struct store_ops {
	const char *name;
	int (*readv)(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset);
	int (*writev)(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset);
	int (*sync)(struct store *s);
	int (*punch)(struct store *s, uint64_t offset, uint64_t len);
	int (*zero)(struct store *s, uint64_t offset, uint64_t len);
	int (*resize)(struct store *s, uint64_t size);
	/* First byte at or after @offset that may hold data (hole=false) or lies in a hole (hole=true); the file
	 * size when there is none. A store that cannot tell answers @offset resp. the file size. */
	int (*seek)(struct store *s, uint64_t offset, bool hole, uint64_t *ret_offset);
	int (*size)(struct store *s, uint64_t *ret_size);
	int (*mtime)(struct store *s, int64_t *ret_unix_seconds);
	int (*stamp)(struct store *s, struct store_stamp *ret_stamp);	/* NULL: cannot tell */
	/* A descriptor that a store_ring may drive with io_uring, or -1. */
	int (*fd)(struct store *s);
	/* NULL where nothing is locked. */
	int (*relock)(struct store *s, bool hold, struct sp_err *err);
	void (*close)(struct store *s);
};

/* Embedded at the start of each implementation's own struct. */
struct store {
	const struct store_ops *ops;
	char *name;		/* for messages, owned */
	struct store_id id;
	bool writable;
	bool is_device;		/* block device: fixed size, new space is not zero */
	bool in_memory;		/* a file of tmpfs or ramfs: no medium to wait for */
	bool slow_nowait;	/* buffered writes that do not want to wait are refused as a rule (ext4) */
};

int store_read(struct store *s, void *buf, size_t len, uint64_t offset);
int store_write(struct store *s, const void *buf, size_t len, uint64_t offset);
int store_readv(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset);
int store_writev(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset);
int store_sync(struct store *s);
int store_punch(struct store *s, uint64_t offset, uint64_t len);
int store_zero(struct store *s, uint64_t offset, uint64_t len);
int store_resize(struct store *s, uint64_t size);
int store_seek_data(struct store *s, uint64_t offset, uint64_t *ret_offset);
int store_seek_hole(struct store *s, uint64_t offset, uint64_t *ret_offset);
int store_size(struct store *s, uint64_t *ret_size);
int store_mtime(struct store *s, int64_t *ret_unix_seconds);
int store_stamp(struct store *s, struct store_stamp *ret_stamp);	/* -ENOTSUP: cannot tell (block devices) */
bool store_same(const struct store *a, const struct store *b);
/* From now on a reader's lock (@hold), or none, whatever was held before. A store opened without locks stays so. */
int store_relock(struct store *s, bool hold, struct sp_err *err);
/* Closes and frees; NULL is fine. Does not sync. */
void store_close(struct store *s);
/* Reads what there is of [offset, offset+len): bytes past the end come back as zeros. For probing. */
int store_read_padded(struct store *s, void *buf, size_t len, uint64_t offset);

/* ---- files --------------------------------------------------------------------------------------- */

#define STORE_RDWR	 0x01u	/* otherwise read-only */
#define STORE_CREATE	 0x02u	/* with EXCL semantics: -EEXIST when it is there */
#define STORE_NO_LOCK	 0x04u	/* take and test no locks ("-U") */
#define STORE_BULK	 0x08u	/* large aligned writes go past the page cache where it can be: for what is written
				 * once and not read soon. Nothing else changes: sync makes all of it durable */
#define STORE_REGULAR	 0x10u	/* refuse anything but a regular file (parents named by an image) */
#define STORE_SHARE_READ 0x20u	/* read-only: fail only if there is a writer (as QEMU readers); default */

/* Opens by path, following symbolic links: for names given by the operator. Locks as QEMU does (OFD locks at
 * bytes 100+/200+, vhd-formats.md section 8); -EBUSY names the holder. A block device that is mounted or held
 * is refused, saying by whom. Never blocks on FIFOs or devices. */
int store_file_open(const char *path, unsigned flags, struct store **ret_store, struct sp_err *err);
/* Takes over @fd (closed by store_close(), also on failure of this call it stays the caller's). */
int store_file_adopt(int fd, const char *name, unsigned flags, struct store **ret_store, struct sp_err *err);

/* ---- memory -------------------------------------------------------------------------------------- */

/* Sparse in 4 KiB pages; @limit bytes of pages at most (-ENOSPC beyond), 0: no limit. */
int store_mem_new(const char *name, uint64_t size, uint64_t limit, struct store **ret_store);

/* ---- folders: where a chain finds its files ------------------------------------------------------ */

/*
 * A folder is a root below which names are resolved. The host folder confines with openat2(RESOLVE_BENEATH |
 * NO_SYMLINKS | NO_MAGICLINKS | NO_XDEV); the memory folder is a dictionary. Names are relative, '/'-separated, ".."
 * allowed as long as it stays inside (-EXDEV otherwise).
 */
struct store_folder;

struct store_folder_ops {
	int (*open)(struct store_folder *f, const char *name, unsigned flags, struct store **ret, struct sp_err *err);
	int (*rename)(struct store_folder *f, const char *from, const char *to, bool replace);
	int (*link)(struct store_folder *f, const char *from, const char *to);	/* a second name; -EEXIST */
	int (*unlink)(struct store_folder *f, const char *name);
	int (*sync)(struct store_folder *f, const char *name);	/* the directory holding @name is durable */
	void (*close)(struct store_folder *f);
};

struct store_folder {
	const struct store_folder_ops *ops;
	char *path;		/* for messages, owned */
};

int store_folder_host(const char *path, struct store_folder **ret_folder, struct sp_err *err);
int store_folder_mem(struct store_folder **ret_folder);		/* stores in it survive store_close() */
int store_folder_open(struct store_folder *f, const char *name, unsigned flags, struct store **ret_store,
		      struct sp_err *err);
int store_folder_rename(struct store_folder *f, const char *from, const char *to, bool replace);
/* -EPERM or -ENOTSUP where the file system knows only one name per file. */
int store_folder_link(struct store_folder *f, const char *from, const char *to);
int store_folder_unlink(struct store_folder *f, const char *name);
int store_folder_sync(struct store_folder *f, const char *name);
void store_folder_close(struct store_folder *f);

/* ---- asynchronous: one ring per thread ----------------------------------------------------------- */

struct store_ring;

/*
 * One operation in flight, storage owned by the caller until ->complete runs, which happens exactly once, from
 * store_ring_reap() only. Short transfers are continued by the ring; res is 0 or negative errno.
 */
struct store_req {
	struct store *store;
	enum store_op op;		/* READ, WRITE, SYNC, PUNCH or ZERO */
	uint64_t offset;
	uint64_t len;			/* PUNCH and ZERO; for READ and WRITE the sum of iov */
	struct iovec *iov;		/* READ and WRITE; the ring may advance it in place */
	int iovcnt;
	int buf_index;			/* registered buffer that holds the single iov, or -1 */
	void (*complete)(struct store_req *req, int res);
	/* private to the ring */
	struct store_req *next;
	int res;
};

#define STORE_RING_NO_URING 0x1u	/* always the synchronous fallback */
#define STORE_RING_IOPOLL_NEVER 0x0u

/* @depth: requests that may be in flight at once. Falls back by itself where io_uring is not to be had
 * (SPINDLE_NO_URING=1 in the environment forces it). */
int store_ring_new(unsigned depth, unsigned flags, struct store_ring **ret_ring, struct sp_err *err);
void store_ring_free(struct store_ring *r);		/* nothing may be in flight */
/* Registered files: makes I/O on @s cheaper; without it the ring works by descriptor. 0 or negative errno. */
int store_ring_register(struct store_ring *r, struct store *s);
void store_ring_unregister(struct store_ring *r, struct store *s);
void store_ring_unregister_all(struct store_ring *r);	/* the stores may be closed already; nothing is in flight */
int store_ring_register_buffers(struct store_ring *r, const struct iovec *iov, unsigned count);
void store_submit(struct store_ring *r, struct store_req *req);	/* queues; errors come by ->complete */
int store_ring_kick(struct store_ring *r);		/* hands queued requests to the kernel, one system call */
/* Runs completions. @wait: at least this many (0: poll). Kicks first. Returns how many ran, or negative errno.
 * Does what is done here rather than by the kernel, a few requests at a time: see store_ring.c. */
int store_ring_reap(struct store_ring *r, unsigned wait);
/* A descriptor that polls readable when reaping has work (eventfd). Armed at first call; -errno. */
int store_ring_fd(struct store_ring *r);
/* While nobody polls the descriptor its bell costs system calls for nothing. Silent, it tells of no completion; armed
 * again, it tells of those that wait. */
void store_ring_silence(struct store_ring *r, bool silent);
bool store_ring_is_uring(const struct store_ring *r);

#endif
