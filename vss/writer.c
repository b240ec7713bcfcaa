/* SPDX-License-Identifier: BSD-2-Clause */
#include "vss/writer.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/env.h"
#include "base/seed.h"
#include "vss/wire.h"

#define CONNECTIONS_MAX 8u
#define WINDOW_MAX_MS	900000u
#define NS_PER_MS	1000000ull

/* Each descriptor in the epoll set has an event source. */
enum source_kind { SOURCE_LISTENER, SOURCE_TIMER, SOURCE_CONNECTION };
struct source { enum source_kind kind; int fd; };

enum host_state { HOST_FREE, HOST_FREEZING, HOST_FROZEN };

struct vss_host {
	struct source listener, timer, connection[CONNECTIONS_MAX];	/* fd -1: there is none */
	int epoll;
	char path[108], name[VSS_WIRE_NAME + 1];
	enum vss_level grants;
	const struct vss_host_ops *ops;
	void *ctx;

	enum host_state state;
	struct source *owner;		/* whose freeze it is */
	uint32_t serial;		/* of that freeze */
	uint64_t end_ns;		/* of the window */
	bool early[CONNECTIONS_MAX];	/* thawed by itself, and not yet told to */
};

/* ---- messages ----------------------------------------------------------------------------------------- */

static void say(struct source *c, enum vss_wire_type type, uint32_t serial, uint32_t value, const char *text)
{
	struct vss_wire m;

	vss_wire_make(&m, type, serial, value, text);
	/* Who does not read his answers finds out by himself. */
	if (c->fd >= 0 && send(c->fd, &m, sizeof(m), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		shutdown(c->fd, SHUT_RDWR);
}

static void set_timer(struct vss_host *h, uint64_t end_ns)
{
	struct itimerspec t = { .it_value = { (time_t)(end_ns / 1000000000), (long)(end_ns % 1000000000) } };

	timerfd_settime(h->timer.fd, TFD_TIMER_ABSTIME, &t, NULL);
}

/* ---- frozen or not ------------------------------------------------------------------------------------- */

static void thaw(struct vss_host *h)
{
	h->state = HOST_FREE;
	h->owner = NULL;
	set_timer(h, 0);
	h->ops->thaw(h->ctx);
}

/* The dead man's handle: nobody has told it to. */
static void thaw_by_itself(struct vss_host *h)
{
	struct source *owner = h->owner;

	h->early[owner - h->connection] = true;
	thaw(h);
	say(owner, VSS_WIRE_THAWED, 0, 1, "the time to hold still has ended");
}

static bool late(const struct vss_host *h)
{
	return sp_env_monotonic_ns() >= h->end_ns && !SP_SEED_BUG(VSS_HOST_NO_WINDOW);
}

void vss_host_frozen(struct vss_host *h, int res, const char *why)
{
	struct source *owner = h->owner;

	if (h->state != HOST_FREEZING)
		return;
	if (res == 0 && !late(h)) {
		h->state = HOST_FROZEN;
		say(owner, VSS_WIRE_FROZEN, h->serial, 0, NULL);
		return;
	}
	thaw(h);
	say(owner, VSS_WIRE_REFUSED, h->serial, 0, res == 0 ? "it took too long" : why ? why : strerror(-res));
}

static void freeze(struct vss_host *h, struct source *c, uint32_t serial, uint32_t window_ms)
{
	const char *why = NULL;
	int r;

	if (h->state != HOST_FREE) {
		say(c, VSS_WIRE_REFUSED, serial, 0, "it holds still for another snapshot");
		return;
	}
	if (window_ms == 0 || window_ms > WINDOW_MAX_MS) {
		say(c, VSS_WIRE_REFUSED, serial, 0, "a window has 1 to 900000 milliseconds");
		return;
	}
	h->state = HOST_FREEZING;
	h->owner = c;
	h->serial = serial;
	h->end_ns = sp_env_monotonic_ns() + window_ms * NS_PER_MS;
	h->early[c - h->connection] = false;
	if (!SP_SEED_BUG(VSS_HOST_NO_WINDOW))
		set_timer(h, h->end_ns);
	r = h->ops->freeze(h->ctx, window_ms, &why);
	if (r != VSS_HOST_LATER)
		vss_host_frozen(h, r, why);
}

static void told_to_thaw(struct vss_host *h, struct source *c, uint32_t serial)
{
	bool *early = &h->early[c - h->connection];

	if (h->owner == c)
		thaw(h);
	say(c, VSS_WIRE_THAWED, serial, *early, NULL);
	*early = false;
}

static void check(struct vss_host *h, struct source *c, uint32_t serial, const char *snapshot)
{
	const char *why = NULL;
	int r = h->ops->check ? h->ops->check(h->ctx, snapshot, &why) : 0;

	if (h->state != HOST_FREE)
		say(c, VSS_WIRE_REFUSED, serial, 0, "it holds still for another snapshot");
	else if (r < 0)
		say(c, VSS_WIRE_REFUSED, serial, 0, why ? why : strerror(-r));
	else
		say(c, VSS_WIRE_READY, serial, 0, NULL);
}

/* ---- connections -------------------------------------------------------------------------------------- */

static void drop(struct vss_host *h, struct source *c)
{
	if (h->owner == c && !SP_SEED_BUG(VSS_HOST_STAYS_FROZEN))
		thaw(h);
	close(c->fd);
	c->fd = -1;
}

static void on_message(struct vss_host *h, struct source *c, const struct vss_wire *m)
{
	uint32_t serial = le32_get(m->serial), value = le32_get(m->value);

	switch (le16_get(m->type)) {
	case VSS_WIRE_CHECK:
		check(h, c, serial, m->text);
		break;
	case VSS_WIRE_FREEZE:
		freeze(h, c, serial, value);
		break;
	case VSS_WIRE_THAW:
		told_to_thaw(h, c, serial);
		break;
	case VSS_WIRE_COMPLETE:
		if (h->ops->complete && value <= 1)
			h->ops->complete(h->ctx, value == 1);
		break;
	default:
		drop(h, c);		/* what only a writer says */
	}
}

static void on_connection(struct vss_host *h, struct source *c)
{
	struct vss_wire m;
	ssize_t n = recv(c->fd, &m, sizeof(m), MSG_DONTWAIT | MSG_TRUNC);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0 || vss_wire_check(&m, (size_t)n) < 0)
		drop(h, c);
	else
		on_message(h, c, &m);
}

static int watch(struct vss_host *h, struct source *s)
{
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = s };

	return epoll_ctl(h->epoll, EPOLL_CTL_ADD, s->fd, &e) < 0 ? -errno : 0;
}

