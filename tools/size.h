/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TOOLS_SIZE_H
#define SPINDLE_TOOLS_SIZE_H
/*
 * Sizes as people write and read them.
 */
#include <stdint.h>

/* "10G", "1.5T", "512": digits, an optional exact fraction, then b, K, M, G, T, P or E (powers of 1024, any case).
 * Returns 0, -EINVAL for other text or a fraction of a byte, -ERANGE beyond 2^63 - 1. */
int tool_size_parse(const char *text, uint64_t *ret_bytes);

#define TOOL_SIZE_TEXT 32
/* "1.5 GiB", three significant digits; bytes below 1 KiB as "17 B". Returns @ret_text. */
const char *tool_size_format(uint64_t bytes, char ret_text[static TOOL_SIZE_TEXT]);

#endif
