/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VHDX metadata in memory: 4 KiB pages of the file, loaded on demand, keyed by file offset.
 *
 *           get                 edit               take (flush_begin)
 *   absent ─────► clean ───────────────► dirty ─────────────────────► in flight
 *      ▲            │ ▲                  ▲  ▲                          │  │  │
 *      └────────────┘ └──────────────────┼──┼──── settle, success ─────┘  │  │ edit
 *      evicted, LRU                      │  └──── settle, failure ────────┘  ▼
 *                                        └─────── settle ───────── in flight and dirty
 *
 * - Only clean pages are evicted. A page that is dirty or in flight is newer than the file, so it must not be read from
 *   there: between its log entry and its application the file still holds the old bytes.
 * - Clean pages are bounded; dirty ones are bounded by vhdx_relieve(). A 64 TiB image has up to 513 MiB of BAT.
 * - bat_cached has a bit for each page of the BAT that is in memory: holes of the file may be skipped only where
 *   no page of ours says something else.
 */
#include "vhd/vhdx_write_int.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bitmap.h"

#define LEAF_PAGES	2560u		/* 10 MiB: a 64 TiB image must live in 24 MiB, copies of a batch included */
#define PARENT_PAGES	512u		/* chains may be a thousand layers deep */
#define SLAB_PAGES	16u		/* page-aligned memory comes in slabs: single pages would cost twice as much */
#define FIRST_BUCKETS	64u

struct page_list {
	struct vhdx_page *head, *tail;	/* head: most recently used */
};

struct slab {
	struct slab *next;
	uint8_t *memory;
	struct vhdx_page page[SLAB_PAGES];
};

struct vhdx_cache {
	struct vhdx_page **bucket;
	size_t buckets, count, limit;
	struct page_list clean, dirty;
	size_t dirty_count;
	struct vhdx_page *spare;	/* by hash_next */
	struct slab *slabs;
	uint8_t *bat_cached;
	uint64_t bat_pages;
};

static void list_push(struct page_list *l, struct vhdx_page *p)
{
	p->prev = NULL;
	p->next = l->head;
	if (l->head)
		l->head->prev = p;
	else
		l->tail = p;
	l->head = p;
}

static void list_remove(struct page_list *l, struct vhdx_page *p)
{
	*(p->prev ? &p->prev->next : &l->head) = p->next;
	*(p->next ? &p->next->prev : &l->tail) = p->prev;
}

static struct vhdx_page **bucket_of(struct vhdx_cache *c, uint64_t offset)
{
	return &c->bucket[(offset / VHDX_PAGE * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (c->buckets - 1)];
}

static struct vhdx_page *find(struct vhdx_cache *c, uint64_t offset)
{
	struct vhdx_page *p = *bucket_of(c, offset);

