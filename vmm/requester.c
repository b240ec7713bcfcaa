/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmm/requester.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/env.h"
#include "base/seed.h"
#include "vmm/requester_int.h"

#define NS_PER_MS   1000000ull
#define QUIET_NS    (300000 * NS_PER_MS)	/* a machine has shorter deadlines of its own */
#define FREEZE_MS   60000u
#define LAST_THAW_MS 35000u			/* when all machines are through */

void requester_say(const struct requester *r, const char *fmt, ...)
{
	char text[1024];
	va_list args;

	if (!r->opts->say)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	r->opts->say(text);
}

/* ---- to machines -------------------------------------------------------------------------------------- */

static void send_answer(struct target *t, json_object *arguments)
{
	if (t->over)
		json_object_put(arguments);
	else
		vm_client_send(t->m->client, "spindle-snapshot-answer", arguments);	/* reading tells of its end */
}

static json_object *answer_to(const char *phase, const char *writer, enum vss_reason why)
{
	json_object *o = json_object_new_object();

	vm_json_add_text(o, "phase", phase);
	if (*writer)
		vm_json_add_text(o, "writer", writer);
	if (why)
		vm_json_add_text(o, "reason", vss_reason_name(why));
	return o;
}

void requester_answer(struct requester *r, unsigned at, const struct player *p, enum vss_op op, bool good,
		      enum vss_reason why)
{
	static const char *const phase[] = {
		[VSS_OP_CHECK] = "check", [VSS_OP_FREEZE] = "freeze", [VSS_OP_THAW] = "thaw",
	};
	json_object *o = answer_to(phase[op], p->name, good ? VSS_REASON_NONE : why);

	json_object_object_add(o, "good", json_object_new_boolean(good));
	send_answer(&r->target[at], o);
}

void requester_lost(struct requester *r, const struct player *p)
{
	for (unsigned i = 0; *p->name && i < r->targets; i++)
		send_answer(&r->target[i], answer_to("lost", p->name, p->reason));
}

/* ---- the barrier: all frozen before the first switches, all switched before the first thaws ------------- */

static void pass(struct target *t, const char *phase, bool good)
{
	json_object *o = answer_to(phase, "", VSS_REASON_NONE);

	json_object_object_add(o, "good", json_object_new_boolean(good));
	t->waits = false;
	send_answer(t, o);
}

static void barrier(struct requester *r)
{
	bool all_frozen = true, all_switched = true, any_failed = false;

	for (unsigned i = 0; i < r->targets; i++) {
		const struct target *t = &r->target[i];
		bool failed = t->over || (t->switched_asked && !t->frozen_good);

		any_failed = any_failed || (failed && !t->frozen_good);
		all_frozen = all_frozen && t->frozen_asked;
		all_switched = all_switched && (t->over || t->switched_asked || !t->frozen_good);
	}
	for (unsigned i = 0; i < r->targets; i++) {
		struct target *t = &r->target[i];

		if (t->waits && t->switched_asked && (all_switched || !t->frozen_good)) {
			pass(t, "switched", true);
		} else if (t->waits && !t->switched_asked && (any_failed || all_frozen)) {
			t->frozen_good = !any_failed;
			pass(t, "frozen", !any_failed);
		}
	}
}

/* ---- from machines ------------------------------------------------------------------------------------ */

static struct player *player_of(struct requester *r, const struct target *t, const char *writer)
{
	for (unsigned i = 0; i < r->players; i++) {
		struct player *p = &r->player[i];

		if (*writer ? strcmp(p->name, writer) == 0 : p->machine == t->m)
			return p;
	}
	return NULL;
}

