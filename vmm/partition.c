/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The KVM machine, and starting, pausing and stopping its processors. Nothing here needs KVM's own Hyper-V support:
 * synthetic MSRs come by the MSR filter, signals by PIO ioeventfds, interrupts go in as MSIs.
 */
#include "vmm/partition_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/seed.h"

#define TSS_ADDRESS 0xfffbd000u		/* 3 pages that VMX needs in real mode, where no RAM is */
#define IDENTITY_MAP_ADDRESS 0xfffbc000ull
#define SYNTHETIC_MSRS 0x200u

static const struct { int cap; const char *name; } needed[] = {
	{ KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP" },
	{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
	{ KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI" },
	{ KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD" },
	{ KVM_CAP_X86_USER_SPACE_MSR, "KVM_CAP_X86_USER_SPACE_MSR" },
	{ KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER" },
	{ KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ" },
	{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
};

static int failed(struct sp_err *err, const char *what)
{
	int r = -errno;

	return sp_err_set(err, r, "%s: %s", what, strerror(-r));
}

/* ---- the machine ------------------------------------------------------------------------------------- */

static int filter_msrs(int vm_fd, struct sp_err *err)
{
	static uint8_t deny[SYNTHETIC_MSRS / 8];	/* a bit that is clear: exit to us */
	struct kvm_enable_cap cap = { .cap = KVM_CAP_X86_USER_SPACE_MSR, .args[0] = KVM_MSR_EXIT_REASON_FILTER };
	struct kvm_msr_filter filter = {
		.flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
		.ranges[0] = { .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, .base = 0x40000000,
			       .nmsrs = SYNTHETIC_MSRS, .bitmap = deny },
	};

	if (ioctl(vm_fd, KVM_ENABLE_CAP, &cap) < 0)
		return failed(err, "KVM_CAP_X86_USER_SPACE_MSR");
	if (ioctl(vm_fd, KVM_X86_SET_MSR_FILTER, &filter) < 0)
		return failed(err, "KVM_X86_SET_MSR_FILTER");
	return 0;
}

static int add_memory(int vm_fd, const struct vmm_memory *m, uint32_t slot, uint64_t gpa, uint64_t len,
		      struct sp_err *err)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot, .guest_phys_addr = gpa, .memory_size = len,
		.userspace_addr = (uintptr_t)vmm_memory_map(m, gpa, len),
	};

	if (len == 0)
		return 0;
	return ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? failed(err, "guest memory in KVM") : 0;
}

static int machine_setup(struct vmm_partition *p, struct sp_err *err)
{
	const struct vmm_memory *m = p->opts.memory;
	uint64_t identity_map = IDENTITY_MAP_ADDRESS;
	int r;

	if (ioctl(p->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0 &&
	    ioctl(p->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0)
		return failed(err, "KVM_SET_IDENTITY_MAP_ADDR");
	if (ioctl(p->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SET_TSS_ADDR) > 0 &&
	    ioctl(p->vm_fd, KVM_SET_TSS_ADDR, TSS_ADDRESS) < 0)
		return failed(err, "KVM_SET_TSS_ADDR");
	if (ioctl(p->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return failed(err, "KVM_CREATE_IRQCHIP");
	r = add_memory(p->vm_fd, m, 0, 0, vmm_memory_low(m), err);
	if (r == 0)
		r = add_memory(p->vm_fd, m, 1, VMM_HIGH_RAM, vmm_memory_high(m), err);
	if (r == 0)
		r = filter_msrs(p->vm_fd, err);
	for (unsigned i = 0; r == 0 && i < p->opts.cpus; i++)
		r = vmm_vcpu_new(&p->vcpu[i], err);
	return r;
}

/* Instead of bringing every register of every processor and APIC back to where it began. */
static int machine_new(struct vmm_partition *p, struct sp_err *err)
{
	int fd = ioctl(p->kvm_fd, KVM_CREATE_VM, 0);

	if (fd < 0)
		return failed(err, "KVM_CREATE_VM");
	for (unsigned i = 0; i < p->opts.cpus; i++)
		vmm_vcpu_free(&p->vcpu[i]);
	if (p->vm_fd < 0) {
		p->vm_fd = fd;
	} else {
		if (dup3(fd, p->vm_fd, O_CLOEXEC) < 0) {
			int r = failed(err, "the machine's descriptor");

			close(fd);
			return r;
		}
		close(fd);
	}
	p->used = false;
	return machine_setup(p, err);
}

static int open_kvm(struct vmm_partition *p, struct sp_err *err)
{
	p->kvm_fd = p->opts.kvm_fd;
	if (p->kvm_fd < 0) {
		p->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
		if (p->kvm_fd < 0)
			return failed(err, "/dev/kvm");
		p->own_kvm_fd = true;
	}
	if (ioctl(p->kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		return sp_err_set(err, -ENOTSUP, "/dev/kvm does not speak API version %d", KVM_API_VERSION);
	for (unsigned i = 0; i < SP_ARRAY_SIZE(needed); i++)
		if (ioctl(p->kvm_fd, KVM_CHECK_EXTENSION, needed[i].cap) <= 0)
			return sp_err_set(err, -ENOTSUP, "this kernel's KVM has no %s", needed[i].name);
	p->sync_regs = ioctl(p->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS) & KVM_SYNC_X86_REGS;
	p->run_size = (size_t)ioctl(p->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	return vmm_cpuid_supported(p->kvm_fd, &p->cpuid, err);
}

/* The kick only has to interrupt KVM_RUN. */
static void on_kick(int signal_number)
{
}

static int partition_init(struct vmm_partition *p, struct sp_err *err)
{
	struct sigaction action = { .sa_handler = on_kick };	/* no SA_RESTART */
	int khz, r;

	r = open_kvm(p, err);
	if (r < 0)
		return r;
	p->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->stop_fd < 0 || sigaction(VMM_KICK_SIGNAL, &action, NULL) < 0)
		return failed(err, "partition");
	r = machine_new(p, err);
	if (r < 0)
		return r;
	khz = ioctl(p->vcpu[0].fd, KVM_GET_TSC_KHZ, 0);
	if (khz <= 0)
		return sp_err_set(err, -ENOTSUP, "KVM does not know the frequency of the TSC");
	p->tsc_hz = (uint64_t)khz * 1000;
	return 0;
}

int vmm_partition_new(const struct vmm_partition_opts *opts, struct vmm_partition **ret_partition, struct sp_err *err)
{
	struct vmm_partition *p;
	int r;

	if (opts->cpus == 0 || opts->cpus > VMM_CPUS_MAX)
		return sp_err_set(err, -EINVAL, "%u processors: 1 to %u are possible", opts->cpus, VMM_CPUS_MAX);
	p = sp_zalloc(sizeof(*p));
	if (!p)
		return sp_err_set(err, -ENOMEM, "out of memory");
	p->opts = *opts;
	p->kvm_fd = p->vm_fd = p->stop_fd = -1;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->changed, NULL);
	for (unsigned i = 0; i < VMM_CPUS_MAX; i++)
		p->vcpu[i] = (struct vmm_vcpu){ .partition = p, .index = i, .fd = -1 };
	r = partition_init(p, err);
	if (r < 0)
		vmm_partition_free(p);
	else
		*ret_partition = p;
	return r;
}

void vmm_partition_free(struct vmm_partition *p)
{
	if (!p)
		return;
	for (unsigned i = 0; i < VMM_CPUS_MAX; i++)
		vmm_vcpu_free(&p->vcpu[i]);
	if (p->vm_fd >= 0)
		close(p->vm_fd);
	if (p->stop_fd >= 0)
		close(p->stop_fd);
	if (p->own_kvm_fd)
		close(p->kvm_fd);
	pthread_cond_destroy(&p->changed);
	pthread_mutex_destroy(&p->lock);
	sp_free(p->cpuid);
	sp_free(p);
}

uint64_t vmm_partition_tsc_hz(struct vmm_partition *p)
{
	return p->tsc_hz;
}

bool vmm_partition_invariant_tsc(struct vmm_partition *p)
{
	return vmm_cpuid_invariant_tsc(p->cpuid);
}

void vmm_partition_set_hv(struct vmm_partition *p, struct vmm_hv *hv)
{
	p->hv = hv;
}

/* ---- running ----------------------------------------------------------------------------------------- */

/* Under p->lock, after what the processors shall see has been said. */
static void kick_all(struct vmm_partition *p)
{
	for (unsigned i = 0; i < p->threads; i++) {
		if (!SP_SEED_BUG(PARTITION_LOST_KICK))
			__atomic_store_n(&p->vcpu[i].run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		pthread_kill(p->vcpu[i].thread, VMM_KICK_SIGNAL);
	}
}

static void end_threads(struct vmm_partition *p)
{
	unsigned threads;

	pthread_mutex_lock(&p->lock);
	p->quit = true;
	kick_all(p);
	pthread_cond_broadcast(&p->changed);
	threads = p->threads;
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < threads; i++)
		pthread_join(p->vcpu[i].thread, NULL);
	pthread_mutex_lock(&p->lock);
	p->threads = 0;
	p->quit = false;
	pthread_mutex_unlock(&p->lock);
}

static int start_threads(struct vmm_partition *p, struct sp_err *err)
{
	int r = 0;

	pthread_mutex_lock(&p->lock);
	while (r == 0 && p->threads < p->opts.cpus) {
		struct vmm_vcpu *v = &p->vcpu[p->threads];

		r = pthread_create(&v->thread, NULL, vmm_vcpu_thread, v);
		p->threads += r == 0;
	}
	pthread_mutex_unlock(&p->lock);
	if (r == 0)
		return 0;
	end_threads(p);
	return sp_err_set(err, -r, "thread of a processor: %s", strerror(r));
}

int vmm_partition_run(struct vmm_partition *p, const struct vmm_boot_state *boot, struct sp_err *err)
{
	int r = 0;

	if (p->used)
		r = machine_new(p, err);
	for (unsigned i = 0; r == 0 && i < p->opts.cpus; i++)
		r = vmm_vcpu_boot(&p->vcpu[i], boot, err);
	if (r < 0)
		return r;
	p->used = true;
	return start_threads(p, err);
}

void vmm_partition_pause(struct vmm_partition *p)
{
	pthread_mutex_lock(&p->lock);
	p->paused++;
	kick_all(p);
	while (p->inside)
		pthread_cond_wait(&p->changed, &p->lock);
	pthread_mutex_unlock(&p->lock);
}

void vmm_partition_resume(struct vmm_partition *p)
{
	pthread_mutex_lock(&p->lock);
	p->paused--;
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
}

void vmm_partition_request(struct vmm_partition *p, enum vmm_stop reason)
{
	int none = VMM_STOP_NONE;

	if (__atomic_compare_exchange_n(&p->reason, &none, (int)reason, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		eventfd_write(p->stop_fd, 1);
}

void vmm_partition_fail(struct vmm_partition *p, const char *fmt, ...)
{
	char text[SP_ERR_TEXT_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	pthread_mutex_lock(&p->lock);
	if (p->error.code == 0)
		sp_err_set(&p->error, -EIO, "%s", text);
	pthread_mutex_unlock(&p->lock);
	vmm_partition_request(p, VMM_STOP_ERROR);
}

int vmm_partition_stop_fd(struct vmm_partition *p)
{
	return p->stop_fd;
}

enum vmm_stop vmm_partition_stop(struct vmm_partition *p, struct sp_err *err)
{
	enum vmm_stop reason;
	eventfd_t rung;

	end_threads(p);
	reason = (enum vmm_stop)__atomic_exchange_n(&p->reason, VMM_STOP_NONE, __ATOMIC_SEQ_CST);
	eventfd_read(p->stop_fd, &rung);
	if (reason == VMM_STOP_ERROR && err)
		*err = p->error;
	p->error.code = 0;
	return reason == VMM_STOP_NONE ? VMM_STOP_QUIT : reason;
}

/* ---- interrupts and signals -------------------------------------------------------------------------- */

void vmm_partition_inject(struct vmm_partition *p, unsigned vp, uint8_t vector)
{
	struct kvm_msi msi = { .address_lo = 0xfee00000u | vp << 12, .data = vector };

	/* 0 is no error: the same vector was pending already. */
	ioctl(p->vm_fd, KVM_SIGNAL_MSI, &msi);
}

void vmm_partition_irq(struct vmm_partition *p, unsigned gsi, bool level)
{
	struct kvm_irq_level irq = { .irq = gsi, .level = level };

	ioctl(p->vm_fd, KVM_IRQ_LINE, &irq);
}

static int ioeventfd(struct vmm_partition *p, uint32_t value, int event_fd, uint32_t flags)
{
	struct kvm_ioeventfd io = {
		.addr = VMM_PORT_SIGNAL, .len = 4, .datamatch = value, .fd = event_fd,
		.flags = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH | flags,
	};

	return ioctl(p->vm_fd, KVM_IOEVENTFD, &io) < 0 ? -errno : 0;
}

int vmm_partition_bind_signal(struct vmm_partition *p, uint32_t value, int event_fd)
{
	return ioeventfd(p, value, event_fd, 0);
}

void vmm_partition_unbind_signal(struct vmm_partition *p, uint32_t value, int event_fd)
{
	ioeventfd(p, value, event_fd, KVM_IOEVENTFD_FLAG_DEASSIGN);	/* not there: went with an old machine */
}
