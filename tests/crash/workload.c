/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The workloads: small disks, every kind of change to the metadata, and the operations on chains.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "tests/crash/crash.h"
#include "vhd/ops_int.h"

#define MAX_WRITE 64u		/* sectors */

void crash_must(struct crash *c, int r, const struct sp_err *err)
{
	if (r < 0)
		crash_fail(c, "the workload itself failed: %d %s", r, err ? sp_err_text(err) : "");
}

/* ---- the same on disk and in the oracle ---------------------------------------------------------- */

void crash_open(struct crash *c, const char *leaf)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE, .format = c->w->format };
	struct sp_err err = { 0 };

	crash_must(c, vhd_disk_open_in(c->folder, leaf, &o, &c->disk, &err), &err);
}

static void mark(struct crash *c, uint32_t index)
{
	if (c->log)
		log_mark(c->log, index);
}

void crash_flush(struct crash *c)
{
	uint32_t covers = c->oracle.entries;

	crash_must(c, vhd_disk_flush(c->disk), NULL);
	mark(c, oracle_note(&c->oracle, HISTORY_FLUSHED, 0, 0, 0, covers));
}

void crash_close(struct crash *c)
{
	uint32_t covers = c->oracle.entries;
	struct sp_err err = { 0 };

	crash_must(c, vhd_disk_close(c->disk, &err), &err);
	mark(c, oracle_note(&c->oracle, HISTORY_FLUSHED, 0, 0, 0, covers));
	c->disk = NULL;
}

void crash_write(struct crash *c, uint64_t sector, uint64_t count)
{
	uint8_t *buf = malloc(count * SECTOR);
	uint32_t stamp = ++c->stamp;

	if (!buf)
		abort();
	for (uint64_t i = 0; i < count; i++)
		stamp_fill(buf + i * SECTOR, sector + i, stamp);
	mark(c, oracle_note(&c->oracle, HISTORY_WRITE, sector, count, stamp, 0));
	crash_must(c, vhd_disk_write(c->disk, buf, count * SECTOR, sector * SECTOR), NULL);
	free(buf);
}

void crash_zero(struct crash *c, uint64_t sector, uint64_t count)
{
	mark(c, oracle_note(&c->oracle, HISTORY_ZERO, sector, count, 0, 0));
	crash_must(c, vhd_disk_write_zeroes(c->disk, sector * SECTOR, count * SECTOR), NULL);
}

void crash_discard(struct crash *c, uint64_t sector, uint64_t count)
{
	mark(c, oracle_note(&c->oracle, HISTORY_DISCARD, sector, count, 0, 0));
	crash_must(c, vhd_disk_discard(c->disk, sector * SECTOR, count * SECTOR), NULL);
}

static uint64_t sectors(const struct crash *c)
{
	return c->w->size / SECTOR;
}

static uint64_t block_sectors(const struct crash *c)
{
	return c->w->block / SECTOR;
}

/* Few places in many blocks, so that space that changed hands shows; now and then across a border. */
void crash_write_anywhere(struct crash *c)
{
	static const unsigned places[] = { 0, 7, 64, 200, 333 };
	uint64_t count = rng_between(&c->rng, 1, rng_chance(&c->rng, 1, 4) ? MAX_WRITE : 8);
	uint64_t block = rng_below(&c->rng, sectors(c) / block_sectors(c)) * block_sectors(c);
	uint64_t at = block + places[rng_below(&c->rng, SP_ARRAY_SIZE(places))];

	if (block > 0 && rng_chance(&c->rng, 1, 8))
		at = block - 3;
	crash_write(c, at, count);
}

/* ---- setups -------------------------------------------------------------------------------------- */

void crash_make_base(struct crash *c, const char *name)
{
	struct vhd_format_create p = {
		.size = c->w->size, .block_size = c->w->block, .logical_sector = SECTOR, .kind = VHD_KIND_DYNAMIC,
	};
	struct sp_err err = { 0 };

	crash_must(c, vhd_create_in(c->folder, name, c->w->format, &p, &err), &err);
}

