/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "tools/options.h"
#include "tools/output.h"
#include "tools/progress.h"
#include "vhd/ops.h"

static void print_result(const char *path, const struct vhd_merge_opts *o, const struct vhd_merge_result *res,
			 bool json)
{
	json_object *object;

	if (!json) {
		printf("%s%s: %" PRIu64 " bytes moved into %s, %" PRIu64 " bytes zeroed there\n",
		       o->dry_run ? "would merge " : "merged ", path, res->bytes_moved, res->target, res->bytes_zeroed);
		return;
	}
	object = json_object_new_object();
	tool_json_text(object, "filename", path);
	tool_json_text(object, "target", res->target);
	tool_json_u64(object, "layers", o->layers);
	tool_json_u64(object, "bytes-moved", res->bytes_moved);
	tool_json_u64(object, "bytes-zeroed", res->bytes_zeroed);
	tool_json_bool(object, "dry-run", o->dry_run);
	tool_json_print(object);
}

int tool_merge(const struct tool_verb *verb, int argc, char **argv)
{
	struct vhd_merge_opts o = { .layers = 1 };
	struct tool_progress progress = { .fd = -1 };
	struct vhd_merge_result res = { 0 };
	bool json = false;
	const struct tool_opt opts[] = {
		{ 'n', "layers", "N", "merge the N topmost images into the one below them (default: 1)", TOOL_NUMBER,
		  &o.layers },
		{ 'k', "keep", NULL, "do not delete the merged images", TOOL_FLAG, &o.keep },
		{ 'r', "rate", "SIZE", "move at most so many bytes per second", TOOL_SIZE, &o.rate_limit },
		TOOL_OPT_THREADS(&o.threads),
		TOOL_OPT_ROOT(&o.image_root),
		TOOL_OPT_DRY_RUN(&o.dry_run),
		TOOL_OPT_OUTPUT(&json),
		TOOL_OPTS_PROGRESS(&progress),
		TOOL_OPTS_END,
	};
	struct sp_err err = { 0 };
	int n, r;

	n = tool_parse(verb, opts, argc, argv, 1, 1);
	if (n < 0)
		return tool_parse_exit(verb, n);
	r = vhd_merge(argv[0], &o, tool_job_begin(&progress), &res, &err);
	n = tool_job_end(r < 0);
	if (r < 0 && tool_job_interrupted())
		fprintf(stderr, "vhd-tool: %s: interrupted; the image is as readable as before, "
				"the same command goes on\n", argv[0]);
	else if (r < 0)
		tool_fail(argv[0], &err);
	else if (json || !progress.quiet)
		print_result(argv[0], &o, &res, json);
	return n;
}
