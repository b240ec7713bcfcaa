/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "tests/unit/rows.h"
#include "vmm/acpi.h"

#define GPA 0xe0000u
#define ROOM 0x2000u

static uint8_t buf[ROOM];

static uint64_t get(const uint8_t *at, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = bytes; i-- > 0;)
		v = v << 8 | at[i];
	return v;
}

static uint8_t sum(const uint8_t *at, size_t len)
{
	uint8_t s = 0;

	while (len-- > 0)
		s = (uint8_t)(s + *at++);
	return s;
}

static int build(unsigned cpus)
{
	uint64_t rsdp = 0;
	int len;

	memset(buf, 0, sizeof(buf));
	len = vmm_acpi_build(GPA, buf, sizeof(buf), cpus, &rsdp);
	assert_true(len > 0 && len <= (int)ROOM);
	assert_int_equal(rsdp, GPA);
	return len;
}

/* The table at a guest address: inside the buffer, named, summing up to zero. */
static const uint8_t *table(uint64_t gpa, const char *signature)
{
	const uint8_t *t = buf + (gpa - GPA);

	assert_in_range(gpa, GPA, GPA + ROOM - 36);
	assert_memory_equal(t, signature, 4);
	assert_in_range(get(t + 4, 4), 36, ROOM - (gpa - GPA));
	assert_int_equal(sum(t, get(t + 4, 4)), 0);
	return t;
}

static const uint8_t *fadt(void)
{
	return table(get(table(get(buf + 24, 8), "XSDT") + 36, 8), "FACP");
}

static void root(void **state)
{
	build(1);
	assert_memory_equal(buf, "RSD PTR ", 8);
	assert_int_equal(buf[15], 2);
	assert_int_equal(get(buf + 20, 4), 36);
	assert_int_equal(sum(buf, 20), 0);
	assert_int_equal(sum(buf, 36), 0);
	assert_int_equal(get(table(get(buf + 24, 8), "XSDT") + 4, 4), 36 + 2 * 8);
}

static void fixed(void **state)
{
	const uint8_t *f;

	build(2);
	f = fadt();
	assert_int_equal(get(f + 4, 4), 276);
	assert_int_equal(f[8], 6);
	assert_int_equal(get(f + 109, 2), 0x0004);
	assert_int_equal(get(f + 112, 4), 1u << 20 | 1u << 10 | 1u << 5 | 1u << 4);
	assert_memory_equal(f + 116, "\1\10\0\1\2\6\0\0\0\0\0\0", 12);	/* reset: port 0x602 */
	assert_int_equal(f[128], 1);
	assert_memory_equal(f + 244, "\1\10\0\1\0\6\0\0\0\0\0\0", 12);
	assert_memory_equal(f + 256, "\1\10\0\1\1\6\0\0\0\0\0\0", 12);
	assert_int_equal(get(f + 40, 4), get(f + 140, 8));
	table(get(f + 140, 8), "DSDT");
}

static const struct cpus {
	const char *name;
	unsigned cpus;
} cpus[] = { { "1 processor", 1 }, { "2 processors", 2 }, { "17 processors", 17 }, { "64 processors", 64 } };

static void processors(void **state)
{
	const struct cpus *c = *state;
	const uint8_t *m;

	build(c->cpus);
	m = table(get(table(get(buf + 24, 8), "XSDT") + 44, 8), "APIC");
	assert_int_equal(get(m + 4, 4), 44 + 8 * c->cpus + 12);
	assert_int_equal(get(m + 36, 4), 0xfee00000);
	assert_int_equal(get(m + 40, 4), 0);
	for (unsigned i = 0; i < c->cpus; i++) {
		const uint8_t *e = m + 44 + 8 * i;

		assert_int_equal(get(e, 2), 0x0800);
		assert_int_equal(e[2], i);
		assert_int_equal(e[3], i);
		assert_int_equal(get(e + 4, 4), 1);
	}
	assert_memory_equal(m + 44 + 8 * c->cpus, "\1\14\0\0\0\0\300\376\0\0\0\0", 12);
}

static void refused(void **state)
{
	uint64_t rsdp = 7;

	assert_int_equal(vmm_acpi_build(GPA, buf, ROOM, 0, &rsdp), -EINVAL);
	assert_int_equal(vmm_acpi_build(GPA, buf, ROOM, 65, &rsdp), -EINVAL);
	for (size_t room = 0; room < 900; room++) {
		uint8_t *exact = malloc(room ? room : 1);

		rsdp = 7;
		memset(exact, 0, room);
		if (vmm_acpi_build(GPA, exact, room, 16, &rsdp) < 0)
			assert_int_equal(rsdp, 7);
		free(exact);
	}
	assert_int_equal(vmm_acpi_build(GPA, buf, 300, 1, &rsdp), -ENOSPC);
}

/* ---- what another implementation reads in the byte code --------------------------------------------- */

static char *disassemble(const char *name, const uint8_t *t)
{
	char folder[] = "/tmp/spindle-acpi-XXXXXX", command[256], path[128], *text = calloc(1, 65536);
	FILE *f;

	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/%s.aml", folder, name);
	f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(t, 1, get(t + 4, 4), f), get(t + 4, 4));
	fclose(f);
	snprintf(command, sizeof(command), "cd %s && iasl -d %s.aml >log 2>&1 && ! grep -i 'error\\|warning' log",
		 folder, name);
	if (system(command) != 0)
		fail_msg("iasl objects to the %s in %s", name, folder);
	snprintf(path, sizeof(path), "%s/%s.dsl", folder, name);
	f = fopen(path, "rb");
	assert_non_null(f);
	assert_true(fread(text, 1, 65535, f) > 0);
	fclose(f);
	snprintf(command, sizeof(command), "rm -r %s", folder);
	assert_int_equal(system(command), 0);
	return text;
}

static void contains(const char *text, const char *const *want)
{
	for (; *want; want++)
		if (!strstr(text, *want))
			fail_msg("\"%s\" not found in:\n%s", *want, text);
}

static void by_iasl(void **state)
{
	static const char *const dsdt_has[] = {
		"Scope (_SB)", "Device (VMBS)", "Name (_HID, \"VMBUS\")", "Device (COM1)", "EisaId (\"PNP0501\")",
		"IO (Decode16,", "0x03F8,             // Range Minimum", "0x08,               // Length",
		"IRQNoFlags ()",
		"{4}", "Name (_S5, Package (0x04)", NULL,
	};
	static const char *const fadt_has[] = { "Hardware Reduced (V5) : 1", "Reset Register Supported (V2) : 1",
					       NULL };
	char *text;

	if (system("iasl -v >/dev/null 2>&1") != 0)
		skip();
	build(4);
	text = disassemble("dsdt", table(get(fadt() + 140, 8), "DSDT"));
	contains(text, dsdt_has);
	free(text);
	text = disassemble("fadt", fadt());
	contains(text, fadt_has);
	free(text);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(root), cmocka_unit_test(fixed), cmocka_unit_test(refused), cmocka_unit_test(by_iasl),
	};
	int failed = cmocka_run_group_tests_name("acpi", tests, NULL, NULL);

	return failed + ROWS_RUN(cpus, processors) != 0;
}
