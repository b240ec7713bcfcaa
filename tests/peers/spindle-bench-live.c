/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * spindle-bench-live - what snapshots and merges of disks in use cost their user. Prints one JSON object for
 * tests/peers/bench.py.
 *
 *   spindle-bench-live gap|freeze|merge [--count=N] [--disks=N] [--size=BYTES] [--rate=BYTES] [--iops=N] FOLDER
 *
 * Every disk has a thread that keeps 32 random writes of 4 KiB in flight, or makes so many a second.
 *
 *   gap	the longest time without a completion around a snapshot of all disks, prepare to finish, N times; and
 *		the longest in as many stretches of the same length without one, in turns: what the machine does alone
 *   freeze	first freeze to last thaw, as the coordinator counts it, with a writer that answers at once
 *   merge	writes per second while a layer full of data goes down into another one that is full, and in the seconds
 *		before, N times; the leaf is full each time
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <json-c/json.h>

#include "base/bytes.h"
#include "base/env.h"
#include "vhd/live.h"
#include "vhd/ops.h"
#include "vss/vss.h"

#define CELL 4096u
#define DEPTH 32u
#define PACED_DEPTH 4u
#define DISKS_MAX 8u
#define COUNT_MAX 1000u
#define QUIET_NS 1000000000u

struct load {
	struct vhd_disk *disk;
	uint64_t rng, cells;
	atomic_bool stop;
	uint64_t iops, since;		/* paced; 0: as fast as it goes */
	_Atomic uint64_t ops, last, gap;
	pthread_t thread;
};

struct op {
	struct vhd_req req;
	struct iovec iov;
	struct load *l;
	struct vhd_queue *q;
};

struct bench {
	const char *folder;
	unsigned count, disks;
	uint64_t size, rate, iops;
	struct vhd_disk *disk[DISKS_MAX];
	struct load load[DISKS_MAX];
};

__attribute__((noreturn)) static void die(const char *what, const struct sp_err *err)
{
	fprintf(stderr, "spindle-bench-live: %s: %s\n", what, err && err->code ? sp_err_text(err) : "failed");
	exit(1);
}

static void must(int r, const char *what, const struct sp_err *err)
{
	if (r < 0)
		die(what, err);
}

/* ---- load ----------------------------------------------------------------------------------------- */

static void go(struct op *op)
{
	struct load *l = op->l;

	l->rng ^= l->rng << 13;
	l->rng ^= l->rng >> 7;
	l->rng ^= l->rng << 17;
	op->req.offset = l->rng % l->cells * CELL;
	vhd_queue_submit(op->q, &op->req);
}

static void done(struct vhd_req *req, int res)
{
	struct op *op = req->user;
	struct load *l = op->l;
	uint64_t now = sp_env_monotonic_ns(), since = now - atomic_load_explicit(&l->last, memory_order_relaxed);

	if (res < 0)
		die("a write failed", NULL);
	atomic_store_explicit(&l->last, now, memory_order_relaxed);
	if (since > atomic_load_explicit(&l->gap, memory_order_relaxed))
		atomic_store_explicit(&l->gap, since, memory_order_relaxed);
	atomic_fetch_add_explicit(&l->ops, 1, memory_order_relaxed);
	if (!atomic_load_explicit(&l->stop, memory_order_relaxed))
		go(op);
}

static void pace(const struct load *l)
{
	uint64_t due = l->since + atomic_load(&l->ops) * 1000000000u / sp_max(l->iops, 1), now = sp_env_monotonic_ns();

	if (l->iops && now < due)
		usleep((useconds_t)((due - now) / 1000));
}

static void *write_on(void *arg)
{
	struct load *l = arg;
	unsigned depth = l->iops ? PACED_DEPTH : DEPTH;
	struct vhd_queue_opts o = { .depth = depth };
	struct op *op = calloc(DEPTH, sizeof(*op));
	struct sp_err err = { 0 };
	struct vhd_queue *q;
	uint8_t *mem = NULL;

	if (!op || posix_memalign((void **)&mem, CELL, DEPTH * CELL) != 0)
		die("out of memory", NULL);
	memset(mem, 0x5a, DEPTH * CELL);
	must(vhd_queue_new(l->disk, &o, &q, &err), "queue", &err);
	l->since = sp_env_monotonic_ns();
	atomic_store(&l->last, l->since);
	for (unsigned i = 0; i < depth; i++) {
		op[i] = (struct op){ .l = l, .q = q, .iov = { mem + i * CELL, CELL } };
		op[i].req = (struct vhd_req){
			.op = VHD_REQ_WRITE, .len = CELL, .iov = &op[i].iov, .iovcnt = 1, .buf_index = -1,
			.complete = done, .user = &op[i],
		};
		go(&op[i]);
	}
	while (vhd_queue_inflight(q) > 0) {
		must(vhd_queue_wait(q, 1), "wait", NULL);
		pace(l);
	}
	vhd_queue_free(q);
	free(mem);
	free(op);
	return NULL;
}

