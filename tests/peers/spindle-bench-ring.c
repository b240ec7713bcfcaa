/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * spindle-bench-ring - how fast the rings are: a client of the library and a provider in the same process, one channel,
 * both polling. Prints one JSON object; tests/peers/bench.py runs it beside its peers.
 *
 *   spindle-bench-ring [--rw=randread|randwrite] [--bs=BYTES] [--qd=N] [--seconds=S] [--engine] (--null=BYTES | FILE)
 *
 * --engine leaves the ring out: the same requests go to a queue of the engine, polled.
 */
#include <errno.h>
#include <getopt.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/env.h"
#include "storvsc/storvsc.h"
#include "storvsp/storvsp.h"
#include "vhd/vhd.h"

#define SAMPLES_MAX 2000000u

struct bench {
	const char *rw, *file;
	uint64_t bs, null_size, blocks;
	unsigned qd, seconds, busy;
	bool engine, write;
	struct vhd_disk *disk;
	uint64_t rng, deadline, finished;
	uint32_t *sample, samples;	/* nanoseconds of single requests */
	int failed;
	bool stop;
};

struct op {
	struct bench *b;
	struct storvsc_channel *ch;
	struct storvsc_request r;
	struct vhd_queue *queue;
	struct vhd_req req;
	struct iovec iov;
	uint64_t started;
	bool busy;
};

static uint64_t rnd(struct bench *b)
{
	b->rng ^= b->rng << 13;
	b->rng ^= b->rng >> 7;
	b->rng ^= b->rng << 17;
	return b->rng;
}

static void finished(struct op *op, int res)
{
	struct bench *b = op->b;
	uint64_t now = sp_env_monotonic_ns();

	op->busy = false;
	if (res < 0)
		b->failed = res;
	b->finished++;
	if (b->samples < SAMPLES_MAX)
		b->sample[b->samples++] = (uint32_t)(now - op->started);
	b->stop = b->stop || now >= b->deadline || b->failed;
}

/* ---- through the ring ---------------------------------------------------------------------------------- */

static void ring_done(struct storvsc_request *r);

static void ring_start(struct op *op)
{
	struct bench *b = op->b;
	uint64_t lba = rnd(b) % b->blocks * (b->bs / 512);
	uint32_t count = (uint32_t)(b->bs / 512);
	uint8_t cdb[16] = {
		b->write ? 0x8a : 0x88, 0, (uint8_t)(lba >> 56), (uint8_t)(lba >> 48), (uint8_t)(lba >> 40),
		(uint8_t)(lba >> 32), (uint8_t)(lba >> 24), (uint8_t)(lba >> 16), (uint8_t)(lba >> 8), (uint8_t)lba,
		(uint8_t)(count >> 24), (uint8_t)(count >> 16), (uint8_t)(count >> 8), (uint8_t)count,
	};
	int r;

	memcpy(op->r.cdb, cdb, sizeof(cdb));
	op->r.cdb_len = 16;
	op->r.to_device = b->write;
	op->r.data_len = (uint32_t)b->bs;
	op->r.done = ring_done;
	op->r.user = op;
	op->started = sp_env_monotonic_ns();
	r = storvsc_submit(op->ch, &op->r);
	if (r < 0)
		b->failed = r;
	else
		b->busy++;
}

static void ring_done(struct storvsc_request *r)
{
	struct op *op = r->user;

	op->b->busy--;
	finished(op, r->result < 0 ? r->result : r->status ? -EIO : 0);
	if (!op->b->stop)
		ring_start(op);
}

static int ring_loop(struct bench *b, struct storvsc_channel *ch, struct op *ops)
{
	for (unsigned i = 0; i < b->qd && !b->failed; i++)
		ring_start(&ops[i]);
	while (b->busy && !b->failed) {
		int r = storvsc_poll(ch);

		if (r < 0)
			return r;
	}
	return b->failed;
}

