/* SPDX-License-Identifier: BSD-2-Clause */
#include "storvsc/core.h"

#include <errno.h>

/* An id names a slot: never 0, and told from the id of control operations. storvsp.md 2: any 64 bits will do. */
#define CONTROL_ID UINT64_MAX
#define NO_SLOT UINT32_MAX
#define PFN_BYTES 8u
#define PACKET_FIXED (sizeof(struct vmbus_gpa_direct_wire) + sizeof(struct vmbus_gpa_range_wire))

void storvsc_core_init(struct storvsc_core *c, struct vmbus_ring_in *in, struct vmbus_ring_out *out,
		       struct storvsc_slot *slot, uint32_t slots)
{
	c->in = in;
	c->out = out;
	c->slot = slot;
	c->slots = slots;
	c->inflight = 0;
	c->version = 0;
	for (uint32_t i = 0; i < slots; i++)
		slot[i] = (struct storvsc_slot){ .next_free = i + 1 < slots ? i + 1 : NO_SLOT };
	c->free = slots ? 0 : NO_SLOT;
}

static uint32_t pages_of(uint32_t first_offset, uint32_t len)
{
	return (uint32_t)(((uint64_t)first_offset + len + 4095) / 4096);
}

/* Behind the descriptor: reserved, one range, its page frames. */
static uint32_t fill_ranges(uint8_t *extra, const uint64_t *pfn, uint32_t first_offset, uint32_t len)
{
	struct vmbus_gpa_direct_wire head = { .range_count = le32_make(1) };
	struct vmbus_gpa_range_wire range = { .byte_count = le32_make(len), .byte_offset = le32_make(first_offset) };
	uint32_t pages = pages_of(first_offset, len);

	__builtin_memcpy(extra, &head, sizeof(head));
	__builtin_memcpy(extra + sizeof(head), &range, sizeof(range));
	for (uint32_t i = 0; i < pages; i++) {
		le64_t wire = le64_make(pfn[i]);

		__builtin_memcpy(extra + PACKET_FIXED + (size_t)i * PFN_BYTES, &wire, sizeof(wire));
	}
	return (uint32_t)PACKET_FIXED + pages * PFN_BYTES;
}

static int put(struct storvsc_core *c, const struct vstor_packet *payload, uint64_t id, uint32_t extra_len)
{
	struct vmbus_packet p = {
		.type = extra_len ? VMBUS_PACKET_GPA_DIRECT : VMBUS_PACKET_INBAND,
		.flags = VMBUS_PACKET_COMPLETION_WANTED, .transaction_id = id,
		.extra = (const uint8_t *)c->packet, .extra_len = extra_len,
		.payload = (const uint8_t *)payload, .payload_len = sizeof(*payload),
	};

	return vmbus_ring_out_put(c->out, &p);
}

int storvsc_core_put(struct storvsc_core *c, const struct vstor_srb *srb, const uint64_t *pfn, uint32_t first_offset,
		     uint32_t data_len, void *request)
{
	struct vstor_packet payload = {
		.operation = le32_make(VSTOR_EXECUTE_SRB), .flags = le32_make(VSTOR_REQUEST_COMPLETION), .u.srb = *srb,
	};
	uint32_t slot = c->free, extra_len = 0;
	int r;

	if (slot == NO_SLOT)
		return -EAGAIN;
	if (PACKET_FIXED + (uint64_t)pages_of(first_offset, data_len) * PFN_BYTES > sizeof(c->packet))
		return -EINVAL;
	if (data_len)
		extra_len = fill_ranges((uint8_t *)c->packet, pfn, first_offset, data_len);
	r = put(c, &payload, (uint64_t)slot + 1, extra_len);
	if (r < 0)
		return r;
	c->free = c->slot[slot].next_free;
	c->slot[slot].request = request;
	c->inflight++;
	return 0;
}

int storvsc_core_control(struct storvsc_core *c, const struct vstor_packet *packet)
{
	return put(c, packet, CONTROL_ID, 0);
}

/* NULL: an id that no request of ours has; the provider may say what it likes. */
static void *take(struct storvsc_core *c, uint64_t id)
{
	struct storvsc_slot *s;
	void *request;

	if (id == 0 || id > c->slots)
		return NULL;
	s = &c->slot[id - 1];
	request = s->request;
	if (!request)
		return NULL;
	s->request = NULL;
	s->next_free = c->free;
	c->free = (uint32_t)(id - 1);
	c->inflight--;
	return request;
}

static bool understand(struct storvsc_core *c, const struct vmbus_packet *p, struct storvsc_event *e)
{
	if (p->payload_len < sizeof(e->packet))
		return false;
	__builtin_memcpy(&e->packet, p->payload, sizeof(e->packet));
	if (p->type == VMBUS_PACKET_INBAND && p->transaction_id == 0) {
		e->kind = STORVSC_EVENT_ENUMERATE;
		return le32_get(e->packet.operation) == VSTOR_ENUMERATE_BUS ||
		       le32_get(e->packet.operation) == VSTOR_REMOVE_DEVICE;
	}
	if (p->type != VMBUS_PACKET_COMPLETION)
		return false;
	e->kind = p->transaction_id == CONTROL_ID ? STORVSC_EVENT_CONTROL : STORVSC_EVENT_COMPLETION;
	e->request = e->kind == STORVSC_EVENT_COMPLETION ? take(c, p->transaction_id) : NULL;
	return e->kind == STORVSC_EVENT_CONTROL || e->request;
}

int storvsc_core_next(struct storvsc_core *c, struct storvsc_event *ret_event)
{
	struct vmbus_packet p;
	int r;

	do {
		r = vmbus_ring_in_next(c->in, c->packet, sizeof(c->packet), &p);
		if (r <= 0)
			return r;
	} while (!understand(c, &p, ret_event));
	return 1;
}
