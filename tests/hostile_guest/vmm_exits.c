/* SPDX-License-Identifier: BSD-2-Clause */
/* "vmm_exits [--exits N] [--seed S]": sessions of exits drawn from chance. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/hostile_guest/guest.h"

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "exits", required_argument, NULL, 'e' }, { "seed", required_argument, NULL, 's' },
		{ NULL, 0, NULL, 0 },
	};
	uint64_t seed = 1, wanted = 100000;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		uint64_t *at = c == 'e' ? &wanted : c == 's' ? &seed : NULL;

		if (!at)
			return 2;
		*at = strtoull(optarg, NULL, 0);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (exits_count < wanted) {
		struct input in = { 0 };

		printf("seed %llu\n", (unsigned long long)seed);
		rng_init(&in.rng, seed++);
		alarm(60);
		exits_run(&in);
	}
	printf("%llu exits\n", (unsigned long long)exits_count);
	return 0;
}
