/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The kinds of other ends a console can have: one function each to open it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "base/alloc.h"
#include "vmm/serial_backend_int.h"

/* ---- the terminal ---------------------------------------------------------------------------------- */

/* There is one per process, and whoever ends the process wants it back as it was. Main thread only. */
static struct termios terminal_before;
static bool terminal_raw, stdio_taken;

static void terminal_restore(void)
{
	if (terminal_raw)
		tcsetattr(STDIN_FILENO, TCSAFLUSH, &terminal_before);
	terminal_raw = false;
}

static void terminal_make_raw(void)
{
	static bool registered;
	struct termios t;

	if (tcgetattr(STDIN_FILENO, &terminal_before) < 0)
		return;
	if (!registered && atexit(terminal_restore) != 0)
		return;			/* rather cooked than lost */
	registered = true;
	t = terminal_before;
	cfmakeraw(&t);
	t.c_oflag = terminal_before.c_oflag;	/* our own messages keep their line ends */
	terminal_raw = tcsetattr(STDIN_FILENO, TCSAFLUSH, &t) == 0;
}

static int dup_of(int fd)
{
	int r = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	return r < 0 ? -errno : r;
}

/*
 * Writing must not wait, but O_NONBLOCK belongs to an open file, which standard output shares with others: a pipe or a
 * terminal is opened anew. A regular file is not, as the new one would begin at its start; it never waits for long.
 */
static int stdout_nonblocking(void)
{
	struct stat st;
	int fd;

	if (fstat(STDOUT_FILENO, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode))) {
		fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (fd >= 0)
			return fd;
	}
	return dup_of(STDOUT_FILENO);
}

static int open_stdio(const char *rest, struct serial_ends *e, struct sp_err *err)
{
	if (stdio_taken)
		return sp_err_set(err, -EBUSY, "standard input and output serve another console already");
	e->in = dup_of(STDIN_FILENO);	/* closed by who started us: no input then */
	e->out = stdout_nonblocking();
	if (e->in < 0)
		e->in = -1;
	if (e->out < 0)
		e->out = -1;
	stdio_taken = e->escape = e->raw = true;
	if (isatty(STDIN_FILENO))
		terminal_make_raw();
	snprintf(e->name, sizeof(e->name), "stdio");
	return 0;
}

/* ---- sockets --------------------------------------------------------------------------------------- */

static int listen_on(int fd, const struct sockaddr *address, socklen_t len, struct sp_err *err)
{
	if (bind(fd, address, len) < 0 || listen(fd, 4) < 0)
		return sp_err_set(err, -errno, "cannot listen: %s", strerror(errno));
	return 0;
}

/* A socket file nobody listens at is what a killed process left. */
static bool is_stale(const struct sockaddr_un *address)
{
	struct stat st;
	bool refused;
	int fd;

	if (lstat(address->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	refused = connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 && errno == ECONNREFUSED;
	close(fd);
	return refused;
}

static char *realpath_of(const char *path)
{
	char *real = realpath(path, NULL), *ours = sp_strdup(real ? real : path);

	free(real);
	return ours;
}

static int open_unix(const char *path, struct serial_ends *e, struct sp_err *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int r;

	if (strlen(path) >= sizeof(address.sun_path))
		return sp_err_set(err, -EINVAL, "\"%s\" is too long for a socket: at most %zu bytes", path,
				  sizeof(address.sun_path) - 1);
	memcpy(address.sun_path, path, strlen(path));
	e->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (e->listener < 0)
		return sp_err_set(err, -errno, "socket: %s", strerror(errno));
	fchmod(e->listener, 0600);	/* before bind() this becomes the mode of the file: a console is a root shell */
	if (is_stale(&address))
		unlink(path);
	r = listen_on(e->listener, (const struct sockaddr *)&address, sizeof(address), err);
	if (r < 0)
		return r;
	e->unlink = realpath_of(path);
	if (!e->unlink)
		return -ENOMEM;
	snprintf(e->name, sizeof(e->name), "unix:%s", e->unlink);	/* for who stands in another folder */
	return 0;
}

static int parse_port(const char *text, uint16_t *ret_port)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || value > UINT16_MAX)
		return -EINVAL;
	*ret_port = (uint16_t)value;
	return 0;
}

static int open_tcp(const char *rest, struct serial_ends *e, struct sp_err *err)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(address);
	uint16_t port = 0;
	int r, one = 1;

	parse_port(rest, &port);	/* has been checked */
	address.sin_port = htons(port);
	e->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (e->listener < 0)
		return sp_err_set(err, -errno, "socket: %s", strerror(errno));
	setsockopt(e->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	r = listen_on(e->listener, (const struct sockaddr *)&address, sizeof(address), err);
	if (r < 0)
		return r;
	if (getsockname(e->listener, (struct sockaddr *)&address, &len) < 0)
		return sp_err_set(err, -errno, "getsockname: %s", strerror(errno));
	snprintf(e->name, sizeof(e->name), "tcp:127.0.0.1:%u", ntohs(address.sin_port));
	return 0;
}

