/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_VHDX_INT_H
#define SPINDLE_VHD_VHDX_INT_H
/*
 * VHDX: what its source files share. Map of the code:
 *
 *   vhdx_layout.h	bytes as they stand on disk
 *   vhdx_header.c	file identifier and headers: decode, encode, choose the current one
 *   vhdx_region.c	region tables
 *   vhdx_metadata.c	metadata table and items
 *   vhdx_locator.c	parent locator item
 *   vhdx_log_scan.c	validity of log entries, active sequence
 *   vhdx_plan.c	what the active sequence amounts to: disjoint pages and zero ranges
 *   vhdx_overlay.c	a store that looks as the file will after replay
 *   vhdx_replay.c	replay in place, or in memory through an overlay
 *   vhdx_open.c	open, describe, the format table
 *   vhdx_create.c	a new image
 *   vhdx_check.c	checker (independent of the reader's caches): header section, log, regions, metadata
 *   vhdx_check_bat.c	checker: BAT, overlaps, leaks
 *   vhdx_repair.c	what can be put right
 *   vhdx_cache.c	4 KiB metadata pages: BAT and sector bitmaps, loaded on demand
 *   vhdx_map.c		BAT and bitmap lookups: where a range lives
 *   vhdx_space.c	free space in MiB units
 *   vhdx_write.c	prepare, commit, abort, discard
 *   vhdx_log_write.c	log entries, the ring, restarts
 *   vhdx_header_write.c	header update
 *   vhdx_flush.c	batches: barrier, log entry, barrier, apply; first write and clean close
 *   vhdx_modify.c	set_identity, set_parent
 *   vhdx_grow.c		a larger virtual size, a longer BAT
 */
#include "vhd/image.h"

#define VHDX_PAGE 4096u
#define VHDX_MIB (1u << 20)
#define VHDX_HEADER_SIZE 4096u
#define VHDX_REGION_TABLE_SIZE 65536u
#define VHDX_HEADER_OFFSET(slot) ((slot) ? 0x20000u : 0x10000u)
#define VHDX_REGION_TABLE_OFFSET(copy) ((copy) ? 0x40000u : 0x30000u)
#define VHDX_MAX_SIZE SP_TIB(64)

/* [MS-VHDX] 2.2.2, decoded. */
struct vhdx_header {
	uint64_t sequence_number;
	struct sp_guid file_write_guid, data_write_guid, log_guid;
	uint16_t log_version, version;
	uint32_t log_length;
	uint64_t log_offset;
};

struct vhdx_region {
	struct sp_guid guid;
	uint64_t offset;
	uint32_t length;
	bool required;
};

struct vhdx_region_table {
	struct vhdx_region *entry;	/* sp_free() */
	unsigned count;
	int bat, metadata;		/* indices into entry */
};

/* An item of the metadata table; offset is absolute in the file. */
struct vhdx_item {
	struct sp_guid guid;
	uint64_t offset;
	uint32_t length;
	uint32_t flags;
};

struct vhdx_metadata {
	struct vhdx_item *item;		/* sp_free() */
	unsigned count;
	int params_item, size_item, locator_item;	/* indices, -1: none */
	uint32_t block_size;
	bool leave_blocks_allocated, has_parent;
	uint64_t virtual_size;
	struct sp_guid disk_id;
	uint32_t logical_sector, physical_sector;
};

/* Everything derived from block size, sector size and virtual size; vhd-formats.md 2.6. */
struct vhdx_geometry {
	uint32_t block_size, logical_sector;
	uint64_t virtual_size;
	uint64_t blocks;		/* payload blocks P */
	uint32_t chunk_ratio;		/* CR */
	uint32_t chunk_shift;		/* log2(CR) */
	uint32_t block_shift;
	uint64_t bat_entries;		/* needed for this kind */
	bool differencing;
};

enum vhdx_payload_state {
	VHDX_NOT_PRESENT = 0, VHDX_UNDEFINED = 1, VHDX_ZERO = 2, VHDX_UNMAPPED = 3,
	VHDX_FULLY_PRESENT = 6, VHDX_PARTIALLY_PRESENT = 7,
};
#define VHDX_BITMAP_PRESENT 6

#define VHDX_BAT_STATE(e) ((unsigned)((e) & 7))
#define VHDX_BAT_OFFSET(e) ((e) & ~(uint64_t)0xfffff)
#define VHDX_BAT_RESERVED(e) ((e) & 0xffff8)

