/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The coordinator against participants that die, hang, fail and are late, each in each of its operations, and every two
 * of these faults together. Time is a number here. What the participants really did is kept beside what the set says.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "vss/vss.h"

#define SECOND 1000000000ull
#define MS     1000000ull

enum fault { FINE, AT_ONCE, ERROR, HANG, LATE, DIES, SLOW, FAULTS };
static const char *const fault_name[FAULTS] = { "fine", "at once", "error", "hang", "late", "dies", "slow" };

enum { APPLICATION, GUEST, LAST, WRITERS, PROVIDER = WRITERS, PARTICIPANTS };
static const char *const participant_name[] = { "application", "guest", "last", "provider" };
static const char *const op_name[] = { "check", "freeze", "thaw", "prepare", "commit", "finish", "abort" };
#define OPS (VSS_OP_ABORT + 1)

struct event { uint64_t at; int who; enum vss_op op; int res; bool gone; };

struct participant {
	struct world *world;
	int who;
	enum fault fault[OPS];
	unsigned calls[OPS];
	uint64_t called[OPS];
	bool frozen, dead;		/* truly: it said so, and neither thawed nor died since */
	bool frozen_in_commit;		/* from the commit's begin on */
	bool clean_thaw;
	uint64_t thawed;
	unsigned completed;
};

struct world {
	uint64_t now, committed_at, hold;
	struct vss_set *set;
	struct participant p[PARTICIPANTS];
	struct event event[64];
	unsigned events;
	bool switched, finished, aborted;
	char what[256];
};

#define BROKEN(w, ...) do { print_error("%s: ", (w)->what); fail_msg(__VA_ARGS__); } while (0)

/* ---- participants ------------------------------------------------------------------------------------- */

static void effect(struct world *w, const struct event *e)
{
	struct participant *p = &w->p[e->who];

	if (e->gone) {
		p->dead = true;
		p->frozen = false;
		p->frozen_in_commit = p->frozen_in_commit && p->thawed;	/* later does not matter */
	} else if (e->op == VSS_OP_FREEZE && e->res == 0) {
		p->frozen = !p->calls[VSS_OP_THAW];
	} else if (e->op == VSS_OP_THAW && e->res == 0) {
		p->thawed = p->thawed ? p->thawed : w->now;
		p->clean_thaw = p->calls[VSS_OP_THAW] == 1;
	} else if (e->op == VSS_OP_COMMIT) {
		w->switched = e->res == 0;
		w->hold = w->now - w->committed_at;
	}
}

static void deliver(struct world *w, struct event e)
{
	effect(w, &e);
	if (e.gone)
		vss_gone(w->set, e.who, w->now);
	else
		vss_answer(w->set, e.who == PROVIDER ? VSS_PROVIDER : e.who, e.op, e.res, VSS_REASON_NONE, w->now);
}

static void later(struct world *w, struct participant *p, enum vss_op op, uint64_t delay, int res, bool gone)
{
	assert_true(w->events < SP_ARRAY_SIZE(w->event));
	w->event[w->events++] = (struct event){ w->now + delay, p->who, op, res, gone };
}

static void called(struct participant *p, enum vss_op op)
{
	struct world *w = p->world;

	p->called[op] = w->now;
	if (p->calls[op]++ == 0 && op == VSS_OP_THAW)
		p->frozen = false;
	if (p->dead)
		return;
	switch (p->fault[op]) {
	case AT_ONCE:
		deliver(w, (struct event){ w->now, p->who, op, 0, false });
		break;
	case ERROR:
		later(w, p, op, 5 * MS, -EIO, false);
		break;
	case HANG:
		break;
	case LATE:
		later(w, p, op, 200 * SECOND, 0, false);
		break;
	case DIES:
		if (p->who != PROVIDER)		/* it lives with the coordinator, or not at all */
			later(w, p, op, 5 * MS, 0, true);
		break;
	default:
		later(w, p, op, p->fault[op] == SLOW ? 9 * SECOND : 5 * MS, 0, false);
	}
}

