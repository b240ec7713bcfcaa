/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Who may do what on a reserved unit, and RESERVE and RELEASE of old.
 */
#include <errno.h>

#include "base/alloc.h"
#include "base/seed.h"
#include "storvsp/scsi_reserve_int.h"

/* ---- the value ------------------------------------------------------------------------------------------ */

bool scsi_pr_type_ok(uint8_t type)
{
	return type == SCSI_PR_WE || type == SCSI_PR_EA || (type >= SCSI_PR_WE_RO && type <= SCSI_PR_EA_AR);
}

bool scsi_pr_all_registrants(uint8_t type)
{
	return type == SCSI_PR_WE_AR || type == SCSI_PR_EA_AR;
}

bool scsi_pr_registrants_only(uint8_t type)
{
	return type >= SCSI_PR_WE_RO && type <= SCSI_PR_EA_AR;
}

static bool write_exclusive(uint8_t type)
{
	return type == SCSI_PR_WE || type == SCSI_PR_WE_RO || type == SCSI_PR_WE_AR;
}

const struct scsi_registration *scsi_pr_find(const struct scsi_pr *pr, const struct sp_guid *nexus)
{
	for (unsigned i = 0; i < pr->count; i++)
		if (sp_guid_equal(&pr->reg[i].nexus, nexus))
			return &pr->reg[i];
	return NULL;
}

bool scsi_pr_holds(const struct scsi_pr *pr, const struct sp_guid *nexus)
{
	if (pr->type == SCSI_PR_NONE)
		return false;
	if (scsi_pr_all_registrants(pr->type))
		return scsi_pr_find(pr, nexus) != NULL;
	return sp_guid_equal(&pr->holder, nexus);
}

/* ---- conflicts ------------------------------------------------------------------------------------------ */

/* SPC-4 table "commands allowed in the presence of various reservations", SBC-3 likewise. Here are the commands whose
 * answer depends on more than the flags of their row; the rest follows from those. */
static bool always_allowed(const struct scsi_command *cmd, const uint8_t cdb[16], bool persistent)
{
	if (cmd->flags & SCSI_CMD_RESERVED_OK)
		return true;
	switch (cmd->opcode) {
	case 0x00:		/* TEST UNIT READY */
	case 0x5e: case 0x5f:	/* PERSISTENT RESERVE: judges itself */
		return persistent;
	case 0x16: case 0x56:	/* RESERVE: judges itself */
		return true;
	case 0x1b:		/* START STOP UNIT: starting harms nobody */
		return (cdb[4] & 0xf1) == 0x01;
	case 0x1e:		/* PREVENT ALLOW: allowing neither */
		return (cdb[4] & 0x03) == 0;
	default:
		return false;
	}
}

bool scsi_reservation_allows(struct scsi_lu *lu, const struct scsi_nexus *nexus, const struct scsi_command *cmd,
			     const uint8_t cdb[16])
{
	struct scsi_reservations *r = lu->reservations;
	bool allowed;

	pthread_mutex_lock(&lu->lock);
	if (r->reserved_by >= 0)
		allowed = (uint32_t)r->reserved_by == nexus->index || always_allowed(cmd, cdb, false);
	else if (r->now.type == SCSI_PR_NONE || scsi_pr_holds(&r->now, &nexus->id) || always_allowed(cmd, cdb, true))
		allowed = true;
	else if (scsi_pr_registrants_only(r->now.type) && scsi_pr_find(&r->now, &nexus->id))
		allowed = true;
	else
		allowed = (write_exclusive(r->now.type) || SP_SEED_BUG(SCSI_PR_EA_READS)) &&
			  (cmd->flags & SCSI_CMD_READS) && !(cmd->flags & SCSI_CMD_WRITES);
	pthread_mutex_unlock(&lu->lock);
	return allowed;
}

/* ---- changes -------------------------------------------------------------------------------------------- */

static void update_reserved_locked(struct scsi_lu *lu)
{
	struct scsi_reservations *r = lu->reservations;

	__atomic_store_n(&lu->reserved, r->reserved_by >= 0 || r->now.type != SCSI_PR_NONE, __ATOMIC_RELEASE);
}

/* The nexuses connected under an identity: a set of bits. */
static uint32_t nexuses_of_locked(const struct scsi_lu *lu, const struct sp_guid *id)
{
	uint32_t set = 0;

	for (uint32_t i = 0; i < SCSI_NEXUSES; i++)
		if (lu->nexus[i].connected && sp_guid_equal(&lu->nexus[i].id, id))
			set |= UINT32_C(1) << i;
	return set;
}

void scsi_pr_publish(struct scsi_lu *lu, const struct scsi_pr *next, const struct scsi_pr_notes *notes)
{
	uint32_t sets[SP_ARRAY_SIZE(notes->note)];

	pthread_mutex_lock(&lu->lock);
	lu->reservations->now = *next;
	update_reserved_locked(lu);
	for (unsigned i = 0; i < notes->count; i++)
		sets[i] = nexuses_of_locked(lu, &notes->note[i].nexus);
	pthread_mutex_unlock(&lu->lock);
	for (unsigned i = 0; i < notes->count; i++)
		for (uint32_t n = 0; n < SCSI_NEXUSES; n++)
			if (sets[i] & UINT32_C(1) << n)
				scsi_ua_raise_one(lu, n, notes->note[i].ua);
}

