/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * queue - one thread's door into a disk. The path of a request:
 *
 *   submit ──► slot ──► start: cut at places ──► part: store_req straight from the caller's memory ──► completion
 *	│		 │  │
 *	│		 │  └─ needs room first: prepare under meta, payload, commit under meta
 *	│		 ├─ flush, discard, write-zeroes: to the committer thread (or at once where nothing blocks)
 *	│		 └─ change tracking must write first: to the committer thread, then on as a write
 *	└─ no slot free, or the gate is closed: waits in a list
 *
 * Reads and writes of places that are known take no lock, allocate nothing and copy nothing. A request that needs
 * more parts than are free goes on when some come back.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "vhd/disk_priv.h"
#include "vhd/iov.h"

#define DEPTH_DEFAULT 128u
#define DEPTH_MAX 4096u
#define PART_IOV 32

struct slot;

/* One store operation of a request. */
struct part {
	struct store_req io;		/* first member */
	struct slot *slot;
	struct part *next;
	bool has_ticket;
	struct vhd_ticket ticket;
	struct iovec iov[PART_IOV];
};

enum slot_state { SLOT_FREE, SLOT_IO, SLOT_FLUSHING, SLOT_WORKING, SLOT_MARKING };

/* One request in flight. */
struct slot {
	struct vhd_queue *q;
	struct vhd_req *req;
	struct slot *next;		/* free list, stalled list, or mailbox */
	enum slot_state state;
	int res, phase;
	unsigned parts;			/* in flight */
	bool issuing;			/* still being cut: completion must wait */
	bool stalled;			/* in q->stalled */
	/* how far the cutting has come */
	uint64_t done;
	struct iov_cursor cursor;
	struct vhd_work work;		/* SLOT_WORKING, SLOT_MARKING */
};

struct list {
	struct slot *head, **tail;
};

struct vhd_queue {
	struct vhd_disk *d;
	struct store_ring *ring;
	struct epoch_member member;
	struct slot *slots, *free_slots;
	struct part *part_pool, *free_parts;
	struct list stalled;		/* want parts */
	struct vhd_req *waiting, **waiting_tail;	/* want a slot, or the gate to open */
	unsigned inflight, working;
	unsigned layers_registered, chain_registered;	/* how many of which chain */
	struct vhd_req *ready, **ready_tail;	/* finished, callbacks to be run by poll */
	unsigned depth;
	pthread_mutex_t mail_lock;	/* the committer thread brings finished work */
	struct slot *mail;
	int fd;				/* the ring's eventfd; -1 until a bell is needed, it costs each completion */
	bool at_gate;			/* something waits for the gate to open */
	bool polled;			/* the caller has been given it: it has to ring from then on */
};

static void list_init(struct list *l)
{
	l->head = NULL;
	l->tail = &l->head;
}

static void list_add(struct list *l, struct slot *s)
{
	s->next = NULL;
	*l->tail = s;
	l->tail = &s->next;
}

static struct slot *list_take(struct list *l)
{
	struct slot *s = l->head;

	if (s) {
		l->head = s->next;
		if (!l->head)
			l->tail = &l->head;
	}
	return s;
}

/* ---- the end of a request ------------------------------------------------------------------------ */

static void req_ready(struct vhd_queue *q, struct vhd_req *req, int res)
{
	req->slot = (void *)(intptr_t)res;	/* the slot is free already: the field carries the result */
	req->next = NULL;
	*q->ready_tail = req;
	q->ready_tail = &req->next;
}

static void slot_finish(struct slot *s)
{
	struct vhd_queue *q = s->q;

	epoch_exit(&q->member, s->phase);
	req_ready(q, s->req, s->res);
	s->state = SLOT_FREE;
	s->req = NULL;
	s->next = q->free_slots;
	q->free_slots = s;
}

/* ---- blocking work, done elsewhere --------------------------------------------------------------- */

static int run_blocking(struct vhd_disk *d, const struct vhd_req *req)
{
	int r = 0;

	switch (req->op) {
	case VHD_REQ_DISCARD:
	case VHD_REQ_WRITE_ZEROES:
		r = disk_track_note(d, req->offset, req->len);
		if (r == 0)
			r = disk_zero_inside(d, req->offset, req->len, req->op == VHD_REQ_WRITE_ZEROES);
		break;
	case VHD_REQ_FLUSH:
		return disk_flush(d);
	case VHD_REQ_READ:
	case VHD_REQ_WRITE:
		break;			/* here only for the flush of a FUA write */
	}
	if (r == 0 && (req->flags & VHD_REQ_FUA))
		r = disk_flush(d);
	return r;
}

