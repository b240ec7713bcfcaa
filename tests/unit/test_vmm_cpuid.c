/* SPDX-License-Identifier: BSD-2-Clause */
/* What processors say of themselves, from what KVM supports. Without KVM. */
#include <stdlib.h>

#include "base/alloc.h"
#include "tests/unit/rows.h"
#include "vmm/partition_int.h"

#define ENTRIES 20u

static struct kvm_cpuid2 *supported(void)
{
	static const struct kvm_cpuid_entry2 entries[] = {
		{ .function = 0, .eax = 0x1f },
		{ .function = 1, .eax = 0xa10f11, .ebx = 0x05020800, .ecx = 0xffffffff, .edx = 0xffffffff },
		{ .function = 4, .index = 0, .flags = 1, .eax = 0xfc1fc121 },		/* level 1 data */
		{ .function = 4, .index = 3, .flags = 1, .eax = 0xfc1fc163 },		/* level 3 */
		{ .function = 4, .index = 4, .flags = 1 },
		{ .function = 6, .eax = 0x77 },
		{ .function = 7, .index = 0, .flags = 1, .ebx = 0xffffffff, .ecx = 0xffffffff, .edx = 0xffffffff },
		{ .function = 0xb, .index = 0, .flags = 1, .eax = 1, .ebx = 2, .ecx = 0x100, .edx = 77 },
		{ .function = 0xd, .index = 0, .flags = 1, .eax = 7, .ebx = 832, .ecx = 832 },
		{ .function = 0xd, .index = 1, .flags = 1, .eax = 0xf },
		{ .function = 0xd, .index = 2, .flags = 1, .eax = 256, .ebx = 576 },
		{ .function = 0x1f, .index = 0, .flags = 1, .eax = 1, .ebx = 2, .ecx = 0x100, .edx = 77 },
		{ .function = 0x80000001, .ecx = 0xffffffff, .edx = 0xffffffff },
		{ .function = 0x80000007, .edx = 0x100 },
		{ .function = 0x80000008, .eax = 0x3030, .ecx = 0x7001 },
		{ .function = 0x8000001e, .eax = 77, .ebx = 0x100, .ecx = 5 },
		{ .function = 0x40000000, .eax = 0x40000001, .ebx = 0x4b4d564b },
		{ .function = 0x40000001, .eax = 0x01007efb },
		{ .function = 0x40000100, .eax = 0x40000101, .ebx = 0x4b4d564b },
	};
	struct kvm_cpuid2 *c = sp_zalloc(sizeof(*c) + ENTRIES * sizeof(c->entries[0]));

	assert_non_null(c);
	c->nent = sizeof(entries) / sizeof(entries[0]);
	memcpy(c->entries, entries, sizeof(entries));
	return c;
}

static struct kvm_cpuid_entry2 *leaf(struct kvm_cpuid2 *c, uint32_t function, uint32_t index)
{
	struct kvm_cpuid_entry2 *found = NULL;

	for (unsigned i = 0; i < c->nent; i++) {
		if (c->entries[i].function == function && c->entries[i].index == index) {
			assert_null(found);		/* each once */
			found = &c->entries[i];
		}
	}
	return found;
}

static struct kvm_cpuid2 *make(struct kvm_cpuid2 *from, unsigned cpus, unsigned index)
{
	struct vmm_partition *p = calloc(1, sizeof(*p));
	struct kvm_cpuid2 *c;

	assert_non_null(p);
	p->kvm_fd = -1;
	p->opts.cpus = cpus;
	p->cpuid = from;
	c = vmm_cpuid_make(p, index);
	assert_non_null(c);
	free(p);
	return c;
}

static const struct place_case {
	const char *name;
	unsigned cpus, index, bits;	/* of an APIC id */
} place_cases[] = {
	{ "the only one", 1, 0, 0 },
	{ "second of two", 2, 1, 1 },
	{ "third of three", 3, 2, 2 },
	{ "last of 64", 64, 63, 6 },
};

