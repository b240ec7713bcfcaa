/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The snapshots of a disk: the layers below the leaf that are called after it, and what their side-cars say. A snapshot
 * without one was taken offline; its time is that of the file.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "vhd/live_int.h"

struct listing {
	struct vhd_live_snapshot *list;
	size_t count;
};

/* Names alone, under the lock; the rest needs none. */
static int gather(struct vhd_disk *d, struct listing *l)
{
	const char *image, *file;
	int r = 0;

	pthread_mutex_lock(&d->meta);
	image = disk_layer_name(d, d->layers - 1);
	l->list = sp_calloc(d->layers, sizeof(*l->list));
	if (!l->list || !image)
		r = l->list ? -EXDEV : -ENOMEM;
	for (unsigned level = d->layers - 1; r == 0 && level-- > 0;) {
		struct vhd_live_snapshot *s = &l->list[l->count];

		file = disk_layer_name(d, level);
		if (!file || !op_snapshot_name(image, file, s->name, sizeof(s->name)))
			continue;
		snprintf(s->file, sizeof(s->file), "%s", file);
		s->depth = d->layers - 1 - level;
		l->count++;
	}
	pthread_mutex_unlock(&d->meta);
	return r;
}

static int file_time(struct store_folder *f, const char *name, int64_t *ret)
{
	struct store *s;
	int r = store_folder_open(f, name, STORE_NO_LOCK, &s, NULL);

	if (r < 0)
		return r;
	r = store_mtime(s, ret);
	store_close(s);
	return r;
}

static int add_facts(struct store_folder *f, struct vhd_live_snapshot *s, const struct vhd_live_snapshot *below)
{
	SP_AUTO_FREE char *name = live_name_meta(s->file);
	struct live_meta meta = { 0 };

	if (!name)
		return -ENOMEM;
	snprintf(s->parent, sizeof(s->parent), "%s", below ? below->name : "");
	s->merging = live_name_reserved(s->name);
	if (live_meta_read(f, name, &meta) < 0)
		return file_time(f, s->file, &s->time);
	s->set = meta.set;
	s->time = meta.time;
	memcpy(s->level, meta.level, sizeof(s->level));
	return 0;
}

int vhd_live_list(struct vhd_disk *d, struct vhd_live_snapshot **ret_list, size_t *ret_count, struct sp_err *err)
{
	struct listing l = { 0 };
	int r = gather(d, &l);

	for (size_t i = 0; r == 0 && i < l.count; i++)
		r = add_facts(d->folder, &l.list[i], i + 1 < l.count ? &l.list[i + 1] : NULL);
	if (r < 0) {
		sp_free(l.list);
		return sp_err_set(err, r, "cannot list the snapshots: %s", strerror(-r));
	}
	*ret_list = l.list;
	*ret_count = l.count;
	return 0;
}

int vhd_live_list_in(struct store_folder *f, const char *image, struct vhd_live_snapshot **ret_list, size_t *ret_count,
		     struct sp_err *err)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_NO_LOCK };
	struct vhd_disk *d;
	int r = vhd_disk_open_in(f, image, &o, &d, err);

	if (r < 0)
		return r;
	r = vhd_live_list(d, ret_list, ret_count, err);
	vhd_disk_close(d, NULL);
	return r;
}

void vhd_live_list_free(struct vhd_live_snapshot *list)
{
	sp_free(list);
}
