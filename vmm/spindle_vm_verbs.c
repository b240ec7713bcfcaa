/* SPDX-License-Identifier: BSD-2-Clause */
/* Verbs that ask a running machine: each a question to its control socket and a way to show the answer. */
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/config_int.h"
#include "vmm/spindle_vm.h"

#define STOP_MS_DEFAULT 120000

/* ---- options that several verbs have ------------------------------------------------------------------ */

struct common {
	bool json, force, reboot;
	unsigned watch_s, timeout_ms;
	const char *iops, *bps, *disk, *dvd;
};

enum { OPT_OUTPUT = 256, OPT_FORCE, OPT_REBOOT, OPT_WATCH, OPT_TIMEOUT, OPT_DISK, OPT_DVD, OPT_IOPS, OPT_BPS,
       OPT_HELP };

static const struct option options[] = {
	{ "output", required_argument, NULL, OPT_OUTPUT },
	{ "force", no_argument, NULL, OPT_FORCE },
	{ "reboot", no_argument, NULL, OPT_REBOOT },
	{ "watch", optional_argument, NULL, OPT_WATCH },
	{ "timeout", required_argument, NULL, OPT_TIMEOUT },
	{ "disk", required_argument, NULL, OPT_DISK },
	{ "dvd", required_argument, NULL, OPT_DVD },
	{ "iops", required_argument, NULL, OPT_IOPS },
	{ "bps", required_argument, NULL, OPT_BPS },
	{ "help", no_argument, NULL, OPT_HELP },
	{ 0 },
};

static int seconds_option(unsigned *at, const char *text)
{
	uint64_t n = 0;
	int r = vmm_config_number(text, 1000000, &n);

	*at = (unsigned)n;
	return r == 0 && n == 0 ? -EINVAL : r;
}

static int set_option(struct common *c, int option)
{
	int r;

	switch (option) {
	case OPT_OUTPUT:
		c->json = strcmp(optarg, "json") == 0;
		return c->json || strcmp(optarg, "human") == 0 ? 0 : -EINVAL;
	case OPT_FORCE:
		c->force = true;
		return 0;
	case OPT_REBOOT:
		c->reboot = true;
		return 0;
	case OPT_DISK:
		c->disk = optarg;
		return 0;
	case OPT_DVD:
		c->dvd = optarg;
		return 0;
	case OPT_WATCH:
		return seconds_option(&c->watch_s, optarg ? optarg : "1");
	case OPT_TIMEOUT:
		r = seconds_option(&c->timeout_ms, optarg);
		c->timeout_ms *= 1000;
		return r;
	case OPT_IOPS:
		c->iops = optarg;
		return 0;
	case OPT_BPS:
		c->bps = optarg;
		return 0;
	default:
		return -EINVAL;
	}
}

/* @words: how many arguments there must be; they begin at argv[optind]. */
static int parse(int argc, char **argv, int words, const char *synopsis, struct common *ret)
{
	int option;

	*ret = (struct common){ .timeout_ms = STOP_MS_DEFAULT };
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == OPT_HELP) {
			printf("usage: spindle-vm %s %s\n", argv[0], synopsis);
			exit(EXIT_DONE);
		}
		if (set_option(ret, option) < 0)
			return vm_usage(argv[0], synopsis);
	}
	return argc - optind == words ? EXIT_DONE : vm_usage(argv[0], synopsis);
}

static int failed(const struct sp_err *err)
{
	return vm_fail(EXIT_FAILED, "%s", sp_err_text(err));
}

/* One question, one answer: the answer is the caller's, when it wants it. */
static int ask(const char *machine, const char *command, json_object *arguments, json_object **ret)
{
	struct sp_err err = { 0 };
	struct vm_client *c;
	int r = vm_client_open(machine, &c, &err);

	if (r < 0) {
		json_object_put(arguments);
		return failed(&err);
	}
	r = vm_client_call(c, command, arguments, ret, &err);
	vm_client_close(c);
	return r < 0 ? failed(&err) : EXIT_DONE;
}

