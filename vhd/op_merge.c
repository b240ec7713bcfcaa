/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * merge - the topmost layers of a chain go down into the layer below them, the target.
 *
 *	leaf -> ... -> lowest -> target -> ...          before
 *	leaf (was target) -> ...                        after
 *
 * What holds at each step, so that power may fail at any write:
 *
 *   marked	VHDX: the lowest child accepts two identities of its parent, the old one and G, the identity of the
 *		leaf; then the target's identity becomes G. The chain opens before, between and after. Whoever had
 *		the leaf as parent will accept the merged target in its place. (VHD: a parent keeps its identity.)
 *   grown	the target is as large as the leaf. The new part reads zeros, as it did: beyond a parent's end is zero.
 *   moved	what the children say is copied into the target. They go on overriding the same bytes, so the
 *		chain reads the same at every instant. Copying again is harmless.
 *   durable	the target holds everything on the platter.
 *   renamed	the target takes the leaf's name in one atomic rename, made durable before anything is deleted. The
 *		name in use is never without its content.
 *   cleaned	the layers between are deleted. Nothing refers to them any more.
 *
 * Interrupted before "renamed", the chain still has all its layers and merging again does the work again. A VHDX target
 * that carries the leaf's identity already is the mark of that: then the merge goes on to that target, whatever
 * number of layers is asked for. With keep, it ends at "durable".
 */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"
#include "base/seed.h"
#include "vhd/op_workers.h"
#include "vhd/ops_int.h"

struct merge {
	struct store_folder *folder;
	const struct vhd_merge_opts *opts;
	struct op_chain chain;
	unsigned layers;		/* that go down; chain.layer[layers] is the target */
	struct sp_guid identity;	/* VHDX: the target's in the end */

	struct vhd_disk *children;	/* the top layers alone, read-only */
	struct vhd_disk *target;	/* writable, or read-only in a dry run */
	struct op_walk walk;
	uint64_t start_ns;
	_Atomic uint64_t moved, zeroed, paced;
};

static struct op_layer *target_of(struct merge *m)
{
	return &m->chain.layer[m->layers];
}

/* ---- plan ---------------------------------------------------------------------------------------- */

static int check_names(struct merge *m, struct sp_err *err)
{
	struct op_layer *leaf = &m->chain.layer[0], *target = target_of(m);

	if (m->opts->keep)
		return 0;
	if (leaf->format != target->format)
		return sp_err_set(err, -ENOTSUP, "%s is a %s image and cannot take the name of %s; keep the merged "
				  "layers", target->name, vhd_format_name(target->format), leaf->name);
	/* Its own parent is stored relative to the folder it is in. */
	if (target->has_parent && !op_name_same_dir(leaf->name, target->name))
		return sp_err_set(err, -ENOTSUP, "%s has a parent and would have to move to another folder to take the "
				  "name %s; keep the merged layers", target->name, leaf->name);
	return 0;
}

static int plan(struct merge *m, const char *name, struct sp_err *err)
{
	struct op_layer *layer;
	int r = op_chain_list(m->folder, name, &m->chain, err);

	if (r < 0)
		return r;
	layer = m->chain.layer;
	m->layers = m->opts->layers ? m->opts->layers : 1;
	m->identity = layer[0].identity;
	for (unsigned i = 1; layer[0].format == VHD_FORMAT_VHDX && i < m->chain.count; i++)
		if (sp_guid_equal(&layer[i].identity, &m->identity))
			m->layers = i;		/* interrupted: goes on */
	if (m->layers >= m->chain.count)
		return sp_err_set(err, -EINVAL, "%s has %u layers below it: cannot merge %u down", name,
				  m->chain.count - 1, m->layers);
	if (layer[0].size < layer[m->layers].size)
		return sp_err_set(err, -ENOTSUP, "%s is smaller than %s, which cannot be shrunk in place: convert the "
				  "chain instead", name, layer[m->layers].name);
	return check_names(m, err);
}

/* ---- mark, grow ---------------------------------------------------------------------------------- */

static int accept_both(struct merge *m, struct vhd_image *lowest, struct sp_err *err)
{
	struct vhd_set_parent p = { .identity = { target_of(m)->identity, m->identity }, .identities = 2 };

	if (sp_guid_equal(&p.identity[0], &p.identity[1]))
		return 0;	/* done by an earlier run, or there would be no chain */
	return lowest->format->set_parent(lowest, &p, err);
}

static int mark_child(struct merge *m, struct sp_err *err)
{
	const char *name = m->chain.layer[m->layers - 1].name;
	struct vhd_image *lowest;
	int r = op_image_open(m->folder, name, true, &lowest, err);

	if (r < 0)
		return r;
	r = accept_both(m, lowest, err);
	if (r < 0)
		sp_err_prefix(err, r, "%s", name);
	return op_image_close(lowest, r, err);
}

