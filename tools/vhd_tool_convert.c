/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/options.h"
#include "tools/output.h"
#include "tools/progress.h"
#include "vhd/ops.h"

struct convert_args {
	struct tool_look look;
	enum vhd_format_id format;	/* of the target */
	struct tool_format_opts how;
	uint64_t sparse;		/* -S: 0 fills everything in */
	unsigned threads;
	bool verify, force;
};

static int fill_opts(const struct convert_args *a, const char *source, const char *target,
		     struct vhd_convert_opts *o, struct sp_err *err)
{
	const bool fill = a->sparse == 0;

	*o = (struct vhd_convert_opts){
		.source = tool_open_opts(&a->look),
		.target = {
			.format = a->format ? a->format : tool_format_by_ending(target), .kind = a->how.kind,
			.block_size = a->how.block_size, .log_size = a->how.log_size,
			.logical_sector = a->how.logical_sector, .physical_sector = a->how.physical_sector,
			.preallocate = a->how.preallocate || fill,
			.replace = a->force,
		},
		.threads = a->threads, .detect_zeroes = !fill, .verify = a->verify, .replace = a->force,
	};
	if (strcmp(target, "-") == 0 && a->verify)
		return sp_err_set(err, -EINVAL, "--verify reads the target again, which a pipe does not allow");
	if (strcmp(target, "-") == 0 && isatty(STDOUT_FILENO))
		return sp_err_set(err, -EINVAL, "will not write an image to a terminal");
	return 0;
}

int tool_convert(const struct tool_verb *verb, int argc, char **argv)
{
	struct convert_args a = { .sparse = 4096 };
	struct tool_progress progress = { .fd = -1 };
	const struct tool_opt opts[] = {
		TOOL_OPTS_LOOK(&a.look),
		{ 'O', "target-format", "FMT", "raw, vhd (or vpc), vhdx (default: by the ending of TARGET, else raw)",
		  TOOL_FORMAT, &a.format },
		TOOL_OPT_O(&a.how),
		{ 'S', "sparse", "SIZE", "0: look for no zeros and allocate everything; else find runs of zeros",
		  TOOL_SIZE, &a.sparse },
		TOOL_OPT_THREADS(&a.threads),
		{ 0, "verify", NULL, "compare the hashes of source and target afterwards", TOOL_FLAG, &a.verify },
		{ 0, "force", NULL, "replace an existing target", TOOL_FLAG, &a.force },
		TOOL_OPTS_PROGRESS(&progress),
		TOOL_OPTS_END,
	};
	struct vhd_convert_opts o;
	struct sp_err err = { 0 };
	struct sp_job *job;
	int n, r;

	n = tool_parse(verb, opts, argc, argv, 2, 2);
	if (n < 0)
		return tool_parse_exit(verb, n);
	r = fill_opts(&a, argv[0], argv[1], &o, &err);
	if (r == 0) {
		job = tool_job_begin(&progress);
		if (strcmp(argv[1], "-") == 0)
			r = vhd_convert_stream(argv[0], STDOUT_FILENO, &o, job, &err);
		else
			r = vhd_convert(argv[0], argv[1], &o, job, &err);
	}
	n = tool_job_end(r < 0);
	if (r < 0 && !tool_job_interrupted())
		tool_fail(argv[0], &err);
	return n;
}
