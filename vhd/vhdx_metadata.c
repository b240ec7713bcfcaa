/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Metadata table and items, and the geometry they imply. [MS-VHDX] 2.6; checks X7, X11, X12, X21.
 *
 * The table has no checksum, so everything it says is checked against the region.
 */
#include "vhd/vhdx_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "vhd/vhdx_layout.h"

/* ---- table --------------------------------------------------------------------------------------- */

static bool item_is(const struct vhdx_item *it, const struct sp_guid *guid)
{
	return !(it->flags & VHDX_ITEM_IS_USER) && sp_guid_equal(&it->guid, guid);
}

static int item_decode(const struct vhdx_metadata_entry_disk *d, const struct vhdx_region *region, unsigned index,
		       struct vhdx_item *ret_item, struct sp_err *err)
{
	uint32_t offset = le32_get(d->offset), length = le32_get(d->length);

	if (length > VHDX_METADATA_ITEM_MAX)
		return sp_err_set(err, -EBADMSG, "entry %u: length %" PRIu32 " is more than 1 MiB", index, length);
	if (length > 0 && (offset < VHDX_METADATA_TABLE_SIZE || !sp_range_ok(offset, length, region->length)))
		return sp_err_set(err, -EBADMSG,
				  "entry %u: item at %#" PRIx32 " + %" PRIu32
				  " lies outside the item area (0x10000 to %#" PRIx32 ")",
				  index, offset, length, region->length);
	*ret_item = (struct vhdx_item){
		.guid = d->item_id,
		.offset = region->offset + offset,
		.length = length,
		.flags = le32_get(d->flags),
	};
	return 0;
}

static int items_compare(const void *pa, const void *pb)
{
	const struct vhdx_item *a = *(const struct vhdx_item *const *)pa, *b = *(const struct vhdx_item *const *)pb;

	return a->offset < b->offset ? -1 : a->offset > b->offset;
}

static int refuse_overlap(const struct vhdx_metadata *md, struct sp_err *err)
{
	SP_AUTO_FREE const struct vhdx_item **by_offset = sp_calloc(md->count + 1, sizeof(*by_offset));
	unsigned n = 0;

	if (!by_offset)
		return sp_err_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < md->count; i++) {
		if (md->item[i].length > 0)
			by_offset[n++] = &md->item[i];
	}
	qsort(by_offset, n, sizeof(*by_offset), items_compare);
	for (unsigned i = 1; i < n; i++) {
		const struct vhdx_item *a = by_offset[i - 1], *b = by_offset[i];

		if (sp_ranges_overlap(a->offset, a->length, b->offset, b->length))
			return sp_err_set(err, -EBADMSG,
					  "items at %#" PRIx64 " + %" PRIu32 " and %#" PRIx64 " + %" PRIu32 " overlap",
					  a->offset, a->length, b->offset, b->length);
	}
	return 0;
}

static int refuse_duplicates(const struct vhdx_metadata *md, struct sp_err *err)
{
	unsigned users = 0;

	for (unsigned i = 0; i < md->count; i++) {
		uint32_t user = md->item[i].flags & VHDX_ITEM_IS_USER;

		users += user != 0;
		for (unsigned k = 0; k < i; k++) {
			if ((md->item[k].flags & VHDX_ITEM_IS_USER) == user &&
			    sp_guid_equal(&md->item[k].guid, &md->item[i].guid))
				return sp_err_set(err, -EBADMSG, "entries %u and %u are the same item", k, i);
		}
	}
	if (users > VHDX_METADATA_USER_MAX)
		return sp_err_set(err, -EBADMSG, "%u user items, at most %u are allowed", users,
				  VHDX_METADATA_USER_MAX);
	return 0;
}

static int table_read(struct store *s, const struct vhdx_region *region, struct vhdx_metadata *md, struct sp_err *err)
{
	SP_AUTO_FREE uint8_t *buf = sp_alloc(VHDX_METADATA_TABLE_SIZE);
	struct vhdx_metadata_table_disk d;
	int r;

	if (!buf)
		return sp_err_set(err, -ENOMEM, "out of memory");
	if (region->length < VHDX_METADATA_TABLE_SIZE)
		return sp_err_set(err, -EBADMSG, "region has %" PRIu32 " bytes, the table alone needs 65536",
				  region->length);
	r = store_read(s, buf, VHDX_METADATA_TABLE_SIZE, region->offset);
	if (r < 0)
		return sp_err_set(err, r, "cannot be read: %s", strerror(-r));
	memcpy(&d, buf, sizeof(d));
	if (memcmp(d.signature, VHDX_METADATA_SIGNATURE, 8) != 0)
		return sp_err_set(err, -EBADMSG, "signature is not \"metadata\"");
	md->count = le16_get(d.entry_count);
	if (md->count > VHDX_METADATA_ENTRIES_MAX)
		return sp_err_set(err, -EBADMSG, "entry count is %u, at most %u fit", md->count,
				  VHDX_METADATA_ENTRIES_MAX);
	md->item = sp_calloc(md->count + 1, sizeof(*md->item));
	if (!md->item)
		return sp_err_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < md->count && r == 0; i++) {
		struct vhdx_metadata_entry_disk e;

		memcpy(&e, buf + sizeof(d) + i * sizeof(e), sizeof(e));
		r = item_decode(&e, region, i, &md->item[i], err);
	}
	if (r == 0)
		r = refuse_duplicates(md, err);
	if (r == 0)
		r = refuse_overlap(md, err);
	return r;
}

