/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What happens to a write of a tracked disk, and to the record from opening to closing:
 *
 *   write ──► region in doubt? ──yes──► bits set, still in doubt? ──yes──► go on
 *		  │ no			    │ no
 *		  ▼			    ▼
 *	      mark: all regions anybody waits for, one header, one sync ──► again
 *
 *   now and then, behind a flush:  regions nobody wrote to lately leave doubt, behind a durable bitmap
 *   close:			    all leave, and the header tells what the closed file looks like
 *
 * A header that cannot be written ends tracking, not the writing: the image is told apart from what the header says (a
 * VHDX gets another DataWriteGuid; a VHD or raw image in use is not believed anyway, and one that was closed loses its
 * side-car). Only where even that fails do writes fail.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/env.h"
#include "base/log.h"
#include "base/seed.h"
#include "vhd/track_int.h"

#define REST_NS UINT64_C(30000000000)	/* between checkpoints */

/* ---- bits ---------------------------------------------------------------------------------------- */

static bool in_doubt(struct track *t, uint64_t first, uint64_t last)
{
	for (uint64_t r = first; r <= last; r++)
		if (!(atomic_load(&t->doubt[r / 64]) >> r % 64 & 1))
			return false;
	return true;
}

static void want(struct track *t, uint64_t first, uint64_t last)
{
	for (uint64_t r = first; r <= last; r++)
		atomic_fetch_or(&t->wanted[r / 64], UINT64_C(1) << r % 64);
}

static void touch(struct track *t, uint64_t first, uint64_t last)
{
	for (uint64_t r = first; r <= last; r++)
		if (!atomic_load_explicit(&t->touched[r], memory_order_relaxed))
			atomic_store_explicit(&t->touched[r], 1, memory_order_relaxed);
}

static void set_fine(struct track *t, uint64_t first, uint64_t last)
{
	for (uint64_t w = first / 64; w <= last / 64; w++) {
		uint64_t mask = ~UINT64_C(0);

		if (w == first / 64)
			mask &= ~UINT64_C(0) << first % 64;
		if (w == last / 64)
			mask &= ~UINT64_C(0) >> (63 - last % 64);
		if ((atomic_load(&t->fine[w]) & mask) != mask)
			atomic_fetch_or(&t->fine[w], mask);
	}
}

/* Sequentially consistent on purpose: bits, then doubt, against doubt, then bits in track_checkpoint_locked(). */
bool disk_track_try(struct vhd_disk *d, uint64_t offset, uint64_t len)
{
	struct track *t = track_of(d);
	uint64_t end = offset + len - 1, first = offset >> t->region_shift, last = end >> t->region_shift;

	if (len == 0 || atomic_load(&t->off))
		return true;
	if (in_doubt(t, first, last)) {
		touch(t, first, last);
		set_fine(t, offset >> t->block_shift, end >> t->block_shift);
		if (in_doubt(t, first, last))
			return true;
	}
	want(t, first, last);
	return false;
}

uint64_t *track_fine_copy(struct track *t)
{
	size_t words = track_bitmap_bytes(t->blocks) / 8;
	uint64_t *copy = sp_alloc(sp_max(words, 1) * 8);

	for (size_t i = 0; copy && i < words; i++)
		copy[i] = atomic_load(&t->fine[i]);
	return copy;
}

/* Nobody may be looking at the old ones. */
static void put_fine(struct track *t, uint64_t *bits)
{
	sp_free((void *)(uintptr_t)t->fine);
	t->fine = (_Atomic uint64_t *)bits;
}

void track_take_touched(struct track *t, uint64_t *ret_mask)
{
	memset(ret_mask, 0, TRACK_REGIONS_MAX / 8);
	for (unsigned r = 0; r < TRACK_REGIONS_MAX; r++)
		ret_mask[r / 64] |= (uint64_t)atomic_exchange(&t->touched[r], 0) << r % 64;
}

void track_set_doubt(struct track *t, const uint64_t *mask)
{
	for (size_t i = 0; i < SP_ARRAY_SIZE(t->doubt); i++)
		atomic_store(&t->doubt[i], mask[i]);
}

