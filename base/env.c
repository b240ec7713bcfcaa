/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/env.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

static struct sp_env_hooks hooks;	/* all NULL: the real ones */

void sp_env_set_hooks(const struct sp_env_hooks *new_hooks)
{
	hooks = new_hooks ? *new_hooks : (struct sp_env_hooks){ NULL };
}

int64_t sp_env_time(void)
{
	return hooks.time ? hooks.time(hooks.arg) : (int64_t)time(NULL);
}

uint64_t sp_env_monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t sp_env_file_clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME_COARSE, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void sp_env_guid(struct sp_guid *ret_guid)
{
	uint8_t *b = ret_guid->b;

	if (hooks.guid) {
		hooks.guid(hooks.arg, ret_guid);
		return;
	}
	while (getrandom(b, sizeof(ret_guid->b), 0) != (ssize_t)sizeof(ret_guid->b)) {
		if (errno != EINTR)
			abort();	/* rather than two images with one identity */
	}
	/* The version is in byte 7 of the mixed-endian form, in byte 6 of the big-endian one: 4 in both. */
	b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
	b[7] = (uint8_t)((b[7] & 0x0f) | 0x40);
	b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);		/* variant of RFC 4122 */
}
