/* SPDX-License-Identifier: BSD-2-Clause */
/* Drain, leaf switch and growing under load: threads with plain calls and with queues write meanwhile. */
#include "tests/unit/chain_fixture.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SIZE SP_MIB(16)
#define THREADS 3
#define LEAVES 12
#define CELL 4096u

struct shared {
	struct vhd_disk *d;
	atomic_bool stop;
	_Atomic unsigned long written;
};

struct worker {
	struct shared *s;
	unsigned index;
	uint32_t stamp[SIZE / CELL / THREADS];	/* what this thread wrote last to each of its cells */
	pthread_t thread;
};

static uint64_t cell_offset(const struct worker *w, unsigned cell)
{
	return ((uint64_t)cell * THREADS + w->index) * CELL;
}

static void fill(uint8_t *buf, unsigned index, unsigned cell, uint32_t stamp)
{
	uint32_t words[3] = { index, cell, stamp };

	memset(buf, 0, CELL);
	memcpy(buf, words, sizeof(words));
	memcpy(buf + CELL - sizeof(words), words, sizeof(words));
}

static void done(struct vhd_req *req, int res)
{
	*(int *)req->user = res;
}

static int one_write(struct worker *w, struct vhd_queue *q, const uint8_t *buf, uint64_t offset)
{
	struct iovec iov = { (void *)(uintptr_t)buf, CELL };
	int res = 1;
	struct vhd_req req = {
		.op = VHD_REQ_WRITE, .offset = offset, .len = CELL, .iov = &iov, .iovcnt = 1, .buf_index = -1,
		.complete = done, .user = &res,
	};

	if (!q)
		return vhd_disk_write(w->s->d, buf, CELL, offset);
	vhd_queue_submit(q, &req);
	while (res == 1)
		vhd_queue_wait(q, 1);
	return res;
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct vhd_queue *q = NULL;
	uint8_t buf[CELL];
	uint32_t seed = w->index * 7919 + 1;

	if (w->index > 0 && vhd_queue_new(w->s->d, NULL, &q, NULL) < 0)
		abort();
	for (uint32_t stamp = 1; !atomic_load(&w->s->stop); stamp++) {
		unsigned cell;

		seed = seed * 1664525 + 1013904223;
		cell = (seed >> 8) % (unsigned)SP_ARRAY_SIZE(w->stamp);
		fill(buf, w->index, cell, stamp);
		if (one_write(w, q, buf, cell_offset(w, cell)) != 0)
			abort();
		w->stamp[cell] = stamp;
		atomic_fetch_add(&w->s->written, 1);
		if (stamp % 64 == 0 && vhd_disk_flush(w->s->d) != 0)
			abort();
	}
	vhd_queue_free(q);
	return NULL;
}

static void push_leaf(struct store_folder *f, struct vhd_disk *d, unsigned n, enum vhd_format_id format)
{
	struct sp_err err = { 0 };
	struct vhd_image *leaf, *parent = vhd_disk_image(d, 0);
	struct store *s;
	char name[16], parent_name[16];

	snprintf(name, sizeof(name), "l%u", n);
	snprintf(parent_name, sizeof(parent_name), "l%u", n - 1);
	must(vhd_disk_drain(d, 5000), NULL);
	assert_int_equal(vhd_disk_flush(d), 0);
	struct vhd_format_create c = {
		.kind = VHD_KIND_DIFFERENCING, .size = SIZE, .block_size = 1u << 20, .logical_sector = 512,
		.parent_identity = parent->identity, .parent_relative = parent_name,
	};

	must(store_mtime(parent->store, &c.parent_mtime), NULL);
	must(vhd_create_in(f, name, format, &c, &err), &err);
	must(store_folder_open(f, name, STORE_RDWR, &s, &err), &err);
	must(vhd_image_open(s, name, vhd_format_by_id(format), VHD_IMG_WRITABLE, &leaf, &err), &err);
	must(vhd_disk_push_leaf(d, leaf, &err), &err);
	vhd_disk_resume(d);
}

/* THREADS writers on @s->d; load_stop() checks in the reopened chain what they wrote last. */
static struct worker *load_start(struct shared *s)
{
	struct worker *w = calloc(THREADS, sizeof(*w));

	for (unsigned i = 0; i < THREADS; i++) {
		w[i].s = s;
		w[i].index = i;
		assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
	}
	return w;
}

static void load_some_more(struct shared *s)
{
	unsigned long goal = atomic_load(&s->written) + 150;

	while (atomic_load(&s->written) < goal)
		sched_yield();
}

static void load_stop(struct shared *s, struct worker *w)
{
	atomic_store(&s->stop, true);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(w[i].thread, NULL);
}

