/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_BASE_ALLOC_H
#define SPINDLE_BASE_ALLOC_H
/*
 * All memory of the engine comes from here, so that a test can make the k-th allocation fail.
 */
#include <stddef.h>

void *sp_alloc(size_t size);			/* uninitialised; NULL on failure */
void *sp_zalloc(size_t size);			/* zeroed; NULL on failure */
void *sp_calloc(size_t count, size_t size);	/* zeroed, multiplication checked */
void *sp_realloc(void *p, size_t size);		/* as realloc(); @p stays valid on failure */
void *sp_alloc_aligned(size_t align, size_t size);	/* release with sp_free() too */
char *sp_strdup(const char *s);
char *sp_asprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void sp_free(void *p);				/* NULL is fine */

/* Test hook: asked before each allocation; returning true makes it fail. NULL removes it. */
void sp_alloc_set_fault(int (*fails)(void *arg), void *arg);

/* Scoped release for locals: SP_AUTO_FREE char *path = sp_strdup(...). */
static inline void sp_free_ptr(void *pp)
{
	sp_free(*(void **)pp);
}
#define SP_AUTO_FREE __attribute__((cleanup(sp_free_ptr)))

/* Hands ownership out of a scoped variable. */
#define sp_take(var)                      \
	({                                \
		__auto_type sp_tmp = (var); \
		(var) = NULL;             \
		sp_tmp;                   \
	})

#endif
