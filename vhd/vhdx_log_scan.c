/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which log entries are valid, and which of them form the active sequence. [MS-VHDX] 2.3.1 to 2.3.3; vhd-formats 2.5.
 *
 * The specification scans for runs from every sector of the ring, which a hostile log turns into quadratic work. The
 * same answer comes out of two linear passes:
 *
 *   1. Collect every valid entry. A sector has one signature, so an entry's sectors cannot be part of another entry:
 *      entries are disjoint, and looking at signatures before computing a CRC keeps the sum of all CRCs below one log.
 *   2. Link each entry to its successor: the one that starts where it ends (around the ring) with the next sequence
 *      number. Sequence numbers only rise, so the links form chains, each entry in exactly one. A run of the
 *      specification is a chain or the rest of one; all share its head. When the head's tail does not point into the
 *      whole chain, it does not point into a part of it either, so looking at whole chains is enough.
 */
#include "vhd/vhdx_int.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/seed.h"
#include "vhd/vhdx_layout.h"

struct ring {
	const uint8_t *log;
	uint32_t length;
	const struct sp_guid *guid;
};

/* Sector @n of the entry at @offset, around the end of the ring. */
static const uint8_t *ring_sector(const struct ring *g, uint32_t offset, uint32_t n)
{
	return g->log + ((uint64_t)offset + (uint64_t)n * VHDX_LOG_SECTOR) % g->length;
}

static bool has_signature(const uint8_t *sector, const char *signature)
{
	return memcmp(sector, signature, 4) == 0;
}

static uint32_t descriptor_sectors(uint32_t count)
{
	return (uint32_t)sp_div_ceil(sizeof(struct vhdx_log_entry_disk) + (uint64_t)count * VHDX_LOG_DESC_SIZE,
				     VHDX_LOG_SECTOR);
}

static bool header_fits(const struct ring *g, uint32_t offset, struct vhdx_log_entry *ret_entry)
{
	const uint8_t *sector = ring_sector(g, offset, 0);
	struct vhdx_log_entry_disk d;

	if (!has_signature(sector, VHDX_LOG_ENTRY_SIGNATURE))
		return false;
	memcpy(&d, sector, sizeof(d));
	*ret_entry = (struct vhdx_log_entry){
		.offset = offset,
		.length = le32_get(d.entry_length),
		.tail = le32_get(d.tail),
		.sequence = le64_get(d.sequence_number),
		.descriptors = le32_get(d.descriptor_count),
		.flushed_file_offset = le64_get(d.flushed_file_offset),
		.last_file_offset = le64_get(d.last_file_offset),
	};
	if (!sp_guid_equal(&d.log_guid, g->guid) || ret_entry->sequence == 0)
		return false;
	if (ret_entry->length == 0 || ret_entry->length % VHDX_LOG_SECTOR || ret_entry->length > g->length)
		return false;
	if (ret_entry->tail % VHDX_LOG_SECTOR || ret_entry->tail >= g->length)
		return false;
	return descriptor_sectors(ret_entry->descriptors) <= ret_entry->length / VHDX_LOG_SECTOR;
}

/* One descriptor is sound; counts those that own a data sector. */
static bool descriptor_fits(const uint8_t *bytes, uint64_t sequence, uint32_t *data_sectors)
{
	struct vhdx_log_zero_disk d;	/* the data kind has offset and sequence number at the same places */

	memcpy(&d, bytes, sizeof(d));
	if (has_signature(bytes, VHDX_LOG_DESC_SIGNATURE))
		(*data_sectors)++;
	else if (!has_signature(bytes, VHDX_LOG_ZERO_SIGNATURE) || le64_get(d.zero_length) % VHDX_LOG_SECTOR)
		return false;
	return le64_get(d.file_offset) % VHDX_LOG_SECTOR == 0 && le64_get(d.sequence_number) == sequence;
}

