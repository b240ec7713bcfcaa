/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A new point, in this order, each step durable before the next:
 *
 *	announced	the catalogue says which files are being written
 *	copied		they are complete, as *.part
 *	named		they have their names
 *	told		the manifest has its name
 *	listed		the catalogue lists the point and announces nothing
 *
 * Only the last step makes a point. What is found of an interrupted one before it is compared with the source and
 * completed.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#include "backup/backup_int.h"
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"
#include "base/seed.h"

#define BLOCKS_MAX (2u << 20)		/* entries of a block table: 16 MiB */

struct making {
	struct backup_set *set;
	const struct backup_source *source;
	unsigned count;
	const struct backup_create_opts *opts;
	struct backup_manifest *below, *m;
	struct backup_pace pace;
	struct sp_job *job;
	struct backup_create_result result;
};

/* ---- what to build on ---------------------------------------------------------------------------- */

static uint64_t image_size(struct vhd_disk *d)
{
	return sp_align_up(vhd_disk_size(d), vhd_disk_logical_sector(d));
}

static int check_sources(const struct making *k, struct sp_err *err)
{
	if (k->count == 0 || k->count > BACKUP_DISKS_MAX)
		return sp_err_set(err, -EINVAL, "%u disks, possible are 1 to %d", k->count, BACKUP_DISKS_MAX);
	for (unsigned i = 0; i < k->count; i++) {
		if (!backup_name_ok(k->source[i].name))
			return sp_err_set(err, -EINVAL, "\"%s\" is no name of a disk: letters, digits, '.', '_', '-'",
					  k->source[i].name);
		if (vhd_disk_size(k->source[i].disk) == 0 || image_size(k->source[i].disk) > BACKUP_SIZE_MAX)
			return sp_err_set(err, -ENOTSUP, "disk %s has %s", k->source[i].name,
					  vhd_disk_size(k->source[i].disk) ? "more than 64 TiB" : "no bytes");
		for (unsigned j = 0; j < i; j++)
			if (strcmp(k->source[i].name, k->source[j].name) == 0)
				return sp_err_set(err, -EEXIST, "two disks are called %s", k->source[i].name);
	}
	return 0;
}

/* A child is never smaller than its parent, and has its sectors. */
static bool builds_on(const struct making *k, const struct backup_manifest *below)
{
	if (below->disks != k->count)
		return false;
	for (unsigned i = 0; i < k->count; i++) {
		const struct backup_disk *d = backup_manifest_disk(below, k->source[i].name);

		if (!d || d->size > image_size(k->source[i].disk))
			return false;
	}
	return true;
}

static int choose_below(struct making *k, struct sp_err *err)
{
	int r;

	if (k->opts->full || k->set->cat.points == 0)
		return 0;
	r = backup_manifest_load(k->set, 0, true, &k->below, err);
	if (r < 0)
		return sp_err_prefix(err, r, "cannot build on the newest point (a full backup would not need it)");
	if (!builds_on(k, k->below)) {
		backup_manifest_free(k->below);
		k->below = NULL;
	}
	return 0;
}

/* ---- what an interrupted call left --------------------------------------------------------------- */

int backup_drop_pending(struct backup_set *set, struct sp_err *err)
{
	char file[BACKUP_FILE_MAX], part[BACKUP_FILE_MAX + 8];

	for (unsigned i = 0; i < set->cat.pending_disks; i++) {
		backup_disk_file(set->cat.pending, set->cat.pending_disk[i], file);
		backup_part(file, part);
		store_folder_unlink(set->folder, part);
		store_folder_unlink(set->folder, file);
	}
	backup_manifest_file(set->cat.pending, file);
	store_folder_unlink(set->folder, file);
	set->cat.pending = set->cat.pending_disks = 0;
	return backup_catalogue_save(set->folder, &set->cat, err);
}

static bool same_disks(const struct backup_catalogue *c, const struct backup_manifest *m)
{
	if (c->pending_disks != m->disks)
		return false;
	for (unsigned i = 0; i < m->disks; i++)
		if (strcmp(c->pending_disk[i], m->disk[i].name) != 0)
			return false;
	return true;
}

