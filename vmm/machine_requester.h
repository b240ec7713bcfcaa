/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_MACHINE_REQUESTER_H
#define SPINDLE_VMM_MACHINE_REQUESTER_H
/*
 * Who asked for a snapshot, as writers of its set: its scripts, the applications on the host that it speaks for, and
 * its wait for other machines. Each operation is an event SNAPSHOT_PHASE; the answer comes by the control socket, or
 * the connection goes.
 */
#include "vmm/machine_snapshot.h"

#define MACHINE_REQUESTER_WRITERS (VMM_SNAPSHOT_WRITERS_MAX + 2)

struct machine_requester_writer {
	struct machine_requester *of;
	char name[64];			/* "": the requester itself */
	const char *freeze, *thaw;	/* phases */
	int who;
	const char *waits;		/* for the answer to that phase; NULL: for none */
};

struct machine_requester {
	struct vmm_machine *m;
	struct vss_set *set;
	const char *snapshot;
	struct machine_requester_writer writer[MACHINE_REQUESTER_WRITERS];
	unsigned writers;
};

int machine_requester_init(struct machine_requester *r, struct vmm_machine *m, struct vss_set *set,
			   const char *snapshot, const struct vmm_snapshot_opts *opts);
/* False: nobody waits for it. @writer NULL: of the requester itself. */
bool machine_requester_answer(struct machine_requester *r, const struct vmm_snapshot_answer *a);
void machine_requester_gone(struct machine_requester *r);

#endif
