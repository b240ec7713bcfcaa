/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_LIVE_INT_H
#define SPINDLE_VHD_LIVE_INT_H
/*
 * What the files of live snapshots share:
 *
 *   live_names.c	  the names that belong to a disk of a set
 *   live_record.c	  small checksummed JSON files: the record of a set, the side-car of a snapshot
 *   live_prepare.c	  everything before the cut, and taking it back
 *   live_set.c		  the cut itself, and the tidy end
 *   live_freeze.c	  a layer becomes readable by others, or writable by a merge
 *   live_recover.c	  after a power cut
 *   live_list.c	  what there is
 *   live_move.c	  bytes of one layer into the one below, under running I/O
 *   live_merge.c	  deleting a snapshot in the background
 */
#include "vhd/disk_priv.h"
#include "vhd/live.h"
#include "vhd/ops_int.h"

/* ---- live_names.c -------------------------------------------------------------------------------- */

/* Names of one disk of a set, all in one directory, relative to the folder of the disk. */
struct live_names {
	char *image;		/* in use */
	char *file;		/* of the snapshot */
	char *child;		/* the new leaf's, until the end */
	char *meta;		/* the side-car's; NULL: it gets none */
};

int live_names_make(struct live_names *n, const char *image, const char *snapshot, const struct sp_guid *set,
		    unsigned index, bool with_meta);
void live_names_fini(struct live_names *n);
char *live_name_record(const char *image, bool committed);
char *live_name_meta(const char *file);
/* A layer that a merge has put in: "<name>~merge1" or "<name>~merge2", of snapshot @name. */
bool live_name_is_rest(const char *snapshot, const char *name);
bool live_name_reserved(const char *snapshot);

/* ---- live_record.c ------------------------------------------------------------------------------- */

struct live_entry {
	struct live_names names;	/* last components only */
	char *path;			/* of the image as its own folder had it: a hint, and for messages */
	struct sp_guid identity;	/* of the leaf that was in use */
};

struct live_record {
	struct sp_guid set;
	struct live_entry *entry;
	unsigned count;
};

/* A new file @name, durable. */
int live_record_write(struct store_folder *f, const char *name, const struct live_record *rec, struct sp_err *err);
/* -ENOENT, -EBADMSG (not complete: nothing of the set had been made yet). live_record_fini() after success. */
int live_record_read(struct store_folder *f, const char *name, struct live_record *ret, struct sp_err *err);
void live_record_fini(struct live_record *rec);

struct live_meta {
	struct sp_guid set;
	int64_t time;
	char level[VHD_LIVE_LEVEL_MAX];
};

int live_meta_write(struct store_folder *f, const char *name, const struct live_meta *m, struct sp_err *err);
int live_meta_read(struct store_folder *f, const char *name, struct live_meta *ret);
/* A file that may be missing goes, with what writing it may have left. Not synced. */
int live_file_remove(struct store_folder *f, const char *name);

/* ---- live_prepare.c ------------------------------------------------------------------------------ */

struct live_member {
	struct vhd_disk *disk;
	struct live_names names;
	struct vhd_image *leaf;		/* the new one; the disk's after the cut */
	char *path;			/* the snapshot's, for the layer that becomes it */
	bool busy, linked;
	int point;			/* 0: it has the tracking point */
};

struct vhd_live_set {
	struct sp_guid guid;
	unsigned drain_ms, count;
	bool hidden;			/* a merge's own: no side-car */
	bool recorded, committed;
	int64_t time;
	char *track_point;		/* NULL: none is wanted */
	char *prepared, *record;	/* names of the record, beside the first disk */
	struct live_member member[];
};

int live_prepare(struct vhd_disk *const *disks, unsigned count, const struct vhd_live_opts *opts, bool hidden,
		 struct vhd_live_set **ret_set, struct sp_err *err);
void live_set_free(struct vhd_live_set *set);
/* As a crashed process would: memory is released, nothing is written. Before the disks are abandoned. */
void live_set_abandon(struct vhd_live_set *set);
/* VHD: the leaf remembers when its parent was written last; tells it again. */
int live_tell_mtime(struct vhd_disk *d, struct sp_err *err);
/* One set or merge at a time. -EBUSY. */
int live_claim(struct vhd_disk *d, struct sp_err *err);
void live_unclaim(struct vhd_disk *d);

/* ---- live_freeze.c ------------------------------------------------------------------------------- */

/* Opens a file of the disk's chain as an image of the known format. */
int live_open_layer(struct vhd_disk *d, const char *name, unsigned store_flags, unsigned image_flags,
		    struct vhd_image **ret_image, struct sp_err *err);
/* The layer's file ends clean and readable by others. @broken: it takes no more changes, leave it as it is. */
int live_freeze(struct vhd_disk *d, unsigned level, unsigned drain_ms, bool broken, struct sp_err *err);
/* The reverse: others are kept out, and a writable image, not yet in the chain, is the caller's. -EBUSY. */
int live_thaw(struct vhd_disk *d, unsigned level, struct vhd_image **ret_image, struct sp_err *err);
/* Puts @img in place of the layer's image, which is closed, or with @abandon given up. -ETIMEDOUT: it is not. */
int live_replace(struct vhd_disk *d, unsigned level, struct vhd_image *img, unsigned drain_ms, bool abandon,
		 struct sp_err *err);

/* ---- live_move.c --------------------------------------------------------------------------------- */

struct live_move {
	struct vhd_disk *disk;
	unsigned target;		/* level; what moves is the level above */
	bool drained;			/* formats are locked by the caller, nobody is inside */
	bool gives_way;
	uint64_t rate, paced, start_ns;
	struct sp_job *job;
	uint64_t moved, zeroed;
	uint8_t *buffer;
	uint64_t unflushed;
};

/* When the next piece may begin, after one from @begin_ns to @now_ns. With gives_way, whoever has I/O under way (@busy)
 * gets the medium for as long as the piece had it, so that even without a rate the disk keeps half its speed. */
uint64_t live_move_due(const struct live_move *m, bool busy, uint64_t begin_ns, uint64_t now_ns);
/* Copies all the upper layer says into the target, flushed. */
int live_move_all(struct live_move *m, struct sp_err *err);
/* Bytes of data in a layer. */
int live_layer_bytes(struct vhd_disk *d, unsigned level, uint64_t *ret_bytes);

#endif
