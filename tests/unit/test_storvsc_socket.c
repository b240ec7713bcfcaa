/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Clients behind a socket: good ones, those that break every rule, and those that are killed.
 *
 * Called with arguments, the program is the other process of such a test: "client PATH" or "server PATH".
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/env.h"
#include "storvsc/storvsc.h"
#include "storvsp/storvsp.h"
#include "tests/support/gate_backend.h"
#include "tests/unit/rows.h"
#include "vmbus/socket_server.h"
#include "vmbus/socket_wire.h"

#define DISK_SIZE SP_MIB(8)
#define PATIENCE_MS 3000
#define MEMORY SP_MIB(1)

extern char **environ;

static char path[64];

/* ---- a server ------------------------------------------------------------------------------------------ */

struct server {
	struct storvsp *controller[2];
	struct gate *gate;
	struct vmbus_socket_server *socket;
};

static struct server server;

static void must(int r, const char *what)
{
	if (r < 0) {
		fprintf(stderr, "%s: %s\n", what, strerror(-r));
		abort();
	}
}

static struct storvsp *controller_new(const char *name, struct gate **ret_gate)
{
	struct storvsp_opts o = { .name = name, .max_subchannels = 3 };
	struct scsi_lu_opts lu_opts = { .kind = SCSI_DISK, .identity = { { 1, 2, 3 } } };
	struct storvsp *c;
	struct scsi_lu *lu;

	*ret_gate = gate_new(DISK_SIZE);
	lu_opts.backend = gate_backend(*ret_gate);
	must(storvsp_new(&o, &c, NULL), "controller");
	must(scsi_lu_new(&lu_opts, &lu, NULL), "unit");
	must(storvsp_attach(c, (struct storvsp_address){ 0 }, lu, NULL, 0, NULL), "attach");
	return c;
}

static void serve(struct server *s)
{
	struct sp_err err = { 0 };
	struct gate *other;
	int fd;

	s->controller[0] = controller_new("scsi0", &s->gate);
	s->controller[1] = controller_new("scsi1", &other);
	if (vmbus_socket_listen(path, &fd, &err) < 0) {
		fprintf(stderr, "%s\n", sp_err_text(&err));
		abort();
	}
	must(vmbus_socket_server_new(fd, &s->socket, NULL), "server");
	for (unsigned i = 0; i < 2; i++)
		must(vmbus_socket_server_offer(s->socket, storvsp_offer(s->controller[i])), "offer");
	must(vmbus_socket_server_start(s->socket), "start");
}

static void serve_no_more(struct server *s)
{
	vmbus_socket_server_free(s->socket);
	for (unsigned i = 0; i < 2; i++)
		storvsp_free(s->controller[i]);
}

/* A client that finds everything in order: proof that the server lives and has let go of those before. */
static void good_client(const char *target)
{
	struct storvsc_opts opts = { .arena_bytes = SP_MIB(1), .channels = 2 };
	struct sp_err err = { 0 };
	uint8_t buf[4096], back[4096];
	struct storvsc *c;
	int r = -EBUSY;

	/* Who was thrown out a moment ago may still be on his way. */
	for (unsigned i = 0; r == -EBUSY && i < PATIENCE_MS; i++) {
		r = storvsc_connect(path, target, &opts, &c, &err);
		if (r == -EBUSY)
			usleep(1000);
	}
	if (r < 0)
		fail_msg("%s", sp_err_text(&err));
	assert_int_equal(storvsc_channels(c), 2);
	for (unsigned i = 0; i < 2; i++) {
		memset(buf, (int)(i + 5), sizeof(buf));
		assert_int_equal(storvsc_write(storvsc_channel(c, i), 0, buf, sizeof(buf), 8192, true), 0);
		assert_int_equal(storvsc_read(storvsc_channel(c, 1 - i), 0, back, sizeof(back), 8192), 0);
		assert_memory_equal(buf, back, sizeof(buf));
	}
	storvsc_close(c);
}

/* ---- a client without manners -------------------------------------------------------------------------- */

enum memory_kind { SEALED, NO_FD, UNSEALED, PLAIN_FILE, EVENTFD, HALF, TWICE, SEALED_WRITE };
enum event_kind { EVENTFDS, NO_EVENTS, ONE_EVENT, FILES };

