/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_DISK_VFS_H
#define SPINDLE_TESTS_DISK_VFS_H
/*
 * A database and its journal on a virtual disk, for SQLite: a sector that says how long the two are, and a region for
 * each. Every change of a length is on the disk before SQLite goes on, as in a file system that writes in order.
 */
#include <stdbool.h>

#include "vhd/vhd.h"

#define DISK_VFS_SIZE SP_MIB(32)	/* of the disk */

/* @name as of sqlite3_open_v2(). The disk stays the caller's. Several connections of one process. */
void disk_vfs_add(const char *name, struct vhd_disk *d);
void disk_vfs_remove(const char *name);
/* A journal lies there: whoever opens the database must roll back first. */
bool disk_vfs_journal(struct vhd_disk *d);

#endif
