/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The DVD drive: tray, lock and events from both sides, configuration, and what is on the disc.
 */
#include <errno.h>

#include "storvsp/scsi_mmc_int.h"
#include "tests/unit/rows.h"
#include "tests/unit/scsi_fixture.h"

#define DISC	(SP_MIB(1) + 2048)	/* 513 blocks: a CD */
#define BLOCKS	513u

#define TUR(f)		 command((f), CDB(0x00))
#define EJECT(f)	 command((f), CDB(0x1b, 0, 0, 0, 2))
#define LOAD(f)		 command((f), CDB(0x1b, 0, 0, 0, 3))
#define PREVENT(f, yes)	 command((f), CDB(0x1e, 0, 0, 0, (yes)))

static uint32_t command_as(struct scsi_fix *f, const struct scsi_nexus *nexus, const uint8_t cdb[16])
{
	fix_run_as(f, nexus, cdb, SCSI_NO_DATA, NULL, 0);
	return fix_get_sense(f);
}

static uint32_t command(struct scsi_fix *f, const uint8_t cdb[16])
{
	return command_as(f, &f->nexus, cdb);
}

/* Event code and status byte of the medium. */
static uint16_t event(struct scsi_fix *f)
{
	uint8_t d[8];

	fix_run(f, CDB(0x4a, 1, 0, 0, 0x10, [8] = 8), SCSI_FROM_DEVICE, d, sizeof(d));
	fix_good(f);
	assert_int_equal(f->reply.transferred, 8);
	assert_int_equal(scsi_get32(d), 0x00060410);
	return scsi_get16(d + 4);
}

static uint32_t get(struct scsi_fix *f, const uint8_t cdb[16], uint8_t d[4096])
{
	memset(d, 0xa5, 4096);
	fix_run(f, cdb, SCSI_FROM_DEVICE, d, 4096);
	fix_good(f);
	return f->reply.transferred;
}

/* ---- tray, lock, events ------------------------------------------------------------------------------------ */

static void guest_ejects_and_loads(void **state)
{
	struct scsi_fix f;
	uint8_t d[4096];

	fix_dvd(&f, DISC);
	assert_int_equal(TUR(&f), 0);
	assert_int_equal(event(&f), 0x0002);
	assert_int_equal(EJECT(&f), 0);
	assert_int_equal(TUR(&f), SCSI_SENSE_NO_MEDIUM_OPEN);
	assert_int_equal(event(&f), 0x0301);
	assert_int_equal(event(&f), 0x0001);		/* told once */
	get(&f, CDB(0xbd, [9] = 8), d);
	assert_int_equal(d[1], 0x10);
	assert_int_equal(EJECT(&f), 0);			/* it is open */
	assert_int_equal(event(&f), 0x0001);
	assert_int_equal(LOAD(&f), 0);
	assert_int_equal(TUR(&f), 0);			/* the same disc, and the loader knows */
	assert_int_equal(event(&f), 0x0202);
	assert_int_equal(event(&f), 0x0002);
	get(&f, CDB(0xbd, [9] = 8), d);
	assert_int_equal(d[1], 0);
	fix_free(&f);
}

