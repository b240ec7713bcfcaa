/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writing VHDX images: allocation, bitmaps, the log, space, growth; each against a model, with reopening after clean
 * closes and after deaths of the process.
 */
#include "tests/unit/rows.h"
#include "tests/unit/vhdx_driver.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/env.h"
#include "vhd/vhdx_layout.h"

static const struct sp_guid some_identity = { { 7, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 } };

static struct vhd_format_create create_of(enum vhd_kind kind, uint64_t size, uint32_t block, uint32_t sector)
{
	struct vhd_format_create c = {
		.size = size, .kind = kind, .block_size = block, .logical_sector = sector, .physical_sector = 4096,
	};

	if (kind == VHD_KIND_DIFFERENCING) {
		c.parent_identity = some_identity;
		c.parent_relative = "base.vhdx";
	}
	return c;
}

/* ---- anything, in any order ---------------------------------------------------------------------- */

static const struct mix_case {
	const char *name;
	enum vhd_kind kind;
	uint64_t size;
	uint32_t block, sector;
	unsigned steps;
} mixes[] = {
	{ "dynamic, 1 MiB blocks",		   VHD_KIND_DYNAMIC,	  SP_MIB(24),		   1 << 20, 512,  600 },
	{ "dynamic, partial last block",	   VHD_KIND_DYNAMIC,	  SP_MIB(23) + 512 * 77,   4 << 20, 512,  600 },
	{ "dynamic, 4 KiB sectors",		   VHD_KIND_DYNAMIC,	  SP_MIB(24),		   2 << 20, 4096, 600 },
	{ "differencing, 1 MiB blocks",		   VHD_KIND_DIFFERENCING, SP_MIB(24),		   1 << 20, 512,  600 },
	{ "differencing, partial last block",	   VHD_KIND_DIFFERENCING, SP_MIB(23) + 512 * 77,   2 << 20, 512,  600 },
	{ "differencing, 4 KiB sectors",	   VHD_KIND_DIFFERENCING, SP_MIB(23) + 4096 * 77,  1 << 20, 4096, 600 },
	{ "differencing, bitmap shares of pages",  VHD_KIND_DIFFERENCING, SP_MIB(300) + 512,	 256 << 20, 512,  200 },
	{ "differencing, small shares, many",	   VHD_KIND_DIFFERENCING, SP_MIB(64),		   1 << 20, 512, 1200 },
	{ "fixed",				   VHD_KIND_FIXED,	  SP_MIB(24),		   1 << 20, 512,  300 },
};

static void mix_write(struct drv *d, uint32_t block, uint32_t sector)
{
	uint64_t sectors = d->size / sector, first = drv_random(d) % sectors, most = 1 + drv_random(d) % 40;

	if (drv_random(d) % 5 == 0) {		/* a whole block, or across a boundary */
		first = sp_align_down(first, block / sector);
		most = block / sector + drv_random(d) % 3;
		if (block > 4 << 20)
			most = 5000;
	}
	assert_int_equal(drv_write(d, first * sector, sp_min(most, sectors - first) * sector), 0);
}

static void mix_discard(struct drv *d, uint32_t block, uint32_t sector)
{
	uint64_t from = sp_align_down(drv_random(d) % d->size, drv_random(d) % 2 ? block : sector);
	uint64_t len = drv_random(d) % 3 ? block : (drv_random(d) % (3 * block / sector) + 1) * sector;

	assert_int_equal(drv_discard(d, from, sp_min(len, d->size - from)), 0);
}

