/* SPDX-License-Identifier: BSD-2-Clause */
/* What happens around the SRBs: resets, closing, units that come and go, limits, holds, many channels at once. */
#include <errno.h>
#include <json-c/json.h>
#include <pthread.h>

#include "base/env.h"
#include "tests/unit/storvsp_fixture.h"

#define POWER_ON  0x62900u
#define CAPACITY  0x62a09u
#define ABORTED	  0xb0000u

static void put_reads(struct guest *g, uint8_t lun, unsigned first_id, unsigned count, unsigned page)
{
	for (unsigned i = 0; i < count; i++) {
		struct guest_io io = guest_rw(lun, false, i, page, 512);

		assert_true(guest_put_io(g, 0, first_id + i, &io));
	}
	guest_kick(g, 0);
}

static uint32_t sense_of_tur(struct guest *g, uint8_t lun)
{
	struct guest_io io = guest_tur(lun);
	struct answer a;

	guest_io(g, 0, &io, &a);
	return answer_sense(&a);
}

static bool tur_finds_nobody(struct guest *g, uint8_t lun)
{
	struct guest_io io = guest_tur(lun);
	struct answer a;

	guest_io(g, 0, &io, &a);
	return a.packet.u.srb.srb_status == VSTOR_SRB_INVALID_LUN;
}

/* ---- resets ------------------------------------------------------------------------------------------------- */

#define RESET_ID 0xfffffffffffffffcull

static const struct reset_case {
	const char *name;
	uint32_t operation;
	bool neighbour_hears;		/* LUN 1 is in scope, too */
} reset_cases[] = {
	{ "RESET_LUN", VSTOR_RESET_LUN, false },
	{ "RESET_BUS", VSTOR_RESET_BUS, true },
	{ "RESET_ADAPTER", VSTOR_RESET_ADAPTER, true },
};

/* What runs ends first, then the reset; afterwards the units in scope have news, the others have not. */
static void reset_in_flight(void **state)
{
	const struct reset_case *c = *state;
	struct gate *gate;
	struct answer a;
	struct guest g;
	unsigned page;

	gate = ready(&g, NULL, RING, RING);
	page = test_mem_take(&g.mem, 1);
	attach_gate(&g, 1, NULL);
	assert_true(told(&g, GUEST_WAIT_MS));
	guest_settle(&g, 0, 1);
	gate_shut(gate);
	put_reads(&g, 0, 1, 20, page);
	assert_true(gate_wait(gate, 20));
	assert_true(guest_put(&g, 0, RESET_ID, c->operation));
	guest_kick(&g, 0);
	assert_false(guest_next(&g, 0, &a, 30));
	gate_open(gate);
	for (unsigned i = 0; i < 20; i++) {
		assert_true(guest_next(&g, 0, &a, GUEST_WAIT_MS));
		assert_int_not_equal(a.transaction_id, RESET_ID);
	}
	assert_true(guest_next(&g, 0, &a, GUEST_WAIT_MS));
	assert_int_equal(a.transaction_id, RESET_ID);
	assert_int_equal(le32_get(a.packet.operation), VSTOR_COMPLETE_IO);
	assert_int_equal(le32_get(a.packet.status), VSTOR_STATUS_SUCCESS);
	assert_int_equal(sense_of_tur(&g, 0), POWER_ON);
	assert_int_equal(sense_of_tur(&g, 1), c->neighbour_hears ? POWER_ON : 0);
	guest_end(&g);
}

/* What only waits for its limit does not hold a reset up: it is aborted, in the scope of the reset. */
static void reset_queued(void **state)
{
	struct storvsp_limits limits = { .iops = 1, .burst_iops = 1 };
	unsigned aborted = 0, good = 0;
	struct answer a;
	struct guest g;
	unsigned page;

	ready(&g, NULL, RING, RING);
	page = test_mem_take(&g.mem, 1);
	assert_int_equal(storvsp_set_limits(g.controller, (struct storvsp_address){ 0 }, &limits), 0);
	put_reads(&g, 0, 1, 50, page);
	assert_true(guest_put(&g, 0, RESET_ID, VSTOR_RESET_BUS));
	guest_kick(&g, 0);
	for (;;) {
		assert_true(guest_next(&g, 0, &a, GUEST_WAIT_MS));
		if (a.transaction_id == RESET_ID)
			break;
		if (answer_sense(&a) == ABORTED)
			aborted++;
		else
			good++;
	}
	assert_int_equal(aborted + good, 50);
	assert_true(aborted >= 45);
	guest_end(&g);
}