/* Files that had their names already are unfinished again. */
static int rename_back(struct backup_set *set, const struct backup_manifest *m, struct sp_err *err)
{
	char file[BACKUP_FILE_MAX], part[BACKUP_FILE_MAX + 8];
	int r = 0;

	for (unsigned i = 0; r == 0 && i < m->disks; i++) {
		struct store *s;

		backup_disk_file(set->cat.pending, m->disk[i].name, file);
		backup_part(file, part);
		if (store_folder_open(set->folder, file, STORE_NO_LOCK, &s, NULL) < 0)
			continue;
		store_close(s);
		r = backup_rename(set->folder, file, part, err);
	}
	return r;
}

/* Answers 1 when the same point was announced before and what there is of it can be continued. */
int backup_announce(struct backup_set *set, unsigned number, const struct backup_manifest *m, struct sp_err *err)
{
	struct backup_catalogue *c = &set->cat;
	int r = 0;

	if (c->pending == number && same_disks(c, m)) {
		r = rename_back(set, m, err);
		return r < 0 ? r : 1;
	}
	if (c->pending)
		r = backup_drop_pending(set, err);
	if (r < 0)
		return r;
	sp_free(c->pending_disk);
	c->pending_disk = sp_calloc(m->disks, sizeof(*c->pending_disk));
	if (!c->pending_disk)
		return sp_err_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < m->disks; i++)
		memcpy(c->pending_disk[i], m->disk[i].name, sizeof(c->pending_disk[i]));
	c->pending = number;
	c->pending_disks = m->disks;
	return backup_catalogue_save(set->folder, c, err);
}

/* ---- one disk ------------------------------------------------------------------------------------ */

/* The same for all points of one disk, as the format wants it of a chain. */
static int disk_id(const struct backup_set *set, const char *name, struct sp_guid *ret)
{
	uint8_t in[16 + BACKUP_NAME_MAX], out[32];
	size_t len = strlen(name);

	memcpy(in, set->cat.id.b, 16);
	memcpy(in + 16, name, len);
	if (EVP_Digest(in, 16 + len, out, NULL, EVP_sha256(), NULL) != 1)
		return -ENOMEM;
	memcpy(ret->b, out, 16);
	return 0;
}

static uint32_t block_size(uint64_t size)
{
	uint32_t block = BACKUP_CHUNK;

	while (size / block > BLOCKS_MAX)
		block *= 2;
	return block;
}

static int make_leaf(struct making *k, const struct backup_disk *d, struct vhd_disk *source, const char *part,
		     struct sp_err *err)
{
	const struct backup_disk *below = backup_manifest_disk(k->below, d->name);
	const char *path = k->set->folder->path;
	char parent[BACKUP_FILE_MAX];
	SP_AUTO_FREE char *absolute = NULL;
	struct sp_guid id;
	struct vhd_format_create c = {
		.size = d->size, .kind = VHD_KIND_DYNAMIC, .block_size = block_size(d->size), .disk_id = &id,
		.logical_sector = vhd_disk_logical_sector(source), .physical_sector = vhd_disk_physical_sector(source),
	};

	if (disk_id(k->set, d->name, &id) < 0)
		return sp_err_set(err, -ENOMEM, "out of memory");
	if (below) {
		backup_disk_file(k->below->number, d->name, parent);
		absolute = path && path[0] == '/' ? sp_asprintf("%s/%s", path, parent) : NULL;
		c.kind = VHD_KIND_DIFFERENCING;
		c.parent_identity = below->identity;
		c.parent_relative = parent;
		c.parent_absolute = absolute;
	}
	return vhd_create_in(k->set->folder, part, VHD_FORMAT_VHDX, &c, err);
}

static bool fits(struct vhd_disk *leaf, const struct backup_disk *d, const struct backup_disk *below)
{
	struct vhd_layer_info info;

	return vhd_disk_layer_info(leaf, 0, &info) == 0 && info.size == d->size &&
	       info.has_parent == (below != NULL) &&
	       (!below || sp_guid_equal(&info.parent_identity, &below->identity));
}

/* What is there already, if it is of use; otherwise a new one. */
static int open_leaf(struct making *k, const struct backup_disk *d, struct vhd_disk *source, const char *part,
		     struct vhd_disk **ret, bool *ret_fresh, struct sp_err *err)
{
	struct vhd_open_opts rw = { .flags = VHD_OPEN_WRITE | VHD_OPEN_BULK, .format = VHD_FORMAT_VHDX };
	int r;

