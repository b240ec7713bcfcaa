/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Power cuts while a VHDX is written. A store between the image and its file remembers what has been synced and what
 * came after; at writes and syncs it now and then imagines a cut: any part of what was not synced is lost, a write may
 * be torn at 512 bytes. The image must open again and hold what had been flushed, and of unflushed places nothing but
 * their own bytes. The same store can let the n-th operation fail instead.
 */
#include "tests/unit/rows.h"
#include "tests/unit/vhdx_driver.h"

#include "base/alloc.h"

#include <errno.h>
#include <stdio.h>

#define PENDING_MAX 4096

struct op {
	enum store_op kind;
	uint64_t offset, len;
	uint8_t *data;
};

struct tap {
	struct store base;
	struct store *inner;
	struct drv *d;
	struct mem_file *durable;	/* as of the last completed sync */
	struct op pending[PENDING_MAX];
	unsigned count;
	unsigned every;			/* imagine a cut at one in so many operations, 0: none and record nothing */
	unsigned at_sync;		/* and so many before each sync */
	bool header;			/* one was written since the last sync: worth some more */
	unsigned cuts;
	int fail_in;			/* this many operations from now fails, and all that follow; < 0: none */
	int fail_with;
	bool open;			/* the image is open: the model holds */
};

/* ---- one cut ------------------------------------------------------------------------------------- */

static void apply(struct tap *t, struct store *s, const struct op *op, bool torn)
{
	uint64_t len = op->len;

	switch (op->kind) {
	case STORE_WRITE:
		if (torn)
			len = drv_random(t->d) % (op->len / UNIT + 1) * UNIT;
		if (len > 0)
			assert_int_equal(store_write(s, op->data, len, op->offset), 0);
		break;
	case STORE_PUNCH:
		assert_int_equal(store_punch(s, op->offset, op->len), 0);
		break;
	case STORE_ZERO:
		assert_int_equal(store_zero(s, op->offset, op->len), 0);
		break;
	default:
		assert_int_equal(store_resize(s, op->offset), 0);
	}
}

static void look(struct drv *d, struct mem_file *file, unsigned flags)
{
	struct sp_err err = { 0 };
	struct vhd_image *img;
	struct store *s;

	assert_int_equal(mem_file_open(file, "cut.vhdx", flags & VHD_IMG_WRITABLE, &s), 0);
	drv_fail(vhd_image_open(s, "cut.vhdx", &vhd_format_vhdx, flags, &img, &err), &err);
	drv_check(d, img, true, NULL);
	vhd_image_close(img, true);
}

static void cut(struct tap *t)
{
	unsigned keep = drv_random(t->d) % 4;	/* nothing, the beginning, most, half */
	unsigned prefix = drv_random(t->d) % (t->count + 1);
	struct mem_file *file;
	struct store *s;

	assert_int_equal(mem_file_clone(t->durable, &file), 0);
	assert_int_equal(mem_file_open(file, "cut.vhdx", true, &s), 0);
	for (unsigned i = 0; i < t->count; i++) {
		unsigned dice = drv_random(t->d) % 100;

		if ((keep == 1 && i < prefix) || (keep == 2 && dice < 90) || (keep == 3 && dice < 50))
			apply(t, s, &t->pending[i], dice % 10 == 0);
	}
	store_close(s);
	drv_examine(file);
	look(t->d, file, 0);			/* replayed in memory */
	look(t->d, file, VHD_IMG_WRITABLE);	/* replayed in the file */
	mem_file_put(file);
	t->cuts++;
}

/* ---- the store in between ------------------------------------------------------------------------ */

static struct tap *tap_of(struct store *s)
{
	return (struct tap *)s;
}

static void forget(struct tap *t)
{
	for (unsigned i = 0; i < t->count; i++)
		free(t->pending[i].data);
	t->count = 0;
}

static int before(struct tap *t)
{
	if (t->open && t->every > 0 && drv_random(t->d) % t->every == 0)
		cut(t);
	if (t->fail_in > 0)
		t->fail_in--;
	return t->fail_in == 0 ? t->fail_with : 0;
}

static int record(struct tap *t, enum store_op kind, uint64_t offset, uint64_t len, uint8_t *data)
{
	if (t->every > 0) {
		assert_true(t->count < PENDING_MAX);
		t->pending[t->count++] = (struct op){ kind, offset, len, data };
	} else {
		free(data);
	}
	return 0;
}

static int tap_readv(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	return store_readv(tap_of(s)->inner, iov, iovcnt, offset);
}