static int run_client(struct bench *b, struct storvsc *c)
{
	struct op *ops = calloc(b->qd, sizeof(*ops));
	struct storvsc_channel *ch = storvsc_channel(c, 0);
	uint8_t inquiry[36];
	struct storvsc_request hello = { .cdb = { 0x12, 0, 0, 0, 36 }, .cdb_len = 6, .data_len = sizeof(inquiry) };
	struct storvsc_capacity capacity;
	int r = ops ? 0 : -ENOMEM;

	hello.data = storvsc_buffer(c, 4096);
	for (unsigned tries = 0; r == 0 && tries < 4; tries++)	/* unit attentions of a fresh unit */
		r = storvsc_command(ch, &hello);
	if (r == 0)
		r = storvsc_capacity(ch, 0, &capacity);
	if (r < 0)
		return r;
	b->blocks = capacity.blocks * capacity.logical_block / b->bs;
	for (unsigned i = 0; i < b->qd; i++) {
		ops[i].b = b;
		ops[i].ch = ch;
		ops[i].r.data = storvsc_buffer(c, b->bs);
		if (!ops[i].r.data)
			return -ENOMEM;
	}
	b->deadline = sp_env_monotonic_ns() + (uint64_t)b->seconds * 1000000000;
	r = ring_loop(b, ch, ops);
	free(ops);
	return r;
}

static int run_ring(struct bench *b, struct sp_err *err)
{
	struct storvsp_opts opts = { .kind = STORVSP_SCSI, .name = "bench", .poll_us = UINT32_MAX };
	struct storvsc_opts client = { .arena_bytes = 64u << 20, .depth = sp_max(b->qd, 512) };
	struct scsi_lu_opts unit = { .kind = SCSI_DISK, .identity = { { 1 } } };
	struct storvsp *vsp;
	struct storvsc *c;
	struct scsi_lu *lu;
	int r = storvsp_new(&opts, &vsp, err);

	if (r == 0)
		r = b->disk ? scsi_backend_disk(b->disk, &unit.backend) :
			      scsi_backend_null(b->null_size, 512, &unit.backend);
	if (r == 0)
		r = scsi_lu_new(&unit, &lu, err);
	if (r == 0)
		r = storvsp_attach(vsp, (struct storvsp_address){ 0 }, lu, NULL, 0, err);
	if (r == 0)
		r = storvsc_open_device(storvsp_offer(vsp), &client, &c, err);
	if (r < 0)
		return r;
	r = run_client(b, c);
	storvsc_close(c);
	storvsp_free(vsp);
	return r;
}

/* ---- the engine alone ---------------------------------------------------------------------------------- */

static void engine_done(struct vhd_req *req, int res)
{
	finished(req->user, res);
}

static void engine_start(struct op *op)
{
	struct bench *b = op->b;

	op->req.offset = rnd(b) % b->blocks * b->bs;
	op->started = sp_env_monotonic_ns();
	op->busy = true;
	vhd_queue_submit(op->queue, &op->req);
}

static int run_engine(struct bench *b, struct sp_err *err)
{
	struct vhd_queue_opts qo = { .depth = b->qd };
	struct op *ops = calloc(b->qd, sizeof(*ops));
	struct vhd_queue *queue;
	uint8_t *mem = NULL;
	bool any = true;
	int r = vhd_queue_new(b->disk, &qo, &queue, err);

	if (r < 0 || !ops || posix_memalign((void **)&mem, 4096, b->qd * b->bs) != 0)
		return r < 0 ? r : -ENOMEM;
	struct iovec all = { mem, b->qd * b->bs };
	bool fixed = vhd_queue_register_buffers(queue, &all, 1) == 0;

	b->blocks = vhd_disk_size(b->disk) / b->bs;
	for (unsigned i = 0; i < b->qd; i++) {
		ops[i].b = b;
		ops[i].queue = queue;
		ops[i].iov = (struct iovec){ mem + i * b->bs, b->bs };
		ops[i].req = (struct vhd_req){
			.op = b->write ? VHD_REQ_WRITE : VHD_REQ_READ, .len = b->bs, .iov = &ops[i].iov, .iovcnt = 1,
			.buf_index = fixed ? 0 : -1, .complete = engine_done, .user = &ops[i],
		};
	}
	b->deadline = sp_env_monotonic_ns() + (uint64_t)b->seconds * 1000000000;
	while (any && !b->failed) {
		any = false;
		for (unsigned i = 0; i < b->qd; i++) {
			if (!ops[i].busy && !b->stop)
				engine_start(&ops[i]);
			any = any || ops[i].busy;
		}
		r = vhd_queue_poll(queue);
		if (r < 0)
			b->failed = r;
	}
	vhd_queue_free(queue);
	free(mem);
	free(ops);
	return b->failed;
}

