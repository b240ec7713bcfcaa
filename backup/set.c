/* SPDX-License-Identifier: BSD-2-Clause */
#include <dirent.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backup/backup_int.h"
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"
#include "base/seed.h"

#define LOCK "lock"

/* ---- small files --------------------------------------------------------------------------------- */

void backup_part(const char *file, char ret[static BACKUP_FILE_MAX + 8])
{
	snprintf(ret, BACKUP_FILE_MAX + 8, "%s.part", file);
}

int backup_rename(struct store_folder *f, const char *from, const char *to, struct sp_err *err)
{
	int r = store_folder_rename(f, from, to, true);

	if (r == 0 && !SP_SEED_BUG(BACKUP_NO_FOLDER_SYNC))
		r = store_folder_sync(f, to);
	return r < 0 ? sp_err_set(err, r, "cannot rename %s to %s: %s", from, to, strerror(-r)) : 0;
}

static int write_part(struct store_folder *f, const char *part, const char *text, size_t len, struct sp_err *err)
{
	struct store *s;
	int r = store_folder_unlink(f, part);

	if (r < 0 && r != -ENOENT)
		return sp_err_set(err, r, "cannot replace %s: %s", part, strerror(-r));
	r = store_folder_open(f, part, STORE_RDWR | STORE_CREATE | STORE_NO_LOCK, &s, err);
	if (r < 0)
		return r;
	r = store_write(s, text, len, 0);
	if (r == 0 && !SP_SEED_BUG(BACKUP_NO_FILE_SYNC))
		r = store_sync(s);
	store_close(s);
	if (r < 0) {
		store_folder_unlink(f, part);
		return sp_err_set(err, r, "cannot write %s: %s", part, strerror(-r));
	}
	return 0;
}

int backup_file_write(struct store_folder *f, const char *name, const char *text, size_t len, struct sp_err *err)
{
	char part[BACKUP_FILE_MAX + 8];
	int r;

	backup_part(name, part);
	r = write_part(f, part, text, len, err);
	return r < 0 ? r : backup_rename(f, part, name, err);
}

int backup_file_read(struct store_folder *f, const char *name, uint64_t max, char **ret_text, size_t *ret_len,
		     struct sp_err *err)
{
	SP_AUTO_FREE char *text = NULL;
	uint64_t size = 0;
	struct store *s;
	int r = store_folder_open(f, name, STORE_NO_LOCK | STORE_REGULAR, &s, err);

	if (r < 0)
		return r;
	r = store_size(s, &size);
	if (r == 0 && size > max)
		r = -EFBIG;
	if (r == 0) {
		text = sp_alloc((size_t)size + 1);
		r = !text ? -ENOMEM : size ? store_read(s, text, (size_t)size, 0) : 0;
	}
	store_close(s);
	if (r < 0)
		return sp_err_set(err, r, "cannot read: %s", strerror(-r));
	text[size] = '\0';
	*ret_text = sp_take(text);
	*ret_len = (size_t)size;
	return 0;
}

/* ---- open ---------------------------------------------------------------------------------------- */

static int take_lock(struct backup_set *set, unsigned flags, struct sp_err *err)
{
	unsigned rw = flags & BACKUP_WRITE ? STORE_RDWR : 0;
	int r = store_folder_open(set->folder, LOCK, rw | STORE_REGULAR, &set->lock, err);

	if (r == -ENOENT && flags & BACKUP_CREATE)
		r = store_folder_open(set->folder, LOCK, rw | STORE_CREATE, &set->lock, err);
	if (r == -ENOENT)
		return sp_err_set(err, r, "there is no backup set");
	return r < 0 ? sp_err_prefix(err, r, "the set is in use") : 0;
}

static int take_catalogue(struct backup_set *set, unsigned flags, struct sp_err *err)
{
	int r = backup_catalogue_load(set->folder, &set->cat, err);

	if (r != -ENOENT || !(flags & BACKUP_CREATE))
		return r;
	sp_env_guid(&set->cat.id);
	set->cat.next = 1;
	return backup_catalogue_save(set->folder, &set->cat, err);
}

