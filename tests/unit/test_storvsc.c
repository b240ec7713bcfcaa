/* SPDX-License-Identifier: BSD-2-Clause */
/* The client library on the real provider, both in this process. */
#include "storvsc/storvsc.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <time.h>

#include "base/bytes.h"
#include "storvsp/storvsp.h"
#include "storvsp/vstor_wire.h"
#include "tests/support/gate_backend.h"
#include "tests/support/rng.h"
#include "tests/unit/rows.h"

#define DISK_SIZE SP_MIB(8)
#define PATIENCE_MS 5000
#define AT(n) ((struct storvsp_address){ .lun = (n) })

static struct storvsp *controller;
static struct gate *gate;
static struct storvsc *client;

static struct scsi_lu *lu_over(struct scsi_backend *backend, bool read_only, uint8_t number)
{
	struct scsi_lu_opts opts = { .kind = SCSI_DISK, .backend = backend, .read_only = read_only,
				     .identity = { { 1, 2, 3, number } } };
	struct scsi_lu *lu;

	assert_int_equal(scsi_lu_new(&opts, &lu, NULL), 0);
	return lu;
}

static void attach(uint8_t lun, struct scsi_lu *lu)
{
	assert_int_equal(storvsp_attach(controller, AT(lun), lu, NULL, PATIENCE_MS, NULL), 0);
}

/* A disk with a gate at LUN 0, one that is read-only at LUN 1, none at LUN 2. */
static void begin(const struct storvsp_opts *provider, const struct storvsc_opts *opts)
{
	struct storvsp_opts o = provider ? *provider : (struct storvsp_opts){ .max_subchannels = 3 };
	struct sp_err err = { 0 };

	o.name = "scsi0";
	assert_int_equal(storvsp_new(&o, &controller, NULL), 0);
	gate = gate_new(DISK_SIZE);
	attach(0, lu_over(gate_backend(gate), false, 0));
	attach(1, lu_over(gate_backend(gate_new(DISK_SIZE)), true, 1));
	if (storvsc_open_device(storvsp_offer(controller), opts, &client, &err) < 0)
		fail_msg("%s", sp_err_text(&err));
}

static void end(void)
{
	storvsc_close(client);
	storvsp_free(controller);
}

static struct storvsc_channel *primary(void)
{
	return storvsc_channel(client, 0);
}

/* ---- blocking ------------------------------------------------------------------------------------------ */

static void fill(uint8_t *buf, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(seed + i * 7 + i / 4096);
}

static void capacity(void **state)
{
	struct storvsc_capacity c;

	begin(NULL, NULL);
	assert_int_equal(storvsc_channels(client), 1);
	assert_int_equal(storvsc_capacity(primary(), 0, &c), 0);
	assert_int_equal(c.blocks, DISK_SIZE / 512);
	assert_int_equal(c.logical_block, 512);
	assert_in_range(c.physical_block, 512, 4096);
	assert_int_equal(storvsc_capacity(primary(), 2, &c), -ENXIO);
	end();
}

static const struct round {
	const char *name;
	size_t len;
	uint64_t offset;
	bool inside, fua;		/* the buffer: in the arena */
} rounds[] = {
	{ "one block", 512, 512, false, false },
	{ "a page, through", 4096, 8192, false, true },
	{ "odd many, in pieces", 700 * 512, 1024, false, false },
	{ "3 MiB, in pieces", 3u << 20, 4096, false, false },
	{ "one block in the arena", 512, 1536, true, false },
	{ "3 MiB in the arena", 3u << 20, 0, true, true },
};

