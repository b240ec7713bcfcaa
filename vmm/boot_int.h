/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_BOOT_INT_H
#define SPINDLE_VMM_BOOT_INT_H
/*
 * Where things lie in guest RAM before the first instruction, and what the two kernel loaders tell the rest.
 *
 *	0x500		GDT
 *	0x6000		PVH start_info, its module and its memory map
 *	0x7000		zero page (boot_params)
 *	0x9000		PML4, PDPT, 4 PDs: identity map of 4 GiB
 *	0x20000		command line
 *	0x9fc00		end of conventional memory; reserved up to 1 MiB
 *	0xe0000		ACPI tables
 *	0xffff0		reset stub
 *	0x100000	kernel, wherever it wants to be from here on; initrd as high as it may
 */
#include <stddef.h>
#include <stdint.h>

#include "vmm/boot.h"

#define BOOT_GDT	0x500u
#define BOOT_START_INFO 0x6000u
#define BOOT_ZERO_PAGE	0x7000u
#define BOOT_PAGE_TABLES 0x9000u
#define BOOT_CMDLINE	0x20000u
#define BOOT_CMDLINE_ROOM 0x10000u
#define BOOT_BASE_END	0x9fc00u
#define BOOT_ACPI	0xe0000u
#define BOOT_STUB	0xffff0u
#define BOOT_HIGH	0x100000u	/* a kernel begins here or above */

/* What Linux takes when the image does not say: COMMAND_LINE_SIZE without the NUL. */
#define BOOT_CMDLINE_LINUX 2047u

/* A kernel that has been copied into RAM. */
struct boot_kernel {
	uint64_t entry;
	uint64_t start, end;		/* RAM it needs until it knows the memory map: nothing else may lie there */
	uint64_t initrd_max;		/* highest address an initrd's last byte may have */
	uint32_t cmdline_max;		/* bytes without the NUL */
	bool pvh;
	const uint8_t *setup;		/* bzImage: setup header, copied to 0x1f1 of the zero page; NULL: none */
	size_t setup_len;
};

/* Both check everything, then copy. 0, -EBADMSG, -ENOTSUP, -ENOSPC. */
int boot_bzimage_load(const struct vmm_memory *m, const uint8_t *image, size_t len, struct boot_kernel *ret_kernel,
		      struct sp_err *err);
int boot_elf_load(const struct vmm_memory *m, const uint8_t *image, size_t len, bool prefer_pvh,
		  struct boot_kernel *ret_kernel, struct sp_err *err);

/* Identity map of the first 4 GiB in pages of 2 MiB, at BOOT_PAGE_TABLES; the value for CR3. RAM is zero. */
uint64_t boot_page_tables(const struct vmm_memory *m);
/* Flat code (of 64 bits, or of 32 for PVH) at 0x10, flat data at 0x18, at BOOT_GDT. */
void boot_gdt(const struct vmm_memory *m, bool pvh);

/* The memory map as both boot protocols want it. */
struct boot_range {
	uint64_t addr, size;
	uint32_t type;			/* 1: RAM, 2: reserved */
};
#define BOOT_RANGES_MAX 4u
unsigned boot_memory_map(const struct vmm_memory *m, struct boot_range ret_range[BOOT_RANGES_MAX]);

/* Where the initrd and the command line went. */
struct boot_payload {
	uint64_t initrd, initrd_len, cmdline, rsdp;
};

void boot_zero_page(const struct vmm_memory *m, const struct boot_kernel *k, const struct boot_payload *p);
void boot_start_info(const struct vmm_memory *m, const struct boot_payload *p);

#endif
