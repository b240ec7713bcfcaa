/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_STORVSP_SCSI_RESERVE_INT_H
#define SPINDLE_STORVSP_SCSI_RESERVE_INT_H
/*
 * Reservations of one unit. SPC-4 5.12; RESERVE and RELEASE as in SPC-2.
 *
 * What PERSISTENT RESERVE OUT changes is a plain value: an action works on a copy, the copy goes to the file if it
 * shall survive power loss, and only then it takes the place of the one in force. So a change is either told and kept,
 * or refused and not made.
 */
#include "storvsp/scsi_spc_int.h"

#define SCSI_REGISTRATIONS_MAX 64u

enum scsi_pr_type {
	SCSI_PR_NONE = 0,
	SCSI_PR_WE = 1, SCSI_PR_EA = 3,				/* holder alone */
	SCSI_PR_WE_RO = 5, SCSI_PR_EA_RO = 6,			/* registrants only */
	SCSI_PR_WE_AR = 7, SCSI_PR_EA_AR = 8,			/* all registrants hold it */
};

struct scsi_registration { struct sp_guid nexus; uint64_t key; };	/* key: not 0 */

struct scsi_pr {
	uint32_t generation;		/* not kept over power loss */
	bool aptpl;			/* the last registration wants the rest to be kept */
	uint8_t type;			/* enum scsi_pr_type */
	struct sp_guid holder;		/* registered; not for all registrants */
	unsigned count;
	struct scsi_registration reg[SCSI_REGISTRATIONS_MAX];
};

struct scsi_reserve_file;		/* scsi_reserve_file.c */

struct scsi_reservations {
	pthread_mutex_t change;		/* one change at a time, held over the file; before lu->lock */
	struct scsi_pr now;		/* written under @change and lu->lock, read under either */
	int reserved_by;		/* nexus of RESERVE(6) and (10), -1: none; likewise */
	struct scsi_reserve_file *file;	/* NULL: nothing survives */
};

bool scsi_pr_type_ok(uint8_t type);
bool scsi_pr_all_registrants(uint8_t type);
bool scsi_pr_registrants_only(uint8_t type);	/* all registrants included */
const struct scsi_registration *scsi_pr_find(const struct scsi_pr *pr, const struct sp_guid *nexus);
bool scsi_pr_holds(const struct scsi_pr *pr, const struct sp_guid *nexus);

/* Unit attentions that a change makes. */
struct scsi_pr_notes {
	unsigned count;
	struct { struct sp_guid nexus; uint32_t ua; } note[2 * SCSI_REGISTRATIONS_MAX];
};

/* Makes @next the one in force. r->change is held. */
void scsi_pr_publish(struct scsi_lu *lu, const struct scsi_pr *next, const struct scsi_pr_notes *notes);

void scsi_pr_in_keys(struct scsi_task *t);		/* scsi_reserve_in.c */
void scsi_pr_in_reservation(struct scsi_task *t);
void scsi_pr_in_capabilities(struct scsi_task *t);
void scsi_pr_in_full_status(struct scsi_task *t);
void scsi_pr_out(struct scsi_task *t);			/* scsi_reserve_out.c */

/* Opens what is kept; @ret_pr is empty when there is nothing. -EBADMSG: not a file of reservations, or damaged;
 * -ESTALE: of another unit. @folder NULL: @path is one of the host. scsi_reserve_file.c */
int scsi_reserve_file_open(struct store_folder *folder, const char *path, const struct sp_guid *unit,
			   struct scsi_pr *ret_pr, struct scsi_reserve_file **ret_file, struct sp_err *err);
/* Durable on return: all of @pr, or what was there before. With @pr not to be kept the file goes. */
int scsi_reserve_file_save(struct scsi_reserve_file *f, const struct scsi_pr *pr);
void scsi_reserve_file_close(struct scsi_reserve_file *f);

#endif
