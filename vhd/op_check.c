/* SPDX-License-Identifier: BSD-2-Clause */
#include "vhd/check.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "vhd/image.h"

static int choose_format(struct store *store, const char *path, enum vhd_format_id id,
			 const struct vhd_format **ret_format, struct sp_err *err)
{
	if (id == VHD_FORMAT_AUTO)
		return vhd_format_detect(store, path, ret_format, err);
	*ret_format = vhd_format_by_id(id);
	return 0;
}

/* Opens the file and decides whose checker it is; @repair also wants its repair function. */
static int open_for_check(const char *path, unsigned flags, enum vhd_format_id id, bool repair,
			  struct store **ret_store, const struct vhd_format **ret_format, struct sp_err *err)
{
	struct store *store;
	int r;

	r = store_file_open(path, flags, &store, err);
	if (r < 0)
		return r;
	r = choose_format(store, path, id, ret_format, err);
	if (r == 0 && (repair ? !(*ret_format)->repair : !(*ret_format)->check))
		r = sp_err_set(err, -ENOTSUP, "%s images have no structures to %s", (*ret_format)->name,
			       repair ? "repair" : "check");
	if (r < 0) {
		store_close(store);
		return r;
	}
	*ret_store = store;
	return 0;
}

static int report_done(int r, const struct vhd_report *report, const struct vhd_format *format,
		       enum vhd_format_id *ret_format, struct vhd_report *ret_report, const char *what,
		       struct sp_err *err)
{
	if (r < 0) {
		struct vhd_report gone = *report;

		vhd_report_fini(&gone);
		return sp_err_set(err, r, "the %s could not be finished: %s", what, strerror(-r));
	}
	*ret_report = *report;
	if (ret_format)
		*ret_format = format->id;
	return 0;
}

int vhd_check_image(const char *path, const struct vhd_check_opts *opts, enum vhd_format_id *ret_format,
		    struct vhd_report *ret_report, struct sp_err *err)
{
	const struct vhd_check_opts o = opts ? *opts : (struct vhd_check_opts){ 0 };
	struct vhd_report report = { 0 };
	const struct vhd_format *format;
	struct store *store;
	int r;

	r = open_for_check(path, o.no_lock ? STORE_NO_LOCK : 0, o.format, false, &store, &format, err);
	if (r < 0)
		return r;
	r = format->check(store, &report);
	store_close(store);
	return report_done(r, &report, format, ret_format, ret_report, "check", err);
}

int vhd_repair_image(const char *path, const struct vhd_check_opts *opts, bool dry_run, enum vhd_format_id *ret_format,
		     struct vhd_report *ret_report, struct sp_err *err)
{
	const struct vhd_check_opts o = opts ? *opts : (struct vhd_check_opts){ 0 };
	struct vhd_report report = { 0 };
	const struct vhd_format *format;
	struct store *store;
	int r;

	r = open_for_check(path, dry_run ? 0 : STORE_RDWR, o.format, true, &store, &format, err);
	if (r < 0)
		return r;
	r = format->repair(store, dry_run, &report);
	if (r == 0 && !dry_run)
		r = store_sync(store);
	store_close(store);
	return report_done(r, &report, format, ret_format, ret_report, "repair", err);
}
