/* SPDX-License-Identifier: BSD-2-Clause */
/* Which snapshots there are, and deleting one while the guest goes on: a job that can be watched and cancelled. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "vhd/live.h"
#include "vmm/json_text.h"
#include "vmm/machine_int.h"
#include "vmm/machine_snapshot.h"
#include "vmm/machine_snapshot_int.h"
#include "vmm/machine_task.h"

#define JOB_ID "snapshot-delete"

struct machine_merge {
	struct vmm_machine *m;
	char name[256];
	struct machine_task task;
	struct sp_job job;
	_Atomic uint64_t done, total;	/* bytes, of the disk that is worked on */
	_Atomic unsigned at;		/* which disk that is */
	struct vhd_disk *disk[VHD_LIVE_DISKS_MAX];
	unsigned disks;
	struct vhd_live_merge_opts opts;
	struct vhd_live_merge_result result;	/* summed up */
	bool over;
	int res;
	struct sp_err err;
};

/* ---- list --------------------------------------------------------------------------------------------- */

static json_object *find_named(json_object *list, const char *name)
{
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		json_object *o = json_object_array_get_idx(list, i), *value;

		if (json_object_object_get_ex(o, "name", &value) && !strcmp(json_object_get_string(value), name))
			return o;
	}
	return NULL;
}

static json_object *describe_snapshot(const struct vhd_live_snapshot *s)
{
	json_object *o = json_object_new_object();
	char id[SP_GUID_TEXT];

	sp_guid_format_le(&s->set, id);
	vm_json_add_text(o, "name", s->name);
	vm_json_add_text(o, "parent", s->parent);
	json_object_object_add(o, "time", json_object_new_int64(s->time));
	vm_json_add_text(o, "level", s->level[0] ? s->level : "offline");
	if (!sp_guid_is_zero(&s->set))
		vm_json_add_text(o, "set", id);
	json_object_object_add(o, "disks", json_object_new_array());
	return o;
}

static void add_snapshot(json_object *list, const struct machine_disk *d, const struct vhd_live_snapshot *s)
{
	json_object *o = find_named(list, s->name), *on = json_object_new_object(), *disks;
	char device[16];

	if (!o) {
		o = describe_snapshot(s);
		json_object_array_add(list, o);
	}
	snprintf(device, sizeof(device), "scsi%u:%u", d->controller, d->at.lun);
	vm_json_add_text(on, "device", device);
	vm_json_add_text(on, "file", s->file);
	json_object_object_add(on, "merging", json_object_new_boolean(s->merging));
	json_object_object_get_ex(o, "disks", &disks);
	json_object_array_add(disks, on);
}

int vmm_machine_snapshots(struct vmm_machine *m, json_object **ret, struct sp_err *err)
{
	json_object *list = json_object_new_array();

	for (struct machine_disk *d = m->disks; d; d = d->next) {
		struct vhd_live_snapshot *found;
		size_t count;
		int r;

		if (!d->disk || d->config.dvd || d->scratch)
			continue;
		r = vhd_live_list(d->disk, &found, &count, err);
		if (r < 0) {
			json_object_put(list);
			return r;
		}
		for (size_t i = 0; i < count; i++)
			add_snapshot(list, d, &found[i]);
		vhd_live_list_free(found);
	}
	*ret = list;
	return 0;
}

/* ---- delete ------------------------------------------------------------------------------------------- */

static json_object *describe_job(struct machine_merge *j)
{
	json_object *o = json_object_new_object();

	vm_json_add_text(o, "id", JOB_ID);
	vm_json_add_text(o, "type", JOB_ID);
	vm_json_add_text(o, "status", !j->over ? "running" : "concluded");
	vm_json_add_text(o, "snapshot", j->name);
	json_object_object_add(o, "disk", json_object_new_int((int)j->at));
	json_object_object_add(o, "disks", json_object_new_int((int)j->disks));
	json_object_object_add(o, "current-progress", json_object_new_uint64(j->done));
	json_object_object_add(o, "total-progress", json_object_new_uint64(j->total));
	if (j->over) {
		json_object_object_add(o, "bytes-moved", json_object_new_uint64(j->result.bytes_moved));
		json_object_object_add(o, "pause_ms", json_object_new_double((double)j->result.pause_ns / 1e6));
	}
	if (j->over && j->res < 0)
		vm_json_add_text(o, "error", sp_err_text(&j->err));
	return o;
}

