/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_CONTROL_INT_H
#define SPINDLE_VMM_CONTROL_INT_H
/* Between the protocol (control.c) and what can be asked (control_commands.c). */
#include <json-c/json.h>

#include "vmm/machine.h"

/* A command's answer: 0 and *ret (NULL: an empty object), or -errno and the story in @err. */
struct control_command {
	const char *name;
	int (*run)(struct vmm_machine *m, json_object *arguments, json_object **ret, struct sp_err *err);
	/* Instead, for what lasts no longer than its connection. */
	int (*run_for)(struct vmm_machine *m, const void *owner, json_object *arguments, struct sp_err *err);
};

/* Each ends with one without name. */
extern const struct control_command control_commands[], control_snapshot_commands[], control_track_commands[];

/* Arguments by name; @arguments may be NULL. */
const char *control_text(json_object *arguments, const char *key);	/* NULL: missing, or no string */
int control_need_text(json_object *arguments, const char *key, const char **ret, struct sp_err *err);
int control_number(json_object *arguments, const char *key, uint64_t otherwise, uint64_t *ret, struct sp_err *err);
bool control_flag(json_object *arguments, const char *key);

/* "GenericError", "DeviceNotFound" ... */
const char *control_error_class(int code);

#endif
