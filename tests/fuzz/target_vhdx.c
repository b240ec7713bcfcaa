/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Targets inside VHDX: log replay both ways, which must agree, and the metadata region without what stands before it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "tests/fuzz/fuzz.h"
#include "vhd/store_mem_int.h"
#include "vhd/vhdx_int.h"
#include "vhd/vhdx_layout.h"

/* ---- log ------------------------------------------------------------------------------------------- */

/* The disk in @folder, the leaf alone; 0 and the hash of what it reads, or the error of opening it. */
static int read_leaf(struct store_folder *folder, const char *name, unsigned flags, uint64_t *ret_hash)
{
	struct vhd_open_opts o = { .flags = flags | VHD_OPEN_NO_PARENT, .format = VHD_FORMAT_VHDX };
	struct sp_err err = { 0 };
	struct vhd_disk *d;
	int r = vhd_disk_open_in(folder, name, &o, &d, &err);

	if (r < 0)
		return r;
	fz_walk(d, ret_hash);
	vhd_disk_abandon(d);
	return 0;
}

/* Every byte of two files, by their pages. */
static bool same_bytes(struct store *a, struct store *b)
{
	static uint8_t pa[65536], pb[65536];
	uint64_t na, nb, at = 0;

	if (store_size(a, &na) < 0 || store_size(b, &nb) < 0 || na != nb)
		return false;
	while (at < na) {
		uint64_t da, db;
		size_t n;

		if (store_seek_data(a, at, &da) < 0 || store_seek_data(b, at, &db) < 0)
			return false;
		at = sp_min(da, db);
		n = (size_t)sp_min(sizeof(pa), na - at);
		if (n > 0 && (store_read(a, pa, n, at) < 0 || store_read(b, pb, n, at) < 0 || memcmp(pa, pb, n) != 0))
			return false;
		at += n;
	}
	return true;
}

static void run_log(struct fz_case *c)
{
	struct store *before = fz_store(c, 0, false), *after;
	uint64_t ro = 0, rw = 0, again = 0;
	int r, w, a;

	r = read_leaf(c->folder, c->seed->name[0], 0, &ro);
	after = fz_store(c, 0, false);
	fz_check(same_bytes(before, after), "reading changed the file");
	store_close(before);
	store_close(after);
	w = read_leaf(c->folder, c->seed->name[0], VHD_OPEN_WRITE, &rw);
	/* Writing needs more of an image than reading: sound space, no overlaps. */
	fz_check(r == 0 || w < 0, "opens for writing but not for reading (%d)", r);
	if (w < 0)
		return;
	fz_check(ro == rw, "replay in memory and in place read differently");
	a = read_leaf(c->folder, c->seed->name[0], 0, &again);
	fz_check(a == 0, "cannot be opened after a replay in place: %d", a);
	fz_check(again == rw, "reads differently after a replay in place");
}

static const enum fz_seed_id log_seeds[] = { FZ_VHDX_DIRTY, FZ_VHDX_DIRTY_CHILD };
const struct fz_target fz_target_vhdx_log = {
	.name = "vhdx_log", .seed = log_seeds, .seeds = SP_ARRAY_SIZE(log_seeds), .run = run_log,
};

/* ---- metadata -------------------------------------------------------------------------------------- */

/* The item cut to @len bytes, in memory of exactly that size. */
static void decode_locator(const uint8_t *bytes, size_t len)
{
	struct vhd_image img = { .format = &vhd_format_vhdx };
	uint8_t *exact = malloc(len + !len);

	fz_check(exact, "out of memory");
	memcpy(exact, bytes, len);
	vhdx_locator_decode(exact, len, &img, NULL);
	fz_check(img.parent.identities <= 2 && img.parent.paths <= VHD_PARENT_PATHS_MAX, "more than fits");
	for (unsigned i = 0; i < img.parent.paths; i++)
		sp_free(img.parent.path[i].text);
	sp_free(img.warning);
	free(exact);
}

static void decode_locators(struct store *s, const struct vhdx_metadata *md)
{
	for (unsigned i = 0; i < md->count; i++) {
		static uint8_t item[4096];
		size_t len = sp_min(md->item[i].length, sizeof(item));

		if (!sp_guid_equal(&md->item[i].guid, &VHDX_GUID_PARENT_LOCATOR) ||
		    store_read(s, item, len, md->item[i].offset) < 0)
			continue;
		decode_locator(item, len);
		decode_locator(item, len / 2);
	}
}

static void check_geometry(const struct vhdx_geometry *g)
{
	fz_check(g->virtual_size > 0 && g->virtual_size <= VHDX_MAX_SIZE, "virtual size %" PRIu64, g->virtual_size);
	fz_check(sp_is_pow2(g->block_size) && g->block_size >= SP_MIB(1) && g->block_size <= SP_MIB(256),
		 "block size %u", g->block_size);
	fz_check(g->blocks == sp_div_ceil(g->virtual_size, g->block_size), "%" PRIu64 " blocks", g->blocks);
	fz_check(vhdx_payload_index(g, g->blocks - 1) < g->bat_entries, "the last block has no entry");
}

static void run_metadata(struct fz_case *c)
{
	struct store *s = fz_store(c, 0, false);
	struct vhdx_region region = { .offset = c->seed->metadata_offset, .length = SP_MIB(1) };
	struct vhdx_metadata md = { 0 };
	struct vhdx_geometry g = { 0 };
	struct sp_err err = { 0 };
	int r = vhdx_metadata_read(s, &region, &md, &err);

	if (r == 0) {
		r = vhdx_geometry_make(&md, &g, &err);
		if (r == 0)
			check_geometry(&g);
		decode_locators(s, &md);
	}
	if (r < 0)
		fz_check(err.code == r && err.text[0], "fails with %d without saying why", r);
	vhdx_metadata_fini(&md);
	store_close(s);
	/* Bytes of the input as they are, too. */
	for (unsigned i = 0; i < c->in.records; i++)
		if (c->in.record[i].kind == FZ_PATCH)
			decode_locator(c->in.record[i].bytes, c->in.record[i].len);
}

static const enum fz_seed_id metadata_seeds[] = { FZ_VHDX_CHILD, FZ_VHDX_DYNAMIC, FZ_VHDX_4K, FZ_VHDX_HUGE };
const struct fz_target fz_target_vhdx_metadata = {
	.name = "vhdx_metadata", .seed = metadata_seeds, .seeds = SP_ARRAY_SIZE(metadata_seeds), .run = run_metadata,
};
