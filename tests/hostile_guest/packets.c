/* SPDX-License-Identifier: BSD-2-Clause */
/* Packets, right and wrong, and what must hold of the answers. */
#include "tests/hostile_guest/fibers.h"

#include <errno.h>
#include <string.h>

#include "tests/hostile_guest/session_int.h"

#define CONTROL_ID (1ull << 60)
#define PATTERN_OUT 0x11

/* ---- chunks of guest memory -------------------------------------------------------------------------------- */

static uint8_t *page_of(int chunk, unsigned page)
{
	return memory_at(&guest_memory, CHUNK_FIRST + (unsigned)chunk * CHUNK_PAGES + page);
}

static void fill(int chunk, unsigned pages, int byte)
{
	for (unsigned i = 0; i < pages; i++)
		memset(page_of(chunk, i), byte, VMBUS_PAGE_SIZE);
}

/* Whether [from, to) of the chunk still holds nothing but @byte. */
static bool untouched(int chunk, uint32_t from, uint32_t to, int byte)
{
	static uint8_t pattern[VMBUS_PAGE_SIZE];

	memset(pattern, byte, sizeof(pattern));
	while (from < to) {
		uint32_t end = (from / VMBUS_PAGE_SIZE + 1) * VMBUS_PAGE_SIZE, n = (end < to ? end : to) - from;

		if (memcmp(page_of(chunk, from / VMBUS_PAGE_SIZE) + from % VMBUS_PAGE_SIZE, pattern, n) != 0)
			return false;
		from += n;
	}
	return true;
}

static uint32_t word_at(int chunk, uint32_t at)
{
	uint32_t v;

	memcpy(&v, page_of(chunk, at / VMBUS_PAGE_SIZE) + at % VMBUS_PAGE_SIZE, sizeof(v));
	return v;
}

/* Where nobody wrote the old pattern is left, four bytes of it in a row. */
static void check_written(int chunk, uint32_t from, uint32_t to)
{
	uint32_t bad;

	memset(&bad, NOT_WRITTEN, sizeof(bad));
	for (uint32_t at = (from + 3) & ~3u; at + 4 <= to; at += 4)
		session_check(word_at(chunk, at) != bad && word_at(chunk, at) != 0xbebebebe,
			      "bytes at %u of a reply of %u were never written", at - from, to - from);
}

static int take_chunk(struct session *s, unsigned channel)
{
	uint32_t first = input_below(s->in, CHUNKS);

	for (uint32_t i = 0; i < CHUNKS; i++) {
		struct chunk *c = &s->chunk[(first + i) % CHUNKS];

		if (c->state != CHUNK_FREE)
			continue;
		*c = (struct chunk){ CHUNK_BUSY, channel };
		return (int)((first + i) % CHUNKS);
	}
	return -1;
}

void packets_gone(struct session *s, unsigned channel)
{
	for (unsigned i = 0; s->waiting > 0 && i < REQUESTS; i++) {
		struct request *r = &s->request[i];

		if (!r->waits || r->channel != channel)
			continue;
		r->waits = false;
		s->waiting--;
		/* The host has said that it is done with the channel: from now on this is ours. */
		if (r->chunk >= 0 && s->calm) {
			fill(r->chunk, CHUNK_PAGES, NOT_OURS);
			s->chunk[r->chunk].state = CHUNK_PARKED;
		}
	}
	for (unsigned i = 0; !s->calm && i < CHUNKS; i++)
		if (s->chunk[i].channel == channel)
			s->chunk[i].state = CHUNK_FREE;
}

void packets_check_parked(struct session *s)
{
	for (unsigned i = 0; i < CHUNKS; i++)
		session_check(s->chunk[i].state != CHUNK_PARKED ||
			      untouched((int)i, 0, CHUNK_PAGES * VMBUS_PAGE_SIZE, NOT_OURS),
			      "memory of a closed channel was written to");
}

/* ---- sending ------------------------------------------------------------------------------------------------ */

void packets_flush(struct session *s, unsigned channel)
{
	uint32_t hostility = hostile_fetch.hostility;

	if (!s->channel[channel].open || s->channel[channel].lost)
		return;
	hostile_fetch.hostility = 0;
	vmbus_channel_flush(&s->channel[channel].end);
	hostile_fetch.hostility = hostility;
}

/* A guest that is not calm gets some of it wrong. */
static bool put(struct session *s, unsigned channel, struct vmbus_packet *p)
{
	struct channel *c = &s->channel[channel];
	uint32_t hostility = hostile_fetch.hostility;
	int r;

	if (!c->open || c->lost)
		return false;
	hostile_fetch.hostility = 0;
	r = vmbus_channel_send(&c->end, p);
	if (r == -EBADMSG)
		c->lost = true;
	hostile_fetch.hostility = hostility;
	session_check(r != -EBADMSG || !s->calm, "the host broke the ring it reads");
	session_count.packets += r == 0;
	return r == 0;
}

