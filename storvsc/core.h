/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_STORVSC_CORE_H
#define SPINDLE_STORVSC_CORE_H
/*
 * The protocol of a storage client over two rings: slots, packets, handshake. Freestanding: no libc, no allocation, so
 * guests without an OS link it too. Everything the provider says is checked: a slot that is not ours is ignored.
 */
#include <stdbool.h>
#include <stdint.h>

#include "storvsp/vstor_wire.h"
#include "vmbus/ring.h"

#define STORVSC_PACKET_MAX 4096u

struct storvsc_slot {
	void *request;			/* NULL: free */
	uint32_t next_free;
};

struct storvsc_core {
	struct vmbus_ring_in *in;
	struct vmbus_ring_out *out;
	struct storvsc_slot *slot;	/* caller's storage */
	uint32_t slots, free, inflight;
	uint16_t version;
	struct vstor_properties properties;
	uint64_t packet[STORVSC_PACKET_MAX / 8];
};

/* What came out of the ring. */
struct storvsc_event {
	enum { STORVSC_EVENT_COMPLETION, STORVSC_EVENT_CONTROL, STORVSC_EVENT_ENUMERATE } kind;
	void *request;			/* COMPLETION: as given to storvsc_core_put() */
	struct vstor_packet packet;
};

void storvsc_core_init(struct storvsc_core *c, struct vmbus_ring_in *in, struct vmbus_ring_out *out,
		       struct storvsc_slot *slot, uint32_t slots);
/* An SRB; @pfn: the pages of the data, in order. 0, -EAGAIN, -EBADMSG. Not yet published. */
int storvsc_core_put(struct storvsc_core *c, const struct vstor_srb *srb, const uint64_t *pfn, uint32_t first_offset,
		     uint32_t data_len, void *request);
/* A control operation: one at a time; its answer is a CONTROL event. */
int storvsc_core_control(struct storvsc_core *c, const struct vstor_packet *packet);
/* 1 event, 0 nothing, -EBADMSG. */
int storvsc_core_next(struct storvsc_core *c, struct storvsc_event *ret_event);

/*
 * The handshake as a state machine: call until it says done. @newest: VSTOR_VERSION_*. The caller publishes, signals
 * and waits in between.
 */
enum storvsc_step { STORVSC_BEGIN, STORVSC_VERSION, STORVSC_PROPERTIES, STORVSC_END, STORVSC_READY };
int storvsc_core_handshake(struct storvsc_core *c, enum storvsc_step *step, const struct vstor_packet *answer,
			   uint16_t newest);

#endif
