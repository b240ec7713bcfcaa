/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Snapshots of disks in use: sets of one to three disks under self-verifying load, merges of snapshots at every depth,
 * recovery of what was interrupted, and failing I/O.
 */
#include "tests/unit/chain_fixture.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/support/store_fault.h"
#include "vhd/live_int.h"

#define SIZE SP_MIB(16)
#define CELL 4096u
#define CELLS (SIZE / CELL)
#define DISKS_MAX 3

/* ---- writers that know what they wrote ----------------------------------------------------------- */

struct load {
	struct vhd_disk *disk;
	unsigned index;
	uint32_t stamp[CELLS];		/* written last, acknowledged */
	atomic_bool stop;
	_Atomic unsigned long written;
	pthread_t thread;
};

static void fill(uint8_t *buf, unsigned index, unsigned cell, uint32_t stamp)
{
	uint32_t words[3] = { index, cell, stamp };

	memset(buf, 0, CELL);
	if (stamp == 0)
		return;
	memcpy(buf, words, sizeof(words));
	memcpy(buf + CELL - sizeof(words), words, sizeof(words));
}

static void complete(struct vhd_req *req, int res)
{
	*(int *)req->user = res;
}

static int by_queue(struct vhd_queue *q, enum vhd_req_op op, uint8_t *buf, uint64_t offset)
{
	struct iovec iov = { buf, CELL };
	int res = 1;
	struct vhd_req req = {
		.op = op, .offset = offset, .len = CELL, .iov = &iov, .iovcnt = 1, .buf_index = -1,
		.complete = complete, .user = &res,
	};

	vhd_queue_submit(q, &req);
	while (res == 1)
		if (vhd_queue_wait(q, 1) < 0)
			abort();
	return res;
}

static void check_cell(struct load *l, struct vhd_queue *q, unsigned cell)
{
	uint8_t got[CELL], want[CELL];

	fill(want, l->index, cell, l->stamp[cell]);
	if (by_queue(q, VHD_REQ_READ, got, (uint64_t)cell * CELL) != 0 || memcmp(got, want, CELL) != 0) {
		uint32_t words[3];

		memcpy(words, got, sizeof(words));
		fprintf(stderr, "disk %u cell %u: stamp %u instead of %u\n", l->index, cell, words[2], l->stamp[cell]);
		abort();
	}
}

static void *work(void *arg)
{
	struct load *l = arg;
	struct vhd_queue *q;
	uint8_t buf[CELL];
	uint32_t seed = l->index * 7919 + 1;

	if (vhd_queue_new(l->disk, NULL, &q, NULL) < 0)
		abort();
	for (uint32_t n = 1; !atomic_load(&l->stop); n++) {
		unsigned cell;

		seed = seed * 1664525 + 1013904223;
		cell = (seed >> 8) % CELLS;
		if (n % 3 == 0) {
			check_cell(l, q, cell);
			continue;
		}
		fill(buf, l->index, cell, n);
		if (by_queue(q, VHD_REQ_WRITE, buf, (uint64_t)cell * CELL) != 0)
			abort();
		l->stamp[cell] = n;
		atomic_fetch_add(&l->written, 1);
		if (n % 64 == 0 && vhd_disk_flush(l->disk) != 0)
			abort();
	}
	vhd_queue_free(q);
	return NULL;
}

static void load_start(struct load *l, struct vhd_disk *d, unsigned index)
{
	*l = (struct load){ .disk = d, .index = index };
	assert_int_equal(pthread_create(&l->thread, NULL, work, l), 0);
}

static void load_some_more(struct load *l)
{
	unsigned long goal = atomic_load(&l->written) + 100;

	while (atomic_load(&l->written) < goal)
		sched_yield();
}

static void load_stop(struct load *l)
{
	atomic_store(&l->stop, true);
	pthread_join(l->thread, NULL);
}

