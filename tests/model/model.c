/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * model - random operations on a disk beside a flat array that knows the truth.
 *
 *   model [--ops N] [--seed S] [--only NAME] [--list]
 *
 * Every configuration (format, kind, block and sector size) runs at every depth from 0 to 8: that many layers lie under
 * the leaf before the first operation, and snapshots add more on the way. All of it happens in memory, so a run is a
 * function of its seed, which it prints.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "vhd/disk_int.h"
#include "vhd/live.h"
#include "vhd/track.h"

#define MAX_DEPTH 8
#define MAX_LAYERS 14
#define IO_MAX (384u << 10)
#define POINTS 3
#define UNIT SP_KIB(64)

struct config {
	const char *name;
	enum vhd_format_id format;
	enum vhd_kind kind;
	uint32_t block, sector;
	uint64_t size;
};

static const struct config configs[] = {
	{ "raw", VHD_FORMAT_RAW, VHD_KIND_FIXED, 0, 512, SP_MIB(6) + 512 },
	{ "vhd-fixed", VHD_FORMAT_VHD, VHD_KIND_FIXED, 0, 512, SP_MIB(6) + 1024 },
	{ "vhd-dynamic", VHD_FORMAT_VHD, VHD_KIND_DYNAMIC, 2u << 20, 512, SP_MIB(9) + 512 },
	{ "vhd-dynamic-512k", VHD_FORMAT_VHD, VHD_KIND_DYNAMIC, 512u << 10, 512, SP_MIB(5) },
	{ "vhd-dynamic-4k", VHD_FORMAT_VHD, VHD_KIND_DYNAMIC, 4096, 512, SP_MIB(3) },
	{ "vhdx-fixed", VHD_FORMAT_VHDX, VHD_KIND_FIXED, 1u << 20, 512, SP_MIB(7) + 512 },
	{ "vhdx-dynamic", VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, 1u << 20, 512, SP_MIB(9) + 1536 },
	{ "vhdx-dynamic-2m", VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, 2u << 20, 512, SP_MIB(17) },
	{ "vhdx-dynamic-4096", VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, 1u << 20, 4096, SP_MIB(9) + 4096 },
};

struct run {
	const struct config *cfg;
	uint64_t seed, rng;
	struct store_folder *folder;
	struct vhd_disk *disk;
	struct vhd_queue *queue;
	unsigned layers, leaf;		/* how many; number in the name of the topmost */
	unsigned snapshots;		/* live ones so far */
	bool tracked;
	struct point {
		char name[24];		/* "": none */
		uint8_t *truth;		/* as it was then */
	} point[POINTS];
	unsigned points;
	uint64_t answers, exact, merges;
	uint8_t *truth, *buf;
	uint64_t op;
	const char *doing;
	uint64_t at, len;
};

static uint64_t rnd(struct run *r)
{
	uint64_t z = (r->rng += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static uint64_t below(struct run *r, uint64_t n)
{
	return rnd(r) % n;
}

__attribute__((noreturn)) static void fail(struct run *r, const char *what, int code)
{
	fprintf(stderr, "FAIL %s seed=%" PRIu64 " op=%" PRIu64 " layers=%u: %s [%#" PRIx64 "+%#" PRIx64 "]: %s (%s)\n",
		r->cfg->name, r->seed, r->op, r->layers, r->doing, r->at, r->len, what, code ? strerror(-code) : "-");
	exit(1);
}

static void must(struct run *r, int code, struct sp_err *err)
{
	if (code < 0)
		fail(r, err ? sp_err_text(err) : "unexpected error", code);
}

static void name_of(unsigned layer, char name[static 32])
{
	snprintf(name, 32, "layer%u.img", layer);
}

static void open_disk(struct run *r)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE, .format = r->cfg->format };
	struct vhd_queue_opts qo = { .depth = 8 };
	struct sp_err err = { 0 };
	char name[32];

	name_of(r->leaf, name);
	must(r, vhd_disk_open_in(r->folder, name, &o, &r->disk, &err), &err);
	if (r->tracked)
		must(r, vhd_disk_track(r->disk, true, &err), &err);
	must(r, vhd_queue_new(r->disk, &qo, &r->queue, &err), &err);
	if (vhd_disk_size(r->disk) != r->cfg->size)
		fail(r, "virtual size has changed", 0);
}

