/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_BASE_ENV_H
#define SPINDLE_BASE_ENV_H
/*
 * Time and chance. A test replaces both, which makes a run a pure function of its seed.
 */
#include <stdint.h>

#include "base/guid.h"

int64_t sp_env_time(void);			/* seconds since 1970-01-01 UTC */
uint64_t sp_env_monotonic_ns(void);
uint64_t sp_env_file_clock_ns(void);		/* since 1970, what the kernel stamps files with: ticks of some ms */
void sp_env_guid(struct sp_guid *ret_guid);	/* random, version 4 */

struct sp_env_hooks {
	int64_t (*time)(void *arg);
	void (*guid)(void *arg, struct sp_guid *ret_guid);
	void *arg;
};

void sp_env_set_hooks(const struct sp_env_hooks *hooks);	/* NULL: the real ones; not thread safe */

#endif