static void load_verify(struct load *l, struct vhd_disk *d)
{
	uint8_t got[CELL], want[CELL];

	for (unsigned cell = 0; cell < CELLS; cell++) {
		fill(want, l->index, cell, l->stamp[cell]);
		assert_int_equal(vhd_disk_read(d, got, CELL, (uint64_t)cell * CELL), 0);
		if (memcmp(got, want, CELL) != 0)
			fail_msg("disk %u, cell %u differs", l->index, cell);
	}
}

/* ---- disks --------------------------------------------------------------------------------------- */

static const char *const names[DISKS_MAX] = { "a/disk.vhdx", "b/disk.vhdx", "b/other.vhdx" };

struct row {
	const char *name;
	enum vhd_format_id format;
	unsigned disks;
};

struct rig {
	struct store_folder *folder;
	struct vhd_disk *disk[DISKS_MAX];
	unsigned disks;
};

static void rig_open(struct rig *g)
{
	for (unsigned i = 0; i < g->disks; i++)
		g->disk[i] = open_rw(g->folder, names[i]);
}

static void rig_new(struct rig *g, const struct row *row)
{
	*g = (struct rig){ .folder = folder_new(), .disks = row->disks };
	for (unsigned i = 0; i < g->disks; i++)
		make_base(g->folder, names[i], row->format, SIZE, 2u << 20, 512);
	rig_open(g);
}

static void rig_close(struct rig *g)
{
	struct sp_err err = { 0 };

	for (unsigned i = 0; i < g->disks; i++)
		must(vhd_disk_close(g->disk[i], &err), &err);
}

static enum vhd_live_outcome rig_recover(struct rig *g)
{
	struct vhd_live_place place[DISKS_MAX];
	enum vhd_live_outcome outcome;
	struct sp_err err = { 0 };

	for (unsigned i = 0; i < g->disks; i++)
		place[i] = (struct vhd_live_place){ g->folder, names[g->disks - 1 - i] };
	must(vhd_live_recover(place, g->disks, &outcome, &err), &err);
	return outcome;
}

static bool is_there(struct store_folder *f, const char *name)
{
	struct store *s;

	if (store_folder_open(f, name, 0, &s, NULL) < 0)
		return false;
	store_close(s);
	return true;
}

static int try_snapshot(struct rig *g, const char *name, const char *level, struct sp_err *err)
{
	struct vhd_live_opts o = { .name = name };
	struct vhd_live_timing t;
	struct vhd_live_set *set;
	int r = vhd_live_prepare(g->disk, g->disks, &o, &set, err);

	if (r < 0)
		return r;
	r = vhd_live_commit(set, false, &t, err);
	if (r < 0) {
		vhd_live_abort(set);
		return r;
	}
	assert_true(t.pause_ns >= t.drain_ns);
	return vhd_live_finish(set, level, err);
}

static void snapshot(struct rig *g, const char *name)
{
	struct sp_err err = { 0 };

	must(try_snapshot(g, name, "file-system", &err), &err);
}

static void merge(struct vhd_disk *d, const char *name, uint64_t small)
{
	struct vhd_live_merge_opts o = { .small = small };
	struct vhd_live_merge_result result;
	struct sp_err err = { 0 };

	must(vhd_live_merge(d, name, &o, NULL, &result, &err), &err);
}

static struct vhd_disk *open_file(struct store_folder *f, const char *name)
{
	struct sp_err err = { 0 };
	struct vhd_disk *d;

	must(vhd_disk_open_in(f, name, NULL, &d, &err), &err);
	return d;
}

/* ---- sets ---------------------------------------------------------------------------------------- */