static void close_disk(struct run *r)
{
	struct sp_err err = { 0 };

	vhd_queue_free(r->queue);
	must(r, vhd_disk_close(r->disk, &err), &err);
}

/* ---- one I/O, plain or through the queue --------------------------------------------------------- */

static void req_done(struct vhd_req *req, int res)
{
	*(int *)req->user = res;
}

static int through_queue(struct run *r, enum vhd_req_op op, unsigned flags, uint64_t off, uint64_t len, uint8_t *data)
{
	struct iovec iov[3];
	int res = 1, n = 0;
	uint64_t done = 0;

	while (data && done < len) {	/* vectors with odd seams, but whole sectors or crumbs alike */
		uint64_t piece = n == 2 ? len - done : sp_min(len - done, 1 + below(r, len));

		iov[n].iov_base = data + done;
		iov[n++].iov_len = piece;
		done += piece;
	}
	struct vhd_req req = {
		.op = op, .flags = flags, .offset = off, .len = len, .iov = iov, .iovcnt = n, .buf_index = -1,
		.complete = req_done, .user = &res,
	};

	vhd_queue_submit(r->queue, &req);
	while (res == 1 && vhd_queue_wait(r->queue, 1) >= 0)
		;
	return res;
}

static void pick_range(struct run *r)
{
	uint64_t size = r->cfg->size, unit = below(r, 4) == 0 ? 1 : below(r, 2) ? r->cfg->sector : 4096;
	uint64_t max = below(r, 20) == 0 ? IO_MAX * 8 : below(r, 4) == 0 ? IO_MAX : 16384;

	r->at = below(r, size) / unit * unit;
	r->len = (1 + below(r, max)) / unit * unit;
	if (r->len == 0)
		r->len = unit;
	r->len = sp_min(sp_min(r->len, size - r->at), IO_MAX * 8);
}

static void compare(struct run *r, const uint8_t *got)
{
	if (memcmp(got, r->truth + r->at, r->len) == 0)
		return;
	for (uint64_t i = 0; i < r->len; i++) {
		if (got[i] != r->truth[r->at + i]) {
			fprintf(stderr, "first difference at %#" PRIx64 ": read %02x, expected %02x\n", r->at + i,
				got[i], r->truth[r->at + i]);
			break;
		}
	}
	fail(r, "miscompare", 0);
}

static void op_read(struct run *r)
{
	r->doing = "read";
	pick_range(r);
	memset(r->buf, 0xa5, r->len);
	must(r, below(r, 2) ? vhd_disk_read(r->disk, r->buf, r->len, r->at)
			    : through_queue(r, VHD_REQ_READ, 0, r->at, r->len, r->buf), NULL);
	compare(r, r->buf);
}

static void op_write(struct run *r)
{
	r->doing = "write";
	pick_range(r);
	for (uint64_t i = 0; i < r->len; i += 8) {
		uint64_t v = rnd(r);

		memcpy(r->buf + i, &v, sp_min(8, r->len - i));
	}
	must(r,
	     below(r, 2) ? vhd_disk_write(r->disk, r->buf, r->len, r->at)
			 : through_queue(r, VHD_REQ_WRITE, below(r, 50) == 0 ? VHD_REQ_FUA : 0, r->at, r->len, r->buf),
	     NULL);
	memcpy(r->truth + r->at, r->buf, r->len);
}

static void op_zero(struct run *r)
{
	r->doing = "write zeroes";
	pick_range(r);
	must(r, below(r, 2) ? vhd_disk_write_zeroes(r->disk, r->at, r->len)
			    : through_queue(r, VHD_REQ_WRITE_ZEROES, 0, r->at, r->len, NULL), NULL);
	memset(r->truth + r->at, 0, r->len);
}

