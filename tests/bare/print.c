/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Text on the serial port, the way off, and what the compiler calls behind our back.
 */
#include "tests/bare/bare.h"

#include <stdarg.h>

void *memset(void *to, int c, size_t len);
void *memcpy(void *restrict to, const void *restrict from, size_t len);
int memcmp(const void *a, const void *b, size_t len);

void *memset(void *to, int c, size_t len)
{
	void *p = to;

	__asm__ volatile("rep stosb" : "+D"(p), "+c"(len) : "a"(c) : "memory");
	return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t len)
{
	void *p = to;

	__asm__ volatile("rep movsb" : "+D"(p), "+S"(from), "+c"(len) : : "memory");
	return to;
}

int memcmp(const void *a, const void *b, size_t len)
{
	const uint8_t *x = a, *y = b;

	for (size_t i = 0; i < len; i++)
		if (x[i] != y[i])
			return x[i] - y[i];
	return 0;
}

static void put_number(uint64_t value, unsigned base)
{
	char digits[20];
	unsigned n = 0;

	do {
		digits[n++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	while (n)
		outb(PORT_CONSOLE, (uint8_t)digits[--n]);
}

static void put_text(const char *s)
{
	while (*s)
		outb(PORT_CONSOLE, (uint8_t)*s++);
}

void print(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	for (; *format; format++) {
		bool wide = false;

		if (*format != '%') {
			outb(PORT_CONSOLE, (uint8_t)*format);
			continue;
		}
		if (*++format == 'l') {
			wide = true;
			format++;
		}
		if (*format == 's')
			put_text(va_arg(ap, const char *));
		else if (*format == '%')
			outb(PORT_CONSOLE, '%');
		else
			put_number(wide ? va_arg(ap, uint64_t) : va_arg(ap, uint32_t), *format == 'x' ? 16 : 10);
	}
	va_end(ap);
}

void check(bool ok, const char *what)
{
	if (!ok)
		print("FAILED: %s\n", what);
}

/* ACPI: sleep type 5 and "go", in the sleep control register. */
void power_off(void)
{
	outb(PORT_SLEEP, 5u << 2 | 1u << 5);
	for (;;)
		__asm__ volatile("cli; hlt");
}
