/* SPDX-License-Identifier: BSD-2-Clause */
/* The asynchronous door: on a host file with io_uring, without it, and on memory. */
#include "tests/unit/chain_fixture.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SIZE SP_MIB(64)
#define BLOCK 8192u
#define COUNT 500

struct door {
	const char *name;
	bool host;
	unsigned flags;
	enum vhd_format_id format;
};

struct fixture {
	char path[64];
	struct store_folder *f;
	struct vhd_disk *d;
	struct vhd_queue *q;
};

static void open_door(struct fixture *x, const struct door *door, unsigned depth)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE | door->flags, .format = door->format };
	struct vhd_queue_opts qo = { .depth = depth };
	struct sp_err err = { 0 };

	memset(x, 0, sizeof(*x));
	if (!door->host) {
		x->f = folder_new();
		make_base(x->f, "disk", door->format, SIZE, 0, 512);
		must(vhd_disk_open_in(x->f, "disk", &o, &x->d, &err), &err);
	} else {
		snprintf(x->path, sizeof(x->path), "/tmp/spindle-queue-XXXXXX");
		assert_non_null(mkdtemp(x->path));
		must(store_folder_host(x->path, &x->f, &err), &err);
		make_base(x->f, "disk", door->format, SIZE, 0, 512);
		snprintf(x->path + strlen(x->path), sizeof(x->path) - strlen(x->path), "/disk");
		must(vhd_disk_open(x->path, &o, &x->d, &err), &err);
	}
	must(vhd_queue_new(x->d, &qo, &x->q, &err), &err);
}

static void close_door(struct fixture *x)
{
	struct sp_err err = { 0 };

	vhd_queue_free(x->q);
	must(vhd_disk_close(x->d, &err), &err);
	assert_int_equal(store_folder_unlink(x->f, "disk"), 0);
	store_folder_close(x->f);
	if (x->path[0]) {
		*strrchr(x->path, '/') = '\0';
		assert_int_equal(rmdir(x->path), 0);
	}
}

struct io {
	struct vhd_req req;
	struct iovec iov[3];
	uint8_t buf[BLOCK];
	int calls, res;
};

static void io_done(struct vhd_req *req, int res)
{
	struct io *io = req->user;

	io->calls++;
	io->res = res;
}

static void io_init(struct io *io, enum vhd_req_op op, uint64_t offset)
{
	io->iov[0] = (struct iovec){ io->buf, 512 };
	io->iov[1] = (struct iovec){ io->buf + 512, 0 };
	io->iov[2] = (struct iovec){ io->buf + 512, BLOCK - 512 };
	io->req = (struct vhd_req){
		.op = op, .offset = offset, .len = BLOCK, .iov = io->iov, .iovcnt = 3, .buf_index = -1,
		.complete = io_done, .user = io,
	};
	io->calls = 0;
}

static void expect_all(struct fixture *x, struct io *io, unsigned n, int res)
{
	while (vhd_queue_inflight(x->q) > 0)
		assert_true(vhd_queue_wait(x->q, 1) >= 0);
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(io[i].calls, 1);
		assert_int_equal(io[i].res, res);
	}
}

/* Far more requests than the depth: all complete once, and what was written is read. */
static void many_more_than_deep(void **state)
{
	struct io *io = calloc(COUNT, sizeof(*io));
	struct fixture x;

	open_door(&x, *state, 16);
	for (unsigned i = 0; i < COUNT; i++) {
		io_init(&io[i], VHD_REQ_WRITE, (uint64_t)i * 131072 % (SIZE - BLOCK));
		memset(io[i].buf, (int)i, BLOCK);
		vhd_queue_submit(x.q, &io[i].req);
	}
	expect_all(&x, io, COUNT, 0);
	for (unsigned i = 0; i < COUNT; i++) {
		io_init(&io[i], VHD_REQ_READ, (uint64_t)i * 131072 % (SIZE - BLOCK));
		memset(io[i].buf, 0xee, BLOCK);
		vhd_queue_submit(x.q, &io[i].req);
	}
	expect_all(&x, io, COUNT, 0);
	for (unsigned i = 0; i < COUNT; i++) {
		uint8_t want = 0;

		for (unsigned k = 0; k < COUNT; k++) {	/* the last writer of this place */
			if ((uint64_t)k * 131072 % (SIZE - BLOCK) == io[i].req.offset)
				want = (uint8_t)k;
		}
		assert_int_equal(io[i].buf[0], want);
		assert_int_equal(io[i].buf[BLOCK - 1], want);
	}
	close_door(&x);
	free(io);
}