static void lock(void **state)
{
	struct sp_guid id = { { 9 } };
	struct scsi_nexus other;
	struct scsi_fix f;

	fix_dvd(&f, DISC);
	must(scsi_lu_connect(f.lu, &id, &other), NULL);
	scsi_ua_take(f.lu, &other);
	assert_int_equal(PREVENT(&f, 1), 0);
	assert_int_equal(EJECT(&f), SCSI_SENSE_PREVENTED);
	assert_int_equal(command_as(&f, &other, CDB(0x1b, 0, 0, 0, 2)), SCSI_SENSE_PREVENTED);
	assert_int_equal(scsi_lu_eject(f.lu, false), -EBUSY);
	assert_int_equal(TUR(&f), 0);
	assert_int_equal(event(&f), 0x0002);
	assert_int_equal(command_as(&f, &other, CDB(0x1e)), 0);	/* allows for itself alone */
	assert_int_equal(EJECT(&f), SCSI_SENSE_PREVENTED);
	assert_int_equal(PREVENT(&f, 2), SCSI_SENSE_INVALID_FIELD);
	assert_int_equal(PREVENT(&f, 0), 0);
	assert_int_equal(EJECT(&f), 0);
	assert_int_equal(LOAD(&f), 0);
	assert_int_equal(scsi_ua_take(f.lu, &other), SCSI_UA_MEDIUM);
	assert_int_equal(command_as(&f, &other, CDB(0x1e, 0, 0, 0, 1)), 0);
	scsi_lu_disconnect(f.lu, &other);		/* takes its lock along */
	assert_int_equal(EJECT(&f), 0);
	assert_int_equal(LOAD(&f), 0);
	assert_int_equal(PREVENT(&f, 1), 0);
	scsi_lu_power_on(f.lu, &f.nexus);		/* so does a reset */
	assert_int_equal(TUR(&f), SCSI_UA_POWER_ON);
	assert_int_equal(EJECT(&f), 0);
	fix_free(&f);
}

static void host_ejects_and_inserts(void **state)
{
	struct scsi_backend *medium;
	struct vhd_disk *second;
	struct scsi_fix f;
	uint8_t d[4096];

	fix_dvd(&f, DISC);
	assert_int_equal(get(&f, CDB(0x28, [8] = 1), d), 2048);
	assert_int_equal(PREVENT(&f, 1), 0);
	assert_int_equal(scsi_lu_eject(f.lu, true), 0);
	assert_int_equal(TUR(&f), SCSI_SENSE_NO_MEDIUM_OPEN);
	assert_int_equal(event(&f), 0x0301);
	assert_int_equal(LOAD(&f), 0);			/* of nothing */
	assert_int_equal(TUR(&f), SCSI_SENSE_NO_MEDIUM_CLOSED);
	assert_int_equal(event(&f), 0x0000);
	assert_int_equal(scsi_lu_eject(f.lu, false), -ENOMEDIUM);

	second = fix_iso(f.folder, "second", 10 * 2048);
	must(scsi_backend_disk(second, &medium), NULL);
	assert_int_equal(scsi_lu_insert(f.lu, medium), 0);
	assert_int_equal(event(&f), 0x0202);		/* despite the unit attention */
	assert_int_equal(TUR(&f), SCSI_UA_MEDIUM);
	assert_int_equal(TUR(&f), 0);
	get(&f, CDB(0x25), d);
	assert_int_equal(scsi_get32(d), 9);
	assert_int_equal(scsi_lu_insert(f.lu, medium), -EBUSY);
	fix_close(&f);
	vhd_disk_abandon(second);
	vhd_disk_abandon(f.disk);
	store_folder_close(f.folder);
}

static void empty_drive(void **state)
{
	static const uint8_t opcodes[] = { 0x25, 0x28, 0x43, 0x51, 0x52, 0xad };
	struct scsi_fix f;
	uint8_t d[4096];

	fix_dvd(&f, 0);
	assert_int_equal(TUR(&f), SCSI_SENSE_NO_MEDIUM_CLOSED);
	for (size_t i = 0; i < SP_ARRAY_SIZE(opcodes); i++)
		assert_int_equal(command(&f, CDB(opcodes[i])), SCSI_SENSE_NO_MEDIUM_CLOSED);
	assert_int_equal(event(&f), 0x0000);
	get(&f, CDB(0x46, [8] = 8), d);
	assert_int_equal(scsi_get16(d + 6), 0);		/* no profile */
	assert_int_equal(EJECT(&f), 0);
	assert_int_equal(TUR(&f), SCSI_SENSE_NO_MEDIUM_OPEN);
	assert_int_equal(event(&f), 0x0001);		/* nothing was removed */
	fix_free(&f);
}