static void on_phase(struct requester *r, struct target *t, json_object *data)
{
	static const struct { const char *name; enum vss_op op; } ops[] = {
		{ "check", VSS_OP_CHECK }, { "freeze", VSS_OP_FREEZE }, { "thaw", VSS_OP_THAW },
	};
	const char *phase = vm_json_text(data, "phase");
	struct player *p = player_of(r, t, vm_json_text(data, "writer"));

	if (strcmp(phase, "frozen") == 0)
		t->frozen_asked = t->waits = true;
	else if (strcmp(phase, "switched") == 0)
		t->switched_asked = t->waits = true;
	for (unsigned i = 0; p && i < SP_ARRAY_SIZE(ops); i++)
		if (strcmp(phase, ops[i].name) == 0)
			play_ask(p, (unsigned)(t - r->target), ops[i].op);
}

/* What a writer said about itself stands beside what the machine says about it. */
static void add_details(struct requester *r, json_object *result)
{
	json_object *list;

	if (!json_object_object_get_ex(result, "writers", &list) || !json_object_is_type(list, json_type_array))
		return;
	for (size_t i = 0; i < json_object_array_length(list); i++)
		for (unsigned j = 0; j < r->writers; j++) {
			json_object *w = json_object_array_get_idx(list, i);

			if (*r->player[j].detail && strcmp(vm_json_text(w, "name"), r->player[j].name) == 0)
				vm_json_add_text(w, "detail", r->player[j].detail);
		}
}

static void thaw_all(struct requester *r)
{
	for (unsigned i = 0; i < r->players; i++)
		play_thaw(&r->player[i]);
}

/* Of several machines the first end is the end of holding still; of scripts, that of their machine. */
static void machine_over(struct requester *r, struct target *t)
{
	t->over = true;
	for (unsigned i = 0; i < r->players; i++)
		if (!r->player[i].machine || r->player[i].machine == t->m)
			play_thaw(&r->player[i]);
}

static bool is_end(const char *event)
{
	return strcmp(event, "SNAPSHOT_CREATED") == 0 || strcmp(event, "SNAPSHOT_FAILED") == 0;
}

static void on_event(struct requester *r, struct target *t, json_object *event)
{
	const char *name = vm_json_text(event, "event");
	json_object *data;

	t->heard_ns = sp_env_monotonic_ns();
	if (t->over || !json_object_object_get_ex(event, "data", &data) ||
	    strcmp(vm_json_text(data, "name"), r->opts->snapshot))
		return;
	if (is_end(name)) {
		t->m->good = strcmp(name, "SNAPSHOT_CREATED") == 0;
		t->m->result = json_object_get(data);
		vm_json_add_text(t->m->result, "machine", t->m->name);
		add_details(r, t->m->result);
		machine_over(r, t);
	} else if (strcmp(name, "SNAPSHOT_PHASE") == 0) {
		on_phase(r, t, data);
	}
}

static void hear(struct requester *r, struct target *t)
{
	json_object *event;
	int res = 0;

	while (!t->over && (res = vm_client_event(t->m->client, 0, &event)) == 0) {
		on_event(r, t, event);
		json_object_put(event);
	}
	if (res == 0 || res == -ETIMEDOUT)
		return;
	requester_say(r, "%s: %s", t->m->name, res == -EPIPE ? "the machine has gone" : strerror(-res));
	machine_over(r, t);
}

/* ---- time --------------------------------------------------------------------------------------------- */

static bool anybody_held(const struct requester *r)
{
	for (unsigned i = 0; i < r->players; i++)
		if (r->player[i].held)
			return true;
	return false;
}

static bool all_over(const struct requester *r)
{
	for (unsigned i = 0; i < r->targets; i++)
		if (!r->target[i].over)
			return false;
	return true;
}

/* Whether or not a machine says so: nobody holds still for longer. */
static void end_of_window(struct requester *r)
{
	r->end_ns = UINT64_MAX;
	for (unsigned i = 0; i < r->players; i++) {
		struct player *p = &r->player[i];

		if (!p->held || p->state == PLAY_THAWING)
			continue;
		p->reason = VSS_REASON_FREEZE_TIMEOUT;
		requester_lost(r, p);
		play_thaw(p);
	}
}

