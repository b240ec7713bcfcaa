/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/database/disk_vfs.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

#define REGION	  SP_MIB(14)
#define SECTOR	  4096u
#define CONNECTIONS_MAX 16u

enum { DATABASE, JOURNAL, FILES };

/* The first sector of the disk. */
struct lengths { struct { le64_t length; uint8_t exists; } file[FILES]; };

struct disk_vfs {
	sqlite3_vfs vfs;
	char name[32];
	struct vhd_disk *disk;
	pthread_mutex_t lock;
	struct lengths lengths;
	struct disk_file *database[CONNECTIONS_MAX];	/* open ones, for their locks */
};

struct disk_file {
	sqlite3_file base;
	struct disk_vfs *of;
	unsigned which;
	int level;			/* SQLITE_LOCK_* */
};

/* ---- the disk: bytes, where it has sectors ----------------------------------------------------------- */

static int write_lengths(struct disk_vfs *v)
{
	uint8_t sector[SECTOR] = { 0 };

	memcpy(sector, &v->lengths, sizeof(v->lengths));
	return vhd_disk_write(v->disk, sector, SECTOR, 0);
}

static uint64_t place(const struct disk_file *f, uint64_t offset)
{
	return SP_MIB(1) + f->which * REGION + offset;
}

static uint64_t length(const struct disk_file *f)
{
	return le64_get(f->of->lengths.file[f->which].length);
}

static int set_length(struct disk_file *f, uint64_t to)
{
	f->of->lengths.file[f->which].length = le64_make(to);
	f->of->lengths.file[f->which].exists = 1;
	return write_lengths(f->of);
}

/* Sectors around [offset, +len): the first one's place, and how many bytes. */
static uint64_t around(const struct disk_file *f, sqlite3_int64 offset, int len, size_t *ret_len)
{
	uint64_t first = place(f, (uint64_t)offset) & ~(uint64_t)(SECTOR - 1);
	uint64_t end = place(f, (uint64_t)offset + (uint64_t)len);

	*ret_len = (size_t)((end - first + SECTOR - 1) & ~(uint64_t)(SECTOR - 1));
	return first;
}

static int transfer(struct disk_file *f, void *out, const void *in, int len, sqlite3_int64 offset)
{
	size_t room;
	uint64_t first = around(f, offset, len, &room), in_it = place(f, (uint64_t)offset) - first;
	uint8_t *buf = malloc(room);
	int r = vhd_disk_read(f->of->disk, buf, room, first);

	if (out) {
		memcpy(out, buf + in_it, (size_t)len);
	} else {
		memcpy(buf + in_it, in, (size_t)len);
		r = r < 0 ? r : vhd_disk_write(f->of->disk, buf, room, first);
	}
	free(buf);
	return r;
}

/* ---- a file ------------------------------------------------------------------------------------------ */

static struct disk_file *file_of(sqlite3_file *base)
{
	return (struct disk_file *)base;
}

static int file_close(sqlite3_file *base)
{
	struct disk_file *f = file_of(base);

	pthread_mutex_lock(&f->of->lock);
	for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
		if (f->of->database[i] == f)
			f->of->database[i] = NULL;
	pthread_mutex_unlock(&f->of->lock);
	return SQLITE_OK;
}

static int file_read(sqlite3_file *base, void *buf, int len, sqlite3_int64 offset)
{
	struct disk_file *f = file_of(base);
	int r = SQLITE_OK;

	pthread_mutex_lock(&f->of->lock);
	if (transfer(f, buf, NULL, len, offset) < 0) {
		r = SQLITE_IOERR_READ;
	} else if ((uint64_t)offset + (uint64_t)len > length(f)) {
		uint64_t valid = length(f) > (uint64_t)offset ? length(f) - (uint64_t)offset : 0;

		memset((uint8_t *)buf + valid, 0, (size_t)len - valid);
		r = SQLITE_IOERR_SHORT_READ;
	}
	pthread_mutex_unlock(&f->of->lock);
	return r;
}

