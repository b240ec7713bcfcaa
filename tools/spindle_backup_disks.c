/* SPDX-License-Identifier: BSD-2-Clause */
#include "tools/spindle_backup_disks.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/env.h"

int backup_disks_add(struct backup_disks *d, const char *name, const char *path, const struct vhd_open_opts *o,
		     struct sp_err *err)
{
	struct backup_source *s = &d->source[d->count];
	struct backup_disk_held *h = &d->held[d->count];
	int r;

	if (d->count == BACKUP_DISKS_MAX)
		return sp_err_set(err, -E2BIG, "a set has at most %d disks", BACKUP_DISKS_MAX);
	r = vhd_disk_open(path, o, &s->disk, err);
	if (r < 0)
		return sp_err_prefix(err, r, "%s", path);
	d->count++;
	s->name = h->name = sp_strdup(name);
	s->path = h->path = sp_strdup(path);
	return s->name && s->path ? 0 : sp_err_set(err, -ENOMEM, "out of memory");
}

void backup_disks_close(struct backup_disks *d)
{
	for (unsigned i = 0; i < d->count; i++) {
		if (d->source[i].disk)
			vhd_disk_close(d->source[i].disk, NULL);
		sp_free(d->held[i].name);
		sp_free(d->held[i].path);
		sp_free(d->held[i].track);
		sp_free(d->held[i].range);
	}
	*d = (struct backup_disks){ 0 };
}

/* ---- what has changed ---------------------------------------------------------------------------------- */

void backup_disks_newest(struct backup_set *set, const char *name, char ret_track[static 64], unsigned *ret_point)
{
	struct backup_disk_info info;
	struct backup_point p;

	*ret_track = '\0';
	*ret_point = 0;
	if (backup_points(set) == 0 || backup_point_info(set, 0, &p, NULL) < 0)
		return;
	for (unsigned i = 0; i < p.disks; i++)
		if (backup_disk_info(set, p.number, i, &info, NULL) == 0 && strcmp(info.name, name) == 0) {
			memcpy(ret_track, info.track, sizeof(info.track));
			*ret_point = p.number;
		}
}

int backup_disks_range(struct backup_disks *d, unsigned i, uint64_t offset, uint64_t len, struct sp_err *err)
{
	struct backup_disk_held *h = &d->held[i];
	size_t n = d->source[i].changes;

	if ((n & (n - 1)) == 0) {	/* full: there is room for powers of two */
		struct backup_range *grown = sp_realloc(h->range, (n ? 2 * n : 1) * sizeof(*grown));

		if (!grown)
			return sp_err_set(err, -ENOMEM, "out of memory");
		h->range = grown;
	}
	h->range[n] = (struct backup_range){ offset, len };
	d->source[i].changed = h->range;
	d->source[i].changes++;
	return 0;
}

void backup_disks_known(struct backup_disks *d, unsigned i, unsigned since)
{
	d->source[i].changes_known = true;
	d->source[i].changes_since = since;
}

int backup_disks_set_track(struct backup_disks *d, unsigned i, const char *point, struct sp_err *err)
{
	sp_free(d->held[i].track);
	d->source[i].track = d->held[i].track = sp_strdup(point);
	return d->held[i].track ? 0 : sp_err_set(err, -ENOMEM, "out of memory");
}

/* ---- names of points ----------------------------------------------------------------------------------- */

void backup_track_prefix(struct backup_set *set, char ret[static 32])
{
	char id[SP_GUID_TEXT];

	sp_guid_format_le(backup_set_id(set), id);
	snprintf(ret, 32, "backup-%.13s-", id);
}

void backup_track_new(struct backup_set *set, char ret[static 64])
{
	char prefix[32], id[SP_GUID_TEXT];
	struct sp_guid chance;

	backup_track_prefix(set, prefix);
	sp_env_guid(&chance);
	sp_guid_format_le(&chance, id);
	snprintf(ret, 64, "%s%.18s", prefix, id);
}
