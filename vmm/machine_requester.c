/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmm/machine_requester.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/env.h"
#include "base/seed.h"
#include "vmm/json_text.h"
#include "vmm/machine_int.h"

static void ask(struct machine_requester_writer *w, const char *phase)
{
	json_object *data = json_object_new_object();

	w->waits = phase;
	vm_json_add_text(data, "name", w->of->snapshot);
	vm_json_add_text(data, "phase", phase);
	if (*w->name)
		vm_json_add_text(data, "writer", w->name);
	machine_event(w->of->m, "SNAPSHOT_PHASE", data);
}

/* Scripts and other machines are there: the connection is. */
static void check(void *ctx)
{
	struct machine_requester_writer *w = ctx;

	if (*w->name)
		ask(w, "check");
	else
		vss_answer(w->of->set, w->who, VSS_OP_CHECK, 0, VSS_REASON_NONE, sp_env_monotonic_ns());
}

static void freeze(void *ctx, unsigned window_ms)
{
	struct machine_requester_writer *w = ctx;

	ask(w, w->freeze);
}

static void thaw(void *ctx)
{
	struct machine_requester_writer *w = ctx;

	ask(w, w->thaw);
}

static void complete(void *ctx, bool good)
{
}

static const struct vss_writer_ops ops = { check, freeze, thaw, complete };

static int add(struct machine_requester *r, const struct vss_writer *from, const char *name, const char *freeze_phase,
	       const char *thaw_phase)
{
	struct machine_requester_writer *w = &r->writer[r->writers++];
	struct vss_writer writer = *from;

	w->of = r;
	w->freeze = freeze_phase;
	w->thaw = thaw_phase;
	snprintf(w->name, sizeof(w->name), "%s", name);
	writer.ops = &ops;
	writer.ctx = w;
	w->who = vss_add_writer(r->set, &writer);
	return w->who < 0 ? w->who : 0;
}

int machine_requester_init(struct machine_requester *r, struct vmm_machine *m, struct vss_set *set,
			   const char *snapshot, const struct vmm_snapshot_opts *opts)
{
	const struct vss_writer scripts = { .name = "requester", .grants = VSS_APPLICATION };
	const struct vss_writer barrier = { .name = "other machines", .stage = VSS_STAGE_LAST, .essential = true };
	int res = 0;

	*r = (struct machine_requester){ .m = m, .set = set, .snapshot = snapshot };
	for (unsigned i = 0; res == 0 && i < opts->writers; i++) {
		const struct vss_writer w = { .name = opts->writer[i].name, .grants = opts->writer[i].grants };

		res = add(r, &w, w.name, "freeze", "thaw");
	}
	if (res == 0 && (opts->phases & VMM_PHASE_APPLICATION))
		res = add(r, &scripts, "", "freeze", "thaw");
	if (res == 0 && (opts->phases & VMM_PHASE_BARRIER))
		res = add(r, &barrier, "", "frozen", "switched");
	return res;
}

static bool means(const struct machine_requester_writer *w, const struct vmm_snapshot_answer *a)
{
	if (strcmp(w->name, a->writer ? a->writer : ""))
		return false;
	return a->lost || (w->waits && strcmp(w->waits, a->phase) == 0);
}

bool machine_requester_answer(struct machine_requester *r, const struct vmm_snapshot_answer *a)
{
	uint64_t now = sp_env_monotonic_ns();

	for (unsigned i = 0; i < r->writers; i++) {
		struct machine_requester_writer *w = &r->writer[i];
		enum vss_op op = VSS_OP_CHECK;

		if (!means(w, a))
			continue;
		if (a->lost) {
			vss_lost(r->set, w->who, a->reason ? a->reason : VSS_REASON_GONE, now);
			return true;
		}
		if (strcmp(a->phase, w->freeze) == 0)
			op = VSS_OP_FREEZE;
		else if (strcmp(a->phase, w->thaw) == 0)
			op = VSS_OP_THAW;
		w->waits = NULL;
		vss_answer(r->set, w->who, op, a->good ? 0 : -EIO, a->reason, now);
		return true;
	}
	return false;
}

void machine_requester_gone(struct machine_requester *r)
{
	if (!r->writers || SP_SEED_BUG(VSS_REQUESTER_IMMORTAL))
		return;
	/* First the end: without its writers the set might go on for less. */
	vss_abort(r->set, sp_env_monotonic_ns());
	for (unsigned i = 0; i < r->writers; i++)
		vss_gone(r->set, r->writer[i].who, sp_env_monotonic_ns());
}
