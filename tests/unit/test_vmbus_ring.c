/* SPDX-License-Identifier: BSD-2-Clause */
/* One ring, both of its ends; then a channel between two threads. */
#include "vmbus/ring.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

#include "base/bytes.h"
#include "tests/support/ring_pair.h"
#include "tests/support/rng.h"
#include "tests/unit/rows.h"
#include "vmbus/vmbus_wire.h"

#define SIZE VMBUS_PAGE_SIZE		/* of the data */
#define ROOM 4096u

struct fixture {
	_Alignas(8) uint8_t control[VMBUS_PAGE_SIZE], data[SIZE], buf[ROOM];
	struct vmbus_ring ring;
	struct vmbus_ring_in in;
	struct vmbus_ring_out out;
};

static struct fixture f;

static uint32_t control(uint32_t field)
{
	return vmbus_load32(f.control + field);
}

/* Both ends on an empty ring whose indices stand at @at. */
static void start(uint32_t at)
{
	memset(&f, 0, sizeof(f));
	memset(f.data, 0xa5, sizeof(f.data));
	f.ring = (struct vmbus_ring){ f.control, f.data, SIZE };
	vmbus_store32(f.control + VMBUS_RING_WRITE_INDEX, at);
	vmbus_store32(f.control + VMBUS_RING_READ_INDEX, at);
	assert_int_equal(vmbus_ring_in_init(&f.in, &f.ring), 0);
	assert_int_equal(vmbus_ring_out_init(&f.out, &f.ring), 0);
}

/* A packet that takes @bytes of the ring. */
static int put(uint32_t bytes)
{
	static const uint8_t zeros[SIZE];

	return vmbus_ring_out_put(&f.out, &(struct vmbus_packet){ .type = VMBUS_PACKET_INBAND, .payload = zeros,
								  .payload_len = bytes - 24 });
}

static int take(void)
{
	struct vmbus_packet p;

	return vmbus_ring_in_next(&f.in, f.buf, ROOM, &p);
}

/* ---- bytes ------------------------------------------------------------------------------------------- */

static void check_round_trip(uint32_t at, uint32_t extra_len, uint32_t payload_len)
{
	uint8_t extra[64], payload[256], zeros[8] = { 0 };
	struct vmbus_packet in, out = { .type = VMBUS_PACKET_GPA_DIRECT, .flags = VMBUS_PACKET_COMPLETION_WANTED,
					.transaction_id = 0x1122334455667788ull + at, .extra = extra,
					.extra_len = extra_len, .payload = payload, .payload_len = payload_len };
	uint32_t end = (at + vmbus_ring_packet_size(extra_len, payload_len)) % SIZE;

	for (unsigned i = 0; i < sizeof(payload); i++)
		payload[i] = extra[i % sizeof(extra)] = (uint8_t)(i * 7 + at);
	start(at);
	assert_int_equal(vmbus_ring_out_put(&f.out, &out), 0);
	assert_int_equal(take(), 0);
	assert_true(vmbus_ring_out_publish(&f.out));
	assert_int_equal(control(VMBUS_RING_WRITE_INDEX), end);
	assert_int_equal(vmbus_load32(f.data + (end + SIZE - 8) % SIZE), 0);
	assert_int_equal(vmbus_load32(f.data + (end + SIZE - 4) % SIZE), at);
	assert_int_equal(vmbus_ring_in_next(&f.in, f.buf, ROOM, &in), 1);
	assert_int_equal(in.type, out.type);
	assert_int_equal(in.flags, out.flags);
	assert_true(in.transaction_id == out.transaction_id);
	assert_int_equal(in.extra_len, extra_len);
	assert_memory_equal(in.extra, extra, extra_len);
	assert_int_equal(in.payload_len, (payload_len + 7) / 8 * 8);
	assert_memory_equal(in.payload, payload, payload_len);
	assert_memory_equal(in.payload + payload_len, zeros, in.payload_len - payload_len);
	assert_int_equal(control(VMBUS_RING_READ_INDEX), at);
	assert_false(vmbus_ring_in_publish(&f.in));
	assert_int_equal(control(VMBUS_RING_READ_INDEX), end);
	assert_int_equal(take(), 0);
}

