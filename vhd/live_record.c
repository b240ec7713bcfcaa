/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Small files that must be whole or not be there: one line of JSON, one line with its checksum.
 *
 *	{"spindle-live":1,"set":"...","disks":[{"image":"disk.vhdx","file":"disk.monday.vhdx", ...}]}
 *	crc32c 01234567
 *
 * Written under another name, synced, renamed, and the directory synced. What is read is not trusted: names are last
 * components, looked up beneath the folders that the caller gives.
 */
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/crc32c.h"
#include "vhd/live_int.h"

#define FILE_MAX (1u << 20)
#define TRAILER "crc32c %08" PRIx32 "\n"
#define TRAILER_LEN 16u

/* ---- files --------------------------------------------------------------------------------------- */

static char *name_new(const char *name)
{
	return sp_asprintf("%s.new", name);
}

static int write_new(struct store_folder *f, const char *name, const char *bytes, size_t len, struct sp_err *err)
{
	struct store *s;
	int r;

	store_folder_unlink(f, name);	/* left by a run that was cut */
	r = store_folder_open(f, name, STORE_RDWR | STORE_CREATE, &s, err);
	if (r < 0)
		return r;
	r = store_write(s, bytes, len, 0);
	if (r == 0)
		r = store_sync(s);
	store_close(s);
	return r < 0 ? sp_err_set(err, r, "cannot write %s: %s", name, strerror(-r)) : 0;
}

static int write_json(struct store_folder *f, const char *name, json_object *o, struct sp_err *err)
{
	const char *line = o ? json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN |
							      JSON_C_TO_STRING_NOSLASHESCAPE) : NULL;
	SP_AUTO_FREE char *temp = name_new(name);
	SP_AUTO_FREE char *text = line ? sp_asprintf("%s\n" TRAILER, line, sp_crc32c(line, strlen(line))) : NULL;
	int r = temp && text ? write_new(f, temp, text, strlen(text), err) : sp_err_set(err, -ENOMEM, "out of memory");

	if (r == 0)
		r = op_rename_durable(f, temp, name, true, err);
	if (r < 0 && temp)
		store_folder_unlink(f, temp);
	return r;
}

static int read_text(struct store *s, char **ret_text, size_t *ret_len)
{
	uint64_t size;
	char *text;
	int r = store_size(s, &size);

	if (r < 0)
		return r;
	if (size < TRAILER_LEN + 1 || size > FILE_MAX)
		return -EBADMSG;
	text = sp_zalloc(size + 1);
	if (!text)
		return -ENOMEM;
	r = store_read(s, text, size, 0);
	if (r < 0) {
		sp_free(text);
		return r;
	}
	*ret_text = text;
	*ret_len = size;
	return 0;
}

static int parse_text(char *text, size_t len, json_object **ret)
{
	char *trailer = text + len - TRAILER_LEN, want[TRAILER_LEN + 1];

	if (trailer[-1] != '\n')
		return -EBADMSG;
	trailer[-1] = '\0';
	snprintf(want, sizeof(want), TRAILER, sp_crc32c(text, (size_t)(trailer - 1 - text)));
	if (memcmp(trailer, want, TRAILER_LEN) != 0)
		return -EBADMSG;
	*ret = json_tokener_parse(text);
	return *ret ? 0 : -EBADMSG;
}

static int read_json(struct store_folder *f, const char *name, json_object **ret)
{
	SP_AUTO_FREE char *text = NULL;
	struct store *s;
	size_t len;
	int r = store_folder_open(f, name, STORE_NO_LOCK | STORE_REGULAR, &s, NULL);

	if (r < 0)
		return r;
	r = read_text(s, &text, &len);
	store_close(s);
	return r < 0 ? r : parse_text(text, len, ret);
}

int live_file_remove(struct store_folder *f, const char *name)
{
	SP_AUTO_FREE char *temp = name_new(name);
	int r = store_folder_unlink(f, name);

	if (temp)
		store_folder_unlink(f, temp);
	return r == -ENOENT ? 0 : r;
}

/* ---- fields -------------------------------------------------------------------------------------- */

static void put_text(json_object *o, const char *key, const char *text)
{
	json_object_object_add(o, key, json_object_new_string(text));
}

static void put_guid(json_object *o, const char *key, const struct sp_guid *g)
{
	char text[SP_GUID_TEXT];

	sp_guid_format_le(g, text);
	put_text(o, key, text);
}

static const char *get_text(json_object *o, const char *key)
{
	json_object *v;

	return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_string)
		       ? json_object_get_string(v) : NULL;
}

static int get_guid(json_object *o, const char *key, struct sp_guid *ret)
{
	const char *text = get_text(o, key);

	return text && sp_guid_parse_le(text, ret) == 0 ? 0 : -EBADMSG;
}

