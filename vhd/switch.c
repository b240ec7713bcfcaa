/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Putting a new leaf on a chain that is in use:
 *
 *   running ── vhd_disk_drain() ──► drained ── vhd_disk_push_leaf() ──► drained ── vhd_disk_resume() ──► running
 *	  ◄──── -ETIMEDOUT ────────────┘
 *
 * Drained: the gate is closed and nobody is inside, so no I/O of any queue or plain call is in flight; requests wait
 * in their queues, plain calls at the gate. Flushes may run: they move no payload.
 */
#include <errno.h>
#include <time.h>

#include "base/alloc.h"
#include "base/env.h"
#include "vhd/disk_priv.h"

int vhd_disk_drain(struct vhd_disk *d, unsigned timeout_ms)
{
	uint64_t deadline = sp_env_monotonic_ns() + (uint64_t)timeout_ms * 1000000;
	const struct timespec nap = { .tv_nsec = 20000 };

	epoch_close_gate(&d->epoch);
	while (!epoch_empty(&d->epoch)) {
		if (sp_env_monotonic_ns() >= deadline) {
			epoch_open_gate(&d->epoch);
			return -ETIMEDOUT;
		}
		nanosleep(&nap, NULL);
	}
	return 0;
}

void vhd_disk_resume(struct vhd_disk *d)
{
	epoch_open_gate(&d->epoch);
}

int disk_leaf_fits(struct vhd_disk *d, const struct vhd_image *leaf, struct sp_err *err)
{
	const struct vhd_parent_ref *ref = &leaf->parent;

	if (!leaf->has_parent || leaf->format != d->leaf->format || leaf->logical_sector != d->logical_sector ||
	    leaf->size != d->size || !(leaf->flags & VHD_IMG_WRITABLE))
		return sp_err_set(err, -EINVAL, "%s is not a writable child of %s", leaf->name, d->leaf->name);
	for (unsigned i = 0; i < ref->identities; i++) {
		if (sp_guid_equal(&ref->identity[i], &d->leaf->identity))
			return 0;
	}
	return sp_err_set(err, -ESTALE, "%s was not made from the present content of %s", leaf->name, d->leaf->name);
}

int disk_leaf_reserve(struct vhd_disk *d)
{
	unsigned room = d->layers + 1;
	struct vhd_layer *grown;

	if (room <= d->layer_room)
		return 0;
	pthread_mutex_lock(&d->meta);
	grown = sp_realloc(d->layer, room * sizeof(*grown));
	if (grown) {
		d->layer = grown;
		d->layer_room = room;
	}
	pthread_mutex_unlock(&d->meta);
	return grown ? 0 : -ENOMEM;
}

void disk_leaf_put(struct vhd_disk *d, struct vhd_image *leaf, char *path)
{
	disk_formats_lock(d);
	d->layer[d->layers++] = (struct vhd_layer){ .img = leaf, .path = path };
	d->leaf = leaf;
	d->leaf_level = d->layers - 1;
	d->begun = false;
	d->grace_tag = 0;		/* what the old leaf had freed stays its own business */
	/* What is known of the layers below stays true; only "writable in place" ended, and the level says that. */
	disk_formats_unlock(d);
	disk_track_switched(d);
}

int vhd_disk_push_leaf(struct vhd_disk *d, struct vhd_image *leaf, struct sp_err *err)
{
	char *path;
	int r = disk_leaf_fits(d, leaf, err);

	if (r < 0)
		return r;
	r = disk_flush(d);
	if (r < 0)
		return sp_err_set(err, r, "cannot flush the present leaf");
	path = sp_asprintf("%s/%s", d->root, leaf->name);
	if (!path || disk_leaf_reserve(d) < 0) {
		sp_free(path);
		return sp_err_set(err, -ENOMEM, "out of memory");
	}
	disk_leaf_put(d, leaf, path);
	return 0;
}