static const struct rude {
	const char *name;
	uint32_t magic;			/* 0: the right one */
	uint16_t version, type;		/* 0: the right ones */
	size_t len;			/* of the first record; 0: the right one */
	enum memory_kind memory;
	uint64_t bytes;			/* 0: the right number */
	const char *target;
	int hello;			/* what WELCOME says; -1: no WELCOME */
	uint32_t channel, ring_page, ring_pages, downstream;	/* ring_pages 0: no OPEN */
	enum event_kind events;
	unsigned opens;			/* how often; 0: once */
	int open;			/* what the last OPENED says; -1: none */
	uint32_t close;			/* CLOSE of that channel + 1; 0: none */
} rude[] = {
	{ "wrong magic", .magic = 0x12345678, .hello = -1 },
	{ "wrong version", .version = 2, .hello = -1 },
	{ "no HELLO, but an OPEN", .type = VMBUS_SOCKET_OPEN, .hello = -1 },
	{ "no HELLO, but a CLOSE", .type = VMBUS_SOCKET_CLOSE, .memory = NO_FD, .hello = -1 },
	{ "an unknown type", .type = 77, .hello = -1 },
	{ "a server's word", .type = VMBUS_SOCKET_WELCOME, .hello = -1 },
	{ "a short record", .len = 40, .hello = -1 },
	{ "no memory", .memory = NO_FD, .hello = EINVAL },
	{ "memory that is not sealed", .memory = UNSEALED, .hello = EINVAL },
	{ "memory sealed against writing", .memory = SEALED_WRITE, .hello = EPERM },
	{ "a file", .memory = PLAIN_FILE, .hello = EINVAL },
	{ "an eventfd as memory", .memory = EVENTFD, .hello = EINVAL },
	{ "two memories", .memory = TWICE, .hello = EINVAL },
	{ "memory smaller than it says", .memory = HALF, .hello = EINVAL },
	{ "memory larger than it says", .bytes = MEMORY / 2, .hello = EINVAL },
	{ "all the memory there is", .bytes = UINT64_MAX - 4095, .hello = E2BIG },
	{ "memory past the limit", .bytes = SP_GIB(1) + 4096, .hello = E2BIG },
	{ "half a page", .bytes = MEMORY + 2048, .hello = EINVAL },
	{ "no such device", .target = "scsi7", .hello = ENOENT },
	{ "a name without an end",
	  .target = "0123456789012345678901234567890123456789012345678901234567890123", .hello = ENOENT },
	{ "rings past the memory", .ring_page = 250, .ring_pages = 8, .downstream = 4, .open = EINVAL },
	{ "rings far past the memory", .ring_page = UINT32_MAX, .ring_pages = 8, .downstream = 4, .open = EINVAL },
	{ "rings of very many pages", .ring_pages = UINT32_MAX, .downstream = 4, .open = EINVAL },
	{ "rings of three pages", .ring_pages = 3, .downstream = 1, .open = EINVAL },
	{ "downstream at the end", .ring_pages = 8, .downstream = 8, .open = EINVAL },
	{ "downstream at the start", .ring_pages = 8, .downstream = 0, .open = EINVAL },
	{ "downstream far away", .ring_pages = 8, .downstream = UINT32_MAX, .open = EINVAL },
	{ "no eventfds", .ring_pages = 8, .downstream = 4, .events = NO_EVENTS, .open = EINVAL },
	{ "one eventfd", .ring_pages = 8, .downstream = 4, .events = ONE_EVENT, .open = EINVAL },
	{ "files as eventfds", .ring_pages = 8, .downstream = 4, .events = FILES, .open = EINVAL },
	{ "opened twice", .ring_pages = 8, .downstream = 4, .opens = 2, .open = EPROTO },
	{ "a sub-channel first", .channel = 1, .ring_pages = 8, .downstream = 4, .open = EPROTO },
	{ "a huge channel", .channel = UINT32_MAX, .ring_pages = 8, .downstream = 4, .open = -1 },
	{ "a channel past the last", .channel = 4, .ring_pages = 8, .downstream = 4, .open = -1 },
	{ "CLOSE of what is not open", .close = 1 },
	{ "CLOSE of a huge channel", .ring_pages = 8, .downstream = 4, .close = UINT32_MAX },
};

