/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdio.h>

#include "tools/spindle_backup.h"

static int copy(char **argv, uint64_t rate, const struct tool_progress *progress, struct sp_err *err)
{
	struct backup_set *from, *to;
	unsigned copied = 0;
	int r = backup_set_open(argv[0], argv[1], 0, &from, err);

	if (r < 0)
		return r;
	r = backup_set_open(argv[2], argv[1], BACKUP_WRITE | BACKUP_CREATE, &to, err);
	if (r == 0) {
		r = backup_replicate(from, to, rate, 0, tool_job_begin(progress), &copied, err);
		backup_set_close(to);
	}
	backup_set_close(from);
	if (r == 0 && !progress->quiet)
		printf("%s: %u points copied to %s\n", argv[1], copied, argv[2]);
	return r;
}

int backup_verb_copy(const struct tool_verb *verb, int argc, char **argv)
{
	struct tool_progress progress = { .fd = -1 };
	uint64_t rate = 0;
	const struct tool_opt options[] = { BACKUP_OPT_RATE(&rate), TOOL_OPTS_PROGRESS(&progress), TOOL_OPTS_END };
	struct sp_err err = { 0 };
	int n = tool_parse(verb, options, argc, argv, 3, 3), r;

	if (n < 0)
		return tool_parse_exit(verb, n);
	r = copy(argv, rate, &progress, &err);
	if (r < 0)
		tool_fail(argv[0], &err);
	return tool_job_end(r < 0);
}
