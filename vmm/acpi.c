/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Tables grow in one buffer; each is closed by its length and checksum. Two kinds of content: fields at fixed offsets
 * (ACPI 6.3, chapter 5.2) and AML, the byte code of the DSDT (chapter 20), for which there is one small function per
 * term.
 */
#include "vmm/acpi.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/bytes.h"
#include "base/seed.h"
#include "vmm/pio.h"

#define HEADER 36u
#define RSDP_SIZE 36u
#define FADT_SIZE 276u
#define IOAPIC_BASE 0xfec00000u
#define LAPIC_BASE  0xfee00000u

struct tables {
	uint64_t gpa;
	uint8_t *buf;
	size_t room, len;
	bool full;
};

/* ---- bytes ----------------------------------------------------------------------------------------- */

static void emit(struct tables *t, const void *bytes, size_t len)
{
	if (!sp_range_ok(t->len, len, t->room)) {
		t->full = true;
		return;
	}
	memcpy(t->buf + t->len, bytes, len);
	t->len += len;
}

static void emit_int(struct tables *t, uint64_t value, unsigned bytes)
{
	le64_t v = le64_make(value);

	emit(t, &v, bytes);
}

static void emit_zero(struct tables *t, size_t len)
{
	for (; len > 0; len--)
		emit_int(t, 0, 1);
}

static void patch(struct tables *t, size_t at, uint64_t value, unsigned bytes)
{
	le64_t v = le64_make(value);

	if (sp_range_ok(at, bytes, t->len))
		memcpy(t->buf + at, &v, bytes);
}

/* Makes the bytes of [at, at + len) add up to 0. */
static void patch_checksum(struct tables *t, size_t at, size_t len, size_t where)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + t->buf[at + i]);
	t->buf[where] = (uint8_t)(t->buf[where] - sum);
}

/* ---- a table: 5.2.6 -------------------------------------------------------------------------------- */

static size_t table_begin(struct tables *t, const char *signature, uint8_t revision)
{
	size_t at;

	emit_zero(t, sp_align_up(t->len, 16) - t->len);
	at = t->len;
	emit(t, signature, 4);
	emit_int(t, 0, 4);			/* length */
	emit_int(t, revision, 1);
	emit_int(t, 0, 1);			/* checksum */
	emit(t, "SPINDL", 6);
	emit(t, "SPINDLE ", 8);
	emit_int(t, 1, 4);			/* OEM revision */
	emit(t, "SPDL", 4);
	emit_int(t, 1, 4);
	return at;
}

static uint64_t table_end(struct tables *t, size_t at)
{
	patch(t, at + 4, t->len - at, 4);
	if (!t->full && !SP_SEED_BUG(ACPI_NO_CHECKSUM))
		patch_checksum(t, at, t->len - at, at + 9);
	return t->gpa + at;
}

/* ---- AML terms: 20.2 ------------------------------------------------------------------------------- */

#define AML_ZERO    0x00u
#define AML_ONE	    0x01u
#define AML_NAME    0x08u
#define AML_BYTE    0x0au
#define AML_WORD    0x0bu
#define AML_DWORD   0x0cu
#define AML_STRING  0x0du
#define AML_SCOPE   0x10u
#define AML_BUFFER  0x11u
#define AML_PACKAGE 0x12u
#define AML_DEVICE  0x5b82u		/* two bytes, 0x5b first */

/* PkgLength in two bytes: 4 bits, then 8. What it counts begins with itself. */
static size_t aml_open(struct tables *t)
{
	size_t at = t->len;

	emit_int(t, 0, 2);
	return at;
}

static void aml_close(struct tables *t, size_t at)
{
	size_t len = t->len - at;

	patch(t, at, 0x40 | (len & 0xf) | (len >> 4 & 0xff) << 8, 2);
}

static void aml_name(struct tables *t, const char name[static 4])
{
	emit_int(t, AML_NAME, 1);
	emit(t, name, 4);
}

static void aml_int(struct tables *t, uint32_t value)
{
	if (value > 0xffff) {
		emit_int(t, AML_DWORD, 1);
		emit_int(t, value, 4);
	} else if (value > 0xff) {
		emit_int(t, AML_WORD, 1);
		emit_int(t, value, 2);
	} else if (value > AML_ONE) {
		emit_int(t, AML_BYTE, 1);
		emit_int(t, value, 1);
	} else {
		emit_int(t, value, 1);
	}
}

