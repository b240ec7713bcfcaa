/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "backup/json_int.h"
#include "base/alloc.h"
#include "base/seed.h"

#define DEPTH_MAX 12
#define FLAGS (JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE)

/* ---- hex ----------------------------------------------------------------------------------------- */

static int nibble(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool backup_hex_decode(const char *text, size_t text_len, uint8_t *ret, size_t len)
{
	if (text_len != 2 * len)
		return false;
	for (size_t i = 0; i < len; i++) {
		int high = nibble(text[2 * i]), low = nibble(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		ret[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

char *backup_hex_encode(const uint8_t *bytes, size_t len)
{
	static const char digit[] = "0123456789abcdef";
	char *text = sp_alloc(2 * len + 1);

	if (!text)
		return NULL;
	for (size_t i = 0; i < len; i++) {
		text[2 * i] = digit[bytes[i] >> 4];
		text[2 * i + 1] = digit[bytes[i] & 15];
	}
	text[2 * len] = '\0';
	return text;
}

/* ---- whole texts --------------------------------------------------------------------------------- */

char *backup_json_text(json_object *o)
{
	return sp_asprintf("%s\n", json_object_to_json_string_ext(o, FLAGS));
}

static int check_canonical(const char *text, size_t len, json_object *o, struct sp_err *err)
{
	size_t own_len, at = 0;
	const char *own = json_object_to_json_string_length(o, FLAGS, &own_len);

	if (SP_SEED_BUG(BACKUP_JSON_ANY_SPELLING))
		return 0;
	while (at < len && at < own_len && text[at] == own[at])
		at++;
	if (at == own_len && len == own_len + 1 && text[at] == '\n')
		return 0;
	return sp_err_set(err, -EBADMSG, "damaged at byte %zu: not what was written", at);
}

int backup_json_parse(const char *text, size_t len, json_object **ret, struct sp_err *err)
{
	json_tokener *t = len <= INT_MAX ? json_tokener_new_ex(DEPTH_MAX) : NULL;
	json_object *o;
	int r;

	if (!t)
		return sp_err_set(err, -ENOMEM, "out of memory");
	json_tokener_set_flags(t, JSON_TOKENER_STRICT | JSON_TOKENER_ALLOW_TRAILING_CHARS);
	o = json_tokener_parse_ex(t, text, (int)len);
	if (!json_object_is_type(o, json_type_object))
		r = sp_err_set(err, -EBADMSG, "damaged: no JSON object (%s at byte %zu)",
			       json_tokener_error_desc(json_tokener_get_error(t)), json_tokener_get_parse_end(t));
	else
		r = check_canonical(text, len, o, err);
	json_tokener_free(t);
	if (r < 0)
		json_object_put(o);
	else
		*ret = o;
	return r;
}

/* ---- fields -------------------------------------------------------------------------------------- */

int backup_json_object(json_object *o, const char *key, json_type type, json_object **ret, struct sp_err *err)
{
	if (!json_object_object_get_ex(o, key, ret))
		return sp_err_set(err, -EBADMSG, "\"%s\" is missing", key);
	if (!json_object_is_type(*ret, type))
		return sp_err_set(err, -EBADMSG, "\"%s\" is no %s", key, json_type_to_name(type));
	return 0;
}

int backup_json_u64(json_object *o, const char *key, uint64_t max, uint64_t *ret, struct sp_err *err)
{
	json_object *v;
	int64_t value;
	int r = backup_json_object(o, key, json_type_int, &v, err);

	if (r < 0)
		return r;
	value = json_object_get_int64(v);
	if (value < 0 || (uint64_t)value > max)
		return sp_err_set(err, -EBADMSG, "\"%s\" is %" PRId64 ", possible are 0 to %" PRIu64, key, value, max);
	*ret = (uint64_t)value;
	return 0;
}

int backup_json_number(json_object *o, const char *key, unsigned max, unsigned *ret, struct sp_err *err)
{
	uint64_t value = 0;
	int r = backup_json_u64(o, key, max, &value, err);

	if (r == 0)
		*ret = (unsigned)value;
	return r;
}

int backup_json_string(json_object *o, const char *key, char *ret, size_t room, struct sp_err *err)
{
	json_object *v;
	size_t len;
	int r = backup_json_object(o, key, json_type_string, &v, err);

	if (r < 0)
		return r;
	len = (size_t)json_object_get_string_len(v);
	if (len >= room || strlen(json_object_get_string(v)) != len)
		return sp_err_set(err, -EBADMSG, "\"%s\" has %zu bytes, up to %zu are possible, and none may be NUL",
				  key, len, room - 1);
	memcpy(ret, json_object_get_string(v), len + 1);
	return 0;
}

int backup_json_hex(json_object *o, const char *key, uint8_t *ret, size_t len, struct sp_err *err)
{
	json_object *v;
	int r = backup_json_object(o, key, json_type_string, &v, err);

	if (r < 0)
		return r;
	if (!backup_hex_decode(json_object_get_string(v), (size_t)json_object_get_string_len(v), ret, len))
		return sp_err_set(err, -EBADMSG, "\"%s\" is not made of %zu hex digits", key, 2 * len);
	return 0;
}

int backup_json_guid(json_object *o, const char *key, struct sp_guid *ret, struct sp_err *err)
{
	char text[SP_GUID_TEXT];
	int r = backup_json_string(o, key, text, sizeof(text), err);

	if (r == 0 && sp_guid_parse_le(text, ret) < 0)
		r = sp_err_set(err, -EBADMSG, "\"%s\" is no GUID", key);
	return r;
}

void backup_json_add_u64(json_object *o, const char *key, uint64_t value)
{
	json_object_object_add(o, key, json_object_new_uint64(value));
}

void backup_json_add_string(json_object *o, const char *key, const char *value)
{
	json_object_object_add(o, key, json_object_new_string(value));
}

void backup_json_add_hex(json_object *o, const char *key, const uint8_t *bytes, size_t len)
{
	SP_AUTO_FREE char *text = backup_hex_encode(bytes, len);

	json_object_object_add(o, key, text ? json_object_new_string(text) : NULL);
}

void backup_json_add_guid(json_object *o, const char *key, const struct sp_guid *guid)
{
	char text[SP_GUID_TEXT];

	sp_guid_format_le(guid, text);
	backup_json_add_string(o, key, text);
}