static void mutate(struct session *s, uint8_t *bytes, size_t len)
{
	uint64_t value = input_number(s->in);
	unsigned width = 1u << input_below(s->in, 4);
	size_t at = input_below(s->in, (uint32_t)len) / width * width;

	memcpy(bytes + at, &value, width < len - at ? width : len - at);
	session_count.mutations++;
}

/* ---- requests ----------------------------------------------------------------------------------------------- */

struct command {
	uint8_t cdb[16], cdb_len, data_in;
	uint32_t len;
};

static void put_be(uint8_t *p, unsigned bytes, uint64_t value)
{
	while (bytes-- > 0) {
		p[bytes] = (uint8_t)value;
		value >>= 8;
	}
}

static struct command read_write(struct session *s)
{
	uint32_t blocks = 1 + (input_chance(s->in, 4) ? input_below(s->in, 40) : input_below(s->in, 8));
	uint64_t lba = input_below(s->in, DISK_BYTES / 512 - 40);
	bool out = input_chance(s->in, 3);
	struct command c = { .cdb = { out ? 0x2a : 0x28 }, .cdb_len = 10, .data_in = out ? 0 : 1,
			     .len = blocks * 512 };

	if (input_chance(s->in, 3)) {
		c.cdb[0] = out ? 0x8a : 0x88;
		c.cdb_len = 16;
		put_be(c.cdb + 2, 8, lba);
		put_be(c.cdb + 10, 4, blocks);
	} else {
		put_be(c.cdb + 2, 4, lba);
		put_be(c.cdb + 7, 2, blocks);
	}
	if (out && input_chance(s->in, 4))
		c.cdb[1] = 8;		/* FUA */
	return c;
}

/* Commands other than reads and writes: an allocation or parameter list length at a known place. */
static struct command other(struct session *s)
{
	static const struct { uint8_t cdb[16], cdb_len, data_in, at, bytes; } table[] = {
		{ { 0x00 }, 6, 2, 0, 0 },			/* TEST UNIT READY */
		{ { 0x12 }, 6, 1, 3, 2 }, { { 0x12, 1, 0x00 }, 6, 1, 3, 2 }, { { 0x12, 1, 0x83 }, 6, 1, 3, 2 },
		{ { 0x12, 1, 0xb0 }, 6, 1, 3, 2 }, { { 0x12, 1, 0xb2 }, 6, 1, 3, 2 }, { { 0x12, 1, 0x80 }, 6, 1, 3, 2 },
		{ { 0x03 }, 6, 1, 4, 1 },			/* REQUEST SENSE */
		{ { 0xa0 }, 12, 1, 6, 4 },			/* REPORT LUNS */
		{ { 0x25 }, 10, 1, 0, 8 },			/* READ CAPACITY(10): always 8 */
		{ { 0x9e, 0x10 }, 16, 1, 10, 4 }, { { 0x9e, 0x12 }, 16, 1, 10, 4 },
		{ { 0x1a, 0, 0x3f }, 6, 1, 4, 1 }, { { 0x5a, 0, 0x08 }, 10, 1, 7, 2 },
		{ { 0x4d, 0, 0x40 }, 10, 1, 7, 2 },		/* LOG SENSE */
		{ { 0xa3, 0x0c }, 12, 1, 6, 4 },		/* REPORT SUPPORTED OPERATION CODES */
		{ { 0x5e, 0 }, 10, 1, 7, 2 }, { { 0x5e, 2 }, 10, 1, 7, 2 }, { { 0x5f, 0 }, 10, 0, 5, 4 },
		{ { 0x35 }, 10, 2, 0, 0 }, { { 0x35, 2 }, 10, 2, 0, 0 },	/* SYNCHRONIZE CACHE */
		{ { 0x42 }, 10, 0, 7, 2 },			/* UNMAP */
		{ { 0x93, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64 }, 16, 0, 0, 0 },	/* WRITE SAME(16), unmap */
		{ { 0x2f, 0, 0, 0, 0, 8, 0, 0, 16 }, 10, 2, 0, 0 },	/* VERIFY(10) */
		{ { 0x89, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1 }, 16, 0, 0, 0 },	/* COMPARE AND WRITE */
		{ { 0x15, 0x10 }, 6, 0, 4, 1 },			/* MODE SELECT */
		{ { 0x1b, 0, 0, 0, 1 }, 6, 2, 0, 0 }, { { 0x1e, 0, 0, 0, 1 }, 6, 2, 0, 0 },
		{ { 0x46 }, 10, 1, 7, 2 }, { { 0x4a, 1, 0, 0, 16 }, 10, 1, 7, 2 }, { { 0x43 }, 10, 1, 7, 2 },
		{ { 0x51 }, 10, 1, 7, 2 },
	};
	unsigned i = input_below(s->in, SP_ARRAY_SIZE(table));
	struct command c = { .cdb_len = table[i].cdb_len, .data_in = table[i].data_in };

