/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Merging chains of all depths and sizes: the name in use keeps its content, only what is allocated moves, and
 * whoever stood on the merged leaf stands on the result.
 */
#include "tests/unit/ops_fixture.h"

#include <errno.h>

#define LAYERS_MAX 5

struct merge_case {
	const char *name;
	enum vhd_format_id format;
	unsigned layers;		/* of the chain */
	unsigned down;			/* how many go down */
	bool keep;
	unsigned threads;
	uint64_t size[LAYERS_MAX];	/* base first, MiB */
	enum vhd_kind base;
};

static const struct merge_case merges[] = {
	{ "vhdx, leaf into base", VHD_FORMAT_VHDX, 2, 1, false, 2, { 12, 12 }, VHD_KIND_DYNAMIC },
	{ "vhdx, leaf into fixed base", VHD_FORMAT_VHDX, 2, 1, false, 2, { 12, 12 }, VHD_KIND_FIXED },
	{ "vhdx, leaf into a differencing image", VHD_FORMAT_VHDX, 3, 1, false, 1, { 12, 12, 12 }, VHD_KIND_DYNAMIC },
	{ "vhdx, two into base", VHD_FORMAT_VHDX, 3, 2, false, 4, { 12, 12, 12 }, VHD_KIND_DYNAMIC },
	{ "vhdx, three of five", VHD_FORMAT_VHDX, 5, 3, false, 2, { 12, 12, 12, 12, 12 }, VHD_KIND_DYNAMIC },
	{ "vhdx, all of five", VHD_FORMAT_VHDX, 5, 4, false, 2, { 12, 12, 12, 12, 12 }, VHD_KIND_DYNAMIC },
	{ "vhdx, keep", VHD_FORMAT_VHDX, 3, 2, true, 2, { 12, 12, 12 }, VHD_KIND_DYNAMIC },
	{ "vhdx, larger leaf", VHD_FORMAT_VHDX, 2, 1, false, 2, { 12, 17 }, VHD_KIND_DYNAMIC },
	{ "vhdx, smaller in between", VHD_FORMAT_VHDX, 3, 2, false, 2, { 16, 9, 16 }, VHD_KIND_DYNAMIC },
	{ "vhdx, smaller target", VHD_FORMAT_VHDX, 3, 1, false, 2, { 16, 9, 16 }, VHD_KIND_DYNAMIC },
	{ "vhd, leaf into base", VHD_FORMAT_VHD, 2, 1, false, 2, { 12, 12 }, VHD_KIND_DYNAMIC },
	{ "vhd, leaf into fixed base", VHD_FORMAT_VHD, 2, 1, false, 2, { 12, 12 }, VHD_KIND_FIXED },
	{ "vhd, leaf into a differencing image", VHD_FORMAT_VHD, 4, 1, false, 2, { 12, 12, 12, 12 }, VHD_KIND_DYNAMIC },
	{ "vhd, three of five", VHD_FORMAT_VHD, 5, 3, false, 4, { 12, 12, 12, 12, 12 }, VHD_KIND_DYNAMIC },
	{ "vhd, keep", VHD_FORMAT_VHD, 2, 1, true, 2, { 12, 12 }, VHD_KIND_DYNAMIC },
	{ "vhd, larger leaf", VHD_FORMAT_VHD, 2, 1, false, 2, { 12, 17 }, VHD_KIND_DYNAMIC },
};

static const char *const names[LAYERS_MAX] = { "l0", "l1", "l2", "l3", "l4" };

/* What a guest sees through @size bytes after it was used at @old bytes: cut or continued with zeros. */
static void model_resize(struct model *m, uint64_t size)
{
	struct model n;

	model_init(&n, size);
	memcpy(n.bytes, m->bytes, sp_min(size, m->size));
	model_fini(m);
	*m = n;
}

/* Each layer overrides, zeroes and adds something at places of its own and of its parents. */
static void write_layer(struct store_folder *f, const struct merge_case *c, unsigned i, struct model *m)
{
	const char *name = names[i];

	put(f, name, c->format, m, SP_MIB(1) * i + 512, SP_MIB(2) + 1024, i + 1);
	put(f, name, c->format, m, SP_MIB(6) + 4096 * i, 512 * 3, i + 11);
	put(f, name, c->format, m, m->size - 512 * (i + 1), 512, i + 21);
	if (i > 0) {
		put(f, name, c->format, m, SP_MIB(i) - 512, 1024, 0);
		put(f, name, c->format, m, SP_MIB(2), SP_MIB(1), i == 1 ? 0 : i + 31);
	}
}

