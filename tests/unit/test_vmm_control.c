/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The control socket's protocol, with a machine that only notes what it is asked.
 */
#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/unit/rows.h"
#include "vmm/control.h"
#include "vmm/machine.h"
#include "vmm/machine_snapshot.h"
#include "vmm/machine_track.h"

/* ---- a machine --------------------------------------------------------------------------------------- */

static struct {
	vmm_event_fn fn;
	void *ctx;
	char asked[256];
	struct vmm_disk_config limits;
	enum vmm_state state;
	unsigned listeners;
	const void *owner;		/* of the last snapshot */
	volatile bool owner_gone;
} m;

#define NOTE(...) snprintf(m.asked, sizeof(m.asked), __VA_ARGS__)

int vmm_machine_on_event(struct vmm_machine *machine, vmm_event_fn fn, void *ctx)
{
	m.fn = fn;
	m.ctx = ctx;
	m.listeners++;
	return 0;
}

void vmm_machine_off_event(struct vmm_machine *machine, vmm_event_fn fn, void *ctx)
{
	m.listeners--;
}

enum vmm_state vmm_machine_state(const struct vmm_machine *machine)
{
	return m.state;
}

const char *vmm_state_name(enum vmm_state s)
{
	return s == VMM_RUNNING ? "running" : "paused";
}

const struct vmm_config *vmm_machine_config(const struct vmm_machine *machine)
{
	static const struct vmm_config config = { .name = "noted" };

	return &config;
}

int vmm_machine_pause(struct vmm_machine *machine)
{
	m.state = VMM_PAUSED;
	m.fn(m.ctx, "STOP", NULL);
	return 0;
}

int vmm_machine_resume(struct vmm_machine *machine)
{
	return -EINVAL;
}

int vmm_machine_powerdown(struct vmm_machine *machine, bool reboot, struct sp_err *err)
{
	NOTE("powerdown %d", reboot);
	return sp_err_set(err, -ENOTCONN, "no service");
}

int vmm_machine_reset(struct vmm_machine *machine, struct sp_err *err)
{
	json_object *data = json_object_new_object();

	json_object_object_add(data, "key", json_object_new_string("value"));
	m.fn(m.ctx, "RESET", data);
	return 0;
}

void vmm_machine_quit(struct vmm_machine *machine)
{
	NOTE("quit");
}

int vmm_machine_attach(struct vmm_machine *machine, const char *spec, bool dvd, const char *folder, char ret_at[16],
		       struct sp_err *err)
{
	NOTE("attach %s %d %s", spec, dvd, folder ? folder : "-");
	strcpy(ret_at, "scsi0:7");
	return 0;
}

int vmm_machine_detach(struct vmm_machine *machine, const char *at, struct sp_err *err)
{
	return sp_err_set(err, -ENOENT, "no \"%s\"", at);
}

int vmm_machine_resize(struct vmm_machine *machine, const char *at, uint64_t bytes, struct sp_err *err)
{
	NOTE("resize %s %llu", at, (unsigned long long)bytes);
	return 0;
}

int vmm_machine_set_read_only(struct vmm_machine *machine, const char *at, bool read_only, struct sp_err *err)
{
	NOTE("read-only %s %d", at, read_only);
	return 0;
}

int vmm_machine_set_limits(struct vmm_machine *machine, const char *at, const struct vmm_disk_config *limits,
			   struct sp_err *err)
{
	NOTE("limits %s %llu %llu", at, (unsigned long long)limits->iops, (unsigned long long)limits->burst_bps);
	return 0;
}

int vmm_machine_medium(struct vmm_machine *machine, const char *at, const char *path, const char *folder, bool force,
		       struct sp_err *err)
{
	NOTE("medium %s %s %s %d", at, path ? path : "-", folder ? folder : "-", force);
	return 0;
}

int vmm_machine_snapshot(struct vmm_machine *machine, const struct vmm_snapshot_opts *o, struct sp_err *err)
{
	const struct vmm_snapshot_writer *last = o->writers ? &o->writer[o->writers - 1] : NULL;

	NOTE("snapshot %s %s %d %u %u %u%s%s %s", o->name, vss_level_name(o->require), o->no_quiesce, o->phases,
	     o->check_ms, o->freeze_ms, last ? " " : "", last ? last->name : "",
	     last ? vss_level_name(last->grants) : "");
	m.owner = o->owner;
	return 0;
}

