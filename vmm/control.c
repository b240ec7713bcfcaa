/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmm/control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "vmm/control_int.h"
#include "vmm/json_text.h"
#include "vmm/machine_snapshot.h"

#define LINE_MAX_BYTES	(64u << 10)
#define BACKLOG_MAX	(4u << 20)	/* bytes a client has not read */
#define CLIENTS_MAX	16u
#define SOCKETS_MAX	4u
#define NESTING_MAX	16

struct client {
	struct vmm_control *control;
	int fd;
	struct vmm_watch *watch;
	bool negotiated;		/* qmp_capabilities has been executed */
	bool dead;			/* to be freed by who called */
	char line[LINE_MAX_BYTES];
	size_t line_len;
	char *out;			/* not yet sent */
	size_t out_len, out_room;
	struct client *next;
};

struct listener {
	struct vmm_control *control;
	int fd;
	char *path;
	struct vmm_watch *watch;
};

struct vmm_control {
	struct vmm_machine *machine;
	struct vmm_loop *loop;
	uid_t owner;			/* who started the machine; its process may be nobody by now */
	struct listener listener[SOCKETS_MAX];
	unsigned listeners, clients;
	struct client *client;
};

/* ---- out ---------------------------------------------------------------------------------------------- */

/* Its own event brings it to on_client(), which frees it: whoever finds it dead may be walking the list. */
static void client_die(struct client *c)
{
	c->dead = true;
	shutdown(c->fd, SHUT_RDWR);
}

static void client_flush(struct client *c)
{
	while (c->out_len) {
		ssize_t n = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno != EAGAIN && errno != EINTR)
			client_die(c);
		if (n < 0)
			break;
		memmove(c->out, c->out + n, c->out_len - (size_t)n);
		c->out_len -= (size_t)n;
	}
	if (c->watch)
		vmm_loop_modify(c->watch, c->out_len ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static bool make_room(struct client *c, size_t more)
{
	size_t want = c->out_len + more, room = sp_max(want, 2 * c->out_room);
	char *grown;

	if (want <= c->out_room || want > BACKLOG_MAX)
		return want <= BACKLOG_MAX;
	grown = sp_realloc(c->out, room);
	if (!grown)
		return false;
	c->out = grown;
	c->out_room = room;
	return true;
}

/* Takes @o over. */
static void client_say(struct client *c, json_object *o)
{
	const char *text = o ? json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN) : NULL;
	size_t len = text ? strlen(text) : 0;
	bool waits = c->out_len;	/* for EPOLLOUT: there is no room for more */

	if (!text || !make_room(c, len + 2)) {
		client_die(c);
	} else {
		memcpy(c->out + c->out_len, text, len);
		memcpy(c->out + c->out_len + len, "\r\n", 2);
		c->out_len += len + 2;
		if (!waits)
			client_flush(c);
	}
	json_object_put(o);
}

static void client_greet(struct client *c)
{
	static const char greeting[] = "{\"QMP\": {\"version\": {\"qemu\": {\"major\": 7, \"minor\": 2, \"micro\": 0}, "
				       "\"package\": \"spindle-vm\"}, \"capabilities\": []}}";

	client_say(c, json_tokener_parse(greeting));
}

static void client_answer(struct client *c, json_object *id, json_object *value)
{
	json_object *o = json_object_new_object();

	json_object_object_add(o, "return", value ? value : json_object_new_object());
	if (id)
		json_object_object_add(o, "id", json_object_get(id));
	client_say(c, o);
}

static void client_refuse(struct client *c, json_object *id, const char *class, const char *text)
{
	json_object *o = json_object_new_object(), *error = json_object_new_object();

	vm_json_add_text(error, "class", class);
	vm_json_add_text(error, "desc", text);
	json_object_object_add(o, "error", error);
	if (id)
		json_object_object_add(o, "id", json_object_get(id));
	client_say(c, o);
}

