/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_MACHINE_SNAPSHOT_H
#define SPINDLE_VMM_MACHINE_SNAPSHOT_H
/*
 * Snapshots of a running machine, over all of its disks: those that are writable and kept. On the machine's loop; what
 * takes time ends with an event.
 *
 *	SNAPSHOT_CREATED, SNAPSHOT_FAILED	data: what vss/ and vhd/live.h know: level, reason, times, writers
 *	SNAPSHOT_PHASE				the requester's turn, see @phases
 *	JOB_STATUS_CHANGE			of a deletion: "running", "concluded"
 */
#include <json-c/json.h>

#include "vmm/machine.h"
#include "vss/vss.h"

/* When the requester is asked to do something itself, and answers with vmm_machine_snapshot_answer(). */
#define VMM_PHASE_APPLICATION 0x1u	/* "freeze" before, "thaw" after everybody else: its scripts */
#define VMM_PHASE_BARRIER     0x2u	/* "frozen" and "switched": waits for the sets of other machines */

#define VMM_SNAPSHOT_WRITERS_MAX 32u

/* An application on the host that the requester speaks for: phases "check", "freeze" and "thaw" with its name. */
struct vmm_snapshot_writer {
	const char *name;		/* 1 to 63 bytes; each once */
	enum vss_level grants;
};

struct vmm_snapshot_opts {
	const char *name;
	enum vss_level require;
	bool no_quiesce;		/* nobody is asked to freeze */
	unsigned phases;		/* VMM_PHASE_* */
	const struct vmm_snapshot_writer *writer;	/* all copied */
	unsigned writers;
	unsigned check_ms, freeze_ms;	/* 0: as vss.h has it */
	const char *track_point;	/* changes of each disk are tracked from now on, and it gets this point */
	const void *owner;		/* who asks: vmm_machine_snapshot_owner_gone(); NULL: nobody */
};

struct vmm_snapshot_answer {
	const char *phase;		/* as the event SNAPSHOT_PHASE had it */
	const char *writer;		/* NULL: the requester itself */
	bool good;
	bool lost;			/* whatever the phase: it is frozen no more, and answers no more */
	enum vss_reason reason;		/* when not good; NONE: the usual one */
};

int vmm_machine_snapshot(struct vmm_machine *m, const struct vmm_snapshot_opts *opts, struct sp_err *err);
int vmm_machine_snapshot_answer(struct vmm_machine *m, const struct vmm_snapshot_answer *answer, struct sp_err *err);
int vmm_machine_snapshot_abort(struct vmm_machine *m, struct sp_err *err);
/* The connection is gone. A snapshot in which it plays writers has lost them, and is given up if it still can be; one
 * that goes without them goes on. */
void vmm_machine_snapshot_owner_gone(struct vmm_machine *m, const void *owner);
/* By name, newest first; a json-c array, the caller's. */
int vmm_machine_snapshots(struct vmm_machine *m, json_object **ret, struct sp_err *err);
/* Begins a job; @rate: bytes per second, 0: as fast as it goes. Its id is "snapshot-delete". */
int vmm_machine_snapshot_delete(struct vmm_machine *m, const char *name, uint64_t rate, struct sp_err *err);
json_object *vmm_machine_jobs(struct vmm_machine *m);
int vmm_machine_job_cancel(struct vmm_machine *m, const char *id, struct sp_err *err);

#endif