static void round_trip(void **state)
{
	const struct round *row = *state;
	uint8_t *from, *to;

	begin(NULL, NULL);
	from = row->inside ? storvsc_buffer(client, row->len) : malloc(row->len);
	to = row->inside ? storvsc_buffer(client, row->len) : malloc(row->len);
	assert_non_null(from);
	assert_non_null(to);
	fill(from, row->len, 3);
	memset(to, 0, row->len);
	assert_int_equal(storvsc_write(primary(), 0, from, row->len, row->offset, row->fua), 0);
	assert_int_equal(storvsc_flush(primary(), 0), 0);
	assert_int_equal(storvsc_read(primary(), 0, to, row->len, row->offset), 0);
	assert_memory_equal(from, to, row->len);
	if (row->inside) {
		storvsc_buffer_free(client, from, row->len);
		storvsc_buffer_free(client, to, row->len);
	} else {
		free(from);
		free(to);
	}
	end();
}

static void errors(void **state)
{
	uint8_t buf[4096] = { 0 };

	begin(NULL, NULL);
	assert_int_equal(storvsc_read(primary(), 0, buf, 512, DISK_SIZE), -ERANGE);
	assert_int_equal(storvsc_read(primary(), 0, buf, 1024, DISK_SIZE - 512), -ERANGE);
	assert_int_equal(storvsc_read(primary(), 0, buf, 100, 0), -EINVAL);
	assert_int_equal(storvsc_read(primary(), 0, buf, 512, 100), -EINVAL);
	assert_int_equal(storvsc_read(primary(), 2, buf, 512, 0), -ENXIO);
	assert_int_equal(storvsc_flush(primary(), 2), -ENXIO);
	assert_int_equal(storvsc_write(primary(), 1, buf, 512, 0, false), -EROFS);
	assert_int_equal(storvsc_read(primary(), 1, buf, 512, 0), 0);
	assert_int_equal(storvsc_read(primary(), 0, buf, 0, 0), 0);
	end();
}

static void any_command(void **state)
{
	struct storvsc_request r = { .cdb = { 0x12, 0, 0, 0, 36 }, .cdb_len = 6, .data_len = 36 };
	uint8_t outside[36];

	begin(NULL, NULL);
	r.data = outside;
	assert_int_equal(storvsc_command(primary(), &r), -EINVAL);
	r.data = (uint8_t *)storvsc_buffer(client, 4096) + 100;
	assert_int_equal(storvsc_command(primary(), &r), 0);
	assert_int_equal(r.status, 0);
	assert_int_equal(r.transferred, 36);
	assert_memory_equal((uint8_t *)r.data + 8, "Msft    Virtual Disk", 20);
	r = (struct storvsc_request){ .cdb = { 0xf7 }, .cdb_len = 6 };
	while (storvsc_command(primary(), &r) == 0 && (r.sense[2] & 0xf) == 6)
		;				/* it may have something to tell first */
	assert_int_equal(r.status, 2);
	assert_in_range(r.sense_len, 14, 20);
	assert_int_equal(r.sense[2] & 0xf, 5);
	assert_int_equal(r.sense[12], 0x20);
	r.cdb_len = 17;
	assert_int_equal(storvsc_command(primary(), &r), -EINVAL);
	end();
}

/* ---- arena --------------------------------------------------------------------------------------------- */

static void arena(void **state)
{
	struct storvsc_opts opts = { .arena_bytes = 8 * 4096 };
	void *a, *b, *c;

	begin(NULL, &opts);
	a = storvsc_buffer(client, 3 * 4096);
	b = storvsc_buffer(client, 1);
	c = storvsc_buffer(client, 4 * 4096);
	assert_true(a && b && c);
	assert_int_equal((uintptr_t)a % 4096, 0);
	assert_ptr_equal(b, (uint8_t *)a + 3 * 4096);
	assert_null(storvsc_buffer(client, 1));
	assert_null(storvsc_buffer(client, 0));
	assert_null(storvsc_buffer(client, SIZE_MAX));
	storvsc_buffer_free(client, b, 1);
	assert_null(storvsc_buffer(client, 4097));
	assert_ptr_equal(storvsc_buffer(client, 4096), b);
	storvsc_buffer_free(client, a, 3 * 4096);
	assert_ptr_equal(storvsc_buffer(client, 2 * 4096), a);
	/* One page is enough for reads and writes from elsewhere. */
	assert_int_equal(storvsc_read(primary(), 0, &(uint8_t[8192]){ 0 }, 8192, 0), 0);
	end();
}

