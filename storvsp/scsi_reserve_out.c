/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * PERSISTENT RESERVE OUT. SPC-4 6.16 and 5.12.11. Each action turns one value into the next and notes whom to tell.
 */
#include "base/seed.h"
#include "storvsp/scsi_reserve_int.h"

#define LIST_LEN	 24u
#define APTPL		 0x01u	/* parameter byte 20 */
#define ALL_TG_PT	 0x04u
#define SPEC_I_PT	 0x08u
#define SENSE_NO_ROOM	 SCSI_SENSE(0x5, 0x55, 0x04)	/* insufficient registration resources */
#define SENSE_RELEASE	 SCSI_SENSE(0x5, 0x26, 0x04)	/* invalid release of persistent reservation */
#define UA_REGISTRATIONS SCSI_SENSE(0x6, 0x2a, 0x05)	/* registrations preempted */
#define CONFLICT	 UINT32_MAX			/* in place of a sense */

struct request {
	const struct sp_guid *nexus;
	uint8_t action, scope, type;
	uint64_t key, action_key;
	uint8_t flags;
};

static void note(struct scsi_pr_notes *notes, const struct sp_guid *nexus, uint32_t ua)
{
	notes->note[notes->count].nexus = *nexus;
	notes->note[notes->count++].ua = ua;
}

static void note_others(struct scsi_pr_notes *notes, const struct scsi_pr *pr, const struct sp_guid *but, uint32_t ua)
{
	for (unsigned i = 0; i < pr->count; i++)
		if (!sp_guid_equal(&pr->reg[i].nexus, but))
			note(notes, &pr->reg[i].nexus, ua);
}

static struct scsi_registration *find(struct scsi_pr *pr, const struct sp_guid *nexus)
{
	return (struct scsi_registration *)(uintptr_t)scsi_pr_find(pr, nexus);
}

static bool registered_as(const struct scsi_pr *pr, const struct request *req)
{
	const struct scsi_registration *reg = scsi_pr_find(pr, req->nexus);

	return reg && (reg->key == req->key || SP_SEED_BUG(SCSI_PR_ANY_KEY));
}

static void remove_at(struct scsi_pr *pr, unsigned i)
{
	pr->reg[i] = pr->reg[--pr->count];
	/* What all registrants hold ends with the last of them. */
	if (pr->count == 0)
		pr->type = SCSI_PR_NONE;
}

static void unregister(struct scsi_pr *pr, struct scsi_registration *reg, struct scsi_pr_notes *notes)
{
	struct sp_guid nexus = reg->nexus;
	bool ends = scsi_pr_holds(pr, &nexus) && !scsi_pr_all_registrants(pr->type);

	remove_at(pr, (unsigned)(reg - pr->reg));
	if (!ends)
		return;
	if (scsi_pr_registrants_only(pr->type))
		note_others(notes, pr, &nexus, SCSI_UA_RELEASED);
	pr->type = SCSI_PR_NONE;
}

static uint32_t do_register(struct scsi_pr *pr, const struct request *req, bool ignore, struct scsi_pr_notes *notes)
{
	struct scsi_registration *reg = find(pr, req->nexus);

	if (!ignore && (reg ? reg->key : 0) != req->key)
		return CONFLICT;
	if (reg && req->action_key == 0) {
		unregister(pr, reg, notes);
	} else if (reg) {
		reg->key = req->action_key;
	} else if (req->action_key != 0) {
		if (pr->count == SCSI_REGISTRATIONS_MAX)
			return SENSE_NO_ROOM;
		pr->reg[pr->count++] = (struct scsi_registration){ *req->nexus, req->action_key };
	}
	pr->aptpl = req->flags & APTPL;
	pr->generation++;
	return 0;
}

static uint32_t do_reserve(struct scsi_pr *pr, const struct request *req)
{
	if (pr->type != SCSI_PR_NONE)
		return scsi_pr_holds(pr, req->nexus) && pr->type == req->type ? 0 : CONFLICT;
	pr->type = req->type;
	pr->holder = *req->nexus;
	return 0;
}

static uint32_t do_release(struct scsi_pr *pr, const struct request *req, struct scsi_pr_notes *notes)
{
	if (!scsi_pr_holds(pr, req->nexus))
		return 0;
	if (pr->type != req->type)
		return SENSE_RELEASE;
	if (scsi_pr_registrants_only(pr->type))
		note_others(notes, pr, req->nexus, SCSI_UA_RELEASED);
	pr->type = SCSI_PR_NONE;
	return 0;
}

static uint32_t do_clear(struct scsi_pr *pr, const struct request *req, struct scsi_pr_notes *notes)
{
	note_others(notes, pr, req->nexus, SCSI_UA_PREEMPTED);
	pr->count = 0;
	pr->type = SCSI_PR_NONE;
	pr->generation++;
	return 0;
}

/* Takes registrations away: those with @key, or all when it is 0; that of @keep stays. How many went. */
static unsigned remove_keys(struct scsi_pr *pr, uint64_t key, const struct sp_guid *self, bool keep,
			    struct scsi_pr_notes *notes)
{
	unsigned gone = 0;

