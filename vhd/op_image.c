/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Single files of a chain: what operations do to an image's own metadata, where a whole open chain would be in the way.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "vhd/ops_int.h"

int op_image_open(struct store_folder *f, const char *name, bool writable, struct vhd_image **ret, struct sp_err *err)
{
	const struct vhd_format *format = &vhd_format_raw;
	struct store *s;
	int r = store_folder_open(f, name, STORE_REGULAR | (writable ? STORE_RDWR : 0), &s, err);

	if (r < 0)
		return sp_err_prefix(err, r, "%s", name);
	r = vhd_format_probe(s, &format, err);
	if (r < 0) {
		store_close(s);
		return sp_err_prefix(err, r, "%s", name);
	}
	r = vhd_image_open(s, name, format, writable ? VHD_IMG_WRITABLE : 0, ret, err);
	return r < 0 ? sp_err_prefix(err, r, "%s", name) : 0;
}

int op_image_close(struct vhd_image *img, int r, struct sp_err *err)
{
	int closed = vhd_image_close(img, r < 0);

	if (r == 0 && closed < 0)
		return sp_err_set(err, closed, "closing the image failed: %s", strerror(-closed));
	return r;
}

bool op_image_is(struct store_folder *f, const char *name, const struct vhd_image *img)
{
	struct store *s;
	bool same;

	if (store_folder_open(f, name, STORE_NO_LOCK, &s, NULL) < 0)
		return false;
	same = store_same(s, img->store);
	store_close(s);
	return same;
}

int op_image_set_parent(struct store_folder *f, struct vhd_image *child, const char *child_name,
			struct vhd_image *parent, const char *parent_name, struct sp_err *err)
{
	struct vhd_set_parent p = { .identity = { parent->identity }, .identities = 1 };
	SP_AUTO_FREE char *relative = op_name_relative(child_name, parent_name);
	SP_AUTO_FREE char *absolute = op_name_absolute(f, parent_name);
	int r;

	if (!relative)
		return sp_err_set(err, -ENOMEM, "out of memory");
	p.relative = relative;
	p.absolute = absolute;
	r = store_mtime(parent->store, &p.mtime);
	if (r < 0)
		return sp_err_set(err, r, "%s: cannot read its modification time: %s", parent_name, strerror(-r));
	r = child->format->set_parent(child, &p, err);
	return r < 0 ? sp_err_prefix(err, r, "%s", child_name) : 0;
}

static int chain_add(struct op_chain *c, const struct vhd_layer_info *info)
{
	struct op_layer *l = &c->layer[c->count];

	*l = (struct op_layer){ .format = info->format, .identity = info->identity, .size = info->size,
				.has_parent = info->has_parent };
	l->name = op_name_in(info->path);
	if (!l->name)
		return -ENOMEM;
	c->count++;
	return 0;
}

int op_chain_list(struct store_folder *f, const char *leaf, struct op_chain *ret, struct sp_err *err)
{
	struct vhd_layer_info info;
	struct vhd_disk *d;
	unsigned layers;
	int r = vhd_disk_open_in(f, leaf, NULL, &d, err);

	*ret = (struct op_chain){ 0 };
	if (r < 0)
		return r;
	layers = vhd_disk_layers(d);
	ret->layer = sp_calloc(layers, sizeof(*ret->layer));
	if (!ret->layer)
		r = -ENOMEM;
	for (unsigned i = 0; r == 0 && i < layers; i++) {
		r = vhd_disk_layer_info(d, i, &info);
		if (r == 0)
			r = chain_add(ret, &info);
	}
	vhd_disk_close(d, NULL);
	if (r < 0) {
		op_chain_fini(ret);
		return sp_err_set(err, r, "%s: cannot list its layers: %s", leaf, strerror(-r));
	}
	return 0;
}

void op_chain_fini(struct op_chain *c)
{
	for (unsigned i = 0; i < c->count; i++)
		sp_free(c->layer[i].name);
	sp_free(c->layer);
	*c = (struct op_chain){ 0 };
}

int op_rename_durable(struct store_folder *f, const char *from, const char *to, bool replace, struct sp_err *err)
{
	int r = store_folder_rename(f, from, to, replace);

	if (r < 0)
		return sp_err_set(err, r, "cannot rename %s to %s: %s", from, to, strerror(-r));
	r = store_folder_sync(f, to);
	if (r < 0)
		return sp_err_set(err, r, "cannot make the new name %s durable: %s", to, strerror(-r));
	return 0;
}
