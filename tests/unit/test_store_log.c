/* SPDX-License-Identifier: BSD-2-Clause */
/* The instruments themselves: faults hit where they should, and power-cut states are those of the model. */
#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"
#include "tests/support/rng.h"
#include "tests/unit/rows.h"
#include "tests/support/store_fault.h"
#include "tests/support/store_log.h"
#include "vhd/store_mem_int.h"

/* ---- power cuts ----------------------------------------------------------------------------------- */

struct scene {
	struct store_folder *folder;
	struct store_log *log;
	struct store *s;	/* "a", there from the start: "0000000000" */
};

static void scene_init(struct scene *c)
{
	struct store_folder *mem;
	struct store *s;

	assert_int_equal(store_folder_mem(&mem), 0);
	assert_int_equal(store_folder_open(mem, "a", STORE_CREATE | STORE_RDWR, &s, NULL), 0);
	assert_int_equal(store_write(s, "0000000000", 10, 0), 0);
	store_close(s);
	assert_int_equal(store_folder_log_new(mem, &c->folder), 0);
	c->log = store_folder_log(c->folder);
	assert_int_equal(store_folder_open(c->folder, "a", STORE_RDWR, &c->s, NULL), 0);
}

static void scene_fini(struct scene *c)
{
	store_close(c->s);
	store_folder_close(c->folder);
}

static void overwrite(struct scene *c)
{
	store_write(c->s, "11", 2, 0);
	store_write(c->s, "22", 2, 4);
}

static void overwrite_and_sync(struct scene *c)
{
	store_write(c->s, "11", 2, 0);
	store_sync(c->s);
	store_write(c->s, "22", 2, 4);
}

static void extend(struct scene *c)
{
	store_write(c->s, "333", 3, 9);
}

static void shrink_and_grow(struct scene *c)
{
	store_resize(c->s, 4);
	store_resize(c->s, 8);
}

static void punch(struct scene *c)
{
	store_punch(c->s, 2, 4);
}

static void create(struct scene *c)
{
	struct store *s;

	assert_int_equal(store_folder_open(c->folder, "./b", STORE_CREATE | STORE_RDWR, &s, NULL), 0);
	store_write(s, "bbbb", 4, 0);
	store_sync(s);
	store_close(s);
}

static void create_and_sync(struct scene *c)
{
	create(c);
	store_folder_sync(c->folder, "b");
}

static void replace(struct scene *c)
{
	create_and_sync(c);
	store_folder_rename(c->folder, "b", "a", true);
}

static void removal(struct scene *c)
{
	store_folder_unlink(c->folder, "a");
	store_write(c->s, "1", 1, 0);
}

/* @keep: for each event that may be lost, in order: '.' lost, 'W' whole, digit: first so many bytes, 'r' + digit: the
 * rest after so many. In want '_' is a zero byte, NULL: the file is not there. */
static const struct cut {
	const char *name;
	void (*work)(struct scene *c);
	const char *keep;
	const char *want_a, *want_b;
} cuts[] = {
	{ "nothing arrived",			overwrite,	    "..",    "0000000000" },
	{ "first arrived",			overwrite,	    "W.",    "1100000000" },
	{ "second arrived",			overwrite,	    ".W",    "0000220000" },
	{ "both",				overwrite,	    "WW",    "1100220000" },
	{ "torn",				overwrite,	    "1W",    "1000220000" },
	{ "torn, the other part",		overwrite,	    "r1.",   "0100000000" },
	{ "synced stays",			overwrite_and_sync, ".",     "1100000000" },
	{ "synced and later one",		overwrite_and_sync, "W",     "1100220000" },
	{ "size and data lost",			extend,		    "..",    "0000000000" },
	{ "size without data",			extend,		    "W.",    "0000000000__" },
	{ "data without size",			extend,		    ".W",    "0000000003" },
	{ "size and data",			extend,		    "WW",    "000000000333" },
	{ "size and part of the data",		extend,		    "W2",    "00000000033_" },
	{ "shrunk only",			shrink_and_grow,    "W.",    "0000" },
	{ "shrunk, grown with zeros",		shrink_and_grow,    "WW",    "0000____" },
	{ "grown: no old bytes come back",	shrink_and_grow,    ".W",    "0000____" },
	{ "punch lost",				punch,		    ".",     "0000000000" },
	{ "punched",				punch,		    "W",     "00____0000" },
	{ "punched in part",			punch,		    "1",     "00_0000000" },
	{ "name lost though content synced",	create,		    ".",     "0000000000" },
	{ "name arrived",			create,		    "W",     "0000000000", "bbbb" },
	{ "name synced",			create_and_sync,    "",	     "0000000000", "bbbb" },
	{ "replacement lost",			replace,	    ".",     "0000000000", "bbbb" },
	{ "replaced",				replace,	    "W",     "bbbb" },
	{ "removal lost",			removal,	    ".W",    "1000000000" },
	{ "removed",				removal,	    "W.",    NULL },
};

