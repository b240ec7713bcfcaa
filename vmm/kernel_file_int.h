/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_KERNEL_FILE_INT_H
#define SPINDLE_VMM_KERNEL_FILE_INT_H
/*
 * One file out of an ext2, ext3 or ext4 file system that lies at [offset, offset + size) of a disk.
 */
#include "vmm/kernel_file.h"

int kernel_file_read_ext(struct vhd_disk *d, uint64_t offset, uint64_t size, const char *path, uint8_t **ret_bytes,
			 size_t *ret_len, struct sp_err *err);

#endif
