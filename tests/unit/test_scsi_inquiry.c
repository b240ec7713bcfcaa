/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Who the unit says it is: INQUIRY and its pages, the absent unit, REPORT LUNS, supported opcodes, REQUEST SENSE, and
 * the small primary commands.
 */
#include <errno.h>

#include "storvsp/scsi_spc_int.h"
#include "tests/unit/rows.h"
#include "tests/unit/scsi_fixture.h"

#define POISON 0xa5

static void inquire(struct scsi_fix *f, uint8_t flags, uint8_t page, uint16_t allocation, uint8_t data[256])
{
	memset(data, POISON, 256);
	fix_run(f, CDB(0x12, flags, page, (uint8_t)(allocation >> 8), (uint8_t)allocation), SCSI_FROM_DEVICE, data,
		256);
}

/* ---- standard data ---------------------------------------------------------------------------------------- */

static void check_standard(const uint8_t *d, bool dvd)
{
	assert_int_equal(d[0], dvd ? 0x05 : 0x00);
	assert_int_equal(d[1], dvd ? 0x80 : 0x00);
	assert_int_equal(d[2], 0x06);
	assert_int_equal(d[3], 0x02);
	assert_int_equal(d[4], 96 - 5);
	assert_int_equal(d[7], 0x02);
	assert_memory_equal(d + 8, "Msft    ", 8);
	assert_memory_equal(d + 16, dvd ? "Virtual DVD-ROM " : "Virtual Disk    ", 16);
	assert_memory_equal(d + 32, "1.0 ", 4);
	assert_int_equal(scsi_get16(d + 60), 0x0460);
}

static void standard(void **state)
{
	struct scsi_fix f;
	uint8_t d[256];

	fix_null(&f, SP_MIB(64), 512);
	inquire(&f, 0, 0, 255, d);
	fix_good(&f);
	assert_int_equal(f.reply.transferred, 96);
	check_standard(d, false);
	fix_free(&f);
	fix_dvd(&f, 0);
	inquire(&f, 0, 0, 255, d);
	fix_good(&f);
	check_standard(d, true);
	fix_free(&f);
}

/* Cut to any length, never failed for being small, never longer than asked for. */
static void cut(void **state)
{
	struct scsi_fix f;
	uint8_t whole[256], d[256];

	fix_null(&f, SP_MIB(64), 512);
	inquire(&f, 0, 0, 256, whole);
	for (uint16_t n = 0; n < 100; n++) {
		inquire(&f, 0, 0, n, d);
		fix_good(&f);
		assert_int_equal(f.reply.transferred, n < 96 ? n : 96);
		assert_memory_equal(d, whole, f.reply.transferred);
		assert_int_equal(d[f.reply.transferred], POISON);
	}
	fix_free(&f);
}

static const struct refused_row {
	const char *name;
	bool dvd;
	uint8_t cdb[16];
	uint16_t field;
} refused_rows[] = {
	{ "a page without EVPD", false, { 0x12, 0, 0x80, 0, 96 }, 2 },
	{ "command support data", false, { 0x12, 2, 0, 0, 96 }, 1 },
	{ "EVPD and a reserved bit", false, { 0x12, 5, 0, 0, 96 }, 1 },
	{ "page 81h", false, { 0x12, 1, 0x81, 0, 96 }, 2 },
	{ "page FFh", false, { 0x12, 1, 0xff, 0, 96 }, 2 },
	{ "block limits of a drive", true, { 0x12, 1, 0xb0, 0, 96 }, 2 },
	{ "provisioning of a drive", true, { 0x12, 1, 0xb2, 0, 96 }, 2 },
	{ "REPORT LUNS with 15 bytes", false, { 0xa0, [9] = 15 }, 6 },
	{ "REPORT LUNS, select 3", false, { 0xa0, 0, 3, [9] = 64 }, 2 },
	{ "START STOP, eject a disk", false, { 0x1b, 0, 0, 0, 2 }, 4 },
	{ "START STOP, power condition of a disk", false, { 0x1b, 0, 0, 0, 0x30 }, 4 },
	{ "PREVENT ALLOW, persistent, of a disk", false, { 0x1e, 0, 0, 0, 2 }, 4 },
	{ "SEND DIAGNOSTIC with a list", false, { 0x1d, 0x10, 0, 0, 8 }, 3 },
	{ "SEND DIAGNOSTIC, extended self-test", false, { 0x1d, 0x20 }, 1 },
	{ "REPORT TARGET PORT GROUPS", false, { 0xa3, 0x0a, [9] = 64 }, 1 },
	{ "opcodes, option 4", false, { 0xa3, 0x0c, 4, [9] = 64 }, 2 },
	{ "opcode of many actions without one", false, { 0xa3, 0x0c, 1, 0x5e, [9] = 64 }, 3 },
	{ "opcode without actions with one", false, { 0xa3, 0x0c, 2, 0x12, [9] = 64 }, 4 },
};