static void set_under_load(void **state)
{
	const struct row *row = *state;
	struct load *l = calloc(DISKS_MAX, sizeof(*l));
	struct rig g;

	rig_new(&g, row);
	for (unsigned i = 0; i < g.disks; i++)
		load_start(&l[i], g.disk[i], i);
	for (unsigned n = 0; n < 4; n++) {
		char name[16];

		snprintf(name, sizeof(name), "s%u", n);
		load_some_more(&l[0]);
		snapshot(&g, name);
	}
	for (unsigned i = 0; i < g.disks; i++)
		load_stop(&l[i]);
	rig_close(&g);
	assert_int_equal(rig_recover(&g), VHD_LIVE_NOTHING);
	rig_open(&g);
	for (unsigned i = 0; i < g.disks; i++) {
		assert_int_equal(vhd_disk_layers(g.disk[i]), 5);
		load_verify(&l[i], g.disk[i]);
	}
	rig_close(&g);
	store_folder_close(g.folder);
	free(l);
}

/* One thread writes n to the disks in turn; what a snapshot holds must be a state that there was. */
struct turns {
	struct rig *g;
	atomic_bool stop;
	_Atomic uint64_t n;
};

static void *take_turns(void *arg)
{
	struct turns *t = arg;

	for (uint64_t n = 1; !atomic_load(&t->stop); n++) {
		for (unsigned i = 0; i < t->g->disks; i++)
			if (vhd_disk_write(t->g->disk[i], &n, sizeof(n), 512) != 0)
				abort();
		atomic_store(&t->n, n);
	}
	return NULL;
}

static void one_instant(void **state)
{
	const struct row *row = *state;
	struct rig g;
	struct turns t = { .g = &g };
	pthread_t thread;

	rig_new(&g, row);
	assert_int_equal(pthread_create(&thread, NULL, take_turns, &t), 0);
	for (unsigned n = 0; n < 6; n++) {
		uint64_t goal = atomic_load(&t.n) + 20, before = UINT64_MAX, first = 0, value;
		char name[16], file[64];

		while (atomic_load(&t.n) < goal)
			sched_yield();
		snprintf(name, sizeof(name), "s%u", n);
		snapshot(&g, name);
		for (unsigned i = 0; i < g.disks; i++) {
			struct vhd_disk *d;

			snprintf(file, sizeof(file), "%.*s.%s.vhdx", (int)strlen(names[i]) - 5, names[i], name);
			d = open_file(g.folder, file);
			assert_int_equal(vhd_disk_read(d, &value, sizeof(value), 512), 0);
			vhd_disk_close(d, NULL);
			first = i == 0 ? value : first;
			assert_true(value <= before);			/* later disks are written later */
			assert_true(value + 1 >= first);
			before = value;
		}
	}
	atomic_store(&t.stop, true);
	pthread_join(thread, NULL);
	rig_close(&g);
	store_folder_close(g.folder);
}

static void aborted(void **state)
{
	const struct row *row = *state;
	struct vhd_live_opts o = { .name = "x" };
	struct vhd_live_set *set;
	struct sp_err err = { 0 };
	struct rig g;

	rig_new(&g, row);
	must(vhd_live_prepare(g.disk, g.disks, &o, &set, &err), &err);
	assert_true(is_there(g.folder, "a/disk.x.vhdx"));
	assert_true(is_there(g.folder, "a/disk.vhdx.live-prepared"));
	assert_int_equal(vhd_live_merge(g.disk[0], "x", NULL, NULL, NULL, &err), -EBUSY);
	vhd_live_abort(set);
	assert_false(is_there(g.folder, "a/disk.x.vhdx"));
	assert_false(is_there(g.folder, "a/disk.vhdx.live-prepared"));
	write_byte(g.disk[0], 0, 512, 7);
	snapshot(&g, "x");		/* nothing is in the way */
	expect_byte(g.disk[0], 0, 512, 7);
	rig_close(&g);
	store_folder_close(g.folder);
}

static void abandon(struct rig *g)
{
	for (unsigned i = 0; i < g->disks; i++)
		vhd_disk_abandon(g->disk[i]);
}

