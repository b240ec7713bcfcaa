/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Another parent, or none: the image reads the same, and its children stay its children.
 */
#include "tests/unit/ops_fixture.h"

#include <errno.h>

#define SIZE SP_MIB(12)

/*
 * base <- old <- image <- child, and beside it base <- other: where old and other differ from each other and from
 * the base, and where the image is transparent, each combination occurs.
 */
struct family {
	enum vhd_format_id format;
	struct store_folder *f;
	struct model base, old, image, other;
};

static void family_init(struct family *x, enum vhd_format_id format, uint64_t other_size)
{
	struct store_folder *f = folder_new();
	uint32_t block = format == VHD_FORMAT_VHDX ? 1 << 20 : 0;

	*x = (struct family){ .format = format, .f = f };
	model_init(&x->base, SIZE);
	make_image(f, "base", format, VHD_KIND_DYNAMIC, SIZE, block, NULL);
	put(f, "base", format, &x->base, 0, SP_MIB(7), 1);
	model_copy(&x->old, &x->base);
	make_image(f, "old", format, VHD_KIND_DIFFERENCING, SIZE, block, "base");
	put(f, "old", format, &x->old, SP_MIB(1) - 512, SP_MIB(2) + 512, 2);
	put(f, "old", format, &x->old, SP_MIB(5), SP_MIB(1), 0);
	put(f, "old", format, &x->old, SP_MIB(9) + 512, 512, 3);
	model_init(&x->other, other_size);
	memcpy(x->other.bytes, x->base.bytes, sp_min(SIZE, other_size));
	make_image(f, "other", format, VHD_KIND_DIFFERENCING, other_size, block, "base");
	put(f, "other", format, &x->other, SP_MIB(2), SP_MIB(2), 2);	/* partly what old has */
	put(f, "other", format, &x->other, SP_MIB(6), 4096, 0);
	put(f, "other", format, &x->other, SP_MIB(7) + 512, 512, 4);
	model_copy(&x->image, &x->old);
	make_image(f, "image", format, VHD_KIND_DIFFERENCING, SIZE, block, "old");
	put(f, "image", format, &x->image, SP_MIB(3) + 1024, SP_KIB(64), 5);
	put(f, "image", format, &x->image, SP_MIB(8), SP_MIB(1), 6);
	make_image(f, "child", format, VHD_KIND_DIFFERENCING, SIZE, block, "image");
}

static void family_fini(struct family *x)
{
	store_folder_close(x->f);
	model_fini(&x->base);
	model_fini(&x->old);
	model_fini(&x->image);
	model_fini(&x->other);
}

struct rebase_case {
	const char *name;
	enum vhd_format_id format;
	const char *parent;		/* NULL: none */
	uint64_t other_size;
	unsigned threads;
	unsigned layers;		/* afterwards */
};

static const struct rebase_case rebases[] = {
	{ "vhdx to a sibling of the parent", VHD_FORMAT_VHDX, "other", SIZE, 1, 3 },
	{ "vhdx to a sibling, threads", VHD_FORMAT_VHDX, "other", SIZE, 4, 3 },
	{ "vhdx to a shorter one", VHD_FORMAT_VHDX, "other", SP_MIB(9), 2, 3 },
	{ "vhdx to a longer one", VHD_FORMAT_VHDX, "other", SP_MIB(20), 2, 3 },
	{ "vhdx to the grandparent", VHD_FORMAT_VHDX, "base", SIZE, 2, 2 },
	{ "vhdx to the same parent", VHD_FORMAT_VHDX, "old", SIZE, 2, 3 },
	{ "vhdx to none", VHD_FORMAT_VHDX, NULL, SIZE, 2, 1 },
	{ "vhd to a sibling of the parent", VHD_FORMAT_VHD, "other", SIZE, 2, 3 },
	{ "vhd to a shorter one", VHD_FORMAT_VHD, "other", SP_MIB(9), 2, 3 },
	{ "vhd to the grandparent", VHD_FORMAT_VHD, "base", SIZE, 2, 2 },
	{ "vhd to none", VHD_FORMAT_VHD, NULL, SIZE, 2, 1 },
};

static void rebase_row(void **state)
{
	const struct rebase_case *c = *state;
	struct vhd_rebase_opts o = { .threads = c->threads, .dry_run = true };
	struct sp_err err = { 0 };
	struct family x;

	family_init(&x, c->format, c->other_size);
	assert_done(vhd_rebase_in(x.f, "image", c->parent, &o, NULL, &err), &err);
	assert_int_equal(layers_of(x.f, "image"), 3);
	o.dry_run = false;
	assert_done(vhd_rebase_in(x.f, "image", c->parent, &o, NULL, &err), &err);
	assert_int_equal(layers_of(x.f, "image"), c->layers);
	expect(x.f, "image", c->format, &x.image);
	expect(x.f, "child", c->format, &x.image);
	expect(x.f, "old", c->format, &x.old);
	expect(x.f, "other", c->format, &x.other);
	family_fini(&x);
}

/* The parent's equal under another name: only the name changes. */
static void unsafe_stores_the_name(void **state)
{
	struct vhd_rebase_opts o = { .unsafe = true };
	struct sp_err err = { 0 };
	struct family x;

	family_init(&x, VHD_FORMAT_VHDX, SIZE);
	assert_int_equal(store_folder_rename(x.f, "old", "moved", false), 0);
	assert_done(vhd_rebase_in(x.f, "image", "moved", &o, NULL, &err), &err);
	expect(x.f, "image", VHD_FORMAT_VHDX, &x.image);
	family_fini(&x);
}

struct refusal_case {
	const char *name;
	const char *image, *parent;
	bool unsafe;
	int want;
};

static const struct refusal_case refusals[] = {
	{ "onto itself", "image", "image", false, -ELOOP },
	{ "onto its child", "image", "child", false, -ELOOP },
	{ "onto its child, unsafe", "image", "child", true, -ELOOP },
	{ "of an image without a parent", "base", "other", false, -ELOOP },
	{ "of a stranger without a parent", "vhdx", "base", false, -EINVAL },
	{ "onto another format", "image", "vhd", false, -EINVAL },
	{ "onto another format, unsafe", "image", "vhd", true, -EINVAL },
	{ "onto nothing", "image", "missing", false, -ENOENT },
	{ "no parent, unsafe", "image", NULL, true, -EINVAL },
};

static void refusal_row(void **state)
{
	const struct refusal_case *c = *state;
	struct vhd_rebase_opts o = { .unsafe = c->unsafe };
	struct sp_err err = { 0 };
	struct family x;

	family_init(&x, VHD_FORMAT_VHDX, SIZE);
	make_image(x.f, "vhd", VHD_FORMAT_VHD, VHD_KIND_DYNAMIC, SIZE, 0, NULL);
	make_image(x.f, "vhdx", VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, SIZE, 0, NULL);
	assert_int_equal(vhd_rebase_in(x.f, c->image, c->parent, &o, NULL, &err), c->want);
	expect(x.f, "image", VHD_FORMAT_VHDX, &x.image);
	assert_int_equal(layers_of(x.f, "image"), 3);
	family_fini(&x);
}

int main(void)
{
	const struct CMUnitTest others[] = { cmocka_unit_test(unsafe_stores_the_name) };

	return ROWS_RUN(rebases, rebase_row) + ROWS_RUN(refusals, refusal_row) +
	       cmocka_run_group_tests(others, NULL, NULL);
}
