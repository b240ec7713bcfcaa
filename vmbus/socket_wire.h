/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMBUS_SOCKET_WIRE_H
#define SPINDLE_VMBUS_SOCKET_WIRE_H
/*
 * A bus over a UNIX socket of type SOCK_SEQPACKET: the client brings a sealed memfd (its "RAM", from page 0 on) and a
 * pair of eventfds per channel; rings, pages and packets are those of VMBus. One record per message, the same layout in
 * both directions; descriptors travel as SCM_RIGHTS. The server treats all of it as hostile.
 *
 *	client			server
 *	HELLO + memfd	  ->
 *			  <-	WELCOME (status, max_channels)
 *	OPEN + 2 eventfds ->			one per channel, primary first: to signal the server, to be signalled
 *			  <-	OPENED (status)
 *	...rings...
 *	CLOSE		  ->
 *			  <-	CLOSED
 *
 * Closing the socket closes everything. The server offers sub-channels with SUBCHANNELS when the device asks.
 */
#include "vmbus/vmbus_wire.h"

#define VMBUS_SOCKET_MAGIC 0x42564453u	/* "SDVB" */
#define VMBUS_SOCKET_VERSION 1u

enum vmbus_socket_type {
	VMBUS_SOCKET_HELLO = 1, VMBUS_SOCKET_WELCOME, VMBUS_SOCKET_OPEN, VMBUS_SOCKET_OPENED, VMBUS_SOCKET_CLOSE,
	VMBUS_SOCKET_CLOSED, VMBUS_SOCKET_SUBCHANNELS,
};

struct vmbus_socket_record {
	le32_t magic;
	le16_t version, type;
	le32_t status;			/* 0, or a positive errno */
	le32_t channel;			/* sub-channel index; SUBCHANNELS, WELCOME: how many */
	le64_t memory_bytes;		/* HELLO: size of the memfd */
	le32_t ring_page;		/* OPEN: first page of both rings, guest-to-host first */
	le32_t ring_pages;		/* OPEN: of both together */
	le32_t downstream_page;		/* OPEN: first page of the host-to-guest ring, counted from ring_page */
	le32_t reserved;
	uint8_t target[64];		/* HELLO: name of the device, NUL-padded; empty: the first */
};
VMBUS_SIZE(struct vmbus_socket_record, 104);

#endif
