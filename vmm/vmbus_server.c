/* SPDX-License-Identifier: BSD-2-Clause */
/* The bus and its thread: messages of the guest from a bounded queue, commands of the machine, wishes of devices. */
#include "vmm/vmbus_server.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "vmm/vmbus_int.h"

/* ---- the bus's thread ---------------------------------------------------------------------------------- */

static void run_command_locked(struct vmm_bus *bus)
{
	struct bus_command *c = bus->commands;

	bus->commands = c->next;
	if (!bus->commands)
		bus->commands_tail = &bus->commands;
	pthread_mutex_unlock(&bus->lock);
	c->run(bus, c);
	pthread_mutex_lock(&bus->lock);
	c->done = true;		/* and from here on it is gone */
	pthread_cond_broadcast(&bus->changed);
}

static void handle_message_locked(struct vmm_bus *bus)
{
	struct bus_message message = bus->inbox[bus->inbox_first];

	bus->inbox_first = (bus->inbox_first + 1) % BUS_INBOX;
	bus->inbox_count--;
	pthread_mutex_unlock(&bus->lock);
	bus_handle(bus, &message);
	pthread_mutex_lock(&bus->lock);
}

static void offer_subchannels_locked(struct vmm_bus *bus)
{
	bus->subchannels_wanted = false;
	pthread_mutex_unlock(&bus->lock);
	bus_offer_wanted_subchannels(bus);
	pthread_mutex_lock(&bus->lock);
}

static void *serve(void *arg)
{
	struct vmm_bus *bus = arg;

	pthread_mutex_lock(&bus->lock);
	for (;;) {
		if (bus->commands)
			run_command_locked(bus);
		else if (bus->quit)
			break;
		else if (bus->inbox_count > 0)
			handle_message_locked(bus);
		else if (bus->subchannels_wanted)
			offer_subchannels_locked(bus);
		else
			pthread_cond_wait(&bus->work, &bus->lock);
	}
	pthread_mutex_unlock(&bus->lock);
	return NULL;
}

unsigned vmm_bus_message(struct vmm_bus *bus, uint32_t connection_id, const void *payload, unsigned len)
{
	unsigned status = VMM_BUS_SUCCESS;

	/* Which of the two a guest uses depends on the version it tries. */
	if (connection_id != VMBUS_CONNECTION_OLD && connection_id != VMBUS_CONNECTION_NEW)
		return VMM_BUS_INVALID_CONNECTION;
	if (len < sizeof(struct vmbus_msg_header) || len > VMBUS_MESSAGE_MAX)
		return VMM_BUS_INVALID_PARAMETER;
	pthread_mutex_lock(&bus->lock);
	if (bus->inbox_count == BUS_INBOX) {
		bus->refused++;
		status = VMM_BUS_BUSY;
	} else {
		struct bus_message *m = &bus->inbox[(bus->inbox_first + bus->inbox_count++) % BUS_INBOX];

		m->len = len;
		memcpy(m->payload, payload, len);
		memset(m->payload + len, 0, sizeof(m->payload) - len);
		bus->received++;
		pthread_cond_signal(&bus->work);
	}
	pthread_mutex_unlock(&bus->lock);
	return status;
}

/* ---- what the machine asks ----------------------------------------------------------------------------- */

static void run(struct vmm_bus *bus, struct bus_command *c)
{
	pthread_mutex_lock(&bus->lock);
	*bus->commands_tail = c;
	bus->commands_tail = &c->next;
	pthread_cond_signal(&bus->work);
	while (!c->done)
		pthread_cond_wait(&bus->changed, &bus->lock);
	pthread_mutex_unlock(&bus->lock);
}

int vmm_bus_offer(struct vmm_bus *bus, const struct vmbus_offer *offer, uint32_t *ret_id)
{
	struct bus_command c = { .run = bus_run_offer, .offer = offer };

	run(bus, &c);
	if (c.result == 0)
		*ret_id = c.id;
	return c.result;
}

static void wait_for_release(struct vmm_bus *bus, uint32_t id, unsigned timeout_ms)
{
	struct timespec end;
	int r = 0;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += timeout_ms / 1000;
	end.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
	if (end.tv_nsec >= 1000000000) {
		end.tv_nsec -= 1000000000;
		end.tv_sec++;
	}
	pthread_mutex_lock(&bus->lock);
	while (r == 0 && !bus_device_released_locked(bus, id))
		r = pthread_cond_timedwait(&bus->changed, &bus->lock, &end);
	pthread_mutex_unlock(&bus->lock);
}

int vmm_bus_rescind(struct vmm_bus *bus, uint32_t id, unsigned timeout_ms)
{
	struct bus_command ask = { .run = bus_run_rescind, .id = id }, remove = { .run = bus_run_remove, .id = id };

	run(bus, &ask);
	if (ask.result < 0)
		return ask.result;
	wait_for_release(bus, id, timeout_ms);
	run(bus, &remove);
	return remove.result;
}

static void run_reset(struct vmm_bus *bus, struct bus_command *c)
{
	pthread_mutex_lock(&bus->lock);
	bus->inbox_count = 0;
	pthread_mutex_unlock(&bus->lock);
	bus_disconnect(bus);
	pthread_mutex_lock(&bus->lock);
	bus->vp = 0;
	pthread_mutex_unlock(&bus->lock);
}

void vmm_bus_reset(struct vmm_bus *bus)
{
	struct bus_command c = { .run = run_reset };

	run(bus, &c);
}

/* ---- new, free ----------------------------------------------------------------------------------------- */

static void init_locks(struct vmm_bus *bus)
{
	pthread_condattr_t monotonic;

	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&bus->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_cond_init(&bus->work, NULL);
	pthread_mutex_init(&bus->lock, NULL);
}

static void release(struct vmm_bus *bus)
{
	pthread_cond_destroy(&bus->work);
	pthread_cond_destroy(&bus->changed);
	pthread_mutex_destroy(&bus->lock);
	sp_free(bus);
}

int vmm_bus_new(const struct vmbus_mem *mem, const struct vmm_bus_ops *ops, void *ctx, unsigned vps,
		struct vmm_bus **ret_bus, struct sp_err *err)
{
	struct vmm_bus *bus = sp_zalloc(sizeof(*bus));
	int r;

	if (!bus)
		return sp_err_set(err, -ENOMEM, "VMBus: out of memory");
	bus->mem = mem;
	bus->ops = ops;
	bus->ctx = ctx;
	bus->vps = vps;
	bus->commands_tail = &bus->commands;
	init_locks(bus);
	r = pthread_create(&bus->thread, NULL, serve, bus);
	if (r != 0) {
		release(bus);
		return sp_err_set(err, -r, "VMBus: cannot start its thread: %s", strerror(r));
	}
	pthread_setname_np(bus->thread, "vmbus");
	*ret_bus = bus;
	return 0;
}

void vmm_bus_free(struct vmm_bus *bus)
{
	if (!bus)
		return;
	vmm_bus_reset(bus);
	while (bus->devices)
		vmm_bus_rescind(bus, bus->devices->id, 0);
	pthread_mutex_lock(&bus->lock);
	bus->quit = true;
	pthread_cond_signal(&bus->work);
	pthread_mutex_unlock(&bus->lock);
	pthread_join(bus->thread, NULL);
	release(bus);
}
