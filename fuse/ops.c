/* SPDX-License-Identifier: BSD-2-Clause */
#include "fuse/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/seed.h"
#include "fuse/mount.h"

#define IO_MAX		(1u << 20)	/* bytes per request; the kernel allows 256 pages */
#define READAHEAD_MAX	(8u << 20)
#define BACKGROUND_MAX	64		/* readahead and asynchronous requests in flight */
/* Names and attributes change only through this mount, so the kernel may keep them. */
#define TIMEOUT_S	86400.0

static struct mnt_fs *fs_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

/* One line per failed transfer, but never a flood: a guest file system retries without end. */
static void log_failure(const struct tree_file *f, const char *what, uint64_t offset, uint64_t len, int error)
{
	mnt_log_limited("%s: %s of %llu bytes at %llu: %s", f->name, what, (unsigned long long)len,
			(unsigned long long)offset, strerror(-error));
}

/* ---- connection ---------------------------------------------------------------------------------- */

static void want(struct fuse_conn_info *conn, unsigned cap, bool on)
{
	if (on)
		conn->want |= conn->capable & cap;
	else
		conn->want &= ~cap;
}

/*
 * Write-through by default: the kernel's write-back cache takes writes past the end of a file (it would learn the
 * fixed size only later), and reports a full host only at fsync. It is for the private mount below --files, whose
 * single user never writes past the end and syncs.
 */
static void mnt_init(void *userdata, struct fuse_conn_info *conn)
{
	struct mnt_fs *fs = userdata;

	conn->max_write = IO_MAX;
	conn->max_readahead = READAHEAD_MAX;
	conn->max_background = BACKGROUND_MAX;
	conn->congestion_threshold = BACKGROUND_MAX * 3 / 4;
	want(conn, FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO, true);
	want(conn, FUSE_CAP_WRITEBACK_CACHE, fs->writeback);
	/* Times change with our own writes: no reason to drop the page cache. */
	want(conn, FUSE_CAP_AUTO_INVAL_DATA, false);
	/* Without it the kernel asks setattr() to truncate, which refuses. */
	want(conn, FUSE_CAP_ATOMIC_O_TRUNC, false);
	/* Splicing a request into a pipe only to copy it out again costs more than it saves. */
	want(conn, FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE, false);
	if (fs->ready)
		fs->ready(fs->arg);
}

/* ---- names and attributes ------------------------------------------------------------------------ */

static void mnt_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e = { .attr_timeout = TIMEOUT_S, .entry_timeout = TIMEOUT_S };
	struct tree *t = fs_of(req)->tree;

	e.ino = tree_lookup(t, parent, name);
	if (e.ino)	/* otherwise a negative entry, kept as long as a positive one */
		tree_stat(t, e.ino, &e.attr);
	fuse_reply_entry(req, &e);
}

static void mnt_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;

	if (tree_stat(fs_of(req)->tree, ino, &st) < 0)
		fuse_reply_err(req, ENOENT);
	else
		fuse_reply_attr(req, &st, TIMEOUT_S);
}

static void mnt_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	struct tree_file *f = tree_file(fs_of(req)->tree, ino);

	/* The size belongs to the image, mode and owner to the mount. */
	if (!f || to_set & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID) ||
	    (to_set & FUSE_SET_ATTR_SIZE && (uint64_t)attr->st_size != f->size)) {
		fuse_reply_err(req, EPERM);
		return;
	}
	if (to_set & FUSE_SET_ATTR_MTIME && !(to_set & FUSE_SET_ATTR_MTIME_NOW))
		f->mtime_ns = attr->st_mtim.tv_sec * INT64_C(1000000000) + attr->st_mtim.tv_nsec;
	mnt_getattr(req, ino, fi);
}

static void mnt_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct tree *t = fs_of(req)->tree;
	SP_AUTO_FREE char *buf = NULL;
	char name[TREE_NAME_MAX];
	size_t used = 0, need;

	if (!tree_is_dir(t, ino)) {
		fuse_reply_err(req, ENOTDIR);
		return;
	}
	buf = sp_alloc(size);
	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	/* An entry's offset is the position after it; 0 and 1 are "." and "..". */
	for (uint64_t pos = (uint64_t)off;; pos++) {
		struct stat st = { .st_ino = ino, .st_mode = S_IFDIR };
		const char *entry = pos == 0 ? "." : "..";

		if (pos >= 2) {
			st.st_ino = tree_entry(t, ino, pos - 2, name);
			if (st.st_ino == 0)
				break;
			st.st_mode = tree_is_dir(t, st.st_ino) ? S_IFDIR : S_IFREG;
			entry = name;
		}
		need = fuse_add_direntry(req, buf + used, size - used, entry, &st, (off_t)pos + 1);
		if (need > size - used)
			break;
		used += need;
	}
	fuse_reply_buf(req, buf, used);
}

