/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/alloc.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int (*_Atomic fault)(void *arg);
static void *fault_arg;		/* written before @fault, which publishes it */

void sp_alloc_set_fault(int (*fails)(void *arg), void *arg)
{
	atomic_store_explicit(&fault, NULL, memory_order_release);
	fault_arg = arg;
	atomic_store_explicit(&fault, fails, memory_order_release);
}

static bool refused(void)
{
	int (*fails)(void *) = atomic_load_explicit(&fault, memory_order_acquire);

	return __builtin_expect(fails != NULL, 0) && fails(fault_arg);
}

/* NULL means failure to every caller, so an empty allocation must not answer it. */
static size_t not_empty(size_t size)
{
	return size ? size : 1;
}

void *sp_alloc(size_t size)
{
	return refused() ? NULL : malloc(not_empty(size));
}

void *sp_zalloc(size_t size)
{
	return refused() ? NULL : calloc(1, not_empty(size));
}

void *sp_calloc(size_t count, size_t size)
{
	size_t total;

	if (__builtin_mul_overflow(count, size, &total))
		return NULL;
	return sp_zalloc(total);
}

void *sp_realloc(void *p, size_t size)
{
	return refused() ? NULL : realloc(p, not_empty(size));	/* realloc(p, 0) would free @p */
}

void *sp_alloc_aligned(size_t align, size_t size)
{
	void *p;

	if (align < sizeof(void *))
		align = sizeof(void *);
	if (refused() || posix_memalign(&p, align, not_empty(size)) != 0)
		return NULL;
	return p;
}

char *sp_strdup(const char *s)
{
	size_t size = strlen(s) + 1;
	char *copy = sp_alloc(size);

	return copy ? memcpy(copy, s, size) : NULL;
}

char *sp_asprintf(const char *fmt, ...)
{
	va_list ap, again;
	char *text = NULL;
	int len;

	va_start(ap, fmt);
	va_copy(again, ap);
	len = vsnprintf(NULL, 0, fmt, ap);
	if (len >= 0)
		text = sp_alloc((size_t)len + 1);
	if (text)
		vsnprintf(text, (size_t)len + 1, fmt, again);
	va_end(again);
	va_end(ap);
	return text;
}

void sp_free(void *p)
{
	free(p);
}
