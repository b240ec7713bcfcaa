/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Tracking on and off, and the points. A new point closes the interval of the one before: its bits go into the file for
 * good, and the current bitmap begins empty. Forgetting a point gives its changes to the one before.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/env.h"
#include "base/seed.h"
#include "vhd/track_int.h"

#define DRAIN_MS 10000

int track_find(const struct track_book *b, const char *point)
{
	struct sp_guid id;

	for (uint32_t i = 0; i < b->head.points; i++)
		if (strcmp(b->point[i].name, point) == 0)
			return (int)i;
	if (sp_guid_parse_le(point, &id) < 0)
		return -1;
	for (uint32_t i = 0; i < b->head.points; i++)
		if (sp_guid_equal(&b->point[i].id, &id))
			return (int)i;
	return -1;
}

/* ---- on and off ----------------------------------------------------------------------------------- */

static int drain(struct vhd_disk *d, struct sp_err *err)
{
	int r = vhd_disk_drain(d, DRAIN_MS);

	return r < 0 ? sp_err_set(err, r, "I/O does not end within %d s", DRAIN_MS / 1000) : 0;
}

static bool recording(struct vhd_disk *d)
{
	struct track *t = track_of(d);

	return t && !atomic_load(&t->off);
}

bool vhd_disk_tracked(struct vhd_disk *d)
{
	bool on;

	pthread_mutex_lock(&d->track_calls);
	on = recording(d);
	pthread_mutex_unlock(&d->track_calls);
	return on;
}

static int track_on(struct vhd_disk *d, bool create, struct sp_err *err)
{
	int r;

	if (recording(d))
		return 0;
	r = drain(d, err);
	if (r < 0)
		return r;
	disk_track_closed(d, true);
	r = track_start_locked(d, create, err);
	vhd_disk_resume(d);
	return r;
}

int vhd_disk_track(struct vhd_disk *d, bool create, struct sp_err *err)
{
	int r;

	if (!d->writable)
		return sp_err_set(err, -EROFS, "the disk is open read-only");
	if (d->leaf->store->is_device)
		return sp_err_set(err, -ENOTSUP, "%s is a block device: nothing there tells that another program wrote",
				  d->leaf->name);
	pthread_mutex_lock(&d->track_calls);
	r = track_on(d, create, err);
	pthread_mutex_unlock(&d->track_calls);
	return r;
}

static int track_away(struct vhd_disk *d, struct sp_err *err)
{
	struct track *t = track_of(d);
	int r;

	if (!t)
		return 0;
	r = drain(d, err);
	if (r < 0)
		return r;
	/* First the file: as long as it may be found, it has to be right. */
	r = store_folder_unlink(t->folder, t->name);
	if (r == 0 || r == -ENOENT)
		r = store_folder_sync(t->folder, t->name);
	if (r == 0)
		disk_track_closed(d, true);
	else
		sp_err_set(err, r, "cannot delete %s: %s", t->name, strerror(-r));
	vhd_disk_resume(d);
	return r;
}

int vhd_track_off(struct vhd_disk *d, struct sp_err *err)
{
	int r;

	pthread_mutex_lock(&d->track_calls);
	r = track_away(d, err);
	pthread_mutex_unlock(&d->track_calls);
	return r;
}

/* ---- a new point ---------------------------------------------------------------------------------- */

static int name_ok(const struct track_book *b, const char *name, struct sp_err *err)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < len; i++)
		if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f || name[i] == '/')
			return sp_err_set(err, -EINVAL, "a point's name has no control characters and no '/'");
	if (len == 0 || len >= VHD_TRACK_NAME_MAX)
		return sp_err_set(err, -EINVAL, "a point's name has 1 to %d bytes, not %zu", VHD_TRACK_NAME_MAX - 1,
				  len);
	if (track_find(b, name) >= 0)
		return sp_err_set(err, -EEXIST, "there is a point %s already", name);
	if (b->head.points == VHD_TRACK_POINTS_MAX)
		return sp_err_set(err, -ENFILE, "there are %d points already; forget one", VHD_TRACK_POINTS_MAX);
	return 0;
}

static struct track_point *points_copy(const struct track_book *b, uint32_t room)
{
	struct track_point *p = sp_calloc(sp_max(room, 1), sizeof(*p));

	if (p && b->head.points)
		memcpy(p, b->point, sp_min(b->head.points, room) * sizeof(*p));
	return p;
}

