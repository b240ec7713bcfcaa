/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VHD 1.0: checker and repair. Each row damages a sound image in one way and says what is found, and whether a repair
 * leaves a sound image with the same data.
 */
#include "tests/unit/vhd1_images.h"

#include <errno.h>
#include <time.h>

#define MAX_CHECKED SP_MIB(1)

/* 1 MiB in blocks of 64 KiB, BAT at 1536; blocks 0, 1 and 5 are written. */
static struct store *sample(enum vhd_kind kind)
{
	struct store *s = new_image(kind, MAX_CHECKED, 65536), *c;
	struct vhd_image *img = open_image(s, VHD_IMG_WRITABLE);
	static uint8_t data[8192];
	static const uint64_t at[] = { 0, 65536 + 4096, 5 * 65536 };

	memset(data, 0x61, sizeof(data));
	assert_int_equal(vhd1_begin_write(img), 0);
	for (size_t i = 0; i < SP_ARRAY_SIZE(at); i++)
		assert_int_equal(image_write(img, data, sizeof(data), at[i]), 0);
	assert_int_equal(vhd1_flush_all(vhd1_of(img)), 0);
	if (vhd1_of(img)->sparse)
		assert_int_equal(vhd1_space_trim(vhd1_of(img)), 0);
	c = copy_of(img->store);
	vhd_image_close(img, false);
	return c;
}

static uint64_t block_at(struct store *s, uint32_t block)
{
	return peek_be32(s, 1536 + block * 4) * 512ull;
}

static void do_nothing(struct store *s)
{
}

static void end_damaged(struct store *s)
{
	poke(s, "X", 1, file_size(s) - 512);
}

static void end_cut(struct store *s)
{
	assert_int_equal(store_resize(s, file_size(s) - 512), 0);
}

static void end_killed(struct store *s)
{
	uint8_t c7[512];

	memset(c7, 0xc7, sizeof(c7));
	poke(s, c7, sizeof(c7), file_size(s) - 512);
}

static void end_short(struct store *s)
{
	assert_int_equal(store_resize(s, file_size(s) - 1), 0);
}

static void copy_damaged(struct store *s)
{
	poke(s, "X", 1, 100);
}

static void copy_differs(struct store *s)
{
	poke_be32(s, 24, 1);
	reseal_footer(s, 0);
}

static void tail_leaked(struct store *s)
{
	uint8_t footer[512];

	peek(s, footer, sizeof(footer), 0);
	poke(s, footer, sizeof(footer), file_size(s) + SP_MIB(1));
}

static void middle_leaked(struct store *s)
{
	poke_be32(s, 1536 + 4, VHD1_UNUSED);
}

static void entry_in_header(struct store *s)
{
	poke_be32(s, 1536 + 3 * 4, 1);
}

static void entry_past_end(struct store *s)
{
	poke_be32(s, 1536 + 3 * 4, 0x00ffffff);
}

static void same_block_twice(struct store *s)
{
	poke_be32(s, 1536 + 3 * 4, peek_be32(s, 1536));
}

static void overlap_and_end_lost(struct store *s)
{
	same_block_twice(s);
	end_damaged(s);
}

static void header_damaged(struct store *s)
{
	poke(s, "X", 1, 512);
}

static void hidden_data(struct store *s)
{
	poke(s, (uint8_t[1]){ 0x7f }, 1, block_at(s, 0));
}

static void zeros_under_zero_bits(struct store *s)
{
	poke(s, (uint8_t[1]){ 0 }, 1, block_at(s, 0) + 8);	/* sectors 64 to 71, never written */
}

static void geometry_large(struct store *s)
{
	poke_be32(s, 56, 0x00ff10ff);
	reseal_footer(s, 0);
	poke_be32(s, file_size(s) - 512 + 56, 0x00ff10ff);
	reseal_footer(s, file_size(s) - 512);
}

static void locator_broken(struct store *s)
{
	poke_be32(s, 512 + 576 + 8, 0x7fffffff);	/* its length */
	reseal_header(s, 512);
}

static void locator_twice(struct store *s)
{
	struct vhd1_locator_disk d;

	peek(s, &d, sizeof(d), 512 + 576);
	poke(s, &d, sizeof(d), 512 + 576 + 3 * 24);
	reseal_header(s, 512);
}

