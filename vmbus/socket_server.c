/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The server's thread: connections, their conversation, their channels.
 *
 *	accepted --HELLO--> served --OPEN--> channels --CLOSE, end of the socket--> gone
 *
 * Whatever is wrong with a record ends its connection. Its channels are closed first, sub-channels before the primary;
 * that waits for I/O in flight and for nothing that the client does.
 *
 * Eventfds are shared with the client down to their flags: one that takes O_NONBLOCK away again may make its own
 * channel's thread wait. It runs under our uid, so it could stop this process as well.
 */
#include "vmbus/socket_server.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"
#include "base/log.h"
#include "base/seed.h"
#include "vmbus/socket_memory.h"
#include "vmbus/socket_wire.h"

#define DEVICES_MAX 16u
#define CONNECTIONS_MAX 64u
#define CHANNELS_MAX 64u
#define RING_PAGES_MAX VMBUS_GPADL_PFNS_MAX
#define MEMORY_MAX SP_GIB(1)
#define HELLO_NS 2000000000ull		/* who says nothing so long is not served */
#define TICK_MS 500
#define FDS_MAX 4u

struct message {
	struct vmbus_socket_record record;
	int fd[FDS_MAX];
	unsigned fds;
};

struct server_channel {
	struct vmbus_channel ch;
	struct vmbus_mapping mapping;
	int client_fd;			/* eventfd of the client; ours is ch.event_fd */
	bool open;
};

struct connection {
	struct connection *next;
	struct vmbus_socket_server *server;
	int fd;
	uint64_t until_ns;		/* for HELLO */
	struct device *device;		/* NULL before HELLO; then the rest is there, too */
	struct vmbus_socket_memory memory;
	struct server_channel *channel;
	unsigned channels;
	unsigned offered, told;		/* sub-channels. offered: atomic, set by the device's threads */
};

struct device {
	const struct vmbus_offer *offer;
	struct connection *user;
};

struct vmbus_socket_server {
	int listen_fd, epoll_fd, bell;
	bool stop;			/* atomic */
	bool started;
	pthread_t thread;
	struct device device[DEVICES_MAX];
	unsigned devices;
	/* The rest belongs to the thread. */
	struct connection *connections;
	unsigned count;
};

static void ring(int fd)
{
	uint64_t one = 1;
	ssize_t n;

	do {
		n = write(fd, &one, sizeof(one));
	} while (n < 0 && errno == EINTR);
}

/* ---- records ------------------------------------------------------------------------------------------- */

static void close_fds(struct message *m)
{
	for (unsigned i = 0; i < m->fds; i++)
		if (m->fd[i] >= 0)
			close(m->fd[i]);
	m->fds = 0;
}

static void take_fds(struct message *m, struct msghdr *h)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len && m->fds < FDS_MAX; at += sizeof(int))
			memcpy(&m->fd[m->fds++], (uint8_t *)c + at, sizeof(int));
	}
}

