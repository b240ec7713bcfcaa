/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the control socket can be asked. Names and answers follow QEMU's where there is something alike; the rest begins
 * with "spindle-".
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "vmm/control_int.h"
#include "vmm/json_text.h"

const char *control_error_class(int code)
{
	switch (code) {
	case -ENOENT:
	case -ENODEV:
		return "DeviceNotFound";
	case -ENOTCONN:
		return "DeviceNotActive";
	default:
		return "GenericError";
	}
}

/* ---- arguments ---------------------------------------------------------------------------------------- */

const char *control_text(json_object *arguments, const char *key)
{
	json_object *value = NULL;

	if (!arguments || !json_object_object_get_ex(arguments, key, &value) ||
	    !json_object_is_type(value, json_type_string))
		return NULL;
	return json_object_get_string(value);
}

int control_need_text(json_object *arguments, const char *key, const char **ret, struct sp_err *err)
{
	*ret = control_text(arguments, key);
	return *ret ? 0 : sp_err_set(err, -EINVAL, "argument \"%s\" is missing, or no string", key);
}

/* A number; missing: @otherwise. */
int control_number(json_object *arguments, const char *key, uint64_t otherwise, uint64_t *ret, struct sp_err *err)
{
	json_object *value = NULL;

	*ret = otherwise;
	if (!arguments || !json_object_object_get_ex(arguments, key, &value))
		return 0;
	if (!json_object_is_type(value, json_type_int) || json_object_get_int64(value) < 0)
		return sp_err_set(err, -EINVAL, "argument \"%s\" is no number above or equal to 0", key);
	*ret = json_object_get_uint64(value);
	return 0;
}

bool control_flag(json_object *arguments, const char *key)
{
	json_object *value = NULL;

	return arguments && json_object_object_get_ex(arguments, key, &value) && json_object_get_boolean(value);
}

/* ---- state -------------------------------------------------------------------------------------------- */

static int query_status(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	json_object *o = json_object_new_object();
	enum vmm_state s = vmm_machine_state(m);

	vm_json_add_text(o, "status", vmm_state_name(s));
	json_object_object_add(o, "running", json_object_new_boolean(s == VMM_RUNNING));
	json_object_object_add(o, "singlestep", json_object_new_boolean(false));
	*ret = o;
	return 0;
}

static int query_name(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	*ret = json_object_new_object();
	vm_json_add_text(*ret, "name", vmm_machine_config(m)->name);
	return 0;
}

static int query_uuid(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	char text[SP_GUID_TEXT];

	sp_guid_format_le(&vmm_machine_config(m)->id, text);
	*ret = json_object_new_object();
	vm_json_add_text(*ret, "UUID", text);
	return 0;
}

static int query_version(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	*ret = json_tokener_parse("{\"qemu\": {\"major\": 7, \"minor\": 2, \"micro\": 0}, "
				  "\"package\": \"spindle-vm\"}");
	return 0;
}

static int status(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	*ret = vmm_machine_status(m);
	return *ret ? 0 : sp_err_set(err, -ENOMEM, "out of memory");
}

static int stats(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	*ret = vmm_machine_stats(m);
	return *ret ? 0 : sp_err_set(err, -ENOMEM, "out of memory");
}

static int query_block(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	*ret = vmm_machine_block(m);
	return *ret ? 0 : sp_err_set(err, -ENOMEM, "out of memory");
}

static int query_blockstats(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	*ret = vmm_machine_blockstats(m);
	return *ret ? 0 : sp_err_set(err, -ENOMEM, "out of memory");
}

/* ---- run ---------------------------------------------------------------------------------------------- */

static int changed(struct vmm_machine *m, int r, struct sp_err *err)
{
	return r < 0 ? sp_err_set(err, r, "the machine is %s", vmm_state_name(vmm_machine_state(m))) : 0;
}

static int stop(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	return changed(m, vmm_machine_pause(m), err);
}