/* Killed between prepare and commit: as if it had never been asked for. */
static void killed_prepared(void **state)
{
	const struct row *row = *state;
	struct vhd_live_opts o = { .name = "x" };
	struct vhd_live_set *set;
	struct sp_err err = { 0 };
	struct rig g;

	rig_new(&g, row);
	write_byte(g.disk[0], 0, 512, 7);
	assert_int_equal(vhd_disk_flush(g.disk[0]), 0);
	must(vhd_live_prepare(g.disk, g.disks, &o, &set, &err), &err);
	live_set_abandon(set);
	abandon(&g);
	assert_int_equal(rig_recover(&g), VHD_LIVE_DROPPED);
	assert_int_equal(rig_recover(&g), VHD_LIVE_NOTHING);
	rig_open(&g);
	assert_int_equal(vhd_disk_layers(g.disk[0]), 1);
	expect_byte(g.disk[0], 0, 512, 7);
	assert_false(is_there(g.folder, "a/disk.x.vhdx"));
	rig_close(&g);
	store_folder_close(g.folder);
}

/* Killed after the commit: the new leaves are in use, and what was flushed to them is there. */
static void killed_committed(void **state)
{
	const struct row *row = *state;
	struct vhd_live_opts o = { .name = "x" };
	struct vhd_live_set *set;
	struct sp_err err = { 0 };
	struct rig g;

	rig_new(&g, row);
	write_byte(g.disk[0], 0, 512, 7);
	must(vhd_live_prepare(g.disk, g.disks, &o, &set, &err), &err);
	must(vhd_live_commit(set, false, NULL, &err), &err);
	for (unsigned i = 0; i < g.disks; i++) {
		write_byte(g.disk[i], 4096, 512, 9);
		assert_int_equal(vhd_disk_flush(g.disk[i]), 0);
	}
	live_set_abandon(set);
	abandon(&g);
	assert_int_equal(rig_recover(&g), VHD_LIVE_COMPLETED);
	assert_int_equal(rig_recover(&g), VHD_LIVE_NOTHING);
	rig_open(&g);
	for (unsigned i = 0; i < g.disks; i++) {
		assert_int_equal(vhd_disk_layers(g.disk[i]), 2);
		expect_byte(g.disk[i], 4096, 512, 9);
	}
	expect_byte(g.disk[0], 0, 512, 7);
	rig_close(&g);
	store_folder_close(g.folder);
}

static void refused(void **state)
{
	struct store_folder *f = folder_new();
	struct vhd_live_opts o = { .name = "x" };
	struct vhd_live_set *set;
	struct vhd_disk *d;
	struct sp_err err = { 0 };

	(void)state;
	make_base(f, "raw", VHD_FORMAT_RAW, SIZE, 0, 512);
	make_base(f, "x.vhdx", VHD_FORMAT_VHDX, SIZE, 0, 512);
	d = open_rw(f, "raw");
	assert_int_equal(vhd_live_prepare(&d, 1, &o, &set, &err), -ENOTSUP);
	assert_int_equal(vhd_live_merge(d, "x", NULL, NULL, NULL, &err), -ENOENT);
	must(vhd_disk_close(d, &err), &err);
	d = open_rw(f, "x.vhdx");
	o.name = "a/b";
	assert_int_equal(vhd_live_prepare(&d, 1, &o, &set, &err), -EINVAL);
	o.name = "x~merge1";
	assert_int_equal(vhd_live_prepare(&d, 1, &o, &set, &err), -EINVAL);
	o.name = "ok";
	assert_int_equal(vhd_live_prepare(&d, 0, &o, &set, &err), -EINVAL);
	struct vhd_disk *twice[] = { d, d };

	assert_int_equal(vhd_live_prepare(twice, 2, &o, &set, &err), -EBUSY);
	must(vhd_live_prepare(&d, 1, &o, &set, &err), &err);
	must(vhd_live_commit(set, false, NULL, &err), &err);
	must(vhd_live_finish(set, NULL, &err), &err);
	assert_int_equal(vhd_live_prepare(&d, 1, &o, &set, &err), -EEXIST);
	assert_int_equal(vhd_live_merge(d, "none", NULL, NULL, NULL, &err), -ENOENT);
	must(vhd_disk_close(d, &err), &err);
	must(vhd_disk_open_in(f, "x.vhdx", NULL, &d, &err), &err);
	o.name = "more";
	assert_int_equal(vhd_live_prepare(&d, 1, &o, &set, &err), -EROFS);
	assert_int_equal(vhd_live_merge(d, "ok", NULL, NULL, NULL, &err), -EROFS);
	must(vhd_disk_close(d, &err), &err);
	store_folder_close(f);
}

