/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_BASE_SEED_H
#define SPINDLE_BASE_SEED_H
/*
 * Deliberate defects that prove the tests awake. SP_SEED_BUG(LOG_NO_FLUSH) is the constant 0 in every ordinary build;
 * in one configured with -Dseed_bug=LOG_NO_FLUSH	it is 1 -Dseed_bug=RUNTIME		it is 1 while the
 * environment says SPINDLE_SEED_BUG=LOG_NO_FLUSH The catalogue, and which harness must catch what, is
 * tests/seeded/catalogue.
 */
/* A program without an environment has none to ask. */
#if defined(SEED_BUG_RUNTIME) && __STDC_HOSTED__
#include <stdbool.h>

bool sp_seed_bug_active(const char *name);
#define SP_SEED_BUG(name) sp_seed_bug_active(#name)
#else
#define SP_SEED_PROBE_1 ,
#define SP_SEED_SECOND(a, b, ...) b
#define SP_SEED_PICK(junk) SP_SEED_SECOND(junk 1, 0, 0)
#define SP_SEED_EXPAND(value) SP_SEED_PICK(SP_SEED_PROBE_##value)
#define SP_SEED_EVAL(value) SP_SEED_EXPAND(value)
#define SP_SEED_BUG(name) SP_SEED_EVAL(SEED_BUG_##name)
#endif

#endif
