/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * spindle-bench - how fast one queue of the engine is. Prints one JSON object; tests/peers/bench.py runs it beside its
 * peers and prints ratios.
 *
 *   spindle-bench [--rw=randread|randwrite|read|write] [--bs=BYTES] [--step=BYTES] [--seed=N] [--qd=N]
 *		   [--seconds=S | --ops=N] [--flush-every=N] [--format=F] [--open-only] [--plain] [--warm] [--track]
 *		   [--idle-thread] FILE
 *
 * --track records changes since a point that is made before the clock starts: nothing is marked yet.
 * --idle-thread: with a second thread, even one that sleeps, the kernel counts who uses a file at each call.
 * --warm reads everything once before the clock starts, cell by cell: the map of a chain is then known.
 * --step is the -S of "qemu-img bench": the same sequence of offsets, for a comparison of equals.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <json-c/json.h>

#include "base/bytes.h"
#include "base/env.h"
#include "vhd/track.h"
#include "vhd/vhd.h"

struct bench {
	const char *rw, *file;
	uint64_t bs, step, ops, flush_every;
	unsigned qd, seconds;
	bool open_only, plain, warm, track, idle_thread;
	struct vhd_open_opts open;
	/* running */
	struct vhd_disk *disk;
	struct vhd_queue *queue;
	uint64_t units, at, issued, finished, rng, deadline, flushes;
	bool random, write, stop;
	int failed;
};

struct op {
	struct vhd_req req;
	struct bench *b;
	struct iovec iov;
	struct op *next;
};

static struct op *parked;	/* their batch is issued, its flush is to come */
static unsigned busy;
static uint64_t batch_left;

static uint64_t rnd(struct bench *b)
{
	b->rng ^= b->rng << 13;
	b->rng ^= b->rng >> 7;
	b->rng ^= b->rng << 17;
	return b->rng;
}

static uint64_t next_offset(struct bench *b)
{
	uint64_t at = b->at, end = b->units * b->bs;

	if (b->random)
		return rnd(b) % b->units * b->bs;
	b->at = (at + b->step) % end;
	return sp_min(at, end - b->bs);
}

static bool over(struct bench *b)
{
	if (b->ops)
		return b->issued >= b->ops;
	if ((b->issued & 63) == 0 && sp_env_monotonic_ns() >= b->deadline)
		b->stop = true;
	return b->stop;
}

static void start(struct op *op)
{
	struct bench *b = op->b;

	if (b->failed || over(b))
		return;
	if (b->flush_every && batch_left == 0) {
		op->next = parked;
		parked = op;
		return;
	}
	batch_left--;
	b->issued++;
	busy++;
	op->req.offset = next_offset(b);
	vhd_queue_submit(b->queue, &op->req);
}

static void flushed(struct vhd_req *req, int res)
{
	struct bench *b = req->user;
	struct op *op = parked;

	if (res < 0)
		b->failed = res;
	parked = NULL;
	batch_left = b->flush_every;
	while (op) {
		struct op *next = op->next;

		start(op);
		op = next;
	}
}

static void done(struct vhd_req *req, int res)
{
	static struct vhd_req flush;
	struct op *op = req->user;
	struct bench *b = op->b;

	busy--;
	if (res < 0)
		b->failed = res;
	b->finished++;
	start(op);
	if (parked && busy == 0) {	/* as qemu-img bench: the whole batch, then its flush, then the next */
		flush = (struct vhd_req){ .op = VHD_REQ_FLUSH, .complete = flushed, .user = b, .buf_index = -1 };
		b->flushes++;
		vhd_queue_submit(b->queue, &flush);
	}
}

