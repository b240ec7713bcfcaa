/* SPDX-License-Identifier: BSD-2-Clause */
/* Channels opened, closed, moved to another processor; and their signals to the guest. */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/seed.h"
#include "vmm/vmbus_int.h"

/* ---- to the guest -------------------------------------------------------------------------------------- */

/* On the channel's thread. */
static void signal_guest(void *ctx)
{
	struct bus_channel *c = ctx;

	pthread_mutex_lock(&c->signal_lock);
	if (!c->silent && c->target_vp != BUS_NO_VP)
		c->bus->ops->set_event(c->bus->ctx, c->target_vp, c->relid);
	pthread_mutex_unlock(&c->signal_lock);
}

static const struct vmbus_channel_ops channel_ops = { .signal = signal_guest };

static void set_target(struct bus_channel *c, uint32_t vp, bool silent)
{
	pthread_mutex_lock(&c->signal_lock);
	c->target_vp = vp;
	c->silent = silent;
	pthread_mutex_unlock(&c->signal_lock);
}

void bus_channel_silence(struct bus_channel *c)
{
	set_target(c, BUS_NO_VP, true);
}

/* ---- open ---------------------------------------------------------------------------------------------- */

static bool vp_ok(const struct vmm_bus *bus, uint32_t vp)
{
	return vp < bus->vps || vp == BUS_NO_VP;
}

/* Not in a state to be opened: why, else NULL. */
static const char *not_openable(struct vmm_bus *bus, const struct bus_channel *c, const struct vmbus_msg_open *m)
{
	const struct bus_gpadl *g = bus_gpadl_find(bus, le32_get(m->gpadl));
	const struct bus_channel *primary;

	if (!c || c->rescinded || c->open)
		return "no such channel, or open";
	if (!vp_ok(bus, le32_get(m->target_vp)))
		return "no such processor";
	if (!g || !g->pages || g->relid != c->relid)
		return "no such GPADL of this channel";
	if (g->user)
		return "its GPADL is in use";
	primary = bus_channel_find(bus, c->device, 0);
	if (c->subchannel != 0 && !(primary && primary->open))
		return "its primary channel is not open";
	return NULL;
}

/* Rings and eventfd. The end's other fields are what ->open sees. */
static int make_end(struct bus_channel *c, const struct vmbus_msg_open *m)
{
	int r = vmbus_gpadl_map(c->gpadl->pages, 0, vmbus_gpadl_pages(c->gpadl->pages), &c->mapping);

	if (r < 0)
		return r;
	c->end = (struct vmbus_channel){ .mem = c->bus->mem, .ops = &channel_ops, .ctx = c };
	r = vmbus_channel_init(&c->end, &c->mapping, le32_get(m->downstream_page), true);
	if (r == 0) {
		c->end.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (c->end.event_fd >= 0)
			return 0;
		r = -errno;
	}
	vmbus_mapping_release(&c->mapping);
	return r;
}

static void drop_end(struct bus_channel *c)
{
	close(c->end.event_fd);
	vmbus_mapping_release(&c->mapping);
}

static int open_device(struct bus_channel *c, uint32_t vp)
{
	const struct vmbus_offer *offer = c->device->offer;
	struct vmbus_open open = { c->subchannel, vp, &bus_device_bus_ops, c->device };
	struct vmm_bus *bus = c->bus;
	int r;

	/* Before the device looks at the ring for the first time: a signal after that look must arrive. */
	r = bus->ops->bind_signal(bus->ctx, BUS_CONNECTION_BASE + c->relid, c->end.event_fd);
	if (r < 0)
		return r;
	set_target(c, vp, false);
	r = offer->ops->open(offer->device, &c->end, &open);
	if (r < 0) {
		bus_channel_silence(c);
		bus->ops->unbind_signal(bus->ctx, BUS_CONNECTION_BASE + c->relid, c->end.event_fd);
	}
	return r;
}