/* ---- many at once -------------------------------------------------------------------------------------- */

#define MANY 600u

struct many {
	struct storvsc_request r[MANY];
	unsigned done, bad;
	int result;
};

static struct many many;

static void many_done(struct storvsc_request *r)
{
	struct many *m = r->user;

	m->done++;
	m->bad += r->result != m->result;
}

static struct storvsc_request read_of(uint8_t *data, uint32_t lba)
{
	struct storvsc_request r = { .cdb = { 0x28 }, .cdb_len = 10, .data = data, .data_len = 512,
				     .done = many_done, .user = &many };

	r.cdb[4] = (uint8_t)(lba >> 8);
	r.cdb[5] = (uint8_t)lba;
	r.cdb[8] = 1;
	return r;
}

/* As many as fit: how many. */
static unsigned submit_many(unsigned from, uint8_t *data)
{
	unsigned i;

	for (i = from; i < MANY; i++) {
		many.r[i] = read_of(data + (size_t)i % 64 * 512, i);
		if (storvsc_submit(primary(), &many.r[i]) != 0)
			break;
	}
	return i;
}

static const struct batch {
	const char *name;
	unsigned depth, ring_pages;
	enum { POLLED, WAITED, BY_FD } how;
} batches[] = {
	{ "polled", 0, 0, POLLED },
	{ "waited for", 0, 0, WAITED },
	{ "by descriptor", 0, 0, BY_FD },
	{ "with 3 slots", 3, 0, WAITED },
	{ "with the smallest rings", 0, 2, WAITED },
	{ "with the smallest rings, by descriptor", 0, 2, BY_FD },
};

static void some_done(const struct batch *row)
{
	struct pollfd p = { .fd = storvsc_fd(primary()), .events = POLLIN };
	unsigned before = many.done;

	while (many.done == before) {
		if (row->how == WAITED)
			assert_int_equal(storvsc_wait(primary(), 1, PATIENCE_MS) > 0, 1);
		else if (row->how == BY_FD && storvsc_arm(primary()))
			assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
		assert_true(storvsc_poll(primary()) >= 0);
	}
}

static void batch(void **state)
{
	const struct batch *row = *state;
	struct storvsc_opts opts = { .depth = row->depth, .ring_pages = row->ring_pages };
	unsigned submitted = 0;
	uint8_t *data;

	begin(NULL, &opts);
	many = (struct many){ 0 };
	data = storvsc_buffer(client, 64 * 512);
	/* Nothing to tell any more. */
	assert_int_equal(storvsc_read(primary(), 0, data, 512, 0), 0);
	while (many.done < MANY) {
		submitted = submit_many(submitted, data);
		assert_true(submitted - many.done <= (row->depth ? row->depth : 256));
		some_done(row);
	}
	assert_int_equal(many.bad, 0);
	assert_int_equal(many.done, MANY);
	assert_int_equal(storvsc_wait(primary(), 1, -1), 0);	/* nothing in flight */
	end();
}

static void timeout(void **state)
{
	uint8_t *data;

	begin(NULL, NULL);
	many = (struct many){ 0 };
	data = storvsc_buffer(client, 4096);
	assert_int_equal(storvsc_read(primary(), 0, data, 512, 0), 0);
	gate_shut(gate);
	many.r[0] = read_of(data, 0);
	assert_int_equal(storvsc_submit(primary(), &many.r[0]), 0);
	assert_int_equal(storvsc_wait(primary(), 1, 30), 0);
	assert_int_equal(many.done, 0);
	gate_open(gate);
	assert_int_equal(storvsc_wait(primary(), 1, PATIENCE_MS), 1);
	end();
}

