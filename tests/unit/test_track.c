/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Change tracking: formats, points, every way to change a disk, every reason to know nothing. What a test asks is
 * always the same: what differs from the content at the point must be in the answer.
 */
#include "tests/unit/chain_fixture.h"
#include "tests/unit/rows.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/rng.h"
#include "tests/support/store_fault.h"
#include "vhd/store_mem_int.h"
#include "vhd/track_int.h"

#define SIZE SP_MIB(64)		/* four regions */
#define UNIT SP_KIB(64)
#define BLOCKS (SIZE / UNIT)

/* ---- asking --------------------------------------------------------------------------------------- */

struct answer {
	struct vhd_track_answer a;
	uint64_t next;
	bool block[2 * BLOCKS];
};

static int note_range(void *user, uint64_t offset, uint64_t len)
{
	struct answer *w = user;

	assert_true(len > 0 && offset >= w->next && offset % UNIT == 0);
	w->next = offset + len + 1;	/* not even adjacent */
	for (uint64_t b = offset / UNIT; b < sp_div_ceil(offset + len, UNIT); b++)
		w->block[b] = true;
	return 0;
}

static void ask(struct vhd_disk *d, const char *since, const char *until, struct answer *w)
{
	struct sp_err err = { 0 };

	memset(w, 0, sizeof(*w));
	must(vhd_track_changes(d, since, until, note_range, w, &w->a, &err), &err);
	assert_int_equal(w->a.size, vhd_disk_size(d));
	assert_int_equal(w->a.reason[0] == '\0', w->a.why == VHD_TRACK_EXACT);
}

/* Exactly the blocks of @list (ended by -1) changed. */
static void expect(struct vhd_disk *d, const char *since, const char *until, const int *list)
{
	bool want[2 * BLOCKS] = { false };
	struct answer w;

	ask(d, since, until, &w);
	if (w.a.why != VHD_TRACK_EXACT)
		fail_msg("since %s: everything: %s", since, w.a.reason);
	for (; *list >= 0; list++)
		want[*list] = true;
	for (unsigned b = 0; b < 2 * BLOCKS; b++)
		if (want[b] != w.block[b])
			fail_msg("since %s: block %u is %s", since, b, want[b] ? "missing" : "too much");
}

#define expect_blocks(d, since, until, ...) expect(d, since, until, (const int[]){ __VA_ARGS__, -1 })

static void expect_everything(struct vhd_disk *d, const char *since, enum vhd_track_why why)
{
	struct answer w;

	ask(d, since, NULL, &w);
	if (w.a.why != why)
		fail_msg("since %s: %d (%s), expected %d", since, w.a.why, w.a.reason, why);
	assert_int_equal(w.a.bytes, vhd_disk_size(d));
}

static void write_at(struct vhd_disk *d, uint64_t offset, uint64_t len, int value)
{
	uint8_t *buf = malloc(len);

	memset(buf, value, len);
	assert_int_equal(vhd_disk_write(d, buf, len, offset), 0);
	free(buf);
}

static void point(struct vhd_disk *d, const char *name)
{
	struct sp_err err = { 0 };

	must(vhd_track_point(d, name, NULL, &err), &err);
}

static void track(struct vhd_disk *d)
{
	struct sp_err err = { 0 };

	must(vhd_disk_track(d, true, &err), &err);
	assert_true(vhd_disk_tracked(d));
}

static void finish(struct vhd_disk *d)
{
	struct sp_err err = { 0 };

	must(vhd_disk_close(d, &err), &err);
}

static struct vhd_disk *open_format(struct store_folder *f, const char *name, enum vhd_format_id format, bool rw)
{
	struct vhd_open_opts o = { .flags = rw ? VHD_OPEN_WRITE : VHD_OPEN_NO_LOCK, .format = format };
	struct sp_err err = { 0 };
	struct vhd_disk *d;

	must(vhd_disk_open_in(f, name, &o, &d, &err), &err);
	return d;
}

struct format_row {
	const char *name;
	enum vhd_format_id format;
};

