/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_IC_INT_H
#define SPINDLE_VMM_IC_INT_H
/*
 * A service is a table: what it is called, which versions it speaks, what it does once both ends agree and with each
 * answer. ic.c has the channel, the framing and the one message at a time.
 */
#include <json-c/json.h>
#include <pthread.h>

#include "vmm/ic.h"
#include "vmm/ic_wire.h"

#define IC_VERSIONS_MAX 4u
#define IC_PACKET_MAX	(sizeof(struct ic_header) + sizeof(struct ic_kvp) + 64)

struct ic_ops {
	const char *name, *class_guid, *instance_guid;
	enum ic_message_type type;
	struct { uint16_t major, minor; } message[IC_VERSIONS_MAX];	/* ends with 0.0 */
	size_t state_size;
	/* All on the loop, with the service's lock held. */
	void (*ready)(struct vmm_ic *ic);	/* versions agreed: messages may be sent */
	void (*answer)(struct vmm_ic *ic, uint32_t status, const uint8_t *body, size_t len);
	void (*tick)(struct vmm_ic *ic);	/* its timer; NULL: none */
	void (*closed)(struct vmm_ic *ic);	/* the guest's driver has gone; NULL */
	void (*describe)(struct vmm_ic *ic, json_object *o);
};

enum ic_state { IC_NO_DRIVER, IC_NEGOTIATING, IC_READY, IC_REFUSED, IC_BROKEN };

struct vmm_ic {
	const struct ic_ops *ops;
	struct vmm_loop *loop;
	struct vmm_ic_host host;
	struct vmbus_offer offer;
	int wake_fd;			/* eventfd: the bus has opened or closed the channel */
	struct vmm_watch *wake_watch, *timer;

	pthread_mutex_t lock;		/* what follows: the loop, and the bus for opening and closing */
	struct vmbus_channel *ch;	/* NULL: closed */
	int new_fd;			/* the open channel's event fd, ours to watch; -1: none new */
	unsigned generation;		/* of the channel */

	/* The loop's alone. */
	unsigned watched;		/* generation of what is watched */
	int watched_fd;
	struct vmm_watch *watch;
	enum ic_state state;
	struct { uint16_t major, minor; } framework, message;
	bool pending;			/* a message waits for its answer */
	uint8_t transaction;
	enum ic_message_type pending_type;
	uint64_t sent_ns, answered_ns;
	uint64_t dropped;		/* packets that were no answer to anything */
	void *data;			/* ops->state_size bytes, zeroed whenever the channel opens */
	uint64_t packet[IC_PACKET_MAX / 8];
};

extern const struct ic_ops ic_shutdown_ops, ic_heartbeat_ops, ic_timesync_ops, ic_kvp_ops, ic_vss_ops;

/* One message; its answer comes to ops->answer. -EBUSY: another one is pending; -ENOTCONN. */
int ic_send(struct vmm_ic *ic, const void *body, size_t len);
void ic_timer(struct vmm_ic *ic, unsigned first_ms, unsigned every_ms);
static inline bool ic_speaks(const struct vmm_ic *ic, uint16_t major)
{
	return ic->message.major >= major;
}

#endif
