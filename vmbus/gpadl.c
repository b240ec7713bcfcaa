/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A frozen list of the peer's pages. Which pages they are is decided once, when the list is made; what is in them
 * remains the peer's to change.
 */
#include "vmbus/gpadl.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "base/seed.h"
#include "vmbus/vmbus_wire.h"

struct vmbus_gpadl {
	const struct vmbus_mem *mem;
	unsigned count;
	uint64_t pfn[];
};

int vmbus_gpadl_new(const struct vmbus_mem *mem, const uint64_t *pfn, unsigned count, struct vmbus_gpadl **ret_gpadl)
{
	struct vmbus_gpadl *g;

	if (count == 0 || count > VMBUS_GPADL_PFNS_MAX)
		return -EINVAL;
	g = sp_alloc(sizeof(*g) + count * sizeof(g->pfn[0]));
	if (!g)
		return -ENOMEM;
	g->mem = mem;
	g->count = count;
	memcpy(g->pfn, pfn, count * sizeof(g->pfn[0]));
	for (unsigned i = 0; i < count; i++) {
		if (!vmbus_mem_page(mem, g->pfn[i]) && !SP_SEED_BUG(GPADL_ANY_PAGE)) {
			sp_free(g);
			return -EFAULT;
		}
	}
	*ret_gpadl = g;
	return 0;
}

void vmbus_gpadl_free(struct vmbus_gpadl *g)
{
	sp_free(g);
}

unsigned vmbus_gpadl_pages(const struct vmbus_gpadl *g)
{
	return g->count;
}

/* The pages where they are, when they are there in order; else NULL. */
static uint8_t *linear_in_ram(const struct vmbus_gpadl *g, unsigned first, unsigned count)
{
	uint8_t *base = vmbus_mem_page(g->mem, g->pfn[first]);

	for (unsigned i = 1; base && i < count; i++) {
		if (vmbus_mem_page(g->mem, g->pfn[first + i]) != base + (size_t)i * VMBUS_PAGE_SIZE)
			return NULL;
	}
	return base;
}

static int page_file(const struct vmbus_gpadl *g, unsigned i, int *ret_fd, uint64_t *ret_offset)
{
	return g->mem->ops->file(g->mem->ctx, g->pfn[i] << VMBUS_PAGE_SHIFT, VMBUS_PAGE_SIZE, ret_fd, ret_offset);
}

/* Maps the run of pages that begins with page @i of at most @left over @at. How many pages, or -errno. */
static int map_run(const struct vmbus_gpadl *g, unsigned i, unsigned left, uint8_t *at)
{
	uint64_t offset, next_offset;
	unsigned run = 1;
	int fd, next_fd, r;
	void *p;

	r = page_file(g, i, &fd, &offset);
	if (r < 0)
		return r;
	while (run < left && page_file(g, i + run, &next_fd, &next_offset) == 0 && next_fd == fd &&
	       next_offset == offset + (uint64_t)run * VMBUS_PAGE_SIZE)
		run++;
	p = mmap(at, (size_t)run * VMBUS_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)offset);
	return p == MAP_FAILED ? -errno : (int)run;
}

static int map_again(const struct vmbus_gpadl *g, unsigned first, unsigned count, uint8_t **ret_base)
{
	size_t len = (size_t)count * VMBUS_PAGE_SIZE;
	void *base = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (base == MAP_FAILED)
		return -errno;
	for (unsigned done = 0; done < count;) {
		int r = map_run(g, first + done, count - done, (uint8_t *)base + (size_t)done * VMBUS_PAGE_SIZE);

		if (r < 0) {
			munmap(base, len);
			return r;
		}
		done += (unsigned)r;
	}
	*ret_base = base;
	return 0;
}

int vmbus_gpadl_map(const struct vmbus_gpadl *g, unsigned first, unsigned count, struct vmbus_mapping *ret_mapping)
{
	struct vmbus_mapping m = { .len = (size_t)count * VMBUS_PAGE_SIZE };
	int r;

	if (count == 0 || !sp_range_ok(first, count, g->count))
		return -EINVAL;
	m.base = linear_in_ram(g, first, count);
	if (!m.base) {
		r = map_again(g, first, count, &m.base);
		if (r < 0)
			return r;
		m.mapped_again = true;
	}
	*ret_mapping = m;
	return 0;
}

void vmbus_mapping_release(struct vmbus_mapping *m)
{
	if (m->mapped_again)
		munmap(m->base, m->len);
	*m = (struct vmbus_mapping){ 0 };
}