int track_add_current(const struct track_book *b, struct track_sum *sum)
{
	const struct track_head *h = &b->head;

	for (unsigned r = 0; r < TRACK_REGIONS_MAX; r++)
		if (h->doubt[r / 64] >> r % 64 & 1)
			track_sum_range(sum, (uint64_t)r << h->region_shift, UINT64_C(1) << h->region_shift);
	return track_book_add_bits(b, &h->current, track_blocks(h->disk_size, h->block_shift), h->block_shift, sum);
}

/* ---- an end that nobody can mistake --------------------------------------------------------------- */

/* No flush is on its way: a format refuses another identity while a batch of it is. */
int track_renew_identity(struct vhd_disk *d)
{
	struct sp_guid id;
	int r;

	sp_env_guid(&id);
	pthread_mutex_lock(&d->commit.lock);
	while (d->commit.running)
		pthread_cond_wait(&d->commit.done_cond, &d->commit.lock);
	pthread_mutex_lock(&d->meta);
	r = disk_begin_locked(d);
	if (r == 0)
		r = d->leaf->format->set_identity(d->leaf, &id, NULL);
	pthread_mutex_unlock(&d->meta);
	pthread_mutex_unlock(&d->commit.lock);
	return r;
}

static int disown(struct track *t)
{
	int r;

	if (SP_SEED_BUG(TRACK_FAILS_SILENTLY))
		return 0;
	if (t->d->leaf->format->id == VHD_FORMAT_VHDX)
		return track_renew_identity(t->d);
	if (!t->book.head.clean)
		return 0;
	r = store_folder_unlink(t->folder, t->name);
	return r < 0 && r != -ENOENT ? r : store_folder_sync(t->folder, t->name);
}

void track_end_locked(struct track *t, int why)
{
	if (atomic_load(&t->off))
		return;
	sp_debug("track", t->name, "cannot be written: %s; changes are not recorded any more", strerror(-why));
	t->dead = disown(t);
	t->why_off = why;
	if (t->dead == 0)
		atomic_store(&t->off, true);
}

int track_commit_locked(struct track *t, const struct track_head *head, struct track_point *point)
{
	int r = store_sync(t->book.store);

	if (r == 0)
		r = track_book_put_head(&t->book, head);
	if (r < 0) {
		track_end_locked(t, r);
		return r;
	}
	if (point) {
		sp_free(t->book.point);
		t->book.point = point;
	}
	return 0;
}

/* ---- marks and checkpoints ------------------------------------------------------------------------ */

/* The first write of this open to this leaf: only now the image has the identity it keeps while it is written. */
static int bind_locked(struct track *t, struct track_head *h)
{
	struct vhd_disk *d = t->d;
	int r;

	pthread_mutex_lock(&d->meta);
	r = disk_begin_locked(d);
	track_bind_open(d, h);
	pthread_mutex_unlock(&d->meta);
	return r;
}

static int mark_locked(struct track *t, uint64_t first, uint64_t last)
{
	struct track_head h = t->book.head;
	int r = 0;

	if (atomic_load(&t->off) || in_doubt(t, first, last))
		return 0;
	if (t->dead)
		return t->dead;
	for (size_t i = 0; i < SP_ARRAY_SIZE(h.doubt); i++)
		h.doubt[i] |= atomic_exchange(&t->wanted[i], 0);
	if (!t->bound)
		r = bind_locked(t, &h);
	if (r < 0)
		return r;
	r = track_book_put_head(&t->book, &h);
	if (r < 0) {
		track_end_locked(t, r);
		return t->dead;
	}
	t->bound = true;
	for (size_t i = 0; i < SP_ARRAY_SIZE(h.doubt); i++)
		atomic_fetch_or(&t->doubt[i], h.doubt[i]);
	return 0;
}

