/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/bitmap.h"

#include <string.h>

#include "base/bytes.h"
#include "base/seed.h"

/*
 * Up to 64 bits of the map from @bit on. The first of them is the lowest bit of @w, or the highest when @msb_first;
 * what lies behind @avail is undefined. Only bytes that hold a bit below @limit are read.
 */
struct window {
	uint64_t w;
	unsigned avail;
};

static struct window window_at(const uint8_t *map, uint64_t bit, uint64_t limit, bool msb_first)
{
	uint64_t at = bit / 8, bytes = sp_min(8, limit / 8 + (limit % 8 != 0) - at);
	unsigned skip = bit % 8;
	le64_t raw = { { 0 } };
	uint64_t w;

	if (bytes == 8)
		memcpy(&raw, map + at, 8);	/* constant length: one load */
	else
		memcpy(&raw, map + at, bytes);
	w = le64_get(raw);
	return (struct window){
		.w = msb_first ? __builtin_bswap64(w) << skip : w >> skip,
		.avail = (unsigned)sp_min(bytes * 8 - skip, SP_SEED_BUG(BITMAP_RUN_PAST_LIMIT) ? 64 : limit - bit),
	};
}

bool sp_bit_get(const uint8_t *map, uint64_t bit, bool msb_first)
{
	unsigned in_byte = bit % 8;

	return map[bit / 8] >> (msb_first ? 7 - in_byte : in_byte) & 1;
}

uint64_t sp_bits_run(const uint8_t *map, uint64_t from, uint64_t limit, bool msb_first)
{
	uint64_t flip = sp_bit_get(map, from, msb_first) ? UINT64_MAX : 0, bit = from;

	while (bit < limit) {
		struct window v = window_at(map, bit, limit, msb_first);
		uint64_t other = v.w ^ flip;	/* ones where the run is over */
		unsigned same = 64;

		if (other)
			same = (unsigned)(msb_first ? __builtin_clzll(other) : __builtin_ctzll(other));
		if (same < v.avail) {
			bit += same;
			break;
		}
		bit += v.avail;
	}
	return bit - from;
}

uint64_t sp_bits_count(const uint8_t *map, uint64_t from, uint64_t count, bool msb_first)
{
	uint64_t limit = from + count, bit = from, ones = 0;

	while (bit < limit) {
		struct window v = window_at(map, bit, limit, msb_first);
		unsigned beyond = 64 - v.avail;

		ones += (unsigned)__builtin_popcountll(msb_first ? v.w >> beyond : v.w << beyond);
		bit += v.avail;
	}
	return ones;
}

/* Bits [from, to) of one byte; @to may be 8. */
static uint8_t byte_mask(unsigned from, unsigned to, bool msb_first)
{
	return (uint8_t)(msb_first ? 0xff >> from & ~(0xff >> to) : 0xff << from & ~(0xff << to));
}

static void byte_fill(uint8_t *byte, uint8_t mask, bool value)
{
	*byte = (uint8_t)(value ? *byte | mask : *byte & ~mask);
}

static void bits_fill(uint8_t *map, uint64_t from, uint64_t count, bool msb_first, bool value)
{
	uint64_t to = from + count, first = from / 8, last = to / 8;

	if (count == 0)
		return;
	if (first == last) {
		byte_fill(map + first, byte_mask(from % 8, to % 8, msb_first), value);
		return;
	}
	byte_fill(map + first, byte_mask(from % 8, 8, msb_first), value);
	memset(map + first + 1, value ? 0xff : 0, last - first - 1);
	if (to % 8)		/* otherwise byte @last is not ours and may not even exist */
		byte_fill(map + last, byte_mask(0, to % 8, msb_first), value);
}

void sp_bits_set(uint8_t *map, uint64_t from, uint64_t count, bool msb_first)
{
	bits_fill(map, from, count, msb_first, true);
}

void sp_bits_clear(uint8_t *map, uint64_t from, uint64_t count, bool msb_first)
{
	bits_fill(map, from, count, msb_first, false);
}
