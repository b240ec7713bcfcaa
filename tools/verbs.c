/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdio.h>
#include <string.h>

#include "tools/output.h"
#include "tools/vhd_tool.h"

static void print_verbs(const struct tool_verb *table, const char *prefix)
{
	printf("usage: %s VERB [OPTION...] FILE...\n\n", prefix);
	for (; table->name; table++)
		printf("  %-10s%s\n", table->name, table->help);
	printf("\n\"%s VERB --help\" lists the options of a verb; the manual is %.*s(1).\n", prefix,
	       (int)strcspn(prefix, " "), prefix);
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
