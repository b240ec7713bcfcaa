/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/bare/vmbus.h"

#include "tests/bare/bare.h"

#define OFFERS_MAX 16u
#define STATUS_INSUFFICIENT_BUFFERS 19u
#define PAGE 4096u

static struct vmbus_msg_offer offers[OFFERS_MAX];
static unsigned offer_count;
static uint32_t next_handle = 0xe1e10;

/* ---- messages ---------------------------------------------------------------------------------------- */

static void post(const void *message, unsigned len)
{
	uint32_t status;

	do {
		status = hv_post_message(VMBUS_CONNECTION_NEW, message, len);
	} while (status == STATUS_INSUFFICIENT_BUFFERS);
	CHECK(status == 0);
}

static void post_type(uint32_t type)
{
	struct vmbus_msg_header m = { .type = le32_make(type) };

	post(&m, sizeof(m));
}

static void note_offer(const void *message)
{
	if (offer_count < OFFERS_MAX)
		__builtin_memcpy(&offers[offer_count++], message, sizeof(offers[0]));
}

/* Until a message of that type has come; offers are kept, whatever else comes is not for us. */
static void expect(uint32_t type, uint8_t message[static VMBUS_MESSAGE_MAX])
{
	struct vmbus_msg_header header;

	do {
		hv_message_wait(message);
		__builtin_memcpy(&header, message, sizeof(header));
		if (le32_get(header.type) == VMBUS_MSG_OFFERCHANNEL)
			note_offer(message);
	} while (le32_get(header.type) != type);
}

/* ---- the bus ----------------------------------------------------------------------------------------- */

bool bus_contact(uint32_t version)
{
	uint8_t message[VMBUS_MESSAGE_MAX];
	struct vmbus_msg_version_response *reply = (void *)message;
	struct vmbus_msg_initiate_contact m = {
		.header.type = le32_make(VMBUS_MSG_INITIATE_CONTACT), .version = le32_make(version),
	};

	m.u.v5.sint = VMBUS_SINT;
	post(&m, sizeof(m));
	expect(VMBUS_MSG_VERSION_RESPONSE, message);
	return reply->supported == 1;
}

unsigned bus_request_offers(void)
{
	uint8_t message[VMBUS_MESSAGE_MAX];

	post_type(VMBUS_MSG_REQUESTOFFERS);
	expect(VMBUS_MSG_ALLOFFERS_DELIVERED, message);
	return offer_count;
}

static const struct vmbus_msg_offer *find_offer(const uint8_t class_guid[16], unsigned subchannel)
{
	for (unsigned i = 0; i < offer_count; i++)
		if (__builtin_memcmp(offers[i].class_guid, class_guid, 16) == 0 &&
		    le16_get(offers[i].subchannel_index) == subchannel)
			return &offers[i];
	return NULL;
}

const struct vmbus_msg_offer *bus_wait_offer(const uint8_t class_guid[16], unsigned subchannel)
{
	uint8_t message[VMBUS_MESSAGE_MAX];
	const struct vmbus_msg_offer *offer;

	while (!(offer = find_offer(class_guid, subchannel)))
		expect(VMBUS_MSG_OFFERCHANNEL, message);
	return offer;
}

void bus_unload(void)
{
	uint8_t message[VMBUS_MESSAGE_MAX];

	post_type(VMBUS_MSG_UNLOAD);
	expect(VMBUS_MSG_UNLOAD_RESPONSE, message);
}

/* ---- GPADL ------------------------------------------------------------------------------------------- */

static unsigned put_pfns(uint8_t *at, const uint8_t *pages, unsigned first, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		le64_t pfn = le64_make(((uint64_t)pages >> 12) + first + i);

		__builtin_memcpy(at + i * 8, &pfn, 8);
	}
	return count * 8;
}

