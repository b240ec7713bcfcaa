/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The UART as drivers probe and use it, and what is at its other end: each kind of backend with a peer of the test's.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "tests/unit/rows.h"
#include "vmm/serial.h"

/* ---- a UART with a note pad ------------------------------------------------------------------------ */

static struct {
	struct vmm_serial *serial;
	struct vmm_pio *pio;
	unsigned char out[512];
	unsigned outs, edges, drained;
	bool line;
} u;

static void on_irq(void *ctx, bool level)
{
	assert_true(level != u.line);
	u.line = level;
	u.edges += level;
}

static void on_output(void *ctx, uint8_t byte)
{
	if (u.outs < sizeof(u.out))
		u.out[u.outs++] = byte;
}

static void on_drained(void *ctx)
{
	u.drained++;
}

static int uart_setup(void **state)
{
	static const struct vmm_serial_ops ops = { on_irq, on_output, on_drained };

	memset(&u, 0, sizeof(u));
	assert_int_equal(vmm_pio_new(&u.pio), 0);
	assert_int_equal(vmm_serial_new(&ops, NULL, &u.serial), 0);
	return vmm_pio_claim(u.pio, VMM_PORT_COM1, VMM_SERIAL_PORTS, &vmm_serial_ports, u.serial);
}

static int uart_teardown(void **state)
{
	vmm_serial_free(u.serial);
	vmm_pio_free(u.pio);
	return 0;
}

static unsigned in(unsigned reg)
{
	return vmm_pio_read(u.pio, (uint16_t)(VMM_PORT_COM1 + reg), 1);
}

static void out(unsigned reg, unsigned value)
{
	vmm_pio_write(u.pio, (uint16_t)(VMM_PORT_COM1 + reg), 1, value);
}

/* What Linux' 8250 driver asks before it believes in a 16550A, in its order. */
static void probe(void **state)
{
	out(1, 0);
	assert_int_equal(in(1), 0);
	out(1, 0x0f);
	assert_int_equal(in(1), 0x0f);
	out(1, 0);
	out(4, 0x1a);			/* loop, RTS, OUT2 */
	assert_int_equal(in(6) & 0xf0, 0x90);
	out(4, 0x08);
	out(3, 0x00);
	out(2, 0x01);
	assert_int_equal(in(2) & 0xc0, 0xc0);
	out(2, 0x00);
	assert_int_equal(in(2) & 0xc0, 0x00);
	out(7, 0xa5);
	assert_int_equal(in(7), 0xa5);
	out(7, 0x5a);
	assert_int_equal(in(7), 0x5a);
	out(3, 0x83);			/* the divisor hides data and IER */
	out(0, 0x01);
	out(1, 0x02);
	assert_int_equal(in(0), 0x01);
	assert_int_equal(in(1), 0x02);
	out(3, 0x03);
	assert_int_equal(in(1), 0);
	assert_int_equal(in(3), 0x03);
	assert_int_equal(in(5), 0x60);
	assert_int_equal(u.outs, 0);
}

/* Its test whether the transmitter interrupt comes back when it is asked for again. */
static void transmitter_interrupt(void **state)
{
	out(1, 0x02);
	assert_true(u.line);
	assert_int_equal(in(2) & 0x0f, 0x02);
	assert_false(u.line);		/* told once */
	assert_int_equal(in(2) & 0x0f, 0x01);
	out(1, 0);
	out(1, 0x02);
	assert_true(u.line);
	assert_int_equal(in(2) & 0x0f, 0x02);
	u.edges = 0;
	out(0, 'x');			/* gone at once, so empty once more: an edge for the next bytes */
	assert_int_equal(u.edges, 1);
	out(1, 0);
	assert_false(u.line);
	assert_int_equal(u.outs, 1);
	assert_int_equal(u.out[0], 'x');
}

static void input(void **state)
{
	const uint8_t text[20] = "0123456789abcdefghij";

	out(2, 0x81);			/* FIFOs, trigger level 8 */
	out(1, 0x01);
	assert_int_equal(vmm_serial_room(u.serial), 16);
	assert_int_equal(vmm_serial_input(u.serial, text, 3), 3);
	assert_true(u.line);
	assert_int_equal(in(2), 0xcc);	/* below the level */
	assert_int_equal(vmm_serial_input(u.serial, text + 3, 17), 13);
	assert_int_equal(in(2), 0xc4);
	assert_int_equal(vmm_serial_room(u.serial), 0);
	assert_int_equal(u.drained, 0);
	for (unsigned i = 0; i < 16; i++) {
		assert_int_equal(in(5), 0x61);
		assert_int_equal(in(0), text[i]);
		assert_int_equal(u.drained, 1);	/* once */
	}
	assert_int_equal(in(5), 0x60);
	assert_int_equal(in(0), 0);
	assert_false(u.line);
	vmm_serial_input(u.serial, text, 5);
	out(2, 0x83);			/* throws away what came in */
	assert_int_equal(in(5), 0x60);
}

