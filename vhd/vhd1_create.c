/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A new image. The end footer is written last, after everything else is durable: a file without it is recognised as
 * unfinished, and a fixed image has nothing else that could tell. vhd-formats.md 7.1.
 *
 * Creator "win ", the exact size and a geometry by the algorithm: see vhd1_footer_make(). The BAT has exactly the
 * entries the size needs, since some readers refuse larger ones. Windows wants a differencing image to have both paths
 * of the parent, relative and absolute, with room for 512 characters each.
 */
#include "vhd/vhd1_int.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"

#define BAT_CHUNK 65536u

/* Everything a new sparse image consists of. */
struct plan {
	struct vhd1_footer_disk footer;
	struct vhd1_header_disk header;
	struct vhd1_shape shape;
	struct {
		struct vhd1_text text;
		uint64_t offset;
	} path[2];
	unsigned paths;
	uint64_t end;		/* where the end footer goes */
};

static int check_request(const struct vhd_format_create *c, struct sp_err *err)
{
	uint32_t block = c->block_size ? c->block_size : VHD1_BLOCK_DEFAULT;
	bool sparse = c->kind != VHD_KIND_FIXED;

	if (c->size == 0 || c->size % VHD1_SECTOR != 0)
		return sp_err_set(err, -EINVAL, "size %" PRIu64 " is not a positive multiple of 512", c->size);
	if (sparse && c->size > (uint64_t)VHD1_SPARSE_SECTORS_MAX * VHD1_SECTOR)
		return sp_err_set(err, -EINVAL, "size %" PRIu64 " is more than a dynamic VHD can have (2040 GiB); "
				  "VHDX goes to 64 TiB", c->size);
	if (c->size > INT64_MAX - SP_MIB(1))
		return sp_err_set(err, -EINVAL, "size %" PRIu64 " is more than a file can have", c->size);
	if ((c->logical_sector && c->logical_sector != VHD1_SECTOR))
		return sp_err_set(err, -EINVAL, "a VHD has sectors of 512 bytes, not %" PRIu32, c->logical_sector);
	if (sparse && (!sp_is_pow2(block) || block < VHD1_BLOCK_MIN || block > VHD1_BLOCK_MAX))
		return sp_err_set(err, -EINVAL, "block size %" PRIu32 " is not a power of two from 512 to 256 MiB",
				  block);
	if (c->kind == VHD_KIND_DIFFERENCING && !c->parent_relative && !c->parent_absolute)
		return sp_err_set(err, -EINVAL, "a differencing image needs the path of its parent");
	return 0;
}

static int footer_last(struct store *s, const struct vhd1_footer_disk *f, uint64_t offset)
{
	int r = store_sync(s);

	if (r == 0)
		r = store_write(s, f, sizeof(*f), offset);
	return r < 0 ? r : store_sync(s);
}

static int device_room(struct store *s, uint64_t need, uint64_t *ret_end, struct sp_err *err)
{
	uint64_t size = 0;
	int r = store_size(s, &size);

	if (r < 0)
		return sp_err_set(err, r, "cannot learn the size of the device: %s", strerror(-r));
	if (!sp_range_ok(need, VHD1_SECTOR, size))
		return sp_err_set(err, -ENOSPC, "the device has %" PRIu64 " bytes, the image needs %" PRIu64, size,
				  need + VHD1_SECTOR);
	*ret_end = size - VHD1_SECTOR;
	return 0;
}

/* ---- fixed --------------------------------------------------------------------------------------- */

static int create_fixed(struct store *s, const struct vhd_format_create *c, struct sp_err *err)
{
	struct vhd1_footer_disk f;
	uint64_t end = c->size;
	int r;

	vhd1_footer_make(&f, VHD1_TYPE_FIXED, c->size);
	if (s->is_device) {
		r = device_room(s, c->size, &end, err);
		if (r < 0)
			return r;
	} else {
		r = store_resize(s, c->size);
		if (r < 0)
			return sp_err_set(err, r, "cannot extend the file to %" PRIu64 " bytes: %s", c->size,
					  strerror(-r));
	}
	/* Hyper-V refuses sparse files; a device holds whatever was there before. */
	if (c->preallocate || s->is_device) {
		r = store_zero(s, 0, c->size);
		if (r < 0)
			return sp_err_set(err, r, "cannot allocate %" PRIu64 " bytes: %s", c->size, strerror(-r));
	}
	r = footer_last(s, &f, end);
	return r < 0 ? sp_err_set(err, r, "cannot write the footer: %s", strerror(-r)) : 0;
}

/* ---- dynamic and differencing -------------------------------------------------------------------- */

