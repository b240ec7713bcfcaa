/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What commands have in common: unit attentions, nexuses, changes from the host's side, statistics, a medium that
 * leaves, and COMPARE AND WRITE against the writes of other workers.
 */
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/alloc.h"
#include "tests/unit/rows.h"
#include "tests/unit/scsi_fixture.h"

static const struct sp_guid second_initiator = { { 0xb2 } };

static uint8_t buf[SP_MIB(1)];

static const uint8_t *const read_one = CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1);
static const uint8_t *const write_one = CDB(0x2a, 0, 0, 0, 0, 0, 0, 0, 1);

static void read_block(struct scsi_fix *f, const struct scsi_nexus *nexus)
{
	fix_run_as(f, nexus, read_one, SCSI_FROM_DEVICE, buf, 512);
}

/* ---- unit attentions ------------------------------------------------------------------------------------- */

static void ua_power_on(void **state)
{
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ .keep_ua = true });
	read_block(&f, &f.nexus);
	fix_sense(&f, SCSI_UA_POWER_ON);
	read_block(&f, &f.nexus);
	fix_good(&f);
	scsi_lu_resized(f.lu);
	scsi_lu_parameters_changed(f.lu);
	scsi_lu_power_on(f.lu, &f.nexus);
	read_block(&f, &f.nexus);
	fix_sense(&f, SCSI_UA_POWER_ON);
	read_block(&f, &f.nexus);	/* the others were told by it */
	fix_good(&f);
	fix_free(&f);
}

static void ua_goes_first(void **state)
{
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ .keep_ua = true });
	fix_run(&f, CDB(0xe7), SCSI_NO_DATA, NULL, 0);
	fix_sense(&f, SCSI_UA_POWER_ON);
	fix_run(&f, CDB(0xe7), SCSI_NO_DATA, NULL, 0);
	fix_sense(&f, SCSI_SENSE_INVALID_OPCODE);
	fix_free(&f);
}

static void ua_order(void **state)
{
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ 0 });
	scsi_lu_resized(f.lu);
	scsi_lu_set_read_only(f.lu, true);
	scsi_lu_resized(f.lu);			/* once is enough */
	scsi_lu_set_read_only(f.lu, true);	/* no change */
	assert_int_equal(scsi_ua_take(f.lu, &f.nexus), SCSI_UA_CAPACITY);
	assert_int_equal(scsi_ua_take(f.lu, &f.nexus), SCSI_UA_MODE);
	assert_int_equal(scsi_ua_take(f.lu, &f.nexus), SCSI_UA_PARAMETERS);
	assert_int_equal(scsi_ua_take(f.lu, &f.nexus), 0);
	fix_free(&f);
}

/* Each nexus hears for itself. */
static void ua_per_nexus(void **state)
{
	struct scsi_nexus second;
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ 0 });
	must(scsi_lu_connect(f.lu, &second_initiator, &second), NULL);
	read_block(&f, &f.nexus);
	fix_good(&f);
	read_block(&f, &second);
	fix_sense(&f, SCSI_UA_POWER_ON);
	scsi_ua_raise(f.lu, &second, SCSI_UA_MODE);
	read_block(&f, &second);
	fix_good(&f);
	read_block(&f, &f.nexus);
	fix_sense(&f, SCSI_UA_MODE);
	scsi_lu_power_on(f.lu, &second);
	read_block(&f, &f.nexus);
	fix_good(&f);
	scsi_lu_disconnect(f.lu, &second);
	/* The place is free again, and nothing of the former one is left in it. */
	must(scsi_lu_connect(f.lu, &second_initiator, &second), NULL);
	assert_int_equal(scsi_ua_take(f.lu, &second), SCSI_UA_POWER_ON);
	assert_int_equal(scsi_ua_take(f.lu, &second), 0);
	scsi_lu_disconnect(f.lu, &second);
	fix_free(&f);
}

