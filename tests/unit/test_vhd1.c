/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VHD 1.0: vectors of the specification sheet, finding footers, parsing, and what must be refused.
 */
#include "tests/unit/vhd1_images.h"

#include <errno.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/crc32c.h"

/* ---- CHS ----------------------------------------------------------------------------------------- */

static const struct chs_row { const char *name; uint64_t sectors; uint16_t c; uint8_t h, s; } chs_rows[] = {
	{ "nothing", 0, 0, 4, 17 },
	{ "1 MiB", 2048, 30, 4, 17 },
	{ "3 MiB", 6144, 90, 4, 17 },
	{ "4 MiB", 8192, 120, 4, 17 },
	{ "10 MiB", 20480, 301, 4, 17 },
	{ "20 MiB", 40960, 602, 4, 17 },
	{ "34 MiB, blind spot", 69632, 140, 16, 31 },
	{ "last before the blind spot", 69631, 1023, 4, 17 },
	{ "last of the blind spot", 69648, 140, 16, 31 },
	{ "first after the blind spot", 69649, 819, 5, 17 },
	{ "40 MiB", 81920, 963, 5, 17 },
	{ "64 MiB", 131072, 963, 8, 17 },
	{ "100 MiB", 204800, 1003, 12, 17 },
	{ "127 MiB", 260096, 1019, 15, 17 },
	{ "128 MiB", 262144, 963, 16, 17 },
	{ "136 MiB, 31 for good", 278528, 561, 16, 31 },
	{ "248 MiB, 63", 507904, 503, 16, 63 },
	{ "504 MiB", 1032192, 1024, 16, 63 },
	{ "512 MiB", 1048576, 1040, 16, 63 },
	{ "1 GiB", 2097152, 2080, 16, 63 },
	{ "5 GiB", 10485760, 10402, 16, 63 },
	{ "8 GiB", 16777216, 16644, 16, 63 },
	{ "31 GiB", 65011712, 64495, 16, 63 },
	{ "last with 63", 66059279, 65534, 16, 63 },
	{ "first with 255", 66059280, 16191, 16, 255 },
	{ "127 GiB", 266338304, 65278, 16, 255 },
	{ "one below the reach", 267382799, 65534, 16, 255 },
	{ "the reach", 267382800, 65535, 16, 255 },
	{ "2040 GiB", 0xff000000, 65535, 16, 255 },
	{ "beyond 32 bits", 1ull << 40, 65535, 16, 255 },
};

static void chs(void **state)
{
	const struct chs_row *row = *state;
	struct vhd1_chs got = vhd1_chs_from_sectors(row->sectors);

	assert_int_equal(got.cylinders, row->c);
	assert_int_equal(got.heads, row->h);
	assert_int_equal(got.sectors, row->s);
}

/* ---- footers and headers ------------------------------------------------------------------------- */

static const struct footer_row {
	const char *name;
	uint32_t timestamp;
	const char *creator;
	uint32_t creator_version;
	uint64_t size;
	uint8_t chs[4];
	uint32_t type;
	uint8_t id[16];
	uint32_t want;
} footer_rows[] = {
#define ID_00 { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 }
	{ "F1 fixed 4 MiB", 0, "win ", 0xa0000, 0x400000, { 0, 0x78, 4, 0x11 }, 2, ID_00, 0xfffff04b },
	{ "F2 fixed 256 MiB", 0x27a6a65d, "qemu", 0x50003, 0x10000000, { 0x11, 0xe0, 0x10, 0x3f }, 2,
	  { 0x98, 0x7b, 0xb1, 0xcd, 0x84, 0x14, 0x41, 0xfc, 0xa4, 0xab, 0xd0, 0x69, 0x45, 0x2b, 0xf2, 0x23 },
	  0xffffe5e5 },
	{ "F3 Azure export 5 GiB", T0, "wa\0", 0x70000, 0x140000000, { 0x28, 0xa2, 0x10, 0x3f }, 2,
	  { 0x8c, 0x54, 0xdf, 0x94, 0xbd, 0x35, 0x71, 0x4c, 0x94, 0x5f, 0xe5, 0x44, 0x44, 0x53, 0x92, 0x1a },
	  0xffffe747 },
	{ "F4 dynamic 1 GiB", T0, "win ", 0xa0000, 0x40000000, { 0x08, 0x20, 0x10, 0x3f }, 3, ID_00, 0xfffff630 },
	{ "F5 differencing 1 GiB", T0 + 1, "win ", 0xa0000, 0x40000000, { 0x08, 0x20, 0x10, 0x3f }, 4,
	  { 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31 }, 0xfffff52e },
};

