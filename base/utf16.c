/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/utf16.h"

#include <errno.h>

#include "base/alloc.h"
#include "base/utf8.h"

static uint16_t unit_get(const uint8_t *p, bool big_endian)
{
	return (uint16_t)(big_endian ? p[0] << 8 | p[1] : p[1] << 8 | p[0]);
}

static void unit_put(uint8_t *p, bool big_endian, uint16_t unit)
{
	p[big_endian ? 0 : 1] = (uint8_t)(unit >> 8);
	p[big_endian ? 1 : 0] = (uint8_t)unit;
}

static bool is_high(uint32_t unit)
{
	return unit >= 0xd800 && unit <= 0xdbff;
}

static bool is_low(uint32_t unit)
{
	return unit >= 0xdc00 && unit <= 0xdfff;
}

char *sp_utf16_decode(const uint8_t *bytes, size_t len, bool big_endian)
{
	size_t units = len / 2, at = 0;
	char *text;

	if (units > (SIZE_MAX - 1) / 3)
		return NULL;
	text = sp_alloc(units * 3 + 1);		/* a unit is three bytes at most; a pair four */
	if (!text)
		return NULL;
	for (size_t i = 0; i < units; i++) {
		uint32_t cp = unit_get(bytes + 2 * i, big_endian);

		if (cp == 0)
			break;
		if (is_high(cp) && i + 1 < units) {
			uint32_t low = unit_get(bytes + 2 * i + 2, big_endian);

			if (is_low(low)) {
				cp = 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00);
				i++;
			}
		}
		at += sp_utf8_put(text + at, cp);
	}
	text[at] = '\0';
	return text;
}

/* Units of @cp: one or two. */
static unsigned to_units(uint32_t cp, uint16_t units[static 2])
{
	if (cp < 0x10000) {
		units[0] = (uint16_t)cp;
		return 1;
	}
	units[0] = (uint16_t)(0xd800 + ((cp - 0x10000) >> 10));
	units[1] = (uint16_t)(0xdc00 + (cp & 0x3ff));
	return 2;
}

int sp_utf16_encode(const char *utf8, bool big_endian, uint8_t *buf, size_t size, size_t *ret_len)
{
	size_t at = 0;
	uint32_t cp, before = 0;

	for (; *utf8; before = cp) {
		unsigned taken = sp_utf8_next(utf8, &cp);
		uint16_t units[2];

		/* Two halves written apart would come back as one character: not the same text any more. */
		if (taken == 0 || (is_high(before) && is_low(cp)))
			return -EINVAL;
		utf8 += taken;
		for (unsigned i = 0, n = to_units(cp, units); i < n; i++, at += 2) {
			if (at + 2 <= size)
				unit_put(buf + at, big_endian, units[i]);
		}
	}
	*ret_len = at;
	return at <= size ? 0 : -ERANGE;
}

/*
 * Paths are mostly ASCII, whose high byte is zero; read in the wrong order, the low byte is. Text without any such unit
 * (Chinese, say) is taken as declared.
 */
bool sp_utf16_looks_swapped(const uint8_t *bytes, size_t len, bool big_endian)
{
	size_t units = len / 2, swapped = 0;

	for (size_t i = 0; i < units; i++) {
		uint16_t unit = unit_get(bytes + 2 * i, big_endian);

		if (unit == 0) {		/* terminator or padding */
			units = i;
			break;
		}
		if ((unit & 0xff) == 0)
			swapped++;
	}
	return swapped > units / 2;
}
