/* SPDX-License-Identifier: BSD-2-Clause */
/*
 *   fault [--only WORK] [--mode MODE] [--k N] [--queue] [--list]
 *
 * For each workload and each way to fail: the first I/O fails, then the second, ... until a run passes without a hit.
 * Everything happens in memory. Prints how many places there are and how many runs it took; the exit status
 * is 1 when a verdict was violated.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "tests/fault/fault.h"
#include "vhd/store_mem_int.h"

#define FULL (FAULT_WRITE | FAULT_RESIZE | FAULT_PUNCH | FAULT_ZERO | FAULT_NAMES)

static const struct mode modes[] = {
	{ "eio", -EIO, FAULT_ALL, false, false },
	{ "eio-sticky", -EIO, FAULT_ALL, true, false },
	{ "enospc", -ENOSPC, FULL, false, false },
	{ "enospc-sticky", -ENOSPC, FULL, true, false },
	{ "short", -EIO, FAULT_READ | FAULT_WRITE, false, true },
	{ "short-sticky", -EIO, FAULT_READ | FAULT_WRITE, true, true },
	{ "enomem", -ENOMEM, 0, false, false },
	{ "enomem-sticky", -ENOMEM, 0, true, false },
};

/* What a workload starts from. */
struct start {
	const struct work *w;
	struct store_folder *folder;
	struct sheet sheet, copy;	/* the copy is the run's */
	struct test_env env;
};

static void start_make(struct start *s, const struct work *w)
{
	struct run run = { .w = w };

	memset(s, 0, sizeof(*s));
	s->w = w;
	test_env_install(&s->env, 1);
	if (store_folder_mem(&s->folder) < 0)
		abort();
	run.mem = run.folder = s->folder;
	sheet_init(&run.sheet, w->size);
	w->setup(&run);
	if (run.result < 0 || run.violations > 0) {
		fprintf(stderr, "%s: the setup failed\n", w->name);
		exit(2);
	}
	sheet_flushed(&run.sheet);
	s->sheet = run.sheet;
}

static void start_free(struct start *s)
{
	store_folder_close(s->folder);
	sheet_fini(&s->sheet);
	sheet_fini(&s->copy);
	test_env_remove(&s->env);
}

static int no_memory(void *arg)
{
	struct run *run = arg;

	uint64_t n;
	bool fails;

	if (fault_inside_store())
		return 0;
	n = atomic_fetch_add(&run->allocations, 1) + 1;
	fails = n == run->k || (run->mode->sticky && n > run->k);
	if (fails)
		atomic_fetch_add(&run->refused, 1);
	return fails;
}

static void run_begin(struct run *run, struct start *s)
{
	struct store_folder *inner;

	rng_init(&run->rng, run->k);
	sheet_copy(&s->copy, &s->sheet);
	run->sheet = s->copy;
	if (store_folder_mem_clone(s->folder, &run->mem) < 0)
		abort();
	inner = run->mem;
	if (run->mode->classes != 0) {
		if (store_folder_log_new(inner, &inner) < 0)
			abort();
		run->log = store_folder_log(inner);
	}
	if (store_folder_fault_new(inner, &run->plan, &run->folder) < 0)
		abort();
	fault_plan_set(&run->plan, run->mode->classes, run->k, run->mode->error, run->mode->sticky, run->mode->halves);
}

/* Returns whether anything was made to fail. */
static bool run_one(struct start *s, const struct mode *mode, uint64_t k, bool queued, struct totals *t,
		    uint64_t *ret_sites)
{
	struct run run = { .w = s->w, .mode = mode, .k = k, .queued = queued };
	bool hit;

	run_begin(&run, s);
	if (mode->classes == 0)
		sp_alloc_set_fault(no_memory, &run);
	s->w->run(&run);
	run_settle(&run);
	if (k % 2)
		run_close(&run);	/* otherwise it is judged as it stands */
	sp_alloc_set_fault(NULL, NULL);
	*ret_sites = mode->classes ? run.plan.counter : run.allocations;
	hit = run_hits(&run) > 0;
	judge(&run, t);
	store_folder_close(run.folder);
	t->runs++;
	return hit;
}

