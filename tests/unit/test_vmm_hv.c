/* SPDX-License-Identifier: BSD-2-Clause */
/* The Hyper-V surface, called as the exits of a processor would: MSRs, hypercalls, reference time, crash, CPUID. */
#include <errno.h>

#include "tests/unit/hv_host.h"
#include "vmm/pio.h"

/* ---- MSRs -------------------------------------------------------------------------------------------- */

#define READ_ONLY 0u
#define WRITES 1u

static const struct msr_case {
	const char *name;
	uint32_t msr;
	unsigned write;			/* else: only read */
	uint64_t value;			/* to be written */
	bool ok;
	uint64_t read;			/* afterwards */
} msr_cases[] = {
	{ "OS id", HV_MSR_GUEST_OS_ID, WRITES, 0x8100000601c00000, true, 0x8100000601c00000 },
	{ "hypercall page without OS id", HV_MSR_HYPERCALL, WRITES, GPA_HYPERCALL | 1, true, GPA_HYPERCALL },
	{ "hypercall page off", HV_MSR_HYPERCALL, WRITES, 0, true, 0 },
	{ "VP index", HV_MSR_VP_INDEX, READ_ONLY, 0, true, 1 },
	{ "VP index is not written", HV_MSR_VP_INDEX, WRITES, 0, false, 1 },
	{ "reset", HV_MSR_RESET, WRITES, 1, true, 0 },
	{ "counter is not written", HV_MSR_TIME_REF_COUNT, WRITES, 0, false, 0 },
	{ "TSC page", HV_MSR_REFERENCE_TSC, WRITES, GPA_TSC | 1, true, GPA_TSC | 1 },
	{ "TSC page: low bits are kept", HV_MSR_REFERENCE_TSC, WRITES, GPA_TSC | 0xffe, true, GPA_TSC | 0xffe },
	{ "TSC frequency", HV_MSR_TSC_FREQUENCY, READ_ONLY, 0, true, HOST_TSC_HZ },
	{ "TSC frequency is not written", HV_MSR_TSC_FREQUENCY, WRITES, 1, false, HOST_TSC_HZ },
	{ "APIC frequency", HV_MSR_APIC_FREQUENCY, READ_ONLY, 0, true, 1000000000 },
	{ "EOI", 0x40000070, WRITES, 0, false, 0 },
	{ "VP assist page", HV_MSR_VP_ASSIST_PAGE, WRITES, 0x5001, true, 0x5001 },
	{ "SCONTROL", HV_MSR_SCONTROL, WRITES, 1, true, 1 },
	{ "SVERSION", HV_MSR_SVERSION, READ_ONLY, 0, true, 1 },
	{ "SVERSION is not written", HV_MSR_SVERSION, WRITES, 1, false, 1 },
	{ "SIEFP", HV_MSR_SIEFP, WRITES, 0x6001, true, 0x6001 },
	{ "SIMP", HV_MSR_SIMP, WRITES, 0x6001, true, 0x6001 },
	{ "SIMP: bits 11 to 1 are kept", HV_MSR_SIMP, WRITES, 0x6ffe, true, 0x6ffe },
	{ "EOM with nothing queued", HV_MSR_EOM, WRITES, 0, true, 0 },
	{ "SINT0 after reset", HV_MSR_SINT0, READ_ONLY, 0, true, 0x10000 },
	{ "SINT2", HV_MSR_SINT0 + 2, WRITES, 0xf3, true, 0xf3 },
	{ "SINT15", HV_MSR_SINT15, WRITES, 0x10, true, 0x10 },
	{ "SINT2 masked", HV_MSR_SINT0 + 2, WRITES, 0x10000, true, 0x10000 },
	{ "SINT2: vector 15", HV_MSR_SINT0 + 2, WRITES, 0x0f, false, 0x10000 },
	{ "SINT2: masked vector 15", HV_MSR_SINT0 + 2, WRITES, 0x1000f, true, 0x1000f },
	{ "SINT2: auto EOI", HV_MSR_SINT0 + 2, WRITES, 0x200f3, true, 0x200f3 },
	{ "synthetic timer", 0x400000b0, WRITES, 0, false, 0 },
	{ "crash parameter 0", HV_MSR_CRASH_P0, WRITES, 1, true, 1 },
	{ "crash parameter 4", HV_MSR_CRASH_P4, WRITES, UINT64_MAX, true, UINT64_MAX },
	{ "crash control", HV_MSR_CRASH_CTL, READ_ONLY, 0, true, 3ull << 62 },
	{ "crash control without notify", HV_MSR_CRASH_CTL, WRITES, 0, true, 3ull << 62 },
	{ "reenlightenment", 0x40000106, WRITES, 0, false, 0 },
	{ "invariant TSC", HV_MSR_TSC_INVARIANT, WRITES, 1, true, 1 },
	{ "invariant TSC, reserved bits", HV_MSR_TSC_INVARIANT, WRITES, 2, false, 0 },
	{ "first of those nobody knows", 0x40000004, WRITES, 0, false, 0 },
	{ "last of the range", 0x400001ff, WRITES, 0, false, 0 },
};

