/* SPDX-License-Identifier: BSD-2-Clause */
/* Stores over memory, files and block devices keep the same contract; locks; what is refused. */
#include "vhd/store.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "tests/support/rng.h"
#include "tests/unit/rows.h"
#include "vhd/store_mem_int.h"

#define PAGE 4096u

static char dir[] = "/tmp/spindle-store-XXXXXX";

static const char *in_dir(const char *name)
{
	static char path[4][256];
	static unsigned turn;
	char *p = path[turn++ % 4];

	snprintf(p, sizeof(path[0]), "%s/%s", dir, name);
	return p;
}

static struct store *open_kind(const char *kind)
{
	struct store *s = NULL;
	struct sp_err err = { 0 };

	if (strcmp(kind, "mem") == 0) {
		assert_int_equal(store_mem_new("mem", 0, 0, &s), 0);
		return s;
	}
	unlink(in_dir("f"));
	assert_int_equal(store_file_open(in_dir("f"), STORE_RDWR | STORE_CREATE, &s, &err), 0);
	return s;
}

/* ---- the contract, for each kind ------------------------------------------------------------------ */

static void ends(struct store *s)
{
	char buf[16] = "xxxxxxxxxxxxxxx";
	uint64_t size;

	assert_int_equal(store_write(s, "abc", 3, 7), 0);	/* extends, zeros between */
	assert_int_equal(store_size(s, &size), 0);
	assert_int_equal(size, 10);
	assert_int_equal(store_read(s, buf, 10, 0), 0);
	assert_memory_equal(buf, "\0\0\0\0\0\0\0abc", 10);
	assert_int_equal(store_read(s, buf, 2, 9), -ENODATA);
	assert_int_equal(store_read(s, buf, 1, 10), -ENODATA);
	assert_int_equal(store_read(s, buf, 0, 10), 0);
	assert_int_equal(store_read(s, buf, 1, INT64_MAX), -EINVAL);
	assert_int_equal(store_write(s, buf, 1, UINT64_MAX), -EINVAL);
	memset(buf, 'x', sizeof(buf));
	assert_int_equal(store_read_padded(s, buf, 8, 7), 0);
	assert_memory_equal(buf, "abc\0\0\0\0\0", 8);
	memset(buf, 'x', sizeof(buf));
	assert_int_equal(store_read_padded(s, buf, 4, 1000), 0);
	assert_memory_equal(buf, "\0\0\0\0", 4);
}

static void vectors(struct store *s)
{
	uint8_t buf[300], back[300];
	struct iovec iov[200];

	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * 13);
	/* More pieces than one system call is given, every third one empty. */
	for (size_t i = 0, at = 0; i < 200; i++) {
		iov[i] = (struct iovec){ .iov_base = buf + at, .iov_len = i % 3 == 2 ? 0 : 2 };
		at += iov[i].iov_len;
	}
	assert_int_equal(store_writev(s, iov, 200, 5), 0);
	assert_int_equal(store_read(s, back, 268, 5), 0);
	assert_memory_equal(buf, back, 268);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(store_readv(s, iov, 200, 5), 0);
	assert_memory_equal(buf, back, 268);
	assert_int_equal(iov[0].iov_len, 2);	/* the caller's array is not used up */
}

static void resized(struct store *s)
{
	char buf[4] = "xxx";
	uint64_t size;

	assert_int_equal(store_write(s, "abcd", 4, PAGE - 2), 0);
	assert_int_equal(store_resize(s, PAGE - 1), 0);
	assert_int_equal(store_resize(s, 3 * PAGE), 0);
	assert_int_equal(store_size(s, &size), 0);
	assert_int_equal(size, 3 * PAGE);
	assert_int_equal(store_read(s, buf, 4, PAGE - 2), 0);
	assert_memory_equal(buf, "a\0\0\0", 4);	/* what was cut off does not come back */
	assert_int_equal(store_resize(s, UINT64_MAX), -EINVAL);
}

