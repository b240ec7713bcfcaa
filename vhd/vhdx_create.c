/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A new VHDX file. Everything else first, then a sync, then the headers: until they are there the file is no VHDX.
 *
 *	0		header section
 *	1 MiB		log (1 MiB unless asked otherwise)
 *	then		metadata region, 1 MiB: table, items at 64 KiB, parent locator alone from 68 KiB on, so that
 *			set_parent can rewrite it in place through the log
 *	then		BAT, sized for a differencing image of this geometry in any case
 *	then		payload blocks
 *
 * Block size when not given: 2 MiB up to 64 GiB and for differencing images, otherwise 32 MiB.
 */
#include "vhd/vhdx_int.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"
#include "base/utf16.h"
#include "vhd/vhdx_layout.h"

#define CREATOR "Spindle " SPINDLE_VERSION
#define METADATA_LENGTH VHDX_MIB
#define ITEMS_OFFSET VHDX_METADATA_TABLE_SIZE
#define LOCATOR_OFFSET (ITEMS_OFFSET + VHDX_PAGE)
#define PIECE SP_KIB(64)		/* of the BAT of a fixed image */
#define BAT_ALLOCATED_MAX SP_MIB(16)

/* ---- what is asked for --------------------------------------------------------------------------- */

struct plan {
	struct vhdx_metadata md;	/* values only, no items */
	struct vhdx_geometry geo;
	uint64_t log_offset, metadata_offset, bat_offset, data_offset, file_size;
	uint32_t log_length, bat_length;
	bool fixed, preallocate;
};

static uint32_t default_block_size(const struct vhd_format_create *c)
{
	return c->kind != VHD_KIND_DIFFERENCING && c->size > SP_GIB(64) ? 32 * VHDX_MIB : 2 * VHDX_MIB;
}

static int check_sectors(const struct vhdx_metadata *md, struct sp_err *err)
{
	if (md->logical_sector != 512 && md->logical_sector != 4096)
		return sp_err_set(err, -EINVAL, "logical sector size %" PRIu32 " is not possible, use 512 or 4096",
				  md->logical_sector);
	if (md->physical_sector != 512 && md->physical_sector != 4096)
		return sp_err_set(err, -EINVAL, "physical sector size %" PRIu32 " is not possible, use 512 or 4096",
				  md->physical_sector);
	return 0;
}

static int check_size(const struct vhdx_metadata *md, struct sp_err *err)
{
	if (md->virtual_size == 0)
		return sp_err_set(err, -EINVAL, "a disk of 0 bytes is not possible");
	if (md->virtual_size > VHDX_MAX_SIZE)
		return sp_err_set(err, -EINVAL, "%" PRIu64 " bytes are too much: a VHDX disk has at most 64 TiB",
				  md->virtual_size);
	if (md->virtual_size % md->logical_sector != 0)
		return sp_err_set(err, -EINVAL,
				  "%" PRIu64 " bytes are not a multiple of the logical sector size, %" PRIu32,
				  md->virtual_size, md->logical_sector);
	if (!sp_is_pow2(md->block_size) || md->block_size < VHDX_MIB || md->block_size > 256 * VHDX_MIB)
		return sp_err_set(err, -EINVAL,
				  "block size %" PRIu32 " is not possible, use a power of two from 1 MiB to 256 MiB",
				  md->block_size);
	return 0;
}

static int check_rest(const struct vhd_format_create *c, const struct plan *p, struct sp_err *err)
{
	if (!sp_is_aligned(p->log_length, VHDX_MIB) || p->log_length > VHDX_LOG_LENGTH_MAX)
		return sp_err_set(err, -EINVAL,
				  "log size %" PRIu32 " is not possible, use a multiple of 1 MiB up to 1 GiB",
				  p->log_length);
	if (c->kind != VHD_KIND_DIFFERENCING)
		return 0;
	if (sp_guid_is_zero(&c->parent_identity))
		return sp_err_set(err, -EINVAL,
				  "the parent's DataWriteGuid is zero, so it could not be recognised again; "
				  "give the parent a new identity first");
	if (!c->parent_relative && !c->parent_absolute)
		return sp_err_set(err, -EINVAL, "a differencing image needs a path to its parent");
	return 0;
}

