/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A request, from the packet to the reply. All of it lies in a slot of the worker: what the guest wrote was copied
 * once, is checked in that copy, and nothing the guest says chooses a slot.
 *
 *	packet -> slot -> [waits for its turn] -> SCSI task -> reply -> [waits for room in the ring] -> slot is free
 *
 * The status rules are those that guests were seen to need, Linux above all: for INQUIRY and MODE SENSE it takes every
 * answer for success, so a failed one must say that nothing was moved; sense counts only with both its marks; and a
 * status it does not know means "success, nothing moved", which it repeats for ever.
 */
#include <string.h>

#include "base/env.h"
#include "base/seed.h"
#include "storvsp/storvsp_int.h"

#define SENSE_INVALID_FIELD 0x52400u	/* key, additional code, qualifier */
#define SENSE_INTERNAL	    0x44400u
#define SENSE_ABORTED	    0xb0000u
#define SENSE_FIXED 18u

/* ---- slots --------------------------------------------------------------------------------------------- */

static struct storvsp_request *take_slot(struct storvsp_worker *w)
{
	struct storvsp_request *r = w->free;

	w->free = r->next;
	w->free_slots--;
	return r;
}

static void leave_door(struct storvsp_request *r)
{
	struct storvsp_door *d = r->door;

	r->door = NULL;
	if (d && --d->slots == 0)
		r->worker->busy_doors--;
}

static void enter_door(struct storvsp_request *r, struct storvsp_door *d)
{
	r->door = d;
	if (d->slots++ == 0)
		r->worker->busy_doors++;
}

/* ---- answers ------------------------------------------------------------------------------------------- */

static void answer_srb(struct storvsp_request *r, uint8_t srb_status, uint8_t scsi_status, uint32_t moved)
{
	struct vstor_srb *srb = &r->packet.u.srb;

	r->packet.operation = le32_make(VSTOR_COMPLETE_IO);
	r->packet.flags = le32_make(0);
	r->packet.status = le32_make(VSTOR_STATUS_SUCCESS);
	srb->srb_status = srb_status;
	srb->scsi_status = scsi_status;
	srb->cdb_length = sizeof(r->task.cdb);
	srb->sense_length = 0;
	srb->reserved = 0;
	srb->transfer_length = le32_make(moved);
	memset(srb->cdb, 0, sizeof(srb->cdb));
	leave_door(r);
	storvsp_worker_reply(r->worker, r);
}

static void answer_sense(struct storvsp_request *r, const uint8_t *sense, uint8_t len)
{
	struct vstor_srb *srb = &r->packet.u.srb;
	uint8_t copy[VSTOR_SENSE_MAX] = { 0 }, mark = VSTOR_SRB_AUTOSENSE_VALID;

	if (SP_SEED_BUG(VSP_SENSE_UNMARKED))
		mark = 0;
	memcpy(copy, sense, len < sizeof(copy) ? len : sizeof(copy));
	r->packet.operation = le32_make(VSTOR_COMPLETE_IO);
	r->packet.flags = le32_make(0);
	r->packet.status = le32_make(VSTOR_STATUS_SUCCESS);
	srb->srb_status = VSTOR_SRB_ERROR | mark;
	srb->scsi_status = SCSI_CHECK_CONDITION;
	srb->cdb_length = sizeof(r->task.cdb);
	srb->sense_length = len < sizeof(copy) ? len : (uint8_t)sizeof(copy);
	srb->reserved = 0;
	srb->transfer_length = le32_make(SP_SEED_BUG(VSP_FAILED_LENGTH) ? r->task.data_len : 0);
	memcpy(srb->cdb, copy, sizeof(copy));
	leave_door(r);
	storvsp_worker_reply(r->worker, r);
}

/* Failures that no unit has seen. */
static void answer_failure(struct storvsp_request *r, uint32_t code)
{
	uint8_t sense[SENSE_FIXED] = { [0] = 0x70, [7] = SENSE_FIXED - 8 };

	sense[2] = (uint8_t)(code >> 16);
	sense[12] = (uint8_t)(code >> 8);
	sense[13] = (uint8_t)code;
	answer_sense(r, sense, sizeof(sense));
}

