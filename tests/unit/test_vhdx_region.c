/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/alloc.h"
#include "tests/unit/rows.h"
#include "tests/unit/vhdx_image.h"

static const struct sp_guid stranger = { { 0x5a, 1 } };
static uint8_t table[65536];

static void vector(void **state)
{
	struct vhdx_region r[2] = {
		{ .guid = VHDX_GUID_BAT_REGION, .offset = M1_BAT, .length = 1 << 20, .required = true },
		{ .guid = VHDX_GUID_METADATA_REGION, .offset = M1_METADATA, .length = 1 << 20, .required = true },
	};
	struct vhdx_region swap[2] = { r[1], r[0] };
	static uint8_t encoded[65536];
	struct vhdx_region_table t;

	make_region_table(table);
	vhdx_region_table_encode(r, 2, encoded);
	assert_int_equal(get32(encoded + 4), 0xc66b8cae);
	assert_memory_equal(encoded, table, 65536);
	vhdx_region_table_encode(swap, 2, encoded);
	assert_int_equal(get32(encoded + 4), 0x1c142859);

	must(vhdx_region_table_decode(encoded, M1_SIZE, &t, NULL));
	assert_int_equal(t.count, 2);
	assert_int_equal(t.bat, 1);
	assert_int_equal(t.metadata, 0);
	assert_int_equal(t.entry[1].offset, M1_BAT);
	sp_free(t.entry);
}

/* ---- one copy: third entry, or a changed field --------------------------------------------------- */

static const struct row {
	const char *name;
	size_t at;
	unsigned bytes;
	uint64_t value;
	bool stale;
	int want;
} rows[] = {
	{ "as written", 12, 4, 0, false, 0 },
	{ "reserved byte at the end is covered by the CRC", 65535, 1, 1, true, -EBADMSG },
	{ "signature", 0, 1, 'R', false, -EBADMSG },
	{ "count 2048", 8, 4, 2048, false, -EBADMSG },
	{ "count 4294967295", 8, 4, 0xffffffff, false, -EBADMSG },
	{ "count 1: no metadata", 8, 4, 1, false, -EBADMSG },
	{ "count 0", 8, 4, 0, false, -EBADMSG },
	{ "BAT without required bit", 16 + 28, 4, 0, false, 0 },
	{ "BAT offset not in MiB", 16 + 16, 8, 0x300200, false, -EBADMSG },
	{ "BAT offset 0", 16 + 16, 8, 0, false, -EBADMSG },
	{ "BAT past the end", 16 + 16, 8, 0x400000, false, -EBADMSG },
	{ "BAT offset that would wrap", 16 + 16, 8, 0xfffffffffff00000, false, -EBADMSG },
	{ "BAT length 0", 16 + 24, 4, 0, false, -EBADMSG },
	{ "BAT length not in MiB", 16 + 24, 4, 0x80000, false, -EBADMSG },
	{ "BAT length 4 GiB - 1 MiB", 16 + 24, 4, 0xfff00000, false, -EBADMSG },
};

static void decode(void **state)
{
	const struct row *c = *state;
	struct vhdx_region_table t;
	int r;

	make_region_table(table);
	for (unsigned i = 0; i < c->bytes; i++)
		table[c->at + i] = (uint8_t)(c->value >> 8 * i);
	if (!c->stale)
		seal(table, 65536);
	r = vhdx_region_table_decode(table, M1_SIZE, &t, NULL);
	assert_int_equal(r, c->want);
	if (r == 0)
		sp_free(t.entry);
}

static int decode_with_third(const struct sp_guid *guid, uint32_t flags)
{
	struct vhdx_region_table t;
	int r;

	make_region_table(table);
	put32(table + 8, 3);
	put_region(table + 80, guid, SP_MIB(1), 1 << 20, flags);
	seal(table, 65536);
	r = vhdx_region_table_decode(table, M1_SIZE, &t, NULL);
	if (r == 0)
		sp_free(t.entry);
	return r;
}

static void unknown_regions(void **state)
{
	assert_int_equal(decode_with_third(&stranger, 0), 0);
	assert_int_equal(decode_with_third(&stranger, 1), -ENOTSUP);
	assert_int_equal(decode_with_third(&VHDX_GUID_BAT_REGION, 0), -EBADMSG);	/* twice */
}

/* ---- two copies ---------------------------------------------------------------------------------- */

static void copies(void **state)
{
	struct store *s = make_m1(M1_SIZE);
	struct vhdx_region_table t;
	unsigned copy = 9;
	uint8_t x = 'x';

	must(vhdx_region_tables_read(s, M1_SIZE, &t, &copy, NULL));
	assert_int_equal(copy, 0);
	sp_free(t.entry);
	must(store_write(s, &x, 1, 0x30000));
	must(vhdx_region_tables_read(s, M1_SIZE, &t, &copy, NULL));
	assert_int_equal(copy, 1);
	sp_free(t.entry);
	must(store_write(s, &x, 1, 0x40010));
	assert_int_equal(vhdx_region_tables_read(s, M1_SIZE, &t, &copy, NULL), -EBADMSG);
	store_close(s);
}

/* What an intact copy 1 demands is not to be dodged by reading copy 2. */
static void unknown_required_is_final(void **state)
{
	struct store *s = make_m1(M1_SIZE);
	struct vhdx_region_table t;
	unsigned copy;

	assert_int_equal(decode_with_third(&stranger, 1), -ENOTSUP);
	must(store_write(s, table, sizeof(table), 0x30000));
	assert_int_equal(vhdx_region_tables_read(s, M1_SIZE, &t, &copy, NULL), -ENOTSUP);
	store_close(s);
}

/* ---- disjointness -------------------------------------------------------------------------------- */

static const struct place { const char *name; uint64_t log, bat, metadata; uint32_t bat_length; int want; } places[] = {
	{ "log, metadata, BAT", 1, 3, 2, 1, 0 },
	{ "BAT, metadata, log", 4, 1, 3, 2, 0 },
	{ "log in the BAT", 2, 1, 4, 2, -EBADMSG },
	{ "BAT on the log", 1, 1, 2, 1, -EBADMSG },
	{ "metadata in the BAT", 1, 2, 3, 2, -EBADMSG },
	{ "all the same", 1, 1, 1, 1, -EBADMSG },
};

static void disjoint(void **state)
{
	const struct place *p = *state;
	struct vhdx_region r[2] = {
		{ .guid = VHDX_GUID_BAT_REGION, .offset = SP_MIB(p->bat), .length = p->bat_length << 20 },
		{ .guid = VHDX_GUID_METADATA_REGION, .offset = SP_MIB(p->metadata), .length = 1 << 20 },
	};
	struct vhdx_region_table t = { .entry = r, .count = 2, .bat = 0, .metadata = 1 };
	struct vhdx_header h = { .log_offset = SP_MIB(p->log), .log_length = 1 << 20 };

	assert_int_equal(vhdx_layout_check(&h, &t, SP_MIB(8), NULL), p->want);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(vector), cmocka_unit_test(unknown_regions), cmocka_unit_test(copies),
		cmocka_unit_test(unknown_required_is_final),
	};
	int failed = cmocka_run_group_tests_name("region", tests, NULL, NULL);

	failed += ROWS_RUN(rows, decode);
	failed += ROWS_RUN(places, disjoint);
	return failed != 0;
}