static void mix(void **state)
{
	const struct mix_case *c = *state;
	struct vhd_format_create create = create_of(c->kind, c->size, c->block, c->sector);
	struct drv d = { 0 };

	drv_new(&d, &create, c->steps + c->block);
	for (unsigned i = 0; i < c->steps; i++) {
		unsigned what = drv_random(&d) % 100;

		if (what < 60)
			mix_write(&d, c->block, c->sector);
		else if (what < 78)
			mix_discard(&d, c->block, c->sector);
		else if (what < 95)
			assert_int_equal(drv_flush(&d), 0);
		else if (what < 97)
			drv_reopen(&d);
		else
			drv_die(&d);
		if (i % 32 == 0)
			drv_check(&d, d.img, false, NULL);
	}
	drv_check(&d, d.img, false, NULL);
	drv_reopen(&d);
	drv_check(&d, d.img, false, NULL);
	drv_free(&d);
}

/* ---- the log ------------------------------------------------------------------------------------- */

static struct vhdx *engine(struct drv *d)
{
	return vhdx_of(d->img);
}

static void log_begins_again(void **state)
{
	struct vhd_format_create create = create_of(VHD_KIND_DIFFERENCING, SP_MIB(512), 1 << 20, 512);
	struct drv d = { 0 };
	struct sp_guid guid;
	unsigned rings = 0;

	(void)state;
	drv_new(&d, &create, 1);
	assert_int_equal(drv_write(&d, 0, 512), 0);
	guid = engine(&d)->header.log_guid;
	for (unsigned i = 0; i < 400; i++) {
		assert_int_equal(drv_write(&d, (uint64_t)i * SP_MIB(1) + 512 * (i % 9), 512), 0);
		assert_int_equal(drv_flush(&d), 0);
		rings += !sp_guid_equal(&guid, &engine(&d)->header.log_guid);
		guid = engine(&d)->header.log_guid;
		if (i % 90 == 77) {
			drv_die(&d);
			assert_true(engine(&d)->replayed_entries > 0);
			assert_int_equal(drv_write(&d, 0, 512), 0);
			guid = engine(&d)->header.log_guid;
		}
	}
	assert_true(rings >= 3);
	drv_die(&d);
	drv_check(&d, d.img, false, NULL);
	drv_free(&d);
}

static const struct wide_case {
	const char *name;
	enum vhd_kind kind;
	uint64_t stride;
	unsigned writes;
} wides[] = {
	{ "two entries",		   VHD_KIND_DYNAMIC,	  SP_MIB(512),  150 },
	{ "more than the ring holds",	   VHD_KIND_DYNAMIC,	  SP_MIB(512),  700 },
	{ "more than memory should hold",  VHD_KIND_DYNAMIC,	  SP_MIB(512), 2300 },
	{ "bitmap blocks and slots",	   VHD_KIND_DIFFERENCING, SP_GIB(1),	260 },
	{ "a chunk for each",		   VHD_KIND_DIFFERENCING, SP_GIB(4),	200 },
};

/* One flush with many pages; large disk, so no model: each write is looked for by itself. */
static void wide_check(struct drv *d, const struct wide_case *c, unsigned writes)
{
	uint8_t buf[UNIT];
	struct vhd_place p;

	for (unsigned i = 0; i < writes; i++) {
		assert_int_equal(d->img->format->map(d->img, i * c->stride, SP_MIB(1), &p), 0);
		assert_int_equal(p.where, VHD_WHERE_DATA);
		assert_int_equal(store_read(d->img->store, buf, UNIT, p.file_offset), 0);
		assert_int_equal(drv_classify(buf, i * c->stride / UNIT), i + 1);
		assert_int_equal(d->img->format->map(d->img, i * c->stride + SP_MIB(1), SP_MIB(1), &p), 0);
		assert_int_equal(p.where, c->kind == VHD_KIND_DYNAMIC ? VHD_WHERE_ZERO : VHD_WHERE_PARENT);
	}
}

