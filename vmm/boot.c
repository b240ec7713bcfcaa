/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a firmware would do, done once from outside: kernel, initrd and command line in RAM, the tables that describe
 * the machine, and the first processor's state.
 */
#include "vmm/boot.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/seed.h"
#include "vmm/acpi.h"
#include "vmm/boot_int.h"

#define PAGE 4096u
#define RAM_MIN SP_MIB(2)
#define E820_RAM 1u
#define E820_RESERVED 2u

/*
 * Linux on hardware-reduced ACPI resets by a jump to FFFF:0000 in real mode, never by the reset register. So there:
 *	mov al, 1; mov dx, 0x602; out dx, al; hlt; jmp to the hlt
 */
static const uint8_t reset_stub[] = { 0xb0, 0x01, 0xba, 0x02, 0x06, 0xee, 0xf4, 0xeb, 0xfd };

unsigned boot_memory_map(const struct vmm_memory *m, struct boot_range ret_range[BOOT_RANGES_MAX])
{
	unsigned n = 0;

	ret_range[n++] = (struct boot_range){ 0, BOOT_BASE_END, E820_RAM };
	ret_range[n++] = (struct boot_range){ BOOT_BASE_END, BOOT_HIGH - BOOT_BASE_END, E820_RESERVED };
	ret_range[n++] = (struct boot_range){ BOOT_HIGH, vmm_memory_low(m) - BOOT_HIGH, E820_RAM };
	if (vmm_memory_high(m))
		ret_range[n++] = (struct boot_range){ VMM_HIGH_RAM, vmm_memory_high(m), E820_RAM };
	return n;
}

/* ---- the zero page, Documentation/x86/zero-page.rst ------------------------------------------------ */

static void put(uint8_t *page, unsigned at, uint64_t value, unsigned bytes)
{
	le64_t v = le64_make(value);

	memcpy(page + at, &v, bytes);
}

/* An ELF brings no setup header; Linux wants to see that there is a boot loader that knows the protocol. */
static void put_own_header(uint8_t *page)
{
	put(page, 0x1fe, 0xaa55, 2);
	memcpy(page + 0x202, "HdrS", 4);
	put(page, 0x206, 0x20f, 2);
}

void boot_zero_page(const struct vmm_memory *m, const struct boot_kernel *k, const struct boot_payload *p)
{
	uint8_t *page = vmm_memory_map(m, BOOT_ZERO_PAGE, PAGE);
	struct boot_range range[BOOT_RANGES_MAX];
	unsigned n = boot_memory_map(m, range);

	if (k->setup)
		memcpy(page + 0x1f1, k->setup, k->setup_len);
	else
		put_own_header(page);
	put(page, 0x70, p->rsdp, 8);
	put(page, 0x210, 0xff, 1);		/* a boot loader without a number */
	put(page, 0x214, k->start, 4);
	put(page, 0x218, p->initrd, 4);
	put(page, 0x21c, p->initrd_len, 4);
	put(page, 0x228, p->cmdline, 4);
	put(page, 0x250, 0, 8);			/* setup_data: what the file says there is not ours */
	put(page, 0x1e8, n, 1);
	for (unsigned i = 0; i < n; i++) {
		put(page, 0x2d0 + 20 * i, range[i].addr, 8);
		put(page, 0x2d0 + 20 * i + 8, range[i].size, 8);
		put(page, 0x2d0 + 20 * i + 16, range[i].type, 4);
	}
}

/* ---- PVH, xen/include/public/arch-x86/hvm/start_info.h --------------------------------------------- */

#define START_MODULE (BOOT_START_INFO + 0x80)
#define START_MEMMAP (BOOT_START_INFO + 0x100)

void boot_start_info(const struct vmm_memory *m, const struct boot_payload *p)
{
	uint8_t *page = vmm_memory_map(m, BOOT_START_INFO, PAGE);
	struct boot_range range[BOOT_RANGES_MAX];
	unsigned n = boot_memory_map(m, range);

	put(page, 0, 0x336ec578, 4);
	put(page, 4, 1, 4);
	if (p->initrd_len) {
		put(page, 12, 1, 4);
		put(page, 16, START_MODULE, 8);
		put(page, START_MODULE - BOOT_START_INFO, p->initrd, 8);
		put(page, START_MODULE - BOOT_START_INFO + 8, p->initrd_len, 8);
	}
	put(page, 24, p->cmdline, 8);
	put(page, 32, p->rsdp, 8);
	put(page, 40, START_MEMMAP, 8);
	put(page, 48, n, 4);
	for (unsigned i = 0; i < n; i++) {
		uint8_t *entry = page + (START_MEMMAP - BOOT_START_INFO) + 24 * i;

		put(entry, 0, range[i].addr, 8);
		put(entry, 8, range[i].size, 8);
		put(entry, 16, range[i].type, 4);
	}
}

/* ---- loading --------------------------------------------------------------------------------------- */

static int load_kernel(const struct vmm_memory *m, const struct vmm_boot_opts *o, struct boot_kernel *ret_kernel,
		       struct sp_err *err)
{
	const uint8_t *b = o->kernel;

	if (o->kernel_len >= 4 && memcmp(b, "\177ELF", 4) == 0)
		return boot_elf_load(m, b, o->kernel_len, o->prefer_pvh, ret_kernel, err);
	if (o->kernel_len >= 0x206 && memcmp(b + 0x202, "HdrS", 4) == 0)
		return boot_bzimage_load(m, b, o->kernel_len, ret_kernel, err);
	if (o->kernel_len >= 2 && b[0] == 0x1f && b[1] == 0x8b)
		return sp_err_set(err, -ENOTSUP, "kernel is packed with gzip: unpack it first");
	return sp_err_set(err, -EBADMSG, "neither a bzImage (\"HdrS\" at 0x202) nor an ELF file");
}

