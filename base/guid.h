/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_BASE_GUID_H
#define SPINDLE_BASE_GUID_H
/*
 * Sixteen bytes as they stand in the file. Two printed forms: VHDX and VMBus store the Windows
 * mixed-endian form, VHD 1 stores plain big-endian field order.
 */
#include <stdbool.h>
#include <stdint.h>

struct sp_guid {
	uint8_t b[16];
};

#ifdef __cplusplus
extern "C" {
#define SP_AT_LEAST(count)
#else
#define SP_AT_LEAST(count) static count
#endif

#define SP_GUID_TEXT 37			/* 36 characters and NUL, lower case, without braces */

bool sp_guid_is_zero(const struct sp_guid *g);
bool sp_guid_equal(const struct sp_guid *a, const struct sp_guid *b);
void sp_guid_format_le(const struct sp_guid *g, char ret_text[SP_AT_LEAST(SP_GUID_TEXT)]);	/* mixed-endian */
void sp_guid_format_be(const struct sp_guid *g, char ret_text[SP_AT_LEAST(SP_GUID_TEXT)]);
/* Accept 36 characters in any case, with or without braces. Return 0 or -EINVAL. */
int sp_guid_parse_le(const char *text, struct sp_guid *ret_guid);
int sp_guid_parse_be(const char *text, struct sp_guid *ret_guid);

#ifdef __cplusplus
}
#endif
#endif
