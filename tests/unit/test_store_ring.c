/* SPDX-License-Identifier: BSD-2-Clause */
/* The ring, with io_uring and without: every row runs both ways. */
#include "vhd/store.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "tests/unit/rows.h"

#define SLOTS 64
#define BLOCK 4096u

struct bench {
	struct store *store;
	struct store_ring *ring;
	struct store_req req[SLOTS];
	struct iovec iov[SLOTS][4];
	uint8_t *buf;
	int res[SLOTS];
	unsigned completed, order[SLOTS];
	unsigned resubmit;	/* by callbacks, still to do */
};

static struct bench *current;

static void completed(struct store_req *req, int res)
{
	unsigned i = (unsigned)(req - current->req);

	current->res[i] = res;
	current->order[current->completed++ % SLOTS] = i;
	if (current->resubmit > 0) {
		current->resubmit--;
		store_submit(current->ring, req);
	}
}

static struct store *open_store(const char *kind)
{
	char path[] = "/tmp/spindle-ring-XXXXXX";
	struct store *s = NULL;
	int fd;

	if (strcmp(kind, "mem") == 0) {
		assert_int_equal(store_mem_new("mem", 0, 0, &s), 0);
		return s;
	}
	fd = mkstemp(path);
	assert_true(fd >= 0);
	unlink(path);
	assert_int_equal(store_file_adopt(fd, path, STORE_RDWR, &s, NULL), 0);
	return s;
}

static void bench_init(struct bench *b, const char *kind, unsigned depth, bool uring)
{
	memset(b, 0, sizeof(*b));
	current = b;
	b->store = open_store(kind);
	b->buf = sp_alloc_aligned(BLOCK, SLOTS * BLOCK);
	assert_int_equal(store_ring_new(depth, uring ? 0 : STORE_RING_NO_URING, &b->ring, NULL), 0);
	assert_int_equal(store_ring_register(b->ring, b->store), 0);
	/* To the kernel with everything, whatever the file system; here_or_there() is about the choice. */
	b->store->in_memory = b->store->slow_nowait = false;
}

static void bench_fini(struct bench *b)
{
	store_ring_unregister(b->ring, b->store);
	store_ring_free(b->ring);
	store_close(b->store);
	sp_free(b->buf);
}

static struct store_req *put(struct bench *b, unsigned i, enum store_op op, uint64_t offset, uint64_t len)
{
	b->iov[i][0] = (struct iovec){ .iov_base = b->buf + i * BLOCK, .iov_len = len };
	b->req[i] = (struct store_req){
		.store = b->store, .op = op, .offset = offset, .len = len, .iov = b->iov[i], .iovcnt = 1,
		.buf_index = -1, .complete = completed,
	};
	b->res[i] = 12345;
	store_submit(b->ring, &b->req[i]);
	return &b->req[i];
}

static void reap_all(struct bench *b, unsigned n)
{
	assert_int_equal(store_ring_reap(b->ring, n), n);
}

/* ---- scenarios ------------------------------------------------------------------------------------ */

static void write_and_read_back(struct bench *b)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		memset(b->buf + i * BLOCK, (int)i + 1, BLOCK);
		put(b, i, STORE_WRITE, (uint64_t)i * BLOCK, BLOCK);
	}
	reap_all(b, SLOTS);
	memset(b->buf, 0, SLOTS * BLOCK);
	for (unsigned i = 0; i < SLOTS; i++)
		put(b, i, STORE_READ, (uint64_t)i * BLOCK, BLOCK);
	assert_int_equal(b->completed, SLOTS);	/* callbacks run in reap only */
	reap_all(b, SLOTS);
	for (unsigned i = 0; i < SLOTS; i++) {
		assert_int_equal(b->res[i], 0);
		assert_int_equal(b->buf[i * BLOCK], i + 1);
		assert_int_equal(b->buf[i * BLOCK + BLOCK - 1], i + 1);
	}
}

