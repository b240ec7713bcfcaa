/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Commands that look at what the disk holds: VERIFY, WRITE AND VERIFY, PRE-FETCH, COMPARE AND WRITE. They read into a
 * buffer of their own, piece by piece, and compare with a private copy of the guest's data: the guest may change its
 * own while we look.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "storvsp/scsi_int.h"

#define PIECE	     65536u		/* bytes compared at a time: what a guest can make us allocate per task */
#define PREFETCH_MAX (1u << 20)
#define PAGE	     4096u

#define BYTCHK(cdb)  ((cdb)[1] >> 1 & 3u)
#define CDB_FUA	     0x08u

/* ---- reading piece by piece ------------------------------------------------------------------------------ */

enum against { AGAINST_NOTHING, AGAINST_BUFFER, AGAINST_BLOCK };

struct look {
	enum against against;
	uint64_t offset, len, done;	/* bytes */
	uint32_t transferred;		/* to be told at the end */
	struct iovec iov;		/* the piece in @disk */
	uint8_t *disk, *theirs;
};

static int look_read(struct scsi_task *t);

/* One block again and again, in room for a piece. */
static void fill(uint8_t *to, uint32_t block, uint32_t len)
{
	for (uint32_t at = block; at < len; at += block)
		memcpy(to + at, to, block);
}

static bool same(struct scsi_task *t, struct look *l)
{
	uint32_t n = (uint32_t)l->iov.iov_len;

	if (l->against == AGAINST_NOTHING)
		return true;
	if (l->against == AGAINST_BUFFER)
		scsi_copy_in(t, l->theirs, (uint32_t)l->done, n);
	return memcmp(l->disk, l->theirs, n) == 0;
}

static int look_step(struct scsi_task *t, int res)
{
	struct look *l = t->state;

	if (res < 0)
		return res;
	if (!same(t, l)) {
		scsi_fail(t, SCSI_SENSE_MISCOMPARE);
		return 0;
	}
	l->done += l->iov.iov_len;
	if (l->done < l->len)
		return scsi_cancelled(t) ? -ECANCELED : look_read(t);
	t->transferred = l->transferred;
	scsi_good(t);
	return 0;
}

static int look_read(struct scsi_task *t)
{
	struct look *l = t->state;

	l->iov = (struct iovec){ l->disk, (size_t)sp_min(PIECE, l->len - l->done) };
	t->step = look_step;
	t->req = (struct vhd_req){
		.op = VHD_REQ_READ, .offset = l->offset + l->done, .len = l->iov.iov_len,
		.iov = &l->iov, .iovcnt = 1, .buf_index = -1,
	};
	scsi_submit(t);
	return 0;
}

static int look_begin(struct scsi_task *t, enum against against, uint64_t offset, uint64_t len, uint32_t transferred)
{
	struct look *l = sp_alloc_aligned(PAGE, PAGE + (against == AGAINST_NOTHING ? 1 : 2) * PIECE);

	if (!l)
		return -ENOMEM;
	*l = (struct look){ .against = against, .offset = offset, .len = len, .transferred = transferred };
	l->disk = (uint8_t *)l + PAGE;
	l->theirs = l->disk + PIECE;
	t->state = l;
	if (against == AGAINST_BLOCK) {
		uint32_t block = 1u << scsi_task_lu(t)->block_shift;

		scsi_copy_in(t, l->theirs, 0, block);
		fill(l->theirs, block, PIECE);
	}
	return look_read(t);
}

/* ---- VERIFY, PRE-FETCH ----------------------------------------------------------------------------------- */

void scsi_sbc_verify(struct scsi_task *t)
{
	static const enum against how[] = { AGAINST_NOTHING, AGAINST_BUFFER, AGAINST_NOTHING, AGAINST_BLOCK };
	unsigned shift = scsi_task_lu(t)->block_shift, check = BYTCHK(t->cdb);
	uint64_t data[] = { 0, 0, 0, UINT64_C(1) << shift };
	struct scsi_range range;
	int r;

	if (check == 2) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 1);
		return;
	}
	if (!scsi_range_ok(t, &range))
		return;
	if (range.count == 0) {
		scsi_good(t);
		return;
	}
	data[1] = range.count << shift;
	if (check != 0 && !scsi_buffer_ok(t, SCSI_TO_DEVICE, data[check]))
		return;
	scsi_task_cut(t, (uint32_t)data[check]);
	r = look_begin(t, how[check], range.lba << shift, range.count << shift, (uint32_t)data[check]);
	if (r < 0)
		scsi_fail_errno(t, r, false, range.lba);
}

/* Brings the range into the host's cache: the part of it that a guest may make us read for nothing. */
void scsi_sbc_prefetch(struct scsi_task *t)
{
	struct scsi_lu *lu = scsi_task_lu(t);
	struct scsi_range range;
	int r;

	if (!scsi_range_ok(t, &range))
		return;
	if (range.count == 0)
		range.count = scsi_lu_blocks(lu) - range.lba;
	if (range.count == 0) {
		scsi_good(t);
		return;
	}
	r = look_begin(t, AGAINST_NOTHING, range.lba << lu->block_shift,
		       sp_min(range.count << lu->block_shift, PREFETCH_MAX), 0);
	if (r < 0)
		scsi_fail_errno(t, r, false, range.lba);
}

