/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_STORVSP_SCSI_MMC_INT_H
#define SPINDLE_STORVSP_SCSI_MMC_INT_H
/*
 * A DVD drive: read-only, one data track that fills the disc. MMC-6.
 */
#include "storvsp/scsi_spc_int.h"

#define SCSI_DVD_BLOCK	  2048u
#define SCSI_PROFILE_NONE 0x0000u
#define SCSI_PROFILE_CD	  0x0008u
#define SCSI_PROFILE_DVD  0x0010u
#define SCSI_CD_BLOCKS	  360000u	/* what a compact disc holds; anything larger is a DVD */

struct scsi_dvd {			/* all under lu->lock */
	uint32_t prevented;		/* bit per nexus: PREVENT ALLOW */
	uint8_t event[SCSI_NEXUSES];	/* of the medium, not yet told to this nexus */
};

/* Blocks of the medium that is in reach, 0 without one; LBAs of MMC have 32 bits. */
uint32_t scsi_dvd_blocks(const struct scsi_lu *lu);

void scsi_dvd_read_toc(struct scsi_task *t);		/* scsi_mmc_read.c */
void scsi_dvd_read_disc_information(struct scsi_task *t);
void scsi_dvd_read_track_information(struct scsi_task *t);
void scsi_dvd_read_structure(struct scsi_task *t);
void scsi_dvd_get_performance(struct scsi_task *t);

#endif
