/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/unit/rows.h"
#include "tests/unit/vhdx_image.h"

static const struct sp_guid stranger = { { 0x5a, 1 } };
static const struct vhdx_region region = { .offset = M1_METADATA, .length = 1 << 20 };
static uint8_t md_bytes[65536 + 40];

static int read_bytes(struct vhdx_metadata *md)
{
	struct store *s = make_m1(M1_SIZE);
	int r;

	must(store_write(s, md_bytes, sizeof(md_bytes), M1_METADATA));
	r = vhdx_metadata_read(s, &region, md, NULL);
	store_close(s);
	return r;
}

/* As read_bytes(), geometry included: what an open does. */
static int judge(void)
{
	struct vhdx_metadata md;
	struct vhdx_geometry g;
	int r = read_bytes(&md);

	if (r < 0)
		return r;
	r = vhdx_geometry_make(&md, &g, NULL);
	vhdx_metadata_fini(&md);
	return r;
}

static void vector(void **state)
{
	struct vhdx_metadata md;

	make_metadata(md_bytes);
	assert_int_equal(sp_crc32c(md_bytes, 65536), 0x1525ee1f);
	must(read_bytes(&md));
	assert_int_equal(md.count, 5);
	assert_int_equal(md.block_size, 2 << 20);
	assert_int_equal(md.virtual_size, 8 << 20);
	assert_int_equal(md.logical_sector, 512);
	assert_int_equal(md.physical_sector, 4096);
	assert_false(md.has_parent);
	assert_false(md.leave_blocks_allocated);
	assert_int_equal(md.disk_id.b[15], 15);
	assert_int_equal(md.locator_item, -1);
	assert_int_equal(md.item[md.size_item].offset, M1_ITEMS + 8);
	vhdx_metadata_fini(&md);
}

/* A changed field; @at counts from the start of the region. */
static const struct row { const char *name; size_t at; unsigned bytes; uint64_t value; int want; } rows[] = {
	{ "as written", 8, 2, 0, 0 },
	{ "signature", 0, 1, 'M', -EBADMSG },
	{ "2048 entries", 10, 2, 2048, -EBADMSG },
	{ "65535 entries", 10, 2, 65535, -EBADMSG },
	{ "4 entries: no physical sector size", 10, 2, 4, -EBADMSG },
	{ "no entries", 10, 2, 0, -EBADMSG },
	{ "item in the table", 32 + 16, 4, 0xfff8, -EBADMSG },
	{ "item at the end of the region", 32 + 16, 4, 0x100000, -EBADMSG },
	{ "item across the end of the region", 32 + 16, 4, 0xffffc, -EBADMSG },
	{ "item at 4 GiB - 8", 32 + 16, 4, 0xfffffff8, -EBADMSG },
	{ "items overlap", 32 + 16, 4, 0x1000c, -EBADMSG },
	{ "item over 1 MiB", 32 + 20, 4, 0x100001, -EBADMSG },
	{ "File Parameters of 16 bytes", 32 + 20, 4, 16, -EBADMSG },
	{ "File Parameters of 0 bytes", 32 + 20, 4, 0, -EBADMSG },
	{ "File Parameters as user item: missing", 32 + 24, 4, 1, -EBADMSG },
	{ "unknown flag bits are ignored", 32 + 24, 4, 0xf4, 0 },
	{ "block size 0", 65536, 4, 0, -EBADMSG },
	{ "block size 512 KiB", 65536, 4, 512 << 10, -EBADMSG },
	{ "block size 3 MiB", 65536, 4, 3 << 20, -EBADMSG },
	{ "block size 256 MiB", 65536, 4, 256 << 20, 0 },
	{ "block size 512 MiB", 65536, 4, 512 << 20, -EBADMSG },
	{ "HasParent without locator", 65540, 4, 2, -EBADMSG },
	{ "fixed", 65540, 4, 1, 0 },
	{ "disk of 0 bytes", 65544, 8, 0, -EBADMSG },
	{ "disk of 512 bytes", 65544, 8, 512, 0 },
	{ "disk of 8 MiB + 100", 65544, 8, (8 << 20) + 100, -EBADMSG },
	{ "disk of 64 TiB", 65544, 8, UINT64_C(1) << 46, 0 },
	{ "disk of 64 TiB + 512", 65544, 8, (UINT64_C(1) << 46) + 512, -EBADMSG },
	{ "logical sector 0", 65568, 4, 0, -EBADMSG },
	{ "logical sector 1024", 65568, 4, 1024, -EBADMSG },
	{ "logical sector 4096", 65568, 4, 4096, 0 },
	{ "physical sector 8192", 65572, 4, 8192, -EBADMSG },
};

