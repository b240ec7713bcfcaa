/* SPDX-License-Identifier: BSD-2-Clause */
/* The broker's process: opens, and changes names, inside folders that the operator has named. */
#include "vmm/broker_int.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhd/store.h"

static struct store_folder *folders[BROKER_FOLDERS];
static struct { char *path; dev_t dev; ino_t ino; } removal[BROKER_REMOVALS];
static unsigned removals;

/* What may still be opened once sealed: below these folders, and these files. */
static char *ground[BROKER_GROUNDS], *name_opened[BROKER_NAMES];
static unsigned grounds, names_opened;
static bool sealed;

/* ---- what may be opened -------------------------------------------------------------------------------- */

static bool is_below(const char *path, const char *folder)
{
	size_t len = strcmp(folder, "/") == 0 ? 0 : strlen(folder);

	return strncmp(path, folder, len) == 0 && (path[len] == '/' || path[len] == '\0');
}

static int remember(char **list, unsigned *count, unsigned most, const char *name)
{
	for (unsigned i = 0; i < *count; i++)
		if (strcmp(list[i], name) == 0)
			return 0;
	if (*count == most)
		return -ENOSPC;
	list[*count] = strdup(name);
	if (!list[*count])
		return -ENOMEM;
	++*count;
	return 0;
}

static int may_open_folder(const char *real, struct sp_err *err)
{
	bool found = false;

	if (!sealed)
		return remember(ground, &grounds, BROKER_GROUNDS, real);
	for (unsigned i = 0; i < grounds && !found; i++)
		found = is_below(real, ground[i]);
	return found ? 0 : sp_err_set(err, -EPERM, "%s lies below no folder that this machine may use; start it "
				      "with --attach-from", real);
}

static int may_open_file(const char *name, int flags, struct sp_err *err)
{
	if (!sealed)
		return remember(name_opened, &names_opened, BROKER_NAMES, name);
	for (unsigned i = 0; i < names_opened; i++)
		if (strcmp(name_opened[i], name) == 0 && (flags & ~(O_CLOEXEC | O_NONBLOCK)) == O_RDONLY)
			return 0;
	return sp_err_set(err, -EPERM, "%s: a running machine opens no other files", name);
}

static int allow(const char *path, struct sp_err *err)
{
	char real[PATH_MAX];

	if (sealed)
		return sp_err_set(err, -EPERM, "sealed");
	if (!realpath(path, real))
		return sp_err_set(err, -errno, "%s: %s", path, strerror(errno));
	return remember(ground, &grounds, BROKER_GROUNDS, real);
}

/* ---- what shall not stay behind ------------------------------------------------------------------------ */

/* By number, too: another machine may have put its own file there meanwhile. */
static int remove_at_end(const char *path)
{
	struct stat st;

	if (sealed)
		return -EPERM;
	if (removals == BROKER_REMOVALS)
		return -ENOSPC;
	if (lstat(path, &st) < 0)
		return -errno;
	removal[removals].path = realpath(path, NULL);
	if (!removal[removals].path)
		return -errno;
	removal[removals].dev = st.st_dev;
	removal[removals++].ino = st.st_ino;
	return 0;
}

static void remove_all(void)
{
	struct stat st;

	for (unsigned i = 0; i < removals; i++)
		if (lstat(removal[i].path, &st) == 0 && st.st_dev == removal[i].dev && st.st_ino == removal[i].ino)
			unlink(removal[i].path);
}

/* ---- open ---------------------------------------------------------------------------------------------- */

