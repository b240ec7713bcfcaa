/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Primary commands: the table of them, and those small enough to need no file of their own.
 */
#include "storvsp/scsi_spc_int.h"

#define DESC_FORMAT	 0x01u	/* REQUEST SENSE byte 1 */
#define START_IMMED	 0x01u	/* START STOP UNIT byte 1 */
#define START_POWER	 0xf0u	/* byte 4 */
#define START_NO_FLUSH	 0x04u
#define START_LOEJ	 0x02u
#define START_START	 0x01u
#define DIAGNOSTIC_SELF_TEST 0x04u	/* SEND DIAGNOSTIC byte 1 */

static void test_unit_ready(struct scsi_task *t)
{
	scsi_good(t);	/* the checks before all commands are the test */
}

static void request_sense(struct scsi_task *t)
{
	uint8_t data[SCSI_SENSE_MAX];
	uint32_t sense = scsi_ua_take(scsi_task_lu(t), t->nexus);
	uint8_t len = scsi_sense_build(data, t->cdb[1] & DESC_FORMAT, sense, NULL, NULL);

	scsi_answer(t, data, len, t->cdb[4]);
}

static void submit_flush(struct scsi_task *t)
{
	if (scsi_lu_protected(scsi_task_lu(t))) {
		scsi_good(t);
		return;
	}
	t->req = (struct vhd_req){ .op = VHD_REQ_FLUSH, .buf_index = -1 };
	scsi_submit(t);
}

/* A virtual disk has nothing to spin up; what stopping must do is to bring the cache to the medium. */
static void start_stop_unit(struct scsi_task *t)
{
	if (scsi_task_lu(t)->kind == SCSI_DVD)
		scsi_dvd_start_stop(t);
	else if (t->cdb[4] & (START_POWER | START_LOEJ))
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 4);
	else if (t->cdb[4] & (START_START | START_NO_FLUSH))
		scsi_good(t);
	else
		submit_flush(t);
}

static void prevent_allow(struct scsi_task *t)
{
	if (scsi_task_lu(t)->kind == SCSI_DVD)
		scsi_dvd_prevent_allow(t);
	else if (t->cdb[4] & 0x02)
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 4);
	else
		scsi_good(t);	/* the medium of a disk cannot be removed anyway */
}

/* The default self-test, which flushes: a disk that lost a write says so here too. */
static void send_diagnostic(struct scsi_task *t)
{
	if (scsi_get16(t->cdb + 3) != 0)
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 3);
	else if ((t->cdb[1] & DIAGNOSTIC_SELF_TEST) && scsi_task_lu(t)->kind == SCSI_DISK)
		submit_flush(t);
	else
		scsi_good(t);
}

/* Peripheral addressing: the number stands in the second byte of eight. */
uint32_t scsi_lun_list(uint8_t ret_list[SCSI_LUN_LIST_MAX], const uint8_t *luns, unsigned count)
{
	if (count > 256)
		count = 256;
	memset(ret_list, 0, 8 + 8 * count);
	scsi_put32(ret_list, 8 * count);
	for (unsigned i = 0; i < count; i++)
		ret_list[8 + 8 * i + 1] = luns[i];
	return 8 + 8 * count;
}

static void report_luns(struct scsi_task *t)
{
	struct scsi_queue *q = t->queue;
	uint32_t allocation = scsi_get32(t->cdb + 6);
	uint8_t list[SCSI_LUN_LIST_MAX], luns[256] = { 0 };
	unsigned count = q->luns ? q->luns(q->luns_ctx, luns) : 1;

	if (t->cdb[2] > 2) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 2);
		return;
	}
	if (allocation < 16) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 6);
		return;
	}
	if (t->cdb[2] == 1)	/* well-known units: none */
		count = 0;
	scsi_answer(t, list, scsi_lun_list(list, luns, count), allocation);
}

#define ANY (SCSI_CMD_DISK | SCSI_CMD_DVD)

/* TEST UNIT READY, START STOP UNIT and PREVENT ALLOW are no SCSI_CMD_RESERVED_OK: what reservations let through
 * depends on their kind and on the CDB, see scsi_reservation_allows(). */
static const struct scsi_command commands[] = {
	{ 0x00, -1, 6, ANY | SCSI_CMD_MEDIUM, "TEST UNIT READY", { 0x00 }, test_unit_ready },
	{ 0x03, -1, 6, ANY | SCSI_CMD_DESPITE_UA | SCSI_CMD_RESERVED_OK, "REQUEST SENSE",
	  { 0x03, 0x01, 0, 0, 0xff }, request_sense },
	{ 0x12, -1, 6, ANY | SCSI_CMD_DESPITE_UA | SCSI_CMD_RESERVED_OK, "INQUIRY",
	  { 0x12, 0x01, 0xff, 0xff, 0xff }, scsi_inquiry },
	{ 0x15, -1, 6, ANY, "MODE SELECT(6)", { 0x15, 0x11, 0, 0, 0xff }, scsi_mode_select_6 },
	{ 0x1a, -1, 6, ANY, "MODE SENSE(6)", { 0x1a, 0x08, 0xff, 0xff, 0xff }, scsi_mode_sense_6 },
	{ 0x1b, -1, 6, ANY, "START STOP UNIT", { 0x1b, START_IMMED, 0, 0x0f, 0xf7 }, start_stop_unit },
	{ 0x1d, -1, 6, ANY, "SEND DIAGNOSTIC", { 0x1d, 0x17, 0, 0xff, 0xff }, send_diagnostic },
	{ 0x1e, -1, 6, ANY, "PREVENT ALLOW MEDIUM REMOVAL", { 0x1e, 0, 0, 0, 0x03 }, prevent_allow },
	{ 0x4d, -1, 10, SCSI_CMD_DISK | SCSI_CMD_RESERVED_OK, "LOG SENSE",
	  { 0x4d, 0x00, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff }, scsi_log_sense },
	{ 0x55, -1, 10, ANY, "MODE SELECT(10)", { 0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff }, scsi_mode_select_10 },
	{ 0x5a, -1, 10, ANY, "MODE SENSE(10)", { 0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff }, scsi_mode_sense_10 },
	{ 0xa0, -1, 12, ANY | SCSI_CMD_DESPITE_UA | SCSI_CMD_RESERVED_OK, "REPORT LUNS",
	  { 0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff }, report_luns },
	{ 0xa3, 0x0c, 12, ANY | SCSI_CMD_RESERVED_OK, "REPORT SUPPORTED OPERATION CODES",
	  { 0xa3, 0x1f, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff }, scsi_report_opcodes },
	{ 0xa3, 0x0d, 12, ANY | SCSI_CMD_RESERVED_OK, "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
	  { 0xa3, 0x1f, 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff }, scsi_report_tmfs },
};

const struct scsi_command_table scsi_table_spc = { commands, SP_ARRAY_SIZE(commands) };
