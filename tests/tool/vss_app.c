/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An application that holds still when it is asked to, writes down when, and runs a command at one point of the way:
 *
 *	vss_app SOCKET LOG [POINT COMMAND]
 *
 * Points: check, freeze, thaw: before it answers; checked, frozen, thawed: after. Once only.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "vss/writer.h"

static const char *log_path, *point, *command;
static const char *after;		/* what has been done, and is answered by now */

static void at(const char *where)
{
	if (!point || strcmp(point, where))
		return;
	point = NULL;
	if (system(command) == -1)
		perror(command);
}

static void note(const char *what)
{
	FILE *f = fopen(log_path, "a");

	if (!f)
		exit(1);
	fprintf(f, "%s %.3f\n", what, (double)sp_env_monotonic_ns() / 1e9);
	fclose(f);
}

static int check(void *ctx, const char *snapshot, const char **ret_why)
{
	at("check");
	after = "checked";
	return 0;
}

static int freeze(void *ctx, unsigned window_ms, const char **ret_why)
{
	note("freeze");
	at("freeze");
	after = "frozen";
	return 0;
}

static void thaw(void *ctx)
{
	at("thaw");
	note("thaw");
	after = "thawed";
}

static void complete(void *ctx, bool good)
{
	note(good ? "good" : "bad");
}

static const struct vss_host_ops ops = { check, freeze, thaw, complete };

int main(int argc, char **argv)
{
	struct sp_err err = { 0 };
	struct vss_host *h;

	if (argc < 3)
		return 2;
	log_path = argv[2];
	point = argc > 4 ? argv[3] : NULL;
	command = argc > 4 ? argv[4] : NULL;
	if (vss_host_new(argv[1], "app", VSS_APPLICATION, &ops, NULL, &h, &err) < 0) {
		fprintf(stderr, "%s\n", sp_err_text(&err));
		return 1;
	}
	for (;;) {
		struct pollfd p = { vss_host_fd(h), POLLIN, 0 };

		if (poll(&p, 1, -1) < 0)
			continue;
		vss_host_process(h);
		if (after) {
			const char *where = after;

			after = NULL;
			at(where);
		}
	}
}
