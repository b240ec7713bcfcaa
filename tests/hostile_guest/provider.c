/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "provider [--mutations N] [--seed S] [--sessions N]": sessions of a hostile guest drawn from chance, until so many
 * mutations have been made (or so many sessions). Session k of a run can be repeated alone with the seed it had told.
 */
#include "tests/hostile_guest/fibers.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/hostile_guest/guest.h"

#define SECONDS 60		/* for one session */

static uint64_t seed_now;

static void tell(int sig)
{
	char text[160];
	int n = snprintf(text, sizeof(text), "\nhostile guest: signal %d; repeat with --sessions 1 --seed %llu\n", sig,
			 (unsigned long long)seed_now);

	if (write(STDERR_FILENO, text, (size_t)n) < 0)
		_exit(2);
	signal(sig, SIG_DFL);
	raise(sig);
}

static uint64_t mutations(void)
{
	return session_count.mutations + hostile_fetch.mutations;
}

static void report(void)
{
	printf("%llu sessions, %llu actions, %llu packets, %llu answers, %llu channels opened, %llu mutations\n",
	       (unsigned long long)session_count.sessions, (unsigned long long)session_count.actions,
	       (unsigned long long)session_count.packets, (unsigned long long)session_count.answers,
	       (unsigned long long)session_count.channels_opened, (unsigned long long)mutations());
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "mutations", required_argument, NULL, 'm' }, { "seed", required_argument, NULL, 's' },
		{ "sessions", required_argument, NULL, 'n' }, { NULL, 0, NULL, 0 },
	};
	uint64_t seed = 1, sessions = UINT64_MAX, wanted = UINT64_MAX;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		uint64_t *at = c == 'm' ? &wanted : c == 's' ? &seed : c == 'n' ? &sessions : NULL;

		if (!at)
			return 2;
		*at = strtoull(optarg, NULL, 0);
	}
	signal(SIGALRM, tell);
	signal(SIGABRT, tell);
	signal(SIGSEGV, tell);
	signal(SIGBUS, tell);
	memory_open(&guest_memory);
	for (uint64_t i = 0; i < sessions && mutations() < wanted; i++) {
		struct input in = { 0 };

		seed_now = seed + i;
		rng_init(&in.rng, seed_now);
		alarm(SECONDS);
		session_run(&in);
	}
	alarm(0);
	report();
	return 0;
}
