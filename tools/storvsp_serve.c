/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * storvsp-serve [--socket PATH] [--disk FILE[,KEY=VALUE]...]... [--null SIZE] [--poll-us N]
 *
 * One controller, "scsi0", until SIGTERM or SIGINT.
 */
#include "tools/storvsp_serve.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/size.h"
#include "vmbus/socket_server.h"

#define SUBCHANNELS_MAX 63u
#define EXIT_USAGE 2

struct serve {
	const char *socket;
	char *socket_default;
	unsigned poll_us;
	struct serve_disk disk[STORVSP_LUNS];
	unsigned disks, open;
	struct storvsp *controller;
	struct vmbus_socket_server *server;
};

/* ---- options ------------------------------------------------------------------------------------- */

static int add_disk(struct serve *s, const struct serve_disk *d, struct sp_err *err)
{
	if (s->disks == STORVSP_LUNS)
		return sp_err_set(err, -EMFILE, "a controller has %u units", STORVSP_LUNS);
	s->disk[s->disks++] = *d;
	return 0;
}

static int disk_option(void *target, const char *value, struct sp_err *err)
{
	struct serve_disk d;
	int r = serve_disk_parse(&d, value, err);

	if (r < 0)
		return r;
	r = add_disk(target, &d, err);
	if (r < 0)
		sp_free(d.path);
	return r;
}

static int null_option(void *target, const char *value, struct sp_err *err)
{
	struct serve_disk d = { .lun = -1 };

	if (tool_size_parse(value, &d.null_size) < 0 || d.null_size == 0)
		return sp_err_set(err, -EINVAL, "\"%s\" is not a size (a number and K, M, G or T)", value);
	return add_disk(target, &d, err);
}

static bool lun_taken(const struct serve *s, int lun, unsigned but)
{
	for (unsigned i = 0; i < s->disks; i++)
		if (i != but && s->disk[i].lun == lun)
			return true;
	return false;
}

static int choose_luns(struct serve *s, struct sp_err *err)
{
	for (unsigned i = 0; i < s->disks; i++) {
		struct serve_disk *d = &s->disk[i];

		if (d->lun >= 0 && lun_taken(s, d->lun, i))
			return sp_err_set(err, -EEXIST, "two disks have lun=%d", d->lun);
		for (int lun = 0; d->lun < 0; lun++)
			if (!lun_taken(s, lun, i))
				d->lun = lun;
	}
	return 0;
}

static int choose_socket(struct serve *s, struct sp_err *err)
{
	const char *folder = getenv("XDG_RUNTIME_DIR");

	if (s->socket)
		return 0;
	if (!folder || !*folder)
		return sp_err_set(err, -EINVAL, "where? Give --socket=PATH, as XDG_RUNTIME_DIR is not set");
	s->socket = s->socket_default = sp_asprintf("%s/storvsp.sock", folder);
	return s->socket ? 0 : sp_err_set(err, -ENOMEM, "out of memory");
}

/* ---- service ------------------------------------------------------------------------------------- */

static int open_controller(struct serve *s, struct sp_err *err)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct storvsp_opts o = {
		.name = "scsi0", .poll_us = s->poll_us,
		.max_subchannels = cpus > 1 ? (unsigned)sp_min((uint64_t)cpus - 1, SUBCHANNELS_MAX) : 0,
	};
	int r = storvsp_new(&o, &s->controller, err);

	for (; r == 0 && s->open < s->disks; s->open++)
		r = serve_disk_open(&s->disk[s->open], s->controller, err);
	return r;
}

static int open_socket(struct serve *s, struct sp_err *err)
{
	int fd, r = vmbus_socket_listen(s->socket, &fd, err);

	if (r == 0) {
		r = vmbus_socket_server_new(fd, &s->server, err);
		if (r < 0)
			unlink(s->socket);
	}
	if (r < 0)
		return r;
	r = vmbus_socket_server_offer(s->server, storvsp_offer(s->controller));
	if (r == 0)
		r = vmbus_socket_server_start(s->server);
	return r < 0 ? sp_err_set(err, r, "%s: %s", s->socket, strerror(-r)) : 0;
}

static int wait_for_end(const struct serve *s, const sigset_t *signals)
{
	int number;

	printf("storvsp-serve: %u %s on %s\n", s->disks, s->disks == 1 ? "disk" : "disks", s->socket);
	fflush(stdout);
	return -sigwait(signals, &number);
}

/* Connections, units, disks: each before what it stands on. */
static int close_all(struct serve *s)
{
	struct sp_err err;
	int status = EXIT_SUCCESS;

	if (s->server) {
		vmbus_socket_server_free(s->server);
		unlink(s->socket);
	}
	if (s->controller)
		storvsp_free(s->controller);
	for (unsigned i = 0; i < s->disks; i++) {
		err = (struct sp_err){ 0 };
		if (serve_disk_close(&s->disk[i], &err) < 0) {
			fprintf(stderr, "storvsp-serve: %s\n", sp_err_text(&err));
			status = EXIT_FAILURE;
		}
	}
	sp_free(s->socket_default);
	return status;
}

static int run(struct serve *s, struct sp_err *err)
{
	sigset_t signals;
	int r;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	sigprocmask(SIG_BLOCK, &signals, NULL);		/* before there are threads */
	signal(SIGPIPE, SIG_IGN);
	r = choose_luns(s, err);
	if (r == 0)
		r = choose_socket(s, err);
	if (r == 0)
		r = open_controller(s, err);
	if (r == 0)
		r = open_socket(s, err);
	return r < 0 ? r : wait_for_end(s, &signals);
}

int main(int argc, char **argv)
{
	static const struct tool_verb verb = {
		.name = "storvsp-serve", .args = "", .usage_exit = EXIT_USAGE,
		.help = "Serves disks to clients on this host, over VMBus rings behind a socket.",
	};
	static struct serve s;
	const struct tool_opt options[] = {
		{ 0, "socket", "PATH", "where to listen (default: storvsp.sock in $XDG_RUNTIME_DIR)", TOOL_TEXT,
		  &s.socket },
		{ 0, "disk", "FILE[,KEY=VALUE...]", "an image or a device; lun=N, ro, format=FMT, iops=N, bps=N",
		  TOOL_CALL, &s, disk_option },
		{ 0, "null", "SIZE", "a disk that keeps nothing, to measure with", TOOL_CALL, &s, null_option },
		{ 0, "poll-us", "N", "look at the rings so long after the last work (default: adaptive)",
		  TOOL_NUMBER, &s.poll_us },
		TOOL_OPTS_END,
	};
	struct sp_err err = { 0 };
	int n, status;

	tool_set_command("storvsp-serve");
	n = tool_parse(&verb, options, argc, argv, 0, 0);
	if (n < 0)
		return tool_parse_exit(&verb, n);
	if (s.disks == 0) {
		fprintf(stderr, "storvsp-serve: nothing to serve\nTry: storvsp-serve --help\n");
		return EXIT_USAGE;
	}
	n = run(&s, &err);
	if (n < 0)
		fprintf(stderr, "storvsp-serve: %s\n", sp_err_text(&err));
	status = close_all(&s);
	return n < 0 ? EXIT_FAILURE : status;
}
