/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * UNMAP, WRITE SAME, GET LBA STATUS: lists and their faults, what reads back, and the whole disk at once.
 */
#include <stdio.h>

#include "base/env.h"
#include "tests/unit/rows.h"
#include "tests/unit/scsi_fixture.h"

#define BLOCKS 0x20000u			/* 64 MiB of 512 bytes */
#define NS UINT64_C(1000000000)

static uint8_t buf[SP_MIB(1)], other[SP_MIB(1)];

/* ---- UNMAP ----------------------------------------------------------------------------------------------- */

struct range { uint64_t lba; uint32_t count; };

static uint32_t put_list(uint8_t *p, const struct range *ranges, unsigned count)
{
	uint16_t bytes = (uint16_t)(16 * count);

	memset(p, 0, 8 + bytes);
	memcpy(p, be16_make((uint16_t)(bytes + 6)).b, 2);
	memcpy(p + 2, be16_make(bytes).b, 2);
	for (unsigned i = 0; i < count; i++) {
		memcpy(p + 8 + 16 * i, be64_make(ranges[i].lba).b, 8);
		memcpy(p + 16 + 16 * i, be32_make(ranges[i].count).b, 4);
	}
	return 8u + bytes;
}

static void unmap(struct scsi_fix *f, const struct range *ranges, unsigned count)
{
	uint32_t len = put_list(other, ranges, count);

	fix_run(f, CDB(0x42, [7] = (uint8_t)(len >> 8), (uint8_t)len), SCSI_TO_DEVICE, other, len);
}

static void write_fill(struct scsi_fix *f, uint64_t lba, uint32_t blocks, int value)
{
	memset(buf, value, 512 * blocks);
	fix_run(f, CDB(0x2a, 0, (uint8_t)(lba >> 24), (uint8_t)(lba >> 16), (uint8_t)(lba >> 8), (uint8_t)lba, 0,
		       (uint8_t)(blocks >> 8), (uint8_t)blocks), SCSI_TO_DEVICE, buf, 512 * blocks);
	fix_good(f);
}

static const struct list_row {
	const char *name;
	unsigned count;
	struct range ranges[3];
	uint32_t sense;
	bool kept;			/* what was at block 0 is still there */
} list_rows[] = {
	{ "nothing", 0, { { 0 } }, 0, true },
	{ "count 0", 1, { { 0, 0 } }, 0, true },
	{ "a whole block of the image", 1, { { 0, 2048 } }, 0, false },
	{ "count 0 at the end", 1, { { BLOCKS, 0 } }, 0, true },
	{ "the last one is past the end: none is done", 3, { { 0, 2048 }, { 4096, 1 }, { BLOCKS, 1 } },
	  SCSI_SENSE_LBA_RANGE, true },
	{ "across the end", 1, { { BLOCKS - 1, 2 } }, SCSI_SENSE_LBA_RANGE, true },
	{ "2^64 - 1", 1, { { UINT64_MAX, 1 } }, SCSI_SENSE_LBA_RANGE, true },
	{ "2^64 - 1 and all", 1, { { UINT64_MAX, UINT32_MAX } }, SCSI_SENSE_LBA_RANGE, true },
	{ "count 0 past the end", 1, { { BLOCKS + 1, 0 } }, SCSI_SENSE_LBA_RANGE, true },
	{ "twice the same", 2, { { 0, 2048 }, { 0, 4096 } }, 0, false },
	{ "the whole disk", 1, { { 0, BLOCKS } }, 0, false },
};

static void lists(void **state)
{
	const struct list_row *c = *state;
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ 0 });
	write_fill(&f, 0, 2048, 0x77);
	unmap(&f, c->ranges, c->count);
	fix_expect(&f, c->sense ? SCSI_CHECK_CONDITION : SCSI_GOOD, c->sense, __FILE__, __LINE__);
	expect_byte(f.disk, 0, 512, c->kept ? 0x77 : 0);
	fix_free(&f);
}

static const struct header_row {
	const char *name;
	uint8_t list_len, descriptors_len;
	uint32_t sense;
} header_rows[] = {
	{ "header alone", 8, 0, 0 },
	{ "descriptors past the list", 24, 32, SCSI_SENSE_LIST_LENGTH },
	{ "a list longer than the descriptors", 40, 16, 0 },
	{ "half a descriptor is none", 24, 15, 0 },
	{ "no room for the descriptor", 8, 16, SCSI_SENSE_LIST_LENGTH },
};