int disk_track_mark(struct vhd_disk *d, uint64_t offset, uint64_t len)
{
	struct track *t = track_of(d);
	int r = 0;

	while (r == 0 && !disk_track_try(d, offset, len)) {
		pthread_mutex_lock(&t->lock);
		r = mark_locked(t, offset >> t->region_shift, (offset + len - 1) >> t->region_shift);
		pthread_mutex_unlock(&t->lock);
	}
	return r;
}

int track_checkpoint_locked(struct track *t, const uint64_t *leave)
{
	struct track_head h = t->book.head;
	SP_AUTO_FREE uint64_t *fine = NULL;
	int r;

	for (size_t i = 0; i < SP_ARRAY_SIZE(h.doubt); i++) {
		atomic_fetch_and(&t->doubt[i], ~leave[i]);
		h.doubt[i] &= SP_SEED_BUG(TRACK_NEVER_IN_DOUBT) ? 0 : ~leave[i];
	}
	fine = track_fine_copy(t);
	if (!fine)
		return -ENOMEM;
	r = track_book_put_bits(&t->book, fine, t->blocks, NULL, 0, &h.current);
	return r < 0 ? r : track_commit_locked(t, &h, NULL);
}

/* Without room for a bitmap the regions stay in doubt on disk: less exact after a crash, and still right. */
static void rest(struct track *t)
{
	uint64_t leave[TRACK_REGIONS_MAX / 64], any = 0;

	if (atomic_load(&t->off) || t->dead || !t->bound)
		return;
	track_take_touched(t, leave);
	for (size_t i = 0; i < SP_ARRAY_SIZE(leave); i++) {
		leave[i] = t->book.head.doubt[i] & ~leave[i];
		any |= leave[i];
	}
	if (any && track_checkpoint_locked(t, leave) < 0)
		sp_debug("track", t->name, "no checkpoint");
}

static void rest_work(struct vhd_work *w)
{
	struct track *t = (struct track *)((char *)w - offsetof(struct track, work));

	pthread_mutex_lock(&t->lock);
	rest(t);
	t->posted = false;
	pthread_cond_broadcast(&t->idle);
	pthread_mutex_unlock(&t->lock);
}

void track_rest_now(struct vhd_disk *d)
{
	struct track *t = track_of(d);

	pthread_mutex_lock(&t->lock);
	rest(t);
	pthread_mutex_unlock(&t->lock);
}

static void post_rest(struct track *t)
{
	bool post;

	pthread_mutex_lock(&t->lock);
	post = !t->posted;
	t->posted = true;
	pthread_mutex_unlock(&t->lock);
	if (post && disk_work_post(t->d, &t->work) < 0)
		rest_work(&t->work);
}

static bool time_to_rest(struct track *t)
{
	uint64_t now = sp_env_monotonic_ns(), at = atomic_load(&t->rest_at);

	return now >= at && atomic_compare_exchange_strong(&t->rest_at, &at, now + REST_NS);
}

/* Tracking does not end while somebody is inside. */
void disk_track_flushed(struct vhd_disk *d)
{
	struct epoch_member *m = epoch_shared(&d->epoch);
	int phase = disk_tracked(d) ? epoch_try_enter(&d->epoch, m) : -1;

	if (phase < 0)		/* not tracked, or drained: another time */
		return;
	if (disk_tracked(d) && time_to_rest(track_of(d))) {
		if (d->threaded)
			post_rest(track_of(d));
		else
			track_rest_now(d);
	}
	epoch_exit(m, phase);
}

/* ---- what happens to the disk --------------------------------------------------------------------- */

/* What is in force ends: the next write binds the record to the new leaf first, and takes all regions along. */
void disk_track_switched(struct vhd_disk *d)
{
	static const uint64_t none[TRACK_REGIONS_MAX / 64];
	struct track *t = track_of(d);

	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	t->bound = false;
	track_set_doubt(t, none);
	pthread_mutex_unlock(&t->lock);
}

