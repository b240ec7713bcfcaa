/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The bytes of one layer into the layer below it, the target, while the disk is in use.
 *
 * The target's image is a layer of the chain: readers ask it for places while this writes to it, both under the lock
 * of the disk's metadata. They never meet over a byte: what moves is what the upper layer says, and where it says
 * something nobody looks below it. So a place that a reader knows of the target stays right, and space that the target
 * frees is nobody's at once.
 *
 * Moving the same again is harmless: the upper layer goes on overriding until it is taken out of the chain.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"
#include "base/seed.h"
#include "vhd/live_int.h"

#define PIECE (1u << 20)
#define FLUSH_EVERY SP_MIB(32)	/* so that the target never has to flush by itself, which it does under the lock */

static const uint8_t zeros[64 << 10];

static void lock(struct live_move *m)
{
	if (!m->drained)
		pthread_mutex_lock(&m->disk->meta);
}

static void unlock(struct live_move *m)
{
	if (!m->drained)
		pthread_mutex_unlock(&m->disk->meta);
}

static struct vhd_image *target(struct live_move *m)
{
	return m->disk->layer[m->target].img;
}

static struct vhd_image *upper(struct live_move *m)
{
	return m->disk->layer[m->target + 1].img;
}

static int map(struct live_move *m, struct vhd_image *img, uint64_t offset, uint64_t len, struct vhd_place *ret)
{
	int r;

	lock(m);
	r = img->format->map(img, offset, len, ret);
	unlock(m);
	return r;
}

/* ---- into the target ----------------------------------------------------------------------------- */

static int flush(struct live_move *m)
{
	struct vhd_image *t = target(m);
	struct vhd_flush *batch = NULL;
	uint64_t tag;
	int r;

	lock(m);
	r = t->format->flush_begin(t, &batch);
	unlock(m);
	if (r < 0)
		return r;
	if (SP_SEED_BUG(LIVE_MOVE_NO_FLUSH) && !batch)
		return 0;
	r = batch ? t->format->flush_write(t, batch) : store_sync(t->store);
	lock(m);
	if (batch)
		t->format->flush_end(t, batch, r);
	tag = r == 0 ? t->format->freed_tag(t) : 0;
	if (tag)
		t->format->release(t, tag);
	unlock(m);
	m->unflushed = 0;
	return r;
}

static int write_ticket(struct live_move *m, const uint8_t *bytes, uint64_t offset, uint64_t len, uint64_t *ret_len)
{
	struct vhd_image *t = target(m);
	struct vhd_ticket ticket;
	int r;

	lock(m);
	r = t->format->prepare_write(t, offset, len, &ticket);
	unlock(m);
	if (r < 0)
		return r;
	r = store_write(t->store, bytes, ticket.len, ticket.file_offset);
	*ret_len = ticket.len;
	if (!ticket.needs_commit)
		return r;
	lock(m);
	if (r < 0)
		t->format->abort_write(t, &ticket);
	else
		r = t->format->commit_write(t, &ticket);
	unlock(m);
	return r;
}

static int put_bytes(struct live_move *m, const uint8_t *bytes, uint64_t offset, uint64_t len)
{
	int r = 0;

	for (uint64_t done = 0, n = 0; r == 0 && done < len; done += n)
		r = write_ticket(m, bytes + done, offset + done, len - done, &n);
	m->unflushed += len;
	return r;
}

/* What metadata alone could not hide. */
static int write_zeros(struct live_move *m, uint64_t offset, uint64_t len)
{
	int r = 0;

	for (uint64_t n; r == 0 && len > 0; offset += n, len -= n) {
		struct vhd_place p;

		r = map(m, target(m), offset, len, &p);
		if (r < 0)
			return r;
		n = p.where == VHD_WHERE_ZERO ? p.len : sp_min(p.len, sizeof(zeros));
		if (p.where != VHD_WHERE_ZERO)
			r = put_bytes(m, zeros, offset, n);
	}
	return r;
}