static void place(struct plan *p)
{
	uint64_t chunks = sp_div_ceil(p->geo.blocks, p->geo.chunk_ratio);
	/* At most 513 MiB, see vhd-formats 6.4. With room for bitmaps a later conversion needs no new table. */
	uint64_t bat_bytes = chunks * (p->geo.chunk_ratio + UINT64_C(1)) * sizeof(le64_t);

	p->bat_length = (uint32_t)sp_align_up(bat_bytes, VHDX_MIB);
	p->log_offset = VHDX_HEADER_SECTION_SIZE;
	p->metadata_offset = p->log_offset + p->log_length;
	p->bat_offset = p->metadata_offset + METADATA_LENGTH;
	p->data_offset = p->bat_offset + p->bat_length;
	p->file_size = p->data_offset + (p->fixed ? p->geo.blocks * p->geo.block_size : 0);
}

static int plan_make(const struct vhd_format_create *c, struct plan *p, struct sp_err *err)
{
	int r;

	*p = (struct plan){
		.md = {
			.virtual_size = c->size,
			.block_size = c->block_size ? c->block_size : default_block_size(c),
			.logical_sector = c->logical_sector ? c->logical_sector : 512,
			.physical_sector = c->physical_sector ? c->physical_sector : 4096,
			.leave_blocks_allocated = c->kind == VHD_KIND_FIXED,
			.has_parent = c->kind == VHD_KIND_DIFFERENCING,
		},
		.log_length = c->log_size ? c->log_size : VHDX_MIB,
		.fixed = c->kind == VHD_KIND_FIXED,
		.preallocate = c->preallocate,
	};
	r = check_sectors(&p->md, err);
	if (r == 0)
		r = check_size(&p->md, err);
	if (r == 0)
		r = check_rest(c, p, err);
	if (r == 0)
		r = vhdx_geometry_make(&p->md, &p->geo, err);
	if (r < 0)
		return r;
	if (c->disk_id)
		p->md.disk_id = *c->disk_id;
	else
		sp_env_guid(&p->md.disk_id);
	place(p);
	return 0;
}

/* ---- writing the parts --------------------------------------------------------------------------- */

/* Log and BAT get their space at once, as far as that is cheap: a flush that finds none for them could not tell whose
 * write is lost, and would end the disk's writable life. */
static int allocate_metadata(struct store *s, const struct plan *p)
{
	uint64_t bat = sp_align_up(p->geo.bat_entries * sizeof(le64_t), VHDX_PAGE);
	int r = store_zero(s, p->log_offset, p->log_length);

	return r < 0 ? r : store_zero(s, p->bat_offset, sp_min(bat, BAT_ALLOCATED_MAX));
}

/* Room, zeroed. On a device old bytes stand there; a preallocated file gets its space now. */
static int make_room(struct store *s, const struct plan *p)
{
	int r = store_resize(s, p->file_size);

	if (r == 0 && s->is_device)
		return store_zero(s, 0, p->file_size);
	if (r == 0)
		r = allocate_metadata(s, p);
	if (r == 0 && p->fixed && p->preallocate)
		r = store_zero(s, p->data_offset, p->file_size - p->data_offset);
	return r;
}

static int write_identifier(struct store *s)
{
	struct vhdx_identifier_disk d = { .signature = { 'v', 'h', 'd', 'x', 'f', 'i', 'l', 'e' } };
	size_t len;
	int r = sp_utf16_encode(CREATOR, false, d.creator, sizeof(d.creator) - 2, &len);

	return r < 0 ? r : store_write(s, &d, sizeof(d), 0);
}

