/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Block commands: the table, capacities, READ, WRITE and SYNCHRONIZE CACHE. SBC-4; storvsp/scsi_compare.c and
 * storvsp/scsi_provision.c have the rest of the table's handlers.
 *
 * Durability. A completed WRITE promises visibility only. FUA is done by the engine: data and the metadata that finds
 * it are durable before completion. SYNCHRONIZE CACHE hands a flush to the engine as it is received, which covers every
 * write of every queue that was completed by then. With write_through each write is FUA.
 */
#include <assert.h>
#include <string.h>

#include "base/bytes.h"
#include "base/seed.h"
#include "storvsp/scsi_queue_int.h"

#define CDB_FUA	  0x08u
#define CDB_IMMED 0x02u

static uint32_t get_be32(const uint8_t *p)
{
	be32_t v;

	memcpy(v.b, p, sizeof(v.b));
	return be32_get(v);
}

static uint64_t get_be64(const uint8_t *p)
{
	be64_t v;

	memcpy(v.b, p, sizeof(v.b));
	return be64_get(v);
}

/* ---- what a CDB names ---------------------------------------------------------------------------------- */

struct scsi_range scsi_cdb_range(const uint8_t cdb[16])
{
	switch (cdb[0] >> 5) {		/* the group decides the layout, not what the guest says of the length */
	case 0:
		return (struct scsi_range){ get_be32(cdb) & 0x1fffff, cdb[4] ? cdb[4] : 256 };
	case 4:
		return (struct scsi_range){ get_be64(cdb + 2), get_be32(cdb + 10) };
	case 5:
		return (struct scsi_range){ get_be32(cdb + 2), get_be32(cdb + 6) };
	default:
		return (struct scsi_range){ get_be32(cdb + 2), (uint64_t)cdb[7] << 8 | cdb[8] };
	}
}

bool scsi_range_ok(struct scsi_task *t, struct scsi_range *ret_range)
{
	struct scsi_range range = scsi_cdb_range(t->cdb);

	if (!sp_range_ok(range.lba, range.count, scsi_lu_blocks(scsi_task_lu(t))) && !SP_SEED_BUG(SCSI_LBA_UNCHECKED)) {
		scsi_fail(t, SCSI_SENSE_LBA_RANGE);
		return false;
	}
	*ret_range = range;
	return true;
}

bool scsi_buffer_ok(struct scsi_task *t, enum scsi_direction direction, uint64_t len)
{
	if (t->direction == direction && t->data_len >= len)
		return true;
	scsi_fail(t, SCSI_SENSE_INVALID_FIELD);
	return false;
}

void scsi_transfer(struct scsi_task *t, enum vhd_req_op op, unsigned flags, uint64_t offset, uint32_t len)
{
	scsi_task_cut(t, len);
	t->req = (struct vhd_req){
		.op = op,
		.flags = flags,
		.offset = offset,
		.len = len,
		.iov = t->iov,
		.iovcnt = t->iovcnt,
		.buf_index = t->iovcnt == 1 ? t->buf_index : -1,
	};
	scsi_submit(t);
}

/* ---- READ, WRITE --------------------------------------------------------------------------------------- */

/* The range in bytes, with a buffer of that length; false: the task is over, well or not. */
static bool data_range(struct scsi_task *t, enum scsi_direction direction, uint64_t *ret_offset, uint32_t *ret_len)
{
	unsigned shift = scsi_task_lu(t)->block_shift;
	struct scsi_range range;

	if (!scsi_range_ok(t, &range))
		return false;
	if (range.count == 0) {
		scsi_good(t);
		return false;
	}
	if (!scsi_buffer_ok(t, direction, range.count << shift))
		return false;
	*ret_offset = range.lba << shift;
	*ret_len = (uint32_t)(range.count << shift);	/* not more than data_len */
	return true;
}

static bool has_fua(const uint8_t *cdb)
{
	return cdb[0] >> 5 != 0 && (cdb[1] & CDB_FUA);
}

/* The rest of a READ with FUA: what the range holds is on the medium now. */
static int read_flushed(struct scsi_task *t, int res)
{
	struct scsi_range range = scsi_cdb_range(t->cdb);
	unsigned shift = scsi_task_lu(t)->block_shift;

	if (res < 0) {
		scsi_fail_errno(t, res, true, range.lba);
		return 0;
	}
	t->step = NULL;
	scsi_transfer(t, VHD_REQ_READ, 0, range.lba << shift, (uint32_t)(range.count << shift));
	return 0;
}