/* Sent from all sides at once, each is answered. */
static void reset_flood(void **state)
{
	struct answer a;
	struct guest g;

	ready(&g, NULL, RING, RING);
	for (unsigned i = 0; i < 100; i++)
		assert_true(guest_put(&g, 0, 1000 + i, i % 3 ? VSTOR_RESET_BUS : VSTOR_RESET_LUN));
	guest_kick(&g, 0);
	for (unsigned i = 0; i < 100; i++) {
		assert_true(guest_next(&g, 0, &a, GUEST_WAIT_MS));
		assert_int_equal(a.transaction_id, 1000 + i);
	}
	guest_end(&g);
}

/* ---- closing ------------------------------------------------------------------------------------------------ */

static void *open_later(void *gate)
{
	usleep(50000);
	gate_open(gate);
	return NULL;
}

static void close_in_flight(void **state)
{
	struct gate *gate;
	pthread_t helper;
	struct guest g;
	unsigned page;

	gate = ready(&g, NULL, RING, 2);
	page = test_mem_take(&g.mem, 1);
	gate_shut(gate);
	put_reads(&g, 0, 1, 200, page);		/* more answers than the ring holds */
	assert_true(gate_wait(gate, 200));
	pthread_create(&helper, NULL, open_later, gate);
	guest_close(&g, 0);
	assert_int_equal(gate_taken(gate), 0);
	pthread_join(helper, NULL);
	guest_end(&g);
}

static void close_with_queued(void **state)
{
	struct storvsp_limits limits = { .iops = 1, .burst_iops = 1 };
	struct guest g;
	unsigned page;

	ready(&g, NULL, RING, RING);
	page = test_mem_take(&g.mem, 1);
	assert_int_equal(storvsp_set_limits(g.controller, (struct storvsp_address){ 0 }, &limits), 0);
	put_reads(&g, 0, 1, 100, page);
	WAIT_FOR(lun_stats(&g).queued >= 90);
	guest_close(&g, 0);
	assert_int_equal(lun_stats(&g).queued, 0);
	guest_end(&g);
}

/* A closed primary channel begins again from the first packet; SRBs before the end are put off. */
static void open_again(void **state)
{
	struct guest_io io = guest_tur(0);
	struct answer a;
	struct guest g;

	ready(&g, NULL, RING, RING);
	assert_int_equal(storvsp_version(g.controller), VSTOR_VERSION_WIN10);
	guest_close(&g, 0);
	assert_int_equal(storvsp_version(g.controller), 0);
	assert_int_equal(guest_open(&g, 0), 0);
	guest_io(&g, 0, &io, &a);
	assert_int_equal(le32_get(a.packet.status), VSTOR_STATUS_INVALID_DEVICE_STATE);
	expect_sense(&a, 0x20401);
	guest_handshake(&g);
	guest_settle(&g, 0, 0);
	guest_end(&g);
}

/* ---- units that come and go --------------------------------------------------------------------------------- */

static void hot_add_remove(void **state)
{
	struct gate *gate;
	struct guest g;
	struct scsi_lu *lu;

	ready(&g, NULL, RING, RING);
	assert_true(tur_finds_nobody(&g, 3));
	attach_gate(&g, 3, NULL);
	assert_true(told(&g, GUEST_WAIT_MS));
	guest_settle(&g, 0, 3);
	gate = gate_new(DISK_SIZE);
	lu = disk_over(gate_backend(gate), 9);
	assert_int_equal(attach_lu(&g, 3, lu, NULL), -EEXIST);

	assert_int_equal(detach(&g, 3), 0);
	assert_int_equal(detach(&g, 3), -ENOENT);
	/* Nobody has looked yet: another disk there would pass for the old one. */
	assert_int_equal(attach_lu(&g, 3, lu, NULL), -EBUSY);
	assert_true(told(&g, GUEST_WAIT_MS));
	assert_true(tur_finds_nobody(&g, 3));
	assert_int_equal(attach_lu(&g, 3, lu, NULL), 0);
	assert_true(told(&g, GUEST_WAIT_MS));
	guest_settle(&g, 0, 3);
	guest_end(&g);
}

