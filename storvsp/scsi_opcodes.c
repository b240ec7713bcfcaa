/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the unit can do, told from the tables that do it: REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT
 * FUNCTIONS. SPC-4 6.35, 6.36.
 */
#include "base/alloc.h"
#include "storvsp/scsi_spc_int.h"

#define RCTD	       0x80u	/* byte 2: with a timeouts descriptor */
#define TIMEOUTS_BYTES 12u
#define NOT_SUPPORTED  0x01u
#define SUPPORTED      0x03u	/* as the standard says */
#define LUN_RESET      0x08u
#define HAS_TIMEOUTS   0x80u	/* one command; 0x02 in a list */

enum { OPTION_ALL, OPTION_OPCODE, OPTION_ACTION, OPTION_EITHER };

static const struct scsi_command_table *const tables[] = {
	&scsi_table_spc, &scsi_table_sbc, &scsi_table_reserve, &scsi_table_mmc,
};

/* Calls @each for every command of a kind of unit, until it says true. */
static bool each_command(enum scsi_kind kind, bool (*each)(const struct scsi_command *cmd, void *ctx), void *ctx)
{
	unsigned flag = kind == SCSI_DVD ? SCSI_CMD_DVD : SCSI_CMD_DISK;

	for (size_t i = 0; i < SP_ARRAY_SIZE(tables); i++)
		for (unsigned j = 0; j < tables[i]->count; j++)
			if ((tables[i]->command[j].flags & flag) && each(&tables[i]->command[j], ctx))
				return true;
	return false;
}

/* No timeout is indicated: how long the storage below takes is not known here. */
static uint32_t put_timeouts(uint8_t *at)
{
	memset(at, 0, TIMEOUTS_BYTES);
	scsi_put16(at, TIMEOUTS_BYTES - 2);
	return TIMEOUTS_BYTES;
}

struct list {
	uint8_t *data;		/* NULL: count only */
	uint32_t len;
	bool timeouts;
};

static bool list_add(const struct scsi_command *cmd, void *ctx)
{
	struct list *list = ctx;
	uint8_t *d = list->data ? list->data + list->len : NULL;

	list->len += 8 + (list->timeouts ? TIMEOUTS_BYTES : 0);
	if (!d)
		return false;
	memset(d, 0, 8);
	d[0] = cmd->opcode;
	scsi_put16(d + 2, cmd->action >= 0 ? (uint16_t)cmd->action : 0);
	d[5] = (uint8_t)((cmd->action >= 0 ? 0x01 : 0) | (list->timeouts ? 0x02 : 0));
	scsi_put16(d + 6, cmd->length);
	if (list->timeouts)
		put_timeouts(d + 8);
	return false;
}

static void report_all(struct scsi_task *t, bool timeouts, uint32_t allocation)
{
	struct list list = { .len = 4, .timeouts = timeouts };
	enum scsi_kind kind = scsi_task_lu(t)->kind;

	each_command(kind, list_add, &list);
	list.data = sp_zalloc(list.len);
	if (!list.data) {
		scsi_fail(t, SCSI_SENSE_INTERNAL);
		return;
	}
	scsi_put32(list.data, list.len - 4);
	list.len = 4;
	each_command(kind, list_add, &list);
	scsi_answer(t, list.data, list.len, allocation);
	sp_free(list.data);
}

struct wanted {
	uint8_t opcode;
	uint16_t action;
	bool has_actions;	/* the opcode is known, and told apart by service actions */
	const struct scsi_command *found;
};

static bool match(const struct scsi_command *cmd, void *ctx)
{
	struct wanted *w = ctx;

	if (cmd->opcode != w->opcode)
		return false;
	w->has_actions |= cmd->action >= 0;
	if (cmd->action >= 0 && cmd->action != w->action)
		return false;
	w->found = cmd;
	return true;
}

static void report_one(struct scsi_task *t, const struct scsi_command *cmd, bool timeouts, uint32_t allocation)
{
	uint8_t data[4 + 16 + TIMEOUTS_BYTES] = { 0 };
	uint32_t len = 4;

	data[1] = (uint8_t)((cmd ? SUPPORTED : NOT_SUPPORTED) | (timeouts && cmd ? HAS_TIMEOUTS : 0));
	if (cmd) {
		scsi_put16(data + 2, cmd->length);
		memcpy(data + 4, cmd->usage, cmd->length);
		/* The map holds the codes themselves, and masks elsewhere. */
		if (cmd->action >= 0)
			data[5] = (uint8_t)((data[5] & 0xe0) | cmd->action);
		len += cmd->length;
		if (timeouts)
			len += put_timeouts(data + len);
	}
	scsi_answer(t, data, len, allocation);
}

void scsi_report_opcodes(struct scsi_task *t)
{
	unsigned option = t->cdb[2] & 0x07;
	bool timeouts = t->cdb[2] & RCTD;
	uint32_t allocation = scsi_get32(t->cdb + 6);
	struct wanted w = { .opcode = t->cdb[3], .action = scsi_get16(t->cdb + 4) };

	if (option == OPTION_ALL) {
		report_all(t, timeouts, allocation);
		return;
	}
	if (option > OPTION_EITHER) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 2);
		return;
	}
	each_command(scsi_task_lu(t)->kind, match, &w);
	if (option == OPTION_OPCODE && w.has_actions)
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 3);
	else if (option == OPTION_ACTION && w.found && !w.has_actions)
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 4);
	else if (option == OPTION_EITHER && !w.has_actions && w.action != 0)
		report_one(t, NULL, timeouts, allocation);
	else
		report_one(t, w.found, timeouts, allocation);
}

/* The transport resets units; nothing is ever aborted singly, because what was submitted cannot be called back. */
void scsi_report_tmfs(struct scsi_task *t)
{
	static const uint8_t plain[4] = { LUN_RESET }, extended[16] = { LUN_RESET, 0, 0, 12 };

	if (t->cdb[2] & 0x80)
		scsi_answer(t, extended, sizeof(extended), scsi_get32(t->cdb + 6));
	else
		scsi_answer(t, plain, sizeof(plain), scsi_get32(t->cdb + 6));
}
