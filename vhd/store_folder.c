/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A folder of the host, and nothing outside it. The text of an image names files here, so the kernel does the
 * confining: names are resolved beneath the folder's descriptor, without symbolic links, without /proc's magic ones and
 * without crossing into another file system. Nothing is looked up twice by path.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/seed.h"
#include "vhd/store.h"
#include "vhd/store_int.h"

#define CONFINED (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV)

struct folder_host {
	struct store_folder base;
	int fd;
};

/* ---- what all folders share ----------------------------------------------------------------------- */

int store_folder_open(struct store_folder *f, const char *name, unsigned flags, struct store **ret_store,
		      struct sp_err *err)
{
	return f->ops->open(f, name, flags, ret_store, err);
}

int store_folder_rename(struct store_folder *f, const char *from, const char *to, bool replace)
{
	return f->ops->rename(f, from, to, replace);
}

int store_folder_link(struct store_folder *f, const char *from, const char *to)
{
	return f->ops->link ? f->ops->link(f, from, to) : -ENOTSUP;
}

int store_folder_unlink(struct store_folder *f, const char *name)
{
	return f->ops->unlink(f, name);
}

int store_folder_sync(struct store_folder *f, const char *name)
{
	return f->ops->sync(f, name);
}

void store_folder_close(struct store_folder *f)
{
	if (f)
		f->ops->close(f);
}

/* ---- resolving ------------------------------------------------------------------------------------ */

static int folder_fd(const struct store_folder *f)
{
	return ((const struct folder_host *)f)->fd;
}

/* A descriptor, or negative errno: -EXDEV for everything that leads (or might lead) outside. */
static int open_beneath(int dirfd, const char *name, int flags, mode_t mode)
{
	struct open_how how = { .flags = (uint64_t)flags, .mode = flags & O_CREAT ? mode : 0, .resolve = CONFINED };
	long fd;

	if (SP_SEED_BUG(FOLDER_NOT_CONFINED))
		how.resolve = 0;
	do	/* EAGAIN: something was renamed while the kernel walked over a ".." */
		fd = syscall(SYS_openat2, dirfd, name, &how, sizeof(how));
	while (fd < 0 && (errno == EINTR || errno == EAGAIN));
	if (fd >= 0)
		return (int)fd;
	return errno == ELOOP ? -EXDEV : -errno;
}

static int say_why(const struct store_folder *f, const char *name, int r, struct sp_err *err)
{
	if (r == -EXDEV)
		return sp_err_set(err, r,
				  "%s leads outside the allowed folder %s (or through a symbolic link or "
				  "into another file system); name the folder it may lie in with --image-root",
				  name, f->path);
	if (r == -ENOSYS)
		return sp_err_set(err, r, "%s: the kernel has no openat2() (Linux 5.6), so names inside images cannot "
				  "be followed safely", name);
	return sp_err_set(err, r, "%s in %s: %s", name, f->path, strerror(-r));
}

/* The directory that holds @name, and the last component of it. */
static int open_parent(const struct store_folder *f, const char *name, int flags, const char **ret_last)
{
	const char *slash = strrchr(name, '/'), *last = slash ? slash + 1 : name;
	SP_AUTO_FREE char *dir = NULL;

	if (last[0] == '\0' || strcmp(last, ".") == 0 || strcmp(last, "..") == 0)
		return -EINVAL;
	if (name[0] == '/')
		return -EXDEV;
	dir = slash ? sp_asprintf("%.*s", (int)(slash - name), name) : sp_strdup(".");
	if (!dir)
		return -ENOMEM;
	*ret_last = last;
	return open_beneath(folder_fd(f), dir, flags | O_DIRECTORY | O_CLOEXEC, 0);
}

/* ---- operations ----------------------------------------------------------------------------------- */

