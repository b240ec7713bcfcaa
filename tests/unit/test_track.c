/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Change tracking: points, and what is known after crashes and leaf switches.
 */
#include "tests/unit/track_fixture.h"

#include <errno.h>

#include "vhd/store_mem_int.h"

/* ---- points --------------------------------------------------------------------------------------- */

static void test_points(void **state)
{
	const struct format_row *row = *state;
	struct store_folder *f = folder_new();
	struct vhd_disk *d = fresh(f, row->format);
	struct vhd_track_point *list;
	char id[SP_GUID_TEXT];
	size_t n;

	write_at(d, 7 * UNIT, 512, 1);
	point(d, "monday");
	expect(d, "monday", NULL, (const int[]){ -1 });
	write_at(d, 3 * UNIT - 512, 1024, 2);
	write_at(d, SIZE - 512, 512, 2);
	point(d, "tuesday");
	write_at(d, 300 * UNIT, 4096, 3);
	expect_blocks(d, "monday", "tuesday", 2, 3, BLOCKS - 1);
	expect_blocks(d, "monday", NULL, 2, 3, 300, BLOCKS - 1);
	expect_blocks(d, "tuesday", NULL, 300);
	expect(d, "tuesday", "tuesday", (const int[]){ -1 });
	expect_everything(d, "sunday", VHD_TRACK_NO_POINT);
	assert_int_equal(vhd_track_changes(d, "tuesday", "monday", NULL, NULL, NULL, NULL), -EINVAL);
	finish(d);

	for (int rw = 0; rw < 3; rw++) {	/* read-only, writable and untracked, tracked again */
		d = open_format(f, "disk", row->format, rw > 0);
		if (rw == 2)
			track(d);
		expect_blocks(d, "monday", NULL, 2, 3, 300, BLOCKS - 1);
		expect_blocks(d, "monday", "tuesday", 2, 3, BLOCKS - 1);
		assert_int_equal(vhd_track_list(d, &list, &n, NULL), 0);
		assert_int_equal(n, 2);
		assert_string_equal(list[1].name, "tuesday");
		assert_int_equal(list[0].why, VHD_TRACK_EXACT);
		sp_guid_format_le(&list[1].id, id);
		expect_blocks(d, id, NULL, 300);
		vhd_track_list_free(list);
		finish(d);
	}
	store_folder_close(f);
}

static void test_changes_of_all_kinds(void **state)
{
	const struct format_row *row = *state;
	struct store_folder *f = folder_new();
	struct vhd_disk *d = fresh(f, row->format);

	write_at(d, 0, SP_MIB(4), 1);
	point(d, "p");
	assert_int_equal(vhd_disk_write_zeroes(d, 5 * UNIT + 100, UNIT), 0);
	assert_int_equal(vhd_disk_discard(d, 10 * UNIT, 2 * UNIT), 0);
	expect_blocks(d, "p", NULL, 5, 6, 10, 11);
	finish(d);
	store_folder_close(f);
}

static void test_grow(void **state)
{
	const struct format_row *row = *state;
	struct store_folder *f = folder_new();
	struct vhd_disk *d = fresh(f, row->format);
	struct sp_err err = { 0 };
	int want[300], n = 0;

	point(d, "old");
	write_at(d, UNIT, 512, 1);
	must(vhd_disk_grow(d, SIZE + SP_MIB(16), &err), &err);
	point(d, "new");
	write_at(d, SIZE + 5 * UNIT, 512, 1);
	expect_blocks(d, "new", NULL, BLOCKS + 5);
	want[n++] = 1;
	for (int b = 0; b < 256; b++)
		want[n++] = (int)BLOCKS + b;
	want[n] = -1;
	expect(d, "old", NULL, want);
	finish(d);
	d = open_format(f, "disk", row->format, true);
	track(d);
	expect(d, "old", "new", want);
	finish(d);
	store_folder_close(f);
}