static void without_fifo(void **state)
{
	assert_int_equal(vmm_serial_room(u.serial), 1);
	assert_int_equal(vmm_serial_input(u.serial, (const uint8_t *)"ab", 2), 1);
	assert_int_equal(vmm_serial_room(u.serial), 0);
	assert_int_equal(in(0), 'a');
	assert_int_equal(u.drained, 1);
}

static void loop_back(void **state)
{
	out(2, 0x01);
	out(1, 0x04);
	out(4, 0x10);
	assert_int_equal(vmm_serial_room(u.serial), 0);
	for (unsigned i = 0; i < 16; i++)
		out(0, 'a' + i);
	assert_false(u.line);
	out(0, 'z');			/* one too many */
	assert_true(u.line);
	assert_int_equal(in(2) & 0x0f, 0x06);
	assert_int_equal(in(5), 0x63);
	assert_false(u.line);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(in(0), 'a' + i);
	assert_int_equal(u.outs, 0);
	assert_int_equal(u.drained, 0);
	out(4, 0);
	assert_int_equal(u.drained, 1);
}

static void reset(void **state)
{
	out(2, 0x01);
	out(1, 0x0f);
	vmm_serial_input(u.serial, (const uint8_t *)"abc", 3);
	assert_true(u.line);
	vmm_serial_reset(u.serial);
	assert_false(u.line);
	assert_int_equal(in(1), 0);
	assert_int_equal(in(2), 0x01);
	assert_int_equal(in(5), 0x60);
	/* not byte wide: nothing there */
	assert_int_equal(vmm_pio_read(u.pio, VMM_PORT_COM1, 2) & 0xffff, 0xffff);
	assert_int_equal(vmm_serial_room(u.serial), 1);
}

/* ---- backends -------------------------------------------------------------------------------------- */

static struct {
	struct vmm_loop *loop;
	struct vmm_serial_backend *b;
	size_t room;
	char got[4096], keys[16];
	size_t gots, keyed, wanted;
	char folder[64];
} e;

static size_t ends_room(void *ctx)
{
	return e.room;
}

static void ends_input(void *ctx, const uint8_t *bytes, size_t len)
{
	assert_true(len <= e.room && e.gots + len <= sizeof(e.got));
	memcpy(e.got + e.gots, bytes, len);
	e.gots += len;
	e.room -= len;
	if (e.gots >= e.wanted)
		vmm_loop_quit(e.loop);
}

static void ends_escape(void *ctx, char key)
{
	assert_true(e.keyed < sizeof(e.keys));
	e.keys[e.keyed++] = key;
}

static const struct vmm_serial_backend_ops ends_ops = { ends_room, ends_input, ends_escape };

static int ends_setup(void **state)
{
	memset(&e, 0, sizeof(e));
	e.room = sizeof(e.got);
	strcpy(e.folder, "/tmp/spindle-serial-XXXXXX");
	assert_non_null(mkdtemp(e.folder));
	return vmm_loop_new(&e.loop);
}

static int ends_teardown(void **state)
{
	char command[128];

	vmm_serial_backend_free(e.b);
	vmm_loop_free(e.loop);
	snprintf(command, sizeof(command), "rm -rf %s", e.folder);
	return system(command);
}

static void expired(void *ctx)
{
	vmm_loop_quit(e.loop);
}

/* Lets the loop work until there are that many bytes of input, or for a while. */
static void turn(size_t wanted, unsigned ms)
{
	struct vmm_watch *timer;

	e.wanted = wanted ? wanted : SIZE_MAX;
	assert_int_equal(vmm_loop_timer(e.loop, ms, 0, expired, NULL, &timer), 0);
	assert_int_equal(vmm_loop_run(e.loop), 0);
	vmm_loop_remove(timer);
}

static void open_backend(const char *kind, const char *name)
{
	char spec[128];
	struct sp_err err = { 0 };

	snprintf(spec, sizeof(spec), name ? "%s:%s/%s" : "%s", kind, e.folder, name);
	if (vmm_serial_backend_new(e.loop, spec, &ends_ops, NULL, &e.b, &err) < 0)
		fail_msg("%s", sp_err_text(&err));
}

static void say(const char *text)
{
	vmm_serial_backend_output(e.b, (const uint8_t *)text, strlen(text));
}

