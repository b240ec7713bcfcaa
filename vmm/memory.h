/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_MEMORY_H
#define SPINDLE_VMM_MEMORY_H
/*
 * Guest RAM: one sealed memfd, below 3 GiB and from 4 GiB on. What lies between belongs to the APICs.
 */
#include <stdint.h>

#include "base/err.h"
#include "vmbus/mem.h"

struct vmm_memory;

#define VMM_LOW_RAM_MAX (3ull << 30)
#define VMM_HIGH_RAM	(4ull << 30)

/* @bytes: multiple of 2 MiB. Transparent huge pages where the host gives them. */
int vmm_memory_new(uint64_t bytes, struct vmm_memory **ret_memory, struct sp_err *err);
void vmm_memory_free(struct vmm_memory *m);
uint64_t vmm_memory_bytes(const struct vmm_memory *m);
uint64_t vmm_memory_low(const struct vmm_memory *m);	/* bytes from address 0 on */
uint64_t vmm_memory_high(const struct vmm_memory *m);	/* bytes from VMM_HIGH_RAM on */
/* Host address of [gpa, gpa + len) if all of it is RAM, else NULL. Any thread. */
void *vmm_memory_map(const struct vmm_memory *m, uint64_t gpa, uint64_t len);
/* For providers. */
const struct vmbus_mem *vmm_memory_bus(const struct vmm_memory *m);
/* All zero again, as after power on; the pages return to the host. No vCPU may run, and no provider may still have the
 * regions registered with io_uring: such a registration keeps the old pages. */
int vmm_memory_clear(struct vmm_memory *m);

#endif