static int move_zeros(struct live_move *m, uint64_t offset, uint64_t len)
{
	int r = 0;

	for (uint64_t n; r == 0 && len > 0; offset += n, len -= n) {
		struct vhd_image *t = target(m);
		bool done = false;

		n = len;
		lock(m);
		r = t->format->discard(t, offset, len, &n, &done);
		unlock(m);
		if (r == 0 && !done)
			r = write_zeros(m, offset, n);
		m->zeroed += n;
	}
	return r;
}

/* ---- out of the upper layer ---------------------------------------------------------------------- */

static int nap_until(struct live_move *m, uint64_t due)
{
	uint64_t now;
	int r = 0;

	while (r == 0 && (now = sp_env_monotonic_ns()) < due) {
		struct timespec nap = { .tv_nsec = (long)sp_min(due - now, 50000000) };

		nanosleep(&nap, NULL);
		r = sp_job_advance(m->job, 0);		/* stays cancellable */
	}
	return r;
}

uint64_t live_move_due(const struct live_move *m, bool busy, uint64_t begin_ns, uint64_t now_ns)
{
	uint64_t due = m->gives_way && busy ? now_ns + (now_ns - begin_ns) : now_ns;

	if (m->rate > 0)
		due = sp_max(due, m->start_ns + (uint64_t)((double)m->paced / (double)m->rate * 1e9));
	return due;
}

static int pace(struct live_move *m, uint64_t begin_ns, uint64_t bytes)
{
	bool busy = m->gives_way && !epoch_empty(&m->disk->epoch);

	m->paced += bytes;
	return nap_until(m, live_move_due(m, busy, begin_ns, sp_env_monotonic_ns()));
}

static int move_data(struct live_move *m, uint64_t offset, const struct vhd_place *p)
{
	uint64_t begin_ns = sp_env_monotonic_ns();
	int r = store_read(upper(m)->store, m->buffer, p->len, p->file_offset);

	if (r == 0)
		r = put_bytes(m, m->buffer, offset, p->len);
	m->moved += p->len;
	if (r == 0 && m->unflushed >= FLUSH_EVERY)
		r = flush(m);
	if (r == 0)
		r = pace(m, begin_ns, p->len);
	return r == 0 ? sp_job_advance(m->job, p->len) : r;
}

static int move_place(struct live_move *m, uint64_t offset, struct vhd_place *p)
{
	switch (p->where) {
	case VHD_WHERE_DATA:
		p->len = sp_min(p->len, PIECE);
		return move_data(m, offset, p);
	case VHD_WHERE_ZERO:
		return move_zeros(m, offset, p->len);
	case VHD_WHERE_PARENT:
		break;
	}
	return sp_job_advance(m->job, 0);
}

int live_move_all(struct live_move *m, struct sp_err *err)
{
	uint64_t size = upper(m)->size, offset = 0;
	struct vhd_place p;
	int r = 0;

	m->buffer = sp_alloc_aligned(4096, PIECE);
	if (!m->buffer)
		return sp_err_set(err, -ENOMEM, "out of memory");
	m->start_ns = sp_env_monotonic_ns();
	for (; r == 0 && offset < size; offset += p.len) {
		r = map(m, upper(m), offset, size - offset, &p);
		if (r == 0)
			r = move_place(m, offset, &p);
	}
	if (r == 0)
		r = flush(m);
	sp_free(sp_take(m->buffer));
	return r < 0 ? sp_err_set(err, r, "cannot move what is at %#" PRIx64 " into %s: %s", offset, target(m)->name,
				  strerror(-r)) : 0;
}

int live_layer_bytes(struct vhd_disk *d, unsigned level, uint64_t *ret_bytes)
{
	struct vhd_image *img = d->layer[level].img;
	struct vhd_place p = { .len = 0 };
	uint64_t sum = 0;
	int r = 0;

	for (uint64_t at = 0; r == 0 && at < img->size; at += p.len) {
		pthread_mutex_lock(&d->meta);
		r = img->format->map(img, at, img->size - at, &p);
		pthread_mutex_unlock(&d->meta);
		sum += r == 0 && p.where == VHD_WHERE_DATA ? p.len : 0;
	}
	*ret_bytes = sum;
	return r;
}
