/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Copying points to a set in another repository, byte for byte, oldest first. Each MiB is compared with its digest on
 * the way, so damage does not travel. The steps are those of a new point; what an interrupted copy left is read, and
 * only what is not right yet is copied.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "backup/backup_int.h"
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"
#include "base/seed.h"

struct replica {
	struct backup_set *from, *to;
	struct backup_pace pace;
	struct sp_job *job;
	uint8_t *buffer;		/* a MiB */
	bool continued;
};

static int there(struct replica *p, struct store *s, uint64_t size, uint64_t at, size_t len,
		 const uint8_t sum[static 32], bool *ret)
{
	uint8_t is[32] = { 0 };
	int r = 0;

	*ret = false;
	if (!sp_range_ok(at, len, size))
		return 0;
	if (size && p->continued)
		r = store_read(s, p->buffer, len, at);
	if (r == 0 && p->continued)
		r = backup_digest(p->buffer, len, is);
	*ret = r == 0 && memcmp(is, sum, 32) == 0;
	return r;
}

static int copy_chunk(struct replica *p, struct store *in, struct store *out, const struct backup_digests *d,
		      uint64_t index, struct sp_err *err)
{
	uint64_t at = index * BACKUP_CHUNK;
	size_t len = (size_t)sp_min(d->size - at, BACKUP_CHUNK);
	uint8_t is[32];
	bool done;
	int r = there(p, out, d->size, at, len, d->sum[index], &done);

	if (r == 0 && !done) {
		r = store_read(in, p->buffer, len, at);
		if (r == 0)
			r = backup_digest(p->buffer, len, is);
		if (r == 0 && memcmp(is, d->sum[index], 32) != 0 && !SP_SEED_BUG(BACKUP_COPY_UNCHECKED))
			return sp_err_set(err, -EBADMSG, "damaged at %#" PRIx64 ": not what the manifest says", at);
		if (r == 0)
			r = store_write(out, p->buffer, len, at);
		if (r == 0)
			r = backup_pace(&p->pace, len, p->job);
	}
	if (r < 0)
		return sp_err_set(err, r, "cannot copy %zu bytes at %#" PRIx64 ": %s", len, at, strerror(-r));
	return sp_job_advance(p->job, len) < 0 ? sp_err_set(err, -ECANCELED, "canceled") : 0;
}

static int copy_bytes(struct replica *p, struct store *in, struct store *out, const struct backup_digests *d,
		      struct sp_err *err)
{
	int r = store_resize(out, d->size);

	for (uint64_t i = 0; r == 0 && i < d->count; i++) {
		r = copy_chunk(p, in, out, d, i, err);
		if (r < 0)
			return r;
	}
	if (r == 0)
		r = store_sync(out);
	return r < 0 ? sp_err_set(err, r, "cannot write: %s", strerror(-r)) : 0;
}

static int open_out(struct replica *p, const char *part, struct store **ret, struct sp_err *err)
{
	int r = p->continued ? store_folder_open(p->to->folder, part, STORE_RDWR | STORE_REGULAR, ret, NULL) : -ENOENT;

	if (r == 0)
		return 0;
	p->continued = false;
	r = store_folder_unlink(p->to->folder, part);
	if (r < 0 && r != -ENOENT)
		return sp_err_set(err, r, "cannot replace %s: %s", part, strerror(-r));
	return store_folder_open(p->to->folder, part, STORE_RDWR | STORE_CREATE, ret, err);
}

static int copy_file(struct replica *p, const struct backup_manifest *m, const struct backup_disk *d, bool continued,
		     struct sp_err *err)
{
	char file[BACKUP_FILE_MAX], part[BACKUP_FILE_MAX + 8];
	struct store *in, *out;
	int r;

	backup_disk_file(m->number, d->name, file);
	backup_part(file, part);
	r = store_folder_open(p->from->folder, file, STORE_REGULAR, &in, err);
	if (r < 0)
		return r;
	p->continued = continued;
	r = open_out(p, part, &out, err);
	if (r == 0) {
		r = copy_bytes(p, in, out, &d->file, err);
		store_close(out);
	}
	store_close(in);
	return r < 0 ? sp_err_prefix(err, r, "%s", file) : 0;
}

static int name_files(struct replica *p, const struct backup_manifest *m, struct sp_err *err)
{
	char file[BACKUP_FILE_MAX], part[BACKUP_FILE_MAX + 8];
	int r = 0;

	for (unsigned i = 0; r == 0 && i < m->disks; i++) {
		backup_disk_file(m->number, m->disk[i].name, file);
		backup_part(file, part);
		r = backup_rename(p->to->folder, part, file, err);
	}
	return r;
}