static int write_regions(struct store *s, const struct plan *p)
{
	const struct vhdx_region region[] = {
		{ .guid = VHDX_GUID_BAT_REGION, .offset = p->bat_offset, .length = p->bat_length, .required = true },
		{ .guid = VHDX_GUID_METADATA_REGION, .offset = p->metadata_offset, .length = METADATA_LENGTH,
		  .required = true },
	};
	SP_AUTO_FREE uint8_t *buf = sp_alloc_aligned(VHDX_PAGE, VHDX_REGION_TABLE_SIZE);
	int r;

	if (!buf)
		return -ENOMEM;
	vhdx_region_table_encode(region, SP_ARRAY_SIZE(region), buf);
	r = store_write(s, buf, VHDX_REGION_TABLE_SIZE, VHDX_REGION_TABLE_OFFSET(0));
	if (r == 0)
		r = store_write(s, buf, VHDX_REGION_TABLE_SIZE, VHDX_REGION_TABLE_OFFSET(1));
	return r;
}

/* Grows a metadata region in memory, item by item. */
struct items {
	uint8_t *region;	/* METADATA_LENGTH bytes */
	unsigned count;
	uint32_t end;		/* of the small items, from the start of the region */
};

static void item_add(struct items *m, const struct sp_guid *guid, uint32_t flags, uint32_t offset, uint32_t length)
{
	struct vhdx_metadata_entry_disk e = {
		.item_id = *guid,
		.offset = le32_make(offset),
		.length = le32_make(length),
		.flags = le32_make(flags),
	};
	struct vhdx_metadata_table_disk d = { .signature = { 'm', 'e', 't', 'a', 'd', 'a', 't', 'a' } };

	memcpy(m->region + sizeof(d) + m->count * sizeof(e), &e, sizeof(e));
	m->count++;
	d.entry_count = le16_make((uint16_t)m->count);
	memcpy(m->region, &d, sizeof(d));
}

static void item_add_value(struct items *m, const struct sp_guid *guid, uint32_t flags, const void *value,
			   uint32_t length)
{
	item_add(m, guid, flags, m->end, length);
	memcpy(m->region + m->end, value, length);
	m->end += length;
}

static void add_values(struct items *m, const struct vhdx_metadata *md)
{
	const uint32_t vdisk = VHDX_ITEM_IS_REQUIRED | VHDX_ITEM_IS_VDISK;
	struct vhdx_file_parameters_disk params = {
		.block_size = le32_make(md->block_size),
		.flags = le32_make((md->leave_blocks_allocated ? VHDX_PARAMS_LEAVE_ALLOCATED : 0) |
				   (md->has_parent ? VHDX_PARAMS_HAS_PARENT : 0)),
	};
	le64_t size = le64_make(md->virtual_size);
	le32_t logical = le32_make(md->logical_sector), physical = le32_make(md->physical_sector);

	item_add_value(m, &VHDX_GUID_FILE_PARAMETERS, VHDX_ITEM_IS_REQUIRED, &params, sizeof(params));
	item_add_value(m, &VHDX_GUID_DISK_SIZE, vdisk, &size, sizeof(size));
	item_add_value(m, &VHDX_GUID_DISK_ID, vdisk, &md->disk_id, sizeof(md->disk_id));
	item_add_value(m, &VHDX_GUID_LOGICAL_SECTOR, vdisk, &logical, sizeof(logical));
	item_add_value(m, &VHDX_GUID_PHYSICAL_SECTOR, vdisk, &physical, sizeof(physical));
}

static int add_locator(struct items *m, const struct vhd_format_create *c, struct sp_err *err)
{
	struct vhd_set_parent parent = {
		.identity = { c->parent_identity },
		.identities = 1,
		.relative = c->parent_relative,
		.absolute = c->parent_absolute,
	};
	size_t len = 0;
	int r = vhdx_locator_encode(&parent, m->region + LOCATOR_OFFSET, METADATA_LENGTH - LOCATOR_OFFSET, &len);

	if (r < 0)
		return sp_err_set(err, r, "the path of the parent cannot be stored: %s", strerror(-r));
	item_add(m, &VHDX_GUID_PARENT_LOCATOR, VHDX_ITEM_IS_REQUIRED, LOCATOR_OFFSET, (uint32_t)len);
	return 0;
}