/* ---- the items we know --------------------------------------------------------------------------- */

enum known { KNOWN_PARAMS, KNOWN_SIZE, KNOWN_DISK_ID, KNOWN_LOGICAL, KNOWN_PHYSICAL, KNOWN_LOCATOR, KNOWN_COUNT };

static const struct {
	const char *name;
	struct sp_guid guid;
	uint32_t length;		/* 0: any */
} known_items[KNOWN_COUNT] = {
	[KNOWN_PARAMS] = { "File Parameters", VHDX_GUID_FILE_PARAMETERS, 8 },
	[KNOWN_SIZE] = { "Virtual Disk Size", VHDX_GUID_DISK_SIZE, 8 },
	[KNOWN_DISK_ID] = { "Virtual Disk ID", VHDX_GUID_DISK_ID, 16 },
	[KNOWN_LOGICAL] = { "Logical Sector Size", VHDX_GUID_LOGICAL_SECTOR, 4 },
	[KNOWN_PHYSICAL] = { "Physical Sector Size", VHDX_GUID_PHYSICAL_SECTOR, 4 },
	[KNOWN_LOCATOR] = { "Parent Locator", VHDX_GUID_PARENT_LOCATOR, 0 },
};

static int refuse_unknown(const struct vhdx_item *it, unsigned index, struct sp_err *err)
{
	char text[SP_GUID_TEXT];

	if (!(it->flags & VHDX_ITEM_IS_REQUIRED))
		return 0;
	if (item_is(it, &VHDX_GUID_INCOMPLETE))
		return sp_err_set(err, -ENOTSUP, "entry %u marks a file whose creation did not finish", index);
	sp_guid_format_le(&it->guid, text);
	return sp_err_set(err, -ENOTSUP, "entry %u: %s item %s is required but unknown here", index,
			  it->flags & VHDX_ITEM_IS_USER ? "user" : "system", text);
}

static int items_find(const struct vhdx_metadata *md, int ret_index[static KNOWN_COUNT], struct sp_err *err)
{
	for (unsigned k = 0; k < KNOWN_COUNT; k++)
		ret_index[k] = -1;
	for (unsigned i = 0; i < md->count; i++) {
		const struct vhdx_item *it = &md->item[i];
		unsigned k = 0;

		while (k < KNOWN_COUNT && !item_is(it, &known_items[k].guid))
			k++;
		if (k == KNOWN_COUNT) {
			int r = refuse_unknown(it, i, err);

			if (r < 0)
				return r;
			continue;
		}
		if (known_items[k].length && it->length != known_items[k].length)
			return sp_err_set(err, -EBADMSG,
					  "item %s at %#" PRIx64 " has %" PRIu32 " bytes, expected %" PRIu32,
					  known_items[k].name, it->offset, it->length, known_items[k].length);
		ret_index[k] = (int)i;
	}
	for (unsigned k = 0; k < KNOWN_LOCATOR; k++) {
		if (ret_index[k] < 0)
			return sp_err_set(err, -EBADMSG, "item %s is missing", known_items[k].name);
	}
	return 0;
}

static int items_read(struct store *s, struct vhdx_metadata *md, const int index[static KNOWN_COUNT],
		      struct sp_err *err)
{
	struct vhdx_file_parameters_disk params;
	le32_t logical, physical;
	le64_t size;
	struct sp_guid id;
	void *const into[KNOWN_LOCATOR] = { &params, &size, &id, &logical, &physical };

