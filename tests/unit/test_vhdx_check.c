/* SPDX-License-Identifier: BSD-2-Clause */
/* Checker and repair on images put together by hand: M1, grown to 8 MiB, with block 0 at 4 MiB and 1 at 6 MiB. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/alloc.h"
#include "tests/unit/rows.h"
#include "tests/unit/vhdx_image.h"

static struct log_builder builder;
static uint8_t big[65536 + 40];

static struct store *make_image(void)
{
	struct store *s = make_m1(SP_MIB(8));

	put_bat(s, 0, SP_MIB(4) | 6);
	put_bat(s, 1, SP_MIB(6) | 6);
	return s;
}

/* ---- changes ------------------------------------------------------------------------------------- */

static void nothing(struct store *s)
{
}

static void identifier_bad(struct store *s)
{
	damage_byte(s, 0);
}

static void header_1_bad(struct store *s)
{
	damage_byte(s, 0x10020);
}

static void header_2_bad(struct store *s)
{
	damage_byte(s, 0x20fff);
}

static void headers_bad(struct store *s)
{
	header_1_bad(s);
	header_2_bad(s);
}

static void other_data_guid(struct store *s)
{
	uint8_t buf[4096];

	make_header(buf, 1, 0);
	buf[32] = 0x77;
	seal(buf, 4096);
	must(store_write(s, buf, 4096, 0x10000));
}

static void regions_1_bad(struct store *s)
{
	damage_byte(s, 0x3ffff);
}

static void regions_2_differ(struct store *s)
{
	make_region_table(big);
	big[12] = 1;	/* reserved */
	seal(big, 65536);
	must(store_write(s, big, 65536, 0x40000));
}

static void regions_bad(struct store *s)
{
	damage_byte(s, 0x30010);
	damage_byte(s, 0x40010);
}

static void metadata_bad(struct store *s)
{
	damage_byte(s, M1_METADATA + 3);
}

static void state_5(struct store *s)
{
	put_bat(s, 2, 5);
}

static void state_7_without_parent(struct store *s)
{
	put_bat(s, 0, SP_MIB(4) | 7);
}

static void no_location(struct store *s)
{
	put_bat(s, 2, 6);
}

static void in_header_section(struct store *s)
{
	put_bat(s, 2, 6 | 0x8);	/* reserved bit as well */
}

static void past_the_end(struct store *s)
{
	put_bat(s, 2, SP_MIB(7) | 6);
}

static void far_past_the_end(struct store *s)
{
	put_bat(s, 2, 0xfffffffffff00006);
}

static void reserved_bits(struct store *s)
{
	put_bat(s, 0, SP_MIB(4) | 0x80006);
}

static void zero_with_offset(struct store *s)
{
	put_bat(s, 2, SP_MIB(4) | 2);
}

static void shared(struct store *s)
{
	put_bat(s, 2, SP_MIB(5) | 6);	/* half of block 0, half of block 1 */
}

static void on_log(struct store *s)
{
	put_bat(s, 1, SP_MIB(1) | 6);	/* and on the metadata */
}

static void unmapped_anchor(struct store *s)
{
	put_bat(s, 1, SP_MIB(6) | 3);
}

static void stale_anchor(struct store *s)
{
	put_bat(s, 2, SP_MIB(6) | 1);
}

static void entry_behind_disk(struct store *s)
{
	put_bat(s, 4, SP_MIB(6) | 6);	/* not read: a dynamic BAT of 4 blocks ends before it */
}

static void leak_at_end(struct store *s)
{
	must(store_resize(s, SP_MIB(11) + 512));
}

static void leak_inside(struct store *s)
{
	put_bat(s, 0, 0);
}

static void leak_and_error(struct store *s)
{
	leak_at_end(s);
	state_5(s);
}

static void log_to_replay(struct store *s)
{
	static uint8_t page[4096];

	put64(page, SP_MIB(4) | 6);
	put64(page + 8, SP_MIB(6) | 6);
	put64(page + 16, SP_MIB(8) | 6);
	log_start(&builder, 1, 0, SP_MIB(8), SP_MIB(10));
	log_data(&builder, M1_BAT, page);
	must(store_write(s, builder.bytes, log_finish(&builder), M1_LOG));
	set_log_guid(s, 0x11);
}

