/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A ring of packets in shared memory: one producer, one consumer, who may not trust each other.
 *
 *   control page   write index (producer) | read index (consumer) | mask (consumer) | pending size (producer)
 *   data           packets, each with an 8-byte trailer, wrapping at any multiple of 8
 *
 * Read == write means empty, so a ring never becomes completely full. What each end may rely on is its private copy of
 * its own index; the other's is a claim, which may only move forward and only as far as our own.
 *
 * Nobody sleeps while the other believes it awake, because each end first stores, then passes a full barrier, then
 * loads what the other stores:
 *
 *   producer: store write index;    barrier; load mask, read index        (signal an idle consumer)
 *   consumer: store read, mask = 0; barrier; load write index             (or stay awake)
 *   consumer: store read index;     barrier; load pending size, write     (signal a waiting producer)
 *   producer: store pending size;   barrier; load read index              (or carry on)
 */
#include "vmbus/ring.h"

#include <errno.h>

#include "base/seed.h"
#include "vmbus/mem.h"
#include "vmbus/vmbus_wire.h"

#define UNIT 8u
#define RING_SIZE_MAX (1u << 30)	/* sums of indices and sizes fit into 32 bits */
#define LENGTH8_MAX UINT16_MAX
#define DESCRIPTOR ((uint32_t)sizeof(struct vmbus_packet_wire))

/* Bytes from @from forward to @to. */
static uint32_t ahead(uint32_t size, uint32_t from, uint32_t to)
{
	return to >= from ? to - from : size - from + to;
}

static uint32_t forward(uint32_t size, uint32_t index, uint32_t bytes)
{
	return bytes < size - index ? index + bytes : index + bytes - size;
}

static bool index_ok(uint32_t size, uint32_t index)
{
	if (SP_SEED_BUG(RING_INDEX_NOT_CHECKED))
		return true;
	return index < size && index % UNIT == 0;
}

static bool ring_ok(const struct vmbus_ring *ring)
{
	return ring->size >= VMBUS_PAGE_SIZE && ring->size <= RING_SIZE_MAX && ring->size % VMBUS_PAGE_SIZE == 0;
}

/* ---- consumer ---------------------------------------------------------------------------------------- */

static bool in_look(struct vmbus_ring_in *in)
{
	/* Acquire: pairs with the producer's release of this index. Our copies of the packets it covers come after. */
	uint32_t write = vmbus_load32_acquire(in->ring.control + VMBUS_RING_WRITE_INDEX);
	uint32_t size = in->ring.size;

	/* Forward only, and never past what we have shown as read: then what we know as ready remains ready. */
	if (!index_ok(size, write) || ahead(size, in->published, write) < ahead(size, in->published, in->write))
		in->broken = true;
	else
		in->write = write;
	return !in->broken;
}

int vmbus_ring_in_init(struct vmbus_ring_in *in, const struct vmbus_ring *ring)
{
	struct vmbus_ring_in fresh = { .ring = *ring };

	if (!ring_ok(ring))
		return -EBADMSG;
	fresh.read = vmbus_load32(ring->control + VMBUS_RING_READ_INDEX);
	if (!index_ok(ring->size, fresh.read))
		return -EBADMSG;
	fresh.published = fresh.write = fresh.read;
	if (!in_look(&fresh))
		return -EBADMSG;
	*in = fresh;
	return 0;
}

/* Copies @len bytes from @index on, which may wrap. */
static void in_copy(const struct vmbus_ring *ring, uint32_t index, void *to, uint32_t len)
{
	uint32_t first = ring->size - index;

	first = first < len ? first : len;
	vmbus_copy_in(to, ring->data + index, first);
	vmbus_copy_in((uint8_t *)to + first, ring->data, len - first);
}

static int in_break(struct vmbus_ring_in *in, int code)
{
	in->broken = true;
	return code;
}

/* @buf holds the packet, copied as a whole. */
static void packet_parts(const struct vmbus_packet_wire *d, uint8_t *buf, struct vmbus_packet *ret_packet)
{
	uint32_t offset = le16_get(d->data_offset8) * UNIT, length = le16_get(d->length8) * UNIT;

	*ret_packet = (struct vmbus_packet){
		.type = le16_get(d->type),
		.flags = le16_get(d->flags),
		.transaction_id = le64_get(d->transaction_id),
		.extra = buf + DESCRIPTOR,
		.extra_len = offset - DESCRIPTOR,
		.payload = buf + offset,
		.payload_len = length - offset,
	};
}

static bool descriptor_ok(const struct vmbus_packet_wire *d, uint32_t used)
{
	uint32_t offset = le16_get(d->data_offset8) * UNIT, length = le16_get(d->length8) * UNIT;

	if (offset < DESCRIPTOR || offset > length)
		return false;
	return length + VMBUS_TRAILER_SIZE <= used || SP_SEED_BUG(RING_PACKET_PAST_WRITE);
}

