/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Kernels made by hand, loaded into RAM and looked at there; and the same with one field changed.
 */
#include <elf.h>
#include <errno.h>

#include "base/bytes.h"
#include "tests/support/rng.h"
#include "tests/unit/rows.h"
#include "vmm/boot.h"

#define RAM SP_MIB(64)

static struct vmm_memory *memory;
static uint8_t image[65536];

static void put(uint8_t *at, uint64_t value, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		at[i] = (uint8_t)(value >> 8 * i);
}

static uint64_t get(const uint8_t *at, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = bytes; i-- > 0;)
		v = v << 8 | at[i];
	return v;
}

static const uint8_t *ram(uint64_t gpa)
{
	const uint8_t *p = vmm_memory_map(memory, gpa, 4096);

	assert_non_null(p);
	return p;
}

static int with_memory(uint64_t bytes)
{
	struct sp_err err = { 0 };

	return vmm_memory_new(bytes, &memory, &err);
}

static int setup(void **state)
{
	return with_memory(RAM);
}

static int teardown(void **state)
{
	vmm_memory_free(memory);
	return 0;
}

/* ---- a bzImage ------------------------------------------------------------------------------------- */

#define SETUP_SECTS 2u
#define PAYLOAD_AT ((SETUP_SECTS + 1) * 512)
#define PAYLOAD 5000u
#define BZIMAGE (PAYLOAD_AT + PAYLOAD)
#define PREF SP_MIB(16)
#define INIT_SIZE SP_MIB(8)

static void make_bzimage(void)
{
	memset(image, 0, sizeof(image));
	image[0x1f1] = SETUP_SECTS;
	put(image + 0x1fe, 0xaa55, 2);
	image[0x200] = 0xeb;
	image[0x201] = 0x6a;			/* ends at 0x26c */
	memcpy(image + 0x202, "HdrS", 4);
	put(image + 0x206, 0x20f, 2);
	image[0x211] = 0x01;
	put(image + 0x22c, 0x7fffffff, 4);
	put(image + 0x230, SP_MIB(2), 4);
	image[0x234] = 1;
	put(image + 0x236, 0x7f, 2);
	put(image + 0x238, 2047, 4);
	put(image + 0x258, PREF, 8);
	put(image + 0x260, INIT_SIZE, 4);
	put(image + 0x250, 0x4141414141414141, 8);	/* setup_data: a list the kernel would follow */
	for (unsigned i = 0; i < PAYLOAD; i++)
		image[PAYLOAD_AT + i] = (uint8_t)(i * 7 + 1);
}

static int load(struct vmm_boot_opts *o, struct vmm_boot_state *s, struct sp_err *err)
{
	o->kernel = image;
	if (!o->kernel_len)
		o->kernel_len = BZIMAGE;
	if (!o->cpus)
		o->cpus = 2;
	return vmm_boot_load(memory, o, s, err);
}

static uint64_t pte(uint64_t table, unsigned index)
{
	return get(ram(table & ~0xfffull) + 8 * index, 8);
}

static void check_long_mode(const struct vmm_boot_state *s)
{
	assert_int_equal(s->mode, VMM_BOOT_LONG_MODE);
	assert_int_equal(get(ram(s->gdt) + 0x10, 8), 0x00af9b000000ffff);
	assert_int_equal(get(ram(s->gdt) + 0x18, 8), 0x00cf93000000ffff);
	for (uint64_t address = 0; address < SP_GIB(4); address += SP_MIB(2)) {
		uint64_t pdpt = pte(s->cr3, 0), pd = pte(pdpt, (unsigned)(address >> 30));

		assert_int_equal(pdpt & 3, 3);
		assert_int_equal(pd & 3, 3);
		assert_int_equal(pte(pd, address >> 21 & 511), address | 0x83);
	}
}