static void log_to_replay_over_damage(struct store *s)
{
	log_to_replay(s);
	put_bat(s, 0, 5);	/* what is in the log counts */
}

static void log_empty(struct store *s)
{
	set_log_guid(s, 0x11);
}

static void file_tiny(struct store *s)
{
	must(store_resize(s, 70000));
}

static void file_cut(struct store *s)
{
	must(store_resize(s, SP_MIB(7)));
}

static const struct row {
	const char *name;
	void (*change)(struct store *s);
	uint64_t errors, leaks, warnings;
	uint64_t left;		/* errors, leaks and warnings after a repair */
	uint64_t leaked_kib;
} rows[] = {
	{ "sound", nothing },
	{ "identifier damaged", identifier_bad, 1, 0, 0, 1 },
	{ "header 1 damaged", header_1_bad, 0, 0, 1, 0 },
	{ "header 2 damaged", header_2_bad, 0, 0, 1, 0 },
	{ "both headers damaged", headers_bad, 1, 0, 0, 1 },
	{ "headers carry different DataWriteGuids", other_data_guid, 0, 0, 1, 0 },
	{ "region table 1 damaged", regions_1_bad, 0, 0, 1, 0 },
	{ "region table 2 differs", regions_2_differ, 0, 0, 1, 0 },
	{ "both region tables damaged", regions_bad, 1, 0, 0, 1 },
	{ "metadata damaged", metadata_bad, 1, 0, 0, 1 },
	{ "block in state 5", state_5, 1, 0, 0, 1 },
	{ "block in state 7 without a parent", state_7_without_parent, 1, 1, 0, 2, 2048 },
	{ "state 6 without location", no_location, 1, 0, 0, 1 },
	{ "reserved bit, no location", in_header_section, 1, 0, 0, 1 },
	{ "block reaches past the end", past_the_end, 1, 0, 0, 1 },
	{ "block far past the end", far_past_the_end, 1, 0, 0, 1 },
	{ "reserved bits", reserved_bits, 1, 1, 0, 2, 2048 },
	{ "state 2 with offset", zero_with_offset, 0, 0, 1, 1 },
	{ "block shared by three", shared, 3, 0, 0, 3 },
	{ "block on the log", on_log, 1, 1, 0, 2, 2048 },
	{ "unmapped block keeps its space", unmapped_anchor },
	{ "stale anchor on another block", stale_anchor },
	{ "entry behind the table", entry_behind_disk },
	{ "leak at the end", leak_at_end, 0, 1, 0, 0, 3072 },
	{ "leak inside", leak_inside, 0, 1, 0, 1, 2048 },
	{ "leak at the end and an error", leak_and_error, 1, 1, 0, 2, 3072 },
	{ "log to replay", log_to_replay, 0, 0, 1, 0 },
	{ "log to replay over damage", log_to_replay_over_damage, 0, 0, 1, 0 },
	{ "log without entries", log_empty, 1, 0, 0, 1 },
	{ "file of 70000 bytes", file_tiny, 1, 0, 0, 1 },
	{ "file cut off", file_cut, 1, 1, 0, 2, 1024 },
};

static void check(void **state)
{
	const struct row *c = *state;
	struct store *s = make_image();
	struct vhd_report rep = { 0 };
	static uint8_t before[12 << 20], after[12 << 20];
	uint64_t size;

	c->change(s);
	must(store_size(s, &size));
	must(store_read(s, before, size, 0));
	must(vhdx_repair(s, true, &rep));	/* a dry run is the check */
	assert_int_equal(rep.errors, c->errors);
	assert_int_equal(rep.leaks, c->leaks);
	assert_int_equal(rep.warnings, c->warnings);
	assert_int_equal(rep.leaked_bytes,
			 c->leaked_kib * 1024 + (c->change == leak_at_end || c->change == leak_and_error ? 512 : 0));
	assert_int_equal(rep.fixed, 0);
	must(store_read(s, after, size, 0));
	assert_memory_equal(before, after, size);
	vhd_report_fini(&rep);
	store_close(s);
}

