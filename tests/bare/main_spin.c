/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Both processors are busy for ever: one with exits, one without any. The host pauses and stops them.
 */
#include "tests/bare/bare.h"

static void compute(unsigned cpu)
{
	for (;;)
		relax();
}

int main(void);

int main(void)
{
	apic_start();
	smp_start(1, compute);
	print("spinning\n");
	for (;;)
		outb(0x80, 0);
}