static void wide(void **state)
{
	const struct wide_case *c = *state;
	struct vhd_format_create create = create_of(c->kind, c->stride * c->writes, 1 << 20, 512);
	struct drv d = { .size = create.size };
	struct sp_err err = { 0 };
	struct vhd_flush *b;
	struct store *s;

	assert_int_equal(mem_file_new(0, 0, &d.file), 0);
	assert_int_equal(mem_file_open(d.file, "t.vhdx", true, &s), 0);
	drv_fail(vhd_format_vhdx.create(s, &create, &err), &err);
	store_close(s);
	drv_open(&d);
	for (unsigned i = 0; i < c->writes; i++) {
		uint8_t buf[UNIT];
		uint64_t n;

		assert_int_equal(d.img->format->begin_write(d.img), 0);
		drv_stamp(buf, i * c->stride, UNIT, i + 1);
		assert_int_equal(drv_write_some(&d, buf, i * c->stride, UNIT, &n), 0);
	}
	wide_check(&d, c, c->writes);
	assert_int_equal(d.img->format->flush_begin(d.img, &b), 0);
	assert_non_null(b);
	assert_int_equal(d.img->format->flush_write(d.img, b), 0);
	d.img->format->flush_end(d.img, b, 0);
	vhd_image_close(d.img, true);
	drv_open(&d);
	assert_true(engine(&d)->replayed_entries > 0);
	wide_check(&d, c, c->writes);
	drv_free(&d);
}

/* ---- space --------------------------------------------------------------------------------------- */

static uint64_t home_of(struct drv *d, uint64_t offset)
{
	struct vhd_place p;

	assert_int_equal(d->img->format->map(d->img, offset, 512, &p), 0);
	assert_int_equal(p.where, VHD_WHERE_DATA);
	return p.file_offset;
}

static void space_waits_for_release(void **state)
{
	struct vhd_format_create create = create_of(VHD_KIND_DYNAMIC, SP_MIB(64), 1 << 20, 512);
	struct vhd_flush *b;
	struct drv d = { 0 };
	uint64_t old, tag;

	(void)state;
	drv_new(&d, &create, 1);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(drv_write(&d, SP_MIB(i), SP_MIB(1)), 0);
	assert_int_equal(drv_flush(&d), 0);
	old = home_of(&d, SP_MIB(3));

	assert_int_equal(drv_discard(&d, SP_MIB(3), SP_MIB(1)), 0);
	assert_int_equal(d.img->format->freed_tag(d.img), 0);
	assert_int_equal(drv_write(&d, SP_MIB(20), 512), 0);
	assert_int_not_equal(home_of(&d, SP_MIB(20)), old);

	assert_int_equal(d.img->format->flush_begin(d.img, &b), 0);
	assert_int_equal(d.img->format->freed_tag(d.img), 0);
	assert_int_equal(drv_discard(&d, SP_MIB(4), SP_MIB(1)), 0);	/* belongs to the next batch */
	assert_int_equal(d.img->format->flush_write(d.img, b), 0);
	d.img->format->flush_end(d.img, b, 0);
	tag = d.img->format->freed_tag(d.img);
	assert_int_not_equal(tag, 0);
	assert_int_equal(drv_write(&d, SP_MIB(21), 512), 0);		/* somebody may still have I/O there */
	assert_int_not_equal(home_of(&d, SP_MIB(21)), old);

	d.img->format->release(d.img, tag);
	assert_int_equal(d.img->format->freed_tag(d.img), 0);
	assert_int_equal(drv_write(&d, SP_MIB(22) + 4096, 512), 0);
	assert_int_equal(home_of(&d, SP_MIB(22) + 4096), old + 4096);
	drv_check(&d, d.img, false, NULL);				/* nothing of block 3 shows in block 22 */
	assert_int_equal(drv_write(&d, SP_MIB(23), 512), 0);
	assert_int_not_equal(home_of(&d, SP_MIB(23)), home_of(&d, SP_MIB(22)) + SP_MIB(1));
	drv_die(&d);
	drv_free(&d);
}

