/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/env.h"
#include "tools/spindle_backup.h"

struct create_args {
	struct tool_progress progress;
	struct backup_create_opts opts;
	const char *key, *require, *level;
	enum vhd_format_id format;
	const char *image_root;
	bool json;
};

struct disks {
	struct backup_source source[BACKUP_DISKS_MAX];
	char *name[BACKUP_DISKS_MAX];
	unsigned count;
};

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

static int open_disk(struct disks *d, const char *arg, const struct create_args *a, struct sp_err *err)
{
	struct vhd_open_opts o = { .format = a->format, .image_root = a->image_root };
	struct backup_source *s = &d->source[d->count];
	const char *path;
	char *name = disk_name(arg, &path);
	int r;

	if (!name)
		return sp_err_set(err, -ENOMEM, "out of memory");
	r = vhd_disk_open(path, &o, &s->disk, err);
	if (r < 0) {
		sp_free(name);
		return r;
	}
	s->name = d->name[d->count++] = name;
	s->path = path;
	return 0;
}

static void close_disks(struct disks *d)
{
	for (unsigned i = 0; i < d->count; i++) {
		vhd_disk_close(d->source[i].disk, NULL);
		sp_free(d->name[i]);
	}
}

static void print_human(const char *set, const struct backup_create_result *r)
{
	printf("%s: point %u, %s%s: %" PRIu64 " bytes read, %" PRIu64 " written\n", set, r->number,
	       r->full ? "full" : "incremental", r->continued ? ", continued" : "", r->bytes_read, r->bytes_written);
}

static void print_json(const char *set, const struct backup_create_result *r)
{
	json_object *o = json_object_new_object();

	tool_json_text(o, "set", set);
	tool_json_u64(o, "point", r->number);
	tool_json_bool(o, "full", r->full);
	tool_json_bool(o, "continued", r->continued);
	tool_json_u64(o, "bytes-read", r->bytes_read);
	tool_json_u64(o, "bytes-written", r->bytes_written);
	tool_json_print(o);
}

static int make_point(char **argv, const struct disks *d, const struct create_args *a, struct sp_err *err)
{
	struct backup_create_result result = { 0 };
	struct backup_set *set;
	int r = backup_set_open(argv[0], argv[1], BACKUP_WRITE | BACKUP_CREATE, &set, err);

	if (r < 0)
		return r;
	r = backup_create(set, d->source, d->count, &a->opts, tool_job_begin(&a->progress), &result, err);
	backup_set_close(set);
	if (r < 0)
		return r;
	if (a->json)
		print_json(argv[1], &result);
	else if (!a->progress.quiet)
		print_human(argv[1], &result);
	return 0;
}

static int run(int argc, char **argv, struct create_args *a)
{
	struct disks d = { 0 };
	struct sp_err err = { 0 };
	int r = 0;

	for (int i = 2; r == 0 && i < argc; i++) {
		r = open_disk(&d, argv[i], a, &err);
		if (r < 0)
			tool_fail(argv[i], &err);
	}
	if (r == 0) {
		r = make_point(argv, &d, a, &err);
		if (r < 0)
			tool_fail(argv[0], &err);
		r = tool_job_end(r < 0);
	}
	close_disks(&d);
	return r < 0 ? 1 : r;
}

/* Nobody writes to the disks while we have them open. Whoever made them tells whether they were shut down. */
static int take_levels(struct create_args *a)
{
	enum backup_level required = BACKUP_CRASH;

	a->opts.level = BACKUP_OFFLINE;
	if ((a->level && backup_level_from_name(a->level, &a->opts.level) < 0) ||
	    (a->require && backup_level_from_name(a->require, &required) < 0)) {
		fprintf(stderr, "spindle-backup: levels are crash, file-system, application and offline\n");
		return 1;
	}
	if (a->opts.level < required) {
		fprintf(stderr, "spindle-backup: the disks are %s-consistent, required is %s\n",
			backup_level_name(a->opts.level), backup_level_name(required));
		return BACKUP_EXIT_LEVEL;
	}
	return 0;
}

int backup_verb_create(const struct tool_verb *verb, int argc, char **argv)
{
	struct create_args a = { .progress.fd = -1 };
	const struct tool_opt options[] = {
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
	int n = tool_parse(verb, options, argc, argv, 3, 2 + BACKUP_DISKS_MAX), status;

	if (n < 0)
		return tool_parse_exit(verb, n);
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
