/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The checker: header section, log, region tables, metadata, locator; the BAT is in vhdx_check_bat.c. vhd-formats 5.2.
 *
 * It needs no open image and shares no cache with the reader. Where a structure is too damaged to go on behind it, the
 * check ends there, having said why. A file with a dirty log is judged as it will be after replay. What only costs a
 * second copy is a warning; repair puts it right.
 */
#include "vhd/vhdx_check_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "vhd/vhdx_layout.h"

#define NOWHERE UINT64_MAX

/* A finding that ends the check: 1, or -ENOMEM. A verdict that is no finding about the image passes through. */
static int stop(struct vhdx_checker *c, int r, uint64_t offset, const char *structure, const struct sp_err *why)
{
	if (r == -ENOMEM)
		return r;
	r = vhd_report_add(c->rep, VHD_SEV_ERROR, false, false, offset, structure, "%s", sp_err_text(why));
	return r < 0 ? r : 1;
}

static int warn(struct vhdx_checker *c, bool fixable, uint64_t offset, const char *structure, const char *text)
{
	return vhd_report_add(c->rep, VHD_SEV_WARNING, fixable, false, offset, structure, "%s", text);
}

/* ---- header section ------------------------------------------------------------------------------ */

static int check_identifier(struct vhdx_checker *c)
{
	struct sp_err why = { 0 };
	uint8_t head[8];
	int r = store_size(c->file, &c->file_size);

	if (r < 0)
		return r;
	if (c->file_size < VHDX_HEADER_SECTION_SIZE) {
		sp_err_set(&why, -EBADMSG, "file has %" PRIu64 " bytes, the header section alone needs 1 MiB",
			   c->file_size);
		return stop(c, -EBADMSG, 0, "file", &why);
	}
	r = store_read(c->file, head, sizeof(head), 0);
	if (r < 0)
		return r;
	if (vhdx_check_identifier(head, sizeof(head), &why) == 0)
		return 0;
	/* Everything else may be intact, and says more about what happened. */
	return vhd_report_add(c->rep, VHD_SEV_ERROR, false, false, 0, "file type identifier", "%s", sp_err_text(&why));
}

static int check_header_copy(struct vhdx_checker *c, unsigned slot, struct vhdx_header *ret_hdr, bool *ret_good)
{
	SP_AUTO_FREE uint8_t *buf = sp_alloc(VHDX_HEADER_SIZE);
	struct sp_err why = { 0 };
	int r;

	if (!buf)
		return -ENOMEM;
	r = store_read(c->file, buf, VHDX_HEADER_SIZE, VHDX_HEADER_OFFSET(slot));
	if (r < 0)
		sp_err_set(&why, r, "cannot be read: %s", strerror(-r));
	else
		r = vhdx_header_decode(buf, c->file_size, ret_hdr, &why);
	*ret_good = r == 0;
	if (r == 0)
		return 0;
	return warn(c, true, VHDX_HEADER_OFFSET(slot), slot ? "header 2" : "header 1", sp_err_text(&why));
}

/* Both copies are good: losing the current one should not bring old GUIDs back. */
static int check_header_pair(struct vhdx_checker *c, const struct vhdx_header h[2], unsigned slot)
{
	const struct vhdx_header *old = &h[!slot];
	const char *what = NULL;

	if (!sp_guid_equal(&old->data_write_guid, &c->header.data_write_guid))
		what = "carries another DataWriteGuid than the current header: children would be lost with that one";
	else if (!sp_guid_equal(&old->log_guid, &c->header.log_guid))
		what = "carries another LogGuid than the current header";
	if (!what)
		return 0;
	return warn(c, true, VHDX_HEADER_OFFSET(!slot), slot ? "header 1" : "header 2", what);
}

static int check_headers(struct vhdx_checker *c)
{
	struct vhdx_header h[2];
	struct sp_err why = { 0 };
	bool good[2];
	unsigned slot = 0;
	int r = vhdx_header_read_current(c->file, c->file_size, &c->header, &slot, &why);

	if (r < 0)
		return stop(c, r, VHDX_HEADER_OFFSET(0), "headers", &why);
	for (unsigned i = 0; i < 2 && r == 0; i++)
		r = check_header_copy(c, i, &h[i], &good[i]);
	if (r == 0 && good[0] && good[1])
		r = check_header_pair(c, h, slot);
	if (r == 0 && sp_guid_is_zero(&c->header.data_write_guid))
		r = warn(c, false, VHDX_HEADER_OFFSET(slot), "header",
			 "DataWriteGuid is zero: children could not recognise this file");
	return r;
}

/* ---- log ----------------------------------------------------------------------------------------- */

static int check_log(struct vhdx_checker *c)
{
	struct vhdx_plan plan = { 0 };
	struct sp_err why = { 0 };
	int r;

	if (sp_guid_is_zero(&c->header.log_guid))
		return 0;
	r = vhdx_plan_make(c->file, &c->header, c->file_size, &plan, &why);
	if (r < 0)
		return stop(c, r, c->header.log_offset, "log", &why);
	c->log_dirty = true;
	c->file_size = plan.file_size;
	r = vhd_report_add(c->rep, VHD_SEV_WARNING, true, false, c->header.log_offset, "log",
			   "%" PRIu64 " entries are to be replayed: the next writable open does it", plan.entries);
	if (r == 0)
		r = vhdx_overlay_new(c->file, false, &plan, &c->view);
	vhdx_plan_fini(&plan);
	return r;
}

/* ---- regions ------------------------------------------------------------------------------------- */

static const char *region_copy_name(unsigned copy)
{
	return copy ? "region table 2" : "region table 1";
}

