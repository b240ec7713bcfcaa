/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_OPS_INT_H
#define SPINDLE_VHD_OPS_INT_H
/*
 * The operations of ops.h on a folder instead of a path. The path forms find the folder and call these; tests and the
 * crash simulator call them on memory folders. Names are relative to the folder, which must outlive the call.
 */
#include "vhd/disk_int.h"
#include "vhd/ops.h"

/* opts->source applies to opening @source; it and @target may be in different folders. */
int vhd_convert_in(struct store_folder *source_folder, const char *source, struct store_folder *target_folder,
		   const char *target, const struct vhd_convert_opts *opts, struct sp_job *job, struct sp_err *err);
/* The same from a disk that is open already. */
int op_convert_disk(struct vhd_disk *source, struct store_folder *folder, const char *target,
		    const struct vhd_convert_opts *opts, struct sp_job *job, struct sp_err *err);
int op_stream_disk(struct vhd_disk *source, int fd, const struct vhd_convert_opts *opts, struct sp_job *job,
		   struct sp_err *err);
/* What to create for a copy of @source. */
int op_convert_params(struct vhd_disk *source, const struct vhd_create_opts *target, struct vhd_format_create *ret,
		      struct sp_err *err);
/* Copies into the existing image @name; @device: one that has old contents, so zeros are written too. Durable. */
int op_convert_fill(struct vhd_disk *source, struct store_folder *folder, const char *name,
		    const struct vhd_convert_opts *opts, bool device, struct sp_job *job, struct sp_err *err);
int vhd_merge_in(struct store_folder *folder, const char *name, const struct vhd_merge_opts *opts, struct sp_job *job,
		 struct vhd_merge_result *ret, struct sp_err *err);
int vhd_rebase_in(struct store_folder *folder, const char *name, const char *new_parent,
		  const struct vhd_rebase_opts *opts, struct sp_job *job, struct sp_err *err);
int vhd_snapshot_create_in(struct store_folder *folder, const char *image, const char *name, struct sp_err *err);
int vhd_snapshot_list_in(struct store_folder *folder, const char *image, struct vhd_snapshot **ret_list,
			 size_t *ret_count, struct sp_err *err);
int vhd_snapshot_revert_in(struct store_folder *folder, const char *image, const char *name, bool dry_run,
			   struct sp_err *err);
int vhd_snapshot_delete_in(struct store_folder *folder, const char *image, const char *name, bool dry_run,
			   struct sp_job *job, struct sp_err *err);

/* ---- op_snapshot.c: names ------------------------------------------------------------------------- */

int op_snapshot_check_name(const char *name, struct sp_err *err);
/* "dir/disk.vhdx", "monday" -> "dir/disk.monday.vhdx"; the caller's memory (sp_free()), NULL when out of it. */
char *op_snapshot_file(const char *image, const char *name);
/* The snapshot name in @file, a snapshot of @image: into @buf. False when it is not one by its name. */
bool op_snapshot_name(const char *image, const char *file, char *buf, size_t room);
/* An empty child of @parent, which is or will be called @parent_name, under @temp beside @image; durable. */
int op_snapshot_child(struct store_folder *f, const char *image, const char *temp, struct vhd_image *parent,
		      const char *parent_name, struct sp_err *err);

/* Digests of each MiB of the first @size bytes, and of all of them when @whole (which needs them in order). */
int op_hash(struct vhd_disk *d, uint64_t size, bool whole, unsigned threads, struct sp_job *job,
	    struct vhd_hash *ret_hash, struct sp_err *err);

/* ---- op_path.c: names ------------------------------------------------------------------------------ */

struct op_place {
	struct store_folder *folder;
	char *name;			/* relative to it */
};

/* The folder (@root, or the one that holds @path) and the name in it. @path must exist unless @create; its symbolic
 * links are followed. -EXDEV when it is not below @root. */
int op_place_open(const char *path, const char *root, bool create, struct op_place *ret, struct sp_err *err);
void op_place_close(struct op_place *p);

/* All return memory of the caller's (sp_free()), NULL when out of memory. */
char *op_name_temp(const char *name);				/* ".<name>.tmp-<random>", same directory */
char *op_name_sibling(const char *name, const char *base);	/* @base in the directory of @name */
char *op_name_relative(const char *from, const char *to);	/* @to as seen from the directory of @from */
char *op_name_absolute(const struct store_folder *f, const char *name);	/* NULL in memory folders */
char *op_name_in(const char *layer_path);	/* back from vhd_layer_info.path of a disk opened in a folder */
const char *op_name_base(const char *name);			/* the part after the last '/' */
bool op_name_same_dir(const char *a, const char *b);

/* ---- op_image.c: one file of a chain, without the chain -------------------------------------------- */

/* @writable: under the writer's lock; a log is replayed. */
int op_image_open(struct store_folder *f, const char *name, bool writable, struct vhd_image **ret_image,
		  struct sp_err *err);
/* Closes; keeps the first of the failures @r and closing. */
int op_image_close(struct vhd_image *img, int r, struct sp_err *err);
/* The folder's file @name is the one that @img has open. */
bool op_image_is(struct store_folder *f, const char *name, const struct vhd_image *img);
/* Points @child at the file @parent_name whose image is @parent, durably. */
int op_image_set_parent(struct store_folder *f, struct vhd_image *child, const char *child_name,
			struct vhd_image *parent, const char *parent_name, struct sp_err *err);
/* The files of a chain, leaf first. */
struct op_layer {
	char *name;			/* relative to the folder */
	enum vhd_format_id format;
	struct sp_guid identity;
	uint64_t size;
	bool has_parent;
};

struct op_chain {
	struct op_layer *layer;
	unsigned count;
};

int op_chain_list(struct store_folder *f, const char *leaf, struct op_chain *ret, struct sp_err *err);
void op_chain_fini(struct op_chain *c);

/* Renames, so that the change survives a power cut before anything that relies on it is done. */
int op_rename_durable(struct store_folder *f, const char *from, const char *to, bool replace, struct sp_err *err);

#endif
