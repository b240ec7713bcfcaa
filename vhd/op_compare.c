/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Compares what two disks read. Ranges that are zero on both sides, or the same bytes of the same file, are not read.
 *
 * The answer does not depend on the number of threads: windows are handed out in order, a difference only stops
 * windows behind it, and the lowest one found wins.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "vhd/op_workers.h"
#include "vhd/ops_int.h"

struct side {
	struct vhd_disk *disk;
	struct store_id *id;		/* of each layer's file */
	unsigned layers;
};

struct compare {
	struct side a, b;
	uint64_t offset, end;		/* pool's lock */
	_Atomic uint64_t first;		/* lowest differing byte so far, UINT64_MAX: none */
	_Atomic uint64_t bytes;
	struct sp_job *job;
};

static bool same_place(const struct compare *c, const struct vhd_range *a, const struct vhd_range *b)
{
	const struct store_id *x, *y;

	if (a->kind == VHD_RANGE_ZERO && b->kind == VHD_RANGE_ZERO)
		return true;
	if (a->kind != VHD_RANGE_DATA || b->kind != VHD_RANGE_DATA || a->file_offset != b->file_offset ||
	    a->layer >= c->a.layers || b->layer >= c->b.layers)
		return false;
	x = &c->a.id[a->layer];
	y = &c->b.id[b->layer];
	return x->ino != 0 && x->ino == y->ino && x->dev == y->dev;
}

/* The stretch at @offset that is in one state on both sides; *ret_same: nothing to read. */
static int stretch(struct compare *c, uint64_t offset, uint64_t len, uint64_t *ret_len, bool *ret_same)
{
	struct vhd_range a, b;
	int r = vhd_disk_map(c->a.disk, offset, len, &a);

	if (r == 0)
		r = vhd_disk_map(c->b.disk, offset, len, &b);
	if (r < 0)
		return r;
	*ret_len = sp_min(a.len, b.len);
	*ret_same = same_place(c, &a, &b);
	return 0;
}

static int compare_next(void *arg, struct op_window *ret, struct sp_err *err)
{
	struct compare *c = arg;

	while (c->offset < sp_min(c->end, atomic_load(&c->first))) {
		uint64_t len;
		bool same;
		int r = stretch(c, c->offset, c->end - c->offset, &len, &same);

		if (r < 0)
			return sp_err_set(err, r, "cannot look up the bytes at %#" PRIx64 ": %s", c->offset,
					  strerror(-r));
		if (!same) {
			ret->offset = c->offset;
			ret->len = sp_min(c->end, sp_align_down(c->offset, OP_WINDOW) + OP_WINDOW) - c->offset;
			c->offset += ret->len;
			return 1;
		}
		c->offset += len;
		atomic_fetch_add(&c->bytes, len);
		r = sp_job_advance(c->job, len);
		if (r < 0)
			return r;
	}
	return 0;
}

static void found(struct compare *c, uint64_t offset)
{
	uint64_t first = atomic_load(&c->first);

	while (offset < first && !atomic_compare_exchange_weak(&c->first, &first, offset))
		;
}

static size_t first_difference(const uint8_t *a, const uint8_t *b, size_t len)
{
	size_t i = 0;

	while (i + OP_GRAIN <= len && memcmp(a + i, b + i, OP_GRAIN) == 0)
		i += OP_GRAIN;
	while (i < len && a[i] == b[i])
		i++;
	return i;
}

static int read_side(struct op_worker *w, struct vhd_disk *d, uint8_t *buf, size_t len, uint64_t offset,
		     const char *which)
{
	int r = vhd_disk_read(d, buf, len, offset);

	if (r < 0)
		return sp_err_set(&w->err, r, "cannot read %zu bytes at %#" PRIx64 " of the %s disk: %s", len, offset,
				  which, strerror(-r));
	return 0;
}

static int compare_bytes(struct compare *c, struct op_worker *w, uint64_t offset, size_t len)
{
	size_t same;
	int r = read_side(w, c->a.disk, w->buffer, len, offset, "first");

	if (r == 0)
		r = read_side(w, c->b.disk, w->buffer2, len, offset, "second");
	if (r < 0)
		return r;
	same = first_difference(w->buffer, w->buffer2, len);
	if (same < len)
		found(c, offset + same);
	return 0;
}