static void *tur_later(void *arg)
{
	usleep(30000);
	assert_true(tur_finds_nobody(arg, 0));
	return NULL;
}

/* Attaching waits for the guest to look, if it is given the time. */
static void reuse_waits(void **state)
{
	struct gate *gate = gate_new(DISK_SIZE);
	struct scsi_lu *lu = disk_over(gate_backend(gate), 9);
	pthread_t helper;
	struct guest g;

	ready(&g, NULL, RING, RING);
	assert_int_equal(detach(&g, 0), 0);
	assert_true(told(&g, GUEST_WAIT_MS));
	pthread_create(&helper, NULL, tur_later, &g);
	assert_int_equal(storvsp_attach(g.controller, (struct storvsp_address){ 0 }, lu, NULL, GUEST_WAIT_MS, NULL), 0);
	pthread_join(helper, NULL);
	guest_end(&g);
}

/* A guest that goes away forgets what it knew, so its successor need not be told. */
static void reuse_after_reboot(void **state)
{
	struct gate *gate = gate_new(DISK_SIZE);
	struct scsi_lu *lu = disk_over(gate_backend(gate), 9);
	struct guest g;

	ready(&g, NULL, RING, RING);
	assert_int_equal(detach(&g, 0), 0);
	guest_close(&g, 0);
	assert_int_equal(attach_lu(&g, 0, lu, NULL), 0);
	guest_end(&g);
}

static void *detach_first(void *arg)
{
	return (void *)(intptr_t)detach(arg, 0);
}

static void detach_in_flight(void **state)
{
	struct gate *gate;
	pthread_t helper;
	struct answer a;
	struct guest g;
	unsigned page;
	void *r;

	gate = ready(&g, NULL, RING, RING);
	page = test_mem_take(&g.mem, 1);
	gate_shut(gate);
	put_reads(&g, 0, 1, 30, page);
	assert_true(gate_wait(gate, 30));
	pthread_create(&helper, NULL, detach_first, &g);
	/* Refused at once, although requests are in flight. */
	WAIT_FOR(tur_finds_nobody(&g, 0));
	gate_open(gate);
	for (unsigned i = 0; i < 30; i++) {
		assert_true(guest_next(&g, 0, &a, GUEST_WAIT_MS));
		expect_good(&a, 512);
	}
	pthread_join(helper, &r);
	assert_int_equal((intptr_t)r, 0);
	assert_true(told(&g, GUEST_WAIT_MS));
	guest_end(&g);
}

/* Requests that wait for a limit are refused with the unit. */
static void detach_queued(void **state)
{
	struct storvsp_limits limits = { .iops = 1, .burst_iops = 1 };
	unsigned absent = 0;
	struct answer a;
	struct guest g;
	unsigned page;

	ready(&g, NULL, RING, RING);
	page = test_mem_take(&g.mem, 1);
	storvsp_set_limits(g.controller, (struct storvsp_address){ 0 }, &limits);
	put_reads(&g, 0, 1, 40, page);
	WAIT_FOR(lun_stats(&g).queued >= 30);
	assert_int_equal(detach(&g, 0), 0);
	for (unsigned i = 0; i < 40; i++) {
		assert_true(guest_next(&g, 0, &a, GUEST_WAIT_MS));
		absent += a.packet.u.srb.srb_status == VSTOR_SRB_INVALID_LUN;
	}
	assert_true(absent >= 30);
	guest_end(&g);
}

