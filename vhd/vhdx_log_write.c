/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VHDX log, the writer's side: vhd-formats.md 2.5.
 *
 *   entry:   [not written] ──append──► pending ──sync, apply──► applied ──next sync──► obsolete
 *                                      protects pages not        the file has the pages,
 *                                      yet in the file           maybe only in its cache
 *
 *   ring:    0          tail                     head     position            end
 *            | obsolete | applied or pending ... |  ......................... |
 *
 * - The tail of an entry is the oldest one not obsolete when it is written (maybe itself): replay starts there.
 * - Only a sync that began after the pages were applied makes an entry obsolete.
 * - An active sequence never wraps around the end: QEMU replays wrapped ones wrongly. Near the end everything is
 *   applied, and the ring begins again at 0 under a fresh LogGuid. Its first entry overwrites the first of the old
 *   ring, which no tail points to; one sync makes it and all applied pages durable, and only then the headers name
 *   the new GUID. Until they do the old sequence stays valid, and replaying it once more changes nothing.
 * - A new ring starts with an entry that says nothing: a LogGuid in the header must always find a valid sequence.
 */
#include "vhd/vhdx_write_int.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/crc32c.h"
#include "base/env.h"
#include "base/log.h"
#include "base/seed.h"
#include "vhd/vhdx_layout.h"

#define NONE UINT32_MAX

static unsigned data_sectors(const struct vhdx_log_item *item, unsigned count)
{
	unsigned n = 0;

	for (unsigned i = 0; i < count; i++)
		n += item[i].data != NULL;
	return n;
}

static uint32_t entry_length(const struct vhdx_log_item *item, unsigned count)
{
	return VHDX_LOG_SECTOR * (1 + data_sectors(item, count));	/* count <= 126: one descriptor sector */
}

bool vhdx_log_fits(const struct vhdx *x, const struct vhdx_log_item *item, unsigned count)
{
	/* One sector stays unused, so that a full ring is never taken for an empty one. */
	return entry_length(item, count) + VHDX_LOG_SECTOR <= x->header.log_length - x->log->position;
}

static void put_zero(uint8_t *desc, const struct vhdx_log_item *item, uint64_t sequence)
{
	struct vhdx_log_zero_disk d = {
		.zero_length = le64_make(item->len), .file_offset = le64_make(item->offset),
		.sequence_number = le64_make(sequence),
	};

	memcpy(d.signature, VHDX_LOG_ZERO_SIGNATURE, sizeof(d.signature));
	memcpy(desc, &d, sizeof(d));
}

/* The page's first eight and last four bytes travel in the descriptor: the sector's own marks take their place. */
static void put_data(uint8_t *desc, uint8_t *sector, const struct vhdx_log_item *item, uint64_t sequence)
{
	struct vhdx_log_desc_disk d = {
		.file_offset = le64_make(item->offset), .sequence_number = le64_make(sequence),
	};
	struct vhdx_log_data_disk *s = (struct vhdx_log_data_disk *)sector;

	memcpy(d.signature, VHDX_LOG_DESC_SIGNATURE, sizeof(d.signature));
	memcpy(d.leading_bytes, item->data, sizeof(d.leading_bytes));
	memcpy(d.trailing_bytes, item->data + VHDX_PAGE - sizeof(d.trailing_bytes), sizeof(d.trailing_bytes));
	memcpy(desc, &d, sizeof(d));

	memcpy(s->signature, VHDX_LOG_DATA_SIGNATURE, sizeof(s->signature));
	s->sequence_high = le32_make((uint32_t)(sequence >> 32));
	memcpy(s->data, item->data + sizeof(d.leading_bytes), sizeof(s->data));
	s->sequence_low = le32_make((uint32_t)sequence);
}

static uint32_t encode(struct vhdx *x, const struct sp_guid *guid, uint32_t tail, const struct vhdx_log_item *item,
		       unsigned count)
{
	struct vhdx_log *log = x->log;
	uint32_t length = entry_length(item, count);
	uint64_t flushed = sp_align_down(sp_min(log->stable_size, log->last_offset), VHDX_MIB);
	struct vhdx_log_entry_disk h = {
		.entry_length = le32_make(length), .tail = le32_make(tail), .sequence_number = le64_make(log->sequence),
		.descriptor_count = le32_make(count), .log_guid = *guid, .flushed_file_offset = le64_make(flushed),
		.last_file_offset = le64_make(log->last_offset),
	};
	uint8_t *desc = log->buffer + sizeof(h), *sector = log->buffer + VHDX_LOG_SECTOR;

	memset(log->buffer, 0, VHDX_LOG_SECTOR);
	memcpy(h.signature, VHDX_LOG_ENTRY_SIGNATURE, sizeof(h.signature));
	for (unsigned i = 0; i < count; i++, desc += VHDX_LOG_DESC_SIZE) {
		if (!item[i].data) {
			put_zero(desc, &item[i], log->sequence);
			continue;
		}
		put_data(desc, sector, &item[i], log->sequence);
		sector += VHDX_LOG_SECTOR;
	}
	memcpy(log->buffer, &h, sizeof(h));
	h.checksum = le32_make(sp_crc32c_skip(log->buffer, length, offsetof(struct vhdx_log_entry_disk, checksum)));
	memcpy(log->buffer, &h, sizeof(h));
	return length;
}