static void refused(void **state)
{
	const struct refused_row *c = *state;
	struct scsi_fix f;
	uint8_t d[256];

	if (c->dvd)
		fix_dvd(&f, 0);
	else
		fix_null(&f, SP_MIB(64), 512);
	fix_run(&f, c->cdb, SCSI_FROM_DEVICE, d, sizeof(d));
	fix_sense(&f, SCSI_SENSE_INVALID_FIELD);
	assert_int_equal(f.reply.transferred, 0);
	assert_int_equal(f.reply.sense[15], 0xc0);
	assert_int_equal(scsi_get16(f.reply.sense + 16), c->field);
	fix_free(&f);
}

/* What is not offered says so: FORMAT UNIT above all, and the wrappers of ATA commands. */
static void unknown_opcodes(void **state)
{
	static const uint8_t opcodes[] = { 0x04, 0x3b, 0x3c, 0x48, 0x83, 0x84, 0x85, 0xa1, 0xa2, 0xb5, 0xc0, 0xff };
	struct scsi_fix f;

	fix_null(&f, SP_MIB(64), 512);
	for (size_t i = 0; i < SP_ARRAY_SIZE(opcodes); i++) {
		fix_run(&f, CDB(opcodes[i]), SCSI_NO_DATA, NULL, 0);
		fix_sense(&f, SCSI_SENSE_INVALID_OPCODE);
	}
	fix_free(&f);
}

/* ---- pages ------------------------------------------------------------------------------------------------ */

static uint16_t page(struct scsi_fix *f, uint8_t code, uint8_t d[256])
{
	inquire(f, 1, code, 255, d);
	fix_good(f);
	assert_int_equal(d[1], code);
	assert_int_equal(f->reply.transferred, 4 + scsi_get16(d + 2));
	return scsi_get16(d + 2);
}

static void page_list(void **state)
{
	static const uint8_t disk[] = { 0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2 }, dvd[] = { 0x00, 0x80, 0x83 };
	struct scsi_fix f;
	uint8_t d[256];

	fix_null(&f, SP_MIB(64), 512);
	assert_int_equal(page(&f, 0x00, d), sizeof(disk));
	assert_memory_equal(d + 4, disk, sizeof(disk));
	for (size_t i = 0; i < sizeof(disk); i++)
		page(&f, disk[i], d);
	fix_free(&f);
	fix_dvd(&f, 0);
	assert_int_equal(page(&f, 0x00, d), sizeof(dvd));
	assert_memory_equal(d + 4, dvd, sizeof(dvd));
	page(&f, 0x83, d);
	assert_int_equal(d[0], 0x05);
	fix_free(&f);
}

static void identity_pages(const struct sp_guid *identity, const char *serial, uint8_t ret_serial[256],
			   uint8_t ret_id[256])
{
	struct scsi_lu_opts opts = { .kind = SCSI_DISK, .identity = *identity, .serial = serial };
	struct scsi_fix f = { 0 };

	must(scsi_backend_null(SP_MIB(64), 512, &opts.backend), NULL);
	fix_unit(&f, &opts, false);
	page(&f, 0x80, ret_serial);
	page(&f, 0x83, ret_id);
	fix_free(&f);
}

static void identification(void **state)
{
	uint8_t serial[256], id[256], other[256];
	struct sp_guid identity = fix_identity;
	char text[SP_GUID_TEXT];

	identity_pages(&identity, NULL, serial, id);
	sp_guid_format_le(&identity, text);
	assert_int_equal(scsi_get16(serial + 2), 36);
	assert_memory_equal(serial + 4, text, 36);
	assert_int_equal(id[4], 0x01);				/* binary, NAA */
	assert_int_equal(id[5], 0x03);
	assert_int_equal(id[7], 16);
	assert_int_equal(scsi_get32(id + 8) >> 4, 0x6002248);
	assert_int_equal(id[24], 0x02);				/* ASCII, T10 vendor */
	assert_int_equal(id[25], 0x01);
	assert_int_equal(id[27], 44);
	assert_memory_equal(id + 28, "Msft    ", 8);
	assert_memory_equal(id + 36, text, 36);
	identity_pages(&identity, "disk-7", serial, other);	/* stable, whatever the serial number is */
	assert_memory_equal(other, id, 256);
	assert_int_equal(scsi_get16(serial + 2), 6);
	assert_memory_equal(serial + 4, "disk-7", 6);
	for (unsigned i = 0; i < 16; i++) {			/* each byte makes another name */
		identity = fix_identity;
		identity.b[i] ^= 0x11;
		identity_pages(&identity, NULL, serial, other);
		assert_memory_not_equal(other + 8, id + 8, 16);
		assert_memory_not_equal(other + 36, id + 36, 36);
	}
}

