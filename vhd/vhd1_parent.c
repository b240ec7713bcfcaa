/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Another parent: identity, time stamp, name and locators of a differencing image.
 *
 * The format has one header and no copy of it, so a header of two sectors cannot be overwritten safely. But the footers
 * say where it is, and a footer is one sector, of which there are two:
 *
 *	new texts and an interim header in fresh room -> footers name the interim header
 *	-> texts and header at home -> footers name the home again -> the room is cut off
 *
 * Each arrow is a barrier. When only the first sector of the header changes, one write is enough.
 */
#include "vhd/vhd1_int.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"

/* The list of structures follows the header. */
static int take_header(struct vhd1 *v, const struct vhd1_header_disk *h)
{
	uint64_t file_size;
	bool batmap, encrypted;
	int r = store_size(v->img->store, &file_size);

	v->header = *h;
	return r < 0 ? r : vhd1_extents_find(v->img->store, &v->footer, h, &v->shape, file_size, &v->extents, &batmap,
					     &encrypted);
}

static int write_synced(struct vhd1 *v, const void *bytes, size_t len, uint64_t offset)
{
	int r = store_write(v->img->store, bytes, len, offset);

	return r < 0 ? r : store_sync(v->img->store);
}

static int point_footers(struct vhd1 *v, uint64_t header_offset)
{
	v->footer.data_offset = be64_make(header_offset);
	vhd1_footer_seal(&v->footer);
	return vhd1_footers_write(v);
}

int vhd1_header_update(struct vhd1 *v, const struct vhd1_header_disk *h)
{
	int r = write_synced(v, h, VHD1_SECTOR, be64_get(v->footer.data_offset));

	return r < 0 ? r : take_header(v, h);
}

int vhd1_header_leave(struct vhd1 *v, const struct vhd1_header_disk *h, uint64_t room)
{
	struct vhd1_header_disk sealed = *h;
	int r;

	vhd1_header_seal(&sealed);
	r = write_synced(v, &sealed, sizeof(sealed), room);
	return r < 0 ? r : point_footers(v, room);
}

int vhd1_header_return(struct vhd1 *v, const struct vhd1_header_disk *h, uint64_t home)
{
	struct vhd1_header_disk sealed = *h;
	int r;

	vhd1_header_seal(&sealed);
	r = write_synced(v, &sealed, sizeof(sealed), home);
	if (r == 0)
		r = point_footers(v, home);
	if (r == 0)
		r = take_header(v, &sealed);
	if (r < 0)		/* the file is sound, but it is not what memory says */
		v->failed = r;
	return r;
}

/* ---- set_parent ---------------------------------------------------------------------------------- */

struct new_path {
	uint32_t code;
	unsigned slot;			/* locator entry */
	struct vhd1_text text;
	uint64_t space, offset;		/* fresh room */
};

/* The entry that has @code already, else an unused one. */
static int pick_slot(const struct vhd1_header_disk *h, uint32_t code, unsigned *ret_slot, struct sp_err *err)
{
	for (int pass = 0; pass < 2; pass++) {
		for (unsigned i = 0; i < VHD1_LOCATORS; i++) {
			if (be32_get(h->locator[i].code) == (pass == 0 ? code : VHD1_CODE_NONE)) {
				*ret_slot = i;
				return 0;
			}
		}
	}
	return sp_err_set(err, -ENOTSUP, "all eight parent locators of the header are in use");
}

static int plan_path(struct vhd1 *v, struct vhd1_header_disk *h, struct new_path *n, const char *path, uint32_t code,
		     struct sp_err *err)
{
	int r;

	if (!path)
		return 0;
	r = vhd1_text_encode(path, code == VHD1_CODE_W2RU, &n->text, err);
	if (r == 0)
		r = pick_slot(h, code, &n->slot, err);
	if (r < 0)
		return r;
	n->code = code;
	n->space = sp_max(VHD1_TEXT_ROOM, sp_align_up(n->text.len, VHD1_SECTOR));
	r = vhd1_room_take(v, n->space, &n->offset);
	if (r == 0)
		r = store_write(v->img->store, n->text.bytes, n->text.len, n->offset);
	if (r < 0)
		return sp_err_set(err, r, "cannot write a parent locator: %s", strerror(-r));
	vhd1_locator_encode(&h->locator[n->slot], code, (uint32_t)n->space, (uint32_t)n->text.len, n->offset);
	return 0;
}

