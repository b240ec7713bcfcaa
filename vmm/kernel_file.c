/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmm/kernel_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "vhd/probe.h"
#include "vmm/kernel_file_int.h"

/* ---- names ----------------------------------------------------------------------------------------- */

/* Digits up to a colon; the place behind it, or NULL. */
static const char *parse_number(const char *at, unsigned *ret_number)
{
	char *end;
	unsigned long value;

	if (*at < '0' || *at > '9')
		return NULL;
	value = strtoul(at, &end, 10);
	if (*end != ':' || value > 65535)
		return NULL;
	*ret_number = (unsigned)value;
	return end + 1;
}

int vmm_kernel_file_parse(const char *name, struct vmm_kernel_file *ret_file, struct sp_err *err)
{
	struct vmm_kernel_file f = { .path = name };
	const char *rest;

	if (strncmp(name, "disk", 4) != 0 || name[4] < '0' || name[4] > '9' || !strchr(name, ':')) {
		*ret_file = f;
		return *name ? 0 : sp_err_set(err, -EINVAL, "an empty name is no file");
	}
	rest = parse_number(name + 4, &f.disk);
	if (rest && *rest == 'p') {
		rest = parse_number(rest + 1, &f.partition);
		if (f.partition == 0)
			rest = NULL;
	}
	if (!rest || *rest != '/')
		return sp_err_set(err, -EINVAL, "\"%s\": expected diskN:/path or diskN:pM:/path (or ./%s for a file "
				  "of the host)", name, name);
	f.in_disk = true;
	f.path = rest;
	*ret_file = f;
	return 0;
}

/* ---- a file of the host ---------------------------------------------------------------------------- */

static int read_all(int fd, uint8_t *buf, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = read(fd, buf + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;	/* shorter than a moment ago */
		done += (size_t)n;
	}
	return 0;
}

static int read_open_file(int fd, uint8_t **ret_bytes, size_t *ret_len, struct sp_err *err)
{
	struct stat st;
	uint8_t *buf;
	int r;

	if (fstat(fd, &st) < 0)
		return sp_err_set(err, -errno, "%s", strerror(errno));
	if (!S_ISREG(st.st_mode))
		return sp_err_set(err, -EINVAL, "is no regular file");
	if (st.st_size == 0)
		return sp_err_set(err, -EINVAL, "is empty");
	if ((uint64_t)st.st_size > VMM_KERNEL_FILE_MAX)
		return sp_err_set(err, -EFBIG, "has %" PRIu64 " bytes; 1 GiB is the most that is loaded",
				  (uint64_t)st.st_size);
	buf = sp_alloc((size_t)st.st_size);
	if (!buf)
		return sp_err_set(err, -ENOMEM, "out of memory");
	r = read_all(fd, buf, (size_t)st.st_size);
	if (r < 0) {
		sp_free(buf);
		return sp_err_set(err, r, "%s", strerror(-r));
	}
	*ret_bytes = buf;
	*ret_len = (size_t)st.st_size;
	return 0;
}

static int read_host(const char *path, uint8_t **ret_bytes, size_t *ret_len, struct sp_err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), r;	/* a FIFO is refused, not waited for */

	if (fd < 0)
		return sp_err_set(err, -errno, "%s", strerror(errno));
	r = read_open_file(fd, ret_bytes, ret_len, err);
	close(fd);
	return r;
}

/* ---- a file in a disk ------------------------------------------------------------------------------ */

static bool is_ext(const struct vhd_filesystem *fs)
{
	return strcmp(fs->type, "ext2") == 0 || strcmp(fs->type, "ext3") == 0 || strcmp(fs->type, "ext4") == 0;
}

static const char *type_text(const struct vhd_filesystem *fs)
{
	return fs->type[0] ? fs->type : "no file system";
}

static int read_partition(struct vhd_disk *d, const struct vhd_partition *p, const char *path, uint8_t **ret_bytes,
			  size_t *ret_len, struct sp_err *err)
{
	int r;

	if (!is_ext(&p->fs))
		return sp_err_set(err, -ENOTSUP, "partition %u holds %s; files are read from ext2, ext3 and ext4",
				  p->number, type_text(&p->fs));
	r = kernel_file_read_ext(d, p->offset, p->size, path, ret_bytes, ret_len, err);
	return r < 0 ? sp_err_prefix(err, r, "partition %u", p->number) : 0;
}

static int read_any_partition(struct vhd_disk *d, const struct vhd_probe_result *probe, const char *path,
			      uint8_t **ret_bytes, size_t *ret_len, struct sp_err *err)
{
	int r = sp_err_set(err, -ENOTSUP, "none of %zu partitions holds ext2, ext3 or ext4", probe->partitions);

	for (size_t i = 0; i < probe->partitions; i++) {
		if (!is_ext(&probe->partition[i].fs))
			continue;
		r = read_partition(d, &probe->partition[i], path, ret_bytes, ret_len, err);
		if (r != -ENOENT)
			break;
	}
	return r;
}

static int read_probed(struct vhd_disk *d, const struct vhd_probe_result *probe, const struct vmm_kernel_file *f,
		       uint8_t **ret_bytes, size_t *ret_len, struct sp_err *err)
{
	if (f->partition) {
		for (size_t i = 0; i < probe->partitions; i++)
			if (probe->partition[i].number == f->partition)
				return read_partition(d, &probe->partition[i], f->path, ret_bytes, ret_len, err);
		return sp_err_set(err, -ENOENT, "there is no partition %u", f->partition);
	}
	if (probe->partitions)
		return read_any_partition(d, probe, f->path, ret_bytes, ret_len, err);
	if (!is_ext(&probe->fs))
		return sp_err_set(err, -ENOTSUP, "the disk holds %s; files are read from ext2, ext3 and ext4",
				  type_text(&probe->fs));
	return kernel_file_read_ext(d, 0, vhd_disk_size(d), f->path, ret_bytes, ret_len, err);
}

static int read_disk(struct vhd_disk *d, const struct vmm_kernel_file *f, uint8_t **ret_bytes, size_t *ret_len,
		     struct sp_err *err)
{
	struct vhd_probe_result probe;
	int r = vhd_probe_disk(d, &probe, err);

	if (r < 0)
		return r;
	r = read_probed(d, &probe, f, ret_bytes, ret_len, err);
	vhd_probe_fini(&probe);
	return r;
}

int vmm_kernel_file_read(const char *name, struct vhd_disk *const *disk, unsigned disks, uint8_t **ret_bytes,
			 size_t *ret_len, struct sp_err *err)
{
	struct vmm_kernel_file f;
	int r = vmm_kernel_file_parse(name, &f, err);

	if (r < 0)
		return r;
	if (!f.in_disk)
		r = read_host(f.path, ret_bytes, ret_len, err);
	else if (f.disk >= disks)
		r = sp_err_set(err, -ENOENT, "there is no disk %u, the machine has %u", f.disk, disks);
	else
		r = read_disk(disk[f.disk], &f, ret_bytes, ret_len, err);
	return r < 0 ? sp_err_prefix(err, r, "%s", name) : 0;
}
