/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Every operation and every allocation of a snapshot, and of a merge, fails in turn. Whatever fails: the disks read as
 * their model says and go on, or are poisoned with that error; after recovery nothing of the attempt is left but a
 * snapshot that is whole; and the same again succeeds.
 */
#include "tests/unit/chain_fixture.h"
#include "tests/unit/rows.h"

#include <errno.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "tests/support/store_fault.h"
#include "vhd/live.h"
#include "vhd/store_mem_int.h"

#define SIZE SP_MIB(2)
#define PIECE 8192u
#define DISKS_MAX 2

static const char *const names[DISKS_MAX] = { "a/disk.img", "b/disk.img" };

struct row {
	const char *name;
	enum vhd_format_id format;
	unsigned disks;
	int error;
	unsigned classes;	/* 0: allocations */
	bool sticky;
};

#define SPACE (FAULT_WRITE | FAULT_RESIZE | FAULT_ZERO | FAULT_NAMES)
#define QUIET (FAULT_ALL & ~FAULT_READ)

static const struct row sets[] = {
	{ "two vhdx, EIO", VHD_FORMAT_VHDX, 2, -EIO, FAULT_ALL, false },
	{ "vhdx, EIO for good", VHD_FORMAT_VHDX, 1, -EIO, QUIET, true },
	{ "two vhdx, ENOSPC for good", VHD_FORMAT_VHDX, 2, -ENOSPC, SPACE, true },
	{ "two vhdx, no memory", VHD_FORMAT_VHDX, 2, -ENOMEM, 0, false },
	{ "vhdx, no memory for good", VHD_FORMAT_VHDX, 1, -ENOMEM, 0, true },
	{ "vhd, EIO", VHD_FORMAT_VHD, 1, -EIO, FAULT_ALL, false },
	{ "vhd, ENOSPC", VHD_FORMAT_VHD, 1, -ENOSPC, SPACE, false },
	{ "vhd, no memory", VHD_FORMAT_VHD, 1, -ENOMEM, 0, false },
};

static const struct row merges[] = {
	{ "vhdx, EIO", VHD_FORMAT_VHDX, 1, -EIO, FAULT_ALL, false },
	{ "vhdx, EIO for good", VHD_FORMAT_VHDX, 1, -EIO, QUIET, true },
	{ "vhdx, ENOSPC for good", VHD_FORMAT_VHDX, 1, -ENOSPC, SPACE, true },
	{ "vhdx, no memory", VHD_FORMAT_VHDX, 1, -ENOMEM, 0, false },
	{ "vhdx, no memory for good", VHD_FORMAT_VHDX, 1, -ENOMEM, 0, true },
	{ "vhd, EIO", VHD_FORMAT_VHD, 1, -EIO, FAULT_ALL, false },
	{ "vhd, ENOSPC", VHD_FORMAT_VHD, 1, -ENOSPC, SPACE, false },
	{ "vhd, no memory", VHD_FORMAT_VHD, 1, -ENOMEM, 0, false },
};

/* ---- one attempt ---------------------------------------------------------------------------------- */

struct attempt {
	const struct row *row;
	uint64_t k;
	struct store_folder *mem, *folder;	/* the inner and the outer one */
	struct fault_plan plan;
	uint64_t allocations, refused;
	struct vhd_disk *disk[DISKS_MAX];
	bool refusing;
	uint8_t model[SIZE / PIECE];		/* of every disk */
};

static int no_memory(void *arg)
{
	struct attempt *a = arg;
	bool fails;

	if (fault_inside_store())
		return 0;
	a->allocations++;
	fails = a->allocations == a->k || (a->row->sticky && a->allocations > a->k);
	a->refused += fails;
	return fails;
}

static void arm(struct attempt *a)
{
	if (a->row->classes)
		fault_plan_set(&a->plan, a->row->classes, a->k, a->row->error, a->row->sticky, false);
	else
		sp_alloc_set_fault(no_memory, a);
}

/* Whether anything has failed. */
static bool disarm(struct attempt *a)
{
	uint64_t hits = a->row->classes ? atomic_load(&a->plan.hits) : a->refused;

	sp_alloc_set_fault(NULL, NULL);
	atomic_store(&a->plan.enabled, false);
	return hits > 0;
}

static void put(struct attempt *a, unsigned piece, uint8_t value)
{
	for (unsigned i = 0; i < a->row->disks; i++)
		write_byte(a->disk[i], (uint64_t)piece * PIECE, PIECE, value);
	a->model[piece] = value;
}

