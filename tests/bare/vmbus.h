/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_BARE_VMBUS_H
#define SPINDLE_TESTS_BARE_VMBUS_H
/*
 * The guest's side of VMBus: contact, offers, channels. Memory is identity mapped, so a page's frame number is its
 * address. What says nothing else is for processor 0, to which all messages come.
 */
#include "vmbus/ring.h"
#include "vmbus/vmbus_wire.h"

/* ---- the bus ----------------------------------------------------------------------------------------- */

bool bus_contact(uint32_t version);		/* false: not supported */
unsigned bus_request_offers(void);		/* how many came */
/* The offer of a sub-channel (0: the primary one) of the first device of @class; waits for it if need be. */
const struct vmbus_msg_offer *bus_wait_offer(const uint8_t class_guid[16], unsigned subchannel);
void bus_unload(void);

/* ---- channels ---------------------------------------------------------------------------------------- */

struct bus_channel {
	uint32_t relid, connection_id, gpadl;
	struct vmbus_ring_in in;
	struct vmbus_ring_out out;
};

/* @rings: 2 x @pages pages; the ring to the host first. Signals go to @cpu. */
bool bus_open(struct bus_channel *c, const struct vmbus_msg_offer *offer, uint8_t *rings, unsigned pages, unsigned cpu);
void bus_close(struct bus_channel *c);
/* The channel's processor. */
void bus_kick(struct bus_channel *c);		/* publishes, signals if the host wants it */
void bus_sleep(struct bus_channel *c);		/* kicks; halts until there is something to read */

#endif