static const struct format_row formats[] = {
	{ "raw", VHD_FORMAT_RAW }, { "vhd", VHD_FORMAT_VHD }, { "vhdx", VHD_FORMAT_VHDX },
};

static struct vhd_disk *fresh(struct store_folder *f, enum vhd_format_id format)
{
	struct vhd_disk *d;

	make_base(f, "disk", format, SIZE, format == VHD_FORMAT_RAW ? 0 : SP_MIB(2), 512);
	d = open_format(f, "disk", format, true);
	track(d);
	return d;
}

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

/* ---- reasons to know nothing ---------------------------------------------------------------------- */

static void test_written_by_others(void **state)
{
	const struct format_row *row = *state;
	struct store_folder *f = folder_new();
	struct vhd_disk *d = fresh(f, row->format);

	point(d, "a");
	write_at(d, UNIT, 512, 1);
	point(d, "b");
	finish(d);
	d = open_format(f, "disk", row->format, true);
	write_at(d, 9 * UNIT, 512, 1);
	expect_everything(d, "a", VHD_TRACK_FOREIGN);
	track(d);			/* too late */
	expect_everything(d, "a", VHD_TRACK_FOREIGN);
	expect_blocks(d, "a", "b", 1);
	finish(d);
	d = open_format(f, "disk", row->format, true);
	write_at(d, 9 * UNIT, 512, 2);
	finish(d);
	d = open_format(f, "disk", row->format, true);
	expect_everything(d, "b", VHD_TRACK_FOREIGN);
	track(d);
	expect_everything(d, "b", VHD_TRACK_FOREIGN);
	point(d, "c");
	write_at(d, 5 * UNIT, 512, 2);
	expect_blocks(d, "c", NULL, 5);
	finish(d);
	store_folder_close(f);
}

/* The side-car of @f, one byte or its end changed: the answer still holds blocks 3 and 300, and 3 before "b". */
static void damaged(struct store_folder *f, uint64_t at, int bit)
{
	struct store_folder *copy;
	struct answer w;
	struct vhd_disk *d;
	struct store *s;
	uint8_t byte;

	assert_int_equal(store_folder_mem_clone(f, &copy), 0);
	assert_int_equal(store_folder_open(copy, "disk.track", STORE_RDWR, &s, NULL), 0);
	if (bit < 0) {
		assert_int_equal(store_resize(s, at), 0);
	} else {
		assert_int_equal(store_read(s, &byte, 1, at), 0);
		byte ^= (uint8_t)(1u << bit);
		assert_int_equal(store_write(s, &byte, 1, at), 0);
	}
	store_close(s);
	d = open_format(copy, "disk", VHD_FORMAT_VHDX, at % 2);
	if (at % 2)
		track(d);
	ask(d, "a", NULL, &w);
	if (!w.block[3] || !w.block[300])
		fail_msg("byte %#llx bit %d: a change is lost", (unsigned long long)at, bit);
	ask(d, "b", NULL, &w);
	if (!w.block[300])
		fail_msg("byte %#llx bit %d: a change is lost", (unsigned long long)at, bit);
	ask(d, "a", "b", &w);
	if (!w.block[3])
		fail_msg("byte %#llx bit %d: an old change is lost", (unsigned long long)at, bit);
	vhd_disk_abandon(d);
	store_folder_close(copy);
}

static void test_damage(void **state)
{
	struct store_folder *f = folder_new();
	struct vhd_disk *d = fresh(f, VHD_FORMAT_VHDX);
	const bool crashed = state != NULL;
	uint64_t size;
	struct store *s;
	uint8_t byte;

	point(d, "a");
	write_at(d, 3 * UNIT, 512, 1);
	point(d, "b");
	write_at(d, 300 * UNIT, 512, 1);
	if (crashed)
		vhd_disk_abandon(d);
	else
		finish(d);
	assert_int_equal(store_folder_open(f, "disk.track", 0, &s, NULL), 0);
	assert_int_equal(store_size(s, &size), 0);
	for (uint64_t at = TRACK_BODY; at < size; at++) {
		assert_int_equal(store_read(s, &byte, 1, at), 0);
		if (byte)
			damaged(f, at, __builtin_ctz(byte));	/* a change that is taken away */
	}
	store_close(s);
	for (uint64_t at = 0; at < size; at += at % TRACK_PAGE < TRACK_HEADER_SIZE ? 5 : 512)
		damaged(f, at, (int)(at % 8));
	for (uint64_t at = 0; at < size; at += 512)
		damaged(f, at, -1);
	store_folder_close(f);
}

