/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Dropping points. Those below one that stays are merged into it; what lies above all that stay is deleted.
 *
 *	recorded	the catalogue says which points go into which, before anything is changed
 *	merged		disk by disk; each merge is crash-safe by itself, and what stays reads the same throughout
 *	checked		its content is read and compared with its manifest
 *	expected	the catalogue names the manifest that is about to replace the old one
 *	told		the new manifest stands in place of the old one
 *	gone		files of dropped points are deleted, and the catalogue forgets them
 *
 * Cut anywhere, the next call finds where it was by looking at the files.
 */
#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <string.h>
#include <time.h>

#include "backup/backup_int.h"
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/seed.h"
#include "vhd/ops_int.h"

static bool is_dropped(const struct backup_catalogue *c, unsigned number)
{
	for (unsigned i = 0; i < c->drops; i++)
		if (c->drop[i] == number)
			return true;
	return false;
}

bool backup_point_going(const struct backup_set *set, unsigned number)
{
	return set->cat.drops && (number == set->cat.into || is_dropped(&set->cat, number));
}

/* ---- rules --------------------------------------------------------------------------------------- */

/* Which day, and which week beginning on a Monday, of local time. */
static int64_t day_of(int64_t unix_time)
{
	time_t t = (time_t)unix_time;
	struct tm tm;

	localtime_r(&t, &tm);
	return (unix_time + tm.tm_gmtoff) / 86400;
}

static int64_t week_of(int64_t unix_time)
{
	return (day_of(unix_time) + 3) / 7;	/* day 0 was a Thursday */
}

/* From the newest on, the last one of each period stays, for @count periods. */
static void keep_periods(const int64_t *time, bool *keep, unsigned points, unsigned count, int64_t (*period)(int64_t))
{
	int64_t last = INT64_MIN;

	for (unsigned i = points; i > 0 && count > 0; i--) {
		int64_t p = period(time[i - 1]);

		if (p == last)
			continue;
		keep[i - 1] = true;
		last = p;
		count--;
	}
}

static int times_of(struct backup_set *set, int64_t *ret, struct sp_err *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < set->cat.points; i++) {
		struct backup_manifest *m;

		r = backup_manifest_load(set, set->cat.point[i].number, false, &m, err);
		if (r < 0)
			break;
		ret[i] = m->time;
		backup_manifest_free(m);
	}
	return r;
}

unsigned backup_prune_plan(struct backup_set *set, const struct backup_keep *k, unsigned *ret_drop, struct sp_err *err)
{
	unsigned n = set->cat.points, drops = 0;
	SP_AUTO_FREE int64_t *time = sp_calloc(n + 1, sizeof(*time));
	SP_AUTO_FREE bool *keep = sp_calloc(n + 1, sizeof(*keep));

	if (!time || !keep || times_of(set, time, err) < 0)
		return 0;
	for (unsigned i = 0; i < n; i++)
		keep[i] = n - i <= k->last || i == n - 1;
	keep_periods(time, keep, n, k->daily, day_of);
	keep_periods(time, keep, n, k->weekly, week_of);
	for (unsigned i = 0; i < n; i++)
		if (!keep[i])
			ret_drop[drops++] = set->cat.point[i].number;
	return drops;
}

/* ---- merging ------------------------------------------------------------------------------------- */

/* Parent of the oldest dropped point, and on how many layers that one stands. */
static int find_bottom(struct backup_set *set, unsigned *ret_parent, unsigned *ret_layers, struct sp_err *err)
{
	unsigned number = set->cat.drop[0], layers = 0;

	for (bool first = true; number; first = false) {
		struct backup_manifest *m;
		int r = backup_manifest_load(set, number, false, &m, err);

		if (r < 0)
			return r;
		number = m->parent;
		backup_manifest_free(m);
		if (first)
			*ret_parent = number;
		layers += !first;
	}
	*ret_layers = layers;
	return 0;
}

static int layers_of(struct store_folder *f, const char *file, unsigned *ret, struct sp_err *err)
{
	struct vhd_open_opts ro = { .format = VHD_FORMAT_VHDX };
	struct vhd_disk *d;
	int r = vhd_disk_open_in(f, file, &ro, &d, err);

	if (r < 0)
		return r;
	*ret = vhd_disk_layers(d);
	return vhd_disk_close(d, err);
}