static void expect(struct store_folder *f, const char *name, const char *want)
{
	char got[64];
	struct store *s;
	uint64_t size;
	int r = store_folder_open(f, name, 0, &s, NULL);

	assert_int_equal(r, want ? 0 : -ENOENT);
	if (!want)
		return;
	assert_int_equal(store_size(s, &size), 0);
	assert_int_equal(size, strlen(want));
	assert_int_equal(store_read(s, got, size, 0), 0);
	for (size_t i = 0; i < size; i++)
		assert_int_equal(got[i], want[i] == '_' ? '\0' : want[i]);
	store_close(s);
}

static bool choose(void *arg, size_t index, const struct log_event *e, enum log_choice *ret_how, uint64_t *ret_k)
{
	const char **keep = arg;
	char c = *(*keep)++;

	assert_true(c != '\0');
	if (c == 'r') {
		*ret_how = LOG_TORN_REST;
		*ret_k = (uint64_t)(*(*keep)++ - '0');
	} else if (c >= '0' && c <= '9') {
		*ret_how = LOG_TORN;
		*ret_k = (uint64_t)(c - '0');
	}
	return c != '.';
}

static void power_cut(void **state)
{
	const struct cut *row = *state;
	const char *keep = row->keep;
	struct store_folder *f;
	struct scene c;

	scene_init(&c);
	row->work(&c);
	f = log_crash(c.log, log_seq(c.log), choose, &keep);
	assert_int_equal(*keep, '\0');
	expect(f, "a", row->want_a);
	expect(f, "b", row->want_b);
	store_folder_close(f);
	scene_fini(&c);
}

/* Before a sync has completed nothing is promised; from its end on everything it covers. Marks keep their place. */
static void sync_is_an_interval(void **state)
{
	size_t pending[8];
	struct scene c;
	size_t sync;

	scene_init(&c);
	overwrite(&c);
	store_sync(c.s);
	log_mark(c.log, 77);
	for (sync = 0; log_event(c.log, sync)->kind != LOG_SYNC; sync++)
		;
	assert_int_equal(log_pending(c.log, log_event(c.log, sync)->begin, 0, pending, 8), 2);
	assert_int_equal(log_pending(c.log, log_event(c.log, sync)->end, 0, pending, 8), 0);
	assert_int_equal(log_event(c.log, sync + 1)->kind, LOG_MARK);
	assert_int_equal(log_event(c.log, sync + 1)->value, 77);
	assert_true(log_event(c.log, sync + 1)->begin > log_event(c.log, sync)->end);
	scene_fini(&c);
}

/* A write that fell into the time of a sync is not covered by it. The sync of the inner store writes by itself. */
static struct scene *meddler;

static int meddling_sync(struct store *s)
{
	return store_write(meddler->s, "9", 1, 9);
}

static void write_during_sync(void **state)
{
	struct store_ops ops;
	struct store *inner;
	size_t pending[8];
	struct scene c;

	scene_init(&c);
	/* The wrapped store stands right behind the common part; give it a sync that takes its time. */
	inner = *(struct store **)(c.s + 1);
	ops = *inner->ops;
	ops.sync = meddling_sync;
	inner->ops = &ops;
	meddler = &c;
	store_write(c.s, "1", 1, 0);
	assert_int_equal(store_sync(c.s), 0);
	assert_int_equal(log_pending(c.log, log_seq(c.log), 0, pending, 8), 1);
	assert_int_equal(log_event(c.log, pending[0])->offset, 9);
	scene_fini(&c);
}