static void expect_model(struct attempt *a)
{
	static uint8_t got[SIZE], want[PIECE];

	for (unsigned i = 0; i < a->row->disks; i++) {
		assert_int_equal(vhd_disk_read(a->disk[i], got, SIZE, 0), 0);
		for (unsigned p = 0; p < SIZE / PIECE; p++) {
			memset(want, a->model[p], PIECE);
			if (memcmp(got + (size_t)p * PIECE, want, PIECE) != 0)
				fail_msg("operation %llu: disk %u: piece %u", (unsigned long long)a->k, i, p);
		}
	}
}

static void open_all(struct attempt *a)
{
	for (unsigned i = 0; i < a->row->disks; i++)
		a->disk[i] = open_rw(a->folder, names[i]);
}

static int snapshot(struct attempt *a, const char *name, struct sp_err *err)
{
	struct vhd_live_opts o = { .name = name };
	struct vhd_live_set *set;
	int r = vhd_live_prepare(a->disk, a->row->disks, &o, &set, err);

	if (r < 0)
		return r;
	r = vhd_live_commit(set, false, NULL, err);
	if (r < 0) {
		vhd_live_abort(set);
		return r;
	}
	return vhd_live_finish(set, "file-system", err);
}

static void take_snapshot(struct attempt *a, const char *name)
{
	struct sp_err err = { 0 };

	if (snapshot(a, name, &err) < 0)
		fail_msg("operation %llu: then no snapshot %s: %s", (unsigned long long)a->k, name, sp_err_text(&err));
}

static int merge(struct attempt *a, const char *name)
{
	struct vhd_live_merge_opts o = { .small = 2 * PIECE };

	return vhd_live_merge(a->disk[0], name, &o, NULL, NULL, NULL);
}

/* ---- afterwards ----------------------------------------------------------------------------------- */

/* The error the caller got is the one that happened; only a failed sync poisons, and with its own error. */
static void judge_disks(struct attempt *a, int r)
{
	expect_model(a);
	for (unsigned i = 0; i < a->row->disks; i++) {
		int poison = vhd_disk_poisoned(a->disk[i]);

		if (r < 0 && r != a->row->error)
			fail_msg("operation %llu: %d instead of %d", (unsigned long long)a->k, r, a->row->error);
		if (poison != 0 && poison != a->row->error)
			fail_msg("operation %llu: poisoned with %d", (unsigned long long)a->k, poison);
		if (poison != 0 && a->row->error == -ENOMEM)
			fail_msg("allocation %llu: poisoned", (unsigned long long)a->k);
	}
}

static void go_on(struct attempt *a)
{
	int worst = 0;

	for (unsigned i = 0; i < a->row->disks; i++) {
		int poison = vhd_disk_poisoned(a->disk[i]), r = vhd_disk_flush(a->disk[i]);

		/* Without poison: an image whose headers could not be overwritten, and which says so. */
		if (r != poison && (r != a->row->error || a->row->error == -ENOMEM))
			fail_msg("operation %llu: flush says %d, poison is %d", (unsigned long long)a->k, r, poison);
		worst = r < 0 ? r : worst;
		a->refusing |= r < 0 && poison == 0;
	}
	if (worst < 0)
		return;
	put(a, 5, 0x55);
	for (unsigned i = 0; i < a->row->disks; i++)
		assert_int_equal(vhd_disk_flush(a->disk[i]), 0);
	expect_model(a);
}

static int no_rest(void *arg, const char *name, struct mem_file *file)
{
	struct attempt *a = arg;
	const char *base = strrchr(name, '/') ? strrchr(name, '/') + 1 : name;

	(void)file;
	/* Where deleting fails as well, the next change of the side-car takes it along. */
	if (a->row->sticky && strstr(base, ".json.new"))
		return 0;
	if (base[0] == '.' || strstr(base, ".live") || strstr(base, ".new"))
		fail_msg("operation %llu: %s is left", (unsigned long long)a->k, name);
	return 0;
}

/* Odd attempts end in order, even ones as a killed process would. */
static void end(struct attempt *a)
{
	for (unsigned i = 0; i < a->row->disks; i++) {
		if (a->k % 2)
			vhd_disk_close(a->disk[i], NULL);
		else
			vhd_disk_abandon(a->disk[i]);
	}
}

static void recover(struct attempt *a)
{
	struct vhd_live_place place[DISKS_MAX];
	struct sp_err err = { 0 };

	for (unsigned i = 0; i < a->row->disks; i++)
		place[i] = (struct vhd_live_place){ a->folder, names[i] };
	must(vhd_live_recover(place, a->row->disks, NULL, &err), &err);
	store_folder_mem_each(a->mem, no_rest, a);
	open_all(a);
	expect_model(a);
	for (unsigned i = 1; i < a->row->disks; i++)
		assert_int_equal(vhd_disk_layers(a->disk[i]), vhd_disk_layers(a->disk[0]));
}

