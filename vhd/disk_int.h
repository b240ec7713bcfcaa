/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_DISK_INT_H
#define SPINDLE_VHD_DISK_INT_H
/*
 * What operations, tests and the live snapshot machinery may use of the disk layer beyond the public header.
 */
#include "vhd/image.h"
#include "vhd/store.h"
#include "vhd/vhd.h"

/* As vhd_disk_open(), with the files found in @folder (not taken over, must outlive the disk). */
int vhd_disk_open_in(struct store_folder *folder, const char *name, const struct vhd_open_opts *opts,
		     struct vhd_disk **ret_disk, struct sp_err *err);
/* From now on the folder given to vhd_disk_open_in() is closed with the disk. */
void vhd_disk_own_folder(struct vhd_disk *d);
/* Closes as a crashed process would: nothing is flushed or written, memory is released. */
void vhd_disk_abandon(struct vhd_disk *d);
/* The image of a layer; only to be called while no I/O is under way. */
struct vhd_image *vhd_disk_image(struct vhd_disk *d, unsigned layer);

/* Create an image inside a folder; final name at once, durable (directory included) on return. */
int vhd_create_in(struct store_folder *folder, const char *name, enum vhd_format_id format,
		  const struct vhd_format_create *c, struct sp_err *err);

/*
 * Bounded drain and leaf switch, for live snapshots. Between drain and resume no I/O of any queue is in flight and new
 * requests wait inside their queues.
 */
int vhd_disk_drain(struct vhd_disk *d, unsigned timeout_ms);	/* 0 or -ETIMEDOUT (then I/O goes on) */
void vhd_disk_resume(struct vhd_disk *d);
/* Drained only: flush, then put @leaf (a writable differencing image, child of the present leaf) on top. The old
 * leaf becomes a parent and is written no more. */
int vhd_disk_push_leaf(struct vhd_disk *d, struct vhd_image *leaf, struct sp_err *err);

#endif