/* A byte that was discarded reads zero or as before, and stays what it was read as. */
static void op_discard(struct run *r)
{
	r->doing = "discard";
	pick_range(r);
	must(r, below(r, 2) ? vhd_disk_discard(r->disk, r->at, r->len)
			    : through_queue(r, VHD_REQ_DISCARD, 0, r->at, r->len, NULL), NULL);
	must(r, vhd_disk_read(r->disk, r->buf, r->len, r->at), NULL);
	for (uint64_t i = 0; i < r->len; i++) {
		if (r->buf[i] != 0 && r->buf[i] != r->truth[r->at + i])
			fail(r, "a discarded byte reads neither zero nor old", 0);
	}
	memcpy(r->truth + r->at, r->buf, r->len);
}

static void op_flush(struct run *r)
{
	r->doing = "flush";
	must(r, below(r, 2) ? vhd_disk_flush(r->disk) : through_queue(r, VHD_REQ_FLUSH, 0, 0, 0, NULL), NULL);
}

static void op_reopen(struct run *r)
{
	r->doing = "reopen";
	close_disk(r);
	open_disk(r);
}

/* As a crash right after a flush: nothing may be lost, and the log, if there is one, is replayed. */
static void op_crash(struct run *r)
{
	r->doing = "crash after flush";
	vhd_queue_free(r->queue);
	must(r, vhd_disk_flush(r->disk), NULL);
	vhd_disk_abandon(r->disk);
	open_disk(r);
}

/* Zero ranges of the map must be zero in truth. */
static void op_map(struct run *r)
{
	struct vhd_range range;

	r->doing = "map";
	pick_range(r);
	must(r, vhd_disk_map(r->disk, r->at, r->len, &range), NULL);
	if (range.offset != r->at || range.len == 0 || range.len > r->len)
		fail(r, "map answers another range", 0);
	if (range.kind != VHD_RANGE_ZERO && range.kind != VHD_RANGE_DATA)
		fail(r, "map finds unknown bytes", 0);
	for (uint64_t i = 0; range.kind == VHD_RANGE_ZERO && i < range.len; i++) {
		if (r->truth[r->at + i])
			fail(r, "map says zero, but data was written here", 0);
	}
}

static void make_child(struct run *r)
{
	struct vhd_image *parent = vhd_disk_image(r->disk, 0);
	struct vhd_format_create c = {
		.size = r->cfg->size, .kind = VHD_KIND_DIFFERENCING, .block_size = r->cfg->block,
		.logical_sector = r->cfg->sector, .parent_identity = parent->identity,
	};
	struct sp_err err = { 0 };
	char parent_name[32], name[32];

	/* A child need not cut its blocks as its parent does. */
	if (below(r, 3) == 0)
		c.block_size = r->cfg->format == VHD_FORMAT_VHDX ? 2u << 20 : 512u << 10;
	name_of(r->leaf, parent_name);
	name_of(r->leaf + 1, name);
	c.parent_relative = parent_name;
	must(r, store_mtime(parent->store, &c.parent_mtime), NULL);
	must(r, vhd_create_in(r->folder, name, r->cfg->format, &c, &err), &err);
}

static bool op_snapshot(struct run *r)
{
	r->doing = "snapshot";
	if (r->cfg->format == VHD_FORMAT_RAW || r->layers == MAX_LAYERS)
		return false;
	if (below(r, 2)) {	/* offline: close, child, open */
		vhd_queue_free(r->queue);
		must(r, vhd_disk_flush(r->disk), NULL);
		make_child(r);
		must(r, vhd_disk_close(r->disk, NULL), NULL);
		r->layers++;
		r->leaf++;
		open_disk(r);
	} else {		/* live: drain, new leaf, resume */
		struct vhd_image *leaf;
		struct store *s;
		struct sp_err err = { 0 };
		char name[32];

		make_child(r);
		name_of(r->leaf + 1, name);
		must(r, store_folder_open(r->folder, name, STORE_RDWR, &s, &err), &err);
		must(r, vhd_image_open(s, name, vhd_format_by_id(r->cfg->format), VHD_IMG_WRITABLE, &leaf, &err), &err);
		must(r, vhd_disk_drain(r->disk, 1000), NULL);
		must(r, vhd_disk_push_leaf(r->disk, leaf, &err), &err);
		vhd_disk_resume(r->disk);
		r->layers++;
		r->leaf++;
	}
	return true;
}

/* ---- live snapshots and merges ------------------------------------------------------------------- */

