/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "snapshot": of one running machine, or of several as one set. The scripts run here, outside of every jail, when the
 * machine asks for it. With several machines each waits, its guest frozen, until all are.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "vmm/config_int.h"
#include "vmm/spindle_vm.h"

#define MACHINES_MAX 64u
#define STEP_MS	     300000		/* the machine has shorter deadlines of its own */
#define POLL_MS	     200

struct order {
	const char *snapshot, *require, *pre, *post;
	unsigned check_s, freeze_s;
	uint64_t rate;
	bool no_quiesce, json, wait;
};

struct target {
	const char *name;
	struct vm_client *client;
	bool over, good;
	bool held;			/* its pre script has run, and its post script has not */
	json_object *result;
};

enum { OPT_OUTPUT = 256, OPT_REQUIRE, OPT_NO_QUIESCE, OPT_PRE, OPT_POST, OPT_CHECK, OPT_FREEZE, OPT_RATE, OPT_NO_WAIT };

static const struct option options[] = {
	{ "output", required_argument, NULL, OPT_OUTPUT },
	{ "require", required_argument, NULL, OPT_REQUIRE },
	{ "no-quiesce", no_argument, NULL, OPT_NO_QUIESCE },
	{ "pre", required_argument, NULL, OPT_PRE },
	{ "post", required_argument, NULL, OPT_POST },
	{ "check-timeout", required_argument, NULL, OPT_CHECK },
	{ "freeze-timeout", required_argument, NULL, OPT_FREEZE },
	{ "rate", required_argument, NULL, OPT_RATE },
	{ "no-wait", no_argument, NULL, OPT_NO_WAIT },
	{ 0 },
};

static int seconds(const char *text, unsigned *ret)
{
	uint64_t n;
	int r = vmm_config_number(text, 900, &n);

	*ret = r == 0 ? (unsigned)n : 0;
	return r == 0 && n == 0 ? -EINVAL : r;
}

static int set_option(struct order *o, int option)
{
	switch (option) {
	case OPT_OUTPUT:
		o->json = strcmp(optarg, "json") == 0;
		return o->json || strcmp(optarg, "human") == 0 ? 0 : -EINVAL;
	case OPT_REQUIRE:
		o->require = optarg;
		return 0;
	case OPT_NO_QUIESCE:
		o->no_quiesce = true;
		return 0;
	case OPT_PRE:
		o->pre = optarg;
		return 0;
	case OPT_POST:
		o->post = optarg;
		return 0;
	case OPT_CHECK:
		return seconds(optarg, &o->check_s);
	case OPT_FREEZE:
		return seconds(optarg, &o->freeze_s);
	case OPT_RATE:
		return vmm_config_number(optarg, INT64_MAX, &o->rate);
	case OPT_NO_WAIT:
		o->wait = false;
		return 0;
	default:
		return -EINVAL;
	}
}

static int parse(int argc, char **argv, int least, int most, const char *synopsis, struct order *ret)
{
	int option;

	*ret = (struct order){ .require = "crash", .wait = true };
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
		if (set_option(ret, option) < 0)
			return vm_usage("snapshot", synopsis);
	return argc - optind >= least && argc - optind <= most ? EXIT_DONE : vm_usage("snapshot", synopsis);
}

static const char *text_at(json_object *o, const char *key)
{
	json_object *value;

	return json_object_object_get_ex(o, key, &value) && value ? json_object_get_string(value) : "";
}

static void add_text(json_object *o, const char *key, const char *text)
{
	json_object_object_add(o, key, json_object_new_string(text));
}

static void print_json(json_object *o)
{
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
}

/* ---- scripts ------------------------------------------------------------------------------------------ */

