/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Holds a SQLite database still while a snapshot is taken (docs/vss-protocol.md):
 *
 *	sqlite-writer SOCKET DATABASE
 *	spindle-vm snapshot create --writer=SOCKET --require=application MACHINE SNAPSHOT
 *
 * A connection of its own begins a write transaction and writes nothing: every other writer waits in its busy handler,
 * readers go on, and what lies in the file opens without recovery. With a write-ahead log, that is moved into the
 * database before. The end of this program, whatever it is, ends the transaction.
 */
#include <errno.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "docs/examples/sqlite_writer.h"
#include "vss/writer.h"

#define POLL_US 500

struct sqlite_writer {
	sqlite3 *db;
	int64_t patience_us;		/* of the freeze that is under way */
};

/* Others are quick, and so must we be: SQLite's own handler sleeps for longer and longer. */
static int on_busy(void *ctx, int times)
{
	struct sqlite_writer *w = ctx;

	if (w->patience_us <= 0)
		return 0;
	usleep(POLL_US);
	w->patience_us -= POLL_US;
	return 1;
}

static int run(struct sqlite_writer *w, const char *sql)
{
	return sqlite3_exec(w->db, sql, NULL, NULL, NULL);
}

/* 0 without a write-ahead log, too. */
static sqlite3_int64 wal_size(struct sqlite_writer *w)
{
	sqlite3_file *wal = NULL;
	sqlite3_int64 size = 0;

	sqlite3_file_control(w->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &wal);
	if (!wal || !wal->pMethods)
		return 0;
	return wal->pMethods->xFileSize(wal, &size) == SQLITE_OK ? size : 0;
}

/* A checkpoint is not possible inside of a transaction, so somebody may have written between the two: once more. */
static int freeze(void *ctx, unsigned window_ms, const char **ret_why)
{
	struct sqlite_writer *w = ctx;
	int r;

	w->patience_us = (int64_t)window_ms * 1000 / 2;
	do {
		r = sqlite3_wal_checkpoint_v2(w->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
		if (r == SQLITE_OK)
			r = run(w, "BEGIN IMMEDIATE");
		if (r != SQLITE_OK || wal_size(w) == 0)
			break;
		run(w, "ROLLBACK");
		r = SQLITE_BUSY;
	} while (w->patience_us > 0);
	if (r == SQLITE_OK)
		return 0;
	*ret_why = sqlite3_errmsg(w->db);
	return -EBUSY;
}

static void thaw(void *ctx)
{
	struct sqlite_writer *w = ctx;

	if (!sqlite3_get_autocommit(w->db))
		run(w, "ROLLBACK");
}

/* Reads the file's header: a database that cannot be opened cannot be frozen. */
static int check(void *ctx, const char *snapshot, const char **ret_why)
{
	struct sqlite_writer *w = ctx;

	w->patience_us = 1000000;
	if (run(w, "PRAGMA schema_version") == SQLITE_OK)
		return 0;
	*ret_why = sqlite3_errmsg(w->db);
	return -EIO;
}

static const struct vss_host_ops ops = { .check = check, .freeze = freeze, .thaw = thaw };

int sqlite_writer_run(const char *socket, const char *database, const char *vfs, int stop_fd)
{
	struct sqlite_writer w = { 0 };
	struct sp_err err = { 0 };
	struct vss_host *host = NULL;
	int r = sqlite3_open_v2(database, &w.db, SQLITE_OPEN_READWRITE, vfs);

	if (r == SQLITE_OK) {
		sqlite3_busy_handler(w.db, on_busy, &w);
		r = vss_host_new(socket, "sqlite", VSS_APPLICATION, &ops, &w, &host, &err);
		if (r < 0)
			fprintf(stderr, "sqlite-writer: %s\n", sp_err_text(&err));
		else
			r = vss_host_run(host, stop_fd);
		vss_host_free(host);
	} else {
		fprintf(stderr, "sqlite-writer: %s: %s\n", database, sqlite3_errmsg(w.db));
		r = -EIO;
	}
	sqlite3_close(w.db);
	return r;
}

#ifndef SQLITE_WRITER_NO_MAIN
int main(int argc, char **argv)
{
	sigset_t stop;

	if (argc != 3) {
		fprintf(stderr, "usage: sqlite-writer SOCKET DATABASE\n");
		return 2;
	}
	sigemptyset(&stop);
	sigaddset(&stop, SIGINT);
	sigaddset(&stop, SIGTERM);
	sigprocmask(SIG_BLOCK, &stop, NULL);
	return sqlite_writer_run(argv[1], argv[2], NULL, signalfd(-1, &stop, SFD_CLOEXEC)) < 0;
}
#endif
