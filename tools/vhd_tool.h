/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TOOLS_VHD_TOOL_H
#define SPINDLE_TOOLS_VHD_TOOL_H
/*
 * vhd-tool: one file per verb, all listed in the table of vhd_tool.c. A verb declares its options as a table,
 * which is parsed, checked and printed by options.c.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "vhd/vhd.h"

struct tool_verb {
	const char *name;
	const char *args;		/* "FILE [SIZE]" */
	const char *help;		/* one line */
	int (*run)(const struct tool_verb *verb, int argc, char **argv);	/* answers the exit status */
	int usage_exit;			/* exit status of a usage error */
};

int tool_create(const struct tool_verb *verb, int argc, char **argv);
int tool_info(const struct tool_verb *verb, int argc, char **argv);
int tool_changes(const struct tool_verb *verb, int argc, char **argv);
int tool_map(const struct tool_verb *verb, int argc, char **argv);
int tool_check(const struct tool_verb *verb, int argc, char **argv);
int tool_repair(const struct tool_verb *verb, int argc, char **argv);
int tool_convert(const struct tool_verb *verb, int argc, char **argv);
int tool_compare(const struct tool_verb *verb, int argc, char **argv);
int tool_merge(const struct tool_verb *verb, int argc, char **argv);
int tool_rebase(const struct tool_verb *verb, int argc, char **argv);
int tool_snapshot(const struct tool_verb *verb, int argc, char **argv);
int tool_hash(const struct tool_verb *verb, int argc, char **argv);
int tool_probe(const struct tool_verb *verb, int argc, char **argv);

/* Runs the verb called argv[0] from a table that ends with a NULL name. @prefix: "vhd-tool" or "vhd-tool snapshot". */
int tool_dispatch(const struct tool_verb *verbs, const char *prefix, int argc, char **argv);

#endif