static int open_plain(const struct broker_request *q, int *ret_fd, struct sp_err *err)
{
	int r = may_open_file(q->a, (int)q->flags, err);

	if (r < 0)
		return r;
	/* Never to wait for who writes into a FIFO. */
	*ret_fd = open(q->a, (int)q->flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
	return *ret_fd < 0 ? sp_err_set(err, -errno, "%s: %s", q->a, strerror(errno)) : 0;
}

/* The folder of @path, links resolved, or @root above it; and what is left of the name. */
static int split(const char *path, const char *root, struct broker_answer *a, struct sp_err *err)
{
	char real[PATH_MAX], *slash;
	size_t len;

	if (!realpath(path, real))
		return sp_err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (*root && !realpath(root, a->root))
		return sp_err_set(err, -errno, "%s: %s", root, strerror(errno));
	slash = strrchr(real, '/');
	if (!*root) {
		memcpy(a->root, real, (size_t)(slash - real));
		strcpy(a->root + (slash - real), slash == real ? "/" : "");
	}
	len = strcmp(a->root, "/") == 0 ? 0 : strlen(a->root);
	if (strncmp(real, a->root, len) || real[len] != '/')
		return sp_err_set(err, -EXDEV, "%s lies outside %s", path, root);
	strcpy(a->name, real + len + 1);
	return 0;
}

static int new_folder(const struct broker_request *q, struct broker_answer *a, struct sp_err *err)
{
	int r = split(q->a, q->b, a, err);

	for (a->folder = 0; a->folder < BROKER_FOLDERS && folders[a->folder]; a->folder++)
		;
	if (r == 0 && a->folder == BROKER_FOLDERS)
		r = sp_err_set(err, -EMFILE, "more than %u folders are open", BROKER_FOLDERS);
	if (r == 0)
		r = may_open_folder(a->root, err);
	return r == 0 ? store_folder_host(a->root, &folders[a->folder], err) : r;
}

/* The machine takes the locks itself: they belong to the description that travels. */
static int open_in_folder(struct store_folder *f, const struct broker_request *q, int *ret_fd, struct sp_err *err)
{
	struct store *s;
	int r = store_folder_open(f, q->a, q->flags | STORE_NO_LOCK, &s, err);

	if (r < 0)
		return r;
	*ret_fd = fcntl(s->ops->fd(s), F_DUPFD_CLOEXEC, 0);
	r = *ret_fd < 0 ? sp_err_set(err, -errno, "%s: %s", q->a, strerror(errno)) : 0;
	store_close(s);
	return r;
}

static int in_folder(const struct broker_request *q, int *ret_fd, struct sp_err *err)
{
	struct store_folder *f = q->folder < BROKER_FOLDERS ? folders[q->folder] : NULL;

	if (!f)
		return sp_err_set(err, -EBADF, "no such folder");
	switch (q->op) {
	case BROKER_FOLDER_OPEN:
		return open_in_folder(f, q, ret_fd, err);
	case BROKER_RENAME:
		return store_folder_rename(f, q->a, q->b, q->flags);
	case BROKER_LINK:
		return store_folder_link(f, q->a, q->b);
	case BROKER_UNLINK:
		return store_folder_unlink(f, q->a);
	case BROKER_SYNC:
		return store_folder_sync(f, q->a);
	case BROKER_FOLDER_CLOSE:
		store_folder_close(f);
		folders[q->folder] = NULL;
		return 0;
	default:
		return -EINVAL;
	}
}

static void answer(int socket_fd, struct broker_request *q)
{
	static struct broker_answer a;
	union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } control;
	struct iovec iov = { &a, sizeof(a) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct sp_err err = { 0 };
	int fd = -1;

	q->a[sizeof(q->a) - 1] = q->b[sizeof(q->b) - 1] = '\0';
	memset(&a, 0, sizeof(a));
	if (q->op == BROKER_OPEN)
		a.result = open_plain(q, &fd, &err);
	else if (q->op == BROKER_FOLDER)
		a.result = new_folder(q, &a, &err);
	else if (q->op == BROKER_REMOVE_AT_END)
		a.result = remove_at_end(q->a);
	else if (q->op == BROKER_ALLOW)
		a.result = allow(q->a, &err);
	else if (q->op == BROKER_SEAL)
		sealed = true;
	else
		a.result = in_folder(q, &fd, &err);
	memcpy(a.text, err.text, sizeof(a.text));
	if (fd >= 0) {
		memset(&control, 0, sizeof(control));
		m.msg_control = &control;
		m.msg_controllen = sizeof(control.room);
		control.head = (struct cmsghdr){
			.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS,
		};
		memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	}
	sendmsg(socket_fd, &m, MSG_NOSIGNAL);
	if (fd >= 0)
		close(fd);
}

void broker_serve(int socket_fd)
{
	static struct broker_request q;
	ssize_t n;

	/* What the machine holds ends with the machine: a socket we kept would look alive. */
	close_range(3, (unsigned)socket_fd - 1, 0);
	close_range((unsigned)socket_fd + 1, ~0u, 0);
	/* A key pressed for the machine is not meant for us: we end when it has ended. */
	signal(SIGINT, SIG_IGN);
	signal(SIGQUIT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	do {
		n = recv(socket_fd, &q, sizeof(q), 0);
		if (n == sizeof(q))
			answer(socket_fd, &q);
	} while (n > 0 || (n < 0 && errno == EINTR));
	remove_all();
}
