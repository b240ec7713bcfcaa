/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_VHD1_INT_H
#define SPINDLE_VHD_VHD1_INT_H
/*
 * VHD 1.0: what its source files share. Map of the code:
 *
 *   vhd1_layout.h	bytes as they stand on disk
 *   vhd1_geometry.c	CHS, sizes and everything derived from the block size
 *   vhd1_footer.c	checksums, footer: validate, find, make, write
 *   vhd1_header.c	dynamic header: validate; where the fixed structures lie
 *   vhd1_locator.c	parent locators and the parent's name
 *   vhd1_open.c	open, close, the format table
 *   vhd1_describe.c	facts for "info"
 *   vhd1_create.c	a new image
 *   vhd1_cache.c	metadata pages by number: BAT pages of readers, block bitmaps
 *   vhd1_bat.c		block allocation table
 *   vhd1_bitmap.c	sector bitmaps of blocks
 *   vhd1_map.c		where a range lives
 *   vhd1_space.c	room for blocks, the moving end footer, space set free
 *   vhd1_write.c	prepare, commit, abort, discard
 *   vhd1_flush.c	batches and their barriers
 *   vhd1_modify.c	grow, identity
 *   vhd1_table.c	a longer BAT, moving what is in its way
 *   vhd1_parent.c	another parent
 *   vhd1_check.c	checker (independent of the reader's caches): footers, header
 *   vhd1_check_blocks.c	checker: BAT, blocks, space
 *   vhd1_repair.c	repairs that are provably right
 *
 * The end footer stands exactly where the next block would go, so it moves: far ahead, at once for many blocks (see
 * vhd1_space.c). At every moment there is a valid footer at the end of the file or a valid copy at offset 0.
 *
 * The format stores nothing that changes when a disk is written: begin_write() renews no identity, and a
 * child can tell a parent written behind its back only by the parent file's modification time.
 */
#include "vhd/image.h"
#include "vhd/vhd1_layout.h"

/* ---- geometry ------------------------------------------------------------------------------------ */

struct vhd1_chs {
	uint16_t cylinders;
	uint8_t heads, sectors;
};

/* The algorithm of the VHD 1.0 appendix for a disk of @total_sectors, blind spots included. */
struct vhd1_chs vhd1_chs_from_sectors(uint64_t total_sectors);

/* Everything derived from header and size of a dynamic or differencing image. */
struct vhd1_shape {
	uint64_t size;
	uint64_t bat_offset;
	uint32_t block_size, block_shift;
	uint32_t data_sectors;		/* of a block */
	uint32_t bitmap_sectors;	/* in front of them */
	uint32_t max_entries;		/* the BAT has */
	uint32_t blocks;		/* the size needs; <= max_entries */
};

static inline uint64_t vhd1_bat_bytes(const struct vhd1_shape *g)	/* padded to sectors */
{
	return sp_align_up((uint64_t)g->max_entries * 4, VHD1_SECTOR);
}

static inline uint64_t vhd1_slot_bytes(const struct vhd1_shape *g)	/* bitmap and data */
{
	return ((uint64_t)g->bitmap_sectors + g->data_sectors) * VHD1_SECTOR;
}

static inline uint64_t vhd1_data_offset(const struct vhd1_shape *g, uint32_t slot)
{
	return ((uint64_t)slot + g->bitmap_sectors) * VHD1_SECTOR;
}

/* Sectors of @block that lie inside the disk: the last block may reach past its end. */
uint32_t vhd1_block_sectors(const struct vhd1_shape *g, uint32_t block);
void vhd1_shape_block_size(struct vhd1_shape *g, uint32_t block_size);

int64_t vhd1_time_to_unix(uint32_t timestamp);
uint32_t vhd1_time_from_unix(int64_t seconds);		/* clamped to what 32 bits hold */

/* ---- footer -------------------------------------------------------------------------------------- */

