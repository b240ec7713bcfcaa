/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A folder that is a dictionary in memory, for tests and fuzzers. Names are compared after lexical normalisation, and
 * directories exist by being named. A file lives as long as a name or an open store refers to it.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "vhd/store.h"
#include "vhd/store_int.h"
#include "vhd/store_mem_int.h"

struct entry {
	struct entry *next;
	char *name;
	struct mem_file *file;
};

struct folder_mem {
	struct store_folder base;
	pthread_mutex_t lock;	/* the list */
	struct entry *first;
};

static const struct store_folder_ops mem_folder_ops;

int store_folder_normalise(const char *name, char **ret_name)
{
	char *out, *end;

	if (name[0] == '/')
		return -EXDEV;
	out = end = sp_alloc(strlen(name) + 1);
	if (!out)
		return -ENOMEM;
	while (*name) {
		size_t len = strcspn(name, "/");
		bool dot = len == 1 && name[0] == '.', dotdot = len == 2 && name[0] == '.' && name[1] == '.';

		if (dotdot && end == out) {
			sp_free(out);
			return -EXDEV;
		}
		if (dotdot) {
			while (end > out && *--end != '/')
				;
		} else if (len > 0 && !dot) {
			if (end > out)
				*end++ = '/';
			memcpy(end, name, len);
			end += len;
		}
		name += len + (name[len] == '/');
	}
	*end = '\0';
	if (end == out) {
		sp_free(out);
		return -EINVAL;
	}
	*ret_name = out;
	return 0;
}

/* ---- the dictionary; the lock is held ------------------------------------------------------------- */

static struct folder_mem *lock_folder(struct store_folder *f)
{
	struct folder_mem *m = (struct folder_mem *)f;

	pthread_mutex_lock(&m->lock);
	return m;
}

static struct entry **find(struct folder_mem *m, const char *normal)
{
	struct entry **e = &m->first;

	while (*e && strcmp((*e)->name, normal) != 0)
		e = &(*e)->next;
	return e;
}

static void entry_free(struct entry *e)
{
	mem_file_put(e->file);
	sp_free(e->name);
	sp_free(e);
}

static void entry_remove(struct entry **at)
{
	struct entry *e = *at;

	*at = e->next;
	entry_free(e);
}

/* Takes over one count of @file, on success only. */
static int entry_add(struct folder_mem *m, const char *normal, struct mem_file *file)
{
	struct entry *e = sp_zalloc(sizeof(*e));

	if (!e)
		return -ENOMEM;
	e->name = sp_strdup(normal);
	if (!e->name) {
		sp_free(e);
		return -ENOMEM;
	}
	e->file = file;
	e->next = m->first;
	m->first = e;
	return 0;
}

/* ---- operations ----------------------------------------------------------------------------------- */

static int create_file(struct folder_mem *m, const char *normal)
{
	struct mem_file *file;
	int r = *find(m, normal) ? -EEXIST : mem_file_new(0, 0, &file);

	if (r < 0)
		return r;
	r = entry_add(m, normal, file);
	if (r < 0)
		mem_file_put(file);
	return r;
}

static int mem_folder_open(struct store_folder *f, const char *name, unsigned flags, struct store **ret_store,
			   struct sp_err *err)
{
	SP_AUTO_FREE char *normal = NULL;
	struct folder_mem *m;
	struct entry *e;
	int r = store_folder_normalise(name, &normal);

	if (r < 0)
		return sp_err_set(err, r, "%s %s", name,
				  r == -EXDEV ? "leads outside the allowed folder" : strerror(-r));
	m = lock_folder(f);
	r = flags & STORE_CREATE ? create_file(m, normal) : 0;
	e = *find(m, normal);
	if (r == 0)
		r = e ? mem_file_open(e->file, name, flags & STORE_RDWR, ret_store) : -ENOENT;
	pthread_mutex_unlock(&m->lock);
	return r < 0 ? sp_err_set(err, r, "%s: %s", name, strerror(-r)) : 0;
}

static int mem_folder_rename(struct store_folder *f, const char *from, const char *to, bool replace)
{
	SP_AUTO_FREE char *old = NULL, *new = NULL;
	struct folder_mem *m;
	struct entry **at;
	int r = store_folder_normalise(from, &old);

	if (r == 0)
		r = store_folder_normalise(to, &new);
	if (r < 0)
		return r;
	m = lock_folder(f);
	at = find(m, new);
	r = !*find(m, old) ? -ENOENT : *at && !replace ? -EEXIST : 0;
	if (r == 0 && strcmp(old, new) != 0) {
		if (*at)
			entry_remove(at);
		at = find(m, old);
		sp_free((*at)->name);
		(*at)->name = sp_take(new);
	}
	pthread_mutex_unlock(&m->lock);
	return r;
}