static void bzimage(void **state)
{
	struct vmm_boot_opts o = { .command_line = "console=ttyS0 panic=-1", .initrd = "initial RAM disk",
				   .initrd_len = 16 };
	struct vmm_boot_state s;
	const uint8_t *zero;

	make_bzimage();
	assert_int_equal(load(&o, &s, NULL), 0);
	check_long_mode(&s);
	assert_int_equal(s.rip, PREF + 0x200);
	assert_memory_equal(ram(PREF), image + PAYLOAD_AT, PAYLOAD);
	zero = ram(s.rsi);
	assert_memory_equal(zero + 0x1f1, image + 0x1f1, 0x210 - 0x1f1);
	assert_int_equal(get(zero + 0x258, 8), PREF);
	assert_int_equal(get(zero + 0x250, 8), 0);
	assert_int_equal(zero[0x26c], 0);
	assert_int_equal(zero[0x210], 0xff);
	assert_int_equal(get(zero + 0x214, 4), PREF);
	assert_int_equal(get(zero + 0x218, 4), RAM - 4096);
	assert_int_equal(get(zero + 0x21c, 4), 16);
	assert_memory_equal(ram(RAM - 4096), "initial RAM disk", 16);
	assert_string_equal((const char *)ram(get(zero + 0x228, 4)), "console=ttyS0 panic=-1");
	assert_memory_equal(ram(get(zero + 0x70, 8)), "RSD PTR ", 8);
	assert_int_equal(zero[0x1e8], 3);
	assert_int_equal(zero[0x1ef], 0);	/* the sentinel of a boot loader that knows what it does */
	assert_memory_equal(ram(0xff000) + 0xff0, "\xb0\x01\xba\x02\x06\xee\xf4\xeb\xfd", 9);
}

struct e820 {
	uint64_t addr, size;
	uint32_t type;
};

static void memory_map(void **state)
{
	static const struct e820 want[] = {
		{ 0, 0x9fc00, 1 }, { 0x9fc00, 0x60400, 2 }, { 0x100000, SP_GIB(3) - SP_MIB(1), 1 },
		{ SP_GIB(4), SP_GIB(2), 1 },
	};
	struct vmm_boot_opts o = { 0 };
	struct vmm_boot_state s;
	const uint8_t *zero;

	assert_int_equal(with_memory(SP_GIB(5)), 0);
	make_bzimage();
	assert_int_equal(load(&o, &s, NULL), 0);
	zero = ram(s.rsi);
	assert_int_equal(zero[0x1e8], 4);
	for (unsigned i = 0; i < 4; i++) {
		const uint8_t *e = zero + 0x2d0 + 20 * i;

		assert_int_equal(get(e, 8), want[i].addr);
		assert_int_equal(get(e + 8, 8), want[i].size);
		assert_int_equal(get(e + 16, 4), want[i].type);
	}
	assert_int_equal(get(zero + 0x218, 4), 0);
	assert_int_equal(get(zero + 0x21c, 4), 0);
}

