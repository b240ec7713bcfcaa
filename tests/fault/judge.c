/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Verdicts. The folder is looked at as it is, as if the process had died, and as a power cut would leave it: with
 * nothing that was not synced, and with some of it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "tests/fault/fault.h"
#include "vhd/store_mem_int.h"

#define PIECE 128u	/* sectors read at once */

static void judge_sectors(struct run *run, struct vhd_disk *d, const struct sheet_cell *cell, const char *state)
{
	uint64_t end = sp_min(run->sheet.sectors, vhd_disk_size(d) / SHEET_SECTOR);
	static uint8_t buf[PIECE * SHEET_SECTOR];

	for (uint64_t i = 0; i < end && run->violations == 0;) {
		uint64_t n = 0;

		while (n < PIECE && i + n < end && run->sheet.touched[i + n])
			n++;
		if (n > 0 && vhd_disk_read(d, buf, n * SHEET_SECTOR, i * SHEET_SECTOR) != 0) {
			run_violation(run, "%s: sector %" PRIu64 " cannot be read", state, i);
			return;
		}
		for (uint64_t k = 0; k < n; k++) {
			char have[64], want[128];

			if (sheet_allows(&cell[i + k], buf + k * SHEET_SECTOR, i + k, run->mode->halves))
				continue;
			sheet_describe(buf + k * SHEET_SECTOR, have, sizeof(have));
			sheet_expected(&cell[i + k], want, sizeof(want));
			run_violation(run, "%s: sector %" PRIu64 " holds %s, allowed is %s", state, i + k, have, want);
			return;
		}
		i += n ? n : 1;
	}
}

struct checking {
	struct run *run;
	const char *state;
};

/* The checker of the format finds no damage in any image of the folder, half-made ones under temporary names apart. */
static int check_one(void *arg, const char *name, struct mem_file *file)
{
	struct checking *c = arg;
	struct vhd_report report = { 0 };
	struct store *s;
	int r;

	if (name[0] == '.')
		return 0;
	if (mem_file_open(file, name, false, &s) < 0)
		abort();
	r = vhd_format_by_id(c->run->w->format)->check(s, &report);
	if (r < 0)
		run_violation(c->run, "%s: the check of %s failed: %d", c->state, name, r);
	for (size_t i = 0; r == 0 && i < report.findings; i++) {
		if (report.finding[i].severity == VHD_SEV_ERROR)
			run_violation(c->run, "%s: check of %s: %s: %s", c->state, name, report.finding[i].structure,
				      report.finding[i].text);
	}
	vhd_report_fini(&report);
	store_close(s);
	return 0;
}

static bool is_there(struct store_folder *f, const char *name)
{
	return store_folder_mem_get(f, name) != NULL;
}

static void judge_size(struct run *run, struct vhd_disk *d, const char *state)
{
	uint64_t size = vhd_disk_size(d), grown = run->new_size ? run->new_size : run->w->size;

	if (size != grown && (run->result == 0 || size != run->w->size))
		run_violation(run, "%s: the disk has %" PRIu64 " bytes", state, size);
}

static void open_and_read(struct run *run, struct store_folder *f, bool write, const char *state)
{
	struct vhd_open_opts o = { .flags = write ? VHD_OPEN_WRITE : 0, .format = run->w->format };
	struct sp_err err = { 0 };
	struct vhd_disk *d;

	if (vhd_disk_open_in(f, run->w->leaf, &o, &d, &err) < 0) {
		run_violation(run, "%s: does not open%s: %s", state, write ? " for writing" : "", sp_err_text(&err));
		return;
	}
	judge_size(run, d, state);
	judge_sectors(run, d, run->sheet.durable, state);
	if (vhd_disk_close(d, &err) < 0)
		run_violation(run, "%s: does not close: %s", state, sp_err_text(&err));
}

static void judge_folder(struct run *run, struct store_folder *f, const char *state)
{
	struct checking c = { run, state };

	if (!is_there(f, run->w->leaf)) {
		if (!run->w->appears || run->result == 0)
			run_violation(run, "%s: %s is gone", state, run->w->leaf);
		return;
	}
	open_and_read(run, f, false, state);
	open_and_read(run, f, true, state);
	if (!run->w->damaged || run->result == 0)
		store_folder_mem_each(f, check_one, &c);
}

