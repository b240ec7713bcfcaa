/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/support/load.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/env.h"
#include "tests/support/rng.h"
#include "tests/support/sheet.h"
#include "vhd/check.h"

#define DEPTH 16
#define SECTORS (LOAD_CELL / SHEET_SECTOR)
#define BLOCK_CELLS 16u			/* cells share a stretch of the disk, so that blocks fill bit by bit */

struct load *load_new(void)
{
	void *p = mmap(NULL, sizeof(struct load), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		abort();
	return p;
}

void load_free(struct load *l)
{
	munmap(l, sizeof(*l));
}

static uint64_t cell_offset(unsigned cell)
{
	uint64_t stretch = LOAD_SIZE / (LOAD_CELLS / BLOCK_CELLS);

	return cell / BLOCK_CELLS * stretch + (uint64_t)(cell % BLOCK_CELLS) * LOAD_CELL * 3;
}

/* ---- the writer ----------------------------------------------------------------------------------- */

struct done {
	unsigned cell;
	uint32_t stamp;
};

struct writer;

struct slot {
	struct vhd_req req;
	struct iovec iov;
	struct writer *w;
	struct done what;
	size_t covers;		/* FLUSH: what had completed when it was asked for */
	bool busy;
	uint8_t buf[LOAD_CELL];
};

struct writer {
	struct load *l;
	struct rng rng;
	struct vhd_disk *disk;
	struct vhd_queue *queue;
	struct slot slot[DEPTH];
	bool writing[LOAD_CELLS];
	struct done *done;	/* completed writes in order */
	size_t dones, room, acked;
	int error;
};

static void note_done(struct writer *w, struct done what)
{
	if (w->dones == w->room) {
		w->room = w->room ? 2 * w->room : 4096;
		w->done = realloc(w->done, w->room * sizeof(*w->done));
		if (!w->done)
			abort();
	}
	w->done[w->dones++] = what;
}

static void acknowledge_one(struct writer *w, struct done d)
{
	if (d.stamp <= atomic_load(&w->l->acked[d.cell]))
		return;		/* by its own FUA already */
	atomic_store(&w->l->acked[d.cell], d.stamp);
	atomic_fetch_add(&w->l->writes, 1);
}

static void acknowledge(struct writer *w, size_t covers)
{
	for (; w->acked < covers; w->acked++)
		acknowledge_one(w, w->done[w->acked]);
	atomic_fetch_add(&w->l->flushes, 1);
}

static void slot_done(struct vhd_req *req, int res)
{
	struct slot *s = req->user;
	struct writer *w = s->w;

	s->busy = false;
	if (res < 0) {
		if (w->error == 0)
			w->error = res;
	} else if (req->op == VHD_REQ_FLUSH) {
		acknowledge(w, s->covers);
	} else if (req->op == VHD_REQ_WRITE) {
		note_done(w, s->what);
		if (req->flags & VHD_REQ_FUA)
			acknowledge_one(w, s->what);
	}
	if (req->op == VHD_REQ_WRITE)
		w->writing[s->what.cell] = false;
}

static void submit_write(struct writer *w, struct slot *s)
{
	unsigned cell = (unsigned)rng_below(&w->rng, LOAD_CELLS);
	uint64_t offset = cell_offset(cell);

	if (w->writing[cell])
		return;
	w->writing[cell] = true;
	s->what = (struct done){ cell, atomic_load(&w->l->issued[cell]) + 1 };
	atomic_store(&w->l->issued[cell], s->what.stamp);
	sheet_fill(s->buf, offset / SHEET_SECTOR, SECTORS, s->what.stamp);
	s->iov = (struct iovec){ s->buf, LOAD_CELL };
	s->req = (struct vhd_req){
		.op = VHD_REQ_WRITE, .offset = offset, .len = LOAD_CELL, .iov = &s->iov, .iovcnt = 1
	};
	if (rng_chance(&w->rng, 1, 64))
		s->req.flags = VHD_REQ_FUA;
}

static void submit_discard(struct writer *w, struct slot *s)
{
	unsigned from = LOAD_TRIMMED + (unsigned)rng_below(&w->rng, LOAD_CELLS - LOAD_TRIMMED);
	uint64_t block = cell_offset(from) >> 20 << 20;

	s->req = (struct vhd_req){ .op = VHD_REQ_DISCARD, .offset = block, .len = 1u << 20 };
}

static void submit(struct writer *w, struct slot *s)
{
	unsigned dice = (unsigned)rng_below(&w->rng, 100);

	s->w = w;
	s->req.complete = NULL;
	if (dice < 8) {
		s->req = (struct vhd_req){ .op = VHD_REQ_FLUSH };
		s->covers = w->dones;
	} else if (dice < 10) {
		submit_discard(w, s);
	} else {
		s->req.len = 0;
		submit_write(w, s);
		if (s->req.len == 0)
			return;
	}
	s->req.complete = slot_done;
	s->req.buf_index = -1;
	s->req.user = s;
	s->busy = true;
	vhd_queue_submit(w->queue, &s->req);
}

int load_run(struct load *l, struct vhd_disk *d, uint64_t seed, atomic_bool *stop)
{
	struct vhd_queue_opts qo = { .depth = DEPTH };
	struct writer *w = calloc(1, sizeof(*w));
	struct sp_err err = { 0 };
	int r;

	if (!w)
		abort();
	w->l = l;
	w->disk = d;
	rng_init(&w->rng, seed);
	r = vhd_queue_new(d, &qo, &w->queue, &err);
	if (r < 0)
		fprintf(stderr, "load: %s\n", sp_err_text(&err));
	while (r == 0 && w->error == 0 && !(stop && atomic_load(stop))) {
		for (unsigned i = 0; i < DEPTH; i++) {
			if (!w->slot[i].busy)
				submit(w, &w->slot[i]);
		}
		r = vhd_queue_wait(w->queue, 1);
		r = r < 0 ? r : 0;
		atomic_store(&l->running, true);
	}
	r = r < 0 ? r : w->error;
	if (w->queue)
		vhd_queue_free(w->queue);
	atomic_store(&l->error, r);
	free(w->done);
	free(w);
	return r;
}

int load_write(struct load *l, const char *path, unsigned flags, uint64_t seed)
{
	struct vhd_open_opts o = { .flags = flags | VHD_OPEN_WRITE };
	struct sp_err err = { 0 };
	struct vhd_disk *d;
	int r = vhd_disk_open(path, &o, &d, &err);

	if (r < 0) {
		fprintf(stderr, "load: %s\n", sp_err_text(&err));
		atomic_store(&l->error, r);
		return r;
	}
	r = load_run(l, d, seed, NULL);
	/* Once more, in peace: after a lost write nothing may be called durable. */
	if (vhd_disk_poisoned(d) < 0 && vhd_disk_flush(d) == 0)
		atomic_store(&l->error, -ESTALE);
	if (vhd_disk_close(d, NULL) == 0 && r == -EIO)
		atomic_store(&l->error, -ESTALE);
	return r;
}

int load_fill(struct load *l, const char *path, unsigned every, unsigned from)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE };
	struct vhd_disk *d;
	uint8_t buf[LOAD_CELL];
	int r = vhd_disk_open(path, &o, &d, NULL), closed;

	if (r < 0)
		return r;
	for (unsigned cell = from; r == 0 && cell < LOAD_CELLS; cell += every) {
		uint32_t stamp = atomic_load(&l->issued[cell]) + 1;

		sheet_fill(buf, cell_offset(cell) / SHEET_SECTOR, SECTORS, stamp);
		r = vhd_disk_write(d, buf, LOAD_CELL, cell_offset(cell));
		atomic_store(&l->issued[cell], stamp);
		atomic_store(&l->acked[cell], stamp);
	}
	closed = vhd_disk_close(d, NULL);
	return r < 0 ? r : closed;
}

