/* SPDX-License-Identifier: BSD-2-Clause */
/* "console": the terminal here, the guest's serial port there. */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>
#include <fcntl.h>

#include "vmm/spindle_vm.h"

#define LEAVE 0x1d		/* Ctrl-] */

static int connect_unix(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(a.sun_path))
		return -1;
	strcpy(a.sun_path, path);
	return fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 ? fd : -1;
}

static int connect_tcp(const char *where)
{
	const char *port = strrchr(where, ':');
	struct sockaddr_in a = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons((uint16_t)atoi(port ? port + 1 : where)),
	};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 ? fd : -1;
}

static int connect_console(const char *where)
{
	if (strncmp(where, "unix:", 5) == 0)
		return connect_unix(where + 5);
	if (strncmp(where, "tcp:", 4) == 0)
		return connect_tcp(where + 4);
	if (strncmp(where, "pty:", 4) == 0)
		return open(where + 4, O_RDWR | O_NOCTTY | O_CLOEXEC);
	errno = ENOTSUP;
	return -1;
}

static bool copy(int from, int to, bool *ret_leave)
{
	char buf[4096], *leave;
	ssize_t n = read(from, buf, sizeof(buf));

	if (n <= 0)
		return false;
	leave = ret_leave ? memchr(buf, LEAVE, (size_t)n) : NULL;
	if (leave) {
		*ret_leave = true;
		n = leave - buf;
	}
	return n == 0 || write(to, buf, (size_t)n) == n;
}

static void converse(int fd)
{
	struct pollfd p[2] = { { .fd = fd, .events = POLLIN }, { .fd = STDIN_FILENO, .events = POLLIN } };
	bool leave = false;

	while (!leave && poll(p, 2, -1) >= 0) {
		if (p[0].revents && !copy(fd, STDOUT_FILENO, NULL))
			break;
		if (p[1].revents && !copy(STDIN_FILENO, fd, &leave))
			p[1].fd = -1;	/* no more input; the guest may have more to say */
	}
}

static void converse_raw(int fd)
{
	struct termios saved, raw;
	bool terminal = tcgetattr(STDIN_FILENO, &saved) == 0;

	if (terminal) {
		raw = saved;
		cfmakeraw(&raw);
		tcsetattr(STDIN_FILENO, TCSANOW, &raw);
		fputs("connected; leave with Ctrl-]\r\n", stderr);
	}
	converse(fd);
	if (terminal)
		tcsetattr(STDIN_FILENO, TCSANOW, &saved);
}

int vm_console(int argc, char **argv)
{
	struct sp_err err = { 0 };
	struct vm_client *c;
	json_object *o = NULL, *where;
	int fd, r;

	if (argc != 2 || argv[1][0] == '-')
		return vm_usage("console", "NAME");
	r = vm_client_open(argv[1], &c, &err);
	if (r == 0) {
		r = vm_client_call(c, "spindle-status", NULL, &o, &err);
		vm_client_close(c);
	}
	if (r < 0)
		return vm_fail(EXIT_FAILED, "%s", sp_err_text(&err));
	json_object_object_get_ex(o, "console", &where);
	fd = connect_console(json_object_get_string(where));
	if (fd < 0)
		r = vm_fail(EXIT_FAILED, "console %s: %s; a machine started with --serial unix:PATH can be reached",
			    json_object_get_string(where), strerror(errno));
	else
		converse_raw(fd);
	if (fd >= 0)
		close(fd);
	json_object_put(o);
	return fd < 0 ? r : EXIT_DONE;
}
