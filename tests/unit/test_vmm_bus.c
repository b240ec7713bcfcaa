/* SPDX-License-Identifier: BSD-2-Clause */
/* The VMBus server, driven by a guest without a machine. */
#include "vmm/vmbus_server.h"

#include <json-c/json.h>

#include "tests/support/rng.h"
#include "tests/unit/bus_guest.h"

#define V53 VMBUS_VERSION(5, 3)

static struct guest g;
static struct echo echo, other;
static uint32_t echo_id;

/* A guest and the echo device on its bus. */
static void begin(void)
{
	guest_start(&g);
	echo_init(&echo, 1);
	assert_int_equal(vmm_bus_offer(g.bus, &echo.offer, &echo_id), 0);
}

static void end(void)
{
	guest_end(&g);
	assert_int_equal(echo_open_count(&echo), 0);
	assert_false(echo.disorder);
}

/* ---- contact ------------------------------------------------------------------------------------------- */

static const struct contact {
	const char *name;
	uint32_t version, vp;
	uint8_t sint, vtl;
	unsigned supported;
	uint32_t connection_id;
} contacts[] = {
	{ "5.3", VMBUS_VERSION(5, 3), 1, 2, 0, 1, 4 },
	{ "5.2", VMBUS_VERSION(5, 2), 0, 2, 0, 1, 4 },
	{ "5.1", VMBUS_VERSION(5, 1), 0, 2, 0, 1, 4 },
	{ "5.0", VMBUS_VERSION(5, 0), 0, 2, 0, 1, 4 },
	{ "4.1", VMBUS_VERSION(4, 1), 0, 0, 0, 1, VMBUS_VERSION(4, 1) },
	{ "4.0", VMBUS_VERSION(4, 0), 0, 0xff, 9, 1, VMBUS_VERSION(4, 0) },
	{ "3.0", VMBUS_VERSION(3, 0), 0, 0, 0, 1, VMBUS_VERSION(3, 0) },
	{ "2.4 is too old", VMBUS_VERSION(2, 4), 0, 0, 0, 0, 0 },
	{ "6.0 is unknown", VMBUS_VERSION(6, 0), 0, 2, 0, 0, 0 },
	{ "5.9 is unknown", VMBUS_VERSION(5, 9), 0, 2, 0, 0, 0 },
	{ "a processor that is not there", V53, GUEST_VPS, 2, 0, 0, 0 },
	{ "another interrupt source", V53, 0, 3, 0, 0, 0 },
	{ "another trust level", V53, 0, 2, 1, 0, 0 },
};

static void contact(void **state)
{
	const struct contact *row = *state;
	struct vmbus_msg_initiate_contact m = {
		.header.type = le32_make(VMBUS_MSG_INITIATE_CONTACT),
		.version = le32_make(row->version),
		.target_vp = le32_make(row->vp),
	};
	const struct vmbus_msg_version_response *reply;
	const struct guest_post *p;

	begin();
	m.u.v5.sint = row->sint;
	m.u.v5.vtl = row->vtl;
	guest_send(&g, &m, sizeof(m));
	p = guest_next(&g);
	assert_non_null(p);
	reply = (const void *)p->payload;
	assert_int_equal(p->len, 16);
	assert_int_equal(p->vp, row->vp < GUEST_VPS ? row->vp : 0);
	assert_int_equal(type_of(reply), VMBUS_MSG_VERSION_RESPONSE);
	assert_int_equal(reply->supported, row->supported);
	assert_int_equal(reply->state, 0);
	assert_int_equal(le32_get(reply->connection_id), row->connection_id);
	assert_int_equal(g.version, row->supported ? row->version : 0);
	end();
}

static void connection_ids(void **state)
{
	struct vmbus_msg_header m = { .type = le32_make(VMBUS_MSG_UNLOAD) };
	uint8_t longest[VMBUS_MESSAGE_MAX + 1] = { 0 };

	begin();
	assert_int_equal(vmm_bus_message(g.bus, 1, &m, sizeof(m)), 0);
	assert_int_equal(vmm_bus_message(g.bus, 4, &m, sizeof(m)), 0);
	assert_int_equal(vmm_bus_message(g.bus, 0, &m, sizeof(m)), 18);
	assert_int_equal(vmm_bus_message(g.bus, 0x10001, &m, sizeof(m)), 18);
	assert_int_equal(vmm_bus_message(g.bus, 4, &m, sizeof(m) - 1), 5);
	assert_int_equal(vmm_bus_message(g.bus, 4, longest, sizeof(longest)), 5);
	assert_int_equal(vmm_bus_message(g.bus, 4, longest, sizeof(longest) - 1), 0);
	guest_expect(&g, VMBUS_MSG_UNLOAD_RESPONSE);
	guest_expect(&g, VMBUS_MSG_UNLOAD_RESPONSE);
	end();
}

/* ---- offers -------------------------------------------------------------------------------------------- */

