/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * IDT and x2APIC.
 */
#include "tests/bare/bare.h"

#define MSR_APIC_BASE 0x1bu
#define APIC_BASE_X2APIC (1u << 10 | 1u << 11)
#define MSR_X2APIC_ID 0x802u
#define MSR_X2APIC_EOI 0x80bu
#define MSR_X2APIC_SPURIOUS 0x80fu
#define MSR_X2APIC_ICR 0x830u
#define CODE_SEGMENT 0x10u
#define GATE_INTERRUPT 0x8e00u

struct gate {
	uint16_t offset_low, selector, flags, offset_middle;
	uint32_t offset_high, reserved;
};

struct frame { uint64_t rip, cs, rflags, rsp, ss; };

extern uint64_t fault_resume;			/* start.S */
void hv_interrupt(void);			/* hv.c */

static struct gate idt[256] __attribute__((aligned(16)));

static __attribute__((interrupt)) void on_callback(struct frame *frame)
{
	hv_interrupt();
	apic_eoi();
}

static __attribute__((interrupt)) void on_protection_fault(struct frame *frame, uint64_t code)
{
	if (!fault_resume) {
		print("FAILED: #GP at %lx, code %lx\n", frame->rip, code);
		power_off();
	}
	frame->rip = fault_resume;
	fault_resume = 0;
}

static __attribute__((interrupt)) void on_fault_with_code(struct frame *frame, uint64_t code)
{
	print("FAILED: exception at %lx, code %lx\n", frame->rip, code);
	power_off();
}

static __attribute__((interrupt)) void on_fault(struct frame *frame)
{
	print("FAILED: exception at %lx\n", frame->rip);
	power_off();
}

static void set_gate(unsigned vector, uint64_t handler)
{
	idt[vector] = (struct gate){
		.offset_low = (uint16_t)handler, .selector = CODE_SEGMENT, .flags = GATE_INTERRUPT,
		.offset_middle = (uint16_t)(handler >> 16), .offset_high = (uint32_t)(handler >> 32),
	};
}

static void fill_idt(void)
{
	for (unsigned i = 0; i < 32; i++)
		set_gate(i, i == 8 || (i >= 10 && i <= 14) || i == 17 ? (uint64_t)on_fault_with_code :
			 (uint64_t)on_fault);
	set_gate(13, (uint64_t)on_protection_fault);
	set_gate(HV_CALLBACK_VECTOR, (uint64_t)on_callback);
}

void apic_start(void)
{
	struct { uint16_t limit; uint64_t base; } __attribute__((packed)) pointer = { sizeof(idt) - 1, (uint64_t)idt };

	if (!idt[0].selector)
		fill_idt();
	__asm__ volatile("lidt %0" : : "m"(pointer));
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_BASE_X2APIC);
	wrmsr(MSR_X2APIC_SPURIOUS, 0x1ff);		/* on; spurious vector 0xff */
}

unsigned apic_id(void)
{
	return (unsigned)rdmsr(MSR_X2APIC_ID);
}

void apic_send(uint32_t to, uint32_t command)
{
	wrmsr(MSR_X2APIC_ICR, (uint64_t)to << 32 | command);
}

void apic_eoi(void)
{
	wrmsr(MSR_X2APIC_EOI, 0);
}
