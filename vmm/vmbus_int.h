/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_VMBUS_INT_H
#define SPINDLE_VMM_VMBUS_INT_H
/*
 * What the files of the VMBus server share:
 *
 *   vmbus_server.c	the bus, its thread, what others ask of it
 *   vmbus_message.c	what the guest posts: dispatch, contact, unload
 *   vmbus_offer.c	devices, channel ids, offers, rescind
 *   vmbus_pages.c	GPADLs
 *   vmbus_open.c	open, close, modify; signals to the guest
 *   vmbus_report.c	state as JSON
 *
 *   bus		DISCONNECTED --contact--> CONNECTED --request offers--> OFFERED; unload, contact: DISCONNECTED
 *   channel	(new) --offer--> announced --open--> open --close--> announced; at any time --rescind--> rescinded,
 *		which ends with RELID_RELEASED, unload or contact
 *   GPADL	partial --last page--> live; gone with teardown, RELID_RELEASED, unload, contact
 *
 * Everything here belongs to the bus's thread, which alone changes it. Where others look on (marked "lock") it does so
 * under the lock. It never holds the lock while it calls a device or the table of its maker. Lock order: lock of the
 * bus, signal_lock of a channel.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmbus/vmbus_wire.h"
#include "vmm/vmbus_server.h"

/* What a guest may have of us at a time. A machine of 64 processors with four controllers and two network cards takes
 * less than 300 GPADLs of 40000 pages. */
#define BUS_GPADLS_MAX	 2048u
#define BUS_PARTIAL_MAX	 64u
#define BUS_PAGES_MAX	 (128u << 10)
#define BUS_INBOX	 512u		/* messages; the pages of a large GPADL come as 293 of them */

#define BUS_CONNECTION_BASE 0x10000u	/* + channel id: its connection id for signals */
#define BUS_NO_VP	    0xffffffffu	/* target VP of a channel without interrupts */
#define BUS_STATUS_FAILED   0xc0000001u	/* guests look only for zero or not */

enum bus_state { BUS_DISCONNECTED, BUS_CONNECTED, BUS_OFFERED };

struct bus_device {
	struct vmm_bus *bus;
	const struct vmbus_offer *offer;
	uint32_t id;
	bool rescinded;			/* on its way out: lock */
	unsigned subchannels_wanted;	/* by the device, since the primary was opened: lock */
	struct bus_device *next;
};

struct bus_gpadl {
	uint32_t handle, relid;
	unsigned total, have;		/* pages */
	uint64_t *pfn;			/* while partial */
	struct vmbus_gpadl *pages;	/* live */
	struct bus_channel *user;	/* whose rings lie in it */
	struct bus_gpadl *next;
};

struct bus_channel {
	struct vmm_bus *bus;
	struct bus_device *device;	/* NULL: gone, only the id is still taken */
	uint32_t relid;
	unsigned subchannel;		/* 0: primary */
	bool announced;			/* the guest knows it; lock */
	bool open;			/* lock */
	bool rescinded;			/* lock */
	/* While open */
	struct bus_gpadl *gpadl;
	struct vmbus_mapping mapping;
	struct vmbus_channel end;

	pthread_mutex_t signal_lock;	/* nobody signals by an old target once it has been changed */
	uint32_t target_vp;		/* signal_lock */
	bool silent;			/* signal_lock */
};

struct bus_message {
	unsigned len;
	uint8_t payload[VMBUS_MESSAGE_MAX];
};

/* Work for the bus's thread that somebody waits for; on the stack of who waits. */
struct bus_command {
	void (*run)(struct vmm_bus *bus, struct bus_command *c);
	const struct vmbus_offer *offer;
	uint32_t id;
	int result;
	bool done;			/* lock */
	struct bus_command *next;
};

struct vmm_bus {
	const struct vmbus_mem *mem;
	const struct vmm_bus_ops *ops;
	void *ctx;
	unsigned vps;

	enum bus_state state;		/* lock */
	uint32_t version;		/* lock */
	unsigned vp;			/* gets the messages; lock */
	struct bus_channel *by_relid[VMBUS_CHANNELS_MAX];	/* lock */
	struct bus_device *devices;	/* lock */
	uint32_t last_id;
	struct bus_gpadl *gpadls;
	unsigned gpadl_count, partial_count, page_count;	/* lock */
	uint64_t posted, ignored;	/* lock */

	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t work;		/* for the thread: lock */
	pthread_cond_t changed;		/* a command is done, a channel id free: lock */
	bool quit;			/* lock */
	bool subchannels_wanted;	/* some device's: lock */
	struct bus_command *commands, **commands_tail;	/* lock */
	struct bus_message inbox[BUS_INBOX];		/* lock */
	unsigned inbox_first, inbox_count;		/* lock */
	uint64_t received, refused;			/* lock */
};

/* vmbus_message.c */
void bus_handle(struct vmm_bus *bus, const struct bus_message *message);
void bus_send(struct vmm_bus *bus, const void *message, unsigned len);
void bus_disconnect(struct vmm_bus *bus);	/* closes and forgets whatever the guest has set up */

/* vmbus_offer.c */
struct bus_channel *bus_channel_by_relid(struct vmm_bus *bus, uint32_t relid);	/* NULL: none the guest knows */
struct bus_channel *bus_channel_find(struct vmm_bus *bus, const struct bus_device *d, unsigned subchannel);
void bus_request_offers(struct vmm_bus *bus);
void bus_offer_wanted_subchannels(struct vmm_bus *bus);
void bus_rescind_subchannels(struct vmm_bus *bus, const struct bus_device *d);
void bus_relid_released(struct vmm_bus *bus, uint32_t relid);
void bus_forget_announced(struct vmm_bus *bus);	/* channels closed: as before the first request for offers */
void bus_run_offer(struct vmm_bus *bus, struct bus_command *c);
void bus_run_rescind(struct vmm_bus *bus, struct bus_command *c);	/* asks the guest */
void bus_run_remove(struct vmm_bus *bus, struct bus_command *c);	/* does without its answer */
bool bus_device_released_locked(struct vmm_bus *bus, uint32_t id);
extern const struct vmbus_bus_ops bus_device_bus_ops;

/* vmbus_pages.c */
void bus_gpadl_header(struct vmm_bus *bus, const uint8_t *payload, unsigned len);
void bus_gpadl_body(struct vmm_bus *bus, const uint8_t *payload, unsigned len);
void bus_gpadl_teardown(struct vmm_bus *bus, const uint8_t *payload, unsigned len);
struct bus_gpadl *bus_gpadl_find(struct vmm_bus *bus, uint32_t handle);
void bus_gpadls_drop(struct vmm_bus *bus, uint32_t relid);	/* of one channel; 0: all. No channel uses them */

/* vmbus_open.c */
void bus_channel_open(struct vmm_bus *bus, const struct vmbus_msg_open *m);
void bus_channel_close(struct bus_channel *c);		/* if it is open */
void bus_channel_silence(struct bus_channel *c);	/* no event to the guest any more */
void bus_device_close(struct vmm_bus *bus, const struct bus_device *d);	/* sub-channels first */
void bus_channel_close_by_guest(struct bus_channel *c);
void bus_channel_modify(struct vmm_bus *bus, const struct vmbus_msg_modify *m);

#endif