static void headers(void **state)
{
	const struct header_row *c = *state;
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ 0 });
	memset(other, 0, 64);
	other[3] = c->descriptors_len;
	fix_run(&f, CDB(0x42, [8] = c->list_len), SCSI_TO_DEVICE, other, c->list_len);
	fix_expect(&f, c->sense ? SCSI_CHECK_CONDITION : SCSI_GOOD, c->sense, __FILE__, __LINE__);
	fix_free(&f);
}

/* Every second KiB of the disk; one more descriptor is too many. */
static void many_descriptors(void **state)
{
	static struct range ranges[SCSI_UNMAP_DESCRIPTORS_MAX + 1];
	struct scsi_stats stats;
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ .format = VHD_FORMAT_RAW });
	for (unsigned i = 0; i <= SCSI_UNMAP_DESCRIPTORS_MAX; i++)
		ranges[i] = (struct range){ 16 * i, 8 };
	write_fill(&f, 16 * (SCSI_UNMAP_DESCRIPTORS_MAX - 1), 16, 0x55);
	unmap(&f, ranges, SCSI_UNMAP_DESCRIPTORS_MAX + 1);
	fix_sense(&f, SCSI_SENSE_INVALID_PARAMETER);
	expect_byte(f.disk, 8192ull * (SCSI_UNMAP_DESCRIPTORS_MAX - 1), 512, 0x55);
	unmap(&f, ranges, SCSI_UNMAP_DESCRIPTORS_MAX);
	fix_good(&f);
	expect_byte(f.disk, 8192ull * (SCSI_UNMAP_DESCRIPTORS_MAX - 1), 4096, 0);
	expect_byte(f.disk, 8192ull * (SCSI_UNMAP_DESCRIPTORS_MAX - 1) + 4096, 4096, 0x55);
	scsi_lu_stats(f.lu, &stats);
	assert_int_equal(stats.unmaps, 1);
	assert_int_equal(stats.unmap_bytes, 4096ull * SCSI_UNMAP_DESCRIPTORS_MAX);
	fix_free(&f);
}

/* Edges that fill no unit of the host keep their data; what is written later wins. */
static void unaligned(void **state)
{
	struct range r = { 3, 2040 };
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ 0 });
	write_fill(&f, 0, 2048, 0x21);
	unmap(&f, &r, 1);
	fix_good(&f);
	expect_byte(f.disk, 0, 3 * 512, 0x21);
	expect_byte(f.disk, 2043 * 512, 5 * 512, 0x21);
	write_fill(&f, 100, 1, 0x22);
	expect_byte(f.disk, 100 * 512, 512, 0x22);
	fix_free(&f);
}

/* Where the backend cannot free anything, the command is not there. */
static void not_offered(void **state)
{
	struct range r = { 0, 1 };
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ 0 });
	f.lu->geometry.unmap_granularity = 0;
	unmap(&f, &r, 1);
	fix_sense(&f, SCSI_SENSE_INVALID_OPCODE);
	fix_run(&f, CDB(0x93, 0x09, [13] = 1), SCSI_NO_DATA, NULL, 0);
	fix_sense(&f, SCSI_SENSE_INVALID_FIELD);
	fix_free(&f);
}

/* ---- WRITE SAME ------------------------------------------------------------------------------------------ */

static const struct same_row {
	const char *name;
	uint8_t op, byte1;
	uint32_t sector;
	uint8_t value;
	uint32_t lba, count;		/* count 0: to the end */
} same_rows[] = {
	{ "10, zeros", 0x41, 0, 512, 0, 5, 2000 },
	{ "10, zeros, UNMAP", 0x41, 8, 512, 0, 0, 4096 },
	{ "16, zeros, UNMAP, unaligned", 0x93, 8, 512, 0, 3, 4091 },
	{ "16, no data", 0x93, 1, 512, 0, 1, 1 },
	{ "16, no data, UNMAP", 0x93, 9, 512, 0, 2047, 2050 },
	{ "10, a pattern", 0x41, 0, 512, 0x5a, 7, 3000 },
	{ "16, a pattern, UNMAP: it is written", 0x93, 8, 512, 0x5a, 7, 3000 },
	{ "16, a pattern, one block", 0x93, 0, 512, 0x5a, 4095, 1 },
	{ "16, blocks of 4096", 0x93, 0, 4096, 0x5a, 9, 300 },
	{ "10, to the end", 0x41, 0, 512, 0x5a, BLOCKS - 300, 0 },
	{ "16, to the end, no data", 0x93, 1, 512, 0, BLOCKS - 4000, 0 },
};