/* 1; 0: the client has left; -EAGAIN; -EPROTO. The descriptors are the caller's. */
static int receive(int fd, struct message *m)
{
	_Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(FDS_MAX * sizeof(int))];
	struct iovec iov = { &m->record, sizeof(m->record) };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			    .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(fd, &h, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	m->fds = 0;
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : -EPROTO;
	take_fds(m, &h);
	if (n == 0 && m->fds == 0)
		return 0;
	if (n != sizeof(m->record) || h.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		return -EPROTO;
	if (le32_get(m->record.magic) != VMBUS_SOCKET_MAGIC || le16_get(m->record.version) != VMBUS_SOCKET_VERSION)
		return -EPROTO;
	return 1;
}

/* @status: 0 or -errno, which is also returned unless the client cannot be told. */
static int reply(struct connection *c, enum vmbus_socket_type type, int status, unsigned channel)
{
	struct vmbus_socket_record r = {
		.magic = le32_make(VMBUS_SOCKET_MAGIC), .version = le16_make(VMBUS_SOCKET_VERSION),
		.type = le16_make(type), .status = le32_make((uint32_t)-status), .channel = le32_make(channel),
	};

	/* Who does not read his answers is not waited for. */
	if (send(c->fd, &r, sizeof(r), MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)sizeof(r))
		return -EPIPE;
	return status;
}

/* ---- channels ------------------------------------------------------------------------------------------ */

static void signal_client(void *ctx)
{
	ring(((struct server_channel *)ctx)->client_fd);
}

static const struct vmbus_channel_ops channel_ops = { .signal = signal_client };

static void offer_subchannels(void *bus, unsigned count)
{
	struct connection *c = bus;

	__atomic_store_n(&c->offered, count, __ATOMIC_RELEASE);
	ring(c->server->bell);
}

static const struct vmbus_bus_ops bus_ops = { .offer_subchannels = offer_subchannels };

/* An eventfd has no type among files; whatever else has none, is not blocking and is the client's does no harm. */
static bool fd_ok(int fd)
{
	struct stat st;
	int flags = fcntl(fd, F_GETFL);

	return flags >= 0 && fstat(fd, &st) == 0 && (st.st_mode & S_IFMT) == 0 && (flags & O_ACCMODE) == O_RDWR &&
	       fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

static bool rings_ok(const struct connection *c, const struct vmbus_socket_record *r)
{
	uint64_t first = le32_get(r->ring_page), pages = le32_get(r->ring_pages);

	if (pages == 0 || pages > RING_PAGES_MAX)
		return false;
	return sp_range_ok(first, pages, c->memory.bytes / VMBUS_PAGE_SIZE) || SP_SEED_BUG(SOCKET_RING_PAGE);
}

/* Takes both descriptors. 0 or what the device said. */
static int open_channel(struct connection *c, unsigned index, struct message *m)
{
	const struct vmbus_offer *offer = c->device->offer;
	struct server_channel *s = &c->channel[index];
	struct vmbus_open open = { .subchannel = index, .target_vp = UINT32_MAX, .bus_ops = &bus_ops, .bus = c };
	int r = offer->ops->open(offer->device, &s->ch, &open);

	if (r < 0)
		return r;
	m->fds = 0;
	s->open = true;
	return 0;
}

static int make_channel(struct connection *c, unsigned index, const struct message *m)
{
	const struct vmbus_socket_record *r = &m->record;
	struct server_channel *s = &c->channel[index];

	if (m->fds != 2 || !fd_ok(m->fd[0]) || !fd_ok(m->fd[1]) || !rings_ok(c, r))
		return -EINVAL;
	s->mapping.base = c->memory.base + (uint64_t)le32_get(r->ring_page) * VMBUS_PAGE_SIZE;
	s->mapping.len = (size_t)le32_get(r->ring_pages) * VMBUS_PAGE_SIZE;
	s->client_fd = m->fd[1];
	s->ch.mem = &c->memory.mem;
	s->ch.ops = &channel_ops;
	s->ch.ctx = s;
	s->ch.event_fd = m->fd[0];
	return vmbus_channel_init(&s->ch, &s->mapping, le32_get(r->downstream_page), true);
}

static int on_open(struct connection *c, struct message *m)
{
	unsigned index = le32_get(m->record.channel);
	int r;

	if (!c->device || (index >= c->channels && !SP_SEED_BUG(SOCKET_CHANNEL_TRUSTED)))
		return -EPROTO;
	if (c->channel[index].open || (index && !c->channel[0].open))
		return reply(c, VMBUS_SOCKET_OPENED, -EPROTO, index);
	r = make_channel(c, index, m);
	if (r < 0)
		return reply(c, VMBUS_SOCKET_OPENED, r, index);
	r = open_channel(c, index, m);
	sp_debug("vmbus", c->device->offer->name, "socket: channel %u open: %d", index, r);
	/* A device that refuses is no offence. */
	return reply(c, VMBUS_SOCKET_OPENED, r, index) == -EPIPE ? -EPIPE : 0;
}

static void close_channel(struct connection *c, unsigned index)
{
	const struct vmbus_offer *offer = c->device->offer;
	struct server_channel *s = &c->channel[index];

	if (!s->open)
		return;
	offer->ops->close(offer->device, &s->ch);
	close(s->ch.event_fd);
	close(s->client_fd);
	s->open = false;
}

/* From @first on, the last one first. */
static void close_channels(struct connection *c, unsigned first)
{
	for (unsigned i = c->channels; i-- > first; )
		close_channel(c, i);
	if (first == 0)		/* the device has forgotten, too */
		c->offered = c->told = 0;
}

static int on_close(struct connection *c, struct message *m)
{
	unsigned index = le32_get(m->record.channel);

	if (m->fds || !c->device || index >= c->channels || !c->channel[index].open)
		return -EPROTO;
	if (index == 0)
		close_channels(c, 0);
	else
		close_channel(c, index);
	return reply(c, VMBUS_SOCKET_CLOSED, 0, index);
}

/* ---- hello --------------------------------------------------------------------------------------------- */

/* An empty name: the first. NULL: none of that name, or no name at all. */
static struct device *find_device(struct vmbus_socket_server *s, const uint8_t target[64])
{
	size_t len = strnlen((const char *)target, 64);

	if (len == 64)
		return NULL;
	for (unsigned i = 0; i < s->devices; i++)
		if (len == 0 || strcmp(s->device[i].offer->name, (const char *)target) == 0)
			return &s->device[i];
	return NULL;
}

static int serve(struct connection *c, struct device *d, struct message *m)
{
	unsigned channels = 1 + (unsigned)sp_min(d->offer->max_subchannels, CHANNELS_MAX - 1);
	int r;

	if (m->fds != 1)
		return -EINVAL;
	c->channel = sp_calloc(channels, sizeof(*c->channel));
	if (!c->channel)
		return -ENOMEM;
	r = vmbus_socket_memory_adopt(&c->memory, m->fd[0], le64_get(m->record.memory_bytes), MEMORY_MAX);
	if (r < 0) {
		sp_free(c->channel);
		c->channel = NULL;
		return r;
	}
	m->fds = 0;
	c->channels = channels;
	c->device = d;
	d->user = c;
	return 0;
}

static int on_hello(struct connection *c, struct message *m)
{
	struct device *d = find_device(c->server, m->record.target);
	int r = !d ? -ENOENT : d->user ? -EBUSY : 0;

	if (c->device)
		return -EPROTO;
	if (r == 0)
		r = serve(c, d, m);
	return reply(c, VMBUS_SOCKET_WELCOME, r, r == 0 ? c->channels : 0);
}

/* ---- connections --------------------------------------------------------------------------------------- */

static void drop(struct connection *c, int why)
{
	struct vmbus_socket_server *s = c->server;
	struct connection **at = &s->connections;

	sp_debug("vmbus", c->device ? c->device->offer->name : "socket", "connection ends: %d", why);
	if (c->device) {
		close_channels(c, 0);
		vmbus_socket_memory_fini(&c->memory);
		c->device->user = NULL;
	}
	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	s->count--;
	close(c->fd);
	sp_free(c->channel);
	sp_free(c);
}

static void converse(struct connection *c)
{
	struct message m;
	int r = receive(c->fd, &m);

	if (r == -EAGAIN)
		return;
	if (r > 0) {
		switch (le16_get(m.record.type)) {
		case VMBUS_SOCKET_HELLO:
			r = on_hello(c, &m);
			break;
		case VMBUS_SOCKET_OPEN:
			r = on_open(c, &m);
			break;
		case VMBUS_SOCKET_CLOSE:
			r = on_close(c, &m);
			break;
		default:
			r = -EPROTO;
		}
	} else if (r == 0) {
		r = -ECONNRESET;
	}
	close_fds(&m);
	if (r < 0)
		drop(c, r);
}

static void tell_offers(struct vmbus_socket_server *s)
{
	struct connection *next;

	for (struct connection *c = s->connections; c; c = next) {
		unsigned offered = __atomic_load_n(&c->offered, __ATOMIC_ACQUIRE);

		next = c->next;
		if (offered == c->told)
			continue;
		c->told = offered;
		if (reply(c, VMBUS_SOCKET_SUBCHANNELS, 0, offered) < 0)
			drop(c, -EPIPE);
	}
}

static bool peer_ok(int fd)
{
	struct ucred who;
	socklen_t len = sizeof(who);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 && (who.uid == geteuid() || who.uid == 0);
}

static int add(struct vmbus_socket_server *s, int fd)
{
	struct connection *c = sp_zalloc(sizeof(*c));
	struct epoll_event e = { .events = EPOLLIN | EPOLLRDHUP, .data.ptr = c };

	if (!c)
		return -ENOMEM;
	c->server = s;
	c->fd = fd;
	c->until_ns = sp_env_monotonic_ns() + HELLO_NS;
	if (epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0) {
		sp_free(c);
		return -errno;
	}
	c->next = s->connections;
	s->connections = c;
	s->count++;
	return 0;
}

static void welcome(struct vmbus_socket_server *s)
{
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0) {
		/* Out of descriptors, perhaps: who knocks goes on knocking, so wait a little. */
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			nanosleep(&(struct timespec){ 0, 10000000 }, NULL);
		return;
	}
	if (!peer_ok(fd) || s->count >= CONNECTIONS_MAX || add(s, fd) < 0)
		close(fd);
}

/* True: somebody has not said hello yet. */
static bool drop_silent(struct vmbus_socket_server *s)
{
	uint64_t now = sp_env_monotonic_ns();
	struct connection *next;
	bool some = false;

	for (struct connection *c = s->connections; c; c = next) {
		next = c->next;
		if (!c->device && now >= c->until_ns)
			drop(c, -ETIMEDOUT);
		else
			some |= !c->device;
	}
	return some;
}

static void *run(void *arg)
{
	struct vmbus_socket_server *s = arg;
	uint64_t rings;

	while (!__atomic_load_n(&s->stop, __ATOMIC_ACQUIRE)) {
		struct epoll_event e;
		bool silent = drop_silent(s);

		/* One at a time: handling one event may end the connection of another. */
		if (epoll_wait(s->epoll_fd, &e, 1, silent ? TICK_MS : -1) <= 0)
			continue;
		if (e.data.ptr == &s->listen_fd)
			welcome(s);
		else if (e.data.ptr == &s->bell && read(s->bell, &rings, sizeof(rings)) > 0)
			tell_offers(s);
		else if (e.data.ptr != &s->bell)
			converse(e.data.ptr);
	}
	while (s->connections)
		drop(s->connections, -ESHUTDOWN);
	return NULL;
}

/* ---- life ---------------------------------------------------------------------------------------------- */

static int watch(struct vmbus_socket_server *s, int *fd)
{
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = fd };

	return epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, *fd, &e) < 0 ? -errno : 0;
}