static void load_verify(struct vhd_disk *d, struct worker *w)
{
	uint8_t buf[CELL], want[CELL];

	for (unsigned i = 0; i < THREADS; i++) {
		for (unsigned cell = 0; cell < SP_ARRAY_SIZE(w[i].stamp); cell++) {
			memset(want, 0, sizeof(want));
			if (w[i].stamp[cell])
				fill(want, i, cell, w[i].stamp[cell]);
			assert_int_equal(vhd_disk_read(d, buf, CELL, cell_offset(&w[i], cell)), 0);
			assert_memory_equal(buf, want, CELL);
		}
	}
	free(w);
}

static void leaves_under_load(void **state)
{
	enum vhd_format_id format = *(const enum vhd_format_id *)*state;
	struct store_folder *f = folder_new();
	struct shared s = { 0 };
	struct sp_err err = { 0 };
	struct worker *w;
	char name[16];

	make_base(f, "l0", format, SIZE, 2u << 20, 512);
	s.d = open_rw(f, "l0");
	write_byte(s.d, 0, 512, 0);	/* its identity is settled by the first write */
	w = load_start(&s);
	for (unsigned n = 1; n <= LEAVES; n++) {
		load_some_more(&s);
		push_leaf(f, s.d, n, format);
	}
	load_stop(&s, w);
	assert_int_equal(vhd_disk_layers(s.d), LEAVES + 1);
	must(vhd_disk_close(s.d, &err), &err);

	snprintf(name, sizeof(name), "l%u", LEAVES);
	must(vhd_disk_open_in(f, name, NULL, &s.d, &err), &err);
	assert_int_equal(vhd_disk_layers(s.d), LEAVES + 1);
	load_verify(s.d, w);
	must(vhd_disk_close(s.d, &err), &err);
	store_folder_close(f);
}

static void grow_under_load(void **state)
{
	enum vhd_format_id format = *(const enum vhd_format_id *)*state;
	struct store_folder *f = folder_new();
	struct shared s = { 0 };
	struct sp_err err = { 0 };
	uint64_t size = SIZE;
	struct worker *w;
	uint8_t last[4];

	make_base(f, "a", format, SIZE, 2u << 20, 512);
	s.d = open_rw(f, "a");
	w = load_start(&s);
	for (unsigned n = 0; n < LEAVES; n++) {
		load_some_more(&s);
		size += SP_MIB(n % 3 + 1) + 512;
		must(vhd_disk_grow(s.d, size, &err), &err);
		assert_int_equal(vhd_disk_size(s.d), size);
		assert_int_equal(vhd_disk_read(s.d, last, 4, size - 4), 0);
		assert_memory_equal(last, "\0\0\0\0", 4);
		assert_int_equal(vhd_disk_write(s.d, "tail", 4, size - 4), 0);
	}
	load_stop(&s, w);
	must(vhd_disk_close(s.d, &err), &err);

	must(vhd_disk_open_in(f, "a", NULL, &s.d, &err), &err);
	assert_int_equal(vhd_disk_size(s.d), size);
	assert_int_equal(vhd_disk_read(s.d, last, 4, size - 4), 0);
	assert_memory_equal(last, "tail", 4);
	load_verify(s.d, w);
	must(vhd_disk_close(s.d, &err), &err);
	store_folder_close(f);
}

static void grow_refused(void **state)
{
	struct store_folder *f = folder_new();
	struct sp_err err = { 0 };
	struct vhd_disk *d;

	make_base(f, "a", VHD_FORMAT_VHDX, SIZE, 2u << 20, 4096);
	d = open_rw(f, "a");
	assert_int_equal(vhd_disk_grow(d, SIZE - 4096, &err), -ENOTSUP);
	assert_int_equal(vhd_disk_grow(d, SIZE + 512, &err), -EINVAL);
	assert_int_equal(vhd_disk_grow(d, SIZE, &err), 0);
	must(vhd_disk_close(d, &err), &err);
	must(vhd_disk_open_in(f, "a", NULL, &d, &err), &err);
	assert_int_equal(vhd_disk_grow(d, 2 * SIZE, &err), -EROFS);
	must(vhd_disk_close(d, &err), &err);
	store_folder_close(f);
}

static void not_a_child(void **state)
{
	enum vhd_format_id format = *(const enum vhd_format_id *)*state;
	struct store_folder *f = folder_new();
	struct vhd_image *other;
	struct sp_err err = { 0 };
	struct vhd_disk *d;
	struct store *s;

	make_base(f, "a", format, SIZE, 2u << 20, 512);
	make_base(f, "b", format, SIZE, 2u << 20, 512);
	d = open_rw(f, "a");
	must(store_folder_open(f, "b", STORE_RDWR, &s, &err), &err);
	must(vhd_image_open(s, "b", vhd_format_by_id(format), VHD_IMG_WRITABLE, &other, &err), &err);
	must(vhd_disk_drain(d, 100), NULL);
	assert_int_equal(vhd_disk_push_leaf(d, other, &err), -EINVAL);
	vhd_disk_resume(d);
	assert_int_equal(vhd_disk_write(d, "x", 1, 0), 0);
	vhd_image_close(other, true);
	must(vhd_disk_close(d, &err), &err);
	store_folder_close(f);
}

