/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A file in memory: a radix tree of 4 KiB pages. Nodes and pages are counted, and whoever wants to change one
 * that somebody else holds too makes a copy first, so that a clone is a second reference to the root. The crash
 * simulator lives from that: hundreds of thousands of states that differ in a few pages.
 *
 *   height 0: no pages     height 1: root -> 64 pages (256 KiB)     height n: root -> 64 trees of height n-1
 *
 * A missing node or page reads as zeros and is a hole.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"
#include "vhd/store.h"
#include "vhd/store_int.h"
#include "vhd/store_mem_int.h"

#define PAGE_SIZE 4096u
#define FANOUT_BITS 6u
#define FANOUT (1u << FANOUT_BITS)

struct page {
	atomic_uint refs;
	uint8_t data[PAGE_SIZE];
};

struct node {
	atomic_uint refs;
	void *slot[FANOUT];	/* struct page at height 1, struct node above */
};

struct mem_file {
	atomic_uint refs;
	struct store_id id;
	pthread_mutex_t lock;	/* the rest */
	struct node *root;
	unsigned height;
	uint64_t size, limit, pages;
	int64_t mtime;
	uint64_t content;	/* another number for another content; clones have the same */
};

struct store_mem {
	struct store base;
	struct mem_file *file;
};

/* ---- the tree ------------------------------------------------------------------------------------ */

static void page_put(struct page *p)
{
	if (p && atomic_fetch_sub(&p->refs, 1) == 1)
		sp_free(p);
}

static void node_put(struct node *n, unsigned height)
{
	if (!n || atomic_fetch_sub(&n->refs, 1) != 1)
		return;
	for (unsigned i = 0; i < FANOUT; i++) {
		if (height == 1)
			page_put(n->slot[i]);
		else
			node_put(n->slot[i], height - 1);
	}
	sp_free(n);
}

static struct node *node_new(void)
{
	struct node *n = sp_zalloc(sizeof(*n));

	if (n)
		atomic_init(&n->refs, 1);
	return n;
}

/* Makes *@np ours alone: shares its children with the old one. */
static int node_own(struct node **np, unsigned height)
{
	struct node *old = *np, *n;

	if (old && atomic_load(&old->refs) == 1)
		return 0;
	n = node_new();
	if (!n)
		return -ENOMEM;
	for (unsigned i = 0; old && i < FANOUT; i++) {
		n->slot[i] = old->slot[i];
		if (!n->slot[i])
			continue;
		if (height == 1)
			atomic_fetch_add(&((struct page *)n->slot[i])->refs, 1);
		else
			atomic_fetch_add(&((struct node *)n->slot[i])->refs, 1);
	}
	node_put(old, height);
	*np = n;
	return 0;
}

static int page_own(struct page **pp)
{
	struct page *old = *pp, *p;

	if (old && atomic_load(&old->refs) == 1)
		return 0;
	p = old ? sp_alloc(sizeof(*p)) : sp_zalloc(sizeof(*p));
	if (!p)
		return -ENOMEM;
	atomic_init(&p->refs, 1);
	if (old)
		memcpy(p->data, old->data, PAGE_SIZE);
	page_put(old);
	*pp = p;
	return 0;
}

static unsigned slot_of(uint64_t index, unsigned height)
{
	return index >> (FANOUT_BITS * (height - 1)) & (FANOUT - 1);
}

static bool tree_covers(unsigned height, uint64_t index)
{
	return height > 0 && (FANOUT_BITS * height >= 64 || index >> (FANOUT_BITS * height) == 0);
}

static struct page *page_find(const struct mem_file *f, uint64_t index)
{
	const struct node *n = f->root;

	if (!tree_covers(f->height, index))
		return NULL;
	for (unsigned h = f->height; h > 1 && n; h--)
		n = n->slot[slot_of(index, h)];
	return n ? n->slot[slot_of(index, 1)] : NULL;
}

static int tree_grow(struct mem_file *f, uint64_t index)
{
	while (!tree_covers(f->height, index)) {
		if (f->root) {
			struct node *top = node_new();

			if (!top)
				return -ENOMEM;
			top->slot[0] = f->root;
			f->root = top;
		}
		f->height++;
	}
	return 0;
}

