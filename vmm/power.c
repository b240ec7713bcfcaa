/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmm/power.h"

#include <errno.h>

#include "base/alloc.h"
#include "vmm/acpi.h"

enum { SLEEP_CONTROL, SLEEP_STATUS, RESET };

#define SLEEP_ENABLE 0x20u	/* of the sleep control register, ACPI 6.3, 4.8.3.7 */

struct vmm_power {
	void (*stop)(void *ctx, enum vmm_stop reason);
	void *ctx;
};

int vmm_power_new(void (*stop)(void *ctx, enum vmm_stop reason), void *ctx, struct vmm_power **ret_power)
{
	struct vmm_power *p = sp_zalloc(sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->stop = stop;
	p->ctx = ctx;
	*ret_power = p;
	return 0;
}

void vmm_power_free(struct vmm_power *power)
{
	sp_free(power);
}

/* Status: bit 7 would say "woken up", which a machine that is off never does. */
static uint32_t power_read(void *device, uint16_t port, unsigned size)
{
	return 0;
}

/* S5 is the only state the tables offer, so every sleep is that one. */
static void power_write(void *device, uint16_t port, unsigned size, uint32_t value)
{
	struct vmm_power *p = device;

	if (size != 1)
		return;
	if (port == SLEEP_CONTROL && (value & SLEEP_ENABLE))
		p->stop(p->ctx, VMM_STOP_POWER_OFF);
	else if (port == RESET && value == VMM_ACPI_RESET_VALUE)
		p->stop(p->ctx, VMM_STOP_RESET);
}

const struct vmm_pio_ops vmm_power_ports = { power_read, power_write };
