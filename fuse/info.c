/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * info.json: { "disk": {...}, "layers": [ {...}, ... ] }. The layers carry the keys of "vhd-tool info --output=json",
 * the leaf first.
 */
#include "fuse/mount.h"

#include <errno.h>
#include <json-c/json.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"

static void put_text(json_object *o, const char *key, const char *text)
{
	if (text && text[0])
		json_object_object_add(o, key, json_object_new_string(text));
}

static void put_u64(json_object *o, const char *key, uint64_t value)
{
	json_object_object_add(o, key, json_object_new_uint64(value));
}

static void put_bool(json_object *o, const char *key, bool value)
{
	json_object_object_add(o, key, json_object_new_boolean(value));
}

static void put_guid(json_object *o, const char *key, const struct sp_guid *g, enum vhd_format_id format)
{
	char text[SP_GUID_TEXT];

	if (sp_guid_is_zero(g))
		return;
	if (format == VHD_FORMAT_VHD)
		sp_guid_format_be(g, text);
	else
		sp_guid_format_le(g, text);
	put_text(o, key, text);
}

static void put_parent(struct vhd_disk *d, unsigned n, const struct vhd_layer_info *info, json_object *o)
{
	struct vhd_layer_info below;

	put_text(o, "backing-filename", info->parent_path);
	if (n + 1 < vhd_disk_layers(d) && vhd_disk_layer_info(d, n + 1, &below) == 0)
		put_text(o, "full-backing-filename", below.path);
	put_text(o, "backing-filename-format", vhd_format_name(info->format));
	put_guid(o, "parent-identity", &info->parent_identity, info->format);
}

/* What the format says of itself; "dirty" moves up, as a fact that every layer has. */
static void put_facts(struct vhd_disk *d, unsigned n, enum vhd_format_id format, json_object *o)
{
	json_object *specific = json_object_new_object(), *facts = json_object_new_object(), *dirty;

	vhd_disk_layer_describe(d, n, facts);
	put_bool(o, "dirty-flag", json_object_object_get_ex(facts, "dirty", &dirty) && json_object_get_boolean(dirty));
	put_text(specific, "type", vhd_format_name(format));
	json_object_object_add(specific, "data", facts);
	json_object_object_add(o, "format-specific", specific);
}

static int put_layer(struct vhd_disk *d, unsigned n, json_object *o)
{
	struct vhd_layer_info info;
	struct stat st;
	int r = vhd_disk_layer_info(d, n, &info);

	if (r < 0)
		return r;
	put_text(o, "filename", info.path);
	put_text(o, "format", vhd_format_name(info.format));
	put_u64(o, "virtual-size", info.size);
	put_u64(o, "actual-size", stat(info.path, &st) == 0 ? (uint64_t)st.st_blocks * 512 : info.file_size);
	put_u64(o, "file-size", info.file_size);
	if (info.block_size)
		put_u64(o, "cluster-size", info.block_size);
	put_text(o, "subformat", vhd_kind_name(info.kind));
	put_u64(o, "logical-sector-size", info.logical_sector);
	put_u64(o, "physical-sector-size", info.physical_sector);
	put_guid(o, "identity", &info.identity, info.format);
	if (info.has_parent)
		put_parent(d, n, &info, o);
	put_text(o, "warning", info.warning);
	put_facts(d, n, info.format, o);
	return 0;
}

static void put_disk(struct vhd_disk *d, json_object *o)
{
	put_u64(o, "virtual-size", vhd_disk_size(d));
	put_u64(o, "logical-sector-size", vhd_disk_logical_sector(d));
	put_u64(o, "physical-sector-size", vhd_disk_physical_sector(d));
	put_bool(o, "writable", vhd_disk_writable(d));
	put_bool(o, "orphaned", vhd_disk_orphaned(d));
}

int mnt_info_text(struct vhd_disk *d, char **ret_text, struct sp_err *err)
{
	json_object *top = json_object_new_object(), *disk = json_object_new_object();
	json_object *layers = json_object_new_array();
	int r = 0;

	put_disk(d, disk);
	json_object_object_add(top, "disk", disk);
	json_object_object_add(top, "layers", layers);
	for (unsigned n = 0; r == 0 && n < vhd_disk_layers(d); n++) {
		json_object *o = json_object_new_object();

		json_object_array_add(layers, o);
		r = put_layer(d, n, o);
	}
	if (r == 0) {
		*ret_text = sp_asprintf("%s\n", json_object_to_json_string_ext(top, JSON_C_TO_STRING_PRETTY |
										       JSON_C_TO_STRING_NOSLASHESCAPE));
		r = *ret_text ? 0 : -ENOMEM;
	}
	json_object_put(top);
	return r < 0 ? sp_err_set(err, r, "facts for info.json: %s", strerror(-r)) : 0;
}
