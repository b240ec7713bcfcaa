/* SPDX-License-Identifier: BSD-2-Clause */
/* Slots, packets and handshake of the client, against a provider that says whatever a row wants. */
#include "storvsc/core.h"

#include <errno.h>

#include "tests/support/ring_pair.h"
#include "tests/unit/rows.h"

#define RING_PAGES 4u
#define SLOTS 4u

static struct test_mem mem;
static struct ring_pair pair;
static struct storvsc_core core;
static struct storvsc_slot slot[SLOTS];
static int request[SLOTS + 1];		/* only their addresses matter */

static void begin(void)
{
	test_mem_open(&mem, 64);
	ring_pair_open(&pair, &mem, RING_PAGES, RING_PAGES);
	storvsc_core_init(&core, &pair.guest.in, &pair.guest.out, slot, SLOTS);
}

static void end(void)
{
	ring_pair_close(&pair);
	test_mem_close(&mem);
}

/* What the provider finds next. */
static struct vstor_packet provider_next(struct vmbus_packet *ret_packet)
{
	static uint64_t buf[1024];
	struct vstor_packet v;

	vmbus_channel_flush(&pair.guest);
	assert_int_equal(vmbus_channel_receive(&pair.host, buf, sizeof(buf), ret_packet), 1);
	assert_int_equal(ret_packet->payload_len, sizeof(v));
	memcpy(&v, ret_packet->payload, sizeof(v));
	vmbus_channel_flush(&pair.host);
	return v;
}

static void provider_says(uint16_t type, uint64_t id, const struct vstor_packet *v, uint32_t len)
{
	struct vmbus_packet p = { .type = type, .transaction_id = id, .payload = (const uint8_t *)v,
				  .payload_len = len };

	assert_int_equal(vmbus_channel_send(&pair.host, &p), 0);
	vmbus_channel_flush(&pair.host);
}

static void provider_answers(uint64_t id, uint32_t status)
{
	struct vstor_packet v = { .operation = le32_make(VSTOR_COMPLETE_IO), .status = le32_make(status) };

	provider_says(VMBUS_PACKET_COMPLETION, id, &v, sizeof(v));
}

static int put(unsigned n)
{
	struct vstor_srb srb = { .lun = (uint8_t)n };

	return storvsc_core_put(&core, &srb, NULL, 0, 0, &request[n]);
}

/* ---- requests ------------------------------------------------------------------------------------------ */

static void srb_in_packet(void **state)
{
	struct vstor_srb srb = { .length = le16_make(52), .lun = 7, .cdb = { 0x2a } };
	uint64_t pfn[3] = { 0x11, 0x2200000000ull, 0x33 };
	struct vmbus_gpa_range_wire range;
	struct vmbus_gpa_direct_wire head;
	struct vmbus_packet p;
	struct vstor_packet v;

	begin();
	assert_int_equal(storvsc_core_put(&core, &srb, pfn, 512, 8192, &request[0]), 0);
	v = provider_next(&p);
	assert_int_equal(p.type, VMBUS_PACKET_GPA_DIRECT);
	assert_int_equal(p.flags, VMBUS_PACKET_COMPLETION_WANTED);
	assert_int_not_equal(p.transaction_id, 0);
	assert_int_equal(p.extra_len, 8 + 8 + 3 * 8);
	memcpy(&head, p.extra, sizeof(head));
	memcpy(&range, p.extra + 8, sizeof(range));
	assert_int_equal(le32_get(head.range_count), 1);
	assert_int_equal(le32_get(range.byte_count), 8192);
	assert_int_equal(le32_get(range.byte_offset), 512);
	for (unsigned i = 0; i < 3; i++) {
		le64_t wire;

		memcpy(&wire, p.extra + 16 + i * 8, sizeof(wire));
		assert_true(le64_get(wire) == pfn[i]);
	}
	assert_int_equal(le32_get(v.operation), VSTOR_EXECUTE_SRB);
	assert_int_equal(v.u.srb.lun, 7);
	assert_int_equal(v.u.srb.cdb[0], 0x2a);
	end();
}

static void without_data_in_band(void **state)
{
	struct vmbus_packet p;

	begin();
	assert_int_equal(put(0), 0);
	provider_next(&p);
	assert_int_equal(p.type, VMBUS_PACKET_INBAND);
	assert_int_equal(p.extra_len, 0);
	end();
}

