/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_BACKUP_JSON_INT_H
#define SPINDLE_BACKUP_JSON_INT_H
/*
 * Reading JSON that may have been written by anybody: every field has its type, its bound and its length.
 */
#include <json-c/json.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/guid.h"

/* -EBADMSG unless @text is the one way we would write what it says: no byte of it is without meaning. */
int backup_json_parse(const char *text, size_t len, json_object **ret, struct sp_err *err);
char *backup_json_text(json_object *o);			/* the canonical text; sp_free() */

/* Each: 0 or -EBADMSG, naming the key. */
int backup_json_object(json_object *o, const char *key, json_type type, json_object **ret, struct sp_err *err);
int backup_json_u64(json_object *o, const char *key, uint64_t max, uint64_t *ret, struct sp_err *err);
int backup_json_number(json_object *o, const char *key, unsigned max, unsigned *ret, struct sp_err *err);
int backup_json_string(json_object *o, const char *key, char *ret, size_t room, struct sp_err *err);
int backup_json_hex(json_object *o, const char *key, uint8_t *ret, size_t len, struct sp_err *err);
int backup_json_guid(json_object *o, const char *key, struct sp_guid *ret, struct sp_err *err);

void backup_json_add_u64(json_object *o, const char *key, uint64_t value);
void backup_json_add_string(json_object *o, const char *key, const char *value);
void backup_json_add_hex(json_object *o, const char *key, const uint8_t *bytes, size_t len);
void backup_json_add_guid(json_object *o, const char *key, const struct sp_guid *guid);

bool backup_hex_decode(const char *text, size_t text_len, uint8_t *ret, size_t len);
char *backup_hex_encode(const uint8_t *bytes, size_t len);	/* sp_free() */

#endif
