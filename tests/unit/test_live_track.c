/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Change tracking and live snapshots of one disk together: a point is the cut, the record follows the disk from leaf to
 * leaf, and the answer stays exact over snapshots, merges and opening again.
 */
#include "tests/unit/chain_fixture.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vhd/live.h"
#include "vhd/track.h"

#define SIZE   SP_MIB(32)
#define UNIT   SP_KIB(64)
#define BLOCKS (SIZE / UNIT)

/* ---- one disk, one hand ---------------------------------------------------------------------------- */

static void write_block(struct vhd_disk *d, unsigned block, uint8_t byte)
{
	uint8_t buf[512];

	memset(buf, byte, sizeof(buf));
	assert_int_equal(vhd_disk_write(d, buf, sizeof(buf), block * UNIT + 4096), 0);
}

static int note(void *user, uint64_t offset, uint64_t len)
{
	for (uint64_t b = offset / UNIT; b < sp_div_ceil(offset + len, UNIT); b++)
		((bool *)user)[b] = true;
	return 0;
}

/* Exactly the blocks of @list, ended by -1. */
static void expect(struct vhd_disk *d, const char *since, const char *until, const int *list)
{
	bool got[BLOCKS] = { false }, want[BLOCKS] = { false };
	struct vhd_track_answer a;
	struct sp_err err = { 0 };

	must(vhd_track_changes(d, since, until, note, got, &a, &err), &err);
	if (a.why != VHD_TRACK_EXACT)
		fail_msg("since %s: everything: %s", since, a.reason);
	for (; *list >= 0; list++)
		want[*list] = true;
	for (unsigned b = 0; b < BLOCKS; b++)
		if (got[b] != want[b])
			fail_msg("since %s: block %u is %s", since, b, want[b] ? "missing" : "too much");
}

#define expect_blocks(d, since, until, ...) expect(d, since, until, (const int[]){ __VA_ARGS__, -1 })

static void snapshot(struct vhd_disk *d, const char *name, const char *point)
{
	const struct vhd_live_opts o = { .name = name, .track_point = point };
	struct vhd_live_set *set;
	struct sp_err err = { 0 };

	must(vhd_live_prepare(&d, 1, &o, &set, &err), &err);
	must(vhd_live_commit(set, false, NULL, &err), &err);
	assert_int_equal(vhd_live_point(set, 0), point ? 0 : -ENOENT);
	must(vhd_live_finish(set, NULL, &err), &err);
}

static void merge(struct vhd_disk *d, const char *name)
{
	struct sp_err err = { 0 };

	must(vhd_live_merge(d, name, NULL, NULL, NULL, &err), &err);
}

static struct vhd_disk *reopen(struct store_folder *f, struct vhd_disk *d, bool crash)
{
	struct sp_err err = { 0 };

	if (crash)
		vhd_disk_abandon(d);
	else
		must(vhd_disk_close(d, &err), &err);
	d = open_rw(f, "a.vhdx");
	must(vhd_disk_track(d, false, &err), &err);
	return d;
}

static struct vhd_disk *tracked_disk(struct store_folder *f)
{
	struct vhd_disk *d;
	struct sp_err err = { 0 };

	make_base(f, "a.vhdx", VHD_FORMAT_VHDX, SIZE, SP_MIB(1), 512);
	d = open_rw(f, "a.vhdx");
	must(vhd_disk_track(d, true, &err), &err);
	return d;
}

static void end(struct store_folder *f, struct vhd_disk *d)
{
	vhd_disk_close(d, NULL);
	store_folder_close(f);
}

static void test_follows(void **state)
{
	struct store_folder *f = folder_new();
	struct vhd_disk *d = tracked_disk(f);

	write_block(d, 1, 1);
	snapshot(d, "one", "p1");
	write_block(d, 2, 2);
	expect_blocks(d, "p1", NULL, 2);
	d = reopen(f, d, false);
	write_block(d, 3, 3);
	expect_blocks(d, "p1", NULL, 2, 3);
	merge(d, "one");
	expect_blocks(d, "p1", NULL, 2, 3);
	write_block(d, 4, 4);
	snapshot(d, "two", "p2");
	write_block(d, 5, 5);
	expect_blocks(d, "p1", "p2", 2, 3, 4);
	expect_blocks(d, "p2", NULL, 5);
	merge(d, "two");
	d = reopen(f, d, false);
	expect_blocks(d, "p1", NULL, 2, 3, 4, 5);
	expect_blocks(d, "p2", NULL, 5);
	end(f, d);
}