static void footer_checksum(void **state)
{
	const struct footer_row *row = *state;
	struct vhd1_footer_disk f, by_us;
	struct sp_err err = { 0 };

	vhd1_footer_make(&f, row->type, row->size);
	by_us = f;
	f.timestamp = be32_make(row->timestamp);
	memcpy(f.creator, row->creator, 4);
	f.creator_version = be32_make(row->creator_version);
	memcpy(&f.cylinders, row->chs, 4);
	memcpy(f.unique_id.b, row->id, 16);
	vhd1_footer_seal(&f);
	assert_int_equal(be32_get(f.checksum), row->want);
	assert_int_equal(vhd1_footer_validate(&f, &err), 0);
	if (memcmp(row->creator, "qemu", 4) != 0)	/* F2 has another disk's geometry; no reader may mind */
		assert_memory_equal(&by_us.cylinders, row->chs, 4);
	for (size_t i = 0; i < sizeof(f); i++) {		/* any change of one byte is noticed */
		((uint8_t *)&f)[i] ^= 0x10;
		assert_true(vhd1_footer_validate(&f, NULL) < 0);
		((uint8_t *)&f)[i] ^= 0x10;
	}
}

static const struct header_row { const char *name; uint32_t entries, block_size, want; } header_rows[] = {
	{ "1 entry", 1, 2 << 20, 0xfffff476 },
	{ "2 entries", 2, 2 << 20, 0xfffff475 },
	{ "32 entries", 32, 2 << 20, 0xfffff457 },
	{ "512 entries", 512, 2 << 20, 0xfffff475 },
	{ "513 entries", 513, 2 << 20, 0xfffff474 },
	{ "2048 entries of 512 KiB", 2048, 512 << 10, 0xfffff487 },
	{ "65025 entries", 65025, 2 << 20, 0xfffff378 },
	{ "524288 entries", 524288, 2 << 20, 0xfffff46f },
	{ "1044480 entries", 1044480, 2 << 20, 0xfffff378 },
};

static struct vhd1_header_disk make_header(uint32_t entries, uint32_t block_size)
{
	struct vhd1_header_disk h = { .cookie = "cxsparse", .next = be64_make(UINT64_MAX),
				      .bat_offset = be64_make(1536), .version = be32_make(0x10000),
				      .max_entries = be32_make(entries), .block_size = be32_make(block_size) };

	vhd1_header_seal(&h);
	return h;
}

static void header_checksum(void **state)
{
	const struct header_row *row = *state;
	struct vhd1_header_disk h = make_header(row->entries, row->block_size);

	assert_int_equal(be32_get(h.checksum), row->want);
}

static void complete_image(void **state)
{
	struct store *s = new_image(VHD_KIND_DYNAMIC, SP_GIB(1), 0);
	uint8_t bytes[4096];

	assert_int_equal(file_size(s), sizeof(bytes));
	peek(s, bytes, sizeof(bytes), 0);
	assert_int_equal(sp_crc32c(bytes, sizeof(bytes)), 0x653b8d41);
	expect_open(s, 0, 0, NULL);
}

static const struct empty_row { const char *name; uint64_t size, file; } empty_rows[] = {
	{ "1 MiB", SP_MIB(1), 2560 }, { "128 MiB", SP_MIB(128), 2560 }, { "512 MiB", SP_MIB(512), 3072 },
	{ "127 GiB", SP_GIB(127), 1536 + 65024 * 4 + 512 }, { "1 TiB", SP_TIB(1), 2099200 },
	{ "2040 GiB", SP_GIB(2040), 4179968 },
};

static void empty_size(void **state)
{
	const struct empty_row *row = *state;
	struct store *s = new_image(VHD_KIND_DYNAMIC, row->size, 0);

	assert_int_equal(file_size(s), row->file);
	expect_open(s, VHD_IMG_WRITABLE, 0, NULL);
}

/* ---- differencing -------------------------------------------------------------------------------- */

static void put_utf16(struct store *s, uint64_t at, const char *text, bool big_endian)
{
	for (size_t i = 0; text[i]; i++) {
		uint8_t unit[2] = { (uint8_t)text[i], 0 };

		if (big_endian)
			unit[1] = unit[0], unit[0] = 0;
		poke(s, unit, 2, at + 2 * i);
	}
}

/* The differencing image of the sheet: header checksum 0xFFFFEBA1, two locators behind the BAT. */
static struct store *sheet_child(void)
{
	struct vhd1_header_disk h = make_header(512, 2 << 20);
	struct store *s = new_store();
	struct vhd1_footer_disk f;
	uint8_t bat[2048];

	for (int i = 0; i < 16; i++)
		h.parent_id.b[i] = (uint8_t)i;
	h.parent_timestamp = be32_make(T0);
	assert_int_equal(vhd1_name_encode("base.vhd", h.parent_name, NULL), 0);
	vhd1_locator_encode(&h.locator[0], VHD1_CODE_W2RU, 512, 20, 3584);
	vhd1_locator_encode(&h.locator[1], VHD1_CODE_W2KU, 512, 28, 4096);
	vhd1_header_seal(&h);
	assert_int_equal(be32_get(h.checksum), 0xffffeba1);
	vhd1_footer_make(&f, VHD1_TYPE_DIFFERENCING, SP_GIB(1));
	memset(bat, 0xff, sizeof(bat));
	poke(s, &f, sizeof(f), 0);
	poke(s, &h, sizeof(h), 512);
	poke(s, bat, sizeof(bat), 1536);
	put_utf16(s, 3584, ".\\base.vhd", false);
	put_utf16(s, 4096, "C:\\vm\\base.vhd", false);
	poke(s, &f, sizeof(f), 4608);
	return s;
}