static int set_up(struct vmbus_socket_server *s)
{
	int flags = fcntl(s->listen_fd, F_GETFL), r;

	s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	s->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	/* A client that has gone before it was accepted must not make us wait for the next one. */
	if (s->epoll_fd < 0 || s->bell < 0 || flags < 0 || fcntl(s->listen_fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	r = watch(s, &s->listen_fd);
	return r < 0 ? r : watch(s, &s->bell);
}

int vmbus_socket_server_new(int listen_fd, struct vmbus_socket_server **ret_server, struct sp_err *err)
{
	struct vmbus_socket_server *s = sp_zalloc(sizeof(*s));
	int r;

	if (!s) {
		close(listen_fd);
		return sp_err_set(err, -ENOMEM, "no memory for a socket server");
	}
	s->listen_fd = listen_fd;
	s->epoll_fd = s->bell = -1;
	r = set_up(s);
	if (r < 0) {
		vmbus_socket_server_free(s);
		return sp_err_set(err, r, "socket server: %s", strerror(-r));
	}
	*ret_server = s;
	return 0;
}

/* -EINVAL: a name that a client cannot say; -EEXIST; -EMFILE. */
int vmbus_socket_server_offer(struct vmbus_socket_server *s, const struct vmbus_offer *offer)
{
	if (!*offer->name || strlen(offer->name) >= 64)
		return -EINVAL;
	for (unsigned i = 0; i < s->devices; i++)
		if (strcmp(s->device[i].offer->name, offer->name) == 0)
			return -EEXIST;
	if (s->devices == DEVICES_MAX)
		return -EMFILE;
	s->device[s->devices++].offer = offer;
	return 0;
}

int vmbus_socket_server_start(struct vmbus_socket_server *s)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);	/* signals are for the program's own threads */
	r = -pthread_create(&s->thread, NULL, run, s);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	s->started = r == 0;
	if (s->started)
		pthread_setname_np(s->thread, "vmbus-socket");
	return r;
}

void vmbus_socket_server_free(struct vmbus_socket_server *s)
{
	if (!s)
		return;
	if (s->started) {
		__atomic_store_n(&s->stop, true, __ATOMIC_RELEASE);
		ring(s->bell);
		pthread_join(s->thread, NULL);
	}
	if (s->epoll_fd >= 0)
		close(s->epoll_fd);
	if (s->bell >= 0)
		close(s->bell);
	close(s->listen_fd);
	sp_free(s);
}
