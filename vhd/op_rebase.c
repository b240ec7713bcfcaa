/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * rebase - another parent for an image, or none.
 *
 *   safe	what the image leaves to its old parent and the new one does not hold is copied into the image; those
 *		are the bytes that are read there already, so nothing changes for a reader. Once that is durable, the
 *		stored parent is switched in one step of the format's own.
 *   unsafe	only the stored parent is switched: for a parent that was moved, renamed or replaced by its equal.
 *   none	the chain is flattened into a new dynamic image under a temporary name, which then replaces the old
 *		file.
 *
 * The content of the image does not change, so neither does its identity: children of the image stay its children.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/seed.h"
#include "vhd/op_pair.h"
#include "vhd/ops_int.h"
#include "vhd/vhdx_int.h"

struct rebase {
	struct store_folder *folder;
	const char *name, *new_parent;
	const struct vhd_rebase_opts *opts;
	struct vhd_disk *disk, *parent;	/* the whole chain as it is; the new parent's chain */
	struct op_pair pair;		/* a: disk, b: parent */
	uint64_t offset;		/* pool's lock */
	_Atomic uint64_t copied;
	struct sp_job *job;
};

/* ---- copy what would change ---------------------------------------------------------------------- */

/* Layer 0 is the image itself: what it says stays true under any parent. */
static bool unaffected(const struct op_stretch *s)
{
	return s->same || s->a.layer == 0;
}

static int copy_next(void *arg, struct op_window *ret, struct sp_err *err)
{
	struct rebase *b = arg;
	uint64_t size = vhd_disk_size(b->disk);
	struct op_stretch s;

	while (b->offset < size) {
		int r = op_pair_look(&b->pair, b->offset, sp_min(size - b->offset, SP_MIB(256)), &s, err);

		if (r < 0)
			return r;
		if (!unaffected(&s)) {
			ret->offset = b->offset;
			ret->len = sp_min(size, sp_align_down(b->offset, OP_WINDOW) + OP_WINDOW) - b->offset;
			b->offset += ret->len;
			return 1;
		}
		b->offset += s.len;
		r = sp_job_advance(b->job, s.len);
		if (r < 0)
			return r;
	}
	return 0;
}

/*
 * Zeros that have to hide the new parent. Writing zeroes leaves alone what reads zeros already, which here is the old
 * parent's word: what the image does not say itself after that is written out.
 */
static int cover(struct rebase *b, const uint8_t *zeros, uint64_t offset, size_t len)
{
	struct vhd_range range;
	int r = vhd_disk_write_zeroes(b->disk, offset, len);

	for (size_t done = 0; r == 0 && done < len; done += (size_t)range.len) {
		r = vhd_disk_map(b->disk, offset + done, len - done, &range);
		if (r == 0 && range.layer != 0 && !SP_SEED_BUG(REBASE_UNCOVERED_ZEROS))
			r = vhd_disk_write(b->disk, zeros, (size_t)range.len, range.offset);
	}
	return r;
}

static int copy_up(struct rebase *b, struct op_worker *w, const uint8_t *buf, uint64_t offset, size_t len)
{
	int r;

	atomic_fetch_add(&b->copied, len);
	if (b->opts->dry_run)
		return 0;
	r = op_is_zero(buf, len) ? cover(b, buf, offset, len) : vhd_disk_write(b->disk, buf, len, offset);
	if (r < 0)
		return sp_err_set(&w->err, r, "cannot write %zu bytes at %#" PRIx64 ": %s", len, offset, strerror(-r));
	return 0;
}

/* Length of the run of equal, or of different, grains at the start. */
static size_t run_of(const uint8_t *a, const uint8_t *b, uint64_t offset, size_t len, bool *ret_equal)
{
	size_t done = 0;

	while (done < len) {
		size_t grain = (size_t)sp_min(len - done, OP_GRAIN - (offset + done) % OP_GRAIN);
		bool equal = memcmp(a + done, b + done, grain) == 0;

		if (done == 0)
			*ret_equal = equal;
		else if (equal != *ret_equal)
			break;
		done += grain;
	}
	return done;
}

static int copy_different(struct rebase *b, struct op_worker *w, uint64_t offset, size_t len)
{
	int r = op_pair_read(&b->pair, w, offset, len);

	for (size_t done = 0, run; r == 0 && done < len; done += run) {
		bool equal = true;

		run = run_of(w->buffer + done, w->buffer2 + done, offset + done, len - done, &equal);
		if (!equal)
			r = copy_up(b, w, w->buffer + done, offset + done, run);
	}
	return r;
}