static void work_run(struct vhd_work *w)
{
	struct slot *s = (struct slot *)((char *)w - offsetof(struct slot, work));
	struct vhd_queue *q = s->q;
	static const uint64_t one = 1;

	if (s->state == SLOT_MARKING)
		s->res = disk_track_mark(q->d, s->req->offset, s->req->len);
	else
		s->res = run_blocking(q->d, s->req);
	pthread_mutex_lock(&q->mail_lock);
	s->next = q->mail;
	q->mail = s;
	/* Under the lock, so that the queue cannot be freed between the mail and the bell. */
	if (write(q->fd, &one, sizeof(one)) < 0) {
		/* EAGAIN: the counter is full, the bell is ringing anyway. */
	}
	pthread_mutex_unlock(&q->mail_lock);
}

/* False: no thread to be had, the caller does it here. */
static bool slot_post(struct slot *s, enum slot_state state)
{
	struct vhd_queue *q = s->q;

	s->state = state;
	s->work.run = work_run;
	if (q->fd < 0)
		q->fd = store_ring_fd(q->ring);
	if (!q->d->threaded || q->fd < 0)
		return false;
	store_ring_silence(q->ring, false);
	q->working++;
	if (disk_work_post(q->d, &s->work) == 0)
		return true;
	q->working--;
	return false;
}

static void slot_work(struct slot *s)
{
	if (slot_post(s, SLOT_WORKING))
		return;
	s->res = run_blocking(s->q->d, s->req);
	slot_finish(s);
}

static void slot_go_on(struct slot *s);

static void collect_mail(struct vhd_queue *q)
{
	struct slot *s, *next;
	unsigned marked = 0;

	if (q->working == 0)
		return;
	pthread_mutex_lock(&q->mail_lock);
	s = q->mail;
	q->mail = NULL;
	pthread_mutex_unlock(&q->mail_lock);
	for (; s; s = next) {
		next = s->next;
		q->working--;
		if (s->state == SLOT_MARKING && s->res == 0) {
			slot_go_on(s);
			marked++;
		} else {
			slot_finish(s);
		}
	}
	if (q->working == 0 && !q->polled && !q->at_gate)
		store_ring_silence(q->ring, true);
	if (marked)
		store_ring_kick(q->ring);	/* nobody else knows of them */
}

/* ---- parts --------------------------------------------------------------------------------------- */

static void slot_settle(struct slot *s)
{
	struct vhd_req *req = s->req;

	if (s->parts > 0 || s->issuing || s->stalled)
		return;
	if (req->op == VHD_REQ_WRITE) {
		disk_wrote(s->q->d);
		if (s->res == 0 && (req->flags & VHD_REQ_FUA)) {
			slot_work(s);
			return;
		}
	}
	slot_finish(s);
}

static void part_complete(struct store_req *io, int res)
{
	struct part *p = (struct part *)io;
	struct slot *s = p->slot;
	struct vhd_queue *q = s->q;

	if (res == -ENODATA)
		res = -EIO;		/* the file shrank behind our back */
	if (p->has_ticket)
		res = disk_commit_ticket(q->d, &p->ticket, res);
	if (s->state == SLOT_FLUSHING) {
		res = disk_sync_result(q->d, res);
		if (res == 0)
			disk_track_flushed(q->d);
	}
	if (res < 0 && s->res == 0)
		s->res = res;
	p->next = q->free_parts;
	q->free_parts = p;
	s->parts--;
	slot_settle(s);
}

static struct part *part_get(struct vhd_queue *q, struct slot *s, enum store_op op, unsigned level)
{
	struct part *p = q->free_parts;

	q->free_parts = p->next;
	p->slot = s;
	p->has_ticket = false;
	p->io.store = disk_store(q->d, level);
	p->io.op = op;
	p->io.complete = part_complete;
	p->io.buf_index = -1;
	s->parts++;
	return p;
}

/* Moves up to @len bytes of the request's vector into the part. */
static uint64_t part_fill(struct slot *s, struct part *p, uint64_t len)
{
	uint64_t got = iov_slice(&s->cursor, len, p->iov, PART_IOV, &p->io.iovcnt);

	p->io.iov = p->iov;
	p->io.len = got;
	if (p->io.iovcnt == 1)
		p->io.buf_index = s->req->buf_index;
	s->done += got;
	return got;
}

/* ---- cutting a request --------------------------------------------------------------------------- */