static void test_missing(void **state)
{
	struct store_folder *f = folder_new();
	struct vhd_disk *d = fresh(f, VHD_FORMAT_VHDX);

	point(d, "p");
	finish(d);
	assert_int_equal(store_folder_unlink(f, "disk.track"), 0);
	d = open_format(f, "disk", VHD_FORMAT_VHDX, true);
	expect_everything(d, "p", VHD_TRACK_OFF);
	assert_int_equal(vhd_disk_track(d, false, NULL), -ENOENT);
	track(d);
	expect_everything(d, "p", VHD_TRACK_NO_POINT);
	finish(d);
	store_folder_close(f);
}

/* ---- files of the host: other programs, copies ---------------------------------------------------- */

static char host_dir[64];

static const char *host_path(const char *name)
{
	static char path[2][128];
	static unsigned turn;

	turn ^= 1;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", host_dir, name);
	return path[turn];
}

static void shell(const char *fmt, const char *a, const char *b)
{
	char command[512];

	snprintf(command, sizeof(command), fmt, a, b);
	if (system(command) != 0)
		fail_msg("%s", command);
}

static struct vhd_disk *host_open(enum vhd_format_id format, bool rw)
{
	struct vhd_open_opts o = { .flags = rw ? VHD_OPEN_WRITE : 0, .format = format };
	struct sp_err err = { 0 };
	struct vhd_disk *d;

	must(vhd_disk_open(host_path("disk"), &o, &d, &err), &err);
	return d;
}

static void host_begin(enum vhd_format_id format)
{
	struct store_folder *f;
	struct vhd_disk *d;

	snprintf(host_dir, sizeof(host_dir), "/dev/shm/spindle-track-XXXXXX");
	assert_non_null(mkdtemp(host_dir));
	assert_int_equal(store_folder_host(host_dir, &f, NULL), 0);
	make_base(f, "disk", format, SIZE, format == VHD_FORMAT_RAW ? 0 : SP_MIB(2), 512);
	store_folder_close(f);
	d = host_open(format, true);
	track(d);
	write_at(d, UNIT, 512, 1);
	point(d, "p");
	write_at(d, 3 * UNIT, 512, 1);
	finish(d);
}

static void host_end(void)
{
	shell("rm -r %s%s", host_dir, "");
}

static void test_host_reopen(void **state)
{
	const struct format_row *row = *state;
	struct vhd_disk *d;

	host_begin(row->format);
	for (int i = 0; i < 3; i++) {
		d = host_open(row->format, i > 0);
		if (i > 0)
			track(d);
		expect_blocks(d, "p", NULL, 3);
		finish(d);
	}
	host_end();
}

static void test_qemu_writes(void **state)
{
	const struct format_row *row = *state;
	static const char *const names[] = { [VHD_FORMAT_RAW] = "raw", [VHD_FORMAT_VHD] = "vpc",
					     [VHD_FORMAT_VHDX] = "vhdx" };
	struct vhd_disk *d;

	if (system("qemu-io --version >/dev/null 2>&1") != 0)
		skip();
	host_begin(row->format);
	shell("qemu-io -f %s -c 'write -P 7 640k 4k' %s >/dev/null", names[row->format], host_path("disk"));
	d = host_open(row->format, false);
	expect_everything(d, "p", VHD_TRACK_FOREIGN);
	finish(d);
	d = host_open(row->format, true);
	track(d);
	expect_everything(d, "p", VHD_TRACK_FOREIGN);
	finish(d);
	host_end();
}

