/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Block commands, one row per command and fault: ranges, buffers, bits that are not known, what a failing store
 * becomes, what is durable when.
 */
#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "tests/unit/rows.h"
#include "tests/unit/scsi_fixture.h"

#define BLOCKS 0x20000u			/* 64 MiB of 512 bytes */

enum { IN = SCSI_FROM_DEVICE, OUT = SCSI_TO_DEVICE, NONE = SCSI_NO_DATA };

static uint8_t buf[SP_MIB(1)], other[SP_MIB(1)];

/* ---- CDBs ------------------------------------------------------------------------------------------------ */

struct cdb { uint8_t b[16]; };

/* Of 6, 10, 12 or 16 bytes, as the opcode says. */
static struct cdb cdb_of(uint8_t op, uint8_t byte1, uint64_t lba, uint32_t count)
{
	struct cdb c = { { op, byte1 } };

	switch (op >> 5) {
	case 0:
		c.b[1] = (uint8_t)(lba >> 16);
		c.b[2] = (uint8_t)(lba >> 8);
		c.b[3] = (uint8_t)lba;
		c.b[4] = (uint8_t)count;
		break;
	case 4:
		memcpy(c.b + 2, be64_make(lba).b, 8);
		memcpy(c.b + 10, be32_make(count).b, 4);
		break;
	case 5:
		memcpy(c.b + 2, be32_make((uint32_t)lba).b, 4);
		memcpy(c.b + 6, be32_make(count).b, 4);
		break;
	default:
		memcpy(c.b + 2, be32_make((uint32_t)lba).b, 4);
		memcpy(c.b + 7, be16_make((uint16_t)count).b, 2);
		break;
	}
	return c;
}

static void run(struct scsi_fix *f, uint8_t op, uint8_t byte1, uint64_t lba, uint32_t count, int direction,
		void *data, uint32_t len)
{
	fix_run(f, cdb_of(op, byte1, lba, count).b, (enum scsi_direction)direction, data, len);
}

/* ---- ranges: every command with an LBA ------------------------------------------------------------------- */

struct range_row {
	const char *name;
	char text[48];
	uint8_t op;
	int direction;
	uint32_t blocks;		/* of data per block of the range; 0: none */
	uint64_t lba;
	uint32_t count;
	uint32_t sense;
};

static const struct { const char *name; uint8_t op; int direction; uint32_t blocks; } lba_commands[] = {
	{ "READ(6)", 0x08, IN, 1 },
	{ "READ(10)", 0x28, IN, 1 },
	{ "READ(12)", 0xa8, IN, 1 },
	{ "READ(16)", 0x88, IN, 1 },
	{ "WRITE(6)", 0x0a, OUT, 1 },
	{ "WRITE(10)", 0x2a, OUT, 1 },
	{ "WRITE(12)", 0xaa, OUT, 1 },
	{ "WRITE(16)", 0x8a, OUT, 1 },
	{ "VERIFY(10)", 0x2f, NONE, 0 },
	{ "VERIFY(12)", 0xaf, NONE, 0 },
	{ "VERIFY(16)", 0x8f, NONE, 0 },
	{ "WRITE AND VERIFY(10)", 0x2e, OUT, 1 },
	{ "WRITE AND VERIFY(12)", 0xae, OUT, 1 },
	{ "WRITE AND VERIFY(16)", 0x8e, OUT, 1 },
	{ "SYNCHRONIZE CACHE(10)", 0x35, NONE, 0 },
	{ "SYNCHRONIZE CACHE(16)", 0x91, NONE, 0 },
	{ "PRE-FETCH(10)", 0x34, NONE, 0 },
	{ "PRE-FETCH(16)", 0x90, NONE, 0 },
	{ "COMPARE AND WRITE", 0x89, OUT, 2 },
};

