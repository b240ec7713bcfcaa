/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_POWER_H
#define SPINDLE_VMM_POWER_H
/*
 * How a guest ends itself: ACPI sleep control and status, and the reset register, at ports 0x600 to 0x602.
 */
#include "vmm/partition.h"
#include "vmm/pio.h"

struct vmm_power;

#define VMM_POWER_PORTS 3u

/* @stop: on a vCPU thread, with VMM_STOP_POWER_OFF or VMM_STOP_RESET; must not wait. */
int vmm_power_new(void (*stop)(void *ctx, enum vmm_stop reason), void *ctx, struct vmm_power **ret_power);
void vmm_power_free(struct vmm_power *power);
/* For vmm_pio_claim(pio, VMM_PORT_SLEEP, VMM_POWER_PORTS, &vmm_power_ports, power). */
extern const struct vmm_pio_ops vmm_power_ports;

#endif