	while (p && p->offset != offset)
		p = p->hash_next;
	return p;
}

/* Failing to grow only makes the chains longer. */
static void grow_buckets(struct vhdx_cache *c)
{
	struct vhdx_page **old = c->bucket;
	size_t old_count = c->buckets;
	struct vhdx_page **new = sp_calloc(old_count * 2, sizeof(*new));

	if (!new)
		return;
	c->bucket = new;
	c->buckets = old_count * 2;
	for (size_t i = 0; i < old_count; i++) {
		struct vhdx_page *p, *next;

		for (p = old[i]; p; p = next) {
			struct vhdx_page **b = bucket_of(c, p->offset);

			next = p->hash_next;
			p->hash_next = *b;
			*b = p;
		}
	}
	sp_free(old);
}

static void mark_bat(struct vhdx *x, const struct vhdx_page *p, bool cached)
{
	if (p->kind != VHDX_PAGE_BAT)
		return;
	if (cached)
		sp_bits_set(x->cache->bat_cached, (p->offset - x->bat_offset) / VHDX_PAGE, 1, false);
	else
		sp_bits_clear(x->cache->bat_cached, (p->offset - x->bat_offset) / VHDX_PAGE, 1, false);
}

static void drop(struct vhdx *x, struct vhdx_page *p)
{
	struct vhdx_cache *c = x->cache;
	struct vhdx_page **link = bucket_of(c, p->offset);

	while (*link != p)
		link = &(*link)->hash_next;
	*link = p->hash_next;
	c->count--;
	list_remove(&c->clean, p);
	mark_bat(x, p, false);
	p->hash_next = c->spare;
	c->spare = p;
}

static int add_slab(struct vhdx_cache *c)
{
	struct slab *s = sp_zalloc(sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->memory = sp_alloc_aligned(VHDX_PAGE, SLAB_PAGES * VHDX_PAGE);
	if (!s->memory) {
		sp_free(s);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < SLAB_PAGES; i++) {
		s->page[i].data = s->memory + i * VHDX_PAGE;
		s->page[i].hash_next = c->spare;
		c->spare = &s->page[i];
	}
	s->next = c->slabs;
	c->slabs = s;
	return 0;
}

static int load(struct vhdx *x, uint64_t offset, enum vhdx_page_kind kind, struct vhdx_page **ret_page)
{
	struct vhdx_cache *c = x->cache;
	struct vhdx_page *p, **b;
	int r;

	while (c->count >= c->limit && c->clean.tail)
		drop(x, c->clean.tail);
	if (!c->spare) {
		r = add_slab(c);
		if (r < 0)
			return r;
	}
	p = c->spare;
	r = store_read(x->img->store, p->data, VHDX_PAGE, offset);
	if (r < 0)
		return r == -ENODATA ? -EBADMSG : r;
	c->spare = p->hash_next;
	p->offset = offset;
	p->kind = kind;
	p->dirty = false;
	p->inflight = 0;
	if (++c->count > c->buckets)
		grow_buckets(c);
	b = bucket_of(c, offset);
	p->hash_next = *b;
	*b = p;
	list_push(&c->clean, p);
	mark_bat(x, p, true);
	*ret_page = p;
	return 0;
}

static int lookup(struct vhdx *x, uint64_t offset, enum vhdx_page_kind kind, struct vhdx_page **ret_page)
{
	struct vhdx_cache *c = x->cache;
	struct vhdx_page *p = find(c, offset);

	if (!p)
		return load(x, offset, kind, ret_page);
	if (!p->dirty && p->inflight == 0 && c->clean.head != p) {
		list_remove(&c->clean, p);
		list_push(&c->clean, p);
	}
	*ret_page = p;
	return 0;
}

int vhdx_page_get(struct vhdx *x, uint64_t offset, enum vhdx_page_kind kind, const uint8_t **ret_data)
{
	struct vhdx_page *p;
	int r = lookup(x, offset, kind, &p);

	if (r == 0)
		*ret_data = p->data;
	return r;
}

static void make_dirty(struct vhdx_cache *c, struct vhdx_page *p)
{
	if (p->dirty)
		return;
	if (p->inflight == 0)
		list_remove(&c->clean, p);
	list_push(&c->dirty, p);
	p->dirty = true;
	c->dirty_count++;
}

int vhdx_page_edit(struct vhdx *x, uint64_t offset, enum vhdx_page_kind kind, uint8_t **ret_data)
{
	struct vhdx_page *p;
	int r = lookup(x, offset, kind, &p);

	if (r < 0)
		return r;
	make_dirty(x->cache, p);
	*ret_data = p->data;
	return 0;
}

size_t vhdx_cache_dirty(const struct vhdx_cache *c)
{
	return c->dirty_count;
}

void vhdx_cache_take(struct vhdx_cache *c, struct vhdx_page **pages)
{
	struct vhdx_page *p;

	while ((p = c->dirty.head)) {
		list_remove(&c->dirty, p);
		p->dirty = false;
		p->inflight++;
		*pages++ = p;
	}
	c->dirty_count = 0;
}

void vhdx_cache_settle(struct vhdx_cache *c, struct vhdx_page *p, bool failed)
{
	/* After a failure nobody knows what the file holds: ours is the only good copy, keep it. */
	if (failed)
		make_dirty(c, p);
	if (--p->inflight == 0 && !p->dirty)
		list_push(&c->clean, p);
}

void vhdx_cache_forget(struct vhdx *x, enum vhdx_page_kind kind)
{
	struct vhdx_page *p, *next;

	for (p = x->cache->clean.head; p; p = next) {
		next = p->next;
		if (p->kind == kind)
			drop(x, p);
	}
}

int vhdx_cache_resize_bat(struct vhdx *x, uint64_t entries)
{
	struct vhdx_cache *c = x->cache;
	uint64_t pages = sp_div_ceil(entries * sizeof(le64_t), VHDX_PAGE);
	size_t old = sp_div_ceil(c->bat_pages, 8), want = sp_div_ceil(pages, 8);
	uint8_t *map;

	if (pages <= c->bat_pages)
		return 0;
	map = sp_realloc(c->bat_cached, want);
	if (!map)
		return -ENOMEM;
	memset(map + old, 0, want - old);
	c->bat_cached = map;
	c->bat_pages = pages;
	return 0;
}

int vhdx_cache_open(struct vhdx *x, struct sp_err *err)
{
	struct vhdx_cache *c = sp_zalloc(sizeof(*c));

	if (!c)
		return sp_err_set(err, -ENOMEM, "out of memory");
	x->cache = c;
	c->limit = x->img->flags & VHD_IMG_IS_PARENT ? PARENT_PAGES : LEAF_PAGES;
	c->buckets = FIRST_BUCKETS;
	c->bucket = sp_calloc(c->buckets, sizeof(*c->bucket));
	if (!c->bucket || vhdx_cache_resize_bat(x, x->geo.bat_entries) < 0) {
		vhdx_cache_close(x);
		return sp_err_set(err, -ENOMEM, "out of memory");
	}
	return 0;
}

void vhdx_cache_close(struct vhdx *x)
{
	struct vhdx_cache *c = x->cache;
	struct slab *s, *next;

	if (!c)
		return;
	for (s = c->slabs; s; s = next) {
		next = s->next;
		sp_free(s->memory);
		sp_free(s);
	}
	sp_free(c->bat_cached);
	sp_free(c->bucket);
	sp_free(c);
	x->cache = NULL;
}

/* ---- the BAT as entries -------------------------------------------------------------------------- */

static uint64_t bat_page(const struct vhdx *x, uint64_t index, size_t *ret_at)
{
	uint64_t byte = index * sizeof(le64_t);

	*ret_at = byte % VHDX_PAGE;
	return x->bat_offset + byte - *ret_at;
}

int vhdx_bat_get(struct vhdx *x, uint64_t index, uint64_t *ret_entry)
{
	const uint8_t *data;
	size_t at;
	uint64_t page = bat_page(x, index, &at);
	le64_t e;
	int r;

	if (index / (VHDX_PAGE / sizeof(e)) >= x->cache->bat_pages)
		return -ERANGE;
	r = vhdx_page_get(x, page, VHDX_PAGE_BAT, &data);
	if (r < 0)
		return r;
	memcpy(&e, data + at, sizeof(e));
	*ret_entry = le64_get(e);
	return 0;
}

int vhdx_bat_edit(struct vhdx *x, uint64_t index, le64_t **ret_entry)
{
	uint8_t *data;
	size_t at;
	uint64_t page = bat_page(x, index, &at);
	int r;

	if (index / (VHDX_PAGE / sizeof(le64_t)) >= x->cache->bat_pages)
		return -ERANGE;
	r = vhdx_page_edit(x, page, VHDX_PAGE_BAT, &data);
	if (r == 0)
		*ret_entry = (le64_t *)(data + at);
	return r;
}

uint64_t vhdx_bat_hole(struct vhdx *x, uint64_t index)
{
	const struct vhdx_cache *c = x->cache;
	const uint64_t per_page = VHDX_PAGE / sizeof(le64_t);
	uint64_t page = index / per_page, data, run;

	if (page >= c->bat_pages || sp_bit_get(c->bat_cached, page, false))
		return 0;
	if (store_seek_data(x->img->store, x->bat_offset + page * VHDX_PAGE, &data) < 0 || data <= x->bat_offset)
		return 0;
	data = (data - x->bat_offset) / VHDX_PAGE;	/* the page with data in it */
	if (data <= page)
		return 0;
	run = sp_bits_run(c->bat_cached, page, c->bat_pages, false);
	return sp_min(data, page + run) * per_page - index;
}
