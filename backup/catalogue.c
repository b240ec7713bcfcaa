/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * set.json: which points there are, which one is being written, which ones are going. It names each manifest by the
 * SHA-256 of its bytes and carries one of itself, so no file of a set can change or go unnoticed.
 *
 *	writing		pending = n, durable ─► files as *.part ─► renamed ─► manifest ─► point listed, pending = 0
 *	pruning		points unlisted, drop = {...} into k, durable ─► layers merged ─► manifest of k ─► drop = {}
 */
#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#include "backup/backup_int.h"
#include "backup/json_int.h"
#include "base/alloc.h"
#include "base/bytes.h"

#define FORMAT "spindle-backup-set 1"
#define NAME "set.json"
#define SIZE_MAX_BYTES SP_MIB(32)

void backup_catalogue_fini(struct backup_catalogue *c)
{
	sp_free(c->point);
	sp_free(c->pending_disk);
	sp_free(c->drop);
	*c = (struct backup_catalogue){ 0 };
}

int backup_catalogue_find(const struct backup_catalogue *c, unsigned number)
{
	for (unsigned i = 0; i < c->points; i++)
		if (c->point[i].number == number)
			return (int)i;
	return -1;
}

static int root_of(json_object *body, uint8_t ret[static 32])
{
	const char *text = json_object_to_json_string_ext(body, JSON_C_TO_STRING_PLAIN);

	return text && EVP_Digest(text, strlen(text), ret, NULL, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
}

/* ---- writing ------------------------------------------------------------------------------------- */

static json_object *body_json(const struct backup_catalogue *c)
{
	json_object *o = json_object_new_object(), *list = json_object_new_array(), *part;

	for (unsigned i = 0; i < c->drops; i++)
		json_object_array_add(list, json_object_new_int64(c->drop[i]));
	json_object_object_add(o, "drop", list);
	backup_json_add_u64(o, "drop-into", c->into);
	backup_json_add_hex(o, "drop-into-manifest", c->into_manifest, 32);
	backup_json_add_string(o, "format", FORMAT);
	backup_json_add_guid(o, "id", &c->id);
	backup_json_add_u64(o, "next", c->next);
	backup_json_add_u64(o, "pending", c->pending);
	list = json_object_new_array();
	for (unsigned i = 0; i < c->pending_disks; i++)
		json_object_array_add(list, json_object_new_string(c->pending_disk[i]));
	json_object_object_add(o, "pending-disks", list);
	list = json_object_new_array();
	for (unsigned i = 0; i < c->points; i++) {
		part = json_object_new_object();
		backup_json_add_hex(part, "manifest", c->point[i].manifest, 32);
		backup_json_add_u64(part, "point", c->point[i].number);
		json_object_array_add(list, part);
	}
	json_object_object_add(o, "points", list);
	return o;
}

int backup_catalogue_save(struct store_folder *f, const struct backup_catalogue *c, struct sp_err *err)
{
	json_object *outer = json_object_new_object(), *body = body_json(c);
	SP_AUTO_FREE char *text = NULL;
	uint8_t root[32];
	int r = root_of(body, root);

	json_object_object_add(outer, "catalogue", body);
	backup_json_add_hex(outer, "root", root, 32);
	if (r == 0)
		text = backup_json_text(outer);
	json_object_put(outer);
	if (!text)
		return sp_err_set(err, -ENOMEM, "out of memory");
	return backup_file_write(f, NAME, text, strlen(text), err);
}

/* ---- reading ------------------------------------------------------------------------------------- */

static int array_of(json_object *o, const char *key, unsigned max, json_object **ret, unsigned *ret_count,
		    struct sp_err *err)
{
	int r = backup_json_object(o, key, json_type_array, ret, err);

	*ret_count = 0;
	if (r < 0)
		return r;
	if (json_object_array_length(*ret) > max)
		return sp_err_set(err, -EBADMSG, "\"%s\" has more than %u entries", key, max);
	*ret_count = (unsigned)json_object_array_length(*ret);
	return 0;
}

static int take_points(json_object *o, struct backup_catalogue *c, struct sp_err *err)
{
	json_object *list;
	unsigned n, last = 0;
	int r = array_of(o, "points", BACKUP_POINTS_MAX, &list, &n, err);

	if (r < 0)
		return r;
	c->point = sp_calloc(n ? n : 1, sizeof(*c->point));
	if (!c->point)
		return sp_err_set(err, -ENOMEM, "out of memory");
	for (; r == 0 && c->points < n; c->points++) {
		json_object *e = json_object_array_get_idx(list, c->points);
		struct backup_entry *p = &c->point[c->points];

		r = backup_json_hex(e, "manifest", p->manifest, 32, err);
		if (r == 0)
			r = backup_json_number(e, "point", BACKUP_POINTS_MAX, &p->number, err);
		if (r == 0 && (p->number <= last || p->number >= c->next))
			r = sp_err_set(err, -EBADMSG, "point %u is out of order", p->number);
		last = p->number;
	}
	return r;
}

static int take_pending(json_object *o, struct backup_catalogue *c, struct sp_err *err)
{
	json_object *list;
	unsigned n;
	int r = backup_json_number(o, "pending", BACKUP_POINTS_MAX, &c->pending, err);

	if (r == 0)
		r = array_of(o, "pending-disks", BACKUP_DISKS_MAX, &list, &n, err);
	if (r < 0)
		return r;
	c->pending_disk = sp_calloc(n ? n : 1, sizeof(*c->pending_disk));
	if (!c->pending_disk)
		return sp_err_set(err, -ENOMEM, "out of memory");
	for (; c->pending_disks < n; c->pending_disks++) {
		json_object *e = json_object_array_get_idx(list, c->pending_disks);
		const char *name = json_object_is_type(e, json_type_string) ? json_object_get_string(e) : "";

		if (!backup_name_ok(name))
			return sp_err_set(err, -EBADMSG, "\"pending-disks\" holds no name of a disk");
		memcpy(c->pending_disk[c->pending_disks], name, strlen(name) + 1);
	}
	return 0;
}

static int take_drop(json_object *o, struct backup_catalogue *c, struct sp_err *err)
{
	json_object *list;
	unsigned n;
	int r = backup_json_number(o, "drop-into", BACKUP_POINTS_MAX, &c->into, err);

	if (r == 0)
		r = backup_json_hex(o, "drop-into-manifest", c->into_manifest, 32, err);
	if (r == 0)
		r = array_of(o, "drop", BACKUP_POINTS_MAX, &list, &n, err);
	if (r < 0)
		return r;
	c->drop = sp_calloc(n ? n : 1, sizeof(*c->drop));
	if (!c->drop)
		return sp_err_set(err, -ENOMEM, "out of memory");
	for (; c->drops < n; c->drops++) {
		json_object *e = json_object_array_get_idx(list, c->drops);
		int64_t number = json_object_is_type(e, json_type_int) ? json_object_get_int64(e) : 0;

		if (number <= 0 || number >= c->next)
			return sp_err_set(err, -EBADMSG, "\"drop\" holds no number of a point");
		c->drop[c->drops] = (unsigned)number;
	}
	return 0;
}

static int take(json_object *outer, struct backup_catalogue *c, struct sp_err *err)
{
	char format[32];
	json_object *o;
	uint8_t root[32], said[32];
	int r = backup_json_object(outer, "catalogue", json_type_object, &o, err);

	if (r == 0)
		r = backup_json_hex(outer, "root", said, 32, err);
	if (r == 0 && (root_of(o, root) < 0 || memcmp(root, said, 32) != 0))
		r = sp_err_set(err, -EBADMSG, "damaged: the root hash does not match");
	if (r == 0)
		r = backup_json_string(o, "format", format, sizeof(format), err);
	if (r == 0 && strcmp(format, FORMAT) != 0)
		r = sp_err_set(err, -ENOTSUP, "the format is \"%s\", known is \"" FORMAT "\"", format);
	if (r == 0)
		r = backup_json_guid(o, "id", &c->id, err);
	if (r == 0)
		r = backup_json_number(o, "next", BACKUP_POINTS_MAX + 1, &c->next, err);
	if (r == 0)
		r = take_points(o, c, err);
	if (r == 0)
		r = take_pending(o, c, err);
	return r < 0 ? r : take_drop(o, c, err);
}

int backup_catalogue_load(struct store_folder *f, struct backup_catalogue *ret, struct sp_err *err)
{
	struct backup_catalogue c = { 0 };
	SP_AUTO_FREE char *text = NULL;
	json_object *outer;
	size_t len;
	int r = backup_file_read(f, NAME, SIZE_MAX_BYTES, &text, &len, err);

	if (r == 0)
		r = backup_json_parse(text, len, &outer, err);
	if (r < 0)
		return sp_err_prefix(err, r, NAME);
	r = take(outer, &c, err);
	json_object_put(outer);
	if (r < 0) {
		backup_catalogue_fini(&c);
		return sp_err_prefix(err, r, NAME);
	}
	*ret = c;
	return 0;
}
