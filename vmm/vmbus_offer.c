/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Devices and their channels: numbered, offered, rescinded. A primary channel keeps its number as long as the device is
 * there; sub-channels are made when the device asks for them, and again when its primary is opened again. A number
 * that a guest has heard of is free only when the guest says so, or has forgotten everything.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/seed.h"
#include "vmm/vmbus_int.h"

/* ---- channel numbers ----------------------------------------------------------------------------------- */

struct bus_channel *bus_channel_by_relid(struct vmm_bus *bus, uint32_t relid)
{
	struct bus_channel *c = relid < VMBUS_CHANNELS_MAX ? bus->by_relid[relid] : NULL;

	return c && c->announced ? c : NULL;
}

struct bus_channel *bus_channel_find(struct vmm_bus *bus, const struct bus_device *d, unsigned subchannel)
{
	for (uint32_t relid = 1; relid < VMBUS_CHANNELS_MAX; relid++) {
		struct bus_channel *c = bus->by_relid[relid];

		if (c && c->device == d && c->subchannel == subchannel && !c->rescinded)
			return c;
	}
	return NULL;
}

static int channel_new(struct vmm_bus *bus, struct bus_device *d, unsigned subchannel, struct bus_channel **ret_channel)
{
	struct bus_channel *c;
	uint32_t relid = 1;

	while (relid < VMBUS_CHANNELS_MAX && bus->by_relid[relid])
		relid++;
	if (relid == VMBUS_CHANNELS_MAX)
		return -ENOSPC;
	c = sp_zalloc(sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->bus = bus;
	c->device = d;
	c->subchannel = subchannel;
	c->relid = relid;
	c->silent = true;
	pthread_mutex_init(&c->signal_lock, NULL);
	pthread_mutex_lock(&bus->lock);
	bus->by_relid[relid] = c;
	pthread_mutex_unlock(&bus->lock);
	*ret_channel = c;
	return 0;
}

/* Closed. Its number is free. */
static void channel_free(struct bus_channel *c)
{
	struct vmm_bus *bus = c->bus;

	bus_gpadls_drop(bus, c->relid);
	pthread_mutex_lock(&bus->lock);
	bus->by_relid[c->relid] = NULL;
	pthread_cond_broadcast(&bus->changed);
	pthread_mutex_unlock(&bus->lock);
	pthread_mutex_destroy(&c->signal_lock);
	sp_free(c);
}

static void set_flag(struct vmm_bus *bus, bool *flag, bool value)
{
	pthread_mutex_lock(&bus->lock);
	*flag = value;
	pthread_mutex_unlock(&bus->lock);
}

/* ---- offers -------------------------------------------------------------------------------------------- */

static void announce(struct bus_channel *c)
{
	const struct vmbus_offer *offer = c->device->offer;
	struct vmbus_msg_offer m = {
		.header.type = le32_make(VMBUS_MSG_OFFERCHANNEL),
		.flags = le16_make(offer->flags),
		.subchannel_index = le16_make((uint16_t)c->subchannel),
		.relid = le32_make(c->relid),
		/* No monitor page. Signals by the connection id alone: the guest has no interrupt page for us. */
		.dedicated_interrupt = le16_make(1),
		.connection_id = le32_make(BUS_CONNECTION_BASE + c->relid),
	};

	memcpy(m.class_guid, offer->class_guid.b, sizeof(m.class_guid));
	memcpy(m.instance_guid, offer->instance_guid.b, sizeof(m.instance_guid));
	memcpy(m.user, offer->user, sizeof(m.user));
	set_flag(c->bus, &c->announced, true);
	bus_send(c->bus, &m, sizeof(m));
}

void bus_request_offers(struct vmm_bus *bus)
{
	struct vmbus_msg_header end = { .type = le32_make(VMBUS_MSG_ALLOFFERS_DELIVERED) };

	/* By number, which is the order they were put on the bus: the same for every boot. */
	for (uint32_t relid = 1; relid < VMBUS_CHANNELS_MAX; relid++) {
		if (bus->by_relid[relid] && !bus->by_relid[relid]->rescinded)
			announce(bus->by_relid[relid]);
	}
	bus_send(bus, &end, sizeof(end));
}

static struct bus_device *device_by_id(struct vmm_bus *bus, uint32_t id)
{
	struct bus_device *d = bus->devices;

	while (d && d->id != id)
		d = d->next;
	return d;
}

static bool twin_of(struct vmm_bus *bus, const struct vmbus_offer *offer)
{
	for (const struct bus_device *d = bus->devices; d; d = d->next) {
		if (sp_guid_equal(&d->offer->class_guid, &offer->class_guid) &&
		    sp_guid_equal(&d->offer->instance_guid, &offer->instance_guid))
			return true;
	}
	return false;
}

void bus_run_offer(struct vmm_bus *bus, struct bus_command *command)
{
	struct bus_channel *c;
	struct bus_device *d;

	command->result = -EEXIST;
	if (twin_of(bus, command->offer))
		return;
	d = sp_zalloc(sizeof(*d));
	command->result = d ? channel_new(bus, d, 0, &c) : -ENOMEM;
	if (command->result < 0) {
		sp_free(d);
		return;
	}
	d->bus = bus;
	d->offer = command->offer;
	d->id = command->id = ++bus->last_id;
	pthread_mutex_lock(&bus->lock);
	d->next = bus->devices;
	bus->devices = d;
	pthread_mutex_unlock(&bus->lock);
	if (bus->state == BUS_OFFERED)
		announce(c);
}

/* ---- sub-channels -------------------------------------------------------------------------------------- */

/* From a thread of the device, between ->open and the end of ->close of its primary channel. */
static void want_subchannels(void *arg, unsigned count)
{
	struct bus_device *d = arg;
	struct vmm_bus *bus = d->bus;

	count = count < d->offer->max_subchannels ? count : d->offer->max_subchannels;
	pthread_mutex_lock(&bus->lock);
	if (count > d->subchannels_wanted) {
		d->subchannels_wanted = count;
		bus->subchannels_wanted = true;
		pthread_cond_signal(&bus->work);
	}
	pthread_mutex_unlock(&bus->lock);
}

const struct vmbus_bus_ops bus_device_bus_ops = { .offer_subchannels = want_subchannels };

static unsigned subchannels_wanted(struct vmm_bus *bus, struct bus_device *d)
{
	const struct bus_channel *primary = bus_channel_find(bus, d, 0);
	unsigned count;

	pthread_mutex_lock(&bus->lock);
	if (!primary || !primary->open)		/* asked, and then failed to open */
		d->subchannels_wanted = 0;
	count = d->subchannels_wanted;
	pthread_mutex_unlock(&bus->lock);
	return count;
}

void bus_offer_wanted_subchannels(struct vmm_bus *bus)
{
	for (struct bus_device *d = bus->devices; d; d = d->next) {
		unsigned count = subchannels_wanted(bus, d);

		for (unsigned i = 1; i <= count; i++) {
			struct bus_channel *c;

			if (bus_channel_find(bus, d, i))
				continue;
			if (channel_new(bus, d, i, &c) < 0)	/* fewer, then: the guest takes what comes */
				break;
			announce(c);
		}
	}
}

/* ---- rescind ------------------------------------------------------------------------------------------- */

static void rescind(struct bus_channel *c)
{
	struct vmbus_msg_relid m = {
		.header.type = le32_make(VMBUS_MSG_RESCIND),
		.relid = le32_make(c->relid),
	};

	if (c->rescinded)
		return;
	if (!c->announced) {
		channel_free(c);
		return;
	}
	bus_channel_silence(c);
	set_flag(c->bus, &c->rescinded, true);
	bus_send(c->bus, &m, sizeof(m));
	if (SP_SEED_BUG(BUS_RELID_FREE_EARLY) && !c->open)
		channel_free(c);
}

void bus_rescind_subchannels(struct vmm_bus *bus, const struct bus_device *d)
{
	for (uint32_t relid = 1; relid < VMBUS_CHANNELS_MAX; relid++) {
		struct bus_channel *c = bus->by_relid[relid];

		if (c && c->device == d && c->subchannel != 0)
			rescind(c);
	}
}

void bus_run_rescind(struct vmm_bus *bus, struct bus_command *command)
{
	struct bus_device *d = device_by_id(bus, command->id);
	struct bus_channel *primary;

	command->result = -ENOENT;
	if (!d || d->rescinded)
		return;
	command->result = 0;
	set_flag(bus, &d->rescinded, true);
	bus_rescind_subchannels(bus, d);
	primary = bus_channel_find(bus, d, 0);
	if (primary)
		rescind(primary);
}

bool bus_device_released_locked(struct vmm_bus *bus, uint32_t id)
{
	const struct bus_device *d = device_by_id(bus, id);

	for (uint32_t relid = 1; d && relid < VMBUS_CHANNELS_MAX; relid++) {
		if (bus->by_relid[relid] && bus->by_relid[relid]->device == d)
			return false;
	}
	return true;
}

/* Whatever the guest still holds is its own affair now; only the numbers stay taken. */
void bus_run_remove(struct vmm_bus *bus, struct bus_command *command)
{
	struct bus_device *d = device_by_id(bus, command->id), **at = &bus->devices;

	command->result = bus_device_released_locked(bus, command->id) ? 0 : -ETIMEDOUT;
	bus_device_close(bus, d);
	pthread_mutex_lock(&bus->lock);
	for (uint32_t relid = 1; relid < VMBUS_CHANNELS_MAX; relid++) {
		if (bus->by_relid[relid] && bus->by_relid[relid]->device == d)
			bus->by_relid[relid]->device = NULL;
	}
	while (*at != d)
		at = &(*at)->next;
	*at = d->next;
	pthread_mutex_unlock(&bus->lock);
	sp_free(d);
}

void bus_relid_released(struct vmm_bus *bus, uint32_t relid)
{
	struct bus_channel *c = bus_channel_by_relid(bus, relid);

	/* After UNLOAD it comes for every channel; that has been settled. */
	if (!c || !c->rescinded)
		return;
	if (c->subchannel == 0 && c->device)
		bus_device_close(bus, c->device);
	else
		bus_channel_close(c);
	channel_free(c);
}

void bus_forget_announced(struct vmm_bus *bus)
{
	for (uint32_t relid = 1; relid < VMBUS_CHANNELS_MAX; relid++) {
		struct bus_channel *c = bus->by_relid[relid];

		if (!c)
			continue;
		set_flag(bus, &c->announced, false);
		if (c->rescinded || c->subchannel != 0)
			channel_free(c);
	}
}