static void every_op(void **state)
{
	struct io *io = calloc(5, sizeof(*io));
	struct fixture x;

	open_door(&x, *state, 8);
	io_init(&io[0], VHD_REQ_WRITE, SP_MIB(3));
	memset(io[0].buf, 'w', BLOCK);
	io[0].req.flags = VHD_REQ_FUA;
	vhd_queue_submit(x.q, &io[0].req);
	expect_all(&x, io, 1, 0);

	io_init(&io[1], VHD_REQ_FLUSH, 0);
	io[1].req.len = 0;
	vhd_queue_submit(x.q, &io[1].req);
	expect_all(&x, io, 2, 0);

	io_init(&io[2], VHD_REQ_WRITE_ZEROES, SP_MIB(3) + 4096);
	io[2].req.len = 4096;
	vhd_queue_submit(x.q, &io[2].req);
	expect_all(&x, io, 3, 0);

	io_init(&io[3], VHD_REQ_READ, SP_MIB(3));
	vhd_queue_submit(x.q, &io[3].req);
	expect_all(&x, io, 4, 0);
	assert_int_equal(io[3].buf[4095], 'w');
	assert_int_equal(io[3].buf[4096], 0);

	io_init(&io[4], VHD_REQ_DISCARD, 0);
	io[4].req.len = SIZE;
	vhd_queue_submit(x.q, &io[4].req);
	expect_all(&x, io, 5, 0);
	close_door(&x);
	free(io);
}

static void errors_come_by_completion(void **state)
{
	struct io *io = calloc(1, sizeof(*io));
	struct fixture x;

	open_door(&x, *state, 4);
	io_init(io, VHD_REQ_READ, SIZE - 4096);
	vhd_queue_submit(x.q, &io->req);
	assert_int_equal(io->calls, 0);		/* never from inside submit */
	expect_all(&x, io, 1, -ERANGE);
	io_init(io, VHD_REQ_READ, 0);
	io->req.iovcnt = 1;			/* a vector shorter than the request */
	vhd_queue_submit(x.q, &io->req);
	vhd_queue_wait(x.q, 1);
	assert_int_equal(io->calls, 1);
	close_door(&x);
	free(io);
}

static void the_bell_rings(void **state)
{
	struct io *io = calloc(1, sizeof(*io));
	struct fixture x;
	struct pollfd p;

	open_door(&x, *state, 4);
	p = (struct pollfd){ .fd = vhd_queue_fd(x.q), .events = POLLIN };
	assert_true(p.fd >= 0);
	vhd_disk_write(x.d, "x", 1, 0);
	io_init(io, VHD_REQ_READ, 0);
	vhd_queue_submit(x.q, &io->req);
	vhd_queue_kick(x.q);
	while (io->calls == 0) {
		assert_int_equal(poll(&p, 1, 5000), 1);
		assert_true(vhd_queue_poll(x.q) >= 0);
	}
	assert_int_equal(io->res, 0);
	assert_int_equal(io->buf[0], 'x');
	close_door(&x);
	free(io);
}

/* A vector in crumbs smaller than a sector, across places that need room. */
static void crumbs(void **state)
{
	struct iovec iov[400];
	uint8_t out[40000], in[40000];
	struct io io = { 0 };
	struct fixture x;

	open_door(&x, *state, 4);
	for (unsigned i = 0; i < 400; i++)
		iov[i] = (struct iovec){ out + i * 100, 100 };
	for (unsigned i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)(i * 7);
	io.req = (struct vhd_req){
		.op = VHD_REQ_WRITE, .offset = SP_MIB(2) - 20000 - 3, .len = sizeof(out), .iov = iov, .iovcnt = 400,
		.buf_index = -1, .complete = io_done, .user = &io,
	};
	vhd_queue_submit(x.q, &io.req);
	expect_all(&x, &io, 1, 0);
	assert_int_equal(vhd_disk_read(x.d, in, sizeof(in), io.req.offset), 0);
	assert_memory_equal(in, out, sizeof(in));
	close_door(&x);
}

/* ---- a flush beside another ----------------------------------------------------------------------- */

static const struct store_ops *plain_ops;
static atomic_bool inside_sync, let_go;
static atomic_int sync_answer;

static int held_sync(struct store *s)
{
	atomic_store(&inside_sync, true);
	while (!atomic_load(&let_go))
		usleep(200);
	return atomic_load(&sync_answer) ? atomic_load(&sync_answer) : plain_ops->sync(s);
}

/* Two flushes, the first of which is held in the middle of its metadata. */
static void two_flushes(struct fixture *x, struct io *io, int answer)
{
	static struct store_ops held;
	struct store *s = vhd_disk_image(x->d, 0)->store;

	plain_ops = s->ops;
	held = *plain_ops;
	held.sync = held_sync;
	atomic_store(&inside_sync, false);
	atomic_store(&let_go, false);
	atomic_store(&sync_answer, answer);
	io_init(&io[0], VHD_REQ_WRITE, SP_MIB(5));
	vhd_queue_submit(x->q, &io[0].req);
	expect_all(x, io, 1, 0);

	s->ops = &held;
	for (unsigned i = 1; i < 3; i++) {
		io_init(&io[i], VHD_REQ_FLUSH, 0);
		io[i].req.len = 0;
		vhd_queue_submit(x->q, &io[i].req);
		vhd_queue_kick(x->q);
		while (i == 1 && !atomic_load(&inside_sync))
			usleep(200);
	}
	for (unsigned i = 0; i < 100; i++) {
		usleep(500);
		vhd_queue_poll(x->q);
	}
}