/* At once after the close, in the same tick of the file system's clock if that were possible. */
static void test_write_at_once(void **state)
{
	const struct format_row *row = *state;
	struct vhd_disk *d;
	int fd;

	for (int i = 0; i < 5; i++) {
		host_begin(row->format);
		fd = open(host_path("disk"), O_RDWR | O_CLOEXEC);
		assert_int_equal(pwrite(fd, "x", 1, 70000), 1);
		close(fd);
		d = host_open(VHD_FORMAT_RAW, false);
		assert_int_equal(vhd_disk_close(d, NULL), 0);
		if (row->format != VHD_FORMAT_VHDX) {	/* there it is metadata, damaged */
			d = host_open(row->format, false);
			expect_everything(d, "p", VHD_TRACK_FOREIGN);
			finish(d);
		}
		host_end();
	}
}

static void test_copied(void **state)
{
	const struct format_row *row = *state;
	struct vhd_disk *d;

	host_begin(row->format);
	shell("cp -p %s %s", host_path("disk"), host_path("copy"));
	shell("mv %s %s", host_path("copy"), host_path("disk"));
	d = host_open(row->format, true);
	track(d);
	expect_everything(d, "p", VHD_TRACK_FOREIGN);
	finish(d);
	host_end();
}

/* ---- failures ------------------------------------------------------------------------------------- */

struct fault_row {
	const char *name;
	enum vhd_format_id format;
	int error;
	bool sticky;
	unsigned classes;
};

static const struct fault_row faults[] = {
	{ "vhdx EIO once", VHD_FORMAT_VHDX, -EIO, false, FAULT_ALL },
	{ "vhdx EIO for good", VHD_FORMAT_VHDX, -EIO, true, FAULT_WRITE | FAULT_SYNC },
	{ "vhdx ENOSPC for good", VHD_FORMAT_VHDX, -ENOSPC, true, FAULT_WRITE | FAULT_RESIZE },
	{ "raw EIO once", VHD_FORMAT_RAW, -EIO, false, FAULT_ALL },
	{ "raw EIO for good", VHD_FORMAT_RAW, -EIO, true, FAULT_WRITE | FAULT_SYNC | FAULT_NAMES },
	{ "vhd EIO once", VHD_FORMAT_VHD, -EIO, false, FAULT_ALL },
};

static const uint64_t places[] = { 1, 300, 2, 600, 301, 900, 5 };

/* Writes with failures on the way. Returns whether there is a point. */
static bool failing_work(struct vhd_disk *d)
{
	uint8_t buf[4096];
	bool pointed;

	memset(buf, 7, sizeof(buf));
	vhd_disk_write(d, buf, sizeof(buf), 40 * UNIT);
	pointed = vhd_track_point(d, "p", NULL, NULL) == 0;
	for (unsigned i = 0; i < SP_ARRAY_SIZE(places); i++) {
		vhd_disk_write(d, buf, sizeof(buf), places[i] * UNIT);
		if (i == 2)
			vhd_disk_flush(d);
		if (i == 3 && disk_tracked(d))
			track_rest_now(d);
	}
	return pointed;
}

/* What got through is in the answer. */
static void judge_faults(struct vhd_disk *d, uint64_t k, bool crash)
{
	struct answer w;
	uint8_t byte;

	ask(d, "p", NULL, &w);
	for (unsigned i = 0; i < SP_ARRAY_SIZE(places); i++) {
		assert_int_equal(vhd_disk_read(d, &byte, 1, places[i] * UNIT), 0);
		if (byte == 7 && !w.block[places[i]])
			fail_msg("operation %llu failed%s: block %u is missing", (unsigned long long)k,
				 crash ? ", then a crash" : "", (unsigned)places[i]);
	}
}

