/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * convert - a chain flattened into one new image.
 *
 * The target is filled under a temporary name, made durable, verified when asked, and only then renamed. Holes
 * and zeros of the source are not written: a new image reads zeros. Nothing needs a flush before the end.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/seed.h"
#include "vhd/op_workers.h"
#include "vhd/ops_int.h"

#define COPY_PIECE SP_KIB(512)		/* stays in the cache of the core between reading and writing */

struct copy {
	struct vhd_disk *source, *target;
	struct op_walk walk;
	bool detect_zeroes;
	bool write_zeroes;		/* the target is a device with old contents */
};

static int copy_next(void *arg, struct op_window *ret, struct sp_err *err)
{
	struct copy *c = arg;

	return op_walk_next(&c->walk, ret, err);
}

static int copy_write(struct copy *c, struct op_worker *w, const uint8_t *buf, size_t len, uint64_t offset)
{
	int r = vhd_disk_write(c->target, buf, len, offset);

	if (r < 0)
		return sp_err_set(&w->err, r, "cannot write %zu bytes at %#" PRIx64 " of the target: %s", len, offset,
				  strerror(-r));
	return 0;
}

static int copy_zeroes(struct copy *c, struct op_worker *w, uint64_t offset, uint64_t len)
{
	int r = vhd_disk_write_zeroes(c->target, offset, len);

	if (r < 0)
		return sp_err_set(&w->err, r, "cannot zero %" PRIu64 " bytes at %#" PRIx64 " of the target: %s", len,
				  offset, strerror(-r));
	return 0;
}

/* The nonzero grains of what was read. */
static int copy_nonzero(struct copy *c, struct op_worker *w, size_t len, uint64_t offset)
{
	size_t done = 0;
	int r = 0;

	while (r == 0 && done < len) {
		bool zero;
		size_t run = op_zero_run(w->buffer + done, offset + done, len - done, &zero);

		if (!zero)
			r = copy_write(c, w, w->buffer + done, run, offset + done);
		else if (c->write_zeroes)
			r = copy_zeroes(c, w, offset + done, run);
		done += run;
	}
	return r;
}

static int copy_piece(struct copy *c, struct op_worker *w, uint64_t offset, size_t len)
{
	int r = vhd_disk_read(c->source, w->buffer, len, offset);

	if (r < 0)
		return sp_err_set(&w->err, r, "cannot read %zu bytes at %#" PRIx64 " of the source: %s", len, offset,
				  strerror(-r));
	return c->detect_zeroes ? copy_nonzero(c, w, len, offset) : copy_write(c, w, w->buffer, len, offset);
}

static int copy_stretch(struct copy *c, struct op_worker *w, uint64_t offset, uint64_t len)
{
	int r = 0;

	if (SP_SEED_BUG(CONVERT_SKIP_LAST_PARTIAL) && len < OP_WINDOW)
		len = sp_align_down(len, OP_GRAIN);
	for (uint64_t done = 0; r == 0 && done < len; done += COPY_PIECE)
		r = copy_piece(c, w, offset + done, (size_t)sp_min(len - done, COPY_PIECE));
	return r;
}

static int copy_work(void *arg, struct op_worker *w, const struct op_window *win)
{
	struct copy *c = arg;
	struct vhd_range range;
	int r = 0;

	for (uint64_t done = 0; r == 0 && done < win->len; done += range.len) {
		r = op_map_joined(c->source, win->offset + done, win->len - done, &range);
		if (r < 0)
			return sp_err_set(&w->err, r, "cannot look up the bytes at %#" PRIx64 ": %s",
					  win->offset + done, strerror(-r));
		if (range.kind == VHD_RANGE_DATA)
			r = copy_stretch(c, w, range.offset, range.len);
		else if (c->write_zeroes)
			r = copy_zeroes(c, w, range.offset, range.len);
	}
	return r;
}