static void cleared(struct store *s)
{
	static uint8_t ones[3 * PAGE], want[3 * PAGE], got[3 * PAGE];
	uint64_t size;

	memset(ones, 0xff, sizeof(ones));
	memcpy(want, ones, sizeof(want));
	assert_int_equal(store_write(s, ones, sizeof(ones), 0), 0);
	assert_int_equal(store_punch(s, 100, 50), 0);
	memset(want + 100, 0, 50);
	assert_int_equal(store_zero(s, PAGE - 10, 20), 0);
	memset(want + PAGE - 10, 0, 20);
	assert_int_equal(store_punch(s, 2 * PAGE - 1, PAGE + 1), 0);
	memset(want + 2 * PAGE - 1, 0, PAGE + 1);
	assert_int_equal(store_zero(s, 3 * PAGE - 5, SP_MIB(3)), 0);
	assert_int_equal(store_punch(s, SP_GIB(1), SP_GIB(1)), 0);
	assert_int_equal(store_size(s, &size), 0);
	assert_int_equal(size, sizeof(ones));
	assert_int_equal(store_read(s, got, sizeof(got), 0), 0);
	assert_memory_equal(got, want, sizeof(want));
}

static void holes(struct store *s)
{
	uint64_t at;

	assert_int_equal(store_write(s, "x", 1, SP_MIB(40)), 0);
	assert_int_equal(store_write(s, "x", 1, 0), 0);
	assert_int_equal(store_resize(s, SP_MIB(80)), 0);
	assert_int_equal(store_seek_data(s, 0, &at), 0);
	assert_int_equal(at, 0);
	assert_int_equal(store_seek_hole(s, 0, &at), 0);
	assert_in_range(at, 1, SP_MIB(1));
	assert_int_equal(store_seek_data(s, SP_MIB(2), &at), 0);
	assert_in_range(at, SP_MIB(39), SP_MIB(40));
	assert_int_equal(store_seek_hole(s, SP_MIB(40), &at), 0);
	assert_in_range(at, SP_MIB(40) + 1, SP_MIB(41));
	assert_int_equal(store_seek_data(s, SP_MIB(42), &at), 0);
	assert_int_equal(at, SP_MIB(80));
	assert_int_equal(store_seek_hole(s, SP_MIB(90), &at), 0);
	assert_int_equal(at, SP_MIB(80));
}

static void read_only(struct store *s)
{
	assert_int_equal(store_write(s, "abc", 3, 0), 0);
	assert_int_equal(store_sync(s), 0);
	s->writable = false;
	assert_int_equal(store_write(s, "x", 1, 0), -EROFS);
	assert_int_equal(store_punch(s, 0, 1), -EROFS);
	assert_int_equal(store_zero(s, 0, 1), -EROFS);
	assert_int_equal(store_resize(s, 0), -EROFS);
	assert_int_equal(store_sync(s), 0);
}

/* Against a plain array, with ranges of all sizes and alignments. */
static void against_model(struct store *s)
{
	enum { SPACE = 200000 };
	uint8_t *model = sp_zalloc(SPACE), *buf = sp_zalloc(SPACE);
	uint64_t size = 0, got;
	struct rng rng;

	rng_init(&rng, test_seed("store"));
	for (int i = 0; i < 400; i++) {
		uint64_t at = rng_below(&rng, SPACE), len = 1 + rng_below(&rng, rng_chance(&rng, 1, 2) ? 50 : 50000);

		len = sp_min(len, SPACE - at);
		switch (rng_below(&rng, 5)) {
		case 0:
		case 1:
			rng_fill(&rng, buf, len);
			assert_int_equal(store_write(s, buf, len, at), 0);
			memcpy(model + at, buf, len);
			size = sp_max(size, at + len);
			break;
		case 2:
			assert_int_equal(rng_chance(&rng, 1, 2) ? store_punch(s, at, len) : store_zero(s, at, len), 0);
			memset(model + at, 0, len);
			break;
		case 3:
			if (rng_chance(&rng, 3, 4))
				break;
			assert_int_equal(store_resize(s, at), 0);
			if (at < size)
				memset(model + at, 0, size - at);
			size = at;
			break;
		default:
			assert_int_equal(store_read(s, buf, len, at), at + len > size ? -ENODATA : 0);
			if (at + len <= size)
				assert_memory_equal(buf, model + at, len);
		}
		assert_int_equal(store_size(s, &got), 0);
		assert_int_equal(got, size);
	}
	assert_int_equal(store_read_padded(s, buf, SPACE, 0), 0);
	assert_memory_equal(buf, model, size);
	sp_free(model);
	sp_free(buf);
}

