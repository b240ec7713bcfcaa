/* SPDX-License-Identifier: BSD-2-Clause */
/* The bus as people want to see it. */
#include <json-c/json.h>
#include <stdio.h>

#include "vmm/json_text.h"
#include "vmm/vmbus_int.h"

static void add_number(json_object *object, const char *key, uint64_t value)
{
	json_object_object_add(object, key, json_object_new_uint64(value));
}

static uint64_t counter(const uint64_t *value)
{
	return __atomic_load_n(value, __ATOMIC_RELAXED);
}

static const char *channel_state(const struct bus_channel *c)
{
	return c->rescinded ? "rescinded" : c->open ? "open" : c->announced ? "offered" : "hidden";
}

static void add_end(json_object *o, struct bus_channel *c)
{
	uint32_t vp;

	pthread_mutex_lock(&c->signal_lock);
	vp = c->target_vp;
	pthread_mutex_unlock(&c->signal_lock);
	if (vp != BUS_NO_VP)
		add_number(o, "vp", vp);
	add_number(o, "ring_in", c->end.in.ring.size);
	add_number(o, "ring_out", c->end.out.ring.size);
	add_number(o, "packets_in", counter(&c->end.packets_in));
	add_number(o, "packets_out", counter(&c->end.packets_out));
	add_number(o, "signals_in", counter(&c->end.signals_received));
	add_number(o, "signals_out", counter(&c->end.signals_sent));
	add_number(o, "out_full", counter(&c->end.out_full));
}

static json_object *describe_channel(struct bus_channel *c)
{
	json_object *o = json_object_new_object();
	char guid[SP_GUID_TEXT];

	if (!o)
		return NULL;
	if (c->device) {
		vm_json_add_text(o, "name", c->device->offer->name);
		sp_guid_format_le(&c->device->offer->instance_guid, guid);
		vm_json_add_text(o, "instance", guid);
	}
	add_number(o, "id", c->relid);
	add_number(o, "subchannel", c->subchannel);
	vm_json_add_text(o, "state", channel_state(c));
	if (c->open)
		add_end(o, c);
	return o;
}

void vmm_bus_describe(struct vmm_bus *bus, void *json_object_out)
{
	static const char *const states[] = { "disconnected", "connected", "offered" };
	json_object *o = json_object_out, *channels = json_object_new_array();
	char version[16];

	pthread_mutex_lock(&bus->lock);
	vm_json_add_text(o, "state", states[bus->state]);
	if (bus->version != 0) {
		snprintf(version, sizeof(version), "%u.%u", bus->version >> 16, bus->version & 0xffff);
		vm_json_add_text(o, "version", version);
	}
	for (uint32_t relid = 1; channels && relid < VMBUS_CHANNELS_MAX; relid++) {
		if (bus->by_relid[relid])
			json_object_array_add(channels, describe_channel(bus->by_relid[relid]));
	}
	add_number(o, "gpadls", bus->gpadl_count);
	add_number(o, "gpadl_pages", bus->page_count);
	add_number(o, "messages_received", bus->received);
	add_number(o, "messages_refused", bus->refused);
	add_number(o, "messages_ignored", bus->ignored);
	add_number(o, "messages_sent", bus->posted);
	pthread_mutex_unlock(&bus->lock);
	json_object_object_add(o, "channels", channels);
}