static void listed(void **state)
{
	const struct row *row = *state;
	struct vhd_live_snapshot *list;
	struct vhd_snapshot *plain;
	struct sp_err err = { 0 };
	struct rig g;
	size_t n;

	rig_new(&g, row);
	snapshot(&g, "one");
	snapshot(&g, "two");
	must(vhd_live_list(g.disk[0], &list, &n, &err), &err);
	assert_int_equal(n, 2);
	assert_string_equal(list[0].name, "two");
	assert_string_equal(list[0].parent, "one");
	assert_string_equal(list[0].level, "file-system");
	assert_false(sp_guid_is_zero(&list[0].set));
	assert_true(list[0].time > 1600000000);
	assert_string_equal(list[1].parent, "");
	assert_int_equal(list[1].depth, 2);
	vhd_live_list_free(list);
	rig_close(&g);
	must(vhd_snapshot_list_in(g.folder, names[0], &plain, &n, &err), &err);
	assert_int_equal(n, 2);
	assert_string_equal(plain[1].name, "one");
	vhd_snapshot_list_free(plain);
	must(vhd_snapshot_delete_in(g.folder, names[0], "one", false, NULL, &err), &err);
	assert_false(is_there(g.folder, "a/disk.one.vhdx.json"));
	must(vhd_live_list_in(g.folder, names[0], &list, &n, &err), &err);
	assert_int_equal(n, 1);
	vhd_live_list_free(list);
	store_folder_close(g.folder);
}

/* ---- merges -------------------------------------------------------------------------------------- */

/* Snapshots come and go in every order while the disk is written to. */
static void merge_under_load(void **state)
{
	const struct row *row = *state;
	bool vhdx = row->format == VHD_FORMAT_VHDX;
	struct load *l = calloc(1, sizeof(*l));
	struct rig g;

	rig_new(&g, row);
	load_start(l, g.disk[0], 0);
	for (unsigned round = 0; round < 2; round++) {
		static const char *const all[] = { "one", "two", "three" };

		for (unsigned i = 0; i < SP_ARRAY_SIZE(all); i++) {
			load_some_more(l);
			snapshot(&g, all[i]);
		}
		load_some_more(l);
		if (vhdx) {
			merge(g.disk[0], round ? "two" : "one", 0);	/* in the middle */
			load_some_more(l);
		}
		merge(g.disk[0], "three", round ? 1 << 20 : 0);	/* below the leaf */
		load_some_more(l);
		if (!vhdx || !round)
			merge(g.disk[0], "two", 1 << 20);
		if (!vhdx || round)
			merge(g.disk[0], "one", 1 << 20);
		assert_int_equal(vhd_disk_layers(g.disk[0]), 1);
	}
	load_some_more(l);
	load_stop(l);
	load_verify(l, g.disk[0]);
	rig_close(&g);
	assert_false(is_there(g.folder, "a/disk.one.vhdx"));
	assert_false(is_there(g.folder, "a/disk.one.vhdx.json"));
	assert_false(is_there(g.folder, "a/disk.three~merge1.vhdx"));
	rig_open(&g);
	assert_int_equal(vhd_disk_layers(g.disk[0]), 1);
	load_verify(l, g.disk[0]);
	rig_close(&g);
	store_folder_close(g.folder);
	free(l);
}

