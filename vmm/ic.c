/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What all integration services share: a pipe channel on the machine's loop, versions, one message at a time. The guest
 * reads one message per interrupt, so a second one behind the first could wait for ever: it is sent after the answer.
 *
 * The bus opens and closes on its own thread. It leaves the channel under the lock and rings wake_fd; all use of the
 * channel is on the loop with the lock held, so that nobody uses it any more once closing has had the lock.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/env.h"
#include "vmm/ic_int.h"

#define IC_BATCH 64u			/* packets before others on the loop have their turn */

static const struct { uint16_t major, minor; } frameworks[] = { { 1, 0 }, { 3, 0 } };

/* ---- send --------------------------------------------------------------------------------------------- */

/* The channel that is watched is still the open one. Whoever gave up the lock asks again. */
static bool is_open(const struct vmm_ic *ic)
{
	return ic->ch && ic->watched == ic->generation;
}

static int send_message(struct vmm_ic *ic, enum ic_message_type type, const void *body, size_t len)
{
	struct ic_header h = {
		.pipe_type = le32_make(IC_PIPE_DATA),
		.pipe_size = le32_make((uint32_t)(sizeof(h) - IC_PIPE_HEADER + len)),
		.framework = { le16_make(ic->framework.major), le16_make(ic->framework.minor) },
		.type = le16_make((uint16_t)type),
		.message = { le16_make(ic->message.major), le16_make(ic->message.minor) },
		.body_size = le16_make((uint16_t)len), .transaction = ++ic->transaction,
		.flags = IC_TRANSACTION | IC_REQUEST,
	};
	uint8_t *payload = (uint8_t *)ic->packet;
	struct vmbus_packet p = {
		.type = VMBUS_PACKET_INBAND, .transaction_id = ic->transaction, .payload = payload,
		.payload_len = (uint32_t)(sizeof(h) + len),
	};
	int r;

	memcpy(payload, &h, sizeof(h));
	memcpy(payload + sizeof(h), body, len);
	r = vmbus_channel_send(ic->ch, &p);
	if (r < 0)
		return r;
	vmbus_channel_flush(ic->ch);
	ic->pending = true;
	ic->pending_type = type;
	ic->sent_ns = sp_env_monotonic_ns();
	return 0;
}

int ic_send(struct vmm_ic *ic, const void *body, size_t len)
{
	if (!is_open(ic) || ic->state != IC_READY)
		return -ENOTCONN;
	if (ic->pending)
		return -EBUSY;
	return send_message(ic, ic->ops->type, body, len);
}

static size_t put_version(uint8_t *to, uint16_t major, uint16_t minor)
{
	const struct ic_version v = { le16_make(major), le16_make(minor) };

	memcpy(to, &v, sizeof(v));
	return sizeof(v);
}

static void negotiate(struct vmm_ic *ic)
{
	struct ic_negotiate n = { .frameworks = le16_make(SP_ARRAY_SIZE(frameworks)) };
	uint8_t body[sizeof(n) + (SP_ARRAY_SIZE(frameworks) + IC_VERSIONS_MAX) * sizeof(struct ic_version)];
	size_t len = sizeof(n);
	uint16_t messages = 0;

	for (unsigned i = 0; i < SP_ARRAY_SIZE(frameworks); i++)
		len += put_version(body + len, frameworks[i].major, frameworks[i].minor);
	for (; messages < IC_VERSIONS_MAX && ic->ops->message[messages].major; messages++)
		len += put_version(body + len, ic->ops->message[messages].major, ic->ops->message[messages].minor);
	n.messages = le16_make(messages);
	memcpy(body, &n, sizeof(n));
	ic->state = send_message(ic, IC_NEGOTIATE, body, len) == 0 ? IC_NEGOTIATING : IC_BROKEN;
}

/* ---- receive ------------------------------------------------------------------------------------------ */

static bool framework_offered(uint16_t major, uint16_t minor)
{
	for (unsigned i = 0; i < SP_ARRAY_SIZE(frameworks); i++)
		if (frameworks[i].major == major && frameworks[i].minor == minor)
			return true;
	return false;
}

static bool offered(const struct vmm_ic *ic, uint16_t major, uint16_t minor)
{
	for (unsigned i = 0; i < IC_VERSIONS_MAX && ic->ops->message[i].major; i++)
		if (ic->ops->message[i].major == major && ic->ops->message[i].minor == minor)
			return true;
	return false;
}

/* Counts of one and one, then what the guest chose. Anything else: the service cannot be used. */
static void negotiated(struct vmm_ic *ic, const uint8_t *body, size_t len)
{
	struct ic_negotiate n;
	struct ic_version v[2];

	ic->state = IC_REFUSED;
	if (len < sizeof(n) + sizeof(v))
		return;
	memcpy(&n, body, sizeof(n));
	memcpy(v, body + sizeof(n), sizeof(v));
	if (le16_get(n.frameworks) != 1 || le16_get(n.messages) != 1 ||
	    !framework_offered(le16_get(v[0].major), le16_get(v[0].minor)) ||
	    !offered(ic, le16_get(v[1].major), le16_get(v[1].minor)))
		return;
	ic->framework.major = le16_get(v[0].major);
	ic->framework.minor = le16_get(v[0].minor);
	ic->message.major = le16_get(v[1].major);
	ic->message.minor = le16_get(v[1].minor);
	ic->state = IC_READY;
	ic->ops->ready(ic);
}

