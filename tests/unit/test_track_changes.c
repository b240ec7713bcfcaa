/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Change tracking: no change is missing, whatever fails, whatever happens, from however many threads.
 */
#include "tests/unit/track_fixture.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "tests/support/rng.h"
#include "tests/support/store_fault.h"
#include "vhd/store_mem_int.h"

/* ---- failures ------------------------------------------------------------------------------------- */

struct fault_row {
	const char *name;
	enum vhd_format_id format;
	int error;
	bool sticky;
	unsigned classes;
};

static const struct fault_row faults[] = {
	{ "vhdx EIO once", VHD_FORMAT_VHDX, -EIO, false, FAULT_ALL },
	{ "vhdx EIO for good", VHD_FORMAT_VHDX, -EIO, true, FAULT_WRITE | FAULT_SYNC },
	{ "vhdx ENOSPC for good", VHD_FORMAT_VHDX, -ENOSPC, true, FAULT_WRITE | FAULT_RESIZE },
	{ "raw EIO once", VHD_FORMAT_RAW, -EIO, false, FAULT_ALL },
	{ "raw EIO for good", VHD_FORMAT_RAW, -EIO, true, FAULT_WRITE | FAULT_SYNC | FAULT_NAMES },
	{ "vhd EIO once", VHD_FORMAT_VHD, -EIO, false, FAULT_ALL },
};

static const uint64_t places[] = { 1, 300, 2, 600, 301, 900, 5 };

/* Writes with failures on the way. Returns whether there is a point. */
static bool failing_work(struct vhd_disk *d)
{
	uint8_t buf[4096];
	bool pointed;

	memset(buf, 7, sizeof(buf));
	vhd_disk_write(d, buf, sizeof(buf), 40 * UNIT);
	pointed = vhd_track_point(d, "p", NULL, NULL) == 0;
	for (unsigned i = 0; i < SP_ARRAY_SIZE(places); i++) {
		vhd_disk_write(d, buf, sizeof(buf), places[i] * UNIT);
		if (i == 2)
			vhd_disk_flush(d);
		if (i == 3 && disk_tracked(d))
			track_rest_now(d);
	}
	return pointed;
}

/* What got through is in the answer. */
static void judge_faults(struct vhd_disk *d, uint64_t k, bool crash)
{
	struct answer w;
	uint8_t byte;

	ask(d, "p", NULL, &w);
	for (unsigned i = 0; i < SP_ARRAY_SIZE(places); i++) {
		assert_int_equal(vhd_disk_read(d, &byte, 1, places[i] * UNIT), 0);
		if (byte == 7 && !w.block[places[i]])
			fail_msg("operation %llu failed%s: block %u is missing", (unsigned long long)k,
				 crash ? ", then a crash" : "", (unsigned)places[i]);
	}
}

static bool fault_round(const struct fault_row *row, struct store_folder *base, uint64_t k, bool crash)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE, .format = row->format };
	struct store_folder *f, *ff;
	bool pointed = false;
	struct fault_plan plan;
	struct vhd_disk *d;

	assert_int_equal(store_folder_mem_clone(base, &f), 0);
	assert_int_equal(store_folder_fault_new(f, &plan, &ff), 0);
	fault_plan_set(&plan, row->classes, 0, row->error, row->sticky, false);
	assert_int_equal(vhd_disk_open_in(ff, "disk", &o, &d, NULL), 0);
	fault_plan_set(&plan, row->classes, k, row->error, row->sticky, false);
	if (vhd_disk_track(d, true, NULL) == 0)
		pointed = failing_work(d);
	if (crash)
		vhd_disk_abandon(d);
	else
		vhd_disk_close(d, NULL);
	plan.enabled = false;
	if (pointed && vhd_disk_open_in(ff, "disk", &o, &d, NULL) == 0) {
		vhd_disk_track(d, true, NULL);
		judge_faults(d, k, crash);
		vhd_disk_close(d, NULL);
	}
	store_folder_close(ff);
	return plan.hits > 0;
}

static void test_faults(void **state)
{
	const struct fault_row *row = *state;
	struct store_folder *base = folder_new();
	uint64_t k = 1;

	finish(fresh(base, row->format));
	while (fault_round(row, base, k, true) | fault_round(row, base, k, false))
		k++;
	assert_true(k > 10);
	store_folder_close(base);
}

/* ---- anything, against a model -------------------------------------------------------------------- */

#define POINTS 6
#define CELLS (2 * BLOCKS)

struct model {
	struct store_folder *f;
	enum vhd_format_id format;
	struct vhd_disk *d;
	struct rng rng;
	uint32_t cell[CELLS], at[POINTS][CELLS];	/* a stamp per block, and as it was at each point */
	bool known[POINTS], dirty[POINTS][CELLS];
	unsigned made[POINTS], points;
	uint32_t stamp;
	bool inexact;			/* a crash or a stranger since: too much is allowed from now on */
};

