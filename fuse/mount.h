/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_FUSE_MOUNT_H
#define SPINDLE_FUSE_MOUNT_H
/*
 * What the parts of vhd-mount share: the options, the mount under way, and the way messages go.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/err.h"
#include "vhd/vhd.h"

#define MNT_PARTITION_ANY 0u

/* ---- options.c ----------------------------------------------------------------------------------- */

struct mnt_options {
	char *image;			/* absolute, last component not resolved */
	char *mountpoint;		/* absolute */
	char *image_root;		/* absolute; NULL: the folder of the image */
	char *log;			/* absolute, or NULL */
	char *fuse;			/* "-o" words that are libfuse's, comma-separated, or NULL */
	struct vhd_open_opts open;
	bool foreground, layers, allow_other;
	bool files;			/* mount the file system of a partition ... */
	unsigned partition;		/* ... this one, or MNT_PARTITION_ANY */
	bool kernel;			/* ... with the kernel's own driver */
};

enum mnt_parsed { MNT_RUN, MNT_DONE, MNT_USAGE };

/* Prints what is wrong, or the help that was asked for. Free with mnt_options_fini() in any case. */
enum mnt_parsed mnt_options_parse(int argc, char **argv, struct mnt_options *ret_opts);
void mnt_options_fini(struct mnt_options *o);
static inline bool mnt_readonly(const struct mnt_options *o)
{
	return !(o->open.flags & VHD_OPEN_WRITE);
}

/* ---- main.c -------------------------------------------------------------------------------------- */

struct fuse_session;
struct tree;

/*
 * Two threads steer: main serves (and is the first worker's parent), the supervisor waits for signals and, with
 * --files, for the helper program. Whatever happens first ends the session; main then cleans up.
 */
struct mnt {
	struct mnt_options opts;
	struct vhd_disk *disk;
	struct tree *tree;
	char *info;			/* text of info.json */
	char *root;			/* folder that parents lie below */
	char *where;			/* where the session is mounted: the mount point, or a private folder */
	bool private_folder;		/* @where is ours to remove */
	bool setuid_reader;		/* the helper of --files is setuid root and has to get past FUSE's rule */
	struct fuse_session *session;
	pthread_t main_thread;
	int ready_fd;			/* to the waiting parent; -1 once told, or in the foreground */
	int signal_fd;			/* SIGTERM, SIGINT, SIGHUP, SIGCHLD */
	int stop_fd;			/* eventfd: the session is over */
	atomic_bool over;		/* main has left the session loop */
	atomic_int status;		/* exit status */
};

void mnt_log(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* As mnt_log(), but at most ten lines a second. For what a guest or an image can provoke. */
void mnt_log_limited(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The caller may go on: everything is mounted. Detaches from the terminal unless in the foreground. */
void mnt_ready(struct mnt *m);
/* Writes back what the kernel still holds of our files; the session must be served. */
void mnt_flush_kernel(struct mnt *m);
/* Makes main leave the session loop. From the supervisor; returns when it has. */
void mnt_end(struct mnt *m);

/* ---- info.c -------------------------------------------------------------------------------------- */

/* The text of info.json; free with sp_free(). */
int mnt_info_text(struct vhd_disk *d, char **ret_text, struct sp_err *err);

/* ---- files.c ------------------------------------------------------------------------------------- */

struct files;

/* Chooses the partition and the helper program; nothing is started yet. */
int files_new(struct mnt *m, struct files **ret_files, struct sp_err *err);
void files_free(struct files *f);
/* The supervisor of a --files mount: starts the helper, waits for its end, ends the session. */
void *files_supervise(void *files);

#endif