static json_object *arguments_with(const char *key, const char *value)
{
	json_object *o = json_object_new_object();

	vm_json_add_text(o, key, value);
	return o;
}

static void print_json(json_object *o)
{
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
}

static const char *text_at(json_object *o, const char *key)
{
	json_object *value;

	return json_object_object_get_ex(o, key, &value) && value ? json_object_get_string(value) : "-";
}

/* ---- status, list ------------------------------------------------------------------------------------- */

static void print_services(json_object *status)
{
	json_object *services;

	if (!json_object_object_get_ex(status, "services", &services))
		return;
	json_object_object_foreach(services, name, service)
		printf("%-10s  %s\n", name, text_at(service, "state"));
}

static void print_status(json_object *o)
{
	json_object *vmbus;

	printf("name        %s\n", text_at(o, "name"));
	printf("state       %s\n", text_at(o, "status"));
	printf("memory      %s MiB\n", text_at(o, "memory_mib"));
	printf("processors  %s\n", text_at(o, "cpus"));
	printf("console     %s\n", text_at(o, "console"));
	if (json_object_object_get_ex(o, "vmbus", &vmbus))
		printf("vmbus       %s\n", text_at(vmbus, "version"));
	print_services(o);
}

int vm_status(int argc, char **argv)
{
	struct common c;
	json_object *o = NULL;
	int status = parse(argc, argv, 1, "[--output=json] NAME", &c);

	if (status == EXIT_DONE)
		status = ask(argv[optind], "spindle-status", NULL, &o);
	if (status == EXIT_DONE && c.json)
		print_json(o);
	else if (status == EXIT_DONE)
		print_status(o);
	json_object_put(o);
	return status;
}

static void list_one(const char *name, json_object *list)
{
	struct sp_err err = { 0 };
	struct vm_client *c;
	json_object *o = NULL;

	if (vm_client_open(name, &c, &err) < 0)
		return;			/* a leftover: the next machine of that name removes it */
	if (vm_client_call(c, "query-status", NULL, &o, &err) == 0) {
		vm_json_add_text(o, "name", name);
		json_object_array_add(list, o);
	}
	vm_client_close(c);
}

int vm_list(int argc, char **argv)
{
	struct sp_err err = { 0 };
	struct common c;
	struct dirent *e;
	json_object *list;
	char path[80];
	DIR *dir;
	int status = parse(argc, argv, 0, "[--output=json]", &c);

	if (status != EXIT_DONE)
		return status;
	if (vm_runtime_dir(path, &err) < 0)
		return failed(&err);
	dir = opendir(path);
	if (!dir)
		return vm_fail(EXIT_FAILED, "%s: %s", path, strerror(errno));
	list = json_object_new_array();
	while ((e = readdir(dir))) {
		size_t len = strlen(e->d_name);
		char name[256];

		if (len < 6 || strcmp(e->d_name + len - 5, ".sock"))
			continue;
		snprintf(name, sizeof(name), "%.*s", (int)(len - 5), e->d_name);
		list_one(name, list);
	}
	closedir(dir);
	if (c.json)
		print_json(list);
	for (size_t i = 0; !c.json && i < json_object_array_length(list); i++) {
		json_object *o = json_object_array_get_idx(list, i);

		printf("%-24s %s\n", text_at(o, "name"), text_at(o, "status"));
	}
	json_object_put(list);
	return EXIT_DONE;
}

/* ---- stop, pause, resume, reset ----------------------------------------------------------------------- */

static int stop_and_wait(const char *name, const struct common *o)
{
	struct sp_err err = { 0 };
	json_object *arguments = json_object_new_object();
	struct vm_client *c;
	int r = vm_client_open(name, &c, &err);

	if (r < 0) {
		json_object_put(arguments);
		return failed(&err);
	}
	json_object_object_add(arguments, "reboot", json_object_new_boolean(o->reboot));
	r = vm_client_call(c, o->force ? "quit" : "system_powerdown", arguments, NULL, &err);
	if (r == 0) {
		r = vm_client_wait(c, o->reboot ? "RESET" : NULL, "POWERDOWN_REFUSED", (int)o->timeout_ms);
		if (r == 1)
			r = sp_err_set(&err, -EIO, "the guest of %s refuses; --force switches it off", name);
		else if (r < 0)
			sp_err_set(&err, r, "%s has not stopped within %u s; --force switches it off", name,
				   o->timeout_ms / 1000);
	}
	if (r == -EPIPE && !o->reboot)
		r = 0;		/* gone, be it by itself before it was asked */
	vm_client_close(c);
	return r < 0 ? failed(&err) : EXIT_DONE;
}