static struct point *point_slot(struct run *r)
{
	struct point *p = &r->point[r->points % POINTS];

	if (*p->name && vhd_track_forget(r->disk, p->name, NULL) < 0) {
		/* It is in the side-car of another name of the leaf. */
	}
	snprintf(p->name, sizeof(p->name), "p%u", r->points++);
	memcpy(p->truth, r->truth, r->cfg->size);
	return p;
}

static void op_live_snapshot(struct run *r)
{
	char name[24];
	struct vhd_live_opts o = { .name = name };
	struct vhd_live_set *set;
	struct sp_err err = { 0 };

	r->doing = "live snapshot";
	if (r->cfg->format == VHD_FORMAT_RAW || r->layers == MAX_LAYERS)
		return;
	snprintf(name, sizeof(name), "s%u", r->snapshots++);
	must(r, vhd_live_prepare(&r->disk, 1, &o, &set, &err), &err);
	if (below(r, 5) == 0) {
		vhd_live_abort(set);
		return;
	}
	op_write(r);		/* still below */
	r->doing = "live snapshot";
	must(r, vhd_live_commit(set, false, NULL, &err), &err);
	op_write(r);
	must(r, vhd_live_finish(set, "crash", &err), &err);
	r->layers++;
}

/* Of those that bear the name of the leaf. */
static void op_live_merge(struct run *r)
{
	struct vhd_live_merge_opts o = { .small = below(r, 2) ? 4096 : 0 };
	struct vhd_live_snapshot *list;
	struct sp_err err = { 0 };
	size_t count;

	r->doing = "live merge";
	must(r, vhd_live_list(r->disk, &list, &count, &err), &err);
	if (count > 0) {
		size_t at = r->cfg->format == VHD_FORMAT_VHDX ? below(r, count) : 0;

		must(r, vhd_live_merge(r->disk, list[at].name, &o, NULL, NULL, &err), &err);
		r->merges++;
	}
	vhd_live_list_free(list);
	r->layers = vhd_disk_layers(r->disk);
}

/* ---- tracking ------------------------------------------------------------------------------------ */

static void op_point(struct run *r)
{
	struct sp_err err = { 0 };

	r->doing = "tracking point";
	must(r, vhd_track_point(r->disk, point_slot(r)->name, NULL, &err), &err);
}

static int note_changed(void *user, uint64_t offset, uint64_t len)
{
	bool *changed = user;

	for (uint64_t at = offset / UNIT; at < sp_div_ceil(offset + len, UNIT); at++)
		changed[at] = true;
	return 0;
}

static void check_point(struct run *r, struct point *p)
{
	static bool changed[SP_MIB(20) / UNIT];
	struct vhd_track_answer a;
	struct sp_err err = { 0 };

	memset(changed, 0, sizeof(changed));
	must(r, vhd_track_changes(r->disk, p->name, NULL, note_changed, changed, &a, &err), &err);
	r->answers++;
	r->exact += a.why == VHD_TRACK_EXACT;
	for (r->at = 0; r->at < r->cfg->size; r->at += UNIT) {
		r->len = sp_min(UNIT, r->cfg->size - r->at);
		if (!changed[r->at / UNIT] && memcmp(r->truth + r->at, p->truth + r->at, r->len) != 0)
			fail(r, "a change is not in the answer", 0);
	}
	if (a.why != VHD_TRACK_EXACT)	/* of a leaf of another name, or after a crash: it will not get better */
		*p->name = '\0';
}

static void op_changes(struct run *r)
{
	r->doing = "changes";
	for (unsigned i = 0; i < POINTS; i++)
		if (*r->point[i].name)
			check_point(r, &r->point[i]);
}

static void whole_disk(struct run *r)
{
	r->doing = "whole disk";
	r->at = 0;
	r->len = r->cfg->size;
	must(r, vhd_disk_read(r->disk, r->buf, r->len, 0), NULL);
	compare(r, r->buf);
}

