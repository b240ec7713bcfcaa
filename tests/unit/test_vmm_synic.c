/* SPDX-License-Identifier: BSD-2-Clause */
/* SynIC: messages and event flags, step by step, and with a guest and senders in threads of their own. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>

#include "base/env.h"
#include "tests/unit/hv_host.h"

/* ---- step by step -------------------------------------------------------------------------------------- */

#define WORDS (VMBUS_MESSAGE_MAX / 4)
#define TORN UINT32_MAX

/* A message is its number, over and over. */
static int try_post(struct hv_host *h, unsigned vp, uint32_t number)
{
	uint32_t payload[WORDS];

	for (unsigned i = 0; i < WORDS; i++)
		payload[i] = number;
	return vmm_hv_post(h->hv, vp, payload, sizeof(payload));
}

static void post(struct hv_host *h, unsigned vp, uint32_t number)
{
	assert_int_equal(try_post(h, vp, number), 0);
}

/* What a guest finds in the slot; 0: nothing. */
static uint32_t number_in(struct hv_host *h, unsigned vp)
{
	const uint8_t *slot = host_slot(h, vp);
	uint32_t type = vmbus_load32_acquire(slot), word[WORDS];
	uint8_t size;

	if (type == 0)
		return 0;
	vmbus_copy_in(&size, slot + 4, 1);
	vmbus_copy_in(word, slot + 16, sizeof(word));
	for (unsigned i = 1; i < WORDS; i++)
		if (word[i] != word[0])
			return TORN;
	return type == 1 && size == sizeof(word) ? word[0] : TORN;
}

/* As a guest's driver: frees the slot, then looks at the flag. Whether EOM is due. */
static bool free_slot(struct hv_host *h, unsigned vp)
{
	uint8_t *slot = host_slot(h, vp);

	__atomic_exchange_n((uint32_t *)(void *)slot, 0, __ATOMIC_SEQ_CST);
	return __atomic_load_n(slot + 5, __ATOMIC_SEQ_CST) & HV_MESSAGE_PENDING;
}

static void eom(struct hv_host *h, unsigned vp)
{
	host_wrmsr(h, vp, HV_MSR_EOM, 0);
}

static void one_message(void **state)
{
	struct hv_host *h = host_new(&host_ops);
	uint8_t *slot = host_slot(h, 1);

	host_enable_synic(h, 1);
	memset(slot + 8, 0xee, 248);
	post(h, 1, 7);
	assert_int_equal(number_in(h, 1), 7);
	assert_int_equal(slot[5] | slot[6] | slot[7], 0);
	for (unsigned i = 8; i < 16; i++)
		assert_int_equal(slot[i], 0);
	assert_int_equal(slot[256], 0);
	assert_int_equal(h->injected[1], 1);
	assert_int_equal(h->injected[0], 0);
	assert_int_equal(h->vector, VECTOR);
	assert_false(free_slot(h, 1));
	host_free(h);
}

/* A short message leaves nothing of ours or of the guest's behind it. */
static void short_message(void **state)
{
	struct hv_host *h = host_new(&host_ops);
	uint8_t *slot = host_slot(h, 0);

	host_enable_synic(h, 0);
	memset(slot + 16, 0xee, 240);
	assert_int_equal(vmm_hv_post(h->hv, 0, "abc", 3), 0);
	assert_int_equal(slot[4], 3);
	assert_memory_equal(slot + 16, "abc", 3);
	for (unsigned i = 19; i < 256; i++)
		assert_int_equal(slot[i], 0);
	host_free(h);
}

static void in_order(void **state)
{
	struct hv_host *h = host_new(&host_ops);

	host_enable_synic(h, 0);
	for (uint32_t i = 1; i <= 3; i++)
		post(h, 0, i);
	assert_int_equal(number_in(h, 0), 1);
	assert_int_equal(h->injected[0], 1);
	eom(h, 0);					/* out of turn: the slot is taken */
	assert_int_equal(number_in(h, 0), 1);
	for (uint32_t i = 2; i <= 3; i++) {
		assert_true(free_slot(h, 0));
		eom(h, 0);
		assert_int_equal(number_in(h, 0), i);
		assert_int_equal(h->injected[0], i);
	}
	assert_false(free_slot(h, 0));			/* the last one: no EOM */
	eom(h, 0);
	assert_int_equal(number_in(h, 0), 0);
	assert_int_equal(h->injected[0], 3);
	host_free(h);
}

