/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A triple fault: an interrupt without a table of interrupts.
 */
#include "tests/bare/bare.h"

int main(void);

int main(void)
{
	static const struct { uint16_t limit; uint64_t base; } __attribute__((packed)) none = { 0, 0 };

	print("falling\n");
	__asm__ volatile("lidt %0; ud2" : : "m"(none));
	return 0;
}
