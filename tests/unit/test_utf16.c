/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/utf16.h"
#include "tests/unit/rows.h"

static void put_units(uint8_t *buf, const uint16_t *units, size_t count, bool big_endian)
{
	for (size_t i = 0; i < count; i++) {
		be16_t be = be16_make(units[i]);
		le16_t le = le16_make(units[i]);

		memcpy(buf + 2 * i, big_endian ? be.b : le.b, 2);
	}
}

/* Text that survives both directions, in both byte orders. */
static const struct text {
	const char *name, *utf8;
	size_t units;
	uint16_t unit[16];
} texts[] = {
	{ "nothing", "", 0, { 0 } },
	{ "relative path", ".\\base.vhd", 10, { '.', '\\', 'b', 'a', 's', 'e', '.', 'v', 'h', 'd' } },
	{ "two bytes", "\303\274\337\277", 2, { 0xfc, 0x7ff } },
	{ "three bytes", "\340\240\200\344\270\255\357\277\277", 3, { 0x800, 0x4e2d, 0xffff } },
	{ "ends of the planes", "\360\220\200\200\364\217\277\277", 4, { 0xd800, 0xdc00, 0xdbff, 0xdfff } },
	{ "high surrogate alone", "a\355\240\200b", 3, { 'a', 0xd800, 'b' } },
	{ "low surrogate alone", "a\355\277\277b", 3, { 'a', 0xdfff, 'b' } },
	{ "high surrogate at the end", "\355\257\277", 1, { 0xdbff } },
	{ "surrogates in the wrong order", "\355\260\200\355\240\200", 2, { 0xdc00, 0xd800 } },
	{ "high surrogate before a pair", "\355\240\200\360\220\200\200", 3, { 0xd800, 0xd800, 0xdc00 } },
};

static void round_trip(void **state)
{
	const struct text *c = *state;

	for (int big_endian = 0; big_endian < 2; big_endian++) {
		uint8_t want[32], got[32];
		size_t len = 99;
		char *text;

		put_units(want, c->unit, c->units, big_endian);
		text = sp_utf16_decode(want, 2 * c->units, big_endian);
		assert_non_null(text);
		assert_string_equal(text, c->utf8);
		sp_free(text);
		assert_int_equal(sp_utf16_encode(c->utf8, big_endian, got, sizeof(got), &len), 0);
		assert_int_equal(len, 2 * c->units);
		assert_memory_equal(got, want, len);
	}
}

/* Every single unit comes back unchanged. */
static void each_unit(void **state)
{
	for (uint32_t unit = 1; unit <= 0xffff; unit++) {
		uint8_t in[2] = { (uint8_t)unit, (uint8_t)(unit >> 8) }, out[4];
		char *text = sp_utf16_decode(in, 2, false);
		size_t len;

		assert_non_null(text);
		assert_int_equal(sp_utf16_encode(text, false, out, sizeof(out), &len), 0);
		assert_int_equal(len, 2);
		assert_memory_equal(in, out, 2);
		sp_free(text);
	}
}

static void decode_ends(void **state)
{
	static const uint8_t stored[] = { 'a', 0, 'b', 0, 0, 0, 'c', 0 };
	char *text = sp_utf16_decode(stored, sizeof(stored), false);

	assert_string_equal(text, "ab");	/* at NUL */
	sp_free(text);
	text = sp_utf16_decode(stored, 3, false);
	assert_string_equal(text, "a");		/* half a unit is no unit */
	sp_free(text);
	text = sp_utf16_decode(stored, 0, false);
	assert_string_equal(text, "");
	sp_free(text);
}

static void encode_small(void **state)
{
	uint8_t buf[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	size_t len = 0;

	assert_int_equal(sp_utf16_encode("abc", false, buf, 5, &len), -ERANGE);
	assert_int_equal(len, 6);
	assert_int_equal(buf[5], 6);
	assert_int_equal(sp_utf16_encode("abc", false, NULL, 0, &len), -ERANGE);
	assert_int_equal(len, 6);
	assert_int_equal(sp_utf16_encode("abc", false, buf, 6, &len), 0);
	assert_int_equal(buf[6], 7);
}

static const struct broken {
	const char *name, *utf8;
} broken[] = {
	{ "continuation first", "\200" },
	{ "cut short", "a\344\270" },
	{ "overlong slash", "\300\257" },
	{ "overlong three", "\340\200\257" },
	{ "past the last plane", "\364\220\200\200" },
	{ "five bytes", "\370\210\200\200\200" },
	{ "a pair in two halves", "\355\240\200\355\260\200" },
};

static void encode_broken(void **state)
{
	const struct broken *c = *state;
	uint8_t buf[32];
	size_t len;

	assert_int_equal(sp_utf16_encode(c->utf8, false, buf, sizeof(buf), &len), -EINVAL);
}

static const struct swapped {
	const char *name;
	size_t units;
	uint16_t unit[8];
	bool want;
} swapped[] = {
	{ "plain", 4, { 'b', 'a', 's', 'e' }, false },
	{ "swapped", 4, { 'b' << 8, 'a' << 8, 's' << 8, 'e' << 8 }, true },
	{ "swapped with padding", 8, { 'b' << 8, 'a' << 8 }, true },
	{ "half is not enough", 2, { 'b' << 8, 'a' }, false },
	{ "mostly", 3, { 'b' << 8, 'a' << 8, 0x4e2d }, true },
	{ "Chinese", 3, { 0x4e2d, 0x6587, 0x5b57 }, false },
	{ "nothing", 0, { 0 }, false },
};

static void looks_swapped(void **state)
{
	const struct swapped *c = *state;

	for (int big_endian = 0; big_endian < 2; big_endian++) {
		uint8_t buf[16];

		put_units(buf, c->unit, c->units, big_endian);
		assert_int_equal(sp_utf16_looks_swapped(buf, 2 * c->units, big_endian), c->want);
	}
}

static int fails(void *arg)
{
	return 1;
}

static void no_memory(void **state)
{
	sp_alloc_set_fault(fails, NULL);
	assert_null(sp_utf16_decode((const uint8_t *)"a\0b", 4, false));
	sp_alloc_set_fault(NULL, NULL);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_unit), cmocka_unit_test(decode_ends), cmocka_unit_test(encode_small),
		cmocka_unit_test(no_memory),
	};
	int failed = cmocka_run_group_tests_name("utf16", tests, NULL, NULL);

	failed += ROWS_RUN(texts, round_trip);
	failed += ROWS_RUN(broken, encode_broken);
	failed += ROWS_RUN(swapped, looks_swapped);
	return failed != 0;
}
