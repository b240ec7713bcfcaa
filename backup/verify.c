/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Verification asks each file for itself: every byte of it against the digests in its manifest, the manifest against
 * the catalogue, the catalogue against its own root hash. The source is not needed, and a damaged file does not keep
 * others from being looked at.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backup/backup_int.h"
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"
#include "base/seed.h"

struct verifier {
	struct backup_set *set;
	const struct backup_verify_opts *o;
	struct backup_pace pace;
	struct sp_job *job;
	uint64_t findings;
};

static void report(struct verifier *v, unsigned number, const char *file, const char *text)
{
	v->findings++;
	if (v->o->found)
		v->o->found(v->o->arg, &(struct backup_finding){ .number = number, .file = file, .text = text });
}

/* What says something about the file; others say that we could not look. */
static bool about_file(int r)
{
	return r == -EBADMSG || r == -ENOENT || r == -ESTALE || r == -ENOTSUP || r == -EIO ||
	       r == -EXDEV || r == -ELOOP;
}

static void compare(struct verifier *v, unsigned number, const char *file, const struct backup_digests *is,
		    const struct backup_digests *should)
{
	uint64_t first, count;
	char text[160];

	if (is->size != should->size) {
		snprintf(text, sizeof(text), "has %" PRIu64 " bytes instead of %" PRIu64, is->size, should->size);
		report(v, number, file, text);
	}
	if (backup_digests_differ(is, should, &first, &count) && !SP_SEED_BUG(BACKUP_VERIFY_BLIND)) {
		snprintf(text, sizeof(text), "SHA-256 differs in %" PRIu64 " MiB, the first at 0x%" PRIx64, count,
			 first * BACKUP_CHUNK);
		report(v, number, file, text);
	}
}

static int verify_file(struct verifier *v, unsigned number, const char *file, const struct backup_disk *d,
		       struct sp_err *err)
{
	struct backup_digests is = { 0 };
	struct sp_err why = { 0 };
	struct store *s;
	int r = store_folder_open(v->set->folder, file, STORE_REGULAR, &s, &why);

	if (r == 0) {
		r = backup_digest_file(s, NULL, NULL, v->o->threads, &v->pace, v->job, &is, &why);
		store_close(s);
	}
	if (about_file(r)) {
		report(v, number, file, r == -ENOENT ? "missing" : sp_err_text(&why));
		return 0;
	}
	if (r < 0) {
		*err = why;
		return sp_err_prefix(err, r, "%s", file);
	}
	compare(v, number, file, &is, &d->file);
	backup_digests_fini(&is);
	return 0;
}

/* What a reader of the point would get. */
static int verify_content(struct verifier *v, const struct backup_manifest *m, const char *file,
			  const struct backup_disk *d, struct sp_err *err)
{
	struct vhd_open_opts ro = { .format = VHD_FORMAT_VHDX };
	struct backup_digests is = { 0 };
	struct sp_err why = { 0 };
	struct vhd_disk *disk;
	int r = vhd_disk_open_in(v->set->folder, file, &ro, &disk, &why);

	if (r == 0) {
		r = backup_digest_disk(disk, v->o->threads, &v->pace, v->job, &is, &why);
		vhd_disk_close(disk, NULL);
	}
	if (about_file(r)) {
		report(v, m->number, file, sp_err_text(&why));
		return 0;
	}
	if (r < 0) {
		*err = why;
		return r;
	}
	compare(v, m->number, file, &is, &d->content);
	backup_digests_fini(&is);
	return 0;
}

static int verify_disks(struct verifier *v, const struct backup_manifest *m, struct sp_err *err)
{
	char file[BACKUP_FILE_MAX];
	int r = 0;

	for (unsigned i = 0; r == 0 && i < m->disks; i++) {
		backup_disk_file(m->number, m->disk[i].name, file);
		if (v->o->only_file && strcmp(v->o->only_file, file) != 0)
			continue;
		r = verify_file(v, m->number, file, &m->disk[i], err);
		if (r == 0 && v->o->content)
			r = verify_content(v, m, file, &m->disk[i], err);
	}
	return r;
}

static int verify_point(struct verifier *v, unsigned number, unsigned *ret_parent, struct sp_err *err)
{
	struct backup_manifest *m;
	char file[BACKUP_FILE_MAX];
	struct sp_err why = { 0 };
	int r = backup_manifest_load(v->set, number, v->o->content, &m, &why);

	*ret_parent = 0;
	backup_manifest_file(number, file);
	if (about_file(r)) {
		report(v, number, file, sp_err_text(&why));
		return 0;
	}
	if (r < 0) {
		*err = why;
		return r;
	}
	*ret_parent = m->parent;
	if (v->o->key && backup_sign_verify(v->o->key, m, &why) < 0)
		report(v, number, file, sp_err_text(&why));
	if (m->parent && backup_catalogue_find(&v->set->cat, m->parent) < 0)
		report(v, number, file, "the point it stands on is not in the set");
	r = verify_disks(v, m, err);
	backup_manifest_free(m);
	return r;
}

/* Bytes to read, for the progress; what cannot be told counts nothing. */
static uint64_t total_of(struct verifier *v)
{
	uint64_t total = 0;

	for (unsigned i = 0; i < v->set->cat.points; i++) {
		struct backup_manifest *m;

		if (v->o->only_file || backup_manifest_load(v->set, v->set->cat.point[i].number, false, &m, NULL) < 0)
			continue;
		for (unsigned d = 0; d < m->disks; d++)
			total += m->disk[d].file.size + (v->o->content ? m->disk[d].size : 0);
		backup_manifest_free(m);
	}
	return total;
}

static int verify_all(struct verifier *v, struct sp_err *err)
{
	unsigned parent;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < v->set->cat.points; i++) {
		unsigned number = v->set->cat.point[i].number;

		if (backup_point_going(v->set, number))
			report(v, number, "set.json", "pruning was interrupted at this point; \"prune\" finishes it");
		else
			r = verify_point(v, number, &parent, err);
	}
	return r;
}

static int verify_line(struct verifier *v, unsigned number, struct sp_err *err)
{
	int r = 0;

	while (r == 0 && number)
		r = verify_point(v, number, &number, err);
	return r;
}

int backup_verify(struct backup_set *set, const struct backup_verify_opts *o, struct sp_job *job,
		  uint64_t *ret_findings, struct sp_err *err)
{
	struct verifier v = { .set = set, .o = o, .job = job,
			      .pace = { .rate = o->rate_limit, .start_ns = sp_env_monotonic_ns() } };
	int r;

	sp_job_start(job, total_of(&v));
	r = o->number ? verify_line(&v, o->number, err) : verify_all(&v, err);
	if (r == 0)
		sp_job_finish(job);
	if (ret_findings)
		*ret_findings = v.findings;
	return r < 0 ? r : v.findings ? -EBADMSG : 0;
}
