/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A SCSI command: its data in, the unit's work, data and status out.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "tests/iscsi/target.h"

#define DATA_OUT	0x05u
#define SCSI_RESPONSE	0x21u
#define DATA_IN		0x25u
#define R2T		0x31u
#define FINAL		0x80u
#define READ_BIT	0x40u
#define WRITE_BIT	0x20u
#define UNDERFLOW	0x02u
#define NO_TAG		UINT32_MAX

struct command {
	uint32_t tag, expected;		/* EDTL: data the initiator has or has room for */
	unsigned lun;
	bool done;
	struct scsi_task task;
	struct iovec iov;
};

static void command_done(struct scsi_task *t)
{
	((struct command *)t->user)->done = true;
}

/* ---- data out ------------------------------------------------------------------------------------------- */

/* Data-Out PDUs up to the final one, at @at and no further than @end. */
static int receive_burst(struct session *s, struct command *c, uint32_t at, uint32_t end)
{
	struct pdu pdu;
	int r;

	do {
		r = pdu_receive(s, &pdu);
		if (r < 0)
			return r;
		if ((pdu.header[0] & 0x3f) != DATA_OUT || pdu_get32(pdu.header + 16) != c->tag ||
		    pdu_get32(pdu.header + 40) != at || pdu.len > end - at)
			return -EPROTO;
		memcpy(s->buffer + at, pdu.data, pdu.len);
		at += pdu.len;
	} while (!(pdu.header[1] & FINAL));
	return (int)at;
}

static int ask(struct session *s, const struct command *c, uint32_t at, uint32_t len, uint32_t number)
{
	uint8_t h[PDU_HEADER];

	pdu_reply(s, h, R2T, c->tag, false);
	pdu_put32(h + 20, ++s->tag_r2t);
	pdu_put32(h + 36, number);
	pdu_put32(h + 40, at);
	pdu_put32(h + 44, len);
	return pdu_send(s, h, NULL, 0);
}

/* What came with the command, what comes unasked, and the rest on request. */
static int receive_data(struct session *s, struct command *c, const struct pdu *pdu)
{
	uint32_t at = pdu->len, number = 0;
	int r;

	if (at > c->expected)
		return -EPROTO;
	memcpy(s->buffer, pdu->data, at);
	if (!(pdu->header[1] & FINAL)) {
		r = receive_burst(s, c, at, c->expected);
		if (r < 0)
			return r;
		at = (uint32_t)r;
	}
	while (at < c->expected) {
		uint32_t len = c->expected - at < s->max_burst ? c->expected - at : s->max_burst;

		r = ask(s, c, at, len, number++);
		if (r == 0)
			r = receive_burst(s, c, at, at + len);
		if (r < 0)
			return r;
		at = (uint32_t)r;
	}
	return 0;
}

/* ---- data in and status --------------------------------------------------------------------------------- */

static int send_data(struct session *s, const struct command *c)
{
	uint32_t left = c->task.transferred, at = 0, number = 0;
	uint8_t h[PDU_HEADER];
	int r = 0;

	while (left > 0 && r == 0) {
		uint32_t len = left < s->peer_segment ? left : s->peer_segment;

		pdu_reply(s, h, DATA_IN, c->tag, false);
		h[1] = len == left ? FINAL : 0;
		pdu_put32(h + 20, NO_TAG);
		pdu_put32(h + 24, 0);
		pdu_put32(h + 36, number++);
		pdu_put32(h + 40, at);
		r = pdu_send(s, h, s->buffer + at, len);
		at += len;
		left -= len;
	}
	return r;
}

static int send_status(struct session *s, const struct command *c)
{
	uint8_t h[PDU_HEADER], sense[2 + SCSI_SENSE_MAX];
	uint32_t residual = c->expected - c->task.transferred, len = 0;

	pdu_reply(s, h, SCSI_RESPONSE, c->tag, true);
	h[3] = c->task.status;
	if (residual > 0) {
		h[1] |= UNDERFLOW;
		pdu_put32(h + 44, residual);
	}
	if (c->task.sense_len > 0) {
		pdu_put16(sense, c->task.sense_len);
		memcpy(sense + 2, c->task.sense, c->task.sense_len);
		len = 2u + c->task.sense_len;
	}
	return pdu_send(s, h, sense, len);
}

/* ---- the unit ------------------------------------------------------------------------------------------- */

static void execute(struct session *s, struct command *c)
{
	static const uint8_t luns[TARGET_UNITS] = { 0, 1, 2, 3 };
	struct scsi_queue *q = c->lun < TARGET_UNITS ? s->unit[c->lun].queue : NULL;
	static const uint8_t no_unit[18] = { 0x70, 0, 0x05, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x25 };

	if (!q) {
		if (!scsi_execute_absent(&c->task, luns, s->target->units)) {
			c->task.status = SCSI_CHECK_CONDITION;
			c->task.sense_len = sizeof(no_unit);
			memcpy(c->task.sense, no_unit, sizeof(no_unit));
		}
		return;
	}
	c->task.nexus = s->unit[c->lun].nexus;
	scsi_execute(q, &c->task);
	scsi_queue_kick(q);
	while (!c->done) {
		struct pollfd p = { .fd = scsi_queue_fd(q), .events = POLLIN };

		if (scsi_queue_poll(q) == 0 && !c->done)
			poll(&p, 1, 10);
	}
}

int command_run(struct session *s, const struct pdu *pdu)
{
	const uint8_t *h = pdu->header;
	struct command c = { .tag = pdu_get32(h + 16), .expected = pdu_get32(h + 20),
			     .lun = (h[8] & 0x3fu) << 8 | h[9] };
	struct scsi_task *t = &c.task;
	int r;

	if (c.expected > TRANSFER_MAX)
		return -EPROTO;
	memcpy(t->cdb, h + 32, sizeof(t->cdb));
	t->direction = h[1] & WRITE_BIT ? SCSI_TO_DEVICE : h[1] & READ_BIT ? SCSI_FROM_DEVICE : SCSI_NO_DATA;
	if (t->direction == SCSI_TO_DEVICE) {
		r = receive_data(s, &c, pdu);
		if (r < 0)
			return r;
	}
	c.iov = (struct iovec){ s->buffer, c.expected };
	t->iov = &c.iov;
	t->iovcnt = 1;
	t->data_len = t->direction == SCSI_NO_DATA ? 0 : c.expected;
	t->buf_index = -1;
	t->done = command_done;
	t->user = &c;
	execute(s, &c);
	r = t->direction == SCSI_FROM_DEVICE ? send_data(s, &c) : 0;
	return r < 0 ? r : send_status(s, &c);
}