static void on_event(void *ctx, const char *name, void *data)
{
	struct vmm_control *control = ctx;
	struct timeval now;

	gettimeofday(&now, NULL);
	for (struct client *c = control->client; c; c = c->next) {
		json_object *o, *stamp;

		if (!c->negotiated || c->dead)
			continue;
		o = json_object_new_object();
		stamp = json_object_new_object();
		vm_json_add_text(o, "event", name);
		json_object_object_add(o, "data", data ? json_object_get(data) : json_object_new_object());
		json_object_object_add(stamp, "seconds", json_object_new_int64(now.tv_sec));
		json_object_object_add(stamp, "microseconds", json_object_new_int64(now.tv_usec));
		json_object_object_add(o, "timestamp", stamp);
		client_say(c, o);
	}
	json_object_put(data);
}

/* ---- in ----------------------------------------------------------------------------------------------- */

static void add_name(json_object *list, const char *name)
{
	json_object *one = json_object_new_object();

	vm_json_add_text(one, "name", name);
	json_object_array_add(list, one);
}

static const struct control_command *const tables[] = {
	control_commands, control_snapshot_commands, control_track_commands,
};

static json_object *command_names(void)
{
	json_object *list = json_object_new_array();

	add_name(list, "qmp_capabilities");
	add_name(list, "query-commands");
	for (unsigned i = 0; i < SP_ARRAY_SIZE(tables); i++)
		for (const struct control_command *k = tables[i]; k->name; k++)
			add_name(list, k->name);
	return list;
}

static const struct control_command *find_command(const char *name)
{
	for (unsigned i = 0; i < SP_ARRAY_SIZE(tables); i++)
		for (const struct control_command *k = tables[i]; k->name; k++)
			if (strcmp(k->name, name) == 0)
				return k;
	return NULL;
}

static void run_command(struct client *c, const char *name, json_object *arguments, json_object *id)
{
	const struct control_command *k;
	json_object *value = NULL;
	struct sp_err err = { 0 };
	int r;

	if (!c->control->machine) {
		client_refuse(c, id, "GenericError", "the machine is off");
		return;
	}
	k = find_command(name);
	if (!k) {
		client_refuse(c, id, "CommandNotFound", "no such command; query-commands lists them");
		return;
	}
	r = k->run_for ? k->run_for(c->control->machine, c, arguments, &err) :
			 k->run(c->control->machine, arguments, &value, &err);
	if (r < 0)
		client_refuse(c, id, control_error_class(r), sp_err_text(&err));
	else
		client_answer(c, id, value);
}

static void client_execute(struct client *c, json_object *request)
{
	json_object *name = NULL, *arguments = NULL, *id = NULL;

	json_object_object_get_ex(request, "id", &id);
	json_object_object_get_ex(request, "arguments", &arguments);
	if (!json_object_object_get_ex(request, "execute", &name) || !json_object_is_type(name, json_type_string)) {
		client_refuse(c, id, "GenericError", "expected {\"execute\": \"NAME\", \"arguments\": {...}}");
	} else if (arguments && !json_object_is_type(arguments, json_type_object)) {
		client_refuse(c, id, "GenericError", "\"arguments\" is no object");
	} else if (strcmp(json_object_get_string(name), "qmp_capabilities") == 0) {
		c->negotiated = true;
		client_answer(c, id, NULL);
	} else if (!c->negotiated) {
		client_refuse(c, id, "CommandNotFound", "expecting capabilities negotiation with 'qmp_capabilities'");
	} else if (strcmp(json_object_get_string(name), "query-commands") == 0) {
		client_answer(c, id, command_names());
	} else {
		run_command(c, json_object_get_string(name), arguments, id);
	}
}

static bool is_blank(const char *text, size_t len)
{
	while (len && strchr(" \t\r\n", *text) && *text)
		text++, len--;
	return len == 0;
}