static void repair(void **state)
{
	const struct row *c = *state;
	struct store *s = make_image();
	struct vhd_report rep = { 0 };
	struct vhdx_header h;
	unsigned slot;

	c->change(s);
	must(vhdx_repair(s, false, &rep));
	assert_int_equal(rep.errors + rep.leaks + rep.warnings - rep.fixed, c->left);
	for (size_t i = 0; i < rep.findings; i++)
		assert_true(rep.finding[i].fixable || !rep.finding[i].fixed);
	vhd_report_fini(&rep);
	memset(&rep, 0, sizeof(rep));
	must(vhdx_check(s, &rep));
	assert_int_equal(rep.fixed, 0);
	if (c->left == 0) {
		assert_int_equal(rep.errors + rep.leaks + rep.warnings, 0);
		must(vhdx_header_read_current(s, SP_MIB(12), &h, &slot, NULL));
		assert_int_equal(h.data_write_guid.b[0], 2);	/* what a guest sees is the same */
	}
	vhd_report_fini(&rep);
	store_close(s);
}

/* ---- numbers and places -------------------------------------------------------------------------- */

static void numbers(void **state)
{
	struct store *s = make_image();
	struct vhd_report rep = { 0 };

	leak_at_end(s);
	must(vhdx_check(s, &rep));
	assert_int_equal(rep.total_blocks, 4);
	assert_int_equal(rep.allocated_blocks, 2);
	assert_int_equal(rep.image_end, SP_MIB(8));
	assert_int_equal(rep.finding[0].file_offset, SP_MIB(8));
	assert_true(rep.finding[0].fixable);
	vhd_report_fini(&rep);
	memset(&rep, 0, sizeof(rep));
	must(vhdx_repair(s, false, &rep));
	assert_int_equal(rep.fixed, 1);
	vhd_report_fini(&rep);
	must(store_size(s, &rep.image_end));
	assert_int_equal(rep.image_end, SP_MIB(8));
	store_close(s);
}

static void names_both_claimants(void **state)
{
	struct store *s = make_image();
	struct vhd_report rep = { 0 };

	put_bat(s, 2, SP_MIB(4) | 6);
	must(vhdx_check(s, &rep));
	assert_int_equal(rep.findings, 2);
	assert_string_equal(rep.finding[0].structure, "BAT entry 0");
	assert_string_equal(rep.finding[1].structure, "BAT entry 2");
	assert_int_equal(rep.finding[1].file_offset, M1_BAT + 16);
	vhd_report_fini(&rep);
	store_close(s);
}

static void report_is_bounded(void **state)
{
	struct vhd_report rep = { 0 };

	for (unsigned i = 0; i < 5000; i++)
		must(vhd_report_add(&rep, VHD_SEV_ERROR, false, false, i, "thing", "number %u", i));
	assert_int_equal(rep.errors, 5000);
	assert_int_equal(rep.findings, 1000);
	assert_string_equal(rep.finding[999].text, "number 999");
	vhd_report_fini(&rep);
}

/* ---- differencing -------------------------------------------------------------------------------- */

static struct store *make_child(void)
{
	const struct vhd_set_parent p = { .identity = { { { 7 } } }, .identities = 1, .relative = "base.vhdx" };
	struct store *s = make_m1(SP_MIB(7));
	uint8_t item[1000];
	size_t len;

	must(vhdx_locator_encode(&p, item, sizeof(item), &len));
	make_metadata(big);
	put_item(big, 5, &VHDX_GUID_PARENT_LOCATOR, 0x11000, (uint32_t)len, 4);
	put32(big + 65540, 2);
	must(store_write(s, big, sizeof(big), M1_METADATA));
	must(store_write(s, item, len, M1_METADATA + 0x11000));
	put_bat(s, 0, SP_MIB(4) | 7);
	put_bat(s, 2048, SP_MIB(6) | 6);
	return s;
}

static void child_sound(struct store *s)
{
}

static void child_without_bitmap(struct store *s)
{
	put_bat(s, 2048, 0);
}

static void child_bitmap_state(struct store *s)
{
	put_bat(s, 2048, 2);
}

