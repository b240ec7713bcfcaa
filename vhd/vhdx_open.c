/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Opening and closing a VHDX file, its facts for "info", and the format table.
 *
 * Order of an open: identifier, headers, log replay, and only then region tables, metadata and locator: before the
 * replay none of those is to be believed. The BAT is left to the cache, which reads pages when they are asked for, so
 * an image of 64 TiB opens as fast as a small one.
 */
#include "vhd/vhdx_int.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <json-c/json.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/seed.h"
#include "base/utf16.h"
#include "vhd/vhdx_layout.h"

/* ---- open ---------------------------------------------------------------------------------------- */

static bool is_writable(const struct vhdx *x)
{
	return x->img->flags & VHD_IMG_WRITABLE;
}

static int read_headers(struct vhdx *x, struct sp_err *err)
{
	struct store *s = x->img->store;
	uint8_t head[8];
	int r = store_size(s, &x->file_size);

	if (r < 0)
		return sp_err_set(err, r, "cannot learn the file size: %s", strerror(-r));
	if (x->file_size < VHDX_HEADER_SECTION_SIZE)
		return sp_err_set(err, -EBADMSG, "file has %" PRIu64 " bytes, the header section alone needs 1 MiB",
				  x->file_size);
	r = store_read(s, head, sizeof(head), 0);
	if (r < 0)
		return sp_err_set(err, r, "file type identifier at 0 cannot be read: %s", strerror(-r));
	r = vhdx_check_identifier(head, sizeof(head), err);
	if (r == 0)
		r = vhdx_header_read_current(s, x->file_size, &x->header, &x->header_slot, err);
	return r;
}

/* What a writer needs beyond what a reader does. */
static int check_writable(struct vhdx *x, struct sp_err *err)
{
	if (!x->img->store->writable)
		return sp_err_set(err, -EROFS, "the file is open read-only");
	if (x->header.log_length == 0)
		return sp_err_set(err, -ENOTSUP,
				  "the file has no log, so it cannot be changed safely; convert it to a new file");
	x->header.log_version = VHDX_LOG_VERSION;	/* of the entries we shall write; the log is empty or has it */
	return 0;
}

static int read_regions(struct vhdx *x, struct sp_err *err)
{
	int r = vhdx_region_tables_read(x->img->store, x->file_size, &x->regions, &x->region_copy, err);

	if (r < 0)
		return r;
	if (x->region_copy == 1)
		vhd_image_warn(x->img, "region table 1 is damaged, copy 2 is used; \"repair\" rewrites it");
	x->bat_offset = x->regions.entry[x->regions.bat].offset;
	return vhdx_layout_check(&x->header, &x->regions, x->file_size, err);
}

static int read_metadata(struct vhdx *x, struct sp_err *err)
{
	const struct vhdx_region *bat = &x->regions.entry[x->regions.bat];
	int r = vhdx_metadata_read(x->img->store, &x->regions.entry[x->regions.metadata], &x->metadata, err);

	if (r == 0)
		r = vhdx_geometry_make(&x->metadata, &x->geo, err);
	if (r < 0)
		return r;
	if (bat->length / sizeof(le64_t) < x->geo.bat_entries)
		return sp_err_set(err, -EBADMSG, "BAT region at %#" PRIx64 " has room for %" PRIu64
				  " entries, a disk of this size needs %" PRIu64, bat->offset,
				  (uint64_t)bat->length / sizeof(le64_t), x->geo.bat_entries);
	return 0;
}

static int read_locator(struct vhdx *x, struct sp_err *err)
{
	const struct vhdx_metadata *md = &x->metadata;
	SP_AUTO_FREE uint8_t *buf = NULL;
	const struct vhdx_item *it;
	int r;

	if (md->locator_item < 0)
		return 0;
	if (!md->has_parent) {
		vhd_image_warn(x->img, "there is a parent locator, but HasParent is not set: it is ignored");
		return 0;
	}
	it = &md->item[md->locator_item];
	buf = sp_alloc(it->length);
	if (!buf)
		return sp_err_set(err, -ENOMEM, "out of memory");
	r = store_read(x->img->store, buf, it->length, it->offset);
	if (r < 0)
		return sp_err_set(err, r, "parent locator at %#" PRIx64 " cannot be read: %s", it->offset,
				  strerror(-r));
	r = vhdx_locator_decode(buf, it->length, x->img, err);
	if (r == 0 && sp_guid_is_zero(&x->img->parent.identity[0]))
		vhd_image_warn(x->img, "parent_linkage is zero: any parent that was never written would match");
	return r;
}

