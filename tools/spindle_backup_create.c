/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tools/spindle_backup_disks.h"

/* ---- what was done ------------------------------------------------------------------------------------- */

static void print_human(const char *set, const struct backup_create_args *a, const struct backup_create_result *r,
			json_object *more)
{
	json_object *pause;

	printf("%s: point %u, %s%s, %s consistent%s%s%s: %" PRIu64 " bytes read, %" PRIu64 " written", set, r->number,
	       r->full ? "full" : "incremental", r->continued ? ", continued" : "", backup_level_name(a->opts.level),
	       a->opts.reasons && *a->opts.reasons ? " (" : "", a->opts.reasons ? a->opts.reasons : "",
	       a->opts.reasons && *a->opts.reasons ? ")" : "", r->bytes_read, r->bytes_written);
	if (json_object_object_get_ex(more, "pause_ms", &pause))
		printf("; I/O held for %.1f ms", json_object_get_double(pause));
	putchar('\n');
}

static void print_json(const char *set, const struct backup_create_args *a, const struct backup_create_result *r,
		       json_object *more)
{
	json_object *o = json_object_new_object();

	tool_json_text(o, "set", set);
	tool_json_u64(o, "point", r->number);
	tool_json_bool(o, "full", r->full);
	tool_json_bool(o, "continued", r->continued);
	tool_json_u64(o, "bytes-read", r->bytes_read);
	tool_json_u64(o, "bytes-written", r->bytes_written);
	tool_json_text(o, "level", backup_level_name(a->opts.level));
	tool_json_text(o, "reasons", a->opts.reasons);
	if (more)
		json_object_object_add(o, "snapshot", json_object_get(more));
	tool_json_print(o);
}

int backup_create_tell(const char *set, const struct backup_create_args *a, const struct backup_create_result *r,
		       json_object *more)
{
	if (a->json)
		print_json(set, a, r, more);
	else if (!a->progress.quiet)
		print_human(set, a, r, more);
	return 0;
}

/* ---- files --------------------------------------------------------------------------------------------- */

/* "root=/images/web.vhdx", or the file's name up to its first dot. */
static char *disk_name(const char *arg, const char **ret_path)
{
	const char *equals = strchr(arg, '='), *slash = strchr(arg, '/'), *base;

	if (equals && (!slash || equals < slash)) {
		*ret_path = equals + 1;
		return sp_asprintf("%.*s", (int)(equals - arg), arg);
	}
	*ret_path = arg;
	slash = strrchr(arg, '/');
	base = slash ? slash + 1 : arg;
	return sp_asprintf("%.*s", (int)strcspn(base, "."), base);
}

static int open_disk(struct backup_set *set, struct backup_disks *d, const char *arg,
		     const struct backup_create_args *a, struct sp_err *err)
{
	const struct vhd_open_opts o = { .format = a->format, .image_root = a->image_root };
	const char *path;
	SP_AUTO_FREE char *name = disk_name(arg, &path);

	if (!name)
		return sp_err_set(err, -ENOMEM, "out of memory");
	return a->track ? backup_track_file(set, d, name, path, &o, err) : backup_disks_add(d, name, path, &o, err);
}

static int make_point(int argc, char **argv, struct backup_set *set, struct backup_disks *d,
		      const struct backup_create_args *a, struct sp_err *err)
{
	struct backup_create_result result = { 0 };
	int r = 0;

	for (int i = 2; r == 0 && i < argc; i++)
		r = open_disk(set, d, argv[i], a, err);
	if (r == 0)
		r = backup_create(set, d->source, d->count, &a->opts, tool_job_begin(&a->progress), &result, err);
	return r < 0 ? r : backup_create_tell(argv[1], a, &result, NULL);
}

static int from_files(int argc, char **argv, const struct backup_create_args *a)
{
	struct vhd_open_opts o[BACKUP_DISKS_MAX];
	struct backup_disks d = { 0 };
	struct backup_set *set;
	struct sp_err err = { 0 };
	int r = backup_set_open(argv[0], argv[1], BACKUP_WRITE | BACKUP_CREATE, &set, &err);

	if (r == 0) {
		r = make_point(argc, argv, set, &d, a, &err);
		for (unsigned i = 0; i < d.count; i++)
			o[i] = (struct vhd_open_opts){ .format = a->format, .image_root = a->image_root };
		if (a->track)
			backup_track_settle(set, &d, o);
		backup_disks_close(&d);
		backup_set_close(set);
	}
	if (r < 0)
		tool_fail(argv[0], &err);
	return tool_job_end(r < 0);
}

/* ---- the verb ------------------------------------------------------------------------------------------ */