/* Nothing that may be written reads as #GP; what raises #GP changes nothing. */
static void msr(void **state)
{
	const struct msr_case *c = *state;
	struct hv_host *h = host_new(&host_ops);
	uint64_t value = 0;

	if (c->write)
		assert_int_equal(vmm_hv_wrmsr(h->hv, 1, c->msr, c->value), c->ok);
	if (vmm_hv_rdmsr(h->hv, 1, c->msr, &value) && c->msr != HV_MSR_TIME_REF_COUNT)
		assert_int_equal(value, c->read);
	else
		assert_false(c->ok);
	assert_int_equal(h->resets, c->msr == HV_MSR_RESET);
	assert_int_equal(h->crashes, 0);
	host_free(h);
}

/* ---- pages that guests lend ---------------------------------------------------------------------------- */

static const uint32_t page_msrs[] = {
	HV_MSR_HYPERCALL, HV_MSR_REFERENCE_TSC, HV_MSR_VP_ASSIST_PAGE, HV_MSR_SIEFP, HV_MSR_SIMP,
};

static const struct pfn_case { const char *name; uint64_t pfn; bool ok; } pfn_cases[] = {
	{ "page 0", 0, true },
	{ "last page", (HOST_RAM >> 12) - 1, true },
	{ "behind the last", HOST_RAM >> 12, false },
	{ "local APIC", 0xfee00, false },
	{ "4 GiB", 0x100000, false },
	{ "highest", UINT64_MAX >> 12, false },
	{ "sign bit", 1ull << 51, false },
};

static void pfn(void **state)
{
	const struct pfn_case *c = *state;

	for (unsigned i = 0; i < SP_ARRAY_SIZE(page_msrs); i++) {
		struct hv_host *h = host_new(&host_ops);

		host_wrmsr(h, 0, HV_MSR_GUEST_OS_ID, 1);
		assert_int_equal(vmm_hv_wrmsr(h->hv, 0, page_msrs[i], c->pfn << 12 | 1), c->ok);
		assert_int_equal(host_rdmsr(h, 0, page_msrs[i]), c->ok ? c->pfn << 12 | 1 : 0);
		/* Not enabled, any number is but a number. */
		host_wrmsr(h, 0, page_msrs[i], c->pfn << 12);
		assert_int_equal(host_rdmsr(h, 0, page_msrs[i]), c->pfn << 12);
		host_free(h);
	}
}

/* Each page against each other, of the same and of another processor. */
static void shared_pages(void **state)
{
	for (unsigned i = 0; i < SP_ARRAY_SIZE(page_msrs); i++) {
		for (unsigned k = 0; k < SP_ARRAY_SIZE(page_msrs); k++) {
			bool per_vp = i >= 2 && k >= 2;

			for (unsigned vp = 0; vp < 2; vp++) {
				struct hv_host *h = host_new(&host_ops);
				bool same = i == k && !(per_vp && vp);

				host_wrmsr(h, 0, HV_MSR_GUEST_OS_ID, 1);
				host_wrmsr(h, 0, page_msrs[i], 0x7001);
				assert_int_equal(vmm_hv_wrmsr(h->hv, vp, page_msrs[k], 0x7001), same);
				assert_true(vmm_hv_wrmsr(h->hv, vp, page_msrs[k], 0x8001));
				host_free(h);
			}
		}
	}
}

