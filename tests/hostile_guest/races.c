/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "races": a machine's bus and a controller with their threads, eight channels, and threads that scribble over rings,
 * packets and data while all of it runs: for SPINDLE_FLIP_SECONDS (20). Meanwhile disks hang and go on, channels are
 * closed, units and the whole controller leave and come back, in the middle of I/O with transaction ids that are not
 * unique.
 *
 * Messages are left alone: whatever becomes of the rings, the bus must answer each within ten seconds.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "storvsp/storvsp.h"
#include "storvsp/vstor_wire.h"
#include "tests/support/gate_backend.h"
#include "tests/support/ring_pair.h"
#include "tests/support/rng.h"
#include "vmm/vmbus_server.h"

#define CHANNELS 8u
#define RING_PAGES 8u		/* of each channel: four up, four down */
#define DATA_PAGES 16u
#define CHANNEL_PAGES (RING_PAGES + DATA_PAGES)
#define FLIPPERS 2u
#define VPS 4u
#define ANSWER_S 10
#define DISK_BYTES (1u << 20)
#define SECONDS_DEFAULT 20
#define HANG_US 500

struct channel {
	unsigned index, first;		/* pages */
	uint32_t relid;			/* 0: not offered. lock, as the three below */
	int signal_fd;
	uint32_t opened, torn;		/* handles and open ids that were answered last */
	uint32_t open_status;
	uint32_t handle;
	bool open;
	struct vmbus_gpadl *pages;
	struct vmbus_mapping mapping;
	struct vmbus_channel end;
};

static struct machine {
	struct test_mem mem;
	struct vmm_bus *bus;
	struct storvsp *controller;
	uint32_t device_id, next_handle;
	struct gate *gate;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct channel channel[CHANNELS];
	bool offers_delivered, unloaded;	/* lock */
	bool over;				/* atomic */
	uint64_t flips, packets, answers, opens;	/* flips: atomic */
	struct rng rng;
} machine;

static void die(const char *what, long number)
{
	fprintf(stderr, "races: %s: %ld\n", what, number);
	abort();
}

static void must(bool holds, const char *what, long number)
{
	if (!holds)
		die(what, number);
}

/* ---- the bus speaks ----------------------------------------------------------------------------------------- */

static struct channel *by_relid(uint32_t relid)
{
	for (unsigned i = 0; i < CHANNELS; i++)
		if (machine.channel[i].relid == relid)
			return &machine.channel[i];
	return NULL;
}

static uint32_t word(const void *p, unsigned at)
{
	le32_t v;

	memcpy(&v, (const uint8_t *)p + at, sizeof(v));
	return le32_get(v);
}

static struct channel *by_handle(uint32_t handle)
{
	for (unsigned i = 0; i < CHANNELS; i++)
		if (machine.channel[i].handle == handle)
			return &machine.channel[i];
	return NULL;
}

/* An offer that crosses a new beginning on its way leaves a number behind that soon is another channel's. */
static void offered_locked(unsigned index, uint32_t relid)
{
	struct channel *former = by_relid(relid);

	must(index < CHANNELS, "sub-channel", index);
	if (former)
		former->relid = 0;
	machine.channel[index].relid = relid;
}

static void posted_locked(const void *p)
{
	struct channel *c;

	switch (word(p, 0)) {
	case VMBUS_MSG_OFFERCHANNEL:
		offered_locked(word(p, 180) & 0xffff, word(p, 184));
		break;
	case VMBUS_MSG_ALLOFFERS_DELIVERED:
		machine.offers_delivered = true;
		break;
	case VMBUS_MSG_OPEN_RESULT:
		c = by_handle(word(p, 12));
		if (c) {
			c->opened = word(p, 12);
			c->open_status = word(p, 16);
		}
		break;
	case VMBUS_MSG_GPADL_TORNDOWN:
		c = by_handle(word(p, 8));
		if (c)
			c->torn = word(p, 8);
		break;
	case VMBUS_MSG_UNLOAD_RESPONSE:
		machine.unloaded = true;
		break;
	}
}