static void wrap_everywhere(void **state)
{
	static const uint32_t lens[] = { 0, 1, 8, 61, 64, 200 };

	for (uint32_t at = 0; at < SIZE; at += 8) {
		for (size_t i = 0; i < SP_ARRAY_SIZE(lens); i++)
			check_round_trip(at, (uint32_t)(i % 3) * 24, lens[i]);
	}
}

static void same_wire_as_seen(void **state)
{
	/* As a guest asked for 36 bytes of INQUIRY. */
	static const uint8_t want[] = { 9, 0, 5, 0, 0x0d, 0, 1, 0, 0x21, 0, 0, 0, 0, 0, 0, 0,
					0, 0, 0, 0, 1, 0, 0, 0, 0x24, 0, 0, 0, 0, 8, 0, 0, 0x34, 0x12 };
	uint8_t extra[24] = { [4] = 1, [8] = 0x24, [13] = 8, [16] = 0x34, [17] = 0x12 }, payload[64] = { 0 };

	start(0);
	assert_int_equal(vmbus_ring_out_put(&f.out, &(struct vmbus_packet){ .type = 9, .flags = 1,
		.transaction_id = 0x21, .extra = extra, .extra_len = 24, .payload = payload, .payload_len = 64 }), 0);
	assert_memory_equal(f.data, want, sizeof(want));
	assert_int_equal(f.out.write, 112);
}

static void never_full(void **state)
{
	for (uint32_t at = 0; at < SIZE; at += 264) {
		for (uint32_t bytes = 24; bytes < 200; bytes += 8) {
			unsigned n = 0;

			start(at);
			while (n < SIZE && put(bytes) == 0)
				n++;
			assert_int_equal(n, (SIZE - 8) / bytes);
			vmbus_ring_out_publish(&f.out);
			assert_int_not_equal(control(VMBUS_RING_WRITE_INDEX), at);
			assert_int_equal(vmbus_ring_in_ready(&f.in), n * bytes);
			for (; n > 0; n--)
				assert_int_equal(take(), 1);
			assert_int_equal(take(), 0);
			assert_int_equal(put(bytes), -EAGAIN);
			vmbus_ring_in_publish(&f.in);
			assert_int_equal(put(bytes), 0);
		}
	}
}

static void too_long(void **state)
{
	uint8_t byte = 0;
	struct vmbus_packet p = { .type = 6, .payload = &byte, .payload_len = SIZE - 24 };

	start(0);
	assert_int_equal(put(SIZE), -EMSGSIZE);
	assert_int_equal(vmbus_ring_out_put(&f.out, &p), -EMSGSIZE);
	p.payload_len = UINT32_MAX;
	p.extra_len = UINT32_MAX;
	assert_int_equal(vmbus_ring_packet_size(UINT32_MAX, UINT32_MAX), UINT32_MAX);
	assert_int_equal(vmbus_ring_out_put(&f.out, &p), -EMSGSIZE);
	assert_int_equal(put(SIZE - 8), 0);
}

/* ---- a producer that breaks the rules ---------------------------------------------------------------- */

static const struct bad_packet {
	const char *name;
	uint32_t write;			/* index; the consumer's is 64 */
	uint16_t offset8, length8;
	size_t room;
	int want;
} bad_packets[] = {
	{ "as it should be",			  64 + 32, 2, 3, ROOM, 1 },
	{ "no payload",				  64 + 24, 2, 2, ROOM, 1 },
	{ "room for just this",			  64 + 32, 2, 3, 24, 1 },
	{ "more than there is room for",	  64 + 40, 2, 4, 24, -EMSGSIZE },
	{ "write index at the end",		  SIZE, 2, 3, ROOM, -EBADMSG },
	{ "write index far out",		  0xfffffff8, 2, 3, ROOM, -EBADMSG },
	{ "write index not aligned",		  64 + 36, 2, 3, ROOM, -EBADMSG },
	{ "less than a descriptor",		  64 + 8, 2, 2, ROOM, -EBADMSG },
	{ "no trailer",				  64 + 16, 2, 2, ROOM, -EBADMSG },
	{ "offset inside the descriptor",	  64 + 32, 1, 3, ROOM, -EBADMSG },
	{ "offset nought",			  64 + 32, 0, 3, ROOM, -EBADMSG },
	{ "offset behind the end",		  64 + 32, 4, 3, ROOM, -EBADMSG },
	{ "length nought",			  64 + 32, 2, 0, ROOM, -EBADMSG },
	{ "length of half a descriptor",	  64 + 32, 1, 1, ROOM, -EBADMSG },
	{ "longer than what was written",	  64 + 32, 2, 4, ROOM, -EBADMSG },
	{ "longer than the ring",		  64 + 32, 2, 0xffff, 1 << 20, -EBADMSG },
};