/* A slot that was freed takes the next message at once, behind those that wait. */
static void freed_before_post(void **state)
{
	struct hv_host *h = host_new(&host_ops);

	host_enable_synic(h, 0);
	post(h, 0, 1);
	free_slot(h, 0);
	post(h, 0, 2);
	assert_int_equal(number_in(h, 0), 2);
	post(h, 0, 3);
	free_slot(h, 0);				/* and no EOM yet */
	post(h, 0, 4);
	assert_int_equal(number_in(h, 0), 3);
	assert_true(free_slot(h, 0));
	eom(h, 0);
	assert_int_equal(number_in(h, 0), 4);
	assert_int_equal(h->injected[0], 4);
	host_free(h);
}

static const struct off_case { const char *name; uint32_t msr; uint64_t off, on; } off_cases[] = {
	{ "SCONTROL", HV_MSR_SCONTROL, 0, 1 },
	{ "SIMP", HV_MSR_SIMP, GPA_MESSAGES(0), GPA_MESSAGES(0) | 1 },
	{ "SINT2 masked", HV_MSR_SINT0 + 2, 0x100f3, 0xf3 },
};

/* Messages wait for what is off; nothing is lost, nothing is written meanwhile. */
static void queued_while_off(void **state)
{
	const struct off_case *c = *state;
	struct hv_host *h = host_new(&host_ops);

	host_enable_synic(h, 0);
	host_wrmsr(h, 0, c->msr, c->off);
	post(h, 0, 1);
	post(h, 0, 2);
	assert_int_equal(number_in(h, 0), 0);
	assert_int_equal(h->injected[0], 0);
	host_wrmsr(h, 0, c->msr, c->on);
	assert_int_equal(number_in(h, 0), 1);
	assert_int_equal(h->injected[0], 1);
	assert_true(free_slot(h, 0));
	eom(h, 0);
	assert_int_equal(number_in(h, 0), 2);
	host_free(h);
}

static void polling(void **state)
{
	struct hv_host *h = host_new(&host_ops);

	host_enable_synic(h, 0);
	host_wrmsr(h, 0, HV_MSR_SINT0 + 2, HV_SINT_POLLING | VECTOR);
	post(h, 0, 1);
	vmm_hv_set_event(h->hv, 0, 3);
	assert_int_equal(number_in(h, 0), 1);
	assert_int_equal(h->ram[GPA_EVENTS(0) + SLOT_AT], 8);
	assert_int_equal(h->injected[0], 0);
	host_free(h);
}

static void queue_is_bounded(void **state)
{
	struct hv_host *h = host_new(&host_ops);
	uint8_t payload[VMBUS_MESSAGE_MAX + 1] = { 0 };
	uint32_t n = 0;

	assert_int_equal(vmm_hv_post(h->hv, 2, payload, 8), -EINVAL);
	assert_int_equal(vmm_hv_post(h->hv, 0, payload, sizeof(payload)), -EINVAL);
	while (n < 100000) {
		if (try_post(h, 0, n + 1) == -ENOSPC)
			break;
		n++;
	}
	assert_int_equal(n, HV_QUEUE);
	host_enable_synic(h, 0);
	post(h, 0, n + 1);				/* room again */
	for (uint32_t i = 1; i <= n + 1; i++) {
		assert_int_equal(number_in(h, 0), i);
		assert_int_equal(free_slot(h, 0), i <= n);
		eom(h, 0);
	}
	host_free(h);
}