int backup_set_open_in(struct store_folder *folder, const char *name, unsigned flags, struct backup_set **ret,
		       struct sp_err *err)
{
	struct backup_set *set = sp_zalloc(sizeof(*set));
	int r;

	if (!set)
		return sp_err_set(err, -ENOMEM, "out of memory");
	set->folder = folder;
	set->writable = flags & BACKUP_WRITE;
	snprintf(set->name, sizeof(set->name), "%s", name);
	r = take_lock(set, flags, err);
	if (r == 0)
		r = take_catalogue(set, flags, err);
	if (r < 0)
		backup_set_close(set);
	else
		*ret = set;
	return r;
}

/* A new folder, known to the one it is in. */
static int make_folder(const char *path, const char *in, struct sp_err *err)
{
	struct store_folder *f;
	int r;

	if (mkdir(path, 0700) < 0)
		return errno == EEXIST ? 0 : sp_err_set(err, -errno, "cannot make %s: %s", path, strerror(errno));
	r = store_folder_host(in, &f, err);
	if (r < 0)
		return r;
	r = store_folder_sync(f, "x");
	store_folder_close(f);
	return r < 0 ? sp_err_set(err, r, "%s: %s", in, strerror(-r)) : 0;
}

static int make_folders(const char *repository, const char *path, struct sp_err *err)
{
	SP_AUTO_FREE char *above = sp_asprintf("%s/..", repository);
	int r = above ? make_folder(repository, above, err) : sp_err_set(err, -ENOMEM, "out of memory");

	return r < 0 ? r : make_folder(path, repository, err);
}

int backup_set_open(const char *repository, const char *name, unsigned flags, struct backup_set **ret,
		    struct sp_err *err)
{
	SP_AUTO_FREE char *path = sp_asprintf("%s/%s", repository, name), *real = NULL;
	struct store_folder *f;
	char *resolved;
	int r = 0;

	if (!backup_name_ok(name))
		return sp_err_set(err, -EINVAL, "\"%s\" is no name of a set: up to %d letters, digits, '.', '_' and "
				  "'-'", name, BACKUP_NAME_MAX);
	if (!path)
		return sp_err_set(err, -ENOMEM, "out of memory");
	if (flags & BACKUP_CREATE)
		r = make_folders(repository, path, err);
	if (r < 0)
		return r;
	resolved = realpath(path, NULL);	/* images store the names of their parents in full */
	if (!resolved)
		return sp_err_set(err, -errno, "%s: %s", path, strerror(errno));
	r = store_folder_host(resolved, &f, err);
	free(resolved);
	if (r == 0) {
		r = backup_set_open_in(f, name, flags, ret, err);
		if (r == 0)
			(*ret)->owns_folder = true;
		else
			store_folder_close(f);
	}
	return r < 0 ? sp_err_prefix(err, r, "set %s", name) : 0;
}

void backup_set_close(struct backup_set *set)
{
	if (!set)
		return;
	store_close(set->lock);
	if (set->owns_folder)
		store_folder_close(set->folder);
	backup_catalogue_fini(&set->cat);
	sp_free(set);
}

int backup_set_writable(const struct backup_set *set, struct sp_err *err)
{
	return set->writable ? 0 : sp_err_set(err, -EROFS, "the set was opened for reading");
}

/* ---- repository ---------------------------------------------------------------------------------- */

static int is_set(const struct dirent *e)
{
	return backup_name_ok(e->d_name);
}

int backup_repository_list(const char *repository, char ***ret_names, size_t *ret_count, struct sp_err *err)
{
	struct dirent **found;
	int n = scandir(repository, &found, is_set, alphasort), r = 0;
	char **names;
	size_t count = 0;

	if (n < 0)
		return sp_err_set(err, -errno, "%s: %s", repository, strerror(errno));
	names = sp_calloc((size_t)n + 1, sizeof(*names));
	for (int i = 0; i < n; i++) {
		SP_AUTO_FREE char *lock = sp_asprintf("%s/%s/" LOCK, repository, found[i]->d_name);
		struct stat st;

		if (names && lock && stat(lock, &st) == 0)
			names[count++] = sp_strdup(found[i]->d_name);
		free(found[i]);
	}
	free(found);
	if (!names)
		r = sp_err_set(err, -ENOMEM, "out of memory");
	*ret_names = names;
	*ret_count = count;
	return r;
}