static int get_name(json_object *o, const char *key, char **ret)
{
	const char *text = get_text(o, key);

	if (!text || !*text || strchr(text, '/'))
		return -EBADMSG;
	*ret = sp_strdup(text);
	return *ret ? 0 : -ENOMEM;
}

/* ---- the record of a set ------------------------------------------------------------------------- */

static json_object *entry_json(const struct live_entry *e)
{
	json_object *o = json_object_new_object();

	if (!o)
		return NULL;
	put_text(o, "path", e->path);
	put_text(o, "image", op_name_base(e->names.image));
	put_text(o, "file", op_name_base(e->names.file));
	put_text(o, "child", op_name_base(e->names.child));
	if (e->names.meta)
		put_text(o, "meta", op_name_base(e->names.meta));
	put_guid(o, "identity", &e->identity);
	return o;
}

int live_record_write(struct store_folder *f, const char *name, const struct live_record *rec, struct sp_err *err)
{
	json_object *o = json_object_new_object(), *disks = json_object_new_array();
	int r;

	json_object_object_add(o, "spindle-live", json_object_new_int(1));
	put_guid(o, "set", &rec->set);
	for (unsigned i = 0; i < rec->count; i++)
		json_object_array_add(disks, entry_json(&rec->entry[i]));
	json_object_object_add(o, "disks", disks);
	r = write_json(f, name, o, err);
	json_object_put(o);
	return r;
}

static int entry_read(json_object *o, struct live_entry *e)
{
	const char *path = get_text(o, "path");
	int r = get_name(o, "image", &e->names.image);

	if (r == 0) {
		e->path = sp_strdup(path ? path : "");
		r = e->path ? 0 : -ENOMEM;
	}
	if (r == 0)
		r = get_name(o, "file", &e->names.file);
	if (r == 0)
		r = get_name(o, "child", &e->names.child);
	if (r == 0 && get_text(o, "meta"))
		r = get_name(o, "meta", &e->names.meta);
	return r < 0 ? r : get_guid(o, "identity", &e->identity);
}

static int record_from(json_object *o, struct live_record *rec)
{
	json_object *disks;
	int r = get_guid(o, "set", &rec->set);
	size_t n;

	if (r < 0 || !json_object_object_get_ex(o, "disks", &disks) || !json_object_is_type(disks, json_type_array))
		return -EBADMSG;
	n = json_object_array_length(disks);
	if (n == 0 || n > VHD_LIVE_DISKS_MAX)
		return -EBADMSG;
	rec->entry = sp_calloc(n, sizeof(*rec->entry));
	if (!rec->entry)
		return -ENOMEM;
	for (rec->count = 0; r == 0 && rec->count < n; rec->count++)
		r = entry_read(json_object_array_get_idx(disks, rec->count), &rec->entry[rec->count]);
	return r;
}

int live_record_read(struct store_folder *f, const char *name, struct live_record *ret, struct sp_err *err)
{
	json_object *o = NULL;
	int r = read_json(f, name, &o);

	*ret = (struct live_record){ 0 };
	if (r == 0)
		r = record_from(o, ret);
	json_object_put(o);
	if (r < 0) {
		live_record_fini(ret);
		return sp_err_set(err, r, "%s: %s", name, r == -EBADMSG ? "not a complete record" : strerror(-r));
	}
	return 0;
}

void live_record_fini(struct live_record *rec)
{
	for (unsigned i = 0; rec->entry && i < rec->count; i++) {
		live_names_fini(&rec->entry[i].names);
		sp_free(rec->entry[i].path);
	}
	sp_free(rec->entry);
	*rec = (struct live_record){ 0 };
}

/* ---- the side-car of a snapshot ------------------------------------------------------------------ */

int live_meta_write(struct store_folder *f, const char *name, const struct live_meta *m, struct sp_err *err)
{
	json_object *o = json_object_new_object();
	int r;

	json_object_object_add(o, "spindle-snapshot", json_object_new_int(1));
	put_guid(o, "set", &m->set);
	json_object_object_add(o, "time", json_object_new_int64(m->time));
	put_text(o, "level", m->level);
	r = write_json(f, name, o, err);
	json_object_put(o);
	return r;
}

int live_meta_read(struct store_folder *f, const char *name, struct live_meta *ret)
{
	json_object *o = NULL, *time;
	int r = read_json(f, name, &o);
	const char *level;

	if (r == 0)
		r = get_guid(o, "set", &ret->set);
	if (r == 0) {
		level = get_text(o, "level");
		snprintf(ret->level, sizeof(ret->level), "%s", level ? level : "");
		ret->time = json_object_object_get_ex(o, "time", &time) ? json_object_get_int64(time) : 0;
	}
	json_object_put(o);
	return r;
}