static const struct { const char *name; uint64_t lba; uint32_t count; bool ok; } lba_places[] = {
	{ "the last block", BLOCKS - 1, 1, true },
	{ "count 0 at 0", 0, 0, true },
	{ "count 0 at the last", BLOCKS - 1, 0, true },
	{ "one past the end", BLOCKS, 1, false },
	{ "two past the end", BLOCKS + 1, 1, false },
	{ "across the end", BLOCKS - 1, 2, false },
	{ "2^31", UINT64_C(1) << 31, 1, false },
	{ "-1", UINT64_MAX, 1, false },
	{ "count 0, two past the end", BLOCKS + 1, 0, false },
	{ "count 0 at 2^31", UINT64_C(1) << 31, 0, false },
	{ "count 0 at -1", UINT64_MAX, 0, false },
	{ "-1 and the largest count", UINT64_MAX, 0xffff, false },
};

#define RANGE_ROWS (SP_ARRAY_SIZE(lba_commands) * SP_ARRAY_SIZE(lba_places))
static struct range_row range_rows[RANGE_ROWS];

static size_t make_range_rows(void)
{
	size_t n = 0;

	for (size_t i = 0; i < SP_ARRAY_SIZE(lba_commands); i++) {
		for (size_t k = 0; k < SP_ARRAY_SIZE(lba_places); k++) {
			struct range_row *r = &range_rows[n];
			bool six = lba_commands[i].op < 0x20, caw = lba_commands[i].op == 0x89;

			/* 21 bits hold no larger LBA, and a count of 0 is 256; a byte of count. */
			if ((six && (lba_places[k].lba > 0x1fffff || lba_places[k].count == 0)) ||
			    (caw && lba_places[k].count > 255))
				continue;
			*r = (struct range_row){
				.op = lba_commands[i].op, .direction = lba_commands[i].direction,
				.blocks = lba_commands[i].blocks, .lba = lba_places[k].lba,
				.count = lba_places[k].count, .sense = lba_places[k].ok ? 0 : SCSI_SENSE_LBA_RANGE,
			};
			snprintf(r->text, sizeof(r->text), "%s, %s", lba_commands[i].name, lba_places[k].name);
			r->name = r->text;
			n++;
		}
	}
	return n;
}

static void ranges(void **state)
{
	const struct range_row *c = *state;
	uint32_t len = c->count * c->blocks * 512;
	struct scsi_fix f;

	memset(buf, 0, sizeof(buf));
	fix_disk(&f, &(struct fix_opts){ 0 });
	len = len < sizeof(buf) ? len : (uint32_t)sizeof(buf);
	run(&f, c->op, 0, c->lba, c->count, c->direction, buf, len);
	fix_expect(&f, c->sense ? SCSI_CHECK_CONDITION : SCSI_GOOD, c->sense, __FILE__, __LINE__);
	assert_int_equal(f.reply.transferred, c->sense ? 0 : len);
	fix_free(&f);
}

/* ---- faults of a single command -------------------------------------------------------------------------- */

