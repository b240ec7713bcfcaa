/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_MACHINE_SNAPSHOT_INT_H
#define SPINDLE_VMM_MACHINE_SNAPSHOT_INT_H
/* Snapshots as the rest of the machine sees them: machine_snapshot.c makes, machine_merge.c lists and deletes. */
#include <stdbool.h>

#include "base/err.h"

struct vmm_machine;

int machine_snapshots_new(struct vmm_machine *m, struct sp_err *err);	/* after the services */
void machine_snapshots_free(struct vmm_machine *m);	/* before disks and services; waits for what is under way */
void machine_snapshot_reset(struct vmm_machine *m);	/* the guest has been reset */
/* One is being made or deleted: disks can neither go nor change their size. */
bool machine_snapshot_runs(const struct vmm_machine *m);

bool machine_merge_runs(const struct vmm_machine *m);
void machine_merge_free(struct vmm_machine *m);

#endif