enum vhd1_end {
	VHD1_END_GOOD,		/* 512 bytes at the end of the file */
	VHD1_END_SHORT,		/* 511 bytes, by products before Virtual PC 2004 */
	VHD1_END_KILLED,	/* 0xC7: XenServer did not close it */
	VHD1_END_BAD,		/* nothing valid there */
};

/* Both footers as found, and the one to believe. */
struct vhd1_footers {
	struct vhd1_footer_disk footer;
	uint64_t file_size;
	uint64_t end_offset;	/* of the end footer; where it should be valid but is not: the file size */
	enum vhd1_end end;
	bool copy_good;		/* a valid footer of a sparse type stands at offset 0 */
	bool copy_same;		/* and is the same */
};

/* Inverted byte sum with the four bytes at @skip taken as zero. */
uint32_t vhd1_checksum(const void *bytes, size_t len, size_t skip);
void vhd1_footer_seal(struct vhd1_footer_disk *f);		/* sets the checksum */
void vhd1_header_seal(struct vhd1_header_disk *h);
/* Cookie and checksum (-EBADMSG), version and type (-ENOTSUP), size (-EBADMSG). */
int vhd1_footer_validate(const struct vhd1_footer_disk *f, struct sp_err *err);
int vhd1_footer_locate(struct store *s, struct vhd1_footers *ret, struct sp_err *err);
/* A new footer: creator "win ", geometry by the algorithm, exact size, a random id. Sealed. */
void vhd1_footer_make(struct vhd1_footer_disk *f, uint32_t type, uint64_t size);
void vhd1_footer_set_size(struct vhd1_footer_disk *f, uint64_t size);	/* current size, geometry; not sealed */

static inline bool vhd1_is_sparse(const struct vhd1_footer_disk *f)
{
	return be32_get(f->type) != VHD1_TYPE_FIXED;
}

/* ---- header and the structures at fixed places --------------------------------------------------- */

/* A stretch of the file that belongs to a structure other than a block. */
struct vhd1_extent {
	uint64_t offset, len;
	char name[24];		/* for messages: "BAT", "parent locator 1" */
	bool text;		/* of a locator; several may share one */
};

#define VHD1_EXTENTS_MAX (5 + VHD1_LOCATORS)

struct vhd1_extents {
	struct vhd1_extent item[VHD1_EXTENTS_MAX];
	unsigned count;
	uint64_t end;		/* first byte after the last of them */
	struct vhd1_extent beyond;	/* len > 0: left out only because the file is too short for it */
};

/* Reads and judges the header that @footer names (checks V5 to V8). */
int vhd1_header_read(struct store *s, const struct vhd1_footer_disk *footer, uint64_t file_size,
		     struct vhd1_header_disk *ret_header, struct vhd1_shape *ret_shape, struct sp_err *err);
/* Footer copy, header, BAT, locator texts, XenServer's batmap. Ill-formed locators and batmaps are left out. */
int vhd1_extents_find(struct store *s, const struct vhd1_footer_disk *footer, const struct vhd1_header_disk *h,
		      const struct vhd1_shape *g, uint64_t file_size, struct vhd1_extents *ret, bool *ret_batmap,
		      bool *ret_encrypted);
/* The structure that shares a byte with [offset, offset+len), or NULL. */
const struct vhd1_extent *vhd1_extents_hit(const struct vhd1_extents *x, uint64_t offset, uint64_t len);
/* Two structures that overlap each other: -EBADMSG with their names. */
int vhd1_extents_disjoint(const struct vhd1_extents *x, struct sp_err *err);
/* The block at BAT entry @slot is where a block may be: behind offset 512, no structure hit, not past @limit. */
int vhd1_slot_validate(const struct vhd1_shape *g, const struct vhd1_extents *x, uint64_t limit, uint32_t block,
		       uint32_t slot, struct sp_err *err);

/* ---- locators ------------------------------------------------------------------------------------ */

