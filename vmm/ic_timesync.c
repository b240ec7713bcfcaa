/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The host's clock beside the partition's reference counter: set once when the guest starts and after a pause, then
 * only sampled, since a guest may keep its own time by NTP.
 */
#include <time.h>

#include "vmm/ic_int.h"

#define EVERY_MS   5000
#define UNIX_EPOCH 116444736000000000ull	/* 1970 in units of 100 ns since 1601 */

struct timesync {
	bool set;			/* the next message sets the clock */
	uint64_t sent;
};

static uint64_t host_time(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return UNIX_EPOCH + (uint64_t)now.tv_sec * 10000000 + (uint64_t)now.tv_nsec / 100;
}

static int send_time(struct vmm_ic *ic, uint8_t flags)
{
	const struct ic_timesync body = {
		.host_time = le64_make(host_time()), .reference = le64_make(ic->host.reference_time(ic->host.ctx)),
		.flags = flags,
	};
	const struct ic_timesync_old old = { .host_time = body.host_time, .flags = flags };

	return ic_speaks(ic, 4) ? ic_send(ic, &body, sizeof(body)) : ic_send(ic, &old, sizeof(old));
}

static void tick(struct vmm_ic *ic)
{
	struct timesync *t = ic->data;

	if (ic->host.paused(ic->host.ctx) || send_time(ic, t->set ? IC_TIMESYNC_SYNC : IC_TIMESYNC_SAMPLE) < 0)
		return;
	t->set = false;
	t->sent++;
}

static void ready(struct vmm_ic *ic)
{
	struct timesync *t = ic->data;

	t->set = true;
	ic_timer(ic, 1, EVERY_MS);
}

static void answer(struct vmm_ic *ic, uint32_t status, const uint8_t *body, size_t len)
{
}

static void describe(struct vmm_ic *ic, json_object *o)
{
	const struct timesync *t = ic->data;

	json_object_object_add(o, "samples", json_object_new_uint64(t->sent));
}

const struct ic_ops ic_timesync_ops = {
	.name = "timesync", .class_guid = "9527e630-d0ae-497b-adce-e80ab0175caf",
	.instance_guid = "2dd1ce17-079e-403c-b352-a1921ee207ee", .type = IC_TIMESYNC,
	.message = { { 1, 0 }, { 3, 0 }, { 4, 0 } }, .state_size = sizeof(struct timesync),
	.ready = ready, .answer = answer, .tick = tick, .describe = describe,
};

void vmm_ic_sync_time(struct vmm_ic *ic)
{
	struct timesync *t = ic->data;

	pthread_mutex_lock(&ic->lock);
	t->set = true;
	if (ic->ch && ic->state == IC_READY)
		ic_timer(ic, 1, EVERY_MS);
	pthread_mutex_unlock(&ic->lock);
}
