/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Snapshots and merges under many threads, for TSan as much as for the content: two writers a disk keep queues
 * busy with reads that are checked, writes, zeroes and flushes; one thread takes sets of all disks, one merges them
 * away again, one looks at lists, maps and changes. Files of the host, so that io_uring and committer take part.
 */
#include "tests/unit/chain_fixture.h"
#include "tests/unit/rows.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/support/rng.h"
#include "vhd/live.h"
#include "vhd/ops.h"
#include "vhd/track.h"

#define SIZE SP_MIB(32)
#define CELL 4096u
#define CELLS 512u		/* spread over the disk */
#define STRIDE (SIZE / CELLS)
#define WRITERS 2u		/* a disk */
#define DEPTH 8u
#define DISKS 2u
#define ROUNDS 3u

struct row {
	const char *name;
	enum vhd_format_id format;
	bool tracked;
};

static const struct row rows[] = {
	{ "vhdx", VHD_FORMAT_VHDX, false },
	{ "vhdx, tracked", VHD_FORMAT_VHDX, true },
	{ "vhd", VHD_FORMAT_VHD, false },
	{ "vhd, tracked", VHD_FORMAT_VHD, true },
};

/* ---- writers -------------------------------------------------------------------------------------- */

struct slot {
	struct vhd_req req;
	struct iovec iov;
	struct writer *w;
	unsigned cell;
	uint32_t stamp;
	bool busy;
	_Alignas(512) uint8_t buf[CELL];
};

struct writer {
	struct vhd_disk *disk;
	unsigned index;			/* its cells: those with this remainder */
	struct rng rng;
	struct slot slot[DEPTH];
	bool taken[CELLS];
	uint32_t stamp[CELLS];		/* acknowledged; 0: zeros */
	uint32_t next;
	atomic_bool *stop;
	_Atomic uint64_t ops;
	pthread_t thread;
};

static void fill(uint8_t *buf, unsigned cell, uint32_t stamp)
{
	memset(buf, 0, CELL);
	for (unsigned at = 0; stamp && at < CELL; at += 512) {
		memcpy(buf + at, &cell, sizeof(cell));
		memcpy(buf + at + 504, &stamp, sizeof(stamp));
	}
}

static void expect_cell(const uint8_t *got, unsigned cell, uint32_t stamp)
{
	uint8_t want[CELL];
	uint32_t have;

	fill(want, cell, stamp);
	if (memcmp(got, want, CELL) == 0)
		return;
	memcpy(&have, got + 504, sizeof(have));
	fprintf(stderr, "cell %u reads stamp %u instead of %u\n", cell, have, stamp);
	abort();
}

static void slot_done(struct vhd_req *req, int res)
{
	struct slot *s = req->user;
	struct writer *w = s->w;

	if (res != 0) {
		fprintf(stderr, "request %d fails: %s\n", req->op, strerror(-res));
		abort();
	}
	s->busy = false;
	atomic_fetch_add(&w->ops, 1);
	if (req->op == VHD_REQ_FLUSH)
		return;
	w->taken[s->cell] = false;
	if (req->op == VHD_REQ_READ)
		expect_cell(s->buf, s->cell, w->stamp[s->cell]);
	else
		w->stamp[s->cell] = s->stamp;
}

static enum vhd_req_op pick(struct rng *rng)
{
	uint64_t dice = rng_below(rng, 100);

	return dice < 55 ? VHD_REQ_WRITE : dice < 88 ? VHD_REQ_READ : dice < 96 ? VHD_REQ_WRITE_ZEROES : VHD_REQ_FLUSH;
}

static void submit(struct writer *w, struct vhd_queue *q, struct slot *s)
{
	enum vhd_req_op op = pick(&w->rng);

	s->cell = (unsigned)rng_below(&w->rng, CELLS / WRITERS) * WRITERS + w->index;
	if (op != VHD_REQ_FLUSH && w->taken[s->cell])
		return;
	s->w = w;
	s->busy = true;
	s->stamp = op == VHD_REQ_WRITE ? ++w->next : 0;
	s->iov = (struct iovec){ s->buf, CELL };
	s->req = (struct vhd_req){
		.op = op, .offset = s->cell * STRIDE, .len = CELL, .iov = &s->iov, .iovcnt = 1, .buf_index = -1,
		.complete = slot_done, .user = s,
	};
	if (op == VHD_REQ_FLUSH)
		s->req.offset = s->req.len = 0;
	else
		w->taken[s->cell] = true;
	if (op == VHD_REQ_WRITE)
		fill(s->buf, s->cell, s->stamp);
	vhd_queue_submit(q, &s->req);
}