int vmbus_ring_in_next(struct vmbus_ring_in *in, void *buf, size_t room, struct vmbus_packet *ret_packet)
{
	struct vmbus_packet_wire d;
	uint32_t used, length;

	if (in->broken || (in->read == in->write && !in_look(in)))
		return -EBADMSG;
	if (in->read == in->write)
		return 0;
	used = ahead(in->ring.size, in->read, in->write);
	if (used < DESCRIPTOR + VMBUS_TRAILER_SIZE)
		return in_break(in, -EBADMSG);
	in_copy(&in->ring, in->read, &d, DESCRIPTOR);
	if (!descriptor_ok(&d, used))
		return in_break(in, -EBADMSG);
	length = le16_get(d.length8) * UNIT;
	if (length > room)
		return in_break(in, -EMSGSIZE);
	/* The descriptor is not fetched again: only the checked copy counts. */
	__builtin_memcpy(buf, &d, DESCRIPTOR);
	in_copy(&in->ring, forward(in->ring.size, in->read, DESCRIPTOR), (uint8_t *)buf + DESCRIPTOR,
		length - DESCRIPTOR);
	if (SP_SEED_BUG(RING_FETCHES_TWICE))
		in_copy(&in->ring, in->read, &d, DESCRIPTOR);
	packet_parts(&d, buf, ret_packet);
	in->read = forward(in->ring.size, in->read, length + VMBUS_TRAILER_SIZE);
	return 1;
}

/* Moves the read index in the control page to ours. True: the producer waits for the room that this made. */
static bool in_show(struct vmbus_ring_in *in)
{
	uint32_t size = in->ring.size, before = in->published, pending;

	if (in->broken || in->read == before)
		return false;
	/* Release: our copies are done before the producer may write over them. */
	vmbus_store32_release(in->ring.control + VMBUS_RING_READ_INDEX, in->read);
	in->published = in->read;
	/* The read index before the load of the pending size; the producer stores the size, then looks at the index. */
	vmbus_full_barrier();
	pending = vmbus_load32(in->ring.control + VMBUS_RING_PENDING_SEND) & ~(UNIT - 1);
	if (pending == 0 || SP_SEED_BUG(RING_IGNORE_PENDING))
		return false;
	/* A fresh write index: by an older one the ring would seem to have had room all the time. */
	if (!in_look(in))
		return false;
	/* Only who was blocked is woken, and only when it helps. */
	return size - ahead(size, before, in->write) <= pending && size - ahead(size, in->read, in->write) >= pending;
}

bool vmbus_ring_in_publish(struct vmbus_ring_in *in)
{
	bool owed = in->owes_signal;

	in->owes_signal = false;
	return in_show(in) || owed;
}

void vmbus_ring_in_mask(struct vmbus_ring_in *in)
{
	vmbus_store32(in->ring.control + VMBUS_RING_INTERRUPT_MASK, 1);
}

bool vmbus_ring_in_unmask(struct vmbus_ring_in *in)
{
	/* The read index comes first: a producer that still sees an older one takes the ring for non-empty and us for
	 * awake, and then does not signal. */
	in->owes_signal |= in_show(in);
	vmbus_store32(in->ring.control + VMBUS_RING_INTERRUPT_MASK, 0);
	/* Both stores before the load of the write index; the producer stores that index, then looks at these two. */
	vmbus_full_barrier();
	if (SP_SEED_BUG(RING_NO_LAST_LOOK))
		return in->owes_signal;
	return in->broken || !in_look(in) || in->read != in->write || in->owes_signal;
}

uint32_t vmbus_ring_in_ready(struct vmbus_ring_in *in)
{
	return in->broken || !in_look(in) ? 0 : ahead(in->ring.size, in->read, in->write);
}

/* ---- producer ---------------------------------------------------------------------------------------- */

static bool out_look(struct vmbus_ring_out *out)
{
	/* Acquire: pairs with the consumer's release of this index. We write over what it covers only afterwards. */
	uint32_t read = vmbus_load32_acquire(out->ring.control + VMBUS_RING_READ_INDEX);
	uint32_t size = out->ring.size;

	/* Nobody has read what has not been written. */
	if (!index_ok(size, read) || ahead(size, out->read, read) > ahead(size, out->read, out->write))
		out->broken = true;
	else
		out->read = read;
	return !out->broken;
}

static uint32_t out_room(const struct vmbus_ring_out *out)
{
	return out->ring.size - ahead(out->ring.size, out->read, out->write);
}

int vmbus_ring_out_init(struct vmbus_ring_out *out, const struct vmbus_ring *ring)
{
	struct vmbus_ring_out fresh = { .ring = *ring };
	uint32_t features;

	if (!ring_ok(ring))
		return -EBADMSG;
	fresh.write = vmbus_load32(ring->control + VMBUS_RING_WRITE_INDEX);
	fresh.read = vmbus_load32(ring->control + VMBUS_RING_READ_INDEX);
	if (!index_ok(ring->size, fresh.write) || !index_ok(ring->size, fresh.read))
		return -EBADMSG;
	fresh.published = fresh.write;
	features = vmbus_load32(ring->control + VMBUS_RING_FEATURES);
	vmbus_store32(ring->control + VMBUS_RING_FEATURES, features | VMBUS_RING_FEATURE_PENDING_SEND);
	vmbus_store32(ring->control + VMBUS_RING_PENDING_SEND, 0);
	*out = fresh;
	return 0;
}

