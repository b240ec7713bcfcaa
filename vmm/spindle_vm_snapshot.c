/* SPDX-License-Identifier: BSD-2-Clause */
/* "snapshot": of one running machine, or of several as one set. requester.c does it. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "vmm/config_int.h"
#include "vmm/requester.h"
#include "vmm/spindle_vm.h"

#define DELETE_RATE (UINT64_C(64) << 20)	/* the guest hardly notices it, see docs/benchmarks.md */

struct order {
	struct vm_set_opts set;
	const char *writer[VM_SET_WRITERS_MAX];
	uint64_t rate;
	bool json, wait;
};

enum {
	OPT_OUTPUT = 256, OPT_REQUIRE, OPT_NO_QUIESCE, OPT_PRE, OPT_POST, OPT_WRITER, OPT_CHECK, OPT_FREEZE, OPT_RATE,
	OPT_NO_WAIT,
};

static const struct option options[] = {
	{ "output", required_argument, NULL, OPT_OUTPUT },
	{ "require", required_argument, NULL, OPT_REQUIRE },
	{ "no-quiesce", no_argument, NULL, OPT_NO_QUIESCE },
	{ "pre", required_argument, NULL, OPT_PRE },
	{ "post", required_argument, NULL, OPT_POST },
	{ "writer", required_argument, NULL, OPT_WRITER },
	{ "check-timeout", required_argument, NULL, OPT_CHECK },
	{ "freeze-timeout", required_argument, NULL, OPT_FREEZE },
	{ "rate", required_argument, NULL, OPT_RATE },
	{ "no-wait", no_argument, NULL, OPT_NO_WAIT },
	{ 0 },
};

static int seconds(const char *text, unsigned *ret_ms)
{
	uint64_t n;
	int r = vmm_config_number(text, 900, &n);

	*ret_ms = r == 0 ? (unsigned)n * 1000 : 0;
	return r == 0 && n == 0 ? -EINVAL : r;
}

static int add_writer(struct order *o, const char *path)
{
	if (o->set.writers == VM_SET_WRITERS_MAX)
		return -E2BIG;
	o->writer[o->set.writers++] = path;
	return 0;
}

static int set_option(struct order *o, int option)
{
	switch (option) {
	case OPT_OUTPUT:
		o->json = strcmp(optarg, "json") == 0;
		return o->json || strcmp(optarg, "human") == 0 ? 0 : -EINVAL;
	case OPT_REQUIRE:
		o->set.require = optarg;
		return 0;
	case OPT_NO_QUIESCE:
		o->set.no_quiesce = true;
		return 0;
	case OPT_PRE:
		o->set.pre = optarg;
		return 0;
	case OPT_POST:
		o->set.post = optarg;
		return 0;
	case OPT_WRITER:
		return add_writer(o, optarg);
	case OPT_CHECK:
		return seconds(optarg, &o->set.check_ms);
	case OPT_FREEZE:
		return seconds(optarg, &o->set.freeze_ms);
	case OPT_RATE:
		return vmm_config_number(optarg, INT64_MAX, &o->rate);
	case OPT_NO_WAIT:
		o->wait = false;
		return 0;
	default:
		return -EINVAL;
	}
}

static void say(const char *text)
{
	vm_fail(0, "%s", text);
}

static int parse(int argc, char **argv, int least, int most, const char *synopsis, struct order *ret)
{
	int option;

	*ret = (struct order){ .set.say = say, .rate = DELETE_RATE, .wait = true };
	ret->set.writer = ret->writer;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
		if (set_option(ret, option) < 0)
			return vm_usage("snapshot", synopsis);
	return argc - optind >= least && argc - optind <= most ? EXIT_DONE : vm_usage("snapshot", synopsis);
}

static void print_json(json_object *o)
{
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
}

/* ---- create ------------------------------------------------------------------------------------------- */

static void print_result(const struct order *o, json_object *r)
{
	const char *machine = vm_json_text(r, "machine"), *level = vm_json_text(r, "level");
	const char *reason = vm_json_text(r, "reason"), *error = vm_json_text(r, "error");
	bool lowered = strcmp(reason, "none") != 0;

	if (!*level)
		fprintf(stderr, "spindle-vm: %s: no snapshot: %s%s%s\n", machine, reason, *error ? ": " : "", error);
	else if (!o->json)
		printf("%s: snapshot %s, %s consistent%s%s%s; frozen for %.1f ms, I/O held for %.1f ms\n", machine,
		       o->set.snapshot, level, lowered ? " (" : "", lowered ? reason : "", lowered ? ")" : "",
		       atof(vm_json_text(r, "freeze_ms")), atof(vm_json_text(r, "pause_ms")));
}