static const struct contract {
	const char *name;
	void (*run)(struct store *s);
	const char *kind;
} contracts[] = {
#define BOTH(text, function) { text ", mem", function, "mem" }, { text ", file", function, "file" }
	BOTH("ends", ends), BOTH("vectors", vectors), BOTH("resized", resized), BOTH("cleared", cleared),
	BOTH("holes", holes), BOTH("read-only", read_only), BOTH("against a model", against_model),
};

static void contract(void **state)
{
	const struct contract *row = *state;
	struct store *s = open_kind(row->kind);

	row->run(s);
	store_close(s);
}

/* ---- memory --------------------------------------------------------------------------------------- */

static void sparse_everywhere(void **state)
{
	struct store *s;
	uint64_t at;
	char c;

	assert_int_equal(store_mem_new("m", 0, 0, &s), 0);
	for (unsigned bit = 0; bit < 62; bit++)
		assert_int_equal(store_write(s, "x", 1, (uint64_t)1 << bit), 0);
	for (unsigned bit = 0; bit < 62; bit++) {
		assert_int_equal(store_read(s, &c, 1, (uint64_t)1 << bit), 0);
		assert_int_equal(c, 'x');
	}
	assert_int_equal(store_seek_data(s, ((uint64_t)1 << 50) + PAGE, &at), 0);
	assert_true(at == (uint64_t)1 << 51);
	assert_int_equal(store_punch(s, 2 * PAGE, INT64_MAX - 2 * PAGE), 0);
	assert_true(mem_file_allocated(store_mem_file(s)) == 2 * PAGE);
	assert_int_equal(store_resize(s, 0), 0);
	assert_int_equal(mem_file_allocated(store_mem_file(s)), 0);
	store_close(s);
}

static void limited(void **state)
{
	static uint8_t buf[3 * PAGE];
	struct store *s;

	assert_int_equal(store_mem_new("m", SP_GIB(1), 2 * PAGE, &s), 0);
	assert_int_equal(store_write(s, buf, 3 * PAGE, 0), -ENOSPC);
	assert_int_equal(store_write(s, buf, 2 * PAGE, 0), 0);
	assert_int_equal(store_write(s, buf, 1, 2 * PAGE), -ENOSPC);
	assert_int_equal(store_punch(s, 0, PAGE), 0);
	assert_int_equal(store_write(s, buf, 1, 2 * PAGE), 0);
	store_close(s);
}

static void clones(void **state)
{
	struct store *a, *b;
	char got[8];

	assert_int_equal(store_mem_new("m", SP_GIB(1), 0, &a), 0);
	for (unsigned i = 0; i < 100; i++)
		assert_int_equal(store_write(a, "original", 8, i * SP_MIB(10)), 0);
	assert_int_equal(store_mem_clone(a, &b), 0);
	assert_false(store_same(a, b));
	assert_int_equal(store_write(b, "B", 1, 0), 0);
	assert_int_equal(store_write(a, "A", 1, SP_MIB(10)), 0);
	assert_int_equal(store_punch(b, SP_MIB(20), SP_MIB(800)), 0);
	assert_int_equal(store_resize(a, 8 + SP_MIB(900)), 0);
	assert_int_equal(store_read(a, got, 8, 0), 0);
	assert_memory_equal(got, "original", 8);
	assert_int_equal(store_read(b, got, 8, 0), 0);
	assert_memory_equal(got, "Briginal", 8);
	assert_int_equal(store_read(b, got, 8, SP_MIB(10)), 0);
	assert_memory_equal(got, "original", 8);
	assert_int_equal(store_read(a, got, 8, SP_MIB(500)), 0);
	assert_memory_equal(got, "original", 8);
	store_close(a);
	assert_int_equal(store_read(b, got, 8, SP_MIB(990)), 0);
	assert_memory_equal(got, "original", 8);
	store_close(b);
}

static int fails_after(void *arg)
{
	int *left = arg;

	return (*left)-- <= 0;
}

