/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/progress.h"
#include "vhd/ops.h"

struct snapshot_args {
	const char *image_root;
	bool dry_run, json;
	struct tool_progress progress;
};

static int finish(int r, const char *path, const struct sp_err *err)
{
	int status = tool_job_end(r < 0);

	if (r < 0 && !tool_job_interrupted())
		tool_fail(path, err);
	return status;
}

static int snapshot_create(const struct tool_verb *verb, int argc, char **argv)
{
	struct snapshot_args a = { .progress.fd = -1 };
	const struct tool_opt opts[] = {
		TOOL_OPT_ROOT(&a.image_root), TOOL_OPT_QUIET(&a.progress.quiet), TOOL_OPTS_END,
	};
	struct sp_err err = { 0 };
	int n = tool_parse(verb, opts, argc, argv, 2, 2), r;

	if (n < 0)
		return tool_parse_exit(verb, n);
	tool_job_begin(&a.progress);	/* a signal lets the few steps finish */
	r = vhd_snapshot_create(argv[0], argv[1], a.image_root, &err);
	if (r == 0 && !a.progress.quiet)
		printf("snapshot \"%s\" of %s taken\n", argv[1], argv[0]);
	return finish(r, argv[0], &err);
}

/* ---- list ---------------------------------------------------------------------------------------- */

static void format_time(int64_t seconds, char *text, size_t room)
{
	time_t t = (time_t)seconds;
	struct tm tm;

	if (!gmtime_r(&t, &tm) || strftime(text, room, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		snprintf(text, room, "?");
}

static void print_human(const struct vhd_snapshot *list, size_t count)
{
	char when[32];

	if (count)
		printf("%-6s%-24s%-24s%s\n", "DEPTH", "NAME", "TIME", "FILE");
	for (size_t i = 0; i < count; i++) {
		format_time(list[i].time, when, sizeof(when));
		printf("%-6u%-23s %-24s%s\n", list[i].depth, list[i].name, when, list[i].path);
	}
}

static void print_json(const struct vhd_snapshot *list, size_t count)
{
	json_object *array = json_object_new_array();

	for (size_t i = 0; i < count; i++) {
		json_object *o = json_object_new_object();

		tool_json_text(o, "name", list[i].name);
		tool_json_text(o, "filename", list[i].path);
		json_object_object_add(o, "time", json_object_new_int64(list[i].time));
		tool_json_u64(o, "depth", list[i].depth);
		json_object_array_add(array, o);
	}
	tool_json_print(array);
}

static int snapshot_list(const struct tool_verb *verb, int argc, char **argv)
{
	struct snapshot_args a = { 0 };
	const struct tool_opt opts[] = {
		TOOL_OPT_ROOT(&a.image_root), TOOL_OPT_OUTPUT(&a.json), TOOL_OPTS_END,
	};
	struct vhd_snapshot *list = NULL;
	struct sp_err err = { 0 };
	size_t count = 0;
	int n = tool_parse(verb, opts, argc, argv, 1, 1);

	if (n < 0)
		return tool_parse_exit(verb, n);
	if (vhd_snapshot_list(argv[0], a.image_root, &list, &count, &err) < 0) {
		tool_fail(argv[0], &err);
		return 1;
	}
	if (a.json)
		print_json(list, count);
	else
		print_human(list, count);
	vhd_snapshot_list_free(list);
	return 0;
}

/* ---- revert, delete ------------------------------------------------------------------------------ */

static int snapshot_revert(const struct tool_verb *verb, int argc, char **argv)
{
	struct snapshot_args a = { .progress.fd = -1 };
	const struct tool_opt opts[] = {
		TOOL_OPT_ROOT(&a.image_root), TOOL_OPT_DRY_RUN(&a.dry_run), TOOL_OPT_QUIET(&a.progress.quiet),
		TOOL_OPTS_END,
	};
	struct sp_err err = { 0 };
	int n = tool_parse(verb, opts, argc, argv, 2, 2), r;

	if (n < 0)
		return tool_parse_exit(verb, n);
	tool_job_begin(&a.progress);
	r = vhd_snapshot_revert(argv[0], argv[1], a.image_root, a.dry_run, &err);
	if (r == 0 && !a.progress.quiet)
		printf("%s %s to snapshot \"%s\"\n", a.dry_run ? "would revert" : "reverted", argv[0], argv[1]);
	return finish(r, argv[0], &err);
}

static int snapshot_delete(const struct tool_verb *verb, int argc, char **argv)
{
	struct snapshot_args a = { .progress.fd = -1 };
	const struct tool_opt opts[] = {
		TOOL_OPT_ROOT(&a.image_root), TOOL_OPT_DRY_RUN(&a.dry_run), TOOL_OPTS_PROGRESS(&a.progress),
		TOOL_OPTS_END,
	};
	struct sp_err err = { 0 };
	int n = tool_parse(verb, opts, argc, argv, 2, 2), r;

	if (n < 0)
		return tool_parse_exit(verb, n);
	r = vhd_snapshot_delete(argv[0], argv[1], a.image_root, a.dry_run, tool_job_begin(&a.progress), &err);
	if (r == 0 && !a.progress.quiet)
		printf("%s snapshot \"%s\" of %s\n", a.dry_run ? "would delete" : "deleted", argv[1], argv[0]);
	return finish(r, argv[0], &err);
}

int tool_snapshot(const struct tool_verb *verb, int argc, char **argv)
{
	static const struct tool_verb verbs[] = {
		{ "create", "FILE NAME", "keep the present content under NAME",		   snapshot_create, 1 },
		{ "list",   "FILE",	 "snapshots FILE stands on, newest first",	   snapshot_list,   1 },
		{ "revert", "FILE NAME", "go back to NAME; what was written since is lost", snapshot_revert, 1 },
		{ "delete", "FILE NAME", "forget NAME; the content of FILE stays",	   snapshot_delete, 1 },
		{ 0 },
	};

	return tool_dispatch(verbs, "vhd-tool snapshot", argc - 1, argv + 1);
}
