/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SynIC: messages and event flags towards a virtual processor, on SINT2.
 *
 * A message waits in the queue until its slot in the guest's page is free. The guest frees it (type = 0) and only then
 * looks at the flag "more pending"; when that is set it writes EOM, and the next message goes in:
 *
 *	we				guest
 *	type != 0: slot is taken	type = 0
 *	flags |= PENDING	(1)	full barrier
 *	full barrier			PENDING set? write EOM -> we deliver
 *	type != 0? wait for EOM	(2)
 *
 * Either the guest sees (1), or (2) sees the guest's zero. Without the second look a message could wait for ever.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/seed.h"
#include "vmm/hv_int.h"

#define SLOT_OFFSET (VMBUS_SINT * 256u)		/* in both pages */
#define FLAGS_MAX 2048u

static void interrupt(struct vmm_hv *hv, struct hv_vp *vp)
{
	uint32_t vector = __atomic_load_n(&vp->vector, __ATOMIC_ACQUIRE);

	if (vector)
		hv->ops->inject(hv->ctx, (unsigned)(vp - hv->vp), (uint8_t)vector);
}

/* Under vp->lock. Ours again, or false: the guest will write EOM. */
static bool slot_is_free(uint8_t *slot)
{
	if (vmbus_load32_acquire(slot) == 0)
		return true;
	__atomic_fetch_or(slot + offsetof(struct hv_message, flags), HV_MESSAGE_PENDING, __ATOMIC_SEQ_CST);
	if (SP_SEED_BUG(SYNIC_ONE_LOOK))
		return false;
	vmbus_full_barrier();
	return vmbus_load32_acquire(slot) == 0;
}

/* Under vp->lock. */
static void put_message(uint8_t *slot, const struct hv_message *message, bool more)
{
	struct hv_message copy = *message;

	if (SP_SEED_BUG(SYNIC_TYPE_FIRST))
		vmbus_store32_release(slot, le32_get(copy.type));
	copy.flags = more ? HV_MESSAGE_PENDING : 0;
	vmbus_copy_out(slot + 4, (const uint8_t *)&copy + 4, sizeof(copy) - 4);
	vmbus_store32_release(slot, le32_get(copy.type));	/* last: the guest reads as soon as it is not zero */
}

/* Under vp->lock. At most one message: every one needs the guest to free the slot, and an interrupt of its own. */
static void deliver(struct vmm_hv *hv, struct hv_vp *vp)
{
	uint8_t *slot = vp->messages ? vp->messages + SLOT_OFFSET : NULL;

	if (!slot || vp->count == 0 || !slot_is_free(slot))
		return;
	put_message(slot, &vp->queue[vp->head], vp->count > 1);
	vp->head = (vp->head + 1) % HV_QUEUE;
	vp->count--;
	interrupt(hv, vp);
}

int vmm_hv_post(struct vmm_hv *hv, unsigned vp_index, const void *payload, unsigned len)
{
	struct hv_message message = { .type = le32_make(HV_MESSAGE_TYPE_VMBUS), .payload_size = (uint8_t)len };
	struct hv_vp *vp = &hv->vp[vp_index];
	int r = -ENOSPC;

	if (vp_index >= hv->opts.vps || len > VMBUS_MESSAGE_MAX)
		return -EINVAL;
	memcpy(message.payload, payload, len);
	pthread_mutex_lock(&vp->lock);
	if (!vp->queue)
		vp->queue = sp_calloc(HV_QUEUE, sizeof(vp->queue[0]));
	if (vp->queue && vp->count < HV_QUEUE) {
		vp->queue[(vp->head + vp->count++) % HV_QUEUE] = message;
		deliver(hv, vp);
		r = 0;
	}
	pthread_mutex_unlock(&vp->lock);
	return r;
}

/* No lock: once per completion batch of every channel. A page that the guest takes away meanwhile is still RAM, and
 * only one bit of it changes. */
