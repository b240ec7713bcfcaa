/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One virtual processor: its state after power on, its thread, and what makes it leave the guest.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/log.h"
#include "vmm/partition_int.h"

#define CR0_PE 0x1ull
#define CR0_ET 0x10ull
#define CR0_PG 0x80000000ull
#define CR4_PAE 0x20ull
#define EFER_LME 0x100ull
#define EFER_LMA 0x400ull
#define MSR_TSC 0x10u
#define SIGNAL_EVENT_FAST 0x1005dull

static int failed(struct sp_err *err, unsigned cpu, const char *what)
{
	int r = -errno;

	return sp_err_set(err, r, "processor %u: %s: %s", cpu, what, strerror(-r));
}

int vmm_vcpu_new(struct vmm_vcpu *v, struct sp_err *err)
{
	struct vmm_partition *p = v->partition;
	void *run;

	v->fd = ioctl(p->vm_fd, KVM_CREATE_VCPU, v->index);
	if (v->fd < 0)
		return failed(err, v->index, "KVM_CREATE_VCPU");
	run = mmap(NULL, p->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (run == MAP_FAILED)
		return failed(err, v->index, "its shared page");
	v->run = run;
	if (p->sync_regs)
		v->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
	return 0;
}

void vmm_vcpu_free(struct vmm_vcpu *v)
{
	if (v->run)
		munmap(v->run, v->partition->run_size);
	if (v->fd >= 0)
		close(v->fd);
	v->run = NULL;
	v->fd = -1;
}

/* ---- state after power on ---------------------------------------------------------------------------- */

static void flat_segments(struct kvm_sregs *s, bool long_mode)
{
	struct kvm_segment code = { .limit = UINT32_MAX, .selector = 0x10, .type = 11, .present = 1, .s = 1, .g = 1,
				    .l = long_mode, .db = !long_mode };
	struct kvm_segment data = { .limit = UINT32_MAX, .selector = 0x18, .type = 3, .present = 1, .s = 1, .g = 1,
				    .db = 1 };

	s->cs = code;
	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->tr = (struct kvm_segment){ .limit = 0x67, .type = 11, .present = 1 };	/* busy TSS, as VMX insists */
}

static int boot_registers(struct vmm_vcpu *v, const struct vmm_boot_state *boot, struct sp_err *err)
{
	struct kvm_regs regs = { .rip = boot->rip, .rflags = 2 };
	struct kvm_sregs s;

	if (ioctl(v->fd, KVM_GET_SREGS, &s) < 0)
		return failed(err, v->index, "KVM_GET_SREGS");
	flat_segments(&s, boot->mode == VMM_BOOT_LONG_MODE);
	s.gdt.base = boot->gdt;
	s.gdt.limit = 4 * 8 - 1;
	s.cr0 = CR0_PE | CR0_ET;
	if (boot->mode == VMM_BOOT_LONG_MODE) {
		s.cr0 |= CR0_PG;
		s.cr3 = boot->cr3;
		s.cr4 = CR4_PAE;
		s.efer = EFER_LME | EFER_LMA;
		regs.rsi = boot->rsi;
	} else {
		regs.rbx = boot->ebx;
	}
	if (ioctl(v->fd, KVM_SET_SREGS, &s) < 0)
		return failed(err, v->index, "KVM_SET_SREGS");
	return ioctl(v->fd, KVM_SET_REGS, &regs) < 0 ? failed(err, v->index, "KVM_SET_REGS") : 0;
}

/* The others wait in KVM for INIT and SIPI. */
int vmm_vcpu_boot(struct vmm_vcpu *v, const struct vmm_boot_state *boot, struct sp_err *err)
{
	SP_AUTO_FREE struct kvm_cpuid2 *cpuid = vmm_cpuid_make(v->partition, v->index);

	if (!cpuid)
		return sp_err_set(err, -ENOMEM, "out of memory");
	if (ioctl(v->fd, KVM_SET_CPUID2, cpuid) < 0)
		return failed(err, v->index, "KVM_SET_CPUID2");
	return v->index == 0 ? boot_registers(v, boot, err) : 0;
}

uint64_t vmm_partition_tsc(struct vmm_partition *p, unsigned vp)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry entry; } get = {
		.head.nmsrs = 1, .entry.index = MSR_TSC,
	};

	return ioctl(p->vcpu[vp].fd, KVM_GET_MSRS, &get) == 1 ? get.entry.data : 0;
}