static void start_load(struct bench *b)
{
	for (unsigned i = 0; i < b->disks; i++) {
		struct load *l = &b->load[i];

		*l = (struct load){ .disk = b->disk[i], .rng = 88172645463325252u + i, .cells = b->size / CELL,
				    .iops = b->iops };
		if (pthread_create(&l->thread, NULL, write_on, l) != 0)
			die("no thread", NULL);
	}
}

static void stop_load(struct bench *b)
{
	for (unsigned i = 0; i < b->disks; i++) {
		atomic_store(&b->load[i].stop, true);
		pthread_join(b->load[i].thread, NULL);
	}
}

/* ---- disks ---------------------------------------------------------------------------------------- */

static void make_disks(struct bench *b)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE };
	struct sp_err err = { 0 };
	char path[4096];

	for (unsigned i = 0; i < b->disks; i++) {
		struct vhd_create_opts c = { .format = VHD_FORMAT_VHDX, .size = b->size };

		snprintf(path, sizeof(path), "%s/disk%u.vhdx", b->folder, i);
		must(vhd_create(path, &c, &err), path, &err);
		must(vhd_disk_open(path, &o, &b->disk[i], &err), path, &err);
	}
}

static void fill_disks(struct bench *b)
{
	uint8_t *buf = malloc(SP_MIB(1));

	if (!buf)
		die("out of memory", NULL);
	memset(buf, 0xa5, SP_MIB(1));
	for (unsigned i = 0; i < b->disks; i++) {
		for (uint64_t at = 0; at < b->size; at += SP_MIB(1))
			must(vhd_disk_write(b->disk[i], buf, SP_MIB(1), at), "fill", NULL);
		must(vhd_disk_flush(b->disk[i]), "flush", NULL);
	}
	free(buf);
}

static void close_disks(struct bench *b)
{
	struct sp_err err = { 0 };

	for (unsigned i = 0; i < b->disks; i++)
		must(vhd_disk_close(b->disk[i], &err), "close", &err);
}

/* ---- figures -------------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void put(json_object *o, const char *key, double value)
{
	json_object_object_add(o, key, json_object_new_double(value));
}

/* Milliseconds in, median, 99th part of a hundred and the worst out. */
static void put_times(json_object *o, const char *key, double *ms, unsigned count)
{
	static const struct { const char *name; unsigned part; } parts[] = {
		{ "median", 50 }, { "p99", 99 }, { "max", 100 },
	};
	char name[64];

	qsort(ms, count, sizeof(*ms), by_size);
	for (size_t i = 0; i < SP_ARRAY_SIZE(parts); i++) {
		snprintf(name, sizeof(name), "%s-%s-ms", key, parts[i].name);
		put(o, name, ms[sp_min((count * parts[i].part + 99) / 100, count) - 1]);
	}
}

/* ---- gap ------------------------------------------------------------------------------------------ */

static void reset_gaps(struct bench *b)
{
	for (unsigned i = 0; i < b->disks; i++)
		atomic_store(&b->load[i].gap, 0);
}

static double worst_gap(struct bench *b)
{
	uint64_t worst = 0;

	usleep(2000);	/* it ends with a completion */
	for (unsigned i = 0; i < b->disks; i++)
		worst = sp_max(worst, atomic_load(&b->load[i].gap));
	return (double)worst / 1e6;
}

static void snapshot(struct bench *b, unsigned n, struct vhd_live_timing *t)
{
	char name[32];
	struct vhd_live_opts o = { .name = name };
	struct vhd_live_set *set;
	struct sp_err err = { 0 };

	snprintf(name, sizeof(name), "s%u", n);
	must(vhd_live_prepare(b->disk, b->disks, &o, &set, &err), "prepare", &err);
	must(vhd_live_commit(set, false, t, &err), "commit", &err);
	must(vhd_live_finish(set, NULL, &err), "finish", &err);
}