static void close_cuts_slack(void **state)
{
	struct vhd_format_create create = create_of(VHD_KIND_DYNAMIC, SP_MIB(64), 1 << 20, 512);
	struct drv d = { 0 };
	uint64_t before, size;

	(void)state;
	drv_new(&d, &create, 1);
	before = engine(&d)->file_size;
	assert_int_equal(drv_write(&d, SP_MIB(5), 512), 0);
	assert_true(engine(&d)->file_size > before + SP_MIB(1));
	drv_reopen(&d);
	assert_int_equal(store_size(d.img->store, &size), 0);
	assert_int_equal(size, before + SP_MIB(1));
	assert_true(sp_guid_is_zero(&engine(&d)->header.log_guid));
	assert_int_equal(drv_discard(&d, SP_MIB(5), SP_MIB(1)), 0);
	drv_reopen(&d);
	assert_int_equal(store_size(d.img->store, &size), 0);
	assert_int_equal(size, before);
	drv_free(&d);
}

/* ---- identities ---------------------------------------------------------------------------------- */

static void guids_change_once(void **state)
{
	struct vhd_format_create create = create_of(VHD_KIND_DYNAMIC, SP_MIB(8), 1 << 20, 512);
	struct vhdx_header before, after;
	struct drv d = { 0 };

	(void)state;
	drv_new(&d, &create, 1);
	before = engine(&d)->header;
	drv_reopen(&d);
	assert_int_equal(engine(&d)->header.sequence_number, before.sequence_number);	/* reading changes nothing */
	assert_int_equal(drv_write(&d, 0, 512), 0);
	after = engine(&d)->header;
	assert_false(sp_guid_equal(&before.data_write_guid, &after.data_write_guid));
	assert_false(sp_guid_equal(&before.file_write_guid, &after.file_write_guid));
	assert_true(sp_guid_equal(&d.img->identity, &after.data_write_guid));
	assert_int_equal(drv_flush(&d), 0);
	assert_int_equal(drv_write(&d, SP_MIB(3), 512), 0);
	assert_true(sp_guid_equal(&d.img->identity, &after.data_write_guid));
	drv_die(&d);						/* replay is not a change a guest could notice */
	assert_true(sp_guid_equal(&d.img->identity, &after.data_write_guid));
	drv_free(&d);
}

static void identity_is_kept(void **state)
{
	struct vhd_format_create create = create_of(VHD_KIND_DYNAMIC, SP_MIB(8), 1 << 20, 512);
	struct drv d = { 0 };

	(void)state;
	drv_new(&d, &create, 1);
	assert_int_equal(d.img->format->set_identity(d.img, &some_identity, NULL), 0);
	assert_int_equal(drv_write(&d, 0, 4096), 0);
	assert_true(sp_guid_equal(&d.img->identity, &some_identity));
	drv_reopen(&d);
	assert_true(sp_guid_equal(&d.img->identity, &some_identity));
	drv_check(&d, d.img, false, NULL);
	assert_int_equal(drv_write(&d, 0, 4096), 0);
	assert_false(sp_guid_equal(&d.img->identity, &some_identity));
	drv_free(&d);
}

static void parent_changes(void **state)
{
	struct vhd_format_create create = create_of(VHD_KIND_DIFFERENCING, SP_MIB(8), 1 << 20, 512);
	char deep[2000];
	struct vhd_set_parent two = { .identity = { some_identity }, .identities = 2 };
	struct vhd_set_parent moved = { .identity = { some_identity }, .identities = 1, .relative = deep };
	struct sp_guid identity;
	struct drv d = { 0 };

	(void)state;
	memset(deep, 'x', sizeof(deep) - 1);
	deep[sizeof(deep) - 1] = '\0';
	sp_env_guid(&two.identity[1]);
	drv_new(&d, &create, 1);
	identity = d.img->identity;
	assert_int_equal(d.img->format->set_parent(d.img, &two, NULL), 0);
	drv_die(&d);
	assert_int_equal(d.img->parent.identities, 2);
	assert_true(sp_guid_equal(&d.img->parent.identity[1], &two.identity[1]));
	assert_string_equal(d.img->parent.path[0].text, ".\\base.vhdx");
	assert_true(sp_guid_equal(&d.img->identity, &identity));

	assert_int_equal(d.img->format->set_parent(d.img, &moved, NULL), 0);
	assert_int_equal(d.img->parent.identities, 1);
	drv_die(&d);
	assert_int_equal(d.img->parent.identities, 1);
	assert_int_equal(strlen(d.img->parent.path[0].text), sizeof(deep) - 1 + 2);
	assert_int_equal(drv_write(&d, 0, 512), 0);		/* the other metadata is as good as before */
	assert_false(sp_guid_equal(&d.img->identity, &identity));
	drv_reopen(&d);
	drv_check(&d, d.img, false, NULL);
	drv_free(&d);
}

