/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_REQUESTER_INT_H
#define SPINDLE_VMM_REQUESTER_INT_H
/*
 * A requester from inside: requester.c speaks with machines, requester_play.c with those who hold still, and
 * requester_held.c keeps the record of who does.
 */
#include <signal.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/bytes.h"
#include "vmm/requester.h"
#include "vss/vss.h"
#include "vss/wire.h"

#define PLAYERS_MAX (VM_SET_WRITERS_MAX + VM_SET_MACHINES_MAX)
#define PATH_BYTES  108u

enum play_state { PLAY_READY, PLAY_CHECKING, PLAY_FREEZING, PLAY_FROZEN, PLAY_THAWING, PLAY_THAWED, PLAY_OUT };

/* Somebody on this host who holds still: an application behind a socket, for all machines; or scripts, for one. */
struct player {
	struct requester *of;
	char name[64];			/* "": scripts */
	char path[PATH_BYTES];		/* of the socket */
	struct vm_set_machine *machine;	/* scripts: whose */
	enum vss_level grants;
	enum play_state state;
	enum vss_reason reason;		/* why it is OUT, or THAWED too early */
	char detail[VSS_WIRE_TEXT];	/* the same for people */
	bool held;			/* on record: told to freeze, and not known to have thawed */
	bool pre_runs;			/* THAWING: the post script follows when it has ended */
	int fd;				/* socket, or pidfd of the script that runs; -1 */
	pid_t pid;
	uint32_t serial;		/* of the last message */
	uint8_t waits[VM_SET_MACHINES_MAX];	/* each machine: for the answer to enum vss_op + 1; 0: for none */
};

/* A machine's way through the set. */
struct target {
	struct vm_set_machine *m;
	bool over;
	bool frozen_asked, frozen_good, switched_asked, waits;	/* the barrier; waits: for an answer */
	uint64_t heard_ns;
};

struct requester {
	const struct vm_set_opts *opts;
	struct target target[VM_SET_MACHINES_MAX];
	unsigned targets;
	struct player player[PLAYERS_MAX];
	unsigned players, writers;	/* the first ones are the writers */
	uint64_t freeze_ns;		/* how long anybody may be frozen */
	uint64_t end_ns;		/* of the time to hold still; 0: nobody does */
	char held_path[PATH_BYTES];
	int held_fd;			/* -1: nobody has been frozen yet */
	int signal_fd;
	sigset_t old_signals;
};

void requester_say(const struct requester *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* To the machine of number @at; @why for one that is not good. */
void requester_answer(struct requester *r, unsigned at, const struct player *p, enum vss_op op, bool good,
		      enum vss_reason why);
void requester_lost(struct requester *r, const struct player *p);	/* to all machines */

/* ---- requester_play.c ---------------------------------------------------------------------------------- */

/* Connects to all, and waits for their greetings. Who does not answer is OUT. */
int play_gather(struct requester *r, struct sp_err *err);
void play_add_scripts(struct requester *r, struct vm_set_machine *m);
void play_ask(struct player *p, unsigned machine, enum vss_op op);
void play_event(struct player *p);			/* ->fd is readable */
void play_thaw(struct player *p);			/* nobody need have asked */
void play_complete(struct player *p, bool good);	/* closes */

/* A connection to a writer: the descriptor, or negative errno. */
int play_connect(const char *path);

/* ---- requester_script.c --------------------------------------------------------------------------------- */

/* Starts @command: a descriptor that is readable when it has ended, or negative errno. */
int script_start(const char *command, const char *machine, const char *snapshot, pid_t *ret_pid);
bool script_ended_well(int *fd, char *ret_detail, size_t room);	/* closes *fd */

/* ---- requester_held.c ---------------------------------------------------------------------------------- */

/* Durable before it returns. */
int held_note(struct requester *r, unsigned player, bool held);
void held_end(struct requester *r);			/* the record goes when nobody is left on it */

#endif
