/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VSS_VSS_H
#define SPINDLE_VSS_VSS_H
/*
 * Coordinator of one snapshot set: who is asked what, in which order, and how long that may take. A state machine
 * without threads and without a clock: the owner tells it the time, answers, and deaths; it calls the operations of the
 * participants, which answer whenever they can, also from inside the call.
 *
 *	IDLE ─► CHECKING ─► PREPARING ─► FREEZING ─► COMMITTING ─► THAWING ─► FINISHING ─► DONE
 *		    │		│	     │		  │	      │		  │
 *		    └───────────┴────────────┴─► THAWING ◄┘───────────┴───────────┴─► FAILED
 *
 * What can take long and may fail for lack of space is prepared before anybody is frozen. Writers are frozen stage by
 * stage: applications first, then guests, then what must be last; and thawed in reverse. Thawing is an obligation: once
 * "freeze" has been sent to a writer, "thaw" is, whatever happens in between.
 *
 * A set that overran a deadline has failed; it is never reported as good. A writer that could not be frozen, or did not
 * stay so until the disks had switched, lowers the level of what was reached, with a reason; a level below the one that
 * was required has failed, too.
 */
#include <stdbool.h>
#include <stdint.h>

#define VSS_WRITERS_MAX	 64u
#define VSS_PROVIDER	 (-1)		/* "who" of the provider's answers */
#define VSS_THAW_TRIES	 3u
#define VSS_THAW_AGAIN_MS 1000u		/* between a refused thaw and the next */

enum vss_state {
	VSS_IDLE, VSS_CHECKING, VSS_PREPARING, VSS_FREEZING, VSS_COMMITTING, VSS_THAWING, VSS_FINISHING, VSS_DONE,
	VSS_FAILED,
};

/* The ladder: each includes what is below it. */
enum vss_level { VSS_CRASH, VSS_FILE_SYSTEM, VSS_APPLICATION };

/* Frozen in this order. */
enum vss_stage { VSS_STAGE_APPLICATION, VSS_STAGE_GUEST, VSS_STAGE_LAST, VSS_STAGES };

enum vss_reason {
	VSS_REASON_NONE,
	VSS_REASON_NOT_ASKED,		/* nobody to freeze */
	VSS_REASON_NO_CHANNEL,		/* the guest has no driver for it */
	VSS_REASON_NEGOTIATION,		/* it has, for other versions */
	VSS_REASON_NO_DAEMON,		/* it has, but nobody who freezes */
	VSS_REASON_CHECK_TIMEOUT,
	VSS_REASON_BUSY,		/* works on something older */
	VSS_REASON_PAUSED,
	VSS_REASON_FREEZE_ERROR,
	VSS_REASON_FREEZE_TIMEOUT,
	VSS_REASON_HOLD_OVERRUN,	/* the switch of the disks took too long */
	VSS_REASON_THAW,		/* did not stay frozen until told, or cannot be thawed */
	VSS_REASON_SNAPSHOT,		/* the provider failed */
	VSS_REASON_PREPARE_TIMEOUT,
	VSS_REASON_GONE,		/* the writer died */
	VSS_REASON_ABORTED,
	VSS_REASON_UNREACHABLE,		/* an application on the host: nobody listens */
	VSS_REASON_REFUSED,		/* its answer to the check */
	VSS_REASON_EARLY,		/* thawed by itself */
	VSS_REASONS,
};

/* For machines: "crash", "file-system", "application"; "no-channel", "freeze-timeout"... Never NULL. */
const char *vss_level_name(enum vss_level level);
const char *vss_reason_name(enum vss_reason reason);
const char *vss_state_name(enum vss_state state);
int vss_level_from_name(const char *name, enum vss_level *ret_level);	/* -EINVAL */
int vss_reason_from_name(const char *name, enum vss_reason *ret_reason);	/* -EINVAL */

enum vss_op { VSS_OP_CHECK, VSS_OP_FREEZE, VSS_OP_THAW, VSS_OP_PREPARE, VSS_OP_COMMIT, VSS_OP_FINISH, VSS_OP_ABORT };