static int copy_work(void *arg, struct op_worker *w, const struct op_window *win)
{
	struct rebase *b = arg;
	struct op_stretch s;
	int r = 0;

	for (uint64_t done = 0; r == 0 && done < win->len; done += s.len) {
		r = op_pair_look(&b->pair, win->offset + done, win->len - done, &s, &w->err);
		if (r == 0 && !unaffected(&s))
			r = copy_different(b, w, win->offset + done, (size_t)s.len);
	}
	return r;
}

static int copy_all(struct rebase *b, struct sp_err *err)
{
	struct op_task task = { .next = copy_next, .work = copy_work, .arg = b, .threads = b->opts->threads,
				.job = b->job };
	int r = op_pair_init(&b->pair, b->disk, "image", b->parent, "new parent", err);

	if (r < 0)
		return r;
	sp_job_start(b->job, vhd_disk_size(b->disk));
	r = op_run(&task, err);
	op_pair_fini(&b->pair);
	return r;
}

/* ---- checks -------------------------------------------------------------------------------------- */

static int check_fit(const struct vhd_image *child, const struct vhd_image *parent, struct sp_err *err)
{
	if (!child->has_parent)
		return sp_err_set(err, -EINVAL, "only a differencing image can get another parent; this one has none");
	if (child->format != parent->format)
		return sp_err_set(err, -EINVAL, "the new parent is a %s image, it must be %s", parent->format->name,
				  child->format->name);
	if (child->logical_sector != parent->logical_sector)
		return sp_err_set(err, -EINVAL, "the new parent has logical sectors of %" PRIu32 " bytes, the image of "
				  "%" PRIu32, parent->logical_sector, child->logical_sector);
	return 0;
}

/* Before any lock is taken, or the answer would be "busy". */
static int check_loop(struct rebase *b, struct sp_err *err)
{
	struct vhd_open_opts look = { .flags = VHD_OPEN_NO_LOCK };
	struct vhd_disk *d;
	struct store *s;
	int r = store_folder_open(b->folder, b->name, STORE_NO_LOCK, &s, err);

	if (r < 0)
		return r;
	r = vhd_disk_open_in(b->folder, b->new_parent, &look, &d, err);
	if (r < 0) {
		store_close(s);
		return sp_err_prefix(err, r, "new parent %s", b->new_parent);
	}
	for (unsigned i = 0; r == 0 && i < vhd_disk_layers(d); i++)
		if (store_same(s, vhd_disk_image(d, i)->store))
			r = sp_err_set(err, -ELOOP, "%s stands on %s already: the chain would be circular",
				       b->new_parent, b->name);
	vhd_disk_close(d, NULL);
	store_close(s);
	return r;
}

/* ---- the three ways ------------------------------------------------------------------------------ */

/* What is read stays the same, so writing must not draw a new identity as it does in VHDX. */
static int keep_identity(struct vhd_image *img, struct sp_err *err)
{
	struct sp_guid own = img->identity;

	return img->format->id == VHD_FORMAT_VHDX ? img->format->set_identity(img, &own, err) : 0;
}

static int switch_parent(struct rebase *b, struct vhd_image *child, struct vhd_image *parent, struct sp_err *err)
{
	return b->opts->dry_run ? 0 : op_image_set_parent(b->folder, child, b->name, parent, b->new_parent, err);
}

static int rebase_unsafe(struct rebase *b, struct sp_err *err)
{
	struct vhd_image *child, *parent;
	int r = op_image_open(b->folder, b->new_parent, false, &parent, err);

	if (r < 0)
		return r;
	r = op_image_open(b->folder, b->name, !b->opts->dry_run, &child, err);
	if (r == 0) {
		r = check_fit(child, parent, err);
		if (r == 0)
			r = switch_parent(b, child, parent, err);
		r = op_image_close(child, r, err);
	}
	vhd_image_close(parent, true);
	return r;
}

static int copy_and_switch(struct rebase *b, struct sp_err *err)
{
	struct vhd_image *child = vhd_disk_image(b->disk, 0), *parent = vhd_disk_image(b->parent, 0);
	int r = check_fit(child, parent, err);

	if (r == 0 && !b->opts->dry_run)
		r = keep_identity(child, err);
	if (r == 0)
		r = copy_all(b, err);
	if (r == 0 && !b->opts->dry_run) {
		r = vhd_disk_flush(b->disk);
		if (r < 0)
			sp_err_set(err, r, "cannot flush %s: %s", b->name, strerror(-r));
	}
	return r < 0 ? r : switch_parent(b, child, parent, err);
}