/* ---- pseudo terminal, file, nothing ---------------------------------------------------------------- */

/* Our own descriptor of the slave stays open: without any, the master reports a hang-up for ever. */
static int open_pty(const char *rest, struct serial_ends *e, struct sp_err *err)
{
	struct termios t;
	char slave[64];
	int r;

	e->in = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (e->in < 0 || grantpt(e->in) < 0 || unlockpt(e->in) < 0)
		return sp_err_set(err, -errno, "cannot make a pseudo terminal: %s", strerror(errno));
	r = ptsname_r(e->in, slave, sizeof(slave));
	if (r != 0)
		return sp_err_set(err, -r, "ptsname: %s", strerror(r));
	e->keep = open(slave, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (e->keep < 0 || tcgetattr(e->keep, &t) < 0)
		return sp_err_set(err, -errno, "%s: %s", slave, strerror(errno));
	cfmakeraw(&t);
	tcsetattr(e->keep, TCSANOW, &t);
	e->out = dup_of(e->in);
	snprintf(e->name, sizeof(e->name), "pty:%s", slave);
	return e->out < 0 ? sp_err_set(err, e->out, "%s: %s", slave, strerror(-e->out)) : 0;
}

static int open_file(const char *path, struct serial_ends *e, struct sp_err *err)
{
	e->out = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOCTTY | O_NONBLOCK | O_CLOEXEC, 0600);
	if (e->out < 0)
		return sp_err_set(err, -errno, "%s: %s", path, strerror(errno));
	snprintf(e->name, sizeof(e->name), "file:%s", path);
	return 0;
}

static int open_none(const char *rest, struct serial_ends *e, struct sp_err *err)
{
	snprintf(e->name, sizeof(e->name), "none");
	return 0;
}

/* ---- by name --------------------------------------------------------------------------------------- */

enum rest { REST_NONE, REST_PATH, REST_PORT };

static const struct kind {
	const char *name;
	enum rest rest;			/* what follows after a colon */
	int (*open)(const char *rest, struct serial_ends *e, struct sp_err *err);
} kinds[] = {
	{ "stdio", REST_NONE, open_stdio }, { "unix", REST_PATH, open_unix }, { "tcp", REST_PORT, open_tcp },
	{ "pty", REST_NONE, open_pty },	    { "file", REST_PATH, open_file }, { "none", REST_NONE, open_none },
	{ "null", REST_NONE, open_none },
};

static bool rest_ok(enum rest kind, const char *rest)
{
	uint16_t port;

	switch (kind) {
	case REST_NONE: return !rest;
	case REST_PATH: return rest && *rest;
	default:	return rest && parse_port(rest, &port) == 0;
	}
}

static const struct kind *parse(const char *spec, const char **ret_rest)
{
	const char *colon = strchr(spec, ':');
	size_t len = colon ? (size_t)(colon - spec) : strlen(spec);

	*ret_rest = colon ? colon + 1 : NULL;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (strlen(kinds[i].name) == len && memcmp(kinds[i].name, spec, len) == 0)
			return rest_ok(kinds[i].rest, *ret_rest) ? &kinds[i] : NULL;
	return NULL;
}

static int bad_spec(const char *spec, struct sp_err *err)
{
	return sp_err_set(err, -EINVAL, "\"%s\" is no console: expected stdio, unix:PATH, tcp:PORT, pty, file:PATH "
			  "or none", spec);
}

int vmm_serial_spec_check(const char *spec, struct sp_err *err)
{
	const char *rest;

	return parse(spec, &rest) ? 0 : bad_spec(spec, err);
}

int serial_ends_open(const char *spec, struct serial_ends *ret_ends, struct sp_err *err)
{
	struct serial_ends e = { .in = -1, .out = -1, .listener = -1, .keep = -1 };
	const char *rest;
	const struct kind *kind = parse(spec, &rest);
	int r;

	if (!kind)
		return bad_spec(spec, err);
	r = kind->open(rest, &e, err);
	if (r < 0) {
		serial_ends_close(&e);
		return sp_err_prefix(err, r, "console %s", spec);
	}
	*ret_ends = e;
	return 0;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void serial_ends_close(struct serial_ends *e)
{
	close_fd(&e->in);
	close_fd(&e->out);
	close_fd(&e->listener);
	close_fd(&e->keep);
	if (e->raw) {
		terminal_restore();
		stdio_taken = false;
	}
	if (e->unlink)
		unlink(e->unlink);
	sp_free(e->unlink);
	e->unlink = NULL;
}
