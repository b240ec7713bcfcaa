/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VHDX batches: how dirty metadata becomes durable. vhd-formats.md 2.9, 2.11, 2.12.
 *
 *   flush_begin ──► copies of all dirty pages, in flight                             under the lock
 *   flush_write     1. barrier: sync, only if the metadata would expose old bytes
 *                   2. log entries; sync        ◄── the batch is durable here        without the lock, one at a time
 *                   3. pages to their places, no sync: the entries protect them
 *   flush_end   ──► pages clean, freed space may be announced                        under the lock
 *
 * When the barrier is needed: bits of a bitmap or a promotion to "fully present" make payload visible in place of the
 * parent's; recycled space held another block's bytes. A plain allocation at the fresh end of the file needs
 * none: until its payload arrives it reads zeros, as it did before. One sync then covers payload and log.
 *
 * A batch of more than 126 descriptors takes several entries, and a crash may keep any prefix of them. So each prefix
 * is a valid image: bitmap pages first (nobody looks at bits before a block is in state 7), then BAT pages from the
 * last to the first: the slot of a chunk's bitmap block stands behind the entries of its blocks.
 *
 * First write and end of an image's dirty life:
 *
 *   clean ──log_start──► logging ──begin_write──► begun ──close_clean──► clean
 *           FileWriteGuid,        DataWriteGuid            all applied and synced, LogGuid 0, slack cut
 *           LogGuid
 *
 * After the first failed write or sync of metadata nobody knows what the disk holds: x->failed refuses every further
 * change, and the next open replays what the log has.
 */
#include "vhd/vhdx_write_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/env.h"
#include "base/seed.h"

/* Dirty pages beyond which prepare and discard flush by themselves. */
#define RELIEVE_PAGES 1024u

struct vhd_flush {
	struct vhdx_page **page;	/* in flight */
	size_t pages;
	uint8_t *copies;
	struct vhdx_log_item *item;	/* new bitmap blocks, then pages in logging order */
	size_t items;
	bool barrier;
	uint64_t generation;
	uint64_t file_size, last_offset;
};

static void batch_free(struct vhd_flush *b)
{
	sp_free(b->page);
	sp_free(b->copies);
	sp_free(b->item);
	sp_free(b);
}

static struct vhd_flush *batch_new(size_t pages, size_t zeroed)
{
	struct vhd_flush *b = sp_zalloc(sizeof(*b));

	if (!b)
		return NULL;
	b->pages = pages;
	b->items = pages + zeroed;
	b->page = sp_calloc(pages, sizeof(struct vhdx_page *));
	b->copies = sp_alloc_aligned(VHDX_PAGE, pages * VHDX_PAGE);
	b->item = sp_calloc(b->items, sizeof(*b->item));
	if (b->page && b->copies && b->item)
		return b;
	batch_free(b);
	return NULL;
}

/* See the head of the file: the order that makes each prefix a valid image. */
static int logging_order(const void *a, const void *b)
{
	const struct vhdx_page *p = *(struct vhdx_page *const *)a, *q = *(struct vhdx_page *const *)b;
	int by_kind = (int)p->kind - (int)q->kind, by_offset = p->offset < q->offset ? -1 : p->offset > q->offset;

	if (SP_SEED_BUG(VHDX_BITMAP_AFTER_BAT))
		return by_kind ? -by_kind : by_offset;
	if (by_kind)
		return by_kind;
	return p->kind == VHDX_PAGE_BAT ? -by_offset : by_offset;
}

static void batch_fill(struct vhdx *x, struct vhd_flush *b)
{
	struct vhdx_log *log = x->log;
	struct vhdx_log_item *item = b->item;

	vhdx_cache_take(x->cache, b->page);
	qsort(b->page, b->pages, sizeof(struct vhdx_page *), logging_order);
	for (size_t i = 0; i < log->zeroed_count; i++)
		*item++ = (struct vhdx_log_item){ .offset = log->zeroed[i], .len = VHDX_MIB };
	for (size_t i = 0; i < b->pages; i++) {
		uint8_t *copy = b->copies + i * VHDX_PAGE;

		memcpy(copy, b->page[i]->data, VHDX_PAGE);
		*item++ = (struct vhdx_log_item){ .offset = b->page[i]->offset, .len = VHDX_PAGE, .data = copy };
	}
	log->zeroed_count = 0;
	b->barrier = log->barrier;
	log->barrier = false;
	b->generation = vhdx_space_seal(x);
	b->file_size = x->file_size;
	b->last_offset = vhdx_space_end(x);
}

bool vhdx_dirty(struct vhd_image *img)
{
	return vhdx_cache_dirty(vhdx_of(img)->cache) > 0;
}

/* vhd_format.flush_begin: 0 (with NULL when nothing is dirty), -ENOMEM, or the failure that stopped the image. */
int vhdx_flush_begin(struct vhd_image *img, struct vhd_flush **ret_batch)
{
	struct vhdx *x = vhdx_of(img);
	size_t pages = vhdx_cache_dirty(x->cache);
	struct vhd_flush *b = NULL;

	if (x->failed)
		return x->failed;
	if (pages > 0) {
		b = batch_new(pages, x->log->zeroed_count);
		if (!b)
			return -ENOMEM;
		batch_fill(x, b);
		x->log->batches++;
	}
	*ret_batch = b;
	return 0;
}

