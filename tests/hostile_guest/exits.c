/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a processor of a guest can make the machine do: MSRs, hypercalls, ports, messages. The exits are called
 * directly, without KVM; behind them are a bus with its thread, a console, a clock and the registers that end a
 * machine.
 *
 * Of guest memory only pages may change that the guest has named in an MSR.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "tests/hostile_guest/guest.h"
#include "vmm/hv_int.h"
#include "vmm/power.h"
#include "vmm/rtc.h"
#include "vmm/serial.h"

#define RAM (2u << 20)
#define PAGES (RAM / VMBUS_PAGE_SIZE)
#define EXITS_VPS 2u
#define STEPS 2000u
#define UNTOUCHED 0x77

uint64_t exits_count;

struct machine {
	struct vmm_memory *memory;
	uint8_t *ram;
	struct vmm_hv *hv;
	struct vmm_bus *bus;
	struct vmm_pio *pio;
	struct vmm_serial *serial;
	struct vmm_rtc *rtc;
	struct vmm_power *power;
	bool named[PAGES];
	bool irq;
	uint64_t sent, received, stops;
	struct input *in;
};

/* ---- what the machine is told ---------------------------------------------------------------------------- */

static void inject(void *ctx, unsigned vp, uint8_t vector)
{
	session_check(vp < EXITS_VPS && vector >= 16, "vector %u for processor %u", vector, vp);
}

static uint16_t post_message(void *ctx, uint32_t connection_id, const void *payload, unsigned len)
{
	struct machine *m = ctx;

	session_check(len <= VMBUS_MESSAGE_MAX, "a message of %u bytes", len);
	return (uint16_t)vmm_bus_message(m->bus, connection_id, payload, len);
}

static void signal_event(void *ctx, uint32_t connection_id)
{
	session_check(connection_id <= 0xffffff, "connection %u", connection_id);
}

static void reset(void *ctx)
{
}

static void crash(void *ctx, const uint64_t param[5], const char *text, unsigned len)
{
	session_check(len <= HV_CRASH_TEXT_MAX && text[len] == '\0', "a crash message of %u bytes", len);
}

static const struct vmm_hv_ops hv_ops = {
	.inject = inject, .post_message = post_message, .signal_event = signal_event, .reset = reset, .crash = crash,
};

static void bus_post(void *ctx, unsigned vp, const void *payload, unsigned len)
{
	struct machine *m = ctx;

	vmm_hv_post(m->hv, vp, payload, len);
}

static void bus_event(void *ctx, unsigned vp, unsigned flag)
{
	struct machine *m = ctx;

	vmm_hv_set_event(m->hv, vp, flag);
}

static int bus_bind(void *ctx, uint32_t connection_id, int event_fd)
{
	return 0;
}

static void bus_unbind(void *ctx, uint32_t connection_id, int event_fd)
{
}

static const struct vmm_bus_ops bus_ops = {
	.post = bus_post, .set_event = bus_event, .bind_signal = bus_bind, .unbind_signal = bus_unbind,
};

static void irq(void *ctx, bool level)
{
	struct machine *m = ctx;

	session_check(m->irq != level, "an interrupt line that was %d already", level);
	m->irq = level;
}

static void output(void *ctx, uint8_t byte)
{
	((struct machine *)ctx)->received++;
}

static const struct vmm_serial_ops serial_ops = { .irq = irq, .output = output };

static void stop(void *ctx, enum vmm_stop reason)
{
	session_check(reason == VMM_STOP_POWER_OFF || reason == VMM_STOP_RESET, "stop for reason %d", (int)reason);
	((struct machine *)ctx)->stops++;
}

/* ---- exits ------------------------------------------------------------------------------------------------ */