static int connect_raw(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct timeval patience = { .tv_sec = PATIENCE_MS / 1000 };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strcpy(a.sun_path, path);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
	return fd;
}

static void send_raw(int fd, const void *record, size_t len, const int *fds, unsigned count)
{
	_Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(16 * sizeof(int))] = { 0 };
	struct iovec iov = { (void *)(uintptr_t)record, len };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (count) {
		struct cmsghdr *c = (void *)control;

		h.msg_control = control;
		h.msg_controllen = CMSG_SPACE(count * sizeof(int));
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(c), fds, count * sizeof(int));
	}
	/* Who was thrown out already cannot send. */
	if (sendmsg(fd, &h, MSG_NOSIGNAL) < 0)
		assert_true(errno == EPIPE || errno == ECONNRESET);
}

/* The status of the next record, which must be of that type; -1: hung up. */
static int next_status(int fd, enum vmbus_socket_type type)
{
	struct vmbus_socket_record r;
	ssize_t n = recv(fd, &r, sizeof(r), 0);

	if (n == 0 || (n < 0 && errno == ECONNRESET))
		return -1;
	assert_int_equal(n, sizeof(r));
	assert_int_equal(le16_get(r.type), type);
	return (int)le32_get(r.status);
}

static int memory_of(enum memory_kind kind)
{
	int fd = kind == PLAIN_FILE ? open("/tmp", O_TMPFILE | O_RDWR, 0600) :
		 kind == EVENTFD ? eventfd(0, 0) : memfd_create("rude", MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	if (kind != EVENTFD)
		assert_int_equal(ftruncate(fd, kind == HALF ? MEMORY / 2 : MEMORY), 0);
	if (kind == SEALED_WRITE)
		assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE), 0);
	else if (kind != UNSEALED && kind != PLAIN_FILE && kind != EVENTFD)
		assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	return fd;
}

static struct vmbus_socket_record record_of(const struct rude *row, enum vmbus_socket_type type)
{
	struct vmbus_socket_record r = {
		.magic = le32_make(row->magic ? row->magic : VMBUS_SOCKET_MAGIC),
		.version = le16_make(row->version ? row->version : VMBUS_SOCKET_VERSION),
		.type = le16_make((uint16_t)type), .channel = le32_make(row->channel),
		.memory_bytes = le64_make(row->bytes ? row->bytes : MEMORY),
		.ring_page = le32_make(row->ring_page), .ring_pages = le32_make(row->ring_pages),
		.downstream_page = le32_make(row->downstream),
	};

	if (row->target)
		memcpy(r.target, row->target, strlen(row->target));
	return r;
}

static void say_hello(int fd, const struct rude *row)
{
	struct vmbus_socket_record r = record_of(row, row->type ? row->type : VMBUS_SOCKET_HELLO);
	int memory[2] = { memory_of(row->memory), memory_of(SEALED) };

	send_raw(fd, &r, row->len ? row->len : sizeof(r), memory,
		 row->memory == NO_FD ? 0 : row->memory == TWICE ? 2 : 1);
	close(memory[0]);
	close(memory[1]);
}

static void say_open(int fd, const struct rude *row)
{
	struct vmbus_socket_record r = record_of(row, VMBUS_SOCKET_OPEN);
	int e[2];

	for (unsigned i = 0; i < 2; i++)
		e[i] = row->events == FILES ? memory_of(SEALED) : eventfd(0, 0);
	send_raw(fd, &r, sizeof(r), e, row->events == NO_EVENTS ? 0 : row->events == ONE_EVENT ? 1 : 2);
	close(e[0]);
	close(e[1]);
}

static void rude_client(void **state)
{
	const struct rude *row = *state;
	int fd, status = -1;

	serve(&server);
	fd = connect_raw();
	say_hello(fd, row);
	assert_int_equal(next_status(fd, VMBUS_SOCKET_WELCOME), row->hello);
	if (row->ring_pages) {
		for (unsigned i = 0; i < (row->opens ? row->opens : 1); i++) {
			say_open(fd, row);
			status = next_status(fd, VMBUS_SOCKET_OPENED);
		}
		assert_int_equal(status, row->open);
	}
	if (row->close) {
		struct vmbus_socket_record r = record_of(row, VMBUS_SOCKET_CLOSE);

		r.channel = le32_make(row->close - 1);
		send_raw(fd, &r, sizeof(r), NULL, 0);
	}
	assert_int_equal(next_status(fd, VMBUS_SOCKET_CLOSED), -1);	/* thrown out */
	close(fd);
	good_client(NULL);
	serve_no_more(&server);
}

