/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_BASE_BYTES_H
#define SPINDLE_BASE_BYTES_H
/*
 * Integers as they stand on disk or on the wire: byte arrays that only a getter can read. They are
 * aligned to one byte, so layout structs need neither a packed attribute nor an in-place swap.
 * Also the few range checks every parser needs, written so that they cannot wrap.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SP_KIB(n) ((uint64_t)(n) << 10)
#define SP_MIB(n) ((uint64_t)(n) << 20)
#define SP_GIB(n) ((uint64_t)(n) << 30)
#define SP_TIB(n) ((uint64_t)(n) << 40)
#define SP_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

typedef struct { uint8_t b[2]; } le16_t;
typedef struct { uint8_t b[4]; } le32_t;
typedef struct { uint8_t b[8]; } le64_t;
typedef struct { uint8_t b[2]; } be16_t;
typedef struct { uint8_t b[4]; } be32_t;
typedef struct { uint8_t b[8]; } be64_t;

/* The compiler folds each of these into one load or store (and a swap where needed). */
static inline uint16_t le16_get(le16_t v)
{
	return (uint16_t)(v.b[0] | v.b[1] << 8);
}

static inline uint32_t le32_get(le32_t v)
{
	return (uint32_t)v.b[0] | (uint32_t)v.b[1] << 8 | (uint32_t)v.b[2] << 16 | (uint32_t)v.b[3] << 24;
}

static inline uint64_t le64_get(le64_t v)
{
	uint64_t x = 0;

	for (int i = 7; i >= 0; i--)
		x = x << 8 | v.b[i];
	return x;
}

static inline uint16_t be16_get(be16_t v)
{
	return (uint16_t)(v.b[0] << 8 | v.b[1]);
}

static inline uint32_t be32_get(be32_t v)
{
	return (uint32_t)v.b[0] << 24 | (uint32_t)v.b[1] << 16 | (uint32_t)v.b[2] << 8 | (uint32_t)v.b[3];
}

static inline uint64_t be64_get(be64_t v)
{
	uint64_t x = 0;

	for (int i = 0; i < 8; i++)
		x = x << 8 | v.b[i];
	return x;
}

static inline le16_t le16_make(uint16_t x)
{
	return (le16_t){ { (uint8_t)x, (uint8_t)(x >> 8) } };
}

static inline le32_t le32_make(uint32_t x)
{
	return (le32_t){ { (uint8_t)x, (uint8_t)(x >> 8), (uint8_t)(x >> 16), (uint8_t)(x >> 24) } };
}

static inline le64_t le64_make(uint64_t x)
{
	le64_t v;

	for (int i = 0; i < 8; i++)
		v.b[i] = (uint8_t)(x >> (8 * i));
	return v;
}

static inline be16_t be16_make(uint16_t x)
{
	return (be16_t){ { (uint8_t)(x >> 8), (uint8_t)x } };
}

static inline be32_t be32_make(uint32_t x)
{
	return (be32_t){ { (uint8_t)(x >> 24), (uint8_t)(x >> 16), (uint8_t)(x >> 8), (uint8_t)x } };
}

static inline be64_t be64_make(uint64_t x)
{
	be64_t v;

	for (int i = 0; i < 8; i++)
		v.b[i] = (uint8_t)(x >> (56 - 8 * i));
	return v;
}

/* [offset, offset + len) lies within [0, limit]; true for an empty range at limit. */
static inline bool sp_range_ok(uint64_t offset, uint64_t len, uint64_t limit)
{
	return offset <= limit && len <= limit - offset;
}

/* Two half-open ranges share a byte. Ranges that would wrap are cut at 2^64 - 1. */
static inline bool sp_ranges_overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	if (a_len == 0 || b_len == 0)
		return false;
	return a <= b ? b - a < a_len : a - b < b_len;
}

static inline bool sp_is_pow2(uint64_t x)
{
	return x != 0 && (x & (x - 1)) == 0;
}

/* @unit is a power of two. sp_align_up() wraps to 0 near 2^64: check with sp_align_up_ok() first. */
static inline uint64_t sp_align_down(uint64_t x, uint64_t unit)
{
	return x & ~(unit - 1);
}

static inline uint64_t sp_align_up(uint64_t x, uint64_t unit)
{
	return (x + unit - 1) & ~(unit - 1);
}

static inline bool sp_align_up_ok(uint64_t x, uint64_t unit)
{
	return x <= UINT64_MAX - (unit - 1);
}

static inline bool sp_is_aligned(uint64_t x, uint64_t unit)
{
	return (x & (unit - 1)) == 0;
}

/* ceil(a / b) without the usual overflow near 2^64; @b > 0. */
static inline uint64_t sp_div_ceil(uint64_t a, uint64_t b)
{
	return a / b + (a % b != 0);
}

static inline uint64_t sp_min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t sp_max(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

#endif
