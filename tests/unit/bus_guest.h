/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_BUS_GUEST_H
#define SPINDLE_TESTS_BUS_GUEST_H
/*
 * A guest without a machine: memory in a memfd, messages by calls, signals by eventfds. And a device that sends back
 * what it gets.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "tests/support/ring_pair.h"
#include "tests/unit/rows.h"
#include "vmbus/vmbus_wire.h"
#include "vmm/vmbus_server.h"

#define GUEST_VPS      2u
#define GUEST_POSTS    4096u
#define GUEST_PATIENCE 3000	/* ms */

/* ---- the device -------------------------------------------------------------------------------------- */

#define ECHO_CHANNELS 4u

struct echo_channel {
	struct vmbus_channel *ch;	/* NULL: closed */
	struct vmbus_open open;
	pthread_t thread;
	int stop_fd;
};

struct echo {
	struct vmbus_offer offer;
	struct echo_channel channel[ECHO_CHANNELS];
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool refuse;			/* ->open */
	bool stall;			/* ->open waits while it is set: lock */
	unsigned open_count, ever_open;	/* lock */
	bool disorder;			/* a primary was closed before its sub-channels */
};

/* A packet whose first byte is 'S' asks for so many sub-channels as the second says. */
static void echo_work(struct echo_channel *e)
{
	_Alignas(8) uint8_t buf[4096];
	struct vmbus_packet p;

	while (vmbus_channel_receive(e->ch, buf, sizeof(buf), &p) == 1) {
		unsigned wanted = p.payload_len >= 2 && p.payload[0] == 'S' ? p.payload[1] : 0;

		p.type = VMBUS_PACKET_COMPLETION;
		if (vmbus_channel_send(e->ch, &p) < 0)
			break;
		if (wanted) {
			vmbus_channel_flush(e->ch);
			e->open.bus_ops->offer_subchannels(e->open.bus, wanted);
		}
	}
}

static void *echo_thread(void *arg)
{
	struct echo_channel *e = arg;
	struct pollfd p[2] = { { .fd = e->ch->event_fd, .events = POLLIN }, { .fd = e->stop_fd, .events = POLLIN } };

	while (poll(p, 2, 0) >= 0 && !p[1].revents) {
		echo_work(e);
		if (e->ch->in.broken || e->ch->out.broken) {
			poll(&p[1], 1, -1);
			break;
		}
		if (vmbus_channel_sleep(e->ch)) {
			poll(p, 2, -1);
			vmbus_channel_wake(e->ch);
		}
	}
	return NULL;
}

static int echo_open(void *device, struct vmbus_channel *ch, const struct vmbus_open *open)
{
	struct echo *echo = device;
	struct echo_channel *e = &echo->channel[open->subchannel];

	if (echo->refuse)
		return -EBUSY;
	pthread_mutex_lock(&echo->lock);
	while (echo->stall)
		pthread_cond_wait(&echo->changed, &echo->lock);
	e->ch = ch;
	e->open = *open;
	e->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (e->stop_fd < 0 || pthread_create(&e->thread, NULL, echo_thread, e) != 0)
		abort();
	echo->open_count++;
	echo->ever_open++;
	pthread_cond_broadcast(&echo->changed);
	pthread_mutex_unlock(&echo->lock);
	return 0;
}

static void echo_close(void *device, struct vmbus_channel *ch)
{
	struct echo *echo = device;
	uint64_t one = 1;

	for (unsigned i = 0; i < ECHO_CHANNELS; i++) {
		struct echo_channel *e = &echo->channel[i];

		if (e->ch != ch)
			continue;
		if (write(e->stop_fd, &one, sizeof(one)) < 0)
			abort();
		pthread_join(e->thread, NULL);
		close(e->stop_fd);
		pthread_mutex_lock(&echo->lock);
		e->ch = NULL;
		echo->open_count--;
		echo->disorder |= i == 0 && echo->open_count > 0;
		pthread_mutex_unlock(&echo->lock);
	}
}

static const struct vmbus_device_ops echo_ops = { .open = echo_open, .close = echo_close };

static void echo_init(struct echo *echo, uint8_t instance)
{
	*echo = (struct echo){ .offer = { .flags = 0x10, .max_subchannels = ECHO_CHANNELS - 1, .ops = &echo_ops,
					  .device = echo, .name = "echo" } };
	memset(echo->offer.class_guid.b, 0xc0, 16);
	memset(echo->offer.instance_guid.b, instance, 16);
	memset(echo->offer.user, 0x75, sizeof(echo->offer.user));
	pthread_mutex_init(&echo->lock, NULL);
	pthread_cond_init(&echo->changed, NULL);
}

static unsigned echo_open_count(struct echo *echo)
{
	unsigned n;

	pthread_mutex_lock(&echo->lock);
	n = echo->open_count;
	pthread_mutex_unlock(&echo->lock);
	return n;
}