static int file_write(sqlite3_file *base, const void *buf, int len, sqlite3_int64 offset)
{
	struct disk_file *f = file_of(base);
	uint64_t end = (uint64_t)offset + (uint64_t)len;
	int r;

	if (end > REGION)
		return SQLITE_FULL;
	pthread_mutex_lock(&f->of->lock);
	r = transfer(f, NULL, buf, len, offset);
	if (r == 0 && end > length(f))
		r = set_length(f, end);
	pthread_mutex_unlock(&f->of->lock);
	return r < 0 ? SQLITE_IOERR_WRITE : SQLITE_OK;
}

static int file_truncate(sqlite3_file *base, sqlite3_int64 size)
{
	struct disk_file *f = file_of(base);
	int r;

	pthread_mutex_lock(&f->of->lock);
	r = set_length(f, (uint64_t)size);
	pthread_mutex_unlock(&f->of->lock);
	return r < 0 ? SQLITE_IOERR_TRUNCATE : SQLITE_OK;
}

static int file_sync(sqlite3_file *base, int flags)
{
	return vhd_disk_flush(file_of(base)->of->disk) < 0 ? SQLITE_IOERR_FSYNC : SQLITE_OK;
}

static int file_size(sqlite3_file *base, sqlite3_int64 *ret_size)
{
	struct disk_file *f = file_of(base);

	pthread_mutex_lock(&f->of->lock);
	*ret_size = (sqlite3_int64)length(f);
	pthread_mutex_unlock(&f->of->lock);
	return SQLITE_OK;
}

/* The highest level of all others; *ret_any: one of them reads. */
static int others(const struct disk_file *f, bool *ret_any)
{
	int highest = SQLITE_LOCK_NONE;

	*ret_any = false;
	for (unsigned i = 0; i < CONNECTIONS_MAX; i++) {
		const struct disk_file *o = f->of->database[i];

		if (!o || o == f)
			continue;
		*ret_any = *ret_any || o->level >= SQLITE_LOCK_SHARED;
		highest = o->level > highest ? o->level : highest;
	}
	return highest;
}

static int file_lock(sqlite3_file *base, int level)
{
	struct disk_file *f = file_of(base);
	int r = SQLITE_OK, highest;
	bool any;

	pthread_mutex_lock(&f->of->lock);
	highest = others(f, &any);
	if (level == SQLITE_LOCK_SHARED)
		r = highest >= SQLITE_LOCK_PENDING ? SQLITE_BUSY : SQLITE_OK;
	else if (highest >= SQLITE_LOCK_RESERVED)
		r = SQLITE_BUSY;
	else if (level == SQLITE_LOCK_EXCLUSIVE && any) {
		f->level = SQLITE_LOCK_PENDING;
		r = SQLITE_BUSY;
	}
	if (r == SQLITE_OK && f->level < level)
		f->level = level;
	pthread_mutex_unlock(&f->of->lock);
	return r;
}

static int file_unlock(sqlite3_file *base, int level)
{
	struct disk_file *f = file_of(base);

	pthread_mutex_lock(&f->of->lock);
	f->level = level;
	pthread_mutex_unlock(&f->of->lock);
	return SQLITE_OK;
}

static int file_check_reserved(sqlite3_file *base, int *ret)
{
	struct disk_file *f = file_of(base);
	bool any;

	pthread_mutex_lock(&f->of->lock);
	*ret = others(f, &any) >= SQLITE_LOCK_RESERVED || f->level >= SQLITE_LOCK_RESERVED;
	pthread_mutex_unlock(&f->of->lock);
	return SQLITE_OK;
}

static int file_control(sqlite3_file *base, int op, void *arg)
{
	return SQLITE_NOTFOUND;
}

static int file_sector(sqlite3_file *base)
{
	return (int)SECTOR;
}

static int file_characteristics(sqlite3_file *base)
{
	return 0;
}

static const sqlite3_io_methods methods = {
	1, file_close, file_read, file_write, file_truncate, file_sync, file_size, file_lock, file_unlock,
	file_check_reserved, file_control, file_sector, file_characteristics,
	NULL, NULL, NULL, NULL, NULL, NULL,
};

/* ---- the VFS ----------------------------------------------------------------------------------------- */

static unsigned which_of(const char *name)
{
	size_t len = strlen(name);

	return len > 8 && strcmp(name + len - 8, "-journal") == 0 ? JOURNAL : DATABASE;
}