static void other_events(void **state)
{
	struct scsi_fix f;
	uint8_t d[4096];

	fix_dvd(&f, DISC);
	assert_int_equal(command(&f, CDB(0x4a, 0, 0, 0, 0x10, [8] = 8)), SCSI_SENSE_INVALID_FIELD);
	assert_int_equal(get(&f, CDB(0x4a, 1, 0, 0, 0x04, [8] = 8), d), 4);
	assert_int_equal(scsi_get32(d), 0x00028010);
	EJECT(&f);
	assert_int_equal(get(&f, CDB(0x4a, 1, 0, 0, 0x10, [8] = 4), d), 4);
	assert_int_equal(event(&f), 0x0301);		/* was cut off, so it was not told */
	assert_int_equal(command(&f, CDB(0x1b, 0, 0, 0, 0x30)), 0);
	assert_int_equal(command(&f, CDB(0x1b, 0, 0, 0, 0)), 0);
	fix_free(&f);
}

/* ---- configuration ------------------------------------------------------------------------------------------ */

static const struct configuration_row {
	const char *name;
	uint64_t size;
	uint8_t request, start;
	uint16_t profile;
	uint16_t features[10], count;
} configuration_rows[] = {
	{ "all of an empty drive", 0, 0, 0, 0x0000, { 0, 1, 2, 3, 0x10, 0x1e, 0x1f, 0x100, 0x105 }, 9 },
	{ "current of an empty drive", 0, 1, 0, 0x0000, { 0, 1, 2, 3, 0x100, 0x105 }, 6 },
	{ "current with a CD", DISC, 1, 0, 0x0008, { 0, 1, 2, 3, 0x10, 0x1e, 0x100, 0x105 }, 8 },
	{ "current with a DVD", SP_MIB(704), 1, 0, 0x0010, { 0, 1, 2, 3, 0x10, 0x1f, 0x100, 0x105 }, 8 },
	{ "from 1Eh on", DISC, 0, 0x1e, 0x0008, { 0x1e, 0x1f, 0x100, 0x105 }, 4 },
	{ "one", DISC, 2, 0x03, 0x0008, { 3 }, 1 },
	{ "one that is not there", DISC, 2, 0x21, 0x0008, { 0 }, 0 },
};

static void configuration(void **state)
{
	const struct configuration_row *c = *state;
	struct scsi_fix f;
	uint8_t d[4096];
	uint32_t len, at = 8;

	fix_dvd(&f, 0);
	if (c->size > 0) {
		struct scsi_backend *b;

		must(scsi_backend_null(c->size, 512, &b), NULL);
		must(scsi_lu_insert(f.lu, b), NULL);
		scsi_ua_take(f.lu, &f.nexus);
	}
	len = get(&f, CDB(0x46, c->request, 0, c->start, [7] = 1), d);
	assert_int_equal(scsi_get32(d), len - 4);
	assert_int_equal(scsi_get16(d + 6), c->profile);
	for (unsigned i = 0; i < c->count; i++) {
		assert_in_range(at, 8, len - 4);
		assert_int_equal(scsi_get16(d + at), c->features[i]);
		if (c->request == 1)
			assert_int_equal(d[at + 2] & 1, 1);
		if (c->features[i] == 0) {
			assert_int_equal(scsi_get32(d + at + 4), 0x00100000 | (c->profile == 0x10) << 8);
			assert_int_equal(scsi_get32(d + at + 8), 0x00080000 | (c->profile == 0x08) << 8);
		}
		at += 4u + d[at + 3];
	}
	assert_int_equal(at, len);
	fix_free(&f);
}

/* ---- the disc ----------------------------------------------------------------------------------------------- */