static void sheet_locators(void **state)
{
	struct vhd_image *img = open_image(sheet_child(), 0);
	const struct vhd_parent_ref *p = &img->parent;

	assert_int_equal(img->kind, VHD_KIND_DIFFERENCING);
	assert_int_equal(p->paths, 3);
	assert_string_equal(p->path[0].text, ".\\base.vhd");
	assert_int_equal(p->path[0].kind, VHD_PATH_RELATIVE);
	assert_string_equal(p->path[1].text, "C:\\vm\\base.vhd");
	assert_int_equal(p->path[1].kind, VHD_PATH_ABSOLUTE);
	assert_string_equal(p->path[2].text, "base.vhd");
	assert_int_equal(p->path[2].kind, VHD_PATH_NAME);
	assert_int_equal(p->identities, 1);
	assert_int_equal(p->identity[0].b[15], 15);
	assert_int_equal(p->mtime, vhd1_time_to_unix(T0));
	vhd_image_close(img, false);
}

/* A sheet child whose first locator has another code, text and length; what its path comes out as. */
static const struct locator_row {
	const char *name;
	uint32_t code, space, length, offset;
	const char *text;
	size_t text_len;
	enum vhd_path_kind kind;
	const char *want;	/* NULL: the locator is skipped */
} locator_rows[] = {
#define T(text) text, sizeof(text) - 1
	{ "Wi2r", VHD1_CODE_WI2R, 1, 9, 3584, T("..\\b\xe9.vhd"), VHD_PATH_RELATIVE, "..\\b\xc3\xa9.vhd" },
	{ "Wi2k", VHD1_CODE_WI2K, 1, 8, 3584, T("D:\\b.vhd"), VHD_PATH_ABSOLUTE, "D:\\b.vhd" },
	{ "MacX", VHD1_CODE_MACX, 512, 24, 3584, T("file:///my%20vm/b%2Bc.vhd"), VHD_PATH_ABSOLUTE, "/my vm/b+c.vh" },
	{ "MacX on localhost", VHD1_CODE_MACX, 512, 22, 3584, T("file://localhost/b.vhd"), VHD_PATH_ABSOLUTE,
	  "/b.vhd" },
	{ "MacX by XenServer", VHD1_CODE_MACX, 512, 14, 3584, T("file://./b.vhd"), VHD_PATH_RELATIVE, "./b.vhd" },
	{ "MacX with a digit slip", VHD1_CODE_MACX_SLIP, 512, 13, 3584, T("file:///b.vhd"), VHD_PATH_ABSOLUTE,
	  "/b.vhd" },
	{ "MacX with an escaped NUL", VHD1_CODE_MACX, 512, 13, 3584, T("file:///b%00c"), VHD_PATH_ABSOLUTE, NULL },
	{ "MacX cut inside an escape", VHD1_CODE_MACX, 512, 10, 3584, T("file:///b%2"), VHD_PATH_ABSOLUTE, "/b%" },
	{ "Mac alias", VHD1_CODE_MAC, 512, 13, 3584, T("some alias blob"), VHD_PATH_ABSOLUTE, NULL },
	{ "W2ru stored big-endian", VHD1_CODE_W2RU, 512, 14, 3584, T("\0.\0\\\0b\0.\0v\0h\0d"), VHD_PATH_RELATIVE,
	  ".\\b.vhd" },
	{ "text ends at NUL", VHD1_CODE_W2RU, 512, 12, 3584, T("b\0.\0v\0\0\0x\0y\0"), VHD_PATH_RELATIVE, "b.v" },
	{ "space neither sectors nor bytes", VHD1_CODE_W2RU, 700, 4, 3584, T("b\0c\0"), VHD_PATH_RELATIVE, NULL },
	{ "no space", VHD1_CODE_W2RU, 0, 0, 3584, T("b\0c\0"), VHD_PATH_RELATIVE, NULL },
	{ "longer than its space", VHD1_CODE_W2RU, 1, 514, 3584, T("b\0c\0"), VHD_PATH_RELATIVE, NULL },
	{ "offset past the end", VHD1_CODE_W2RU, 1, 4, 0x7ffffe00, T("b\0c\0"), VHD_PATH_RELATIVE, NULL },
	{ "offset not aligned", VHD1_CODE_W2RU, 1, 4, 3586, T("b\0c\0"), VHD_PATH_RELATIVE, NULL },
	{ "offset in the footer copy", VHD1_CODE_W2RU, 1, 4, 0, T(""), VHD_PATH_RELATIVE, NULL },
	{ "huge", VHD1_CODE_W2RU, 0xfffffe00, 0xfffffe00, 3584, T("b\0c\0"), VHD_PATH_RELATIVE, NULL },
};

