/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * check and repair: the same report, printed the same way. Exit status as "qemu-img check".
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tools/options.h"
#include "tools/output.h"
#include "tools/size.h"
#include "vhd/check.h"

enum { CHECK_OK, CHECK_FAILED, CHECK_CORRUPT, CHECK_LEAKS, CHECK_NOT_SUPPORTED = 63 };

struct outcome {
	uint64_t errors, leaks;			/* that are still there */
	uint64_t errors_fixed, leaks_fixed;
};

static const char *severity_name(enum vhd_severity severity)
{
	static const char *const names[] = {
		[VHD_SEV_WARNING] = "warning", [VHD_SEV_LEAK] = "leak", [VHD_SEV_ERROR] = "error",
	};

	return names[severity];
}

/* Counts in the report are of what was found; which of them were fixed is told by the findings. */
static struct outcome report_outcome(const struct vhd_report *rep)
{
	struct outcome o = { .errors = rep->errors, .leaks = rep->leaks };

	for (size_t i = 0; i < rep->findings; i++) {
		const struct vhd_finding *f = &rep->finding[i];

		o.errors_fixed += f->fixed && f->severity == VHD_SEV_ERROR;
		o.leaks_fixed += f->fixed && f->severity == VHD_SEV_LEAK;
	}
	o.errors -= o.errors_fixed;
	o.leaks -= o.leaks_fixed;
	return o;
}

/* ---- human --------------------------------------------------------------------------------------- */

static void print_finding(const struct vhd_finding *f, bool dry_run)
{
	printf("%s: %s", severity_name(f->severity), f->structure);
	if (f->file_offset != UINT64_MAX)
		printf(" at %#" PRIx64, f->file_offset);
	printf(": %s", f->text);
	if (f->fixed)
		printf(" [repaired]");
	else if (f->fixable)
		printf(dry_run ? " [would be repaired]" : " [repairable]");
	putchar('\n');
}

static void print_human(const struct vhd_report *rep, const struct outcome *o, bool dry_run)
{
	char size[TOOL_SIZE_TEXT];
	uint64_t all = rep->errors + rep->leaks + rep->warnings;

	for (size_t i = 0; i < rep->findings; i++)
		print_finding(&rep->finding[i], dry_run);
	if (all > rep->findings)
		printf("... and %" PRIu64 " more\n", all - rep->findings);
	if (rep->fixed)
		printf("Repaired: %" PRIu64 ".\n", rep->fixed);
	if (o->errors)
		printf("\n%" PRIu64 " errors were found on the image.\n"
		       "Data may be corrupted, or further writes to the image may corrupt it.\n", o->errors);
	if (o->leaks)
		printf("\n%" PRIu64 " leaks (%s) were found on the image.\n"
		       "This means waste of disk space, but no harm to data.\n", o->leaks,
		       tool_size_format(rep->leaked_bytes, size));
	if (!o->errors && !o->leaks)
		puts("No errors were found on the image.");
	if (rep->total_blocks)
		printf("%" PRIu64 "/%" PRIu64 " = %.2f%% allocated\n", rep->allocated_blocks, rep->total_blocks,
		       100.0 * (double)rep->allocated_blocks / (double)rep->total_blocks);
	if (rep->image_end)
		printf("Image end offset: %" PRIu64 "\n", rep->image_end);
}

/* ---- JSON ---------------------------------------------------------------------------------------- */

static json_object *json_findings(const struct vhd_report *rep)
{
	json_object *list = json_object_new_array();

	for (size_t i = 0; i < rep->findings; i++) {
		const struct vhd_finding *f = &rep->finding[i];
		json_object *o = json_object_new_object();

		tool_json_text(o, "severity", severity_name(f->severity));
		tool_json_text(o, "structure", f->structure);
		if (f->file_offset != UINT64_MAX)
			tool_json_u64(o, "offset", f->file_offset);
		tool_json_text(o, "text", f->text);
		tool_json_bool(o, "fixable", f->fixable);
		tool_json_bool(o, "fixed", f->fixed);
		json_object_array_add(list, o);
	}
	return list;
}

