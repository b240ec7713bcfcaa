/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/seed.h"
#include "vss/vss_int.h"

bool vss_writer_holds(const struct set_writer *w)
{
	if (w->broken && !SP_SEED_BUG(VSS_BROKEN_PROMISE))
		return false;
	return w->state != WRITER_OUT;
}

/*
 * Without every guest: crash. Without every application: what the guests give. Who is frozen gives the highest rung
 * that one of them stands on: an application that is quiet above a frozen file system.
 */
enum vss_level vss_level_of(const struct vss_set *s, enum vss_reason *ret_reason)
{
	enum vss_level guests = VSS_CRASH, best = VSS_CRASH;
	bool guests_hold = true, all_hold = true;

	*ret_reason = s->writers ? VSS_REASON_NONE : VSS_REASON_NOT_ASKED;
	for (unsigned i = 0; i < s->writers; i++) {
		const struct set_writer *w = &s->writer[i];
		bool application = w->w.stage == VSS_STAGE_APPLICATION;

		if (!vss_writer_holds(w)) {
			if (*ret_reason == VSS_REASON_NONE || !application)
				*ret_reason = w->reason;
			all_hold = false;
			guests_hold = guests_hold && application;
			continue;
		}
		if (!application && w->w.grants > guests)
			guests = w->w.grants;
		if (w->w.grants > best)
			best = w->w.grants;
	}
	return all_hold ? best : guests_hold ? guests : VSS_CRASH;
}

void vss_result(const struct vss_set *s, struct vss_result *ret)
{
	*ret = (struct vss_result){
		.error = s->failed ? s->res : 0, .freeze_ns = s->freeze_took_ns, .hold_ns = s->hold_took_ns,
		.writers = s->writers,
	};
	ret->level = vss_level_of(s, &ret->reason);
	if (s->failed)
		ret->reason = s->reason;
}

void vss_writer_result(const struct vss_set *s, unsigned who, struct vss_writer_result *ret)
{
	const struct set_writer *w = &s->writer[who];

	*ret = (struct vss_writer_result){
		.name = w->name, .frozen = w->was_frozen && vss_writer_holds(w), .released = !w->maybe_frozen,
		.reason = w->reason, .freeze_ns = w->freeze_ns, .thaw_ns = w->thaw_ns, .thaw_tries = w->tries,
	};
}
