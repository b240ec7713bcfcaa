/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/alloc.h"
#include "tools/spindle_backup.h"

struct verify_args {
	struct tool_progress progress;
	struct backup_verify_opts opts;
	const char *key;
	bool json;
	json_object *findings;		/* json */
	const char *set;
};

static void found(void *arg, const struct backup_finding *f)
{
	struct verify_args *a = arg;
	json_object *o;

	if (!a->json) {
		printf("%s: point %u: %s: %s\n", a->set, f->number, f->file, f->text);
		return;
	}
	o = json_object_new_object();
	tool_json_text(o, "set", a->set);
	tool_json_u64(o, "point", f->number);
	tool_json_text(o, "file", f->file);
	tool_json_text(o, "finding", f->text);
	json_object_array_add(a->findings, o);
}

/* A catalogue that cannot be read is damage, too. */
static int verify_set(const char *repository, const char *name, struct verify_args *a)
{
	struct backup_set *set;
	struct sp_err err = { 0 };
	int r = backup_set_open(repository, name, 0, &set, &err);

	a->set = name;
	if (r == -EBADMSG || r == -ENOENT) {
		found(a, &(struct backup_finding){ 0, "set.json", sp_err_text(&err) });
		return BACKUP_EXIT_DAMAGE;
	}
	if (r == 0) {
		r = backup_verify(set, &a->opts, tool_job_begin(&a->progress), NULL, &err);
		if (r == 0 && !a->json && !a->progress.quiet)
			printf("%s: %u points, all is well%s\n", name, backup_points(set),
			       backup_incomplete(set) ? "; one more is incomplete" : "");
		backup_set_close(set);
	}
	if (r < 0 && r != -EBADMSG)
		tool_fail(repository, &err);
	return tool_job_end(r == -EBADMSG ? BACKUP_EXIT_DAMAGE : r < 0);
}

static int verify_all(const char *repository, struct verify_args *a)
{
	struct sp_err err = { 0 };
	int worst = 0, status;
	char **names;
	size_t n;

	if (backup_repository_list(repository, &names, &n, &err) < 0) {
		tool_fail(repository, &err);
		return 1;
	}
	for (size_t i = 0; i < n; i++) {
		status = names[i] ? verify_set(repository, names[i], a) : 1;
		worst = worst > status ? worst : status;
		sp_free(names[i]);
	}
	sp_free(names);
	return worst;
}

int backup_verb_verify(const struct tool_verb *verb, int argc, char **argv)
{
	struct verify_args a = { .progress.fd = -1, .opts.found = found };
	const struct tool_opt options[] = {
		{ 0, "point", "N", "only this point and those it stands on", TOOL_NUMBER, &a.opts.number },
		{ 0, "content", NULL, "read each disk through its chain as well", TOOL_FLAG, &a.opts.content },
		BACKUP_OPT_KEY(&a.key),
		BACKUP_OPT_RATE(&a.opts.rate_limit),
		TOOL_OPT_THREADS(&a.opts.threads),
		TOOL_OPTS_PROGRESS(&a.progress),
		TOOL_OPT_OUTPUT(&a.json),
		TOOL_OPTS_END,
	};
	struct backup_key *key;
	int n = tool_parse(verb, options, argc, argv, 1, 2), status;

	if (n < 0)
		return tool_parse_exit(verb, n);
	if (backup_tool_key(a.key, &key) < 0)
		return 1;
	a.opts.key = key;
	a.opts.arg = &a;
	if (a.json)
		a.findings = json_object_new_array();
	status = n == 2 ? verify_set(argv[0], argv[1], &a) : verify_all(argv[0], &a);
	if (a.json)
		tool_json_print(a.findings);
	backup_key_free(key);
	return status;
}