static const struct fault_row {
	const char *name;
	uint8_t cdb[16];
	int direction;
	uint32_t len;
	uint32_t sense;
	uint16_t field;			/* what the sense must point at, if it points */
} fault_rows[] = {
#define FIELD SCSI_SENSE_INVALID_FIELD
	{ "unknown opcode", { 0xe7 }, NONE, 0, SCSI_SENSE_INVALID_OPCODE },
	{ "unknown service action", { 0x9e, 0x1f }, IN, 32, FIELD, 1 },
	{ "READ(10) with protection", { 0x28, 0x20, 0, 0, 0, 0, 0, 0, 1 }, IN, 512, FIELD, 1 },
	{ "READ(16) with protection", { 0x88, 0xe0, [13] = 1 }, IN, 512, FIELD, 1 },
	{ "WRITE(10) with protection", { 0x2a, 0x40, 0, 0, 0, 0, 0, 0, 1 }, OUT, 512, FIELD, 1 },
	{ "WRITE(12) with protection", { 0xaa, 0x80, [9] = 1 }, OUT, 512, FIELD, 1 },
	{ "VERIFY(10) with protection", { 0x2f, 0x20, 0, 0, 0, 0, 0, 0, 1 }, NONE, 0, FIELD, 1 },
	{ "WRITE SAME(10) with protection", { 0x41, 0x20, 0, 0, 0, 0, 0, 0, 1 }, OUT, 512, FIELD, 1 },
	{ "WRITE SAME(10) with ANCHOR", { 0x41, 0x18, 0, 0, 0, 0, 0, 0, 1 }, OUT, 512, FIELD, 1 },
	{ "UNMAP with ANCHOR", { 0x42, 0x01, 0, 0, 0, 0, 0, 0, 24 }, OUT, 24, FIELD, 1 },
	{ "READ(10), a bit beside the group", { 0x28, 0, 0, 0, 0, 0, 0x20, 0, 1 }, IN, 512, FIELD, 6 },
	{ "NACA", { 0x28, 0, 0, 0, 0, 0, 0, 0, 1, 4 }, IN, 512, FIELD, 9 },
	{ "READ(10), buffer a byte short", { 0x28, 0, 0, 0, 0, 0, 0, 0, 2 }, IN, 1023, FIELD },
	{ "READ(10), no buffer", { 0x28, 0, 0, 0, 0, 0, 0, 0, 1 }, NONE, 0, FIELD },
	{ "READ(10), buffer of the wrong direction", { 0x28, 0, 0, 0, 0, 0, 0, 0, 1 }, OUT, 512, FIELD },
	{ "WRITE(10), buffer a byte short", { 0x2a, 0, 0, 0, 0, 0, 0, 0, 2 }, OUT, 1023, FIELD },
	{ "WRITE(10), buffer of the wrong direction", { 0x2a, 0, 0, 0, 0, 0, 0, 0, 1 }, IN, 512, FIELD },
	{ "WRITE(6) of 256 blocks, buffer of one", { 0x0a, 0, 0, 0, 0 }, OUT, 512, FIELD },
	{ "WRITE(16) of 2^32 - 1 blocks", { 0x8a, [10] = 0xff, 0xff, 0xff, 0xff }, OUT, 512, SCSI_SENSE_LBA_RANGE },
	{ "VERIFY(10), BYTCHK 2", { 0x2f, 0x04, 0, 0, 0, 0, 0, 0, 1 }, OUT, 512, FIELD, 1 },
	{ "VERIFY(10), BYTCHK 1 without data", { 0x2f, 0x02, 0, 0, 0, 0, 0, 0, 1 }, NONE, 0, FIELD },
	{ "VERIFY(10), BYTCHK 3, less than a block", { 0x2f, 0x06, 0, 0, 0, 0, 0, 0, 4 }, OUT, 511, FIELD },
	{ "WRITE AND VERIFY(10), BYTCHK 3", { 0x2e, 0x06, 0, 0, 0, 0, 0, 0, 1 }, OUT, 512, FIELD, 1 },
	{ "WRITE AND VERIFY(10), buffer short", { 0x2e, 0, 0, 0, 0, 0, 0, 0, 2 }, OUT, 512, FIELD },
	{ "COMPARE AND WRITE, too many blocks", { 0x89, [13] = 65 }, OUT, 65 * 1024, FIELD, 13 },
	{ "COMPARE AND WRITE, one half only", { 0x89, [13] = 1 }, OUT, 512, FIELD },
	{ "COMPARE AND WRITE, too much data", { 0x89, [13] = 1 }, OUT, 1536, FIELD },
	{ "COMPARE AND WRITE, byte 12", { 0x89, [12] = 1, 1 }, OUT, 1024, FIELD, 12 },
	{ "WRITE SAME(10), no data", { 0x41, 0, 0, 0, 0, 0, 0, 0, 1 }, NONE, 0, FIELD },
	{ "WRITE SAME(10), two blocks of data", { 0x41, 0, 0, 0, 0, 0, 0, 0, 1 }, OUT, 1024, FIELD },
	{ "WRITE SAME(10), NDOB", { 0x41, 0x01, 0, 0, 0, 0, 0, 0, 1 }, NONE, 0, FIELD, 1 },
	{ "WRITE SAME(16), across the end", { 0x93, 0x01, [7] = 1, 0xff, 0xff, [13] = 2 }, NONE, 0,
	  SCSI_SENSE_LBA_RANGE },
	{ "WRITE SAME(16), to the end from past it", { 0x93, 0x01, [7] = 2 }, NONE, 0, SCSI_SENSE_LBA_RANGE },
	{ "UNMAP, list of 7 bytes", { 0x42, [8] = 7 }, OUT, 7, SCSI_SENSE_LIST_LENGTH },
	{ "UNMAP, buffer shorter than the list", { 0x42, [8] = 24 }, OUT, 23, SCSI_SENSE_LIST_LENGTH },
	{ "UNMAP, no buffer", { 0x42, [8] = 24 }, NONE, 0, SCSI_SENSE_LIST_LENGTH },
	{ "GET LBA STATUS past the end", { 0x9e, 0x12, [7] = 2, [13] = 255 }, IN, 255, SCSI_SENSE_LBA_RANGE },
	{ "READ CAPACITY(10) of an LBA", { 0x25, [5] = 1 }, IN, 8, FIELD, 5 },
};

