/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Deleting a snapshot S of a disk in use. The layer above it, U, goes down into the file of S, the target, which then
 * takes the name of U: the rules of op_merge.c, step by step while I/O runs.
 *
 *	... <- S <- U <- C ... <- leaf		U is read by everybody and written by nobody: one frozen round
 *	... <- S <- leaf			the leaf is written to: rounds, until little is left
 *
 *   look ──► U frozen ──────────────► frozen round ──► U was a snapshot: done
 *    ▲  │				   │
 *    │  ├─► leaf, much in it ──► push a leaf; the former one is U, called "S~merge1" (or 2) ──► frozen round ──┐
 *    │  │												│
 *    │  └─► leaf, little in it ──► last round ──► done								│
 *    └───────────────────────────────────────────────────────────────────────────────────────────────────────┘
 *
 * Frozen round	marked, moved, durable, renamed as in op_merge.c; then U is taken out of the chain while drained.
 *		VHDX: U accepts S by its old identity and by its new one, which is U's, before S gets it. VHD: children
 *		know U by an id that S cannot take over safely, so U must have had the id of S from the beginning;
 *		a leaf that a merge pushes away gets it, while nobody has it as parent.
 * Last round	drained from the first byte moved until the target has the leaf's name; then it is the leaf.
 *
 * The chain in the files reads the same at every instant. Interrupted, it has all its layers, and both this and
 * vhd-tool snapshot delete go on: a target that has U's identity already is marked, and moving again is harmless.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"
#include "base/seed.h"
#include "vhd/live_int.h"

#define SMALL SP_MIB(16)
#define ROUNDS_MAX 12
#define ROUNDS_CALM 3		/* from the next one on twice as much counts as little, and twice that ... */
#define STRETCH_MAX 16u

struct merge {
	struct vhd_disk *disk;
	const char *name;
	struct vhd_live_merge_opts o;
	struct sp_job *job;
	struct vhd_live_merge_result *result;
	unsigned target;		/* level */
	unsigned stretch;		/* of what counts as little */
	bool done;
};

static const char *layer_name(struct merge *m, unsigned level)
{
	return disk_layer_name(m->disk, level);
}

static bool snapshot_at(struct merge *m, unsigned level, char name[static 256])
{
	const char *image = layer_name(m, m->disk->layers - 1), *file = layer_name(m, level);

	return image && file && op_snapshot_name(image, file, name, 256);
}

/* A rest of an interrupted merge stands for its snapshot. */
static int find_target(struct merge *m, struct sp_err *err)
{
	char name[256];

	for (unsigned level = 0; level + 1 < m->disk->layers; level++) {
		if (!snapshot_at(m, level, name))
			continue;
		if (strcmp(name, m->name) == 0 || live_name_is_rest(name, m->name)) {
			m->target = level;
			return 0;
		}
	}
	return sp_err_set(err, -ENOENT, "%s has no snapshot \"%s\"", m->disk->leaf->name, m->name);
}

/* ---- the target becomes writable ----------------------------------------------------------------- */

static bool is_vhdx(const struct merge *m)
{
	return m->disk->leaf->format->id == VHD_FORMAT_VHDX;
}

/* Not yet in the chain: identity and size, so that moving changes neither. */
static int mark_target(struct merge *m, struct vhd_image *img, const struct sp_guid *identity, struct sp_err *err)
{
	uint64_t size = m->disk->layer[m->target + 1].img->size;
	int r;

	if (img->size > size)
		return sp_err_set(err, -ENOTSUP, "%s is larger than the layer above it, and cannot be shrunk in place",
				  img->name);
	r = is_vhdx(m) ? img->format->set_identity(img, identity, err) : img->format->begin_write(img);
	if (r == 0 && img->size < size)
		r = img->format->grow(img, size, err);
	return r;
}

static int open_target(struct merge *m, const struct sp_guid *identity, struct sp_err *err)
{
	struct vhd_disk *d = m->disk;
	struct vhd_image *img;
	int r = live_thaw(d, m->target, &img, err);

	if (r < 0)
		return r;
	r = mark_target(m, img, identity, err);
	if (r == 0)
		r = live_replace(d, m->target, img, m->o.drain_ms, true, err);
	if (r < 0) {
		vhd_image_close(img, false);
		store_relock(d->layer[m->target].img->store, true, NULL);
	}
	return r;
}