static void reset_forgets(void **state)
{
	struct hv_host *h = host_new(&host_ops);

	host_enable_synic(h, 0);
	post(h, 0, 1);
	post(h, 0, 2);
	vmm_hv_reset(h->hv);
	assert_int_equal(vmm_memory_clear(h->memory), 0);
	assert_int_equal(host_rdmsr(h, 0, HV_MSR_SIMP), 0);
	assert_int_equal(host_rdmsr(h, 0, HV_MSR_SINT0 + 2), 0x10000);
	vmm_hv_set_event(h->hv, 0, 3);
	host_enable_synic(h, 0);
	assert_int_equal(number_in(h, 0), 0);
	post(h, 0, 3);
	assert_int_equal(number_in(h, 0), 3);
	host_free(h);
}

/* The slot is the guest's: whatever it writes there, we only ever write messages into it. */
static void hostile_slot(void **state)
{
	struct hv_host *h = host_new(&host_ops);

	host_enable_synic(h, 0);
	memset(h->ram + GPA_MESSAGES(0), 0xff, 4096);
	post(h, 0, 1);
	for (unsigned i = 0; i < 1000; i++)
		eom(h, 0);
	for (unsigned i = 0; i < 4096; i++)
		assert_int_equal(h->ram[GPA_MESSAGES(0) + i], 0xff);
	assert_int_equal(h->injected[0], 0);
	free_slot(h, 0);
	eom(h, 0);
	assert_int_equal(number_in(h, 0), 1);
	assert_int_equal(h->ram[GPA_MESSAGES(0) + SLOT_AT - 1], 0xff);
	assert_int_equal(h->ram[GPA_MESSAGES(0) + SLOT_AT + 256], 0xff);
	host_free(h);
}

static const struct flag_case { const char *name; unsigned vp, flag; bool ok; } flag_cases[] = {
	{ "first", 0, 0, true },
	{ "last of a word", 0, 31, true },
	{ "first of the next", 1, 32, true },
	{ "last", 1, 2047, true },
	{ "behind the last", 0, 2048, false },
	{ "highest", 0, UINT32_MAX, false },
	{ "no such processor", 2, 1, false },
};

static void event_flag(void **state)
{
	const struct flag_case *c = *state;
	struct hv_host *h = host_new(&host_ops);
	uint8_t want[4096] = { 0 };

	host_enable_synic(h, 0);
	host_enable_synic(h, 1);
	vmm_hv_set_event(h->hv, c->vp, c->flag);
	vmm_hv_set_event(h->hv, c->vp, c->flag);	/* is set already: no second interrupt */
	if (c->ok) {
		want[SLOT_AT + c->flag / 8] = (uint8_t)(1u << c->flag % 8);
		assert_memory_equal(h->ram + GPA_EVENTS(c->vp), want, sizeof(want));
		h->ram[GPA_EVENTS(c->vp) + SLOT_AT + c->flag / 8] = 0;
		vmm_hv_set_event(h->hv, c->vp, c->flag);
		assert_int_equal(h->injected[c->vp], 2);
		assert_int_equal(h->injected[!c->vp], 0);
	} else {
		assert_memory_equal(h->ram + GPA_EVENTS(0), want, sizeof(want));
		assert_memory_equal(h->ram + GPA_EVENTS(1), want, sizeof(want));
		assert_int_equal(h->injected[0] + h->injected[1], 0);
	}
	host_free(h);
}

static void events_while_off(void **state)
{
	struct hv_host *h = host_new(&host_ops);

	host_enable_synic(h, 0);
	host_wrmsr(h, 0, HV_MSR_SINT0 + 2, 0x100f3);
	vmm_hv_set_event(h->hv, 0, 1);			/* a bit, no interrupt */
	assert_int_equal(h->ram[GPA_EVENTS(0) + SLOT_AT], 2);
	host_wrmsr(h, 0, HV_MSR_SINT0 + 2, VECTOR);
	assert_int_equal(h->injected[0], 0);
	host_wrmsr(h, 0, HV_MSR_SIEFP, GPA_EVENTS(0));
	vmm_hv_set_event(h->hv, 0, 2);			/* nowhere */
	host_wrmsr(h, 0, HV_MSR_SIEFP, 0);
	vmm_hv_set_event(h->hv, 0, 2);
	assert_int_equal(h->ram[GPA_EVENTS(0) + SLOT_AT], 2);
	assert_int_equal(h->injected[0], 0);
	host_free(h);
}