/* Once the interim header is in force, the old text's place is free for the new one if it fits and is not shared. */
static bool fits_at_home(const struct vhd1 *v, const struct new_path *n, struct vhd1_locator *ret)
{
	unsigned hits = 0;
	const char *why;

	if (vhd1_locator_decode(&v->header.locator[n->slot], UINT64_MAX, ret, &why) < 0 || ret->code != n->code ||
	    ret->space < sp_max(VHD1_TEXT_ROOM, n->text.len))
		return false;
	for (unsigned i = 0; i < v->extents.count; i++)
		hits += sp_ranges_overlap(v->extents.item[i].offset, v->extents.item[i].len, ret->offset, ret->space);
	return hits == 1;
}

static int switch_header(struct vhd1 *v, const struct vhd1_header_disk *interim, struct new_path path[2],
			 uint64_t room)
{
	struct vhd1_header_disk final = *interim;
	uint64_t home = be64_get(v->footer.data_offset);
	int r = vhd1_header_leave(v, interim, room);

	for (int i = 0; i < 2 && r == 0; i++) {
		struct vhd1_locator old;

		if (!path[i].text.bytes || !fits_at_home(v, &path[i], &old))
			continue;
		r = store_write(v->img->store, path[i].text.bytes, path[i].text.len, old.offset);
		vhd1_locator_encode(&final.locator[path[i].slot], path[i].code, (uint32_t)old.space,
				    (uint32_t)path[i].text.len, old.offset);
	}
	if (r < 0) {		/* the interim header stays in force; memory knows nothing of it */
		v->failed = r;
		return r;
	}
	/* One barrier for texts and header. */
	return vhd1_header_return(v, &final, home);
}

static int reload_parent(struct vhd_image *img, struct sp_err *err)
{
	struct vhd1 *v = vhd1_of(img);
	uint64_t file_size;
	int r = store_size(img->store, &file_size);

	for (unsigned i = 0; i < img->parent.paths; i++)
		sp_free(sp_take(img->parent.path[i].text));
	img->parent.paths = 0;
	return r < 0 ? r : vhd1_parent_load(img, &v->header, file_size, err);
}

static int write_parent(struct vhd1 *v, const struct vhd_set_parent *p, struct vhd1_header_disk *h,
			struct new_path path[2], struct sp_err *err)
{
	const char *name = p->relative ? p->relative : p->absolute;
	uint64_t room;
	int r = 0;

	h->parent_id = p->identity[0];
	h->parent_timestamp = be32_make(vhd1_time_from_unix(p->mtime));
	if (!name) {
		vhd1_header_seal(h);
		return vhd1_header_update(v, h);
	}
	r = vhd1_name_encode(name, h->parent_name, err);
	if (r == 0)
		r = plan_path(v, h, &path[0], p->relative, VHD1_CODE_W2RU, err);
	if (r == 0)
		r = plan_path(v, h, &path[1], p->absolute, VHD1_CODE_W2KU, err);
	if (r == 0)
		r = vhd1_room_take(v, sizeof(*h), &room);
	if (r == 0)
		r = switch_header(v, h, path, room);
	if (r == 0)
		r = vhd1_space_trim(v);
	return r;
}

int vhd1_set_parent(struct vhd_image *img, const struct vhd_set_parent *p, struct sp_err *err)
{
	struct vhd1 *v = vhd1_of(img);
	struct new_path path[2] = { { 0 }, { 0 } };
	struct vhd1_header_disk h = v->header;
	int r;

	if (!v->differencing)
		return sp_err_set(err, -ENOTSUP, "only a differencing image has a parent");
	if (p->identities != 1)
		return sp_err_set(err, -ENOTSUP, "a VHD stores one identity of its parent, not %u", p->identities);
	r = vhd1_begin_write(img);
	if (r == 0)
		r = vhd1_flush_all(v);
	if (r == 0)
		r = write_parent(v, p, &h, path, err);
	sp_free(path[0].text.bytes);
	sp_free(path[1].text.bytes);
	if (r == 0)
		r = reload_parent(img, err);
	return r < 0 ? sp_err_prefix(err, r, "setting the parent") : 0;
}