/* ---- polite, but by hand ------------------------------------------------------------------------------- */

static const struct rude polite = { .ring_pages = 8, .downstream = 4 };

static void open_and_close(void **state)
{
	struct vmbus_socket_record r = record_of(&polite, VMBUS_SOCKET_CLOSE);
	int fd;

	serve(&server);
	fd = connect_raw();
	say_hello(fd, &polite);
	assert_int_equal(next_status(fd, VMBUS_SOCKET_WELCOME), 0);
	for (unsigned i = 0; i < 2; i++) {
		say_open(fd, &polite);
		assert_int_equal(next_status(fd, VMBUS_SOCKET_OPENED), 0);
		send_raw(fd, &r, sizeof(r), NULL, 0);
		assert_int_equal(next_status(fd, VMBUS_SOCKET_CLOSED), 0);
	}
	close(fd);
	good_client(NULL);
	serve_no_more(&server);
}

/* A device says no; that is no offence. */
static void subchannel_not_asked_for(void **state)
{
	struct rude second = polite;
	int fd;

	serve(&server);
	fd = connect_raw();
	say_hello(fd, &polite);
	assert_int_equal(next_status(fd, VMBUS_SOCKET_WELCOME), 0);
	say_open(fd, &polite);
	assert_int_equal(next_status(fd, VMBUS_SOCKET_OPENED), 0);
	second.channel = 1;
	second.ring_page = 8;
	for (unsigned i = 0; i < 2; i++) {
		say_open(fd, &second);
		assert_int_equal(next_status(fd, VMBUS_SOCKET_OPENED), EINVAL);
	}
	close(fd);
	good_client(NULL);
	serve_no_more(&server);
}

/* More descriptors than a record may have: none of them stays open here. */
static void descriptors_do_not_stay(void **state)
{
	struct vmbus_socket_record r = record_of(&polite, VMBUS_SOCKET_HELLO);
	int fd, e = eventfd(0, 0), many[16], before, after;

	serve(&server);
	for (unsigned i = 0; i < 16; i++)
		many[i] = e;
	before = dup(0);
	close(before);
	for (unsigned i = 0; i < 20; i++) {
		fd = connect_raw();
		send_raw(fd, &r, sizeof(r), many, 16);
		assert_int_equal(next_status(fd, VMBUS_SOCKET_WELCOME), -1);
		close(fd);
	}
	good_client(NULL);
	serve_no_more(&server);
	after = dup(0);
	close(after);
	close(e);
	assert_true(after <= before);
}

static void one_client_per_device(void **state)
{
	struct storvsc *first, *second, *third;

	serve(&server);
	assert_int_equal(storvsc_connect(path, "", NULL, &first, NULL), 0);
	assert_int_equal(storvsc_connect(path, "scsi0", NULL, &second, NULL), -EBUSY);
	assert_int_equal(storvsc_connect(path, "scsi1", NULL, &second, NULL), 0);
	assert_int_equal(storvsc_connect(path, "scsi2", NULL, &third, NULL), -ENOENT);
	storvsc_close(first);
	/* At once: close has waited for the server. */
	assert_int_equal(storvsc_connect(path, NULL, NULL, &first, NULL), 0);
	storvsc_close(second);
	storvsc_close(first);
	serve_no_more(&server);
}

static void silence(void **state)
{
	int fd;

	serve(&server);
	fd = connect_raw();
	assert_int_equal(next_status(fd, VMBUS_SOCKET_WELCOME), -1);
	close(fd);
	serve_no_more(&server);
}

/* ---- the socket's name --------------------------------------------------------------------------------- */