static void limits(void **state)
{
	struct scsi_fix f;
	uint8_t d[256];

	fix_disk(&f, &(struct fix_opts){ 0 });
	assert_int_equal(page(&f, 0xb0, d), 0x3c);
	assert_int_equal(d[4], 0);				/* count 0 of WRITE SAME is allowed */
	assert_int_equal(d[5], SCSI_COMPARE_BLOCKS_MAX);
	assert_int_equal(scsi_get32(d + 20), UINT32_MAX);
	assert_int_equal(scsi_get32(d + 24), SCSI_UNMAP_DESCRIPTORS_MAX);
	assert_int_equal(scsi_get32(d + 28), SP_MIB(1) / 512);
	assert_int_equal(scsi_get32(d + 32), 0x80000000u);
	for (unsigned i = 44; i < 64; i++)
		assert_int_equal(d[i], 0);
	assert_int_equal(page(&f, 0xb1, d), 0x3c);
	assert_int_equal(scsi_get16(d + 4), 1);
	assert_int_equal(page(&f, 0xb2, d), 4);
	assert_int_equal(d[4], 11);				/* counts by mebibytes: 2^11 blocks */
	assert_int_equal(d[5], 0xe4);
	assert_int_equal(d[6], 0x02);
	fix_free(&f);
}

/* A unit that cannot unmap does not speak of it. */
static void no_unmap(void **state)
{
	struct scsi_lu_opts opts = { .kind = SCSI_DISK, .identity = fix_identity };
	struct scsi_geometry g;
	struct scsi_fix f = { 0 };
	uint8_t d[256];

	must(scsi_backend_null(SP_MIB(64), 4096, &opts.backend), NULL);
	fix_unit(&f, &opts, false);
	f.lu->geometry.unmap_granularity = 0;
	scsi_lu_geometry(f.lu, &g);
	assert_int_equal(g.unmap_granularity, 0);
	page(&f, 0xb0, d);
	assert_int_equal(scsi_get32(d + 20) | scsi_get32(d + 24) | scsi_get32(d + 28), 0);
	page(&f, 0xb2, d);
	assert_int_equal(scsi_get32(d + 4), 0);
	fix_free(&f);
}

/* ---- a unit that is not there ------------------------------------------------------------------------------ */

static unsigned absent_ended;

static void absent_done(struct scsi_task *t)
{
	absent_ended++;
}

static bool absent(struct scsi_task *t, const uint8_t cdb[16], uint8_t *data, uint32_t len)
{
	static const uint8_t luns[] = { 0, 3, 63 };
	static struct iovec iov;

	memset(t, 0, sizeof(*t));
	memcpy(t->cdb, cdb, 16);
	iov = (struct iovec){ data, len };
	t->direction = SCSI_FROM_DEVICE;
	t->iov = &iov;
	t->iovcnt = 1;
	t->data_len = len;
	t->done = absent_done;
	absent_ended = 0;
	memset(data, POISON, len);
	return scsi_execute_absent(t, luns, 3);
}

static void absent_unit(void **state)
{
	struct scsi_task t;
	uint8_t d[256];

	assert_true(absent(&t, CDB(0x12, 0, 0, 0, 36), d, sizeof(d)));
	assert_int_equal(absent_ended, 1);
	assert_int_equal(t.status, SCSI_GOOD);
	assert_int_equal(t.transferred, 36);
	assert_int_equal(d[0], 0x7f);
	assert_true(absent(&t, CDB(0x12, 1, 0x83, 0, 255), d, sizeof(d)));
	assert_int_equal(absent_ended, 1);
	assert_int_equal(t.status, SCSI_CHECK_CONDITION);
	assert_int_equal(t.transferred, 0);
	assert_int_equal(t.sense[12], 0x24);
	assert_true(absent(&t, CDB(0xa0, [9] = 255), d, sizeof(d)));
	assert_int_equal(t.transferred, 32);
	assert_int_equal(scsi_get32(d), 24);
	assert_int_equal(d[9] << 16 | d[17] << 8 | d[25], 0x00033f);
	assert_true(absent(&t, CDB(0xa0, [9] = 8), d, sizeof(d)));
	assert_int_equal(t.status, SCSI_CHECK_CONDITION);
	assert_false(absent(&t, CDB(0x00), d, sizeof(d)));
	assert_false(absent(&t, CDB(0x28), d, sizeof(d)));
	assert_int_equal(absent_ended, 0);
}

