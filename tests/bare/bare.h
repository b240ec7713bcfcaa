/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_BARE_H
#define SPINDLE_TESTS_BARE_H
/*
 * A guest without an OS: what its scenarios (main_*.c) share. 64-bit, identity mapped, no floating point, interrupts
 * only where hv_wait_*() halts. Everything here is small, because some hosts emulate each instruction.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BARE_CPUS_MAX 8u
#define PORT_CONSOLE 0x3f8u
#define PORT_SLEEP 0x600u
#define PORT_RESET 0x602u

/* ---- the processor ----------------------------------------------------------------------------------- */

static inline void outb(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outl(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return (uint64_t)high << 32 | low;
}

static inline void wrmsr(uint32_t msr, uint64_t value)
{
	__asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

struct cpuid { uint32_t eax, ebx, ecx, edx; };

static inline struct cpuid cpuid(uint32_t function, uint32_t index)
{
	struct cpuid r;

	__asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(function), "c"(index));
	return r;
}

static inline uint64_t rdtsc(void)
{
	uint32_t low, high;

	__asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

static inline void relax(void)
{
	__asm__ volatile("pause" : : : "memory");
}

/* start.S. False: the access raised #GP. One processor at a time. */
bool rdmsr_try(uint32_t msr, uint64_t *ret_value);
bool wrmsr_try(uint32_t msr, uint64_t value);

/* ---- print.c: lines on COM1 -------------------------------------------------------------------------- */

/* Knows %s %u %x (32 bits), %lx %lu (64 bits) and %%. One processor at a time. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The scenario goes on after a failed check, which the host sees. */
void check(bool ok, const char *what);
#define CHECK(condition) check((condition), #condition)
_Noreturn void power_off(void);

/* ---- apic.c ------------------------------------------------------------------------------------------ */

void apic_start(void);			/* on each processor: IDT, x2APIC */
unsigned apic_id(void);
void apic_send(uint32_t to, uint32_t command);	/* the ICR of x2APIC */
void apic_eoi(void);
/* Interrupts on, until one came; off again. Call with interrupts off, after looking whether there is work. */
static inline void halt(void)
{
	__asm__ volatile("sti; hlt; cli" : : : "memory");
}

/* Those that wait now. A KVM that emulates looks for them when it comes back from an exit only. */
static inline void take_interrupts(void)
{
	__asm__ volatile("sti; outb %%al, $0x80; nop; cli" : : : "memory");
}

/* ---- smp.c ------------------------------------------------------------------------------------------- */

/* INIT, SIPI; returns when @run has begun. */
void smp_start(unsigned cpu, void (*run)(unsigned cpu));

/* ---- hv.c: Hyper-V ----------------------------------------------------------------------------------- */

#define HV_CALLBACK_VECTOR 0xf3u
#define HV_CALL_POST_MESSAGE 0x5cu
#define HV_CALL_SIGNAL_EVENT 0x5du
#define HV_CALL_FAST 0x10000u

void hv_start(void);				/* identity and hypercall page */
uint32_t hv_hypercall(uint64_t control, uint64_t input, uint64_t output);
uint32_t hv_post_message(uint32_t connection_id, const void *payload, unsigned len);
void hv_signal(uint32_t connection_id);		/* never leaves the host's kernel */
void hv_synic_start(void);			/* on each processor */
/* A message of this processor, if there is one: its length, or -1. */
int hv_message_get(void *payload);
unsigned hv_message_wait(void *payload);	/* halts until there is one */
bool hv_event_get(unsigned flag);		/* and clears it */
void hv_event_wait(unsigned flag);
unsigned hv_interrupts(unsigned cpu);		/* so far */
uint64_t hv_time(void);				/* 100 ns units, by the reference TSC page */

#endif