static void *write_and_check(void *arg)
{
	struct vhd_queue_opts o = { .depth = DEPTH };
	struct writer *w = arg;
	struct vhd_queue *q;

	if (vhd_queue_new(w->disk, &o, &q, NULL) < 0)
		abort();
	while (!atomic_load(w->stop)) {
		for (unsigned i = 0; i < DEPTH; i++)
			if (!w->slot[i].busy)
				submit(w, q, &w->slot[i]);
		if (vhd_queue_wait(q, 1) < 0)
			abort();
	}
	while (vhd_queue_inflight(q) > 0)
		vhd_queue_wait(q, 1);
	vhd_queue_free(q);
	return NULL;
}

static void verify(const struct writer *w, struct vhd_disk *d)
{
	uint8_t buf[CELL];

	for (unsigned cell = w->index; cell < CELLS; cell += WRITERS) {
		assert_int_equal(vhd_disk_read(d, buf, CELL, cell * STRIDE), 0);
		expect_cell(buf, cell, w->stamp[cell]);
	}
}

/* ---- the rig -------------------------------------------------------------------------------------- */

struct rig {
	const struct row *row;
	char dir[64];
	struct vhd_disk *disk[DISKS];
	struct writer *writer[DISKS * WRITERS];
	atomic_bool stop, done;		/* writers; watcher */
	_Atomic unsigned taken;		/* snapshots so far */
	pthread_t taker, watcher;
};

static void open_disks(struct rig *g)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE };
	struct sp_err err = { 0 };
	char path[128];

	for (unsigned i = 0; i < DISKS; i++) {
		snprintf(path, sizeof(path), "%s/disk%u.img", g->dir, i);
		must(vhd_disk_open(path, &o, &g->disk[i], &err), &err);
		if (g->row->tracked)
			must(vhd_disk_track(g->disk[i], true, &err), &err);
	}
}

static void rig_new(struct rig *g, const struct row *row)
{
	struct vhd_create_opts c = { .format = row->format, .size = SIZE };
	struct sp_err err = { 0 };
	char path[128];

	*g = (struct rig){ .row = row, .dir = "/dev/shm/spindle-live-threads-XXXXXX" };
	assert_non_null(mkdtemp(g->dir));
	for (unsigned i = 0; i < DISKS; i++) {
		snprintf(path, sizeof(path), "%s/disk%u.img", g->dir, i);
		must(vhd_create(path, &c, &err), &err);
	}
	open_disks(g);
}

static void start_writers(struct rig *g)
{
	for (unsigned i = 0; i < DISKS * WRITERS; i++) {
		struct writer *w = calloc(1, sizeof(*w));

		assert_non_null(w);
		w->disk = g->disk[i / WRITERS];
		w->index = i % WRITERS;
		w->stop = &g->stop;
		rng_init(&w->rng, 1000 + i);
		g->writer[i] = w;
		assert_int_equal(pthread_create(&w->thread, NULL, write_and_check, w), 0);
	}
}

static void close_disks(struct rig *g)
{
	struct sp_err err = { 0 };

	for (unsigned i = 0; i < DISKS; i++)
		must(vhd_disk_close(g->disk[i], &err), &err);
}

static void wait_for_ops(struct rig *g, uint64_t more)
{
	for (unsigned i = 0; i < DISKS * WRITERS; i++) {
		uint64_t goal = atomic_load(&g->writer[i]->ops) + more;

		while (atomic_load(&g->writer[i]->ops) < goal)
			usleep(200);
	}
}

/* ---- who works on the chain ----------------------------------------------------------------------- */

static void fatal(const char *what, const struct sp_err *err)
{
	fprintf(stderr, "%s: %s\n", what, sp_err_text(err));
	abort();
}

/* -EBUSY: a merge is at it. */
static bool take(struct rig *g, unsigned n)
{
	char name[16];
	struct vhd_live_opts o = { .name = name };
	struct vhd_live_set *set;
	struct sp_err err = { 0 };
	int r;

	snprintf(name, sizeof(name), "s%u", n);
	r = vhd_live_prepare(g->disk, DISKS, &o, &set, &err);
	if (r == -EBUSY)
		return false;
	if (r < 0)
		fatal("prepare", &err);
	if (n % 4 == 3) {
		vhd_live_abort(set);
		return true;
	}
	if (vhd_live_commit(set, false, NULL, &err) < 0)
		fatal("commit", &err);
	if (vhd_live_finish(set, "crash", &err) < 0)
		fatal("finish", &err);
	return true;
}

