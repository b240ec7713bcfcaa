/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Synthetic MSRs 0x40000000 and up. What is not here raises #GP.
 */
#include <string.h>

#include "vmm/hv_int.h"

static bool read_locked(struct vmm_hv *hv, unsigned index, uint32_t msr, uint64_t *ret_value)
{
	const struct hv_vp *vp = &hv->vp[index];

	switch (msr) {
	case HV_MSR_GUEST_OS_ID:
		*ret_value = hv->guest_os_id;
		return true;
	case HV_MSR_HYPERCALL:
		*ret_value = hv->hypercall;
		return true;
	case HV_MSR_VP_INDEX:
		*ret_value = index;
		return true;
	case HV_MSR_TIME_REF_COUNT:
		*ret_value = vmm_hv_reference_time(hv);
		return true;
	case HV_MSR_REFERENCE_TSC:
		*ret_value = hv->reference_tsc;
		return true;
	case HV_MSR_TSC_FREQUENCY:
		*ret_value = hv->opts.tsc_hz;
		return true;
	case HV_MSR_APIC_FREQUENCY:
		*ret_value = HV_APIC_HZ;
		return true;
	case HV_MSR_VP_ASSIST_PAGE:
		*ret_value = vp->assist;
		return true;
	case HV_MSR_SCONTROL:
		*ret_value = vp->scontrol;
		return true;
	case HV_MSR_SVERSION:
		*ret_value = 1;
		return true;
	case HV_MSR_SIEFP:
		*ret_value = vp->siefp;
		return true;
	case HV_MSR_SIMP:
		*ret_value = vp->simp;
		return true;
	case HV_MSR_RESET:
	case HV_MSR_EOM:
		*ret_value = 0;
		return true;
	case HV_MSR_SINT0 ... HV_MSR_SINT15:
		*ret_value = vp->sint[msr - HV_MSR_SINT0];
		return true;
	case HV_MSR_CRASH_P0 ... HV_MSR_CRASH_P4:
		*ret_value = hv->crash[msr - HV_MSR_CRASH_P0];
		return true;
	case HV_MSR_CRASH_CTL:
		*ret_value = HV_CRASH_NOTIFY | HV_CRASH_TEXT;
		return true;
	case HV_MSR_TSC_INVARIANT:
		*ret_value = hv->tsc_invariant;
		return hv->opts.invariant_tsc;
	default:
		return false;
	}
}

bool vmm_hv_rdmsr(struct vmm_hv *hv, unsigned vp, uint32_t msr, uint64_t *ret_value)
{
	bool ok;

	pthread_mutex_lock(&hv->lock);
	ok = read_locked(hv, vp, msr, ret_value);
	pthread_mutex_unlock(&hv->lock);
	return ok;
}

static bool set_assist(struct vmm_hv *hv, struct hv_vp *vp, uint64_t value)
{
	uint8_t *page;

	if (!hv_page(hv, &vp->assist, value, &page))
		return false;
	if (page)
		vmbus_store32(page, 0);		/* apic_assist: there is no EOI to be left out */
	vp->assist = value;
	return true;
}

/* A guest that goes away (kexec) takes the hypercall page with it. */
static void set_guest_os_id(struct vmm_hv *hv, uint64_t value)
{
	hv->guest_os_id = value;
	if (value == 0)
		hv->hypercall &= ~(uint64_t)HV_PAGE_ENABLE;
}

static bool write_locked(struct vmm_hv *hv, unsigned index, uint32_t msr, uint64_t value)
{
	struct hv_vp *vp = &hv->vp[index];

	switch (msr) {
	case HV_MSR_GUEST_OS_ID:
		set_guest_os_id(hv, value);
		return true;
	case HV_MSR_HYPERCALL:
		return hv_hypercall_set(hv, value);
	case HV_MSR_REFERENCE_TSC:
		return hv_reference_tsc_set(hv, index, value);
	case HV_MSR_VP_ASSIST_PAGE:
		return set_assist(hv, vp, value);
	case HV_MSR_SCONTROL:
	case HV_MSR_SIEFP:
	case HV_MSR_SIMP:
	case HV_MSR_SINT0 ... HV_MSR_SINT15:
		return hv_synic_set(hv, vp, msr, value);
	case HV_MSR_CRASH_P0 ... HV_MSR_CRASH_P4:
		hv->crash[msr - HV_MSR_CRASH_P0] = value;
		return true;
	case HV_MSR_TSC_INVARIANT:
		if (!hv->opts.invariant_tsc || value > 1)
			return false;
		hv->tsc_invariant = value;
		return true;
	default:
		return false;
	}
}

/* P3 and P4 may name the tail of the guest's log. What cannot be read is left out: the crash itself is the news. */
static void report_crash(struct vmm_hv *hv, uint64_t control)
{
	char text[HV_CRASH_TEXT_MAX + 1];
	const void *shared = NULL;
	uint64_t param[5], len;

	pthread_mutex_lock(&hv->lock);
	memcpy(param, hv->crash, sizeof(param));
	pthread_mutex_unlock(&hv->lock);
	len = control & HV_CRASH_TEXT ? sp_min(param[4], HV_CRASH_TEXT_MAX) : 0;
	if (len)
		shared = vmbus_mem_map(hv->mem, param[3], len);
	if (!shared)
		len = 0;
	if (len)
		vmbus_copy_in(text, shared, len);
	text[len] = '\0';
	hv->ops->crash(hv->ctx, param, text, (unsigned)len);
}

bool vmm_hv_wrmsr(struct vmm_hv *hv, unsigned vp, uint32_t msr, uint64_t value)
{
	bool ok;

	switch (msr) {
	case HV_MSR_EOM:
		hv_synic_eom(hv, &hv->vp[vp]);
		return true;
	case HV_MSR_RESET:
		if (value & 1)
			hv->ops->reset(hv->ctx);
		return true;
	case HV_MSR_CRASH_CTL:
		if (value & HV_CRASH_NOTIFY)
			report_crash(hv, value);
		return true;
	}
	pthread_mutex_lock(&hv->lock);
	ok = write_locked(hv, vp, msr, value);
	pthread_mutex_unlock(&hv->lock);
	return ok;
}
