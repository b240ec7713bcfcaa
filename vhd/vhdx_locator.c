/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Parent locator item: key/value pairs of UTF-16 text. [MS-VHDX] 2.6.2.6; check X19.
 *
 * Paths are handed on as stored, in the order of the specification: relative, volume, absolute. Written paths use '\'
 * throughout: a relative one starts with ".\" or "..\" as Windows writes it; an absolute host path keeps its shape
 * ("\srv\vm\base.vhdx"), because a host without drive letters has no "\\?\C:\" form to offer.
 */
#include "vhd/vhdx_int.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/seed.h"
#include "base/utf16.h"
#include "vhd/vhdx_layout.h"

/* ---- reading ------------------------------------------------------------------------------------- */

struct pair {
	const uint8_t *key, *value;
	uint16_t key_length, value_length;
};

static bool text_ok(const uint8_t *text, uint16_t length)
{
	for (uint16_t i = 0; i + 1 < length; i += 2) {
		if (text[i] == 0 && text[i + 1] == 0)
			return false;
	}
	return length > 0 && length % 2 == 0;
}

static int pair_decode(const uint8_t *buf, size_t len, unsigned index, struct pair *ret_pair, struct sp_err *err)
{
	struct vhdx_locator_entry_disk d;
	uint32_t key, value;
	struct pair p;

	memcpy(&d, buf + sizeof(struct vhdx_locator_disk) + index * sizeof(d), sizeof(d));
	key = le32_get(d.key_offset);
	value = le32_get(d.value_offset);
	p.key_length = le16_get(d.key_length);
	p.value_length = le16_get(d.value_length);
	if (key == 0 || !sp_range_ok(key, p.key_length, len))
		return sp_err_set(err, -EBADMSG, "pair %u: key at %" PRIu32 " + %u lies outside the item (%zu bytes)",
				  index, key, p.key_length, len);
	if (value == 0 || (!sp_range_ok(value, p.value_length, len) && !SP_SEED_BUG(VHDX_LOCATOR_PAST_ITEM)))
		return sp_err_set(err, -EBADMSG, "pair %u: value at %" PRIu32 " + %u lies outside the item (%zu bytes)",
				  index, value, p.value_length, len);
	p.key = buf + key;
	p.value = buf + value;
	if (!text_ok(p.key, p.key_length) || !text_ok(p.value, p.value_length))
		return sp_err_set(err, -EBADMSG, "pair %u: key or value is empty, odd in length or holds a NUL", index);
	*ret_pair = p;
	return 0;
}

static int pairs_decode(const uint8_t *buf, size_t len, unsigned count, struct pair *pair, struct sp_err *err)
{
	for (unsigned i = 0; i < count; i++) {
		int r = pair_decode(buf, len, i, &pair[i], err);

		if (r < 0)
			return r;
		for (unsigned k = 0; k < i; k++) {
			if (pair[k].key_length == pair[i].key_length &&
			    memcmp(pair[k].key, pair[i].key, pair[i].key_length) == 0)
				return sp_err_set(err, -EBADMSG, "pairs %u and %u have the same key", k, i);
		}
	}
	return 0;
}

/* The value of @key in @ret_text (sp_free(); NULL: no such pair). */
static int value_of(const struct pair *pair, unsigned count, const char *key, char **ret_text, struct sp_err *err)
{
	uint8_t wide[64];
	size_t wide_len;

	*ret_text = NULL;
	if (sp_utf16_encode(key, false, wide, sizeof(wide), &wide_len) < 0)
		return sp_err_set(err, -EINVAL, "key \"%s\" cannot be encoded", key);
	for (unsigned i = 0; i < count; i++) {
		if (pair[i].key_length != wide_len || memcmp(pair[i].key, wide, wide_len) != 0)
			continue;
		*ret_text = sp_utf16_decode(pair[i].value, pair[i].value_length, false);
		return *ret_text ? 0 : sp_err_set(err, -ENOMEM, "out of memory");
	}
	return 0;
}