static bool fault_round(const struct fault_row *row, struct store_folder *base, uint64_t k, bool crash)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE, .format = row->format };
	struct store_folder *f, *ff;
	bool pointed = false;
	struct fault_plan plan;
	struct vhd_disk *d;

	assert_int_equal(store_folder_mem_clone(base, &f), 0);
	assert_int_equal(store_folder_fault_new(f, &plan, &ff), 0);
	fault_plan_set(&plan, row->classes, 0, row->error, row->sticky, false);
	assert_int_equal(vhd_disk_open_in(ff, "disk", &o, &d, NULL), 0);
	fault_plan_set(&plan, row->classes, k, row->error, row->sticky, false);
	if (vhd_disk_track(d, true, NULL) == 0)
		pointed = failing_work(d);
	if (crash)
		vhd_disk_abandon(d);
	else
		vhd_disk_close(d, NULL);
	plan.enabled = false;
	if (pointed && vhd_disk_open_in(ff, "disk", &o, &d, NULL) == 0) {
		vhd_disk_track(d, true, NULL);
		judge_faults(d, k, crash);
		vhd_disk_close(d, NULL);
	}
	store_folder_close(ff);
	return plan.hits > 0;
}

static void test_faults(void **state)
{
	const struct fault_row *row = *state;
	struct store_folder *base = folder_new();
	uint64_t k = 1;

	finish(fresh(base, row->format));
	while (fault_round(row, base, k, true) | fault_round(row, base, k, false))
		k++;
	assert_true(k > 10);
	store_folder_close(base);
}

/* ---- anything, against a model -------------------------------------------------------------------- */

#define POINTS 6
#define CELLS (2 * BLOCKS)

struct model {
	struct store_folder *f;
	enum vhd_format_id format;
	struct vhd_disk *d;
	struct rng rng;
	uint32_t cell[CELLS], at[POINTS][CELLS];	/* a stamp per block, and as it was at each point */
	bool known[POINTS], dirty[POINTS][CELLS];
	unsigned made[POINTS], points;
	uint32_t stamp;
	bool inexact;			/* a crash or a stranger since: too much is allowed from now on */
};

static void model_write(struct model *m)
{
	uint64_t blocks = vhd_disk_size(m->d) / UNIT, b = rng_below(&m->rng, blocks);
	uint64_t n = sp_min(rng_between(&m->rng, 1, 3), blocks - b);

	m->stamp++;
	for (uint64_t i = b; i < b + n; i++) {
		bool zero = rng_chance(&m->rng, 1, 8);

		if (zero)
			assert_int_equal(vhd_disk_write_zeroes(m->d, i * UNIT, UNIT), 0);
		else
			assert_int_equal(vhd_disk_write(m->d, &m->stamp, 4, i * UNIT + 512), 0);
		m->cell[i] = zero ? 0 : m->stamp;
		for (unsigned p = 0; p < POINTS; p++)
			m->dirty[p][i] = true;
	}
}

static void model_point(struct model *m)
{
	unsigned slot = (unsigned)rng_below(&m->rng, POINTS);
	char name[16];

	snprintf(name, sizeof(name), "%u-%u", slot, m->made[slot]);
	if (m->known[slot])
		assert_int_equal(vhd_track_forget(m->d, name, NULL), 0);
	snprintf(name, sizeof(name), "%u-%u", slot, ++m->made[slot]);
	point(m->d, name);
	m->known[slot] = true;
	memcpy(m->at[slot], m->cell, sizeof(m->cell));
	memset(m->dirty[slot], 0, sizeof(m->dirty[slot]));
}

static void model_check(struct model *m)
{
	for (unsigned p = 0; p < POINTS; p++) {
		struct answer w;
		char name[16];

		if (!m->known[p])
			continue;
		snprintf(name, sizeof(name), "%u-%u", p, m->made[p]);
		ask(m->d, name, NULL, &w);
		for (unsigned b = 0; b < vhd_disk_size(m->d) / UNIT; b++) {
			if (m->cell[b] != m->at[p][b] && !w.block[b])
				fail_msg("point %s: block %u is missing", name, b);
			if (!m->inexact && w.block[b] && !m->dirty[p][b])
				fail_msg("point %s: block %u is too much", name, b);
		}
	}
}

static void model_again(struct model *m, bool do_track)
{
	m->d = open_format(m->f, "disk", m->format, true);
	if (do_track)
		track(m->d);
}