static void bad_packet(void **state)
{
	const struct bad_packet *row = *state;
	struct vmbus_packet_wire d = { le16_make(6), le16_make(row->offset8), le16_make(row->length8) };
	struct vmbus_packet p = { .type = 77 };

	start(64);
	memcpy(f.data + 64, &d, sizeof(d));
	vmbus_store32(f.control + VMBUS_RING_WRITE_INDEX, row->write);
	assert_int_equal(vmbus_ring_in_next(&f.in, f.buf, row->room, &p), row->want);
	if (row->want == 1)
		return;
	assert_int_equal(p.type, 77);
	/* For ever: also when it mends its ways. */
	vmbus_store32(f.control + VMBUS_RING_WRITE_INDEX, 64);
	assert_int_equal(take(), -EBADMSG);
	assert_int_equal(vmbus_ring_in_ready(&f.in), 0);
	assert_true(vmbus_ring_in_unmask(&f.in));
	assert_false(vmbus_ring_in_publish(&f.in));
}

static void write_index_backwards(void **state)
{
	start(64);
	assert_int_equal(put(96), 0);
	vmbus_ring_out_publish(&f.out);
	assert_int_equal(vmbus_ring_in_ready(&f.in), 96);
	vmbus_store32(f.control + VMBUS_RING_WRITE_INDEX, 128);
	assert_int_equal(vmbus_ring_in_ready(&f.in), 0);
	assert_int_equal(take(), -EBADMSG);
}

static void own_index_is_ours(void **state)
{
	start(64);
	assert_int_equal(put(32), 0);
	vmbus_ring_out_publish(&f.out);
	vmbus_store32(f.control + VMBUS_RING_READ_INDEX, 7);	/* by the producer, who may write there */
	assert_int_equal(take(), 1);
	vmbus_ring_in_publish(&f.in);
	assert_int_equal(control(VMBUS_RING_READ_INDEX), 96);
	vmbus_store32(f.control + VMBUS_RING_WRITE_INDEX, 7);	/* by the consumer */
	assert_int_equal(put(32), 0);
	vmbus_ring_out_publish(&f.out);
	assert_int_equal(control(VMBUS_RING_WRITE_INDEX), 128);
}

/* ---- a consumer that breaks the rules ---------------------------------------------------------------- */

static const struct bad_read {
	const char *name;
	uint32_t read;			/* index; 64 .. 160 is written, 64 .. 96 was seen as read */
	int want;
} bad_reads[] = {
	{ "where it was", 96, 0 },
	{ "all of it", 160, 0 },
	{ "part of it", 128, 0 },
	{ "ahead of what was written", 168, -EBADMSG },
	{ "backwards", 64, -EBADMSG },
	{ "at the end", SIZE, -EBADMSG },
	{ "far out", 0xfffffff8, -EBADMSG },
	{ "not aligned", 132, -EBADMSG },
};

static void bad_read(void **state)
{
	const struct bad_read *row = *state;

	start(64);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(put(32), 0);
	vmbus_ring_out_publish(&f.out);
	vmbus_store32(f.control + VMBUS_RING_READ_INDEX, 96);
	assert_int_equal(vmbus_ring_out_free(&f.out), SIZE - 64);
	vmbus_store32(f.control + VMBUS_RING_READ_INDEX, row->read);
	assert_int_equal(vmbus_ring_out_free(&f.out) == 0 ? -EBADMSG : 0, row->want);
	assert_int_equal(put(32), row->want);
	if (row->want) {
		assert_true(vmbus_ring_out_wait(&f.out, 32));
		assert_false(vmbus_ring_out_publish(&f.out));
	}
}

