/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A differencing image with whatever text as its parent's path, put there behind the back of our own writer, which
 * would refuse most of them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/utf16.h"
#include "tests/hostile/hostile.h"
#include "vhd/image.h"
#include "vhd/store_mem_int.h"
#include "vhd/vhd1_layout.h"
#include "vhd/vhdx_int.h"
#include "vhd/vhdx_layout.h"

#define TEXT_MAX 0x20000u
#define ITEM_OFFSET 0x80000u	/* in the metadata region, where nothing else is */

const char *const hostile_slot_name[SLOTS] = {
	[SLOT_VHD_W2RU] = "W2ru", [SLOT_VHD_W2KU] = "W2ku", [SLOT_VHD_WI2R] = "Wi2r", [SLOT_VHD_MACX] = "MacX",
	[SLOT_VHD_NAME] = "parent_name", [SLOT_VHDX_RELATIVE] = "relative_path", [SLOT_VHDX_VOLUME] = "volume_path",
	[SLOT_VHDX_ABSOLUTE] = "absolute_win32_path",
};

void hostile_die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("hostile: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(2);
}

static void must(int r)
{
	if (r < 0)
		hostile_die("cannot make an image: %s", strerror(-r));
}

/* ---- a parent and its child ------------------------------------------------------------------------ */

static struct {
	struct store *parent, *child;
} pair[VHD_FORMAT_VHDX + 1];

static struct store *create(enum vhd_format_id format, const struct vhd_format_create *c)
{
	struct sp_err err = { 0 };
	struct store *s;

	must(store_mem_new("image", 0, 0, &s));
	if (vhd_format_by_id(format)->create(s, c, &err) < 0)
		hostile_die("%s", sp_err_text(&err));
	return s;
}

static void make_pair(enum vhd_format_id format)
{
	struct vhd_format_create c = { .size = SP_MIB(4), .parent_relative = "base", .logical_sector = 512 };
	struct vhd_image *img;
	struct sp_err err = { 0 };
	struct store *copy;

	pair[format].parent = create(format, &c);
	must(store_mem_clone(pair[format].parent, &copy));
	if (vhd_image_open(copy, "base", vhd_format_by_id(format), 0, &img, &err) < 0)
		hostile_die("%s", sp_err_text(&err));
	c.kind = VHD_KIND_DIFFERENCING;
	c.parent_identity = img->identity;
	vhd_image_close(img, true);
	pair[format].child = create(format, &c);
}

struct store *hostile_parent(enum vhd_format_id format)
{
	if (!pair[format].parent)
		make_pair(format);
	return pair[format].parent;
}

/* ---- texts ----------------------------------------------------------------------------------------- */

static size_t text_utf16(const struct hostile_text *t, bool big_endian, uint8_t *buf, size_t room)
{
	size_t len = 0;

	if (!t->units) {
		must(sp_utf16_encode(t->utf8, big_endian, buf, room, &len));
		return len;
	}
	for (size_t i = 0; i < t->unit_count; i++) {
		buf[2 * i + big_endian] = (uint8_t)t->units[i];
		buf[2 * i + !big_endian] = (uint8_t)(t->units[i] >> 8);
	}
	return 2 * t->unit_count;
}

/* UTF-16 units cut to bytes where there is no UTF-8. */
static size_t text_bytes(const struct hostile_text *t, const char *prefix, uint8_t *buf, size_t room)
{
	size_t n = strlen(prefix), len = t->units ? t->unit_count : strlen(t->utf8);

	if (n + len > room)
		hostile_die("text too long");
	memcpy(buf, prefix, n);
	for (size_t i = 0; i < len; i++)
		buf[n + i] = t->units ? (uint8_t)t->units[i] : (uint8_t)t->utf8[i];
	return n + len;
}

/* ---- VHD ------------------------------------------------------------------------------------------- */

static void seal(uint8_t *bytes, size_t len, size_t field)
{
	be32_t sum;
	uint32_t x = 0;

	memset(bytes + field, 0, 4);
	for (size_t i = 0; i < len; i++)
		x += bytes[i];
	sum = be32_make(~x);
	memcpy(bytes + field, &sum, 4);
}

static size_t vhd_text(enum hostile_slot slot, const struct hostile_text *t, uint8_t *buf, uint32_t *ret_code)
{
	switch (slot) {
	case SLOT_VHD_WI2R:
		*ret_code = VHD1_CODE_WI2R;
		return text_bytes(t, "", buf, TEXT_MAX);
	case SLOT_VHD_MACX:
		*ret_code = VHD1_CODE_MACX;
		return text_bytes(t, t->utf8 && strncmp(t->utf8, "file:", 5) == 0 ? "" : "file://", buf, TEXT_MAX);
	default:
		*ret_code = slot == SLOT_VHD_W2RU ? VHD1_CODE_W2RU : VHD1_CODE_W2KU;
		return text_utf16(t, false, buf, TEXT_MAX);
	}
}