static void resize(void **state)
{
	struct gate *gate;
	struct guest g;

	gate = ready(&g, NULL, RING, RING);
	gate_resize(gate, DISK_SIZE / 2);
	scsi_lu_resized(storvsp_lu(g.controller, (struct storvsp_address){ 0 }));
	storvsp_notify(g.controller);
	assert_true(told(&g, GUEST_WAIT_MS));
	assert_int_equal(sense_of_tur(&g, 0), CAPACITY);
	assert_int_equal(sense_of_tur(&g, 0), 0);
	guest_end(&g);
}

/* Many causes, few packets; and none before the guest scans by itself. */
static void notices(void **state)
{
	struct guest g;
	unsigned n = 0;

	guest_begin(&g, NULL, RING, RING);
	storvsp_notify(g.controller);
	usleep(10000);
	guest_handshake(&g);
	assert_false(told(&g, 30));
	storvsp_hold(g.controller, 1000);
	for (unsigned i = 0; i < 50; i++)
		storvsp_notify(g.controller);
	storvsp_release(g.controller);
	while (told(&g, 50))
		n++;
	assert_in_range(n, 1, 50);
	guest_end(&g);
}

static void ide(void **state)
{
	struct storvsp_opts opts = { .kind = STORVSP_IDE, .ide_channel = 1, .ide_device = 1, .max_subchannels = 4 };
	struct storvsp_address at = { 1, 1, 0 };
	char text[SP_GUID_TEXT];
	struct gate *gate = gate_new(DISK_SIZE);
	struct guest_io io = guest_tur(0);
	struct answer a;
	struct guest g;

	guest_begin(&g, &opts, RING, RING);
	sp_guid_format_le(&storvsp_offer(g.controller)->instance_guid, text);
	assert_string_equal(text, "00000001-0001-8899-0000-000000000000");
	assert_int_equal(storvsp_offer(g.controller)->user[2], 1);
	assert_int_equal(storvsp_offer(g.controller)->user[3], 1);
	assert_int_equal(storvsp_offer(g.controller)->user[8], 2);
	assert_int_equal(storvsp_offer(g.controller)->max_subchannels, 0);
	assert_int_equal(storvsp_attach(g.controller, at, disk_over(gate_backend(gate), 1), NULL, 0, NULL), 0);
	guest_handshake(&g);
	io.target = 1;			/* and path 0, as Linux says */
	for (unsigned i = 0; i < 5; i++)
		guest_io(&g, 0, &io, &a);
	expect_good(&a, 0);
	io.target = 0;
	guest_io(&g, 0, &io, &a);
	expect_absent(&a);
	guest_end(&g);
}

/* ---- limits and neighbours ------------------------------------------------------------------------------------ */

static void limited(void **state)
{
	struct storvsp_limits limits = { .iops = 2000, .burst_iops = 20 };
	struct storvsp_lun_stats stats;
	struct answer a;
	struct guest g;
	unsigned page;
	uint64_t start;

	ready(&g, NULL, 32, RING);
	page = test_mem_take(&g.mem, 1);
	storvsp_set_limits(g.controller, (struct storvsp_address){ 0 }, &limits);
	start = sp_env_monotonic_ns();
	put_reads(&g, 0, 1, 620, page);
	for (unsigned i = 0; i < 620; i++) {
		assert_true(guest_next(&g, 0, &a, GUEST_WAIT_MS));
		expect_good(&a, 512);
	}
	/* 600 beyond the burst take 0.3 s; how much longer depends on the machine. */
	assert_true(sp_env_monotonic_ns() - start > 285000000u);
	stats = lun_stats(&g);
	assert_true(stats.throttled > 500);
	assert_true(stats.throttled_ns > 0);
	assert_int_equal(stats.queued, 0);
	guest_end(&g);
}

