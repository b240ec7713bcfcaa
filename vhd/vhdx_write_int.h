/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_VHDX_WRITE_INT_H
#define SPINDLE_VHD_VHDX_WRITE_INT_H
/*
 * What the files of the VHDX writing side share: pages, block lookups, space, the log ring.
 */
#include "base/bytes.h"
#include "vhd/vhdx_int.h"

/* ---- vhdx_cache.c -------------------------------------------------------------------------------- */

/* In the order in which a batch that needs several log entries has to write them, see vhdx_flush.c. */
enum vhdx_page_kind { VHDX_PAGE_BITMAP, VHDX_PAGE_BAT, VHDX_PAGE_OTHER };

struct vhdx_page {
	uint64_t offset;		/* in the file, multiple of 4 KiB */
	uint8_t *data;
	enum vhdx_page_kind kind;
	bool dirty;			/* changed since the last batch was taken */
	unsigned inflight;		/* batches that hold a copy and have not ended */
	struct vhdx_page *hash_next;
	struct vhdx_page *prev, *next;	/* in the clean or the dirty list, or in none while only in flight */
};

/* The page for looking at; @ret_data is valid until the next call of get or edit. */
int vhdx_page_get(struct vhdx *x, uint64_t offset, enum vhdx_page_kind kind, const uint8_t **ret_data);
/* The page for changing, dirty from now on; @ret_data is valid until a flush has ended. */
int vhdx_page_edit(struct vhdx *x, uint64_t offset, enum vhdx_page_kind kind, uint8_t **ret_data);
size_t vhdx_cache_dirty(const struct vhdx_cache *c);		/* pages */
/* Moves every dirty page to "in flight"; @pages has room for vhdx_cache_dirty() of them. */
void vhdx_cache_take(struct vhdx_cache *c, struct vhdx_page **pages);
/* The batch with @page has ended: it may be dropped again, or is dirty once more when the batch @failed. */
void vhdx_cache_settle(struct vhdx_cache *c, struct vhdx_page *page, bool failed);
/* Grow: room for a BAT of @entries; relocation: forget the (clean) pages of the old BAT. */
int vhdx_cache_resize_bat(struct vhdx *x, uint64_t entries);
void vhdx_cache_forget(struct vhdx *x, enum vhdx_page_kind kind);

/* The entry's place in a page that is dirty from now on. */
int vhdx_bat_edit(struct vhdx *x, uint64_t index, le64_t **ret_entry);
/* How many entries from @index on are surely zero without reading them: hole in the file, nothing in memory. */
uint64_t vhdx_bat_hole(struct vhdx *x, uint64_t index);

/* ---- vhdx_map.c ---------------------------------------------------------------------------------- */

/* 0, or -EBADMSG for what check X15 and X22 call wrong with this block. */
int vhdx_block_get(struct vhdx *x, uint64_t block, uint64_t *ret_entry);
/* Bytes of @block inside the virtual disk: less than the block size for a partial last one. */
uint64_t vhdx_block_len(const struct vhdx *x, uint64_t block);
/* First payload block at or after BAT index @index. */
uint64_t vhdx_block_at(const struct vhdx_geometry *g, uint64_t index);

/* File offset of the bitmap bits of @block. -EBADMSG when its chunk has no (valid) bitmap block. */
int vhdx_share_get(struct vhdx *x, uint64_t block, uint64_t *ret_offset);
/* Bits [sector, sector + count) of a share as a piece of one page. */
struct vhdx_bits {
	uint64_t page;		/* file offset */
	uint64_t bit, count;
};
struct vhdx_bits vhdx_share_piece(uint64_t share, uint64_t sector, uint64_t count);

/* ---- vhdx_space.c -------------------------------------------------------------------------------- */

