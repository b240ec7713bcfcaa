/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Targets that open: one VHD image, one VHDX image, a chain.
 */
#include <json-c/json.h>
#include <string.h>

#include "base/bytes.h"
#include "tests/fuzz/fuzz.h"
#include "vhd/check.h"

static void describe(struct vhd_disk *d)
{
	struct json_object *o = json_object_new_object();
	struct vhd_layer_info info;

	for (unsigned i = 0; i < vhd_disk_layers(d); i++) {
		fz_check(vhd_disk_layer_info(d, i, &info) == 0, "layer %u has no facts", i);
		vhd_disk_layer_describe(d, i, o);
	}
	json_object_to_json_string(o);
	json_object_put(o);
}

/* As the format sees it, without the disk layer. */
static void open_image(struct fz_case *c)
{
	struct store *s = fz_store(c, 0, false);
	const struct vhd_format *f = vhd_format_by_id(c->seed->format), *found;
	struct sp_err err = { 0 };
	struct vhd_image *img;
	int r;

	vhd_format_probe(s, &found, &err);
	r = vhd_image_open(s, "leaf", f, 0, &img, &err);
	fz_check(r <= 0, "open answers %d", r);
	if (r < 0) {
		fz_check(err.code == r && err.text[0], "open fails with %d and the story is \"%s\" (%d)", r, err.text,
			 err.code);
		return;
	}
	fz_map_image(img);
	fz_check(vhd_image_close(img, false) == 0, "closing a read-only image fails");
}

static void open_chain(struct fz_case *c)
{
	unsigned v = FZ_VARIANT(c->in.flags);
	struct vhd_open_opts o = {
		.format = (v & 24) == 24 ? VHD_FORMAT_AUTO : c->seed->format,
		.flags = (v & 4 ? VHD_OPEN_IGNORE_ID : 0) | (v & 8 ? VHD_OPEN_NO_PARENT : 0),
		.orphan = (enum vhd_orphan)(v % 3),
		.max_layers = 8,
		.depth = v & 16 ? 2 : 0,
	};
	struct sp_err err = { 0 };
	struct vhd_disk *d;
	uint64_t first, second;
	int r = vhd_disk_open_in(c->folder, c->seed->name[0], &o, &d, &err);

	if (r < 0) {
		fz_check(err.code == r, "open fails with %d and its story with %d: %s", r, err.code, err.text);
		return;
	}
	fz_walk(d, &first);
	fz_walk(d, &second);
	fz_check(first == second, "reading twice gives two answers");
	describe(d);
	fz_check(vhd_disk_close(d, NULL) == 0, "closing a read-only disk fails");
}

static void open_both(struct fz_case *c)
{
	open_image(c);
	open_chain(c);
}

static const enum fz_seed_id vhd_seeds[] = { FZ_VHD_DYNAMIC, FZ_VHD_FIXED, FZ_VHD_SMALL_BLOCKS, FZ_VHD_CHILD };
const struct fz_target fz_target_vhd = {
	.name = "vhd", .seed = vhd_seeds, .seeds = SP_ARRAY_SIZE(vhd_seeds), .run = open_both,
};

static const enum fz_seed_id vhdx_seeds[] = { FZ_VHDX_DYNAMIC, FZ_VHDX_FIXED, FZ_VHDX_4K, FZ_VHDX_HUGE, FZ_VHDX_CHILD };
const struct fz_target fz_target_vhdx_open = {
	.name = "vhdx_open", .seed = vhdx_seeds, .seeds = SP_ARRAY_SIZE(vhdx_seeds), .run = open_both,
};

static const enum fz_seed_id chain_seeds[] = {
	FZ_VHD_CHAIN, FZ_VHDX_CHAIN, FZ_VHD_CHILD, FZ_VHDX_CHILD, FZ_VHDX_DIRTY_CHILD,
};
const struct fz_target fz_target_chain = {
	.name = "chain", .seed = chain_seeds, .seeds = SP_ARRAY_SIZE(chain_seeds), .run = open_chain,
};