static void registered_buffers(struct bench *b)
{
	struct iovec all = { .iov_base = b->buf, .iov_len = SLOTS * BLOCK };

	assert_int_equal(store_ring_register_buffers(b->ring, &all, 1), 0);
	memset(b->buf, 0x5a, BLOCK);
	b->iov[0][0] = (struct iovec){ .iov_base = b->buf, .iov_len = BLOCK };
	b->req[0] = (struct store_req){ .store = b->store, .op = STORE_WRITE, .offset = BLOCK, .len = BLOCK,
					.iov = b->iov[0], .iovcnt = 1, .buf_index = 0, .complete = completed };
	store_submit(b->ring, &b->req[0]);
	reap_all(b, 1);
	assert_int_equal(b->res[0], 0);
	b->iov[1][0] = (struct iovec){ .iov_base = b->buf + BLOCK, .iov_len = BLOCK };
	b->req[1] = b->req[0];
	b->req[1].op = STORE_READ;
	b->req[1].iov = b->iov[1];
	store_submit(b->ring, &b->req[1]);
	reap_all(b, 1);
	assert_int_equal(b->res[1], 0);
	assert_memory_equal(b->buf, b->buf + BLOCK, BLOCK);
	/* Again, and away. */
	assert_int_equal(store_ring_register_buffers(b->ring, &all, 1), 0);
	assert_int_equal(store_ring_register_buffers(b->ring, NULL, 0), 0);
	put(b, 2, STORE_READ, BLOCK, BLOCK)->buf_index = 0;
	reap_all(b, 1);
	assert_int_equal(b->res[2], 0);
}

/* One request of 3,000 bytes in four pieces, one of them empty; crosses the end of file on the way back. */
static void scattered(struct bench *b)
{
	static const size_t lens[] = { 1, 0, 999, 2000 };
	uint8_t *p = b->buf;

	for (size_t i = 0; i < 3000; i++)
		b->buf[i] = (uint8_t)(i * 7);
	b->req[0] = (struct store_req){ .store = b->store, .op = STORE_WRITE, .offset = 123, .len = 3000,
					.iov = b->iov[0], .iovcnt = 4, .buf_index = -1, .complete = completed };
	for (size_t i = 0; i < 4; i++, p += lens[i - 1])
		b->iov[0][i] = (struct iovec){ .iov_base = p, .iov_len = lens[i] };
	store_submit(b->ring, &b->req[0]);
	reap_all(b, 1);
	assert_int_equal(b->res[0], 0);
	assert_int_equal(store_read(b->store, b->buf + BLOCK, 3000, 123), 0);
	assert_memory_equal(b->buf, b->buf + BLOCK, 3000);
	b->iov[1][0] = (struct iovec){ .iov_base = b->buf, .iov_len = 2999 };
	b->iov[1][1] = (struct iovec){ .iov_base = b->buf, .iov_len = 2 };
	b->req[1] = b->req[0];
	b->req[1].op = STORE_READ;
	b->req[1].len = 3001;
	b->req[1].iov = b->iov[1];
	b->req[1].iovcnt = 2;
	store_submit(b->ring, &b->req[1]);
	reap_all(b, 1);
	assert_int_equal(b->res[1], -ENODATA);
}

/* A short transfer comes back as -ENODATA, not as success: the rest was asked for and is not there. */
static void past_the_end(struct bench *b)
{
	assert_int_equal(store_write(b->store, b->buf, 100, 0), 0);
	put(b, 0, STORE_READ, 0, 100);
	put(b, 1, STORE_READ, 50, 100);
	put(b, 2, STORE_READ, 100, 1);
	put(b, 3, STORE_READ, 100, 0);
	reap_all(b, 4);
	assert_int_equal(b->res[0], 0);
	assert_int_equal(b->res[1], -ENODATA);
	assert_int_equal(b->res[2], -ENODATA);
	assert_int_equal(b->res[3], 0);
	assert_int_equal(b->req[1].offset, 50);
	assert_int_equal(b->req[1].len, 100);
}