static void test_forget(void **state)
{
	const struct format_row *row = *state;
	struct store_folder *f = folder_new();
	struct vhd_disk *d = fresh(f, row->format);
	char name[2] = "a";

	for (int i = 0; i < 5; i++, name[0]++) {
		point(d, name);
		write_at(d, (uint64_t)i * 10 * UNIT, 512, i + 1);
	}
	assert_int_equal(vhd_track_forget(d, "c", NULL), 0);
	expect_blocks(d, "b", "d", 10, 20);
	assert_int_equal(vhd_track_forget(d, "e", NULL), 0);
	expect_blocks(d, "d", NULL, 30, 40);
	assert_int_equal(vhd_track_forget(d, "a", NULL), 0);
	expect_everything(d, "a", VHD_TRACK_NO_POINT);
	assert_int_equal(vhd_track_forget(d, "a", NULL), -ENOENT);
	expect_blocks(d, "b", NULL, 10, 20, 30, 40);
	finish(d);
	d = open_format(f, "disk", row->format, false);
	expect_blocks(d, "b", NULL, 10, 20, 30, 40);
	expect_blocks(d, "b", "d", 10, 20);
	finish(d);
	store_folder_close(f);
}

static void test_names(void **state)
{
	struct store_folder *f = folder_new();
	struct vhd_disk *d = fresh(f, VHD_FORMAT_VHDX);
	static const char *const bad[] = { "", "a/b", "a\nb",
		"0123456789012345678901234567890123456789012345678901234567890123" };
	char name[16];

	for (unsigned i = 0; i < SP_ARRAY_SIZE(bad); i++)
		assert_int_equal(vhd_track_point(d, bad[i], NULL, NULL), -EINVAL);
	for (unsigned i = 0; i < VHD_TRACK_POINTS_MAX; i++) {
		snprintf(name, sizeof(name), "p%u", i);
		write_at(d, i * UNIT, 512, 1);
		point(d, name);
	}
	assert_int_equal(vhd_track_point(d, "p7", NULL, NULL), -EEXIST);
	assert_int_equal(vhd_track_point(d, "more", NULL, NULL), -ENFILE);
	expect_blocks(d, "p100", "p102", 101, 102);
	finish(d);
	store_folder_close(f);
}

static void test_off(void **state)
{
	struct store_folder *f = folder_new();
	struct vhd_disk *d = fresh(f, VHD_FORMAT_VHDX);
	struct store *s;

	point(d, "p");
	assert_int_equal(vhd_track_off(d, NULL), 0);
	assert_false(vhd_disk_tracked(d));
	assert_int_equal(store_folder_open(f, "disk.track", 0, &s, NULL), -ENOENT);
	expect_everything(d, "p", VHD_TRACK_OFF);
	assert_int_equal(vhd_track_point(d, "q", NULL, NULL), -ENOENT);
	write_at(d, 0, 512, 1);
	track(d);
	point(d, "q");
	write_at(d, UNIT, 512, 1);
	expect_blocks(d, "q", NULL, 1);
	finish(d);
	d = open_format(f, "disk", VHD_FORMAT_VHDX, false);
	assert_int_equal(vhd_disk_track(d, true, NULL), -EROFS);
	finish(d);
	store_folder_close(f);
}

/* ---- crashes -------------------------------------------------------------------------------------- */

static void test_crash(void **state)
{
	const struct format_row *row = *state;
	struct store_folder *f = folder_new();
	struct vhd_disk *d = fresh(f, row->format);
	struct answer w;

	point(d, "a");
	write_at(d, 3 * UNIT, 512, 1);
	point(d, "b");
	write_at(d, 300 * UNIT, 512, 1);
	vhd_disk_abandon(d);
	for (int rw = 0; rw < 2; rw++) {
		d = open_format(f, "disk", row->format, rw);
		if (rw)
			track(d);
		expect_blocks(d, "a", "b", 3);
		if (row->format == VHD_FORMAT_VHDX) {
			ask(d, "b", NULL, &w);
			assert_int_equal(w.a.why, VHD_TRACK_EXACT);
			assert_int_equal(w.a.bytes, SP_MIB(16) * (1 + w.block[3]));	/* its region, and a kept one */
			assert_true(w.block[300]);
		} else {
			expect_everything(d, "b", VHD_TRACK_UNCLEAN);
		}
		if (rw) {
			point(d, "c");
			write_at(d, 9 * UNIT, 1, 1);
			expect_blocks(d, "c", NULL, 9);
		}
		finish(d);
	}
	store_folder_close(f);
}

