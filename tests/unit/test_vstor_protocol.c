/* SPDX-License-Identifier: BSD-2-Clause */
/* Every operation in every state, on the primary channel and on a sub-channel: what is answered, and what changes. */
#include <stdio.h>

#include "storvsp/storvsp_int.h"
#include "tests/unit/rows.h"

#define OK    VSTOR_STATUS_SUCCESS
#define STATE VSTOR_STATUS_INVALID_DEVICE_STATE
#define PARAM VSTOR_STATUS_INVALID_PARAMETER
#define WHAT  VSTOR_STATUS_INVALID_REQUEST
#define RUN   0xffffffffu		/* not answered here: executed, or a reset */

#define STATES 5
#define SUBCHANNELS 3
#define FULL ((uint32_t)sizeof(struct vstor_packet))

static void begin(struct storvsp_protocol *p, enum storvsp_state state)
{
	struct storvsp_opts opts = { .max_subchannels = SUBCHANNELS };

	storvsp_protocol_init(p, &opts);
	p->state = state;
	p->version = state > STORVSP_VERSION ? VSTOR_VERSION_WIN10 : 0;
}

static struct vstor_packet packet_of(uint32_t operation)
{
	struct vstor_packet packet = {
		.operation = le32_make(operation),
		.flags = le32_make(VSTOR_REQUEST_COMPLETION),
	};

	if (operation == VSTOR_QUERY_PROTOCOL_VERSION)
		packet.u.version.version = le16_make(VSTOR_VERSION_WIN10);
	if (operation == VSTOR_CREATE_SUB_CHANNELS)
		packet.u.subchannels = le16_make(SUBCHANNELS);
	return packet;
}

/* The state and the version do not move, unless @to says so. */
static const struct order_case {
	const char *name;
	uint32_t operation;
	uint32_t status[STATES];	/* on the primary channel, by state */
	int from, to;			/* the one step that moves the state; -1: none */
	uint32_t sub[2];		/* on a sub-channel: before and after READY */
} order_cases[] = {
	{ "EXECUTE_SRB", VSTOR_EXECUTE_SRB, { STATE, STATE, STATE, STATE, RUN }, -1, -1, { STATE, RUN } },
	{ "RESET_LUN", VSTOR_RESET_LUN, { STATE, STATE, STATE, STATE, RUN }, -1, -1, { STATE, RUN } },
	{ "RESET_ADAPTER", VSTOR_RESET_ADAPTER, { STATE, STATE, STATE, STATE, RUN }, -1, -1, { STATE, RUN } },
	{ "RESET_BUS", VSTOR_RESET_BUS, { STATE, STATE, STATE, STATE, RUN }, -1, -1, { STATE, RUN } },
	{ "BEGIN_INITIALIZATION", VSTOR_BEGIN_INITIALIZATION, { OK, STATE, STATE, STATE, STATE }, STORVSP_BEGIN,
	  STORVSP_VERSION, { STATE, STATE } },
	{ "QUERY_PROTOCOL_VERSION", VSTOR_QUERY_PROTOCOL_VERSION, { STATE, OK, STATE, STATE, STATE }, STORVSP_VERSION,
	  STORVSP_PROPERTIES, { STATE, STATE } },
	{ "QUERY_PROPERTIES", VSTOR_QUERY_PROPERTIES, { STATE, STATE, OK, STATE, STATE }, STORVSP_PROPERTIES,
	  STORVSP_END, { STATE, STATE } },
	{ "END_INITIALIZATION", VSTOR_END_INITIALIZATION, { STATE, STATE, STATE, OK, STATE }, STORVSP_END,
	  STORVSP_READY, { STATE, STATE } },
	{ "CREATE_SUB_CHANNELS", VSTOR_CREATE_SUB_CHANNELS, { STATE, STATE, STATE, OK, OK }, -1, -1, { PARAM, PARAM } },
	{ "COMPLETE_IO", VSTOR_COMPLETE_IO, { WHAT, WHAT, WHAT, WHAT, WHAT }, -1, -1, { WHAT, WHAT } },
	{ "REMOVE_DEVICE", VSTOR_REMOVE_DEVICE, { WHAT, WHAT, WHAT, WHAT, WHAT }, -1, -1, { WHAT, WHAT } },
	{ "ENUMERATE_BUS", VSTOR_ENUMERATE_BUS, { WHAT, WHAT, WHAT, WHAT, WHAT }, -1, -1, { WHAT, WHAT } },
	{ "FCHBA_DATA", VSTOR_FCHBA_DATA, { WHAT, WHAT, WHAT, WHAT, WHAT }, -1, -1, { WHAT, WHAT } },
	{ "EVENT_NOTIFICATION", VSTOR_EVENT_NOTIFICATION, { WHAT, WHAT, WHAT, WHAT, WHAT }, -1, -1, { WHAT, WHAT } },
	{ "operation 0", 0, { WHAT, WHAT, WHAT, WHAT, WHAT }, -1, -1, { WHAT, WHAT } },
	{ "operation 15", 15, { WHAT, WHAT, WHAT, WHAT, WHAT }, -1, -1, { WHAT, WHAT } },
	{ "operation 2^32 - 1", UINT32_MAX, { WHAT, WHAT, WHAT, WHAT, WHAT }, -1, -1, { WHAT, WHAT } },
};