static int linkage_decode(const struct pair *pair, unsigned count, const char *key, bool required,
			  struct vhd_parent_ref *ref, struct sp_err *err)
{
	SP_AUTO_FREE char *text = NULL;
	int r = value_of(pair, count, key, &text, err);

	if (r < 0)
		return r;
	if (!text)
		return required ? sp_err_set(err, -EBADMSG, "pair %s is missing", key) : 0;
	if (sp_guid_parse_le(text, &ref->identity[ref->identities]) < 0)
		return sp_err_set(err, -EBADMSG, "%s is \"%.60s\", expected a GUID in braces", key, text);
	ref->identities++;
	return 0;
}

static int parent_decode(const struct pair *pair, unsigned count, struct vhd_image *img, struct sp_err *err)
{
	static const struct { const char *key; enum vhd_path_kind kind; } paths[] = {
		{ "relative_path", VHD_PATH_RELATIVE },
		{ "volume_path", VHD_PATH_VOLUME },
		{ "absolute_win32_path", VHD_PATH_ABSOLUTE },
	};
	int r = linkage_decode(pair, count, "parent_linkage", true, &img->parent, err);

	if (r == 0)
		r = linkage_decode(pair, count, "parent_linkage2", false, &img->parent, err);
	for (size_t i = 0; i < SP_ARRAY_SIZE(paths) && r == 0; i++) {
		char *text;

		r = value_of(pair, count, paths[i].key, &text, err);
		if (r == 0)
			vhd_image_add_path(img, paths[i].kind, text);
	}
	return r;
}

/**
 * vhdx_locator_decode - fill img->parent from the bytes of the item
 *
 * Returns 0, -EBADMSG, -ENOTSUP (another locator type), -ENOMEM. An item without any path is accepted: the parent
 * may still be named by the operator.
 */
int vhdx_locator_decode(const uint8_t *buf, size_t len, struct vhd_image *img, struct sp_err *err)
{
	struct vhdx_locator_disk d;
	struct pair *pair;
	unsigned count;
	int r;

	if (len < sizeof(d))
		return sp_err_set(err, -EBADMSG, "parent locator has %zu bytes, its header alone needs %zu", len,
				  sizeof(d));
	memcpy(&d, buf, sizeof(d));
	if (!sp_guid_equal(&d.type, &VHDX_GUID_LOCATOR_TYPE)) {
		char text[SP_GUID_TEXT];

		sp_guid_format_le(&d.type, text);
		return sp_err_set(err, -ENOTSUP, "parent locator has the unknown type %s", text);
	}
	count = le16_get(d.key_value_count);
	if (count > VHDX_LOCATOR_PAIRS_MAX || sizeof(d) + count * sizeof(struct vhdx_locator_entry_disk) > len)
		return sp_err_set(err, -EBADMSG, "parent locator: %u pairs do not fit in %zu bytes or exceed %u", count,
				  len, VHDX_LOCATOR_PAIRS_MAX);
	pair = sp_calloc(count + 1, sizeof(*pair));
	if (!pair)
		return sp_err_set(err, -ENOMEM, "out of memory");
	r = pairs_decode(buf, len, count, pair, err);
	if (r == 0)
		r = parent_decode(pair, count, img, err);
	sp_free(pair);
	return r < 0 ? sp_err_prefix(err, r, "parent locator") : 0;
}

/* ---- writing ------------------------------------------------------------------------------------- */

#define PAIRS_WRITTEN_MAX 4

struct out {
	struct { const char *key; char *value; } pair[PAIRS_WRITTEN_MAX];
	unsigned pairs;
};

static int out_add(struct out *o, const char *key, char *value)
{
	if (!value)
		return -ENOMEM;
	o->pair[o->pairs].key = key;
	o->pair[o->pairs].value = value;
	o->pairs++;
	return 0;
}