	memcpy(c.cdb, table[i].cdb, sizeof(c.cdb));
	c.len = table[i].data_in == 2 ? 0 : input_chance(s->in, 3) ? input_below(s->in, 0x200) : 252;
	if (c.cdb[0] == 0x25)
		c.len = 8;
	else if (c.cdb[0] == 0x93)
		c.len = 512;
	else if (c.cdb[0] == 0x89)
		c.len = 1024;
	else if (table[i].bytes)
		put_be(c.cdb + table[i].at, table[i].bytes, table[i].bytes == 1 ? (c.len &= 0xff) : c.len);
	return c;
}

/* The list an UNMAP brings along; anything else is a pattern. */
static void fill_out(struct session *s, int chunk, unsigned pages, uint32_t offset, const struct command *c)
{
	uint8_t list[8 + 3 * 16] = { 0, sizeof(list) - 2, 0, sizeof(list) - 8 };

	fill(chunk, pages, PATTERN_OUT);
	if (c->cdb[0] != 0x42 || c->len < sizeof(list) || offset + sizeof(list) > 2 * VMBUS_PAGE_SIZE)
		return;
	for (unsigned i = 0; i < 3; i++) {
		put_be(list + 8 + 16 * i, 8, input_chance(s->in, 16) ? input_number(s->in) : input_below(s->in, 1500));
		put_be(list + 16 + 16 * i, 4, input_below(s->in, 400));
	}
	memcpy(page_of(chunk, 1) + offset % VMBUS_PAGE_SIZE, list,
	       sp_min(sizeof(list), VMBUS_PAGE_SIZE - offset % VMBUS_PAGE_SIZE));
}

static struct vstor_packet srb_packet(struct session *s, const struct command *c)
{
	struct vstor_packet v = {
		.operation = le32_make(VSTOR_EXECUTE_SRB), .flags = le32_make(VSTOR_REQUEST_COMPLETION),
		.u.srb = {
			.length = le16_make(sizeof(struct vstor_srb)),
			.lun = (uint8_t)(input_chance(s->in, 16) ? input_below(s->in, 256) : input_below(s->in, UNITS)),
			.cdb_length = c->cdb_len, .sense_length = VSTOR_SENSE_MAX, .data_in = c->data_in,
			.transfer_length = le32_make(c->len),
		},
	};

	memcpy(v.u.srb.cdb, c->cdb, sizeof(c->cdb));
	return v;
}

/* Transaction ids: each its own in a calm session, some more than once in another. */
static uint64_t new_id(struct session *s)
{
	return s->calm || input_chance(s->in, 2) ? ++s->requests : input_below(s->in, 4);
}

