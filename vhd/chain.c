/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Opening and closing a chain, leaf first. Descriptors are kept, never names: what was checked is what is read.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/log.h"
#include "vhd/disk_priv.h"

static int add_layer(struct vhd_disk *d, struct vhd_layer layer)
{
	if (d->layers == d->layer_room) {
		unsigned room = d->layer_room ? 2 * d->layer_room : 8;
		struct vhd_layer *grown = sp_realloc(d->layer, room * sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		d->layer = grown;
		d->layer_room = room;
	}
	d->layer[d->layers++] = layer;
	return 0;
}

static int leaf_format(struct store *s, const char *path, const struct vhd_open_opts *o,
		       const struct vhd_format **ret, struct sp_err *err)
{
	int r;

	*ret = vhd_format_by_id(o->format);
	if (*ret)
		return 0;
	r = vhd_format_detect(s, path, ret, err);
	if (r == -EBADMSG) {	/* nothing we know by its signature or its name */
		*ret = &vhd_format_raw;
		if (err)
			err->code = 0;
		return 0;
	}
	return r;
}

/* The parents of what has been opened so far. */
static int open_parents(struct vhd_disk *d, const struct vhd_open_opts *o, struct sp_err *err)
{
	unsigned max = o->max_layers ? o->max_layers : VHD_LAYERS_DEFAULT;
	unsigned depth = o->flags & VHD_OPEN_NO_PARENT ? 1 : o->depth;

	while (d->layer[d->layers - 1].img->has_parent) {
		struct vhd_layer parent = { 0 };
		int r;

		if (depth && d->layers >= depth) {
			d->below = true;
			return 0;
		}
		if (d->layers >= max)
			return sp_err_set(err, -ELOOP, "the chain has more than %u layers", max);
		r = disk_find_parent(d, &d->layer[d->layers - 1], &parent, err);
		if ((r == -ENOENT || r == -EXDEV) && d->orphan != VHD_ORPHAN_REFUSE) {
			d->orphaned = true;
			return 0;
		}
		if (r < 0)
			return r;
		r = add_layer(d, parent);
		if (r < 0) {
			vhd_image_close(parent.img, true);
			sp_free(parent.path);
			return sp_err_set(err, r, "out of memory");
		}
	}
	return 0;
}

static void reverse(struct vhd_layer *layer, unsigned n)
{
	for (unsigned i = 0; i < n / 2; i++) {
		struct vhd_layer t = layer[i];

		layer[i] = layer[n - 1 - i];
		layer[n - 1 - i] = t;
	}
}

static void release(struct vhd_disk *d)
{
	disk_track_closed(d, true);
	for (unsigned i = 0; i < d->layers; i++) {
		vhd_image_close(d->layer[i].img, true);
		sp_free(d->layer[i].path);
	}
	disk_commit_fini(d);
	flatmap_fini(&d->map);
	epoch_fini(&d->epoch);
	pthread_mutex_destroy(&d->meta);
	pthread_mutex_destroy(&d->partial);
	pthread_mutex_destroy(&d->track_calls);
	if (d->owns_folder)
		store_folder_close(d->folder);
	sp_free(d->layer);
	sp_free(d->root);
	sp_free(d);
}

static struct vhd_disk *disk_new(const struct vhd_open_opts *o)
{
	struct vhd_disk *d = sp_alloc_aligned(_Alignof(struct vhd_disk), sizeof(*d));

	if (!d)
		return NULL;
	memset(d, 0, sizeof(*d));
	d->open_flags = o->flags;
	d->orphan = o->orphan;
	d->writable = o->flags & VHD_OPEN_WRITE;
	pthread_mutex_init(&d->meta, NULL);
	pthread_mutex_init(&d->partial, NULL);
	pthread_mutex_init(&d->track_calls, NULL);
	if (epoch_init(&d->epoch) < 0 || disk_commit_init(d) < 0) {
		sp_free(d);
		return NULL;
	}
	return d;
}

/* Takes @s and @path over in any case. */
static int open_chain(struct vhd_disk *d, struct store *s, char *path, const struct vhd_open_opts *o,
		      struct sp_err *err)
{
	struct vhd_layer leaf = { .path = path };
	const struct vhd_format *format;
	int r = leaf_format(s, path, o, &format, err);

	if (r < 0) {
		store_close(s);
		sp_free(path);
		return r;
	}
	r = vhd_image_open(s, path, format, d->writable ? VHD_IMG_WRITABLE : 0, &leaf.img, err);
	if (r == 0 && (r = add_layer(d, leaf)) < 0) {
		vhd_image_close(leaf.img, true);
		sp_err_set(err, r, "out of memory");
	}
	if (r < 0) {
		sp_free(path);
		return r;
	}
	r = open_parents(d, o, err);
	if (r < 0)
		return r;
	reverse(d->layer, d->layers);
	d->leaf = leaf.img;
	d->leaf_level = d->layers - 1;
	d->size = leaf.img->size;
	d->logical_sector = leaf.img->logical_sector;
	d->physical_sector = leaf.img->physical_sector;
	r = flatmap_init(&d->map, d->size);
	if (r < 0)
		return sp_err_set(err, r, "out of memory");
	sp_debug("chain", path, "%u layers, %" PRIu64 " bytes", d->layers, d->size);
	return 0;
}

static const struct vhd_open_opts default_opts;

static int opts_check(const struct vhd_open_opts *o, struct sp_err *err)
{
	if ((o->flags & VHD_OPEN_WRITE) && (o->flags & VHD_OPEN_NO_LOCK))
		return sp_err_set(err, -EINVAL, "an image opened without locks can only be read");
	return 0;
}

int vhd_disk_open_in(struct store_folder *folder, const char *name, const struct vhd_open_opts *o,
		     struct vhd_disk **ret_disk, struct sp_err *err)
{
	struct vhd_disk *d;
	struct store *s;
	char *path;
	int r;

	if (!o)
		o = &default_opts;
	r = opts_check(o, err);
	if (r < 0)
		return r;
	d = disk_new(o);
	path = sp_asprintf("/%s", name);
	if (d)
		d->root = sp_strdup("");
	if (!d || !d->root || !path) {
		r = sp_err_set(err, -ENOMEM, "out of memory");
		goto fail;
	}
	d->folder = folder;
	r = store_folder_open(folder, name, disk_store_flags(d, d->writable), &s, err);
	if (r < 0)
		goto fail;
	r = open_chain(d, s, sp_take(path), o, err);
	if (r < 0)
		goto fail;
	*ret_disk = d;
	return 0;
fail:
	sp_free(path);
	if (d)
		release(d);
	return r;
}

/* Real path, so that relative parents are meant from where the file is, not from where a link to it is. */
static char *real_path(const char *path, struct sp_err *err)
{
	char buf[PATH_MAX];
	char *copy;

	if (!realpath(path, buf)) {
		sp_err_set(err, -errno, "%s", strerror(errno));
		return NULL;
	}
	copy = sp_strdup(buf);
	if (!copy)
		sp_err_set(err, -ENOMEM, "out of memory");
	return copy;
}

/* The folder that parents are confined to. */
static int open_root(struct vhd_disk *d, const char *path, const char *image_root, struct sp_err *err)
{
	char *slash;
	int r;

	d->root = image_root ? real_path(image_root, err) : sp_strdup(path);
	if (!d->root)
		return image_root && err && err->code ? sp_err_prefix(err, err->code, "image root %s", image_root)
						      : sp_err_set(err, -ENOMEM, "out of memory");
	if (!image_root) {
		slash = strrchr(d->root, '/');
		*slash = '\0';
	}
	r = store_folder_host(d->root[0] ? d->root : "/", &d->folder, err);
	d->owns_folder = r == 0;
	if (strcmp(d->root, "/") == 0)
		d->root[0] = '\0';
	return r;
}

int vhd_disk_open(const char *path, const struct vhd_open_opts *o, struct vhd_disk **ret_disk, struct sp_err *err)
{
	struct sp_err mine = { 0 };
	struct vhd_disk *d;
	struct store *s;
	char *real;
	int r;

	if (!err)
		err = &mine;
	if (!o)
		o = &default_opts;
	r = opts_check(o, err);
	if (r < 0)
		return r;
	d = disk_new(o);
	if (!d)
		return sp_err_set(err, -ENOMEM, "out of memory");
	d->threaded = true;
	real = real_path(path, err);
	if (!real) {
		release(d);
		return err->code;
	}
	r = open_root(d, real, o->image_root, err);
	if (r == 0)
		r = store_file_open(real, disk_store_flags(d, d->writable), &s, err);
	if (r == 0)
		r = open_chain(d, s, sp_take(real), o, err);
	sp_free(real);
	if (r < 0) {
		release(d);
		return r;
	}
	*ret_disk = d;
	return 0;
}

/* The leaf, and whatever below it was left writable by a switch: each ends clean. Returns the first failure. */
static int finish_writable(struct vhd_disk *d, bool abandon, struct sp_err *err)
{
	int first = 0;

	for (unsigned level = d->layers; level-- > 0;) {
		struct vhd_layer *l = &d->layer[level];
		int r = l->img->flags & VHD_IMG_WRITABLE ? vhd_image_finish(l->img, abandon) : 0;

		if (r < 0 && first == 0)
			first = sp_err_set(err, r, "cannot close %s cleanly: %s; what was flushed is safe, the next "
					   "writable open sets the rest right", l->path, strerror(-r));
	}
	return first;
}

static int close_writable(struct vhd_disk *d, bool abandon, struct sp_err *err)
{
	int r = finish_writable(d, abandon, err);

	/* Now the files are as they will be found, and nobody else can have written them yet. */
	disk_track_closed(d, abandon || r < 0);
	for (unsigned level = 0; level < d->layers; level++)
		if (d->layer[level].img->flags & VHD_IMG_WRITABLE)
			vhd_image_free(sp_take(d->layer[level].img));
	return r;
}

int vhd_disk_close(struct vhd_disk *d, struct sp_err *err)
{
	int r = 0, c;

	if (!d)
		return 0;
	if (d->writable) {
		r = disk_flush(d);
		if (r < 0)
			sp_err_set(err, r, "cannot flush %s: %s", d->layer[d->layers - 1].path, strerror(-r));
		if (r == 0)
			disk_track_closing(d);
		c = close_writable(d, r < 0, r < 0 ? NULL : err);
		if (r == 0)
			r = c;
	}
	release(d);
	return r;
}

void vhd_disk_abandon(struct vhd_disk *d)
{
	if (d)
		release(d);
}