static void faults(void **state)
{
	const struct fault_row *c = *state;
	struct scsi_fix f;

	memset(buf, 0, sizeof(buf));
	fix_disk(&f, &(struct fix_opts){ 0 });
	fix_run(&f, c->cdb, (enum scsi_direction)c->direction, buf, c->len);
	fix_sense(&f, c->sense);
	assert_int_equal(f.reply.transferred, 0);
	assert_int_equal(f.reply.sense[15], c->field ? 0xc0 : 0);
	assert_int_equal(f.reply.sense[17], c->field);
	fix_free(&f);
}

/* ---- data ------------------------------------------------------------------------------------------------ */

static const struct round_row {
	const char *name;
	uint8_t write, read, byte1;
	uint32_t sector, count;
	uint64_t lba;
} round_rows[] = {
	{ "6", 0x0a, 0x08, 0, 512, 5, 0x1fff0 },
	{ "6, 256 blocks", 0x0a, 0x08, 0, 512, 256, 3 },
	{ "10", 0x2a, 0x28, 0, 512, 9, 0x1000 },
	{ "12", 0xaa, 0xa8, 0, 512, 1, 0 },
	{ "16", 0x8a, 0x88, 0, 512, 2048, 17 },
	{ "10, blocks of 4096", 0x2a, 0x28, 0, 4096, 3, 0x1000 },
	{ "10, DPO and FUA", 0x2a, 0x28, 0x18, 512, 9, 0x1000 },
	{ "16, FUA", 0x8a, 0x88, 0x08, 512, 9, 0x1000 },
	{ "10, the former FUA_NV", 0x2a, 0x28, 0x02, 512, 1, 1 },
	{ "WRITE AND VERIFY(10)", 0x2e, 0x28, 0, 512, 300, 0x1000 },
	{ "WRITE AND VERIFY(16), BYTCHK 1", 0x8e, 0x88, 0x02, 512, 300, 0x1000 },
	{ "WRITE AND VERIFY(12), BYTCHK 1, blocks of 4096", 0xae, 0xa8, 0x02, 4096, 33, 1 },
};

static void round_trip(void **state)
{
	const struct round_row *c = *state;
	uint32_t len = c->count * c->sector;
	uint8_t read1 = c->write == 0x2e || c->write == 0x8e || c->write == 0xae ? 0 : c->byte1;
	struct scsi_fix f;

	for (uint32_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(i / 512 * 7 + i);
	fix_disk(&f, &(struct fix_opts){ .sector = c->sector });
	run(&f, c->write, c->byte1, c->lba, c->count, OUT, buf, len);
	fix_good(&f);
	assert_int_equal(f.reply.transferred, len);
	memset(other, 0, len);
	run(&f, c->read, read1, c->lba, c->count, IN, other, len);
	fix_good(&f);
	assert_int_equal(f.reply.transferred, len);
	assert_memory_equal(buf, other, len);
	assert_int_equal(vhd_disk_read(f.disk, other, len, c->lba * c->sector), 0);
	assert_memory_equal(buf, other, len);
	fix_free(&f);
}

/* A buffer that is longer than the command needs is neither read nor written behind that. */
static void long_buffer(void **state)
{
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ 0 });
	memset(buf, 0x11, 2048);
	run(&f, 0x2a, 0, 4, 2, OUT, buf, 2048);
	fix_good(&f);
	assert_int_equal(f.reply.transferred, 1024);
	memset(other, 0x22, 2048);
	run(&f, 0x28, 0, 4, 3, IN, other, 2048);
	fix_good(&f);
	assert_int_equal(f.reply.transferred, 1536);
	assert_memory_equal(other, buf, 1024);
	assert_int_equal(other[1024], 0);
	assert_int_equal(other[1535], 0);
	assert_int_equal(other[1536], 0x22);
	fix_free(&f);
}

