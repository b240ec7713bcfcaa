/* SPDX-License-Identifier: BSD-2-Clause */
/* Resolution of parents: what is accepted, what is refused, and with which words. */
#include "tests/unit/chain_fixture.h"

#include <errno.h>
#include <stdio.h>

#define MIB SP_MIB(1)

struct setup {
	struct store_folder *f;
	struct vhd_disk *d;
	struct sp_err err;
};

static void build(struct setup *s, enum vhd_format_id format)
{
	struct vhd_disk *d;

	s->f = folder_new();
	s->d = NULL;
	memset(&s->err, 0, sizeof(s->err));
	make_base(s->f, "base", format, 8 * MIB, 2u << 20, 512);
	d = open_rw(s->f, "base");
	write_byte(d, 0, 4096, 'B');
	must(vhd_disk_close(d, &s->err), &s->err);
	make_child(s->f, "base", "base", "child", 0, 2u << 20);
}

static int try_open(struct setup *s, const char *name, const struct vhd_open_opts *o)
{
	memset(&s->err, 0, sizeof(s->err));
	s->d = NULL;
	return vhd_disk_open_in(s->f, name, o, &s->d, &s->err);
}

static void done(struct setup *s)
{
	if (s->d)
		must(vhd_disk_close(s->d, &s->err), &s->err);
	store_folder_close(s->f);
}

static const enum vhd_format_id vhd1 = VHD_FORMAT_VHD, vhdx = VHD_FORMAT_VHDX;

static void parent_shows_through(void **state)
{
	struct setup s;

	build(&s, *(const enum vhd_format_id *)*state);
	assert_int_equal(try_open(&s, "child", NULL), 0);
	assert_int_equal(vhd_disk_layers(s.d), 2);
	expect_byte(s.d, 0, 4096, 'B');
	expect_byte(s.d, 4 * MIB, 4096, 0);
	done(&s);
}

static void parent_written_since(void **state)
{
	enum vhd_format_id format = *(const enum vhd_format_id *)*state;
	struct vhd_open_opts ignore = { .flags = VHD_OPEN_IGNORE_ID };
	struct vhd_layer_info info;
	struct setup s;
	struct vhd_disk *d;

	build(&s, format);
	d = open_rw(s.f, "base");
	write_byte(d, 4096, 4096, 'X');
	must(vhd_disk_close(d, &s.err), &s.err);
	if (format == VHD_FORMAT_VHD) {		/* nothing but the file's mtime can tell: a warning at most */
		assert_int_equal(try_open(&s, "child", NULL), 0);
	} else {
		assert_int_equal(try_open(&s, "child", NULL), -ESTALE);
		assert_non_null(strstr(s.err.text, "the child expects"));
		assert_int_equal(try_open(&s, "child", &ignore), 0);
		assert_int_equal(vhd_disk_layer_info(s.d, 0, &info), 0);
		assert_non_null(info.warning);
	}
	done(&s);
}

static void parent_missing(void **state)
{
	struct vhd_open_opts eio = { .orphan = VHD_ORPHAN_EIO }, zero = { .orphan = VHD_ORPHAN_ZERO };
	struct vhd_range range;
	uint8_t byte;
	struct setup s;

	build(&s, *(const enum vhd_format_id *)*state);
	assert_int_equal(store_folder_unlink(s.f, "base"), 0);
	assert_int_equal(try_open(&s, "child", NULL), -ENOENT);
	assert_non_null(strstr(s.err.text, "base"));

	assert_int_equal(try_open(&s, "child", &eio), 0);
	assert_true(vhd_disk_orphaned(s.d));
	assert_int_equal(vhd_disk_read(s.d, &byte, 1, 0), -EIO);
	assert_int_equal(vhd_disk_map(s.d, 0, 8 * MIB, &range), 0);
	assert_int_equal(range.kind, VHD_RANGE_UNKNOWN);
	assert_int_equal(range.len, 8 * MIB);
	must(vhd_disk_close(s.d, &s.err), &s.err);

	assert_int_equal(try_open(&s, "child", &zero), 0);
	expect_byte(s.d, 0, 4096, 0);
	done(&s);
}