static void refused(struct bench *b)
{
	put(b, 0, STORE_RESIZE, 0, BLOCK);
	put(b, 1, STORE_READ, INT64_MAX, 2);
	put(b, 2, STORE_ZERO, UINT64_MAX, 2);
	b->store->writable = false;
	put(b, 3, STORE_WRITE, 0, 1);
	put(b, 4, STORE_PUNCH, 0, 1);
	put(b, 5, STORE_SYNC, 0, 0);
	b->store->writable = true;
	b->req[6] = b->req[3];
	b->req[6].len = 7;	/* not the sum of the pieces */
	store_submit(b->ring, &b->req[6]);
	reap_all(b, 7);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(b->res[i], -EINVAL);
	assert_int_equal(b->res[3], -EROFS);
	assert_int_equal(b->res[4], -EROFS);
	assert_int_equal(b->res[5], 0);
	assert_int_equal(b->res[6], -EINVAL);
}

static void space(struct bench *b)
{
	uint8_t want[3 * BLOCK];
	uint64_t size;

	memset(b->buf, 0xff, 3 * BLOCK);
	memset(want, 0xff, sizeof(want));
	assert_int_equal(store_write(b->store, b->buf, 3 * BLOCK, 0), 0);
	put(b, 1, STORE_PUNCH, 10, 100);
	put(b, 2, STORE_ZERO, BLOCK - 1, 2);
	put(b, 3, STORE_PUNCH, 2 * BLOCK, BLOCK);
	put(b, 4, STORE_ZERO, 3 * BLOCK - 1, 1000);	/* beyond the end: no growth */
	reap_all(b, 4);
	put(b, 5, STORE_SYNC, 0, 0);
	reap_all(b, 1);
	for (unsigned i = 1; i < 6; i++)
		assert_int_equal(b->res[i], 0);
	memset(want + 10, 0, 100);
	memset(want + BLOCK - 1, 0, 2);
	memset(want + 2 * BLOCK, 0, BLOCK);
	assert_int_equal(store_size(b->store, &size), 0);
	assert_int_equal(size, 3 * BLOCK);
	assert_int_equal(store_read(b->store, b->buf, 3 * BLOCK, 0), 0);
	assert_memory_equal(b->buf, want, 3 * BLOCK);
}

/* Many more than the ring is deep, each submitted again by its callback. */
static void overcommitted(struct bench *b)
{
	assert_int_equal(store_resize(b->store, SLOTS * BLOCK), 0);
	b->resubmit = 1000;
	for (unsigned i = 0; i < SLOTS; i++)
		put(b, i, STORE_READ, (uint64_t)i * BLOCK, BLOCK);
	while (b->completed < 1000 + SLOTS)
		assert_true(store_ring_reap(b->ring, 1) > 0);
	assert_int_equal(b->completed, 1000 + SLOTS);
	assert_int_equal(store_ring_reap(b->ring, 5), 0);	/* nothing is left: must not block */
}

static void bell(struct bench *b)
{
	struct pollfd p = { .fd = store_ring_fd(b->ring), .events = POLLIN };

	assert_true(p.fd >= 0);
	assert_int_equal(p.fd, store_ring_fd(b->ring));
	assert_int_equal(poll(&p, 1, 0), 0);
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < SLOTS; i++)
			put(b, i, STORE_WRITE, (uint64_t)i * BLOCK, BLOCK);
		assert_int_equal(store_ring_kick(b->ring), 0);
		while (b->completed < (round + 1) * SLOTS) {
			assert_int_equal(poll(&p, 1, 5000), 1);
			assert_true(store_ring_reap(b->ring, 0) >= 0);
		}
	}
	assert_int_equal(store_ring_reap(b->ring, 0), 0);
	assert_int_equal(poll(&p, 1, 0), 0);
}

