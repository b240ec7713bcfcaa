/* SPDX-License-Identifier: BSD-2-Clause */
#include "vss/vss_int.h"

#include <errno.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/seed.h"

#define NS_PER_MS 1000000ull

/* ---- provider ----------------------------------------------------------------------------------------- */

static void provider_begin(struct vss_set *s, enum vss_op op)
{
	enum vss_reason reason;

	s->work = PROVIDER_WORKS;
	s->op = op;
	switch (op) {
	case VSS_OP_PREPARE:
		s->provider.prepare(s->provider.ctx);
		break;
	case VSS_OP_COMMIT:
		s->provider.commit(s->provider.ctx);
		break;
	case VSS_OP_FINISH:
		s->provider.finish(s->provider.ctx, vss_level_of(s, &reason));
		break;
	default:
		s->provider.abort(s->provider.ctx);
	}
}

/* A failed set takes back what is there; if the provider still works on it, once it has answered. */
static void take_back(struct vss_set *s)
{
	if (s->work == PROVIDER_WORKS || !s->prepared)
		return;
	s->prepared = false;
	provider_begin(s, VSS_OP_ABORT);
}

static void provider_answered(struct vss_set *s, enum vss_op op, int res)
{
	if (s->work != PROVIDER_WORKS || s->op != op)
		return;
	s->work = PROVIDER_ANSWERED;
	if (op != VSS_OP_ABORT)
		s->res = res;
	if (op == VSS_OP_PREPARE)
		s->prepared = res == 0;
	if (op == VSS_OP_COMMIT)
		s->committed = res == 0;
	if (s->state == VSS_FAILED && !SP_SEED_BUG(VSS_LATE_SNAPSHOT_KEPT))
		take_back(s);
}

/* ---- writers ------------------------------------------------------------------------------------------ */

static void writer_out(struct set_writer *w, enum vss_reason reason)
{
	w->state = WRITER_OUT;
	w->reason = reason;
}

static void writer_check(struct vss_set *s, struct set_writer *w)
{
	w->state = WRITER_CHECKING;
	w->w.ops->check(w->w.ctx);
}

static void writer_freeze(struct vss_set *s, struct set_writer *w)
{
	w->state = WRITER_FREEZING;
	w->maybe_frozen = true;
	w->sent_ns = s->now_ns;
	w->w.ops->freeze(w->w.ctx, s->opts.freeze_ms);
}

static void writer_thaw(struct vss_set *s, struct set_writer *w)
{
	if (w->state != WRITER_THAWING && w->state != WRITER_FROZEN)
		w->broken = true;	/* it was never known to be frozen */
	w->state = WRITER_THAWING;
	w->waiting = false;
	if (w->tries++ == 0)
		w->sent_ns = s->now_ns;
	w->deadline_ns = s->now_ns + s->opts.thaw_ms * NS_PER_MS;
	w->w.ops->thaw(w->w.ctx);
	if (w->dead && w->state == WRITER_THAWING)
		w->state = WRITER_THAWED;	/* its death has thawed it, or its adapter sees to it */
}

/* A first thaw that is not simply acknowledged casts doubt on the time before it. */
static void thaw_failed(struct vss_set *s, struct set_writer *w)
{
	w->broken = true;
	w->reason = w->reason ? w->reason : VSS_REASON_THAW;
	w->waiting = true;
	w->deadline_ns = s->now_ns + VSS_THAW_AGAIN_MS * NS_PER_MS;
	if (w->tries >= VSS_THAW_TRIES)
		w->state = WRITER_THAWED;	/* given up: maybe_frozen tells */
}

static void writer_answered(struct vss_set *s, struct set_writer *w, enum vss_op op, int res, enum vss_reason why)
{
	if (op == VSS_OP_CHECK && w->state == WRITER_CHECKING) {
		w->state = WRITER_READY;
		if (res < 0)
			writer_out(w, why ? why : VSS_REASON_NO_DAEMON);
	} else if (op == VSS_OP_FREEZE && w->state == WRITER_FREEZING) {
		w->freeze_ns = s->now_ns - w->sent_ns;
		w->state = WRITER_FROZEN;
		w->was_frozen = res == 0;
		if (res < 0)
			writer_out(w, why ? why : VSS_REASON_FREEZE_ERROR);
	} else if (op == VSS_OP_THAW && w->state == WRITER_THAWING && res == 0) {
		w->thaw_ns = s->now_ns - w->sent_ns;
		w->maybe_frozen = false;
		w->state = WRITER_THAWED;
	} else if (op == VSS_OP_THAW && w->state == WRITER_THAWING && !w->waiting) {
		thaw_failed(s, w);
	}
}

