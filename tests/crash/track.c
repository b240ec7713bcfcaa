/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * track [--states N] [--seed S] [--format vhdx|raw|vhd]
 *
 * The power fails while changes are tracked: after every write and sync of image and side-car, with subsets of what was
 * not durable. Whatever is left is opened and asked: a block that does not read as it did at a point that had returned
 * must be in the answer since that point. What is reported too much is counted, so that "everything" cannot pass for an
 * answer.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "tests/support/rng.h"
#include "tests/support/store_log.h"
#include "vhd/track_int.h"

#define SIZE SP_MIB(64)		/* four regions */
#define UNIT SP_KIB(64)
#define PLACES 24u		/* blocks that are written, spread over the disk */
#define POINTS 16u
#define STEPS 120u

struct point {
	char name[16];
	uint32_t cell[PLACES];	/* what the places read as then */
	uint64_t from, to;	/* cuts between these have it for sure */
};

struct run {
	enum vhd_format_id format;
	uint64_t seed;
	struct rng rng;
	struct store_folder *folder;
	struct store_log *log;
	struct vhd_disk *d;
	uint32_t cell[PLACES], stamp;
	struct point point[POINTS];
	unsigned points;
	/* totals */
	uint64_t states, answers, exact, everything;
};

static __attribute__((noreturn, format(printf, 2, 3))) void die(struct run *t, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "FAIL track --format %s --seed %" PRIu64 ": ", vhd_format_name(t->format), t->seed);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

static uint64_t place(unsigned i)
{
	return i * (SIZE / PLACES) / UNIT * UNIT;
}

/* ---- the run -------------------------------------------------------------------------------------- */

static struct vhd_disk *open_disk(struct run *t, struct store_folder *f)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE, .format = t->format };
	struct sp_err err = { 0 };
	struct vhd_disk *d;

	if (vhd_disk_open_in(f, "disk", &o, &d, &err) < 0 || vhd_disk_track(d, true, &err) < 0)
		die(t, "does not open: %s", sp_err_text(&err));
	return d;
}

static void make(struct run *t)
{
	struct vhd_format_create c = {
		.size = SIZE, .kind = t->format == VHD_FORMAT_RAW ? VHD_KIND_FIXED : VHD_KIND_DYNAMIC,
		.block_size = t->format == VHD_FORMAT_RAW ? 0 : SP_MIB(2), .logical_sector = 512,
	};
	struct store_folder *plain;

	if (store_folder_mem(&plain) < 0 || vhd_create_in(plain, "disk", t->format, &c, NULL) < 0)
		die(t, "cannot make the disk");
	vhd_disk_close(open_disk(t, plain), NULL);
	if (store_folder_log_new(plain, &t->folder) < 0)
		die(t, "cannot record");
	t->log = store_folder_log(t->folder);
}

static void write_place(struct run *t)
{
	unsigned i = (unsigned)rng_below(&t->rng, PLACES);
	uint32_t sector[128] = { ++t->stamp };
	int r;

	if (rng_chance(&t->rng, 1, 6)) {
		sector[0] = 0;
		r = vhd_disk_write_zeroes(t->d, place(i), 512);
	} else {
		r = vhd_disk_write(t->d, sector, sizeof(sector), place(i));
	}
	if (r < 0)
		die(t, "cannot write: %d", r);
	t->cell[i] = sector[0];
}

static void make_point(struct run *t)
{
	struct point *p = &t->point[t->points];

	if (t->points == POINTS)
		return;
	snprintf(p->name, sizeof(p->name), "p%u", t->points);
	if (rng_chance(&t->rng, 1, 2)) {	/* as with a live snapshot */
		if (vhd_disk_drain(t->d, 1000) < 0 || vhd_track_point_drained(t->d, p->name, NULL, NULL) < 0)
			die(t, "no point");
		vhd_disk_resume(t->d);
	} else if (vhd_track_point(t->d, p->name, NULL, NULL) < 0) {
		die(t, "no point");
	}
	memcpy(p->cell, t->cell, sizeof(p->cell));
	p->from = log_seq(t->log);
	p->to = LOG_NEVER;
	t->points++;
}

static void forget_point(struct run *t)
{
	struct point *p = &t->point[t->points ? rng_below(&t->rng, t->points) : 0];

	if (t->points == 0 || p->to != LOG_NEVER)
		return;
	p->to = log_seq(t->log);
	if (vhd_track_forget(t->d, p->name, NULL) < 0)
		die(t, "cannot forget");
}

static void step(struct run *t)
{
	uint64_t what = rng_below(&t->rng, 100);

	if (what < 60)
		write_place(t);
	else if (what < 70)
		make_point(t);
	else if (what < 80)
		track_rest_now(t->d);
	else if (what < 90)
		vhd_disk_flush(t->d);
	else if (what < 94)
		forget_point(t);
	else if (vhd_disk_close(t->d, NULL) == 0)
		t->d = open_disk(t, t->folder);
	else
		die(t, "cannot close");
}