static int run_queue(struct bench *b)
{
	struct vhd_queue_opts qo = { .depth = b->qd };
	struct iovec *iov = calloc(b->qd, sizeof(*iov));
	struct op *ops = calloc(b->qd, sizeof(*ops));
	uint8_t *mem = NULL;
	struct sp_err err = { 0 };

	if (!iov || !ops || posix_memalign((void **)&mem, 4096, b->qd * b->bs) != 0)
		return -ENOMEM;
	memset(mem, 0x5a, b->qd * b->bs);
	if (vhd_queue_new(b->disk, &qo, &b->queue, &err) < 0) {
		fprintf(stderr, "spindle-bench: %s\n", sp_err_text(&err));
		return -1;
	}
	for (unsigned i = 0; i < b->qd; i++)
		iov[i] = (struct iovec){ mem + i * b->bs, b->bs };
	batch_left = b->flush_every;

	bool fixed = vhd_queue_register_buffers(b->queue, iov, b->qd) == 0;

	for (unsigned i = 0; i < b->qd; i++) {
		ops[i].b = b;
		ops[i].iov = iov[i];
		ops[i].req = (struct vhd_req){
			.op = b->write ? VHD_REQ_WRITE : VHD_REQ_READ, .len = b->bs, .iov = &ops[i].iov, .iovcnt = 1,
			.buf_index = fixed ? (int)i : -1, .complete = done, .user = &ops[i],
		};
		start(&ops[i]);
	}
	while (vhd_queue_inflight(b->queue) > 0) {
		int r = vhd_queue_wait(b->queue, 1);

		if (r < 0)
			b->failed = r;
	}
	vhd_queue_free(b->queue);
	free(mem);
	free(ops);
	free(iov);
	return b->failed;
}

/* The blocking calls, one at a time. */
static int run_plain(struct bench *b)
{
	uint8_t *mem = malloc(b->bs);
	int r = mem ? 0 : -ENOMEM;

	while (r == 0 && (b->ops ? b->finished < b->ops : (b->finished & 63) || sp_env_monotonic_ns() < b->deadline)) {
		uint64_t at = next_offset(b);

		r = b->write ? vhd_disk_write(b->disk, mem, b->bs, at) : vhd_disk_read(b->disk, mem, b->bs, at);
		b->finished++;
		if (r == 0 && b->flush_every && b->finished % b->flush_every == 0)
			r = vhd_disk_flush(b->disk);
	}
	free(mem);
	return r;
}

static int read_all(struct bench *b)
{
	uint8_t buf[4096];
	int r = 0;

	for (uint64_t at = 0; r == 0 && at + sizeof(buf) <= vhd_disk_size(b->disk); at += sizeof(buf))
		r = vhd_disk_read(b->disk, buf, sizeof(buf), at);
	return r;
}

static int begin_tracking(struct bench *b, struct sp_err *err)
{
	int r = vhd_disk_track(b->disk, true, err);

	if (r == 0)
		r = vhd_track_forget(b->disk, "bench", err);
	if (r == 0 || r == -ENOENT)
		r = vhd_track_point(b->disk, "bench", NULL, err);
	return r;
}

static void *sleep_on(void *arg)
{
	for (;;)
		pause();
	return NULL;
}

static int begin_thread(void)
{
	pthread_t thread;
	int r = -pthread_create(&thread, NULL, sleep_on, NULL);

	return r < 0 ? r : -pthread_detach(thread);
}

/* Not getrusage(): its maximum goes back to before the exec, when this was a fork of a larger process. */
static int64_t peak_memory_kib(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[128];
	int64_t kib = -1;

	while (f && kib < 0 && fgets(line, sizeof(line), f))
		if (strncmp(line, "VmHWM:", 6) == 0)
			kib = strtoll(line + 6, NULL, 10);
	if (f)
		fclose(f);
	return kib;
}

static void report(struct bench *b, uint64_t open_ns, uint64_t run_ns, uint64_t close_ns)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "open-ms", json_object_new_double((double)open_ns / 1e6));
	json_object_object_add(o, "max-rss-kib", json_object_new_int64(peak_memory_kib()));
	if (!b->open_only) {
		json_object_object_add(o, "ops", json_object_new_int64((int64_t)b->finished));
		json_object_object_add(o, "seconds", json_object_new_double((double)run_ns / 1e9));
		json_object_object_add(o, "iops", json_object_new_double((double)b->finished * 1e9 / (double)run_ns));
		json_object_object_add(o, "mib-per-second", json_object_new_double((double)(b->finished * b->bs) /
										   1048576 * 1e9 / (double)run_ns));
		json_object_object_add(o, "flushes", json_object_new_int64((int64_t)b->flushes));
	}
	json_object_object_add(o, "close-ms", json_object_new_double((double)close_ns / 1e6));
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
}

