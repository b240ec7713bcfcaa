/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <stdio.h>

#include "tools/options.h"
#include "tools/output.h"
#include "tools/progress.h"
#include "tools/size.h"
#include "vhd/ops.h"

struct create_args {
	enum vhd_format_id format, parent_format;
	struct tool_format_opts how;
	const char *parent, *image_root;
	bool unsafe, force, quiet;
};

static int fill_opts(const struct create_args *a, const char *path, const char *size, struct vhd_create_opts *o,
		     struct sp_err *err)
{
	int r;

	*o = (struct vhd_create_opts){
		.format = a->format ? a->format : tool_format_by_ending(path), .kind = a->how.kind,
		.block_size = a->how.block_size, .log_size = a->how.log_size,
		.logical_sector = a->how.logical_sector, .physical_sector = a->how.physical_sector,
		.preallocate = a->how.preallocate, .parent = a->parent, .image_root = a->image_root,
		.replace = a->force,
	};
	if (a->unsafe)
		return sp_err_set(err, -ENOTSUP,
				  "a child stores the identity of its parent, so the parent must be there: "
				  "-u is not possible here (\"rebase -u\" changes the name of a parent)");
	if (a->parent && a->how.kind_given)
		return sp_err_set(err, -EINVAL, "an image with a parent is differencing, not %s",
				  vhd_kind_name(a->how.kind));
	if (a->parent_format && a->parent_format != o->format)
		return sp_err_set(err, -EINVAL, "the parent of a %s image must be %s too", vhd_format_name(o->format),
				  vhd_format_name(o->format));
	if (!size)
		return a->parent ? 0 : sp_err_set(err, -EINVAL, "a size is needed, for example 40G");
	r = tool_size_parse(size, &o->size);
	if (r == -ERANGE)
		return sp_err_set(err, r, "size \"%s\" is too large, 2^63 - 1 bytes are possible", size);
	if (r < 0 || o->size == 0)
		return sp_err_set(err, -EINVAL, "\"%s\" is not a size (a number above 0 and K, M, G, T, P or E; "
				  "whole bytes)", size);
	return 0;
}

int tool_create(const struct tool_verb *verb, int argc, char **argv)
{
	struct create_args a = { 0 };
	const struct tool_opt opts[] = {
		{ 'f', "format", "FMT", "raw, vhd (or vpc), vhdx (default: by the ending of FILE)", TOOL_FORMAT,
		  &a.format },
		TOOL_OPT_O(&a.how),
		{ 'b', "parent", "PARENT", "make a differencing image on top of PARENT", TOOL_TEXT, &a.parent },
		{ 'B', NULL, "PARENT", "the same", TOOL_TEXT, &a.parent },
		{ 'F', "parent-format", "FMT", "format of the parent; only a check", TOOL_FORMAT, &a.parent_format },
		{ 'u', "unsafe", NULL, "refused: a child needs its parent's identity", TOOL_FLAG, &a.unsafe },
		{ 0, "force", NULL, "replace an existing file", TOOL_FLAG, &a.force },
		TOOL_OPT_ROOT(&a.image_root),
		TOOL_OPT_QUIET(&a.quiet),
		TOOL_OPTS_END,
	};
	const struct tool_progress silent = { .quiet = true, .fd = -1 };
	struct vhd_create_opts o;
	struct sp_err err = { 0 };
	char size[TOOL_SIZE_TEXT];
	int n, r;

	n = tool_parse(verb, opts, argc, argv, 1, 2);
	if (n < 0)
		return tool_parse_exit(verb, n);
	r = fill_opts(&a, argv[0], n > 1 ? argv[1] : NULL, &o, &err);
	if (r == 0) {
		tool_job_begin(&silent);	/* a signal lets creation finish or fail as a whole */
		r = vhd_create(argv[0], &o, &err);
	}
	if (r < 0)
		tool_fail(argv[0], &err);
	else if (!a.quiet && o.size)
		printf("created %s: %s, %s (%llu bytes)\n", argv[0], vhd_format_name(o.format),
		       tool_size_format(o.size, size), (unsigned long long)o.size);
	else if (!a.quiet)
		printf("created %s: %s, child of %s\n", argv[0], vhd_format_name(o.format), o.parent);
	return tool_job_end(r < 0);
}