/* Following step by step gives at every cut the same bytes as starting over. */
static void following(void **state)
{
	struct rng rng;
	struct scene c;
	struct log_state *s;
	char word[8];

	rng_init(&rng, test_seed("store_log"));
	scene_init(&c);
	for (int i = 0; i < 200; i++) {
		rng_fill(&rng, word, sizeof(word));
		if (rng_chance(&rng, 1, 5))
			store_sync(c.s);
		else if (rng_chance(&rng, 1, 6))
			store_resize(c.s, rng_below(&rng, 30));
		else
			store_write(c.s, word, rng_between(&rng, 1, 8), rng_below(&rng, 30));
	}
	s = log_state_initial(c.log);
	for (uint64_t seq = 0; seq <= log_seq(c.log); seq++) {
		struct store_folder *one, *two = log_crash(c.log, seq, NULL, NULL);
		uint64_t size_one, size_two;
		struct store *a, *b;
		char got[2][64] = { { 0 } };

		log_state_follow(s, seq);
		one = log_state_folder(s);
		assert_int_equal(store_folder_open(one, "a", 0, &a, NULL), 0);
		assert_int_equal(store_folder_open(two, "a", 0, &b, NULL), 0);
		store_size(a, &size_one);
		store_size(b, &size_two);
		assert_int_equal(size_one, size_two);
		assert_int_equal(store_read(a, got[0], size_one, 0), 0);
		assert_int_equal(store_read(b, got[1], size_two, 0), 0);
		assert_memory_equal(got[0], got[1], sizeof(got[0]));
		store_close(a);
		store_close(b);
		store_folder_close(one);
		store_folder_close(two);
	}
	log_state_free(s);
	scene_fini(&c);
}

/* Everything kept is what the running system sees. */
static bool keep_all(void *arg, size_t index, const struct log_event *e, enum log_choice *ret_how, uint64_t *ret_k)
{
	return true;
}

static void nothing_lost(void **state)
{
	struct store_folder *f;
	char live[64], got[64];
	struct scene c;
	struct store *a;
	struct rng rng;
	uint64_t size;

	rng_init(&rng, test_seed("store_log"));
	scene_init(&c);
	for (int i = 0; i < 300; i++) {
		rng_fill(&rng, live, 8);
		if (rng_chance(&rng, 1, 4))
			store_resize(c.s, rng_below(&rng, 60));
		else if (rng_chance(&rng, 1, 4))
			store_punch(c.s, rng_below(&rng, 60), rng_between(&rng, 1, 20));
		else
			store_write(c.s, live, rng_between(&rng, 1, 8), rng_below(&rng, 52));
		f = log_crash(c.log, log_seq(c.log), keep_all, NULL);
		assert_int_equal(store_folder_open(f, "a", 0, &a, NULL), 0);
		assert_int_equal(store_size(a, &size), 0);
		memset(live, 0, sizeof(live));
		memset(got, 0, sizeof(got));
		assert_int_equal(store_read(c.s, live, size, 0), 0);
		assert_int_equal(store_read(a, got, size, 0), 0);
		assert_memory_equal(live, got, sizeof(got));
		store_close(a);
		store_folder_close(f);
	}
	scene_fini(&c);
}