static void bench_gap(struct bench *b, json_object *o)
{
	static double gap[COUNT_MAX], quiet[COUNT_MAX], pause[COUNT_MAX];
	struct vhd_live_timing t;

	start_load(b);
	usleep(200000);
	for (unsigned i = 0; i < b->count; i++) {
		uint64_t start = sp_env_monotonic_ns();

		reset_gaps(b);
		snapshot(b, i, &t);
		gap[i] = worst_gap(b);
		pause[i] = (double)t.pause_ns / 1e6;
		start = sp_env_monotonic_ns() - start;
		reset_gaps(b);
		usleep((useconds_t)(start / 1000));
		quiet[i] = worst_gap(b);
	}
	stop_load(b);
	put_times(o, "gap", gap, b->count);
	put_times(o, "quiet", quiet, b->count);
	put_times(o, "pause", pause, b->count);
}

/* ---- freeze --------------------------------------------------------------------------------------- */

struct shot {
	struct bench *b;
	struct vss_set *set;
	struct vhd_live_set *live;
	unsigned n;
	struct { int who; enum vss_op op; int res; } todo[8];
	unsigned todos;
};

static void answer_later(struct shot *s, int who, enum vss_op op, int res)
{
	s->todo[s->todos].who = who;
	s->todo[s->todos].op = op;
	s->todo[s->todos++].res = res;
}

static void on_check(void *ctx)
{
	answer_later(ctx, 0, VSS_OP_CHECK, 0);
}

static void on_freeze(void *ctx, unsigned window_ms)
{
	(void)window_ms;
	answer_later(ctx, 0, VSS_OP_FREEZE, 0);
}

static void on_thaw(void *ctx)
{
	answer_later(ctx, 0, VSS_OP_THAW, 0);
}

static void on_complete(void *ctx, bool good)
{
	(void)ctx;
	(void)good;
}

static void on_prepare(void *ctx)
{
	struct shot *s = ctx;
	char name[32];
	struct vhd_live_opts o = { .name = name };
	struct sp_err err = { 0 };

	snprintf(name, sizeof(name), "s%u", s->n);
	must(vhd_live_prepare(s->b->disk, s->b->disks, &o, &s->live, &err), "prepare", &err);
	answer_later(s, VSS_PROVIDER, VSS_OP_PREPARE, 0);
}

static void on_commit(void *ctx)
{
	struct shot *s = ctx;
	struct sp_err err = { 0 };

	must(vhd_live_commit(s->live, false, NULL, &err), "commit", &err);
	answer_later(s, VSS_PROVIDER, VSS_OP_COMMIT, 0);
}

static void on_finish(void *ctx, enum vss_level level)
{
	struct shot *s = ctx;
	struct sp_err err = { 0 };

	must(vhd_live_finish(s->live, vss_level_name(level), &err), "finish", &err);
	answer_later(s, VSS_PROVIDER, VSS_OP_FINISH, 0);
}

static void on_abort(void *ctx)
{
	(void)ctx;
	die("the set was aborted", NULL);
}

static double one_set(struct bench *b, unsigned n)
{
	static const struct vss_writer_ops ops = { on_check, on_freeze, on_thaw, on_complete };
	struct shot s = { .b = b, .n = n };
	struct vss_provider provider = { on_prepare, on_commit, on_finish, on_abort, &s };
	struct vss_opts o = { .require = VSS_FILE_SYSTEM };
	struct vss_writer w = { "at once", VSS_STAGE_GUEST, VSS_FILE_SYSTEM, true, &ops, &s };
	struct vss_result result;

	must(vss_set_new(&o, &provider, &s.set), "set", NULL);
	must(vss_add_writer(s.set, &w), "writer", NULL);
	vss_start(s.set, sp_env_monotonic_ns());
	for (unsigned i = 0; i < s.todos && i < SP_ARRAY_SIZE(s.todo); i++)
		vss_answer(s.set, s.todo[i].who, s.todo[i].op, s.todo[i].res, VSS_REASON_NONE, sp_env_monotonic_ns());
	vss_result(s.set, &result);
	if (vss_state(s.set) != VSS_DONE || result.level != VSS_FILE_SYSTEM)
		die(vss_state_name(vss_state(s.set)), NULL);
	vss_set_free(s.set);
	return (double)result.freeze_ns / 1e6;
}

static void bench_freeze(struct bench *b, json_object *o)
{
	static double ms[COUNT_MAX];

	start_load(b);
	usleep(200000);
	for (unsigned i = 0; i < b->count; i++) {
		ms[i] = one_set(b, i);
		usleep(5000);
	}
	stop_load(b);
	put_times(o, "freeze", ms, b->count);
}

