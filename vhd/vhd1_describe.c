/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Facts for "info": what only a VHD has.
 */
#include "vhd/vhd1_int.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/bytes.h"

static void add_text(json_object *o, const char *key, const char *text)
{
	json_object_object_add(o, key, json_object_new_string(text));
}

static void add_number(json_object *o, const char *key, uint64_t n)
{
	json_object_object_add(o, key, json_object_new_int64((int64_t)n));
}

/* Four characters; what is not printable becomes '.', trailing spaces and NULs go. */
static void add_code(json_object *o, const char *key, const uint8_t code[4])
{
	char text[5] = { 0 };
	int n = 4;

	while (n > 0 && (code[n - 1] == ' ' || code[n - 1] == 0))
		n--;
	for (int i = 0; i < n; i++)
		text[i] = code[i] >= 0x20 && code[i] < 0x7f ? (char)code[i] : '.';
	add_text(o, key, text);
}

static void add_version(json_object *o, const char *key, uint32_t v)
{
	char text[16];

	snprintf(text, sizeof(text), "%" PRIu32 ".%" PRIu32, v >> 16, v & 0xffff);
	add_text(o, key, text);
}

static void add_time(json_object *o, const char *key, uint32_t timestamp)
{
	time_t t = (time_t)vhd1_time_to_unix(timestamp);
	char text[32];
	struct tm tm;

	if (gmtime_r(&t, &tm) && strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm) > 0)
		add_text(o, key, text);
}

static void add_guid(json_object *o, const char *key, const struct sp_guid *g)
{
	char text[SP_GUID_TEXT];

	sp_guid_format_be(g, text);
	add_text(o, key, text);
}

static void describe_footer(const struct vhd1 *v, json_object *o)
{
	static const char *const end[] = {
		[VHD1_END_GOOD] = "good", [VHD1_END_SHORT] = "511 bytes", [VHD1_END_KILLED] = "killed",
		[VHD1_END_BAD] = "damaged",
	};
	const struct vhd1_footer_disk *f = &v->footer;
	json_object *chs = json_object_new_object();

	add_code(o, "creator", f->creator);
	add_version(o, "creator_version", be32_get(f->creator_version));
	add_code(o, "creator_host_os", f->host_os);
	add_version(o, "format_version", be32_get(f->version));
	add_time(o, "timestamp", be32_get(f->timestamp));
	add_guid(o, "unique_id", &f->unique_id);
	add_number(o, "original_size", be64_get(f->original_size));
	add_number(chs, "cylinders", be16_get(f->cylinders));
	add_number(chs, "heads", f->heads);
	add_number(chs, "sectors_per_track", f->sectors_per_track);
	json_object_object_add(o, "geometry", chs);
	json_object_object_add(o, "saved_state", json_object_new_boolean(f->saved_state == 1));
	json_object_object_add(o, "temporary",
			       json_object_new_boolean((be32_get(f->features) & VHD1_FEATURE_TEMPORARY) != 0));
	add_text(o, "end_footer_at_open", end[v->found_end]);
}

/* Largest power of two up to 4 KiB at which the data of every block starts; 0 when there is no block. */
static uint32_t data_alignment(struct vhd1 *v)
{
	uint64_t all = 0;
	uint32_t slot;

	for (uint32_t b = 0; b < v->shape.blocks && b < (1u << 20); b++)
		if (vhd1_bat_get(v, b, &slot) == 0 && slot != VHD1_UNUSED)
			all |= vhd1_data_offset(&v->shape, slot);
	return all ? (uint32_t)sp_min(all & -all, 4096) : 0;
}

static void describe_locator(struct vhd1 *v, unsigned slot, json_object *list)
{
	const struct vhd1_locator_disk *d = &v->header.locator[slot];
	json_object *o;
	struct vhd1_locator l;
	enum vhd_path_kind kind;
	const char *why;
	uint8_t *bytes;
	char *text = NULL;
	int r = -ENOMEM;

	if (be32_get(d->code) == VHD1_CODE_NONE)
		return;
	o = json_object_new_object();
	add_code(o, "code", (const uint8_t *)&d->code);
	if (vhd1_locator_decode(d, UINT64_MAX, &l, &why) < 0) {
		add_text(o, "damage", why);
	} else {
		add_number(o, "offset", l.offset);
		add_number(o, "length", l.length);
		add_number(o, "space", l.space);
		bytes = sp_alloc(l.length + 1);
		if (bytes)
			r = store_read(v->img->store, bytes, l.length, l.offset);
		if (r == 0 && vhd1_locator_text(&l, bytes, &kind, &text) == 0 && text)
			add_text(o, "text", text);
		sp_free(text);
		sp_free(bytes);
	}
	json_object_array_add(list, o);
}

static void describe_parent(struct vhd1 *v, json_object *o)
{
	json_object *list = json_object_new_array();
	char *name = vhd1_parent_name(&v->header);

	add_guid(o, "parent_unique_id", &v->header.parent_id);
	add_time(o, "parent_timestamp", be32_get(v->header.parent_timestamp));
	if (name)
		add_text(o, "parent_name", name);
	sp_free(name);
	for (unsigned i = 0; i < VHD1_LOCATORS; i++)
		describe_locator(v, i, list);
	json_object_object_add(o, "parent_locators", list);
}

void vhd1_describe(struct vhd_image *img, void *json_object_)
{
	struct vhd1 *v = vhd1_of(img);
	json_object *o = json_object_;

	describe_footer(v, o);
	if (!v->sparse)
		return;
	add_version(o, "header_version", be32_get(v->header.version));
	add_number(o, "header_offset", be64_get(v->footer.data_offset));
	add_number(o, "bat_offset", v->shape.bat_offset);
	add_number(o, "bat_entries", v->shape.max_entries);
	add_number(o, "data_alignment", data_alignment(v));
	json_object_object_add(o, "batmap", json_object_new_boolean(v->batmap));
	if (v->differencing)
		describe_parent(v, o);
}
