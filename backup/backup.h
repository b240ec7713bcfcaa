/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_BACKUP_BACKUP_H
#define SPINDLE_BACKUP_BACKUP_H
/*
 * Backup sets. A repository is a folder, a set a folder in it: the disks that belong together, as they were at a number
 * of points in time.
 *
 *	set.json		the catalogue: which points there are. A point exists when it is listed here
 *	000007-root.vhdx	disk "root" at point 7; a child of the file of point 6, or without a parent
 *	000007.json		its manifest: what, when, how consistent, SHA-256 of everything
 *	*.part			a point that is being written
 *	lock			held by whoever uses the set: one writer, or any number of readers
 *
 * The files are ordinary VHDX images; docs/backup-format.md has the rest. Nothing that is written counts before the
 * catalogue has been replaced in one rename, so power may fail at any time.
 *
 * A set belongs to one thread at a time.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/guid.h"
#include "base/job.h"
#include "vhd/vhd.h"

#define BACKUP_NAME_MAX 64	/* bytes of a set's or a disk's name: letters, digits, '.', '_', '-' */
#define BACKUP_DISKS_MAX 64
#define BACKUP_MACHINE_MAX (1u << 20)	/* bytes of backup_create_opts.machine */

struct backup_set;

/* How trustworthy the content is; each includes what is before it. */
enum backup_level { BACKUP_CRASH, BACKUP_FILE_SYSTEM, BACKUP_APPLICATION, BACKUP_OFFLINE };

const char *backup_level_name(enum backup_level level);	/* "crash", "file-system", "application", "offline" */
int backup_level_from_name(const char *name, enum backup_level *ret_level);	/* -EINVAL */
bool backup_name_ok(const char *name);

/* ---- keys ---------------------------------------------------------------------------------------- */

/* From a file: PEM of an Ed25519 key (private: signs and verifies; public: verifies), or 16 to 4096 other bytes, the
 * secret of an HMAC-SHA256. */
struct backup_key;

int backup_key_load(const char *path, struct backup_key **ret_key, struct sp_err *err);
void backup_key_free(struct backup_key *key);		/* NULL is fine */

/* ---- set ----------------------------------------------------------------------------------------- */

#define BACKUP_WRITE  0x1u
#define BACKUP_CREATE 0x2u	/* with WRITE: make the set, and the folder of the repository, if they are missing */

/* -ENOENT, -EBUSY (in use by another program), -EBADMSG (catalogue damaged). */
int backup_set_open(const char *repository, const char *name, unsigned flags, struct backup_set **ret_set,
		    struct sp_err *err);
void backup_set_close(struct backup_set *set);		/* NULL is fine */
/* Names of the sets of a repository, sorted; free each and the array with sp_free(). */
int backup_repository_list(const char *repository, char ***ret_names, size_t *ret_count, struct sp_err *err);

struct backup_point {
	unsigned number, parent;	/* parent 0: a full backup */
	struct sp_guid id;
	int64_t time, guest_time;	/* Unix seconds; guest_time 0: not known */
	enum backup_level level;
	char reasons[256];		/* why no better level; "" */
	unsigned disks;
	uint64_t size;			/* of all disks, virtual */
	uint64_t stored;		/* of the files of this point */
	bool is_signed;
	uint8_t root[32];		/* over the whole manifest */
};

struct backup_disk_info {
	char name[BACKUP_NAME_MAX + 1], file[BACKUP_NAME_MAX + 16];
	char source[1024];		/* what it was copied from, as it was called */
	char track[64];			/* change tracking point the next backup may start from, "" */
	uint64_t size, source_size;	/* of the disk; a raw source may be no multiple of a sector */
};

const struct sp_guid *backup_set_id(const struct backup_set *set);
unsigned backup_points(const struct backup_set *set);	/* oldest first */
unsigned backup_point_number(const struct backup_set *set, unsigned index);
/* Point being written when somebody died, or 0; and whether pruning was interrupted. */
unsigned backup_incomplete(const struct backup_set *set);
bool backup_prune_pending(const struct backup_set *set);
/* @number 0: the newest. -ENOENT: no such point. -EBADMSG: its manifest is damaged. */
int backup_point_info(struct backup_set *set, unsigned number, struct backup_point *ret, struct sp_err *err);
int backup_disk_info(struct backup_set *set, unsigned number, unsigned disk, struct backup_disk_info *ret,
		     struct sp_err *err);

