/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_HYPERV_H
#define SPINDLE_VMM_HYPERV_H
/*
 * The Hyper-V surface of a partition: synthetic MSRs, hypercalls, SynIC, reference time. Knows nothing of KVM: what it
 * needs from there is a small table, so that tests and fuzzers call the exits directly.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "vmm/memory.h"

struct vmm_hv;

struct vmm_hv_ops {
	void (*inject)(void *ctx, unsigned vp, uint8_t vector);	/* edge, fixed; any thread */
	/* POST_MESSAGE, on a vCPU thread: a hypercall status. Must not wait. */
	uint16_t (*post_message)(void *ctx, uint32_t connection_id, const void *payload, unsigned len);
	/* SIGNAL_EVENT that no ioeventfd took: a late one. */
	void (*signal_event)(void *ctx, uint32_t connection_id);
	/* The guest's TSC, on the thread of @vp. NULL: no reference TSC page, guests ask the counter. */
	uint64_t (*tsc)(void *ctx, unsigned vp);
	void (*reset)(void *ctx);		/* the guest asked by MSR */
	void (*crash)(void *ctx, const uint64_t param[5], const char *text, unsigned len);
};

struct vmm_hv_opts {
	unsigned vps;
	uint64_t tsc_hz;
	bool invariant_tsc;
};

int vmm_hv_new(const struct vmm_hv_opts *opts, struct vmm_memory *m, const struct vmm_hv_ops *ops, void *ctx,
	       struct vmm_hv **ret_hv, struct sp_err *err);
void vmm_hv_free(struct vmm_hv *hv);
const struct vmm_hv_opts *vmm_hv_options(const struct vmm_hv *hv);
void vmm_hv_reset(struct vmm_hv *hv);	/* as after power on; no vCPU runs */

/* vCPU threads. False: #GP. */
bool vmm_hv_rdmsr(struct vmm_hv *hv, unsigned vp, uint32_t msr, uint64_t *ret_value);
bool vmm_hv_wrmsr(struct vmm_hv *hv, unsigned vp, uint32_t msr, uint64_t value);
/* The IN of the hypercall page: RCX, RDX, R8. The status, for RAX. */
uint32_t vmm_hv_hypercall(struct vmm_hv *hv, unsigned vp, uint64_t control, uint64_t input, uint64_t output);

/* SynIC towards the guest; any thread. Messages are queued in order per VP and delivered as slots become free. */
int vmm_hv_post(struct vmm_hv *hv, unsigned vp, const void *payload, unsigned len);	/* -ENOSPC: queue full */
void vmm_hv_set_event(struct vmm_hv *hv, unsigned vp, unsigned flag);
uint64_t vmm_hv_reference_time(struct vmm_hv *hv);	/* 100 ns units, as the guest's reference counter */

/* CPUID leaf 0x40000000 .. 0x40000005 of the surface. */
struct vmm_cpuid_leaf { uint32_t function, eax, ebx, ecx, edx; };
unsigned vmm_hv_cpuid(const struct vmm_hv_opts *opts, struct vmm_cpuid_leaf ret_leaf[8]);

#endif