static void posted(void *ctx, unsigned vp, const void *payload, unsigned len)
{
	pthread_mutex_lock(&machine.lock);
	posted_locked(payload);
	pthread_cond_broadcast(&machine.changed);
	pthread_mutex_unlock(&machine.lock);
}

static void set_event(void *ctx, unsigned vp, unsigned flag)
{
	must(vp < VPS && flag < VMBUS_CHANNELS_MAX, "event", flag);
}

static int bind_signal(void *ctx, uint32_t connection_id, int event_fd)
{
	struct channel *c;

	pthread_mutex_lock(&machine.lock);
	c = by_relid(connection_id - 0x10000);
	if (c)
		c->signal_fd = event_fd;
	pthread_mutex_unlock(&machine.lock);
	return 0;
}

static void unbind_signal(void *ctx, uint32_t connection_id, int event_fd)
{
	pthread_mutex_lock(&machine.lock);
	for (unsigned i = 0; i < CHANNELS; i++)
		if (machine.channel[i].signal_fd == event_fd)
			machine.channel[i].signal_fd = -1;
	pthread_mutex_unlock(&machine.lock);
}

static const struct vmm_bus_ops bus_ops = {
	.post = posted, .set_event = set_event, .bind_signal = bind_signal, .unbind_signal = unbind_signal,
};

/* ---- the guest speaks ------------------------------------------------------------------------------------------ */

static void post(const void *message, unsigned len)
{
	while (vmm_bus_message(machine.bus, VMBUS_CONNECTION_NEW, message, len) == VMM_BUS_BUSY)
		usleep(100);
}

static void post_words(uint32_t type, uint32_t a, uint32_t b)
{
	le32_t m[4] = { le32_make(type), le32_make(0), le32_make(a), le32_make(b) };

	post(m, sizeof(m));
}

/* Until the word under the lock is what it shall be. */
static void await(const uint32_t *at, uint32_t value, const char *what)
{
	struct timespec until;
	int r = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += ANSWER_S;
	pthread_mutex_lock(&machine.lock);
	while (*at != value && r == 0)
		r = pthread_cond_timedwait(&machine.changed, &machine.lock, &until);
	pthread_mutex_unlock(&machine.lock);
	must(r == 0, what, value);
}

static void await_flag(const bool *at, const char *what)
{
	for (unsigned i = 0; i < ANSWER_S * 10000; i++) {
		bool is;

		pthread_mutex_lock(&machine.lock);
		is = *at;
		pthread_mutex_unlock(&machine.lock);
		if (is)
			return;
		usleep(100);
	}
	die(what, 0);
}

static void signal_host(void *ctx)
{
	struct channel *c = ctx;
	uint64_t one = 1;

	pthread_mutex_lock(&machine.lock);
	if (c->signal_fd >= 0)
		must(write(c->signal_fd, &one, sizeof(one)) == (ssize_t)sizeof(one), "eventfd", errno);
	pthread_mutex_unlock(&machine.lock);
}

static const struct vmbus_channel_ops channel_ops = { .signal = signal_host };

static void make_gpadl(struct channel *c, uint32_t relid)
{
	struct { struct vmbus_msg_gpadl_header head; le64_t pfn[RING_PAGES]; } m = {
		.head = {
			.header.type = le32_make(VMBUS_MSG_GPADL_HEADER), .relid = le32_make(relid),
			.gpadl = le32_make(c->handle), .range_length = le16_make(8 + 8 * RING_PAGES),
			.range_count = le16_make(1), .byte_count = le32_make(RING_PAGES * VMBUS_PAGE_SIZE),
		},
	};

	for (unsigned i = 0; i < RING_PAGES; i++)
		m.pfn[i] = le64_make(test_mem_pfn(&machine.mem, c->first + i));
	post(&m, sizeof(m));
}

