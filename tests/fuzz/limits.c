/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What one input may cost. Memory is counted where a sanitizer's allocator tells about it: an image of some MiB must
 * not make the engine take hundreds, whatever it says about itself. Time is the business of the two main programs.
 */
#include <stdatomic.h>

#include "tests/fuzz/fuzz.h"

/* All files' pages (64 MiB each) and the engine together; and a VHDX log, which may have 1 GiB (mostly a hole here). */
#define MEMORY_LIMIT ((int64_t)(1024 + 256) << 20)

extern int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *p, size_t n),
						     void (*on_free)(const volatile void *p)) __attribute__((weak));
extern size_t __sanitizer_get_allocated_size(const volatile void *p) __attribute__((weak));

static atomic_bool counting;
static atomic_llong held;

static void on_malloc(const volatile void *p, size_t n)
{
	int64_t now;

	if (!atomic_load(&counting))
		return;
	now = atomic_fetch_add(&held, (int64_t)n) + (int64_t)n;
	if (now <= MEMORY_LIMIT)
		return;
	atomic_store(&counting, false);
	fz_fail("%lld bytes of memory held, the last allocation of %zu", (long long)now, n);
}

static void on_free(const volatile void *p)
{
	if (atomic_load(&counting) && p)
		atomic_fetch_sub(&held, (int64_t)__sanitizer_get_allocated_size(p));
}

void fz_limits_begin(void)
{
	static bool installed;

	if (!installed && __sanitizer_install_malloc_and_free_hooks && __sanitizer_get_allocated_size)
		__sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
	installed = true;
	atomic_store(&held, 0);
	atomic_store(&counting, true);
}

void fz_limits_end(void)
{
	atomic_store(&counting, false);
}
