/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_BASE_BITMAP_H
#define SPINDLE_BASE_BITMAP_H
/*
 * Bit runs in byte arrays. VHDX counts bits from the least significant end of each byte, VHD 1 from
 * the most significant; @msb_first picks.
 */
#include <stdbool.h>
#include <stdint.h>

bool sp_bit_get(const uint8_t *map, uint64_t bit, bool msb_first);
void sp_bits_set(uint8_t *map, uint64_t from, uint64_t count, bool msb_first);
void sp_bits_clear(uint8_t *map, uint64_t from, uint64_t count, bool msb_first);
/* Length of the run of equal bits that starts at @from, at most @limit - @from; @from < @limit. */
uint64_t sp_bits_run(const uint8_t *map, uint64_t from, uint64_t limit, bool msb_first);
uint64_t sp_bits_count(const uint8_t *map, uint64_t from, uint64_t count, bool msb_first);	/* set bits */

#endif
