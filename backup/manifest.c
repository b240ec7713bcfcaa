/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The manifest of a point: a JSON object with the members "manifest" (everything), "root" (SHA-256 of its canonical
 * text) and "signature" (null, or made over the root).
 *
 * Digests come in runs, [index, "hex digits of one or more sums"], that say what differs from the parent's manifest;
 * without a parent, from zeros. 64 zero digits stand for a MiB of zeros.
 */
#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "backup/backup_int.h"
#include "backup/json_int.h"
#include "base/alloc.h"
#include "base/bytes.h"

#define FORMAT "spindle-backup 1"

static const char *const levels[] = { "crash", "file-system", "application", "offline" };

const char *backup_level_name(enum backup_level level)
{
	return levels[level];
}

int backup_level_from_name(const char *name, enum backup_level *ret)
{
	for (unsigned i = 0; i < SP_ARRAY_SIZE(levels); i++)
		if (strcmp(name, levels[i]) == 0) {
			*ret = (enum backup_level)i;
			return 0;
		}
	return -EINVAL;
}

bool backup_name_ok(const char *name)
{
	size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

	return n > 0 && n <= BACKUP_NAME_MAX && name[n] == '\0' && name[0] != '.' && name[0] != '-';
}

void backup_disk_file(unsigned number, const char *disk, char ret[static BACKUP_FILE_MAX])
{
	snprintf(ret, BACKUP_FILE_MAX, "%06u-%s.vhdx", number, disk);
}

void backup_manifest_file(unsigned number, char ret[static BACKUP_FILE_MAX])
{
	snprintf(ret, BACKUP_FILE_MAX, "%06u.json", number);
}

void backup_manifest_free(struct backup_manifest *m)
{
	if (!m)
		return;
	for (unsigned i = 0; i < m->disks; i++) {
		backup_digests_fini(&m->disk[i].file);
		backup_digests_fini(&m->disk[i].content);
	}
	sp_free(m->disk);
	sp_free(m->machine);
	sp_free(m);
}

const struct backup_disk *backup_manifest_disk(const struct backup_manifest *m, const char *name)
{
	for (unsigned i = 0; m && i < m->disks; i++)
		if (strcmp(m->disk[i].name, name) == 0)
			return &m->disk[i];
	return NULL;
}

