/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Login: key=value texts until both sides are in the full feature phase.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc32c.h"
#include "tests/iscsi/target.h"

#define LOGIN_REQUEST  0x03u
#define LOGIN_RESPONSE 0x23u
#define TRANSIT	       0x80u
#define TEXT_MAX       4096u

struct text {
	char data[TEXT_MAX];
	size_t len;
};

static void answer(struct text *out, const char *key, const char *value)
{
	int n = snprintf(out->data + out->len, TEXT_MAX - out->len, "%s=%s", key, value);

	if (n > 0 && (size_t)n < TEXT_MAX - out->len)
		out->len += (size_t)n + 1;
}

static uint32_t answer_least(struct text *out, const char *key, const char *value, uint32_t ours)
{
	uint32_t theirs = (uint32_t)strtoul(value, NULL, 0);
	char number[16];

	if (theirs < ours)
		ours = theirs;
	snprintf(number, sizeof(number), "%u", ours);
	answer(out, key, number);
	return ours;
}

static bool yes(const char *value)
{
	return strcmp(value, "Yes") == 0;
}

/* Keys with one possible answer. */
static const struct { const char *key, *value; } fixed[] = {
	{ "AuthMethod", "None" },
	{ "HeaderDigest", "None" },
	{ "DataDigest", "None" },
	{ "MaxConnections", "1" },
	{ "MaxOutstandingR2T", "1" },
	{ "ErrorRecoveryLevel", "0" },
	{ "DefaultTime2Wait", "0" },
	{ "DefaultTime2Retain", "0" },
	{ "DataPDUInOrder", "Yes" },
	{ "DataSequenceInOrder", "Yes" },
	{ "IFMarker", "No" },
	{ "OFMarker", "No" },
};

static void negotiate(struct session *s, struct text *out, const char *key, const char *value)
{
	for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++) {
		if (strcmp(key, fixed[i].key) == 0) {
			answer(out, key, fixed[i].value);
			return;
		}
	}
	if (strcmp(key, "InitiatorName") == 0) {
		snprintf(s->initiator, sizeof(s->initiator), "%s", value);
	} else if (strcmp(key, "SessionType") == 0) {
		s->discovery = strcmp(value, "Discovery") == 0;
	} else if (strcmp(key, "TargetName") == 0 || strcmp(key, "InitiatorAlias") == 0) {
		return;
	} else if (strcmp(key, "InitialR2T") == 0) {
		s->initial_r2t = yes(value);
		answer(out, key, value);
	} else if (strcmp(key, "ImmediateData") == 0) {
		s->immediate_data = yes(value);
		answer(out, key, value);
	} else if (strcmp(key, "MaxRecvDataSegmentLength") == 0) {
		s->peer_segment = (uint32_t)strtoul(value, NULL, 0);
		if (s->peer_segment > SEGMENT_MAX)
			s->peer_segment = SEGMENT_MAX;
		answer(out, key, "262144");
	} else if (strcmp(key, "FirstBurstLength") == 0) {
		s->first_burst = answer_least(out, key, value, 65536);
	} else if (strcmp(key, "MaxBurstLength") == 0) {
		s->max_burst = answer_least(out, key, value, SEGMENT_MAX);
	} else {
		answer(out, key, "NotUnderstood");
	}
}

/* Pairs end with NUL; the buffer has room for one more. */
static void negotiate_all(struct session *s, struct pdu *pdu, struct text *out)
{
	char *at = (char *)pdu->data, *end = at + pdu->len;

	*end = '\0';
	while (at < end) {
		size_t len = strlen(at);
		char *value = strchr(at, '=');

		if (value) {
			*value = '\0';
			negotiate(s, out, at, value + 1);
		}
		at += len + 1;
	}
}

/* Initiator and session: names the nexus, and does so again after a new login. */
static void identify(struct session *s, const uint8_t isid[6])
{
	uint32_t sum = sp_crc32c(s->initiator, strlen(s->initiator));

	memset(&s->id, 0x42, sizeof(s->id));
	pdu_put32(s->id.b, sum);
	memcpy(s->id.b + 4, isid, 6);
}

int login_run(struct session *s)
{
	struct text *out = calloc(1, sizeof(*out));
	uint8_t reply[PDU_HEADER];
	struct pdu pdu;
	bool done = false;
	int r = out ? 0 : -ENOMEM;

	while (r == 0 && !done) {
		r = pdu_receive(s, &pdu);
		if (r == 0 && ((pdu.header[0] & 0x3f) != LOGIN_REQUEST || pdu.len >= SEGMENT_MAX))
			r = -EPROTO;
		if (r < 0)
			break;
		out->len = 0;
		s->exp_cmd_sn = pdu_get32(pdu.header + 24);
		negotiate_all(s, &pdu, out);
		pdu_reply(s, reply, LOGIN_RESPONSE, pdu_get32(pdu.header + 16), true);
		reply[1] = pdu.header[1] & (TRANSIT | 0x0f);	/* to where the initiator wants */
		memcpy(reply + 8, pdu.header + 8, 6);		/* ISID */
		reply[15] = 1;					/* TSIH */
		done = (reply[1] & TRANSIT) && (reply[1] & 0x03) == 3;
		if (done || (reply[1] & 0x0c) == 0)
			answer(out, "TargetPortalGroupTag", "1");
		identify(s, pdu.header + 8);
		r = pdu_send(s, reply, out->data, (uint32_t)out->len);
	}
	free(out);
	return r;
}
