/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The library of an application that holds still, against requesters that leave, are late, say it twice, or say what
 * is no message. Frozen is what the operations did, not what the library says.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/rows.h"
#include "vss/wire.h"
#include "vss/writer.h"

static struct {
	char folder[64], path[100];
	struct vss_host *host;
	int check, freeze;		/* what the operations return */
	bool frozen;
	unsigned freezes, thaws, good, bad, freeze_takes_ms;
} t;

static int op_check(void *ctx, const char *snapshot, const char **ret_why)
{
	*ret_why = "not today";
	return t.check;
}

static int op_freeze(void *ctx, unsigned window_ms, const char **ret_why)
{
	t.freezes++;
	t.frozen = true;
	usleep(t.freeze_takes_ms * 1000);
	return t.freeze;
}

static void op_thaw(void *ctx)
{
	t.thaws++;
	t.frozen = false;
}

static void op_complete(void *ctx, bool good)
{
	t.good += good;
	t.bad += !good;
}

static const struct vss_host_ops ops = { op_check, op_freeze, op_thaw, op_complete };

static void begin(void)
{
	memset(&t, 0, sizeof(t));
	strcpy(t.folder, "/tmp/test-vss-writer-XXXXXX");
	assert_non_null(mkdtemp(t.folder));
	snprintf(t.path, sizeof(t.path), "%s/sock", t.folder);
	assert_int_equal(vss_host_new(t.path, "app", VSS_APPLICATION, &ops, NULL, &t.host, NULL), 0);
}

static void finish(void)
{
	vss_host_free(t.host);
	assert_false(t.frozen);
	assert_int_equal(access(t.path, F_OK), -1);
	assert_int_equal(rmdir(t.folder), 0);
}

/* Everything that can be done is done; at most @ms until there is something. */
static void process(int ms)
{
	struct pollfd p = { vss_host_fd(t.host), POLLIN, 0 };

	while (poll(&p, 1, ms) > 0) {
		vss_host_process(t.host);
		ms = 0;
	}
}

/* The next message, its type; 0: there is none, -1: the connection has ended. */
static int hear(int fd, struct vss_wire *ret)
{
	ssize_t n;

	process(0);
	n = recv(fd, ret, sizeof(*ret), MSG_DONTWAIT);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n <= 0)
		return -1;
	assert_int_equal(vss_wire_check(ret, (size_t)n), 0);
	return le16_get(ret->type);
}

