/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_BASE_LOG_H
#define SPINDLE_BASE_LOG_H
/*
 * Debug output per component, switched at run time by SPINDLE_DEBUG=vhdx,chain (or "all"). Lines name
 * the object they speak of: "vhdx c.avhdx: replayed 3 log entries". Never used for errors a caller gets.
 */
#include <stdbool.h>

bool sp_log_enabled(const char *component);
void sp_log_write(const char *component, const char *object, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#define sp_debug(component, object, ...)                                  \
	do {                                                              \
		if (__builtin_expect(sp_log_enabled(component), 0))       \
			sp_log_write(component, object, __VA_ARGS__);     \
	} while (0)

#endif
