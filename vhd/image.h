/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_IMAGE_H
#define SPINDLE_VHD_IMAGE_H
/*
 * image - one file of a chain, and the table of functions that each format provides for it. Internal header.
 *
 * A format does its own metadata I/O, synchronously, and never moves payload: map() says where bytes live and
 * prepare_write() where they shall go; the disk layer moves them.
 *
 * Locking: the disk layer serialises every call on an image with the disk's metadata lock, except flush_write(),
 * which runs without it, one at a time, so that allocation goes on while a commit waits for the platter.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/guid.h"
#include "vhd/check.h"
#include "vhd/store.h"
#include "vhd/vhd.h"

struct vhd_image;

/* ---- where bytes live ---------------------------------------------------------------------------- */

enum vhd_where {
	VHD_WHERE_DATA,		/* file_offset of this image's store; never reaches past the end of file */
	VHD_WHERE_ZERO,		/* reads zeros and hides the parent */
	VHD_WHERE_PARENT,	/* this image has nothing here: ask the parent. Differencing images only */
};

struct vhd_place {
	enum vhd_where where;
	uint64_t len;		/* > 0; may be shorter than asked, ends at the first change of state */
	uint64_t file_offset;	/* VHD_WHERE_DATA */
	bool direct_write;	/* DATA that may be overwritten in place without prepare_write() */
};

/* ---- writing ------------------------------------------------------------------------------------- */

/*
 * Answer of prepare_write(). Nothing a reader could notice has changed yet: a freshly allocated block reads as it
 * did before (zeros, or the parent by clear bitmap bits). The caller writes the payload, then calls
 * commit_write() once it has completed (not necessarily been flushed), or abort_write() when it failed.
 */
struct vhd_ticket {
	uint64_t offset, len;	/* virtual range, a prefix of what was asked for */
	uint64_t file_offset;	/* contiguous room for @len bytes */
	bool needs_commit;	/* false: commit_write() would do nothing, skip it */
	uint64_t cookie;	/* the format's own */
};

/* A batch of metadata on its way to the disk; the format's own struct. */
struct vhd_flush;

/* ---- the parent, as the child describes it ------------------------------------------------------- */

enum vhd_path_kind { VHD_PATH_RELATIVE, VHD_PATH_ABSOLUTE, VHD_PATH_VOLUME, VHD_PATH_NAME };

#define VHD_PARENT_PATHS_MAX 10

struct vhd_parent_ref {
	struct sp_guid identity[2];	/* any of them is right */
	unsigned identities;
	bool has_mtime;			/* VHD: parent's mtime when the child was made */
	int64_t mtime;			/* Unix seconds */
	struct {
		enum vhd_path_kind kind;
		char *text;		/* UTF-8 as stored, '\' not yet turned into '/'; owned by the image */
	} path[VHD_PARENT_PATHS_MAX];	/* in the order they should be tried */
	unsigned paths;
};

/* ---- opening and creating ------------------------------------------------------------------------ */

#define VHD_IMG_WRITABLE    0x1u	/* replay in place, allow writes */
#define VHD_IMG_IS_PARENT   0x2u	/* opened because a child named it */

struct vhd_image {
	const struct vhd_format *format;
	struct store *store;		/* owned by the image */
	char *name;			/* file name for messages, owned */
	unsigned flags;			/* VHD_IMG_* */
	/* Filled by format->open(): */
	uint64_t size;			/* virtual size, bytes */
	uint32_t block_size;		/* 0: no blocks (raw, fixed VHD) */
	uint32_t logical_sector, physical_sector;
	enum vhd_kind kind;
	bool has_parent;
	struct vhd_parent_ref parent;
	struct sp_guid identity;	/* what a child stores of us: VHD unique id, VHDX DataWriteGuid */
	bool has_identity;
	struct store_stamp stamp;	/* of the file before the image was opened; zeros where it has none */
	char *warning;			/* non-fatal finding at open, or NULL; owned */
	void *state;			/* format->state_size bytes, zeroed */
};

/* All sizes in bytes. Zero: the format's default. */
struct vhd_format_create {
	uint64_t size;
	enum vhd_kind kind;
	uint32_t block_size;
	uint32_t logical_sector, physical_sector;	/* VHDX; VHD is always 512 */
	bool preallocate;				/* fixed: really allocate the file (else sparse) */
	uint32_t log_size;				/* VHDX, default 1 MiB */
	/* Differencing: */
	struct sp_guid parent_identity;
	int64_t parent_mtime;				/* Unix seconds */
	const char *parent_relative;			/* '/'-separated, relative to the child's folder */
	const char *parent_absolute;			/* host path, or NULL */
	const struct sp_guid *disk_id;			/* VHDX virtual disk id to inherit, or NULL */
};

struct vhd_set_parent {
	struct sp_guid identity[2];
	unsigned identities;			/* 1, or 2 while a merge is under way (VHDX parent_linkage2) */
	int64_t mtime;
	const char *relative, *absolute;	/* NULL: keep what is stored */
};

struct vhd_probe {
	const uint8_t *head;		/* first bytes of the file */
	size_t head_len;		/* up to 4096 */
	const uint8_t *tail;		/* last bytes, up to 512 */
	size_t tail_len;
	uint64_t file_size;
	const char *name;
};

#define VHD_CAP_PARENT	0x1u	/* may have a parent */
#define VHD_CAP_UNMAP	0x2u	/* discard() gives space back */

struct vhd_format {
	const char *name;	/* as printed by "vhd-tool info" */
	enum vhd_format_id id;
	size_t state_size;
	unsigned caps;		/* VHD_CAP_* */

	/* Confidence 0..100 from first and last bytes. No I/O. */
	int (*probe)(const struct vhd_probe *p);

