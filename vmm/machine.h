/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_MACHINE_H
#define SPINDLE_VMM_MACHINE_H
/*
 * One virtual machine, put together from a config: partition, Hyper-V surface, bus, controllers, services, consoles.
 * Runs on the loop of its process; every function here is called on that thread.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "vmm/config.h"
#include "vmm/loop.h"

struct vmm_broker;
struct vmm_machine;

enum vmm_state { VMM_STARTING, VMM_RUNNING, VMM_PAUSED, VMM_SHUTDOWN /* guest is off */, VMM_FAILED };

/* Something happened that a control connection may want to hear: name as of QMP ("SHUTDOWN", "RESET", "POWERDOWN",
 * "STOP", "RESUME", "DEVICE_DELETED", "BLOCK_IO_ERROR", "GUEST_PANICKED", "VMBUS_CONNECTED"...), @data a json-c object
 * or NULL, taken over. */
typedef void (*vmm_event_fn)(void *ctx, const char *name, void *data);

/* Opens every file, makes the partition and loads the guest; nothing runs yet. @config, @loop and @broker outlive the
 * machine; @broker NULL: files are opened by this process. */
int vmm_machine_new(const struct vmm_config *config, struct vmm_loop *loop, struct vmm_broker *broker,
		    struct vmm_machine **ret_machine, struct sp_err *err);
void vmm_machine_free(struct vmm_machine *m);		/* flushes and closes the disks */
/* Several may listen: -ENOSPC beyond 16. */
int vmm_machine_on_event(struct vmm_machine *m, vmm_event_fn fn, void *ctx);
void vmm_machine_off_event(struct vmm_machine *m, vmm_event_fn fn, void *ctx);
/* The process has entered its jail. */
void vmm_machine_seal(struct vmm_machine *m);
int vmm_machine_start(struct vmm_machine *m, struct sp_err *err);
/* Called once when the machine has ended for good; the process then leaves its loop. */
void vmm_machine_on_end(struct vmm_machine *m, void (*ended)(void *ctx), void *ctx);

enum vmm_state vmm_machine_state(const struct vmm_machine *m);
const struct sp_err *vmm_machine_failure(const struct vmm_machine *m);	/* why, in state FAILED */
const char *vmm_state_name(enum vmm_state s);
const struct vmm_config *vmm_machine_config(const struct vmm_machine *m);
int vmm_machine_pause(struct vmm_machine *m);
int vmm_machine_resume(struct vmm_machine *m);
int vmm_machine_powerdown(struct vmm_machine *m, bool reboot, struct sp_err *err);	/* asks the guest; -ENOTCONN */
int vmm_machine_reset(struct vmm_machine *m, struct sp_err *err);	/* hard */
void vmm_machine_quit(struct vmm_machine *m);				/* hard power off */

/* @spec as of --disk or --dvd; @folder: where relative names begin (NULL: where the machine was started);
 * @ret_at: "scsi0:3". */
int vmm_machine_attach(struct vmm_machine *m, const char *spec, bool dvd, const char *folder, char ret_at[16],
		       struct sp_err *err);
int vmm_machine_detach(struct vmm_machine *m, const char *at, struct sp_err *err);	/* -ENOENT */
int vmm_machine_resize(struct vmm_machine *m, const char *at, uint64_t bytes, struct sp_err *err);
int vmm_machine_set_read_only(struct vmm_machine *m, const char *at, bool read_only, struct sp_err *err);
int vmm_machine_set_limits(struct vmm_machine *m, const char *at, const struct vmm_disk_config *limits,
			   struct sp_err *err);
/* @path NULL: the drive is empty then. What cannot be opened leaves the old medium in. */
int vmm_machine_medium(struct vmm_machine *m, const char *at, const char *path, const char *folder, bool force,
		       struct sp_err *err);

/* json-c objects, the caller's: state, vmbus, services (heartbeat, KVP), memory; disks; statistics. */
void *vmm_machine_status(struct vmm_machine *m);
void *vmm_machine_block(struct vmm_machine *m);
void *vmm_machine_stats(struct vmm_machine *m);
void *vmm_machine_blockstats(struct vmm_machine *m);	/* as QEMU's query-blockstats */

#endif