/* After a crash nothing is missing; here even nothing is too much beyond what is in doubt, the whole small disk. */
static void test_crash(void **state)
{
	struct store_folder *f = folder_new();
	struct vhd_disk *d = tracked_disk(f);
	bool got[BLOCKS] = { false };
	struct vhd_track_answer a;

	snapshot(d, "one", "p1");
	write_block(d, 7, 7);
	assert_int_equal(vhd_disk_flush(d), 0);
	d = reopen(f, d, true);
	assert_int_equal(vhd_track_changes(d, "p1", NULL, note, got, &a, NULL), 0);
	assert_true(got[7]);
	end(f, d);
}

static void test_no_point_without_tracking(void **state)
{
	struct store_folder *f = folder_new();
	const struct vhd_live_opts o = { .name = "one", .track_point = "p1" };
	struct vhd_live_set *set;
	struct vhd_disk *d;
	struct sp_err err = { 0 };

	make_base(f, "a.vhdx", VHD_FORMAT_VHDX, SIZE, SP_MIB(1), 512);
	d = open_rw(f, "a.vhdx");
	must(vhd_live_prepare(&d, 1, &o, &set, &err), &err);
	must(vhd_live_commit(set, false, NULL, &err), &err);
	assert_int_equal(vhd_live_point(set, 0), -ENOENT);
	must(vhd_live_finish(set, NULL, &err), &err);
	end(f, d);
}

/* ---- under load: what the snapshots differ in is in the answer ---------------------------------------- */

#define WRITERS 4

struct load {
	struct vhd_disk *disk;
	unsigned index;
	atomic_bool stop;
	pthread_t thread;
};

/* One block after the other: what is forgotten in one round is not written in the next by chance. */
static void *work(void *arg)
{
	struct load *l = arg;
	uint8_t buf[512] = { 0 };

	for (uint32_t n = 1; !atomic_load(&l->stop); n++) {
		memcpy(buf, &n, sizeof(n));
		if (vhd_disk_write(l->disk, buf, sizeof(buf), (n * WRITERS + l->index) % BLOCKS * UNIT) != 0)
			abort();
		usleep(200);
	}
	return NULL;
}

static void read_snapshot(struct store_folder *f, const char *name, uint8_t *ret)
{
	struct vhd_open_opts o = { 0 };
	struct sp_err err = { 0 };
	struct vhd_disk *d;

	must(vhd_disk_open_in(f, name, &o, &d, &err), &err);
	assert_int_equal(vhd_disk_read(d, ret, SIZE, 0), 0);
	vhd_disk_close(d, NULL);
}

static void compare_rounds(struct store_folder *f, struct vhd_disk *d, uint8_t *before, uint8_t *after)
{
	char name[16], file[32], point[16], older[16];

	for (unsigned i = 0; i < 40; i++) {
		bool got[BLOCKS] = { false };
		struct vhd_track_answer a;
		uint8_t *swap = before;

		snprintf(name, sizeof(name), "s%u", i);
		snprintf(file, sizeof(file), "a.s%u.vhdx", i);
		snprintf(point, sizeof(point), "p%u", i);
		snprintf(older, sizeof(older), "p%u", i - 1);
		snapshot(d, name, point);
		before = after;
		after = swap;
		read_snapshot(f, file, after);
		if (i > 0) {
			assert_int_equal(vhd_track_changes(d, older, point, note, got, &a, NULL), 0);
			assert_int_equal(a.why, VHD_TRACK_EXACT);
		}
		for (unsigned b = 0; i > 0 && b < BLOCKS; b++)
			if (!got[b] && memcmp(before + b * UNIT, after + b * UNIT, UNIT) != 0)
				fail_msg("round %u: block %u differs, and is not in the answer", i, b);
		merge(d, name);
	}
}

static void test_under_load(void **state)
{
	struct store_folder *f = folder_new();
	struct vhd_disk *d = tracked_disk(f);
	struct load l[WRITERS] = { 0 };
	uint8_t *before = malloc(SIZE), *after = malloc(SIZE);

	assert_non_null(before);
	assert_non_null(after);
	for (unsigned i = 0; i < WRITERS; i++) {
		l[i].disk = d;
		l[i].index = i;
		assert_int_equal(pthread_create(&l[i].thread, NULL, work, &l[i]), 0);
	}
	compare_rounds(f, d, before, after);
	for (unsigned i = 0; i < WRITERS; i++) {
		atomic_store(&l[i].stop, true);
		pthread_join(l[i].thread, NULL);
	}
	free(before);
	free(after);
	end(f, d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_follows),
		cmocka_unit_test(test_crash),
		cmocka_unit_test(test_no_point_without_tracking),
		cmocka_unit_test(test_under_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
