/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The requester against a machine and writers that are played here, on threads of their own; and the machine's side of
 * it without a machine: what it asks and what an answer, a loss and the end of the connection do.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/env.h"
#include "tests/unit/rows.h"
#include "vmm/machine_requester.h"
#include "vmm/requester.h"
#include "vss/wire.h"

static char folder[64], machine_path[100], writer_path[100];

/* ---- a machine: asks for phases in turn, and takes down the answers ------------------------------------- */

struct script { const char *phase, *writer; };	/* writer NULL: the requester's own; phase "end": of the set */

static struct {
	const struct script *script;
	bool good;			/* how the set ends */
	int listener;
	pthread_t thread;
	char heard[1024];		/* answers, in their order */
	char created[1024];		/* arguments of the command */
} m;

static void machine_say(int fd, json_object *o)
{
	const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);

	if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0 || send(fd, "\r\n", 2, MSG_NOSIGNAL) < 0)
		m.heard[0] = m.heard[0];	/* it has gone, and reading tells */
	json_object_put(o);
}

static void next(int fd)
{
	json_object *o = json_object_new_object(), *data = json_object_new_object();
	const struct script *s = m.script++;
	bool end = strcmp(s->phase, "end") == 0;

	json_object_object_add(o, "event", json_object_new_string(!end ? "SNAPSHOT_PHASE" : m.good ?
								  "SNAPSHOT_CREATED" : "SNAPSHOT_FAILED"));
	json_object_object_add(data, "name", json_object_new_string("s"));
	if (!end)
		json_object_object_add(data, "phase", json_object_new_string(s->phase));
	if (s->writer)
		json_object_object_add(data, "writer", json_object_new_string(s->writer));
	json_object_object_add(o, "data", data);
	machine_say(fd, o);
}

static const char *text_at(json_object *o, const char *key)
{
	json_object *value;

	return o && json_object_object_get_ex(o, key, &value) ? json_object_get_string(value) : "-";
}

static void machine_hear(int fd, char *line)
{
	json_object *o = json_tokener_parse(line), *arguments = NULL, *answer = json_object_new_object();
	const char *command = text_at(o, "execute");
	size_t at = strlen(m.heard);

	json_object_object_get_ex(o, "arguments", &arguments);
	json_object_object_add(answer, "return", json_object_new_object());
	machine_say(fd, answer);
	if (strcmp(command, "spindle-snapshot-create") == 0)
		snprintf(m.created, sizeof(m.created), "%s", text_at(arguments, "writers"));
	if (strcmp(command, "spindle-snapshot-answer") == 0)
		snprintf(m.heard + at, sizeof(m.heard) - at, "%s%s %s", at ? ", " : "", text_at(arguments, "phase"),
			 strcmp(text_at(arguments, "phase"), "lost") ? text_at(arguments, "good") :
								       text_at(arguments, "reason"));
	if ((strcmp(command, "spindle-snapshot-create") == 0 || strcmp(command, "spindle-snapshot-answer") == 0) &&
	    strcmp(text_at(arguments, "phase"), "lost") && m.script->phase)
		next(fd);
	json_object_put(o);
}

static void *machine(void *arg)
{
	static char buf[65536];
	int fd = accept(m.listener, NULL, NULL);
	FILE *in = fdopen(dup(fd), "r");
	json_object *greeting = json_object_new_object();

	json_object_object_add(greeting, "QMP", json_object_new_object());
	machine_say(fd, greeting);
	while (fgets(buf, sizeof(buf), in))
		machine_hear(fd, buf);
	fclose(in);
	close(fd);
	return NULL;
}

static int listen_at(const char *path, int type)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	strcpy(a.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 4), 0);
	return fd;
}

static void begin(const struct script *script, bool good)
{
	memset(&m, 0, sizeof(m));
	m.script = script;
	m.good = good;
	strcpy(folder, "/tmp/test-requester-XXXXXX");
	assert_non_null(mkdtemp(folder));
	assert_int_equal(chdir(folder), 0);
	setenv("XDG_RUNTIME_DIR", folder, 1);
	snprintf(machine_path, sizeof(machine_path), "%s/m", folder);
	snprintf(writer_path, sizeof(writer_path), "%s/w", folder);
	m.listener = listen_at(machine_path, SOCK_STREAM);
	assert_int_equal(pthread_create(&m.thread, NULL, machine, NULL), 0);
}

static void finish(void)
{
	char command[128];

	pthread_join(m.thread, NULL);
	close(m.listener);
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	assert_int_equal(system(command), 0);
}

