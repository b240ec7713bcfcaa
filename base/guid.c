/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/guid.h"

#include <errno.h>
#include <string.h>

/* Which stored byte is printed next. The mixed-endian form swaps the first three fields. */
static const uint8_t order_le[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
static const uint8_t order_be[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };

/* The i-th printed byte has a dash in front. */
static bool dash_before(unsigned i)
{
	return i == 4 || i == 6 || i == 8 || i == 10;
}

bool sp_guid_is_zero(const struct sp_guid *g)
{
	static const struct sp_guid zero;

	return sp_guid_equal(g, &zero);
}

bool sp_guid_equal(const struct sp_guid *a, const struct sp_guid *b)
{
	return memcmp(a->b, b->b, sizeof(a->b)) == 0;
}

static void format(const struct sp_guid *g, const uint8_t order[static 16], char *text)
{
	static const char digits[] = "0123456789abcdef";

	for (unsigned i = 0; i < 16; i++) {
		uint8_t byte = g->b[order[i]];

		if (dash_before(i))
			*text++ = '-';
		*text++ = digits[byte >> 4];
		*text++ = digits[byte & 15];
	}
	*text = '\0';
}

void sp_guid_format_le(const struct sp_guid *g, char ret_text[static SP_GUID_TEXT])
{
	format(g, order_le, ret_text);
}

void sp_guid_format_be(const struct sp_guid *g, char ret_text[static SP_GUID_TEXT])
{
	format(g, order_be, ret_text);
}

/* Independent of the locale; -1 for anything else, NUL included. */
static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int parse(const char *text, const uint8_t order[static 16], struct sp_guid *ret_guid)
{
	bool braces = *text == '{';
	struct sp_guid g;

	text += braces;
	for (unsigned i = 0; i < 16; i++) {
		int high, low;

		if (dash_before(i) && *text++ != '-')
			return -EINVAL;
		high = hex_digit(text[0]);
		low = high < 0 ? -1 : hex_digit(text[1]);
		if (low < 0)
			return -EINVAL;
		g.b[order[i]] = (uint8_t)(high << 4 | low);
		text += 2;
	}
	if (strcmp(text, braces ? "}" : "") != 0)
		return -EINVAL;
	*ret_guid = g;
	return 0;
}

int sp_guid_parse_le(const char *text, struct sp_guid *ret_guid)
{
	return parse(text, order_le, ret_guid);
}

int sp_guid_parse_be(const char *text, struct sp_guid *ret_guid)
{
	return parse(text, order_be, ret_guid);
}