static int unix_client(const char *name)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s/%s", e.folder, name);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		close(fd);
		return -errno;
	}
	return fd;
}

static void reads(int fd, const char *want)
{
	char buf[256];
	size_t done = 0, len = strlen(want);
	struct pollfd p = { .fd = fd, .events = POLLIN };

	while (done < len && poll(&p, 1, 2000) > 0) {
		ssize_t n = read(fd, buf + done, len - done);

		assert_true(n > 0);
		done += (size_t)n;
	}
	assert_int_equal(done, len);
	assert_memory_equal(buf, want, len);
}

static void writes(int fd, const char *text)
{
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static bool hung_up(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char c;

	return poll(&p, 1, 2000) > 0 && read(fd, &c, 1) <= 0;
}

static void socket_end(void **state)
{
	struct stat st;
	char path[128];
	int first, second;

	open_backend("unix", "console");
	snprintf(path, sizeof(path), "%s/console", e.folder);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	say("kept for later ");
	turn(0, 20);
	first = unix_client("console");
	assert_true(first >= 0);
	turn(0, 20);
	say("and now");
	turn(0, 20);
	reads(first, "kept for later and now");
	second = unix_client("console");
	turn(0, 20);
	assert_true(hung_up(second));	/* one at a time */
	writes(first, "in\1x");		/* a program may send what it likes */
	turn(4, 2000);
	assert_memory_equal(e.got, "in\1x", 4);
	close(first);
	close(second);
	turn(0, 20);
	say("between");
	first = unix_client("console");
	turn(0, 20);
	reads(first, "between");
	close(first);
	vmm_serial_backend_free(e.b);
	e.b = NULL;
	assert_int_equal(stat(path, &st), -1);
}

static void socket_taken(void **state)
{
	struct sp_err err = { 0 };
	struct vmm_serial_backend *other;
	char spec[128];
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int stale;

	snprintf(spec, sizeof(spec), "unix:%s/s", e.folder);
	stale = socket(AF_UNIX, SOCK_STREAM, 0);
	memcpy(a.sun_path, spec + 5, strlen(spec + 5));
	assert_int_equal(bind(stale, (struct sockaddr *)&a, sizeof(a)), 0);
	close(stale);			/* as a killed process leaves it */
	open_backend("unix", "s");
	assert_int_equal(vmm_serial_backend_new(e.loop, spec, &ends_ops, NULL, &other, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, spec));
}

/* The guest goes on whether or not anybody reads, and its last words are what remains. */
static void nobody_reads(void **state)
{
	char line[64], want[64];
	int fd, n = 0;
	ssize_t got;
	static char all[1 << 20];
	size_t total = 0;

	open_backend("unix", "console");
	fd = unix_client("console");
	turn(0, 20);
	for (n = 0; n < 40000; n++) {
		snprintf(line, sizeof(line), "line %07d\n", n);
		say(line);
		if (n % 1000 == 0)
			turn(0, 1);
	}
	assert_true(vmm_serial_backend_dropped(e.b) > 0);
	snprintf(want, sizeof(want), "line %07d\n", n - 1);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	for (int i = 0; i < 200; i++) {
		turn(0, 2);
		while (total < sizeof(all) && (got = read(fd, all + total, sizeof(all) - total)) > 0)
			total += (size_t)got;
		if (total >= 13 && memcmp(all + total - 13, want, 13) == 0)
			break;
	}
	assert_true(total >= 65536);
	assert_memory_equal(all + total - 13, want, 13);
	assert_int_equal(total + vmm_serial_backend_dropped(e.b), 13u * 40000);
	close(fd);
}

/* A full UART stops the reading; the bell starts it again. Also when the peer has gone by then. */
static void no_room(void **state)
{
	int fd;

	open_backend("unix", "console");
	fd = unix_client("console");
	e.room = 4;
	writes(fd, "abcdefgh");
	close(fd);
	turn(0, 30);
	assert_int_equal(e.gots, 4);
	turn(0, 30);
	assert_int_equal(e.gots, 4);
	e.room = 16;
	vmm_serial_backend_kick(e.b);
	turn(8, 2000);
	assert_int_equal(e.gots, 8);
	assert_memory_equal(e.got, "abcdefgh", 8);
}

static void tcp_end(void **state)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	unsigned port;

	open_backend("tcp:0", NULL);
	assert_int_equal(sscanf(vmm_serial_backend_name(e.b), "tcp:127.0.0.1:%u", &port), 1);
	a.sin_port = htons((uint16_t)port);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	say("hello");
	turn(0, 20);
	reads(fd, "hello");
	writes(fd, "ho");
	turn(2, 2000);
	assert_memory_equal(e.got, "ho", 2);
	close(fd);
}

