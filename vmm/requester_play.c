/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Those who hold still. Each machine's coordinator asks for itself, and has the deadlines; an application is frozen for
 * the first that asks and thawed for the first: by then all machines have switched, or the set has failed.
 */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/env.h"
#include "base/seed.h"
#include "base/utf8.h"
#include "vmm/requester_int.h"

#define HELLO_MS 2000u

static bool is_script(const struct player *p)
{
	return !*p->name;
}

/* Machines hear what has become of what they asked for. */
static void tell(struct player *p, enum vss_op op, bool good)
{
	for (unsigned i = 0; i < p->of->targets; i++) {
		if (p->waits[i] != op + 1)
			continue;
		p->waits[i] = 0;
		requester_answer(p->of, i, p, op, good, good ? VSS_REASON_NONE : p->reason);
	}
}

static void resolve(struct player *p)
{
	switch (p->state) {
	case PLAY_READY:
		tell(p, VSS_OP_CHECK, true);
		break;
	case PLAY_FROZEN:
		tell(p, VSS_OP_FREEZE, true);
		break;
	case PLAY_THAWED:
	case PLAY_OUT:
		tell(p, VSS_OP_CHECK, false);
		tell(p, VSS_OP_FREEZE, false);
		if (!p->held)
			tell(p, VSS_OP_THAW, true);
		break;
	default:
		break;
	}
}

static void become(struct player *p, enum play_state state)
{
	p->state = state;
	resolve(p);
}

static void out(struct player *p, enum vss_reason why, const char *detail)
{
	p->reason = why;
	snprintf(p->detail, sizeof(p->detail), "%s", detail);
	requester_say(p->of, "%s: %s", is_script(p) ? p->machine->name : p->name, detail);
	become(p, PLAY_OUT);
}

static void release(struct player *p)
{
	if (p->held)
		held_note(p->of, (unsigned)(p - p->of->player), false);
	p->held = false;
}

/* Its end has thawed it, or the end of the connection does: nobody knows whether that was before it was told to, so
 * machines hear of the loss first, and of a thaw that they may wait for after that. */
static void lose(struct player *p, enum vss_reason why, const char *detail)
{
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
	release(p);
	p->reason = why;
	if (!SP_SEED_BUG(VSS_LOSS_AFTER_THAW))
		requester_lost(p->of, p);
	out(p, why, detail);
}

/* ---- sockets ------------------------------------------------------------------------------------------ */

int play_connect(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int r, fd;

	if (strlen(path) >= sizeof(a.sun_path))
		return -ENAMETOOLONG;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	memcpy(a.sun_path, path, strlen(path) + 1);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
		return fd;
	r = -errno;
	close(fd);
	return r;
}