static void sbc_read(struct scsi_task *t)
{
	uint64_t offset;
	uint32_t len;

	t->account = SCSI_ACCOUNT_READ;
	if (!data_range(t, SCSI_FROM_DEVICE, &offset, &len))
		return;
	if (!has_fua(t->cdb)) {
		scsi_transfer(t, VHD_REQ_READ, 0, offset, len);
		return;
	}
	/* SBC-4 4.15: what a cache holds that is newer goes to the medium before it is read. */
	t->step = read_flushed;
	t->req = (struct vhd_req){ .op = VHD_REQ_FLUSH, .buf_index = -1 };
	scsi_submit(t);
}

static void sbc_write(struct scsi_task *t)
{
	bool fua = has_fua(t->cdb) || scsi_task_lu(t)->write_through;
	uint64_t offset;
	uint32_t len;

	t->account = SCSI_ACCOUNT_WRITE;
	if (SP_SEED_BUG(SCSI_FUA_IGNORED))
		fua = false;
	if (data_range(t, SCSI_TO_DEVICE, &offset, &len))
		scsi_transfer(t, VHD_REQ_WRITE, fua ? VHD_REQ_FUA : 0, offset, len);
}

/* ---- SYNCHRONIZE CACHE --------------------------------------------------------------------------------- */

static void sbc_synchronize(struct scsi_task *t)
{
	struct scsi_range range;

	t->account = SCSI_ACCOUNT_FLUSH;
	if (!scsi_range_ok(t, &range))
		return;
	/* A drive has nothing to flush, and what is under way would keep its medium in. */
	if ((t->cdb[1] & CDB_IMMED) && scsi_task_lu(t)->kind == SCSI_DISK && scsi_queue_sync_behind(t->queue)) {
		scsi_good(t);
		return;
	}
	if (SP_SEED_BUG(SCSI_SYNC_IS_NOTHING)) {
		scsi_good(t);
		return;
	}
	/* Whatever the range: everything is flushed, which is what the engine can do and guests ask for. */
	t->req = (struct vhd_req){ .op = VHD_REQ_FLUSH, .buf_index = -1 };
	scsi_submit(t);
}

/* ---- capacities ---------------------------------------------------------------------------------------- */

static void sbc_read_capacity_10(struct scsi_task *t)
{
	uint64_t last = scsi_lu_blocks(scsi_task_lu(t)) - 1;
	struct { be32_t last, block; } a = {
		be32_make((uint32_t)sp_min(last, UINT32_MAX)),
		be32_make(1u << scsi_task_lu(t)->block_shift),
	};

	scsi_answer(t, &a, sizeof(a), sizeof(a));
}

static void sbc_read_capacity_16(struct scsi_task *t)
{
	struct {
		be64_t last;
		be32_t block;
		uint8_t protection, exponents, provisioning, aligned, reserved[16];
	} a = { 0 };
	struct scsi_lu *lu = scsi_task_lu(t);
	struct scsi_geometry g;

	static_assert(sizeof(a) == 32, "SBC-4 5.20.2");
	scsi_lu_geometry(lu, &g);
	a.last = be64_make((g.size >> lu->block_shift) - 1);
	a.block = be32_make(g.logical_block);
	a.exponents = (uint8_t)__builtin_ctz(g.physical_block / g.logical_block);
	if (g.unmap_granularity)
		a.provisioning = (uint8_t)(0x80 | (g.unmapped_reads_zero ? 0x40 : 0));	/* LBPME, LBPRZ */
	scsi_answer(t, &a, sizeof(a), get_be32(t->cdb + 10));
}

/* ---- the table ----------------------------------------------------------------------------------------- */

#define DISK	SCSI_CMD_DISK
#define BOTH	(SCSI_CMD_DISK | SCSI_CMD_DVD)
#define READS	(SCSI_CMD_READS | SCSI_CMD_MEDIUM)
#define WRITES	(SCSI_CMD_WRITES | SCSI_CMD_MEDIUM)
#define SYNCS	(SCSI_CMD_WRITES | SCSI_CMD_PROTECT_OK | SCSI_CMD_MEDIUM)
#define TELLS	(SCSI_CMD_RESERVED_OK | SCSI_CMD_MEDIUM)

/* Usage of CDB bits by length; @op, byte 1. The control byte has none that we know, and there are no groups. */
#define FF2 0xff, 0xff
#define FF4 FF2, FF2
#define FF8 FF4, FF4
#define CDB6(op)	{ op, 0x1f, FF2, 0xff, 0 }
#define CDB10(op, b1)	{ op, b1, FF4, 0, FF2, 0 }
#define CDB12(op, b1)	{ op, b1, FF4, FF4, 0, 0 }
#define CDB16(op, b1)	{ op, b1, FF8, FF4, 0, 0 }