/* ---- merge ---------------------------------------------------------------------------------------- */

static double rate_of(struct load *l, uint64_t start_ops, uint64_t ns)
{
	return (double)(atomic_load(&l->ops) - start_ops) * 1e9 / (double)ns;
}

static void merge_one(struct bench *b, unsigned n, double *ret_seconds)
{
	struct vhd_live_merge_opts o = { .rate_limit = b->rate };
	struct sp_err err = { 0 };
	uint64_t start = sp_env_monotonic_ns();
	char name[32];

	snprintf(name, sizeof(name), "s%u", n);
	must(vhd_live_merge(b->disk[0], name, &o, NULL, NULL, &err), name, &err);
	*ret_seconds = (double)(sp_env_monotonic_ns() - start) / 1e9;
}

/* Two snapshots, every layer full: s0 <- s1 <- leaf. The one below goes, another comes, its leaf is filled again. */
static void bench_merge(struct bench *b, json_object *o)
{
	json_object *quiet = json_object_new_array(), *merging = json_object_new_array();
	json_object *took = json_object_new_array();
	struct vhd_live_timing t;

	fill_disks(b);
	snapshot(b, 0, &t);
	for (unsigned i = 0; i < b->count; i++) {
		struct load *l = &b->load[0];
		uint64_t ops, start;
		double seconds, rate;

		fill_disks(b);
		snapshot(b, i + 1, &t);
		fill_disks(b);
		start_load(b);
		usleep(200000);
		ops = atomic_load(&l->ops);
		start = sp_env_monotonic_ns();
		usleep(QUIET_NS / 1000);
		json_object_array_add(quiet, json_object_new_double(rate_of(l, ops, sp_env_monotonic_ns() - start)));
		ops = atomic_load(&l->ops);
		start = sp_env_monotonic_ns();
		merge_one(b, i, &seconds);
		rate = rate_of(l, ops, sp_env_monotonic_ns() - start);
		json_object_array_add(merging, json_object_new_double(rate));
		json_object_array_add(took, json_object_new_double(seconds));
		stop_load(b);
	}
	json_object_object_add(o, "quiet-iops", quiet);
	json_object_object_add(o, "merging-iops", merging);
	json_object_object_add(o, "merge-seconds", took);
}

/* ---- program -------------------------------------------------------------------------------------- */

static int parse(struct bench *b, int argc, char **argv)
{
	static const struct option options[] = {
		{ "count", 1, NULL, 'n' }, { "disks", 1, NULL, 'd' }, { "size", 1, NULL, 's' },
		{ "rate", 1, NULL, 'r' }, { "iops", 1, NULL, 'i' }, { 0 },
	};
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 'n': b->count = (unsigned)strtoul(optarg, NULL, 0); break;
		case 'd': b->disks = (unsigned)strtoul(optarg, NULL, 0); break;
		case 's': b->size = strtoull(optarg, NULL, 0); break;
		case 'i': b->iops = strtoull(optarg, NULL, 0); break;
		case 'r': b->rate = strtoull(optarg, NULL, 0); break;
		default: return -1;
		}
	}
	if (optind != argc - 2 || b->count == 0 || b->count > COUNT_MAX || b->disks == 0 || b->disks > DISKS_MAX)
		return -1;
	b->folder = argv[optind + 1];
	return 0;
}

int main(int argc, char **argv)
{
	static const struct { const char *name; void (*run)(struct bench *b, json_object *o); } modes[] = {
		{ "gap", bench_gap }, { "freeze", bench_freeze }, { "merge", bench_merge },
	};
	struct bench b = { .count = 100, .disks = 1, .size = SP_MIB(256) };
	json_object *o = json_object_new_object();

	if (parse(&b, argc, argv) < 0) {
		fprintf(stderr, "usage: spindle-bench-live gap|freeze|merge [--count=N] [--disks=N] [--size=BYTES] "
				"[--rate=BYTES] [--iops=N]\n\tFOLDER\n");
		return 2;
	}
	for (size_t i = 0; i < SP_ARRAY_SIZE(modes); i++) {
		if (strcmp(argv[optind], modes[i].name) != 0)
			continue;
		make_disks(&b);
		if (modes[i].run != bench_merge)
			fill_disks(&b);
		modes[i].run(&b, o);
		close_disks(&b);
		puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
		json_object_put(o);
		return 0;
	}
	return 2;
}
