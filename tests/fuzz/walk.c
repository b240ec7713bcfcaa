/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Goes over an opened disk or image in a bounded number of steps, whatever size it claims, and holds every answer
 * against what the contract promises.
 */
#include <inttypes.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "tests/fuzz/fuzz.h"

#define STEPS 200u
#define PIECE 4096u
#define MAP_MAX SP_MIB(64)	/* a longer question about an empty disk is a longer walk inside the engine */

/* After the first stretch of the disk: places around every power of two and at the end. */
static uint64_t next_place(uint64_t at, unsigned step, uint64_t size)
{
	if (step < STEPS)
		return at;
	if (step < STEPS + 64)
		return ((uint64_t)1 << (step - STEPS)) - (step & 1);
	return size - sp_min(size, (uint64_t)(STEPS + 72 - step) * 512 - 1);
}

#define STEPS_ALL (STEPS + 72)

static void mix(uint64_t *hash, uint64_t v)
{
	*hash = (*hash ^ v) * 0x100000001b3;
}

static void read_piece(struct vhd_disk *d, uint64_t offset, uint64_t len, uint64_t *hash)
{
	static uint8_t buf[PIECE];
	size_t n = (size_t)sp_min(len, sizeof(buf));
	int r = vhd_disk_read(d, buf, n, offset);

	mix(hash, (uint64_t)(int64_t)r);
	if (r == 0)
		mix(hash, sp_crc32c(buf, n));
}

void fz_walk(struct vhd_disk *d, uint64_t *ret_hash)
{
	uint64_t size = vhd_disk_size(d), at = 0, hash = 0xcbf29ce484222325;

	for (unsigned step = 0; step < STEPS_ALL; step++) {
		struct vhd_range range;
		int r;

		at = next_place(at, step, size);
		if (at >= size)
			continue;
		r = vhd_disk_map(d, at, sp_min(size - at, MAP_MAX), &range);
		mix(&hash, (uint64_t)(int64_t)r);
		if (r < 0) {
			read_piece(d, at, 512 - at % 512, &hash);
			at += 65536;
			continue;
		}
		fz_check(range.offset == at && range.len > 0 && range.len <= size - at,
			 "map of %" PRIu64 " answers %" PRIu64 " + %" PRIu64, at, range.offset, range.len);
		fz_check(range.layer < vhd_disk_layers(d), "map names layer %u of %u", range.layer, vhd_disk_layers(d));
		mix(&hash, at);
		mix(&hash, range.kind);
		read_piece(d, at, range.len, &hash);
		if (range.len > PIECE)
			read_piece(d, at + range.len - PIECE, PIECE, &hash);
		at += range.len;
	}
	*ret_hash = hash;
}

void fz_map_image(struct vhd_image *img)
{
	uint64_t at = 0, file_size;

	fz_check(store_size(img->store, &file_size) == 0, "the store has no size");
	for (unsigned step = 0; step < STEPS_ALL; step++) {
		struct vhd_place p = { 0 };

		at = next_place(at, step, img->size);
		if (at >= img->size)
			continue;
		if (img->format->map(img, at, img->size - at, &p) < 0) {
			at += 65536;
			continue;
		}
		fz_check(p.len > 0 && p.len <= img->size - at, "place of %" PRIu64 " has %" PRIu64 " bytes", at, p.len);
		fz_check(p.where != VHD_WHERE_PARENT || img->has_parent, "%" PRIu64 " belongs to no parent", at);
		fz_check(p.where != VHD_WHERE_DATA || sp_range_ok(p.file_offset, p.len, file_size),
			 "%" PRIu64 " is at %" PRIu64 " + %" PRIu64 ", past the end of the file at %" PRIu64, at,
			 p.file_offset, p.len, file_size);
		at += p.len;
	}
}