/* backup_create_opts.machine of a point, the caller's; NULL: it has none. */
int backup_machine(struct backup_set *set, unsigned number, char **ret_text, struct sp_err *err);

/* ---- create -------------------------------------------------------------------------------------- */

struct backup_range {
	uint64_t offset, len;
};

struct backup_source {
	const char *name;		/* of the disk inside the set */
	const char *path;		/* told in the manifest */
	struct vhd_disk *disk;		/* must not change meanwhile */
	bool changes_known;		/* only @changed differs from the point @changes_since */
	unsigned changes_since;		/* number of a point; anything but the newest: ignored */
	const struct backup_range *changed;	/* ascending, not overlapping */
	size_t changes;
	const char *track;		/* backup_disk_info.track of the new point, NULL: none */
};

struct backup_create_opts {
	bool full;			/* do not build on the newest point */
	enum backup_level level;
	const char *reasons;
	int64_t guest_time;
	const char *machine;		/* what else belongs to it, as backup_machine() gives it back; NULL: nothing */
	const struct backup_key *key;
	uint64_t rate_limit;		/* bytes per second read, 0: none */
	unsigned threads;
};

struct backup_create_result {
	unsigned number;
	bool full, continued;
	uint64_t bytes_read, bytes_written;
};

/**
 * backup_create - one more point
 *
 * The disks are those of the newest point (by name), or the new point is a full one. What an interrupted call left is
 * continued: it compares, and writes only what is missing. On failure for lack of space the unfinished files are
 * deleted; after a cancellation they stay for the next call. Older points are not touched in any case.
 */
int backup_create(struct backup_set *set, const struct backup_source *sources, unsigned count,
		  const struct backup_create_opts *opts, struct sp_job *job, struct backup_create_result *ret,
		  struct sp_err *err);

/* ---- verify, restore ----------------------------------------------------------------------------- */

struct backup_finding {
	unsigned number;		/* point */
	const char *file;
	const char *text;		/* what is wrong */
};

struct backup_verify_opts {
	unsigned number;		/* only this point and those it stands on; 0: all */
	const char *only_file;		/* only this one, NULL: all */
	bool content;			/* also read each disk through its chain */
	const struct backup_key *key;	/* signatures must be there and right */
	unsigned threads;
	uint64_t rate_limit;
	void (*found)(void *arg, const struct backup_finding *f);
	void *arg;
};

/* 0: all is well; -EBADMSG: @found was called. Other errors: verification could not be done. */
int backup_verify(struct backup_set *set, const struct backup_verify_opts *opts, struct sp_job *job,
		  uint64_t *ret_findings, struct sp_err *err);

/* Copies a disk of a point into a new image, and compares what was written with the manifest before the name appears.
 * @disk: index. -EEXIST unless @replace. */
int backup_restore(struct backup_set *set, unsigned number, unsigned disk, const char *target,
		   enum vhd_format_id format, bool replace, unsigned threads, struct sp_job *job, struct sp_err *err);

/* ---- prune, copy --------------------------------------------------------------------------------- */

struct backup_keep {
	unsigned last, daily, weekly;	/* how many; 0: rule not used. The newest point is always kept */
};

/* Which points the rules drop; @ret_drop has room for backup_points(). Answers how many. */
unsigned backup_prune_plan(struct backup_set *set, const struct backup_keep *keep, unsigned *ret_drop,
			   struct sp_err *err);
/* Drops points; the next one that stays takes over what they hold. Also finishes an interrupted prune (@count 0). */
int backup_prune(struct backup_set *set, const unsigned *drop, unsigned count, const struct backup_key *key,
		 struct sp_job *job, struct sp_err *err);

/* All points that @to does not have yet. Resumable: calling it again goes on. */
int backup_replicate(struct backup_set *from, struct backup_set *to, uint64_t rate_limit, unsigned threads,
		     struct sp_job *job, unsigned *ret_copied, struct sp_err *err);

#endif