static void reading(void **state)
{
	struct scsi_fix f;
	uint8_t d[4096];

	fix_dvd(&f, DISC + 512);			/* a tail that fills no block is not there */
	get(&f, CDB(0x25), d);
	assert_int_equal(scsi_get32(d), BLOCKS - 1);
	assert_int_equal(scsi_get32(d + 4), 2048);
	assert_int_equal(get(&f, CDB(0x28, 0, 0, 0, 0, 7, [8] = 2), d), 4096);
	assert_int_equal(d[0], 7);
	assert_int_equal(d[2047], 7);
	assert_int_equal(d[2048], 8);
	assert_int_equal(get(&f, CDB(0xa8, 0, 0, 0, 2, 0, [9] = 1), d), 2048);
	assert_int_equal(d[0], (uint8_t)512);
	fix_run(&f, CDB(0x28, 0, 0, 0, 2, 0, [8] = 2), SCSI_FROM_DEVICE, d, 4096);
	fix_sense(&f, SCSI_SENSE_LBA_RANGE);
	fix_run(&f, CDB(0x2a, [8] = 1), SCSI_TO_DEVICE, d, 2048);
	fix_sense(&f, SCSI_SENSE_WRITE_PROTECTED);
	fix_run(&f, CDB(0xaa, [9] = 1), SCSI_TO_DEVICE, d, 2048);
	fix_sense(&f, SCSI_SENSE_WRITE_PROTECTED);
	fix_run(&f, CDB(0x42, [8] = 24), SCSI_TO_DEVICE, d, 24);
	fix_sense(&f, SCSI_SENSE_INVALID_OPCODE);
	fix_free(&f);
}

static const struct toc_row {
	const char *name;
	uint8_t cdb[16], len, want[20];
	uint32_t sense;
} toc_rows[] = {
	{ "track and lead-out", { 0x43, [8] = 100 }, 20,
	  { 0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xaa, 0, 0, 0, 2, 1 } },
	{ "by time", { 0x43, 2, [8] = 100 }, 20,
	  { 0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 2, 0, 0, 0x14, 0xaa, 0, 0, 0, 8, 63 } },
	{ "lead-out alone", { 0x43, 0, 0, 0, 0, 0, 0xaa, 0, 100 }, 12,
	  { 0, 10, 1, 1, 0, 0x14, 0xaa, 0, 0, 0, 2, 1 } },
	{ "session", { 0x43, 0, 1, [8] = 100 }, 12, { 0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0 } },
	{ "session, the old way", { 0x43, [8] = 100, [9] = 0x40 }, 12, { 0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0 } },
	{ "cut", { 0x43, [8] = 4 }, 4, { 0, 18, 1, 1 } },
	{ "track 2", { 0x43, 0, 0, 0, 0, 0, 2, 0, 100 }, 0, { 0 }, SCSI_SENSE_INVALID_FIELD },
	{ "full", { 0x43, 0, 2, [8] = 100 }, 0, { 0 }, SCSI_SENSE_INVALID_FIELD },
	{ "ATIP, the old way", { 0x43, [8] = 100, [9] = 0x80 }, 0, { 0 }, SCSI_SENSE_INVALID_FIELD },
};

static void toc(void **state)
{
	const struct toc_row *c = *state;
	struct scsi_fix f;
	uint8_t d[100];

	fix_dvd(&f, DISC);
	fix_run(&f, c->cdb, SCSI_FROM_DEVICE, d, sizeof(d));
	if (c->sense != 0) {
		fix_sense(&f, c->sense);
	} else {
		fix_good(&f);
		assert_int_equal(f.reply.transferred, c->len);
		assert_memory_equal(d, c->want, c->len);
	}
	fix_free(&f);
}