static int parse(struct bench *b, int argc, char **argv)
{
	static const struct option options[] = {
		{ "rw", 1, NULL, 'r' }, { "bs", 1, NULL, 'b' }, { "qd", 1, NULL, 'q' }, { "seconds", 1, NULL, 's' },
		{ "ops", 1, NULL, 'n' }, { "flush-every", 1, NULL, 'f' }, { "format", 1, NULL, 'F' },
		{ "step", 1, NULL, 'S' },
		{ "seed", 1, NULL, 'R' }, { "open-only", 0, NULL, 'o' }, { "plain", 0, NULL, 'p' },
		{ "warm", 0, NULL, 'w' }, { "track", 0, NULL, 't' }, { "idle-thread", 0, NULL, 'i' },
		{ 0 },
	};
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 'r': b->rw = optarg; break;
		case 'b': b->bs = strtoull(optarg, NULL, 0); break;
		case 'S': b->step = strtoull(optarg, NULL, 0); break;
		case 'R': b->rng += strtoull(optarg, NULL, 0) * 0x9e3779b97f4a7c15u; break;
		case 'q': b->qd = (unsigned)strtoul(optarg, NULL, 0); break;
		case 's': b->seconds = (unsigned)strtoul(optarg, NULL, 0); break;
		case 'n': b->ops = strtoull(optarg, NULL, 0); break;
		case 'f': b->flush_every = strtoull(optarg, NULL, 0); break;
		case 'F':
			if (vhd_format_from_name(optarg, &b->open.format) < 0)
				return -1;
			break;
		case 'o': b->open_only = true; break;
		case 'p': b->plain = true; break;
		case 'w': b->warm = true; break;
		case 't': b->track = true; break;
		case 'i': b->idle_thread = true; break;
		default: return -1;
		}
	}
	if (optind != argc - 1 || b->bs == 0 || b->qd == 0)
		return -1;
	b->file = argv[optind];
	b->step = b->step ? b->step : b->bs;
	b->write = strstr(b->rw, "write") != NULL;
	b->random = strncmp(b->rw, "rand", 4) == 0;
	if (b->write)
		b->open.flags |= VHD_OPEN_WRITE;
	return 0;
}

int main(int argc, char **argv)
{
	struct bench b = { .rw = "randread", .bs = 4096, .qd = 32, .seconds = 2, .rng = 88172645463325252u };
	struct sp_err err = { 0 };
	uint64_t t0, t1, t2, t3, open_ns;
	int r;

	if (parse(&b, argc, argv) < 0) {
		fprintf(stderr, "usage: spindle-bench [--rw=MODE] [--bs=BYTES] [--step=BYTES] [--seed=N] [--qd=N] "
				"[--seconds=S|--ops=N]\n\t[--flush-every=N] [--format=F] [--open-only] [--plain] "
				"[--warm] [--track] [--idle-thread] FILE\n");
		return 2;
	}
	t0 = sp_env_monotonic_ns();
	r = vhd_disk_open(b.file, &b.open, &b.disk, &err);
	t1 = sp_env_monotonic_ns();
	open_ns = t1 - t0;
	if (r == 0 && b.warm)
		r = read_all(&b);
	if (r == 0 && b.track)
		r = begin_tracking(&b, &err);
	if (r == 0 && b.idle_thread)
		r = begin_thread();
	t1 = sp_env_monotonic_ns();
	if (r == 0 && !b.open_only) {
		b.units = vhd_disk_size(b.disk) / b.bs;
		b.deadline = t1 + (uint64_t)b.seconds * 1000000000;
		r = b.plain ? run_plain(&b) : run_queue(&b);
	}
	t2 = sp_env_monotonic_ns();
	if (b.disk) {
		int c = vhd_disk_close(b.disk, &err);

		if (r == 0)
			r = c;
	}
	t3 = sp_env_monotonic_ns();
	if (r < 0) {
		fprintf(stderr, "spindle-bench: %s: %s\n", b.file, err.code ? sp_err_text(&err) : strerror(-r));
		return 1;
	}
	report(&b, open_ns, t2 - t1, t3 - t2);
	return 0;
}
