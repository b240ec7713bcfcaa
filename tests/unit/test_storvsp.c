/* SPDX-License-Identifier: BSD-2-Clause */
/* SRBs through rings: what good ones do, what bad ones are told, and rings that are small, full or broken. */
#include "tests/unit/storvsp_fixture.h"

#define PAGE VMBUS_PAGE_SIZE

static uint8_t *page_at(struct guest *g, unsigned page)
{
	return g->mem.base + (size_t)page * PAGE;
}

/* ---- single SRBs: the request, and what the answer must be ------------------------------------------------ */

#define INVALID_FIELD 0x52400u

static const struct srb_case {
	const char *name;
	struct guest_io io;		/* pages: of the guest, from its first free one on */
	enum { GOOD, SENSE, ABSENT } want;
	uint32_t value;			/* moved, or sense */
} srb_cases[] = {
	{ "TEST UNIT READY", { .cdb_len = 6, .data_in = VSTOR_DATA_NONE }, GOOD, 0 },
	{ "INQUIRY, short", { .cdb = { 0x12, 0, 0, 0, 36 }, .cdb_len = 6, .data_in = 1, .pages = 1, .len = 36 },
	  GOOD, 36 },
	{ "INQUIRY of an unknown page moves nothing",
	  { .cdb = { 0x12, 1, 0x77, 0, 255 }, .cdb_len = 6, .data_in = 1, .pages = 1, .len = 255 },
	  SENSE, INVALID_FIELD },
	{ "MODE SENSE of an unknown page moves nothing",
	  { .cdb = { 0x1a, 0, 0x15, 0, 64 }, .cdb_len = 6, .data_in = 1, .pages = 1, .len = 64 },
	  SENSE, INVALID_FIELD },
	{ "READ(10)",
	  { .cdb = { 0x28, 0, 0, 0, 0, 4, 0, 0, 8 }, .cdb_len = 10, .data_in = 1, .pages = 1, .len = 4096 },
	  GOOD, 4096 },
	{ "READ(10) into the middle of a page",
	  { .cdb = { 0x28, 0, 0, 0, 0, 4, 0, 0, 8 }, .cdb_len = 10, .data_in = 1, .pages = 2, .offset = 512,
	    .len = 4096 }, GOOD, 4096 },
	{ "WRITE(10)", { .cdb = { 0x2a, 0, 0, 0, 0, 4, 0, 0, 8 }, .cdb_len = 10, .pages = 1, .len = 4096 },
	  GOOD, 4096 },
	{ "READ past the end", { .cdb = { 0x28, 0, 0, 0xff, 0, 0, 0, 0, 8 }, .cdb_len = 10, .data_in = 1, .pages = 1,
	  .len = 4096 }, SENSE, 0x52100 },
	{ "unknown operation", { .cdb = { 0xf7 }, .cdb_len = 10, .data_in = VSTOR_DATA_NONE }, SENSE, 0x52000 },
	{ "no such LUN", { .lun = 5, .cdb_len = 6, .data_in = VSTOR_DATA_NONE }, ABSENT, 0 },
	{ "no such target", { .target = 1, .cdb_len = 6, .data_in = VSTOR_DATA_NONE }, ABSENT, 0 },
	{ "target out of range", { .target = 2, .cdb_len = 6, .data_in = VSTOR_DATA_NONE }, ABSENT, 0 },
	{ "path out of range", { .path = 200, .cdb_len = 6, .data_in = VSTOR_DATA_NONE }, ABSENT, 0 },
	{ "LUN 255", { .lun = 255, .cdb_len = 6, .data_in = VSTOR_DATA_NONE }, ABSENT, 0 },
	{ "READ of no such LUN", { .lun = 5, .cdb = { 0x28, 0, 0, 0, 0, 4, 0, 0, 8 }, .cdb_len = 10, .data_in = 1,
	  .pages = 1, .len = 4096 }, ABSENT, 0 },
	{ "data without pages", { .cdb = { 0x28, 0, 0, 0, 0, 4, 0, 0, 8 }, .cdb_len = 10, .data_in = 1, .len = 4096 },
	  SENSE, INVALID_FIELD },
	{ "pages that are not RAM", { .cdb = { 0x28, 0, 0, 0, 0, 4, 0, 0, 8 }, .cdb_len = 10, .data_in = 1,
	  .page = 1u << 20, .pages = 1, .len = 4096 }, SENSE, INVALID_FIELD },
	{ "offset of a whole page", { .cdb = { 0x28, 0, 0, 0, 0, 4, 0, 0, 8 }, .cdb_len = 10, .data_in = 1, .pages = 2,
	  .offset = 4096, .len = 4096 }, SENSE, INVALID_FIELD },
	{ "more bytes than pages", { .cdb = { 0x28, 0, 0, 0, 0, 4, 0, 0, 16 }, .cdb_len = 10, .data_in = 1, .pages = 1,
	  .len = 8192 }, SENSE, INVALID_FIELD },
	{ "larger than the largest transfer", { .cdb = { 0x28, 0, 0, 0, 0, 4, 0, 0, 0x90 }, .cdb_len = 10, .data_in = 1,
	  .pages = 18, .len = 73728 }, SENSE, INVALID_FIELD },
	{ "READ as a write", { .cdb = { 0x28, 0, 0, 0, 0, 4, 0, 0, 8 }, .cdb_len = 10, .data_in = 0, .pages = 1,
	  .len = 4096 }, SENSE, INVALID_FIELD },
	{ "WRITE as a read", { .cdb = { 0x2a, 0, 0, 0, 0, 4, 0, 0, 8 }, .cdb_len = 10, .data_in = 1, .pages = 1,
	  .len = 4096 }, SENSE, INVALID_FIELD },
	{ "direction 3", { .cdb = { 0 }, .cdb_len = 6, .data_in = 3 }, SENSE, INVALID_FIELD },
	{ "CDB of 17 bytes", { .cdb_len = 17, .data_in = VSTOR_DATA_NONE }, SENSE, INVALID_FIELD },
	{ "CDB of none", { .cdb_len = 0, .data_in = VSTOR_DATA_NONE }, SENSE, INVALID_FIELD },
};