/* One field of the header other than it should be. */
static const struct field {
	const char *name;
	unsigned at, bytes;
	uint64_t value;
	size_t len;			/* of the file; 0: all */
	int want;
	const char *says;
} fields[] = {
	{ "setup_sects 0 means 4: the payload is elsewhere", 0x1f1, 1, 0, 0, 0, NULL },
	{ "setup_sects past the file", 0x1f1, 1, 200, 0, -EBADMSG, "setup_sects 200" },
	{ "boot flag", 0x1fe, 2, 0x55aa, 0, -EBADMSG, "0x1fe" },
	{ "magic", 0x202, 4, 0, 0, -EBADMSG, "neither" },
	{ "header end before its fields", 0x201, 1, 0x40, 0, -EBADMSG, "0x242" },
	{ "header end past the zero page's room", 0x201, 1, 0x8f, 0, -EBADMSG, "0x291" },
	{ "longest header", 0x201, 1, 0x8e, 0, 0, NULL },
	{ "protocol 2.11", 0x206, 2, 0x20b, 0, -ENOTSUP, "2.11" },
	{ "protocol 2.12", 0x206, 2, 0x20c, 0, 0, NULL },
	{ "zImage", 0x211, 1, 0, 0, -ENOTSUP, "1 MiB" },
	{ "32-bit kernel", 0x236, 2, 0x7e, 0, -ENOTSUP, "32-bit" },
	{ "alignment 0", 0x230, 4, 0, 0, -EBADMSG, "alignment" },
	{ "alignment no power of two", 0x230, 4, 0x300000, 0, -EBADMSG, "alignment" },
	{ "load address not aligned", 0x258, 8, PREF + 4096, 0, -EBADMSG, "alignment" },
	{ "load address 0", 0x258, 8, 0, 0, -EBADMSG, "load address 0" },
	{ "load address below 4 GiB, where no RAM is", 0x258, 8, 0xc0000000, 0, -EBADMSG, "0xc0000000" },
	{ "load address that would wrap", 0x258, 8, 0xffffffffffe00000, 0, -EBADMSG, "0xffffffffffe00000" },
	{ "load address at the end of RAM", 0x258, 8, RAM, 0, -ENOSPC, "more memory" },
	{ "init_size 0: as large as the payload", 0x260, 4, 0, 0, 0, NULL },
	{ "init_size to the end of RAM", 0x260, 4, RAM - PREF, 0, 0, NULL },
	{ "init_size past the end of RAM", 0x260, 4, RAM - PREF + 1, 0, -ENOSPC, "more memory" },
	{ "init_size 4 GiB - 1", 0x260, 4, 0xffffffff, 0, -ENOSPC, "more memory" },
	{ "file ends in the header", 0, 0, 0, 0x240, -EBADMSG, "too few" },
	{ "file ends before the payload", 0, 0, 0, PAYLOAD_AT, -EBADMSG, "truncated" },
	{ "file ends at the entry", 0, 0, 0, PAYLOAD_AT + 0x200, -EBADMSG, "truncated" },
	{ "one byte", 0, 0, 0, 1, -EBADMSG, "neither" },
};

/* Of exactly the file's length, so that the sanitizer sees each byte read past it. */
static int load_exact(size_t len, bool pvh, struct vmm_boot_state *s, struct sp_err *err)
{
	struct vmm_boot_opts o = { .kernel_len = len, .cpus = 1, .prefer_pvh = pvh };
	uint8_t *copy = malloc(len);
	int r;

	assert_non_null(copy);
	memcpy(copy, image, len);
	o.kernel = copy;
	r = vmm_boot_load(memory, &o, s, err);
	free(copy);
	return r;
}

static void header_field(void **state)
{
	const struct field *c = *state;
	struct vmm_boot_state s = { .rip = 77 };
	struct sp_err err = { 0 };

	setup(NULL);
	make_bzimage();
	put(image + c->at, c->value, c->bytes);
	assert_int_equal(load_exact(c->len ? c->len : BZIMAGE, false, &s, &err), c->want);
	if (c->want < 0) {
		assert_int_equal(s.rip, 77);
		if (!strstr(err.text, c->says))
			fail_msg("\"%s\" is not in: %s", c->says, err.text);
	}
	teardown(NULL);
}

/* ---- initrd and command line ----------------------------------------------------------------------- */

