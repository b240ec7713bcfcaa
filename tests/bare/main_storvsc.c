/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Disks over VMBus, on two processors with a channel each: the client's core in its smallest home. The host
 * (bare_storvsc.c) knows which lines to expect, and does its part when it sees some of them.
 */
#include "storvsc/core.h"
#include "tests/bare/bare.h"
#include "tests/bare/vmbus.h"

#define CHANNELS 2u
#define RING_PAGES 16u			/* both rings: more than one GPADL message */
#define SLOTS 16u
#define PAGE 4096u
#define DATA_PAGES 16u
#define ROUNDS 6u
#define REGION_BLOCKS (4096u * 2)	/* 4 MiB for each processor */
#define MIB_BLOCKS 2048u
#define FLIGHT 8u

#define LUN_DISK 0u
#define LUN_HOT 1u
#define LUN_SLOW 2u

/* ba6163d9-04a1-4d29-b605-72e2ffb1dc7f */
static const uint8_t scsi_class[16] = { 0xd9, 0x63, 0x61, 0xba, 0xa1, 0x04, 0x29, 0x4d,
					0xb6, 0x05, 0x72, 0xe2, 0xff, 0xb1, 0xdc, 0x7f };

struct scsi {
	struct bus_channel bus;
	struct storvsc_core core;
	struct storvsc_slot slot[SLOTS];
	unsigned enumerates;
};

struct command {
	uint8_t lun, cdb[16], cdb_len;
	bool out;
	uint32_t len;			/* of the processor's data, from its start on */
	/* out */
	bool done;
	struct vstor_srb answer;
};

static uint8_t rings[CHANNELS][2 * RING_PAGES * PAGE] __attribute__((aligned(4096)));
static uint64_t data[CHANNELS][DATA_PAGES * PAGE / 8] __attribute__((aligned(4096)));
static struct scsi scsi[CHANNELS];
static volatile unsigned bad[CHANNELS];
static volatile bool second_is_done;

/* ---- commands ---------------------------------------------------------------------------------------- */

static void put(struct scsi *s, struct command *c)
{
	uint64_t pfn[DATA_PAGES], first = (uint64_t)data[s - scsi] >> 12;
	struct vstor_srb srb = {
		.length = le16_make(sizeof(srb)), .lun = c->lun, .cdb_length = c->cdb_len,
		.sense_length = VSTOR_SENSE_MAX, .transfer_length = le32_make(c->len),
		.data_in = c->len == 0 ? VSTOR_DATA_NONE : c->out ? VSTOR_DATA_OUT : VSTOR_DATA_IN,
	};

	for (unsigned i = 0; i < DATA_PAGES; i++)
		pfn[i] = first + i;
	__builtin_memcpy(srb.cdb, c->cdb, sizeof(c->cdb));
	c->done = false;
	if (storvsc_core_put(&s->core, &srb, pfn, 0, c->len, c) != 0)
		bad[s - scsi]++;
}

/* The next thing of interest from the provider, in sleep until it comes. */
static void next(struct scsi *s, struct storvsc_event *e)
{
	int r;

	while ((r = storvsc_core_next(&s->core, e)) == 0)
		bus_sleep(&s->bus);
	if (r < 0) {
		print("FAILED: the provider broke the ring\n");
		power_off();
	}
	if (e->kind == STORVSC_EVENT_COMPLETION) {
		struct command *c = e->request;

		c->done = true;
		c->answer = e->packet.u.srb;
	}
	if (e->kind == STORVSC_EVENT_ENUMERATE)
		s->enumerates++;
}

static void run(struct scsi *s, struct command *c)
{
	struct storvsc_event e;

	put(s, c);
	while (!c->done)
		next(s, &e);
}

static bool good(const struct command *c)
{
	return c->answer.srb_status == VSTOR_SRB_SUCCESS && c->answer.scsi_status == 0;
}

static bool attention(const struct command *c)
{
	return c->answer.scsi_status == 2 && (c->answer.cdb[2] & 0xf) == 6;
}