void packets_io(struct session *s, unsigned channel)
{
	struct command c = input_chance(s->in, 3) ? other(s) : read_write(s);
	struct vstor_packet v = srb_packet(s, &c);
	uint32_t offset = VMBUS_PAGE_SIZE + (input_chance(s->in, 3) ? input_below(s->in, 1024) * 4 : 0);
	/* With one on either side that nobody may touch. */
	unsigned touched = (offset % VMBUS_PAGE_SIZE + c.len + VMBUS_PAGE_SIZE - 1) / VMBUS_PAGE_SIZE;
	unsigned pages = touched + 2;
	struct request *r = &s->request[(s->requests + 1) % REQUESTS];
	struct { struct vmbus_gpa_direct_wire head; struct vmbus_gpa_range_wire range; le64_t pfn[CHUNK_PAGES]; } extra;
	struct vmbus_packet p = { .type = VMBUS_PACKET_INBAND, .flags = VMBUS_PACKET_COMPLETION_WANTED,
				  .payload = (const uint8_t *)&v, .payload_len = sizeof(v) };
	int chunk = -1;

	if (r->waits || pages > CHUNK_PAGES || !s->channel[channel].open)
		return;
	if (c.len > 0) {
		chunk = take_chunk(s, channel);
		if (chunk < 0)
			return;
		if (c.data_in == VSTOR_DATA_OUT)
			fill_out(s, chunk, pages, offset, &c);
		else
			fill(chunk, pages, NOT_WRITTEN);
		memset(&extra, 0, sizeof(extra));
		extra.head.range_count = le32_make(1);
		extra.range = (struct vmbus_gpa_range_wire){ le32_make(c.len), le32_make(offset % VMBUS_PAGE_SIZE) };
		for (unsigned i = 0; i < touched; i++)
			extra.pfn[i] = le64_make(memory_pfn(CHUNK_FIRST + (unsigned)chunk * CHUNK_PAGES + 1 + i));
		p.type = VMBUS_PACKET_GPA_DIRECT;
		p.extra = (const uint8_t *)&extra;
		p.extra_len = (uint32_t)(16 + 8 * touched);
	}
	p.transaction_id = new_id(s);
	while (!s->calm && input_chance(s->in, 2)) {
		if (chunk >= 0 && input_chance(s->in, 2))
			mutate(s, (uint8_t *)&extra, p.extra_len);
		else
			mutate(s, (uint8_t *)&v, sizeof(v));
	}
	if (!put(s, channel, &p)) {
		s->requests -= s->calm;
		if (chunk >= 0)
			s->chunk[chunk].state = CHUNK_FREE;
		return;
	}
	if (!s->calm)
		return;
	*r = (struct request){ true, channel, chunk, pages, offset, c.len, c.data_in };
	s->waiting++;
}

/* ---- answers ------------------------------------------------------------------------------------------------- */

static void check_reply(const struct request *r, const struct vstor_packet *v)
{
	uint32_t end = r->pages * VMBUS_PAGE_SIZE, moved = le32_get(v->u.srb.transfer_length);
	bool good = v->u.srb.srb_status == VSTOR_SRB_SUCCESS && v->u.srb.scsi_status == SCSI_GOOD;

	if (r->data_in == VSTOR_DATA_OUT) {
		session_check(untouched(r->chunk, 0, VMBUS_PAGE_SIZE, PATTERN_OUT) &&
			      untouched(r->chunk, end - VMBUS_PAGE_SIZE, end, PATTERN_OUT),
			      "a command that only reads memory wrote beside its buffer");
		return;
	}
	session_check(moved <= r->len, "%u bytes moved of %u", moved, r->len);
	session_check(untouched(r->chunk, 0, r->offset, NOT_WRITTEN) &&
		      untouched(r->chunk, r->offset + r->len, end, NOT_WRITTEN), "memory beside a buffer changed");
	if (!good)
		return;
	session_check(untouched(r->chunk, r->offset + moved, end, NOT_WRITTEN), "more was written than said");
	check_written(r->chunk, r->offset, r->offset + moved);
}

static void take_answer(struct session *s, unsigned channel, const struct vmbus_packet *p)
{
	struct vstor_packet v = { 0 };
	struct request *r;

	session_check(p->type == VMBUS_PACKET_COMPLETION || p->type == VMBUS_PACKET_INBAND, "a packet of type %u",
		      p->type);
	session_check(p->payload_len <= sizeof(v) && p->extra_len == 0, "a packet of %u bytes", p->payload_len);
	memcpy(&v, p->payload, p->payload_len);
	for (uint32_t i = 0; i + 4 <= p->payload_len; i += 4) {
		uint32_t word;

		memcpy(&word, p->payload + i, 4);
		session_check((word != 0xa5a5a5a5 || !s->calm) && word != 0xbebebebe,
			      "byte %u of a packet was never written", i);
	}
	if (p->type == VMBUS_PACKET_INBAND) {
		session_check(le32_get(v.operation) == VSTOR_ENUMERATE_BUS, "operation %u from the host",
			      le32_get(v.operation));
		return;
	}
	if (!s->calm || p->transaction_id >= CONTROL_ID)
		return;
	r = &s->request[p->transaction_id % REQUESTS];
	session_check(r->waits && r->channel == channel, "an answer to request %llu, which does not wait for one",
		      (unsigned long long)p->transaction_id);
	session_check(le32_get(v.operation) == VSTOR_COMPLETE_IO, "answer %u to an SRB", le32_get(v.operation));
	if (r->chunk >= 0) {
		check_reply(r, &v);
		s->chunk[r->chunk].state = CHUNK_FREE;
	}
	r->waits = false;
	s->waiting--;
}

/* What has been read is what nobody wrote, when the ring comes around. */
static void forget(struct vmbus_ring_in *in, uint32_t from)
{
	uint32_t to = in->read;

	if (to < from) {
		memset(in->ring.data + from, NOT_WRITTEN, in->ring.size - from);
		from = 0;
	}
	memset(in->ring.data + from, NOT_WRITTEN, to - from);
}