	/* Reads and validates; on a writable image replays a log in place, on a read-only one in memory (the file is
	 * not touched). img->store, name, flags, state are set; fills the rest. On failure close() is NOT called:
	 * release what was taken. */
	int (*open)(struct vhd_image *img, struct sp_err *err);
	/* Releases memory. When writable: first makes everything durable and leaves the file clean (log
	 * empty, slack cut off), unless @abandon. Returns the first failure; memory is released all the same. */
	int (*close)(struct vhd_image *img, bool abandon);
	/* Writes a new image into the empty @store, durable in the order of checklist 7.1. */
	int (*create)(struct store *store, const struct vhd_format_create *c, struct sp_err *err);

	/* Where [offset, offset+len) lives; 0 < len, inside the virtual size, byte granular. May load metadata.
	 * -EBADMSG: this range is damaged (reading it is EIO). */
	int (*map)(struct vhd_image *img, uint64_t offset, uint64_t len, struct vhd_place *ret_place);
	/* Before the first change a guest can notice (VHDX: headers with new GUIDs, log started). Idempotent. */
	int (*begin_write)(struct vhd_image *img);
	/* Room for a write; offset and len are multiples of the logical sector. -ENOSPC, -EBADMSG, -EIO. */
	int (*prepare_write)(struct vhd_image *img, uint64_t offset, uint64_t len, struct vhd_ticket *ret_ticket);
	int (*commit_write)(struct vhd_image *img, const struct vhd_ticket *t);
	void (*abort_write)(struct vhd_image *img, const struct vhd_ticket *t);
	/*
	 * Makes a prefix of [offset, offset+len) read as zeros by metadata alone, hiding the parent, and gives its
	 * space back once that is safe: only after a flush that made it durable AND a call of release().
	 * *ret_len = bytes dealt with; *ret_done says whether they now read zeros (true) or metadata alone cannot do it
	 * here (false: the caller punches or writes zeros through prepare_write when it must, or skips).
	 */
	int (*discard)(struct vhd_image *img, uint64_t offset, uint64_t len, uint64_t *ret_len, bool *ret_done);

	/* Metadata changes exist that a flush would have to write. Cheap. */
	bool (*dirty)(struct vhd_image *img);
	/* Snapshot of all dirty metadata; NULL when there is none (then the caller just syncs the store). */
	int (*flush_begin)(struct vhd_image *img, struct vhd_flush **ret_batch);
	/* Makes payload already written AND the batch durable, with whatever barriers that takes. Without the lock. */
	int (*flush_write)(struct vhd_image *img, struct vhd_flush *batch);
	/* Frees the batch. After a failure the image refuses further metadata changes. */
	void (*flush_end)(struct vhd_image *img, struct vhd_flush *batch, int result);
	/* Space set free by discards that were durable at generation @gen may be reused now: no I/O of before is in
	 * flight. The disk calls it with what tag() returned earlier. */
	uint64_t (*freed_tag)(struct vhd_image *img);
	void (*release)(struct vhd_image *img, uint64_t tag);

	/* Grows the virtual size; what is exposed reads zeros (also over a larger parent). -ENOTSUP when it cannot. */
	int (*grow)(struct vhd_image *img, uint64_t size, struct sp_err *err);
	/* Identity that children compare with. Durable on return. Writable images. */
	int (*set_identity)(struct vhd_image *img, const struct sp_guid *identity, struct sp_err *err);
	int (*set_parent)(struct vhd_image *img, const struct vhd_set_parent *p, struct sp_err *err);
	/* Format-specific facts for "info", as a json-c object (void * keeps json-c out of this header). */
	void (*describe)(struct vhd_image *img, void *json_object);

	/* Independent of open(): looks at the bytes itself, so that it works on images open() refuses. */
	int (*check)(struct store *store, struct vhd_report *report);
	/* Fixes what is provably fixable; the rest goes into the report with the reason. @dry_run only tells. */
	int (*repair)(struct store *store, bool dry_run, struct vhd_report *report);
};

extern const struct vhd_format vhd_format_raw, vhd_format_vhd1, vhd_format_vhdx;

/* image.c: */
const struct vhd_format *vhd_format_by_id(enum vhd_format_id id);
/* Detects; -EBADMSG when it is nothing we know (raw is never guessed here). */
int vhd_format_probe(struct store *store, const struct vhd_format **ret_format, struct sp_err *err);
/* As above, and by the ending of the name (.vhd, .vhdx, .avhd, .avhdx) where the signature is the damage: an image must
 * never be taken for a raw disk because of it. */
int vhd_format_detect(struct store *store, const char *path, const struct vhd_format **ret_format, struct sp_err *err);
/* Takes over @store in any case. */
int vhd_image_open(struct store *store, const char *name, const struct vhd_format *format, unsigned flags,
		   struct vhd_image **ret_image, struct sp_err *err);
int vhd_image_close(struct vhd_image *img, bool abandon);
/* The two halves of closing: the format is done with the file, but its lock is still held; then all is released. */
int vhd_image_finish(struct vhd_image *img, bool abandon);
void vhd_image_free(struct vhd_image *img);
void vhd_image_add_path(struct vhd_image *img, enum vhd_path_kind kind, char *text);	/* takes @text */
void vhd_image_warn(struct vhd_image *img, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- check reports ------------------------------------------------------------------------------- */

/* The public part is in vhd/check.h. */
int vhd_report_add(struct vhd_report *rep, enum vhd_severity sev, bool fixable, bool fixed, uint64_t file_offset,
		   const char *structure, const char *fmt, ...) __attribute__((format(printf, 7, 8)));

#endif
