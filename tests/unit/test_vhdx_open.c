/* SPDX-License-Identifier: BSD-2-Clause */
/* Opening whole images that were put together by hand. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <json-c/json.h>

#include "base/alloc.h"
#include "tests/unit/rows.h"
#include "tests/unit/vhdx_image.h"

static const struct sp_guid linkage = { { 4, 3, 2, 1, 6, 5, 8, 7, 9, 10, 11, 12, 13, 14, 15, 16 } };

static int open_image(struct store *s, unsigned flags, struct vhd_image **ret_image)
{
	struct sp_err err = { 0 };
	int r = vhd_image_open(s, "m1.vhdx", &vhd_format_vhdx, flags, ret_image, &err);

	assert_int_equal(err.code, r);
	return r;
}

static void m1_is_the_vector(void **state)
{
	static uint8_t whole[4 << 20];
	struct store *s = make_m1(M1_SIZE);

	must(store_read(s, whole, sizeof(whole), 0));
	assert_int_equal(sp_crc32c(whole, sizeof(whole)), 0x9ebbf438);
	store_close(s);
}

static void m1(void **state)
{
	const struct vhd_format *format;
	struct store *s = make_m1(M1_SIZE);
	struct vhd_image *img;
	struct vhd_place place;

	must(vhd_format_probe(s, &format, NULL));
	assert_ptr_equal(format, &vhd_format_vhdx);
	must(open_image(s, 0, &img));
	assert_int_equal(img->size, 8 << 20);
	assert_int_equal(img->block_size, 2 << 20);
	assert_int_equal(img->logical_sector, 512);
	assert_int_equal(img->physical_sector, 4096);
	assert_int_equal(img->kind, VHD_KIND_DYNAMIC);
	assert_false(img->has_parent);
	assert_true(img->has_identity);
	assert_int_equal(img->identity.b[0], 2);
	assert_null(img->warning);
	must(img->format->map(img, 0, img->size, &place));
	assert_int_equal(place.where, VHD_WHERE_ZERO);
	must(vhd_image_close(img, false));
}

/* ---- refused, or opened with a warning ----------------------------------------------------------- */

static void nothing(struct store *s)
{
}

static void identifier_bad(struct store *s)
{
	damage_byte(s, 3);
}

static void header_1_bad(struct store *s)
{
	damage_byte(s, 0x10010);
}

static void headers_bad(struct store *s)
{
	damage_byte(s, 0x10010);
	damage_byte(s, 0x20010);
}

static void headers_identical(struct store *s)
{
	uint8_t buf[4096];

	must(store_read(s, buf, sizeof(buf), 0x20000));
	must(store_write(s, buf, sizeof(buf), 0x10000));
}

static void headers_equal_but_different(struct store *s)
{
	uint8_t buf[4096];

	make_header(buf, 2, 3);
	must(store_write(s, buf, sizeof(buf), 0x10000));
}

static void regions_1_bad(struct store *s)
{
	damage_byte(s, 0x30010);
}

static void regions_bad(struct store *s)
{
	damage_byte(s, 0x30010);
	damage_byte(s, 0x40010);
}

static void both_tables(struct store *s, uint64_t bat_offset, uint32_t bat_length)
{
	static uint8_t table[65536];

	make_region_table(table);
	put64(table + 16 + 16, bat_offset);
	put32(table + 16 + 24, bat_length);
	seal(table, sizeof(table));
	must(store_write(s, table, sizeof(table), 0x30000));
	must(store_write(s, table, sizeof(table), 0x40000));
}

static void bat_on_log(struct store *s)
{
	both_tables(s, SP_MIB(1), 1 << 20);
}

static void bat_on_metadata(struct store *s)
{
	both_tables(s, SP_MIB(2), 2 << 20);
}

static void metadata_bad(struct store *s)
{
	damage_byte(s, M1_METADATA);
}

static void put_size(struct store *s, uint64_t size)
{
	le64_t v = le64_make(size);

	must(store_write(s, &v, sizeof(v), M1_ITEMS + 8));
}

static void bat_just_long_enough(struct store *s)
{
	put_size(s, 131008 * SP_MIB(2));	/* 131008 + 63 = 131071 entries of 131072 */
}

static void bat_too_short(struct store *s)
{
	put_size(s, 131010 * SP_MIB(2));	/* 131010 + 63 = 131073 */
}