unsigned packets_take(struct session *s, unsigned channel)
{
	struct channel *c = &s->channel[channel];
	uint32_t hostility = hostile_fetch.hostility;
	_Alignas(8) uint8_t buf[4096];
	struct vmbus_packet p;
	unsigned n = 0;
	int r = 0;

	if (!c->open || c->lost)
		return 0;
	hostile_fetch.hostility = 0;
	do {
		uint32_t from = c->end.in.read;

		r = vmbus_channel_receive(&c->end, buf, sizeof(buf), &p);
		if (r <= 0)
			break;
		forget(&c->end.in, from);
		take_answer(s, channel, &p);
		n++;
	} while (n < 1000);
	session_check(r >= 0 || !s->calm, "the host broke the ring it writes");
	c->lost |= r < 0;
	if (!c->lost)
		vmbus_channel_sleep(&c->end);
	hostile_fetch.hostility = hostility;
	session_count.answers += n;
	return n;
}

/* ---- control packets, and such as are none --------------------------------------------------------------- */

static void control(struct session *s, unsigned channel, uint32_t operation, uint16_t value)
{
	struct vstor_packet v = { .operation = le32_make(operation), .flags = le32_make(1) };
	struct vmbus_packet p = { .type = VMBUS_PACKET_INBAND, .flags = VMBUS_PACKET_COMPLETION_WANTED,
				  .transaction_id = CONTROL_ID, .payload = (const uint8_t *)&v,
				  .payload_len = sizeof(v) };

	v.u.version.version = le16_make(value);
	while (!s->calm && input_chance(s->in, 8))
		mutate(s, (uint8_t *)&v, sizeof(v));
	put(s, channel, &p);
}

void packets_handshake(struct session *s)
{
	control(s, 0, VSTOR_BEGIN_INITIALIZATION, 0);
	control(s, 0, VSTOR_QUERY_PROTOCOL_VERSION, VSTOR_VERSION_WIN10);
	control(s, 0, VSTOR_QUERY_PROPERTIES, 0);
	control(s, 0, VSTOR_END_INITIALIZATION, 0);
	if (!input_chance(s->in, 4))
		control(s, 0, VSTOR_CREATE_SUB_CHANNELS, (uint16_t)(1 + input_below(s->in, CHANNELS - 1)));
	packets_flush(s, 0);
	fibers_settle();
	packets_take(s, 0);
	s->ready = true;
}

void packets_control(struct session *s, unsigned channel)
{
	static const uint32_t resets[] = { VSTOR_RESET_LUN, VSTOR_RESET_ADAPTER, VSTOR_RESET_BUS };

	if (input_chance(s->in, 2))
		control(s, channel, resets[input_below(s->in, 3)], 0);
	else
		control(s, channel, input_below(s->in, 20), (uint16_t)input_number(s->in));
}

/* Not even a packet, perhaps: written where the next one goes, and shown. */
void packets_raw(struct session *s, unsigned channel)
{
	struct channel *c = &s->channel[channel];
	struct vmbus_ring_out *out = &c->end.out;
	uint32_t shown = input_below(s->in, 200) & ~7u;

	if (!c->open || c->lost)
		return;
	for (unsigned i = 0; i < shown / 2; i += 2) {
		uint16_t value = (uint16_t)(i < 8 ? input_below(s->in, 16) : input_number(s->in));

		memcpy(out->ring.data + (out->write + i) % out->ring.size, &value, sizeof(value));
	}
	out->write = (out->write + shown) % out->ring.size;
	session_count.mutations++;
}

void packets_poke(struct session *s, unsigned channel)
{
	static const uint32_t places[] = { VMBUS_RING_WRITE_INDEX, VMBUS_RING_READ_INDEX, VMBUS_RING_INTERRUPT_MASK,
					   VMBUS_RING_PENDING_SEND, VMBUS_RING_FEATURES };
	struct channel *c = &s->channel[channel];
	struct vmbus_ring *ring = input_chance(s->in, 2) ? &c->end.in.ring : &c->end.out.ring;
	uint32_t value = (uint32_t)input_number(s->in);

	if (!c->open)
		return;
	if (input_chance(s->in, 2))
		value = input_below(s->in, ring->size / 8) * 8;
	if (input_chance(s->in, 4)) {
		uint64_t word = input_number(s->in);

		memcpy(ring->data + input_below(s->in, ring->size / 8) * 8, &word, sizeof(word));
	} else {
		memcpy(ring->control + places[input_below(s->in, 5)], &value, sizeof(value));
	}
	session_count.mutations++;
}