static void expect(struct storvsp_protocol *p, unsigned subchannel, uint32_t operation, uint32_t len, uint32_t want)
{
	struct vstor_packet packet = packet_of(operation), answer;
	enum storvsp_verdict verdict = storvsp_protocol_packet(p, subchannel, &packet, len, &answer);

	assert_int_equal(le32_get(answer.operation), VSTOR_COMPLETE_IO);
	if (want == RUN) {
		assert_int_equal(verdict, operation == VSTOR_EXECUTE_SRB ? STORVSP_EXECUTE : STORVSP_RESET);
		return;
	}
	assert_int_equal(le32_get(answer.status), want);
	if (want != OK)
		assert_int_equal(verdict, STORVSP_ANSWER);
	else if (operation == VSTOR_CREATE_SUB_CHANNELS)
		assert_int_equal(verdict, STORVSP_ANSWER_OFFER);
	else if (operation == VSTOR_END_INITIALIZATION)
		assert_int_equal(verdict, STORVSP_ANSWER_READY);
	else
		assert_int_equal(verdict, STORVSP_ANSWER);
}

static void order(void **state)
{
	const struct order_case *c = *state;
	struct storvsp_protocol p;

	for (int at = 0; at < STATES; at++) {
		begin(&p, (enum storvsp_state)at);
		expect(&p, 0, c->operation, FULL, c->status[at]);
		assert_int_equal(p.state, at == c->from ? c->to : at);

		begin(&p, (enum storvsp_state)at);
		expect(&p, 2, c->operation, FULL, c->sub[at == STORVSP_READY]);
		assert_int_equal(p.state, at);
		assert_int_equal(p.subchannels, 0);
	}
}

/* Too short to be anything: refused in each state, and nothing moves. */
static void too_short(void **state)
{
	const struct order_case *c = *state;
	static const uint32_t lens[] = { 0, 8, 40 };

	for (int at = 0; at < STATES; at++)
		for (unsigned i = 0; i < SP_ARRAY_SIZE(lens); i++) {
			struct storvsp_protocol p;

			begin(&p, (enum storvsp_state)at);
			expect(&p, 0, c->operation, lens[i], PARAM);
			assert_int_equal(p.state, at);
		}
}

