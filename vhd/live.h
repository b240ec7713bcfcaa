/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_LIVE_H
#define SPINDLE_VHD_LIVE_H
/*
 * Snapshots of disks in use: taken over a set of disks at one instant, listed, and deleted in the background while
 * their guest goes on writing. The names are those of the offline snapshots (ops.h), so vhd-tool lists, reverts and
 * deletes them too: "<stem>.<ext>" is always the leaf, a snapshot is "<stem>.<name>.<ext>" below it.
 *
 *	 prepare (slow, guest runs)    commit (milliseconds, I/O waits)	  finish (guest runs)
 *	────────────────────────────► ───────────────────────────────► ──────────────────────► new leaves in use
 *	 children made, names linked   flush, record durable, switch	  names moved, record gone
 *	 any failure: abort, the disks go on as they were
 *
 * A record lies beside the first disk of a set: "<leaf>.live-prepared" until the commit renames it to "<leaf>.live".
 * That one rename decides for all disks: after a power cut vhd_live_recover() finds the first name and takes everything
 * back, or the second and goes on to the end, before the disks are opened for writing again.
 *
 * Files are reached through the folder of each disk (vhd_disk_open_in(), or the one that vhd_disk_open() made), never
 * by host paths: a confined process can do all of this.
 *
 * Threads: a set belongs to one thread at a time, not to one in a queue's completion. I/O of any thread may run
 * throughout. One set or merge per disk at a time: -EBUSY.
 */
#include "base/err.h"
#include "base/guid.h"
#include "base/job.h"
#include "vhd/store.h"
#include "vhd/vhd.h"

#define VHD_LIVE_DISKS_MAX 256
#define VHD_LIVE_DRAIN_MS 2000
#define VHD_LIVE_LEVEL_MAX 32	/* bytes of a consistency text, its end included */

/* ---- snapshot of a set --------------------------------------------------------------------------- */

struct vhd_live_set;

struct vhd_live_opts {
	const char *name;		/* 1 to 200 bytes, no '/', '\\' or control characters */
	struct sp_guid set;		/* identifies the set; zero: drawn */
	unsigned drain_ms;		/* how long in-flight I/O may take to end; 0: VHD_LIVE_DRAIN_MS */
	const char *track_point;	/* each disk whose changes are tracked gets it at the cut; NULL: none */
};

/**
 * vhd_live_prepare - everything about a snapshot that takes time
 * @disks: 1..VHD_LIVE_DISKS_MAX, open for writing, each once; they stay the caller's and must outlive the set
 *
 * Afterwards there are a durable prepared record, a new durable leaf under a temporary name and the snapshot's second
 * name for each disk; the disks still write to their old leaves, for as long as it pleases.
 * Returns 0; -ENOTSUP (raw disk, or no hard links), -EEXIST (a snapshot of that name), -EROFS, -EBUSY (another set or
 * merge), -EINVAL (name), -ENOSPC, -EIO, the error a disk was poisoned with. On failure nothing is left behind.
 */
int vhd_live_prepare(struct vhd_disk *const *disks, unsigned count, const struct vhd_live_opts *opts,
		     struct vhd_live_set **ret_set, struct sp_err *err);

struct vhd_live_timing {
	uint64_t drain_ns;		/* gates closed until nobody was inside any more */
	uint64_t pause_ns;		/* gates closed until the last one was open again: what a guest can notice */
	int64_t time;			/* of the cut, Unix seconds */
};

/**
 * vhd_live_commit - all disks of the set get their new leaf at one instant, or none does
 * @drained: the caller has drained every disk, and resumes them itself; otherwise done here
 *
 * On failure every disk goes on writing to its old leaf and the set can only be aborted. -ETIMEDOUT: I/O did not end in
 * drain_ms. After success only vhd_live_finish() may follow. @ret_timing may be NULL; filled also on failure.
 */
int vhd_live_commit(struct vhd_live_set *set, bool drained, struct vhd_live_timing *ret_timing, struct sp_err *err);

/* After the commit: whether disk @index has the tracking point. -ENOENT: none was asked for, or it is not tracked; else
 * why the side-car has none. The snapshot is good all the same. */
int vhd_live_point(const struct vhd_live_set *set, unsigned index);

/**
 * vhd_live_finish - the tidy end of a committed set; the set is gone in any case
 * @level: "application", "file-system" or "crash", shown by vhd_live_list(); NULL: "crash". Until here "crash" stands
 *
 * Moves the new leaves to the names in use, lets others read the snapshots' files (shared lock), removes the record.
 * A failure leaves the snapshot valid and the record in place; the next recovery does the rest.
 */