static const struct initrd {
	const char *name;
	uint64_t ram, len;
	uint32_t max;			/* initrd_addr_max */
	int want;
	uint64_t at;
} initrds[] = {
	{ "at the end of RAM", RAM, SP_MIB(3) + 5, 0x7fffffff, 0, RAM - SP_MIB(3) - 4096 },
	{ "whole pages", RAM, SP_MIB(3), 0x7fffffff, 0, RAM - SP_MIB(3) },
	{ "where the kernel wants it", RAM, SP_MIB(3), 0x1ffffff, 0, SP_MIB(32) - SP_MIB(3) },
	{ "just above the kernel", RAM, SP_MIB(40), 0x7fffffff, 0, SP_MIB(24) },
	{ "below the kernel", SP_MIB(26), SP_MIB(15), 0x7fffffff, 0, SP_MIB(1) },
	{ "one byte too many for both sides", SP_MIB(26), SP_MIB(15) + 1, 0x7fffffff, -ENOSPC, 0 },
	{ "the limit lies inside the kernel", RAM, SP_MIB(2), 0x11fffff, 0, SP_MIB(14) },
	{ "the limit lies below 1 MiB", RAM, 100, 0xfffff, -ENOSPC, 0 },
	{ "limit 0", RAM, 100, 0, -ENOSPC, 0 },
	{ "limit 4 GiB - 1", RAM, 4096, 0xffffffff, 0, RAM - 4096 },
	{ "larger than RAM", RAM, SP_MIB(65), 0x7fffffff, -ENOSPC, 0 },
};

static void initrd(void **state)
{
	const struct initrd *c = *state;
	uint8_t *bytes = calloc(1, c->len);
	struct vmm_boot_opts o = { .initrd = bytes, .initrd_len = c->len };
	struct vmm_boot_state s;

	bytes[0] = 0x11;
	bytes[c->len - 1] = 0x22;
	assert_int_equal(with_memory(c->ram), 0);
	make_bzimage();
	put(image + 0x22c, c->max, 4);
	assert_int_equal(load(&o, &s, NULL), c->want);
	if (c->want == 0) {
		assert_int_equal(get(ram(s.rsi) + 0x218, 4), c->at);
		assert_int_equal(get(ram(s.rsi) + 0x21c, 4), c->len);
		assert_memory_equal(vmm_memory_map(memory, c->at, c->len), bytes, c->len);
	}
	teardown(NULL);
	free(bytes);
}

static const struct line {
	const char *name;
	uint32_t max;
	size_t len;
	int want;
} lines[] = {
	{ "none", 2047, 0, 0 },
	{ "as long as the kernel takes", 2047, 2047, 0 },
	{ "one more", 2047, 2048, -EINVAL },
	{ "a kernel that takes nothing", 0, 1, -EINVAL },
	{ "a kernel that promises 4 GiB", 0xffffffff, 65535, 0 },
	{ "more than there is room for", 0xffffffff, 65536, -EINVAL },
};

static void command_line(void **state)
{
	const struct line *c = *state;
	char *text = calloc(1, c->len + 1);
	struct vmm_boot_opts o = { .command_line = text };
	struct vmm_boot_state s;
	struct sp_err err = { 0 };

	memset(text, 'x', c->len);
	setup(NULL);
	make_bzimage();
	put(image + 0x238, c->max, 4);
	assert_int_equal(load(&o, &s, &err), c->want);
	if (c->want == 0)
		assert_string_equal(vmm_memory_map(memory, get(ram(s.rsi) + 0x228, 4), c->len + 1), text);
	else
		assert_non_null(strstr(err.text, "at most"));
	teardown(NULL);
	free(text);
}

/* ---- ELF ------------------------------------------------------------------------------------------- */

#define TEXT_AT 0x1000u
#define DATA_AT 0x2000u
#define NOTE_AT 0x3000u
#define ELF_SIZE 0x3100u
#define TEXT_PA SP_MIB(16)
#define DATA_PA SP_MIB(18)
#define PH(n) (64 + 56 * (n))		/* program header n */
#define P_OFFSET 8u
#define P_PADDR 24u
#define P_FILESZ 32u
#define P_MEMSZ 40u

static void put_segment(unsigned n, uint32_t type, uint64_t offset, uint64_t vaddr, uint64_t paddr, uint64_t filesz,
			uint64_t memsz)
{
	Elf64_Phdr p = { .p_type = type, .p_flags = PF_R | PF_X, .p_offset = offset, .p_vaddr = vaddr, .p_paddr = paddr,
			 .p_filesz = filesz, .p_memsz = memsz };

	memcpy(image + PH(n), &p, sizeof(p));
}

