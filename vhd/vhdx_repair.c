/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Repairs that are provably safe (vhd-formats 5.3): replay the log, rewrite a lost header or region table copy from
 * the good one, cut off space behind the last used byte. Everything else stays in the report.
 *
 * The file is changed only by the rules of a writer: first the headers with a new FileWriteGuid, then the rest.
 * DataWriteGuid stays, for what a guest sees does not change.
 */
#include "vhd/vhdx_int.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"

/* A report that has overflowed may have lost one. */
static bool has_fixable(const struct vhd_report *rep)
{
	if (rep->errors + rep->leaks + rep->warnings > rep->findings)
		return true;
	for (size_t i = 0; i < rep->findings; i++) {
		if (rep->finding[i].fixable)
			return true;
	}
	return false;
}

/* Log first: afterwards both headers are good, carry the same GUIDs and announce a change. */
static int repair_headers_and_log(struct vhdx *x)
{
	int r = store_size(x->img->store, &x->file_size);

	if (r == 0)
		r = vhdx_header_read_current(x->img->store, x->file_size, &x->header, &x->header_slot, NULL);
	if (r < 0)
		return r;
	if (!sp_guid_is_zero(&x->header.log_guid))
		return vhdx_replay(x, NULL);
	sp_env_guid(&x->header.file_write_guid);
	return vhdx_header_update(x);
}

static int repair_regions(struct vhdx *x)
{
	struct vhdx_region_table t;
	unsigned copy;
	int r = vhdx_region_tables_read(x->img->store, x->file_size, &t, &copy, NULL);

	if (r < 0)
		return r == -ENOMEM ? r : 0;	/* nothing to copy from; the check says so */
	sp_free(t.entry);
	return vhdx_region_table_restore(x->img->store, copy);
}

/* Only in an image without any error: what looks unused may be what a damaged entry meant. */
static int repair_tail(struct vhdx *x)
{
	struct store *s = x->img->store;
	struct vhd_report rep = { 0 };
	bool tail = false;
	int r = vhdx_check(s, &rep);

	for (size_t i = 0; i < rep.findings; i++)
		tail |= rep.finding[i].severity == VHD_SEV_LEAK && rep.finding[i].fixable;
	if (r == 0 && tail && rep.errors == 0 && !s->is_device) {
		r = store_resize(s, rep.image_end);
		if (r == 0)
			r = store_sync(s);
	}
	vhd_report_fini(&rep);
	return r;
}

static int repair_all(struct store *store)
{
	struct vhdx x = { .img = NULL };
	struct vhd_image img = { .store = store, .name = store->name, .flags = VHD_IMG_WRITABLE, .state = &x };
	int r;

	x.img = &img;
	r = repair_headers_and_log(&x);
	if (r == 0)
		r = repair_regions(&x);
	if (r == 0)
		r = repair_tail(&x);
	return r;
}

static bool is_in(const struct vhd_report *rep, const struct vhd_finding *f)
{
	for (size_t i = 0; i < rep->findings; i++) {
		const struct vhd_finding *g = &rep->finding[i];

		if (g->file_offset == f->file_offset && strcmp(g->structure, f->structure) == 0)
			return true;
	}
	return false;
}

/* What was there before and could be put right is gone now: say so. */
static int report_fixed(const struct vhd_report *before, struct vhd_report *report)
{
	int r = 0;

	for (size_t i = 0; i < before->findings && r == 0; i++) {
		const struct vhd_finding *f = &before->finding[i];

		if (f->fixable && !is_in(report, f))
			r = vhd_report_add(report, f->severity, true, true, f->file_offset, f->structure, "%s",
					   f->text);
	}
	return r;
}

/**
 * vhdx_repair - put right what is provably right afterwards
 * @dry_run: report as vhdx_check() does; "fixable" says what a repair would do
 *
 * An image whose headers, log or region tables are lost in both copies is left alone.
 * Returns 0, -ENOMEM, -ENOSPC or an I/O error; then the file is as valid as before, and the repair can be run again.
 */
int vhdx_repair(struct store *store, bool dry_run, struct vhd_report *report)
{
	struct vhd_report before = { 0 };
	int r;

	if (dry_run)
		return vhdx_check(store, report);
	r = vhdx_check(store, &before);
	if (r == 0 && has_fixable(&before))
		r = repair_all(store);
	if (r == 0 || r == -EBADMSG || r == -ENOTSUP)	/* beyond repair: the check tells why */
		r = vhdx_check(store, report);
	if (r == 0)
		r = report_fixed(&before, report);
	vhd_report_fini(&before);
	return r;
}
