/* SPDX-License-Identifier: BSD-2-Clause */
#include <inttypes.h>
#include <stdio.h>

#include "base/alloc.h"
#include "tools/manifest.h"
#include "tools/size.h"
#include "tools/spindle_backup.h"

static void print_point(const struct backup_point *p)
{
	char time[32], base[32] = "full";

	backup_time_text(p->time, time);
	if (p->parent)
		snprintf(base, sizeof(base), "on %u", p->parent);
	printf("  %6u  %s  %-9s %-12s %2u %s  %14" PRIu64 "%s%s%s\n", p->number, time, base,
	       backup_level_name(p->level), p->disks, p->disks == 1 ? "disk " : "disks", p->stored,
	       p->is_signed ? "  signed" : "", *p->reasons ? "  " : "", p->reasons);
}

static json_object *point_json(struct backup_set *set, const struct backup_point *p)
{
	json_object *o = json_object_new_object(), *disks = json_object_new_array();
	char guid[SP_GUID_TEXT], root[TOOL_HASH_TEXT];

	tool_json_u64(o, "point", p->number);
	tool_json_u64(o, "parent", p->parent);
	tool_json_text(o, "id", tool_guid_text(&p->id, VHD_FORMAT_VHDX, guid));
	tool_json_u64(o, "time", (uint64_t)p->time);
	if (p->guest_time)
		tool_json_u64(o, "guest-time", (uint64_t)p->guest_time);
	tool_json_text(o, "level", backup_level_name(p->level));
	tool_json_text(o, "reasons", p->reasons);
	tool_json_u64(o, "size", p->size);
	tool_json_u64(o, "stored", p->stored);
	tool_json_bool(o, "signed", p->is_signed);
	tool_hash_text(p->root, root);
	tool_json_text(o, "root", root);
	for (unsigned i = 0; i < p->disks; i++) {
		struct backup_disk_info d;
		json_object *e = json_object_new_object();

		if (backup_disk_info(set, p->number, i, &d, NULL) == 0) {
			tool_json_text(e, "name", d.name);
			tool_json_text(e, "file", d.file);
			tool_json_text(e, "source", d.source);
			tool_json_u64(e, "size", d.size);
		}
		json_object_array_add(disks, e);
	}
	json_object_object_add(o, "disks", disks);
	return o;
}

static int list_points(struct backup_set *set, const char *name, json_object *array)
{
	struct backup_point p;
	struct sp_err err;
	int status = 0;

	for (unsigned i = 0; i < backup_points(set); i++) {
		err = (struct sp_err){ 0 };
		if (backup_point_info(set, backup_point_number(set, i), &p, &err) < 0) {
			tool_fail(name, &err);
			status = 1;
		} else if (array) {
			json_object_array_add(array, point_json(set, &p));
		} else {
			print_point(&p);
		}
	}
	return status;
}

static int list_set(const char *repository, const char *name, json_object *sets)
{
	json_object *o = NULL, *points = NULL;
	struct backup_set *set;
	struct sp_err err = { 0 };
	int status;

	if (backup_set_open(repository, name, 0, &set, &err) < 0) {
		tool_fail(repository, &err);
		return 1;
	}
	if (sets) {
		o = json_object_new_object();
		points = json_object_new_array();
		tool_json_text(o, "set", name);
		tool_json_u64(o, "incomplete", backup_incomplete(set));
		tool_json_bool(o, "prune-interrupted", backup_prune_pending(set));
		json_object_object_add(o, "points", points);
		json_object_array_add(sets, o);
	} else {
		printf("%s\n", name);
	}
	status = list_points(set, name, points);
	if (!sets && backup_incomplete(set))
		printf("  %6u  incomplete: \"create\" goes on with it\n", backup_incomplete(set));
	if (!sets && backup_prune_pending(set))
		printf("          pruning was interrupted: \"prune\" finishes it\n");
	backup_set_close(set);
	return status;
}

static int list_all(const char *repository, json_object *sets)
{
	struct sp_err err = { 0 };
	char **names;
	size_t n;
	int status = 0;

	if (backup_repository_list(repository, &names, &n, &err) < 0) {
		tool_fail(repository, &err);
		return 1;
	}
	for (size_t i = 0; i < n; i++) {
		status |= names[i] ? list_set(repository, names[i], sets) : 1;
		sp_free(names[i]);
	}
	sp_free(names);
	return status;
}

int backup_verb_list(const struct tool_verb *verb, int argc, char **argv)
{
	json_object *sets = NULL;
	bool json = false;
	const struct tool_opt options[] = { TOOL_OPT_OUTPUT(&json), TOOL_OPTS_END };
	int n = tool_parse(verb, options, argc, argv, 1, 2), status;

	if (n < 0)
		return tool_parse_exit(verb, n);
	if (json)
		sets = json_object_new_array();
	status = n == 2 ? list_set(argv[0], argv[1], sets) : list_all(argv[0], sets);
	if (json)
		tool_json_print(sets);
	return status;
}
