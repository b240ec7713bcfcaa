/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A session: login, then PDU after PDU. Its thread owns a queue of each unit; its identity is the nexus.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/iscsi/target.h"

#define NOP_OUT		 0x00u
#define SCSI_COMMAND	 0x01u
#define TASK_MANAGEMENT	 0x02u
#define LOGOUT		 0x06u
#define NOP_IN		 0x20u
#define TASK_RESPONSE	 0x22u
#define LOGOUT_RESPONSE	 0x26u
#define REJECT		 0x3fu
#define IMMEDIATE	 0x40u
#define NO_TAG		 UINT32_MAX

/* ---- resets --------------------------------------------------------------------------------------------- */

static void reset_unit(struct target *t, struct unit *u)
{
	if (!u->lu)
		return;
	pthread_mutex_lock(&t->lock);
	for (unsigned i = 0; i < SCSI_NEXUSES; i++)
		if (u->session[i].used)
			scsi_lu_power_on(u->lu, &u->session[i].nexus);
	pthread_mutex_unlock(&t->lock);
}

/* Commands run one at a time, so by now nothing is left to abort. */
static uint8_t manage(struct session *s, const uint8_t *h)
{
	unsigned lun = h[9];

	switch (h[1] & 0x7f) {
	case 1:			/* ABORT TASK, ABORT TASK SET, CLEAR TASK SET */
	case 2:
	case 4:
		return 0;
	case 5:			/* LOGICAL UNIT RESET */
		if (lun >= TARGET_UNITS || !s->target->unit[lun].lu)
			return 2;
		reset_unit(s->target, &s->target->unit[lun]);
		return 0;
	case 6:			/* TARGET WARM RESET, TARGET COLD RESET */
	case 7:
		for (unsigned i = 0; i < TARGET_UNITS; i++)
			reset_unit(s->target, &s->target->unit[i]);
		return 0;
	default:
		return 5;
	}
}

/* ---- full feature phase --------------------------------------------------------------------------------- */

static int nop(struct session *s, const struct pdu *pdu)
{
	uint32_t tag = pdu_get32(pdu->header + 16);
	uint8_t h[PDU_HEADER];

	if (tag == NO_TAG)
		return 0;
	pdu_reply(s, h, NOP_IN, tag, true);
	pdu_put32(h + 20, NO_TAG);
	return pdu_send(s, h, pdu->data, pdu->len < s->peer_segment ? pdu->len : s->peer_segment);
}

static int reject(struct session *s, const struct pdu *pdu)
{
	uint8_t h[PDU_HEADER];

	pdu_reply(s, h, REJECT, NO_TAG, true);
	h[2] = 0x05;		/* command not supported */
	return pdu_send(s, h, pdu->header, PDU_HEADER);
}

/* 0, -ENOTCONN after a logout, or what went wrong. */
static int handle(struct session *s, const struct pdu *pdu)
{
	uint32_t tag = pdu_get32(pdu->header + 16);
	uint8_t h[PDU_HEADER], verdict;
	int r;

	if (!(pdu->header[0] & IMMEDIATE))
		s->exp_cmd_sn = pdu_get32(pdu->header + 24) + 1;
	switch (pdu->header[0] & 0x3f) {
	case NOP_OUT:
		return nop(s, pdu);
	case SCSI_COMMAND:
		return s->discovery ? -EPROTO : command_run(s, pdu);
	case TASK_MANAGEMENT:
		verdict = manage(s, pdu->header);
		pdu_reply(s, h, TASK_RESPONSE, tag, true);
		h[2] = verdict;
		return pdu_send(s, h, NULL, 0);
	case LOGOUT:
		pdu_reply(s, h, LOGOUT_RESPONSE, tag, true);
		r = pdu_send(s, h, NULL, 0);
		return r < 0 ? r : -ENOTCONN;
	default:
		return reject(s, pdu);
	}
}

/* ---- life ----------------------------------------------------------------------------------------------- */

static int attach(struct session *s, unsigned lun)
{
	struct unit *u = &s->target->unit[lun];
	unsigned slot = 0;
	int r;

	if (!u->lu)
		return 0;
	pthread_mutex_lock(&s->target->lock);
	while (slot < SCSI_NEXUSES && u->session[slot].used)
		slot++;
	r = slot < SCSI_NEXUSES ? scsi_lu_connect(u->lu, &s->id, &u->session[slot].nexus) : -EMFILE;
	if (r == 0) {
		u->session[slot].used = true;
		s->unit[lun].nexus = &u->session[slot].nexus;
	}
	pthread_mutex_unlock(&s->target->lock);
	return r < 0 ? r : scsi_queue_new(u->lu, 32, &s->unit[lun].queue, NULL);
}

static void detach(struct session *s, unsigned lun)
{
	struct unit *u = &s->target->unit[lun];

	scsi_queue_free(s->unit[lun].queue);
	if (!s->unit[lun].nexus)
		return;
	pthread_mutex_lock(&s->target->lock);
	scsi_lu_disconnect(u->lu, s->unit[lun].nexus);
	for (unsigned i = 0; i < SCSI_NEXUSES; i++)
		if (&u->session[i].nexus == s->unit[lun].nexus)
			u->session[i].used = false;
	pthread_mutex_unlock(&s->target->lock);
}

static void serve(struct session *s)
{
	struct pdu pdu;
	int r = login_run(s);

	for (unsigned i = 0; i < TARGET_UNITS && r == 0; i++)
		r = attach(s, i);
	while (r == 0) {
		r = pdu_receive(s, &pdu);
		if (r == 0)
			r = handle(s, &pdu);
	}
	for (unsigned i = 0; i < TARGET_UNITS; i++)
		detach(s, i);
}

void session_run(struct target *t, int fd)
{
	struct session *s = calloc(1, sizeof(*s));
	int on = 1;

	if (s) {
		*s = (struct session){ .target = t, .fd = fd, .peer_segment = 8192, .first_burst = 65536,
				       .max_burst = SEGMENT_MAX, .initial_r2t = true, .immediate_data = true };
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
		s->in = malloc(SEGMENT_MAX + 4);
		s->buffer = malloc(TRANSFER_MAX);
		if (s->in && s->buffer)
			serve(s);
		free(s->in);
		free(s->buffer);
		free(s);
	}
	close(fd);
}
