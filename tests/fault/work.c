/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The workloads: short, so that every one of their I/Os can fail in turn. Disks have four blocks (A, B, C, D).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "tests/fault/fault.h"

#define BLOCK(n) ((uint64_t)(n) * run->w->block / SHEET_SECTOR)

/* ---- setups --------------------------------------------------------------------------------------- */

static void make_base(struct run *run, const char *name)
{
	struct vhd_format_create c = {
		.size = run->w->size,
		.block_size = run->w->block,
		.logical_sector = SHEET_SECTOR,
		.kind = VHD_KIND_DYNAMIC,
	};
	struct sp_err err = { 0 };

	run_result(run, vhd_create_in(run->folder, name, run->w->format, &c, &err), &err);
}

static void make_child(struct run *run, const char *parent, const char *name)
{
	struct vhd_format_create c = {
		.kind = VHD_KIND_DIFFERENCING, .size = run->w->size, .block_size = run->w->block,
		.logical_sector = SHEET_SECTOR, .parent_relative = parent,
	};
	struct sp_err err = { 0 };
	struct vhd_image *img;

	run_result(run, op_image_open(run->folder, parent, false, &img, &err), &err);
	c.parent_identity = img->identity;
	run_result(run, store_mtime(img->store, &c.parent_mtime), &err);
	vhd_image_close(img, true);
	run_result(run, vhd_create_in(run->folder, name, run->w->format, &c, &err), &err);
}

static void nothing(struct run *run)
{
}

static void empty(struct run *run)
{
	make_base(run, "disk");
}

static void some_writes(struct run *run, const char *name, unsigned variant)
{
	run_open(run, name, true);
	run_write(run, BLOCK(0) + 8 + variant, 6);
	run_write(run, BLOCK(1) + 16 * variant, 20);
	run_write(run, BLOCK(2) - 2, 5);
	if (variant % 2 == 0)
		run_write(run, BLOCK(3) + 1, 3);
	run_close(run);
}

static void filled(struct run *run)
{
	empty(run);
	some_writes(run, "disk", 0);
}

static void on_parent(struct run *run)
{
	make_base(run, "base");
	some_writes(run, "base", 0);
	make_child(run, "base", "disk");
}

static void chain_of_three(struct run *run)
{
	on_parent(run);
	some_writes(run, "disk", 1);
	if (store_folder_rename(run->folder, "disk", "middle", false) < 0)
		abort();
	make_child(run, "middle", "disk");
	some_writes(run, "disk", 2);
	run_open(run, "disk", true);
	run_zero(run, BLOCK(3), run->w->block / SHEET_SECTOR);
	run_close(run);
}

static void snapshot(struct run *run, const char *name)
{
	struct sp_err err = { 0 };

	run_result(run, vhd_snapshot_create_in(run->folder, "disk", name, &err), &err);
}

static void snapshotted(struct run *run)
{
	filled(run);
	snapshot(run, "one");
	some_writes(run, "disk", 1);
	snapshot(run, "two");
	some_writes(run, "disk", 2);
}

/* The content is that of the snapshot, whatever the leaf says: it goes away. */
static void only_a_snapshot(struct run *run)
{
	struct sheet before;

	filled(run);
	snapshot(run, "one");
	sheet_copy(&before, &run->sheet);
	sheet_fini(&run->sheet);
	run->sheet = before;
}

/* As a process leaves it that dies right after a flush: the log has entries. */
static void dirty_log(struct run *run)
{
	filled(run);
	run_open(run, "disk", true);
	run_write(run, BLOCK(3), 9);
	run_zero(run, BLOCK(1), run->w->block / SHEET_SECTOR);
	run_flush(run);
	vhd_disk_abandon(run->disk);
	run->disk = NULL;
}

static void damage(struct run *run, uint64_t offset, size_t len)
{
	static const uint8_t junk[4096] = { 0xde, 0xad, 0xbe, 0xef };
	struct store *s;

	if (store_folder_open(run->folder, "disk", STORE_RDWR, &s, NULL) < 0 || store_write(s, junk, len, offset) < 0)
		abort();
	store_close(s);
}