int vhd_live_finish(struct vhd_live_set *set, const char *level, struct sp_err *err);

/* Instead of a commit, or after a failed one: takes everything back; the set is gone. NULL is fine. */
void vhd_live_abort(struct vhd_live_set *set);

const struct sp_guid *vhd_live_guid(const struct vhd_live_set *set);

/* ---- recovery ------------------------------------------------------------------------------------ */

/* Where a disk of the machine lies. */
struct vhd_live_place {
	struct store_folder *folder;
	const char *image;		/* the name in use, relative to it */
};

enum vhd_live_outcome { VHD_LIVE_NOTHING, VHD_LIVE_DROPPED, VHD_LIVE_COMPLETED };

/**
 * vhd_live_recover - finish or take back what a power cut or a kill interrupted
 * @places: all disks of the machine, none of them open; the disks of an interrupted set must all be among them
 *
 * To be called at each start of a machine, before its disks are opened. Harmless to repeat, also after being cut
 * itself.
 * *ret_outcome (may be NULL): the most that was done. Returns 0, -EBUSY (somebody has a disk of the set open),
 * -ENOENT (the record names a disk that is not in @places), -ESTALE (a disk was written by somebody else since the
 * commit), -EIO.
 */
int vhd_live_recover(const struct vhd_live_place *places, unsigned count, enum vhd_live_outcome *ret_outcome,
		     struct sp_err *err);

/* ---- list ---------------------------------------------------------------------------------------- */

struct vhd_live_snapshot {
	char name[256];
	char file[4096];		/* below the folder of the disk */
	char parent[256];		/* name of the snapshot below it, "" for the oldest */
	int64_t time;			/* of the cut; without a side-car the file's time */
	struct sp_guid set;		/* zero without a side-car: taken offline */
	char level[VHD_LIVE_LEVEL_MAX];	/* "" without a side-car */
	unsigned depth;			/* 1: the parent of the leaf */
	bool merging;			/* rest of an interrupted merge, see vhd_live_merge() */
};

/* Snapshots of an open disk, newest first; free *ret_list with vhd_live_list_free(). Any thread. */
int vhd_live_list(struct vhd_disk *d, struct vhd_live_snapshot **ret_list, size_t *ret_count, struct sp_err *err);
/* The same of a disk that is not open, or open somewhere else. */
int vhd_live_list_in(struct store_folder *folder, const char *image, struct vhd_live_snapshot **ret_list,
		     size_t *ret_count, struct sp_err *err);
void vhd_live_list_free(struct vhd_live_snapshot *list);	/* NULL is fine */

/* ---- delete -------------------------------------------------------------------------------------- */

struct vhd_live_merge_opts {
	uint64_t rate_limit;		/* bytes per second, 0: none. Not kept in the last rounds, see below */
	uint64_t small;			/* bytes left that are moved while I/O waits, 0: 16 MiB; up to 16 times as
					 * much if the guest keeps writing as fast as data goes down */
	unsigned drain_ms;		/* 0: VHD_LIVE_DRAIN_MS */
};

struct vhd_live_merge_result {
	uint64_t bytes_moved, bytes_zeroed;
	unsigned rounds;		/* 1, or more when the leaf itself went down */
	uint64_t pause_ns;		/* the longest time I/O waited */
};

/**
 * vhd_live_merge - delete snapshot @name of a disk in use
 * @job: progress and cancellation, may be NULL. -ECANCELED leaves a valid chain, and a later call goes on
 *
 * Blocks its caller until done; the disk's I/O goes on. The layer above the snapshot goes down into the snapshot's
 * file, which takes its name. If that layer is the live leaf, a fresh leaf takes the writes meanwhile and the former
 * one, "<stem>.<name>~merge1.<ext>", goes down; again until little is left (opts->small), which is moved while I/O
 * waits. The rate limit holds for the first round, in which this also rests after each piece for as long as the piece
 * took, when other I/O is under way at its end.
 *
 * At every instant the chain in the files is valid and reads right. After a kill or a power cut call it again, or use
 * vhd-tool snapshot delete. Returns 0, -ENOENT (no such snapshot), -EBUSY (another set or merge, or somebody reads the
 * snapshot's file), -EAGAIN (the guest writes faster than data goes down: all valid, try later), -ECANCELED, -ENOSPC,
 * -ENOTSUP (a VHD snapshot that has another one above it), -EIO.
 */
int vhd_live_merge(struct vhd_disk *d, const char *name, const struct vhd_live_merge_opts *opts, struct sp_job *job,
		   struct vhd_live_merge_result *ret, struct sp_err *err);

#endif
