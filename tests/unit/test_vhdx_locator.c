/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

#include "base/alloc.h"
#include "base/utf16.h"
#include "tests/unit/rows.h"
#include "tests/unit/vhdx_image.h"

static const struct sp_guid linkage = { { 4, 3, 2, 1, 6, 5, 8, 7, 9, 10, 11, 12, 13, 14, 15, 16 } };

static void forget_paths(struct vhd_image *img)
{
	for (unsigned i = 0; i < img->parent.paths; i++)
		sp_free(img->parent.path[i].text);
	memset(&img->parent, 0, sizeof(img->parent));
}

/* ---- vector of vhd-formats 6.7 ------------------------------------------------------------------- */

static size_t encode_vector(uint8_t *buf, size_t room)
{
	const struct vhd_set_parent p = {
		.identity = { linkage }, .identities = 1, .relative = "base.vhdx", .absolute = "C:\\vm\\base.vhdx",
	};
	size_t len = 0;

	must(vhdx_locator_encode(&p, buf, room, &len));
	return len;
}

static void vector(void **state)
{
	static const uint16_t entries[3][4] = { { 56, 84, 28, 76 }, { 160, 186, 26, 22 }, { 208, 246, 38, 30 } };
	struct vhd_image img = { 0 };
	uint8_t buf[1000];

	assert_int_equal(encode_vector(buf, sizeof(buf)), 276);
	assert_int_equal(sp_crc32c(buf, 276), 0xc37cceb5);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(get32(buf + 20 + 12 * i), entries[i][0]);
		assert_int_equal(get32(buf + 24 + 12 * i), entries[i][1]);
		assert_int_equal(get32(buf + 28 + 12 * i), entries[i][2] | entries[i][3] << 16);
	}
	must(vhdx_locator_decode(buf, 276, &img, NULL));
	assert_int_equal(img.parent.identities, 1);
	assert_true(sp_guid_equal(&img.parent.identity[0], &linkage));
	assert_int_equal(img.parent.paths, 2);
	assert_int_equal(img.parent.path[0].kind, VHD_PATH_RELATIVE);
	assert_string_equal(img.parent.path[0].text, ".\\base.vhdx");
	assert_int_equal(img.parent.path[1].kind, VHD_PATH_ABSOLUTE);
	assert_string_equal(img.parent.path[1].text, "C:\\vm\\base.vhdx");
	forget_paths(&img);
}

/* ---- paths as they are written ------------------------------------------------------------------- */

static const struct path { const char *name, *relative, *absolute, *want_relative, *want_absolute; } paths[] = {
	{ "beside", "base.vhdx", NULL, ".\\base.vhdx", NULL },
	{ "dot given", "./base.vhdx", NULL, ".\\base.vhdx", NULL },
	{ "above", "../a/base.vhdx", NULL, "..\\a\\base.vhdx", NULL },
	{ "below", "a/b/c.vhdx", NULL, ".\\a\\b\\c.vhdx", NULL },
	{ "name that begins with dots", "..base.vhdx", NULL, ".\\..base.vhdx", NULL },
	{ "as stored", ".\\base.vhdx", NULL, ".\\base.vhdx", NULL },
	{ "host path", NULL, "/srv/vm/base.vhdx", NULL, "\\srv\\vm\\base.vhdx" },
	{ "not ASCII", "\xc3\xa4\xf0\x9f\x92\xbe.vhdx", NULL, ".\\\xc3\xa4\xf0\x9f\x92\xbe.vhdx", NULL },
};

static void path_written(void **state)
{
	const struct path *c = *state;
	struct vhd_set_parent p = {
		.identity = { linkage, { { 9 } } }, .identities = 2, .relative = c->relative, .absolute = c->absolute,
	};
	struct vhd_image img = { 0 };
	uint8_t buf[1000];
	size_t len;

	must(vhdx_locator_encode(&p, buf, sizeof(buf), &len));
	must(vhdx_locator_decode(buf, len, &img, NULL));
	assert_int_equal(img.parent.identities, 2);
	assert_int_equal(img.parent.identity[1].b[0], 9);
	assert_int_equal(img.parent.paths, 1);
	assert_string_equal(img.parent.path[0].text, c->relative ? c->want_relative : c->want_absolute);
	forget_paths(&img);
}

static void encode_refuses(void **state)
{
	static char long_path[40000];
	struct vhd_set_parent p = { .identity = { linkage }, .identities = 1, .relative = "base.vhdx" };
	uint8_t buf[300];
	size_t len = 0;

	assert_int_equal(vhdx_locator_encode(&p, buf, 100, &len), -ERANGE);
	assert_int_equal(len, 20 + 2 * 12 + 28 + 76 + 26 + 22);
	p.identities = 0;
	assert_int_equal(vhdx_locator_encode(&p, buf, sizeof(buf), &len), -EINVAL);
	p.identities = 1;
	p.relative = NULL;
	assert_int_equal(vhdx_locator_encode(&p, buf, sizeof(buf), &len), -EINVAL);
	p.relative = "\xff.vhdx";
	assert_int_equal(vhdx_locator_encode(&p, buf, sizeof(buf), &len), -EINVAL);
	memset(long_path, 'a', sizeof(long_path) - 1);
	p.relative = long_path;
	assert_int_equal(vhdx_locator_encode(&p, buf, sizeof(buf), &len), -EINVAL);
}