/* ---- the states ----------------------------------------------------------------------------------- */

static bool by_chance(void *arg, size_t index, const struct log_event *e, enum log_choice *how, uint64_t *k)
{
	struct run *run = arg;

	return rng_chance(&run->rng, 1, 2);
}

static void judge_cut(struct run *run, bool nothing, const char *state)
{
	struct store_folder *f = log_crash(run->log, log_seq(run->log), nothing ? NULL : by_chance, run);

	/* What was being made when it failed may be half there after a cut: its name has not been announced. */
	if (!run->w->appears || run->result == 0)
		judge_folder(run, f, state);
	store_folder_close(f);
}

static int is_temporary(void *arg, const char *name, struct mem_file *file)
{
	if (name[0] != '.')
		return 0;
	run_violation(arg, "%s was left behind", name);
	return 1;
}

/* The operation that failed can be repeated, and then everything is as if nothing had been. */
static void judge_again(struct run *run, struct store_folder *f)
{
	struct sp_err err = { 0 };
	int r = run->w->again(run->w, f, &err);

	if (r < 0 && r != -EALREADY) {
		run_violation(run, "cannot be repeated: %d %s", r, sp_err_text(&err));
		return;
	}
	run->result = 0;
	judge_folder(run, f, "repeated");
}

/* ---- the open disk -------------------------------------------------------------------------------- */

static void judge_poisoned(struct run *run)
{
	uint8_t buf[SHEET_SECTOR] = { 0 };

	if (vhd_disk_flush(run->disk) == 0)
		run_violation(run, "poisoned, and yet a flush succeeds");
	if (vhd_disk_write(run->disk, buf, sizeof(buf), 0) == 0)
		run_violation(run, "poisoned, and yet a write succeeds");
}

/* Memory is back: the disk goes on. After an I/O error in its metadata an image may refuse until it is reopened. */
static void judge_usable(struct run *run, struct totals *t)
{
	int before = run->result, r;

	run_write(run, 3, 5);
	run_settle(run);
	r = run_flush(run);
	if (r < 0 && run->mode->error == -ENOMEM)
		run_violation(run, "not usable afterwards: %d (%s)", r, strerror(-r));
	t->usable += r == 0;
	t->refused += r < 0;
	run->result = before;
}

static void judge_disk(struct run *run, struct totals *t)
{
	run_settle(run);
	judge_sectors(run, run->disk, run->sheet.live, "in the running process");
	if (vhd_disk_poisoned(run->disk) < 0) {
		judge_poisoned(run);
		t->poisoned++;
	} else if (vhd_disk_writable(run->disk)) {
		judge_usable(run, t);
	}
	judge_sectors(run, run->disk, run->sheet.live, "after more writes");
	run_close(run);
}

void judge(struct run *run, struct totals *t)
{
	struct store_folder *f;

	atomic_store(&run->plan.enabled, false);
	if (run->disk)
		judge_disk(run, t);
	if (run->log) {
		judge_cut(run, true, "power cut, unsynced lost");
		judge_cut(run, false, "power cut, some unsynced kept");
		t->states += 2;
	}
	if (store_folder_mem_clone(run->mem, &f) < 0)
		abort();
	/* A name that could not be removed stays; else nothing does. */
	if (run->result < 0 && !(run->plan.hit_classes & FAULT_NAMES) && !run->mode->sticky)
		store_folder_mem_each(f, is_temporary, run);
	if (!run->w->appears || run->result == 0 || !(run->plan.hit_classes & FAULT_NAMES))
		judge_folder(run, f, "as it is");
	t->states++;
	t->failed += run->result < 0;
	t->absorbed += run->result == 0 && run_hits(run) > 0;
	if (run->w->again && run->result < 0)
		judge_again(run, f);
	store_folder_close(f);
	t->violations += run->violations > 0;
}
