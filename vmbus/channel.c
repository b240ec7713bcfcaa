/* SPDX-License-Identifier: BSD-2-Clause */
/* One end of an open channel: two rings, one eventfd for both ("new packets, or room for yours"). */
#include "vmbus/channel.h"

#include <errno.h>
#include <unistd.h>

#include "base/seed.h"

#define PART_PAGES_MIN 2u		/* control page and data */

/* Written by one thread, read by any. */
static void count(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static struct vmbus_ring ring_at(const struct vmbus_mapping *mapping, unsigned first, unsigned pages)
{
	uint8_t *control = mapping->base + (size_t)first * VMBUS_PAGE_SIZE;

	return (struct vmbus_ring){ control, control + VMBUS_PAGE_SIZE, (pages - 1) * VMBUS_PAGE_SIZE };
}

int vmbus_channel_init(struct vmbus_channel *ch, const struct vmbus_mapping *mapping, unsigned downstream, bool host)
{
	unsigned pages = (unsigned)(mapping->len / VMBUS_PAGE_SIZE);
	struct vmbus_ring up, down;
	int r;

	if (downstream < PART_PAGES_MIN || downstream > pages || pages - downstream < PART_PAGES_MIN)
		return -EINVAL;
	up = ring_at(mapping, 0, downstream);
	down = ring_at(mapping, downstream, pages - downstream);
	r = vmbus_ring_in_init(&ch->in, host ? &up : &down);
	if (r == 0)
		r = vmbus_ring_out_init(&ch->out, host ? &down : &up);
	if (r < 0)
		return r;
	ch->signals_sent = ch->signals_received = ch->packets_in = ch->packets_out = ch->out_full = 0;
	return 0;
}

int vmbus_channel_receive(struct vmbus_channel *ch, void *buf, size_t room, struct vmbus_packet *ret_packet)
{
	int r = vmbus_ring_in_next(&ch->in, buf, room, ret_packet);

	if (r > 0)
		count(&ch->packets_in, 1);
	return r;
}

int vmbus_channel_send(struct vmbus_channel *ch, const struct vmbus_packet *packet)
{
	int r = vmbus_ring_out_put(&ch->out, packet);

	if (r == -EAGAIN) {
		count(&ch->out_full, 1);
		if (vmbus_ring_out_wait(&ch->out, vmbus_ring_packet_size(packet->extra_len, packet->payload_len)))
			r = vmbus_ring_out_put(&ch->out, packet);
	}
	if (r == 0)
		count(&ch->packets_out, 1);
	return r;
}

void vmbus_channel_flush(struct vmbus_channel *ch)
{
	bool reader_idle = vmbus_ring_out_publish(&ch->out), writer_waits = vmbus_ring_in_publish(&ch->in);

	if ((reader_idle && !SP_SEED_BUG(CHANNEL_NO_SIGNAL)) || writer_waits) {
		ch->ops->signal(ch->ctx);
		count(&ch->signals_sent, 1);
	}
}

bool vmbus_channel_sleep(struct vmbus_channel *ch)
{
	vmbus_channel_flush(ch);
	if (!vmbus_ring_in_unmask(&ch->in))
		return true;
	vmbus_ring_in_mask(&ch->in);
	return false;
}

void vmbus_channel_wake(struct vmbus_channel *ch)
{
	uint64_t signals;

	if (read(ch->event_fd, &signals, sizeof(signals)) == (ssize_t)sizeof(signals))
		count(&ch->signals_received, signals);
	vmbus_ring_in_mask(&ch->in);
}