static enum vhd_kind kind_of(const struct vhdx_metadata *md)
{
	if (md->has_parent)
		return VHD_KIND_DIFFERENCING;
	return md->leave_blocks_allocated ? VHD_KIND_FIXED : VHD_KIND_DYNAMIC;
}

static void fill_image(struct vhdx *x)
{
	struct vhd_image *img = x->img;
	const struct vhdx_metadata *md = &x->metadata;

	img->size = md->virtual_size;
	img->block_size = md->block_size;
	img->logical_sector = md->logical_sector;
	img->physical_sector = md->physical_sector;
	img->kind = kind_of(md);
	img->has_parent = md->has_parent;
	img->identity = x->header.data_write_guid;
	img->has_identity = true;
	if (sp_guid_is_zero(&img->identity))
		vhd_image_warn(img, "DataWriteGuid is zero: it cannot tell this parent from another");
}

static void release(struct vhdx *x)
{
	vhdx_log_close(x);
	vhdx_space_close(x);
	vhdx_cache_close(x);
	vhdx_metadata_fini(&x->metadata);
	sp_free(x->regions.entry);
	x->regions.entry = NULL;
}

static int vhdx_open(struct vhd_image *img, struct sp_err *err)
{
	struct vhdx *x = vhdx_of(img);
	int r;

	x->img = img;
	r = read_headers(x, err);
	if (r == 0 && is_writable(x))
		r = check_writable(x, err);
	if (r == 0 && !SP_SEED_BUG(VHDX_OPEN_NO_REPLAY))
		r = vhdx_replay(x, err);
	if (r == 0)
		r = read_regions(x, err);
	if (r == 0)
		r = read_metadata(x, err);
	if (r == 0)
		r = read_locator(x, err);
	if (r == 0)
		r = vhdx_cache_open(x, err);
	if (r == 0 && is_writable(x))
		r = vhdx_space_open(x, err);
	if (r < 0) {
		release(x);
		return r;
	}
	fill_image(x);
	return 0;
}

static int vhdx_close(struct vhd_image *img, bool abandon)
{
	struct vhdx *x = vhdx_of(img);
	int r = 0;

	if (is_writable(x) && !abandon)
		r = vhdx_close_clean(x);
	release(x);
	return r;
}

static int vhdx_probe(const struct vhd_probe *p)
{
	return vhdx_check_identifier(p->head, p->head_len, NULL) == 0 ? 100 : 0;
}

/* ---- describe ------------------------------------------------------------------------------------ */

static void add_guid(json_object *o, const char *key, const struct sp_guid *guid)
{
	char text[SP_GUID_TEXT];

	sp_guid_format_le(guid, text);
	json_object_object_add(o, key, json_object_new_string(text));
}

static void add_number(json_object *o, const char *key, uint64_t value)
{
	json_object_object_add(o, key, json_object_new_uint64(value));
}

static void add_creator(json_object *o, struct store *s)
{
	struct vhdx_identifier_disk d;
	SP_AUTO_FREE char *text = NULL;

	if (store_read(s, &d, sizeof(d), 0) < 0)
		return;
	text = sp_utf16_decode(d.creator, sizeof(d.creator), false);
	if (text)
		json_object_object_add(o, "creator", json_object_new_string(text));
}

static void add_log(json_object *o, const struct vhdx *x)
{
	json_object *log = json_object_new_object();
	const char *state = x->log ? "in use" : "empty";

	if (!log)
		return;
	if (x->replayed_entries > 0)
		state = is_writable(x) ? "replayed" : "replayed in memory";
	json_object_object_add(log, "state", json_object_new_string(state));
	add_number(log, "offset", x->header.log_offset);
	add_number(log, "length", x->header.log_length);
	add_number(log, "replayed_entries", x->replayed_entries);
	json_object_object_add(o, "log", log);
}

