/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_STORVSC_STORVSC_H
#define SPINDLE_STORVSC_STORVSC_H
/*
 * Client of a storage provider over VMBus rings: in this process, or over a UNIX socket to spindle-vm or storvsp-serve.
 *
 * A client owns an arena of shared memory. Data buffers lie in it, and it is all the provider can reach. Channels (one
 * per thread) are opened on it; all calls on a channel come from its thread.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "vmbus/channel.h"

struct storvsc;
struct storvsc_channel;

struct storvsc_opts {
	size_t arena_bytes;		/* data buffers; 0: 16 MiB. Multiple of 4096 */
	unsigned channels;		/* primary and sub-channels wanted; 0: 1 */
	unsigned ring_pages;		/* of each direction, control page included; 0: 32 */
	unsigned depth;			/* requests in flight per channel; 0: 256 */
	unsigned newest_version;	/* VSTOR_VERSION_*; 0: 6.2 */
};

/* In process: behaves as a bus for @device (a provider's vmbus_offer), which it opens and closes. */
int storvsc_open_device(const struct vmbus_offer *offer, const struct storvsc_opts *opts, struct storvsc **ret_client,
			struct sp_err *err);
/* Over a socket. @target: which controller of the server, NULL: its first. */
int storvsc_connect(const char *socket_path, const char *target, const struct storvsc_opts *opts,
		    struct storvsc **ret_client, struct sp_err *err);
void storvsc_close(struct storvsc *c);		/* requests in flight are dropped: their done() gets -ECANCELED */

unsigned storvsc_channels(const struct storvsc *c);
struct storvsc_channel *storvsc_channel(struct storvsc *c, unsigned index);
/* Arena memory, 4096-aligned; NULL when it is used up. Any thread. Freed by size. */
void *storvsc_buffer(struct storvsc *c, size_t len);
void storvsc_buffer_free(struct storvsc *c, void *buf, size_t len);

/* Storage of the caller from submit until done() has been called, exactly once, from poll or wait. */
struct storvsc_request {
	uint8_t path, target, lun;
	uint8_t cdb[16], cdb_len;
	bool to_device;
	void *data;			/* inside the arena; NULL: none */
	uint32_t data_len;
	void (*done)(struct storvsc_request *r);
	void *user;
	/* out */
	int result;			/* 0: the unit answered, see status; -ECANCELED, -ENXIO (no such unit), -EIO,
					 * -EPIPE (provider gone) */
	uint8_t status, srb_status, sense_len;
	uint8_t sense[20];
	uint32_t transferred;
	/* private */
	uint32_t slot;
	uint64_t pfn0;
};

int storvsc_submit(struct storvsc_channel *ch, struct storvsc_request *r);	/* -EAGAIN: slots or ring full */
void storvsc_kick(struct storvsc_channel *ch);		/* shows the provider what was submitted; once per batch */
int storvsc_poll(struct storvsc_channel *ch);		/* kicks, runs done(): how many, or -EPIPE (provider gone) */
int storvsc_wait(struct storvsc_channel *ch, unsigned count, int timeout_ms);	/* sleeps on the eventfd */
int storvsc_fd(struct storvsc_channel *ch);		/* readable when poll has work, after storvsc_arm() */
bool storvsc_arm(struct storvsc_channel *ch);		/* asks for a signal; false: there is work already */

/* Blocking, on the channel's thread; data anywhere (copied through the arena). 0, -EIO, -ENXIO, -ERANGE, -EROFS... */
struct storvsc_capacity { uint64_t blocks; uint32_t logical_block, physical_block; bool unmap; };
int storvsc_capacity(struct storvsc_channel *ch, uint8_t lun, struct storvsc_capacity *ret);
int storvsc_read(struct storvsc_channel *ch, uint8_t lun, void *buf, size_t len, uint64_t offset);
int storvsc_write(struct storvsc_channel *ch, uint8_t lun, const void *buf, size_t len, uint64_t offset, bool fua);
int storvsc_flush(struct storvsc_channel *ch, uint8_t lun);
int storvsc_unmap(struct storvsc_channel *ch, uint8_t lun, uint64_t offset, uint64_t len);
/* Any CDB, blocking. */
int storvsc_command(struct storvsc_channel *ch, struct storvsc_request *r);
int storvsc_reset(struct storvsc_channel *ch);		/* RESET_BUS: everything in flight has ended on return */
/* Called from poll when the provider says that units came or went. */
void storvsc_on_enumerate(struct storvsc *c, void (*notify)(void *ctx), void *ctx);

#endif