static void no_trace_of_parent(struct store *s)
{
	struct vhd1_header_disk h;

	peek(s, &h, sizeof(h), 512);
	memset(&h.parent_id, 0, sizeof(h.parent_id));
	memset(h.parent_name, 0, sizeof(h.parent_name));
	memset(h.locator, 0, sizeof(h.locator));
	vhd1_header_seal(&h);
	poke(s, &h, sizeof(h), 512);
}

/* Entries in use that lead to no parent: a code nobody knows, an empty text, a text longer than its room. */
static void locators_lead_nowhere(struct store *s)
{
	struct vhd1_header_disk h;
	uint64_t room;

	peek(s, &h, sizeof(h), 512);
	room = be64_get(h.locator[0].data_offset);
	no_trace_of_parent(s);
	peek(s, &h, sizeof(h), 512);
	vhd1_locator_encode(&h.locator[0], VHD1_CODE_W2RU, 512, 0, room);
	vhd1_locator_encode(&h.locator[1], VHD1_CODE_W2KU, 512, 1024, room);
	vhd1_locator_encode(&h.locator[7], 0x00603200, 512, 2, room);
	vhd1_header_seal(&h);
	poke(s, &h, sizeof(h), 512);
}

static void locators_lead_nowhere_and_end_lost(struct store *s)
{
	locators_lead_nowhere(s);
	end_damaged(s);
}

static void saved_state_and_leak(struct store *s)
{
	poke(s, (uint8_t[1]){ 1 }, 1, 84);
	reseal_footer(s, 0);
	poke(s, (uint8_t[1]){ 1 }, 1, file_size(s) - 512 + 84);
	reseal_footer(s, file_size(s) - 512);
	tail_leaked(s);
}

static void fixed_cut(struct store *s)
{
	uint8_t footer[512];
	uint64_t end = file_size(s) - 512;

	peek(s, footer, sizeof(footer), end);
	assert_int_equal(store_resize(s, end - 512), 0);
	poke(s, footer, sizeof(footer), end - 512);
}

static void fixed_slack(struct store *s)
{
	uint8_t footer[512];

	peek(s, footer, sizeof(footer), file_size(s) - 512);
	poke(s, footer, sizeof(footer), file_size(s));
}

/* The last block in the file loses its second half, of which no bit says that it was written. */
static void cut_unwritten(struct store *s)
{
	uint64_t at = block_at(s, 5);
	uint8_t bits[512] = { 0xff, 0xff };

	poke(s, bits, sizeof(bits), at);
	assert_int_equal(store_resize(s, at + 512 + 40000), 0);
}

static void cut_written(struct store *s)
{
	assert_int_equal(store_resize(s, block_at(s, 5) + 512 + 40000), 0);
}