/* ---- REPORT LUNS ------------------------------------------------------------------------------------------- */

static unsigned some_luns(void *ctx, uint8_t ret_lun[256])
{
	ret_lun[0] = 2;
	ret_lun[1] = 63;
	return *(unsigned *)ctx;
}

static void luns(void **state)
{
	struct scsi_fix f;
	unsigned count = 2;
	uint8_t d[64];

	fix_null(&f, SP_MIB(64), 512);
	fix_run(&f, CDB(0xa0, [9] = 64), SCSI_FROM_DEVICE, d, sizeof(d));
	assert_int_equal(scsi_get32(d), 8);
	scsi_queue_set_luns(f.queue, some_luns, &count);
	fix_run(&f, CDB(0xa0, [9] = 64), SCSI_FROM_DEVICE, d, sizeof(d));
	fix_good(&f);
	assert_int_equal(f.reply.transferred, 24);
	assert_int_equal(scsi_get32(d), 16);
	assert_int_equal(scsi_get16(d + 8), 2);
	assert_int_equal(scsi_get16(d + 16), 63);
	fix_run(&f, CDB(0xa0, 0, 1, [9] = 64), SCSI_FROM_DEVICE, d, sizeof(d));
	assert_int_equal(scsi_get32(d), 0);
	count = 0;
	fix_run(&f, CDB(0xa0, 0, 2, [9] = 64), SCSI_FROM_DEVICE, d, sizeof(d));
	fix_good(&f);
	assert_int_equal(scsi_get32(d), 0);
	fix_free(&f);
}

/* ---- opcodes ----------------------------------------------------------------------------------------------- */

static bool known(enum scsi_kind kind, uint8_t opcode, uint16_t action)
{
	uint8_t cdb[16] = { opcode, (uint8_t)action };

	return scsi_command_find(kind, cdb) != NULL;
}

static void every_opcode(void **state)
{
	static uint8_t d[4096];
	struct scsi_fix f;
	uint8_t one[64];
	uint32_t len;

	fix_null(&f, SP_MIB(64), 512);
	fix_run(&f, CDB(0xa3, 0x0c, 0x80, [8] = 0x10), SCSI_FROM_DEVICE, d, sizeof(d));
	fix_good(&f);
	len = scsi_get32(d);
	assert_int_equal(f.reply.transferred, len + 4);
	assert_int_equal(len % 20, 0);
	assert_in_range(len / 20, 40, 100);
	for (uint8_t *c = d + 4; c < d + 4 + len; c += 20) {
		bool action = c[5] & 0x01;

		assert_true(known(SCSI_DISK, c[0], scsi_get16(c + 2)));
		assert_int_equal(scsi_get16(c + 8), 10);
		fix_run(&f, CDB(0xa3, 0x0c, action ? 2 : 1, c[0], c[2], c[3], [9] = 64), SCSI_FROM_DEVICE, one,
			sizeof(one));
		fix_good(&f);
		assert_int_equal(one[1], 0x03);
		assert_int_equal(scsi_get16(one + 2), scsi_get16(c + 6));
		assert_int_equal(one[4], c[0]);
		if (action)
			assert_int_equal(one[5] & 0x1f, c[3]);
	}
	fix_free(&f);
}