static void locator(void **state)
{
	const struct locator_row *row = *state;
	struct store *s = sheet_child();
	struct vhd1_locator_disk d;
	struct vhd_image *img;
	unsigned found = 0;

	vhd1_locator_encode(&d, row->code, row->space, row->length, row->offset);
	poke(s, &d, sizeof(d), 512 + 576);
	poke_be32(s, 512 + 576 + 24, 0);		/* no second one */
	reseal_header(s, 512);
	poke(s, (uint8_t[512]){ 0 }, 512, 3584);
	if (row->text_len)
		poke(s, row->text, row->text_len, 3584);
	img = open_image(s, 0);
	for (unsigned i = 0; i < img->parent.paths; i++) {
		if (img->parent.path[i].kind == VHD_PATH_NAME)
			continue;
		found++;
		assert_non_null(row->want);
		assert_string_equal(img->parent.path[i].text, row->want);
		assert_int_equal(img->parent.path[i].kind, row->kind);
	}
	assert_int_equal(found, row->want ? 1 : 0);
	vhd_image_close(img, false);
}

static void locators_written(void **state)
{
	struct vhd_image *img = open_image(new_image(VHD_KIND_DIFFERENCING, SP_GIB(1), 0), 0);
	struct vhd1 *v = vhd1_of(img);
	uint8_t text[26];

	assert_int_equal(img->parent.paths, 3);
	assert_string_equal(img->parent.path[0].text, ".\\base.vhd");
	assert_string_equal(img->parent.path[1].text, "\\vm\\base.vhd");
	assert_string_equal(img->parent.path[2].text, "base.vhd");
	assert_int_equal(img->parent.identity[0].b[3], 0xa3);
	assert_memory_equal(v->header.parent_name, "\0b\0a\0s\0e\0.\0v\0h\0d\0\0", 18);
	for (int i = 0; i < 2; i++)	/* Hyper-V wants room for 512 characters */
		assert_int_equal(be32_get(v->header.locator[i].data_space), 1024);
	peek(img->store, text, 20, be64_get(v->header.locator[0].data_offset));
	assert_memory_equal(text, ".\0\\\0b\0a\0s\0e\0.\0v\0h\0d\0", 20);
	vhd_image_close(img, false);
}

/* "80 01" means exactly sectors 0 and 15. */
static void bitmap_order(void **state)
{
	struct store *s = sheet_child();
	struct vhd_image *img;
	struct vhd_place p;

	poke(s, (uint8_t[512]){ 0x80, 0x01 }, 512, 4608);
	poke_be32(s, 1536, 9);
	struct vhd1_footer_disk f;
	peek(s, &f, sizeof(f), 0);
	poke(s, &f, sizeof(f), 4608 + 512 + (2 << 20));

	img = open_image(s, 0);
	assert_int_equal(vhd1_map(img, 0, 4096 * 4, &p), 0);
	assert_int_equal(p.where, VHD_WHERE_DATA);
	assert_int_equal(p.len, 512);
	assert_int_equal(p.file_offset, 5120);
	assert_false(p.direct_write);
	assert_int_equal(vhd1_map(img, 512, 1 << 20, &p), 0);
	assert_int_equal(p.where, VHD_WHERE_PARENT);
	assert_int_equal(p.len, 14 * 512);
	assert_int_equal(vhd1_map(img, 15 * 512 + 7, 100, &p), 0);
	assert_int_equal(p.where, VHD_WHERE_DATA);
	assert_int_equal(p.len, 100);
	assert_int_equal(p.file_offset, 5120 + 15 * 512 + 7);
	assert_int_equal(vhd1_map(img, 16 * 512, SP_GIB(1) - 16 * 512, &p), 0);	/* merged over all blocks */
	assert_int_equal(p.where, VHD_WHERE_PARENT);
	assert_int_equal(p.len, SP_GIB(1) - 16 * 512);
	vhd_image_close(img, false);
}

/* ---- which footer ------------------------------------------------------------------------------- */

enum damage { D_NONE, D_END, D_KILLED, D_SHORT, D_COPY, D_COPY_DIFFERS, D_BOTH, D_POISON, D_CUT };

