/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_SPINDLE_VM_H
#define SPINDLE_VMM_SPINDLE_VM_H
/*
 * The program spindle-vm: a verb each. "run" is the machine; the others are clients of its control socket.
 * Exit status: 0 done, 1 it failed, 2 wrong usage.
 */
#include "vmm/client.h"

#define EXIT_DONE   0
#define EXIT_FAILED 1
#define EXIT_USAGE  2

int vm_run(int argc, char **argv);
int vm_status(int argc, char **argv);
int vm_list(int argc, char **argv);
int vm_stop(int argc, char **argv);
int vm_pause(int argc, char **argv);
int vm_resume(int argc, char **argv);
int vm_reset(int argc, char **argv);
int vm_console(int argc, char **argv);
int vm_stats(int argc, char **argv);
int vm_insert(int argc, char **argv);
int vm_eject(int argc, char **argv);
int vm_read_only(int argc, char **argv);
int vm_attach(int argc, char **argv);
int vm_detach(int argc, char **argv);
int vm_resize(int argc, char **argv);
int vm_limit(int argc, char **argv);
int vm_doctor(int argc, char **argv);
int vm_snapshot(int argc, char **argv);
int vm_snapshot_revert(int argc, char **argv);	/* "snapshot revert": of a machine that does not run */

/* "spindle-vm: TEXT" on standard error; returns @status. */
int vm_fail(int status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int vm_usage(const char *verb, const char *synopsis);

#endif
