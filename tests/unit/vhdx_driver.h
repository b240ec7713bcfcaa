/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_VHDX_DRIVER_H
#define SPINDLE_TESTS_VHDX_DRIVER_H
/*
 * Drives the writing functions of the VHDX table as the disk layer does, and keeps beside the image what it must hold:
 * for every 512 bytes the number of the write that was last flushed and of the one that came last. Each 512 bytes
 * written carry their own address and that number, so bytes of another block are seen for what they are.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "vhd/image.h"
#include "vhd/store_mem_int.h"
#include "vhd/vhdx_write_int.h"

#define UNIT 512u
#define IS_ZERO 0u
#define IS_PARENT UINT32_MAX		/* what the parent holds: the driver has none, and asks for none */
#define IS_FOREIGN (UINT32_MAX - 1)	/* neither zeros nor ever written here */

enum { WRITTEN = 1, DISCARDED = 2 };

struct drv {
	struct mem_file *file;
	struct vhd_image *img;
	uint64_t size, units;
	uint32_t *flushed, *current;	/* per unit: stamp, IS_ZERO or IS_PARENT */
	uint8_t *touched;		/* since the last flush: 0, WRITTEN, DISCARDED */
	uint32_t stamp, flushed_stamp;
	uint64_t random;
	/* Set by tests that put a store of their own between. */
	struct store *(*wrap)(struct drv *d, struct store *inner);
	void *arg;
};

static inline uint32_t drv_random(struct drv *d)
{
	d->random = d->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(d->random >> 33);
}

static inline void drv_fail(int r, const struct sp_err *err)
{
	if (r < 0)
		fail_msg("%d: %s", r, err->text);
}

static inline void drv_open(struct drv *d)
{
	struct sp_err err = { 0 };
	struct store *s;

	assert_int_equal(mem_file_open(d->file, "t.vhdx", true, &s), 0);
	if (d->wrap)
		s = d->wrap(d, s);
	drv_fail(vhd_image_open(s, "t.vhdx", &vhd_format_vhdx, VHD_IMG_WRITABLE, &d->img, &err), &err);
	assert_int_equal(d->img->size, d->size);
}

static inline void drv_fill(struct drv *d, uint64_t from, uint32_t value)
{
	for (uint64_t i = from; i < d->units; i++)
		d->flushed[i] = d->current[i] = value;
}

static inline void drv_resize_model(struct drv *d, uint64_t size)
{
	d->size = size;
	d->units = size / UNIT;
	d->flushed = realloc(d->flushed, d->units * sizeof(uint32_t));
	d->current = realloc(d->current, d->units * sizeof(uint32_t));
	d->touched = realloc(d->touched, d->units);
	assert_true(d->flushed && d->current && d->touched);
	memset(d->touched, 0, d->units);
}

/* A new image, opened. */
static inline void drv_new(struct drv *d, const struct vhd_format_create *c, uint64_t seed)
{
	struct sp_err err = { 0 };
	struct store *s;

	d->random = seed;
	assert_int_equal(mem_file_new(0, 0, &d->file), 0);
	assert_int_equal(mem_file_open(d->file, "t.vhdx", true, &s), 0);
	drv_fail(vhd_format_vhdx.create(s, c, &err), &err);
	store_close(s);
	drv_resize_model(d, c->size);
	drv_fill(d, 0, c->kind == VHD_KIND_DIFFERENCING ? IS_PARENT : IS_ZERO);
	drv_open(d);
}

static inline void drv_free(struct drv *d)
{
	vhd_image_close(d->img, true);
	mem_file_put(d->file);
	free(d->flushed);
	free(d->current);
	free(d->touched);
	memset(d, 0, sizeof(*d));
}

/* ---- writing ------------------------------------------------------------------------------------- */

static inline void drv_stamp(uint8_t *buf, uint64_t offset, uint64_t len, uint32_t stamp)
{
	for (uint64_t at = 0; at < len; at += 16) {
		uint64_t unit = (offset + at) / UNIT, value = stamp;

		memcpy(buf + at, &unit, 8);
		memcpy(buf + at + 8, &value, 8);
	}
}

