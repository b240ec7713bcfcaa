/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/support/store_log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "tests/support/store_log_int.h"
#include "vhd/store_mem_int.h"

struct store_logged {
	struct store base;
	struct store *inner;
	struct store_log *log;
	unsigned file;
};

struct folder_logged {
	struct store_folder base;
	struct store_folder *inner;
	struct store_log log;
};

void *log_alloc(void *old, size_t size)
{
	void *p = realloc(old, size ? size : 1);

	if (!p)
		abort();
	return p;
}

char *log_strdup(const char *s)
{
	return strcpy(log_alloc(NULL, strlen(s) + 1), s);
}

/* ---- recording; the log's lock is held ------------------------------------------------------------ */

/* The event has begun. Returns its index: pointers do not survive the next one. */
static size_t begin(struct store_log *log, enum log_kind kind, unsigned file, uint64_t offset, uint64_t len)
{
	if (log->events == log->event_room) {
		log->event_room = log->event_room ? 2 * log->event_room : 256;
		log->event = log_alloc(log->event, log->event_room * sizeof(*log->event));
	}
	log->event[log->events] = (struct log_event){
		.kind = kind, .file = file, .offset = offset, .len = len, .begin = ++log->seq, .end = LOG_NEVER,
		.durable_at = LOG_NEVER,
	};
	log->name_events += log_is_name_event(kind);
	return log->events++;
}

static int finish(struct store_log *log, size_t index, int r)
{
	log->event[index].end = ++log->seq;
	log->event[index].failed = r < 0;
	return r;
}

static bool waits_for_sync(const struct log_event *e, unsigned file)
{
	return e->kind <= LOG_RESIZE && e->file == file && e->durable_at == LOG_NEVER;
}

/* A sync of a file has completed: everything on it that had completed when the sync began is durable now. */
static void settle_file(struct store_log *log, size_t sync)
{
	struct log_file *f = &log->file[log->event[sync].file];
	size_t first = sync;

	for (size_t i = f->first_pending; i < log->events; i++) {
		struct log_event *e = &log->event[i];

		if (!waits_for_sync(e, log->event[sync].file))
			continue;
		if (e->end < log->event[sync].begin)
			e->durable_at = log->event[sync].end;
		else if (i < first)
			first = i;
	}
	f->first_pending = first;
}

static size_t dir_len(const char *name)
{
	const char *slash = strrchr(name, '/');

	return slash ? (size_t)(slash - name) : 0;
}

static bool same_dir(const char *a, const char *b)
{
	return dir_len(a) == dir_len(b) && memcmp(a, b, dir_len(a)) == 0;
}

static void settle_names(struct store_log *log, size_t sync)
{
	size_t first = sync;

	for (size_t i = log->first_pending_name; i < sync; i++) {
		struct log_event *e = &log->event[i];

		if (!log_is_name_event(e->kind) || e->durable_at != LOG_NEVER)
			continue;
		if (same_dir(e->to ? e->to : e->name, log->event[sync].name))
			e->durable_at = log->event[sync].end;
		else if (i < first)
			first = i;
	}
	log->first_pending_name = first;
}

static unsigned add_file(struct store_log *log, const struct store *s, uint64_t size)
{
	if (log->files == log->file_room) {
		log->file_room = log->file_room ? 2 * log->file_room : 8;
		log->file = log_alloc(log->file, log->file_room * sizeof(*log->file));
	}
	log->file[log->files] = (struct log_file){ .id = s->id, .size = size };
	return log->files++;
}

static unsigned find_file(struct store_log *log, const struct store *s)
{
	for (unsigned i = 0; i < log->files; i++) {
		if (log->file[i].id.ino == s->id.ino)
			return i;
	}
	return add_file(log, s, 0);
}

/* ---- a file --------------------------------------------------------------------------------------- */

static struct store_logged *logged(struct store *s)
{
	return (struct store_logged *)s;
}

static struct store_log *lock_log(struct store *s)
{
	pthread_mutex_lock(&logged(s)->log->lock);
	return logged(s)->log;
}

static uint8_t *flatten(const struct iovec *iov, int iovcnt, uint64_t *ret_len)
{
	uint8_t *data;

	*ret_len = 0;
	for (int i = 0; i < iovcnt; i++)
		*ret_len += iov[i].iov_len;
	data = log_alloc(NULL, *ret_len);
	*ret_len = 0;
	for (int i = 0; i < iovcnt; i++) {
		memcpy(data + *ret_len, iov[i].iov_base, iov[i].iov_len);
		*ret_len += iov[i].iov_len;
	}
	return data;
}

static int logged_readv(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	return store_readv(logged(s)->inner, iov, iovcnt, offset);
}