static void model_write(struct model *m)
{
	uint64_t blocks = vhd_disk_size(m->d) / UNIT, b = rng_below(&m->rng, blocks);
	uint64_t n = sp_min(rng_between(&m->rng, 1, 3), blocks - b);

	m->stamp++;
	for (uint64_t i = b; i < b + n; i++) {
		bool zero = rng_chance(&m->rng, 1, 8);

		if (zero)
			assert_int_equal(vhd_disk_write_zeroes(m->d, i * UNIT, UNIT), 0);
		else
			assert_int_equal(vhd_disk_write(m->d, &m->stamp, 4, i * UNIT + 512), 0);
		m->cell[i] = zero ? 0 : m->stamp;
		for (unsigned p = 0; p < POINTS; p++)
			m->dirty[p][i] = true;
	}
}

static void model_point(struct model *m)
{
	unsigned slot = (unsigned)rng_below(&m->rng, POINTS);
	char name[16];

	snprintf(name, sizeof(name), "%u-%u", slot, m->made[slot]);
	if (m->known[slot])
		assert_int_equal(vhd_track_forget(m->d, name, NULL), 0);
	snprintf(name, sizeof(name), "%u-%u", slot, ++m->made[slot]);
	point(m->d, name);
	m->known[slot] = true;
	memcpy(m->at[slot], m->cell, sizeof(m->cell));
	memset(m->dirty[slot], 0, sizeof(m->dirty[slot]));
}

static void model_check(struct model *m)
{
	for (unsigned p = 0; p < POINTS; p++) {
		struct answer w;
		char name[16];

		if (!m->known[p])
			continue;
		snprintf(name, sizeof(name), "%u-%u", p, m->made[p]);
		ask(m->d, name, NULL, &w);
		for (unsigned b = 0; b < vhd_disk_size(m->d) / UNIT; b++) {
			if (m->cell[b] != m->at[p][b] && !w.block[b])
				fail_msg("point %s: block %u is missing", name, b);
			if (!m->inexact && w.block[b] && !m->dirty[p][b])
				fail_msg("point %s: block %u is too much", name, b);
		}
	}
}

static void model_again(struct model *m, bool do_track)
{
	m->d = open_format(m->f, "disk", m->format, true);
	if (do_track)
		track(m->d);
}

static void model_step(struct model *m)
{
	uint64_t what = rng_below(&m->rng, 100);

	if (what < 70) {
		model_write(m);
	} else if (what < 80) {
		model_point(m);
	} else if (what < 85) {
		track_rest_now(m->d);
	} else if (what < 90) {
		finish(m->d);
		model_again(m, true);
	} else if (what < 92) {
		vhd_disk_flush(m->d);
		vhd_disk_abandon(m->d);
		model_again(m, true);
		m->inexact = true;
	} else if (what < 93) {
		finish(m->d);
		model_again(m, false);
		model_write(m);
		finish(m->d);
		model_again(m, true);
		m->inexact = true;
	} else if (what < 94 && vhd_disk_size(m->d) < 2 * SIZE) {
		uint64_t old = vhd_disk_size(m->d);

		assert_int_equal(vhd_disk_grow(m->d, old + SP_MIB(8), NULL), 0);
		for (unsigned p = 0; p < POINTS; p++)
			memset(&m->dirty[p][old / UNIT], 1, SP_MIB(8) / UNIT);
	} else {
		model_check(m);
	}
}

static void test_model(void **state)
{
	const struct format_row *row = *state;

	for (unsigned round = 0; round < 6; round++) {
		struct model *m = calloc(1, sizeof(*m));

		m->f = folder_new();
		m->format = row->format;
		rng_init(&m->rng, 1000 + round);
		m->d = fresh(m->f, row->format);
		m->inexact = false;
		for (unsigned i = 0; i < 250; i++)
			model_step(m);
		model_check(m);
		finish(m->d);
		model_again(m, round % 2);
		model_check(m);
		finish(m->d);
		store_folder_close(m->f);
		free(m);
	}
}

/* ---- threads -------------------------------------------------------------------------------------- */

#define THREADS 3

struct load {
	struct vhd_disk *d;
	atomic_bool stop;
	_Atomic uint32_t stamp;
	_Atomic uint64_t writes;
};

struct writer {
	struct load *l;
	unsigned index;
	pthread_t thread;
};

static void write_done(struct vhd_req *req, int res)
{
	*(int *)req->user = res;
}

