/* SPDX-License-Identifier: BSD-2-Clause */
/* The machine's side of the broker: descriptors, and folders that chains are found in. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "vmm/broker.h"
#include "vmm/broker_int.h"

struct vmm_broker {
	int fd;
	pid_t pid;
	struct broker_request request;	/* of the one call under way */
	struct broker_answer answer;
};

struct folder {
	struct store_folder base;
	struct vmm_broker *broker;
	uint32_t index;
};

int vmm_broker_start(struct vmm_broker **ret_broker, struct sp_err *err)
{
	struct vmm_broker *b = sp_zalloc(sizeof(*b));
	int pair[2];

	if (!b)
		return sp_err_set(err, -ENOMEM, "out of memory");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		sp_free(b);
		return sp_err_set(err, -errno, "socketpair: %s", strerror(errno));
	}
	b->pid = fork();
	if (b->pid == 0) {
		close(pair[0]);
		broker_serve(pair[1]);
		_exit(0);
	}
	close(pair[1]);
	b->fd = pair[0];
	if (b->pid < 0) {
		close(b->fd);
		sp_free(b);
		return sp_err_set(err, -errno, "fork: %s", strerror(errno));
	}
	*ret_broker = b;
	return 0;
}

void vmm_broker_stop(struct vmm_broker *b)
{
	if (!b)
		return;
	close(b->fd);
	waitpid(b->pid, NULL, 0);	/* in a jail without it: whoever started us reaps */
	sp_free(b);
}

/* ---- a call ------------------------------------------------------------------------------------------- */

static int receive(struct vmm_broker *b, int *ret_fd)
{
	union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } control;
	struct iovec iov = { &b->answer, sizeof(b->answer) };
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control.room),
	};
	struct cmsghdr *c;
	ssize_t n;

	do
		n = recvmsg(b->fd, &m, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n != sizeof(b->answer))
		return -EPIPE;
	c = CMSG_FIRSTHDR(&m);
	if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(ret_fd, CMSG_DATA(c), sizeof(*ret_fd));
	return 0;
}

/* @ret_fd NULL: none is expected. */
static int call(struct vmm_broker *b, enum broker_op op, uint32_t folder, uint32_t flags, const char *a,
		const char *second, int *ret_fd, struct sp_err *err)
{
	struct broker_request *q = &b->request;
	int fd = -1, r = 0;

	if (strlen(a) >= sizeof(q->a) || strlen(second) >= sizeof(q->b))
		return sp_err_set(err, -ENAMETOOLONG, "%s: name too long", a);
	q->op = op;
	q->folder = folder;
	q->flags = flags;
	strcpy(q->a, a);
	strcpy(q->b, second);
	if (send(b->fd, q, sizeof(*q), MSG_NOSIGNAL) != sizeof(*q) || receive(b, &fd) < 0)
		return sp_err_set(err, -EPIPE, "the process that opens files has gone");
	if (b->answer.result < 0) {
		b->answer.text[sizeof(b->answer.text) - 1] = '\0';
		return sp_err_set(err, b->answer.result, "%s",
				  b->answer.text[0] ? b->answer.text : strerror(-b->answer.result));
	}
	if (ret_fd && fd < 0)
		r = sp_err_set(err, -EMFILE, "%s: no descriptor came back", a);
	else if (ret_fd)
		*ret_fd = fd;
	else if (fd >= 0)
		close(fd);
	return r;
}

int vmm_broker_open(struct vmm_broker *b, const char *path, int flags, int *ret_fd, struct sp_err *err)
{
	return call(b, BROKER_OPEN, 0, (uint32_t)flags, path, "", ret_fd, err);
}

/* ---- folder ------------------------------------------------------------------------------------------- */

static int folder_open(struct store_folder *base, const char *name, unsigned flags, struct store **ret_store,
		       struct sp_err *err)
{
	struct folder *f = (struct folder *)base;
	int fd, r = call(f->broker, BROKER_FOLDER_OPEN, f->index, flags, name, "", &fd, err);

	if (r < 0)
		return r;
	/* It has been created there; here it is only taken over. */
	r = store_file_adopt(fd, name, flags, ret_store, err);
	if (r < 0)
		close(fd);
	return r;
}

static int folder_call(struct store_folder *base, enum broker_op op, uint32_t flags, const char *a, const char *b)
{
	struct folder *f = (struct folder *)base;

	return call(f->broker, op, f->index, flags, a, b, NULL, NULL);
}

static int folder_rename(struct store_folder *base, const char *from, const char *to, bool replace)
{
	return folder_call(base, BROKER_RENAME, replace, from, to);
}

static int folder_link(struct store_folder *base, const char *from, const char *to)
{
	return folder_call(base, BROKER_LINK, 0, from, to);
}

static int folder_unlink(struct store_folder *base, const char *name)
{
	return folder_call(base, BROKER_UNLINK, 0, name, "");
}

static int folder_sync(struct store_folder *base, const char *name)
{
	return folder_call(base, BROKER_SYNC, 0, name, "");
}

static void folder_close(struct store_folder *base)
{
	folder_call(base, BROKER_FOLDER_CLOSE, 0, "", "");
	sp_free(base->path);
	sp_free(base);
}

static const struct store_folder_ops folder_ops = {
	.open = folder_open, .rename = folder_rename, .link = folder_link, .unlink = folder_unlink, .sync = folder_sync,
	.close = folder_close,
};

int vmm_broker_folder(struct vmm_broker *b, const char *path, const char *root, struct store_folder **ret_folder,
		      char **ret_name, struct sp_err *err)
{
	struct folder *f = sp_zalloc(sizeof(*f));
	int r = f ? call(b, BROKER_FOLDER, 0, 0, path, root ? root : "", NULL, err) : -ENOMEM;

	if (r == 0) {
		f->base.ops = &folder_ops;
		f->base.path = sp_strdup(b->answer.root);
		f->broker = b;
		f->index = b->answer.folder;
		*ret_name = sp_strdup(b->answer.name);
		if (f->base.path && *ret_name) {
			*ret_folder = &f->base;
			return 0;
		}
		sp_free(*ret_name);
		store_folder_close(&f->base);
		return sp_err_set(err, -ENOMEM, "out of memory");
	}
	sp_free(f);
	return r == -ENOMEM ? sp_err_set(err, r, "out of memory") : r;
}
