/* SPDX-License-Identifier: BSD-2-Clause */
/* The link to a provider behind a socket: vmbus/socket_wire.h, the client's side. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "storvsc/storvsc_int.h"
#include "vmbus/socket_wire.h"

struct link {
	int fd;
	unsigned offered;
};

static int send_record(int fd, struct vmbus_socket_record *r, const int *fds, unsigned count)
{
	_Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(2 * sizeof(int))] = { 0 };
	struct iovec iov = { r, sizeof(*r) };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };

	r->magic = le32_make(VMBUS_SOCKET_MAGIC);
	r->version = le16_make(VMBUS_SOCKET_VERSION);
	if (count) {
		h.msg_control = control;
		h.msg_controllen = CMSG_SPACE(count * sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&h);

		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(c), fds, count * sizeof(int));
	}
	return sendmsg(fd, &h, MSG_NOSIGNAL) == (ssize_t)sizeof(*r) ? 0 : -errno;
}

/* The next record, which may be an offer of sub-channels in between. 0, -EPIPE, -ETIMEDOUT, -EPROTO. */
static int receive_record(struct link *l, struct vmbus_socket_record *ret_record)
{
	ssize_t n = recv(l->fd, ret_record, sizeof(*ret_record), 0);

	if (n < 0)
		return errno == EAGAIN ? -ETIMEDOUT : errno == ECONNRESET ? -EPIPE : -errno;
	if (n == 0)
		return -EPIPE;
	if (n != sizeof(*ret_record) || le32_get(ret_record->magic) != VMBUS_SOCKET_MAGIC ||
	    le16_get(ret_record->version) != VMBUS_SOCKET_VERSION)
		return -EPROTO;
	if (le16_get(ret_record->type) == VMBUS_SOCKET_SUBCHANNELS)
		l->offered = le32_get(ret_record->channel);
	return 0;
}

/* Its status, or why there is none. */
static int expect(struct link *l, enum vmbus_socket_type type, struct vmbus_socket_record *ret_record)
{
	uint32_t status;
	int r;

	do {
		r = receive_record(l, ret_record);
		if (r < 0)
			return r;
	} while (le16_get(ret_record->type) == VMBUS_SOCKET_SUBCHANNELS);
	if (le16_get(ret_record->type) != type)
		return -EPROTO;
	status = le32_get(ret_record->status);
	return status > 4095 ? -EPROTO : -(int)status;
}

static int link_open(struct storvsc *c, struct storvsc_channel *ch, struct sp_err *err)
{
	struct link *l = c->link_data;
	const int fds[2] = { ch->peer_fd, ch->event_fd };
	struct vmbus_socket_record answer, r = {
		.type = le16_make(VMBUS_SOCKET_OPEN), .channel = le32_make(ch->index),
		.ring_page = le32_make((uint32_t)((ch->mapping.base - c->arena.memory.base) / STORVSC_PAGE)),
		.ring_pages = le32_make(2 * c->opts.ring_pages), .downstream_page = le32_make(c->opts.ring_pages),
	};
	int res = send_record(l->fd, &r, fds, 2);

	if (res == 0)
		res = expect(l, VMBUS_SOCKET_OPENED, &answer);
	return res < 0 ? sp_err_set(err, res, "the server does not open it: %s", strerror(-res)) : 0;
}

static int link_offered(struct storvsc *c, unsigned count, struct sp_err *err)
{
	struct link *l = c->link_data;
	struct vmbus_socket_record r;
	int res = 0;

	while (l->offered < count && res == 0)
		res = receive_record(l, &r);
	return res < 0 ? sp_err_set(err, res, "the server offers no sub-channels: %s", strerror(-res)) : 0;
}

static void link_close(struct storvsc *c)
{
	struct link *l = c->link_data;
	struct vmbus_socket_record r;

	/* The server hangs up when everything is closed. */
	shutdown(l->fd, SHUT_WR);
	while (recv(l->fd, &r, sizeof(r), 0) > 0)
		;
	close(l->fd);
	sp_free(l);
}

static const struct storvsc_link_ops link_ops = {
	.open = link_open, .offered = link_offered, .close = link_close,
};

static int connect_to(const char *path, struct sp_err *err)
{
	struct timeval patience = { .tv_sec = STORVSC_PATIENCE_MS / 1000 };
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd, r = 0;

	if (!*path || strlen(path) >= sizeof(a.sun_path))
		return sp_err_set(err, -ENAMETOOLONG, "%s: the name of a socket has 1 to %zu bytes", path,
				  sizeof(a.sun_path) - 1);
	memcpy(a.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return sp_err_set(err, -errno, "socket: %s", strerror(errno));
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0 ||
	    connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		r = -errno;
	if (r < 0) {
		close(fd);
		return sp_err_set(err, r, "%s: %s", path, r == -ECONNREFUSED ? "nobody listens there" : strerror(-r));
	}
	return fd;
}

static int say_hello(struct storvsc *c, const char *target, struct sp_err *err)
{
	struct link *l = c->link_data;
	struct vmbus_socket_record answer, r = {
		.type = le16_make(VMBUS_SOCKET_HELLO), .memory_bytes = le64_make(c->arena.memory.bytes),
	};
	int res;

	if (target)
		memcpy(r.target, target, strlen(target));
	res = send_record(l->fd, &r, &c->arena.memory.fd, 1);
	if (res == 0)
		res = expect(l, VMBUS_SOCKET_WELCOME, &answer);
	if (res == 0 && le32_get(answer.channel) == 0)
		res = -EPROTO;
	if (res < 0)
		return sp_err_set(err, res, "%s: %s", target && *target ? target : "the server",
				  res == -EBUSY ? "has a client already" :
				  res == -ENOENT ? "no such controller" : strerror(-res));
	c->opts.channels = (unsigned)sp_min(c->opts.channels, le32_get(answer.channel));
	return 0;
}

static int make_link(struct storvsc *c, const char *path, struct sp_err *err)
{
	struct link *l = sp_zalloc(sizeof(*l));
	int fd = l ? connect_to(path, err) : sp_err_set(err, -ENOMEM, "no memory for a connection");

	if (fd < 0) {
		sp_free(l);
		return fd;
	}
	l->fd = c->gone_fd = fd;
	c->link_data = l;
	c->link = &link_ops;
	return 0;
}

/**
 * storvsc_connect - a client of storvsp-serve or of a machine
 * @target: less than 64 bytes
 * Returns 0, -ENOENT (no socket, or no such controller), -ECONNREFUSED, -EBUSY (has a client), -EINVAL, -EPIPE (the
 * server hung up), -ETIMEDOUT, -EPROTO...
 */
int storvsc_connect(const char *socket_path, const char *target, const struct storvsc_opts *opts,
		    struct storvsc **ret_client, struct sp_err *err)
{
	struct storvsc *c;
	int r;

	if (target && strlen(target) >= sizeof(((struct vmbus_socket_record *)0)->target))
		return sp_err_set(err, -EINVAL, "%s: no controller has a name of that length", target);
	r = storvsc_new(opts, &c, err);
	if (r < 0)
		return r;
	r = make_link(c, socket_path, err);
	if (r == 0)
		r = say_hello(c, target, err);
	if (r == 0)
		r = storvsc_start(c, err);
	if (r < 0) {
		storvsc_close(c);
		return r;
	}
	*ret_client = c;
	return 0;
}