static void opcode_not_there(void **state)
{
	struct scsi_fix f;
	uint8_t d[64];

	fix_null(&f, SP_MIB(64), 512);
	fix_run(&f, CDB(0xa3, 0x0c, 1, 0x04, [9] = 64), SCSI_FROM_DEVICE, d, sizeof(d));
	fix_good(&f);
	assert_int_equal(d[1], 0x01);
	assert_int_equal(f.reply.transferred, 4);
	fix_run(&f, CDB(0xa3, 0x0c, 3, 0x5e, 0, 9, [9] = 64), SCSI_FROM_DEVICE, d, sizeof(d));
	assert_int_equal(d[1], 0x01);
	fix_run(&f, CDB(0xa3, 0x0c, 3, 0x12, 0, 1, [9] = 64), SCSI_FROM_DEVICE, d, sizeof(d));
	assert_int_equal(d[1], 0x01);
	fix_run(&f, CDB(0xa3, 0x0c, 0x81, 0x12, [9] = 64), SCSI_FROM_DEVICE, d, sizeof(d));
	assert_int_equal(d[1], 0x83);
	assert_int_equal(f.reply.transferred, 4 + 6 + 12);
	fix_run(&f, CDB(0xa3, 0x0c, 1, 0x4a, [9] = 64), SCSI_FROM_DEVICE, d, sizeof(d));
	assert_int_equal(d[1], 0x01);		/* of drives alone */
	fix_run(&f, CDB(0xa3, 0x0d, [9] = 64), SCSI_FROM_DEVICE, d, sizeof(d));
	assert_int_equal(f.reply.transferred, 4);
	assert_int_equal(d[0], 0x08);
	fix_free(&f);
}

/* ---- REQUEST SENSE, diagnostics ----------------------------------------------------------------------------- */

static void request_sense(void **state)
{
	struct scsi_fix f;
	uint8_t d[32];

	fix_null(&f, SP_MIB(64), 512);
	scsi_lu_resized(f.lu);
	scsi_lu_parameters_changed(f.lu);
	fix_run(&f, CDB(0x03, 0, 0, 0, 32), SCSI_FROM_DEVICE, d, sizeof(d));
	fix_good(&f);
	assert_int_equal(f.reply.transferred, 18);
	assert_int_equal(SCSI_SENSE(d[2], d[12], d[13]), SCSI_UA_CAPACITY);
	fix_run(&f, CDB(0x03, 1, 0, 0, 32), SCSI_FROM_DEVICE, d, sizeof(d));
	assert_int_equal(f.reply.transferred, 8);
	assert_int_equal(d[0], 0x72);
	assert_int_equal(SCSI_SENSE(d[1], d[2], d[3]), SCSI_UA_PARAMETERS);
	fix_run(&f, CDB(0x03, 0, 0, 0, 32), SCSI_FROM_DEVICE, d, sizeof(d));
	assert_int_equal(SCSI_SENSE(d[2], d[12], d[13]), 0);
	fix_run(&f, CDB(0x00), SCSI_NO_DATA, NULL, 0);
	fix_good(&f);
	fix_free(&f);
}

/* Stopping and the self-test flush: after a failure they fail. */
static void flushes(void **state)
{
	struct fault_plan plan;
	struct scsi_fix f;
	uint8_t d[512] = { 1 };

	fix_disk(&f, &(struct fix_opts){ .plan = &plan });
	fix_run(&f, CDB(0x1b, 1), SCSI_NO_DATA, NULL, 0);
	fix_good(&f);
	fix_run(&f, CDB(0x1d, 4), SCSI_NO_DATA, NULL, 0);
	fix_good(&f);
	fix_run(&f, CDB(0x2a, [8] = 1), SCSI_TO_DEVICE, d, sizeof(d));
	fix_good(&f);
	fault_plan_set(&plan, FAULT_SYNC, 1, -EIO, true, false);
	fix_run(&f, CDB(0x1b), SCSI_NO_DATA, NULL, 0);
	assert_int_equal(f.reply.status, SCSI_CHECK_CONDITION);
	fix_run(&f, CDB(0x1d, 4), SCSI_NO_DATA, NULL, 0);
	assert_int_equal(f.reply.status, SCSI_CHECK_CONDITION);
	fix_run(&f, CDB(0x1b, 0, 0, 0, 1), SCSI_NO_DATA, NULL, 0);	/* starting has nothing to flush */
	fix_good(&f);
	fix_run(&f, CDB(0x1d), SCSI_NO_DATA, NULL, 0);
	fix_good(&f);
	fix_free(&f);
}

static const struct single_row singles[] = {
	{ "standard data", standard },
	{ "standard data is cut", cut },
	{ "opcodes that are not offered", unknown_opcodes },
	{ "list of pages", page_list },
	{ "serial number and designators", identification },
	{ "block limits, characteristics, provisioning", limits },
	{ "no UNMAP", no_unmap },
	{ "a unit that is not there", absent_unit },
	{ "REPORT LUNS", luns },
	{ "every opcode", every_opcode },
	{ "an opcode that is not there", opcode_not_there },
	{ "REQUEST SENSE", request_sense },
	{ "stop and self-test flush", flushes },
};

int main(void)
{
	return ROWS_RUN(singles, rows_single) + ROWS_RUN(refused_rows, refused);
}
