/* SPDX-License-Identifier: BSD-2-Clause */
/* What a kill or a power cut left of a snapshot is finished or taken back before the disks are opened. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "vhd/live.h"
#include "vmm/machine_int.h"

/* As the broker does it: the folder of @path with links resolved, or @root above it. */
static int host_place(const char *path, const char *root, struct vhd_live_place *ret, char **ret_name,
		      struct sp_err *err)
{
	char real[PATH_MAX], folder[PATH_MAX];
	size_t len;

	if (!realpath(path, real))
		return sp_err_set(err, -errno, "%s: %s", path, strerror(errno));
	len = (size_t)(strrchr(real, '/') - real);
	if (root && !realpath(root, folder))
		return sp_err_set(err, -errno, "%s: %s", root, strerror(errno));
	if (!root)
		snprintf(folder, sizeof(folder), "%.*s", len ? (int)len : 1, real);
	len = strcmp(folder, "/") ? strlen(folder) : 0;
	if (strncmp(real, folder, len) || real[len] != '/')
		return sp_err_set(err, -EXDEV, "%s lies outside %s", path, root);
	*ret_name = sp_strdup(real + len + 1);
	return *ret_name ? store_folder_host(folder, &ret->folder, err) : sp_err_set(err, -ENOMEM, "out of memory");
}

static int find_place(struct vmm_machine *m, const struct vmm_disk_config *c, struct vhd_live_place *ret,
		      struct sp_err *err)
{
	char *name = NULL;
	int r;

	if (m->broker)
		r = vmm_broker_folder(m->broker, c->path, c->image_root, &ret->folder, &name, err);
	else
		r = host_place(c->path, c->image_root, ret, &name, err);
	ret->image = name;
	return r;
}

static void places_free(struct vhd_live_place *place, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		store_folder_close(place[i].folder);
		sp_free((void *)(uintptr_t)place[i].image);
	}
	sp_free(place);
}

static bool may_have_snapshots(const struct vmm_disk_config *c)
{
	return c->path && !c->dvd && !c->read_only && !c->snapshot && c->format != VHD_FORMAT_RAW;
}

int machine_recover(struct vmm_machine *m, struct sp_err *err)
{
	static const char *const what[] = {
		[VHD_LIVE_DROPPED] = "taken back", [VHD_LIVE_COMPLETED] = "completed",
	};
	const struct vmm_config *c = m->config;
	struct vhd_live_place *place = sp_calloc(c->disks ? c->disks : 1, sizeof(*place));
	enum vhd_live_outcome outcome = VHD_LIVE_NOTHING;
	unsigned n = 0;
	int r = place ? 0 : sp_err_set(err, -ENOMEM, "out of memory");

	for (unsigned i = 0; r == 0 && i < c->disks; i++)
		if (may_have_snapshots(&c->disk[i]))
			r = find_place(m, &c->disk[i], &place[n++], err);
	if (r == 0 && n)
		r = vhd_live_recover(place, n, &outcome, err);
	if (r == 0 && outcome != VHD_LIVE_NOTHING)
		fprintf(stderr, "spindle-vm: an interrupted snapshot has been %s\n", what[outcome]);
	places_free(place, place ? n : 0);
	return r;
}