static void answer_task(struct storvsp_request *r)
{
	const struct scsi_task *t = &r->task;
	uint32_t moved = t->transferred < t->data_len ? t->transferred : t->data_len;

	switch (t->status) {
	case SCSI_GOOD:
		answer_srb(r, VSTOR_SRB_SUCCESS, SCSI_GOOD, moved);
		break;
	case SCSI_CHECK_CONDITION:
		/* Without sense the guest's error handler would come and reset the bus. */
		if (t->sense_len)
			answer_sense(r, t->sense, t->sense_len);
		else
			answer_failure(r, SENSE_INTERNAL);
		break;
	case SCSI_BUSY:
	case SCSI_TASK_SET_FULL:
		answer_srb(r, VSTOR_SRB_SUCCESS, t->status, 0);
		break;
	default:
		answer_srb(r, VSTOR_SRB_ERROR, t->status, 0);
	}
}

void storvsp_request_cancel(struct storvsp_request *r)
{
	answer_failure(r, SENSE_ABORTED);
}

void storvsp_request_refuse(struct storvsp_request *r)
{
	int i = (int)r->door->unit->index;

	answer_srb(r, VSTOR_SRB_INVALID_LUN, SCSI_GOOD, 0);
	storvsp_absence_told(r->worker->controller, i);
}

/* ---- checks of an SRB ------------------------------------------------------------------------------------ */

/* Commands that move data to the unit, and those that move it from the unit; the rest moves none, or is not known. */
static enum scsi_direction direction_of(const uint8_t cdb[16])
{
	switch (cdb[0]) {
	case 0x0a: case 0x2a: case 0xaa: case 0x8a:		/* WRITE */
	case 0x2e: case 0xae: case 0x8e:			/* WRITE AND VERIFY */
	case 0x2f: case 0xaf: case 0x8f:			/* VERIFY */
	case 0x41: case 0x93: case 0x42: case 0x89:		/* WRITE SAME, UNMAP, COMPARE AND WRITE */
	case 0x15: case 0x55: case 0x5f: case 0x3b: case 0x04:	/* MODE SELECT, PR OUT, WRITE BUFFER, FORMAT UNIT */
		return SCSI_TO_DEVICE;
	case 0x08: case 0x28: case 0xa8: case 0x88:		/* READ */
	case 0x12: case 0x03: case 0xa0: case 0x25: case 0x9e:	/* INQUIRY, REQUEST SENSE, REPORT LUNS, READ CAPACITY */
	case 0x1a: case 0x5a: case 0x4d: case 0x5e: case 0xa3:	/* MODE SENSE, LOG SENSE, PR IN, MAINTENANCE IN */
	case 0x43: case 0x46: case 0x4a: case 0x51: case 0x52:	/* of optical drives */
	case 0xac: case 0xad: case 0xbd:
		return SCSI_FROM_DEVICE;
	default:
		return SCSI_NO_DATA;
	}
}

static bool direction_ok(const struct vstor_srb *srb, uint32_t len)
{
	enum scsi_direction wanted = direction_of(srb->cdb);

	if (srb->data_in > VSTOR_DATA_NONE)
		return false;
	if (len == 0 || wanted == SCSI_NO_DATA)
		return len == 0 || srb->data_in != VSTOR_DATA_NONE;
	return srb->data_in == (wanted == SCSI_TO_DEVICE ? VSTOR_DATA_OUT : VSTOR_DATA_IN);
}

/* Cuts the list to @len bytes, of which it has as many. How many entries remain. */
static int cut_iov(struct iovec *iov, uint32_t len)
{
	int n = 0;

	for (; len > 0; n++) {
		if (iov[n].iov_len > len)
			iov[n].iov_len = len;
		len -= (uint32_t)iov[n].iov_len;
	}
	return n;
}