static bool may_talk(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && (peer.uid == 0 || peer.uid == geteuid());
}

static void on_listener(struct vss_host *h)
{
	int fd = accept4(h->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	unsigned i = 0;

	if (fd < 0)
		return;
	while (i < CONNECTIONS_MAX && h->connection[i].fd >= 0)
		i++;
	if (i < CONNECTIONS_MAX && may_talk(fd)) {
		h->connection[i] = (struct source){ SOURCE_CONNECTION, fd };
		h->early[i] = false;
		if (watch(h, &h->connection[i]) == 0) {
			say(&h->connection[i], VSS_WIRE_HELLO, 0, h->grants, h->name);
			return;
		}
		h->connection[i].fd = -1;
	}
	close(fd);
}

static void on_timer(struct vss_host *h)
{
	uint64_t times;

	if (read(h->timer.fd, &times, sizeof(times)) == sizeof(times) && h->state != HOST_FREE)
		thaw_by_itself(h);
}

void vss_host_process(struct vss_host *h)
{
	struct epoll_event e[CONNECTIONS_MAX + 2];
	int n = epoll_wait(h->epoll, e, CONNECTIONS_MAX + 2, 0);

	for (int i = 0; i < n; i++) {
		struct source *s = e[i].data.ptr;

		if (s->kind == SOURCE_LISTENER)
			on_listener(h);
		else if (s->kind == SOURCE_TIMER)
			on_timer(h);
		else if (s->fd >= 0)
			on_connection(h, s);
	}
}

int vss_host_run(struct vss_host *h, int stop_fd)
{
	struct pollfd p[2] = { { h->epoll, POLLIN, 0 }, { stop_fd, POLLIN, 0 } };

	for (;;) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return -errno;
		if (p[1].revents)
			return 0;
		vss_host_process(h);
	}
}

