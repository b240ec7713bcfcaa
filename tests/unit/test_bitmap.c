/* SPDX-License-Identifier: BSD-2-Clause */
/* Bit runs against a plain bit-by-bit model, in both bit orders, on buffers that end with their last bit (ASan). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/alloc.h"
#include "base/bitmap.h"
#include "tests/unit/rows.h"

static const struct order_case {
	const char *name;
	bool msb_first;
} order_cases[] = {
	{ "least significant bit first (VHDX)", false },
	{ "most significant bit first (VHD)", true },
};

static uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static uint64_t model_run(const uint8_t *map, uint64_t from, uint64_t limit, bool msb_first)
{
	uint64_t n = 1;

	while (from + n < limit && sp_bit_get(map, from + n, msb_first) == sp_bit_get(map, from, msb_first))
		n++;
	return n;
}

static void bit_order(void **state)
{
	const struct order_case *c = *state;
	uint8_t map[2] = { 0x01, 0x80 };

	assert_int_equal(sp_bit_get(map, 0, c->msb_first), !c->msb_first);
	assert_int_equal(sp_bit_get(map, 7, c->msb_first), c->msb_first);
	assert_int_equal(sp_bit_get(map, 8, c->msb_first), c->msb_first);
	assert_int_equal(sp_bit_get(map, 15, c->msb_first), !c->msb_first);
	sp_bits_set(map, 6, 3, c->msb_first);
	assert_int_equal(map[0], c->msb_first ? 0x03 : 0xc1);
	assert_int_equal(map[1], c->msb_first ? 0x80 : 0x81);
}

/* Each start and length in a small map, set and clear: exactly these bits change. */
static void fill(void **state)
{
	const struct order_case *c = *state;

	for (uint64_t bits = 1; bits <= 40; bits++) {
		size_t bytes = (bits + 7) / 8;
		uint8_t *map = sp_alloc(bytes);

		assert_non_null(map);
		for (uint64_t from = 0; from <= bits; from++) {
			for (uint64_t count = 0; from + count <= bits; count++) {
				memset(map, 0, bytes);
				sp_bits_set(map, from, count, c->msb_first);
				for (uint64_t i = 0; i < bits; i++)
					assert_int_equal(sp_bit_get(map, i, c->msb_first), i - from < count);
				memset(map, 0xff, bytes);
				sp_bits_clear(map, from, count, c->msb_first);
				for (uint64_t i = 0; i < bits; i++)
					assert_int_equal(sp_bit_get(map, i, c->msb_first), i - from >= count);
			}
		}
		sp_free(map);
	}
}

static void runs_and_counts(void **state)
{
	const struct order_case *c = *state;
	uint64_t seed = 0x5eed5eed5eed5eedu;

	for (int round = 0; round < 3000; round++) {
		uint64_t bits = 1 + random_next(&seed) % 700, from, count, ones = 0;
		uint8_t *map = sp_zalloc((bits + 7) / 8);

		assert_non_null(map);
		for (int stretch = 0; stretch < 6; stretch++) {
			from = random_next(&seed) % bits;
			count = random_next(&seed) % (bits - from + 1);
			if (stretch % 3 == 2)
				sp_bits_clear(map, from, count, c->msb_first);
			else
				sp_bits_set(map, from, count / 2, c->msb_first);
		}
		from = random_next(&seed) % bits;
		assert_int_equal(sp_bits_run(map, from, bits, c->msb_first), model_run(map, from, bits, c->msb_first));
		count = random_next(&seed) % (bits - from + 1);
		for (uint64_t i = from; i < from + count; i++)
			ones += sp_bit_get(map, i, c->msb_first);
		assert_int_equal(sp_bits_count(map, from, count, c->msb_first), ones);
		sp_free(map);
	}
}

/* One bit that differs, at each distance from each start: no window edge hides it, and @limit caps the run. */
static void run_edges(void **state)
{
	const struct order_case *c = *state;
	uint8_t map[24];

	for (uint64_t from = 0; from < 17; from++) {
		for (uint64_t other = from + 1; other < 192; other++) {
			for (int value = 0; value < 2; value++) {
				memset(map, value ? 0xff : 0, sizeof(map));
				if (value)
					sp_bits_clear(map, other, 1, c->msb_first);
				else
					sp_bits_set(map, other, 1, c->msb_first);
				assert_int_equal(sp_bits_run(map, from, 192, c->msb_first), other - from);
				assert_int_equal(sp_bits_run(map, from, other, c->msb_first), other - from);
			}
		}
	}
}

int main(void)
{
	int failed = 0;

	failed += ROWS_RUN(order_cases, bit_order);
	failed += ROWS_RUN(order_cases, fill);
	failed += ROWS_RUN(order_cases, runs_and_counts);
	failed += ROWS_RUN(order_cases, run_edges);
	return failed != 0;
}
