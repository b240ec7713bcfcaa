/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TOOLS_OPTIONS_H
#define SPINDLE_TOOLS_OPTIONS_H
/*
 * Options as a table: parsing, checking and the help text come from the same rows.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "tools/vhd_tool.h"
#include "vhd/vhd.h"

enum tool_opt_kind {
	TOOL_FLAG,		/* bool */
	TOOL_TEXT,		/* const char * */
	TOOL_SIZE,		/* uint64_t, size syntax */
	TOOL_NUMBER,		/* unsigned, decimal, 1 or more */
	TOOL_FD,		/* int, an open descriptor */
	TOOL_FORMAT,		/* enum vhd_format_id */
	TOOL_ORPHAN,		/* enum vhd_orphan */
	TOOL_OUTPUT,		/* bool: json */
	TOOL_CALL,		/* .call decides; may come several times */
};

struct tool_opt {
	char key;		/* short form, 0: none */
	const char *name;	/* long form, NULL: none */
	const char *arg;	/* what stands behind it in the help text, NULL: nothing */
	const char *help;
	enum tool_opt_kind kind;
	void *target;
	int (*call)(void *target, const char *value, struct sp_err *err);
};

/* How every verb that only looks opens its image. */
struct tool_look {
	enum vhd_format_id format;
	bool no_lock;
	const char *image_root;
	enum vhd_orphan orphan;
};

struct tool_progress {
	bool bar, quiet;
	int fd;			/* -1: none */
};

#define TOOL_OPT_FORMAT(t) { 'f', "format", "FMT", "format of the image: raw, vhd (or vpc), vhdx", TOOL_FORMAT, (t) }
#define TOOL_OPT_OUTPUT(t) { 0, "output", "human|json", "how to print", TOOL_OUTPUT, (t) }
#define TOOL_OPT_ROOT(t) \
	{ 0, "image-root", "DIR", "parents must lie below DIR (default: the folder of the image)", TOOL_TEXT, (t) }
#define TOOL_OPT_QUIET(t) { 'q', "quiet", NULL, "print errors only", TOOL_FLAG, (t) }
#define TOOL_OPT_DRY_RUN(t) { 0, "dry-run", NULL, "say what would be done, change nothing", TOOL_FLAG, (t) }
#define TOOL_OPT_THREADS(t) { 'm', "threads", "N", "threads to use (default: one per core)", TOOL_NUMBER, (t) }
#define TOOL_OPT_UNLOCKED(t) \
	{ 'U', "force-share", NULL, "look even when another program has the image locked", TOOL_FLAG, (t) }
#define TOOL_OPT_ORPHAN(t) \
	{ 0, "orphan", "eio|zero", "open without the missing parent: its bytes are errors or zeros", TOOL_ORPHAN, (t) }
#define TOOL_OPTS_LOOK(l)                                                           \
	TOOL_OPT_FORMAT(&(l)->format), TOOL_OPT_UNLOCKED(&(l)->no_lock),            \
		TOOL_OPT_ROOT(&(l)->image_root), TOOL_OPT_ORPHAN(&(l)->orphan)
#define TOOL_OPTS_PROGRESS(p)                                                                                      \
	{ 'p', "progress-bar", NULL, "draw a progress bar when standard error is a terminal", TOOL_FLAG, &(p)->bar }, \
		{ 0, "progress", "FD", "write lines \"N/100\" to this descriptor", TOOL_FD, &(p)->fd },               \
		TOOL_OPT_QUIET(&(p)->quiet)
#define TOOL_OPTS_END { .kind = TOOL_FLAG }

#define TOOL_HELPED (-1)	/* help was asked for and printed */
#define TOOL_MISUSED (-2)	/* complaint printed */

/**
 * tool_parse - read options by table, leave the positional arguments at argv[0 .. n-1]
 * @opts: ends with TOOL_OPTS_END
 * @least, @most: how many positional arguments the verb takes
 *
 * Returns how many there are, TOOL_HELPED or TOOL_MISUSED.
 */
int tool_parse(const struct tool_verb *verb, const struct tool_opt *opts, int argc, char **argv, int least, int most);
/* Exit status after tool_parse() answered @n < 0. */
int tool_parse_exit(const struct tool_verb *verb, int n);

/* Options to open an image with. */
struct vhd_open_opts tool_open_opts(const struct tool_look *look);

/* ---- "-o opt=value,...": what a new image is like ------------------------------------------------ */

struct tool_format_opts {
	enum vhd_kind kind;
	bool kind_given;
	uint32_t block_size, log_size, logical_sector, physical_sector;
	bool preallocate;
};

int tool_format_opts_parse(void *opts, const char *value, struct sp_err *err);	/* for TOOL_CALL */
#define TOOL_OPT_O(t)                                                                                             \
	{ 'o', "options", "OPT=VALUE,...",                                                                        \
	  "subformat=fixed|dynamic, block_size=, log_size=, logical_sector_size=, physical_sector_size=, "        \
	  "preallocation=off|falloc|full", TOOL_CALL, (t), tool_format_opts_parse }

/* The format that the ending of a file name stands for; raw when it says nothing. */
enum vhd_format_id tool_format_by_ending(const char *path);

#endif