static void alone_without_parent(void **state)
{
	struct vhd_open_opts alone = { .flags = VHD_OPEN_NO_PARENT };
	struct vhd_range range;
	uint8_t byte;
	struct setup s;

	build(&s, *(const enum vhd_format_id *)*state);
	assert_int_equal(try_open(&s, "child", &alone), 0);
	assert_int_equal(vhd_disk_layers(s.d), 1);
	assert_int_equal(vhd_disk_map(s.d, 0, MIB, &range), 0);
	assert_int_equal(range.kind, VHD_RANGE_BELOW);
	assert_int_equal(vhd_disk_read(s.d, &byte, 1, 0), -EIO);
	done(&s);
}

static void parent_swapped(void **state)
{
	enum vhd_format_id format = *(const enum vhd_format_id *)*state;
	struct setup s;

	build(&s, format);
	assert_int_equal(store_folder_unlink(s.f, "base"), 0);
	make_base(s.f, "base", format, 8 * MIB, 2u << 20, 512);
	assert_int_equal(try_open(&s, "child", NULL), -ESTALE);
	assert_non_null(strstr(s.err.text, "found parent /base, but its identity is"));
	done(&s);
}

/* The child's parent is itself, through another name. */
static void loop_is_noticed(void **state)
{
	struct setup s;

	build(&s, *(const enum vhd_format_id *)*state);
	assert_int_equal(store_folder_unlink(s.f, "base"), 0);
	assert_int_equal(store_folder_rename(s.f, "child", "base", false), 0);
	assert_int_equal(try_open(&s, "base", NULL), -ELOOP);
	assert_non_null(strstr(s.err.text, "comes back to"));
	done(&s);
}

static void too_deep(void **state)
{
	struct vhd_open_opts o = { .max_layers = 3 };
	struct setup s;

	build(&s, *(const enum vhd_format_id *)*state);
	make_child(s.f, "child", "child", "c2", 0, 2u << 20);
	assert_int_equal(try_open(&s, "c2", &o), 0);
	must(vhd_disk_close(s.d, &s.err), &s.err);
	make_child(s.f, "c2", "c2", "c3", 0, 2u << 20);
	assert_int_equal(try_open(&s, "c3", &o), -ELOOP);
	assert_string_equal(s.err.text, "the chain has more than 3 layers");
	done(&s);
}

static void outside_the_root(void **state)
{
	struct setup s;

	build(&s, *(const enum vhd_format_id *)*state);
	make_child(s.f, "base", "../elsewhere/base9", "stray", 0, 2u << 20);
	/* Neither there nor, by its last component, beside the child. */
	int r = try_open(&s, "stray", NULL);

	assert_true(r == -ENOENT || r == -EXDEV);
	done(&s);
}

static void moved_parent_found_beside_child(void **state)
{
	struct setup s;

	build(&s, *(const enum vhd_format_id *)*state);
	make_child(s.f, "base", "old/place/base", "child2", 0, 2u << 20);
	assert_int_equal(try_open(&s, "child2", NULL), 0);
	expect_byte(s.d, 0, 512, 'B');
	done(&s);
}

static void sizes_and_blocks_may_differ(void **state)
{
	enum vhd_format_id format = *(const enum vhd_format_id *)*state;
	struct vhd_disk *d;
	struct setup s;

	build(&s, format);
	d = open_rw(s.f, "base");
	write_byte(d, 8 * MIB - 4096, 4096, 'E');
	must(vhd_disk_close(d, &s.err), &s.err);
	make_child(s.f, "base", "base", "larger", 12 * MIB, 4u << 20);
	make_child(s.f, "base", "base", "smaller", 8 * MIB - 2048, 1u << 20);

	assert_int_equal(try_open(&s, "larger", NULL), 0);
	expect_byte(s.d, 8 * MIB - 4096, 4096, 'E');
	expect_byte(s.d, 8 * MIB, 4096, 0);		/* beyond the parent's end */
	must(vhd_disk_close(s.d, &s.err), &s.err);

	assert_int_equal(try_open(&s, "smaller", NULL), 0);
	expect_byte(s.d, 8 * MIB - 4096, 2048, 'E');
	assert_int_equal(vhd_disk_read(s.d, &(uint8_t){ 0 }, 1, 8 * MIB - 2048), -ERANGE);
	done(&s);
}

