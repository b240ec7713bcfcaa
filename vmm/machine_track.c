/* SPDX-License-Identifier: BSD-2-Clause */
/* Change tracking of the machine's disks: begun when they are opened, asked over the control socket. */
#include "vmm/machine_track.h"

#include <errno.h>
#include <stdio.h>

#include "base/bytes.h"
#include "vhd/track.h"
#include "vmm/json_text.h"
#include "vmm/machine_int.h"

/* Where changes were recorded before they have to be recorded on: what this run writes would else be nobody's. */
int machine_track_begin(struct machine_disk *d, struct sp_err *err)
{
	struct sp_err why = { 0 };
	int r;

	if (!d->disk || d->config.dvd || d->scratch || !vhd_disk_writable(d->disk))
		return 0;
	r = vhd_disk_track(d->disk, d->config.track, &why);
	if (r < 0 && d->config.track)
		return sp_err_set(err, r, "track: %s", sp_err_text(&why));
	if (r < 0 && r != -ENOENT && r != -ENOTSUP)
		fprintf(stderr, "spindle-vm: %s: changes are not tracked any more: %s\n", d->config.path,
			sp_err_text(&why));
	return 0;
}

static struct vhd_disk *find(struct vmm_machine *m, const char *at, struct sp_err *err)
{
	struct machine_disk *d = machine_disk_find(m, at);

	if (d && d->disk)
		return d->disk;
	sp_err_set(err, -ENOENT, "no disk at \"%s\"; disks are called scsi0:0, scsi0:1, ...", at);
	return NULL;
}

int vmm_machine_track_points(struct vmm_machine *m, const char *at, json_object **ret, struct sp_err *err)
{
	struct vhd_track_point *point = NULL;
	struct vhd_disk *d = find(m, at, err);
	size_t count = 0;
	int r;

	if (!d)
		return -ENOENT;
	r = vhd_track_list(d, &point, &count, err);
	if (r < 0 && r != -ENOENT)
		return r;
	*ret = json_object_new_array();
	for (size_t i = 0; i < count; i++) {
		json_object *o = json_object_new_object();
		char id[SP_GUID_TEXT];

		sp_guid_format_le(&point[i].id, id);
		vm_json_add_text(o, "name", point[i].name);
		vm_json_add_text(o, "id", id);
		json_object_object_add(o, "time", json_object_new_int64(point[i].time));
		json_object_object_add(o, "exact", json_object_new_boolean(point[i].why == VHD_TRACK_EXACT));
		json_object_array_add(*ret, o);
	}
	vhd_track_list_free(point);
	return 0;
}

struct page {
	json_object *ranges;
	uint64_t from, limit, next;
	bool more;
};

static int add_range(void *user, uint64_t offset, uint64_t len)
{
	struct page *p = user;
	json_object *range;

	if (offset + len <= p->from || p->more)
		return 0;
	if (json_object_array_length(p->ranges) == p->limit) {
		p->more = true;
		p->next = offset;
		return 0;
	}
	range = json_object_new_array();
	json_object_array_add(range, json_object_new_uint64(offset));
	json_object_array_add(range, json_object_new_uint64(len));
	json_object_array_add(p->ranges, range);
	return 0;
}

int vmm_machine_track_changes(struct vmm_machine *m, const char *at, const char *since, const char *until,
			      uint64_t offset, uint64_t limit, json_object **ret, struct sp_err *err)
{
	struct page p = { .from = offset, .limit = limit && limit < VMM_CHANGES_MAX ? limit : VMM_CHANGES_MAX };
	struct vhd_track_answer a;
	struct vhd_disk *d = find(m, at, err);
	int r;

	if (!d)
		return -ENOENT;
	p.ranges = json_object_new_array();
	r = vhd_track_changes(d, since, until, add_range, &p, &a, err);
	if (r < 0) {
		json_object_put(p.ranges);
		return r;
	}
	*ret = json_object_new_object();
	json_object_object_add(*ret, "exact", json_object_new_boolean(a.why == VHD_TRACK_EXACT));
	vm_json_add_text(*ret, "reason", a.reason);
	json_object_object_add(*ret, "bytes", json_object_new_uint64(a.bytes));
	json_object_object_add(*ret, "size", json_object_new_uint64(a.size));
	json_object_object_add(*ret, "granularity", json_object_new_uint64(a.granularity));
	json_object_object_add(*ret, "ranges", p.ranges);
	if (p.more)
		json_object_object_add(*ret, "next", json_object_new_uint64(p.next));
	return 0;
}

int vmm_machine_track_forget(struct vmm_machine *m, const char *at, const char *point, struct sp_err *err)
{
	struct vhd_disk *d = find(m, at, err);

	return d ? vhd_track_forget(d, point, err) : -ENOENT;
}
