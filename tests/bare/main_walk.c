/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Walks through the Hyper-V surface, step by step, from CPUID leaves to a second processor. The host (bare.c) knows
 * which lines to expect.
 */
#include "tests/bare/bare.h"
#include "tests/bare/walk.h"

#define MSR_VP_INDEX 0x40000002u
#define MSR_TIME_REF_COUNT 0x40000020u
#define MSR_TSC_FREQUENCY 0x40000022u
#define MSR_APIC_FREQUENCY 0x40000023u
#define MSR_UNKNOWN 0x40000199u
#define MSR_HYPERCALL 0x40000001u
#define MSR_SVERSION 0x40000081u
#define MSR_SINT2 0x40000092u
#define STATUS_INVALID_CODE 2u
#define STATUS_ALIGNMENT 4u
#define MILLISECOND 10000u			/* of reference time */

static volatile bool second_is_done;

static void cpuid_leaves(void)
{
	struct cpuid r = cpuid(0x40000000, 0);
	char name[13] = "";

	__builtin_memcpy(name, &r.ebx, 4);
	__builtin_memcpy(name + 4, &r.ecx, 4);
	__builtin_memcpy(name + 8, &r.edx, 4);
	print("cpuid: %s, up to %x\n", name, r.eax);
	CHECK(cpuid(1, 0).ecx >> 31 & 1);
	CHECK(cpuid(1, 0).ebx >> 24 == 0);
	CHECK((cpuid(0x40000003, 0).eax & 0xa66) == 0xa66);
	CHECK(cpuid(0x40000004, 0).eax == 0x220);
	CHECK(cpuid(0x40000100, 0).ebx != 0x4b4d564b);		/* KVM's own */
	print("processors: %u\n", cpuid(0x40000005, 0).eax);
}

static void msrs(void)
{
	uint64_t value;

	CHECK(rdmsr(MSR_VP_INDEX) == 0);
	CHECK(rdmsr(MSR_SVERSION) == 1);
	CHECK(rdmsr(MSR_SINT2) == 0x10000);
	CHECK(rdmsr(MSR_TSC_FREQUENCY) > 10000000);
	CHECK(rdmsr(MSR_APIC_FREQUENCY) == 1000000000);
	CHECK(!rdmsr_try(MSR_UNKNOWN, &value));
	CHECK(!wrmsr_try(MSR_VP_INDEX, 1));
	CHECK(!wrmsr_try(MSR_SINT2, 5));
	CHECK(wrmsr_try(MSR_SINT2, 0x10000));
	print("msrs\n");
}

static void hypercalls(void)
{
	hv_start();
	CHECK(rdmsr(MSR_HYPERCALL) & 1);
	CHECK(hv_hypercall(0x7fff, 0, 0) == STATUS_INVALID_CODE);
	CHECK(hv_hypercall(HV_CALL_POST_MESSAGE, 4, 0) == STATUS_ALIGNMENT);
	CHECK(hv_post_message(WALK_NOBODY, "", 0) == WALK_NOBODY_STATUS);
	print("hypercalls\n");
}

/* Asks the host for messages to this processor, and takes them in their order. */
static void messages(unsigned cpu, unsigned count)
{
	struct walk_request request = { .vp = cpu, .count = count };
	struct walk_reply reply;
	unsigned before = hv_interrupts(cpu);

	CHECK(hv_post_message(WALK_MESSAGES, &request, sizeof(request)) == 0);
	for (unsigned i = 0; i < count; i++) {
		uint8_t payload[240];

		take_interrupts();
		CHECK(hv_message_wait(payload) == sizeof(reply));
		__builtin_memcpy(&reply, payload, sizeof(reply));
		CHECK(reply.number == i);
	}
	CHECK(hv_interrupts(cpu) == before + count);		/* each has its own */
	CHECK(hv_message_get(&reply) < 0);
	print("messages on %u: %u\n", cpu, count);
}

static void signals(void)
{
	hv_signal(WALK_BOUND);
	hv_event_wait(WALK_BOUND);
	hv_signal(WALK_UNBOUND);
	hv_event_wait(WALK_UNBOUND);
	print("signals\n");
}

/* The counter and the page, read one after the other, are one clock. */
static void reference_time(void)
{
	for (unsigned i = 0; i < 3; i++) {
		uint64_t before = rdmsr(MSR_TIME_REF_COUNT), page = hv_time(), after = rdmsr(MSR_TIME_REF_COUNT);

		CHECK(page + MILLISECOND / 10 >= before);
		CHECK(page <= after + MILLISECOND / 10);
	}
	print("reference time\n");
}

static void second(unsigned cpu)
{
	CHECK(cpu == 1);
	CHECK(rdmsr(MSR_VP_INDEX) == cpu);
	CHECK(cpuid(1, 0).ebx >> 24 == cpu);
	hv_synic_start();
	messages(cpu, 2);
	second_is_done = true;
}

int main(void);

int main(void)
{
	print("walk\n");
	apic_start();
	cpuid_leaves();
	msrs();
	hypercalls();
	hv_synic_start();
	messages(0, 1);
	messages(0, 5);
	signals();
	reference_time();
	smp_start(1, second);
	while (!second_is_done)
		relax();
	print("done\n");
	return 0;
}