static void client_request(struct client *c, const char *line, size_t len)
{
	json_tokener *t = json_tokener_new_ex(NESTING_MAX);
	json_object *request = NULL;
	size_t used = 0;

	if (t) {
		json_tokener_set_flags(t, JSON_TOKENER_VALIDATE_UTF8);
		request = json_tokener_parse_ex(t, line, (int)len);
		used = json_tokener_get_parse_end(t);
		json_tokener_free(t);
	}
	if (request && json_object_is_type(request, json_type_object) && is_blank(line + used, len - used))
		client_execute(c, request);
	else
		client_refuse(c, NULL, "GenericError", "JSON parse error: expected an object on one line");
	json_object_put(request);
}

/*
 * Bytes of the next request: up to the brace that closes it, as many clients send no line end, or up to the end of a
 * line that holds none. 0: it has not come as a whole.
 */
static size_t request_len(const char *text, size_t len)
{
	bool in_string = false;
	unsigned depth = 0;

	for (size_t i = 0; i < len; i++) {
		if (text[i] == '\n')
			return i + 1;
		if (in_string && text[i] == '\\')
			i++;
		else if (text[i] == '"')
			in_string = !in_string;
		else if (!in_string && text[i] == '{')
			depth++;
		else if (!in_string && text[i] == '}' && depth && --depth == 0 && *text == '{')
			return i + 1;
	}
	return 0;
}

static void client_requests(struct client *c)
{
	size_t at = 0, len;

	while (!c->dead && (len = request_len(c->line + at, c->line_len - at))) {
		if (!is_blank(c->line + at, len))
			client_request(c, c->line + at, len);
		at += len;
		while (at < c->line_len && is_blank(c->line + at, 1))
			at++;
	}
	memmove(c->line, c->line + at, c->line_len - at);
	c->line_len -= at;
	if (c->line_len == sizeof(c->line)) {
		client_refuse(c, NULL, "GenericError", "request longer than 64 KiB");
		client_die(c);
	}
}

static void client_free(struct client *c)
{
	struct client **at = &c->control->client;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	c->control->clients--;
	if (c->control->machine)
		vmm_machine_snapshot_owner_gone(c->control->machine, c);
	vmm_loop_remove(c->watch);
	close(c->fd);
	sp_free(c->out);
	sp_free(c);
}

/* With the client at hand those that an event has found dead. */
static void sweep(struct vmm_control *control)
{
	struct client *c = control->client;

	while (c) {
		struct client *next = c->next;

		if (c->dead)
			client_free(c);
		c = next;
	}
}

static void on_client(void *ctx, uint32_t events)
{
	struct client *c = ctx;
	struct vmm_control *control = c->control;

	if (events & EPOLLOUT)
		client_flush(c);
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		ssize_t n = recv(c->fd, c->line + c->line_len, sizeof(c->line) - c->line_len, MSG_DONTWAIT);

		if (n > 0) {
			c->line_len += (size_t)n;
			client_requests(c);
		} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
			c->dead = true;
		}
	}
	sweep(control);
}

/* ---- sockets ------------------------------------------------------------------------------------------ */

static bool may_talk(const struct vmm_control *control, int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
	       (peer.uid == 0 || peer.uid == control->owner);
}

static void on_listener(void *ctx, uint32_t events)
{
	struct listener *l = ctx;
	struct vmm_control *control = l->control;
	int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct client *c;

	if (fd < 0)
		return;
	c = may_talk(control, fd) && control->clients < CLIENTS_MAX ? sp_zalloc(sizeof(*c)) : NULL;
	if (!c || vmm_loop_add(control->loop, fd, EPOLLIN, on_client, c, &c->watch) < 0) {
		sp_free(c);
		close(fd);
		return;
	}
	c->control = control;
	c->fd = fd;
	c->next = control->client;
	control->client = c;
	control->clients++;
	client_greet(c);
	sweep(control);
}

static int address_of(const char *path, struct sockaddr_un *ret, struct sp_err *err)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof(ret->sun_path))
		return sp_err_set(err, -ENAMETOOLONG, "%s: a socket's name has at most %zu characters", path,
				  sizeof(ret->sun_path) - 1);
	strcpy(ret->sun_path, path);
	return 0;
}