/* ---- WRITE AND VERIFY ------------------------------------------------------------------------------------ */

static int verify_written(struct scsi_task *t, int res)
{
	struct scsi_range range = scsi_cdb_range(t->cdb);
	unsigned shift = scsi_task_lu(t)->block_shift;

	if (res < 0)
		return res;
	return look_begin(t, BYTCHK(t->cdb) ? AGAINST_BUFFER : AGAINST_NOTHING, range.lba << shift,
			  range.count << shift, (uint32_t)(range.count << shift));
}

void scsi_sbc_write_verify(struct scsi_task *t)
{
	unsigned shift = scsi_task_lu(t)->block_shift;
	struct scsi_range range;

	t->account = SCSI_ACCOUNT_WRITE;
	if (BYTCHK(t->cdb) > 1) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 1);
		return;
	}
	if (!scsi_range_ok(t, &range))
		return;
	if (range.count == 0) {
		scsi_good(t);
		return;
	}
	if (!scsi_buffer_ok(t, SCSI_TO_DEVICE, range.count << shift))
		return;
	/* What is verified is on the medium: SBC-4 has it that the write does not end in a cache. */
	t->step = verify_written;
	scsi_transfer(t, VHD_REQ_WRITE, VHD_REQ_FUA, range.lba << shift, (uint32_t)(range.count << shift));
}

/* ---- COMPARE AND WRITE ----------------------------------------------------------------------------------- */

struct caw {
	uint64_t offset;
	uint32_t len;			/* bytes of each half */
	unsigned flags;
	struct iovec iov;
	uint8_t *disk, *compare, *write;
};

static void caw_submit(struct scsi_task *t, enum vhd_req_op op, uint8_t *buf, int (*step)(struct scsi_task *, int))
{
	struct caw *c = t->state;

	c->iov = (struct iovec){ buf, c->len };
	t->step = step;
	t->req = (struct vhd_req){
		.op = op, .flags = op == VHD_REQ_WRITE ? c->flags : 0, .offset = c->offset, .len = c->len,
		.iov = &c->iov, .iovcnt = 1, .buf_index = -1,
	};
	scsi_submit(t);
}

static int caw_written(struct scsi_task *t, int res)
{
	struct caw *c = t->state;

	if (res < 0)
		return res;
	t->transferred = 2 * c->len;
	scsi_good(t);
	return 0;
}

static int caw_compare(struct scsi_task *t, int res)
{
	struct caw *c = t->state;
	uint32_t at = 0;

	if (res < 0)
		return res;
	while (at < c->len && c->disk[at] == c->compare[at])
		at++;
	if (at < c->len)
		scsi_fail_at(t, SCSI_SENSE_MISCOMPARE, at);
	else
		caw_submit(t, VHD_REQ_WRITE, c->write, caw_written);
	return 0;
}

/* No write of anybody is under way. Only one such command runs at a time, so this memory is taken once per unit. */
static int caw_begin(struct scsi_task *t, int res)
{
	struct scsi_lu *lu = scsi_task_lu(t);
	struct scsi_range range = scsi_cdb_range(t->cdb);
	uint32_t len = (uint32_t)(range.count << lu->block_shift);
	struct caw *c = sp_alloc_aligned(PAGE, PAGE + 3 * (size_t)len);

	if (!c)
		return -ENOMEM;
	*c = (struct caw){ .offset = range.lba << lu->block_shift, .len = len };
	c->flags = (t->cdb[1] & CDB_FUA) || lu->write_through ? VHD_REQ_FUA : 0;
	c->disk = (uint8_t *)c + PAGE;
	c->compare = c->disk + len;
	c->write = c->compare + len;
	t->state = c;
	scsi_copy_in(t, c->compare, 0, 2 * len);
	caw_submit(t, VHD_REQ_READ, c->disk, caw_compare);
	return 0;
}

void scsi_sbc_compare_and_write(struct scsi_task *t)
{
	unsigned shift = scsi_task_lu(t)->block_shift;
	struct scsi_range range;

	t->account = SCSI_ACCOUNT_WRITE;
	if (!scsi_range_ok(t, &range))		/* bytes 10 to 12 are zero, so the count is byte 13 */
		return;
	if (range.count == 0 && (t->direction != SCSI_TO_DEVICE || t->data_len == 0)) {
		scsi_good(t);
		return;
	}
	if (range.count > SCSI_COMPARE_BLOCKS_MAX) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 13);
		return;
	}
	if (t->direction != SCSI_TO_DEVICE || t->data_len != 2 * range.count << shift) {
		scsi_fail(t, SCSI_SENSE_INVALID_FIELD);
		return;
	}
	t->step = caw_begin;
	scsi_exclusive_begin(t);
}
