/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_BASE_CRC32C_H
#define SPINDLE_BASE_CRC32C_H
/*
 * CRC-32C (Castagnoli), initial value and final XOR all ones, by ISA-L's run-time dispatch.
 */
#include <stddef.h>
#include <stdint.h>

uint32_t sp_crc32c(const void *buf, size_t len);
/* As above with the four bytes at @skip taken as zero: how VHDX structures checksum themselves. */
uint32_t sp_crc32c_skip(const void *buf, size_t len, size_t skip);

#endif
