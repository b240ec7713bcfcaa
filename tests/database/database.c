/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A SQLite database in a chain, written by several threads, and snapshots of its disk: with its writer every copy opens
 * without recovery; without, some have a journal to be rolled back. Money moves between accounts, so what a copy holds
 * must add up.
 *
 * usage: database FOLDER SNAPSHOTS
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/env.h"
#include "docs/examples/sqlite_writer.h"
#include "tests/database/disk_vfs.h"
#include "vhd/live.h"
#include "vhd/ops.h"
#include "vss/vss.h"
#include "vss/wire.h"

#define THREADS	 3
#define ACCOUNTS 50
#define EACH	 1000

#define NEED(what) do { \
	if (!(what)) { \
		fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what); \
		exit(1); \
	} \
} while (0)

/* ---- load -------------------------------------------------------------------------------------------- */

static atomic_bool stop;
static _Atomic unsigned long transfers;

static sqlite3 *open_database(const char *vfs, int flags)
{
	sqlite3 *db;

	NEED(sqlite3_open_v2("bank", &db, flags, vfs) == SQLITE_OK);
	sqlite3_busy_timeout(db, 30000);
	return db;
}

static void run(sqlite3 *db, const char *sql)
{
	char *error = NULL;

	if (sqlite3_exec(db, sql, NULL, NULL, &error) != SQLITE_OK) {
		fprintf(stderr, "%s: %s\n", sql, error);
		exit(1);
	}
}

static long long number(sqlite3 *db, const char *sql)
{
	sqlite3_stmt *s;
	long long n;

	NEED(sqlite3_prepare_v2(db, sql, -1, &s, NULL) == SQLITE_OK);
	if (sqlite3_step(s) != SQLITE_ROW) {
		fprintf(stderr, "%s: %s\n", sql, sqlite3_errmsg(db));
		exit(1);
	}
	n = sqlite3_column_int64(s, 0);
	sqlite3_finalize(s);
	return n;
}

static void make_database(void)
{
	sqlite3 *db = open_database("disk", SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);

	run(db, "PRAGMA journal_mode=DELETE; CREATE TABLE account(id INTEGER PRIMARY KEY, money INTEGER, text TEXT);"
		"CREATE TABLE log(id INTEGER PRIMARY KEY, text TEXT); CREATE TABLE total(n INTEGER);"
		"INSERT INTO total VALUES(0)");
	for (unsigned i = 0; i < ACCOUNTS; i++)
		run(db, "INSERT INTO account(money, text) VALUES(1000, hex(randomblob(200)))");
	sqlite3_close(db);
}

static void *work(void *arg)
{
	sqlite3 *db = open_database("disk", SQLITE_OPEN_READWRITE);
	unsigned seed = 7919 * (unsigned)(uintptr_t)arg;

	run(db, "PRAGMA temp_store=MEMORY");
	while (!atomic_load(&stop)) {
		char sql[512];
		unsigned a = (unsigned)rand_r(&seed) % ACCOUNTS + 1, b = (unsigned)rand_r(&seed) % ACCOUNTS + 1;

		snprintf(sql, sizeof(sql), "BEGIN IMMEDIATE; UPDATE account SET money = money - 7 WHERE id = %u;"
			 "UPDATE account SET money = money + 7 WHERE id = %u; UPDATE total SET n = n + 1;"
			 "INSERT INTO log(text) VALUES(hex(randomblob(60))); COMMIT", a, b);
		run(db, sql);
		atomic_fetch_add(&transfers, 1);
		usleep(500);
	}
	sqlite3_close(db);
	return NULL;
}

/* ---- the writer, behind its socket -------------------------------------------------------------------- */

static char socket_path[100];
static int stop_fd;

static void *writer(void *arg)
{
	NEED(sqlite_writer_run(socket_path, "bank", "disk", stop_fd) == 0);
	return NULL;
}

struct host { struct vss_set *set; int who, fd; };

