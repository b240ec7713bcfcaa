/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_TRACK_INT_H
#define SPINDLE_VHD_TRACK_INT_H
/*
 * track - what the files of change tracking share:
 *
 *   track_file.c     the side-car: reading, checking, writing
 *   track_bind.c     does the side-car speak of this image?
 *   track.c	      the write path, checkpoints, the life of a tracked disk
 *   track_point.c    points
 *   track_changes.c  answers
 *
 * What makes the answer never too small:
 *
 *   - A write begins only when its region is in doubt, durably, and its bits are set in memory.
 *   - A region leaves doubt only behind a durable bitmap that was taken after the region had left doubt in memory; a
 *     writer sets its bits, then looks at the doubt again. So either its bits are in that bitmap, or it sees that the
 *     doubt is gone and brings the region back.
 *   - After a crash the changes are the durable bitmap and all of each region in doubt.
 *   - A point comes into being with nobody inside and everything flushed: no write is on both sides of it, and a power
 *     cut cannot take back what was there at that time.
 *   - Header, table and bitmaps are never overwritten: a new header names new pages, when those are durable. Both
 *     copies of the header must be intact to be believed: an older one alone knows less.
 *
 * Lock order: disk.track_calls, gate (drain), track.lock, commit.lock, meta.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "vhd/disk_priv.h"
#include "vhd/track.h"
#include "vhd/track_layout.h"

struct track_extent {
	uint64_t offset;
	uint32_t len, crc;
};

struct track_head {
	uint64_t sequence, disk_size;
	uint8_t block_shift, region_shift;
	bool clean;
	enum vhd_track_why why;
	uint32_t points;
	enum vhd_format_id format;
	struct sp_guid image;
	struct store_stamp stamp;
	uint64_t parents;
	struct track_extent table, current;
	uint64_t doubt[TRACK_REGIONS_MAX / 64];
};

struct track_point {
	char name[VHD_TRACK_NAME_MAX];
	struct sp_guid id;
	int64_t time;
	struct track_extent bits;
	uint64_t blocks;
	uint8_t block_shift;
	enum vhd_track_why why;
};

/* What a side-car says. */
struct track_book {
	struct store *store;
	struct track_head head;		/* the durable one */
	struct track_point *point;	/* head.points of them */
};

/* Changes gathered from several bitmaps, at one granularity. */
struct track_sum {
	uint64_t size, blocks;
	uint8_t shift;
	uint64_t *bits;
};

struct track {
	struct vhd_disk *d;
	struct store_folder *folder;
	bool owns_folder;
	char *name;			/* of the side-car in the folder */
	pthread_mutex_t lock;		/* the book, and all below that is not atomic */
	struct track_book book;
	uint8_t block_shift, region_shift;	/* these three change only while drained */
	uint64_t blocks;
	_Atomic uint64_t *fine;			/* blocks changed in the current interval */
	_Atomic uint64_t doubt[TRACK_REGIONS_MAX / 64];		/* in force: part of the durable head.doubt */
	_Atomic uint64_t wanted[TRACK_REGIONS_MAX / 64];	/* by writers who wait */
	_Atomic uint8_t touched[TRACK_REGIONS_MAX];		/* written since the last checkpoint */
	atomic_bool off;		/* records nothing any more, and what is on disk will not be believed */
	int why_off;			/* what failed; 0: switched off on purpose */
	int dead;			/* ... or might be believed: what would have to be recorded fails with this */
	bool bound;			/* the durable header names the leaf as it is being written */
	bool tidy;			/* closing: all is recorded, no region in doubt */
	_Atomic uint64_t rest_at;	/* time of the next checkpoint, monotonic ns */
	struct vhd_work work;
	bool posted;			/* @work is with the committer thread */
	pthread_cond_t idle;
};

/* ---- track_file.c ---- */