static void mnt_statfs(fuse_req_t req, fuse_ino_t ino)
{
	uint64_t size = vhd_disk_size(fs_of(req)->disk);
	struct statvfs st = { .f_bsize = 4096, .f_frsize = 4096, .f_blocks = (size + 4095) / 4096, .f_namemax = 255 };

	fuse_reply_statfs(req, &st);
}

/* ---- open and close ------------------------------------------------------------------------------ */

/* libfuse 3.14 has no field for FOPEN_PARALLEL_DIRECT_WRITES, so the answer is put together here. */
static int reply_open(fuse_req_t req, uint32_t open_flags)
{
	struct fuse_open_out out = { .open_flags = open_flags };

	return fuse_reply_buf(req, (const char *)&out, sizeof(out));
}

static void mnt_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct tree *t = fs_of(req)->tree;
	struct tree_file *f = tree_file(t, ino);
	struct sp_err err = { 0 };
	uint32_t flags;
	int r;

	if (!f || ((fi->flags & O_ACCMODE) != O_RDONLY && !f->writable)) {
		fuse_reply_err(req, f ? EROFS : EISDIR);
		return;
	}
	r = tree_file_open(t, f, &err);
	if (r < 0) {
		mnt_log_limited("%s", sp_err_text(&err));
		fuse_reply_err(req, r == -EBADMSG || r == -ESTALE ? EIO : -r);
		return;
	}
	/* O_DIRECT through the page cache code would serialise writers on the inode; as direct I/O they run abreast. */
	if (fi->flags & O_DIRECT)
		flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
	else
		flags = tree_file_keep_cache(t, f) ? FOPEN_KEEP_CACHE : 0;
	if (reply_open(req, flags) == -ENOENT)	/* the opener was interrupted and will not release */
		tree_file_close(t, f);
}

static void mnt_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct tree *t = fs_of(req)->tree;

	tree_file_close(t, tree_file(t, ino));
	fuse_reply_err(req, 0);
}

/* ---- data ---------------------------------------------------------------------------------------- */

/*
 * Each worker thread reads into a buffer of its own, kept for its life. One huge page: the kernel looks up every page
 * of it for each reply, which is an eighth of the cost of 1 MiB otherwise.
 */
#define BUFFER_SIZE (2u << 20)

static pthread_key_t buffer_key;
static pthread_once_t buffer_once = PTHREAD_ONCE_INIT;

static void make_buffer_key(void)
{
	pthread_key_create(&buffer_key, sp_free);
}

static char *thread_buffer(void)
{
	char *buf;

	pthread_once(&buffer_once, make_buffer_key);
	buf = pthread_getspecific(buffer_key);
	if (!buf) {
		buf = sp_alloc_aligned(BUFFER_SIZE, BUFFER_SIZE);
		if (buf)
			madvise(buf, BUFFER_SIZE, MADV_HUGEPAGE);	/* only a wish */
		pthread_setspecific(buffer_key, buf);
	}
	return buf;
}

static size_t clamp_to_file(const struct tree_file *f, size_t len, off_t off)
{
	if ((uint64_t)off >= f->size)
		return 0;
	return len < f->size - (uint64_t)off ? len : (size_t)(f->size - (uint64_t)off);
}

static void mnt_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct tree_file *f = tree_file(fs_of(req)->tree, ino);
	size_t len = clamp_to_file(f, size < IO_MAX ? size : IO_MAX, off);
	char *buf;
	int r;

	if (f->text || len == 0) {
		fuse_reply_buf(req, len ? f->text + off : NULL, len);
		return;
	}
	buf = thread_buffer();
	r = buf ? vhd_disk_read(f->disk, buf, len, f->offset + (uint64_t)off) : -ENOMEM;
	if (r < 0) {
		log_failure(f, "read", (uint64_t)off, len, r);
		fuse_reply_err(req, -r);
		return;
	}
	fuse_reply_buf(req, buf, len);
}

