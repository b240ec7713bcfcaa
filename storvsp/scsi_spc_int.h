/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_STORVSP_SCSI_SPC_INT_H
#define SPINDLE_STORVSP_SCSI_SPC_INT_H
/*
 * Handlers that the table of primary commands (scsi_spc.c) names and other files hold, and big-endian fields of CDBs
 * and answers.
 */
#include <string.h>

#include "base/bytes.h"
#include "storvsp/scsi_int.h"

void scsi_inquiry(struct scsi_task *t);				/* scsi_inquiry.c */
void scsi_mode_sense_6(struct scsi_task *t);			/* scsi_mode.c */
void scsi_mode_sense_10(struct scsi_task *t);
void scsi_mode_select_6(struct scsi_task *t);
void scsi_mode_select_10(struct scsi_task *t);
void scsi_log_sense(struct scsi_task *t);			/* scsi_log.c */
void scsi_report_opcodes(struct scsi_task *t);			/* scsi_opcodes.c */
void scsi_report_tmfs(struct scsi_task *t);
void scsi_dvd_start_stop(struct scsi_task *t);			/* scsi_mmc.c */
void scsi_dvd_prevent_allow(struct scsi_task *t);

/* Blocks that one unit of the provisioning counts stands for, as a power of two: a mebibyte. VPD page B2h, log page
 * 0Ch. */
static inline uint8_t scsi_threshold_exponent(const struct scsi_lu *lu)
{
	return (uint8_t)(20 - lu->block_shift);
}

/* Answers to REPORT LUNS, of a unit and in place of one. */
#define SCSI_LUN_LIST_MAX (8u + 8u * 256u)
uint32_t scsi_lun_list(uint8_t ret_list[SCSI_LUN_LIST_MAX], const uint8_t *luns, unsigned count);

static inline void scsi_put16(uint8_t *at, uint16_t value)
{
	be16_t v = be16_make(value);

	memcpy(at, v.b, sizeof(v.b));
}

static inline void scsi_put32(uint8_t *at, uint32_t value)
{
	be32_t v = be32_make(value);

	memcpy(at, v.b, sizeof(v.b));
}

static inline void scsi_put64(uint8_t *at, uint64_t value)
{
	be64_t v = be64_make(value);

	memcpy(at, v.b, sizeof(v.b));
}

static inline uint16_t scsi_get16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

static inline uint32_t scsi_get32(const uint8_t *at)
{
	return (uint32_t)scsi_get16(at) << 16 | scsi_get16(at + 2);
}

static inline uint64_t scsi_get64(const uint8_t *at)
{
	return (uint64_t)scsi_get32(at) << 32 | scsi_get32(at + 4);
}

/* A text of the standard: ASCII, filled up with blanks, without an end. */
static inline void scsi_put_text(uint8_t *at, const char *text, size_t len)
{
	size_t n = strlen(text);

	memset(at, ' ', len);
	memcpy(at, text, n < len ? n : len);
}

#endif