/* The interval that ends belongs to the last point there was; without one nobody can ask for it. */
static int close_interval(struct track *t, struct track_point *last, struct sp_err *err)
{
	SP_AUTO_FREE uint64_t *fine = track_fine_copy(t);
	int r;

	if (!fine)
		return sp_err_set(err, -ENOMEM, "out of memory");
	last->blocks = t->blocks;
	last->block_shift = t->block_shift;
	last->why = t->book.head.why;
	r = track_book_put_bits(&t->book, fine, t->blocks, NULL, 0, &last->bits);
	return r < 0 ? sp_err_set(err, r, "cannot write the bitmap: %s", strerror(-r)) : 0;
}

static void begin_interval(struct track *t)
{
	for (size_t w = 0; w < track_bitmap_bytes(t->blocks) / 8; w++)
		atomic_store(&t->fine[w], 0);
}

/* Regions written to lately are written to again: they stay in doubt, so that the guest does not wait for each. */
static void keep_touched(struct track *t, struct track_head *h)
{
	uint64_t touched[TRACK_REGIONS_MAX / 64];

	track_take_touched(t, touched);
	for (size_t i = 0; i < SP_ARRAY_SIZE(touched); i++)
		h->doubt[i] &= touched[i];
}

/* The header that makes the point be; it names the leaf, which a snapshot may just have put there. */
static int put_point(struct track *t, const struct track_point *p, uint32_t points, struct track_head *h,
		     struct sp_err *err)
{
	struct vhd_disk *d = t->d;
	unsigned closed = points > 1;
	int r = 0;

	/* An older copy of the file, put back after a crash, has another identity and is not taken for this one. */
	if (d->begun && d->leaf->format->id == VHD_FORMAT_VHDX)
		r = track_renew_identity(d);
	if (r < 0)
		return sp_err_set(err, r, "cannot give %s another identity: %s", d->leaf->name, strerror(-r));
	keep_touched(t, h);
	track_bind_open(d, h);
	h->why = VHD_TRACK_EXACT;
	h->current = (struct track_extent){ 0 };
	h->points = points;
	r = track_book_put_table(&t->book, p, points, closed ? &p[points - 2].bits : NULL, closed, &h->table);
	return r < 0 ? sp_err_set(err, r, "cannot write the table of points: %s", strerror(-r)) : 0;
}

static int add_point(struct track *t, const char *name, struct sp_guid *ret_id, struct sp_err *err)
{
	struct track_head h = t->book.head;
	uint32_t points = h.points + 1;
	struct track_point *p = points_copy(&t->book, points);
	int r = p ? 0 : sp_err_set(err, -ENOMEM, "out of memory");

	if (r == 0 && points > 1)
		r = close_interval(t, &p[points - 2], err);
	if (r == 0) {
		p[points - 1].time = sp_env_time();
		p[points - 1].block_shift = t->block_shift;
		memcpy(p[points - 1].name, name, strlen(name) + 1);
		sp_env_guid(&p[points - 1].id);
		r = put_point(t, p, points, &h, err);
	}
	if (r == 0) {
		r = track_commit_locked(t, &h, p);
		if (r < 0)
			sp_err_set(err, r, "cannot write the side-car: %s", strerror(-r));
	}
	if (r < 0) {
		sp_free(p);
		return r;
	}
	begin_interval(t);
	t->bound = t->d->begun;
	track_set_doubt(t, t->bound ? t->book.head.doubt : (uint64_t[TRACK_REGIONS_MAX / 64]){ 0 });
	if (ret_id)
		*ret_id = p[points - 1].id;
	return 0;
}

/* Under track_calls. */
static int usable(struct vhd_disk *d, struct sp_err *err)
{
	struct track *t = track_of(d);

	if (!t)
		return sp_err_set(err, -ENOENT, "changes of this disk are not tracked");
	if (atomic_load(&t->off) || t->dead)
		return sp_err_set(err, -EIO, "tracking ended: the side-car could not be written (%s)",
				  strerror(-t->why_off));
	return 0;
}

static int point_drained(struct vhd_disk *d, const char *name, struct sp_guid *ret_id, struct sp_err *err)
{
	struct track *t = track_of(d);
	int r;

	/* What a backup reads of this moment must not be taken back by a power cut. */
	r = SP_SEED_BUG(TRACK_POINT_NO_FLUSH) ? 0 : disk_flush(d);
	if (r < 0)
		return sp_err_set(err, r, "cannot flush the disk: %s", strerror(-r));
	pthread_mutex_lock(&t->lock);
	r = usable(d, err);
	if (r == 0)
		r = name_ok(&t->book, name, err);
	if (r == 0)
		r = add_point(t, name, ret_id, err);
	pthread_mutex_unlock(&t->lock);
	return r;
}