static uint32_t relid_of(struct channel *c)
{
	uint32_t relid;

	pthread_mutex_lock(&machine.lock);
	relid = c->relid;
	pthread_mutex_unlock(&machine.lock);
	return relid;
}

/* Refused when its indices have been scribbled over: then it is torn down again. */
static void open_channel(struct channel *c)
{
	struct vmbus_msg_open m = { .header.type = le32_make(VMBUS_MSG_OPENCHANNEL),
				    .downstream_page = le32_make(RING_PAGES / 2) };
	uint32_t relid = relid_of(c);

	if (c->open || relid == 0)
		return;
	pthread_mutex_lock(&machine.lock);
	c->handle = ++machine.next_handle;
	pthread_mutex_unlock(&machine.lock);
	vmbus_zero_out(c->mapping.base, c->mapping.len);
	make_gpadl(c, relid);
	m.relid = le32_make(relid);
	m.open_id = m.gpadl = le32_make(c->handle);
	m.target_vp = le32_make(c->index % VPS);
	c->end = (struct vmbus_channel){ .mem = &machine.mem.mem, .ops = &channel_ops, .ctx = c, .event_fd = -1 };
	post(&m, sizeof(m));
	await(&c->opened, c->handle, "a channel is neither opened nor refused");
	c->open = c->open_status == 0 && vmbus_channel_init(&c->end, &c->mapping, RING_PAGES / 2, false) == 0;
	machine.opens += c->open;
	if (!c->open) {
		post_words(VMBUS_MSG_GPADL_TEARDOWN, relid, c->handle);
		await(&c->torn, c->handle, "a GPADL is not given back");
	}
}

static void close_channel(struct channel *c, bool properly)
{
	uint32_t relid = relid_of(c);

	if (!c->open)
		return;
	if (properly)
		post_words(VMBUS_MSG_CLOSECHANNEL, relid, 0);
	post_words(VMBUS_MSG_GPADL_TEARDOWN, relid, c->handle);
	await(&c->torn, c->handle, "a GPADL is not given back");
	c->open = false;
}

static void put(struct channel *c, uint16_t type, uint64_t id, const struct vstor_packet *v, const void *extra,
		uint32_t extra_len)
{
	struct vmbus_packet p = {
		.type = type, .flags = VMBUS_PACKET_COMPLETION_WANTED, .transaction_id = id, .extra = extra,
		.extra_len = extra_len, .payload = (const uint8_t *)v, .payload_len = sizeof(*v),
	};

	if (c->open && vmbus_channel_send(&c->end, &p) == 0)
		machine.packets++;
}

static void control(struct channel *c, uint32_t operation, uint16_t value)
{
	struct vstor_packet v = { .operation = le32_make(operation), .flags = le32_make(1) };

	v.u.version.version = le16_make(value);
	put(c, VMBUS_PACKET_INBAND, 0, &v, NULL, 0);
}

static void read_or_write(struct channel *c)
{
	struct rng *rng = &machine.rng;
	unsigned pages = 1 + (unsigned)rng_below(rng, 4), first = (unsigned)rng_below(rng, DATA_PAGES - 3);
	uint32_t len = pages * VMBUS_PAGE_SIZE, lba = (uint32_t)rng_below(rng, (DISK_BYTES - len) / 512);
	bool out = rng_chance(rng, 1, 2);
	struct vstor_packet v = {
		.operation = le32_make(VSTOR_EXECUTE_SRB), .flags = le32_make(VSTOR_REQUEST_COMPLETION),
		.u.srb = { .length = le16_make(52), .lun = (uint8_t)rng_below(rng, 2), .cdb_length = 10,
			   .sense_length = VSTOR_SENSE_MAX, .data_in = out ? 0 : 1, .transfer_length = le32_make(len),
			   .cdb = { out ? 0x2a : 0x28 } },
	};
	struct { struct vmbus_gpa_direct_wire head; struct vmbus_gpa_range_wire range; le64_t pfn[4]; } extra = {
		.head.range_count = le32_make(1), .range = { le32_make(len), le32_make(0) },
	};

	memcpy(v.u.srb.cdb + 2, be32_make(lba).b, 4);
	memcpy(v.u.srb.cdb + 7, be16_make((uint16_t)(len / 512)).b, 2);
	for (unsigned i = 0; i < pages; i++)
		extra.pfn[i] = le64_make(test_mem_pfn(&machine.mem, c->first + RING_PAGES + first + i));
	put(c, VMBUS_PACKET_GPA_DIRECT, rng_below(rng, 8), &v, &extra, 16 + 8 * pages);
}