void vmm_hv_set_event(struct vmm_hv *hv, unsigned vp_index, unsigned flag)
{
	struct hv_vp *vp = &hv->vp[vp_index];
	uint32_t bit = 1u << flag % 32;
	uint8_t *page;

	if (vp_index >= hv->opts.vps || flag >= FLAGS_MAX)
		return;
	page = __atomic_load_n(&vp->events, __ATOMIC_ACQUIRE);
	if (!page)
		return;
	/* A bit that is set already has its interrupt on the way: guests clear bits before they look at rings. */
	if (!(__atomic_fetch_or((uint32_t *)(void *)(page + SLOT_OFFSET + flag / 32 * 4), bit, __ATOMIC_SEQ_CST) & bit))
		interrupt(hv, vp);
}

void hv_synic_eom(struct vmm_hv *hv, struct hv_vp *vp)
{
	pthread_mutex_lock(&vp->lock);
	deliver(hv, vp);
	pthread_mutex_unlock(&vp->lock);
}

/* What the MSRs say, in the form the paths above want it. A masked SINT keeps its messages queued. */
static void publish(struct vmm_hv *hv, struct hv_vp *vp, uint8_t *messages, uint8_t *events)
{
	uint64_t sint = vp->sint[VMBUS_SINT];
	bool on = vp->scontrol & 1;
	bool quiet = sint & (HV_SINT_MASKED | HV_SINT_POLLING);

	pthread_mutex_lock(&vp->lock);
	vp->messages = on && !(sint & HV_SINT_MASKED) ? messages : NULL;
	__atomic_store_n(&vp->vector, quiet ? 0 : (uint32_t)sint & 0xff, __ATOMIC_RELEASE);
	__atomic_store_n(&vp->events, on ? events : NULL, __ATOMIC_RELEASE);
	deliver(hv, vp);
	pthread_mutex_unlock(&vp->lock);
}

/* SIMP or SIEFP; a page begins as zeros. */
static bool set_page(struct vmm_hv *hv, uint64_t *slot, uint64_t value)
{
	bool same = *slot & HV_PAGE_ENABLE && *slot >> VMBUS_PAGE_SHIFT == value >> VMBUS_PAGE_SHIFT;
	uint8_t *page;

	if (!hv_page(hv, slot, value, &page))
		return false;
	if (page && !same)
		vmbus_zero_out(page, VMBUS_PAGE_SIZE);
	*slot = value;
	return true;
}

static uint8_t *page_of(struct vmm_hv *hv, uint64_t value)
{
	return value & HV_PAGE_ENABLE ? vmbus_mem_page(hv->mem, value >> VMBUS_PAGE_SHIFT) : NULL;
}

bool hv_synic_set(struct vmm_hv *hv, struct hv_vp *vp, uint32_t msr, uint64_t value)
{
	bool ok = true;

	switch (msr) {
	case HV_MSR_SCONTROL:
		vp->scontrol = value;
		break;
	case HV_MSR_SIEFP:
		ok = set_page(hv, &vp->siefp, value);
		break;
	case HV_MSR_SIMP:
		ok = set_page(hv, &vp->simp, value);
		break;
	default:
		if (!(value & HV_SINT_MASKED) && (value & 0xff) < 16)
			return false;
		vp->sint[msr - HV_MSR_SINT0] = value;
		break;
	}
	publish(hv, vp, page_of(hv, vp->simp), page_of(hv, vp->siefp));
	return ok;
}

void hv_synic_reset(struct hv_vp *vp)
{
	pthread_mutex_lock(&vp->lock);
	vp->scontrol = vp->simp = vp->siefp = vp->assist = 0;
	for (unsigned i = 0; i < HV_SINTS; i++)
		vp->sint[i] = HV_SINT_MASKED;
	vp->messages = NULL;
	vp->head = vp->count = 0;
	__atomic_store_n(&vp->events, NULL, __ATOMIC_RELEASE);
	__atomic_store_n(&vp->vector, 0, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&vp->lock);
}