static bool make_gpadl(struct bus_channel *c, const uint8_t *pages, unsigned count)
{
	uint8_t message[VMBUS_MESSAGE_MAX];
	struct vmbus_msg_gpadl_created *reply = (void *)message;
	struct vmbus_msg_gpadl_header head = {
		.header.type = le32_make(VMBUS_MSG_GPADL_HEADER), .relid = le32_make(c->relid),
		.gpadl = le32_make(c->gpadl), .range_length = le16_make((uint16_t)(8 + 8 * count)),
		.range_count = le16_make(1), .byte_count = le32_make(count * PAGE),
	};
	struct vmbus_msg_gpadl_body body = {
		.header.type = le32_make(VMBUS_MSG_GPADL_BODY), .gpadl = le32_make(c->gpadl),
	};
	unsigned done = count < VMBUS_GPADL_HEADER_PFNS ? count : VMBUS_GPADL_HEADER_PFNS;

	__builtin_memcpy(message, &head, sizeof(head));
	post(message, (unsigned)sizeof(head) + put_pfns(message + sizeof(head), pages, 0, done));
	for (uint32_t number = 1; done < count; number++) {
		unsigned n = count - done < VMBUS_GPADL_BODY_PFNS ? count - done : VMBUS_GPADL_BODY_PFNS;

		body.number = le32_make(number);
		__builtin_memcpy(message, &body, sizeof(body));
		post(message, (unsigned)sizeof(body) + put_pfns(message + sizeof(body), pages, done, n));
		done += n;
	}
	expect(VMBUS_MSG_GPADL_CREATED, message);
	return le32_get(reply->gpadl) == c->gpadl && le32_get(reply->status) == 0;
}

/* ---- channels ---------------------------------------------------------------------------------------- */

static bool make_rings(struct bus_channel *c, uint8_t *rings, unsigned pages)
{
	struct vmbus_ring up = { rings, rings + PAGE, (pages - 1) * PAGE };
	struct vmbus_ring down = { rings + pages * PAGE, rings + (pages + 1) * PAGE, (pages - 1) * PAGE };

	return vmbus_ring_out_init(&c->out, &up) == 0 && vmbus_ring_in_init(&c->in, &down) == 0;
}

bool bus_open(struct bus_channel *c, const struct vmbus_msg_offer *offer, uint8_t *rings, unsigned pages, unsigned cpu)
{
	uint8_t message[VMBUS_MESSAGE_MAX];
	struct vmbus_msg_open_result *reply = (void *)message;
	struct vmbus_msg_open m = {
		.header.type = le32_make(VMBUS_MSG_OPENCHANNEL), .relid = offer->relid, .open_id = le32_make(77),
		.target_vp = le32_make(cpu), .downstream_page = le32_make(pages),
	};

	c->relid = le32_get(offer->relid);
	c->connection_id = le32_get(offer->connection_id);
	c->gpadl = next_handle++;
	m.gpadl = le32_make(c->gpadl);
	if (!make_rings(c, rings, pages) || !make_gpadl(c, rings, 2 * pages))
		return false;
	post(&m, sizeof(m));
	expect(VMBUS_MSG_OPEN_RESULT, message);
	return le32_get(reply->relid) == c->relid && le32_get(reply->status) == 0;
}

void bus_close(struct bus_channel *c)
{
	uint8_t message[VMBUS_MESSAGE_MAX];
	struct vmbus_msg_relid close = {
		.header.type = le32_make(VMBUS_MSG_CLOSECHANNEL), .relid = le32_make(c->relid),
	};
	struct vmbus_msg_gpadl_teardown teardown = {
		.header.type = le32_make(VMBUS_MSG_GPADL_TEARDOWN), .relid = le32_make(c->relid),
		.gpadl = le32_make(c->gpadl),
	};

	post(&close, sizeof(close));
	post(&teardown, sizeof(teardown));
	expect(VMBUS_MSG_GPADL_TORNDOWN, message);
}

void bus_kick(struct bus_channel *c)
{
	bool reader_idle = vmbus_ring_out_publish(&c->out), writer_waits = vmbus_ring_in_publish(&c->in);

	if (reader_idle || writer_waits)
		hv_signal(c->connection_id);
}

void bus_sleep(struct bus_channel *c)
{
	bus_kick(c);
	if (!vmbus_ring_in_unmask(&c->in))
		hv_event_wait(c->relid);
	vmbus_ring_in_mask(&c->in);
}
