/* SPDX-License-Identifier: BSD-2-Clause */
/* Messages and channels, from the guest's side. */
#include "tests/hostile_guest/fibers.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "tests/hostile_guest/session_int.h"

/* ---- from the bus, on its fiber --------------------------------------------------------------------------- */

static struct channel *by_relid(struct session *s, uint32_t relid)
{
	for (unsigned i = 0; i < CHANNELS; i++)
		if (s->channel[i].offered && s->channel[i].relid == relid)
			return &s->channel[i];
	return NULL;
}

static struct channel *by_handle(struct session *s, uint32_t handle)
{
	for (unsigned i = 0; i < CHANNELS; i++)
		if (s->channel[i].handle == handle)
			return &s->channel[i];
	return NULL;
}

static uint32_t word(const uint8_t *p, unsigned at)
{
	le32_t v;

	memcpy(&v, p + at, sizeof(v));
	return le32_get(v);
}

static void offered(struct session *s, const uint8_t *p)
{
	struct vmbus_msg_offer m;
	struct channel *c;

	memcpy(&m, p, sizeof(m));
	session_check(le16_get(m.subchannel_index) < CHANNELS, "an offer of sub-channel %u",
		      le16_get(m.subchannel_index));
	session_check(le32_get(m.relid) > 0 && le32_get(m.relid) < VMBUS_CHANNELS_MAX, "an offer of channel %u",
		      le32_get(m.relid));
	session_check(!s->calm || !by_relid(s, le32_get(m.relid)), "channel %u is offered twice", le32_get(m.relid));
	c = &s->channel[le16_get(m.subchannel_index)];
	/* A sub-channel that replaces a rescinded one of the same number: we may still owe the answer for the old. */
	if (c->offered && s->calm)
		return;
	c->offered = true;
	c->rescinded = false;
	c->relid = le32_get(m.relid);
}

static void posted(void *ctx, unsigned vp, const void *payload, unsigned len)
{
	struct session *s = ctx;
	const uint8_t *p = payload;
	struct channel *c;

	session_check(vp < VPS && len >= 8 && len <= VMBUS_MESSAGE_MAX, "a message of %u bytes to processor %u", len,
		      vp);
	for (unsigned i = 0; i + 4 <= len; i += 4)
		session_check(word(p, i) != 0xbebebebe, "byte %u of a message was never written", i);
	switch (word(p, 0)) {
	case VMBUS_MSG_OFFERCHANNEL:
		session_check(len == sizeof(struct vmbus_msg_offer), "an offer of %u bytes", len);
		offered(s, p);
		break;
	case VMBUS_MSG_ALLOFFERS_DELIVERED:
		s->offers_delivered = true;
		break;
	case VMBUS_MSG_RESCIND:
		c = by_relid(s, word(p, 8));
		if (c)
			c->rescinded = true;
		break;
	case VMBUS_MSG_OPEN_RESULT:
		c = by_relid(s, word(p, 8));
		if (c) {
			c->answered = true;
			c->refused = word(p, 16) != 0;
		}
		break;
	case VMBUS_MSG_GPADL_CREATED:
		c = by_handle(s, word(p, 12));
		if (c)
			c->made = word(p, 16) == 0;
		break;
	case VMBUS_MSG_GPADL_TORNDOWN:
		c = by_handle(s, word(p, 8));
		if (c)
			c->torn = true;
		break;
	case VMBUS_MSG_VERSION_RESPONSE:
		s->connected = p[8] != 0;
		break;
	case VMBUS_MSG_UNLOAD_RESPONSE:
		s->unloading = false;
		break;
	case VMBUS_MSG_MODIFYCHANNEL_RESPONSE:
		break;
	default:
		session_fail("a message of type %u from the host", word(p, 0));
	}
}

static void set_event(void *ctx, unsigned vp, unsigned flag)
{
	session_check(vp < VPS && flag > 0 && flag < VMBUS_CHANNELS_MAX, "event %u for processor %u", flag, vp);
}

static int bind_signal(void *ctx, uint32_t connection_id, int event_fd)
{
	struct session *s = ctx;
	struct channel *c = by_relid(s, connection_id - 0x10000);

	if (c)
		c->signal_fd = event_fd;
	return 0;
}

static void unbind_signal(void *ctx, uint32_t connection_id, int event_fd)
{
	struct session *s = ctx;

	for (unsigned i = 0; i < CHANNELS; i++)
		if (s->channel[i].signal_fd == event_fd)
			s->channel[i].signal_fd = -1;
}

static void contact(void *ctx, uint32_t version)
{
}

const struct vmm_bus_ops wires_ops = {
	.post = posted, .set_event = set_event, .bind_signal = bind_signal, .unbind_signal = unbind_signal,
	.contact = contact,
};