/* Between bind() and listen() a socket looks like a leftover: whoever makes one in this folder waits for its turn. */
static int lock_folder(const char *path, struct sp_err *err)
{
	SP_AUTO_FREE char *folder = sp_strdup(path);
	char *slash = folder ? strrchr(folder, '/') : NULL;
	int fd;

	if (!folder)
		return sp_err_set(err, -ENOMEM, "out of memory");
	if (slash)
		slash[slash == folder] = '\0';
	fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || flock(fd, LOCK_EX) < 0) {
		int r = -errno;

		if (fd >= 0)
			close(fd);
		return sp_err_set(err, r, "%s: %s", path, strerror(-r));
	}
	return fd;
}

/* Who listens on it is alive; a file that nobody listens on is a leftover. */
static int remove_stale(const struct sockaddr_un *a, struct sp_err *err)
{
	struct stat st;
	int fd, r;

	if (lstat(a->sun_path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return sp_err_set(err, -EEXIST, "%s is there and no socket", a->sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return sp_err_set(err, -errno, "socket: %s", strerror(errno));
	r = connect(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 ? errno : 0;
	close(fd);
	if (r != ECONNREFUSED)
		return sp_err_set(err, -EADDRINUSE, "%s: a machine of this name runs already", a->sun_path);
	unlink(a->sun_path);
	return 0;
}

static int listen_at(const struct sockaddr_un *a, int *ret_fd, struct sp_err *err)
{
	mode_t mask;
	int fd, r = remove_stale(a, err);

	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return sp_err_set(err, -errno, "socket: %s", strerror(errno));
	mask = umask(0177);
	r = bind(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 || listen(fd, 8) < 0 ? -errno : 0;
	umask(mask);
	if (r < 0) {
		close(fd);
		return sp_err_set(err, r, "%s: %s", a->sun_path, strerror(-r));
	}
	*ret_fd = fd;
	return 0;
}

int vmm_control_listen(const char *path, int *ret_fd, struct sp_err *err)
{
	struct sockaddr_un a;
	int lock, r = address_of(path, &a, err);

	if (r < 0)
		return r;
	lock = lock_folder(path, err);
	if (lock < 0)
		return lock;
	r = listen_at(&a, ret_fd, err);
	close(lock);
	return r;
}

int vmm_control_add(struct vmm_control *c, int fd, const char *path)
{
	struct listener *l = &c->listener[c->listeners];
	int r;

	if (c->listeners == SOCKETS_MAX)
		return -ENOSPC;
	*l = (struct listener){ .control = c, .fd = fd, .path = sp_strdup(path) };
	r = l->path ? vmm_loop_add(c->loop, fd, EPOLLIN, on_listener, l, &l->watch) : -ENOMEM;
	if (r < 0)
		sp_free(l->path);
	else
		c->listeners++;
	return r;
}

int vmm_control_new(struct vmm_machine *m, struct vmm_loop *loop, struct vmm_control **ret_control, struct sp_err *err)
{
	struct vmm_control *c = sp_zalloc(sizeof(*c));

	if (!c || vmm_machine_on_event(m, on_event, c) < 0) {
		sp_free(c);
		return sp_err_set(err, -ENOMEM, "out of memory");
	}
	c->machine = m;
	c->loop = loop;
	c->owner = geteuid();
	*ret_control = c;
	return 0;
}

void vmm_control_machine_gone(struct vmm_control *c)
{
	if (c && c->machine)
		vmm_machine_off_event(sp_take(c->machine), on_event, c);
}

void vmm_control_free(struct vmm_control *c)
{
	if (!c)
		return;
	vmm_control_machine_gone(c);
	while (c->client)
		client_free(c->client);
	for (unsigned i = 0; i < c->listeners; i++) {
		vmm_loop_remove(c->listener[i].watch);
		close(c->listener[i].fd);
		unlink(c->listener[i].path);
		sp_free(c->listener[i].path);
	}
	sp_free(c);
}