/* ---- the guest acts just when we write ------------------------------------------------------------------ */

#ifndef __SANITIZE_THREAD__		/* which does atomic writes under locks of its own: no place for a fault */

/* The page may only be read; our first write into it wakes the guest, which does its part before the write happens. */
static struct trap {
	struct hv_host *host;
	void (*guest)(struct hv_host *h);
	const uint8_t *at;		/* where the write went */
	unsigned hits;
	bool eom_due;
} trap;

static void on_write(int signal_number, siginfo_t *info, void *context)
{
	if (trap.hits++)
		abort();
	trap.at = info->si_addr;
	mprotect(trap.host->ram + GPA_MESSAGES(0), 4096, PROT_READ | PROT_WRITE);
	if (trap.guest)
		trap.guest(trap.host);
}

static void trap_set(struct hv_host *h, void (*guest)(struct hv_host *h))
{
	struct sigaction action = { .sa_sigaction = on_write, .sa_flags = SA_SIGINFO };

	trap = (struct trap){ .host = h, .guest = guest };
	assert_int_equal(sigaction(SIGSEGV, &action, NULL), 0);
	assert_int_equal(mprotect(h->ram + GPA_MESSAGES(0), 4096, PROT_READ), 0);
}

static void guest_frees_slot(struct hv_host *h)
{
	trap.eom_due = free_slot(h, 0);
}

/* We saw the slot taken and are about to say so; the guest gives it back and finds no flag yet: no EOM will come. */
static void freed_between(void **state)
{
	struct hv_host *h = host_new(&host_ops);

	host_enable_synic(h, 0);
	post(h, 0, 1);
	trap_set(h, guest_frees_slot);
	post(h, 0, 2);
	assert_int_equal(trap.hits, 1);
	assert_false(trap.eom_due);
	assert_int_equal(number_in(h, 0), 2);
	assert_int_equal(h->injected[0], 2);
	host_free(h);
}

/* A guest reads all of the slot as soon as the type is there. */
static void type_is_not_first(void **state)
{
	struct hv_host *h = host_new(&host_ops);

	host_enable_synic(h, 0);
	trap_set(h, NULL);
	post(h, 0, 1);
	assert_int_equal(trap.hits, 1);
	assert_true(trap.at >= host_slot(h, 0) + 4 && trap.at < host_slot(h, 0) + 256);
	assert_int_equal(number_in(h, 0), 1);
	host_free(h);
}

#endif

/* ---- with threads -------------------------------------------------------------------------------------- */

#define ROUNDS 20000u
#define RACE_NS 500000000ull
#define PATIENCE_NS 2000000000ull		/* for one step of the other side */

/* Spins, so that both sides meet; where there is but one CPU for both, the other side gets it. */
static bool still_patient(uint64_t since, unsigned *spins)
{
	if (++*spins % 256 == 0)
		sched_yield();
	return *spins % 64 != 0 || sp_env_monotonic_ns() - since < PATIENCE_NS;
}

struct race {
	struct hv_host *host;
	uint32_t taken;			/* atomic: how far the guest is */
	uint32_t last;			/* atomic: where it ends */
	const char *story;		/* the guest's, when it gives up */
};

/* The guest takes messages as they come and writes EOM only where the flag asks for it. */
static void *taking_guest(void *arg)
{
	struct race *r = arg;
	uint64_t since = sp_env_monotonic_ns();
	unsigned spins = 0;

	for (uint32_t want = 1; !r->story && want != __atomic_load_n(&r->last, __ATOMIC_SEQ_CST) + 1;) {
		uint32_t number = number_in(r->host, 0);

		if (number == 0) {
			if (want > 1 && !still_patient(since, &spins))
				r->story = "a message never came";
			continue;
		}
		if (number != want)
			r->story = "wrong order, or not all of a message";
		if (free_slot(r->host, 0))
			vmm_hv_wrmsr(r->host->hv, 0, HV_MSR_EOM, 0);
		__atomic_store_n(&r->taken, want++, __ATOMIC_SEQ_CST);
		since = sp_env_monotonic_ns();
	}
	return NULL;
}