/* Whatever happened: a clean file that others may read, if it can be had. */
static int close_target(struct merge *m, int r, struct sp_err *err)
{
	bool broken = r < 0 && r != -ECANCELED && r != -ENOSPC;
	int closed = live_freeze(m->disk, m->target, m->o.drain_ms, broken, r < 0 ? NULL : err);

	return r < 0 ? r : closed;
}

static int move(struct merge *m, bool drained, struct sp_err *err)
{
	bool first = m->result->rounds == 1;	/* those after it have a race to win against the writer */
	struct live_move mv = {
		.disk = m->disk, .target = m->target, .drained = drained, .job = drained ? NULL : m->job,
		.gives_way = first, .rate = first ? m->o.rate_limit : 0,
	};
	int r = live_move_all(&mv, err);

	m->result->bytes_moved += mv.moved;
	m->result->bytes_zeroed += mv.zeroed;
	return r;
}

/* ---- frozen round -------------------------------------------------------------------------------- */

/* VHDX: U accepts the target under both identities. */
static int accept_both(struct merge *m, struct sp_err *err)
{
	struct vhd_disk *d = m->disk;
	unsigned level = m->target + 1;
	struct vhd_set_parent p = {
		.identity = { d->layer[m->target].img->identity, d->layer[level].img->identity }, .identities = 2,
	};
	struct vhd_image *img;
	int r;

	if (sp_guid_equal(&p.identity[0], &p.identity[1]) || SP_SEED_BUG(LIVE_MERGE_NO_MARK))
		return 0;		/* an earlier run has done it, or there would be no chain */
	r = live_thaw(d, level, &img, err);
	if (r < 0)
		return r;
	r = img->format->set_parent(img, &p, err);
	r = op_image_close(img, r, err);
	store_relock(d->layer[level].img->store, true, NULL);
	return r;
}

static int check_vhd(struct merge *m, struct sp_err *err)
{
	const struct vhd_image *above = m->disk->layer[m->target + 1].img;

	if (sp_guid_equal(&above->identity, &m->disk->layer[m->target].img->identity))
		return 0;
	return sp_err_set(err, -ENOTSUP, "%s is a VHD with a snapshot above it, which is known by an id that a merge "
			  "under running I/O cannot keep: delete the newest snapshot first, or this one while the disk "
			  "is not in use", layer_name(m, m->target));
}

/* The side-car of a snapshot that is no more. */
static void forget_meta(struct merge *m, const char *file)
{
	SP_AUTO_FREE char *meta = live_name_meta(file);

	if (!meta || live_file_remove(m->disk->folder, meta) < 0 || store_folder_sync(m->disk->folder, file) < 0) {
		/* A few bytes that nothing refers to. */
	}
}

/* The name and the place in the chain change together, so that neither is left alone if I/O does not end. */
static int take_out(struct merge *m, const char *from, const char *to, struct sp_err *err)
{
	struct vhd_disk *d = m->disk;
	struct vhd_image *gone;
	int r = disk_edit_begin(d, m->o.drain_ms);

	if (r < 0)
		return sp_err_set(err, r, "I/O does not end within %u ms", m->o.drain_ms);
	r = store_folder_rename(d->folder, from, to, true);
	gone = r == 0 ? disk_edit_remove(d, m->target + 1) : NULL;
	disk_edit_end(d);
	vhd_image_close(gone, true);
	return r < 0 ? sp_err_set(err, r, "cannot rename %s to %s: %s", from, to, strerror(-r)) : 0;
}

static int finish_frozen(struct merge *m, struct sp_err *err)
{
	struct vhd_disk *d = m->disk;
	SP_AUTO_FREE char *from = sp_strdup(layer_name(m, m->target));
	SP_AUTO_FREE char *to = sp_strdup(layer_name(m, m->target + 1));
	int r = from && to ? take_out(m, from, to, err) : sp_err_set(err, -ENOMEM, "out of memory");

	if (r < 0)
		return r;
	r = store_folder_sync(d->folder, to);
	if (r < 0)
		return sp_err_set(err, r, "cannot make the new name %s durable: %s", to, strerror(-r));
	forget_meta(m, from);
	return 0;
}