static void print_json(const char *path, enum vhd_format_id format, const struct vhd_report *rep,
		       const struct outcome *outcome)
{
	json_object *o = json_object_new_object();

	tool_json_text(o, "filename", path);
	tool_json_text(o, "format", vhd_format_name(format));
	tool_json_u64(o, "check-errors", 0);	/* the check itself ran to its end */
	tool_json_u64(o, "corruptions", outcome->errors);
	tool_json_u64(o, "leaks", outcome->leaks);
	tool_json_u64(o, "warnings", rep->warnings);
	tool_json_u64(o, "corruptions-fixed", outcome->errors_fixed);
	tool_json_u64(o, "leaks-fixed", outcome->leaks_fixed);
	tool_json_u64(o, "leaked-bytes", rep->leaked_bytes);
	tool_json_u64(o, "total-clusters", rep->total_blocks);
	tool_json_u64(o, "allocated-clusters", rep->allocated_blocks);
	tool_json_u64(o, "image-end-offset", rep->image_end);
	json_object_object_add(o, "findings", json_findings(rep));
	tool_json_print(o);
}

/* ---- the verbs ----------------------------------------------------------------------------------- */

struct check_args {
	struct vhd_check_opts check;
	const char *repair;		/* "check -r leaks|all" */
	bool json, quiet, dry_run;
};

static int run(const char *path, const struct check_args *a, bool repair)
{
	struct vhd_report report = { 0 };
	enum vhd_format_id format;
	struct outcome outcome;
	struct sp_err err = { 0 };
	int r;

	r = repair ? vhd_repair_image(path, &a->check, a->dry_run, &format, &report, &err) :
		     vhd_check_image(path, &a->check, &format, &report, &err);
	if (r < 0) {
		tool_fail(path, &err);
		return r == -ENOTSUP ? CHECK_NOT_SUPPORTED : CHECK_FAILED;
	}
	outcome = report_outcome(&report);
	if (a->json)
		print_json(path, format, &report, &outcome);
	else if (!a->quiet)
		print_human(&report, &outcome, a->dry_run);
	vhd_report_fini(&report);
	return outcome.errors ? CHECK_CORRUPT : outcome.leaks ? CHECK_LEAKS : CHECK_OK;
}

int tool_check(const struct tool_verb *verb, int argc, char **argv)
{
	struct check_args a = { 0 };
	const struct tool_opt opts[] = {
		TOOL_OPT_FORMAT(&a.check.format),
		TOOL_OPT_UNLOCKED(&a.check.no_lock),
		TOOL_OPT_OUTPUT(&a.json),
		TOOL_OPT_QUIET(&a.quiet),
		{ 'r', "repair", "leaks|all", "repair what can be repaired, as the verb repair does", TOOL_TEXT,
		  &a.repair },
		TOOL_OPTS_END,
	};
	int n = tool_parse(verb, opts, argc, argv, 1, 1);

	if (n < 0)
		return tool_parse_exit(verb, n);
	if (a.repair && strcmp(a.repair, "all") != 0 && strcmp(a.repair, "leaks") != 0) {
		fprintf(stderr, "%s: -r: \"%s\" is neither leaks nor all\n", tool_command(), a.repair);
		return verb->usage_exit;
	}
	return run(argv[0], &a, a.repair != NULL);
}

int tool_repair(const struct tool_verb *verb, int argc, char **argv)
{
	struct check_args a = { 0 };
	const struct tool_opt opts[] = {
		TOOL_OPT_FORMAT(&a.check.format),
		TOOL_OPT_OUTPUT(&a.json),
		TOOL_OPT_QUIET(&a.quiet),
		TOOL_OPT_DRY_RUN(&a.dry_run),
		TOOL_OPTS_END,
	};
	int n = tool_parse(verb, opts, argc, argv, 1, 1);

	return n < 0 ? tool_parse_exit(verb, n) : run(argv[0], &a, true);
}
