/* SPDX-License-Identifier: BSD-2-Clause */
/* The console and the two devices that need no more than a port: clock and power. */
#include <string.h>

#include "vmm/machine_int.h"

/* ---- between UART and backend ------------------------------------------------------------------------ */

static void uart_irq(void *ctx, bool level)
{
	struct vmm_machine *m = ctx;

	vmm_partition_irq(m->partition, VMM_GSI_COM1, level);
}

static void uart_output(void *ctx, uint8_t byte)
{
	struct vmm_machine *m = ctx;

	if (m->console)
		vmm_serial_backend_output(m->console, &byte, 1);
}

static void uart_drained(void *ctx)
{
	struct vmm_machine *m = ctx;

	if (m->console)
		vmm_serial_backend_kick(m->console);
}

static const struct vmm_serial_ops uart_ops = { .irq = uart_irq, .output = uart_output, .drained = uart_drained };

static size_t console_room(void *ctx)
{
	struct vmm_machine *m = ctx;

	return vmm_serial_room(m->serial);
}

static void console_input(void *ctx, const uint8_t *bytes, size_t len)
{
	struct vmm_machine *m = ctx;

	vmm_serial_input(m->serial, bytes, len);
}

static void console_escape(void *ctx, char key)
{
	if (key == 'x')
		vmm_machine_quit(ctx);
}

static const struct vmm_serial_backend_ops console_ops = {
	.room = console_room, .input = console_input, .escape = console_escape,
};

/* ---- power -------------------------------------------------------------------------------------------- */

static void guest_stops(void *ctx, enum vmm_stop reason)
{
	struct vmm_machine *m = ctx;

	vmm_partition_request(m->partition, reason);
}

/* ---- all of it ---------------------------------------------------------------------------------------- */

int machine_console_new(struct vmm_machine *m, struct sp_err *err)
{
	int r = vmm_serial_new(&uart_ops, m, &m->serial);

	if (r == 0)
		r = vmm_pio_claim(m->pio, VMM_PORT_COM1, VMM_SERIAL_PORTS, &vmm_serial_ports, m->serial);
	if (r == 0)
		r = vmm_rtc_new(&m->rtc);
	if (r == 0)
		r = vmm_pio_claim(m->pio, VMM_PORT_RTC, 2, &vmm_rtc_ports, m->rtc);
	if (r == 0)
		r = vmm_power_new(guest_stops, m, &m->power);
	if (r == 0)
		r = vmm_pio_claim(m->pio, VMM_PORT_SLEEP, VMM_POWER_PORTS, &vmm_power_ports, m->power);
	if (r < 0)
		return sp_err_set(err, r, "devices: %s", strerror(-r));
	r = vmm_serial_backend_new(m->loop, m->config->serial, &console_ops, m, &m->console, err);
	return r < 0 ? sp_err_prefix(err, r, "serial console") : 0;
}

void machine_console_free(struct vmm_machine *m)
{
	vmm_serial_backend_free(m->console);
	vmm_serial_free(m->serial);
	vmm_rtc_free(m->rtc);
	vmm_power_free(m->power);
}