/* A disk that hangs with as many requests as it can get: its neighbour, on the same channel, goes on. */
static void slow_neighbour(void **state)
{
	struct storvsp_opts opts = { .queue_depth = 32 };	/* 128 slots */
	struct gate *gate;
	unsigned busy = 0, page;
	struct answer a;
	struct guest g;

	gate = ready(&g, &opts, 32, RING);
	page = test_mem_take(&g.mem, 1);
	attach_gate(&g, 1, NULL);
	assert_true(told(&g, GUEST_WAIT_MS));
	guest_settle(&g, 0, 1);
	gate_shut(gate);
	put_reads(&g, 0, 1, 60, page);
	assert_true(gate_wait(gate, 24));
	for (unsigned i = 0; i < 300; i++) {
		struct guest_io slow = guest_rw(0, false, i, page, 512), fast = guest_rw(1, false, i, page, 512);

		assert_true(guest_put_io(&g, 0, 100, &slow));
		assert_true(guest_put_io(&g, 0, 200, &fast));
		guest_kick(&g, 0);
		do {
			assert_true(guest_next(&g, 0, &a, GUEST_WAIT_MS));
			if (a.transaction_id == 100) {
				assert_int_equal(a.packet.u.srb.srb_status, VSTOR_SRB_SUCCESS);
				assert_int_equal(a.packet.u.srb.scsi_status, SCSI_TASK_SET_FULL);
				busy++;
			}
		} while (a.transaction_id != 200);
		expect_good(&a, 512);
	}
	assert_true(busy > 200);
	gate_open(gate);
	for (unsigned i = 0; i < 360 - busy; i++)
		assert_true(guest_next(&g, 0, &a, GUEST_WAIT_MS));
	guest_end(&g);
}

/* ---- holds ------------------------------------------------------------------------------------------------------ */

static void hold(void **state)
{
	struct gate *gate;
	struct answer a;
	struct guest g;
	unsigned page;

	gate = ready(&g, NULL, RING, RING);
	page = test_mem_take(&g.mem, 1);
	gate_shut(gate);
	put_reads(&g, 0, 1, 10, page);
	assert_true(gate_wait(gate, 10));
	assert_int_equal(storvsp_hold(g.controller, 30), -ETIMEDOUT);
	gate_open(gate);
	for (unsigned i = 0; i < 10; i++)
		assert_true(guest_next(&g, 0, &a, GUEST_WAIT_MS));

	for (unsigned round = 0; round < 3; round++) {
		assert_int_equal(storvsp_hold(g.controller, GUEST_WAIT_MS), 0);
		assert_int_equal(gate_taken(gate), 0);
		gate_shut(gate);
		put_reads(&g, 0, 1, 10, page);
		assert_false(guest_next(&g, 0, &a, 20));
		assert_int_equal(gate_taken(gate), 0);
		gate_open(gate);
		storvsp_release(g.controller);
		for (unsigned i = 0; i < 10; i++)
			assert_true(guest_next(&g, 0, &a, GUEST_WAIT_MS));
	}
	guest_end(&g);
}

/* The guest has its answer; the disk is not at rest before the flush has ended. */
static void hold_while_flushing(void **state)
{
	struct guest_io io = { .cdb = { 0x35, 2 }, .cdb_len = 10, .data_in = VSTOR_DATA_NONE };
	struct gate *gate;
	struct answer a;
	struct guest g;

	gate = ready(&g, NULL, RING, RING);
	gate_shut(gate);
	guest_io(&g, 0, &io, &a);
	expect_good(&a, 0);
	assert_true(gate_wait(gate, 1));
	assert_int_equal(storvsp_hold(g.controller, 30), -ETIMEDOUT);
	gate_open(gate);
	assert_int_equal(storvsp_hold(g.controller, GUEST_WAIT_MS), 0);
	assert_int_equal(gate_taken(gate), 0);
	storvsp_release(g.controller);
	guest_end(&g);
}

static void hold_then_close(void **state)
{
	struct guest g;

	ready(&g, NULL, RING, RING);
	assert_int_equal(storvsp_hold(g.controller, GUEST_WAIT_MS), 0);
	guest_close(&g, 0);
	assert_int_equal(guest_open(&g, 0), 0);
	storvsp_release(g.controller);
	guest_handshake(&g);
	guest_settle(&g, 0, 0);
	guest_end(&g);
}

/* ---- many channels --------------------------------------------------------------------------------------------- */

#define IOS 1500u
#define DEPTH 8u

struct lane {
	struct guest *g;
	unsigned channel, page;
	unsigned good, gone, other;
	pthread_t thread;
};

