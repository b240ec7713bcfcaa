/* SPDX-License-Identifier: BSD-2-Clause */
#include "tools/vhd_tool.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/output.h"

static const struct tool_verb verbs[] = {
	{ "create",   "FILE [SIZE]",	  "make a new image",					  tool_create,	 1 },
	{ "info",     "FILE",		  "what an image is, and the chain it stands on",	  tool_info,	 1 },
	{ "map",      "FILE",		  "which parts are allocated, and in which layer",	  tool_map,	 1 },
	{ "check",    "FILE",		  "verify the structures of an image",			  tool_check,	 1 },
	{ "repair",   "FILE",		  "fix what is provably fixable",			  tool_repair,	 1 },
	{ "convert",  "SOURCE TARGET|-",  "copy a disk into a new image of any format",		  tool_convert,	 1 },
	{ "compare",  "FILE1 FILE2",	  "tell whether two disks have the same content",	  tool_compare,	 2 },
	{ "merge",    "FILE",		  "move an image's content down into its parent",	  tool_merge,	 1 },
	{ "rebase",   "FILE",		  "give an image another parent, or none",		  tool_rebase,	 1 },
	{ "snapshot", "create|list|revert|delete ...", "keep states of an image to go back to",	  tool_snapshot, 1 },
	{ "hash",     "FILE",		  "SHA-256 of a disk, and a manifest of its parts",	  tool_hash,	 2 },
	{ "probe",    "FILE",		  "partitions and file systems on a disk",		  tool_probe,	 1 },
	{ 0 },
};

static void print_verbs(const struct tool_verb *table, const char *prefix)
{
	printf("usage: %s VERB [OPTION...] FILE...\n\n", prefix);
	for (; table->name; table++)
		printf("  %-10s%s\n", table->name, table->help);
	printf("\n\"%s VERB --help\" lists the options of a verb; the manual is vhd-tool(1).\n", prefix);
}

static const struct tool_verb *find_verb(const struct tool_verb *table, const char *name)
{
	for (; table->name; table++)
		if (strcmp(table->name, name) == 0)
			return table;
	return NULL;
}

/* "help VERB..." is "VERB... --help". */
static int run_help(const struct tool_verb *table, const char *prefix, int argc, char **argv)
{
	static char help_option[] = "--help";

	if (argc < 2) {
		print_verbs(table, prefix);
		return 0;
	}
	memmove(argv, argv + 1, (size_t)(argc - 1) * sizeof(*argv));
	argv[argc - 1] = help_option;
	return tool_dispatch(table, prefix, argc, argv);
}

int tool_dispatch(const struct tool_verb *table, const char *prefix, int argc, char **argv)
{
	static char command[64];
	const struct tool_verb *verb;

	if (argc < 1) {
		fprintf(stderr, "%s: a verb is missing\nTry: %s --help\n", prefix, prefix);
		return 1;
	}
	if (strcmp(argv[0], "help") == 0)
		return run_help(table, prefix, argc, argv);
	if (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0) {
		print_verbs(table, prefix);
		return 0;
	}
	verb = find_verb(table, argv[0]);
	if (!verb) {
		fprintf(stderr, "%s: there is no verb \"%s\"\nTry: %s --help\n", prefix, argv[0], prefix);
		return 1;
	}
	snprintf(command, sizeof(command), "%s %s", prefix, verb->name);
	tool_set_command(command);
	return verb->run(verb, argc, argv);
}

int main(int argc, char **argv)
{
	int status;

	signal(SIGPIPE, SIG_IGN);	/* a reader that went away is an error to report, not to die of */
	if (argc == 2 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)) {
		printf("vhd-tool %s\n", SPINDLE_VERSION);
		return 0;
	}
	status = tool_dispatch(verbs, "vhd-tool", argc - 1, argv + 1);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "vhd-tool: cannot write the output: %s\n", strerror(errno));
		return status ? status : 1;
	}
	return status;
}