/* The text goes where the footer was, the footer behind it. */
static void vhd_put(struct store *s, enum hostile_slot slot, const struct hostile_text *t)
{
	static uint8_t text[TEXT_MAX];
	struct vhd1_header_disk h;
	uint8_t footer[VHD1_SECTOR];
	uint64_t size, space;
	uint32_t code;
	size_t len;

	must(store_size(s, &size));
	must(store_read(s, &h, sizeof(h), VHD1_SECTOR));
	must(store_read(s, footer, sizeof(footer), size - sizeof(footer)));
	memset(h.locator, 0, sizeof(h.locator));
	memset(h.parent_name, 0, sizeof(h.parent_name));
	memset(text, 0, sizeof(text));
	if (slot == SLOT_VHD_NAME) {
		len = text_utf16(t, true, text, TEXT_MAX);
		memcpy(h.parent_name, text, sp_min(len, sizeof(h.parent_name)));
	} else {
		len = vhd_text(slot, t, text, &code);
		space = sp_align_up(len + !len, VHD1_SECTOR);
		h.locator[0] = (struct vhd1_locator_disk){
			.code = be32_make(code), .data_space = be32_make((uint32_t)space),
			.data_length = be32_make((uint32_t)len), .data_offset = be64_make(size - sizeof(footer)),
		};
		must(store_write(s, text, space, size - sizeof(footer)));
		must(store_write(s, footer, sizeof(footer), size - sizeof(footer) + space));
	}
	seal((uint8_t *)&h, sizeof(h), offsetof(struct vhd1_header_disk, checksum));
	must(store_write(s, &h, sizeof(h), VHD1_SECTOR));
}

/* ---- VHDX ------------------------------------------------------------------------------------------ */

static const char *vhdx_key(enum hostile_slot slot)
{
	return hostile_slot_name[slot];
}

/* An item with parent_linkage as it was and one path. */
static size_t vhdx_item(uint8_t *item, const char *linkage, const char *key, const struct hostile_text *t)
{
	const struct hostile_text texts[4] = {
		{ .utf8 = "parent_linkage" }, { .utf8 = linkage }, { .utf8 = key }, *t,
	};
	struct vhdx_locator_disk d = { .type = VHDX_GUID_LOCATOR_TYPE, .key_value_count = le16_make(2) };
	struct vhdx_locator_entry_disk e[2];
	size_t at = sizeof(d) + sizeof(e), start[4], len[4];

	for (unsigned i = 0; i < 4; i++) {
		start[i] = at;
		len[i] = text_utf16(&texts[i], false, item + at, TEXT_MAX);
		at += len[i];
	}
	for (unsigned i = 0; i < 2; i++) {
		e[i] = (struct vhdx_locator_entry_disk){
			.key_offset = le32_make((uint32_t)start[2 * i]),
			.value_offset = le32_make((uint32_t)start[2 * i + 1]),
			.key_length = le16_make((uint16_t)len[2 * i]),
			.value_length = le16_make((uint16_t)len[2 * i + 1]),
		};
	}
	memcpy(item, &d, sizeof(d));
	memcpy(item + sizeof(d), e, sizeof(e));
	return at;
}

/* The entry of the metadata table that holds the locator now names [ITEM_OFFSET, + length). */
static void vhdx_move_item(struct store *s, uint64_t region, uint32_t length)
{
	uint64_t at = region + sizeof(struct vhdx_metadata_table_disk);
	struct vhdx_metadata_entry_disk e;

	for (unsigned i = 0; i < VHDX_METADATA_ENTRIES_MAX; i++, at += sizeof(e)) {
		must(store_read(s, &e, sizeof(e), at));
		if (!sp_guid_equal(&e.item_id, &VHDX_GUID_PARENT_LOCATOR))
			continue;
		e.offset = le32_make(ITEM_OFFSET);
		e.length = le32_make(length);
		must(store_write(s, &e, sizeof(e), at));
		return;
	}
	hostile_die("the child has no locator");
}

static void vhdx_put(struct store *s, enum hostile_slot slot, const struct hostile_text *t)
{
	static uint8_t item[4 * TEXT_MAX];
	char guid[SP_GUID_TEXT], linkage[SP_GUID_TEXT + 2];
	struct vhdx_region_table regions;
	struct vhd_image *img;
	struct sp_err err = { 0 };
	struct store *copy;
	uint64_t size, region;
	unsigned which;
	size_t len;

	must(store_size(s, &size));
	must(vhdx_region_tables_read(s, size, &regions, &which, NULL));
	region = regions.entry[regions.metadata].offset;
	sp_free(regions.entry);
	must(store_mem_clone(s, &copy));
	if (vhd_image_open(copy, "child", &vhd_format_vhdx, 0, &img, &err) < 0)
		hostile_die("%s", sp_err_text(&err));
	sp_guid_format_le(&img->parent.identity[0], guid);
	vhd_image_close(img, true);
	snprintf(linkage, sizeof(linkage), "{%s}", guid);
	len = vhdx_item(item, linkage, vhdx_key(slot), t);
	must(store_write(s, item, len, region + ITEM_OFFSET));
	vhdx_move_item(s, region, (uint32_t)len);
}

/* ---- out ------------------------------------------------------------------------------------------- */

struct store *hostile_child(enum hostile_slot slot, const struct hostile_text *text)
{
	enum vhd_format_id format = hostile_format(slot);
	struct store *s;

	hostile_parent(format);
	must(store_mem_clone(pair[format].child, &s));
	if (format == VHD_FORMAT_VHD)
		vhd_put(s, slot, text);
	else
		vhdx_put(s, slot, text);
	return s;
}

void hostile_write_out(struct store *s, const char *path)
{
	static uint8_t buf[65536];
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	uint64_t size, at = 0;

	if (fd < 0)
		hostile_die("%s: %s", path, strerror(errno));
	must(store_size(s, &size));
	if (ftruncate(fd, (off_t)size) < 0)
		hostile_die("%s: %s", path, strerror(errno));
	while (store_seek_data(s, at, &at) == 0 && at < size) {
		size_t n = (size_t)sp_min(sizeof(buf) - at % sizeof(buf), size - at);

		must(store_read(s, buf, n, at));
		if (pwrite(fd, buf, n, (off_t)at) != (ssize_t)n)
			hostile_die("%s: %s", path, strerror(errno));
		at += n;
	}
	close(fd);
}
