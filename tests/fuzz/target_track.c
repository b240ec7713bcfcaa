/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A ruined side-car beside a good image: every record changes the side-car, whatever file it names. It must be refused
 * or lead to an answer, in bounded memory, and tracking must go on from what is left.
 */
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "tests/fuzz/fuzz.h"
#include "vhd/store_mem_int.h"
#include "vhd/track_int.h"

#define SIDE_CAR_MAX SP_KIB(64)

static void must(int r, const struct sp_err *err)
{
	fz_check(r >= 0, "%s", sp_err_text(err));
}

static struct vhd_disk *open_disk(const struct fz_seed *seed, struct store_folder *f, bool write)
{
	struct vhd_open_opts o = { .flags = write ? VHD_OPEN_WRITE : 0, .format = seed->format };
	struct sp_err err = { 0 };
	struct vhd_disk *d;

	must(vhd_disk_open_in(f, seed->name[0], &o, &d, &err), &err);
	return d;
}

static void write_byte(struct vhd_disk *d, uint64_t offset)
{
	fz_check(vhd_disk_write(d, "x", 1, offset) == 0, "cannot write");
}

/* The seed with a side-car of three points; [1]: left by a process that died. Made once. */
static struct store_folder *template(const struct fz_seed *seed, bool died)
{
	static struct store_folder *made[2];
	struct sp_err err = { 0 };
	struct vhd_disk *d;

	if (made[died])
		return made[died];
	must(store_folder_mem_clone(seed->folder, &made[died]), &err);
	d = open_disk(seed, made[died], true);
	must(vhd_disk_track(d, true, &err), &err);
	for (char name[2] = "a"; name[0] <= 'c'; name[0]++) {
		must(vhd_track_point(d, name, NULL, &err), &err);
		write_byte(d, (uint64_t)(name[0] - 'a') * SP_MIB(20) + 1);
	}
	if (died)
		vhd_disk_abandon(d);
	else
		must(vhd_disk_close(d, &err), &err);
	return made[died];
}

/* Checksums of both headers, and of what they name where that is in the file. */
static void seal(struct store *s)
{
	static uint8_t bytes[SIDE_CAR_MAX];

	for (unsigned copy = 0; copy < 2; copy++) {
		struct track_header_disk h;
		struct track_extent_disk *extents[] = { &h.table, &h.current };

		if (store_read(s, &h, sizeof(h), copy * TRACK_PAGE) < 0)
			continue;
		for (unsigned i = 0; i < 2; i++) {
			uint32_t len = le32_get(extents[i]->length);

			if (len <= sizeof(bytes) && store_read(s, bytes, len, le64_get(extents[i]->offset)) == 0)
				extents[i]->checksum = le32_make(sp_crc32c(bytes, len));
		}
		h.checksum = le32_make(sp_crc32c_skip(&h, sizeof(h), offsetof(struct track_header_disk, checksum)));
		fz_check(store_write(s, &h, sizeof(h), copy * TRACK_PAGE) == 0, "cannot seal");
	}
}

static void ruin(const struct fz_case *c, struct store_folder *f, const char *name)
{
	struct store *s;

	fz_check(store_folder_open(f, name, STORE_RDWR, &s, NULL) == 0, "the side-car is not there");
	for (unsigned i = 0; i < c->in.records; i++) {
		const struct fz_record *r = &c->in.record[i];
		uint64_t at = r->offset % SIDE_CAR_MAX;

		if (r->kind == FZ_PATCH && r->len)
			store_write(s, r->bytes, r->len, at);
		else if (r->kind == FZ_SIZE)
			store_resize(s, at);
		else if (r->kind == FZ_ZERO)
			store_zero(s, at, r->len);
	}
	if (c->in.flags & FZ_SEAL)
		seal(s);
	store_close(s);
}

static int note(void *user, uint64_t offset, uint64_t len)
{
	uint64_t *next = user;

	fz_check(offset >= *next && len > 0, "ranges are not in order");
	*next = offset + len + 1;
	return 0;
}

static void ask(struct vhd_disk *d)
{
	static const char *const names[] = { "a", "b", "c", "d" };

	for (unsigned i = 0; i < SP_ARRAY_SIZE(names); i++) {
		struct vhd_track_answer a;
		uint64_t next = 0;
		int r = vhd_track_changes(d, names[i], NULL, note, &next, &a, NULL);

		fz_check(r == 0, "no answer: %d", r);
		fz_check(next <= vhd_disk_size(d) + 1, "a range past the end");
		fz_check(a.why == VHD_TRACK_EXACT || a.bytes == vhd_disk_size(d), "everything is not everything");
	}
}

static void go_on(struct vhd_disk *d)
{
	struct sp_err err = { 0 };
	struct vhd_track_answer a;

	must(vhd_disk_track(d, true, &err), &err);
	ask(d);
	if (vhd_track_point(d, "new", NULL, &err) < 0)
		return;			/* full, or the name is taken */
	write_byte(d, SP_MIB(30));
	must(vhd_track_changes(d, "new", NULL, NULL, NULL, &a, &err), &err);
	fz_check(a.why == VHD_TRACK_EXACT && a.bytes == a.granularity, "a new point does not work");
	vhd_track_forget(d, "b", NULL);
	ask(d);
}

static void run_track(struct fz_case *c)
{
	struct store_folder *f;
	struct vhd_disk *d;
	char name[64];

	fz_check(store_folder_mem_clone(template(c->seed, FZ_VARIANT(c->in.flags) & 1), &f) == 0, "out of memory");
	snprintf(name, sizeof(name), "%s" VHD_TRACK_SUFFIX, c->seed->name[0]);
	ruin(c, f, name);
	d = open_disk(c->seed, f, false);
	ask(d);
	vhd_disk_close(d, NULL);
	d = open_disk(c->seed, f, true);
	go_on(d);
	fz_check(vhd_disk_close(d, NULL) == 0, "does not close");
	store_folder_close(f);
}

static const enum fz_seed_id track_seeds[] = { FZ_VHDX_DYNAMIC };
const struct fz_target fz_target_track = {
	.name = "track", .seed = track_seeds, .seeds = SP_ARRAY_SIZE(track_seeds), .run = run_track,
};
