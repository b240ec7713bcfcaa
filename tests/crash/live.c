/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Snapshots of disks in use, cut anywhere: a set of two disks that is committed, another that is aborted, and
 * snapshots that are merged away while the disk is open.
 *
 * The rule for a set is judged on every state after its recovery: all disks have the new leaf, or none has.
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "tests/crash/crash.h"
#include "vhd/live.h"
#include "vhd/ops_int.h"

/* ---- a set --------------------------------------------------------------------------------------- */

static void fill_other(struct crash *c, struct vhd_disk *d, uint8_t value)
{
	uint8_t buf[4096];

	memset(buf, value, sizeof(buf));
	crash_must(c, vhd_disk_write(d, buf, sizeof(buf), SP_MIB(1)), NULL);
	crash_must(c, vhd_disk_flush(d), NULL);
}

static struct vhd_disk *open_other(struct crash *c)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE, .format = c->w->format };
	struct sp_err err = { 0 };
	struct vhd_disk *d;

	crash_must(c, vhd_disk_open_in(c->folder, "other", &o, &d, &err), &err);
	return d;
}

void live_two_disks(struct crash *c)
{
	struct sp_err err = { 0 };
	struct vhd_disk *other;

	crash_make_base(c, "disk");
	crash_make_base(c, "other");
	crash_open(c, "disk");
	for (unsigned i = 0; i < 12; i++)
		crash_write_anywhere(c);
	crash_close(c);
	other = open_other(c);
	fill_other(c, other, 1);
	crash_must(c, vhd_disk_close(other, &err), &err);
}

static void write_some(struct crash *c, unsigned writes)
{
	for (unsigned i = 0; i < writes; i++)
		crash_write_anywhere(c);
	crash_flush(c);
}

static struct vhd_live_set *prepare(struct crash *c, struct vhd_disk *other, const char *name)
{
	struct vhd_disk *disks[] = { other, c->disk };
	struct vhd_live_opts o = { .name = name };
	struct vhd_live_set *set;
	struct sp_err err = { 0 };

	crash_must(c, vhd_live_prepare(disks, 2, &o, &set, &err), &err);
	return set;
}

/* As a coordinator does it, which has drained the disks by itself, or in one call. Both flush what has been written. */
static void commit(struct crash *c, struct vhd_disk *other, struct vhd_live_set *set)
{
	bool drained = rng_chance(&c->rng, 1, 2);
	struct sp_err err = { 0 };

	if (drained) {
		crash_must(c, vhd_disk_drain(other, 1000), NULL);
		crash_must(c, vhd_disk_drain(c->disk, 1000), NULL);
	}
	crash_must(c, vhd_live_commit(set, drained, NULL, &err), &err);
	if (drained) {
		vhd_disk_resume(c->disk);
		vhd_disk_resume(other);
	}
}

void live_set(struct crash *c)
{
	struct vhd_disk *other = open_other(c);
	struct vhd_live_set *set;
	struct sp_err err = { 0 };

	crash_open(c, "disk");
	write_some(c, 4);
	set = prepare(c, other, "one");
	for (unsigned i = 0; i < 3; i++)
		crash_write_anywhere(c);
	commit(c, other, set);
	write_some(c, 3);
	fill_other(c, other, 2);
	crash_must(c, vhd_live_finish(set, "file-system", &err), &err);
	write_some(c, 2);
	set = prepare(c, other, "two");
	write_some(c, 2);
	vhd_live_abort(set);
	write_some(c, 2);
	fill_other(c, other, 3);
	crash_close(c);
	crash_must(c, vhd_disk_close(other, &err), &err);
}