static void *drive(void *arg)
{
	struct lane *l = arg;
	unsigned sent = 0, done = 0;
	struct answer a;

	while (done < IOS) {
		while (sent < IOS && sent - done < DEPTH) {
			struct guest_io io = guest_rw((uint8_t)(sent % 3), sent & 1, sent % 512, l->page, 512);

			if (!guest_put_io(l->g, l->channel, sent + 1, &io))
				break;
			sent++;
		}
		guest_kick(l->g, l->channel);
		if (!guest_next(l->g, l->channel, &a, GUEST_WAIT_MS))
			break;
		if (a.type == VMBUS_PACKET_INBAND)
			continue;		/* look at your bus again */
		done++;
		if (a.packet.u.srb.srb_status == VSTOR_SRB_SUCCESS)
			l->good++;
		else if (a.packet.u.srb.srb_status == VSTOR_SRB_INVALID_LUN)
			l->gone++;
		else
			l->other++;
	}
	return NULL;
}

static void open_all(struct guest *g)
{
	struct vstor_packet v = { .operation = le32_make(VSTOR_CREATE_SUB_CHANNELS), .flags = le32_make(1),
				  .u.subchannels = le16_make(GUEST_CHANNELS - 1) };

	assert_int_equal(guest_open(g, 3), -EINVAL);	/* nobody asked for it */
	assert_int_equal(guest_control(g, 0, &v), VSTOR_STATUS_SUCCESS);
	WAIT_FOR(__atomic_load_n(&g->offered, __ATOMIC_SEQ_CST) == GUEST_CHANNELS - 1);
	for (unsigned i = 1; i < GUEST_CHANNELS; i++)
		assert_int_equal(guest_open(g, i), 0);
}

/* Everything that management can do, while every channel works. The disk at LUN 2 comes and goes. */
static void manage(struct guest *g, unsigned round)
{
	struct storvsp_limits limits = { .iops = 200000, .min_iops = 50 };
	struct storvsp_channel_stats stats[GUEST_CHANNELS];
	struct storvsp_address at = { 0, 0, 2 };
	struct scsi_lu *lu;

	assert_int_equal(storvsp_hold(g->controller, GUEST_WAIT_MS), 0);
	storvsp_release(g->controller);
	storvsp_set_limits(g->controller, at, round & 1 ? &limits : NULL);
	json_object_put(storvsp_describe(g->controller));
	assert_int_equal(storvsp_channel_stats(g->controller, stats, GUEST_CHANNELS), GUEST_CHANNELS);
	if (storvsp_lu(g->controller, at)) {
		assert_int_equal(storvsp_detach(g->controller, at, NULL), 0);
		return;
	}
	lu = disk_over(gate_backend(gate_new(DISK_SIZE)), 2);
	if (attach_lu(g, 2, lu, NULL) < 0)
		scsi_lu_free(lu);		/* nobody has noticed yet */
}

static void eight_channels(void **state)
{
	struct storvsp_opts opts = { .max_subchannels = GUEST_CHANNELS - 1 };
	struct lane lane[GUEST_CHANNELS];
	unsigned gone = 0;
	struct guest g;

	ready(&g, &opts, RING, 4);
	attach_gate(&g, 1, NULL);
	assert_true(told(&g, GUEST_WAIT_MS));
	guest_settle(&g, 0, 1);
	open_all(&g);
	for (unsigned i = 0; i < GUEST_CHANNELS; i++) {
		lane[i] = (struct lane){ .g = &g, .channel = i, .page = test_mem_take(&g.mem, 1) };
		pthread_create(&lane[i].thread, NULL, drive, &lane[i]);
	}
	for (unsigned round = 0; round < 12; round++)
		manage(&g, round);
	for (unsigned i = 0; i < GUEST_CHANNELS; i++) {
		pthread_join(lane[i].thread, NULL);
		/* Power on, of the unit that came and went: once each time, on the channel that asked first. */
		assert_int_equal(lane[i].good + lane[i].gone + lane[i].other, IOS);
		assert_true(lane[i].other <= 16);
		gone += lane[i].gone;
	}
	assert_true(gone > 0);
	guest_end(&g);
}