/* One of two copies of everything that has two. */
static void damaged(struct run *run)
{
	uint64_t size;
	struct store *s;

	dirty_log(run);
	if (run->w->format == VHD_FORMAT_VHDX) {
		damage(run, SP_KIB(192), 4096);
		return;
	}
	if (store_folder_open(run->folder, "disk", 0, &s, NULL) < 0 || store_size(s, &size) < 0)
		abort();
	store_close(s);
	damage(run, size - 512, 512);
}

/* ---- a guest -------------------------------------------------------------------------------------- */

static void first_writes(struct run *run)
{
	run_open(run, "disk", true);
	run_write(run, BLOCK(1) + 8, 4);
	run_flush(run);
	run_write(run, BLOCK(0), 1);
	run_write(run, BLOCK(3) - 1, 3);
	run_read(run, BLOCK(3) - 2, 6);
	run_flush(run);
	run_write(run, BLOCK(3) + 40, 2);
	run_flush(run);
}

static void overwrites(struct run *run)
{
	run_open(run, "disk", true);
	run_write(run, 10, 3);
	run_write(run, BLOCK(1), 20);
	run_read(run, 8, 8);
	run_flush(run);
	run_write(run, 11, 3);
	run_flush(run);
}

static void partial_writes(struct run *run)
{
	run_open(run, "disk", true);
	run_write(run, BLOCK(1) + 3, 2);
	run_read(run, BLOCK(1), 24);
	run_flush(run);
	run_write(run, BLOCK(1) + 4, 6);
	run_write(run, BLOCK(0), run->w->block / SHEET_SECTOR);
	run_flush(run);
	run_zero(run, BLOCK(2) - 1, 3);
	run_read(run, BLOCK(2) - 2, 6);
	run_flush(run);
}

static void trim_and_reuse(struct run *run)
{
	run_open(run, "disk", true);
	run_discard(run, BLOCK(1), run->w->block / SHEET_SECTOR);
	run_flush(run);
	run_write(run, BLOCK(3) + 30, 4);
	run_flush(run);
	run_zero(run, BLOCK(0), run->w->block / SHEET_SECTOR);
	run_write(run, BLOCK(1) + 60, 4);
	run_flush(run);
	run_flush(run);
	run_write(run, BLOCK(0) + 5, 2);
	run_read(run, BLOCK(0), 16);
	run_flush(run);
}

static void open_and_look(struct run *run, bool write)
{
	run_open(run, "disk", write);
	run_read(run, BLOCK(3), 12);
	run_read(run, 8, 4);
	run_close(run);
}

static void replay_writable(struct run *run)
{
	open_and_look(run, true);
}

static void replay_read_only(struct run *run)
{
	open_and_look(run, false);
}

/* Nothing flushed before: the end has to do it all. */
static void closing(struct run *run)
{
	run_open(run, "disk", true);
	run_write(run, BLOCK(1), 4);
	run_write(run, BLOCK(2), 4);
	run_discard(run, BLOCK(3), run->w->block / SHEET_SECTOR);
	run_close(run);
}

/* ---- operations ----------------------------------------------------------------------------------- */

typedef int operation(const struct work *w, struct store_folder *f, struct sp_err *err);

static void operate(struct run *run, operation *op)
{
	struct sp_err err = { 0 };

	run_result(run, op(run->w, run->folder, &err), &err);
}

static bool exists(struct store_folder *f, const char *name)
{
	struct store *s;

	if (store_folder_open(f, name, STORE_NO_LOCK, &s, NULL) < 0)
		return false;
	store_close(s);
	return true;
}

static int create(const struct work *w, struct store_folder *f, struct sp_err *err)
{
	struct vhd_format_create c = { .size = w->size, .block_size = w->block, .kind = VHD_KIND_DYNAMIC };

	return vhd_create_in(f, "disk", w->format, &c, err);
}