static void check(void *ctx)
{
	called(ctx, VSS_OP_CHECK);
}

static void freeze(void *ctx, unsigned window_ms)
{
	called(ctx, VSS_OP_FREEZE);
}

static void thaw(void *ctx)
{
	called(ctx, VSS_OP_THAW);
}

static void complete(void *ctx, bool good)
{
	struct participant *p = ctx;

	p->completed++;
}

static void prepare(void *ctx)
{
	called(ctx, VSS_OP_PREPARE);
}

static void commit(void *ctx)
{
	struct participant *p = ctx;
	struct world *w = p->world;

	w->committed_at = w->now;
	for (unsigned i = 0; i < WRITERS; i++)
		w->p[i].frozen_in_commit = w->p[i].frozen;
	called(p, VSS_OP_COMMIT);
}

static void finish(void *ctx, enum vss_level level)
{
	struct participant *p = ctx;

	p->world->finished = true;
	called(p, VSS_OP_FINISH);
}

static void undo(void *ctx)
{
	struct participant *p = ctx;

	p->world->aborted = true;
	called(p, VSS_OP_ABORT);
}

static const struct vss_writer_ops writer_ops = { check, freeze, thaw, complete };

/* ---- run ---------------------------------------------------------------------------------------------- */

static void world_new(struct world *w, const struct vss_opts *opts)
{
	static const enum vss_level grants[] = { VSS_APPLICATION, VSS_FILE_SYSTEM, VSS_FILE_SYSTEM };
	struct vss_provider provider = { prepare, commit, finish, undo, &w->p[PROVIDER] };

	w->now = SECOND;
	assert_int_equal(vss_set_new(opts, &provider, &w->set), 0);
	for (int i = 0; i < PARTICIPANTS; i++) {
		struct vss_writer one = { participant_name[i], i, VSS_CRASH, false, &writer_ops, &w->p[i] };

		w->p[i].world = w;
		w->p[i].who = i;
		if (i == PROVIDER)
			break;
		one.grants = grants[i];
		assert_int_equal(vss_add_writer(w->set, &one), i);
	}
}

static int first_event(const struct world *w)
{
	int first = -1;

	for (unsigned i = 0; i < w->events; i++)
		if (first < 0 || w->event[i].at < w->event[first].at)
			first = (int)i;
	return first;
}

/* One event or deadline; false: nothing will happen any more. */
static bool turn(struct world *w)
{
	int first = first_event(w);
	uint64_t deadline = vss_deadline_ns(w->set);
	struct event e;

	if (first < 0 && deadline == UINT64_MAX)
		return false;
	if (first < 0 || deadline < w->event[first].at) {
		if (deadline > w->now)
			w->now = deadline;
		vss_tick(w->set, w->now);
		return true;
	}
	e = w->event[first];
	w->event[first] = w->event[--w->events];
	w->now = e.at;
	deliver(w, e);
	return true;
}

static void run(struct world *w)
{
	uint64_t over = 0;

	vss_start(w->set, w->now);
	for (unsigned turns = 0; turn(w) || vss_busy(w->set); turns++) {
		if (vss_over(w->set) && !over)
			over = w->now;
		if (turns > 1000)
			break;
	}
	if (!vss_over(w->set))
		BROKEN(w, "never ends: %s", vss_state_name(vss_state(w->set)));
	/* check, prepare, freeze, and three stages of three tries; finish */
	if (over > (1 + 35 + 180 + 60 + 3 * 3 * 36 + 180) * SECOND)
		BROKEN(w, "ended only after %llu s", (unsigned long long)(over / SECOND));
}

/* ---- what must hold ------------------------------------------------------------------------------------ */

static enum vss_level true_level(const struct world *w)
{
	bool held[WRITERS];

	for (int i = 0; i < WRITERS; i++)
		held[i] = w->p[i].frozen_in_commit && w->p[i].clean_thaw;
	if (!held[GUEST] || !held[LAST])
		return VSS_CRASH;
	return held[APPLICATION] ? VSS_APPLICATION : VSS_FILE_SYSTEM;
}

