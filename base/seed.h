/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_BASE_SEED_H
#define SPINDLE_BASE_SEED_H
/*
 * Deliberate defects that prove the tests awake: SP_SEED_BUG(LOG_NO_FLUSH) is 1 only in a build configured with
 * -Dseed_bug=LOG_NO_FLUSH, otherwise the constant 0. The catalogue is tests/seeded/catalogue.
 */
#define SP_SEED_PROBE_1 ,
#define SP_SEED_SECOND(a, b, ...) b
#define SP_SEED_PICK(junk) SP_SEED_SECOND(junk 1, 0, 0)
#define SP_SEED_EXPAND(value) SP_SEED_PICK(SP_SEED_PROBE_##value)
#define SP_SEED_EVAL(value) SP_SEED_EXPAND(value)
#define SP_SEED_BUG(name) SP_SEED_EVAL(SEED_BUG_##name)

#endif