static void take_answers(struct channel *c)
{
	_Alignas(8) uint8_t buf[4096];
	struct vmbus_packet p;

	for (unsigned i = 0; c->open && i < 256 && vmbus_channel_receive(&c->end, buf, sizeof(buf), &p) > 0; i++)
		machine.answers++;
}

static void come_up(void)
{
	struct vmbus_msg_initiate_contact m = {
		.header.type = le32_make(VMBUS_MSG_INITIATE_CONTACT), .version = le32_make(VMBUS_VERSION(5, 3)),
		.u.v5.sint = VMBUS_SINT,
	};

	pthread_mutex_lock(&machine.lock);
	machine.offers_delivered = false;
	for (unsigned i = 0; i < CHANNELS; i++)
		machine.channel[i].relid = 0;
	pthread_mutex_unlock(&machine.lock);
	for (unsigned i = 0; i < CHANNELS; i++)
		machine.channel[i].open = false;
	post(&m, sizeof(m));
	post_words(VMBUS_MSG_REQUESTOFFERS, 0, 0);
	await_flag(&machine.offers_delivered, "no offers");
}

/* A handshake may well fail under the flippers' hands: the next one comes. */
static void handshake(void)
{
	struct channel *c = &machine.channel[0];

	open_channel(c);
	control(c, VSTOR_BEGIN_INITIALIZATION, 0);
	control(c, VSTOR_QUERY_PROTOCOL_VERSION, VSTOR_VERSION_WIN10);
	control(c, VSTOR_QUERY_PROPERTIES, 0);
	control(c, VSTOR_END_INITIALIZATION, 0);
	control(c, VSTOR_CREATE_SUB_CHANNELS, CHANNELS - 1);
	if (c->open)
		vmbus_channel_flush(&c->end);
	usleep(2000);
	for (unsigned i = 1; i < CHANNELS; i++)
		open_channel(&machine.channel[i]);
}

/* ---- flip threads ------------------------------------------------------------------------------------------------ */

/* Data of others is plain memory to whoever copies it, and of no concern to anybody: not for the thread sanitizer. */
#if defined(__clang__) || defined(__GNUC__)
__attribute__((no_sanitize("thread")))
#endif
static void scribble_data(volatile uint8_t *page, uint64_t value)
{
	page[value % VMBUS_PAGE_SIZE] = (uint8_t)(value >> 16);
}

static void flip(struct channel *c, struct rng *rng)
{
	uint8_t *ring = c->mapping.base + (rng_chance(rng, 1, 2) ? RING_PAGES / 2 * VMBUS_PAGE_SIZE : 0);
	uint64_t value = rng_u64(rng);
	uint8_t *at;

	switch (rng_below(rng, 16)) {
	case 0:		/* indices, mask, pending size */
		at = ring + 4 * rng_below(rng, 4);
		__atomic_store_n((uint32_t *)(void *)at, rng_chance(rng, 1, 2) ? (uint32_t)value & 0x3ff8 :
				 (uint32_t)value, __ATOMIC_RELAXED);
		break;
	case 1:
	case 2:
	case 3:		/* a page frame of the channel's own data, or none, or anything in packets */
		at = ring + VMBUS_PAGE_SIZE + 8 * rng_below(rng, 3 * VMBUS_PAGE_SIZE / 8);
		if (rng_chance(rng, 2, 3))
			value = rng_chance(rng, 1, 2) ? value & 0xff :
				test_mem_pfn(&machine.mem, c->first + RING_PAGES + (unsigned)(value % DATA_PAGES));
		__atomic_store_n((uint64_t *)(void *)at, value, __ATOMIC_RELAXED);
		break;
	default:
		scribble_data(test_mem_at(&machine.mem, test_mem_pfn(&machine.mem, c->first + RING_PAGES +
								      (unsigned)(value % DATA_PAGES))), value >> 4);
	}
	__atomic_add_fetch(&machine.flips, 1, __ATOMIC_RELAXED);
}

