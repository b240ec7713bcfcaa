/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/seed.h"

#ifdef SEED_BUG_RUNTIME
#include <stdlib.h>
#include <string.h>

bool sp_seed_bug_active(const char *name)
{
	const char *active = getenv("SPINDLE_SEED_BUG");

	return active && strcmp(active, name) == 0;
}
#else
typedef int sp_seed_nothing;	/* an empty file is not C */
#endif