static int tap_writev(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct tap *t = tap_of(s);
	uint64_t len = 0, at = 0;
	uint8_t *data;
	int r = before(t);

	for (int i = 0; i < iovcnt; i++)
		len += iov[i].iov_len;
	if (r == 0)
		r = store_writev(t->inner, iov, iovcnt, offset);
	if (r < 0)
		return r;
	t->header |= offset < VHDX_REGION_TABLE_OFFSET(0);
	data = malloc(len);
	assert_non_null(data);
	for (int i = 0; i < iovcnt; at += iov[i++].iov_len)
		memcpy(data + at, iov[i].iov_base, iov[i].iov_len);
	return record(t, STORE_WRITE, offset, len, data);
}

static int tap_sync(struct store *s)
{
	struct tap *t = tap_of(s);
	int r = before(t);

	if (r < 0)
		return r;
	for (unsigned i = t->header ? 0 : 4; i < 4 + t->at_sync && t->open && t->every > 0; i++)
		cut(t);
	t->header = false;
	if (t->every > 0) {
		mem_file_put(t->durable);
		assert_int_equal(mem_file_clone(t->d->file, &t->durable), 0);
	}
	forget(t);
	return 0;
}

static int tap_punch(struct store *s, uint64_t offset, uint64_t len)
{
	struct tap *t = tap_of(s);
	int r = before(t);

	if (r == 0)
		r = store_punch(t->inner, offset, len);
	return r < 0 ? r : record(t, STORE_PUNCH, offset, len, NULL);
}

static int tap_zero(struct store *s, uint64_t offset, uint64_t len)
{
	struct tap *t = tap_of(s);
	int r = before(t);

	if (r == 0)
		r = store_zero(t->inner, offset, len);
	return r < 0 ? r : record(t, STORE_ZERO, offset, len, NULL);
}

static int tap_resize(struct store *s, uint64_t size)
{
	struct tap *t = tap_of(s);
	int r = before(t);

	if (r == 0)
		r = store_resize(t->inner, size);
	return r < 0 ? r : record(t, STORE_RESIZE, size, 0, NULL);
}

static int tap_seek(struct store *s, uint64_t offset, bool hole, uint64_t *ret_offset)
{
	struct store *inner = tap_of(s)->inner;

	return hole ? store_seek_hole(inner, offset, ret_offset) : store_seek_data(inner, offset, ret_offset);
}

static int tap_size(struct store *s, uint64_t *ret_size)
{
	return store_size(tap_of(s)->inner, ret_size);
}

static void tap_close(struct store *s)
{
	struct tap *t = tap_of(s);

	forget(t);
	mem_file_put(t->durable);
	t->d->arg = NULL;
	store_close(t->inner);
	free(t);
}

static const struct store_ops tap_ops = {
	.name = "tap", .readv = tap_readv, .writev = tap_writev, .sync = tap_sync, .punch = tap_punch, .zero = tap_zero,
	.resize = tap_resize, .seek = tap_seek, .size = tap_size, .close = tap_close,
};

static unsigned tap_every, tap_at_sync;		/* of taps made from now on */

static struct tap *tap_now(struct drv *d)
{
	return d->arg;
}

static struct store *tap_wrap(struct drv *d, struct store *inner)
{
	struct tap *t = calloc(1, sizeof(*t));

	assert_non_null(t);
	t->base = (struct store){ .ops = &tap_ops, .name = inner->name, .id = inner->id, .writable = true };
	t->inner = inner;
	t->d = d;
	t->every = tap_every;
	t->at_sync = tap_at_sync;
	t->fail_in = -1;
	assert_int_equal(mem_file_clone(d->file, &t->durable), 0);
	d->arg = t;
	return &t->base;
}

/* ---- cuts ---------------------------------------------------------------------------------------- */

static const struct cut_case {
	const char *name;
	enum vhd_kind kind;
	uint64_t size;
	uint32_t block, sector;
	unsigned images, steps;		/* new images, and what is done to each */
	unsigned hot;			/* blocks written to, spread over the disk; 0: any */
	unsigned every, at_sync, flush_percent;
} cuts[] = {
	{ "dynamic", VHD_KIND_DYNAMIC, SP_MIB(6), 1 << 20, 512, 2, 120, 0, 9, 1, 25 },
	{ "dynamic, seldom flushed", VHD_KIND_DYNAMIC, SP_MIB(7) + 512 * 5, 2 << 20, 512, 1, 150, 0, 9, 2, 8 },
	{ "dynamic, several pages", VHD_KIND_DYNAMIC, SP_MIB(520), 1 << 20, 512, 4, 40, 4, 90, 3, 50 },
	{ "differencing", VHD_KIND_DIFFERENCING, SP_MIB(6), 1 << 20, 512, 1, 150, 0, 9, 1, 25 },
	{ "4 KiB sectors", VHD_KIND_DIFFERENCING, SP_MIB(5) + 4096 * 5, 1 << 20, 4096, 1, 150, 0, 9, 1, 25 },
	{ "first flushes", VHD_KIND_DIFFERENCING, SP_MIB(4), 1 << 20, 512, 25, 6, 0, 9, 2, 30 },
	{ "the log restarts", VHD_KIND_DIFFERENCING, SP_MIB(6), 1 << 20, 512, 1, 1500, 3, 90, 0, 50 },
};