	for (unsigned k = 0; k < KNOWN_LOCATOR; k++) {
		int r = store_read(s, into[k], known_items[k].length, md->item[index[k]].offset);

		if (r < 0)
			return sp_err_set(err, r, "item %s at %#" PRIx64 " cannot be read: %s", known_items[k].name,
					  md->item[index[k]].offset, strerror(-r));
	}
	md->params_item = index[KNOWN_PARAMS];
	md->size_item = index[KNOWN_SIZE];
	md->locator_item = index[KNOWN_LOCATOR];
	md->block_size = le32_get(params.block_size);
	md->leave_blocks_allocated = le32_get(params.flags) & VHDX_PARAMS_LEAVE_ALLOCATED;
	md->has_parent = le32_get(params.flags) & VHDX_PARAMS_HAS_PARENT;
	md->virtual_size = le64_get(size);
	md->disk_id = id;
	md->logical_sector = le32_get(logical);
	md->physical_sector = le32_get(physical);
	if (md->has_parent && (md->locator_item < 0 || md->item[md->locator_item].length == 0))
		return sp_err_set(err, -EBADMSG, "HasParent is set but there is no Parent Locator item");
	return 0;
}

/**
 * vhdx_metadata_read - table and known items
 * @region: as checked by the region table decoder
 * @ret_md: release with vhdx_metadata_fini(); items stand in table order
 *
 * Whether the values fit together is for vhdx_geometry_make().
 * Returns 0, -EBADMSG, -ENOTSUP (an unknown required item), -ENOMEM or what reading failed with.
 */
int vhdx_metadata_read(struct store *s, const struct vhdx_region *region, struct vhdx_metadata *ret_md,
		       struct sp_err *err)
{
	struct vhdx_metadata md = { .params_item = -1, .size_item = -1, .locator_item = -1 };
	int index[KNOWN_COUNT];
	int r = table_read(s, region, &md, err);

	if (r == 0)
		r = items_find(&md, index, err);
	if (r == 0)
		r = items_read(s, &md, index, err);
	if (r < 0) {
		vhdx_metadata_fini(&md);
		return sp_err_prefix(err, r, "metadata region at %#" PRIx64, region->offset);
	}
	*ret_md = md;
	return 0;
}

void vhdx_metadata_fini(struct vhdx_metadata *md)
{
	sp_free(md->item);
	md->item = NULL;
	md->count = 0;
}

/* ---- geometry ------------------------------------------------------------------------------------ */

static unsigned log2_of(uint64_t pow2)
{
	return (unsigned)__builtin_ctzll(pow2);
}

static int values_check(const struct vhdx_metadata *md, struct sp_err *err)
{
	if (!sp_is_pow2(md->block_size) || md->block_size < VHDX_MIB || md->block_size > 256 * VHDX_MIB)
		return sp_err_set(err, -EBADMSG,
				  "block size is %" PRIu32 ", expected a power of two from 1 MiB to 256 MiB",
				  md->block_size);
	if (md->logical_sector != 512 && md->logical_sector != 4096)
		return sp_err_set(err, -EBADMSG, "logical sector size is %" PRIu32 ", expected 512 or 4096",
				  md->logical_sector);
	if (md->physical_sector != 512 && md->physical_sector != 4096)
		return sp_err_set(err, -EBADMSG, "physical sector size is %" PRIu32 ", expected 512 or 4096",
				  md->physical_sector);
	if (md->virtual_size == 0 || md->virtual_size > VHDX_MAX_SIZE)
		return sp_err_set(err, -EBADMSG, "virtual disk size is %" PRIu64 ", expected up to 64 TiB",
				  md->virtual_size);
	if (md->virtual_size % md->logical_sector != 0)
		return sp_err_set(err, -EBADMSG,
				  "virtual disk size %" PRIu64 " is not a multiple of the logical sector, %" PRIu32,
				  md->virtual_size, md->logical_sector);
	return 0;
}

/**
 * vhdx_geometry_make - all that follows from block size, sector size and virtual size (vhd-formats 2.6)
 *
 * A bitmap slot follows every CR payload entries in all kinds; what differs is where the table ends.
 * Returns 0, or -EBADMSG when a value is outside what VHDX allows (X12).
 */
int vhdx_geometry_make(const struct vhdx_metadata *md, struct vhdx_geometry *ret_geo, struct sp_err *err)
{
	int r = values_check(md, err);
	struct vhdx_geometry g;
	uint64_t chunk;

	if (r < 0)
		return r;
	chunk = (UINT64_C(1) << 23) * md->logical_sector;
	g = (struct vhdx_geometry){
		.block_size = md->block_size,
		.logical_sector = md->logical_sector,
		.virtual_size = md->virtual_size,
		.blocks = sp_div_ceil(md->virtual_size, md->block_size),
		.chunk_ratio = (uint32_t)(chunk / md->block_size),
		.block_shift = log2_of(md->block_size),
		.differencing = md->has_parent,
	};
	g.chunk_shift = log2_of(g.chunk_ratio);
	if (g.differencing)
		g.bat_entries = sp_div_ceil(g.blocks, g.chunk_ratio) * (g.chunk_ratio + UINT64_C(1));
	else
		g.bat_entries = g.blocks + (g.blocks - 1) / g.chunk_ratio;
	*ret_geo = g;
	return 0;
}
