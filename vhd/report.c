/* SPDX-License-Identifier: BSD-2-Clause */
#include "vhd/image.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

#define FINDINGS_MAX 1000

static void count(struct vhd_report *rep, enum vhd_severity sev, bool fixed)
{
	switch (sev) {
	case VHD_SEV_WARNING:
		rep->warnings++;
		break;
	case VHD_SEV_LEAK:
		rep->leaks++;
		break;
	case VHD_SEV_ERROR:
		rep->errors++;
		break;
	}
	rep->fixed += fixed;
}

static int make_room(struct vhd_report *rep)
{
	size_t room = rep->room ? 2 * rep->room : 16;
	struct vhd_finding *f;

	if (rep->findings < rep->room)
		return 0;
	f = sp_realloc(rep->finding, room * sizeof(*f));
	if (!f)
		return -ENOMEM;
	rep->finding = f;
	rep->room = room;
	return 0;
}

/**
 * vhd_report_add - one finding
 * @file_offset: bytes, UINT64_MAX when it has no place in the file
 *
 * Counts always; the text of the 1001st finding and later ones is dropped. Returns 0 or -ENOMEM.
 */
int vhd_report_add(struct vhd_report *rep, enum vhd_severity sev, bool fixable, bool fixed, uint64_t file_offset,
		   const char *structure, const char *fmt, ...)
{
	struct vhd_finding *f;
	va_list ap;
	int r;

	count(rep, sev, fixed);
	if (rep->findings >= FINDINGS_MAX)
		return 0;
	r = make_room(rep);
	if (r < 0)
		return r;
	f = &rep->finding[rep->findings++];
	memset(f, 0, sizeof(*f));
	f->severity = sev;
	f->fixable = fixable;
	f->fixed = fixed;
	f->file_offset = file_offset;
	snprintf(f->structure, sizeof(f->structure), "%s", structure);
	va_start(ap, fmt);
	vsnprintf(f->text, sizeof(f->text), fmt, ap);
	va_end(ap);
	return 0;
}

void vhd_report_fini(struct vhd_report *rep)
{
	sp_free(rep->finding);
	rep->finding = NULL;
	rep->findings = rep->room = 0;
}