static void child_bitmap_past_end(struct store *s)
{
	put_bat(s, 2048, SP_MIB(7) | 6);
}

static void child_bitmap_in_block(struct store *s)
{
	put_bat(s, 2048, SP_MIB(5) | 6);
}

static void child_behind_disk(struct store *s)
{
	put_bat(s, 100, SP_MIB(4) | 6);
}

static void child_locator_bad(struct store *s)
{
	damage_byte(s, M1_METADATA + 0x11000);
}

static void child_no_has_parent(struct store *s)
{
	uint8_t zero = 0;

	must(store_write(s, &zero, 1, M1_ITEMS + 4));
	put_bat(s, 0, SP_MIB(4) | 6);
}

static const struct child {
	const char *name;
	void (*change)(struct store *s);
	uint64_t errors, leaks, warnings;
} children[] = {
	{ "sound", child_sound, 0, 0, 0 },
	{ "bitmap block missing", child_without_bitmap, 1, 1, 0 },
	{ "bitmap slot in state 2", child_bitmap_state, 1, 1, 0 },
	{ "bitmap block past the end", child_bitmap_past_end, 1, 1, 0 },
	{ "bitmap block inside a block", child_bitmap_in_block, 2, 1, 0 },
	{ "entry behind the disk", child_behind_disk, 0, 0, 1 },
	{ "locator damaged", child_locator_bad, 1, 0, 0 },
	{ "HasParent lost", child_no_has_parent, 0, 1, 1 },
};

static void check_child(void **state)
{
	const struct child *c = *state;
	struct store *s = make_child();
	struct vhd_report rep = { 0 };

	c->change(s);
	must(vhdx_check(s, &rep));
	assert_int_equal(rep.errors, c->errors);
	assert_int_equal(rep.leaks, c->leaks);
	assert_int_equal(rep.warnings, c->warnings);
	vhd_report_fini(&rep);
	store_close(s);
}

/* ---- fixed, as QEMU leaves them: the last block sticks out of the file (2.13) -------------------- */

static void last_block_may_stick_out(void **state)
{
	struct store *s = make_m1(SP_MIB(5));
	struct vhd_report rep = { 0 };
	le64_t size = le64_make(SP_MIB(1));

	must(store_write(s, &size, sizeof(size), M1_ITEMS + 8));
	put_bat(s, 0, SP_MIB(4) | 6);
	must(vhdx_check(s, &rep));
	assert_int_equal(rep.errors + rep.leaks + rep.warnings, 0);
	must(store_resize(s, SP_MIB(5) - 512));		/* bytes of the disk are missing now */
	must(vhdx_check(s, &rep));
	assert_int_equal(rep.errors, 1);
	vhd_report_fini(&rep);
	store_close(s);
}

/* ---- memory runs out ----------------------------------------------------------------------------- */

static int fails_when_zero(void *arg)
{
	return (*(int *)arg)-- == 0;
}

static void every_allocation_may_fail(void **state)
{
	void (*const changes[])(struct store *s) = { shared, log_to_replay, regions_1_bad };

	for (size_t i = 0; i < SP_ARRAY_SIZE(changes); i++) {
		int r = -ENOMEM;

		for (int k = 0; r == -ENOMEM; k++) {
			struct store *s = make_image();
			struct vhd_report rep = { 0 };
			int left = k;

			changes[i](s);
			sp_alloc_set_fault(fails_when_zero, &left);
			r = vhdx_repair(s, false, &rep);
			sp_alloc_set_fault(NULL, NULL);
			vhd_report_fini(&rep);
			store_close(s);
			assert_in_range(k, 0, 1000);
		}
		assert_int_equal(r, 0);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers), cmocka_unit_test(names_both_claimants), cmocka_unit_test(report_is_bounded),
		cmocka_unit_test(last_block_may_stick_out), cmocka_unit_test(every_allocation_may_fail),
	};
	int failed = cmocka_run_group_tests_name("check", tests, NULL, NULL);

	failed += ROWS_RUN(rows, check);
	failed += ROWS_RUN(rows, repair);
	failed += ROWS_RUN(children, check_child);
	return failed != 0;
}