struct vhdx_cache;	/* vhdx_cache.c */
struct vhdx_space;	/* vhdx_space.c */
struct vhdx_log;	/* vhdx_log_write.c */

/* state of one open VHDX image */
struct vhdx {
	struct vhd_image *img;
	struct vhdx_header header;	/* the current one */
	unsigned header_slot;		/* where it stands: 0 or 1 */
	struct vhdx_region_table regions;
	unsigned region_copy;		/* they were read from: 0 or 1 */
	struct vhdx_metadata metadata;
	struct vhdx_geometry geo;
	uint64_t bat_offset;		/* = regions.entry[regions.bat].offset */
	uint64_t file_size;		/* as far as we have extended it */
	uint64_t replayed_entries;	/* by this open, for describe() */
	bool file_guid_changed;		/* FileWriteGuid was renewed in this open */
	bool begun;			/* begin_write() has been done */
	int failed;			/* negative errno: a metadata write or flush failed, no more changes */
	struct vhdx_cache *cache;
	struct vhdx_space *space;	/* writable only */
	struct vhdx_log *log;		/* writable only, started by begin_write() */
};

static inline struct vhdx *vhdx_of(struct vhd_image *img)
{
	return img->state;
}

static inline uint64_t vhdx_payload_index(const struct vhdx_geometry *g, uint64_t block)
{
	return block + (block >> g->chunk_shift);
}

static inline uint64_t vhdx_bitmap_index(const struct vhdx_geometry *g, uint64_t chunk)
{
	return (chunk << g->chunk_shift) + chunk + g->chunk_ratio;
}

/* ---- reading side (vhdx_header.c ... vhdx_create.c) ---- */

int vhdx_check_identifier(const uint8_t *buf, size_t len, struct sp_err *err);
int vhdx_header_decode(const uint8_t buf[static VHDX_HEADER_SIZE], uint64_t file_size, struct vhdx_header *ret_hdr,
		       struct sp_err *err);
void vhdx_header_encode(const struct vhdx_header *hdr, uint8_t ret_buf[static VHDX_HEADER_SIZE]);
/* Reads both, picks by vhd-formats.md 2.3. */
int vhdx_header_read_current(struct store *s, uint64_t file_size, struct vhdx_header *ret_hdr, unsigned *ret_slot,
			     struct sp_err *err);

int vhdx_region_table_decode(const uint8_t buf[static VHDX_REGION_TABLE_SIZE], uint64_t file_size,
			     struct vhdx_region_table *ret_table, struct sp_err *err);
void vhdx_region_table_encode(const struct vhdx_region *entry, unsigned count,
			      uint8_t ret_buf[static VHDX_REGION_TABLE_SIZE]);
/* Copy 1, or copy 2 (*ret_copy = 1) when copy 1 is damaged. */
int vhdx_region_tables_read(struct store *s, uint64_t file_size, struct vhdx_region_table *ret_table,
			    unsigned *ret_copy, struct sp_err *err);
int vhdx_region_table_restore(struct store *s, unsigned from);
/* Header section, log and regions are pairwise disjoint and inside the file. */
int vhdx_layout_check(const struct vhdx_header *h, const struct vhdx_region_table *t, uint64_t file_size,
		      struct sp_err *err);

/* Table is the first 64 KiB of the region; items are read from @s. */
int vhdx_metadata_read(struct store *s, const struct vhdx_region *region, struct vhdx_metadata *ret_md,
		       struct sp_err *err);
void vhdx_metadata_fini(struct vhdx_metadata *md);
int vhdx_geometry_make(const struct vhdx_metadata *md, struct vhdx_geometry *ret_geo, struct sp_err *err);

/* Bytes of the locator item -> img->parent. Also the writer's side. */
int vhdx_locator_decode(const uint8_t *buf, size_t len, struct vhd_image *img, struct sp_err *err);
int vhdx_locator_encode(const struct vhd_set_parent *p, uint8_t *buf, size_t room, size_t *ret_len);

/* A validated log entry; descriptors and data sectors stay in @bytes. */
struct vhdx_log_entry {
	uint32_t offset;	/* in the log */
	uint32_t length, tail;
	uint64_t sequence;
	uint32_t descriptors;
	uint64_t flushed_file_offset, last_file_offset;
};

struct vhdx_log_sequence {
	struct vhdx_log_entry *entry;	/* tail .. head, sp_free() */
	unsigned count;			/* 0: none found */
};

