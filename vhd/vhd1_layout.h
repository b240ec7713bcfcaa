/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_VHD1_LAYOUT_H
#define SPINDLE_VHD_VHD1_LAYOUT_H
/*
 * VHD 1.0 as it stands on disk: big-endian but for the text of parent locators. Layout only, no logic.
 *
 *	fixed:		data (exactly the virtual size) | footer (512)
 *	dynamic and
 *	differencing:	footer copy (512) | header (1024) | BAT | [locator texts] | blocks ... | footer (512)
 *
 * Only the two footers have fixed places. The footer names the header, the header the BAT and the locator texts, the
 * BAT the blocks; a block is its sector bitmap and then its data. File addresses in the BAT count sectors.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/guid.h"

#define VHD1_SECTOR 512u
#define VHD1_EPOCH 946684800	/* 2000-01-01 00:00:00 UTC in Unix seconds */

/* ---- footer, and its copy at offset 0 ------------------------------------------------------------ */

#define VHD1_COOKIE "conectix"
#define VHD1_COOKIE_DISABLED "v_poison"		/* XenServer: do not use this image */
#define VHD1_KILLED_BYTE 0xc7			/* tapdisk fills the end footer with it while it writes */
#define VHD1_VERSION 0x00010000u
#define VHD1_FEATURE_TEMPORARY 0x1u
#define VHD1_FEATURE_RESERVED 0x2u		/* always set */
#define VHD1_NOWHERE UINT64_MAX			/* data offset of fixed images, next structure of headers */

#define VHD1_TYPE_FIXED 2u
#define VHD1_TYPE_DYNAMIC 3u
#define VHD1_TYPE_DIFFERENCING 4u

struct vhd1_footer_disk {
	uint8_t cookie[8];		/* "conectix" */
	be32_t features;
	be32_t version;			/* 16.16 */
	be64_t data_offset;		/* of the dynamic header; fixed: all ones */
	be32_t timestamp;		/* seconds since 2000 */
	uint8_t creator[4];
	be32_t creator_version;		/* 16.16 */
	uint8_t host_os[4];
	be64_t original_size;		/* bytes, informational */
	be64_t current_size;		/* bytes: the virtual size */
	be16_t cylinders;
	uint8_t heads, sectors_per_track;
	be32_t type;			/* VHD1_TYPE_* */
	be32_t checksum;		/* inverted sum of all bytes with this field taken as zero */
	struct sp_guid unique_id;	/* printed in big-endian field order */
	uint8_t saved_state;		/* 1: a saved virtual machine depends on this disk */
	uint8_t reserved[427];		/* first byte: XenServer's "hidden" */
};
static_assert(sizeof(struct vhd1_footer_disk) == VHD1_SECTOR, "VHD 1.0 hard disk footer");
static_assert(offsetof(struct vhd1_footer_disk, current_size) == 48, "VHD 1.0 hard disk footer");
static_assert(offsetof(struct vhd1_footer_disk, checksum) == 64, "VHD 1.0 hard disk footer");
static_assert(offsetof(struct vhd1_footer_disk, saved_state) == 84, "VHD 1.0 hard disk footer");

/* ---- dynamic header ------------------------------------------------------------------------------ */

#define VHD1_HEADER_COOKIE "cxsparse"
#define VHD1_LOCATORS 8u
#define VHD1_NAME_BYTES 512u

#define VHD1_CODE(a, b, c, d) ((uint32_t)(a) << 24 | (uint32_t)(b) << 16 | (uint32_t)(c) << 8 | (uint32_t)(d))
#define VHD1_CODE_NONE 0u
#define VHD1_CODE_WI2R VHD1_CODE('W', 'i', '2', 'r')	/* 8-bit relative Windows path, deprecated */
#define VHD1_CODE_WI2K VHD1_CODE('W', 'i', '2', 'k')	/* 8-bit absolute Windows path, deprecated */
#define VHD1_CODE_W2RU VHD1_CODE('W', '2', 'r', 'u')	/* UTF-16LE relative Windows path */
#define VHD1_CODE_W2KU VHD1_CODE('W', '2', 'k', 'u')	/* UTF-16LE absolute Windows path */
#define VHD1_CODE_MAC  VHD1_CODE('M', 'a', 'c', ' ')	/* Mac OS alias, opaque */
#define VHD1_CODE_MACX VHD1_CODE('M', 'a', 'c', 'X')	/* file: URL, UTF-8 */
#define VHD1_CODE_MAC_SLIP  0x4d163220u			/* VirtualBox's spelling of the two Mac codes */
#define VHD1_CODE_MACX_SLIP 0x4d163258u

struct vhd1_locator_disk {
	be32_t code;
	be32_t data_space;		/* below 512: sectors; else bytes */
	be32_t data_length;		/* bytes of text, no terminator */
	be32_t reserved;
	be64_t data_offset;		/* absolute */
};
static_assert(sizeof(struct vhd1_locator_disk) == 24, "VHD 1.0 parent locator entry");

struct vhd1_header_disk {
	uint8_t cookie[8];		/* "cxsparse" */
	be64_t next;			/* all ones */
	be64_t bat_offset;
	be32_t version;			/* 16.16 */
	be32_t max_entries;		/* may exceed what the size needs */
	be32_t block_size;		/* data bytes of a block */
	be32_t checksum;
	struct sp_guid parent_id;
	be32_t parent_timestamp;	/* mtime of the parent file, seconds since 2000 */
	be32_t reserved;
	uint8_t parent_name[VHD1_NAME_BYTES];	/* UTF-16BE, NUL padded */
	struct vhd1_locator_disk locator[VHD1_LOCATORS];
	uint8_t reserved2[256];
};
static_assert(sizeof(struct vhd1_header_disk) == 1024, "VHD 1.0 dynamic disk header");
static_assert(offsetof(struct vhd1_header_disk, parent_id) == 40, "VHD 1.0 dynamic disk header");
static_assert(offsetof(struct vhd1_header_disk, locator) == 576, "VHD 1.0 dynamic disk header");

/* What changes with an identity or a size all lies in the first sector of the header, which a disk writes whole. */
static_assert(offsetof(struct vhd1_header_disk, parent_timestamp) < VHD1_SECTOR, "one sector");

/* ---- BAT ----------------------------------------------------------------------------------------- */

#define VHD1_UNUSED 0xffffffffu			/* entry of a block that has no space */
#define VHD1_LAST_SECTOR 0xfffffffeu		/* largest address an entry can hold */
#define VHD1_BAT_PER_SECTOR (VHD1_SECTOR / 4)

#define VHD1_BLOCK_MIN 512u
#define VHD1_BLOCK_MAX (256u << 20)		/* our limit; the format has none */
#define VHD1_BLOCK_DEFAULT (2u << 20)
#define VHD1_SPARSE_SECTORS_MAX 0xff000000u	/* 2040 GiB, what everybody accepts of dynamic images */

/* ---- XenServer batmap, directly behind the padded BAT -------------------------------------------- */

#define VHD1_BATMAP_COOKIE "tdbatmap"

struct vhd1_batmap_disk {
	uint8_t cookie[8];
	be64_t offset;			/* of the map */
	be32_t sectors;
	be32_t version;
	be32_t checksum;
	uint8_t marker;
	uint8_t key_hash_flag;		/* 1: the data is encrypted */
	uint8_t key_hash[64];
	uint8_t reserved[418];
};
static_assert(sizeof(struct vhd1_batmap_disk) == VHD1_SECTOR, "XenServer batmap header");

#endif
