/* SPDX-License-Identifier: BSD-2-Clause */
/* The machine's side of the broker: descriptors, and folders that chains are found in. */
#include <errno.h>
#include <pthread.h>
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
	pthread_mutex_t lock;		/* one call at a time: what follows */
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
	pthread_mutex_init(&b->lock, NULL);
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
	waitpid(b->pid, NULL, 0);
	pthread_mutex_destroy(&b->lock);
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

struct question {
	enum broker_op op;
	uint32_t folder, flags;
	const char *a, *b;
	int *ret_fd;			/* NULL: none is expected */
	struct broker_answer *answer;	/* NULL: only the verdict counts */
};

static int judge(struct vmm_broker *b, const struct question *q, int fd, struct sp_err *err)
{
	struct broker_answer *a = &b->answer;

	if (a->result < 0) {
		a->text[sizeof(a->text) - 1] = '\0';
		return sp_err_set(err, a->result, "%s", a->text[0] ? a->text : strerror(-a->result));
	}
	if (q->ret_fd && fd < 0)
		return sp_err_set(err, -EMFILE, "%s: no descriptor came back", q->a);
	if (q->ret_fd)
		*q->ret_fd = fd;
	else if (fd >= 0)
		close(fd);
	if (q->answer)
		*q->answer = *a;
	return 0;
}

static int ask(struct vmm_broker *b, const struct question *q, struct sp_err *err)
{
	struct broker_request *r = &b->request;
	int fd = -1, verdict;

	if (strlen(q->a) >= sizeof(r->a) || strlen(q->b) >= sizeof(r->b))
		return sp_err_set(err, -ENAMETOOLONG, "%s: name too long", q->a);
	pthread_mutex_lock(&b->lock);
	r->op = q->op;
	r->folder = q->folder;
	r->flags = q->flags;
	strcpy(r->a, q->a);
	strcpy(r->b, q->b);
	if (send(b->fd, r, sizeof(*r), MSG_NOSIGNAL) != sizeof(*r) || receive(b, &fd) < 0)
		verdict = sp_err_set(err, -EPIPE, "the process that opens files has gone");
	else
		verdict = judge(b, q, fd, err);
	pthread_mutex_unlock(&b->lock);
	return verdict;
}

int vmm_broker_open(struct vmm_broker *b, const char *path, int flags, int *ret_fd, struct sp_err *err)
{
	const struct question q = { BROKER_OPEN, .flags = (uint32_t)flags, .a = path, .b = "", .ret_fd = ret_fd };

	return ask(b, &q, err);
}

int vmm_broker_allow(struct vmm_broker *b, const char *path, struct sp_err *err)
{
	const struct question q = { BROKER_ALLOW, .a = path, .b = "" };

	return ask(b, &q, err);
}

int vmm_broker_seal(struct vmm_broker *b, struct sp_err *err)
{
	const struct question q = { BROKER_SEAL, .a = "", .b = "" };

	return ask(b, &q, err);
}

int vmm_broker_remove_at_end(struct vmm_broker *b, const char *path)
{
	const struct question q = { BROKER_REMOVE_AT_END, .a = path, .b = "" };

	return ask(b, &q, NULL);
}

/* ---- folder ------------------------------------------------------------------------------------------- */

static int folder_open(struct store_folder *base, const char *name, unsigned flags, struct store **ret_store,
		       struct sp_err *err)
{
	struct folder *f = (struct folder *)base;
	int fd;
	const struct question q = {
		BROKER_FOLDER_OPEN, .folder = f->index, .flags = flags, .a = name, .b = "", .ret_fd = &fd,
	};
	int r = ask(f->broker, &q, err);

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
	const struct question q = { op, .folder = f->index, .flags = flags, .a = a, .b = b };

	return ask(f->broker, &q, NULL);
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
	struct broker_answer *answer = sp_zalloc(sizeof(*answer));
	const struct question q = { BROKER_FOLDER, .a = path, .b = root ? root : "", .answer = answer };
	int r = f && answer ? ask(b, &q, err) : sp_err_set(err, -ENOMEM, "out of memory");

	if (r == 0) {
		f->base.ops = &folder_ops;
		f->base.path = sp_strdup(answer->root);
		f->broker = b;
		f->index = answer->folder;
		*ret_name = sp_strdup(answer->name);
		*ret_folder = &f->base;
		if (!f->base.path || !*ret_name) {
			sp_free(*ret_name);
			store_folder_close(sp_take(*ret_folder));
			f = NULL;
			r = sp_err_set(err, -ENOMEM, "out of memory");
		}
	}
	if (r < 0)
		sp_free(f);
	sp_free(answer);
	return r;
}
