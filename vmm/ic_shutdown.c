/* SPDX-License-Identifier: BSD-2-Clause */
/* Asks the guest to power off or to restart. Its answer means "accepted"; the end is seen elsewhere. */
#include <errno.h>

#include "vmm/ic_int.h"

struct shutdown {
	bool asked;
	void (*answered)(void *ctx, int res);
	void *ctx;
};

static void ready(struct vmm_ic *ic)
{
}

static void answer(struct vmm_ic *ic, uint32_t status, const uint8_t *body, size_t len)
{
	struct shutdown *s = ic->data;

	s->asked = status == IC_STATUS_OK;	/* who refused may be asked again */
	if (s->answered)
		s->answered(s->ctx, status == IC_STATUS_OK ? 0 : -EIO);
}

const struct ic_ops ic_shutdown_ops = {
	.name = "shutdown", .class_guid = "0e0b6031-5213-4934-818b-38d90ced39db",
	.instance_guid = "b6650ff7-33bc-4840-8048-e0676786f393", .type = IC_SHUTDOWN,
	.message = { { 1, 0 }, { 3, 0 }, { 3, 1 }, { 3, 2 } }, .state_size = sizeof(struct shutdown),
	.ready = ready, .answer = answer,
};

/* Every accepted message queues one more action in the guest: asked once. */
int vmm_ic_shutdown(struct vmm_ic *ic, bool reboot, void (*answered)(void *ctx, int res), void *ctx)
{
	const struct ic_shutdown body = {
		.reason = le32_make(IC_SHUTDOWN_PLANNED), .timeout_s = le32_make(60),
		.flags = le32_make(IC_SHUTDOWN_FORCE | (reboot ? IC_SHUTDOWN_RESTART : 0)),
	};
	struct shutdown *s = ic->data;
	int r;

	pthread_mutex_lock(&ic->lock);
	r = s->asked ? -EALREADY : ic_send(ic, &body, sizeof(body));
	if (r == -EBUSY)
		r = -EALREADY;
	if (r == 0)
		*s = (struct shutdown){ .asked = true, .answered = answered, .ctx = ctx };
	pthread_mutex_unlock(&ic->lock);
	return r;
}
