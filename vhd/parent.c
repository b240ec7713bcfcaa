/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The parent of a child: where it may be, and whether it is the right one.
 *
 * What an image says about paths is attacker text. A relative path is resolved against the child's own directory,
 * an absolute one is believed only where it names a place below the root, and by its last component beside the
 * child; everything is opened beneath the root by the folder, which follows no symbolic link.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "vhd/disk_priv.h"

unsigned disk_store_flags(const struct vhd_disk *d, bool writable)
{
	return (writable ? STORE_RDWR : 0) | (d->open_flags & VHD_OPEN_NO_LOCK ? STORE_NO_LOCK : 0) |
	       (d->open_flags & VHD_OPEN_BULK ? STORE_BULK : 0);
}

/* "/a/b" + "../c" -> "/a/c"; NULL when ".." climbs above "/" or memory is out. Purely textual: the folder refuses
 * symbolic links, so text and tree agree. */
static char *join(const char *dir, const char *name)
{
	char *out = sp_asprintf("%s/", dir), *w;
	const char *p = name;
	size_t room;

	if (!out)
		return NULL;
	room = strlen(dir) + strlen(name) + 2;
	w = sp_realloc(out, room);
	if (!w) {
		sp_free(out);
		return NULL;
	}
	out = w;
	w = out + strlen(dir);
	while (*p) {
		size_t n = strcspn(p, "/");

		if (n == 2 && p[0] == '.' && p[1] == '.') {
			if (w == out) {
				sp_free(out);
				return NULL;
			}
			do
				w--;
			while (w > out && *w != '/');
		} else if (n > 0 && !(n == 1 && p[0] == '.')) {
			*w++ = '/';
			memcpy(w, p, n);
			w += n;
		}
		p += n;
		while (*p == '/')
			p++;
	}
	*w = '\0';
	return out;
}

static char *directory_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *dir = sp_strdup(path);

	if (dir && slash)
		dir[slash - path] = '\0';
	return dir;
}

/* Where the stored path points on this host, or NULL. Absolute host path, not yet confined. */
static char *candidate(const struct vhd_disk *d, const struct vhd_layer *child, unsigned index, bool by_name)
{
	const char *base = d->folder->path; /* what an absolute path must begin with; layers are named from d->root */
	SP_AUTO_FREE char *text = sp_strdup(child->img->parent.path[index].text);
	SP_AUTO_FREE char *dir = directory_of(child->path);
	enum vhd_path_kind kind = child->img->parent.path[index].kind;
	size_t base_len = strlen(base);
	char *last;

	if (!text || !dir)
		return NULL;
	for (char *p = text; *p; p++) {
		if (*p == '\\')
			*p = '/';
	}
	last = strrchr(text, '/');
	last = last ? last + 1 : text;
	if (kind == VHD_PATH_RELATIVE && !by_name)
		return text[0] == '/' || (text[0] && text[1] == ':') ? NULL : join(dir, text);
	if (base_len > 0 && base[base_len - 1] == '/')
		base_len--;
	if (!by_name)		/* an absolute path: only when it really lies below the root */
		return strncmp(text, base, base_len) == 0 && text[base_len] == '/' ? join(d->root, text + base_len + 1)
										   : NULL;
	return *last && strcmp(last, ".") != 0 && strcmp(last, "..") != 0 ? join(dir, last) : NULL;
}

const char *disk_below_root(const struct vhd_disk *d, const char *path)
{
	size_t n = strlen(d->root);

	return strncmp(path, d->root, n) == 0 && path[n] == '/' ? path + n + 1 : NULL;
}

static void identity_text(const struct vhd_image *img, const struct sp_guid *g, char text[static SP_GUID_TEXT])
{
	if (img->format->id == VHD_FORMAT_VHD)
		sp_guid_format_be(g, text);
	else
		sp_guid_format_le(g, text);
}

static int check_identity(const struct vhd_disk *d, struct vhd_layer *child, struct vhd_image *parent, const char *path,
			  struct sp_err *err)
{
	const struct vhd_parent_ref *ref = &child->img->parent;
	char have[SP_GUID_TEXT], want[SP_GUID_TEXT];
	int64_t mtime;