static void offers(void **state)
{
	const struct vmbus_msg_offer *m;
	uint32_t relid;

	begin();
	guest_contact_with(&g, V53, 1);
	guest_send_type(&g, VMBUS_MSG_REQUESTOFFERS);
	m = guest_expect(&g, VMBUS_MSG_OFFERCHANNEL);
	relid = le32_get(m->relid);
	assert_memory_equal(m->class_guid, echo.offer.class_guid.b, 16);
	assert_memory_equal(m->instance_guid, echo.offer.instance_guid.b, 16);
	assert_memory_equal(m->user, echo.offer.user, 120);
	assert_int_equal(le16_get(m->flags), 0x10);
	assert_int_equal(le16_get(m->subchannel_index), 0);
	assert_in_range(relid, 1, 2047);
	assert_int_equal(le32_get(m->connection_id), 0x10000 + relid);
	assert_int_equal(le16_get(m->dedicated_interrupt), 1);
	assert_int_equal(m->monitor_allocated, 0);
	guest_expect(&g, VMBUS_MSG_ALLOFFERS_DELIVERED);
	guest_send_type(&g, VMBUS_MSG_REQUESTOFFERS);	/* once is enough */
	guest_expect_silence(&g);
	/* The same number after a new contact. */
	assert_int_equal(guest_connect(&g, V53, 1), relid);
	end();
}

static void offered_later(void **state)
{
	const struct vmbus_msg_offer *m;
	uint32_t id = 0, relid;

	begin();
	relid = guest_connect(&g, V53, 1);
	echo_init(&other, 1);
	assert_int_equal(vmm_bus_offer(g.bus, &other.offer, &id), -EEXIST);
	echo_init(&other, 2);
	assert_int_equal(vmm_bus_offer(g.bus, &other.offer, &id), 0);
	assert_int_not_equal(id, echo_id);
	m = guest_expect(&g, VMBUS_MSG_OFFERCHANNEL);
	assert_int_not_equal(le32_get(m->relid), relid);
	guest_expect_silence(&g);
	end();
}

/* Just too short for what it says it is. */
static void short_messages(void **state)
{
	static const struct { uint8_t type, len; } lens[] = {
		{ VMBUS_MSG_OPENCHANNEL, 148 }, { VMBUS_MSG_CLOSECHANNEL, 12 }, { VMBUS_MSG_GPADL_HEADER, 28 },
		{ VMBUS_MSG_GPADL_BODY, 16 }, { VMBUS_MSG_GPADL_TEARDOWN, 16 }, { VMBUS_MSG_RELID_RELEASED, 12 },
		{ VMBUS_MSG_INITIATE_CONTACT, 40 }, { VMBUS_MSG_MODIFYCHANNEL, 16 },
	};

	begin();
	guest_connect(&g, V53, 1);
	for (size_t i = 0; i < SP_ARRAY_SIZE(lens); i++) {
		uint8_t message[VMBUS_MESSAGE_MAX] = { lens[i].type };

		guest_send(&g, message, lens[i].len - 1u);
		guest_expect_silence(&g);
	}
	end();
}

static void nothing_before_contact(void **state)
{
	begin();
	guest_send_type(&g, VMBUS_MSG_REQUESTOFFERS);
	guest_send_relid(&g, VMBUS_MSG_CLOSECHANNEL, 1);
	guest_contact_with(&g, V53, 0);
	guest_expect_silence(&g);
	end();
}

/* ---- GPADLs -------------------------------------------------------------------------------------------- */

static const struct bad_gpadl {
	const char *name;
	uint32_t relid;			/* plus that of the device */
	uint16_t range_length, range_count;
	uint32_t byte_count, byte_offset;
	uint64_t pfn;			/* the last of two */
	bool ok;
} bad_gpadls[] = {
	{ "two pages", 0, 24, 1, 8192, 0, 0x1001, true },
	{ "a channel that is not there", 1, 24, 1, 8192, 0, 0x1001, false },
	{ "a channel number far out", 0x80000000, 24, 1, 8192, 0, 0x1001, false },
	{ "no range", 0, 24, 0, 8192, 0, 0x1001, false },
	{ "two ranges", 0, 24, 2, 8192, 0, 0x1001, false },
	{ "no pages", 0, 8, 1, 0, 0, 0x1001, false },
	{ "length nought", 0, 0, 1, 0, 0, 0x1001, false },
	{ "length not of pages", 0, 27, 1, 8192, 0, 0x1001, false },
	{ "half a page", 0, 24, 1, 6144, 0, 0x1001, false },
	{ "more bytes than pages", 0, 24, 1, 12288, 0, 0x1001, false },
	{ "begins late", 0, 24, 1, 8192, 8, 0x1001, false },
	{ "a page that is no RAM", 0, 24, 1, 8192, 0, 0x2000, false },
	{ "a page number that wraps", 0, 24, 1, 8192, 0, 0x10000000001001, false },
};