static int mark_target(struct merge *m, struct sp_err *err)
{
	bool vhdx = target_of(m)->format == VHD_FORMAT_VHDX, grow = m->chain.layer[0].size > target_of(m)->size;
	struct vhd_image *img;
	int r;

	if (!vhdx && !grow)
		return 0;
	r = op_image_open(m->folder, target_of(m)->name, true, &img, err);
	if (r < 0)
		return r;
	if (vhdx)	/* growing is a change that a guest can see: it would draw a random identity */
		r = img->format->set_identity(img, &m->identity, err);
	if (r == 0 && grow)
		r = img->format->grow(img, m->chain.layer[0].size, err);
	if (r < 0)
		sp_err_prefix(err, r, "%s", target_of(m)->name);
	return op_image_close(img, r, err);
}

/* ---- move ---------------------------------------------------------------------------------------- */

/* Holds this thread back so that all together keep to the rate. */
static int pace(struct merge *m, uint64_t bytes)
{
	uint64_t total = atomic_fetch_add(&m->paced, bytes) + bytes, rate = m->opts->rate_limit, due, now;
	int r = 0;

	if (rate == 0)
		return 0;
	due = m->start_ns + (uint64_t)((double)total / (double)rate * 1e9);
	while (r == 0 && (now = sp_env_monotonic_ns()) < due) {
		struct timespec nap = { .tv_nsec = (long)sp_min(due - now, 50000000) };

		nanosleep(&nap, NULL);
		r = sp_job_advance(m->walk.job, 0);	/* stays cancellable */
	}
	return r;
}

static int move_data(struct merge *m, struct op_worker *w, uint64_t offset, size_t len)
{
	int r;

	atomic_fetch_add(&m->moved, len);
	if (m->opts->dry_run)
		return 0;
	r = vhd_disk_read(m->children, w->buffer, len, offset);
	if (r < 0)
		return sp_err_set(&w->err, r, "cannot read %zu bytes at %#" PRIx64 ": %s", len, offset, strerror(-r));
	r = vhd_disk_write(m->target, w->buffer, len, offset);
	if (r < 0)
		return sp_err_set(&w->err, r, "cannot write %zu bytes at %#" PRIx64 " of %s: %s", len, offset,
				  target_of(m)->name, strerror(-r));
	return pace(m, len);
}

/* Zeros that hide what the target has. */
static int move_zeroes(struct merge *m, struct op_worker *w, uint64_t offset, uint64_t len)
{
	uint64_t inside = offset < vhd_disk_size(m->target) ? vhd_disk_size(m->target) - offset : 0;
	struct vhd_range t;
	int r = 0;

	if (SP_SEED_BUG(MERGE_SKIP_ZEROES))
		return 0;
	len = sp_min(len, inside);	/* a dry run has not grown it */
	for (uint64_t done = 0; r == 0 && done < len; done += t.len) {
		r = op_map_joined(m->target, offset + done, len - done, &t);
		if (r < 0 || t.kind == VHD_RANGE_ZERO)
			continue;
		atomic_fetch_add(&m->zeroed, t.len);
		if (!m->opts->dry_run)
			r = vhd_disk_write_zeroes(m->target, t.offset, t.len);
	}
	if (r < 0)
		return sp_err_set(&w->err, r, "cannot zero %" PRIu64 " bytes at %#" PRIx64 " of %s: %s", len, offset,
				  target_of(m)->name, strerror(-r));
	return 0;
}

static int move_next(void *arg, struct op_window *ret, struct sp_err *err)
{
	struct merge *m = arg;

	return op_walk_next(&m->walk, ret, err);
}

static int move_work(void *arg, struct op_worker *w, const struct op_window *win)
{
	struct merge *m = arg;
	struct vhd_range range;
	int r = 0;

	for (uint64_t done = 0; r == 0 && done < win->len; done += range.len) {
		r = op_map_joined(m->children, win->offset + done, win->len - done, &range);
		if (r < 0)
			return sp_err_set(&w->err, r, "cannot look up the bytes at %#" PRIx64 ": %s",
					  win->offset + done, strerror(-r));
		if (range.kind == VHD_RANGE_DATA)
			r = move_data(m, w, range.offset, (size_t)range.len);
		else if (range.kind == VHD_RANGE_ZERO)
			r = move_zeroes(m, w, range.offset, range.len);
	}
	return r;
}

static int move_all(struct merge *m, struct sp_job *job, struct sp_err *err)
{
	struct op_task task = { .next = move_next, .work = move_work, .arg = m, .threads = m->opts->threads,
				.job = job };

	m->walk = (struct op_walk){ .disk = m->children, .end = vhd_disk_size(m->children), .want = OP_DATA | OP_ZERO,
				    .refuse = OP_UNKNOWN, .job = job };
	m->start_ns = sp_env_monotonic_ns();
	sp_job_start(job, m->walk.end);
	return op_run(&task, err);
}

/* ---- open, finish -------------------------------------------------------------------------------- */

