/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_BROKER_H
#define SPINDLE_VMM_BROKER_H
/*
 * A process that stays outside of the jail and opens what the operator names: a jailed machine can do I/O on what it
 * holds, and nothing else. The broker never sees a byte that comes from the guest: it takes requests from the machine's
 * control code over a socket pair, answers with descriptors, and ends with the machine. Should a guest take over the
 * machine's process, a sealed broker still opens only what lies below folders named before.
 *
 * Any thread; each call waits for the answer.
 */
#include "base/err.h"
#include "vhd/store.h"

struct vmm_broker;

/* Forks: before any thread is started. */
int vmm_broker_start(struct vmm_broker **ret_broker, struct sp_err *err);
void vmm_broker_stop(struct vmm_broker *b);		/* NULL is fine */
/* @flags: of open(2). Relative names count from where the process was started. */
int vmm_broker_open(struct vmm_broker *b, const char *path, int flags, int *ret_fd, struct sp_err *err);
/* Folders below @path may be opened once sealed. */
int vmm_broker_allow(struct vmm_broker *b, const char *path, struct sp_err *err);
/* From now on: folders only below those opened or allowed before, files only those opened before and to be read,
 * nothing more to be removed at the end: -EPERM. */
int vmm_broker_seal(struct vmm_broker *b, struct sp_err *err);
/* The file goes when the machine has ended, however it ends: control sockets, throw-away children. */
int vmm_broker_remove_at_end(struct vmm_broker *b, const char *path);
/* The folder that confines a chain, and the name of @path in it: the folder of @path (symbolic links resolved), or
 * @root when it is not NULL and @path lies below. For vhd_disk_open_in(). Close with store_folder_close(). */
int vmm_broker_folder(struct vmm_broker *b, const char *path, const char *root, struct store_folder **ret_folder,
		      char **ret_name, struct sp_err *err);

#endif
