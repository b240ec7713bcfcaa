/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Parent locators and the parent's name, both directions. vhd-formats.md 1.9, 1.15.
 *
 * Byte orders are a trap here: locator texts are UTF-16 little-endian in every known image, the name in the header is
 * big-endian like the rest of the file, and single writers got either wrong. Both are decoded as expected unless
 * most units look byte-swapped.
 */
#include "vhd/vhd1_int.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/utf16.h"

#define TEXT_MAX 65536u		/* of one locator, check V12 */

int vhd1_locator_decode(const struct vhd1_locator_disk *d, uint64_t file_size, struct vhd1_locator *ret,
			const char **why)
{
	uint32_t space = be32_get(d->data_space);

	memset(ret, 0, sizeof(*ret));
	ret->code = be32_get(d->code);
	if (ret->code == VHD1_CODE_NONE)
		return -ENOENT;
	/* The specification counts sectors, all that matters counts bytes. No real text has room for 512 sectors. */
	ret->space = space < VHD1_SECTOR ? (uint64_t)space * VHD1_SECTOR : space;
	ret->length = be32_get(d->data_length);
	ret->offset = be64_get(d->data_offset);
	*why = ret->space % VHD1_SECTOR != 0	     ? "its space is neither a count of sectors nor a multiple of 512"
	       : ret->space == 0		     ? "it has no space"
	       : ret->length > ret->space	     ? "its text is longer than its space"
	       : ret->length > TEXT_MAX		     ? "its text is longer than 64 KiB"
	       : ret->offset % VHD1_SECTOR != 0	     ? "its offset is no multiple of 512"
	       : ret->offset < VHD1_SECTOR	     ? "its text overlaps the footer copy"
	       : !sp_range_ok(ret->offset, ret->space, file_size) ? "its text lies past the end of the file"
								   : NULL;
	return *why ? -EBADMSG : 0;
}

/* ---- reading ------------------------------------------------------------------------------------- */

static char *decode_utf16(const uint8_t *bytes, size_t len, bool big_endian)
{
	if (sp_utf16_looks_swapped(bytes, len, big_endian))
		big_endian = !big_endian;
	return sp_utf16_decode(bytes, len, big_endian);
}