/* ---- RESERVE and RELEASE -------------------------------------------------------------------------------- */

static void set_reserved_by(struct scsi_lu *lu, int nexus)
{
	pthread_mutex_lock(&lu->lock);
	lu->reservations->reserved_by = nexus;
	update_reserved_locked(lu);
	pthread_mutex_unlock(&lu->lock);
}

/* Old and persistent reservations exclude each other: where somebody is registered, these conflict. */
static void reserve(struct scsi_task *t)
{
	struct scsi_lu *lu = scsi_task_lu(t);
	struct scsi_reservations *r = lu->reservations;
	bool conflict;

	pthread_mutex_lock(&r->change);
	conflict = r->now.count != 0 || (r->reserved_by >= 0 && (uint32_t)r->reserved_by != t->nexus->index);
	if (!conflict)
		set_reserved_by(lu, (int)t->nexus->index);
	pthread_mutex_unlock(&r->change);
	if (conflict)
		scsi_conflict(t);
	else
		scsi_good(t);
}

static void release(struct scsi_task *t)
{
	struct scsi_lu *lu = scsi_task_lu(t);
	struct scsi_reservations *r = lu->reservations;
	bool conflict;

	pthread_mutex_lock(&r->change);
	conflict = r->now.count != 0;
	if (!conflict && r->reserved_by == (int)t->nexus->index)
		set_reserved_by(lu, -1);
	pthread_mutex_unlock(&r->change);
	if (conflict)
		scsi_conflict(t);
	else
		scsi_good(t);	/* somebody else's stays, and that is no error */
}

void scsi_reservations_power_on(struct scsi_lu *lu, const struct scsi_nexus *nexus)
{
	struct scsi_reservations *r = lu->reservations;

	pthread_mutex_lock(&r->change);
	if (r->reserved_by == (int)nexus->index)
		set_reserved_by(lu, -1);
	pthread_mutex_unlock(&r->change);
}

/* ---- life ----------------------------------------------------------------------------------------------- */

int scsi_reservations_new(struct store_folder *folder, const char *path, struct scsi_lu *lu, struct sp_err *err)
{
	struct scsi_reservations *r = sp_zalloc(sizeof(*r));
	int ret;

	if (!r)
		return sp_err_set(err, -ENOMEM, "no memory for reservations");
	r->reserved_by = -1;
	if (path) {
		ret = scsi_reserve_file_open(folder, path, &lu->identity, &r->now, &r->file, err);
		if (ret < 0) {
			sp_free(r);
			return ret;
		}
	}
	pthread_mutex_init(&r->change, NULL);
	lu->reservations = r;
	update_reserved_locked(lu);
	return 0;
}

void scsi_reservations_free(struct scsi_lu *lu)
{
	struct scsi_reservations *r = lu->reservations;

	if (!r)
		return;
	scsi_reserve_file_close(r->file);
	pthread_mutex_destroy(&r->change);
	sp_free(r);
	lu->reservations = NULL;
}

/* ---- the table ------------------------------------------------------------------------------------------ */

#define IN(action, name, run)  { 0x5e, action, 10, SCSI_CMD_DISK, "PERSISTENT RESERVE IN, " name, \
				 { 0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff }, run }
#define OUT(action, name) { 0x5f, action, 10, SCSI_CMD_DISK, "PERSISTENT RESERVE OUT, " name, \
			    { 0x5f, 0x1f, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff }, scsi_pr_out }

static const struct scsi_command commands[] = {
	{ 0x16, -1, 6, SCSI_CMD_DISK, "RESERVE(6)", { 0x16 }, reserve },
	{ 0x17, -1, 6, SCSI_CMD_DISK | SCSI_CMD_RESERVED_OK, "RELEASE(6)", { 0x17 }, release },
	{ 0x56, -1, 10, SCSI_CMD_DISK, "RESERVE(10)", { 0x56 }, reserve },
	{ 0x57, -1, 10, SCSI_CMD_DISK | SCSI_CMD_RESERVED_OK, "RELEASE(10)", { 0x57 }, release },
	IN(0, "READ KEYS", scsi_pr_in_keys),
	IN(1, "READ RESERVATION", scsi_pr_in_reservation),
	IN(2, "REPORT CAPABILITIES", scsi_pr_in_capabilities),
	IN(3, "READ FULL STATUS", scsi_pr_in_full_status),
	OUT(0, "REGISTER"),
	OUT(1, "RESERVE"),
	OUT(2, "RELEASE"),
	OUT(3, "CLEAR"),
	OUT(4, "PREEMPT"),
	OUT(5, "PREEMPT AND ABORT"),
	OUT(6, "REGISTER AND IGNORE EXISTING KEY"),
};

const struct scsi_command_table scsi_table_reserve = { commands, SP_ARRAY_SIZE(commands) };