/* ---- the guest --------------------------------------------------------------------------------------- */

struct guest_post {
	unsigned vp, len;
	uint8_t payload[VMBUS_MESSAGE_MAX];
};

struct guest {
	struct test_mem mem;
	struct vmm_bus *bus;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct guest_post post[GUEST_POSTS];	/* lock, as all below */
	unsigned posted, taken;
	int bound[VMBUS_CHANNELS_MAX];		/* by channel id: eventfd + 1 */
	int event[VMBUS_CHANNELS_MAX];		/* by channel id: the guest's own eventfd + 1 */
	unsigned event_vp[VMBUS_CHANNELS_MAX];	/* where the last one went */
	unsigned stray;				/* bindings that should not be */
	uint32_t version;
	uint32_t next_handle;
};

static void guest_post(void *ctx, unsigned vp, const void *payload, unsigned len)
{
	struct guest *g = ctx;
	struct guest_post *p;

	pthread_mutex_lock(&g->lock);
	p = &g->post[g->posted++ % GUEST_POSTS];
	p->vp = vp;
	p->len = len;
	memcpy(p->payload, payload, len);
	pthread_cond_broadcast(&g->changed);
	pthread_mutex_unlock(&g->lock);
}

static void guest_set_event(void *ctx, unsigned vp, unsigned flag)
{
	struct guest *g = ctx;
	uint64_t one = 1;

	pthread_mutex_lock(&g->lock);
	g->event_vp[flag] = vp;
	if (g->event[flag] && write(g->event[flag] - 1, &one, sizeof(one)) < 0)
		abort();
	pthread_mutex_unlock(&g->lock);
}

static int guest_bind(void *ctx, uint32_t connection_id, int event_fd)
{
	struct guest *g = ctx;
	uint32_t relid = connection_id - 0x10000;

	pthread_mutex_lock(&g->lock);
	g->stray += relid >= VMBUS_CHANNELS_MAX || g->bound[relid] != 0;
	g->bound[relid % VMBUS_CHANNELS_MAX] = event_fd + 1;
	pthread_mutex_unlock(&g->lock);
	return 0;
}

static void guest_unbind(void *ctx, uint32_t connection_id, int event_fd)
{
	struct guest *g = ctx;
	uint32_t relid = connection_id - 0x10000;

	pthread_mutex_lock(&g->lock);
	g->stray += relid >= VMBUS_CHANNELS_MAX || g->bound[relid] != event_fd + 1;
	g->bound[relid % VMBUS_CHANNELS_MAX] = 0;
	pthread_mutex_unlock(&g->lock);
}

static void guest_contact(void *ctx, uint32_t version)
{
	struct guest *g = ctx;

	pthread_mutex_lock(&g->lock);
	g->version = version;
	pthread_mutex_unlock(&g->lock);
}

static const struct vmm_bus_ops guest_ops = {
	.post = guest_post, .set_event = guest_set_event, .bind_signal = guest_bind, .unbind_signal = guest_unbind,
	.contact = guest_contact,
};

static void guest_start(struct guest *g)
{
	memset(g, 0, sizeof(*g));
	test_mem_open(&g->mem, 512);
	pthread_mutex_init(&g->lock, NULL);
	pthread_cond_init(&g->changed, NULL);
	g->next_handle = 0xe1e10;
	assert_int_equal(vmm_bus_new(&g->mem.mem, &guest_ops, g, GUEST_VPS, &g->bus, NULL), 0);
}

static void guest_end(struct guest *g)
{
	vmm_bus_free(g->bus);
	assert_int_equal(g->stray, 0);
	for (unsigned i = 0; i < VMBUS_CHANNELS_MAX; i++)
		assert_int_equal(g->bound[i], 0);
	test_mem_close(&g->mem);
}

/* ---- messages ---------------------------------------------------------------------------------------- */

static void guest_send(struct guest *g, const void *message, unsigned len)
{
	while (vmm_bus_message(g->bus, VMBUS_CONNECTION_NEW, message, len) == VMM_BUS_BUSY)
		usleep(1000);
}

static void guest_send_type(struct guest *g, uint32_t type)
{
	struct vmbus_msg_header m = { .type = le32_make(type) };

	guest_send(g, &m, sizeof(m));
}

static void guest_send_relid(struct guest *g, uint32_t type, uint32_t relid)
{
	struct vmbus_msg_relid m = { .header.type = le32_make(type), .relid = le32_make(relid) };

	guest_send(g, &m, sizeof(m));
}

static uint32_t type_of(const void *message)
{
	return le32_get(((const struct vmbus_msg_header *)message)->type);
}