static int layers_of(struct crash *c, struct store_folder *f, const char *name, unsigned *ret, struct sp_err *err)
{
	struct vhd_open_opts o = { .format = c->w->format };
	uint8_t byte[2];
	struct vhd_disk *d;
	int r = vhd_disk_open_in(f, name, &o, &d, err);

	if (r < 0)
		return r;
	*ret = vhd_disk_layers(d);
	r = vhd_disk_read(d, &byte[0], 1, SP_MIB(1));
	if (r == 0)
		r = vhd_disk_read(d, &byte[1], 1, SP_MIB(1) + 4095);
	if (r == 0 && strcmp(name, "other") == 0 &&
	    (byte[0] < 1 || byte[0] > 3 || (byte[0] == 2 && vhd_disk_layers(d) != 2)))
		r = sp_err_set(err, -EBADMSG, "the other disk holds %u with %u layers", byte[0], vhd_disk_layers(d));
	vhd_disk_close(d, NULL);
	return r;
}

int live_set_recover(struct crash *c, struct store_folder *f, struct sp_err *err)
{
	struct vhd_live_place place[] = { { f, "disk" }, { f, "other" } };
	unsigned disk = 0, other = 0;
	int r = vhd_live_recover(place, 2, NULL, err);

	if (r == 0)
		r = layers_of(c, f, "disk", &disk, err);
	if (r == 0)
		r = layers_of(c, f, "other", &other, err);
	if (r == 0 && disk != other)
		r = sp_err_set(err, -EBADMSG, "half a snapshot: %u layers of one disk, %u of the other", disk, other);
	return r;
}

/* ---- merges -------------------------------------------------------------------------------------- */

void live_snapshots(struct crash *c)
{
	static const char *const names[] = { "one", "two" };
	struct sp_err err = { 0 };

	crash_make_base(c, "disk");
	for (unsigned i = 0; i < SP_ARRAY_SIZE(names); i++) {
		crash_open(c, "disk");
		for (unsigned n = 0; n < 8; n++)
			crash_write_anywhere(c);
		crash_close(c);
		crash_must(c, vhd_snapshot_create_in(c->folder, "disk", names[i], &err), &err);
	}
}

static void merge(struct crash *c, const char *name, uint64_t small)
{
	struct vhd_live_merge_opts o = { .small = small };
	struct sp_err err = { 0 };

	crash_must(c, vhd_live_merge(c->disk, name, &o, NULL, NULL, &err), &err);
}

void live_merges(struct crash *c)
{
	bool vhdx = c->w->format == VHD_FORMAT_VHDX;

	crash_open(c, "disk");
	write_some(c, 6);
	crash_zero(c, 0, c->w->block / SECTOR);
	crash_flush(c);
	merge(c, vhdx ? "one" : "two", SECTOR);		/* VHDX: in the middle; VHD: below the leaf, in rounds */
	write_some(c, 4);
	merge(c, vhdx ? "two" : "one", vhdx ? SECTOR : 0);
	write_some(c, 3);
	crash_close(c);
}

int live_merge_recover(struct crash *c, struct store_folder *f, struct sp_err *err)
{
	struct vhd_live_place place = { f, "disk" };

	(void)c;
	return vhd_live_recover(&place, 1, NULL, err);
}

static int finish_one(struct crash *c, struct store_folder *f, const char *name, struct sp_err *err)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE, .format = c->w->format };
	struct vhd_disk *d;
	int r, closed;

	if (c->states % 16 < 8 || strcmp(name, "one") == 0)
		return vhd_snapshot_delete_in(f, "disk", name, false, NULL, err);
	r = vhd_disk_open_in(f, "disk", &o, &d, err);
	if (r < 0)
		return r;
	r = vhd_live_merge(d, name, NULL, NULL, NULL, err);
	closed = vhd_disk_close(d, err);
	return r < 0 ? r : closed;
}

/* Offline, or again under a disk that is open; then nothing is left of either snapshot. */
int live_merge_finish(struct crash *c, struct store_folder *f, struct sp_err *err)
{
	static const char *const names[] = { "two", "one" };
	unsigned layers = 0;
	int r = 0;

	for (unsigned i = 0; r >= 0 && i < SP_ARRAY_SIZE(names); i++) {
		r = finish_one(c, f, names[i], err);
		if (r == -ENOENT)
			r = 0;
	}
	if (r == 0)
		r = layers_of(c, f, "disk", &layers, err);
	return r == 0 && layers != 1 ? sp_err_set(err, -EBADMSG, "%u layers are left", layers) : r;
}