static int mem_folder_link(struct store_folder *f, const char *from, const char *to)
{
	SP_AUTO_FREE char *old = NULL, *new = NULL;
	struct folder_mem *m;
	struct entry *e;
	int r = store_folder_normalise(from, &old);

	if (r == 0)
		r = store_folder_normalise(to, &new);
	if (r < 0)
		return r;
	m = lock_folder(f);
	e = *find(m, old);
	r = !e ? -ENOENT : *find(m, new) ? -EEXIST : entry_add(m, new, e->file);
	if (r == 0)
		mem_file_get(e->file);
	pthread_mutex_unlock(&m->lock);
	return r;
}

static int mem_folder_unlink(struct store_folder *f, const char *name)
{
	SP_AUTO_FREE char *normal = NULL;
	struct folder_mem *m;
	struct entry **at;
	int r = store_folder_normalise(name, &normal);

	if (r < 0)
		return r;
	m = lock_folder(f);
	at = find(m, normal);
	r = *at ? 0 : -ENOENT;
	if (r == 0)
		entry_remove(at);
	pthread_mutex_unlock(&m->lock);
	return r;
}

/* Nothing to write, but a name that a host folder refuses is refused here too. */
static int mem_folder_sync(struct store_folder *f, const char *name)
{
	SP_AUTO_FREE char *normal = NULL;

	return store_folder_normalise(name, &normal);
}

static void mem_folder_close(struct store_folder *f)
{
	struct folder_mem *m = (struct folder_mem *)f;

	while (m->first)
		entry_remove(&m->first);
	pthread_mutex_destroy(&m->lock);
	sp_free(f->path);
	sp_free(f);
}

static const struct store_folder_ops mem_folder_ops = {
	.open = mem_folder_open, .rename = mem_folder_rename, .link = mem_folder_link, .unlink = mem_folder_unlink,
	.sync = mem_folder_sync, .close = mem_folder_close,
};

int store_folder_mem(struct store_folder **ret_folder)
{
	struct folder_mem *m = sp_zalloc(sizeof(*m));

	if (!m)
		return -ENOMEM;
	m->base.ops = &mem_folder_ops;
	m->base.path = sp_strdup("memory");
	if (!m->base.path) {
		sp_free(m);
		return -ENOMEM;
	}
	pthread_mutex_init(&m->lock, NULL);
	*ret_folder = &m->base;
	return 0;
}

/* ---- for tests ------------------------------------------------------------------------------------ */

int store_folder_mem_put(struct store_folder *f, const char *name, struct mem_file *file)
{
	SP_AUTO_FREE char *normal = NULL;
	struct folder_mem *m;
	struct entry **at;
	int r = store_folder_normalise(name, &normal);

	if (r < 0)
		return r;
	m = lock_folder(f);
	at = find(m, normal);
	if (*at && file) {
		mem_file_put((*at)->file);
		(*at)->file = mem_file_get(file);
	} else if (*at) {
		entry_remove(at);
	} else if (file) {
		r = entry_add(m, normal, file);
		if (r == 0)
			mem_file_get(file);
	}
	pthread_mutex_unlock(&m->lock);
	return r;
}

struct mem_file *store_folder_mem_get(struct store_folder *f, const char *name)
{
	SP_AUTO_FREE char *normal = NULL;
	struct mem_file *file = NULL;
	struct folder_mem *m;
	struct entry *e;

	if (store_folder_normalise(name, &normal) < 0)
		return NULL;
	m = lock_folder(f);
	e = *find(m, normal);
	if (e)
		file = e->file;
	pthread_mutex_unlock(&m->lock);
	return file;
}

int store_folder_mem_each(struct store_folder *f, int (*each)(void *arg, const char *name, struct mem_file *file),
			  void *arg)
{
	struct folder_mem *m = lock_folder(f);
	int r = 0;

	for (struct entry *e = m->first; e && r == 0; e = e->next)
		r = each(arg, e->name, e->file);
	pthread_mutex_unlock(&m->lock);
	return r;
}

static int clone_one(void *arg, const char *name, struct mem_file *file)
{
	struct mem_file *copy;
	int r = mem_file_clone(file, &copy);

	if (r < 0)
		return r;
	r = entry_add(arg, name, copy);
	if (r < 0)
		mem_file_put(copy);
	return r;
}

int store_folder_mem_clone(struct store_folder *f, struct store_folder **ret_folder)
{
	struct store_folder *copy;
	int r = f->ops == &mem_folder_ops ? store_folder_mem(&copy) : -EINVAL;

	if (r < 0)
		return r;
	r = store_folder_mem_each(f, clone_one, copy);
	if (r < 0) {
		store_folder_close(copy);
		return r;
	}
	*ret_folder = copy;
	return 0;
}