static void changed(void **state)
{
	const struct row *c = *state;

	make_metadata(md_bytes);
	for (unsigned i = 0; i < c->bytes; i++)
		md_bytes[c->at + i] = (uint8_t)(c->value >> 8 * i);
	assert_int_equal(judge(), c->want);
}

static const struct extra {
	const char *name;
	const struct sp_guid *guid;
	uint32_t offset, length, flags;
	int want;
} extras[] = {
	{ "unknown optional", &stranger, 0x20000, 100, 0, 0 },
	{ "unknown optional user item", &stranger, 0x20000, 100, 1, 0 },
	{ "unknown required", &stranger, 0x20000, 100, 4, -ENOTSUP },
	{ "unknown required user item", &stranger, 0x20000, 100, 5, -ENOTSUP },
	{ "creation did not finish", &VHDX_GUID_INCOMPLETE, 0, 0, 4, -ENOTSUP },
	{ "empty item, offset 0", &stranger, 0, 0, 0, 0 },
	{ "size twice", &VHDX_GUID_DISK_SIZE, 0x20000, 8, 6, -EBADMSG },
	{ "size as user item besides", &VHDX_GUID_DISK_SIZE, 0x20000, 8, 1, 0 },
	{ "locator without HasParent", &VHDX_GUID_PARENT_LOCATOR, 0x20000, 100, 4, 0 },
};

static void with_extra(void **state)
{
	const struct extra *e = *state;

	make_metadata(md_bytes);
	put_item(md_bytes, 5, e->guid, e->offset, e->length, e->flags);
	assert_int_equal(judge(), e->want);
}

static void user_items(void **state)
{
	struct vhdx_metadata md;

	make_metadata(md_bytes);
	for (unsigned i = 0; i < 1025; i++) {
		struct sp_guid g = { { 0x77, (uint8_t)i, (uint8_t)(i >> 8) } };

		put_item(md_bytes, 5 + i, &g, 0, 0, 1);
		put16(md_bytes + 10, (uint16_t)(6 + i));
		if (i == 1023) {
			must(read_bytes(&md));
			vhdx_metadata_fini(&md);
		}
	}
	assert_int_equal(read_bytes(&md), -EBADMSG);
}

/* ---- geometry: vhd-formats 6.4 ------------------------------------------------------------------- */

static const struct geo {
	const char *name;
	uint64_t size, block_mib, sector, ratio, blocks, dynamic, differencing;
} geos[] = {
	{ "1 MiB / 2 MiB", SP_MIB(1), 2, 512, 2048, 1, 1, 2049 },
	{ "1 GiB / 2 MiB", SP_GIB(1), 2, 512, 2048, 512, 512, 2049 },
	{ "4 GiB / 2 MiB", SP_GIB(4), 2, 512, 2048, 2048, 2048, 2049 },
	{ "4 GiB + 1 MiB / 2 MiB", SP_GIB(4) + SP_MIB(1), 2, 512, 2048, 2049, 2050, 4098 },
	{ "4 GiB + 1 MiB / 2 MiB / 4096", SP_GIB(4) + SP_MIB(1), 2, 4096, 16384, 2049, 2049, 16385 },
	{ "127 GiB / 32 MiB", SP_GIB(127), 32, 512, 128, 4064, 4095, 4128 },
	{ "127 GiB / 32 MiB / 4096", SP_GIB(127), 32, 4096, 1024, 4064, 4067, 4100 },
	{ "1 TiB / 1 MiB", SP_TIB(1), 1, 512, 4096, 1048576, 1048831, 1048832 },
	{ "1 TiB / 2 MiB", SP_TIB(1), 2, 512, 2048, 524288, 524543, 524544 },
	{ "1 TiB / 32 MiB", SP_TIB(1), 32, 512, 128, 32768, 33023, 33024 },
	{ "1 TiB / 32 MiB / 4096", SP_TIB(1), 32, 4096, 1024, 32768, 32799, 32800 },
	{ "2 TiB / 2 MiB", SP_TIB(2), 2, 512, 2048, 1048576, 1049087, 1049088 },
	{ "64 TiB / 1 MiB", SP_TIB(64), 1, 512, 4096, 67108864, 67125247, 67125248 },
	{ "64 TiB / 1 MiB / 4096", SP_TIB(64), 1, 4096, 32768, 67108864, 67110911, 67110912 },
	{ "64 TiB / 32 MiB", SP_TIB(64), 32, 512, 128, 2097152, 2113535, 2113536 },
	{ "64 TiB / 256 MiB", SP_TIB(64), 256, 512, 16, 262144, 278527, 278528 },
	{ "64 TiB / 256 MiB / 4096", SP_TIB(64), 256, 4096, 128, 262144, 264191, 264192 },
};

