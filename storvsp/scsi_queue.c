/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One worker's door into a unit: what all commands have in common before their handler runs, and the way of a request
 * to the backend and back.
 *
 *	scsi_execute ─► unit attention ─► known? ─► reservation ─► CDB bits ─► medium ─► write protection ─► handler
 *	handler ─► scsi_submit ─► (parked while a COMPARE AND WRITE runs) ─► backend ─► step or end of the task
 *
 * A unit attention goes first, as SAM-5 5.14 has it: even an unknown command reports it.
 */
#include <errno.h>
#include <poll.h>

#include "base/alloc.h"
#include "base/env.h"
#include "base/seed.h"
#include "storvsp/scsi_queue_int.h"

/* ---- time ---------------------------------------------------------------------------------------------- */

/* Statistics need one reading of the clock for all that comes between two polls, and one for all that a poll finds
 * done: a worker polls after every batch that it takes from its ring. */
static uint64_t batch_time(struct scsi_queue *q)
{
	if (!q->now_known)
		q->now_ns = sp_env_monotonic_ns();
	q->now_known = true;
	return q->now_ns;
}

static void batch_over(struct scsi_queue *q)
{
	q->now_known = false;
}

/* ---- requests ------------------------------------------------------------------------------------------ */

static uint64_t request_lba(const struct scsi_task *t)
{
	return t->req.offset >> scsi_task_lu(t)->block_shift;
}

void scsi_queue_step(struct scsi_task *t, int res)
{
	int r = t->step(t, res);

	if (r < 0)
		scsi_fail_errno(t, r, t->req.op != VHD_REQ_READ, request_lba(t));
}

static void submitted_done(struct vhd_req *req, int res)
{
	struct scsi_task *t = req->user;

	t->queue->submitted--;
	if (t->counted)
		scsi_exclusive_leave(t);
	if (t->step) {
		scsi_queue_step(t, res);
	} else if (res < 0) {
		scsi_fail_errno(t, res, req->op != VHD_REQ_READ, request_lba(t));
	} else {
		t->transferred = req->op == VHD_REQ_READ || req->op == VHD_REQ_WRITE ? (uint32_t)req->len : 0;
		scsi_good(t);
	}
}

static bool changes_data(enum vhd_req_op op)
{
	return op == VHD_REQ_WRITE || op == VHD_REQ_WRITE_ZEROES || op == VHD_REQ_DISCARD;
}

void scsi_submit(struct scsi_task *t)
{
	struct scsi_queue *q = t->queue;

	t->req.complete = submitted_done;
	t->req.user = t;
	if (!q->registered)
		t->req.buf_index = -1;
	if (changes_data(t->req.op) && !scsi_exclusive_enter(t))
		return;
	q->submitted++;
	q->bqueue->ops->submit(q->bqueue, &t->req);
}

static void sync_done(struct vhd_req *req, int res)
{
	struct scsi_queue *q = req->user;

	/* A failure stays with the backend: every later flush tells it. */
	q->submitted--;
	q->sync_busy = false;
}

bool scsi_queue_sync_behind(struct scsi_queue *q)
{
	/* One that runs may have begun before the latest writes were completed: it does not do for them. */
	if (q->sync_busy)
		return false;
	q->sync = (struct vhd_req){ .op = VHD_REQ_FLUSH, .buf_index = -1, .complete = sync_done, .user = q };
	q->sync_busy = true;
	q->submitted++;
	q->bqueue->ops->submit(q->bqueue, &q->sync);
	return true;
}

/* ---- dispatch ------------------------------------------------------------------------------------------ */

/* The first byte with a bit that the command does not know, or -1. */
static int unknown_bits(const struct scsi_command *c, const uint8_t cdb[16])
{
	for (int i = 1; i < c->length; i++) {
		if (cdb[i] & ~c->usage[i])
			return i;
	}
	return -1;
}

static bool reservation_conflicts(struct scsi_lu *lu, const struct scsi_task *t, const struct scsi_command *c)
{
	return __atomic_load_n(&lu->reserved, __ATOMIC_ACQUIRE) && !scsi_reservation_allows(lu, t->nexus, c, t->cdb);
}

static void dispatch(struct scsi_queue *q, struct scsi_task *t)
{
	struct scsi_lu *lu = q->lu;
	const struct scsi_command *c = scsi_command_find(lu->kind, t->cdb);
	bool attends = !(c && (c->flags & SCSI_CMD_DESPITE_UA));
	uint32_t sense;
	int bad;

	if (attends && (sense = scsi_ua_take(lu, t->nexus)) != 0) {
		scsi_fail(t, sense);
	} else if (!c && !scsi_command_known(lu->kind, t->cdb[0])) {
		scsi_fail(t, SCSI_SENSE_INVALID_OPCODE);
	} else if (!c) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 1);
	} else if (reservation_conflicts(lu, t, c)) {
		scsi_conflict(t);
	} else if ((bad = unknown_bits(c, t->cdb)) >= 0) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, (uint16_t)bad);
	} else if (lu->kind == SCSI_DVD && (c->flags & SCSI_CMD_MEDIUM) && (sense = scsi_medium_open(q)) != 0) {
		scsi_fail(t, sense);
	} else if ((c->flags & SCSI_CMD_WRITES) && !(c->flags & SCSI_CMD_PROTECT_OK) && scsi_lu_protected(lu) &&
		   !SP_SEED_BUG(SCSI_NO_WRITE_PROTECT)) {
		scsi_fail(t, SCSI_SENSE_WRITE_PROTECTED);
	} else {
		c->execute(t);
	}
}

