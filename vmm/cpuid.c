/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the processors say of themselves: what KVM supports, without KVM's own leaves (a guest that finds KVM does not
 * look for Hyper-V), with a plain topology: one package, one core per virtual processor, no threads.
 */
#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "vmm/partition_int.h"

#define SUPPORTED_MAX 256u
#define EXTRA 8u			/* leaves of the surface, and those that KVM did not name */

#define LEAF1_ECX_FMA (1u << 12)
#define LEAF1_ECX_X2APIC (1u << 21)
#define LEAF1_ECX_TSC_DEADLINE (1u << 24)
#define LEAF1_ECX_XSAVE (1u << 26)
#define LEAF1_ECX_OSXSAVE (1u << 27)
#define LEAF1_ECX_AVX (1u << 28)
#define LEAF1_ECX_F16C (1u << 29)
#define LEAF1_ECX_HYPERVISOR (1u << 31)
#define LEAF1_EDX_HTT (1u << 28)
#define LEAF6_EAX_ARAT (1u << 2)

int vmm_cpuid_supported(int kvm_fd, struct kvm_cpuid2 **ret_cpuid, struct sp_err *err)
{
	struct kvm_cpuid2 *c = sp_zalloc(sizeof(*c) + SUPPORTED_MAX * sizeof(c->entries[0]));
	int r;

	if (!c)
		return sp_err_set(err, -ENOMEM, "out of memory");
	c->nent = SUPPORTED_MAX;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, c) < 0) {
		r = -errno;
		sp_free(c);
		return sp_err_set(err, r, "KVM_GET_SUPPORTED_CPUID: %s", strerror(-r));
	}
	*ret_cpuid = c;
	return 0;
}

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid2 *c, uint32_t function, uint32_t index)
{
	for (unsigned i = 0; i < c->nent; i++)
		if (c->entries[i].function == function && c->entries[i].index == index)
			return &c->entries[i];
	return NULL;
}

bool vmm_cpuid_invariant_tsc(const struct kvm_cpuid2 *supported)
{
	const struct kvm_cpuid_entry2 *e = find(supported, 0x80000007, 0);

	return e && e->edx & 1u << 8;
}

bool vmm_cpuid_xsave_is_sound(const struct kvm_cpuid2 *supported)
{
	const struct kvm_cpuid_entry2 *features = find(supported, 1, 0), *states = find(supported, 0xd, 0);
	uint32_t end = 576;		/* legacy area and header */

	if (!features || !(features->ecx & LEAF1_ECX_XSAVE) || !states || (states->eax & 3) != 3)
		return false;
	for (unsigned i = 2; i < 32; i++) {
		const struct kvm_cpuid_entry2 *state = find(supported, 0xd, i);

		if (!(states->eax & 1u << i))
			continue;
		if (!state || state->eax == 0 || state->ebx < 576 || state->eax > UINT32_MAX - state->ebx)
			return false;
		end = (uint32_t)sp_max(end, state->eax + state->ebx);
	}
	return states->ecx == end;
}

/* QEMU's emulation of SVM has no XSETBV intercept: KVM on it never learns which states a guest has on, and then lies
 * to it about their size. */
static bool host_is_tcg(void)
{
	uint32_t eax, text[3];

	__cpuid(1, eax, text[0], text[1], text[2]);
	if (!(text[1] & LEAF1_ECX_HYPERVISOR))
		return false;
	__cpuid(0x40000000, eax, text[0], text[1], text[2]);
	return memcmp(text, "TCGTCGTCGTCG", sizeof(text)) == 0;
}

static void hide_xsave(struct kvm_cpuid_entry2 *e)
{
	if (e->function == 1) {
		e->ecx &= ~(LEAF1_ECX_FMA | LEAF1_ECX_XSAVE | LEAF1_ECX_OSXSAVE | LEAF1_ECX_AVX | LEAF1_ECX_F16C);
	} else if (e->function == 7 && e->index == 0) {
		e->ebx &= ~0xdc230020u;		/* AVX2, AVX-512 */
		e->ecx &= ~0x00005e4au;		/* AVX-512, VAES, VPCLMULQDQ, PKU */
		e->edx &= ~0x03c0010cu;		/* AVX-512, AMX */
	} else if (e->function == 7) {
		e->eax = e->ebx = e->ecx = e->edx = 0;
	} else if (e->function == 0xd) {
		e->eax = e->ebx = e->ecx = e->edx = 0;
	} else if (e->function == 0x80000001) {
		e->ecx &= ~(1u << 11 | 1u << 15 | 1u << 16);	/* XOP, LWP, FMA4 */
	}
}