static void bad_gpadl(void **state)
{
	const struct bad_gpadl *row = *state;
	struct { struct vmbus_msg_gpadl_header m; le64_t pfn[2]; } message = {
		{ .header.type = le32_make(VMBUS_MSG_GPADL_HEADER), .gpadl = le32_make(7),
		  .range_length = le16_make(row->range_length), .range_count = le16_make(row->range_count),
		  .byte_count = le32_make(row->byte_count), .byte_offset = le32_make(row->byte_offset) },
		{ le64_make(0x1000), le64_make(row->pfn) },
	};
	const struct vmbus_msg_gpadl_created *reply;
	uint32_t relid;

	begin();
	relid = guest_connect(&g, V53, 1) + row->relid;
	message.m.relid = le32_make(relid);
	guest_send(&g, &message, sizeof(message));
	reply = guest_expect(&g, VMBUS_MSG_GPADL_CREATED);
	assert_int_equal(le32_get(reply->relid), relid);
	assert_int_equal(le32_get(reply->gpadl), 7);
	assert_int_equal(le32_get(reply->status) == 0, row->ok);
	end();
}

static void gpadl_handles(void **state)
{
	const uint64_t pfn[2] = { 0x1000, 0x1001 };
	uint32_t relid;

	begin();
	relid = guest_connect(&g, V53, 1);
	assert_int_equal(guest_gpadl(&g, relid, 7, pfn, 2), 0);
	assert_int_not_equal(guest_gpadl(&g, relid, 7, pfn, 2), 0);	/* in use */
	guest_teardown(&g, relid + 1, 7);				/* not that channel's */
	guest_expect(&g, VMBUS_MSG_GPADL_TORNDOWN);
	assert_int_not_equal(guest_gpadl(&g, relid, 7, pfn, 2), 0);
	guest_teardown(&g, relid, 7);
	guest_expect(&g, VMBUS_MSG_GPADL_TORNDOWN);
	assert_int_equal(guest_gpadl(&g, relid, 7, pfn, 2), 0);
	end();
}

static int status_of(const char *key)
{
	json_object *o = json_object_new_object(), *value;
	int n = -1;

	vmm_bus_describe(g.bus, o);
	if (json_object_object_get_ex(o, key, &value))
		n = json_object_get_int(value);
	json_object_put(o);
	return n;
}

/* A guest that begins many and ends none. */
static void partial_gpadls_are_bounded(void **state)
{
	struct vmbus_msg_gpadl_header m = {
		.header.type = le32_make(VMBUS_MSG_GPADL_HEADER),
		.range_length = le16_make(8 + 8 * 8190),
		.range_count = le16_make(1),
		.byte_count = le32_make(8190 * VMBUS_PAGE_SIZE),
	};
	const struct guest_post *p;
	unsigned refused = 0;

	begin();
	m.relid = le32_make(guest_connect(&g, V53, 1));
	for (uint32_t i = 0; i < 1000; i++) {
		m.gpadl = le32_make(i);
		guest_send(&g, &m, sizeof(m));
	}
	guest_send_type(&g, VMBUS_MSG_UNLOAD);
	while ((p = guest_next(&g)) && type_of(p->payload) == VMBUS_MSG_GPADL_CREATED)
		refused++;
	assert_in_range(refused, 900, 999);
	assert_int_equal(status_of("gpadls"), 0);
	assert_int_equal(status_of("gpadl_pages"), 0);
	end();
}

/* ---- channels ------------------------------------------------------------------------------------------ */

static const struct life {
	const char *name;
	unsigned pages;
	bool backwards;
} lives[] = {
	{ "small rings", 8, false },
	{ "rings in several messages", 64, false },
	{ "pages in disorder", 64, true },
};

static void life(void **state)
{
	const struct life *row = *state;
	struct guest_channel c;
	uint32_t relid;

	begin();
	relid = guest_connect(&g, V53, 1);
	for (unsigned round = 0; round < 2; round++) {	/* the driver goes and comes back */
		guest_channel_make(&g, &c, relid, row->pages, row->backwards);
		assert_int_equal(guest_open(&g, relid, c.handle, 1, row->pages / 2), 0);
		for (unsigned i = 0; i < 100; i++)
			guest_echo(&c, 0, 0);
		assert_int_equal(g.event_vp[relid], 1);
		guest_send_relid(&g, VMBUS_MSG_CLOSECHANNEL, relid);
		guest_teardown(&g, relid, c.handle);
		guest_expect(&g, VMBUS_MSG_GPADL_TORNDOWN);
		assert_int_equal(echo_open_count(&echo), 0);
		guest_channel_drop(&c);
	}
	assert_int_equal(status_of("gpadls"), 0);
	end();
}

static const struct bad_open {
	const char *name;
	uint32_t relid, handle;		/* plus those of the channel */
	uint32_t vp, downstream;
	bool refuse, ok;
} bad_opens[] = {
	{ "as it should be", 0, 0, 0, 4, false, true },
	{ "without interrupts", 0, 0, 0xffffffff, 4, false, true },
	{ "smallest upstream ring", 0, 0, 1, 2, false, true },
	{ "the device does not want", 0, 0, 0, 4, true, false },
	{ "no such channel", 1, 0, 0, 4, false, false },
	{ "a channel number far out", 0x7fffffff, 0, 0, 4, false, false },
	{ "no such GPADL", 0, 1, 0, 4, false, false },
	{ "no such processor", 0, 0, GUEST_VPS, 4, false, false },
	{ "upstream ring too small", 0, 0, 0, 1, false, false },
	{ "downstream ring too small", 0, 0, 0, 7, false, false },
	{ "downstream ring past the end", 0, 0, 0, 9, false, false },
	{ "downstream ring far out", 0, 0, 0, 0xffffffff, false, false },
};

