/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_BOOT_H
#define SPINDLE_VMM_BOOT_H
/*
 * Direct boot: kernel, initrd, command line and ACPI tables put into guest RAM, and the state the first processor
 * starts in. Kernel and initrd are bytes nobody vouches for.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "vmm/memory.h"

/* Where the boot processor begins. */
struct vmm_boot_state {
	enum { VMM_BOOT_LONG_MODE, VMM_BOOT_PVH } mode;
	uint64_t rip, rsi;		/* long mode: rsi is the zero page */
	uint64_t cr3;			/* long mode: identity map of 4 GiB, made by vmm_boot_load() */
	uint32_t ebx;			/* PVH: start_info */
	uint64_t gdt;			/* guest address of the table: 0x10 code, 0x18 data */
};

struct vmm_boot_opts {
	const void *kernel;		/* bzImage, or ELF64: vmlinux, bare guest */
	size_t kernel_len;
	const void *initrd;		/* NULL: none */
	size_t initrd_len;
	const char *command_line;	/* "" or NULL: none */
	unsigned cpus;
	bool prefer_pvh;		/* enter an ELF by its PVH note */
};

/* Fills RAM that is all zero. 0, -EBADMSG (kernel malformed), -ENOTSUP, -ENOSPC (does not fit into RAM), -EINVAL. */
int vmm_boot_load(const struct vmm_memory *m, const struct vmm_boot_opts *opts, struct vmm_boot_state *ret_state,
		  struct sp_err *err);

#endif