static void subchannel_outlives(void **state)
{
	struct storvsp_opts opts = { .max_subchannels = GUEST_CHANNELS - 1 };
	struct guest_io io = guest_tur(0);
	struct answer a;
	struct guest g;

	ready(&g, &opts, RING, RING);
	open_all(&g);
	guest_settle(&g, 5, 0);
	guest_close(&g, 0);			/* primary first */
	guest_io(&g, 5, &io, &a);
	assert_int_equal(le32_get(a.packet.status), VSTOR_STATUS_INVALID_DEVICE_STATE);
	guest_end(&g);
}

/* A reset on one channel waits for what runs on another. */
static void reset_across(void **state)
{
	struct storvsp_opts opts = { .max_subchannels = GUEST_CHANNELS - 1 };
	struct guest_io io;
	struct gate *gate;
	struct answer a;
	struct guest g;

	gate = ready(&g, &opts, RING, RING);
	open_all(&g);
	io = guest_rw(0, false, 0, test_mem_take(&g.mem, 1), 512);
	gate_shut(gate);
	assert_true(guest_put_io(&g, 4, 1, &io));
	guest_kick(&g, 4);
	assert_true(gate_wait(gate, 1));
	assert_true(guest_put(&g, 0, RESET_ID, VSTOR_RESET_BUS));
	guest_kick(&g, 0);
	assert_false(guest_next(&g, 0, &a, 30));
	gate_open(gate);
	assert_true(guest_next(&g, 0, &a, GUEST_WAIT_MS));
	assert_int_equal(a.transaction_id, RESET_ID);
	assert_true(guest_next(&g, 4, &a, GUEST_WAIT_MS));
	expect_good(&a, 512);
	guest_end(&g);
}

static void describe(void **state)
{
	struct json_object *o, *units, *unit, *v;
	struct answer a;
	struct guest g;
	struct guest_io io;

	ready(&g, NULL, RING, RING);
	io = guest_rw(0, false, 0, test_mem_take(&g.mem, 1), 4096);
	guest_io(&g, 0, &io, &a);
	o = storvsp_describe(g.controller);
	assert_true(json_object_object_get_ex(o, "protocol", &v));
	assert_string_equal(json_object_get_string(v), "6.2");
	assert_true(json_object_object_get_ex(o, "units", &units));
	assert_int_equal(json_object_array_length(units), 1);
	unit = json_object_array_get_idx(units, 0);
	assert_true(json_object_object_get_ex(unit, "reads", &v));
	assert_int_equal(json_object_get_int64(v), 1);
	assert_true(json_object_object_get_ex(unit, "read_bytes", &v));
	assert_int_equal(json_object_get_int64(v), 4096);
	assert_true(json_object_object_get_ex(unit, "reads_per_sec", &v));
	assert_true(json_object_get_double(v) > 0);
	json_object_put(o);
	guest_end(&g);
}

static const struct single_row single_rows[] = {
	{ "a reset aborts what waits", reset_queued },
	{ "a flood of resets", reset_flood },
	{ "a reset waits for other channels", reset_across },
	{ "closing with requests in flight and a full ring", close_in_flight },
	{ "closing with requests that wait", close_with_queued },
	{ "opening again", open_again },
	{ "units come and go, and an address is used again", hot_add_remove },
	{ "using an address again waits", reuse_waits },
	{ "using an address again after a reboot", reuse_after_reboot },
	{ "detaching with requests in flight", detach_in_flight },
	{ "detaching with requests that wait", detach_queued },
	{ "another size", resize },
	{ "notices", notices },
	{ "the accelerator of an IDE disk", ide },
	{ "a limit", limited },
	{ "a neighbour that hangs", slow_neighbour },
	{ "hold and release", hold },
	{ "hold while a flush with IMMED runs", hold_while_flushing },
	{ "hold, close, open, release", hold_then_close },
	{ "eight channels", eight_channels },
	{ "a sub-channel outlives its primary", subchannel_outlives },
	{ "description", describe },
};

/* An argument is a pattern of the rows to run. */
int main(int argc, char **argv)
{
	int failed;

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	failed = ROWS_RUN(reset_cases, reset_in_flight);
	return failed + ROWS_RUN(single_rows, rows_single);
}
