/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * INQUIRY: who the unit is and what it offers. Guests judge a device by these bytes: the vendor and product texts
 * select their quirks, version 6 lets them ask for READ CAPACITY(16), and B0h with B2h switch on discarding.
 */
#include "storvsp/scsi_spc_int.h"

#define EVPD		  0x01u
#define TYPE_DISK	  0x00u
#define TYPE_DVD	  0x05u
#define NO_UNIT		  0x7fu	/* qualifier 3, type 1Fh: nothing here, and nothing can be */
#define VERSION_SPC4	  0x06u
#define RESPONSE_FORMAT	  0x02u
#define COMMAND_QUEUE	  0x02u
#define STANDARD_BYTES	  96u
#define PAGE_HEADER	  4u
#define PAGE_MAX	  128u

#define ROTATION_UNKNOWN  0x0000u
#define ROTATION_NONE	  0x0001u	/* solid state */

/* Version descriptors. */
#define SAM_5		  0x00a0u
#define SPC_4		  0x0460u
#define SBC_3		  0x04c0u
#define MMC_6		  0x04e0u

struct page {
	uint8_t code, kinds;		/* SCSI_CMD_DISK, SCSI_CMD_DVD */
	uint32_t (*build)(struct scsi_lu *lu, uint8_t *data);	/* behind the header: how many bytes */
};

static uint8_t device_type(enum scsi_kind kind)
{
	return kind == SCSI_DVD ? TYPE_DVD : TYPE_DISK;
}

static void standard_data(enum scsi_kind kind, uint8_t d[static STANDARD_BYTES])
{
	memset(d, 0, STANDARD_BYTES);
	d[0] = device_type(kind);
	d[1] = kind == SCSI_DVD ? 0x80 : 0;	/* removable */
	d[2] = VERSION_SPC4;
	d[3] = RESPONSE_FORMAT;
	d[4] = STANDARD_BYTES - 5;
	d[7] = COMMAND_QUEUE;
	scsi_put_text(d + 8, "Msft", 8);
	scsi_put_text(d + 16, kind == SCSI_DVD ? "Virtual DVD-ROM" : "Virtual Disk", 16);
	scsi_put_text(d + 32, "1.0", 4);
	scsi_put16(d + 58, SAM_5);
	scsi_put16(d + 60, SPC_4);
	scsi_put16(d + 62, kind == SCSI_DVD ? MMC_6 : SBC_3);
}

static uint32_t page_serial(struct scsi_lu *lu, uint8_t *d)
{
	size_t len = strlen(lu->serial);

	memcpy(d, lu->serial, len);
	return (uint32_t)len;
}

static uint8_t *designator(uint8_t *d, uint8_t code_set, uint8_t type, uint8_t len)
{
	d[0] = code_set;
	d[1] = type;
	d[3] = len;
	return d + 4;
}

/* NAA 6 under the number that Hyper-V disks have, then 100 bits out of the 128 of the identity; the rest is folded in.
 * The T10 name carries all of them, so that two disks never share both. */
static uint32_t page_identification(struct scsi_lu *lu, uint8_t *data)
{
	static const uint8_t company[4] = { 0x60, 0x02, 0x24, 0x80 };
	const uint8_t *id = lu->identity.b;
	uint8_t *d = data;
	char text[SP_GUID_TEXT];

	d = designator(d, 0x01, 0x03, 16);
	memcpy(d, company, sizeof(company));
	memcpy(d + 4, id + 4, 12);
	d[3] |= id[0] & 0x0f;
	for (unsigned i = 0; i < 4; i++)
		d[4 + i] ^= id[i];
	d += 16;

	sp_guid_format_le(&lu->identity, text);
	d = designator(d, 0x02, 0x01, 8 + SP_GUID_TEXT - 1);
	scsi_put_text(d, "Msft", 8);
	memcpy(d + 8, text, SP_GUID_TEXT - 1);
	return (uint32_t)(d + 8 + SP_GUID_TEXT - 1 - data);
}

/* Offsets of the standard count from the header. */
static uint32_t page_block_limits(struct scsi_lu *lu, uint8_t *data)
{
	struct scsi_geometry g;
	uint8_t *d = data - PAGE_HEADER;

	scsi_lu_geometry(lu, &g);
	d[5] = SCSI_COMPARE_BLOCKS_MAX;
	scsi_put16(d + 6, (uint16_t)(g.physical_block / g.logical_block));
	if (g.unmap_granularity != 0) {
		scsi_put32(d + 20, UINT32_MAX);
		scsi_put32(d + 24, SCSI_UNMAP_DESCRIPTORS_MAX);
		scsi_put32(d + 28, g.unmap_granularity / g.logical_block);
		scsi_put32(d + 32, 0x80000000u);	/* the first one begins at LBA 0 */
	}
	return 0x3c;
}