static void *take_sets(void *arg)
{
	struct rig *g = arg;

	for (unsigned n = 0; n < 4 * ROUNDS;) {
		if (take(g, n))
			atomic_store(&g->taken, ++n);
		else
			usleep(1000);
	}
	return NULL;
}

static void *watch(void *arg)
{
	struct rig *g = arg;
	struct vhd_live_snapshot *list;
	struct vhd_range range;
	size_t count;

	while (!atomic_load(&g->done)) {
		struct vhd_disk *d = g->disk[atomic_load(&g->taken) % DISKS];

		if (vhd_live_list(d, &list, &count, NULL) == 0)
			vhd_live_list_free(list);
		if (vhd_disk_map(d, 0, SIZE, &range) < 0 || vhd_disk_layers(d) == 0)
			abort();
		if (g->row->tracked && vhd_track_changes(d, "start", NULL, NULL, NULL, NULL, NULL) < 0)
			abort();
		usleep(500);
	}
	return NULL;
}

static void merge_one(struct vhd_disk *d, const char *name)
{
	struct vhd_live_merge_opts o = { .small = SP_MIB(1) };
	struct sp_err err = { 0 };
	int r;

	do {
		err = (struct sp_err){ 0 };
		r = vhd_live_merge(d, name, &o, NULL, NULL, &err);
		if (r == -EBUSY)
			usleep(1000);
	} while (r == -EBUSY || r == -EAGAIN);
	if (r < 0)
		fatal(name, &err);
}

/* All there are of one disk: newest first for VHD, any order for VHDX. */
static void merge_all(struct rig *g, unsigned disk, bool newest_first)
{
	struct vhd_live_snapshot *list;
	struct sp_err err = { 0 };
	size_t count;

	must(vhd_live_list(g->disk[disk], &list, &count, &err), &err);
	for (size_t i = 0; i < count; i++)
		merge_one(g->disk[disk], list[newest_first ? i : (i + 1) % count].name);
	vhd_live_list_free(list);
}

static void points(struct rig *g, const char *name)
{
	struct sp_err err = { 0 };

	for (unsigned i = 0; g->row->tracked && i < DISKS; i++)
		must(vhd_track_point(g->disk[i], name, NULL, &err), &err);
}

static void test_all_at_once(void **state)
{
	const struct row *row = *state;
	char command[128];
	struct rig g;

	rig_new(&g, row);
	start_writers(&g);
	points(&g, "start");
	assert_int_equal(pthread_create(&g.watcher, NULL, watch, &g), 0);
	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned goal = 4 * (round + 1);

		wait_for_ops(&g, 50);
		if (round == 0)
			assert_int_equal(pthread_create(&g.taker, NULL, take_sets, &g), 0);
		while (atomic_load(&g.taken) < goal && row->format == VHD_FORMAT_VHD)
			usleep(1000);
		while (atomic_load(&g.taken) < goal - 2)
			usleep(1000);
		for (unsigned i = 0; i < DISKS && row->format == VHD_FORMAT_VHDX; i++)
			merge_all(&g, i, round % 2);
	}
	pthread_join(g.taker, NULL);
	for (unsigned i = 0; i < DISKS; i++)
		merge_all(&g, i, true);
	wait_for_ops(&g, 50);
	atomic_store(&g.stop, true);
	for (unsigned i = 0; i < DISKS * WRITERS; i++)
		pthread_join(g.writer[i]->thread, NULL);
	atomic_store(&g.done, true);
	pthread_join(g.watcher, NULL);
	close_disks(&g);
	open_disks(&g);
	for (unsigned i = 0; i < DISKS * WRITERS; i++) {
		assert_int_equal(vhd_disk_layers(g.disk[i / WRITERS]), 1);
		verify(g.writer[i], g.disk[i / WRITERS]);
		free(g.writer[i]);
	}
	close_disks(&g);
	snprintf(command, sizeof(command), "rm -r %s", g.dir);
	assert_int_equal(system(command), 0);
}

int main(void)
{
	return ROWS_RUN(rows, test_all_at_once);
}
