/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Does a side-car speak of this image, and of all that was written to it?
 *
 *   closed by us (clean)	the file has not been touched since: inode, birth, size, both times; and the files
 *				below it
 *   in use, or after a crash	VHDX: DataWriteGuid, which every program changes before its first write, and inode and
 *				birth. VHD and raw have nothing of the kind: they are never believed
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/seed.h"
#include "vhd/track_int.h"

#define SETTLE_TRIES 60		/* ms: several ticks of any kernel's clock */

static bool has_guid(const struct vhd_image *leaf)
{
	return leaf->format->id == VHD_FORMAT_VHDX;
}

static void mix(uint64_t *digest, uint64_t x)
{
	*digest = (*digest ^ x) * UINT64_C(0x9e3779b97f4a7c15);
	*digest ^= *digest >> 29;
}

/* Of what lies below the leaf. Another link to such a file is no change of it, so its second time does not count. */
static uint64_t parents_digest(struct vhd_disk *d, bool now)
{
	uint64_t digest = d->layers;

	for (unsigned i = 0; i + 1 < d->layers; i++) {
		struct store_stamp s = d->layer[i].img->stamp;

		if (now && store_stamp(d->layer[i].img->store, &s) < 0)
			memset(&s, 0, sizeof(s));
		mix(&digest, s.inode);
		mix(&digest, s.born_ns);
		mix(&digest, s.size);
		mix(&digest, s.modified_ns);
	}
	return digest;
}

static bool same_file(const struct store_stamp *a, const struct store_stamp *b)
{
	return a->inode == b->inode && a->born_ns == b->born_ns;
}

static bool untouched(const struct store_stamp *a, const struct store_stamp *b)
{
	return a->size == b->size && a->modified_ns == b->modified_ns && a->changed_ns == b->changed_ns;
}

/* Somebody wrote through this very disk before anybody asked. */
static bool written_already(struct vhd_disk *d)
{
	return d->begun || atomic_load(&d->written);
}

enum vhd_track_why track_bind_check(struct vhd_disk *d, const struct track_head *h)
{
	struct vhd_image *leaf = d->leaf;

	if (SP_SEED_BUG(TRACK_ANY_IMAGE))
		return VHD_TRACK_EXACT;
	if (h->format != leaf->format->id || h->disk_size != leaf->size || !same_file(&h->stamp, &leaf->stamp))
		return VHD_TRACK_FOREIGN;
	if (has_guid(leaf) && !sp_guid_equal(&h->image, &leaf->identity))
		return VHD_TRACK_FOREIGN;
	if (written_already(d))
		return VHD_TRACK_FOREIGN;
	if (h->clean)
		return untouched(&h->stamp, &leaf->stamp) && h->parents == parents_digest(d, false) ?
			       VHD_TRACK_EXACT : VHD_TRACK_FOREIGN;
	return has_guid(leaf) ? VHD_TRACK_EXACT : VHD_TRACK_UNCLEAN;
}

void track_bind_open(struct vhd_disk *d, struct track_head *h)
{
	struct vhd_image *leaf = d->leaf;

	h->clean = false;
	h->format = leaf->format->id;
	h->disk_size = leaf->size;
	h->image = has_guid(leaf) ? leaf->identity : (struct sp_guid){ 0 };
	h->parents = 0;
	if (store_stamp(leaf->store, &h->stamp) < 0)
		memset(&h->stamp, 0, sizeof(h->stamp));
	h->stamp = (struct store_stamp){ .inode = h->stamp.inode, .born_ns = h->stamp.born_ns };
}

int track_bind_clean(struct vhd_disk *d, struct track_head *h)
{
	const struct timespec nap = { .tv_nsec = 1000000 };
	struct store_stamp s;
	int r;

	track_bind_open(d, h);
	for (unsigned i = 0; (r = store_stamp(d->leaf->store, &s)) == 0 && !s.settled; i++) {
		if (i == SETTLE_TRIES)
			return -ETIMEDOUT;
		nanosleep(&nap, NULL);
	}
	if (r < 0)
		return r;
	h->clean = true;
	h->stamp = s;
	h->stamp.settled = false;	/* is not stored */
	h->parents = parents_digest(d, true);
	return 0;
}

/* A snapshot or a merge may be changing the chain. */
static char *leaf_path(struct vhd_disk *d)
{
	char *path;

	pthread_mutex_lock(&d->meta);
	path = sp_strdup(d->layer[d->layers - 1].path);
	pthread_mutex_unlock(&d->meta);
	return path;
}

/* Beside the leaf: through the disk's own folder where the leaf lies in it, so that a confined process can do it. */
int track_place(struct vhd_disk *d, struct store_folder **ret_folder, bool *ret_owns, char **ret_name,
		struct sp_err *err)
{
	SP_AUTO_FREE char *path = leaf_path(d);
	SP_AUTO_FREE char *dir = NULL;
	const char *slash = path ? strrchr(path, '/') : NULL;
	size_t root = strlen(d->root);
	bool inside = path && strncmp(path, d->root, root) == 0 && path[root] == '/';
	char *name = path ? sp_asprintf("%s" VHD_TRACK_SUFFIX, inside ? path + root + 1 : slash + 1) : NULL;
	int r = 0;

	*ret_owns = !inside;
	*ret_folder = d->folder;
	dir = inside || !path ? NULL : sp_asprintf("%.*s", slash == path ? 1 : (int)(slash - path), path);
	if (!name || (!inside && !dir)) {
		sp_free(name);
		return sp_err_set(err, -ENOMEM, "out of memory");
	}
	if (!inside)
		r = store_folder_host(dir, ret_folder, err);
	if (r < 0)
		sp_free(name);
	else
		*ret_name = name;
	return r;
}
