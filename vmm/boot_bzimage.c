/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A Linux kernel as distributions ship it, entered at its 64-bit entry. The setup header stands at 0x1f1 of the file
 * and is copied to the same place of the zero page; the real mode part before the payload is never run.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "base/bytes.h"
#include "base/seed.h"
#include "vmm/boot_int.h"

#define HEADER_AT	0x1f1u
#define HEADER_END_MAX	0x290u		/* the zero page goes on with something else there */
#define PROTOCOL_MIN	0x20cu		/* xloadflags */
#define LOADED_HIGH	0x01u
#define XLF_KERNEL_64	0x01u
#define ENTRY_64	0x200u
#define SECTOR		512u
#define SETUP_SECTS_OLD 4u		/* what 0 stands for */

/* Documentation/x86/boot.rst, "The Real-Mode Kernel Header", from 0x1f1 on. */
struct setup_header {
	uint8_t setup_sects;
	le16_t root_flags;
	le32_t syssize;
	le16_t ram_size, vid_mode, root_dev;
	le16_t boot_flag;		/* 0x1fe */
	uint8_t jump[2];		/* 0x200: a short jump over the header, so [1] tells its end */
	uint8_t magic[4];		/* 0x202: "HdrS" */
	le16_t version;			/* 0x206 */
	le32_t realmode_swtch;
	le16_t start_sys_seg, kernel_version;
	uint8_t type_of_loader;		/* 0x210 */
	uint8_t loadflags;
	le16_t setup_move_size;
	le32_t code32_start;		/* 0x214 */
	le32_t ramdisk_image, ramdisk_size;
	le32_t bootsect_kludge;
	le16_t heap_end_ptr;
	uint8_t ext_loader_ver, ext_loader_type;
	le32_t cmd_line_ptr;		/* 0x228 */
	le32_t initrd_addr_max;
	le32_t kernel_alignment;	/* 0x230 */
	uint8_t relocatable_kernel, min_alignment;
	le16_t xloadflags;		/* 0x236 */
	le32_t cmdline_size;
	le32_t hardware_subarch;
	le64_t hardware_subarch_data;
	le32_t payload_offset, payload_length;
	le64_t setup_data;
	le64_t pref_address;		/* 0x258 */
	le32_t init_size;
	le32_t handover_offset;
};
static_assert(offsetof(struct setup_header, boot_flag) == 0x1fe - HEADER_AT, "boot.rst");
static_assert(offsetof(struct setup_header, code32_start) == 0x214 - HEADER_AT, "boot.rst");
static_assert(offsetof(struct setup_header, cmd_line_ptr) == 0x228 - HEADER_AT, "boot.rst");
static_assert(offsetof(struct setup_header, xloadflags) == 0x236 - HEADER_AT, "boot.rst");
static_assert(offsetof(struct setup_header, pref_address) == 0x258 - HEADER_AT, "boot.rst");
static_assert(sizeof(struct setup_header) == 0x268 - HEADER_AT, "boot.rst");

/* The header can be believed to be one, and is of a kernel that has a 64-bit entry. */
static int check_header(const struct setup_header *h, size_t len, struct sp_err *err)
{
	unsigned end = 0x202u + h->jump[1];

	if (le16_get(h->boot_flag) != 0xaa55)
		return sp_err_set(err, -EBADMSG, "bzImage: boot flag at 0x1fe is %#x, not 0xaa55",
				  le16_get(h->boot_flag));
	if (le16_get(h->version) < PROTOCOL_MIN)
		return sp_err_set(err, -ENOTSUP, "bzImage: boot protocol %u.%02u has no 64-bit entry; 2.12 (Linux "
				  "3.8) is the first that does", le16_get(h->version) >> 8,
				  le16_get(h->version) & 0xff);
	if (end < HEADER_AT + sizeof(*h) || end > HEADER_END_MAX || end > len)
		return sp_err_set(err, -EBADMSG, "bzImage: setup header ends at %#x (0x201), expected %#zx to %#x", end,
				  HEADER_AT + sizeof(*h), HEADER_END_MAX);
	if (!(le16_get(h->xloadflags) & XLF_KERNEL_64))
		return sp_err_set(err, -ENOTSUP, "bzImage: a 32-bit kernel (xloadflags %#x at 0x236); one for x86-64 "
				  "is needed", le16_get(h->xloadflags));
	if (!(h->loadflags & LOADED_HIGH))
		return sp_err_set(err, -ENOTSUP, "bzImage: loads below 1 MiB (loadflags %#x at 0x211)", h->loadflags);
	return 0;
}

/* Where it goes: [pref_address, + init_size), which must be RAM and must hold the payload. */
static int check_place(const struct setup_header *h, const struct vmm_memory *m, uint64_t payload,
		       struct boot_kernel *ret, struct sp_err *err)
{
	uint64_t pref = le64_get(h->pref_address), size = sp_max(le32_get(h->init_size), payload);
	uint32_t alignment = le32_get(h->kernel_alignment);

	if (!sp_is_pow2(alignment) || !sp_is_aligned(pref, alignment))
		return sp_err_set(err, -EBADMSG, "bzImage: load address %#" PRIx64 " (0x258) does not fit alignment "
				  "%#x (0x230)", pref, alignment);
	if (pref < BOOT_HIGH || pref >= VMM_LOW_RAM_MAX)
		return sp_err_set(err, -EBADMSG, "bzImage: load address %#" PRIx64 " (0x258), expected 1 MiB to 3 GiB",
				  pref);
	if (!sp_range_ok(pref, size, vmm_memory_low(m)))
		return sp_err_set(err, -ENOSPC, "kernel needs %" PRIu64 " bytes of RAM from %#" PRIx64 " on, but RAM "
				  "ends at %#" PRIx64 ": give the machine more memory", size, pref, vmm_memory_low(m));
	ret->start = pref;
	ret->end = pref + size;
	ret->entry = pref + ENTRY_64;
	return 0;
}

int boot_bzimage_load(const struct vmm_memory *m, const uint8_t *image, size_t len, struct boot_kernel *ret_kernel,
		      struct sp_err *err)
{
	struct setup_header h;
	struct boot_kernel k = { 0 };
	size_t payload_at;
	int r;

	if (len < HEADER_AT + sizeof(h))
		return sp_err_set(err, -EBADMSG, "bzImage: %zu bytes are too few for a setup header", len);
	memcpy(&h, image + HEADER_AT, sizeof(h));
	r = check_header(&h, len, err);
	if (r < 0)
		return r;
	payload_at = ((h.setup_sects ? h.setup_sects : SETUP_SECTS_OLD) + (size_t)1) * SECTOR;
	if (!SP_SEED_BUG(BOOT_PAYLOAD_PAST_FILE) && (payload_at >= len || len - payload_at <= ENTRY_64))
		return sp_err_set(err, -EBADMSG, "bzImage: file of %zu bytes ends before the 64-bit entry at %#zx "
				  "(setup_sects %u): truncated?", len, payload_at + ENTRY_64, h.setup_sects);
	r = check_place(&h, m, len - payload_at, &k, err);
	if (r < 0)
		return r;
	k.initrd_max = le32_get(h.initrd_addr_max);
	k.cmdline_max = le32_get(h.cmdline_size);
	k.setup = image + HEADER_AT;
	k.setup_len = 0x202u + h.jump[1] - HEADER_AT;
	memcpy(vmm_memory_map(m, k.start, len - payload_at), image + payload_at, len - payload_at);
	*ret_kernel = k;
	return 0;
}