static void srb(void **state)
{
	const struct srb_case *c = *state;
	struct storvsp_opts opts = { .max_transfer = 65536 };
	struct guest_io io = c->io;
	struct answer a;
	struct guest g;

	ready(&g, &opts, RING, RING);
	io.page += test_mem_take(&g.mem, 20);
	guest_io(&g, 0, &io, &a);
	assert_int_equal(a.len, sizeof(struct vstor_packet));
	assert_int_equal(a.packet.u.srb.path, io.path);
	assert_int_equal(a.packet.u.srb.target, io.target);
	assert_int_equal(a.packet.u.srb.lun, io.lun);
	if (c->want == GOOD)
		expect_good(&a, c->value);
	else if (c->want == ABSENT)
		expect_absent(&a);
	else
		expect_sense(&a, c->value);
	guest_settle(&g, 0, 0);			/* whatever it was, the channel lives */
	guest_end(&g);
}

/* The SRB says less than the range, and no byte past what it says is touched; or it says more. */
static void length_against_range(void **state)
{
	struct vstor_packet v = { .operation = le32_make(VSTOR_EXECUTE_SRB) };
	struct vmbus_gpa_direct_wire head = { .range_count = le32_make(1) };
	struct vmbus_gpa_range_wire range = { le32_make(4096), le32_make(0) };
	uint8_t extra[32];
	struct vmbus_packet p = { .type = VMBUS_PACKET_GPA_DIRECT, .flags = VMBUS_PACKET_COMPLETION_WANTED,
				  .transaction_id = 9, .extra = extra, .extra_len = 24,
				  .payload = (const uint8_t *)&v, .payload_len = sizeof(v) };
	struct answer a;
	struct guest g;
	unsigned page;
	le64_t pfn;

	ready(&g, NULL, RING, RING);
	page = test_mem_take(&g.mem, 1);
	pfn = le64_make(test_mem_pfn(&g.mem, page));
	memcpy(extra, &head, 8);
	memcpy(extra + 8, &range, 8);
	memcpy(extra + 16, &pfn, 8);
	v.u.srb.cdb[0] = 0x28;
	v.u.srb.cdb_length = 10;
	v.u.srb.data_in = VSTOR_DATA_IN;
	memset(page_at(&g, page), 0x5a, PAGE);

	v.u.srb.cdb[8] = 1;
	v.u.srb.transfer_length = le32_make(512);
	assert_true(guest_put_raw(&g, 0, &p));
	guest_kick(&g, 0);
	assert_true(guest_next(&g, 0, &a, GUEST_WAIT_MS));
	expect_good(&a, 512);
	assert_int_equal(page_at(&g, page)[511], 0);
	assert_int_equal(page_at(&g, page)[512], 0x5a);

	v.u.srb.cdb[8] = 16;
	v.u.srb.transfer_length = le32_make(8192);
	assert_true(guest_put_raw(&g, 0, &p));
	guest_kick(&g, 0);
	assert_true(guest_next(&g, 0, &a, GUEST_WAIT_MS));
	expect_sense(&a, INVALID_FIELD);
	guest_end(&g);
}