static int copy_all(struct vhd_disk *source, struct vhd_disk *target, const struct vhd_convert_opts *o,
		    bool write_zeroes, struct sp_job *job, struct sp_err *err)
{
	struct copy c = {
		.source = source, .target = target, .detect_zeroes = o->detect_zeroes,
		.write_zeroes = write_zeroes,
		/* A missing parent was accepted by the operator when ORPHAN_ZERO let the source open. */
		.walk = { .disk = source, .end = vhd_disk_size(source), .job = job,
			  .want = OP_DATA | (write_zeroes ? OP_ZERO | OP_UNKNOWN : 0),
			  .refuse = OP_BELOW | (o->source.orphan == VHD_ORPHAN_ZERO ? 0 : OP_UNKNOWN) },
	};
	struct op_task task = { .next = copy_next, .work = copy_work, .arg = &c, .threads = o->threads, .job = job };

	return op_run(&task, err);
}

/* ---- the target ---------------------------------------------------------------------------------- */

int op_convert_params(struct vhd_disk *source, const struct vhd_create_opts *t, struct vhd_format_create *ret,
		      struct sp_err *err)
{
	uint64_t size = vhd_disk_size(source), unit = t->format == VHD_FORMAT_RAW ? 1 : 512;

	if (t->kind == VHD_KIND_DIFFERENCING || t->parent)
		return sp_err_set(err, -EINVAL, "a conversion makes an image without a parent; use create and rebase");
	*ret = (struct vhd_format_create){
		.size = t->size, .kind = t->kind, .block_size = t->block_size, .logical_sector = t->logical_sector,
		.physical_sector = t->physical_sector, .log_size = t->log_size, .preallocate = t->preallocate,
	};
	if (t->format == VHD_FORMAT_VHDX && ret->logical_sector == 0) {
		/* Partition tables count in logical sectors: they only make sense with the same size. */
		ret->logical_sector = vhd_disk_logical_sector(source);
		if (ret->physical_sector == 0)
			ret->physical_sector = sp_max(vhd_disk_physical_sector(source), ret->logical_sector);
	}
	if (t->format == VHD_FORMAT_VHDX)
		unit = sp_max(ret->logical_sector, 512);
	if (ret->size == 0)
		ret->size = sp_align_up(size, unit);	/* sizes are far below 2^64: formats see to that */
	if (ret->size < size)
		return sp_err_set(err, -EINVAL, "target size %" PRIu64 " is smaller than the source's %" PRIu64,
				  ret->size, size);
	return 0;
}

static int verify(struct vhd_disk *source, struct store_folder *f, const char *temp, const struct vhd_convert_opts *o,
		  struct sp_job *job, struct sp_err *err)
{
	struct vhd_open_opts ro = { .format = o->target.format };
	struct vhd_hash a = { 0 }, b = { 0 };
	struct vhd_disk *target;
	int r = vhd_disk_open_in(f, temp, &ro, &target, err);

	if (r < 0)
		return r;
	/* Digests of every MiB say as much as one of all, and all threads can work on them. */
	r = op_hash(source, vhd_disk_size(source), false, o->threads, job, &a, err);
	if (r == 0)
		r = op_hash(target, vhd_disk_size(source), false, o->threads, job, &b, err);
	for (uint64_t i = 0; r == 0 && i < a.chunks; i++)
		if (memcmp(a.chunk[i], b.chunk[i], 32) != 0)
			r = sp_err_set(err, -EBADMSG, "verification failed: the SHA-256 of MiB %" PRIu64
				       " of the target is not that of the source", i);
	vhd_hash_fini(&a);
	vhd_hash_fini(&b);
	vhd_disk_close(target, NULL);
	return r;
}

/* A block device is written in place; a file that the source is read from must not be replaced under its chain. */
static int check_target_name(struct vhd_disk *source, struct store_folder *f, const char *target,
			     const struct vhd_convert_opts *o, bool *ret_device, struct sp_err *err)
{
	struct store *s;
	int r = store_folder_open(f, target, STORE_NO_LOCK, &s, NULL);

	*ret_device = false;
	if (r < 0)
		return 0;	/* not there, or nothing we could look at: creating will tell */
	*ret_device = s->is_device;
	if (!o->replace && !o->target.replace)
		r = sp_err_set(err, -EEXIST, "%s exists already", target);
	else if (s->is_device && o->target.format != VHD_FORMAT_RAW)
		r = sp_err_set(err, -EINVAL, "%s is a block device: the target format can only be raw", target);
	for (unsigned i = 0; r == 0 && i < vhd_disk_layers(source); i++)
		if (store_same(s, vhd_disk_image(source, i)->store))
			r = sp_err_set(err, -EINVAL, "%s belongs to the source's chain", target);
	store_close(s);
	return r;
}