static void write_same(void **state)
{
	const struct same_row *c = *state;
	uint32_t blocks = (uint32_t)(SP_MIB(64) / c->sector), count = c->count ? c->count : blocks - c->lba;
	uint32_t len = c->op == 0x93 && (c->byte1 & 1) ? 0 : c->sector;
	uint64_t from = (uint64_t)c->lba * c->sector, to = from + (uint64_t)count * c->sector;
	uint8_t cdb[16] = { c->op, c->byte1 };
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ .sector = c->sector });
	memset(buf, 0xe1, sizeof(buf));
	for (uint64_t at = 0; at < SP_MIB(64); at += sizeof(buf))
		assert_int_equal(vhd_disk_write(f.disk, buf, sizeof(buf), at), 0);
	memset(other, c->value, len);
	if (c->op == 0x41) {
		memcpy(cdb + 2, be32_make(c->lba).b, 4);
		memcpy(cdb + 7, be16_make((uint16_t)c->count).b, 2);
	} else {
		memcpy(cdb + 2, be64_make(c->lba).b, 8);
		memcpy(cdb + 10, be32_make(c->count).b, 4);
	}
	fix_run(&f, cdb, len ? SCSI_TO_DEVICE : SCSI_NO_DATA, other, len);
	fix_good(&f);
	assert_int_equal(f.reply.transferred, len);
	for (uint64_t at = 0; at < SP_MIB(64); at += 512) {
		if (at % SP_MIB(1) == 0)
			assert_int_equal(vhd_disk_read(f.disk, buf, sizeof(buf), at), 0);
		assert_int_equal(buf[at % SP_MIB(1) + 511], at >= from && at < to ? c->value : 0xe1);
	}
	fix_free(&f);
}

/* ---- the largest disk ------------------------------------------------------------------------------------ */

static const struct whole_row {
	const char *name;
	uint8_t cdb[16];
	uint32_t data;			/* 0: none, 1: a block of zeros, 2: an UNMAP list */
} whole_rows[] = {
	{ "WRITE SAME(16), no data, to the end", { 0x93, 0x01 }, 0 },
	{ "WRITE SAME(16), UNMAP, to the end", { 0x93, 0x08 }, 1 },
	{ "UNMAP of it all", { 0x42, [7] = 2, 0x08 }, 2 },
};

static void whole_disk(void **state)
{
	const struct whole_row *c = *state;
	static struct range ranges[32];
	uint64_t began;
	struct scsi_fix f;
	uint32_t len = 0;

	fix_disk(&f, &(struct fix_opts){ .size = SP_TIB(64), .block = SP_MIB(32) });
	write_byte(f.disk, 0, 4096, 0x99);
	write_byte(f.disk, SP_TIB(33), 4096, 0x99);
	write_byte(f.disk, SP_TIB(64) - 4096, 4096, 0x99);
	if (c->data == 1) {
		memset(other, 0, 512);
		len = 512;
	}
	for (unsigned i = 0; i < 32; i++)	/* not quite 2^32 blocks each: some of the end stays */
		ranges[i] = (struct range){ ((uint64_t)i << 32), 0xffff0000 };
	if (c->data == 2)
		len = put_list(other, ranges, 32);
	began = sp_env_monotonic_ns();
	fix_run(&f, c->cdb, len ? SCSI_TO_DEVICE : SCSI_NO_DATA, other, len);
	fix_good(&f);
	assert_true(sp_env_monotonic_ns() - began < 4 * NS);
	expect_byte(f.disk, 0, 4096, 0);
	expect_byte(f.disk, SP_TIB(33), 4096, 0);
	expect_byte(f.disk, SP_TIB(64) - 4096, 4096, c->data == 2 ? 0x99 : 0);
	fix_free(&f);
}