static void bad_open(void **state)
{
	const struct bad_open *row = *state;
	struct guest_channel c;
	uint32_t relid, status;

	begin();
	relid = guest_connect(&g, V53, 1);
	guest_channel_make(&g, &c, relid, 8, false);
	echo.refuse = row->refuse;
	status = guest_open(&g, relid + row->relid, c.handle + row->handle, row->vp, row->downstream);
	assert_int_equal(status == 0, row->ok);
	assert_int_equal(echo_open_count(&echo), row->ok);
	/* Twice is refused, and a failure leaves nothing behind. */
	echo.refuse = false;
	assert_int_equal(guest_open(&g, relid, c.handle, 0, 4) == 0, !row->ok);
	assert_int_equal(echo_open_count(&echo), 1);
	guest_send_type(&g, VMBUS_MSG_UNLOAD);
	guest_expect(&g, VMBUS_MSG_UNLOAD_RESPONSE);
	guest_channel_drop(&c);
	end();
}

static void gpadl_of_two_channels(void **state)
{
	struct guest_channel c;
	uint32_t relid, id;

	begin();
	echo_init(&other, 2);
	assert_int_equal(vmm_bus_offer(g.bus, &other.offer, &id), 0);
	relid = guest_connect(&g, V53, 2);
	guest_channel_open(&g, &c, relid, 8);
	assert_int_not_equal(guest_open(&g, relid + 1, c.handle, 0, 4), 0);
	assert_int_equal(echo_open_count(&other), 0);
	guest_send_type(&g, VMBUS_MSG_UNLOAD);
	guest_expect(&g, VMBUS_MSG_UNLOAD_RESPONSE);
	guest_channel_drop(&c);
	end();
}

static void broken_ring(void **state)
{
	struct guest_channel c;
	uint32_t relid;

	begin();
	relid = guest_connect(&g, V53, 1);
	guest_channel_make(&g, &c, relid, 8, false);
	vmbus_store32(c.mapping.base + VMBUS_RING_WRITE_INDEX, 5);
	assert_int_not_equal(guest_open(&g, relid, c.handle, 0, 4), 0);
	vmbus_store32(c.mapping.base + VMBUS_RING_WRITE_INDEX, 0);
	assert_int_equal(guest_open(&g, relid, c.handle, 0, 4), 0);
	guest_echo(&c, 0, 0);
	vmbus_store32(c.mapping.base + VMBUS_RING_WRITE_INDEX, 5);
	guest_signal(&c);
	guest_send_relid(&g, VMBUS_MSG_CLOSECHANNEL, relid);
	guest_expect_silence(&g);
	assert_int_equal(echo_open_count(&echo), 0);
	guest_channel_drop(&c);
	end();
}

static void torn_down_while_open(void **state)
{
	struct guest_channel c;
	uint32_t relid;

	begin();
	relid = guest_connect(&g, V53, 1);
	guest_channel_open(&g, &c, relid, 8);
	guest_echo(&c, 0, 0);
	guest_teardown(&g, relid, c.handle);
	guest_expect(&g, VMBUS_MSG_GPADL_TORNDOWN);
	assert_int_equal(echo_open_count(&echo), 0);
	guest_channel_drop(&c);
	end();
}

static const struct leave {
	const char *name;
	enum { UNLOAD, CONTACT, RESET, FREE } how;
} leaves[] = {
	{ "unload", UNLOAD }, { "a new contact", CONTACT }, { "reset", RESET }, { "the end", FREE },
};

static void leave(void **state)
{
	const struct leave *row = *state;
	struct guest_channel c, sub;
	const struct vmbus_msg_offer *m;
	uint32_t relid, sub_relid;

	begin();
	relid = guest_connect(&g, V53, 1);
	guest_channel_open(&g, &c, relid, 8);
	guest_echo(&c, 'S', 1);
	m = guest_expect(&g, VMBUS_MSG_OFFERCHANNEL);
	sub_relid = le32_get(m->relid);
	guest_channel_open(&g, &sub, sub_relid, 8);
	guest_echo(&sub, 0, 0);
	assert_int_equal(echo_open_count(&echo), 2);
	if (row->how == UNLOAD) {
		guest_send_type(&g, VMBUS_MSG_UNLOAD);
		guest_expect(&g, VMBUS_MSG_UNLOAD_RESPONSE);
		guest_send_relid(&g, VMBUS_MSG_RELID_RELEASED, relid);
	} else if (row->how == CONTACT) {
		guest_contact_with(&g, V53, 0);
	} else if (row->how == RESET) {
		vmm_bus_reset(g.bus);
	}
	if (row->how != FREE) {
		assert_int_equal(echo_open_count(&echo), 0);
		assert_int_equal(status_of("gpadls"), 0);
		/* And all over again: the sub-channel is not offered unasked. */
		guest_channel_drop(&c);
		assert_int_equal(guest_connect(&g, V53, 1), relid);
		guest_channel_open(&g, &c, relid, 8);
		guest_echo(&c, 0, 0);
		guest_expect_silence(&g);
	}
	vmm_bus_reset(g.bus);
	guest_channel_drop(&c);
	guest_channel_drop(&sub);
	end();
}

