/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The first processor comes in long mode on the host's page tables; the others in real mode at TRAMPOLINE, on the
 * same tables.
 */
#define TRAMPOLINE 0x8000
#define STACK 16384

	.section .text.start, "ax"
	.globl _start
_start:
	lgdt	gdt_pointer(%rip)
	mov	$boot_stack + STACK, %rsp
	xor	%ebp, %ebp
	mov	%cr3, %rax
	mov	%rax, trampoline_cr3(%rip)
	call	main
	call	power_off

	.text
/* bool rdmsr_try(uint32_t msr, uint64_t *ret_value) */
	.globl rdmsr_try
rdmsr_try:
	movq	$access_fault, fault_resume(%rip)
	mov	%edi, %ecx
	rdmsr
	mov	%eax, (%rsi)
	mov	%edx, 4(%rsi)
	jmp	access_fine

/* bool wrmsr_try(uint32_t msr, uint64_t value) */
	.globl wrmsr_try
wrmsr_try:
	movq	$access_fault, fault_resume(%rip)
	mov	%edi, %ecx
	mov	%esi, %eax
	mov	%rsi, %rdx
	shr	$32, %rdx
	wrmsr
access_fine:
	movq	$0, fault_resume(%rip)
	mov	$1, %eax
	ret
access_fault:
	xor	%eax, %eax
	ret

	.data
	.balign 8
	.globl fault_resume
fault_resume:			/* where #GP goes on instead, once; 0: it is a defect */
	.quad	0
gdt:
	.quad	0, 0
	.quad	0x00af9b000000ffff	/* 0x10: 64-bit code */
	.quad	0x00cf93000000ffff	/* 0x18: data */
	.quad	0x00cf9b000000ffff	/* 0x20: 32-bit code */
gdt_pointer:
	.word	gdt_pointer - gdt - 1
	.quad	gdt

/* Copied to TRAMPOLINE. The 16-bit part reaches its data through its own segment, which is TRAMPOLINE >> 4. */
	.globl trampoline, trampoline_end, trampoline_stack, trampoline_entry
trampoline:
	.code16
	cli
	mov	%cs, %ax
	mov	%ax, %ds
	lgdtl	trampoline_gdt_pointer - trampoline
	mov	$1, %eax		/* PE */
	mov	%eax, %cr0
	ljmpl	$0x20, $(TRAMPOLINE + trampoline32 - trampoline)
	.code32
trampoline32:
	mov	$0x18, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	$0x20, %eax		/* PAE */
	mov	%eax, %cr4
	mov	trampoline_cr3, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx	/* EFER: LME */
	mov	$0x100, %eax
	xor	%edx, %edx
	wrmsr
	mov	$0x80000011, %eax	/* PG, ET, PE */
	mov	%eax, %cr0
	ljmpl	$0x10, $trampoline64
	.balign 8
trampoline_gdt_pointer:
	.word	gdt_pointer - gdt - 1
	.long	gdt
trampoline_end:
	.code64
	.text
trampoline64:
	mov	trampoline_stack(%rip), %rsp
	xor	%ebp, %ebp
	jmp	*trampoline_entry(%rip)

	.data
	.balign 8
trampoline_cr3:
	.quad	0
trampoline_stack:
	.quad	0
trampoline_entry:
	.quad	0

	.bss
	.balign 16
boot_stack:
	.skip	STACK

	.section .note.GNU-stack, "", @progbits
