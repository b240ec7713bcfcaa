/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/support/ring_pair.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"

static void must(bool holds, const char *what)
{
	if (!holds) {
		perror(what);
		abort();
	}
}

static uint64_t low_bytes(const struct test_mem *m)
{
	return (uint64_t)(m->pages / 2) * VMBUS_PAGE_SIZE;
}

static uint64_t high_bytes(const struct test_mem *m)
{
	return (uint64_t)(m->pages - m->pages / 2) * VMBUS_PAGE_SIZE;
}

/* Offset into the memfd, or UINT64_MAX. */
static uint64_t offset_of(const struct test_mem *m, uint64_t gpa, uint64_t len)
{
	if (gpa >= TEST_MEM_HIGH && sp_range_ok(gpa - TEST_MEM_HIGH, len, high_bytes(m)))
		return low_bytes(m) + gpa - TEST_MEM_HIGH;
	if (gpa >= TEST_MEM_LOW && sp_range_ok(gpa - TEST_MEM_LOW, len, low_bytes(m)))
		return gpa - TEST_MEM_LOW;
	return UINT64_MAX;
}

static void *mem_map(void *ctx, uint64_t gpa, uint64_t len)
{
	struct test_mem *m = ctx;
	uint64_t offset = offset_of(m, gpa, len);

	return offset == UINT64_MAX ? NULL : m->base + offset;
}

static int mem_file(void *ctx, uint64_t gpa, uint64_t len, int *ret_fd, uint64_t *ret_offset)
{
	struct test_mem *m = ctx;
	uint64_t offset = offset_of(m, gpa, len);

	if (offset == UINT64_MAX)
		return -ENOENT;
	*ret_fd = m->fd;
	*ret_offset = offset;
	return 0;
}

static unsigned mem_regions(void *ctx, struct iovec *ret_iov, unsigned max)
{
	struct test_mem *m = ctx;

	if (max > 0)
		ret_iov[0] = (struct iovec){ m->base, low_bytes(m) + high_bytes(m) };
	return 1;
}

static const struct vmbus_mem_ops mem_ops = { .map = mem_map, .file = mem_file, .regions = mem_regions };

void test_mem_open(struct test_mem *m, unsigned pages)
{
	size_t len = (size_t)pages * VMBUS_PAGE_SIZE;

	*m = (struct test_mem){ .mem = { &mem_ops, m }, .pages = pages };
	m->fd = memfd_create("peer", MFD_CLOEXEC);
	must(m->fd >= 0, "memfd_create");
	must(ftruncate(m->fd, (off_t)len) == 0, "ftruncate");
	m->base = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	must(m->base != MAP_FAILED, "mmap");
}

void test_mem_close(struct test_mem *m)
{
	munmap(m->base, (size_t)m->pages * VMBUS_PAGE_SIZE);
	close(m->fd);
}

uint64_t test_mem_pfn(const struct test_mem *m, unsigned page)
{
	if (page < m->pages / 2)
		return (TEST_MEM_LOW >> VMBUS_PAGE_SHIFT) + page;
	return (TEST_MEM_HIGH >> VMBUS_PAGE_SHIFT) + page - m->pages / 2;
}

void *test_mem_at(const struct test_mem *m, uint64_t pfn)
{
	return vmbus_mem_page(&m->mem, pfn);
}

unsigned test_mem_take(struct test_mem *m, unsigned pages)
{
	unsigned first = m->taken;

	errno = ENOMEM;
	must(pages <= m->pages - m->taken, "test memory");
	m->taken += pages;
	return first;
}

/* @ctx: the other end. */
static void signal_peer(void *ctx)
{
	struct vmbus_channel *peer = ctx;
	uint64_t one = 1;

	must(write(peer->event_fd, &one, sizeof(one)) == (ssize_t)sizeof(one), "eventfd");
}

static const struct vmbus_channel_ops channel_ops = { .signal = signal_peer };

static void open_end(struct ring_pair *p, struct vmbus_channel *end, struct vmbus_channel *peer, bool host)
{
	end->mem = &p->mem->mem;
	end->ops = &channel_ops;
	end->ctx = peer;
	end->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	must(end->event_fd >= 0, "eventfd");
	errno = EINVAL;
	must(vmbus_channel_init(end, &p->mapping, p->up_pages, host) == 0, "channel");
}

void ring_pair_open(struct ring_pair *p, struct test_mem *mem, unsigned up, unsigned down)
{
	uint64_t *pfn = calloc(up + down, sizeof(*pfn));

	must(pfn != NULL, "memory");
	*p = (struct ring_pair){ .mem = mem, .up_pages = up, .down_pages = down };
	p->first = test_mem_take(mem, up + down);
	for (unsigned i = 0; i < up + down; i++)
		pfn[i] = test_mem_pfn(mem, p->first + i);
	must(vmbus_gpadl_new(&mem->mem, pfn, up + down, &p->gpadl) == 0, "gpadl");
	must(vmbus_gpadl_map(p->gpadl, 0, up + down, &p->mapping) == 0, "mapping");
	memset(p->mapping.base, 0, p->mapping.len);
	open_end(p, &p->host, &p->guest, true);
	open_end(p, &p->guest, &p->host, false);
	free(pfn);
}

void ring_pair_close(struct ring_pair *p)
{
	close(p->host.event_fd);
	close(p->guest.event_fd);
	vmbus_mapping_release(&p->mapping);
	vmbus_gpadl_free(p->gpadl);
}
