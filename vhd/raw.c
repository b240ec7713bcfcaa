/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * raw - a file or block device that is the disk itself. Its size is rounded up to a sector: the odd tail of a file
 * reads zeros, as every other tool shows it.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "vhd/image.h"

struct raw {
	uint64_t file_size;
	/* The stretch of data found last: looking for its end costs the host a walk over the whole stretch. */
	uint64_t data_from, data_to;
};

static int raw_probe(const struct vhd_probe *p)
{
	return 0;	/* never guessed: a guest could plant another format's signature, or remove it */
}

static int raw_open(struct vhd_image *img, struct sp_err *err)
{
	struct raw *raw = img->state;
	int r = store_size(img->store, &raw->file_size);

	if (r < 0)
		return sp_err_set(err, r, "cannot learn the file size: %s", strerror(-r));
	if (!sp_align_up_ok(raw->file_size, 512))
		return sp_err_set(err, -EBADMSG, "file size %#" PRIx64 " is out of range", raw->file_size);
	img->size = sp_align_up(raw->file_size, 512);
	img->logical_sector = 512;
	img->physical_sector = 4096;
	img->kind = VHD_KIND_FIXED;
	return 0;
}

static int raw_close(struct vhd_image *img, bool abandon)
{
	return abandon || !(img->flags & VHD_IMG_WRITABLE) ? 0 : store_sync(img->store);
}

static int raw_create(struct store *store, const struct vhd_format_create *c, struct sp_err *err)
{
	int r = store_resize(store, c->size);

	if (r == 0 && c->preallocate)
		r = store_zero(store, 0, c->size);
	if (r == 0)
		r = store_sync(store);
	return r < 0 ? sp_err_set(err, r, "cannot size the file to %" PRIu64 " bytes: %s", c->size, strerror(-r)) : 0;
}

/* The stretch of data or the hole at @offset of a file that nobody writes. */
static int find_stretch(struct vhd_image *img, uint64_t offset, bool *ret_data, uint64_t *ret_end)
{
	struct raw *raw = img->state;
	uint64_t data, hole;
	int r;

	*ret_data = offset >= raw->data_from && offset < raw->data_to;
	*ret_end = raw->data_to;
	if (*ret_data)
		return 0;
	r = store_seek_data(img->store, offset, &data);
	if (r < 0)
		return r;
	*ret_end = data;
	if (data > offset)
		return 0;
	r = store_seek_hole(img->store, offset, &hole);
	if (r < 0)
		return r;
	if (hole <= offset)		/* the file changes under us: one byte is sure to be there */
		hole = offset + 1;
	raw->data_from = offset;
	raw->data_to = hole;
	*ret_data = true;
	*ret_end = hole;
	return 0;
}

/* Holes of the host file are known zeros, but only while nobody writes: there they are room like the rest. */
static int raw_map(struct vhd_image *img, uint64_t offset, uint64_t len, struct vhd_place *ret)
{
	struct raw *raw = img->state;
	uint64_t end = raw->file_size;
	bool data = true;
	int r;

	*ret = (struct vhd_place){ .file_offset = offset, .direct_write = img->flags & VHD_IMG_WRITABLE };
	if (offset >= raw->file_size) {
		ret->where = VHD_WHERE_ZERO;
		ret->len = len;
		return 0;
	}
	if (!ret->direct_write) {
		r = find_stretch(img, offset, &data, &end);
		if (r < 0)
			return r;
	}
	ret->where = data ? VHD_WHERE_DATA : VHD_WHERE_ZERO;
	ret->len = sp_min(len, sp_min(end, raw->file_size) - offset);
	return 0;
}

static int raw_begin_write(struct vhd_image *img)
{
	return 0;
}

static int raw_prepare_write(struct vhd_image *img, uint64_t offset, uint64_t len, struct vhd_ticket *ret)
{
	struct raw *raw = img->state;

	/* Only the odd tail comes here: the file grows to whole sectors first. */
	if (offset + len > raw->file_size) {
		int r = store_resize(img->store, img->size);

		if (r < 0)
			return r;
		raw->file_size = img->size;
	}
	*ret = (struct vhd_ticket){ .offset = offset, .len = len, .file_offset = offset };
	return 0;
}

static int raw_commit_write(struct vhd_image *img, const struct vhd_ticket *t)
{
	return 0;
}

static void raw_abort_write(struct vhd_image *img, const struct vhd_ticket *t)
{
}

static int raw_discard(struct vhd_image *img, uint64_t offset, uint64_t len, uint64_t *ret_len, bool *ret_done)
{
	*ret_len = len;
	*ret_done = false;	/* no metadata: the caller punches */
	return 0;
}

static bool raw_dirty(struct vhd_image *img)
{
	return false;
}

static int raw_flush_begin(struct vhd_image *img, struct vhd_flush **ret_batch)
{
	*ret_batch = NULL;
	return 0;
}

static int raw_flush_write(struct vhd_image *img, struct vhd_flush *batch)
{
	return store_sync(img->store);
}

static void raw_flush_end(struct vhd_image *img, struct vhd_flush *batch, int result)
{
}

static uint64_t raw_freed_tag(struct vhd_image *img)
{
	return 0;
}

static void raw_release(struct vhd_image *img, uint64_t tag)
{
}

static int raw_grow(struct vhd_image *img, uint64_t size, struct sp_err *err)
{
	struct raw *raw = img->state;
	int r = img->store->is_device ? -ENOTSUP : store_resize(img->store, size);

	if (r < 0)
		return sp_err_set(err, r, "cannot grow to %" PRIu64 " bytes: %s", size, strerror(-r));
	raw->file_size = size;
	img->size = sp_align_up(size, 512);
	return store_sync(img->store);
}

static int raw_set_identity(struct vhd_image *img, const struct sp_guid *identity, struct sp_err *err)
{
	return sp_err_set(err, -ENOTSUP, "a raw image has no identity");
}

static int raw_set_parent(struct vhd_image *img, const struct vhd_set_parent *p, struct sp_err *err)
{
	return sp_err_set(err, -ENOTSUP, "a raw image cannot have a parent; convert it to VHDX first");
}

static void raw_describe(struct vhd_image *img, void *json_object)
{
}

static int raw_check(struct store *store, struct vhd_report *report)
{
	return -ENOTSUP;
}

static int raw_repair(struct store *store, bool dry_run, struct vhd_report *report)
{
	return -ENOTSUP;
}

const struct vhd_format vhd_format_raw = {
	.name = "raw",
	.id = VHD_FORMAT_RAW,
	.state_size = sizeof(struct raw),
	.caps = VHD_CAP_UNMAP,
	.probe = raw_probe,
	.open = raw_open,
	.close = raw_close,
	.create = raw_create,
	.map = raw_map,
	.begin_write = raw_begin_write,
	.prepare_write = raw_prepare_write,
	.commit_write = raw_commit_write,
	.abort_write = raw_abort_write,
	.discard = raw_discard,
	.dirty = raw_dirty,
	.flush_begin = raw_flush_begin,
	.flush_write = raw_flush_write,
	.flush_end = raw_flush_end,
	.freed_tag = raw_freed_tag,
	.release = raw_release,
	.grow = raw_grow,
	.set_identity = raw_set_identity,
	.set_parent = raw_set_parent,
	.describe = raw_describe,
	.check = raw_check,
	.repair = raw_repair,
};
