/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_OP_PAIR_H
#define SPINDLE_VHD_OP_PAIR_H
/*
 * op_pair - two disks side by side, the shorter one continued with zeros. Knows without reading where both are zero
 * and where both are the same bytes of the same file (images with a common parent mostly are).
 */
#include "vhd/op_workers.h"

struct op_side {
	struct vhd_disk *disk;
	uint64_t size;
	struct store_id *id;		/* of each layer's file */
	unsigned layers;
	const char *what;		/* for messages: "first disk" */
};

struct op_pair {
	struct op_side a, b;
};

int op_pair_init(struct op_pair *p, struct vhd_disk *a, const char *what_a, struct vhd_disk *b, const char *what_b,
		 struct sp_err *err);
void op_pair_fini(struct op_pair *p);

struct op_stretch {
	uint64_t len;
	struct vhd_range a, b;		/* both longer or equal */
	bool same;			/* known to be equal without reading */
};

/* The stretch at @offset, at most @len long, that is in one state on both sides. */
int op_pair_look(const struct op_pair *p, uint64_t offset, uint64_t len, struct op_stretch *ret, struct sp_err *err);
/* Both sides into w->buffer and w->buffer2; @len <= OP_WINDOW. */
int op_pair_read(const struct op_pair *p, struct op_worker *w, uint64_t offset, size_t len);

#endif
