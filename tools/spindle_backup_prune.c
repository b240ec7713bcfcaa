/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <stdio.h>

#include "base/alloc.h"
#include "tools/spindle_backup.h"

struct prune_args {
	struct tool_progress progress;
	struct backup_keep keep;
	const char *key;
	bool dry_run;
};

static int prune(struct backup_set *set, const struct prune_args *a, const struct backup_key *key, struct sp_err *err)
{
	SP_AUTO_FREE unsigned *drop = sp_calloc(backup_points(set) + 1, sizeof(*drop));
	struct sp_err why = { 0 };
	unsigned n;
	int r = 0;

	if (!drop)
		return sp_err_set(err, -ENOMEM, "out of memory");
	if (backup_prune_pending(set) && !a->dry_run)
		r = backup_prune(set, NULL, 0, key, NULL, err);
	if (r < 0)
		return r;
	n = backup_prune_plan(set, &a->keep, drop, &why);
	if (why.code < 0) {
		*err = why;
		return why.code;
	}
	for (unsigned i = 0; !a->progress.quiet && i < n; i++)
		printf("%s point %u\n", a->dry_run ? "would drop" : "dropping", drop[i]);
	fflush(stdout);
	return a->dry_run || n == 0 ? 0 : backup_prune(set, drop, n, key, tool_job_begin(&a->progress), err);
}

int backup_verb_prune(const struct tool_verb *verb, int argc, char **argv)
{
	struct prune_args a = { .progress.fd = -1 };
	const struct tool_opt options[] = {
		{ 0, "keep-last", "N", "keep the N newest points", TOOL_NUMBER, &a.keep.last },
		{ 0, "keep-daily", "N", "keep the newest point of each of the last N days that have one", TOOL_NUMBER,
		  &a.keep.daily },
		{ 0, "keep-weekly", "N", "the same for weeks", TOOL_NUMBER, &a.keep.weekly },
		BACKUP_OPT_KEY(&a.key),
		TOOL_OPT_DRY_RUN(&a.dry_run),
		TOOL_OPTS_PROGRESS(&a.progress),
		TOOL_OPTS_END,
	};
	struct backup_set *set;
	struct backup_key *key;
	struct sp_err err = { 0 };
	int n = tool_parse(verb, options, argc, argv, 2, 2), r;

	if (n < 0)
		return tool_parse_exit(verb, n);
	if (!a.keep.last && !a.keep.daily && !a.keep.weekly) {
		fprintf(stderr, "spindle-backup prune: no rule says what to keep\nTry: spindle-backup prune --help\n");
		return 1;
	}
	if (backup_tool_key(a.key, &key) < 0)
		return 1;
	r = backup_set_open(argv[0], argv[1], a.dry_run ? 0 : BACKUP_WRITE, &set, &err);
	if (r == 0) {
		r = prune(set, &a, key, &err);
		backup_set_close(set);
	}
	if (r < 0)
		tool_fail(argv[0], &err);
	backup_key_free(key);
	return tool_job_end(r < 0);
}