/* ---- all together --------------------------------------------------------------------------------------- */

static int by_time(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static double at_part(const struct bench *b, double part)
{
	return b->samples ? b->sample[(uint32_t)((b->samples - 1) * part)] / 1e3 : 0;
}

static void report(struct bench *b, uint64_t run_ns)
{
	json_object *o = json_object_new_object();

	qsort(b->sample, b->samples, sizeof(*b->sample), by_time);
	json_object_object_add(o, "ops", json_object_new_int64((int64_t)b->finished));
	json_object_object_add(o, "iops", json_object_new_double((double)b->finished * 1e9 / (double)run_ns));
	json_object_object_add(o, "median-us", json_object_new_double(at_part(b, 0.5)));
	json_object_object_add(o, "p99-us", json_object_new_double(at_part(b, 0.99)));
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
}

static int parse(struct bench *b, int argc, char **argv)
{
	static const struct option options[] = {
		{ "rw", 1, NULL, 'r' }, { "bs", 1, NULL, 'b' }, { "qd", 1, NULL, 'q' }, { "seconds", 1, NULL, 's' },
		{ "null", 1, NULL, 'n' }, { "engine", 0, NULL, 'e' }, { 0 },
	};
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 'r': b->rw = optarg; break;
		case 'b': b->bs = strtoull(optarg, NULL, 0); break;
		case 'q': b->qd = (unsigned)strtoul(optarg, NULL, 0); break;
		case 's': b->seconds = (unsigned)strtoul(optarg, NULL, 0); break;
		case 'n': b->null_size = strtoull(optarg, NULL, 0); break;
		case 'e': b->engine = true; break;
		default: return -1;
		}
	}
	b->file = optind < argc ? argv[optind] : NULL;
	b->write = strcmp(b->rw, "randwrite") == 0;
	return !b->file == !b->null_size || b->bs < 512 || b->qd == 0 || (b->engine && !b->file) ? -1 : 0;
}

int main(int argc, char **argv)
{
	struct bench b = { .rw = "randread", .bs = 4096, .qd = 64, .seconds = 2, .rng = 88172645463325252u };
	struct sp_err err = { 0 };
	uint64_t begun;
	int r = parse(&b, argc, argv);

	if (r < 0) {
		fprintf(stderr, "usage: spindle-bench-ring [--rw=MODE] [--bs=BYTES] [--qd=N] [--seconds=S] [--engine] "
				"(--null=BYTES | FILE)\n");
		return 2;
	}
	b.sample = calloc(SAMPLES_MAX, sizeof(*b.sample));
	if (!b.sample)
		return 1;
	if (b.file)
		r = vhd_disk_open(b.file, &(struct vhd_open_opts){ .flags = VHD_OPEN_WRITE }, &b.disk, &err);
	if (r == 0) {
		r = b.engine ? run_engine(&b, &err) : run_ring(&b, &err);
		begun = b.deadline - (uint64_t)b.seconds * 1000000000;
		if (r == 0)
			report(&b, sp_env_monotonic_ns() - begun);
	}
	if (b.disk)
		vhd_disk_close(b.disk, NULL);
	if (r < 0)
		fprintf(stderr, "spindle-bench-ring: %s\n", err.code ? sp_err_text(&err) : strerror(-r));
	free(b.sample);
	return r < 0;
}