static void listening(void **state)
{
	struct stat st;
	int fd, second;

	assert_int_equal(vmbus_socket_listen(path, &fd, NULL), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(vmbus_socket_listen(path, &second, NULL), -EADDRINUSE);
	close(fd);
	assert_int_equal(vmbus_socket_listen(path, &fd, NULL), 0);	/* nobody listens there any more */
	close(fd);
	unlink(path);
	fd = open(path, O_CREAT | O_RDWR, 0600);
	assert_int_equal(vmbus_socket_listen(path, &second, NULL), -EADDRINUSE);
	close(fd);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(vmbus_socket_listen("", &fd, NULL), -ENAMETOOLONG);
}

/* ---- requests in flight -------------------------------------------------------------------------------- */

#define FLIGHT 16u

static struct storvsc_request request[FLIGHT];
static unsigned ended, wrong;
static int wanted;

static void request_done(struct storvsc_request *r)
{
	ended++;
	wrong += r->result != wanted;
}

static void submit_flight(struct storvsc *c, int result)
{
	uint8_t *data = storvsc_buffer(c, 4096);
	uint8_t settle[512];

	ended = wrong = 0;
	wanted = result;
	assert_int_equal(storvsc_read(storvsc_channel(c, 0), 0, settle, 512, 0), 0);
	for (unsigned i = 0; i < FLIGHT; i++) {
		request[i] = (struct storvsc_request){ .cdb = { 0x28, [8] = 1 }, .cdb_len = 10, .data = data,
						       .data_len = 512, .done = request_done };
		assert_int_equal(storvsc_submit(storvsc_channel(c, 0), &request[i]), 0);
	}
}

static void *open_later(void *arg)
{
	usleep(50000);
	gate_open(server.gate);
	return NULL;
}

static void close_in_flight(void **state)
{
	struct storvsc *c;
	pthread_t opener;

	serve(&server);
	assert_int_equal(storvsc_connect(path, NULL, NULL, &c, NULL), 0);
	submit_flight(c, -ECANCELED);
	gate_shut(server.gate);
	storvsc_kick(storvsc_channel(c, 0));
	assert_true(gate_wait(server.gate, FLIGHT));
	pthread_create(&opener, NULL, open_later, NULL);
	storvsc_close(c);
	assert_int_equal(ended, FLIGHT);
	assert_int_equal(wrong, 0);
	good_client(NULL);
	pthread_join(opener, NULL);
	serve_no_more(&server);
}

/* The server ends while requests are behind the gate. */
static void server_stops(void **state)
{
	struct storvsc *c;
	pthread_t opener;

	serve(&server);
	assert_int_equal(storvsc_connect(path, NULL, NULL, &c, NULL), 0);
	submit_flight(c, -EPIPE);
	gate_shut(server.gate);
	storvsc_kick(storvsc_channel(c, 0));
	assert_true(gate_wait(server.gate, FLIGHT));
	pthread_create(&opener, NULL, open_later, NULL);
	vmbus_socket_server_free(server.socket);
	pthread_join(opener, NULL);
	wanted = 0;		/* finished before the end: their answers are read first */
	assert_int_equal(storvsc_wait(storvsc_channel(c, 0), FLIGHT, PATIENCE_MS), FLIGHT);
	assert_int_equal(wrong, 0);
	assert_int_equal(storvsc_wait(storvsc_channel(c, 0), 1, PATIENCE_MS), 0);
	wanted = -EPIPE;
	ended = 0;
	assert_int_equal(storvsc_submit(storvsc_channel(c, 0), &request[0]), 0);
	assert_int_equal(storvsc_wait(storvsc_channel(c, 0), 1, PATIENCE_MS), -EPIPE);
	assert_int_equal(ended, 1);
	assert_int_equal(wrong, 0);
	storvsc_close(c);
	for (unsigned i = 0; i < 2; i++)
		storvsp_free(server.controller[i]);
}

/* ---- other processes ----------------------------------------------------------------------------------- */

static pid_t start(const char *role, int *ret_out)
{
	char *argv[] = { (char *)(uintptr_t)"test_storvsc_socket", (char *)(uintptr_t)role, path, NULL };
	posix_spawn_file_actions_t actions;
	int pipe_fd[2];
	pid_t pid;

	assert_int_equal(pipe2(pipe_fd, O_CLOEXEC), 0);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, pipe_fd[1], 1);
	assert_int_equal(posix_spawn(&pid, "/proc/self/exe", &actions, NULL, argv, environ), 0);
	posix_spawn_file_actions_destroy(&actions);
	close(pipe_fd[1]);
	*ret_out = pipe_fd[0];
	return pid;
}

static void wait_ready(int out)
{
	struct pollfd p = { .fd = out, .events = POLLIN };
	char c;

	assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
	assert_int_equal(read(out, &c, 1), 1);
}

