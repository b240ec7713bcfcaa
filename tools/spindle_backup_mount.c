/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A point is a chain of images, so looking into it and running it is other programs' work: vhd-mount, read-only, and
 * spindle-vm on children of the point that are thrown away at its end ("snapshot" of --disk).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "tools/spindle_backup_disks.h"

#define WORDS_MAX 256

struct at_args {
	unsigned point;
	const char *disk;
};

struct command {
	char *word[WORDS_MAX + 1];
	unsigned count;
};

static int add(struct command *c, char *word)
{
	if (!word || c->count == WORDS_MAX)
		return -ENOMEM;
	c->word[c->count++] = word;
	return 0;
}

/* The program beside us if there is one, so that a build folder and an installation work alike. */
static void run_command(struct command *c, const char *folder)
{
	char self[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	SP_AUTO_FREE char *beside = NULL, *built = NULL;
	char *slash;

	self[n > 0 ? n : 0] = '\0';
	slash = strrchr(self, '/');
	if (slash) {
		*slash = '\0';
		beside = sp_asprintf("%s/%s", self, c->word[0]);
		built = sp_asprintf("%s/../%s/%s", self, folder, c->word[0]);
	}
	if (beside && access(beside, X_OK) == 0)
		execv(beside, c->word);
	if (built && access(built, X_OK) == 0)
		execv(built, c->word);
	execvp(c->word[0], c->word);
	fprintf(stderr, "spindle-backup: cannot run %s: %s\n", c->word[0], strerror(errno));
}

/* Adds a word for each disk wanted: "PREFIX<repository>/<set>/<file>SUFFIX". */
static int add_disks(struct command *c, char **argv, const struct at_args *a, bool one, const char *prefix,
		     const char *suffix, struct sp_err *err)
{
	struct backup_disk_info d;
	struct backup_point p;
	struct backup_set *set;
	unsigned found = 0;
	int r = backup_set_open(argv[0], argv[1], 0, &set, err);

	if (r < 0)
		return r;
	r = backup_point_info(set, a->point, &p, err);
	for (unsigned i = 0; r == 0 && i < p.disks; i++) {
		r = backup_disk_info(set, a->point, i, &d, err);
		if (r < 0 || (a->disk && strcmp(a->disk, d.name) != 0))
			continue;
		found++;
		r = add(c, sp_asprintf("%s%s/%s/%s%s", prefix, argv[0], argv[1], d.file, suffix));
	}
	if (r == 0 && (found == 0 || (one && found > 1)))
		r = sp_err_set(err, -EINVAL, found ? "the point has %u disks: choose one with --disk" :
			       "the point has %u disks, none of that name", p.disks);
	backup_set_close(set);
	return r;
}

static int fail(const char *repository, const struct sp_err *err)
{
	tool_fail(repository, err);
	return 1;
}

int backup_verb_mount(const struct tool_verb *verb, int argc, char **argv)
{
	static char program[] = "vhd-mount", option[] = "-o", ro[] = "ro";
	struct at_args a = { 0 };
	bool files = false;
	const struct tool_opt options[] = {
		BACKUP_OPT_POINT(&a.point),
		{ 0, "disk", "NAME", "which disk, when there are several", TOOL_TEXT, &a.disk },
		{ 0, "files", NULL, "show the files in it, too", TOOL_FLAG, &files },
		TOOL_OPTS_END,
	};
	static char files_option[] = "--files";
	struct command c = { .word = { program, option, ro }, .count = 3 };
	struct sp_err err = { 0 };
	int n = tool_parse(verb, options, argc, argv, 3, 3);

	if (n < 0)
		return tool_parse_exit(verb, n);
	if (files)
		add(&c, files_option);
	if (add_disks(&c, argv, &a, true, "", "", &err) < 0)
		return fail(argv[0], &err);
	add(&c, argv[2]);
	run_command(&c, "fuse");
	return 1;
}

/* The machine it was, as a configuration that is nowhere but in memory. */
static int add_config(struct command *c, json_object *config, struct sp_err *err)
{
	const char *text = json_object_to_json_string(config);
	size_t len = strlen(text);
	int fd = memfd_create("machine", 0);	/* for spindle-vm to read */

	if (fd < 0 || write(fd, text, len) != (ssize_t)len)
		return sp_err_set(err, -EIO, "cannot pass the machine's configuration on: %s", strerror(errno));
	return add(c, sp_asprintf("--config=/proc/self/fd/%d", fd));
}

/* *ret_known: the point has a machine's configuration, and its disks are in that. */
static int add_machine(struct command *c, char **argv, const struct at_args *a, bool *ret_known, struct sp_err *err)
{
	SP_AUTO_FREE char *folder = sp_asprintf("%s/%s", argv[0], argv[1]), *text = NULL;
	json_object *config = NULL;
	struct backup_set *set;
	int r = folder ? backup_set_open(argv[0], argv[1], 0, &set, err) : -ENOMEM;

	if (r < 0)
		return r;
	r = backup_machine(set, a->point, &text, err);
	*ret_known = text != NULL;
	if (r == 0 && text)
		r = backup_setup_throw_away(text, set, a->point, folder, &config, err);
	if (r == 0 && text)
		r = add_config(c, config, err);
	json_object_put(config);
	backup_set_close(set);
	return r;
}

int backup_verb_boot(const struct tool_verb *verb, int argc, char **argv)
{
	static char program[] = "spindle-vm", run[] = "run";
	struct at_args a = { 0 };
	const struct tool_opt options[] = { BACKUP_OPT_POINT(&a.point), TOOL_OPTS_END };
	struct command c = { .word = { program, run }, .count = 2 };
	struct sp_err err = { 0 };
	bool known = false;
	int n = tool_parse(verb, options, argc, argv, 2, WORDS_MAX / 2);

	if (n < 0)
		return tool_parse_exit(verb, n);
	if (add_machine(&c, argv, &a, &known, &err) < 0)
		return fail(argv[0], &err);
	if (!known && add_disks(&c, argv, &a, false, "--disk=", ",snapshot", &err) < 0)
		return fail(argv[0], &err);
	for (int i = 2; i < n; i++)
		add(&c, argv[i]);
	run_command(&c, "vmm");
	return 1;
}