/* ---- growth -------------------------------------------------------------------------------------- */

#define M SP_MIB(1)

static const struct grow_case {
	const char *name;
	enum vhd_kind kind;
	uint64_t size, grown;
	uint32_t block;
	bool moves;			/* the BAT needs another place */
} grows[] = {
	{ "dynamic, inside the last block", VHD_KIND_DYNAMIC, 3 * M + 512 * 9, 3 * M + 512 * 99, 2 << 20, false },
	{ "dynamic, more blocks", VHD_KIND_DYNAMIC, 3 * M + 512 * 9, SP_MIB(40), 2 << 20, false },
	{ "differencing, in the last block", VHD_KIND_DIFFERENCING, 3 * M + 512 * 9, 3 * M + 512 * 99, 2 << 20, false },
	{ "differencing, more blocks", VHD_KIND_DIFFERENCING, 3 * M + 512 * 9, SP_MIB(40), 2 << 20, false },
	{ "differencing, another chunk", VHD_KIND_DIFFERENCING, SP_MIB(4000) + 512, SP_MIB(4200), 2 << 20, false },
	{ "dynamic, longer BAT", VHD_KIND_DYNAMIC, 3 * M + 512 * 9, SP_GIB(300), 1 << 20, true },
	{ "differencing, longer BAT", VHD_KIND_DIFFERENCING, 3 * M + 512 * 9, SP_GIB(300), 1 << 20, true },
	{ "fixed", VHD_KIND_FIXED, 3 * M + 512 * 9, SP_MIB(20), 2 << 20, false },
};

static void grow(void **state)
{
	const struct grow_case *c = *state;
	struct vhd_format_create create = create_of(c->kind, c->size, c->block, 512);
	uint64_t old = c->size / UNIT, bat;
	struct drv d = { 0 };
	struct vhd_place p;
	struct sp_err err = { 0 };

	drv_new(&d, &create, 1);
	assert_int_equal(drv_write(&d, 512, SP_MIB(1)), 0);
	assert_int_equal(drv_write(&d, c->size - 512 * 3, 512 * 3), 0);
	bat = engine(&d)->bat_offset;
	drv_fail(d.img->format->grow(d.img, c->grown, &err), &err);
	assert_int_equal(bat != engine(&d)->bat_offset, c->moves);
	drv_flushed(&d);
	if (c->grown > SP_GIB(5)) {		/* too large for the model: the rest is one run of zeros */
		vhd_image_close(d.img, true);
		d.size = c->grown;
		drv_open(&d);
		d.size = c->size;
		drv_check(&d, d.img, false, NULL);
		assert_int_equal(d.img->format->map(d.img, sp_align_up(c->size, SP_MIB(1)), SP_GIB(200), &p), 0);
		assert_int_equal(p.where, VHD_WHERE_ZERO);
		d.size = c->grown;
	} else {
		drv_resize_model(&d, c->grown);
		drv_fill(&d, old, IS_ZERO);
		drv_check(&d, d.img, false, NULL);
		drv_die(&d);
		assert_int_equal(drv_write(&d, c->grown - 512 * 8, 512 * 8), 0);
		drv_reopen(&d);
		drv_check(&d, d.img, false, NULL);
	}
	assert_int_equal(d.img->format->grow(d.img, c->size, &err), -ENOTSUP);
	drv_free(&d);
}

