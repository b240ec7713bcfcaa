/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_ROWS_H
#define SPINDLE_TESTS_ROWS_H
/*
 * A table of cases becomes a cmocka group in which each row is a test under its own name. A row is a struct that begins
 * with that name; the test function finds the row in *state. ROWS_RUN() returns how many rows failed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define ROWS_RUN(table, function) \
	rows_run(#table, function, (table), sizeof((table)[0]), sizeof(table) / sizeof((table)[0]))

static inline int rows_run(const char *group, CMUnitTestFunction function, const void *rows, size_t size, size_t count)
{
	struct CMUnitTest *tests = calloc(count, sizeof(*tests));
	int failed;

	if (!tests)
		abort();
	for (size_t i = 0; i < count; i++) {
		const char *row = (const char *)rows + i * size;

		memcpy(&tests[i].name, row, sizeof(tests[i].name));
		tests[i].test_func = function;
		tests[i].initial_state = (void *)(uintptr_t)row;
	}
	failed = _cmocka_run_group_tests(group, tests, count, NULL, NULL);
	free(tests);
	return failed;
}

/* Rows that are test functions of their own. */
struct single_row {
	const char *name;
	CMUnitTestFunction run;
};

static inline void rows_single(void **state)
{
	const struct single_row *row = *state;

	row->run(NULL);
}

#endif
