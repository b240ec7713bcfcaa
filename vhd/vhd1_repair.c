/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Repairs that are provably right (vhd-formats.md 5.3): a lost end footer or copy from the other one, a 511-byte
 * footer, space behind the last block, a cut file of which only unwritten bytes are missing. Overlapping blocks and BAT
 * entries past the end stay in the report: nobody can tell which of the claims is the right one.
 */
#include "vhd/vhd1_check_int.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"

static int write_footer(const struct vhd1_survey *c, uint64_t offset)
{
	int r = store_write(c->store, &c->found.footer, sizeof(c->found.footer), offset);

	return r < 0 ? r : store_sync(c->store);
}

/* At the end of what is used, then cut what follows: a good footer is in the file all the time. */
static int place_end_footer(const struct vhd1_survey *c)
{
	uint64_t at = c->used_end;
	int r;

	if (c->store->is_device)
		at = c->found.file_size - VHD1_SECTOR;
	r = write_footer(c, at);
	if (r < 0 || c->store->is_device || at + VHD1_SECTOR >= c->found.file_size)
		return r;
	r = store_resize(c->store, at + VHD1_SECTOR);
	return r < 0 ? r : store_sync(c->store);
}

static int fix(const struct vhd1_survey *c)
{
	bool end_good = c->found.end == VHD1_END_GOOD || c->found.end == VHD1_END_SHORT;
	bool sparse = vhd1_is_sparse(&c->found.footer);
	int r = 0;

	if (c->found.end == VHD1_END_SHORT)	/* grows the file by the missing byte */
		r = write_footer(c, c->found.end_offset);
	/* The copy may be the only good one: it goes first only when the end one is sure. */
	if (r == 0 && sparse && end_good && !c->found.copy_same)
		r = write_footer(c, 0);
	if (r == 0 && sparse && c->has_map && c->sound &&
	    (!end_good || c->found.end_offset >= c->used_end + VHD1_SECTOR))
		r = place_end_footer(c);
	return r;
}

static void mark_fixed(struct vhd_report *rep, const struct vhd_report *before, const struct vhd_report *after)
{
	uint64_t left = 0;

	for (size_t i = 0; i < after->findings; i++)
		left += after->finding[i].fixable;
	/* A finding is fixed when a second look no longer has it. */
	for (size_t i = 0; i < before->findings; i++) {
		const struct vhd_finding *f = &before->finding[i];
		bool gone = f->fixable;

		for (size_t k = 0; gone && left > 0 && k < after->findings; k++)
			gone = strcmp(after->finding[k].structure, f->structure) != 0 ||
			       after->finding[k].file_offset != f->file_offset;
		rep->finding[i].fixed = gone;
		rep->fixed += gone;
	}
}

static bool has_fixable(const struct vhd_report *rep)
{
	for (size_t i = 0; i < rep->findings; i++)
		if (rep->finding[i].fixable)
			return true;
	return false;
}

int vhd1_repair(struct store *store, bool dry_run, struct vhd_report *report)
{
	struct vhd1_survey *c = sp_alloc(sizeof(*c));
	struct vhd_report again = { 0 };
	int r = c ? vhd1_survey(store, report, c) : -ENOMEM;

	if (r == 0 && !dry_run && c->has_footer && has_fixable(report)) {
		if (c->found.footer.saved_state == 1 && c->found.end == VHD1_END_GOOD && c->found.copy_same)
			r = 0;		/* only space to win, and a saved state forbids moving anything */
		else
			r = fix(c);
		if (r == 0)
			r = vhd1_survey(store, &again, c);
		if (r == 0)
			mark_fixed(report, report, &again);
		vhd_report_fini(&again);
	}
	sp_free(c);
	return r;
}