static void page_contents(void **state)
{
	static const uint8_t begin[] = { 0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x81, 0xf9, 0x5d, 0, 1, 0, 0x75, 7, 0x89, 0xd0,
					 0xe7, VMM_PORT_SIGNAL, 0x31, 0xc0, 0xc3, 0xe5, VMM_PORT_HYPERCALL, 0xc3 };
	struct hv_host *h = host_new(&host_ops);
	uint8_t *ram = h->ram;

	memset(ram, 0x55, HOST_RAM);
	host_enable_hypercalls(h);
	assert_memory_equal(ram + GPA_HYPERCALL, begin, sizeof(begin));
	for (unsigned i = sizeof(begin); i < 4096; i++)
		assert_int_equal(ram[GPA_HYPERCALL + i], 0xcc);
	assert_int_equal(ram[GPA_HYPERCALL - 1], 0x55);
	assert_int_equal(ram[GPA_HYPERCALL + 4096], 0x55);
	host_enable_synic(h, 1);
	for (unsigned i = 0; i < 4096; i++)
		assert_int_equal(ram[GPA_MESSAGES(1) + i] | ram[GPA_EVENTS(1) + i], 0);
	assert_int_equal(ram[GPA_MESSAGES(1) - 1], 0x55);
	/* Written again as it is: what stands in the page stays. */
	ram[GPA_MESSAGES(1)] = 1;
	host_wrmsr(h, 1, HV_MSR_SIMP, GPA_MESSAGES(1) | 1);
	assert_int_equal(ram[GPA_MESSAGES(1)], 1);
	host_wrmsr(h, 1, HV_MSR_VP_ASSIST_PAGE, 0x5001);
	assert_int_equal(ram[0x5000] | ram[0x5003], 0);
	assert_int_equal(ram[0x5004], 0x55);
	host_free(h);
}

static void hypercall_page_states(void **state)
{
	struct hv_host *h = host_new(&host_ops);

	assert_int_equal(vmm_hv_hypercall(h->hv, 0, 0x1005d, 7, 0), HV_STATUS_ACCESS_DENIED);
	host_enable_hypercalls(h);
	assert_int_equal(vmm_hv_hypercall(h->hv, 0, 0x1005d, 7, 0), 0);
	host_wrmsr(h, 0, HV_MSR_GUEST_OS_ID, 0);		/* kexec */
	assert_int_equal(host_rdmsr(h, 0, HV_MSR_HYPERCALL), GPA_HYPERCALL);
	assert_int_equal(vmm_hv_hypercall(h->hv, 0, 0x1005d, 7, 0), HV_STATUS_ACCESS_DENIED);
	host_wrmsr(h, 0, HV_MSR_GUEST_OS_ID, 1);
	host_wrmsr(h, 0, HV_MSR_HYPERCALL, GPA_HYPERCALL | 3);
	assert_false(vmm_hv_wrmsr(h->hv, 1, HV_MSR_HYPERCALL, 0));	/* locked */
	assert_int_equal(host_rdmsr(h, 1, HV_MSR_HYPERCALL), GPA_HYPERCALL | 3);
	vmm_hv_reset(h->hv);
	assert_int_equal(host_rdmsr(h, 1, HV_MSR_HYPERCALL), 0);
	assert_int_equal(h->signals, 1);
	host_free(h);
}

/* ---- hypercalls ---------------------------------------------------------------------------------------- */

#define POST HV_CALL_POST_MESSAGE
#define SIGNAL HV_CALL_SIGNAL_EVENT
#define PAGE_END (0x9000u - 256)