/* Puts items in their places; ranges of zeros are there already. */
static int apply(struct vhdx *x, const struct vhdx_log_item *item, size_t count)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < count; i++) {
		if (item[i].data)
			r = store_write(x->img->store, item[i].data, VHDX_PAGE, item[i].offset);
	}
	if (r == 0)
		x->log->pending = UINT32_MAX;
	return r;
}

/* The ring is full: what it protects goes to its place. @count items of this batch stand in it unapplied. */
static int make_way(struct vhdx *x, const struct vhdx_log_item *item, size_t count)
{
	int r = count > 0 ? vhdx_log_sync(x) : 0;

	if (r == 0)
		r = apply(x, item, count);
	return r < 0 ? r : vhdx_log_restart(x);
}

static int write_batch(struct vhdx *x, const struct vhd_flush *b)
{
	size_t applied = 0, logged = 0;
	int r = 0;

	if (b->barrier && !SP_SEED_BUG(VHDX_NO_DATA_BARRIER))
		r = vhdx_log_sync(x);
	while (r == 0 && logged < b->items) {
		unsigned n = (unsigned)sp_min(b->items - logged, VHDX_LOG_DESCRIPTORS_MAX);

		if (!vhdx_log_fits(x, b->item + logged, n)) {
			r = make_way(x, b->item + applied, logged - applied);
			applied = logged;
		}
		if (r == 0)
			r = vhdx_log_append(x, b->item + logged, n);
		logged += n;
	}
	if (SP_SEED_BUG(VHDX_APPLY_BEFORE_LOG_SYNC) && r == 0)
		r = apply(x, b->item, b->items);
	if (r == 0)
		r = vhdx_log_sync(x);
	return r < 0 ? r : apply(x, b->item + applied, logged - applied);
}

/* vhd_format.flush_write. Touches the batch, the ring and the store, never the cache: it runs without the lock. */
int vhdx_flush_write(struct vhd_image *img, struct vhd_flush *b)
{
	struct vhdx *x = vhdx_of(img);
	struct vhdx_log *log = x->log;

	if (log->failed)
		return log->failed;
	log->file_size = b->file_size;
	log->last_offset = b->last_offset;
	log->failed = write_batch(x, b);
	return log->failed;
}

void vhdx_flush_end(struct vhd_image *img, struct vhd_flush *b, int result)
{
	struct vhdx *x = vhdx_of(img);

	if (!b)
		return;
	for (size_t i = 0; i < b->pages; i++)
		vhdx_cache_settle(x->cache, b->page[i], result < 0);
	x->log->batches--;
	if (result == 0)
		vhdx_space_durable(x, b->generation);
	else if (!x->failed)
		x->failed = result;
	batch_free(b);
}

int vhdx_flush_all(struct vhdx *x)
{
	struct vhd_flush *b;
	int r;

	if (x->log->batches > 0)
		return -EBUSY;
	r = vhdx_flush_begin(x->img, &b);
	if (r < 0 || !b)
		return r;
	r = vhdx_flush_write(x->img, b);
	vhdx_flush_end(x->img, b, r);
	return r;
}

int vhdx_flush_must(struct vhdx *x)
{
	int r = vhdx_flush_all(x);

	if (r < 0 && !x->failed)
		x->failed = r;
	return r;
}

int vhdx_relieve(struct vhdx *x)
{
	if (vhdx_cache_dirty(x->cache) < RELIEVE_PAGES || x->log->batches > 0)
		return 0;
	return vhdx_flush_all(x);
}

/* ---- begin and end ------------------------------------------------------------------------------- */

/*
 * Copy 1 may have been passed over only because its regions reach past the end of the file. The file is about to grow:
 * the next open would find nothing wrong with it, and look for everything in another place.
 */
static int settle_region_table(struct vhdx *x)
{
	if (x->region_copy == 0 || SP_SEED_BUG(VHDX_REGION_COPY_LEFT))
		return 0;
	return vhdx_region_table_restore(x->img->store, x->region_copy);
}

/* vhd_format.begin_write: 0, -EROFS, or what writing headers, region table or the log's first entry failed with. */
int vhdx_begin_write(struct vhd_image *img)
{
	struct vhdx *x = vhdx_of(img);
	struct sp_guid identity;
	int r;

	if (x->failed || x->begun)
		return x->failed;
	if (!x->space)
		return -EROFS;
	sp_env_guid(&identity);
	r = vhdx_log_start(x, &identity);
	if (r == 0)
		r = settle_region_table(x);
	if (r == 0)
		x->begun = true;
	return r;
}

/* The log must be empty by now: an entry's FlushedFileOffset would make a shorter file look damaged. */
static int cut_slack(struct vhdx *x)
{
	struct store *s = x->img->store;
	uint64_t end = vhdx_space_end(x);
	int r;

	if (s->is_device || end >= x->file_size)
		return 0;
	r = store_resize(s, end);
	if (r < 0)
		return r;
	x->file_size = end;
	return store_sync(s);
}

int vhdx_close_clean(struct vhdx *x)
{
	int r;

	if (x->failed || !x->log)
		return x->failed;
	r = vhdx_flush_all(x);
	if (r < 0)
		return r;
	vhdx_release(x->img, UINT64_MAX);
	r = vhdx_log_sync(x);			/* payload, and the pages applied last */
	if (r == 0) {
		memset(&x->header.log_guid, 0, sizeof(x->header.log_guid));
		r = vhdx_header_update(x);
	}
	if (r == 0)
		r = cut_slack(x);
	if (r < 0)
		x->failed = r;
	return r;
}
