/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Metadata pages by number: a hash table with a list of dirty pages and a bound for clean ones.
 *
 *	clean ── mark() ──► dirty ── clean(generation) ──► carried ── settled >= generation ──► clean
 *
 * A page carried by a flush under way must stay: the disk may still have its old bytes. Dirty pages are never evicted
 * either; their number is bounded by how much is written between two flushes.
 */
#include "vhd/vhd1_int.h"

#include "base/alloc.h"

#define BUCKETS 8192u
#define CLEAN_BYTES (16u << 20)

void vhd1_cache_init(struct vhd1_cache *c, uint32_t page_size)
{
	*c = (struct vhd1_cache){ .page_size = page_size, .pages_max = CLEAN_BYTES / page_size };
}

static struct vhd1_page **bucket_of(const struct vhd1_cache *c, uint32_t key)
{
	return &c->bucket[key * 0x9e3779b1u >> 19];	/* the upper 13 bits */
}

static void dirty_remove(struct vhd1_cache *c, struct vhd1_page *p)
{
	if (p->dirty_from == p->dirty_to)
		return;
	if (p->dirty_prev)
		p->dirty_prev->dirty_next = p->dirty_next;
	else
		c->dirty = p->dirty_next;
	if (p->dirty_next)
		p->dirty_next->dirty_prev = p->dirty_prev;
	p->dirty_prev = p->dirty_next = NULL;
	p->dirty_from = p->dirty_to = 0;
}

void vhd1_cache_fini(struct vhd1_cache *c)
{
	for (uint32_t i = 0; c->bucket && i < BUCKETS; i++) {
		struct vhd1_page *p = c->bucket[i];

		while (p) {
			struct vhd1_page *next = p->hash_next;

			sp_free(p);
			p = next;
		}
	}
	sp_free(sp_take(c->bucket));
	c->dirty = NULL;
	c->pages = 0;
}

struct vhd1_page *vhd1_cache_find(const struct vhd1_cache *c, uint32_t key)
{
	struct vhd1_page *p = c->bucket ? *bucket_of(c, key) : NULL;

	while (p && p->key != key)
		p = p->hash_next;
	return p;
}

static bool evictable(const struct vhd1_cache *c, const struct vhd1_page *p)
{
	return p->dirty_from == p->dirty_to && p->written_by <= c->settled;
}

/* One round at most: when everything is dirty the cache grows. */
static void evict(struct vhd1_cache *c)
{
	uint32_t goal = c->pages_max - c->pages_max / 4;

	for (uint32_t i = 0; i < BUCKETS && c->pages > goal; i++) {
		struct vhd1_page **link = &c->bucket[c->hand++ % BUCKETS];

		while (*link) {
			struct vhd1_page *p = *link;

			if (!evictable(c, p)) {
				link = &p->hash_next;
				continue;
			}
			*link = p->hash_next;
			sp_free(p);
			c->pages--;
		}
	}
}

struct vhd1_page *vhd1_cache_add(struct vhd1_cache *c, uint32_t key)
{
	struct vhd1_page *p, **bucket;

	if (!c->bucket) {
		c->bucket = sp_calloc(BUCKETS, sizeof(*c->bucket));
		if (!c->bucket)
			return NULL;
	}
	if (c->pages >= c->pages_max)
		evict(c);
	p = sp_alloc(sizeof(*p) + c->page_size);
	if (!p)
		return NULL;
	*p = (struct vhd1_page){ .key = key };
	bucket = bucket_of(c, key);
	p->hash_next = *bucket;
	*bucket = p;
	c->pages++;
	return p;
}

void vhd1_cache_drop(struct vhd1_cache *c, uint32_t key)
{
	struct vhd1_page **link = c->bucket ? bucket_of(c, key) : NULL;
	struct vhd1_page *p;

	if (!link)
		return;
	while (*link && (*link)->key != key)
		link = &(*link)->hash_next;
	p = *link;
	if (!p)
		return;
	*link = p->hash_next;
	dirty_remove(c, p);
	sp_free(p);
	c->pages--;
}

void vhd1_cache_mark(struct vhd1_cache *c, struct vhd1_page *p, uint32_t from, uint32_t to)
{
	if (p->dirty_from == p->dirty_to) {
		p->dirty_from = from;
		p->dirty_to = to;
		p->dirty_next = c->dirty;
		if (c->dirty)
			c->dirty->dirty_prev = p;
		c->dirty = p;
		return;
	}
	if (from < p->dirty_from)
		p->dirty_from = from;
	if (to > p->dirty_to)
		p->dirty_to = to;
}

void vhd1_cache_clean(struct vhd1_cache *c, struct vhd1_page *p, uint64_t generation)
{
	dirty_remove(c, p);
	p->written_by = generation;
}