static void *open_later(void *arg)
{
	nanosleep(&(struct timespec){ 0, 20000000 }, NULL);
	gate_open(gate);
	return NULL;
}

/* Closed with requests behind the gate: all of them end, once. */
static void close_in_flight(void **state)
{
	pthread_t opener;
	uint8_t *data;

	begin(NULL, NULL);
	many = (struct many){ .result = -ECANCELED };
	data = storvsc_buffer(client, 64 * 512);
	assert_int_equal(storvsc_read(primary(), 0, data, 512, 0), 0);
	gate_shut(gate);
	for (unsigned i = 0; i < 8; i++) {
		many.r[i] = read_of(data, i);
		assert_int_equal(storvsc_submit(primary(), &many.r[i]), 0);
	}
	storvsc_kick(primary());
	assert_true(gate_wait(gate, 8));
	pthread_create(&opener, NULL, open_later, NULL);
	end();
	pthread_join(opener, NULL);
	assert_int_equal(many.done, 8);
	assert_int_equal(many.bad, 0);
}

/* Those that run are finished, those that wait are cancelled; the answer to the reset comes last. */
static void reset_in_flight(void **state)
{
	struct storvsp_opts provider = { .queue_depth = 4 };
	pthread_t opener;
	uint8_t *data;

	begin(&provider, NULL);
	many = (struct many){ 0 };
	data = storvsc_buffer(client, 64 * 512);
	assert_int_equal(storvsc_read(primary(), 0, data, 512, 0), 0);
	gate_shut(gate);
	for (unsigned i = 0; i < 12; i++) {
		many.r[i] = read_of(data, i);
		assert_int_equal(storvsc_submit(primary(), &many.r[i]), 0);
	}
	storvsc_kick(primary());
	assert_true(gate_wait(gate, 4));
	pthread_create(&opener, NULL, open_later, NULL);
	assert_int_equal(storvsc_reset(primary()), 0);
	assert_int_equal(many.done, 12);
	assert_int_equal(many.bad, 0);
	assert_int_equal(storvsc_read(primary(), 0, data, 512, 0), 0);
	pthread_join(opener, NULL);
	end();
}

/* ---- units come and go --------------------------------------------------------------------------------- */

static void count_notice(void *ctx)
{
	++*(unsigned *)ctx;
}

static void wait_notice(const unsigned *notices, unsigned wanted)
{
	for (int i = 0; i < PATIENCE_MS && *notices < wanted; i++) {
		assert_true(storvsc_poll(primary()) >= 0);
		nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
	}
	assert_true(*notices >= wanted);
}

static void hot_plug(void **state)
{
	uint8_t buf[512];
	unsigned notices = 0;

	begin(NULL, NULL);
	storvsc_on_enumerate(client, count_notice, &notices);
	assert_int_equal(storvsc_read(primary(), 2, buf, 512, 0), -ENXIO);
	attach(2, lu_over(gate_backend(gate_new(DISK_SIZE)), false, 2));
	wait_notice(&notices, 1);
	assert_int_equal(storvsc_read(primary(), 2, buf, 512, 0), 0);
	assert_int_equal(storvsp_detach(controller, AT(2), NULL), 0);
	wait_notice(&notices, 2);
	assert_int_equal(storvsc_read(primary(), 2, buf, 512, 0), -ENXIO);
	end();
}

/* ---- channels ------------------------------------------------------------------------------------------ */

static const struct open_case {
	const char *name;
	struct storvsc_opts opts;
	unsigned subchannels;		/* of the provider */
	int want;
	unsigned channels;
} open_cases[] = {
	{ "defaults", { 0 }, 0, 0, 1 },
	{ "four channels", { .channels = 4 }, 3, 0, 4 },
	{ "more than there are", { .channels = 8 }, 3, 0, 4 },
	{ "fewer than there are", { .channels = 2 }, 3, 0, 2 },
	{ "several of a provider with one", { .channels = 4 }, 0, 0, 1 },
	{ "protocol 5.1", { .newest_version = VSTOR_VERSION_WIN8 }, 0, 0, 1 },
	{ "too many channels", { .channels = 65 }, 0, -EINVAL, 0 },
	{ "a crooked arena", { .arena_bytes = 4097 }, 0, -EINVAL, 0 },
	{ "a ring of one page", { .ring_pages = 1 }, 0, -EINVAL, 0 },
	{ "no depth that anybody needs", { .depth = 1u << 20 }, 0, -EINVAL, 0 },
};

