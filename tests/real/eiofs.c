/* SPDX-License-Identifier: BSD-2-Clause */
/*
 *   eiofs FILE SWITCH MOUNTPOINT [FUSE option...]
 *
 * A file system with one file, "disk", that shows FILE. While a file named SWITCH exists, writes to "disk" and syncs of
 * it fail with EIO. A loop device on top gives a real file system that loses writes.
 */
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int disk;
static const char *trouble;

static bool broken(void)
{
	return access(trouble, F_OK) == 0;
}

static int is_disk(const char *path)
{
	return strcmp(path, "/disk") == 0;
}

static int fs_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
	memset(st, 0, sizeof(*st));
	if (!is_disk(path)) {
		st->st_mode = S_IFDIR | 0700;
		st->st_nlink = 2;
		return strcmp(path, "/") == 0 ? 0 : -ENOENT;
	}
	return fstat(disk, st) < 0 ? -errno : 0;
}

static int fs_readdir(const char *path, void *buf, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *fi,
		      enum fuse_readdir_flags flags)
{
	fill(buf, "disk", NULL, 0, 0);
	return 0;
}

static int fs_open(const char *path, struct fuse_file_info *fi)
{
	fi->direct_io = 1;	/* an error reaches whoever wrote, at once */
	return is_disk(path) ? 0 : -ENOENT;
}

static int fs_read(const char *path, char *buf, size_t len, off_t offset, struct fuse_file_info *fi)
{
	ssize_t n = pread(disk, buf, len, offset);

	return n < 0 ? -errno : (int)n;
}

static int fs_write(const char *path, const char *buf, size_t len, off_t offset, struct fuse_file_info *fi)
{
	ssize_t n = broken() ? (errno = EIO, -1) : pwrite(disk, buf, len, offset);

	return n < 0 ? -errno : (int)n;
}

static int fs_fsync(const char *path, int datasync, struct fuse_file_info *fi)
{
	return broken() ? -EIO : fdatasync(disk) < 0 ? -errno : 0;
}

static const struct fuse_operations operations = {
	.getattr = fs_getattr,
	.readdir = fs_readdir,
	.open = fs_open,
	.read = fs_read,
	.write = fs_write,
	.fsync = fs_fsync,
};

int main(int argc, char **argv)
{
	char *options[16] = { argv[0] };
	int n = 1;

	if (argc < 4 || argc > 16)
		return 2;
	disk = open(argv[1], O_RDWR | O_CLOEXEC);
	if (disk < 0) {
		perror(argv[1]);
		return 1;
	}
	trouble = argv[2];
	for (int i = 3; i < argc; i++)
		options[n++] = argv[i];
	return fuse_main(n, options, &operations, NULL);
}