static int create(struct vm_set_opts *o)
{
	struct vm_set_machine machines = { .name = machine_path };
	struct sp_err err = { 0 };
	int r;

	o->snapshot = "s";
	assert_int_equal(vm_client_open(machine_path, &machines.client, &err), 0);
	r = vm_set_create(o, &machines, 1, &err);
	vm_client_close(machines.client);
	json_object_put(machines.result);
	return r;
}

static unsigned records(void)
{
	char command[160];
	FILE *p;
	unsigned n = 0;

	snprintf(command, sizeof(command), "ls %s/spindle | grep -c '^frozen-'", folder);
	p = popen(command, "r");
	assert_int_equal(fscanf(p, "%u", &n), 1);
	pclose(p);
	return n;
}

/* ---- scripts and their record ---------------------------------------------------------------------------- */

static const struct script scripts_only[] = { { "freeze", NULL }, { "thaw", NULL }, { "end", NULL }, { NULL, NULL } };

/* The record is there, and whole, before the first script begins; and gone when everybody is thawed. */
static void record_first(void **state)
{
	struct vm_set_opts o = { .pre = "cat spindle/frozen-* >seen", .post = "echo $SPINDLE_SNAPSHOT >post" };

	begin(scripts_only, true);
	assert_int_equal(create(&o), 0);
	assert_string_equal(m.heard, "freeze true, thaw true");
	assert_int_equal(system("grep -q SPINDLE_SNAPSHOT seen && grep -q s post"), 0);
	assert_int_equal(records(), 0);
	finish();
}

static void script_fails(void **state)
{
	struct vm_set_opts o = { .pre = "exit 3", .post = "touch post" };

	begin(scripts_only, false);
	assert_true(create(&o) < 0);
	assert_string_equal(m.heard, "freeze false, thaw true");
	assert_int_equal(access("post", F_OK), 0);
	assert_int_equal(records(), 0);
	finish();
}