static uint64_t pick_block(struct drv *d, const struct cut_case *c)
{
	uint64_t blocks = sp_div_ceil(d->size, c->block), n = c->hot ? c->hot : blocks;

	return drv_random(d) % n * ((blocks - 1) / (n - 1)) * c->block;
}

static void step(struct drv *d, const struct cut_case *c)
{
	unsigned what = drv_random(d) % 100;
	uint64_t block = pick_block(d, c), room = sp_min(c->block, d->size - block);
	uint64_t first = drv_random(d) % (room / c->sector) * c->sector, n = (1 + drv_random(d) % 12) * c->sector;

	if (what < c->flush_percent)
		assert_int_equal(drv_flush(d), 0);
	else if (what < c->flush_percent + 12)
		assert_int_equal(drv_discard(d, block, room), 0);
	else if (what < c->flush_percent + 16)
		assert_int_equal(drv_write(d, block, room), 0);
	else
		assert_int_equal(drv_write(d, block + first, sp_min(n, d->size - block - first)), 0);
}

static unsigned cut_image(const struct cut_case *c, unsigned seed)
{
	struct vhd_format_create create = {
		.size = c->size, .kind = c->kind, .block_size = c->block, .logical_sector = c->sector,
		.physical_sector = 4096, .parent_relative = c->kind == VHD_KIND_DIFFERENCING ? "base.vhdx" : NULL,
		.parent_identity = { { 1 } },
	};
	struct drv d = { .wrap = tap_wrap };
	unsigned seen = 0;

	drv_new(&d, &create, seed);
	for (unsigned i = 0; i < c->steps; i++) {
		tap_now(&d)->open = true;
		step(&d, c);
		if (i % 47 == 46 && c->every < 80) {
			seen += tap_now(&d)->cuts;
			drv_reopen(&d);
		}
	}
	seen += tap_now(&d)->cuts;
	tap_now(&d)->open = false;
	drv_check(&d, d.img, false, NULL);
	drv_free(&d);
	return seen;
}

static void cut_anywhere(void **state)
{
	const struct cut_case *c = *state;
	unsigned seen = 0;

	tap_every = c->every;
	tap_at_sync = c->at_sync;
	for (unsigned i = 0; i < c->images; i++)
		seen += cut_image(c, 1000 * i + c->steps + c->block);
	assert_true(seen >= 20);
}

/* ---- a batch of several entries, cut between them ------------------------------------------------ */

#define WIDE_CHUNKS 96u

/* Zero descriptor, bitmap page and BAT pages of each chunk: more than two log entries hold. Each prefix is an image. */
static void prefixes_are_images(void **state)
{
	struct vhd_format_create create = {
		.size = WIDE_CHUNKS * SP_GIB(4), .kind = VHD_KIND_DIFFERENCING, .block_size = 1 << 20,
		.logical_sector = 512, .physical_sector = 4096,
		.parent_relative = "base.vhdx", .parent_identity = { { 1 } },
	};
	struct drv d = { .wrap = tap_wrap, .size = create.size };
	struct sp_err err = { 0 };
	uint8_t buf[UNIT] = { 1 };
	struct vhd_flush *b;
	struct store *s;
	struct tap *t;
	uint64_t n;

	(void)state;
	tap_every = 1;			/* record, but never imagine anything: the tap is told of no open image */
	assert_int_equal(mem_file_new(0, 0, &d.file), 0);
	assert_int_equal(mem_file_open(d.file, "t.vhdx", true, &s), 0);
	drv_fail(vhd_format_vhdx.create(s, &create, &err), &err);
	store_close(s);
	drv_open(&d);
	t = tap_now(&d);
	assert_int_equal(d.img->format->begin_write(d.img), 0);
	for (unsigned i = 0; i < WIDE_CHUNKS; i++)
		assert_int_equal(drv_write_some(&d, buf, i * SP_GIB(4), UNIT, &n), 0);
	assert_int_equal(d.img->format->flush_begin(d.img, &b), 0);
	t->fail_in = 5;			/* barrier, three entries, and the sync that would end it */
	t->fail_with = -EIO;
	assert_int_equal(d.img->format->flush_write(d.img, b), -EIO);
	d.img->format->flush_end(d.img, b, -EIO);
	assert_int_equal(t->count, 3);
	for (unsigned keep = 0; keep <= t->count; keep++) {
		struct mem_file *file;
		struct vhd_image *img;
		struct vhd_place p;

		assert_int_equal(mem_file_clone(t->durable, &file), 0);
		assert_int_equal(mem_file_open(file, "cut.vhdx", true, &s), 0);
		for (unsigned i = 0; i < keep; i++)
			apply(t, s, &t->pending[i], false);
		drv_fail(vhd_image_open(s, "cut.vhdx", &vhd_format_vhdx, VHD_IMG_WRITABLE, &img, &err), &err);
		for (unsigned i = 0; i < WIDE_CHUNKS; i++) {
			assert_int_equal(img->format->map(img, i * SP_GIB(4), UNIT, &p), 0);
			assert_true(keep == 3 ? p.where == VHD_WHERE_DATA : p.where != VHD_WHERE_ZERO);
		}
		vhd_image_close(img, true);
		drv_examine(file);
		mem_file_put(file);
	}
	drv_free(&d);
}