static int vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *base, int flags, int *ret_flags)
{
	struct disk_vfs *v = vfs->pAppData;
	struct disk_file *f = file_of(base);
	int r = name ? SQLITE_OK : SQLITE_CANTOPEN;	/* no temporary files */

	memset(f, 0, sizeof(*f));
	if (r != SQLITE_OK)
		return r;
	f->of = v;
	f->which = which_of(name);
	pthread_mutex_lock(&v->lock);
	if (flags & SQLITE_OPEN_CREATE && !v->lengths.file[f->which].exists)
		r = set_length(f, 0) < 0 ? SQLITE_IOERR : SQLITE_OK;
	for (unsigned i = 0; f->which == DATABASE && i < CONNECTIONS_MAX; i++)
		if (!v->database[i]) {
			v->database[i] = f;
			break;
		}
	pthread_mutex_unlock(&v->lock);
	if (r == SQLITE_OK)
		f->base.pMethods = &methods;
	if (ret_flags)
		*ret_flags = flags;
	return r;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync)
{
	struct disk_vfs *v = vfs->pAppData;
	int r;

	pthread_mutex_lock(&v->lock);
	memset(&v->lengths.file[which_of(name)], 0, sizeof(v->lengths.file[0]));
	r = write_lengths(v);
	if (r == 0)
		r = vhd_disk_flush(v->disk);
	pthread_mutex_unlock(&v->lock);
	return r < 0 ? SQLITE_IOERR_DELETE : SQLITE_OK;
}

static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *ret)
{
	struct disk_vfs *v = vfs->pAppData;
	size_t len = strlen(name);

	pthread_mutex_lock(&v->lock);
	*ret = (len < 4 || strcmp(name + len - 4, "-wal")) && v->lengths.file[which_of(name)].exists;
	pthread_mutex_unlock(&v->lock);
	return SQLITE_OK;
}

static int vfs_full_pathname(sqlite3_vfs *vfs, const char *name, int room, char *ret)
{
	return snprintf(ret, (size_t)room, "%s", name) < room ? SQLITE_OK : SQLITE_CANTOPEN;
}

static int vfs_randomness(sqlite3_vfs *vfs, int len, char *ret)
{
	sqlite3_vfs *host = sqlite3_vfs_find(NULL);

	return host->xRandomness(host, len, ret);
}

static int vfs_sleep(sqlite3_vfs *vfs, int us)
{
	sqlite3_vfs *host = sqlite3_vfs_find(NULL);

	return host->xSleep(host, us);
}

static int vfs_time(sqlite3_vfs *vfs, double *ret)
{
	sqlite3_vfs *host = sqlite3_vfs_find(NULL);

	return host->xCurrentTime(host, ret);
}

static int read_lengths(struct vhd_disk *d, struct lengths *ret)
{
	uint8_t sector[SECTOR];
	int r = vhd_disk_read(d, sector, SECTOR, 0);

	memcpy(ret, sector, sizeof(*ret));
	return r;
}

void disk_vfs_add(const char *name, struct vhd_disk *d)
{
	struct disk_vfs *v = calloc(1, sizeof(*v));

	snprintf(v->name, sizeof(v->name), "%s", name);
	v->disk = d;
	pthread_mutex_init(&v->lock, NULL);
	if (read_lengths(d, &v->lengths) < 0)
		abort();
	v->vfs = (sqlite3_vfs){
		.iVersion = 1, .szOsFile = sizeof(struct disk_file), .mxPathname = 256, .zName = v->name, .pAppData = v,
		.xOpen = vfs_open, .xDelete = vfs_delete, .xAccess = vfs_access, .xFullPathname = vfs_full_pathname,
		.xRandomness = vfs_randomness, .xSleep = vfs_sleep, .xCurrentTime = vfs_time,
	};
	sqlite3_vfs_register(&v->vfs, 0);
}

void disk_vfs_remove(const char *name)
{
	sqlite3_vfs *vfs = sqlite3_vfs_find(name);
	struct disk_vfs *v = vfs->pAppData;

	sqlite3_vfs_unregister(vfs);
	pthread_mutex_destroy(&v->lock);
	free(v);
}

bool disk_vfs_journal(struct vhd_disk *d)
{
	struct lengths l;

	if (read_lengths(d, &l) < 0)
		abort();
	return l.file[JOURNAL].exists;
}
