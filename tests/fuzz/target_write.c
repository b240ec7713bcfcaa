/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writes to an image that may be hostile. Whatever it is, once it opens for writing it must keep what is written to it:
 * a block that overlaps another one or the metadata would show as bytes that changed by themselves.
 */
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "tests/fuzz/fuzz.h"
#include "vhd/store_mem_int.h"

#define OP_MAX SP_MIB(1)

enum op { OP_WRITE, OP_ZEROES, OP_DISCARD, OP_FLUSH, OP_REOPEN, OP_READ, OPS };

/* What was written, newest last. Discards forget: they may or may not have zeroed. */
struct written {
	struct {
		uint64_t offset, len;
		int pattern;		/* -1: unknown */
	} range[FZ_RECORDS];
	unsigned ranges;
};

static uint8_t buf[OP_MAX];

/* The newest range over @at says what it reads; -1: cannot be told. */
static int expected(const struct written *w, uint64_t at)
{
	for (unsigned i = w->ranges; i-- > 0;)
		if (at - w->range[i].offset < w->range[i].len)
			return w->range[i].pattern;
	return -1;
}

static void verify_at(struct vhd_disk *d, const struct written *w, uint64_t at, const char *when)
{
	int want = expected(w, at), r;
	uint8_t have = 0;

	if (want < 0)
		return;
	r = vhd_disk_read(d, &have, 1, at);
	fz_check(r == 0, "%s: written byte %" PRIu64 " cannot be read: %d", when, at, r);
	fz_check(have == want, "%s: byte %" PRIu64 " reads %#x, written was %#x", when, at, have, want);
}

static void verify(struct vhd_disk *d, const struct written *w, const char *when)
{
	for (unsigned i = 0; i < w->ranges; i++) {
		uint64_t offset = w->range[i].offset, len = w->range[i].len;

		verify_at(d, w, offset, when);
		verify_at(d, w, offset + len / 2, when);
		verify_at(d, w, offset + len - 1, when);
	}
}

static struct vhd_disk *open_disk(struct fz_case *c)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE, .format = c->seed->format, .orphan = VHD_ORPHAN_ZERO };
	struct sp_err err = { 0 };
	struct vhd_disk *d = NULL;

	vhd_disk_open_in(c->folder, c->seed->name[0], &o, &d, &err);
	return d;
}

static int change(struct vhd_disk *d, enum op op, uint64_t offset, uint64_t len, uint8_t pattern)
{
	switch (op) {
	case OP_WRITE:
		memset(buf, pattern, (size_t)len);
		return vhd_disk_write(d, buf, (size_t)len, offset);
	case OP_ZEROES:
		return vhd_disk_write_zeroes(d, offset, len);
	default:
		return vhd_disk_discard(d, offset, len);
	}
}

static void note(struct written *w, uint64_t offset, uint64_t len, int pattern)
{
	w->range[w->ranges].offset = offset;
	w->range[w->ranges].len = len;
	w->range[w->ranges].pattern = pattern;
	w->ranges++;
}

/* False when nothing more can be promised: a write or flush failed. */
static bool run_op(struct fz_case *c, struct vhd_disk **d, struct written *w, const struct fz_record *rec,
		   uint8_t pattern)
{
	enum op op = (enum op)((rec->file & 15) % OPS);
	uint64_t size = vhd_disk_size(*d), offset, len;
	int r;

	if (op == OP_FLUSH)
		return vhd_disk_flush(*d) == 0;
	if (op == OP_REOPEN) {
		struct sp_err err = { 0 };

		r = vhd_disk_close(*d, &err);
		*d = NULL;
		if (r < 0)
			return false;
		*d = open_disk(c);
		fz_check(*d, "was closed cleanly and does not open again");
		verify(*d, w, "after reopening");
		return true;
	}
	offset = rec->offset % (size + !size);
	len = sp_min(sp_min((uint64_t)rec->len << (rec->file >> 4), OP_MAX), size - offset);
	if (len == 0)
		return true;
	if (op == OP_READ)
		return vhd_disk_read(*d, buf, (size_t)len, offset), true;
	r = change(*d, op, offset, len, pattern);
	note(w, offset, len, r < 0 || op == OP_DISCARD ? -1 : op == OP_ZEROES ? 0 : pattern);
	return true;
}

static void run_write(struct fz_case *c)
{
	struct vhd_disk *d = open_disk(c);
	struct written w = { 0 };
	bool sound = true;

	for (unsigned i = 0; i < c->in.records && d && sound; i++) {
		if (c->in.record[i].kind != FZ_OP)
			continue;
		sound = run_op(c, &d, &w, &c->in.record[i], (uint8_t)(i + 1));
		if (sound && d)
			verify(d, &w, "after an operation");
	}
	if (d && vhd_disk_close(d, NULL) == 0 && sound) {
		d = open_disk(c);
		fz_check(d, "was closed cleanly and does not open again");
		verify(d, &w, "after closing");
		vhd_disk_abandon(d);
	}
}

static const enum fz_seed_id seeds[] = {
	FZ_VHD_DYNAMIC, FZ_VHDX_DYNAMIC, FZ_VHD_CHILD, FZ_VHDX_CHILD, FZ_VHDX_DIRTY, FZ_VHD_SMALL_BLOCKS, FZ_VHDX_FIXED,
	FZ_VHD_FIXED, FZ_VHDX_4K,
};
const struct fz_target fz_target_disk_write = {
	.name = "disk_write", .seed = seeds, .seeds = SP_ARRAY_SIZE(seeds), .ops = true, .run = run_write,
};
