/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Offline snapshots of the image that the operator calls by one name: "<stem>.<ext>" is always the leaf, a snapshot
 * is the layer "<stem>.<name>.<ext>" below it.
 *
 * create	1. a new child of "<stem>.<name>.<ext>" under a temporary name, durable
 *		2. the leaf gets the snapshot's name as a second name, durable
 *		3. the child takes the leaf's name in one atomic rename, durable
 *	Between 2 and 3 the file has two names; creating the snapshot again goes on from there.
 *
 * revert	a new child of the snapshot takes the leaf's name in one atomic rename, durable; then the snapshots that
 *	were taken later and the old leaf's data are gone.
 *
 * delete	the snapshot's layer and the layer above it become one, in the direction that moves fewer bytes:
 *	down	the layer above is merged into the snapshot's file, which takes its name (op_merge.c). A VHD that has
 *		children above it cannot go this way: they know it by an id of its own that a rename would change.
 *	up	the layer above takes over what it reads from the snapshot, and gets the snapshot's parent, or none, as
 *		its own (op_rebase.c); then the snapshot's file is deleted.
 *
 * The name in use opens with its content at every instant of all three.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/seed.h"
#include "vhd/live_int.h"
#include "vhd/op_workers.h"
#include "vhd/ops_int.h"
#include "vhd/vhdx_int.h"

/* ---- names --------------------------------------------------------------------------------------- */

/* Length of "<stem>" in the last component; the extension starts there. */
static size_t stem_len(const char *base)
{
	const char *dot = strrchr(base, '.');

	return dot && dot != base ? (size_t)(dot - base) : strlen(base);
}

int op_snapshot_check_name(const char *name, struct sp_err *err)
{
	if (!*name || strchr(name, '/') || strlen(name) > 200)
		return sp_err_set(err, -EINVAL, "a snapshot's name has 1 to 200 bytes and no \"/\"");
	for (const char *c = name; *c; c++)
		if ((unsigned char)*c < 0x20 || *c == '\\' || *c == 0x7f)
			return sp_err_set(err, -EINVAL, "a snapshot's name has no control characters and no \"\\\"");
	return 0;
}

/* "dir/disk.vhdx", "monday" -> "dir/disk.monday.vhdx" */
char *op_snapshot_file(const char *image, const char *name)
{
	const char *base = op_name_base(image);
	size_t stem = stem_len(base);

	return sp_asprintf("%.*s%.*s.%s%s", (int)(base - image), image, (int)stem, base, name, base + stem);
}

/* The snapshot name in @file, a snapshot of @image: into @buf. False when it is not one by its name. */
bool op_snapshot_name(const char *image, const char *file, char *buf, size_t room)
{
	const char *base = op_name_base(image), *other = op_name_base(file);
	size_t stem = stem_len(base), ext = strlen(base + stem), len = strlen(other);

	if (!op_name_same_dir(image, file) || len < stem + 2 + ext || memcmp(other, base, stem) != 0 ||
	    other[stem] != '.' || strcmp(other + len - ext, base + stem) != 0 || len - stem - 1 - ext >= room)
		return false;
	memcpy(buf, other + stem + 1, len - stem - 1 - ext);
	buf[len - stem - 1 - ext] = '\0';
	return true;
}

/* ---- a new leaf ---------------------------------------------------------------------------------- */

/* An empty child of @parent, which is or will be called @parent_name, under @temp beside @image. */
int op_snapshot_child(struct store_folder *f, const char *image, const char *temp, struct vhd_image *parent,
		      const char *parent_name, struct sp_err *err)
{
	SP_AUTO_FREE char *relative = op_name_relative(image, parent_name);
	SP_AUTO_FREE char *absolute = op_name_absolute(f, parent_name);
	struct vhd_format_create c = {
		.size = parent->size, .kind = VHD_KIND_DIFFERENCING, .logical_sector = parent->logical_sector,
		.physical_sector = parent->physical_sector, .parent_identity = parent->identity,
		.parent_relative = relative, .parent_absolute = absolute,
		.disk_id = parent->format->id == VHD_FORMAT_VHDX ? &vhdx_of(parent)->metadata.disk_id : NULL,
	};
	int r = relative ? store_mtime(parent->store, &c.parent_mtime) : -ENOMEM;

	if (r < 0)
		return sp_err_set(err, r, "%s: %s", image, strerror(-r));
	return vhd_create_in(f, temp, parent->format->id, &c, err);
}