static void start(struct attempt *a, struct store_folder *base, const uint8_t *model)
{
	assert_int_equal(store_folder_mem_clone(base, &a->mem), 0);
	assert_int_equal(store_folder_fault_new(a->mem, &a->plan, &a->folder), 0);
	atomic_store(&a->plan.enabled, false);
	memcpy(a->model, model, sizeof(a->model));
	open_all(a);
	put(a, 3, 0x33);
	for (unsigned i = 0; i < a->row->disks; i++)
		assert_int_equal(vhd_disk_flush(a->disk[i]), 0);
}

static void finish(struct attempt *a)
{
	struct sp_err err = { 0 };

	for (unsigned i = 0; i < a->row->disks; i++)
		must(vhd_disk_close(a->disk[i], &err), &err);
	store_folder_close(a->folder);
}

/* ---- sets ----------------------------------------------------------------------------------------- */

static void make_disks(struct attempt *a)
{
	a->folder = folder_new();
	for (unsigned i = 0; i < a->row->disks; i++)
		make_base(a->folder, names[i], a->row->format, SIZE, 1u << 20, 512);
	open_all(a);
	for (unsigned p = 0; p < SIZE / PIECE; p += 60)
		put(a, p, (uint8_t)(p / 60 + 1));
}

static struct store_folder *close_base(struct attempt *a)
{
	struct sp_err err = { 0 };

	for (unsigned i = 0; i < a->row->disks; i++)
		must(vhd_disk_close(a->disk[i], &err), &err);
	return a->folder;
}

static void test_sets(void **state)
{
	struct attempt base = { .row = *state };
	struct store_folder *folder;
	bool hit = true;
	uint64_t k;

	make_disks(&base);
	folder = close_base(&base);
	for (k = 1; hit; k++) {
		struct attempt a = { .row = *state, .k = k };
		int r;

		start(&a, folder, base.model);
		arm(&a);
		r = snapshot(&a, "x", NULL);
		hit = disarm(&a);
		assert_true(hit || r == 0);
		judge_disks(&a, r);
		go_on(&a);
		end(&a);
		recover(&a);
		if (vhd_disk_layers(a.disk[0]) == 1)
			take_snapshot(&a, "x");
		assert_int_equal(vhd_disk_layers(a.disk[0]), 2);
		expect_model(&a);
		finish(&a);
	}
	assert_true(k > 20);
	store_folder_close(folder);
}

/* ---- merges --------------------------------------------------------------------------------------- */

/* base <- one <- two <- leaf */
static void make_snapshots(struct attempt *a)
{
	make_disks(a);
	take_snapshot(a, "one");
	for (unsigned p = 2; p < SIZE / PIECE; p += 100)
		put(a, p, (uint8_t)(p / 100 + 0x40));
	take_snapshot(a, "two");
	for (unsigned p = 4; p < SIZE / PIECE; p += 120)
		put(a, p, (uint8_t)(p / 120 + 0x80));
	assert_int_equal(vhd_disk_write_zeroes(a->disk[0], 60 * PIECE, PIECE), 0);
	a->model[60] = 0;
}

static int merge_both(struct attempt *a)
{
	bool vhdx = a->row->format == VHD_FORMAT_VHDX;
	int r = merge(a, vhdx ? "one" : "two");		/* in the middle, where that can be */

	return r < 0 ? r : merge(a, vhdx ? "two" : "one");
}

static void merge_rest(struct attempt *a, const char *name)
{
	int r = merge(a, name);

	if (r != -ENOENT && r != 0)
		fail_msg("operation %llu: repeating the merge of %s: %d", (unsigned long long)a->k, name, r);
}

static void test_merges(void **state)
{
	struct attempt base = { .row = *state };
	struct store_folder *folder;
	bool hit = true;
	uint64_t k;

	make_snapshots(&base);
	folder = close_base(&base);
	for (k = 1; hit; k++) {
		struct attempt a = { .row = *state, .k = k };
		int r;

		start(&a, folder, base.model);
		arm(&a);
		r = merge_both(&a);
		hit = disarm(&a);
		assert_true(hit || r == 0);
		judge_disks(&a, r);
		go_on(&a);
		end(&a);
		recover(&a);
		merge_rest(&a, "two");
		merge_rest(&a, "one");
		assert_int_equal(vhd_disk_layers(a.disk[0]), 1);
		expect_model(&a);
		take_snapshot(&a, "one");	/* nothing is in its way */
		finish(&a);
	}
	assert_true(k > 40);
	store_folder_close(folder);
}

int main(void)
{
	return ROWS_RUN(sets, test_sets) + ROWS_RUN(merges, test_merges);
}
