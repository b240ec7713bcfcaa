/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_CONTROL_H
#define SPINDLE_VMM_CONTROL_H
/*
 * The control socket: JSON lines in the QMP dialect (greeting, execute, return, error, event), because tools and people
 * know it. Runs on the machine's loop. Only our own uid and root are answered; a request has at most 64
 * KiB and no line end within, a client that does not read loses its connection.
 */
#include "base/err.h"
#include "vmm/loop.h"
#include "vmm/machine.h"

struct vmm_control;

int vmm_control_new(struct vmm_machine *m, struct vmm_loop *loop, struct vmm_control **ret_control, struct sp_err *err);
void vmm_control_free(struct vmm_control *c);		/* sends what can be sent at once; removes its sockets */
/* Before the machine is freed. Connections stay open until the control is freed: who waits for the end of one knows
 * then that the machine's disks are closed. NULL is fine. */
void vmm_control_machine_gone(struct vmm_control *c);
/* Takes over @fd, listening; @path is removed at the end. */
int vmm_control_add(struct vmm_control *c, int fd, const char *path);
/* A stream socket, 0600; replaces one that nobody listens on. -EADDRINUSE: another machine does. */
int vmm_control_listen(const char *path, int *ret_fd, struct sp_err *err);

#endif