/* A place that can be read or overwritten where it is: one part, or several when the vector is long. */
static int issue_place(struct slot *s, const struct disk_place *place, enum store_op op)
{
	uint64_t at = 0;

	while (at < place->len && s->q->free_parts) {
		struct part *p = part_get(s->q, s, op, place->level);

		p->io.offset = place->file_offset + at;
		at += part_fill(s, p, place->len - at);
		if (p->io.len == 0) {		/* the vector is shorter than the request */
			part_complete(&p->io, -EINVAL);
			return -EINVAL;
		}
		store_submit(s->q->ring, &p->io);
	}
	return 0;
}

/* Whole sectors that need room or a record: one part, one ticket. */
static int issue_prepared(struct slot *s, uint64_t offset, uint64_t len)
{
	struct vhd_disk *d = s->q->d;
	struct vhd_ticket t;
	struct part *p;
	int r = disk_prepare(d, offset, len, &t);

	if (r < 0)
		return r;
	p = part_get(s->q, s, STORE_WRITE, d->layers - 1);
	p->io.offset = t.file_offset;
	p->has_ticket = true;
	p->ticket = t;
	part_fill(s, p, t.len);
	store_submit(s->q->ring, &p->io);
	return 0;
}

/* Part of a sector, or a vector in crumbs: rare enough to be done on the spot, blocking. */
static int write_on_the_spot(struct slot *s, uint64_t offset, uint64_t len)
{
	struct part *p = part_get(s->q, s, STORE_WRITE, s->q->d->layers - 1);
	uint64_t got = part_fill(s, p, len);
	int r = got ? disk_write_inside(s->q->d, p->iov, p->io.iovcnt, offset, got) : -EINVAL;

	part_complete(&p->io, r);
	return r;
}

static int issue_write(struct slot *s, uint64_t offset, const struct disk_place *place)
{
	uint64_t piece, sector = s->q->d->logical_sector;
	bool whole;

	if (disk_is_direct(s->q->d, place))
		return issue_place(s, place, STORE_WRITE);
	piece = disk_sector_piece(s->q->d, offset, place->len, &whole);
	if (whole) {
		uint64_t reach = sp_align_down(iov_reach(s->cursor, piece, PART_IOV), sector);

		if (reach > 0)
			return issue_prepared(s, offset, reach);
		piece = sector;
	}
	return write_on_the_spot(s, offset, piece);
}

static int issue_read(struct slot *s, const struct disk_place *place)
{
	if (place->where == DISK_DATA)
		return issue_place(s, place, STORE_READ);
	if (!disk_reads_zero(s->q->d, place))
		return -EIO;
	iov_zero(&s->cursor, place->len);
	s->done += place->len;
	return 0;
}

/* Cuts on until the request is issued, an error stops it, or parts run out. */
static void slot_go_on(struct slot *s)
{
	struct vhd_queue *q = s->q;
	struct vhd_req *req = s->req;

	s->state = SLOT_IO;
	s->stalled = false;
	s->issuing = true;
	while (s->res == 0 && s->done < req->len) {
		uint64_t offset = req->offset + s->done;
		struct disk_place place;
		int r;

		if (!q->free_parts) {
			s->stalled = true;
			list_add(&q->stalled, s);
			break;
		}
		r = disk_resolve(q->d, offset, req->len - s->done, &place);
		if (r == 0)
			r = req->op == VHD_REQ_READ ? issue_read(s, &place) : issue_write(s, offset, &place);
		if (r < 0 && s->res == 0)
			s->res = r;
	}
	s->issuing = false;
	slot_settle(s);
}

/* No metadata is waiting: a flush is a sync of the leaf, through the ring. */
static bool flush_by_ring(struct slot *s)
{
	struct vhd_disk *d = s->q->d;
	struct part *p;

	if (!d->threaded || !store_ring_is_uring(s->q->ring) || !s->q->free_parts || !disk_sync_is_enough(d))
		return false;
	s->state = SLOT_FLUSHING;
	p = part_get(s->q, s, STORE_SYNC, d->layers - 1);
	store_submit(s->q->ring, &p->io);
	return true;
}

static int req_check(const struct vhd_queue *q, const struct vhd_req *req)
{
	switch (req->op) {
	case VHD_REQ_READ:
		return disk_range_check(q->d, req->offset, req->len);
	case VHD_REQ_WRITE:
	case VHD_REQ_DISCARD:
	case VHD_REQ_WRITE_ZEROES:
		return disk_write_check(q->d, req->offset, req->len);
	case VHD_REQ_FLUSH:
		return vhd_disk_poisoned(q->d);
	}
	return -EINVAL;
}

