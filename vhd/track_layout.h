/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_TRACK_LAYOUT_H
#define SPINDLE_VHD_TRACK_LAYOUT_H
/*
 * The side-car file as it stands on disk, docs/track-format.md. Little-endian.
 *
 *   0	      header, copy 0
 *   4096     header, copy 1: the one with the higher sequence number counts
 *   8192...  pages of 4096: table of points, bitmaps; only what a header names is in use
 */
#include <assert.h>
#include <stddef.h>

#include "base/bytes.h"
#include "base/guid.h"

#define TRACK_PAGE 4096u
#define TRACK_HEADER_SIZE 512u		/* one sector: it is written whole or not at all */
#define TRACK_BODY (2 * TRACK_PAGE)
#define TRACK_VERSION 1u
#define TRACK_REGIONS_MAX 1024u
#define TRACK_SHIFT_MIN 16u		/* blocks of 64 KiB ... */
#define TRACK_SHIFT_MAX 40u
#define TRACK_BLOCKS_MAX (UINT64_C(1) << 24)	/* ... unless there would be more than so many */

#define TRACK_SIGNATURE "SPTRACK\n"

struct track_extent_disk {
	le64_t	offset;		/* multiple of 4096; 0 with length 0: all bits clear */
	le32_t	length;		/* bytes */
	le32_t	checksum;	/* CRC-32C of them */
};
static_assert(sizeof(struct track_extent_disk) == 16, "track-format.md");

struct track_header_disk {
	uint8_t	signature[8];
	le32_t	checksum;	/* CRC-32C of the 512 bytes, this field taken as zero */
	le32_t	version;
	le64_t	sequence;	/* copy = sequence % 2 */
	le64_t	disk_size;
	uint8_t	block_shift, region_shift;
	uint8_t	clean;		/* 1: the stamp below is of the closed image; 0: it is, or was, being written */
	uint8_t	why;		/* enum vhd_track_why of the current interval */
	le32_t	points;
	le32_t	format;		/* enum vhd_format_id */
	uint8_t	reserved1[4];
	struct sp_guid image;	/* VHDX: DataWriteGuid of the image when this was written */
	le64_t	inode, born, size, modified, changed;	/* of the image's file; 0 where not known */
	le64_t	parents;	/* digest of the files below the leaf; only with clean */
	struct track_extent_disk table, current;
	le64_t	doubt[TRACK_REGIONS_MAX / 64];	/* regions that may have changes beyond the current bitmap */
	uint8_t	reserved2[240];
};
static_assert(sizeof(struct track_header_disk) == TRACK_HEADER_SIZE, "track-format.md");
static_assert(offsetof(struct track_header_disk, image) == 48, "track-format.md");
static_assert(offsetof(struct track_header_disk, table) == 112, "track-format.md");

/* One point, and what changed between it and the next. The last one's changes are the header's current bitmap. */
struct track_point_disk {
	uint8_t	name[64];	/* zero-terminated */
	struct sp_guid id;
	le64_t	time;		/* Unix seconds */
	struct track_extent_disk bits;
	le64_t	blocks;		/* bits in the bitmap */
	uint8_t	block_shift;
	uint8_t	why;
	uint8_t	reserved[14];
};
static_assert(sizeof(struct track_point_disk) == 128, "track-format.md");

#endif