static void geometry(void **state)
{
	const struct geo *c = *state;
	struct vhdx_metadata md = {
		.virtual_size = c->size,
		.block_size = (uint32_t)SP_MIB(c->block_mib),
		.logical_sector = (uint32_t)c->sector,
		.physical_sector = 4096,
	};
	struct vhdx_geometry g;

	must(vhdx_geometry_make(&md, &g, NULL));
	assert_int_equal(g.chunk_ratio, c->ratio);
	assert_int_equal(UINT64_C(1) << g.chunk_shift, c->ratio);
	assert_int_equal(g.blocks, c->blocks);
	assert_int_equal(g.bat_entries, c->dynamic);
	assert_int_equal(vhdx_payload_index(&g, g.blocks - 1), c->dynamic - 1);
	md.has_parent = true;
	must(vhdx_geometry_make(&md, &g, NULL));
	assert_int_equal(g.bat_entries, c->differencing);
}

static const struct slot { const char *name; uint32_t ratio; uint64_t block, index; uint64_t bitmap[3]; } slots[] = {
	{ "4096, block 0", 4096, 0, 0, { 4096, 8193, 12290 } },
	{ "4096, block 4095", 4096, 4095, 4095, { 4096, 8193, 12290 } },
	{ "4096, block 4096", 4096, 4096, 4097, { 4096, 8193, 12290 } },
	{ "4096, block 8192", 4096, 8192, 8194, { 4096, 8193, 12290 } },
	{ "2048, block 2048", 2048, 2048, 2049, { 2048, 4097, 6146 } },
	{ "2048, block 4096", 2048, 4096, 4098, { 2048, 4097, 6146 } },
	{ "128, block 256", 128, 256, 258, { 128, 257, 386 } },
	{ "16, block 32", 16, 32, 34, { 16, 33, 50 } },
	{ "128, 5 TiB + 12345 sectors", 128, 163840, 165120, { 128, 257, 386 } },
};

static void index_of(void **state)
{
	const struct slot *c = *state;
	struct vhdx_geometry g = { .chunk_ratio = c->ratio, .chunk_shift = (uint32_t)__builtin_ctz(c->ratio) };

	assert_int_equal(vhdx_payload_index(&g, c->block), c->index);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(vhdx_bitmap_index(&g, i), c->bitmap[i]);
}

static void bitmap_slot_of_chunk_1280(void **state)
{
	struct vhdx_geometry g = { .chunk_ratio = 128, .chunk_shift = 7 };

	assert_int_equal(vhdx_bitmap_index(&g, 1280), 165248);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(vector), cmocka_unit_test(user_items), cmocka_unit_test(bitmap_slot_of_chunk_1280),
	};
	int failed = cmocka_run_group_tests_name("metadata", tests, NULL, NULL);

	failed += ROWS_RUN(rows, changed);
	failed += ROWS_RUN(extras, with_extra);
	failed += ROWS_RUN(geos, geometry);
	failed += ROWS_RUN(slots, index_of);
	return failed != 0;
}
