/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Regular files and block devices by positioned system calls. A store_ring drives the same descriptor with io_uring.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"
#include "base/seed.h"
#include "vhd/store.h"
#include "vhd/store_int.h"

#define ZEROS_SIZE   65536u
#define ZEROS_PIECES 16
#define BULK_ALIGN   4096u	/* of O_DIRECT: fits every sector and page size there is */
#define BULK_MIN     65536u	/* below, waiting for the medium costs more than the copy that is saved */

static uint8_t zeros[ZEROS_SIZE];

struct store_file {
	struct store base;
	int fd;
	int bulk_fd;		/* the same file with O_DIRECT, or -1 */
	bool locks;		/* not opened with STORE_NO_LOCK */
	/* fallocate() modes this file system does not know: asked once, then remembered. Any thread. */
	atomic_bool no_punch, no_zero_range;
};

static int file_fd(struct store *s)
{
	return ((struct store_file *)s)->fd;
}

/* ---- reading and writing --------------------------------------------------------------------------- */

/* Moves a slice of at most one array; short transfers and interruptions are the rule, not an error. */
static int transfer(int fd, bool writes, struct iovec *iov, int iovcnt, uint64_t offset)
{
	while (iovcnt > 0) {
		ssize_t n = writes ? pwritev2(fd, iov, iovcnt, (off_t)offset, 0)
				   : preadv2(fd, iov, iovcnt, (off_t)offset, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return writes ? -EIO : -ENODATA;
		offset += (uint64_t)n;
		store_iov_advance(&iov, &iovcnt, (size_t)n);
	}
	return 0;
}

/* The caller's array stays as it is, so it is worked off in copies of a few elements. */
static int transfer_all(int fd, bool writes, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct iovec part[64];
	int r = 0;

	for (int i = 0; i < iovcnt && r == 0;) {
		uint64_t len = 0;
		int n = 0;

		for (; i < iovcnt && n < (int)SP_ARRAY_SIZE(part); i++) {
			if (iov[i].iov_len == 0)
				continue;
			part[n++] = iov[i];
			len += iov[i].iov_len;
		}
		r = transfer(fd, writes, part, n, offset);
		offset += len;
	}
	return r;
}

static int file_readv(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	return transfer_all(file_fd(s), false, iov, iovcnt, offset);
}

static bool is_bulk(const struct iovec *iov, int iovcnt, uint64_t offset)
{
	uint64_t len = 0, odd = offset;

	for (int i = 0; i < iovcnt; i++) {
		odd |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
		len += iov[i].iov_len;
	}
	return len >= BULK_MIN && odd % BULK_ALIGN == 0;
}

static int file_writev(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct store_file *f = (struct store_file *)s;
	int r = -EINVAL;

	if (f->bulk_fd >= 0 && is_bulk(iov, iovcnt, offset))
		r = transfer_all(f->bulk_fd, true, iov, iovcnt, offset);
	/* Some file systems want more than alignment, and say so only now. */
	return r == -EINVAL ? transfer_all(f->fd, true, iov, iovcnt, offset) : r;
}

static int file_sync(struct store *s)
{
	if (SP_SEED_BUG(STORE_SYNC_NOTHING))
		return 0;
	/* Not repeated when interrupted by an error: the kernel reports a lost write only once. */
	return fdatasync(file_fd(s)) < 0 ? -errno : 0;
}

/* ---- space ---------------------------------------------------------------------------------------- */

static int file_size(struct store *s, uint64_t *ret_size)
{
	struct stat st;

	if (s->is_device)
		return store_device_size(file_fd(s), ret_size);
	if (fstat(file_fd(s), &st) < 0)
		return -errno;
	*ret_size = (uint64_t)st.st_size;
	return 0;
}

/* Zeros by hand, 1 MiB a call, never past the end of the file. */
static int write_zeros(struct store *s, uint64_t offset, uint64_t len)
{
	struct iovec iov[ZEROS_PIECES];
	uint64_t size;
	int r = file_size(s, &size);

	if (r < 0 || offset >= size)
		return r;
	len = sp_min(len, size - offset);
	while (len > 0 && r == 0) {
		uint64_t done = 0;
		int n = 0;

		for (; n < ZEROS_PIECES && done < len; n++) {
			iov[n] = (struct iovec){ .iov_base = zeros, .iov_len = sp_min(len - done, ZEROS_SIZE) };
			done += iov[n].iov_len;
		}
		r = transfer(file_fd(s), true, iov, n, offset);
		offset += done;
		len -= done;
	}
	return r;
}

/* One fallocate() mode, unless known to be missing here. -EOPNOTSUPP: try something else. */
static int try_fallocate(struct store *s, int mode, atomic_bool *missing, uint64_t offset, uint64_t len)
{
	int r;

	if (atomic_load_explicit(missing, memory_order_relaxed))
		return -EOPNOTSUPP;
	do
		r = fallocate(file_fd(s), mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len);
	while (r < 0 && errno == EINTR);
	if (r == 0)
		return 0;
	if (errno == EOPNOTSUPP || errno == ENOSYS) {
		atomic_store_explicit(missing, true, memory_order_relaxed);
		return -EOPNOTSUPP;
	}
	/* A block device refuses a range that is not whole sectors; writing bytes still works. */
	return s->is_device && errno == EINVAL ? -EOPNOTSUPP : -errno;
}

static int clear_by_writing(struct store *s, uint64_t offset, uint64_t len)
{
	int r = s->is_device ? store_device_zero(file_fd(s), offset, len) : -EOPNOTSUPP;

	return r == -EOPNOTSUPP ? write_zeros(s, offset, len) : r;
}

static int file_punch(struct store *s, uint64_t offset, uint64_t len)
{
	struct store_file *f = (struct store_file *)s;
	int r = try_fallocate(s, FALLOC_FL_PUNCH_HOLE, &f->no_punch, offset, len);

	return r == -EOPNOTSUPP ? clear_by_writing(s, offset, len) : r;
}

static int file_zero(struct store *s, uint64_t offset, uint64_t len)
{
	struct store_file *f = (struct store_file *)s;
	int r = try_fallocate(s, FALLOC_FL_ZERO_RANGE, &f->no_zero_range, offset, len);

	return r == -EOPNOTSUPP ? clear_by_writing(s, offset, len) : r;
}

static int file_resize(struct store *s, uint64_t size)
{
	uint64_t now;
	int r;

	if (s->is_device) {	/* its size is what it is */
		r = file_size(s, &now);
		return r < 0 ? r : now == size ? 0 : -ENOTSUP;
	}
	do
		r = ftruncate(file_fd(s), (off_t)size);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

static int file_seek(struct store *s, uint64_t offset, bool hole, uint64_t *ret_offset)
{
	off_t at = lseek(file_fd(s), (off_t)offset, hole ? SEEK_HOLE : SEEK_DATA);
	uint64_t size;
	int r = file_size(s, &size);

	if (r < 0)
		return r;
	if (at >= 0)
		*ret_offset = sp_min((uint64_t)at, size);
	else if (errno == ENXIO)	/* no data from here on */
		*ret_offset = size;
	else if (errno == EINVAL || errno == EOPNOTSUPP)
		*ret_offset = hole ? size : offset;
	else
		return -errno;
	return 0;
}

static int file_mtime(struct store *s, int64_t *ret_unix_seconds)
{
	struct stat st;

	if (fstat(file_fd(s), &st) < 0)
		return -errno;
	*ret_unix_seconds = st.st_mtime;
	return 0;
}

static uint64_t stamp_ns(const struct statx_timestamp *t)
{
	return (uint64_t)t->tv_sec * 1000000000u + t->tv_nsec;
}

/* Times of files come from the coarse clock: a change within the same tick would leave them as they are. */
static int file_stamp(struct store *s, struct store_stamp *ret)
{
	struct statx st;

	if (s->is_device)
		return -ENOTSUP;
	if (statx(file_fd(s), "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &st) < 0)
		return -errno;
	*ret = (struct store_stamp){
		.inode = st.stx_ino,
		.born_ns = st.stx_mask & STATX_BTIME ? stamp_ns(&st.stx_btime) : 0,
		.size = st.stx_size,
		.modified_ns = stamp_ns(&st.stx_mtime),
		.changed_ns = stamp_ns(&st.stx_ctime),
	};
	ret->settled = sp_env_file_clock_ns() > ret->changed_ns;
	return 0;
}

static int file_relock(struct store *s, bool hold, struct sp_err *err)
{
	if (!((struct store_file *)s)->locks)
		return 0;
	store_lock_drop(file_fd(s));
	return hold ? store_lock_take(file_fd(s), false, s->name, err) : 0;
}

static void file_close(struct store *s)
{
	struct store_file *f = (struct store_file *)s;

	if (f->bulk_fd >= 0)
		close(f->bulk_fd);
	store_lock_drop(f->fd);
	close(f->fd);
	sp_free(s->name);
	sp_free(s);
}

static const struct store_ops file_ops = {
	.name = "file", .readv = file_readv, .writev = file_writev, .sync = file_sync, .punch = file_punch,
	.zero = file_zero, .resize = file_resize, .seek = file_seek, .size = file_size, .mtime = file_mtime,
	.stamp = file_stamp, .fd = file_fd, .relock = file_relock, .close = file_close,
};

/* ---- opening -------------------------------------------------------------------------------------- */

int store_file_kind_ok(mode_t mode, unsigned flags, const char *name, struct sp_err *err)
{
	const char *what = S_ISDIR(mode) ? "a directory" : S_ISFIFO(mode) ? "a FIFO" : S_ISSOCK(mode) ? "a socket" :
			   S_ISCHR(mode) ? "a character device" : S_ISLNK(mode) ? "a symbolic link" :
			   S_ISBLK(mode) ? "a block device" : "of an unknown kind";

	if (S_ISREG(mode) || (S_ISBLK(mode) && !(flags & STORE_REGULAR)))
		return 0;
	return sp_err_set(err, S_ISDIR(mode) ? -EISDIR : -EINVAL, "%s is %s, not a regular file%s", name, what,
			  flags & STORE_REGULAR ? "" : " or block device");
}

int store_file_open_flags(unsigned flags)
{
	/* NONBLOCK and NOCTTY for what might take the file's place between the look and the open. */
	int f = O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (flags & STORE_RDWR ? O_RDWR : O_RDONLY);

	if (flags & STORE_CREATE)
		f |= O_CREAT | O_EXCL;
	return f;
}

/* io_uring takes O_NONBLOCK as "fail with EAGAIN" on some file systems; it has done its work at open(). */
static int clear_nonblock(int fd)
{
	int f = fcntl(fd, F_GETFL);

	return f < 0 || fcntl(fd, F_SETFL, f & ~O_NONBLOCK) < 0 ? -errno : 0;
}

static void describe(struct store_file *f, const struct stat *st, unsigned flags)
{
	struct store *s = &f->base;
	struct statfs sfs;

	s->writable = flags & STORE_RDWR;
	s->is_device = S_ISBLK(st->st_mode);
	if (fstatfs(f->fd, &sfs) == 0 && !s->is_device) {
		s->in_memory = sfs.f_type == TMPFS_MAGIC || sfs.f_type == RAMFS_MAGIC;
		s->slow_nowait = sfs.f_type == EXT4_SUPER_MAGIC;
	}
	/* All nodes of one device are the same store. */
	s->id = s->is_device ? (struct store_id){ .dev = st->st_rdev, .ino = UINT64_MAX } :
			       (struct store_id){ .dev = st->st_dev, .ino = st->st_ino };
}

/* The very file that is open, whatever its name says by now. -1 where there is no such thing as O_DIRECT. */
static int open_bulk(const struct store_file *f)
{
	char path[32];

	if (f->base.in_memory)
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->fd);
	return open(path, O_WRONLY | O_DIRECT | O_CLOEXEC | O_NOCTTY);
}

int store_file_adopt(int fd, const char *name, unsigned flags, struct store **ret_store, struct sp_err *err)
{
	struct store_file *f;
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return sp_err_set(err, -errno, "%s: %s", name, strerror(errno));
	r = store_file_kind_ok(st.st_mode, flags, name, err);
	if (r == 0 && S_ISBLK(st.st_mode) && !(flags & STORE_NO_LOCK))
		r = store_device_is_free(st.st_rdev, name, err);
	if (r == 0 && !(flags & STORE_NO_LOCK))
		r = store_lock_take(fd, flags & STORE_RDWR, name, err);
	if (r < 0)
		return r;

	f = sp_zalloc(sizeof(*f));
	if (!f)
		return sp_err_set(err, -ENOMEM, "%s: out of memory", name);
	f->fd = fd;
	f->locks = !(flags & STORE_NO_LOCK);
	f->base.ops = &file_ops;
	f->base.name = sp_strdup(name);
	r = f->base.name ? clear_nonblock(fd) : -ENOMEM;
	if (r < 0) {
		sp_free(f->base.name);
		sp_free(f);
		return sp_err_set(err, r, "%s: %s", name, strerror(-r));
	}
	describe(f, &st, flags);
	f->bulk_fd = (flags & STORE_BULK) && (flags & STORE_RDWR) ? open_bulk(f) : -1;
	*ret_store = &f->base;
	return 0;
}

/* Looks before it opens: opening some devices has effects, and one that is in use need not even be opened. */
static int look(const char *path, unsigned flags, bool *ret_is_device, struct sp_err *err)
{
	struct stat st;
	int r;

	if (stat(path, &st) < 0)
		return sp_err_set(err, -errno, "%s: %s", path, strerror(errno));
	r = store_file_kind_ok(st.st_mode, flags, path, err);
	*ret_is_device = S_ISBLK(st.st_mode);
	return r == 0 && *ret_is_device && !(flags & STORE_NO_LOCK) ? store_device_is_free(st.st_rdev, path, err) : r;
}

static int open_path(const char *path, unsigned flags, struct sp_err *err)
{
	int open_flags = store_file_open_flags(flags), fd, r = 0;
	bool is_device = false;

	if (!(flags & STORE_CREATE))
		r = look(path, flags, &is_device, err);
	if (r < 0)
		return r;
	if (is_device && (flags & STORE_RDWR) && !(flags & STORE_NO_LOCK))
		open_flags |= O_EXCL;	/* a writer wants it to itself */
	do
		fd = open(path, open_flags, 0644);
	while (fd < 0 && errno == EINTR);
	if (fd >= 0)
		return fd;
	if (errno == EBUSY && is_device)
		return sp_err_set(err, -EBUSY, "%s is in use by another program or by the kernel (a mounted partition "
				  "of it, swap, dm, md); release it there first", path);
	return sp_err_set(err, -errno, "%s: %s", path, strerror(errno));
}

int store_file_open(const char *path, unsigned flags, struct store **ret_store, struct sp_err *err)
{
	int fd = open_path(path, flags, err), r;

	if (fd < 0)
		return fd;
	r = store_file_adopt(fd, path, flags, ret_store, err);
	if (r < 0)
		close(fd);
	return r;
}
