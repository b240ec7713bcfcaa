/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_HOSTILE_SESSION_H
#define SPINDLE_TESTS_HOSTILE_SESSION_H
/*
 * Between the files of a session:
 *
 *   session.c	life of a session, the machine's own actions
 *   wires.c	messages and channels as the guest sees them
 *   packets.c	packets, requests, answers, and what may be wrong with them
 *
 * Guest pages: 16 for the rings of each channel, then chunks of 8 for data. A chunk's first and last page in use belong
 * to nobody: what lies there must not change.
 */
#include "tests/hostile_guest/guest.h"

#define CHANNELS 4u
#define RING_PAGES 16u
#define CHUNK_PAGES 8u
#define CHUNK_FIRST (CHANNELS * RING_PAGES)
#define CHUNKS ((GUEST_PAGES - CHUNK_FIRST) / CHUNK_PAGES)
#define REQUESTS 512u
#define UNITS 3u
#define VPS 2u
#define NOT_WRITTEN 0xa5
#define NOT_OURS 0xc3

struct channel {
	bool offered, rescinded, open, answered, refused, made, torn;
	uint32_t relid, handle;
	unsigned first, up, down;		/* pages of the rings */
	struct vmbus_gpadl *pages;
	struct vmbus_mapping mapping;
	struct vmbus_channel end;		/* ours */
	bool lost;				/* our view of the rings is of no use any more */
	int signal_fd;				/* the host's; -1: not bound */
};

enum chunk_state { CHUNK_FREE, CHUNK_BUSY, CHUNK_PARKED };

struct chunk {
	enum chunk_state state;
	unsigned channel;			/* BUSY: of the request */
};

struct request {
	bool waits;
	unsigned channel;
	int chunk;				/* -1: none */
	unsigned pages;
	uint32_t offset, len;
	uint8_t data_in;
};

struct session {
	struct input *in;
	bool calm;
	uint32_t hostility;
	struct vmm_bus *bus;
	uint32_t device_id;
	struct storvsp *controller;
	struct disk *disk[UNITS];		/* below the unit of that number; NULL: none, or not one of ours */
	bool attached[UNITS];
	unsigned holds;
	struct channel channel[CHANNELS];
	bool connected, offers_delivered, unloading, ready;
	uint32_t last_handle;
	struct chunk chunk[CHUNKS];
	struct request request[REQUESTS];
	uint64_t requests;			/* ids given out */
	unsigned waiting;
};

/* session.c: ends one request that a disk holds; false: there is none. */
bool session_idle(void *ctx);

/* wires.c */
extern const struct vmm_bus_ops wires_ops;
void wires_post(struct session *s, const void *message, unsigned len);
void wires_contact(struct session *s);
bool wires_open(struct session *s, unsigned channel);
void wires_close(struct session *s, unsigned channel, bool properly);
void wires_unload(struct session *s);
void wires_housekeeping(struct session *s);	/* a rule-abiding guest answers rescinds */
void wires_mutated(struct session *s);		/* a message that is not quite right */
void wires_drop(struct session *s, unsigned channel);	/* forget our end of it */

/* packets.c */
void packets_handshake(struct session *s);
void packets_io(struct session *s, unsigned channel);
void packets_control(struct session *s, unsigned channel);
void packets_raw(struct session *s, unsigned channel);
void packets_poke(struct session *s, unsigned channel);
void packets_flush(struct session *s, unsigned channel);
unsigned packets_take(struct session *s, unsigned channel);	/* answers: how many */
void packets_gone(struct session *s, unsigned channel);		/* the channel's requests went with it */
void packets_check_parked(struct session *s);

#endif