static void look_at_clock(struct requester *r)
{
	uint64_t now = sp_env_monotonic_ns();

	if (r->end_ns && now >= r->end_ns)
		end_of_window(r);
	for (unsigned i = 0; i < r->targets; i++)
		if (!r->target[i].over && now > r->target[i].heard_ns + QUIET_NS) {
			requester_say(r, "%s: the machine says nothing any more", r->target[i].m->name);
			machine_over(r, &r->target[i]);
		}
}

/* ---- the loop ----------------------------------------------------------------------------------------- */

static void on_signal(struct requester *r)
{
	struct signalfd_siginfo info;

	if (read(r->signal_fd, &info, sizeof(info)) != sizeof(info))
		return;
	requester_say(r, "the snapshot is given up");
	if (r->opts->ret_signal)
		*r->opts->ret_signal = (int)info.ssi_signo;
	for (unsigned i = 0; i < r->targets; i++)
		if (!r->target[i].over)
			vm_client_send(r->target[i].m->client, "spindle-snapshot-abort", NULL);
}

static int timeout_ms(const struct requester *r)
{
	uint64_t now = sp_env_monotonic_ns();

	if (!r->end_ns || r->end_ns == UINT64_MAX)
		return 1000;
	if (r->end_ns <= now)
		return 0;
	return r->end_ns - now > 1000 * NS_PER_MS ? 1000 : (int)((r->end_ns - now) / NS_PER_MS) + 1;
}

static void wait_once(struct requester *r)
{
	struct pollfd fds[VM_SET_MACHINES_MAX + PLAYERS_MAX + 1];
	unsigned n = 0;

	fds[n++] = (struct pollfd){ r->signal_fd, POLLIN, 0 };
	for (unsigned i = 0; i < r->targets; i++)
		fds[n++] = (struct pollfd){ r->target[i].over ? -1 : vm_client_fd(r->target[i].m->client), POLLIN, 0 };
	for (unsigned i = 0; i < r->players; i++)
		fds[n++] = (struct pollfd){ r->player[i].fd, POLLIN, 0 };
	if (poll(fds, n, timeout_ms(r)) <= 0)
		return;
	if (fds[0].revents)
		on_signal(r);
	for (unsigned i = 0; i < r->players; i++)
		if (fds[1 + r->targets + i].revents && r->player[i].fd == fds[1 + r->targets + i].fd)
			play_event(&r->player[i]);
}

/* A machine's events may have come together with an answer, so all are asked each time. */
static void run(struct requester *r)
{
	uint64_t end;

	while (!all_over(r)) {
		for (unsigned i = 0; i < r->targets; i++)
			hear(r, &r->target[i]);
		barrier(r);
		look_at_clock(r);
		if (!all_over(r))
			wait_once(r);
	}
	thaw_all(r);
	end = sp_env_monotonic_ns() + sp_min(r->freeze_ns, LAST_THAW_MS * NS_PER_MS);
	while (anybody_held(r) && sp_env_monotonic_ns() < end)
		wait_once(r);
}

/* ---- begin and end ------------------------------------------------------------------------------------ */

static json_object *writer_list(const struct requester *r)
{
	json_object *list = json_object_new_array();

	for (unsigned i = 0; i < r->writers; i++) {
		json_object *o = json_object_new_object();

		vm_json_add_text(o, "name", r->player[i].name);
		vm_json_add_text(o, "level", vss_level_name(r->player[i].grants));
		json_object_array_add(list, o);
	}
	return list;
}

static void add_more(json_object *to, json_object *from)
{
	json_object_object_foreach(from, key, value)
		json_object_object_add(to, key, json_object_get(value));
}

static json_object *create_arguments(const struct requester *r)
{
	const struct vm_set_opts *o = r->opts;
	json_object *a = json_object_new_object();

	if (o->more)
		add_more(a, o->more);
	vm_json_add_text(a, "name", o->snapshot);
	vm_json_add_text(a, "require", o->require ? o->require : vss_level_name(VSS_CRASH));
	json_object_object_add(a, "quiesce", json_object_new_boolean(!o->no_quiesce));
	json_object_object_add(a, "scripts", json_object_new_boolean(o->pre || o->post));
	json_object_object_add(a, "barrier", json_object_new_boolean(r->targets > 1));
	json_object_object_add(a, "check-ms", json_object_new_int((int)o->check_ms));
	json_object_object_add(a, "freeze-ms", json_object_new_int((int)o->freeze_ms));
	json_object_object_add(a, "writers", writer_list(r));
	return a;
}