int vm_stop(int argc, char **argv)
{
	struct common c;
	int status = parse(argc, argv, 1, "[--force] [--reboot] [--timeout=SECONDS] NAME", &c);

	return status == EXIT_DONE ? stop_and_wait(argv[optind], &c) : status;
}

static int plain(int argc, char **argv, const char *command)
{
	struct common c;
	int status = parse(argc, argv, 1, "NAME", &c);

	return status == EXIT_DONE ? ask(argv[optind], command, NULL, NULL) : status;
}

int vm_pause(int argc, char **argv)
{
	return plain(argc, argv, "stop");
}

int vm_resume(int argc, char **argv)
{
	return plain(argc, argv, "cont");
}

int vm_reset(int argc, char **argv)
{
	return plain(argc, argv, "system_reset");
}

/* ---- disks -------------------------------------------------------------------------------------------- */

/* Relative names count from here; the machine may stand in another folder. */
static int add_folder(json_object *arguments)
{
	char *here = realpath(".", NULL);

	if (!here)
		return -errno;
	vm_json_add_text(arguments, "folder", here);
	free(here);
	return 0;
}

static int ask_from_here(const char *machine, const char *command, json_object *arguments, json_object **ret)
{
	int r = add_folder(arguments);

	if (r < 0) {
		json_object_put(arguments);
		return vm_fail(EXIT_FAILED, "this folder: %s", strerror(-r));
	}
	return ask(machine, command, arguments, ret);
}

int vm_attach(int argc, char **argv)
{
	static const char synopsis[] = "NAME --disk FILE[,KEY=VALUE...] | --dvd FILE|none[,KEY=VALUE...]";
	struct vmm_disk_config checked;
	struct sp_err err = { 0 };
	struct common c;
	json_object *arguments, *o = NULL;
	int status = parse(argc, argv, 1, synopsis, &c);

	if (status != EXIT_DONE)
		return status;
	if (!c.disk == !c.dvd)
		return vm_usage(argv[0], synopsis);
	if (vmm_disk_config_parse(&checked, c.disk ? c.disk : c.dvd, c.dvd, &err) < 0)
		return vm_fail(EXIT_USAGE, "%s", sp_err_text(&err));
	vmm_disk_config_fini(&checked);
	arguments = arguments_with("spec", c.disk ? c.disk : c.dvd);
	vm_json_add_text(arguments, "driver", c.disk ? "disk" : "dvd");
	status = ask_from_here(argv[optind], "device_add", arguments, &o);
	if (status == EXIT_DONE)
		puts(text_at(o, "device"));
	json_object_put(o);
	return status;
}

int vm_insert(int argc, char **argv)
{
	struct common c;
	json_object *arguments;
	int status = parse(argc, argv, 3, "[--force] NAME DEVICE FILE", &c);

	if (status != EXIT_DONE)
		return status;
	arguments = arguments_with("device", argv[optind + 1]);
	vm_json_add_text(arguments, "filename", argv[optind + 2]);
	json_object_object_add(arguments, "force", json_object_new_boolean(c.force));
	return ask_from_here(argv[optind], "blockdev-change-medium", arguments, NULL);
}

int vm_eject(int argc, char **argv)
{
	struct common c;
	json_object *arguments;
	int status = parse(argc, argv, 2, "[--force] NAME DEVICE", &c);

	if (status != EXIT_DONE)
		return status;
	arguments = arguments_with("device", argv[optind + 1]);
	json_object_object_add(arguments, "force", json_object_new_boolean(c.force));
	return ask(argv[optind], "eject", arguments, NULL);
}

