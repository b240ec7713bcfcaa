/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "tests/fault/fault.h"

void run_violation(struct run *run, const char *fmt, ...)
{
	va_list ap;

	if (run->violations++ > 0)
		return;		/* the first one says it */
	fprintf(stderr, "FAIL --only %s --mode %s --k %" PRIu64 "%s: ", run->w->name,
		run->mode ? run->mode->name : "setup", run->k, run->queued ? " --queue" : "");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

uint64_t run_hits(const struct run *run)
{
	return run->plan.hits + run->refused;
}

static void note(struct run *run, int r)
{
	if (r >= 0)
		return;
	if (run->result == 0)
		run->result = r;
	if (run_hits(run) == 0)
		run_violation(run, "error %d (%s) though nothing failed", r, strerror(-r));
}

void run_result(struct run *run, int r, const struct sp_err *err)
{
	if (r < 0 && (err->code != r || err->text[0] == '\0'))
		run_violation(run, "returned %d with the story \"%s\" (%d)", r, err->text, err->code);
	if (r < 0 && run_hits(run) == 0)
		run_violation(run, "%s", err->text);
	note(run, r);
}

/* Around one call: which of its I/O failed. */
static void calls(struct run *run)
{
	atomic_store(&run->plan.hit_classes, 0);
}

/* Something was not written and the caller was not told. That hints get lost (punch, zero) is allowed; so is it to read
 * again, and to try with less space: then what was read and written is compared. */
static void must_tell(struct run *run, const char *what, int r)
{
	unsigned hit = run->plan.hit_classes & (FAULT_WRITE | FAULT_RESIZE | FAULT_SYNC);

	if (run->plan.error == -ENOSPC)
		hit &= FAULT_SYNC;
	if (r == 0 && hit)
		run_violation(run, "%s succeeded though its I/O failed (%#x)", what, hit);
}

/* ---- open and close ------------------------------------------------------------------------------- */

void run_open(struct run *run, const char *leaf, bool write)
{
	struct vhd_open_opts o = { .flags = write ? VHD_OPEN_WRITE : 0, .format = run->w->format };
	struct vhd_queue_opts qo = { .depth = 8 };
	struct sp_err err = { 0 };

	run->closed_clean = false;
	run_result(run, vhd_disk_open_in(run->folder, leaf, &o, &run->disk, &err), &err);
	if (run->disk && run->queued)
		run_result(run, vhd_queue_new(run->disk, &qo, &run->queue, &err), &err);
}

void run_close(struct run *run)
{
	struct sp_err err = { 0 };
	bool writable;
	int r;

	run_settle(run);
	if (!run->disk)
		return;
	calls(run);
	vhd_queue_free(run->queue);
	if (vhd_disk_poisoned(run->disk) < 0)
		run->lost = true;
	writable = vhd_disk_writable(run->disk);
	r = vhd_disk_close(run->disk, &err);
	run->disk = NULL;
	run->queue = NULL;
	run_result(run, r, &err);
	if (writable)
		must_tell(run, "close", r);
	if (r == 0 && run->lost)
		run_violation(run, "close succeeded after a sync had failed");
	if (r == 0 && writable)
		sheet_flushed(&run->sheet);
	run->closed_clean = r == 0;
}

/* ---- reads and writes ----------------------------------------------------------------------------- */

static void wrote(struct run *run, uint64_t sector, uint64_t count, uint16_t stamp, int r)
{
	sheet_wrote(&run->sheet, sector, count, stamp, r == 0);
	if (r == 0 && vhd_disk_poisoned(run->disk) < 0 && run->lost)
		run_violation(run, "a write succeeded on a disk that is poisoned");
	note(run, r);
}

static void request_done(struct vhd_req *req, int res)
{
	struct pending *p = req->user;

	p->res = res;
}

void run_settle(struct run *run)
{
	if (!run->queue || run->pendings == 0)
		return;
	while (vhd_queue_inflight(run->queue) > 0) {
		if (vhd_queue_wait(run->queue, 1) < 0) {
			run_violation(run, "waiting for the queue failed");
			return;
		}
	}
	for (unsigned i = 0; i < run->pendings; i++) {
		struct pending *p = &run->pending[i];

		if (p->res > 0)
			run_violation(run, "a request was never completed");
		wrote(run, p->sector, p->count, p->stamp, p->res);
		free(p->buf);
	}
	run->pendings = 0;
}

static bool in_the_way(const struct run *run, uint64_t sector, uint64_t count)
{
	for (unsigned i = 0; i < run->pendings; i++) {
		if (sp_ranges_overlap(sector, count, run->pending[i].sector, run->pending[i].count))
			return true;
	}
	return run->pendings == RUN_PENDING;
}

static void submit(struct run *run, enum vhd_req_op op, uint64_t sector, uint64_t count, uint8_t *buf, uint16_t stamp)
{
	struct pending *p;

	if (in_the_way(run, sector, count))
		run_settle(run);
	p = &run->pending[run->pendings++];
	p->buf = buf;
	p->sector = sector;
	p->count = count;
	p->stamp = stamp;
	p->res = 1;
	p->iov = (struct iovec){ buf, count * SHEET_SECTOR };
	p->req = (struct vhd_req){
		.op = op,
		.offset = sector * SHEET_SECTOR,
		.len = count * SHEET_SECTOR,
		.iov = &p->iov,
		.iovcnt = buf ? 1 : 0,
		.buf_index = -1,
		.complete = request_done,
		.user = p,
	};
	vhd_queue_submit(run->queue, &p->req);
}

static uint8_t *buffer(uint64_t count)
{
	uint8_t *buf = malloc(count * SHEET_SECTOR);

	if (!buf)
		abort();
	return buf;
}

void run_write(struct run *run, uint64_t sector, uint64_t count)
{
	uint8_t *buf;
	int r;

	if (!run->disk)
		return;
	buf = buffer(count);
	sheet_fill(buf, sector, count, ++run->sheet.last);
	if (run->queue) {
		submit(run, VHD_REQ_WRITE, sector, count, buf, run->sheet.last);
		return;
	}
	calls(run);
	r = vhd_disk_write(run->disk, buf, count * SHEET_SECTOR, sector * SHEET_SECTOR);
	free(buf);
	wrote(run, sector, count, run->sheet.last, r);
	must_tell(run, "write", r);
}

void run_zero(struct run *run, uint64_t sector, uint64_t count)
{
	if (!run->disk)
		return;
	if (run->queue)
		submit(run, VHD_REQ_WRITE_ZEROES, sector, count, NULL, 0);
	else
		wrote(run, sector, count, 0,
		      vhd_disk_write_zeroes(run->disk, sector * SHEET_SECTOR, count * SHEET_SECTOR));
}

void run_discard(struct run *run, uint64_t sector, uint64_t count)
{
	if (!run->disk)
		return;
	run_settle(run);
	note(run, vhd_disk_discard(run->disk, sector * SHEET_SECTOR, count * SHEET_SECTOR));
	sheet_discarded(&run->sheet, sector, count);
}

void run_read(struct run *run, uint64_t sector, uint64_t count)
{
	uint8_t *buf;
	int r;

	if (!run->disk)
		return;
	run_settle(run);
	buf = buffer(count);
	calls(run);
	r = vhd_disk_read(run->disk, buf, count * SHEET_SECTOR, sector * SHEET_SECTOR);
	note(run, r);
	must_tell(run, "read", r);
	for (uint64_t i = 0; r == 0 && i < count; i++) {
		char have[64], want[128];

		if (sheet_allows(&run->sheet.live[sector + i], buf + i * SHEET_SECTOR, sector + i, run->mode->halves))
			continue;
		sheet_describe(buf + i * SHEET_SECTOR, have, sizeof(have));
		sheet_expected(&run->sheet.live[sector + i], want, sizeof(want));
		run_violation(run, "sector %" PRIu64 " reads %s, allowed is %s", sector + i, have, want);
	}
	free(buf);
}

static int queued_flush(struct run *run)
{
	struct pending p = { .res = 1 };

	p.req = (struct vhd_req){ .op = VHD_REQ_FLUSH, .buf_index = -1, .complete = request_done, .user = &p };
	vhd_queue_submit(run->queue, &p.req);
	while (p.res == 1 && vhd_queue_wait(run->queue, 1) >= 0)
		;
	return p.res;
}

int run_flush(struct run *run)
{
	int r, poison;

	if (!run->disk)
		return 0;
	run_settle(run);
	calls(run);
	r = run->queue ? queued_flush(run) : vhd_disk_flush(run->disk);
	poison = vhd_disk_poisoned(run->disk);
	must_tell(run, "flush", r);
	if (r == 0 && (run->lost || poison < 0))
		run_violation(run, "a flush succeeded after a sync had failed");
	if ((run->plan.hit_classes & FAULT_SYNC) && poison == 0)
		run_violation(run, "a sync failed and the disk is not poisoned");
	if (poison < 0)
		run->lost = true;
	if (r == 0)
		sheet_flushed(&run->sheet);
	note(run, r);
	return r;
}
