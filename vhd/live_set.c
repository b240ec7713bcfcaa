/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The cut, and what follows it:
 *
 *   running ── close gates ──► nobody inside ── flush all, rename record, sync ──► decided ── put leaves ──► running
 *      ▲			   │			   │
 *      └── open gates ◄── -ETIMEDOUT ──────────────┴─ any failure: "prepared" again
 *
 * All gates are closed before the first one is waited for: there is an instant at which no disk of the set has a
 * request inside, and that is the snapshot. Decided is the moment the record is durable under its final name. Until
 * then a power cut gives the old leaves everywhere, from then on the new ones; so nothing may be written to a new leaf
 * before.
 *
 * The new leaves keep their temporary names until finish, which needs no pause for it: a recovery renames them too.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"
#include "base/seed.h"
#include "vhd/live_int.h"
#include "vhd/track.h"

#define AHEAD_ROUNDS 6
#define AHEAD_NS 2000000u

/* ---- gates --------------------------------------------------------------------------------------- */

static void open_gates(struct vhd_live_set *set)
{
	for (unsigned i = 0; i < set->count; i++)
		epoch_open_gate(&set->member[i].disk->epoch);
}

static bool all_empty(struct vhd_live_set *set)
{
	for (unsigned i = 0; i < set->count; i++)
		if (!epoch_empty(&set->member[i].disk->epoch))
			return false;
	return true;
}

static int close_gates(struct vhd_live_set *set, struct sp_err *err)
{
	uint64_t deadline = sp_env_monotonic_ns() + (uint64_t)set->drain_ms * 1000000;
	const struct timespec nap = { .tv_nsec = 20000 };

	for (unsigned i = 0; i < set->count; i++)
		epoch_close_gate(&set->member[i].disk->epoch);
	while (!all_empty(set) && !SP_SEED_BUG(LIVE_NO_DRAIN)) {
		if (sp_env_monotonic_ns() >= deadline) {
			open_gates(set);
			return sp_err_set(err, -ETIMEDOUT, "I/O does not end within %u ms", set->drain_ms);
		}
		nanosleep(&nap, NULL);
	}
	return 0;
}

/* ---- the cut ------------------------------------------------------------------------------------- */

static int flush_all(struct vhd_live_set *set, struct sp_err *err)
{
	for (unsigned i = 0; i < set->count; i++) {
		struct vhd_disk *d = set->member[i].disk;
		int r = disk_flush(d);

		if (r < 0)
			return sp_err_set(err, r, "cannot flush %s: %s", d->leaf->name, strerror(-r));
	}
	return 0;
}

/* After this putting the leaves cannot fail. */
static int ready_all(struct vhd_live_set *set, struct sp_err *err)
{
	for (unsigned i = 0; i < set->count; i++) {
		struct live_member *m = &set->member[i];
		int r = disk_leaf_fits(m->disk, m->leaf, err);

		if (r == 0 && disk_leaf_reserve(m->disk) < 0)
			r = sp_err_set(err, -ENOMEM, "out of memory");
		if (r < 0)
			return r;
	}
	return 0;
}

static int decide(struct vhd_live_set *set, struct sp_err *err)
{
	struct store_folder *f = set->member[0].disk->folder;
	int r = store_folder_rename(f, set->prepared, set->record, false);

	if (r == 0 && !SP_SEED_BUG(LIVE_NO_RECORD_SYNC))
		r = store_folder_sync(f, set->record);
	if (r == 0)
		return 0;
	/* Should neither name be durable, a recovery finds new leaves nowhere in place, and some deleted: it drops. */
	if (store_folder_rename(f, set->record, set->prepared, false) == 0)
		store_folder_sync(f, set->record);
	return sp_err_set(err, r, "cannot make the record %s durable: %s", set->record, strerror(-r));
}

/* The name in use goes to the new leaf, the snapshot's name to the old one. */
static void put(struct live_member *m)
{
	struct vhd_disk *d = m->disk;
	struct vhd_layer *l;
	char *path;

	disk_leaf_put(d, m->leaf, sp_take(m->path));
	pthread_mutex_lock(&d->meta);
	l = &d->layer[d->layers - 2];
	path = l[0].path;
	l[0].path = l[1].path;
	l[1].path = path;
	pthread_mutex_unlock(&d->meta);
}

static int cut(struct vhd_live_set *set, struct sp_err *err)
{
	int r = SP_SEED_BUG(LIVE_NO_FLUSH) ? 0 : flush_all(set, err);

	if (r == 0)
		r = ready_all(set, err);
	if (r == 0)
		r = decide(set, err);
	if (r < 0)
		return r;
	set->time = sp_env_time();
	for (unsigned i = 0; i < set->count; i++)
		put(&set->member[i]);
	set->committed = true;
	return 0;
}

/* While nobody is inside: what is written from now on is a change since the point, and nothing before is. */
static void put_points(struct vhd_live_set *set)
{
	for (unsigned i = 0; set->track_point && i < set->count; i++)
		if (vhd_disk_tracked(set->member[i].disk))
			set->member[i].point = vhd_track_point_drained(set->member[i].disk, set->track_point, NULL,
								       NULL);
}

