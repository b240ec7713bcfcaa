/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Mode pages: every view of every page by both commands, and what MODE SELECT may change.
 */
#include "storvsp/scsi_spc_int.h"
#include "tests/unit/rows.h"
#include "tests/unit/scsi_fixture.h"

#define ALL 0x3f

/* By the command of six or ten bytes; @ret_pages: what follows the header. */
static uint32_t sense_mode(struct scsi_fix *f, bool ten, uint8_t view, uint8_t page, uint8_t d[256],
			   uint8_t **ret_pages)
{
	uint8_t code = (uint8_t)(view << 6 | page);

	memset(d, 0xa5, 256);
	if (ten)
		fix_run(f, CDB(0x5a, 0, code, [8] = 255), SCSI_FROM_DEVICE, d, 256);
	else
		fix_run(f, CDB(0x1a, 0, code, 0, 255), SCSI_FROM_DEVICE, d, 256);
	if (f->reply.status != SCSI_GOOD)
		return 0;
	assert_int_equal(ten ? scsi_get16(d) + 2 : d[0] + 1, f->reply.transferred);
	assert_int_equal(ten ? scsi_get16(d + 6) : d[3], 0);	/* no block descriptor */
	*ret_pages = d + (ten ? 8 : 4);
	return f->reply.transferred - (ten ? 8 : 4);
}

/* ---- MODE SENSE -------------------------------------------------------------------------------------------- */

static const struct view_row {
	const char *name;
	bool dvd;
	uint8_t view, page, len, want[32];
} view_rows[] = {
	{ "error recovery", false, 0, 0x01, 12, { 0x01, 10 } },
	{ "caching", false, 0, 0x08, 20, { 0x08, 18, 0x04 } },
	{ "caching, changeable", false, 1, 0x08, 20, { 0x08, 18 } },
	{ "caching, default", false, 2, 0x08, 20, { 0x08, 18, 0x04 } },
	{ "control", false, 0, 0x0a, 12, { 0x0a, 10, 0x02, 0x10, 0, 0, 0, 0, 0xff, 0xff } },
	{ "control, changeable", false, 1, 0x0a, 12, { 0x0a, 10, 0x04, 0, 0x08 } },
	{ "control, default", false, 2, 0x0a, 12, { 0x0a, 10, 0x02, 0x10, 0, 0, 0, 0, 0xff, 0xff } },
	{ "exceptions", false, 0, 0x1c, 12, { 0x1c, 10 } },
	{ "control of a drive, changeable", true, 1, 0x0a, 12, { 0x0a, 10, 0x04 } },
	{ "capabilities of a drive", true, 0, 0x2a, 32,
	  { 0x2a, 30, 0x0b, 0, 0x70, 0, 0x29, 0, 0x2b, 0x48, 0, 0, 0, 0, 0x2b, 0x48 } },
	{ "capabilities, changeable", true, 1, 0x2a, 32, { 0x2a, 30 } },
};

static void open_kind(struct scsi_fix *f, bool dvd)
{
	if (dvd)
		fix_dvd(f, 0);
	else
		fix_null(f, SP_MIB(64), 512);
}

static void views(void **state)
{
	const struct view_row *c = *state;
	struct scsi_fix f;
	uint8_t d[256], *p = NULL;

	open_kind(&f, c->dvd);
	for (unsigned ten = 0; ten < 2; ten++) {
		assert_int_equal(sense_mode(&f, ten, c->view, c->page, d, &p), c->len);
		fix_good(&f);
		assert_memory_equal(p, c->want, c->len);
	}
	fix_free(&f);
}

/* 3Fh is all pages in ascending order, each as it comes alone. */
static void all_pages(void **state)
{
	static const uint8_t codes[2][4] = { { 0x01, 0x08, 0x0a, 0x1c }, { 0x01, 0x0a, 0x1c, 0x2a } };
	uint8_t d[256], one[256], *p = NULL, *q = NULL;
	struct scsi_fix f;

	for (unsigned dvd = 0; dvd < 2; dvd++) {
		open_kind(&f, dvd);
		for (uint8_t view = 0; view < 3; view++) {
			uint32_t left = sense_mode(&f, view & 1, view, ALL, d, &p);

			for (unsigned i = 0; i < 4; i++) {
				uint32_t len = sense_mode(&f, false, view, codes[dvd][i], one, &q);

				assert_in_range(len, 12, left);
				assert_memory_equal(p, q, len);
				p += len;
				left -= len;
			}
			assert_int_equal(left, 0);
		}
		fix_free(&f);
	}
}

