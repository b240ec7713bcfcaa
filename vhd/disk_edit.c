/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Changing the layers of a chain in use. Drained, so that nobody is inside with a place that names a layer; with the
 * formats locked, so that no flush and no look-up runs:
 *
 *   running ── disk_edit_begin() ──► alone ── replace, remove ──► alone ── disk_edit_end() ──► running
 *
 * A layer that is replaced has the same bytes in the same places. A layer that is removed is empty in effect: the one
 * below it holds, or a moment ago was given, all it says. Queues notice by d->chain_edits that files have come and
 * gone.
 */
#include <errno.h>

#include "base/alloc.h"
#include "base/seed.h"
#include "vhd/disk_priv.h"

void disk_formats_lock(struct vhd_disk *d)
{
	pthread_mutex_lock(&d->commit.lock);
	while (d->commit.running)
		pthread_cond_wait(&d->commit.done_cond, &d->commit.lock);
	pthread_mutex_lock(&d->meta);
}

void disk_formats_unlock(struct vhd_disk *d)
{
	pthread_mutex_unlock(&d->meta);
	pthread_mutex_unlock(&d->commit.lock);
}

int disk_edit_begin(struct vhd_disk *d, unsigned drain_ms)
{
	int r = vhd_disk_drain(d, drain_ms);

	if (r == 0)
		disk_formats_lock(d);
	return r;
}

void disk_edit_end(struct vhd_disk *d)
{
	bool switched = d->edit_switched;

	d->edit_switched = false;
	disk_formats_unlock(d);
	if (switched)
		disk_track_switched(d);
	vhd_disk_resume(d);
}

static void chain_changed(struct vhd_disk *d)
{
	atomic_fetch_add(&d->chain_edits, 1);
	d->leaf = d->layer[d->layers - 1].img;
	d->leaf_level = d->layers - 1;
	/* Without its table the map asks the formats each time: slower, and still right. */
	if (!SP_SEED_BUG(EDIT_KEEPS_MAP))
		flatmap_reset(&d->map, d->size);
}

struct vhd_image *disk_edit_replace(struct vhd_disk *d, unsigned level, struct vhd_image *img)
{
	struct vhd_image *old = d->layer[level].img;

	d->layer[level].img = img;
	chain_changed(d);
	return old;
}

struct vhd_image *disk_edit_remove(struct vhd_disk *d, unsigned level)
{
	struct vhd_layer gone = d->layer[level], *below = &d->layer[level - 1];
	bool was_leaf = level == d->layers - 1;

	sp_free(below->path);
	below->path = gone.path;
	for (unsigned i = level + 1; i < d->layers; i++)
		d->layer[i - 1] = d->layer[i];
	d->layers--;
	if (was_leaf) {
		d->edit_switched = true;
		d->begun = true;	/* it has just been written to */
		d->grace_tag = 0;
	}
	chain_changed(d);
	return gone.img;
}

const char *disk_layer_name(const struct vhd_disk *d, unsigned level)
{
	return disk_below_root(d, d->layer[level].path);
}