/* So that little is left to do while I/O waits: what is written during one flush is the work of the next, as long as
 * they become shorter. */
static int flush_ahead(struct vhd_live_set *set, struct sp_err *err)
{
	uint64_t before = UINT64_MAX;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < AHEAD_ROUNDS; i++) {
		uint64_t start = sp_env_monotonic_ns(), took;

		r = flush_all(set, err);
		took = sp_env_monotonic_ns() - start;
		if (took < AHEAD_NS || took > before / 4 * 3)
			break;
		before = took;
	}
	return r;
}

static int cut_drained(struct vhd_live_set *set, struct vhd_live_timing *t, struct sp_err *err)
{
	uint64_t start;
	int r = flush_ahead(set, err);

	if (r < 0)
		return r;
	start = sp_env_monotonic_ns();
	r = close_gates(set, err);
	t->drain_ns = sp_env_monotonic_ns() - start;
	if (r == 0) {
		r = cut(set, err);
		if (r == 0 && !SP_SEED_BUG(LIVE_POINT_LATE))
			put_points(set);
		open_gates(set);
		if (r == 0 && SP_SEED_BUG(LIVE_POINT_LATE)) {
			nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
			put_points(set);
		}
	}
	t->pause_ns = sp_env_monotonic_ns() - start;
	return r;
}

int vhd_live_commit(struct vhd_live_set *set, bool drained, struct vhd_live_timing *ret, struct sp_err *err)
{
	struct vhd_live_timing t = { 0 };
	uint64_t start = sp_env_monotonic_ns();
	int r;

	if (set->committed)
		return sp_err_set(err, -EINVAL, "the set is committed already");
	if (drained) {
		r = cut(set, err);
		if (r == 0)
			put_points(set);
		t.pause_ns = sp_env_monotonic_ns() - start;
	} else {
		r = cut_drained(set, &t, err);
	}
	t.time = set->time;
	if (ret)
		*ret = t;
	return r;
}

int vhd_live_point(const struct vhd_live_set *set, unsigned index)
{
	return index < set->count ? set->member[index].point : -ENOENT;
}

/* ---- the tidy end -------------------------------------------------------------------------------- */

static int move_names(struct vhd_live_set *set, struct sp_err *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < set->count; i++) {
		struct live_member *m = &set->member[i];

		r = op_rename_durable(m->disk->folder, m->names.child, m->names.image, true, err);
	}
	return r;
}

static int drop_record(struct vhd_live_set *set, struct sp_err *err)
{
	struct store_folder *f = set->member[0].disk->folder;
	int r = live_file_remove(f, set->record);

	if (r == 0)
		r = store_folder_sync(f, set->record);
	return r < 0 ? sp_err_set(err, r, "cannot delete the record %s: %s", set->record, strerror(-r)) : 0;
}

static int tell_level(struct vhd_live_set *set, struct live_member *m, const char *level, struct sp_err *err)
{
	struct live_meta meta = { .set = set->guid, .time = set->time };

	if (!m->names.meta)
		return 0;
	memcpy(meta.level, level, sp_min(strlen(level), sizeof(meta.level) - 1));
	return live_meta_write(m->disk->folder, m->names.meta, &meta, err);
}

/* A VHD child remembers when its parent was written last: that is over only now. */
int live_tell_mtime(struct vhd_disk *d, struct sp_err *err)
{
	struct vhd_image *parent = d->layer[d->layers - 2].img;
	struct vhd_set_parent p = { .identity = { parent->identity }, .identities = 1 };
	int r = store_mtime(parent->store, &p.mtime);

	if (r < 0 || !d->leaf->parent.has_mtime || p.mtime == d->leaf->parent.mtime)
		return r;
	disk_formats_lock(d);
	r = d->leaf->format->set_parent(d->leaf, &p, err);
	disk_formats_unlock(d);
	return r;
}

static int tidy(struct vhd_live_set *set, struct live_member *m, const char *level, struct sp_err *err)
{
	int r = tell_level(set, m, level, err), r2;

	r2 = live_freeze(m->disk, m->disk->layers - 2, set->drain_ms, false, err);
	if (r == 0)
		r = r2;
	r2 = live_tell_mtime(m->disk, err);
	return r < 0 ? r : r2;
}

int vhd_live_finish(struct vhd_live_set *set, const char *level, struct sp_err *err)
{
	int r, first = 0;

	if (!set->committed) {
		vhd_live_abort(set);
		return sp_err_set(err, -EINVAL, "the set has not been committed");
	}
	first = move_names(set, err);
	if (first == 0)
		first = drop_record(set, err);
	for (unsigned i = 0; i < set->count; i++) {
		r = tidy(set, &set->member[i], level ? level : "crash", first == 0 ? err : NULL);
		if (first == 0)
			first = r;
	}
	live_set_free(set);
	return first;
}
