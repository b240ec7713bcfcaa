/* SPDX-License-Identifier: BSD-2-Clause */
/* What the machine says of itself, as JSON with stable keys (documented in the manual page). */
#include <json-c/json.h>
#include <stdio.h>

#include "base/env.h"
#include "vmm/machine_int.h"

static void add_string(json_object *o, const char *key, const char *value)
{
	json_object_object_add(o, key, value ? json_object_new_string(value) : NULL);
}

static void add_u64(json_object *o, const char *key, uint64_t value)
{
	json_object_object_add(o, key, json_object_new_uint64(value));
}

static void add_guid(json_object *o, const char *key, const struct sp_guid *id)
{
	char text[SP_GUID_TEXT];

	sp_guid_format_le(id, text);
	add_string(o, key, text);
}

static json_object *services(struct vmm_machine *m)
{
	static const char *const name[MACHINE_SERVICES] = { "shutdown", "heartbeat", "timesync", "kvp", "vss" };
	json_object *o = json_object_new_object();

	for (unsigned i = 0; o && i < MACHINE_SERVICES; i++)
		json_object_object_add(o, name[i], vmm_ic_describe(m->service[i]));
	return o;
}

static json_object *bus(struct vmm_machine *m)
{
	json_object *o = json_object_new_object();

	if (o)
		vmm_bus_describe(m->bus, o);
	return o;
}

void *vmm_machine_status(struct vmm_machine *m)
{
	json_object *o = json_object_new_object();

	if (!o)
		return NULL;
	add_string(o, "name", m->config->name);
	add_string(o, "status", vmm_state_name(m->state));
	json_object_object_add(o, "running", json_object_new_boolean(m->state == VMM_RUNNING));
	add_u64(o, "memory_mib", m->config->memory >> 20);
	add_u64(o, "cpus", m->config->cpus);
	add_guid(o, "id", &m->config->id);
	if (m->started_ns)
		add_u64(o, "uptime_seconds", (sp_env_monotonic_ns() - m->started_ns) / 1000000000);
	add_u64(o, "resets", m->resets);
	add_string(o, "console", vmm_serial_backend_name(m->console));
	add_u64(o, "console_bytes_dropped", vmm_serial_backend_dropped(m->console));
	if (m->failure.code)
		add_string(o, "failure", sp_err_text(&m->failure));
	json_object_object_add(o, "vmbus", bus(m));
	json_object_object_add(o, "services", services(m));
	return o;
}

/* ---- disks -------------------------------------------------------------------------------------------- */

static json_object *chain(struct vhd_disk *d)
{
	json_object *list = json_object_new_array();

	for (unsigned i = 0; list && i < vhd_disk_layers(d); i++) {
		struct vhd_layer_info info;
		json_object *layer = json_object_new_object();

		if (!layer || vhd_disk_layer_info(d, i, &info) < 0) {
			json_object_put(layer);
			continue;
		}
		add_string(layer, "filename", info.path);
		add_string(layer, "format", vhd_format_name(info.format));
		add_string(layer, "kind", vhd_kind_name(info.kind));
		json_object_array_add(list, layer);
	}
	return list;
}

static void add_limits(json_object *o, const struct vmm_disk_config *c)
{
	json_object *limits = json_object_new_object();

	if (!limits)
		return;
	add_u64(limits, "iops", c->iops);
	add_u64(limits, "bps", c->bps);
	add_u64(limits, "burst_iops", c->burst_iops);
	add_u64(limits, "burst_bps", c->burst_bps);
	add_u64(limits, "min_iops", c->min_iops);
	json_object_object_add(o, "limits", limits);
}

static json_object *disk(const struct machine_disk *d)
{
	json_object *o = json_object_new_object();
	char name[16];

	if (!o)
		return NULL;
	snprintf(name, sizeof(name), "scsi%u:%u", d->controller, d->at.lun);
	add_string(o, "device", name);
	add_string(o, "type", d->config.dvd ? "dvd" : "disk");
	add_string(o, "filename", d->config.path);
	json_object_object_add(o, "read_only", json_object_new_boolean(d->config.read_only || d->config.dvd));
	json_object_object_add(o, "throw_away", json_object_new_boolean(d->config.snapshot));
	add_guid(o, "identity", &d->identity);
	if (!d->disk)
		return o;
	add_u64(o, "size", vhd_disk_size(d->disk));
	add_u64(o, "logical_block", vhd_disk_logical_sector(d->disk));
	add_u64(o, "physical_block", vhd_disk_physical_sector(d->disk));
	json_object_object_add(o, "failed", json_object_new_boolean(vhd_disk_poisoned(d->disk) != 0));
	json_object_object_add(o, "chain", chain(d->disk));
	add_limits(o, &d->config);
	return o;
}

void *vmm_machine_block(struct vmm_machine *m)
{
	json_object *list = json_object_new_array();

	for (const struct machine_disk *d = m->disks; list && d; d = d->next) {
		json_object *one = disk(d);

		if (one)
			json_object_array_add(list, one);
	}
	return list;
}

void *vmm_machine_stats(struct vmm_machine *m)
{
	json_object *o = json_object_new_object();

	for (unsigned i = 0; o && i < VMM_CONTROLLERS; i++)
		if (m->controller[i].vsp)
			json_object_object_add(o, m->controller[i].name, storvsp_describe(m->controller[i].vsp));
	return o;
}

/* As QEMU's query-blockstats has it. */
static json_object *block_stats(struct vmm_machine *m, const struct machine_disk *d)
{
	struct storvsp_lun_stats s;
	json_object *o = json_object_new_object(), *stats = json_object_new_object();
	char name[16];

	if (!o || !stats || storvsp_lun_stats(m->controller[d->controller].vsp, d->at, &s) < 0) {
		json_object_put(o);
		json_object_put(stats);
		return NULL;
	}
	snprintf(name, sizeof(name), "scsi%u:%u", d->controller, d->at.lun);
	add_string(o, "device", name);
	add_u64(stats, "rd_operations", s.scsi.reads);
	add_u64(stats, "wr_operations", s.scsi.writes);
	add_u64(stats, "flush_operations", s.scsi.flushes);
	add_u64(stats, "unmap_operations", s.scsi.unmaps);
	add_u64(stats, "rd_bytes", s.scsi.read_bytes);
	add_u64(stats, "wr_bytes", s.scsi.write_bytes);
	add_u64(stats, "unmap_bytes", s.scsi.unmap_bytes);
	add_u64(stats, "rd_total_time_ns", s.scsi.read_ns);
	add_u64(stats, "wr_total_time_ns", s.scsi.write_ns);
	add_u64(stats, "flush_total_time_ns", s.scsi.flush_ns);
	add_u64(stats, "failed_operations", s.scsi.errors);
	add_u64(stats, "throttled_operations", s.throttled);
	json_object_object_add(o, "stats", stats);
	return o;
}

void *vmm_machine_blockstats(struct vmm_machine *m)
{
	json_object *list = json_object_new_array();

	for (const struct machine_disk *d = m->disks; list && d; d = d->next) {
		json_object *one = block_stats(m, d);

		if (one)
			json_object_array_add(list, one);
	}
	return list;
}
