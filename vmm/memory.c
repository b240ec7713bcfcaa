/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One memfd, mapped once: low RAM at its beginning, high RAM behind it, so all of RAM is linear in this process.
 *
 * Not MFD_HUGETLB: such a file cannot be mapped a second time page by page, which a GPADL of scattered pages needs.
 * Transparent huge pages can, and MADV_HUGEPAGE asks for them (host setting shmem_enabled: advise, or more).
 */
#include "vmm/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"

#define HUGE_PAGE SP_MIB(2)
#define REGION_MAX SP_GIB(1)		/* what io_uring registers as one buffer */

struct vmm_memory {
	struct vmbus_mem bus;
	int fd;
	uint8_t *base;
	uint64_t bytes, low;
};

/* Offset in the file, or false when not all of it is RAM. */
static bool locate(const struct vmm_memory *m, uint64_t gpa, uint64_t len, uint64_t *ret_offset)
{
	if (len == 0)
		return false;
	if (sp_range_ok(gpa, len, m->low)) {
		*ret_offset = gpa;
		return true;
	}
	if (gpa < VMM_HIGH_RAM || !sp_range_ok(gpa - VMM_HIGH_RAM, len, m->bytes - m->low))
		return false;
	*ret_offset = m->low + (gpa - VMM_HIGH_RAM);
	return true;
}

void *vmm_memory_map(const struct vmm_memory *m, uint64_t gpa, uint64_t len)
{
	uint64_t offset;

	return locate(m, gpa, len, &offset) ? m->base + offset : NULL;
}

static void *bus_map(void *ctx, uint64_t gpa, uint64_t len)
{
	return vmm_memory_map(ctx, gpa, len);
}

static int bus_file(void *ctx, uint64_t gpa, uint64_t len, int *ret_fd, uint64_t *ret_offset)
{
	const struct vmm_memory *m = ctx;

	if (!locate(m, gpa, len, ret_offset))
		return -ENOENT;
	*ret_fd = m->fd;
	return 0;
}

static unsigned bus_regions(void *ctx, struct iovec *ret_iov, unsigned max)
{
	const struct vmm_memory *m = ctx;
	unsigned n = 0;

	for (uint64_t at = 0; at < m->bytes; at += REGION_MAX, n++)
		if (n < max)
			ret_iov[n] = (struct iovec){ m->base + at, sp_min(m->bytes - at, REGION_MAX) };
	return n;
}

static const struct vmbus_mem_ops bus_ops = { .map = bus_map, .file = bus_file, .regions = bus_regions };

/* At a multiple of 2 MiB, as guest addresses are: else neither THP nor KVM can map more than 4 KiB at a time. */
static uint8_t *map_aligned(int fd, uint64_t bytes)
{
	uint8_t *room = mmap(NULL, bytes + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *base;
	size_t head;

	if (room == MAP_FAILED)
		return NULL;
	head = sp_align_up((uintptr_t)room, HUGE_PAGE) - (uintptr_t)room;
	base = mmap(room + head, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	if (base == MAP_FAILED) {
		munmap(room, bytes + HUGE_PAGE);
		return NULL;
	}
	if (head)
		munmap(room, head);
	if (head < HUGE_PAGE)
		munmap(base + bytes, HUGE_PAGE - head);
	madvise(base, bytes, MADV_HUGEPAGE);		/* a wish */
	madvise(base, bytes, MADV_DONTDUMP);
	return base;
}

int vmm_memory_new(uint64_t bytes, struct vmm_memory **ret_memory, struct sp_err *err)
{
	struct vmm_memory *m;
	int r;

	if (bytes == 0 || !sp_is_aligned(bytes, HUGE_PAGE) || bytes > SP_TIB(1))
		return sp_err_set(err, -EINVAL, "memory of %" PRIu64 " bytes: need a multiple of 2 MiB, at most 1 TiB",
				  bytes);
	m = sp_zalloc(sizeof(*m));
	if (!m)
		return sp_err_set(err, -ENOMEM, "out of memory");
	m->bus = (struct vmbus_mem){ &bus_ops, m };
	m->bytes = bytes;
	m->low = sp_min(bytes, VMM_LOW_RAM_MAX);
	m->fd = memfd_create("guest-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	/* Sealed: nobody who gets the descriptor can cut the file and turn our next access into SIGBUS. */
	if (m->fd < 0 || ftruncate(m->fd, (off_t)bytes) < 0 ||
	    fcntl(m->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0 ||
	    !(m->base = map_aligned(m->fd, bytes))) {
		r = -errno;
		vmm_memory_free(m);
		return sp_err_set(err, r, "guest memory of %" PRIu64 " MiB: %s", bytes >> 20, strerror(-r));
	}
	*ret_memory = m;
	return 0;
}

void vmm_memory_free(struct vmm_memory *m)
{
	if (!m)
		return;
	if (m->base)
		munmap(m->base, m->bytes);
	if (m->fd >= 0)
		close(m->fd);
	sp_free(m);
}

uint64_t vmm_memory_bytes(const struct vmm_memory *m)
{
	return m->bytes;
}

uint64_t vmm_memory_low(const struct vmm_memory *m)
{
	return m->low;
}

uint64_t vmm_memory_high(const struct vmm_memory *m)
{
	return m->bytes - m->low;
}

const struct vmbus_mem *vmm_memory_bus(const struct vmm_memory *m)
{
	return &m->bus;
}

int vmm_memory_clear(struct vmm_memory *m)
{
	return fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)m->bytes) < 0 ? -errno : 0;
}
