/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Checker: footers, header, locators, batmap. It reads the file itself and shares only the decoders with open(), so
 * that it works where open() refuses. vhd-formats.md 5.1; V numbers refer to it.
 */
#include "vhd/vhd1_check_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"

#define NO_OFFSET UINT64_MAX

void vhd1_note(struct vhd1_survey *c, enum vhd_severity sev, bool fixable, uint64_t offset, const char *structure,
	       const char *fmt, ...)
{
	char text[sizeof(((struct vhd_finding *)0)->text)];
	va_list ap;
	int r;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	r = vhd_report_add(c->report, sev, fixable, false, offset, structure, "%s", text);
	if (r < 0 && c->failed == 0)
		c->failed = r;
}

/* True when the caller may go on; memory and I/O failures end the check, damage is a finding. */
static bool no_damage(struct vhd1_survey *c, int r, const struct sp_err *err, uint64_t offset, const char *structure)
{
	if (r == -EBADMSG || r == -ENOTSUP)
		vhd1_note(c, VHD_SEV_ERROR, false, offset, structure, "%s", sp_err_text(err));
	else if (r < 0)
		c->failed = r;
	return r == 0;
}

/* ---- footers: V1 to V4, V13, V16 ----------------------------------------------------------------- */

/* Comes after the blocks: where the footer belongs is known only when they can be believed. */
static void check_end_footer(struct vhd1_survey *c)
{
	const struct vhd1_footers *f = &c->found;
	uint64_t at = f->file_size - VHD1_SECTOR;
	const char *but = c->sound ? "the copy at 0 is good" : "the copy at 0 is good, but because of the other damage "
							       "nobody can tell where the footer belongs";

	if (f->end == VHD1_END_BAD)
		vhd1_note(c, VHD_SEV_ERROR, c->sound, at, "footer", "damaged or cut off; %s", but);
	else if (f->end == VHD1_END_KILLED)
		vhd1_note(c, VHD_SEV_ERROR, c->sound, at, "footer",
			  "overwritten with 0xC7: XenServer did not close the image; %s", but);
	else if (f->end == VHD1_END_SHORT)
		vhd1_note(c, VHD_SEV_WARNING, true, f->end_offset, "footer",
			  "511 bytes long, as before Virtual PC 2004");
}

static void check_footer_copy(struct vhd1_survey *c)
{
	const struct vhd1_footers *f = &c->found;

	if (vhd1_is_sparse(&f->footer) && !f->copy_same)
		vhd1_note(c, VHD_SEV_ERROR, true, 0, "footer copy",
			  f->copy_good ? "differs from the footer at the end"
				       : "damaged; the footer at the end is good");
}

static void check_footer_fields(struct vhd1_survey *c)
{
	const struct vhd1_footer_disk *f = &c->found.footer;
	uint64_t at = c->found.end_offset < c->found.file_size ? c->found.end_offset : 0;
	uint64_t size = be64_get(f->current_size);
	uint64_t chs = (uint64_t)be16_get(f->cylinders) * f->heads * f->sectors_per_track * VHD1_SECTOR;

	if (!(be32_get(f->features) & VHD1_FEATURE_RESERVED) || be32_get(f->features) > 3)
		vhd1_note(c, VHD_SEV_WARNING, false, at, "footer", "features are %#" PRIx32 ", expected 2 or 3",
			  be32_get(f->features));
	if (!vhd1_is_sparse(f) && be64_get(f->data_offset) != VHD1_NOWHERE)
		vhd1_note(c, VHD_SEV_WARNING, false, at, "footer", "data offset of a fixed image is %#" PRIx64
			  ", expected all ones", be64_get(f->data_offset));
	if (chs > size && chs != 65535ull * 16 * 255 * VHD1_SECTOR)	/* the largest: "do not go by it" */
		vhd1_note(c, VHD_SEV_WARNING, false, at, "footer",
			  "geometry %u/%u/%u is larger than the disk of %" PRIu64 " bytes", be16_get(f->cylinders),
			  f->heads, f->sectors_per_track, size);
	if (f->saved_state == 1)
		vhd1_note(c, VHD_SEV_WARNING, false, at, "footer",
			  "a saved state of a virtual machine depends on this disk");
	if (vhd1_is_sparse(f) && size / VHD1_SECTOR > VHD1_SPARSE_SECTORS_MAX)
		vhd1_note(c, VHD_SEV_WARNING, false, at, "footer",
			  "%" PRIu64 " bytes are more than the 2040 GiB that other programs accept",
			  size);
}