static void end_process(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void client_is_killed(void **state)
{
	serve(&server);
	for (unsigned i = 0; i < 3; i++) {
		int out;
		pid_t pid = start("client", &out);

		wait_ready(out);
		usleep(3000 * i);
		end_process(pid);
		close(out);
		good_client(NULL);
	}
	serve_no_more(&server);
}

static const struct death {
	const char *name;
	enum { WAITS, POLLS, BY_FD } how;
} deaths[] = {
	{ "server killed, client waits", WAITS },
	{ "server killed, client polls", POLLS },
	{ "server killed, client has an event loop", BY_FD },
};

static int watch_until_end(struct storvsc_channel *ch, const struct death *row)
{
	struct pollfd p = { .fd = storvsc_fd(ch), .events = POLLIN };
	uint64_t until = sp_env_monotonic_ns() + PATIENCE_MS * 1000000ull;
	int r = 0;

	if (row->how == WAITS)
		return storvsc_wait(ch, FLIGHT, PATIENCE_MS);
	while (r == 0 && sp_env_monotonic_ns() < until) {
		if (row->how == BY_FD && storvsc_arm(ch))
			assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
		r = storvsc_poll(ch);
	}
	return r;
}

static void server_is_killed(void **state)
{
	const struct death *row = *state;
	struct storvsc_channel *ch;
	struct storvsc *c;
	uint8_t buf[512];
	pid_t pid;
	int out;

	pid = start("server", &out);
	wait_ready(out);
	assert_int_equal(storvsc_connect(path, NULL, NULL, &c, NULL), 0);
	ch = storvsc_channel(c, 0);
	submit_flight(c, -EPIPE);
	kill(pid, SIGSTOP);
	waitpid(pid, NULL, WUNTRACED);
	storvsc_kick(ch);
	end_process(pid);
	assert_int_equal(watch_until_end(ch, row), -EPIPE);
	assert_int_equal(ended, FLIGHT);
	assert_int_equal(wrong, 0);
	assert_int_equal(storvsc_poll(ch), -EPIPE);
	assert_int_equal(storvsc_submit(ch, &request[0]), -EPIPE);
	assert_int_equal(storvsc_read(ch, 0, buf, 512, 0), -EPIPE);
	assert_int_equal(storvsc_reset(ch), -EPIPE);
	assert_false(storvsc_arm(ch));
	storvsc_close(c);
	assert_int_equal(ended, FLIGHT);
	close(out);
	unlink(path);
}

static void be_ready(void)
{
	if (write(1, "r", 1) != 1)
		abort();
}

static void run_server(void)
{
	serve(&server);
	be_ready();
	for (;;)
		pause();
}

/* Reads and writes as fast as it goes, until it is killed. */
static void run_client(void)
{
	struct storvsc_opts opts = { .channels = 3 };
	static uint8_t buf[65536];
	struct storvsc *c;

	must(storvsc_connect(path, NULL, &opts, &c, NULL), "connect");
	be_ready();
	for (unsigned i = 0;; i++)
		must(storvsc_write(storvsc_channel(c, i % 3), 0, buf, sizeof(buf), i % 64 * sizeof(buf), i % 5 == 0),
		     "write");
}

int main(int argc, char **argv)
{
	static const struct single_row singles[] = {
		{ "open and close by hand", open_and_close },
		{ "a sub-channel nobody asked for", subchannel_not_asked_for },
		{ "descriptors do not stay", descriptors_do_not_stay },
		{ "one client per device", one_client_per_device },
		{ "who says nothing is not served", silence },
		{ "the socket's name", listening },
		{ "close with requests in flight", close_in_flight },
		{ "the server stops with requests in flight", server_stops },
		{ "the client is killed", client_is_killed },
	};
	int failed;

	if (argc == 3) {
		snprintf(path, sizeof(path), "%s", argv[2]);
		strcmp(argv[1], "server") == 0 ? run_server() : run_client();
		return 2;
	}
	snprintf(path, sizeof(path), "/tmp/test_storvsc_socket.%d", (int)getpid());
	failed = ROWS_RUN(singles, rows_single) + ROWS_RUN(rude, rude_client) + ROWS_RUN(deaths, server_is_killed);
	unlink(path);
	return failed;
}
