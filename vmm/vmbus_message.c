/* SPDX-License-Identifier: BSD-2-Clause */
/* What the guest posts. Everything unknown, too short or in a wrong state is ignored, or answered with a failure where
 * the guest waits for an answer. */
#include <string.h>

#include "base/log.h"
#include "base/seed.h"
#include "vmm/vmbus_int.h"

void bus_send(struct vmm_bus *bus, const void *message, unsigned len)
{
	bus->ops->post(bus->ctx, bus->vp, message, len);
	pthread_mutex_lock(&bus->lock);
	bus->posted++;
	pthread_mutex_unlock(&bus->lock);
}

static void set_state(struct vmm_bus *bus, enum bus_state state, uint32_t version)
{
	bool met = bus->state != BUS_DISCONNECTED, meets = state != BUS_DISCONNECTED;

	pthread_mutex_lock(&bus->lock);
	bus->state = state;
	bus->version = version;
	pthread_mutex_unlock(&bus->lock);
	if (met != meets && bus->ops->contact)
		bus->ops->contact(bus->ctx, version);
}

void bus_disconnect(struct vmm_bus *bus)
{
	for (struct bus_device *d = bus->devices; d; d = d->next)
		bus_device_close(bus, d);
	bus_gpadls_drop(bus, 0);
	bus_forget_announced(bus);
	set_state(bus, BUS_DISCONNECTED, 0);
}

/* ---- contact ------------------------------------------------------------------------------------------- */

static bool version_known(uint32_t version)
{
	static const uint32_t versions[] = {
		VMBUS_VERSION(3, 0), VMBUS_VERSION(4, 0), VMBUS_VERSION(4, 1), VMBUS_VERSION(5, 0),
		VMBUS_VERSION(5, 1), VMBUS_VERSION(5, 2), VMBUS_VERSION(5, 3),
	};

	for (size_t i = 0; i < SP_ARRAY_SIZE(versions); i++)
		if (versions[i] == version)
			return true;
	return false;
}

static bool contact_ok(const struct vmm_bus *bus, const struct vmbus_msg_initiate_contact *m)
{
	uint32_t version = le32_get(m->version);

	if (!version_known(version) || le32_get(m->target_vp) >= bus->vps)
		return false;
	return version < VMBUS_VERSION(5, 0) || (m->u.v5.sint == VMBUS_SINT && m->u.v5.vtl == 0);
}

static void initiate_contact(struct vmm_bus *bus, const uint8_t *payload, unsigned len)
{
	struct vmbus_msg_version_response reply = { .header.type = le32_make(VMBUS_MSG_VERSION_RESPONSE) };
	struct vmbus_msg_initiate_contact m;
	uint32_t version;

	memcpy(&m, payload, sizeof(m));
	version = le32_get(m.version);
	/* A kernel that died and was replaced by another did not unload: whatever there was is void. */
	bus_disconnect(bus);
	pthread_mutex_lock(&bus->lock);
	bus->vp = le32_get(m.target_vp) < bus->vps ? le32_get(m.target_vp) : 0;
	pthread_mutex_unlock(&bus->lock);
	if (contact_ok(bus, &m)) {
		reply.supported = 1;
		reply.connection_id = le32_make(version >= VMBUS_VERSION(5, 0) ? VMBUS_CONNECTION_NEW : version);
		set_state(bus, BUS_CONNECTED, version);
	}
	sp_debug("vmbus", "bus", "contact: version %u.%u%s", version >> 16, version & 0xffff,
		 reply.supported ? "" : " is refused");
	bus_send(bus, &reply, sizeof(reply));
}

static void unload(struct vmm_bus *bus, const uint8_t *payload, unsigned len)
{
	struct vmbus_msg_header reply = { .type = le32_make(VMBUS_MSG_UNLOAD_RESPONSE) };

	bus_disconnect(bus);
	bus_send(bus, &reply, sizeof(reply));
}

/* ---- one channel --------------------------------------------------------------------------------------- */

static void request_offers(struct vmm_bus *bus, const uint8_t *payload, unsigned len)
{
	if (bus->state != BUS_CONNECTED)	/* asked before */
		return;
	set_state(bus, BUS_OFFERED, bus->version);
	bus_request_offers(bus);
}

static void open_channel(struct vmm_bus *bus, const uint8_t *payload, unsigned len)
{
	struct vmbus_msg_open m;

	memcpy(&m, payload, sizeof(m));
	bus_channel_open(bus, &m);
}

static uint32_t relid_of(const uint8_t *payload)
{
	struct vmbus_msg_relid m;

	memcpy(&m, payload, sizeof(m));
	return le32_get(m.relid);
}

static void close_channel(struct vmm_bus *bus, const uint8_t *payload, unsigned len)
{
	struct bus_channel *c = bus_channel_by_relid(bus, relid_of(payload));

	if (c && c->open)
		bus_channel_close_by_guest(c);
}

static void relid_released(struct vmm_bus *bus, const uint8_t *payload, unsigned len)
{
	bus_relid_released(bus, relid_of(payload));
}

static void modify_channel(struct vmm_bus *bus, const uint8_t *payload, unsigned len)
{
	struct vmbus_msg_modify m;

	memcpy(&m, payload, sizeof(m));
	bus_channel_modify(bus, &m);
}

/* ---- dispatch ------------------------------------------------------------------------------------------ */

static const struct handler {
	unsigned len_min;
	bool always;		/* also while disconnected */
	void (*handle)(struct vmm_bus *bus, const uint8_t *payload, unsigned len);
} handlers[] = {
	[VMBUS_MSG_REQUESTOFFERS]    = { sizeof(struct vmbus_msg_header), false, request_offers },
	[VMBUS_MSG_OPENCHANNEL]	     = { sizeof(struct vmbus_msg_open), false, open_channel },
	[VMBUS_MSG_CLOSECHANNEL]     = { sizeof(struct vmbus_msg_relid), false, close_channel },
	[VMBUS_MSG_GPADL_HEADER]     = { sizeof(struct vmbus_msg_gpadl_header), false, bus_gpadl_header },
	[VMBUS_MSG_GPADL_BODY]	     = { sizeof(struct vmbus_msg_gpadl_body), false, bus_gpadl_body },
	[VMBUS_MSG_GPADL_TEARDOWN]   = { sizeof(struct vmbus_msg_gpadl_teardown), false, bus_gpadl_teardown },
	[VMBUS_MSG_RELID_RELEASED]   = { sizeof(struct vmbus_msg_relid), false, relid_released },
	[VMBUS_MSG_INITIATE_CONTACT] = { sizeof(struct vmbus_msg_initiate_contact), true, initiate_contact },
	[VMBUS_MSG_UNLOAD]	     = { sizeof(struct vmbus_msg_header), true, unload },
	[VMBUS_MSG_MODIFYCHANNEL]    = { sizeof(struct vmbus_msg_modify), false, modify_channel },
};

void bus_handle(struct vmm_bus *bus, const struct bus_message *message)
{
	struct vmbus_msg_header header;
	const struct handler *h;
	uint32_t type;

	memcpy(&header, message->payload, sizeof(header));
	type = le32_get(header.type);
	h = type < SP_ARRAY_SIZE(handlers) ? &handlers[type] : NULL;
	if (!h || !h->handle || (message->len < h->len_min && !SP_SEED_BUG(BUS_SHORT_MESSAGE)) ||
	    (bus->state == BUS_DISCONNECTED && !h->always)) {
		pthread_mutex_lock(&bus->lock);
		bus->ignored++;
		pthread_mutex_unlock(&bus->lock);
		return;
	}
	h->handle(bus, message->payload, message->len);
}