/* Files that came into the chain since are not in the ring's table yet, and some that left it are. */
static void register_layers(struct vhd_queue *q)
{
	unsigned chain = atomic_load_explicit(&q->d->chain_edits, memory_order_relaxed);

	if (q->chain_registered != chain) {	/* drained since: nothing of ours is in flight on what has gone */
		store_ring_unregister_all(q->ring);
		q->chain_registered = chain;
		q->layers_registered = 0;
	}
	for (; q->layers_registered < q->d->layers; q->layers_registered++) {
		if (store_ring_register(q->ring, disk_store(q->d, q->layers_registered)) < 0) {
			/* The ring then works by descriptor: slower, not wrong. */
		}
	}
}

static void slot_write(struct slot *s)
{
	struct vhd_disk *d = s->q->d;
	struct vhd_req *req = s->req;

	if (__builtin_expect(disk_tracked(d), 0) && !disk_track_try(d, req->offset, req->len)) {
		if (slot_post(s, SLOT_MARKING))
			return;
		s->res = disk_track_mark(d, req->offset, req->len);
	}
	slot_go_on(s);
}

static void slot_start(struct slot *s)
{
	struct vhd_queue *q = s->q;
	struct vhd_req *req = s->req;

	if (q->layers_registered != q->d->layers ||
	    q->chain_registered != atomic_load_explicit(&q->d->chain_edits, memory_order_relaxed))
		register_layers(q);
	s->parts = 0;
	s->done = 0;
	s->cursor = (struct iov_cursor){ req->iov, req->iovcnt, 0 };
	s->res = req_check(q, req);
	if (s->res < 0 || (req->op == VHD_REQ_FLUSH && !q->d->writable))
		slot_finish(s);
	else if (req->op == VHD_REQ_WRITE)
		slot_write(s);
	else if (req->op == VHD_REQ_READ)
		slot_go_on(s);
	else if (req->op != VHD_REQ_FLUSH || !flush_by_ring(s))
		slot_work(s);
}

/* At a closed gate: asks to be woken when it opens, since nothing of ours may be on its way that could. */
static int wait_at_gate(struct vhd_queue *q)
{
	int phase;

	if (q->fd < 0)
		q->fd = store_ring_fd(q->ring);
	if (q->fd < 0)
		return -1;		/* nobody can sleep on it then */
	store_ring_silence(q->ring, false);
	q->at_gate = true;
	atomic_store(&q->member.bell, q->fd);
	phase = epoch_try_enter(&q->d->epoch, &q->member);
	if (phase >= 0)
		atomic_store(&q->member.bell, -1);
	return phase;
}

static void passed_gate(struct vhd_queue *q)
{
	q->at_gate = false;
	if (q->working == 0 && !q->polled)
		store_ring_silence(q->ring, true);
}

/* Requests that waited for a slot or for the gate, in order. */
static void start_waiting(struct vhd_queue *q)
{
	while (q->waiting && q->free_slots) {
		struct vhd_req *req = q->waiting;
		struct slot *s = q->free_slots;
		int phase = epoch_try_enter(&q->d->epoch, &q->member);

		if (phase < 0)
			phase = wait_at_gate(q);
		if (phase < 0)
			return;
		if (q->at_gate)
			passed_gate(q);
		q->waiting = req->next;
		if (!q->waiting)
			q->waiting_tail = &q->waiting;
		q->free_slots = s->next;
		s->req = req;
		s->phase = phase;
		slot_start(s);
	}
}

/* ---- public -------------------------------------------------------------------------------------- */

void vhd_queue_submit(struct vhd_queue *q, struct vhd_req *req)
{
	req->next = NULL;
	*q->waiting_tail = req;
	q->waiting_tail = &req->next;
	q->inflight++;
	start_waiting(q);
}

int vhd_queue_kick(struct vhd_queue *q)
{
	return store_ring_kick(q->ring);
}

/* Runs the callbacks of what has finished; they may submit, which may finish more. */
static unsigned run_ready(struct vhd_queue *q)
{
	unsigned n = 0;

	while (q->ready) {
		struct vhd_req *req = q->ready;

		q->ready = req->next;
		if (!q->ready)
			q->ready_tail = &q->ready;
		q->inflight--;
		n++;
		req->complete(req, (int)(intptr_t)req->slot);
	}
	return n;
}

/* Lets stalled and waiting requests use what the completions gave back. */
static void resume(struct vhd_queue *q)
{
	struct slot *s;

	while (q->free_parts && (s = list_take(&q->stalled)))
		slot_go_on(s);
	if (q->waiting)
		start_waiting(q);
}