static void too_many_pages(void **state)
{
	struct vstor_srb srb = { .lun = 0 };
	static uint64_t pfn[1024];

	begin();
	assert_int_equal(storvsc_core_put(&core, &srb, pfn, 0, 1024 * 4096, &request[0]), -EINVAL);
	assert_int_equal(storvsc_core_put(&core, &srb, pfn, 4095, UINT32_MAX, &request[0]), -EINVAL);
	assert_int_equal(core.inflight, 0);
	end();
}

static void slots_run_out(void **state)
{
	struct storvsc_event e;
	uint64_t id[SLOTS];
	struct vmbus_packet p;

	begin();
	for (unsigned i = 0; i < SLOTS; i++) {
		assert_int_equal(put(i), 0);
		provider_next(&p);
		id[i] = p.transaction_id;
		for (unsigned k = 0; k < i; k++)
			assert_true(id[k] != id[i]);
	}
	assert_int_equal(put(SLOTS), -EAGAIN);
	assert_int_equal(core.inflight, SLOTS);
	/* In any order. */
	for (unsigned i = SLOTS; i-- > 0; ) {
		provider_answers(id[i], 0);
		assert_int_equal(storvsc_core_next(&core, &e), 1);
		assert_int_equal(e.kind, STORVSC_EVENT_COMPLETION);
		assert_ptr_equal(e.request, &request[i]);
	}
	assert_int_equal(storvsc_core_next(&core, &e), 0);
	assert_int_equal(core.inflight, 0);
	assert_int_equal(put(SLOTS), 0);
	end();
}

static void ring_runs_full(void **state)
{
	static struct storvsc_slot many[512];
	unsigned n = 0;

	begin();
	storvsc_core_init(&core, &pair.guest.in, &pair.guest.out, many, 512);
	while (put(0) == 0)
		n++;
	assert_in_range(n, 100, 140);		/* 12 KiB by 88 bytes */
	assert_int_equal(put(0), -EAGAIN);
	assert_int_equal(core.inflight, n);	/* the one refused took no slot */
	end();
}

/* ---- what a provider may say that it should not -------------------------------------------------------- */

static const struct stray {
	const char *name;
	uint16_t type;
	uint64_t id;
	uint32_t len;
} strays[] = {
	{ "an id never given", VMBUS_PACKET_COMPLETION, 3, 64 },
	{ "id 0", VMBUS_PACKET_COMPLETION, 0, 64 },
	{ "an id past the slots", VMBUS_PACKET_COMPLETION, SLOTS + 1, 64 },
	{ "a huge id", VMBUS_PACKET_COMPLETION, UINT64_MAX - 1, 64 },
	{ "a short answer", VMBUS_PACKET_COMPLETION, 1, 56 },
	{ "an empty answer", VMBUS_PACKET_COMPLETION, 1, 0 },
	{ "an answer that is no completion", VMBUS_PACKET_INBAND, 1, 64 },
	{ "an unknown type", 99, 1, 64 },
	{ "unasked news of no kind we know", VMBUS_PACKET_INBAND, 0, 64 },
};

static void stray(void **state)
{
	const struct stray *row = *state;
	struct vstor_packet v = { .operation = le32_make(VSTOR_COMPLETE_IO) };
	struct storvsc_event e;

	begin();
	assert_int_equal(put(0), 0);		/* has id 1 */
	provider_says(row->type, row->id, &v, row->len);
	assert_int_equal(storvsc_core_next(&core, &e), 0);
	assert_int_equal(core.inflight, 1);
	provider_answers(1, 0);
	assert_int_equal(storvsc_core_next(&core, &e), 1);
	assert_ptr_equal(e.request, &request[0]);
	provider_answers(1, 0);			/* once more */
	assert_int_equal(storvsc_core_next(&core, &e), 0);
	assert_int_equal(core.inflight, 0);
	end();
}

static void broken_ring(void **state)
{
	struct storvsc_event e;

	begin();
	vmbus_store32(pair.guest.in.ring.control, 4);	/* a write index that is no multiple of 8 */
	assert_int_equal(storvsc_core_next(&core, &e), -EBADMSG);
	end();
}