/* Each is answered by vss_answer() with its op, once; @complete is not answered. */
struct vss_writer_ops {
	void (*check)(void *ctx);	/* can it be frozen? */
	void (*freeze)(void *ctx, unsigned window_ms);	/* a writer that is not thawed by then thaws by itself */
	/* Also told to one whose freeze failed, is unanswered, or that died: it may be frozen. */
	void (*thaw)(void *ctx);
	void (*complete)(void *ctx, bool good);		/* the set has ended */
};

struct vss_writer {
	const char *name;		/* copied; at most 63 bytes are kept */
	enum vss_stage stage;
	enum vss_level grants;		/* what it means that this writer is frozen */
	bool essential;			/* the set fails without it */
	const struct vss_writer_ops *ops;
	void *ctx;
};

struct vss_provider {
	void (*prepare)(void *ctx);	/* everything that is slow; nobody is frozen yet */
	void (*commit)(void *ctx);	/* all disks switch, or none */
	void (*finish)(void *ctx, enum vss_level level);
	void (*abort)(void *ctx);	/* after prepare, or after a commit that is not wanted any more */
	void *ctx;
};

struct vss_opts {
	enum vss_level require;
	/* Milliseconds; 0: 35000, 180000, 60000 (first freeze to last thaw), 10000, 35000 (each try). */
	unsigned check_ms, prepare_ms, freeze_ms, hold_ms, thaw_ms;
};

struct vss_set;

/* -EINVAL: the hold does not fit into the freeze; -ENOMEM. @provider is copied. */
int vss_set_new(const struct vss_opts *opts, const struct vss_provider *provider, struct vss_set **ret_set);
/* Who it is: 0 and up; -ENOSPC. Before vss_start(). */
int vss_add_writer(struct vss_set *s, const struct vss_writer *w);
/* Not while busy, and not inside an operation. NULL is fine. */
void vss_set_free(struct vss_set *s);

void vss_start(struct vss_set *s, uint64_t now_ns);
/* @res: 0 or negative errno; @why: for a negative one, NONE: the usual reason of @op. Answers nobody waits for any more
 * are fine. */
void vss_answer(struct vss_set *s, int who, enum vss_op op, int res, enum vss_reason why, uint64_t now_ns);
void vss_gone(struct vss_set *s, int who, uint64_t now_ns);	/* the writer died */
/* It is not frozen any more, or never will be, and nothing further comes from it: @why. */
void vss_lost(struct vss_set *s, int who, enum vss_reason why, uint64_t now_ns);
/* The requester does not want it any more. Without effect once the disks are being switched. */
void vss_abort(struct vss_set *s, uint64_t now_ns);
void vss_tick(struct vss_set *s, uint64_t now_ns);
uint64_t vss_deadline_ns(const struct vss_set *s);	/* when to tick at the latest; UINT64_MAX: never */

enum vss_state vss_state(const struct vss_set *s);
bool vss_over(const struct vss_set *s);		/* DONE or FAILED: the result stands */
bool vss_busy(const struct vss_set *s);		/* not over, or the provider still works: do not free */

struct vss_writer_result {
	const char *name;		/* of the set */
	bool frozen;			/* from its answer until told to thaw */
	bool released;			/* thawed, or never frozen */
	enum vss_reason reason;
	uint64_t freeze_ns, thaw_ns;	/* how long it took */
	unsigned thaw_tries;
};

struct vss_result {
	enum vss_level level;		/* reached; of a failed set: could have been */
	enum vss_reason reason;		/* why it failed, or why the level is not the highest that was asked for */
	int error;			/* of the provider, when it failed */
	uint64_t freeze_ns;		/* first freeze sent to last thaw answered */
	uint64_t hold_ns;		/* of the commit */
	unsigned writers;
};

void vss_result(const struct vss_set *s, struct vss_result *ret);
void vss_writer_result(const struct vss_set *s, unsigned who, struct vss_writer_result *ret);

#endif
