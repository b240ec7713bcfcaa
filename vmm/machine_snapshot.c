/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A snapshot set of the machine: its guest and its requester are the writers, the live engine is the provider. The set
 * itself is vss/'s; here it gets time, threads and disks.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/env.h"
#include "vhd/live.h"
#include "vhd/track.h"
#include "vmm/json_text.h"
#include "vmm/machine_int.h"
#include "vmm/machine_requester.h"
#include "vmm/machine_snapshot.h"
#include "vmm/machine_snapshot_int.h"
#include "vmm/machine_task.h"
#include "vmm/vss_guest.h"

#define NAME_MAX_BYTES 200
#define NS_PER_MS      1000000ull

struct machine_snapshot {
	struct vmm_machine *m;
	char name[NAME_MAX_BYTES + 1];
	char track_point[VHD_TRACK_NAME_MAX];	/* "": none */
	enum vss_level require;
	struct vss_set *set;
	struct vmm_watch *timer;
	struct machine_task task;
	int guest;			/* writer; -1: not asked */
	bool guest_paused;
	struct machine_requester requester;
	const void *owner;

	/* The provider; the task's thread while it runs. */
	struct vhd_disk *disk[VHD_LIVE_DISKS_MAX];
	uint32_t block_size[VHD_LIVE_DISKS_MAX];
	bool has_point[VHD_LIVE_DISKS_MAX];
	unsigned disks;
	struct vhd_live_set *live;
	struct vhd_live_timing timing;
	struct sp_guid id;
	bool committed;
	enum vss_op op;
	enum vss_level level;
	struct sp_err err;
	int res;
};

static void settle(struct machine_snapshot *s);

/* ---- provider ----------------------------------------------------------------------------------------- */

static void note_blocks(struct machine_snapshot *s, bool raise)
{
	unsigned i = 0;

	for (struct machine_disk *d = s->m->disks; d; d = d->next) {
		struct vhd_layer_info info = { 0 };

		if (i == s->disks || d->disk != s->disk[i])
			continue;
		vhd_disk_layer_info(d->disk, 0, &info);
		if (raise && info.block_size != s->block_size[i])
			scsi_lu_parameters_changed(storvsp_lu(s->m->controller[d->controller].vsp, d->at));
		s->block_size[i++] = info.block_size;
	}
}

/* A switch that came too late has nevertheless happened: what it made is merged away again. */
static void undo(struct machine_snapshot *s)
{
	if (!s->committed) {
		vhd_live_abort(sp_take(s->live));
		return;
	}
	s->res = vhd_live_finish(sp_take(s->live), NULL, &s->err);
	for (unsigned i = 0; i < s->disks; i++) {
		int r = s->has_point[i] ? vhd_track_forget(s->disk[i], s->track_point, &s->err) : 0;

		s->res = s->res ? s->res : r;
		r = vhd_live_merge(s->disk[i], s->name, NULL, NULL, NULL, &s->err);

		s->res = s->res ? s->res : r;
	}
}

/* A disk that cannot be tracked is part of the snapshot nevertheless. */
static int make_ready(struct machine_snapshot *s)
{
	const struct vhd_live_opts opts = {
		.name = s->name, .set = s->id, .track_point = *s->track_point ? s->track_point : NULL,
	};

	for (unsigned i = 0; *s->track_point && i < s->disks; i++)
		vhd_disk_track(s->disk[i], true, NULL);
	return vhd_live_prepare(s->disk, s->disks, &opts, &s->live, &s->err);
}

static int change_over(struct machine_snapshot *s)
{
	int r = vhd_live_commit(s->live, false, &s->timing, &s->err);

	s->committed = r == 0;
	for (unsigned i = 0; r == 0 && i < s->disks; i++)
		s->has_point[i] = vhd_live_point(s->live, i) == 0;
	return r;
}

static void work(void *ctx)
{
	struct machine_snapshot *s = ctx;

	s->res = 0;
	switch (s->op) {
	case VSS_OP_PREPARE:
		s->res = make_ready(s);
		break;
	case VSS_OP_COMMIT:
		s->res = change_over(s);
		break;
	case VSS_OP_FINISH:
		s->res = vhd_live_finish(sp_take(s->live), vss_level_name(s->level), &s->err);
		break;
	default:
		undo(s);
	}
}