static int frozen_round(struct merge *m, struct sp_err *err)
{
	struct vhd_disk *d = m->disk;
	struct sp_guid identity = d->layer[m->target + 1].img->identity;
	uint64_t bytes;
	int r = live_layer_bytes(d, m->target + 1, &bytes);

	if (r < 0)
		return sp_err_set(err, r, "%s: cannot read its map: %s", layer_name(m, m->target + 1), strerror(-r));
	sp_job_start(m->job, bytes);
	r = is_vhdx(m) ? accept_both(m, err) : check_vhd(m, err);
	if (r == 0)
		r = open_target(m, &identity, err);
	if (r < 0)
		return r;
	r = move(m, false, err);
	if (r == 0)
		r = finish_frozen(m, err);
	r = close_target(m, r, err);
	return r == 0 && m->target + 1 == d->layers - 1 ? live_tell_mtime(d, err) : r;
}

/* ---- the leaf ------------------------------------------------------------------------------------ */

static void waited(struct merge *m, uint64_t ns)
{
	m->result->pause_ns = sp_max(m->result->pause_ns, ns);
}

/* VHD: the leaf will be known to its child by the id of the target, which then can take its place. */
static int take_target_id(struct merge *m, struct sp_err *err)
{
	struct vhd_disk *d = m->disk;
	struct sp_guid id = d->layer[m->target].img->identity;
	int r = 0;

	if (is_vhdx(m) || sp_guid_equal(&d->leaf->identity, &id))
		return 0;
	disk_formats_lock(d);
	r = d->leaf->format->set_identity(d->leaf, &id, err);
	disk_formats_unlock(d);
	return r;
}

/* The writes go to a fresh leaf, the present one becomes U. */
static int push_leaf(struct merge *m, struct sp_err *err)
{
	char taken[256] = "";
	bool first = !snapshot_at(m, m->target, taken) || !live_name_is_rest(taken, m->name) ||
		     taken[strlen(taken) - 1] != '1';
	SP_AUTO_FREE char *name = sp_asprintf("%s~merge%c", m->name, first ? '1' : '2');
	struct vhd_live_opts o = { .name = name, .drain_ms = m->o.drain_ms };
	struct vhd_live_timing t = { 0 };
	struct vhd_live_set *set;
	int r = name ? take_target_id(m, err) : sp_err_set(err, -ENOMEM, "out of memory");

	if (r == 0)
		r = live_prepare(&m->disk, 1, &o, true, &set, err);
	if (r < 0)
		return r;
	r = vhd_live_commit(set, false, &t, err);
	waited(m, t.pause_ns);
	if (r < 0) {
		vhd_live_abort(set);
		return r;
	}
	return vhd_live_finish(set, NULL, err);
}

/* Drained. The name in use goes over to the target, and so does the disk. */
static int switch_leaf(struct merge *m, struct vhd_image **ret_gone, struct sp_err *err)
{
	struct vhd_disk *d = m->disk;
	SP_AUTO_FREE char *from = sp_strdup(layer_name(m, m->target));
	const char *to = layer_name(m, m->target + 1);
	int r = from ? store_folder_rename(d->folder, from, to, true) : -ENOMEM;

	if (r < 0)
		return sp_err_set(err, r, "cannot rename %s to %s: %s", layer_name(m, m->target), to, strerror(-r));
	/* The former leaf has no name any more: there is no way back, and without this sync none forward. */
	r = disk_sync_result(d, store_folder_sync(d->folder, to));
	*ret_gone = disk_edit_remove(d, m->target + 1);
	if (r < 0)
		return sp_err_set(err, r, "cannot make the new name of %s durable: %s", d->leaf->name, strerror(-r));
	forget_meta(m, from);
	return 0;
}

static int last_drained(struct merge *m, struct vhd_image **ret_gone, struct sp_err *err)
{
	struct vhd_disk *d = m->disk;
	int r;

	if (d->leaf->size != d->layer[m->target].img->size)
		return -EAGAIN;		/* it has grown meanwhile: once more */
	r = move(m, true, err);
	return r < 0 ? r : switch_leaf(m, ret_gone, err);
}

