/* SPDX-License-Identifier: BSD-2-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "vhd/flatmap.h"

static const struct flat_place data = { .kind = FLAT_DATA, .level = 3, .direct_write = true, .file_offset = SP_MIB(7) };
static const struct flat_place zero = { .kind = FLAT_ZERO };

static void nothing_known(void **state)
{
	struct flat_place p;
	struct flatmap m;

	assert_int_equal(flatmap_init(&m, SP_MIB(3) + 512), 0);
	flatmap_get(&m, SP_MIB(1) + 5, &p);
	assert_int_equal(p.kind, FLAT_UNRESOLVED);
	flatmap_get(&m, SP_MIB(3), &p);
	assert_int_equal(p.len, 512);
	flatmap_fini(&m);
}

static void whole_unit(void **state)
{
	struct flat_place p;
	struct flatmap m;

	assert_int_equal(flatmap_init(&m, SP_MIB(3)), 0);
	flatmap_put(&m, SP_MIB(1), SP_MIB(1), &data);
	flatmap_get(&m, SP_MIB(1) + 12345, &p);
	assert_int_equal(p.kind, FLAT_DATA);
	assert_int_equal(p.level, 3);
	assert_true(p.direct_write);
	assert_int_equal(p.file_offset, SP_MIB(7) + 12345);
	assert_int_equal(p.len, SP_MIB(1) - 12345);
	flatmap_get(&m, 0, &p);
	assert_int_equal(p.kind, FLAT_UNRESOLVED);
	flatmap_get(&m, SP_MIB(2), &p);
	assert_int_equal(p.kind, FLAT_UNRESOLVED);
	flatmap_fini(&m);
}

/* A stretch that does not fill the unit lands in cells; the cell it only touches is left to the formats. */
static void cells(void **state)
{
	struct flat_place p;
	struct flatmap m;

	assert_int_equal(flatmap_init(&m, SP_MIB(2)), 0);
	flatmap_put(&m, 8192, 4096 + 512, &data);
	flatmap_get(&m, 8192 + 100, &p);
	assert_int_equal(p.kind, FLAT_DATA);
	assert_int_equal(p.file_offset, SP_MIB(7) + 100);
	assert_int_equal(p.len, 4096 - 100);
	flatmap_get(&m, 12288, &p);
	assert_int_equal(p.kind, FLAT_SLOW);
	flatmap_get(&m, 0, &p);
	assert_int_equal(p.kind, FLAT_UNRESOLVED);
	flatmap_forget(&m, 12288, 1);
	flatmap_get(&m, 12288, &p);
	assert_int_equal(p.kind, FLAT_UNRESOLVED);
	flatmap_get(&m, 8192, &p);
	assert_int_equal(p.kind, FLAT_DATA);
	flatmap_fini(&m);
}

static void forgetting_spans_units(void **state)
{
	struct flat_place p;
	struct flatmap m;

	assert_int_equal(flatmap_init(&m, SP_GIB(2)), 0);
	for (uint64_t at = 0; at < SP_GIB(2); at += FLATMAP_UNIT)
		flatmap_put(&m, at, FLATMAP_UNIT, &zero);
	flatmap_forget(&m, SP_MIB(1) + 1, SP_GIB(1));
	for (uint64_t at = 0; at < SP_GIB(2); at += FLATMAP_UNIT) {
		flatmap_get(&m, at, &p);
		assert_int_equal(p.kind, at >= SP_MIB(1) && at <= SP_MIB(1) + SP_GIB(1) ? FLAT_UNRESOLVED : FLAT_ZERO);
	}
	flatmap_fini(&m);
}

/* A place at an odd byte cannot be packed: it must be refused, not rounded. */
static void odd_offsets_stay_slow(void **state)
{
	struct flat_place odd = data, p;
	struct flatmap m;

	odd.file_offset = 513;
	assert_int_equal(flatmap_init(&m, SP_MIB(1)), 0);
	flatmap_put(&m, 0, SP_MIB(1), &odd);
	flatmap_get(&m, 0, &p);
	assert_int_equal(p.kind, FLAT_SLOW);
	flatmap_fini(&m);
}

static void over_budget(void **state)
{
	struct flat_place p;
	struct flatmap m;

	assert_int_equal(flatmap_init(&m, SP_MIB(4)), 0);
	m.cell_tables_max = 1;
	flatmap_put(&m, 4096, 4096, &data);
	flatmap_put(&m, SP_MIB(1) + 4096, 4096, &data);
	flatmap_get(&m, 4096, &p);
	assert_int_equal(p.kind, FLAT_DATA);
	flatmap_get(&m, SP_MIB(1) + 4096, &p);
	assert_int_equal(p.kind, FLAT_UNRESOLVED);
	flatmap_fini(&m);
}

/* A sparse file of 8 EiB is a disk, too: its directory must not take what its size asks for. */
static void beyond_the_directory(void **state)
{
	const uint64_t size = (uint64_t)INT64_MAX & ~(uint64_t)511;
	struct flat_place p;
	struct flatmap m;

	assert_int_equal(flatmap_init(&m, size), 0);
	assert_true(m.pages <= 1u << 18);
	flatmap_put(&m, size - SP_MIB(2), SP_MIB(1), &zero);
	flatmap_get(&m, size - 512, &p);
	assert_int_equal(p.kind, FLAT_UNRESOLVED);
	assert_int_equal(p.len, 512);
	flatmap_forget(&m, 0, size);
	flatmap_fini(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_known), cmocka_unit_test(whole_unit), cmocka_unit_test(cells),
		cmocka_unit_test(forgetting_spans_units), cmocka_unit_test(odd_offsets_stay_slow),
		cmocka_unit_test(over_budget), cmocka_unit_test(beyond_the_directory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
