/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/hostile_guest/fibers.h"

#include <errno.h>
#include <malloc.h>
#include <string.h>

#include "base/alloc.h"
#include "tests/hostile_guest/session_int.h"

#define ACTIONS_MAX 400u
#define BATCH_MAX 24u
#define MEMORY_MAX (64u << 20)		/* of everything, while a session runs */
#define QUEUE_DEPTH 8u

struct guest_memory guest_memory;
struct session_count session_count;

/* ---- choices of the fibers ------------------------------------------------------------------------------------ */

static uint32_t choose(void *ctx, uint32_t n)
{
	struct session *s = ctx;

	return (uint32_t)rng_below(&s->in->rng, n);
}

bool session_idle(void *ctx)
{
	struct session *s = ctx;

	for (unsigned i = 0; i < UNITS; i++) {
		if (s->disk[i] && disk_held(s->disk[i]) > 0) {
			disk_complete(s->disk[i], choose(s, disk_held(s->disk[i])), 0);
			return true;
		}
	}
	return false;
}

static const struct fiber_ops fiber_ops = { .choose = choose, .idle = session_idle };

/* ---- the host's own doings -------------------------------------------------------------------------------------- */

static struct storvsp_address address(unsigned unit)
{
	return (struct storvsp_address){ .lun = (uint8_t)unit };
}

/* Unit 2 is a DVD drive, without a medium at first. */
static void attach(struct session *s, unsigned unit)
{
	struct scsi_lu_opts opts = { .kind = unit == 2 ? SCSI_DVD : SCSI_DISK, .identity.b = { 1, 2, (uint8_t)unit } };
	struct disk *disk;
	struct scsi_lu *lu;

	if (s->attached[unit] || s->holds)
		return;
	disk = unit == 2 ? NULL : disk_new();
	opts.backend = disk ? disk_backend(disk) : NULL;
	if (scsi_lu_new(&opts, &lu, NULL) < 0) {
		if (disk)
			disk_backend(disk)->ops->free(disk_backend(disk));
		return;
	}
	s->disk[unit] = disk;
	s->attached[unit] = storvsp_attach(s->controller, address(unit), lu, NULL, 10, NULL) == 0;
	if (!s->attached[unit]) {
		s->disk[unit] = NULL;
		scsi_lu_free(lu);
	}
}

static void detach(struct session *s, unsigned unit)
{
	if (!s->attached[unit])
		return;
	session_check(storvsp_detach(s->controller, address(unit), NULL) == 0, "a unit cannot be detached");
	s->attached[unit] = false;
	s->disk[unit] = NULL;
}

static void resize(struct session *s, unsigned unit)
{
	struct scsi_lu *lu = storvsp_lu(s->controller, address(unit));

	if (!s->disk[unit] || !lu || unit == 2)
		return;
	disk_resize(s->disk[unit], DISK_BYTES / 4 * (1 + input_below(s->in, 4)));
	scsi_lu_resized(lu);
	storvsp_notify(s->controller);
}

static void change_medium(struct session *s)
{
	struct scsi_lu *lu = storvsp_lu(s->controller, address(2));
	struct disk *disk;

	if (!lu)
		return;
	if (s->disk[2]) {
		if (scsi_lu_eject(lu, true) == 0)
			s->disk[2] = NULL;
		return;
	}
	disk = disk_new();
	if (scsi_lu_insert(lu, disk_backend(disk)) == 0)
		s->disk[2] = disk;
	else
		disk_backend(disk)->ops->free(disk_backend(disk));
}

static void hold(struct session *s)
{
	if (s->holds == 0 && storvsp_hold(s->controller, 10) == 0) {
		for (unsigned i = 0; i < UNITS; i++)
			session_check(!s->disk[i] || disk_busy(s->disk[i]) == 0, "requests run during a hold");
		s->holds = 1;
	} else if (s->holds) {
		storvsp_release(s->controller);
		s->holds = 0;
	}
}

static void limit(struct session *s, unsigned unit)
{
	struct storvsp_limits l = { .iops = input_chance(s->in, 2) ? 0 : 1000 + input_below(s->in, 100000) };

	storvsp_set_limits(s->controller, address(unit), &l);
}

