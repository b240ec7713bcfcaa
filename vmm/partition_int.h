/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_PARTITION_INT_H
#define SPINDLE_VMM_PARTITION_INT_H
/*
 * Partition and processors among themselves.
 *
 * A processor's thread is parked (waits on changed), or inside (counted: KVM_RUN and the handling of its exits).
 * Whoever wants it outside says why (paused, quit, reason), sets immediate_exit and sends the kick signal, in that
 * order: a thread on its way into the guest finds immediate_exit set, one in the guest gets the signal. It clears
 * immediate_exit under the lock, where it also sees why; so no kick is lost.
 */
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>

#include "vmm/partition.h"

#define VMM_CPUS_MAX 64u
#define VMM_KICK_SIGNAL SIGRTMIN

struct vmm_vcpu {
	struct vmm_partition *partition;
	unsigned index;			/* = APIC id = VP index */
	int fd;
	struct kvm_run *run;		/* NULL: does not exist */
	pthread_t thread;
};

struct vmm_partition {
	struct vmm_partition_opts opts;
	struct vmm_hv *hv;
	int kvm_fd;
	bool own_kvm_fd;
	/* The number stays the same when the machine is made anew: a late interrupt of a device's thread meets the old
	 * machine or the new one, never somebody else's descriptor. */
	int vm_fd;
	size_t run_size;
	bool sync_regs;			/* registers come with every exit */
	bool used;			/* has run: the next run needs a new machine */
	struct kvm_cpuid2 *cpuid;	/* what KVM supports */
	uint64_t tsc_hz;
	int stop_fd;
	int reason;			/* enum vmm_stop; atomic */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under lock */
	unsigned threads, paused, inside;
	bool quit;
	struct sp_err error;		/* of the first VMM_STOP_ERROR */

	struct vmm_vcpu vcpu[VMM_CPUS_MAX];
};

/* ---- vcpu.c ------------------------------------------------------------------------------------------ */

int vmm_vcpu_new(struct vmm_vcpu *v, struct sp_err *err);
void vmm_vcpu_free(struct vmm_vcpu *v);
int vmm_vcpu_boot(struct vmm_vcpu *v, const struct vmm_boot_state *boot, struct sp_err *err);
void *vmm_vcpu_thread(void *vcpu);
/* Records the story and requests VMM_STOP_ERROR. */
void vmm_partition_fail(struct vmm_partition *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- cpuid.c ----------------------------------------------------------------------------------------- */

int vmm_cpuid_supported(int kvm_fd, struct kvm_cpuid2 **ret_cpuid, struct sp_err *err);
bool vmm_cpuid_invariant_tsc(const struct kvm_cpuid2 *supported);
/* The leaves of one processor: KVM's, topology, and those of the surface (@hv NULL: none). NULL: no memory. */
struct kvm_cpuid2 *vmm_cpuid_make(const struct vmm_partition *p, unsigned index);
/* XSAVE and leaf 0xD contradict each other, or the processor below would let a guest find that they do. */
bool vmm_cpuid_xsave_is_sound(const struct kvm_cpuid2 *supported);

#endif