static void empty_base(struct crash *c)
{
	crash_make_base(c, "disk");
}

static void fill_some(struct crash *c, const char *name, unsigned writes)
{
	crash_open(c, name);
	for (unsigned i = 0; i < writes; i++)
		crash_write_anywhere(c);
	crash_close(c);
}

static void filled_base(struct crash *c)
{
	crash_make_base(c, "disk");
	fill_some(c, "disk", 40);
}

static void make_child(struct crash *c, const char *parent, const char *name)
{
	struct sp_err err = { 0 };

	crash_open(c, parent);
	struct vhd_image *img = vhd_disk_image(c->disk, 0);
	struct vhd_format_create p = {
		.kind = VHD_KIND_DIFFERENCING, .size = c->w->size, .block_size = c->w->block, .logical_sector = SECTOR,
		.parent_identity = img->identity, .parent_relative = parent,
	};

	crash_must(c, store_mtime(img->store, &p.parent_mtime), NULL);
	crash_must(c, vhd_disk_close(c->disk, &err), &err);
	crash_must(c, vhd_create_in(c->folder, name, c->w->format, &p, &err), &err);
}

static void child_of_filled(struct crash *c)
{
	crash_make_base(c, "base");
	fill_some(c, "base", 30);
	make_child(c, "base", "disk");
}

/* base <- middle <- disk, each with content of its own. */
static void chain_of_three(struct crash *c)
{
	crash_make_base(c, "base");
	fill_some(c, "base", 20);
	make_child(c, "base", "middle");
	fill_some(c, "middle", 15);
	make_child(c, "middle", "disk");
	crash_open(c, "disk");
	for (unsigned i = 0; i < 12; i++)
		crash_write_anywhere(c);
	crash_zero(c, block_sectors(c), block_sectors(c));
	crash_close(c);
}

/* ---- what is going on ---------------------------------------------------------------------------- */

static void first_writes(struct crash *c)
{
	crash_open(c, "disk");
	for (unsigned i = 0; i < 24; i++) {
		crash_write_anywhere(c);
		if (rng_chance(&c->rng, 1, 3))
			crash_flush(c);
	}
	crash_close(c);
}

static void overwrites(struct crash *c)
{
	crash_open(c, "disk");
	for (unsigned i = 0; i < 30; i++) {
		crash_write(c, rng_below(&c->rng, 6) * 40, rng_between(&c->rng, 1, 16));
		if (rng_chance(&c->rng, 1, 4))
			crash_flush(c);
	}
	crash_close(c);
}

/* Partial writes over parent data, some to whole blocks, some that complete a block. */
static void partial_writes(struct crash *c)
{
	uint64_t block = rng_below(&c->rng, sectors(c) / block_sectors(c)) * block_sectors(c);

	crash_open(c, "disk");
	for (unsigned i = 0; i < 20; i++) {
		crash_write_anywhere(c);
		if (i == 8)
			crash_write(c, block, block_sectors(c));
		if (i == 12)
			crash_zero(c, (block + block_sectors(c)) % sectors(c), block_sectors(c));
		if (rng_chance(&c->rng, 1, 3))
			crash_flush(c);
	}
	crash_close(c);
}

/* Freed space finds a new owner: the old one's bytes must never show in it. */
static void trims_and_reuse(struct crash *c)
{
	uint64_t blocks = sectors(c) / block_sectors(c);

	crash_open(c, "disk");
	for (unsigned i = 0; i < 32; i++) {
		uint64_t block = rng_below(&c->rng, blocks) * block_sectors(c);

		if (rng_chance(&c->rng, 1, 2))
			crash_write_anywhere(c);
		else if (rng_chance(&c->rng, 2, 3))
			crash_discard(c, block, block_sectors(c));
		else
			crash_zero(c, block + rng_below(&c->rng, 300), rng_between(&c->rng, 1, 300));
		if (rng_chance(&c->rng, 2, 5))
			crash_flush(c);
	}
	crash_close(c);
}