static int create_again(const struct work *w, struct store_folder *f, struct sp_err *err)
{
	store_folder_unlink(f, "disk");		/* its removal may have failed as well */
	return create(w, f, err);
}

static void run_create(struct run *run)
{
	operate(run, create);
}

static int grow(const struct work *w, struct store_folder *f, struct sp_err *err)
{
	struct vhd_image *img;
	int r = op_image_open(f, "disk", true, &img, err);

	if (r < 0)
		return r;
	r = img->format->grow(img, w->size * 300, err);		/* the BAT has to move */
	return op_image_close(img, r, err);
}

static void run_grow(struct run *run)
{
	run->new_size = run->w->size * 300;
	operate(run, grow);
}

static int snapshot_create(const struct work *w, struct store_folder *f, struct sp_err *err)
{
	return vhd_snapshot_create_in(f, "disk", "new", err);
}

static int snapshot_create_again(const struct work *w, struct store_folder *f, struct sp_err *err)
{
	int r = snapshot_create(w, f, err);

	return r == -EEXIST ? -EALREADY : r;
}

static void run_snapshot(struct run *run)
{
	operate(run, snapshot_create);
}

static int snapshot_delete(const struct work *w, struct store_folder *f, struct sp_err *err)
{
	return vhd_snapshot_delete_in(f, "disk", "two", false, NULL, err);
}

static int snapshot_delete_again(const struct work *w, struct store_folder *f, struct sp_err *err)
{
	int r = snapshot_delete(w, f, err);

	return r == -ENOENT ? -EALREADY : r;
}

static void run_snapshot_delete(struct run *run)
{
	operate(run, snapshot_delete);
}

static int snapshot_revert(const struct work *w, struct store_folder *f, struct sp_err *err)
{
	return vhd_snapshot_revert_in(f, "disk", "one", false, err);
}

static void run_snapshot_revert(struct run *run)
{
	operate(run, snapshot_revert);
}

static int merge(struct store_folder *f, unsigned layers, struct sp_err *err)
{
	struct vhd_merge_opts o = { .layers = layers, .threads = 1 };
	struct vhd_merge_result result;

	return vhd_merge_in(f, "disk", &o, NULL, &result, err);
}

/* The target's own name is gone once it has taken that of the leaf. */
static int merge_one(const struct work *w, struct store_folder *f, struct sp_err *err)
{
	return exists(f, "middle") ? merge(f, 1, err) : -EALREADY;
}

static int merge_two(const struct work *w, struct store_folder *f, struct sp_err *err)
{
	return exists(f, "base") ? merge(f, 2, err) : -EALREADY;
}

static void run_merge_one(struct run *run)
{
	struct sp_err err = { 0 };

	run_result(run, merge(run->folder, 1, &err), &err);
}

static void run_merge_two(struct run *run)
{
	struct sp_err err = { 0 };

	run_result(run, merge(run->folder, 2, &err), &err);
}

static int rebase(const struct work *w, struct store_folder *f, struct sp_err *err)
{
	struct vhd_rebase_opts o = { .threads = 1 };

	return vhd_rebase_in(f, "disk", "base", &o, NULL, err);
}

static void run_rebase(struct run *run)
{
	operate(run, rebase);
}

static int flatten(const struct work *w, struct store_folder *f, struct sp_err *err)
{
	struct vhd_rebase_opts o = { .threads = 1 };
	int r = vhd_rebase_in(f, "disk", NULL, &o, NULL, err);

	return r == -EINVAL ? -EALREADY : r;
}

static void run_flatten(struct run *run)
{
	operate(run, flatten);
}

static int convert(const struct work *w, struct store_folder *f, struct sp_err *err)
{
	struct vhd_convert_opts o = {
		.source = { .format = w->format },
		.target = { .format = w->format, .block_size = w->block },
		.threads = 1,
	};

	return vhd_convert_in(f, "disk", f, "copy", &o, NULL, err);
}

static int convert_again(const struct work *w, struct store_folder *f, struct sp_err *err)
{
	return exists(f, "copy") ? -EALREADY : convert(w, f, err);
}