static const struct damage_row {
	const char *name;
	enum vhd_kind kind;
	void (*damage)(struct store *s);
	uint64_t errors, leaks, warnings;
	const char *text;		/* of one finding */
	uint64_t fixed;			/* by repair */
	bool sound_after;		/* repair leaves nothing but warnings */
} damage_rows[] = {
	{ "dynamic, sound", VHD_KIND_DYNAMIC, do_nothing, 0, 0, 0, NULL, 0, true },
	{ "differencing, sound", VHD_KIND_DIFFERENCING, do_nothing, 0, 0, 0, NULL, 0, true },
	{ "fixed, sound", VHD_KIND_FIXED, do_nothing, 0, 0, 0, NULL, 0, true },
	{ "end footer damaged", VHD_KIND_DYNAMIC, end_damaged, 1, 0, 0, "the copy at 0 is good", 1, true },
	{ "end footer cut off", VHD_KIND_DIFFERENCING, end_cut, 1, 0, 0, "cut off", 1, true },
	{ "end footer killed", VHD_KIND_DYNAMIC, end_killed, 1, 0, 0, "XenServer", 1, true },
	{ "end footer of 511 bytes", VHD_KIND_DYNAMIC, end_short, 0, 0, 1, "511", 1, true },
	{ "fixed, footer of 511 bytes", VHD_KIND_FIXED, end_short, 0, 0, 1, "511", 1, true },
	{ "fixed, footer damaged", VHD_KIND_FIXED, end_damaged, 1, 0, 0, "no valid copy", 0, false },
	{ "copy damaged", VHD_KIND_DYNAMIC, copy_damaged, 1, 0, 0, "the footer at the end is good", 1, true },
	{ "copy differs", VHD_KIND_DYNAMIC, copy_differs, 1, 0, 0, "differs", 1, true },
	{ "V4 fixed, cut", VHD_KIND_FIXED, fixed_cut, 1, 0, 0, "the file is cut", 0, false },
	{ "fixed, slack", VHD_KIND_FIXED, fixed_slack, 0, 0, 1, "512 bytes between", 0, true },
	{ "V6 header damaged", VHD_KIND_DYNAMIC, header_damaged, 1, 0, 0, "cxsparse", 0, false },
	{ "V10 entry in the header", VHD_KIND_DYNAMIC, entry_in_header, 1, 0, 0, "overlaps the dynamic header", 0,
	  false },
	{ "V10 entry past the end", VHD_KIND_DYNAMIC, entry_past_end, 1, 0, 0, "ends past", 0, false },
	{ "V11 same block twice", VHD_KIND_DYNAMIC, same_block_twice, 1, 0, 0, "overlaps block 0", 0, false },
	{ "overlap, and end footer lost", VHD_KIND_DYNAMIC, overlap_and_end_lost, 2, 0, 0, "nobody can tell",
	  0, false },
	{ "V12 locator broken", VHD_KIND_DIFFERENCING, locator_broken, 0, 0, 1, "longer than its space", 0, true },
	{ "locator twice", VHD_KIND_DIFFERENCING, locator_twice, 0, 0, 1, "same code", 0, true },
	{ "V18 no trace of a parent", VHD_KIND_DIFFERENCING, no_trace_of_parent, 1, 0, 0, "without parent id",
	  0, false },
	{ "V18 locators lead nowhere", VHD_KIND_DIFFERENCING, locators_lead_nowhere, 1, 0, 1, "without parent id",
	  0, false },
	{ "V18 locators lead nowhere, end footer lost", VHD_KIND_DIFFERENCING, locators_lead_nowhere_and_end_lost,
	  2, 0, 1, "without parent id", 1, false },
	{ "V19 data under 0 bits", VHD_KIND_DYNAMIC, hidden_data, 0, 0, 1, "its bit is 0", 0, true },
	{ "zeros under 0 bits", VHD_KIND_DYNAMIC, zeros_under_zero_bits, 0, 0, 0, NULL, 0, true },
	{ "data under 0 bits of a child", VHD_KIND_DIFFERENCING, hidden_data, 0, 0, 0, NULL, 0, true },
	{ "geometry larger than the disk", VHD_KIND_DYNAMIC, geometry_large, 0, 0, 1, "geometry", 0, true },
	{ "leak at the end", VHD_KIND_DYNAMIC, tail_leaked, 0, 1, 0, "behind the last block", 1, true },
	{ "leak in the middle", VHD_KIND_DYNAMIC, middle_leaked, 0, 1, 0, "between blocks", 0, false },
	{ "leak under a saved state", VHD_KIND_DYNAMIC, saved_state_and_leak, 0, 1, 1, "behind the last block",
	  0, false },
	{ "cut in what was not written", VHD_KIND_DYNAMIC, cut_unwritten, 2, 0, 0, "nothing was written", 2, true },
	{ "cut in what was written", VHD_KIND_DYNAMIC, cut_written, 2, 0, 0, "ends past", 0, false },
};

static bool mentions(const struct vhd_report *rep, const char *text)
{
	for (size_t i = 0; i < rep->findings; i++)
		if (strstr(rep->finding[i].text, text))
			return true;
	return false;
}

static void print(const struct vhd_report *rep)
{
	for (size_t i = 0; i < rep->findings; i++)
		print_message("  %d%s%s %s: %s\n", rep->finding[i].severity, rep->finding[i].fixable ? " fixable" : "",
			      rep->finding[i].fixed ? " fixed" : "", rep->finding[i].structure, rep->finding[i].text);
}

static void expect_same_bytes(struct store *a, struct store *b)
{
	uint64_t size = file_size(a);
	uint8_t x[4096], y[4096];

	assert_int_equal(size, file_size(b));
	for (uint64_t at = 0; at < size; at += sizeof(x)) {
		size_t n = (size_t)sp_min(sizeof(x), size - at);

		peek(a, x, n, at);
		peek(b, y, n, at);
		assert_memory_equal(x, y, n);
	}
}

