/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_CHAIN_FIXTURE_H
#define SPINDLE_TESTS_CHAIN_FIXTURE_H
/*
 * Chains in a memory folder, for tests of the layers above the formats.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "vhd/disk_int.h"

#define must(call, err)                                                  \
	do {                                                             \
		int must_r = (call);                                     \
		if (must_r < 0)                                          \
			fail_msg("%s: %d: %s", #call, must_r, sp_err_text(err)); \
	} while (0)

static inline struct store_folder *folder_new(void)
{
	struct store_folder *f;

	assert_int_equal(store_folder_mem(&f), 0);
	return f;
}

static inline void make_base(struct store_folder *f, const char *name, enum vhd_format_id format, uint64_t size,
			     uint32_t block, uint32_t sector)
{
	struct vhd_format_create c = {
		.size = size, .block_size = block, .logical_sector = sector,
		.kind = format == VHD_FORMAT_RAW ? VHD_KIND_FIXED : VHD_KIND_DYNAMIC,
	};
	struct sp_err err = { 0 };

	must(vhd_create_in(f, name, format, &c, &err), &err);
}

static inline struct vhd_disk *open_rw(struct store_folder *f, const char *name)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE };
	struct vhd_disk *d;
	struct sp_err err = { 0 };

	must(vhd_disk_open_in(f, name, &o, &d, &err), &err);
	return d;
}

/* A child of @parent as it is now. size 0: the parent's. */
static inline void make_child(struct store_folder *f, const char *parent, const char *stored_path, const char *name,
			      uint64_t size, uint32_t block)
{
	struct vhd_open_opts o = { 0 };
	struct vhd_disk *d;
	struct vhd_image *img;
	struct sp_err err = { 0 };
	enum vhd_format_id format;

	must(vhd_disk_open_in(f, parent, &o, &d, &err), &err);
	img = vhd_disk_image(d, 0);
	format = img->format->id;
	struct vhd_format_create c = {
		.kind = VHD_KIND_DIFFERENCING, .size = size ? size : img->size, .block_size = block,
		.logical_sector = img->logical_sector, .parent_identity = img->identity, .parent_relative = stored_path,
	};

	must(store_mtime(img->store, &c.parent_mtime), NULL);
	must(vhd_create_in(f, name, format, &c, &err), &err);
	must(vhd_disk_close(d, &err), &err);
}

static inline void write_byte(struct vhd_disk *d, uint64_t offset, size_t len, int value)
{
	uint8_t buf[8192];

	assert_true(len <= sizeof(buf));
	memset(buf, value, len);
	assert_int_equal(vhd_disk_write(d, buf, len, offset), 0);
}

static inline void expect_byte(struct vhd_disk *d, uint64_t offset, size_t len, int value)
{
	uint8_t buf[8192];

	assert_true(len <= sizeof(buf));
	assert_int_equal(vhd_disk_read(d, buf, len, offset), 0);
	for (size_t i = 0; i < len; i++) {
		if (buf[i] != value)
			fail_msg("byte %#llx is %02x, expected %02x", (unsigned long long)(offset + i), buf[i], value);
	}
}

#endif
