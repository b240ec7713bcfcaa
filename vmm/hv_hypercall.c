/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The hypercall page and the two calls behind it. The page holds code of ours: signals are an OUT that KVM itself turns
 * into an eventfd, everything else an IN whose 4 bytes become the status in RAX.
 */
#include <string.h>

#include "base/seed.h"
#include "vmm/hv_int.h"
#include "vmm/pio.h"

static const uint8_t page_code[] = {
	0xf3, 0x0f, 0x1e, 0xfa,				/* endbr64 */
	0x48, 0x81, 0xf9, 0x5d, 0x00, 0x01, 0x00,	/* cmp rcx, HV_CALL_FAST | HV_CALL_SIGNAL_EVENT */
	0x75, 0x07,					/* jne slow */
	0x89, 0xd0,					/* mov eax, edx */
	0xe7, VMM_PORT_SIGNAL,				/* out signal, eax */
	0x31, 0xc0,					/* xor eax, eax */
	0xc3,						/* ret */
	0xe5, VMM_PORT_HYPERCALL,			/* slow: in eax, hypercall */
	0xc3,						/* ret */
};

bool hv_hypercall_set(struct vmm_hv *hv, uint64_t value)
{
	uint8_t content[VMBUS_PAGE_SIZE], *page;

	if (hv->hypercall & HV_HYPERCALL_LOCKED)
		return false;
	if (hv->guest_os_id == 0)
		value &= ~(uint64_t)HV_PAGE_ENABLE;
	if (!hv_page(hv, &hv->hypercall, value, &page))
		return false;
	hv->hypercall = value;
	if (page) {
		memset(content, 0xcc, sizeof(content));		/* int3 */
		memcpy(content, page_code, sizeof(page_code));
		vmbus_copy_out(page, content, sizeof(content));
	}
	return true;
}

/* An input block: 8-byte aligned, within one page, RAM. Copied once. */
static enum hv_status copy_input(struct vmm_hv *hv, uint64_t gpa, void *ret_block, unsigned len)
{
	const void *shared;

	if (gpa % 8 != 0)
		return HV_STATUS_INVALID_ALIGNMENT;
	if (!SP_SEED_BUG(HYPERCALL_PAGE_END) && gpa % VMBUS_PAGE_SIZE + len > VMBUS_PAGE_SIZE)
		return HV_STATUS_INVALID_ALIGNMENT;
	shared = vmbus_mem_map(hv->mem, gpa, len);
	if (!shared)
		return HV_STATUS_INVALID_PARAMETER;
	vmbus_copy_in(ret_block, shared, len);
	return HV_STATUS_SUCCESS;
}

static enum hv_status post_message(struct vmm_hv *hv, bool fast, uint64_t input)
{
	struct { le32_t connection_id, reserved, type, size; uint8_t payload[VMBUS_MESSAGE_MAX]; } block;
	enum hv_status status;

	VMBUS_SIZE(__typeof__(block), 256);
	if (fast)
		return HV_STATUS_INVALID_HYPERCALL_INPUT;
	status = copy_input(hv, input, &block, sizeof(block));
	if (status != HV_STATUS_SUCCESS)
		return status;
	if (le32_get(block.type) != HV_MESSAGE_TYPE_VMBUS || le32_get(block.size) > sizeof(block.payload))
		return HV_STATUS_INVALID_PARAMETER;
	return hv->ops->post_message(hv->ctx, le32_get(block.connection_id) & 0xffffff, block.payload,
				     le32_get(block.size));
}

static enum hv_status signal_event(struct vmm_hv *hv, bool fast, uint64_t input)
{
	enum hv_status status;
	le64_t block;

	if (!fast) {
		status = copy_input(hv, input, &block, sizeof(block));
		if (status != HV_STATUS_SUCCESS)
			return status;
		input = le64_get(block);
	}
	if (input >> 32)		/* flag number: VMBus has but one */
		return HV_STATUS_INVALID_PARAMETER;
	hv->ops->signal_event(hv->ctx, (uint32_t)input & 0xffffff);
	return HV_STATUS_SUCCESS;
}

uint32_t vmm_hv_hypercall(struct vmm_hv *hv, unsigned vp, uint64_t control, uint64_t input, uint64_t output)
{
	bool fast = control & HV_CALL_FAST, enabled;

	pthread_mutex_lock(&hv->lock);
	enabled = hv->hypercall & HV_PAGE_ENABLE;
	pthread_mutex_unlock(&hv->lock);
	if (!enabled)
		return HV_STATUS_ACCESS_DENIED;
	switch (control & 0xffff) {
	case HV_CALL_POST_MESSAGE:
	case HV_CALL_SIGNAL_EVENT:
		break;
	default:
		return HV_STATUS_INVALID_HYPERCALL_CODE;
	}
	if (control >> 17)		/* neither variable header nor repetitions; the rest is reserved */
		return HV_STATUS_INVALID_HYPERCALL_INPUT;
	if ((control & 0xffff) == HV_CALL_POST_MESSAGE)
		return post_message(hv, fast, input);
	return signal_event(hv, fast, input);
}