static void worked(void *ctx)
{
	struct machine_snapshot *s = ctx;

	vss_answer(s->set, VSS_PROVIDER, s->op, s->res, VSS_REASON_NONE, sp_env_monotonic_ns());
	settle(s);
}

static void begin(struct machine_snapshot *s, enum vss_op op)
{
	int r;

	s->op = op;
	r = machine_task_start(&s->task, work, worked);
	if (r == 0)
		return;
	sp_err_set(&s->err, r, "cannot start a thread: %s", strerror(-r));
	vss_answer(s->set, VSS_PROVIDER, op, r, VSS_REASON_NONE, sp_env_monotonic_ns());
}

static void prepare(void *ctx)
{
	begin(ctx, VSS_OP_PREPARE);
}

static void commit(void *ctx)
{
	begin(ctx, VSS_OP_COMMIT);
}

static void finish(void *ctx, enum vss_level level)
{
	struct machine_snapshot *s = ctx;

	s->level = level;
	begin(s, VSS_OP_FINISH);
}

static void take_back(void *ctx)
{
	begin(ctx, VSS_OP_ABORT);
}

/* ---- writers ------------------------------------------------------------------------------------------ */

static void guest_answered(void *ctx, enum vss_op op, int res, enum vss_reason why)
{
	struct machine_snapshot *s = ctx;

	vss_answer(s->set, s->guest, op, res, why, sp_env_monotonic_ns());
	settle(s);
}

static int add_guest(struct machine_snapshot *s)
{
	const struct vss_writer w = {
		.name = "guest", .stage = VSS_STAGE_GUEST, .grants = VSS_FILE_SYSTEM, .ops = &vmm_vss_guest_ops,
		.ctx = s->m->vss_guest,
	};

	s->guest = vss_add_writer(s->set, &w);
	vmm_vss_guest_answer_to(s->m->vss_guest, guest_answered, s);
	return s->guest < 0 ? s->guest : 0;
}

static int add_writers(struct machine_snapshot *s, const struct vmm_snapshot_opts *o)
{
	int r = 0;

	s->guest = -1;
	if (!o->no_quiesce)
		r = add_guest(s);
	return r < 0 ? r : machine_requester_init(&s->requester, s->m, s->set, s->name, o);
}

/* ---- ends --------------------------------------------------------------------------------------------- */

static void add_ms(json_object *o, const char *key, uint64_t ns)
{
	json_object_object_add(o, key, json_object_new_double((double)(ns / 1000) / 1000));
}

static json_object *describe_writers(struct machine_snapshot *s, unsigned count)
{
	json_object *list = json_object_new_array();

	for (unsigned i = 0; i < count; i++) {
		json_object *o = json_object_new_object();
		struct vss_writer_result w;

		vss_writer_result(s->set, i, &w);
		vm_json_add_text(o, "name", w.name);
		json_object_object_add(o, "frozen", json_object_new_boolean(w.frozen));
		json_object_object_add(o, "thawed", json_object_new_boolean(w.released));
		vm_json_add_text(o, "reason", vss_reason_name(w.reason));
		add_ms(o, "freeze_ms", w.freeze_ns);
		add_ms(o, "thaw_ms", w.thaw_ns);
		json_object_array_add(list, o);
	}
	return list;
}

/* The devices whose side-car has the point. */
static json_object *describe_points(struct machine_snapshot *s)
{
	json_object *list = json_object_new_array();
	char device[16];

	for (struct machine_disk *d = s->m->disks; d; d = d->next)
		for (unsigned i = 0; i < s->disks; i++) {
			if (s->disk[i] != d->disk || !s->has_point[i])
				continue;
			snprintf(device, sizeof(device), "scsi%u:%u", d->controller, d->at.lun);
			json_object_array_add(list, json_object_new_string(device));
		}
	return list;
}

