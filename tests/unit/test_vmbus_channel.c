/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmbus/channel.h"

#include <errno.h>
#include <poll.h>

#include "base/bytes.h"
#include "tests/support/ring_pair.h"
#include "tests/unit/rows.h"
#include "vmbus/vmbus_wire.h"

static struct test_mem mem;
static struct ring_pair pair;

static void begin(unsigned up, unsigned down)
{
	test_mem_open(&mem, 32);
	ring_pair_open(&pair, &mem, up, down);
}

static void end(void)
{
	ring_pair_close(&pair);
	test_mem_close(&mem);
}

static bool signalled(const struct vmbus_channel *ch)
{
	struct pollfd p = { .fd = ch->event_fd, .events = POLLIN };

	return poll(&p, 1, 0) == 1;
}

static int send_to(struct vmbus_channel *ch, uint32_t payload_len, uint64_t id)
{
	static const uint8_t zeros[4096];

	return vmbus_channel_send(ch, &(struct vmbus_packet){ .type = VMBUS_PACKET_INBAND, .transaction_id = id,
							      .payload = zeros, .payload_len = payload_len });
}

static int receive_from(struct vmbus_channel *ch, uint64_t *ret_id)
{
	static _Alignas(8) uint8_t buf[4096];
	struct vmbus_packet p;
	int r = vmbus_channel_receive(ch, buf, sizeof(buf), &p);

	if (r == 1)
		*ret_id = p.transaction_id;
	return r;
}

static const struct split {
	const char *name;
	unsigned pages, downstream;
	int want;
} splits[] = {
	{ "smallest", 4, 2, 0 },
	{ "upstream larger", 6, 4, 0 },
	{ "downstream larger", 6, 2, 0 },
	{ "one page upstream", 4, 1, -EINVAL },
	{ "one page downstream", 4, 3, -EINVAL },
	{ "none upstream", 4, 0, -EINVAL },
	{ "none downstream", 4, 4, -EINVAL },
	{ "past the end", 4, 5, -EINVAL },
	{ "far out", 4, UINT32_MAX, -EINVAL },
	{ "no pages", 0, 0, -EINVAL },
};

static void split(void **state)
{
	const struct split *row = *state;
	struct vmbus_mapping m = { .len = row->pages * VMBUS_PAGE_SIZE };
	struct vmbus_channel ch = { .event_fd = 77 };

	test_mem_open(&mem, 32);
	m.base = mem.base;
	assert_int_equal(vmbus_channel_init(&ch, &m, row->downstream, true), row->want);
	assert_int_equal(ch.event_fd, 77);
	if (row->want == 0) {
		assert_int_equal(ch.in.ring.size, (row->downstream - 1) * VMBUS_PAGE_SIZE);
		assert_int_equal(ch.out.ring.size, (row->pages - row->downstream - 1) * VMBUS_PAGE_SIZE);
		assert_ptr_equal(ch.in.ring.control, m.base);
		assert_ptr_equal(ch.out.ring.data, m.base + (row->downstream + 1) * VMBUS_PAGE_SIZE);
	}
	test_mem_close(&mem);
}

static void broken_indices(void **state)
{
	struct vmbus_mapping m = { .len = 4 * VMBUS_PAGE_SIZE };
	struct vmbus_channel ch;

	test_mem_open(&mem, 32);
	m.base = mem.base;
	vmbus_store32(mem.base + 2 * VMBUS_PAGE_SIZE + VMBUS_RING_WRITE_INDEX, 3);
	assert_int_equal(vmbus_channel_init(&ch, &m, 2, true), -EBADMSG);
	test_mem_close(&mem);
}

static void there_and_back(void **state)
{
	uint64_t id = 0;

	begin(2, 3);
	assert_int_equal(send_to(&pair.guest, 64, 5), 0);
	assert_int_equal(receive_from(&pair.host, &id), 0);
	assert_false(signalled(&pair.host));
	vmbus_channel_flush(&pair.guest);
	assert_true(signalled(&pair.host));
	vmbus_channel_wake(&pair.host);
	assert_false(signalled(&pair.host));
	assert_int_equal(receive_from(&pair.host, &id), 1);
	assert_int_equal(id, 5);
	assert_int_equal(send_to(&pair.host, 64, 6), 0);
	assert_true(vmbus_channel_sleep(&pair.host));	/* shows the answer as well */
	assert_true(signalled(&pair.guest));
	assert_int_equal(receive_from(&pair.guest, &id), 1);
	assert_int_equal(id, 6);
	assert_int_equal(pair.host.packets_in, 1);
	assert_int_equal(pair.host.packets_out, 1);
	assert_int_equal(pair.host.signals_sent, 1);
	assert_int_equal(pair.host.signals_received, 1);
	assert_int_equal(pair.guest.signals_sent, 1);
	end();
}

static void awake_is_not_signalled(void **state)
{
	uint64_t id;

	begin(2, 2);
	vmbus_channel_wake(&pair.host);
	assert_int_equal(send_to(&pair.guest, 8, 1), 0);
	vmbus_channel_flush(&pair.guest);
	assert_false(signalled(&pair.host));
	assert_false(vmbus_channel_sleep(&pair.host));	/* there is work */
	assert_int_equal(vmbus_load32(pair.mapping.base + VMBUS_RING_INTERRUPT_MASK), 1);
	assert_int_equal(receive_from(&pair.host, &id), 1);
	assert_true(vmbus_channel_sleep(&pair.host));
	assert_int_equal(send_to(&pair.guest, 8, 2), 0);
	vmbus_channel_flush(&pair.guest);
	assert_true(signalled(&pair.host));
	end();
}

static void full_ring_wakes(void **state)
{
	unsigned sent = 0, free_after = 0;
	uint64_t id;

	begin(2, 2);
	while (send_to(&pair.host, 900, sent) == 0)
		sent++;
	assert_int_equal(sent, 4);
	assert_int_equal(pair.host.out_full, 1);
	vmbus_channel_flush(&pair.host);
	assert_true(vmbus_channel_sleep(&pair.host));
	for (; !signalled(&pair.host); free_after++) {
		assert_int_equal(receive_from(&pair.guest, &id), 1);
		vmbus_channel_flush(&pair.guest);
	}
	assert_int_equal(free_after, 1);
	assert_int_equal(send_to(&pair.host, 900, sent), 0);
	end();
}

static void broken_ring_does_not_sleep(void **state)
{
	uint64_t id;

	begin(2, 2);
	vmbus_store32(pair.mapping.base + VMBUS_RING_WRITE_INDEX, 5);
	assert_int_equal(receive_from(&pair.host, &id), -EBADMSG);
	assert_false(vmbus_channel_sleep(&pair.host));
	end();
}

static const struct single_row singles[] = {
	{ "indices nobody can have", broken_indices },
	{ "there and back", there_and_back },
	{ "who is awake is not signalled", awake_is_not_signalled },
	{ "room in a full ring wakes", full_ring_wakes },
	{ "a broken ring does not sleep", broken_ring_does_not_sleep },
};

int main(void)
{
	return ROWS_RUN(splits, split) + ROWS_RUN(singles, rows_single);
}
