/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Check, repair, check, open. What the checker calls sound must open; what was repaired must stay repaired.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/bytes.h"
#include "tests/fuzz/fuzz.h"
#include "vhd/check.h"
#include "vhd/store_mem_int.h"

static void check(const struct vhd_format *f, struct store *s, struct vhd_report *ret)
{
	int r = f->check(s, ret);

	fz_check(r <= 0 && r != -EROFS, "check answers %d", r);
	if (r < 0)
		ret->errors++;		/* memory or I/O: nothing is known */
	fz_check(ret->findings <= ret->room && ret->findings <= ret->errors + ret->leaks + ret->warnings,
		 "%zu findings told, %" PRIu64 " errors, %" PRIu64 " leaks, %" PRIu64 " warnings counted",
		 ret->findings, ret->errors, ret->leaks, ret->warnings);
}

static int open_image(const struct vhd_format *f, struct store *s, struct sp_err *err)
{
	struct vhd_image *img;
	int r = vhd_image_open(s, "leaf", f, 0, &img, err);

	if (r == 0) {
		fz_map_image(img);
		vhd_image_close(img, true);
	}
	return r;
}

static void must_open(struct fz_case *c, const struct vhd_format *f, const char *when)
{
	struct sp_err err = { 0 };
	int r = open_image(f, fz_store(c, 0, false), &err);

	fz_check(r == 0, "%s finds no error, opening does: %s", when, sp_err_text(&err));
}

static void repair(struct fz_case *c, const struct vhd_format *f)
{
	struct mem_file *file = store_folder_mem_get(c->folder, c->seed->name[0]);
	struct vhd_report first = { 0 }, second = { 0 }, after = { 0 };
	struct store *s;

	if (mem_file_open(file, "leaf", true, &s) < 0)
		return;
	if (f->repair(s, false, &first) == 0) {
		check(f, s, &after);
		if (after.errors == 0)
			must_open(c, f, "the check after a repair");
		fz_check(f->repair(s, false, &second) < 0 || second.fixed == 0,
			 "the second repair fixes %" PRIu64 " more, first \"%s: %s\"", second.fixed,
			 second.findings ? second.finding[0].structure : "",
			 second.findings ? second.finding[0].text : "");
	}
	store_close(s);
	vhd_report_fini(&first);
	vhd_report_fini(&second);
	vhd_report_fini(&after);
}

static void run_check(struct fz_case *c)
{
	const struct vhd_format *f = vhd_format_by_id(c->seed->format);
	struct store *s = fz_store(c, 0, false);
	struct vhd_report before = { 0 }, dry = { 0 };

	check(f, s, &before);
	if (before.errors == 0)
		must_open(c, f, "the check");
	f->repair(s, true, &dry);
	store_close(s);
	vhd_report_fini(&before);
	vhd_report_fini(&dry);
	repair(c, f);
}

static const enum fz_seed_id seeds[] = {
	FZ_VHD_DYNAMIC, FZ_VHDX_DYNAMIC, FZ_VHD_CHILD, FZ_VHDX_CHILD, FZ_VHDX_DIRTY, FZ_VHD_SMALL_BLOCKS, FZ_VHDX_FIXED,
	FZ_VHD_FIXED, FZ_VHDX_4K, FZ_VHDX_DIRTY_CHILD,
};
const struct fz_target fz_target_check_repair = {
	.name = "check_repair", .seed = seeds, .seeds = SP_ARRAY_SIZE(seeds), .run = run_check,
};