int op_convert_fill(struct vhd_disk *source, struct store_folder *f, const char *name, const struct vhd_convert_opts *o,
		    bool device, struct sp_job *job, struct sp_err *err)
{
	struct vhd_open_opts rw = { .flags = VHD_OPEN_WRITE | VHD_OPEN_BULK, .format = o->target.format };
	struct vhd_disk *target;
	int r = vhd_disk_open_in(f, name, &rw, &target, err);

	if (r < 0)
		return r;
	if (vhd_disk_size(target) < vhd_disk_size(source))
		r = sp_err_set(err, -ENOSPC, "%s holds %" PRIu64 " bytes, the source %" PRIu64, name,
			       vhd_disk_size(target), vhd_disk_size(source));
	else
		r = copy_all(source, target, o, device, job, err);
	if (r < 0) {
		vhd_disk_abandon(target);	/* no use any more: do not wait for the platter */
		return r;
	}
	return vhd_disk_close(target, err);
}

static int make_file(struct vhd_disk *source, struct store_folder *f, const char *target, const char *temp,
		     const struct vhd_convert_opts *o, struct sp_job *job, struct sp_err *err)
{
	struct vhd_format_create c;
	int r = op_convert_params(source, &o->target, &c, err);

	if (r < 0)
		return r;
	r = vhd_create_in(f, temp, o->target.format, &c, err);
	if (r == 0)
		r = op_convert_fill(source, f, temp, o, false, job, err);
	if (r == 0 && o->verify)
		r = verify(source, f, temp, o, job, err);
	if (r == 0)
		r = op_rename_durable(f, temp, target, o->replace || o->target.replace, err);
	if (r < 0)
		store_folder_unlink(f, temp);
	return r;
}

int op_convert_disk(struct vhd_disk *source, struct store_folder *f, const char *target,
		    const struct vhd_convert_opts *o, struct sp_job *job, struct sp_err *err)
{
	SP_AUTO_FREE char *temp = op_name_temp(target);
	bool device;
	int r;

	if (!temp)
		return sp_err_set(err, -ENOMEM, "out of memory");
	if (o->target.format == VHD_FORMAT_AUTO)
		return sp_err_set(err, -EINVAL, "name the format of the target");
	r = check_target_name(source, f, target, o, &device, err);
	if (r < 0)
		return r;
	sp_job_start(job, vhd_disk_size(source) * (o->verify ? 3 : 1));
	if (device) {
		r = op_convert_fill(source, f, target, o, true, job, err);
		if (r == 0 && o->verify)
			r = verify(source, f, target, o, job, err);
	} else {
		r = make_file(source, f, target, temp, o, job, err);
	}
	if (r == 0)
		sp_job_finish(job);
	return r;
}

int vhd_convert_in(struct store_folder *source_folder, const char *source, struct store_folder *target_folder,
		   const char *target, const struct vhd_convert_opts *o, struct sp_job *job, struct sp_err *err)
{
	struct vhd_disk *d;
	int r = vhd_disk_open_in(source_folder, source, &o->source, &d, err);

	if (r < 0)
		return r;
	r = op_convert_disk(d, target_folder, target, o, job, err);
	vhd_disk_close(d, NULL);
	return r;
}

int vhd_convert(const char *source, const char *target, const struct vhd_convert_opts *o, struct sp_job *job,
		struct sp_err *err)
{
	struct op_place to;
	struct vhd_disk *d;
	int r = vhd_disk_open(source, &o->source, &d, err);

	if (r < 0)
		return r;
	r = op_place_open(target, NULL, true, &to, err);
	if (r == 0)
		r = op_convert_disk(d, to.folder, to.name, o, job, err);
	op_place_close(&to);
	vhd_disk_close(d, NULL);
	return r;
}