/* Until the unit has nothing to tell any more. */
static bool run_settled(struct scsi *s, struct command *c)
{
	for (unsigned i = 0; i < 16; i++) {
		run(s, c);
		if (!attention(c))
			break;
	}
	return good(c);
}

static struct command rw(uint8_t lun, bool write, bool fua, uint32_t block, uint32_t len)
{
	struct command c = { .lun = lun, .cdb = { write ? 0x2a : 0x28, fua ? 8 : 0 }, .cdb_len = 10, .out = write,
			     .len = len };
	be32_t lba = be32_make(block);
	be16_t count = be16_make((uint16_t)(len / 512));

	__builtin_memcpy(c.cdb + 2, &lba, 4);
	__builtin_memcpy(c.cdb + 7, &count, 2);
	return c;
}

/* ---- the control conversation ------------------------------------------------------------------------ */

static struct vstor_packet control(struct scsi *s, const struct vstor_packet *p)
{
	struct storvsc_event e;

	CHECK(storvsc_core_control(&s->core, p) == 0);
	do {
		next(s, &e);
	} while (e.kind != STORVSC_EVENT_CONTROL);
	return e.packet;
}

static void handshake(struct scsi *s)
{
	enum storvsc_step step;
	struct storvsc_event e;
	int r = storvsc_core_handshake(&s->core, &step, NULL, VSTOR_VERSION_WIN10);

	while (r == 0 && step != STORVSC_READY) {
		next(s, &e);
		if (e.kind == STORVSC_EVENT_CONTROL)
			r = storvsc_core_handshake(&s->core, &step, &e.packet, VSTOR_VERSION_WIN10);
	}
	CHECK(r == 0);
	print("protocol: %x, transfers of %u\n", s->core.version, le32_get(s->core.properties.max_transfer_bytes));
}

static void open_channel(unsigned cpu)
{
	struct scsi *s = &scsi[cpu];

	CHECK(bus_open(&s->bus, bus_wait_offer(scsi_class, cpu), rings[cpu], RING_PAGES, cpu));
	storvsc_core_init(&s->core, &s->bus.in, &s->bus.out, s->slot, SLOTS);
}

static void create_subchannel(void)
{
	struct vstor_packet p = {
		.operation = le32_make(VSTOR_CREATE_SUB_CHANNELS), .flags = le32_make(VSTOR_REQUEST_COMPLETION),
		.u.subchannels = le16_make(1),
	};

	CHECK(le32_get(control(&scsi[0], &p).status) == VSTOR_STATUS_SUCCESS);
	open_channel(1);
	print("channels: 2\n");
}

/* ---- what each processor does ------------------------------------------------------------------------ */

static void fill(unsigned cpu, uint32_t len, uint64_t seed)
{
	for (uint32_t i = 0; i < len / 8; i++)
		data[cpu][i] = seed ? seed * 0x9e3779b97f4a7c15u + i : 0;
}

static void verify(unsigned cpu, uint32_t len, uint64_t seed)
{
	for (uint32_t i = 0; i < len / 8; i++)
		if (data[cpu][i] != (seed ? seed * 0x9e3779b97f4a7c15u + i : 0)) {
			bad[cpu]++;
			return;
		}
}

static void must(unsigned cpu, bool ok)
{
	if (!ok)
		bad[cpu]++;
}

static void write_and_read(unsigned cpu, unsigned round)
{
	uint32_t len = round % 3 == 2 ? DATA_PAGES * PAGE : PAGE, block = cpu * REGION_BLOCKS + round * 200;
	struct command write = rw(LUN_DISK, true, round % 2, block, len), read = rw(LUN_DISK, false, false, block, len);
	uint64_t seed = cpu * 100 + round + 1;

	fill(cpu, len, seed);
	must(cpu, run_settled(&scsi[cpu], &write));
	fill(cpu, len, 0);
	must(cpu, run_settled(&scsi[cpu], &read));
	must(cpu, le32_get(read.answer.transfer_length) == len);
	verify(cpu, len, seed);
}

static void flush(unsigned cpu)
{
	struct command c = { .lun = LUN_DISK, .cdb = { 0x35 }, .cdb_len = 10 };

	must(cpu, run_settled(&scsi[cpu], &c));
}

