/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A larger disk under running I/O: drained for the moment it takes the leaf to grow, as for a new leaf (switch.c).
 */
#include <errno.h>
#include <inttypes.h>

#include "vhd/disk_priv.h"

#define DRAIN_MS 10000

/* Drained, and no flush is on its way: a format refuses to grow while a batch of it is. */
static int grow_locked(struct vhd_disk *d, uint64_t size, struct sp_err *err)
{
	int r = disk_begin_locked(d);

	if (r < 0)
		return sp_err_set(err, r, "%s cannot be written", d->leaf->name);
	r = d->leaf->format->grow(d->leaf, size, err);
	if (r < 0)
		return r;
	d->size = d->leaf->size;
	/* Without its table the map asks the formats each time: slower, and still right. */
	flatmap_reset(&d->map, d->size);
	return 0;
}

static int grow_drained(struct vhd_disk *d, uint64_t size, struct sp_err *err)
{
	uint64_t old_size = d->size;
	int r = disk_flush(d);

	if (r < 0)
		return sp_err_set(err, r, "cannot flush before growing");
	pthread_mutex_lock(&d->commit.lock);
	while (d->commit.running)
		pthread_cond_wait(&d->commit.done_cond, &d->commit.lock);
	pthread_mutex_lock(&d->meta);
	r = grow_locked(d, size, err);
	pthread_mutex_unlock(&d->meta);
	pthread_mutex_unlock(&d->commit.lock);
	if (r == 0)
		disk_track_grown(d, old_size);
	return r;
}

int vhd_disk_grow(struct vhd_disk *d, uint64_t size, struct sp_err *err)
{
	int r = vhd_disk_poisoned(d);

	if (r < 0)
		return sp_err_set(err, r, "an earlier flush has failed: the disk takes no changes");
	if (!d->writable)
		return sp_err_set(err, -EROFS, "the disk is open read-only");
	if (size < d->size)
		return sp_err_set(err, -ENOTSUP, "cannot shrink from %" PRIu64 " to %" PRIu64 " bytes",
				  vhd_disk_size(d), size);
	if (size % d->logical_sector)
		return sp_err_set(err, -EINVAL, "%" PRIu64 " bytes are no multiple of the sector size, %u", size,
				  d->logical_sector);
	if (size == d->size)
		return 0;
	r = vhd_disk_drain(d, DRAIN_MS);
	if (r < 0)
		return sp_err_set(err, r, "I/O does not end within %d s", DRAIN_MS / 1000);
	r = grow_drained(d, size, err);
	vhd_disk_resume(d);
	return r;
}
