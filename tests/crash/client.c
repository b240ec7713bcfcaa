/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The power fails under a client of the provider: what its SYNCHRONIZE CACHE and its FUA writes acknowledged is there
 * after every cut. Client, rings, SCSI target and a queue of the engine, on the recording store.
 *
 * One channel, so that one thread does all the I/O: the same seed makes the same run.
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "storvsc/storvsc.h"
#include "storvsp/storvsp.h"
#include "tests/crash/crash.h"

#define BATCH 6u
#define WRITE_MAX 24u		/* sectors */

struct session {
	struct crash *c;
	struct storvsp *controller;
	struct storvsc *client;
	struct storvsc_channel *ch;
	uint8_t *data;		/* BATCH x WRITE_MAX sectors of the arena */
};

struct write {
	struct storvsc_request r;
	uint64_t sector, count;
	bool fua;
	uint32_t entry;		/* in the history */
};

static void must(struct session *s, int r, const char *what)
{
	if (r < 0)
		crash_fail(s->c, "client: %s: %s", what, strerror(-r));
}

/* ---- session ------------------------------------------------------------------------------------- */

static void session_open(struct session *s, struct crash *c)
{
	struct storvsp_opts opts = { .name = "scsi0" };
	struct storvsc_opts client_opts = { .arena_bytes = SP_MIB(1) };
	struct scsi_lu_opts lu_opts = { .kind = SCSI_DISK, .identity = { { 1 } } };
	struct scsi_lu *lu;

	*s = (struct session){ .c = c };
	crash_open(c, "disk");
	must(s, scsi_backend_disk(c->disk, &lu_opts.backend), "backend");
	must(s, scsi_lu_new(&lu_opts, &lu, NULL), "unit");
	must(s, storvsp_new(&opts, &s->controller, NULL), "controller");
	must(s, storvsp_attach(s->controller, (struct storvsp_address){ 0 }, lu, NULL, 0, NULL), "attach");
	must(s, storvsc_open_device(storvsp_offer(s->controller), &client_opts, &s->client, NULL), "open");
	s->ch = storvsc_channel(s->client, 0);
	s->data = storvsc_buffer(s->client, (size_t)BATCH * WRITE_MAX * SECTOR);
	must(s, s->data ? 0 : -1, "buffer");
	/* Whatever the unit has to tell, it tells now. */
	must(s, storvsc_read(s->ch, 0, s->data, SECTOR, 0), "first read");
}

static void session_close(struct session *s)
{
	storvsc_close(s->client);
	storvsp_free(s->controller);
	crash_close(s->c);
}

/* ---- the same on disk and in the oracle ---------------------------------------------------------- */

static void note(struct session *s, enum history_kind kind, uint64_t sector, uint64_t count, uint32_t covers)
{
	log_mark(s->c->log, oracle_note(&s->c->oracle, kind, sector, count, 0, covers));
}

static void write_done(struct storvsc_request *r)
{
	((struct write *)r->user)->r.result = r->result < 0 ? r->result : r->status ? -EIO : 0;
}

static void submit_write(struct session *s, struct write *w, uint8_t *data)
{
	be32_t lba = be32_make((uint32_t)w->sector);
	be16_t count = be16_make((uint16_t)w->count);
	uint32_t stamp = ++s->c->stamp;

	for (uint64_t i = 0; i < w->count; i++)
		stamp_fill(data + i * SECTOR, w->sector + i, stamp);
	w->r = (struct storvsc_request){ .cdb = { 0x2a, w->fua ? 8 : 0 }, .cdb_len = 10, .to_device = true,
					 .data = data, .data_len = (uint32_t)w->count * SECTOR, .done = write_done,
					 .user = w };
	memcpy(w->r.cdb + 2, &lba, sizeof(lba));
	memcpy(w->r.cdb + 7, &count, sizeof(count));
	w->entry = oracle_note(&s->c->oracle, HISTORY_WRITE, w->sector, w->count, stamp, 0);
	log_mark(s->c->log, w->entry);
	must(s, storvsc_submit(s->ch, &w->r), "submit");
}

static uint64_t blocks(const struct crash *c)
{
	return c->w->size / c->w->block;
}

/* Few places in many blocks; @i tells those of one batch apart. */
static void choose(struct session *s, struct write *w, unsigned i)
{
	struct crash *c = s->c;
	uint64_t block = (rng_below(&c->rng, blocks(c)) / BATCH * BATCH + i) % blocks(c);

	w->sector = block * (c->w->block / SECTOR) + rng_below(&c->rng, 5) * 61;
	w->count = rng_between(&c->rng, 1, WRITE_MAX);
	w->fua = rng_chance(&c->rng, 1, 3);
}

/* Several in flight at once, in different blocks, FUA or not. With @flush a SYNCHRONIZE CACHE among them, which
 * answers for what had been acknowledged before. */
static void write_batch(struct session *s, bool flush)
{
	unsigned n = (unsigned)rng_between(&s->c->rng, 1, (uint64_t)sp_min(BATCH, blocks(s->c)));
	uint32_t covers = s->c->oracle.entries;
	struct write w[BATCH];

	for (unsigned i = 0; i < n; i++) {
		choose(s, &w[i], i);
		submit_write(s, &w[i], s->data + (size_t)i * WRITE_MAX * SECTOR);
	}
	if (flush) {
		must(s, storvsc_flush(s->ch, 0), "flush");
		note(s, HISTORY_FLUSHED, 0, 0, covers);
	}
	storvsc_wait(s->ch, BATCH, -1);
	for (unsigned i = 0; i < n; i++) {
		must(s, w[i].r.result, "write");
		if (w[i].fua)
			note(s, HISTORY_FLUSHED, w[i].sector, w[i].count, w[i].entry + 1);
	}
}

/* One by itself: nothing comes between its end and the mark. */
static void write_through(struct session *s)
{
	uint8_t buf[WRITE_MAX * SECTOR];
	struct write w;
	uint32_t stamp = ++s->c->stamp;

	choose(s, &w, (unsigned)rng_below(&s->c->rng, BATCH));
	for (uint64_t i = 0; i < w.count; i++)
		stamp_fill(buf + i * SECTOR, w.sector + i, stamp);
	w.entry = oracle_note(&s->c->oracle, HISTORY_WRITE, w.sector, w.count, stamp, 0);
	log_mark(s->c->log, w.entry);
	must(s, storvsc_write(s->ch, 0, buf, w.count * SECTOR, w.sector * SECTOR, true), "write through");
	note(s, HISTORY_FLUSHED, w.sector, w.count, w.entry + 1);
}

static void unmap_block(struct session *s)
{
	struct crash *c = s->c;
	uint64_t block = rng_below(&c->rng, blocks(c)) * c->w->block;

	note(s, HISTORY_DISCARD, block / SECTOR, c->w->block / SECTOR, 0);
	must(s, storvsc_unmap(s->ch, 0, block, c->w->block), "unmap");
}

static void flush(struct session *s)
{
	uint32_t covers = s->c->oracle.entries;

	must(s, storvsc_flush(s->ch, 0), "flush");
	note(s, HISTORY_FLUSHED, 0, 0, covers);
}

void crash_client(struct crash *c)
{
	struct session s;

	session_open(&s, c);
	for (unsigned i = 0; i < 20; i++) {
		switch (rng_below(&c->rng, 5)) {
		case 0: write_through(&s); break;
		case 1: unmap_block(&s); break;
		case 2: flush(&s); break;
		case 3: write_batch(&s, true); break;
		default: write_batch(&s, false);
		}
	}
	session_close(&s);
}
