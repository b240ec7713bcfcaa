/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Offline snapshots: the name in use stays the leaf, each snapshot keeps the content of its time, whatever is
 * deleted around it.
 */
#include "tests/unit/ops_fixture.h"

#include <errno.h>

#define SIZE SP_MIB(8)
#define SNAPSHOTS 3

static const char *const taken[SNAPSHOTS] = { "one", "two.2", "three" };

/* disk.vhdx with three snapshots, written to before, between and after. */
struct history {
	enum vhd_format_id format;
	const char *image;
	struct store_folder *f;
	struct model then[SNAPSHOTS], now;
};

static char *file_of(const struct history *h, const char *name)
{
	return sp_asprintf("disk.%s.%s", name, h->format == VHD_FORMAT_VHD ? "vhd" : "vhdx");
}

static void history_init(struct history *h, enum vhd_format_id format, bool big_leaf)
{
	struct sp_err err = { 0 };

	*h = (struct history){ .format = format, .f = folder_new(),
			       .image = format == VHD_FORMAT_VHD ? "disk.vhd" : "disk.vhdx" };
	model_init(&h->now, SIZE);
	make_image(h->f, h->image, format, VHD_KIND_DYNAMIC, SIZE, format == VHD_FORMAT_VHDX ? 1 << 20 : 0, NULL);
	for (unsigned i = 0; i <= SNAPSHOTS; i++) {
		put(h->f, h->image, format, &h->now, SP_MIB(1) * i + 512, SP_MIB(1), i + 1);
		put(h->f, h->image, format, &h->now, SP_MIB(5) + 512 * i, 512 * 9, i + 11);
		if (i > 0)
			put(h->f, h->image, format, &h->now, SP_MIB(1) * i, 2048, 0);
		if (i == SNAPSHOTS && big_leaf)
			put(h->f, h->image, format, &h->now, SP_MIB(2), SP_MIB(5), 21);
		if (i == SNAPSHOTS)
			break;
		model_copy(&h->then[i], &h->now);
		assert_done(vhd_snapshot_create_in(h->f, h->image, taken[i], &err), &err);
	}
}

static void history_fini(struct history *h)
{
	store_folder_close(h->f);
	for (unsigned i = 0; i < SNAPSHOTS; i++)
		model_fini(&h->then[i]);
	model_fini(&h->now);
}

/* @present: a bit per snapshot. Leaf and snapshots read what they shall; the list says the same. */
static void check(struct history *h, unsigned present)
{
	struct vhd_snapshot *list;
	struct sp_err err = { 0 };
	size_t count, at = 0;

	expect(h->f, h->image, h->format, &h->now);
	assert_done(vhd_snapshot_list_in(h->f, h->image, &list, &count, &err), &err);
	for (unsigned i = SNAPSHOTS; i-- > 0;) {
		char *file = file_of(h, taken[i]);

		assert_int_equal(exists(h->f, file), present >> i & 1);
		if (present >> i & 1) {
			expect(h->f, file, h->format, &h->then[i]);
			assert_true(at < count);
			assert_string_equal(list[at].name, taken[i]);
			assert_string_equal(list[at].path, file);
			assert_int_equal(list[at].depth, at + 1);
			at++;
		}
		sp_free(file);
	}
	assert_int_equal(at, count);
	sp_free(list);
}

struct format_case {
	const char *name;
	enum vhd_format_id format;
	bool big_leaf;
};

static const struct format_case formats[] = {
	{ "vhdx", VHD_FORMAT_VHDX, false },
	{ "vhdx, much written since", VHD_FORMAT_VHDX, true },
	{ "vhd", VHD_FORMAT_VHD, false },
	{ "vhd, much written since", VHD_FORMAT_VHD, true },
};

static void create_and_list(void **state)
{
	const struct format_case *c = *state;
	struct history h;

	history_init(&h, c->format, c->big_leaf);
	check(&h, 7);
	history_fini(&h);
}