	*ret_fresh = false;
	if (k->result.continued && vhd_disk_open_in(k->set->folder, part, &rw, ret, NULL) == 0) {
		if (fits(*ret, d, backup_manifest_disk(k->below, d->name)))
			return 0;
		vhd_disk_abandon(*ret);
	}
	*ret_fresh = true;
	r = store_folder_unlink(k->set->folder, part);
	if (r < 0 && r != -ENOENT)
		return sp_err_set(err, r, "cannot replace %s: %s", part, strerror(-r));
	r = make_leaf(k, d, source, part, err);
	return r < 0 ? r : vhd_disk_open_in(k->set->folder, part, &rw, ret, err);
}

static bool ranges_usable(const struct making *k, const struct backup_source *s)
{
	return s->changes_known && k->below && s->changes_since == k->below->number;
}

static int copy_disk(struct making *k, const struct backup_source *s, struct backup_disk *d, struct vhd_disk *leaf,
		     bool fresh, struct sp_err *err)
{
	static const struct backup_digests nothing;
	static const struct backup_range none;
	const struct backup_disk *below = backup_manifest_disk(k->below, d->name);
	struct backup_copy c = {
		.source = s->disk, .leaf = leaf, .base = below ? &below->content : &nothing, .fresh = fresh,
		.full = !below, .threads = k->opts->threads, .pace = &k->pace, .content = &d->content,
	};
	int r;

	if (ranges_usable(k, s)) {
		c.changed = s->changes ? s->changed : &none;
		c.changes = s->changes;
	}
	r = backup_copy(&c, k->job, err);
	k->result.bytes_read += c.bytes_read;
	k->result.bytes_written += c.bytes_written;
	return r;
}

static int learn_identity(struct store_folder *f, const char *part, struct sp_guid *ret, struct sp_err *err)
{
	struct vhd_open_opts alone = { .flags = VHD_OPEN_NO_PARENT, .format = VHD_FORMAT_VHDX };
	struct vhd_layer_info info;
	struct vhd_disk *d;
	int r = vhd_disk_open_in(f, part, &alone, &d, err);

	if (r < 0)
		return r;
	r = vhd_disk_layer_info(d, 0, &info);
	if (r == 0)
		*ret = info.identity;
	vhd_disk_close(d, NULL);
	return r;
}

static int make_disk(struct making *k, const struct backup_source *s, struct backup_disk *d, struct sp_err *err)
{
	char file[BACKUP_FILE_MAX], part[BACKUP_FILE_MAX + 8];
	struct vhd_disk *leaf;
	bool fresh;
	int r;

	backup_disk_file(k->m->number, d->name, file);
	backup_part(file, part);
	r = open_leaf(k, d, s->disk, part, &leaf, &fresh, err);
	if (r < 0)
		return r;
	r = copy_disk(k, s, d, leaf, fresh, err);
	if (r < 0 && r != -ECANCELED)
		vhd_disk_abandon(leaf);
	else if (r < 0)
		vhd_disk_close(leaf, NULL);
	else
		r = vhd_disk_close(leaf, err);
	if (r == 0)
		r = learn_identity(k->set->folder, part, &d->identity, err);
	if (r == 0)
		r = backup_copy_file_digests(k->set->folder, part, &d->content, k->opts->threads, &d->file, err);
	return r;
}

/* ---- the point ----------------------------------------------------------------------------------- */

static int fill_disk(struct backup_disk *d, const struct backup_source *s, struct sp_err *err)
{
	memcpy(d->name, s->name, strlen(s->name) + 1);
	strncat(d->source, s->path ? s->path : "", sizeof(d->source) - 1);
	if (s->track)
		strncat(d->track, s->track, sizeof(d->track) - 1);
	d->source_size = vhd_disk_size(s->disk);
	d->size = image_size(s->disk);
	return backup_digests_init(&d->content, d->size) < 0 ? sp_err_set(err, -ENOMEM, "out of memory") : 0;
}