static void *flipper(void *arg)
{
	struct rng rng;

	rng_init(&rng, (uint64_t)(uintptr_t)arg);
	while (!__atomic_load_n(&machine.over, __ATOMIC_RELAXED)) {
		for (unsigned i = 0; i < 64; i++)
			flip(&machine.channel[rng_below(&rng, CHANNELS)], &rng);
		usleep((useconds_t)rng_below(&rng, 200));
	}
	return NULL;
}

/* The disk hangs and goes on. */
static void *hanging(void *arg)
{
	while (!__atomic_load_n(&machine.over, __ATOMIC_RELAXED)) {
		gate_shut(machine.gate);
		usleep(HANG_US);
		gate_open(machine.gate);
		usleep(HANG_US);
	}
	return NULL;
}

/* ---- the machine --------------------------------------------------------------------------------------- */

static void attach_null(void)
{
	struct scsi_lu_opts opts = { .kind = SCSI_DISK, .identity.b = { 2 } };
	struct scsi_lu *lu;

	must(scsi_backend_null(DISK_BYTES, 512, &opts.backend) == 0 && scsi_lu_new(&opts, &lu, NULL) == 0, "unit", 1);
	if (storvsp_attach(machine.controller, (struct storvsp_address){ .lun = 1 }, lu, NULL, 10, NULL) < 0)
		scsi_lu_free(lu);
}

static void rescind(void)
{
	int r = vmm_bus_rescind(machine.bus, machine.device_id, 20);

	must(r == 0 || r == -ETIMEDOUT, "rescind", r);
	must(vmm_bus_offer(machine.bus, storvsp_offer(machine.controller), &machine.device_id) == 0, "offer", 0);
	come_up();
}

static void unload(void)
{
	pthread_mutex_lock(&machine.lock);
	machine.unloaded = false;
	pthread_mutex_unlock(&machine.lock);
	post_words(VMBUS_MSG_UNLOAD, 0, 0);
	await_flag(&machine.unloaded, "no answer to UNLOAD");
	come_up();
}

static void upheaval(void)
{
	static const uint32_t resets[] = { VSTOR_RESET_LUN, VSTOR_RESET_ADAPTER, VSTOR_RESET_BUS };
	struct channel *c = &machine.channel[rng_below(&machine.rng, CHANNELS)];

	switch (rng_below(&machine.rng, 16)) {
	case 0:
		rescind();
		break;
	case 1:
		unload();
		break;
	case 2:
		vmm_bus_reset(machine.bus);
		storvsp_power_on(machine.controller);
		come_up();
		break;
	case 3:
		storvsp_detach(machine.controller, (struct storvsp_address){ .lun = 1 }, NULL);
		break;
	case 4:
		attach_null();
		break;
	case 5:
		if (storvsp_hold(machine.controller, 20) == 0)
			storvsp_release(machine.controller);
		break;
	case 6:
	case 7:
		control(c, resets[rng_below(&machine.rng, 3)], 0);
		break;
	default:
		/* A primary takes its sub-channels along, and they come back under other numbers. */
		if (c->index == 0)
			unload();
		else
			close_channel(c, rng_chance(&machine.rng, 1, 2));
	}
}

static void traffic(void)
{
	for (unsigned i = 0; i < CHANNELS; i++) {
		struct channel *c = &machine.channel[i];

		for (unsigned n = (unsigned)rng_below(&machine.rng, 12); n > 0; n--)
			read_or_write(c);
		if (c->open)
			vmbus_channel_flush(&c->end);
		take_answers(c);
		if (c->open && (c->end.in.broken || c->end.out.broken))
			close_channel(c, true);
	}
}

