/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Open, close, and the format table. Order of a look: end footer, its copy, header, structures, locators; a writer
 * reads the BAT as well and puts the footers in order before anything else.
 */
#include "vhd/vhd1_int.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"

static void warn_about_footers(struct vhd_image *img, const struct vhd1_footers *f)
{
	uint64_t at = f->file_size - VHD1_SECTOR;

	if (f->end == VHD1_END_BAD)
		vhd_image_warn(img, "footer at %" PRIu64 " is damaged or cut off; using the copy at 0", at);
	else if (f->end == VHD1_END_KILLED)
		vhd_image_warn(img,
			       "footer at %" PRIu64 " is overwritten with 0xC7: XenServer did not close the image; "
			       "using the copy at 0",
			       at);
	else if (f->end == VHD1_END_SHORT)
		vhd_image_warn(img, "footer at %" PRIu64 " has only 511 bytes, as before Virtual PC 2004",
			       f->end_offset);
	if (f->end == VHD1_END_GOOD && vhd1_is_sparse(&f->footer) && !f->copy_same)
		vhd_image_warn(img, "footer copy at 0 %s; using the footer at %" PRIu64,
			       f->copy_good ? "differs" : "is damaged", at);
	if (!vhd1_is_sparse(&f->footer) && be64_get(f->footer.data_offset) != VHD1_NOWHERE)
		vhd_image_warn(img, "footer at %" PRIu64 ": data offset of a fixed image is %#" PRIx64
			       ", expected all ones", at, be64_get(f->footer.data_offset));
	if (f->footer.saved_state == 1)
		vhd_image_warn(img,
			       "a saved state of a virtual machine depends on this disk: it will not be restructured");
}

static int open_fixed(struct vhd1 *v, const struct vhd1_footers *f, struct sp_err *err)
{
	struct vhd_image *img = v->img;

	if (img->size > f->end_offset)
		return sp_err_set(err, -EBADMSG,
				  "the file is cut: %" PRIu64 " bytes in front of the footer, but the disk "
				  "has %" PRIu64,
				  f->end_offset, img->size);
	img->kind = VHD_KIND_FIXED;
	v->footer_offset = f->end_offset;
	return 0;
}

static int open_sparse(struct vhd1 *v, const struct vhd1_footers *f, struct sp_err *err)
{
	struct vhd_image *img = v->img;
	bool encrypted;
	int r;

	r = vhd1_header_read(img->store, &f->footer, f->file_size, &v->header, &v->shape, err);
	if (r < 0)
		return r;
	r = vhd1_extents_find(img->store, &f->footer, &v->header, &v->shape, f->file_size, &v->extents, &v->batmap,
			      &encrypted);
	if (r < 0)
		return sp_err_set(err, r, "cannot read behind the BAT: %s", strerror(-r));
	if (encrypted)
		return sp_err_set(err, -ENOTSUP, "the batmap says that XenServer encrypted this image");

	v->sparse = true;
	v->differencing = be32_get(f->footer.type) == VHD1_TYPE_DIFFERENCING;
	v->block_limit = f->end_offset;
	img->kind = v->differencing ? VHD_KIND_DIFFERENCING : VHD_KIND_DYNAMIC;
	img->block_size = v->shape.block_size;
	vhd1_cache_init(&v->bat_pages, 4096);
	vhd1_cache_init(&v->bitmaps, v->shape.bitmap_sectors * VHD1_SECTOR);
	if (!v->differencing)
		return 0;

	img->has_parent = true;
	r = vhd1_parent_load(img, &v->header, f->file_size, err);
	if (r < 0)
		return sp_err_prefix(err, r, "dynamic header at %" PRIu64, be64_get(f->footer.data_offset));
	return 0;
}

static void release_memory(struct vhd1 *v)
{
	vhd1_space_close(v);
	vhd1_cache_fini(&v->bat_pages);
	vhd1_cache_fini(&v->bitmaps);
	sp_free(v->bat);
	sp_free(v->bat_dirty);
	sp_free(v->full);
}

static int open_for(struct vhd1 *v, const struct vhd1_footers *f, struct sp_err *err)
{
	int r = vhd1_is_sparse(&f->footer) ? open_sparse(v, f, err) : open_fixed(v, f, err);

	if (r < 0)
		return r;
	if (v->img->flags & VHD_IMG_WRITABLE)
		return vhd1_space_open(v, f, err);
	/* Readers of disks with absurdly many blocks do without the map of full ones. */
	if (v->sparse && v->shape.blocks <= VHD1_FULL_MAP_BLOCKS) {
		v->full = sp_calloc(v->shape.blocks / 8 + 1, 1);
		if (!v->full)
			return sp_err_set(err, -ENOMEM, "out of memory");
	}
	return 0;
}

static int vhd1_open(struct vhd_image *img, struct sp_err *err)
{
	struct vhd1 *v = vhd1_of(img);
	struct vhd1_footers f;
	int r;

	v->img = img;
	v->generation = 1;
	r = vhd1_footer_locate(img->store, &f, err);
	if (r < 0)
		return r;
	v->footer = f.footer;
	v->found_end = f.end;
	img->size = be64_get(f.footer.current_size);
	img->logical_sector = img->physical_sector = VHD1_SECTOR;
	img->identity = f.footer.unique_id;
	img->has_identity = true;
	warn_about_footers(img, &f);
	r = open_for(v, &f, err);
	if (r < 0)
		release_memory(v);
	return r;
}

static int vhd1_close(struct vhd_image *img, bool abandon)
{
	struct vhd1 *v = vhd1_of(img);
	int r = v->failed;

	if (v->begun && !abandon && r == 0) {
		r = vhd1_flush_all(v);
		if (r == 0 && v->sparse) {
			vhd1_release(img, v->durable);		/* nobody is reading any more */
			r = vhd1_space_trim(v);
		}
	}
	release_memory(v);
	return abandon ? 0 : r;
}

const struct vhd_format vhd_format_vhd1 = {
	.name = "vhd",
	.id = VHD_FORMAT_VHD,
	.state_size = sizeof(struct vhd1),
	.caps = VHD_CAP_PARENT | VHD_CAP_UNMAP,
	.probe = vhd1_probe,
	.open = vhd1_open,
	.close = vhd1_close,
	.create = vhd1_create,
	.map = vhd1_map,
	.begin_write = vhd1_begin_write,
	.prepare_write = vhd1_prepare_write,
	.commit_write = vhd1_commit_write,
	.abort_write = vhd1_abort_write,
	.discard = vhd1_discard,
	.dirty = vhd1_dirty,
	.flush_begin = vhd1_flush_begin,
	.flush_write = vhd1_flush_write,
	.flush_end = vhd1_flush_end,
	.freed_tag = vhd1_freed_tag,
	.release = vhd1_release,
	.grow = vhd1_grow,
	.set_identity = vhd1_set_identity,
	.set_parent = vhd1_set_parent,
	.describe = vhd1_describe,
	.check = vhd1_check,
	.repair = vhd1_repair,
};
