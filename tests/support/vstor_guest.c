/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/support/vstor_guest.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"

#define MEM_PAGES 2048u
#define CONTROL_ID 0xfffffffffffffffdull
#define PACKET_ROOM 8192

static void must(bool holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "guest: %s\n", what);
		abort();
	}
}

/* ---- bus --------------------------------------------------------------------------------------------------- */

static void offer_subchannels(void *bus, unsigned count)
{
	struct guest *g = bus;

	__atomic_store_n(&g->offered, count, __ATOMIC_SEQ_CST);
}

static const struct vmbus_bus_ops bus_ops = { .offer_subchannels = offer_subchannels };

int guest_open(struct guest *g, unsigned channel)
{
	const struct vmbus_offer *offer = storvsp_offer(g->controller);
	struct vmbus_open open = { .subchannel = channel, .bus_ops = &bus_ops, .bus = g };
	int r;

	ring_pair_open(&g->pair[channel], &g->mem, g->up, g->down);
	r = offer->ops->open(offer->device, &g->pair[channel].host, &open);
	if (r < 0)
		ring_pair_close(&g->pair[channel]);
	g->open[channel] = r == 0;
	return r;
}

void guest_close(struct guest *g, unsigned channel)
{
	const struct vmbus_offer *offer = storvsp_offer(g->controller);

	offer->ops->close(offer->device, &g->pair[channel].host);
	ring_pair_close(&g->pair[channel]);
	g->open[channel] = false;
}

void guest_begin(struct guest *g, const struct storvsp_opts *opts, unsigned up, unsigned down)
{
	struct storvsp_opts o = opts ? *opts : (struct storvsp_opts){ 0 };
	struct sp_err err = { 0 };

	memset(g, 0, sizeof(*g));
	g->up = up;
	g->down = down;
	test_mem_open(&g->mem, MEM_PAGES);
	o.name = "scsi0";
	must(storvsp_new(&o, &g->controller, &err) == 0, sp_err_text(&err));
	must(guest_open(g, 0) == 0, "primary channel");
}

void guest_end(struct guest *g)
{
	for (unsigned i = GUEST_CHANNELS; i-- > 0; )
		if (g->open[i])
			guest_close(g, i);
	storvsp_free(g->controller);
	test_mem_close(&g->mem);
}

/* ---- packets ----------------------------------------------------------------------------------------------- */

bool guest_put_raw(struct guest *g, unsigned channel, const struct vmbus_packet *packet)
{
	int r = vmbus_channel_send(&g->pair[channel].guest, packet);

	must(r == 0 || r == -EAGAIN, "send");
	return r == 0;
}

static bool put_packet(struct guest *g, unsigned channel, uint64_t id, const struct vstor_packet *v)
{
	struct vmbus_packet p = {
		.type = VMBUS_PACKET_INBAND,
		.flags = VMBUS_PACKET_COMPLETION_WANTED,
		.transaction_id = id,
		.payload = (const uint8_t *)v,
		.payload_len = sizeof(*v),
	};

	return guest_put_raw(g, channel, &p);
}

bool guest_put(struct guest *g, unsigned channel, uint64_t id, uint32_t operation)
{
	struct vstor_packet v = { .operation = le32_make(operation), .flags = le32_make(VSTOR_REQUEST_COMPLETION) };

	return put_packet(g, channel, id, &v);
}