static void zero_identity(struct store *s)
{
	uint8_t buf[4096];

	make_header(buf, 9, 0);
	memset(buf + 32, 0, 16);
	seal(buf, sizeof(buf));
	must(store_write(s, buf, sizeof(buf), 0x10000));
}

static void log_guid_without_entries(struct store *s)
{
	set_log_guid(s, 0x11);
}

static void file_of_half_a_mib(struct store *s)
{
	must(store_resize(s, 512 << 10));
}

static void file_cut_in_bat(struct store *s)
{
	must(store_resize(s, M1_BAT + 512));
}

static const struct row { const char *name; void (*change)(struct store *s); int want; bool warns; } rows[] = {
	{ "as the vector", nothing, 0, false },
	{ "identifier damaged", identifier_bad, -EBADMSG },
	{ "file of 512 KiB", file_of_half_a_mib, -EBADMSG },
	{ "file cut off in the BAT", file_cut_in_bat, -EBADMSG },
	{ "header 1 damaged", header_1_bad, 0, false },
	{ "both headers damaged", headers_bad, -EBADMSG },
	{ "identical headers", headers_identical, 0, false },
	{ "different headers of one number", headers_equal_but_different, -EBADMSG },
	{ "region table 1 damaged", regions_1_bad, 0, true },
	{ "both region tables damaged", regions_bad, -EBADMSG },
	{ "BAT on the log", bat_on_log, -EBADMSG },
	{ "BAT on the metadata", bat_on_metadata, -EBADMSG },
	{ "metadata signature", metadata_bad, -EBADMSG },
	{ "BAT just long enough", bat_just_long_enough, 0, false },
	{ "BAT too short", bat_too_short, -EBADMSG },
	{ "zero DataWriteGuid", zero_identity, 0, true },
	{ "log without entries", log_guid_without_entries, -EBADMSG },
};

static void open_row(void **state, unsigned flags)
{
	const struct row *c = *state;
	struct store *s = make_m1(M1_SIZE);
	struct vhd_image *img;
	int r;

	c->change(s);
	r = open_image(s, flags, &img);
	assert_int_equal(r, c->want);
	if (r < 0)
		return;
	assert_int_equal(img->warning != NULL, c->warns);
	must(vhd_image_close(img, false));
}

static void open_to_read(void **state)
{
	open_row(state, 0);
}

static void open_to_write(void **state)
{
	open_row(state, VHD_IMG_WRITABLE);
}

/* ---- differencing -------------------------------------------------------------------------------- */

/* M1 as a child of linkage, 24 MiB: blocks as in vhd-formats 6.7. */
static struct store *make_child(void)
{
	const struct vhd_set_parent p = { .identity = { linkage }, .identities = 1, .relative = "base.vhdx" };
	static const uint8_t bits[2] = { 0x05, 0x80 };
	struct store *s = make_m1(SP_MIB(24));
	static uint8_t md[65536 + 40];
	uint8_t item[1000];
	size_t len;

	must(vhdx_locator_encode(&p, item, sizeof(item), &len));
	make_metadata(md);
	put_item(md, 5, &VHDX_GUID_PARENT_LOCATOR, 0x11000, (uint32_t)len, 4);
	put32(md + 65540, 2);
	must(store_write(s, md, sizeof(md), M1_METADATA));
	must(store_write(s, item, len, M1_METADATA + 0x11000));
	put_bat(s, 0, SP_MIB(4) | 7);
	put_bat(s, 2, 2);
	put_bat(s, 3, SP_MIB(6) | 6);
	put_bat(s, 2048, SP_MIB(8) | 6);
	must(store_write(s, bits, sizeof(bits), SP_MIB(8)));
	return s;
}

static void expect_place(struct vhd_image *img, uint64_t sector, uint64_t sectors, enum vhd_where where, uint64_t len,
			 uint64_t file_offset)
{
	struct vhd_place p = { 0 };

	must(img->format->map(img, sector * 512, sectors * 512, &p));
	assert_int_equal(p.where, where);
	assert_int_equal(p.len, len * 512);
	if (where == VHD_WHERE_DATA)
		assert_int_equal(p.file_offset, file_offset);
}