/* The highest page at which @len bytes lie within [floor, top); 0: nowhere. */
static uint64_t highest(uint64_t floor, uint64_t top, uint64_t len)
{
	uint64_t at = top < len ? 0 : sp_align_down(top - len, PAGE);

	return at >= floor ? at : 0;
}

/* Above what the kernel unpacks itself into, as high as it and the RAM allow; else below the kernel. */
static int place_initrd(const struct vmm_memory *m, const struct boot_kernel *k, uint64_t len, uint64_t *ret_at,
			struct sp_err *err)
{
	uint64_t top = sp_min(vmm_memory_low(m), k->initrd_max + 1);
	uint64_t at = highest(SP_SEED_BUG(BOOT_INITRD_IN_KERNEL) ? BOOT_HIGH : k->end, top, len);

	if (!at)
		at = highest(BOOT_HIGH, sp_min(top, k->start), len);
	if (!at)
		return sp_err_set(err, -ENOSPC, "no place for an initrd of %" PRIu64 " bytes below %#" PRIx64
				  " beside the kernel (%#" PRIx64 " to %#" PRIx64 "): give the machine more memory",
				  len, top, k->start, k->end);
	*ret_at = at;
	return 0;
}

static int load_initrd(const struct vmm_memory *m, const struct boot_kernel *k, const struct vmm_boot_opts *o,
		       struct boot_payload *p, struct sp_err *err)
{
	int r;

	if (!o->initrd || o->initrd_len == 0)
		return 0;
	r = place_initrd(m, k, o->initrd_len, &p->initrd, err);
	if (r < 0)
		return r;
	memcpy(vmm_memory_map(m, p->initrd, o->initrd_len), o->initrd, o->initrd_len);
	p->initrd_len = o->initrd_len;
	return 0;
}

static int load_command_line(const struct vmm_memory *m, const struct boot_kernel *k, const struct vmm_boot_opts *o,
			     struct boot_payload *p, struct sp_err *err)
{
	const char *text = o->command_line ? o->command_line : "";
	uint64_t len = strlen(text), max = sp_min(k->cmdline_max, BOOT_CMDLINE_ROOM - 1);

	if (!SP_SEED_BUG(BOOT_CMDLINE_UNBOUNDED) && len > max)
		return sp_err_set(err, -EINVAL, "command line has %" PRIu64 " bytes, this kernel takes at most "
				  "%" PRIu64, len, max);
	memcpy(vmm_memory_map(m, BOOT_CMDLINE, len + 1), text, len + 1);
	p->cmdline = BOOT_CMDLINE;
	return 0;
}

static int load_platform(const struct vmm_memory *m, unsigned cpus, struct boot_payload *p, struct sp_err *err)
{
	int r = vmm_acpi_build(BOOT_ACPI, vmm_memory_map(m, BOOT_ACPI, BOOT_STUB - BOOT_ACPI), BOOT_STUB - BOOT_ACPI,
			       cpus,
			       &p->rsdp);

	if (r < 0)
		return sp_err_set(err, r, "ACPI tables for %u processors", cpus);
	memcpy(vmm_memory_map(m, BOOT_STUB, sizeof(reset_stub)), reset_stub, sizeof(reset_stub));
	return 0;
}

static void start_state(const struct vmm_memory *m, const struct boot_kernel *k, const struct boot_payload *p,
			struct vmm_boot_state *ret_state)
{
	struct vmm_boot_state s = { .rip = k->entry, .gdt = BOOT_GDT };

	boot_gdt(m, k->pvh);
	if (k->pvh) {
		boot_start_info(m, p);
		s.mode = VMM_BOOT_PVH;
		s.ebx = BOOT_START_INFO;
	} else {
		boot_zero_page(m, k, p);
		s.mode = VMM_BOOT_LONG_MODE;
		s.rsi = BOOT_ZERO_PAGE;
		s.cr3 = boot_page_tables(m);
	}
	*ret_state = s;
}

int vmm_boot_load(const struct vmm_memory *m, const struct vmm_boot_opts *opts, struct vmm_boot_state *ret_state,
		  struct sp_err *err)
{
	struct boot_payload p = { 0 };
	struct boot_kernel k;
	int r;

	if (!opts->kernel || opts->kernel_len == 0)
		return sp_err_set(err, -EINVAL, "no kernel");
	if (opts->cpus == 0 || opts->cpus > VMM_ACPI_CPUS_MAX)
		return sp_err_set(err, -EINVAL, "%u processors, expected 1 to %u", opts->cpus, VMM_ACPI_CPUS_MAX);
	if (vmm_memory_low(m) < RAM_MIN)
		return sp_err_set(err, -ENOSPC, "%" PRIu64 " bytes of RAM are too few to boot", vmm_memory_low(m));
	r = load_kernel(m, opts, &k, err);
	if (r == 0)
		r = load_initrd(m, &k, opts, &p, err);
	if (r == 0)
		r = load_command_line(m, &k, opts, &p, err);
	if (r == 0)
		r = load_platform(m, opts->cpus, &p, err);
	if (r < 0)
		return r;
	start_state(m, &k, &p, ret_state);
	return 0;
}
