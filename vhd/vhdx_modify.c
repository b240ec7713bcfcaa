/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VHDX: changes of what the image says about itself: identity and parent.
 *
 * The locator changes as one log entry: the item and the table entry that names it are either both old or both new. All
 * pages are brought into memory before the first byte changes, so that running out of memory leaves nothing half done.
 */
#include "vhd/vhdx_write_int.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "vhd/vhdx_layout.h"

/* Two paths of 32 Ki units, and the rest: stays well below one log entry (126 pages). */
#define LOCATOR_MAX (160u << 10)

int vhdx_bytes_hold(struct vhdx *x, uint64_t offset, uint64_t len)
{
	uint8_t *page;
	int r = 0;

	for (uint64_t at = sp_align_down(offset, VHDX_PAGE); r == 0 && at < offset + len; at += VHDX_PAGE)
		r = vhdx_page_edit(x, at, VHDX_PAGE_OTHER, &page);
	return r;
}

int vhdx_bytes_put(struct vhdx *x, uint64_t offset, const void *bytes, uint64_t len)
{
	const uint8_t *from = bytes;

	while (len > 0) {
		uint64_t at = offset % VHDX_PAGE, n = sp_min(len, VHDX_PAGE - at);
		uint8_t *page;
		int r = vhdx_page_edit(x, offset - at, VHDX_PAGE_OTHER, &page);

		if (r < 0)
			return r;
		memcpy(page + at, from, n);
		from += n;
		offset += n;
		len -= n;
	}
	return 0;
}

/* ---- identity ------------------------------------------------------------------------------------ */

/* vhd_format.set_identity: durable on return, and kept for the rest of this open. vhd-formats.md 3.4. */
int vhdx_set_identity(struct vhd_image *img, const struct sp_guid *identity, struct sp_err *err)
{
	struct vhdx *x = vhdx_of(img);
	int r;

	if (!x->space)
		return sp_err_set(err, -EROFS, "%s is open read-only", img->name);
	if (sp_guid_is_zero(identity))
		return sp_err_set(err, -EINVAL, "an identity of zeros means none");
	if (x->log && x->log->batches > 0)
		return sp_err_set(err, -EBUSY, "%s: a flush is under way", img->name);
	r = vhdx_log_start(x, identity);
	if (r < 0)
		return sp_err_set(err, r, "cannot write the headers of %s: %s", img->name, strerror(-r));
	x->begun = true;		/* DataWriteGuid is new: writing need not change it again */
	return 0;
}

/* ---- parent -------------------------------------------------------------------------------------- */

static const char *stored_path(const struct vhd_image *img, enum vhd_path_kind kind)
{
	for (unsigned i = 0; i < img->parent.paths; i++) {
		if (img->parent.path[i].kind == kind)
			return img->parent.path[i].text;
	}
	return NULL;
}

static bool spot_is_free(const struct vhdx *x, uint64_t at, uint64_t len)
{
	const struct vhdx_metadata *md = &x->metadata;

	for (unsigned i = 0; i < md->count; i++) {
		if ((int)i != md->locator_item && sp_ranges_overlap(at, len, md->item[i].offset, md->item[i].length))
			return false;
	}
	return true;
}

/* Room for @len bytes in the metadata region: where the item is, or behind the table, or behind some other item. */
static bool find_spot(const struct vhdx *x, uint64_t len, uint64_t *ret_at)
{
	const struct vhdx_region *region = &x->regions.entry[x->regions.metadata];
	const struct vhdx_metadata *md = &x->metadata;
	uint64_t first = region->offset + VHDX_METADATA_TABLE_SIZE, end = region->offset + region->length;
	uint64_t at = md->item[md->locator_item].offset;

	for (unsigned i = 0; i <= md->count; i++) {
		if (at >= first && sp_range_ok(at, len, end) && spot_is_free(x, at, len)) {
			*ret_at = at;
			return true;
		}
		at = i == 0 ? first : md->item[i - 1].offset + md->item[i - 1].length;
	}
	return false;
}