/* A snapshot that stays reads after the merge what it read before. */
static void others_stay(void **state)
{
	const struct row *row = *state;
	struct vhd_disk *d;
	struct rig g;

	rig_new(&g, row);
	write_byte(g.disk[0], 0, 8192, 1);
	snapshot(&g, "one");
	write_byte(g.disk[0], 4096, 8192, 2);
	assert_int_equal(vhd_disk_write_zeroes(g.disk[0], SP_MIB(2), SP_MIB(2)), 0);
	snapshot(&g, "two");
	write_byte(g.disk[0], 0, 512, 3);
	merge(g.disk[0], "one", 0);
	expect_byte(g.disk[0], 0, 512, 3);
	expect_byte(g.disk[0], 512, 3584, 1);
	expect_byte(g.disk[0], 4096, 8192, 2);
	d = open_file(g.folder, "a/disk.two.vhdx");
	assert_int_equal(vhd_disk_layers(d), 1);
	expect_byte(d, 0, 4096, 1);
	expect_byte(d, 4096, 8192, 2);
	expect_byte(d, SP_MIB(2), 4096, 0);
	vhd_disk_close(d, NULL);
	rig_close(&g);
	rig_open(&g);
	assert_int_equal(vhd_disk_layers(g.disk[0]), 2);
	expect_byte(g.disk[0], 0, 512, 3);
	expect_byte(g.disk[0], 4096, 8192, 2);
	rig_close(&g);
	store_folder_close(g.folder);
}

static void vhd_in_the_middle(void **state)
{
	const struct row row = { .format = VHD_FORMAT_VHD, .disks = 1 };
	struct sp_err err = { 0 };
	struct rig g;

	(void)state;
	rig_new(&g, &row);
	snapshot(&g, "one");
	snapshot(&g, "two");
	assert_int_equal(vhd_live_merge(g.disk[0], "one", NULL, NULL, NULL, &err), -ENOTSUP);
	write_byte(g.disk[0], 0, 512, 1);
	merge(g.disk[0], "two", 0);
	merge(g.disk[0], "one", 0);
	expect_byte(g.disk[0], 0, 512, 1);
	rig_close(&g);
	store_folder_close(g.folder);
}

static void cancel_soon(void *arg, uint64_t done, uint64_t total)
{
	struct sp_job *job = arg;

	(void)total;
	if (done > 0)
		atomic_store(&job->cancel, true);
}

static void canceled(void **state)
{
	const struct row *row = *state;
	struct sp_job job = { .progress = cancel_soon };
	struct vhd_live_merge_opts o = { .small = 64 << 10, .rate_limit = SP_MIB(1) };
	struct vhd_live_snapshot *list;
	struct sp_err err = { 0 };
	struct rig g;
	size_t n;

	job.arg = &job;
	rig_new(&g, row);
	write_byte(g.disk[0], 0, 512, 1);
	snapshot(&g, "one");
	for (unsigned i = 0; i < 1024; i++)
		write_byte(g.disk[0], i * 8192, 8192, 2);
	assert_int_equal(vhd_live_merge(g.disk[0], "one", &o, &job, NULL, &err), -ECANCELED);
	must(vhd_live_list(g.disk[0], &list, &n, &err), &err);
	assert_int_equal(n, 2);
	assert_true(list[0].merging);
	vhd_live_list_free(list);
	expect_byte(g.disk[0], 0, 8192, 2);
	rig_close(&g);
	rig_open(&g);
	expect_byte(g.disk[0], SP_MIB(7), 8192, 2);
	if (row->disks == 1) {
		merge(g.disk[0], "one", 0);
	} else {		/* the offline way finishes it too */
		rig_close(&g);
		must(vhd_snapshot_delete_in(g.folder, names[0], "one", false, NULL, &err), &err);
		rig_open(&g);
	}
	assert_int_equal(vhd_disk_layers(g.disk[0]), 1);
	expect_byte(g.disk[0], SP_MIB(7), 8192, 2);
	rig_close(&g);
	store_folder_close(g.folder);
}

/* ---- failing I/O --------------------------------------------------------------------------------- */