static unsigned log2_up(unsigned n)
{
	return n > 1 ? 32 - (unsigned)__builtin_clz(n - 1) : 0;
}

/* Leaves 4 and 0x8000001D: caches of level 3 are everybody's, the others a core's own. */
static void share_cache(struct kvm_cpuid_entry2 *e, unsigned cpus)
{
	unsigned level = e->eax >> 5 & 7, sharing = level >= 3 ? (1u << log2_up(cpus)) - 1 : 0;

	if ((e->eax & 0x1f) == 0)
		return;
	e->eax = (e->eax & 0x3fff) | sharing << 14;
	if (e->function == 4)
		e->eax |= (uint32_t)sp_min((1u << log2_up(cpus)) - 1, 63) << 26;
}

static void place(struct kvm_cpuid_entry2 *e, unsigned cpus, unsigned index)
{
	switch (e->function) {
	case 1:
		e->ebx = (e->ebx & 0xffff) | cpus << 16 | index << 24;
		e->ecx |= LEAF1_ECX_HYPERVISOR | LEAF1_ECX_X2APIC;
		e->ecx &= ~LEAF1_ECX_OSXSAVE;			/* KVM shows it as the guest's CR4 says */
		e->edx = cpus > 1 ? e->edx | LEAF1_EDX_HTT : e->edx & ~LEAF1_EDX_HTT;
		break;
	case 4:
	case 0x8000001d:
		share_cache(e, cpus);
		break;
	case 6:
		e->eax = LEAF6_EAX_ARAT;			/* else guests want a PIT */
		break;
	case 0xb:
		e->eax = e->index == 1 ? log2_up(cpus) : 0;
		e->ebx = e->index == 0 ? 1 : e->index == 1 ? cpus : 0;
		e->ecx = e->index | (e->index < 2 ? (e->index + 1) << 8 : 0);
		e->edx = index;
		break;
	case 0x1f:
		e->eax = e->ebx = e->ecx = e->edx = 0;		/* leaf 0xB tells it */
		break;
	case 0x80000008:
		e->ecx = log2_up(cpus) << 12 | (cpus - 1);
		break;
	case 0x8000001e:
		e->eax = e->ebx = index;
		e->ecx = 0;
		break;
	}
}

static bool is_hypervisor_leaf(uint32_t function)
{
	return function >> 28 == 4;
}

static void add(struct kvm_cpuid2 *c, struct kvm_cpuid_entry2 e)
{
	c->entries[c->nent++] = e;
}

static void add_missing(struct kvm_cpuid2 *c, uint32_t function, uint32_t index, uint32_t flags, const unsigned *at)
{
	struct kvm_cpuid_entry2 e = { .function = function, .index = index, .flags = flags };

	if (find(c, function, index))
		return;
	place(&e, at[0], at[1]);
	add(c, e);
}

struct kvm_cpuid2 *vmm_cpuid_make(const struct vmm_partition *p, unsigned index)
{
	bool no_xsave = !vmm_cpuid_xsave_is_sound(p->cpuid) || host_is_tcg();
	bool deadline = ioctl(p->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
	const unsigned at[] = { p->opts.cpus, index };
	struct vmm_cpuid_leaf leaf[8];
	struct kvm_cpuid2 *c = sp_zalloc(sizeof(*c) + (SUPPORTED_MAX + 2 * EXTRA) * sizeof(c->entries[0]));
	unsigned leaves = p->hv ? vmm_hv_cpuid(vmm_hv_options(p->hv), leaf) : 0;

	if (!c)
		return NULL;
	for (unsigned i = 0; i < p->cpuid->nent; i++) {
		struct kvm_cpuid_entry2 e = p->cpuid->entries[i];

		if (is_hypervisor_leaf(e.function))
			continue;
		place(&e, p->opts.cpus, index);
		if (e.function == 1 && deadline)
			e.ecx |= LEAF1_ECX_TSC_DEADLINE;
		if (no_xsave)
			hide_xsave(&e);
		add(c, e);
	}
	add_missing(c, 0xb, 1, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, at);
	for (unsigned i = 0; i < leaves; i++)
		add(c, (struct kvm_cpuid_entry2){ .function = leaf[i].function, .eax = leaf[i].eax,
						  .ebx = leaf[i].ebx, .ecx = leaf[i].ecx, .edx = leaf[i].edx });
	return c;
}