int vhd_track_point_drained(struct vhd_disk *d, const char *name, struct sp_guid *ret_id, struct sp_err *err)
{
	int r;

	pthread_mutex_lock(&d->track_calls);
	r = usable(d, err);
	if (r == 0)
		r = point_drained(d, name, ret_id, err);
	pthread_mutex_unlock(&d->track_calls);
	return r;
}

int vhd_track_point(struct vhd_disk *d, const char *name, struct sp_guid *ret_id, struct sp_err *err)
{
	int r;

	pthread_mutex_lock(&d->track_calls);
	r = usable(d, err);
	if (r == 0) {
		disk_flush(d);		/* most of it while I/O goes on; the one that counts comes later */
		r = drain(d, err);
	}
	if (r == 0) {
		r = point_drained(d, name, ret_id, err);
		vhd_disk_resume(d);
	}
	pthread_mutex_unlock(&d->track_calls);
	return r;
}

/* ---- forgetting ----------------------------------------------------------------------------------- */

static enum vhd_track_why worse(enum vhd_track_why a, enum vhd_track_why b)
{
	return a != VHD_TRACK_EXACT ? a : b;
}

static int add_point_bits(const struct track_book *b, const struct track_point *p, struct track_sum *sum,
			  enum vhd_track_why *why)
{
	int r = track_book_add_bits(b, &p->bits, p->blocks, p->block_shift, sum);

	if (r == -EBADMSG)
		*why = worse(*why, VHD_TRACK_DAMAGED);
	return r == -EBADMSG ? 0 : r;
}

/* The changes before point @i and those after it become one interval. The sum is the result. */
static int join(struct track *t, struct track_point *p, uint32_t i, struct track_sum *sum, struct track_head *h)
{
	bool last = i + 1 == h->points;
	enum vhd_track_why *why = last ? &h->why : &p[i - 1].why, other = last ? p[i - 1].why : p[i].why;
	int r;

	*why = worse(*why, other);
	r = add_point_bits(&t->book, &p[i - 1], sum, why);
	if (r == 0 && !last)
		r = add_point_bits(&t->book, &p[i], sum, why);
	if (r < 0)
		return r;
	if (last) {
		/* Writers may be at it: bits are only ever added, and what is added now is in the copy below. */
		for (size_t w = 0; w < track_bitmap_bytes(t->blocks) / 8; w++)
			atomic_fetch_or(&t->fine[w], sum->bits[w]);
		for (size_t w = 0; w < track_bitmap_bytes(t->blocks) / 8; w++)
			sum->bits[w] = atomic_load(&t->fine[w]);
		p[i - 1].bits = (struct track_extent){ 0 };
		p[i - 1].why = VHD_TRACK_EXACT;
		return track_book_put_bits(&t->book, sum->bits, sum->blocks, NULL, 0, &h->current);
	}
	p[i - 1].blocks = sum->blocks;
	p[i - 1].block_shift = sum->shift;
	return track_book_put_bits(&t->book, sum->bits, sum->blocks, NULL, 0, &p[i - 1].bits);
}

static int forget_at(struct track *t, uint32_t i)
{
	struct track_head h = t->book.head;
	struct track_point *p = points_copy(&t->book, h.points);
	struct track_sum sum = { 0 };
	struct track_extent also;
	int r = p ? track_sum_init(&sum, t->d->size, t->block_shift) : -ENOMEM;

	if (r == 0 && i > 0)
		r = join(t, p, i, &sum, &h);
	if (r == 0) {
		also = i == 0 ? (struct track_extent){ 0 } : i + 1 == h.points ? h.current : p[i - 1].bits;
		memmove(&p[i], &p[i + 1], (h.points - i - 1) * sizeof(*p));
		h.points--;
		r = track_book_put_table(&t->book, p, h.points, &also, 1, &h.table);
	}
	if (r == 0)
		r = track_commit_locked(t, &h, p);
	if (r < 0)
		sp_free(p);
	sp_free(sum.bits);
	return r;
}

static int forget(struct track *t, const char *point, struct sp_err *err)
{
	int i = track_find(&t->book, point), r;

	if (i < 0)
		return sp_err_set(err, -ENOENT, "there is no point %s", point);
	r = forget_at(t, (uint32_t)i);
	return r < 0 ? sp_err_set(err, r, "cannot write the side-car: %s", strerror(-r)) : 0;
}

int vhd_track_forget(struct vhd_disk *d, const char *point, struct sp_err *err)
{
	int r;

	pthread_mutex_lock(&d->track_calls);
	r = usable(d, err);
	if (r == 0) {
		pthread_mutex_lock(&track_of(d)->lock);
		r = forget(track_of(d), point, err);
		pthread_mutex_unlock(&track_of(d)->lock);
	}
	pthread_mutex_unlock(&d->track_calls);
	return r;
}
