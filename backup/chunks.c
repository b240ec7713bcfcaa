/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Copying a disk into the leaf of a set, a MiB at a time. Each is read once and digested; what has the digest it had at
 * the point before is not written. Of a MiB that changed only those 4 KiB are written that differ from what the leaf
 * reads already, which is also how an interrupted copy is continued: whatever the leaf holds, it comes out right.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "backup/backup_int.h"
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"
#include "base/seed.h"
#include "vhd/op_workers.h"

struct mover {
	struct backup_copy *c;
	struct sp_job *job;
	uint64_t at;			/* next chunk; pool's lock */
	size_t range;			/* first of c->changed that may reach c->at */
	struct vhd_range known;		/* of the source, holds c->at */
	_Atomic uint64_t bytes_read, bytes_written;
};

static const uint8_t zero_sum[32];

/* ---- which chunks -------------------------------------------------------------------------------- */

/* The last MiB of the disk as it was: with another length it has another digest. */
static bool resized(const struct backup_copy *c, uint64_t index)
{
	return index >= c->base->count ||
	       (index == c->base->count - 1 && c->base->size != c->content->size && c->base->size % BACKUP_CHUNK);
}

static bool changed(struct mover *m, uint64_t index)
{
	const struct backup_copy *c = m->c;
	uint64_t offset = index * BACKUP_CHUNK;

	while (m->range < c->changes && c->changed[m->range].offset + c->changed[m->range].len <= offset)
		m->range++;
	if (SP_SEED_BUG(BACKUP_LAST_RANGE_LOST) && m->range == c->changes - 1)
		return false;
	return m->range < c->changes && c->changed[m->range].offset < offset + BACKUP_CHUNK;
}

/* Zeros that were zeros at the point before, too: nothing to read or write. */
static int still_zero(struct mover *m, uint64_t index, bool *ret, struct sp_err *err)
{
	const struct backup_copy *c = m->c;
	uint64_t offset = index * BACKUP_CHUNK, size = vhd_disk_size(c->source), end;
	int r;

	*ret = false;
	if (index < c->base->count && memcmp(c->base->sum[index], zero_sum, 32) != 0)
		return 0;
	if (offset >= m->known.offset + m->known.len) {
		r = op_map_joined(c->source, offset, size - offset, &m->known);
		if (r < 0)
			return sp_err_set(err, r, "cannot look up the bytes at %#" PRIx64 ": %s", offset, strerror(-r));
	}
	end = sp_min(offset + BACKUP_CHUNK, size);
	*ret = m->known.kind == VHD_RANGE_ZERO && m->known.offset + m->known.len >= end;
	return 0;
}

static int copy_next(void *arg, struct op_window *ret, struct sp_err *err)
{
	struct mover *m = arg;
	struct backup_copy *c = m->c;
	int r = 0;

	for (; r == 0 && m->at < c->content->count; m->at++) {
		uint64_t offset = m->at * BACKUP_CHUNK;
		bool skip = false;

		if (c->fresh && c->changed)
			skip = !resized(c, m->at) && !changed(m, m->at);
		else if (c->fresh)
			r = still_zero(m, m->at, &skip, err);
		if (r == 0 && !skip) {
			*ret = (struct op_window){ offset, sp_min(c->content->size - offset, BACKUP_CHUNK) };
			m->at++;
			return 1;
		}
		if (r == 0)
			r = sp_job_advance(m->job, sp_min(c->content->size - offset, BACKUP_CHUNK));
	}
	return r;
}

/* ---- one chunk ----------------------------------------------------------------------------------- */

static int put(struct mover *m, struct op_worker *w, const uint8_t *buf, uint64_t offset, size_t len, bool zero)
{
	int r = zero ? vhd_disk_write_zeroes(m->c->leaf, offset, len) : vhd_disk_write(m->c->leaf, buf, len, offset);

	if (!zero)
		atomic_fetch_add(&m->bytes_written, len);
	if (r < 0)
		return sp_err_set(&w->err, r, "cannot write %zu bytes at %#" PRIx64 " of the backup: %s", len, offset,
				  strerror(-r));
	return 0;
}

/* Into a leaf that reads zeros here. */
static int put_data(struct mover *m, struct op_worker *w, const uint8_t *buf, uint64_t offset, size_t len)
{
	int r = 0;

	for (size_t done = 0, run; r == 0 && done < len; done += run) {
		bool zero;

		run = op_zero_run(buf + done, offset + done, len - done, &zero);
		if (!zero)
			r = put(m, w, buf + done, offset + done, run, false);
	}
	return r;
}

static size_t same_run(const uint8_t *a, const uint8_t *b, size_t len, bool *ret_same)
{
	size_t done = 0;

	while (done < len) {
		size_t grain = sp_min(len - done, OP_GRAIN);
		bool same = memcmp(a + done, b + done, grain) == 0;

		if (done == 0)
			*ret_same = same;
		else if (same != *ret_same)
			break;
		done += grain;
	}
	return done;
}