/* Two notes of other owners, then the one with the entry. */
static void put_notes(void)
{
	static const uint8_t notes[] =
		"\6\0\0\0\3\0\0\0\22\0\0\0Linux\0\0\0abc\0"
		"\4\0\0\0\0\0\0\0\1\0\0\0Xen\0"
		"\4\0\0\0\10\0\0\0\22\0\0\0Xen\0\100\0\0\1\0\0\0\0";

	memcpy(image + NOTE_AT, notes, sizeof(notes) - 1);
	put_segment(2, PT_NOTE, NOTE_AT, 0, 0, sizeof(notes) - 1, sizeof(notes) - 1);
}

static void make_elf(void)
{
	Elf64_Ehdr h = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT }, .e_type = ET_EXEC,
			 .e_machine = EM_X86_64, .e_version = 1, .e_entry = TEXT_PA + 16, .e_phoff = 64,
			 .e_phentsize = 56, .e_phnum = 3 };

	memset(image, 0, sizeof(image));
	memcpy(image, &h, sizeof(h));
	put_segment(0, PT_LOAD, TEXT_AT, 0xffffffff81000000, TEXT_PA, 0x1000, 0x1000);
	put_segment(1, PT_LOAD, DATA_AT, 0xffffffff81200000, DATA_PA, 0x800, SP_MIB(1));
	put_notes();
	memset(image + TEXT_AT, 0x90, 0x1000);
	memset(image + DATA_AT, 0xda, 0x1000);
}

static void elf_long_mode(void **state)
{
	struct vmm_boot_opts o = { .kernel_len = ELF_SIZE, .initrd = "disk", .initrd_len = 4, .command_line = "quiet" };
	struct vmm_boot_state s;
	const uint8_t *zero;

	make_elf();
	assert_int_equal(load(&o, &s, NULL), 0);
	check_long_mode(&s);
	assert_int_equal(s.rip, TEXT_PA + 16);
	assert_memory_equal(ram(TEXT_PA), image + TEXT_AT, 0x1000);
	assert_memory_equal(ram(DATA_PA), image + DATA_AT, 0x800);
	assert_int_equal(ram(DATA_PA)[0x800], 0);	/* bss */
	zero = ram(s.rsi);
	assert_int_equal(get(zero + 0x1fe, 2), 0xaa55);
	assert_memory_equal(zero + 0x202, "HdrS", 4);
	assert_int_equal(get(zero + 0x206, 2), 0x20f);
	assert_int_equal(get(zero + 0x21c, 4), 4);
	assert_string_equal((const char *)ram(get(zero + 0x228, 4)), "quiet");
}

static void elf_pvh(void **state)
{
	struct vmm_boot_opts o = { .kernel_len = ELF_SIZE, .initrd = "disk", .initrd_len = 4, .command_line = "quiet",
				   .prefer_pvh = true };
	struct vmm_boot_state s;
	const uint8_t *info, *module, *map;

	make_elf();
	assert_int_equal(load(&o, &s, NULL), 0);
	assert_int_equal(s.mode, VMM_BOOT_PVH);
	assert_int_equal(s.rip, TEXT_PA + 0x40);
	assert_int_equal(get(ram(s.gdt) + 0x10, 8), 0x00cf9b000000ffff);
	info = ram(s.ebx);
	assert_int_equal(get(info, 4), 0x336ec578);
	assert_int_equal(get(info + 4, 4), 1);
	assert_int_equal(get(info + 12, 4), 1);
	module = ram(get(info + 16, 8));
	assert_memory_equal(ram(get(module, 8)), "disk", 4);
	assert_int_equal(get(module + 8, 8), 4);
	assert_string_equal((const char *)ram(get(info + 24, 8)), "quiet");
	assert_memory_equal(ram(get(info + 32, 8)), "RSD PTR ", 8);
	map = ram(get(info + 40, 8));
	assert_int_equal(get(info + 48, 4), 3);
	assert_int_equal(get(map + 48, 8), SP_MIB(1));
	assert_int_equal(get(map + 56, 8), RAM - SP_MIB(1));
	assert_int_equal(get(map + 64, 4), 1);
}