/* ---- failures ------------------------------------------------------------------------------------ */

static const struct fail_case {
	const char *name;
	enum vhd_kind kind;
	int error;
} fails[] = {
	{ "dynamic, EIO",	  VHD_KIND_DYNAMIC,	 -EIO },
	{ "dynamic, ENOSPC",	  VHD_KIND_DYNAMIC,	 -ENOSPC },
	{ "differencing, EIO",	  VHD_KIND_DIFFERENCING, -EIO },
	{ "differencing, ENOSPC", VHD_KIND_DIFFERENCING, -ENOSPC },
	{ "dynamic, no memory",	  VHD_KIND_DYNAMIC,	 -ENOMEM },
	{ "differencing, no memory", VHD_KIND_DIFFERENCING, -ENOMEM },
};

/* Some of everything; the first failure. */
static int workload(struct drv *d)
{
	int r = drv_write(d, 512, 4096);

	for (unsigned i = 0; r == 0 && i < 3; i++) {
		r = drv_flush(d);
		if (r == 0)
			r = drv_write(d, SP_MIB(i), SP_MIB(1) + 512);
		if (r == 0)
			r = drv_flush(d);
		if (r == 0)
			r = drv_discard(d, SP_MIB(i), SP_MIB(1));
		if (r == 0)
			r = drv_flush(d);
		if (r == 0)
			r = drv_write(d, SP_MIB(4) + 512 * i, 512);
	}
	return r;
}

static int allocations;			/* this many from now fails, once */

static int allocation_fails(void *arg)
{
	(void)arg;
	return --allocations == 0;
}

/* @at: the number of the operation (or allocation) that fails, once. Returns whether the workload got that far. */
static bool fail_at(const struct fail_case *c, int at)
{
	struct vhd_format_create create = {
		.size = SP_MIB(6), .kind = c->kind, .block_size = 1 << 20,
		.logical_sector = 512, .physical_sector = 4096,
		.parent_relative = c->kind == VHD_KIND_DIFFERENCING ? "base.vhdx" : NULL, .parent_identity = { { 1 } },
	};
	struct drv d = { .wrap = tap_wrap };
	bool reached, poisoned;
	int r;

	tap_every = tap_at_sync = 0;
	drv_new(&d, &create, 3);
	if (c->error == -ENOMEM) {
		allocations = at;
		sp_alloc_set_fault(allocation_fails, NULL);
	} else {
		tap_now(&d)->fail_in = at;
		tap_now(&d)->fail_with = c->error;
	}
	r = workload(&d);
	sp_alloc_set_fault(NULL, NULL);
	reached = c->error == -ENOMEM ? allocations <= 0 : tap_now(&d)->fail_in == 0;
	tap_now(&d)->fail_in = -1;
	poisoned = vhdx_of(d.img)->failed != 0;
	if (poisoned) {
		struct vhd_flush *b;

		assert_true(r < 0);
		assert_true(drv_write(&d, 0, 512) < 0);		/* a disk that lies heals by no retry */
		assert_true(d.img->format->flush_begin(d.img, &b) < 0);
	}
	drv_check(&d, d.img, true, d.current);			/* reading goes on */
	if (poisoned) {
		drv_die(&d);
	} else {					/* only that write failed, or a sync that the caller saw */
		assert_int_equal(drv_flush(&d), 0);
		drv_reopen(&d);
	}
	drv_check(&d, d.img, false, NULL);
	drv_free(&d);
	return reached;
}

static void fail_anywhere(void **state)
{
	int at = 1;

	const struct fail_case *c = *state;

	/* Most allocations are pages of the memory store: after the first two hundred a sample will do. */
	while (fail_at(c, at))
		at += c->error == -ENOMEM && at > 200 ? 61 : 1;
	assert_true(at > 30);
}

int main(void)
{
	const struct CMUnitTest one[] = { cmocka_unit_test(prefixes_are_images) };
	int failed = ROWS_RUN(cuts, cut_anywhere);

	failed += cmocka_run_group_tests(one, NULL, NULL);
	return failed + ROWS_RUN(fails, fail_anywhere);
}