/* ---- manifests ----------------------------------------------------------------------------------- */

static int load_one(struct backup_set *set, unsigned number, const struct backup_manifest *below,
		    struct backup_manifest **ret, struct sp_err *err)
{
	char file[BACKUP_FILE_MAX];
	SP_AUTO_FREE char *text = NULL;
	uint8_t sum[32];
	int index = backup_catalogue_find(&set->cat, number), r;
	size_t len;

	if (index < 0)
		return sp_err_set(err, -ENOENT, "there is no point %u in set %s", number, set->name);
	backup_manifest_file(number, file);
	r = backup_file_read(set->folder, file, BACKUP_JSON_MAX, &text, &len, err);
	if (r == -ENOENT)
		r = sp_err_set(err, -EBADMSG, "missing");
	if (r == 0 && EVP_Digest(text, len, sum, NULL, EVP_sha256(), NULL) != 1)
		r = sp_err_set(err, -ENOMEM, "out of memory");
	if (r == 0 && memcmp(sum, set->cat.point[index].manifest, 32) != 0 &&
	    (set->cat.drops == 0 || number != set->cat.into || memcmp(sum, set->cat.into_manifest, 32) != 0))
		r = sp_err_set(err, -EBADMSG, "damaged: not the manifest that set.json lists");
	if (r == 0)
		r = backup_manifest_decode(text, len, below, ret, err);
	if (r == 0 && ((*ret)->number != number || !sp_guid_equal(&(*ret)->set, &set->cat.id))) {
		backup_manifest_free(*ret);
		r = sp_err_set(err, -EBADMSG, "belongs to another point or another set");
	}
	return r < 0 ? sp_err_prefix(err, r, "%s", file) : 0;
}

/* The numbers from a full point up to @number; parents have smaller numbers, so this ends. */
static int line_of(struct backup_set *set, unsigned number, unsigned *ret_line, unsigned *ret_count, struct sp_err *err)
{
	unsigned n = 0;

	while (number) {
		struct backup_manifest *m;
		int r = load_one(set, number, NULL, &m, err);

		if (r < 0)
			return r;
		if (n == set->cat.points) {
			backup_manifest_free(m);
			return sp_err_set(err, -EBADMSG, "the points have parents in circles");
		}
		ret_line[n++] = number;
		number = m->parent;
		backup_manifest_free(m);
	}
	*ret_count = n;
	return 0;
}

static int load_line(struct backup_set *set, unsigned number, struct backup_manifest **ret, struct sp_err *err)
{
	SP_AUTO_FREE unsigned *line = sp_calloc(set->cat.points + 1, sizeof(*line));
	struct backup_manifest *below = NULL, *m = NULL;
	unsigned n = 0;
	int r = line ? line_of(set, number, line, &n, err) : sp_err_set(err, -ENOMEM, "out of memory");

	while (r == 0 && n > 0) {
		r = load_one(set, line[--n], below, &m, err);
		backup_manifest_free(below);
		below = r == 0 ? m : NULL;
	}
	if (r == 0)
		*ret = below;
	return r;
}

int backup_manifest_load(struct backup_set *set, unsigned number, bool content, struct backup_manifest **ret,
			 struct sp_err *err)
{
	if (number == 0 && set->cat.points)
		number = set->cat.point[set->cat.points - 1].number;
	if (number == 0)
		return sp_err_set(err, -ENOENT, "set %s has no points", set->name);
	return content ? load_line(set, number, ret, err) : load_one(set, number, NULL, ret, err);
}

