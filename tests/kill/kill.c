/* SPDX-License-Identifier: BSD-2-Clause */
/*
 *   kill --tool VHD-TOOL [--kills N] [--seed S] FOLDER...
 *
 * kill -9 of a process that writes to a disk, and of vhd-tool in the middle of an operation, again and again. What it
 * had been told was durable is there, the image opens at once, the checker finds no damage, and no half-made image
 * stands under a final name. Folders should lie on different file systems; each gets its share.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/env.h"
#include "tests/support/fail.h"
#include "tests/support/load.h"
#include "tests/support/rng.h"
#include "vhd/ops.h"

#define OPEN_WITHIN_NS 1000000000u

struct totals {
	uint64_t kills, tool_kills, writes, flushes, slowest_open, qemu;
};

struct place {
	const char *folder;
	const char *tool;
	struct rng rng;
	struct totals *t;
	char dir[256];
};

static char dirs[2][256];		/* to be removed whatever happens */

static void clean_up(void)
{
	char command[600];

	snprintf(command, sizeof(command), "rm -rf '%s' '%s'", dirs[0], dirs[1]);
	if (system(command) != 0)
		fprintf(stderr, "cannot remove %s %s\n", dirs[0], dirs[1]);
}

static void path_of(const struct place *p, const char *name, char *ret, size_t size)
{
	snprintf(ret, size, "%s/%s", p->dir, name);
}

static void must(int r, const struct sp_err *err, const char *what)
{
	if (r < 0)
		fail("%s: %s", what, err && err->code ? sp_err_text(err) : strerror(-r));
}

static void make(const char *path, enum vhd_format_id format)
{
	struct vhd_create_opts o = { .format = format, .size = LOAD_SIZE, .replace = true };
	struct sp_err err = { 0 };

	if (format == VHD_FORMAT_VHDX)
		o.block_size = 1u << 20;
	must(vhd_create(path, &o, &err), &err, "create");
}

/* qemu-img's opinion, where it is installed: it has one on VHDX without parent. */
static void ask_qemu(struct place *p, const char *path)
{
	char command[600];

	snprintf(command, sizeof(command), "qemu-img check -q -f vhdx '%s' >/dev/null 2>&1", path);
	switch (system(command)) {
	case 0: p->t->qemu++; break;
	case 127 << 8: break;
	default: fail("qemu-img check is not content with %s", path);
	}
}

static void wait_for(pid_t child)
{
	int status;

	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
}

static void sleep_ns(uint64_t ns)
{
	struct timespec t = { (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) };

	nanosleep(&t, NULL);
}

static void verify(struct place *p, struct load *l, const char *path, bool write, const char *when)
{
	uint64_t ns = 0;
	char text[512];

	if (load_verify(l, path, write, &ns, text, sizeof(text)) < 0)
		fail("%s, %s: %s", path, when, text);
	if (ns > OPEN_WITHIN_NS)
		fail("%s took %" PRIu64 " ms to open %s", path, ns / 1000000, when);
	p->t->slowest_open = sp_max(p->t->slowest_open, ns);
}

/* ---- a writer ------------------------------------------------------------------------------------- */

static void kill_writer(struct place *p, struct load *l, const char *path, unsigned flags)
{
	uint64_t seed = rng_u64(&p->rng);
	pid_t child;

	atomic_store(&l->running, false);
	child = fork();
	if (child == 0)
		_exit(load_write(l, path, flags, seed) < 0);
	while (!atomic_load(&l->running) && waitpid(child, NULL, WNOHANG) == 0)
		sleep_ns(200000);
	sleep_ns(rng_below(&p->rng, 25000000));
	kill(child, SIGKILL);
	wait_for(child);
	if (atomic_load(&l->error) < 0)
		fail("%s: the writer met an error: %s", path, strerror(-atomic_load(&l->error)));
	p->t->kills++;
}