static void writer_died(struct set_writer *w, enum vss_reason why)
{
	w->dead = true;
	switch (w->state) {
	case WRITER_CHECKING:
	case WRITER_READY:
	case WRITER_FREEZING:
		writer_out(w, why);
		break;
	case WRITER_FROZEN:
		w->broken = true;
		w->reason = why;
		break;
	case WRITER_THAWING:
		w->broken = true;
		w->reason = w->reason ? w->reason : why;
		w->state = WRITER_THAWED;
		break;
	default:
		break;
	}
}

static unsigned count(const struct vss_set *s, enum writer_state state)
{
	unsigned n = 0;

	for (unsigned i = 0; i < s->writers; i++)
		n += s->writer[i].state == state;
	return n;
}

static bool anybody_frozen(const struct vss_set *s)
{
	for (unsigned i = 0; i < s->writers; i++)
		if (s->writer[i].maybe_frozen && !s->writer[i].dead)
			return true;
	return false;
}

static bool enough(const struct vss_set *s, enum vss_reason *ret_reason)
{
	enum vss_level level = vss_level_of(s, ret_reason);

	for (unsigned i = 0; i < s->writers; i++) {
		if (!s->writer[i].w.essential || vss_writer_holds(&s->writer[i]))
			continue;
		*ret_reason = s->writer[i].reason;
		return false;
	}
	return level >= s->opts.require;
}

/* ---- ends --------------------------------------------------------------------------------------------- */

static void end(struct vss_set *s, enum vss_state state)
{
	s->state = state;
	s->deadline_ns = UINT64_MAX;
	if (state == VSS_FAILED)
		take_back(s);
	for (unsigned i = 0; i < s->writers; i++)
		if (!s->writer[i].dead)
			s->writer[i].w.ops->complete(s->writer[i].w.ctx, state == VSS_DONE);
}

/* Those of @stage, or of all in reverse order. */
static void thaw_stage(struct vss_set *s)
{
	for (unsigned stage = VSS_STAGES; stage-- > 0;)
		for (unsigned i = 0; i < s->writers; i++) {
			struct set_writer *w = &s->writer[i];

			if (w->w.stage == stage && (s->all_stages || stage == s->stage) && w->maybe_frozen && !w->tries)
				writer_thaw(s, w);
		}
}

static void begin_thawing(struct vss_set *s)
{
	s->state = VSS_THAWING;
	s->stage = VSS_STAGE_LAST;
	s->deadline_ns = s->window_ns;
	s->all_stages = s->failed;
	thaw_stage(s);
}

static bool fail(struct vss_set *s, enum vss_reason reason)
{
	if (!s->failed)
		s->reason = reason;
	s->failed = true;
	if (s->window_ns && s->state != VSS_THAWING && !SP_SEED_BUG(VSS_NO_THAW_ON_FAILURE))
		begin_thawing(s);
	else if (s->state == VSS_THAWING)
		s->all_stages = true;
	else
		end(s, VSS_FAILED);
	return true;
}

/* ---- states: each step tells whether it got anywhere ---------------------------------------------------- */

static bool late(const struct vss_set *s)
{
	return s->now_ns >= s->deadline_ns;
}

static void expect(struct vss_set *s, enum vss_state state, unsigned ms)
{
	s->state = state;
	s->deadline_ns = s->now_ns + ms * NS_PER_MS;
}

static bool step_checking(struct vss_set *s)
{
	enum vss_reason reason;

	if (count(s, WRITER_CHECKING) && !late(s))
		return false;
	for (unsigned i = 0; i < s->writers; i++)
		if (s->writer[i].state == WRITER_CHECKING)
			writer_out(&s->writer[i], VSS_REASON_CHECK_TIMEOUT);
	if (!enough(s, &reason))
		return fail(s, reason);
	expect(s, VSS_PREPARING, s->opts.prepare_ms);
	provider_begin(s, VSS_OP_PREPARE);
	return true;
}

static bool begin_commit(struct vss_set *s)
{
	uint64_t hold_ns = s->opts.hold_ms * NS_PER_MS;

	/* Less time than it may take: better not begun. */
	if (anybody_frozen(s) && s->now_ns + hold_ns > s->window_ns)
		return fail(s, VSS_REASON_FREEZE_TIMEOUT);
	expect(s, VSS_COMMITTING, s->opts.hold_ms);
	s->commit_ns = s->now_ns;
	provider_begin(s, VSS_OP_COMMIT);
	return true;
}