/* ---- large --------------------------------------------------------------------------------------- */

static const struct large_case {
	const char *name;
	enum vhd_kind kind;
	uint32_t block;
	uint64_t at;
} larges[] = {
	{ "64 TiB, 1 MiB blocks", VHD_KIND_DYNAMIC, 1 << 20, SP_TIB(33) },
	{ "64 TiB, 32 MiB blocks", VHD_KIND_DYNAMIC, 32 << 20, SP_TIB(63) },
	{ "64 TiB over a parent", VHD_KIND_DIFFERENCING, 2 << 20, SP_TIB(1) },
};

static void large_is_quick(void **state)
{
	const struct large_case *c = *state;
	struct vhd_format_create create = create_of(c->kind, SP_TIB(64), c->block, 512);
	struct drv d = { .size = create.size };
	enum vhd_where empty = c->kind == VHD_KIND_DYNAMIC ? VHD_WHERE_ZERO : VHD_WHERE_PARENT;
	struct sp_err err = { 0 };
	struct vhd_place p;
	struct store *s;
	uint8_t buf[UNIT] = { 1 };
	uint64_t n;

	assert_int_equal(mem_file_new(0, 0, &d.file), 0);
	assert_int_equal(mem_file_open(d.file, "t.vhdx", true, &s), 0);
	drv_fail(vhd_format_vhdx.create(s, &create, &err), &err);
	store_close(s);
	drv_open(&d);
	assert_int_equal(d.img->format->map(d.img, 0, d.size, &p), 0);
	assert_int_equal(p.where, empty);
	assert_int_equal(p.len, d.size);
	assert_int_equal(d.img->format->begin_write(d.img), 0);
	assert_int_equal(drv_write_some(&d, buf, c->at, UNIT, &n), 0);
	assert_int_equal(d.img->format->map(d.img, 512, d.size - 512, &p), 0);
	assert_int_equal(p.where, empty);
	assert_int_equal(p.len, c->at - 512);
	drv_free(&d);
}

/* ---- refused and damaged ------------------------------------------------------------------------- */

static const struct bad_case {
	const char *name;
	unsigned index;			/* BAT entry */
	uint64_t entry;			/* UINT64_MAX: that of entry 0 */
	const char *text;		/* part of the refusal */
} bads[] = {
	{ "overlap with a block",  1, UINT64_MAX,				 "block 1 (BAT entry 1" },
	{ "overlap with the log",  2, SP_MIB(1) | VHDX_FULLY_PRESENT,		 "overlaps the log" },
	{ "header section",	   2, VHDX_FULLY_PRESENT,			 "overlaps the header section" },
	{ "past the end",	   3, SP_MIB(900) | VHDX_FULLY_PRESENT,		 "past the end of the file" },
	{ "reserved state",	   3, SP_MIB(900) | 4,				 "reserved state" },
	{ "reserved bits",	   3, 8,					 "reserved" },
	{ "partial, no parent",	   3, SP_MIB(900) | VHDX_PARTIALLY_PRESENT,	 "without parent" },
	{ "offset near 2^64",	   3, UINT64_C(0xfffffffffff00000) | VHDX_FULLY_PRESENT, "past the end of the file" },
};