static const struct footer_place_row {
	const char *name;
	enum vhd_kind kind;
	enum damage damage;
	int want;
	const char *text;	/* of the warning or the error */
} footer_place_rows[] = {
	{ "dynamic, sound", VHD_KIND_DYNAMIC, D_NONE, 0, NULL },
	{ "dynamic, end lost", VHD_KIND_DYNAMIC, D_END, 0, "using the copy at 0" },
	{ "dynamic, end cut off", VHD_KIND_DYNAMIC, D_CUT, 0, "using the copy at 0" },
	{ "dynamic, end killed by XenServer", VHD_KIND_DYNAMIC, D_KILLED, 0, "0xC7" },
	{ "dynamic, 511 bytes", VHD_KIND_DYNAMIC, D_SHORT, 0, "511" },
	{ "dynamic, copy lost", VHD_KIND_DYNAMIC, D_COPY, 0, "copy at 0 is damaged" },
	{ "dynamic, copy differs", VHD_KIND_DYNAMIC, D_COPY_DIFFERS, 0, "copy at 0 differs" },
	{ "dynamic, both lost", VHD_KIND_DYNAMIC, D_BOTH, -EBADMSG, "no valid copy" },
	{ "dynamic, disabled", VHD_KIND_DYNAMIC, D_POISON, -ENOTSUP, "v_poison" },
	{ "fixed, sound", VHD_KIND_FIXED, D_NONE, 0, NULL },
	{ "fixed, end lost", VHD_KIND_FIXED, D_END, -EBADMSG, "no valid copy" },
	{ "fixed, 511 bytes", VHD_KIND_FIXED, D_SHORT, 0, "511" },
	{ "fixed, disabled", VHD_KIND_FIXED, D_POISON, -ENOTSUP, "v_poison" },
};

static void damage_footer(struct store *s, enum damage d)
{
	uint64_t end = file_size(s) - 512;

	if (d == D_END || d == D_BOTH)
		poke(s, "X", 1, end + 20);
	if (d == D_COPY || d == D_BOTH)
		poke(s, "X", 1, 20);
	if (d == D_COPY_DIFFERS) {
		poke_be32(s, 24, 99);
		reseal_footer(s, 0);
	}
	if (d == D_KILLED) {
		uint8_t c7[512];

		memset(c7, 0xc7, sizeof(c7));
		poke(s, c7, sizeof(c7), end);
	}
	if (d == D_POISON)
		poke(s, "v_poison", 8, end);
	if (d == D_SHORT)
		assert_int_equal(store_resize(s, end + 511), 0);
	if (d == D_CUT)
		assert_int_equal(store_resize(s, end), 0);
}

static void footer_place(void **state)
{
	const struct footer_place_row *row = *state;
	struct store *s = new_image(row->kind, SP_MIB(4), 0);
	uint64_t size = file_size(s);
	struct vhd1_footer_disk head, tail;
	struct vhd_image *img;

	damage_footer(s, row->damage);
	if (row->want < 0) {
		expect_open(s, 0, row->want, row->text);
		return;
	}
	img = open_image(copy_of(s), 0);
	assert_int_equal(img->size, SP_MIB(4));
	if (row->text && (!img->warning || !strstr(img->warning, row->text)))
		fail_msg("warning: %s", img->warning ? img->warning : "none");
	if (!row->text)
		assert_null(img->warning);
	vhd_image_close(img, false);

	img = open_image(s, VHD_IMG_WRITABLE);		/* puts it in order */
	assert_int_equal(file_size(img->store), size);
	peek(img->store, &head, sizeof(head), 0);
	peek(img->store, &tail, sizeof(tail), size - 512);
	assert_int_equal(vhd1_footer_validate(&tail, NULL), 0);
	if (row->kind != VHD_KIND_FIXED)
		assert_memory_equal(&head, &tail, sizeof(head));
	vhd_image_close(img, false);
}

/* Guest data of a fixed disk that looks like a VHD must not decide anything. */
static void fixed_with_vhd_inside(void **state)
{
	struct store *s = new_image(VHD_KIND_FIXED, SP_MIB(4), 0);
	struct vhd1_footer_disk f;
	struct vhd_image *img;

	vhd1_footer_make(&f, VHD1_TYPE_DYNAMIC, SP_GIB(7));
	poke(s, &f, sizeof(f), 0);
	img = open_image(s, 0);
	assert_int_equal(img->kind, VHD_KIND_FIXED);
	assert_int_equal(img->size, SP_MIB(4));
	assert_null(img->warning);
	vhd_image_close(img, false);
}

/* ---- hostile images ------------------------------------------------------------------------------ */

#define F(field) offsetof(struct vhd1_footer_disk, field)
#define H(field) (512 + offsetof(struct vhd1_header_disk, field))