static void model_step(struct model *m)
{
	uint64_t what = rng_below(&m->rng, 100);

	if (what < 70) {
		model_write(m);
	} else if (what < 80) {
		model_point(m);
	} else if (what < 85) {
		track_rest_now(m->d);
	} else if (what < 90) {
		finish(m->d);
		model_again(m, true);
	} else if (what < 92) {
		vhd_disk_flush(m->d);
		vhd_disk_abandon(m->d);
		model_again(m, true);
		m->inexact = true;
	} else if (what < 93) {
		finish(m->d);
		model_again(m, false);
		model_write(m);
		finish(m->d);
		model_again(m, true);
		m->inexact = true;
	} else if (what < 94 && vhd_disk_size(m->d) < 2 * SIZE) {
		uint64_t old = vhd_disk_size(m->d);

		assert_int_equal(vhd_disk_grow(m->d, old + SP_MIB(8), NULL), 0);
		for (unsigned p = 0; p < POINTS; p++)
			memset(&m->dirty[p][old / UNIT], 1, SP_MIB(8) / UNIT);
	} else {
		model_check(m);
	}
}

static void test_model(void **state)
{
	const struct format_row *row = *state;

	for (unsigned round = 0; round < 6; round++) {
		struct model *m = calloc(1, sizeof(*m));

		m->f = folder_new();
		m->format = row->format;
		rng_init(&m->rng, 1000 + round);
		m->d = fresh(m->f, row->format);
		m->inexact = false;
		for (unsigned i = 0; i < 250; i++)
			model_step(m);
		model_check(m);
		finish(m->d);
		model_again(m, round % 2);
		model_check(m);
		finish(m->d);
		store_folder_close(m->f);
		free(m);
	}
}

/* ---- threads -------------------------------------------------------------------------------------- */

#define THREADS 3

struct load {
	struct vhd_disk *d;
	atomic_bool stop;
	_Atomic uint32_t stamp;
	_Atomic uint64_t writes;
};

struct writer {
	struct load *l;
	unsigned index;
	pthread_t thread;
};

static void write_done(struct vhd_req *req, int res)
{
	*(int *)req->user = res;
}

static int by_queue(struct vhd_queue *q, const uint32_t *stamp, uint64_t offset)
{
	struct iovec iov = { (void *)(uintptr_t)stamp, 512 };
	int res = 1;
	struct vhd_req req = {
		.op = VHD_REQ_WRITE, .offset = offset, .len = 512, .iov = &iov, .iovcnt = 1, .buf_index = -1,
		.complete = write_done, .user = &res,
	};

	vhd_queue_submit(q, &req);
	while (res == 1)
		vhd_queue_wait(q, 1);
	return res;
}

static void *write_blocks(void *arg)
{
	struct writer *w = arg;
	struct vhd_queue *q = NULL;
	struct rng rng;

	rng_init(&rng, 77 + w->index);
	if (w->index > 0 && vhd_queue_new(w->l->d, NULL, &q, NULL) < 0)
		abort();
	while (!atomic_load(&w->l->stop)) {
		uint64_t offset = (rng_below(&rng, BLOCKS / THREADS) * THREADS + w->index) * UNIT;
		uint32_t sector[128] = { atomic_fetch_add(&w->l->stamp, 1) };

		if ((q ? by_queue(q, sector, offset) : vhd_disk_write(w->l->d, sector, 512, offset)) != 0)
			abort();
		atomic_fetch_add(&w->l->writes, 1);
	}
	vhd_queue_free(q);
	return NULL;
}

static void read_stamps(struct vhd_disk *d, uint32_t *ret)
{
	for (unsigned b = 0; b < BLOCKS; b++)
		assert_int_equal(vhd_disk_read(d, &ret[b], 4, b * UNIT), 0);
}

static void wait_writes(struct load *l, uint64_t more)
{
	uint64_t want = atomic_load(&l->writes) + more;

	while (atomic_load(&l->writes) < want)
		usleep(200);
}

