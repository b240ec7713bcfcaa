/* SPDX-License-Identifier: BSD-2-Clause */
/* "sessions exits|services|requester [--count N] [--seed S]": drawn from chance, until so much has been done. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "tests/hostile_guest/guest.h"

static const struct kind {
	const char *name;
	void (*run)(struct input *in);
	const uint64_t *done;
} kinds[] = {
	{ "exits", exits_run, &exits_count },
	{ "services", services_run, &services_messages },
	{ "requester", requester_run, &requester_messages },
};

static const struct kind *find_kind(const char *name)
{
	for (unsigned i = 0; name && i < SP_ARRAY_SIZE(kinds); i++)
		if (strcmp(kinds[i].name, name) == 0)
			return &kinds[i];
	return NULL;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "count", required_argument, NULL, 'n' }, { "seed", required_argument, NULL, 's' },
		{ NULL, 0, NULL, 0 },
	};
	const struct kind *k = find_kind(argv[1]);
	uint64_t seed = 1, wanted = 100000;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		uint64_t *at = c == 'n' ? &wanted : c == 's' ? &seed : NULL;

		if (!at)
			return 2;
		*at = strtoull(optarg, NULL, 0);
	}
	if (!k)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (*k->done < wanted) {
		struct input in = { 0 };

		printf("seed %llu\n", (unsigned long long)seed);
		rng_init(&in.rng, seed++);
		alarm(60);
		k->run(&in);
	}
	printf("%llu %s\n", (unsigned long long)*k->done, k->name);
	return 0;
}