/* The next message from the bus, or NULL when none comes in time. */
static const struct guest_post *guest_next(struct guest *g)
{
	struct guest_post *p = NULL;
	struct timespec end;
	int r = 0;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += GUEST_PATIENCE / 1000;
	pthread_mutex_lock(&g->lock);
	while (g->taken == g->posted && r == 0)
		r = pthread_cond_timedwait(&g->changed, &g->lock, &end);
	if (g->taken != g->posted)
		p = &g->post[g->taken++ % GUEST_POSTS];
	pthread_mutex_unlock(&g->lock);
	return p;
}

/* The next message must be of this type. */
static const void *guest_expect(struct guest *g, uint32_t type)
{
	const struct guest_post *p = guest_next(g);

	assert_non_null(p);
	assert_int_equal(type_of(p->payload), type);
	return p->payload;
}

/* Everything sent so far has been handled, and nothing was said about it. An answer to a teardown tells. */
static void guest_expect_silence(struct guest *g)
{
	struct vmbus_msg_gpadl_teardown m = { .header.type = le32_make(VMBUS_MSG_GPADL_TEARDOWN) };
	const struct vmbus_msg_gpadl_torndown *reply;

	m.gpadl = le32_make(0x51137ce);
	guest_send(g, &m, sizeof(m));
	reply = guest_expect(g, VMBUS_MSG_GPADL_TORNDOWN);
	assert_int_equal(le32_get(reply->gpadl), 0x51137ce);
}

static const struct vmbus_msg_version_response *guest_contact_with(struct guest *g, uint32_t version, uint32_t vp)
{
	struct vmbus_msg_initiate_contact m = {
		.header.type = le32_make(VMBUS_MSG_INITIATE_CONTACT),
		.version = le32_make(version),
		.target_vp = le32_make(vp),
	};

	m.u.v5.sint = VMBUS_SINT;
	guest_send(g, &m, sizeof(m));
	return guest_expect(g, VMBUS_MSG_VERSION_RESPONSE);
}

/* Contact, and offers of @devices devices: the channel id of the first. */
static uint32_t guest_connect(struct guest *g, uint32_t version, unsigned devices)
{
	uint32_t relid = 0;

	assert_int_equal(guest_contact_with(g, version, 1)->supported, 1);
	guest_send_type(g, VMBUS_MSG_REQUESTOFFERS);
	for (unsigned i = 0; i < devices; i++) {
		const struct vmbus_msg_offer *offer = guest_expect(g, VMBUS_MSG_OFFERCHANNEL);

		relid = relid ? relid : le32_get(offer->relid);
	}
	guest_expect(g, VMBUS_MSG_ALLOFFERS_DELIVERED);
	return relid;
}

/* ---- GPADLs, channels -------------------------------------------------------------------------------- */

/* Makes one of @count pages; the answer's status. */
static uint32_t guest_gpadl(struct guest *g, uint32_t relid, uint32_t handle, const uint64_t *pfn, unsigned count)
{
	uint8_t message[VMBUS_MESSAGE_MAX];
	struct vmbus_msg_gpadl_header head = {
		.header.type = le32_make(VMBUS_MSG_GPADL_HEADER),
		.relid = le32_make(relid),
		.gpadl = le32_make(handle),
		.range_length = le16_make((uint16_t)(8 + 8 * count)),
		.range_count = le16_make(1),
		.byte_count = le32_make(count * VMBUS_PAGE_SIZE),
	};
	struct vmbus_msg_gpadl_body body = {
		.header.type = le32_make(VMBUS_MSG_GPADL_BODY),
		.gpadl = le32_make(handle),
	};
	const struct vmbus_msg_gpadl_created *reply;
	unsigned room = VMBUS_GPADL_HEADER_PFNS, head_len = sizeof(head);

	memcpy(message, &head, sizeof(head));
	for (unsigned done = 0; done < count;) {
		unsigned n = count - done < room ? count - done : room;

		for (unsigned i = 0; i < n; i++) {
			le64_t number = le64_make(pfn[done + i]);

			memcpy(message + head_len + i * 8, &number, 8);
		}
		guest_send(g, message, head_len + n * 8);
		done += n;
		memcpy(message, &body, sizeof(body));
		head_len = sizeof(body);
		room = VMBUS_GPADL_BODY_PFNS;
	}
	reply = guest_expect(g, VMBUS_MSG_GPADL_CREATED);
	assert_int_equal(le32_get(reply->relid), relid);
	assert_int_equal(le32_get(reply->gpadl), handle);
	return le32_get(reply->status);
}

static void guest_teardown(struct guest *g, uint32_t relid, uint32_t handle)
{
	struct vmbus_msg_gpadl_teardown m = {
		.header.type = le32_make(VMBUS_MSG_GPADL_TEARDOWN),
		.relid = le32_make(relid),
		.gpadl = le32_make(handle),
	};

	guest_send(g, &m, sizeof(m));
}