static int put_difference(struct mover *m, struct op_worker *w, uint64_t offset, size_t len)
{
	const uint8_t *is = w->buffer2, *should = w->buffer;
	int r = vhd_disk_read(m->c->leaf, w->buffer2, len, offset);

	if (r < 0)
		return sp_err_set(&w->err, r, "cannot read %zu bytes at %#" PRIx64 " of the backup: %s", len, offset,
				  strerror(-r));
	for (size_t done = 0, run; r == 0 && done < len; done += run) {
		bool same = true;

		run = same_run(should + done, is + done, len - done, &same);
		for (size_t at = done, part; r == 0 && !same && at < done + run; at += part) {
			bool zero;

			part = op_zero_run(should + at, offset + at, done + run - at, &zero);
			r = put(m, w, should + at, offset + at, part, zero);
		}
	}
	return r;
}

/* The tail of a disk whose size is no multiple of a sector reads zeros in the image. */
static int get(struct mover *m, struct op_worker *w, uint64_t offset, size_t len)
{
	uint64_t size = vhd_disk_size(m->c->source);
	size_t there = offset < size ? (size_t)sp_min(len, size - offset) : 0;
	int r = there ? vhd_disk_read(m->c->source, w->buffer, there, offset) : 0;

	memset(w->buffer + there, 0, len - there);
	atomic_fetch_add(&m->bytes_read, there);
	if (r < 0)
		return sp_err_set(&w->err, r, "cannot read %zu bytes at %#" PRIx64 " of the source: %s", there, offset,
				  strerror(-r));
	return backup_pace(m->c->pace, there, m->job);
}

static int copy_work(void *arg, struct op_worker *w, const struct op_window *win)
{
	struct mover *m = arg;
	struct backup_copy *c = m->c;
	uint64_t index = win->offset / BACKUP_CHUNK;
	size_t len = (size_t)win->len;
	int r = get(m, w, win->offset, len);

	if (r == 0)
		r = backup_digest(w->buffer, len, c->content->sum[index]);
	if (r < 0)
		return r;
	if (c->fresh && backup_sum_equal(c->content, c->base, index))
		return 0;
	if (c->fresh && c->full)
		return put_data(m, w, w->buffer, win->offset, len);
	return put_difference(m, w, win->offset, len);
}

int backup_copy(struct backup_copy *c, struct sp_job *job, struct sp_err *err)
{
	struct mover m = { .c = c, .job = job };
	struct op_task task = { .next = copy_next, .work = copy_work, .arg = &m, .threads = c->threads, .job = job };
	int r;

	backup_digests_copy(c->content, c->base);	/* what is skipped keeps its digest */
	r = op_run(&task, err);
	c->bytes_read += atomic_load(&m.bytes_read);
	c->bytes_written += atomic_load(&m.bytes_written);
	return r;
}

/* ---- digests of the file ------------------------------------------------------------------------- */

/* A MiB of the disk that lies in one piece at a MiB of the file needs no second digest. */
static int learn(struct vhd_disk *d, const struct backup_digests *content, struct backup_digests *known,
		 uint8_t *is_known)
{
	struct vhd_range range;
	int r = 0;

	for (uint64_t at = 0; r == 0 && at + BACKUP_CHUNK <= content->size; at += BACKUP_CHUNK) {
		uint64_t to;

		r = vhd_disk_map(d, at, BACKUP_CHUNK, &range);
		if (r < 0 || range.kind != VHD_RANGE_DATA || range.len != BACKUP_CHUNK ||
		    range.file_offset % BACKUP_CHUNK)
			continue;
		to = range.file_offset / BACKUP_CHUNK;
		if (to >= known->count)
			continue;
		memcpy(known->sum[to], content->sum[at / BACKUP_CHUNK], 32);
		is_known[to] = 1;
	}
	return r;
}

static int digest_with(struct store *s, struct vhd_disk *d, const struct backup_digests *content, unsigned threads,
		       struct backup_digests *ret, struct sp_err *err)
{
	struct backup_digests known = { 0 };
	SP_AUTO_FREE uint8_t *is_known = NULL;
	uint64_t size = 0;
	int r = store_size(s, &size);

	if (r == 0)
		r = backup_digests_init(&known, size);
	is_known = sp_calloc(known.count ? known.count : 1, 1);
	if (r == 0 && !is_known)
		r = -ENOMEM;
	if (r == 0)
		r = learn(d, content, &known, is_known);
	if (r < 0)
		sp_err_set(err, r, "%s: %s", s->name, strerror(-r));
	else
		r = backup_digest_file(s, &known, is_known, threads, NULL, NULL, ret, err);
	backup_digests_fini(&known);
	return r;
}

int backup_copy_file_digests(struct store_folder *f, const char *file, const struct backup_digests *content,
			     unsigned threads, struct backup_digests *ret, struct sp_err *err)
{
	struct vhd_open_opts alone = { .flags = VHD_OPEN_NO_PARENT, .format = VHD_FORMAT_VHDX };
	struct vhd_disk *d;
	struct store *s;
	int r = vhd_disk_open_in(f, file, &alone, &d, err);

	if (r < 0)
		return r;
	r = store_folder_open(f, file, STORE_REGULAR, &s, err);
	if (r == 0) {
		r = digest_with(s, d, content, threads, ret, err);
		store_close(s);
	}
	vhd_disk_close(d, NULL);
	return r;
}