uint64_t track_blocks(uint64_t size, uint8_t shift);
size_t track_bitmap_bytes(uint64_t blocks);
uint8_t track_block_shift(uint64_t size);
uint8_t track_region_shift(uint64_t size);
/* Reads and checks everything but the bitmaps. @store stays the caller's. -EBADMSG with the finding, -EIO, -ENOMEM. */
int track_book_read(struct store *store, struct track_book *ret_book, struct sp_err *err);
void track_book_free(struct track_book *b);	/* not the store */
/* Writes both headers of an empty book into the empty store, durable. head is set but for the sequence. */
int track_book_create(struct track_book *b);
/* The next header, durable. On success it is the book's. */
int track_book_put_head(struct track_book *b, const struct track_head *head);
/* Room in the file that no durable header uses, and none of @also[0..n). */
uint64_t track_book_room(const struct track_book *b, uint64_t len, const struct track_extent *also, unsigned n);
/* Writes @count words as a bitmap, not synced. All clear: no room is taken. */
int track_book_put_bits(struct track_book *b, const uint64_t *words, uint64_t blocks, const struct track_extent *also,
			unsigned n, struct track_extent *ret_extent);
int track_book_put_table(struct track_book *b, const struct track_point *point, uint32_t points,
			 const struct track_extent *also, unsigned n, struct track_extent *ret_extent);
/* Adds a bitmap of the file to @sum. -EBADMSG: its checksum is wrong. */
int track_book_add_bits(const struct track_book *b, const struct track_extent *e, uint64_t blocks, uint8_t shift,
			struct track_sum *sum);
int track_sum_init(struct track_sum *sum, uint64_t size, uint8_t shift);
void track_sum_range(struct track_sum *sum, uint64_t offset, uint64_t len);	/* cut at the end of the disk */

/* ---- track_bind.c ---- */

/* EXACT, or why the header does not speak of the disk's leaf as it was when opened. */
enum vhd_track_why track_bind_check(struct vhd_disk *d, const struct track_head *h);
/* Puts the leaf into the header: as being written. */
void track_bind_open(struct vhd_disk *d, struct track_head *h);
/* ... or as closed, if that can be told from all that may come. */
int track_bind_clean(struct vhd_disk *d, struct track_head *h);
/* Where the side-car of the disk lies. *ret_name is the caller's, and the folder if *ret_owns. */
int track_place(struct vhd_disk *d, struct store_folder **ret_folder, bool *ret_owns, char **ret_name,
		struct sp_err *err);

/* ---- track.c ---- */

/* Adds what is known of the current interval from the file alone: the bitmap and all of each region in doubt. */
int track_add_current(const struct track_book *b, struct track_sum *sum);
/* The bits in memory, a copy; NULL: no memory. */
uint64_t *track_fine_copy(struct track *t);
/*
 * What was put into the file so far is synced, then @head names it. @point: the new points, head->points of them, taken
 * over on success; NULL: they stay. When the header cannot be written tracking ends: nobody knows which one is there.
 */
int track_commit_locked(struct track *t, const struct track_head *head, struct track_point *point);
/* Puts the bits as they are into the file, and takes the regions of @leave out of doubt. */
int track_checkpoint_locked(struct track *t, const uint64_t *leave);
/* Records nothing from now on, after making sure that what is on disk will not be believed. */
void track_end_locked(struct track *t, int why);
/* The regions written since the last call, forgotten as such. */
void track_take_touched(struct track *t, uint64_t *ret_mask);
/* Those in force become @mask; drained. */
void track_set_doubt(struct track *t, const uint64_t *mask);
int track_start_locked(struct vhd_disk *d, bool create, struct sp_err *err);	/* drained, under track_calls */
void track_free(struct track *t);
/* Another DataWriteGuid, durable. VHDX only; in nobody's lock but track.lock. */
int track_renew_identity(struct vhd_disk *d);
void track_rest_now(struct vhd_disk *d);	/* the checkpoint that is otherwise made now and then */

/* ---- track_point.c ---- */

/* Index of a point by name or id, or -1. */
int track_find(const struct track_book *b, const char *point);

static inline struct track *track_of(struct vhd_disk *d)
{
	return atomic_load_explicit(&d->track, memory_order_acquire);
}

#endif
