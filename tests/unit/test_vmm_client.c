/* SPDX-License-Identifier: BSD-2-Clause */
/* The client of control sockets against a machine that is played here, on a thread of its own. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/rows.h"
#include "vmm/client.h"

static char folder[32], path[48];

/* ---- the machine --------------------------------------------------------------------------------------- */

static struct {
	const char *const *lines;	/* what it says, one after each request; the last, then it goes */
	int listener;
	pthread_t thread;
	atomic_uint unfinished;		/* requests whose line end had not come with the brace */
} m;

static bool say(int fd, const char *line)
{
	return send(fd, line, strlen(line), MSG_NOSIGNAL) == (ssize_t)strlen(line);
}

/* Acts as soon as the last brace is there, as a real one does. */
static bool hear(int fd)
{
	char text[4096];
	size_t len = 0;
	ssize_t n;

	do {
		n = recv(fd, text + len, sizeof(text) - len, 0);
		if (n <= 0)
			return false;
		len += (size_t)n;
	} while (!memchr(text, '}', len));
	m.unfinished += text[len - 1] != '\n';
	return true;
}

static void *machine(void *arg)
{
	int fd = accept(m.listener, NULL, NULL);
	bool there = say(fd, "{\"QMP\": {}}\r\n") && hear(fd) && say(fd, "{\"return\": {}}\r\n");

	for (const char *const *line = m.lines; there && *line; line++)
		there = hear(fd) && say(fd, *line);
	close(fd);
	return NULL;
}

static struct vm_client *begin(const char *const *lines)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct vm_client *c = NULL;
	struct sp_err err = { 0 };

	m.lines = lines;
	strcpy(folder, "/tmp/test-client-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/m", folder);
	strcpy(a.sun_path, path);
	m.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(m.listener, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(m.listener, 1), 0);
	assert_int_equal(pthread_create(&m.thread, NULL, machine, NULL), 0);
	assert_int_equal(vm_client_open(path, &c, &err), 0);
	return c;
}

static void finish(struct vm_client *c)
{
	vm_client_close(c);
	pthread_join(m.thread, NULL);
	close(m.listener);
	unlink(path);
	rmdir(folder);
}

/* ---- the client ---------------------------------------------------------------------------------------- */

/* A machine that ends at once after its answer to "quit". Many, as the fault to be seen is a race. */
static void the_answer_of_one_that_goes_counts(void **state)
{
	static const char *const lines[] = { "{\"return\": {}}\r\n", NULL };

	m.unfinished = 0;
	for (unsigned i = 0; i < 500; i++) {
		struct vm_client *c = begin(lines);
		struct sp_err err = { 0 };
		int r = vm_client_call(c, "quit", NULL, NULL, &err);

		if (r < 0)
			fail_msg("run %u: %s", i, sp_err_text(&err));
		assert_int_equal(vm_client_wait(c, NULL, NULL, 10000), -EPIPE);
		finish(c);
	}
	assert_int_equal(m.unfinished, 0);
}

static void one_that_has_gone_is_told(void **state)
{
	static const char *const lines[] = { NULL };
	struct vm_client *c = begin(lines);
	struct sp_err err = { 0 };

	assert_int_equal(vm_client_call(c, "query-status", NULL, NULL, &err), -EPIPE);
	assert_string_equal(sp_err_text(&err), "query-status: the machine has gone");
	finish(c);
}

static void events_before_an_answer_are_kept(void **state)
{
	static const char *const lines[] = {
		"{\"event\": \"STOP\"}\r\n{\"event\": \"RESUME\"}\r\n{\"return\": {\"status\": \"running\"}}\r\n", NULL,
	};
	struct vm_client *c = begin(lines);
	struct sp_err err = { 0 };
	json_object *o = NULL;

	assert_int_equal(vm_client_call(c, "query-status", NULL, &o, &err), 0);
	assert_string_equal(vm_json_text(o, "status"), "running");
	json_object_put(o);
	assert_int_equal(vm_client_event(c, 0, &o), 0);
	assert_string_equal(vm_json_text(o, "event"), "STOP");
	json_object_put(o);
	assert_int_equal(vm_client_wait(c, "RESUME", "STOP", 0), 0);
	finish(c);
}

static void a_refusal_carries_its_words(void **state)
{
	static const char *const lines[] = {
		"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such disk\"}}\r\n",
		"{\"error\": {\"class\": \"DeviceNotActive\", \"desc\": \"no driver\"}}\r\n", NULL,
	};
	struct vm_client *c = begin(lines);
	struct sp_err err = { 0 };

	assert_int_equal(vm_client_call(c, "device_del", NULL, NULL, &err), -EIO);
	assert_string_equal(sp_err_text(&err), "no such disk");
	assert_int_equal(vm_client_call(c, "system_powerdown", NULL, NULL, &err), -ENOTCONN);
	finish(c);
}

/* ---- deletions ----------------------------------------------------------------------------------------- */

#define JOB(fields) "{\"return\": [{" fields "}]}\r\n"

static unsigned seen;

static void see(json_object *job)
{
	seen += atoi(vm_json_text(job, "current-progress"));
}

static void a_deletion_is_waited_for(void **state)
{
	static const char *const lines[] = {
		"{\"return\": {}}\r\n", JOB("\"status\": \"running\", \"current-progress\": 3"),
		JOB("\"status\": \"running\", \"current-progress\": 4"), JOB("\"status\": \"concluded\""), NULL,
	};
	struct vm_client *c = begin(lines);
	struct sp_err err = { 0 };
	json_object *job = NULL;

	seen = 0;
	assert_int_equal(vm_client_delete_snapshot(c, "monday", 0, &err), 0);
	assert_int_equal(vm_client_wait_deletion(c, see, &job, &err), 0);
	assert_int_equal(seen, 7);
	assert_string_equal(vm_json_text(job, "status"), "concluded");
	json_object_put(job);
	finish(c);
}

static void a_deletion_that_fails_says_why(void **state)
{
	static const char *const lines[] = {
		JOB("\"status\": \"concluded\", \"error\": \"disk full\""), "{\"return\": []}\r\n", NULL,
	};
	struct vm_client *c = begin(lines);
	struct sp_err err = { 0 };

	assert_int_equal(vm_client_wait_deletion(c, NULL, NULL, &err), -EAGAIN);
	assert_string_equal(sp_err_text(&err), "disk full");
	assert_int_equal(vm_client_wait_deletion(c, NULL, NULL, &err), -ENOENT);
	assert_int_equal(vm_client_wait_deletion(c, NULL, NULL, &err), -EPIPE);
	finish(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_answer_of_one_that_goes_counts), cmocka_unit_test(one_that_has_gone_is_told),
		cmocka_unit_test(events_before_an_answer_are_kept), cmocka_unit_test(a_refusal_carries_its_words),
		cmocka_unit_test(a_deletion_is_waited_for), cmocka_unit_test(a_deletion_that_fails_says_why),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