static void data_both_ways(void **state)
{
	struct answer a;
	struct guest g;
	unsigned out, in;

	ready(&g, NULL, RING, RING);
	out = test_mem_take(&g.mem, 17);
	in = test_mem_take(&g.mem, 17);
	for (unsigned i = 0; i < 17 * PAGE; i++)
		page_at(&g, out)[i] = (uint8_t)(i * 7 + i / 4096);
	for (unsigned offset = 0; offset < PAGE; offset += 1536) {
		struct guest_io w = guest_rw(0, true, 8, out, 61440), r = guest_rw(0, false, 8, in, 61440);

		w.offset = offset;
		w.pages = r.pages = 16;
		r.offset = PAGE - 512;
		guest_io(&g, 0, &w, &a);
		expect_good(&a, w.len);
		memset(page_at(&g, in), 0, 17 * PAGE);
		guest_io(&g, 0, &r, &a);
		expect_good(&a, r.len);
		assert_memory_equal(page_at(&g, in) + r.offset, page_at(&g, out) + w.offset, w.len);
		assert_int_equal(page_at(&g, in)[r.offset - 1], 0);
	}
	guest_end(&g);
}

/* Nobody at home: INQUIRY says so in its data, REPORT LUNS tells who is, of this path and target only. */
static void absence(void **state)
{
	struct guest_io inquiry = { .lun = 9, .cdb = { 0x12, 0, 0, 0, 36 }, .cdb_len = 6, .data_in = 1, .pages = 1,
				    .len = 36 };
	struct guest_io luns = { .cdb = { 0xa0, [8] = 1 }, .cdb_len = 12, .data_in = 1, .pages = 1, .len = 256 };
	struct answer a;
	struct guest g;
	uint8_t *p;

	ready(&g, NULL, RING, RING);
	attach_gate(&g, 7, NULL);
	assert_true(told(&g, GUEST_WAIT_MS));
	inquiry.page = luns.page = test_mem_take(&g.mem, 1);
	p = page_at(&g, luns.page);
	guest_io(&g, 0, &inquiry, &a);
	assert_int_equal(a.packet.u.srb.srb_status, VSTOR_SRB_SUCCESS);
	assert_int_equal(p[0], 0x7f);
	for (unsigned on = 0; on < 3; on++) {
		luns.lun = on == 1 ? 33 : 0;	/* of a unit, of none, of another target */
		luns.target = on == 2;
		memset(p, 0xff, PAGE);
		guest_io(&g, 0, &luns, &a);
		assert_int_equal(a.packet.u.srb.srb_status, VSTOR_SRB_SUCCESS);
		assert_int_equal(p[3], on == 2 ? 0 : 16);
		if (on < 2) {
			assert_int_equal(p[8 + 1], 0);
			assert_int_equal(p[16 + 1], 7);
		}
	}
	guest_end(&g);
}

/* ---- packets that are no SRBs ------------------------------------------------------------------------------ */