static void formats_do_not_mix(void **state)
{
	enum vhd_format_id format = *(const enum vhd_format_id *)*state;
	struct setup s;

	build(&s, format);
	assert_int_equal(store_folder_unlink(s.f, "base"), 0);
	make_base(s.f, "base", format == VHD_FORMAT_VHD ? VHD_FORMAT_VHDX : VHD_FORMAT_VHD, 8 * MIB, 2u << 20, 512);
	assert_int_equal(try_open(&s, "child", NULL), -ENOTSUP);
	assert_non_null(strstr(s.err.text, "image can only have a"));
	done(&s);
}

/* Partial writes, sub-sector writes and a second snapshot: each layer keeps what it was given. */
static void layers_keep_their_own(void **state)
{
	struct vhd_disk *d;
	struct setup s;

	build(&s, *(const enum vhd_format_id *)*state);
	d = open_rw(s.f, "child");
	write_byte(d, 1024, 100, 'c');			/* part of a sector over parent data */
	write_byte(d, 3 * MIB + 512, 512, 'C');
	must(vhd_disk_close(d, &s.err), &s.err);
	make_child(s.f, "child", "child", "grandchild", 0, 1u << 20);
	d = open_rw(s.f, "grandchild");
	assert_int_equal(vhd_disk_write_zeroes(d, 0, 512), 0);
	expect_byte(d, 0, 512, 0);
	expect_byte(d, 512, 512, 'B');
	expect_byte(d, 1024, 100, 'c');
	expect_byte(d, 1124, 412, 'B');
	expect_byte(d, 3 * MIB, 512, 0);
	expect_byte(d, 3 * MIB + 512, 512, 'C');
	must(vhd_disk_close(d, &s.err), &s.err);
	assert_int_equal(try_open(&s, "base", NULL), 0);
	expect_byte(s.d, 0, 4096, 'B');
	done(&s);
}

static void thousand_layers(void **state)
{
	enum vhd_format_id format = *(const enum vhd_format_id *)*state;
	struct store_folder *f = folder_new();
	struct sp_err err = { 0 };
	struct vhd_disk *d;
	char name[16] = "l0", parent[16];

	make_base(f, "l0", format, 4 * MIB, 2u << 20, 512);
	for (unsigned i = 1; i < 1000; i++) {
		struct vhd_open_opts o = { .flags = VHD_OPEN_WRITE | VHD_OPEN_NO_PARENT };
		struct sp_guid id;

		snprintf(parent, sizeof(parent), "l%u", i - 1);
		snprintf(name, sizeof(name), "l%u", i);
		must(vhd_disk_open_in(f, parent, &o, &d, &err), &err);
		if (i % 100 == 1)
			write_byte(d, (uint64_t)i * 512, 512, (int)(i / 100) + 1);
		must(vhd_disk_flush(d), NULL);
		id = vhd_disk_image(d, 0)->identity;
		must(vhd_disk_close(d, &err), &err);
		struct vhd_format_create c = {
			.kind = VHD_KIND_DIFFERENCING, .size = 4 * MIB, .block_size = 2u << 20, .parent_identity = id,
			.parent_relative = parent,
		};
		must(vhd_create_in(f, name, format, &c, &err), &err);
	}
	must(vhd_disk_open_in(f, name, NULL, &d, &err), &err);
	assert_int_equal(vhd_disk_layers(d), 1000);
	for (unsigned i = 1; i < 1000; i += 100)
		expect_byte(d, (uint64_t)i * 512, 512, (int)(i / 100) + 1);
	expect_byte(d, 0, 512, 0);
	must(vhd_disk_close(d, &err), &err);
	store_folder_close(f);
}

#define BOTH(t)                                                                                  \
	{ #t " (vhd)", t, NULL, NULL, (void *)(uintptr_t)&vhd1 },                                \
	{ #t " (vhdx)", t, NULL, NULL, (void *)(uintptr_t)&vhdx }

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(parent_shows_through),
		BOTH(parent_written_since),
		BOTH(parent_missing),
		BOTH(alone_without_parent),
		BOTH(parent_swapped),
		BOTH(loop_is_noticed),
		BOTH(too_deep),
		BOTH(outside_the_root),
		BOTH(moved_parent_found_beside_child),
		BOTH(sizes_and_blocks_may_differ),
		BOTH(formats_do_not_mix),
		BOTH(layers_keep_their_own),
		BOTH(thousand_layers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
