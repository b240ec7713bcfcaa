/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_ISCSI_TARGET_H
#define SPINDLE_TESTS_ISCSI_TARGET_H
/*
 * A small iSCSI target (RFC 7143) over the project's SCSI units, so that a conformance suite made for iSCSI can judge
 * them. For tests alone: one connection per session, a thread for each, one command at a time, no digests, no
 * authentication, error recovery level 0, 127.0.0.1 only.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "storvsp/scsi.h"

#define TARGET_NAME    "iqn.2000-01.example.spindle:test"
#define TARGET_UNITS   4u
#define SEGMENT_MAX    (256u << 10)	/* data of one PDU, either way */
#define TRANSFER_MAX   (64u << 20)	/* data of one command */
#define COMMAND_WINDOW 64u

struct unit {
	struct scsi_lu *lu;		/* NULL: no such LUN */
	struct {
		bool used;
		struct scsi_nexus nexus;
	} session[SCSI_NEXUSES];	/* under target.lock: whom a reset must tell */
};

struct target {
	pthread_mutex_t lock;
	struct unit unit[TARGET_UNITS];
	unsigned units;
};

#define PDU_HEADER 48u

struct pdu {
	uint8_t header[PDU_HEADER];
	uint8_t *data;			/* of the session: room for SEGMENT_MAX */
	uint32_t len;
};

struct session {
	struct target *target;
	int fd;
	uint8_t *in;			/* SEGMENT_MAX: data of the PDU received */
	uint8_t *buffer;		/* TRANSFER_MAX: data of the command */
	uint32_t stat_sn, exp_cmd_sn;
	uint32_t tag_r2t;
	/* negotiated */
	char initiator[256];
	bool discovery, initial_r2t, immediate_data;
	uint32_t peer_segment, first_burst, max_burst;
	struct sp_guid id;
	struct {
		struct scsi_queue *queue;
		struct scsi_nexus *nexus;
	} unit[TARGET_UNITS];
};

/* pdu.c: 0 or -errno; -ENOTCONN when the peer went away. */
int pdu_receive(struct session *s, struct pdu *ret_pdu);
int pdu_send(struct session *s, const uint8_t header[PDU_HEADER], const void *data, uint32_t len);
/* A header with opcode, final bit, initiator's task tag and our counters; @status: takes a StatSN. */
void pdu_reply(struct session *s, uint8_t header[PDU_HEADER], uint8_t opcode, uint32_t tag, bool status);
void pdu_put16(uint8_t *at, uint16_t value);
void pdu_put32(uint8_t *at, uint32_t value);
uint32_t pdu_get32(const uint8_t *at);

int login_run(struct session *s);				/* login.c */

int command_run(struct session *s, const struct pdu *pdu);	/* command.c */

void session_run(struct target *t, int fd);			/* session.c: until the peer leaves; closes @fd */

#endif