/* Stops at the first sector that is not what the header promised, before anything is computed over it. */
static bool sectors_fit(const struct ring *g, const struct vhdx_log_entry *e)
{
	uint32_t descriptor_end = descriptor_sectors(e->descriptors), sectors = e->length / VHDX_LOG_SECTOR;
	uint32_t data_sectors = 0;

	for (uint32_t i = 0; i < e->descriptors; i++) {
		uint32_t at = sizeof(struct vhdx_log_entry_disk) / VHDX_LOG_DESC_SIZE + i;
		const uint8_t *sector = ring_sector(g, e->offset, at / VHDX_LOG_DESC_NEXT);

		if (!descriptor_fits(sector + at % VHDX_LOG_DESC_NEXT * VHDX_LOG_DESC_SIZE, e->sequence, &data_sectors))
			return false;
	}
	if (sectors - descriptor_end != data_sectors)
		return false;
	for (uint32_t n = descriptor_end; n < sectors; n++) {
		struct vhdx_log_data_disk d;
		const uint8_t *sector = ring_sector(g, e->offset, n);

		memcpy(&d, sector, sizeof(d));
		if (!has_signature(sector, VHDX_LOG_DATA_SIGNATURE) || le32_get(d.sequence_high) != e->sequence >> 32 ||
		    le32_get(d.sequence_low) != (uint32_t)e->sequence)
			return false;
	}
	return true;
}

/* 0 with *ret_good, or -ENOMEM. The one entry that wraps is put together first. */
static int crc_fits(const struct ring *g, const struct vhdx_log_entry *e, bool *ret_good)
{
	const uint8_t *bytes = g->log + e->offset;
	SP_AUTO_FREE uint8_t *whole = NULL;
	struct vhdx_log_entry_disk d;

	if (e->length > g->length - e->offset) {
		uint32_t first = g->length - e->offset;

		whole = sp_alloc(e->length);
		if (!whole)
			return -ENOMEM;
		memcpy(whole, bytes, first);
		memcpy(whole + first, g->log, e->length - first);
		bytes = whole;
	}
	memcpy(&d, bytes, sizeof(d));
	*ret_good = SP_SEED_BUG(VHDX_LOG_ENTRY_NO_CRC) ||
		    sp_crc32c_skip(bytes, e->length, offsetof(struct vhdx_log_entry_disk, checksum)) ==
			    le32_get(d.checksum);
	return 0;
}

/* ---- pass 1: the valid entries, by offset -------------------------------------------------------- */

struct found {
	struct vhdx_log_entry *entry;
	unsigned count, room;
};

static int found_add(struct found *f, const struct vhdx_log_entry *e)
{
	if (f->count == f->room) {
		unsigned room = f->room ? 2 * f->room : 64;
		struct vhdx_log_entry *p = sp_realloc(f->entry, room * sizeof(*p));

		if (!p)
			return -ENOMEM;
		f->entry = p;
		f->room = room;
	}
	f->entry[f->count++] = *e;
	return 0;
}

static int find_entries(const struct ring *g, struct found *f)
{
	uint32_t pos = 0;

	while (pos < g->length) {
		struct vhdx_log_entry e;
		bool good = false;
		int r = 0;

		if (header_fits(g, pos, &e) && sectors_fit(g, &e))
			r = crc_fits(g, &e, &good);
		if (r == 0 && good)
			r = found_add(f, &e);
		if (r < 0)
			return r;
		pos = good ? (uint32_t)sp_min((uint64_t)pos + e.length, g->length) : pos + VHDX_LOG_SECTOR;
	}
	return 0;
}

/* ---- pass 2: chains ------------------------------------------------------------------------------ */

#define NONE UINT32_MAX

/* Entries are sorted by offset. */
static uint32_t entry_at(const struct found *f, uint32_t offset)
{
	uint32_t lo = 0, hi = f->count;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (f->entry[mid].offset < offset)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < f->count && f->entry[lo].offset == offset ? lo : NONE;
}