/* Killed while frozen: on record, and paid once. */
static void killed(void **state)
{
	struct vm_set_opts o = { .pre = "kill -9 $(cat victim)", .post = "echo paid >>post" };
	struct sp_err err = { 0 };
	pid_t child;
	int status;

	begin(scripts_only, true);
	child = fork();
	if (child == 0) {
		char command[64];

		snprintf(command, sizeof(command), "echo %d >victim", (int)getpid());
		_exit(system(command) || create(&o) < 0);
	}
	assert_true(child > 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(records(), 1);
	assert_int_equal(vm_set_recover(NULL, &err), 1);
	assert_int_equal(records(), 0);
	assert_int_equal(vm_set_recover(NULL, &err), 0);
	assert_int_equal(system("test \"$(cat post)\" = paid"), 0);
	finish();
}

static const struct record {
	const char *name, *text;
	unsigned left;			/* after the recovery */
} torn_records[] = {
	{ "empty record", "", 0 },
	{ "torn record", "{\"who\":0,\"post\":\"touch pa", 0 },
	{ "thawed on record", "{\"who\":0,\"post\":\"touch paid\",\"machine\":\"m\",\"snapshot\":\"s\"}\n"
	  "{\"who\":0}\n", 0 },
	{ "record of nonsense", "[]\n7\n{\"who\":-1}\n{\"who\":99999}\n{\"who\":\"x\"}\nnull\n", 0 },
	{ "writer that is no more", "{\"who\":1,\"writer\":\"/nonexistent\"}\n", 0 },
	{ "script that fails", "{\"who\":1,\"post\":\"exit 1\",\"machine\":\"m\",\"snapshot\":\"s\"}\n", 1 },
};

static void recovers(void **state)
{
	const struct record *row = *state;
	struct sp_err err = { 0 };
	FILE *f;

	strcpy(folder, "/tmp/test-requester-XXXXXX");
	assert_non_null(mkdtemp(folder));
	assert_int_equal(chdir(folder), 0);
	setenv("XDG_RUNTIME_DIR", folder, 1);
	assert_int_equal(mkdir("spindle", 0700), 0);
	f = fopen("spindle/frozen-abcdef", "w");
	fputs(row->text, f);
	fclose(f);
	assert_int_equal(vm_set_recover(NULL, &err), 1);
	assert_int_equal(records(), row->left);
	assert_int_equal(access("paid", F_OK), -1);
	assert_int_equal(system("rm -rf spindle"), 0);
	assert_int_equal(rmdir(folder), 0);
}

/* ---- a writer that is played, message by message --------------------------------------------------------- */

/* What it does when it hears a message: answers so, or goes. */
struct play { uint16_t type, answer; uint32_t value; bool unasked; };

static const struct play *play;
static int writer_listener;

static void *play_writer(void *arg)
{
	struct vss_wire w;
	int fd = accept(writer_listener, NULL, NULL);

	vss_wire_make(&w, VSS_WIRE_HELLO, 0, VSS_APPLICATION, "played");
	send(fd, &w, sizeof(w), MSG_NOSIGNAL);
	while (recv(fd, &w, sizeof(w), 0) == sizeof(w)) {
		const struct play *p = play;

		while (p->type && p->type != le16_get(w.type))
			p++;
		if (p->type && !p->answer)
			break;
		vss_wire_make(&w, p->answer, p->unasked ? 0 : le32_get(w.serial), p->value, "as played");
		if (p->type)
			send(fd, &w, sizeof(w), MSG_NOSIGNAL);
	}
	close(fd);
	return NULL;
}

static const struct story {
	const char *name;
	struct play play[5];
	const char *heard;		/* by the machine */
} stories[] = {
	{ "a writer as it should be", { { VSS_WIRE_CHECK, VSS_WIRE_READY, 0 }, { VSS_WIRE_FREEZE, VSS_WIRE_FROZEN, 0 },
	  { VSS_WIRE_THAW, VSS_WIRE_THAWED, 0 } }, "check true, freeze true, thaw true" },
	{ "it refuses the check", { { VSS_WIRE_CHECK, VSS_WIRE_REFUSED, 0 } }, "check false, freeze false, thaw true" },
	{ "it refuses to freeze", { { VSS_WIRE_CHECK, VSS_WIRE_READY, 0 }, { VSS_WIRE_FREEZE, VSS_WIRE_REFUSED, 0 },
	  { VSS_WIRE_THAW, VSS_WIRE_THAWED, 0 } }, "check true, freeze false, thaw true" },
	{ "it has thawed by itself", { { VSS_WIRE_CHECK, VSS_WIRE_READY, 0 }, { VSS_WIRE_FREEZE, VSS_WIRE_FROZEN, 0 },
	  { VSS_WIRE_THAW, VSS_WIRE_THAWED, 1 } }, "check true, freeze true, lost thawed-early, thaw true" },
	{ "it goes when told to thaw", { { VSS_WIRE_CHECK, VSS_WIRE_READY, 0 }, { VSS_WIRE_FREEZE, VSS_WIRE_FROZEN, 0 },
	  { VSS_WIRE_THAW, 0, 0 } }, "check true, freeze true, lost writer-gone, thaw true" },
	{ "it thaws unasked", { { VSS_WIRE_CHECK, VSS_WIRE_READY, 0 },
	  { VSS_WIRE_FREEZE, VSS_WIRE_THAWED, 1, true } },
	  "check true, lost thawed-early, freeze false, thaw true" },
	{ "it is frozen unasked", { { VSS_WIRE_CHECK, VSS_WIRE_READY, 0 },
	  { VSS_WIRE_FREEZE, VSS_WIRE_FROZEN, 0, true } },
	  "check true, lost writer-gone, freeze false, thaw true" },
	{ "it answers nonsense", { { VSS_WIRE_CHECK, VSS_WIRE_READY, 0 }, { VSS_WIRE_FREEZE, VSS_WIRE_CHECK, 0 } },
	  "check true, lost writer-gone, freeze false, thaw true" },
};

static const struct script with_writer[] = {
	{ "check", "played" }, { "freeze", "played" }, { "thaw", "played" }, { "end", NULL }, { NULL, NULL },
};

static void tell_story(void **state)
{
	const struct story *row = *state;
	const char *sockets[] = { writer_path };
	struct vm_set_opts o = { .writer = sockets, .writers = 1 };
	pthread_t thread;

	begin(with_writer, true);
	play = row->play;
	writer_listener = listen_at(writer_path, SOCK_SEQPACKET);
	assert_int_equal(pthread_create(&thread, NULL, play_writer, NULL), 0);
	create(&o);
	pthread_join(thread, NULL);
	assert_non_null(strstr(m.created, "\"played\""));
	if (strncmp(m.heard, row->heard, strlen(row->heard)))
		fail_msg("heard %s", m.heard);
	assert_true(access("spindle", F_OK) < 0 || records() == 0);
	close(writer_listener);
	finish();
}

/* ---- the machine's side --------------------------------------------------------------------------------- */

static char asked[256];

void machine_event(struct vmm_machine *machine_of_event, const char *name, void *data);
void machine_event(struct vmm_machine *machine_of_event, const char *name, void *data)
{
	size_t at = strlen(asked);

	snprintf(asked + at, sizeof(asked) - at, "%s%s %s", at ? ", " : "", text_at(data, "phase"),
		 text_at(data, "writer"));
	json_object_put(data);
}

static struct vss_set *set;

static void done(enum vss_op op)
{
	vss_answer(set, VSS_PROVIDER, op, 0, VSS_REASON_NONE, sp_env_monotonic_ns());
}

static void prepare(void *ctx)
{
	done(VSS_OP_PREPARE);
}

static void commit(void *ctx)
{
	done(VSS_OP_COMMIT);
}

static void end_set(void *ctx, enum vss_level level)
{
	done(VSS_OP_FINISH);
}

static void abort_set(void *ctx)
{
	done(VSS_OP_ABORT);
}

static struct machine_requester requester;

static void start_set(void)
{
	const struct vss_provider provider = { prepare, commit, end_set, abort_set, NULL };
	const struct vmm_snapshot_writer w = { "app", VSS_APPLICATION };
	const struct vmm_snapshot_opts o = { .writer = &w, .writers = 1, .phases = VMM_PHASE_APPLICATION };
	const struct vss_opts opts = { 0 };

	*asked = '\0';
	assert_int_equal(vss_set_new(&opts, &provider, &set), 0);
	assert_int_equal(machine_requester_init(&requester, NULL, set, "s", &o), 0);
	vss_start(set, sp_env_monotonic_ns());
}

static bool say(const char *phase, const char *writer, bool good, bool lost)
{
	const struct vmm_snapshot_answer a = { phase, writer, good, lost, VSS_REASON_NONE };

	return machine_requester_answer(&requester, &a);
}

static void end_of_set(enum vss_state state, enum vss_level level)
{
	struct vss_result r;

	vss_result(set, &r);
	assert_string_equal(vss_state_name(vss_state(set)), vss_state_name(state));
	if (state == VSS_DONE)
		assert_int_equal(r.level, level);
	vss_set_free(set);
}

static void machine_side(void **state)
{
	start_set();
	assert_string_equal(asked, "check app");
	assert_false(say("freeze", "app", true, false));	/* nobody waits for that */
	assert_false(say("check", "other", true, false));
	assert_false(say("check", NULL, true, false));
	assert_true(say("check", "app", true, false));
	assert_string_equal(asked, "check app, freeze app, freeze -");
	assert_true(say("freeze", "app", true, false));
	assert_true(say("freeze", NULL, true, false));
	assert_true(say("thaw", NULL, true, false));
	assert_true(say("thaw", "app", true, false));
	end_of_set(VSS_DONE, VSS_APPLICATION);
}

static void machine_side_lost(void **state)
{
	start_set();
	assert_true(say("check", "app", true, false));
	assert_true(say("freeze", "app", true, false));
	assert_true(say("lost", "app", false, true));
	assert_true(say("freeze", NULL, true, false));
	assert_true(say("thaw", NULL, true, false));
	end_of_set(VSS_DONE, VSS_CRASH);
}

/* It does not go on for less, and does not wait for a deadline. */
static void owner_gone_while_freezing(void **state)
{
	start_set();
	assert_true(say("check", "app", true, false));
	assert_true(say("freeze", "app", true, false));
	machine_requester_gone(&requester);
	end_of_set(VSS_FAILED, VSS_CRASH);
}

static void owner_gone_while_thawing(void **state)
{
	start_set();
	assert_true(say("check", "app", true, false));
	assert_true(say("freeze", "app", true, false));
	assert_true(say("freeze", NULL, true, false));
	machine_requester_gone(&requester);
	end_of_set(VSS_DONE, VSS_CRASH);
}

int main(void)
{
	static const struct single_row singles[] = {
		{ "on record before the first script", record_first }, { "a script that fails", script_fails },
		{ "killed while frozen", killed }, { "the machine's side", machine_side },
		{ "a writer is lost", machine_side_lost },
		{ "the requester goes: freezing", owner_gone_while_freezing },
		{ "the requester goes: thawing", owner_gone_while_thawing },
	};

	return ROWS_RUN(singles, rows_single) + ROWS_RUN(torn_records, recovers) + ROWS_RUN(stories, tell_story);
}