static const struct call_case {
	const char *name;
	uint64_t control, input;
	uint32_t connection, type, size;	/* of the block at @input, where there is RAM */
	uint32_t want;
	unsigned posts, signals;
} call_cases[] = {
	{ "message", POST, 0x8000, 4, 1, 40, 18, 1, 0 },
	{ "longest message", POST, 0x8000, 4, 1, 240, 18, 1, 0 },
	{ "empty message", POST, 0x8000, 4, 1, 0, 18, 1, 0 },
	{ "one byte too long", POST, 0x8000, 4, 1, 241, 5, 0, 0 },
	{ "length of all ones", POST, 0x8000, 4, 1, UINT32_MAX, 5, 0, 0 },
	{ "message type 0", POST, 0x8000, 4, 0, 40, 5, 0, 0 },
	{ "message of the hypervisor", POST, 0x8000, 4, 0x80000010, 40, 5, 0, 0 },
	{ "connection id has 24 bits", POST, 0x8000, 0xff000004, 1, 40, 18, 1, 0 },
	{ "fast message", POST | HV_CALL_FAST, 0x8000, 4, 1, 40, 3, 0, 0 },
	{ "block at the end of a page", POST, PAGE_END, 4, 1, 40, 18, 1, 0 },
	{ "block across the end of a page", POST, PAGE_END + 8, 4, 1, 40, 4, 0, 0 },
	{ "block with 8 bytes on its page", POST, 0x9000 - 8, 4, 1, 40, 4, 0, 0 },
	{ "not aligned", POST, 0x8004, 4, 1, 40, 4, 0, 0 },
	{ "last block of RAM", POST, HOST_RAM - 256, 4, 1, 40, 18, 1, 0 },
	{ "behind RAM", POST, HOST_RAM, 0, 0, 0, 5, 0, 0 },
	{ "highest page", POST, UINT64_MAX - 4095, 0, 0, 0, 5, 0, 0 },
	{ "highest block", POST, UINT64_MAX - 255, 0, 0, 0, 5, 0, 0 },
	{ "highest address", POST, UINT64_MAX - 7, 0, 0, 0, 4, 0, 0 },
	{ "variable header", POST | 1u << 17, 0x8000, 4, 1, 40, 3, 0, 0 },
	{ "reserved bit 31", POST | 1u << 31, 0x8000, 4, 1, 40, 3, 0, 0 },
	{ "repetitions", POST | 1ull << 32, 0x8000, 4, 1, 40, 3, 0, 0 },
	{ "reserved bit 44", POST | 1ull << 44, 0x8000, 4, 1, 40, 3, 0, 0 },
	{ "start of repetitions", POST | 1ull << 48, 0x8000, 4, 1, 40, 3, 0, 0 },
	{ "reserved bit 63", POST | 1ull << 63, 0x8000, 4, 1, 40, 3, 0, 0 },
	{ "signal", SIGNAL | HV_CALL_FAST, 4, 0, 0, 0, 0, 0, 1 },
	{ "signal, highest connection", SIGNAL | HV_CALL_FAST, 0xffffff, 0, 0, 0, 0, 0, 1 },
	{ "signal with a flag number", SIGNAL | HV_CALL_FAST, 1ull << 32 | 4, 0, 0, 0, 5, 0, 0 },
	{ "signal with reserved bits", SIGNAL | HV_CALL_FAST, 1ull << 63 | 4, 0, 0, 0, 5, 0, 0 },
	{ "slow signal", SIGNAL, 0x8000, 4, 0, 0, 0, 0, 1 },
	{ "slow signal, last words of RAM", SIGNAL, HOST_RAM - 8, 4, 0, 0, 0, 0, 1 },
	{ "slow signal behind RAM", SIGNAL, HOST_RAM, 0, 0, 0, 5, 0, 0 },
	{ "slow signal, not aligned", SIGNAL, 0x8001, 0, 0, 0, 4, 0, 0 },
	{ "code 0", 0, 0, 0, 0, 0, 2, 0, 0 },
	{ "flush", 2, 0x8000, 0, 0, 0, 2, 0, 0 },
	{ "inter-processor interrupt", 0xb | HV_CALL_FAST, 0xf3, 0, 0, 0, 2, 0, 0 },
	{ "highest code", 0xffff, 0, 0, 0, 0, 2, 0, 0 },
};

static void call(void **state)
{
	const struct call_case *c = *state;
	struct hv_host *h = host_new(&host_ops);
	le32_t block[4] = { le32_make(c->connection), le32_make(0), le32_make(c->type), le32_make(c->size) };
	bool slow = !(c->control & HV_CALL_FAST);

	host_enable_hypercalls(h);
	if (slow && c->input < HOST_RAM) {
		memset(h->ram + (c->input & ~4095ull), 0xa5, 4096);
		memcpy(h->ram + c->input, block, sp_min(sizeof(block), HOST_RAM - c->input));
	}
	assert_int_equal(vmm_hv_hypercall(h->hv, 0, c->control, c->input, 0), c->want);
	assert_int_equal(h->posts, c->posts);
	assert_int_equal(h->signals, c->signals);
	if (c->posts) {
		assert_int_equal(h->connection, 4);
		assert_int_equal(h->posted_len, c->size);
		for (unsigned i = 0; i < c->size; i++)
			assert_int_equal(h->posted[i], 0xa5);
	}
	if (c->signals)
		assert_int_equal(h->connection, slow ? 4 : c->input);
	host_free(h);
}