/* Every operation of a snapshot fails once: it is FAILED, or done; the disks go on, and open again with all. */
static void set_faults(void **state)
{
	const struct row *row = *state;
	uint64_t k, hits = 1;

	for (k = 1; hits > 0; k++) {
		struct fault_plan plan = { 0 };
		struct store_folder *inner;
		struct sp_err err = { 0 };
		struct rig g;
		int r;

		rig_new(&g, row);
		rig_close(&g);
		inner = g.folder;
		fault_plan_set(&plan, FAULT_ALL & ~FAULT_READ, 0, -EIO, false, false);
		assert_int_equal(store_folder_fault_new(inner, &plan, &g.folder), 0);
		rig_open(&g);
		for (unsigned i = 0; i < g.disks; i++) {
			write_byte(g.disk[i], 0, 4096, 5);
			assert_int_equal(vhd_disk_flush(g.disk[i]), 0);
		}
		fault_plan_set(&plan, FAULT_ALL & ~FAULT_READ, k, -EIO, false, false);
		r = try_snapshot(&g, "x", NULL, &err);
		hits = atomic_load(&plan.hits);
		fault_plan_set(&plan, FAULT_ALL, 0, -EIO, false, false);
		assert_true(r == 0 || hits > 0);
		for (unsigned i = 0; i < g.disks; i++) {
			if (vhd_disk_poisoned(g.disk[i]) == 0)
				write_byte(g.disk[i], 4096, 4096, 6);
			expect_byte(g.disk[i], 0, 4096, 5);
			if (vhd_disk_close(g.disk[i], NULL) < 0)
				continue;
		}
		rig_recover(&g);
		rig_open(&g);
		for (unsigned i = 0; i < g.disks; i++) {
			expect_byte(g.disk[i], 0, 4096, 5);
			assert_int_equal(vhd_disk_layers(g.disk[i]), vhd_disk_layers(g.disk[0]));
		}
		rig_close(&g);
		store_folder_close(g.folder);
	}
	assert_true(k > 20);
}

/* The same for a merge. */
static void merge_faults(void **state)
{
	const struct row *row = *state;
	uint64_t k, hits = 1;

	for (k = 1; hits > 0; k++) {
		struct fault_plan plan = { 0 };
		struct store_folder *inner;
		struct vhd_live_merge_opts o = { .small = 16 << 10 };
		struct sp_err err = { 0 };
		struct rig g;
		int r;

		rig_new(&g, row);
		snapshot(&g, "one");
		for (unsigned i = 0; i < 8; i++)
			write_byte(g.disk[0], i * SP_MIB(1), 8192, (int)i + 1);
		rig_close(&g);
		inner = g.folder;
		fault_plan_set(&plan, FAULT_ALL & ~FAULT_READ, 0, -EIO, false, false);
		assert_int_equal(store_folder_fault_new(inner, &plan, &g.folder), 0);
		rig_open(&g);
		write_byte(g.disk[0], 8192, 4096, 99);
		assert_int_equal(vhd_disk_flush(g.disk[0]), 0);
		fault_plan_set(&plan, FAULT_ALL & ~FAULT_READ, k, -EIO, false, false);
		r = vhd_live_merge(g.disk[0], "one", &o, NULL, NULL, &err);
		hits = atomic_load(&plan.hits);
		fault_plan_set(&plan, FAULT_ALL, 0, -EIO, false, false);
		assert_true(r == 0 || hits > 0);
		for (unsigned i = 0; i < 8; i++)
			expect_byte(g.disk[0], i * SP_MIB(1), 8192, (int)i + 1);
		if (vhd_disk_close(g.disk[0], NULL) < 0)
			assert_true(hits > 0);
		rig_recover(&g);
		rig_open(&g);
		expect_byte(g.disk[0], 8192, 4096, 99);
		for (unsigned i = 0; i < 8; i++)
			expect_byte(g.disk[0], i * SP_MIB(1), 8192, (int)i + 1);
		if (vhd_disk_layers(g.disk[0]) > 1)
			merge(g.disk[0], "one", 0);
		assert_int_equal(vhd_disk_layers(g.disk[0]), 1);
		expect_byte(g.disk[0], SP_MIB(7), 8192, 8);
		rig_close(&g);
		store_folder_close(g.folder);
	}
	assert_true(k > 20);
}

