/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Before the cut, and taking it back:
 *
 *	claimed	     one set or merge per disk at a time
 *	settled	     the leaf has the identity its child will name: writing has begun, so it changes no more
 *	recorded     "<leaf>.live-prepared" names all that is about to be made. Durable before any of it exists, so
 *		     that a recovery finds everything
 *	made	     child (open, ready for its first write), second name, side-car; each durable
 *
 * Abort goes the other way: the record is the last to go.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/env.h"
#include "base/seed.h"
#include "vhd/live_int.h"

/* ---- the set ------------------------------------------------------------------------------------- */

int live_claim(struct vhd_disk *d, struct sp_err *err)
{
	bool free = false;
	int r;

	if (atomic_compare_exchange_strong(&d->live_busy, &free, true))
		return 0;
	pthread_mutex_lock(&d->meta);	/* whoever has it may be changing the chain */
	r = sp_err_set(err, -EBUSY, "%s: a snapshot or a merge is under way", d->layer[d->layers - 1].path);
	pthread_mutex_unlock(&d->meta);
	return r;
}

void live_unclaim(struct vhd_disk *d)
{
	atomic_store(&d->live_busy, false);
}

void live_set_free(struct vhd_live_set *set)
{
	for (unsigned i = 0; i < set->count; i++) {
		struct live_member *m = &set->member[i];

		if (m->busy && !set->hidden)
			live_unclaim(m->disk);
		live_names_fini(&m->names);
		sp_free(m->path);
	}
	sp_free(set->track_point);
	sp_free(set->prepared);
	sp_free(set->record);
	sp_free(set);
}

void live_set_abandon(struct vhd_live_set *set)
{
	for (unsigned i = 0; !set->committed && i < set->count; i++)
		vhd_image_close(set->member[i].leaf, true);
	live_set_free(set);
}

static struct vhd_live_set *set_new(struct vhd_disk *const *disks, unsigned count, const struct vhd_live_opts *o)
{
	struct vhd_live_set *set = sp_zalloc(sizeof(*set) + count * sizeof(set->member[0]));

	if (!set)
		return NULL;
	set->guid = o->set;
	if (sp_guid_is_zero(&set->guid))
		sp_env_guid(&set->guid);
	set->drain_ms = o->drain_ms ? o->drain_ms : VHD_LIVE_DRAIN_MS;
	set->count = count;
	set->time = sp_env_time();
	for (unsigned i = 0; i < count; i++) {
		set->member[i].disk = disks[i];
		set->member[i].point = -ENOENT;
	}
	set->track_point = o->track_point ? sp_strdup(o->track_point) : NULL;
	if (o->track_point && !set->track_point)
		sp_free(sp_take(set));
	return set;
}

/* ---- may it be done at all? ---------------------------------------------------------------------- */

static int check_disk(struct vhd_disk *d, struct sp_err *err)
{
	const char *path = d->layer[d->layers - 1].path;
	int poison = vhd_disk_poisoned(d);

	if (!d->writable)
		return sp_err_set(err, -EROFS, "%s is open read-only", path);
	if (!(d->leaf->format->caps & VHD_CAP_PARENT))
		return sp_err_set(err, -ENOTSUP, "%s is a raw disk, which has no snapshots (convert it to VHDX)", path);
	if (poison < 0)
		return sp_err_set(err, poison, "%s: an earlier flush has failed: the disk takes no changes", path);
	if (!disk_layer_name(d, d->layers - 1))
		return sp_err_set(err, -EXDEV, "%s is outside of %s", path, d->root);
	return 0;
}

static int claim_all(struct vhd_live_set *set, struct sp_err *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < set->count; i++) {
		if (!set->hidden)		/* a merge has done it */
			r = live_claim(set->member[i].disk, err);
		set->member[i].busy = r == 0;
		if (r == 0)
			r = check_disk(set->member[i].disk, err);
	}
	return r;
}

