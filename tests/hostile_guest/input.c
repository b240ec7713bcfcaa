/* SPDX-License-Identifier: BSD-2-Clause */
/* Choices out of an input, or out of chance; and how a finding ends the program. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "tests/hostile_guest/guest.h"

void session_fail(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "hostile guest: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n");
	abort();
}

uint64_t input_u64(struct input *in)
{
	uint64_t v = 0;

	if (in->at + 8 > in->size)
		return rng_u64(&in->rng);
	memcpy(&v, in->data + in->at, 8);
	in->at += 8;
	return v;
}

uint32_t input_below(struct input *in, uint32_t n)
{
	uint32_t v = 0, bytes = n <= 256 ? 1 : n <= 65536 ? 2 : 4;

	if (!in->data || in->at + bytes > in->size) {
		in->at = in->size;
		return (uint32_t)rng_below(&in->rng, n);
	}
	memcpy(&v, in->data + in->at, bytes);
	in->at += bytes;
	return v % n;
}

bool input_chance(struct input *in, uint32_t one_in)
{
	return input_below(in, one_in) == 0;
}

uint64_t input_number(struct input *in)
{
	static const uint64_t edges[] = { 0, 1, 2, 7, 8, 15, 16, 0x7f, 0x80, 0xff, 0x100, 511, 512, 4095, 4096, 4097,
					  0x7fff, 0x8000, 0xffff, 0x10000, 0xfffff, 0x100000, 0x7fffffff, 0x80000000,
					  0xffffffff, 0x100000000, 1ull << 52, ~0ull >> 1, 1ull << 63, ~0ull };

	switch (input_below(in, 4)) {
	case 0:
		return input_u64(in);
	case 1:
		return memory_pfn(input_below(in, GUEST_PAGES));
	default:
		return edges[input_below(in, SP_ARRAY_SIZE(edges))] + input_below(in, 3) - 1;
	}
}

bool input_ended(const struct input *in)
{
	return in->data && in->at >= in->size;
}