static int queue_reap(struct vhd_queue *q, unsigned wait)
{
	int r = store_ring_reap(q->ring, wait);
	unsigned n;

	if (r < 0)
		return r;
	collect_mail(q);
	resume(q);
	n = run_ready(q);
	if (n > 0)
		store_ring_kick(q->ring);	/* what the callbacks submitted */
	return (int)n;
}

int vhd_queue_poll(struct vhd_queue *q)
{
	return queue_reap(q, 0);
}

/* Work is with the committer thread, or the gate is closed: the ring alone may never wake us. */
static void sleep_on_bell(struct vhd_queue *q)
{
	struct pollfd p = { .fd = q->fd, .events = POLLIN };

	poll(&p, 1, q->working > 0 && !q->waiting ? -1 : 1);
}

int vhd_queue_wait(struct vhd_queue *q, unsigned count)
{
	unsigned got = 0;

	while (got < count && q->inflight > 0) {
		bool ring_only = q->working == 0 && !q->ready && !(q->waiting && q->free_slots);
		int r = queue_reap(q, ring_only ? 1 : 0);

		if (r < 0)
			return r;
		got += (unsigned)r;
		if (r == 0 && !ring_only)
			sleep_on_bell(q);
	}
	return (int)got;
}

int vhd_queue_fd(struct vhd_queue *q)
{
	q->polled = true;
	if (q->fd < 0)
		q->fd = store_ring_fd(q->ring);
	else
		store_ring_silence(q->ring, false);
	return q->fd;
}

unsigned vhd_queue_inflight(const struct vhd_queue *q)
{
	return q->inflight;
}

int vhd_queue_register_buffers(struct vhd_queue *q, const struct iovec *iov, unsigned count)
{
	return store_ring_register_buffers(q->ring, iov, count);
}

static int alloc_slots(struct vhd_queue *q)
{
	unsigned parts = 2 * q->depth + 16;

	q->slots = sp_calloc(q->depth, sizeof(*q->slots));
	q->part_pool = sp_calloc(parts, sizeof(*q->part_pool));
	if (!q->slots || !q->part_pool)
		return -ENOMEM;
	for (unsigned i = q->depth; i-- > 0;) {
		q->slots[i].q = q;
		q->slots[i].next = q->free_slots;
		q->free_slots = &q->slots[i];
	}
	for (unsigned i = parts; i-- > 0;) {
		q->part_pool[i].next = q->free_parts;
		q->free_parts = &q->part_pool[i];
	}
	return 0;
}

int vhd_queue_new(struct vhd_disk *d, const struct vhd_queue_opts *opts, struct vhd_queue **ret_queue,
		  struct sp_err *err)
{
	struct vhd_queue *q = sp_alloc_aligned(_Alignof(struct vhd_queue), sizeof(*q));
	int r;

	if (!q)
		return sp_err_set(err, -ENOMEM, "out of memory");
	memset(q, 0, sizeof(*q));
	q->d = d;
	q->fd = -1;
	q->depth = opts && opts->depth ? (unsigned)sp_min(opts->depth, DEPTH_MAX) : DEPTH_DEFAULT;
	list_init(&q->stalled);
	q->waiting_tail = &q->waiting;
	q->ready_tail = &q->ready;
	pthread_mutex_init(&q->mail_lock, NULL);
	r = alloc_slots(q);
	if (r < 0)
		sp_err_set(err, r, "out of memory");
	if (r == 0)
		r = store_ring_new(2 * q->depth + 16,
				   d->open_flags & VHD_OPEN_NO_URING || !d->threaded ? STORE_RING_NO_URING : 0,
				   &q->ring, err);
	if (r < 0)
		goto fail;
	epoch_join(&d->epoch, &q->member);
	register_layers(q);
	*ret_queue = q;
	return 0;
fail:
	pthread_mutex_destroy(&q->mail_lock);
	sp_free(q->slots);
	sp_free(q->part_pool);
	sp_free(q);
	return r;
}

void vhd_queue_free(struct vhd_queue *q)
{
	if (!q)
		return;
	while (q->inflight > 0 && vhd_queue_wait(q, q->inflight) >= 0)
		;
	/* The committer may still hold the lock it rang the bell under. */
	pthread_mutex_lock(&q->mail_lock);
	pthread_mutex_unlock(&q->mail_lock);
	epoch_leave(&q->d->epoch, &q->member);
	store_ring_free(q->ring);
	pthread_mutex_destroy(&q->mail_lock);
	sp_free(q->slots);
	sp_free(q->part_pool);
	sp_free(q);
}