static void child(void **state)
{
	struct vhd_image *img;

	must(open_image(make_child(), 0, &img));
	assert_int_equal(img->kind, VHD_KIND_DIFFERENCING);
	assert_true(img->has_parent);
	assert_true(sp_guid_equal(&img->parent.identity[0], &linkage));
	assert_string_equal(img->parent.path[0].text, ".\\base.vhdx");
	expect_place(img, 0, 4096, VHD_WHERE_DATA, 1, SP_MIB(4));
	expect_place(img, 1, 4095, VHD_WHERE_PARENT, 1, 0);
	expect_place(img, 2, 100, VHD_WHERE_DATA, 1, SP_MIB(4) + 1024);
	expect_place(img, 3, 100, VHD_WHERE_PARENT, 12, 0);
	expect_place(img, 15, 1, VHD_WHERE_DATA, 1, SP_MIB(4) + 15 * 512);
	expect_place(img, 4096, 4096, VHD_WHERE_PARENT, 4096, 0);
	expect_place(img, 8192, 4096, VHD_WHERE_ZERO, 4096, 0);
	expect_place(img, 12288, 4096, VHD_WHERE_DATA, 4096, SP_MIB(6));
	must(vhd_image_close(img, false));
}

/* ---- replay at open ------------------------------------------------------------------------------ */

static struct log_builder builder;
static uint8_t page[4096];

/* The log holds BAT[0] = 6 at 4 MiB and a new size of 6 MiB; the file itself is empty, and its metadata is damaged. */
static struct store *make_dirty(void)
{
	struct store *s = make_m1(SP_MIB(6));
	static uint8_t md[65536 + 40], items[4096], table[4096];

	make_metadata(md);
	memcpy(items, md + 65536, 40);
	memcpy(table, md, sizeof(table));
	put64(items + 8, SP_MIB(6));
	put64(page, SP_MIB(4) | 6);
	log_start(&builder, 1, 0, SP_MIB(6), SP_MIB(6));
	log_data(&builder, M1_BAT, page);
	log_data(&builder, M1_ITEMS, items);
	log_data(&builder, M1_METADATA, table);
	must(store_write(s, builder.bytes, log_finish(&builder), M1_LOG));
	set_log_guid(s, 0x11);
	damage_byte(s, M1_METADATA);
	return s;
}

static void replay_comes_first(void **state)
{
	for (unsigned writable = 0; writable < 2; writable++) {
		struct vhd_image *img;

		must(open_image(make_dirty(), writable ? VHD_IMG_WRITABLE : 0, &img));
		assert_int_equal(img->size, SP_MIB(6));
		assert_int_equal(img->identity.b[0], 2);
		expect_place(img, 0, 4096, VHD_WHERE_DATA, 4096, SP_MIB(4));
		assert_int_equal(img->store->ops->fd(img->store), -1);
		must(vhd_image_close(img, false));
	}
}

static void replayed_once(void **state)
{
	struct store *s = make_dirty();
	struct store_folder *folder;
	struct vhd_image *img;
	struct store *file;
	static uint8_t whole[6 << 20];
	struct vhdx_header h;
	unsigned slot;

	/* a memory folder keeps the file when the image closes it */
	must(store_folder_mem(&folder));
	must(store_folder_open(folder, "m1", STORE_CREATE | STORE_RDWR, &file, NULL));
	must(store_read(s, whole, sizeof(whole), 0));
	must(store_write(file, whole, sizeof(whole), 0));
	store_close(s);
	must(open_image(file, VHD_IMG_WRITABLE, &img));
	assert_int_equal(vhdx_of(img)->replayed_entries, 1);
	must(vhd_image_close(img, true));		/* the process dies */

	must(store_folder_open(folder, "m1", STORE_RDWR, &file, NULL));
	must(vhdx_header_read_current(file, SP_MIB(6), &h, &slot, NULL));
	assert_true(sp_guid_is_zero(&h.log_guid));
	must(open_image(file, 0, &img));
	assert_int_equal(vhdx_of(img)->replayed_entries, 0);
	assert_int_equal(img->size, SP_MIB(6));
	must(vhd_image_close(img, false));
	store_folder_close(folder);
}

/* ---- writable needs ------------------------------------------------------------------------------ */