void scsi_execute(struct scsi_queue *q, struct scsi_task *t)
{
	t->queue = q;
	t->status = SCSI_GOOD;
	t->sense_len = 0;
	t->transferred = 0;
	t->state = NULL;
	t->step = NULL;
	t->account = SCSI_ACCOUNT_OTHER;
	t->counted = false;
	t->cancels = q->cancels;
	t->started_ns = batch_time(q);
	scsi_stats_inflight(q, 1, t->started_ns);
	if (q->lu->kind != SCSI_DVD) {
		dispatch(q, t);
		return;
	}
	scsi_medium_enter(q);
	dispatch(q, t);
	scsi_medium_leave(q);
}

void scsi_queue_ended(struct scsi_queue *q, struct scsi_task *t)
{
	uint64_t now = batch_time(q);

	if (q->exclusive_task == t)
		scsi_exclusive_end(t);
	scsi_stats_task(q, t, now);
	scsi_stats_inflight(q, -1, now);
	q->ended++;
}

bool scsi_cancelled(const struct scsi_task *t)
{
	return t->cancels != t->queue->cancels;
}

void scsi_queue_cancel(struct scsi_queue *q)
{
	q->cancels++;
}

void scsi_queue_set_luns(struct scsi_queue *q, unsigned (*luns)(void *ctx, uint8_t ret_lun[256]), void *ctx)
{
	q->luns = luns;
	q->luns_ctx = ctx;
}

unsigned scsi_queue_inflight(const struct scsi_queue *q)
{
	return q->inflight;
}

bool scsi_queue_busy(const struct scsi_queue *q)
{
	return q->submitted > 0;
}

/* ---- life ---------------------------------------------------------------------------------------------- */

int scsi_queue_new(struct scsi_lu *lu, unsigned depth, struct scsi_queue **ret_queue, struct sp_err *err)
{
	struct scsi_queue *q = sp_zalloc(sizeof(*q));
	int r;

	if (!q)
		return sp_err_set(err, -ENOMEM, "out of memory");
	q->lu = lu;
	q->depth = depth;
	q->parked_tail = &q->parked;
	if (lu->kind == SCSI_DISK) {
		q->medium = lu->backend;
		r = lu->backend->ops->queue_new(lu->backend, depth, &q->bqueue, err);
		if (r < 0) {
			sp_free(q);
			return r;
		}
	}
	scsi_lu_add_queue(lu, q);
	*ret_queue = q;
	return 0;
}

/* Nothing to run just now: until the bell rings, or a moment passes. */
static void wait_a_moment(struct scsi_queue *q)
{
	struct pollfd p = { .fd = scsi_queue_fd(q), .events = POLLIN };

	poll(&p, 1, 1);
}

void scsi_queue_free(struct scsi_queue *q)
{
	if (!q)
		return;
	scsi_queue_cancel(q);
	while (q->inflight > 0 || q->submitted > 0) {
		int r = scsi_queue_poll(q);

		if (r < 0)
			break;		/* the backend's own free waits for the rest */
		if (r == 0)
			wait_a_moment(q);
	}
	scsi_lu_remove_queue(q->lu, q);
	if (q->bqueue)
		q->bqueue->ops->queue_free(q->bqueue);
	scsi_exclusive_left(q);
	sp_free(q);
}

int scsi_queue_register_buffers(struct scsi_queue *q, const struct iovec *iov, unsigned count)
{
	int r;

	if (q->lu->kind == SCSI_DVD)
		return 0;		/* they would have to follow each medium, for reads that need no speed */
	r = q->bqueue->ops->register_buffers(q->bqueue, iov, count);
	q->registered = r == 0 && count > 0;
	return r;
}

int scsi_queue_kick(struct scsi_queue *q)
{
	/* Only what this worker submitted keeps a drive's bqueue from being taken away. */
	return q->bqueue && q->submitted > 0 ? q->bqueue->ops->kick(q->bqueue) : 0;
}

static int poll_backend(struct scsi_queue *q)
{
	int r = q->bqueue ? q->bqueue->ops->poll(q->bqueue) : 0;

	if (r < 0)
		return r;
	scsi_exclusive_poll(q);
	return scsi_queue_kick(q);
}

int scsi_queue_poll(struct scsi_queue *q)
{
	unsigned before = q->ended;
	int r;

	batch_over(q);
	if (q->lu->kind == SCSI_DVD) {
		scsi_medium_enter(q);
		r = poll_backend(q);
		scsi_medium_leave(q);
	} else {
		r = poll_backend(q);
	}
	batch_over(q);
	return r < 0 ? r : (int)(q->ended - before);
}

int scsi_queue_fd(struct scsi_queue *q)
{
	int fd;

	if (q->lu->kind != SCSI_DVD)
		return q->bqueue->ops->fd(q->bqueue);
	scsi_medium_enter(q);
	fd = q->bqueue ? q->bqueue->ops->fd(q->bqueue) : -1;
	scsi_medium_leave(q);
	return fd;
}