static int connect_writer(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct vss_wire m;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", socket_path);
	for (unsigned i = 0; connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0; i++) {
		NEED(i < 500);
		usleep(10000);
	}
	NEED(recv(fd, &m, sizeof(m), 0) == sizeof(m) && vss_wire_check(&m, sizeof(m)) == 0);
	NEED(le16_get(m.type) == VSS_WIRE_HELLO && strcmp(m.text, "sqlite") == 0);
	return fd;
}

static void ask(struct host *h, enum vss_op op, enum vss_wire_type type, enum vss_wire_type want, unsigned value)
{
	struct vss_wire m;
	bool good;

	vss_wire_make(&m, type, 1, value, NULL);
	NEED(send(h->fd, &m, sizeof(m), 0) == sizeof(m));
	NEED(recv(h->fd, &m, sizeof(m), 0) == sizeof(m) && vss_wire_check(&m, sizeof(m)) == 0);
	good = le16_get(m.type) == want && le32_get(m.value) == 0;
	if (!good)
		fprintf(stderr, "the writer: %s\n", m.text);
	vss_answer(h->set, h->who, op, good ? 0 : -EIO, VSS_REASON_NONE, sp_env_monotonic_ns());
}

static void host_check(void *ctx)
{
	ask(ctx, VSS_OP_CHECK, VSS_WIRE_CHECK, VSS_WIRE_READY, 0);
}

static void host_freeze(void *ctx, unsigned window_ms)
{
	ask(ctx, VSS_OP_FREEZE, VSS_WIRE_FREEZE, VSS_WIRE_FROZEN, window_ms);
}

static void host_thaw(void *ctx)
{
	ask(ctx, VSS_OP_THAW, VSS_WIRE_THAW, VSS_WIRE_THAWED, 0);
}

static void host_complete(void *ctx, bool good)
{
}

static const struct vss_writer_ops host_ops = { host_check, host_freeze, host_thaw, host_complete };

/* ---- the provider: the live engine --------------------------------------------------------------------- */

struct provider {
	struct vss_set *set;
	struct vhd_disk *disk;
	const char *name;
	struct vhd_live_set *live;
};

static void did(struct provider *p, enum vss_op op, int res)
{
	vss_answer(p->set, VSS_PROVIDER, op, res, VSS_REASON_NONE, sp_env_monotonic_ns());
}

static void prepare(void *ctx)
{
	struct provider *p = ctx;
	const struct vhd_live_opts o = { .name = p->name };

	did(p, VSS_OP_PREPARE, vhd_live_prepare(&p->disk, 1, &o, &p->live, NULL));
}

static void commit(void *ctx)
{
	struct provider *p = ctx;

	did(p, VSS_OP_COMMIT, vhd_live_commit(p->live, false, NULL, NULL));
}

static void finish(void *ctx, enum vss_level level)
{
	struct provider *p = ctx;

	did(p, VSS_OP_FINISH, vhd_live_finish(p->live, vss_level_name(level), NULL));
}

static void take_back(void *ctx)
{
	struct provider *p = ctx;

	vhd_live_abort(p->live);
	did(p, VSS_OP_ABORT, 0);
}

/* ---- snapshots ---------------------------------------------------------------------------------------- */

static void snapshot(struct vhd_disk *disk, const char *name, int writer_fd)
{
	struct provider p = { .disk = disk, .name = name };
	const struct vss_provider ops = { prepare, commit, finish, take_back, &p };
	const struct vss_opts opts = { .require = writer_fd >= 0 ? VSS_APPLICATION : VSS_CRASH };
	struct host host = { .fd = writer_fd };
	const struct vss_writer w = { .name = "sqlite", .grants = VSS_APPLICATION, .ops = &host_ops, .ctx = &host };
	struct vss_result result;

	NEED(vss_set_new(&opts, &ops, &p.set) == 0);
	host.set = p.set;
	if (writer_fd >= 0)
		host.who = vss_add_writer(p.set, &w);
	vss_start(p.set, sp_env_monotonic_ns());
	vss_result(p.set, &result);
	if (vss_state(p.set) != VSS_DONE)
		fprintf(stderr, "%s: %s\n", name, vss_reason_name(result.reason));
	NEED(vss_state(p.set) == VSS_DONE && result.level == opts.require);
	vss_set_free(p.set);
}

