/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_BARE_WALK_H
#define SPINDLE_TESTS_BARE_WALK_H
/*
 * What the guest of the walk and its host have agreed on.
 */
#include <stdint.h>

/* Connections. A signal on one comes back as the event flag of that number. */
#define WALK_MESSAGES 1u
#define WALK_BOUND 7u			/* by an eventfd */
#define WALK_UNBOUND 8u			/* leaves the kernel */
#define WALK_NOBODY 99u
#define WALK_NOBODY_STATUS 18u

struct walk_request { uint32_t vp, count; };
struct walk_reply { uint32_t number; };

#endif