static int open_channel(struct bus_channel *c, const struct vmbus_msg_open *m)
{
	int r;

	c->gpadl = bus_gpadl_find(c->bus, le32_get(m->gpadl));
	r = make_end(c, m);
	if (r < 0)
		return r;
	r = open_device(c, le32_get(m->target_vp));
	if (r < 0) {
		drop_end(c);
		return r;
	}
	c->gpadl->user = c;
	pthread_mutex_lock(&c->bus->lock);
	c->open = true;
	pthread_mutex_unlock(&c->bus->lock);
	return 0;
}

void bus_channel_open(struct vmm_bus *bus, const struct vmbus_msg_open *m)
{
	struct bus_channel *c = bus_channel_by_relid(bus, le32_get(m->relid));
	const char *why = not_openable(bus, c, m);
	struct vmbus_msg_open_result reply = {
		.header.type = le32_make(VMBUS_MSG_OPEN_RESULT),
		.relid = m->relid,
		.open_id = m->open_id,
	};
	int r = why ? -EINVAL : open_channel(c, m);

	if (r < 0) {
		sp_debug("vmbus", c && c->device ? c->device->offer->name : "?", "channel %u is not opened: %s",
			 le32_get(m->relid), why ? why : strerror(-r));
		reply.status = le32_make(BUS_STATUS_FAILED);
	}
	bus_send(bus, &reply, sizeof(reply));
}

/* ---- close --------------------------------------------------------------------------------------------- */

void bus_channel_close(struct bus_channel *c)
{
	struct vmm_bus *bus = c->bus;

	if (!c->open)
		return;
	bus_channel_silence(c);
	/* Before the eventfd is closed: its number may soon be another file's. */
	bus->ops->unbind_signal(bus->ctx, BUS_CONNECTION_BASE + c->relid, c->end.event_fd);
	c->device->offer->ops->close(c->device->offer->device, &c->end);
	pthread_mutex_lock(&bus->lock);
	c->open = false;
	if (c->subchannel == 0)		/* whoever opens it next has not asked for any yet */
		c->device->subchannels_wanted = 0;
	pthread_mutex_unlock(&bus->lock);
	c->gpadl->user = NULL;
	drop_end(c);
}

void bus_device_close(struct vmm_bus *bus, const struct bus_device *d)
{
	for (uint32_t relid = 1; relid < VMBUS_CHANNELS_MAX; relid++) {
		struct bus_channel *c = bus->by_relid[relid];

		if (c && c->device == d && c->subchannel != 0)
			bus_channel_close(c);
	}
	for (uint32_t relid = 1; relid < VMBUS_CHANNELS_MAX; relid++) {
		struct bus_channel *c = bus->by_relid[relid];

		if (c && c->device == d)
			bus_channel_close(c);
	}
}

void bus_channel_close_by_guest(struct bus_channel *c)
{
	struct vmm_bus *bus = c->bus;

	if (c->subchannel != 0) {
		bus_channel_close(c);
		return;
	}
	bus_device_close(bus, c->device);
	/* A guest opens sub-channels as it hears of them: after the primary is opened again it asks for new ones, and
	 * to the old ones it would not listen. */
	bus_rescind_subchannels(bus, c->device);
}

/* ---- another processor --------------------------------------------------------------------------------- */

void bus_channel_modify(struct vmm_bus *bus, const struct vmbus_msg_modify *m)
{
	struct bus_channel *c = bus_channel_by_relid(bus, le32_get(m->relid));
	struct vmbus_msg_modify_response reply = {
		.header.type = le32_make(VMBUS_MSG_MODIFYCHANNEL_RESPONSE),
		.relid = m->relid,
	};

	if (bus->version < VMBUS_VERSION(4, 1))
		return;
	if (!c || !c->open || c->rescinded || !vp_ok(bus, le32_get(m->target_vp)))
		reply.status = le32_make(BUS_STATUS_FAILED);
	else if (!SP_SEED_BUG(BUS_KEEPS_OLD_VP))
		set_target(c, le32_get(m->target_vp), false);
	if (bus->version >= VMBUS_VERSION(5, 3))
		bus_send(bus, &reply, sizeof(reply));
}
