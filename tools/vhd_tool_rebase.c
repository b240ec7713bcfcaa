/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <stdio.h>

#include "tools/options.h"
#include "tools/output.h"
#include "tools/progress.h"
#include "vhd/ops.h"

int tool_rebase(const struct tool_verb *verb, int argc, char **argv)
{
	struct vhd_rebase_opts o = { 0 };
	struct tool_progress progress = { .fd = -1 };
	const char *parent = NULL;
	const struct tool_opt opts[] = {
		{ 'b', "parent", "PARENT", "the new parent; \"\" makes the image stand alone", TOOL_TEXT, &parent },
		{ 'B', NULL, "PARENT", "the same", TOOL_TEXT, &parent },
		{ 'u', "unsafe", NULL, "only store the new name: PARENT has the same content as the old one", TOOL_FLAG,
		  &o.unsafe },
		TOOL_OPT_THREADS(&o.threads),
		TOOL_OPT_ROOT(&o.image_root),
		TOOL_OPT_DRY_RUN(&o.dry_run),
		TOOL_OPTS_PROGRESS(&progress),
		TOOL_OPTS_END,
	};
	struct sp_err err = { 0 };
	int n, r;

	n = tool_parse(verb, opts, argc, argv, 1, 1);
	if (n < 0)
		return tool_parse_exit(verb, n);
	if (!parent) {
		fprintf(stderr, "%s: -b PARENT is missing (-b \"\" for none)\n", tool_command());
		return verb->usage_exit;
	}
	r = vhd_rebase(argv[0], *parent ? parent : NULL, &o, tool_job_begin(&progress), &err);
	n = tool_job_end(r < 0);
	if (r < 0 && !tool_job_interrupted())
		tool_fail(argv[0], &err);
	else if (r == 0 && !progress.quiet)
		printf("%s %s: %s%s\n", o.dry_run ? "would rebase" : "rebased", argv[0],
		       *parent ? "its parent is " : "it stands alone", parent);
	return n;
}