static const struct packet_case {
	const char *name;
	uint16_t type, flags;
	uint32_t len, answer_len;	/* answer 0: none */
	uint32_t operation, status;
} packet_cases[] = {
	{ "a completion from the guest", 11, 1, 64, 0, VSTOR_EXECUTE_SRB, 0 },
	{ "transfer pages", 7, 1, 64, 0, VSTOR_EXECUTE_SRB, 0 },
	{ "type 0", 0, 1, 64, 0, VSTOR_EXECUTE_SRB, 0 },
	{ "nobody waits for the answer", 6, 0, 64, 0, VSTOR_EXECUTE_SRB, 0 },
	{ "SRB of 36 bytes", 6, 1, 48, 48, VSTOR_EXECUTE_SRB, VSTOR_STATUS_SUCCESS },
	{ "SRB cut off", 6, 1, 40, 64, VSTOR_EXECUTE_SRB, VSTOR_STATUS_INVALID_PARAMETER },
	{ "SRB of 12 bytes", 6, 1, 16, 64, VSTOR_EXECUTE_SRB, VSTOR_STATUS_INVALID_PARAMETER },
	{ "nothing", 6, 1, 0, 64, VSTOR_EXECUTE_SRB, VSTOR_STATUS_INVALID_PARAMETER },
	{ "longer than a packet", 6, 1, 512, 64, VSTOR_EXECUTE_SRB, VSTOR_STATUS_SUCCESS },
	{ "unknown operation", 6, 1, 64, 64, 99, VSTOR_STATUS_INVALID_REQUEST },
	{ "handshake again", 6, 1, 64, 64, VSTOR_BEGIN_INITIALIZATION, VSTOR_STATUS_INVALID_DEVICE_STATE },
};

static void packet(void **state)
{
	const struct packet_case *c = *state;
	uint8_t payload[512] = { 0 };
	struct vstor_packet v = { .operation = le32_make(c->operation), .u.srb.cdb_length = 6,
				  .u.srb.data_in = VSTOR_DATA_NONE };
	struct vmbus_packet p = { .type = c->type, .flags = c->flags, .transaction_id = 77, .payload = payload,
				  .payload_len = c->len };
	struct answer a;
	struct guest g;

	ready(&g, NULL, RING, RING);
	memcpy(payload, &v, sizeof(v));
	assert_true(guest_put_raw(&g, 0, &p));
	guest_kick(&g, 0);
	if (c->answer_len) {
		assert_true(guest_next(&g, 0, &a, GUEST_WAIT_MS));
		assert_int_equal(a.transaction_id, 77);
		assert_int_equal(a.len, c->answer_len);
		assert_int_equal(le32_get(a.packet.operation), VSTOR_COMPLETE_IO);
		assert_int_equal(le32_get(a.packet.status), c->status);
	}
	guest_settle(&g, 0, 0);			/* nothing came in between */
	assert_int_equal(channel_stats(&g).bad_packets, c->status || !c->answer_len);
	guest_end(&g);
}

/* ---- rings --------------------------------------------------------------------------------------------------- */

#define MANY 3000u

/* Sends @count reads, each id once, never reading more often than the ring demands; every answer must come once. */
static void many(struct guest *g, unsigned channel, unsigned count, unsigned page)
{
	bool *seen = calloc(count, sizeof(*seen));
	unsigned sent = 0, done = 0;
	struct answer a;

	assert_non_null(seen);
	while (done < count) {
		while (sent < count) {
			struct guest_io io = guest_rw(0, false, sent % 1000, page, 512);

			if (!guest_put_io(g, channel, sent + 1, &io))
				break;
			sent++;
		}
		guest_kick(g, channel);
		if (!guest_next(g, channel, &a, GUEST_WAIT_MS))
			fail_msg("%u of %u answers are missing", sent - done, sent);
		do {
			assert_in_range(a.transaction_id, 1, sent);
			assert_false(seen[a.transaction_id - 1]);
			seen[a.transaction_id - 1] = true;
			expect_good(&a, 512);
			done++;
		} while (done < sent && done % 7 && guest_next(g, channel, &a, GUEST_WAIT_MS));
	}
	free(seen);
}

static const struct ring_case {
	const char *name;
	unsigned up, down, depth, poll_us;
} ring_cases[] = {
	{ "16 pages each", 16, 16, 0, 0 },
	{ "two pages each", 2, 2, 0, 0 },
	{ "requests in two pages", 2, 16, 0, 0 },
	{ "answers in two pages", 32, 2, 0, 0 },
	{ "one slot group", 16, 2, 1, 0 },
	{ "always polling", 4, 4, 0, UINT32_MAX },
	{ "polling for a while", 4, 4, 0, 20 },
};