static void ua_all_kinds_fit(void **state)
{
	static const uint32_t all[] = {
		SCSI_UA_CAPACITY, SCSI_UA_MODE, SCSI_UA_PARAMETERS, SCSI_UA_LUNS, SCSI_UA_MEDIUM, SCSI_UA_PREEMPTED,
		SCSI_UA_RELEASED, SCSI_SENSE(6, 0x29, 1),
	};
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ 0 });
	for (unsigned i = 0; i < 3 * SP_ARRAY_SIZE(all); i++)
		scsi_ua_raise_one(f.lu, f.nexus.index, all[i % SP_ARRAY_SIZE(all)]);
	scsi_ua_raise_one(f.lu, f.nexus.index, SCSI_SENSE(6, 0x29, 2));	/* one too many is lost, nothing else */
	for (unsigned i = 0; i < SP_ARRAY_SIZE(all); i++)
		assert_int_equal(scsi_ua_take(f.lu, &f.nexus), all[i]);
	assert_int_equal(scsi_ua_take(f.lu, &f.nexus), 0);
	fix_free(&f);
}

static void nexuses(void **state)
{
	struct scsi_nexus n[SCSI_NEXUSES];
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ 0 });
	for (unsigned i = 1; i < SCSI_NEXUSES; i++) {
		must(scsi_lu_connect(f.lu, &second_initiator, &n[i]), NULL);
		assert_int_equal(n[i].index, i);
	}
	assert_int_equal(scsi_lu_connect(f.lu, &second_initiator, &n[0]), -EMFILE);
	for (unsigned i = 1; i < SCSI_NEXUSES; i++)
		scsi_lu_disconnect(f.lu, &n[i]);
	fix_free(&f);
}

/* ---- changes --------------------------------------------------------------------------------------------- */

/* A backend that grows. */
static uint64_t grown_size;
static void (*real_geometry)(struct scsi_backend *b, struct scsi_geometry *ret);

static void grown_geometry(struct scsi_backend *b, struct scsi_geometry *ret)
{
	real_geometry(b, ret);
	ret->size = grown_size;
}

static void resized(void **state)
{
	struct scsi_backend_ops ops;
	struct scsi_geometry g;
	struct scsi_fix f;

	fix_null(&f, SP_MIB(1), 512);
	ops = *f.lu->backend->ops;
	real_geometry = ops.geometry;
	ops.geometry = grown_geometry;
	f.lu->backend->ops = &ops;
	fix_run(&f, CDB(0x28, 0, 0, 0, 0x08, 0, 0, 0, 1), SCSI_FROM_DEVICE, buf, 512);
	fix_sense(&f, SCSI_SENSE_LBA_RANGE);
	grown_size = SP_MIB(2);
	scsi_lu_resized(f.lu);
	fix_run(&f, CDB(0x28, 0, 0, 0, 0x08, 0, 0, 0, 1), SCSI_FROM_DEVICE, buf, 512);
	fix_sense(&f, SCSI_UA_CAPACITY);
	fix_run(&f, CDB(0x28, 0, 0, 0, 0x08, 0, 0, 0, 1), SCSI_FROM_DEVICE, buf, 512);
	fix_good(&f);
	scsi_lu_geometry(f.lu, &g);
	assert_int_equal(g.size, SP_MIB(2));
	fix_free(&f);
}

static const struct geometry_row {
	const char *name;
	enum vhd_format_id format;
	uint32_t block, sector, granularity;
} geometry_rows[] = {
	{ "VHDX", VHD_FORMAT_VHDX, SP_MIB(32), 512, SP_MIB(32) },
	{ "VHDX, blocks of 4096", VHD_FORMAT_VHDX, SP_MIB(2), 4096, SP_MIB(2) },
	{ "VHD", VHD_FORMAT_VHD, SP_MIB(2), 512, SP_MIB(2) },
	{ "raw", VHD_FORMAT_RAW, 1, 512, 4096 },
};

static void geometry(void **state)
{
	const struct geometry_row *c = *state;
	struct scsi_geometry g;
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ .format = c->format, .block = c->block, .sector = c->sector });
	scsi_lu_geometry(f.lu, &g);
	assert_int_equal(g.size, vhd_disk_size(f.disk));
	assert_int_equal(g.logical_block, c->sector);
	assert_true(g.physical_block >= c->sector);
	assert_int_equal(g.unmap_granularity, c->granularity);
	assert_true(g.unmapped_reads_zero);
	assert_false(g.read_only);
	fix_free(&f);
}