static const struct refused_row {
	const char *name;
	bool dvd;
	uint8_t cdb[16];
	uint32_t sense;
} refused_rows[] = {
	{ "saved values", false, { 0x1a, 0, 0xc8, 0, 255 }, SCSI_SENSE_SAVING },
	{ "saved values of all", false, { 0x5a, 0, 0xff, [8] = 255 }, SCSI_SENSE_SAVING },
	{ "page 02h", false, { 0x1a, 0, 0x02, 0, 255 }, SCSI_SENSE_INVALID_FIELD },
	{ "saved values of no page", false, { 0x1a, 0, 0xc2, 0, 255 }, SCSI_SENSE_INVALID_FIELD },
	{ "subpage 1", false, { 0x1a, 0, 0x0a, 1, 255 }, SCSI_SENSE_INVALID_FIELD },
	{ "capabilities of a disk", false, { 0x1a, 0, 0x2a, 0, 255 }, SCSI_SENSE_INVALID_FIELD },
	{ "caching of a drive", true, { 0x1a, 0, 0x08, 0, 255 }, SCSI_SENSE_INVALID_FIELD },
	{ "reserved bit", false, { 0x1a, 1, 0x08, 0, 255 }, SCSI_SENSE_INVALID_FIELD },
};

static void refused(void **state)
{
	const struct refused_row *c = *state;
	struct scsi_fix f;
	uint8_t d[256];

	open_kind(&f, c->dvd);
	fix_run(&f, c->cdb, SCSI_FROM_DEVICE, d, sizeof(d));
	fix_sense(&f, c->sense);
	assert_int_equal(f.reply.transferred, 0);
	fix_free(&f);
}

/* Linux reads four bytes first; the length in them is that of the whole. */
static void cut(void **state)
{
	struct scsi_fix f;
	uint8_t d[4];

	fix_null(&f, SP_MIB(64), 512);
	fix_run(&f, CDB(0x1a, 0, 0x08, 0, 4), SCSI_FROM_DEVICE, d, sizeof(d));
	fix_good(&f);
	assert_int_equal(f.reply.transferred, 4);
	assert_int_equal(d[0], 23);
	fix_run(&f, CDB(0x1a, 0, 0x0a, 0xff, 4), SCSI_FROM_DEVICE, d, sizeof(d));
	fix_good(&f);
	fix_free(&f);
}

static uint8_t device_specific(struct scsi_fix *f)
{
	uint8_t d[256], ten[256], *p;

	sense_mode(f, false, 0, ALL, d, &p);
	sense_mode(f, true, 0, ALL, ten, &p);
	assert_int_equal(d[2], ten[3]);
	return d[2];
}

static void protection_and_cache(void **state)
{
	struct scsi_fix f;
	uint8_t d[256], *p = NULL;

	fix_disk(&f, &(struct fix_opts){ 0 });
	assert_int_equal(device_specific(&f), 0x10);
	scsi_lu_set_read_only(f.lu, true);
	while (scsi_ua_take(f.lu, &f.nexus) != 0)
		;
	assert_int_equal(device_specific(&f), 0x90);
	fix_free(&f);
	fix_disk(&f, &(struct fix_opts){ .write_through = true });
	sense_mode(&f, false, 0, 0x08, d, &p);
	assert_int_equal(p[2], 0);
	sense_mode(&f, false, 2, 0x08, d, &p);
	assert_int_equal(p[2], 0);
	fix_free(&f);
	fix_dvd(&f, 0);
	assert_int_equal(device_specific(&f), 0);
	fix_free(&f);
}

/* ---- MODE SELECT ------------------------------------------------------------------------------------------- */

#define CONTROL(d_sense, swp) 0x0a, 10, 0x02 | (d_sense), 0x10, (swp), 0, 0, 0, 0xff, 0xff, 0, 0
#define CACHING(wce)	      0x08, 18, (wce), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0