/* The page at @index, there and ours alone. */
static int page_for_write(struct mem_file *f, uint64_t index, struct page **ret_page)
{
	struct node **np = &f->root;
	struct page **pp;
	bool fresh;
	int r = tree_grow(f, index);

	for (unsigned h = f->height; r == 0; h--) {
		r = node_own(np, h);
		if (r < 0 || h == 1)
			break;
		np = (struct node **)&(*np)->slot[slot_of(index, h)];
	}
	if (r < 0)
		return r;
	pp = (struct page **)&(*np)->slot[slot_of(index, 1)];
	fresh = !*pp;
	if (fresh && f->limit > 0 && (f->pages + 1) * PAGE_SIZE > f->limit)
		return -ENOSPC;
	r = page_own(pp);
	if (r < 0)
		return r;
	f->pages += fresh;
	*ret_page = *pp;
	return 0;
}

/* Releases pages [from, to) below *@np, whose first page is @base. */
static int tree_drop(struct mem_file *f, struct node **np, unsigned height, uint64_t base, uint64_t from, uint64_t to)
{
	uint64_t span = (uint64_t)1 << (FANOUT_BITS * (height - 1));
	int r;

	if (!*np)
		return 0;
	r = node_own(np, height);
	for (unsigned i = 0; i < FANOUT && r == 0; i++) {
		uint64_t start = base + i * span;

		if (!(*np)->slot[i] || start >= to || start + span <= from)
			continue;
		if (height > 1) {
			r = tree_drop(f, (struct node **)&(*np)->slot[i], height - 1, start, from, to);
			continue;
		}
		page_put((*np)->slot[i]);
		(*np)->slot[i] = NULL;
		f->pages--;
	}
	return r;
}

/* First page at or after @from (all below @to) whose presence equals @present; @to when there is none. */
static uint64_t tree_seek(const struct node *n, unsigned height, uint64_t base, uint64_t from, uint64_t to,
			  bool present)
{
	uint64_t span = height > 0 ? (uint64_t)1 << (FANOUT_BITS * (height - 1)) : 0;

	if (!n)
		return present ? to : sp_max(base, from);
	for (unsigned i = 0; i < FANOUT; i++) {
		uint64_t start = base + i * span, end = sp_min(start + span, to);

		if (end <= from)
			continue;
		if (start >= to)
			break;
		if (height == 1) {
			if (!!n->slot[i] == present)
				return start;
			continue;
		}
		start = tree_seek(n->slot[i], height - 1, start, from, end, present);
		if (start < end)
			return start;
	}
	return to;
}

/* ---- content -------------------------------------------------------------------------------------- */

static int write_bytes(struct mem_file *f, const uint8_t *buf, size_t len, uint64_t offset)
{
	while (len > 0) {
		size_t in = offset % PAGE_SIZE, n = sp_min(len, PAGE_SIZE - in);
		struct page *p;
		int r = page_for_write(f, offset / PAGE_SIZE, &p);

		if (r < 0)
			return r;
		memcpy(p->data + in, buf, n);
		buf += n;
		offset += n;
		len -= n;
		/* By page, so that a write that runs out of room leaves what it managed, as a file system does. */
		f->size = sp_max(f->size, offset);
	}
	return 0;
}

static void read_bytes(const struct mem_file *f, uint8_t *buf, size_t len, uint64_t offset)
{
	while (len > 0) {
		size_t in = offset % PAGE_SIZE, n = sp_min(len, PAGE_SIZE - in);
		const struct page *p = page_find(f, offset / PAGE_SIZE);

		if (p)
			memcpy(buf, p->data + in, n);
		else
			memset(buf, 0, n);
		buf += n;
		offset += n;
		len -= n;
	}
}

/* Zeroes a range inside one page, if the page is there. */
static int clear_part(struct mem_file *f, uint64_t offset, size_t len)
{
	struct page *p = page_find(f, offset / PAGE_SIZE);
	int r;

	if (!p || len == 0)
		return 0;
	r = page_for_write(f, offset / PAGE_SIZE, &p);
	if (r == 0)
		memset(p->data + offset % PAGE_SIZE, 0, len);
	return r;
}

