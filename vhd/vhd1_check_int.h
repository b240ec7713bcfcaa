/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_VHD1_CHECK_INT_H
#define SPINDLE_VHD_VHD1_CHECK_INT_H
/*
 * Checker and repair of VHD 1.0: what a look at the whole file has found.
 */
#include "vhd/vhd1_int.h"

struct vhd1_survey {
	struct store *store;
	struct vhd_report *report;
	struct vhd1_footers found;
	struct vhd1_header_disk header;
	struct vhd1_shape shape;
	struct vhd1_extents extents;
	bool has_footer;		/* one of the two is good */
	bool has_map;			/* header and BAT could be read: shape, extents, used_end are valid */
	bool sound;			/* and no two structures or blocks claim one byte, none is past the end */
	bool short_block;		/* a block reaches past the end of a cut file, but only zeros are missing */
	uint64_t used_end;		/* first byte after the last structure or block */
	int failed;			/* the check itself: negative errno of memory or I/O */
};

/* Adds a finding; a lack of memory goes into ->failed. */
void vhd1_note(struct vhd1_survey *c, enum vhd_severity sev, bool fixable, uint64_t offset, const char *structure,
	       const char *fmt, ...) __attribute__((format(printf, 6, 7)));
/* The whole check. The report belongs to the caller. Returns ->failed. */
int vhd1_survey(struct store *store, struct vhd_report *report, struct vhd1_survey *ret);

/* vhd1_check_blocks.c: BAT, blocks, space between and behind them. */
void vhd1_survey_blocks(struct vhd1_survey *c);

#endif