/* Two at a time: the second meets the slot just when the guest gives it back. */
static void messages_race(void **state)
{
	struct race r = { .host = host_new(&host_ops), .last = UINT32_MAX - 1 };
	uint64_t began = sp_env_monotonic_ns(), since = began;
	uint32_t number = 0, taken = 0;
	unsigned spins = 0;
	pthread_t guest;

	host_enable_synic(r.host, 0);
	assert_int_equal(pthread_create(&guest, NULL, taking_guest, &r), 0);
	while (taken == number && since - began < RACE_NS) {
		post(r.host, 0, ++number);
		for (volatile unsigned delay = number / 2 % 256; delay; delay--)
			;
		post(r.host, 0, ++number);
		since = sp_env_monotonic_ns();
		while ((taken = __atomic_load_n(&r.taken, __ATOMIC_SEQ_CST)) < number && still_patient(since, &spins))
			;
	}
	__atomic_store_n(&r.last, taken, __ATOMIC_SEQ_CST);
	pthread_join(guest, NULL);
	if (r.story)
		fail_msg("%s", r.story);
	assert_int_equal(taken, number);
	assert_int_equal(__atomic_load_n(&r.host->injected[0], __ATOMIC_SEQ_CST), number);
	host_free(r.host);
}

struct sender {
	struct hv_host *host;
	unsigned flag;
};

static void *signalling(void *arg)
{
	struct sender *s = arg;

	for (unsigned i = 0; i < ROUNDS; i++)
		vmm_hv_set_event(s->host->hv, 0, s->flag);
	return NULL;
}

/* Senders on bits of one word, and a guest that switches its pages meanwhile. Every bit left has had its interrupt. */
static void events_race(void **state)
{
	struct hv_host *h = host_new(&host_ops);
	struct sender sender[2] = { { h, 5 }, { h, 6 } };
	uint32_t *word = (void *)(h->ram + GPA_EVENTS(0) + SLOT_AT);
	unsigned taken = 0;
	pthread_t thread[2];

	host_enable_synic(h, 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, signalling, &sender[i]), 0);
	for (unsigned i = 0; i < ROUNDS; i++) {
		taken += (unsigned)__builtin_popcount(__atomic_exchange_n(word, 0, __ATOMIC_SEQ_CST));
		if (i % 64 == 0) {
			host_wrmsr(h, 0, HV_MSR_SCONTROL, 0);
			host_wrmsr(h, 0, HV_MSR_SCONTROL, 1);
		}
	}
	for (unsigned i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	taken += (unsigned)__builtin_popcount(__atomic_exchange_n(word, 0, __ATOMIC_SEQ_CST));
	assert_int_equal(__atomic_load_n(&h->injected[0], __ATOMIC_SEQ_CST), taken);
	host_free(h);
}

static const struct single_row singles[] = {
	{ "one message", one_message },
	{ "a short message", short_message },
	{ "in order, by EOM", in_order },
	{ "a slot freed before the next message", freed_before_post },
	{ "polling: no interrupts", polling },
	{ "the queue is bounded", queue_is_bounded },
	{ "reset forgets", reset_forgets },
	{ "a slot full of anything", hostile_slot },
	{ "events while off", events_while_off },
#ifndef __SANITIZE_THREAD__
	{ "a slot freed between our looks", freed_between },
	{ "the type is not written first", type_is_not_first },
#endif
	{ "messages against a guest", messages_race },
	{ "events from two threads", events_race },
};

int main(void)
{
	return ROWS_RUN(off_cases, queued_while_off) + ROWS_RUN(flag_cases, event_flag) +
	       ROWS_RUN(singles, rows_single);
}
