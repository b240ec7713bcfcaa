/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A machine's configuration as "spindle-vm run --config" takes it. In the set it is kept with the names of the set's
 * disks in place of their files, and with absolute names of everything that stays outside.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tools/spindle_backup_disks.h"

static const char *text_at(json_object *o, const char *key)
{
	json_object *v;

	return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_string) ?
	       json_object_get_string(v) : NULL;
}

static int number_at(json_object *o, const char *key)
{
	json_object *v;

	return json_object_object_get_ex(o, key, &v) ? json_object_get_int(v) : -1;
}

static bool flag_at(json_object *o, const char *key)
{
	json_object *v;

	if (!json_object_object_get_ex(o, key, &v))
		return false;
	return json_object_is_type(v, json_type_string) ? strcmp(json_object_get_string(v), "on") == 0 ||
	       strcmp(json_object_get_string(v), "true") == 0 : json_object_get_boolean(v);
}

/* ---- names --------------------------------------------------------------------------------------------- */

static bool taken(const struct backup_setup *s, const char *name)
{
	for (unsigned i = 0; i < s->disks; i++)
		if (strcmp(s->disk[i].name, name) == 0)
			return true;
	return false;
}

/* "images/My Disk.v2.vhdx" makes "My-Disk", and when there is one of that name already "My-Disk-2". */
static void choose_name(const struct backup_setup *s, const char *file, char ret[static BACKUP_NAME_MAX + 1])
{
	const char *slash = strrchr(file, '/'), *base = slash ? slash + 1 : file;
	char stem[BACKUP_NAME_MAX - 8];

	snprintf(stem, sizeof(stem), "%.*s", (int)strcspn(base, "."), base);
	for (char *p = stem; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("_-", *p))
			*p = '-';
	if (!*stem || *stem == '-')
		snprintf(stem, sizeof(stem), "disk");
	snprintf(ret, BACKUP_NAME_MAX + 1, "%s", stem);
	for (unsigned n = 2; taken(s, ret); n++)
		snprintf(ret, BACKUP_NAME_MAX + 1, "%s-%u", stem, n);
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static int find_file(const char *path, char **ret, struct sp_err *err)
{
	char *real = realpath(path, NULL);

	*ret = real ? sp_strdup(real) : NULL;
	free(real);
	if (*ret)
		return 0;
	return sp_err_set(err, real ? -ENOMEM : -errno, "%s: %s", path, strerror(real ? ENOMEM : errno));
}

static int take_disk(json_object *o, struct backup_setup *s, struct sp_err *err)
{
	const char *file = text_at(o, "file"), *root = text_at(o, "image-root"), *format = text_at(o, "format");
	struct backup_setup_disk *d = &s->disk[s->disks];
	int controller = number_at(o, "controller"), lun = number_at(o, "lun"), r;

	if (!file)
		return sp_err_set(err, -EINVAL, "has no \"file\"");
	if (s->disks == BACKUP_DISKS_MAX)
		return sp_err_set(err, -E2BIG, "a set has at most %d disks", BACKUP_DISKS_MAX);
	if (format && vhd_format_from_name(format, &d->format) < 0)
		return sp_err_set(err, -EINVAL, "\"format\": %s is unknown", format);
	choose_name(s, file, d->name);
	if (lun >= 0)
		snprintf(d->device, sizeof(d->device), "scsi%d:%d", controller > 0 ? controller : 0, lun);
	s->disks++;
	r = find_file(file, &d->file, err);
	if (r == 0 && root)
		r = find_file(root, &d->root, err);
	return r;
}

/* In the set's own words: what stands for the file, and nothing that belongs to it alone. */
static void rename_disk(json_object *o, const char *name)
{
	json_object_object_add(o, "file", json_object_new_string(name));
	json_object_object_del(o, "format");
	json_object_object_del(o, "image-root");
}

static void make_absolute(json_object *o, const char *key)
{
	const char *path = text_at(o, key);
	char *real = path && *path != '/' ? realpath(path, NULL) : NULL;

	if (real)
		json_object_object_add(o, key, json_object_new_string(real));
	free(real);
}

static int take_disks(json_object *config, struct backup_setup *s, struct sp_err *err)
{
	json_object *list;
	int r = 0;

	if (!json_object_object_get_ex(config, "disks", &list) || !json_object_is_type(list, json_type_array))
		return sp_err_set(err, -EINVAL, "\"disks\" is missing, or no list");
	for (size_t i = 0; r == 0 && i < json_object_array_length(list); i++) {
		json_object *o = json_object_array_get_idx(list, i);

		make_absolute(o, "file");
		make_absolute(o, "image-root");
		if (flag_at(o, "ro") || flag_at(o, "snapshot"))
			continue;
		r = take_disk(o, s, err);
		if (r < 0)
			return sp_err_prefix(err, r, "\"disks\", entry %zu", i);
		rename_disk(o, s->disk[s->disks - 1].name);
	}
	return s->disks ? r : sp_err_set(err, -ENOENT, "no disk of the machine is written to and kept");
}

int backup_setup_take(json_object *config, struct backup_setup *s, struct sp_err *err)
{
	json_object *copy = NULL, *dvds;
	int r;

	*s = (struct backup_setup){ 0 };
	if (!json_object_is_type(config, json_type_object))
		return sp_err_set(err, -EINVAL, "the configuration is no JSON object");
	if (json_object_deep_copy(config, &copy, NULL) < 0)
		return sp_err_set(err, -ENOMEM, "out of memory");
	snprintf(s->machine, sizeof(s->machine), "%s", text_at(config, "name") ? text_at(config, "name") : "");
	make_absolute(copy, "kernel");
	make_absolute(copy, "initrd");
	for (size_t i = 0; json_object_object_get_ex(copy, "dvds", &dvds) && i < json_object_array_length(dvds); i++)
		make_absolute(json_object_array_get_idx(dvds, i), "file");
	r = take_disks(copy, s, err);
	if (r == 0)
		s->text = sp_strdup(json_object_to_json_string_ext(copy, JSON_C_TO_STRING_PLAIN |
								   JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(copy);
	if (r == 0 && !s->text)
		r = sp_err_set(err, -ENOMEM, "out of memory");
	if (r < 0)
		backup_setup_free(s);
	return r;
}

int backup_setup_read(const char *path, struct backup_setup *ret, struct sp_err *err)
{
	json_object *config = json_object_from_file(path);
	int r;

	if (!config)
		return sp_err_set(err, -EINVAL, "%s: %s", path, json_util_get_last_err());
	r = backup_setup_take(config, ret, err);
	json_object_put(config);
	return r < 0 ? sp_err_prefix(err, r, "%s", path) : 0;
}

void backup_setup_free(struct backup_setup *s)
{
	for (unsigned i = 0; i < s->disks; i++) {
		sp_free(s->disk[i].file);
		sp_free(s->disk[i].root);
	}
	sp_free(s->text);
	*s = (struct backup_setup){ 0 };
}

/* ---- and back ------------------------------------------------------------------------------------------ */

static bool in_set(struct backup_set *set, unsigned number, const char *name, char ret_file[static 96])
{
	struct backup_disk_info info;

	for (unsigned i = 0; name && i < BACKUP_DISKS_MAX; i++) {
		if (backup_disk_info(set, number, i, &info, NULL) < 0)
			return false;
		if (strcmp(info.name, name) == 0) {
			snprintf(ret_file, 96, "%s", info.file);
			return true;
		}
	}
	return false;
}

int backup_setup_files(const char *text, struct backup_set *set, unsigned number, const char *folder,
		       const char *ending, json_object **ret, struct sp_err *err)
{
	json_object *config = json_tokener_parse(text), *list = NULL;
	char file[96];

	if (!json_object_is_type(config, json_type_object) || !json_object_object_get_ex(config, "disks", &list) ||
	    !json_object_is_type(list, json_type_array)) {
		json_object_put(config);
		return sp_err_set(err, -EBADMSG, "the machine's configuration in the set is not understood");
	}
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		json_object *o = json_object_array_get_idx(list, i);
		SP_AUTO_FREE char *path = NULL;

		if (!in_set(set, number, text_at(o, "file"), file))
			continue;
		path = ending ? sp_asprintf("%s/%s.%s", folder, text_at(o, "file"), ending) :
				sp_asprintf("%s/%s", folder, file);
		json_object_object_add(o, "file", json_object_new_string(path ? path : ""));
	}
	*ret = config;
	return 0;
}

/* What another machine may be using at this moment: its name, its sockets. */
static const char *const of_one_machine[] = { "name", "qmp", "storvsp-socket", "serial", "attach-from", "paused" };

int backup_setup_throw_away(const char *text, struct backup_set *set, unsigned number, const char *folder,
			    json_object **ret, struct sp_err *err)
{
	json_object *list = NULL;
	int r = backup_setup_files(text, set, number, folder, NULL, ret, err);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < sizeof(of_one_machine) / sizeof(*of_one_machine); i++)
		json_object_object_del(*ret, of_one_machine[i]);
	json_object_object_get_ex(*ret, "disks", &list);
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		json_object *o = json_object_array_get_idx(list, i);

		if (!flag_at(o, "ro"))
			json_object_object_add(o, "snapshot", json_object_new_boolean(true));
		json_object_object_del(o, "track");
	}
	return 0;
}