static void freeze_stage(struct vss_set *s, enum vss_stage stage)
{
	s->stage = stage;
	for (unsigned i = 0; i < s->writers; i++)
		if (s->writer[i].w.stage == stage && s->writer[i].state == WRITER_READY)
			writer_freeze(s, &s->writer[i]);
}

static bool step_preparing(struct vss_set *s)
{
	enum vss_reason reason;

	if (s->work == PROVIDER_WORKS)
		return late(s) ? fail(s, VSS_REASON_PREPARE_TIMEOUT) : false;
	if (s->res < 0)
		return fail(s, VSS_REASON_SNAPSHOT);
	if (!enough(s, &reason))
		return fail(s, reason);
	if (!count(s, WRITER_READY))
		return begin_commit(s);
	expect(s, VSS_FREEZING, s->opts.freeze_ms);
	s->froze_ns = s->now_ns;
	s->window_ns = s->deadline_ns;
	freeze_stage(s, 0);
	return true;
}

static bool step_freezing(struct vss_set *s)
{
	enum vss_reason reason;

	if (count(s, WRITER_FREEZING) && !late(s))
		return enough(s, &reason) ? false : fail(s, reason);
	for (unsigned i = 0; i < s->writers; i++)
		if (s->writer[i].state == WRITER_FREEZING)
			writer_out(&s->writer[i], VSS_REASON_FREEZE_TIMEOUT);
	if (late(s))
		return fail(s, VSS_REASON_FREEZE_TIMEOUT);
	if (!enough(s, &reason))
		return fail(s, reason);
	if (s->stage + 1u == VSS_STAGES)
		return begin_commit(s);
	freeze_stage(s, s->stage + 1u);
	return true;
}

static bool step_committing(struct vss_set *s)
{
	if (s->work == PROVIDER_WORKS)
		return late(s) && !SP_SEED_BUG(VSS_HOLD_FOREVER) ? fail(s, VSS_REASON_HOLD_OVERRUN) : false;
	s->hold_took_ns = s->now_ns - s->commit_ns;
	if (s->res < 0)
		return fail(s, s->res == -ETIMEDOUT ? VSS_REASON_HOLD_OVERRUN : VSS_REASON_SNAPSHOT);
	begin_thawing(s);
	return true;
}

static bool conclude(struct vss_set *s)
{
	enum vss_reason reason;

	if (s->froze_ns)
		s->freeze_took_ns = s->now_ns - s->froze_ns;
	s->window_ns = 0;
	for (unsigned i = 0; i < s->writers; i++)
		if (s->writer[i].maybe_frozen && !s->writer[i].dead && !s->failed) {
			s->failed = true;
			s->reason = VSS_REASON_THAW;
		}
	if (!s->failed && !enough(s, &reason)) {
		s->failed = true;
		s->reason = reason;
	}
	if (s->failed) {
		end(s, VSS_FAILED);
		return true;
	}
	s->prepared = false;
	expect(s, VSS_FINISHING, s->opts.prepare_ms);
	provider_begin(s, VSS_OP_FINISH);
	return true;
}

/* Retries what is due; true while somebody's answer is awaited. */
static bool thaw_again(struct vss_set *s)
{
	for (unsigned i = 0; i < s->writers; i++) {
		struct set_writer *w = &s->writer[i];

		if (w->state != WRITER_THAWING || s->now_ns < w->deadline_ns)
			continue;
		if (!w->waiting)
			thaw_failed(s, w);
		if (w->state == WRITER_THAWING)
			writer_thaw(s, w);
	}
	return count(s, WRITER_THAWING);
}

static bool step_thawing(struct vss_set *s)
{
	if (late(s) && anybody_frozen(s)) {
		fail(s, VSS_REASON_FREEZE_TIMEOUT);
		s->deadline_ns = UINT64_MAX;	/* what follows has its own */
	}
	if (s->all_stages)
		thaw_stage(s);
	if (thaw_again(s))
		return false;
	if (s->all_stages || s->stage == 0)
		return conclude(s);
	s->stage--;
	thaw_stage(s);
	return true;
}

/* The disks have switched and everybody is free: what is left is order. */
static bool step_finishing(struct vss_set *s)
{
	if (s->work == PROVIDER_WORKS)
		return late(s) ? fail(s, VSS_REASON_SNAPSHOT) : false;
	end(s, VSS_DONE);
	return true;
}