/* The last MiB of its region: written, taken away, zeros. */
static void unmap(unsigned cpu)
{
	uint32_t block = (cpu + 1) * REGION_BLOCKS - MIB_BLOCKS;
	struct command write = rw(LUN_DISK, true, false, block, PAGE), read = rw(LUN_DISK, false, false, block, PAGE);
	struct command c = { .lun = LUN_DISK, .cdb = { 0x42, [8] = 24 }, .cdb_len = 10, .out = true, .len = 24 };
	uint8_t list[24] = { 0, 22, 0, 16 };
	be32_t lba = be32_make(block), count = be32_make(MIB_BLOCKS);

	fill(cpu, PAGE, 99);
	must(cpu, run_settled(&scsi[cpu], &write));
	__builtin_memcpy(list + 12, &lba, 4);
	__builtin_memcpy(list + 16, &count, 4);
	__builtin_memcpy(data[cpu], list, sizeof(list));
	must(cpu, run_settled(&scsi[cpu], &c));
	must(cpu, run_settled(&scsi[cpu], &read));
	verify(cpu, PAGE, 0);
}

static void work(unsigned cpu)
{
	for (unsigned i = 0; i < ROUNDS; i++)
		write_and_read(cpu, i);
	flush(cpu);
	unmap(cpu);
}

static void second(unsigned cpu)
{
	hv_synic_start();
	work(cpu);
	second_is_done = true;
}

static void both_work(void)
{
	smp_start(1, second);
	work(0);
	while (!second_is_done)
		relax();
	CHECK(bad[0] == 0);
	CHECK(bad[1] == 0);
	print("read, write, flush, unmap\n");
}

/* ---- units come and go, resets ----------------------------------------------------------------------- */

static void wait_enumerate(struct scsi *s, unsigned count)
{
	struct storvsc_event e;

	while (s->enumerates < count)
		next(s, &e);
}

static void hot_plug(struct scsi *s)
{
	struct command read = rw(LUN_HOT, false, false, 0, PAGE);

	CHECK(!run_settled(s, &read));
	CHECK(read.answer.srb_status == VSTOR_SRB_INVALID_LUN);
	print("plug\n");
	wait_enumerate(s, 1);
	CHECK(run_settled(s, &read));
	print("unplug\n");
	wait_enumerate(s, 2);
	CHECK(!run_settled(s, &read));
	CHECK(read.answer.srb_status == VSTOR_SRB_INVALID_LUN);
	print("unplugged\n");
}

/* Reads that hang are finished before the reset is answered. */
static void reset(struct scsi *s)
{
	static struct command flight[FLIGHT];
	struct command ready = { .lun = LUN_SLOW, .cdb_len = 6 };
	struct vstor_packet p = {
		.operation = le32_make(VSTOR_RESET_BUS), .flags = le32_make(VSTOR_REQUEST_COMPLETION),
	};

	CHECK(run_settled(s, &ready));
	for (unsigned i = 0; i < FLIGHT; i++) {
		flight[i] = rw(LUN_SLOW, false, false, i, 512);
		put(s, &flight[i]);
	}
	bus_kick(&s->bus);
	print("resetting\n");
	CHECK(le32_get(control(s, &p).status) == VSTOR_STATUS_SUCCESS);
	for (unsigned i = 0; i < FLIGHT; i++)
		CHECK(flight[i].done);
	CHECK(s->core.inflight == 0);
	CHECK(run_settled(s, &ready));
	print("reset\n");
}

int main(void);

int main(void)
{
	print("storvsc\n");
	apic_start();
	hv_start();
	hv_synic_start();
	CHECK(!bus_contact(VMBUS_VERSION(9, 0)));
	CHECK(bus_contact(VMBUS_VERSION(5, 3)));
	print("offers: %u\n", bus_request_offers());
	open_channel(0);
	handshake(&scsi[0]);
	create_subchannel();
	both_work();
	hot_plug(&scsi[0]);
	reset(&scsi[0]);
	bus_close(&scsi[1].bus);
	bus_close(&scsi[0].bus);
	bus_unload();
	print("done\n");
	return 0;
}
