/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Freezing and thawing the guest's file systems: one transaction at a time. A guest works on a request until it is done
 * and there is no cancel, so one that took longer than the host would wait stays the pending one until its answer.
 */
#include <errno.h>

#include "vmm/ic_int.h"

struct vss {
	bool running;			/* somebody waits for the answer */
	uint8_t operation;
	void (*answered)(void *ctx, int res, uint32_t status);
	void *ctx;
};

static void ready(struct vmm_ic *ic)
{
}

/* Who asked may ask the next thing in the callback, so everything is put down before, and the lock is given up. */
static void finish(struct vmm_ic *ic, int res, uint32_t status)
{
	struct vss *v = ic->data, was = *v;

	v->running = false;
	ic_timer(ic, 0, 0);
	if (!was.running)
		return;
	pthread_mutex_unlock(&ic->lock);
	was.answered(was.ctx, res, status);
	pthread_mutex_lock(&ic->lock);
}

static void answer(struct vmm_ic *ic, uint32_t status, const uint8_t *body, size_t len)
{
	finish(ic, status == IC_STATUS_OK ? 0 : -EIO, status);
}

static void tick(struct vmm_ic *ic)
{
	finish(ic, -ETIMEDOUT, 0);
}

static void closed(struct vmm_ic *ic)
{
	finish(ic, -ENOTCONN, 0);
}

static void describe(struct vmm_ic *ic, json_object *o)
{
	const struct vss *v = ic->data;

	json_object_object_add(o, "busy", json_object_new_boolean(ic->pending));
	if (ic->pending)
		json_object_object_add(o, "operation", json_object_new_int(v->operation));
}

const struct ic_ops ic_vss_ops = {
	.name = "vss", .class_guid = "35fa2e29-ea23-4236-96ae-3a6ebacba440",
	.instance_guid = "2450ee40-33bf-4fbd-892e-9fb06e9214cf", .type = IC_VSS,
	.message = { { 5, 0 } }, .state_size = sizeof(struct vss),
	.ready = ready, .answer = answer, .tick = tick, .closed = closed, .describe = describe,
};

int vmm_ic_vss(struct vmm_ic *ic, uint8_t operation, unsigned timeout_ms,
	       void (*answered)(void *ctx, int res, uint32_t status), void *ctx)
{
	const struct ic_vss body = { .operation = operation };
	struct vss *v = ic->data;
	int r;

	pthread_mutex_lock(&ic->lock);
	r = ic_send(ic, &body, sizeof(body));
	if (r == 0) {
		*v = (struct vss){ .running = true, .operation = operation, .answered = answered, .ctx = ctx };
		ic_timer(ic, timeout_ms ? timeout_ms : 1, 0);
	}
	pthread_mutex_unlock(&ic->lock);
	return r;
}
