/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * crash [--states N] [--seed S] [--only NAME] [--part K/M] [--qemu N] [--list]
 *
 * --part takes every M-th workload, from the K-th on, so that several processes share them. N states in all, spread
 * over the workloads. Prints its seed; the same seed makes the same states.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "tests/crash/crash.h"

void crash_fail(struct crash *c, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "FAIL %s (crash --only %s --seed %" PRIu64 "), after %" PRIu64 " states: ", c->w->name,
		c->w->name, c->seed, c->states);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

/* One recorded run and its cuts. */
static void round_of(struct crash *c, uint64_t seed)
{
	struct test_env env;
	struct store_folder *plain;

	c->seed = seed;
	c->stamp = 0;
	rng_init(&c->rng, seed);
	test_env_install(&env, seed);
	oracle_init(&c->oracle, c->w->size, c->w->block);
	if (store_folder_mem(&plain) < 0)
		abort();
	c->folder = plain;
	c->log = NULL;
	c->w->setup(c);
	oracle_settle(&c->oracle);
	if (store_folder_log_new(plain, &c->folder) < 0)
		abort();
	c->log = store_folder_log(c->folder);
	c->w->run(c);
	crash_judge(c);
	store_folder_close(c->folder);
	oracle_fini(&c->oracle);
	test_env_remove(&env);
}

static void run(struct crash *c, uint64_t seed)
{
	unsigned rounds = 0;

	while (c->states < c->states_wanted)
		round_of(c, seed + rounds++);
	printf("%-22s %3u runs, %7" PRIu64 " states, %6" PRIu64 " cut again inside recovery, %6" PRIu64
	       " also read-only, %5" PRIu64 " judged by qemu-img: ok\n",
	       c->w->name, rounds, c->states, c->nested, c->opened_again, c->qemu);
	fflush(stdout);
}

struct selection {
	const char *only;
	unsigned part, parts;
};

static bool selected(const struct selection *sel, size_t index)
{
	return index % sel->parts == sel->part % sel->parts &&
	       (!sel->only || strcmp(sel->only, workloads[index].name) == 0);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "states", 1, NULL, 'n' },
		{ "seed", 1, NULL, 's' },
		{ "only", 1, NULL, 'o' },
		{ "part", 1, NULL, 'p' },
		{ "qemu", 1, NULL, 'q' },
		{ "list", 0, NULL, 'l' },
		{ 0 },
	};
	uint64_t states = 200000, qemu = 0, total = 0, nested = 0, judged = 0, seed = 0;
	struct selection sel = { .parts = 1 };
	char qemu_file[64];
	size_t runs = 0;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 'n': states = strtoull(optarg, NULL, 0); break;
		case 's': seed = strtoull(optarg, NULL, 0); break;
		case 'o': sel.only = optarg; break;
		case 'p':
			if (sscanf(optarg, "%u/%u", &sel.part, &sel.parts) != 2 || sel.parts == 0)
				return 2;
			break;
		case 'q': qemu = strtoull(optarg, NULL, 0); break;
		case 'l':
			for (size_t i = 0; i < workload_count; i++)
				puts(workloads[i].name);
			return 0;
		default: return 2;
		}
	}
	if (seed == 0)
		seed = test_seed("crash");
	if (qemu > 0 && system("qemu-img --version >/dev/null 2>&1") != 0)
		qemu = 0;
	snprintf(qemu_file, sizeof(qemu_file), "/dev/shm/spindle-crash-%d.vhdx", (int)getpid());
	for (size_t i = 0; i < workload_count; i++)
		runs += selected(&sel, i);
	if (runs == 0)
		return 2;
	for (size_t i = 0; i < workload_count; i++) {
		struct crash c = {
			.w = &workloads[i],
			.states_wanted = sp_div_ceil(states, runs),
			.qemu_wanted = qemu / 6 + (qemu > 0),
			.qemu_file = qemu_file,
		};

		if (!selected(&sel, i))
			continue;
		run(&c, seed);
		total += c.states;
		nested += c.nested;
		judged += c.qemu;
	}
	unlink(qemu_file);
	printf("crash: %zu workloads, %" PRIu64 " states, %" PRIu64 " more inside recovery, %" PRIu64
	       " judged by qemu-img, 0 violations\n", runs, total, nested, judged);
	return 0;
}