static void refused_geometry(void **state)
{
	struct scsi_lu_opts opts = { .kind = SCSI_DISK };
	struct scsi_backend *b;
	struct scsi_lu *lu;

	assert_int_equal(scsi_lu_new(&opts, &lu, NULL), -EINVAL);
	must(scsi_backend_null(1000, 512, &opts.backend), NULL);
	b = opts.backend;
	assert_int_equal(scsi_lu_new(&opts, &lu, NULL), -EINVAL);
	b->ops->free(b);
	must(scsi_backend_null(SP_MIB(1), 8192, &opts.backend), NULL);
	b = opts.backend;
	assert_int_equal(scsi_lu_new(&opts, &lu, NULL), -EINVAL);
	b->ops->free(b);
}

/* ---- statistics ------------------------------------------------------------------------------------------ */

static void statistics(void **state)
{
	struct scsi_queue *second;
	struct scsi_stats s;
	struct scsi_fix f;
	uint64_t timed = 0;

	fix_disk(&f, &(struct fix_opts){ 0 });
	read_block(&f, &f.nexus);
	fix_run(&f, CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 8), SCSI_FROM_DEVICE, buf, 4096);
	fix_run(&f, write_one, SCSI_TO_DEVICE, buf, 512);
	fix_run(&f, CDB(0x35), SCSI_NO_DATA, NULL, 0);
	fix_run(&f, CDB(0x25), SCSI_FROM_DEVICE, buf, 8);
	fix_run(&f, CDB(0xe7), SCSI_NO_DATA, NULL, 0);
	/* A queue that goes leaves its numbers behind. */
	must(scsi_queue_new(f.lu, 4, &second, NULL), NULL);
	scsi_queue_free(f.queue);
	f.queue = second;
	fix_run(&f, write_one, SCSI_TO_DEVICE, buf, 512);
	scsi_lu_stats(f.lu, &s);
	assert_int_equal(s.reads, 2);
	assert_int_equal(s.read_bytes, 4608);
	assert_int_equal(s.writes, 2);
	assert_int_equal(s.write_bytes, 1024);
	assert_int_equal(s.flushes, 1);
	assert_int_equal(s.others, 1);
	assert_int_equal(s.errors, 1);
	assert_int_equal(s.inflight, 0);
	assert_int_equal(s.inflight_max, 1);
	assert_true(s.read_ns > 0 && s.write_ns > 0 && s.busy_ns >= s.read_ns + s.write_ns);
	for (unsigned i = 0; i < SCSI_LATENCY_BUCKETS; i++)
		timed += s.latency[i];
	assert_int_equal(timed, 5);
	fix_free(&f);
}

/* ---- many at once ---------------------------------------------------------------------------------------- */

static void count_done(struct scsi_task *t)
{
	++*(unsigned *)t->user;
}

static void start(struct scsi_fix *f, struct scsi_task *t, struct iovec *iov, const uint8_t cdb[16], void *data,
		  uint32_t len, unsigned *done)
{
	*iov = (struct iovec){ data, len };
	*t = (struct scsi_task){ .nexus = &f->nexus, .iov = iov, .iovcnt = 1, .data_len = len, .buf_index = -1,
				 .done = count_done, .user = done,
				 .direction = cdb[0] == 0x28 ? SCSI_FROM_DEVICE : SCSI_TO_DEVICE };
	memcpy(t->cdb, cdb, 16);
	scsi_execute(f->queue, t);
}

/* More than the queue is deep, then freed with everything in flight: each task ends exactly once. */
static void free_in_flight(void **state)
{
	enum { MANY = 200 };
	static struct scsi_task t[MANY];
	static struct iovec iov[MANY];
	unsigned done = 0;
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ 0 });
	for (unsigned i = 0; i < MANY; i++)
		start(&f, &t[i], &iov[i], CDB(0x2a, 0, 0, 0, (uint8_t)i, 0, 0, 0, 1), buf + 512 * i, 512, &done);
	assert_int_equal(scsi_queue_inflight(f.queue), MANY - done);
	scsi_queue_free(f.queue);
	assert_int_equal(done, MANY);
	must(scsi_queue_new(f.lu, 4, &f.queue, NULL), NULL);
	fix_free(&f);
}

/* In a steady state, reads and writes take no memory. */
static int refuse(void *arg)
{
	++*(unsigned *)arg;
	return 1;
}

