/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_VSS_GUEST_H
#define SPINDLE_VMM_VSS_GUEST_H
/*
 * The guest as a writer of snapshot sets: check, freeze and thaw become transactions of its VSS service.
 *
 * The guest works on one request at a time, cannot be told to stop, and never thaws by itself. So a thaw that cannot be
 * sent yet, or that fails, is owed: it is sent when the guest has answered what it works on, again while it is refused,
 * and to the driver that opens the channel anew. Only an acknowledged thaw, or a reset, ends the debt.
 *
 * On the machine's loop.
 */
#include "vmm/ic.h"
#include "vmm/loop.h"
#include "vss/vss.h"

struct vmm_vss_guest;

typedef void (*vmm_vss_answer_fn)(void *ctx, enum vss_op op, int res, enum vss_reason why);

int vmm_vss_guest_new(struct vmm_ic *ic, struct vmm_loop *loop, struct vmm_vss_guest **ret_guest);
void vmm_vss_guest_free(struct vmm_vss_guest *g);	/* before its service; NULL is fine */
/* Who hears the answers; NULL: nobody any more. */
void vmm_vss_guest_answer_to(struct vmm_vss_guest *g, vmm_vss_answer_fn answer, void *ctx);
void vmm_vss_guest_reset(struct vmm_vss_guest *g);	/* the guest has been reset, and is thawed */
bool vmm_vss_guest_owed(const struct vmm_vss_guest *g);

extern const struct vss_writer_ops vmm_vss_guest_ops;	/* context: the vmm_vss_guest */

#endif