/* ---- crash --------------------------------------------------------------------------------------------- */

static const struct crash_case {
	const char *name;
	uint64_t gpa, len, control;
	unsigned crashes, want_len;
} crash_cases[] = {
	{ "text", 0x8000, 0xfe6, 3ull << 62, 1, 0xfe6 },
	{ "a page", 0x8000, 4096, 3ull << 62, 1, 4096 },
	{ "longer than a page is cut", 0x8000, 4097, 3ull << 62, 1, 4096 },
	{ "no text", 0x8000, 0xfe6, 1ull << 63, 1, 0 },
	{ "empty text", 0x8000, 0, 3ull << 62, 1, 0 },
	{ "text at the end of RAM", HOST_RAM - 16, 16, 3ull << 62, 1, 16 },
	{ "text across the end of RAM", HOST_RAM - 16, 17, 3ull << 62, 1, 0 },
	{ "text nowhere", UINT64_MAX - 15, 64, 3ull << 62, 1, 0 },
	{ "endless text", 0, UINT64_MAX, 3ull << 62, 1, 4096 },
	{ "no crash", 0x8000, 16, 1ull << 62, 0, 0 },
};

static void crash(void **state)
{
	const struct crash_case *c = *state;
	struct hv_host *h = host_new(&host_ops);

	memset(h->ram, 'x', HOST_RAM);
	host_wrmsr(h, 1, HV_MSR_CRASH_P0, 11);
	host_wrmsr(h, 1, HV_MSR_CRASH_P0 + 3, c->gpa);
	host_wrmsr(h, 1, HV_MSR_CRASH_P4, c->len);
	host_wrmsr(h, 1, HV_MSR_CRASH_CTL, c->control);
	assert_int_equal(h->crashes, c->crashes);
	assert_int_equal(h->crash_len, c->want_len);
	assert_int_equal(strlen(h->crash_text), c->want_len);
	if (c->crashes)
		assert_int_equal(h->crash_param[0], 11);
	host_free(h);
}

/* ---- time ---------------------------------------------------------------------------------------------- */

static uint64_t page_time(struct hv_host *h)
{
	struct { uint32_t sequence, reserved; uint64_t scale, offset; } p;

	memcpy(&p, h->ram + GPA_TSC, sizeof(p));
	assert_int_equal(p.sequence, 1);
	return (uint64_t)((unsigned __int128)host_tsc(h, 0) * p.scale >> 64) + p.offset;
}

/* What the counter said before and after holds what the page says; both advance with the TSC. */
static void reference_time(void **state)
{
	struct hv_host *h = host_new(&host_ops);
	uint64_t ticks = __rdtsc(), first, before, page, after;

	host_wrmsr(h, 0, HV_MSR_REFERENCE_TSC, GPA_TSC | 1);
	first = host_rdmsr(h, 0, HV_MSR_TIME_REF_COUNT);
	assert_true(first < 10 * 10000000);		/* since power on */
	while (__rdtsc() - ticks < HOST_TSC_HZ / 100)
		;
	for (unsigned i = 0; i < 1000; i++) {
		before = host_rdmsr(h, 0, HV_MSR_TIME_REF_COUNT);
		page = page_time(h);
		after = vmm_hv_reference_time(h->hv);
		/* Enabling takes two readings, one after the other: that much apart. */
		assert_in_range(page, before - 10000, after + 10000);
		assert_true(after >= before);
	}
	assert_true(after - first >= 100000);
	host_free(h);
}

