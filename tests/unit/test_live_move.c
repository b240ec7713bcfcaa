/* SPDX-License-Identifier: BSD-2-Clause */
/* How a merge shares the medium with the guest. The rest of live_move.c is tested by test_live.c. */
#include "tests/unit/rows.h"
#include "vhd/live_int.h"

struct row {
	const char *name;
	bool gives_way, busy;
	uint64_t rate, paced;
	uint64_t due_ms;		/* of a piece from 1000 to 1007 ms of a move that began at 0 */
};

static const struct row rows[] = {
	{ "nobody waits", true, false, 0, 0, 1007 },
	{ "somebody does", true, true, 0, 0, 1014 },
	{ "a race is on", false, true, 0, 0, 1007 },
	{ "behind the rate", true, false, 1000, 900, 1007 },
	{ "ahead of it", true, false, 1000, 1500, 1500 },
	{ "ahead, and somebody waits", true, true, 1000, 1500, 1500 },
	{ "a little ahead, and somebody waits", true, true, 1000, 1010, 1014 },
};

static void test_due(void **state)
{
	const struct row *row = *state;
	struct live_move m = { .gives_way = row->gives_way, .rate = row->rate, .paced = row->paced };

	assert_int_equal(live_move_due(&m, row->busy, 1000000000, 1007000000), row->due_ms * 1000000);
}

int main(void)
{
	return ROWS_RUN(rows, test_due);
}
