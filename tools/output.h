/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TOOLS_OUTPUT_H
#define SPINDLE_TOOLS_OUTPUT_H
/*
 * What a tool prints: errors with their remedy, and JSON.
 */
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/guid.h"
#include "vhd/vhd.h"

/* Which command runs, for messages: "vhd-tool convert". */
void tool_set_command(const char *command);
const char *tool_command(void);

/* Remedies are only proposed when the verb has the option and it was not given. */
void tool_offer_option(const char *name);
void tool_note_option(const char *name);

/* "vhd-tool: FILE: story" on standard error, and a second line with the remedy when one is known. */
void tool_fail(const char *file, const struct sp_err *err);
void tool_warn(const char *file, const char *text);

/* Prints @object on standard output and releases it. */
void tool_json_print(json_object *object);
void tool_json_text(json_object *object, const char *key, const char *text);	/* nothing when NULL or empty */
void tool_json_u64(json_object *object, const char *key, uint64_t value);
void tool_json_bool(json_object *object, const char *key, bool value);

/* GUID as the format writes it; identities of VHD are big-endian. */
const char *tool_guid_text(const struct sp_guid *guid, enum vhd_format_id format, char ret_text[static SP_GUID_TEXT]);

#endif
