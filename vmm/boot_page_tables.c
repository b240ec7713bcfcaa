/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the processor needs to be in protected or long mode from its first instruction: GDT and page tables.
 */
#include <string.h>

#include "base/bytes.h"
#include "vmm/boot_int.h"

#define PTE_PRESENT 0x01u
#define PTE_WRITE   0x02u
#define PTE_LARGE   0x80u

#define ENTRIES 512u
#define PAGE	4096u
#define DIRECTORIES 4u		/* 1 GiB each */

#define SEGMENT_CODE64 0x00af9b000000ffffull
#define SEGMENT_CODE32 0x00cf9b000000ffffull
#define SEGMENT_DATA   0x00cf93000000ffffull

static void put64(uint8_t *to, uint64_t value)
{
	le64_t v = le64_make(value);

	memcpy(to, &v, sizeof(v));
}

uint64_t boot_page_tables(const struct vmm_memory *m)
{
	uint8_t *table = vmm_memory_map(m, BOOT_PAGE_TABLES, (2 + DIRECTORIES) * PAGE);
	uint8_t *pdpt = table + PAGE, *directory = table + 2 * PAGE;

	put64(table, (BOOT_PAGE_TABLES + PAGE) | PTE_PRESENT | PTE_WRITE);
	for (unsigned i = 0; i < DIRECTORIES; i++)
		put64(pdpt + 8 * i, (BOOT_PAGE_TABLES + (2 + i) * PAGE) | PTE_PRESENT | PTE_WRITE);
	for (unsigned i = 0; i < DIRECTORIES * ENTRIES; i++)
		put64(directory + 8 * i, (uint64_t)i << 21 | PTE_PRESENT | PTE_WRITE | PTE_LARGE);
	return BOOT_PAGE_TABLES;
}

void boot_gdt(const struct vmm_memory *m, bool pvh)
{
	uint8_t *gdt = vmm_memory_map(m, BOOT_GDT, 4 * 8);

	put64(gdt + 0x10, pvh ? SEGMENT_CODE32 : SEGMENT_CODE64);
	put64(gdt + 0x18, SEGMENT_DATA);
}
