/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_FUSE_OPS_H
#define SPINDLE_FUSE_OPS_H
/*
 * The low-level callbacks: each turns one request of the kernel into calls of the engine, on the thread that
 * received it. The session's user data is a struct mnt_fs.
 */
#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>

#include "fuse/tree.h"

struct mnt_fs {
	struct tree *tree;
	struct vhd_disk *disk;
	bool writeback;			/* let the kernel hold dirty pages; see mnt_init() */
	void (*ready)(void *arg);	/* the kernel is connected: requests are being answered */
	void *arg;
};

extern const struct fuse_lowlevel_ops mnt_ops;

#endif
