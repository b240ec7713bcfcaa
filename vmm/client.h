/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_CLIENT_H
#define SPINDLE_VMM_CLIENT_H
/*
 * Programs that talk to running machines: where their sockets are, and the other end of the control socket.
 */
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "vmm/json_text.h"

/* ---- runtime_dir.c: where the sockets of running machines are ------------------------------------------ */

/* $XDG_RUNTIME_DIR/spindle, /run/spindle for root, else /tmp/spindle-UID; 0700 and ours, or refused. */
int vm_runtime_dir(char ret_path[80], struct sp_err *err);
/* Path of the machine's control socket. */
int vm_socket_path(const char *name, char ret_path[108], struct sp_err *err);

/* ---- the control socket -------------------------------------------------------------------------------- */

struct vm_client;
int vm_client_open(const char *name, struct vm_client **ret_client, struct sp_err *err);
void vm_client_close(struct vm_client *c);
/* Executes and waits for the answer, which is the caller's. @arguments is taken over. */
int vm_client_call(struct vm_client *c, const char *command, json_object *arguments, json_object **ret,
		   struct sp_err *err);
/* The same without waiting; what is answered is dropped by whoever waits for the next thing. 0, -EPIPE. */
int vm_client_send(struct vm_client *c, const char *command, json_object *arguments);
int vm_client_fd(const struct vm_client *c);	/* owned by @c; may be quiet while vm_client_event() has some left */
/* The next event, whole, the caller's: 0, -ETIMEDOUT (@timeout_ms 0: none has come), -EPIPE. */
int vm_client_event(struct vm_client *c, int timeout_ms, json_object **ret);
/* Waits for one of two events: 0 the first, 1 the second (NULL: there is none), -ETIMEDOUT, -EPIPE (the machine has
 * gone, and has closed its disks). @wanted NULL: for the machine to go. */
int vm_client_wait(struct vm_client *c, const char *wanted, const char *other, int timeout_ms);

/* ---- snapshots ----------------------------------------------------------------------------------------- */

/* Begins the deletion of a snapshot; @rate: bytes per second, 0: as fast as it goes. */
int vm_client_delete_snapshot(struct vm_client *c, const char *name, uint64_t rate, struct sp_err *err);
/* Until it has ended, whoever else asks meanwhile: 0, -EAGAIN (with the job's own words), -ENOENT (there is no job).
 * @progress (may be NULL) sees the job while it runs. *ret_job, if wanted: the ended job, the caller's, or NULL. */
int vm_client_wait_deletion(struct vm_client *c, void (*progress)(json_object *job), json_object **ret_job,
			    struct sp_err *err);

#endif