static const struct version_case {
	const char *name;
	unsigned newest;
	uint16_t proposed;
	bool taken;
} version_cases[] = {
	{ "6.2", 0, 0x0602, true }, { "6.0", 0, 0x0600, true }, { "5.1", 0, 0x0501, true },
	{ "4.2 is too old", 0, 0x0402, false }, { "2.0 is too old", 0, 0x0200, false },
	{ "6.1 does not exist", 0, 0x0601, false }, { "7.0 is unknown", 0, 0x0700, false },
	{ "zero", 0, 0, false }, { "2^16 - 1", 0, 0xffff, false },
	{ "6.2 where 6.0 is the newest", VSTOR_VERSION_WIN81, 0x0602, false },
	{ "6.0 where 6.0 is the newest", VSTOR_VERSION_WIN81, 0x0600, true },
	{ "6.0 where 5.1 is the newest", VSTOR_VERSION_WIN8, 0x0600, false },
};

static void version(void **state)
{
	const struct version_case *c = *state;
	struct storvsp_opts opts = { .newest_version = c->newest };
	struct vstor_packet packet = packet_of(VSTOR_QUERY_PROTOCOL_VERSION), answer;
	struct storvsp_protocol p;

	storvsp_protocol_init(&p, &opts);
	p.state = STORVSP_VERSION;
	packet.u.version.version = le16_make(c->proposed);
	assert_int_equal(storvsp_protocol_packet(&p, 0, &packet, FULL, &answer), STORVSP_ANSWER);
	assert_int_equal(le32_get(answer.status), c->taken ? OK : VSTOR_STATUS_REVISION_MISMATCH);
	assert_int_equal(p.state, c->taken ? STORVSP_PROPERTIES : STORVSP_VERSION);
	assert_int_equal(p.version, c->taken ? c->proposed : 0);
}

static const struct subchannel_case {
	const char *name;
	enum storvsp_kind kind;
	unsigned max;
	uint16_t first, second;		/* second 0: only one is asked for */
	uint32_t want_first, want_second;
	uint16_t granted;
} subchannel_cases[] = {
	{ "all", STORVSP_SCSI, 7, 7, 0, OK, OK, 7 },
	{ "fewer than offered", STORVSP_SCSI, 7, 1, 0, OK, OK, 1 },
	{ "more than offered", STORVSP_SCSI, 7, 8, 0, PARAM, OK, 0 },
	{ "none", STORVSP_SCSI, 7, 0, 0, PARAM, OK, 0 },
	{ "2^16 - 1", STORVSP_SCSI, 7, 0xffff, 0, PARAM, OK, 0 },
	{ "twice", STORVSP_SCSI, 7, 2, 3, OK, PARAM, 2 },
	{ "too many, then better", STORVSP_SCSI, 7, 9, 3, PARAM, OK, 3 },
	{ "none are offered", STORVSP_SCSI, 0, 1, 0, PARAM, OK, 0 },
	{ "IDE has none", STORVSP_IDE, 7, 1, 0, PARAM, OK, 0 },
};

static void subchannels(void **state)
{
	const struct subchannel_case *c = *state;
	struct storvsp_opts opts = { .kind = c->kind, .max_subchannels = c->max };
	struct vstor_packet packet = packet_of(VSTOR_CREATE_SUB_CHANNELS), answer;
	struct storvsp_protocol p;

	storvsp_protocol_init(&p, &opts);
	p.state = STORVSP_READY;
	packet.u.subchannels = le16_make(c->first);
	storvsp_protocol_packet(&p, 0, &packet, FULL, &answer);
	assert_int_equal(le32_get(answer.status), c->want_first);
	if (c->second) {
		packet.u.subchannels = le16_make(c->second);
		storvsp_protocol_packet(&p, 0, &packet, FULL, &answer);
		assert_int_equal(le32_get(answer.status), c->want_second);
	}
	assert_int_equal(p.subchannels, c->granted);
}