/* ---- what is left --------------------------------------------------------------------------------- */

static bool choose(void *arg, size_t index, const struct log_event *e, enum log_choice *how, uint64_t *k)
{
	struct rng *rng = arg;

	if (e->kind == LOG_WRITE && e->len > 512 && rng_chance(rng, 1, 6)) {
		*how = rng_chance(rng, 1, 2) ? LOG_TORN : LOG_TORN_REST;
		*k = rng_between(rng, 1, (e->len - 1) / 512) * 512;
	}
	return rng_chance(rng, 1, 2);
}

static int note(void *user, uint64_t offset, uint64_t len)
{
	bool *block = user;

	for (uint64_t b = offset / UNIT; b < (offset + len) / UNIT; b++)
		block[b] = true;
	return 0;
}

static void judge_point(struct run *t, struct vhd_disk *d, const struct point *p, const uint32_t *now, uint64_t seq)
{
	bool block[SIZE / UNIT] = { false };
	struct vhd_track_answer a;

	if (vhd_track_changes(d, p->name, NULL, note, block, &a, NULL) < 0)
		die(t, "cut at %" PRIu64 ": no answer since %s", seq, p->name);
	for (unsigned i = 0; i < PLACES; i++)
		if (now[i] != p->cell[i] && !block[place(i) / UNIT])
			die(t, "cut at %" PRIu64 ": since %s: place %u was %u, is %u, and is missing", seq, p->name,
			    i, p->cell[i], now[i]);
	if (a.why != VHD_TRACK_EXACT && a.why != VHD_TRACK_FOREIGN && a.why != VHD_TRACK_UNCLEAN)
		die(t, "cut at %" PRIu64 ": since %s: %s, though power cuts do no such thing", seq, p->name, a.reason);
	t->answers++;
	t->exact += a.why == VHD_TRACK_EXACT && a.bytes < SIZE;
	t->everything += a.why != VHD_TRACK_EXACT;
}

static void judge(struct run *t, uint64_t seq)
{
	struct store_folder *f = log_crash(t->log, seq, choose, &t->rng);
	struct vhd_disk *d = open_disk(t, f);
	uint32_t now[PLACES];

	for (unsigned i = 0; i < PLACES; i++)
		if (vhd_disk_read(d, &now[i], 4, place(i)) < 0)
			die(t, "cut at %" PRIu64 ": cannot read", seq);
	for (unsigned i = 0; i < t->points; i++)
		if (seq >= t->point[i].from && seq < t->point[i].to)
			judge_point(t, d, &t->point[i], now, seq);
	vhd_disk_close(d, NULL);
	store_folder_close(f);
	t->states++;
}

static void one_run(struct run *t, uint64_t seed, uint64_t states)
{
	struct test_env env;
	uint64_t end;

	t->seed = seed;
	rng_init(&t->rng, seed);
	test_env_install(&env, seed);
	memset(t->cell, 0, sizeof(t->cell));
	t->points = 0;
	t->stamp = 0;
	make(t);
	t->d = open_disk(t, t->folder);
	for (unsigned i = 0; i < STEPS; i++)
		step(t);
	vhd_disk_close(t->d, NULL);
	end = log_seq(t->log);
	for (uint64_t i = 0; i < states; i++)
		judge(t, rng_below(&t->rng, end + 1));
	store_folder_close(t->folder);
	test_env_remove(&env);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "states", 1, NULL, 'n' }, { "seed", 1, NULL, 's' }, { "format", 1, NULL, 'f' }, { 0 },
	};
	uint64_t states = 20000, seed = 0, in_a_run = 100;
	struct run t = { .format = VHD_FORMAT_VHDX };
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 'n': states = strtoull(optarg, NULL, 0); break;
		case 's': seed = strtoull(optarg, NULL, 0); break;
		case 'f':
			if (vhd_format_from_name(optarg, &t.format) < 0)
				return 2;
			break;
		default: return 2;
		}
	}
	if (seed == 0)
		seed = test_seed("track");
	while (t.states < states)
		one_run(&t, seed++, sp_min(in_a_run, states - t.states));
	printf("track %s: %" PRIu64 " states, %" PRIu64 " answers, %" PRIu64 " of less than the disk, %" PRIu64
	       " everything, 0 violations\n", vhd_format_name(t.format), t.states, t.answers, t.exact, t.everything);
	if (t.format == VHD_FORMAT_VHDX && t.answers > 100 && t.exact * 2 < t.answers)
		die(&t, "too few answers say anything");
	return 0;
}
