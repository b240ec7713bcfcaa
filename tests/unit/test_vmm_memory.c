/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest RAM: what is RAM and what is not, the file behind it, clearing. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "tests/unit/rows.h"
#include "vmm/memory.h"

#define NONE UINT64_MAX

/* 5 GiB of RAM: 3 below, 2 from 4 GiB on. Nothing is touched but the pages looked at. */
static const struct map_case { const char *name; uint64_t gpa, len, want; } map_cases[] = {
	{ "first byte", 0, 1, 0 },
	{ "all of low RAM", 0, SP_GIB(3), 0 },
	{ "last byte of low RAM", SP_GIB(3) - 1, 1, SP_GIB(3) - 1 },
	{ "across the end of low RAM", SP_GIB(3) - 1, 2, NONE },
	{ "the hole", SP_GIB(3), 1, NONE },
	{ "local APIC", 0xfee00000, 4096, NONE },
	{ "across the begin of high RAM", SP_GIB(4) - 1, 2, NONE },
	{ "first byte of high RAM", SP_GIB(4), 1, SP_GIB(3) },
	{ "all of high RAM", SP_GIB(4), SP_GIB(2), SP_GIB(3) },
	{ "one byte too many", SP_GIB(4), SP_GIB(2) + 1, NONE },
	{ "past the end", SP_GIB(6), 1, NONE },
	{ "low and high together", 0, SP_GIB(5), NONE },
	{ "wraps", UINT64_MAX - 4095, 8192, NONE },
	{ "longest", 0, UINT64_MAX, NONE },
	{ "highest byte", UINT64_MAX, 1, NONE },
	{ "nothing", 4096, 0, NONE },
};

static void map(void **state)
{
	const struct map_case *c = *state;
	struct vmm_memory *m;
	uint8_t *base, *got;
	uint64_t offset = 0;
	int fd = -1;

	assert_int_equal(vmm_memory_new(SP_GIB(5), &m, NULL), 0);
	base = vmm_memory_map(m, 0, 1);
	assert_non_null(base);
	got = vmm_memory_map(m, c->gpa, c->len);
	assert_ptr_equal(got, c->want == NONE ? NULL : base + c->want);
	if (c->len)
		assert_ptr_equal(vmbus_mem_map(vmm_memory_bus(m), c->gpa, c->len), got);
	assert_int_equal(vmm_memory_bus(m)->ops->file(vmm_memory_bus(m)->ctx, c->gpa, c->len, &fd, &offset),
			 got ? 0 : -ENOENT);
	if (got) {
		assert_true(fd >= 0);
		assert_int_equal(offset, c->want);
	}
	vmm_memory_free(m);
}

static const struct size_case { const char *name; uint64_t bytes, low, high; int want; } size_cases[] = {
	{ "2 MiB", SP_MIB(2), SP_MIB(2), 0, 0 },
	{ "3 GiB", SP_GIB(3), SP_GIB(3), 0, 0 },
	{ "3 GiB and a bit", SP_GIB(3) + SP_MIB(2), SP_GIB(3), SP_MIB(2), 0 },
	{ "none", 0, 0, 0, -EINVAL },
	{ "not a multiple", SP_MIB(3), 0, 0, -EINVAL },
	{ "too much", SP_TIB(1) + SP_MIB(2), 0, 0, -EINVAL },
	{ "nearly 2^64", UINT64_MAX - SP_MIB(2) + 1, 0, 0, -EINVAL },
};

static void size(void **state)
{
	const struct size_case *c = *state;
	struct iovec iov[4];
	struct vmm_memory *m = NULL;
	uint64_t sum = 0;
	unsigned n;

	assert_int_equal(vmm_memory_new(c->bytes, &m, NULL), c->want);
	if (c->want < 0)
		return;
	assert_int_equal(vmm_memory_bytes(m), c->bytes);
	assert_int_equal(vmm_memory_low(m), c->low);
	assert_int_equal(vmm_memory_high(m), c->high);
	n = vmm_memory_bus(m)->ops->regions(vmm_memory_bus(m)->ctx, iov, 4);
	assert_int_equal(n, sp_div_ceil(c->bytes, SP_GIB(1)));
	for (unsigned i = 0; i < n && i < 4; i++) {
		assert_true(iov[i].iov_len <= SP_GIB(1));
		sum += iov[i].iov_len;
	}
	assert_int_equal(sum, c->bytes);
	assert_int_equal((uintptr_t)iov[0].iov_base % SP_MIB(2), 0);
	/* Fewer places than regions: the count is told, nothing past the end is written. */
	iov[1].iov_base = NULL;
	assert_int_equal(vmm_memory_bus(m)->ops->regions(vmm_memory_bus(m)->ctx, iov, 1), n);
	assert_null(iov[1].iov_base);
	vmm_memory_free(m);
}

static void second_mapping(void **state)
{
	struct vmm_memory *m;
	uint64_t offset;
	uint8_t *again, *ram;
	int fd;

	assert_int_equal(vmm_memory_new(SP_MIB(4), &m, NULL), 0);
	ram = vmm_memory_map(m, 0x5000, 4096);
	assert_int_equal(vmm_memory_bus(m)->ops->file(vmm_memory_bus(m)->ctx, 0x5000, 4096, &fd, &offset), 0);
	again = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
	assert_ptr_not_equal(again, MAP_FAILED);
	again[7] = 42;
	assert_int_equal(ram[7], 42);
	munmap(again, 4096);
	vmm_memory_free(m);
}

static void sealed(void **state)
{
	struct vmm_memory *m;
	uint64_t offset;
	int fd;

	assert_int_equal(vmm_memory_new(SP_MIB(4), &m, NULL), 0);
	assert_int_equal(vmm_memory_bus(m)->ops->file(vmm_memory_bus(m)->ctx, 0, 4096, &fd, &offset), 0);
	assert_int_equal(ftruncate(fd, 4096), -1);
	assert_int_equal(ftruncate(fd, (off_t)SP_MIB(8)), -1);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
	assert_int_equal(fcntl(fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	vmm_memory_free(m);
}

static void clear(void **state)
{
	struct vmm_memory *m;
	uint8_t *ram;

	assert_int_equal(vmm_memory_new(SP_MIB(4), &m, NULL), 0);
	ram = vmm_memory_map(m, 0, SP_MIB(4));
	ram[0] = ram[SP_MIB(4) - 1] = 1;
	assert_int_equal(vmm_memory_clear(m), 0);
	assert_int_equal(ram[0], 0);
	assert_int_equal(ram[SP_MIB(4) - 1], 0);
	vmm_memory_free(m);
}

static const struct single_row singles[] = {
	{ "a second mapping sees the same bytes", second_mapping },
	{ "nobody can cut or grow it", sealed },
	{ "cleared", clear },
};

int main(void)
{
	return ROWS_RUN(map_cases, map) + ROWS_RUN(size_cases, size) + ROWS_RUN(singles, rows_single);
}