static const struct bad_start {
	const char *name;
	uint32_t read, write, size;
	int want_in, want_out;
} bad_starts[] = {
	{ "empty", 0, 0, SIZE, 0, 0 },
	{ "a packet waits", 8, SIZE - 8, SIZE, 0, 0 },
	{ "read index past the end", SIZE, 0, SIZE, -EBADMSG, -EBADMSG },
	{ "write index past the end", 0, SIZE, SIZE, -EBADMSG, -EBADMSG },
	{ "read index not aligned", 4, 0, SIZE, -EBADMSG, -EBADMSG },
	{ "write index not aligned", 0, 4, SIZE, -EBADMSG, -EBADMSG },
	{ "no data", 0, 0, 0, -EBADMSG, -EBADMSG },
	{ "half a page", 0, 0, SIZE / 2, -EBADMSG, -EBADMSG },
	{ "larger than any", 0, 0, 0x80000000u, -EBADMSG, -EBADMSG },
};

static void bad_start(void **state)
{
	const struct bad_start *row = *state;
	struct vmbus_ring ring = { f.control, f.data, row->size };

	memset(f.control, 0, sizeof(f.control));
	vmbus_store32(f.control + VMBUS_RING_WRITE_INDEX, row->write);
	vmbus_store32(f.control + VMBUS_RING_READ_INDEX, row->read);
	assert_int_equal(vmbus_ring_in_init(&f.in, &ring), row->want_in);
	assert_int_equal(vmbus_ring_out_init(&f.out, &ring), row->want_out);
	assert_int_equal(control(VMBUS_RING_FEATURES), row->want_out ? 0 : VMBUS_RING_FEATURE_PENDING_SEND);
}

/* ---- who is signalled when --------------------------------------------------------------------------- */

static void signal_only_idle_reader(void **state)
{
	start(0);
	assert_false(vmbus_ring_out_publish(&f.out));	/* nothing to show */
	put(32);
	assert_true(vmbus_ring_out_publish(&f.out));
	put(32);
	assert_false(vmbus_ring_out_publish(&f.out));	/* it was not empty */
	assert_int_equal(take(), 1);
	assert_int_equal(take(), 1);
	put(32);
	assert_false(vmbus_ring_out_publish(&f.out));	/* read, but nobody said so yet */
	assert_true(vmbus_ring_in_unmask(&f.in));	/* and that is found here */
	assert_int_equal(take(), 1);
	assert_false(vmbus_ring_in_unmask(&f.in));
	put(32);
	assert_true(vmbus_ring_out_publish(&f.out));
}

static void batch_is_one_signal(void **state)
{
	start(0);
	for (unsigned i = 0; i < 5; i++)
		put(32);
	assert_int_equal(control(VMBUS_RING_WRITE_INDEX), 0);
	assert_true(vmbus_ring_out_publish(&f.out));
	assert_int_equal(control(VMBUS_RING_WRITE_INDEX), 160);
	/* The reader stopped amid the batch: awake. */
	assert_int_equal(take(), 1);
	vmbus_ring_in_publish(&f.in);
	put(32);
	assert_false(vmbus_ring_out_publish(&f.out));
}

static void masked_is_quiet(void **state)
{
	start(0);
	vmbus_ring_in_mask(&f.in);
	assert_int_equal(control(VMBUS_RING_INTERRUPT_MASK), 1);
	put(32);
	assert_false(vmbus_ring_out_publish(&f.out));
	assert_true(vmbus_ring_in_unmask(&f.in));
	assert_int_equal(control(VMBUS_RING_INTERRUPT_MASK), 0);
	assert_int_equal(take(), 1);
	assert_false(vmbus_ring_in_unmask(&f.in));
	assert_int_equal(control(VMBUS_RING_READ_INDEX), 32);
}

/* Packets of 1000, 1000, 1000, 1000 bytes: 96 free. */
static void fill(void)
{
	start(0);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(put(1000), 0);
	vmbus_ring_out_publish(&f.out);
	assert_int_equal(put(1000), -EAGAIN);
}