static const struct elf_field {
	const char *name;
	unsigned at, bytes;
	uint64_t value;
	size_t len;
	bool pvh;
	int want;
	const char *says;
} elf_fields[] = {
	{ "32 bits", 4, 1, 1, 0, false, -ENOTSUP, "class 1" },
	{ "big endian", 5, 1, 2, 0, false, -ENOTSUP, "byte order 2" },
	{ "another processor", 18, 2, 183, 0, false, -ENOTSUP, "machine 183" },
	{ "position independent", 16, 2, ET_DYN, 0, false, -ENOTSUP, "-no-pie" },
	{ "relocatable", 16, 2, ET_REL, 0, false, -ENOTSUP, "type 1" },
	{ "program headers of another size", 54, 2, 32, 0, false, -EBADMSG, "32 bytes" },
	{ "no program headers", 56, 2, 0, 0, false, -EBADMSG, "0 program headers" },
	{ "65 program headers", 56, 2, 65, 0, false, -EBADMSG, "65 program headers" },
	{ "program headers past the file", 32, 8, ELF_SIZE - 100, 0, false, -EBADMSG, "past the end" },
	{ "program headers that would wrap", 32, 8, UINT64_MAX - 10, 0, false, -EBADMSG, "past the end" },
	{ "segment past the file", PH(0) + P_OFFSET, 8, ELF_SIZE - 0xfff, 0, false, -EBADMSG, "segment 0" },
	{ "segment offset that would wrap", PH(0) + P_OFFSET, 8, UINT64_MAX, 0, false, -EBADMSG, "segment 0" },
	{ "segment larger in the file", PH(1) + P_MEMSZ, 8, 0x7ff, 0, false, -EBADMSG, "segment 1" },
	{ "segment over the page tables", PH(1) + P_PADDR, 8, 0x9000, 0, false, -EBADMSG, "0x9000" },
	{ "segment past RAM", PH(1) + P_PADDR, 8, RAM - SP_MIB(1) + 1, 0, false, -ENOSPC, "more memory" },
	{ "segment address that would wrap", PH(1) + P_PADDR, 8, UINT64_MAX - 4095, 0, false, -ENOSPC, "segment 1" },
	{ "segment of 2^64 - 1 bytes", PH(1) + P_MEMSZ, 8, UINT64_MAX, 0, false, -ENOSPC, "segment 1" },
	{ "segments that overlap", PH(1) + P_PADDR, 8, TEXT_PA + 0xfff, 0, false, -EBADMSG, "overlap" },
	{ "segment without memory is skipped", PH(1) + P_MEMSZ, 8, 0, 0, false, 0, NULL },
	{ "entry as a virtual address", 24, 8, 0xffffffff81000000, 0, false, -EBADMSG, "entry" },
	{ "entry in the bss", 24, 8, DATA_PA + 0x800, 0, false, -EBADMSG, "entry" },
	{ "nothing to load", PH(0), 4, PT_NOTE, 0, false, -EBADMSG, "entry" },
	{ "file ends in the header", 0, 0, 0, 63, false, -EBADMSG, "too few" },
	{ "file ends in the program headers", 0, 0, 0, 200, false, -EBADMSG, "past the end" },
	{ "PVH entry outside", NOTE_AT + 40 + 16, 4, 0x1002000, 0, true, -EBADMSG, "PVH entry" },
	{ "PVH entry above 4 GiB", NOTE_AT + 40 + 16, 8, 0x101000040, 0, true, -EBADMSG, "PVH entry" },
	{ "no note: long mode", PH(2), 4, PT_NULL, 0, true, 0, NULL },
	{ "notes past the file: long mode", PH(2) + P_OFFSET, 8, ELF_SIZE - 8, 0, true, 0, NULL },
	{ "note with a name of 4 GiB: long mode", NOTE_AT, 4, 0xfffffffd, 0, true, 0, NULL },
	{ "note with data of 4 GiB: long mode", NOTE_AT + 4, 4, 0xffffffff, 0, true, 0, NULL },
	{ "notes cut before the entry: long mode", PH(2) + P_FILESZ, 8, 63, 0, true, 0, NULL },
};