static void no_log_no_writing(void **state)
{
	for (unsigned writable = 0; writable < 2; writable++) {
		struct store *s = make_m1(M1_SIZE);
		struct vhd_image *img;
		uint8_t buf[4096];
		int r;

		make_header(buf, 3, 0);
		put32(buf + 68, 0);
		seal(buf, sizeof(buf));
		must(store_write(s, buf, sizeof(buf), 0x10000));
		r = open_image(s, writable ? VHD_IMG_WRITABLE : 0, &img);
		assert_int_equal(r, writable ? -ENOTSUP : 0);
		if (r == 0)
			must(vhd_image_close(img, false));
	}
}

static void read_only_store(void **state)
{
	struct store *s = make_m1(M1_SIZE);
	struct vhd_image *img;

	s->writable = false;
	assert_int_equal(open_image(s, VHD_IMG_WRITABLE, &img), -EROFS);
}

/* ---- a large disk opens at once ------------------------------------------------------------------ */

static struct store_ops counting_ops;
static uint64_t bytes_read;

static int counting_readv(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	for (int i = 0; i < iovcnt; i++)
		bytes_read += iov[i].iov_len;
	return counting_ops.readv(s, iov, iovcnt, offset);
}

static void open_reads_no_bat(void **state)
{
	struct vhd_format_create c = { .size = SP_TIB(64), .kind = VHD_KIND_DYNAMIC, .block_size = 1 << 20 };
	struct store_ops ops;
	struct vhd_image *img;
	struct store *s;

	must(store_mem_new("big", 0, 0, &s));
	must(vhdx_create(s, &c, NULL));
	counting_ops = ops = *s->ops;
	ops.readv = counting_readv;
	s->ops = &ops;
	bytes_read = 0;
	must(open_image(s, 0, &img));
	assert_in_range(bytes_read, 1, 1 << 20);
	assert_int_equal(img->size, SP_TIB(64));
	must(vhd_image_close(img, false));
}

/* ---- describe ------------------------------------------------------------------------------------ */

static void describe(void **state)
{
	json_object *o = json_object_new_object(), *v;
	struct vhd_image *img;

	must(open_image(make_dirty(), 0, &img));
	img->format->describe(img, o);
	assert_true(json_object_object_get_ex(o, "creator", &v));
	assert_string_equal(json_object_get_string(v), "TEST");
	assert_true(json_object_object_get_ex(o, "data_write_guid", &v));
	assert_string_equal(json_object_get_string(v), "02020202-0202-0202-0202-020202020202");
	assert_true(json_object_object_get_ex(o, "chunk_ratio", &v));
	assert_int_equal(json_object_get_int(v), 2048);
	assert_true(json_object_object_get_ex(o, "regions", &v));
	assert_int_equal(json_object_array_length(v), 2);
	assert_true(json_object_object_get_ex(o, "log", &v));
	assert_true(json_object_object_get_ex(v, "replayed_entries", &v));
	assert_int_equal(json_object_get_int(v), 1);
	json_object_put(o);
	must(vhd_image_close(img, false));
}

/* ---- memory runs out ----------------------------------------------------------------------------- */

static int fails_when_zero(void *arg)
{
	return (*(int *)arg)-- == 0;
}

static void every_allocation_may_fail(void **state)
{
	for (unsigned flags = 0; flags <= VHD_IMG_WRITABLE; flags += VHD_IMG_WRITABLE) {
		int r = -ENOMEM;

		for (int k = 0; r == -ENOMEM; k++) {
			struct store *s = make_child();
			struct vhd_image *img;
			int left = k;

			sp_alloc_set_fault(fails_when_zero, &left);
			r = open_image(s, flags, &img);
			sp_alloc_set_fault(NULL, NULL);
			if (r == 0)
				must(vhd_image_close(img, true));
			assert_in_range(k, 0, 200);
		}
		assert_int_equal(r, 0);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(m1_is_the_vector),
		cmocka_unit_test(m1),
		cmocka_unit_test(child),
		cmocka_unit_test(replay_comes_first),
		cmocka_unit_test(replayed_once),
		cmocka_unit_test(no_log_no_writing),
		cmocka_unit_test(read_only_store),
		cmocka_unit_test(open_reads_no_bat),
		cmocka_unit_test(describe),
		cmocka_unit_test(every_allocation_may_fail),
	};
	int failed = cmocka_run_group_tests_name("open", tests, NULL, NULL);

	failed += ROWS_RUN(rows, open_to_read);
	failed += ROWS_RUN(rows, open_to_write);
	return failed != 0;
}