/* File offset of the metadata table's entry for the locator. */
static int find_table_entry(struct vhdx *x, uint64_t *ret_at)
{
	const struct vhdx_region *region = &x->regions.entry[x->regions.metadata];
	struct vhdx_metadata_entry_disk e;

	for (unsigned i = 0; i < x->metadata.count; i++) {
		uint64_t at = region->offset + sizeof(struct vhdx_metadata_table_disk) + i * sizeof(e);
		const uint8_t *page;
		int r = vhdx_page_get(x, sp_align_down(at, VHDX_PAGE), VHDX_PAGE_OTHER, &page);

		if (r < 0)
			return r;
		memcpy(&e, page + at % VHDX_PAGE, sizeof(e));		/* entries are 32 bytes: never across pages */
		if (sp_guid_equal(&e.item_id, &VHDX_GUID_PARENT_LOCATOR) && !(le32_get(e.flags) & VHDX_ITEM_IS_USER)) {
			*ret_at = at;
			return 0;
		}
	}
	return -EBADMSG;
}

static int put_locator(struct vhdx *x, const uint8_t *bytes, uint64_t len, uint64_t at)
{
	const struct vhdx_region *region = &x->regions.entry[x->regions.metadata];
	struct { le32_t offset, length; } place = {
		le32_make((uint32_t)(at - region->offset)), le32_make((uint32_t)len),
	};
	uint64_t entry = 0;
	int r = find_table_entry(x, &entry);

	if (r == 0)
		r = vhdx_bytes_hold(x, entry, sizeof(struct vhdx_metadata_entry_disk));
	if (r == 0)
		r = vhdx_bytes_hold(x, at, len);
	if (r < 0)
		return r;
	(void)vhdx_bytes_put(x, at, bytes, len);
	(void)vhdx_bytes_put(x, entry + offsetof(struct vhdx_metadata_entry_disk, offset), &place, sizeof(place));
	return 0;
}

/* The image in memory follows the file: what it says of its parent is read back from the new item. */
static int reread_parent(struct vhd_image *img, const uint8_t *bytes, size_t len, struct sp_err *err)
{
	struct vhd_parent_ref old = img->parent;
	int r;

	memset(&img->parent, 0, sizeof(img->parent));
	r = vhdx_locator_decode(bytes, len, img, err);
	for (unsigned i = 0; i < old.paths; i++)
		sp_free(old.path[i].text);
	return r;
}

static int write_locator(struct vhdx *x, const uint8_t *bytes, size_t len, struct sp_err *err)
{
	struct vhdx_item *item = &x->metadata.item[x->metadata.locator_item];
	uint64_t at;
	int r;

	if (!find_spot(x, len, &at))
		return sp_err_set(err, -ENOSPC, "%s: no room for a parent locator of %zu bytes in the metadata region",
				  x->img->name, len);
	r = vhdx_log_start(x, NULL);
	if (r == 0)
		r = vhdx_flush_all(x);		/* so that what follows is one entry */
	if (r == 0)
		r = put_locator(x, bytes, len, at);
	if (r == 0)
		r = vhdx_flush_must(x);
	if (r < 0)
		return sp_err_set(err, r, "%s: cannot write the parent locator: %s", x->img->name, strerror(-r));
	item->offset = at;
	item->length = (uint32_t)len;
	return reread_parent(x->img, bytes, len, err);
}

/* vhd_format.set_parent: vhd-formats.md 2.8, 3.4. Durable on return; no guest sees it: DataWriteGuid stays. */
int vhdx_set_parent(struct vhd_image *img, const struct vhd_set_parent *p, struct sp_err *err)
{
	struct vhdx *x = vhdx_of(img);
	struct vhd_set_parent full = *p;
	SP_AUTO_FREE uint8_t *bytes = NULL;
	size_t len;
	int r;

	if (!x->space)
		return sp_err_set(err, -EROFS, "%s is open read-only", img->name);
	if (x->metadata.locator_item < 0 || !img->has_parent)
		return sp_err_set(err, -EINVAL, "%s has no parent to change", img->name);
	if (!full.relative)
		full.relative = stored_path(img, VHD_PATH_RELATIVE);
	if (!full.absolute)
		full.absolute = stored_path(img, VHD_PATH_ABSOLUTE);
	bytes = sp_zalloc(LOCATOR_MAX);
	if (!bytes)
		return sp_err_set(err, -ENOMEM, "out of memory");
	r = vhdx_locator_encode(&full, bytes, LOCATOR_MAX, &len);
	if (r < 0)
		return sp_err_set(err, r, "%s: the new parent cannot be described: %s", img->name, strerror(-r));
	return write_locator(x, bytes, len, err);
}
