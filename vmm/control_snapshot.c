/* SPDX-License-Identifier: BSD-2-Clause */
/* Snapshots over the control socket. What takes time answers at once and tells its end by an event. */
#include <errno.h>

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

/* {"name": TEXT, "require": LEVEL, "quiesce": false, "scripts": true, "barrier": true, "check-ms", "freeze-ms"} */
static int create(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	struct vmm_snapshot_opts o = { 0 };
	json_object *quiesce = NULL;
	int r = control_need_text(arguments, "name", &o.name, err);

	if (r == 0)
		r = level_of(arguments, &o.require, err);
	if (r == 0)
		r = milliseconds_of(arguments, "check-ms", &o.check_ms, err);
	if (r == 0)
		r = milliseconds_of(arguments, "freeze-ms", &o.freeze_ms, err);
	if (r < 0)
		return r;
	if (json_object_object_get_ex(arguments, "quiesce", &quiesce))
		o.no_quiesce = !json_object_get_boolean(quiesce);
	o.phases = (control_flag(arguments, "scripts") ? VMM_PHASE_APPLICATION : 0) |
		   (control_flag(arguments, "barrier") ? VMM_PHASE_BARRIER : 0);
	return vmm_machine_snapshot(m, &o, err);
}

/* {"phase": as the event SNAPSHOT_PHASE had it, "good": BOOLEAN} */
static int answer(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	const char *phase;
	int r = control_need_text(arguments, "phase", &phase, err);

	return r < 0 ? r : vmm_machine_snapshot_answer(m, phase, control_flag(arguments, "good"), err);
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
	{ "spindle-snapshot-create", create },
	{ "spindle-snapshot-answer", answer },
	{ "spindle-snapshot-abort", stop },
	{ "spindle-snapshot-list", list },
	{ "spindle-snapshot-delete", delete },
	{ "query-jobs", jobs },
	{ "job-cancel", cancel },
	{ 0 },
};
