/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMBUS_RING_H
#define SPINDLE_VMBUS_RING_H
/*
 * One direction of a channel, seen from its consumer (vmbus_ring_in) or its producer (vmbus_ring_out). Freestanding:
 * guests without an OS use it, too.
 *
 * Each end keeps its own index privately and never reads it back; the peer's index is checked at every look. Who breaks
 * the rules of the ring gets -EBADMSG for ever: there is no way to find the next packet again.
 *
 * One thread at a time per end.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Control page and data, linear in this process. Not owned. */
struct vmbus_ring {
	uint8_t *control;
	uint8_t *data;
	uint32_t size;		/* bytes of data, multiple of 4096 */
};

/* What a packet is, apart from its bytes. */
struct vmbus_packet {
	uint16_t type;		/* enum vmbus_packet_type */
	uint16_t flags;
	uint64_t transaction_id;
	const uint8_t *extra;	/* between descriptor and payload (GPA ranges): inside the caller's buffer */
	uint32_t extra_len;
	const uint8_t *payload;
	uint32_t payload_len;	/* multiple of 8: padding cannot be told from data */
};

/* ---- consumer ---------------------------------------------------------------------------------------- */

struct vmbus_ring_in {
	struct vmbus_ring ring;
	uint32_t read;		/* next byte to read; shown to the producer at publish */
	uint32_t published;
	uint32_t write;		/* the producer's index at the last look, checked */
	bool broken;
	bool owes_signal;	/* unmask published and found the producer waiting; publish says so */
};

/* Starts where the control page's read index stands. 0 or -EBADMSG (indices out of range, ring smaller than a page). */
int vmbus_ring_in_init(struct vmbus_ring_in *in, const struct vmbus_ring *ring);
/**
 * vmbus_ring_in_next - copy the next packet out, once, and check the copy
 * @buf: 8-byte aligned; the packet's parts point into it
 * Returns 1, 0 when empty, -EBADMSG (the ring is broken from now on), -EMSGSIZE (longer than @room: broken as well).
 */
int vmbus_ring_in_next(struct vmbus_ring_in *in, void *buf, size_t room, struct vmbus_packet *ret_packet);
/* Shows the producer what has been read. True: it waits for just this room, signal it. */
bool vmbus_ring_in_publish(struct vmbus_ring_in *in);
/* Asks the producer not to signal (polling). */
void vmbus_ring_in_mask(struct vmbus_ring_in *in);
/* Publishes, asks for signals again, looks once more. True: there is data, a broken ring, or a signal owed to the
 * producer (the next publish says so): do not sleep. */
bool vmbus_ring_in_unmask(struct vmbus_ring_in *in);
/* Bytes ready to be read, by a fresh look; 0 when broken. Cheap enough to poll. */
uint32_t vmbus_ring_in_ready(struct vmbus_ring_in *in);

/* ---- producer ---------------------------------------------------------------------------------------- */

struct vmbus_ring_out {
	struct vmbus_ring ring;
	uint32_t write;		/* next byte to write; shown to the consumer at publish */
	uint32_t published;
	uint32_t read;		/* the consumer's index at the last look */
	bool broken;
	bool waiting;		/* asked for a signal once there is room */
	bool owes_signal;	/* wait published to an idle consumer; publish says so */
};

/* Announces the pending-send-size feature. 0 or -EBADMSG. */
int vmbus_ring_out_init(struct vmbus_ring_out *out, const struct vmbus_ring *ring);
/* Ring bytes that a packet with so much behind its descriptor takes, trailer included. */
uint32_t vmbus_ring_packet_size(uint32_t extra_len, uint32_t payload_len);
/* Puts one packet behind those not yet published. 0, -EAGAIN (no room), -EBADMSG (broken), -EMSGSIZE (never fits). */
int vmbus_ring_out_put(struct vmbus_ring_out *out, const struct vmbus_packet *packet);
/* Shows the consumer what has been put. True: it was idle and wants a signal. */
bool vmbus_ring_out_publish(struct vmbus_ring_out *out);
/* No room for @bytes (as of vmbus_ring_packet_size()): shows what has been put, asks for a signal once there is room.
 * True: there is room already, or the ring is broken. Publish once more before sleeping. */
bool vmbus_ring_out_wait(struct vmbus_ring_out *out, uint32_t bytes);
uint32_t vmbus_ring_out_free(struct vmbus_ring_out *out);	/* by a fresh look; 0 when broken */

#endif
