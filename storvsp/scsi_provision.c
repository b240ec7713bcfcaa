/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Space: UNMAP, WRITE SAME, GET LBA STATUS. A command may name the whole disk; it goes over its ranges in steps, so
 * that neither the worker nor the engine is busy with it for long, and so that it can be cancelled.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"
#include "base/seed.h"
#include "storvsp/scsi_queue_int.h"

#define PAGE	      4096u
#define STEP_MIN      SP_MIB(256)	/* the largest block of an image: steps free whole ones */
#define STEP_MAX      SP_TIB(1)
#define STEP_QUICK_NS 2000000u		/* quicker than this: twice as much next time */
#define STEP_SLOW_NS  20000000u
#define PATTERN_LEN   65536u

#define CDB_UNMAP 0x08u
#define CDB_NDOB  0x01u

/* ---- a sweep over ranges --------------------------------------------------------------------------------- */

struct sweep {
	enum vhd_req_op op;
	bool durable;			/* FUA */
	uint64_t offset, left;		/* bytes of the present range */
	uint64_t step_max, step, began_ns;
	const struct scsi_range *ranges;	/* more to come */
	unsigned count;
	uint32_t transferred;
	struct iovec iov;		/* WRITE */
	struct scsi_range list[];
};

/* Steps end where multiples of the largest step do, so that no block is cut in two. */
static uint64_t next_step(const struct sweep *s)
{
	return sp_min(s->left, s->step_max - (s->offset & (s->step_max - 1)));
}

static void pace(struct sweep *s)
{
	uint64_t took = sp_env_monotonic_ns() - s->began_ns;

	if (s->op == VHD_REQ_WRITE)
		return;
	if (took < STEP_QUICK_NS && s->step_max < STEP_MAX)
		s->step_max *= 2;
	else if (took > STEP_SLOW_NS && s->step_max > STEP_MIN)
		s->step_max /= 2;
}

static bool next_range(struct scsi_task *t, struct sweep *s)
{
	unsigned shift = scsi_task_lu(t)->block_shift;

	while (s->left == 0 && s->count > 0) {
		s->offset = s->ranges->lba << shift;
		s->left = s->ranges->count << shift;
		s->ranges++;
		s->count--;
	}
	return s->left > 0;
}

static int sweep_step(struct scsi_task *t, int res);

static int sweep_on(struct scsi_task *t)
{
	struct sweep *s = t->state;

	if (!next_range(t, s)) {
		t->transferred = s->transferred;
		scsi_good(t);
		return 0;
	}
	s->step = next_step(s);
	s->iov.iov_len = s->op == VHD_REQ_WRITE ? (size_t)s->step : 0;
	s->began_ns = sp_env_monotonic_ns();
	t->step = sweep_step;
	t->req = (struct vhd_req){
		.op = s->op, .offset = s->offset, .len = s->step,
		/* The last one makes them all durable. */
		.flags = s->durable && s->step == s->left && s->count == 0 ? VHD_REQ_FUA : 0,
		.iov = &s->iov, .iovcnt = s->op == VHD_REQ_WRITE ? 1 : 0, .buf_index = -1,
	};
	scsi_submit(t);
	return 0;
}

static int sweep_step(struct scsi_task *t, int res)
{
	struct sweep *s = t->state;

	/* UNMAP is a wish. A host that cannot punch holes still reads back what was there, which stays mapped. */
	if (res < 0 && !(s->op == VHD_REQ_DISCARD && (res == -ENOTSUP || res == -EOPNOTSUPP)))
		return res;
	if (t->account == SCSI_ACCOUNT_UNMAP)
		scsi_stats_unmapped(t->queue, s->step);
	s->offset += s->step;
	s->left -= s->step;
	pace(s);
	return scsi_cancelled(t) ? -ECANCELED : sweep_on(t);
}

static void sweep_begin(struct scsi_task *t)
{
	int r = sweep_on(t);

	if (r < 0)
		scsi_fail_errno(t, r, true, 0);
}

/* ---- UNMAP ----------------------------------------------------------------------------------------------- */

struct unmap_header { be16_t data_len, descriptors_len; uint8_t reserved[4]; };
struct unmap_descriptor { be64_t lba; be32_t count; uint8_t reserved[4]; };
static_assert(sizeof(struct unmap_header) == 8 && sizeof(struct unmap_descriptor) == 16, "SBC-4 5.35");

