/* SPDX-License-Identifier: BSD-2-Clause */
/* Snapshots over the control socket. What takes time answers at once and tells its end by an event. */
#include <errno.h>
#include <string.h>

#include "vmm/control_int.h"
#include "vmm/machine_snapshot.h"

static int level_of(json_object *arguments, enum vss_level *ret, struct sp_err *err)
{
	const char *text = control_text(arguments, "require");

	*ret = VSS_CRASH;
	if (!text || vss_level_from_name(text, ret) == 0)
		return 0;
	return sp_err_set(err, -EINVAL, "level \"%s\": crash, file-system and application are possible", text);
}

static int milliseconds_of(json_object *arguments, const char *key, unsigned *ret, struct sp_err *err)
{
	uint64_t ms;
	int r = control_number(arguments, key, 0, &ms, err);

	if (r == 0 && ms > 900000)
		r = sp_err_set(err, -EINVAL, "\"%s\" is above 900000, 15 minutes", key);
	*ret = r == 0 ? (unsigned)ms : 0;
	return r;
}

static int writer_of(json_object *o, struct vmm_snapshot_writer *ret, struct sp_err *err)
{
	const char *level = control_text(o, "level");

	ret->name = control_text(o, "name");
	ret->grants = VSS_APPLICATION;
	if (!json_object_is_type(o, json_type_object) || !ret->name ||
	    (json_object_object_get_ex(o, "level", NULL) && (!level || vss_level_from_name(level, &ret->grants) < 0)))
		return sp_err_set(err, -EINVAL, "\"writers\": expected objects of \"name\" and \"level\"");
	return 0;
}

static int writers_of(json_object *arguments, struct vmm_snapshot_writer ret[static VMM_SNAPSHOT_WRITERS_MAX],
		      unsigned *ret_count, struct sp_err *err)
{
	json_object *list = NULL;
	size_t count;
	int r = 0;

	*ret_count = 0;
	if (!json_object_object_get_ex(arguments, "writers", &list))
		return 0;
	count = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : SIZE_MAX;
	if (count > VMM_SNAPSHOT_WRITERS_MAX)
		return sp_err_set(err, -EINVAL, "\"writers\": expected a list of at most %u", VMM_SNAPSHOT_WRITERS_MAX);
	for (size_t i = 0; r == 0 && i < count; i++)
		r = writer_of(json_object_array_get_idx(list, i), &ret[i], err);
	*ret_count = (unsigned)count;
	return r;
}

/* {"name": TEXT, "require": LEVEL, "quiesce": false, "scripts": true, "barrier": true, "check-ms", "freeze-ms",
 * "writers": [{"name": TEXT, "level": LEVEL}], "track-point": TEXT} */
static int create(struct vmm_machine *m, const void *owner, json_object *arguments, struct sp_err *err)
{
	struct vmm_snapshot_writer writer[VMM_SNAPSHOT_WRITERS_MAX];
	struct vmm_snapshot_opts o = { .writer = writer, .owner = owner };
	json_object *quiesce = NULL;
	int r = control_need_text(arguments, "name", &o.name, err);

	if (r == 0)
		r = level_of(arguments, &o.require, err);
	if (r == 0)
		r = milliseconds_of(arguments, "check-ms", &o.check_ms, err);
	if (r == 0)
		r = milliseconds_of(arguments, "freeze-ms", &o.freeze_ms, err);
	if (r == 0)
		r = writers_of(arguments, writer, &o.writers, err);
	if (r < 0)
		return r;
	if (json_object_object_get_ex(arguments, "quiesce", &quiesce))
		o.no_quiesce = !json_object_get_boolean(quiesce);
	o.track_point = control_text(arguments, "track-point");
	o.phases = (control_flag(arguments, "scripts") ? VMM_PHASE_APPLICATION : 0) |
		   (control_flag(arguments, "barrier") ? VMM_PHASE_BARRIER : 0);
	return vmm_machine_snapshot(m, &o, err);
}

/* {"phase": as the event SNAPSHOT_PHASE had it, "writer": as it had it, "good": BOOLEAN, "reason": REASON}, or
 * {"phase": "lost", "writer": NAME, "reason": REASON} */
static int answer(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	struct vmm_snapshot_answer a = { 0 };
	const char *reason;
	int r = control_need_text(arguments, "phase", &a.phase, err);

	if (r < 0)
		return r;
	a.writer = control_text(arguments, "writer");
	a.good = control_flag(arguments, "good");
	a.lost = a.writer && strcmp(a.phase, "lost") == 0;
	reason = control_text(arguments, "reason");
	if (reason && vss_reason_from_name(reason, &a.reason) < 0)
		return sp_err_set(err, -EINVAL, "reason \"%s\" is not known", reason);
	return vmm_machine_snapshot_answer(m, &a, err);
}

static int stop(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	return vmm_machine_snapshot_abort(m, err);
}

static int list(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	return vmm_machine_snapshots(m, ret, err);
}

/* {"name": TEXT, "speed": bytes per second} */
static int delete(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	const char *name;
	uint64_t speed;
	int r = control_need_text(arguments, "name", &name, err);

	if (r == 0)
		r = control_number(arguments, "speed", 0, &speed, err);
	return r < 0 ? r : vmm_machine_snapshot_delete(m, name, speed, err);
}

static int jobs(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	*ret = vmm_machine_jobs(m);
	return 0;
}

static int cancel(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	const char *id;
	int r = control_need_text(arguments, "id", &id, err);

	return r < 0 ? r : vmm_machine_job_cancel(m, id, err);
}

const struct control_command control_snapshot_commands[] = {
	{ "spindle-snapshot-create", .run_for = create },
	{ "spindle-snapshot-answer", answer },
	{ "spindle-snapshot-abort", stop },
	{ "spindle-snapshot-list", list },
	{ "spindle-snapshot-delete", delete },
	{ "query-jobs", jobs },
	{ "job-cancel", cancel },
	{ 0 },
};