/* Room for the bits of a disk of @size; what was changed of the old one stays so. */
static int resize_fine(struct track *t, uint64_t old_size, uint64_t size)
{
	struct track_sum sum;
	SP_AUTO_FREE uint64_t *fine = track_fine_copy(t);
	int r = fine ? track_sum_init(&sum, size, track_block_shift(size)) : -ENOMEM;

	if (r < 0)
		return r;
	for (uint64_t b = 0; b < t->blocks; b++)
		if (fine[b / 64] >> b % 64 & 1)
			track_sum_range(&sum, b << t->block_shift, UINT64_C(1) << t->block_shift);
	track_sum_range(&sum, old_size, size - old_size);
	put_fine(t, sum.bits);
	t->blocks = sum.blocks;
	t->block_shift = sum.shift;
	return 0;
}

/* Nobody is inside, so no region has to be in doubt. */
static int grown_locked(struct track *t, uint64_t old_size)
{
	static const uint64_t none[TRACK_REGIONS_MAX / 64];
	struct track_head h = t->book.head;
	SP_AUTO_FREE uint64_t *fine = NULL;
	int r;

	track_set_doubt(t, none);
	t->region_shift = track_region_shift(t->d->size);	/* also if the rest fails: no region past the last */
	r = resize_fine(t, old_size, t->d->size);
	if (r < 0)
		return r;
	memset(h.doubt, 0, sizeof(h.doubt));
	h.block_shift = t->block_shift;
	h.region_shift = t->region_shift;
	fine = track_fine_copy(t);
	r = fine ? track_book_put_bits(&t->book, fine, t->blocks, NULL, 0, &h.current) : -ENOMEM;
	if (r < 0)
		return r;
	track_bind_open(t->d, &h);
	return track_commit_locked(t, &h, NULL);
}

void disk_track_grown(struct vhd_disk *d, uint64_t old_size)
{
	struct track *t = track_of(d);
	int r;

	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	if (!atomic_load(&t->off) && !t->dead) {
		r = grown_locked(t, old_size);
		t->bound = r == 0;
		if (r < 0)
			track_end_locked(t, r);
	}
	pthread_mutex_unlock(&t->lock);
}

/* ---- start ---------------------------------------------------------------------------------------- */

void track_free(struct track *t)
{
	track_book_free(&t->book);
	store_close(t->book.store);
	if (t->owns_folder)
		store_folder_close(t->folder);
	pthread_mutex_destroy(&t->lock);
	pthread_cond_destroy(&t->idle);
	put_fine(t, NULL);
	sp_free(t->name);
	sp_free(t);
}

/* A book with nothing in it, in a new file. */
static int start_empty(struct track *t, struct sp_err *err)
{
	struct track_head h = { .block_shift = t->block_shift, .region_shift = t->region_shift };
	int r = store_folder_open(t->folder, t->name, STORE_RDWR | STORE_CREATE | STORE_REGULAR, &t->book.store, err);

	if (r < 0)
		return r;
	track_bind_open(t->d, &h);
	t->book.head = h;
	t->book.point = sp_calloc(1, sizeof(*t->book.point));
	r = t->book.point ? track_book_create(&t->book) : -ENOMEM;
	if (r == 0)
		r = store_folder_sync(t->folder, t->name);
	return r < 0 ? sp_err_set(err, r, "cannot write the side-car: %s", strerror(-r)) : 0;
}

/* What an earlier open left: exact and closed it stays as it is; otherwise the file says from now on what is known. */
static int start_known(struct track *t, struct sp_err *err)
{
	struct track_head h = t->book.head;
	enum vhd_track_why why = track_bind_check(t->d, &h);
	struct track_sum sum;
	int r = track_sum_init(&sum, t->d->size, t->block_shift);

	if (r < 0)
		return sp_err_set(err, r, "out of memory");
	put_fine(t, sum.bits);
	if (why == VHD_TRACK_EXACT) {
		r = track_add_current(&t->book, &sum);
		why = r == -EBADMSG ? VHD_TRACK_DAMAGED : VHD_TRACK_EXACT;
	}
	if (r < 0 && r != -EBADMSG)
		return sp_err_set(err, r, "cannot read the bitmap: %s", strerror(-r));
	if (why == VHD_TRACK_EXACT && h.clean && h.block_shift == t->block_shift && h.region_shift == t->region_shift)
		return 0;
	if (h.why == VHD_TRACK_EXACT)
		h.why = why;
	h.block_shift = t->block_shift;
	h.region_shift = t->region_shift;
	memset(h.doubt, 0, sizeof(h.doubt));
	track_bind_open(t->d, &h);
	r = track_book_put_bits(&t->book, sum.bits, t->blocks, NULL, 0, &h.current);
	if (r == 0)
		r = store_sync(t->book.store);
	if (r == 0)
		r = track_book_put_head(&t->book, &h);
	return r < 0 ? sp_err_set(err, r, "cannot write the side-car: %s", strerror(-r)) : 0;
}