static void end_one(struct session *s)
{
	static const int errors[] = { 0, 0, 0, -EIO, -ENOSPC, -ENOMEM, -EROFS, -ETIMEDOUT };

	for (unsigned i = 0; i < UNITS; i++)
		if (s->disk[i] && disk_held(s->disk[i]) > 0)
			disk_complete(s->disk[i], input_below(s->in, disk_held(s->disk[i])),
				      errors[input_below(s->in, SP_ARRAY_SIZE(errors))]);
}

/* The device leaves the bus, and comes back. */
static void hot_remove(struct session *s)
{
	int r = s->device_id ? vmm_bus_rescind(s->bus, s->device_id, 10) : 0;

	session_check(r == 0 || r == -ETIMEDOUT, "rescind: %d", r);
	for (unsigned i = 0; i < CHANNELS; i++)
		wires_drop(s, i);
	s->ready = false;
	wires_housekeeping(s);
	for (unsigned i = 0; i < CHANNELS && s->calm; i++)
		session_check(!s->channel[i].offered, "channel %u of a removed device is still there", i);
	r = vmm_bus_offer(s->bus, storvsp_offer(s->controller), &s->device_id);
	session_check(r == 0 || (r == -ENOMEM && !s->calm), "offer: %d", r);
	if (r < 0)
		s->device_id = 0;
	fibers_settle();
}

static void power_cycle(struct session *s)
{
	vmm_bus_reset(s->bus);
	storvsp_power_on(s->controller);
	for (unsigned i = 0; i < CHANNELS; i++) {
		wires_drop(s, i);
		s->channel[i].offered = s->channel[i].rescinded = false;
	}
	s->connected = s->offers_delivered = s->ready = false;
}

/* ---- actions ------------------------------------------------------------------------------------------- */

static unsigned open_channel(struct session *s)
{
	unsigned first = input_below(s->in, CHANNELS);

	for (unsigned i = 0; i < CHANNELS; i++)
		if (s->channel[(first + i) % CHANNELS].open)
			return (first + i) % CHANNELS;
	return 0;
}

static void come_up(struct session *s)
{
	if (!s->offers_delivered)
		wires_contact(s);
	if (!s->channel[0].open)
		wires_open(s, 0);
	if (s->channel[0].open && !s->ready)
		packets_handshake(s);
	for (unsigned i = 1; i < CHANNELS; i++)
		if (!s->channel[i].open && !input_chance(s->in, 4))
			wires_open(s, i);
}

static void traffic(struct session *s)
{
	unsigned channel = open_channel(s);

	for (unsigned n = 1 + input_below(s->in, BATCH_MAX); n > 0; n--)
		packets_io(s, channel);
	packets_flush(s, channel);
	if (input_chance(s->in, 2))
		fibers_settle();
	else
		fibers_turn();
}

static void take(struct session *s)
{
	fibers_settle();
	for (unsigned i = 0; i < CHANNELS; i++)
		packets_take(s, i);
}

/* A channel that cannot be used any more, or is to be closed anyway, is opened again. */
static void renew(struct session *s)
{
	unsigned channel = open_channel(s);

	if (s->channel[channel].open)
		wires_close(s, channel, input_chance(s->in, 2));
	wires_housekeeping(s);
}

static void hostile_action(struct session *s)
{
	unsigned channel = open_channel(s);

	switch (input_below(s->in, 4)) {
	case 0:
		wires_mutated(s);
		break;
	case 1:
		packets_raw(s, channel);
		break;
	default:
		packets_poke(s, channel);
		break;
	}
	packets_flush(s, channel);
	fibers_turn();
	s->channel[channel].lost |= s->channel[channel].end.in.broken || s->channel[channel].end.out.broken;
	if (s->channel[channel].lost || input_chance(s->in, 6))
		wires_close(s, channel, true);
}

static void rare_action(struct session *s)
{
	unsigned unit = input_below(s->in, UNITS);

	switch (input_below(s->in, 12)) {
	case 0:
		hot_remove(s);
		break;
	case 1:
		power_cycle(s);
		break;
	case 2:
		if (s->connected)
			wires_unload(s);
		break;
	case 3:
	case 4:
		detach(s, unit);
		break;
	case 5:
	case 6:
		attach(s, unit);
		break;
	case 7:
		resize(s, unit);
		break;
	case 8:
		change_medium(s);
		break;
	case 9:
		limit(s, unit);
		break;
	default:
		renew(s);
		break;
	}
}

