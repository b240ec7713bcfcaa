/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A restored disk gets its name only after what was written has been read again and has the digests of the manifest.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backup/backup_int.h"
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/seed.h"
#include "vhd/ops.h"

static int check(const char *path, enum vhd_format_id format, const struct backup_disk *d, unsigned threads,
		 struct sp_err *err)
{
	struct vhd_open_opts ro = { .format = format };
	struct backup_digests is;
	uint64_t first, count;
	struct vhd_disk *disk;
	int r = vhd_disk_open(path, &ro, &disk, err);

	if (r < 0)
		return r;
	r = backup_digest_disk(disk, threads, NULL, NULL, &is, err);
	vhd_disk_close(disk, NULL);
	if (r < 0)
		return r;
	if (backup_digests_differ(&is, &d->content, &first, &count) || is.count < d->content.count)
		r = sp_err_set(err, -EBADMSG, "the backup is damaged: %" PRIu64 " MiB, the first at %#" PRIx64
			       ", are not what the manifest says; \"verify\" tells the file", count,
			       first * BACKUP_CHUNK);
	backup_digests_fini(&is);
	return r;
}

/* A raw source may have ended inside a sector. */
static int trim(const char *path, enum vhd_format_id format, const struct backup_disk *d, struct sp_err *err)
{
	if (format != VHD_FORMAT_RAW || d->source_size == d->size || truncate(path, (off_t)d->source_size) == 0)
		return 0;
	return sp_err_set(err, -errno, "%s: %s", path, strerror(errno));
}

static int finish(const char *part, const char *target, struct sp_err *err)
{
	SP_AUTO_FREE char *dir = sp_strdup(target);
	struct store_folder *f;
	char *slash = dir ? strrchr(dir, '/') : NULL;
	int r;

	if (rename(part, target) < 0)
		return sp_err_set(err, -errno, "cannot rename %s: %s", part, strerror(errno));
	if (slash)
		slash[slash == dir] = '\0';
	r = store_folder_host(slash ? dir : ".", &f, err);
	if (r < 0)
		return r;
	r = store_folder_sync(f, "x");
	store_folder_close(f);
	return r < 0 ? sp_err_set(err, r, "%s: %s", target, strerror(-r)) : 0;
}

static int restore(struct backup_set *set, const struct backup_manifest *m, const struct backup_disk *d,
		   const char *target, enum vhd_format_id format, unsigned threads, struct sp_job *job,
		   struct sp_err *err)
{
	struct vhd_convert_opts o = { .source.format = VHD_FORMAT_VHDX, .target.format = format, .threads = threads,
				      .replace = true };
	SP_AUTO_FREE char *part = sp_asprintf("%s.part", target), *source = NULL;
	char file[BACKUP_FILE_MAX];
	int r;

	backup_disk_file(m->number, d->name, file);
	source = sp_asprintf("%s/%s", set->folder->path, file);
	if (!part || !source)
		return sp_err_set(err, -ENOMEM, "out of memory");
	r = vhd_convert(source, part, &o, job, err);
	if (r < 0)
		return r;
	if (!SP_SEED_BUG(BACKUP_RESTORE_UNCHECKED))
		r = check(part, format, d, threads, err);
	if (r == 0)
		r = trim(part, format, d, err);
	if (r == 0)
		r = finish(part, target, err);
	if (r < 0)
		unlink(part);
	return r;
}

int backup_restore(struct backup_set *set, unsigned number, unsigned disk, const char *target,
		   enum vhd_format_id format, bool replace, unsigned threads, struct sp_job *job, struct sp_err *err)
{
	struct backup_manifest *m;
	int r;

	if (!replace && access(target, F_OK) == 0)
		return sp_err_set(err, -EEXIST, "exists already");
	r = backup_manifest_load(set, number, true, &m, err);
	if (r < 0)
		return r;
	if (backup_point_going(set, m->number))
		r = sp_err_set(err, -ESTALE, "point %u is being pruned; \"prune\" finishes that", m->number);
	else if (disk >= m->disks)
		r = sp_err_set(err, -ENOENT, "point %u has %u disks", m->number, m->disks);
	else
		r = restore(set, m, &m->disk[disk], target, format, threads, job, err);
	backup_manifest_free(m);
	return r;
}