/* No memory: an error each time, nothing lost, nothing leaked. */
static void out_of_memory(void **state)
{
	for (int n = 0;; n++) {
		struct store *a = NULL, *b = NULL;
		int left = n, r;
		char c = 0;

		sp_alloc_set_fault(fails_after, &left);
		r = store_mem_new("m", 0, 0, &a);
		r = r < 0 ? r : store_write(a, "x", 1, SP_TIB(1));
		r = r < 0 ? r : store_mem_clone(a, &b);
		r = r < 0 ? r : store_write(b, "y", 1, SP_TIB(1));
		r = r < 0 ? r : store_punch(b, SP_TIB(1), 1);
		sp_alloc_set_fault(NULL, NULL);
		if (a && store_read(a, &c, 1, SP_TIB(1)) == 0)
			assert_int_equal(c, 'x');
		store_close(a);
		store_close(b);
		if (r == 0)
			break;
		assert_int_equal(r, -ENOMEM);
		assert_true(n < 100);
	}
}

static void *hammer(void *arg)
{
	struct store **s = arg;
	struct rng rng;
	char buf[16];

	rng_init(&rng, (uint64_t)(uintptr_t)&rng);
	for (int i = 0; i < 2000; i++) {
		uint64_t at = rng_below(&rng, 100000);
		struct store *own = s[rng_below(&rng, 2)];

		if (rng_chance(&rng, 1, 2))
			store_write(own, "0123456789abcdef", 16, at);
		else
			store_read_padded(own, buf, 16, at);
		if (rng_chance(&rng, 1, 50))
			store_punch(own, at, 20000);
	}
	return NULL;
}

/* Two clones, sharing pages, each used by four threads: for the sanitizers to look at. */
static void threads(void **state)
{
	struct store *s[2];
	pthread_t t[4];

	assert_int_equal(store_mem_new("m", 200000, 0, &s[0]), 0);
	for (unsigned i = 0; i < 25; i++)
		store_write(s[0], "x", 1, i * PAGE);
	assert_int_equal(store_mem_clone(s[0], &s[1]), 0);
	for (size_t i = 0; i < SP_ARRAY_SIZE(t); i++)
		assert_int_equal(pthread_create(&t[i], NULL, hammer, s), 0);
	for (size_t i = 0; i < SP_ARRAY_SIZE(t); i++)
		pthread_join(t[i], NULL);
	store_close(s[0]);
	store_close(s[1]);
}

/* ---- files ---------------------------------------------------------------------------------------- */

static void make_socket(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	close(fd);
}

static const struct refusal {
	const char *name, *path;
	unsigned flags;
	int want;
	const char *text;
} refusals[] = {
	{ "FIFO", "fifo", 0, -EINVAL, "a FIFO" },
	{ "FIFO for writing", "fifo", STORE_RDWR, -EINVAL, "a FIFO" },
	{ "socket", "socket", 0, -EINVAL, "a socket" },
	{ "directory", "", 0, -EISDIR, "a directory" },
	{ "character device", "/dev/null", STORE_RDWR, -EINVAL, "a character device" },
	{ "link to a device", "null", 0, -EINVAL, "a character device" },
	{ "not there", "none", 0, -ENOENT, "none" },
	{ "there already", "there", STORE_CREATE | STORE_RDWR, -EEXIST, "there" },
};

static void refused(void **state)
{
	const struct refusal *row = *state;
	struct sp_err err = { 0 };
	struct store *s;

	alarm(5);	/* a FIFO must not block */
	assert_int_equal(store_file_open(row->path[0] == '/' ? row->path : in_dir(row->path), row->flags, &s, &err),
			 row->want);
	alarm(0);
	assert_non_null(strstr(sp_err_text(&err), row->text));
	assert_int_equal(err.code, row->want);
}