/* All orders of deleting three snapshots, half of them per row of a format. */
static void delete_in_any_order(void **state)
{
	static const unsigned order[6][3] = {
		{ 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 }, { 1, 2, 0 }, { 2, 0, 1 }, { 2, 1, 0 },
	};
	const struct format_case *c = *state;
	struct sp_err err = { 0 };

	for (unsigned i = c->big_leaf; i < SP_ARRAY_SIZE(order); i += 2) {
		unsigned present = 7;
		struct history h;

		history_init(&h, c->format, c->big_leaf);
		for (unsigned j = 0; j < 3; j++) {
			const char *name = taken[order[i][j]];

			assert_done(vhd_snapshot_delete_in(h.f, h.image, name, true, NULL, &err), &err);
			assert_done(vhd_snapshot_delete_in(h.f, h.image, name, false, NULL, &err), &err);
			present &= ~(1u << order[i][j]);
			check(&h, present);
		}
		assert_int_equal(layers_of(h.f, h.image), 1);
		history_fini(&h);
	}
}

static void revert_to_each(void **state)
{
	const struct format_case *c = *state;
	struct sp_err err = { 0 };

	for (unsigned i = 0; i < SNAPSHOTS; i++) {
		struct history h;

		history_init(&h, c->format, c->big_leaf);
		assert_done(vhd_snapshot_revert_in(h.f, h.image, taken[i], true, &err), &err);
		check(&h, 7);
		assert_done(vhd_snapshot_revert_in(h.f, h.image, taken[i], false, &err), &err);
		memcpy(h.now.bytes, h.then[i].bytes, SIZE);
		check(&h, (2u << i) - 1);
		put(h.f, h.image, c->format, &h.now, SP_MIB(7), 512, 77);
		check(&h, (2u << i) - 1);
		history_fini(&h);
	}
}

/* Power failed after the second name was given, before the new leaf took the first. */
static void create_goes_on(void **state)
{
	const struct format_case *c = *state;
	struct sp_err err = { 0 };
	struct history h;
	char *file;

	history_init(&h, c->format, c->big_leaf);
	file = file_of(&h, "again");
	assert_int_equal(store_folder_link(h.f, h.image, file), 0);
	check(&h, 7);
	assert_done(vhd_snapshot_create_in(h.f, h.image, "again", &err), &err);
	assert_int_equal(layers_of(h.f, h.image), 5);
	expect(h.f, h.image, h.format, &h.now);
	expect(h.f, file, h.format, &h.now);
	sp_free(file);
	history_fini(&h);
}

/* ---- refusals ------------------------------------------------------------------------------------ */

struct name_case {
	const char *label;
	const char *name;
	int want;
};

static const struct name_case bad_names[] = {
	{ "empty", "", -EINVAL },
	{ "slash", "a/b", -EINVAL },
	{ "backslash", "a\\b", -EINVAL },
	{ "line break", "a\nb", -EINVAL },
	{ "taken", "one", -EEXIST },
};

static void name_row(void **state)
{
	const struct name_case *c = *state;
	struct sp_err err = { 0 };
	struct history h;

	history_init(&h, VHD_FORMAT_VHDX, false);
	assert_int_equal(vhd_snapshot_create_in(h.f, h.image, c->name, &err), c->want);
	check(&h, 7);
	history_fini(&h);
}

static void raw_has_none(void **state)
{
	struct store_folder *f = folder_new();
	struct sp_err err = { 0 };

	make_image(f, "disk.img", VHD_FORMAT_RAW, VHD_KIND_FIXED, SIZE, 0, NULL);
	assert_int_equal(vhd_snapshot_create_in(f, "disk.img", "one", &err), -ENOTSUP);
	assert_false(exists(f, "disk.one.img"));
	store_folder_close(f);
}

static void unknown_names(void **state)
{
	struct sp_err err = { 0 };
	struct history h;

	history_init(&h, VHD_FORMAT_VHDX, false);
	assert_int_equal(vhd_snapshot_delete_in(h.f, h.image, "four", false, NULL, &err), -ENOENT);
	assert_int_equal(vhd_snapshot_revert_in(h.f, h.image, "four", false, &err), -ENOENT);
	check(&h, 7);
	history_fini(&h);
}

int main(void)
{
	const struct CMUnitTest others[] = { cmocka_unit_test(raw_has_none), cmocka_unit_test(unknown_names) };

	return ROWS_RUN(formats, create_and_list) + ROWS_RUN(formats, delete_in_any_order) +
	       ROWS_RUN(formats, revert_to_each) + ROWS_RUN(formats, create_goes_on) + ROWS_RUN(bad_names, name_row) +
	       cmocka_run_group_tests(others, NULL, NULL);
}
