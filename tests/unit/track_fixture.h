/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_TRACK_FIXTURE_H
#define SPINDLE_TESTS_TRACK_FIXTURE_H
/*
 * Tracked disks, in memory and on the host. What a test asks is always the same: what differs from the content at the
 * point must be in the answer.
 */
#include "tests/unit/chain_fixture.h"
#include "tests/unit/rows.h"

#include <stdio.h>
#include <stdlib.h>

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

static inline int note_range(void *user, uint64_t offset, uint64_t len)
{
	struct answer *w = user;

	assert_true(len > 0 && offset >= w->next && offset % UNIT == 0);
	w->next = offset + len + 1;	/* not even adjacent */
	for (uint64_t b = offset / UNIT; b < sp_div_ceil(offset + len, UNIT); b++)
		w->block[b] = true;
	return 0;
}

static inline void ask(struct vhd_disk *d, const char *since, const char *until, struct answer *w)
{
	struct sp_err err = { 0 };

	memset(w, 0, sizeof(*w));
	must(vhd_track_changes(d, since, until, note_range, w, &w->a, &err), &err);
	assert_int_equal(w->a.size, vhd_disk_size(d));
	assert_int_equal(w->a.reason[0] == '\0', w->a.why == VHD_TRACK_EXACT);
}

/* Exactly the blocks of @list (ended by -1) changed. */
static inline void expect(struct vhd_disk *d, const char *since, const char *until, const int *list)
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

static inline void expect_everything(struct vhd_disk *d, const char *since, enum vhd_track_why why)
{
	struct answer w;

	ask(d, since, NULL, &w);
	if (w.a.why != why)
		fail_msg("since %s: %d (%s), expected %d", since, w.a.why, w.a.reason, why);
	assert_int_equal(w.a.bytes, vhd_disk_size(d));
}

static inline void write_at(struct vhd_disk *d, uint64_t offset, uint64_t len, int value)
{
	uint8_t *buf = malloc(len);

	memset(buf, value, len);
	assert_int_equal(vhd_disk_write(d, buf, len, offset), 0);
	free(buf);
}

static inline void point(struct vhd_disk *d, const char *name)
{
	struct sp_err err = { 0 };

	must(vhd_track_point(d, name, NULL, &err), &err);
}

static inline void track(struct vhd_disk *d)
{
	struct sp_err err = { 0 };

	must(vhd_disk_track(d, true, &err), &err);
	assert_true(vhd_disk_tracked(d));
}

static inline void finish(struct vhd_disk *d)
{
	struct sp_err err = { 0 };

	must(vhd_disk_close(d, &err), &err);
}

static inline struct vhd_disk *open_format(struct store_folder *f, const char *name, enum vhd_format_id format, bool rw)
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

static inline struct vhd_disk *fresh(struct store_folder *f, enum vhd_format_id format)
{
	struct vhd_disk *d;

	make_base(f, "disk", format, SIZE, format == VHD_FORMAT_RAW ? 0 : SP_MIB(2), 512);
	d = open_format(f, "disk", format, true);
	track(d);
	return d;
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

static inline void shell(const char *fmt, const char *a, const char *b)
{
	char command[512];

	snprintf(command, sizeof(command), fmt, a, b);
	if (system(command) != 0)
		fail_msg("%s", command);
}

static inline struct vhd_disk *host_open(enum vhd_format_id format, bool rw)
{
	struct vhd_open_opts o = { .flags = rw ? VHD_OPEN_WRITE : 0, .format = format };
	struct sp_err err = { 0 };
	struct vhd_disk *d;

	must(vhd_disk_open(host_path("disk"), &o, &d, &err), &err);
	return d;
}

static inline void host_begin(enum vhd_format_id format)
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

static inline void host_end(void)
{
	shell("rm -r %s%s", host_dir, "");
}

#endif
