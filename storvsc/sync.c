/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Commands that wait for their answer. What a unit tells about itself (unit attentions) and what passes (busy, becoming
 * ready) is tried again; sense becomes an errno.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/seed.h"
#include "storvsc/storvsc_int.h"

#define STATUS_GOOD	0x00u
#define STATUS_CHECK	0x02u
#define STATUS_BUSY	0x08u
#define STATUS_CONFLICT 0x18u
#define STATUS_SET_FULL 0x28u

#define OP_INQUIRY	   0x12u
#define OP_SYNCHRONIZE_CACHE 0x35u
#define OP_UNMAP	   0x42u
#define OP_READ_16	   0x88u
#define OP_WRITE_16	   0x8au
#define OP_SERVICE_IN_16   0x9eu
#define SA_READ_CAPACITY   0x10u
#define VPD_BLOCK_LIMITS   0xb0u
#define FUA		   0x08u

#define TRIES 64u
#define PAUSE_NS 1000000
#define BOUNCE_MAX (256u << 10)
#define AGAIN 1				/* verdict: try once more */

struct sync {
	bool ended;
};

static void sync_done(struct storvsc_request *r)
{
	((struct sync *)r->user)->ended = true;
}

/**
 * storvsc_command - submit one command and wait for it
 * @r: as for storvsc_submit(); its done and user are overwritten
 * Others in flight go on meanwhile, their done() is called. Returns r->result, or what submitting said.
 */
int storvsc_command(struct storvsc_channel *ch, struct storvsc_request *r)
{
	struct sync s = { false };
	int res;

	r->done = sync_done;
	r->user = &s;
	while ((res = storvsc_submit(ch, r)) == -EAGAIN) {
		res = storvsc_wait(ch, 1, -1);
		if (res < 0)
			return res;
	}
	if (res < 0)
		return res;
	while (!s.ended) {
		res = storvsc_wait(ch, 1, -1);
		if (res < 0 && !s.ended)
			return res;
	}
	return r->result;
}

/* ---- what sense means ---------------------------------------------------------------------------------- */

static uint32_t sense_of(const struct storvsc_request *r)
{
	if (r->sense_len >= 4 && (r->sense[0] & 0x7e) == 0x72)		/* descriptor format */
		return (uint32_t)(r->sense[1] & 0xf) << 16 | (uint32_t)r->sense[2] << 8 | r->sense[3];
	if (r->sense_len >= 14 && (r->sense[0] & 0x7e) == 0x70)
		return (uint32_t)(r->sense[2] & 0xf) << 16 | (uint32_t)r->sense[12] << 8 | r->sense[13];
	return 0;
}

static int sense_error(uint32_t sense)
{
	switch (sense) {
	case 0x20401:			/* becoming ready */
	case 0xb0000:			/* cancelled by somebody's reset */
		return AGAIN;
	case 0x23a00: case 0x23a01: case 0x23a02:
		return -ENOMEDIUM;
	case 0x52000: case 0x52400: case 0x52600:
		return -EOPNOTSUPP;
	case 0x52100:
		return -ERANGE;
	case 0x52500:
		return -ENXIO;
	case 0x72707:
		return -ENOSPC;
	}
	switch (sense >> 16) {
	case 0x1:			/* recovered: it is done */
		return 0;
	case 0x6:
		return AGAIN;
	case 0x7:
		return -EROFS;
	default:
		return -EIO;
	}
}

/* 0, -errno or AGAIN. */
static int verdict(struct storvsc_channel *ch, const struct storvsc_request *r)
{
	int res;

	switch (r->status) {
	case STATUS_GOOD:
		return 0;
	case STATUS_CHECK:
		res = sense_error(sense_of(r));
		if (sense_of(r) >> 16 == 0x6)
			ch->block[r->lun] = 0;		/* another medium, perhaps */
		return res;
	case STATUS_BUSY:
	case STATUS_SET_FULL:
		return AGAIN;
	case STATUS_CONFLICT:
		return -EBUSY;
	default:
		return -EIO;
	}
}