struct guest_channel {
	struct guest *guest;
	uint32_t relid, handle;
	struct vmbus_gpadl *pages;
	struct vmbus_mapping mapping;
	struct vmbus_channel end;
};

/* SIGNAL_EVENT: lost when nobody is bound. */
static void guest_signal(void *ctx)
{
	struct guest_channel *c = ctx;
	struct guest *g = c->guest;
	uint64_t one = 1;

	pthread_mutex_lock(&g->lock);
	if (g->bound[c->relid] && write(g->bound[c->relid] - 1, &one, sizeof(one)) < 0)
		abort();
	pthread_mutex_unlock(&g->lock);
}

static const struct vmbus_channel_ops guest_channel_ops = { .signal = guest_signal };

/* Rings of @pages pages together, in order or not; not opened yet. */
static void guest_channel_make(struct guest *g, struct guest_channel *c, uint32_t relid, unsigned pages, bool backwards)
{
	uint64_t pfn[256];
	unsigned first = test_mem_take(&g->mem, pages);

	*c = (struct guest_channel){ .guest = g, .relid = relid, .handle = g->next_handle++ };
	for (unsigned i = 0; i < pages; i++)
		pfn[i] = test_mem_pfn(&g->mem, first + (backwards ? pages - 1 - i : i));
	assert_int_equal(vmbus_gpadl_new(&g->mem.mem, pfn, pages, &c->pages), 0);
	assert_int_equal(vmbus_gpadl_map(c->pages, 0, pages, &c->mapping), 0);
	c->end = (struct vmbus_channel){ .mem = &g->mem.mem, .ops = &guest_channel_ops, .ctx = c,
					 .event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
	assert_int_equal(vmbus_channel_init(&c->end, &c->mapping, pages / 2, false), 0);
	pthread_mutex_lock(&g->lock);
	g->event[relid] = c->end.event_fd + 1;
	pthread_mutex_unlock(&g->lock);
	assert_int_equal(guest_gpadl(g, relid, c->handle, pfn, pages), 0);
}

static uint32_t guest_open(struct guest *g, uint32_t relid, uint32_t handle, uint32_t vp, uint32_t downstream)
{
	struct vmbus_msg_open m = {
		.header.type = le32_make(VMBUS_MSG_OPENCHANNEL),
		.relid = le32_make(relid),
		.open_id = le32_make(relid ^ 0x5555),
		.gpadl = le32_make(handle),
		.target_vp = le32_make(vp),
		.downstream_page = le32_make(downstream),
	};
	const struct vmbus_msg_open_result *reply;

	guest_send(g, &m, sizeof(m));
	reply = guest_expect(g, VMBUS_MSG_OPEN_RESULT);
	assert_int_equal(le32_get(reply->relid), relid);
	assert_int_equal(le32_get(reply->open_id), relid ^ 0x5555);
	return le32_get(reply->status);
}

static void guest_channel_open(struct guest *g, struct guest_channel *c, uint32_t relid, unsigned pages)
{
	guest_channel_make(g, c, relid, pages, false);
	assert_int_equal(guest_open(g, relid, c->handle, 1, pages / 2), 0);
}

/* The guest's own resources. */
static void guest_channel_drop(struct guest_channel *c)
{
	pthread_mutex_lock(&c->guest->lock);
	if (c->guest->event[c->relid] == c->end.event_fd + 1)
		c->guest->event[c->relid] = 0;
	pthread_mutex_unlock(&c->guest->lock);
	close(c->end.event_fd);
	vmbus_mapping_release(&c->mapping);
	vmbus_gpadl_free(c->pages);
}

/* One packet there and back, asleep in between: the answer comes with an event. */
static void guest_echo(struct guest_channel *c, uint8_t first, uint8_t second)
{
	static uint64_t id;
	_Alignas(8) uint8_t payload[16] = { first, second }, buf[4096];
	struct vmbus_packet p = { .type = VMBUS_PACKET_INBAND, .flags = VMBUS_PACKET_COMPLETION_WANTED,
				  .transaction_id = ++id, .payload = payload, .payload_len = sizeof(payload) };
	struct pollfd wait = { .fd = c->end.event_fd, .events = POLLIN };

	assert_true(vmbus_channel_sleep(&c->end));
	assert_int_equal(vmbus_channel_send(&c->end, &p), 0);
	vmbus_channel_flush(&c->end);
	assert_int_equal(poll(&wait, 1, GUEST_PATIENCE), 1);
	vmbus_channel_wake(&c->end);
	assert_int_equal(vmbus_channel_receive(&c->end, buf, sizeof(buf), &p), 1);
	assert_int_equal(p.type, VMBUS_PACKET_COMPLETION);
	assert_true(p.transaction_id == id);
	assert_memory_equal(p.payload, payload, sizeof(payload));
	vmbus_channel_flush(&c->end);
}

#endif