/* Past the end of the log ring, where it begins again under another GUID. */
static void log_wraps(struct crash *c)
{
	crash_open(c, "disk");
	for (unsigned i = 0; i < 150; i++) {
		uint64_t block = i % (sectors(c) / block_sectors(c)) * block_sectors(c);

		if (i % 3 == 0)
			crash_zero(c, block, block_sectors(c));
		crash_write(c, block + i % 64, 2);
		crash_flush(c);
	}
	crash_close(c);
}

/* Each open and close moves the headers. */
static void header_switches(struct crash *c)
{
	for (unsigned i = 0; i < 6; i++) {
		crash_open(c, "disk");
		crash_write_anywhere(c);
		if (i % 2)
			crash_flush(c);
		crash_write_anywhere(c);
		crash_close(c);
	}
}

/* The footer wanders outwards with the blocks, and back at the end. */
static void footer_moves(struct crash *c)
{
	uint64_t blocks = sectors(c) / block_sectors(c);

	for (unsigned round = 0; round < 2; round++) {
		crash_open(c, "disk");
		for (uint64_t b = round; b < blocks; b += 2) {
			crash_write(c, b * block_sectors(c) + rng_below(&c->rng, 100), 3);
			if (rng_chance(&c->rng, 1, 3))
				crash_flush(c);
		}
		crash_close(c);
	}
}

/* A whole life: blocks come, go, and the slack is cut off at the end. */
static void slack_is_cut(struct crash *c)
{
	uint64_t blocks = sectors(c) / block_sectors(c);

	for (unsigned round = 0; round < 3; round++) {
		crash_open(c, "disk");
		for (uint64_t b = 0; b < blocks; b++)
			crash_write(c, b * block_sectors(c) + round, 2);
		crash_flush(c);
		crash_discard(c, blocks / 2 * block_sectors(c), (blocks - blocks / 2) * block_sectors(c));
		crash_close(c);
	}
}

static void live_leaf(struct crash *c)
{
	struct vhd_image *leaf, *parent;
	struct sp_err err = { 0 };
	struct store *s;

	crash_open(c, "disk");
	for (unsigned i = 0; i < 6; i++)
		crash_write_anywhere(c);
	crash_flush(c);
	parent = vhd_disk_image(c->disk, 0);
	struct vhd_format_create p = {
		.kind = VHD_KIND_DIFFERENCING, .size = c->w->size, .block_size = c->w->block, .logical_sector = SECTOR,
		.parent_identity = parent->identity, .parent_relative = "disk",
	};

	crash_must(c, store_mtime(parent->store, &p.parent_mtime), NULL);
	crash_must(c, vhd_create_in(c->folder, "leaf", c->w->format, &p, &err), &err);
	crash_must(c, store_folder_open(c->folder, "leaf", STORE_RDWR, &s, &err), &err);
	crash_must(c, vhd_image_open(s, "leaf", vhd_format_by_id(c->w->format), VHD_IMG_WRITABLE, &leaf, &err), &err);
	crash_must(c, vhd_disk_drain(c->disk, 1000), NULL);
	crash_must(c, vhd_disk_push_leaf(c->disk, leaf, &err), &err);
	vhd_disk_resume(c->disk);
	/* From here on "leaf" is the disk; the oracle looks at it only where it exists, and there all is settled. */
	crash_must(c, vhd_disk_close(c->disk, &err), &err);
	c->disk = NULL;
}

static void snapshots(struct crash *c)
{
	struct sp_err err = { 0 };

	crash_must(c, vhd_snapshot_create_in(c->folder, "disk", "one", &err), &err);
	crash_must(c, vhd_snapshot_create_in(c->folder, "disk", "two", &err), &err);
}

