/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_MACHINE_TRACK_H
#define SPINDLE_VMM_MACHINE_TRACK_H
/*
 * What a backup program asks a running machine besides a snapshot: which ranges of its disks changed since a tracking
 * point (vhd/track.h), and what the machine is made of. On the machine's loop.
 */
#include <json-c/json.h>

#include "vmm/machine.h"

#define VMM_CHANGES_MAX 4096u	/* ranges in one answer */

/* Points of a disk, oldest first: name, id, time, exact. An untracked disk has none. */
int vmm_machine_track_points(struct vmm_machine *m, const char *at, json_object **ret, struct sp_err *err);
/*
 * Ranges changed between two points (@until NULL: now), those that begin at @offset or later or reach over it, at most
 * @limit (0: VMM_CHANGES_MAX):
 * { "exact", "reason", "bytes" (of all ranges), "size", "granularity", "ranges": [[offset, length]...], "next" }.
 * "next" is there when there are more: the offset to ask on from.
 */
int vmm_machine_track_changes(struct vmm_machine *m, const char *at, const char *since, const char *until,
			      uint64_t offset, uint64_t limit, json_object **ret, struct sp_err *err);
int vmm_machine_track_forget(struct vmm_machine *m, const char *at, const char *point, struct sp_err *err);

/* The machine as a configuration file would describe it, names of files absolute, disks as they are now. */
int vmm_machine_setup(struct vmm_machine *m, json_object **ret, struct sp_err *err);

#endif
