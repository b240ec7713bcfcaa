/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VHDX header update, vhd-formats.md 2.3.
 *
 *      slot A        slot B        current
 *      old (n)       old (n-1)     A
 *      old (n)       new (n+1)     B	after the first write and sync
 *      new (n+2)     new (n+1)     A	after the second
 *
 * At every moment one slot holds a whole header, and a torn write can only hit the other one. Both end with the same
 * GUIDs: a single new one would let a later bad sector bring an old LogGuid or DataWriteGuid back.
 */
#include <errno.h>
#include <string.h>

#include "base/seed.h"
#include "vhd/vhdx_int.h"

static int write_other_slot(struct vhdx *x, uint8_t *buf)
{
	struct vhdx_header h = x->header;
	unsigned slot = !x->header_slot;
	int r;

	if (h.sequence_number == UINT64_MAX)	/* wrapping would make the older header win */
		return -EOVERFLOW;
	h.sequence_number++;
	vhdx_header_encode(&h, buf);
	r = store_write(x->img->store, buf, VHDX_HEADER_SIZE, VHDX_HEADER_OFFSET(slot));
	if (r == 0)
		r = store_sync(x->img->store);
	if (r < 0)
		return r;
	x->header.sequence_number = h.sequence_number;
	x->header_slot = slot;
	return 0;
}

int vhdx_header_update(struct vhdx *x)
{
	_Alignas(VHDX_HEADER_SIZE) uint8_t buf[VHDX_HEADER_SIZE]; /* a lack of memory must not end in half an update */
	int r = write_other_slot(x, buf);

	if (r == 0 && !SP_SEED_BUG(VHDX_ONE_HEADER))
		r = write_other_slot(x, buf);
	return r;
}