struct held {
	struct vhd_disk *d;
	int res;
};

static void *late_reader(void *arg)
{
	struct held *h = arg;
	uint8_t byte;

	h->res = vhd_disk_read(h->d, &byte, 1, 0);
	return NULL;
}

/* While drained, a queue holds what it is given; a plain call waits at the gate. */
static void the_gate_holds(void **state)
{
	struct store_folder *f = folder_new();
	struct vhd_queue *q;
	struct vhd_disk *d;
	struct held h = { .res = 1 };
	uint8_t byte;
	struct iovec iov = { &byte, 1 };
	struct sp_err err = { 0 };
	int res = 1;
	struct vhd_req req = {
		.op = VHD_REQ_READ, .len = 1, .iov = &iov, .iovcnt = 1, .buf_index = -1, .complete = done, .user = &res,
	};
	pthread_t t;

	make_base(f, "a", VHD_FORMAT_RAW, SIZE, 0, 512);
	d = open_rw(f, "a");
	must(vhd_queue_new(d, NULL, &q, &err), &err);
	assert_int_equal(vhd_disk_drain(d, 100), 0);
	vhd_queue_submit(q, &req);
	assert_int_equal(vhd_queue_poll(q), 0);
	assert_int_equal(res, 1);
	h.d = d;
	assert_int_equal(pthread_create(&t, NULL, late_reader, &h), 0);
	vhd_disk_resume(d);
	pthread_join(t, NULL);
	assert_int_equal(h.res, 0);
	assert_int_equal(vhd_queue_wait(q, 1), 1);
	assert_int_equal(res, 0);
	vhd_queue_free(q);
	must(vhd_disk_close(d, &err), &err);
	store_folder_close(f);
}

static const enum vhd_format_id raw = VHD_FORMAT_RAW, vhd1 = VHD_FORMAT_VHD, vhdx = VHD_FORMAT_VHDX;

static void *open_soon(void *arg)
{
	usleep(20000);
	vhd_disk_resume(arg);
	return NULL;
}

/* Who sleeps on the descriptor of a queue whose requests all wait at the gate is woken when it opens. */
static void the_gate_rings(void **state)
{
	struct store_folder *f = folder_new();
	struct iovec iov = { (void *)(uintptr_t)"0123456789abcdef", 16 };
	int res = 1;
	struct vhd_req req = {
		.op = VHD_REQ_WRITE, .len = 16, .iov = &iov, .iovcnt = 1, .buf_index = -1, .complete = done,
		.user = &res,
	};
	struct vhd_queue *q;
	struct pollfd p = { .events = POLLIN };
	struct vhd_disk *d;
	pthread_t thread;

	(void)state;
	make_base(f, "disk", VHD_FORMAT_VHDX, SIZE, 0, 512);
	d = open_rw(f, "disk");
	assert_int_equal(vhd_queue_new(d, NULL, &q, NULL), 0);
	assert_int_equal(vhd_disk_drain(d, 1000), 0);
	vhd_queue_submit(q, &req);
	assert_int_equal(vhd_queue_poll(q), 0);
	p.fd = vhd_queue_fd(q);
	assert_int_equal(poll(&p, 1, 0), 0);
	assert_int_equal(pthread_create(&thread, NULL, open_soon, d), 0);
	assert_int_equal(poll(&p, 1, 5000), 1);
	while (res == 1)
		assert_true(vhd_queue_poll(q) >= 0);
	assert_int_equal(res, 0);
	pthread_join(thread, NULL);
	vhd_queue_free(q);
	must(vhd_disk_close(d, &(struct sp_err){ 0 }), &(struct sp_err){ 0 });
	store_folder_close(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		{ "leaves under load (vhd)", leaves_under_load, NULL, NULL, (void *)(uintptr_t)&vhd1 },
		{ "leaves under load (vhdx)", leaves_under_load, NULL, NULL, (void *)(uintptr_t)&vhdx },
		{ "grow under load (raw)", grow_under_load, NULL, NULL, (void *)(uintptr_t)&raw },
		{ "grow under load (vhd)", grow_under_load, NULL, NULL, (void *)(uintptr_t)&vhd1 },
		{ "grow under load (vhdx)", grow_under_load, NULL, NULL, (void *)(uintptr_t)&vhdx },
		cmocka_unit_test(grow_refused),
		{ "not a child (vhd)", not_a_child, NULL, NULL, (void *)(uintptr_t)&vhd1 },
		{ "not a child (vhdx)", not_a_child, NULL, NULL, (void *)(uintptr_t)&vhdx },
		cmocka_unit_test(the_gate_holds),
		cmocka_unit_test(the_gate_rings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