/* ---- sub-channels -------------------------------------------------------------------------------------- */

/* The next offer must be of this sub-channel, with a number of its own. */
static uint32_t expect_subchannel(unsigned index, bool seen[8])
{
	const struct vmbus_msg_offer *m = guest_expect(&g, VMBUS_MSG_OFFERCHANNEL);
	uint32_t relid = le32_get(m->relid);

	assert_memory_equal(m->class_guid, echo.offer.class_guid.b, 16);
	assert_memory_equal(m->instance_guid, echo.offer.instance_guid.b, 16);
	assert_int_equal(le16_get(m->subchannel_index), index);
	assert_in_range(relid, 1, 7);
	assert_false(seen[relid]);
	seen[relid] = true;
	return relid;
}

static void subchannels(void **state)
{
	struct guest_channel c, sub[ECHO_CHANNELS];
	uint32_t relid, sub_relid[ECHO_CHANNELS];
	bool seen[8] = { false };

	begin();
	relid = guest_connect(&g, V53, 1);
	seen[relid] = true;
	guest_channel_open(&g, &c, relid, 8);
	guest_echo(&c, 'S', 1);
	sub_relid[1] = expect_subchannel(1, seen);
	guest_echo(&c, 'S', 1);			/* is there already */
	guest_expect_silence(&g);
	guest_echo(&c, 'S', 200);		/* more than the device has */
	for (unsigned i = 2; i < ECHO_CHANNELS; i++)
		sub_relid[i] = expect_subchannel(i, seen);
	guest_expect_silence(&g);
	for (unsigned i = 1; i < ECHO_CHANNELS; i++) {
		guest_channel_open(&g, &sub[i], sub_relid[i], 8);
		guest_echo(&sub[i], 0, 0);
		assert_int_equal(echo.channel[i].open.subchannel, i);
	}
	guest_send_relid(&g, VMBUS_MSG_CLOSECHANNEL, sub[2].relid);
	guest_expect_silence(&g);
	assert_int_equal(echo_open_count(&echo), 3);
	guest_echo(&sub[3], 0, 0);
	vmm_bus_reset(g.bus);
	guest_channel_drop(&c);
	for (unsigned i = 1; i < ECHO_CHANNELS; i++)
		guest_channel_drop(&sub[i]);
	end();
}

/* Sub-channels of a primary that is not open cannot be. */
static void subchannel_alone(void **state)
{
	struct guest_channel c, sub;
	bool seen[8] = { false };

	begin();
	guest_channel_open(&g, &c, guest_connect(&g, V53, 1), 8);
	guest_echo(&c, 'S', 1);
	guest_channel_make(&g, &sub, expect_subchannel(1, seen), 8, false);
	guest_teardown(&g, c.relid, c.handle);
	guest_expect(&g, VMBUS_MSG_RESCIND);
	guest_expect(&g, VMBUS_MSG_GPADL_TORNDOWN);
	assert_int_not_equal(guest_open(&g, sub.relid, sub.handle, 0, 4), 0);
	assert_int_equal(echo_open_count(&echo), 0);
	guest_channel_drop(&c);
	guest_channel_drop(&sub);
	end();
}

/* The driver goes: its sub-channels are rescinded; it comes back and gets others. */
static void subchannels_end_with_the_primary(void **state)
{
	const struct vmbus_msg_offer *offer;
	const struct vmbus_msg_relid *m;
	struct guest_channel c, sub;
	uint32_t relid, first;

	begin();
	relid = guest_connect(&g, V53, 1);
	guest_channel_open(&g, &c, relid, 8);
	guest_echo(&c, 'S', 1);
	offer = guest_expect(&g, VMBUS_MSG_OFFERCHANNEL);
	first = le32_get(offer->relid);
	guest_channel_open(&g, &sub, first, 8);
	guest_send_relid(&g, VMBUS_MSG_CLOSECHANNEL, relid);
	m = guest_expect(&g, VMBUS_MSG_RESCIND);
	assert_int_equal(le32_get(m->relid), first);
	assert_int_equal(echo_open_count(&echo), 0);
	assert_int_not_equal(guest_open(&g, first, sub.handle, 0, 4), 0);
	guest_teardown(&g, relid, c.handle);
	guest_expect(&g, VMBUS_MSG_GPADL_TORNDOWN);
	guest_channel_drop(&c);
	guest_channel_open(&g, &c, relid, 8);
	guest_echo(&c, 'S', 1);
	offer = guest_expect(&g, VMBUS_MSG_OFFERCHANNEL);
	assert_int_equal(le16_get(offer->subchannel_index), 1);
	assert_int_not_equal(le32_get(offer->relid), first);	/* not released yet */
	assert_int_equal(status_of("gpadls"), 2);
	guest_send_relid(&g, VMBUS_MSG_RELID_RELEASED, first);
	guest_expect_silence(&g);
	assert_int_equal(status_of("gpadls"), 1);
	vmm_bus_reset(g.bus);
	guest_channel_drop(&c);
	guest_channel_drop(&sub);
	end();
}

