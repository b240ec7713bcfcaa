/* SPDX-License-Identifier: BSD-2-Clause */
#include "fuse/tree.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/seed.h"
#include "vhd/probe.h"

/* Inode numbers: root, layers/, then the files in their order, then the directories layers/<n>. */
#define INO_LAYERS	2u
#define INO_FIRST_FILE	16u

struct tree {
	struct tree_opts opts;
	struct tree_file *file;
	unsigned files;
	unsigned root_files;		/* the first ones are in the root, the others below layers/ */
	unsigned layers;		/* 0: there is no layers/ */
	int64_t born_ns;
	pthread_mutex_t lock;		/* users and disk of the layers' files */
	_Atomic uint64_t writes;	/* to the leaf, through whichever file */
};

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME_COARSE, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* ---- building ------------------------------------------------------------------------------------ */

static struct tree_file *add_file(struct tree *t, const char *name, uint64_t offset, uint64_t size)
{
	struct tree_file *f = &t->file[t->files++];

	snprintf(f->name, sizeof(f->name), "%s", name);
	f->offset = offset;
	f->size = size;
	f->layer = -1;
	f->mtime_ns = t->born_ns;
	return f;
}

static void add_leaf_file(struct tree *t, const char *name, uint64_t offset, uint64_t size)
{
	struct tree_file *f = add_file(t, name, offset, size);

	f->disk = t->opts.disk;
	f->writable = vhd_disk_writable(f->disk);
	f->leaf = true;
}

static int add_layer(struct tree *t, unsigned n)
{
	struct vhd_layer_info info;
	struct tree_file *f;
	int r;

	r = vhd_disk_layer_info(t->opts.disk, n, &info);
	if (r < 0)
		return r;
	f = add_file(t, "disk", 0, n == 0 ? vhd_disk_size(t->opts.disk) : info.size);
	f->layer = (int)n;
	f->leaf = n == 0;
	return 0;
}

static int add_all(struct tree *t, const struct vhd_probe_result *probe, struct sp_err *err)
{
	char name[TREE_NAME_MAX];
	struct tree_file *f;
	int r;

	add_leaf_file(t, "disk", 0, vhd_disk_size(t->opts.disk));
	f = add_file(t, "info.json", 0, strlen(t->opts.info));
	f->text = t->opts.info;
	for (size_t i = 0; i < probe->partitions; i++) {
		const struct vhd_partition *p = &probe->partition[i];

		snprintf(name, sizeof(name), "p%u", p->number);
		add_leaf_file(t, name, p->offset, p->size);
	}
	t->root_files = t->files;
	for (unsigned n = 0; n < t->layers; n++) {
		r = add_layer(t, n);
		if (r < 0)
			return sp_err_set(err, r, "layer %u: %s", n, strerror(-r));
	}
	return 0;
}

int tree_new(const struct tree_opts *opts, struct tree **ret_tree, struct sp_err *err)
{
	struct vhd_probe_result probe = { 0 };
	struct tree *t;
	int r;

	t = sp_zalloc(sizeof(*t));
	if (!t)
		return sp_err_set(err, -ENOMEM, "out of memory");
	t->opts = *opts;
	t->born_ns = now_ns();
	pthread_mutex_init(&t->lock, NULL);
	t->layers = opts->layers ? vhd_disk_layers(opts->disk) : 0;

	r = vhd_probe_disk(opts->disk, &probe, err);
	if (r < 0)
		goto fail;
	t->file = sp_calloc(2 + probe.partitions + t->layers, sizeof(*t->file));
	r = t->file ? add_all(t, &probe, err) : sp_err_set(err, -ENOMEM, "out of memory");
	vhd_probe_fini(&probe);
	if (r < 0)
		goto fail;
	*ret_tree = t;
	return 0;
fail:
	tree_free(t);
	return r;
}

void tree_free(struct tree *t)
{
	if (!t)
		return;
	for (unsigned i = t->root_files; i < t->files; i++)
		if (t->file[i].users && t->file[i].disk != t->opts.disk)
			vhd_disk_close(t->file[i].disk, NULL);
	pthread_mutex_destroy(&t->lock);
	sp_free(t->file);
	sp_free(t);
}

/* ---- names --------------------------------------------------------------------------------------- */

static uint64_t file_ino(unsigned index)
{
	return INO_FIRST_FILE + index;
}

static uint64_t layer_dir_ino(const struct tree *t, unsigned n)
{
	return INO_FIRST_FILE + t->files + n;
}

/* The layer whose directory @ino is, or -1. */
static int layer_of_dir(const struct tree *t, uint64_t ino)
{
	uint64_t first = layer_dir_ino(t, 0);

	return ino >= first && ino - first < t->layers ? (int)(ino - first) : -1;
}

static uint64_t lookup_root(const struct tree *t, const char *name)
{
	if (t->layers && strcmp(name, "layers") == 0)
		return INO_LAYERS;
	for (unsigned i = 0; i < t->root_files; i++)
		if (strcmp(name, t->file[i].name) == 0)
			return file_ino(i);
	return 0;
}

/* Only the spelling that readdir shows: no sign, no leading zero. */
static uint64_t lookup_layer(const struct tree *t, const char *name)
{
	char canonical[TREE_NAME_MAX];
	unsigned long n = strtoul(name, NULL, 10);

	snprintf(canonical, sizeof(canonical), "%lu", n);
	return n < t->layers && strcmp(name, canonical) == 0 ? layer_dir_ino(t, (unsigned)n) : 0;
}

