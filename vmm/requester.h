/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_REQUESTER_H
#define SPINDLE_VMM_REQUESTER_H
/*
 * Who asks running machines for a snapshot: one of several machines is one set. Scripts and writers on the host
 * (docs/vss-protocol.md) are frozen and thawed here, outside of every jail, when a machine says so.
 *
 * What has been told to hold still is told to go on in any case: what a killed requester left is on record in the
 * folder of the sockets, and vm_set_recover() pays it.
 */
#include "vmm/client.h"

#define VM_SET_MACHINES_MAX 64u
#define VM_SET_WRITERS_MAX  32u

struct vm_set_opts {
	const char *snapshot;
	const char *require;		/* a level; NULL: "crash" */
	bool no_quiesce;		/* nobody is asked to freeze; without scripts and writers */
	const char *pre, *post;		/* shell commands, for each machine; NULL: none */
	const char *const *writer;	/* sockets, or folders of them */
	unsigned writers;
	unsigned check_ms, freeze_ms;	/* 0: 35000, 60000 */
	json_object *more;		/* further arguments of spindle-snapshot-create; NULL: none. The caller's */
	void (*say)(const char *text);	/* what goes wrong on the way, a line each, without line end */
	int *ret_signal;		/* set to the signal that aborted it; NULL: nobody wants to know */
};

struct vm_set_machine {
	const char *name;
	struct vm_client *client;	/* open, the caller's; its events are taken */
	bool good;
	json_object *result;		/* the data of SNAPSHOT_CREATED or _FAILED and "machine"; NULL: it has gone. The
					 * caller's */
};

/*
 * Blocks until every machine has its snapshot or has none, and everybody is thawed. A set of which one machine has none
 * is taken back on the others. SIGINT, SIGTERM and SIGHUP of the calling thread abort it meanwhile.
 * Returns 0, or the first reason why not; ->good and ->result tell the rest.
 */
int vm_set_create(const struct vm_set_opts *opts, struct vm_set_machine *machine, unsigned count, struct sp_err *err);

/* Thaws what requesters that are no more have left frozen: how many there were, or negative errno. */
int vm_set_recover(void (*say)(const char *text), struct sp_err *err);

#endif
