/* SPDX-License-Identifier: BSD-2-Clause */
#include <ctype.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/guid.h"
#include "tests/unit/rows.h"

/* Names and stored bytes as the format notes list them; the text is what Windows prints. */
static const struct known {
	const char *name;
	const char *text;
	struct sp_guid stored;
} known[] = {
	{ "BAT region", "2dc27766-f623-4200-9d64-115e9bfd4a08",
	  { { 0x66, 0x77, 0xC2, 0x2D, 0x23, 0xF6, 0x00, 0x42, 0x9D, 0x64, 0x11, 0x5E, 0x9B, 0xFD, 0x4A, 0x08 } } },
	{ "metadata region", "8b7ca206-4790-4b9a-b8fe-575f050f886e",
	  { { 0x06, 0xA2, 0x7C, 0x8B, 0x90, 0x47, 0x9A, 0x4B, 0xB8, 0xFE, 0x57, 0x5F, 0x05, 0x0F, 0x88, 0x6E } } },
	{ "file parameters", "caa16737-fa36-4d43-b3b6-33f0aa44e76b",
	  { { 0x37, 0x67, 0xA1, 0xCA, 0x36, 0xFA, 0x43, 0x4D, 0xB3, 0xB6, 0x33, 0xF0, 0xAA, 0x44, 0xE7, 0x6B } } },
	{ "parent locator", "a8d35f2d-b30b-454d-abf7-d3d84834ab0c",
	  { { 0x2D, 0x5F, 0xD3, 0xA8, 0x0B, 0xB3, 0x4D, 0x45, 0xAB, 0xF7, 0xD3, 0xD8, 0x48, 0x34, 0xAB, 0x0C } } },
	{ "VHDX locator type", "b04aefb7-d19e-4a81-b789-25b8e9445913",
	  { { 0xB7, 0xEF, 0x4A, 0xB0, 0x9E, 0xD1, 0x81, 0x4A, 0xB7, 0x89, 0x25, 0xB8, 0xE9, 0x44, 0x59, 0x13 } } },
};

static void mixed_endian(void **state)
{
	const struct known *c = *state;
	char text[SP_GUID_TEXT], upper[SP_GUID_TEXT + 2] = "{";
	struct sp_guid g;

	sp_guid_format_le(&c->stored, text);
	assert_string_equal(text, c->text);
	assert_int_equal(sp_guid_parse_le(text, &g), 0);
	assert_true(sp_guid_equal(&g, &c->stored));

	for (int i = 0; i < 36; i++)
		upper[1 + i] = (char)toupper((unsigned char)text[i]);
	upper[37] = '}';
	memset(&g, 0, sizeof(g));
	assert_int_equal(sp_guid_parse_le(upper, &g), 0);
	assert_true(sp_guid_equal(&g, &c->stored));
}

static void big_endian(void **state)
{
	static const char want[] = "00010203-0405-0607-0809-0a0b0c0d0e0f";
	struct sp_guid g, back;
	char text[SP_GUID_TEXT];

	for (uint8_t i = 0; i < 16; i++)
		g.b[i] = i;
	sp_guid_format_be(&g, text);
	assert_string_equal(text, want);
	assert_int_equal(sp_guid_parse_be(want, &back), 0);
	assert_true(sp_guid_equal(&g, &back));
	assert_int_equal(sp_guid_parse_le(want, &back), 0);
	assert_false(sp_guid_equal(&g, &back));
}

static void zero(void **state)
{
	struct sp_guid g = { { 0 } };

	assert_true(sp_guid_is_zero(&g));
	g.b[15] = 1;
	assert_false(sp_guid_is_zero(&g));
}

static const struct bad {
	const char *name, *text;
} bad[] = {
	{ "nothing", "" },
	{ "one digit short", "2dc27766-f623-4200-9d64-115e9bfd4a0" },
	{ "one digit long", "2dc27766-f623-4200-9d64-115e9bfd4a088" },
	{ "dash missing", "2dc27766f623-4200-9d64-115e9bfd4a0800" },
	{ "dash moved", "2dc2776-6f623-4200-9d64-115e9bfd4a08" },
	{ "not a digit", "2dc27766-f623-4200-9d64-115e9bfd4ag8" },
	{ "brace opened only", "{2dc27766-f623-4200-9d64-115e9bfd4a08" },
	{ "brace closed only", "2dc27766-f623-4200-9d64-115e9bfd4a08}" },
	{ "text behind", "2dc27766-f623-4200-9d64-115e9bfd4a08 " },
	{ "blank in front", " 2dc27766-f623-4200-9d64-115e9bfd4a08" },
};

static void refused(void **state)
{
	const struct bad *c = *state;
	struct sp_guid g, before;

	memset(&before, 0x77, sizeof(before));
	g = before;
	assert_int_equal(sp_guid_parse_le(c->text, &g), -EINVAL);
	assert_int_equal(sp_guid_parse_be(c->text, &g), -EINVAL);
	assert_true(sp_guid_equal(&g, &before));	/* outputs are written on success only */
}

int main(void)
{
	static const struct CMUnitTest tests[] = { cmocka_unit_test(big_endian), cmocka_unit_test(zero) };
	int failed = cmocka_run_group_tests_name("guid", tests, NULL, NULL);

	failed += ROWS_RUN(known, mixed_endian);
	failed += ROWS_RUN(bad, refused);
	return failed != 0;
}