struct vhd1_locator {
	uint32_t code;
	uint64_t offset, space;
	uint32_t length;
};

#define VHD1_TEXT_ROOM 1024u		/* reserved for each text: Hyper-V wants room for 512 characters */

/* Judges one entry (check V12); @why gets the reason of a refusal. -ENOENT for an unused slot. */
int vhd1_locator_decode(const struct vhd1_locator_disk *d, uint64_t file_size, struct vhd1_locator *ret,
			const char **why);
/* The text of a locator as UTF-8: *ret_text NULL when the code carries no path we understand. */
int vhd1_locator_text(const struct vhd1_locator *l, const uint8_t *bytes, enum vhd_path_kind *ret_kind,
		      char **ret_text);
/* Header -> img->parent, in the order the paths should be tried. -EBADMSG when nothing names a parent (check V18). */
int vhd1_parent_load(struct vhd_image *img, const struct vhd1_header_disk *h, uint64_t file_size, struct sp_err *err);
char *vhd1_parent_name(const struct vhd1_header_disk *h);	/* NULL: no memory */

/* A text ready to be stored: UTF-16LE with '\' between the parts. */
struct vhd1_text {
	uint8_t *bytes;			/* sp_free() */
	size_t len;
};

/* @path '/'-separated; @relative puts ".\" in front unless it starts with "..". -EINVAL, -ENAMETOOLONG, -ENOMEM. */
int vhd1_text_encode(const char *path, bool relative, struct vhd1_text *ret, struct sp_err *err);
/* Base name of @path into the header's name field. */
int vhd1_name_encode(const char *path, uint8_t ret_name[static VHD1_NAME_BYTES], struct sp_err *err);
void vhd1_locator_encode(struct vhd1_locator_disk *d, uint32_t code, uint32_t space, uint32_t length, uint64_t offset);

/* ---- metadata pages ------------------------------------------------------------------------------ */

struct vhd1_page {
	struct vhd1_page *hash_next;
	struct vhd1_page *dirty_prev, *dirty_next;
	uint32_t key;
	uint32_t dirty_from, dirty_to;	/* bytes; equal when clean */
	uint64_t written_by;		/* generation of the flush that carries it; 0: none */
	uint8_t bytes[];
};

struct vhd1_cache {
	struct vhd1_page **bucket;	/* NULL until the first page */
	struct vhd1_page *dirty;	/* list of pages that a flush has to write */
	uint32_t page_size;
	uint32_t pages, pages_max;	/* the bound counts for clean pages */
	uint32_t hand;			/* where eviction goes on */
	uint64_t settled;		/* generation of the last flush that has ended */
};

void vhd1_cache_init(struct vhd1_cache *c, uint32_t page_size);
void vhd1_cache_fini(struct vhd1_cache *c);
struct vhd1_page *vhd1_cache_find(const struct vhd1_cache *c, uint32_t key);
/* A new page, not in the cache before, bytes uninitialised; NULL: no memory. May evict clean ones. */
struct vhd1_page *vhd1_cache_add(struct vhd1_cache *c, uint32_t key);
void vhd1_cache_drop(struct vhd1_cache *c, uint32_t key);	/* also when it is dirty */
void vhd1_cache_mark(struct vhd1_cache *c, struct vhd1_page *p, uint32_t from, uint32_t to);	/* dirty bytes */
void vhd1_cache_clean(struct vhd1_cache *c, struct vhd1_page *p, uint64_t generation);

/* ---- state of one open image --------------------------------------------------------------------- */

/* A block whose first write is under way: it has space but no BAT entry yet. */
struct vhd1_pending {
	struct vhd1_pending *next;
	uint32_t block, slot;
	uint32_t refs;			/* tickets out */
	bool linked;			/* the BAT names it */
	bool recycled;			/* the space was something else before */
};

/* Space that the image has given up but a crash, or I/O in flight, may still need. */
struct vhd1_limbo {
	uint32_t slot;
	uint64_t generation;		/* of the flush that makes it durable */
};

