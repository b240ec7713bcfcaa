/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_PARTITION_H
#define SPINDLE_VMM_PARTITION_H
/*
 * A KVM virtual machine and its processors: everything that needs /dev/kvm. One thread per virtual processor.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "vmm/boot.h"
#include "vmm/hyperv.h"
#include "vmm/memory.h"
#include "vmm/pio.h"

struct vmm_partition;

enum vmm_stop { VMM_STOP_NONE, VMM_STOP_POWER_OFF, VMM_STOP_RESET, VMM_STOP_QUIT, VMM_STOP_ERROR };

struct vmm_partition_opts {
	int kvm_fd;			/* /dev/kvm, opened by the caller and kept by it; -1: opened here */
	unsigned cpus;			/* 1 .. 64 */
	struct vmm_memory *memory;
	struct vmm_pio *pio;
	bool trace;			/* log every synthetic MSR access and hypercall through base/log.h "vmm" */
};

int vmm_partition_new(const struct vmm_partition_opts *opts, struct vmm_partition **ret_partition, struct sp_err *err);
void vmm_partition_free(struct vmm_partition *p);	/* stopped */
uint64_t vmm_partition_tsc_hz(struct vmm_partition *p);
bool vmm_partition_invariant_tsc(struct vmm_partition *p);
uint64_t vmm_partition_tsc(struct vmm_partition *p, unsigned vp);	/* what the guest reads now; thread of @vp */
/* Before the first run: the surface whose MSRs, hypercalls and CPUID leaves the processors see. */
void vmm_partition_set_hv(struct vmm_partition *p, struct vmm_hv *hv);

/* Brings all processors to their state after power on (the first one: @boot) and lets them run. */
int vmm_partition_run(struct vmm_partition *p, const struct vmm_boot_state *boot, struct sp_err *err);
/* All processors outside of the guest on return; their state stays. Any thread but a processor's. Pauses count: each
 * wants its resume. */
void vmm_partition_pause(struct vmm_partition *p);
void vmm_partition_resume(struct vmm_partition *p);
/* Why the machine stops, from a device or a processor; never waits; the first reason counts. */
void vmm_partition_request(struct vmm_partition *p, enum vmm_stop reason);
/* Readable (eventfd) once a reason is there. */
int vmm_partition_stop_fd(struct vmm_partition *p);
/* Ends the processors' threads; what the reason was (QUIT: there was none; ERROR: @err tells). After it the partition
 * may be run again, as a new machine: interrupts in flight and bound signals are gone with the old one. */
enum vmm_stop vmm_partition_stop(struct vmm_partition *p, struct sp_err *err);

void vmm_partition_inject(struct vmm_partition *p, unsigned vp, uint8_t vector);
void vmm_partition_irq(struct vmm_partition *p, unsigned gsi, bool level);
/* An OUT of @value (4 bytes) to VMM_PORT_SIGNAL rings @event_fd without leaving the kernel. 0, -EEXIST, -errno. */
int vmm_partition_bind_signal(struct vmm_partition *p, uint32_t value, int event_fd);
void vmm_partition_unbind_signal(struct vmm_partition *p, uint32_t value, int event_fd);

#endif