/* What a state of a 10 MiB image costs, for the record: the simulator is planned with 3,000 a second. */
static void speed(void **state)
{
	static uint8_t block[65536];
	struct store_folder *f;
	struct timespec a, b;
	struct log_state *base, *s;
	size_t pending[16], n, first;
	struct scene c;
	double seconds;

	scene_init(&c);
	store_resize(c.s, SP_MIB(10));
	for (unsigned i = 0; i < 10; i++)
		store_write(c.s, block, sizeof(block), i * SP_MIB(1));
	store_sync(c.s);
	for (unsigned i = 0; i < 10; i++)
		store_write(c.s, block, 4096, i * SP_MIB(1));
	base = log_state_initial(c.log);
	first = log_state_follow(base, log_seq(c.log));
	n = log_pending(c.log, log_seq(c.log), first, pending, 16);
	assert_int_equal(n, 10);
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (unsigned set = 0; set < 1024; set++) {
		s = log_state_clone(base);
		for (size_t i = 0; i < n; i++) {
			if (set >> i & 1)
				log_state_apply(s, pending[i], LOG_WHOLE, 0);
		}
		f = log_state_folder(s);
		store_folder_close(f);
		log_state_free(s);
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	seconds = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
	print_message("# %.0f states a second\n", 1024 / seconds);
	log_state_free(base);
	scene_fini(&c);
}

/* ---- faults --------------------------------------------------------------------------------------- */

static int workload(struct store_folder *f)
{
	char buf[8] = "abcdefg";
	struct store *s;
	int r = store_folder_open(f, "x", STORE_CREATE | STORE_RDWR, &s, NULL);

	if (r < 0)
		return r;
	r = store_write(s, buf, 8, 0);
	r = r < 0 ? r : store_read(s, buf, 8, 0);
	r = r < 0 ? r : store_punch(s, 0, 2);
	r = r < 0 ? r : store_zero(s, 0, 2);
	r = r < 0 ? r : store_resize(s, 100);
	r = r < 0 ? r : store_sync(s);
	store_close(s);
	r = r < 0 ? r : store_folder_rename(f, "x", "y", false);
	r = r < 0 ? r : store_folder_sync(f, "y");
	return r < 0 ? r : store_folder_unlink(f, "y");
}

static const struct fault_row {
	const char *name;
	unsigned classes;
	bool sticky;
	uint64_t want_sites;
} fault_rows[] = {
	{ "every operation once", FAULT_ALL, false, 10 },
	{ "sticky", FAULT_ALL, true, 10 },
	{ "reads", FAULT_READ, false, 1 },
	{ "names", FAULT_NAMES, false, 3 },
	{ "all but names and opening", FAULT_ALL & ~(FAULT_NAMES | FAULT_OPEN), false, 6 },
};

static void each_site_fails(void **state)
{
	const struct fault_row *row = *state;
	uint64_t k = 1;

	for (;; k++) {
		struct fault_plan plan = { 0 };
		struct store_folder *mem, *f;
		int r;

		fault_plan_set(&plan, row->classes, k, -EIO, row->sticky, false);
		assert_int_equal(store_folder_mem(&mem), 0);
		assert_int_equal(store_folder_fault_new(mem, &plan, &f), 0);
		r = workload(f);
		store_folder_close(f);
		if (plan.hits == 0) {
			assert_int_equal(r, 0);
			break;
		}
		assert_int_equal(r, -EIO);
	}
	assert_int_equal(k - 1, row->want_sites);
}

static void halves(void **state)
{
	struct fault_plan plan = { 0 };
	struct store *mem, *s;
	char buf[9] = "abcdefgh";

	assert_int_equal(store_mem_new("m", 8, 0, &mem), 0);
	assert_int_equal(store_fault_new(mem, &plan, &s), 0);
	fault_plan_set(&plan, FAULT_WRITE, 2, -ENOSPC, true, true);
	assert_int_equal(store_write(s, "AAAAAAAA", 8, 0), 0);
	assert_int_equal(store_write(s, "BBBBBBBB", 8, 0), -ENOSPC);
	assert_int_equal(store_write(s, "CC", 2, 6), -ENOSPC);
	plan.enabled = false;
	assert_int_equal(store_read(s, buf, 8, 0), 0);
	assert_string_equal(buf, "BBBBAACA");
	assert_int_equal(plan.hits, 2);
	store_close(s);
}

/* ---- chance --------------------------------------------------------------------------------------- */

static void repeatable(void **state)
{
	struct sp_guid one, two;
	struct test_env env;
	struct rng a, b;
	int64_t time_one;

	rng_init(&a, 42);
	rng_init(&b, 42);
	for (int i = 0; i < 100; i++)
		assert_true(rng_u64(&a) == rng_u64(&b));
	for (int i = 0; i < 1000; i++) {
		assert_in_range(rng_between(&a, 5, 9), 5, 9);
		assert_true(rng_below(&a, 3) < 3);
	}
	test_env_install(&env, 7);
	time_one = sp_env_time();
	assert_true(sp_env_time() > time_one);
	sp_env_guid(&one);
	test_env_remove(&env);
	test_env_install(&env, 7);
	assert_true(sp_env_time() == time_one);
	sp_env_guid(&two);
	assert_true(sp_guid_equal(&one, &two));
	sp_env_guid(&two);
	assert_false(sp_guid_equal(&one, &two));
	test_env_remove(&env);
}

int main(void)
{
	const struct CMUnitTest others[] = {
		cmocka_unit_test(sync_is_an_interval), cmocka_unit_test(write_during_sync), cmocka_unit_test(following),
		cmocka_unit_test(nothing_lost), cmocka_unit_test(speed), cmocka_unit_test(halves),
		cmocka_unit_test(repeatable),
	};
	int failed = ROWS_RUN(cuts, power_cut);

	failed += ROWS_RUN(fault_rows, each_site_fails);
	return failed + cmocka_run_group_tests(others, NULL, NULL);
}
