/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Numbers: CHS, block shapes, seconds since 2000.
 */
#include "vhd/vhd1_int.h"

#include "base/bytes.h"

/* 65535 cylinders, 16 heads; where the sector count per track changes for good. */
#define CHS_255_MAX (65535ull * 16 * 255)
#define CHS_63_MAX (65535ull * 16 * 63)

struct vhd1_chs vhd1_chs_from_sectors(uint64_t total_sectors)
{
	uint32_t t = (uint32_t)sp_min(total_sectors, CHS_255_MAX);
	uint32_t sectors, heads, tracks;

	if (t >= CHS_63_MAX) {
		sectors = 255;
		heads = 16;
		tracks = t / sectors;
	} else {
		sectors = 17;
		tracks = t / sectors;
		heads = (tracks + 1023) / 1024;
		if (heads < 4)
			heads = 4;
		/* True also for an exact multiple of 1024 tracks; every writer has this blind spot, so we keep it. */
		if (tracks >= heads * 1024 || heads > 16) {
			sectors = 31;
			heads = 16;
			tracks = t / sectors;
		}
		if (tracks >= heads * 1024) {
			sectors = 63;
			heads = 16;
			tracks = t / sectors;
		}
	}
	return (struct vhd1_chs){ (uint16_t)(tracks / heads), (uint8_t)heads, (uint8_t)sectors };
}

void vhd1_shape_block_size(struct vhd1_shape *g, uint32_t block_size)
{
	g->block_size = block_size;
	g->block_shift = (uint32_t)__builtin_ctz(block_size);
	g->data_sectors = block_size / VHD1_SECTOR;
	/* A bit per sector, padded: also blocks of fewer than eight sectors have a bitmap. */
	g->bitmap_sectors = (uint32_t)sp_div_ceil(g->data_sectors, VHD1_SECTOR * 8);
}

uint32_t vhd1_block_sectors(const struct vhd1_shape *g, uint32_t block)
{
	uint64_t left = g->size - ((uint64_t)block << g->block_shift);

	return (uint32_t)(sp_min(left, g->block_size) / VHD1_SECTOR);
}

int64_t vhd1_time_to_unix(uint32_t timestamp)
{
	return (int64_t)timestamp + VHD1_EPOCH;
}

uint32_t vhd1_time_from_unix(int64_t seconds)
{
	if (seconds < VHD1_EPOCH)
		return 0;
	return (uint32_t)sp_min((uint64_t)(seconds - VHD1_EPOCH), UINT32_MAX);
}
