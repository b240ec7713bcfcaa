/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_SERIAL_H
#define SPINDLE_VMM_SERIAL_H
/*
 * The console: a 16550A for the guest, and at its other end something a person or a program can read and type at.
 * The machine connects the two by the two tables of functions.
 *
 * Lock order: UART, then backend. A guest never waits for its console: what nobody reads is kept up to a bound, then
 * the oldest bytes go.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "vmm/loop.h"
#include "vmm/pio.h"

/* ---- UART ------------------------------------------------------------------------------------------ */

struct vmm_serial;

/* All with the UART's lock held: they must not call it back, nor wait. */
struct vmm_serial_ops {
	void (*irq)(void *ctx, bool level);		/* only on a change of it */
	void (*output)(void *ctx, uint8_t byte);	/* vCPU threads */
	void (*drained)(void *ctx);			/* there is room for input again; NULL: nobody asks */
};

#define VMM_SERIAL_PORTS 8u

int vmm_serial_new(const struct vmm_serial_ops *ops, void *ctx, struct vmm_serial **ret_serial);
void vmm_serial_free(struct vmm_serial *s);
void vmm_serial_reset(struct vmm_serial *s);		/* as after power on; no vCPU runs */
/* For vmm_pio_claim(pio, VMM_PORT_COM1, VMM_SERIAL_PORTS, &vmm_serial_ports, serial). */
extern const struct vmm_pio_ops vmm_serial_ports;

/* Bytes the guest can be given now. Any thread. When 0, ops->drained tells once that this has changed. */
size_t vmm_serial_room(struct vmm_serial *s);
/* Towards the guest: how many were taken. Any thread. */
size_t vmm_serial_input(struct vmm_serial *s, const uint8_t *bytes, size_t len);

/* ---- backend --------------------------------------------------------------------------------------- */

struct vmm_serial_backend;

/* On the loop's thread, without a lock. */
struct vmm_serial_backend_ops {
	size_t (*room)(void *ctx);
	void (*input)(void *ctx, const uint8_t *bytes, size_t len);	/* at most as many as room() said */
	/* stdio: Ctrl-A and a key other than Ctrl-A itself ('x': leave, 'c': control); NULL: no escape */
	void (*escape)(void *ctx, char key);
};

/**
 * vmm_serial_backend_new - open the other end of a console
 * @spec: "stdio"	standard input and output; a terminal becomes raw until the backend or the process ends
 *	  "unix:PATH"	a socket for one client at a time; a stale socket of that name is replaced
 *	  "tcp:PORT"	the same on 127.0.0.1, and on no other address; 0: any free port
 *	  "pty"		a pseudo terminal
 *	  "file:PATH"	output is appended
 *	  "none"	nothing (also "null")
 * @loop: outlives the backend; does all its input and output
 *
 * The process ignores SIGPIPE. Returns 0, -EINVAL (what is no spec), -EBUSY (stdio is taken), -EADDRINUSE, or what
 * opening answered.
 */
int vmm_serial_backend_new(struct vmm_loop *loop, const char *spec, const struct vmm_serial_backend_ops *ops, void *ctx,
			   struct vmm_serial_backend **ret_backend, struct sp_err *err);
void vmm_serial_backend_free(struct vmm_serial_backend *b);	/* writes what can be written at once */
/* Whether vmm_serial_backend_new() would take it for one. Opens nothing. */
int vmm_serial_spec_check(const char *spec, struct sp_err *err);
/* Where to find it, as a spec or an address: "pty:/dev/pts/7", "tcp:127.0.0.1:4001". */
const char *vmm_serial_backend_name(const struct vmm_serial_backend *b);

/* From the guest. Any thread; never waits. */
void vmm_serial_backend_output(struct vmm_serial_backend *b, const uint8_t *bytes, size_t len);
/* There is room for input again. Any thread; never waits. */
void vmm_serial_backend_kick(struct vmm_serial_backend *b);
/* Bytes nobody took in time, since the start. Any thread. */
uint64_t vmm_serial_backend_dropped(struct vmm_serial_backend *b);

#endif