/* Nobody may take what is written from here on for what the snapshots above the target were made from. */
static int renew_identity(struct merge *m, struct sp_err *err)
{
	struct vhd_disk *d = m->disk;
	struct sp_guid id;
	int r;

	if (!is_vhdx(m))
		return 0;
	sp_env_guid(&id);
	disk_formats_lock(d);
	r = d->leaf->format->set_identity(d->leaf, &id, err);
	disk_formats_unlock(d);
	disk_track_switched(d);		/* its record must name the new identity */
	return r;
}

static int last_round(struct merge *m, struct sp_err *err)
{
	struct vhd_disk *d = m->disk;
	struct sp_guid identity = d->layer[m->target].img->identity;
	struct vhd_image *gone = NULL;
	uint64_t start;
	int r = open_target(m, &identity, err);

	if (r < 0)
		return r;
	start = sp_env_monotonic_ns();
	r = disk_edit_begin(d, m->o.drain_ms);
	if (r < 0) {
		sp_err_set(err, r, "I/O does not end within %u ms", m->o.drain_ms);
	} else {
		r = last_drained(m, &gone, err);
		disk_edit_end(d);
	}
	waited(m, sp_env_monotonic_ns() - start);
	if (!gone)
		return close_target(m, r, err);
	vhd_image_close(gone, true);
	m->done = true;
	return r < 0 ? r : renew_identity(m, err);
}

/* ---- rounds -------------------------------------------------------------------------------------- */

static int leaf_round(struct merge *m, struct sp_err *err)
{
	uint64_t bytes;
	int r = live_layer_bytes(m->disk, m->target + 1, &bytes);

	if (r < 0)
		return sp_err_set(err, r, "%s: cannot read its map: %s", m->disk->leaf->name, strerror(-r));
	/* A guest that writes as fast as data goes down is made to wait longer rather than for ever. */
	if (m->result->rounds > ROUNDS_CALM && m->stretch < STRETCH_MAX)
		m->stretch *= 2;
	if (bytes > m->o.small * m->stretch)
		return push_leaf(m, err);
	r = last_round(m, err);
	return r == -EAGAIN && !m->done ? 0 : r;
}

static int one_round(struct merge *m, struct sp_err *err)
{
	char name[256];
	int r;

	if (m->target + 1 == m->disk->layers - 1)
		return leaf_round(m, err);
	m->result->rounds++;
	r = frozen_round(m, err);
	if (r == 0)
		m->done = !snapshot_at(m, m->target, name) || !live_name_is_rest(name, m->name);
	return r;
}

static int all_rounds(struct merge *m, struct sp_err *err)
{
	int r = find_target(m, err);

	for (unsigned i = 0; r == 0 && !m->done; i++) {
		if (i == 2 * ROUNDS_MAX)
			return sp_err_set(err, -EAGAIN, "%s is written to faster than \"%s\" can be merged: try again "
					  "when there is less to do", m->disk->leaf->name, m->name);
		r = sp_job_advance(m->job, 0);
		if (r == 0)
			r = one_round(m, err);
	}
	return r;
}

int vhd_live_merge(struct vhd_disk *d, const char *name, const struct vhd_live_merge_opts *o, struct sp_job *job,
		   struct vhd_live_merge_result *ret, struct sp_err *err)
{
	static const struct vhd_live_merge_opts defaults;
	struct vhd_live_merge_result mine;
	struct merge m = { .disk = d, .name = name, .o = o ? *o : defaults, .job = job, .result = ret ? ret : &mine,
			   .stretch = 1 };
	int r = op_snapshot_check_name(name, err);

	*m.result = (struct vhd_live_merge_result){ 0 };
	m.o.small = m.o.small ? m.o.small : SMALL;
	m.o.drain_ms = m.o.drain_ms ? m.o.drain_ms : VHD_LIVE_DRAIN_MS;
	if (r == 0 && !d->writable)
		r = sp_err_set(err, -EROFS, "the disk is open read-only");
	if (r == 0)
		r = live_claim(d, err);
	if (r < 0)
		return r;
	r = all_rounds(&m, err);
	live_unclaim(d);
	if (r == 0)
		sp_job_finish(job);
	return r;
}