static void no_reference_page(void **state)
{
	struct vmm_hv_ops ops = host_ops;
	struct hv_host *h;

	ops.tsc = NULL;
	h = host_new(&ops);
	memset(h->ram + GPA_TSC, 0x55, 4096);
	host_wrmsr(h, 0, HV_MSR_REFERENCE_TSC, GPA_TSC | 1);
	for (unsigned i = 0; i < 4096; i++)
		assert_int_equal(h->ram[GPA_TSC + i], 0);
	assert_true(host_rdmsr(h, 0, HV_MSR_TIME_REF_COUNT) < 10 * 10000000);
	host_free(h);
}

/* ---- CPUID, life --------------------------------------------------------------------------------------- */

static const struct leaf_case {
	const char *name;
	bool invariant;
	uint32_t function, eax, ebx, ecx, edx;
} leaf_cases[] = {
	{ "signature", true, 0x40000000, 0x40000005, 0x7263694d, 0x666f736f, 0x76482074 },
	{ "interface", true, 0x40000001, 0x31237648, 0, 0, 0 },
	{ "version", true, 0x40000002, 17763, 0x000a0000, 0, 0 },
	{ "privileges", true, 0x40000003, 0x8a66, 0x30, 0, 0x500 },
	{ "privileges without invariant TSC", false, 0x40000003, 0x0a66, 0x30, 0, 0x500 },
	{ "hints", true, 0x40000004, 0x220, UINT32_MAX, 0, 0 },
	{ "limits", true, 0x40000005, 3, 3, 0, 0 },
};

static void leaf(void **state)
{
	const struct leaf_case *c = *state;
	struct vmm_hv_opts opts = { .vps = 3, .invariant_tsc = c->invariant };
	struct vmm_cpuid_leaf leaves[8];
	unsigned n = vmm_hv_cpuid(&opts, leaves), found = 0;

	assert_int_equal(n, 6);
	for (unsigned i = 0; i < n; i++) {
		if (leaves[i].function != c->function)
			continue;
		found++;
		assert_int_equal(leaves[i].eax, c->eax);
		assert_int_equal(leaves[i].ebx, c->ebx);
		assert_int_equal(leaves[i].ecx, c->ecx);
		assert_int_equal(leaves[i].edx, c->edx);
	}
	assert_int_equal(found, 1);
}

static void no_invariant_tsc(void **state)
{
	struct hv_host *h = host_new(&host_ops);
	struct vmm_hv_opts opts = { .vps = 1, .tsc_hz = HOST_TSC_HZ };
	uint64_t value;

	vmm_hv_free(h->hv);
	assert_int_equal(vmm_hv_new(&opts, h->memory, &host_ops, h, &h->hv, NULL), 0);
	assert_false(vmm_hv_rdmsr(h->hv, 0, HV_MSR_TSC_INVARIANT, &value));
	assert_false(vmm_hv_wrmsr(h->hv, 0, HV_MSR_TSC_INVARIANT, 1));
	host_free(h);
}

static void bounds_of_processors(void **state)
{
	struct hv_host *h = host_new(&host_ops);
	struct vmm_hv_opts opts = { .vps = 0 };
	struct vmm_hv *hv;

	assert_int_equal(vmm_hv_new(&opts, h->memory, &host_ops, h, &hv, NULL), -EINVAL);
	opts.vps = 65;
	assert_int_equal(vmm_hv_new(&opts, h->memory, &host_ops, h, &hv, NULL), -EINVAL);
	opts.vps = 64;
	assert_int_equal(vmm_hv_new(&opts, h->memory, &host_ops, h, &hv, NULL), 0);
	vmm_hv_free(hv);
	host_free(h);
}

static const struct single_row singles[] = {
	{ "two pages on one frame", shared_pages },
	{ "what stands in the pages", page_contents },
	{ "hypercall page: on, off, locked", hypercall_page_states },
	{ "counter and page are one clock", reference_time },
	{ "no TSC to tell: the page is not valid", no_reference_page },
	{ "TSC is not invariant", no_invariant_tsc },
	{ "1 to 64 processors", bounds_of_processors },
};

int main(void)
{
	return ROWS_RUN(msr_cases, msr) + ROWS_RUN(pfn_cases, pfn) + ROWS_RUN(call_cases, call) +
	       ROWS_RUN(crash_cases, crash) + ROWS_RUN(leaf_cases, leaf) + ROWS_RUN(singles, rows_single);
}