static const struct select_row {
	const char *name;
	uint8_t byte1, len;		/* of the CDB */
	uint8_t list[64];		/* for six bytes; header of four */
	uint32_t sense;
	uint16_t field;			/* in the list, counted behind the header; 0: none */
	bool d_sense, swp;		/* afterwards */
} select_rows[] = {
	{ "nothing", 0x10, 0, { 0 }, 0, 0, false, false },
	{ "nothing, not by the standard", 0x00, 0, { 0 }, 0, 0, false, false },
	{ "a header alone", 0x10, 4, { 0 }, 0, 0, false, false },
	{ "what is in force", 0x10, 16, { 0, 0, 0, 0, CONTROL(0, 0) }, 0, 0, false, false },
	{ "D_SENSE", 0x10, 16, { 0, 0, 0, 0, CONTROL(4, 0) }, 0, 0, true, false },
	{ "SWP", 0x10, 16, { 0, 0, 0, 0, CONTROL(0, 8) }, 0, 0, false, true },
	{ "both, and a page that stays", 0x10, 36, { 0, 0, 0, 0, CONTROL(4, 8), CACHING(4) }, 0, 0, true, true },
	{ "WCE off", 0x10, 24, { 0, 0, 0, 0, CACHING(0) }, SCSI_SENSE_INVALID_PARAMETER, 2, false, false },
	{ "D_SENSE, but WCE off", 0x10, 36, { 0, 0, 0, 0, CONTROL(4, 0), CACHING(0) },
	  SCSI_SENSE_INVALID_PARAMETER, 14, false, false },
	{ "a bit that may not change", 0x10, 16, { 0, 0, 0, 0, CONTROL(4 | 1, 0) }, SCSI_SENSE_INVALID_PARAMETER, 2,
	  false, false },
	{ "a page that is not there", 0x10, 8, { 0, 0, 0, 0, 0x02, 2 }, SCSI_SENSE_INVALID_PARAMETER, 0, false,
	  false },
	{ "a subpage", 0x10, 16, { 0, 0, 0, 0, 0x4a, 1, 0, 8 }, SCSI_SENSE_INVALID_PARAMETER, 0, false, false },
	{ "wrong length of the page", 0x10, 16, { 0, 0, 0, 0, 0x0a, 9 }, SCSI_SENSE_INVALID_PARAMETER, 1, false,
	  false },
	{ "page cut short", 0x10, 15, { 0, 0, 0, 0, CONTROL(4, 0) }, SCSI_SENSE_LIST_LENGTH, 0, false, false },
	{ "page of one byte", 0x10, 5, { 0, 0, 0, 0, 0x0a }, SCSI_SENSE_LIST_LENGTH, 0, false, false },
	{ "header cut short", 0x10, 3, { 0 }, SCSI_SENSE_LIST_LENGTH, 0, false, false },
	{ "a block descriptor", 0x10, 24, { 0, 0, 0, 8 }, SCSI_SENSE_INVALID_PARAMETER, 0, false, false },
	{ "save", 0x11, 16, { 0, 0, 0, 0, CONTROL(4, 0) }, SCSI_SENSE_INVALID_FIELD, 0, false, false },
	{ "not by the standard", 0x00, 16, { 0, 0, 0, 0, CONTROL(4, 0) }, SCSI_SENSE_INVALID_FIELD, 0, false, false },
};

static void control_bits(struct scsi_fix *f, bool *ret_d_sense, bool *ret_swp)
{
	uint8_t d[256], *p = NULL;

	sense_mode(f, false, 0, 0x0a, d, &p);
	fix_good(f);
	*ret_d_sense = p[2] & 4;
	*ret_swp = p[4] & 8;
}

/* By ten bytes the header is four longer; what follows is the same. */
static void select_by(const struct select_row *c, bool ten)
{
	uint8_t list[68] = { 0 };
	bool d_sense, swp;
	struct scsi_fix f;
	uint8_t len = c->len;

	fix_null(&f, SP_MIB(64), 512);
	if (ten) {
		list[7] = c->list[3];
		memcpy(list + 8, c->list + 4, sizeof(c->list) - 4);
		len = len == 0 ? 0 : (uint8_t)(len + 4);
		fix_run(&f, CDB(0x55, c->byte1, [8] = len), SCSI_TO_DEVICE, list, len);
	} else {
		memcpy(list, c->list, sizeof(c->list));
		fix_run(&f, CDB(0x15, c->byte1, [4] = len), SCSI_TO_DEVICE, list, len);
	}
	if (c->sense == 0)
		fix_good(&f);
	else
		fix_sense(&f, c->sense);
	if (c->field != 0) {
		assert_int_equal(f.reply.sense[15], 0x80);
		assert_int_equal(scsi_get16(f.reply.sense + 16), c->field + (ten ? 8 : 4));
	}
	control_bits(&f, &d_sense, &swp);
	assert_int_equal(d_sense, c->d_sense);
	assert_int_equal(swp, c->swp);
	fix_free(&f);
}

