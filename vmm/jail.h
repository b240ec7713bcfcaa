/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_JAIL_H
#define SPINDLE_VMM_JAIL_H
/*
 * What the process may do once it has opened everything: no new files, no new programs, no new privileges. In layers,
 * each of which is skipped, and said so, where the host cannot do it: uid and capabilities dropped (when root),
 * Landlock without any right, seccomp for all threads.
 */
#include <stdbool.h>

#include "base/err.h"

struct vmm_jail_report { bool no_new_privs, unprivileged, landlock, seccomp; };

/* Before the threads that shall be confined are started, or with all of them (TSYNC). -EPERM... tells what failed. */
int vmm_jail_enter(struct vmm_jail_report *ret_report, struct sp_err *err);

#endif