static void run_convert(struct run *run)
{
	operate(run, convert);
}

static int check_or_repair(const struct work *w, struct store_folder *f, bool repair, struct sp_err *err)
{
	const struct vhd_format *format = vhd_format_by_id(w->format);
	struct vhd_report report = { 0 };
	struct store *s;
	int r = store_folder_open(f, "disk", repair ? STORE_RDWR : 0, &s, err);

	if (r < 0)
		return r;
	r = repair ? format->repair(s, false, &report) : format->check(s, &report);
	if (r == 0 && repair)
		r = store_sync(s);
	vhd_report_fini(&report);
	store_close(s);
	return r < 0 ? sp_err_set(err, r, "%s", strerror(-r)) : 0;
}

static int repair(const struct work *w, struct store_folder *f, struct sp_err *err)
{
	return check_or_repair(w, f, true, err);
}

static int check(const struct work *w, struct store_folder *f, struct sp_err *err)
{
	return check_or_repair(w, f, false, err);
}

static void run_repair(struct run *run)
{
	operate(run, repair);
}

static void run_check(struct run *run)
{
	operate(run, check);
}

/* ---- the table ------------------------------------------------------------------------------------ */

#define VHDX(n) .name = "vhdx-" n, .format = VHD_FORMAT_VHDX, .size = SP_MIB(4), .block = 1u << 20
#define VHD(n) .name = "vhd-" n, .format = VHD_FORMAT_VHD, .size = SP_MIB(2), .block = 512u << 10
#define DISK .leaf = "disk"

const struct work works[] = {
#define FORMAT(F)                                                                                                   \
	{ F("create"), DISK, .appears = true, .setup = nothing, .run = run_create, .again = create_again },         \
	{ F("first-write"), DISK, .guest = true, .setup = empty, .run = first_writes },                             \
	{ F("overwrite"), DISK, .guest = true, .setup = filled, .run = overwrites },                                \
	{ F("partial-diff"), DISK, .guest = true, .setup = on_parent, .run = partial_writes },                      \
	{ F("trim"), DISK, .guest = true, .setup = filled, .run = trim_and_reuse },                                 \
	{ F("replay"), DISK, .guest = true, .setup = dirty_log, .run = replay_writable },                           \
	{ F("replay-ro"), DISK, .guest = true, .setup = dirty_log, .run = replay_read_only },                       \
	{ F("close"), DISK, .guest = true, .setup = filled, .run = closing },                                       \
	{ F("grow"), DISK, .setup = filled, .run = run_grow, .again = grow },                                       \
	{ F("snapshot"), DISK, .setup = filled, .run = run_snapshot, .again = snapshot_create_again },              \
	{ F("snapshot-delete"), DISK, .setup = snapshotted, .run = run_snapshot_delete,                             \
	  .again = snapshot_delete_again },                                                                         \
	{ F("snapshot-revert"), DISK, .setup = only_a_snapshot, .run = run_snapshot_revert,                         \
	  .again = snapshot_revert },                                                                               \
	{ F("merge"), DISK, .setup = chain_of_three, .run = run_merge_one, .again = merge_one },                    \
	{ F("merge-two"), DISK, .setup = chain_of_three, .run = run_merge_two, .again = merge_two },                \
	{ F("rebase"), DISK, .setup = chain_of_three, .run = run_rebase, .again = rebase },                         \
	{ F("flatten"), DISK, .setup = chain_of_three, .run = run_flatten, .again = flatten },                      \
	{ F("convert"), .leaf = "copy", .appears = true, .setup = filled, .run = run_convert,                       \
	  .again = convert_again },                                                                                 \
	{ F("check"), DISK, .damaged = true, .setup = damaged, .run = run_check, .again = repair },                 \
	{ F("repair"), DISK, .damaged = true, .setup = damaged, .run = run_repair, .again = repair },
	FORMAT(VHDX) FORMAT(VHD)
};
const size_t work_count = SP_ARRAY_SIZE(works);