void guest_kick(struct guest *g, unsigned channel)
{
	vmbus_channel_flush(&g->pair[channel].guest);
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void take_answer(const struct vmbus_packet *p, struct answer *a)
{
	*a = (struct answer){ .type = p->type, .transaction_id = p->transaction_id, .len = p->payload_len };
	memcpy(&a->packet, p->payload, p->payload_len < sizeof(a->packet) ? p->payload_len : sizeof(a->packet));
}

bool guest_next(struct guest *g, unsigned channel, struct answer *ret_answer, int ms)
{
	struct vmbus_channel *ch = &g->pair[channel].guest;
	int64_t until = now_ms() + ms;
	uint64_t buf[32];
	struct vmbus_packet p;

	for (;;) {
		struct pollfd fd = { .fd = ch->event_fd, .events = POLLIN };
		int r = vmbus_channel_receive(ch, buf, sizeof(buf), &p);
		int64_t left = until - now_ms();

		must(r >= 0, "the provider broke the ring");
		if (r > 0) {
			take_answer(&p, ret_answer);
			return true;
		}
		if (!vmbus_channel_sleep(ch))
			continue;
		if (left <= 0)
			return false;
		poll(&fd, 1, (int)left);
		vmbus_channel_wake(ch);
	}
}

uint32_t guest_control(struct guest *g, unsigned channel, struct vstor_packet *packet)
{
	struct answer a;

	must(put_packet(g, channel, CONTROL_ID, packet), "room for a control packet");
	guest_kick(g, channel);
	must(guest_next(g, channel, &a, GUEST_WAIT_MS), "answer to a control packet");
	must(a.transaction_id == CONTROL_ID && a.type == VMBUS_PACKET_COMPLETION, "another packet came first");
	must(le32_get(a.packet.operation) == VSTOR_COMPLETE_IO, "a completion");
	*packet = a.packet;
	return le32_get(a.packet.status);
}

void guest_handshake(struct guest *g)
{
	static const uint32_t steps[] = { VSTOR_BEGIN_INITIALIZATION, VSTOR_QUERY_PROTOCOL_VERSION,
					  VSTOR_QUERY_PROPERTIES, VSTOR_END_INITIALIZATION };

	for (unsigned i = 0; i < SP_ARRAY_SIZE(steps); i++) {
		struct vstor_packet v = { .operation = le32_make(steps[i]), .flags = le32_make(1) };

		if (steps[i] == VSTOR_QUERY_PROTOCOL_VERSION)
			v.u.version.version = le16_make(VSTOR_VERSION_WIN10);
		must(guest_control(g, 0, &v) == VSTOR_STATUS_SUCCESS, "handshake");
	}
}

/* ---- SRBs -------------------------------------------------------------------------------------------------- */

static struct vstor_packet srb_of(const struct guest_io *io)
{
	struct vstor_packet v = {
		.operation = le32_make(VSTOR_EXECUTE_SRB),
		.flags = le32_make(VSTOR_REQUEST_COMPLETION),
		.u.srb = {
			.length = le16_make(sizeof(struct vstor_srb)),
			.path = io->path, .target = io->target, .lun = io->lun,
			.cdb_length = io->cdb_len,
			.sense_length = VSTOR_SENSE_MAX,
			.data_in = io->data_in,
			.transfer_length = le32_make(io->len),
		},
	};

	memcpy(v.u.srb.cdb, io->cdb, sizeof(io->cdb));
	return v;
}

bool guest_put_io(struct guest *g, unsigned channel, uint64_t id, const struct guest_io *io)
{
	struct vstor_packet v = srb_of(io);
	struct vmbus_gpa_direct_wire head = { .range_count = le32_make(1) };
	struct vmbus_gpa_range_wire range = { le32_make(io->len), le32_make(io->offset) };
	uint8_t extra[PACKET_ROOM];
	struct vmbus_packet p = {
		.type = VMBUS_PACKET_GPA_DIRECT,
		.flags = VMBUS_PACKET_COMPLETION_WANTED,
		.transaction_id = id,
		.extra = extra,
		.extra_len = (uint32_t)(sizeof(head) + sizeof(range)),
		.payload = (const uint8_t *)&v,
		.payload_len = sizeof(v),
	};

	if (io->pages == 0)
		return put_packet(g, channel, id, &v);
	memcpy(extra, &head, sizeof(head));
	memcpy(extra + sizeof(head), &range, sizeof(range));
	for (unsigned i = 0; i < io->pages; i++) {
		le64_t pfn = le64_make(test_mem_pfn(&g->mem, io->page + i));

		memcpy(extra + p.extra_len, &pfn, sizeof(pfn));
		p.extra_len += (uint32_t)sizeof(pfn);
	}
	return guest_put_raw(g, channel, &p);
}

void guest_io(struct guest *g, unsigned channel, const struct guest_io *io, struct answer *ret_answer)
{
	static uint64_t ids = 1;
	uint64_t id = __atomic_add_fetch(&ids, 1, __ATOMIC_RELAXED);

	must(guest_put_io(g, channel, id, io), "room for an SRB");
	guest_kick(g, channel);
	must(guest_next(g, channel, ret_answer, GUEST_WAIT_MS), "answer to an SRB");
	must(ret_answer->transaction_id == id, "another answer came first");
	must(le32_get(ret_answer->packet.operation) == VSTOR_COMPLETE_IO, "a completion");
}

struct guest_io guest_rw(uint8_t lun, bool write, uint32_t lba, unsigned page, uint32_t len)
{
	struct guest_io io = {
		.lun = lun,
		.cdb = { write ? 0x2a : 0x28 },
		.cdb_len = 10,
		.data_in = write ? VSTOR_DATA_OUT : VSTOR_DATA_IN,
		.page = page,
		.pages = (len + VMBUS_PAGE_SIZE - 1) / VMBUS_PAGE_SIZE,
		.len = len,
	};

	memcpy(io.cdb + 2, be32_make(lba).b, 4);
	memcpy(io.cdb + 7, be16_make((uint16_t)(len / 512)).b, 2);
	return io;
}

struct guest_io guest_tur(uint8_t lun)
{
	return (struct guest_io){ .lun = lun, .cdb_len = 6, .data_in = VSTOR_DATA_NONE };
}

void guest_settle(struct guest *g, unsigned channel, uint8_t lun)
{
	struct guest_io io = guest_tur(lun);
	struct answer a;

	for (int i = 0; i < 10; i++) {
		guest_io(g, channel, &io, &a);
		if (a.packet.u.srb.srb_status == VSTOR_SRB_SUCCESS)
			return;
	}
	must(false, "the unit becomes ready");
}

uint32_t answer_sense(const struct answer *a)
{
	const struct vstor_srb *srb = &a->packet.u.srb;

	if (srb->scsi_status != SCSI_CHECK_CONDITION || !(srb->srb_status & VSTOR_SRB_AUTOSENSE_VALID))
		return 0;
	if ((srb->cdb[0] & 0x7f) == 0x72)
		return (uint32_t)srb->cdb[1] << 16 | (uint32_t)srb->cdb[2] << 8 | srb->cdb[3];
	return (uint32_t)srb->cdb[2] << 16 | (uint32_t)srb->cdb[12] << 8 | srb->cdb[13];
}