static int check_free(struct store_folder *f, const char *name, const char *remedy, struct sp_err *err)
{
	struct store *s;
	int r = store_folder_open(f, name, STORE_NO_LOCK, &s, NULL);

	if (r == 0) {
		store_close(s);
		return sp_err_set(err, -EEXIST, "%s exists already%s", name, remedy);
	}
	return r == -ENOENT ? 0 : sp_err_set(err, r, "%s: %s", name, strerror(-r));
}

/* A merge that was cut may leave the facts of a snapshot that is no more. They are replaced. */
static int check_meta_free(struct store_folder *f, const char *name, struct sp_err *err)
{
	struct live_meta stale;

	if (live_meta_read(f, name, &stale) == 0)
		return 0;
	return check_free(f, name, ", and is not what is known of a snapshot; move it away", err);
}

static int name_member(struct vhd_live_set *set, unsigned i, const char *name, struct sp_err *err)
{
	struct live_member *m = &set->member[i];
	struct vhd_disk *d = m->disk;
	int r = live_names_make(&m->names, disk_layer_name(d, d->layers - 1), name, &set->guid, i, !set->hidden);

	if (r == 0) {
		m->path = sp_asprintf("%s/%s", d->root, m->names.file);
		r = m->path ? 0 : -ENOMEM;
	}
	if (r < 0)
		return sp_err_set(err, r, "out of memory");
	r = check_free(d->folder, m->names.file, "", err);
	if (r == 0 && m->names.meta)
		r = check_meta_free(d->folder, m->names.meta, err);
	return r;
}

static int name_all(struct vhd_live_set *set, const char *name, struct sp_err *err)
{
	static const char remedy[] = ": an earlier snapshot was interrupted; stop the machine and start it again";
	struct store_folder *f = set->member[0].disk->folder;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < set->count; i++)
		r = name_member(set, i, name, err);
	if (r < 0)
		return r;
	set->prepared = live_name_record(set->member[0].names.image, false);
	set->record = live_name_record(set->member[0].names.image, true);
	if (!set->prepared || !set->record)
		return sp_err_set(err, -ENOMEM, "out of memory");
	r = check_free(f, set->prepared, remedy, err);
	return r < 0 ? r : check_free(f, set->record, remedy, err);
}

/* ---- making it ----------------------------------------------------------------------------------- */

static int settle(struct vhd_disk *d, struct sp_err *err)
{
	int r;

	pthread_mutex_lock(&d->meta);
	r = disk_begin_locked(d);
	pthread_mutex_unlock(&d->meta);
	return r < 0 ? sp_err_set(err, r, "%s cannot be written: %s", d->leaf->name, strerror(-r)) : 0;
}

static int settle_all(struct vhd_live_set *set, struct sp_err *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < set->count; i++)
		r = settle(set->member[i].disk, err);
	return r;
}

static int record(struct vhd_live_set *set, struct sp_err *err)
{
	struct live_record rec = { .set = set->guid, .count = set->count };
	int r;

	rec.entry = sp_calloc(set->count, sizeof(*rec.entry));
	if (!rec.entry)
		return sp_err_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < set->count; i++)
		rec.entry[i] = (struct live_entry){
			.names = set->member[i].names, .path = set->member[i].names.image,
			.identity = set->member[i].disk->leaf->identity,
		};
	set->recorded = true;
	r = live_record_write(set->member[0].disk->folder, set->prepared, &rec, err);
	sp_free(rec.entry);		/* the names are the members' */
	return r;
}

static int make_child(struct live_member *m, struct sp_err *err)
{
	struct vhd_disk *d = m->disk;
	char *name;
	int r = op_snapshot_child(d->folder, m->names.image, m->names.child, d->leaf, m->names.file, err);

	if (r == 0)
		r = live_open_layer(d, m->names.child, STORE_RDWR, VHD_IMG_WRITABLE, &m->leaf, err);
	if (r < 0)
		return sp_err_prefix(err, r, "new leaf %s", m->names.child);
	name = sp_strdup(m->names.image);	/* it will be called so soon */
	if (name) {
		sp_free(m->leaf->name);
		m->leaf->name = name;
	}
	/* What its first write would cost, and its identity is known from here on. */
	r = m->leaf->format->begin_write(m->leaf);
	return r < 0 ? sp_err_set(err, r, "new leaf %s cannot be written: %s", m->names.child, strerror(-r)) : 0;
}

