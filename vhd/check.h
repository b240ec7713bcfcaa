/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_CHECK_H
#define SPINDLE_VHD_CHECK_H
/*
 * Checking and repairing one image file. Works on images that do not open: the checker of each format looks at the
 * bytes itself. Parents are not looked at; they are images of their own.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "vhd/vhd.h"

#ifdef __cplusplus
extern "C" {
#endif

enum vhd_severity {
	VHD_SEV_WARNING,	/* odd, or a lost second copy; nothing is in danger */
	VHD_SEV_LEAK,		/* space that nothing refers to */
	VHD_SEV_ERROR,		/* damage */
};

/* One finding: which structure, at which byte of the file, what was found and expected, what to do. */
struct vhd_finding {
	enum vhd_severity severity;
	bool fixable, fixed;
	uint64_t file_offset;		/* UINT64_MAX: none */
	char structure[48];		/* "footer copy", "BAT entry 17" */
	char text[256];
};

/* Bounded: counts everything, keeps the first 1000 findings. */
struct vhd_report {
	uint64_t errors, leaks, warnings, fixed;
	uint64_t leaked_bytes, allocated_blocks, total_blocks, image_end;
	struct vhd_finding *finding;
	size_t findings, room;
};

/* Releases the findings; the struct itself is the caller's. */
void vhd_report_fini(struct vhd_report *rep);

struct vhd_check_opts {
	enum vhd_format_id format;	/* AUTO: by signature, and when that is gone by the ending of the name */
	bool no_lock;			/* look at an image another program has open; check only */
};

/**
 * vhd_check_image - verify everything a careful reader can verify in one file
 * @path: given by the operator
 * @opts: NULL for defaults
 * @ret_format: which format it was checked as; may be NULL
 * @ret_report: filled on success, release with vhd_report_fini()
 *
 * Never writes. Returns 0 when the check ran (what it found is in the report), -ENOTSUP when the format has nothing to
 * check (raw), -EBADMSG when the file is nothing we know, -EBUSY, -EIO, -ENOENT, -ENOMEM.
 */
int vhd_check_image(const char *path, const struct vhd_check_opts *opts, enum vhd_format_id *ret_format,
		    struct vhd_report *ret_report, struct sp_err *err);

/**
 * vhd_repair_image - fix what is provably fixable: footer and header copies, a log to replay, leaked space at the end
 * @dry_run: opens read-only and only tells
 *
 * Findings that were repaired are marked fixed; the rest stays in the report with the reason. Otherwise as
 * vhd_check_image().
 */
int vhd_repair_image(const char *path, const struct vhd_check_opts *opts, bool dry_run, enum vhd_format_id *ret_format,
		     struct vhd_report *ret_report, struct sp_err *err);

#ifdef __cplusplus
}
#endif
#endif
