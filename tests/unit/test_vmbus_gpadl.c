/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmbus/gpadl.h"

#include <errno.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "tests/support/ring_pair.h"
#include "tests/unit/rows.h"
#include "vmbus/vmbus_wire.h"

#define PAGES 16u		/* 8 low, 8 high, neighbours in this process */

static struct test_mem mem;

static void tag_pages(void)
{
	for (unsigned i = 0; i < PAGES; i++)
		memset(mem.base + i * VMBUS_PAGE_SIZE, (int)i + 1, VMBUS_PAGE_SIZE);
}

/* ---- making -------------------------------------------------------------------------------------------- */

static const struct make_case {
	const char *name;
	uint64_t pfn[3];
	unsigned count;
	int want;
} make_cases[] = {
	{ "one page", { 0x1000 }, 1, 0 },
	{ "low and high", { 0x1000, 0x100000 }, 2, 0 },
	{ "the same page twice", { 0x1000, 0x1000 }, 2, 0 },
	{ "last pages of both", { 0x1007, 0x100007 }, 2, 0 },
	{ "no pages", { 0 }, 0, -EINVAL },
	{ "more than a message can name", { 0x1000 }, VMBUS_GPADL_PFNS_MAX + 1, -EINVAL },
	{ "nothing there", { 0 }, 1, -EFAULT },
	{ "behind low memory", { 0x1000, 0x1008 }, 2, -EFAULT },
	{ "before low memory", { 0x1000, 0x1001, 0xfff }, 3, -EFAULT },
	{ "behind high memory", { 0x100008 }, 1, -EFAULT },
	{ "an address that wraps", { (1ull << 52) + 0x1000 }, 1, -EFAULT },
	{ "all bits", { UINT64_MAX }, 1, -EFAULT },
};

static void make(void **state)
{
	const struct make_case *row = *state;
	struct vmbus_gpadl *g = NULL;

	test_mem_open(&mem, PAGES);
	assert_int_equal(vmbus_gpadl_new(&mem.mem, row->pfn, row->count, &g), row->want);
	assert_int_equal(g != NULL, row->want == 0);
	if (g)
		assert_int_equal(vmbus_gpadl_pages(g), row->count);
	vmbus_gpadl_free(g);
	test_mem_close(&mem);
}

/* ---- mapping: pages are numbers into the memory of the test, 8 .. 15 are high -------------------------- */

static const struct map_case {
	const char *name;
	unsigned page[8], count;
	unsigned first, len;
	int want;
	bool again;
} map_cases[] = {
	{ "in order", { 2, 3, 4, 5 }, 4, 0, 4, 0, false },
	{ "part of it", { 2, 3, 4, 5 }, 4, 1, 2, 0, false },
	{ "one page", { 9 }, 1, 0, 1, 0, false },
	{ "across the hole", { 7, 8 }, 2, 0, 2, 0, false },
	{ "backwards", { 5, 4, 3, 2 }, 4, 0, 4, 0, true },
	{ "two runs", { 9, 10, 11, 1, 2, 3 }, 6, 0, 6, 0, true },
	{ "ordered part of a disorder", { 9, 10, 11, 1, 2, 3 }, 6, 3, 3, 0, false },
	{ "disordered part", { 9, 10, 11, 1, 2, 3 }, 6, 2, 2, 0, true },
	{ "one page twice", { 6, 6 }, 2, 0, 2, 0, true },
	{ "every other page", { 1, 3, 5, 7, 9, 11, 13, 15 }, 8, 0, 8, 0, true },
	{ "nothing", { 1, 2 }, 2, 0, 0, -EINVAL, false },
	{ "past the end", { 1, 2 }, 2, 1, 2, -EINVAL, false },
	{ "from behind the end", { 1, 2 }, 2, 3, 1, -EINVAL, false },
	{ "a sum that wraps", { 1, 2 }, 2, UINT32_MAX, 2, -EINVAL, false },
};

static void map(void **state)
{
	const struct map_case *row = *state;
	struct vmbus_mapping m = { 0 };
	struct vmbus_gpadl *g;
	uint64_t pfn[8];

	test_mem_open(&mem, PAGES);
	tag_pages();
	for (unsigned i = 0; i < row->count; i++)
		pfn[i] = test_mem_pfn(&mem, row->page[i]);
	assert_int_equal(vmbus_gpadl_new(&mem.mem, pfn, row->count, &g), 0);
	memset(pfn, 0xff, sizeof(pfn));		/* it has its own copy */
	assert_int_equal(vmbus_gpadl_map(g, row->first, row->len, &m), row->want);
	assert_int_equal(m.mapped_again, row->again);
	for (unsigned i = 0; row->want == 0 && i < row->len; i++) {
		uint8_t *page = m.base + i * VMBUS_PAGE_SIZE, *home;

		home = mem.base + row->page[row->first + i] * VMBUS_PAGE_SIZE;
		assert_int_equal(page[0], home[0]);
		page[VMBUS_PAGE_SIZE - 1] ^= 0x80;
		assert_int_equal(home[VMBUS_PAGE_SIZE - 1], page[VMBUS_PAGE_SIZE - 1]);
		page[VMBUS_PAGE_SIZE - 1] ^= 0x80;
	}
	vmbus_mapping_release(&m);
	assert_null(m.base);
	vmbus_gpadl_free(g);
	test_mem_close(&mem);
}

static int no_file(void *ctx, uint64_t gpa, uint64_t len, int *ret_fd, uint64_t *ret_offset)
{
	return -ENOENT;
}

static void memory_without_file(void **state)
{
	struct vmbus_mem_ops ops;
	struct vmbus_mapping m;
	struct vmbus_gpadl *g;
	uint64_t pfn[2];

	test_mem_open(&mem, PAGES);
	ops = *mem.mem.ops;
	ops.file = no_file;
	mem.mem.ops = &ops;
	pfn[0] = test_mem_pfn(&mem, 3);
	pfn[1] = test_mem_pfn(&mem, 2);
	assert_int_equal(vmbus_gpadl_new(&mem.mem, pfn, 2, &g), 0);
	assert_int_equal(vmbus_gpadl_map(g, 0, 2, &m), -ENOENT);
	assert_int_equal(vmbus_gpadl_map(g, 1, 1, &m), 0);
	vmbus_mapping_release(&m);
	vmbus_gpadl_free(g);
	test_mem_close(&mem);
}

static int fails(void *arg)
{
	return 1;
}

static void no_memory(void **state)
{
	struct vmbus_gpadl *g;
	uint64_t pfn;

	test_mem_open(&mem, PAGES);
	pfn = test_mem_pfn(&mem, 0);
	sp_alloc_set_fault(fails, NULL);
	assert_int_equal(vmbus_gpadl_new(&mem.mem, &pfn, 1, &g), -ENOMEM);
	sp_alloc_set_fault(NULL, NULL);
	test_mem_close(&mem);
}

static const struct single_row singles[] = {
	{ "memory without a file", memory_without_file },
	{ "no memory", no_memory },
};

int main(void)
{
	return ROWS_RUN(make_cases, make) + ROWS_RUN(map_cases, map) + ROWS_RUN(singles, rows_single);
}