/* All of them are checked before anything is done. @list may be where the descriptors are: both have 16 bytes each. */
static bool decode_ranges(struct scsi_task *t, const uint8_t *descriptors, unsigned count, struct scsi_range *list)
{
	uint64_t blocks = scsi_lu_blocks(scsi_task_lu(t));

	for (unsigned i = 0; i < count; i++) {
		struct unmap_descriptor d;

		memcpy(&d, descriptors + i * sizeof(d), sizeof(d));
		list[i] = (struct scsi_range){ be64_get(d.lba), be32_get(d.count) };
		if (!sp_range_ok(list[i].lba, list[i].count, blocks) && !SP_SEED_BUG(SCSI_UNMAP_UNCHECKED)) {
			scsi_fail(t, SCSI_SENSE_LBA_RANGE);
			return false;
		}
	}
	return true;
}

static bool unmap_list(struct scsi_task *t, uint32_t len)
{
	struct sweep *s = t->state;
	uint8_t *raw = (uint8_t *)s->list;
	struct unmap_header h;
	unsigned bytes;

	memcpy(&h, raw, sizeof(h));
	bytes = be16_get(h.descriptors_len);
	if (bytes > len - sizeof(h)) {
		scsi_fail(t, SCSI_SENSE_LIST_LENGTH);
		return false;
	}
	s->count = bytes / sizeof(struct unmap_descriptor);
	if (s->count > SCSI_UNMAP_DESCRIPTORS_MAX) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_PARAMETER, false, 2);
		return false;
	}
	memmove(raw, raw + sizeof(h), bytes);
	return decode_ranges(t, raw, s->count, s->list);
}

void scsi_sbc_unmap(struct scsi_task *t)
{
	uint32_t len = (uint32_t)t->cdb[7] << 8 | t->cdb[8];
	struct sweep *s;

	static_assert(sizeof(struct scsi_range) == sizeof(struct unmap_descriptor), "decoded in place");
	t->account = SCSI_ACCOUNT_UNMAP;
	if (scsi_lu_granularity(scsi_task_lu(t)) == 0) {
		scsi_fail(t, SCSI_SENSE_INVALID_OPCODE);
		return;
	}
	if (len == 0) {
		scsi_good(t);
		return;
	}
	if (len < sizeof(struct unmap_header)) {
		scsi_fail(t, SCSI_SENSE_LIST_LENGTH);
		return;
	}
	s = sp_zalloc(sizeof(*s) + len);
	if (!s) {
		scsi_fail_errno(t, -ENOMEM, true, 0);
		return;
	}
	s->op = VHD_REQ_DISCARD;
	s->step_max = STEP_MIN;
	s->ranges = s->list;
	s->transferred = len;
	t->state = s;
	if (scsi_parameters(t, s->list, len) && unmap_list(t, len))
		sweep_begin(t);
}

/* ---- WRITE SAME ------------------------------------------------------------------------------------------ */

static bool all_zero(const uint8_t *p, uint32_t len)
{
	return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

/* The block to be written, in front of room for many; NULL: the task has been failed. */
static struct sweep *same_block(struct scsi_task *t, uint32_t block)
{
	struct sweep *s;

	if (t->direction != SCSI_TO_DEVICE || t->data_len != block) {
		scsi_fail(t, SCSI_SENSE_INVALID_FIELD);
		return NULL;
	}
	s = sp_alloc_aligned(PAGE, PAGE + PATTERN_LEN);
	if (!s) {
		scsi_fail_errno(t, -ENOMEM, true, 0);
		return NULL;
	}
	memset(s, 0, sizeof(*s));
	s->iov.iov_base = (uint8_t *)s + PAGE;
	s->transferred = block;
	scsi_copy_in(t, s->iov.iov_base, 0, block);
	return s;
}

/* Zeros go by metadata where the format can; UNMAP or not, reading back gives zeros. Others are written. */
static void same_how(struct sweep *s, uint32_t block)
{
	uint8_t *pattern = s->iov.iov_base;

	if (!pattern || all_zero(pattern, block)) {
		s->op = VHD_REQ_WRITE_ZEROES;
		s->step_max = STEP_MIN;
		return;
	}
	s->op = VHD_REQ_WRITE;
	s->step_max = PATTERN_LEN;
	for (uint32_t at = block; at < PATTERN_LEN; at += block)
		memcpy(pattern + at, pattern, block);
}

void scsi_sbc_write_same(struct scsi_task *t)
{
	struct scsi_lu *lu = scsi_task_lu(t);
	uint32_t block = 1u << lu->block_shift;
	bool no_data = t->cdb[0] == 0x93 && (t->cdb[1] & CDB_NDOB);
	struct scsi_range range;
	struct sweep *s;

	t->account = t->cdb[1] & CDB_UNMAP ? SCSI_ACCOUNT_UNMAP : SCSI_ACCOUNT_WRITE;
	if ((t->cdb[1] & CDB_UNMAP) && scsi_lu_granularity(lu) == 0) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 1);
		return;
	}
	if (!scsi_range_ok(t, &range))
		return;
	if (range.count == 0)
		range.count = scsi_lu_blocks(lu) - range.lba;	/* to the end; nothing is told as a maximum */
	if (range.count == 0) {
		scsi_fail(t, SCSI_SENSE_LBA_RANGE);
		return;
	}
	s = no_data ? sp_zalloc(sizeof(*s)) : same_block(t, block);
	if (!s) {
		if (no_data)
			scsi_fail_errno(t, -ENOMEM, true, range.lba);
		return;
	}
	same_how(s, block);
	s->durable = lu->write_through;
	s->offset = range.lba << lu->block_shift;
	s->left = range.count << lu->block_shift;
	t->state = s;
	sweep_begin(t);
}