static void enumerate(void **state)
{
	struct vstor_packet v = { .operation = le32_make(VSTOR_ENUMERATE_BUS) };
	struct storvsc_event e;

	begin();
	provider_says(VMBUS_PACKET_INBAND, 0, &v, sizeof(v));
	assert_int_equal(storvsc_core_next(&core, &e), 1);
	assert_int_equal(e.kind, STORVSC_EVENT_ENUMERATE);
	end();
}

/* ---- handshake ----------------------------------------------------------------------------------------- */

static const struct shake {
	const char *name;
	uint16_t newest, speaks;		/* what the provider accepts */
	enum storvsc_step refuse;		/* the step it answers with an error */
	int want;
	uint16_t version;
} shakes[] = {
	{ "6.2", VSTOR_VERSION_WIN10, VSTOR_VERSION_WIN10, STORVSC_READY, 0, VSTOR_VERSION_WIN10 },
	{ "down to 6.0", VSTOR_VERSION_WIN10, VSTOR_VERSION_WIN81, STORVSC_READY, 0, VSTOR_VERSION_WIN81 },
	{ "down to 5.1", VSTOR_VERSION_WIN10, VSTOR_VERSION_WIN8, STORVSC_READY, 0, VSTOR_VERSION_WIN8 },
	{ "not newer than wanted", VSTOR_VERSION_WIN8, VSTOR_VERSION_WIN8, STORVSC_READY, 0, VSTOR_VERSION_WIN8 },
	{ "no common version", VSTOR_VERSION_WIN10, 0x0402, STORVSC_READY, -EPROTONOSUPPORT, 0 },
	{ "no beginning", VSTOR_VERSION_WIN10, VSTOR_VERSION_WIN10, STORVSC_BEGIN, -EPROTO, 0 },
	{ "no properties", VSTOR_VERSION_WIN10, VSTOR_VERSION_WIN10, STORVSC_PROPERTIES, -EPROTO, 0 },
	{ "no end", VSTOR_VERSION_WIN10, VSTOR_VERSION_WIN10, STORVSC_END, -EPROTO, 0 },
};

/* The provider's answer to what it finds in the ring. */
static void answer_step(const struct shake *row, enum storvsc_step step)
{
	struct vmbus_packet p;
	struct vstor_packet v = provider_next(&p), answer = { .operation = le32_make(VSTOR_COMPLETE_IO) };

	if (step == row->refuse)
		answer.status = le32_make(VSTOR_STATUS_INVALID_DEVICE_STATE);
	if (step == STORVSC_VERSION && le16_get(v.u.version.version) != row->speaks)
		answer.status = le32_make(VSTOR_STATUS_REVISION_MISMATCH);
	if (step == STORVSC_PROPERTIES)
		answer.u.properties.max_transfer_bytes = le32_make(77 * 4096);
	provider_says(VMBUS_PACKET_COMPLETION, p.transaction_id, &answer, sizeof(answer));
}

static void shake(void **state)
{
	const struct shake *row = *state;
	enum storvsc_step step;
	struct storvsc_event e;
	int r;

	begin();
	r = storvsc_core_handshake(&core, &step, NULL, row->newest);
	while (r == 0 && step != STORVSC_READY) {
		answer_step(row, step);
		assert_int_equal(storvsc_core_next(&core, &e), 1);
		assert_int_equal(e.kind, STORVSC_EVENT_CONTROL);
		r = storvsc_core_handshake(&core, &step, &e.packet, row->newest);
	}
	assert_int_equal(r, row->want);
	if (r == 0) {
		assert_int_equal(core.version, row->version);
		assert_int_equal(le32_get(core.properties.max_transfer_bytes), 77 * 4096);
	}
	end();
}

int main(void)
{
	static const struct single_row singles[] = {
		{ "an SRB with its pages", srb_in_packet },
		{ "an SRB without data", without_data_in_band },
		{ "more pages than a packet holds", too_many_pages },
		{ "slots run out and come back", slots_run_out },
		{ "the ring runs full", ring_runs_full },
		{ "a broken ring", broken_ring },
		{ "units came or went", enumerate },
	};

	return ROWS_RUN(singles, rows_single) + ROWS_RUN(strays, stray) + ROWS_RUN(shakes, shake);
}