/* One disk through many deaths. */
static void kill_writers(struct place *p, const char *name, enum vhd_format_id format, unsigned kills)
{
	struct load *l = load_new();
	struct sp_err err = { 0 };
	char path[512];

	path_of(p, name, path, sizeof(path));
	make(path, format);
	for (unsigned i = 0; i < kills; i++) {
		if (strncmp(name, "chain", 5) == 0 && i % 8 == 4) {	/* grows a layer now and then */
			char layer[16];

			snprintf(layer, sizeof(layer), "s%u", i);
			must(vhd_snapshot_create(path, layer, NULL, &err), &err, "snapshot");
		}
		kill_writer(p, l, path, i % 5 == 3 ? VHD_OPEN_NO_URING : 0);
		if (i % 4 == 1)
			verify(p, l, path, false, "read-only after kill -9");
		verify(p, l, path, true, "after kill -9");
		if (i % 10 == 0 && strcmp(name, "disk.vhdx") == 0)
			ask_qemu(p, path);
	}
	p->t->writes += l->writes;
	p->t->flushes += l->flushes;
	load_free(l);
}

/* ---- vhd-tool ------------------------------------------------------------------------------------- */

static pid_t start_tool(const struct place *p, const char *const argv[])
{
	pid_t child = fork();

	if (child == 0) {
		if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr))
			_exit(125);
		execv(p->tool, (char *const *)(uintptr_t)argv);
		_exit(126);
	}
	return child;
}