static int logged_writev(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct store_log *log = lock_log(s);
	struct log_file *f = &log->file[logged(s)->file];
	uint64_t len;
	uint8_t *data = flatten(iov, iovcnt, &len);
	bool extends = offset + len > f->size;
	size_t size = 0, write;
	int r;

	if (extends) {
		size = begin(log, LOG_RESIZE, logged(s)->file, offset + len, f->size);
		log->event[size].implied = true;
	}
	write = begin(log, LOG_WRITE, logged(s)->file, offset, len);
	log->event[write].data = data;
	r = store_writev(logged(s)->inner, iov, iovcnt, offset);
	if (extends)
		finish(log, size, r);
	finish(log, write, r);
	store_size(logged(s)->inner, &f->size);
	pthread_mutex_unlock(&log->lock);
	return r;
}

/* The wait for the disk is outside the lock: others may write meanwhile, and those writes this sync does not cover. */
static int logged_sync(struct store *s)
{
	struct store_log *log = lock_log(s);
	size_t i = begin(log, LOG_SYNC, logged(s)->file, 0, 0);
	int r;

	pthread_mutex_unlock(&log->lock);
	r = store_sync(logged(s)->inner);
	pthread_mutex_lock(&log->lock);
	finish(log, i, r);
	if (r == 0)
		settle_file(log, i);
	pthread_mutex_unlock(&log->lock);
	return r;
}

static int logged_clear(struct store *s, enum log_kind kind, uint64_t offset, uint64_t len)
{
	struct store_log *log = lock_log(s);
	size_t i = begin(log, kind, logged(s)->file, offset, len);
	int r = finish(log, i, kind == LOG_PUNCH ? store_punch(logged(s)->inner, offset, len) :
						   store_zero(logged(s)->inner, offset, len));

	pthread_mutex_unlock(&log->lock);
	return r;
}

static int logged_punch(struct store *s, uint64_t offset, uint64_t len)
{
	return logged_clear(s, LOG_PUNCH, offset, len);
}

static int logged_zero(struct store *s, uint64_t offset, uint64_t len)
{
	return logged_clear(s, LOG_ZERO, offset, len);
}

static int logged_resize(struct store *s, uint64_t size)
{
	struct store_log *log = lock_log(s);
	struct log_file *f = &log->file[logged(s)->file];
	size_t i = begin(log, LOG_RESIZE, logged(s)->file, size, f->size);
	int r = finish(log, i, store_resize(logged(s)->inner, size));

	store_size(logged(s)->inner, &f->size);
	pthread_mutex_unlock(&log->lock);
	return r;
}

static int logged_seek(struct store *s, uint64_t offset, bool hole, uint64_t *ret_offset)
{
	return hole ? store_seek_hole(logged(s)->inner, offset, ret_offset) :
		      store_seek_data(logged(s)->inner, offset, ret_offset);
}

static int logged_size(struct store *s, uint64_t *ret_size)
{
	return store_size(logged(s)->inner, ret_size);
}

static int logged_mtime(struct store *s, int64_t *ret_unix_seconds)
{
	return store_mtime(logged(s)->inner, ret_unix_seconds);
}

static int logged_stamp(struct store *s, struct store_stamp *ret)
{
	return store_stamp(logged(s)->inner, ret);
}

static int logged_fd(struct store *s)
{
	return -1;
}

static void logged_close(struct store *s)
{
	store_close(logged(s)->inner);
	free(s->name);
	free(s);
}

static const struct store_ops logged_ops = {
	.name = "log", .readv = logged_readv, .writev = logged_writev, .sync = logged_sync, .punch = logged_punch,
	.zero = logged_zero, .resize = logged_resize, .seek = logged_seek, .size = logged_size, .mtime = logged_mtime,
	.stamp = logged_stamp, .fd = logged_fd, .close = logged_close,
};

/* ---- the folder ----------------------------------------------------------------------------------- */

static struct folder_logged *lock_folder(struct store_folder *f)
{
	struct folder_logged *lf = (struct folder_logged *)f;

	pthread_mutex_lock(&lf->log.lock);
	return lf;
}

/* Names enter the log as the dictionary compares them. Outside the engine's memory: its faults are not ours. */
static char *normal(const char *name)
{
	char *engine, *copy = NULL;

	if (store_folder_normalise(name, &engine) == 0) {
		copy = log_strdup(engine);
		sp_free(engine);
	}
	return copy ? copy : log_strdup(name);
}

static size_t begin_name(struct store_log *log, enum log_kind kind, const char *name, const char *to)
{
	size_t i = begin(log, kind, 0, 0, 0);

	log->event[i].name = normal(name);
	log->event[i].to = to ? normal(to) : NULL;
	return i;
}

static struct store *wrap(struct folder_logged *lf, struct store *inner)
{
	struct store_logged *l = log_alloc(NULL, sizeof(*l));

	*l = (struct store_logged){ .base = *inner, .inner = inner, .log = &lf->log };
	l->base.ops = &logged_ops;
	l->base.name = log_strdup(inner->name);
	l->file = find_file(&lf->log, inner);
	return &l->base;
}