static int copy_manifest(struct replica *p, unsigned number, struct sp_err *err)
{
	SP_AUTO_FREE char *text = NULL;
	char file[BACKUP_FILE_MAX];
	size_t len;
	int r;

	backup_manifest_file(number, file);
	r = backup_file_read(p->from->folder, file, BACKUP_JSON_MAX, &text, &len, err);
	return r < 0 ? r : backup_manifest_commit(p->to, number, text, len, err);
}

static int copy_point(struct replica *p, unsigned number, struct sp_err *err)
{
	struct backup_manifest *m;
	bool continued;
	int r = backup_manifest_load(p->from, number, false, &m, err);

	if (r < 0)
		return r;
	if (m->parent && backup_catalogue_find(&p->to->cat, m->parent) < 0) {
		r = sp_err_set(err, -ESTALE, "point %u stands on point %u, which is not there", number, m->parent);
		goto out;
	}
	r = backup_announce(p->to, number, m, err);
	continued = r > 0;
	for (unsigned i = 0; r >= 0 && i < m->disks; i++)
		r = copy_file(p, m, &m->disk[i], continued, err);
	if (r >= 0)
		r = name_files(p, m, err);
	if (r >= 0)
		r = copy_manifest(p, number, err);
	if (r == -ENOSPC)
		backup_drop_pending(p->to, NULL);
out:
	backup_manifest_free(m);
	return r;
}

/* A set that was just made becomes the same set. */
static int adopt(struct replica *p, struct sp_err *err)
{
	struct backup_catalogue *c = &p->to->cat;

	if (sp_guid_equal(&c->id, &p->from->cat.id))
		return 0;
	if (c->points || c->pending)
		return sp_err_set(err, -EINVAL, "the target is another set that has the same name");
	c->id = p->from->cat.id;
	return backup_catalogue_save(p->to->folder, c, err);
}

/* 1: the target has it; 0: it has not. */
static int compare_entry(struct replica *p, const struct backup_entry *e, struct sp_err *err)
{
	int at = backup_catalogue_find(&p->to->cat, e->number);

	if (at >= 0 && memcmp(p->to->cat.point[at].manifest, e->manifest, 32) == 0)
		return 1;
	if (at >= 0 || e->number < p->to->cat.next)
		return sp_err_set(err, -ESTALE, "point %u %s in the target: the two were pruned differently; copy to a "
				  "new repository", e->number, at >= 0 ? "is another" : "is gone");
	return 0;
}

static uint64_t total_of(struct replica *p)
{
	uint64_t total = 0;

	for (unsigned i = 0; i < p->from->cat.points; i++) {
		struct backup_manifest *m;
		unsigned number = p->from->cat.point[i].number;

		if (backup_catalogue_find(&p->to->cat, number) >= 0 ||
		    backup_manifest_load(p->from, number, false, &m, NULL) < 0)
			continue;
		for (unsigned d = 0; d < m->disks; d++)
			total += m->disk[d].file.size;
		backup_manifest_free(m);
	}
	return total;
}

int backup_replicate(struct backup_set *from, struct backup_set *to, uint64_t rate_limit, unsigned threads,
		     struct sp_job *job, unsigned *ret_copied, struct sp_err *err)
{
	struct replica p = { .from = from, .to = to, .job = job, .buffer = sp_alloc_aligned(4096, BACKUP_CHUNK),
			     .pace = { .rate = rate_limit, .start_ns = sp_env_monotonic_ns() } };
	int r = p.buffer ? backup_set_writable(to, err) : sp_err_set(err, -ENOMEM, "out of memory");
	unsigned copied = 0;

	if (r == 0 && (from->cat.drops || to->cat.drops))
		r = sp_err_set(err, -EBUSY, "pruning was interrupted; \"prune\" finishes it");
	if (r == 0)
		r = adopt(&p, err);
	if (r == 0)
		sp_job_start(job, total_of(&p));
	for (unsigned i = 0; r == 0 && i < from->cat.points; i++) {
		r = compare_entry(&p, &from->cat.point[i], err);
		if (r != 0) {
			r = r > 0 ? 0 : r;
			continue;
		}
		r = copy_point(&p, from->cat.point[i].number, err);
		copied += r == 0;
	}
	if (r == 0)
		sp_job_finish(job);
	if (ret_copied)
		*ret_copied = copied;
	sp_free(p.buffer);
	return r;
}