static int write_metadata(struct store *s, const struct plan *p, const struct vhd_format_create *c, struct sp_err *err)
{
	SP_AUTO_FREE uint8_t *region = sp_zalloc(METADATA_LENGTH);
	struct items m = { .region = region, .end = ITEMS_OFFSET };
	int r = 0;

	if (!region)
		return -ENOMEM;
	add_values(&m, &p->md);
	if (p->md.has_parent)
		r = add_locator(&m, c, err);
	if (r == 0)
		r = store_write(s, region, METADATA_LENGTH, p->metadata_offset);
	return r;
}

/* The BAT of a dynamic or differencing image is all zeros, which the file already is. */
static int write_fixed_bat(struct store *s, const struct plan *p)
{
	const struct vhdx_geometry *g = &p->geo;
	SP_AUTO_FREE le64_t *piece = sp_alloc(PIECE);
	uint64_t per_piece = PIECE / sizeof(*piece), block = 0;
	int r = 0;

	if (!piece)
		return -ENOMEM;
	for (uint64_t at = 0; at < g->bat_entries && r == 0; at += per_piece) {
		uint64_t n = sp_min(per_piece, g->bat_entries - at);

		for (uint64_t i = 0; i < n; i++) {
			bool payload = vhdx_payload_index(g, block) == at + i;	/* not the slot of a bitmap */
			uint64_t place = p->data_offset + block * g->block_size;

			piece[i] = le64_make(payload ? place | VHDX_FULLY_PRESENT : 0);
			block += payload;
		}
		r = store_write(s, piece, n * sizeof(*piece), p->bat_offset + at * sizeof(*piece));
	}
	return r;
}

static int write_headers(struct store *s, const struct plan *p)
{
	SP_AUTO_FREE uint8_t *buf = sp_alloc_aligned(VHDX_PAGE, VHDX_HEADER_SIZE);
	struct vhdx_header h = {
		.version = VHDX_VERSION,
		.log_version = VHDX_LOG_VERSION,
		.log_offset = p->log_offset,
		.log_length = p->log_length,
	};
	int r = buf ? 0 : -ENOMEM;

	sp_env_guid(&h.file_write_guid);
	sp_env_guid(&h.data_write_guid);
	for (unsigned slot = 2; slot-- > 0 && r == 0; h.sequence_number++) {
		vhdx_header_encode(&h, buf);
		r = store_write(s, buf, VHDX_HEADER_SIZE, VHDX_HEADER_OFFSET(slot));
	}
	return r;
}

/**
 * vhdx_create - write a new image into the empty @store
 * @c: sizes in bytes, 0 for a default
 *
 * A fixed image has every block in place; with c->preallocate the host has given the space as well. Memory does not
 * grow with the image. Durable on return. -EINVAL says which wish cannot be granted.
 */
int vhdx_create(struct store *store, const struct vhd_format_create *c, struct sp_err *err)
{
	struct sp_err why = { 0 };
	struct plan p;
	int r = plan_make(c, &p, err);

	if (r < 0)
		return r;
	r = make_room(store, &p);
	if (r == 0)
		r = write_identifier(store);
	if (r == 0)
		r = write_regions(store, &p);
	if (r == 0)
		r = write_metadata(store, &p, c, &why);
	if (r == 0 && p.fixed)
		r = write_fixed_bat(store, &p);
	if (r == 0)
		r = store_sync(store);
	if (r == 0)
		r = write_headers(store, &p);
	if (r == 0)
		r = store_sync(store);
	if (r == 0)
		return 0;
	return why.code ? sp_err_set(err, r, "%s", why.text) :
			  sp_err_set(err, r, "the new image cannot be written: %s", strerror(-r));
}
