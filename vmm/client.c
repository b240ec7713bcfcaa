/* SPDX-License-Identifier: BSD-2-Clause */
/* The other end of the control socket: one question at a time, blocking. */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/env.h"
#include "vmm/client.h"

#define ANSWER_MAX	(16u << 20)
#define ANSWER_MS	60000
#define POLL_MS		50

struct vm_client {
	int fd;
	char *buf;
	size_t len, room;
	json_object *events;		/* that came before an answer */
	unsigned unanswered;		/* of vm_client_send() */
};

/* The next line as an object, the caller's: 0, -ETIMEDOUT, -EPIPE, -EBADMSG, -ENOMEM. */
static int next_line(struct vm_client *c, uint64_t deadline_ns, json_object **ret)
{
	char *end;

	while (!(end = c->len ? memchr(c->buf, '\n', c->len) : NULL)) {
		uint64_t now = sp_env_monotonic_ns();
		struct pollfd p = { .fd = c->fd, .events = POLLIN };
		ssize_t n;
		int r;

		if (c->len == c->room) {
			size_t room = c->room ? c->room * 2 : 65536;
			char *grown = room <= ANSWER_MAX ? sp_realloc(c->buf, room) : NULL;

			if (!grown)
				return -ENOMEM;
			c->buf = grown;
			c->room = room;
		}
		r = poll(&p, 1, deadline_ns > now ? (int)((deadline_ns - now) / 1000000) + 1 : 0);
		if (r <= 0 && !(r < 0 && errno == EINTR))
			return -ETIMEDOUT;
		if (r < 0)
			continue;
		n = read(c->fd, c->buf + c->len, c->room - c->len);
		if (n == 0 || (n < 0 && errno != EINTR))
			return -EPIPE;
		c->len += n > 0 ? (size_t)n : 0;
	}
	*end = '\0';
	*ret = json_tokener_parse(c->buf);
	c->len -= (size_t)(end + 1 - c->buf);
	memmove(c->buf, end + 1, c->len);
	return *ret ? 0 : -EBADMSG;
}

static bool is_answer(json_object *o, const char *key)
{
	return json_object_object_get_ex(o, key, NULL) || json_object_object_get_ex(o, "error", NULL);
}

static void note_answer(struct vm_client *c, json_object *o)
{
	if (c->unanswered && is_answer(o, "return"))
		c->unanswered--;
}

/* The next line with @key, or an error; events meanwhile are kept for vm_client_event(). */
static int next_of(struct vm_client *c, const char *key, json_object **ret)
{
	uint64_t deadline = sp_env_monotonic_ns() + ANSWER_MS * 1000000ull;
	json_object *o;
	int r;

	while ((r = next_line(c, deadline, &o)) == 0) {
		if (is_answer(o, key) && !c->unanswered) {
			*ret = o;
			return 0;
		}
		note_answer(c, o);
		if (!json_object_object_get_ex(o, "event", NULL) || json_object_array_add(c->events, o) < 0)
			json_object_put(o);
	}
	return r;
}

int vm_client_event(struct vm_client *c, int timeout_ms, json_object **ret)
{
	uint64_t deadline = sp_env_monotonic_ns() + (uint64_t)timeout_ms * 1000000;
	int r;

	if (json_object_array_length(c->events)) {
		*ret = json_object_get(json_object_array_get_idx(c->events, 0));
		json_object_array_del_idx(c->events, 0, 1);
		return 0;
	}
	while ((r = next_line(c, deadline, ret)) == 0 && !json_object_object_get_ex(*ret, "event", NULL)) {
		note_answer(c, *ret);
		json_object_put(*ret);
	}
	return r;
}

