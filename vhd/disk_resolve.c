/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>

#include "base/bytes.h"
#include "vhd/disk_priv.h"

/* Nobody in the opened layers says anything about the range. */
static void bottom(struct vhd_disk *d, struct disk_place *ret)
{
	ret->level = 0;
	ret->where = d->below ? DISK_BELOW : d->orphaned ? DISK_UNKNOWN : DISK_ZERO;
}

int disk_ask_locked(struct vhd_disk *d, uint64_t offset, uint64_t len, struct disk_place *ret)
{
	ret->direct_write = false;
	ret->file_offset = 0;
	for (unsigned level = d->layers; level-- > 0;) {
		struct vhd_image *img = d->layer[level].img;
		struct vhd_place p;
		int r;

		if (offset >= img->size) {	/* beyond the end of a smaller parent */
			ret->where = DISK_ZERO;
			ret->level = level;
			ret->len = len;
			return 0;
		}
		len = sp_min(len, img->size - offset);
		r = img->format->map(img, offset, len, &p);
		if (r < 0)
			return r == -EBADMSG ? -EIO : r;
		len = p.len;
		if (p.where == VHD_WHERE_PARENT)
			continue;
		ret->where = p.where == VHD_WHERE_DATA ? DISK_DATA : DISK_ZERO;
		ret->level = level;
		ret->len = len;
		ret->file_offset = p.file_offset;
		ret->direct_write = p.where == VHD_WHERE_DATA && p.direct_write && d->begun;
		return 0;
	}
	ret->len = len;
	bottom(d, ret);
	return 0;
}

static void remember(struct vhd_disk *d, uint64_t offset, const struct disk_place *p)
{
	struct flat_place f = {
		.kind = p->where == DISK_DATA ? FLAT_DATA : p->where == DISK_ZERO ? FLAT_ZERO : FLAT_SLOW,
		.level = p->level,
		.direct_write = p->direct_write,
		.file_offset = p->file_offset,
	};

	flatmap_put(&d->map, offset, p->len, &f);
}

static bool answer(const struct flat_place *f, uint64_t len, struct disk_place *ret)
{
	if (f->kind != FLAT_DATA && f->kind != FLAT_ZERO)
		return false;
	ret->where = f->kind == FLAT_DATA ? DISK_DATA : DISK_ZERO;
	ret->level = f->level;
	ret->direct_write = f->kind == FLAT_DATA && f->direct_write;
	ret->file_offset = f->file_offset;
	ret->len = sp_min(len, f->len);
	return true;
}

/* Takes the neighbours in while they continue the same stretch, so that a long request over cells stays one I/O. */
static void extend(struct vhd_disk *d, uint64_t offset, uint64_t len, struct disk_place *p)
{
	while (p->len < len) {
		struct flat_place f;

		flatmap_get(&d->map, offset + p->len, &f);
		if (p->where == DISK_ZERO ? f.kind != FLAT_ZERO
					  : f.kind != FLAT_DATA || f.level != p->level ||
						    f.direct_write != p->direct_write ||
						    f.file_offset != p->file_offset + p->len)
			return;
		p->len = sp_min(len, p->len + f.len);
	}
}

/* A place for the whole unit when one exists, otherwise for the cells from @offset on. */
static void learn_locked(struct vhd_disk *d, uint64_t offset)
{
	uint64_t unit = sp_align_down(offset, FLATMAP_UNIT);
	uint64_t room = sp_min(FLATMAP_UNIT, d->size - unit), cell = sp_align_down(offset, FLATMAP_CELL);
	struct disk_place p;

	if (disk_ask_locked(d, unit, room, &p) == 0 && p.len == room) {
		remember(d, unit, &p);
		return;
	}
	if (disk_ask_locked(d, cell, unit + room - cell, &p) == 0)
		remember(d, cell, &p);
}

int disk_resolve(struct vhd_disk *d, uint64_t offset, uint64_t len, struct disk_place *ret)
{
	struct flat_place f;
	int r;

	flatmap_get(&d->map, offset, &f);
	if (__builtin_expect(answer(&f, len, ret), 1)) {
		if (ret->len < len)
			extend(d, offset, len, ret);
		return 0;
	}
	pthread_mutex_lock(&d->meta);
	flatmap_get(&d->map, offset, &f);	/* another thread may have been faster */
	if (f.kind == FLAT_UNRESOLVED) {
		learn_locked(d, offset);
		flatmap_get(&d->map, offset, &f);
	}
	r = answer(&f, len, ret) ? 0 : disk_ask_locked(d, offset, len, ret);
	pthread_mutex_unlock(&d->meta);
	return r;
}
