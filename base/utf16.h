/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_BASE_UTF16_H
#define SPINDLE_BASE_UTF16_H
/*
 * UTF-16 text of both byte orders as the formats store it. Unpaired surrogates, legal on Windows, travel as
 * their three-byte (WTF-8) form and come back unchanged.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* @len bytes (even part used), ends early at a NUL unit. Caller frees with sp_free(). NULL: no memory. */
char *sp_utf16_decode(const uint8_t *bytes, size_t len, bool big_endian);
/* Writes without terminator. Returns 0, -EINVAL for broken UTF-8, -ERANGE when @size is too small.
 * @ret_len: bytes written (or needed on -ERANGE). */
int sp_utf16_encode(const char *utf8, bool big_endian, uint8_t *buf, size_t size, size_t *ret_len);
/* More than half of the units look byte-swapped: VHD 1 locators are little-endian though the file is not. */
bool sp_utf16_looks_swapped(const uint8_t *bytes, size_t len, bool big_endian);

#endif
