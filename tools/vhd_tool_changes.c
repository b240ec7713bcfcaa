/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * changes: what changed since a point, and the points. Asking opens the image for reading; what changes the side-car
 * opens it for writing, so that nobody else does meanwhile.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "base/bytes.h"
#include "tools/options.h"
#include "tools/output.h"
#include "vhd/track.h"

struct changes_args {
	struct tool_look look;
	const char *since, *until, *point, *forget;
	bool list, off, json, quiet;
};

/* ---- ranges --------------------------------------------------------------------------------------- */

struct printer {
	bool json, any;
};

static int print_range(void *user, uint64_t offset, uint64_t len)
{
	struct printer *p = user;

	/* One range per line and nothing kept: there may be millions of them. */
	if (p->json)
		printf("%s\n    { \"start\": %" PRIu64 ", \"length\": %" PRIu64 " }", p->any ? "," : "", offset, len);
	else
		printf("%#-16" PRIx64 "%#" PRIx64 "\n", offset, len);
	p->any = true;
	return 0;
}

/* The members after the ranges, of an object that is open. */
static void print_answer(const struct changes_args *a, const struct vhd_track_answer *answer)
{
	json_object *o = json_object_new_object();
	const char *text;

	tool_json_text(o, "since", a->since);
	tool_json_text(o, "until", a->until);
	tool_json_bool(o, "everything", answer->why != VHD_TRACK_EXACT);
	tool_json_text(o, "reason", answer->reason);
	tool_json_u64(o, "changed-bytes", answer->bytes);
	tool_json_u64(o, "virtual-size", answer->size);
	tool_json_u64(o, "granularity", answer->granularity);
	text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_SPACED);
	printf(",%s\n", text + 1);	/* goes on where the ranges ended */
	json_object_put(o);
}

static int show_ranges(struct vhd_disk *d, const char *path, const struct changes_args *a, struct sp_err *err)
{
	struct printer p = { .json = a->json };
	struct vhd_track_answer answer;
	int r = vhd_track_changes(d, a->since, a->until, NULL, NULL, &answer, err);

	if (r < 0)
		return r;
	if (answer.why == VHD_TRACK_NO_POINT)
		return sp_err_set(err, -ENOENT, "%s; --list shows the points", answer.reason);
	if (a->json)
		printf("{ \"ranges\": [");
	else
		printf("%-16s%s\n", "Offset", "Length");
	r = vhd_track_changes(d, a->since, a->until, print_range, &p, &answer, err);
	if (r < 0)
		return r;
	if (a->json) {
		printf("%s]", p.any ? "\n  " : "");
		print_answer(a, &answer);
	}
	if (answer.why != VHD_TRACK_EXACT && !a->quiet)
		tool_warn(path, answer.reason);
	return 0;
}

/* ---- points --------------------------------------------------------------------------------------- */

static void print_point_json(json_object *array, const struct vhd_track_point *p)
{
	json_object *o = json_object_new_object();
	char id[SP_GUID_TEXT];

	sp_guid_format_le(&p->id, id);
	tool_json_text(o, "name", p->name);
	tool_json_text(o, "id", id);
	json_object_object_add(o, "time", json_object_new_int64(p->time));
	tool_json_bool(o, "everything", p->why != VHD_TRACK_EXACT);
	json_object_array_add(array, o);
}

static void print_point(const struct vhd_track_point *p)
{
	time_t t = (time_t)p->time;
	char id[SP_GUID_TEXT], when[32];
	struct tm tm;

	sp_guid_format_le(&p->id, id);
	if (!gmtime_r(&t, &tm) || strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		snprintf(when, sizeof(when), "?");
	printf("%-22s%-38s%-12s%s\n", when, id, p->why == VHD_TRACK_EXACT ? "known" : "everything", p->name);
}

static int show_points(struct vhd_disk *d, const struct changes_args *a, struct sp_err *err)
{
	json_object *array = a->json ? json_object_new_array() : NULL;
	struct vhd_track_point *list = NULL;
	size_t count = 0;
	int r = vhd_track_list(d, &list, &count, err);

	if (r == -ENOENT)	/* not tracked: no points */
		r = 0;
	if (r == 0 && !a->json)
		printf("%-22s%-38s%-12s%s\n", "Time", "Id", "Changes", "Name");
	for (size_t i = 0; i < count; i++) {
		if (a->json)
			print_point_json(array, &list[i]);
		else
			print_point(&list[i]);
	}
	vhd_track_list_free(list);
	if (r == 0 && a->json)
		tool_json_print(array);
	else
		json_object_put(array);
	return r;
}

static int change_points(struct vhd_disk *d, const struct changes_args *a, struct sp_err *err)
{
	struct sp_guid id;
	char text[SP_GUID_TEXT];
	int r = vhd_disk_track(d, a->point != NULL, err);

	if (r == 0 && a->forget)
		r = vhd_track_forget(d, a->forget, err);
	if (r == 0 && a->point)
		r = vhd_track_point(d, a->point, &id, err);
	if (r == 0 && a->off)
		r = vhd_track_off(d, err);
	if (r == 0 && a->point && !a->quiet) {
		sp_guid_format_le(&id, text);
		puts(text);
	}
	return r;
}

/* ---- verb ----------------------------------------------------------------------------------------- */

static int check_args(const struct changes_args *a, struct sp_err *err)
{
	bool changes = a->point || a->forget || a->off;

	if (a->until && !a->since)
		return sp_err_set(err, -EINVAL, "--until needs --since");
	if ((a->since != NULL) + a->list + changes > 1 || (a->off && (a->point || a->forget)))
		return sp_err_set(err, -EINVAL, "one of --since, --list, --stop, or --forget and --point, at a time");
	return 0;
}

int tool_changes(const struct tool_verb *verb, int argc, char **argv)
{
	struct changes_args a = { 0 };
	const struct tool_opt opts[] = {
		{ 's', "since", "POINT", "show what changed since this point (name or id)", TOOL_TEXT, &a.since },
		{ 0, "until", "POINT", "... up to this one (default: now)", TOOL_TEXT, &a.until },
		{ 0, "list", NULL, "show the points (default)", TOOL_FLAG, &a.list },
		{ 0, "point", "NAME", "track changes from now on, and call this moment NAME", TOOL_TEXT, &a.point },
		{ 0, "forget", "POINT", "forget a point", TOOL_TEXT, &a.forget },
		{ 0, "stop", NULL, "track no changes any more, forget all", TOOL_FLAG, &a.off },
		TOOL_OPTS_LOOK(&a.look), TOOL_OPT_OUTPUT(&a.json), TOOL_OPT_QUIET(&a.quiet), TOOL_OPTS_END,
	};
	struct vhd_open_opts open;
	struct vhd_disk *d = NULL;
	struct sp_err err = { 0 };
	bool changes;
	int n = tool_parse(verb, opts, argc, argv, 1, 1), r, c;

	if (n < 0)
		return tool_parse_exit(verb, n);
	changes = a.point || a.forget || a.off;
	open = tool_open_opts(&a.look);
	if (changes)
		open.flags |= VHD_OPEN_WRITE;
	r = check_args(&a, &err);
	if (r == 0)
		r = vhd_disk_open(argv[0], &open, &d, &err);
	if (r == 0)
		r = changes ? change_points(d, &a, &err) : a.since ? show_ranges(d, argv[0], &a, &err) :
								    show_points(d, &a, &err);
	c = vhd_disk_close(d, r < 0 ? NULL : &err);
	if (r == 0)
		r = c;
	if (r < 0)
		tool_fail(argv[0], &err);
	return r < 0;
}
