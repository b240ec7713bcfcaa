/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMBUS_CHANNEL_H
#define SPINDLE_VMBUS_CHANNEL_H
/*
 * An open channel, one end of it: two rings, the peer's memory, a way to signal and a way to be signalled. The VMM, the
 * client library and the tests make them; providers and clients use them and cannot tell who is at the other end.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/guid.h"
#include "vmbus/gpadl.h"
#include "vmbus/mem.h"
#include "vmbus/ring.h"

struct vmbus_channel_ops {
	void (*signal)(void *ctx);	/* tell the peer to look at the rings; from the channel's thread */
};

struct vmbus_channel {
	struct vmbus_ring_in in;
	struct vmbus_ring_out out;
	const struct vmbus_mem *mem;
	const struct vmbus_channel_ops *ops;
	void *ctx;
	int event_fd;			/* eventfd: the peer's signals; owned by who made the channel */
	/* counters: written by the channel's thread, read by anybody */
	uint64_t signals_sent, signals_received, packets_in, packets_out, out_full;
};

/* Both rings lie in one GPADL: pages [0, downstream) are the ring guests write, the rest is the ring they read.
 * @host: which of the two ends this one is. The mapping belongs to the caller, as do mem, ops, ctx and event_fd, which
 * are left as they are.
 * 0, -EINVAL (a part of less than two pages), -EBADMSG (indices). */
int vmbus_channel_init(struct vmbus_channel *ch, const struct vmbus_mapping *mapping, unsigned downstream, bool host);

int vmbus_channel_receive(struct vmbus_channel *ch, void *buf, size_t room, struct vmbus_packet *ret_packet);
/* Shown by flush. -EAGAIN: no room; the peer has been asked for a signal on event_fd once there is. */
int vmbus_channel_send(struct vmbus_channel *ch, const struct vmbus_packet *packet);
void vmbus_channel_flush(struct vmbus_channel *ch);	/* publishes both indices; signals where the peer wants it */
/* Flush, unmask, look: true when it may sleep on event_fd. Who waits for room alone and leaves packets unread meanwhile
 * flushes and sleeps without this, which would find those packets and spin; the signal for room ignores the mask. */
bool vmbus_channel_sleep(struct vmbus_channel *ch);
void vmbus_channel_wake(struct vmbus_channel *ch);	/* drain event_fd (which does not block), mask */

/* ---- devices behind offers --------------------------------------------------------------------------- */

/* What a bus does for the device offered on it. Any thread; nothing here waits for the device. */
struct vmbus_bus_ops {
	/* Offer sub-channels 1 .. count (those not offered yet), after the reply that announced them has been sent. */
	void (*offer_subchannels)(void *bus, unsigned count);
};

struct vmbus_open {			/* valid during ->open */
	unsigned subchannel;		/* 0: primary */
	uint32_t target_vp;		/* UINT32_MAX: none, the peer polls */
	const struct vmbus_bus_ops *bus_ops;
	void *bus;
};

/* Called by one thread of the bus at a time. */
struct vmbus_device_ops {
	/* The channel is the device's until ->close returns: it may run a thread on it. 0, or -errno: refused. */
	int (*open)(void *device, struct vmbus_channel *ch, const struct vmbus_open *open);
	/* Waits until nothing touches the channel or the peer's memory any more. Requests in flight are finished or
	 * dropped. Must not depend on the peer doing anything. */
	void (*close)(void *device, struct vmbus_channel *ch);
};

struct vmbus_offer {
	struct sp_guid class_guid, instance_guid;	/* as struct sp_guid holds them: in the order of the wire */
	uint16_t flags;			/* VMBUS_OFFER_* */
	uint8_t user[120];
	unsigned max_subchannels;	/* 0: none */
	const struct vmbus_device_ops *ops;
	void *device;
	const char *name;		/* for messages and statistics; lives as long as the offer */
};

#endif