static void on_progress(void *ctx, uint64_t done, uint64_t total)
{
	struct machine_merge *j = ctx;

	j->done = done;
	j->total = total;
}

/* Some disks may have been added later than the snapshot, or be done from an earlier try. */
static void work(void *ctx)
{
	struct machine_merge *j = ctx;
	unsigned had = 0;

	for (j->at = 0; j->res == 0 && j->at < j->disks; j->at++) {
		struct vhd_live_merge_result one = { 0 };
		int r = vhd_live_merge(j->disk[j->at], j->name, &j->opts, &j->job, &one, &j->err);

		had += r != -ENOENT;
		j->res = r == -ENOENT ? 0 : r;
		j->result.bytes_moved += one.bytes_moved;
		if (one.pause_ns > j->result.pause_ns)
			j->result.pause_ns = one.pause_ns;
	}
	if (j->res == 0 && !had)
		j->res = sp_err_set(&j->err, -ENOENT, "no disk of the machine has a snapshot \"%s\"", j->name);
}

static void worked(void *ctx)
{
	struct machine_merge *j = ctx;

	j->over = true;
	machine_event(j->m, "JOB_STATUS_CHANGE", describe_job(j));
	if (j->res == 0)
		machine_event(j->m, "SNAPSHOT_DELETED", describe_job(j));
}

bool machine_merge_runs(const struct vmm_machine *m)
{
	return m->merge && !m->merge->over;
}

void machine_merge_free(struct vmm_machine *m)
{
	if (!m->merge)
		return;
	m->merge->job.cancel = true;
	machine_task_fini(&m->merge->task);
	sp_free(sp_take(m->merge));
}

int vmm_machine_snapshot_delete(struct vmm_machine *m, const char *name, uint64_t rate, struct sp_err *err)
{
	struct machine_merge *j;
	int r;

	if (machine_snapshot_runs(m))
		return sp_err_set(err, -EBUSY, "a snapshot is being made or deleted");
	machine_merge_free(m);
	j = sp_zalloc(sizeof(*j));
	if (!j)
		return sp_err_set(err, -ENOMEM, "out of memory");
	j->m = m;
	j->opts.rate_limit = rate;
	j->job.progress = on_progress;
	j->job.arg = j;
	snprintf(j->name, sizeof(j->name), "%s", name);
	for (struct machine_disk *d = m->disks; d && j->disks < VHD_LIVE_DISKS_MAX; d = d->next)
		if (d->disk && !d->config.dvd && !d->scratch && vhd_disk_writable(d->disk))
			j->disk[j->disks++] = d->disk;
	r = machine_task_init(&j->task, m->loop, j);
	if (r == 0)
		r = machine_task_start(&j->task, work, worked);
	if (r < 0) {
		machine_task_fini(&j->task);
		sp_free(j);
		return sp_err_set(err, r, "cannot begin: %s", strerror(-r));
	}
	m->merge = j;
	machine_event(m, "JOB_STATUS_CHANGE", describe_job(j));
	return 0;
}

json_object *vmm_machine_jobs(struct vmm_machine *m)
{
	json_object *list = json_object_new_array();

	if (m->merge)
		json_object_array_add(list, describe_job(m->merge));
	return list;
}

int vmm_machine_job_cancel(struct vmm_machine *m, const char *id, struct sp_err *err)
{
	if (!machine_merge_runs(m) || strcmp(id, JOB_ID))
		return sp_err_set(err, -ENOENT, "no job \"%s\" runs", id);
	m->merge->job.cancel = true;
	return 0;
}
