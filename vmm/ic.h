/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_IC_H
#define SPINDLE_VMM_IC_H
/*
 * Integration services: small devices on the bus that talk to hv_utils in the guest. Each speaks one message at a time
 * and never waits for the guest without a timer. They run on the machine's loop.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "vmbus/channel.h"
#include "vmm/loop.h"

struct vmm_ic;				/* one service */

enum vmm_ic_kind { VMM_IC_SHUTDOWN, VMM_IC_HEARTBEAT, VMM_IC_TIMESYNC, VMM_IC_KVP, VMM_IC_VSS };

struct vmm_ic_host {
	uint64_t (*reference_time)(void *ctx);	/* 100 ns, as the guest's reference counter */
	bool (*paused)(void *ctx);
	void *ctx;
};

int vmm_ic_new(enum vmm_ic_kind kind, struct vmm_loop *loop, const struct vmm_ic_host *host, struct vmm_ic **ret_ic,
	       struct sp_err *err);
void vmm_ic_free(struct vmm_ic *ic);		/* channel closed */
const struct vmbus_offer *vmm_ic_offer(const struct vmm_ic *ic);
/* State for people: negotiated versions or why not, last contact...; a json-c object, the caller's. */
void *vmm_ic_describe(struct vmm_ic *ic);

/* SHUTDOWN: asks once. -ENOTCONN (no driver in the guest), -EALREADY. @answered on the loop: 0, -EIO (refused). */
int vmm_ic_shutdown(struct vmm_ic *ic, bool reboot, void (*answered)(void *ctx, int res), void *ctx);
/* TIMESYNC: one SYNC now (after resume). */
void vmm_ic_sync_time(struct vmm_ic *ic);
/*
 * VSS: one transaction (operation as of the protocol: 2 check, 5 freeze, 6 thaw ...) at a time, -EBUSY meanwhile, until
 * the guest has answered or the channel has closed. @answered gets 0, or -EIO with the guest's status, -ENOTCONN,
 * -ETIMEDOUT (then the transaction stays busy until the late answer has come).
 */
int vmm_ic_vss(struct vmm_ic *ic, uint8_t operation, unsigned timeout_ms,
	       void (*answered)(void *ctx, int res, uint32_t status), void *ctx);
/* The guest has a driver for it that speaks none of our versions. */
bool vmm_ic_refused(struct vmm_ic *ic);

#endif