static int link_name(struct live_member *m, struct sp_err *err)
{
	struct store_folder *f = m->disk->folder;
	int r = store_folder_link(f, m->names.image, m->names.file);

	if (r == -EPERM || r == -ENOTSUP || r == -EMLINK)
		return sp_err_set(err, -ENOTSUP, "the file system cannot give %s a second name (hard link), which a "
				  "snapshot needs", m->names.image);
	if (r < 0)
		return sp_err_set(err, r, "cannot name the snapshot %s: %s", m->names.file, strerror(-r));
	m->linked = true;
	r = SP_SEED_BUG(LIVE_NO_LINK_SYNC) ? 0 : store_folder_sync(f, m->names.file);
	return r < 0 ? sp_err_set(err, r, "cannot make the name %s durable: %s", m->names.file, strerror(-r)) : 0;
}

static int make_meta(struct vhd_live_set *set, struct live_member *m, struct sp_err *err)
{
	struct live_meta meta = { .set = set->guid, .time = set->time, .level = "crash" };

	return m->names.meta ? live_meta_write(m->disk->folder, m->names.meta, &meta, err) : 0;
}

static int make_all(struct vhd_live_set *set, struct sp_err *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < set->count; i++) {
		r = make_child(&set->member[i], err);
		if (r == 0)
			r = link_name(&set->member[i], err);
		if (r == 0)
			r = make_meta(set, &set->member[i], err);
	}
	return r;
}

int live_prepare(struct vhd_disk *const *disks, unsigned count, const struct vhd_live_opts *o, bool hidden,
		 struct vhd_live_set **ret_set, struct sp_err *err)
{
	struct vhd_live_set *set = set_new(disks, count, o);
	int r;

	if (!set)
		return sp_err_set(err, -ENOMEM, "out of memory");
	set->hidden = hidden;
	r = claim_all(set, err);
	if (r == 0)
		r = name_all(set, o->name, err);
	if (r == 0)
		r = settle_all(set, err);
	if (r == 0)
		r = record(set, err);
	if (r == 0)
		r = make_all(set, err);
	if (r < 0) {
		vhd_live_abort(set);
		return r;
	}
	*ret_set = set;
	return 0;
}

int vhd_live_prepare(struct vhd_disk *const *disks, unsigned count, const struct vhd_live_opts *o,
		     struct vhd_live_set **ret_set, struct sp_err *err)
{
	int r;

	if (count == 0 || count > VHD_LIVE_DISKS_MAX)
		return sp_err_set(err, -EINVAL, "a set has 1 to %d disks, not %u", VHD_LIVE_DISKS_MAX, count);
	r = op_snapshot_check_name(o->name, err);
	if (r == 0 && live_name_reserved(o->name))
		r = sp_err_set(err, -EINVAL, "names that end in \"~merge1\" or \"~merge2\" are used while snapshots "
			       "are deleted");
	return r < 0 ? r : live_prepare(disks, count, o, false, ret_set, err);
}

/* ---- taking it back ------------------------------------------------------------------------------ */

static void unmake(struct live_member *m)
{
	struct store_folder *f = m->disk->folder;

	vhd_image_close(m->leaf, true);
	store_folder_unlink(f, m->names.child);
	if (m->linked)
		store_folder_unlink(f, m->names.file);
	if (m->names.meta)
		live_file_remove(f, m->names.meta);
	store_folder_sync(f, m->names.image);
}

/* What fails here is left to the next recovery, which finds the record. */
void vhd_live_abort(struct vhd_live_set *set)
{
	struct store_folder *f;

	if (!set)
		return;
	f = set->member[0].disk->folder;
	if (set->recorded) {
		for (unsigned i = 0; i < set->count; i++)
			unmake(&set->member[i]);
		live_file_remove(f, set->prepared);
		live_file_remove(f, set->record);
		store_folder_sync(f, set->prepared);
	}
	live_set_free(set);
}

const struct sp_guid *vhd_live_guid(const struct vhd_live_set *set)
{
	return &set->guid;
}