/* ---- rescind ------------------------------------------------------------------------------------------- */

/* As a driver does: closes, and releases each channel. */
static void *obey(void *arg)
{
	unsigned *count = arg;
	const struct guest_post *p;

	for (; *count > 0 && (p = guest_next(&g)); --*count) {
		uint32_t relid = le32_get(((const struct vmbus_msg_relid *)(const void *)p->payload)->relid);

		if (type_of(p->payload) != VMBUS_MSG_RESCIND)
			break;
		guest_send_relid(&g, VMBUS_MSG_CLOSECHANNEL, relid);
		guest_send_relid(&g, VMBUS_MSG_RELID_RELEASED, relid);
	}
	return NULL;
}

static void open_both(struct guest_channel *c, struct guest_channel *sub)
{
	const struct vmbus_msg_offer *m;

	guest_channel_open(&g, c, guest_connect(&g, V53, 1), 8);
	guest_echo(c, 'S', 1);
	m = guest_expect(&g, VMBUS_MSG_OFFERCHANNEL);
	guest_channel_open(&g, sub, le32_get(m->relid), 8);
	guest_echo(sub, 0, 0);
}

static void rescind(void **state)
{
	struct guest_channel c, sub;
	unsigned left = 2;
	pthread_t driver;

	begin();
	open_both(&c, &sub);
	assert_int_equal(pthread_create(&driver, NULL, obey, &left), 0);
	assert_int_equal(vmm_bus_rescind(g.bus, echo_id, 3000), 0);
	pthread_join(driver, NULL);
	assert_int_equal(left, 0);
	assert_int_equal(echo_open_count(&echo), 0);
	assert_int_equal(status_of("gpadls"), 0);
	assert_int_equal(vmm_bus_rescind(g.bus, echo_id, 3000), -ENOENT);
	/* The same device again. */
	assert_int_equal(vmm_bus_offer(g.bus, &echo.offer, &echo_id), 0);
	guest_expect(&g, VMBUS_MSG_OFFERCHANNEL);
	guest_channel_drop(&c);
	guest_channel_drop(&sub);
	end();
}

static void rescind_without_answer(void **state)
{
	const struct vmbus_msg_offer *offer;
	struct guest_channel c, sub;
	const struct vmbus_msg_relid *m;

	begin();
	open_both(&c, &sub);
	assert_int_equal(vmm_bus_rescind(g.bus, echo_id, 20), -ETIMEDOUT);
	assert_int_equal(echo_open_count(&echo), 0);
	m = guest_expect(&g, VMBUS_MSG_RESCIND);	/* sub-channels first */
	assert_int_equal(le32_get(m->relid), sub.relid);
	m = guest_expect(&g, VMBUS_MSG_RESCIND);
	assert_int_equal(le32_get(m->relid), c.relid);
	/* Late, and in any order: polite answers, numbers taken until released. */
	assert_int_not_equal(guest_open(&g, c.relid, c.handle, 0, 4), 0);
	guest_send_relid(&g, VMBUS_MSG_CLOSECHANNEL, c.relid);
	guest_teardown(&g, c.relid, c.handle);
	guest_expect(&g, VMBUS_MSG_GPADL_TORNDOWN);
	assert_int_equal(vmm_bus_offer(g.bus, &echo.offer, &echo_id), 0);
	offer = guest_expect(&g, VMBUS_MSG_OFFERCHANNEL);
	assert_true(le32_get(offer->relid) != c.relid && le32_get(offer->relid) != sub.relid);
	guest_send_relid(&g, VMBUS_MSG_RELID_RELEASED, c.relid);
	guest_send_relid(&g, VMBUS_MSG_RELID_RELEASED, sub.relid);
	guest_send_relid(&g, VMBUS_MSG_RELID_RELEASED, le32_get(offer->relid));	/* nobody asked for that */
	guest_expect_silence(&g);
	assert_int_equal(status_of("gpadls"), 0);
	guest_channel_drop(&c);
	guest_channel_drop(&sub);
	end();
}

static void rescind_unseen(void **state)
{
	begin();
	assert_int_equal(vmm_bus_rescind(g.bus, echo_id, 3000), 0);	/* no guest, nobody to ask */
	guest_connect(&g, V53, 0);
	end();
}

/* ---- another processor --------------------------------------------------------------------------------- */

static void send_modify(uint32_t relid, uint32_t vp)
{
	struct vmbus_msg_modify m = {
		.header.type = le32_make(VMBUS_MSG_MODIFYCHANNEL),
		.relid = le32_make(relid),
		.target_vp = le32_make(vp),
	};

	guest_send(&g, &m, sizeof(m));
}