int vmm_machine_snapshot_answer(struct vmm_machine *machine, const struct vmm_snapshot_answer *a, struct sp_err *err)
{
	NOTE("snapshot answer %s %d %s %d %s", a->phase, a->good, a->writer ? a->writer : "-", a->lost,
	     vss_reason_name(a->reason));
	return 0;
}

void vmm_machine_snapshot_owner_gone(struct vmm_machine *machine, const void *owner)
{
	m.owner_gone = m.owner_gone || (owner && owner == m.owner);
}

int vmm_machine_snapshot_abort(struct vmm_machine *machine, struct sp_err *err)
{
	return sp_err_set(err, -ENOENT, "no snapshot is being made");
}

int vmm_machine_snapshots(struct vmm_machine *machine, json_object **ret, struct sp_err *err)
{
	*ret = json_object_new_array();
	return 0;
}

int vmm_machine_snapshot_delete(struct vmm_machine *machine, const char *name, uint64_t rate, struct sp_err *err)
{
	NOTE("snapshot delete %s %d", name, (int)rate);
	return 0;
}

json_object *vmm_machine_jobs(struct vmm_machine *machine)
{
	return json_object_new_array();
}

int vmm_machine_job_cancel(struct vmm_machine *machine, const char *id, struct sp_err *err)
{
	NOTE("cancel %s", id);
	return 0;
}

int vmm_machine_track_points(struct vmm_machine *machine, const char *at, json_object **ret, struct sp_err *err)
{
	NOTE("points %s", at);
	*ret = json_object_new_array();
	return 0;
}

int vmm_machine_track_changes(struct vmm_machine *machine, const char *at, const char *since, const char *until,
			      uint64_t offset, uint64_t limit, json_object **ret, struct sp_err *err)
{
	NOTE("changes %s %s %s %llu %llu", at, since, until ? until : "-", (unsigned long long)offset,
	     (unsigned long long)limit);
	*ret = json_object_new_object();
	return 0;
}

int vmm_machine_track_forget(struct vmm_machine *machine, const char *at, const char *point, struct sp_err *err)
{
	NOTE("forget %s %s", at, point);
	return 0;
}

int vmm_machine_setup(struct vmm_machine *machine, json_object **ret, struct sp_err *err)
{
	NOTE("setup");
	*ret = json_object_new_object();
	return 0;
}

void *vmm_machine_status(struct vmm_machine *machine)
{
	return json_object_new_object();
}

void *vmm_machine_block(struct vmm_machine *machine)
{
	json_object *o = json_object_new_array();
	char *big = malloc(100000);

	memset(big, 'x', 99999);
	big[99999] = '\0';
	json_object_array_add(o, json_object_new_string(big));
	free(big);
	return o;
}

void *vmm_machine_stats(struct vmm_machine *machine)
{
	return NULL;
}

void *vmm_machine_blockstats(struct vmm_machine *machine)
{
	return json_object_new_array();
}

/* ---- the loop in a thread, a client here -------------------------------------------------------------- */

static char folder[] = "/tmp/test-vmm-control.XXXXXX", path[64];
static struct vmm_loop *loop;
static struct vmm_control *control;
static pthread_t thread;
static int end_fd, event_fd;
static char buf[1u << 20];
static size_t have;

static void on_end(void *ctx, uint32_t events)
{
	uint64_t n;

	assert_int_equal(read(end_fd, &n, sizeof(n)), sizeof(n));
	vmm_loop_quit(loop);
}

/* An event of the machine that nobody has asked for. */
static void on_own_event(void *ctx, uint32_t events)
{
	uint64_t n;

	assert_int_equal(read(event_fd, &n, sizeof(n)), sizeof(n));
	m.fn(m.ctx, "SHUTDOWN", NULL);
}

static void *run(void *ctx)
{
	return (void *)(intptr_t)vmm_loop_run(loop);
}

static void begin(void)
{
	struct sp_err err = { 0 };
	int fd;

	memset(&m, 0, sizeof(m));
	m.state = VMM_RUNNING;
	have = 0;
	strcpy(folder + sizeof(folder) - 7, "XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/m.sock", folder);
	assert_int_equal(vmm_loop_new(&loop), 0);
	assert_int_equal(vmm_control_new((struct vmm_machine *)&m, loop, &control, &err), 0);
	assert_int_equal(vmm_control_listen(path, &fd, &err), 0);
	assert_int_equal(vmm_control_add(control, fd, path), 0);
	end_fd = eventfd(0, EFD_CLOEXEC);
	event_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);	/* as often as has been written */
	assert_int_equal(vmm_loop_add(loop, end_fd, EPOLLIN, on_end, NULL, NULL), 0);
	assert_int_equal(vmm_loop_add(loop, event_fd, EPOLLIN, on_own_event, NULL, NULL), 0);
	assert_int_equal(pthread_create(&thread, NULL, run, NULL), 0);
}