	for (unsigned i = pr->count; i-- > 0;) {
		bool own = sp_guid_equal(&pr->reg[i].nexus, self);

		if ((key != 0 && pr->reg[i].key != key) || (own && keep))
			continue;
		if (!own)
			note(notes, &pr->reg[i].nexus, UA_REGISTRATIONS);
		remove_at(pr, i);
		gone++;
	}
	return gone;
}

/* The reservation changes hands. */
static void take_over(struct scsi_pr *pr, const struct request *req, struct scsi_pr_notes *notes)
{
	uint8_t old = pr->type;

	remove_keys(pr, req->action_key, req->nexus, true, notes);
	if (old != req->type)
		note_others(notes, pr, req->nexus, SCSI_UA_RELEASED);
	pr->type = req->type;
	pr->holder = *req->nexus;
}

static uint32_t do_preempt(struct scsi_pr *pr, const struct request *req, struct scsi_pr_notes *notes)
{
	bool all = scsi_pr_all_registrants(pr->type);
	const struct scsi_registration *holder = NULL;
	bool takes;

	if (pr->type != SCSI_PR_NONE && !all)
		holder = scsi_pr_find(pr, &pr->holder);
	if (req->action_key == 0 && !all)
		return SCSI_SENSE_INVALID_PARAMETER;
	takes = all ? req->action_key == 0 : holder && holder->key == req->action_key;
	if (takes && (req->scope != 0 || !scsi_pr_type_ok(req->type)))
		return SCSI_SENSE_INVALID_FIELD;
	if (takes)
		take_over(pr, req, notes);
	else if (remove_keys(pr, req->action_key, req->nexus, false, notes) == 0)
		return CONFLICT;
	pr->generation++;
	return 0;
}

static uint32_t act(struct scsi_pr *pr, const struct request *req, struct scsi_pr_notes *notes)
{
	if (req->action == 0 || req->action == 6)
		return do_register(pr, req, req->action == 6, notes);
	if (!registered_as(pr, req))
		return CONFLICT;
	switch (req->action) {
	case 1:
		return do_reserve(pr, req);
	case 2:
		return do_release(pr, req, notes);
	case 3:
		return do_clear(pr, req, notes);
	default:
		return do_preempt(pr, req, notes);
	}
}

/* What survives differs: the generation does not count. */
static bool kept_differs(const struct scsi_pr *a, const struct scsi_pr *b)
{
	return a->aptpl != b->aptpl || a->type != b->type || a->count != b->count ||
	       !sp_guid_equal(&a->holder, &b->holder) || memcmp(a->reg, b->reg, a->count * sizeof(a->reg[0])) != 0;
}

static uint32_t change(struct scsi_lu *lu, const struct request *req)
{
	struct scsi_reservations *r = lu->reservations;
	struct scsi_pr next;
	struct scsi_pr_notes notes = { 0 };
	uint32_t verdict;

	pthread_mutex_lock(&r->change);
	next = r->now;
	verdict = r->reserved_by >= 0 ? CONFLICT : act(&next, req, &notes);
	if (verdict == 0 && r->file && (next.aptpl || r->now.aptpl) && kept_differs(&next, &r->now) &&
	    !SP_SEED_BUG(SCSI_PR_NOT_KEPT) && scsi_reserve_file_save(r->file, &next) < 0)
		verdict = SCSI_SENSE_INTERNAL;
	if (verdict == 0)
		scsi_pr_publish(lu, &next, &notes);
	pthread_mutex_unlock(&r->change);
	return verdict;
}

/* PREEMPT AND ABORT promises that nothing of the preempted is still on its way. What was submitted cannot be called
 * back, so it is waited for; new writes of theirs conflict already. */
static int aborted(struct scsi_task *t, int res)
{
	scsi_exclusive_end(t);
	scsi_good(t);
	return 0;
}

void scsi_pr_out(struct scsi_task *t)
{
	struct scsi_lu *lu = scsi_task_lu(t);
	struct request req = { .nexus = &t->nexus->id, .action = t->cdb[1] & 0x1f, .scope = t->cdb[2] >> 4,
			       .type = t->cdb[2] & 0x0f };
	uint8_t list[LIST_LEN];
	uint32_t verdict;

	if (scsi_get32(t->cdb + 5) != LIST_LEN) {
		scsi_fail(t, SCSI_SENSE_LIST_LENGTH);
		return;
	}
	if (!scsi_parameters(t, list, LIST_LEN))
		return;
	req.key = scsi_get64(list);
	req.action_key = scsi_get64(list + 8);
	req.flags = list[20];
	if ((req.action == 1 || req.action == 2) && (req.scope != 0 || !scsi_pr_type_ok(req.type))) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 2);
		return;
	}
	if ((req.action == 0 || req.action == 6) &&
	    ((req.flags & (SPEC_I_PT | ALL_TG_PT)) || ((req.flags & APTPL) && !lu->reservations->file))) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_PARAMETER, false, 20);
		return;
	}
	verdict = change(lu, &req);
	if (verdict == CONFLICT) {
		scsi_conflict(t);
	} else if (verdict != 0) {
		scsi_fail(t, verdict);
	} else if (req.action == 5) {
		t->step = aborted;
		scsi_exclusive_begin(t);
	} else {
		scsi_good(t);
	}
}
