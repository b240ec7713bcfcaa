/* SPDX-License-Identifier: BSD-2-Clause */
#include "tools/size.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const char units[] = "KMGTPE";

/* Shift of the unit letter at the end of @text, or -1. */
static int unit_shift(const char *text)
{
	const char *unit;

	if (!*text || ((*text == 'b' || *text == 'B') && !text[1]))
		return 0;
	unit = text[1] ? NULL : strchr(units, toupper((unsigned char)*text));
	return unit ? 10 * (int)(unit - units + 1) : -1;
}

int tool_size_parse(const char *text, uint64_t *ret_bytes)
{
	unsigned __int128 digits = 0, scale = 1, bytes;
	const char *p = text;
	int shift;

	if (!isdigit((unsigned char)*p))
		return -EINVAL;
	for (bool fraction = false; isdigit((unsigned char)*p) || (*p == '.' && !fraction); p++) {
		if (*p == '.') {
			fraction = true;
			if (!isdigit((unsigned char)p[1]))
				return -EINVAL;
			continue;
		}
		digits = digits * 10 + (unsigned)(*p - '0');
		if (fraction)
			scale *= 10;
		if (digits > UINT64_MAX || scale > UINT64_MAX)
			return -ERANGE;
	}
	shift = unit_shift(p);
	if (shift < 0)
		return -EINVAL;
	bytes = digits << shift;	/* fits: both sides below 2^64 */
	if (bytes % scale != 0)
		return -EINVAL;
	if (bytes / scale > INT64_MAX)
		return -ERANGE;
	*ret_bytes = (uint64_t)(bytes / scale);
	return 0;
}

const char *tool_size_format(uint64_t bytes, char ret_text[static TOOL_SIZE_TEXT])
{
	double value = (double)bytes;
	int unit = -1;

	while (value >= 1000 && unit < (int)sizeof(units) - 2) {
		value /= 1024;
		unit++;
	}
	if (unit < 0)
		snprintf(ret_text, TOOL_SIZE_TEXT, "%.0f B", value);
	else
		snprintf(ret_text, TOOL_SIZE_TEXT, "%.3g %ciB", value, units[unit]);
	return ret_text;
}