static int compare_work(void *arg, struct op_worker *w, const struct op_window *win)
{
	struct compare *c = arg;
	uint64_t offset = win->offset, end = win->offset + win->len, from = offset;
	int r = 0;

	/* Stretches that need reading are joined, so that a fragmented window is still read in few pieces. */
	while (r == 0 && offset < end && from < atomic_load(&c->first)) {
		uint64_t len;
		bool same;

		r = stretch(c, offset, end - offset, &len, &same);
		if (r < 0)
			return sp_err_set(&w->err, r, "cannot look up the bytes at %#" PRIx64 ": %s", offset,
					  strerror(-r));
		if (same && offset > from)
			r = compare_bytes(c, w, from, (size_t)(offset - from));
		offset += len;
		if (same)
			from = offset;
	}
	if (r == 0 && offset > from)
		r = compare_bytes(c, w, from, (size_t)(offset - from));
	atomic_fetch_add(&c->bytes, win->len);
	return r;
}

/* ---- the tail of the longer disk ----------------------------------------------------------------- */

struct tail {
	struct op_walk walk;
	struct compare *compare;
};

static int tail_next(void *arg, struct op_window *ret, struct sp_err *err)
{
	struct tail *t = arg;

	if (t->walk.offset >= atomic_load(&t->compare->first))
		return 0;
	return op_walk_next(&t->walk, ret, err);
}

static int tail_work(void *arg, struct op_worker *w, const struct op_window *win)
{
	struct tail *t = arg;
	int r = read_side(w, t->walk.disk, w->buffer, win->len, win->offset, "longer");
	size_t i = 0;

	if (r < 0 || op_is_zero(w->buffer, win->len))
		return r;
	while (w->buffer[i] == 0)
		i++;
	found(t->compare, win->offset + i);
	return 0;
}

static int compare_tail(struct compare *c, struct vhd_disk *longer, unsigned threads, struct sp_err *err)
{
	struct tail t = { .compare = c, .walk = { .disk = longer, .offset = c->end, .end = vhd_disk_size(longer),
						  .want = OP_DATA | OP_BELOW | OP_UNKNOWN, .job = c->job } };
	struct op_task task = { .next = tail_next, .work = tail_work, .arg = &t, .threads = threads, .job = c->job };

	return op_run(&task, err);
}

/* ---- both ---------------------------------------------------------------------------------------- */

static int side_init(struct side *s, struct vhd_disk *d)
{
	s->disk = d;
	s->layers = vhd_disk_layers(d);
	s->id = sp_calloc(s->layers, sizeof(*s->id));
	if (!s->id)
		return -ENOMEM;
	for (unsigned i = 0; i < s->layers; i++)
		s->id[i] = vhd_disk_image(d, i)->store->id;
	return 0;
}

static int compare_run(struct compare *c, uint64_t size_a, uint64_t size_b, bool strict, unsigned threads,
		       struct sp_err *err)
{
	struct op_task task = { .next = compare_next, .work = compare_work, .arg = c, .threads = threads,
				.job = c->job };
	int r = op_run(&task, err);

	if (r < 0 || atomic_load(&c->first) != UINT64_MAX || size_a == size_b)
		return r;
	if (strict) {
		found(c, c->end);
		return 0;
	}
	return compare_tail(c, size_a > size_b ? c->a.disk : c->b.disk, threads, err);
}

int vhd_compare(struct vhd_disk *a, struct vhd_disk *b, bool strict_size, unsigned threads, struct sp_job *job,
		struct vhd_difference *ret, struct sp_err *err)
{
	uint64_t size_a = vhd_disk_size(a), size_b = vhd_disk_size(b);
	struct compare c = { .end = sp_min(size_a, size_b), .first = UINT64_MAX, .job = job };
	int r;

	sp_job_start(job, sp_max(size_a, size_b));
	if (side_init(&c.a, a) < 0 || side_init(&c.b, b) < 0)
		r = sp_err_set(err, -ENOMEM, "out of memory");
	else
		r = compare_run(&c, size_a, size_b, strict_size, threads, err);
	sp_free(c.a.id);
	sp_free(c.b.id);
	if (r < 0)
		return r;
	sp_job_finish(job);
	ret->offset = atomic_load(&c.first);
	ret->differs = ret->offset != UINT64_MAX;
	ret->bytes_compared = atomic_load(&c.bytes);
	ret->size_differs = size_a != size_b;
	if (!ret->differs)
		ret->offset = 0;
	return 0;
}
