/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmbus/socket_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/seed.h"

#define REGION_MAX SP_GIB(1)

static void *memory_map(void *ctx, uint64_t gpa, uint64_t len)
{
	const struct vmbus_socket_memory *m = ctx;

	return sp_range_ok(gpa, len, m->bytes) ? m->base + gpa : NULL;
}

static int memory_file(void *ctx, uint64_t gpa, uint64_t len, int *ret_fd, uint64_t *ret_offset)
{
	const struct vmbus_socket_memory *m = ctx;

	if (!sp_range_ok(gpa, len, m->bytes))
		return -ENOENT;
	*ret_fd = m->fd;
	*ret_offset = gpa;
	return 0;
}

static unsigned memory_regions(void *ctx, struct iovec *ret_iov, unsigned max)
{
	const struct vmbus_socket_memory *m = ctx;
	unsigned n = 0;

	for (uint64_t at = 0; at < m->bytes; at += REGION_MAX, n++)
		if (n < max)
			ret_iov[n] = (struct iovec){ m->base + at, sp_min(REGION_MAX, m->bytes - at) };
	return n;
}

static const struct vmbus_mem_ops memory_ops = {
	.map = memory_map, .file = memory_file, .regions = memory_regions,
};

static int map(struct vmbus_socket_memory *m, int fd, uint64_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		return -errno;
	*m = (struct vmbus_socket_memory){ .mem = { &memory_ops, m }, .fd = fd, .base = p, .bytes = bytes };
	return 0;
}

int vmbus_socket_memory_new(struct vmbus_socket_memory *m, uint64_t bytes)
{
	int fd = memfd_create("storvsc", MFD_CLOEXEC | MFD_ALLOW_SEALING), r = 0;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)bytes) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		r = -errno;
	if (r == 0)
		r = map(m, fd, bytes);
	if (r < 0)
		close(fd);
	return r;
}

int vmbus_socket_memory_adopt(struct vmbus_socket_memory *m, int fd, uint64_t bytes, uint64_t most)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;

	/* Only memory files have seals; a file that its owner can cut would take us along by SIGBUS. */
	if (seals < 0 || (!(seals & F_SEAL_SHRINK) && !SP_SEED_BUG(SOCKET_UNSEALED)))
		return -EINVAL;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return -EINVAL;
	if (bytes > most)
		return -E2BIG;
	if (bytes == 0 || bytes % VMBUS_PAGE_SIZE)
		return -EINVAL;
	/* After the seal was seen: from now on it can only be larger. */
	if ((uint64_t)st.st_size != bytes && !SP_SEED_BUG(SOCKET_SIZE_TRUSTED))
		return -EINVAL;
	return map(m, fd, bytes);
}

void vmbus_socket_memory_fini(struct vmbus_socket_memory *m)
{
	munmap(m->base, m->bytes);
	close(m->fd);
}