static void stop_loop(void)
{
	uint64_t one = 1;

	assert_int_equal(write(end_fd, &one, sizeof(one)), sizeof(one));
	pthread_join(thread, NULL);
}

static void finish(void)
{
	stop_loop();
	vmm_control_free(control);
	vmm_loop_free(loop);
	assert_int_equal(m.listeners, 0);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(rmdir(folder), 0);
	close(end_fd);
	close(event_fd);
}

static int connect_here(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct timeval patience = { .tv_sec = 5 };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(a.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

/* The next line, without its end; "" when the connection has ended. */
static const char *line(int fd)
{
	static char text[1u << 20];
	char *end;

	while (!(end = memchr(buf, '\n', have))) {
		ssize_t n = recv(fd, buf + have, sizeof(buf) - have, 0);

		if (n == 0 || (n < 0 && errno == ECONNRESET))
			return "";
		assert_true(n > 0);
		have += (size_t)n;
	}
	assert_true(end > buf && end[-1] == '\r');
	memcpy(text, buf, (size_t)(end - buf) - 1);
	text[end - buf - 1] = '\0';
	have -= (size_t)(end - buf) + 1;
	memmove(buf, end + 1, have);
	return text;
}

static void say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static void starts(const char *text, const char *want)
{
	if (strncmp(text, want, strlen(want)))
		fail_msg("said %.200s, not %s", text, want);
}

static int client(void)
{
	int fd = connect_here();

	starts(line(fd), "{\"QMP\":{\"version\":{\"qemu\":{");
	say(fd, "{\"execute\":\"qmp_capabilities\"}\n");
	assert_string_equal(line(fd), "{\"return\":{}}");
	return fd;
}

/* ---- commands ---------------------------------------------------------------------------------------- */

#define PARSE_ERROR "{\"error\":{\"class\":\"GenericError\",\"desc\":\"JSON parse error"
#define REFUSED(class) "{\"error\":{\"class\":\"" class "\",\"desc\":\""

static const struct command_row {
	const char *name, *line, *want, *asked;
} command_rows[] = {
	{ "query-status", "{\"execute\":\"query-status\"}",
	  "{\"return\":{\"status\":\"running\",\"running\":true,\"singlestep\":false}}" },
	{ "id comes back", "{\"execute\":\"query-name\",\"id\":[1,{\"a\":null}]}",
	  "{\"return\":{\"name\":\"noted\"},\"id\":[1,{\"a\":null}]}" },
	{ "id comes back with an error", "{\"execute\":\"none\",\"id\":7}",
	  REFUSED("CommandNotFound") "no such command; query-commands lists them\"},\"id\":7}" },
	{ "query-commands", "{\"execute\":\"query-commands\"}",
	  "{\"return\":[{\"name\":\"qmp_capabilities\"},{\"name\":\"query-commands\"},{\"name\":\"query-status\"}" },
	{ "query-uuid", "{\"execute\":\"query-uuid\"}", "{\"return\":{\"UUID\":\"00000000-" },
	{ "query-version", "{\"execute\":\"query-version\"}", "{\"return\":{\"qemu\":{\"major\":" },
	{ "no memory", "{\"execute\":\"spindle-stats\"}", REFUSED("GenericError") "out of memory" },
	{ "not possible now", "{\"execute\":\"cont\"}", REFUSED("GenericError") "the machine is running" },
	{ "no service", "{\"execute\":\"system_powerdown\",\"arguments\":{\"reboot\":true}}",
	  REFUSED("DeviceNotActive"), "powerdown 1" },
	{ "no device", "{\"execute\":\"device_del\",\"arguments\":{\"id\":\"x\"}}",
	  REFUSED("DeviceNotFound") "no \\\"x\\\"" },
	{ "quit", "{\"execute\":\"quit\"}", "{\"return\":{}}", "quit" },
	{ "attach", "{\"execute\":\"device_add\",\"arguments\":{\"spec\":\"a,ro\"}}",
	  "{\"return\":{\"device\":\"scsi0:7\"}}", "attach a,ro 0 -" },
	{ "attach a DVD",
	  "{\"execute\":\"device_add\",\"arguments\":{\"driver\":\"dvd\",\"spec\":\"a\",\"folder\":\"/f\"}}",
	  "{\"return\":{\"device\":", "attach a 1 /f" },
	{ "attach a car", "{\"execute\":\"device_add\",\"arguments\":{\"driver\":\"car\",\"spec\":\"a\"}}",
	  REFUSED("GenericError") "driver \\\"car\\\"" },
	{ "attach nothing", "{\"execute\":\"device_add\"}", REFUSED("GenericError") "argument \\\"spec\\\"" },
	{ "resize", "{\"execute\":\"block_resize\",\"arguments\":{\"device\":\"d\",\"size\":18446744073709551615}}",
	  "{\"return\":{}}", "resize d 18446744073709551615" },
	{ "resize to less than nothing", "{\"execute\":\"block_resize\",\"arguments\":{\"device\":\"d\",\"size\":-1}}",
	  REFUSED("GenericError") "argument \\\"size\\\"" },
	{ "resize to a text", "{\"execute\":\"block_resize\",\"arguments\":{\"device\":\"d\",\"size\":\"1\"}}",
	  REFUSED("GenericError") "argument \\\"size\\\"" },
	{ "limits", "{\"execute\":\"block_set_io_throttle\",\"arguments\":{\"device\":\"d\",\"iops\":5,\"bps_max\":6}}",
	  "{\"return\":{}}", "limits d 5 6" },
	{ "snapshot", "{\"execute\":\"spindle-snapshot-create\",\"arguments\":{\"name\":\"s\","
	  "\"require\":\"file-system\","
	  "\"barrier\":true,\"freeze-ms\":5000}}", "{\"return\":{}}", "snapshot s file-system 0 2 0 5000 " },
	{ "snapshot without quiescing", "{\"execute\":\"spindle-snapshot-create\",\"arguments\":{\"name\":\"s\","
	  "\"quiesce\":false}}", "{\"return\":{}}", "snapshot s crash 1 0 0 0 " },
	{ "snapshot of unknown quality", "{\"execute\":\"spindle-snapshot-create\",\"arguments\":{\"name\":\"s\","
	  "\"require\":\"good\"}}", REFUSED("GenericError") "level \\\"good\\\"" },
	{ "snapshot answer", "{\"execute\":\"spindle-snapshot-answer\","
	  "\"arguments\":{\"phase\":\"thaw\",\"good\":true}}",
	  "{\"return\":{}}", "snapshot answer thaw 1 - 0 none" },
	{ "snapshot with writers", "{\"execute\":\"spindle-snapshot-create\",\"arguments\":{\"name\":\"s\","
	  "\"writers\":[{\"name\":\"a\"},{\"name\":\"b\",\"level\":\"file-system\"}]}}", "{\"return\":{}}",
	  "snapshot s crash 0 0 0 0 b file-system" },
	{ "writers that are no list", "{\"execute\":\"spindle-snapshot-create\",\"arguments\":{\"name\":\"s\","
	  "\"writers\":{}}}", REFUSED("GenericError") "\\\"writers\\\": expected a list" },
	{ "writers that are no objects", "{\"execute\":\"spindle-snapshot-create\",\"arguments\":{\"name\":\"s\","
	  "\"writers\":[null]}}", REFUSED("GenericError") "\\\"writers\\\": expected objects" },
	{ "writer of no level", "{\"execute\":\"spindle-snapshot-create\",\"arguments\":{\"name\":\"s\","
	  "\"writers\":[{\"name\":\"a\",\"level\":7}]}}", REFUSED("GenericError") "\\\"writers\\\": expected objects" },
	{ "snapshot answer of a writer", "{\"execute\":\"spindle-snapshot-answer\",\"arguments\":{\"phase\":\"freeze\","
	  "\"writer\":\"a\",\"good\":false,\"reason\":\"freeze-error\"}}", "{\"return\":{}}",
	  "snapshot answer freeze 0 a 0 freeze-error" },
	{ "a writer is lost", "{\"execute\":\"spindle-snapshot-answer\",\"arguments\":{\"phase\":\"lost\","
	  "\"writer\":\"a\"}}", "{\"return\":{}}", "snapshot answer lost 0 a 1 none" },
	{ "a reason nobody knows", "{\"execute\":\"spindle-snapshot-answer\",\"arguments\":{\"phase\":\"freeze\","
	  "\"reason\":\"mood\"}}", REFUSED("GenericError") "reason \\\"mood\\\" is not known" },
	{ "no snapshot to abort", "{\"execute\":\"spindle-snapshot-abort\"}", REFUSED("DeviceNotFound") "no snapshot" },
	{ "snapshot deletion", "{\"execute\":\"spindle-snapshot-delete\",\"arguments\":{\"name\":\"s\",\"speed\":7}}",
	  "{\"return\":{}}", "snapshot delete s 7" },
	{ "cancel", "{\"execute\":\"job-cancel\",\"arguments\":{\"id\":\"snapshot-delete\"}}", "{\"return\":{}}",
	  "cancel snapshot-delete" },
	{ "points", "{\"execute\":\"spindle-track-points\",\"arguments\":{\"device\":\"d\"}}", "{\"return\":[]}",
	  "points d" },
	{ "changes", "{\"execute\":\"spindle-track-changes\",\"arguments\":{\"device\":\"d\",\"since\":\"p\","
	  "\"until\":\"q\",\"offset\":65536,\"limit\":9}}", "{\"return\":{}}", "changes d p q 65536 9" },
	{ "changes until now", "{\"execute\":\"spindle-track-changes\","
	  "\"arguments\":{\"device\":\"d\",\"since\":\"p\"}}", "{\"return\":{}}", "changes d p - 0 0" },
	{ "forget", "{\"execute\":\"spindle-track-forget\",\"arguments\":{\"device\":\"d\",\"point\":\"p\"}}",
	  "{\"return\":{}}", "forget d p" },
	{ "configuration", "{\"execute\":\"spindle-query-config\"}", "{\"return\":{}}", "setup" },
	{ "read-only", "{\"execute\":\"spindle-set-read-only\",\"arguments\":{\"device\":\"d\",\"read-only\":true}}",
	  "{\"return\":{}}", "read-only d 1" },
	{ "medium", "{\"execute\":\"blockdev-change-medium\",\"arguments\":{\"device\":\"d\",\"filename\":\"f\"}}",
	  "{\"return\":{}}", "medium d f - 0" },
	{ "eject", "{\"execute\":\"eject\",\"arguments\":{\"device\":\"d\",\"force\":true}}", "{\"return\":{}}",
	  "medium d - - 1" },
	{ "a line end of two", "{\"execute\":\"query-name\"}\r", "{\"return\":{\"name\"" },
	{ "spaces", " \t{ \"execute\" : \"query-name\" } ", "{\"return\":{\"name\"" },
	{ "garbage", "hello", PARSE_ERROR },
	{ "half an object", "{\"execute\":", PARSE_ERROR },
	{ "a list", "[]", PARSE_ERROR },
	{ "a text", "\"quit\"", PARSE_ERROR },
	{ "garbage with an object in it", "x{\"execute\":\"quit\"}", PARSE_ERROR },
	{ "braces and quotes in a text", "{\"execute\":\"device_del\",\"arguments\":{\"id\":\"}{\\\"}\\\\\"}}",
	  REFUSED("DeviceNotFound") "no \\\"}{\\\"}\\\\\\\"" },
	{ "nested too deep", "[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]", PARSE_ERROR },
	{ "no UTF-8", "{\"execute\":\"\xc3\x28\"}", PARSE_ERROR },
	{ "no command", "{\"arguments\":{}}", REFUSED("GenericError") "expected" },
	{ "a number as command", "{\"execute\":1}", REFUSED("GenericError") "expected" },
	{ "arguments: a list", "{\"execute\":\"quit\",\"arguments\":[]}", REFUSED("GenericError") "\\\"arguments\\\"" },
};

static void command(void **state)
{
	const struct command_row *row = *state;
	int fd;

	begin();
	fd = client();
	say(fd, row->line);
	say(fd, "\n \n\n{\"execute\":\"query-name\",\"id\":\"after\"}\n");
	starts(line(fd), row->want);
	assert_string_equal(line(fd), "{\"return\":{\"name\":\"noted\"},\"id\":\"after\"}");
	close(fd);
	stop_loop();
	assert_string_equal(m.asked, row->asked ? row->asked : "");
	assert_int_equal(pthread_create(&thread, NULL, run, NULL), 0);
	finish();
}

/* ---- connections ------------------------------------------------------------------------------------- */

static void negotiation(void **state)
{
	int fd;

	begin();
	fd = connect_here();
	starts(line(fd), "{\"QMP\"");
	say(fd, "{\"execute\":\"stop\"}\n");
	starts(line(fd), REFUSED("CommandNotFound") "expecting capabilities negotiation");
	say(fd, "{\"execute\":\"qmp_capabilities\"}\n");
	assert_string_equal(line(fd), "{\"return\":{}}");
	close(fd);
	stop_loop();
	assert_int_equal(m.state, VMM_RUNNING);
	assert_int_equal(pthread_create(&thread, NULL, run, NULL), 0);
	finish();
}

/* Bytes come as they like: one by one, many lines at once. */
static void framing(void **state)
{
	static const char one[] = "{\"execute\":\"query-name\"}\n";
	char many[100 * sizeof(one)] = "";
	int fd;

	begin();
	fd = client();
	say(fd, "{\"execute\":\"query-name\"}");		/* without a line end, as some clients do */
	assert_string_equal(line(fd), "{\"return\":{\"name\":\"noted\"}}");
	say(fd, "{\"execute\":\"query-name\"} {\"execute\":\"stop\"}");
	assert_string_equal(line(fd), "{\"return\":{\"name\":\"noted\"}}");
	starts(line(fd), "{\"event\":\"STOP\"");
	assert_string_equal(line(fd), "{\"return\":{}}");
	for (const char *p = one; *p; p++)
		assert_int_equal(send(fd, p, 1, 0), 1);
	assert_string_equal(line(fd), "{\"return\":{\"name\":\"noted\"}}");
	for (unsigned i = 0; i < 100; i++)
		memcpy(many + i * strlen(one), one, strlen(one) + 1);
	say(fd, many);
	for (unsigned i = 0; i < 100; i++)
		assert_string_equal(line(fd), "{\"return\":{\"name\":\"noted\"}}");
	close(fd);
	finish();
}

static void long_line(void **state)
{
	size_t len = 64u << 10;
	char *text = malloc(len + 1);
	int fd;

	begin();
	fd = client();
	memset(text, ' ', len);		/* the longest one there can be */
	memcpy(text, "{\"execute\":\"query-name\"", 23);
	text[len - 1] = '}';
	text[len] = '\0';
	say(fd, text);
	assert_string_equal(line(fd), "{\"return\":{\"name\":\"noted\"}}");
	text[len - 1] = ' ';
	say(fd, text);
	starts(line(fd), REFUSED("GenericError") "request longer than 64 KiB");
	assert_string_equal(line(fd), "");
	close(fd);
	free(text);
	finish();
}

static void events(void **state)
{
	int one, other, silent;

	begin();
	silent = connect_here();
	starts(line(silent), "{\"QMP\"");
	one = client();
	other = client();
	say(one, "{\"execute\":\"system_reset\"}\n");
	starts(line(one), "{\"event\":\"RESET\",\"data\":{\"key\":\"value\"},\"timestamp\":{\"seconds\":");
	assert_string_equal(line(one), "{\"return\":{}}");
	starts(line(other), "{\"event\":\"RESET\"");
	say(other, "{\"execute\":\"stop\"}\n");
	starts(line(other), "{\"event\":\"STOP\",\"data\":{}");
	say(silent, "{\"execute\":\"qmp_capabilities\"}\n");
	assert_string_equal(line(silent), "{\"return\":{}}");	/* it has missed them */
	close(one);
	close(other);
	close(silent);
	finish();
}

/* Asks and asks, and never reads: it is cut off, others are not. */
static void slow_reader(void **state)
{
	struct pollfd p = { .events = POLLRDHUP };
	int slow, other;

	begin();
	slow = client();
	other = client();
	for (unsigned i = 0; i < 64; i++)
		say(slow, "{\"execute\":\"query-block\"}\n");
	p.fd = slow;
	assert_int_equal(poll(&p, 1, 5000), 1);
	say(other, "{\"execute\":\"query-name\"}\n");
	assert_string_equal(line(other), "{\"return\":{\"name\":\"noted\"}}");
	close(slow);
	close(other);
	finish();
}

/* The same by events alone, while nobody asks anything. */
static void slow_listener(void **state)
{
	struct pollfd p = { .events = POLLRDHUP };
	uint64_t many = 80000;
	int fd;

	begin();
	fd = client();
	p.fd = fd;
	assert_int_equal(write(event_fd, &many, sizeof(many)), sizeof(many));
	assert_int_equal(poll(&p, 1, 20000), 1);
	close(fd);
	finish();
}

static void many_clients(void **state)
{
	int fd[16], extra;

	begin();
	for (unsigned i = 0; i < 16; i++)
		fd[i] = client();
	extra = connect_here();
	assert_string_equal(line(extra), "");
	close(extra);
	close(fd[3]);
	for (unsigned tries = 0; tries < 100; tries++) {	/* its place is free as soon as that is noticed */
		extra = connect_here();
		if (*line(extra))
			break;
		close(extra);
		usleep(1000);
	}
	say(extra, "{\"execute\":\"qmp_capabilities\"}\n");
	assert_string_equal(line(extra), "{\"return\":{}}");
	close(extra);
	for (unsigned i = 0; i < 16; i++)
		if (i != 3)
			close(fd[i]);
	finish();
}

/* Clients that leave in the middle of everything. */
static void leaving(void **state)
{
	int fd;

	begin();
	for (unsigned i = 0; i < 50; i++) {
		fd = connect_here();
		say(fd, "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-block\"}\n{\"execute\":\"sto");
		close(fd);
	}
	usleep(10000);
	have = 0;
	fd = client();
	close(fd);
	finish();
}

/* Whose connection goes can play no writer any more; others may come and go. */
static void owner_leaves(void **state)
{
	int fd, other;

	begin();
	m.owner_gone = false;
	fd = client();
	other = client();
	say(fd, "{\"execute\":\"spindle-snapshot-create\",\"arguments\":{\"name\":\"s\"}}\n");
	assert_string_equal(line(fd), "{\"return\":{}}");
	close(other);
	close(client());
	usleep(20000);
	assert_false(m.owner_gone);
	close(fd);
	for (unsigned i = 0; i < 500 && !m.owner_gone; i++)
		usleep(10000);
	assert_true(m.owner_gone);
	finish();
}

/* Disks close between the end of the machine and the end of connections. */
static void machine_gone(void **state)
{
	int fd;

	begin();
	fd = client();
	stop_loop();
	vmm_control_machine_gone(control);
	assert_int_equal(m.listeners, 0);
	assert_int_equal(pthread_create(&thread, NULL, run, NULL), 0);
	say(fd, "{\"execute\":\"stop\"}\n");
	starts(line(fd), REFUSED("GenericError") "the machine is off");
	finish();
	assert_string_equal(line(fd), "");
	close(fd);
}

/* ---- the socket's file ------------------------------------------------------------------------------- */

static void socket_file(void **state)
{
	struct sp_err err = { 0 };
	char name[200], other[64];
	struct stat st;
	int fd;
	FILE *f;

	begin();
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(vmm_control_listen(path, &fd, &err), -EADDRINUSE);
	snprintf(other, sizeof(other), "%s/stale", folder);
	assert_int_equal(vmm_control_listen(other, &fd, &err), 0);
	close(fd);
	assert_int_equal(vmm_control_listen(other, &fd, &err), 0);	/* nobody listened */
	close(fd);
	unlink(other);
	f = fopen(other, "w");
	fclose(f);
	assert_int_equal(vmm_control_listen(other, &fd, &err), -EEXIST);	/* somebody's file */
	assert_int_equal(unlink(other), 0);
	memset(name, 'a', sizeof(name));
	name[199] = '\0';
	assert_int_equal(vmm_control_listen(name, &fd, &err), -ENAMETOOLONG);
	assert_int_equal(vmm_control_listen("/nowhere/a.sock", &fd, &err), -ENOENT);
	finish();
}

static const struct single_row others[] = {
	{ "negotiation comes first", negotiation },
	{ "framing", framing },
	{ "the longest line, and a longer one", long_line },
	{ "events", events },
	{ "who does not read answers", slow_reader },
	{ "who does not read events", slow_listener },
	{ "many clients", many_clients },
	{ "clients that leave", leaving },
	{ "the owner of a snapshot leaves", owner_leaves },
	{ "the machine has gone", machine_gone },
	{ "the file of the socket", socket_file },
};

int main(void)
{
	return ROWS_RUN(command_rows, command) + ROWS_RUN(others, rows_single);
}