static uint32_t any_msr(struct input *in)
{
	static const uint32_t known[] = {
		HV_MSR_GUEST_OS_ID, HV_MSR_HYPERCALL, HV_MSR_VP_INDEX, HV_MSR_RESET, HV_MSR_TIME_REF_COUNT,
		HV_MSR_REFERENCE_TSC, HV_MSR_TSC_FREQUENCY, HV_MSR_APIC_FREQUENCY, HV_MSR_VP_ASSIST_PAGE,
		HV_MSR_SCONTROL, HV_MSR_SVERSION, HV_MSR_SIEFP, HV_MSR_SIMP, HV_MSR_EOM, HV_MSR_CRASH_CTL,
		HV_MSR_TSC_INVARIANT,
	};

	switch (input_below(in, 8)) {
	case 0:
		return (uint32_t)input_number(in);
	case 1:
		return 0x40000000 + input_below(in, 0x200);
	case 2:
		return HV_MSR_SINT0 + input_below(in, HV_SINTS + 1);
	case 3:
		return HV_MSR_CRASH_P0 + input_below(in, 6);
	default:
		return known[input_below(in, SP_ARRAY_SIZE(known))];
	}
}

static uint64_t any_page(struct input *in)
{
	return (uint64_t)input_below(in, PAGES + 2) << VMBUS_PAGE_SHIFT;
}

static void write_msr(struct machine *m)
{
	unsigned vp = input_below(m->in, EXITS_VPS);
	uint32_t msr = any_msr(m->in);
	uint64_t value = input_chance(m->in, 2) ? any_page(m->in) | input_below(m->in, 4) :
			 input_chance(m->in, 2) ? input_below(m->in, 256) : input_number(m->in);

	/* Before: the write itself fills some of these pages. */
	if ((value & HV_PAGE_ENABLE) && value >> VMBUS_PAGE_SHIFT < PAGES)
		m->named[value >> VMBUS_PAGE_SHIFT] = true;
	vmm_hv_wrmsr(m->hv, vp, msr, value);
}

static void read_msr(struct machine *m)
{
	uint64_t value = 0x5ca1ab1e0ddba11;

	if (vmm_hv_rdmsr(m->hv, input_below(m->in, EXITS_VPS), any_msr(m->in), &value))
		session_check(value != 0x5ca1ab1e0ddba11, "an MSR without a value");
}

/* A message block somewhere in a page of its own, which the host only reads. */
static void hypercall(struct machine *m)
{
	uint32_t block[64] = { input_chance(m->in, 8) ? input_below(m->in, 6) : 4, 0,
			       input_chance(m->in, 8) ? input_below(m->in, 3) : 1,
			       input_chance(m->in, 4) ? (uint32_t)input_number(m->in) : input_below(m->in, 241),
			       1 + input_below(m->in, 25) };
	uint64_t control = (input_chance(m->in, 8) ? input_number(m->in) : input_chance(m->in, 3) ? 0x5d : 0x5c) |
			   (input_chance(m->in, 4) ? HV_CALL_FAST : 0), input = any_page(m->in);
	uint32_t status;

	for (unsigned i = 6; i < 20; i++)
		block[i] = input_chance(m->in, 2) ? (uint32_t)input_number(m->in) : input_below(m->in, 4);
	input += input_chance(m->in, 4) ? input_below(m->in, VMBUS_PAGE_SIZE) :
		 input_below(m->in, VMBUS_PAGE_SIZE / 256) * 256;
	if (input + sizeof(block) <= RAM) {
		memcpy(m->ram + input, block, sizeof(block));
		m->named[input >> VMBUS_PAGE_SHIFT] = true;
		m->named[(input + sizeof(block) - 1) >> VMBUS_PAGE_SHIFT] = true;
	}
	status = vmm_hv_hypercall(m->hv, input_below(m->in, EXITS_VPS), control,
				  input_chance(m->in, 16) ? input_number(m->in) : input, input_number(m->in));
	session_check(status <= 0xff, "hypercall status %#x", status);
}

static uint16_t any_port(struct input *in)
{
	static const uint16_t ports[] = { VMM_PORT_COM1, VMM_PORT_COM1, VMM_PORT_RTC, VMM_PORT_SLEEP, VMM_PORT_RESET };

	if (input_chance(in, 4))
		return (uint16_t)input_number(in);
	return (uint16_t)(ports[input_below(in, SP_ARRAY_SIZE(ports))] + input_below(in, 10) - 1);
}

static void port(struct machine *m)
{
	unsigned size = 1u << input_below(m->in, 3);

	if (input_chance(m->in, 2)) {
		vmm_pio_write(m->pio, any_port(m->in), size, (uint32_t)input_number(m->in));
		m->sent += size;
		return;
	}
	vmm_pio_read(m->pio, any_port(m->in), size);	/* of the value a processor takes as many bytes */
}

