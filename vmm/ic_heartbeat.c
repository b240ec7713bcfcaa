/* SPDX-License-Identifier: BSD-2-Clause */
/* Every two seconds a number, which the guest's kernel returns one higher: it serves interrupts. */
#include "base/env.h"
#include "vmm/ic_int.h"

#define EVERY_MS 2000
#define LOST_NS	 10000000000ull

struct heartbeat {
	uint64_t sequence, beats;
};

static void tick(struct vmm_ic *ic)
{
	struct heartbeat *h = ic->data;
	const struct ic_heartbeat body = { .sequence = le64_make(h->sequence) };

	if (!ic->host.paused(ic->host.ctx))
		ic_send(ic, &body, sizeof(body));	/* busy: the last one is still on its way */
}

static void ready(struct vmm_ic *ic)
{
	ic_timer(ic, 1, EVERY_MS);
}

static void answer(struct vmm_ic *ic, uint32_t status, const uint8_t *body, size_t len)
{
	struct heartbeat *h = ic->data;
	le64_t sequence;

	if (len < sizeof(sequence))
		return;
	__builtin_memcpy(&sequence, body, sizeof(sequence));
	h->sequence = le64_get(sequence) + 1;
	h->beats++;
}

static void describe(struct vmm_ic *ic, json_object *o)
{
	const struct heartbeat *h = ic->data;
	const char *word = "no contact";

	if (ic->state == IC_READY && ic->host.paused(ic->host.ctx))
		word = "paused";
	else if (ic->state == IC_READY && ic->pending && sp_env_monotonic_ns() - ic->sent_ns > LOST_NS)
		word = "lost";
	else if (ic->state == IC_READY && h->beats)
		word = "ok";
	json_object_object_add(o, "heartbeat", json_object_new_string(word));
	json_object_object_add(o, "beats", json_object_new_uint64(h->beats));
}

const struct ic_ops ic_heartbeat_ops = {
	.name = "heartbeat", .class_guid = "57164f39-9115-4e78-ab55-382f3bd5422d",
	.instance_guid = "fd149e91-82e0-4a7d-afa6-2a4166cbd7c0", .type = IC_HEARTBEAT,
	.message = { { 1, 0 }, { 3, 0 } }, .state_size = sizeof(struct heartbeat),
	.ready = ready, .answer = answer, .tick = tick, .describe = describe,
};