static inline void drv_note(struct drv *d, uint64_t offset, uint64_t len, uint32_t value)
{
	for (uint64_t u = offset / UNIT; u < (offset + len) / UNIT; u++) {
		d->current[u] = value;
		d->touched[u] |= value == IS_ZERO ? DISCARDED : WRITTEN;
	}
}

/* One step of a write; 0 or the error. */
static inline int drv_write_some(struct drv *d, const uint8_t *buf, uint64_t offset, uint64_t len, uint64_t *ret_len)
{
	struct vhd_image *img = d->img;
	struct vhd_ticket t;
	struct vhd_place p;
	int r = img->format->map(img, offset, len, &p);

	if (r < 0)
		return r;
	if (p.direct_write) {
		*ret_len = p.len;
		return store_write(img->store, buf, p.len, p.file_offset);
	}
	r = img->format->prepare_write(img, offset, len, &t);
	if (r < 0)
		return r;
	assert_int_equal(t.offset, offset);
	assert_true(t.len > 0 && t.len <= len);
	*ret_len = t.len;
	r = store_write(img->store, buf, t.len, t.file_offset);
	if (r < 0)
		img->format->abort_write(img, &t);
	else if (t.needs_commit)
		r = img->format->commit_write(img, &t);
	return r;
}

static inline int drv_write(struct drv *d, uint64_t offset, uint64_t len)
{
	uint8_t *buf = malloc(len);
	int r;

	assert_non_null(buf);
	r = d->img->format->begin_write(d->img);
	drv_stamp(buf, offset, len, ++d->stamp);
	drv_note(d, offset, len, d->stamp);
	for (uint64_t done = 0, n = 0; r == 0 && done < len; done += n)
		r = drv_write_some(d, buf + done, offset + done, len - done, &n);
	free(buf);
	return r;
}

static inline int drv_discard(struct drv *d, uint64_t offset, uint64_t len)
{
	int r = d->img->format->begin_write(d->img);

	for (uint64_t end = offset + len, n; r == 0 && offset < end; offset += n) {
		bool done;

		r = d->img->format->discard(d->img, offset, end - offset, &n, &done);
		if (r < 0)
			break;
		assert_true(n > 0 && n <= end - offset);
		if (done)
			drv_note(d, offset, n, IS_ZERO);
	}
	return r;
}

static inline void drv_flushed(struct drv *d)
{
	memcpy(d->flushed, d->current, d->units * sizeof(uint32_t));
	memset(d->touched, 0, d->units);
	d->flushed_stamp = d->stamp;
}

static inline int drv_flush(struct drv *d)
{
	const struct vhd_format *f = d->img->format;
	struct vhd_flush *b;
	uint64_t tag;
	int r = f->flush_begin(d->img, &b);

	if (r < 0)
		return r;
	r = b ? f->flush_write(d->img, b) : store_sync(d->img->store);
	if (b)
		f->flush_end(d->img, b, r);
	if (r < 0)
		return r;
	drv_flushed(d);
	tag = f->freed_tag(d->img);
	if (tag)
		f->release(d->img, tag);
	return 0;
}

/* ---- reading ------------------------------------------------------------------------------------- */

static inline uint32_t drv_classify(const uint8_t *buf, uint64_t unit)
{
	static const uint8_t zeros[UNIT];
	uint8_t want[UNIT];
	uint64_t stamp;

	if (memcmp(buf, zeros, UNIT) == 0)
		return IS_ZERO;
	memcpy(&stamp, buf + 8, 8);
	drv_stamp(want, unit * UNIT, UNIT, (uint32_t)stamp);
	return stamp < IS_FOREIGN && memcmp(buf, want, UNIT) == 0 ? (uint32_t)stamp : IS_FOREIGN;
}

/* After a crash an unflushed unit may hold what was flushed or any later write of its own. Zeros only if it was
 * discarded since: a first write over zeros finds them among what was flushed, one over a parent never shows any. */
static inline bool drv_allowed(const struct drv *d, uint64_t unit, uint32_t found, bool crashed)
{
	if (!crashed)
		return found == d->current[unit];
	if (found == d->flushed[unit])
		return true;
	if (found == IS_ZERO)
		return d->touched[unit] & DISCARDED;
	return d->touched[unit] && found > d->flushed_stamp && found <= d->stamp;
}