int vhdx_log_append(struct vhdx *x, const struct vhdx_log_item *item, unsigned count)
{
	struct vhdx_log *log = x->log;
	uint32_t length;
	int r;

	if (log->unstable == NONE || SP_SEED_BUG(VHDX_TAIL_TOO_NEW))
		log->unstable = log->position;
	if (log->pending == NONE)
		log->pending = log->position;
	log->sequence++;
	length = encode(x, &x->header.log_guid, log->unstable, item, count);
	r = store_write(x->img->store, log->buffer, length, x->header.log_offset + log->position);
	if (r < 0)
		return r;
	log->position += length;
	return 0;
}

int vhdx_log_sync(struct vhdx *x)
{
	struct vhdx_log *log = x->log;
	int r = store_sync(x->img->store);

	if (r < 0)
		return r;
	log->unstable = log->pending;
	log->stable_size = log->file_size;
	return 0;
}

/* A ring with nothing in it, and the headers naming it. */
static int start_ring(struct vhdx *x)
{
	struct vhdx_log *log = x->log;
	struct sp_guid guid;
	uint32_t length;
	int r;

	sp_env_guid(&guid);
	log->sequence = 1;
	length = encode(x, &guid, 0, NULL, 0);
	r = store_write(x->img->store, log->buffer, length, x->header.log_offset);
	/* Also covers what the old ring's entries protected until now: the header switch makes them invisible. */
	if (r == 0 && !SP_SEED_BUG(VHDX_RESTART_NO_SYNC))
		r = vhdx_log_sync(x);
	if (r < 0)
		return r;
	x->header.log_guid = guid;
	log->position = length;
	log->unstable = log->pending = NONE;
	return vhdx_header_update(x);
}

int vhdx_log_restart(struct vhdx *x)
{
	sp_debug("vhdx", x->img->name, "log begins again after entry %llu", (unsigned long long)x->log->sequence);
	return start_ring(x);
}

static struct vhdx_log *log_new(const struct vhdx *x)
{
	struct vhdx_log *log = sp_zalloc(sizeof(*log));

	if (!log)
		return NULL;
	log->buffer = sp_alloc_aligned(VHDX_PAGE, VHDX_LOG_SECTOR * (1 + VHDX_LOG_DESCRIPTORS_MAX));
	if (!log->buffer) {
		sp_free(log);
		return NULL;
	}
	log->unstable = log->pending = NONE;
	/* Stable, because the header update syncs before any entry is written. */
	log->file_size = log->stable_size = x->file_size;
	log->last_offset = vhdx_space_end(x);
	return log;
}

/* The headers change before any other byte does, vhd-formats.md 2.3: also before the log's. */
static int renew_guids(struct vhdx *x, const struct sp_guid *identity)
{
	int r;

	if (x->file_guid_changed && !identity)
		return 0;
	if (!x->file_guid_changed)
		sp_env_guid(&x->header.file_write_guid);
	if (identity)
		x->header.data_write_guid = *identity;
	r = vhdx_header_update(x);
	if (r < 0)
		return r;
	x->file_guid_changed = true;
	if (identity)
		x->img->identity = *identity;
	return 0;
}

static void log_free(struct vhdx_log *log)
{
	sp_free(log->zeroed);
	sp_free(log->buffer);
	sp_free(log);
}

/* No space for the ring, which no header names yet: once there is space, it can be tried again. Not so for a header:
 * the two of them must not differ when the image is closed. */
static bool may_be_repeated(struct vhdx *x, int r)
{
	if (r != -ENOSPC || !x->log || x->begun || !sp_guid_is_zero(&x->header.log_guid))
		return false;
	vhdx_log_close(x);
	return true;
}

int vhdx_log_start(struct vhdx *x, const struct sp_guid *identity)
{
	struct vhdx_log *log = NULL;
	int r;

	if (x->failed)
		return x->failed;
	if (!x->log) {
		log = log_new(x);
		if (!log)
			return -ENOMEM;
	}
	r = renew_guids(x, identity);
	if (r == 0 && log) {
		x->log = log;
		r = start_ring(x);
	} else if (log) {
		log_free(log);
	}
	if (r < 0 && !may_be_repeated(x, r))
		x->failed = r;
	return r;
}

void vhdx_log_close(struct vhdx *x)
{
	if (x->log)
		log_free(sp_take(x->log));
}
