/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_BASE_UTF8_H
#define SPINDLE_BASE_UTF8_H
/*
 * One code point of UTF-8 at a time. Surrogates pass (WTF-8); a caller that wants strict UTF-8 tests for them.
 */
#include <stdbool.h>
#include <stdint.h>

static inline bool sp_is_surrogate(uint32_t cp)
{
	return cp >= 0xd800 && cp <= 0xdfff;
}

/* Bytes taken from NUL-terminated @s, 1 to 4, never past its NUL; 0 for a malformed or overlong sequence. */
static inline unsigned sp_utf8_next(const char *s, uint32_t *ret_cp)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	uint8_t lead = (uint8_t)s[0];
	unsigned len = lead < 0x80 ? 1 : lead >> 5 == 6 ? 2 : lead >> 4 == 14 ? 3 : lead >> 3 == 30 ? 4 : 0;
	uint32_t cp = len == 1 ? lead : lead & (0x7fu >> len);

	if (len == 0)
		return 0;
	for (unsigned i = 1; i < len; i++) {
		uint8_t next = (uint8_t)s[i];

		if (next >> 6 != 2)
			return 0;
		cp = cp << 6 | (next & 0x3f);
	}
	if (cp < least[len] || cp > 0x10ffff)
		return 0;
	*ret_cp = cp;
	return len;
}

/* Writes 1 to 4 bytes, no NUL. */
static inline unsigned sp_utf8_put(char *buf, uint32_t cp)
{
	if (cp < 0x80) {
		buf[0] = (char)cp;
		return 1;
	}
	if (cp < 0x800) {
		buf[0] = (char)(0xc0 | cp >> 6);
		buf[1] = (char)(0x80 | (cp & 0x3f));
		return 2;
	}
	if (cp < 0x10000) {
		buf[0] = (char)(0xe0 | cp >> 12);
		buf[1] = (char)(0x80 | (cp >> 6 & 0x3f));
		buf[2] = (char)(0x80 | (cp & 0x3f));
		return 3;
	}
	buf[0] = (char)(0xf0 | cp >> 18);
	buf[1] = (char)(0x80 | (cp >> 12 & 0x3f));
	buf[2] = (char)(0x80 | (cp >> 6 & 0x3f));
	buf[3] = (char)(0x80 | (cp & 0x3f));
	return 4;
}

#endif