static uint64_t padded(uint64_t len)
{
	return (len + UNIT - 1) & ~(uint64_t)(UNIT - 1);
}

static uint64_t packet_length(uint32_t extra_len, uint32_t payload_len)
{
	return DESCRIPTOR + padded(extra_len) + padded(payload_len);
}

uint32_t vmbus_ring_packet_size(uint32_t extra_len, uint32_t payload_len)
{
	uint64_t bytes = packet_length(extra_len, payload_len) + VMBUS_TRAILER_SIZE;

	return bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX;
}

/* Writes @len bytes at @index, which may wrap, and zeros up to the next multiple of 8. Returns the index behind. */
static uint32_t out_copy(const struct vmbus_ring *ring, uint32_t index, const void *from, uint32_t len)
{
	uint32_t first = ring->size - index, pad = (uint32_t)padded(len) - len;

	first = first < len ? first : len;
	vmbus_copy_out(ring->data + index, from, first);
	if (len > first)
		vmbus_copy_out(ring->data, (const uint8_t *)from + first, len - first);
	if (pad)	/* begins inside a unit, so it does not wrap */
		vmbus_zero_out(ring->data + forward(ring->size, index, len), pad);
	return forward(ring->size, index, len + pad);
}

static void out_write(struct vmbus_ring_out *out, const struct vmbus_packet *p)
{
	uint32_t start = out->write, at;
	struct vmbus_packet_wire d = {
		.type = le16_make(p->type),
		.data_offset8 = le16_make((uint16_t)(packet_length(p->extra_len, 0) / UNIT)),
		.length8 = le16_make((uint16_t)(packet_length(p->extra_len, p->payload_len) / UNIT)),
		.flags = le16_make(p->flags),
		.transaction_id = le64_make(p->transaction_id),
	};
	le32_t trailer[2] = { le32_make(0), le32_make(start) };

	at = out_copy(&out->ring, start, &d, sizeof(d));
	at = out_copy(&out->ring, at, p->extra, p->extra_len);
	at = out_copy(&out->ring, at, p->payload, p->payload_len);
	out->write = out_copy(&out->ring, at, trailer, sizeof(trailer));
}

/* Strictly more: read == write would mean empty. */
static bool out_fits(const struct vmbus_ring_out *out, uint32_t bytes)
{
	return SP_SEED_BUG(RING_FILLED_UP) ? out_room(out) >= bytes : out_room(out) > bytes;
}

int vmbus_ring_out_put(struct vmbus_ring_out *out, const struct vmbus_packet *packet)
{
	uint32_t bytes = vmbus_ring_packet_size(packet->extra_len, packet->payload_len);

	if (out->broken)
		return -EBADMSG;
	if (bytes >= out->ring.size || packet_length(packet->extra_len, packet->payload_len) / UNIT > LENGTH8_MAX)
		return -EMSGSIZE;
	if (!out_fits(out, bytes) && !out_look(out))
		return -EBADMSG;
	if (!out_fits(out, bytes))
		return -EAGAIN;
	if (out->waiting)
		vmbus_store32(out->ring.control + VMBUS_RING_PENDING_SEND, 0);
	out->waiting = false;
	out_write(out, packet);
	return 0;
}

/* Moves the write index in the control page to ours. True: the consumer was idle. */
static bool out_show(struct vmbus_ring_out *out)
{
	uint32_t before = out->published;

	if (out->broken || out->write == before)
		return false;
	/* Release: the packets are written before the index that covers them. */
	vmbus_store32_release(out->ring.control + VMBUS_RING_WRITE_INDEX, out->write);
	out->published = out->write;
	/* The write index before the loads of mask and read index; the consumer stores those two, then looks again. */
	vmbus_full_barrier();
	if (vmbus_load32(out->ring.control + VMBUS_RING_INTERRUPT_MASK) != 0)
		return false;
	/* It had read all there was: it may sleep. Anywhere else it comes to see the new packets by itself. */
	return out_look(out) && out->read == before;
}

bool vmbus_ring_out_publish(struct vmbus_ring_out *out)
{
	bool owed = out->owes_signal;

	out->owes_signal = false;
	return out_show(out) || owed;
}

bool vmbus_ring_out_wait(struct vmbus_ring_out *out, uint32_t bytes)
{
	if (out->broken)
		return true;
	/* The consumer judges by the write index it sees whether we are blocked: it must see all of ours. */
	out->owes_signal |= out_show(out);
	vmbus_store32(out->ring.control + VMBUS_RING_PENDING_SEND, bytes);
	out->waiting = true;
	/* The pending size before the load of the read index; the consumer stores that, then looks at the size. */
	vmbus_full_barrier();
	if (!out_look(out))
		return true;
	if (!out_fits(out, bytes))
		return false;
	vmbus_store32(out->ring.control + VMBUS_RING_PENDING_SEND, 0);
	out->waiting = false;
	return true;
}

uint32_t vmbus_ring_out_free(struct vmbus_ring_out *out)
{
	return out->broken || !out_look(out) ? 0 : out_room(out);
}
