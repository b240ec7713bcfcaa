/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_STORVSP_STORVSP_INT_H
#define SPINDLE_STORVSP_STORVSP_INT_H
/*
 * Between the files of the provider.
 *
 *	controller	one offer on a bus: table of units, protocol state, workers
 *	unit		an attached logical unit: its limits, and which workers know it
 *	worker		the thread of one channel; nothing of it is touched by others, but for what says so
 *	door		a worker's way to one unit: a SCSI queue, and what waits for its turn
 *	request		a slot of the worker, from the packet in the ring to the reply in the ring
 *
 * Workers take no lock while nothing changes. They look at three words of the controller once per round: the version of
 * the table of units, the number of holds, and whether the guest shall look at its bus again. Whoever changes one of
 * these rings the workers' bells.
 *
 * Locks: manage, then lock, then those of the logical units.
 */
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "storvsp/schedule.h"
#include "storvsp/storvsp.h"
#include "storvsp/vstor_wire.h"

#define STORVSP_UNITS (STORVSP_PATHS * STORVSP_TARGETS * STORVSP_LUNS)
#define STORVSP_NAME_MAX 32u
#define STORVSP_FEW 4u			/* pieces of memory that a request has room for itself */
#define STORVSP_REGIONS 64u		/* of guest memory, 1 GiB each */

struct storvsp_worker;

/* ---- protocol: which packet is legal when; a pure function of state and packet (protocol.c) ------------- */

enum storvsp_state { STORVSP_BEGIN, STORVSP_VERSION, STORVSP_PROPERTIES, STORVSP_END, STORVSP_READY };

struct storvsp_protocol {
	uint16_t newest, max_subchannels;
	uint32_t max_transfer;
	/* Written by the thread of the primary channel, read by any. */
	uint16_t version;		/* 0: not negotiated yet */
	uint16_t subchannels;		/* granted */
	enum storvsp_state state;
};

enum storvsp_verdict {
	STORVSP_ANSWER,			/* send the answer */
	STORVSP_ANSWER_OFFER,		/* send it, then offer p->subchannels */
	STORVSP_ANSWER_READY,		/* send it; the guest scans from now on */
	STORVSP_EXECUTE,		/* an SRB */
	STORVSP_RESET,			/* end all I/O in scope, then send the answer */
};

void storvsp_protocol_init(struct storvsp_protocol *p, const struct storvsp_opts *opts);
void storvsp_protocol_restart(struct storvsp_protocol *p);	/* the primary channel has been closed */
/* @len: bytes of the payload that were there; the rest of @packet is zero. Fills @ret_answer unless EXECUTE. */
enum storvsp_verdict storvsp_protocol_packet(struct storvsp_protocol *p, unsigned subchannel,
					     const struct vstor_packet *packet, uint32_t len,
					     struct vstor_packet *ret_answer);
bool storvsp_protocol_ready(const struct storvsp_protocol *p);	/* any thread */
/* How long the answer to a packet of so many bytes is: as long, in the bounds that guests can take. */
uint32_t storvsp_protocol_answer_len(uint32_t len);

/* ---- units (luns.c) -------------------------------------------------------------------------------------- */

struct storvsp_unit {
	unsigned index;
	struct scsi_lu *lu;
	struct scsi_nexus nexus;
	struct storvsp_limits limits;	/* under manage */
	struct storvsp_limiter limiter;	/* shared by workers */
	uint32_t weight;		/* atomic */
	unsigned cancels;		/* atomic: counted up, each door drops what waits */
	bool seen;			/* atomic: the guest has had an answer from it */
	unsigned doors;			/* under lock */
	struct scsi_stats described;	/* at the last storvsp_describe(); under manage */
	uint64_t described_ns;
};

struct storvsp_door {
	struct storvsp_unit *unit;	/* NULL: nobody lives here */
	struct storvsp_worker *worker;
	struct scsi_queue *queue;	/* NULL until the first command */
	struct storvsp_flow flow;
	unsigned slots;			/* requests that wait or run */
	unsigned running;		/* of these, executing */
	unsigned cancels;		/* of the unit, when last looked */
	bool registered;		/* guest memory, with the queue */
	bool started;			/* something since its queue was polled: it may have left work behind */
	bool leaving;			/* detached: nothing new, free it when idle */
};

/* -1: no unit can have this address. */
int storvsp_address_index(const struct storvsp *c, uint8_t path, uint8_t target, uint8_t lun);
struct storvsp_address storvsp_index_address(unsigned index);
/* All with c->lock held. */
bool storvsp_in_scope(unsigned index, const struct vstor_packet *reset);
/* Thread of the worker. */
void storvsp_doors_sync(struct storvsp_worker *w);	/* takes over what changed in the table */
void storvsp_doors_reap(struct storvsp_worker *w);	/* closes those that are leaving and idle */
void storvsp_doors_close(struct storvsp_worker *w);	/* all of them; waits for what runs */
bool storvsp_door_open(struct storvsp_door *d);		/* makes the queue; false: no memory now */
unsigned storvsp_doors_list(const struct storvsp_worker *w, uint8_t path, uint8_t target, uint8_t ret_lun[256]);
void storvsp_absence_told(struct storvsp *c, int index);	/* the guest heard that nobody lives there */