/* Until the unit has had its say. */
static int command(struct storvsc_channel *ch, struct storvsc_request *r)
{
	static const struct timespec pause = { 0, PAUSE_NS };

	for (unsigned i = 0; i < TRIES; i++) {
		int res = storvsc_command(ch, r);

		if (res == 0)
			res = verdict(ch, r);
		if (res != AGAIN)
			return res;
		if (sense_of(r) >> 16 != 0x6)
			nanosleep(&pause, NULL);
	}
	return -EBUSY;
}

/* ---- buffers ------------------------------------------------------------------------------------------- */

/* The channel's own piece of the arena, from the first use on: as large as there is room for. */
static int get_bounce(struct storvsc_channel *ch)
{
	size_t len = sp_min(BOUNCE_MAX, ch->client->max_transfer);

	for (; !ch->bounce && len >= STORVSC_PAGE; len /= 2) {
		ch->bounce_len = sp_align_down(len, STORVSC_PAGE);
		ch->bounce = storvsc_arena_get(&ch->client->arena, ch->bounce_len);
	}
	return ch->bounce ? 0 : -ENOMEM;
}

/* A command whose data, at most a page, comes to or goes from @buf. */
static int small_command(struct storvsc_channel *ch, struct storvsc_request *r, void *buf, uint32_t len)
{
	int res = get_bounce(ch);

	if (res < 0)
		return res;
	r->data = ch->bounce;
	r->data_len = len;
	if (r->to_device)
		memcpy(ch->bounce, buf, len);
	else
		memset(ch->bounce, 0, len);
	res = command(ch, r);
	if (res == 0 && !r->to_device)
		memcpy(buf, ch->bounce, len);
	return res;
}

