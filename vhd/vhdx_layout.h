/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_VHDX_LAYOUT_H
#define SPINDLE_VHD_VHDX_LAYOUT_H
/*
 * VHDX as it stands on disk: little-endian, described by [MS-VHDX] 2.x. Layout only, no logic.
 *
 *	0		file type identifier
 *	0x10000		header 1 (4 KiB in a 64 KiB slot)
 *	0x20000		header 2
 *	0x30000		region table 1 (64 KiB)
 *	0x40000		region table 2
 *	0x50000		reserved up to 1 MiB
 *	>= 1 MiB	log, metadata region, BAT region, blocks, in any order, each at a multiple of 1 MiB
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/guid.h"

/* ---- 2.2.1 file type identifier ------------------------------------------------------------------ */

#define VHDX_IDENTIFIER_SIGNATURE "vhdxfile"
#define VHDX_HEADER_SECTION_SIZE 0x100000u
/* A log descriptor may touch the region tables but never what stands before them. */
#define VHDX_LOG_TARGET_MIN 0x30000u

struct vhdx_identifier_disk {
	uint8_t signature[8];		/* "vhdxfile" */
	uint8_t creator[512];		/* UTF-16, NUL optional, diagnostic only */
};
static_assert(sizeof(struct vhdx_identifier_disk) == 520, "[MS-VHDX] 2.2.1");

/* ---- 2.2.2 header: fields end at byte 80, the CRC covers 4 KiB ----------------------------------- */

#define VHDX_HEADER_SIGNATURE "head"
#define VHDX_VERSION 1
#define VHDX_LOG_VERSION 0

struct vhdx_header_disk {
	uint8_t signature[4];		/* "head" */
	le32_t checksum;		/* CRC-32C of 4 KiB with this field taken as zero */
	le64_t sequence_number;		/* the higher valid one is current */
	struct sp_guid file_write_guid;
	struct sp_guid data_write_guid;
	struct sp_guid log_guid;	/* zero: nothing to replay */
	le16_t log_version;		/* 0 */
	le16_t version;			/* 1 */
	le32_t log_length;		/* bytes, multiple of 1 MiB */
	le64_t log_offset;		/* bytes, multiple of 1 MiB */
};
static_assert(sizeof(struct vhdx_header_disk) == 80, "[MS-VHDX] 2.2.2");
static_assert(offsetof(struct vhdx_header_disk, log_guid) == 48, "[MS-VHDX] 2.2.2");
static_assert(offsetof(struct vhdx_header_disk, log_offset) == 72, "[MS-VHDX] 2.2.2");

/* ---- 2.2.3 region table: 64 KiB, entries follow the header --------------------------------------- */

#define VHDX_REGION_SIGNATURE "regi"
#define VHDX_REGION_ENTRIES_MAX 2047u
#define VHDX_REGION_REQUIRED 0x1u

struct vhdx_region_table_disk {
	uint8_t signature[4];		/* "regi" */
	le32_t checksum;		/* CRC-32C of 64 KiB with this field taken as zero */
	le32_t entry_count;		/* <= 2047 */
	le32_t reserved;
};
static_assert(sizeof(struct vhdx_region_table_disk) == 16, "[MS-VHDX] 2.2.3.1");

struct vhdx_region_entry_disk {
	struct sp_guid guid;
	le64_t file_offset;		/* multiple of 1 MiB, >= 1 MiB */
	le32_t length;			/* multiple of 1 MiB */
	le32_t flags;			/* bit 0: required */
};
static_assert(sizeof(struct vhdx_region_entry_disk) == 32, "[MS-VHDX] 2.2.3.2");

/* ---- 2.3 log: entries of 4 KiB sectors: descriptor sectors, then data sectors -------------------- */

#define VHDX_LOG_ENTRY_SIGNATURE "loge"
#define VHDX_LOG_ZERO_SIGNATURE "zero"
#define VHDX_LOG_DESC_SIGNATURE "desc"
#define VHDX_LOG_DATA_SIGNATURE "data"
#define VHDX_LOG_SECTOR 4096u
#define VHDX_LOG_LENGTH_MAX 0x40000000u		/* our bound: 1 GiB */

struct vhdx_log_entry_disk {
	uint8_t signature[4];		/* "loge" */
	le32_t checksum;		/* CRC-32C of entry_length bytes with this field taken as zero */
	le32_t entry_length;		/* bytes, multiple of 4 KiB */
	le32_t tail;			/* offset in the log of the oldest entry still needed */
	le64_t sequence_number;		/* > 0 */
	le32_t descriptor_count;
	le32_t reserved;
	struct sp_guid log_guid;
	le64_t flushed_file_offset;	/* file size known to be stable when the entry was written */
	le64_t last_file_offset;	/* file size that holds every allocated structure */
};
static_assert(sizeof(struct vhdx_log_entry_disk) == 64, "[MS-VHDX] 2.3.1.1");
static_assert(offsetof(struct vhdx_log_entry_disk, log_guid) == 32, "[MS-VHDX] 2.3.1.1");

/* Both kinds: signature first, file offset at 16, sequence number at 24. */
struct vhdx_log_zero_disk {
	uint8_t signature[4];		/* "zero" */
	le32_t reserved;
	le64_t zero_length;		/* bytes, multiple of 4 KiB */
	le64_t file_offset;		/* bytes, multiple of 4 KiB */
	le64_t sequence_number;
};
static_assert(sizeof(struct vhdx_log_zero_disk) == 32, "[MS-VHDX] 2.3.1.2");

