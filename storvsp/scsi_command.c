/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which row of the tables a CDB is, and what a command costs.
 */
#include "base/bytes.h"
#include "storvsp/scsi_int.h"

static const struct scsi_command_table *const tables[] = {
	&scsi_table_sbc,
	&scsi_table_spc,
	&scsi_table_reserve,
	&scsi_table_mmc,
};

/*
 * Opcode to rows, built once: rows of one opcode (service actions, kinds of unit) hang in a chain. The data path looks
 * at one entry.
 */
#define ROWS_MAX 255u
static uint8_t first[256], next[ROWS_MAX + 1];		/* row number plus one */
static const struct scsi_command *rows[ROWS_MAX + 1];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void build(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < SP_ARRAY_SIZE(tables); i++) {
		for (unsigned k = 0; k < tables[i]->count && n < ROWS_MAX; k++) {
			const struct scsi_command *c = &tables[i]->command[k];

			rows[++n] = c;
			next[n] = first[c->opcode];
			first[c->opcode] = (uint8_t)n;
		}
	}
}

const struct scsi_command *scsi_command_find(enum scsi_kind kind, const uint8_t cdb[16])
{
	uint8_t want = kind == SCSI_DVD ? SCSI_CMD_DVD : SCSI_CMD_DISK;

	pthread_once(&once, build);
	for (unsigned i = first[cdb[0]]; i != 0; i = next[i]) {
		const struct scsi_command *c = rows[i];

		if ((c->flags & want) && (c->action < 0 || c->action == (cdb[1] & 0x1f)))
			return c;
	}
	return NULL;
}

bool scsi_command_known(enum scsi_kind kind, uint8_t opcode)
{
	uint8_t want = kind == SCSI_DVD ? SCSI_CMD_DVD : SCSI_CMD_DISK;

	pthread_once(&once, build);
	for (unsigned i = first[opcode]; i != 0; i = next[i]) {
		if (rows[i]->flags & want)
			return true;
	}
	return false;
}

struct scsi_cost scsi_cost(const uint8_t cdb[16], uint32_t data_len)
{
	switch (cdb[0]) {
	case 0x08: case 0x28: case 0xa8: case 0x88:	/* READ */
	case 0x0a: case 0x2a: case 0xaa: case 0x8a:	/* WRITE */
	case 0x2e: case 0xae: case 0x8e:		/* WRITE AND VERIFY */
	case 0x2f: case 0xaf: case 0x8f:		/* VERIFY */
	case 0x35: case 0x91:				/* SYNCHRONIZE CACHE */
	case 0x34: case 0x90:				/* PRE-FETCH */
	case 0x41: case 0x93:				/* WRITE SAME */
	case 0x42:					/* UNMAP */
	case 0x89:					/* COMPARE AND WRITE */
		return (struct scsi_cost){ data_len, true };
	default:
		return (struct scsi_cost){ 0, false };
	}
}