static be32_t be32_at(const uint8_t *p)
{
	be32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static be64_t be64_at(const uint8_t *p)
{
	be64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* ---- capacity ------------------------------------------------------------------------------------------ */

int storvsc_capacity(struct storvsc_channel *ch, uint8_t lun, struct storvsc_capacity *ret)
{
	uint8_t data[32];
	struct storvsc_request r = { .lun = lun, .cdb = { OP_SERVICE_IN_16, SA_READ_CAPACITY }, .cdb_len = 16 };
	struct storvsc_capacity c;
	int res;

	r.cdb[13] = sizeof(data);
	res = small_command(ch, &r, data, sizeof(data));
	if (res < 0)
		return res;
	if (r.transferred < 16)
		return -EIO;
	c.blocks = be64_get(be64_at(data)) + 1;
	c.logical_block = be32_get(be32_at(data + 8));
	/* What follows multiplies and divides by it. */
	if (!sp_is_pow2(c.logical_block) || c.logical_block < 512 || c.logical_block > STORVSC_PAGE || c.blocks == 0)
		return -EIO;
	c.physical_block = c.logical_block << sp_min(data[13] & 0xf, 12);
	c.unmap = data[14] & 0x80;
	ch->block[lun] = c.logical_block;
	*ret = c;
	return 0;
}

/* The logical block, and that it divides both. */
static int check_range(struct storvsc_channel *ch, uint8_t lun, uint64_t offset, uint64_t len, uint32_t *ret_block)
{
	struct storvsc_capacity c;
	int r = ch->block[lun] ? 0 : storvsc_capacity(ch, lun, &c);

	if (r < 0)
		return r;
	*ret_block = ch->block[lun];
	return offset % *ret_block || len % *ret_block ? -EINVAL : 0;
}

/* ---- read, write --------------------------------------------------------------------------------------- */

struct rw {
	struct storvsc_channel *ch;
	uint8_t lun;
	bool write, fua;
	uint32_t block;
};

static int rw_piece(const struct rw *rw, void *data, uint32_t len, uint64_t offset)
{
	struct storvsc_request r = {
		.lun = rw->lun, .cdb = { rw->write ? OP_WRITE_16 : OP_READ_16, rw->fua ? FUA : 0 }, .cdb_len = 16,
		.to_device = rw->write, .data = data, .data_len = len,
	};
	be64_t lba = be64_make(offset / rw->block);
	be32_t count = be32_make(len / rw->block);
	int res;

	memcpy(r.cdb + 2, &lba, sizeof(lba));
	memcpy(r.cdb + 10, &count, sizeof(count));
	res = command(rw->ch, &r);
	return res == 0 && r.transferred != len ? -EIO : res;
}

static int rw_all(const struct rw *rw, uint8_t *buf, size_t len, uint64_t offset)
{
	struct storvsc_channel *ch = rw->ch;
	bool inside = storvsc_arena_holds(&ch->client->arena, buf, len);
	uint32_t most = ch->client->max_transfer;
	int r = inside ? 0 : get_bounce(ch);

	if (!inside)
		most = (uint32_t)ch->bounce_len;
	for (size_t at = 0; at < len && r == 0;) {
		uint32_t n = (uint32_t)sp_min(len - at, most);

		if (!inside && rw->write)
			memcpy(ch->bounce, buf + at, n);
		r = rw_piece(rw, inside ? buf + at : ch->bounce, n, offset + at);
		if (r == 0 && !inside && !rw->write)
			memcpy(buf + at, ch->bounce, n);
		at += n;
	}
	return r;
}

int storvsc_read(struct storvsc_channel *ch, uint8_t lun, void *buf, size_t len, uint64_t offset)
{
	struct rw rw = { .ch = ch, .lun = lun };
	int r = check_range(ch, lun, offset, len, &rw.block);

	return r < 0 ? r : rw_all(&rw, buf, len, offset);
}

int storvsc_write(struct storvsc_channel *ch, uint8_t lun, const void *buf, size_t len, uint64_t offset, bool fua)
{
	struct rw rw = { .ch = ch, .lun = lun, .write = true, .fua = fua && !SP_SEED_BUG(STORVSC_FUA_FORGOTTEN) };
	int r = check_range(ch, lun, offset, len, &rw.block);

	return r < 0 ? r : rw_all(&rw, (uint8_t *)(uintptr_t)buf, len, offset);	/* only read from */
}

int storvsc_flush(struct storvsc_channel *ch, uint8_t lun)
{
	struct storvsc_request r = { .lun = lun, .cdb = { OP_SYNCHRONIZE_CACHE }, .cdb_len = 10 };

	return command(ch, &r);
}

/* ---- unmap --------------------------------------------------------------------------------------------- */

/* Blocks per command; 0: none. */
static int unmap_limit(struct storvsc_channel *ch, uint8_t lun, uint32_t *ret_blocks)
{
	uint8_t page[64];
	struct storvsc_request r = { .lun = lun, .cdb = { OP_INQUIRY, 1, VPD_BLOCK_LIMITS, 0, sizeof(page) },
				     .cdb_len = 6 };
	int res = small_command(ch, &r, page, sizeof(page));

	if (res < 0)
		return res;
	*ret_blocks = be32_get(be32_at(page + 20));
	return 0;
}

static int unmap_piece(struct storvsc_channel *ch, uint8_t lun, uint64_t lba, uint32_t blocks)
{
	struct { be16_t len, descriptors_len; uint8_t reserved[4]; be64_t lba; be32_t blocks; uint8_t reserved2[4]; }
	list = { .len = be16_make(sizeof(list) - 2), .descriptors_len = be16_make(16), .lba = be64_make(lba),
		 .blocks = be32_make(blocks) };
	struct storvsc_request r = { .lun = lun, .cdb = { OP_UNMAP }, .cdb_len = 10, .to_device = true };

	r.cdb[8] = sizeof(list);
	return small_command(ch, &r, &list, sizeof(list));
}

/* -EOPNOTSUPP: the unit has no UNMAP. */
int storvsc_unmap(struct storvsc_channel *ch, uint8_t lun, uint64_t offset, uint64_t len)
{
	uint32_t block, most;
	int r = check_range(ch, lun, offset, len, &block);

	if (r == 0)
		r = unmap_limit(ch, lun, &most);
	if (r == 0 && most == 0)
		r = -EOPNOTSUPP;
	for (uint64_t lba = offset / block, left = len / block; r == 0 && left > 0;) {
		uint32_t n = (uint32_t)sp_min(left, most);

		r = unmap_piece(ch, lun, lba, n);
		lba += n;
		left -= n;
	}
	return r;
}