static void judge_thaws(const struct world *w)
{
	for (int i = 0; i < WRITERS; i++) {
		const struct participant *p = &w->p[i];
		struct vss_writer_result r;

		vss_writer_result(w->set, (unsigned)i, &r);
		if (p->calls[VSS_OP_FREEZE] && !p->calls[VSS_OP_THAW])
			BROKEN(w, "%s was told to freeze and never to thaw", participant_name[i]);
		if (p->calls[VSS_OP_FREEZE] && !p->thawed && r.released)
			BROKEN(w, "%s is called free and has not thawed", participant_name[i]);
		if (p->calls[VSS_OP_FREEZE] && p->called[VSS_OP_THAW] > p->called[VSS_OP_FREEZE] + 180 * SECOND)
			BROKEN(w, "%s is told to thaw after %llu s", participant_name[i],
			       (unsigned long long)((p->called[VSS_OP_THAW] - p->called[VSS_OP_FREEZE]) / SECOND));
		if (p->calls[VSS_OP_THAW] > VSS_THAW_TRIES || p->calls[VSS_OP_FREEZE] > 1 || p->completed > 1)
			BROKEN(w, "%s is asked too often", participant_name[i]);
	}
}

static void judge_good(const struct world *w, const struct vss_opts *opts)
{
	struct vss_result r;

	vss_result(w->set, &r);
	if (r.level > true_level(w) || r.level < opts->require)
		BROKEN(w, "done at %s, truly %s, required %s", vss_level_name(r.level), vss_level_name(true_level(w)),
		       vss_level_name(opts->require));
	if (!w->switched || !w->finished || w->aborted)
		BROKEN(w, "done: switched %d, finished %d, aborted %d", w->switched, w->finished, w->aborted);
	if (w->hold > 10 * SECOND || r.freeze_ns > 60 * SECOND)
		BROKEN(w, "done with a hold of %llu ms, a freeze of %llu ms", (unsigned long long)(w->hold / MS),
		       (unsigned long long)(r.freeze_ns / MS));
	if ((r.level == VSS_APPLICATION) != (r.reason == VSS_REASON_NONE))
		BROKEN(w, "%s because of %s", vss_level_name(r.level), vss_reason_name(r.reason));
}

static void judge_failed(const struct world *w)
{
	const struct participant *p = &w->p[PROVIDER];
	struct vss_result r;

	vss_result(w->set, &r);
	if (r.reason == VSS_REASON_NONE)
		BROKEN(w, "failed without a reason");
	if (w->finished && !p->fault[VSS_OP_FINISH])
		BROKEN(w, "failed, and yet finished");
	/* Prepared, perhaps late, or even switched: taken back as soon as the provider can. */
	if (p->calls[VSS_OP_PREPARE] && p->fault[VSS_OP_PREPARE] != ERROR && !w->aborted && !w->finished &&
	    !vss_busy(w->set))
		BROKEN(w, "failed, and what was prepared stays");
	if (p->calls[VSS_OP_ABORT] > 1)
		BROKEN(w, "taken back twice");
}

static void judge(const struct world *w, const struct vss_opts *opts)
{
	judge_thaws(w);
	if (vss_state(w->set) == VSS_DONE)
		judge_good(w, opts);
	else
		judge_failed(w);
}

/* ---- the matrix --------------------------------------------------------------------------------------- */

struct place { int who; enum vss_op op; enum fault fault; };

static unsigned places(struct place list[])
{
	unsigned n = 0;

	for (int who = 0; who < PARTICIPANTS; who++)
		for (enum vss_op op = 0; op < OPS; op++)
			for (enum fault f = AT_ONCE; f < FAULTS; f++)
				if ((who == PROVIDER) == (op >= VSS_OP_PREPARE))
					list[n++] = (struct place){ who, op, f };
	return n;
}

