/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>

#include "base/alloc.h"
#include "base/bitmap.h"
#include "base/bytes.h"
#include "storvsc/storvsc_int.h"

int storvsc_arena_init(struct storvsc_arena *a, uint64_t ring_pages, uint64_t data_pages)
{
	int r;

	*a = (struct storvsc_arena){ .first_page = ring_pages, .pages = data_pages };
	a->used = sp_zalloc((size_t)(data_pages + 7) / 8);
	if (!a->used)
		return -ENOMEM;
	r = vmbus_socket_memory_new(&a->memory, (ring_pages + data_pages) * STORVSC_PAGE);
	if (r < 0) {
		sp_free(a->used);
		return r;
	}
	pthread_mutex_init(&a->lock, NULL);
	return 0;
}

void storvsc_arena_fini(struct storvsc_arena *a)
{
	pthread_mutex_destroy(&a->lock);
	vmbus_socket_memory_fini(&a->memory);
	sp_free(a->used);
}

static uint8_t *data_of(const struct storvsc_arena *a)
{
	return a->memory.base + a->first_page * STORVSC_PAGE;
}

/* First run of @want free pages in [from, limit); UINT64_MAX: none. */
static uint64_t find(const struct storvsc_arena *a, uint64_t from, uint64_t limit, uint64_t want)
{
	while (from < limit) {
		uint64_t run = sp_bits_run(a->used, from, limit, false);

		if (!sp_bit_get(a->used, from, false) && run >= want)
			return from;
		from += run;
	}
	return UINT64_MAX;
}

void *storvsc_arena_get(struct storvsc_arena *a, size_t len)
{
	uint64_t want = len / STORVSC_PAGE + (len % STORVSC_PAGE != 0), at;

	if (want == 0 || want > a->pages)
		return NULL;
	pthread_mutex_lock(&a->lock);
	at = find(a, a->hint, a->pages, want);
	if (at == UINT64_MAX)
		at = find(a, 0, a->pages, want);
	if (at != UINT64_MAX) {
		sp_bits_set(a->used, at, want, false);
		a->hint = at + want;
	}
	pthread_mutex_unlock(&a->lock);
	return at == UINT64_MAX ? NULL : data_of(a) + at * STORVSC_PAGE;
}

void storvsc_arena_put(struct storvsc_arena *a, void *buf, size_t len)
{
	uint64_t at = (uint64_t)((uint8_t *)buf - data_of(a)) / STORVSC_PAGE;

	pthread_mutex_lock(&a->lock);
	sp_bits_clear(a->used, at, (len + STORVSC_PAGE - 1) / STORVSC_PAGE, false);
	if (at < a->hint)
		a->hint = at;
	pthread_mutex_unlock(&a->lock);
}

bool storvsc_arena_holds(const struct storvsc_arena *a, const void *buf, size_t len)
{
	uint64_t at = (uint64_t)((const uint8_t *)buf - data_of(a));	/* a start before it wraps to a huge one */

	return sp_range_ok(at, len, a->pages * STORVSC_PAGE);
}