static int rebase_safe(struct rebase *b, struct sp_err *err)
{
	struct vhd_open_opts own = { .flags = b->opts->dry_run ? 0 : VHD_OPEN_WRITE };
	int r = vhd_disk_open_in(b->folder, b->name, &own, &b->disk, err), closed;

	if (r < 0)
		return sp_err_prefix(err, r, "%s", b->name);
	r = vhd_disk_open_in(b->folder, b->new_parent, NULL, &b->parent, err);
	if (r == 0)
		r = copy_and_switch(b, err);
	vhd_disk_close(b->parent, NULL);
	closed = vhd_disk_close(b->disk, r < 0 ? NULL : err);
	return r < 0 ? r : closed;
}

/* The same disk in the eyes of its children and of a guest. */
static int inherit(struct rebase *b, const char *temp, struct sp_err *err)
{
	struct vhd_image *old = vhd_disk_image(b->disk, 0), *img;
	int r = op_image_open(b->folder, temp, true, &img, err);

	if (r < 0)
		return r;
	r = img->format->set_identity(img, &old->identity, err);
	return op_image_close(img, r, err);
}

static int flatten_into(struct rebase *b, const char *temp, struct sp_err *err)
{
	struct vhd_image *old = vhd_disk_image(b->disk, 0);
	struct vhd_format_create c = {
		.size = old->size, .kind = VHD_KIND_DYNAMIC, .block_size = old->block_size,
		.logical_sector = old->logical_sector, .physical_sector = old->physical_sector,
		.disk_id = old->format->id == VHD_FORMAT_VHDX ? &vhdx_of(old)->metadata.disk_id : NULL,
	};
	struct vhd_convert_opts o = { .target.format = old->format->id, .threads = b->opts->threads,
				      .detect_zeroes = true };
	int r = vhd_create_in(b->folder, temp, old->format->id, &c, err);

	if (r < 0)
		return r;
	r = op_convert_fill(b->disk, b->folder, temp, &o, false, b->job, err);
	if (r == 0)
		r = inherit(b, temp, err);
	if (r == 0)
		r = op_rename_durable(b->folder, temp, b->name, true, err);
	if (r < 0)
		store_folder_unlink(b->folder, temp);
	return r;
}

static int flatten(struct rebase *b, struct sp_err *err)
{
	SP_AUTO_FREE char *temp = op_name_temp(b->name);
	int r = vhd_disk_open_in(b->folder, b->name, NULL, &b->disk, err);

	if (r < 0)
		return sp_err_prefix(err, r, "%s", b->name);
	if (!temp)
		r = sp_err_set(err, -ENOMEM, "out of memory");
	sp_job_start(b->job, vhd_disk_size(b->disk));
	if (r == 0 && vhd_disk_image(b->disk, 0)->has_parent && !b->opts->dry_run)
		r = flatten_into(b, temp, err);
	vhd_disk_close(b->disk, NULL);
	return r;
}

int vhd_rebase_in(struct store_folder *folder, const char *name, const char *new_parent,
		  const struct vhd_rebase_opts *opts, struct sp_job *job, struct sp_err *err)
{
	static const struct vhd_rebase_opts defaults;
	struct rebase b = { .folder = folder, .name = name, .new_parent = new_parent, .opts = opts ? opts : &defaults,
			    .job = job };
	int r;

	if (!new_parent && b.opts->unsafe)
		return sp_err_set(err, -EINVAL, "without a parent the image has to take over its data: this cannot be "
				  "done in unsafe mode");
	r = new_parent ? check_loop(&b, err) : 0;
	if (r == 0)
		r = !new_parent ? flatten(&b, err) : b.opts->unsafe ? rebase_unsafe(&b, err) : rebase_safe(&b, err);
	if (r == 0)
		sp_job_finish(job);
	if (r == 0 && b.opts->dry_run && new_parent)
		sp_err_set(err, 0, "%" PRIu64 " bytes would be copied into %s", atomic_load(&b.copied), name);
	return r;
}

int vhd_rebase(const char *path, const char *new_parent, const struct vhd_rebase_opts *opts, struct sp_job *job,
	       struct sp_err *err)
{
	struct op_place image, parent = { 0 };
	int r = op_place_open(path, opts ? opts->image_root : NULL, false, &image, err);

	if (r < 0)
		return r;
	if (new_parent)	/* has to be found below the same root when the image is opened again */
		r = op_place_open(new_parent, image.folder->path, false, &parent, err);
	if (r == 0)
		r = vhd_rebase_in(image.folder, image.name, parent.name, opts, job, err);
	op_place_close(&parent);
	op_place_close(&image);
	return r;
}