static void one(const struct place *a, const struct place *b, enum vss_level require)
{
	struct vss_opts opts = { .require = require };
	struct world w = { 0 };

	snprintf(w.what, sizeof(w.what), "%s %s %s, %s %s %s, require %s", participant_name[a->who], op_name[a->op],
		 fault_name[a->fault], participant_name[b->who], op_name[b->op], fault_name[b->fault],
		 vss_level_name(require));
	world_new(&w, &opts);
	w.p[a->who].fault[a->op] = a->fault;
	w.p[b->who].fault[b->op] = b->fault;
	run(&w);
	judge(&w, &opts);
	vss_set_free(w.set);
}

static void each_fault(void **state)
{
	struct place list[256];
	unsigned n = places(list);

	for (unsigned i = 0; i < n; i++)
		for (enum vss_level require = VSS_CRASH; require <= VSS_APPLICATION; require++)
			one(&list[i], &list[i], require);
}

static void each_two_faults(void **state)
{
	struct place list[256];
	unsigned n = places(list);

	for (unsigned i = 0; i < n; i++)
		for (unsigned j = i + 1; j < n; j++)
			for (enum vss_level require = VSS_CRASH; require <= VSS_APPLICATION; require++)
				one(&list[i], &list[j], require);
}

/* ---- single stories ----------------------------------------------------------------------------------- */

struct story {
	const char *name;
	struct place fault[2];
	enum vss_level require;
	enum vss_state state;
	enum vss_level level;
	enum vss_reason reason;
};

static const struct story stories[] = {
	{ "all is well", .state = VSS_DONE, .level = VSS_APPLICATION },
	{ "no daemon", { { GUEST, VSS_OP_CHECK, ERROR } }, VSS_CRASH, VSS_DONE, VSS_CRASH, VSS_REASON_NO_DAEMON },
	{ "no daemon, but required", { { GUEST, VSS_OP_CHECK, ERROR } }, VSS_FILE_SYSTEM, VSS_FAILED,
	  .reason = VSS_REASON_NO_DAEMON },
	{ "daemon hangs in check", { { GUEST, VSS_OP_CHECK, HANG } }, VSS_CRASH, VSS_DONE, VSS_CRASH,
	  VSS_REASON_CHECK_TIMEOUT },
	{ "daemon hangs in freeze", { { GUEST, VSS_OP_FREEZE, HANG } }, VSS_CRASH, VSS_FAILED,
	  .reason = VSS_REASON_FREEZE_TIMEOUT },
	{ "freeze is refused", { { GUEST, VSS_OP_FREEZE, ERROR } }, VSS_CRASH, VSS_DONE, VSS_CRASH,
	  VSS_REASON_FREEZE_ERROR },
	{ "application is absent", { { APPLICATION, VSS_OP_CHECK, ERROR } }, VSS_FILE_SYSTEM, VSS_DONE,
	  VSS_FILE_SYSTEM, VSS_REASON_NO_DAEMON },
	{ "application dies frozen", { { APPLICATION, VSS_OP_THAW, DIES } }, VSS_CRASH, VSS_DONE, VSS_FILE_SYSTEM,
	  VSS_REASON_GONE },
	{ "switch hangs", { { PROVIDER, VSS_OP_COMMIT, HANG } }, VSS_CRASH, VSS_FAILED,
	  .reason = VSS_REASON_HOLD_OVERRUN },
	{ "switch fails", { { PROVIDER, VSS_OP_COMMIT, ERROR } }, VSS_CRASH, VSS_FAILED,
	  .reason = VSS_REASON_SNAPSHOT },
	{ "switch is late", { { PROVIDER, VSS_OP_COMMIT, LATE } }, VSS_CRASH, VSS_FAILED,
	  .reason = VSS_REASON_HOLD_OVERRUN },
	{ "thaw is never acknowledged", { { GUEST, VSS_OP_THAW, ERROR } }, VSS_CRASH, VSS_FAILED,
	  .reason = VSS_REASON_THAW },
	{ "preparing hangs", { { PROVIDER, VSS_OP_PREPARE, HANG } }, VSS_CRASH, VSS_FAILED,
	  .reason = VSS_REASON_PREPARE_TIMEOUT },
};

