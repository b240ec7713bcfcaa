/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A writer on the host (vss/writer.h) against requesters that say what the input says: in any order, too much, too
 * little, several at once, gone in the middle. Whatever they do, each freeze of the application has one thaw.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/hostile_guest/guest.h"
#include "vss/wire.h"
#include "vss/writer.h"

#define CLIENTS 10u			/* more than a writer takes */
#define STEPS	300u

uint64_t requester_messages;

struct stage {
	struct input *in;
	struct vss_host *host;
	struct sockaddr_un address;
	int client[CLIENTS];
	bool held;			/* the application, from the beginning of its freeze to its thaw */
	bool slept;
};

/* ---- the application ------------------------------------------------------------------------------------ */

static int app_check(void *ctx, const char *snapshot, const char **ret_why)
{
	struct stage *s = ctx;

	session_check(memchr(snapshot, 0, VSS_WIRE_TEXT), "a name without end");
	return input_chance(s->in, 4) ? -EBUSY : 0;
}

static int app_freeze(void *ctx, unsigned window_ms, const char **ret_why)
{
	struct stage *s = ctx;

	session_check(!s->held, "frozen twice");
	session_check(window_ms > 0, "no window");
	s->held = true;
	switch (input_below(s->in, 4)) {
	case 0:
		return VSS_HOST_LATER;
	case 1:
		*ret_why = "not now";
		return -EBUSY;
	default:
		return 0;
	}
}

static void app_thaw(void *ctx)
{
	struct stage *s = ctx;

	session_check(s->held, "thawed without a freeze");
	s->held = false;
}

static void app_complete(void *ctx, bool good)
{
}

static const struct vss_host_ops app_ops = {
	.check = app_check, .freeze = app_freeze, .thaw = app_thaw, .complete = app_complete,
};

/* ---- requesters ----------------------------------------------------------------------------------------- */

static void connect_one(struct stage *s, int *fd)
{
	*fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	session_check(*fd >= 0, "socket");
	if (connect(*fd, (struct sockaddr *)&s->address, sizeof(s->address)) < 0) {
		close(*fd);		/* its backlog is full */
		*fd = -1;
	}
}

static void close_one(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static uint32_t some_window(struct stage *s)
{
	static const uint32_t windows[] = { 60000, 1000, 1, 900000, 900001, 0 };

	return input_chance(s->in, 8) ? (uint32_t)input_number(s->in) : windows[input_below(s->in, 6)];
}

static void send_one(struct stage *s, int fd)
{
	uint8_t bytes[2 * sizeof(struct vss_wire)] = { 0 };
	size_t len = input_chance(s->in, 32) ? input_below(s->in, sizeof(bytes)) : sizeof(struct vss_wire);
	struct vss_wire m;

	vss_wire_make(&m, (enum vss_wire_type)(input_chance(s->in, 16) ? input_below(s->in, 12) :
					       (uint32_t[]){ 2, 4, 4, 7, 9 }[input_below(s->in, 5)]),
		      input_below(s->in, 4), some_window(s), "snapshot");
	memcpy(bytes, &m, sizeof(m));
	if (input_chance(s->in, 32))
		bytes[input_below(s->in, sizeof(m))] ^= (uint8_t)(1u << input_below(s->in, 8));
	if (input_chance(s->in, 32))
		memset(bytes + offsetof(struct vss_wire, text), 'x', sizeof(m.text));	/* without end */
	requester_messages++;
	if (fd >= 0 && send(fd, bytes, len, MSG_NOSIGNAL) < 0)
		session_check(errno == EPIPE || errno == EAGAIN || errno == ECONNRESET, "send: %s", strerror(errno));
}

static void read_answers(int fd)
{
	struct vss_wire m;
	ssize_t n;

	while (fd >= 0 && (n = recv(fd, &m, sizeof(m), MSG_TRUNC)) > 0)
		session_check(vss_wire_check(&m, (size_t)n) == 0, "an answer that is none");
}

static void let_time_pass(struct stage *s)
{
	if (!s->slept)			/* once a session: the shortest window ends */
		usleep(1500);
	s->slept = true;
}

static void step(struct stage *s)
{
	int *fd = &s->client[input_below(s->in, CLIENTS)];

	switch (input_below(s->in, 16)) {
	case 0:
		close_one(fd);
		break;
	case 1:
		let_time_pass(s);
		break;
	case 2:
		read_answers(*fd);
		break;
	case 3 ... 4:
		vss_host_frozen(s->host, input_chance(s->in, 2) ? 0 : -EIO, NULL);
		break;
	case 5 ... 8:
		vss_host_process(s->host);
		session_check(vss_host_is_frozen(s->host) == s->held, "frozen, and does not know");
		break;
	default:
		if (*fd < 0)
			connect_one(s, fd);
		else
			send_one(s, *fd);
	}
}

/* All that was said and all that have gone, also those that were never let in. */
static void process_all(struct stage *s)
{
	struct pollfd p = { .fd = vss_host_fd(s->host), .events = POLLIN };

	while (poll(&p, 1, 0) > 0)
		vss_host_process(s->host);
}

void requester_run(struct input *in)
{
	struct stage s = { .in = in, .address = { .sun_family = AF_UNIX } };
	struct sp_err err = { 0 };

	snprintf(s.address.sun_path, sizeof(s.address.sun_path), "/tmp/hostile-requester-%d", (int)getpid());
	for (unsigned i = 0; i < CLIENTS; i++)
		s.client[i] = -1;
	session_check(vss_host_new(s.address.sun_path, "app", VSS_APPLICATION, &app_ops, &s, &s.host, &err) == 0, "%s",
		      sp_err_text(&err));
	for (unsigned i = 0; i < STEPS && !input_ended(in); i++)
		step(&s);
	for (unsigned i = 0; i < CLIENTS; i++)
		close_one(&s.client[i]);
	if (input_chance(in, 2)) {
		process_all(&s);
		session_check(!s.held, "still frozen, and everybody has gone");
	}
	vss_host_free(s.host);
	session_check(!s.held, "still frozen at the end");
}