/* The metadata of the first write is on its way: a second flush cannot be over before it has arrived. */
static void no_flush_overtakes(void **state)
{
	struct io *io = calloc(3, sizeof(*io));
	struct fixture x;

	open_door(&x, *state, 8);
	two_flushes(&x, io, 0);
	assert_int_equal(io[1].calls, 0);
	assert_int_equal(io[2].calls, 0);
	atomic_store(&let_go, true);
	expect_all(&x, io, 3, 0);
	vhd_disk_image(x.d, 0)->store->ops = plain_ops;
	close_door(&x);
	free(io);
}

/* The kernel tells one of two that a write was lost: neither may succeed, nor any later one. */
static void a_lost_write_is_everybodys(void **state)
{
	struct io *io = calloc(4, sizeof(*io));
	struct fixture x;

	open_door(&x, *state, 8);
	two_flushes(&x, io, -EIO);
	atomic_store(&let_go, true);
	while (vhd_queue_inflight(x.q) > 0)
		assert_true(vhd_queue_wait(x.q, 1) >= 0);
	vhd_disk_image(x.d, 0)->store->ops = plain_ops;
	io_init(&io[3], VHD_REQ_FLUSH, 0);
	io[3].req.len = 0;
	vhd_queue_submit(x.q, &io[3].req);
	while (vhd_queue_inflight(x.q) > 0)
		assert_true(vhd_queue_wait(x.q, 1) >= 0);
	for (unsigned i = 1; i < 4; i++)
		assert_int_equal(io[i].res, -EIO);
	assert_int_equal(vhd_disk_poisoned(x.d), -EIO);
	vhd_queue_free(x.q);
	assert_int_equal(vhd_disk_close(x.d, NULL), -EIO);
	assert_int_equal(store_folder_unlink(x.f, "disk"), 0);
	store_folder_close(x.f);
	*strrchr(x.path, '/') = '\0';
	assert_int_equal(rmdir(x.path), 0);
	free(io);
}

static const struct door doors[] = {
	{ "host file, io_uring, raw", true, 0, VHD_FORMAT_RAW },
	{ "host file, io_uring, vhdx", true, 0, VHD_FORMAT_VHDX },
	{ "host file, io_uring, vhd", true, 0, VHD_FORMAT_VHD },
	{ "host file, preadv2, vhdx", true, VHD_OPEN_NO_URING, VHD_FORMAT_VHDX },
	{ "memory, vhdx", false, 0, VHD_FORMAT_VHDX },
	{ "memory, raw", false, 0, VHD_FORMAT_RAW },
};

int main(void)
{
	static const struct { const char *name; CMUnitTestFunction run; } what[] = {
		{ "many more than deep", many_more_than_deep }, { "every op", every_op },
		{ "errors come by completion", errors_come_by_completion }, { "the bell rings", the_bell_rings },
		{ "crumbs", crumbs },
	};
	static char names[SP_ARRAY_SIZE(what) * SP_ARRAY_SIZE(doors)][80];
	static const struct { const char *name; CMUnitTestFunction run; } two[] = {
		{ "no flush overtakes another", no_flush_overtakes },
		{ "a lost write is everybody's", a_lost_write_is_everybodys },
	};
	static char two_names[SP_ARRAY_SIZE(two) * 2][80];
	struct CMUnitTest tests[SP_ARRAY_SIZE(names) + SP_ARRAY_SIZE(two_names)];
	unsigned n = 0;

	for (unsigned i = 0; i < SP_ARRAY_SIZE(what); i++) {
		for (unsigned k = 0; k < SP_ARRAY_SIZE(doors); k++, n++) {
			snprintf(names[n], sizeof(names[n]), "%s (%s)", what[i].name, doors[k].name);
			tests[n] =
				(struct CMUnitTest){ names[n], what[i].run, NULL, NULL, (void *)(uintptr_t)&doors[k] };
		}
	}
	for (unsigned i = 0; i < SP_ARRAY_SIZE(two_names); i++, n++) {	/* formats with metadata, on a host file */
		const struct door *door = &doors[1 + i % 2];

		snprintf(two_names[i], sizeof(two_names[i]), "%s (%s)", two[i / 2].name, door->name);
		tests[n] = (struct CMUnitTest){ two_names[i], two[i / 2].run, NULL, NULL, (void *)(uintptr_t)door };
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
