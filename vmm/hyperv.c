/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The surface as a whole: life, reset, CPUID leaves, and the pages that guests lend it.
 *
 * Hyper-V lays such pages over RAM. Guests take a page of their own for each and never look at what was below, so here
 * they are simply pages of RAM, written to.
 */
#include <errno.h>

#include "base/alloc.h"
#include "base/seed.h"
#include "vmm/hv_int.h"

int vmm_hv_new(const struct vmm_hv_opts *opts, struct vmm_memory *m, const struct vmm_hv_ops *ops, void *ctx,
	       struct vmm_hv **ret_hv, struct sp_err *err)
{
	struct vmm_hv *hv;

	if (opts->vps == 0 || opts->vps > 64)
		return sp_err_set(err, -EINVAL, "%u processors: 1 to 64 are possible", opts->vps);
	hv = sp_zalloc(sizeof(*hv) + opts->vps * sizeof(hv->vp[0]));
	if (!hv)
		return sp_err_set(err, -ENOMEM, "out of memory");
	hv->opts = *opts;
	hv->memory = m;
	hv->mem = vmm_memory_bus(m);
	hv->ops = ops;
	hv->ctx = ctx;
	pthread_mutex_init(&hv->lock, NULL);
	for (unsigned i = 0; i < opts->vps; i++)
		pthread_mutex_init(&hv->vp[i].lock, NULL);
	vmm_hv_reset(hv);
	*ret_hv = hv;
	return 0;
}

void vmm_hv_free(struct vmm_hv *hv)
{
	if (!hv)
		return;
	for (unsigned i = 0; i < hv->opts.vps; i++) {
		pthread_mutex_destroy(&hv->vp[i].lock);
		sp_free(hv->vp[i].queue);
	}
	pthread_mutex_destroy(&hv->lock);
	sp_free(hv);
}

void vmm_hv_reset(struct vmm_hv *hv)
{
	pthread_mutex_lock(&hv->lock);
	hv->guest_os_id = hv->hypercall = hv->reference_tsc = hv->tsc_invariant = 0;
	for (unsigned i = 0; i < 5; i++)
		hv->crash[i] = 0;
	hv_time_reset(hv);
	for (unsigned i = 0; i < hv->opts.vps; i++)
		hv_synic_reset(&hv->vp[i]);
	pthread_mutex_unlock(&hv->lock);
}

const struct vmm_hv_opts *vmm_hv_options(const struct vmm_hv *hv)
{
	return &hv->opts;
}

static bool taken(const uint64_t *slot, const uint64_t *by, uint64_t value)
{
	return by != slot && (*by & HV_PAGE_ENABLE) && *by >> VMBUS_PAGE_SHIFT == value >> VMBUS_PAGE_SHIFT;
}

static bool page_is_taken(const struct vmm_hv *hv, const uint64_t *slot, uint64_t value)
{
	if (taken(slot, &hv->hypercall, value) || taken(slot, &hv->reference_tsc, value))
		return true;
	for (unsigned i = 0; i < hv->opts.vps; i++) {
		const struct hv_vp *vp = &hv->vp[i];

		if (taken(slot, &vp->simp, value) || taken(slot, &vp->siefp, value) || taken(slot, &vp->assist, value))
			return true;
	}
	return false;
}

bool hv_page(struct vmm_hv *hv, const uint64_t *slot, uint64_t value, uint8_t **ret_page)
{
	*ret_page = NULL;
	if (!(value & HV_PAGE_ENABLE))
		return true;
	if (!SP_SEED_BUG(HV_SHARED_PAGE) && page_is_taken(hv, slot, value))
		return false;
	*ret_page = vmbus_mem_page(hv->mem, value >> VMBUS_PAGE_SHIFT);
	return *ret_page != NULL;
}

unsigned vmm_hv_cpuid(const struct vmm_hv_opts *opts, struct vmm_cpuid_leaf ret_leaf[8])
{
	/* 0x40000003: counter, SynIC, hypercall, VP index, TSC page, frequencies; invariant TSC control. 0x40000004:
	 * relaxed timing, and no auto-EOI, without which a guest does not end the interrupts that we inject. */
	const struct vmm_cpuid_leaf leaf[] = {
		{ 0x40000000, 0x40000005, 0x7263694d, 0x666f736f, 0x76482074 },		/* "Microsoft Hv" */
		{ 0x40000001, 0x31237648, 0, 0, 0 },					/* "Hv#1" */
		{ 0x40000002, 17763, 0x000a0000, 0, 0 },				/* build, 10.0 */
		{ 0x40000003, 0x0a66u | (opts->invariant_tsc ? 0x8000u : 0), 0x30, 0, 0x500 },
		{ 0x40000004, 0x220, UINT32_MAX, 0, 0 },
		{ 0x40000005, opts->vps, opts->vps, 0, 0 },
	};

	for (unsigned i = 0; i < SP_ARRAY_SIZE(leaf); i++)
		ret_leaf[i] = leaf[i];
	return SP_ARRAY_SIZE(leaf);
}