static void build(struct store_folder *f, const struct merge_case *c, struct model *m)
{
	model_init(m, SP_MIB(c->size[0]));
	for (unsigned i = 0; i < c->layers; i++) {
		make_image(f, names[i], c->format, i ? VHD_KIND_DIFFERENCING : c->base, SP_MIB(c->size[i]),
			   c->format == VHD_FORMAT_VHDX ? 1 << 20 : 0, i ? names[i - 1] : NULL);
		model_resize(m, SP_MIB(c->size[i]));
		write_layer(f, c, i, m);
	}
}

static void merge_row(void **state)
{
	const struct merge_case *c = *state;
	struct vhd_merge_opts o = { .layers = c->down, .keep = c->keep, .threads = c->threads, .dry_run = true };
	const char *leaf = names[c->layers - 1], *target = names[c->layers - 1 - c->down];
	struct vhd_merge_result dry = { 0 }, res = { 0 };
	struct store_folder *f = folder_new();
	struct sp_err err = { 0 };
	struct model m;

	build(f, c, &m);
	make_image(f, "grandchild", c->format, VHD_KIND_DIFFERENCING, m.size, 0, leaf);
	expect(f, leaf, c->format, &m);
	assert_done(vhd_merge_in(f, leaf, &o, NULL, &dry, &err), &err);
	assert_int_equal(layers_of(f, leaf), c->layers);

	o.dry_run = false;
	assert_done(vhd_merge_in(f, leaf, &o, NULL, &res, &err), &err);
	assert_true(res.bytes_moved > 0);
	assert_int_equal(res.bytes_moved, dry.bytes_moved);
	assert_string_equal(res.target, c->keep ? target : leaf);
	expect(f, leaf, c->format, &m);
	assert_int_equal(layers_of(f, leaf), c->keep ? c->layers : c->layers - c->down);
	for (unsigned i = 0; i < c->layers - 1; i++)
		assert_int_equal(exists(f, names[i]), c->keep || i < c->layers - 1 - c->down);
	if (c->keep)
		expect(f, target, c->format, &m);
	if (c->format == VHD_FORMAT_VHDX)
		expect(f, "grandchild", c->format, &m);
	store_folder_close(f);
	model_fini(&m);
}

/* A merge that was kept is completed by the next one, whatever number it is asked for. */
static void goes_on_to_the_marked_target(void **state)
{
	const struct merge_case c = { "", VHD_FORMAT_VHDX, 4, 2, true, 2, { 12, 12, 12, 12 }, VHD_KIND_DYNAMIC };
	struct vhd_merge_opts o = { .layers = 2, .keep = true };
	struct store_folder *f = folder_new();
	struct sp_err err = { 0 };
	struct model m;

	build(f, &c, &m);
	assert_done(vhd_merge_in(f, "l3", &o, NULL, NULL, &err), &err);
	o = (struct vhd_merge_opts){ .layers = 1 };
	assert_done(vhd_merge_in(f, "l3", &o, NULL, NULL, &err), &err);
	expect(f, "l3", VHD_FORMAT_VHDX, &m);
	assert_int_equal(layers_of(f, "l3"), 2);
	store_folder_close(f);
	model_fini(&m);
}

/* ---- refusals ------------------------------------------------------------------------------------ */

struct refusal_case {
	const char *name;
	struct merge_case chain;
	unsigned down;
	int want;
};

static const struct refusal_case refusals[] = {
	{ "no parent", { "", VHD_FORMAT_VHDX, 1, 0, false, 1, { 12 }, VHD_KIND_DYNAMIC }, 1, -EINVAL },
	{ "more than there are", { "", VHD_FORMAT_VHD, 3, 0, false, 1, { 12, 12, 12 }, VHD_KIND_DYNAMIC }, 3, -EINVAL },
	{ "smaller leaf", { "", VHD_FORMAT_VHDX, 2, 0, false, 1, { 16, 12 }, VHD_KIND_DYNAMIC }, 1, -ENOTSUP },
};

static void refusal_row(void **state)
{
	const struct refusal_case *c = *state;
	struct vhd_merge_opts o = { .layers = c->down };
	struct store_folder *f = folder_new();
	struct sp_err err = { 0 };
	struct model m;

	build(f, &c->chain, &m);
	assert_int_equal(vhd_merge_in(f, names[c->chain.layers - 1], &o, NULL, NULL, &err), c->want);
	expect(f, names[c->chain.layers - 1], c->chain.format, &m);
	assert_int_equal(layers_of(f, names[c->chain.layers - 1]), c->chain.layers);
	store_folder_close(f);
	model_fini(&m);
}

int main(void)
{
	const struct CMUnitTest others[] = { cmocka_unit_test(goes_on_to_the_marked_target) };

	return ROWS_RUN(merges, merge_row) + ROWS_RUN(refusals, refusal_row) +
	       cmocka_run_group_tests(others, NULL, NULL);
}