static int send_all(struct vm_client *c, const char *text, size_t len)
{
	while (len) {
		ssize_t n = send(c->fd, text, len, MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR)
			return -EPIPE;
		text += n > 0 ? n : 0;
		len -= n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static int error_of(json_object *answer, struct sp_err *err)
{
	json_object *error, *text;
	int code = -EIO;

	if (!json_object_object_get_ex(answer, "error", &error))
		return 0;
	if (json_object_object_get_ex(error, "class", &text) &&
	    strcmp(json_object_get_string(text), "DeviceNotActive") == 0)
		code = -ENOTCONN;
	json_object_object_get_ex(error, "desc", &text);
	return sp_err_set(err, code, "%s", json_object_get_string(text));
}

/* With its line end in one piece: a machine acts on the last brace, and what comes later may find it gone. */
static int send_command(struct vm_client *c, const char *command, json_object *arguments)
{
	json_object *o = json_object_new_object();
	char *line;
	int r;

	vm_json_add_text(o, "execute", command);
	if (arguments)
		json_object_object_add(o, "arguments", arguments);
	line = sp_asprintf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
	r = line ? send_all(c, line, strlen(line)) : -ENOMEM;
	sp_free(line);
	return r;
}

int vm_client_send(struct vm_client *c, const char *command, json_object *arguments)
{
	int r = send_command(c, command, arguments);

	c->unanswered += r == 0;
	return r;
}

int vm_client_fd(const struct vm_client *c)
{
	return c->fd;
}

int vm_client_call(struct vm_client *c, const char *command, json_object *arguments, json_object **ret,
		   struct sp_err *err)
{
	json_object *answer, *value;
	int r = send_command(c, command, arguments);

	if (r == 0)
		r = next_of(c, "return", &answer);
	if (r < 0)
		return sp_err_set(err, r, "%s: %s", command, r == -EPIPE ? "the machine has gone" : strerror(-r));
	r = error_of(answer, err);
	if (r == 0 && ret && json_object_object_get_ex(answer, "return", &value))
		*ret = json_object_get(value);
	json_object_put(answer);
	return r;
}

static bool is_named(json_object *event, const char *name)
{
	return name && strcmp(json_object_get_string(event), name) == 0;
}

static int timeout_left(uint64_t deadline)
{
	uint64_t now = sp_env_monotonic_ns();

	return deadline > now ? (int)((deadline - now) / 1000000) + 1 : 0;
}

int vm_client_wait(struct vm_client *c, const char *wanted, const char *other, int timeout_ms)
{
	uint64_t deadline = sp_env_monotonic_ns() + (uint64_t)timeout_ms * 1000000;
	json_object *o, *event;
	int r;

	while ((r = vm_client_event(c, timeout_left(deadline), &o)) == 0) {
		bool is_event = json_object_object_get_ex(o, "event", &event);
		int found = is_event && is_named(event, wanted) ? 0 : is_event && is_named(event, other) ? 1 : -1;

		json_object_put(o);
		if (found >= 0)
			return found;
	}
	return r;
}

static int connect_to(const char *path, int *ret_fd)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	memcpy(a.sun_path, path, strlen(path) + 1);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		int r = -errno;

		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

int vm_client_open(const char *name, struct vm_client **ret_client, struct sp_err *err)
{
	struct vm_client *c;
	json_object *greeting;
	char path[108];
	int fd = -1, r = vm_socket_path(name, path, err);

	if (r < 0)
		return r;
	r = connect_to(path, &fd);
	if (r < 0)
		return sp_err_set(err, r, "no machine \"%s\" runs (%s: %s); \"spindle-vm list\" shows those that do",
				  name, path, strerror(-r));
	c = sp_zalloc(sizeof(*c));
	if (!c) {
		close(fd);
		return sp_err_set(err, -ENOMEM, "out of memory");
	}
	c->fd = fd;
	c->events = json_object_new_array();
	r = next_of(c, "QMP", &greeting);
	if (r == 0) {
		json_object_put(greeting);
		r = vm_client_call(c, "qmp_capabilities", NULL, NULL, err);
	} else {
		sp_err_set(err, r, "%s does not greet: %s", path, strerror(-r));
	}
	if (r < 0)
		vm_client_close(c);
	else
		*ret_client = c;
	return r;
}

void vm_client_close(struct vm_client *c)
{
	if (!c)
		return;
	close(c->fd);
	sp_free(c->buf);
	json_object_put(c->events);
	sp_free(c);
}

/* ---- snapshots ----------------------------------------------------------------------------------------- */

int vm_client_delete_snapshot(struct vm_client *c, const char *name, uint64_t rate, struct sp_err *err)
{
	json_object *arguments = json_object_new_object();

	vm_json_add_text(arguments, "name", name);
	json_object_object_add(arguments, "speed", json_object_new_uint64(rate));
	return vm_client_call(c, "spindle-snapshot-delete", arguments, NULL, err);
}

static int job_now(struct vm_client *c, json_object **ret_job, struct sp_err *err)
{
	json_object *jobs = NULL;
	int r = vm_client_call(c, "query-jobs", NULL, &jobs, err);

	if (r < 0)
		return r;
	*ret_job = json_object_get(json_object_array_get_idx(jobs, 0));
	json_object_put(jobs);
	return *ret_job ? 0 : sp_err_set(err, -ENOENT, "the job has gone");
}

int vm_client_wait_deletion(struct vm_client *c, void (*progress)(json_object *job), json_object **ret_job,
			    struct sp_err *err)
{
	json_object *job = NULL;
	int r;

	while ((r = job_now(c, &job, err)) == 0 && strcmp(vm_json_text(job, "status"), "concluded")) {
		if (progress)
			progress(job);
		json_object_put(job);
		job = NULL;
		usleep(POLL_MS * 1000);
	}
	if (r == 0 && *vm_json_text(job, "error"))
		r = sp_err_set(err, -EAGAIN, "%s", vm_json_text(job, "error"));
	if (ret_job)
		*ret_job = job;
	else
		json_object_put(job);
	return r;
}
