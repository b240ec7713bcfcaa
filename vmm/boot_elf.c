/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ELF64 executables: an uncompressed vmlinux, or a bare guest. Segments go to their physical addresses. Entered either
 * in long mode at e_entry, or as the PVH note says, in protected mode.
 */
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/seed.h"
#include "vmm/boot_int.h"

#define SEGMENTS_MAX 64u
#define NOTE_PHYS32_ENTRY 18u

/* An identity-mapped 64-bit entry may have the initrd anywhere below 4 GiB; Linux promises this much. */
#define INITRD_MAX 0x7fffffffu

struct elf {
	const uint8_t *image;
	size_t len;
	Elf64_Ehdr header;
	Elf64_Phdr segment[SEGMENTS_MAX];
};

static int read_header(struct elf *e, struct sp_err *err)
{
	Elf64_Ehdr *h = &e->header;

	if (e->len < sizeof(*h))
		return sp_err_set(err, -EBADMSG, "ELF: %zu bytes are too few for a header", e->len);
	memcpy(h, e->image, sizeof(*h));
	if (h->e_ident[EI_CLASS] != ELFCLASS64 || h->e_ident[EI_DATA] != ELFDATA2LSB || h->e_machine != EM_X86_64)
		return sp_err_set(err, -ENOTSUP, "ELF: class %u, byte order %u, machine %u; only little endian ELF64 "
				  "for x86-64 is booted", h->e_ident[EI_CLASS], h->e_ident[EI_DATA], h->e_machine);
	if (h->e_type != ET_EXEC)
		return sp_err_set(err, -ENOTSUP, "ELF: type %u is no static executable; link with -static -no-pie",
				  h->e_type);
	if (h->e_phentsize != sizeof(Elf64_Phdr) || h->e_phnum == 0 || h->e_phnum > SEGMENTS_MAX)
		return sp_err_set(err, -EBADMSG, "ELF: %u program headers of %u bytes, expected 1 to %u of %zu",
				  h->e_phnum, h->e_phentsize, SEGMENTS_MAX, sizeof(Elf64_Phdr));
	if (!sp_range_ok(h->e_phoff, h->e_phnum * sizeof(Elf64_Phdr), e->len))
		return sp_err_set(err, -EBADMSG, "ELF: program headers at %#" PRIx64 " lie past the end of file (%zu "
				  "bytes)", h->e_phoff, e->len);
	memcpy(e->segment, e->image + h->e_phoff, h->e_phnum * sizeof(Elf64_Phdr));
	return 0;
}

static bool loads(const Elf64_Phdr *p)
{
	return p->p_type == PT_LOAD && p->p_memsz > 0;
}

/* Segment @i: inside the file, inside RAM above 1 MiB, apart from those before it. */
static int check_segment(const struct elf *e, unsigned i, const struct vmm_memory *m, struct sp_err *err)
{
	const Elf64_Phdr *p = &e->segment[i];

	if (!SP_SEED_BUG(ELF_SEGMENT_PAST_FILE) && !sp_range_ok(p->p_offset, p->p_filesz, e->len))
		return sp_err_set(err, -EBADMSG, "ELF: segment %u at %#" PRIx64 ", %" PRIu64 " bytes, ends past the "
				  "end of file (%zu bytes)", i, p->p_offset, p->p_filesz, e->len);
	if (p->p_filesz > p->p_memsz)
		return sp_err_set(err, -EBADMSG, "ELF: segment %u has %" PRIu64 " bytes in the file, but %" PRIu64
				  " in memory", i, p->p_filesz, p->p_memsz);
	if (p->p_paddr < BOOT_HIGH)
		return sp_err_set(err, -EBADMSG, "ELF: segment %u wants physical address %#" PRIx64 ", expected 1 "
				  "MiB or above", i, p->p_paddr);
	if (!sp_range_ok(p->p_paddr, p->p_memsz, vmm_memory_low(m)))
		return sp_err_set(err, -ENOSPC, "ELF: segment %u needs %" PRIu64 " bytes of RAM from %#" PRIx64
				  " on, but RAM ends at %#" PRIx64 ": give the machine more memory", i, p->p_memsz,
				  p->p_paddr, vmm_memory_low(m));
	for (unsigned k = 0; k < i; k++)
		if (loads(&e->segment[k]) && sp_ranges_overlap(p->p_paddr, p->p_memsz, e->segment[k].p_paddr,
							       e->segment[k].p_memsz))
			return sp_err_set(err, -EBADMSG, "ELF: segments %u and %u overlap at %#" PRIx64, k, i,
					  p->p_paddr);
	return 0;
}