static const struct verify_row {
	const char *name;
	uint8_t op, byte1;
	uint32_t count, len;
	uint32_t spoil;			/* byte of the data plus one that differs */
	uint32_t sense;
} verify_rows[] = {
	{ "reads", 0x2f, 0, 1000, 0, 0, 0 },
	{ "data that is equal", 0x2f, 2, 1000, 512000, 0, 0 },
	{ "the first byte differs", 0x8f, 2, 1000, 512000, 1, SCSI_SENSE_MISCOMPARE },
	{ "the last byte differs", 0xaf, 2, 1000, 512000, 512000, SCSI_SENSE_MISCOMPARE },
	{ "a byte in a later piece differs", 0x2f, 2, 1000, 512000, 65537, SCSI_SENSE_MISCOMPARE },
	{ "one block for all", 0x2f, 6, 1000, 512, 0, 0 },
	{ "one block for all, which differs", 0x8f, 6, 1000, 512, 512, SCSI_SENSE_MISCOMPARE },
	{ "nothing", 0x2f, 2, 0, 0, 0, 0 },
};

static void verify(void **state)
{
	const struct verify_row *c = *state;
	struct scsi_fix f;

	for (unsigned i = 0; i < 512000; i++)
		buf[i] = (uint8_t)(i % 512 * 3);
	fix_disk(&f, &(struct fix_opts){ 0 });
	run(&f, 0x2a, 0, 100, 1000, OUT, buf, 512000);
	fix_good(&f);
	if (c->spoil)
		buf[c->spoil - 1] ^= 0x10;
	run(&f, c->op, c->byte1, 100, c->count, c->len ? OUT : NONE, buf, c->len);
	fix_expect(&f, c->sense ? SCSI_CHECK_CONDITION : SCSI_GOOD, c->sense, __FILE__, __LINE__);
	assert_int_equal(f.reply.transferred, c->sense ? 0 : c->len);
	fix_free(&f);
}

static const struct caw_row {
	const char *name;
	uint32_t count, sector;
	uint32_t spoil;			/* byte of the first half plus one */
} caw_rows[] = {
	{ "equal", 1, 512, 0 },
	{ "equal, 64 blocks of 4096", 64, 4096, 0 },
	{ "the first byte differs", 2, 512, 1 },
	{ "the last byte differs", 64, 512, 64 * 512 },
};

static void compare_and_write(void **state)
{
	const struct caw_row *c = *state;
	uint32_t half = c->count * c->sector;
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ .sector = c->sector });
	memset(buf, 0x33, half);
	run(&f, 0x8a, 0, 77, c->count, OUT, buf, half);
	fix_good(&f);
	memset(buf + half, 0x44, half);
	if (c->spoil)
		buf[c->spoil - 1] = 0;
	run(&f, 0x89, 0, 77, c->count, OUT, buf, 2 * half);
	if (c->spoil) {
		uint32_t at = c->spoil - 1;

		fix_sense(&f, SCSI_SENSE_MISCOMPARE);
		assert_int_equal(f.reply.sense[0], 0xf0);
		assert_memory_equal(f.reply.sense + 3, be32_make(at).b, 4);
	} else {
		fix_good(&f);
		assert_int_equal(f.reply.transferred, 2 * half);
	}
	memset(buf, c->spoil ? 0x33 : 0x44, half);
	run(&f, 0x88, 0, 77, c->count, IN, other, half);
	assert_memory_equal(buf, other, half);
	/* Nothing is held: writes go on. */
	run(&f, 0x8a, 0, 77, c->count, OUT, buf, half);
	fix_good(&f);
	fix_free(&f);
}

/* ---- durability ------------------------------------------------------------------------------------------ */