static int root_of(json_object *body, uint8_t ret[static 32])
{
	size_t len;
	const char *text = json_object_to_json_string_length(body, JSON_C_TO_STRING_PLAIN |
							     JSON_C_TO_STRING_NOSLASHESCAPE, &len);

	return text && EVP_Digest(text, len, ret, NULL, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
}

/* ---- writing ------------------------------------------------------------------------------------- */

static json_object *runs_of(const struct backup_digests *d, const struct backup_digests *base)
{
	static const struct backup_digests nothing;
	json_object *runs = json_object_new_array();

	if (!base)
		base = &nothing;
	for (uint64_t i = 0, end; i < d->count; i = end) {
		SP_AUTO_FREE char *hex = NULL;
		json_object *run;

		for (end = i; end < d->count && !backup_sum_equal(d, base, end); end++)
			;
		if (end == i) {
			end++;
			continue;
		}
		hex = backup_hex_encode(d->sum[i], (size_t)(end - i) * 32);
		if (!hex) {
			json_object_put(runs);
			return NULL;
		}
		run = json_object_new_array();
		json_object_array_add(run, json_object_new_uint64(i));
		json_object_array_add(run, json_object_new_string(hex));
		json_object_array_add(runs, run);
	}
	return runs;
}

static int add_runs(json_object *o, const char *key, const struct backup_digests *d, const struct backup_digests *base)
{
	json_object *runs = runs_of(d, base);

	return runs ? json_object_object_add(o, key, runs) : -ENOMEM;
}

static int disk_json(struct backup_disk *d, const struct backup_disk *below, json_object *o)
{
	json_object *file = json_object_new_object();
	int r;

	r = add_runs(o, "content", &d->content, below ? &below->content : NULL);
	if (r == 0)
		r = backup_digests_root(&d->content, d->content_root);
	backup_json_add_hex(o, "content-root", d->content_root, 32);
	if (r == 0)
		r = add_runs(file, "sha256", &d->file, NULL);
	backup_json_add_u64(file, "size", d->file.size);
	json_object_object_add(o, "file", file);
	backup_json_add_guid(o, "identity", &d->identity);
	backup_json_add_string(o, "name", d->name);
	backup_json_add_u64(o, "size", d->size);
	backup_json_add_string(o, "source", d->source);
	backup_json_add_u64(o, "source-size", d->source_size);
	backup_json_add_string(o, "track", d->track);
	return r < 0 ? -ENOMEM : 0;
}

static int body_json(struct backup_manifest *m, const struct backup_manifest *below, json_object *o)
{
	json_object *disks = json_object_new_array();
	int r = 0;

	json_object_object_add(o, "disks", disks);
	for (unsigned i = 0; r == 0 && i < m->disks; i++) {
		json_object *d = json_object_new_object();

		json_object_array_add(disks, d);
		r = disk_json(&m->disk[i], backup_manifest_disk(below, m->disk[i].name), d);
	}
	backup_json_add_string(o, "format", FORMAT);
	backup_json_add_u64(o, "guest-time", (uint64_t)m->guest_time);
	backup_json_add_guid(o, "id", &m->id);
	backup_json_add_string(o, "level", backup_level_name(m->level));
	if (m->machine)
		backup_json_add_string(o, "machine", m->machine);
	backup_json_add_u64(o, "parent", m->parent);
	backup_json_add_u64(o, "point", m->number);
	backup_json_add_string(o, "reasons", m->reasons);
	backup_json_add_guid(o, "set", &m->set);
	backup_json_add_u64(o, "time", (uint64_t)m->time);
	return r;
}

static int sign(struct backup_manifest *m, const struct backup_key *key, json_object *outer, struct sp_err *err)
{
	json_object *o = NULL;
	int r = 0;

	m->is_signed = key != NULL;
	if (key) {
		r = backup_sign(key, m->root, m->signature_kind, m->signature, &m->signature_len, err);
		o = json_object_new_object();
		backup_json_add_string(o, "kind", m->signature_kind);
		backup_json_add_hex(o, "value", m->signature, m->signature_len);
	}
	json_object_object_add(outer, "signature", o);
	return r;
}

int backup_manifest_encode(struct backup_manifest *m, const struct backup_manifest *below, const struct backup_key *key,
			   char **ret_text, struct sp_err *err)
{
	json_object *outer = json_object_new_object(), *body = json_object_new_object();
	int r;

	json_object_object_add(outer, "manifest", body);
	r = body_json(m, below, body);
	if (r == 0)
		r = root_of(body, m->root);
	if (r < 0)
		sp_err_set(err, r, "out of memory");
	backup_json_add_hex(outer, "root", m->root, 32);
	if (r == 0)
		r = sign(m, key, outer, err);
	if (r == 0) {
		*ret_text = backup_json_text(outer);
		r = *ret_text ? 0 : sp_err_set(err, -ENOMEM, "out of memory");
	}
	json_object_put(outer);
	return r;
}

/* ---- reading ------------------------------------------------------------------------------------- */

static int take_run(json_object *run, struct backup_digests *d, uint64_t *next, struct sp_err *err)
{
	json_object *first = json_object_array_get_idx(run, 0), *hex = json_object_array_get_idx(run, 1);
	int64_t at;
	size_t digits;

	if (json_object_array_length(run) != 2 || !json_object_is_type(first, json_type_int) ||
	    !json_object_is_type(hex, json_type_string))
		return sp_err_set(err, -EBADMSG, "a run of digests is not of the form [index, \"digits\"]");
	at = json_object_get_int64(first);
	digits = (size_t)json_object_get_string_len(hex);
	if (at < 0 || (uint64_t)at < *next || digits == 0 || digits % 64 ||
	    !sp_range_ok((uint64_t)at, digits / 64, d->count))
		return sp_err_set(err, -EBADMSG, "a run of %zu digits at MiB %" PRId64 " does not fit", digits, at);
	if (!backup_hex_decode(json_object_get_string(hex), digits, d->sum[at], digits / 2))
		return sp_err_set(err, -EBADMSG, "the run at MiB %" PRId64 " is not made of hex digits", at);
	*next = (uint64_t)at + digits / 64;
	return 0;
}

static int take_runs(json_object *o, const char *key, struct backup_digests *d, struct sp_err *err)
{
	json_object *runs;
	uint64_t next = 0;
	int r = backup_json_object(o, key, json_type_array, &runs, err);

	for (size_t i = 0; r == 0 && i < json_object_array_length(runs); i++) {
		json_object *run = json_object_array_get_idx(runs, i);

		r = json_object_is_type(run, json_type_array) ? take_run(run, d, &next, err) :
		    sp_err_set(err, -EBADMSG, "\"%s\" holds something that is no run", key);
	}
	return r;
}

static int take_file(json_object *o, struct backup_disk *d, struct sp_err *err)
{
	json_object *file;
	uint64_t size = 0;
	int r = backup_json_object(o, "file", json_type_object, &file, err);

	if (r == 0)
		r = backup_json_u64(file, "size", 2 * BACKUP_SIZE_MAX, &size, err);
	if (r == 0 && backup_digests_init(&d->file, size) < 0)
		r = sp_err_set(err, -ENOMEM, "out of memory");
	return r < 0 ? r : take_runs(file, "sha256", &d->file, err);
}

static int take_content(json_object *o, struct backup_disk *d, const struct backup_disk *below, struct sp_err *err)
{
	uint8_t root[32];
	int r;

	if (backup_digests_init(&d->content, d->size) < 0)
		return sp_err_set(err, -ENOMEM, "out of memory");
	if (below)
		backup_digests_copy(&d->content, &below->content);
	r = take_runs(o, "content", &d->content, err);
	if (r == 0 && backup_digests_root(&d->content, root) < 0)
		r = sp_err_set(err, -ENOMEM, "out of memory");
	if (r == 0 && memcmp(root, d->content_root, 32) != 0)
		r = sp_err_set(err, -EBADMSG, "the digests do not add up to \"content-root\"");
	return r;
}

static int take_disk(json_object *o, struct backup_manifest *m, const struct backup_manifest *below, struct sp_err *err)
{
	struct backup_disk *d = &m->disk[m->disks];
	int r = backup_json_string(o, "name", d->name, sizeof(d->name), err);

	if (r == 0 && (!backup_name_ok(d->name) || backup_manifest_disk(m, d->name)))
		r = sp_err_set(err, -EBADMSG, "\"name\" is no name of a disk, or comes twice");
	m->disks++;		/* from here on backup_manifest_free() cares for it */
	if (r == 0)
		r = backup_json_u64(o, "size", BACKUP_SIZE_MAX, &d->size, err);
	if (r == 0)
		r = backup_json_u64(o, "source-size", d->size, &d->source_size, err);
	if (r == 0)
		r = backup_json_string(o, "source", d->source, sizeof(d->source), err);
	if (r == 0)
		r = backup_json_string(o, "track", d->track, sizeof(d->track), err);
	if (r == 0)
		r = backup_json_guid(o, "identity", &d->identity, err);
	if (r == 0)
		r = backup_json_hex(o, "content-root", d->content_root, 32, err);
	if (r == 0)
		r = take_file(o, d, err);
	if (r == 0 && (m->parent == 0 || below))
		r = take_content(o, d, backup_manifest_disk(below, d->name), err);
	return r;
}

static int take_disks(json_object *o, struct backup_manifest *m, const struct backup_manifest *below,
		      struct sp_err *err)
{
	json_object *disks;
	size_t n;
	int r = backup_json_object(o, "disks", json_type_array, &disks, err);

	if (r < 0)
		return r;
	n = json_object_array_length(disks);
	if (n == 0 || n > BACKUP_DISKS_MAX)
		return sp_err_set(err, -EBADMSG, "%zu disks, possible are 1 to %d", n, BACKUP_DISKS_MAX);
	m->disk = sp_calloc(n, sizeof(*m->disk));
	if (!m->disk)
		return sp_err_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; r == 0 && i < n; i++) {
		json_object *d = json_object_array_get_idx(disks, i);

		r = json_object_is_type(d, json_type_object) ? take_disk(d, m, below, err) :
		    sp_err_set(err, -EBADMSG, "\"disks\" holds something else");
		if (r < 0)
			sp_err_prefix(err, r, "disk %zu", i + 1);
	}
	return r;
}