static int plan_path(struct plan *p, uint32_t code, const char *path, bool relative, uint64_t *at, struct sp_err *err)
{
	unsigned i = p->paths;
	uint64_t space;
	int r;

	if (!path)
		return 0;
	r = vhd1_text_encode(path, relative, &p->path[i].text, err);
	if (r < 0)
		return r;
	space = sp_max(VHD1_TEXT_ROOM, sp_align_up(p->path[i].text.len, VHD1_SECTOR));
	p->path[i].offset = *at;
	vhd1_locator_encode(&p->header.locator[i], code, (uint32_t)space, (uint32_t)p->path[i].text.len, *at);
	p->paths++;
	*at += space;
	return 0;
}

static int plan_parent(struct plan *p, const struct vhd_format_create *c, uint64_t *at, struct sp_err *err)
{
	int r;

	p->header.parent_id = c->parent_identity;
	p->header.parent_timestamp = be32_make(vhd1_time_from_unix(c->parent_mtime));
	r = vhd1_name_encode(c->parent_relative ? c->parent_relative : c->parent_absolute, p->header.parent_name, err);
	if (r == 0)
		r = plan_path(p, VHD1_CODE_W2RU, c->parent_relative, true, at, err);
	if (r == 0)
		r = plan_path(p, VHD1_CODE_W2KU, c->parent_absolute, false, at, err);
	return r;
}

static int plan_make(struct plan *p, const struct vhd_format_create *c, struct sp_err *err)
{
	struct vhd1_header_disk *h = &p->header;
	struct vhd1_shape *g = &p->shape;
	uint64_t at;
	int r = 0;

	vhd1_shape_block_size(g, c->block_size ? c->block_size : VHD1_BLOCK_DEFAULT);
	g->max_entries = g->blocks = (uint32_t)sp_div_ceil(c->size, g->block_size);
	g->bat_offset = sizeof(p->footer) + sizeof(*h);
	g->size = c->size;
	memcpy(h->cookie, VHD1_HEADER_COOKIE, sizeof(h->cookie));
	h->next = be64_make(VHD1_NOWHERE);
	h->bat_offset = be64_make(g->bat_offset);
	h->version = be32_make(VHD1_VERSION);
	h->max_entries = be32_make(g->max_entries);
	h->block_size = be32_make(g->block_size);
	at = g->bat_offset + vhd1_bat_bytes(g);
	if (c->kind == VHD_KIND_DIFFERENCING)
		r = plan_parent(p, c, &at, err);
	vhd1_header_seal(h);
	vhd1_footer_make(&p->footer, c->kind == VHD_KIND_DYNAMIC ? VHD1_TYPE_DYNAMIC : VHD1_TYPE_DIFFERENCING, c->size);
	p->end = at;
	return r;
}

static int write_bat(struct store *s, const struct vhd1_shape *g)
{
	uint8_t *unused = sp_alloc(BAT_CHUNK);
	int r = unused ? 0 : -ENOMEM;

	if (unused)
		memset(unused, 0xff, BAT_CHUNK);
	for (uint64_t done = 0; r == 0 && done < vhd1_bat_bytes(g); done += BAT_CHUNK)
		r = store_write(s, unused, (size_t)sp_min(BAT_CHUNK, vhd1_bat_bytes(g) - done), g->bat_offset + done);
	sp_free(unused);
	return r;
}

static int write_plan(struct store *s, const struct plan *p)
{
	int r;

	/* The rest of a text's room is zeros: a file extends with them, a device has to be told. */
	r = s->is_device ? store_zero(s, 0, p->end) : store_resize(s, p->end);
	if (r == 0)
		r = store_write(s, &p->footer, sizeof(p->footer), 0);
	if (r == 0)
		r = store_write(s, &p->header, sizeof(p->header), sizeof(p->footer));
	if (r == 0)
		r = write_bat(s, &p->shape);
	for (unsigned i = 0; i < p->paths && r == 0; i++)
		r = store_write(s, p->path[i].text.bytes, p->path[i].text.len, p->path[i].offset);
	return r;
}

static int create_sparse(struct store *s, const struct vhd_format_create *c, struct sp_err *err)
{
	struct plan *p = sp_zalloc(sizeof(*p));
	uint64_t footer_at;
	int r;

	if (!p)
		return sp_err_set(err, -ENOMEM, "out of memory");
	r = plan_make(p, c, err);
	footer_at = p->end;
	if (r == 0 && s->is_device)
		r = device_room(s, p->end, &footer_at, err);
	if (r == 0) {
		r = write_plan(s, p);
		if (r == 0)
			r = footer_last(s, &p->footer, footer_at);
		if (r < 0)
			sp_err_set(err, r, "cannot write the new image: %s", strerror(-r));
	}
	for (unsigned i = 0; i < SP_ARRAY_SIZE(p->path); i++)
		sp_free(p->path[i].text.bytes);
	sp_free(p);
	return r;
}

int vhd1_create(struct store *store, const struct vhd_format_create *c, struct sp_err *err)
{
	int r = check_request(c, err);

	if (r < 0)
		return r;
	return c->kind == VHD_KIND_FIXED ? create_fixed(store, c, err) : create_sparse(store, c, err);
}