static void waiting_writer_is_signalled(void **state)
{
	fill();
	assert_false(vmbus_ring_out_wait(&f.out, 2000));
	assert_int_equal(control(VMBUS_RING_PENDING_SEND), 2000);
	take();
	assert_false(vmbus_ring_in_publish(&f.in));	/* 1096: not enough yet */
	take();
	assert_true(vmbus_ring_in_publish(&f.in));	/* 2096 */
	take();
	assert_false(vmbus_ring_in_publish(&f.in));	/* there was room before */
	assert_int_equal(put(2000), 0);
	assert_int_equal(control(VMBUS_RING_PENDING_SEND), 0);
}

static void wait_finds_room(void **state)
{
	fill();
	take();
	vmbus_ring_in_publish(&f.in);
	assert_true(vmbus_ring_out_wait(&f.out, 1000));
	assert_int_equal(control(VMBUS_RING_PENDING_SEND), 0);
	assert_int_equal(put(1000), 0);
}

static void wait_is_strict(void **state)
{
	start(0);
	put(SIZE - 1000);
	vmbus_ring_out_publish(&f.out);
	assert_false(vmbus_ring_out_wait(&f.out, 1000));	/* exactly so many are free: one too few */
}

static void pending_low_bits(void **state)
{
	fill();
	vmbus_store32(f.control + VMBUS_RING_PENDING_SEND, 1096 | 7);
	take();
	assert_true(vmbus_ring_in_publish(&f.in));
	vmbus_store32(f.control + VMBUS_RING_PENDING_SEND, 7);
	take();
	assert_false(vmbus_ring_in_publish(&f.in));
}

/* Filled after the reader looked: by what it saw then there was room all the time. */
static void pending_by_fresh_write_index(void **state)
{
	start(0);
	put(1000);
	vmbus_ring_out_publish(&f.out);
	take();
	for (unsigned i = 0; i < 3; i++)
		put(1000);
	vmbus_ring_out_publish(&f.out);
	assert_false(vmbus_ring_out_wait(&f.out, 1000));
	assert_true(vmbus_ring_in_publish(&f.in));
}

static void unmask_owes_a_signal(void **state)
{
	fill();
	assert_false(vmbus_ring_out_wait(&f.out, 1000));
	for (unsigned i = 0; i < 4; i++)
		take();
	assert_true(vmbus_ring_in_unmask(&f.in));	/* empty, but the writer waits */
	assert_true(vmbus_ring_in_publish(&f.in));
	assert_false(vmbus_ring_in_publish(&f.in));
	assert_false(vmbus_ring_in_unmask(&f.in));
}

static void wait_owes_a_signal(void **state)
{
	start(0);
	for (unsigned i = 0; i < 4; i++)
		put(1000);
	assert_false(vmbus_ring_out_wait(&f.out, 1000));
	assert_int_equal(vmbus_ring_in_ready(&f.in), 4000);	/* shown: else nothing would ever be read */
	assert_true(vmbus_ring_out_publish(&f.out));
	assert_false(vmbus_ring_out_publish(&f.out));
}

static const struct single_row singles[] = {
	{ "wraps at every offset", wrap_everywhere },
	{ "bytes of a packet as seen", same_wire_as_seen },
	{ "never becomes full", never_full },
	{ "packets that never fit", too_long },
	{ "write index goes backwards", write_index_backwards },
	{ "own index is never read back", own_index_is_ours },
	{ "only an idle reader is signalled", signal_only_idle_reader },
	{ "a batch is one signal", batch_is_one_signal },
	{ "mask", masked_is_quiet },
	{ "a waiting writer is signalled", waiting_writer_is_signalled },
	{ "wait finds room", wait_finds_room },
	{ "wait needs more than it asks", wait_is_strict },
	{ "low bits of the pending size", pending_low_bits },
	{ "pending size by a fresh write index", pending_by_fresh_write_index },
	{ "unmask owes a signal", unmask_owes_a_signal },
	{ "wait owes a signal", wait_owes_a_signal },
};

/* ---- nobody sleeps while there is work --------------------------------------------------------------- */

#define PATIENCE_MS 3000

struct flow {
	struct ring_pair pair;
	struct test_mem mem;
	uint64_t packets;
	_Atomic bool failed;
};

