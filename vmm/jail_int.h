/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_JAIL_INT_H
#define SPINDLE_VMM_JAIL_INT_H

/* The filter of system calls, for all threads: 0 or -errno. */
int jail_seccomp(void);

#endif