static int start(struct requester *r, struct sp_err *err)
{
	int first = 0;

	for (unsigned i = 0; i < r->targets; i++) {
		struct target *t = &r->target[i];
		struct sp_err why = { 0 };
		int res = vm_client_call(t->m->client, "spindle-snapshot-create", create_arguments(r), NULL, &why);

		t->heard_ns = sp_env_monotonic_ns();
		t->over = res < 0;
		if (res < 0)
			requester_say(r, "%s: %s", t->m->name, sp_err_text(&why));
		if (res < 0 && first == 0)
			first = sp_err_set(err, res, "%s: %s", t->m->name, sp_err_text(&why));
	}
	return first;
}

/* One of several that was made when another was not is no part of anything. */
static void drop_parts(struct requester *r)
{
	for (unsigned i = 0; i < r->targets; i++) {
		struct vm_set_machine *m = r->target[i].m;
		struct sp_err err = { 0 };

		if (!m->good)
			continue;
		m->good = false;
		if (vm_client_delete_snapshot(m->client, r->opts->snapshot, 0, &err) < 0)
			requester_say(r, "%s: cannot delete snapshot %s: %s", m->name, r->opts->snapshot,
				      sp_err_text(&err));
		else
			requester_say(r, "%s: snapshot %s is deleted: another machine has none", m->name,
				      r->opts->snapshot);
	}
}

static int finish(struct requester *r, int res, struct sp_err *err)
{
	bool good = res == 0;

	for (unsigned i = 0; i < r->targets; i++) {
		struct vm_set_machine *m = r->target[i].m;

		if (!m->good && res == 0)
			res = sp_err_set(err, -EIO, "%s: no snapshot: %s", m->name,
					 m->result ? vm_json_text(m->result, "reason") : "the machine has gone");
		good = good && m->good;
	}
	for (unsigned i = 0; i < r->players; i++) {
		struct player *p = &r->player[i];

		if (p->held)
			requester_say(r, "%s may still be frozen; \"spindle-vm snapshot recover\" tries again",
				      *p->name ? p->name : p->machine->name);
		play_complete(p, good);
	}
	if (!good)
		drop_parts(r);
	return res;
}

/* A terminal's ^C must not leave an application frozen. */
static void hold_signals(struct requester *r)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, &r->old_signals);
	r->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void give_signals_back(struct requester *r)
{
	if (r->signal_fd >= 0)
		close(r->signal_fd);
	pthread_sigmask(SIG_SETMASK, &r->old_signals, NULL);
}

int vm_set_create(const struct vm_set_opts *opts, struct vm_set_machine *machine, unsigned count, struct sp_err *err)
{
	SP_AUTO_FREE struct requester *r = sp_zalloc(sizeof(*r));
	int res;

	if (!r || count > VM_SET_MACHINES_MAX)
		return sp_err_set(err, r ? -E2BIG : -ENOMEM, "too many machines, or out of memory");
	r->opts = opts;
	r->held_fd = -1;
	r->freeze_ns = (opts->freeze_ms ? opts->freeze_ms : FREEZE_MS) * NS_PER_MS;
	for (unsigned i = 0; i < count; i++)
		r->target[r->targets++] = (struct target){ .m = &machine[i] };
	hold_signals(r);
	res = play_gather(r, err);
	for (unsigned i = 0; (opts->pre || opts->post) && i < count; i++)
		play_add_scripts(r, &machine[i]);
	if (res == 0) {
		res = start(r, err);
		run(r);
	}
	res = finish(r, res, err);
	held_end(r);
	give_signals_back(r);
	return res;
}