/* Byte 1: DPO 10h, FUA 08h, the former FUA_NV 02h, BYTCHK 06h, IMMED 02h, UNMAP 08h, NDOB 01h. Protection (bits 7..5),
 * ANCHOR and group numbers are not known: set, they are an invalid field. */
static const struct scsi_command commands[] = {
	{ 0x08, -1,  6, BOTH | READS,  "READ(6)",		CDB6(0x08),		sbc_read },
	{ 0x28, -1, 10, BOTH | READS,  "READ(10)",		CDB10(0x28, 0x1a),	sbc_read },
	{ 0xa8, -1, 12, BOTH | READS,  "READ(12)",		CDB12(0xa8, 0x1a),	sbc_read },
	{ 0x88, -1, 16, DISK | READS,  "READ(16)",		CDB16(0x88, 0x1a),	sbc_read },
	{ 0x0a, -1,  6, DISK | WRITES, "WRITE(6)",		CDB6(0x0a),		sbc_write },
	{ 0x2a, -1, 10, DISK | WRITES, "WRITE(10)",		CDB10(0x2a, 0x1a),	sbc_write },
	{ 0xaa, -1, 12, DISK | WRITES, "WRITE(12)",		CDB12(0xaa, 0x1a),	sbc_write },
	{ 0x8a, -1, 16, DISK | WRITES, "WRITE(16)",		CDB16(0x8a, 0x1a),	sbc_write },
	{ 0x2e, -1, 10, DISK | WRITES, "WRITE AND VERIFY(10)",	CDB10(0x2e, 0x16),	scsi_sbc_write_verify },
	{ 0xae, -1, 12, DISK | WRITES, "WRITE AND VERIFY(12)",	CDB12(0xae, 0x16),	scsi_sbc_write_verify },
	{ 0x8e, -1, 16, DISK | WRITES, "WRITE AND VERIFY(16)",	CDB16(0x8e, 0x16),	scsi_sbc_write_verify },
	{ 0x2f, -1, 10, BOTH | READS,  "VERIFY(10)",		CDB10(0x2f, 0x16),	scsi_sbc_verify },
	{ 0xaf, -1, 12, DISK | READS,  "VERIFY(12)",		CDB12(0xaf, 0x16),	scsi_sbc_verify },
	{ 0x8f, -1, 16, DISK | READS,  "VERIFY(16)",		CDB16(0x8f, 0x16),	scsi_sbc_verify },
	/* A hint, and so is the group it names. */
	{ 0x34, -1, 10, DISK | READS,  "PRE-FETCH(10)",		{ 0x34, 0x02, FF4, 0x1f, FF2, 0 }, scsi_sbc_prefetch },
	{ 0x90, -1, 16, DISK | READS,  "PRE-FETCH(16)",		{ 0x90, 0x02, FF8, FF4, 0x1f, 0 }, scsi_sbc_prefetch },
	{ 0x35, -1, 10, BOTH | SYNCS,  "SYNCHRONIZE CACHE(10)", CDB10(0x35, 0x06),	sbc_synchronize },
	{ 0x91, -1, 16, DISK | SYNCS,  "SYNCHRONIZE CACHE(16)", CDB16(0x91, 0x06),	sbc_synchronize },
	{ 0x41, -1, 10, DISK | WRITES, "WRITE SAME(10)",	CDB10(0x41, 0x08),	scsi_sbc_write_same },
	{ 0x93, -1, 16, DISK | WRITES, "WRITE SAME(16)",	CDB16(0x93, 0x09),	scsi_sbc_write_same },
	{ 0x42, -1, 10, DISK | WRITES, "UNMAP",			{ 0x42, 0, 0, 0, 0, 0, 0, FF2, 0 }, scsi_sbc_unmap },
	{ 0x89, -1, 16, DISK | WRITES, "COMPARE AND WRITE",	{ 0x89, 0x1a, FF8, 0, 0, 0, 0xff, 0, 0 },
	  scsi_sbc_compare_and_write },
	{ 0x25, -1, 10, BOTH | TELLS,  "READ CAPACITY(10)",	{ 0x25 },		sbc_read_capacity_10 },
	{ 0x9e, 0x10, 16, DISK | TELLS, "READ CAPACITY(16)",	{ 0x9e, 0x1f, [10] = FF4 },
	  sbc_read_capacity_16 },
	{ 0x9e, 0x12, 16, DISK | READS, "GET LBA STATUS",	{ 0x9e, 0x1f, FF8, FF4, 0, 0 },
	  scsi_sbc_get_lba_status },
};

const struct scsi_command_table scsi_table_sbc = { commands, SP_ARRAY_SIZE(commands) };