static uint32_t successor(const struct found *f, uint32_t length, uint32_t i)
{
	const struct vhdx_log_entry *e = &f->entry[i];
	uint32_t next = entry_at(f, (uint32_t)(((uint64_t)e->offset + e->length) % length));

	/* sequence > 0 has been checked, so the number cannot have wrapped */
	return next != NONE && f->entry[next].sequence == e->sequence + 1 ? next : NONE;
}

struct chain {
	uint32_t tail, head, count;	/* tail: where the active part begins; count: entries from there */
};

/* Follows the chain from @start; true when its head's tail points into it. */
static bool chain_follow(const struct found *f, const uint32_t *next, uint32_t start, struct chain *ret_chain)
{
	struct chain c = { .tail = NONE, .head = start };

	for (uint32_t i = start; i != NONE; i = next[i])
		c.head = i;
	for (uint32_t i = start; i != NONE; i = next[i]) {
		if (f->entry[i].offset == f->entry[c.head].tail || (SP_SEED_BUG(VHDX_REPLAY_WHOLE_RUN) && i == start))
			c.tail = c.tail == NONE ? i : c.tail;
		c.count += c.tail != NONE;
	}
	*ret_chain = c;
	return c.tail != NONE;
}

static bool better(const struct found *f, const struct chain *c, const struct chain *best)
{
	if (best->count == 0)
		return true;
	if (SP_SEED_BUG(VHDX_SCAN_FIRST_SEQUENCE))
		return f->entry[c->tail].sequence > f->entry[best->tail].sequence;
	return f->entry[c->head].sequence > f->entry[best->head].sequence;
}

static int find_active(const struct found *f, uint32_t length, struct vhdx_log_sequence *ret_seq)
{
	SP_AUTO_FREE uint32_t *next = sp_calloc(f->count, sizeof(*next));
	SP_AUTO_FREE uint8_t *follows = sp_calloc(f->count, 1);
	struct chain best = { .count = 0 };

	if (!next || !follows)
		return -ENOMEM;
	for (uint32_t i = 0; i < f->count; i++) {
		next[i] = successor(f, length, i);
		if (next[i] != NONE)
			follows[next[i]] = 1;
	}
	for (uint32_t i = 0; i < f->count; i++) {
		struct chain c;

		if (!follows[i] && chain_follow(f, next, i, &c) && better(f, &c, &best))
			best = c;
	}
	if (best.count == 0)
		return 0;
	ret_seq->entry = sp_calloc(best.count, sizeof(*ret_seq->entry));
	if (!ret_seq->entry)
		return -ENOMEM;
	for (uint32_t i = best.tail; i != NONE; i = next[i])
		ret_seq->entry[ret_seq->count++] = f->entry[i];
	return 0;
}

/**
 * vhdx_log_scan - the active sequence of a log
 * @log, @length: the whole ring
 * @ret_seq: entries from the tail to the head, release ->entry with sp_free(); count 0 when there is none
 *
 * Memory and time are linear in @length. Returns 0, -EBADMSG (no ring has that length) or -ENOMEM.
 */
int vhdx_log_scan(const uint8_t *log, uint32_t length, const struct sp_guid *log_guid,
		  struct vhdx_log_sequence *ret_seq, struct sp_err *err)
{
	struct ring g = { .log = log, .length = length, .guid = log_guid };
	struct vhdx_log_sequence seq = { 0 };
	struct found f = { 0 };
	int r;

	if (length == 0 || length % VHDX_LOG_SECTOR != 0)
		return sp_err_set(err, -EBADMSG, "log length %#" PRIx32 " is not a positive multiple of 4 KiB", length);
	r = find_entries(&g, &f);
	if (r == 0 && f.count > 0)
		r = find_active(&f, length, &seq);
	sp_free(f.entry);
	if (r < 0)
		return sp_err_set(err, r, "out of memory");
	*ret_seq = seq;
	return 0;
}