static int clear_range(struct mem_file *f, uint64_t offset, uint64_t len)
{
	uint64_t end = offset + len, first = sp_div_ceil(offset, PAGE_SIZE), last = end / PAGE_SIZE;
	int r;

	if (first > last)	/* inside one page */
		return clear_part(f, offset, len);
	r = clear_part(f, offset, first * PAGE_SIZE - offset);
	if (r == 0)
		r = clear_part(f, last * PAGE_SIZE, end - last * PAGE_SIZE);
	if (r == 0 && first < last && f->height > 0)
		r = tree_drop(f, &f->root, f->height, 0, first, last);
	return r;
}

static void changed(struct mem_file *f)
{
	static atomic_ullong next_content = 1;

	f->mtime = sp_env_time();
	f->content = atomic_fetch_add(&next_content, 1);
}

int mem_file_new(uint64_t size, uint64_t limit, struct mem_file **ret_file)
{
	static atomic_ullong next_ino = 1;
	struct mem_file *f;

	if (size > STORE_OFFSET_MAX)
		return -EINVAL;
	f = sp_zalloc(sizeof(*f));
	if (!f)
		return -ENOMEM;
	atomic_init(&f->refs, 1);
	pthread_mutex_init(&f->lock, NULL);
	f->id = (struct store_id){ .dev = UINT64_MAX, .ino = atomic_fetch_add(&next_ino, 1) };
	f->size = size;
	f->limit = limit;
	changed(f);
	*ret_file = f;
	return 0;
}

struct mem_file *mem_file_get(struct mem_file *f)
{
	atomic_fetch_add(&f->refs, 1);
	return f;
}

void mem_file_put(struct mem_file *f)
{
	if (!f || atomic_fetch_sub(&f->refs, 1) != 1)
		return;
	node_put(f->root, f->height);
	pthread_mutex_destroy(&f->lock);
	sp_free(f);
}

int mem_file_clone(struct mem_file *f, struct mem_file **ret_file)
{
	struct mem_file *c;
	int r = mem_file_new(0, 0, &c);

	if (r < 0)
		return r;
	pthread_mutex_lock(&f->lock);
	c->size = f->size;
	c->limit = f->limit;
	c->pages = f->pages;
	c->mtime = f->mtime;
	c->content = f->content;
	c->height = f->height;
	c->root = f->root;
	if (c->root)
		atomic_fetch_add(&c->root->refs, 1);
	pthread_mutex_unlock(&f->lock);
	*ret_file = c;
	return 0;
}

uint64_t mem_file_allocated(struct mem_file *f)
{
	uint64_t pages;

	pthread_mutex_lock(&f->lock);
	pages = f->pages;
	pthread_mutex_unlock(&f->lock);
	return pages * PAGE_SIZE;
}

/* ---- the store ------------------------------------------------------------------------------------ */

static struct mem_file *lock_file(struct store *s)
{
	struct mem_file *f = ((struct store_mem *)s)->file;

	pthread_mutex_lock(&f->lock);
	return f;
}

static int mem_readv(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct mem_file *f = lock_file(s);
	int r = sp_range_ok(offset, store_iov_len(iov, iovcnt), f->size) ? 0 : -ENODATA;

	for (int i = 0; i < iovcnt && r == 0; i++) {
		read_bytes(f, iov[i].iov_base, iov[i].iov_len, offset);
		offset += iov[i].iov_len;
	}
	pthread_mutex_unlock(&f->lock);
	return r;
}

static int mem_writev(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct mem_file *f = lock_file(s);
	int r = 0;

	for (int i = 0; i < iovcnt && r == 0; i++) {
		r = write_bytes(f, iov[i].iov_base, iov[i].iov_len, offset);
		offset += iov[i].iov_len;
	}
	changed(f);
	pthread_mutex_unlock(&f->lock);
	return r;
}

static int mem_sync(struct store *s)
{
	return 0;
}