static void action(struct session *s)
{
	uint32_t what = input_below(s->in, 64);

	session_count.actions++;
	if (!s->channel[0].open && what > 2)
		come_up(s);
	if (what < 4)
		rare_action(s);
	else if (what < 6)
		hold(s);
	else if (what < 8) {
		packets_control(s, open_channel(s));
		packets_flush(s, 0);
	} else if (what < 12) {
		unsigned unit = input_below(s->in, UNITS);

		if (s->disk[unit])
			disk_hold(s->disk[unit], input_chance(s->in, 2));
	} else if (what < 18)
		end_one(s);
	else if (what < 30)
		take(s);
	else if (what < 44 && !s->calm)
		hostile_action(s);
	else
		traffic(s);
}

/* ---- a session ----------------------------------------------------------------------------------------- */

static int alloc_fails(void *arg)
{
	struct session *s = arg;

	return !s->calm && !fibers_first() && rng_chance(&s->in->rng, 1, 400);
}

static void begin(struct session *s)
{
	struct storvsp_opts opts = { .kind = STORVSP_SCSI, .name = "scsi0", .max_subchannels = CHANNELS - 1,
				     .queue_depth = QUEUE_DEPTH, .instance.b = { 0x5e, 0x55 },
				     .max_transfer = 64u << 10, .poll_us = 1 };

	s->calm = input_chance(s->in, 3);
	s->hostility = s->calm ? 0 : 4u << input_below(s->in, 6);
	for (unsigned i = 0; i < CHANNELS; i++)
		s->channel[i].signal_fd = -1;
	session_check(vmm_bus_new(&guest_memory.mem, &wires_ops, s, VPS, &s->bus, NULL) == 0, "no bus");
	session_check(storvsp_new(&opts, &s->controller, NULL) == 0, "no controller");
	session_check(vmm_bus_offer(s->bus, storvsp_offer(s->controller), &s->device_id) == 0, "no offer");
	for (unsigned i = 0; i < UNITS; i++)
		attach(s, i);
	hostile_fetch.in = s->in;
	hostile_fetch.left = 0;
	hostile_fetch.hostility = s->hostility;
	sp_alloc_set_fault(alloc_fails, s);
}

/* Everything ends: then each request has had its answer. */
static void come_to_rest(struct session *s)
{
	sp_alloc_set_fault(NULL, NULL);
	hostile_fetch.hostility = 0;
	if (s->holds)
		storvsp_release(s->controller);
	s->holds = 0;
	for (unsigned i = 0; i < UNITS; i++)
		if (s->disk[i])
			disk_hold(s->disk[i], false);
	for (unsigned i = 0; i < 20000 && s->waiting; i++) {
		take(s);
		for (unsigned k = 0; k < CHANNELS; k++)
			packets_flush(s, k);
		fibers_settle();
		if (s->waiting)
			fibers_expire();
	}
	session_check(!s->calm || s->waiting == 0, "%u requests have no answer", s->waiting);
}

static void end(struct session *s)
{
	come_to_rest(s);
	/* Who closes the bus finds channels open, or not. */
	if (input_chance(s->in, 2) && s->channel[0].open)
		wires_close(s, 0, true);
	vmm_bus_free(s->bus);
	for (unsigned i = 0; i < CHANNELS; i++) {
		session_check(s->channel[i].signal_fd < 0, "channel %u is still bound to its signal", i);
		wires_drop(s, i);
	}
	storvsp_free(s->controller);
	packets_check_parked(s);
}

void session_run(struct input *in)
{
	static struct session session;
	struct session *s = &session;

	*s = (struct session){ .in = in };
	fibers_begin(&fiber_ops, s);
	begin(s);
	for (unsigned i = 0; i < ACTIONS_MAX && !input_ended(in); i++) {
		action(s);
		if (i % 16 == 0)
			session_check(mallinfo2().uordblks < MEMORY_MAX, "%zu bytes of memory", mallinfo2().uordblks);
	}
	end(s);
	fibers_end();
	session_count.sessions++;
}
