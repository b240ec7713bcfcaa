/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_RNG_H
#define SPINDLE_TESTS_RNG_H
/*
 * Chance that can be repeated: xoshiro256** from one 64-bit seed, and an environment in which time and GUIDs follow
 * from that seed too.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rng {
	uint64_t s[4];
};

void rng_init(struct rng *rng, uint64_t seed);
uint64_t rng_u64(struct rng *rng);
uint64_t rng_below(struct rng *rng, uint64_t n);			/* 0 .. n-1; n > 0 */
uint64_t rng_between(struct rng *rng, uint64_t low, uint64_t high);	/* both included */
bool rng_chance(struct rng *rng, unsigned num, unsigned den);		/* true num times out of den */
void rng_fill(struct rng *rng, void *buf, size_t len);

/* The seed of this run: SPINDLE_TEST_SEED when it is set (decimal or 0x...), else a fresh one. Prints it with the
 * way to replay, so that a failure in a log can be repeated. */
uint64_t test_seed(const char *test_name);

/* Deterministic time (starts 2026-01-01, one second further with each look) and GUIDs. Thread safe, but then only as
 * repeatable as the threads are. One at a time. */
struct test_env {
	pthread_mutex_t lock;
	struct rng rng;
	int64_t now;
};

void test_env_install(struct test_env *env, uint64_t seed);
void test_env_remove(struct test_env *env);

#endif