static int cont(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	return changed(m, vmm_machine_resume(m), err);
}

static int system_powerdown(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	return vmm_machine_powerdown(m, control_flag(arguments, "reboot"), err);
}

static int system_reset(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	return vmm_machine_reset(m, err);
}

static int quit(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	vmm_machine_quit(m);
	return 0;
}

/* ---- devices ------------------------------------------------------------------------------------------ */

/* {"driver": "disk" | "dvd", "spec": as of --disk, "folder": that relative names count from} */
static int device_add(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	const char *driver = control_text(arguments, "driver"), *spec;
	char at[16];
	int r = control_need_text(arguments, "spec", &spec, err);

	if (r < 0)
		return r;
	if (driver && strcmp(driver, "disk") && strcmp(driver, "dvd"))
		return sp_err_set(err, -EINVAL, "driver \"%s\": disk and dvd are possible", driver);
	r = vmm_machine_attach(m, spec, driver && strcmp(driver, "dvd") == 0, control_text(arguments, "folder"), at,
			       err);
	if (r < 0)
		return r;
	*ret = json_object_new_object();
	vm_json_add_text(*ret, "device", at);
	return 0;
}

static int device_del(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	const char *id;
	int r = control_need_text(arguments, "id", &id, err);

	return r < 0 ? r : vmm_machine_detach(m, id, err);
}

static int block_resize(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	const char *device;
	uint64_t size;
	int r = control_need_text(arguments, "device", &device, err);

	if (r == 0)
		r = control_number(arguments, "size", 0, &size, err);
	return r < 0 ? r : vmm_machine_resize(m, device, size, err);
}

static int set_read_only(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	const char *device;
	int r = control_need_text(arguments, "device", &device, err);

	return r < 0 ? r : vmm_machine_set_read_only(m, device, control_flag(arguments, "read-only"), err);
}

static int set_limits(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	struct vmm_disk_config c = { 0 };
	const char *device;
	int r = control_need_text(arguments, "device", &device, err);

	if (r == 0)
		r = control_number(arguments, "iops", 0, &c.iops, err);
	if (r == 0)
		r = control_number(arguments, "bps", 0, &c.bps, err);
	if (r == 0)
		r = control_number(arguments, "iops_max", 0, &c.burst_iops, err);
	if (r == 0)
		r = control_number(arguments, "bps_max", 0, &c.burst_bps, err);
	if (r == 0)
		r = control_number(arguments, "iops_min", 0, &c.min_iops, err);
	return r < 0 ? r : vmm_machine_set_limits(m, device, &c, err);
}

static int change_medium(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	const char *device, *file;
	int r = control_need_text(arguments, "device", &device, err);

	if (r == 0)
		r = control_need_text(arguments, "filename", &file, err);
	return r < 0 ? r : vmm_machine_medium(m, device, file, control_text(arguments, "folder"),
					      control_flag(arguments, "force"), err);
}

static int eject(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err)
{
	const char *device;
	int r = control_need_text(arguments, "device", &device, err);

	return r < 0 ? r : vmm_machine_medium(m, device, NULL, NULL, control_flag(arguments, "force"), err);
}

const struct control_command control_commands[] = {
	{ "query-status", query_status },
	{ "query-name", query_name },
	{ "query-uuid", query_uuid },
	{ "query-version", query_version },
	{ "query-block", query_block },
	{ "query-blockstats", query_blockstats },
	{ "stop", stop },
	{ "cont", cont },
	{ "system_powerdown", system_powerdown },
	{ "system_reset", system_reset },
	{ "quit", quit },
	{ "device_add", device_add },
	{ "device_del", device_del },
	{ "block_resize", block_resize },
	{ "block_set_io_throttle", set_limits },
	{ "blockdev-change-medium", change_medium },
	{ "eject", eject },
	{ "spindle-set-read-only", set_read_only },
	{ "spindle-status", status },
	{ "spindle-stats", stats },
	{ 0 },
};
