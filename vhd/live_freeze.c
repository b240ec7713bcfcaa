/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A layer below the leaf changes hands, while reads of it go on:
 *
 *	         ┌── live_freeze(): clean file, others may read ──┐
 *	writable │						  ▼ read-only
 *	         ▲						  │
 *	         └── live_thaw(), live_replace(): others kept out ┘
 *
 * At each side there is an image of its own on the same file, and the chain is pointed at the other one while drained.
 * Places are the same for both, so nobody's bytes move. What a log still has to say the read-only image replays in its
 * memory while the writable one puts it into the file for good.
 */
#include <errno.h>
#include <string.h>

#include "vhd/live_int.h"

int live_open_layer(struct vhd_disk *d, const char *name, unsigned store_flags, unsigned image_flags,
		    struct vhd_image **ret_image, struct sp_err *err)
{
	struct store *s;
	int r = store_folder_open(d->folder, name, disk_store_flags(d, false) | STORE_REGULAR | store_flags, &s, err);

	if (r < 0)
		return r;
	return vhd_image_open(s, name, d->leaf->format, image_flags, ret_image, err);
}

int live_replace(struct vhd_disk *d, unsigned level, struct vhd_image *img, unsigned drain_ms, bool abandon,
		 struct sp_err *err)
{
	struct vhd_image *old;
	int r = disk_edit_begin(d, drain_ms);

	if (r < 0)
		return sp_err_set(err, r, "I/O does not end within %u ms", drain_ms);
	old = disk_edit_replace(d, level, img);
	disk_edit_end(d);
	r = vhd_image_close(old, abandon);
	return r < 0 ? sp_err_set(err, r, "cannot close %s cleanly: %s", img->name, strerror(-r)) : 0;
}

static int freeze_once(struct vhd_disk *d, unsigned level, unsigned drain_ms, bool abandon, struct sp_err *err)
{
	struct vhd_image *img;
	int r = live_open_layer(d, disk_layer_name(d, level), 0, VHD_IMG_IS_PARENT, &img, err);

	if (r < 0)
		return r;
	r = live_replace(d, level, img, drain_ms, abandon, err);
	if (r == -ETIMEDOUT)
		vhd_image_close(img, true);
	return r;
}

int live_freeze(struct vhd_disk *d, unsigned level, unsigned drain_ms, bool broken, struct sp_err *err)
{
	struct vhd_image *old = d->layer[level].img;
	bool has_fd = old->store->ops->fd(old->store) >= 0;
	int r;

	if (!(old->flags & VHD_IMG_WRITABLE))
		return 0;
	r = store_relock(old->store, true, err);	/* its own writer's lock would keep the reader out */
	if (r == 0)
		r = freeze_once(d, level, drain_ms, broken, err);
	/* Replayed in memory, it is not a file that a ring can read. By now there is nothing left to replay. */
	if (r == 0 && has_fd && d->layer[level].img->store->ops->fd(d->layer[level].img->store) < 0)
		r = freeze_once(d, level, drain_ms, true, err);
	return r;
}

int live_thaw(struct vhd_disk *d, unsigned level, struct vhd_image **ret_image, struct sp_err *err)
{
	struct vhd_image *old = d->layer[level].img, *img;
	const char *name = disk_layer_name(d, level);
	int r = store_relock(old->store, false, err);

	if (r == 0)
		r = live_open_layer(d, name, STORE_RDWR, VHD_IMG_WRITABLE, &img, err);
	if (r == 0 && !sp_guid_equal(&img->identity, &old->identity)) {
		vhd_image_close(img, true);
		r = sp_err_set(err, -ESTALE, "%s was changed by somebody else", name);
	}
	if (r < 0) {
		store_relock(old->store, true, NULL);
		return sp_err_prefix(err, r, "%s", name);
	}
	*ret_image = img;
	return 0;
}
