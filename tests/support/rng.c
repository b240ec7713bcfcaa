/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/support/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/env.h"

#define START_OF_TIME 1767225600	/* 2026-01-01 00:00 UTC */

static uint64_t rotl(uint64_t x, unsigned n)
{
	return x << n | x >> (64 - n);
}

/* splitmix64, as the authors of xoshiro recommend for seeding: any seed is a good one, zero too. */
void rng_init(struct rng *rng, uint64_t seed)
{
	for (size_t i = 0; i < 4; i++) {
		uint64_t z = seed += 0x9e3779b97f4a7c15u;

		z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
		z = (z ^ z >> 27) * 0x94d049bb133111ebu;
		rng->s[i] = z ^ z >> 31;
	}
}

uint64_t rng_u64(struct rng *rng)
{
	uint64_t *s = rng->s, result = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotl(s[3], 45);
	return result;
}

uint64_t rng_below(struct rng *rng, uint64_t n)
{
	return (uint64_t)((unsigned __int128)rng_u64(rng) * n >> 64);
}

uint64_t rng_between(struct rng *rng, uint64_t low, uint64_t high)
{
	uint64_t span = high - low + 1;

	return span == 0 ? rng_u64(rng) : low + rng_below(rng, span);
}

bool rng_chance(struct rng *rng, unsigned num, unsigned den)
{
	return rng_below(rng, den) < num;
}

void rng_fill(struct rng *rng, void *buf, size_t len)
{
	uint8_t *p = buf;

	while (len > 0) {
		uint64_t x = rng_u64(rng);
		size_t n = len < sizeof(x) ? len : sizeof(x);

		memcpy(p, &x, n);
		p += n;
		len -= n;
	}
}

uint64_t test_seed(const char *test_name)
{
	const char *text = getenv("SPINDLE_TEST_SEED");
	uint64_t seed = 0;

	if (text)
		seed = strtoull(text, NULL, 0);
	else if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
		abort();
	printf("# %s: seed %#llx, replay with SPINDLE_TEST_SEED=%#llx\n", test_name, (unsigned long long)seed,
	       (unsigned long long)seed);
	fflush(stdout);
	return seed;
}

static int64_t env_time(void *arg)
{
	struct test_env *env = arg;
	int64_t now;

	pthread_mutex_lock(&env->lock);
	now = env->now++;
	pthread_mutex_unlock(&env->lock);
	return now;
}

static void env_guid(void *arg, struct sp_guid *ret_guid)
{
	struct test_env *env = arg;

	pthread_mutex_lock(&env->lock);
	rng_fill(&env->rng, ret_guid->b, sizeof(ret_guid->b));
	pthread_mutex_unlock(&env->lock);
	ret_guid->b[7] = (uint8_t)((ret_guid->b[7] & 0x0f) | 0x40);	/* version 4, as stored mixed-endian */
	ret_guid->b[8] = (uint8_t)((ret_guid->b[8] & 0x3f) | 0x80);
}

void test_env_install(struct test_env *env, uint64_t seed)
{
	struct sp_env_hooks hooks = { .time = env_time, .guid = env_guid, .arg = env };

	pthread_mutex_init(&env->lock, NULL);
	rng_init(&env->rng, seed);
	env->now = START_OF_TIME;
	sp_env_set_hooks(&hooks);
}

void test_env_remove(struct test_env *env)
{
	sp_env_set_hooks(NULL);
	pthread_mutex_destroy(&env->lock);
}