static int check_regions(struct vhdx_checker *c)
{
	SP_AUTO_FREE uint8_t *buf = sp_alloc(2 * VHDX_REGION_TABLE_SIZE);
	struct sp_err why = { 0 };
	bool good[2];
	unsigned used;
	int r;

	if (!buf)
		return -ENOMEM;
	r = vhdx_region_tables_read(c->view, c->file_size, &c->regions, &used, &why);
	if (r < 0)
		return stop(c, r, VHDX_REGION_TABLE_OFFSET(0), "region tables", &why);
	for (unsigned i = 0; i < 2; i++) {
		uint8_t *copy = buf + i * VHDX_REGION_TABLE_SIZE;
		struct vhdx_region_table t = { 0 };

		r = store_read(c->view, copy, VHDX_REGION_TABLE_SIZE, VHDX_REGION_TABLE_OFFSET(i));
		if (r < 0)
			sp_err_set(&why, r, "cannot be read: %s", strerror(-r));
		else
			r = vhdx_region_table_decode(copy, c->file_size, &t, &why);
		sp_free(t.entry);
		good[i] = r == 0;
		if (r < 0 && warn(c, true, VHDX_REGION_TABLE_OFFSET(i), region_copy_name(i), sp_err_text(&why)) < 0)
			return -ENOMEM;
	}
	if (good[0] && good[1] && memcmp(buf, buf + VHDX_REGION_TABLE_SIZE, VHDX_REGION_TABLE_SIZE) != 0)
		return warn(c, true, VHDX_REGION_TABLE_OFFSET(1), region_copy_name(1),
			    "differs from copy 1, which is used");
	return 0;
}

static int check_layout(struct vhdx_checker *c)
{
	struct sp_err why = { 0 };
	int r = vhdx_layout_check(&c->header, &c->regions, c->file_size, &why);

	return r < 0 ? stop(c, r, NOWHERE, "layout", &why) : 0;
}

/* ---- metadata ------------------------------------------------------------------------------------ */

static int check_metadata(struct vhdx_checker *c)
{
	const struct vhdx_region *region = &c->regions.entry[c->regions.metadata],
				 *bat = &c->regions.entry[c->regions.bat];
	struct sp_err why = { 0 };
	int r = vhdx_metadata_read(c->view, region, &c->metadata, &why);

	if (r == 0)
		r = vhdx_geometry_make(&c->metadata, &c->geo, &why);
	if (r < 0)
		return stop(c, r, region->offset, "metadata", &why);
	if (bat->length / sizeof(le64_t) < c->geo.bat_entries) {
		sp_err_set(&why, -EBADMSG,
			   "region has room for %" PRIu64 " entries, a disk of this size needs %" PRIu64,
			   (uint64_t)bat->length / sizeof(le64_t), c->geo.bat_entries);
		return stop(c, -EBADMSG, bat->offset, "BAT region", &why);
	}
	return 0;
}

static int judge_parent(struct vhdx_checker *c, const struct vhd_parent_ref *parent, uint64_t offset)
{
	int r = 0;

	if (parent->paths == 0)
		r = warn(c, false, offset, "parent locator", "there is no path to the parent");
	if (r == 0 && sp_guid_is_zero(&parent->identity[0]))
		r = warn(c, false, offset, "parent locator",
			 "parent_linkage is zero: any parent never written to would match");
	return r;
}

static int decode_locator(struct vhdx_checker *c, const struct vhdx_item *it)
{
	SP_AUTO_FREE uint8_t *buf = sp_alloc(it->length);
	struct vhd_image img = { 0 };
	struct sp_err why = { 0 };
	int r;

	if (!buf)
		return -ENOMEM;
	r = store_read(c->view, buf, it->length, it->offset);
	if (r < 0)
		return r;
	r = vhdx_locator_decode(buf, it->length, &img, &why);
	if (r == 0)
		r = judge_parent(c, &img.parent, it->offset);
	else if (r != -ENOMEM)	/* the blocks can be judged all the same */
		r = vhd_report_add(c->rep, VHD_SEV_ERROR, false, false, it->offset, "parent locator", "%s",
				   sp_err_text(&why));
	for (unsigned i = 0; i < img.parent.paths; i++)
		sp_free(img.parent.path[i].text);
	return r;
}

static int check_locator(struct vhdx_checker *c)
{
	const struct vhdx_item *it;

	if (c->metadata.locator_item < 0)
		return 0;
	it = &c->metadata.item[c->metadata.locator_item];
	if (!c->metadata.has_parent)
		return warn(c, false, it->offset, "parent locator", "HasParent is not set: it is ignored");
	return decode_locator(c, it);
}

/* ---- together ------------------------------------------------------------------------------------ */

/**
 * vhdx_check - every check of vhd-formats 5.2 that one file allows
 *
 * Never writes. Memory: two bits per MiB of file, at most 32 MiB, and 1 MiB of buffer.
 * Returns 0 when the check ran, however much is wrong; -ENOMEM or an I/O error when it could not.
 */
int vhdx_check(struct store *store, struct vhd_report *report)
{
	static int (*const steps[])(struct vhdx_checker *c) = {
		check_identifier, check_headers, check_log, check_regions, check_layout, check_metadata, check_locator,
		vhdx_check_bat,
	};
	struct vhdx_checker c = { .file = store, .view = store, .rep = report };
	int r = 0;

	for (size_t i = 0; i < SP_ARRAY_SIZE(steps) && r == 0; i++)
		r = steps[i](&c);
	if (c.view != store)
		store_close(c.view);
	vhdx_metadata_fini(&c.metadata);
	sp_free(c.regions.entry);
	return r < 0 ? r : 0;
}