/* What rests leaves doubt: a crash then costs only what was written lately. */
static void test_rest(void **state)
{
	struct store_folder *f = folder_new();
	struct vhd_disk *d = fresh(f, VHD_FORMAT_VHDX);
	struct answer w;

	point(d, "p");
	write_at(d, 3 * UNIT, 512, 1);
	write_at(d, 300 * UNIT, 512, 1);
	track_rest_now(d);
	write_at(d, 301 * UNIT, 512, 1);
	track_rest_now(d);
	write_at(d, 302 * UNIT, 512, 1);
	vhd_disk_abandon(d);
	d = open_format(f, "disk", VHD_FORMAT_VHDX, true);
	track(d);
	ask(d, "p", NULL, &w);
	assert_int_equal(w.a.why, VHD_TRACK_EXACT);
	assert_int_equal(w.a.bytes, UNIT + SP_MIB(16));
	assert_true(w.block[3] && w.block[300] && w.block[302]);
	finish(d);
	store_folder_close(f);
}

static void test_push_leaf(void **state)
{
	const struct format_row *row = *state;
	struct store_folder *f = folder_new();
	struct vhd_disk *d;
	struct vhd_image *leaf;
	struct sp_err err = { 0 };
	struct store *s;

	make_base(f, "base", row->format, SIZE, SP_MIB(2), 512);
	make_child(f, "base", "base", "disk", 0, SP_MIB(2));
	d = open_format(f, "disk", row->format, true);
	track(d);
	point(d, "p");
	write_at(d, 3 * UNIT, 512, 1);
	vhd_disk_flush(d);
	make_child(f, "disk", "disk.old", "new", 0, SP_MIB(2));
	must(vhd_disk_drain(d, 1000), &err);
	must(store_folder_open(f, "new", STORE_RDWR, &s, &err), &err);
	must(vhd_image_open(s, "/new", vhd_format_by_id(row->format), VHD_IMG_WRITABLE, &leaf, &err), &err);
	must(vhd_disk_push_leaf(d, leaf, &err), &err);
	must(vhd_track_point_drained(d, "cut", NULL, &err), &err);
	vhd_disk_resume(d);
	must(store_folder_rename(f, "disk", "disk.old", false), &err);
	must(store_folder_rename(f, "new", "disk", true), &err);
	write_at(d, 5 * UNIT, 512, 1);
	expect_blocks(d, "p", "cut", 3);
	expect_blocks(d, "cut", NULL, 5);
	finish(d);
	d = open_format(f, "disk", row->format, true);
	track(d);
	expect_blocks(d, "p", NULL, 3, 5);
	expect_blocks(d, "cut", NULL, 5);
	finish(d);
	store_folder_close(f);
}

static const struct single_row singles[] = {
	{ "names and the most points", test_names },
	{ "off and on again", test_off },
	{ "regions leave doubt", test_rest },
};

int main(void)
{
	return ROWS_RUN(formats, test_points) + ROWS_RUN(formats, test_changes_of_all_kinds) +
	       ROWS_RUN(formats, test_grow) + ROWS_RUN(formats, test_forget) + ROWS_RUN(formats, test_crash) +
	       rows_run("leaf switch", test_push_leaf, &formats[1], sizeof(formats[0]), 2) +
	       ROWS_RUN(singles, rows_single);
}
