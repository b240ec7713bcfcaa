/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Copies between us and a peer that may write at the same time. Eight aligned bytes are one relaxed load or store,
 * which no compiler may do twice and no thread sanitizer objects to. Freestanding.
 */
#include "vmbus/mem.h"

#define WORD 8u

static size_t unaligned(const void *p)
{
	return (uintptr_t)p % WORD;
}

#ifndef VMBUS_HOSTILE
static void bytes_in(uint8_t *to, const uint8_t *from, size_t len)
{
	for (size_t i = 0; i < len; i++)
		to[i] = __atomic_load_n(from + i, __ATOMIC_RELAXED);
}

void vmbus_copy_in(void *to, const void *shared, size_t len)
{
	const uint8_t *from = shared;
	uint8_t *t = to;
	size_t head = unaligned(from) ? WORD - unaligned(from) : 0;

	head = head < len ? head : len;
	bytes_in(t, from, head);
	for (t += head, from += head, len -= head; len >= WORD; t += WORD, from += WORD, len -= WORD) {
		uint64_t word = __atomic_load_n((const uint64_t *)(const void *)from, __ATOMIC_RELAXED);

		__builtin_memcpy(t, &word, WORD);
	}
	bytes_in(t, from, len);
}
#endif

static void bytes_out(uint8_t *to, const uint8_t *from, size_t len)
{
	for (size_t i = 0; i < len; i++)
		__atomic_store_n(to + i, from ? from[i] : 0, __ATOMIC_RELAXED);
}

/* @from NULL: zeros */
static void copy_out(uint8_t *to, const uint8_t *from, size_t len)
{
	size_t head = unaligned(to) ? WORD - unaligned(to) : 0;
	size_t at;

	head = head < len ? head : len;
	bytes_out(to, from, head);
	for (at = head; len - at >= WORD; at += WORD) {
		uint64_t word = 0;

		if (from)
			__builtin_memcpy(&word, from + at, WORD);
		__atomic_store_n((uint64_t *)(void *)(to + at), word, __ATOMIC_RELAXED);
	}
	bytes_out(to + at, from ? from + at : NULL, len - at);
}

void vmbus_copy_out(void *shared, const void *from, size_t len)
{
	copy_out(shared, from, len);
}

void vmbus_zero_out(void *shared, size_t len)
{
	copy_out(shared, NULL, len);
}
