/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Answers. A tracked disk has them in memory and in the side-car it holds; of any other disk the side-car is read as it
 * lies there, which may be while another process writes it: then until the same header was seen before and after.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "vhd/track_int.h"

#define READ_TRIES 20

struct query {
	const char *since, *until;
	struct track_sum sum;
	enum vhd_track_why why;
	char detail[128];
};

static const char *const reasons[] = {
	[VHD_TRACK_EXACT] = "",
	[VHD_TRACK_OFF] = "changes of this disk are not tracked: it has no side-car",
	[VHD_TRACK_DAMAGED] = "the side-car is damaged",
	[VHD_TRACK_FOREIGN] = "the image was written, replaced or moved without its changes being tracked",
	[VHD_TRACK_UNCLEAN] = "the image is in use or was not closed in order, and its format cannot tell who wrote",
	[VHD_TRACK_FAILED] = "the side-car could not be written",
	[VHD_TRACK_NO_POINT] = "there is no such point",
};

/* ---- one book ------------------------------------------------------------------------------------- */

static int add_interval(const struct track_book *b, uint32_t i, struct track *t, struct query *q)
{
	const struct track_point *p = &b->point[i];
	SP_AUTO_FREE uint64_t *fine = NULL;

	if (i + 1 < b->head.points) {
		if (q->why == VHD_TRACK_EXACT)
			q->why = p->why;
		return track_book_add_bits(b, &p->bits, p->blocks, p->block_shift, &q->sum);
	}
	if (q->why == VHD_TRACK_EXACT)
		q->why = b->head.why;
	if (!t)
		return track_add_current(b, &q->sum);
	fine = track_fine_copy(t);
	for (uint64_t w = 0; fine && w < track_bitmap_bytes(t->blocks) / 8; w++)
		q->sum.bits[w] |= fine[w];
	return fine ? 0 : -ENOMEM;
}

static int lost(struct query *q, enum vhd_track_why why, const char *detail)
{
	q->why = why;
	snprintf(q->detail, sizeof(q->detail), "%s", detail);
	return 0;
}

/* @t: whose bits in memory are the current interval; NULL: what the file has of it. */
static int ask_book(const struct track_book *b, struct track *t, struct query *q, struct sp_err *err)
{
	int from = track_find(b, q->since), to = q->until ? track_find(b, q->until) : (int)b->head.points, r = 0;

	if (from < 0 || to < 0)
		return lost(q, VHD_TRACK_NO_POINT, from < 0 ? q->since : q->until);
	if (to < from)
		return sp_err_set(err, -EINVAL, "point %s is older than %s", q->until, q->since);
	for (int i = from; r == 0 && i < to; i++)
		r = add_interval(b, (uint32_t)i, t, q);
	if (r == -EBADMSG)
		return lost(q, VHD_TRACK_DAMAGED, "a bitmap has another checksum");
	return r < 0 ? sp_err_set(err, r, "cannot read the side-car: %s", strerror(-r)) : 0;
}

/* ---- books of disks that are not tracked ---------------------------------------------------------- */

static int open_book(struct vhd_disk *d, struct store **ret, struct sp_err *err)
{
	struct store_folder *folder;
	SP_AUTO_FREE char *name = NULL;
	bool owns;
	int r = track_place(d, &folder, &owns, &name, err);

	if (r < 0)
		return r;
	r = store_folder_open(folder, name, STORE_NO_LOCK | STORE_REGULAR, ret, err);
	if (owns)
		store_folder_close(folder);
	return r;
}

/* The interval that is not closed speaks of the image as it is now, the others of what was. */
static void distrust_current(struct vhd_disk *d, struct track_book *b)
{
	enum vhd_track_why why;

	pthread_mutex_lock(&d->meta);	/* a snapshot or a merge may be changing the chain */
	why = track_bind_check(d, &b->head);
	pthread_mutex_unlock(&d->meta);
	if (b->head.why == VHD_TRACK_EXACT)
		b->head.why = why;
}

static bool unchanged(struct store *store, const struct track_head *h)
{
	struct track_book now;

	if (track_book_read(store, &now, NULL) < 0)
		return false;
	track_book_free(&now);
	return now.head.sequence == h->sequence;
}

/* Calls @ask with a book that was the same before and after. -EBADMSG: there was none to be had. */
static int with_book(struct vhd_disk *d, struct store *store,
		     int (*ask)(const struct track_book *b, void *arg, struct sp_err *err), void *arg,
		     struct sp_err *err)
{
	for (unsigned i = 0; i < READ_TRIES; i++) {
		struct track_book b;
		bool same;
		int r = track_book_read(store, &b, err);

		if (r == -EBADMSG)
			continue;	/* for good, or caught in the middle */
		if (r < 0)
			return r;
		if (err)
			err->code = 0;	/* of an earlier try */
		distrust_current(d, &b);
		r = ask(&b, arg, err);
		same = unchanged(store, &b.head);
		track_book_free(&b);
		if (same)
			return r;
	}
	return -EBADMSG;
}

static int ask_foreign(const struct track_book *b, void *arg, struct sp_err *err)
{
	struct query *q = arg;

	q->why = VHD_TRACK_EXACT;
	memset(q->sum.bits, 0, track_bitmap_bytes(q->sum.blocks));
	return ask_book(b, NULL, q, err);
}