static int out_add_linkage(struct out *o, const char *key, const struct sp_guid *identity)
{
	char text[SP_GUID_TEXT];

	sp_guid_format_le(identity, text);
	return out_add(o, key, sp_asprintf("{%s}", text));
}

static int out_add_path(struct out *o, const char *key, const char *path, bool relative)
{
	bool dotted = strncmp(path, "./", 2) == 0 || strncmp(path, ".\\", 2) == 0 || strncmp(path, "../", 3) == 0 ||
		      strncmp(path, "..\\", 3) == 0;
	char *text = sp_asprintf("%s%s", relative && !dotted ? ".\\" : "", path);

	for (char *c = text; c && *c; c++) {
		if (*c == '/')
			*c = '\\';
	}
	return out_add(o, key, text);
}

static int out_fill(struct out *o, const struct vhd_set_parent *p)
{
	int r = out_add_linkage(o, "parent_linkage", &p->identity[0]);

	if (r == 0 && p->identities > 1)
		r = out_add_linkage(o, "parent_linkage2", &p->identity[1]);
	if (r == 0 && p->relative)
		r = out_add_path(o, "relative_path", p->relative, true);
	if (r == 0 && p->absolute)
		r = out_add_path(o, "absolute_win32_path", p->absolute, false);
	return r;
}

/* Appends @text at *@at as far as there is room; *@at moves on in any case. */
static int text_put(const char *text, uint8_t *buf, size_t room, size_t *at, uint16_t *ret_length)
{
	size_t len = 0;
	int r = sp_utf16_encode(text, false, *at < room ? buf + *at : NULL, *at < room ? room - *at : 0, &len);

	if (r == -EINVAL || len == 0 || len > UINT16_MAX - 1)
		return -EINVAL;
	*ret_length = (uint16_t)len;
	*at += len;
	return 0;
}

static int out_put(const struct out *o, uint8_t *buf, size_t room, size_t *ret_len)
{
	struct vhdx_locator_disk d = {
		.type = VHDX_GUID_LOCATOR_TYPE,
		.key_value_count = le16_make((uint16_t)o->pairs),
	};
	struct vhdx_locator_entry_disk e[PAIRS_WRITTEN_MAX];
	size_t at = sizeof(d) + o->pairs * sizeof(e[0]);

	for (unsigned i = 0; i < o->pairs; i++) {
		uint16_t key_length = 0, value_length = 0;
		size_t key = at, value;
		int r = text_put(o->pair[i].key, buf, room, &at, &key_length);

		value = at;
		if (r == 0)
			r = text_put(o->pair[i].value, buf, room, &at, &value_length);
		if (r < 0)
			return r;
		e[i] = (struct vhdx_locator_entry_disk){
			.key_offset = le32_make((uint32_t)key),
			.value_offset = le32_make((uint32_t)value),
			.key_length = le16_make(key_length),
			.value_length = le16_make(value_length),
		};
	}
	*ret_len = at;
	if (at > room)
		return -ERANGE;
	memcpy(buf, &d, sizeof(d));
	memcpy(buf + sizeof(d), e, o->pairs * sizeof(e[0]));
	return 0;
}

/**
 * vhdx_locator_encode - the item for a parent
 * @p: one or two identities and at least one path; '/' in paths becomes '\'
 * @ret_len: bytes written, or needed on -ERANGE
 *
 * Returns 0, -ERANGE (more than @room), -EINVAL (no path or identity, not UTF-8, a path beyond 32 Ki units), -ENOMEM.
 */
int vhdx_locator_encode(const struct vhd_set_parent *p, uint8_t *buf, size_t room, size_t *ret_len)
{
	struct out o = { 0 };
	int r = -EINVAL;

	if (p->identities >= 1 && p->identities <= 2 && (p->relative || p->absolute))
		r = out_fill(&o, p);
	if (r == 0)
		r = out_put(&o, buf, room, ret_len);
	for (unsigned i = 0; i < o.pairs; i++)
		sp_free(o.pair[i].value);
	return r;
}