static void story(void **state)
{
	const struct story *t = *state;
	struct vss_opts opts = { .require = t->require };
	struct vss_result r;
	struct world w = { 0 };

	snprintf(w.what, sizeof(w.what), "%s", t->name);
	world_new(&w, &opts);
	for (unsigned i = 0; i < SP_ARRAY_SIZE(t->fault); i++)
		if (t->fault[i].fault)
			w.p[t->fault[i].who].fault[t->fault[i].op] = t->fault[i].fault;
	run(&w);
	judge(&w, &opts);
	vss_result(w.set, &r);
	assert_string_equal(vss_state_name(vss_state(w.set)), vss_state_name(t->state));
	assert_string_equal(vss_reason_name(r.reason), vss_reason_name(t->reason));
	if (t->state == VSS_DONE)
		assert_string_equal(vss_level_name(r.level), vss_level_name(t->level));
	vss_set_free(w.set);
}

/* At each moment of an undisturbed set. */
static void requester_dies(void **state)
{
	for (unsigned turns = 0; turns < 12; turns++) {
		struct vss_opts opts = { 0 };
		struct world w = { 0 };
		bool begun;

		snprintf(w.what, sizeof(w.what), "aborted after %u turns", turns);
		world_new(&w, &opts);
		vss_start(w.set, w.now);
		for (unsigned i = 0; i < turns; i++)
			turn(&w);
		begun = w.committed_at;
		vss_abort(w.set, w.now);
		while (turn(&w))
			;
		judge(&w, &opts);
		assert_int_equal(vss_state(w.set), begun ? VSS_DONE : VSS_FAILED);
		vss_set_free(w.set);
	}
}

/* Each writer in each state, and not only in its own operations. */
static void writer_dies_any_time(void **state)
{
	for (int who = 0; who < WRITERS; who++)
		for (unsigned turns = 0; turns < 12; turns++) {
			struct vss_opts opts = { 0 };
			struct world w = { 0 };

			snprintf(w.what, sizeof(w.what), "%s dies after %u turns", participant_name[who], turns);
			world_new(&w, &opts);
			vss_start(w.set, w.now);
			for (unsigned i = 0; i < turns; i++)
				turn(&w);
			if (!vss_over(w.set))
				deliver(&w, (struct event){ .who = who, .gone = true });
			while (turn(&w))
				;
			judge(&w, &opts);
			vss_set_free(w.set);
		}
}

static void nobody_to_freeze(void **state)
{
	struct vss_opts opts = { .require = VSS_CRASH };
	struct world w = { .what = "no writers", .now = SECOND };
	struct vss_provider provider = { prepare, commit, finish, undo, &w.p[PROVIDER] };
	struct vss_result r;

	w.p[PROVIDER].world = &w;
	w.p[PROVIDER].who = PROVIDER;
	assert_int_equal(vss_set_new(&opts, &provider, &w.set), 0);
	run(&w);
	vss_result(w.set, &r);
	assert_int_equal(vss_state(w.set), VSS_DONE);
	assert_int_equal(r.level, VSS_CRASH);
	assert_int_equal(r.reason, VSS_REASON_NOT_ASKED);
	vss_set_free(w.set);
}

static void hold_fits_freeze(void **state)
{
	struct vss_opts opts = { .freeze_ms = 1000, .hold_ms = 1000 };
	struct vss_provider provider = { 0 };
	struct vss_set *s;

	assert_int_equal(vss_set_new(&opts, &provider, &s), -EINVAL);
}

int main(void)
{
	struct CMUnitTest tests[SP_ARRAY_SIZE(stories) + 6] = { 0 };
	unsigned n = 0;

	for (; n < SP_ARRAY_SIZE(stories); n++)
		tests[n] = (struct CMUnitTest){ stories[n].name, story, NULL, NULL, (void *)(uintptr_t)&stories[n] };
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(each_fault);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(each_two_faults);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(requester_dies);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(writer_dies_any_time);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(nobody_to_freeze);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(hold_fits_freeze);
	return _cmocka_run_group_tests("vss", tests, n, NULL, NULL);
}