static int put_entry(struct backup_catalogue *c, unsigned number, const uint8_t sum[static 32])
{
	int index = backup_catalogue_find(c, number);
	struct backup_entry *grown;

	if (index < 0) {
		grown = sp_realloc(c->point, (c->points + 1) * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		c->point = grown;
		index = (int)c->points++;
		c->point[index].number = number;
	}
	memcpy(c->point[index].manifest, sum, 32);
	return 0;
}

int backup_manifest_commit(struct backup_set *set, unsigned number, const char *text, size_t len, struct sp_err *err)
{
	char file[BACKUP_FILE_MAX];
	uint8_t sum[32];
	int r;

	backup_manifest_file(number, file);
	if (EVP_Digest(text, len, sum, NULL, EVP_sha256(), NULL) != 1 || put_entry(&set->cat, number, sum) < 0)
		return sp_err_set(err, -ENOMEM, "out of memory");
	r = backup_file_write(set->folder, file, text, len, err);
	if (r < 0)
		return r;
	if (number >= set->cat.next)
		set->cat.next = number + 1;
	set->cat.pending = set->cat.pending_disks = 0;
	return backup_catalogue_save(set->folder, &set->cat, err);
}

/* ---- questions ----------------------------------------------------------------------------------- */

const struct sp_guid *backup_set_id(const struct backup_set *set)
{
	return &set->cat.id;
}

unsigned backup_points(const struct backup_set *set)
{
	return set->cat.points;
}

unsigned backup_point_number(const struct backup_set *set, unsigned index)
{
	return index < set->cat.points ? set->cat.point[index].number : 0;
}

unsigned backup_incomplete(const struct backup_set *set)
{
	return set->cat.pending;
}

bool backup_prune_pending(const struct backup_set *set)
{
	return set->cat.drops > 0;
}

int backup_point_info(struct backup_set *set, unsigned number, struct backup_point *ret, struct sp_err *err)
{
	struct backup_manifest *m;
	int r = backup_manifest_load(set, number, false, &m, err);

	if (r < 0)
		return r;
	*ret = (struct backup_point){
		.number = m->number, .parent = m->parent, .id = m->id, .time = m->time, .guest_time = m->guest_time,
		.level = m->level, .disks = m->disks, .is_signed = m->is_signed,
	};
	memcpy(ret->reasons, m->reasons, sizeof(ret->reasons));
	memcpy(ret->root, m->root, 32);
	for (unsigned i = 0; i < m->disks; i++) {
		ret->size += m->disk[i].size;
		for (uint64_t at = 0; at < m->disk[i].file.count; at++)	/* what is not a hole, nearly */
			ret->stored += backup_sum_equal(&m->disk[i].file, &(struct backup_digests){ 0 }, at) ?
				       0 : BACKUP_CHUNK;
	}
	backup_manifest_free(m);
	return 0;
}

int backup_disk_info(struct backup_set *set, unsigned number, unsigned disk, struct backup_disk_info *ret,
		     struct sp_err *err)
{
	struct backup_manifest *m;
	int r = backup_manifest_load(set, number, false, &m, err);

	if (r < 0)
		return r;
	if (disk < m->disks) {
		const struct backup_disk *d = &m->disk[disk];

		*ret = (struct backup_disk_info){ .size = d->size, .source_size = d->source_size };
		memcpy(ret->name, d->name, sizeof(ret->name));
		memcpy(ret->source, d->source, sizeof(ret->source));
		memcpy(ret->track, d->track, sizeof(ret->track));
		backup_disk_file(m->number, d->name, ret->file);
	} else {
		r = sp_err_set(err, -ENOENT, "point %u has %u disks", m->number, m->disks);
	}
	backup_manifest_free(m);
	return r;
}

int backup_machine(struct backup_set *set, unsigned number, char **ret_text, struct sp_err *err)
{
	struct backup_manifest *m;
	int r = backup_manifest_load(set, number, false, &m, err);

	if (r < 0)
		return r;
	*ret_text = sp_take(m->machine);
	backup_manifest_free(m);
	return 0;
}
