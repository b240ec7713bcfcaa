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
	{ "changes",  "FILE",		  "which parts changed since a point in time",		  tool_changes,	 1 },
	{ "hash",     "FILE",		  "SHA-256 of a disk, and a manifest of its parts",	  tool_hash,	 2 },
	{ "probe",    "FILE",		  "partitions and file systems on a disk",		  tool_probe,	 1 },
	{ 0 },
};

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