/* ---- GET LBA STATUS -------------------------------------------------------------------------------------- */

#define STATUS_DESCRIPTORS 128u
#define STATUS_QUESTIONS   512u		/* to the engine, per command */
#define STATUS_REACH	   SP_GIB(64)	/* bytes per question */

struct lba_status_header { be32_t len; uint8_t reserved[4]; };
struct lba_status { be64_t lba; be32_t count; uint8_t provisioning; uint8_t reserved[3]; };
static_assert(sizeof(struct lba_status) == 16, "SBC-4 5.7.2");

struct stretch { uint64_t blocks; bool mapped; };

/* From @lba on: whole blocks of one state. A block of which only part is mapped is mapped. */
static int ask(struct scsi_lu *lu, uint64_t lba, uint64_t blocks, struct stretch *ret)
{
	uint64_t len = 0, block = UINT64_C(1) << lu->block_shift;
	int r = lu->backend->ops->mapped(lu->backend, lba << lu->block_shift,
					 sp_min((blocks - lba) << lu->block_shift, STATUS_REACH), &len, &ret->mapped);

	if (r < 0)
		return r;
	if (!ret->mapped && len < block)
		ret->mapped = true;
	ret->blocks = ret->mapped ? sp_div_ceil(len, block) : len / block;
	return ret->blocks > 0 ? 0 : -EIO;
}

/* Descriptors from @lba on, at most @max; at least one, unless there is an error. */
static int describe(struct scsi_lu *lu, uint64_t lba, struct lba_status *list, unsigned max)
{
	uint64_t blocks = scsi_lu_blocks(lu), start = lba;
	unsigned n = 0;
	bool mapped = false;

	for (unsigned q = 0; q < STATUS_QUESTIONS && lba < blocks; q++) {
		struct stretch s;
		int r = ask(lu, lba, blocks, &s);

		if (r < 0)
			return n > 0 ? (int)n : r;	/* what is known is an answer, too */
		if (n == 0 || s.mapped != mapped || lba + s.blocks - start > UINT32_MAX) {
			if (n == max)
				break;
			start = lba;
			mapped = s.mapped;
			list[n++] = (struct lba_status){ .lba = be64_make(lba), .provisioning = !mapped };
		}
		lba += s.blocks;
		list[n - 1].count = be32_make((uint32_t)(lba - start));
	}
	return (int)n;
}

void scsi_sbc_get_lba_status(struct scsi_task *t)
{
	struct { struct lba_status_header header; struct lba_status list[STATUS_DESCRIPTORS]; } a = { 0 };
	struct scsi_lu *lu = scsi_task_lu(t);
	struct scsi_range range = scsi_cdb_range(t->cdb);	/* the count is the allocation length */
	unsigned room = range.count < sizeof(a) ? (unsigned)range.count : (unsigned)sizeof(a), max, size;
	int n;

	if (range.lba >= scsi_lu_blocks(lu)) {
		scsi_fail(t, SCSI_SENSE_LBA_RANGE);
		return;
	}
	max = room < sizeof(a.header) + sizeof(a.list[0]) ? 1 :
	      (room - (unsigned)sizeof(a.header)) / (unsigned)sizeof(a.list[0]);
	n = describe(lu, range.lba, a.list, max);
	if (n < 0) {
		scsi_fail_errno(t, n, false, range.lba);
		return;
	}
	size = (unsigned)(sizeof(a.header) + (unsigned)n * sizeof(a.list[0]));
	a.header.len = be32_make(size - 4);
	scsi_answer(t, &a, size, (uint32_t)range.count);
}