/* Where the guest's data lies. False: not in its memory, malformed, or less than the SRB says. */
static bool find_data(struct storvsp_request *r, const struct vmbus_packet *p, uint32_t len)
{
	struct storvsp_worker *w = r->worker;
	struct scsi_task *t = &r->task;
	/* Each piece takes 8 bytes of the packet at least. */
	bool few = p->extra_len <= STORVSP_FEW * sizeof(le64_t);
	uint32_t bytes;
	int n;

	t->iov = few ? r->few : r->iov;
	if (len == 0)
		return true;
	if (len > w->controller->protocol.max_transfer)
		return false;
	n = vmbus_gpa_iovec(w->ch->mem, p, t->iov, few ? (int)STORVSP_FEW : w->iov_room, &bytes);
	if (n <= 0)
		return false;
	if (SP_SEED_BUG(VSP_LENGTH_TRUSTED))
		t->iovcnt = n;
	else if (len > bytes)
		return false;
	else
		t->iovcnt = cut_iov(t->iov, len);
	t->data_len = len;
	return true;
}

static bool fill_task(struct storvsp_request *r, const struct vmbus_packet *p)
{
	const struct vstor_srb *srb = &r->packet.u.srb;
	uint32_t len = le32_get(srb->transfer_length);
	struct scsi_task *t = &r->task;

	t->status = t->sense_len = 0;
	t->transferred = t->data_len = 0;
	t->iovcnt = 0;
	t->buf_index = -1;
	t->queue = NULL;
	t->state = NULL;
	t->step = NULL;
	if (srb->cdb_length == 0 || srb->cdb_length > sizeof(t->cdb) || !direction_ok(srb, len))
		return false;
	memcpy(t->cdb, srb->cdb, sizeof(t->cdb));
	t->direction = srb->data_in == VSTOR_DATA_OUT ? SCSI_TO_DEVICE :
		       srb->data_in == VSTOR_DATA_IN ? SCSI_FROM_DEVICE : SCSI_NO_DATA;
	return find_data(r, p, len);
}

/* ---- on to the unit ---------------------------------------------------------------------------------------- */

static int buffer_index(const struct storvsp_worker *w, const struct iovec *iov)
{
	for (unsigned i = 0; i < w->regions; i++) {
		size_t at = (size_t)((uint8_t *)iov->iov_base - (uint8_t *)w->region[i].iov_base);

		/* A start before the region wraps to a huge distance. */
		if (at < w->region[i].iov_len && iov->iov_len <= w->region[i].iov_len - at)
			return (int)i;
	}
	return -1;
}

static bool counted(const struct storvsp_request *r)
{
	return r->entry.cost.io;
}

static void task_done(struct scsi_task *t)
{
	struct storvsp_request *r = t->user;
	struct storvsp_door *d = r->door;

	r->worker->running--;
	if (d) {
		d->running--;
		if (counted(r))
			storvsp_schedule_done(&r->worker->schedule, &d->flow);
	}
	answer_task(r);
}

void storvsp_request_init(struct storvsp_request *r, struct storvsp_worker *w, struct iovec *iov)
{
	r->worker = w;
	r->iov = iov;
	r->task.done = task_done;
	r->task.user = r;
}

struct storvsp_request *storvsp_request_of(struct storvsp_entry *e)
{
	return (struct storvsp_request *)((char *)e - offsetof(struct storvsp_request, entry));
}

void storvsp_request_start(struct storvsp_request *r)
{
	struct storvsp_door *d = r->door;
	struct scsi_task *t = &r->task;

	r->worker->running++;
	d->running++;
	if (!storvsp_door_open(d)) {
		t->status = SCSI_BUSY;		/* the guest comes again; by then there may be memory */
		task_done(t);
		return;
	}
	if (d->registered && t->iovcnt == 1)
		t->buf_index = buffer_index(r->worker, t->iov);
	if (!__atomic_load_n(&d->unit->seen, __ATOMIC_RELAXED))
		__atomic_store_n(&d->unit->seen, true, __ATOMIC_RELAXED);
	d->started = true;
	t->nexus = &d->unit->nexus;
	scsi_execute(d->queue, t);
}