static void no_allocation(void **state)
{
	unsigned asked = 0;
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ 0 });
	fix_run(&f, write_one, SCSI_TO_DEVICE, buf, 512);
	read_block(&f, &f.nexus);
	sp_alloc_set_fault(refuse, &asked);
	for (unsigned i = 0; i < 100; i++) {
		fix_run(&f, write_one, SCSI_TO_DEVICE, buf, 512);
		fix_good(&f);
		read_block(&f, &f.nexus);
		fix_good(&f);
	}
	assert_int_equal(asked, 0);
	/* What needs some says that it may be tried again. */
	fix_run(&f, CDB(0x2f, 0, 0, 0, 0, 0, 0, 0, 1), SCSI_NO_DATA, NULL, 0);
	fix_status(&f, SCSI_BUSY);
	fix_run(&f, CDB(0x89, [13] = 1), SCSI_TO_DEVICE, buf, 1024);
	fix_status(&f, SCSI_BUSY);
	fix_run(&f, CDB(0x42, [8] = 24), SCSI_TO_DEVICE, buf, 24);
	fix_status(&f, SCSI_BUSY);
	fix_run(&f, CDB(0x93, 1, [13] = 1), SCSI_NO_DATA, NULL, 0);
	fix_status(&f, SCSI_BUSY);
	sp_alloc_set_fault(NULL, NULL);
	assert_true(asked >= 4);
	fix_run(&f, write_one, SCSI_TO_DEVICE, buf, 512);	/* COMPARE AND WRITE let go */
	fix_good(&f);
	fix_free(&f);
}

/* ---- exclusive access, on one thread ----------------------------------------------------------------------- */

/* COMPARE AND WRITE waits for the write of another worker, and later writes wait for it. */
static void exclusive_order(void **state)
{
	static struct scsi_task write, caw, late;
	static struct iovec iov[3];
	static uint8_t a[512], pair[1024], b[512];
	unsigned done = 0;
	struct scsi_fix f, g;

	fix_disk(&f, &(struct fix_opts){ 0 });
	g = f;
	must(scsi_queue_new(f.lu, 4, &g.queue, NULL), NULL);
	memset(a, 1, sizeof(a));
	memset(pair, 1, 512);
	memset(pair + 512, 2, 512);
	memset(b, 3, sizeof(b));
	start(&g, &write, &iov[0], write_one, a, 512, &done);
	start(&f, &caw, &iov[1], CDB(0x89, [13] = 1), pair, 1024, &done);
	start(&g, &late, &iov[2], write_one, b, 512, &done);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(scsi_queue_poll(f.queue), 0);	/* the first write is not over */
	assert_int_equal(scsi_queue_poll(g.queue), 1);
	assert_int_equal(write.status, SCSI_GOOD);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(scsi_queue_poll(g.queue), 0);	/* the second one may not begin */
	while (done < 2)
		assert_true(scsi_queue_poll(f.queue) >= 0);
	assert_int_equal(caw.status, SCSI_GOOD);
	expect_byte(f.disk, 0, 512, 2);
	while (done < 3)
		assert_true(scsi_queue_poll(g.queue) >= 0);
	expect_byte(f.disk, 0, 512, 3);
	scsi_queue_free(g.queue);
	fix_free(&f);
}

/* ---- exclusive access, on two threads ----------------------------------------------------------------------- */

/*
 * Both workers add one to a counter in block 0 by COMPARE AND WRITE, as often as it takes. Each third time they take a
 * lock made of block 1 in the same way, and let go of it by a plain WRITE. No count may get lost, and at most one
 * worker may hold the lock.
 */
enum { ROUNDS = 150 };

struct worker {
	struct scsi_fix f;
	pthread_t thread;
	uint8_t id;
	unsigned misses;
};
static atomic_uint holders, total;

static void sleep_until_bell(struct worker *w)
{
	struct pollfd p = { .fd = scsi_queue_fd(w->f.queue), .events = POLLIN };

	assert_true(poll(&p, 1, 5000) > 0);	/* a wake that is lost is a test that fails */
}

static uint8_t worker_run(struct worker *w, const uint8_t cdb[16], uint8_t *data, uint32_t len)
{
	static _Thread_local struct scsi_task t;
	static _Thread_local struct iovec iov;
	unsigned done = 0;

	start(&w->f, &t, &iov, cdb, data, len, &done);
	scsi_queue_kick(w->f.queue);
	while (scsi_queue_poll(w->f.queue) >= 0 && !done)
		sleep_until_bell(w);
	return t.status;
}