/* ---- requests (request.c) -------------------------------------------------------------------------------- */

struct storvsp_request {
	struct scsi_task task;
	struct storvsp_entry entry;	/* while it waits for its turn */
	struct storvsp_request *next;	/* free, or reply not sent */
	struct storvsp_worker *worker;
	struct storvsp_door *door;	/* NULL: not for a unit */
	struct iovec *iov;		/* part of the worker's slab */
	struct iovec few[STORVSP_FEW];	/* in its place for small requests: no page and no line of memory more */
	uint64_t transaction_id;
	uint32_t payload_len;		/* of the answer */
	struct vstor_packet packet;	/* the request, then its answer */
};

void storvsp_request_init(struct storvsp_request *r, struct storvsp_worker *w, struct iovec *iov);
struct storvsp_request *storvsp_request_of(struct storvsp_entry *e);
/* Takes a packet, already copied, into a slot and as far as it gets. One slot must be free. */
void storvsp_request_packet(struct storvsp_worker *w, const struct vmbus_packet *p);
void storvsp_request_start(struct storvsp_request *r);		/* its turn has come */
void storvsp_request_cancel(struct storvsp_request *r);		/* it waited: aborted */
void storvsp_request_refuse(struct storvsp_request *r);		/* it waited for a unit that has gone */

/* ---- worker (worker.c) ----------------------------------------------------------------------------------- */

struct storvsp_worker {
	struct storvsp *controller;
	struct vmbus_channel *ch;
	unsigned subchannel;
	const struct vmbus_bus_ops *bus_ops;
	void *bus;
	pthread_t thread;
	int bell;			/* eventfd: look at the controller */
	bool stop;			/* atomic */
	bool quiet;			/* under controller's lock: nothing runs, nothing is started */
	bool resetting;			/* under controller's lock: waits for all to be quiet */

	/* The rest belongs to the thread. */
	struct storvsp_request *request, *free, *unsent, **unsent_last, *reset;
	unsigned slots, free_slots;
	struct iovec *iov;		/* slots x iov_room */
	int iov_room;
	void *buffer;			/* one packet */
	size_t buffer_len;
	struct iovec region[STORVSP_REGIONS];
	unsigned regions;
	struct storvsp_door door[STORVSP_UNITS];
	struct storvsp_door *used[STORVSP_UNITS];
	unsigned useds, busy_doors, running, leaving;
	struct storvsp_schedule schedule;
	unsigned table_version, offer;
	bool held, broken;
	uint64_t now, spin_ns, spin_until;
	struct pollfd fds[2 + STORVSP_UNITS];
	struct storvsp_channel_stats stats;	/* relaxed stores, read by any thread */
};

int storvsp_worker_new(struct storvsp *c, struct vmbus_channel *ch, const struct vmbus_open *open,
		       struct storvsp_worker **ret_worker);
int storvsp_worker_start(struct storvsp_worker *w);
void storvsp_worker_stop(struct storvsp_worker *w);	/* waits; nothing touches the channel afterwards */
void storvsp_worker_free(struct storvsp_worker *w);
void storvsp_worker_ring(struct storvsp_worker *w);	/* the bell; any thread */
/* Thread of the worker. */
void storvsp_worker_reply(struct storvsp_worker *w, struct storvsp_request *r);
void storvsp_worker_count(uint64_t *counter, uint64_t n);
void storvsp_worker_stats(struct storvsp_worker *w, struct storvsp_channel_stats *ret_stats);	/* any thread */

/* ---- controller (controller.c) --------------------------------------------------------------------------- */

struct storvsp {
	struct storvsp_opts opts;	/* name points below */
	char name[STORVSP_NAME_MAX];
	struct vmbus_offer offer;
	struct storvsp_protocol protocol;
	pthread_mutex_t manage;		/* one call of management at a time */
	pthread_mutex_t lock;
	pthread_cond_t changed;		/* quiet, doors, told: whatever somebody may wait for */
	/* Under lock. */
	struct storvsp_unit *unit[STORVSP_UNITS];
	struct storvsp_worker **worker;	/* 1 + max_subchannels; NULL: closed */
	/* Written under lock, read by workers without. */
	unsigned table_version;
	unsigned holds;
	bool enumerate;
	bool untold[STORVSP_UNITS];	/* the guest knew a unit there and has not yet heard that it is gone */
};

extern const struct vmbus_device_ops storvsp_device_ops;

static inline void storvsp_add_ms(struct timespec *t, unsigned ms)
{
	t->tv_nsec += ms % 1000 * 1000000l;
	t->tv_sec += ms / 1000 + t->tv_nsec / 1000000000l;
	t->tv_nsec %= 1000000000l;
}

void storvsp_ring_all_locked(struct storvsp *c);
void storvsp_hold_locked(struct storvsp *c);
void storvsp_release_locked(struct storvsp *c);
bool storvsp_all_quiet_locked(const struct storvsp *c);
/* Thread of a worker. */
void storvsp_quiet(struct storvsp_worker *w);		/* nothing runs: says so */
void storvsp_reset_begin(struct storvsp_worker *w, struct storvsp_request *r);
bool storvsp_reset_end(struct storvsp_worker *w);	/* true: all I/O has ended, answer */

#endif