static void absent(struct storvsp_request *r, int index)
{
	const struct vstor_srb *srb = &r->packet.u.srb;
	uint8_t luns[256];
	unsigned n = storvsp_doors_list(r->worker, srb->path, srb->target, luns);

	r->entry.cost = (struct scsi_cost){ 0 };
	r->worker->running++;
	if (scsi_execute_absent(&r->task, luns, n))
		return;
	r->worker->running--;
	answer_srb(r, VSTOR_SRB_INVALID_LUN, SCSI_GOOD, 0);
	if (index >= 0)
		storvsp_absence_told(r->worker->controller, index);
}

/* One unit keeps so many slots that others, which may be idle just now, would soon wait for the ring behind it. */
static bool hogs(const struct storvsp_worker *w, const struct storvsp_door *d)
{
	unsigned sharing = w->busy_doors > 2 ? w->busy_doors : 2;

	if (SP_SEED_BUG(VSP_HOG))
		return false;
	return w->useds > 1 && w->free_slots < w->slots / 4 && d->slots > w->slots / sharing;
}

static void execute(struct storvsp_request *r, const struct vmbus_packet *p)
{
	const struct vstor_srb *srb = &r->packet.u.srb;
	struct storvsp_worker *w = r->worker;
	int i = storvsp_address_index(w->controller, srb->path, srb->target, srb->lun);
	struct storvsp_door *d = i < 0 ? NULL : &w->door[i];

	if (!fill_task(r, p)) {
		answer_failure(r, SENSE_INVALID_FIELD);
		return;
	}
	if (!d || !d->unit || d->leaving) {
		absent(r, i);
		return;
	}
	enter_door(r, d);
	r->entry.flow = &d->flow;
	r->entry.cost = scsi_cost(r->task.cdb, r->task.data_len);
	if (hogs(w, d))
		answer_srb(r, VSTOR_SRB_SUCCESS, SCSI_TASK_SET_FULL, 0);
	else if (!counted(r) || storvsp_schedule_add(&w->schedule, &r->entry, w->now))
		storvsp_request_start(r);
}

/* ---- packets ------------------------------------------------------------------------------------------------ */

static void take_packet(struct storvsp_request *r, const struct vmbus_packet *p)
{
	uint32_t len = p->payload_len < sizeof(r->packet) ? p->payload_len : (uint32_t)sizeof(r->packet);

	r->transaction_id = p->transaction_id;
	r->payload_len = storvsp_protocol_answer_len(p->payload_len);
	r->door = NULL;
	memset(&r->packet, 0, sizeof(r->packet));
	memcpy(&r->packet, p->payload, len);
}

void storvsp_request_packet(struct storvsp_worker *w, const struct vmbus_packet *p)
{
	struct storvsp *c = w->controller;
	struct storvsp_request *r;
	struct vstor_packet answer;

	/* Nobody waits for an answer to these, so nothing may come of them. */
	if ((p->type != VMBUS_PACKET_INBAND && p->type != VMBUS_PACKET_GPA_DIRECT) ||
	    !(p->flags & VMBUS_PACKET_COMPLETION_WANTED)) {
		storvsp_worker_count(&w->stats.bad_packets, 1);
		return;
	}
	r = take_slot(w);
	take_packet(r, p);
	switch (storvsp_protocol_packet(&c->protocol, w->subchannel, &r->packet, p->payload_len, &answer)) {
	case STORVSP_EXECUTE:
		storvsp_worker_count(&w->stats.requests, 1);
		execute(r, p);
		return;
	case STORVSP_RESET:
		storvsp_reset_begin(w, r);
		return;
	case STORVSP_ANSWER_OFFER:
		w->offer = c->protocol.subchannels;
		break;
	case STORVSP_ANSWER_READY:
		/* The guest scans the bus now: what was to be told before is no news. */
		__atomic_store_n(&c->enumerate, false, __ATOMIC_RELAXED);
		break;
	case STORVSP_ANSWER:
		if (le32_get(answer.status) != VSTOR_STATUS_SUCCESS)
			storvsp_worker_count(&w->stats.bad_packets, 1);
		break;
	}
	r->packet = answer;
	storvsp_worker_reply(w, r);
}