/* One or two 32-bit words of a 4 MiB dynamic image (2 BAT entries) changed, in both footers when below 512. */
static const struct hostile_row {
	const char *name;
	uint32_t at, value, at2, value2;
	bool keep_checksum;
	int want_read, want_write;	/* verdict of opening */
	const char *text;
} hostile_rows[] = {
	{ "as written", 512, 0x63787370, 0, 0, false, 0, 0, NULL },
	{ "V2 footer version 2", F(version), 0x20000, 0, 0, false, -ENOTSUP, -ENOTSUP, "version" },
	{ "V2 type 0", F(type), 0, 0, 0, false, -ENOTSUP, -ENOTSUP, "disk type is 0" },
	{ "V2 type 1", F(type), 1, 0, 0, false, -ENOTSUP, -ENOTSUP, "disk type is 1" },
	{ "V2 type 5", F(type), 5, 0, 0, false, -ENOTSUP, -ENOTSUP, "disk type is 5" },
	{ "V2 type 7", F(type), 7, 0, 0, false, -ENOTSUP, -ENOTSUP, "disk type is 7" },
	{ "V3 size 0", F(current_size) + 4, 0, 0, 0, false, -EBADMSG, -EBADMSG, "current size" },
	{ "V3 size odd", F(current_size) + 4, 1000, 0, 0, false, -EBADMSG, -EBADMSG, "current size" },
	{ "V3 size negative", F(current_size), 0x80000000, 0, 0, false, -EBADMSG, -EBADMSG, "current size" },
	{ "V3 size past 2 TiB", F(current_size), 0x200, 0, 0, false, -EBADMSG, -EBADMSG, "address" },
	{ "V4 fixed, cut", F(type), 2, F(current_size), 1, false, -EBADMSG, -EBADMSG, "cut" },
	{ "V5 data offset odd", F(data_offset) + 4, 513, 0, 0, false, -EBADMSG, -EBADMSG, "data offset" },
	{ "V5 data offset 0", F(data_offset) + 4, 0, 0, 0, false, -EBADMSG, -EBADMSG, "data offset" },
	{ "V5 data offset past the end", F(data_offset) + 4, 2048, 0, 0, false, -EBADMSG, -EBADMSG, "data offset" },
	{ "V5 data offset wraps", F(data_offset), 0xffffffff, F(data_offset) + 4, 0xfffffe00, false, -EBADMSG, -EBADMSG,
	  "data offset" },
	{ "V6 header cookie", H(cookie), 0x58787370, 0, 0, false, -EBADMSG, -EBADMSG, "cxsparse" },
	{ "V6 header checksum", H(reserved2), 1, 0, 0, true, -EBADMSG, -EBADMSG, "checksum" },
	{ "V6 header version", H(version), 0x30000, 0, 0, false, -ENOTSUP, -ENOTSUP, "version" },
	{ "V7 block size 0", H(block_size), 0, 0, 0, false, -EBADMSG, -EBADMSG, "block size" },
	{ "V7 block size 3 MiB", H(block_size), 3 << 20, 0, 0, false, -EBADMSG, -EBADMSG, "block size" },
	{ "V7 block size 256", H(block_size), 256, 0, 0, false, -EBADMSG, -EBADMSG, "block size" },
	{ "V7 block size 1 GiB", H(block_size), 1u << 30, 0, 0, false, -EBADMSG, -EBADMSG, "block size" },
	{ "V8 too few entries", H(max_entries), 1, 0, 0, false, -EBADMSG, -EBADMSG, "BAT has 1 entries" },
	{ "V8 entries past the end", H(max_entries), 0xffffffff, 0, 0, false, -EBADMSG, -EBADMSG,
	  "ends past the file" },
	{ "V8 BAT offset odd", H(bat_offset) + 4, 1537, 0, 0, false, -EBADMSG, -EBADMSG, "BAT offset" },
	{ "V8 BAT offset wraps", H(bat_offset), 0xffffffff, H(bat_offset) + 4, 0xfffffe00, false, -EBADMSG, -EBADMSG,
	  "ends past the file" },
	{ "V8 BAT offset 0", H(bat_offset) + 4, 0, 0, 0, false, -EBADMSG, -EBADMSG, "BAT offset" },
	{ "V10 entry 0", 1536, 0, 0, 0, false, 0, -EBADMSG, "BAT entry 0 (at 1536)" },
	{ "V10 entry in the header", 1536, 2, 0, 0, false, 0, -EBADMSG, "BAT entry 0" },
	{ "V10 entry past the end", 1540, 0x7fffffff, 0, 0, false, 0, -EBADMSG, "BAT entry 1 (at 1540)" },
	{ "V10 entry reaches the footer", 1536, 4, 0, 0, false, 0, -EBADMSG, "ends past 2048" },
	{ "V11 BAT inside the header", H(bat_offset) + 4, 1024, 0, 0, false, 0, -EBADMSG, "overlaps" },
};

static void hostile(void **state)
{
	const struct hostile_row *row = *state;
	struct store *s = new_image(VHD_KIND_DYNAMIC, SP_MIB(4), 0);
	const uint32_t at[2] = { row->at, row->at2 }, value[2] = { row->value, row->value2 };
	struct vhd_image *img;
	struct vhd_place p;

	for (int i = 0; i < 2; i++) {
		if (at[i] == 0)
			continue;
		poke_be32(s, at[i], value[i]);
		if (at[i] < 512)
			poke_be32(s, 2048 + at[i], value[i]);
	}
	if (!row->keep_checksum) {
		reseal_footer(s, 0);
		reseal_footer(s, 2048);
		reseal_header(s, 512);
	}
	expect_open(copy_of(s), VHD_IMG_WRITABLE, row->want_write, row->text);
	if (row->want_read < 0) {
		expect_open(s, 0, row->want_read, row->text);
		return;
	}
	img = open_image(s, 0);		/* only the block is damaged */
	assert_int_equal(vhd1_map(img, row->at == 1540 ? SP_MIB(2) : 0, 512, &p), row->want_write);
	vhd_image_close(img, false);
}