/* The content at a point, read from a copy of the files made at that moment. */
static void stamps_at_point(struct load *l, const char *name, uint32_t *ret)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_NO_LOCK, .format = VHD_FORMAT_VHDX };
	struct sp_err err = { 0 };
	struct vhd_disk *copy;

	must(vhd_disk_drain(l->d, 10000), &err);
	must(vhd_track_point_drained(l->d, name, NULL, &err), &err);
	shell("cp %s %s", host_path("disk"), host_path("copy"));
	vhd_disk_resume(l->d);
	must(vhd_disk_open(host_path("copy"), &o, &copy, &err), &err);
	read_stamps(copy, ret);
	finish(copy);
}

static void check_stamps(struct vhd_disk *d, const char *since, const uint32_t *then)
{
	static uint32_t now[BLOCKS];
	struct answer w;

	read_stamps(d, now);
	ask(d, since, NULL, &w);
	for (unsigned b = 0; b < BLOCKS; b++)
		if (now[b] != then[b] && !w.block[b])
			fail_msg("since %s: block %u is missing", since, b);
}

static void test_threads(void **state)
{
	static uint32_t then[3][BLOCKS];
	static const char *const names[] = { "a", "b", "c" };
	struct writer writers[THREADS];
	struct load l = { .stamp = 1 };
	struct vhd_disk *d;

	host_begin(VHD_FORMAT_VHDX);
	l.d = host_open(VHD_FORMAT_VHDX, true);
	track(l.d);
	for (unsigned i = 0; i < THREADS; i++) {
		writers[i] = (struct writer){ .l = &l, .index = i };
		assert_int_equal(pthread_create(&writers[i].thread, NULL, write_blocks, &writers[i]), 0);
	}
	for (unsigned p = 0; p < 3; p++) {
		stamps_at_point(&l, names[p], then[p]);
		for (int i = 0; i < 8; i++) {
			wait_writes(&l, 20);
			track_rest_now(l.d);
			assert_int_equal(vhd_disk_flush(l.d), 0);
		}
		assert_int_equal(vhd_track_changes(l.d, names[0], NULL, NULL, NULL, NULL, NULL), 0);
	}
	atomic_store(&l.stop, true);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(writers[i].thread, NULL);
	for (unsigned p = 0; p < 3; p++)
		check_stamps(l.d, names[p], then[p]);
	assert_int_equal(vhd_disk_flush(l.d), 0);
	vhd_disk_abandon(l.d);
	d = host_open(VHD_FORMAT_VHDX, true);
	track(d);
	for (unsigned p = 0; p < 3; p++)
		check_stamps(d, names[p], then[p]);
	finish(d);
	host_end();
}

static const struct single_row singles[] = {
	{ "names and the most points", test_names },
	{ "off and on again", test_off },
	{ "regions leave doubt", test_rest },
	{ "side-car missing", test_missing },
	{ "side-car damaged, after an orderly end", test_damage },
	{ "threads, queues, points and checkpoints", test_threads },
};

static void test_damage_crashed(void **state)
{
	test_damage((void *[]){ NULL });
}

static const struct single_row damages[] = { { "side-car damaged, after a crash", test_damage_crashed } };

int main(void)
{
	return ROWS_RUN(formats, test_points) + ROWS_RUN(formats, test_changes_of_all_kinds) +
	       ROWS_RUN(formats, test_grow) + ROWS_RUN(formats, test_forget) + ROWS_RUN(formats, test_crash) +
	       rows_run("leaf switch", test_push_leaf, &formats[1], sizeof(formats[0]), 2) +
	       ROWS_RUN(formats, test_written_by_others) + ROWS_RUN(formats, test_host_reopen) +
	       ROWS_RUN(formats, test_qemu_writes) + ROWS_RUN(formats, test_write_at_once) +
	       ROWS_RUN(formats, test_copied) + ROWS_RUN(formats, test_model) + ROWS_RUN(faults, test_faults) +
	       ROWS_RUN(singles, rows_single) + ROWS_RUN(damages, rows_single);
}