static int requester(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct vss_wire m;

	strcpy(a.sun_path, t.path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(hear(fd, &m), VSS_WIRE_HELLO);
	assert_string_equal(m.text, "app");
	assert_int_equal(le32_get(m.value), VSS_APPLICATION);
	return fd;
}

static void say(int fd, enum vss_wire_type type, uint32_t serial, uint32_t value)
{
	struct vss_wire m;

	vss_wire_make(&m, type, serial, value, "snapshot");
	assert_int_equal(send(fd, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m));
}

static void expect(int fd, int type, uint32_t serial, uint32_t value)
{
	struct vss_wire m;

	assert_int_equal(hear(fd, &m), type);
	assert_int_equal(le32_get(m.serial), serial);
	assert_int_equal(le32_get(m.value), value);
}

static int frozen_for(uint32_t window_ms)
{
	int fd = requester();

	say(fd, VSS_WIRE_FREEZE, 7, window_ms);
	expect(fd, VSS_WIRE_FROZEN, 7, 0);
	assert_true(t.frozen);
	return fd;
}

static void whole(void **state)
{
	int fd;

	begin();
	fd = requester();
	say(fd, VSS_WIRE_CHECK, 1, 0);
	expect(fd, VSS_WIRE_READY, 1, 0);
	say(fd, VSS_WIRE_FREEZE, 2, 60000);
	expect(fd, VSS_WIRE_FROZEN, 2, 0);
	assert_true(t.frozen && vss_host_is_frozen(t.host));
	say(fd, VSS_WIRE_THAW, 3, 0);
	expect(fd, VSS_WIRE_THAWED, 3, 0);
	assert_false(t.frozen || vss_host_is_frozen(t.host));
	say(fd, VSS_WIRE_COMPLETE, 4, 1);
	say(fd, VSS_WIRE_COMPLETE, 5, 0);
	process(0);
	assert_int_equal(t.good, 1);
	assert_int_equal(t.bad, 1);
	close(fd);
	finish();
}

static void window_ends(void **state)
{
	int fd;

	begin();
	fd = frozen_for(50);
	process(2000);
	assert_false(t.frozen);
	expect(fd, VSS_WIRE_THAWED, 0, 1);
	say(fd, VSS_WIRE_THAW, 8, 0);
	expect(fd, VSS_WIRE_THAWED, 8, 1);
	assert_int_equal(t.thaws, 1);
	say(fd, VSS_WIRE_FREEZE, 9, 60000);		/* a new one is a new one */
	expect(fd, VSS_WIRE_FROZEN, 9, 0);
	say(fd, VSS_WIRE_THAW, 10, 0);
	expect(fd, VSS_WIRE_THAWED, 10, 0);
	close(fd);
	finish();
}

static void connection_ends(void **state)
{
	begin();
	close(frozen_for(60000));
	process(2000);
	assert_false(t.frozen);
	assert_int_equal(t.thaws, 1);
	close(frozen_for(60000));
	finish();
}

static void two_requesters(void **state)
{
	int first, second;

	begin();
	first = frozen_for(60000);
	second = requester();
	say(second, VSS_WIRE_CHECK, 1, 0);
	expect(second, VSS_WIRE_REFUSED, 1, 0);
	say(second, VSS_WIRE_FREEZE, 2, 60000);
	expect(second, VSS_WIRE_REFUSED, 2, 0);
	say(second, VSS_WIRE_THAW, 3, 0);
	expect(second, VSS_WIRE_THAWED, 3, 0);
	close(second);
	process(0);
	assert_true(t.frozen);			/* by the first one */
	assert_int_equal(t.freezes, 1);
	close(first);
	finish();
}

static void refuses(void **state)
{
	int fd;

	begin();
	fd = requester();
	t.check = -EPERM;
	say(fd, VSS_WIRE_CHECK, 1, 0);
	expect(fd, VSS_WIRE_REFUSED, 1, 0);
	t.freeze = -EIO;
	say(fd, VSS_WIRE_FREEZE, 2, 60000);
	expect(fd, VSS_WIRE_REFUSED, 2, 0);
	assert_int_equal(t.thaws, 1);		/* what it left undone */
	t.freeze = 0;
	t.freeze_takes_ms = 30;
	say(fd, VSS_WIRE_FREEZE, 3, 10);
	expect(fd, VSS_WIRE_REFUSED, 3, 0);
	assert_false(t.frozen);
	close(fd);
	finish();
}

static void answers_later(void **state)
{
	struct vss_wire m;
	int fd;

	begin();
	fd = requester();
	t.freeze = VSS_HOST_LATER;
	say(fd, VSS_WIRE_FREEZE, 1, 60000);
	assert_int_equal(hear(fd, &m), 0);
	vss_host_frozen(t.host, 0, NULL);
	expect(fd, VSS_WIRE_FROZEN, 1, 0);
	say(fd, VSS_WIRE_THAW, 2, 0);
	expect(fd, VSS_WIRE_THAWED, 2, 0);
	say(fd, VSS_WIRE_FREEZE, 3, 60000);
	say(fd, VSS_WIRE_THAW, 4, 0);
	expect(fd, VSS_WIRE_THAWED, 4, 0);
	vss_host_frozen(t.host, 0, NULL);		/* too late */
	assert_false(vss_host_is_frozen(t.host));
	say(fd, VSS_WIRE_FREEZE, 5, 30);
	process(0);
	process(2000);
	expect(fd, VSS_WIRE_THAWED, 0, 1);
	assert_false(t.frozen);
	close(fd);
	finish();
}

static const struct no_message {
	const char *name;
	unsigned at, value, len;	/* this byte, of a message of @len bytes */
} no_messages[] = {
	{ "short", 0, 0x53, 127 }, { "long", 0, 0x53, 129 }, { "magic", 0, 0x54, 128 }, { "version", 4, 2, 128 },
	{ "type 0", 6, 0, 128 }, { "type 10", 6, 10, 128 }, { "of a writer", 6, VSS_WIRE_FROZEN, 128 },
	{ "hello", 6, VSS_WIRE_HELLO, 128 }, { "text without end", 127, 'x', 128 },
};

/* Ends its connection, and with it what that had frozen; others are served. */
static void no_message(void **state)
{
	const struct no_message *row = *state;
	uint8_t bytes[256] = { 0 };
	struct vss_wire m;
	int fd;

	begin();
	fd = frozen_for(60000);
	vss_wire_make(&m, VSS_WIRE_CHECK, 1, 0, NULL);
	memcpy(bytes, &m, sizeof(m));
	if (row->at == 127)
		memset(bytes + 16, 'x', 112);
	bytes[row->at] = (uint8_t)row->value;
	assert_int_equal(send(fd, bytes, row->len, MSG_NOSIGNAL), row->len);
	assert_int_equal(hear(fd, &m), -1);
	assert_false(t.frozen);
	close(fd);
	close(frozen_for(60000));
	finish();
}

static void windows(void **state)
{
	static const uint32_t bad[] = { 0, 900001, UINT32_MAX };
	int fd;

	begin();
	fd = requester();
	for (unsigned i = 0; i < 3; i++) {
		say(fd, VSS_WIRE_FREEZE, i + 1, bad[i]);
		expect(fd, VSS_WIRE_REFUSED, i + 1, 0);
	}
	assert_int_equal(t.freezes, 0);
	close(fd);
	finish();
}

static void names_and_sockets(void **state)
{
	struct vss_host *other;

	begin();
	assert_int_equal(vss_host_new(t.path, "app", VSS_APPLICATION, &ops, NULL, &other, NULL), -EADDRINUSE);
	assert_int_equal(vss_host_new("/x", "a b", VSS_APPLICATION, &ops, NULL, &other, NULL), -EINVAL);
	assert_int_equal(vss_host_new("/x", "", VSS_APPLICATION, &ops, NULL, &other, NULL), -EINVAL);
	finish();
}

int main(void)
{
	static const struct { const char *name; void (*test)(void **state); } tests[] = {
		{ "check, freeze, thaw, complete", whole }, { "the window ends", window_ends },
		{ "the connection ends", connection_ends }, { "two requesters", two_requesters },
		{ "refusals", refuses }, { "an answer that comes later", answers_later },
		{ "windows that are none", windows }, { "names and sockets", names_and_sockets },
	};
	struct CMUnitTest all[32];
	size_t n = 0;

	for (size_t i = 0; i < SP_ARRAY_SIZE(tests); i++)
		all[n++] = (struct CMUnitTest){ tests[i].name, tests[i].test, NULL, NULL, NULL };
	for (size_t i = 0; i < SP_ARRAY_SIZE(no_messages); i++)
		all[n++] = (struct CMUnitTest){
			no_messages[i].name, no_message, NULL, NULL, (void *)(uintptr_t)&no_messages[i],
		};
	return _cmocka_run_group_tests("vss_writer", all, n, NULL, NULL);
}