static int merge_once(struct store_folder *f, const char *leaf, unsigned layers, bool keep, struct sp_err *err)
{
	struct vhd_merge_opts o = { .layers = layers, .keep = keep, .threads = 1 };
	struct vhd_merge_result result;

	return vhd_merge_in(f, leaf, &o, NULL, &result, err);
}

static void merge_one(struct crash *c)
{
	struct sp_err err = { 0 };

	crash_must(c, merge_once(c->folder, "disk", 1, true, &err), &err);
}

static void merge_two(struct crash *c)
{
	struct sp_err err = { 0 };

	crash_must(c, merge_once(c->folder, "disk", 2, true, &err), &err);
}

static int finish_merge_one(struct crash *c, struct store_folder *f, struct sp_err *err)
{
	(void)c;
	return merge_once(f, "disk", 1, true, err);
}

static int finish_merge_two(struct crash *c, struct store_folder *f, struct sp_err *err)
{
	(void)c;
	return merge_once(f, "disk", 2, true, err);
}

/* The merged layers go away: from the last rename on there is nothing left to finish. */
static void merge_away(struct crash *c)
{
	struct sp_err err = { 0 };

	crash_must(c, merge_once(c->folder, "disk", 2, false, &err), &err);
}

static void snapshotted(struct crash *c)
{
	struct sp_err err = { 0 };

	crash_make_base(c, "disk");
	fill_some(c, "disk", 15);
	crash_must(c, vhd_snapshot_create_in(c->folder, "disk", "one", &err), &err);
	fill_some(c, "disk", 8);
	crash_must(c, vhd_snapshot_create_in(c->folder, "disk", "two", &err), &err);
	fill_some(c, "disk", 8);
}

static void delete_snapshot(struct crash *c)
{
	struct sp_err err = { 0 };

	crash_must(c, vhd_snapshot_delete_in(c->folder, "disk", "two", false, NULL, &err), &err);
}

/* What was written after "two" is thrown away by whoever asked for it: the disk is as it was then. */
static void unchanged_since_snapshot(struct crash *c)
{
	struct sp_err err = { 0 };

	crash_make_base(c, "disk");
	fill_some(c, "disk", 15);
	crash_must(c, vhd_snapshot_create_in(c->folder, "disk", "one", &err), &err);
	crash_must(c, vhd_snapshot_create_in(c->folder, "disk", "two", &err), &err);
	crash_must(c, vhd_snapshot_create_in(c->folder, "disk", "three", &err), &err);
}

static void revert(struct crash *c)
{
	struct sp_err err = { 0 };

	crash_must(c, vhd_snapshot_revert_in(c->folder, "disk", "one", false, &err), &err);
}

static void rebase(struct crash *c)
{
	struct vhd_rebase_opts o = { .threads = 1 };
	struct sp_err err = { 0 };

	crash_must(c, vhd_rebase_in(c->folder, "disk", "base", &o, NULL, &err), &err);
}

static void convert(struct crash *c)
{
	struct vhd_convert_opts o = { .target = { .format = c->w->format, .block_size = c->w->block }, .threads = 1 };
	struct sp_err err = { 0 };

	o.source.format = c->w->format;
	crash_must(c, vhd_convert_in(c->folder, "disk", c->folder, "copy", &o, NULL, &err), &err);
}

#define VHDX(n) .name = "vhdx-" n, .format = VHD_FORMAT_VHDX, .size = SP_MIB(8), .block = 1u << 20, .leaf = "disk"
#define VHD(n) .name = "vhd-" n, .format = VHD_FORMAT_VHD, .size = SP_MIB(8), .block = 512u << 10, .leaf = "disk"