/* The child that stands ready under @temp becomes the leaf. */
static int put_leaf(struct store_folder *f, const char *temp, const char *image, struct sp_err *err)
{
	int r;

	if (SP_SEED_BUG(SNAPSHOT_NO_DIR_SYNC))
		r = store_folder_rename(f, temp, image, true);
	else
		r = op_rename_durable(f, temp, image, true, err);
	if (r < 0)
		store_folder_unlink(f, temp);
	return r;
}

/* ---- create -------------------------------------------------------------------------------------- */

static int refuse_raw(const char *image, int r, struct sp_err *err)
{
	if (r != -EBADMSG)
		return r;
	return sp_err_set(err, -ENOTSUP, "%s is neither VHDX nor VHD: a raw image has no snapshots (convert it to "
			  "VHDX)", image);
}

/* The leaf's second name. It may be there from an interrupted run. */
static int add_name(struct store_folder *f, const char *image, const struct vhd_image *leaf, const char *file,
		    struct sp_err *err)
{
	int r = store_folder_link(f, image, file);

	if (r == -EEXIST && op_image_is(f, file, leaf))
		r = 0;
	if (r == -EEXIST)
		return sp_err_set(err, r, "%s exists already", file);
	if (r == -EPERM || r == -ENOTSUP || r == -EMLINK)
		return sp_err_set(err, -ENOTSUP, "the file system cannot give a file a second name (hard link), which "
				  "a snapshot without a gap needs");
	if (r < 0)
		return sp_err_set(err, r, "cannot name the snapshot %s: %s", file, strerror(-r));
	if (SP_SEED_BUG(SNAPSHOT_NO_LINK_SYNC))
		return 0;
	r = store_folder_sync(f, file);
	return r < 0 ? sp_err_set(err, r, "cannot make the name %s durable: %s", file, strerror(-r)) : 0;
}

/* What is known of a snapshot that is gone. */
static int drop_meta(struct store_folder *f, const char *file)
{
	SP_AUTO_FREE char *meta = live_name_meta(file);

	return meta ? live_file_remove(f, meta) : -ENOMEM;
}

/* The same, durable. */
static int forget_meta(struct store_folder *f, const char *file)
{
	int r = drop_meta(f, file);

	return r < 0 ? r : store_folder_sync(f, file);
}

static int create_on(struct store_folder *f, const char *image, struct vhd_image *leaf, const char *file,
		     struct sp_err *err)
{
	SP_AUTO_FREE char *temp = op_name_temp(image);
	struct store *s;
	int r;

	if (!temp)
		return sp_err_set(err, -ENOMEM, "out of memory");
	if (!leaf->has_identity)
		return refuse_raw(image, -EBADMSG, err);
	if (store_folder_open(f, file, STORE_NO_LOCK, &s, NULL) == 0) {
		bool same = store_same(s, leaf->store);

		store_close(s);
		if (!same)
			return sp_err_set(err, -EEXIST, "%s exists already", file);
	} else if (drop_meta(f, file) < 0) {	/* a merge that was cut has left it; it is not about this one */
		return sp_err_set(err, -EIO, "cannot delete the side-car of an earlier snapshot, %s.json", file);
	}
	r = op_snapshot_child(f, image, temp, leaf, file, err);
	if (r < 0)
		return r;
	r = add_name(f, image, leaf, file, err);
	if (r < 0) {
		store_folder_unlink(f, temp);
		return r;
	}
	return put_leaf(f, temp, image, err);
}

int vhd_snapshot_create_in(struct store_folder *f, const char *image, const char *name, struct sp_err *err)
{
	SP_AUTO_FREE char *file = op_snapshot_file(image, name);
	struct vhd_image *leaf;
	int r = op_snapshot_check_name(name, err);

	if (r < 0)
		return r;
	if (!file)
		return sp_err_set(err, -ENOMEM, "out of memory");
	/* The writer's lock keeps everybody out meanwhile, and opening for writing replays a log. */
	r = op_image_open(f, image, true, &leaf, err);
	if (r < 0)
		return refuse_raw(image, r, err);
	r = create_on(f, image, leaf, file, err);
	return op_image_close(leaf, r, err);
}

/* ---- list ---------------------------------------------------------------------------------------- */