static void pty_end(void **state)
{
	const char *name;
	struct termios t;
	int fd;

	open_backend("pty", NULL);
	name = vmm_serial_backend_name(e.b);
	assert_memory_equal(name, "pty:/dev/", 9);
	for (int i = 0; i < 2; i++) {	/* somebody comes, goes, and comes again */
		fd = open(name + 4, O_RDWR | O_NOCTTY | O_CLOEXEC);
		assert_true(fd >= 0);
		assert_int_equal(tcgetattr(fd, &t), 0);
		assert_int_equal(t.c_lflag & (ICANON | ECHO), 0);
		say("login: ");
		turn(0, 20);
		reads(fd, "login: ");
		e.gots = 0;
		writes(fd, "root\r");
		turn(5, 2000);
		assert_int_equal(e.gots, 5);
		assert_memory_equal(e.got, "root\r", 5);
		close(fd);
		turn(0, 10);
	}
}

static void file_end(void **state)
{
	char path[128], text[64] = "";
	FILE *f;

	for (int i = 0; i < 2; i++) {
		open_backend("file", "log");
		say(i ? "second" : "first ");
		if (i)
			turn(0, 20);
		vmm_serial_backend_free(e.b);	/* the last words are written */
		e.b = NULL;
	}
	snprintf(path, sizeof(path), "%s/log", e.folder);
	f = fopen(path, "r");
	assert_non_null(f);
	assert_non_null(fgets(text, sizeof(text), f));
	fclose(f);
	assert_string_equal(text, "first second");
}

static void none_end(void **state)
{
	open_backend("none", NULL);
	for (int i = 0; i < 100000; i++)
		say("x");
	turn(0, 10);
	assert_true(vmm_serial_backend_dropped(e.b) <= 100000);
}

/* Standard input and output replaced by what the test holds the other end of. */
struct stdio {
	int saved_in, saved_out;
};

static struct stdio replace_stdio(int in_fd, int out_fd)
{
	struct stdio s = { dup(0), dup(1) };

	fflush(stdout);
	dup2(in_fd, 0);
	dup2(out_fd, 1);
	return s;
}

static void restore_stdio(struct stdio s)
{
	dup2(s.saved_in, 0);
	dup2(s.saved_out, 1);
	close(s.saved_in);
	close(s.saved_out);
}

static void stdio_end(void **state)
{
	int to[2], from[2], busy, flags;
	struct vmm_serial_backend *other;
	struct stdio s;

	assert_int_equal(pipe(to), 0);
	assert_int_equal(pipe(from), 0);
	s = replace_stdio(to[0], from[1]);
	open_backend("stdio", NULL);
	busy = vmm_serial_backend_new(e.loop, "stdio", &ends_ops, NULL, &other, NULL);
	say("prompt");
	writes(to[1], "ab\1cd\1xe\1\1f");
	turn(6, 2000);
	flags = fcntl(1, F_GETFL);
	vmm_serial_backend_free(e.b);
	e.b = NULL;
	restore_stdio(s);
	assert_int_equal(busy, -EBUSY);
	assert_int_equal(flags & O_NONBLOCK, 0);	/* others write there, too */
	assert_int_equal(e.gots, 6);
	assert_memory_equal(e.got, "abde\1f", 6);
	assert_int_equal(e.keyed, 2);
	assert_memory_equal(e.keys, "cx", 2);
	reads(from[0], "prompt");
	for (int i = 0; i < 2; i++) {
		close(to[i]);
		close(from[i]);
	}
}

/* Nothing to watch there: a file is read as far as there is room, /dev/null ends at once. */
static void stdio_plain(void **state)
{
	char path[128];
	struct stdio s;
	int fd, null = open("/dev/null", O_RDWR);

	snprintf(path, sizeof(path), "%s/script", e.folder);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	writes(fd, "echo one\necho two\n");
	lseek(fd, 0, SEEK_SET);
	s = replace_stdio(fd, null);
	e.room = 9;
	open_backend("stdio", NULL);
	turn(9, 500);
	e.room = 100;
	vmm_serial_backend_kick(e.b);
	turn(18, 500);
	vmm_serial_backend_free(e.b);
	dup2(null, 0);
	open_backend("stdio", NULL);
	say("x");
	turn(0, 10);
	vmm_serial_backend_free(e.b);
	e.b = NULL;
	restore_stdio(s);
	assert_int_equal(e.gots, 18);
	assert_memory_equal(e.got, "echo one\necho two\n", 18);
	close(fd);
	close(null);
}