static void elf_field(void **state)
{
	const struct elf_field *c = *state;
	struct vmm_boot_state s = { 0 };
	struct sp_err err = { 0 };

	setup(NULL);
	make_elf();
	put(image + c->at, c->value, c->bytes);
	assert_int_equal(load_exact(c->len ? c->len : ELF_SIZE, c->pvh, &s, &err), c->want);
	if (c->want == 0)
		assert_int_equal(s.mode, VMM_BOOT_LONG_MODE);
	else if (!strstr(err.text, c->says))
		fail_msg("\"%s\" is not in: %s", c->says, err.text);
	teardown(NULL);
}

/* ---- the rest -------------------------------------------------------------------------------------- */

static void refused(void **state)
{
	struct vmm_boot_opts o = { .kernel = image, .kernel_len = 0, .cpus = 1 };
	struct vmm_boot_state s;
	struct sp_err err = { 0 };

	make_bzimage();
	assert_int_equal(vmm_boot_load(memory, &o, &s, &err), -EINVAL);
	o.kernel_len = BZIMAGE;
	o.cpus = 65;
	assert_int_equal(vmm_boot_load(memory, &o, &s, &err), -EINVAL);
	o.cpus = 0;
	assert_int_equal(vmm_boot_load(memory, &o, &s, &err), -EINVAL);
	o.cpus = 64;
	assert_int_equal(vmm_boot_load(memory, &o, &s, &err), 0);
	image[0] = 0x1f;
	image[1] = 0x8b;
	image[0x202] = 0;
	assert_int_equal(vmm_boot_load(memory, &o, &s, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "gzip"));
}

/* Any bytes: loaded or refused with a text, and never more than the sanitizers allow. */
static void any_bytes(void **state)
{
	struct rng rng;
	unsigned loaded = 0;

	rng_init(&rng, 11);
	for (unsigned i = 0; i < 20000; i++) {
		bool elf = i & 1;
		struct vmm_boot_state s;
		struct sp_err err = { 0 };
		unsigned changes = 1 + (unsigned)rng_below(&rng, 3);
		int r;

		elf ? make_elf() : make_bzimage();
		while (changes-- > 0) {
			uint64_t at = elf ? rng_below(&rng, 64 + 3 * 56) : 0x1f1 + rng_below(&rng, 0x80);

			if (elf && rng_chance(&rng, 1, 4))
				at = NOTE_AT + rng_below(&rng, 88);
			image[at] = (uint8_t)rng_u64(&rng);
		}
		r = load_exact(elf ? ELF_SIZE : BZIMAGE, i & 2, &s, &err);
		loaded += r == 0;
		assert_true(r <= 0 && (r == 0) == (err.text[0] == 0));
		if (r == 0 && elf)
			vmm_memory_clear(memory);
	}
	assert_true(loaded > 1000);
}

#define LOADED(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		LOADED(bzimage), cmocka_unit_test_teardown(memory_map, teardown), LOADED(elf_long_mode),
		LOADED(elf_pvh), LOADED(refused), LOADED(any_bytes),
	};
	int failed = cmocka_run_group_tests_name("boot", tests, NULL, NULL);

	failed += ROWS_RUN(fields, header_field);
	failed += ROWS_RUN(initrds, initrd);
	failed += ROWS_RUN(lines, command_line);
	failed += ROWS_RUN(elf_fields, elf_field);
	return failed != 0;
}
