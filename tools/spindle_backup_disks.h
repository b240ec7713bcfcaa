/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TOOLS_SPINDLE_BACKUP_DISKS_H
#define SPINDLE_TOOLS_SPINDLE_BACKUP_DISKS_H
/*
 * "create" in parts: where disks come from (files, a machine's configuration, a running machine), and what of them has
 * changed since the newest point.
 */
#include <json-c/json.h>

#include "tools/spindle_backup.h"
#include "vmm/requester.h"

struct backup_create_args {
	struct tool_progress progress;
	struct backup_create_opts opts;
	enum backup_level required;
	enum vhd_format_id format;
	const char *key, *require, *level, *image_root;
	const char *machine, *config;	/* NULL: disks are files on the command line */
	const char *pre, *post;
	const char *writer[VM_SET_WRITERS_MAX];	/* sockets, or folders of them */
	unsigned writers;
	bool no_quiesce, track, json;
};

/* ---- disks: spindle_backup_disks.c -------------------------------------------------------------------- */

struct backup_disks {
	struct backup_source source[BACKUP_DISKS_MAX];
	struct backup_disk_held {
		char *name, *path, *track;
		struct backup_range *range;
	} held[BACKUP_DISKS_MAX];
	unsigned count;
};

/* Opens @path read-only. Names are copied. */
int backup_disks_add(struct backup_disks *d, const char *name, const char *path, const struct vhd_open_opts *o,
		     struct sp_err *err);
void backup_disks_close(struct backup_disks *d);
/* Tracking point of a disk of the newest point; "": there is none, or the disk is new. *ret_point: its number. */
void backup_disks_newest(struct backup_set *set, const char *name, char ret_track[static 64], unsigned *ret_point);
/* One more range of what has changed since @since of disk @i: ascending. */
int backup_disks_range(struct backup_disks *d, unsigned i, uint64_t offset, uint64_t len, struct sp_err *err);
/* All ranges of disk @i are there. */
void backup_disks_known(struct backup_disks *d, unsigned i, unsigned since);
int backup_disks_set_track(struct backup_disks *d, unsigned i, const char *point, struct sp_err *err);

/* Names of this set's tracking points begin so in every side-car; a new one ends by chance. */
void backup_track_prefix(struct backup_set *set, char ret[static 32]);
void backup_track_new(struct backup_set *set, char ret[static 64]);

/* ---- files that nobody uses: spindle_backup_track.c ---------------------------------------------------- */

/* Records changes of the image from now on (its side-car is made where there is none), sets a new point and opens the
 * image for reading, with what has changed since the set's newest point. */
int backup_track_file(struct backup_set *set, struct backup_disks *d, const char *name, const char *path,
		      const struct vhd_open_opts *o, struct sp_err *err);
/* Afterwards: closes the disks, and forgets all points of this set but what its newest point names. @o: for each. */
void backup_track_settle(struct backup_set *set, struct backup_disks *d, const struct vhd_open_opts *o);

/* ---- a machine's configuration: spindle_backup_setup.c ------------------------------------------------- */

struct backup_setup_disk {
	char name[BACKUP_NAME_MAX + 1];	/* inside the set */
	char device[32];		/* "scsi0:1"; "": the configuration does not say */
	char *file, *root;		/* absolute; root NULL: the folder of the file */
	enum vhd_format_id format;
};

struct backup_setup {
	char machine[80];		/* its name; "": not given */
	char *text;			/* the configuration, with names of the set in place of the disks' files */
	struct backup_setup_disk disk[BACKUP_DISKS_MAX];
	unsigned disks;
};

/* The disks that are kept and written: without those that are read-only or thrown away. @config stays the caller's. */
int backup_setup_take(json_object *config, struct backup_setup *ret, struct sp_err *err);
int backup_setup_read(const char *path, struct backup_setup *ret, struct sp_err *err);
void backup_setup_free(struct backup_setup *s);
/* @text of a point with the files of @folder (of @ending) in place of names of the set. The caller's. */
int backup_setup_files(const char *text, struct backup_set *set, unsigned number, const char *folder,
		       const char *ending, json_object **ret, struct sp_err *err);
/* The same for a machine beside the one it was, whose writes are thrown away: the files of the point in @folder. */
int backup_setup_throw_away(const char *text, struct backup_set *set, unsigned number, const char *folder,
			    json_object **ret, struct sp_err *err);

/* ---- what is made of them ------------------------------------------------------------------------------ */

/* spindle_backup_create.c */
int backup_create_tell(const char *set, const struct backup_create_args *a, const struct backup_create_result *r,
		       json_object *more);
/* spindle_backup_machine.c: exit statuses */
int backup_create_live(char **argv, struct backup_create_args *a);
int backup_create_stopped(char **argv, struct backup_create_args *a);

#endif