static json_object *describe(struct machine_snapshot *s)
{
	json_object *o = json_object_new_object();
	char id[SP_GUID_TEXT];
	struct vss_result r;

	vss_result(s->set, &r);
	sp_guid_format_le(&s->id, id);
	vm_json_add_text(o, "name", s->name);
	vm_json_add_text(o, "set", id);
	if (vss_state(s->set) == VSS_DONE) {
		vm_json_add_text(o, "level", vss_level_name(r.level));
		json_object_object_add(o, "time", json_object_new_int64(s->timing.time));
	}
	vm_json_add_text(o, "reason", vss_reason_name(r.reason));
	vm_json_add_text(o, "required", vss_level_name(s->require));
	if (r.error && s->err.code)
		vm_json_add_text(o, "error", sp_err_text(&s->err));
	json_object_object_add(o, "disks", json_object_new_int((int)s->disks));
	if (*s->track_point) {
		vm_json_add_text(o, "track-point", s->track_point);
		json_object_object_add(o, "tracked", describe_points(s));
	}
	add_ms(o, "freeze_ms", r.freeze_ns);
	add_ms(o, "hold_ms", r.hold_ns);
	add_ms(o, "pause_ms", s->timing.pause_ns);
	json_object_object_add(o, "writers", describe_writers(s, r.writers));
	return o;
}

static void tell_end(struct machine_snapshot *s)
{
	if (s->committed)
		note_blocks(s, true);
	machine_event(s->m, vss_state(s->set) == VSS_DONE ? "SNAPSHOT_CREATED" : "SNAPSHOT_FAILED", describe(s));
}

static void snapshot_free(struct machine_snapshot *s)
{
	vmm_vss_guest_answer_to(s->m->vss_guest, NULL, NULL);
	machine_task_fini(&s->task);
	vmm_loop_remove(s->timer);
	vss_set_free(s->set);
	if (s->live && s->committed)
		vhd_live_finish(s->live, NULL, NULL);
	else
		vhd_live_abort(s->live);
	sp_free(s);
}

/* After everything that moves the set on. @s may be gone. */
static void settle(struct machine_snapshot *s)
{
	uint64_t now = sp_env_monotonic_ns(), at;

	/* Told when everything has been taken back, too: who hears of a failure may try again. */
	if (vss_over(s->set) && !vss_busy(s->set)) {
		s->m->snapshot = NULL;
		tell_end(s);
		snapshot_free(s);
		return;
	}
	at = vss_deadline_ns(s->set);
	if (at != UINT64_MAX)
		vmm_loop_timer_set(s->timer, at > now ? (unsigned)((at - now) / NS_PER_MS) + 1 : 1, 0);
}

static void on_timer(void *ctx)
{
	struct machine_snapshot *s = ctx;
	uint64_t now = sp_env_monotonic_ns();

	if (vss_state(s->set) == VSS_IDLE)
		vss_start(s->set, now);
	else
		vss_tick(s->set, now);
	settle(s);
}

/* ---- from outside ------------------------------------------------------------------------------------- */

static int choose_disks(struct machine_snapshot *s, struct sp_err *err)
{
	for (struct machine_disk *d = s->m->disks; d; d = d->next) {
		if (!d->disk || d->config.dvd || d->scratch || !vhd_disk_writable(d->disk))
			continue;
		if (s->disks == VHD_LIVE_DISKS_MAX)
			return sp_err_set(err, -ENOSPC, "a set has at most %u disks", VHD_LIVE_DISKS_MAX);
		s->disk[s->disks++] = d->disk;
	}
	note_blocks(s, false);
	return s->disks ? 0 : sp_err_set(err, -ENOENT, "the machine has no disk that is writable and kept");
}

static int set_new(struct machine_snapshot *s, const struct vmm_snapshot_opts *o)
{
	const struct vss_provider provider = { prepare, commit, finish, take_back, s };
	struct vss_opts opts = { .require = o->require, .check_ms = o->check_ms, .freeze_ms = o->freeze_ms };
	int r;

	if (o->freeze_ms && o->freeze_ms < 20000)
		opts.hold_ms = o->freeze_ms / 2;
	if (o->freeze_ms && o->freeze_ms < 35000)
		opts.thaw_ms = o->freeze_ms;
	r = vss_set_new(&opts, &provider, &s->set);
	return r < 0 ? r : add_writers(s, o);
}

/* An answer names its writer, and a guest's name is not for others. */
static int check_names(const struct vmm_snapshot_opts *o, struct sp_err *err)
{
	if (o->writers > VMM_SNAPSHOT_WRITERS_MAX)
		return sp_err_set(err, -E2BIG, "%u writers: at most %u are possible", o->writers,
				  VMM_SNAPSHOT_WRITERS_MAX);
	for (unsigned i = 0; i < o->writers; i++) {
		const char *name = o->writer[i].name;
		bool again = strcmp(name, "guest") == 0 || strcmp(name, "requester") == 0;

		for (unsigned j = 0; j < i; j++)
			again = again || strcmp(name, o->writer[j].name) == 0;
		if (again || !*name || strlen(name) > 63)
			return sp_err_set(err, -EINVAL, "writer \"%s\": a name has 1 to 63 bytes and is used once",
					  name);
	}
	return 0;
}