/* ---- to the bus --------------------------------------------------------------------------------------------- */

void wires_post(struct session *s, const void *message, unsigned len)
{
	uint8_t copy[VMBUS_MESSAGE_MAX];

	memcpy(copy, message, len);
	if (!s->calm && input_chance(s->in, 8)) {
		uint64_t value = input_number(s->in);

		memcpy(copy + input_below(s->in, len / 4) * 4, &value, 4);
		session_count.mutations++;
		if (input_chance(s->in, 4))
			len = 8 + input_below(s->in, len - 7);
	}
	/* The bus may have to wait for a disk. */
	while (vmm_bus_message(s->bus, VMBUS_CONNECTION_NEW, copy, len) == VMM_BUS_BUSY) {
		if (!session_idle(s))
			fibers_expire();
		fibers_settle();
	}
}

static void post_words(struct session *s, uint32_t type, uint32_t a, uint32_t b)
{
	le32_t m[4] = { le32_make(type), le32_make(0), le32_make(a), le32_make(b) };

	wires_post(s, m, sizeof(m));
}

void wires_contact(struct session *s)
{
	static const uint32_t versions[] = { VMBUS_VERSION(5, 3), VMBUS_VERSION(5, 2), VMBUS_VERSION(4, 1),
					     VMBUS_VERSION(3, 0) };
	struct vmbus_msg_initiate_contact m = { .header.type = le32_make(VMBUS_MSG_INITIATE_CONTACT) };

	for (unsigned i = 0; i < CHANNELS; i++)
		session_check(!s->calm || !s->channel[i].offered, "calm guests do not connect twice");
	m.version = le32_make(versions[input_below(s->in, 4)]);
	m.target_vp = le32_make(input_below(s->in, VPS));
	m.u.v5.sint = VMBUS_SINT;
	wires_post(s, &m, sizeof(m));
	post_words(s, VMBUS_MSG_REQUESTOFFERS, 0, 0);
	fibers_settle();
	session_check(!s->calm || s->offers_delivered, "a guest that keeps the rules gets no offers");
}

/* ---- channels ----------------------------------------------------------------------------------------------- */

static void signal_host(void *ctx)
{
	struct channel *c = ctx;
	uint64_t one = 1;

	if (c->signal_fd >= 0)
		session_check(write(c->signal_fd, &one, sizeof(one)) == (ssize_t)sizeof(one), "the eventfd is gone");
}

static const struct vmbus_channel_ops channel_ops = { .signal = signal_host };

static void make_gpadl(struct session *s, struct channel *c, const uint64_t *pfn, unsigned count)
{
	struct { struct vmbus_msg_gpadl_header head; le64_t pfn[VMBUS_GPADL_HEADER_PFNS]; } m = {
		.head = {
			.header.type = le32_make(VMBUS_MSG_GPADL_HEADER),
			.relid = le32_make(c->relid),
			.gpadl = le32_make(c->handle),
			.range_length = le16_make((uint16_t)(8 + 8 * count)),
			.range_count = le16_make(1),
			.byte_count = le32_make(count * VMBUS_PAGE_SIZE),
		},
	};

	for (unsigned i = 0; i < count; i++)
		m.pfn[i] = le64_make(pfn[i]);
	wires_post(s, &m, (unsigned)sizeof(m.head) + count * 8);
}

/* Our end, and the rings as they shall be. */
static void make_end(struct session *s, struct channel *c, unsigned first)
{
	unsigned count = c->up + c->down;
	bool backwards = input_chance(s->in, 6);
	uint64_t pfn[RING_PAGES];

	for (unsigned i = 0; i < count; i++)
		pfn[i] = memory_pfn(first + (backwards ? count - 1 - i : i));
	session_check(vmbus_gpadl_new(&guest_memory.mem, pfn, count, &c->pages) == 0 &&
		      vmbus_gpadl_map(c->pages, 0, count, &c->mapping) == 0, "our own view of the rings");
	memset(c->mapping.base, 0, c->mapping.len);
	memset(c->mapping.base + (size_t)(c->up + 1) * VMBUS_PAGE_SIZE, NOT_WRITTEN,
	       (size_t)(c->down - 1) * VMBUS_PAGE_SIZE);
	c->end = (struct vmbus_channel){ .mem = &guest_memory.mem, .ops = &channel_ops, .ctx = c, .event_fd = -1 };
	session_check(vmbus_channel_init(&c->end, &c->mapping, c->up, false) == 0, "our own end of the rings");
	make_gpadl(s, c, pfn, count);
}