static void verify(struct vhd_disk *copy)
{
	sqlite3 *db;
	sqlite3_stmt *s;

	disk_vfs_add("copy", copy);
	db = open_database("copy", SQLITE_OPEN_READONLY);
	NEED(sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &s, NULL) == SQLITE_OK);
	NEED(sqlite3_step(s) == SQLITE_ROW && strcmp((const char *)sqlite3_column_text(s, 0), "ok") == 0);
	sqlite3_finalize(s);
	NEED(number(db, "SELECT sum(money) FROM account") == ACCOUNTS * EACH);
	NEED(number(db, "SELECT count(*) FROM log") == number(db, "SELECT n FROM total"));
	NEED(sqlite3_close(db) == SQLITE_OK);
	disk_vfs_remove("copy");
}

/* Of its own chain, read-only: has it a journal? */
static bool look(const char *folder, const char *name, bool must_be_clean)
{
	struct vhd_disk *copy;
	char path[4096];
	bool journal;

	snprintf(path, sizeof(path), "%s/bank.%s.vhdx", folder, name);
	NEED(vhd_disk_open(path, NULL, &copy, NULL) == 0);
	journal = disk_vfs_journal(copy);
	if (journal && must_be_clean)
		fprintf(stderr, "%s has a journal\n", name);
	NEED(!(journal && must_be_clean));
	if (!journal)
		verify(copy);
	vhd_disk_close(copy, NULL);
	return journal;
}

static unsigned many(const char *folder, struct vhd_disk *disk, unsigned count, int writer_fd)
{
	unsigned hot = 0;

	for (unsigned i = 0; i < count; i++) {
		unsigned long before = atomic_load(&transfers);
		char name[32];

		snprintf(name, sizeof(name), "%s%02u", writer_fd >= 0 ? "s" : "c", i);
		snapshot(disk, name, writer_fd);
		hot += look(folder, name, writer_fd >= 0);
		while (atomic_load(&transfers) < before + 3)
			usleep(1000);
	}
	return hot;
}

static struct vhd_disk *make_disk(const char *folder)
{
	const struct vhd_create_opts create = { .size = DISK_VFS_SIZE, .format = VHD_FORMAT_VHDX };
	const struct vhd_open_opts open = { .flags = VHD_OPEN_WRITE };
	struct vhd_disk *disk;
	char path[4096];

	snprintf(path, sizeof(path), "%s/bank.vhdx", folder);
	NEED(vhd_create(path, &create, NULL) == 0);
	NEED(vhd_disk_open(path, &open, &disk, NULL) == 0);
	return disk;
}

int main(int argc, char **argv)
{
	unsigned count = argc == 3 ? (unsigned)atoi(argv[2]) : 0, hot;
	struct vhd_disk *disk;
	pthread_t load[THREADS], host;
	uint64_t one = 1;
	int fd;

	NEED(count);
	disk = make_disk(argv[1]);
	snprintf(socket_path, sizeof(socket_path), "%s/writer.sock", argv[1]);
	stop_fd = eventfd(0, EFD_CLOEXEC);
	disk_vfs_add("disk", disk);
	make_database();
	NEED(pthread_create(&host, NULL, writer, NULL) == 0);
	for (uintptr_t i = 0; i < THREADS; i++)
		NEED(pthread_create(&load[i], NULL, work, (void *)(i + 1)) == 0);
	fd = connect_writer();
	NEED(many(argv[1], disk, count, fd) == 0);
	hot = many(argv[1], disk, count / 2, -1);
	close(fd);
	NEED(write(stop_fd, &one, sizeof(one)) == sizeof(one));
	pthread_join(host, NULL);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(load[i], NULL);
	verify(disk);
	disk_vfs_remove("disk");
	NEED(vhd_disk_close(disk, NULL) == 0);
	printf("%u copies with the writer, all clean; of %u without it, %u have a hot journal; %lu transfers\n", count,
	       count / 2, hot, atomic_load(&transfers));
	NEED(hot > 0);		/* else this would find nothing */
	return 0;
}