static int check_opts(struct vmm_machine *m, const struct vmm_snapshot_opts *o, struct sp_err *err)
{
	if (m->snapshot || machine_merge_runs(m))
		return sp_err_set(err, -EBUSY, "a snapshot is being made or deleted");
	if (!*o->name || strlen(o->name) > NAME_MAX_BYTES)
		return sp_err_set(err, -EINVAL, "a snapshot's name has 1 to %d bytes", NAME_MAX_BYTES);
	if (o->track_point && (!*o->track_point || strlen(o->track_point) >= VHD_TRACK_NAME_MAX))
		return sp_err_set(err, -EINVAL, "a tracking point's name has 1 to %d bytes", VHD_TRACK_NAME_MAX - 1);
	if (o->no_quiesce && (o->writers || (o->phases & VMM_PHASE_APPLICATION)))
		return sp_err_set(err, -EINVAL, "without quiescing there are no writers and no scripts to run");
	return check_names(o, err);
}

int vmm_machine_snapshot(struct vmm_machine *m, const struct vmm_snapshot_opts *opts, struct sp_err *err)
{
	struct vmm_snapshot_opts o = *opts;
	struct machine_snapshot *s;
	int r = check_opts(m, &o, err);

	if (r < 0)
		return r;
	s = sp_zalloc(sizeof(*s));
	if (!s)
		return sp_err_set(err, -ENOMEM, "out of memory");
	s->m = m;
	s->require = o.require;
	s->owner = o.owner;
	snprintf(s->name, sizeof(s->name), "%s", o.name);
	snprintf(s->track_point, sizeof(s->track_point), "%s", o.track_point ? o.track_point : "");
	sp_env_guid(&s->id);
	r = choose_disks(s, err);
	if (r == 0 && (machine_task_init(&s->task, m->loop, s) < 0 || set_new(s, &o) < 0 ||
		       vmm_loop_timer(m->loop, 1, 0, on_timer, s, &s->timer) < 0))
		r = sp_err_set(err, -ENOMEM, "out of memory or descriptors");
	if (r < 0)
		snapshot_free(s);
	else
		m->snapshot = s;	/* the timer starts it: who asked hears the answer before the events */
	return r;
}

int vmm_machine_snapshot_answer(struct vmm_machine *m, const struct vmm_snapshot_answer *answer, struct sp_err *err)
{
	struct machine_snapshot *s = m->snapshot;

	if (!s || !machine_requester_answer(&s->requester, answer))
		return sp_err_set(err, -ENOENT, "no snapshot waits for the answer to \"%s\"", answer->phase);
	settle(s);
	return 0;
}

void vmm_machine_snapshot_owner_gone(struct vmm_machine *m, const void *owner)
{
	struct machine_snapshot *s = m->snapshot;

	if (!s || s->owner != owner)
		return;
	s->owner = NULL;
	machine_requester_gone(&s->requester);
	settle(s);
}

int vmm_machine_snapshot_abort(struct vmm_machine *m, struct sp_err *err)
{
	struct machine_snapshot *s = m->snapshot;

	if (!s)
		return sp_err_set(err, -ENOENT, "no snapshot is being made");
	vss_abort(s->set, sp_env_monotonic_ns());
	settle(s);
	return 0;
}

bool machine_snapshot_runs(const struct vmm_machine *m)
{
	return m->snapshot || machine_merge_runs(m);
}

void machine_snapshot_reset(struct vmm_machine *m)
{
	vmm_vss_guest_reset(m->vss_guest);
}

int machine_snapshots_new(struct vmm_machine *m, struct sp_err *err)
{
	int r = vmm_vss_guest_new(m->service[VMM_IC_VSS], m->loop, &m->vss_guest);

	return r < 0 ? sp_err_set(err, r, "snapshots: %s", strerror(-r)) : 0;
}

void machine_snapshots_free(struct vmm_machine *m)
{
	machine_merge_free(m);
	if (m->snapshot)
		snapshot_free(sp_take(m->snapshot));
	vmm_vss_guest_free(sp_take(m->vss_guest));
}