static int list_one(struct store_folder *f, const char *image, const char *file, unsigned depth,
		    struct vhd_snapshot *ret)
{
	SP_AUTO_FREE char *path = op_name_absolute(f, file);
	struct store *s;
	int r;

	if (!op_snapshot_name(image, file, ret->name, sizeof(ret->name)))
		return 0;
	r = store_folder_open(f, file, STORE_NO_LOCK, &s, NULL);
	if (r < 0)
		return r;
	r = store_mtime(s, &ret->time);
	store_close(s);
	ret->depth = depth;
	snprintf(ret->path, sizeof(ret->path), "%s", path ? path : file);
	return r < 0 ? r : 1;
}

int vhd_snapshot_list_in(struct store_folder *f, const char *image, struct vhd_snapshot **ret_list, size_t *ret_count,
			 struct sp_err *err)
{
	struct op_chain chain;
	struct vhd_snapshot *list;
	size_t n = 0;
	int r = op_chain_list(f, image, &chain, err);

	if (r < 0)
		return r;
	list = sp_calloc(chain.count, sizeof(*list));
	if (!list)
		r = -ENOMEM;
	for (unsigned i = 1; r >= 0 && i < chain.count; i++) {
		r = list_one(f, image, chain.layer[i].name, i, &list[n]);
		n += r > 0;
	}
	op_chain_fini(&chain);
	if (r < 0) {
		sp_free(list);
		return sp_err_set(err, r, "%s: cannot list its snapshots: %s", image, strerror(-r));
	}
	*ret_list = list;
	*ret_count = n;
	return 0;
}

/* Which layer of the chain is snapshot @name; 0: none. */
static unsigned find_snapshot(const struct op_chain *c, const char *file)
{
	for (unsigned i = 1; i < c->count; i++)
		if (strcmp(c->layer[i].name, file) == 0)
			return i;
	return 0;
}

static int no_such(const char *image, const char *name, struct sp_err *err)
{
	return sp_err_set(err, -ENOENT, "%s has no snapshot \"%s\"", image, name);
}

/* ---- revert -------------------------------------------------------------------------------------- */

/* Later snapshots hang on nothing any more. Layers with other names are somebody else's. */
static int drop_later(struct store_folder *f, const char *image, const struct op_chain *c, unsigned depth,
		      struct sp_err *err)
{
	char name[256];
	int r = 0;

	for (unsigned i = 1; r == 0 && i < depth; i++) {
		if (!op_snapshot_name(image, c->layer[i].name, name, sizeof(name)))
			continue;
		r = store_folder_unlink(f, c->layer[i].name);
		if (r == 0)
			r = forget_meta(f, c->layer[i].name);
		if (r < 0)
			sp_err_set(err, r, "reverted, but the later snapshot \"%s\" could not be deleted: %s", name,
				   strerror(-r));
	}
	return r;
}

static void tell_revert(const char *image, const struct op_chain *c, unsigned depth, struct sp_err *err)
{
	char text[SP_ERR_TEXT_MAX], name[256];
	size_t n = (size_t)snprintf(text, sizeof(text), "would discard what was written to %s", image);

	for (unsigned i = 1; i < depth && n < sizeof(text); i++)
		if (op_snapshot_name(image, c->layer[i].name, name, sizeof(name)))
			n += (size_t)snprintf(text + n, sizeof(text) - n, ", and snapshot \"%s\"", name);
	sp_err_set(err, 0, "%s", text);
}

static int new_leaf_on(struct store_folder *f, const char *image, const char *parent_name, struct sp_err *err)
{
	SP_AUTO_FREE char *temp = op_name_temp(image);
	struct vhd_image *parent;
	int r = temp ? op_image_open(f, parent_name, false, &parent, err) : sp_err_set(err, -ENOMEM, "out of memory");

	if (r < 0)
		return r;
	r = op_snapshot_child(f, image, temp, parent, parent_name, err);
	if (r == 0)
		r = put_leaf(f, temp, image, err);
	vhd_image_close(parent, true);
	return r;
}

static int revert_to(struct store_folder *f, const char *image, const struct op_chain *c, unsigned depth,
		     struct sp_err *err)
{
	struct vhd_image *leaf;		/* for its lock: nobody writes to what is thrown away */
	int r = op_image_open(f, image, true, &leaf, err);

