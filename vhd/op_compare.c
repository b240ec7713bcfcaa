/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Compares what two disks read.
 *
 * The answer does not depend on the number of threads: windows are handed out in order, a difference only stops
 * windows behind it, and the lowest one found wins.
 */
#include <stdatomic.h>
#include <string.h>

#include "base/bytes.h"
#include "vhd/op_pair.h"
#include "vhd/ops_int.h"

#define LOOK_AHEAD SP_MIB(256)		/* one side may have a long stretch where the other is fragmented */

struct compare {
	struct op_pair pair;
	uint64_t offset, end;		/* pool's lock */
	_Atomic uint64_t first;		/* lowest differing byte so far, UINT64_MAX: none */
	_Atomic uint64_t bytes;
	struct sp_job *job;
};

static int compare_next(void *arg, struct op_window *ret, struct sp_err *err)
{
	struct compare *c = arg;
	struct op_stretch s;

	while (c->offset < sp_min(c->end, atomic_load(&c->first))) {
		int r = op_pair_look(&c->pair, c->offset, sp_min(c->end - c->offset, LOOK_AHEAD), &s, err);

		if (r < 0)
			return r;
		if (!s.same) {
			ret->offset = c->offset;
			ret->len = sp_min(c->end, sp_align_down(c->offset, OP_WINDOW) + OP_WINDOW) - c->offset;
			c->offset += ret->len;
			return 1;
		}
		c->offset += s.len;
		atomic_fetch_add(&c->bytes, s.len);
		r = sp_job_advance(c->job, s.len);
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

static size_t equal_bytes(const uint8_t *a, const uint8_t *b, size_t len)
{
	size_t i = 0;

	while (i + OP_GRAIN <= len && memcmp(a + i, b + i, OP_GRAIN) == 0)
		i += OP_GRAIN;
	while (i < len && a[i] == b[i])
		i++;
	return i;
}

static int compare_bytes(struct compare *c, struct op_worker *w, uint64_t offset, size_t len)
{
	int r = op_pair_read(&c->pair, w, offset, len);
	size_t equal;

	if (r < 0)
		return r;
	equal = equal_bytes(w->buffer, w->buffer2, len);
	if (equal < len)
		found(c, offset + equal);
	return 0;
}

static int compare_work(void *arg, struct op_worker *w, const struct op_window *win)
{
	struct compare *c = arg;
	uint64_t offset = win->offset, end = win->offset + win->len, from = offset;
	struct op_stretch s;
	int r = 0;

	/* Stretches that need reading are joined, so that a fragmented window is still read in few pieces. */
	while (r == 0 && offset < end && from < atomic_load(&c->first)) {
		r = op_pair_look(&c->pair, offset, end - offset, &s, &w->err);
		if (r < 0)
			return r;
		if (s.same && offset > from)
			r = compare_bytes(c, w, from, (size_t)(offset - from));
		offset += s.len;
		if (s.same)
			from = offset;
	}
	if (r == 0 && offset > from)
		r = compare_bytes(c, w, from, (size_t)(offset - from));
	atomic_fetch_add(&c->bytes, win->len);
	return r;
}

int vhd_compare(struct vhd_disk *a, struct vhd_disk *b, bool strict_size, unsigned threads, struct sp_job *job,
		struct vhd_difference *ret, struct sp_err *err)
{
	uint64_t size_a = vhd_disk_size(a), size_b = vhd_disk_size(b);
	uint64_t shorter = sp_min(size_a, size_b), longer = sp_max(size_a, size_b);
	struct compare c = { .end = strict_size ? shorter : longer, .first = UINT64_MAX, .job = job };
	struct op_task task = { .next = compare_next, .work = compare_work, .arg = &c, .threads = threads, .job = job };
	int r = op_pair_init(&c.pair, a, "first disk", b, "second disk", err);

	if (r < 0)
		return r;
	sp_job_start(job, c.end);
	r = op_run(&task, err);
	op_pair_fini(&c.pair);
	if (r < 0)
		return r;
	sp_job_finish(job);
	if (strict_size && shorter != longer)
		found(&c, shorter);
	ret->differs = atomic_load(&c.first) != UINT64_MAX;
	ret->offset = ret->differs ? atomic_load(&c.first) : 0;
	ret->bytes_compared = atomic_load(&c.bytes);
	ret->size_differs = shorter != longer;
	return 0;
}