static void check_fixed(struct vhd1_survey *c)
{
	uint64_t size = be64_get(c->found.footer.current_size), room = c->found.end_offset;

	if (room < size)
		vhd1_note(c, VHD_SEV_ERROR, false, room, "data",
			  "the file is cut: %" PRIu64 " bytes in front of the footer, the disk has %" PRIu64,
			  room, size);
	else if (room > size)
		vhd1_note(c, VHD_SEV_WARNING, false, size, "data", "%" PRIu64 " bytes between the disk and its footer",
			  room - size);
	c->report->image_end = sp_min(room, size) + VHD1_SECTOR;
}

/* ---- header, locators: V5 to V8, V12, V18 -------------------------------------------------------- */

static void check_locator(struct vhd1_survey *c, unsigned i)
{
	const struct vhd1_locator_disk *d = &c->header.locator[i];
	uint64_t at = be64_get(c->found.footer.data_offset) + offsetof(struct vhd1_header_disk, locator) +
		      i * sizeof(*d);
	struct vhd1_locator l;
	char name[32];
	const char *why = NULL;
	int r = vhd1_locator_decode(d, c->found.file_size, &l, &why);

	snprintf(name, sizeof(name), "parent locator %u", i);
	if (r == -EBADMSG)
		vhd1_note(c, VHD_SEV_WARNING, false, at, name, "%s", why);
	for (unsigned k = 0; k < i && r == 0; k++)
		if (be32_get(c->header.locator[k].code) == l.code)
			vhd1_note(c, VHD_SEV_WARNING, false, at, name, "has the same code as parent locator %u", k);
}

/* Asks the decoder of open(): whether the image names a parent depends on the texts, not on the entries alone. */
static void check_parent(struct vhd1_survey *c, uint64_t at)
{
	struct vhd_image img = { .store = c->store };
	struct sp_err err = { 0 };

	no_damage(c, vhd1_parent_load(&img, &c->header, c->found.file_size, &err), &err, at, "dynamic header");
	for (unsigned i = 0; i < img.parent.paths; i++)
		sp_free(img.parent.path[i].text);
	sp_free(img.warning);		/* check_locator() tells them all */
}

static void check_header_fields(struct vhd1_survey *c)
{
	const struct vhd1_header_disk *h = &c->header;
	uint64_t at = be64_get(c->found.footer.data_offset);
	bool child = be32_get(c->found.footer.type) == VHD1_TYPE_DIFFERENCING, locators = false;

	if (be64_get(h->next) != VHD1_NOWHERE)
		vhd1_note(c, VHD_SEV_WARNING, false, at, "dynamic header", "next structure is %#" PRIx64
			  ", expected all ones", be64_get(h->next));
	for (unsigned i = 0; i < VHD1_LOCATORS; i++) {
		check_locator(c, i);
		locators |= be32_get(h->locator[i].code) != VHD1_CODE_NONE;
	}
	if (child)
		check_parent(c, at);
	if (!child && (!sp_guid_is_zero(&h->parent_id) || locators))
		vhd1_note(c, VHD_SEV_WARNING, false, at, "dynamic header", "names a parent, but the image is dynamic");
}

/* ---- batmap: V17 --------------------------------------------------------------------------------- */

