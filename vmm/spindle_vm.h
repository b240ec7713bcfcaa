/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_SPINDLE_VM_H
#define SPINDLE_VMM_SPINDLE_VM_H
/*
 * The program spindle-vm: a verb each. "run" is the machine; the others are clients of its control socket.
 * Exit status: 0 done, 1 it failed, 2 wrong usage.
 */
#include <json-c/json.h>
#include <stdbool.h>

#include "base/err.h"

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

/* ---- runtime_dir.c: where the sockets of running machines are ------------------------------------------ */

/* $XDG_RUNTIME_DIR/spindle, /run/spindle for root, else /tmp/spindle-UID; 0700 and ours, or refused. */
int vm_runtime_dir(char ret_path[80], struct sp_err *err);
/* Path of the machine's control socket. */
int vm_socket_path(const char *name, char ret_path[108], struct sp_err *err);

/* ---- client ------------------------------------------------------------------------------------------- */

struct vm_client;
int vm_client_open(const char *name, struct vm_client **ret_client, struct sp_err *err);
void vm_client_close(struct vm_client *c);
/* Executes and waits for the answer, which is the caller's. @arguments is taken over. */
int vm_client_call(struct vm_client *c, const char *command, json_object *arguments, json_object **ret,
		   struct sp_err *err);
/* The next event, whole, the caller's: 0, -ETIMEDOUT, -EPIPE. */
int vm_client_event(struct vm_client *c, int timeout_ms, json_object **ret);
/* Waits for one of two events: 0 the first, 1 the second (NULL: there is none), -ETIMEDOUT, -EPIPE (the machine has
 * gone, and has closed its disks). @wanted NULL: for the machine to go. */
int vm_client_wait(struct vm_client *c, const char *wanted, const char *other, int timeout_ms);

#endif