int vm_read_only(int argc, char **argv)
{
	static const char synopsis[] = "NAME DEVICE on|off";
	struct common c;
	json_object *arguments;
	int status = parse(argc, argv, 3, synopsis, &c);
	bool on;

	if (status != EXIT_DONE)
		return status;
	on = strcmp(argv[optind + 2], "on") == 0;
	if (!on && strcmp(argv[optind + 2], "off"))
		return vm_usage(argv[0], synopsis);
	arguments = arguments_with("device", argv[optind + 1]);
	json_object_object_add(arguments, "read-only", json_object_new_boolean(on));
	return ask(argv[optind], "spindle-set-read-only", arguments, NULL);
}

int vm_detach(int argc, char **argv)
{
	struct common c;
	int status = parse(argc, argv, 2, "NAME DEVICE", &c);

	return status == EXIT_DONE ?
	       ask(argv[optind], "device_del", arguments_with("id", argv[optind + 1]), NULL) : status;
}

int vm_resize(int argc, char **argv)
{
	struct common c;
	json_object *arguments;
	uint64_t size;
	int status = parse(argc, argv, 3, "NAME DEVICE SIZE", &c);

	if (status != EXIT_DONE)
		return status;
	if (vmm_config_number(argv[optind + 2], INT64_MAX, &size) < 0)
		return vm_fail(EXIT_USAGE, "size \"%s\" is not understood", argv[optind + 2]);
	arguments = arguments_with("device", argv[optind + 1]);
	json_object_object_add(arguments, "size", json_object_new_uint64(size));
	return ask(argv[optind], "block_resize", arguments, NULL);
}

static int add_limit(json_object *arguments, const char *key, const char *text)
{
	uint64_t n;

	if (!text)
		return 0;
	if (vmm_config_number(text, INT64_MAX, &n) < 0)
		return -EINVAL;
	json_object_object_add(arguments, key, json_object_new_uint64(n));
	return 0;
}

int vm_limit(int argc, char **argv)
{
	struct common c;
	json_object *arguments;
	int status = parse(argc, argv, 2, "[--iops=N] [--bps=N] NAME DEVICE (without a number: no limit)", &c);

	if (status != EXIT_DONE)
		return status;
	arguments = arguments_with("device", argv[optind + 1]);
	if (add_limit(arguments, "iops", c.iops) < 0 || add_limit(arguments, "bps", c.bps) < 0) {
		json_object_put(arguments);
		return vm_fail(EXIT_USAGE, "a limit is a number, with k, m or g");
	}
	return ask(argv[optind], "block_set_io_throttle", arguments, NULL);
}

/* ---- statistics --------------------------------------------------------------------------------------- */

static void print_stats(json_object *list)
{
	printf("%-10s %12s %12s %14s %14s %10s\n", "device", "reads", "writes", "read bytes", "written bytes",
	       "flushes");
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		json_object *o = json_object_array_get_idx(list, i), *s;

		if (json_object_object_get_ex(o, "stats", &s))
			printf("%-10s %12s %12s %14s %14s %10s\n", text_at(o, "device"), text_at(s, "rd_operations"),
			       text_at(s, "wr_operations"), text_at(s, "rd_bytes"), text_at(s, "wr_bytes"),
			       text_at(s, "flush_operations"));
	}
	fflush(stdout);
}

int vm_stats(int argc, char **argv)
{
	struct common c;
	int status = parse(argc, argv, 1, "[--output=json] [--watch[=SECONDS]] NAME", &c);

	while (status == EXIT_DONE) {
		json_object *o = NULL;

		status = ask(argv[optind], c.json ? "spindle-stats" : "query-blockstats", NULL, &o);
		if (status == EXIT_DONE && c.json)
			print_json(o);
		else if (status == EXIT_DONE)
			print_stats(o);
		json_object_put(o);
		if (!c.watch_s)
			break;
		sleep(c.watch_s);
	}
	return status;
}