static void aml_string(struct tables *t, const char *text)
{
	emit_int(t, AML_STRING, 1);
	emit(t, text, strlen(text) + 1);
}

static size_t aml_scope(struct tables *t, const char *name)
{
	size_t at;

	emit_int(t, AML_SCOPE, 1);
	at = aml_open(t);
	emit(t, name, strlen(name));
	return at;
}

static size_t aml_device(struct tables *t, const char name[static 4])
{
	size_t at;

	emit_int(t, AML_DEVICE >> 8, 1);
	emit_int(t, AML_DEVICE & 0xff, 1);
	at = aml_open(t);
	emit(t, name, 4);
	return at;
}

/* Three letters of 5 bits and four hexadecimal digits, most significant byte first: "PNP0501". */
static uint32_t eisa_id(const char id[static 7])
{
	uint32_t v = (uint32_t)(id[0] - '@') << 26 | (uint32_t)(id[1] - '@') << 21 | (uint32_t)(id[2] - '@') << 16;

	for (unsigned i = 0; i < 4; i++)
		v |= (uint32_t)(id[3 + i] <= '9' ? id[3 + i] - '0' : id[3 + i] - 'A' + 10) << (12 - 4 * i);
	return __builtin_bswap32(v);
}

/* ---- resources of a device: 6.4 -------------------------------------------------------------------- */

static size_t crs_begin(struct tables *t)
{
	aml_name(t, "_CRS");
	return t->len;
}

static void crs_io(struct tables *t, uint16_t port, uint8_t count)
{
	emit_int(t, 0x47, 1);			/* I/O port, 16-bit decode */
	emit_int(t, 1, 1);
	emit_int(t, port, 2);
	emit_int(t, port, 2);
	emit_int(t, 1, 1);
	emit_int(t, count, 1);
}

static void crs_irq(struct tables *t, unsigned irq)
{
	emit_int(t, 0x22, 1);			/* IRQ without flags: edge, active high */
	emit_int(t, 1u << irq, 2);
}

/* The descriptors stand after @at; wraps them into a Buffer. */
static void crs_end(struct tables *t, size_t at)
{
	uint8_t list[64];
	size_t len, pkg;

	emit_int(t, 0x79, 1);			/* end tag, checksum not used */
	emit_int(t, 0, 1);
	len = t->len - at;
	if (t->full || len > sizeof(list))
		return;
	memcpy(list, t->buf + at, len);
	t->len = at;
	emit_int(t, AML_BUFFER, 1);
	pkg = aml_open(t);
	aml_int(t, (uint32_t)len);
	emit(t, list, len);
	aml_close(t, pkg);
}

/* ---- the DSDT -------------------------------------------------------------------------------------- */

/* What hv_vmbus binds to; its resources may be empty, but must be there. */
static void device_vmbus(struct tables *t)
{
	size_t device = aml_device(t, "VMBS");

	aml_name(t, "_HID");
	aml_string(t, "VMBUS");
	aml_name(t, "_UID");
	aml_int(t, 0);
	crs_end(t, crs_begin(t));
	aml_close(t, device);
}

/* Without the legacy PIC an interrupt of the ISA bus exists for Linux only where ACPI names it. */
static void device_com1(struct tables *t)
{
	size_t device = aml_device(t, "COM1"), crs;

	aml_name(t, "_HID");
	aml_int(t, eisa_id("PNP0501"));
	aml_name(t, "_UID");
	aml_int(t, 1);
	crs = crs_begin(t);
	crs_io(t, VMM_PORT_COM1, 8);
	crs_irq(t, VMM_GSI_COM1);
	crs_end(t, crs);
	aml_close(t, device);
}

static void package_s5(struct tables *t)
{
	size_t pkg;

	aml_name(t, "_S5_");
	emit_int(t, AML_PACKAGE, 1);
	pkg = aml_open(t);
	emit_int(t, 4, 1);
	aml_int(t, VMM_ACPI_S5);
	for (unsigned i = 0; i < 3; i++)
		aml_int(t, 0);
	aml_close(t, pkg);
}

