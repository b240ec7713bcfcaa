/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The program: opens the units, listens on a port of 127.0.0.1 that the kernel chooses, says which, serves until its
 * standard input ends.
 *
 * usage: iscsi-target [--disk IMAGE | --read-only IMAGE | --dvd IMAGE]...	(LUN 0, 1, ...)
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/iscsi/target.h"

struct connection {
	struct target *target;
	int fd;
	pthread_t thread;
	struct connection *next;
};

static void *connection_thread(void *arg)
{
	struct connection *c = arg;

	session_run(c->target, c->fd);
	return NULL;
}

static int open_unit(struct target *t, const char *how, const char *path, struct vhd_disk **ret_disk)
{
	bool disk = strcmp(how, "--disk") == 0, dvd = strcmp(how, "--dvd") == 0;
	struct vhd_open_opts open = { .flags = disk ? VHD_OPEN_WRITE : 0,
				      .format = dvd ? VHD_FORMAT_RAW : VHD_FORMAT_AUTO };
	struct scsi_lu_opts opts = { .kind = dvd ? SCSI_DVD : SCSI_DISK, .read_only = !disk };
	struct sp_err err = { 0 };
	int r;

	if (!disk && !dvd && strcmp(how, "--read-only") != 0) {
		fprintf(stderr, "iscsi-target: %s is no option\n", how);
		return -EINVAL;
	}
	r = vhd_disk_open(path, &open, ret_disk, &err);
	if (r == 0)
		r = scsi_backend_disk(*ret_disk, &opts.backend);
	memset(&opts.identity, 0x40 + (int)t->units, sizeof(opts.identity));
	if (r == 0)
		r = scsi_lu_new(&opts, &t->unit[t->units].lu, &err);
	if (r < 0)
		fprintf(stderr, "iscsi-target: %s: %s\n", path, sp_err_text(&err));
	else
		t->units++;
	return r;
}

static int listen_local(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, 16) < 0 ||
	    getsockname(fd, (struct sockaddr *)&at, &len) < 0) {
		perror("iscsi-target");
		return -1;
	}
	printf("%u\n", ntohs(at.sin_port));
	fflush(stdout);
	return fd;
}

/* Accepts until standard input ends; then ends what is connected. */
static void serve(struct target *t, int listener)
{
	struct pollfd p[2] = { { .fd = listener, .events = POLLIN }, { .fd = 0, .events = POLLIN } };
	struct connection *all = NULL;

	while (poll(p, 2, -1) > 0 && p[1].revents == 0) {
		struct connection *c = calloc(1, sizeof(*c));

		if (!c)
			break;
		*c = (struct connection){ t, accept4(listener, NULL, NULL, SOCK_CLOEXEC), 0, all };
		if (c->fd < 0 || pthread_create(&c->thread, NULL, connection_thread, c) != 0) {
			perror("iscsi-target");
			free(c);
			break;
		}
		all = c;
	}
	while (all) {
		struct connection *c = all;

		all = c->next;
		pthread_join(c->thread, NULL);
		free(c);
	}
}

int main(int argc, char **argv)
{
	static struct target t = { .lock = PTHREAD_MUTEX_INITIALIZER };
	struct vhd_disk *disk[TARGET_UNITS] = { 0 };
	int status = EXIT_SUCCESS, listener = -1;

	for (int i = 1; i + 1 < argc && t.units < TARGET_UNITS && status == EXIT_SUCCESS; i += 2)
		if (open_unit(&t, argv[i], argv[i + 1], &disk[t.units]) < 0)
			status = EXIT_FAILURE;
	if (status == EXIT_SUCCESS)
		listener = listen_local();
	if (listener >= 0)
		serve(&t, listener);
	else
		status = EXIT_FAILURE;
	for (unsigned i = 0; i < TARGET_UNITS; i++) {
		scsi_lu_free(t.unit[i].lu);
		if (disk[i] && vhd_disk_close(disk[i], NULL) < 0)
			status = EXIT_FAILURE;
	}
	if (listener >= 0)
		close(listener);
	return status;
}