/* 0 with a book's answer or with the reason why there is none. */
static int ask_untracked(struct vhd_disk *d, struct query *q, struct sp_err *err)
{
	struct sp_err why = { 0 };
	struct store *store;
	int r = open_book(d, &store, &why);

	if (r == -ENOENT)
		return lost(q, VHD_TRACK_OFF, "");
	if (r == 0) {
		r = with_book(d, store, ask_foreign, q, &why);
		store_close(store);
	}
	if (r == -ENOMEM || r == -EINVAL)
		return sp_err_set(err, r, "%s", sp_err_text(&why));
	return r < 0 ? lost(q, VHD_TRACK_DAMAGED, sp_err_text(&why)) : 0;
}

/* Under track_calls. */
static int ask_disk(struct vhd_disk *d, struct query *q, struct sp_err *err)
{
	struct track *t = track_of(d);
	int r;

	if (!t)
		return ask_untracked(d, q, err);
	pthread_mutex_lock(&t->lock);
	if (atomic_load(&t->off) || t->dead)
		r = lost(q, VHD_TRACK_FAILED, strerror(-t->why_off));
	else
		r = ask_book(&t->book, t, q, err);
	pthread_mutex_unlock(&t->lock);
	return r;
}

/* ---- telling -------------------------------------------------------------------------------------- */

static bool bit(const struct track_sum *sum, uint64_t b)
{
	return sum->bits[b / 64] >> b % 64 & 1;
}

static int tell(const struct track_sum *sum, vhd_track_range_fn fn, void *user, struct vhd_track_answer *a)
{
	uint64_t b = 0;

	while (b < sum->blocks) {
		uint64_t from, to;
		int r;

		if (!bit(sum, b)) {
			b = sum->bits[b / 64] >> b % 64 ? b + 1 : (b / 64 + 1) * 64;
			continue;
		}
		for (from = b++; b < sum->blocks && bit(sum, b);)
			b++;
		to = sp_min(b << sum->shift, sum->size);
		from <<= sum->shift;
		a->bytes += to - from;
		r = fn ? fn(user, from, to - from) : 0;
		if (r != 0)
			return r;
	}
	return 0;
}

static void explain(const struct query *q, struct vhd_track_answer *a)
{
	snprintf(a->reason, sizeof(a->reason), "%s%s%s", reasons[q->why], q->detail[0] ? ": " : "", q->detail);
}

int vhd_track_changes(struct vhd_disk *d, const char *since, const char *until, vhd_track_range_fn fn, void *user,
		      struct vhd_track_answer *ret_answer, struct sp_err *err)
{
	struct query q = { .since = since, .until = until };
	struct vhd_track_answer a = { 0 };
	int r;

	pthread_mutex_lock(&d->track_calls);
	r = track_sum_init(&q.sum, d->size, track_block_shift(d->size));
	if (r == 0)
		r = ask_disk(d, &q, err);
	else
		sp_err_set(err, r, "out of memory");
	pthread_mutex_unlock(&d->track_calls);
	if (r == 0) {
		a.why = q.why;
		a.size = q.sum.size;
		a.granularity = (uint32_t)sp_min(UINT64_C(1) << q.sum.shift, UINT64_C(1) << 31);
		explain(&q, &a);
		if (a.why != VHD_TRACK_EXACT)
			track_sum_range(&q.sum, 0, q.sum.size);
		r = tell(&q.sum, fn, user, &a);
	}
	if (r == 0 && ret_answer)
		*ret_answer = a;
	sp_free(q.sum.bits);
	return r;
}

/* ---- list ----------------------------------------------------------------------------------------- */

struct listing {
	struct vhd_track_point *point;
	size_t count;
};

static int list_book(const struct track_book *b, void *arg, struct sp_err *err)
{
	struct vhd_track_point *list = sp_calloc(sp_max(b->head.points, 1), sizeof(*list));
	enum vhd_track_why why = b->head.why;
	struct listing *l = arg;

	if (!list)
		return sp_err_set(err, -ENOMEM, "out of memory");
	for (uint32_t i = b->head.points; i-- > 0;) {
		const struct track_point *p = &b->point[i];

		if (i + 1 < b->head.points && p->why != VHD_TRACK_EXACT)
			why = p->why;
		list[i] = (struct vhd_track_point){ .id = p->id, .time = p->time, .why = why };
		memcpy(list[i].name, p->name, sizeof(list[i].name));
	}
	sp_free(l->point);
	*l = (struct listing){ list, b->head.points };
	return 0;
}

static int list_untracked(struct vhd_disk *d, struct listing *l, struct sp_err *err)
{
	struct store *store;
	int r = open_book(d, &store, err);

	if (r < 0)
		return r;
	r = with_book(d, store, list_book, l, err);
	store_close(store);
	return r;
}

int vhd_track_list(struct vhd_disk *d, struct vhd_track_point **ret_list, size_t *ret_count, struct sp_err *err)
{
	struct listing l = { 0 };
	struct track *t;
	int r;

	pthread_mutex_lock(&d->track_calls);
	t = track_of(d);
	if (t) {
		pthread_mutex_lock(&t->lock);
		r = list_book(&t->book, &l, err);
		pthread_mutex_unlock(&t->lock);
	} else {
		r = list_untracked(d, &l, err);
	}
	pthread_mutex_unlock(&d->track_calls);
	if (r < 0) {
		sp_free(l.point);
		return r;
	}
	*ret_list = l.point;
	*ret_count = l.count;
	return 0;
}

void vhd_track_list_free(struct vhd_track_point *list)
{
	sp_free(list);
}
