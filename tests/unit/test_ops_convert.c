/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Conversions between all formats, from chains, with zeros to be found; what stands under the final name, and when.
 */
#include "tests/unit/ops_fixture.h"

#include <errno.h>

#define SIZE (SP_MIB(13) + 512 * 3)

struct convert_case {
	const char *name;
	enum vhd_format_id from, to;
	enum vhd_kind kind;		/* of the target */
	uint64_t size;			/* of the target, 0: as the source */
	bool detect, preallocate;
	unsigned threads;
};

static const struct convert_case converts[] = {
	{ "raw to vhdx", VHD_FORMAT_RAW, VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, 0, true, false, 2 },
	{ "raw to fixed vhdx", VHD_FORMAT_RAW, VHD_FORMAT_VHDX, VHD_KIND_FIXED, 0, false, false, 4 },
	{ "raw to vhd", VHD_FORMAT_RAW, VHD_FORMAT_VHD, VHD_KIND_DYNAMIC, 0, true, false, 1 },
	{ "raw to fixed vhd", VHD_FORMAT_RAW, VHD_FORMAT_VHD, VHD_KIND_FIXED, 0, true, true, 3 },
	{ "vhdx to raw", VHD_FORMAT_VHDX, VHD_FORMAT_RAW, VHD_KIND_FIXED, 0, true, false, 4 },
	{ "vhdx to raw, larger", VHD_FORMAT_VHDX, VHD_FORMAT_RAW, VHD_KIND_FIXED, SIZE + SP_MIB(3), false, false, 2 },
	{ "vhdx to vhd", VHD_FORMAT_VHDX, VHD_FORMAT_VHD, VHD_KIND_DYNAMIC, 0, false, false, 4 },
	{ "vhd to vhdx", VHD_FORMAT_VHD, VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, 0, true, false, 4 },
	{ "vhd to raw", VHD_FORMAT_VHD, VHD_FORMAT_RAW, VHD_KIND_FIXED, 0, false, false, 2 },
	{ "vhdx to larger vhdx", VHD_FORMAT_VHDX, VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, SP_MIB(40), true, false, 2 },
};

static void fill(struct store_folder *f, const char *name, enum vhd_format_id format, struct model *m)
{
	put(f, name, format, m, 0, 1024, 1);
	put(f, name, format, m, SP_MIB(2) - 512, SP_MIB(3), 2);
	put(f, name, format, m, SP_MIB(3), SP_KIB(64), 0);		/* zeros in data */
	put(f, name, format, m, SP_MIB(9) + 512 * 5, 512, 3);
	put(f, name, format, m, m->size - 512, 512, 4);			/* the last, partial grain */
}

static void convert_row(void **state)
{
	const struct convert_case *c = *state;
	struct vhd_convert_opts o = {
		.source.format = c->from, .threads = c->threads, .detect_zeroes = c->detect, .verify = true,
		.target = { .format = c->to, .kind = c->kind, .size = c->size, .preallocate = c->preallocate },
	};
	struct store_folder *f = folder_new();
	struct sp_err err = { 0 };
	struct model m;

	model_init(&m, SIZE);
	make_image(f, "s", c->from, VHD_KIND_DYNAMIC, SIZE, c->from == VHD_FORMAT_VHDX ? 1 << 20 : 0, NULL);
	fill(f, "s", c->from, &m);
	assert_done(vhd_convert_in(f, "s", f, "t", &o, NULL, &err), &err);
	expect(f, "t", c->to, &m);
	store_folder_close(f);
	model_fini(&m);
}

static void chain_is_flattened(void **state)
{
	struct vhd_convert_opts o = { .detect_zeroes = true, .target.format = VHD_FORMAT_VHDX, .verify = true };
	struct store_folder *f = folder_new();
	struct sp_err err = { 0 };
	struct model m;

	model_init(&m, SIZE);
	make_image(f, "base", VHD_FORMAT_VHD, VHD_KIND_DYNAMIC, SIZE, 0, NULL);
	fill(f, "base", VHD_FORMAT_VHD, &m);
	make_image(f, "mid", VHD_FORMAT_VHD, VHD_KIND_DIFFERENCING, SIZE, 0, "base");
	put(f, "mid", VHD_FORMAT_VHD, &m, SP_MIB(2), 512, 5);
	put(f, "mid", VHD_FORMAT_VHD, &m, SP_MIB(4), SP_MIB(1), 0);
	make_image(f, "leaf", VHD_FORMAT_VHD, VHD_KIND_DIFFERENCING, SIZE, 0, "mid");
	put(f, "leaf", VHD_FORMAT_VHD, &m, SP_MIB(7), SP_MIB(2), 6);
	assert_done(vhd_convert_in(f, "leaf", f, "t", &o, NULL, &err), &err);
	expect(f, "t", VHD_FORMAT_VHDX, &m);
	assert_int_equal(layers_of(f, "t"), 1);
	store_folder_close(f);
	model_fini(&m);
}

