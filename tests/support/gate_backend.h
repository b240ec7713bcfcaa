/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_GATE_BACKEND_H
#define SPINDLE_TESTS_GATE_BACKEND_H
/*
 * A disk in memory with a gate in it: while the gate is shut requests are taken and not ended, as a disk that hangs
 * would do. Any number of queues.
 */
#include <stdbool.h>
#include <stdint.h>

#include "storvsp/scsi.h"

struct gate;

/* For scsi_lu_opts.backend. The gate is open. Aborts when there is no memory. */
struct gate *gate_new(uint64_t size);
struct scsi_backend *gate_backend(struct gate *g);
/* The rest from any thread, until the backend has been freed. */
void gate_shut(struct gate *g);
void gate_open(struct gate *g);
unsigned gate_taken(struct gate *g);		/* requests behind the gate now */
void gate_resize(struct gate *g, uint64_t size);	/* up to the first size */
bool gate_wait(struct gate *g, unsigned taken);	/* until so many are behind the gate, 5 s at most */

#endif