static bool run_script(const struct order *o, const struct target *t, const char *script)
{
	int status;

	if (!script)
		return true;
	setenv("SPINDLE_MACHINE", t->name, 1);
	setenv("SPINDLE_SNAPSHOT", o->snapshot, 1);
	fflush(stdout);
	status = system(script);
	if (status == 0)
		return true;
	vm_fail(0, "%s: \"%s\": %s %d", t->name, script, WIFEXITED(status) ? "exit status" : "ended by signal",
		WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
	return false;
}

/* What has been told to hold still is told to go on, also when the machine cannot ask for it any more. */
static bool run_post(const struct order *o, struct target *t)
{
	bool good = !t->held || run_script(o, t, o->post);

	t->held = t->held && !good;
	return good;
}

/* A terminal's ^C must not leave an application frozen. */
static void hold_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

/* ---- create ------------------------------------------------------------------------------------------- */

static void answer(struct target *t, const char *phase, bool good)
{
	json_object *arguments = json_object_new_object();

	add_text(arguments, "phase", phase);
	json_object_object_add(arguments, "good", json_object_new_boolean(good));
	/* Too late: the set has gone on, and its end says so. */
	vm_client_call(t->client, "spindle-snapshot-answer", arguments, NULL, NULL);
}

static bool is_end(struct target *t, const char *event, json_object *data)
{
	if (strcmp(event, "SNAPSHOT_CREATED") && strcmp(event, "SNAPSHOT_FAILED"))
		return false;
	t->over = true;
	t->good = strcmp(event, "SNAPSHOT_CREATED") == 0;
	t->result = json_object_get(data);
	add_text(t->result, "machine", t->name);
	return true;
}

/* One event; true: it is the @phase, or the end. */
static bool on_event(const struct order *o, struct target *t, const char *phase, json_object *event)
{
	const char *name = text_at(event, "event");
	json_object *data;

	if (!json_object_object_get_ex(event, "data", &data) || strcmp(text_at(data, "name"), o->snapshot))
		return false;
	if (is_end(t, name, data))
		return true;
	if (strcmp(name, "SNAPSHOT_PHASE"))
		return false;
	name = text_at(data, "phase");
	if (strcmp(name, "freeze") == 0) {
		t->held = true;
		answer(t, "freeze", run_script(o, t, o->pre));
	} else if (strcmp(name, "thaw") == 0) {
		answer(t, "thaw", run_post(o, t));
	}
	return phase && strcmp(name, phase) == 0;
}

/* Until the machine is at @phase (NULL: at the end). */
static void follow(const struct order *o, struct target *t, const char *phase)
{
	bool there = false;

	while (!t->over && !there) {
		json_object *event;
		int r = vm_client_event(t->client, STEP_MS, &event);

		if (r < 0) {
			vm_fail(0, "%s: %s", t->name, r == -EPIPE ? "the machine has gone" : strerror(-r));
			t->over = true;
			break;
		}
		there = on_event(o, t, phase, event);
		json_object_put(event);
	}
	if (t->over)
		run_post(o, t);
}

static int start(const struct order *o, struct target *t, bool barrier)
{
	json_object *arguments = json_object_new_object();
	struct sp_err err = { 0 };
	int r;

	add_text(arguments, "name", o->snapshot);
	add_text(arguments, "require", o->require);
	json_object_object_add(arguments, "quiesce", json_object_new_boolean(!o->no_quiesce));
	json_object_object_add(arguments, "scripts", json_object_new_boolean(o->pre || o->post));
	json_object_object_add(arguments, "barrier", json_object_new_boolean(barrier));
	json_object_object_add(arguments, "check-ms", json_object_new_int((int)o->check_s * 1000));
	json_object_object_add(arguments, "freeze-ms", json_object_new_int((int)o->freeze_s * 1000));
	r = vm_client_call(t->client, "spindle-snapshot-create", arguments, NULL, &err);
	t->over = r < 0;
	return r < 0 ? vm_fail(EXIT_FAILED, "%s: %s", t->name, sp_err_text(&err)) : EXIT_DONE;
}

static bool none_over(const struct target *t, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (t[i].over)
			return false;
	return true;
}

static bool all_good(const struct target *t, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (!t[i].good)
			return false;
	return true;
}

/* All frozen before the first one switches, all switched before the first one thaws. */
static void follow_together(const struct order *o, struct target *t, unsigned count)
{
	static const char *const phases[] = { "frozen", "switched" };

	for (unsigned p = 0; p < SP_ARRAY_SIZE(phases); p++) {
		for (unsigned i = 0; i < count; i++)
			follow(o, &t[i], phases[p]);
		for (unsigned i = 0; i < count; i++)
			if (!t[i].over)
				answer(&t[i], phases[p], p > 0 || none_over(t, count));
	}
}

static int ask_delete(struct vm_client *c, const char *snapshot, uint64_t rate, struct sp_err *err)
{
	json_object *arguments = json_object_new_object();

	add_text(arguments, "name", snapshot);
	json_object_object_add(arguments, "speed", json_object_new_uint64(rate));
	return vm_client_call(c, "spindle-snapshot-delete", arguments, NULL, err);
}

static void print_result(const struct order *o, json_object *r)
{
	if (!*text_at(r, "level"))
		fprintf(stderr, "spindle-vm: %s: no snapshot: %s%s%s\n", text_at(r, "machine"), text_at(r, "reason"),
			*text_at(r, "error") ? ": " : "", text_at(r, "error"));
	else if (!o->json)
		printf("%s: snapshot %s, %s consistent%s%s%s; frozen for %.1f ms, I/O held for %.1f ms\n",
		       text_at(r, "machine"), o->snapshot, text_at(r, "level"),
		       strcmp(text_at(r, "reason"), "none") ? " (" : "",
		       strcmp(text_at(r, "reason"), "none") ? text_at(r, "reason") : "",
		       strcmp(text_at(r, "reason"), "none") ? ")" : "", atof(text_at(r, "freeze_ms")),
		       atof(text_at(r, "pause_ms")));
}

static void print_results(const struct order *o, struct target *t, unsigned count)
{
	json_object *list = json_object_new_array();

	for (unsigned i = 0; i < count; i++)
		if (t[i].result) {
			print_result(o, t[i].result);
			json_object_array_add(list, json_object_get(t[i].result));
		}
	if (o->json)
		print_json(count == 1 && t[0].result ? t[0].result : list);
	json_object_put(list);
}

/* One of several that was made when another was not is no part of anything. */
static void drop_parts(const struct order *o, struct target *t, unsigned count)
{
	struct sp_err err = { 0 };

	for (unsigned i = 0; i < count; i++) {
		if (!t[i].good)
			continue;
		if (ask_delete(t[i].client, o->snapshot, 0, &err) < 0)
			vm_fail(0, "%s: cannot delete snapshot %s: %s", t[i].name, o->snapshot, sp_err_text(&err));
		else
			vm_fail(0, "%s: snapshot %s is deleted: another machine has none", t[i].name, o->snapshot);
	}
}

static int create_on(const struct order *o, struct target *t, unsigned count)
{
	int status = EXIT_DONE;

	hold_signals();
	for (unsigned i = 0; i < count; i++)
		if (start(o, &t[i], count > 1) != EXIT_DONE)
			status = EXIT_FAILED;
	if (count > 1)
		follow_together(o, t, count);
	for (unsigned i = 0; i < count; i++)
		follow(o, &t[i], NULL);
	print_results(o, t, count);
	if (!all_good(t, count)) {
		drop_parts(o, t, count);
		status = EXIT_FAILED;
	}
	return status;
}

static int create(int argc, char **argv)
{
	struct target t[MACHINES_MAX] = { 0 };
	struct sp_err err = { 0 };
	struct order o;
	unsigned count = 0;
	int status = parse(argc, argv, 2, MACHINES_MAX + 1, "create [--require=LEVEL] [--no-quiesce] [--pre=COMMAND] "
			   "[--post=COMMAND] [--check-timeout=SECONDS] [--freeze-timeout=SECONDS] [--output=json] "
			   "NAME... SNAPSHOT", &o);

	if (status != EXIT_DONE)
		return status;
	o.snapshot = argv[argc - 1];
	for (; status == EXIT_DONE && optind < argc - 1; optind++) {
		t[count].name = argv[optind];
		if (vm_client_open(t[count].name, &t[count].client, &err) < 0)
			status = vm_fail(EXIT_FAILED, "%s", sp_err_text(&err));
		else
			count++;
	}
	if (status == EXIT_DONE)
		status = create_on(&o, t, count);
	for (unsigned i = 0; i < count; i++) {
		vm_client_close(t[i].client);
		json_object_put(t[i].result);
	}
	return status;
}

/* ---- list --------------------------------------------------------------------------------------------- */

static void print_snapshot(json_object *s)
{
	json_object *disks, *time_at;
	char when[32] = "-";
	time_t at;

	if (json_object_object_get_ex(s, "time", &time_at)) {
		at = (time_t)json_object_get_int64(time_at);
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", localtime(&at));
	}
	json_object_object_get_ex(s, "disks", &disks);
	printf("%-24s %-20s %-12s %5zu  %s\n", text_at(s, "name"), when, text_at(s, "level"),
	       json_object_array_length(disks), text_at(s, "parent"));
}

static int list(int argc, char **argv)
{
	struct sp_err err = { 0 };
	struct vm_client *c;
	struct order o;
	json_object *found = NULL;
	int r, status = parse(argc, argv, 1, 1, "list [--output=json] NAME", &o);

	if (status != EXIT_DONE)
		return status;
	r = vm_client_open(argv[optind], &c, &err);
	if (r == 0) {
		r = vm_client_call(c, "spindle-snapshot-list", NULL, &found, &err);
		vm_client_close(c);
	}
	if (r < 0)
		return vm_fail(EXIT_FAILED, "%s", sp_err_text(&err));
	if (o.json)
		print_json(found);
	else
		printf("%-24s %-20s %-12s %5s  %s\n", "SNAPSHOT", "TIME", "CONSISTENCY", "DISKS", "ABOVE");
	for (size_t i = 0; !o.json && i < json_object_array_length(found); i++)
		print_snapshot(json_object_array_get_idx(found, i));
	json_object_put(found);
	return EXIT_DONE;
}

/* ---- delete, cancel ------------------------------------------------------------------------------------ */

static void print_progress(json_object *job)
{
	double total = atof(text_at(job, "total-progress")), done = atof(text_at(job, "current-progress"));

	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\r%3.0f %%", total > 0 ? done * 100 / total : 0);
}

/* Its end is in the job's state, whoever else asks meanwhile. */
static int wait_deletion(struct vm_client *c, bool json)
{
	struct sp_err err = { 0 };
	json_object *jobs, *job;
	int status = -1;

	while (status < 0) {
		if (vm_client_call(c, "query-jobs", NULL, &jobs, &err) < 0)
			return vm_fail(EXIT_FAILED, "%s", sp_err_text(&err));
		job = json_object_array_get_idx(jobs, 0);
		if (!job || strcmp(text_at(job, "status"), "concluded") == 0) {
			if (isatty(STDERR_FILENO))
				fputc('\n', stderr);
			status = !job || *text_at(job, "error") ? EXIT_FAILED : EXIT_DONE;
			if (status != EXIT_DONE)
				vm_fail(status, "%s", job ? text_at(job, "error") : "the job has gone");
			if (json && job)
				print_json(job);
		} else {
			print_progress(job);
			usleep(POLL_MS * 1000);
		}
		json_object_put(jobs);
	}
	return status;
}

static int delete(int argc, char **argv)
{
	struct sp_err err = { 0 };
	struct vm_client *c;
	struct order o;
	int status = parse(argc, argv, 2, 2, "delete [--rate=BYTES] [--no-wait] [--output=json] NAME SNAPSHOT", &o);

	if (status != EXIT_DONE)
		return status;
	if (vm_client_open(argv[optind], &c, &err) < 0)
		return vm_fail(EXIT_FAILED, "%s", sp_err_text(&err));
	if (ask_delete(c, argv[optind + 1], o.rate, &err) < 0)
		status = vm_fail(EXIT_FAILED, "%s", sp_err_text(&err));
	else if (o.wait)
		status = wait_deletion(c, o.json);
	vm_client_close(c);
	return status;
}

static int cancel(int argc, char **argv)
{
	struct sp_err err = { 0 };
	json_object *arguments;
	struct vm_client *c;
	struct order o;
	int r, status = parse(argc, argv, 1, 1, "cancel NAME", &o);

	if (status != EXIT_DONE)
		return status;
	r = vm_client_open(argv[optind], &c, &err);
	if (r == 0) {
		arguments = json_object_new_object();
		add_text(arguments, "id", "snapshot-delete");
		r = vm_client_call(c, "job-cancel", arguments, NULL, &err);
		vm_client_close(c);
	}
	return r < 0 ? vm_fail(EXIT_FAILED, "%s", sp_err_text(&err)) : EXIT_DONE;
}

int vm_snapshot(int argc, char **argv)
{
	static const struct { const char *name; int (*run)(int argc, char **argv); } verbs[] = {
		{ "create", create }, { "list", list }, { "delete", delete }, { "cancel", cancel },
		{ "revert", vm_snapshot_revert },
	};

	for (unsigned i = 0; argc > 1 && i < SP_ARRAY_SIZE(verbs); i++)
		if (strcmp(argv[1], verbs[i].name) == 0)
			return verbs[i].run(argc - 1, argv + 1);
	return vm_usage("snapshot", "create|list|delete|cancel|revert ...");
}