/* @len bytes (MiB multiple) that read zero. *@ret_recycled: the zeros need a sync before anything points there. */
int vhdx_space_alloc(struct vhdx *x, uint64_t len, uint64_t *ret_offset, bool *ret_recycled);
/* Gives back what no durable structure ever pointed to. */
void vhdx_space_undo(struct vhdx *x, uint64_t offset, uint64_t len);
/* Room for @count more vhdx_space_free() calls, so that those cannot fail. */
int vhdx_space_reserve(struct vhdx *x, size_t count);
/* To limbo: reusable after the batch that holds the change is durable and released. */
void vhdx_space_free(struct vhdx *x, uint64_t offset, uint64_t len);
/* The block's own old space of states 1 and 3 is nobody else's. */
bool vhdx_space_owns_anchor(const struct vhdx *x, uint64_t entry);
/* Makes [offset, offset + len) read zeros in the file. */
int vhdx_space_zero(struct vhdx *x, uint64_t offset, uint64_t len);
/* Extends the file to at least @end. */
int vhdx_space_extend(struct vhdx *x, uint64_t end);
uint64_t vhdx_space_end(const struct vhdx *x);		/* end of the last used MiB, bytes */
uint64_t vhdx_space_seal(struct vhdx *x);		/* batch taken: its generation */
void vhdx_space_durable(struct vhdx *x, uint64_t generation);

/* ---- vhdx_log_write.c ---------------------------------------------------------------------------- */

#define VHDX_LOG_DESCRIPTORS_MAX 126u		/* one descriptor sector; vhd-formats.md 2.5.6 */

/* One descriptor: a page, or (data NULL) a range of zeros that the file already reads as zeros. */
struct vhdx_log_item {
	uint64_t offset, len;
	const uint8_t *data;
};

struct vhdx_log {
	/* The batch being collected; under the disk's metadata lock. */
	bool barrier;			/* payload must be durable before the entry */
	uint64_t *zeroed;		/* new bitmap blocks, file offsets */
	size_t zeroed_count, zeroed_room;
	unsigned batches;		/* taken and not yet ended */
	/* The ring; belongs to the one flush_write() under way. */
	int failed;
	uint32_t position;		/* where the next entry goes */
	uint64_t sequence;		/* of the last entry */
	uint32_t unstable;		/* oldest entry whose application no completed sync covers, or NONE */
	uint32_t pending;		/* oldest entry not yet applied, or NONE */
	uint64_t stable_size;		/* file size that a completed sync covers */
	uint64_t file_size, last_offset;	/* of the batch in hand */
	uint8_t *buffer;		/* one entry of the greatest size */
};

/* Log running, FileWriteGuid renewed, and DataWriteGuid := @identity unless NULL. Sets x->failed on I/O errors. */
int vhdx_log_start(struct vhdx *x, const struct sp_guid *identity);
bool vhdx_log_fits(const struct vhdx *x, const struct vhdx_log_item *item, unsigned count);
/* Writes one entry, no sync. */
int vhdx_log_append(struct vhdx *x, const struct vhdx_log_item *item, unsigned count);
/* Syncs the store and advances what is stable. */
int vhdx_log_sync(struct vhdx *x);
/* Everything is applied: begins again at offset 0 under a fresh LogGuid. */
int vhdx_log_restart(struct vhdx *x);

/* ---- vhdx_write.c -------------------------------------------------------------------------------- */

/* State 0 of a differencing image -> 7 with all bits clear; *@ret_offset: its space, zeros. */
int vhdx_allocate_partial(struct vhdx *x, uint64_t block, uint64_t *ret_offset);
int vhdx_bits_set(struct vhdx *x, uint64_t block, uint64_t sector, uint64_t count);

/* ---- vhdx_modify.c ------------------------------------------------------------------------------- */

/* Any bytes of metadata: hold() brings all pages in (and may fail), after it put() cannot. */
int vhdx_bytes_hold(struct vhdx *x, uint64_t offset, uint64_t len);
int vhdx_bytes_put(struct vhdx *x, uint64_t offset, const void *bytes, uint64_t len);

/* ---- vhdx_flush.c -------------------------------------------------------------------------------- */

/* Takes, writes and ends a batch. No other batch may be under way. */
int vhdx_flush_all(struct vhdx *x);
/* The same for a change that its caller reports as failed: then it must not reach the disk later either. */
int vhdx_flush_must(struct vhdx *x);
/* Flushes when so much is dirty that memory would grow without bound; does nothing while a batch is under way. */
int vhdx_relieve(struct vhdx *x);

#endif