static void loop(struct start *s, const struct mode *mode, bool queued, struct totals *t)
{
	uint64_t sites = 0, most = 0, refused = t->refused;
	unsigned clean = 0, violations = t->violations;

	/* Every other run closes the disk, which is more I/O: only two without a hit are the end. */
	for (uint64_t k = 1; clean < 2 && t->violations < violations + 3; k++) {
		clean = run_one(s, mode, k, queued, t, &sites) ? 0 : clean + 1;
		most = sp_max(most, sites);
	}
	/* When space is back a disk goes on, unless it was a header that could not be overwritten: at its first write
	 * an image changes them twice, and every other failure is judged with the disk still open. */
	if (mode->error == -ENOSPC && t->refused > refused + 2) {
		fprintf(stderr,
			"FAIL --only %s --mode %s: %" PRIu64 " disks refuse to go on though there is space again\n",
			s->w->name, mode->name, t->refused - refused);
		t->violations++;
	}
	if (mode->sticky)
		return;
	if (mode->classes == FAULT_ALL)
		t->io_sites += most;
	else if (mode->classes == 0)
		t->alloc_sites += most;
}

static void add(struct totals *sum, const struct totals *t)
{
	sum->runs += t->runs;
	sum->io_sites += t->io_sites;
	sum->alloc_sites += t->alloc_sites;
	sum->failed += t->failed;
	sum->absorbed += t->absorbed;
	sum->poisoned += t->poisoned;
	sum->refused += t->refused;
	sum->usable += t->usable;
	sum->states += t->states;
	sum->violations += t->violations;
}

static void print(const char *name, const struct totals *t)
{
	printf("%-22s %5" PRIu64 " I/O sites %5" PRIu64 " allocations %6" PRIu64 " runs: %6" PRIu64 " failed %5" PRIu64
	       " absorbed; disks left open: %4" PRIu64 " usable %4" PRIu64 " poisoned %4" PRIu64 " refusing; %6" PRIu64
	       " states, %u violations\n",
	       name, t->io_sites, t->alloc_sites, t->runs, t->failed, t->absorbed, t->usable, t->poisoned, t->refused,
	       t->states, t->violations);
	fflush(stdout);
}

struct choice {
	const char *only, *mode;
	uint64_t k;
	bool queue;
};

static void work_all(const struct work *w, const struct choice *c, struct totals *sum)
{
	struct totals t = { 0 };
	struct start s;
	uint64_t sites;

	start_make(&s, w);
	for (size_t m = 0; m < SP_ARRAY_SIZE(modes); m++) {
		if (c->mode && strcmp(c->mode, modes[m].name) != 0)
			continue;
		for (int queued = c->queue; queued <= w->guest; queued++) {
			if (c->k)
				run_one(&s, &modes[m], c->k, queued, &t, &sites);
			else
				loop(&s, &modes[m], queued, &t);
			if (c->k && !c->queue)
				break;
		}
	}
	start_free(&s);
	print(w->name, &t);
	add(sum, &t);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "only", 1, NULL, 'o' }, { "mode", 1, NULL, 'm' }, { "k", 1, NULL, 'k' }, { "queue", 0, NULL, 'q' },
		{ "list", 0, NULL, 'l' }, { 0 },
	};
	struct choice c = { 0 };
	struct totals sum = { 0 };
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 'o': c.only = optarg; break;
		case 'm': c.mode = optarg; break;
		case 'k': c.k = strtoull(optarg, NULL, 0); break;
		case 'q': c.queue = true; break;
		case 'l':
			for (size_t i = 0; i < work_count; i++)
				puts(works[i].name);
			return 0;
		default: return 2;
		}
	}
	for (size_t i = 0; i < work_count; i++) {
		if (!c.only || strcmp(c.only, works[i].name) == 0)
			work_all(&works[i], &c, &sum);
	}
	if (sum.runs == 0)
		return 2;
	print("fault: all", &sum);
	return sum.violations > 0;
}
