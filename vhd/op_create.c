/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A new image appears under its name complete and durable, or not at all: it is written under a temporary name beside
 * its final one, synced, renamed, and the directory synced.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/seed.h"
#include "vhd/ops_int.h"
#include "vhd/vhdx_int.h"

int vhd_create_in(struct store_folder *folder, const char *name, enum vhd_format_id format,
		  const struct vhd_format_create *c, struct sp_err *err)
{
	const struct vhd_format *f = vhd_format_by_id(format);
	struct store *store;
	int r;

	if (!f)
		return sp_err_set(err, -EINVAL, "a new image needs a format");
	r = store_folder_open(folder, name, STORE_RDWR | STORE_CREATE, &store, err);
	if (r < 0)
		return r;
	r = f->create(store, c, err);
	if (r == 0 && !SP_SEED_BUG(CREATE_NO_SYNC)) {
		r = store_sync(store);
		if (r < 0)
			sp_err_set(err, r, "cannot make the new image durable: %s", strerror(-r));
	}
	store_close(store);
	if (r == 0 && !SP_SEED_BUG(CREATE_NO_FOLDER_SYNC)) {
		r = store_folder_sync(folder, name);
		if (r < 0)
			sp_err_set(err, r, "cannot make the directory entry durable: %s", strerror(-r));
	}
	if (r < 0)
		store_folder_unlink(folder, name);
	return r;
}

/* An existing target must be a file nobody uses, and the caller must have said "replace". */
static int target_check(struct store_folder *f, const char *name, bool replace, struct sp_err *err)
{
	struct sp_err e = { 0 };
	struct store *s;
	int r;

	r = store_folder_open(f, name, replace ? STORE_RDWR | STORE_REGULAR : STORE_NO_LOCK, &s, &e);
	if (r == -ENOENT)
		return 0;
	if (r == 0)
		store_close(s);
	if (!replace)
		return sp_err_set(err, -EEXIST, "exists already");
	if (r < 0)		/* the lock is the point: replacing an image in use would detach its user */
		return sp_err_set(err, r, "cannot replace the existing file: %s", sp_err_text(&e));
	return 0;
}

/* ---- with a parent ------------------------------------------------------------------------------- */

static int check_parent(const struct vhd_image *img, const struct vhd_create_opts *o, struct sp_err *err)
{
	if (img->format->id != o->format)
		return sp_err_set(err, -EINVAL, "the parent is %s and the child would be %s: "
				  "both must have the same format", img->format->name, vhd_format_name(o->format));
	if (!img->has_identity)
		return sp_err_set(err, -EINVAL, "%s images have no identity that a child could refer to",
				  img->format->name);
	if (o->logical_sector && o->logical_sector != img->logical_sector)
		return sp_err_set(err, -EINVAL, "the parent has logical sectors of %" PRIu32 " bytes, "
				  "so must the child", img->logical_sector);
	return 0;
}

static int parent_facts(struct vhd_image *img, const struct vhd_create_opts *o, struct vhd_format_create *c,
			struct sp_err *err)
{
	int r;

	r = check_parent(img, o, err);
	if (r < 0)
		return r;
	r = store_mtime(img->store, &c->parent_mtime);
	if (r < 0)
		return sp_err_set(err, r, "cannot learn when the parent was written last: %s", strerror(-r));
	c->kind = VHD_KIND_DIFFERENCING;
	c->parent_identity = img->identity;
	c->size = o->size ? o->size : img->size;
	c->logical_sector = img->logical_sector;
	c->physical_sector = o->physical_sector ? o->physical_sector : img->physical_sector;
	if (img->format->id == VHD_FORMAT_VHDX)		/* a child is the same disk */
		c->disk_id = &vhdx_of(img)->metadata.disk_id;
	return 0;
}

static int create_on_parent(struct op_place *child, const char *temp, struct op_place *parent,
			    const struct vhd_create_opts *o, struct vhd_format_create *c, struct sp_err *err)
{
	SP_AUTO_FREE char *relative = op_name_relative(child->name, parent->name);
	SP_AUTO_FREE char *absolute = op_name_absolute(parent->folder, parent->name);
	struct vhd_disk *d;
	int r;

	if (!relative || !absolute)
		return sp_err_set(err, -ENOMEM, "out of memory");
	r = vhd_disk_open_in(parent->folder, parent->name, NULL, &d, err);
	if (r < 0)
		return sp_err_prefix(err, r, "parent %s", o->parent);
	c->parent_relative = relative;
	c->parent_absolute = absolute;
	/* The parent stays open, and with that locked, until the child is there. */
	r = parent_facts(vhd_disk_image(d, 0), o, c, err);
	if (r == 0)
		r = vhd_create_in(child->folder, temp, o->format, c, err);
	vhd_disk_close(d, NULL);
	return r;
}

/* Both below one root: a child whose parent lies outside could be made but never opened. */
static int create_child(struct op_place *child, const char *temp, const struct vhd_create_opts *o,
			struct vhd_format_create *c, struct sp_err *err)
{
	struct op_place parent;
	int r;

	r = op_place_open(o->parent, child->folder->path, false, &parent, err);
	if (r < 0)
		return sp_err_prefix(err, r, "parent");
	r = create_on_parent(child, temp, &parent, o, c, err);
	op_place_close(&parent);
	return r;
}

/* ---- the operation ------------------------------------------------------------------------------- */

static int check_opts(const struct vhd_create_opts *o, struct sp_err *err)
{
	if (!o->parent && o->kind == VHD_KIND_DIFFERENCING)
		return sp_err_set(err, -EINVAL, "a differencing image needs a parent");
	if (!o->parent && o->size == 0)
		return sp_err_set(err, -EINVAL, "a new image needs a size above 0");
	return 0;
}

static int create_at(struct op_place *place, const struct vhd_create_opts *o, struct sp_err *err)
{
	SP_AUTO_FREE char *temp = op_name_temp(place->name);
	struct vhd_format_create c = {
		.size = o->size, .kind = o->kind, .block_size = o->block_size, .logical_sector = o->logical_sector,
		.physical_sector = o->physical_sector, .preallocate = o->preallocate, .log_size = o->log_size,
	};
	int r;

	if (!temp)
		return sp_err_set(err, -ENOMEM, "out of memory");
	r = target_check(place->folder, place->name, o->replace, err);
	if (r == 0 && o->parent)
		r = create_child(place, temp, o, &c, err);
	else if (r == 0)
		r = vhd_create_in(place->folder, temp, o->format, &c, err);
	if (r < 0)
		return r;
	r = op_rename_durable(place->folder, temp, place->name, o->replace, err);
	if (r < 0)
		store_folder_unlink(place->folder, temp);
	return r;
}

int vhd_create(const char *path, const struct vhd_create_opts *opts, struct sp_err *err)
{
	struct op_place place;
	int r;

	r = check_opts(opts, err);
	if (r == 0)
		r = op_place_open(path, opts->parent ? opts->image_root : NULL, true, &place, err);
	if (r < 0)
		return r;
	r = create_at(&place, opts, err);
	op_place_close(&place);
	return r;
}
