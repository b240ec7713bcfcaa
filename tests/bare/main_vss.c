/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A guest that has nothing but the VSS service: it says on its console what it is told, and answers, or does not, as
 * VSS_GUEST says.
 */
#include "tests/bare/bare.h"
#include "tests/bare/vmbus.h"
#include "vmm/ic_wire.h"

#define ANSWERS	      0
#define HANGS_CHECK   1
#define HANGS_FREEZE  2
#define REFUSES	      3
#define FALLS_FROZEN  4			/* a triple fault */
#define HANGS_THAW    5

#define RING_PAGES 4u
#define PAGE	   4096u
#define OP_CHECK   2u
#define OP_FREEZE  5u
#define OP_THAW	   6u
#define STATUS_FAIL 0x80004005u

static const uint8_t vss_class[16] = { 0x29, 0x2e, 0xfa, 0x35, 0x23, 0xea, 0x36, 0x42,
				       0x96, 0xae, 0x3a, 0x6e, 0xba, 0xcb, 0xa4, 0x40 };
static uint8_t rings[2 * RING_PAGES * PAGE] __attribute__((aligned(4096)));
static struct bus_channel channel;

static void fall(void)
{
	static const struct { uint16_t limit; uint64_t base; } __attribute__((packed)) none = { 0, 0 };

	print("falls\n");
	__asm__ volatile("lidt %0; ud2" : : "m"(none));
}

/* What Linux takes: framework 3.0 and messages 5.0. */
static void negotiate(uint8_t *payload)
{
	const struct ic_negotiate n = { .frameworks = le16_make(1), .messages = le16_make(1) };
	const struct ic_version v[2] = { { le16_make(3), le16_make(0) }, { le16_make(5), le16_make(0) } };

	__builtin_memcpy(payload + sizeof(struct ic_header), &n, sizeof(n));
	__builtin_memcpy(payload + sizeof(struct ic_header) + sizeof(n), v, sizeof(v));
}

/* False: there will be no answer. */
static bool obey(unsigned operation, uint32_t *ret_status)
{
	static bool hangs;

	if (operation == OP_FREEZE)
		print("freeze\n");
	else if (operation == OP_THAW)
		print("thaw\n");
	if (VSS_GUEST == REFUSES && operation == OP_FREEZE)
		*ret_status = STATUS_FAIL;
	hangs = hangs || (VSS_GUEST == HANGS_CHECK && operation == OP_CHECK) ||
		(VSS_GUEST == HANGS_FREEZE && operation == OP_FREEZE) ||
		(VSS_GUEST == HANGS_THAW && operation == OP_THAW);
	return !hangs;
}

static void answer(const struct vmbus_packet *p, uint8_t *payload, uint32_t status)
{
	const struct vmbus_packet reply = {
		.type = VMBUS_PACKET_INBAND, .transaction_id = p->transaction_id, .payload = payload,
		.payload_len = p->payload_len,
	};
	struct ic_header *h = (void *)payload;

	h->flags = IC_TRANSACTION | IC_RESPONSE;
	h->status = le32_make(status);
	CHECK(vmbus_ring_out_put(&channel.out, &reply) == 0);
	bus_kick(&channel);
}

static void take(const struct vmbus_packet *p)
{
	static uint8_t payload[2048] __attribute__((aligned(8)));
	struct ic_header *h = (void *)payload;
	uint32_t status = 0;
	unsigned operation;

	if (p->payload_len < sizeof(*h) + 12 || p->payload_len > sizeof(payload))
		return;
	__builtin_memcpy(payload, p->payload, p->payload_len);
	operation = payload[sizeof(*h)];
	if (le16_get(h->type) == IC_NEGOTIATE) {
		negotiate(payload);
		operation = 0;
	} else if (!obey(operation, &status)) {
		return;
	}
	answer(p, payload, status);
	if (VSS_GUEST == FALLS_FROZEN && operation == OP_FREEZE)
		fall();
}

int main(void);

int main(void)
{
	static uint64_t buf[1024];
	struct vmbus_packet p;

	print("vss\n");
	apic_start();
	hv_start();
	hv_synic_start();
	CHECK(bus_contact(VMBUS_VERSION(5, 3)));
	bus_request_offers();
	CHECK(bus_open(&channel, bus_wait_offer(vss_class, 0), rings, RING_PAGES, 0));
	for (;;) {
		while (vmbus_ring_in_next(&channel.in, buf, sizeof(buf), &p) == 1)
			take(&p);
		bus_sleep(&channel);
	}
}