bool wires_open(struct session *s, unsigned channel)
{
	struct channel *c = &s->channel[channel];
	struct vmbus_msg_open m = {
		.header.type = le32_make(VMBUS_MSG_OPENCHANNEL), .relid = le32_make(c->relid), .open_id = le32_make(7),
	};
	uint32_t hostility = hostile_fetch.hostility;

	if (!c->offered || c->rescinded || c->open)
		return false;
	hostile_fetch.hostility = 0;
	c->handle = ++s->last_handle;
	c->up = 2 + input_below(s->in, 3);
	c->down = 2 + input_below(s->in, 3);
	c->made = c->answered = c->torn = c->lost = false;
	make_end(s, c, channel * RING_PAGES);
	hostile_fetch.hostility = hostility;
	m.gpadl = le32_make(c->handle);
	m.target_vp = le32_make(input_below(s->in, VPS));
	m.downstream_page = le32_make(c->up);
	fibers_settle();
	wires_post(s, &m, sizeof(m));
	fibers_settle();
	c->open = c->answered && !c->refused;
	session_check(c->open || !s->calm || c->rescinded, "a guest that keeps the rules cannot open channel %u",
		      channel);
	session_count.channels_opened += c->open;
	if (!c->open)
		wires_close(s, channel, true);
	return c->open;
}

void wires_drop(struct session *s, unsigned channel)
{
	struct channel *c = &s->channel[channel];

	if (c->pages) {
		vmbus_mapping_release(&c->mapping);
		vmbus_gpadl_free(c->pages);
		c->pages = NULL;
	}
	c->open = false;
	packets_gone(s, channel);
}

void wires_close(struct session *s, unsigned channel, bool properly)
{
	struct channel *c = &s->channel[channel];

	/* The host closes sub-channels with their primary, and rescinds them. */
	for (unsigned i = 1; channel == 0 && s->calm && i < CHANNELS; i++)
		if (s->channel[i].open)
			wires_close(s, i, true);
	if (properly)
		post_words(s, VMBUS_MSG_CLOSECHANNEL, c->relid, 0);
	if (input_chance(s->in, 2))
		fibers_turn();
	post_words(s, VMBUS_MSG_GPADL_TEARDOWN, c->relid, c->handle);
	fibers_settle();
	/* Devices may hang for a while, and then the bus does; it is a guest's right to wait. */
	for (unsigned i = 0; s->calm && !c->torn && i < 10000; i++) {
		if (!session_idle(s) && !fibers_expire())
			break;
		fibers_settle();
	}
	session_check(c->torn || !s->calm, "the rings of channel %u are not given back", channel);
	if (channel == 0)
		s->ready = false;
	wires_drop(s, channel);
}

void wires_housekeeping(struct session *s)
{
	for (unsigned i = CHANNELS; i-- > 0;) {
		struct channel *c = &s->channel[i];

		if (!c->offered || !c->rescinded)
			continue;
		if (c->open)
			wires_close(s, i, true);
		post_words(s, VMBUS_MSG_RELID_RELEASED, c->relid, 0);
		c->offered = c->rescinded = false;
		fibers_settle();
	}
}

void wires_unload(struct session *s)
{
	s->unloading = true;
	post_words(s, VMBUS_MSG_UNLOAD, 0, 0);
	fibers_settle();
	for (unsigned i = 0; s->calm && s->unloading && i < 10000 && (session_idle(s) || fibers_expire()); i++)
		fibers_settle();
	session_check(!s->calm || !s->unloading, "no answer to UNLOAD");
	for (unsigned i = 0; i < CHANNELS; i++) {
		wires_drop(s, i);
		s->channel[i].offered = s->channel[i].rescinded = false;
	}
	s->connected = s->offers_delivered = s->ready = false;
}

/* ---- what no guest says ------------------------------------------------------------------------------------------ */

void wires_mutated(struct session *s)
{
	uint8_t m[VMBUS_MESSAGE_MAX] = { 0 };
	unsigned len = input_below(s->in, sizeof(m) + 1), words = 2 + input_below(s->in, 6);
	uint32_t type = input_chance(s->in, 8) ? (uint32_t)input_number(s->in) : 1 + input_below(s->in, 25);

	memcpy(m, &type, sizeof(type));
	for (unsigned i = 0; i < words; i++) {
		const struct channel *c = &s->channel[input_below(s->in, CHANNELS)];
		uint64_t value = input_chance(s->in, 3) ? input_number(s->in) :
				 input_chance(s->in, 2) ? c->relid : c->handle;

		memcpy(m + 8 + 4 * (i < 4 ? i : input_below(s->in, 57)), &value, 4);
	}
	session_count.mutations++;
	vmm_bus_message(s->bus, input_chance(s->in, 8) ? (uint32_t)input_number(s->in) : VMBUS_CONNECTION_NEW, m,
			input_chance(s->in, 2) ? len : (unsigned)sizeof(m));
}
