/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest's side of the Hyper-V surface, as an operating system's driver does it.
 */
#include "tests/bare/bare.h"

#define MSR_GUEST_OS_ID 0x40000000u
#define MSR_HYPERCALL 0x40000001u
#define MSR_REFERENCE_TSC 0x40000021u
#define MSR_SCONTROL 0x40000080u
#define MSR_SIEFP 0x40000082u
#define MSR_SIMP 0x40000083u
#define MSR_EOM 0x40000084u
#define MSR_SINT2 0x40000092u
#define OS_ID 0x8100000000000001ull		/* open source, nothing known */
#define SLOT 0x200u				/* SINT2, in both pages */
#define PAYLOAD_MAX 240u

struct message {
	volatile uint32_t type;
	uint8_t size;
	volatile uint8_t flags;
	uint16_t reserved;
	uint64_t sender;
	uint8_t payload[PAYLOAD_MAX];
};

struct post_input {
	uint32_t connection_id, reserved, type, size;
	uint8_t payload[PAYLOAD_MAX];
};

typedef uint8_t page[4096] __attribute__((aligned(4096)));

static page hypercall_page, tsc_page, input_page[BARE_CPUS_MAX], message_page[BARE_CPUS_MAX], event_page[BARE_CPUS_MAX];
static volatile unsigned interrupts[BARE_CPUS_MAX];

void *memcpy(void *restrict to, const void *restrict from, size_t len);
void hv_interrupt(void);

void hv_interrupt(void)
{
	interrupts[apic_id()]++;
}

unsigned hv_interrupts(unsigned cpu)
{
	return interrupts[cpu];
}

void hv_start(void)
{
	wrmsr(MSR_GUEST_OS_ID, OS_ID);
	wrmsr(MSR_HYPERCALL, (uint64_t)hypercall_page | 1);
	wrmsr(MSR_REFERENCE_TSC, (uint64_t)tsc_page | 1);
}

uint32_t hv_hypercall(uint64_t control, uint64_t input, uint64_t output)
{
	register uint64_t r8 __asm__("r8") = output;
	uint64_t status;

	__asm__ volatile("call *%[page]"
			 : "=a"(status), "+c"(control), "+d"(input), "+r"(r8)
			 : [page] "r"((uint64_t)hypercall_page)
			 : "r9", "r10", "r11", "cc", "memory");
	return (uint32_t)status;
}

uint32_t hv_post_message(uint32_t connection_id, const void *payload, unsigned len)
{
	struct post_input *input = (void *)input_page[apic_id()];

	input->connection_id = connection_id;
	input->reserved = 0;
	input->type = 1;
	input->size = len;
	memcpy(input->payload, payload, len);
	return hv_hypercall(HV_CALL_POST_MESSAGE, (uint64_t)input, 0);
}

void hv_signal(uint32_t connection_id)
{
	hv_hypercall(HV_CALL_FAST | HV_CALL_SIGNAL_EVENT, connection_id, 0);
}

void hv_synic_start(void)
{
	unsigned cpu = apic_id();

	wrmsr(MSR_SIMP, (uint64_t)message_page[cpu] | 1);
	wrmsr(MSR_SIEFP, (uint64_t)event_page[cpu] | 1);
	wrmsr(MSR_SINT2, HV_CALLBACK_VECTOR);
	wrmsr(MSR_SCONTROL, 1);
}

/* The slot is given back before the flag is looked at: the host sets the flag before it looks at the slot again. */
int hv_message_get(void *payload)
{
	struct message *m = (void *)(message_page[apic_id()] + SLOT);
	int len;

	if (m->type == 0)
		return -1;
	len = m->size;
	memcpy(payload, m->payload, (size_t)len);
	__atomic_exchange_n(&m->type, 0, __ATOMIC_SEQ_CST);
	if (m->flags & 1)
		wrmsr(MSR_EOM, 0);
	return len;
}

unsigned hv_message_wait(void *payload)
{
	int len;

	while ((len = hv_message_get(payload)) < 0)
		halt();
	return (unsigned)len;
}

bool hv_event_get(unsigned flag)
{
	uint32_t *word = (void *)(event_page[apic_id()] + SLOT + flag / 32 * 4), bit = 1u << flag % 32;

	return __atomic_fetch_and(word, ~bit, __ATOMIC_SEQ_CST) & bit;
}

void hv_event_wait(unsigned flag)
{
	while (!hv_event_get(flag))
		halt();
}

uint64_t hv_time(void)
{
	const volatile uint64_t *p = (void *)tsc_page;

	return (uint64_t)((unsigned __int128)rdtsc() * p[1] >> 64) + p[2];
}
