/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_STORVSC_INT_H
#define SPINDLE_STORVSC_INT_H
/*
 * Inside the client library.
 *
 *   arena.c	shared memory and who has which page of it
 *   client.c	open, close, what all channels share
 *   request.c	a channel: submit, poll, sleep
 *   sync.c	commands that wait for their answer
 *   local.c	the link to a provider in this process
 *   socket.c	the link to one behind a socket
 *
 * The client's memory, by page:
 *
 *   | channel 0: ring to the provider, ring from it | channel 1 ... | data ... |
 */
#include <pthread.h>

#include "storvsc/core.h"
#include "storvsc/storvsc.h"
#include "vmbus/socket_memory.h"

#define STORVSC_CHANNELS_MAX 64u
#define STORVSC_PAGE 4096u
/* So many page frames fit into one packet. */
#define STORVSC_PFNS_MAX 500u
#define STORVSC_PATIENCE_MS 10000		/* for the provider to say something during setup */

struct storvsc_arena {
	struct vmbus_socket_memory memory;
	uint64_t first_page, pages;	/* of the data */
	pthread_mutex_t lock;
	uint8_t *used;			/* lock: bit per page */
	uint64_t hint;			/* lock: where to look first */
};

/* @ring_pages: all rings together, at the start of the memory. */
int storvsc_arena_init(struct storvsc_arena *a, uint64_t ring_pages, uint64_t data_pages);
void storvsc_arena_fini(struct storvsc_arena *a);
void *storvsc_arena_get(struct storvsc_arena *a, size_t len);
void storvsc_arena_put(struct storvsc_arena *a, void *buf, size_t len);
bool storvsc_arena_holds(const struct storvsc_arena *a, const void *buf, size_t len);

struct storvsc_channel {
	struct storvsc *client;
	unsigned index;
	struct vmbus_channel end;
	struct vmbus_mapping mapping;	/* both rings */
	int event_fd, peer_fd;		/* eventfds: to us, to the provider */
	int wait_fd;			/* epoll: event_fd, and the end of the provider */
	bool open;
	/* The rest belongs to the channel's thread. */
	struct storvsc_core core;
	struct storvsc_slot *slot;
	bool gone;			/* no provider any more */
	bool armed;			/* signals are on */
	unsigned idle_polls;		/* in a row, with requests in flight */
	bool answered;			/* a control operation */
	struct vstor_packet answer;
	void *bounce;			/* for data outside the arena */
	size_t bounce_len;
	uint32_t block[256];		/* logical block by LUN; 0: not known */
	uint64_t pfn[STORVSC_PFNS_MAX];
};

/* How channels reach the provider. All on the thread that opens and closes the client. */
struct storvsc_link_ops {
	/* The rings of @ch are ready. */
	int (*open)(struct storvsc *c, struct storvsc_channel *ch, struct sp_err *err);
	/* Waits until sub-channels 1 .. @count may be opened. */
	int (*offered)(struct storvsc *c, unsigned count, struct sp_err *err);
	/* Closes all channels, those not open included; on return the provider touches nothing any more. */
	void (*close)(struct storvsc *c);
};

struct storvsc {
	const struct storvsc_link_ops *link;
	void *link_data;
	int gone_fd;			/* hangs up when the provider ends; -1: it cannot */
	struct storvsc_opts opts;	/* filled in */
	struct storvsc_arena arena;
	unsigned channels;
	struct storvsc_channel *channel[STORVSC_CHANNELS_MAX];
	uint32_t max_transfer;
	void (*notify)(void *ctx);
	void *notify_ctx;
};

/* client.c: in three steps, with the link made between the first two. */
int storvsc_new(const struct storvsc_opts *opts, struct storvsc **ret_client, struct sp_err *err);
int storvsc_start(struct storvsc *c, struct sp_err *err);
/* An eventfd's signal(). @ctx: the descriptor, as int *. */
void storvsc_ring_fd(void *ctx);

/* request.c */
int storvsc_channel_new(struct storvsc *c, unsigned index, struct storvsc_channel **ret_channel);
/* Both ends of the rings begin anew; then the link may open it. */
int storvsc_channel_start(struct storvsc_channel *ch);
void storvsc_channel_free(struct storvsc_channel *ch);
/* Everything in flight ends with @result. */
void storvsc_channel_drop(struct storvsc_channel *ch, int result);
/* A control operation and its answer in ch->answer. 0, -EPIPE, -ETIMEDOUT, -EAGAIN. @timeout_ms -1: for ever. */
int storvsc_channel_control(struct storvsc_channel *ch, const struct vstor_packet *packet, int timeout_ms);
int storvsc_channel_answer(struct storvsc_channel *ch, int timeout_ms);

#endif