static const struct modify {
	const char *name;
	uint32_t version, relid, vp;
	bool answered, ok;
} modifies[] = {
	{ "5.3", V53, 0, 0, true, true },
	{ "5.2 has no answer", VMBUS_VERSION(5, 2), 0, 0, false, true },
	{ "4.1 has no answer", VMBUS_VERSION(4, 1), 0, 0, false, true },
	{ "4.0 does not know it", VMBUS_VERSION(4, 0), 0, 0, false, false },
	{ "no such processor", V53, 0, GUEST_VPS, true, false },
	{ "no such channel", V53, 9, 0, true, false },
};

static void modify(void **state)
{
	const struct modify *row = *state;
	struct guest_channel c;
	uint32_t relid;

	begin();
	relid = guest_connect(&g, row->version, 1);
	guest_channel_open(&g, &c, relid, 8);
	guest_echo(&c, 0, 0);
	assert_int_equal(g.event_vp[relid], 1);
	send_modify(relid + row->relid, row->vp);
	if (row->answered) {
		const struct vmbus_msg_modify_response *m = guest_expect(&g, VMBUS_MSG_MODIFYCHANNEL_RESPONSE);

		assert_int_equal(le32_get(m->relid), relid + row->relid);
		assert_int_equal(le32_get(m->status) == 0, row->ok);
	}
	guest_expect_silence(&g);
	guest_echo(&c, 0, 0);
	assert_int_equal(g.event_vp[relid], row->ok ? 0 : 1);
	vmm_bus_reset(g.bus);
	guest_channel_drop(&c);
	end();
}

/* ---- a processor never waits ---------------------------------------------------------------------------- */

static void set_stall(bool stall)
{
	pthread_mutex_lock(&echo.lock);
	echo.stall = stall;
	pthread_cond_broadcast(&echo.changed);
	pthread_mutex_unlock(&echo.lock);
}

static void full_inbox(void **state)
{
	struct vmbus_msg_open m = {
		.header.type = le32_make(VMBUS_MSG_OPENCHANNEL), .downstream_page = le32_make(4),
	};
	struct vmbus_msg_header nothing = { .type = le32_make(99) };
	struct guest_channel c;
	unsigned accepted = 0;

	begin();
	m.relid = le32_make(guest_connect(&g, V53, 1));
	guest_channel_make(&g, &c, le32_get(m.relid), 8, false);
	m.gpadl = le32_make(c.handle);
	set_stall(true);
	guest_send(&g, &m, sizeof(m));
	while (accepted < 10000 && vmm_bus_message(g.bus, 4, &nothing, sizeof(nothing)) == 0)
		accepted++;
	assert_in_range(accepted, 300, 9999);
	assert_int_equal(vmm_bus_message(g.bus, 4, &nothing, sizeof(nothing)), VMM_BUS_BUSY);
	assert_int_equal(status_of("messages_refused"), 2);	/* waits for nobody, either */
	set_stall(false);
	guest_expect(&g, VMBUS_MSG_OPEN_RESULT);
	guest_expect_silence(&g);
	guest_echo(&c, 0, 0);
	vmm_bus_reset(g.bus);
	guest_channel_drop(&c);
	end();
}

static void describe(void **state)
{
	json_object *o = json_object_new_object(), *channels, *channel, *value;
	struct guest_channel c, sub;

	begin();
	open_both(&c, &sub);
	vmm_bus_describe(g.bus, o);
	assert_true(json_object_object_get_ex(o, "version", &value));
	assert_string_equal(json_object_get_string(value), "5.3");
	assert_true(json_object_object_get_ex(o, "channels", &channels));
	assert_int_equal(json_object_array_length(channels), 2);
	channel = json_object_array_get_idx(channels, 0);
	assert_true(json_object_object_get_ex(channel, "name", &value));
	assert_string_equal(json_object_get_string(value), "echo");
	assert_true(json_object_object_get_ex(channel, "state", &value));
	assert_string_equal(json_object_get_string(value), "open");
	assert_true(json_object_object_get_ex(channel, "packets_in", &value));
	assert_int_equal(json_object_get_int(value), 1);
	assert_true(json_object_object_get_ex(channel, "vp", &value));
	assert_int_equal(json_object_get_int(value), 1);
	json_object_put(o);
	vmm_bus_reset(g.bus);
	guest_channel_drop(&c);
	guest_channel_drop(&sub);
	end();
}

/* ---- hostile ------------------------------------------------------------------------------------------- */

static uint32_t small_or_wild(struct rng *rng)
{
	return rng_chance(rng, 1, 20) ? (uint32_t)rng_u64(rng) : (uint32_t)rng_between(rng, 1, 3);
}

static void put32(uint8_t *message, unsigned at, uint32_t value)
{
	le32_t word = le32_make(value);

	memcpy(message + at, &word, sizeof(word));
}

static void make_hostile_gpadl(struct rng *rng, uint8_t *message, unsigned head)
{
	unsigned pages = (unsigned)rng_between(rng, 0, 20);

	if (head == sizeof(struct vmbus_msg_gpadl_header)) {
		put32(message, 16, 1u << 16 | (8 + 8 * pages));
		put32(message, 20, pages * VMBUS_PAGE_SIZE);
		put32(message, 24, rng_chance(rng, 1, 20));
	}
	for (unsigned i = 0; i < 20; i++) {
		uint64_t page = rng_below(rng, rng_chance(rng, 1, 99) ? 999 : 512);
		le64_t pfn = le64_make(test_mem_pfn(&g.mem, (unsigned)page));

		memcpy(message + head + i * sizeof(pfn), &pfn, sizeof(pfn));
	}
}