static int run_tool(const struct place *p, const char *const argv[], uint64_t *ret_ns)
{
	uint64_t start = sp_env_monotonic_ns();
	pid_t child = start_tool(p, argv);
	int status = 0;

	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	*ret_ns = sp_env_monotonic_ns() - start;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

struct tool_case {
	const char *name;
	const char *argv[8];		/* relative to the folder; argv[0] is filled in */
	const char *also;		/* another image that must be whole if it is there at all */
};

static const struct tool_case tool_cases[] = {
	{ "merge", { NULL, "merge", "disk.vhdx" } },
	{ "merge two", { NULL, "merge", "-n", "2", "disk.vhdx" } },
	{ "merge vhd", { NULL, "merge", "disk.vhd" } },
	{ "convert", { NULL, "convert", "disk.vhdx", "copy.vhdx" }, "copy.vhdx" },
	{ "convert vhd", { NULL, "convert", "disk.vhd", "copy.vhd" }, "copy.vhd" },
	{ "snapshot", { NULL, "snapshot", "create", "disk.vhdx", "new" } },
	{ "snapshot delete", { NULL, "snapshot", "delete", "disk.vhdx", "s1" } },
	{ "snapshot vhd", { NULL, "snapshot", "create", "disk.vhd", "new" } },
};

/* Three layers under each of both names, the same every time. */
static void make_chain(const struct place *p, const char *name, enum vhd_format_id format, struct load *l)
{
	struct sp_err err = { 0 };
	char path[512];

	path_of(p, name, path, sizeof(path));
	make(path, format);
	must(load_fill(l, path, 2, 0), NULL, "fill");
	for (unsigned layer = 1; layer < 3; layer++) {
		char snap[8];

		snprintf(snap, sizeof(snap), "s%u", layer);
		must(vhd_snapshot_create(path, snap, NULL, &err), &err, "snapshot");
		must(load_fill(l, path, 5 * layer, layer), NULL, "fill");
	}
}

static void shell(const char *fmt, const char *a, const char *b)
{
	char command[1200];

	snprintf(command, sizeof(command), fmt, a, b);
	if (system(command) != 0)
		fail("%s", command);
}

static const char *leaf_of(const struct tool_case *c)
{
	for (unsigned i = 2; c->argv[i]; i++) {
		if (strncmp(c->argv[i], "disk.", 5) == 0)
			return c->argv[i];
	}
	abort();
}

static void no_half_image(struct place *p, struct load *l, const struct tool_case *c)
{
	char path[512];

	path_of(p, c->also, path, sizeof(path));
	if (access(path, F_OK) == 0)
		verify(p, l, path, true, "converted, then killed");
}

static void kill_tool(struct place *p, struct load *l, const struct tool_case *c, const char *from, uint64_t usual_ns)
{
	const char *argv[8] = { p->tool };
	char path[512];
	uint64_t ns;
	pid_t child;
	int status;

	shell("rm -rf '%s' && cp -a --sparse=always '%s' '%1$s'", p->dir, from);
	if (chdir(p->dir) < 0)
		fail("chdir: %s", strerror(errno));
	memcpy(argv + 1, c->argv + 1, sizeof(argv) - sizeof(argv[0]));
	child = start_tool(p, argv);
	sleep_ns(rng_below(&p->rng, usual_ns));
	kill(child, SIGKILL);
	wait_for(child);
	path_of(p, leaf_of(c), path, sizeof(path));
	verify(p, l, path, false, c->name);
	verify(p, l, path, true, c->name);
	if (c->also)
		no_half_image(p, l, c);
	/* Again, in peace. Refused when it had been completed. */
	status = run_tool(p, argv, &ns);
	if (status != 0 && status != 1)
		fail("%s: exit status %d when it was repeated", c->name, status);
	verify(p, l, path, true, "repeated after kill -9");
	p->t->tool_kills++;
}

static void kill_tools(struct place *p, const struct tool_case *c, unsigned kills)
{
	enum vhd_format_id format = strstr(leaf_of(c), "vhdx") ? VHD_FORMAT_VHDX : VHD_FORMAT_VHD;
	const char *argv[8] = { p->tool };
	struct load *l = load_new();
	char from[300];
	uint64_t ns;

	make_chain(p, leaf_of(c), format, l);
	snprintf(from, sizeof(from), "%s.from", p->dir);
	shell("rm -rf '%s' && cp -a --sparse=always '%s' '%1$s'", from, p->dir);
	if (chdir(p->dir) < 0)
		fail("chdir: %s", strerror(errno));
	memcpy(argv + 1, c->argv + 1, sizeof(argv) - sizeof(argv[0]));
	if (run_tool(p, argv, &ns) != 0)
		fail("%s fails without being killed", c->name);
	for (unsigned i = 0; i < kills; i++)
		kill_tool(p, l, c, from, ns);
	shell("rm -rf '%s' '%s'", from, from);
	load_free(l);
}

/* ---- all ------------------------------------------------------------------------------------------ */

static void in_folder(struct place *p, unsigned index, unsigned kills)
{
	unsigned tools = kills / 4, each;

	snprintf(p->dir, sizeof(p->dir), "%s/spindle-kill-XXXXXX", p->folder);
	if (!mkdtemp(p->dir))
		fail("%s: %s", p->dir, strerror(errno));
	snprintf(dirs[index], sizeof(dirs[index]), "%s", p->dir);
	each = (kills - tools) / 3;
	kill_writers(p, "disk.vhdx", VHD_FORMAT_VHDX, each);
	kill_writers(p, "chain.vhdx", VHD_FORMAT_VHDX, each);
	kill_writers(p, "disk.vhd", VHD_FORMAT_VHD, kills - tools - 2 * each);
	for (size_t i = 0; i < SP_ARRAY_SIZE(tool_cases); i++) {
		shell("rm -f '%s'/*%s", p->dir, "");
		kill_tools(p, &tool_cases[i], tools / SP_ARRAY_SIZE(tool_cases) +
			   (i < tools % SP_ARRAY_SIZE(tool_cases)));
	}
	if (chdir("/") < 0)
		fail("chdir: %s", strerror(errno));
}

static void interrupted(int signal_number)
{
	exit(128 + signal_number);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "tool", 1, NULL, 't' }, { "kills", 1, NULL, 'n' }, { "seed", 1, NULL, 's' }, { 0 },
	};
	unsigned kills = 500, folders;
	struct totals t = { 0 };
	const char *tool = NULL;
	uint64_t seed = 0;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 't': tool = optarg; break;
		case 'n': kills = (unsigned)strtoul(optarg, NULL, 0); break;
		case 's': seed = strtoull(optarg, NULL, 0); break;
		default: return 2;
		}
	}
	folders = (unsigned)(argc - optind);
	if (!tool || folders < 1 || folders > SP_ARRAY_SIZE(dirs))
		return 2;
	atexit(clean_up);
	signal(SIGINT, interrupted);
	signal(SIGTERM, interrupted);
	if (seed == 0)
		seed = test_seed("kill");
	for (unsigned i = 0; i < folders; i++) {
		struct place p = { .folder = argv[optind + (int)i], .tool = tool, .t = &t };

		rng_init(&p.rng, seed + i);
		in_folder(&p, i, kills / folders + (i < kills % folders));
	}
	printf("kill: %" PRIu64 " writers and %" PRIu64 " runs of vhd-tool killed; %" PRIu64
	       " writes acknowledged by %" PRIu64 " flushes, 0 lost; slowest open %" PRIu64 ".%03" PRIu64 " s; %" PRIu64
	       " judged by qemu-img\n",
	       t.kills, t.tool_kills, t.writes, t.flushes, t.slowest_open / 1000000000u,
	       t.slowest_open / 1000000 % 1000, t.qemu);
	return 0;
}