struct vhd1 {
	struct vhd_image *img;
	struct vhd1_footer_disk footer;
	struct vhd1_header_disk header;
	struct vhd1_shape shape;
	struct vhd1_extents extents;
	enum vhd1_end found_end;	/* state at open, for describe() */
	bool sparse;			/* dynamic or differencing */
	bool differencing;
	bool batmap;			/* XenServer's; kept intact */
	bool begun;
	int failed;			/* negative errno: a metadata write or flush failed, no more changes */
	uint64_t block_limit;		/* no block may reach past it: end footer or end of file */

	/* BAT: whole (writable) or by pages (read-only) */
	uint32_t *bat;			/* host order, @bat_room entries */
	uint32_t bat_room;		/* shape.blocks rounded up to whole sectors */
	uint8_t *bat_dirty;		/* a bit per sector of the BAT */
	uint32_t bat_dirty_sectors;
	struct vhd1_cache bat_pages;
	struct vhd1_page *bat_last;	/* the page asked for last */

	/* bitmaps */
	struct vhd1_cache bitmaps;	/* by block */
	uint8_t *full;			/* a bit per block: all sectors present; NULL for absurdly many blocks */

	/* space, writable only; see vhd1_space.c */
	uint64_t footer_offset;
	uint64_t next_free;		/* room: [next_free, footer_offset) */
	uint64_t zero_from;		/* room from here on is known to hold zeros */
	bool tail_changed;		/* the file may end earlier: close() cuts it */
	uint32_t allocated;		/* blocks with space */
	uint32_t *free_slot;		/* reusable, zeros */
	uint32_t free_slots, free_room;
	struct vhd1_limbo *limbo;
	uint32_t limbos, limbo_room;
	struct vhd1_pending *pending;

	/* flush */
	uint64_t generation;		/* being collected; starts at 1 */
	uint64_t durable;		/* last flush that succeeded */
	bool barrier;			/* the next flush must order payload before metadata */
};

static inline struct vhd1 *vhd1_of(struct vhd_image *img)
{
	return img->state;
}

#define VHD1_FULL_MAP_BLOCKS (1u << 26)	/* more blocks: no map of full ones, and no writing */

/* vhd1_bat.c */
int vhd1_bat_get(struct vhd1 *v, uint32_t block, uint32_t *ret_slot);	/* VHD1_UNUSED, or a validated slot */
void vhd1_bat_set(struct vhd1 *v, uint32_t block, uint32_t slot);	/* writable; marks it dirty */
/* Writable images: the whole table; refuses blocks outside the file or overlapping (checks V10, V11). */
int vhd1_bat_load(struct vhd1 *v, struct sp_err *err);
int vhd1_bat_resize(struct vhd1 *v, uint32_t blocks);	/* room in memory for a larger disk; new entries unused */
/* First byte after the last block and structure. */
uint64_t vhd1_used_end(const struct vhd1 *v);

/* vhd1_bitmap.c */
bool vhd1_block_full(const struct vhd1 *v, uint32_t block);
void vhd1_block_set_full(struct vhd1 *v, uint32_t block, bool full);
/* Bitmap of an allocated block, from cache or disk. */
int vhd1_bitmap_get(struct vhd1 *v, uint32_t block, uint32_t slot, struct vhd1_page **ret_page);
/* Run of equal bits from sector @from of the block; *ret_present: their value. */
int vhd1_bitmap_run(struct vhd1 *v, uint32_t block, uint32_t slot, uint32_t from, uint32_t limit, bool *ret_present,
		    uint32_t *ret_run);
int vhd1_bitmap_set(struct vhd1 *v, uint32_t block, uint32_t slot, uint32_t from, uint32_t count);
/* The first bitmap of a new block, whole area: all ones or all zeros. Writes at once. */
int vhd1_bitmap_init(struct vhd1 *v, uint32_t slot, bool ones);

