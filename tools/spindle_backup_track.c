/* SPDX-License-Identifier: BSD-2-Clause */
/* Change tracking of images that no machine uses: their side-cars are asked and told here. */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "tools/spindle_backup_disks.h"
#include "vhd/track.h"

struct gathering {
	struct backup_range *range;
	size_t count;
};

static int gather(void *user, uint64_t offset, uint64_t len)
{
	struct gathering *g = user;
	struct backup_range *grown;

	if ((g->count & (g->count - 1)) == 0) {
		grown = sp_realloc(g->range, (g->count ? 2 * g->count : 1) * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		g->range = grown;
	}
	g->range[g->count++] = (struct backup_range){ offset, len };
	return 0;
}

static int open_tracked(const char *path, const struct vhd_open_opts *o, bool create, struct vhd_disk **ret,
			struct sp_err *err)
{
	struct vhd_open_opts rw = *o;
	int r;

	rw.flags |= VHD_OPEN_WRITE;
	r = vhd_disk_open(path, &rw, ret, err);
	if (r < 0)
		return r;
	r = vhd_disk_track(*ret, create, err);
	if (r < 0)
		vhd_disk_close(*ret, NULL);
	return r;
}

/* Sets the point; *ret_exact: @g holds what has changed between @since and it. */
static int set_point(const char *path, const struct vhd_open_opts *o, const char *since, const char *point,
		     struct gathering *g, bool *ret_exact, struct sp_err *err)
{
	struct vhd_track_answer a = { .why = VHD_TRACK_OFF };
	struct vhd_disk *d;
	int r = open_tracked(path, o, true, &d, err), r2;

	if (r < 0)
		return r;
	r = vhd_track_point(d, point, NULL, err);
	if (r == 0 && *since)
		r = vhd_track_changes(d, since, point, gather, g, &a, err);
	*ret_exact = r == 0 && a.why == VHD_TRACK_EXACT;
	r2 = vhd_disk_close(d, r == 0 ? err : NULL);
	return r < 0 ? r : r2;
}

/* Nobody wrote between the point and now. */
static bool is_still(struct vhd_disk *d, const char *point)
{
	struct vhd_track_answer a;

	return vhd_track_changes(d, point, NULL, NULL, NULL, &a, NULL) == 0 && a.why == VHD_TRACK_EXACT && a.bytes == 0;
}

int backup_track_file(struct backup_set *set, struct backup_disks *d, const char *name, const char *path,
		      const struct vhd_open_opts *o, struct sp_err *err)
{
	char since[64], point[64];
	struct gathering g = { 0 };
	unsigned number;
	bool exact = false;
	int r;

	backup_disks_newest(set, name, since, &number);
	backup_track_new(set, point);
	r = set_point(path, o, since, point, &g, &exact, err);
	if (r < 0)
		sp_err_prefix(err, r, "%s: change tracking", path);
	if (r == 0)
		r = backup_disks_add(d, name, path, o, err);
	if (r == 0 && is_still(d->source[d->count - 1].disk, point)) {
		unsigned i = d->count - 1;

		r = backup_disks_set_track(d, i, point, err);
		for (size_t n = 0; r == 0 && exact && n < g.count; n++)
			r = backup_disks_range(d, i, g.range[n].offset, g.range[n].len, err);
		if (r == 0 && exact)
			backup_disks_known(d, i, number);
	}
	sp_free(g.range);
	return r;
}

/* Best effort: a point too many costs a bitmap, and the next run forgets it. */
static void settle_one(const char *path, const struct vhd_open_opts *o, const char *prefix, const char *keep)
{
	struct vhd_track_point *list = NULL;
	struct vhd_disk *d;
	size_t count = 0;

	if (open_tracked(path, o, false, &d, NULL) < 0)
		return;
	if (vhd_track_list(d, &list, &count, NULL) < 0)
		count = 0;
	for (size_t i = 0; i < count; i++)
		if (strncmp(list[i].name, prefix, strlen(prefix)) == 0 && strcmp(list[i].name, keep) != 0)
			vhd_track_forget(d, list[i].name, NULL);
	vhd_track_list_free(list);
	vhd_disk_close(d, NULL);
}

void backup_track_settle(struct backup_set *set, struct backup_disks *d, const struct vhd_open_opts *o)
{
	char prefix[32], newest[64];
	unsigned number;

	backup_track_prefix(set, prefix);
	for (unsigned i = 0; i < d->count; i++) {
		vhd_disk_close(sp_take(d->source[i].disk), NULL);
		backup_disks_newest(set, d->source[i].name, newest, &number);
		settle_one(d->source[i].path, &o[i], prefix, newest);
	}
}
