/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_KERNEL_FILE_H
#define SPINDLE_VMM_KERNEL_FILE_H
/*
 * Where kernel and initrd come from: a file of the host, or a file inside one of the machine's own disks, so that a
 * guest boots the kernel it has installed. The latter is read without mounting anything, from ext2, ext3 or ext4.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "vhd/vhd.h"

#define VMM_KERNEL_FILE_MAX (1ull << 30)

/*
 * "diskN:/path" or "diskN:pM:/path": disk N, counted from 0 as the machine's disks were named; partition M as the table
 * counts, from 1. Anything else is a path of the host ("./disk0:/x" for a file of such a name).
 */
struct vmm_kernel_file {
	bool in_disk;
	unsigned disk;
	unsigned partition;		/* 0: not said */
	const char *path;		/* within what was given */
};

/* 0, or -EINVAL: begins like one in a disk, but goes on differently. */
int vmm_kernel_file_parse(const char *name, struct vmm_kernel_file *ret_file, struct sp_err *err);

/**
 * vmm_kernel_file_read - all of it into memory
 * @name: see struct vmm_kernel_file; symbolic links are followed, inside a disk within that file system
 * @disk, @disks: the machine's
 * @ret_bytes: released with sp_free()
 *
 * Without a partition's number: the file system on the whole disk, or the first partition with an ext file system that
 * has such a file. What is in a disk is hostile: time and memory are bounded. Any thread. Returns 0, -EINVAL, -ENOENT,
 * -EFBIG (more than VMM_KERNEL_FILE_MAX), -ENOTSUP (other file system), -EBADMSG (damaged one), -EIO, -ENOMEM.
 */
int vmm_kernel_file_read(const char *name, struct vhd_disk *const *disk, unsigned disks, uint8_t **ret_bytes,
			 size_t *ret_len, struct sp_err *err);

#endif