/* 8-bit text of unknown code page, read as Latin-1: ASCII comes out right, the rest stays distinguishable. */
static char *decode_8bit(const uint8_t *bytes, size_t len)
{
	char *text = sp_alloc(2 * len + 1), *p = text;

	if (!text)
		return NULL;
	for (size_t i = 0; i < len && bytes[i]; i++) {
		if (bytes[i] < 0x80) {
			*p++ = (char)bytes[i];
		} else {
			*p++ = (char)(0xc0 | bytes[i] >> 6);
			*p++ = (char)(0x80 | (bytes[i] & 0x3f));
		}
	}
	*p = '\0';
	return text;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* In place; a '%' without two digits stands for itself. False for an encoded NUL. */
static bool url_unescape(char *s)
{
	char *out = s;

	for (; *s; s++) {
		int hi = *s == '%' ? hex_digit(s[1]) : -1;
		int lo = hi >= 0 ? hex_digit(s[2]) : -1;

		if (lo < 0) {
			*out++ = *s;
			continue;
		}
		if (hi == 0 && lo == 0)
			return false;
		*out++ = (char)(hi << 4 | lo);
		s += 2;
	}
	*out = '\0';
	return true;
}

/* "file:///a/b", "file://localhost/a/b", and XenServer's "file://./b", which is relative. */
static char *decode_url(const uint8_t *bytes, size_t len, enum vhd_path_kind *ret_kind)
{
	char *text = sp_zalloc(len + 1);
	size_t skip = 0;

	if (!text)
		return NULL;
	memcpy(text, bytes, len);
	if (strncasecmp(text, "file://", 7) == 0)
		skip = 7;
	if (skip && strncasecmp(text + skip, "localhost/", 10) == 0)
		skip += 9;
	memmove(text, text + skip, strlen(text + skip) + 1);
	if (!url_unescape(text))
		text[0] = '\0';
	*ret_kind = text[0] == '/' ? VHD_PATH_ABSOLUTE : VHD_PATH_RELATIVE;
	return text;
}

int vhd1_locator_text(const struct vhd1_locator *l, const uint8_t *bytes, enum vhd_path_kind *ret_kind,
		      char **ret_text)
{
	*ret_text = NULL;
	switch (l->code) {
	case VHD1_CODE_W2RU:
	case VHD1_CODE_W2KU:
		*ret_kind = l->code == VHD1_CODE_W2RU ? VHD_PATH_RELATIVE : VHD_PATH_ABSOLUTE;
		*ret_text = decode_utf16(bytes, l->length, false);
		break;
	case VHD1_CODE_WI2R:
	case VHD1_CODE_WI2K:
		*ret_kind = l->code == VHD1_CODE_WI2R ? VHD_PATH_RELATIVE : VHD_PATH_ABSOLUTE;
		*ret_text = decode_8bit(bytes, l->length);
		break;
	case VHD1_CODE_MACX:
	case VHD1_CODE_MACX_SLIP:
		*ret_text = decode_url(bytes, l->length, ret_kind);
		break;
	default:		/* an alias of Mac OS, or nothing we know */
		return 0;
	}
	return *ret_text ? 0 : -ENOMEM;
}

char *vhd1_parent_name(const struct vhd1_header_disk *h)
{
	return decode_utf16(h->parent_name, sizeof(h->parent_name), true);
}

/* The first well-formed entry with @code. */
static int add_locator(struct vhd_image *img, const struct vhd1_header_disk *h, uint64_t file_size, uint32_t code)
{
	struct vhd1_locator l;
	enum vhd_path_kind kind;
	const char *why;
	uint8_t *bytes;
	char *text;
	int r;

	for (unsigned i = 0; i < VHD1_LOCATORS; i++) {
		if (be32_get(h->locator[i].code) != code)
			continue;
		r = vhd1_locator_decode(&h->locator[i], file_size, &l, &why);
		if (r < 0) {
			vhd_image_warn(img, "parent locator %u is not usable: %s", i, why);
			continue;
		}
		bytes = sp_alloc(l.length + 1);
		if (!bytes)
			return -ENOMEM;
		r = store_read(img->store, bytes, l.length, l.offset);
		if (r == 0)
			r = vhd1_locator_text(&l, bytes, &kind, &text);
		sp_free(bytes);
		if (r == 0)
			vhd_image_add_path(img, kind, text);
		return r;
	}
	return 0;
}

static int add_paths(struct vhd_image *img, const struct vhd1_header_disk *h, uint64_t file_size)
{
	static const uint32_t order[] = {
		VHD1_CODE_W2RU, VHD1_CODE_W2KU, VHD1_CODE_MACX, VHD1_CODE_MACX_SLIP, VHD1_CODE_WI2R, VHD1_CODE_WI2K,
	};
	char *name;
	int r;

	for (size_t i = 0; i < SP_ARRAY_SIZE(order); i++) {
		r = add_locator(img, h, file_size, order[i]);
		if (r < 0)
			return r;
	}
	name = vhd1_parent_name(h);
	if (!name)
		return -ENOMEM;
	vhd_image_add_path(img, VHD_PATH_NAME, name);
	return 0;
}

int vhd1_parent_load(struct vhd_image *img, const struct vhd1_header_disk *h, uint64_t file_size, struct sp_err *err)
{
	struct vhd_parent_ref *p = &img->parent;
	int r;

	p->identity[0] = h->parent_id;
	p->identities = 1;
	p->mtime = vhd1_time_to_unix(be32_get(h->parent_timestamp));
	p->has_mtime = be32_get(h->parent_timestamp) != 0;
	r = add_paths(img, h, file_size);
	if (r < 0)
		return sp_err_set(err, r, "cannot read the parent locators: %s", strerror(-r));
	/* An entry in use is no trace of a parent yet: its code may be unknown, its text empty or out of reach. */
	if (p->paths == 0 && sp_guid_is_zero(&p->identity[0]))
		return sp_err_set(err, -EBADMSG,
				  "a differencing image without parent id, name or a locator that holds a path");
	return 0;
}

/* ---- writing ------------------------------------------------------------------------------------- */

/* Windows would read a '\' inside a name as a separator. */
static int refuse_backslash(const char *path, struct sp_err *err)
{
	if (!*path)
		return sp_err_set(err, -EINVAL, "the parent's path is empty");
	if (strchr(path, '\\'))
		return sp_err_set(err, -EINVAL, "'%s' has a backslash in a name, which a VHD cannot store", path);
	return 0;
}

int vhd1_text_encode(const char *path, bool relative, struct vhd1_text *ret, struct sp_err *err)
{
	bool up = strncmp(path, "../", 3) == 0 || strncmp(path, "./", 2) == 0;
	char *text = NULL;
	int r = refuse_backslash(path, err);

	ret->bytes = NULL;
	if (r < 0)
		return r;
	text = sp_asprintf("%s%s", relative && !up ? ".\\" : "", path);
	if (!text)
		return sp_err_set(err, -ENOMEM, "out of memory");
	for (char *p = text; *p; p++)
		if (*p == '/')
			*p = '\\';
	ret->bytes = sp_alloc(2 * strlen(text) + 2);
	if (!ret->bytes)
		r = sp_err_set(err, -ENOMEM, "out of memory");
	else
		r = sp_utf16_encode(text, false, ret->bytes, 2 * strlen(text) + 2, &ret->len);
	if (r == -EINVAL)
		sp_err_set(err, r, "'%s' is not UTF-8", path);
	if (r == 0 && ret->len > TEXT_MAX)
		r = sp_err_set(err, -ENAMETOOLONG, "the parent's path needs %zu bytes, a VHD has room for %u",
			       ret->len, TEXT_MAX);
	if (r < 0)
		sp_free(sp_take(ret->bytes));
	sp_free(text);
	return r;
}

int vhd1_name_encode(const char *path, uint8_t ret_name[static VHD1_NAME_BYTES], struct sp_err *err)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	size_t len;
	int r = refuse_backslash(name, err);

	if (r < 0)
		return r;
	memset(ret_name, 0, VHD1_NAME_BYTES);
	r = sp_utf16_encode(name, true, ret_name, VHD1_NAME_BYTES - 2, &len);
	if (r == -EINVAL)
		return sp_err_set(err, r, "'%s' is not UTF-8", name);
	if (r < 0)
		return sp_err_set(err, -ENAMETOOLONG, "the parent's name '%s' is longer than 255 characters", name);
	return 0;
}

void vhd1_locator_encode(struct vhd1_locator_disk *d, uint32_t code, uint32_t space, uint32_t length, uint64_t offset)
{
	*d = (struct vhd1_locator_disk){
		.code = be32_make(code), .data_space = be32_make(space), .data_length = be32_make(length),
		.data_offset = be64_make(offset),
	};
}