/* Zeros that were written take no space in the target. */
static void zeros_are_left_out(void **state)
{
	struct vhd_convert_opts o = { .detect_zeroes = true, .target.format = VHD_FORMAT_RAW };
	struct store_folder *f = folder_new();
	struct sp_err err = { 0 };
	struct vhd_range range;
	struct vhd_disk *d;
	uint8_t *zeros = calloc(1, SP_MIB(8));

	make_image(f, "s", VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, SP_MIB(16), 0, NULL);
	d = open_disk(f, "s", VHD_FORMAT_VHDX, VHD_OPEN_WRITE);
	assert_int_equal(vhd_disk_write(d, zeros, SP_MIB(8), 0), 0);
	assert_int_equal(vhd_disk_write(d, "x", 1, SP_MIB(3) + 5000), 0);
	assert_int_equal(vhd_disk_close(d, NULL), 0);
	assert_done(vhd_convert_in(f, "s", f, "t", &o, NULL, &err), &err);
	d = open_disk(f, "t", VHD_FORMAT_RAW, 0);
	assert_int_equal(vhd_disk_map(d, 0, SP_MIB(16), &range), 0);
	assert_int_equal(range.kind, VHD_RANGE_ZERO);
	assert_int_equal(range.len, SP_MIB(3) + 4096);
	assert_int_equal(vhd_disk_map(d, range.len, SP_MIB(1), &range), 0);
	assert_int_equal(range.kind, VHD_RANGE_DATA);
	assert_int_equal(range.len, 4096);
	vhd_disk_close(d, NULL);
	free(zeros);
	store_folder_close(f);
}

/* ---- refusals ------------------------------------------------------------------------------------ */

struct refusal_case {
	const char *name;
	const char *source, *target;
	struct vhd_convert_opts o;
	int want;
};

static const struct refusal_case refusals[] = {
	{ "existing target", "leaf", "other", { .target.format = VHD_FORMAT_RAW }, -EEXIST },
	{ "target is the source", "leaf", "leaf", { .target.format = VHD_FORMAT_VHDX, .replace = true }, -EINVAL },
	{ "target is a parent", "leaf", "base", { .target.format = VHD_FORMAT_VHDX, .replace = true }, -EINVAL },
	{ "too small", "leaf", "t", { .target = { .format = VHD_FORMAT_RAW, .size = 4096 } }, -EINVAL },
	{ "no format", "leaf", "t", { .threads = 1 }, -EINVAL },
	{ "with a parent", "leaf", "t",
	  { .target = { .format = VHD_FORMAT_VHDX, .kind = VHD_KIND_DIFFERENCING } }, -EINVAL },
	{ "impossible block size", "leaf", "t",
	  { .target = { .format = VHD_FORMAT_VHDX, .block_size = 12345 } }, -EINVAL },
	{ "parent left out", "leaf", "t",
	  { .source.flags = VHD_OPEN_NO_PARENT, .target.format = VHD_FORMAT_RAW }, -EINVAL },
};

static int count_files(void *arg, const char *name, struct mem_file *file)
{
	(*(unsigned *)arg)++;
	return 0;
}

static void refusal_row(void **state)
{
	const struct refusal_case *c = *state;
	struct store_folder *f = folder_new();
	struct sp_err err = { 0 };
	unsigned files = 0;
	struct model m;

	model_init(&m, SIZE);
	make_image(f, "base", VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, SIZE, 0, NULL);
	put(f, "base", VHD_FORMAT_VHDX, &m, 0, 8192, 1);
	make_image(f, "leaf", VHD_FORMAT_VHDX, VHD_KIND_DIFFERENCING, SIZE, 0, "base");
	make_image(f, "other", VHD_FORMAT_RAW, VHD_KIND_FIXED, 512, 0, NULL);
	assert_int_equal(vhd_convert_in(f, c->source, f, c->target, &c->o, NULL, &err), c->want);
	assert_int_equal(err.code, c->want);
	assert_int_equal(store_folder_mem_each(f, count_files, &files), 0);
	assert_int_equal(files, 3);		/* nothing half-made is left */
	expect(f, "leaf", VHD_FORMAT_VHDX, &m);
	store_folder_close(f);
	model_fini(&m);
}

static void cancel_leaves_nothing(void **state)
{
	struct vhd_convert_opts o = { .target.format = VHD_FORMAT_VHDX };
	struct store_folder *f = folder_new();
	struct sp_job job = SP_JOB_INIT;
	struct sp_err err = { 0 };
	unsigned files = 0;
	struct model m;

	model_init(&m, SIZE);
	make_image(f, "s", VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, SIZE, 0, NULL);
	fill(f, "s", VHD_FORMAT_VHDX, &m);
	atomic_store(&job.cancel, true);
	assert_int_equal(vhd_convert_in(f, "s", f, "t", &o, &job, &err), -ECANCELED);
	assert_int_equal(store_folder_mem_each(f, count_files, &files), 0);
	assert_int_equal(files, 1);
	store_folder_close(f);
	model_fini(&m);
}

/* The old file is replaced only by a complete one. */
static void replaces(void **state)
{
	struct vhd_convert_opts o = { .target.format = VHD_FORMAT_VHD, .replace = true };
	struct store_folder *f = folder_new();
	struct sp_err err = { 0 };
	struct model m;

	model_init(&m, SIZE);
	make_image(f, "s", VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, SIZE, 0, NULL);
	fill(f, "s", VHD_FORMAT_VHDX, &m);
	make_image(f, "t", VHD_FORMAT_RAW, VHD_KIND_FIXED, 512, 0, NULL);
	assert_done(vhd_convert_in(f, "s", f, "t", &o, NULL, &err), &err);
	expect(f, "t", VHD_FORMAT_VHD, &m);
	store_folder_close(f);
	model_fini(&m);
}

int main(void)
{
	const struct CMUnitTest others[] = {
		cmocka_unit_test(chain_is_flattened), cmocka_unit_test(zeros_are_left_out),
		cmocka_unit_test(cancel_leaves_nothing), cmocka_unit_test(replaces),
	};

	return ROWS_RUN(converts, convert_row) + ROWS_RUN(refusals, refusal_row) +
	       cmocka_run_group_tests(others, NULL, NULL);
}