static int mem_clear(struct store *s, uint64_t offset, uint64_t len)
{
	struct mem_file *f = lock_file(s);
	int r = 0;

	if (offset < f->size)	/* up to the end includes the rest of the last page */
		r = clear_range(f, offset, len < f->size - offset ? len : sp_align_up(f->size, PAGE_SIZE) - offset);
	changed(f);
	pthread_mutex_unlock(&f->lock);
	return r;
}

static int mem_resize(struct store *s, uint64_t size)
{
	struct mem_file *f = lock_file(s);
	int r = 0;

	if (size < f->size)	/* bytes cut off must not come back when the file grows again */
		r = clear_range(f, size, sp_align_up(f->size, PAGE_SIZE) - size);
	if (r == 0)
		f->size = size;
	changed(f);
	pthread_mutex_unlock(&f->lock);
	return r;
}

static int mem_seek(struct store *s, uint64_t offset, bool hole, uint64_t *ret_offset)
{
	struct mem_file *f = lock_file(s);
	uint64_t from = offset / PAGE_SIZE, to = sp_div_ceil(f->size, PAGE_SIZE);
	/* Pages past the tree are missing ones. */
	uint64_t known = tree_covers(f->height, to) ? to : (uint64_t)1 << (FANOUT_BITS * f->height);
	uint64_t at = from;

	if (from < known)
		at = tree_seek(f->root, f->height, 0, from, known, !hole);
	if (at >= known && !hole)
		at = to;
	*ret_offset = sp_min(sp_max(at * PAGE_SIZE, offset), f->size);
	pthread_mutex_unlock(&f->lock);
	return 0;
}

static int mem_size(struct store *s, uint64_t *ret_size)
{
	struct mem_file *f = lock_file(s);

	*ret_size = f->size;
	pthread_mutex_unlock(&f->lock);
	return 0;
}

static int mem_mtime(struct store *s, int64_t *ret_unix_seconds)
{
	struct mem_file *f = lock_file(s);

	*ret_unix_seconds = f->mtime;
	pthread_mutex_unlock(&f->lock);
	return 0;
}

static int mem_stamp(struct store *s, struct store_stamp *ret)
{
	struct mem_file *f = lock_file(s);

	*ret = (struct store_stamp){ .size = f->size, .modified_ns = f->content, .settled = true };
	pthread_mutex_unlock(&f->lock);
	return 0;
}

static int mem_fd(struct store *s)
{
	return -1;
}

static void mem_close(struct store *s)
{
	mem_file_put(((struct store_mem *)s)->file);
	sp_free(s->name);
	sp_free(s);
}

static const struct store_ops mem_ops = {
	.name = "mem", .readv = mem_readv, .writev = mem_writev, .sync = mem_sync, .punch = mem_clear,
	.zero = mem_clear, .resize = mem_resize, .seek = mem_seek, .size = mem_size, .mtime = mem_mtime,
	.stamp = mem_stamp, .fd = mem_fd, .close = mem_close,
};

int mem_file_open(struct mem_file *file, const char *name, bool writable, struct store **ret_store)
{
	struct store_mem *m = sp_zalloc(sizeof(*m));

	if (!m)
		return -ENOMEM;
	m->base = (struct store){
		.ops = &mem_ops, .name = sp_strdup(name), .id = file->id, .writable = writable,
	};
	if (!m->base.name) {
		sp_free(m);
		return -ENOMEM;
	}
	m->file = mem_file_get(file);
	*ret_store = &m->base;
	return 0;
}

int store_mem_new(const char *name, uint64_t size, uint64_t limit, struct store **ret_store)
{
	struct mem_file *f;
	int r = mem_file_new(size, limit, &f);

	if (r < 0)
		return r;
	r = mem_file_open(f, name, true, ret_store);
	mem_file_put(f);
	return r;
}

struct mem_file *store_mem_file(struct store *s)
{
	return s->ops == &mem_ops ? ((struct store_mem *)s)->file : NULL;
}

int store_mem_clone(struct store *s, struct store **ret_store)
{
	struct mem_file *file = store_mem_file(s), *copy;
	int r = file ? mem_file_clone(file, &copy) : -EINVAL;

	if (r < 0)
		return r;
	r = mem_file_open(copy, s->name, true, ret_store);
	mem_file_put(copy);
	return r;
}