static int check_content(struct store_folder *f, const char *file, const struct backup_disk *d, struct sp_err *err)
{
	struct vhd_open_opts ro = { .format = VHD_FORMAT_VHDX };
	struct backup_digests is;
	uint64_t first, count;
	struct vhd_disk *disk;
	int r = vhd_disk_open_in(f, file, &ro, &disk, err);

	if (r < 0)
		return r;
	r = backup_digest_disk(disk, 0, NULL, NULL, &is, err);
	vhd_disk_close(disk, NULL);
	if (r < 0)
		return r;
	if (is.size != d->content.size || backup_digests_differ(&is, &d->content, &first, &count))
		r = sp_err_set(err, -EBADMSG, "a file of this point was damaged before pruning; its manifest stays as "
			       "it is, \"verify --content\" tells where");
	backup_digests_fini(&is);
	return r;
}

/* @below: layers that stay under the dropped ones. */
static int merge_disk(struct backup_set *set, struct backup_disk *d, unsigned number, unsigned below,
		      struct sp_job *job, struct sp_err *err)
{
	struct vhd_merge_opts o = { 0 };
	char file[BACKUP_FILE_MAX];
	unsigned layers = 0;
	int r;

	backup_disk_file(number, d->name, file);
	r = layers_of(set->folder, file, &layers, err);
	if (r == 0 && layers > below + 1) {
		o.layers = layers - below - 1;
		r = vhd_merge_in(set->folder, file, &o, job, NULL, err);
	}
	if (r == 0)
		r = check_content(set->folder, file, d, err);
	backup_digests_fini(&d->file);
	if (r == 0)
		r = backup_copy_file_digests(set->folder, file, &d->content, 0, &d->file, err);
	return r < 0 ? sp_err_prefix(err, r, "%s", file) : 0;
}

/* Catalogue first, then the manifest: whichever of the two stands there after a cut is known. */
static int replace_manifest(struct backup_set *set, struct backup_manifest *m, unsigned parent,
			    const struct backup_key *key, struct sp_err *err)
{
	struct backup_manifest *below = NULL;
	SP_AUTO_FREE char *text = NULL;
	char file[BACKUP_FILE_MAX];
	int r = 0;

	if (m->is_signed && !key)
		return sp_err_set(err, -EINVAL, "point %u is signed: pruning changes its manifest and needs the key",
				  m->number);
	if (parent)
		r = backup_manifest_load(set, parent, true, &below, err);
	m->parent = parent;
	if (r == 0)
		r = backup_manifest_encode(m, below, key, &text, err);
	backup_manifest_free(below);
	if (r == 0 && EVP_Digest(text, strlen(text), set->cat.into_manifest, NULL, EVP_sha256(), NULL) != 1)
		r = sp_err_set(err, -ENOMEM, "out of memory");
	if (r == 0 && !SP_SEED_BUG(BACKUP_PRUNE_UNEXPECTED))
		r = backup_catalogue_save(set->folder, &set->cat, err);
	backup_manifest_file(m->number, file);
	return r < 0 ? r : backup_file_write(set->folder, file, text, strlen(text), err);
}

static int merge_points(struct backup_set *set, const struct backup_key *key, struct sp_job *job, struct sp_err *err)
{
	struct backup_manifest *m;
	unsigned parent = 0, below = 0;
	int r = backup_manifest_load(set, set->cat.into, false, &m, err);

	if (r < 0)
		return r;
	if (!is_dropped(&set->cat, m->parent)) {	/* the new manifest is there already */
		backup_manifest_free(m);
		return 0;
	}
	backup_manifest_free(m);
	r = backup_manifest_load(set, set->cat.into, true, &m, err);
	if (r < 0)
		return r;
	r = find_bottom(set, &parent, &below, err);
	if (r == 0 && m->is_signed && !key)
		r = sp_err_set(err, -EINVAL, "point %u is signed: pruning changes its manifest and needs the key",
			       m->number);
	for (unsigned i = 0; r == 0 && i < m->disks; i++)
		r = merge_disk(set, &m->disk[i], m->number, below, job, err);
	if (r == 0)
		r = replace_manifest(set, m, parent, key, err);
	backup_manifest_free(m);
	return r;
}

/* ---- deleting ------------------------------------------------------------------------------------ */

static int delete_file(struct store_folder *f, const char *file, struct sp_err *err)
{
	int r = store_folder_unlink(f, file);

	return r < 0 && r != -ENOENT ? sp_err_set(err, r, "cannot delete %s: %s", file, strerror(-r)) : 0;
}

/* The manifest goes last: it tells the files. One that cannot be read leaves its files behind. */
static int delete_point(struct backup_set *set, unsigned number, struct sp_err *err)
{
	struct backup_manifest *m;
	char file[BACKUP_FILE_MAX];
	int r = 0;

	if (backup_manifest_load(set, number, false, &m, NULL) == 0) {
		for (unsigned i = 0; r == 0 && i < m->disks; i++) {
			backup_disk_file(number, m->disk[i].name, file);
			r = delete_file(set->folder, file, err);
		}
		backup_manifest_free(m);
	}
	backup_manifest_file(number, file);
	return r < 0 ? r : delete_file(set->folder, file, err);
}