struct vhdx_log_desc_disk {
	uint8_t signature[4];		/* "desc" */
	uint8_t trailing_bytes[4];	/* bytes 4092..4095 of the page */
	uint8_t leading_bytes[8];	/* bytes 0..7 of the page */
	le64_t file_offset;		/* bytes, multiple of 4 KiB */
	le64_t sequence_number;
};
static_assert(sizeof(struct vhdx_log_desc_disk) == 32, "[MS-VHDX] 2.3.1.3");

#define VHDX_LOG_DESC_SIZE 32u
/* Descriptors in the first sector of an entry and in each further descriptor sector. */
#define VHDX_LOG_DESC_FIRST ((VHDX_LOG_SECTOR - 64u) / VHDX_LOG_DESC_SIZE)
#define VHDX_LOG_DESC_NEXT (VHDX_LOG_SECTOR / VHDX_LOG_DESC_SIZE)
static_assert(VHDX_LOG_DESC_FIRST == 126 && VHDX_LOG_DESC_NEXT == 128, "[MS-VHDX] 2.3.1");

struct vhdx_log_data_disk {
	uint8_t signature[4];		/* "data" */
	le32_t sequence_high;
	uint8_t data[4084];		/* bytes 8..4091 of the page */
	le32_t sequence_low;
};
static_assert(sizeof(struct vhdx_log_data_disk) == VHDX_LOG_SECTOR, "[MS-VHDX] 2.3.1.4");
static_assert(offsetof(struct vhdx_log_data_disk, sequence_low) == 4092, "[MS-VHDX] 2.3.1.4");

/* ---- 2.6 metadata: table in the first 64 KiB of the region, items behind it ---------------------- */

#define VHDX_METADATA_SIGNATURE "metadata"
#define VHDX_METADATA_TABLE_SIZE 65536u
#define VHDX_METADATA_ENTRIES_MAX 2047u
#define VHDX_METADATA_USER_MAX 1024u
#define VHDX_METADATA_ITEM_MAX 0x100000u
#define VHDX_ITEM_IS_USER 0x1u
#define VHDX_ITEM_IS_VDISK 0x2u
#define VHDX_ITEM_IS_REQUIRED 0x4u

struct vhdx_metadata_table_disk {
	uint8_t signature[8];		/* "metadata" */
	le16_t reserved;
	le16_t entry_count;		/* <= 2047 */
	uint8_t reserved2[20];
};
static_assert(sizeof(struct vhdx_metadata_table_disk) == 32, "[MS-VHDX] 2.6.1.1");

struct vhdx_metadata_entry_disk {
	struct sp_guid item_id;
	le32_t offset;			/* from the start of the region, >= 64 KiB; 0 when length is 0 */
	le32_t length;			/* <= 1 MiB */
	le32_t flags;			/* VHDX_ITEM_* */
	le32_t reserved;
};
static_assert(sizeof(struct vhdx_metadata_entry_disk) == 32, "[MS-VHDX] 2.6.1.2");

#define VHDX_PARAMS_LEAVE_ALLOCATED 0x1u
#define VHDX_PARAMS_HAS_PARENT 0x2u

struct vhdx_file_parameters_disk {
	le32_t block_size;		/* power of two, 1 MiB .. 256 MiB */
	le32_t flags;			/* VHDX_PARAMS_* */
};
static_assert(sizeof(struct vhdx_file_parameters_disk) == 8, "[MS-VHDX] 2.6.2.1");

/* ---- 2.6.2.6 parent locator item ----------------------------------------------------------------- */

#define VHDX_LOCATOR_PAIRS_MAX 256u	/* our bound */

struct vhdx_locator_disk {
	struct sp_guid type;		/* VHDX_GUID_LOCATOR_TYPE */
	le16_t reserved;
	le16_t key_value_count;
};
static_assert(sizeof(struct vhdx_locator_disk) == 20, "[MS-VHDX] 2.6.2.6.1");

struct vhdx_locator_entry_disk {
	le32_t key_offset;		/* from the start of the item, > 0 */
	le32_t value_offset;
	le16_t key_length;		/* bytes, even, > 0 */
	le16_t value_length;
};
static_assert(sizeof(struct vhdx_locator_entry_disk) == 12, "[MS-VHDX] 2.6.2.6.2");

/* ---- well-known GUIDs, as stored ----------------------------------------------------------------- */

#define VHDX_GUID(...) ((const struct sp_guid){ { __VA_ARGS__ } })

#define VHDX_GUID_BAT_REGION \
	VHDX_GUID(0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08)
#define VHDX_GUID_METADATA_REGION \
	VHDX_GUID(0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e)
#define VHDX_GUID_FILE_PARAMETERS \
	VHDX_GUID(0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b)
#define VHDX_GUID_DISK_SIZE \
	VHDX_GUID(0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8)
#define VHDX_GUID_DISK_ID \
	VHDX_GUID(0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45, 0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46)
#define VHDX_GUID_LOGICAL_SECTOR \
	VHDX_GUID(0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47, 0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f)
#define VHDX_GUID_PHYSICAL_SECTOR \
	VHDX_GUID(0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44, 0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56)
#define VHDX_GUID_PARENT_LOCATOR \
	VHDX_GUID(0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c)
#define VHDX_GUID_LOCATOR_TYPE \
	VHDX_GUID(0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a, 0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13)
/* Marks a file whose creation did not finish; seen in one implementation. */
#define VHDX_GUID_INCOMPLETE \
	VHDX_GUID(0xf0, 0x85, 0xcc, 0x71, 0x69, 0x1b, 0x28, 0x4e, 0x95, 0x58, 0xc3, 0xbf, 0x83, 0xae, 0x75, 0xd3)

#endif