static int fill_manifest(struct making *k, struct sp_err *err)
{
	struct backup_manifest *m = k->m = sp_zalloc(sizeof(*m));
	uint64_t total = 0;
	int r = 0;

	if (m)
		m->disk = sp_calloc(k->count, sizeof(*m->disk));
	if (!m || !m->disk)
		return sp_err_set(err, -ENOMEM, "out of memory");
	m->number = k->set->cat.next;
	m->parent = k->below ? k->below->number : 0;
	m->set = k->set->cat.id;
	sp_env_guid(&m->id);
	m->time = sp_env_time();
	m->guest_time = k->opts->guest_time;
	m->level = k->opts->level;
	if (k->opts->reasons)
		strncat(m->reasons, k->opts->reasons, sizeof(m->reasons) - 1);
	if (k->opts->machine && strlen(k->opts->machine) > BACKUP_MACHINE_MAX)
		return sp_err_set(err, -E2BIG, "the machine's configuration has more than %u bytes",
				  BACKUP_MACHINE_MAX);
	m->machine = k->opts->machine ? sp_strdup(k->opts->machine) : NULL;
	if (k->opts->machine && !m->machine)
		return sp_err_set(err, -ENOMEM, "out of memory");
	m->disks = k->count;
	for (unsigned i = 0; r == 0 && i < k->count; i++) {
		r = fill_disk(&m->disk[i], &k->source[i], err);
		total += m->disk[i].size;
	}
	sp_job_start(k->job, total);
	return r;
}

static int name_files(struct making *k, struct sp_err *err)
{
	char file[BACKUP_FILE_MAX], part[BACKUP_FILE_MAX + 8];
	int r = 0;

	for (unsigned i = 0; r == 0 && i < k->count; i++) {
		backup_disk_file(k->m->number, k->m->disk[i].name, file);
		backup_part(file, part);
		r = backup_rename(k->set->folder, part, file, err);
	}
	return r;
}

static int make(struct making *k, struct sp_err *err)
{
	SP_AUTO_FREE char *text = NULL;
	int r = fill_manifest(k, err);

	if (r == 0)
		r = backup_announce(k->set, k->m->number, k->m, err);
	if (r > 0) {
		k->result.continued = true;
		r = 0;
	}
	for (unsigned i = 0; r == 0 && i < k->count; i++) {
		r = make_disk(k, &k->source[i], &k->m->disk[i], err);
		if (r < 0)
			sp_err_prefix(err, r, "disk %s", k->source[i].name);
	}
	if (r == 0)
		r = backup_manifest_encode(k->m, k->below, k->opts->key, &text, err);
	if (r == 0 && SP_SEED_BUG(BACKUP_LISTED_TOO_EARLY)) {
		r = backup_manifest_commit(k->set, k->m->number, text, strlen(text), err);
		return r < 0 ? r : name_files(k, err);
	}
	if (r == 0)
		r = name_files(k, err);
	if (r == 0)
		r = backup_manifest_commit(k->set, k->m->number, text, strlen(text), err);
	return r;
}

/* The catalogue as it stands on disk is the truth about what failed. */
static void give_up(struct backup_set *set, int r)
{
	struct backup_catalogue c;

	if (backup_catalogue_load(set->folder, &c, NULL) < 0)
		return;
	backup_catalogue_fini(&set->cat);
	set->cat = c;
	if (r == -ENOSPC && set->cat.pending)
		backup_drop_pending(set, NULL);
}

int backup_create(struct backup_set *set, const struct backup_source *sources, unsigned count,
		  const struct backup_create_opts *opts, struct sp_job *job, struct backup_create_result *ret,
		  struct sp_err *err)
{
	struct making k = { .set = set, .source = sources, .count = count, .opts = opts, .job = job,
			    .pace = { .rate = opts->rate_limit, .start_ns = sp_env_monotonic_ns() } };
	int r = backup_set_writable(set, err);

	if (r == 0)
		r = check_sources(&k, err);
	if (r == 0 && set->cat.next > BACKUP_POINTS_MAX)
		r = sp_err_set(err, -ENOSPC, "the set has had %u points, that is the end; begin another set",
			       BACKUP_POINTS_MAX);
	if (r == 0 && set->cat.drops)
		r = backup_prune_finish(set, opts->key, NULL, err);
	if (r == 0)
		r = choose_below(&k, err);
	if (r == 0) {
		r = make(&k, err);
		if (r < 0)
			give_up(set, r);
	}
	if (r == 0) {
		sp_job_finish(job);
		k.result.number = k.m->number;
		k.result.full = !k.below;
		if (ret)
			*ret = k.result;
	}
	backup_manifest_free(k.below);
	backup_manifest_free(k.m);
	return r;
}