/* A writer refuses the image and names the block; a reader loses that block only. */
static void bad_entry(void **state)
{
	const struct bad_case *c = *state;
	struct vhd_format_create create = create_of(VHD_KIND_DYNAMIC, SP_MIB(8), 1 << 20, 512);
	bool overlap = strstr(c->text, "overlaps the log") || c->entry == UINT64_MAX;
	struct sp_err err = { 0 };
	struct vhd_image *img;
	struct vhd_place p;
	struct drv d = { 0 };
	struct store *s;
	le64_t e;

	drv_new(&d, &create, 1);
	assert_int_equal(drv_write(&d, 0, 4096), 0);
	drv_reopen(&d);
	assert_int_equal(store_read(d.img->store, &e, sizeof(e), engine(&d)->bat_offset), 0);
	if (c->entry != UINT64_MAX)
		e = le64_make(c->entry);
	assert_int_equal(store_write(d.img->store, &e, sizeof(e), engine(&d)->bat_offset + c->index * sizeof(e)), 0);

	assert_int_equal(mem_file_open(d.file, "bad.vhdx", true, &s), 0);
	assert_int_equal(vhd_image_open(s, "bad.vhdx", &vhd_format_vhdx, VHD_IMG_WRITABLE, &img, &err), -EBADMSG);
	if (!strstr(err.text, c->text))
		fail_msg("\"%s\" does not say \"%s\"", err.text, c->text);

	assert_int_equal(mem_file_open(d.file, "bad.vhdx", false, &s), 0);
	assert_int_equal(vhd_image_open(s, "bad.vhdx", &vhd_format_vhdx, 0, &img, &err), 0);
	assert_int_equal(img->format->map(img, 0, SP_MIB(1), &p), 0);
	assert_int_equal(img->format->map(img, SP_MIB(c->index), SP_MIB(1), &p), overlap ? 0 : -EBADMSG);
	assert_int_equal(img->format->map(img, SP_MIB(4), SP_MIB(4), &p), 0);
	assert_int_equal(p.where, VHD_WHERE_ZERO);
	vhd_image_close(img, false);
	drv_free(&d);
}

/* Region table 1 with a good checksum and a BAT behind the end of the file, which the first block makes part of it. */
static void other_region_table(void **state)
{
	struct vhd_format_create create = create_of(VHD_KIND_DYNAMIC, SP_MIB(8), 1 << 20, 512);
	static uint8_t mine[VHDX_REGION_TABLE_SIZE], other[VHDX_REGION_TABLE_SIZE];
	struct vhdx_region_table *t;
	struct drv d = { 0 };
	uint64_t bat;

	(void)state;
	drv_new(&d, &create, 1);
	t = &engine(&d)->regions;
	bat = t->entry[t->bat].offset;
	assert_int_equal(store_read(d.img->store, mine, sizeof(mine), VHDX_REGION_TABLE_OFFSET(1)), 0);
	t->entry[t->bat].offset = sp_align_up(engine(&d)->file_size, VHDX_MIB);
	vhdx_region_table_encode(t->entry, t->count, other);
	assert_int_equal(store_write(d.img->store, other, sizeof(other), VHDX_REGION_TABLE_OFFSET(0)), 0);
	drv_reopen(&d);
	assert_int_equal(engine(&d)->bat_offset, bat);
	assert_int_equal(drv_write(&d, 0, SP_MIB(3)), 0);
	drv_reopen(&d);
	assert_int_equal(engine(&d)->bat_offset, bat);
	drv_check(&d, d.img, false, NULL);
	assert_int_equal(store_read(d.img->store, other, sizeof(other), VHDX_REGION_TABLE_OFFSET(0)), 0);
	assert_memory_equal(mine, other, sizeof(mine));
	drv_free(&d);
}

/* States 1 and 3 keep the old space as their own: zeros when read, zeroed when written again. */
static void anchors(void **state)
{
	struct vhd_format_create create = create_of(VHD_KIND_DYNAMIC, SP_MIB(8), 1 << 20, 512);
	struct drv d = { 0 };
	uint64_t home, at;
	le64_t e;

	(void)state;
	drv_new(&d, &create, 1);
	assert_int_equal(drv_write(&d, 0, SP_MIB(3)), 0);
	drv_reopen(&d);
	home = home_of(&d, SP_MIB(1));
	at = engine(&d)->bat_offset + sizeof(e);
	e = le64_make(home | VHDX_UNMAPPED);
	assert_int_equal(store_write(d.img->store, &e, sizeof(e), at), 0);
	drv_note(&d, SP_MIB(1), SP_MIB(1), IS_ZERO);
	drv_reopen(&d);
	drv_check(&d, d.img, false, NULL);
	assert_int_equal(drv_write(&d, SP_MIB(6), 512), 0);
	assert_int_not_equal(home_of(&d, SP_MIB(6)), home);
	assert_int_equal(drv_write(&d, SP_MIB(1) + 4096, 512), 0);
	assert_int_equal(home_of(&d, SP_MIB(1)), home);
	drv_check(&d, d.img, false, NULL);
	drv_free(&d);
}