/* No room for the second half of a write: what the kernel cut short ends in the error, not in success. */
static void out_of_room(struct bench *b)
{
	struct rlimit old, low;

	getrlimit(RLIMIT_FSIZE, &old);
	low = old;
	low.rlim_cur = BLOCK + 1000;
	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &low);
	put(b, 0, STORE_WRITE, BLOCK, BLOCK);
	reap_all(b, 1);
	setrlimit(RLIMIT_FSIZE, &old);
	assert_int_equal(b->res[0], -EFBIG);
}

static void *other_thread(void *arg)
{
	write_and_read_back(arg);
	return NULL;
}

/* Made here, used there: the ring belongs to the thread that uses it first. */
static void used_elsewhere(struct bench *b)
{
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, other_thread, b), 0);
	assert_int_equal(pthread_join(t, NULL), 0);
	assert_int_equal(b->completed, 2 * SLOTS);
}

/* A sync follows the writes queued before it, in a store that has no kernel to ask. */
static unsigned writes_seen, writes_at_sync;

static int count_writev(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	writes_seen++;
	return 0;
}

static int note_sync(struct store *s)
{
	writes_at_sync = writes_seen;
	return 0;
}

static int no_fd(struct store *s)
{
	return -1;
}

static void in_order(struct bench *b)
{
	static const struct store_ops ops = { .name = "count", .writev = count_writev, .sync = note_sync, .fd = no_fd };
	struct store fake = { .ops = &ops, .writable = true }, *real = b->store;

	writes_seen = writes_at_sync = 0;
	b->store = &fake;
	for (unsigned i = 0; i < 10; i++)
		put(b, i, STORE_WRITE, i, 1);
	put(b, 10, STORE_SYNC, 0, 0);
	put(b, 11, STORE_WRITE, 0, 1);
	assert_int_equal(writes_seen, 0);	/* not inside submit */
	assert_int_equal(store_ring_kick(b->ring), 0);
	assert_int_equal(b->completed, 0);
	reap_all(b, 12);
	assert_int_equal(writes_at_sync, 10);
	for (unsigned i = 0; i < 12; i++)
		assert_int_equal(b->order[i], i);
	b->store = real;
}

static const struct row {
	const char *name;
	void (*run)(struct bench *b);
	const char *kind;
	unsigned depth;
	bool uring;
} rows[] = {
#define BOTH(text, function, depth)                                           \
	{ text ", io_uring", function, "file", depth, true },                 \
	{ text ", synchronous", function, "file", depth, false },             \
	{ text ", memory", function, "mem", depth, true }
	BOTH("write and read back", write_and_read_back, SLOTS),
	BOTH("deeper than the ring", write_and_read_back, 3),
	BOTH("registered buffers", registered_buffers, 8),
	BOTH("scattered", scattered, 8),
	BOTH("past the end", past_the_end, 8),
	BOTH("refused", refused, 8),
	BOTH("punch and zero", space, 8),
	BOTH("resubmitting callbacks", overcommitted, SLOTS),
	BOTH("resubmitting callbacks, shallow", overcommitted, 5),
	BOTH("eventfd", bell, SLOTS),
	BOTH("eventfd, shallow", bell, 2),
	{ "no room, io_uring", out_of_room, "file", 8, true },
	{ "no room, synchronous", out_of_room, "file", 8, false },
	BOTH("used by another thread", used_elsewhere, 16),
	BOTH("order without a descriptor", in_order, 4),
};

static void scenario(void **state)
{
	const struct row *row = *state;
	struct bench b;

	bench_init(&b, row->kind, row->depth, row->uring);
	if (row->uring && !store_ring_is_uring(b.ring)) {
		bench_fini(&b);
		skip();
	}
	row->run(&b);
	bench_fini(&b);
}