static void properties(void **state)
{
	struct storvsp_opts opts = { .max_subchannels = 5, .max_transfer = 65536 };
	struct vstor_packet packet = packet_of(VSTOR_QUERY_PROPERTIES), answer;
	struct storvsp_protocol p;

	for (int with = 0; with < 2; with++) {
		opts.max_subchannels = with ? 5 : 0;
		storvsp_protocol_init(&p, &opts);
		p.state = STORVSP_PROPERTIES;
		storvsp_protocol_packet(&p, 0, &packet, FULL, &answer);
		assert_int_equal(le16_get(answer.u.properties.max_subchannels), with ? 5 : 0);
		assert_int_equal(le32_get(answer.u.properties.flags), with ? VSTOR_MULTI_CHANNEL : 0);
		assert_int_equal(le32_get(answer.u.properties.max_transfer_bytes), 65536);
	}
}

/* The way Linux goes, refused versions included; then the primary channel is closed and all begins again. */
static void walk(void **state)
{
	struct storvsp_protocol p;

	begin(&p, STORVSP_BEGIN);
	for (int round = 0; round < 2; round++) {
		assert_false(storvsp_protocol_ready(&p));
		expect(&p, 0, VSTOR_BEGIN_INITIALIZATION, FULL, OK);
		expect(&p, 0, VSTOR_QUERY_PROTOCOL_VERSION, FULL, OK);
		expect(&p, 0, VSTOR_QUERY_PROPERTIES, FULL, OK);
		expect(&p, 0, VSTOR_END_INITIALIZATION, FULL, OK);
		expect(&p, 0, VSTOR_CREATE_SUB_CHANNELS, FULL, OK);
		assert_true(storvsp_protocol_ready(&p));
		assert_int_equal(p.subchannels, SUBCHANNELS);
		expect(&p, 0, VSTOR_EXECUTE_SRB, VSTOR_PACKET_MIN, RUN);
		storvsp_protocol_restart(&p);
		assert_int_equal(p.version, 0);
		assert_int_equal(p.subchannels, 0);
	}
}

/* An SRB before its time makes the guest come again: its status lies in the SRB, and the address is echoed. */
static void early_srb(void **state)
{
	struct vstor_packet packet = packet_of(VSTOR_EXECUTE_SRB), answer;
	struct storvsp_protocol p;

	begin(&p, STORVSP_VERSION);
	packet.u.srb.path = 3;
	packet.u.srb.lun = 9;
	packet.u.srb.transfer_length = le32_make(4096);
	assert_int_equal(storvsp_protocol_packet(&p, 0, &packet, FULL, &answer), STORVSP_ANSWER);
	assert_int_equal(answer.u.srb.srb_status, VSTOR_SRB_ERROR | VSTOR_SRB_AUTOSENSE_VALID);
	assert_int_equal(answer.u.srb.scsi_status, SCSI_CHECK_CONDITION);
	assert_int_equal(answer.u.srb.cdb[2], 0x02);
	assert_int_equal(answer.u.srb.cdb[12], 0x04);
	assert_int_equal(answer.u.srb.cdb[13], 0x01);
	assert_int_equal(le32_get(answer.u.srb.transfer_length), 0);
	assert_int_equal(answer.u.srb.path, 3);
	assert_int_equal(answer.u.srb.lun, 9);
}

static void answer_len(void **state)
{
	assert_int_equal(storvsp_protocol_answer_len(64), 64);
	assert_int_equal(storvsp_protocol_answer_len(48), 48);
	assert_int_equal(storvsp_protocol_answer_len(0), 64);
	assert_int_equal(storvsp_protocol_answer_len(1u << 20), 64);
}

static const struct single_row single_rows[] = {
	{ "the properties of a controller", properties },
	{ "the way of Linux, twice", walk },
	{ "an SRB before its time", early_srb },
	{ "an answer is as long as its request, within bounds", answer_len },
};

int main(void)
{
	int failed = ROWS_RUN(order_cases, order);

	failed += ROWS_RUN(order_cases, too_short);
	failed += ROWS_RUN(version_cases, version);
	failed += ROWS_RUN(subchannel_cases, subchannels);
	return failed + ROWS_RUN(single_rows, rows_single);
}