static uint64_t build_dsdt(struct tables *t)
{
	size_t table = table_begin(t, "DSDT", 2), scope = aml_scope(t, "_SB_");

	device_vmbus(t);
	device_com1(t);
	aml_close(t, scope);
	package_s5(t);
	return table_end(t, table);
}

/* ---- the other tables ------------------------------------------------------------------------------ */

/* Generic address structure, 5.2.3.2: one byte of I/O space. */
static void patch_port(struct tables *t, size_t at, uint16_t port)
{
	patch(t, at, 1, 1);			/* system I/O */
	patch(t, at + 1, 8, 1);			/* bits */
	patch(t, at + 3, 1, 1);			/* byte access */
	patch(t, at + 4, port, 8);
}

#define FADT_BUTTONS	(1u << 4 | 1u << 5)	/* neither a fixed power nor a fixed sleep button */
#define FADT_RESET	(1u << 10)
#define FADT_REDUCED	(1u << 20)
#define FADT_NO_VGA	(1u << 2)

static uint64_t build_fadt(struct tables *t, uint64_t dsdt)
{
	size_t at = table_begin(t, "FACP", 6);

	emit_zero(t, FADT_SIZE - HEADER);
	patch(t, at + 40, dsdt, 4);
	patch(t, at + 108, 0x32, 1);		/* the RTC's century */
	patch(t, at + 109, FADT_NO_VGA, 2);
	patch(t, at + 112, FADT_BUTTONS | FADT_RESET | FADT_REDUCED, 4);
	patch_port(t, at + 116, VMM_PORT_RESET);
	patch(t, at + 128, VMM_ACPI_RESET_VALUE, 1);
	patch(t, at + 131, 3, 1);		/* 6.3 */
	patch(t, at + 140, dsdt, 8);
	patch_port(t, at + 244, VMM_PORT_SLEEP);
	patch_port(t, at + 256, VMM_PORT_SLEEP + 1);
	return table_end(t, at);
}

static uint64_t build_madt(struct tables *t, unsigned cpus)
{
	size_t at = table_begin(t, "APIC", 5);

	emit_int(t, LAPIC_BASE, 4);
	emit_int(t, 0, 4);			/* no PIC to be switched off */
	for (unsigned i = 0; i < cpus; i++) {
		emit_int(t, 0x0800, 2);		/* type 0, length 8 */
		emit_int(t, i, 1);
		emit_int(t, i, 1);
		emit_int(t, 1, 4);		/* enabled */
	}
	emit_int(t, 0x0c01, 2);			/* I/O APIC: type 1, length 12 */
	emit_int(t, 0, 2);
	emit_int(t, IOAPIC_BASE, 4);
	emit_int(t, 0, 4);
	return table_end(t, at);
}

static uint64_t build_xsdt(struct tables *t, uint64_t fadt, uint64_t madt)
{
	size_t at = table_begin(t, "XSDT", 1);

	emit_int(t, fadt, 8);
	emit_int(t, madt, 8);
	return table_end(t, at);
}

static void fill_rsdp(struct tables *t, uint64_t xsdt)
{
	memcpy(t->buf, "RSD PTR ", 8);
	memcpy(t->buf + 9, "SPINDL", 6);
	t->buf[15] = 2;
	patch(t, 20, RSDP_SIZE, 4);
	patch(t, 24, xsdt, 8);
	patch_checksum(t, 0, 20, 8);		/* what ACPI 1.0 knows of it */
	patch_checksum(t, 0, RSDP_SIZE, 32);
}

int vmm_acpi_build(uint64_t gpa, uint8_t *buf, size_t room, unsigned cpus, uint64_t *ret_rsdp)
{
	struct tables t = { .gpa = gpa, .buf = buf, .room = room };
	uint64_t fadt, madt, xsdt;

	if (cpus == 0 || cpus > VMM_ACPI_CPUS_MAX)
		return -EINVAL;
	emit_zero(&t, RSDP_SIZE);
	fadt = build_fadt(&t, build_dsdt(&t));
	madt = build_madt(&t, cpus);
	xsdt = build_xsdt(&t, fadt, madt);
	if (t.full)
		return -ENOSPC;
	fill_rsdp(&t, xsdt);
	*ret_rsdp = gpa;
	return (int)t.len;
}