/* @p is a copy of ours. An answer is judged by what was asked, not by what it says of itself. */
static void take_answer(struct vmm_ic *ic, const struct vmbus_packet *p)
{
	struct ic_header h;
	size_t len;

	if (p->type != VMBUS_PACKET_INBAND || p->payload_len < sizeof(h)) {
		ic->dropped++;
		return;
	}
	memcpy(&h, p->payload, sizeof(h));
	len = p->payload_len - sizeof(h);
	if (!ic->pending || h.transaction != ic->transaction || le16_get(h.type) != ic->pending_type ||
	    !(h.flags & IC_RESPONSE)) {
		ic->dropped++;
		return;
	}
	ic->pending = false;
	ic->answered_ns = sp_env_monotonic_ns();
	if (ic->pending_type == IC_NEGOTIATE)
		negotiated(ic, p->payload + sizeof(h), len);
	else
		ic->ops->answer(ic, le32_get(h.status), p->payload + sizeof(h), len);
}

/* Nothing comes any more: who waits for an answer hears of it, as if the driver had gone. */
static void give_up(struct vmm_ic *ic, enum ic_state state)
{
	bool tell = ic->state != IC_NO_DRIVER && ic->state != IC_BROKEN && ic->ops->closed;

	ic->state = state;
	ic->pending = false;
	ic_timer(ic, 0, 0);
	if (tell)
		ic->ops->closed(ic);
}

/* One packet, or the end of them: false. */
static bool receive_one(struct vmm_ic *ic)
{
	struct vmbus_packet p;
	uint64_t copy[IC_PACKET_MAX / 8];
	int r = vmbus_channel_receive(ic->ch, copy, sizeof(copy), &p);

	if (r > 0)
		take_answer(ic, &p);
	else if (r < 0)
		give_up(ic, IC_BROKEN);	/* nothing more can be read from it */
	return r > 0 || (r == 0 && !vmbus_channel_sleep(ic->ch));
}

/* A guest that writes without end must not keep the loop: it comes back here by itself. */
static void receive(struct vmm_ic *ic)
{
	uint64_t one = 1;

	vmbus_channel_wake(ic->ch);
	for (unsigned i = 0; i < IC_BATCH; i++)
		if (!receive_one(ic) || !is_open(ic))
			return;
	vmbus_channel_flush(ic->ch);
	if (write(ic->watched_fd, &one, sizeof(one)) < 0)
		return;			/* full: it is readable anyhow */
}

static void on_channel(void *ctx, uint32_t events)
{
	struct vmm_ic *ic = ctx;

	pthread_mutex_lock(&ic->lock);
	if (is_open(ic) && ic->state != IC_BROKEN) {
		receive(ic);
	} else {
		uint64_t count;

		if (read(ic->watched_fd, &count, sizeof(count)) < 0)
			ic->dropped++;
	}
	pthread_mutex_unlock(&ic->lock);
}

/* ---- open, close -------------------------------------------------------------------------------------- */

static void forget(struct vmm_ic *ic)
{
	vmm_loop_remove(ic->watch);
	ic->watch = NULL;
	if (ic->watched_fd >= 0)
		close(ic->watched_fd);
	ic->watched_fd = -1;
	give_up(ic, IC_NO_DRIVER);
}

static void begin(struct vmm_ic *ic)
{
	ic->watched_fd = ic->new_fd;
	ic->new_fd = -1;
	memset(ic->data, 0, ic->ops->state_size);
	ic->framework.major = 1;
	ic->framework.minor = ic->message.major = ic->message.minor = 0;
	if (vmm_loop_add(ic->loop, ic->watched_fd, EPOLLIN, on_channel, ic, &ic->watch) < 0)
		ic->state = IC_BROKEN;
	else
		negotiate(ic);
}

static void on_wake(void *ctx, uint32_t events)
{
	struct vmm_ic *ic = ctx;
	uint64_t count;

	if (read(ic->wake_fd, &count, sizeof(count)) < 0)
		return;
	pthread_mutex_lock(&ic->lock);
	if (ic->watched != ic->generation) {
		forget(ic);		/* may give up the lock: only now look at what there is */
		ic->watched = ic->generation;
		if (ic->ch)
			begin(ic);
	}
	pthread_mutex_unlock(&ic->lock);
}

static void ring_wake(struct vmm_ic *ic)
{
	uint64_t one = 1;

	if (write(ic->wake_fd, &one, sizeof(one)) < 0)
		return;			/* full: it is readable anyhow */
}

/* The bus's thread. */
static int ic_open(void *device, struct vmbus_channel *ch, const struct vmbus_open *open)
{
	struct vmm_ic *ic = device;
	int fd = dup(ch->event_fd);

	if (fd < 0)
		return -errno;
	pthread_mutex_lock(&ic->lock);
	if (ic->new_fd >= 0)
		close(ic->new_fd);
	ic->new_fd = fd;
	ic->ch = ch;
	ic->generation++;
	pthread_mutex_unlock(&ic->lock);
	ring_wake(ic);
	return 0;
}