static void forget(struct backup_catalogue *c)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < c->points; i++) {
		if (is_dropped(c, c->point[i].number))
			continue;
		c->point[kept] = c->point[i];
		if (c->into == c->point[kept].number)
			memcpy(c->point[kept].manifest, c->into_manifest, 32);
		kept++;
	}
	c->points = kept;
	c->drops = c->into = 0;
	memset(c->into_manifest, 0, 32);
}

int backup_prune_finish(struct backup_set *set, const struct backup_key *key, struct sp_job *job, struct sp_err *err)
{
	int r = set->cat.into ? merge_points(set, key, job, err) : 0;

	for (unsigned i = set->cat.drops; r == 0 && i > 0; i--)		/* children before parents */
		r = delete_point(set, set->cat.drop[i - 1], err);
	if (r == 0) {
		r = store_folder_sync(set->folder, "set.json");
		if (r < 0)
			return sp_err_set(err, r, "%s", strerror(-r));
		forget(&set->cat);
		r = backup_catalogue_save(set->folder, &set->cat, err);
	}
	return r < 0 ? sp_err_prefix(err, r, "pruning") : 0;
}

/* ---- the operation ------------------------------------------------------------------------------- */

static bool among(unsigned number, const unsigned *list, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (list[i] == number)
			return true;
	return false;
}

/* One run of points that go into one that stays, or nowhere: *ret_into 0. Oldest first. Answers how many. */
static int next_run(struct backup_set *set, const unsigned *drop, unsigned count, unsigned *ret_run, unsigned *ret_n,
		    unsigned *ret_into, struct sp_err *err)
{
	*ret_n = *ret_into = 0;
	for (unsigned i = 0; i < set->cat.points; i++) {
		unsigned number = set->cat.point[i].number;
		struct backup_manifest *m;
		int r;

		if (*ret_n == 0 && !among(number, drop, count))
			continue;
		r = backup_manifest_load(set, number, false, &m, err);
		if (r < 0)
			return r;
		if (*ret_n && m->parent == 0) {		/* the next full backup: nobody inherits */
			backup_manifest_free(m);
			return 0;
		}
		backup_manifest_free(m);
		if (!among(number, drop, count)) {
			*ret_into = number;
			return 0;
		}
		ret_run[(*ret_n)++] = number;
	}
	return 0;
}

static int record(struct backup_set *set, const unsigned *run, unsigned n, unsigned into, struct sp_err *err)
{
	struct backup_catalogue *c = &set->cat;
	unsigned *copy = sp_calloc(n, sizeof(*copy));

	if (!copy)
		return sp_err_set(err, -ENOMEM, "out of memory");
	memcpy(copy, run, n * sizeof(*copy));
	sp_free(c->drop);
	c->drop = copy;
	c->drops = n;
	c->into = into;
	memset(c->into_manifest, 0, 32);
	return backup_catalogue_save(set->folder, c, err);
}

static int check_key(struct backup_set *set, unsigned into, const struct backup_key *key, struct sp_err *err)
{
	struct backup_point p;
	int r = into && !key ? backup_point_info(set, into, &p, err) : 0;

	if (r == 0 && into && !key && p.is_signed)
		r = sp_err_set(err, -EINVAL, "point %u is signed: pruning changes its manifest and needs the key",
			       into);
	return r;
}

int backup_prune(struct backup_set *set, const unsigned *drop, unsigned count, const struct backup_key *key,
		 struct sp_job *job, struct sp_err *err)
{
	SP_AUTO_FREE unsigned *run = sp_calloc(set->cat.points + 1, sizeof(*run));
	unsigned n = 0, into = 0;
	int r = run ? backup_set_writable(set, err) : sp_err_set(err, -ENOMEM, "out of memory");

	if (r == 0 && set->cat.drops)
		r = backup_prune_finish(set, key, job, err);
	if (r == 0 && set->cat.pending && count)
		r = backup_drop_pending(set, err);	/* it may stand on a point that goes */
	while (r == 0) {
		r = next_run(set, drop, count, run, &n, &into, err);
		if (r < 0 || n == 0)
			break;
		r = check_key(set, into, key, err);
		if (r == 0)
			r = record(set, run, n, into, err);
		if (r == 0)
			r = backup_prune_finish(set, key, job, err);
	}
	return r;
}
