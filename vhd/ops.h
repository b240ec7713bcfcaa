/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_OPS_H
#define SPINDLE_VHD_OPS_H
/*
 * Operations on whole images: jobs with progress and cancellation. Each returns 0 or a negative errno with the story
 * in @err; on failure or interruption nothing half-made stands under a final name.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/job.h"
#include "vhd/vhd.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- create -------------------------------------------------------------------------------------- */

struct vhd_create_opts {
	enum vhd_format_id format;
	enum vhd_kind kind;		/* a parent makes it differencing whatever this says */
	uint64_t size;			/* 0 with a parent: the parent's */
	uint32_t block_size, logical_sector, physical_sector;	/* 0: default */
	uint32_t log_size;		/* VHDX, 0: default */
	bool preallocate;		/* fixed: fully allocated on the host */
	const char *parent;		/* path of the parent, NULL: none */
	const char *image_root;
	bool replace;			/* overwrite an existing file (atomically); otherwise -EEXIST */
};

/* Written under a temporary name in the same folder, synced, renamed, folder synced. */
int vhd_create(const char *path, const struct vhd_create_opts *opts, struct sp_err *err);

/* ---- convert ------------------------------------------------------------------------------------- */

struct vhd_convert_opts {
	struct vhd_open_opts source;
	struct vhd_create_opts target;	/* size 0: the source's */
	unsigned threads;		/* 0: one per core */
	bool detect_zeroes;		/* look for zeros inside allocated data too */
	bool verify;			/* hash both afterwards, -EBADMSG on difference */
	bool replace;
};

/* Flattens the source chain into a new image; keeps holes; at most 64 MiB of buffers. */
int vhd_convert(const char *source, const char *target, const struct vhd_convert_opts *opts, struct sp_job *job,
		struct sp_err *err);
/* Streams to @fd, which may be a pipe: raw, VHD or VHDX, laid out so that it needs no seeking. */
int vhd_convert_stream(const char *source, int fd, const struct vhd_convert_opts *opts, struct sp_job *job,
		       struct sp_err *err);

/* ---- compare, hash ------------------------------------------------------------------------------- */

struct vhd_difference {
	bool differs;
	uint64_t offset;		/* first differing byte */
	uint64_t bytes_compared;
	bool size_differs;		/* the longer one's tail reads zero unless @differs */
};

int vhd_compare(struct vhd_disk *a, struct vhd_disk *b, bool strict_size, unsigned threads, struct sp_job *job,
		struct vhd_difference *ret_diff, struct sp_err *err);

#define VHD_HASH_CHUNK (1u << 20)

/* SHA-256 of the whole virtual disk, and of each MiB (the last one may be short). */
struct vhd_hash {
	uint8_t disk[32];
	uint64_t size, chunks;
	uint8_t (*chunk)[32];		/* free with vhd_hash_fini() */
};

int vhd_hash_disk(struct vhd_disk *d, unsigned threads, struct sp_job *job, struct vhd_hash *ret_hash,
		  struct sp_err *err);
void vhd_hash_fini(struct vhd_hash *h);

/* ---- merge, rebase, snapshot --------------------------------------------------------------------- */

struct vhd_merge_opts {
	const char *image_root;
	unsigned layers;		/* how many children go down, default 1: the leaf into its parent */
	bool keep;			/* leave the merged children in place instead of deleting them */
	bool dry_run;
	unsigned threads;
	uint64_t rate_limit;		/* bytes per second, 0: none */
};

struct vhd_merge_result {
	uint64_t bytes_moved, bytes_zeroed;
	char target[4096];		/* the image that now holds everything */
};

/*
 * The topmost @layers of the chain of @path go into the layer below them, which then takes the name @path (with keep it
 * stays where it is, and nothing is deleted). Crash-safe at every write: @path opens with the same content throughout.
 * Calling it again after an interruption completes it; a VHDX chain whose merge was begun or kept goes on to the
 * layer that was chosen then, whatever @layers says. Other children of the target are invalid afterwards.
 */
int vhd_merge(const char *path, const struct vhd_merge_opts *opts, struct sp_job *job, struct vhd_merge_result *ret,
	      struct sp_err *err);

struct vhd_rebase_opts {
	const char *image_root;
	bool unsafe;			/* only change the stored parent (same content under another name) */
	bool dry_run;
	unsigned threads;
};

/*
 * New parent for @path (NULL: none, becomes a dynamic image); safe mode first copies what would change. What @path
 * reads, and so its identity and its children, stay. In a dry run that succeeds @err tells what would be copied
 * (code 0).
 */
int vhd_rebase(const char *path, const char *new_parent, const struct vhd_rebase_opts *opts, struct sp_job *job,
	       struct sp_err *err);

/*
 * Offline snapshots of the image the operator calls by @path: create moves the present content to
 * "<stem>.<name>.<ext>" and makes @path a differencing child of it, so that the name in use stays the leaf. Only VHD
 * and VHDX (-ENOTSUP otherwise), and only where the file system has hard links. Revert deletes the snapshots taken
 * later than the one it goes back to. A dry run that succeeds puts into @err, with code 0, what would be done.
 */
struct vhd_snapshot {
	char name[256];
	char path[4096];
	int64_t time;			/* Unix seconds */
	unsigned depth;			/* 1: the parent of the leaf */
};

int vhd_snapshot_create(const char *path, const char *name, const char *image_root, struct sp_err *err);
int vhd_snapshot_list(const char *path, const char *image_root, struct vhd_snapshot **ret_list, size_t *ret_count,
		      struct sp_err *err);		/* free with vhd_snapshot_list_free() */
void vhd_snapshot_list_free(struct vhd_snapshot *list);	/* NULL is fine */
int vhd_snapshot_revert(const char *path, const char *name, const char *image_root, bool dry_run, struct sp_err *err);
int vhd_snapshot_delete(const char *path, const char *name, const char *image_root, bool dry_run, struct sp_job *job,
			struct sp_err *err);

#ifdef __cplusplus
}
#endif
#endif
