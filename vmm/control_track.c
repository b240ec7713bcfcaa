/* SPDX-License-Identifier: BSD-2-Clause */
/* What a backup program asks over the control socket: tracking points, changes, the machine's configuration. */
#include <errno.h>

#include "vmm/control_int.h"
#include "vmm/machine_track.h"

/* {"device": "scsi0:0"} */
static int points(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	const char *device;
	int r = control_need_text(arguments, "device", &device, err);

	return r < 0 ? r : vmm_machine_track_points(m, device, ret, err);
}

/* {"device", "since": name or id, "until": missing: now, "offset": missing: 0, "limit": missing: as many as fit} */
static int changes(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	const char *device, *since;
	uint64_t offset = 0, limit = 0;
	int r = control_need_text(arguments, "device", &device, err);

	if (r == 0)
		r = control_need_text(arguments, "since", &since, err);
	if (r == 0)
		r = control_number(arguments, "offset", 0, &offset, err);
	if (r == 0)
		r = control_number(arguments, "limit", 0, &limit, err);
	return r < 0 ? r : vmm_machine_track_changes(m, device, since, control_text(arguments, "until"), offset, limit,
						     ret, err);
}

/* {"device", "point": name or id} */
static int forget(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	const char *device, *point;
	int r = control_need_text(arguments, "device", &device, err);

	if (r == 0)
		r = control_need_text(arguments, "point", &point, err);
	return r < 0 ? r : vmm_machine_track_forget(m, device, point, err);
}

static int setup(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	return vmm_machine_setup(m, ret, err);
}

const struct control_command control_track_commands[] = {
	{ "spindle-track-points", points },
	{ "spindle-track-changes", changes },
	{ "spindle-track-forget", forget },
	{ "spindle-query-config", setup },
	{ 0 },
};
