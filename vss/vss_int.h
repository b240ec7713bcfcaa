/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VSS_VSS_INT_H
#define SPINDLE_VSS_VSS_INT_H
/* A set from inside: vss.c moves it on, vss_result.c says what has become of it. */
#include "vss/vss.h"

enum writer_state {
	WRITER_IDLE,
	WRITER_CHECKING, WRITER_READY,
	WRITER_FREEZING, WRITER_FROZEN,
	WRITER_THAWING, WRITER_THAWED,
	WRITER_OUT,			/* takes no part any more; @maybe_frozen tells whether it must be thawed */
};

struct set_writer {
	struct vss_writer w;
	char name[64];
	enum writer_state state;
	bool maybe_frozen;		/* freeze has been sent, and no thaw has been acknowledged */
	bool dead;			/* no answer will come */
	bool was_frozen;		/* said so */
	bool broken;			/* promised to stay frozen and did not */
	enum vss_reason reason;
	unsigned tries;			/* of thaw */
	bool waiting;			/* for the next try, not for an answer */
	uint64_t sent_ns, deadline_ns;
	uint64_t freeze_ns, thaw_ns;
};

enum provider_work { PROVIDER_RESTS, PROVIDER_WORKS, PROVIDER_ANSWERED };

struct vss_set {
	struct vss_opts opts;
	struct vss_provider provider;
	enum vss_state state;
	enum vss_stage stage;		/* FREEZING, THAWING */
	bool all_stages;		/* THAWING: of a failed set, nobody waits for anybody */
	uint64_t now_ns, deadline_ns;
	uint64_t window_ns;		/* end of the time in which anything may be frozen; 0: nothing is */
	uint64_t froze_ns, commit_ns;
	uint64_t freeze_took_ns, hold_took_ns;

	enum provider_work work;
	enum vss_op op;			/* what it works on or has answered */
	int res;
	bool prepared, committed;	/* there is something to abort */

	bool failed, driving;
	enum vss_reason reason;
	unsigned writers;
	struct set_writer writer[VSS_WRITERS_MAX];
};

/* Stays frozen from its answer until it is told to thaw; before the freeze: may yet do so. */
bool vss_writer_holds(const struct set_writer *w);
/* What is reached when those that hold now go on to. */
enum vss_level vss_level_of(const struct vss_set *s, enum vss_reason *ret_reason);

#endif
