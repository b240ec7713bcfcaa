/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_FUSE_TREE_H
#define SPINDLE_FUSE_TREE_H
/*
 * tree - what the mounted folder shows:
 *
 *	disk			the whole virtual disk
 *	p1 .. pN		one window per partition
 *	info.json		facts about the chain
 *	layers/<n>/disk		each layer with what lies below it, read-only; 0 is the leaf
 *
 * The tree is fixed at mount time. Only the chains of the layers come and go: they open on first use.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/err.h"
#include "vhd/vhd.h"

#define TREE_ROOT 1u		/* inode number of the mounted folder itself */
#define TREE_NAME_MAX 24

struct tree;

/* A file is either text (info.json) or a window into a disk. */
struct tree_file {
	char name[TREE_NAME_MAX];
	const char *text;		/* info.json, else NULL */
	struct vhd_disk *disk;		/* of a layer: only between tree_file_open() and tree_file_close() */
	uint64_t offset, size;		/* bytes of the disk that the file shows */
	bool writable;
	bool leaf;			/* shows the disk that can change */
	int layer;			/* number of the layer, -1: not below layers/ */
	unsigned users;			/* layers: how many have it open; under the tree's lock */
	_Atomic int64_t mtime_ns;
	/* How many writes the page cache of this file has seen, see tree_file_keep_cache(). */
	_Atomic uint64_t own_writes, foreign_seen;
};

struct tree_opts {
	struct vhd_disk *disk;			/* stays the caller's, must outlive the tree */
	const struct vhd_open_opts *open;	/* how the disk was opened; layers open alike. Must outlive the tree */
	const char *image_root;			/* of the layers' chains; must outlive the tree */
	const char *info;			/* text of info.json; must outlive the tree */
	bool layers;				/* show layers/ */
	uid_t uid;
	gid_t gid;
};

int tree_new(const struct tree_opts *opts, struct tree **ret_tree, struct sp_err *err);
void tree_free(struct tree *t);			/* closes the chains of layers too; NULL is fine */

/* Inode number of @name in the directory @dir; 0: there is none. */
uint64_t tree_lookup(const struct tree *t, uint64_t dir, const char *name);
/* The @index-th entry of @dir, "." and ".." not counted; 0: past the end. */
uint64_t tree_entry(const struct tree *t, uint64_t dir, uint64_t index, char ret_name[static TREE_NAME_MAX]);
/* 0, or -ENOENT. */
int tree_stat(const struct tree *t, uint64_t ino, struct stat *ret_st);
bool tree_is_dir(const struct tree *t, uint64_t ino);
struct tree_file *tree_file(struct tree *t, uint64_t ino);	/* NULL: not a file */

/* Any thread. Makes file->disk usable until the matching close; for a layer this may open its chain. */
int tree_file_open(struct tree *t, struct tree_file *f, struct sp_err *err);
void tree_file_close(struct tree *t, struct tree_file *f);

/*
 * The kernel caches each file by itself, while disk, p1 and layers/0/disk show the same bytes: a write through one
 * leaves stale pages in the others. As with block devices, the others notice at their next open: it may keep the
 * cache only if nobody else has written since the last one. A direct write passes by the file's own cache as well.
 */
void tree_file_wrote(struct tree *t, struct tree_file *f, bool direct);
bool tree_file_keep_cache(struct tree *t, struct tree_file *f);

/* Every file that may hold dirty pages; for the flush at the end. Index from 0; NULL past the end. */
const struct tree_file *tree_writable(const struct tree *t, unsigned index);

#endif
