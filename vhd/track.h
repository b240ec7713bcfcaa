/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_TRACK_H
#define SPINDLE_VHD_TRACK_H
/*
 * Change tracking: which ranges of a disk changed since a named point. What is remembered lies beside the image in
 * "<image>.track" (docs/track-format.md).
 *
 *   vhd_disk_track() ──► every write of this open disk is recorded
 *   vhd_track_point("monday") ... writes ... vhd_track_point("tuesday") ... writes ...
 *   vhd_track_changes(since "monday", until "tuesday")   what a backup has to copy
 *
 * The answer may name too much, after a crash for example, and never too little. Where the record cannot be trusted
 * (the side-car is gone or damaged, the image was written by somebody else, or is another file) it is "everything",
 * with the reason in words, and the single range that is reported is then the whole disk: a caller who looks at nothing
 * but the ranges is right.
 *
 * What is compared: the content at the moment of a point, which the point makes durable first, with the content now.
 *
 * Threads: any thread may call these on one disk at any time, except from a queue's completion; calls on one disk wait
 * for each other. Points and vhd_disk_track() keep I/O waiting for a moment.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/guid.h"
#include "vhd/vhd.h"

#ifdef __cplusplus
extern "C" {
#endif

#define VHD_TRACK_SUFFIX ".track"
#define VHD_TRACK_NAME_MAX 64		/* bytes of a point's name, its end included */
#define VHD_TRACK_POINTS_MAX 256

/* Why everything may have changed. */
enum vhd_track_why {
	VHD_TRACK_EXACT,	/* not everything: the ranges are what is known */
	VHD_TRACK_OFF,		/* there is no side-car */
	VHD_TRACK_DAMAGED,	/* the side-car cannot be read or contradicts itself */
	VHD_TRACK_FOREIGN,	/* the image was written, replaced or moved by somebody who does not track */
	VHD_TRACK_UNCLEAN,	/* a crash, and the format has nothing to tell who wrote since (VHD, raw) */
	VHD_TRACK_FAILED,	/* the side-car could not be written */
	VHD_TRACK_NO_POINT,	/* the side-car is fine and has no such point */
};

/**
 * vhd_disk_track - record every change of @d from now on
 * @create: make a side-car where there is none, or in place of one that cannot be read
 *
 * To be called right after opening, before the first write: what was written before counts as "everything".
 * Returns 0 (also when it is on already), -ENOENT (no side-car, @create not set), -EROFS (disk open read-only),
 * -ENOTSUP (a block device: nothing there tells that somebody else wrote), -EBADMSG (unreadable, @create not set),
 * -ETIMEDOUT, -EIO, -ENOSPC, -ENOMEM.
 */
int vhd_disk_track(struct vhd_disk *d, bool create, struct sp_err *err);
bool vhd_disk_tracked(struct vhd_disk *d);

/**
 * vhd_track_point - name this moment
 * @name: 1 to VHD_TRACK_NAME_MAX - 1 bytes, no '/' or control characters, and not in use
 * @ret_id: identifies the point wherever a name is asked for, in the form of sp_guid_format_le(); may be NULL
 *
 * Waits for I/O under way, flushes, records durably, lets I/O go on. Durable on return; on failure there is no point.
 * Not between vhd_live_prepare() and vhd_live_commit() of this disk: the identity of a VHDX may change.
 * Returns 0, -EEXIST, -EINVAL, -ENOENT (tracking is not on), -ENFILE (VHD_TRACK_POINTS_MAX reached), -ETIMEDOUT, -EIO.
 */
int vhd_track_point(struct vhd_disk *d, const char *name, struct sp_guid *ret_id, struct sp_err *err);
/* The same while the caller has drained the disk (vhd/disk_int.h); with a live snapshot: after vhd_live_commit(), and
 * before the disks are resumed, so that the point is the cut. */
int vhd_track_point_drained(struct vhd_disk *d, const char *name, struct sp_guid *ret_id, struct sp_err *err);

/* Forgets a point, by name or id; changes since older points stay known. -ENOENT: no such point. */
int vhd_track_forget(struct vhd_disk *d, const char *point, struct sp_err *err);
/* Ends tracking and deletes the side-car. 0 also where it was not on. */
int vhd_track_off(struct vhd_disk *d, struct sp_err *err);

struct vhd_track_point {
	char name[VHD_TRACK_NAME_MAX];
	struct sp_guid id;
	int64_t time;			/* Unix seconds */
	enum vhd_track_why why;		/* not EXACT: since this point everything may have changed */
};

struct vhd_track_answer {
	enum vhd_track_why why;		/* anything but EXACT: everything */
	char reason[192];		/* in words; "" when EXACT */
	uint64_t bytes;			/* sum of the ranges reported */
	uint64_t size;			/* of the disk */
	uint32_t granularity;		/* ranges begin and end at multiples of it, or at the end of the disk */
};

/* One changed range; ascending, not adjacent to each other. Non-zero stops and is returned. */
typedef int (*vhd_track_range_fn)(void *user, uint64_t offset, uint64_t len);

/* Of an open disk, tracked or not. Oldest first; free with vhd_track_list_free(). -ENOENT: no side-car, -EBADMSG. */
int vhd_track_list(struct vhd_disk *d, struct vhd_track_point **ret_list, size_t *ret_count, struct sp_err *err);
void vhd_track_list_free(struct vhd_track_point *list);	/* NULL is fine */

/**
 * vhd_track_changes - what changed between two points
 * @d: any open disk. Tracked: as of now. Otherwise what its side-car proves, if it has one
 * @since, @until: name or id of a point; @until NULL: now. @since and @until the same: nothing
 * @fn: called without a lock, before the answer is complete; NULL: only count
 *
 * While the disk is written, changes that began before the call are in the answer.
 * Returns 0 (also for "everything"), what @fn returned, -EINVAL (@until before @since), -ENOMEM.
 */
int vhd_track_changes(struct vhd_disk *d, const char *since, const char *until, vhd_track_range_fn fn, void *user,
		      struct vhd_track_answer *ret_answer, struct sp_err *err);

#ifdef __cplusplus
}
#endif
#endif