/* ---- afterwards ----------------------------------------------------------------------------------- */

static int judge_cell(struct load *l, unsigned cell, const uint8_t *buf, char *text, size_t size)
{
	uint32_t least = UINT32_MAX, acked = atomic_load(&l->acked[cell]), issued = atomic_load(&l->issued[cell]);

	for (unsigned i = 0; i < SECTORS; i++) {
		uint64_t sector = cell_offset(cell) / SHEET_SECTOR + i;
		int64_t stamp = sheet_stamp(buf + i * SHEET_SECTOR, sector);
		bool may_be_zero = acked == 0 || cell >= LOAD_TRIMMED;
		char have[64];

		if (stamp < 0 || stamp > issued || (stamp == 0 && !may_be_zero) ||
		    (stamp > 0 && stamp < acked && cell < LOAD_TRIMMED)) {
			sheet_describe(buf + i * SHEET_SECTOR, have, sizeof(have));
			snprintf(text, size,
				 "sector %" PRIu64 " holds %s, acknowledged was stamp %" PRIu32 ", issued %" PRIu32,
				 sector, have, acked, issued);
			return -1;
		}
		least = stamp < least ? (uint32_t)stamp : least;
	}
	atomic_store(&l->acked[cell], least);
	return 0;
}

static int judge_check(const char *path, char *text, size_t size)
{
	struct vhd_report report = { 0 };
	struct sp_err err = { 0 };
	int r = vhd_check_image(path, NULL, NULL, &report, &err);

	if (r < 0)
		snprintf(text, size, "cannot be checked: %s", sp_err_text(&err));
	for (size_t i = 0; r == 0 && i < report.findings; i++) {
		if (report.finding[i].severity == VHD_SEV_ERROR) {
			snprintf(text, size, "check: %s: %s", report.finding[i].structure, report.finding[i].text);
			r = -1;
		}
	}
	vhd_report_fini(&report);
	return r < 0 ? -1 : 0;
}

int load_verify(struct load *l, const char *path, bool write, uint64_t *ret_open_ns, char *text, size_t size)
{
	struct vhd_open_opts o = { .flags = write ? VHD_OPEN_WRITE : 0 };
	uint64_t start = sp_env_monotonic_ns();
	struct sp_err err = { 0 };
	struct vhd_disk *d;
	uint8_t buf[LOAD_CELL];
	int r = 0;

	if (vhd_disk_open(path, &o, &d, &err) < 0) {
		snprintf(text, size, "does not open: %s", sp_err_text(&err));
		return -1;
	}
	if (ret_open_ns)
		*ret_open_ns = sp_env_monotonic_ns() - start;
	for (unsigned cell = 0; cell < LOAD_CELLS && r == 0; cell++) {
		r = vhd_disk_read(d, buf, LOAD_CELL, cell_offset(cell));
		if (r < 0)
			snprintf(text, size, "cell %u cannot be read: %s", cell, strerror(-r));
		else
			r = judge_cell(l, cell, buf, text, size);
	}
	if (vhd_disk_close(d, &err) < 0 && r == 0) {
		snprintf(text, size, "does not close: %s", sp_err_text(&err));
		return -1;
	}
	return r < 0 ? -1 : write ? judge_check(path, text, size) : 0;
}
