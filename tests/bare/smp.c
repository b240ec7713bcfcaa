/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The other processors, one after the other.
 */
#include "tests/bare/bare.h"

#define TRAMPOLINE 0x8000u		/* as in start.S */
#define STACK 16384u
#define ICR_INIT 0x4500u
#define ICR_STARTUP 0x4600u

extern const char trampoline[], trampoline_end[];
extern uint64_t trampoline_stack, trampoline_entry;
void *memcpy(void *restrict to, const void *restrict from, size_t len);

static char stack[BARE_CPUS_MAX][STACK] __attribute__((aligned(16)));
static void (*job)(unsigned cpu);
static volatile bool running;

static void entry(void)
{
	void (*run)(unsigned cpu) = job;

	apic_start();
	running = true;
	run(apic_id());
	for (;;)
		__asm__ volatile("cli; hlt");
}

void smp_start(unsigned cpu, void (*run)(unsigned cpu))
{
	uint64_t began = rdtsc();

	memcpy((void *)(uintptr_t)TRAMPOLINE, trampoline, (size_t)(trampoline_end - trampoline));
	trampoline_stack = (uint64_t)stack[cpu] + STACK - 8;	/* as a call would leave it */
	trampoline_entry = (uint64_t)entry;
	job = run;
	running = false;
	apic_send(cpu, ICR_INIT);
	apic_send(cpu, ICR_STARTUP | TRAMPOLINE >> 12);
	while (!running) {
		relax();
		if (rdtsc() - began > 20000000000ull) {		/* some seconds, on any machine */
			print("FAILED: processor %u does not start\n", cpu);
			return;
		}
	}
}