/* O_PATH has no effect on what it opens, so a device or FIFO planted here is told before it is touched. */
static int look(const struct store_folder *f, const char *name, unsigned flags, struct sp_err *err)
{
	int fd = open_beneath(folder_fd(f), name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0), r;
	struct stat st;

	if (fd < 0)
		return say_why(f, name, fd, err);
	r = fstat(fd, &st) < 0 ? sp_err_set(err, -errno, "%s: %s", name, strerror(errno)) : 0;
	if (r == 0 && S_ISLNK(st.st_mode))
		r = say_why(f, name, -EXDEV, err);
	if (r == 0)
		r = store_file_kind_ok(st.st_mode, flags, name, err);
	close(fd);
	return r;
}

static int host_open(struct store_folder *f, const char *name, unsigned flags, struct store **ret_store,
		     struct sp_err *err)
{
	int r = flags & STORE_CREATE ? 0 : look(f, name, flags, err), fd;

	if (r < 0)
		return r;
	fd = open_beneath(folder_fd(f), name, store_file_open_flags(flags) | O_NOFOLLOW, 0644);
	if (fd < 0)
		return say_why(f, name, fd, err);
	r = store_file_adopt(fd, name, flags, ret_store, err);
	if (r < 0)
		close(fd);
	return r;
}

static int host_rename(struct store_folder *f, const char *from, const char *to, bool replace)
{
	const char *from_last, *to_last;
	int from_dir = open_parent(f, from, O_PATH, &from_last), to_dir, r;

	if (from_dir < 0)
		return from_dir;
	to_dir = open_parent(f, to, O_PATH, &to_last);
	r = to_dir < 0 ? to_dir : 0;
	if (r == 0 && renameat2(from_dir, from_last, to_dir, to_last, replace ? 0 : RENAME_NOREPLACE) < 0)
		r = -errno;
	if (to_dir >= 0)
		close(to_dir);
	close(from_dir);
	return r;
}

static int host_link(struct store_folder *f, const char *from, const char *to)
{
	const char *from_last, *to_last;
	int from_dir = open_parent(f, from, O_PATH, &from_last), to_dir, r;

	if (from_dir < 0)
		return from_dir;
	to_dir = open_parent(f, to, O_PATH, &to_last);
	r = to_dir < 0 ? to_dir : 0;
	if (r == 0 && linkat(from_dir, from_last, to_dir, to_last, 0) < 0)
		r = -errno;
	if (to_dir >= 0)
		close(to_dir);
	close(from_dir);
	return r;
}

static int host_unlink(struct store_folder *f, const char *name)
{
	const char *last;
	int dir = open_parent(f, name, O_PATH, &last), r;

	if (dir < 0)
		return dir;
	r = unlinkat(dir, last, 0) < 0 ? -errno : 0;
	close(dir);
	return r;
}

static int host_sync(struct store_folder *f, const char *name)
{
	const char *last;
	int dir = open_parent(f, name, O_RDONLY, &last), r;

	if (dir < 0)
		return dir;
	r = !SP_SEED_BUG(FOLDER_SYNC_NOTHING) && fsync(dir) < 0 ? -errno : 0;
	close(dir);
	return r;
}

static void host_close(struct store_folder *f)
{
	close(folder_fd(f));
	sp_free(f->path);
	sp_free(f);
}

static const struct store_folder_ops host_ops = {
	.open = host_open,
	.rename = host_rename,
	.link = host_link,
	.unlink = host_unlink,
	.sync = host_sync,
	.close = host_close,
};

int store_folder_host(const char *path, struct store_folder **ret_folder, struct sp_err *err)
{
	struct folder_host *h = sp_zalloc(sizeof(*h));
	int r = -ENOMEM;

	if (!h)
		return sp_err_set(err, -ENOMEM, "%s: out of memory", path);
	h->base.ops = &host_ops;
	h->base.path = sp_strdup(path);
	if (h->base.path) {
		h->fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		r = h->fd < 0 ? -errno : 0;
	}
	if (r < 0) {
		sp_free(h->base.path);
		sp_free(h);
		return sp_err_set(err, r, "folder %s: %s", path, strerror(-r));
	}
	*ret_folder = &h->base;
	return 0;
}