/* The active sequence of a log given as bytes. -EBADMSG only for what cannot be a log at all. */
int vhdx_log_scan(const uint8_t *log, uint32_t length, const struct sp_guid *log_guid,
		  struct vhdx_log_sequence *ret_seq, struct sp_err *err);
/*
 * What a replay changes: disjoint stretches in ascending order, multiples of 4 KiB; data == NULL means zeros. Data
 * stretches are one page long and point into @pages.
 */
struct vhdx_extent {
	uint64_t offset, len;
	const uint8_t *data;
};

struct vhdx_plan {
	struct vhdx_extent *extent;	/* sp_free() */
	size_t count;
	uint8_t *pages;			/* sp_free() */
	uint64_t file_size;		/* of the file once replayed */
	uint64_t entries;		/* log entries replayed */
};

/* Reads the log and works out the result of its active sequence. -EBADMSG: nothing to replay is damage, too. */
int vhdx_plan_make(struct store *s, const struct vhdx_header *h, uint64_t file_size, struct vhdx_plan *ret_plan,
		   struct sp_err *err);
void vhdx_plan_fini(struct vhdx_plan *plan);
/* A read-only store that looks as @base will after the replay. On success takes over the plan (leaving *plan empty),
 * and @base too when @owns_base. */
int vhdx_overlay_new(struct store *base, bool owns_base, struct vhdx_plan *plan, struct store **ret_store);

/* Replays when header.log_guid says so. In place (writable) or by replacing img->store with an overlay. */
int vhdx_replay(struct vhdx *x, struct sp_err *err);

/* ---- writing side ---- */

/* Writes x->header with sequence + 1 over the non-current slot, syncs, then the same (sequence + 2) over the other,
 * syncs: both copies end with the same GUIDs. x->header and x->header_slot follow. */
int vhdx_header_update(struct vhdx *x);

int vhdx_cache_open(struct vhdx *x, struct sp_err *err);	/* sets x->cache */
void vhdx_cache_close(struct vhdx *x);
/* A BAT entry; loads its page when needed. */
int vhdx_bat_get(struct vhdx *x, uint64_t index, uint64_t *ret_entry);

/* Writable images: reads the whole BAT (skipping holes), builds x->space, refuses overlap (check X15, X16, X17). */
int vhdx_space_open(struct vhdx *x, struct sp_err *err);
void vhdx_space_close(struct vhdx *x);

int vhdx_map(struct vhd_image *img, uint64_t offset, uint64_t len, struct vhd_place *ret_place);
int vhdx_begin_write(struct vhd_image *img);
int vhdx_prepare_write(struct vhd_image *img, uint64_t offset, uint64_t len, struct vhd_ticket *ret_ticket);
int vhdx_commit_write(struct vhd_image *img, const struct vhd_ticket *t);
void vhdx_abort_write(struct vhd_image *img, const struct vhd_ticket *t);
int vhdx_discard(struct vhd_image *img, uint64_t offset, uint64_t len, uint64_t *ret_len, bool *ret_done);
bool vhdx_dirty(struct vhd_image *img);
int vhdx_flush_begin(struct vhd_image *img, struct vhd_flush **ret_batch);
int vhdx_flush_write(struct vhd_image *img, struct vhd_flush *batch);
void vhdx_flush_end(struct vhd_image *img, struct vhd_flush *batch, int result);
uint64_t vhdx_freed_tag(struct vhd_image *img);
void vhdx_release(struct vhd_image *img, uint64_t tag);
/* Flush, apply, LogGuid = 0 in both headers, cut the slack. No-op when nothing was begun. */
int vhdx_close_clean(struct vhdx *x);
void vhdx_log_close(struct vhdx *x);	/* memory only */
int vhdx_grow(struct vhd_image *img, uint64_t size, struct sp_err *err);
int vhdx_set_identity(struct vhd_image *img, const struct sp_guid *identity, struct sp_err *err);
int vhdx_set_parent(struct vhd_image *img, const struct vhd_set_parent *p, struct sp_err *err);

/* ---- whole-image functions of the table ---- */

int vhdx_create(struct store *store, const struct vhd_format_create *c, struct sp_err *err);
int vhdx_check(struct store *store, struct vhd_report *report);
int vhdx_repair(struct store *store, bool dry_run, struct vhd_report *report);

#endif