static void print_results(const struct order *o, struct vm_set_machine *m, unsigned count)
{
	json_object *list = json_object_new_array();

	for (unsigned i = 0; i < count; i++)
		if (m[i].result) {
			print_result(o, m[i].result);
			json_object_array_add(list, json_object_get(m[i].result));
		}
	if (o->json)
		print_json(count == 1 && m[0].result ? m[0].result : list);
	json_object_put(list);
}

static int create(int argc, char **argv)
{
	struct vm_set_machine m[VM_SET_MACHINES_MAX] = { 0 };
	struct sp_err err = { 0 };
	struct order o;
	unsigned count = 0;
	int status = parse(argc, argv, 2, VM_SET_MACHINES_MAX + 1, "create [--require=LEVEL] [--no-quiesce] "
			   "[--pre=COMMAND] [--post=COMMAND] [--writer=SOCKET]... [--check-timeout=SECONDS] "
			   "[--freeze-timeout=SECONDS] [--output=json] NAME... SNAPSHOT", &o);

	if (status != EXIT_DONE)
		return status;
	o.set.snapshot = argv[argc - 1];
	for (; status == EXIT_DONE && optind < argc - 1; optind++) {
		m[count].name = argv[optind];
		if (vm_client_open(m[count].name, &m[count].client, &err) < 0)
			status = vm_fail(EXIT_FAILED, "%s", sp_err_text(&err));
		else
			count++;
	}
	if (status == EXIT_DONE) {
		status = vm_set_create(&o.set, m, count, &err) < 0 ? EXIT_FAILED : EXIT_DONE;
		print_results(&o, m, count);
	}
	for (unsigned i = 0; i < count; i++) {
		vm_client_close(m[i].client);
		json_object_put(m[i].result);
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
	printf("%-24s %-20s %-12s %5zu  %s\n", vm_json_text(s, "name"), when, vm_json_text(s, "level"),
	       json_object_array_length(disks), vm_json_text(s, "parent"));
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
	double total = atof(vm_json_text(job, "total-progress")), done = atof(vm_json_text(job, "current-progress"));

	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\r%3.0f %%", total > 0 ? done * 100 / total : 0);
}

static int wait_deletion(struct vm_client *c, bool json)
{
	struct sp_err err = { 0 };
	json_object *job = NULL;
	int r = vm_client_wait_deletion(c, print_progress, &job, &err);

	if (job && isatty(STDERR_FILENO))
		fputc('\n', stderr);
	if (r < 0)
		vm_fail(EXIT_FAILED, "%s", sp_err_text(&err));
	if (json && job)
		print_json(job);
	json_object_put(job);
	return r < 0 ? EXIT_FAILED : EXIT_DONE;
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
	if (vm_client_delete_snapshot(c, argv[optind + 1], o.rate, &err) < 0)
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
		vm_json_add_text(arguments, "id", "snapshot-delete");
		r = vm_client_call(c, "job-cancel", arguments, NULL, &err);
		vm_client_close(c);
	}
	return r < 0 ? vm_fail(EXIT_FAILED, "%s", sp_err_text(&err)) : EXIT_DONE;
}

/* ---- recover ------------------------------------------------------------------------------------------ */

static int recover(int argc, char **argv)
{
	return argc == 1 ? EXIT_DONE : vm_usage("snapshot", "recover");
}

/* What a killed requester left frozen comes before everything else. */
static int pay_first(void)
{
	struct sp_err err = { 0 };

	return vm_set_recover(say, &err) < 0 ? vm_fail(EXIT_FAILED, "%s", sp_err_text(&err)) : EXIT_DONE;
}

int vm_snapshot(int argc, char **argv)
{
	static const struct { const char *name; int (*run)(int argc, char **argv); } verbs[] = {
		{ "create", create }, { "list", list }, { "delete", delete }, { "cancel", cancel },
		{ "revert", vm_snapshot_revert }, { "recover", recover },
	};

	for (unsigned i = 0; argc > 1 && i < SP_ARRAY_SIZE(verbs); i++)
		if (strcmp(argv[1], verbs[i].name) == 0)
			return pay_first() == EXIT_DONE ? verbs[i].run(argc - 1, argv + 1) : EXIT_FAILED;
	return vm_usage("snapshot", "create|list|delete|cancel|revert|recover ...");
}