/* False: the signal that was due did not come. @room: for room alone, whatever there is to read. */
static bool doze(struct vmbus_channel *ch, bool room)
{
	struct pollfd p = { .fd = ch->event_fd, .events = POLLIN };

	if (room)
		vmbus_channel_flush(ch);
	else if (!vmbus_channel_sleep(ch))
		return true;
	if (poll(&p, 1, PATIENCE_MS) != 1)
		return false;
	vmbus_channel_wake(ch);
	return true;
}

/* Sends back what comes, in order, one packet held back while there is no room. */
static void *echo(void *arg)
{
	struct flow *flow = arg;
	struct vmbus_channel *ch = &flow->pair.host;
	_Alignas(8) uint8_t buf[512];
	struct vmbus_packet p;

	for (uint64_t n = 0; n < flow->packets && !flow->failed; n++) {
		int r;

		while ((r = vmbus_channel_receive(ch, buf, sizeof(buf), &p)) == 0 && !flow->failed)
			flow->failed = !doze(ch, false);
		while (r == 1 && (r = vmbus_channel_send(ch, &p)) == -EAGAIN && !flow->failed) {
			flow->failed = !doze(ch, true);
			r = 1;
		}
		if (r < 0)
			flow->failed = true;
		if (n % 3 == 0)
			vmbus_channel_flush(ch);
	}
	vmbus_channel_flush(ch);
	return NULL;
}

/* Takes what has come back; every answer must be the next one. */
static int take_answers(struct vmbus_channel *ch, uint64_t *back)
{
	_Alignas(8) uint8_t buf[512];
	struct vmbus_packet p;
	int r;

	while ((r = vmbus_channel_receive(ch, buf, sizeof(buf), &p)) == 1) {
		if (p.transaction_id != *back)
			return -EIO;
		++*back;
	}
	return r;
}

static void *ask(void *arg)
{
	struct flow *flow = arg;
	struct vmbus_channel *ch = &flow->pair.guest;
	uint64_t sent = 0, back = 0;
	uint8_t payload[256] = { 0 };
	struct rng rng;

	rng_init(&rng, 4711);
	while (back < flow->packets && !flow->failed) {
		uint64_t burst = rng_chance(&rng, 1, 2) ? 1 : rng_below(&rng, 40);
		bool stuck = false;

		for (; burst > 0 && sent < flow->packets && !stuck; burst--) {
			struct vmbus_packet p = { .type = VMBUS_PACKET_INBAND, .transaction_id = sent };

			p.payload = payload;
			p.payload_len = (uint32_t)rng_below(&rng, sizeof(payload));
			stuck = vmbus_channel_send(ch, &p) != 0;
			sent += !stuck;
		}
		vmbus_channel_flush(ch);
		if (take_answers(ch, &back) < 0)
			break;
		if ((stuck || sent == flow->packets || rng_chance(&rng, 1, 4)) && back < sent &&
		    !doze(ch, false))
			flow->failed = true;
	}
	if (back != flow->packets)
		flow->failed = true;
	return NULL;
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void no_wakeup_is_lost(void **state)
{
	uint64_t end = now_ms() + 1000;

	do {
		static struct flow flow;
		pthread_t a, b;

		memset(&flow, 0, sizeof(flow));
		flow.packets = 3000;
		test_mem_open(&flow.mem, 8);
		ring_pair_open(&flow.pair, &flow.mem, 2, 2);
		assert_int_equal(pthread_create(&a, NULL, echo, &flow), 0);
		assert_int_equal(pthread_create(&b, NULL, ask, &flow), 0);
		pthread_join(a, NULL);
		pthread_join(b, NULL);
		assert_false(flow.failed);
		ring_pair_close(&flow.pair);
		test_mem_close(&flow.mem);
	} while (now_ms() < end);
}

static const struct single_row threads[] = {
	{ "no wake-up is lost", no_wakeup_is_lost },
};

int main(void)
{
	return ROWS_RUN(singles, rows_single) + ROWS_RUN(bad_packets, bad_packet) + ROWS_RUN(bad_reads, bad_read) +
	       ROWS_RUN(bad_starts, bad_start) + ROWS_RUN(threads, rows_single);
}
