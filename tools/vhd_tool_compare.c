/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "tools/options.h"
#include "tools/output.h"
#include "tools/progress.h"
#include "vhd/ops.h"

/* As "qemu-img compare": 2 an image does not open, 3 something else, 4 reading failed. */
enum { COMPARE_SAME, COMPARE_DIFFERENT, COMPARE_NOT_OPEN, COMPARE_FAILED, COMPARE_NOT_READ };

static int open_disk(const char *path, struct tool_look look, enum vhd_format_id format, struct vhd_disk **ret_disk)
{
	struct vhd_open_opts open;
	struct sp_err err = { 0 };
	int r;

	look.format = format;
	open = tool_open_opts(&look);
	r = vhd_disk_open(path, &open, ret_disk, &err);
	if (r < 0)
		tool_fail(path, &err);
	return r;
}

static void print_json(char **paths, const struct vhd_difference *diff, bool differs)
{
	json_object *o = json_object_new_object(), *names = json_object_new_array();

	json_object_array_add(names, json_object_new_string(paths[0]));
	json_object_array_add(names, json_object_new_string(paths[1]));
	json_object_object_add(o, "filenames", names);
	tool_json_bool(o, "identical", !differs);
	tool_json_bool(o, "size-differs", diff->size_differs);
	if (diff->differs)
		tool_json_u64(o, "offset", diff->offset);
	tool_json_u64(o, "bytes-compared", diff->bytes_compared);
	tool_json_print(o);
}

static void print_human(const struct vhd_difference *diff, bool strict)
{
	if (diff->size_differs && strict) {
		puts("Strict mode: Image size mismatch!");
		return;
	}
	if (diff->size_differs)
		puts("Warning: Image size mismatch!");
	if (diff->differs)
		printf("Content mismatch at offset %" PRIu64 "!\n", diff->offset);
	else
		puts("Images are identical.");
}

static int compare(char **paths, struct vhd_disk *a, struct vhd_disk *b, bool strict, bool json, unsigned threads,
		   const struct tool_progress *progress)
{
	struct vhd_difference diff = { 0 };
	struct sp_err err = { 0 };
	bool differs;
	int r;

	r = vhd_compare(a, b, strict, threads, tool_job_begin(progress), &diff, &err);
	if (tool_job_interrupted())
		return tool_job_end(COMPARE_FAILED);
	tool_job_end(0);
	if (r < 0) {
		tool_fail(paths[0], &err);
		return r == -EIO || r == -EBADMSG ? COMPARE_NOT_READ : COMPARE_FAILED;
	}
	differs = diff.differs || (strict && diff.size_differs);
	if (json)
		print_json(paths, &diff, differs);
	else if (!progress->quiet)
		print_human(&diff, strict);
	return differs ? COMPARE_DIFFERENT : COMPARE_SAME;
}

int tool_compare(const struct tool_verb *verb, int argc, char **argv)
{
	struct tool_look look = { 0 };
	struct tool_progress progress = { .fd = -1 };
	enum vhd_format_id second = VHD_FORMAT_AUTO;
	struct vhd_disk *a, *b;
	unsigned threads = 0;
	bool strict = false, json = false;
	const struct tool_opt opts[] = {
		TOOL_OPTS_LOOK(&look),
		{ 'F', "second-format", "FMT", "format of FILE2", TOOL_FORMAT, &second },
		{ 's', "strict", NULL, "another size is a difference, too", TOOL_FLAG, &strict },
		TOOL_OPT_OUTPUT(&json),
		TOOL_OPT_THREADS(&threads),
		TOOL_OPTS_PROGRESS(&progress),
		TOOL_OPTS_END,
	};
	int n, status;

	n = tool_parse(verb, opts, argc, argv, 2, 2);
	if (n < 0)
		return tool_parse_exit(verb, n);
	if (open_disk(argv[0], look, look.format, &a) < 0)
		return COMPARE_NOT_OPEN;
	if (open_disk(argv[1], look, second, &b) < 0) {
		vhd_disk_close(a, NULL);
		return COMPARE_NOT_OPEN;
	}
	status = compare(argv, a, b, strict, json, threads, &progress);
	vhd_disk_close(b, NULL);
	vhd_disk_close(a, NULL);
	return status;
}