static void begin(void)
{
	struct storvsp_opts opts = { .kind = STORVSP_SCSI, .name = "races", .instance.b = { 7 },
				     .max_subchannels = CHANNELS - 1, .queue_depth = 16, .max_transfer = 64u << 10 };
	struct scsi_lu_opts unit = { .kind = SCSI_DISK, .identity.b = { 1 } };
	struct scsi_lu *lu;

	pthread_mutex_init(&machine.lock, NULL);
	pthread_cond_init(&machine.changed, NULL);
	test_mem_open(&machine.mem, 2 * CHANNELS * CHANNEL_PAGES);
	for (unsigned i = 0; i < CHANNELS; i++) {
		struct channel *c = &machine.channel[i];
		uint64_t pfn[RING_PAGES];

		*c = (struct channel){ .index = i, .signal_fd = -1 };
		c->first = test_mem_take(&machine.mem, CHANNEL_PAGES);
		for (unsigned k = 0; k < RING_PAGES; k++)
			pfn[k] = test_mem_pfn(&machine.mem, c->first + k);
		must(vmbus_gpadl_new(&machine.mem.mem, pfn, RING_PAGES, &c->pages) == 0 &&
		     vmbus_gpadl_map(c->pages, 0, RING_PAGES, &c->mapping) == 0, "rings", i);
	}
	must(vmm_bus_new(&machine.mem.mem, &bus_ops, NULL, VPS, &machine.bus, NULL) == 0, "bus", 0);
	must(storvsp_new(&opts, &machine.controller, NULL) == 0, "controller", 0);
	must(vmm_bus_offer(machine.bus, storvsp_offer(machine.controller), &machine.device_id) == 0, "offer", 0);
	machine.gate = gate_new(DISK_BYTES);
	unit.backend = gate_backend(machine.gate);
	must(scsi_lu_new(&unit, &lu, NULL) == 0 &&
	     storvsp_attach(machine.controller, (struct storvsp_address){ 0 }, lu, NULL, 0, NULL) == 0, "unit", 0);
	attach_null();
}

static void end(void)
{
	vmm_bus_free(machine.bus);
	storvsp_free(machine.controller);
	for (unsigned i = 0; i < CHANNELS; i++) {
		vmbus_mapping_release(&machine.channel[i].mapping);
		vmbus_gpadl_free(machine.channel[i].pages);
	}
	test_mem_close(&machine.mem);
	printf("%llu flips, %llu packets, %llu answers, %llu channels opened\n", (unsigned long long)machine.flips,
	       (unsigned long long)machine.packets, (unsigned long long)machine.answers,
	       (unsigned long long)machine.opens);
	must(machine.answers > 0 && machine.opens > CHANNELS, "nothing happened", (long)machine.answers);
}

int main(void)
{
	const char *text = getenv("SPINDLE_FLIP_SECONDS");
	time_t until = time(NULL) + (text ? atoi(text) : SECONDS_DEFAULT);
	pthread_t thread[FLIPPERS + 1];
	uint64_t seed = test_seed("races");

	rng_init(&machine.rng, seed);
	begin();
	for (unsigned i = 0; i < FLIPPERS; i++)
		must(pthread_create(&thread[i], NULL, flipper, (void *)(uintptr_t)(seed + i)) == 0, "thread", i);
	must(pthread_create(&thread[FLIPPERS], NULL, hanging, NULL) == 0, "thread", 0);
	come_up();
	while (time(NULL) < until) {
		handshake();
		for (unsigned i = 1 + (unsigned)rng_below(&machine.rng, 20); i > 0; i--)
			traffic();
		upheaval();
	}
	__atomic_store_n(&machine.over, true, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < FLIPPERS + 1; i++)
		pthread_join(thread[i], NULL);
	end();
	return 0;
}
