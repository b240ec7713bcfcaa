/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_HV_HOST_H
#define SPINDLE_TESTS_HV_HOST_H
/*
 * A Hyper-V surface without KVM: what it asks of its host is counted and kept. 4 MiB of RAM, two processors.
 */
#include <stdlib.h>
#include <x86intrin.h>

#include "base/bytes.h"
#include "tests/unit/rows.h"
#include "vmm/hv_int.h"

#define HOST_RAM SP_MIB(4)
#define HOST_TSC_HZ 2000000000ull
#define HOST_TSC_BEHIND 123456789ull	/* the guest's TSC is that much behind ours */
#define VECTOR 0xf3u
#define SLOT_AT 0x200u

/* Where the guest of a test has its pages. */
#define GPA_HYPERCALL 0x1000u
#define GPA_TSC 0x2000u
#define GPA_MESSAGES(vp) (0x10000u + (vp) * 0x1000u)
#define GPA_EVENTS(vp) (0x20000u + (vp) * 0x1000u)

struct hv_host {
	struct vmm_memory *memory;
	struct vmm_hv *hv;
	uint8_t *ram;
	unsigned injected[2];		/* atomic */
	uint8_t vector;			/* atomic */
	unsigned posts, signals, resets, crashes;
	uint32_t connection;
	uint8_t posted[256];
	unsigned posted_len;
	uint64_t crash_param[5];
	char crash_text[8192];
	unsigned crash_len;
};

static inline void host_inject(void *ctx, unsigned vp, uint8_t vector)
{
	struct hv_host *h = ctx;

	__atomic_add_fetch(&h->injected[vp], 1, __ATOMIC_SEQ_CST);
	__atomic_store_n(&h->vector, vector, __ATOMIC_SEQ_CST);
}

static inline uint16_t host_post(void *ctx, uint32_t connection_id, const void *payload, unsigned len)
{
	struct hv_host *h = ctx;

	h->posts++;
	h->connection = connection_id;
	h->posted_len = len;
	memcpy(h->posted, payload, len);
	return 18;
}

static inline void host_signal(void *ctx, uint32_t connection_id)
{
	struct hv_host *h = ctx;

	h->signals++;
	h->connection = connection_id;
}

static inline uint64_t host_tsc(void *ctx, unsigned vp)
{
	return __rdtsc() - HOST_TSC_BEHIND;
}

static inline void host_reset(void *ctx)
{
	((struct hv_host *)ctx)->resets++;
}

static inline void host_crash(void *ctx, const uint64_t param[5], const char *text, unsigned len)
{
	struct hv_host *h = ctx;

	h->crashes++;
	h->crash_len = len;
	memcpy(h->crash_param, param, sizeof(h->crash_param));
	memcpy(h->crash_text, text, len + 1);
}

static const struct vmm_hv_ops host_ops = {
	.inject = host_inject, .tsc = host_tsc, .post_message = host_post, .signal_event = host_signal,
	.reset = host_reset, .crash = host_crash,
};

static inline struct hv_host *host_new(const struct vmm_hv_ops *ops)
{
	struct vmm_hv_opts opts = { .vps = 2, .tsc_hz = HOST_TSC_HZ, .invariant_tsc = true };
	struct hv_host *h = calloc(1, sizeof(*h));

	assert_non_null(h);
	assert_int_equal(vmm_memory_new(HOST_RAM, &h->memory, NULL), 0);
	assert_int_equal(vmm_hv_new(&opts, h->memory, ops, h, &h->hv, NULL), 0);
	h->ram = vmm_memory_map(h->memory, 0, HOST_RAM);
	return h;
}

static inline void host_free(struct hv_host *h)
{
	vmm_hv_free(h->hv);
	vmm_memory_free(h->memory);
	free(h);
}

static inline void host_wrmsr(struct hv_host *h, unsigned vp, uint32_t msr, uint64_t value)
{
	assert_true(vmm_hv_wrmsr(h->hv, vp, msr, value));
}

static inline uint64_t host_rdmsr(struct hv_host *h, unsigned vp, uint32_t msr)
{
	uint64_t value = UINT64_MAX;

	assert_true(vmm_hv_rdmsr(h->hv, vp, msr, &value));
	return value;
}

/* As a guest's driver does at its start. */
static inline void host_enable_hypercalls(struct hv_host *h)
{
	host_wrmsr(h, 0, HV_MSR_GUEST_OS_ID, 0x8100000000000001);
	host_wrmsr(h, 0, HV_MSR_HYPERCALL, GPA_HYPERCALL | 1);
}

static inline void host_enable_synic(struct hv_host *h, unsigned vp)
{
	host_wrmsr(h, vp, HV_MSR_SIMP, GPA_MESSAGES(vp) | 1);
	host_wrmsr(h, vp, HV_MSR_SIEFP, GPA_EVENTS(vp) | 1);
	host_wrmsr(h, vp, HV_MSR_SINT0 + VMBUS_SINT, VECTOR);
	host_wrmsr(h, vp, HV_MSR_SCONTROL, 1);
}

static inline uint8_t *host_slot(struct hv_host *h, unsigned vp)
{
	return h->ram + GPA_MESSAGES(vp) + SLOT_AT;
}

#endif