/* ---- exits ------------------------------------------------------------------------------------------- */

/* The first words of an error: where the processor stands, and on what. */
static void fail_here(struct vmm_vcpu *v, const char *what)
{
	struct vmm_partition *p = v->partition;
	struct kvm_regs regs = { .rip = 0 };
	struct kvm_translation tr;
	const uint8_t *code = NULL;
	char bytes[16 * 3 + 1] = " unknown";
	unsigned len;

	ioctl(v->fd, KVM_GET_REGS, &regs);
	len = (unsigned)sp_min(16, 4096 - regs.rip % 4096);
	tr = (struct kvm_translation){ .linear_address = regs.rip };
	if (ioctl(v->fd, KVM_TRANSLATE, &tr) == 0 && tr.valid)
		code = vmm_memory_map(p->opts.memory, tr.physical_address, len);
	for (unsigned i = 0; code && i < len; i++)
		snprintf(bytes + 3 * i, sizeof(bytes) - 3 * i, " %02x", code[i]);
	vmm_partition_fail(p, "processor %u, rip %#llx, instruction bytes%s: %s", v->index, regs.rip, bytes, what);
}

static bool kernel_mode(struct vmm_vcpu *v)
{
	struct kvm_sregs s;

	return ioctl(v->fd, KVM_GET_SREGS, &s) == 0 && s.ss.dpl == 0;
}

static uint32_t hypercall(struct vmm_vcpu *v)
{
	struct vmm_partition *p = v->partition;
	struct kvm_regs own, *regs = &v->run->s.regs.regs;
	uint32_t status = 6;		/* access denied */

	if (!p->sync_regs) {
		regs = &own;
		if (ioctl(v->fd, KVM_GET_REGS, regs) < 0)
			return status;
	}
	if (p->hv && kernel_mode(v))
		status = vmm_hv_hypercall(p->hv, v->index, regs->rcx, regs->rdx, regs->r8);
	if (p->opts.trace)
		sp_debug("vmm", "hypercall", "vp %u control %#llx input %#llx: status %u", v->index, regs->rcx,
			 regs->rdx, status);
	return status;
}

static uint32_t port_read(struct vmm_vcpu *v, uint16_t port, unsigned size)
{
	if (port == VMM_PORT_HYPERCALL && size == 4)
		return hypercall(v);
	return vmm_pio_read(v->partition->opts.pio, port, size);
}

static void port_write(struct vmm_vcpu *v, uint16_t port, unsigned size, uint32_t value)
{
	struct vmm_partition *p = v->partition;

	if (port == VMM_PORT_SIGNAL && size == 4 && p->hv)
		vmm_hv_hypercall(p->hv, v->index, SIGNAL_EVENT_FAST, value, 0);
	else
		vmm_pio_write(p->opts.pio, port, size, value);
}

static void on_io(struct vmm_vcpu *v)
{
	uint8_t *data = (uint8_t *)v->run + v->run->io.data_offset;
	unsigned size = v->run->io.size;
	uint16_t port = v->run->io.port;

	for (unsigned i = 0; i < v->run->io.count; i++, data += size) {
		uint32_t value = 0;

		if (v->run->io.direction == KVM_EXIT_IO_IN) {
			value = port_read(v, port, size);
			memcpy(data, &value, size);
		} else {
			memcpy(&value, data, size);
			port_write(v, port, size, value);
		}
	}
}