static void overlapping_blocks(void **state)
{
	struct store *s = new_image(VHD_KIND_DYNAMIC, SP_MIB(4), 0);
	struct vhd1_footer_disk f;

	peek(s, &f, sizeof(f), 0);
	poke_be32(s, 1536, 7);
	poke_be32(s, 1540, 7 + 4096);		/* one sector too early */
	poke(s, &f, sizeof(f), SP_MIB(8));
	expect_open(copy_of(s), VHD_IMG_WRITABLE, -EBADMSG, "blocks 0 (at 3584) and 1 (at 2100736)");
	expect_open(copy_of(s), 0, 0, NULL);
	poke_be32(s, 1540, 7 + 4097);
	expect_open(s, VHD_IMG_WRITABLE, 0, NULL);
}

/* Past the end a locator is nothing to a reader; a writer would put blocks where it claims to be. */
static void locator_past_end(void **state)
{
	static const uint64_t at[] = { SP_MIB(1), 2048, SP_TIB(4), UINT64_MAX - 511 };
	static const int want[] = { -EBADMSG, -EBADMSG, 0, 0 };	/* no file gets as long as the last two */

	for (size_t i = 0; i < SP_ARRAY_SIZE(at); i++) {
		struct store *s = new_image(VHD_KIND_DIFFERENCING, SP_MIB(4), 0);
		struct vhd1_locator_disk d;

		vhd1_locator_encode(&d, VHD1_CODE_MACX, SP_MIB(1), 20, at[i]);
		poke(s, &d, sizeof(d), 512 + offsetof(struct vhd1_header_disk, locator) + 5 * sizeof(d));
		reseal_header(s, 512);
		expect_open(copy_of(s), 0, 0, NULL);
		expect_open(s, VHD_IMG_WRITABLE, want[i], want[i] ? "parent locator 5" : NULL);
	}
}

/* A table of 2^32 - 1 entries may be in the file, but nobody reads all of it. */
static void enormous_table(void **state)
{
	struct store *s = new_image(VHD_KIND_DYNAMIC, SP_MIB(4), 0);
	struct vhd1_footer_disk f;
	struct vhd_image *img;
	struct vhd_place p;

	peek(s, &f, sizeof(f), 0);
	poke_be32(s, H(max_entries), 0xffffffff);
	reseal_header(s, 512);
	poke(s, &f, sizeof(f), SP_GIB(16) + 4096);
	img = open_image(s, 0);
	assert_int_equal(vhd1_map(img, 0, SP_MIB(4), &p), 0);
	assert_int_equal(p.len, SP_MIB(4));
	vhd_image_close(img, false);
}

static void batmap_encrypted(void **state)
{
	struct store *s = new_image(VHD_KIND_DYNAMIC, SP_MIB(4), 0);
	struct vhd1_batmap_disk m = { .cookie = "tdbatmap", .offset = be64_make(2560), .sectors = be32_make(1),
				      .version = be32_make(0x10002), .checksum = be32_make(0xffffffff) };
	struct vhd1_footer_disk f;
	struct vhd_image *img;

	peek(s, &f, sizeof(f), 0);
	memcpy(f.creator, "tap", 4);
	vhd1_footer_seal(&f);
	poke(s, &f, sizeof(f), 0);
	poke(s, &m, sizeof(m), 2048);
	poke(s, &f, sizeof(f), 3072);
	img = open_image(copy_of(s), VHD_IMG_WRITABLE);
	assert_true(vhd1_of(img)->batmap);
	assert_int_equal(vhd1_used_end(vhd1_of(img)), 3072);	/* header and map are used space */
	vhd_image_close(img, false);
	m.key_hash_flag = 1;
	poke(s, &m, sizeof(m), 2048);
	expect_open(s, 0, -ENOTSUP, "encrypted");
}

/* ---- create -------------------------------------------------------------------------------------- */

static const struct refuse_row { const char *name; struct vhd_format_create c; const char *text; } refuse_rows[] = {
	{ "size 0", { .kind = VHD_KIND_FIXED }, "size 0" },
	{ "size odd", { .size = 1000 }, "multiple of 512" },
	{ "dynamic, 2040 GiB and a sector", { .size = 0xff000001ull * 512 }, "2040 GiB" },
	{ "block size 3 MiB", { .size = 1 << 20, .block_size = 3 << 20 }, "block size" },
	{ "sectors of 4096", { .size = 1 << 20, .logical_sector = 4096 }, "sectors of 512" },
	{ "child without parent", { .size = 1 << 20, .kind = VHD_KIND_DIFFERENCING }, "parent" },
	{ "backslash in the parent's name", { .size = 1 << 20, .kind = VHD_KIND_DIFFERENCING,
	    .parent_relative = "a\\b.vhd" }, "backslash" },
};