const struct workload workloads[] = {
	{ VHDX("first-write"), .qemu = true, .setup = empty_base, .run = first_writes },
	{ VHDX("overwrite"), .qemu = true, .setup = filled_base, .run = overwrites },
	{ VHDX("partial-diff"), .setup = child_of_filled, .run = partial_writes },
	{ VHDX("trim"), .qemu = true, .setup = filled_base, .run = trims_and_reuse },
	{ VHDX("trim-diff"), .setup = child_of_filled, .run = trims_and_reuse },
	{ VHDX("log-wrap"), .qemu = true, .setup = empty_base, .run = log_wraps },
	{ VHDX("header-switch"), .qemu = true, .setup = empty_base, .run = header_switches },
	{ VHDX("slack-cut"), .qemu = true, .setup = empty_base, .run = slack_is_cut },
	{ VHDX("snapshot"), .settled = true, .setup = filled_base, .run = snapshots },
	{ VHDX("merge"), .settled = true, .setup = chain_of_three, .run = merge_one, .finish = finish_merge_one },
	{ VHDX("merge-two"), .settled = true, .setup = chain_of_three, .run = merge_two, .finish = finish_merge_two },
	{ VHDX("snapshot-delete"), .settled = true, .setup = snapshotted, .run = delete_snapshot },
	{ VHDX("merge-away"), .settled = true, .setup = chain_of_three, .run = merge_away },
	{ VHDX("revert"), .settled = true, .setup = unchanged_since_snapshot, .run = revert },
	{ VHDX("rebase"), .settled = true, .setup = chain_of_three, .run = rebase },
	{ VHDX("live-leaf"), .setup = filled_base, .run = live_leaf },
	{ VHDX("live-set"), .setup = live_two_disks, .run = live_set, .recover = live_set_recover },
	{ VHDX("live-merge"), .setup = live_snapshots, .run = live_merges, .recover = live_merge_recover,
	  .finish = live_merge_finish },
	{ .name = "vhdx-convert", .format = VHD_FORMAT_VHDX, .size = SP_MIB(8), .block = 1u << 20, .leaf = "copy",
	  .may_be_absent = true, .settled = true, .setup = filled_base, .run = convert },
	{ VHDX("client"), .qemu = true, .setup = empty_base, .run = crash_client },
	{ VHDX("client-diff"), .setup = child_of_filled, .run = crash_client },
	{ VHD("first-write"), .setup = empty_base, .run = first_writes },
	{ VHD("overwrite"), .setup = filled_base, .run = overwrites },
	{ VHD("partial-diff"), .setup = child_of_filled, .run = partial_writes },
	{ VHD("trim"), .setup = filled_base, .run = trims_and_reuse },
	{ VHD("footer-move"), .setup = empty_base, .run = footer_moves },
	{ VHD("slack-cut"), .setup = empty_base, .run = slack_is_cut },
	{ VHD("snapshot"), .settled = true, .setup = filled_base, .run = snapshots },
	{ VHD("merge"), .settled = true, .setup = chain_of_three, .run = merge_one, .finish = finish_merge_one },
	{ VHD("live-leaf"), .setup = filled_base, .run = live_leaf },
	{ VHD("snapshot-delete"), .settled = true, .setup = snapshotted, .run = delete_snapshot },
	{ VHD("merge-away"), .settled = true, .setup = chain_of_three, .run = merge_away },
	{ VHD("revert"), .settled = true, .setup = unchanged_since_snapshot, .run = revert },
	{ VHD("client"), .setup = empty_base, .run = crash_client },
	{ VHD("client-diff"), .setup = child_of_filled, .run = crash_client },
	{ VHD("live-set"), .setup = live_two_disks, .run = live_set, .recover = live_set_recover },
	{ VHD("live-merge"), .setup = live_snapshots, .run = live_merges, .recover = live_merge_recover,
	  .finish = live_merge_finish },
	{ VHD("rebase"), .settled = true, .setup = chain_of_three, .run = rebase },
};
const size_t workload_count = SP_ARRAY_SIZE(workloads);
