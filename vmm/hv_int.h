/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_HV_INT_H
#define SPINDLE_VMM_HV_INT_H
/*
 * The parts of the Hyper-V surface among themselves.
 *
 * Locks: vmm_hv.lock for what MSRs say (they are few and far between), then hv_vp.lock for the message queue and its
 * slot. Of vmm_hv_ops only inject() and tsc() are called under either.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmbus/mem.h"
#include "vmbus/vmbus_wire.h"
#include "vmm/hyperv.h"

enum hv_msr {
	HV_MSR_GUEST_OS_ID = 0x40000000, HV_MSR_HYPERCALL = 0x40000001, HV_MSR_VP_INDEX = 0x40000002,
	HV_MSR_RESET = 0x40000003, HV_MSR_TIME_REF_COUNT = 0x40000020, HV_MSR_REFERENCE_TSC = 0x40000021,
	HV_MSR_TSC_FREQUENCY = 0x40000022, HV_MSR_APIC_FREQUENCY = 0x40000023, HV_MSR_VP_ASSIST_PAGE = 0x40000073,
	HV_MSR_SCONTROL = 0x40000080, HV_MSR_SVERSION = 0x40000081, HV_MSR_SIEFP = 0x40000082,
	HV_MSR_SIMP = 0x40000083, HV_MSR_EOM = 0x40000084, HV_MSR_SINT0 = 0x40000090, HV_MSR_SINT15 = 0x4000009f,
	HV_MSR_CRASH_P0 = 0x40000100, HV_MSR_CRASH_P4 = 0x40000104, HV_MSR_CRASH_CTL = 0x40000105,
	HV_MSR_TSC_INVARIANT = 0x40000118,
};

#define HV_APIC_HZ 1000000000u		/* the timer of KVM's LAPIC */
#define HV_SINTS 16u
#define HV_SINT_MASKED (1u << 16)
#define HV_SINT_POLLING (1u << 18)
#define HV_PAGE_ENABLE 1u		/* of all MSRs that name a page */
#define HV_HYPERCALL_LOCKED 2u
#define HV_CRASH_NOTIFY (1ull << 63)
#define HV_CRASH_TEXT (1ull << 62)
#define HV_CRASH_TEXT_MAX 4096u

enum hv_status {
	HV_STATUS_SUCCESS = 0, HV_STATUS_INVALID_HYPERCALL_CODE = 2, HV_STATUS_INVALID_HYPERCALL_INPUT = 3,
	HV_STATUS_INVALID_ALIGNMENT = 4, HV_STATUS_INVALID_PARAMETER = 5, HV_STATUS_ACCESS_DENIED = 6,
};

#define HV_CALL_POST_MESSAGE 0x5cu
#define HV_CALL_SIGNAL_EVENT 0x5du
#define HV_CALL_FAST (1u << 16)

/* A slot of the message page, and how it stands in the queue. */
struct hv_message {
	le32_t type;			/* 0: the slot is free */
	uint8_t payload_size, flags;
	le16_t reserved;
	le64_t sender;
	uint8_t payload[VMBUS_MESSAGE_MAX];
};
VMBUS_SIZE(struct hv_message, 256);
#define HV_MESSAGE_TYPE_VMBUS 1u
#define HV_MESSAGE_PENDING 1u		/* flags: write EOM, there is more */
#define HV_QUEUE 1024u			/* the burst of all offers, sub-channels included */

struct hv_vp {
	pthread_mutex_t lock;
	/* under vmm_hv.lock */
	uint64_t scontrol, simp, siefp, assist, sint[HV_SINTS];
	/* under lock */
	uint8_t *messages;		/* the page of SIMP; NULL: SynIC or page off */
	struct hv_message *queue;	/* HV_QUEUE of them, from the first message on */
	unsigned head, count;
	/* atomic; written under lock */
	uint8_t *events;		/* the page of SIEFP; NULL: SynIC or page off */
	uint32_t vector;		/* of SINT2; 0: masked */
};

struct vmm_hv {
	struct vmm_hv_opts opts;
	struct vmm_memory *memory;
	const struct vmbus_mem *mem;
	const struct vmm_hv_ops *ops;
	void *ctx;
	uint64_t tsc_scale;		/* 2^64 * 10^7 / Hz; 0: there is no usable TSC */
	uint64_t tsc_base, ns_base;	/* reference time zero */
	pthread_mutex_t lock;
	/* under lock */
	uint64_t guest_os_id, hypercall, reference_tsc, tsc_invariant, crash[5];
	struct hv_vp vp[];
};

/* Under hv->lock. The page that @value, to be written to @slot, names: NULL when it names none. False: not RAM, or
 * another of the surface's pages lies there. */
bool hv_page(struct vmm_hv *hv, const uint64_t *slot, uint64_t value, uint8_t **ret_page);

bool hv_hypercall_set(struct vmm_hv *hv, uint64_t value);			/* under hv->lock */
bool hv_reference_tsc_set(struct vmm_hv *hv, unsigned vp, uint64_t value);	/* under hv->lock */
void hv_time_reset(struct vmm_hv *hv);

/* Under hv->lock: the MSRs of SynIC. False: #GP. */
bool hv_synic_set(struct vmm_hv *hv, struct hv_vp *vp, uint32_t msr, uint64_t value);
void hv_synic_eom(struct vmm_hv *hv, struct hv_vp *vp);
void hv_synic_reset(struct hv_vp *vp);

#endif
