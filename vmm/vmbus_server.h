/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_VMBUS_SERVER_H
#define SPINDLE_VMM_VMBUS_SERVER_H
/*
 * The VMBus of a machine: version negotiation, offers, GPADLs, opening and closing of channels. Knows nothing of KVM
 * and SynIC: what it needs from there is a small table. One thread of its own does the work, because closing a channel
 * may wait for I/O, which a virtual processor must not.
 *
 * Functions without another note may be called from any thread but the bus's own (which runs ->open and ->close of
 * devices and the functions of the table); they may wait for ->open or ->close of a device.
 */
#include <stdint.h>

#include "base/err.h"
#include "vmbus/channel.h"
#include "vmbus/mem.h"

struct vmm_bus;

/* None of these may wait for the guest or for the bus. */
struct vmm_bus_ops {
	/* SynIC message of type 1 to SINT2 of @vp; in the order of the calls. The bus's thread. */
	void (*post)(void *ctx, unsigned vp, const void *payload, unsigned len);
	/* Event flag of SINT2. Any thread. */
	void (*set_event)(void *ctx, unsigned vp, unsigned flag);
	/* From now on SIGNAL_EVENT with this connection id rings @event_fd. 0 or -errno. */
	int (*bind_signal)(void *ctx, uint32_t connection_id, int event_fd);
	void (*unbind_signal)(void *ctx, uint32_t connection_id, int event_fd);
	/* May be NULL. A guest has connected; @version 0: it has left. */
	void (*contact)(void *ctx, uint32_t version);
};

/* What POST_MESSAGE returns. */
#define VMM_BUS_SUCCESS		   0u
#define VMM_BUS_INVALID_PARAMETER  5u
#define VMM_BUS_INVALID_CONNECTION 18u
#define VMM_BUS_BUSY		   19u	/* insufficient buffers: the guest tries again a little later */

/**
 * vmm_bus_new - a bus with nothing on it
 * @mem: the guest's memory; @ops, @ctx: outlive the bus; @vps: virtual processors, numbered from 0
 * Returns 0, -ENOMEM, -EAGAIN (no thread).
 */
int vmm_bus_new(const struct vmbus_mem *mem, const struct vmm_bus_ops *ops, void *ctx, unsigned vps,
		struct vmm_bus **ret_bus, struct sp_err *err);
/* Closes every channel. No processor may call vmm_bus_message() any more. NULL is fine. */
void vmm_bus_free(struct vmm_bus *bus);

/**
 * vmm_bus_offer - put a device on the bus; a guest that has asked for offers hears of it at once
 * @offer: lives until the device is rescinded or the bus is freed
 * @ret_id: names the device in vmm_bus_rescind(); not seen by the guest
 * Returns 0, -EEXIST (another with its class and instance), -ENOSPC (channel ids), -ENOMEM.
 */
int vmm_bus_offer(struct vmm_bus *bus, const struct vmbus_offer *offer, uint32_t *ret_id);
/**
 * vmm_bus_rescind - take a device from the bus
 *
 * Asks the guest and waits until it has let go of all the device's channels, at most @timeout_ms; then its channels are
 * closed in any case. On return the bus has done with the device. Channel ids that the guest did not release stay
 * reserved until it does or is reset.
 * Returns 0, -ETIMEDOUT (the guest did not let go), -ENOENT.
 */
int vmm_bus_rescind(struct vmm_bus *bus, uint32_t id, unsigned timeout_ms);
/* As after power on: every channel closed, everything the guest set up forgotten; devices stay. No processor runs.
 * Called by the machine's main thread: ->close of a device must not wait for that one. */
void vmm_bus_reset(struct vmm_bus *bus);

/* POST_MESSAGE, on the processor's thread: copies, never waits. A hypercall status. */
unsigned vmm_bus_message(struct vmm_bus *bus, uint32_t connection_id, const void *payload, unsigned len);

/* Adds state, channels and counters to a json-c object. Any thread; waits for nobody. */
void vmm_bus_describe(struct vmm_bus *bus, void *json_object);

#endif