static void step(struct run *r)
{
	uint64_t dice = below(r, 1000);

	if (dice < 380)
		op_read(r);
	else if (dice < 760)
		op_write(r);
	else if (dice < 820)
		op_zero(r);
	else if (dice < 870)
		op_discard(r);
	else if (dice < 910)
		op_map(r);
	else if (dice < 912)
		op_live_snapshot(r);
	else if (dice < 914)
		op_live_merge(r);
	else if (dice < 920 && r->tracked)
		below(r, 2) ? op_changes(r) : op_point(r);
	else if (dice < 920)
		op_map(r);
	else if (dice < 980)
		op_flush(r);
	else if (dice < 990)
		op_crash(r);
	else if (dice < 998)
		op_reopen(r);
	else
		op_snapshot(r);
	r->op++;
}

struct totals {
	uint64_t answers, exact, merges;
};

static void run_one(const struct config *cfg, unsigned depth, uint64_t ops, uint64_t seed, struct totals *t)
{
	struct run r = { .cfg = cfg, .seed = seed, .rng = seed, .layers = 1, .doing = "create" };
	struct vhd_format_create c = {
		.size = cfg->size, .kind = cfg->kind, .block_size = cfg->block, .logical_sector = cfg->sector,
	};
	struct sp_err err = { 0 };

	r.truth = calloc(1, cfg->size);
	r.buf = malloc(cfg->size + IO_MAX * 8);
	r.tracked = depth % 2;
	for (unsigned i = 0; i < POINTS; i++)
		r.point[i].truth = calloc(1, cfg->size);
	if (!r.truth || !r.buf || !r.point[POINTS - 1].truth)
		fail(&r, "no memory for the model", -ENOMEM);
	must(&r, store_folder_mem(&r.folder), NULL);
	must(&r, vhd_create_in(r.folder, "layer0.img", cfg->format, &c, &err), &err);
	open_disk(&r);
	for (unsigned i = 0; i < depth; i++) {
		for (unsigned k = 0; k < 12; k++)
			op_write(&r);
		if (!op_snapshot(&r))
			break;
	}
	while (r.op < ops)
		step(&r);
	op_changes(&r);
	whole_disk(&r);
	close_disk(&r);
	open_disk(&r);
	whole_disk(&r);
	close_disk(&r);
	store_folder_close(r.folder);
	t->answers += r.answers;
	t->exact += r.exact;
	t->merges += r.merges;
	for (unsigned i = 0; i < POINTS; i++)
		free(r.point[i].truth);
	free(r.truth);
	free(r.buf);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "ops", required_argument, NULL, 'n' }, { "seed", required_argument, NULL, 's' },
		{ "only", required_argument, NULL, 'o' }, { "depth", required_argument, NULL, 'd' }, { 0 },
	};
	uint64_t ops = 1000000, seed = 1, each, total = 0;
	const char *only = NULL;
	struct totals t = { 0 };
	int opt, only_depth = -1;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 'n')
			ops = strtoull(optarg, NULL, 0);
		else if (opt == 's')
			seed = strtoull(optarg, NULL, 0);
		else if (opt == 'o')
			only = optarg;
		else if (opt == 'd')
			only_depth = atoi(optarg);
		else
			return 2;
	}
	each = sp_div_ceil(ops, SP_ARRAY_SIZE(configs) * (MAX_DEPTH + 1));
	printf("model: seed %" PRIu64 ", %" PRIu64 " operations for each format and depth\n", seed, each);
	for (size_t i = 0; i < SP_ARRAY_SIZE(configs); i++) {
		if (only && strcmp(only, configs[i].name) != 0)
			continue;
		for (unsigned depth = 0; depth <= MAX_DEPTH; depth++) {
			if (only_depth >= 0 && depth != (unsigned)only_depth)
				continue;
			run_one(&configs[i], depth, each, seed + 1000 * i + depth, &t);
			total += each;
		}
		printf("%s: ok\n", configs[i].name);
		fflush(stdout);
	}
	printf("model: %" PRIu64 " operations, %" PRIu64 " merges, %" PRIu64 " answers of tracking, %" PRIu64
	       " of them exact, 0 miscompares\n", total, t.merges, t.answers, t.exact);
	if (t.answers > 100 && t.exact < t.answers / 8) {
		fprintf(stderr, "FAIL: tracking knows too little\n");
		return 1;
	}
	return 0;
}
