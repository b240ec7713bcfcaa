/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_HOSTILE_H
#define SPINDLE_TESTS_HOSTILE_H
/*
 * Images whose parent locators try to get out of the folder they may name files in.
 *
 *	TOP/root/		the allowed folder: the children, inside.vhd(x), and traps
 *	TOP/root/sub/		a folder in it
 *	TOP/outside/base.vhd(x)	the decoy: a parent with the right identity that must not be reached
 *	TOP/rootevil/		another one, in a folder whose name starts like the allowed one's
 */
#include <stddef.h>
#include <stdint.h>

#include "vhd/store.h"
#include "vhd/vhd.h"

/* Where in the image the text goes. */
enum hostile_slot {
	SLOT_VHD_W2RU, SLOT_VHD_W2KU, SLOT_VHD_WI2R, SLOT_VHD_MACX, SLOT_VHD_NAME,
	SLOT_VHDX_RELATIVE, SLOT_VHDX_VOLUME, SLOT_VHDX_ABSOLUTE,
	SLOTS,
};

extern const char *const hostile_slot_name[SLOTS];

static inline enum vhd_format_id hostile_format(enum hostile_slot slot)
{
	return slot < SLOT_VHDX_RELATIVE ? VHD_FORMAT_VHD : VHD_FORMAT_VHDX;
}

/* What is stored: UTF-8, or where that cannot say it, UTF-16 units as they are. */
struct hostile_text {
	const char *utf8;
	const uint16_t *units;
	size_t unit_count;
};

/* child.c: a parent and a child of it in memory (one pair per format, made once). */
struct store *hostile_parent(enum vhd_format_id format);
struct store *hostile_child(enum hostile_slot slot, const struct hostile_text *text);
/* The same bytes as a sparse file. */
void hostile_write_out(struct store *s, const char *path);
void hostile_die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