/* ---- files of the host --------------------------------------------------------------------------- */

/* With real locks and descriptors: a snapshot's file can be read by others, until a merge wants it. */
static void on_files(void **state)
{
	const struct row *row = *state;
	char dir[] = "/dev/shm/spindle-live-XXXXXX", path[128], snap[128], cmd[160];
	struct vhd_create_opts c = { .format = row->format, .size = SIZE };
	struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE };
	struct load *l = calloc(1, sizeof(*l));
	struct sp_err err = { 0 };
	struct rig g = { .disks = 1 };
	struct vhd_disk *reader;

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/disk.vhdx", dir);
	snprintf(snap, sizeof(snap), "%s/disk.one.vhdx", dir);
	must(vhd_create(path, &c, &err), &err);
	must(vhd_disk_open(path, &o, &g.disk[0], &err), &err);
	load_start(l, g.disk[0], 0);
	load_some_more(l);
	snapshot(&g, "one");
	load_some_more(l);
	must(vhd_disk_open(snap, NULL, &reader, &err), &err);
	assert_int_equal(vhd_live_merge(g.disk[0], "one", NULL, NULL, NULL, &err), -EBUSY);
	must(vhd_disk_close(reader, &err), &err);
	merge(g.disk[0], "one", 1 << 20);
	load_some_more(l);
	load_stop(l);
	load_verify(l, g.disk[0]);
	must(vhd_disk_close(g.disk[0], &err), &err);
	must(vhd_disk_open(path, NULL, &g.disk[0], &err), &err);
	assert_int_equal(vhd_disk_layers(g.disk[0]), 1);
	load_verify(l, g.disk[0]);
	must(vhd_disk_close(g.disk[0], &err), &err);
	snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
	assert_int_equal(system(cmd), 0);
	free(l);
}

static const struct row vhd_1 = { "vhd", VHD_FORMAT_VHD, 1 }, vhd_2 = { "vhd", VHD_FORMAT_VHD, 2 },
			vhdx_1 = { "vhdx", VHD_FORMAT_VHDX, 1 }, vhdx_2 = { "vhdx", VHD_FORMAT_VHDX, 2 },
			vhdx_3 = { "vhdx", VHD_FORMAT_VHDX, 3 };

#define ROW(test, row) { #test " (" #row ")", test, NULL, NULL, (void *)(uintptr_t)&row }

int main(void)
{
	const struct CMUnitTest tests[] = {
		ROW(set_under_load, vhd_1), ROW(set_under_load, vhd_2),
		ROW(set_under_load, vhdx_1), ROW(set_under_load, vhdx_3),
		ROW(one_instant, vhdx_2), ROW(one_instant, vhdx_3), ROW(one_instant, vhd_2),
		ROW(aborted, vhd_1), ROW(aborted, vhdx_3),
		ROW(killed_prepared, vhd_2), ROW(killed_prepared, vhdx_2),
		ROW(killed_committed, vhd_2), ROW(killed_committed, vhdx_3),
		cmocka_unit_test(refused),
		ROW(listed, vhdx_2),
		ROW(merge_under_load, vhd_1), ROW(merge_under_load, vhdx_1),
		ROW(others_stay, vhdx_1),
		cmocka_unit_test(vhd_in_the_middle),
		ROW(canceled, vhdx_1), ROW(canceled, vhdx_2), ROW(canceled, vhd_1),
		ROW(set_faults, vhdx_2), ROW(set_faults, vhd_1),
		ROW(merge_faults, vhdx_1), ROW(merge_faults, vhd_1),
		ROW(on_files, vhdx_1), ROW(on_files, vhd_1),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