/* Nobody writes to files while we have them open. Whoever made them tells whether they were shut down. */
static int take_levels(struct backup_create_args *a)
{
	a->opts.level = BACKUP_OFFLINE;
	if ((a->level && backup_level_from_name(a->level, &a->opts.level) < 0) ||
	    (a->require && backup_level_from_name(a->require, &a->required) < 0)) {
		fprintf(stderr, "spindle-backup: levels are crash, file-system, application and offline\n");
		return 1;
	}
	if (a->machine && a->required == BACKUP_OFFLINE) {
		fprintf(stderr, "spindle-backup: a machine that runs is not offline\n");
		return BACKUP_EXIT_LEVEL;
	}
	if (!a->machine && a->opts.level < a->required) {
		fprintf(stderr, "spindle-backup: the disks are %s-consistent, required is %s\n",
			backup_level_name(a->opts.level), backup_level_name(a->required));
		return BACKUP_EXIT_LEVEL;
	}
	return 0;
}

static int misused(const char *text)
{
	fprintf(stderr, "spindle-backup create: %s\nTry: spindle-backup create --help\n", text);
	return 1;
}

static int check(const struct backup_create_args *a, int words)
{
	if (a->machine && a->config)
		return misused("--machine is for one that runs, --config for one that does not");
	if ((a->machine || a->config) && words > 2)
		return misused("the disks are the machine's: name no files");
	if (!a->machine && !a->config && words < 3)
		return misused("name the disks, or --machine, or --config");
	if (!a->machine && (a->pre || a->post || a->writers || a->no_quiesce))
		return misused("--pre, --post, --writer and --no-quiesce need a --machine that runs");
	if (a->machine && (a->level || a->opts.reasons))
		return misused("the machine says how consistent its disks are");
	return 0;
}

static int run(int argc, char **argv, struct backup_create_args *a)
{
	if (a->machine)
		return backup_create_live(argv, a);
	return a->config ? backup_create_stopped(argv, a) : from_files(argc, argv, a);
}

static int add_writer(void *target, const char *value, struct sp_err *err)
{
	struct backup_create_args *a = target;

	if (a->writers == VM_SET_WRITERS_MAX)
		return sp_err_set(err, -E2BIG, "at most %u writers are possible", VM_SET_WRITERS_MAX);
	a->writer[a->writers++] = value;
	return 0;
}

int backup_verb_create(const struct tool_verb *verb, int argc, char **argv)
{
	struct backup_create_args a = { .progress.fd = -1 };
	const struct tool_opt options[] = {
		{ 0, "machine", "NAME", "all disks of a machine that runs, as they are at one instant", TOOL_TEXT,
		  &a.machine },
		{ 0, "config", "FILE", "all disks of a machine that does not run: its configuration", TOOL_TEXT,
		  &a.config },
		{ 0, "no-quiesce", NULL, "ask nobody in the machine to hold still", TOOL_FLAG, &a.no_quiesce },
		{ 0, "pre", "COMMAND", "runs before the machine's guest is frozen", TOOL_TEXT, &a.pre },
		{ 0, "post", "COMMAND", "runs after it has been thawed", TOOL_TEXT, &a.post },
		{ 0, "writer", "SOCKET", "an application on the host that holds still, or a folder of such", TOOL_CALL,
		  &a, add_writer },
		{ 0, "track", NULL, "record changes of the files from now on, in FILE.track", TOOL_FLAG, &a.track },
		{ 0, "full", NULL, "copy everything, build on no other point", TOOL_FLAG, &a.opts.full },
		{ 0, "level", "LEVEL", "how consistent the files are (default: offline, nobody uses them)", TOOL_TEXT,
		  &a.level },
		{ 0, "reason", "TEXT", "why they are not more", TOOL_TEXT, &a.opts.reasons },
		{ 0, "require", "LEVEL", "refuse less than crash, file-system, application or offline", TOOL_TEXT,
		  &a.require },
		BACKUP_OPT_KEY(&a.key),
		BACKUP_OPT_RATE(&a.opts.rate_limit),
		TOOL_OPT_FORMAT(&a.format),
		TOOL_OPT_ROOT(&a.image_root),
		TOOL_OPT_THREADS(&a.opts.threads),
		TOOL_OPTS_PROGRESS(&a.progress),
		TOOL_OPT_OUTPUT(&a.json),
		TOOL_OPTS_END,
	};
	struct backup_key *key;
	int n = tool_parse(verb, options, argc, argv, 2, 2 + BACKUP_DISKS_MAX), status;

	if (n < 0)
		return tool_parse_exit(verb, n);
	status = check(&a, n);
	if (status == 0)
		status = take_levels(&a);
	if (status)
		return status;
	if (backup_tool_key(a.key, &key) < 0)
		return 1;
	a.opts.key = key;
	status = run(n, argv, &a);
	backup_key_free(key);
	return status;
}