/* Block @lba from @from to @to, if it is @from. */
static bool swap(struct worker *w, uint8_t lba, uint32_t from, uint32_t to)
{
	uint8_t data[1024] = { 0 };

	memcpy(data, &from, sizeof(from));
	memcpy(data + 512, &to, sizeof(to));
	return worker_run(w, CDB(0x89, [9] = lba, [13] = 1), data, sizeof(data)) == SCSI_GOOD;
}

static uint32_t load(struct worker *w, uint8_t lba)
{
	uint8_t data[512];
	uint32_t value;

	worker_run(w, CDB(0x28, [5] = lba, [8] = 1), data, sizeof(data));
	memcpy(&value, data, sizeof(value));
	return value;
}

static void increment(struct worker *w)
{
	uint32_t seen = load(w, 0);

	while (!swap(w, 0, seen, seen + 1)) {
		w->misses++;
		seen = load(w, 0);
	}
	atomic_fetch_add(&total, 1);
}

/* A critical section of the guests: the plain write of 0 lets go. */
static void locked_section(struct worker *w)
{
	uint8_t zeros[512] = { 0 };

	while (!swap(w, 1, 0, w->id))
		w->misses++;
	assert_int_equal(atomic_fetch_add(&holders, 1), 0);
	assert_int_equal(load(w, 1), w->id);
	atomic_fetch_sub(&holders, 1);
	worker_run(w, CDB(0x2a, [5] = 1, [8] = 1), zeros, sizeof(zeros));
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	for (unsigned i = 0; i < ROUNDS; i++) {
		increment(w);
		if (i % 3 == 0)
			locked_section(w);
	}
	return NULL;
}

static void race_on(struct scsi_fix f)
{
	struct worker w[2] = { 0 };

	atomic_store(&total, 0);
	write_byte(f.disk, 0, 1024, 0);
	for (unsigned i = 0; i < 2; i++) {
		w[i].f = f;
		w[i].id = (uint8_t)(i + 1);
		must(scsi_queue_new(f.lu, 4, &w[i].f.queue, NULL), NULL);
		assert_true(scsi_queue_fd(w[i].f.queue) >= 0);
	}
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&w[i].thread, NULL, worker_main, &w[i]), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_join(w[i].thread, NULL), 0);
	assert_int_equal(atomic_load(&total), 2 * ROUNDS);
	assert_int_equal(load(&w[0], 0), 2 * ROUNDS);
	for (unsigned i = 0; i < 2; i++)
		scsi_queue_free(w[i].f.queue);
}

static void exclusive_race(void **state)
{
	struct scsi_fix f;

	fix_disk(&f, &(struct fix_opts){ 0 });
	race_on(f);
	fix_free(&f);
}

/* Where requests end later and on their own, workers sleep in earnest. */
static void exclusive_race_on_files(void **state)
{
	char path[] = "/tmp/spindle-scsi-XXXXXX";
	struct scsi_fix f = { 0 };

	assert_non_null(mkdtemp(path));
	must(store_folder_host(path, &f.folder, NULL), NULL);
	make_base(f.folder, "disk", VHD_FORMAT_VHDX, SP_MIB(64), SP_MIB(1), 512);
	fix_open(&f, &(struct fix_opts){ 0 });
	race_on(f);
	assert_int_equal(store_folder_unlink(f.folder, "disk"), 0);
	fix_free(&f);
	assert_int_equal(rmdir(path), 0);
}

/* ---- a medium that leaves ---------------------------------------------------------------------------------- */

static const uint8_t *const read_third = CDB(0x28, 0, 0, 0, 0, 3, 0, 0, 1);

static void dvd_read(struct scsi_fix *f)
{
	memset(buf, 0xee, 2048);
	fix_run(f, read_third, SCSI_FROM_DEVICE, buf, 2048);
}