static const struct durable_row {
	const char *name;
	uint8_t op, byte1;
	int direction;
	uint32_t count, len;
	bool write_through;
	bool want;			/* the store was synced before the end */
} durable_rows[] = {
	{ "WRITE", 0x2a, 0, OUT, 1, 512, false, false },
	{ "WRITE with FUA", 0x2a, 8, OUT, 1, 512, false, true },
	{ "WRITE(6), write through", 0x0a, 0, OUT, 1, 512, true, true },
	{ "WRITE(16), write through", 0x8a, 0, OUT, 1, 512, true, true },
	{ "SYNCHRONIZE CACHE(10)", 0x35, 0, NONE, 0, 0, false, true },
	{ "SYNCHRONIZE CACHE(16) of a block", 0x91, 0, NONE, 1, 0, false, true },
	{ "WRITE AND VERIFY", 0x2e, 0, OUT, 1, 512, false, true },
	{ "COMPARE AND WRITE", 0x89, 0, OUT, 1, 1024, false, false },
	{ "COMPARE AND WRITE with FUA", 0x89, 8, OUT, 1, 1024, false, true },
	{ "COMPARE AND WRITE, write through", 0x89, 0, OUT, 1, 1024, true, true },
	{ "WRITE SAME", 0x93, 0, OUT, 1, 512, false, false },
	{ "WRITE SAME, write through", 0x93, 0, OUT, 1, 512, true, true },
	{ "WRITE SAME of zeros, write through", 0x93, 1, NONE, 1, 0, true, true },
	{ "READ", 0x28, 0, IN, 1, 512, false, false },
	{ "READ with FUA", 0x28, 8, IN, 1, 512, false, true },
};

static void durable(void **state)
{
	const struct durable_row *c = *state;
	struct fault_plan plan;
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ .plan = &plan, .write_through = c->write_through });
	/* Room is there and one write is not yet durable. */
	assert_int_equal(vhd_disk_write(f.disk, buf, 4096, 0), 0);
	assert_int_equal(vhd_disk_flush(f.disk), 0);
	assert_int_equal(vhd_disk_read(f.disk, buf, 512, 0), 0);
	assert_int_equal(vhd_disk_write(f.disk, buf, 512, 512), 0);
	memset(buf + 512, 9, 512);
	fault_plan_set(&plan, FAULT_SYNC, 0, 0, false, false);
	run(&f, c->op, c->byte1, 0, c->count, c->direction, buf, c->len);
	fix_good(&f);
	assert_int_equal(plan.counter > 0, c->want);
	fix_free(&f);
}

/* IMMED answers at once; what it began goes on, and ends before the queue does. */
static void sync_immed(void **state)
{
	struct fault_plan plan;
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ .plan = &plan });
	run(&f, 0x2a, 0, 0, 1, OUT, buf, 512);
	fix_good(&f);
	fault_plan_set(&plan, FAULT_SYNC, 0, 0, false, false);
	for (unsigned i = 0; i < 100; i++) {
		run(&f, 0x35, 2, 0, 0, NONE, NULL, 0);
		fix_good(&f);
	}
	run(&f, 0x35, 2, BLOCKS, 1, NONE, NULL, 0);
	fix_sense(&f, SCSI_SENSE_LBA_RANGE);
	scsi_queue_free(f.queue);
	assert_true(plan.counter > 0);
	must(scsi_queue_new(f.lu, 32, &f.queue, NULL), NULL);
	fix_free(&f);
}

/* ---- stores that fail ------------------------------------------------------------------------------------ */