static void information(void **state)
{
	struct scsi_fix f;
	uint8_t d[4096];

	fix_dvd(&f, DISC);
	assert_int_equal(get(&f, CDB(0x51, [8] = 100), d), 34);
	assert_int_equal(scsi_get32(d), 0x00200e01);
	assert_int_equal(scsi_get16(d + 4), 0x0101);
	assert_int_equal(d[6], 1);
	for (uint8_t kind = 0; kind < 3; kind++) {
		assert_int_equal(get(&f, CDB(0x52, kind, 0, 0, 0, 1, [8] = 100), d), 36);
		assert_int_equal(scsi_get32(d), 0x00220101);
		assert_int_equal(scsi_get32(d + 24), BLOCKS);
	}
	assert_int_equal(command(&f, CDB(0x52, 1, 0, 0, 0, 2, [8] = 100)), SCSI_SENSE_INVALID_FIELD);
	assert_int_equal(command(&f, CDB(0x52, 0, 0, 0, 2, 1, [8] = 100)), SCSI_SENSE_INVALID_FIELD);
	assert_int_equal(command(&f, CDB(0x52, 3, 0, 0, 0, 1, [8] = 100)), SCSI_SENSE_INVALID_FIELD);
	assert_int_equal(command(&f, CDB(0x51, 1, [8] = 100)), SCSI_SENSE_INVALID_FIELD);
	assert_int_equal(get(&f, CDB(0xac, [9] = 4), d), 24);
	assert_int_equal(scsi_get32(d), 20);
	assert_int_equal(scsi_get32(d + 16), BLOCKS - 1);
	assert_int_equal(get(&f, CDB(0xac, [9] = 4, [10] = 3), d), 8);
	assert_int_equal(command(&f, CDB(0xac, [9] = 4, [10] = 1)), SCSI_SENSE_INVALID_FIELD);
	assert_int_equal(command(&f, CDB(0xad, [9] = 100)), SCSI_SENSE(5, 0x30, 0x02));	/* a CD */
	fix_free(&f);
}

static void structures(void **state)
{
	struct scsi_backend *b;
	struct scsi_fix f;
	uint8_t d[4096];

	fix_dvd(&f, 0);
	must(scsi_backend_null(SP_GIB(4), 2048, &b), NULL);
	must(scsi_lu_insert(f.lu, b), NULL);
	scsi_ua_take(f.lu, &f.nexus);
	assert_int_equal(get(&f, CDB(0xad, [8] = 0x10), d), 2052);
	assert_int_equal(scsi_get16(d), 2050);
	assert_int_equal(scsi_get32(d + 8), 0x00030000);
	assert_int_equal(scsi_get32(d + 12), 0x30000 + (uint32_t)(SP_GIB(4) / 2048) - 1);
	assert_int_equal(get(&f, CDB(0xad, [7] = 1, [8] = 0x10), d), 8);
	assert_int_equal(get(&f, CDB(0xad, [7] = 4, [8] = 0x10), d), 2052);
	assert_int_equal(get(&f, CDB(0xad, [7] = 0xff, [8] = 0x10), d), 16);
	assert_int_equal(command(&f, CDB(0xad, [7] = 3, [9] = 100)), SCSI_SENSE_INVALID_FIELD);
	assert_int_equal(command(&f, CDB(0xad, 1, [9] = 100)), SCSI_SENSE_INVALID_FIELD);
	fix_free(&f);
}

/* Minutes have one byte. */
static void long_disc(void **state)
{
	struct scsi_backend *b;
	struct scsi_fix f;
	uint8_t d[4096];

	fix_dvd(&f, 0);
	must(scsi_backend_null(SP_GIB(50), 2048, &b), NULL);
	must(scsi_lu_insert(f.lu, b), NULL);
	scsi_ua_take(f.lu, &f.nexus);
	get(&f, CDB(0x43, 2, [8] = 100), d);
	assert_int_equal(scsi_get32(d + 16), 0x00ff3b4a);
	get(&f, CDB(0x43, 0, [8] = 100), d);
	assert_int_equal(scsi_get32(d + 16), SP_GIB(50) / 2048);
	fix_free(&f);
}

static const struct single_row singles[] = {
	{ "the guest ejects and loads", guest_ejects_and_loads },
	{ "lock", lock },
	{ "the host ejects and inserts", host_ejects_and_inserts },
	{ "empty drive", empty_drive },
	{ "other events", other_events },
	{ "reading", reading },
	{ "information", information },
	{ "structures of a DVD", structures },
	{ "a disc too long for times", long_disc },
};

int main(void)
{
	return ROWS_RUN(singles, rows_single) + ROWS_RUN(configuration_rows, configuration) + ROWS_RUN(toc_rows, toc);
}
