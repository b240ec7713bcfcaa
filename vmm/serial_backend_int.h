/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_SERIAL_BACKEND_INT_H
#define SPINDLE_VMM_SERIAL_BACKEND_INT_H
/*
 * What opening a console's other end gives: descriptors, all its own and close-on-exec.
 */
#include "vmm/serial.h"

struct serial_ends {
	int in, out;		/* never the same number, so that each has its own place in the loop; -1: none */
	int listener;		/* instead of both, which come with a client; -1: none */
	int keep;		/* only held open; -1: none */
	bool escape;		/* Ctrl-A means something */
	bool raw;		/* the terminal has been changed */
	char *unlink;		/* a socket to be removed at the end, or NULL */
	char name[160];
};

int serial_ends_open(const char *spec, struct serial_ends *ret_ends, struct sp_err *err);
void serial_ends_close(struct serial_ends *e);

#endif
