/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Log pages: the list, provisioning of a disk that is thin, temperature, exceptions.
 */
#include <errno.h>

#include "storvsp/scsi_spc_int.h"
#include "tests/unit/rows.h"
#include "tests/unit/scsi_fixture.h"

static uint32_t log_page(struct scsi_fix *f, uint8_t page, uint8_t subpage, uint8_t d[256])
{
	memset(d, 0xa5, 256);
	fix_run(f, CDB(0x4d, 0, (uint8_t)(0x40 | page), subpage, [8] = 255), SCSI_FROM_DEVICE, d, 256);
	fix_good(f);
	assert_int_equal(d[0] & 0x3f, page);
	assert_int_equal(scsi_get16(d + 2) + 4, f->reply.transferred);
	return scsi_get16(d + 2);
}

static void list(void **state)
{
	static const uint8_t thin[] = { 0x00, 0x0c, 0x0d, 0x2f }, thick[] = { 0x00, 0x0d, 0x2f };
	static const uint8_t with_subpages[] = { 0, 0, 0x0c, 0, 0x0d, 0, 0x2f, 0 };
	struct scsi_fix f;
	uint8_t d[256];

	fix_disk(&f, &(struct fix_opts){ 0 });
	assert_int_equal(log_page(&f, 0x00, 0, d), sizeof(thin));
	assert_memory_equal(d + 4, thin, sizeof(thin));
	assert_int_equal(log_page(&f, 0x00, 0xff, d), sizeof(with_subpages));
	assert_int_equal(d[0], 0x40);
	assert_int_equal(d[1], 0xff);
	assert_memory_equal(d + 4, with_subpages, sizeof(with_subpages));
	f.lu->geometry.unmap_granularity = 0;
	assert_int_equal(log_page(&f, 0x00, 0, d), sizeof(thick));
	assert_memory_equal(d + 4, thick, sizeof(thick));
	fix_free(&f);
}

/* In mebibytes, as page B2h says. */
static uint32_t used(struct scsi_fix *f)
{
	uint8_t d[256];

	assert_int_equal(log_page(f, 0x0c, 0, d), 12);
	assert_int_equal(scsi_get16(d + 4), 2);
	assert_int_equal(d[6], 0x03);
	assert_int_equal(d[7], 8);
	assert_int_equal(d[12], 0x01);
	return scsi_get32(d + 8);
}

static void provisioning(void **state)
{
	struct scsi_fix f;
	uint8_t block[512] = { 1 }, unmap[24] = { 0, 22, 0, 16, [18] = 0x08 };

	fix_disk(&f, &(struct fix_opts){ 0 });
	assert_int_equal(used(&f), 0);
	fix_run(&f, CDB(0x2a, [8] = 1), SCSI_TO_DEVICE, block, sizeof(block));
	assert_int_equal(used(&f), 1);
	fix_run(&f, CDB(0x2a, 0, 0, 1, [8] = 1), SCSI_TO_DEVICE, block, sizeof(block));	/* LBA 65536: 32 MiB */
	assert_int_equal(used(&f), 2);
	fix_run(&f, CDB(0x42, [8] = 24), SCSI_TO_DEVICE, unmap, sizeof(unmap));		/* 2048 blocks from 0 on */
	fix_good(&f);
	assert_int_equal(used(&f), 1);
	fix_free(&f);
}

static void temperature(void **state)
{
	static const uint8_t want[] = { 0, 0, 0x03, 2, 0, 0xff };
	struct scsi_fix f;
	uint8_t d[256];

	fix_null(&f, SP_MIB(64), 512);
	assert_int_equal(log_page(&f, 0x0d, 0, d), sizeof(want));
	assert_memory_equal(d + 4, want, sizeof(want));
	fix_free(&f);
}

static void exceptions(void **state)
{
	static const uint8_t well[] = { 0, 0, 0x03, 4, 0, 0, 0xff, 0 }, failed[] = { 0, 0, 0x03, 4, 0x5d, 0, 0xff, 0 };
	struct fault_plan plan;
	struct scsi_fix f;
	uint8_t d[256], block[512] = { 1 };

	fix_disk(&f, &(struct fix_opts){ .plan = &plan });
	assert_int_equal(log_page(&f, 0x2f, 0, d), sizeof(well));
	assert_memory_equal(d + 4, well, sizeof(well));
	fix_run(&f, CDB(0x2a, [8] = 1), SCSI_TO_DEVICE, block, sizeof(block));
	fault_plan_set(&plan, FAULT_SYNC, 1, -EIO, true, false);
	fix_run(&f, CDB(0x35), SCSI_NO_DATA, NULL, 0);
	assert_int_equal(f.reply.status, SCSI_CHECK_CONDITION);
	assert_int_equal(log_page(&f, 0x2f, 0, d), sizeof(failed));
	assert_memory_equal(d + 4, failed, sizeof(failed));
	fix_free(&f);
}

static const struct refused_row {
	const char *name;
	uint8_t cdb[16];
	uint16_t field;
} refused_rows[] = {
	{ "page 02h", { 0x4d, 0, 0x42, [8] = 255 }, 2 },
	{ "subpage 1 of the list", { 0x4d, 0, 0x40, 1, [8] = 255 }, 3 },
	{ "subpages of a page", { 0x4d, 0, 0x4d, 0xff, [8] = 255 }, 3 },
	{ "a parameter behind the last", { 0x4d, 0, 0x4d, 0, 0, 0, 1, [8] = 255 }, 5 },
	{ "save", { 0x4d, 1, 0x40, [8] = 255 }, 1 },
};

static void refused(void **state)
{
	const struct refused_row *c = *state;
	struct scsi_fix f;
	uint8_t d[256];

	fix_null(&f, SP_MIB(64), 512);
	fix_run(&f, c->cdb, SCSI_FROM_DEVICE, d, sizeof(d));
	fix_sense(&f, SCSI_SENSE_INVALID_FIELD);
	assert_int_equal(scsi_get16(f.reply.sense + 16), c->field);
	fix_free(&f);
}

static void pointer_and_cut(void **state)
{
	struct scsi_fix f;
	uint8_t d[8];

	fix_disk(&f, &(struct fix_opts){ 0 });
	fix_run(&f, CDB(0x4d, 0, 0x4c, 0, 0, 0, 2, [8] = 8), SCSI_FROM_DEVICE, d, sizeof(d));
	fix_good(&f);
	assert_int_equal(f.reply.transferred, 8);
	assert_int_equal(scsi_get16(d + 2), 12);
	fix_run(&f, CDB(0x4d, 0, 0x4c, 0, 0, 0, 3, [8] = 8), SCSI_FROM_DEVICE, d, sizeof(d));
	fix_sense(&f, SCSI_SENSE_INVALID_FIELD);
	fix_free(&f);
}

static const struct single_row singles[] = {
	{ "list of pages", list },
	{ "provisioning", provisioning },
	{ "temperature", temperature },
	{ "exceptions", exceptions },
	{ "parameter pointer, cut answers", pointer_and_cut },
};

int main(void)
{
	return ROWS_RUN(singles, rows_single) + ROWS_RUN(refused_rows, refused);
}
