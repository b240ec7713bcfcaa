/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_DISK_PRIV_H
#define SPINDLE_VHD_DISK_PRIV_H
/*
 * disk - what the files of the disk layer share:
 *
 *   parent.c	   where a child's parent may be, and is it the right one
 *   chain.c	   open and close, layer by layer
 *   disk.c	   facts about an open disk, vhd_disk_map()
 *   disk_resolve.c   a place for each byte: flat map first, formats otherwise
 *   disk_io.c	   plain blocking reads and writes
 *   disk_zero.c   discard and write zeroes
 *   disk_commit.c flush with group commit, poison, return of freed space
 *   queue.c	   the asynchronous door
 *   switch.c	   drain and leaf switch
 *   disk_grow.c   a larger disk under running I/O
 *   track*.c	   which ranges changed since when
 *   disk_edit.c   layers taken out or replaced under running I/O
 *
 * Lock order: commit.lock, then meta, then epoch.lock. None is held during payload I/O, except partial, which is held
 * for a whole read-modify-write and comes before all others.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "vhd/disk_int.h"
#include "vhd/epoch.h"
#include "vhd/flatmap.h"

struct vhd_layer {
	struct vhd_image *img;
	char *path;			/* absolute; in a memory folder "/name" */
};

/* Leaders flush for everybody who asked before they began. */
struct vhd_commit {
	pthread_mutex_t lock;
	pthread_cond_t done_cond;
	uint64_t asked, done;
	int result;			/* of the last flush */
	bool running;
	pthread_cond_t work_cond;	/* the committer thread's mailbox, see queue.c */
	struct vhd_work *work, **work_tail;
	pthread_t thread;
	bool thread_started, thread_stop;
};

struct vhd_disk {
	struct store_folder *folder;
	bool owns_folder;
	char *root;			/* absolute, parents lie below it; "" for a memory folder */
	unsigned open_flags;		/* VHD_OPEN_* */
	enum vhd_orphan orphan;

	struct vhd_layer *layer;	/* [0] is the base: levels count upwards */
	_Atomic unsigned layers;	/* changes while drained, under meta; counted from anywhere */
	unsigned layer_room;
	struct vhd_image *leaf;		/* = layer[layers - 1].img; meta, or drained */
	_Atomic unsigned leaf_level;
	_Atomic unsigned chain_edits;	/* a layer was taken out or replaced; changes while drained */
	bool edit_switched;		/* ... and the leaf is another file now; drained */
	atomic_bool live_busy;		/* a set or a merge is at work, see live.h */
	bool orphaned;			/* the base names a parent that was not found */
	bool below;			/* the base's parent was left out on purpose */

	_Atomic uint64_t size;		/* grows while drained; looked at from anywhere */
	uint32_t logical_sector, physical_sector;
	bool writable;
	bool threaded;			/* stores are host files: blocking work goes to the committer thread */

	pthread_mutex_t meta;		/* every call on an image but flush_write() */
	pthread_mutex_t partial;	/* read-modify-write of one sector at a time */
	bool begun;			/* begin_write() has been done; meta */
	_Atomic int poison;		/* errno of the first failed sync */
	atomic_bool unsynced;		/* a write has completed since the last sync began */
	atomic_bool written;		/* one has completed since the disk was opened */

	struct track *_Atomic track;	/* NULL: changes were never recorded. Set once, while drained */
	pthread_mutex_t track_calls;	/* the public calls of track.h */

	struct flatmap map;
	struct epoch epoch;
	uint64_t grace_tag, next_tag;	/* freed space waiting for a grace period; meta */
	struct vhd_commit commit;
};

/* ---- chain.c, parent.c ---- */

int disk_find_parent(struct vhd_disk *d, struct vhd_layer *child, struct vhd_layer *ret_parent, struct sp_err *err);
/* The part of an absolute path below the root, or NULL. */
const char *disk_below_root(const struct vhd_disk *d, const char *path);
unsigned disk_store_flags(const struct vhd_disk *d, bool writable);

/* ---- switch.c ---- */

/* The steps of vhd_disk_push_leaf(), for many disks at once: the first two may fail, the last one cannot. */
int disk_leaf_fits(struct vhd_disk *d, const struct vhd_image *leaf, struct sp_err *err);
int disk_leaf_reserve(struct vhd_disk *d);			/* drained */
void disk_leaf_put(struct vhd_disk *d, struct vhd_image *leaf, char *path);	/* drained, flushed; takes @path */

/* ---- disk_edit.c: see there ---- */

int disk_edit_begin(struct vhd_disk *d, unsigned drain_ms);	/* 0 or -ETIMEDOUT; then I/O goes on */
void disk_edit_end(struct vhd_disk *d);
/* No flush runs, nobody else calls a format; I/O goes on where it needs no format. */
void disk_formats_lock(struct vhd_disk *d);
void disk_formats_unlock(struct vhd_disk *d);
/* Within an edit. Another image of the same content at @level; returns the old one, still open. */
struct vhd_image *disk_edit_replace(struct vhd_disk *d, unsigned level, struct vhd_image *img);
/* Within an edit. Layer @level goes; the one below takes over its name and place, and is the leaf if it was. */
struct vhd_image *disk_edit_remove(struct vhd_disk *d, unsigned level);
/* The name of the layer below the folder of the disk; NULL if it lies elsewhere. Valid until the next edit. */
const char *disk_layer_name(const struct vhd_disk *d, unsigned level);

/* ---- disk_resolve.c ---- */