/* Absent where a point was made of files. */
static int take_machine(json_object *o, struct backup_manifest *m, struct sp_err *err)
{
	json_object *text;
	size_t room;

	if (!json_object_object_get_ex(o, "machine", &text))
		return 0;
	room = json_object_is_type(text, json_type_string) ? (size_t)json_object_get_string_len(text) + 1 : 1;
	if (room > BACKUP_MACHINE_MAX + 1)
		return sp_err_set(err, -EBADMSG, "\"machine\" has more than %u bytes", BACKUP_MACHINE_MAX);
	m->machine = sp_alloc(room);
	if (!m->machine)
		return sp_err_set(err, -ENOMEM, "out of memory");
	return backup_json_string(o, "machine", m->machine, room, err);
}

static int take_body(json_object *o, struct backup_manifest *m, struct sp_err *err)
{
	char text[32];
	uint64_t time = 0, guest_time = 0;
	int r = backup_json_string(o, "format", text, sizeof(text), err);

	if (r == 0 && strcmp(text, FORMAT) != 0)
		r = sp_err_set(err, -ENOTSUP, "the format is \"%s\", known is \"" FORMAT "\"", text);
	if (r == 0)
		r = backup_json_number(o, "point", BACKUP_POINTS_MAX, &m->number, err);
	if (r == 0)
		r = backup_json_number(o, "parent", BACKUP_POINTS_MAX, &m->parent, err);
	if (r == 0 && (m->number == 0 || m->parent >= m->number))
		r = sp_err_set(err, -EBADMSG, "point %u with parent %u", m->number, m->parent);
	if (r == 0)
		r = backup_json_guid(o, "id", &m->id, err);
	if (r == 0)
		r = backup_json_guid(o, "set", &m->set, err);
	if (r == 0)
		r = backup_json_u64(o, "time", INT64_MAX, &time, err);
	if (r == 0)
		r = backup_json_u64(o, "guest-time", INT64_MAX, &guest_time, err);
	m->time = (int64_t)time;
	m->guest_time = (int64_t)guest_time;
	if (r == 0)
		r = backup_json_string(o, "reasons", m->reasons, sizeof(m->reasons), err);
	if (r == 0)
		r = backup_json_string(o, "level", text, sizeof(text), err);
	if (r == 0 && backup_level_from_name(text, &m->level) < 0)
		r = sp_err_set(err, -EBADMSG, "level \"%s\" is unknown", text);
	return r < 0 ? r : take_machine(o, m, err);
}

