/* SPDX-License-Identifier: BSD-2-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "tests/unit/rows.h"

#define MAX UINT64_MAX

static const uint8_t raw[8] = { 0x81, 0x92, 0xa3, 0xb4, 0xc5, 0xd6, 0xe7, 0xf8 };

/* Sign bits everywhere: a promotion to int that goes wrong shows. */
static void integers(void **state)
{
	le16_t l2;
	le32_t l4;
	le64_t l8;
	be16_t b2;
	be32_t b4;
	be64_t b8;

	memcpy(&l2, raw, 2);
	memcpy(&l4, raw, 4);
	memcpy(&l8, raw, 8);
	memcpy(&b2, raw, 2);
	memcpy(&b4, raw, 4);
	memcpy(&b8, raw, 8);
	assert_int_equal(le16_get(l2), 0x9281);
	assert_int_equal(le32_get(l4), 0xb4a39281);
	assert_true(le64_get(l8) == 0xf8e7d6c5b4a39281);
	assert_int_equal(be16_get(b2), 0x8192);
	assert_int_equal(be32_get(b4), 0x8192a3b4);
	assert_true(be64_get(b8) == 0x8192a3b4c5d6e7f8);

	l2 = le16_make(0x9281);
	l4 = le32_make(0xb4a39281);
	l8 = le64_make(0xf8e7d6c5b4a39281);
	b2 = be16_make(0x8192);
	b4 = be32_make(0x8192a3b4);
	b8 = be64_make(0x8192a3b4c5d6e7f8);
	assert_memory_equal(&l2, raw, 2);
	assert_memory_equal(&l4, raw, 4);
	assert_memory_equal(&l8, raw, 8);
	assert_memory_equal(&b2, raw, 2);
	assert_memory_equal(&b4, raw, 4);
	assert_memory_equal(&b8, raw, 8);
}

static const struct range_case {
	const char *name;
	uint64_t offset, len, limit;
	bool want;
} ranges[] = {
	{ "range in the middle", 10, 20, 100, true },
	{ "range to the end", 10, 90, 100, true },
	{ "range one past the end", 10, 91, 100, false },
	{ "empty range at the end", 100, 0, 100, true },
	{ "empty range past the end", 101, 0, 100, false },
	{ "range whose sum wraps", MAX - 4, 10, MAX, false },
	{ "range whose length wraps", 10, MAX, 100, false },
	{ "the whole of 64 bits", 0, MAX, MAX, true },
};

static void range_ok(void **state)
{
	const struct range_case *c = *state;

	assert_int_equal(sp_range_ok(c->offset, c->len, c->limit), c->want);
}

static const struct overlap_case {
	const char *name;
	uint64_t a, a_len, b, b_len;
	bool want;
} overlaps[] = {
	{ "neighbours", 0, 10, 10, 10, false },
	{ "one byte shared", 0, 11, 10, 10, true },
	{ "contained", 0, 100, 10, 1, true },
	{ "equal", 5, 5, 5, 5, true },
	{ "empty inside", 0, 100, 10, 0, false },
	{ "wraps and does not reach back", MAX - 1, 100, 0, 10, false },
	{ "wraps and covers the top", MAX - 10, 100, MAX - 1, 1, true },
};

static void overlap(void **state)
{
	const struct overlap_case *c = *state;

	assert_int_equal(sp_ranges_overlap(c->a, c->a_len, c->b, c->b_len), c->want);
	assert_int_equal(sp_ranges_overlap(c->b, c->b_len, c->a, c->a_len), c->want);
}

static void arithmetic(void **state)
{
	assert_false(sp_is_pow2(0));
	assert_true(sp_is_pow2(1));
	assert_false(sp_is_pow2(3));
	assert_true(sp_is_pow2(1ull << 63));
	assert_int_equal(sp_align_down(4097, 4096), 4096);
	assert_int_equal(sp_align_up(4097, 4096), 8192);
	assert_int_equal(sp_align_up(4096, 4096), 4096);
	assert_true(sp_align_up_ok(MAX - 4095, 4096));
	assert_false(sp_align_up_ok(MAX - 4094, 4096));
	assert_true(sp_is_aligned(0, 512));
	assert_false(sp_is_aligned(511, 512));
	assert_int_equal(sp_div_ceil(0, 7), 0);
	assert_int_equal(sp_div_ceil(14, 7), 2);
	assert_int_equal(sp_div_ceil(15, 7), 3);
	assert_true(sp_div_ceil(MAX, 2) == 1ull << 63);
	assert_int_equal(sp_min(3, 5), 3);
	assert_int_equal(sp_max(3, 5), 5);
	assert_true(SP_KIB(1) == 1024 && SP_MIB(1) == 1048576 && SP_GIB(4) == 1ull << 32 && SP_TIB(64) == 1ull << 46);
}

int main(void)
{
	static const struct CMUnitTest tests[] = { cmocka_unit_test(integers), cmocka_unit_test(arithmetic) };
	int failed = cmocka_run_group_tests_name("bytes", tests, NULL, NULL);

	failed += ROWS_RUN(ranges, range_ok);
	failed += ROWS_RUN(overlaps, overlap);
	return failed != 0;
}