static void created(void **state)
{
	struct store *s, *again;
	struct stat st;
	int64_t t;

	umask(022);
	unlink(in_dir("new"));
	assert_int_equal(store_file_open(in_dir("new"), STORE_CREATE | STORE_RDWR, &s, NULL), 0);
	assert_int_equal(stat(in_dir("new"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0644);
	assert_int_equal(store_mtime(s, &t), 0);
	assert_int_equal(t, st.st_mtime);
	assert_true((fcntl(s->ops->fd(s), F_GETFD) & FD_CLOEXEC) != 0);
	assert_int_equal(fcntl(s->ops->fd(s), F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(store_file_open(in_dir("new"), STORE_NO_LOCK, &again, NULL), 0);
	assert_true(store_same(s, again));
	store_close(again);
	store_close(s);
}

#define BULK (16 * PAGE)

static size_t pages_in_cache(struct store *s, size_t len)
{
	int fd = s->ops->fd(s);
	unsigned char in[64];
	void *map = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);
	size_t n = 0;

	assert_true(map != MAP_FAILED && len <= sizeof(in) * PAGE);
	assert_int_equal(mincore(map, len, in), 0);
	munmap(map, len);
	for (size_t i = 0; i < len / PAGE; i++)
		n += in[i] & 1;
	return n;
}

/* What goes past the page cache and what goes through it are one file, for this descriptor and for others. */
static void bulk(void **state)
{
	struct store *s, *other;
	uint8_t *buf = sp_alloc_aligned(PAGE, 3 * BULK), *model = calloc(3, BULK);
	static const struct { size_t offset, len, shift; } writes[] = {
		{ 0, 2 * BULK, 0 }, { PAGE, 512, 0 }, { BULK, BULK, 0 }, { 512, BULK, 0 }, { 0, BULK, 8 },
		{ 2 * BULK, BULK, 0 }, { 3 * BULK - 100, 100, 0 }, { 2 * PAGE, BULK, 0 },
	};

	unlink(in_dir("bulk"));
	assert_int_equal(store_file_open(in_dir("bulk"), STORE_CREATE | STORE_RDWR | STORE_BULK, &s, NULL), 0);
	assert_int_equal(store_file_open(in_dir("bulk"), STORE_NO_LOCK, &other, NULL), 0);
	for (unsigned i = 0; i < SP_ARRAY_SIZE(writes); i++) {
		size_t end = writes[i].offset + writes[i].len;
		uint64_t size;

		memset(buf, (int)i + 1, 3 * BULK);
		memset(model + writes[i].offset, (int)i + 1, writes[i].len);
		assert_int_equal(store_write(s, buf + writes[i].shift, writes[i].len, writes[i].offset), 0);
		if (i == 0 && s->slow_nowait)		/* ext4, which surely does as it is told */
			assert_int_equal(pages_in_cache(s, 2 * BULK), 0);
		assert_int_equal(store_size(s, &size), 0);
		assert_true(size >= end);
		assert_int_equal(store_read(other, buf, size, 0), 0);
		assert_memory_equal(buf, model, size);
	}
	assert_int_equal(store_sync(s), 0);
	assert_int_equal(store_read(s, buf, 3 * BULK, 0), 0);
	assert_memory_equal(buf, model, 3 * BULK);
	store_close(other);
	store_close(s);
	sp_free(buf);
	free(model);
}

/* The kernel takes the part below the limit and then says no: the error must not get lost behind the short count. */
static void no_room(void **state)
{
	static uint8_t buf[2 * PAGE];
	struct store *s = open_kind("file");
	struct rlimit old, low;
	int r;

	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	low = old;
	low.rlim_cur = PAGE + 100;
	setrlimit(RLIMIT_FSIZE, &low);
	r = store_write(s, buf, sizeof(buf), 0);
	setrlimit(RLIMIT_FSIZE, &old);
	assert_int_equal(r, -EFBIG);
	store_close(s);
}

/* ---- locks ---------------------------------------------------------------------------------------- */

static const struct lock_row {
	const char *name;
	unsigned first, second;
	int want;
} lock_rows[] = {
	{ "reader beside reader", 0, 0, 0 },
	{ "writer beside reader", 0, STORE_RDWR, -EBUSY },
	{ "reader beside writer", STORE_RDWR, 0, -EBUSY },
	{ "writer beside writer", STORE_RDWR, STORE_RDWR, -EBUSY },
	{ "a look beside a writer", STORE_RDWR, STORE_NO_LOCK, 0 },
	{ "writer beside a look", STORE_NO_LOCK, STORE_RDWR, 0 },
};

static void locked(void **state)
{
	const struct lock_row *row = *state;
	struct store *a, *b = NULL;
	struct sp_err err = { 0 };
	char pid[32];

	snprintf(pid, sizeof(pid), "(pid %ld)", (long)getpid());
	assert_int_equal(store_file_open(in_dir("there"), row->first, &a, NULL), 0);
	assert_int_equal(store_file_open(in_dir("there"), row->second, &b, &err), row->want);
	if (row->want < 0) {
		assert_non_null(strstr(sp_err_text(&err), pid));
		assert_non_null(strstr(sp_err_text(&err), "-U"));
		store_close(a);
		a = NULL;	/* the lock went with it, and the refused one left none */
		assert_int_equal(store_file_open(in_dir("there"), STORE_RDWR, &b, &err), 0);
	}
	store_close(a);
	store_close(b);
}

/* Of raw files a QEMU reader tolerates writers, so these are VHDs. */
static void need_qemu(void)
{
	char command[512];

	snprintf(command, sizeof(command), "qemu-io --version >/dev/null 2>&1 && qemu-img create -q -f vpc %s 1M",
		 in_dir("vhd"));
	if (access(in_dir("vhd"), F_OK) < 0 && system(command) != 0)
		skip();
}

/* Runs qemu-io on the file; 0 when it could open it. */
static int qemu_io(const char *options)
{
	char command[512];

	snprintf(command, sizeof(command), "qemu-io -f vpc %s -c quit %s >/dev/null 2>&1", options, in_dir("vhd"));
	return system(command);
}

static const struct qemu_row {
	const char *name;
	unsigned ours;
	const char *options;
	bool admitted;
} qemu_rows[] = {
	{ "qemu-io reads beside our reader", 0, "-r", true },
	{ "qemu-io writes beside our reader", 0, "", false },
	{ "qemu-io reads beside our writer", STORE_RDWR, "-r", false },
	{ "qemu-io writes beside our writer", STORE_RDWR, "", false },
	{ "qemu-io looks beside our writer", STORE_RDWR, "-r -U", true },
	{ "qemu-io writes beside our look", STORE_NO_LOCK, "", true },
};

static void qemu_beside_us(void **state)
{
	const struct qemu_row *row = *state;
	struct store *s;

	need_qemu();
	assert_int_equal(store_file_open(in_dir("vhd"), row->ours, &s, NULL), 0);
	assert_int_equal(qemu_io(row->options) == 0, row->admitted);
	store_close(s);
}

static const struct us_row {
	const char *name, *options;
	unsigned ours;
	int want;
} us_rows[] = {
	{ "we read beside qemu-io -r", "-r", 0, 0 },
	{ "we write beside qemu-io -r", "-r", STORE_RDWR, -EBUSY },
	{ "we read beside qemu-io", "", 0, -EBUSY },
	{ "we write beside qemu-io", "", STORE_RDWR, -EBUSY },
	{ "we look beside qemu-io", "", STORE_NO_LOCK, 0 },
};

static void us_beside_qemu(void **state)
{
	const struct us_row *row = *state;
	struct sp_err err = { 0 };
	struct store *s = NULL;
	char command[512], line[64];
	FILE *q;
	int r;

	need_qemu();
	/* It answers "open" once the file is open and locked, and waits until its input ends. */
	snprintf(command, sizeof(command), "mkfifo %s; { echo length; timeout 10 cat %s; } | qemu-io -f vpc %s %s",
		 in_dir("gate"), in_dir("gate"), row->options, in_dir("vhd"));
	q = popen(command, "r");
	assert_non_null(q);
	assert_non_null(fgets(line, sizeof(line), q));
	r = store_file_open(in_dir("vhd"), row->ours, &s, &err);
	close(open(in_dir("gate"), O_WRONLY));
	while (fgets(line, sizeof(line), q))
		;
	pclose(q);
	unlink(in_dir("gate"));
	store_close(s);
	assert_int_equal(r, row->want);
	if (r < 0)
		assert_non_null(strstr(sp_err_text(&err), "qemu-io (pid "));
}

/* ---- block devices -------------------------------------------------------------------------------- */

/* A loop device over @path, or NULL when this machine gives us none. It goes away with its last user. */
static int loop_open(const char *path, char *ret_device, size_t size)
{
	struct loop_info64 info = { .lo_flags = LO_FLAGS_AUTOCLEAR };
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), file, fd = -1, n;

	n = control >= 0 ? ioctl(control, LOOP_CTL_GET_FREE) : -1;
	if (control >= 0)
		close(control);
	if (n < 0)
		return -1;
	snprintf(ret_device, size, "/dev/loop%d", n);
	file = open(path, O_RDWR | O_CLOEXEC);
	fd = open(ret_device, O_RDWR | O_CLOEXEC);
	if (fd >= 0 && (ioctl(fd, LOOP_SET_FD, file) < 0 || ioctl(fd, LOOP_SET_STATUS64, &info) < 0)) {
		close(fd);
		fd = -1;
	}
	close(file);
	return fd;
}

static void block_device(void **state)
{
	static uint8_t ones[2 * PAGE], got[2 * PAGE];
	struct store *s, *again;
	struct sp_err err = { 0 };
	char device[32];
	uint64_t size;
	int fd;

	assert_int_equal(truncate(in_dir("disk"), SP_MIB(1)), 0);
	fd = loop_open(in_dir("disk"), device, sizeof(device));
	if (fd < 0)
		skip();
	memset(ones, 0xff, sizeof(ones));
	assert_int_equal(store_file_open(device, STORE_RDWR | STORE_REGULAR, &s, &err), -EINVAL);
	assert_int_equal(store_file_open(device, STORE_RDWR, &s, &err), 0);
	assert_true(s->is_device);
	assert_int_equal(store_size(s, &size), 0);
	assert_int_equal(size, SP_MIB(1));
	assert_int_equal(store_write(s, ones, sizeof(ones), 0), 0);
	assert_int_equal(store_zero(s, 512, 512), 0);
	assert_int_equal(store_punch(s, 1000, 100), 0);		/* no whole sector */
	assert_int_equal(store_punch(s, PAGE, PAGE), 0);
	assert_int_equal(store_read(s, got, sizeof(got), 0), 0);
	memset(ones + 512, 0, 1100 - 512);
	memset(ones + PAGE, 0, PAGE);
	assert_memory_equal(got, ones, sizeof(got));
	assert_int_equal(store_resize(s, SP_MIB(1)), 0);
	assert_int_equal(store_resize(s, SP_MIB(2)), -ENOTSUP);
	assert_int_equal(store_sync(s), 0);
	assert_int_equal(store_file_open(device, STORE_RDWR, &again, &err), -EBUSY);
	store_close(s);
	close(fd);
}

static void mounted_device(void **state)
{
	char line[512], device[256];
	FILE *f = fopen("/proc/self/mounts", "re");
	struct sp_err err = { 0 };
	struct store *s;
	bool tried = false;

	while (f && fgets(line, sizeof(line), f) && !tried) {
		struct stat st;

		tried = sscanf(line, "%255s", device) == 1 && device[0] == '/' && stat(device, &st) == 0 &&
			S_ISBLK(st.st_mode) && access(device, R_OK | W_OK) == 0;
	}
	if (f)
		fclose(f);
	if (!tried)
		skip();
	assert_int_equal(store_file_open(device, STORE_RDWR, &s, &err), -EBUSY);
	assert_non_null(strstr(sp_err_text(&err), "mounted at /"));
	assert_int_equal(store_file_open(device, 0, &s, &err), -EBUSY);
}

int main(void)
{
	const struct CMUnitTest others[] = {
		cmocka_unit_test(sparse_everywhere), cmocka_unit_test(limited), cmocka_unit_test(clones),
		cmocka_unit_test(out_of_memory), cmocka_unit_test(threads), cmocka_unit_test(created),
		cmocka_unit_test(bulk), cmocka_unit_test(no_room), cmocka_unit_test(block_device),
		cmocka_unit_test(mounted_device),
	};
	static const char *const files[] = { "there", "disk" };
	char command[64];
	int failed;

	if (!mkdtemp(dir))
		return 1;
	for (size_t i = 0; i < SP_ARRAY_SIZE(files); i++)
		close(open(in_dir(files[i]), O_CREAT | O_RDWR, 0600));
	if (mkfifo(in_dir("fifo"), 0600) < 0 || symlink("/dev/null", in_dir("null")) < 0)
		return 1;
	make_socket(in_dir("socket"));
	failed = ROWS_RUN(contracts, contract);
	failed += ROWS_RUN(refusals, refused);
	failed += ROWS_RUN(lock_rows, locked);
	failed += ROWS_RUN(qemu_rows, qemu_beside_us);
	failed += ROWS_RUN(us_rows, us_beside_qemu);
	failed += cmocka_run_group_tests(others, NULL, NULL);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) != 0 || failed;
}
