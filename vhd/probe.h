/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_PROBE_H
#define SPINDLE_VHD_PROBE_H
/*
 * What is on a virtual disk: partition table, partitions, file systems. By libblkid, without mounting anything.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "vhd/vhd.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Texts are UTF-8 as libblkid gives them, empty when there is none, cut when too long. */
struct vhd_filesystem {
	char type[32];		/* "ext4", "ntfs", "LVM2_member", ...; "ambiguous": several signatures */
	char usage[16];		/* "filesystem", "raid", "crypto", "other" */
	char label[256];
	char uuid[64];
};

struct vhd_partition {
	unsigned number;	/* as the table counts, from 1; logical MBR partitions from 5 */
	uint64_t offset, size;	/* bytes; always inside the disk */
	char type[40];		/* GPT: type GUID; MBR: "0x83" */
	char name[256];		/* GPT only */
	char uuid[64];
	bool container;		/* MBR extended partition: holds other partitions, no file system */
	struct vhd_filesystem fs;
};

struct vhd_probe_result {
	char table[16];		/* "gpt", "dos", ...; empty: no partition table */
	char table_uuid[64];
	struct vhd_filesystem fs;	/* directly on the disk, when there is no table */
	struct vhd_partition *partition;
	size_t partitions;
	bool incomplete;	/* some of what had to be read is unknown (missing parent) or not readable */
};

/**
 * vhd_probe_disk - find partitions and file systems
 * @d: open disk, any chain
 * @ret: filled on success, also when nothing is found; release with vhd_probe_fini()
 *
 * libblkid reads from a descriptor, so the few stretches it looks at are copied into a sparse memory file of the
 * disk's size: only what is allocated in the chain, a few MiB per partition. Any thread. Returns 0, -ENOMEM, -EIO.
 */
int vhd_probe_disk(struct vhd_disk *d, struct vhd_probe_result *ret, struct sp_err *err);
void vhd_probe_fini(struct vhd_probe_result *res);

#ifdef __cplusplus
}
#endif
#endif
