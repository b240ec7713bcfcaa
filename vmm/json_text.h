/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_JSON_TEXT_H
#define SPINDLE_VMM_JSON_TEXT_H
/* Texts in what machines and their clients say to each other. */
#include <json-c/json.h>

/* Any plain value as its text, which is @o's; "" where there is none. */
static inline const char *vm_json_text(json_object *o, const char *key)
{
	json_object *value;

	return json_object_object_get_ex(o, key, &value) && value ? json_object_get_string(value) : "";
}

static inline void vm_json_add_text(json_object *o, const char *key, const char *text)
{
	json_object_object_add(o, key, json_object_new_string(text));
}

#endif