static void send_message(struct player *p, enum vss_wire_type type, uint32_t value, const char *text)
{
	struct vss_wire m;

	vss_wire_make(&m, type, ++p->serial, value, text);
	if (p->fd >= 0 && send(p->fd, &m, sizeof(m), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		shutdown(p->fd, SHUT_RDWR);	/* reading tells */
}

static void name_it(struct player *p, const char *name)
{
	bool again = strcmp(name, "guest") == 0 || strcmp(name, "requester") == 0;

	for (unsigned i = 0; i < p->of->writers; i++)
		again = again || (&p->of->player[i] != p && strcmp(p->of->player[i].name, name) == 0);
	snprintf(p->name, sizeof(p->name), again ? "%.48s-%u" : "%.48s", name, (unsigned)(p - p->of->player) + 1);
}

static void on_hello(struct player *p, const struct vss_wire *m)
{
	if (le16_get(m->type) != VSS_WIRE_HELLO || !vss_wire_name_ok(m->text) || le32_get(m->value) > VSS_APPLICATION) {
		lose(p, VSS_REASON_UNREACHABLE, "its greeting is none");
		return;
	}
	name_it(p, m->text);
	p->grants = le32_get(m->value);
	p->state = PLAY_READY;
}

static void thawed(struct player *p, bool early, const char *detail)
{
	release(p);
	if (early) {
		p->reason = VSS_REASON_EARLY;
		snprintf(p->detail, sizeof(p->detail), "%s", *detail ? detail : "it has thawed by itself");
		requester_lost(p->of, p);
	}
	become(p, PLAY_THAWED);
}

static void on_answer(struct player *p, const struct vss_wire *m)
{
	unsigned type = le16_get(m->type);
	uint32_t serial = le32_get(m->serial);

	if (serial && serial != p->serial)
		return;			/* to what nobody waits for any more */
	if (!serial && type == VSS_WIRE_THAWED && p->held)
		thawed(p, true, m->text);
	else if (serial && type == VSS_WIRE_READY && p->state == PLAY_CHECKING)
		become(p, PLAY_READY);
	else if (serial && type == VSS_WIRE_FROZEN && p->state == PLAY_FREEZING)
		become(p, PLAY_FROZEN);
	else if (serial && type == VSS_WIRE_REFUSED && (p->state == PLAY_CHECKING || p->state == PLAY_FREEZING))
		out(p, p->state == PLAY_CHECKING ? VSS_REASON_REFUSED : VSS_REASON_FREEZE_ERROR, m->text);
	else if (serial && type == VSS_WIRE_THAWED && p->state == PLAY_THAWING)
		thawed(p, le32_get(m->value) != 0, m->text);
	else
		lose(p, VSS_REASON_GONE, "it does not keep to the protocol");
}

/* It goes into what people and JSON parsers read. */
static void clean_text(char *text)
{
	uint32_t cp;
	unsigned len;

	for (; *text; text += len ? len : 1) {
		len = sp_utf8_next(text, &cp);
		if (!len || cp < ' ' || cp == 127 || sp_is_surrogate(cp))
			memset(text, '?', len ? len : 1);
	}
}

static void on_message(struct player *p)
{
	struct vss_wire m;
	ssize_t n = recv(p->fd, &m, sizeof(m), MSG_DONTWAIT | MSG_TRUNC);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		lose(p, p->serial ? VSS_REASON_GONE : VSS_REASON_UNREACHABLE, "it has gone");
	} else if (vss_wire_check(&m, (size_t)n) < 0) {
		lose(p, VSS_REASON_GONE, "it does not speak this protocol");
	} else {
		clean_text(m.text);
		if (p->state == PLAY_OUT && !p->serial)
			on_hello(p, &m);
		else
			on_answer(p, &m);
	}
}

/* ---- scripts ------------------------------------------------------------------------------------------ */

static void run(struct player *p, const char *command)
{
	int fd = script_start(command, p->machine->name, p->of->opts->snapshot, &p->pid);

	p->fd = fd >= 0 ? fd : -1;
	if (fd < 0)
		out(p, VSS_REASON_FREEZE_ERROR, strerror(-fd));
	if (fd < 0)
		tell(p, VSS_OP_THAW, false);
}

static void run_post(struct player *p)
{
	if (p->of->opts->post)
		run(p, p->of->opts->post);
	else
		thawed(p, false, "");
}

static void on_script_end(struct player *p)
{
	char detail[32], text[VSS_WIRE_TEXT];
	bool good = script_ended_well(&p->fd, detail, sizeof(detail)), thawing = p->state == PLAY_THAWING;

	if (p->pre_runs) {
		p->pre_runs = false;
		run_post(p);
	} else if (good && thawing) {
		thawed(p, false, "");
	} else if (good) {
		become(p, PLAY_FROZEN);
	} else {
		snprintf(text, sizeof(text), "\"%.60s\": %s", thawing ? p->of->opts->post : p->of->opts->pre, detail);
		out(p, thawing ? VSS_REASON_THAW : VSS_REASON_FREEZE_ERROR, text);
		tell(p, VSS_OP_THAW, false);
	}
}

/* ---- operations --------------------------------------------------------------------------------------- */

static void start_freeze(struct player *p)
{
	struct requester *r = p->of;
	int res = SP_SEED_BUG(VSS_FREEZE_BEFORE_RECORD) ? 0 : held_note(r, (unsigned)(p - r->player), true);

	if (res < 0) {
		out(p, VSS_REASON_FREEZE_ERROR, strerror(-res));
		return;
	}
	p->held = true;
	if (!r->end_ns)
		r->end_ns = sp_env_monotonic_ns() + r->freeze_ns;
	p->state = PLAY_FREEZING;
	if (!is_script(p))
		send_message(p, VSS_WIRE_FREEZE, (uint32_t)(r->freeze_ns / 1000000), NULL);
	else if (r->opts->pre)
		run(p, r->opts->pre);
	else
		become(p, PLAY_FROZEN);
}

void play_thaw(struct player *p)
{
	if (!p->held || p->state == PLAY_THAWING)
		return;
	p->state = PLAY_THAWING;
	if (!is_script(p)) {
		send_message(p, VSS_WIRE_THAW, 0, NULL);
		return;
	}
	p->pre_runs = p->fd >= 0;
	if (p->pre_runs)
		kill(-p->pid, SIGKILL);		/* what it has done by now is undone */
	else
		run_post(p);
}

void play_ask(struct player *p, unsigned machine, enum vss_op op)
{
	p->waits[machine] = (uint8_t)(op + 1);
	if (op == VSS_OP_CHECK && p->state == PLAY_READY) {
		p->state = PLAY_CHECKING;
		send_message(p, VSS_WIRE_CHECK, 0, p->of->opts->snapshot);
	} else if (op == VSS_OP_FREEZE && p->state == PLAY_READY) {
		start_freeze(p);
	} else if (op == VSS_OP_THAW && p->held) {
		play_thaw(p);
	} else {
		if (op == VSS_OP_THAW)
			tell(p, op, true);
		resolve(p);
	}
}

void play_event(struct player *p)
{
	if (is_script(p))
		on_script_end(p);
	else
		on_message(p);
}

void play_complete(struct player *p, bool good)
{
	if (p->fd >= 0 && !is_script(p))
		send_message(p, VSS_WIRE_COMPLETE, good, NULL);
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
}

/* ---- who there is ------------------------------------------------------------------------------------- */

static int add_writer(struct requester *r, const char *path, struct sp_err *err)
{
	struct player *p = &r->player[r->players];
	const char *slash = strrchr(path, '/');

	if (r->players == VM_SET_WRITERS_MAX || strlen(path) >= sizeof(p->path))
		return sp_err_set(err, -EINVAL, "writer %s: at most %u, and %u bytes of a name, are possible", path,
				  VM_SET_WRITERS_MAX, PATH_BYTES - 1);
	*p = (struct player){ .of = r, .grants = VSS_APPLICATION, .state = PLAY_OUT, .fd = -1 };
	snprintf(p->path, sizeof(p->path), "%s", path);
	r->writers = ++r->players;
	name_it(p, slash ? slash + 1 : path);	/* until it has told its own */
	p->fd = play_connect(path);
	if (p->fd < 0) {
		out(p, VSS_REASON_UNREACHABLE, strerror(-p->fd));
		p->fd = -1;
	}
	return 0;
}

static int is_socket(const struct dirent *e)
{
	return e->d_type == DT_SOCK;
}

static int add_folder(struct requester *r, const char *path, struct sp_err *err)
{
	struct dirent **list;
	int n = scandir(path, &list, is_socket, alphasort), res = 0;

	if (n < 0)
		return sp_err_set(err, -errno, "%s: %s", path, strerror(errno));
	for (int i = 0; i < n; i++) {
		char full[4096];

		snprintf(full, sizeof(full), "%.3000s/%.255s", path, list[i]->d_name);
		if (res == 0)
			res = add_writer(r, full, err);
		free(list[i]);
	}
	free(list);
	return res;
}

static bool unknown(const struct player *p)
{
	return p->fd >= 0 && p->state == PLAY_OUT;
}

static void wait_hellos(struct requester *r)
{
	uint64_t end = sp_env_monotonic_ns() + HELLO_MS * 1000000ull, now;
	struct pollfd fds[VM_SET_WRITERS_MAX];
	unsigned waiting = 1;

	while (waiting && (now = sp_env_monotonic_ns()) < end) {
		waiting = 0;
		for (unsigned i = 0; i < r->players; i++) {
			fds[i] = (struct pollfd){ unknown(&r->player[i]) ? r->player[i].fd : -1, POLLIN, 0 };
			waiting += fds[i].fd >= 0;
		}
		if (!waiting || poll(fds, r->players, (int)((end - now) / 1000000) + 1) <= 0)
			continue;
		for (unsigned i = 0; i < r->players; i++)
			if (fds[i].revents)
				play_event(&r->player[i]);
	}
	for (unsigned i = 0; i < r->players; i++)
		if (unknown(&r->player[i]))
			lose(&r->player[i], VSS_REASON_UNREACHABLE, "it does not greet");
}

int play_gather(struct requester *r, struct sp_err *err)
{
	int res = 0;

	for (unsigned i = 0; res == 0 && i < r->opts->writers; i++) {
		const char *path = r->opts->writer[i];
		struct stat st;

		res = stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? add_folder(r, path, err) : add_writer(r, path, err);
	}
	wait_hellos(r);
	return res;
}

void play_add_scripts(struct requester *r, struct vm_set_machine *m)
{
	r->player[r->players++] = (struct player){ .of = r, .machine = m, .state = PLAY_READY, .fd = -1 };
}
