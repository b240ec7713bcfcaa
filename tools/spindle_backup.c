/* SPDX-License-Identifier: BSD-2-Clause */
#include "tools/spindle_backup.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const struct tool_verb verbs[] = {
	{ "create",  "REPOSITORY SET [[NAME=]FILE...]", "back up disks: everything, or what has changed",
	  backup_verb_create, 1 },
	{ "list",    "REPOSITORY [SET]",	      "sets and their points",		     backup_verb_list,	  1 },
	{ "verify",  "REPOSITORY [SET]",	      "look for damage, name the files",     backup_verb_verify,  1 },
	{ "restore", "REPOSITORY SET FOLDER|FILE",    "copy disks of a point to new files",  backup_verb_restore, 1 },
	{ "mount",   "REPOSITORY SET MOUNTPOINT",     "look into a disk of a point",	     backup_verb_mount,	  1 },
	{ "boot",    "REPOSITORY SET [-- OPTION...]", "run a machine on a throw-away child of a point",
	  backup_verb_boot, 1 },
	{ "prune",   "REPOSITORY SET",		      "drop old points by rules",	     backup_verb_prune,	  1 },
	{ "copy",    "REPOSITORY SET TARGET",	      "bring a set to another repository",   backup_verb_copy,	  1 },
	{ 0 },
};

int backup_tool_key(const char *path, struct backup_key **ret)
{
	struct sp_err err = { 0 };
	int r;

	*ret = NULL;
	if (!path)
		return 0;
	r = backup_key_load(path, ret, &err);
	if (r < 0)
		fprintf(stderr, "spindle-backup: %s\n", sp_err_text(&err));
	return r;
}

void backup_time_text(int64_t time, char ret[static 32])
{
	time_t t = (time_t)time;
	struct tm tm;

	if (!localtime_r(&t, &tm) || strftime(ret, 32, "%Y-%m-%d %H:%M:%S %z", &tm) == 0)
		snprintf(ret, 32, "@%lld", (long long)time);
}

int main(int argc, char **argv)
{
	int status;

	signal(SIGPIPE, SIG_IGN);
	if (argc == 2 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)) {
		printf("spindle-backup %s\n", SPINDLE_VERSION);
		return 0;
	}
	status = tool_dispatch(verbs, "spindle-backup", argc - 1, argv + 1);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "spindle-backup: cannot write the output: %s\n", strerror(errno));
		return status ? status : 1;
	}
	return status;
}