/* Sixty stores come and go with reused descriptors; none may see another's bytes. */
static void registration(void **state)
{
	struct store_ring *ring;
	struct bench b = { .buf = sp_alloc(BLOCK * SLOTS) };

	current = &b;
	assert_int_equal(store_ring_new(4, 0, &ring, NULL), 0);
	b.ring = ring;
	for (unsigned i = 0; i < 60; i++) {
		b.store = open_store("file");
		assert_int_equal(store_ring_register(ring, b.store), 0);
		assert_int_equal(store_ring_register(ring, b.store), 0);
		b.buf[0] = (uint8_t)i;
		put(&b, 0, STORE_WRITE, 0, 1);
		assert_int_equal(store_ring_reap(ring, 1), 1);
		assert_int_equal(b.res[0], 0);
		b.buf[0] = 0xee;
		assert_int_equal(store_read(b.store, b.buf, 1, 0), 0);
		assert_int_equal(b.buf[0], i);
		if (i % 2 == 0)
			store_ring_unregister(ring, b.store);
		store_ring_unregister(ring, b.store);
		store_close(b.store);
	}
	store_ring_free(ring);
	sp_free(b.buf);
}

static struct {
	struct store_ops ops;
	int (*writev)(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset);
	unsigned calls, sleep_us;
} here;

static int writev_here(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	here.calls++;
	usleep(here.sleep_us);
	return here.writev(s, iov, iovcnt, offset);
}

/* Whether a write of @len bytes was done by the ring itself instead of by the kernel's. */
static bool write_is_here(struct bench *b, uint64_t len)
{
	unsigned before = here.calls;

	b->buf[0]++;
	put(b, 0, STORE_WRITE, 0, len);
	reap_all(b, 1);
	assert_int_equal(b->res[0], 0);
	put(b, 1, STORE_READ, 0, 1);
	reap_all(b, 1);
	assert_int_equal(b->buf[BLOCK], b->buf[0]);
	return here.calls != before;
}

/* On a busy machine any write may seem to wait, and any pause be longer than meant. */
static bool becomes_here(struct bench *b, uint64_t len, bool want)
{
	for (unsigned tries = 0; tries < 100; tries++) {
		if (write_is_here(b, len) == want)
			return want;
		if (want)
			usleep(20000);
	}
	return !want;
}

/* Small writes are done on the spot where the kernel would need a worker; one that waits lets workers do the next. */
static void here_or_there(void **state)
{
	struct bench b;

	bench_init(&b, "file", 8, true);
	here.writev = b.store->ops->writev;
	here.ops = *b.store->ops;
	here.ops.writev = writev_here;
	b.store->ops = &here.ops;
	if (store_ring_is_uring(b.ring)) {
		assert_false(write_is_here(&b, 4096));
		b.store->slow_nowait = true;
		assert_true(becomes_here(&b, 4096, true));
		assert_false(write_is_here(&b, SLOTS * BLOCK));
		here.sleep_us = 3000;
		assert_false(becomes_here(&b, 4096, false));
		here.sleep_us = 0;
		assert_true(becomes_here(&b, 4096, true));
	}
	b.store->slow_nowait = false;
	b.store->in_memory = true;
	assert_true(write_is_here(&b, SLOTS * BLOCK));
	bench_fini(&b);
}

static void environment(void **state)
{
	struct store_ring *ring;

	setenv("SPINDLE_NO_URING", "1", 1);
	assert_int_equal(store_ring_new(4, 0, &ring, NULL), 0);
	assert_false(store_ring_is_uring(ring));
	store_ring_free(ring);
	setenv("SPINDLE_NO_URING", "0", 1);
	assert_int_equal(store_ring_new(0, 0, &ring, NULL), -EINVAL);
	assert_int_equal(store_ring_new(1u << 20, 0, &ring, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest others[] = {
		cmocka_unit_test(registration), cmocka_unit_test(here_or_there), cmocka_unit_test(environment),
	};
	int failed = ROWS_RUN(rows, scenario);

	return failed + cmocka_run_group_tests(others, NULL, NULL);
}