uint64_t tree_lookup(const struct tree *t, uint64_t dir, const char *name)
{
	int n = layer_of_dir(t, dir);

	if (n >= 0)
		return strcmp(name, "disk") == 0 ? file_ino(t->root_files + (unsigned)n) : 0;
	if (dir == INO_LAYERS)
		return lookup_layer(t, name);
	return dir == TREE_ROOT ? lookup_root(t, name) : 0;
}

uint64_t tree_entry(const struct tree *t, uint64_t dir, uint64_t index, char ret_name[static TREE_NAME_MAX])
{
	if (dir == TREE_ROOT && index < t->root_files) {
		snprintf(ret_name, TREE_NAME_MAX, "%s", t->file[index].name);
		return file_ino((unsigned)index);
	}
	if (dir == TREE_ROOT && index == t->root_files && t->layers) {
		snprintf(ret_name, TREE_NAME_MAX, "layers");
		return INO_LAYERS;
	}
	if (dir == INO_LAYERS && index < t->layers) {
		snprintf(ret_name, TREE_NAME_MAX, "%" PRIu64, index);
		return layer_dir_ino(t, (unsigned)index);
	}
	if (layer_of_dir(t, dir) >= 0 && index == 0) {
		snprintf(ret_name, TREE_NAME_MAX, "disk");
		return tree_lookup(t, dir, "disk");
	}
	return 0;
}

bool tree_is_dir(const struct tree *t, uint64_t ino)
{
	return ino == TREE_ROOT || (ino == INO_LAYERS && t->layers) || layer_of_dir(t, ino) >= 0;
}

static nlink_t dir_links(const struct tree *t, uint64_t ino)
{
	if (ino == TREE_ROOT)
		return 2 + (t->layers > 0);
	return ino == INO_LAYERS ? 2 + t->layers : 2;
}

struct tree_file *tree_file(struct tree *t, uint64_t ino)
{
	return ino >= INO_FIRST_FILE && ino - INO_FIRST_FILE < t->files ? &t->file[ino - INO_FIRST_FILE] : NULL;
}

int tree_stat(const struct tree *t, uint64_t ino, struct stat *ret_st)
{
	struct stat st = { .st_ino = ino, .st_uid = t->opts.uid, .st_gid = t->opts.gid, .st_blksize = 4096 };
	int64_t mtime = t->born_ns;

	if (tree_is_dir(t, ino)) {
		st.st_mode = S_IFDIR | 0500;
		st.st_nlink = dir_links(t, ino);
	} else if (ino >= INO_FIRST_FILE && ino - INO_FIRST_FILE < t->files) {
		const struct tree_file *f = &t->file[ino - INO_FIRST_FILE];

		st.st_mode = S_IFREG | (f->writable ? 0600 : 0400);
		st.st_nlink = 1;
		st.st_size = (off_t)f->size;
		st.st_blocks = (blkcnt_t)((f->size + 511) / 512);
		mtime = f->mtime_ns;
	} else {
		return -ENOENT;
	}
	st.st_mtim.tv_sec = mtime / 1000000000;
	st.st_mtim.tv_nsec = mtime % 1000000000;
	st.st_atim = st.st_ctim = st.st_mtim;
	*ret_st = st;
	return 0;
}

/* ---- layers on demand ---------------------------------------------------------------------------- */

static int open_layer(struct tree *t, struct tree_file *f, struct sp_err *err)
{
	struct vhd_open_opts opts = *t->opts.open;
	struct vhd_layer_info info;
	int r;

	if (f->layer == 0) {
		f->disk = t->opts.disk;
		return 0;
	}
	r = vhd_disk_layer_info(t->opts.disk, (unsigned)f->layer, &info);
	if (r < 0)
		return sp_err_set(err, r, "layer %d: %s", f->layer, strerror(-r));
	opts.flags &= ~VHD_OPEN_WRITE;
	opts.format = info.format;
	opts.image_root = t->opts.image_root;
	r = vhd_disk_open(info.path, &opts, &f->disk, err);
	return r < 0 ? sp_err_prefix(err, r, "layer %d", f->layer) : 0;
}

int tree_file_open(struct tree *t, struct tree_file *f, struct sp_err *err)
{
	int r = 0;

	if (f->layer < 0)
		return 0;
	pthread_mutex_lock(&t->lock);
	if (f->users == 0)
		r = open_layer(t, f, err);
	if (r == 0)
		f->users++;
	pthread_mutex_unlock(&t->lock);
	return r;
}

void tree_file_close(struct tree *t, struct tree_file *f)
{
	if (f->layer < 0)
		return;
	pthread_mutex_lock(&t->lock);
	if (--f->users == 0) {
		if (f->disk != t->opts.disk)
			vhd_disk_close(f->disk, NULL);	/* read-only: nothing that could be lost */
		f->disk = NULL;
	}
	pthread_mutex_unlock(&t->lock);
}

/* ---- page cache ---------------------------------------------------------------------------------- */

void tree_file_wrote(struct tree *t, struct tree_file *f, bool direct)
{
	/* Own first: a reader between the two sees too few foreign writes only for writes not yet answered. */
	if (!direct)
		f->own_writes++;
	t->writes++;
	f->mtime_ns = now_ns();
}

bool tree_file_keep_cache(struct tree *t, struct tree_file *f)
{
	uint64_t foreign;

	if (!f->leaf || SP_SEED_BUG(MOUNT_STALE_CACHE))
		return true;
	foreign = t->writes - f->own_writes;
	return atomic_exchange(&f->foreign_seen, foreign) == foreign;
}

const struct tree_file *tree_writable(const struct tree *t, unsigned index)
{
	unsigned i = 0;

	for (; i < t->root_files; i++)
		if (t->file[i].writable && index-- == 0)
			return &t->file[i];
	return NULL;
}
