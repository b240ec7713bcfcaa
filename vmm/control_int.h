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
};

extern const struct control_command control_commands[];	/* ends with a command without name */

/* "GenericError", "DeviceNotFound" ... */
const char *control_error_class(int code);

#endif