/* A long command ends when its queue is told so, and says that it did not finish. */
static void cancel(void **state)
{
	static struct scsi_task t;
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ .size = SP_TIB(64), .block = SP_MIB(32) });
	write_byte(f.disk, SP_TIB(64) - 4096, 4096, 0x99);
	t = (struct scsi_task){ .cdb = { 0x93, 0x01 }, .nexus = &f.nexus, .direction = SCSI_NO_DATA, .buf_index = -1,
				.done = fix_done, .user = &f };
	scsi_execute(f.queue, &t);
	assert_false(f.done);
	scsi_queue_cancel(f.queue);
	while (!f.done)
		assert_true(scsi_queue_poll(f.queue) >= 0);
	f.reply = t;
	fix_sense(&f, SCSI_SENSE_ABORTED);
	expect_byte(f.disk, SP_TIB(64) - 4096, 4096, 0x99);
	/* What comes afterwards is not meant. */
	fix_run(&f, CDB(0x93, 0x01), SCSI_NO_DATA, NULL, 0);
	fix_good(&f);
	expect_byte(f.disk, SP_TIB(64) - 4096, 4096, 0);
	fix_free(&f);
}

/* ---- GET LBA STATUS -------------------------------------------------------------------------------------- */

static const struct status_row {
	const char *name;
	uint32_t lba, allocation;
	unsigned count;
	struct { uint32_t lba, count; uint8_t state; } want[3];
} status_rows[] = {
	/* Blocks of 1 MiB are 2048 long; the second and third are mapped. */
	{ "all", 0, 1024, 3, { { 0, 2048, 1 }, { 2048, 4096, 0 }, { 6144, BLOCKS - 6144, 1 } } },
	{ "from inside", 3000, 1024, 2, { { 3000, 3144, 0 }, { 6144, BLOCKS - 6144, 1 } } },
	{ "the last block", BLOCKS - 1, 1024, 1, { { BLOCKS - 1, 1, 1 } } },
	{ "room for one", 0, 24, 1, { { 0, 2048, 1 } } },
	{ "room for one and a half", 0, 32, 1, { { 0, 2048, 1 } } },
};

static void lba_status(void **state)
{
	const struct status_row *c = *state;
	uint8_t cdb[16] = { 0x9e, 0x12 };
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ 0 });
	write_byte(f.disk, SP_MIB(1) + 512, 512, 1);
	write_byte(f.disk, SP_MIB(2), 512, 1);
	memcpy(cdb + 2, be64_make(c->lba).b, 8);
	memcpy(cdb + 10, be32_make(c->allocation).b, 4);
	fix_run(&f, cdb, SCSI_FROM_DEVICE, buf, c->allocation);
	fix_good(&f);
	assert_int_equal(f.reply.transferred, 8 + 16 * c->count);
	assert_memory_equal(buf, be32_make(4 + 16 * c->count).b, 4);
	for (unsigned i = 0; i < c->count; i++) {
		assert_memory_equal(buf + 8 + 16 * i, be64_make(c->want[i].lba).b, 8);
		assert_memory_equal(buf + 16 + 16 * i, be32_make(c->want[i].count).b, 4);
		assert_int_equal(buf[20 + 16 * i], c->want[i].state);
	}
	fix_free(&f);
}

/* A guest that asks for everything gets a bounded answer, in a bounded time, and can go on from there. */
static void lba_status_bounded(void **state)
{
	uint64_t began = sp_env_monotonic_ns();
	struct scsi_fix f;
	uint32_t len;

	fix_disk(&f, &(struct fix_opts){ .size = SP_TIB(64), .block = SP_MIB(32) });
	for (unsigned i = 0; i < 200; i++)
		write_byte(f.disk, SP_GIB(10) * i, 512, 1);
	fix_run(&f, CDB(0x9e, 0x12, [10] = 0xff, 0xff, 0xff, 0xff), SCSI_FROM_DEVICE, buf, sizeof(buf));
	fix_good(&f);
	len = f.reply.transferred;
	assert_in_range(len, 24, 8 + 16 * 128);
	assert_int_equal((len - 8) % 16, 0);
	assert_true(sp_env_monotonic_ns() - began < 4 * NS);
	fix_free(&f);
}

static const struct single_row single_rows[] = {
	{ "as many descriptors as may be", many_descriptors },
	{ "UNMAP that is not aligned", unaligned },
	{ "UNMAP that is not offered", not_offered },
	{ "a long command is cancelled", cancel },
	{ "GET LBA STATUS of everything", lba_status_bounded },
};

int main(void)
{
	int failed = 0;

	failed += ROWS_RUN(list_rows, lists);
	failed += ROWS_RUN(header_rows, headers);
	failed += ROWS_RUN(same_rows, write_same);
	failed += ROWS_RUN(whole_rows, whole_disk);
	failed += ROWS_RUN(status_rows, lba_status);
	failed += ROWS_RUN(single_rows, rows_single);
	return failed;
}
