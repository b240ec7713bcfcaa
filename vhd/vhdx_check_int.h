/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_VHDX_CHECK_INT_H
#define SPINDLE_VHD_VHDX_CHECK_INT_H
/*
 * What the files of the VHDX checker and of the repair share.
 */
#include "vhd/vhdx_int.h"

struct vhdx_checker {
	struct store *file;		/* as given */
	struct store *view;		/* the file, or how it will be once its log is replayed */
	uint64_t file_size;		/* of the view */
	bool log_dirty;
	struct vhdx_header header;
	struct vhdx_region_table regions;
	struct vhdx_metadata metadata;
	struct vhdx_geometry geo;
	struct vhd_report *rep;
};

/* The BAT entry by entry, overlaps, leaks (X13 to X18, X22). Findings go to c->rep; 0, -ENOMEM or an I/O error. */
int vhdx_check_bat(struct vhdx_checker *c);

#endif