static int take_signature(json_object *outer, struct backup_manifest *m, struct sp_err *err)
{
	json_object *o;
	int r;

	if (!json_object_object_get_ex(outer, "signature", &o))
		return sp_err_set(err, -EBADMSG, "\"signature\" is missing");
	if (!o)
		return 0;
	m->is_signed = true;
	r = backup_json_string(o, "kind", m->signature_kind, sizeof(m->signature_kind), err);
	m->signature_len = r == 0 && strcmp(m->signature_kind, "ed25519") == 0 ? 64 : 32;
	return r < 0 ? r : backup_json_hex(o, "value", m->signature, m->signature_len, err);
}

static int take_outer(json_object *outer, const struct backup_manifest *below, struct backup_manifest *m,
		      struct sp_err *err)
{
	json_object *body;
	uint8_t root[32];
	int r = backup_json_object(outer, "manifest", json_type_object, &body, err);

	if (r == 0)
		r = backup_json_hex(outer, "root", m->root, 32, err);
	if (r == 0 && root_of(body, root) < 0)
		r = sp_err_set(err, -ENOMEM, "out of memory");
	if (r == 0 && memcmp(root, m->root, 32) != 0)
		r = sp_err_set(err, -EBADMSG, "damaged: the root hash does not match");
	if (r == 0)
		r = take_signature(outer, m, err);
	if (r == 0)
		r = take_body(body, m, err);
	return r < 0 ? r : take_disks(body, m, below, err);
}

int backup_manifest_decode(const char *text, size_t len, const struct backup_manifest *below,
			   struct backup_manifest **ret, struct sp_err *err)
{
	struct backup_manifest *m;
	json_object *outer;
	int r = backup_json_parse(text, len, &outer, err);

	if (r < 0)
		return r;
	m = sp_zalloc(sizeof(*m));
	r = m ? take_outer(outer, below, m, err) : sp_err_set(err, -ENOMEM, "out of memory");
	json_object_put(outer);
	if (r < 0)
		backup_manifest_free(m);
	else
		*ret = m;
	return r;
}
