/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmbus/socket_server.h"

static int bind_to(int fd, const struct sockaddr_un *a)
{
	return bind(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 ? -errno : 0;
}

/* Somebody answers, or it is no socket at all: then it stays. */
static bool is_left_over(const struct sockaddr_un *a)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat st;
	bool dead;

	if (fd < 0)
		return false;
	dead = connect(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 && errno == ECONNREFUSED;
	close(fd);
	return dead && lstat(a->sun_path, &st) == 0 && S_ISSOCK(st.st_mode);
}

int vmbus_socket_listen(const char *path, int *ret_fd, struct sp_err *err)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd, r;

	if (!*path || strlen(path) >= sizeof(a.sun_path))
		return sp_err_set(err, -ENAMETOOLONG, "%s: the name of a socket has 1 to %zu bytes", path,
				  sizeof(a.sun_path) - 1);
	memcpy(a.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return sp_err_set(err, -errno, "socket: %s", strerror(errno));
	fchmod(fd, 0600);		/* before it has a name, so that there is no moment with another mode */
	r = bind_to(fd, &a);
	if (r == -EADDRINUSE && is_left_over(&a) && unlink(path) == 0)
		r = bind_to(fd, &a);
	if (r == 0 && listen(fd, 16) < 0)
		r = -errno;
	if (r < 0) {
		close(fd);
		return sp_err_set(err, r, "%s: %s", path, r == -EADDRINUSE ?
				  "is there already, and is no socket that nobody listens on" : strerror(-r));
	}
	*ret_fd = fd;
	return 0;
}