static int folder_open(struct store_folder *f, const char *name, unsigned flags, struct store **ret, struct sp_err *err)
{
	struct folder_logged *lf = lock_folder(f);
	struct store *inner;
	size_t i = 0;
	int r;

	if (flags & STORE_CREATE)
		i = begin_name(&lf->log, LOG_CREATE, name, NULL);
	r = store_folder_open(lf->inner, name, flags, &inner, err);
	if (r == 0) {
		*ret = wrap(lf, inner);
		if (flags & STORE_CREATE)
			lf->log.event[i].file = logged(*ret)->file;
	}
	if (flags & STORE_CREATE)
		finish(&lf->log, i, r);
	pthread_mutex_unlock(&lf->log.lock);
	return r;
}

/* The event names the file it is about: a power cut may leave it under either name. */
static size_t begin_moving(struct folder_logged *lf, enum log_kind kind, const char *from, const char *to, int *ret_r)
{
	size_t i = begin_name(&lf->log, kind, from, to);
	struct store *s;

	*ret_r = store_folder_open(lf->inner, from, 0, &s, NULL);
	if (*ret_r == 0) {
		lf->log.event[i].file = find_file(&lf->log, s);
		store_close(s);
	}
	return i;
}

static int folder_rename(struct store_folder *f, const char *from, const char *to, bool replace)
{
	struct folder_logged *lf = lock_folder(f);
	int r;
	size_t i = begin_moving(lf, LOG_RENAME, from, to, &r);

	if (r == 0)
		r = store_folder_rename(lf->inner, from, to, replace);
	finish(&lf->log, i, r);
	pthread_mutex_unlock(&lf->log.lock);
	return r;
}

static int folder_link(struct store_folder *f, const char *from, const char *to)
{
	struct folder_logged *lf = lock_folder(f);
	int r;
	size_t i = begin_moving(lf, LOG_LINK, from, to, &r);

	if (r == 0)
		r = store_folder_link(lf->inner, from, to);
	finish(&lf->log, i, r);
	pthread_mutex_unlock(&lf->log.lock);
	return r;
}

static int folder_unlink(struct store_folder *f, const char *name)
{
	struct folder_logged *lf = lock_folder(f);
	size_t i = begin_name(&lf->log, LOG_UNLINK, name, NULL);
	int r = finish(&lf->log, i, store_folder_unlink(lf->inner, name));

	pthread_mutex_unlock(&lf->log.lock);
	return r;
}

static int folder_sync(struct store_folder *f, const char *name)
{
	struct folder_logged *lf = lock_folder(f);
	size_t i = begin_name(&lf->log, LOG_SYNC_DIR, name, NULL);
	int r = finish(&lf->log, i, store_folder_sync(lf->inner, name));

	if (r == 0)
		settle_names(&lf->log, i);
	pthread_mutex_unlock(&lf->log.lock);
	return r;
}

static void folder_close(struct store_folder *f)
{
	struct folder_logged *lf = (struct folder_logged *)f;
	struct store_log *log = &lf->log;

	for (size_t i = 0; i < log->events; i++) {
		free(log->event[i].data);
		free(log->event[i].name);
		free(log->event[i].to);
	}
	for (unsigned i = 0; i < log->files; i++) {
		store_close(log->file[i].initial);
		free(log->file[i].initial_name);
	}
	free(log->event);
	free(log->file);
	pthread_mutex_destroy(&log->lock);
	store_folder_close(lf->inner);
	free(f->path);
	free(f);
}

static const struct store_folder_ops folder_ops = {
	.open = folder_open, .rename = folder_rename, .link = folder_link, .unlink = folder_unlink, .sync = folder_sync,
	.close = folder_close,
};

static int take_initial(void *arg, const char *name, struct mem_file *content)
{
	struct store_log *log = arg;
	struct store *s, *copy;
	uint64_t size;
	unsigned i;
	int r = mem_file_open(content, name, false, &s);

	if (r < 0)
		return r;
	r = store_mem_clone(s, &copy);
	if (r == 0) {
		store_size(s, &size);
		i = add_file(log, s, size);
		log->file[i].initial = copy;
		log->file[i].initial_name = log_strdup(name);
	}
	store_close(s);
	return r;
}

int store_folder_log_new(struct store_folder *inner, struct store_folder **ret_folder)
{
	struct folder_logged *lf = log_alloc(NULL, sizeof(*lf));
	int r;

	memset(lf, 0, sizeof(*lf));
	lf->base.ops = &folder_ops;
	lf->base.path = log_strdup(inner->path);
	lf->inner = inner;
	pthread_mutex_init(&lf->log.lock, NULL);
	r = store_folder_mem_each(inner, take_initial, &lf->log);
	if (r < 0) {
		folder_close(&lf->base);
		return r;
	}
	lf->log.initial_files = lf->log.files;
	*ret_folder = &lf->base;
	return 0;
}

struct store_log *store_folder_log(struct store_folder *f)
{
	return &((struct folder_logged *)f)->log;
}

void log_mark(struct store_log *log, uint64_t value)
{
	size_t i;

	pthread_mutex_lock(&log->lock);
	i = begin(log, LOG_MARK, 0, 0, 0);
	log->event[i].value = value;
	finish(log, i, 0);
	pthread_mutex_unlock(&log->lock);
}