static uint32_t page_characteristics(struct scsi_lu *lu, uint8_t *data)
{
	struct scsi_geometry g;

	scsi_lu_geometry(lu, &g);
	scsi_put16(data, g.rotational ? ROTATION_UNKNOWN : ROTATION_NONE);
	return 0x3c;
}

static uint32_t page_provisioning(struct scsi_lu *lu, uint8_t *data)
{
	struct scsi_geometry g;

	scsi_lu_geometry(lu, &g);
	if (g.unmap_granularity == 0)
		return 4;
	data[0] = scsi_threshold_exponent(lu);
	data[1] = (uint8_t)(0x80 | 0x40 | 0x20 | (g.unmapped_reads_zero ? 0x04 : 0));	/* LBPU LBPWS LBPWS10 LBPRZ */
	data[2] = 0x02;	/* thin */
	return 4;
}

static uint32_t page_list(struct scsi_lu *lu, uint8_t *data);

static const struct page pages[] = {	/* in ascending order, as page 00h must be */
	{ 0x00, SCSI_CMD_DISK | SCSI_CMD_DVD, page_list },
	{ 0x80, SCSI_CMD_DISK | SCSI_CMD_DVD, page_serial },
	{ 0x83, SCSI_CMD_DISK | SCSI_CMD_DVD, page_identification },
	{ 0xb0, SCSI_CMD_DISK, page_block_limits },
	{ 0xb1, SCSI_CMD_DISK, page_characteristics },
	{ 0xb2, SCSI_CMD_DISK, page_provisioning },
};

static bool page_offered(const struct page *p, enum scsi_kind kind)
{
	return p->kinds & (kind == SCSI_DVD ? SCSI_CMD_DVD : SCSI_CMD_DISK);
}

static uint32_t page_list(struct scsi_lu *lu, uint8_t *data)
{
	uint32_t count = 0;

	for (size_t i = 0; i < SP_ARRAY_SIZE(pages); i++)
		if (page_offered(&pages[i], lu->kind))
			data[count++] = pages[i].code;
	return count;
}

static const struct page *page_find(enum scsi_kind kind, uint8_t code)
{
	for (size_t i = 0; i < SP_ARRAY_SIZE(pages); i++)
		if (pages[i].code == code && page_offered(&pages[i], kind))
			return &pages[i];
	return NULL;
}

static uint32_t allocation_length(const struct scsi_task *t)
{
	return scsi_get16(t->cdb + 3);
}

void scsi_inquiry(struct scsi_task *t)
{
	struct scsi_lu *lu = scsi_task_lu(t);
	const struct page *page = page_find(lu->kind, t->cdb[2]);
	uint8_t data[PAGE_HEADER + PAGE_MAX] = { 0 };
	uint32_t len;

	if (!(t->cdb[1] & EVPD) && t->cdb[2] == 0) {
		standard_data(lu->kind, data);
		scsi_answer(t, data, STANDARD_BYTES, allocation_length(t));
		return;
	}
	if (!(t->cdb[1] & EVPD) || !page) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 2);
		return;
	}
	data[0] = device_type(lu->kind);
	data[1] = page->code;
	len = page->build(lu, data + PAGE_HEADER);
	scsi_put16(data + 2, (uint16_t)len);
	scsi_answer(t, data, PAGE_HEADER + len, allocation_length(t));
}

/* ---- a unit that is not there -------------------------------------------------------------------------- */

/* Linux takes every answer to INQUIRY for a success, so anything but a clear "no unit here" makes a phantom disk. */
static void absent_inquiry(struct scsi_task *t)
{
	uint8_t data[STANDARD_BYTES];

	if (t->cdb[1] != 0 || t->cdb[2] != 0) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, t->cdb[1] != 0 ? 1 : 2);
		return;
	}
	standard_data(SCSI_DISK, data);
	data[0] = NO_UNIT;
	scsi_answer(t, data, sizeof(data), allocation_length(t));
}

static void absent_report_luns(struct scsi_task *t, const uint8_t *luns, unsigned count)
{
	uint8_t list[SCSI_LUN_LIST_MAX];
	uint32_t allocation = scsi_get32(t->cdb + 6);

	if (allocation < 16)
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 6);
	else
		scsi_answer(t, list, scsi_lun_list(list, luns, t->cdb[2] == 1 ? 0 : count), allocation);
}

bool scsi_execute_absent(struct scsi_task *t, const uint8_t *luns, unsigned count)
{
	if (t->cdb[0] == 0x12)
		absent_inquiry(t);
	else if (t->cdb[0] == 0xa0)
		absent_report_luns(t, luns, count);
	else
		return false;
	return true;
}