/* ---- hostile items: a changed field of the vector ------------------------------------------------ */

static const struct row {
	const char *name;
	size_t at;
	unsigned bytes;
	uint64_t value;
	size_t len;
	int want;
} rows[] = {
	{ "as written", 16, 2, 0, 276, 0 },
	{ "other type", 0, 1, 1, 276, -ENOTSUP },
	{ "item of 19 bytes", 16, 2, 0, 19, -EBADMSG },
	{ "item of 0 bytes", 16, 2, 0, 0, -EBADMSG },
	{ "cut off in the last value", 16, 2, 0, 275, -EBADMSG },
	{ "cut off in the entries", 16, 2, 0, 50, -EBADMSG },
	{ "257 pairs", 18, 2, 257, 276, -EBADMSG },
	{ "no pairs: no linkage", 18, 2, 0, 276, -EBADMSG },
	{ "one pair: no path", 18, 2, 1, 276, 0 },
	{ "key offset 0", 20, 4, 0, 276, -EBADMSG },
	{ "key offset past the end", 20, 4, 250, 276, -EBADMSG },
	{ "key offset 4 GiB - 1", 20, 4, 0xffffffff, 276, -EBADMSG },
	{ "value offset 0", 24, 4, 0, 276, -EBADMSG },
	{ "value offset past the end", 24, 4, 276, 276, -EBADMSG },
	{ "key length 0", 28, 2, 0, 276, -EBADMSG },
	{ "key length odd", 28, 2, 27, 276, -EBADMSG },
	{ "key length 65534", 28, 2, 65534, 276, -EBADMSG },
	{ "value length 0", 30, 2, 0, 276, -EBADMSG },
	{ "value with a NUL inside", 90, 2, 0, 276, -EBADMSG },
	{ "linkage is no GUID", 86, 2, 'x', 276, -EBADMSG },
	{ "linkage without opening brace", 84, 2, ' ', 276, -EBADMSG },
	{ "upper case linkage", 106, 2, 'A', 276, 0 },
	{ "unknown key", 56, 2, 'P', 276, -EBADMSG },
	{ "same key twice", 32, 4, 56, 276, 0 }, /* 26 of its 28 bytes: another key */
	{ "unpaired surrogate in a path", 190, 2, 0xd800, 276, 0 },
};

static void hostile(void **state)
{
	const struct row *c = *state;
	struct vhd_image img = { 0 };
	uint8_t *item = malloc(c->len ? c->len : 1);	/* exactly as long: ASan sees a byte too far */
	uint8_t buf[300];

	encode_vector(buf, sizeof(buf));
	for (unsigned i = 0; i < c->bytes; i++)
		buf[c->at + i] = (uint8_t)(c->value >> 8 * i);
	memcpy(item, buf, c->len);
	assert_int_equal(vhdx_locator_decode(item, c->len, &img, NULL), c->want);
	forget_paths(&img);
	free(item);
}

static void duplicate_key(void **state)
{
	struct vhd_image img = { 0 };
	uint8_t buf[300];

	encode_vector(buf, sizeof(buf));
	memcpy(buf + 32, buf + 20, 12);
	assert_int_equal(vhdx_locator_decode(buf, 276, &img, NULL), -EBADMSG);
	forget_paths(&img);
}

/* The order of trial is the specification's, whatever the order in the item. */
static void order(void **state)
{
	static const char *const text[4][2] = {
		{ "absolute_win32_path", "\\\\?\\d:\\x" },
		{ "volume_path", "\\\\?\\Volume{1}\\x" },
		{ "relative_path", ".\\x" },
		{ "parent_linkage", "{04030201-0605-0807-090A-0B0C0D0E0F10}" },
	};
	struct vhd_image img = { 0 };
	uint8_t buf[1000] = { 0 };
	size_t at = 20 + 4 * 12;

	memcpy(buf, &VHDX_GUID_LOCATOR_TYPE, 16);
	put16(buf + 18, 4);
	for (unsigned i = 0; i < 4; i++) {
		for (unsigned k = 0; k < 2; k++) {
			size_t len;

			must(sp_utf16_encode(text[i][k], false, buf + at, sizeof(buf) - at, &len));
			put32(buf + 20 + 12 * i + 4 * k, (uint32_t)at);
			put16(buf + 20 + 12 * i + 8 + 2 * k, (uint16_t)len);
			at += len;
		}
	}
	must(vhdx_locator_decode(buf, at, &img, NULL));
	assert_int_equal(img.parent.paths, 3);
	assert_int_equal(img.parent.path[0].kind, VHD_PATH_RELATIVE);
	assert_int_equal(img.parent.path[1].kind, VHD_PATH_VOLUME);
	assert_int_equal(img.parent.path[2].kind, VHD_PATH_ABSOLUTE);
	assert_memory_equal(&img.parent.identity[0].b[8], &linkage.b[8], 8);
	forget_paths(&img);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(vector), cmocka_unit_test(encode_refuses), cmocka_unit_test(duplicate_key),
		cmocka_unit_test(order),
	};
	int failed = cmocka_run_group_tests_name("locator", tests, NULL, NULL);

	failed += ROWS_RUN(paths, path_written);
	failed += ROWS_RUN(rows, hostile);
	return failed != 0;
}