static void on_msr(struct vmm_vcpu *v, bool write)
{
	struct vmm_partition *p = v->partition;
	uint64_t value = v->run->msr.data;
	uint32_t msr = v->run->msr.index;
	bool ok = false;

	if (p->hv)
		ok = write ? vmm_hv_wrmsr(p->hv, v->index, msr, value) : vmm_hv_rdmsr(p->hv, v->index, msr, &value);
	v->run->msr.error = !ok;
	if (!write)
		v->run->msr.data = value;
	if (p->opts.trace)
		sp_debug("vmm", "msr", "vp %u %s %#x %#" PRIx64 "%s", v->index, write ? "write" : "read", msr, value,
			 ok ? "" : ": #GP");
}

static void on_exit_reason(struct vmm_vcpu *v)
{
	struct vmm_partition *p = v->partition;
	char what[64];

	switch (v->run->exit_reason) {
	case KVM_EXIT_IO:
		on_io(v);
		break;
	case KVM_EXIT_MMIO:		/* no device lives there */
		if (!v->run->mmio.is_write)
			memset(v->run->mmio.data, 0xff, sizeof(v->run->mmio.data));
		break;
	case KVM_EXIT_X86_RDMSR:
		on_msr(v, false);
		break;
	case KVM_EXIT_X86_WRMSR:
		on_msr(v, true);
		break;
	case KVM_EXIT_SHUTDOWN:		/* triple fault */
		vmm_partition_request(p, VMM_STOP_RESET);
		break;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		fail_here(v, v->run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION ?
			  "KVM cannot emulate this instruction" : "KVM internal error");
		break;
	case KVM_EXIT_FAIL_ENTRY:
		fail_here(v, "the hardware refuses this processor state");
		break;
	default:
		snprintf(what, sizeof(what), "unexpected KVM exit %u", v->run->exit_reason);
		fail_here(v, what);
		break;
	}
}

/* ---- the thread -------------------------------------------------------------------------------------- */

static bool must_wait(struct vmm_partition *p)
{
	return p->paused || __atomic_load_n(&p->reason, __ATOMIC_SEQ_CST) != VMM_STOP_NONE;
}

/* False: the thread ends. */
static bool enter(struct vmm_vcpu *v)
{
	struct vmm_partition *p = v->partition;
	bool go;

	pthread_mutex_lock(&p->lock);
	while (!p->quit && must_wait(p))
		pthread_cond_wait(&p->changed, &p->lock);
	go = !p->quit;
	if (go) {
		__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		p->inside++;
	}
	pthread_mutex_unlock(&p->lock);
	return go;
}

static void leave(struct vmm_vcpu *v)
{
	struct vmm_partition *p = v->partition;

	pthread_mutex_lock(&p->lock);
	p->inside--;
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
}

/* Until a kick, or until somebody gave a reason to stop. */
static void run_guest(struct vmm_vcpu *v)
{
	char what[64];

	do {
		if (ioctl(v->fd, KVM_RUN, 0) == 0) {
			on_exit_reason(v);
		} else if (errno == EINTR) {
			return;
		} else if (errno != EAGAIN) {		/* EAGAIN: woken by INIT or SIPI */
			snprintf(what, sizeof(what), "KVM_RUN: %s", strerror(errno));
			fail_here(v, what);
		}
	} while (__atomic_load_n(&v->partition->reason, __ATOMIC_RELAXED) == VMM_STOP_NONE);
}

void *vmm_vcpu_thread(void *vcpu)
{
	struct vmm_vcpu *v = vcpu;
	sigset_t all_but_kick;

	sigfillset(&all_but_kick);
	sigdelset(&all_but_kick, VMM_KICK_SIGNAL);
	pthread_sigmask(SIG_SETMASK, &all_but_kick, NULL);
	while (enter(v)) {
		run_guest(v);
		leave(v);
	}
	return NULL;
}