static void selects(void **state)
{
	select_by(*state, false);
	select_by(*state, true);
}

static void set_control(struct scsi_fix *f, uint8_t d_sense, uint8_t swp)
{
	uint8_t list[16] = { 0, 0, 0, 0, CONTROL(d_sense, swp) };

	fix_run(f, CDB(0x15, 0x10, [4] = 16), SCSI_TO_DEVICE, list, sizeof(list));
	fix_good(f);
}

static void d_sense_is_real(void **state)
{
	struct scsi_fix f;

	fix_null(&f, SP_MIB(64), 512);
	fix_run(&f, CDB(0x04), SCSI_NO_DATA, NULL, 0);
	assert_int_equal(f.reply.sense[0] & 0x7f, 0x70);
	set_control(&f, 4, 0);
	fix_run(&f, CDB(0x04), SCSI_NO_DATA, NULL, 0);
	assert_int_equal(f.reply.sense[0], 0x72);
	fix_sense(&f, SCSI_SENSE_INVALID_OPCODE);
	fix_free(&f);
}

static void swp_is_real(void **state)
{
	uint8_t d[512] = { 0 };
	struct scsi_fix f;

	fix_null(&f, SP_MIB(64), 512);
	set_control(&f, 0, 8);
	assert_int_equal(device_specific(&f), 0x90);
	fix_run(&f, CDB(0x2a, [8] = 1), SCSI_TO_DEVICE, d, sizeof(d));
	fix_sense(&f, SCSI_SENSE_WRITE_PROTECTED);
	fix_run(&f, CDB(0x28, [8] = 1), SCSI_FROM_DEVICE, d, sizeof(d));
	fix_good(&f);
	set_control(&f, 0, 0);
	fix_run(&f, CDB(0x2a, [8] = 1), SCSI_TO_DEVICE, d, sizeof(d));
	fix_good(&f);
	fix_free(&f);
}

/* The others hear of a change, and only of a change; a reset takes it back. */
static void told_and_taken_back(void **state)
{
	struct sp_guid id = { { 9 } };
	struct scsi_nexus other;
	bool d_sense, swp;
	struct scsi_fix f;

	fix_null(&f, SP_MIB(64), 512);
	must(scsi_lu_connect(f.lu, &id, &other), NULL);
	scsi_ua_take(f.lu, &other);
	set_control(&f, 0, 0);
	assert_int_equal(scsi_ua_take(f.lu, &other), 0);
	set_control(&f, 4, 8);
	assert_int_equal(scsi_ua_take(f.lu, &other), SCSI_UA_MODE);
	assert_int_equal(scsi_ua_take(f.lu, &f.nexus), 0);
	scsi_lu_power_on(f.lu, &f.nexus);
	assert_int_equal(scsi_ua_take(f.lu, &f.nexus), SCSI_UA_POWER_ON);
	control_bits(&f, &d_sense, &swp);
	assert_false(d_sense || swp);
	scsi_lu_disconnect(f.lu, &other);
	fix_free(&f);
}

static void too_long(void **state)
{
	static uint8_t list[1024];
	struct scsi_fix f;

	fix_null(&f, SP_MIB(64), 512);
	fix_run(&f, CDB(0x55, 0x10, [7] = 4), SCSI_TO_DEVICE, list, sizeof(list));
	fix_sense(&f, SCSI_SENSE_LIST_LENGTH);
	fix_run(&f, CDB(0x15, 0x10, [4] = 16), SCSI_TO_DEVICE, list, 15);
	fix_sense(&f, SCSI_SENSE_LIST_LENGTH);
	fix_free(&f);
}

static const struct single_row singles[] = {
	{ "all pages", all_pages },
	{ "answers are cut", cut },
	{ "write protection and cache", protection_and_cache },
	{ "D_SENSE is real", d_sense_is_real },
	{ "SWP is real", swp_is_real },
	{ "others are told, a reset takes it back", told_and_taken_back },
	{ "lists too long or too short", too_long },
};

int main(void)
{
	return ROWS_RUN(view_rows, views) + ROWS_RUN(refused_rows, refused) + ROWS_RUN(select_rows, selects) +
	       ROWS_RUN(singles, rows_single);
}
