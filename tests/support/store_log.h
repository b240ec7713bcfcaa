/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_STORE_LOG_H
#define SPINDLE_TESTS_STORE_LOG_H
/*
 * A memory folder that remembers everything done to it, and the states a power cut could leave of that.
 *
 * Persistence model: an event on a file is durable once a sync of that file has COMPLETED that had STARTED after the
 * event had completed; creation, renaming and removal of a name once the directory was synced likewise (a rename
 * between directories: the target's). Of all events that have started and are not durable, any subset may have reached
 * the disk. An extending write is two events, a RESIZE that is marked implied and a WRITE, because data and size reach
 * the disk by different ways: size without data reads zeros, data without size is cut off.
 *
 * Events that fail inside the memory store (its limit, no memory) are marked failed and count for nothing, so put
 * store_fault above the log, not below it.
 */
#include "vhd/store.h"

enum log_kind {
	LOG_WRITE, LOG_PUNCH, LOG_ZERO, LOG_RESIZE,	/* on a file */
	LOG_SYNC,
	LOG_CREATE, LOG_RENAME, LOG_LINK, LOG_UNLINK,	/* on the folder */
	LOG_SYNC_DIR,
	LOG_MARK,					/* put in by the test */
};

#define LOG_NEVER UINT64_MAX

struct log_event {
	enum log_kind kind;
	bool implied, failed;
	unsigned file;			/* the same number for one file, whatever its name */
	uint64_t offset, len;		/* RESIZE: offset is the new size, len the old one */
	uint8_t *data;			/* WRITE: len bytes */
	char *name, *to;		/* CREATE, UNLINK, SYNC_DIR: name; RENAME, LINK: both. Normalised */
	uint64_t value;			/* MARK */
	uint64_t begin, end;		/* sequence numbers: started, completed; LOG_NEVER: not yet */
	uint64_t durable_at;		/* end of the sync that made it durable, or LOG_NEVER */
};

struct store_log;

/* A folder over the memory folder @inner (taken over) that records. Its present content is the initial state. */
int store_folder_log_new(struct store_folder *inner, struct store_folder **ret_folder);
/* The log behind it; lives as long as the folder. Read it while no I/O runs. */
struct store_log *store_folder_log(struct store_folder *f);

void log_mark(struct store_log *log, uint64_t value);
size_t log_count(const struct store_log *log);
const struct log_event *log_event(const struct store_log *log, size_t index);	/* ordered by begin */
uint64_t log_seq(const struct store_log *log);		/* the last number given out */

/* What the cut at @seq (right after that number was given out) means for an event: */
bool log_started(const struct log_event *e, uint64_t seq);
bool log_durable(const struct log_event *e, uint64_t seq);
/* Events the cut may keep or lose: started, changing something, not durable, not failed. Returns how many there are
 * (indices in ret_index, up to @room). Looks from event @first on: what comes before is known to be durable. */
size_t log_pending(const struct store_log *log, uint64_t seq, size_t first, size_t *ret_index, size_t room);

/* ---- states --------------------------------------------------------------------------------------- */

enum log_choice {
	LOG_WHOLE,
	LOG_TORN,	/* WRITE: only the first @k bytes arrived; PUNCH and ZERO: only the first @k bytes read zeros */
	LOG_TORN_REST,	/* WRITE, PUNCH, ZERO: all but the first @k bytes */
};	/* and skip: do not apply it */

/* A folder's content, file by file. Clones share all pages: a state costs what differs in it. One thread each.
 * Made when recording is over; no allocation may be made to fail meanwhile. */
struct log_state;

struct log_state *log_state_initial(const struct store_log *log);
struct log_state *log_state_clone(const struct log_state *s);
/* Events must be applied in the order of their index. Those that change nothing (SYNC, MARK, failed) are ignored. A
 * RESIZE zeroes what lies between the size it found and its own, also when an earlier shrink was skipped: file systems
 * keep the order of size changes of one file. */
void log_state_apply(struct log_state *s, size_t index, enum log_choice how, uint64_t k);
/* Brings a state that so far only followed forward to all that is durable at @seq. Returns the index of the first event
 * that is not, where log_pending() may start. The usual way through a log: one state that follows, and at each cut a
 * clone of it per subset of the pending events. */
size_t log_state_follow(struct log_state *s, uint64_t seq);
/* The memory folder the system would find after power returns. The state stays usable. Caller closes the folder. */
struct store_folder *log_state_folder(const struct log_state *s);
void log_state_free(struct log_state *s);

/* In one go: everything durable at @seq, and of the rest the events that @choose keeps (NULL: none). It answers whether
 * and may set how and k, which come preset to LOG_WHOLE and 0. */
struct store_folder *log_crash(const struct store_log *log, uint64_t seq,
			       bool (*choose)(void *arg, size_t index, const struct log_event *e,
					      enum log_choice *ret_how, uint64_t *ret_k), void *arg);

#endif