/* ---- new, free ---------------------------------------------------------------------------------------- */

/* Who listens there is alive. */
static int remove_stale(const struct sockaddr_un *a)
{
	struct stat st;
	int fd, r;

	if (lstat(a->sun_path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	r = connect(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 ? errno : 0;
	close(fd);
	if (r != ECONNREFUSED)
		return -EADDRINUSE;
	return unlink(a->sun_path) < 0 ? -errno : 0;
}

static int listen_at(struct vss_host *h)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	mode_t mask;
	int r;

	memcpy(a.sun_path, h->path, strlen(h->path) + 1);
	r = remove_stale(&a);
	if (r < 0)
		return r;
	h->listener.fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (h->listener.fd < 0)
		return -errno;
	mask = umask(0177);
	r = bind(h->listener.fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(h->listener.fd, 8) < 0 ? -errno : 0;
	umask(mask);
	return r;
}

static int start(struct vss_host *h)
{
	int r = listen_at(h);

	if (r < 0)
		return r;
	h->epoll = epoll_create1(EPOLL_CLOEXEC);
	h->timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (h->epoll < 0 || h->timer.fd < 0)
		return -errno;
	r = watch(h, &h->listener);
	return r < 0 ? r : watch(h, &h->timer);
}

static void close_if_open(int fd)
{
	if (fd >= 0)
		close(fd);
}

static void close_all(struct vss_host *h)
{
	for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
		close_if_open(h->connection[i].fd);
	close_if_open(h->listener.fd);
	close_if_open(h->timer.fd);
	close_if_open(h->epoll);
	sp_free(h);
}

int vss_host_new(const char *path, const char *name, enum vss_level grants, const struct vss_host_ops *ops, void *ctx,
		 struct vss_host **ret_host, struct sp_err *err)
{
	struct vss_host *h;
	int r;

	if (!vss_wire_name_ok(name))
		return sp_err_set(err, -EINVAL, "writer \"%s\": a name has 1 to %u of A-Z a-z 0-9 . _ -", name,
				  VSS_WIRE_NAME);
	if (strlen(path) >= sizeof(h->path))
		return sp_err_set(err, -ENAMETOOLONG, "%s: a socket's name has at most 107 bytes", path);
	h = sp_zalloc(sizeof(*h));
	if (!h)
		return sp_err_set(err, -ENOMEM, "out of memory");
	snprintf(h->path, sizeof(h->path), "%s", path);
	snprintf(h->name, sizeof(h->name), "%s", name);
	h->grants = grants;
	h->ops = ops;
	h->ctx = ctx;
	h->epoll = -1;
	h->listener = (struct source){ SOURCE_LISTENER, -1 };
	h->timer = (struct source){ SOURCE_TIMER, -1 };
	for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
		h->connection[i] = (struct source){ SOURCE_CONNECTION, -1 };
	r = start(h);
	if (r < 0) {
		close_all(h);
		return sp_err_set(err, r, "%s: %s", path, r == -EADDRINUSE ? "a writer listens there" : strerror(-r));
	}
	*ret_host = h;
	return 0;
}

void vss_host_free(struct vss_host *h)
{
	if (!h)
		return;
	if (h->state != HOST_FREE)
		thaw(h);
	unlink(h->path);
	close_all(h);
}

int vss_host_fd(const struct vss_host *h)
{
	return h->epoll;
}

bool vss_host_is_frozen(const struct vss_host *h)
{
	return h->state != HOST_FREE;
}
