/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>

#include "base/bytes.h"
#include "vhd/disk_priv.h"

void vhd_disk_own_folder(struct vhd_disk *d)
{
	d->owns_folder = true;
}

uint64_t vhd_disk_size(const struct vhd_disk *d)
{
	return d->size;
}

uint32_t vhd_disk_logical_sector(const struct vhd_disk *d)
{
	return d->logical_sector;
}

uint32_t vhd_disk_physical_sector(const struct vhd_disk *d)
{
	return d->physical_sector;
}

bool vhd_disk_writable(const struct vhd_disk *d)
{
	return d->writable;
}

bool vhd_disk_orphaned(const struct vhd_disk *d)
{
	return d->orphaned;
}

unsigned vhd_disk_layers(const struct vhd_disk *d)
{
	return d->layers;
}

/* The public face counts from the leaf. */
static struct vhd_layer *layer_at(struct vhd_disk *d, unsigned layer)
{
	return layer < d->layers ? &d->layer[d->layers - 1 - layer] : NULL;
}

struct vhd_image *vhd_disk_image(struct vhd_disk *d, unsigned layer)
{
	struct vhd_layer *l = layer_at(d, layer);

	return l ? l->img : NULL;
}

static int layer_info(struct vhd_disk *d, unsigned layer, struct vhd_layer_info *ret)
{
	struct vhd_layer *l = layer_at(d, layer);
	struct vhd_image *img;

	if (!l)
		return -ERANGE;
	img = l->img;
	*ret = (struct vhd_layer_info){
		.path = l->path,
		.format = img->format->id,
		.kind = img->kind,
		.size = img->size,
		.block_size = img->block_size,
		.logical_sector = img->logical_sector,
		.physical_sector = img->physical_sector,
		.has_parent = img->has_parent,
		.parent_path = img->parent.paths ? img->parent.path[0].text : NULL,
		.warning = img->warning,
	};
	if (img->has_identity)
		ret->identity = img->identity;
	if (img->parent.identities)
		ret->parent_identity = img->parent.identity[0];
	return store_size(img->store, &ret->file_size);
}

int vhd_disk_layer_info(struct vhd_disk *d, unsigned layer, struct vhd_layer_info *ret)
{
	int r;

	pthread_mutex_lock(&d->meta);
	r = layer_info(d, layer, ret);
	pthread_mutex_unlock(&d->meta);
	return r;
}

void vhd_disk_layer_describe(struct vhd_disk *d, unsigned layer, void *json_object)
{
	struct vhd_layer *l;

	pthread_mutex_lock(&d->meta);
	l = layer_at(d, layer);
	if (l)
		l->img->format->describe(l->img, json_object);
	pthread_mutex_unlock(&d->meta);
}

static enum vhd_range_kind range_kind(enum disk_where where)
{
	switch (where) {
	case DISK_DATA:
		return VHD_RANGE_DATA;
	case DISK_BELOW:
		return VHD_RANGE_BELOW;
	case DISK_UNKNOWN:
		return VHD_RANGE_UNKNOWN;
	case DISK_ZERO:
		break;
	}
	return VHD_RANGE_ZERO;
}

static bool continues(const struct disk_place *a, const struct disk_place *b)
{
	return a->where == b->where && a->level == b->level &&
	       (a->where != DISK_DATA || a->file_offset + a->len == b->file_offset);
}

int vhd_disk_map(struct vhd_disk *d, uint64_t offset, uint64_t len, struct vhd_range *ret)
{
	struct disk_place first, next;
	unsigned layers;
	int r = len == 0 ? -EINVAL : disk_range_check(d, offset, len);

	if (r < 0)
		return r;
	pthread_mutex_lock(&d->meta);
	layers = d->layers;
	r = disk_ask_locked(d, offset, len, &first);
	while (r == 0 && first.len < len) {
		if (disk_ask_locked(d, offset + first.len, len - first.len, &next) < 0 || !continues(&first, &next))
			break;
		first.len += next.len;
	}
	pthread_mutex_unlock(&d->meta);
	if (r < 0)
		return r;
	*ret = (struct vhd_range){
		.offset = offset,
		.len = first.len,
		.kind = range_kind(first.where),
		.layer = layers - 1 - first.level,
		.unallocated = first.where == DISK_ZERO && first.level == 0,
		.file_offset = first.file_offset,
	};
	return 0;
}
