/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is on the disc: one session, one data track from LBA 0 to the end.
 */
#include "storvsp/scsi_mmc_int.h"

#define TRACK		  1u
#define LEAD_OUT	  0xaau
#define ADR_DATA_TRACK	  0x14u		/* position in Q; data, no copying */
#define FRAMES		  75u		/* per second */
#define PREGAP		  150u		/* LBA 0 is at two seconds */
#define SPEED		  11080u	/* kB/s, as mode page 2Ah says */
#define SENSE_FORMAT	  SCSI_SENSE(0x5, 0x30, 0x02)	/* cannot read: incompatible format */
#define DVD_FIRST_SECTOR  0x30000u	/* physical number of LBA 0 */

static uint32_t blocks_of(const struct scsi_task *t)
{
	return scsi_dvd_blocks(scsi_task_lu(t));
}

/* ---- table of contents ---------------------------------------------------------------------------------- */

/* Minutes have one byte: past 255 of them the address stays at its end, as real drives do. */
static void put_address(uint8_t *d, uint32_t lba, bool msf)
{
	uint64_t frames = (uint64_t)lba + PREGAP;

	if (!msf) {
		scsi_put32(d, lba);
		return;
	}
	frames = sp_min(frames, 256 * 60 * FRAMES - 1);
	d[0] = 0;
	d[1] = (uint8_t)(frames / (60 * FRAMES));
	d[2] = (uint8_t)(frames / FRAMES % 60);
	d[3] = (uint8_t)(frames % FRAMES);
}

static uint32_t put_track(uint8_t *d, uint8_t number, uint32_t lba, bool msf)
{
	d[1] = ADR_DATA_TRACK;
	d[2] = number;
	put_address(d + 4, lba, msf);
	return 8;
}

void scsi_dvd_read_toc(struct scsi_task *t)
{
	bool msf = t->cdb[1] & 0x02;
	unsigned format = t->cdb[2] & 0x0f ? t->cdb[2] & 0x0f : t->cdb[9] >> 6;
	uint8_t data[20] = { 0, 0, TRACK, TRACK }, from = t->cdb[6];
	uint32_t len = 4;

	if (format > 1) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 2);
		return;
	}
	if (format == 0 && from > TRACK && from != LEAD_OUT) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 6);
		return;
	}
	if (format == 1 || from <= TRACK)
		len += put_track(data + len, TRACK, 0, msf);
	if (format == 0)
		len += put_track(data + len, LEAD_OUT, blocks_of(t), msf);
	scsi_put16(data, (uint16_t)(len - 2));
	scsi_answer(t, data, len, scsi_get16(t->cdb + 7));
}

/* ---- information ---------------------------------------------------------------------------------------- */

void scsi_dvd_read_disc_information(struct scsi_task *t)
{
	uint8_t data[34] = { 0, 0x20, 0x0e, TRACK, 1, TRACK, TRACK };	/* complete, and so is its only session */

	if ((t->cdb[1] & 0x07) != 0) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 1);
		return;
	}
	memset(data + 16, 0xff, 8);	/* no further lead-in, no lead-out to come */
	scsi_answer(t, data, sizeof(data), scsi_get16(t->cdb + 7));
}

/* By an address in it, by its number, or by that of its session. */
static bool names_track(const struct scsi_task *t, uint32_t blocks)
{
	uint32_t address = scsi_get32(t->cdb + 2);

	switch (t->cdb[1] & 0x03) {
	case 0:
		return address < blocks;
	case 1:
		return address == TRACK;
	case 2:
		return address == 1;
	default:
		return false;
	}
}

void scsi_dvd_read_track_information(struct scsi_task *t)
{
	uint32_t blocks = blocks_of(t);
	uint8_t data[36] = { 0, 34, TRACK, 1, 0, 0x04, 0x01 };	/* data track, mode 1 */

	if (!names_track(t, blocks)) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 2);
		return;
	}
	data[7] = 0x02;			/* the last recorded address is valid */
	scsi_put32(data + 24, blocks);
	scsi_put32(data + 28, blocks > 0 ? blocks - 1 : 0);
	scsi_answer(t, data, sizeof(data), scsi_get16(t->cdb + 7));
}

/* ---- READ DVD STRUCTURE --------------------------------------------------------------------------------- */

static void put24(uint8_t *d, uint32_t value)
{
	value = value < 0xffffff ? value : 0xffffff;
	d[0] = (uint8_t)(value >> 16);
	d[1] = (uint8_t)(value >> 8);
	d[2] = (uint8_t)value;
}

/* One embossed layer, 120 mm. */
static uint32_t physical_format(uint8_t *d, uint32_t blocks)
{
	d[0] = 0x01;
	d[1] = 0x0f;			/* no maximum rate is named */
	d[2] = 0x01;
	put24(d + 5, DVD_FIRST_SECTOR);
	put24(d + 9, DVD_FIRST_SECTOR + blocks - 1);
	return 2048;
}

static uint32_t structure_list(uint8_t *d)
{
	static const struct { uint8_t format; uint16_t len; } list[] = { { 0x00, 2052 }, { 0x01, 8 }, { 0x04, 2052 } };

	for (size_t i = 0; i < SP_ARRAY_SIZE(list); i++) {
		d[4 * i] = list[i].format;
		d[4 * i + 1] = 0x40;	/* can be read */
		scsi_put16(d + 4 * i + 2, list[i].len);
	}
	return 4 * SP_ARRAY_SIZE(list);
}

void scsi_dvd_read_structure(struct scsi_task *t)
{
	uint8_t data[4 + 2048] = { 0 };
	uint32_t blocks = blocks_of(t), len;

	if ((t->cdb[1] & 0x0f) != 0) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 1);
		return;
	}
	if (blocks <= SCSI_CD_BLOCKS && t->cdb[7] != 0xff) {
		scsi_fail(t, SENSE_FORMAT);
		return;
	}
	switch (t->cdb[7]) {
	case 0x00:
		len = physical_format(data + 4, blocks);
		break;
	case 0x01:			/* copyright: none */
		len = 4;
		break;
	case 0x04:			/* manufacturer's: nothing */
		len = 2048;
		break;
	case 0xff:
		len = structure_list(data + 4);
		break;
	default:
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 7);
		return;
	}
	scsi_put16(data, (uint16_t)(len + 2));
	scsi_answer(t, data, 4 + len, scsi_get16(t->cdb + 8));
}

/* ---- GET PERFORMANCE ------------------------------------------------------------------------------------ */

/* The same speed everywhere for reading; nothing can be written. */
void scsi_dvd_get_performance(struct scsi_task *t)
{
	uint32_t blocks = blocks_of(t), len = 8;
	uint8_t data[8 + 16] = { 0 };
	bool writing = t->cdb[1] & 0x04, exceptions = t->cdb[1] & 0x03;

	if (t->cdb[10] != 0x00 && t->cdb[10] != 0x03) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 10);
		return;
	}
	if (t->cdb[10] == 0x00 && !writing && !exceptions && scsi_get16(t->cdb + 8) > 0) {
		scsi_put32(data + 8, 0);
		scsi_put32(data + 12, SPEED);
		scsi_put32(data + 16, blocks > 0 ? blocks - 1 : 0);
		scsi_put32(data + 20, SPEED);
		len += 16;
	}
	scsi_put32(data, len - 4);
	scsi_answer(t, data, len, UINT32_MAX);
}