static int start_file(struct track *t, bool create, struct sp_err *err)
{
	int r = store_folder_open(t->folder, t->name, STORE_RDWR | STORE_REGULAR, &t->book.store, err);

	if (r == -ENOENT && create)
		return start_empty(t, err);
	if (r < 0)
		return r;
	r = track_book_read(t->book.store, &t->book, err);
	if (r == 0)
		return start_known(t, err);
	if (r != -EBADMSG || !create)
		return r;
	store_close(sp_take(t->book.store));
	r = store_folder_unlink(t->folder, t->name);
	return r < 0 ? sp_err_set(err, r, "cannot remove the damaged side-car: %s", strerror(-r)) :
		       start_empty(t, err);
}

static struct track *track_new(struct vhd_disk *d)
{
	struct track *t = sp_zalloc(sizeof(*t));

	if (!t)
		return NULL;
	t->d = d;
	t->block_shift = track_block_shift(d->size);
	t->region_shift = track_region_shift(d->size);
	t->blocks = track_blocks(d->size, t->block_shift);
	t->work.run = rest_work;
	t->rest_at = sp_env_monotonic_ns() + REST_NS;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->idle, NULL);
	t->fine = sp_zalloc(sp_max(track_bitmap_bytes(t->blocks), 8));
	if (t->fine)
		return t;
	track_free(t);
	return NULL;
}

int track_start_locked(struct vhd_disk *d, bool create, struct sp_err *err)
{
	struct track *t = track_new(d);
	int r;

	if (!t)
		return sp_err_set(err, -ENOMEM, "out of memory");
	r = track_place(d, &t->folder, &t->owns_folder, &t->name, err);
	if (r == 0) {
		r = start_file(t, create, err);
		if (r < 0)
			sp_err_prefix(err, r, "%s", t->name);
	}
	if (r < 0) {
		track_free(t);
		return r;
	}
	atomic_store_explicit(&d->track, t, memory_order_release);
	return 0;
}

/* ---- end ------------------------------------------------------------------------------------------ */

void disk_track_closing(struct vhd_disk *d)
{
	struct track *t = track_of(d);
	uint64_t any = 0;

	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	while (t->posted)
		pthread_cond_wait(&t->idle, &t->lock);
	for (size_t i = 0; i < SP_ARRAY_SIZE(t->doubt); i++)
		any |= t->book.head.doubt[i];
	if (!atomic_load(&t->off) && !t->dead)
		t->tidy = any == 0 || track_checkpoint_locked(t, t->book.head.doubt) == 0;
	pthread_mutex_unlock(&t->lock);
}

/* The file is told from any later state of it while its lock is still held: nobody can write in between unseen. */
static void say_clean(struct track *t)
{
	struct track_head h = t->book.head;
	int r = track_bind_clean(t->d, &h);

	if (r == 0 && memcmp(&h, &t->book.head, sizeof(h)) != 0)
		r = track_book_put_head(&t->book, &h);
	if (r < 0)
		sp_debug("track", t->name, "the end is not recorded: %s", strerror(-r));
}

void disk_track_closed(struct vhd_disk *d, bool abandon)
{
	struct track *t = track_of(d);

	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	while (t->posted)
		pthread_cond_wait(&t->idle, &t->lock);
	if (!abandon && t->tidy)
		say_clean(t);
	pthread_mutex_unlock(&t->lock);
	atomic_store(&d->track, NULL);
	track_free(t);
}