static const struct broken_row {
	const char *name;
	uint8_t op, byte1;
	int direction;
	uint32_t count, len;
	unsigned classes;
	int error;
	uint32_t sense;
	uint64_t lba;			/* in the information field, when the sense tells it */
} broken_rows[] = {
	{ "READ", 0x28, 0, IN, 8, 4096, FAULT_READ, -EIO, SCSI_SENSE_READ_ERROR, 16 },
	{ "VERIFY", 0x2f, 0, NONE, 8, 0, FAULT_READ, -EIO, SCSI_SENSE_READ_ERROR, 16 },
	{ "WRITE", 0x2a, 0, OUT, 8, 4096, FAULT_WRITE, -EIO, SCSI_SENSE_WRITE_ERROR, 16 },
	{ "WRITE on a full host", 0x2a, 0, OUT, 8, 4096, FAULT_WRITE, -ENOSPC, SCSI_SENSE_NO_SPACE, 0 },
	{ "WRITE beyond a quota", 0x8a, 0, OUT, 8, 4096, FAULT_WRITE, -EDQUOT, SCSI_SENSE_NO_SPACE, 0 },
	{ "WRITE SAME", 0x41, 0, OUT, 8, 512, FAULT_WRITE, -EIO, SCSI_SENSE_WRITE_ERROR, 16 },
	{ "WRITE SAME on a full host", 0x93, 0, OUT, 8, 512, FAULT_WRITE, -ENOSPC, SCSI_SENSE_NO_SPACE, 0 },
	{ "COMPARE AND WRITE, reading", 0x89, 0, OUT, 1, 1024, FAULT_READ, -EIO, SCSI_SENSE_READ_ERROR, 16 },
	{ "COMPARE AND WRITE, writing", 0x89, 0, OUT, 1, 1024, FAULT_WRITE, -EIO, SCSI_SENSE_WRITE_ERROR, 16 },
	{ "SYNCHRONIZE CACHE", 0x35, 0, NONE, 0, 0, FAULT_SYNC, -EIO, SCSI_SENSE_INTERNAL, 0 },
	{ "WRITE with FUA, its sync", 0x2a, 8, OUT, 8, 4096, FAULT_SYNC, -EIO, SCSI_SENSE_INTERNAL, 0 },
};

static void broken(void **state)
{
	const struct broken_row *c = *state;
	uint64_t lba = c->op == 0x35 ? 0 : 16;
	struct fault_plan plan;
	struct scsi_fix f;

	memset(buf, 5, 8192);
	fix_disk(&f, &(struct fix_opts){ .plan = &plan });
	assert_int_equal(vhd_disk_write(f.disk, buf, 8192, 16 * 512), 0);
	assert_int_equal(vhd_disk_flush(f.disk), 0);
	assert_int_equal(vhd_disk_write(f.disk, buf, 512, 16 * 512), 0);
	fault_plan_set(&plan, c->classes, 1, c->error, true, false);
	run(&f, c->op, c->byte1, lba, c->count, c->direction, buf, c->len);
	assert_true(plan.hits > 0);
	fix_sense(&f, c->sense);
	if (c->lba) {
		assert_int_equal(f.reply.sense[0], 0xf0);
		assert_memory_equal(f.reply.sense + 3, be32_make((uint32_t)c->lba).b, 4);
	}
	plan.enabled = false;
	run(&f, 0x28, 0, 16, 1, IN, buf, 512);
	fix_good(&f);
	/* A failed sync is not forgotten, whatever the store says now; anything else is. */
	run(&f, 0x2a, 0, 16, 1, OUT, buf, 512);
	fix_expect(&f, c->classes == FAULT_SYNC ? SCSI_CHECK_CONDITION : SCSI_GOOD,
		   c->classes == FAULT_SYNC ? SCSI_SENSE_INTERNAL : 0, __FILE__, __LINE__);
	run(&f, 0x35, 0, 0, 0, NONE, NULL, 0);
	fix_expect(&f, c->classes == FAULT_SYNC ? SCSI_CHECK_CONDITION : SCSI_GOOD,
		   c->classes == FAULT_SYNC ? SCSI_SENSE_INTERNAL : 0, __FILE__, __LINE__);
	fix_free(&f);
}

/* ---- write protection ------------------------------------------------------------------------------------ */

static const struct protect_row {
	const char *name;
	uint8_t op, byte1;
	int direction;
	uint32_t count, len;
	bool refused;
} protect_rows[] = {
	{ "READ", 0x28, 0, IN, 1, 512, false },
	{ "VERIFY", 0x2f, 0, NONE, 1, 0, false },
	{ "SYNCHRONIZE CACHE", 0x35, 0, NONE, 0, 0, false },
	{ "WRITE(6)", 0x0a, 0, OUT, 1, 512, true },
	{ "WRITE(10)", 0x2a, 0, OUT, 1, 512, true },
	{ "WRITE(16)", 0x8a, 0, OUT, 1, 512, true },
	{ "WRITE AND VERIFY", 0x2e, 0, OUT, 1, 512, true },
	{ "WRITE SAME", 0x93, 1, NONE, 1, 0, true },
	{ "UNMAP", 0x42, 0, NONE, 0, 0, true },
	{ "COMPARE AND WRITE", 0x89, 0, OUT, 1, 1024, true },
};

