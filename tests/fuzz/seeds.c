/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The images that inputs change: small ones of every kind, made by the engine in memory, with data where bitmaps,
 * second blocks and parents come into play. The dirty ones were left by a process that died between flush and close.
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "tests/fuzz/fuzz.h"
#include "vhd/store_mem_int.h"
#include "vhd/vhdx_int.h"

struct plan {
	enum vhd_format_id format;
	enum vhd_kind kind;		/* of the base */
	uint64_t size;
	uint32_t block_size, logical_sector;
	unsigned files;
	bool dirty;			/* the leaf */
};

static const struct plan plans[FZ_SEEDS] = {
	[FZ_VHD_FIXED] = { VHD_FORMAT_VHD, VHD_KIND_FIXED, SP_MIB(1), 0, 512, 1 },
	[FZ_VHD_DYNAMIC] = { VHD_FORMAT_VHD, VHD_KIND_DYNAMIC, SP_MIB(16), SP_MIB(2), 512, 1 },
	[FZ_VHD_SMALL_BLOCKS] = { VHD_FORMAT_VHD, VHD_KIND_DYNAMIC, SP_MIB(1), SP_KIB(16), 512, 1 },
	[FZ_VHD_CHILD] = { VHD_FORMAT_VHD, VHD_KIND_DYNAMIC, SP_MIB(8), SP_MIB(2), 512, 2 },
	[FZ_VHD_CHAIN] = { VHD_FORMAT_VHD, VHD_KIND_FIXED, SP_MIB(4), SP_KIB(512), 512, 3 },
	[FZ_VHDX_FIXED] = { VHD_FORMAT_VHDX, VHD_KIND_FIXED, SP_MIB(4), SP_MIB(1), 512, 1 },
	[FZ_VHDX_DYNAMIC] = { VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, SP_MIB(64), SP_MIB(1), 512, 1 },
	[FZ_VHDX_4K] = { VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, SP_MIB(64), SP_MIB(8), 4096, 1 },
	[FZ_VHDX_HUGE] = { VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, SP_TIB(64), SP_MIB(256), 4096, 1 },
	[FZ_VHDX_CHILD] = { VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, SP_MIB(32), SP_MIB(2), 512, 2 },
	[FZ_VHDX_CHAIN] = { VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, SP_MIB(16), SP_MIB(1), 512, 3 },
	[FZ_VHDX_DIRTY] = { VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, SP_MIB(64), SP_MIB(1), 512, 1, true },
	[FZ_VHDX_DIRTY_CHILD] = { VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, SP_MIB(32), SP_MIB(2), 512, 2, true },
};

static const char *const names[][FZ_FILES] = {
	[VHD_FORMAT_VHD] = { "leaf.vhd", "mid.vhd", "base.vhd" },
	[VHD_FORMAT_VHDX] = { "leaf.vhdx", "mid.vhdx", "base.vhdx" },
};

static void must(int r, const struct sp_err *err)
{
	fz_check(r >= 0, "cannot make the seed images: %s (%s)", err ? sp_err_text(err) : "", strerror(-r));
}

static void create(struct fz_seed *seed, unsigned file, const struct vhd_format_create *c)
{
	struct sp_err err = { 0 };
	struct mem_file *f;
	struct store *s;

	must(mem_file_new(0, FZ_FILE_LIMIT, &f), NULL);
	must(mem_file_open(f, seed->name[file], true, &s), NULL);
	must(vhd_format_by_id(seed->format)->create(s, c, &err), &err);
	must(store_folder_mem_put(seed->folder, seed->name[file], f), NULL);
	store_close(s);
	mem_file_put(f);
}

static void fill(struct vhd_disk *d, uint64_t offset, uint8_t pattern)
{
	uint8_t buf[8192];

	memset(buf, pattern, sizeof(buf));
	must(vhd_disk_write(d, buf, sizeof(buf), offset), NULL);
}

/* Some data at the start, in the second block, and (not in the smallest) at the end. */
static void write_some(struct fz_seed *seed, unsigned file, const struct plan *p, uint8_t pattern)
{
	struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE };
	struct sp_err err = { 0 };
	struct vhd_disk *d;

	must(vhd_disk_open_in(seed->folder, seed->name[file], &o, &d, &err), &err);
	fill(d, file * 4096u, pattern);
	if (p->block_size)
		fill(d, p->block_size + 4096u * file, pattern + 1);
	must(vhd_disk_flush(d), NULL);
	fill(d, p->size - 8192, pattern + 2);
	if (p->dirty && file == 0) {
		must(vhd_disk_write_zeroes(d, p->block_size, 4096), NULL);
		must(vhd_disk_flush(d), NULL);
		vhd_disk_abandon(d);
	} else {
		must(vhd_disk_close(d, &err), &err);
	}
}

/* What a child stores of its parent. */
static void parent_of(struct fz_seed *seed, unsigned file, struct vhd_format_create *c)
{
	struct sp_err err = { 0 };
	struct vhd_disk *d;

	must(vhd_disk_open_in(seed->folder, seed->name[file], NULL, &d, &err), &err);
	c->kind = VHD_KIND_DIFFERENCING;
	c->parent_identity = vhd_disk_image(d, 0)->identity;
	c->parent_relative = seed->name[file];
	must(store_mtime(vhd_disk_image(d, 0)->store, &c->parent_mtime), NULL);
	must(vhd_disk_close(d, NULL), NULL);
}

static void find_structures(struct fz_seed *seed)
{
	struct sp_err err = { 0 };
	struct vhdx_region_table t;
	struct vhdx_header h;
	unsigned slot, copy;
	struct store *s;
	uint64_t size;

	if (seed->format != VHD_FORMAT_VHDX)
		return;
	must(store_folder_open(seed->folder, seed->name[0], 0, &s, &err), &err);
	must(store_size(s, &size), NULL);
	must(vhdx_header_read_current(s, size, &h, &slot, &err), &err);
	must(vhdx_region_tables_read(s, size, &t, &copy, &err), &err);
	seed->log_offset = h.log_offset;
	seed->log_length = h.log_length;
	seed->metadata_offset = t.entry[t.metadata].offset;
	seed->bat_offset = t.entry[t.bat].offset;
	sp_free(t.entry);
	store_close(s);
}

static void make(struct fz_seed *seed, const struct plan *p)
{
	struct vhd_format_create c = {
		.size = p->size, .kind = p->kind, .block_size = p->block_size, .logical_sector = p->logical_sector,
		.physical_sector = 4096,
	};

	seed->format = p->format;
	seed->size = p->size;
	seed->files = p->files;
	for (unsigned i = 0; i < p->files; i++)
		seed->name[i] = names[p->format][i];
	must(store_folder_mem(&seed->folder), NULL);
	for (unsigned i = p->files; i-- > 0;) {
		if (i + 1 < p->files)
			parent_of(seed, i + 1, &c);
		create(seed, i, &c);
		write_some(seed, i, p, (uint8_t)(0x11 * (i + 1)));
	}
	find_structures(seed);
	fz_fields(seed);
}

const struct fz_seed *fz_seed(enum fz_seed_id id)
{
	static struct fz_seed seed[FZ_SEEDS];

	if (!seed[id].folder)
		make(&seed[id], &plans[id]);
	return &seed[id];
}
