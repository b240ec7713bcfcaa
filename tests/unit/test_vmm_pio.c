/* SPDX-License-Identifier: BSD-2-Clause */
/* I/O ports: claims, and accesses on, across and outside of them. */
#include <errno.h>

#include "base/bytes.h"
#include "tests/unit/rows.h"
#include "vmm/pio.h"

/* Remembers the last write, reads as its port numbers. */
struct device {
	unsigned writes, size;
	uint16_t port;
	uint32_t value;
};

static uint32_t device_read(void *arg, uint16_t port, unsigned size)
{
	return 0x03020100u + port * 0x01010101u;
}

static void device_write(void *arg, uint16_t port, unsigned size, uint32_t value)
{
	struct device *d = arg;

	d->writes++;
	d->port = port;
	d->size = size;
	d->value = value;
}

static const struct vmm_pio_ops ops = { device_read, device_write };

static const struct claim_case { const char *name; uint16_t first, count; int want; } claim_cases[] = {
	{ "beside, below", 0xf8, 8, 0 },
	{ "beside, above", 0x108, 1, 0 },
	{ "the same", 0x100, 8, -EEXIST },
	{ "overlaps the begin", 0xf9, 8, -EEXIST },
	{ "overlaps the end", 0x107, 8, -EEXIST },
	{ "inside", 0x103, 1, -EEXIST },
	{ "around", 0x0, 0xffff, -EEXIST },
	{ "no ports", 0x200, 0, -EINVAL },
	{ "last port", 0xffff, 1, 0 },
	{ "past the last port", 0xffff, 2, -EINVAL },
};

static void claim(void **state)
{
	const struct claim_case *c = *state;
	struct vmm_pio *pio;

	assert_int_equal(vmm_pio_new(&pio), 0);
	assert_int_equal(vmm_pio_claim(pio, 0x100, 8, &ops, NULL), 0);
	assert_int_equal(vmm_pio_claim(pio, c->first, c->count, &ops, NULL), c->want);
	vmm_pio_free(pio);
}

static const struct access_case {
	const char *name;
	uint16_t port;
	unsigned size;
	uint32_t read;
	unsigned writes;
	uint16_t last_port;
	uint32_t last_value;
} access_cases[] = {
	{ "one byte", 0x100, 1, 0x03020100, 1, 0, 0x44332211 },
	{ "four bytes", 0x104, 4, 0x07060504, 1, 4, 0x44332211 },
	{ "across the end", 0x106, 4, 0xffff0706, 2, 7, 0x22 },
	{ "across the begin", 0xfe, 4, 0x0100ffff, 2, 1, 0x44 },
	{ "nobody, one byte", 0x80, 1, 0xff, 0, 0, 0 },
	{ "nobody, two bytes", 0x80, 2, 0xffff, 0, 0, 0 },
	{ "nobody, four bytes", 0x80, 4, 0xffffffff, 0, 0, 0 },
	{ "past the last port", 0xffff, 4, 0xffffffff, 0, 0, 0 },
};

static void access_ports(void **state)
{
	const struct access_case *c = *state;
	struct device d = { 0 };
	struct vmm_pio *pio;

	assert_int_equal(vmm_pio_new(&pio), 0);
	assert_int_equal(vmm_pio_claim(pio, 0x100, 8, &ops, &d), 0);
	assert_int_equal(vmm_pio_read(pio, c->port, c->size), c->read);
	vmm_pio_write(pio, c->port, c->size, 0x44332211);
	assert_int_equal(d.writes, c->writes);
	assert_int_equal(d.port, c->last_port);
	assert_int_equal(d.value, c->last_value);
	vmm_pio_free(pio);
}

static void full(void **state)
{
	struct vmm_pio *pio;
	unsigned n = 0;

	assert_int_equal(vmm_pio_new(&pio), 0);
	while (vmm_pio_claim(pio, (uint16_t)n, 1, &ops, NULL) == 0)
		n++;
	assert_in_range(n, 16, 1024);
	assert_int_equal(vmm_pio_claim(pio, (uint16_t)n, 1, &ops, NULL), -ENOSPC);
	vmm_pio_free(pio);
}

static const struct single_row singles[] = { { "table full", full } };

int main(void)
{
	return ROWS_RUN(claim_cases, claim) + ROWS_RUN(access_cases, access_ports) + ROWS_RUN(singles, rows_single);
}