	if (r < 0)
		return r;
	r = new_leaf_on(f, image, c->layer[depth].name, err);
	vhd_image_close(leaf, true);
	return r < 0 ? r : drop_later(f, image, c, depth, err);
}

int vhd_snapshot_revert_in(struct store_folder *f, const char *image, const char *name, bool dry_run,
			   struct sp_err *err)
{
	SP_AUTO_FREE char *file = op_snapshot_file(image, name);
	struct op_chain chain;
	unsigned depth;
	int r = op_snapshot_check_name(name, err);

	if (r < 0)
		return r;
	if (!file)
		return sp_err_set(err, -ENOMEM, "out of memory");
	r = op_chain_list(f, image, &chain, err);
	if (r < 0)
		return r;
	depth = find_snapshot(&chain, file);
	if (depth == 0)
		r = no_such(image, name, err);
	else if (dry_run)
		tell_revert(image, &chain, depth, err);
	else
		r = revert_to(f, image, &chain, depth, err);
	op_chain_fini(&chain);
	return r;
}

/* ---- delete -------------------------------------------------------------------------------------- */

struct removal {
	struct store_folder *folder;
	const char *image, *name;
	struct op_chain chain;
	unsigned depth;			/* the snapshot's layer */
	bool dry_run;
	uint64_t down, up;		/* bytes each direction would move */
};

static struct op_layer *layer_above(struct removal *x)
{
	return &x->chain.layer[x->depth - 1];
}

static const char *file_below(struct removal *x)
{
	return x->depth + 1 < x->chain.count ? x->chain.layer[x->depth + 1].name : NULL;
}

/* What the layer above holds goes down; what shows through it from the snapshot goes up. */
static int weigh(struct removal *x, struct sp_err *err)
{
	struct vhd_open_opts two = { .flags = VHD_OPEN_NO_LOCK, .depth = 2 };
	struct vhd_range range;
	struct vhd_disk *d;
	int r = vhd_disk_open_in(x->folder, layer_above(x)->name, &two, &d, err);

	if (r < 0)
		return r;
	for (uint64_t at = 0; r == 0 && at < vhd_disk_size(d); at += range.len) {
		r = vhd_disk_map(d, at, vhd_disk_size(d) - at, &range);
		if (r == 0 && range.kind == VHD_RANGE_DATA)
			*(range.layer == 0 ? &x->down : &x->up) += range.len;
	}
	vhd_disk_close(d, NULL);
	if (!file_below(x))
		x->up += x->down;	/* the layer above is written anew */
	return r < 0 ? sp_err_set(err, r, "%s: cannot read its map: %s", layer_above(x)->name, strerror(-r)) : 0;
}

static bool can_go_down(struct removal *x)
{
	return layer_above(x)->size >= x->chain.layer[x->depth].size &&
	       (x->depth == 1 || layer_above(x)->format == VHD_FORMAT_VHDX);
}

static int go_up(struct removal *x, struct sp_job *job, struct sp_err *err)
{
	const char *file = x->chain.layer[x->depth].name;
	int r = vhd_rebase_in(x->folder, layer_above(x)->name, file_below(x), NULL, job, err);

	if (r < 0)
		return r;
	r = store_folder_unlink(x->folder, file);
	if (r == 0)
		r = store_folder_sync(x->folder, file);
	return r < 0 ? sp_err_set(err, r, "cannot delete %s: %s", file, strerror(-r)) : 0;
}

static int remove_layer(struct removal *x, struct sp_job *job, struct sp_err *err)
{
	bool down;
	int r = weigh(x, err);

	if (r < 0)
		return r;
	down = can_go_down(x) && x->down <= x->up;
	if (x->dry_run)
		return sp_err_set(err, 0, "would move %" PRIu64 " bytes %s %s and delete %s",
				  down ? x->down : x->up, down ? "from" : "into", layer_above(x)->name,
				  x->chain.layer[x->depth].name);
	return down ? vhd_merge_in(x->folder, layer_above(x)->name, NULL, job, NULL, err) : go_up(x, job, err);
}

/* A file that has the snapshot's name but is no layer: left by an interrupted delete, revert or create. */
static int remove_leftover(struct removal *x, const char *file, struct sp_err *err)
{
	struct vhd_image *img;
	int r = op_image_open(x->folder, file, false, &img, NULL);

	if (r < 0)
		return no_such(x->image, x->name, err);
	vhd_image_close(img, true);
	if (x->dry_run)
		return sp_err_set(err, 0, "would delete %s, on which %s does not stand", file, x->image);
	r = store_folder_unlink(x->folder, file);
	if (r == 0)
		r = store_folder_sync(x->folder, file);
	return r < 0 ? sp_err_set(err, r, "cannot delete %s: %s", file, strerror(-r)) : 0;
}

