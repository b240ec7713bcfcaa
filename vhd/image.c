/* SPDX-License-Identifier: BSD-2-Clause */
#include "vhd/image.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/bytes.h"

static const struct vhd_format *const formats[] = {
	[VHD_FORMAT_RAW] = &vhd_format_raw,
	[VHD_FORMAT_VHD] = &vhd_format_vhd1,
	[VHD_FORMAT_VHDX] = &vhd_format_vhdx,
};

int vhd_format_from_name(const char *name, enum vhd_format_id *ret_id)
{
	static const struct { const char *name; enum vhd_format_id id; } names[] = {
		{ "raw", VHD_FORMAT_RAW }, { "vhd", VHD_FORMAT_VHD }, { "vpc", VHD_FORMAT_VHD },
		{ "vhdx", VHD_FORMAT_VHDX },
	};

	for (size_t i = 0; i < SP_ARRAY_SIZE(names); i++) {
		if (strcasecmp(name, names[i].name) == 0) {
			*ret_id = names[i].id;
			return 0;
		}
	}
	return -EINVAL;
}

const char *vhd_format_name(enum vhd_format_id id)
{
	return id == VHD_FORMAT_AUTO ? "auto" : formats[id]->name;
}

const char *vhd_kind_name(enum vhd_kind kind)
{
	static const char *const names[] = {
		[VHD_KIND_DYNAMIC] = "dynamic", [VHD_KIND_FIXED] = "fixed", [VHD_KIND_DIFFERENCING] = "differencing",
	};

	return names[kind];
}

const struct vhd_format *vhd_format_by_id(enum vhd_format_id id)
{
	return id == VHD_FORMAT_AUTO ? NULL : formats[id];
}

int vhd_format_probe(struct store *store, const struct vhd_format **ret_format, struct sp_err *err)
{
	uint8_t head[4096], tail[512];
	struct vhd_probe p = { .head = head, .tail = tail, .name = store->name };
	const struct vhd_format *best = NULL;
	int best_score = 0, r;

	r = store_size(store, &p.file_size);
	if (r < 0)
		return sp_err_set(err, r, "cannot learn the file size: %s", strerror(-r));
	p.head_len = (size_t)sp_min(p.file_size, sizeof(head));
	p.tail_len = (size_t)sp_min(p.file_size, sizeof(tail));
	r = store_read_padded(store, head, sizeof(head), 0);
	if (r == 0)
		r = store_read_padded(store, tail, sizeof(tail), p.file_size - p.tail_len);
	if (r < 0)
		return sp_err_set(err, r, "cannot read the file: %s", strerror(-r));

	for (size_t i = VHD_FORMAT_RAW; i < SP_ARRAY_SIZE(formats); i++) {
		int score = formats[i]->probe(&p);

		if (score > best_score) {
			best = formats[i];
			best_score = score;
		}
	}
	if (!best)
		return sp_err_set(err, -EBADMSG, "neither a VHDX nor a VHD signature; name the format if it is raw");
	*ret_format = best;
	return 0;
}

/* An image whose signatures are the damage still has its name. */
static const struct vhd_format *format_by_ending(const char *path)
{
	static const struct { const char *ending; const struct vhd_format *format; } endings[] = {
		{ ".vhdx", &vhd_format_vhdx }, { ".avhdx", &vhd_format_vhdx },
		{ ".vhd", &vhd_format_vhd1 },  { ".avhd", &vhd_format_vhd1 },
	};
	const char *dot = strrchr(path, '.');

	for (size_t i = 0; dot && i < SP_ARRAY_SIZE(endings); i++)
		if (strcasecmp(dot, endings[i].ending) == 0)
			return endings[i].format;
	return NULL;
}

int vhd_format_detect(struct store *store, const char *path, const struct vhd_format **ret_format, struct sp_err *err)
{
	const struct vhd_format *by_name;
	int r = vhd_format_probe(store, ret_format, err);

	by_name = r == -EBADMSG ? format_by_ending(path) : NULL;
	if (!by_name)
		return r;
	*ret_format = by_name;
	return 0;
}

void vhd_image_free(struct vhd_image *img)
{
	for (unsigned i = 0; i < img->parent.paths; i++)
		sp_free(img->parent.path[i].text);
	store_close(img->store);
	sp_free(img->warning);
	sp_free(img->state);
	sp_free(img->name);
	sp_free(img);
}

int vhd_image_open(struct store *store, const char *name, const struct vhd_format *format, unsigned flags,
		   struct vhd_image **ret_image, struct sp_err *err)
{
	struct vhd_image *img = sp_zalloc(sizeof(*img));
	int r;

	if (!img) {
		store_close(store);
		return sp_err_set(err, -ENOMEM, "out of memory");
	}
	img->store = store;
	img->format = format;
	img->flags = flags;
	img->name = sp_strdup(name);
	img->state = sp_zalloc(format->state_size);
	if (store_stamp(store, &img->stamp) < 0)
		memset(&img->stamp, 0, sizeof(img->stamp));
	if (!img->name || !img->state)
		r = sp_err_set(err, -ENOMEM, "out of memory");
	else
		r = format->open(img, err);
	if (r < 0) {
		vhd_image_free(img);
		return r;
	}
	*ret_image = img;
	return 0;
}

int vhd_image_finish(struct vhd_image *img, bool abandon)
{
	return img->format->close(img, abandon);
}

int vhd_image_close(struct vhd_image *img, bool abandon)
{
	int r;

	if (!img)
		return 0;
	r = vhd_image_finish(img, abandon);
	vhd_image_free(img);
	return r;
}

void vhd_image_add_path(struct vhd_image *img, enum vhd_path_kind kind, char *text)
{
	struct vhd_parent_ref *p = &img->parent;

	if (!text)
		return;
	if (!*text || p->paths == VHD_PARENT_PATHS_MAX) {
		sp_free(text);
		return;
	}
	p->path[p->paths].kind = kind;
	p->path[p->paths].text = text;
	p->paths++;
}

void vhd_image_warn(struct vhd_image *img, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	if (img->warning)		/* the first one is usually the cause of the others */
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	img->warning = sp_strdup(text);
}