static void check_batmap_sum(struct vhd1_survey *c, const struct vhd1_batmap_disk *d, uint64_t at)
{
	uint64_t len = sp_align_up(be64_get(c->found.footer.current_size) >> 24, VHD1_SECTOR);
	uint8_t *map = NULL;
	uint32_t sum;
	int r;

	if (len > (uint64_t)be32_get(d->sectors) * VHD1_SECTOR ||
	    !sp_range_ok(be64_get(d->offset), len, c->found.file_size)) {
		vhd1_note(c, VHD_SEV_WARNING, false, at, "batmap",
			  "too small for the disk, or past the end of the file");
		return;
	}
	map = sp_alloc((size_t)len + 1);
	r = map ? store_read(c->store, map, (size_t)len, be64_get(d->offset)) : -ENOMEM;
	if (r < 0) {
		c->failed = r;
	} else {
		sum = vhd1_checksum(map, (size_t)len, SIZE_MAX / 2);
		if (be32_get(d->version) == 0x10002 && sum != be32_get(d->checksum))
			vhd1_note(c, VHD_SEV_WARNING, false, at, "batmap",
				  "checksum is %08" PRIx32 ", computed %08" PRIx32, be32_get(d->checksum), sum);
	}
	sp_free(map);
}

static void check_batmap(struct vhd1_survey *c)
{
	uint64_t at = c->shape.bat_offset + vhd1_bat_bytes(&c->shape);
	struct vhd1_batmap_disk d;
	int r = store_read(c->store, &d, sizeof(d), at);

	if (r < 0)
		c->failed = r;
	else if (be32_get(d.version) > 0x10002)
		vhd1_note(c, VHD_SEV_WARNING, false, at, "batmap", "version is %08" PRIx32 ", expected 1.2 at most",
			  be32_get(d.version));
	else
		check_batmap_sum(c, &d, at);
}

/* ---- all of it ----------------------------------------------------------------------------------- */

static void check_sparse(struct vhd1_survey *c)
{
	uint64_t at = be64_get(c->found.footer.data_offset);
	struct sp_err err = { 0 };
	bool batmap, encrypted;
	int r = vhd1_header_read(c->store, &c->found.footer, c->found.file_size, &c->header, &c->shape, &err);

	if (!no_damage(c, r, &err, at, "dynamic header"))
		return;
	check_header_fields(c);
	c->failed = c->failed < 0 ? c->failed : vhd1_extents_find(c->store, &c->found.footer, &c->header, &c->shape,
								  c->found.file_size, &c->extents, &batmap, &encrypted);
	if (c->failed < 0)
		return;
	c->has_map = true;
	c->sound = no_damage(c, vhd1_extents_disjoint(&c->extents, &err), &err, NO_OFFSET, "layout");
	if (batmap)
		check_batmap(c);
	if (encrypted)
		vhd1_note(c, VHD_SEV_ERROR, false, NO_OFFSET, "batmap", "the data is encrypted by XenServer");
	if (c->failed == 0)
		vhd1_survey_blocks(c);
}

int vhd1_survey(struct store *store, struct vhd_report *report, struct vhd1_survey *c)
{
	struct sp_err err = { 0 };

	memset(c, 0, sizeof(*c));
	c->store = store;
	c->report = report;
	c->has_footer = no_damage(c, vhd1_footer_locate(store, &c->found, &err), &err, NO_OFFSET, "footer");
	if (!c->has_footer)
		return c->failed;
	check_footer_copy(c);
	check_footer_fields(c);
	if (vhd1_is_sparse(&c->found.footer))
		check_sparse(c);
	else
		check_fixed(c);
	check_end_footer(c);
	return c->failed;
}

int vhd1_check(struct store *store, struct vhd_report *report)
{
	struct vhd1_survey *c = sp_alloc(sizeof(*c));
	int r = c ? vhd1_survey(store, report, c) : -ENOMEM;

	sp_free(c);
	return r;
}