static void console(struct machine *m)
{
	uint8_t bytes[64] = { 0 };
	size_t room = vmm_serial_room(m->serial), taken = vmm_serial_input(m->serial, bytes, sizeof(bytes));

	session_check(taken <= room && taken <= sizeof(bytes), "%zu bytes into a room of %zu", taken, room);
}

static void message(struct machine *m)
{
	uint8_t payload[VMBUS_MESSAGE_MAX];
	unsigned status;

	for (unsigned i = 0; i < sizeof(payload); i += 8) {
		uint64_t value = i == 0 ? 1 + input_below(m->in, 25) : input_number(m->in);

		memcpy(payload + i, &value, 8);
	}
	status = vmm_bus_message(m->bus, input_chance(m->in, 8) ? input_below(m->in, 8) : VMBUS_CONNECTION_NEW, payload,
				 input_below(m->in, sizeof(payload) + 1));
	session_check(status == VMM_BUS_SUCCESS || status == VMM_BUS_INVALID_PARAMETER ||
		      status == VMM_BUS_INVALID_CONNECTION || status == VMM_BUS_BUSY, "message status %u", status);
}

/* ---- a session ----------------------------------------------------------------------------------------------- */

static void begin(struct machine *m)
{
	struct vmm_hv_opts opts = { .vps = EXITS_VPS, .tsc_hz = 1000000000, .invariant_tsc = true };

	session_check(vmm_memory_new(RAM, &m->memory, NULL) == 0, "no memory");
	m->ram = vmm_memory_map(m->memory, 0, RAM);
	memset(m->ram, UNTOUCHED, RAM);
	session_check(vmm_hv_new(&opts, m->memory, &hv_ops, m, &m->hv, NULL) == 0 &&
		      vmm_bus_new(vmm_memory_bus(m->memory), &bus_ops, m, EXITS_VPS, &m->bus, NULL) == 0 &&
		      vmm_pio_new(&m->pio) == 0 && vmm_serial_new(&serial_ops, m, &m->serial) == 0 &&
		      vmm_rtc_new(&m->rtc) == 0 && vmm_power_new(stop, m, &m->power) == 0, "no machine");
	session_check(vmm_pio_claim(m->pio, VMM_PORT_COM1, VMM_SERIAL_PORTS, &vmm_serial_ports, m->serial) == 0 &&
		      vmm_pio_claim(m->pio, VMM_PORT_RTC, 2, &vmm_rtc_ports, m->rtc) == 0 &&
		      vmm_pio_claim(m->pio, VMM_PORT_SLEEP, VMM_POWER_PORTS, &vmm_power_ports, m->power) == 0, "ports");
	vmm_hv_wrmsr(m->hv, 0, HV_MSR_GUEST_OS_ID, 0x8100000000000001);
	vmm_hv_wrmsr(m->hv, 0, HV_MSR_HYPERCALL, HV_PAGE_ENABLE);
	m->named[0] = true;
}

static void end(struct machine *m)
{
	static uint8_t untouched[VMBUS_PAGE_SIZE];

	vmm_bus_free(m->bus);
	memset(untouched, UNTOUCHED, sizeof(untouched));
	for (unsigned i = 0; i < PAGES; i++)
		session_check(m->named[i] ||
			      memcmp(m->ram + (size_t)i * VMBUS_PAGE_SIZE, untouched, sizeof(untouched)) == 0,
			      "page %u changed, which the guest never named", i);
	session_check(m->received <= m->sent, "%llu bytes came out of the console, %llu went in",
		      (unsigned long long)m->received, (unsigned long long)m->sent);
	vmm_hv_free(m->hv);
	vmm_serial_free(m->serial);
	vmm_rtc_free(m->rtc);
	vmm_power_free(m->power);
	vmm_pio_free(m->pio);
	vmm_memory_free(m->memory);
}

void exits_run(struct input *in)
{
	static void (*const steps[])(struct machine *m) = {
		write_msr, write_msr, read_msr, hypercall, hypercall, port, port, port, console, message,
	};
	struct machine m = { .in = in };

	begin(&m);
	for (unsigned i = 0; i < STEPS && !input_ended(in); i++) {
		steps[input_below(in, SP_ARRAY_SIZE(steps))](&m);
		exits_count++;
	}
	end(&m);
}