static void place(void **state)
{
	const struct place_case *c = *state;
	struct kvm_cpuid2 *from = supported(), *got = make(from, c->cpus, c->index);
	unsigned cores = (1u << c->bits) - 1;

	assert_int_equal(leaf(got, 1, 0)->ebx, 0x0800u | c->cpus << 16 | c->index << 24);
	assert_int_equal(leaf(got, 1, 0)->edx >> 28 & 1, c->cpus > 1);
	assert_int_equal(leaf(got, 4, 0)->eax, 0x121u | cores << 26);		/* its own */
	assert_int_equal(leaf(got, 4, 3)->eax, 0x163u | cores << 14 | cores << 26);
	assert_int_equal(leaf(got, 4, 4)->eax, 0);
	assert_int_equal(leaf(got, 0xb, 0)->eax, 0);
	assert_int_equal(leaf(got, 0xb, 0)->ebx, 1);
	assert_int_equal(leaf(got, 0xb, 0)->ecx, 0x100);
	assert_int_equal(leaf(got, 0xb, 0)->edx, c->index);
	assert_int_equal(leaf(got, 0xb, 1)->eax, c->bits);
	assert_int_equal(leaf(got, 0xb, 1)->ebx, c->cpus);
	assert_int_equal(leaf(got, 0xb, 1)->ecx, 0x201);
	assert_int_equal(leaf(got, 0xb, 1)->edx, c->index);
	assert_int_equal(leaf(got, 0x1f, 0)->ebx, 0);
	assert_int_equal(leaf(got, 0x80000008, 0)->ecx, c->bits << 12 | (c->cpus - 1));
	assert_int_equal(leaf(got, 0x8000001e, 0)->eax, c->index);
	assert_int_equal(leaf(got, 0x8000001e, 0)->ebx, c->index);
	sp_free(got);
	sp_free(from);
}

static void hygiene(void **state)
{
	struct kvm_cpuid2 *from = supported(), *got = make(from, 2, 0);

	for (unsigned i = 0; i < got->nent; i++)
		assert_int_not_equal(got->entries[i].function >> 28, 4);	/* no surface, none of KVM's */
	assert_int_equal(leaf(got, 1, 0)->ecx >> 31, 1);
	assert_int_equal(leaf(got, 1, 0)->ecx >> 27 & 1, 0);			/* OSXSAVE is the guest's */
	assert_int_equal(leaf(got, 6, 0)->eax, 4);				/* ARAT alone */
	assert_true(vmm_cpuid_invariant_tsc(from));
	leaf(from, 0x80000007, 0)->edx = 0;
	assert_false(vmm_cpuid_invariant_tsc(from));
	sp_free(got);
	sp_free(from);
}

static const struct xsave_case {
	const char *name;
	uint32_t function, index, reg, clear, set;	/* a change of what KVM says; register 0: EAX ... */
	bool sound;
} xsave_cases[] = {
	{ "as it should be", 0xd, 0, 0, 0, 0, true },
	{ "leaf 0xD without XSAVE", 1, 0, 2, 1u << 26, 0, false },
	{ "no x87", 0xd, 0, 0, 1, 0, false },
	{ "no SSE", 0xd, 0, 0, 2, 0, false },
	{ "a state without a leaf", 0xd, 0, 0, 0, 1u << 9, false },
	{ "a state without a size", 0xd, 2, 0, UINT32_MAX, 0, false },
	{ "a state in the legacy area", 0xd, 2, 1, UINT32_MAX, 512, false },
	{ "a state whose end wraps", 0xd, 2, 1, 0, UINT32_MAX, false },
	{ "ends earlier than its states", 0xd, 0, 2, UINT32_MAX, 576, false },
	{ "ends later than its states", 0xd, 0, 2, UINT32_MAX, 4096, false },
};

static void xsave(void **state)
{
	const struct xsave_case *c = *state;
	struct kvm_cpuid2 *from = supported(), *got;
	struct kvm_cpuid_entry2 *e = leaf(from, c->function, c->index);
	uint32_t *reg[] = { &e->eax, &e->ebx, &e->ecx, &e->edx };

	*reg[c->reg] = (*reg[c->reg] & ~c->clear) | c->set;
	assert_int_equal(vmm_cpuid_xsave_is_sound(from), c->sound);
	if (!c->sound) {
		got = make(from, 1, 0);
		assert_int_equal(leaf(got, 1, 0)->ecx & 0x3c001000, 0);		/* XSAVE, AVX, F16C, FMA */
		assert_int_equal(leaf(got, 7, 0)->ebx & 0x10020, 0);		/* AVX2, AVX512F */
		assert_int_equal(leaf(got, 0xd, 0)->eax | leaf(got, 0xd, 2)->eax, 0);
		assert_int_not_equal(leaf(got, 1, 0)->ecx & 1u << 20, 0);	/* SSE4.2 stays */
		sp_free(got);
	}
	sp_free(from);
}

static const struct single_row singles[] = { { "nothing of KVM's, all that guests need", hygiene } };

int main(void)
{
	return ROWS_RUN(place_cases, place) + ROWS_RUN(xsave_cases, xsave) + ROWS_RUN(singles, rows_single);
}