/* Between listing and locking somebody else may have been here. */
static int check_still_parent(struct merge *m, struct sp_err *err)
{
	const struct vhd_parent_ref *ref = &vhd_disk_image(m->children, m->layers - 1)->parent;
	const struct sp_guid *have = &vhd_disk_image(m->target, 0)->identity;

	for (unsigned i = 0; i < ref->identities; i++)
		if (sp_guid_equal(&ref->identity[i], have))
			return 0;
	return sp_err_set(err, -ESTALE, "%s was changed by somebody else meanwhile", target_of(m)->name);
}

static int open_both(struct merge *m, struct sp_err *err)
{
	struct vhd_open_opts top = { .depth = m->layers, .format = m->chain.layer[0].format };
	struct vhd_open_opts bottom = { .flags = m->opts->dry_run ? 0 : VHD_OPEN_WRITE,
					.format = target_of(m)->format };
	struct vhd_image *img;
	int r = vhd_disk_open_in(m->folder, target_of(m)->name, &bottom, &m->target, err);

	if (r == 0)
		r = vhd_disk_open_in(m->folder, m->chain.layer[0].name, &top, &m->children, err);
	if (r == 0)
		r = check_still_parent(m, err);
	if (r < 0 || m->opts->dry_run || target_of(m)->format != VHD_FORMAT_VHDX)
		return r;
	img = vhd_disk_image(m->target, 0);	/* no I/O yet: writing must not draw a new identity */
	return img->format->set_identity(img, &m->identity, err);
}

static int rename_target(struct merge *m, struct sp_err *err)
{
	struct op_layer *layer = m->chain.layer;
	int r;

	if (SP_SEED_BUG(MERGE_NO_DIR_SYNC))
		r = store_folder_rename(m->folder, target_of(m)->name, layer[0].name, true);
	else
		r = op_rename_durable(m->folder, target_of(m)->name, layer[0].name, true, err);
	if (r < 0)
		return r;
	for (unsigned i = 1; r == 0 && i < m->layers; i++) {
		r = store_folder_unlink(m->folder, layer[i].name);
		if (r == 0)
			r = store_folder_sync(m->folder, layer[i].name);
		if (r < 0)
			sp_err_set(err, r, "the merge is complete, but %s could not be deleted: %s", layer[i].name,
				   strerror(-r));
	}
	return r;
}

static int finish(struct merge *m, struct sp_err *err)
{
	int r = SP_SEED_BUG(MERGE_NO_TARGET_FLUSH) ? 0 : vhd_disk_flush(m->target);

	if (r < 0)
		return sp_err_set(err, r, "cannot flush %s: %s", target_of(m)->name, strerror(-r));
	return m->opts->keep ? 0 : rename_target(m, err);	/* the target is still locked: nobody is in between */
}

static int run(struct merge *m, struct sp_job *job, struct sp_err *err)
{
	int r = 0, closed;

	if (!m->opts->dry_run) {
		if (target_of(m)->format == VHD_FORMAT_VHDX)
			r = mark_child(m, err);
		if (r == 0)
			r = mark_target(m, err);
	}
	if (r == 0)
		r = open_both(m, err);
	if (r == 0)
		r = move_all(m, job, err);
	vhd_disk_close(m->children, NULL);
	if (r == 0 && !m->opts->dry_run)
		r = finish(m, err);
	closed = vhd_disk_close(m->target, r < 0 ? NULL : err);
	return r < 0 ? r : closed;
}

static void report(struct merge *m, struct vhd_merge_result *ret)
{
	const char *name = m->opts->keep || m->opts->dry_run ? target_of(m)->name : m->chain.layer[0].name;
	SP_AUTO_FREE char *path = op_name_absolute(m->folder, name);

	ret->bytes_moved = atomic_load(&m->moved);
	ret->bytes_zeroed = atomic_load(&m->zeroed);
	snprintf(ret->target, sizeof(ret->target), "%s", path ? path : name);
}

int vhd_merge_in(struct store_folder *folder, const char *name, const struct vhd_merge_opts *opts, struct sp_job *job,
		 struct vhd_merge_result *ret, struct sp_err *err)
{
	static const struct vhd_merge_opts defaults;
	struct merge m = { .folder = folder, .opts = opts ? opts : &defaults };
	int r = plan(&m, name, err);

	if (r == 0)
		r = run(&m, job, err);
	if (r == 0) {
		sp_job_finish(job);
		if (ret)
			report(&m, ret);
	}
	op_chain_fini(&m.chain);
	return r;
}

int vhd_merge(const char *path, const struct vhd_merge_opts *opts, struct sp_job *job, struct vhd_merge_result *ret,
	      struct sp_err *err)
{
	struct op_place at;
	int r = op_place_open(path, opts ? opts->image_root : NULL, false, &at, err);

	if (r < 0)
		return r;
	r = vhd_merge_in(at.folder, at.name, opts, job, ret, err);
	op_place_close(&at);
	return r;
}
