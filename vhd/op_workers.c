/* SPDX-License-Identifier: BSD-2-Clause */
#include "vhd/op_workers.h"

#include <errno.h>
#include <inttypes.h>
#include <isa-l/mem_routines.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"

struct pool {
	const struct op_task *task;
	pthread_mutex_t lock;
	bool ended;			/* lock: nothing more to hand out */
	int result;			/* lock: the first failure */
	struct sp_err err;		/* lock: its story */
};

struct member {
	struct pool *pool;
	struct op_worker worker;
	pthread_t thread;
};

unsigned op_threads(unsigned wanted)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	if (wanted == 0)
		wanted = cores > 0 ? (unsigned)cores : 1;
	return (unsigned)sp_min(wanted, OP_THREADS_MAX);
}

static void pool_fail(struct pool *p, int r, const struct sp_err *err)
{
	bool first;

	pthread_mutex_lock(&p->lock);
	first = p->result == 0;
	if (first) {
		p->result = r;
		p->err = *err;
	}
	p->ended = true;
	pthread_mutex_unlock(&p->lock);
	if (first && p->task->failed)
		p->task->failed(p->task->arg);
}

static int pool_take(struct pool *p, struct op_worker *w, struct op_window *ret)
{
	int r = 0;

	pthread_mutex_lock(&p->lock);
	if (!p->ended)
		r = p->task->next(p->task->arg, ret, &w->err);
	if (r <= 0)
		p->ended = true;
	pthread_mutex_unlock(&p->lock);
	return r;
}

static void *member_run(void *arg)
{
	struct member *m = arg;
	struct pool *p = m->pool;
	struct op_window window;
	int r;

	while ((r = pool_take(p, &m->worker, &window)) > 0) {
		r = p->task->work(p->task->arg, &m->worker, &window);
		if (r == 0)
			r = sp_job_advance(p->task->job, window.len);
		if (r < 0)
			break;
	}
	if (r < 0)
		pool_fail(p, r, &m->worker.err);
	return NULL;
}

static int member_init(struct member *m, struct pool *p, unsigned index)
{
	m->pool = p;
	m->worker.index = index;
	m->worker.buffer = sp_alloc_aligned(OP_GRAIN, OP_WINDOW);
	m->worker.buffer2 = sp_alloc_aligned(OP_GRAIN, OP_WINDOW);
	return m->worker.buffer && m->worker.buffer2 ? 0 : -ENOMEM;
}

static void member_fini(struct member *m)
{
	sp_free(m->worker.buffer);
	sp_free(m->worker.buffer2);
}

/* Fewer threads than wanted are fine as long as there is one: the caller itself. */
static unsigned members_start(struct pool *p, struct member *m, unsigned wanted)
{
	unsigned n;

	for (n = 1; n < wanted; n++) {
		if (member_init(&m[n], p, n) < 0 || pthread_create(&m[n].thread, NULL, member_run, &m[n]) != 0) {
			member_fini(&m[n]);
			break;
		}
	}
	return n;
}

int op_run(const struct op_task *task, struct sp_err *err)
{
	struct pool p = { .task = task, .lock = PTHREAD_MUTEX_INITIALIZER };
	unsigned wanted = op_threads(task->threads), n;
	struct member *m = sp_calloc(wanted, sizeof(*m));

	if (!m || member_init(&m[0], &p, 0) < 0) {
		if (m)
			member_fini(&m[0]);
		sp_free(m);
		return sp_err_set(err, -ENOMEM, "out of memory");
	}
	n = members_start(&p, m, wanted);
	member_run(&m[0]);
	for (unsigned i = 1; i < n; i++)
		pthread_join(m[i].thread, NULL);
	for (unsigned i = 0; i < n; i++)
		member_fini(&m[i]);
	sp_free(m);
	pthread_mutex_destroy(&p.lock);
	if (p.result < 0 && err) {
		if (p.err.code == 0)
			sp_err_set(&p.err, p.result, "%s",
				   p.result == -ECANCELED ? "canceled" : strerror(-p.result));
		*err = p.err;
	}
	return p.result;
}

/* ---- walking ------------------------------------------------------------------------------------- */

static int refuse(const struct vhd_range *r, struct sp_err *err)
{
	if (r->kind == VHD_RANGE_UNKNOWN)
		return sp_err_set(err, -ENOENT, "the bytes at %#" PRIx64 " belong to a parent that is missing",
				  r->offset);
	return sp_err_set(err, -EINVAL, "the bytes at %#" PRIx64 " belong to a layer that was left out", r->offset);
}

/* A long stretch is looked up once, not for every window cut from it. */
static int walk_look(struct op_walk *w, struct sp_err *err)
{
	uint64_t end = w->known.offset + w->known.len;
	int r;

	if (w->offset < end)
		return 0;
	r = vhd_disk_map(w->disk, w->offset, w->end - w->offset, &w->known);
	if (r < 0)
		return sp_err_set(err, r, "cannot look up the bytes at %#" PRIx64 ": %s", w->offset, strerror(-r));
	return w->refuse & 1u << w->known.kind ? refuse(&w->known, err) : 0;
}

int op_walk_next(struct op_walk *w, struct op_window *ret, struct sp_err *err)
{
	while (w->offset < w->end) {
		uint64_t skip;
		int r = walk_look(w, err);

		if (r < 0)
			return r;
		if (w->want & 1u << w->known.kind) {
			ret->offset = w->offset;
			ret->len = sp_min(w->end, sp_align_down(w->offset, OP_WINDOW) + OP_WINDOW) - w->offset;
			w->offset += ret->len;
			return 1;
		}
		skip = w->known.offset + w->known.len - w->offset;
		w->offset += skip;
		r = sp_job_advance(w->job, skip);
		if (r < 0)
			return r;
	}
	return 0;
}

static bool joins(const struct vhd_range *a, const struct vhd_range *b)
{
	return a->kind == b->kind && (a->layer == 0) == (b->layer == 0) && a->unallocated == b->unallocated;
}

int op_map_joined(struct vhd_disk *d, uint64_t offset, uint64_t len, struct vhd_range *ret)
{
	struct vhd_range more;
	int r = vhd_disk_map(d, offset, len, ret);

	while (r == 0 && ret->len < len) {
		r = vhd_disk_map(d, offset + ret->len, len - ret->len, &more);
		if (r == 0 && !joins(ret, &more))
			break;
		if (r == 0)
			ret->len += more.len;
	}
	return r;
}

/* ---- bytes --------------------------------------------------------------------------------------- */

bool op_is_zero(const void *buf, size_t len)
{
	return isal_zero_detect((void *)(uintptr_t)buf, len) == 0;	/* only reads */
}

size_t op_zero_run(const uint8_t *buf, uint64_t offset, size_t len, bool *ret_zero)
{
	size_t done = 0;
	bool zero = false;

	while (done < len) {
		size_t grain = (size_t)sp_min(len - done, OP_GRAIN - (offset + done) % OP_GRAIN);
		bool z = op_is_zero(buf + done, grain);

		if (done == 0)
			zero = z;
		else if (z != zero)
			break;
		done += grain;
	}
	*ret_zero = zero;
	return done;
}