/* Numbers that are often right, so that some messages get far. */
static unsigned make_hostile(struct rng *rng, uint8_t *message)
{
	static const uint8_t types[] = { 5, 5, 5, 5, 7, 8, 8, 8, 9, 9, 11, 13, 22 };
	uint32_t type = rng_chance(rng, 1, 30) ? (uint32_t)rng_below(rng, 30) : types[rng_below(rng, sizeof(types))];

	for (unsigned i = 0; i < VMBUS_MESSAGE_MAX; i += 4)
		put32(message, i, small_or_wild(rng));
	put32(message, 0, type);
	if (type == VMBUS_MSG_OPENCHANNEL)
		put32(message, 20, (uint32_t)rng_below(rng, GUEST_VPS + 1));
	if (type == VMBUS_MSG_GPADL_HEADER)
		make_hostile_gpadl(rng, message, sizeof(struct vmbus_msg_gpadl_header));
	if (type == VMBUS_MSG_GPADL_BODY)
		make_hostile_gpadl(rng, message, sizeof(struct vmbus_msg_gpadl_body));
	return rng_chance(rng, 1, 10) ? (unsigned)rng_between(rng, 8, VMBUS_MESSAGE_MAX) : VMBUS_MESSAGE_MAX;
}

/* Not waiting for any answer. */
static void say_hello(void)
{
	struct vmbus_msg_initiate_contact m = {
		.header.type = le32_make(VMBUS_MSG_INITIATE_CONTACT), .version = le32_make(V53),
	};

	m.u.v5.sint = VMBUS_SINT;
	guest_send(&g, &m, sizeof(m));
	guest_send_type(&g, VMBUS_MSG_REQUESTOFFERS);
}

/* All of that has been handled. */
static void drain(void)
{
	const struct guest_post *p;

	guest_send_type(&g, VMBUS_MSG_UNLOAD);
	while ((p = guest_next(&g)) && type_of(p->payload) != VMBUS_MSG_UNLOAD_RESPONSE)
		;
	assert_non_null(p);
}

static void hostile_messages(void **state)
{
	uint8_t message[VMBUS_MESSAGE_MAX];
	struct guest_channel c;
	struct rng rng;
	uint32_t id;

	rng_init(&rng, test_seed("vmm_bus hostile messages"));
	begin();
	echo_init(&other, 2);
	assert_int_equal(vmm_bus_offer(g.bus, &other.offer, &id), 0);
	for (unsigned i = 0; i < 2000; i++) {
		if (i % 50 == 0)
			say_hello();
		guest_send(&g, message, make_hostile(&rng, message));
		if (i % 200 == 199)
			drain();
		if (i % 500 == 499)
			vmm_bus_reset(g.bus);	/* amid of it */
	}
	assert_true(echo.ever_open + other.ever_open > 0);
	/* Whatever that was, the next guest gets on. */
	vmm_bus_reset(g.bus);
	assert_int_equal(status_of("gpadls"), 0);
	g.taken = g.posted;
	memset(g.mem.base, 0, (size_t)g.mem.pages * VMBUS_PAGE_SIZE);
	guest_channel_open(&g, &c, guest_connect(&g, V53, 2), 8);
	guest_echo(&c, 0, 0);
	vmm_bus_reset(g.bus);
	guest_channel_drop(&c);
	end();
	assert_int_equal(echo_open_count(&other), 0);
	assert_false(other.disorder);
}

static const struct single_row singles[] = {
	{ "connection ids and lengths", connection_ids },
	{ "offers", offers },
	{ "offered later", offered_later },
	{ "short messages", short_messages },
	{ "nothing before contact", nothing_before_contact },
	{ "handles of GPADLs", gpadl_handles },
	{ "partial GPADLs are bounded", partial_gpadls_are_bounded },
	{ "one GPADL for two channels", gpadl_of_two_channels },
	{ "a broken ring", broken_ring },
	{ "torn down while open", torn_down_while_open },
	{ "sub-channels", subchannels },
	{ "a sub-channel without its primary", subchannel_alone },
	{ "sub-channels end with their primary", subchannels_end_with_the_primary },
	{ "rescind", rescind },
	{ "rescind without an answer", rescind_without_answer },
	{ "rescind what no guest has seen", rescind_unseen },
	{ "a full inbox", full_inbox },
	{ "describe", describe },
	{ "hostile messages", hostile_messages },
};

int main(void)
{
	return ROWS_RUN(contacts, contact) + ROWS_RUN(bad_gpadls, bad_gpadl) + ROWS_RUN(lives, life) +
	       ROWS_RUN(bad_opens, bad_open) + ROWS_RUN(leaves, leave) + ROWS_RUN(modifies, modify) +
	       ROWS_RUN(singles, rows_single);
}
