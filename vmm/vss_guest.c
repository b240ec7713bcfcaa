/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmm/vss_guest.h"

#include <errno.h>

#include "base/alloc.h"
#include "base/seed.h"

#define OP_NONE	    0u
#define OP_CHECK    2u
#define OP_COMPLETE 4u
#define OP_FREEZE   5u
#define OP_THAW	    6u

/* The set has the deadlines. The guest's own end after 15 minutes at most, and only its answer frees the channel. */
#define ANSWER_MS   (20u * 60 * 1000)
#define AGAIN_MS    2000u		/* between two tries to pay an owed thaw */

struct vmm_vss_guest {
	struct vmm_ic *ic;
	struct vmm_watch *again;
	vmm_vss_answer_fn answer;
	void *ctx;
	uint8_t asked;			/* the guest works on it */
	uint8_t next;			/* after what it works on */
	bool owed;			/* a thaw */
	bool froze;			/* in this set */
	bool frozen;			/* said so, and has not been told to thaw */
};

static void tell(struct vmm_vss_guest *g, uint8_t operation, int res, enum vss_reason why)
{
	static const enum vss_op op[] = {
		[OP_CHECK] = VSS_OP_CHECK, [OP_FREEZE] = VSS_OP_FREEZE, [OP_THAW] = VSS_OP_THAW,
	};

	if (g->answer && operation != OP_COMPLETE)
		g->answer(g->ctx, op[operation], res, why);
}

static void answered(void *ctx, int res, uint32_t status);

static int ask(struct vmm_vss_guest *g, uint8_t operation)
{
	int r = vmm_ic_vss(g->ic, operation, ANSWER_MS, answered, g);

	if (r == 0)
		g->asked = operation;
	return r;
}

static enum vss_reason why_not(const struct vmm_vss_guest *g, uint8_t operation, int r)
{
	if (r == -EBUSY)
		return VSS_REASON_BUSY;
	if (operation != OP_CHECK)
		return VSS_REASON_GONE;
	return vmm_ic_refused(g->ic) ? VSS_REASON_NEGOTIATION : VSS_REASON_NO_CHANNEL;
}

/* What is owed comes first. */
static void work(struct vmm_vss_guest *g)
{
	uint8_t operation = g->owed ? OP_THAW : g->next;
	int r;

	if (g->asked || !operation)
		return;
	if (!g->owed)
		g->next = OP_NONE;
	r = ask(g, operation);
	if (g->owed && r < 0)
		vmm_loop_timer_set(g->again, AGAIN_MS, 0);
	if (r < 0)
		tell(g, operation, r, why_not(g, operation, r));
}

static void answered(void *ctx, int res, uint32_t status)
{
	struct vmm_vss_guest *g = ctx;
	uint8_t operation = g->asked;

	g->asked = OP_NONE;
	if (operation == OP_FREEZE)
		g->frozen = res == 0 && !g->owed;
	if (operation == OP_THAW && res == 0)
		g->owed = false;
	else if (operation == OP_THAW)
		vmm_loop_timer_set(g->again, AGAIN_MS, 0);
	else
		work(g);
	tell(g, operation, res, res == -ENOTCONN ? VSS_REASON_GONE : VSS_REASON_NONE);
	work(g);
}

static void on_again(void *ctx)
{
	struct vmm_vss_guest *g = ctx;

	if (g->owed)
		work(g);
}

/* ---- the writer ---------------------------------------------------------------------------------------- */

static void check(void *ctx)
{
	struct vmm_vss_guest *g = ctx;

	g->froze = false;
	if (g->owed || (g->asked && g->asked != OP_COMPLETE)) {
		tell(g, OP_CHECK, -EBUSY, VSS_REASON_BUSY);
		return;
	}
	g->next = OP_CHECK;
	work(g);
}

static void freeze(void *ctx, unsigned window_ms)
{
	struct vmm_vss_guest *g = ctx;

	g->froze = true;
	g->next = OP_FREEZE;
	work(g);
}

static void thaw(void *ctx)
{
	struct vmm_vss_guest *g = ctx;

	g->next = OP_NONE;
	g->frozen = false;
	if (SP_SEED_BUG(VSS_GUEST_FORGETS) && g->asked)
		return;
	g->owed = true;
	work(g);
}

static void complete(void *ctx, bool good)
{
	struct vmm_vss_guest *g = ctx;

	if (!good || !g->froze)
		return;
	g->next = OP_COMPLETE;
	work(g);
}

const struct vss_writer_ops vmm_vss_guest_ops = { check, freeze, thaw, complete };

/* ---- new, free ---------------------------------------------------------------------------------------- */

int vmm_vss_guest_new(struct vmm_ic *ic, struct vmm_loop *loop, struct vmm_vss_guest **ret_guest)
{
	struct vmm_vss_guest *g = sp_zalloc(sizeof(*g));
	int r;

	if (!g)
		return -ENOMEM;
	g->ic = ic;
	r = vmm_loop_timer(loop, 0, 0, on_again, g, &g->again);
	if (r < 0)
		sp_free(g);
	else
		*ret_guest = g;
	return r;
}

void vmm_vss_guest_free(struct vmm_vss_guest *g)
{
	if (!g)
		return;
	vmm_loop_remove(g->again);
	sp_free(g);
}

void vmm_vss_guest_answer_to(struct vmm_vss_guest *g, vmm_vss_answer_fn answer, void *ctx)
{
	g->answer = answer;
	g->ctx = ctx;
}

/* Thawed by its end: the one that comes after it and answers for it was never frozen. */
void vmm_vss_guest_reset(struct vmm_vss_guest *g)
{
	bool was_frozen = g->frozen;

	g->owed = g->frozen = false;
	g->next = OP_NONE;
	if (was_frozen && !SP_SEED_BUG(VSS_RESET_STAYS_FROZEN))
		tell(g, OP_FREEZE, -ENOTCONN, VSS_REASON_GONE);
}

bool vmm_vss_guest_owed(const struct vmm_vss_guest *g)
{
	return g->owed;
}
