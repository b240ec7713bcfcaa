/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "tools/spindle_backup_disks.h"

struct restore_args {
	struct tool_progress progress;
	unsigned point, threads;
	const char *disk;
	enum vhd_format_id format;
	bool force;
};

static const char *ending(enum vhd_format_id format)
{
	return format == VHD_FORMAT_RAW ? "raw" : format == VHD_FORMAT_VHD ? "vhd" : "vhdx";
}

static int restore_disk(struct backup_set *set, unsigned index, const char *target, enum vhd_format_id format,
			const struct restore_args *a)
{
	struct sp_err err = { 0 };
	int r = backup_restore(set, a->point, index, target, format, a->force, a->threads,
			       tool_job_begin(&a->progress), &err);

	if (r < 0)
		tool_fail(target, &err);
	else if (!a->progress.quiet)
		printf("%s\n", target);
	return tool_job_end(r < 0);
}

/* All disks go into a folder; one disk may also go to a file. */
static int restore_disks(struct backup_set *set, unsigned disks, const char *target, bool folder,
			 const struct restore_args *a)
{
	enum vhd_format_id format = a->format ? a->format : VHD_FORMAT_VHDX;
	struct backup_disk_info d;
	int status = 0;
	bool any = false;

	for (unsigned i = 0; status == 0 && i < disks; i++) {
		SP_AUTO_FREE char *path = NULL;

		if (backup_disk_info(set, a->point, i, &d, NULL) < 0 || (a->disk && strcmp(a->disk, d.name) != 0))
			continue;
		any = true;
		path = sp_asprintf("%s/%s.%s", target, d.name, ending(format));
		status = folder ? restore_disk(set, i, path ? path : "", format, a) :
			 restore_disk(set, i, target, a->format ? a->format : tool_format_by_ending(target), a);
	}
	if (!any) {
		fprintf(stderr, "spindle-backup: there is no disk \"%s\" at this point\n", a->disk ? a->disk : "");
		return 1;
	}
	return status;
}

/* The whole machine: its configuration as well, so that "spindle-vm run --config FOLDER/machine.json" runs it. */
static int restore_setup(struct backup_set *set, const char *folder, const struct restore_args *a, struct sp_err *err)
{
	enum vhd_format_id format = a->format ? a->format : VHD_FORMAT_VHDX;
	char *real = realpath(folder, NULL);
	SP_AUTO_FREE char *text = NULL, *path = real ? sp_asprintf("%s/machine.json", real) : NULL;
	json_object *config = NULL;
	int r = path ? backup_machine(set, a->point, &text, err) : sp_err_set(err, -ENOMEM, "out of memory");

	if (r == 0 && text)
		r = backup_setup_files(text, set, a->point, real, ending(format), &config, err);
	if (r == 0 && config && !a->force && access(path, F_OK) == 0)
		r = sp_err_set(err, -EEXIST, "%s exists", path);
	if (r == 0 && config && json_object_to_file_ext(path, config, JSON_C_TO_STRING_PRETTY |
							JSON_C_TO_STRING_NOSLASHESCAPE) < 0)
		r = sp_err_set(err, -EIO, "%s: %s", path, json_util_get_last_err());
	if (r == 0 && config && !a->progress.quiet)
		printf("%s\n", path);
	json_object_put(config);
	free(real);
	return r;
}

static int restore(char **argv, const struct restore_args *a)
{
	struct backup_point p;
	struct backup_set *set;
	struct sp_err err = { 0 };
	struct stat st;
	bool folder = stat(argv[2], &st) == 0 && S_ISDIR(st.st_mode);
	int r = backup_set_open(argv[0], argv[1], 0, &set, &err), status = 1;

	if (r == 0) {
		r = backup_point_info(set, a->point, &p, &err);
		if (r == 0 && !folder && p.disks > 1 && !a->disk)
			r = sp_err_set(&err, -EINVAL, "the point has %u disks: name a folder that exists, or one disk "
				       "with --disk", p.disks);
		if (r == 0)
			status = restore_disks(set, p.disks, argv[2], folder, a);
		if (r == 0 && status == 0 && folder && !a->disk)
			r = restore_setup(set, argv[2], a, &err);
		backup_set_close(set);
	}
	if (r < 0)
		tool_fail(argv[0], &err);
	return r < 0 ? 1 : status;
}

int backup_verb_restore(const struct tool_verb *verb, int argc, char **argv)
{
	struct restore_args a = { .progress.fd = -1 };
	const struct tool_opt options[] = {
		BACKUP_OPT_POINT(&a.point),
		{ 0, "disk", "NAME", "only this disk", TOOL_TEXT, &a.disk },
		{ 0, "force", NULL, "replace files that exist", TOOL_FLAG, &a.force },
		TOOL_OPT_FORMAT(&a.format),
		TOOL_OPT_THREADS(&a.threads),
		TOOL_OPTS_PROGRESS(&a.progress),
		TOOL_OPTS_END,
	};
	int n = tool_parse(verb, options, argc, argv, 3, 3);

	return n < 0 ? tool_parse_exit(verb, n) : restore(argv, &a);
}