static void protect(void **state)
{
	const struct protect_row *c = *state;
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ .read_only = true });
	run(&f, c->op, c->byte1, 0, c->count, c->direction, buf, c->len);
	fix_expect(&f, c->refused ? SCSI_CHECK_CONDITION : SCSI_GOOD, c->refused ? SCSI_SENSE_WRITE_PROTECTED : 0,
		   __FILE__, __LINE__);
	scsi_lu_set_read_only(f.lu, false);
	assert_int_equal(scsi_ua_take(f.lu, &f.nexus), SCSI_UA_MODE);
	assert_int_equal(scsi_ua_take(f.lu, &f.nexus), SCSI_UA_PARAMETERS);
	if (c->op == 0x2a) {
		run(&f, c->op, c->byte1, 0, c->count, c->direction, buf, c->len);
		fix_good(&f);
	}
	fix_free(&f);
}

/* ---- capacities ------------------------------------------------------------------------------------------ */

static const struct capacity_row {
	const char *name;
	uint64_t size;
	uint32_t sector, last_10;
	uint64_t last_16;
	uint8_t exponent;
} capacity_rows[] = {
	{ "64 MiB", SP_MIB(64), 512, BLOCKS - 1, BLOCKS - 1, 3 },
	{ "blocks of 4096", SP_MIB(64), 4096, BLOCKS / 8 - 1, BLOCKS / 8 - 1, 0 },
	{ "one block below 2 TiB", SP_TIB(2) - 512, 512, 0xfffffffe, 0xfffffffe, 3 },
	{ "2 TiB", SP_TIB(2), 512, UINT32_MAX, UINT32_MAX, 3 },
	{ "64 TiB", SP_TIB(64), 512, UINT32_MAX, (UINT64_C(1) << 37) - 1, 3 },
};

static void capacity(void **state)
{
	const struct capacity_row *c = *state;
	uint8_t want[32] = { 0 };
	struct scsi_fix f;

	fix_null(&f, c->size, c->sector);
	run(&f, 0x25, 0, 0, 0, IN, buf, 8);
	fix_good(&f);
	assert_memory_equal(buf, be32_make(c->last_10).b, 4);
	assert_memory_equal(buf + 4, be32_make(c->sector).b, 4);
	memcpy(want, be64_make(c->last_16).b, 8);
	memcpy(want + 8, be32_make(c->sector).b, 4);
	want[13] = c->exponent;
	want[14] = 0x80;		/* LBPME; what is unmapped reads as anything there */
	memset(buf, 0xcc, 40);
	run(&f, 0x9e, 0x10, 0, 40, IN, buf, 40);
	fix_good(&f);
	assert_int_equal(f.reply.transferred, 32);
	assert_memory_equal(buf, want, 32);
	run(&f, 0x9e, 0x10, 0, 12, IN, buf, 40);
	fix_good(&f);
	assert_int_equal(f.reply.transferred, 12);
	run(&f, 0x9e, 0x10, 0, 0, NONE, NULL, 0);
	fix_good(&f);
	fix_free(&f);
}

static const struct single_row single_rows[] = {
	{ "a buffer longer than needed", long_buffer },
	{ "SYNCHRONIZE CACHE, IMMED", sync_immed },
};

int main(void)
{
	int failed = 0;

	failed += rows_run("range_rows", ranges, range_rows, sizeof(range_rows[0]), make_range_rows());
	failed += ROWS_RUN(fault_rows, faults);
	failed += ROWS_RUN(round_rows, round_trip);
	failed += ROWS_RUN(verify_rows, verify);
	failed += ROWS_RUN(caw_rows, compare_and_write);
	failed += ROWS_RUN(durable_rows, durable);
	failed += ROWS_RUN(broken_rows, broken);
	failed += ROWS_RUN(protect_rows, protect);
	failed += ROWS_RUN(capacity_rows, capacity);
	failed += ROWS_RUN(single_rows, rows_single);
	return failed;
}
