/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The small devices a guest meets at I/O ports: clock, sleep and reset registers.
 */
#include "base/env.h"
#include "tests/unit/rows.h"
#include "vmm/power.h"
#include "vmm/rtc.h"

/* ---- clock ----------------------------------------------------------------------------------------- */

static int64_t now;

static int64_t fixed_time(void *arg)
{
	return now;
}

static void fixed_guid(void *arg, struct sp_guid *ret_guid)
{
	memset(ret_guid, 0, sizeof(*ret_guid));
}

static unsigned cmos(struct vmm_pio *pio, unsigned reg)
{
	vmm_pio_write(pio, VMM_PORT_RTC, 1, reg);
	return vmm_pio_read(pio, VMM_PORT_RTC + 1, 1);
}

/* Registers in BCD: second, minute, hour, weekday from Sunday = 1, day, month, year, century. */
static const struct moment {
	const char *name;
	int64_t time;
	uint8_t want[8];
} moments[] = {
	{ "epoch", 0, { 0x00, 0x00, 0x00, 5, 0x01, 0x01, 0x70, 0x19 } },
	{ "leap day", 1709210096, { 0x56, 0x34, 0x12, 5, 0x29, 0x02, 0x24, 0x20 } },
	{ "last second of a century", 4102444799, { 0x59, 0x59, 0x23, 5, 0x31, 0x12, 0x99, 0x20 } },
	{ "after it", 4102444800, { 0x00, 0x00, 0x00, 6, 0x01, 0x01, 0x00, 0x21 } },
};

static void time_of_day(void **state)
{
	static const uint8_t reg[8] = { 0, 2, 4, 6, 7, 8, 9, 0x32 };
	static const struct sp_env_hooks hooks = { .time = fixed_time, .guid = fixed_guid };
	const struct moment *c = *state;
	struct vmm_pio *pio;
	struct vmm_rtc *rtc;

	assert_int_equal(vmm_pio_new(&pio), 0);
	assert_int_equal(vmm_rtc_new(&rtc), 0);
	assert_int_equal(vmm_pio_claim(pio, VMM_PORT_RTC, 2, &vmm_rtc_ports, rtc), 0);
	now = c->time;
	sp_env_set_hooks(&hooks);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(cmos(pio, reg[i]), c->want[i]);
	assert_int_equal(cmos(pio, 0x80 | 2), c->want[1]);	/* bit 7 is not part of the index */
	sp_env_set_hooks(NULL);
	assert_int_equal(cmos(pio, 0x0a) & 0x80, 0);		/* no update under way */
	assert_int_equal(cmos(pio, 0x0b) & 0x06, 0x02);		/* 24 hours, BCD */
	assert_int_equal(cmos(pio, 0x0d), 0x80);
	assert_int_equal(cmos(pio, 0x0f), 0);
	vmm_rtc_free(rtc);
	vmm_pio_free(pio);
}

/* ---- power ----------------------------------------------------------------------------------------- */

static enum vmm_stop reason;

static void stop(void *ctx, enum vmm_stop why)
{
	assert_ptr_equal(ctx, &reason);
	reason = why;
}

static const struct out {
	const char *name;
	uint16_t port;
	unsigned size;
	uint32_t value;
	enum vmm_stop want;
} outs[] = {
	{ "S5, as Linux writes it", 0x600, 1, 0x34, VMM_STOP_POWER_OFF },
	{ "sleep type without enable", 0x600, 1, 0x14, VMM_STOP_NONE },
	{ "wake status cleared", 0x601, 1, 0x80, VMM_STOP_NONE },
	{ "S5 to the status register", 0x601, 1, 0x34, VMM_STOP_NONE },
	{ "reset", 0x602, 1, 0x01, VMM_STOP_RESET },
	{ "another value to the reset register", 0x602, 1, 0x34, VMM_STOP_NONE },
	{ "two bytes", 0x600, 2, 0x3434, VMM_STOP_NONE },
};

static void power(void **state)
{
	const struct out *c = *state;
	struct vmm_power *p;
	struct vmm_pio *pio;

	assert_int_equal(vmm_pio_new(&pio), 0);
	assert_int_equal(vmm_power_new(stop, &reason, &p), 0);
	assert_int_equal(vmm_pio_claim(pio, VMM_PORT_SLEEP, VMM_POWER_PORTS, &vmm_power_ports, p), 0);
	reason = VMM_STOP_NONE;
	vmm_pio_write(pio, c->port, c->size, c->value);
	assert_int_equal(reason, c->want);
	assert_int_equal(vmm_pio_read(pio, VMM_PORT_SLEEP + 1, 1) & 0x80, 0);
	vmm_power_free(p);
	vmm_pio_free(pio);
}

int main(void)
{
	int failed = ROWS_RUN(moments, time_of_day);

	failed += ROWS_RUN(outs, power);
	return failed != 0;
}