static void ic_close(void *device, struct vmbus_channel *ch)
{
	struct vmm_ic *ic = device;

	pthread_mutex_lock(&ic->lock);
	ic->ch = NULL;
	ic->generation++;
	pthread_mutex_unlock(&ic->lock);
	ring_wake(ic);
}

/* ---- new, free ---------------------------------------------------------------------------------------- */

static const struct vmbus_device_ops device_ops = { .open = ic_open, .close = ic_close };

static const struct ic_ops *const kinds[] = {
	[VMM_IC_SHUTDOWN] = &ic_shutdown_ops, [VMM_IC_HEARTBEAT] = &ic_heartbeat_ops,
	[VMM_IC_TIMESYNC] = &ic_timesync_ops, [VMM_IC_KVP] = &ic_kvp_ops, [VMM_IC_VSS] = &ic_vss_ops,
};

static void on_timer(void *ctx)
{
	struct vmm_ic *ic = ctx;

	pthread_mutex_lock(&ic->lock);
	if (is_open(ic) && ic->state == IC_READY)
		ic->ops->tick(ic);
	pthread_mutex_unlock(&ic->lock);
}

void ic_timer(struct vmm_ic *ic, unsigned first_ms, unsigned every_ms)
{
	if (ic->timer)
		vmm_loop_timer_set(ic->timer, first_ms, every_ms);
}

static void make_offer(struct vmm_ic *ic)
{
	ic->offer = (struct vmbus_offer){
		.flags = VMBUS_OFFER_NAMED_PIPE, .user = { VMBUS_PIPE_MODE_MESSAGE }, .ops = &device_ops, .device = ic,
		.name = ic->ops->name,
	};
	sp_guid_parse_le(ic->ops->class_guid, &ic->offer.class_guid);
	sp_guid_parse_le(ic->ops->instance_guid, &ic->offer.instance_guid);
}

int vmm_ic_new(enum vmm_ic_kind kind, struct vmm_loop *loop, const struct vmm_ic_host *host, struct vmm_ic **ret_ic,
	       struct sp_err *err)
{
	struct vmm_ic *ic = sp_zalloc(sizeof(*ic));
	int r = 0;

	if (!ic)
		return sp_err_set(err, -ENOMEM, "out of memory");
	ic->ops = kinds[kind];
	ic->loop = loop;
	ic->host = *host;
	ic->new_fd = ic->watched_fd = -1;
	pthread_mutex_init(&ic->lock, NULL);
	make_offer(ic);
	ic->data = sp_zalloc(ic->ops->state_size);
	ic->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!ic->data)
		r = -ENOMEM;
	else if (ic->wake_fd < 0)
		r = -errno;
	if (r == 0)
		r = vmm_loop_add(loop, ic->wake_fd, EPOLLIN, on_wake, ic, &ic->wake_watch);
	if (r == 0 && ic->ops->tick)
		r = vmm_loop_timer(loop, 0, 0, on_timer, ic, &ic->timer);
	if (r < 0) {
		vmm_ic_free(ic);
		return sp_err_set(err, r, "%s", strerror(-r));
	}
	*ret_ic = ic;
	return 0;
}

void vmm_ic_free(struct vmm_ic *ic)
{
	if (!ic)
		return;
	vmm_loop_remove(ic->watch);
	vmm_loop_remove(ic->wake_watch);
	vmm_loop_remove(ic->timer);
	if (ic->watched_fd >= 0)
		close(ic->watched_fd);
	if (ic->new_fd >= 0)
		close(ic->new_fd);
	if (ic->wake_fd >= 0)
		close(ic->wake_fd);
	pthread_mutex_destroy(&ic->lock);
	sp_free(ic->data);
	sp_free(ic);
}

const struct vmbus_offer *vmm_ic_offer(const struct vmm_ic *ic)
{
	return &ic->offer;
}

bool vmm_ic_refused(struct vmm_ic *ic)
{
	bool refused;

	pthread_mutex_lock(&ic->lock);
	refused = ic->state == IC_REFUSED;
	pthread_mutex_unlock(&ic->lock);
	return refused;
}

void *vmm_ic_describe(struct vmm_ic *ic)
{
	static const char *const state[] = { "no driver", "negotiating", "ok", "refused", "broken" };
	json_object *o = json_object_new_object();
	char version[16];

	if (!o)
		return NULL;
	pthread_mutex_lock(&ic->lock);
	json_object_object_add(o, "state", json_object_new_string(state[ic->state]));
	if (ic->state == IC_READY) {
		snprintf(version, sizeof(version), "%u.%u", ic->message.major, ic->message.minor);
		json_object_object_add(o, "version", json_object_new_string(version));
	}
	json_object_object_add(o, "dropped_packets", json_object_new_uint64(ic->dropped));
	if (ic->ops->describe)
		ic->ops->describe(ic, o);
	pthread_mutex_unlock(&ic->lock);
	return o;
}
