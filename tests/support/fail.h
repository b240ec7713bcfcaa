/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_FAIL_H
#define SPINDLE_TESTS_FAIL_H
/* For test programs of their own, without cmocka. */

/* "FAIL ..." on standard error, and exit status 1. */
void fail(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

#endif