static void read_disk(struct store *s, uint8_t *ret)
{
	struct vhd_image *img = open_image(copy_of(s), 0);

	image_read(img, ret, MAX_CHECKED, 0);
	vhd_image_close(img, false);
}

static void check_and_repair(void **state)
{
	static uint8_t before[MAX_CHECKED], after[MAX_CHECKED];
	const struct damage_row *row = *state;
	struct store *s = sample(row->kind), *untouched;
	struct vhd_report rep = { 0 }, dry = { 0 }, fixed = { 0 }, again = { 0 };

	row->damage(s);
	untouched = copy_of(s);
	assert_int_equal(vhd1_check(s, &rep), 0);
	print(&rep);
	assert_int_equal(rep.errors, row->errors);
	assert_int_equal(rep.leaks, row->leaks);
	assert_int_equal(rep.warnings, row->warnings);
	assert_true(!row->text || mentions(&rep, row->text));
	if (rep.errors == 0)				/* what the checker calls sound must open */
		vhd_image_close(open_image(copy_of(s), 0), false);
	assert_int_equal(vhd1_repair(s, true, &dry), 0);
	assert_int_equal(dry.fixed, 0);
	expect_same_bytes(s, untouched);		/* looking changes nothing */

	assert_int_equal(vhd1_repair(s, false, &fixed), 0);
	assert_int_equal(fixed.fixed, row->fixed);
	if (row->fixed == 0)
		expect_same_bytes(s, untouched);
	assert_int_equal(vhd1_check(s, &again), 0);
	print(&again);
	assert_int_equal(again.errors + again.leaks == 0, row->sound_after);
	if (row->sound_after) {
		if (row->damage == cut_unwritten) {	/* cannot be read while it is cut */
			store_close(untouched);
			untouched = sample(row->kind);
		}
		read_disk(untouched, before);
		read_disk(s, after);
		assert_memory_equal(before, after, sizeof(after));
		expect_open(copy_of(s), VHD_IMG_WRITABLE, 0, NULL);
	}
	vhd_report_fini(&rep);
	vhd_report_fini(&dry);
	vhd_report_fini(&fixed);
	vhd_report_fini(&again);
	store_close(untouched);
	store_close(s);
}

/* Every entry of a large table damaged: counted, not printed, and soon over. */
static void many_bad_entries(void **state)
{
	struct store *s = new_image(VHD_KIND_DYNAMIC, SP_GIB(256), 65536);
	struct vhd_report rep = { 0 };
	uint32_t n = (uint32_t)(SP_GIB(256) / 65536);

	assert_int_equal(store_zero(s, 1536, n * 4ull), 0);	/* a hole where the table was */
	assert_int_equal(vhd1_check(s, &rep), 0);
	assert_int_equal(rep.errors, n);
	assert_int_equal(rep.findings, 1000);
	assert_int_equal(rep.total_blocks, n);
	assert_int_equal(rep.allocated_blocks, n);
	vhd_report_fini(&rep);
	store_close(s);
}

/* A table of 16 GiB that is a hole of a small file costs what the file holds, not what it claims. */
static void table_in_a_hole(void **state)
{
	struct store *s = new_image(VHD_KIND_DYNAMIC, MAX_CHECKED, 65536);
	struct vhd_report rep = { 0 };
	uint8_t footer[512];
	clock_t before;

	peek(s, footer, sizeof(footer), 0);
	poke_be32(s, 512 + offsetof(struct vhd1_header_disk, max_entries), UINT32_MAX);
	reseal_header(s, 512);
	poke(s, footer, sizeof(footer), SP_GIB(17));
	before = clock();
	assert_int_equal(vhd1_check(s, &rep), 0);
	assert_true(clock() - before < CLOCKS_PER_SEC);
	print(&rep);
	assert_int_equal(rep.errors, 0);
	assert_int_equal(rep.warnings, 1);
	assert_true(mentions(&rep, "4294967167 entries beyond"));	/* all but the sector that was there */
	vhd_report_fini(&rep);
	store_close(s);
}

static const struct single_row single_rows[] = {
	{ "many bad entries", many_bad_entries },
	{ "table in a hole", table_in_a_hole },
};

int main(void)
{
	int failed = 0;

	vhd1_test_env();
	failed += ROWS_RUN(damage_rows, check_and_repair);
	failed += ROWS_RUN(single_rows, rows_single);
	return failed != 0;
}