static int check_segments(const struct elf *e, const struct vmm_memory *m, struct boot_kernel *k, struct sp_err *err)
{
	k->start = UINT64_MAX;
	for (unsigned i = 0; i < e->header.e_phnum; i++) {
		const Elf64_Phdr *p = &e->segment[i];
		int r;

		if (!loads(p))
			continue;
		r = check_segment(e, i, m, err);
		if (r < 0)
			return r;
		k->start = sp_min(k->start, p->p_paddr);
		k->end = sp_max(k->end, p->p_paddr + p->p_memsz);
	}
	return k->end ? 0 : sp_err_set(err, -EBADMSG, "ELF: no segment to load");
}

/* The entry is code that came from the file. */
static bool entry_ok(const struct elf *e, uint64_t entry)
{
	for (unsigned i = 0; i < e->header.e_phnum; i++)
		if (loads(&e->segment[i]) && entry >= e->segment[i].p_paddr &&
		    entry - e->segment[i].p_paddr < e->segment[i].p_filesz)
			return true;
	return false;
}

/* A note is a header of 12 bytes, owner and data, each padded to 4 bytes. */
static bool find_pvh_in(const uint8_t *notes, uint64_t len, uint64_t *ret_entry)
{
	while (len >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr n;
		uint64_t name_room, data_room;
		const uint8_t *name = notes + sizeof(n), *data;

		memcpy(&n, notes, sizeof(n));
		name_room = sp_align_up((uint64_t)n.n_namesz, 4);
		data_room = sp_align_up((uint64_t)n.n_descsz, 4);
		if (name_room + n.n_descsz > len - sizeof(n))
			return false;
		data = name + name_room;
		if (n.n_type == NOTE_PHYS32_ENTRY && n.n_namesz == 4 && memcmp(name, "Xen", 4) == 0 &&
		    (n.n_descsz == 4 || n.n_descsz == 8)) {
			le64_t value = { { 0 } };

			memcpy(&value, data, n.n_descsz);
			*ret_entry = le64_get(value);
			return true;
		}
		if (name_room + data_room > len - sizeof(n))
			return false;
		notes = data + data_room;
		len -= sizeof(n) + name_room + data_room;
	}
	return false;
}

static bool find_pvh(const struct elf *e, uint64_t *ret_entry)
{
	for (unsigned i = 0; i < e->header.e_phnum; i++) {
		const Elf64_Phdr *p = &e->segment[i];

		if (p->p_type == PT_NOTE && sp_range_ok(p->p_offset, p->p_filesz, e->len) &&
		    find_pvh_in(e->image + p->p_offset, p->p_filesz, ret_entry))
			return true;
	}
	return false;
}

static void copy_segments(const struct elf *e, const struct vmm_memory *m)
{
	for (unsigned i = 0; i < e->header.e_phnum; i++) {
		const Elf64_Phdr *p = &e->segment[i];

		if (loads(p) && p->p_filesz)
			memcpy(vmm_memory_map(m, p->p_paddr, p->p_filesz), e->image + p->p_offset, p->p_filesz);
	}
}

int boot_elf_load(const struct vmm_memory *m, const uint8_t *image, size_t len, bool prefer_pvh,
		  struct boot_kernel *ret_kernel, struct sp_err *err)
{
	struct elf e = { .image = image, .len = len };
	struct boot_kernel k = { .initrd_max = INITRD_MAX, .cmdline_max = BOOT_CMDLINE_LINUX };
	int r;

	r = read_header(&e, err);
	if (r == 0)
		r = check_segments(&e, m, &k, err);
	if (r < 0)
		return r;
	k.entry = e.header.e_entry;
	k.pvh = prefer_pvh && find_pvh(&e, &k.entry);
	if (!entry_ok(&e, k.entry))
		return sp_err_set(err, -EBADMSG, "ELF: %s %#" PRIx64 " is in no loaded segment's physical addresses",
				  k.pvh ? "PVH entry" : "entry", k.entry);
	copy_segments(&e, m);
	*ret_kernel = k;
	return 0;
}