static void add_regions(json_object *o, const struct vhdx *x)
{
	json_object *list = json_object_new_array();

	if (!list)
		return;
	for (unsigned i = 0; i < x->regions.count; i++) {
		const struct vhdx_region *g = &x->regions.entry[i];
		json_object *one = json_object_new_object();

		if (!one)
			break;
		if ((int)i == x->regions.bat)
			json_object_object_add(one, "name", json_object_new_string("BAT"));
		else if ((int)i == x->regions.metadata)
			json_object_object_add(one, "name", json_object_new_string("metadata"));
		add_guid(one, "guid", &g->guid);
		add_number(one, "offset", g->offset);
		add_number(one, "length", g->length);
		json_object_object_add(one, "required", json_object_new_boolean(g->required));
		json_object_array_add(list, one);
	}
	json_object_object_add(o, "regions", list);
}

static bool item_is_known(const struct vhdx_item *it)
{
	static const struct sp_guid known[] = {
		VHDX_GUID_FILE_PARAMETERS, VHDX_GUID_DISK_SIZE, VHDX_GUID_DISK_ID, VHDX_GUID_LOGICAL_SECTOR,
		VHDX_GUID_PHYSICAL_SECTOR, VHDX_GUID_PARENT_LOCATOR,
	};

	for (size_t i = 0; i < SP_ARRAY_SIZE(known); i++) {
		if (!(it->flags & VHDX_ITEM_IS_USER) && sp_guid_equal(&it->guid, &known[i]))
			return true;
	}
	return false;
}

static void add_other_items(json_object *o, const struct vhdx *x)
{
	json_object *list = json_object_new_array();

	if (!list)
		return;
	for (unsigned i = 0; i < x->metadata.count; i++) {
		const struct vhdx_item *it = &x->metadata.item[i];
		json_object *one;

		if (item_is_known(it))
			continue;
		one = json_object_new_object();
		if (!one)
			break;
		add_guid(one, "guid", &it->guid);
		add_number(one, "length", it->length);
		json_object_object_add(one, "user", json_object_new_boolean(it->flags & VHDX_ITEM_IS_USER));
		json_object_array_add(list, one);
	}
	json_object_object_add(o, "other_metadata", list);
}

static void vhdx_describe(struct vhd_image *img, void *json)
{
	struct vhdx *x = vhdx_of(img);
	json_object *o = json;

	add_creator(o, img->store);
	add_number(o, "header_sequence", x->header.sequence_number);
	add_guid(o, "file_write_guid", &x->header.file_write_guid);
	add_guid(o, "data_write_guid", &x->header.data_write_guid);
	add_guid(o, "disk_id", &x->metadata.disk_id);
	add_number(o, "block_size", x->geo.block_size);
	add_number(o, "blocks", x->geo.blocks);
	add_number(o, "chunk_ratio", x->geo.chunk_ratio);
	add_number(o, "bat_entries", x->geo.bat_entries);
	add_log(o, x);
	add_regions(o, x);
	add_other_items(o, x);
}

/* ---- the table ----------------------------------------------------------------------------------- */

const struct vhd_format vhd_format_vhdx = {
	.name = "vhdx",
	.id = VHD_FORMAT_VHDX,
	.state_size = sizeof(struct vhdx),
	.caps = VHD_CAP_PARENT | VHD_CAP_UNMAP,
	.probe = vhdx_probe,
	.open = vhdx_open,
	.close = vhdx_close,
	.create = vhdx_create,
	.map = vhdx_map,
	.begin_write = vhdx_begin_write,
	.prepare_write = vhdx_prepare_write,
	.commit_write = vhdx_commit_write,
	.abort_write = vhdx_abort_write,
	.discard = vhdx_discard,
	.dirty = vhdx_dirty,
	.flush_begin = vhdx_flush_begin,
	.flush_write = vhdx_flush_write,
	.flush_end = vhdx_flush_end,
	.freed_tag = vhdx_freed_tag,
	.release = vhdx_release,
	.grow = vhdx_grow,
	.set_identity = vhdx_set_identity,
	.set_parent = vhdx_set_parent,
	.describe = vhdx_describe,
	.check = vhdx_check,
	.repair = vhdx_repair,
};