static int by_queue(struct vhd_queue *q, const uint32_t *stamp, uint64_t offset)
{
	struct iovec iov = { (void *)(uintptr_t)stamp, 512 };
	int res = 1;
	struct vhd_req req = {
		.op = VHD_REQ_WRITE, .offset = offset, .len = 512, .iov = &iov, .iovcnt = 1, .buf_index = -1,
		.complete = write_done, .user = &res,
	};

	vhd_queue_submit(q, &req);
	while (res == 1)
		vhd_queue_wait(q, 1);
	return res;
}

static void *write_blocks(void *arg)
{
	struct writer *w = arg;
	struct vhd_queue *q = NULL;
	struct rng rng;

	rng_init(&rng, 77 + w->index);
	if (w->index > 0 && vhd_queue_new(w->l->d, NULL, &q, NULL) < 0)
		abort();
	while (!atomic_load(&w->l->stop)) {
		uint64_t offset = (rng_below(&rng, BLOCKS / THREADS) * THREADS + w->index) * UNIT;
		uint32_t sector[128] = { atomic_fetch_add(&w->l->stamp, 1) };

		if ((q ? by_queue(q, sector, offset) : vhd_disk_write(w->l->d, sector, 512, offset)) != 0)
			abort();
		atomic_fetch_add(&w->l->writes, 1);
	}
	vhd_queue_free(q);
	return NULL;
}

static void read_stamps(struct vhd_disk *d, uint32_t *ret)
{
	for (unsigned b = 0; b < BLOCKS; b++)
		assert_int_equal(vhd_disk_read(d, &ret[b], 4, b * UNIT), 0);
}

static void wait_writes(struct load *l, uint64_t more)
{
	uint64_t want = atomic_load(&l->writes) + more;

	while (atomic_load(&l->writes) < want)
		usleep(200);
}

/* The content at a point, read from a copy of the files made at that moment. */
static void stamps_at_point(struct load *l, const char *name, uint32_t *ret)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_NO_LOCK, .format = VHD_FORMAT_VHDX };
	struct sp_err err = { 0 };
	struct vhd_disk *copy;

	must(vhd_disk_drain(l->d, 10000), &err);
	must(vhd_track_point_drained(l->d, name, NULL, &err), &err);
	shell("cp %s %s", host_path("disk"), host_path("copy"));
	vhd_disk_resume(l->d);
	must(vhd_disk_open(host_path("copy"), &o, &copy, &err), &err);
	read_stamps(copy, ret);
	finish(copy);
}

static void check_stamps(struct vhd_disk *d, const char *since, const uint32_t *then)
{
	static uint32_t now[BLOCKS];
	struct answer w;

	read_stamps(d, now);
	ask(d, since, NULL, &w);
	for (unsigned b = 0; b < BLOCKS; b++)
		if (now[b] != then[b] && !w.block[b])
			fail_msg("since %s: block %u is missing", since, b);
}

static void test_threads(void **state)
{
	static uint32_t then[3][BLOCKS];
	static const char *const names[] = { "a", "b", "c" };
	struct writer writers[THREADS];
	struct load l = { .stamp = 1 };
	struct vhd_disk *d;

	host_begin(VHD_FORMAT_VHDX);
	l.d = host_open(VHD_FORMAT_VHDX, true);
	track(l.d);
	for (unsigned i = 0; i < THREADS; i++) {
		writers[i] = (struct writer){ .l = &l, .index = i };
		assert_int_equal(pthread_create(&writers[i].thread, NULL, write_blocks, &writers[i]), 0);
	}
	for (unsigned p = 0; p < 3; p++) {
		stamps_at_point(&l, names[p], then[p]);
		for (int i = 0; i < 8; i++) {
			wait_writes(&l, 20);
			track_rest_now(l.d);
			assert_int_equal(vhd_disk_flush(l.d), 0);
		}
		assert_int_equal(vhd_track_changes(l.d, names[0], NULL, NULL, NULL, NULL, NULL), 0);
	}
	atomic_store(&l.stop, true);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(writers[i].thread, NULL);
	for (unsigned p = 0; p < 3; p++)
		check_stamps(l.d, names[p], then[p]);
	assert_int_equal(vhd_disk_flush(l.d), 0);
	vhd_disk_abandon(l.d);
	d = host_open(VHD_FORMAT_VHDX, true);
	track(d);
	for (unsigned p = 0; p < 3; p++)
		check_stamps(d, names[p], then[p]);
	finish(d);
	host_end();
}

static const struct single_row singles[] = { { "threads, queues, points and checkpoints", test_threads } };

int main(void)
{
	return ROWS_RUN(formats, test_model) + ROWS_RUN(faults, test_faults) + ROWS_RUN(singles, rows_single);
}