/* vhd1_space.c */
int vhd1_space_open(struct vhd1 *v, const struct vhd1_footers *found, struct sp_err *err);
void vhd1_space_close(struct vhd1 *v);
/* Room for a block. *ret_recycled: what wrote there before must be behind a barrier. -ENOSPC. */
int vhd1_slot_take(struct vhd1 *v, uint32_t *ret_slot, bool *ret_recycled);
void vhd1_slot_give_back(struct vhd1 *v, uint32_t slot);	/* nothing refers to it, no I/O in flight */
int vhd1_slot_to_limbo(struct vhd1 *v, uint32_t slot);		/* a link to it was just removed, not yet on disk */
/* @bytes of room that is no block (512-aligned), directly before the footer. */
int vhd1_room_take(struct vhd1 *v, uint64_t bytes, uint64_t *ret_offset);
/* Both footers get the contents of v->footer, copy first; durable. */
int vhd1_footers_write(struct vhd1 *v);
/* Keeps blocks from being put below @end, and the footer as well. */
int vhd1_space_reserve(struct vhd1 *v, uint64_t end);
/* Cuts unused room: the footer moves down behind the last block or structure. */
int vhd1_space_trim(struct vhd1 *v);

/* vhd1_parent.c */
/* Replaces the header, crash-safe: @h, written into 1024 bytes of @room, is in force after the first call; after the
 * second what stands at @home, where it was before. What the old header referred to may be overwritten between them. */
int vhd1_header_leave(struct vhd1 *v, const struct vhd1_header_disk *h, uint64_t room);
int vhd1_header_return(struct vhd1 *v, const struct vhd1_header_disk *h, uint64_t home);
/* Replaces it when nothing but its first sector differs. */
int vhd1_header_update(struct vhd1 *v, const struct vhd1_header_disk *h);

/* vhd1_table.c */
int vhd1_table_extend(struct vhd1 *v, uint32_t entries, struct sp_err *err);

/* functions of the format table */
int vhd1_probe(const struct vhd_probe *p);
int vhd1_create(struct store *store, const struct vhd_format_create *c, struct sp_err *err);
int vhd1_map(struct vhd_image *img, uint64_t offset, uint64_t len, struct vhd_place *ret_place);
int vhd1_begin_write(struct vhd_image *img);
int vhd1_prepare_write(struct vhd_image *img, uint64_t offset, uint64_t len, struct vhd_ticket *ret_ticket);
int vhd1_commit_write(struct vhd_image *img, const struct vhd_ticket *t);
void vhd1_abort_write(struct vhd_image *img, const struct vhd_ticket *t);
int vhd1_discard(struct vhd_image *img, uint64_t offset, uint64_t len, uint64_t *ret_len, bool *ret_done);
bool vhd1_dirty(struct vhd_image *img);
int vhd1_flush_begin(struct vhd_image *img, struct vhd_flush **ret_batch);
int vhd1_flush_write(struct vhd_image *img, struct vhd_flush *batch);
void vhd1_flush_end(struct vhd_image *img, struct vhd_flush *batch, int result);
int vhd1_flush_all(struct vhd1 *v);		/* the three in a row, for callers that hold the lock anyway */
uint64_t vhd1_freed_tag(struct vhd_image *img);
void vhd1_release(struct vhd_image *img, uint64_t tag);
int vhd1_grow(struct vhd_image *img, uint64_t size, struct sp_err *err);
int vhd1_set_identity(struct vhd_image *img, const struct sp_guid *identity, struct sp_err *err);
int vhd1_set_parent(struct vhd_image *img, const struct vhd_set_parent *p, struct sp_err *err);
void vhd1_describe(struct vhd_image *img, void *json_object);
int vhd1_check(struct store *store, struct vhd_report *report);
int vhd1_repair(struct store *store, bool dry_run, struct vhd_report *report);

#endif