static void mnt_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
		      struct fuse_file_info *fi)
{
	struct mnt_fs *fs = fs_of(req);
	struct tree_file *f = tree_file(fs->tree, ino);
	size_t len = clamp_to_file(f, size, off);
	int r;

	if (len == 0 && size > 0) {	/* as at the end of a block device */
		fuse_reply_err(req, ENOSPC);
		return;
	}
	r = vhd_disk_write(f->disk, buf, len, f->offset + (uint64_t)off);
	/* Also after a failure: part of it may have been written. Before the reply: later openers must see it. */
	tree_file_wrote(fs->tree, f, fi->flags & O_DIRECT);
	if (r < 0) {
		log_failure(f, "write", (uint64_t)off, len, r);
		fuse_reply_err(req, -r);
		return;
	}
	fuse_reply_write(req, len);
}

static void mnt_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct tree_file *f = tree_file(fs_of(req)->tree, ino);
	int r = 0;

	if (f->writable && !SP_SEED_BUG(MOUNT_FSYNC_LIES))
		r = vhd_disk_flush(f->disk);
	if (r < 0)
		log_failure(f, "flush", 0, 0, r);
	fuse_reply_err(req, -r);
}

/* ---- holes --------------------------------------------------------------------------------------- */

static int do_fallocate(struct tree_file *f, int mode, uint64_t offset, uint64_t len)
{
	bool past_end = offset > f->size || len > f->size - offset;

	switch (mode) {
	case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
	case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE:
		if (offset >= f->size)
			return 0;
		if (past_end)
			len = f->size - offset;
		break;
	case FALLOC_FL_ZERO_RANGE:
		if (past_end)
			return -EFBIG;
		break;
	default:	/* room on the host cannot be promised */
		return -EOPNOTSUPP;
	}
	/* Also for a hole: what can be freed is freed, and unlike after a discard all of it reads zeros. */
	return vhd_disk_write_zeroes(f->disk, f->offset + offset, len);
}

static void mnt_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
			  struct fuse_file_info *fi)
{
	struct mnt_fs *fs = fs_of(req);
	struct tree_file *f = tree_file(fs->tree, ino);
	int r = do_fallocate(f, mode, (uint64_t)offset, (uint64_t)length);

	tree_file_wrote(fs->tree, f, fi->flags & O_DIRECT);
	if (r < 0 && r != -EOPNOTSUPP)
		log_failure(f, "fallocate", (uint64_t)offset, (uint64_t)length, r);
	fuse_reply_err(req, -r);
}

/*
 * First offset at or after @off whose bytes are data (@data) or known zeros. What a missing or unopened parent
 * would hold is no hole: nobody knows it to be zero. The end of the file is a hole.
 */
static int seek(fuse_req_t req, const struct tree_file *f, uint64_t off, bool data, uint64_t *ret_off)
{
	while (off < f->size) {
		struct vhd_range range = { .len = f->size - off, .kind = VHD_RANGE_DATA };	/* right for text */
		int r = f->text ? 0 : vhd_disk_map(f->disk, f->offset + off, f->size - off, &range);

		if (r < 0)
			return r;
		if ((range.kind != VHD_RANGE_ZERO) == data)
			break;
		if (fuse_req_interrupted(req))
			return -EINTR;
		off += range.len;
	}
	if (off >= f->size && data)
		return -ENXIO;
	*ret_off = off < f->size ? off : f->size;
	return 0;
}

static void mnt_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	struct mnt_fs *fs = fs_of(req);
	struct tree_file *f = tree_file(fs->tree, ino);
	uint64_t found = 0;
	int r;

	if (fs->writeback) {	/* dirty pages are not in the map: the kernel's own answer (no holes) is right */
		fuse_reply_err(req, ENOSYS);
		return;
	}
	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		r = -EINVAL;
	else if (off < 0 || (uint64_t)off >= f->size)
		r = -ENXIO;
	else
		r = seek(req, f, (uint64_t)off, whence == SEEK_DATA, &found);
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_lseek(req, (off_t)found);
}

const struct fuse_lowlevel_ops mnt_ops = {
	.init = mnt_init,
	.lookup = mnt_lookup,
	.getattr = mnt_getattr,
	.setattr = mnt_setattr,
	.readdir = mnt_readdir,
	.statfs = mnt_statfs,
	.open = mnt_open,
	.release = mnt_release,
	.read = mnt_read,
	.write = mnt_write,
	.fsync = mnt_fsync,
	.fallocate = mnt_fallocate,
	.lseek = mnt_lseek,
};