/* A layer that a merge of @name under running I/O left behind; NULL: none. sp_free() it. */
static int find_rest(struct store_folder *f, const char *image, const char *name, char **ret, struct sp_err *err)
{
	struct op_chain chain;
	char other[256];
	int r = op_chain_list(f, image, &chain, err);

	*ret = NULL;
	if (r < 0)
		return r;
	for (unsigned i = chain.count; !*ret && i-- > 1;)
		if (op_snapshot_name(image, chain.layer[i].name, other, sizeof(other)) &&
		    live_name_is_rest(other, name))
			*ret = sp_strdup(other);
	op_chain_fini(&chain);
	return 0;
}

/* @or_rest: it need not be there, what is left of it will do. */
static int delete_one(struct store_folder *f, const char *image, const char *name, bool or_rest, bool dry_run,
		      struct sp_job *job, struct sp_err *err)
{
	SP_AUTO_FREE char *file = op_snapshot_file(image, name);
	struct removal x = { .folder = f, .image = image, .name = name, .dry_run = dry_run };
	int r;

	if (!file)
		return sp_err_set(err, -ENOMEM, "out of memory");
	r = op_chain_list(f, image, &x.chain, err);
	if (r < 0)
		return r;
	x.depth = find_snapshot(&x.chain, file);
	if (x.depth)
		r = remove_layer(&x, job, err);
	else if (!or_rest)
		r = remove_leftover(&x, file, err);
	op_chain_fini(&x.chain);
	if (r == 0 && !dry_run && forget_meta(f, file) < 0)
		r = sp_err_set(err, -EIO, "the snapshot is deleted, but its side-car %s.json is not", file);
	return r;
}

int vhd_snapshot_delete_in(struct store_folder *f, const char *image, const char *name, bool dry_run,
			   struct sp_job *job, struct sp_err *err)
{
	char *rest = NULL;
	int r = op_snapshot_check_name(name, err);

	if (r == 0)
		r = find_rest(f, image, name, &rest, err);
	if (r == 0)
		r = delete_one(f, image, name, rest, dry_run, job, err);
	while (r == 0 && rest && !dry_run) {
		r = delete_one(f, image, rest, false, false, job, err);
		sp_free(sp_take(rest));
		if (r == 0)
			r = find_rest(f, image, name, &rest, err);
	}
	sp_free(rest);
	return r;
}

/* ---- by path ------------------------------------------------------------------------------------- */

int vhd_snapshot_create(const char *path, const char *name, const char *image_root, struct sp_err *err)
{
	struct op_place at;
	int r = op_place_open(path, image_root, false, &at, err);

	if (r == 0)
		r = vhd_snapshot_create_in(at.folder, at.name, name, err);
	op_place_close(&at);
	return r;
}

int vhd_snapshot_list(const char *path, const char *image_root, struct vhd_snapshot **ret_list, size_t *ret_count,
		      struct sp_err *err)
{
	struct op_place at;
	int r = op_place_open(path, image_root, false, &at, err);

	if (r == 0)
		r = vhd_snapshot_list_in(at.folder, at.name, ret_list, ret_count, err);
	op_place_close(&at);
	return r;
}

void vhd_snapshot_list_free(struct vhd_snapshot *list)
{
	sp_free(list);
}

int vhd_snapshot_revert(const char *path, const char *name, const char *image_root, bool dry_run, struct sp_err *err)
{
	struct op_place at;
	int r = op_place_open(path, image_root, false, &at, err);

	if (r == 0)
		r = vhd_snapshot_revert_in(at.folder, at.name, name, dry_run, err);
	op_place_close(&at);
	return r;
}

int vhd_snapshot_delete(const char *path, const char *name, const char *image_root, bool dry_run, struct sp_job *job,
			struct sp_err *err)
{
	struct op_place at;
	int r = op_place_open(path, image_root, false, &at, err);

	if (r == 0)
		r = vhd_snapshot_delete_in(at.folder, at.name, name, dry_run, job, err);
	op_place_close(&at);
	return r;
}