/* ---- other people's opinion ---------------------------------------------------------------------- */

static void copy_out(struct store *from, const char *path)
{
	struct sp_err err = { 0 };
	struct store *to;
	uint64_t size;
	uint8_t *buf = malloc(1 << 20);

	assert_non_null(buf);
	assert_int_equal(store_size(from, &size), 0);
	drv_fail(store_file_open(path, STORE_RDWR | STORE_CREATE, &to, &err), &err);
	assert_int_equal(store_resize(to, size), 0);
	for (uint64_t at = 0; at < size; at += 1 << 20) {
		size_t n = (size_t)sp_min(1 << 20, size - at);

		assert_int_equal(store_read(from, buf, n, at), 0);
		assert_int_equal(store_write(to, buf, n, at), 0);
	}
	store_close(to);
	free(buf);
}

static void raw_out(struct drv *d, const char *path)
{
	FILE *f = fopen(path, "wb");
	uint8_t buf[UNIT];

	assert_non_null(f);
	for (uint64_t u = 0; u < d->units; u++) {
		memset(buf, 0, sizeof(buf));
		if (d->current[u] != IS_ZERO)
			drv_stamp(buf, u * UNIT, UNIT, d->current[u]);
		assert_int_equal(fwrite(buf, UNIT, 1, f), 1);
	}
	assert_int_equal(fclose(f), 0);
}

static void qemu_agrees(void **state)
{
	struct vhd_format_create create = create_of(VHD_KIND_DYNAMIC, SP_MIB(24), 2 << 20, 512);
	char dir[] = "/tmp/spindle-vhdx-XXXXXX", image[64], raw[64], command[256];
	struct drv d = { 0 };

	(void)state;
	if (system("qemu-img --version >/dev/null 2>&1") != 0)
		skip();
	assert_non_null(mkdtemp(dir));
	snprintf(image, sizeof(image), "%s/t.vhdx", dir);
	snprintf(raw, sizeof(raw), "%s/t.raw", dir);
	drv_new(&d, &create, 5);
	for (unsigned i = 0; i < 80; i++) {
		mix_write(&d, 2 << 20, 512);
		if (i % 5 == 0)
			mix_discard(&d, 2 << 20, 512);
		assert_int_equal(drv_flush(&d), 0);
	}
	drv_reopen(&d);
	copy_out(d.img->store, image);
	raw_out(&d, raw);
	snprintf(command, sizeof(command), "qemu-img check -q -f vhdx %s && qemu-img compare -q -f vhdx -F raw %s %s",
		 image, image, raw);
	assert_int_equal(system(command), 0);
	unlink(image);
	unlink(raw);
	rmdir(dir);
	drv_free(&d);
}

int main(void)
{
	const struct CMUnitTest one[] = {
		cmocka_unit_test(log_begins_again), cmocka_unit_test(space_waits_for_release),
		cmocka_unit_test(close_cuts_slack), cmocka_unit_test(guids_change_once),
		cmocka_unit_test(identity_is_kept), cmocka_unit_test(parent_changes),
		cmocka_unit_test(other_region_table), cmocka_unit_test(anchors), cmocka_unit_test(qemu_agrees),
	};
	int failed = 0;

	failed += cmocka_run_group_tests(one, NULL, NULL);
	failed += ROWS_RUN(mixes, mix);
	failed += ROWS_RUN(wides, wide);
	failed += ROWS_RUN(grows, grow);
	failed += ROWS_RUN(larges, large_is_quick);
	failed += ROWS_RUN(bads, bad_entry);
	return failed;
}