	if (parent->logical_sector != child->img->logical_sector)
		return sp_err_set(err, -ENOTSUP, "%s has %u-byte logical sectors, its child %u: no chain can mix them",
				  path, parent->logical_sector, child->img->logical_sector);
	for (unsigned i = 0; i < ref->identities; i++) {
		if (!sp_guid_equal(&ref->identity[i], &parent->identity))
			continue;
		if (ref->has_mtime && store_mtime(parent->store, &mtime) == 0 && mtime != ref->mtime)
			vhd_image_warn(child->img, "parent %s has been written since the snapshot was made (or copied)"
				       ": its modification time differs from the stored one", path);
		return 0;
	}
	if (d->open_flags & VHD_OPEN_IGNORE_ID) {
		vhd_image_warn(child->img, "parent %s is not the one this image was made from (accepted on request)",
			       path);
		return 0;
	}
	identity_text(child->img, &parent->identity, have);
	identity_text(child->img, &ref->identity[0], want);
	return sp_err_set(err, -ESTALE, "found parent %s, but its identity is %s and the child expects %s: "
			  "it was written after the snapshot was made, or is another file", path, have, want);
}

static int check_loop(const struct vhd_disk *d, const struct store *s, const char *path, struct sp_err *err)
{
	for (unsigned i = 0; i < d->layers; i++) {
		if (store_same(d->layer[i].img->store, s))
			return sp_err_set(err, -ELOOP, "the chain comes back to %s", path);
	}
	return 0;
}

/* @path is absolute and unverified. -ENOENT: nothing there. */
static int try_path(struct vhd_disk *d, struct vhd_layer *child, const char *path, struct vhd_image **ret_img,
		    struct sp_err *err)
{
	const struct vhd_format *format;
	const char *name = disk_below_root(d, path);
	struct vhd_image *img;
	struct store *s;
	int r;

	if (!name)
		return sp_err_set(err, -EXDEV, "parent %s lies outside of %s; name the folder that holds the whole "
				  "chain with --image-root", path, d->root);
	r = store_folder_open(d->folder, name, disk_store_flags(d, false) | STORE_REGULAR, &s, err);
	if (r < 0)
		return r;
	r = check_loop(d, s, path, err);
	if (r == 0)
		r = vhd_format_probe(s, &format, err);
	if (r < 0) {
		store_close(s);
		return sp_err_prefix(err, r, "parent %s", path);
	}
	if (format != child->img->format) {
		store_close(s);
		return sp_err_set(err, -ENOTSUP, "parent %s is a %s image; a %s image can only have a %s parent", path,
				  format->name, child->img->format->name, child->img->format->name);
	}
	r = vhd_image_open(s, path, format, VHD_IMG_IS_PARENT, &img, err);
	if (r < 0)
		return sp_err_prefix(err, r, "parent %s", path);
	r = check_identity(d, child, img, path, err);
	if (r < 0) {
		vhd_image_close(img, true);
		return r;
	}
	*ret_img = img;
	return 0;
}

/* Which failure to tell when no candidate fits: a file that is there but wrong beats one that is not there. */
static int weight(int r)
{
	return r == -ENOENT ? 1 : r == -EXDEV ? 2 : 3;
}

int disk_find_parent(struct vhd_disk *d, struct vhd_layer *child, struct vhd_layer *ret_parent, struct sp_err *err)
{
	const struct vhd_parent_ref *ref = &child->img->parent;
	int worst = -ENOENT;
	struct sp_err story = { 0 };

	sp_err_set(&story, -ENOENT, "parent of %s not found; the image names %s%s%s", child->path,
		   ref->paths ? "\"" : "no", ref->paths ? ref->path[0].text : " path", ref->paths ? "\"" : "");
	/* First as stored, then by last component beside the child. */
	for (unsigned i = 0; i < 2 * ref->paths; i++) {
		char *path = candidate(d, child, i % ref->paths, i >= ref->paths);
		struct sp_err e = { 0 };
		int r;

		if (!path)
			continue;
		r = try_path(d, child, path, &ret_parent->img, &e);
		if (r == 0) {
			ret_parent->path = path;
			return 0;
		}
		sp_free(path);
		if (r == -ENOMEM || r == -ELOOP) {
			sp_err_set(err, r, "%s", sp_err_text(&e));
			return r;
		}
		if (weight(r) > weight(worst)) {
			worst = r;
			story = e;
		}
	}
	return sp_err_set(err, worst, "%s", sp_err_text(&story));
}