static bool step(struct vss_set *s)
{
	switch (s->state) {
	case VSS_CHECKING:
		return step_checking(s);
	case VSS_PREPARING:
		return step_preparing(s);
	case VSS_FREEZING:
		return step_freezing(s);
	case VSS_COMMITTING:
		return step_committing(s);
	case VSS_THAWING:
		return step_thawing(s);
	case VSS_FINISHING:
		return step_finishing(s);
	default:
		return false;
	}
}

/* Operations answer from inside their call if they like; the step that called them then sees it. */
static void drive(struct vss_set *s)
{
	if (s->driving)
		return;
	s->driving = true;
	while (step(s))
		;
	s->driving = false;
}

/* ---- from outside ------------------------------------------------------------------------------------- */

static unsigned or_else(unsigned ms, unsigned otherwise)
{
	return ms ? ms : otherwise;
}

int vss_set_new(const struct vss_opts *opts, const struct vss_provider *provider, struct vss_set **ret_set)
{
	struct vss_set *s = sp_zalloc(sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->opts = *opts;
	s->opts.check_ms = or_else(opts->check_ms, 35000);
	s->opts.prepare_ms = or_else(opts->prepare_ms, 180000);
	s->opts.freeze_ms = or_else(opts->freeze_ms, 60000);
	s->opts.hold_ms = or_else(opts->hold_ms, 10000);
	s->opts.thaw_ms = or_else(opts->thaw_ms, 35000);
	if (s->opts.hold_ms >= s->opts.freeze_ms) {
		sp_free(s);
		return -EINVAL;
	}
	s->provider = *provider;
	s->deadline_ns = UINT64_MAX;
	*ret_set = s;
	return 0;
}

int vss_add_writer(struct vss_set *s, const struct vss_writer *w)
{
	struct set_writer *to = &s->writer[s->writers];

	if (s->writers == VSS_WRITERS_MAX)
		return -ENOSPC;
	to->w = *w;
	snprintf(to->name, sizeof(to->name), "%s", w->name);
	return (int)s->writers++;
}

void vss_set_free(struct vss_set *s)
{
	sp_free(s);
}

void vss_start(struct vss_set *s, uint64_t now_ns)
{
	s->now_ns = now_ns;
	expect(s, VSS_CHECKING, s->opts.check_ms);
	s->driving = true;
	for (unsigned i = 0; i < s->writers; i++)
		writer_check(s, &s->writer[i]);
	s->driving = false;
	drive(s);
}

/* What came too late came too late: deadlines before answers. */
void vss_answer(struct vss_set *s, int who, enum vss_op op, int res, enum vss_reason why, uint64_t now_ns)
{
	vss_tick(s, now_ns);
	if (who == VSS_PROVIDER)
		provider_answered(s, op, res);
	else if (res < 0 && why == VSS_REASON_GONE)
		writer_died(&s->writer[who], why);
	else
		writer_answered(s, &s->writer[who], op, res, why);
	drive(s);
}

void vss_lost(struct vss_set *s, int who, enum vss_reason why, uint64_t now_ns)
{
	vss_tick(s, now_ns);
	writer_died(&s->writer[who], why);
	drive(s);
}

void vss_gone(struct vss_set *s, int who, uint64_t now_ns)
{
	vss_lost(s, who, VSS_REASON_GONE, now_ns);
}

void vss_abort(struct vss_set *s, uint64_t now_ns)
{
	vss_tick(s, now_ns);
	if (s->state < VSS_COMMITTING)
		fail(s, VSS_REASON_ABORTED);
	drive(s);
}

void vss_tick(struct vss_set *s, uint64_t now_ns)
{
	s->now_ns = now_ns > s->now_ns ? now_ns : s->now_ns;
	drive(s);
}

uint64_t vss_deadline_ns(const struct vss_set *s)
{
	uint64_t first = s->deadline_ns;

	for (unsigned i = 0; s->state == VSS_THAWING && i < s->writers; i++)
		if (s->writer[i].state == WRITER_THAWING && s->writer[i].deadline_ns < first)
			first = s->writer[i].deadline_ns;
	return first;
}

enum vss_state vss_state(const struct vss_set *s)
{
	return s->state;
}

bool vss_over(const struct vss_set *s)
{
	return s->state == VSS_DONE || s->state == VSS_FAILED;
}

bool vss_busy(const struct vss_set *s)
{
	return s->work == PROVIDER_WORKS || (s->state != VSS_IDLE && !vss_over(s));
}