static void dvd_changes(void **state)
{
	struct scsi_backend *medium;
	struct vhd_disk *disc;
	struct sp_err err = { 0 };
	struct scsi_fix f;

	fix_dvd(&f, SP_MIB(1));
	dvd_read(&f);
	fix_good(&f);
	assert_int_equal(buf[2047], 3);
	fix_run(&f, write_one, SCSI_TO_DEVICE, buf, 2048);
	fix_sense(&f, SCSI_SENSE_WRITE_PROTECTED);
	assert_int_equal(scsi_lu_eject(f.lu, true), 0);
	must(vhd_disk_close(f.disk, &err), &err);	/* nobody has a queue on it any more */
	f.disk = NULL;
	assert_int_equal(scsi_lu_eject(f.lu, true), -ENOMEDIUM);
	dvd_read(&f);
	fix_sense(&f, SCSI_SENSE_NO_MEDIUM_OPEN);
	disc = fix_iso(f.folder, "second", 64 * 2048 + 512);
	must(scsi_backend_disk(disc, &medium), NULL);
	assert_int_equal(scsi_lu_insert(f.lu, medium), 0);
	assert_int_equal(scsi_lu_insert(f.lu, medium), -EBUSY);
	dvd_read(&f);
	fix_sense(&f, SCSI_UA_MEDIUM);
	dvd_read(&f);
	fix_good(&f);
	fix_run(&f, CDB(0x25), SCSI_FROM_DEVICE, buf, 8);
	fix_good(&f);
	assert_memory_equal(buf, ((const uint8_t[]){ 0, 0, 0, 63, 0, 0, 8, 0 }), 8);
	fix_run(&f, CDB(0x28, 0, 0, 0, 0, 64, 0, 0, 1), SCSI_FROM_DEVICE, buf, 2048);
	fix_sense(&f, SCSI_SENSE_LBA_RANGE);
	f.disk = disc;
	fix_free(&f);
}

/* The guest's eject leaves the disc in the drawer. */
static void dvd_tray(void **state)
{
	struct scsi_fix f;

	fix_dvd(&f, SP_MIB(1));
	__atomic_store_n(&f.lu->tray_open, true, __ATOMIC_RELEASE);
	dvd_read(&f);
	fix_sense(&f, SCSI_SENSE_NO_MEDIUM_OPEN);
	__atomic_store_n(&f.lu->tray_open, false, __ATOMIC_RELEASE);
	dvd_read(&f);
	fix_good(&f);
	fix_free(&f);
}

static void dvd_empty(void **state)
{
	struct scsi_fix f;

	fix_dvd(&f, 0);
	dvd_read(&f);
	fix_sense(&f, SCSI_SENSE_NO_MEDIUM_CLOSED);
	assert_int_equal(scsi_queue_fd(f.queue), -1);
	fix_free(&f);
}

static void *eject(void *arg)
{
	return (void *)(intptr_t)scsi_lu_eject(arg, true);
}

/* While a request is under way the eject waits for it; the worker sees to it that it ends. */
static void dvd_eject_waits(void **state)
{
	static struct scsi_task t;
	static struct iovec iov;
	struct sp_err err = { 0 };
	unsigned done = 0;
	pthread_t thread;
	struct scsi_fix f;
	void *result;

	fix_dvd(&f, SP_MIB(1));
	start(&f, &t, &iov, read_third, buf, 2048, &done);
	assert_int_equal(pthread_create(&thread, NULL, eject, f.lu), 0);
	while (scsi_lu_medium(f.lu) == 0)
		poll(NULL, 0, 1);
	while (!done)
		assert_true(scsi_queue_poll(f.queue) >= 0);
	assert_int_equal(pthread_join(thread, &result), 0);
	assert_int_equal((intptr_t)result, 0);
	assert_int_equal(t.status, SCSI_GOOD);
	must(vhd_disk_close(f.disk, &err), &err);
	f.disk = NULL;
	fix_free(&f);
}

static const struct single_row single_rows[] = {
	{ "unit attention: power on", ua_power_on },
	{ "unit attention: before anything else", ua_goes_first },
	{ "unit attention: order", ua_order },
	{ "unit attention: each nexus", ua_per_nexus },
	{ "unit attention: all kinds", ua_all_kinds_fit },
	{ "nexuses", nexuses },
	{ "resized", resized },
	{ "a geometry that cannot be", refused_geometry },
	{ "statistics", statistics },
	{ "freed in flight", free_in_flight },
	{ "no allocation", no_allocation },
	{ "COMPARE AND WRITE waits and is waited for", exclusive_order },
	{ "COMPARE AND WRITE on two workers", exclusive_race },
	{ "COMPARE AND WRITE on two workers, files", exclusive_race_on_files },
	{ "medium: changes", dvd_changes },
	{ "medium: tray", dvd_tray },
	{ "medium: none", dvd_empty },
	{ "medium: eject waits", dvd_eject_waits },
};

int main(void)
{
	int failed = 0;

	failed += ROWS_RUN(geometry_rows, geometry);
	failed += ROWS_RUN(single_rows, rows_single);
	return failed;
}