static void stdio_terminal(void **state)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY), slave;
	struct termios before, raw, after;
	struct stdio s;

	assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
	slave = open(ptsname(master), O_RDWR | O_NOCTTY);
	assert_true(slave >= 0);
	tcgetattr(slave, &before);
	s = replace_stdio(slave, slave);
	open_backend("stdio", NULL);
	tcgetattr(slave, &raw);
	vmm_serial_backend_free(e.b);
	e.b = NULL;
	restore_stdio(s);
	tcgetattr(slave, &after);
	assert_int_equal(raw.c_lflag & (ICANON | ECHO | ISIG), 0);
	assert_int_equal(raw.c_oflag, before.c_oflag);
	assert_int_equal(after.c_lflag, before.c_lflag);
	assert_int_equal(after.c_iflag, before.c_iflag);
	close(slave);
	close(master);
}

/* Processors write while the loop does: every byte is either read or counted as dropped. */
static void *processor(void *arg)
{
	for (int i = 0; i < 20000; i++)
		vmm_serial_backend_output(e.b, (const uint8_t *)"0123456789", 10);
	return NULL;
}

static void threads(void **state)
{
	pthread_t t[2];
	char path[128];
	struct stat st;

	open_backend("file", "log");
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, processor, NULL), 0);
	turn(0, 50);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	turn(0, 100);
	snprintf(path, sizeof(path), "%s/log", e.folder);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal((uint64_t)st.st_size + vmm_serial_backend_dropped(e.b), 400000);
}

/* ---- specs ----------------------------------------------------------------------------------------- */

static const struct spec {
	const char *name, *spec;
	int want;
} specs[] = {
	{ "stdio", "stdio", 0 }, { "none", "none", 0 }, { "null", "null", 0 }, { "pty", "pty", 0 },
	{ "unix", "unix:/run/x", 0 }, { "file", "file:log", 0 }, { "tcp", "tcp:4000", 0 },
	{ "a path with a colon", "file:a:b", 0 },
	{ "nothing", "", -EINVAL }, { "unknown", "vc", -EINVAL }, { "prefix", "std", -EINVAL },
	{ "longer", "stdiox", -EINVAL }, { "stdio with more", "stdio:x", -EINVAL },
	{ "pty with more", "pty:1", -EINVAL },
	{ "unix without path", "unix", -EINVAL }, { "unix with empty path", "unix:", -EINVAL },
	{ "file without path", "file:", -EINVAL }, { "tcp without port", "tcp", -EINVAL },
	{ "tcp with empty port", "tcp:", -EINVAL }, { "tcp with name", "tcp:http", -EINVAL },
	{ "port too large", "tcp:65536", -EINVAL }, { "negative port", "tcp:-1", -EINVAL },
	{ "port with more", "tcp:1x", -EINVAL }, { "port with host", "tcp:0.0.0.0:1", -EINVAL },
};

static void spec_check(void **state)
{
	const struct spec *c = *state;
	struct sp_err err = { 0 };

	assert_int_equal(vmm_serial_spec_check(c->spec, &err), c->want);
	if (c->want)
		assert_non_null(strstr(err.text, c->spec));
}

static void cannot_open(void **state)
{
	struct sp_err err = { 0 };
	char path[200] = "unix:/tmp/";

	assert_int_equal(vmm_serial_backend_new(e.loop, "file:/no/such/folder/x", &ends_ops, NULL, &e.b, &err),
			 -ENOENT);
	assert_non_null(strstr(err.text, "/no/such/folder/x"));
	memset(path + 10, 'x', 150);
	assert_int_equal(vmm_serial_backend_new(e.loop, path, &ends_ops, NULL, &e.b, &err), -EINVAL);
	assert_int_equal(vmm_serial_backend_new(e.loop, "vc", &ends_ops, NULL, &e.b, &err), -EINVAL);
}

#define UART(f) cmocka_unit_test_setup_teardown(f, uart_setup, uart_teardown)
#define END(f) cmocka_unit_test_setup_teardown(f, ends_setup, ends_teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		UART(probe), UART(transmitter_interrupt), UART(input), UART(without_fifo), UART(loop_back), UART(reset),
		END(socket_end), END(socket_taken), END(nobody_reads), END(no_room), END(tcp_end), END(pty_end),
		END(file_end), END(none_end), END(stdio_end), END(stdio_plain), END(stdio_terminal), END(threads),
		END(cannot_open),
	};
	int failed = cmocka_run_group_tests_name("serial", tests, NULL, NULL);

	return failed + ROWS_RUN(specs, spec_check) != 0;
}
