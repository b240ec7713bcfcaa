/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_OPS_FIXTURE_H
#define SPINDLE_TESTS_OPS_FIXTURE_H
/*
 * Chains in a memory folder, each beside a flat model of what it must read.
 */
#include "tests/unit/rows.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "vhd/ops_int.h"
#include "vhd/store_mem_int.h"

struct model {
	uint8_t *bytes;
	uint64_t size;
};

static inline void model_init(struct model *m, uint64_t size)
{
	m->size = size;
	m->bytes = calloc(1, size);
	assert_non_null(m->bytes);
}

static inline void model_copy(struct model *m, const struct model *from)
{
	model_init(m, from->size);
	memcpy(m->bytes, from->bytes, from->size);
}

static inline void model_fini(struct model *m)
{
	free(m->bytes);
}

/* Bytes that differ by place and by @seed, with no zero among them. */
static inline void pattern(uint8_t *buf, uint64_t offset, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(1 + ((offset + i) * 7 + (offset + i) / 509 + seed * 31) % 255);
}

#define assert_done(r, err)                                        \
	do {                                                       \
		int done_r = (r);                                  \
		if (done_r < 0)                                    \
			fail_msg("%d: %s", done_r, sp_err_text(err)); \
	} while (0)

static inline struct store_folder *folder_new(void)
{
	struct store_folder *f;

	assert_int_equal(store_folder_mem(&f), 0);
	return f;
}

static inline bool exists(struct store_folder *f, const char *name)
{
	struct store *s;

	if (store_folder_open(f, name, STORE_NO_LOCK, &s, NULL) < 0)
		return false;
	store_close(s);
	return true;
}

/* @block 0: default. @parent NULL: none. */
static inline void make_image(struct store_folder *f, const char *name, enum vhd_format_id format, enum vhd_kind kind,
			      uint64_t size, uint32_t block, const char *parent)
{
	struct vhd_format_create c = { .size = size, .kind = kind, .block_size = block };
	struct vhd_image *img = NULL;
	struct sp_err err = { 0 };

	if (parent) {
		assert_done(op_image_open(f, parent, false, &img, &err), &err);
		c.kind = VHD_KIND_DIFFERENCING;
		c.parent_identity = img->identity;
		assert_int_equal(store_mtime(img->store, &c.parent_mtime), 0);
		c.parent_relative = parent;
		vhd_image_close(img, true);
	}
	assert_done(vhd_create_in(f, name, format, &c, &err), &err);
}

static inline struct vhd_disk *open_disk(struct store_folder *f, const char *name, enum vhd_format_id format,
					 unsigned flags)
{
	struct vhd_open_opts o = { .flags = flags, .format = format };
	struct sp_err err = { 0 };
	struct vhd_disk *d;

	assert_done(vhd_disk_open_in(f, name, &o, &d, &err), &err);
	return d;
}

static inline void put(struct store_folder *f, const char *name, enum vhd_format_id format, struct model *m,
		       uint64_t offset, uint64_t len, unsigned seed)
{
	struct vhd_disk *d = open_disk(f, name, format, VHD_OPEN_WRITE);
	struct sp_err err = { 0 };

	if (seed) {
		pattern(m->bytes + offset, offset, len, seed);
		assert_int_equal(vhd_disk_write(d, m->bytes + offset, len, offset), 0);
	} else {
		memset(m->bytes + offset, 0, len);
		assert_int_equal(vhd_disk_write_zeroes(d, offset, len), 0);
	}
	assert_done(vhd_disk_close(d, &err), &err);
}

static inline void tell_difference(const char *name, const uint8_t *buf, const struct model *m)
{
	uint64_t i = 0;

	while (buf[i] == m->bytes[i])
		i++;
	fail_msg("%s: byte %#llx is %02x, should be %02x", name, (unsigned long long)i, buf[i], m->bytes[i]);
}

static inline void expect(struct store_folder *f, const char *name, enum vhd_format_id format, const struct model *m)
{
	struct vhd_disk *d = open_disk(f, name, format, 0);
	uint8_t *buf = malloc(m->size);

	assert_non_null(buf);
	assert_true(vhd_disk_size(d) >= m->size);
	assert_int_equal(vhd_disk_read(d, buf, m->size, 0), 0);
	if (memcmp(buf, m->bytes, m->size) != 0)
		tell_difference(name, buf, m);
	free(buf);
	assert_int_equal(vhd_disk_close(d, NULL), 0);
}

static inline unsigned layers_of(struct store_folder *f, const char *name)
{
	struct vhd_disk *d = open_disk(f, name, VHD_FORMAT_AUTO, 0);
	unsigned n = vhd_disk_layers(d);

	vhd_disk_close(d, NULL);
	return n;
}

#endif