static void ring(void **state)
{
	const struct ring_case *c = *state;
	struct storvsp_opts opts = { .queue_depth = c->depth, .poll_us = c->poll_us };
	struct guest g;

	ready(&g, &opts, c->up, c->down);
	many(&g, 0, MANY, test_mem_take(&g.mem, 1));
	guest_end(&g);
}

/* One after the other: each must wake the provider, and each answer the guest. */
static void ping_pong(void **state)
{
	struct answer a;
	struct guest g;
	unsigned page;

	ready(&g, NULL, RING, RING);
	page = test_mem_take(&g.mem, 1);
	for (unsigned i = 0; i < 5000; i++) {
		struct guest_io io = guest_rw(0, i & 1, i % 1000, page, 512);

		guest_io(&g, 0, &io, &a);
		expect_good(&a, 512);
	}
	guest_end(&g);
}

/* The guest reads nothing while more answers are due than its ring holds. None may be lost. */
static void full_ring(void **state)
{
	bool seen[500] = { false };
	struct answer a;
	struct guest g;
	unsigned page;

	ready(&g, NULL, 32, 2);
	page = test_mem_take(&g.mem, 1);
	for (unsigned i = 0; i < 500; i++) {
		struct guest_io io = guest_rw(0, false, i, page, 512);

		assert_true(guest_put_io(&g, 0, i + 1, &io));
	}
	guest_kick(&g, 0);
	WAIT_FOR(channel_stats(&g).ring_full > 0);
	for (unsigned i = 0; i < 500; i++) {
		assert_true(guest_next(&g, 0, &a, GUEST_WAIT_MS));
		assert_in_range(a.transaction_id, 1, 500);
		assert_false(seen[a.transaction_id - 1]);
		seen[a.transaction_id - 1] = true;
	}
	guest_end(&g);
}

/* Ids are the guest's own business: all get their answers. */
static void same_ids(void **state)
{
	struct gate *gate;
	struct answer a;
	struct guest g;
	unsigned page;

	gate = ready(&g, NULL, RING, RING);
	page = test_mem_take(&g.mem, 1);
	gate_shut(gate);
	for (unsigned i = 0; i < 50; i++) {
		struct guest_io io = guest_rw(0, false, i, page, 512);

		assert_true(guest_put_io(&g, 0, 42, &io));
	}
	guest_kick(&g, 0);
	assert_true(gate_wait(gate, 50));
	gate_open(gate);
	for (unsigned i = 0; i < 50; i++) {
		assert_true(guest_next(&g, 0, &a, GUEST_WAIT_MS));
		assert_int_equal(a.transaction_id, 42);
		expect_good(&a, 512);
	}
	assert_false(guest_next(&g, 0, &a, 20));
	guest_end(&g);
}

/* An index from nowhere: that channel is dead, the controller is not. */
static void broken_ring(void **state)
{
	struct answer a;
	struct guest g;

	ready(&g, NULL, RING, RING);
	vmbus_store32(g.pair[0].mapping.base + VMBUS_RING_WRITE_INDEX, 0x7ffffff8);
	for (unsigned i = 0; i < 3; i++)
		g.pair[0].guest.ops->signal(g.pair[0].guest.ctx);
	WAIT_FOR(channel_stats(&g).bad_packets > 0);
	assert_false(guest_next(&g, 0, &a, 20));
	guest_close(&g, 0);
	assert_int_equal(guest_open(&g, 0), 0);
	guest_handshake(&g);
	guest_settle(&g, 0, 0);
	guest_end(&g);
}

static const struct single_row single_rows[] = {
	{ "the length of the SRB against the range", length_against_range },
	{ "data both ways, at any offset", data_both_ways },
	{ "absent units", absence },
	{ "one after the other", ping_pong },
	{ "a full ring of answers", full_ring },
	{ "the same id for all", same_ids },
	{ "a broken ring", broken_ring },
};

/* An argument is a pattern of the rows to run. */
int main(int argc, char **argv)
{
	int failed;

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	failed = ROWS_RUN(srb_cases, srb);
	failed += ROWS_RUN(packet_cases, packet);
	failed += ROWS_RUN(ring_cases, ring);
	return failed + ROWS_RUN(single_rows, rows_single);
}