static inline void drv_check_unit(const struct drv *d, uint64_t unit, uint32_t found, bool crashed)
{
	if (!drv_allowed(d, unit, found, crashed))
		fail_msg("unit %llu holds %#x; flushed %#x at %#x, last %#x at %#x", (unsigned long long)unit, found,
			 d->flushed[unit], d->flushed_stamp, d->current[unit], d->stamp);
}

static inline void drv_check_data(struct drv *d, struct vhd_image *img, const struct vhd_place *p, uint64_t offset,
				  bool crashed, uint32_t *found)
{
	static uint8_t buf[1 << 16];

	for (uint64_t done = 0; done < p->len;) {
		uint64_t n = sp_min(sizeof(buf), p->len - done);

		assert_int_equal(store_read(img->store, buf, n, p->file_offset + done), 0);
		for (uint64_t at = 0; at < n; at += UNIT) {
			uint64_t unit = (offset + done + at) / UNIT;
			uint32_t f = drv_classify(buf + at, unit);

			drv_check_unit(d, unit, f, crashed);
			if (found)
				found[unit] = f;
		}
		done += n;
	}
}

/* Compares all of @img with what it must hold; notes what it holds in @found unless NULL. */
static inline void drv_check(struct drv *d, struct vhd_image *img, bool crashed, uint32_t *found)
{
	struct vhd_place p;

	for (uint64_t offset = 0; offset < d->size; offset += p.len) {
		assert_int_equal(img->format->map(img, offset, d->size - offset, &p), 0);
		assert_true(p.len > 0 && p.len <= d->size - offset && p.len % UNIT == 0);
		if (p.where == VHD_WHERE_DATA) {
			drv_check_data(d, img, &p, offset, crashed, found);
			continue;
		}
		for (uint64_t u = offset / UNIT; u < (offset + p.len) / UNIT; u++) {
			uint32_t f = p.where == VHD_WHERE_ZERO ? IS_ZERO : IS_PARENT;

			drv_check_unit(d, u, f, crashed);
			if (found)
				found[u] = f;
		}
	}
}

/* The checker's opinion, which shares no code with the writer: no errors. */
static inline void drv_examine(struct mem_file *file)
{
	struct vhd_report rep = { 0 };
	struct store *s;

	assert_int_equal(mem_file_open(file, "t.vhdx", false, &s), 0);
	assert_int_equal(vhd_format_vhdx.check(s, &rep), 0);
	store_close(s);
	if (rep.errors > 0)
		fail_msg("%s: %s", rep.finding[0].structure, rep.finding[0].text);
	vhd_report_fini(&rep);
}

/* A later bad sector in the newer header must not bring back another identity or log. */
static inline void drv_examine_headers(struct mem_file *file)
{
	uint8_t buf[2][VHDX_HEADER_SIZE];
	struct vhdx_header h[2];
	struct store *s;

	assert_int_equal(mem_file_open(file, "t.vhdx", false, &s), 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(store_read(s, buf[i], sizeof(buf[i]), VHDX_HEADER_OFFSET(i)), 0);
		assert_int_equal(vhdx_header_decode(buf[i], UINT64_MAX, &h[i], NULL), 0);
	}
	store_close(s);
	assert_true(sp_guid_equal(&h[0].log_guid, &h[1].log_guid));
	assert_true(sp_guid_equal(&h[0].data_write_guid, &h[1].data_write_guid));
	assert_true(sp_guid_equal(&h[0].file_write_guid, &h[1].file_write_guid));
}

/* Clean close, open again. */
static inline void drv_reopen(struct drv *d)
{
	assert_int_equal(vhd_image_close(d->img, false), 0);
	drv_examine_headers(d->file);
	drv_examine(d->file);
	drv_flushed(d);
	drv_open(d);
}

/* The process dies: what it had written is there, what it had only in memory is not. */
static inline void drv_die(struct drv *d)
{
	vhd_image_close(d->img, true);
	drv_examine(d->file);
	drv_open(d);
	drv_check(d, d->img, true, d->current);
	drv_flushed(d);
}

#endif