static void open_client(void **state)
{
	const struct open_case *row = *state;
	struct storvsp_opts o = { .name = "scsi0", .max_subchannels = row->subchannels };
	struct storvsc *second;

	assert_int_equal(storvsp_new(&o, &controller, NULL), 0);
	for (unsigned i = 0; i < 2; i++) {	/* a second time, after the first has left */
		assert_int_equal(storvsc_open_device(storvsp_offer(controller), &row->opts, &client, NULL), row->want);
		if (row->want < 0)
			break;
		assert_int_equal(storvsc_channels(client), row->channels);
		assert_non_null(storvsc_channel(client, row->channels - 1));
		assert_null(storvsc_channel(client, row->channels));
		assert_int_equal(storvsc_open_device(storvsp_offer(controller), NULL, &second, NULL), -EBUSY);
		storvsc_close(client);
	}
	storvsp_free(controller);
}

struct thread {
	pthread_t thread;
	unsigned index, bad;
};

#define REGION SP_MIB(1)

/* Its own megabyte, its own channel; buffers from the common arena, some blocking commands in between. */
static void *thread_run(void *arg)
{
	struct thread *t = arg;
	struct storvsc_channel *ch = storvsc_channel(client, t->index);
	uint8_t outside[4096];
	struct rng rng;

	rng_init(&rng, t->index + 1);
	for (unsigned i = 0; i < 150; i++) {
		size_t len = 4096 * rng_between(&rng, 1, 16);
		uint64_t offset = t->index * REGION + 512 * rng_below(&rng, (REGION - len) / 512);
		uint8_t *buf = storvsc_buffer(client, len);

		if (!buf) {
			t->bad++;
			continue;
		}
		fill(buf, len, i + t->index);
		t->bad += storvsc_write(ch, 0, buf, len, offset, i % 8 == 0) != 0;
		memset(buf, 0, len);
		t->bad += storvsc_read(ch, 0, buf, len, offset) != 0;
		fill(outside, sizeof(outside), i + t->index);
		t->bad += memcmp(buf, outside, sizeof(outside)) != 0;
		storvsc_buffer_free(client, buf, len);
		if (i % 32 == 0)
			t->bad += storvsc_flush(ch, 0) != 0;
	}
	return NULL;
}

static void threads(void **state)
{
	struct storvsc_opts opts = { .channels = 4 };
	struct thread t[4] = { 0 };

	begin(NULL, &opts);
	assert_int_equal(storvsc_channels(client), 4);
	for (unsigned i = 0; i < 4; i++) {
		t[i].index = i;
		pthread_create(&t[i].thread, NULL, thread_run, &t[i]);
	}
	for (unsigned i = 0; i < 4; i++) {
		pthread_join(t[i].thread, NULL);
		assert_int_equal(t[i].bad, 0);
	}
	end();
}

int main(void)
{
	static const struct single_row singles[] = {
		{ "capacity", capacity },
		{ "errors", errors },
		{ "any command", any_command },
		{ "arena", arena },
		{ "a wait that ends without anything", timeout },
		{ "close with requests in flight", close_in_flight },
		{ "reset with requests in flight", reset_in_flight },
		{ "units come and go", hot_plug },
		{ "a thread per channel", threads },
	};

	return ROWS_RUN(singles, rows_single) + ROWS_RUN(rounds, round_trip) + ROWS_RUN(batches, batch) +
	       ROWS_RUN(open_cases, open_client);
}
