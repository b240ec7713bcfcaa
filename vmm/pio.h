/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_PIO_H
#define SPINDLE_VMM_PIO_H
/*
 * I/O ports: who answers which. Ranges are claimed before the first vCPU runs; then the table is only read.
 */
#include <stddef.h>
#include <stdint.h>

struct vmm_pio;

/* @port is relative to the claimed range; size 1, 2 or 4. Called on vCPU threads, several at once: the device locks. */
struct vmm_pio_ops {
	uint32_t (*read)(void *device, uint16_t port, unsigned size);
	void (*write)(void *device, uint16_t port, unsigned size, uint32_t value);
};

int vmm_pio_new(struct vmm_pio **ret_pio);
void vmm_pio_free(struct vmm_pio *pio);
/* 0, -EEXIST (overlaps), -ENOSPC (table full). */
int vmm_pio_claim(struct vmm_pio *pio, uint16_t first, uint16_t count, const struct vmm_pio_ops *ops, void *device);
/* Ports nobody claimed read as all ones and ignore writes. An access across the end of a range is split into bytes. */
uint32_t vmm_pio_read(struct vmm_pio *pio, uint16_t port, unsigned size);
void vmm_pio_write(struct vmm_pio *pio, uint16_t port, unsigned size, uint32_t value);

#define VMM_PORT_RTC	  0x70u		/* 2 ports */
#define VMM_PORT_SIGNAL	  0xe4u		/* OUT of a connection id: SIGNAL_EVENT */
#define VMM_PORT_HYPERCALL 0xe5u	/* IN of 4 bytes: every other hypercall */
#define VMM_PORT_COM1	  0x3f8u	/* 8 ports, gsi 4 */
#define VMM_PORT_SLEEP	  0x600u	/* ACPI sleep control, 0x601 status */
#define VMM_PORT_RESET	  0x602u
#define VMM_GSI_COM1	  4u

#endif