enum disk_where { DISK_DATA, DISK_ZERO, DISK_BELOW, DISK_UNKNOWN };

struct disk_place {
	enum disk_where where;
	uint64_t len;
	unsigned level;		/* which layer decides, from the base */
	uint64_t file_offset;
	bool direct_write;
};

/* Asks the formats. Under meta. */
int disk_ask_locked(struct vhd_disk *d, uint64_t offset, uint64_t len, struct disk_place *ret_place);
/* Lock-free from the flat map when it knows, otherwise asks and remembers. The caller is inside the epoch. */
int disk_resolve(struct vhd_disk *d, uint64_t offset, uint64_t len, struct disk_place *ret_place);

static inline struct store *disk_store(struct vhd_disk *d, unsigned level)
{
	return d->layer[level].img->store;
}

/* Bytes at @p may be overwritten in place: in the leaf, and nothing has to be recorded. */
static inline bool disk_is_direct(struct vhd_disk *d, const struct disk_place *p)
{
	return p->where == DISK_DATA && p->direct_write &&
	       p->level == atomic_load_explicit(&d->leaf_level, memory_order_relaxed);
}

/* ---- disk_io.c ---- */

int disk_range_check(const struct vhd_disk *d, uint64_t offset, uint64_t len);
int disk_write_check(const struct vhd_disk *d, uint64_t offset, uint64_t len);
/* Before the first change: GUIDs renewed, log started. Under meta. */
int disk_begin_locked(struct vhd_disk *d);
/* Room for sector-aligned payload; *ret_ticket to be given back by disk_commit_ticket() if it needs_commit. */
int disk_prepare(struct vhd_disk *d, uint64_t offset, uint64_t len, struct vhd_ticket *ret_ticket);
int disk_commit_ticket(struct vhd_disk *d, const struct vhd_ticket *t, int payload_result);
bool disk_reads_zero(const struct vhd_disk *d, const struct disk_place *p);
/* The longest piece at @offset that is either part of one sector or whole sectors. */
uint64_t disk_sector_piece(const struct vhd_disk *d, uint64_t offset, uint64_t len, bool *ret_whole);
/* As the public calls, by a caller who is inside the epoch already. */
int disk_read_inside(struct vhd_disk *d, const struct iovec *iov, int iovcnt, uint64_t offset, uint64_t len);
int disk_write_inside(struct vhd_disk *d, const struct iovec *iov, int iovcnt, uint64_t offset, uint64_t len);
int disk_zero_inside(struct vhd_disk *d, uint64_t offset, uint64_t len, bool must_be_zero);
static inline void disk_wrote(struct vhd_disk *d)
{
	if (!atomic_load_explicit(&d->unsynced, memory_order_relaxed))
		atomic_store_explicit(&d->unsynced, true, memory_order_release);
	if (!atomic_load_explicit(&d->written, memory_order_relaxed))
		atomic_store_explicit(&d->written, true, memory_order_release);
}

/* ---- track.c: what the rest of the disk layer tells change tracking ---- */

static inline bool disk_tracked(struct vhd_disk *d)
{
	return atomic_load_explicit(&d->track, memory_order_relaxed) != NULL;
}

/* Notes a change in memory. False: its region is not in doubt yet, disk_track_mark() must come first. */
bool disk_track_try(struct vhd_disk *d, uint64_t offset, uint64_t len);
/* Brings the regions into doubt, durably; blocks for a sync. Does nothing without tracking. */
int disk_track_mark(struct vhd_disk *d, uint64_t offset, uint64_t len);
/* Before each change, by a caller inside the epoch. */
static inline int disk_track_note(struct vhd_disk *d, uint64_t offset, uint64_t len)
{
	if (__builtin_expect(!disk_tracked(d), 1) || disk_track_try(d, offset, len))
		return 0;
	return disk_track_mark(d, offset, len);
}
void disk_track_flushed(struct vhd_disk *d);	/* a flush has succeeded: a moment to rest */
/* Drained: another leaf is on top, or the disk has grown from @old_size. */
void disk_track_switched(struct vhd_disk *d);
void disk_track_grown(struct vhd_disk *d, uint64_t old_size);
/* The flush of an orderly close has been done, the images are still open. */
void disk_track_closing(struct vhd_disk *d);
/* Tracking is gone, once the committer thread has done its part. @abandon not set: the images have been closed, their
 * files are still open and locked, and the record says so. With @abandon only while drained, or at the end. */
void disk_track_closed(struct vhd_disk *d, bool abandon);

/* ---- disk_commit.c ---- */

int disk_commit_init(struct vhd_disk *d);
void disk_commit_fini(struct vhd_disk *d);
int disk_flush(struct vhd_disk *d);
/* Records the first failed sync. Returns @r, or, when it is 0, the failure of another sync: the kernel tells only one
 * of several at a time that it lost a write. */
int disk_sync_result(struct vhd_disk *d, int r);
/* No metadata is dirty, and none is on its way to the disk, which a plain sync would overtake. */
bool disk_sync_is_enough(struct vhd_disk *d);
/* Hands freed space back when nobody can reach it any more. Under meta. */
void disk_reclaim_locked(struct vhd_disk *d);

/* Blocking work on behalf of a queue: run() on the committer thread, in order. */
struct vhd_work {
	void (*run)(struct vhd_work *w);
	struct vhd_work *next;
};
int disk_work_post(struct vhd_disk *d, struct vhd_work *w);	/* 0, or -errno: no thread to be had */

#endif