static void create_refused(void **state)
{
	const struct refuse_row *row = *state;
	struct store *s = new_store();
	struct sp_err err = { 0 };

	assert_int_equal(vhd1_create(s, &row->c, &err), -EINVAL);
	if (!strstr(sp_err_text(&err), row->text))
		fail_msg("%s", sp_err_text(&err));
	store_close(s);
}

static void create_fixed(void **state)
{
	struct vhd_image *img = open_image(new_image(VHD_KIND_FIXED, SP_GIB(3000), 0), VHD_IMG_WRITABLE);
	struct vhd_place p;

	assert_int_equal(file_size(img->store), SP_GIB(3000) + 512);
	assert_int_equal(vhd1_begin_write(img), 0);
	assert_int_equal(vhd1_map(img, SP_GIB(2999), SP_GIB(1), &p), 0);
	assert_int_equal(p.where, VHD_WHERE_DATA);
	assert_int_equal(p.file_offset, SP_GIB(2999));
	assert_true(p.direct_write);
	assert_int_equal(vhd_image_close(img, false), 0);
}

static int out_of_memory(void *arg)
{
	return (*(int *)arg)-- == 0;
}

/* Whatever allocation fails, open says so and leaks nothing. */
static void no_memory(void **state)
{
	struct store *s = sheet_child();
	int r = -ENOMEM;

	for (int k = 0; r < 0; k++) {
		struct store *c = copy_of(s);
		struct vhd_image *img = NULL;
		int left = k;

		sp_alloc_set_fault(out_of_memory, &left);
		r = vhd_image_open(c, "t.vhd", &vhd_format_vhd1, k % 2 ? VHD_IMG_WRITABLE : 0, &img, NULL);
		sp_alloc_set_fault(NULL, NULL);
		if (r < 0)
			assert_int_equal(r, -ENOMEM);
		else
			vhd_image_close(img, false);
	}
	store_close(s);
}

static const struct probe_row { const char *name; enum vhd_kind kind; enum damage damage; const char *head; bool ours; }
probe_rows[] = {
	{ "dynamic", VHD_KIND_DYNAMIC, D_NONE, NULL, true },
	{ "dynamic, end lost", VHD_KIND_DYNAMIC, D_END, NULL, true },
	{ "fixed", VHD_KIND_FIXED, D_NONE, NULL, true },
	{ "fixed, guest wrote a VHDX signature", VHD_KIND_FIXED, D_NONE, "vhdxfile", true },
	{ "fixed, footer lost", VHD_KIND_FIXED, D_END, NULL, true },
	{ "fixed, footer cut off", VHD_KIND_FIXED, D_CUT, NULL, false },
};

static void probe(void **state)
{
	const struct probe_row *row = *state;
	struct store *s = new_image(row->kind, SP_MIB(4), 0);
	uint8_t head[4096], tail[512];
	struct vhd_probe p = { .head = head, .head_len = 4096, .tail = tail, .tail_len = 512 };

	damage_footer(s, row->damage);
	if (row->head)
		poke(s, row->head, strlen(row->head), 0);
	p.file_size = file_size(s);
	assert_int_equal(store_read_padded(s, head, sizeof(head), 0), 0);
	peek(s, tail, sizeof(tail), p.file_size - sizeof(tail));
	assert_int_equal(vhd1_probe(&p) > 0, row->ours);
	store_close(s);
}

static const struct single_row single_rows[] = {
	{ "complete image of 4096 bytes", complete_image },
	{ "locators of the sheet", sheet_locators },
	{ "locators as we write them", locators_written },
	{ "bitmap order", bitmap_order },
	{ "a VHD inside a fixed VHD", fixed_with_vhd_inside },
	{ "overlapping blocks", overlapping_blocks },
	{ "locator past the end", locator_past_end },
	{ "enormous table", enormous_table },
	{ "batmap", batmap_encrypted },
	{ "create fixed", create_fixed },
	{ "no memory", no_memory },
};

int main(void)
{
	int failed = 0;

	vhd1_test_env();
	failed += ROWS_RUN(chs_rows, chs);
	failed += ROWS_RUN(footer_rows, footer_checksum);
	failed += ROWS_RUN(header_rows, header_checksum);
	failed += ROWS_RUN(empty_rows, empty_size);
	failed += ROWS_RUN(locator_rows, locator);
	failed += ROWS_RUN(footer_place_rows, footer_place);
	failed += ROWS_RUN(hostile_rows, hostile);
	failed += ROWS_RUN(refuse_rows, create_refused);
	failed += ROWS_RUN(probe_rows, probe);
	failed += ROWS_RUN(single_rows, rows_single);
	return failed != 0;
}
