/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reference time: 100 ns units since power on. Counter and page both follow the TSC by the same scale, so they never
 * part; a clock that NTP bends would leave the page behind by seconds a day.
 */
#include <x86intrin.h>

#include "base/env.h"
#include "vmm/hv_int.h"

#define UNITS_PER_SECOND 10000000u

/* As it stands in the guest's page: time = (tsc * scale >> 64) + offset. */
struct reference_page {
	le32_t sequence, reserved;	/* sequence 0: not valid, ask the counter */
	le64_t scale, offset;
};

static uint64_t scaled(const struct vmm_hv *hv, uint64_t tsc)
{
	return (uint64_t)((unsigned __int128)tsc * hv->tsc_scale >> 64);
}

void hv_time_reset(struct vmm_hv *hv)
{
	hv->tsc_scale = 0;
	if (hv->ops->tsc && hv->opts.tsc_hz > UNITS_PER_SECOND)
		hv->tsc_scale = (uint64_t)(((unsigned __int128)UNITS_PER_SECOND << 64) / hv->opts.tsc_hz);
	hv->tsc_base = __rdtsc();
	hv->ns_base = sp_env_monotonic_ns();
}

uint64_t vmm_hv_reference_time(struct vmm_hv *hv)
{
	if (hv->tsc_scale)
		return scaled(hv, __rdtsc() - hv->tsc_base);
	return (sp_env_monotonic_ns() - hv->ns_base) / 100;
}

bool hv_reference_tsc_set(struct vmm_hv *hv, unsigned vp, uint64_t value)
{
	struct reference_page content = { .reserved = le32_make(0) };
	uint8_t *page;

	if (!hv_page(hv, &hv->reference_tsc, value, &page))
		return false;
	hv->reference_tsc = value;
	if (!page)
		return true;
	vmbus_zero_out(page, VMBUS_PAGE_SIZE);
	if (!hv->tsc_scale)
		return true;
	content.scale = le64_make(hv->tsc_scale);
	content.offset = le64_make(vmm_hv_reference_time(hv) - scaled(hv, hv->ops->tsc(hv->ctx, vp)));
	vmbus_copy_out(page, &content, sizeof(content));
	vmbus_store32_release(page, 1);		/* after scale and offset: other processors read already */
	return true;
}
