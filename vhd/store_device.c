/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is different about block devices: their size, zeroing, and that the kernel may be using them.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "vhd/store_int.h"

int store_device_size(int fd, uint64_t *ret_size)
{
	return ioctl(fd, BLKGETSIZE64, ret_size) < 0 ? -errno : 0;
}

/* BLKDISCARD would be cheaper but promises nothing about what is read afterwards. */
int store_device_zero(int fd, uint64_t offset, uint64_t len)
{
	uint64_t range[2] = { offset, len }, size;
	int r = store_device_size(fd, &size);

	if (r < 0)
		return r;
	if (!sp_range_ok(offset, len, size) || !sp_is_aligned(offset | len, 512))
		return -EOPNOTSUPP;
	if (ioctl(fd, BLKZEROOUT, range) == 0)
		return 0;
	return errno == EINVAL || errno == ENOTTY ? -EOPNOTSUPP : -errno;
}

/* The first dm, md, loop ... device stacked on @rdev, if any. */
static bool held_by(dev_t rdev, char *ret_name, size_t size)
{
	char path[64];
	struct dirent *e;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/holders", major(rdev), minor(rdev));
	dir = opendir(path);
	if (!dir)
		return false;
	while (!found && (e = readdir(dir))) {
		found = e->d_name[0] != '.';
		if (found)
			snprintf(ret_name, size, "%s", e->d_name);
	}
	closedir(dir);
	return found;
}

/* Where @rdev is mounted, if it is. Lines: id parent major:minor root mountpoint ... */
static bool mounted_at(dev_t rdev, char *ret_where, size_t size)
{
	char *line = NULL, where[256];
	FILE *f = fopen("/proc/self/mountinfo", "re");
	unsigned maj, min;
	bool found = false;
	size_t room = 0;

	while (f && !found && getline(&line, &room, f) > 0) {
		found = sscanf(line, "%*u %*u %u:%u %*s %255s", &maj, &min, where) == 3 && maj == major(rdev) &&
			min == minor(rdev);
		if (found)
			snprintf(ret_where, size, "%s", where);
	}
	free(line);	/* getline() allocates by itself */
	if (f)
		fclose(f);
	return found;
}

int store_device_is_free(dev_t rdev, const char *name, struct sp_err *err)
{
	char by[256];

	if (mounted_at(rdev, by, sizeof(by)))
		return sp_err_set(err, -EBUSY, "%s is mounted at %s; unmount it first", name, by);
	if (held_by(rdev, by, sizeof(by)))
		return sp_err_set(err, -EBUSY, "%s is in use by the block device %s; release it there first", name, by);
	return 0;
}
