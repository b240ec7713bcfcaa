/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Who has been told to hold still, on record before it is told: a file for each requester, locked by it while it lives.
 * A line each, only added: a torn last one was not yet followed by what it announces.
 */
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "vmm/requester_int.h"

#define PREFIX	  "frozen-"
#define RECORD_MAX (1u << 20)
#define PAY_MS	  10000

/* ---- the living requester ------------------------------------------------------------------------------ */

static int record_new(struct requester *r)
{
	struct sp_err err = { 0 };
	char dir[80];
	int res = vm_runtime_dir(dir, &err);

	while (res == 0 && r->held_fd < 0) {
		struct stat st;

		snprintf(r->held_path, sizeof(r->held_path), "%s/" PREFIX "XXXXXX", dir);
		r->held_fd = mkostemp(r->held_path, O_CLOEXEC | O_APPEND);
		if (r->held_fd < 0)
			return -errno;
		/* Somebody who recovers may have taken the empty file for a leftover. */
		if (flock(r->held_fd, LOCK_EX) == 0 && fstat(r->held_fd, &st) == 0 && st.st_nlink == 1)
			break;
		close(r->held_fd);
		r->held_fd = -1;
	}
	return res;
}

static json_object *describe(const struct requester *r, unsigned player, bool held)
{
	const struct player *p = &r->player[player];
	json_object *o = json_object_new_object();

	json_object_object_add(o, "who", json_object_new_int((int)player));
	if (!held)
		return o;
	if (*p->path) {
		vm_json_add_text(o, "writer", p->path);
	} else {
		vm_json_add_text(o, "post", r->opts->post ? r->opts->post : "");
		vm_json_add_text(o, "machine", p->machine->name);
		vm_json_add_text(o, "snapshot", r->opts->snapshot);
	}
	return o;
}

int held_note(struct requester *r, unsigned player, bool held)
{
	int res = r->held_fd < 0 ? record_new(r) : 0;
	json_object *o;
	char *line = NULL;
	int len;

	if (res < 0)
		return res;
	o = describe(r, player, held);
	len = asprintf(&line, "%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
	json_object_put(o);
	if (len < 0)
		return -ENOMEM;
	if (write(r->held_fd, line, (size_t)len) != len || fsync(r->held_fd) < 0)
		res = errno ? -errno : -ENOSPC;
	free(line);
	return res;
}

void held_end(struct requester *r)
{
	bool left = false;

	if (r->held_fd < 0)
		return;
	for (unsigned i = 0; i < r->players; i++)
		left = left || r->player[i].held;
	if (!left)
		unlink(r->held_path);
	close(r->held_fd);
	r->held_fd = -1;
}

/* ---- after its end ------------------------------------------------------------------------------------- */

static const char *text_of(json_object *o, const char *key)
{
	json_object *value;

	return json_object_object_get_ex(o, key, &value) && json_object_is_type(value, json_type_string) ?
	       json_object_get_string(value) : NULL;
}

/* One message to a writer that is there. Who is not has thawed by ending. */
static bool pay_writer(const char *path)
{
	struct vss_wire m;
	struct pollfd p = { play_connect(path), POLLIN, 0 };
	bool paid = false;

	if (p.fd < 0)
		return p.fd == -ECONNREFUSED || p.fd == -ENOENT;
	vss_wire_make(&m, VSS_WIRE_THAW, 1, 0, NULL);
	if (send(p.fd, &m, sizeof(m), MSG_NOSIGNAL) < 0)
		paid = errno == EPIPE;
	while (!paid && poll(&p, 1, PAY_MS) > 0) {
		ssize_t n = recv(p.fd, &m, sizeof(m), MSG_TRUNC);

		if (n <= 0 || vss_wire_check(&m, (size_t)n) < 0)
			break;
		paid = le16_get(m.type) == VSS_WIRE_THAWED;
	}
	close(p.fd);
	return paid;
}

static bool pay_script(json_object *o)
{
	const char *command = text_of(o, "post"), *machine = text_of(o, "machine"), *snapshot = text_of(o, "snapshot");
	char detail[64];
	struct pollfd p;
	pid_t pid;

	if (!command || !*command || !machine || !snapshot)
		return true;
	p = (struct pollfd){ script_start(command, machine, snapshot, &pid), POLLIN, 0 };
	if (p.fd < 0)
		return false;
	if (poll(&p, 1, 6 * PAY_MS) == 0)
		kill(-pid, SIGKILL);
	return script_ended_well(&p.fd, detail, sizeof(detail));
}

static bool pay(json_object *o, void (*say)(const char *text))
{
	const char *writer = text_of(o, "writer"), *what = writer ? writer : text_of(o, "post");
	bool paid = writer ? pay_writer(writer) : pay_script(o);
	char text[512];

	snprintf(text, sizeof(text), "left frozen by a requester that is no more: %.300s: %s", what ? what : "",
		 paid ? "thawed" : "cannot be thawed now");
	if (say)
		say(text);
	return paid;
}

/* The lines that are whole; by number the last one counts. */
static void read_lines(char *text, json_object *held[static PLAYERS_MAX])
{
	char *end;

	for (; (end = strchr(text, '\n')); text = end + 1) {
		json_object *o, *who;
		int i;

		*end = '\0';
		o = json_tokener_parse(text);
		i = o && json_object_object_get_ex(o, "who", &who) ? json_object_get_int(who) : -1;
		if (i < 0 || i >= (int)PLAYERS_MAX) {
			json_object_put(o);
			continue;
		}
		json_object_put(held[i]);
		held[i] = o;
		if (json_object_object_length(o) == 1) {
			json_object_put(o);
			held[i] = NULL;
		}
	}
}

static int pay_all(int fd, void (*say)(const char *text))
{
	json_object *held[PLAYERS_MAX] = { 0 };
	char *text = sp_zalloc(RECORD_MAX + 1);
	int owed = 0;

	if (!text || pread(fd, text, RECORD_MAX, 0) < 0) {
		sp_free(text);
		return -EIO;
	}
	read_lines(text, held);
	for (unsigned i = 0; i < PLAYERS_MAX; i++) {
		owed += held[i] && !pay(held[i], say);
		json_object_put(held[i]);
	}
	sp_free(text);
	return owed;
}

/* True: its requester was no more. */
static bool recover_one(const char *path, void (*say)(const char *text))
{
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;
	bool dead = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &st) == 0 && st.st_uid == geteuid() &&
		    st.st_nlink;

	if (dead && pay_all(fd, say) == 0)
		unlink(path);
	if (fd >= 0)
		close(fd);
	return dead;
}

int vm_set_recover(void (*say)(const char *text), struct sp_err *err)
{
	char dir[80], path[512];
	struct dirent *e;
	int found = 0, r = vm_runtime_dir(dir, err);
	DIR *d;

	if (r < 0)
		return r;
	d = opendir(dir);
	if (!d)
		return sp_err_set(err, -errno, "%s: %s", dir, strerror(errno));
	while ((e = readdir(d))) {
		if (strncmp(e->d_name, PREFIX, strlen(PREFIX)))
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		found += recover_one(path, say);
	}
	closedir(d);
	return found;
}
