/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Locks that exclude QEMU's tools and ourselves, see vhd-formats.md section 8. Nobody ever holds an exclusive
 * lock: a holder says by shared locks what it does (byte 100 + i) and what it does not tolerate in others
 * (byte 200 + i), then looks whether that fits with what others said. They belong to the open file description, so
 * they go when the store is closed, and a second open of the same file in this process is "another".
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/seed.h"
#include "vhd/store_int.h"

#define USES	 100	/* + permission */
#define FORBIDS	 200

#define GHOST_NAP_MS 10
#define GHOST_MAX_MS 1000

enum { PERM_READ = 0, PERM_WRITE = 1, PERM_RESIZE = 3 };

/* The exact bytes of QEMU 7.2 ("qemu-io -r" and "qemu-io"). Writing without visible change (2) nobody minds. */
static const uint8_t reader_holds[] = { USES + PERM_READ, FORBIDS + PERM_WRITE, FORBIDS + PERM_RESIZE };
static const uint8_t writer_holds[] = { USES + PERM_READ, USES + PERM_WRITE, USES + PERM_RESIZE,
					FORBIDS + PERM_WRITE, FORBIDS + PERM_RESIZE };

struct holder {
	char program[64];
	long pid;
	bool writes;
};

static int ofd_lock(int fd, int cmd, short type, off_t byte, struct flock *ret_lock)
{
	struct flock fl = { .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
	int r;

	do
		r = fcntl(fd, cmd, &fl);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return -errno;
	if (ret_lock)
		*ret_lock = fl;
	return 0;
}

/* Byte that somebody else's locks must leave free if we hold @mine. */
static off_t opposite(uint8_t mine)
{
	return mine >= FORBIDS ? mine - FORBIDS + USES : mine - USES + FORBIDS;
}

/* ---- who is it? ----------------------------------------------------------------------------------- */

/* "lock:	1: OFDLCK  ADVISORY  READ -1 08:01:1234 100 100" in a descriptor's fdinfo. */
static bool line_locks(const char *line, const struct stat *st, off_t *ret_first, off_t *ret_last)
{
	unsigned long long ino;
	unsigned maj, min;
	long long first;
	char last[32];

	if (strncmp(line, "lock:", 5) != 0 ||
	    sscanf(line, "lock:\t%*d: %*s %*s %*s %*d %x:%x:%llu %lld %31s", &maj, &min, &ino, &first, last) != 5)
		return false;
	if (ino != st->st_ino || maj != major(st->st_dev) || min != minor(st->st_dev))
		return false;
	*ret_first = first;
	*ret_last = strcmp(last, "EOF") == 0 ? INT64_MAX : strtoll(last, NULL, 10);
	return true;
}

/* Does this descriptor hold a lock on @byte of the file? *ret_writes: also on the byte of writers. */
static bool fdinfo_holds(int dirfd, const char *entry, const struct stat *st, off_t byte, bool *ret_writes)
{
	int fd = openat(dirfd, entry, O_RDONLY | O_CLOEXEC);
	FILE *f = fd >= 0 ? fdopen(fd, "r") : NULL;
	bool holds = false;
	char line[256];
	off_t first, last;

	if (!f) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	*ret_writes = false;
	while (fgets(line, sizeof(line), f)) {
		if (!line_locks(line, st, &first, &last))
			continue;
		holds |= first <= byte && byte <= last;
		*ret_writes |= first <= USES + PERM_WRITE && USES + PERM_WRITE <= last;
	}
	fclose(f);
	return holds;
}

static bool process_holds(const char *pid, int own_fd, const struct stat *st, off_t byte, bool *ret_writes)
{
	bool self = strtol(pid, NULL, 10) == (long)getpid(), holds = false;
	struct dirent *e;
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%.20s/fdinfo", pid);
	dir = opendir(path);
	if (!dir)
		return false;	/* not ours to look into */
	while (!holds && (e = readdir(dir))) {
		if (e->d_name[0] == '.' || (self && strtol(e->d_name, NULL, 10) == own_fd))
			continue;
		holds = fdinfo_holds(dirfd(dir), e->d_name, st, byte, ret_writes);
	}
	closedir(dir);
	return holds;
}

static void program_name(const char *pid, char *ret_name, size_t size)
{
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%.20s/comm", pid);
	f = fopen(path, "re");
	if (!f || !fgets(ret_name, (int)size, f))
		snprintf(ret_name, size, "a program");
	ret_name[strcspn(ret_name, "\n")] = '\0';
	if (f)
		fclose(f);
}

/* F_OFD_GETLK does not name the owner, so look who has a descriptor with such a lock. */
static bool find_holder(int fd, off_t byte, struct holder *ret_holder)
{
	DIR *proc = opendir("/proc");
	bool found = false;
	struct dirent *e;
	struct stat st;

	if (!proc)
		return false;
	while (fstat(fd, &st) == 0 && !found && (e = readdir(proc))) {
		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		found = process_holds(e->d_name, fd, &st, byte, &ret_holder->writes);
		if (!found)
			continue;
		ret_holder->pid = strtol(e->d_name, NULL, 10);
		program_name(e->d_name, ret_holder->program, sizeof(ret_holder->program));
	}
	closedir(proc);
	return found;
}

/* @h: pid 0 when nobody could be found. */
static int say_busy(off_t byte, bool writer, const char *name, const struct holder *h, struct sp_err *err)
{
	const char *remedy = writer ? "close it there first (-U opens it for looking only)" :
				      "close it there first, or use -U to look at it anyway";
	bool for_writing = byte == USES + PERM_WRITE || byte == USES + PERM_RESIZE;

	if (h->pid == 0)
		return sp_err_set(err, -EBUSY, "%s is open%s in another program; %s", name,
				  for_writing ? " for writing" : "", remedy);
	return sp_err_set(err, -EBUSY, "%s is open%s in %s (pid %ld); %s", name,
			  for_writing || h->writes ? " for writing" : "", h->program, h->pid, remedy);
}

/* ---- taking --------------------------------------------------------------------------------------- */

static void drop_all(int fd, const uint8_t *hold, size_t count)
{
	for (size_t i = 0; i < count; i++)
		ofd_lock(fd, F_OFD_SETLK, F_UNLCK, hold[i], NULL);
}

/* All locks, then the test. *ret_byte: where somebody stood in the way. Nothing is held on failure. */
static int try_take(int fd, const uint8_t *hold, size_t count, off_t *ret_byte)
{
	struct flock other = { .l_type = F_UNLCK };
	int r = 0;

	for (size_t i = 0; i < count && r == 0; i++)
		r = ofd_lock(fd, F_OFD_SETLK, F_RDLCK, *ret_byte = hold[i], NULL);
	/* Look only after all of ours stand: of two that come at once, at least one sees the other. */
	for (size_t i = 0; i < count && r == 0 && !SP_SEED_BUG(LOCK_NOT_TESTED); i++) {
		r = ofd_lock(fd, F_OFD_GETLK, F_WRLCK, *ret_byte = opposite(hold[i]), &other);
		if (r == 0 && other.l_type != F_UNLCK)
			r = -EBUSY;
	}
	if (r < 0)
		drop_all(fd, hold, count);
	return r == -EAGAIN || r == -EACCES ? -EBUSY : r;
}

/*
 * A process that was killed lives on for some milliseconds as an io_uring that the kernel has yet to take apart, with
 * the file registered in it: a lock without a process. That one is waited for.
 */
int store_lock_take(int fd, bool writer, const char *name, struct sp_err *err)
{
	const uint8_t *hold = writer ? writer_holds : reader_holds;
	size_t count = writer ? sizeof(writer_holds) : sizeof(reader_holds);
	const struct timespec nap = { .tv_nsec = GHOST_NAP_MS * 1000000 };
	struct holder h = { 0 };
	off_t byte = 0;
	int r;

	for (unsigned ms = 0; (r = try_take(fd, hold, count, &byte)) == -EBUSY; ms += GHOST_NAP_MS) {
		if (ms >= GHOST_MAX_MS || find_holder(fd, byte, &h))
			return say_busy(byte, writer, name, &h, err);
		nanosleep(&nap, NULL);
	}
	if (r < 0)
		sp_err_set(err, r, "%s: cannot lock the file: %s; -U does without locks", name, strerror(-r));
	return r;
}

void store_lock_drop(int fd)
{
	struct flock fl = { .l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = USES, .l_len = FORBIDS + 100 - USES };

	(void)fcntl(fd, F_OFD_SETLK, &fl);	/* closing does it too, but a ring may keep the file open for a while */
}
