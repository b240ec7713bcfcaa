/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_VHD1_IMAGES_H
#define SPINDLE_TESTS_VHD1_IMAGES_H
/*
 * Small VHD 1.0 images in memory for the unit tests: made by the engine, or byte by byte from the vectors of the
 * specification sheet.
 */
#include "tests/unit/rows.h"

#include "base/bytes.h"
#include "base/env.h"
#include "vhd/vhd1_int.h"

#define T0 0x2ec79b96u		/* 2024-11-13 17:17:10 UTC in seconds since 2000 */

static uint8_t guid_base;

static int64_t fixed_time(void *arg)
{
	return vhd1_time_to_unix(T0);
}

static void fixed_guid(void *arg, struct sp_guid *g)
{
	for (int i = 0; i < 16; i++)
		g->b[i] = (uint8_t)(guid_base + i);
}

/* Runs are a pure function of their input. */
static inline void vhd1_test_env(void)
{
	static const struct sp_env_hooks hooks = { .time = fixed_time, .guid = fixed_guid };

	sp_env_set_hooks(&hooks);
}

static inline struct store *new_store(void)
{
	struct store *s;

	assert_int_equal(store_mem_new("t.vhd", 0, 0, &s), 0);
	return s;
}

static inline struct store *new_image(enum vhd_kind kind, uint64_t size, uint32_t block_size)
{
	struct vhd_format_create c = { .size = size, .kind = kind, .block_size = block_size,
				       .parent_relative = kind == VHD_KIND_DIFFERENCING ? "base.vhd" : NULL,
				       .parent_absolute = kind == VHD_KIND_DIFFERENCING ? "/vm/base.vhd" : NULL,
				       .parent_mtime = VHD1_EPOCH + T0 };
	struct store *s = new_store();
	struct sp_err err = { 0 };

	for (int i = 0; i < 16; i++)
		c.parent_identity.b[i] = (uint8_t)(0xa0 + i);
	if (vhd1_create(s, &c, &err) < 0)
		fail_msg("create: %s", sp_err_text(&err));
	return s;
}

static inline uint64_t file_size(struct store *s)
{
	uint64_t n;

	assert_int_equal(store_size(s, &n), 0);
	return n;
}

static inline void peek(struct store *s, void *buf, size_t len, uint64_t at)
{
	assert_int_equal(store_read(s, buf, len, at), 0);
}

static inline void poke(struct store *s, const void *buf, size_t len, uint64_t at)
{
	assert_int_equal(store_write(s, buf, len, at), 0);
}

static inline void poke_be32(struct store *s, uint64_t at, uint32_t x)
{
	be32_t v = be32_make(x);

	poke(s, &v, sizeof(v), at);
}

static inline uint32_t peek_be32(struct store *s, uint64_t at)
{
	be32_t v;

	peek(s, &v, sizeof(v), at);
	return be32_get(v);
}

/* Recomputes the checksum of the footer or header at @at after a field was changed. */
static inline void reseal_footer(struct store *s, uint64_t at)
{
	struct vhd1_footer_disk f;

	peek(s, &f, sizeof(f), at);
	vhd1_footer_seal(&f);
	poke(s, &f, sizeof(f), at);
}

static inline void reseal_header(struct store *s, uint64_t at)
{
	struct vhd1_header_disk h;

	peek(s, &h, sizeof(h), at);
	vhd1_header_seal(&h);
	poke(s, &h, sizeof(h), at);
}

/* The bytes of @s in a store of their own: opening takes a store over. */
static inline struct store *copy_of(struct store *s)
{
	struct store *c = new_store();
	uint64_t size = file_size(s), at = 0, end;
	static uint8_t buf[65536];

	assert_int_equal(store_resize(c, size), 0);
	while (store_seek_data(s, at, &at) == 0 && at < size) {
		assert_int_equal(store_seek_hole(s, at, &end), 0);
		for (; at < end; at += sp_min(sizeof(buf), end - at)) {
			peek(s, buf, (size_t)sp_min(sizeof(buf), end - at), at);
			poke(c, buf, (size_t)sp_min(sizeof(buf), end - at), at);
		}
	}
	return c;
}

static inline struct vhd_image *open_image(struct store *s, unsigned flags)
{
	struct vhd_image *img;
	struct sp_err err = { 0 };

	if (vhd_image_open(s, "t.vhd", &vhd_format_vhd1, flags, &img, &err) < 0)
		fail_msg("open: %s", sp_err_text(&err));
	return img;
}

/* Fails unless opening gives @want and, when it fails, an error with @text in it. */
static inline void expect_open(struct store *s, unsigned flags, int want, const char *text)
{
	struct vhd_image *img = NULL;
	struct sp_err err = { 0 };
	int r = vhd_image_open(s, "t.vhd", &vhd_format_vhd1, flags, &img, &err);

	if (r != want || (text && r < 0 && !strstr(sp_err_text(&err), text)))
		fail_msg("open gives %d, expected %d with '%s': %s", r, want, text ? text : "", sp_err_text(&err));
	if (r == 0)
		vhd_image_close(img, true);
}

/* Writes as the disk layer would: prepare, payload, commit. */
static inline int image_write(struct vhd_image *img, const void *buf, size_t len, uint64_t offset)
{
	const uint8_t *b = buf;

	while (len > 0) {
		struct vhd_ticket t;
		int r = vhd1_prepare_write(img, offset, len, &t);

		if (r < 0)
			return r;
		r = store_write(img->store, b, (size_t)t.len, t.file_offset);
		if (r < 0) {
			vhd1_abort_write(img, &t);
			return r;
		}
		r = vhd1_commit_write(img, &t);
		if (r < 0)
			return r;
		b += t.len;
		offset += t.len;
		len -= (size_t)t.len;
	}
	return 0;
}

/* Reads as the disk layer would; what belongs to the parent reads as 0xee. */
static inline void image_read(struct vhd_image *img, void *buf, size_t len, uint64_t offset)
{
	uint8_t *b = buf;

	while (len > 0) {
		struct vhd_place p;

		assert_int_equal(vhd1_map(img, offset, len, &p), 0);
		assert_true(p.len > 0 && p.len <= len);
		if (p.where == VHD_WHERE_DATA)
			peek(img->store, b, (size_t)p.len, p.file_offset);
		else
			memset(b, p.where == VHD_WHERE_ZERO ? 0 : 0xee, (size_t)p.len);
		b += p.len;
		offset += p.len;
		len -= (size_t)p.len;
	}
}

#endif
