/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/unit/rows.h"
#include "tools/manifest.h"
#include "tools/options.h"
#include "tools/size.h"

/* ---- sizes --------------------------------------------------------------------------------------- */

static const struct size_case {
	const char *name, *text;
	int want;
	uint64_t bytes;
} sizes[] = {
	{ "bytes", "512", 0, 512 },
	{ "b is ignored", "512b", 0, 512 },
	{ "K", "4K", 0, 4096 },
	{ "k", "4k", 0, 4096 },
	{ "M", "3M", 0, 3ull << 20 },
	{ "G", "40G", 0, 40ull << 30 },
	{ "T", "64T", 0, 64ull << 40 },
	{ "P", "1P", 0, 1ull << 50 },
	{ "E", "7E", 0, 7ull << 60 },
	{ "exact fraction", "1.5G", 0, 3ull << 29 },
	{ "long exact fraction", "0.0009765625M", 0, 1024 },
	{ "largest", "9223372036854775807", 0, INT64_MAX },
	{ "one too many", "9223372036854775808", -ERANGE, 0 },
	{ "8E", "8E", -ERANGE, 0 },
	{ "would wrap 64 bits", "16777217T", -ERANGE, 0 },
	{ "would wrap 128 bits", "99999999999999999999999999999999999999999E", -ERANGE, 0 },
	{ "fraction of a byte", "1.5", -EINVAL, 0 },
	{ "inexact fraction", "0.1K", -EINVAL, 0 },
	{ "empty", "", -EINVAL, 0 },
	{ "negative", "-1", -EINVAL, 0 },
	{ "plus", "+1", -EINVAL, 0 },
	{ "space", " 1", -EINVAL, 0 },
	{ "unit alone", "G", -EINVAL, 0 },
	{ "unknown unit", "1X", -EINVAL, 0 },
	{ "two units", "1KB", -EINVAL, 0 },
	{ "hexadecimal", "0x10", -EINVAL, 0 },
	{ "point without digits", "1.G", -EINVAL, 0 },
	{ "two points", "1.2.3G", -EINVAL, 0 },
};

static void size_parse(void **state)
{
	const struct size_case *c = *state;
	uint64_t bytes = 0;

	assert_int_equal(tool_size_parse(c->text, &bytes), c->want);
	assert_int_equal(bytes, c->bytes);
}

static const struct text_case {
	const char *name;
	uint64_t bytes;
	const char *want;
} texts[] = {
	{ "nothing", 0, "0 B" },
	{ "bytes", 999, "999 B" },
	{ "just below a KiB", 1023, "0.999 KiB" },
	{ "100 MiB", 100ull << 20, "100 MiB" },
	{ "fraction", 3ull << 29, "1.5 GiB" },
	{ "most", UINT64_MAX, "16 EiB" },
};

static void size_format(void **state)
{
	const struct text_case *c = *state;
	char text[TOOL_SIZE_TEXT];

	assert_string_equal(tool_size_format(c->bytes, text), c->want);
}

/* ---- -o ------------------------------------------------------------------------------------------ */

static const struct opts_case {
	const char *name, *text;
	int want;
	struct tool_format_opts opts;
} format_opts[] = {
	{ "fixed", "subformat=fixed", 0, { .kind = VHD_KIND_FIXED, .kind_given = true } },
	{ "dynamic", "subformat=dynamic", 0, { .kind = VHD_KIND_DYNAMIC, .kind_given = true } },
	{ "several", "block_size=2M,log_size=1M,logical_sector_size=4K", 0,
	  { .block_size = 2u << 20, .log_size = 1u << 20, .logical_sector = 4096 } },
	{ "preallocation", "preallocation=falloc,physical_sector_size=4096", 0,
	  { .preallocate = true, .physical_sector = 4096 } },
	{ "preallocation off", "preallocation=off", 0, { 0 } },
	{ "unknown name", "cluster_size=2M", -EINVAL, { 0 } },
	{ "unknown subformat", "subformat=thick", -EINVAL, { 0 } },
	{ "unknown preallocation", "preallocation=metadata", -EINVAL, { 0 } },
	{ "no value", "block_size", -EINVAL, { 0 } },
	{ "bad size", "block_size=2X", -EINVAL, { 0 } },
	{ "size beyond 32 bits", "block_size=4G", -ERANGE, { 0 } },
	{ "empty item", "block_size=2M,", -EINVAL, { 0 } },
};

static void format_opts_parse(void **state)
{
	const struct opts_case *c = *state;
	struct tool_format_opts o = { 0 };
	struct sp_err err = { 0 };

	assert_int_equal(tool_format_opts_parse(&o, c->text, &err), c->want);
	if (c->want < 0) {
		assert_int_equal(err.code, c->want);
		return;
	}
	assert_int_equal(o.kind, c->opts.kind);
	assert_int_equal(o.kind_given, c->opts.kind_given);
	assert_int_equal(o.block_size, c->opts.block_size);
	assert_int_equal(o.log_size, c->opts.log_size);
	assert_int_equal(o.logical_sector, c->opts.logical_sector);
	assert_int_equal(o.physical_sector, c->opts.physical_sector);
	assert_int_equal(o.preallocate, c->opts.preallocate);
}

/* ---- the table ----------------------------------------------------------------------------------- */

static const struct parse_case {
	const char *name;
	const char *arg[8];
	int want;		/* positional arguments, TOOL_HELPED or TOOL_MISUSED */
	const char *first;
	bool quiet;
	uint64_t size;
} parses[] = {
	{ "options first", { "-q", "-s", "1K", "file" }, 1, "file", true, 1024 },
	{ "options last", { "file", "-q", "--size=2K" }, 1, "file", true, 2048 },
	{ "end of options", { "--", "-q" }, 1, "-q", false, 0 },
	{ "dash is a file", { "-" }, 1, "-", false, 0 },
	{ "two files", { "a", "b" }, 2, "a", false, 0 },
	{ "too many", { "a", "b", "c" }, TOOL_MISUSED, NULL, false, 0 },
	{ "too few", { "-q" }, TOOL_MISUSED, NULL, true, 0 },
	{ "unknown short", { "-z", "a" }, TOOL_MISUSED, NULL, false, 0 },
	{ "unknown long", { "--zzz", "a" }, TOOL_MISUSED, NULL, false, 0 },
	{ "value missing", { "a", "-s" }, TOOL_MISUSED, NULL, false, 0 },
	{ "value not wanted", { "a", "--quiet=1" }, TOOL_MISUSED, NULL, false, 0 },
	{ "bad value", { "-s", "many", "a" }, TOOL_MISUSED, NULL, false, 0 },
	{ "help", { "--help" }, TOOL_HELPED, NULL, false, 0 },
};

static void option_table(void **state)
{
	const struct parse_case *c = *state;
	const struct tool_verb verb = { .name = "test", .args = "FILE [FILE]", .help = "a test", .usage_exit = 1 };
	char verb_name[] = "test", *argv[10] = { verb_name };
	uint64_t size = 0;
	bool quiet = false;
	const struct tool_opt opts[] = {
		TOOL_OPT_QUIET(&quiet), { 's', "size", "SIZE", "a size", TOOL_SIZE, &size }, TOOL_OPTS_END,
	};
	int argc = 1;

	while (c->arg[argc - 1]) {
		argv[argc] = strdup(c->arg[argc - 1]);
		argc++;
	}
	char *owned[10];
	memcpy(owned, argv, sizeof(owned));
	assert_int_equal(tool_parse(&verb, opts, argc, argv, 1, 2), c->want);
	if (c->first)
		assert_string_equal(argv[0], c->first);
	assert_int_equal(quiet, c->quiet);
	assert_int_equal(size, c->size);
	for (int i = 1; i < argc; i++)
		free(owned[i]);
}

/* ---- manifests ----------------------------------------------------------------------------------- */

#define H0 "0000000000000000000000000000000000000000000000000000000000000000"
#define H1 "00000000000000000000000000000000000000000000000000000000000000ff"
#define HEAD "spindle-manifest 1\nsize 1048577\nchunk 1048576\nsha256 " H0 "\n"

static const struct manifest_case {
	const char *name, *text;
	int want;
} manifests[] = {
	{ "good", HEAD "0 " H0 "\n1 " H1 "\n", 0 },
	{ "no disk at all", "spindle-manifest 1\nsize 0\nchunk 1048576\nsha256 " H0 "\n", 0 },
	{ "empty", "", -EBADMSG },
	{ "other version", "spindle-manifest 2\nsize 0\nchunk 1048576\nsha256 " H0 "\n", -EBADMSG },
	{ "negative size", "spindle-manifest 1\nsize -1\nchunk 1048576\nsha256 " H0 "\n", -EBADMSG },
	{ "giant size", "spindle-manifest 1\nsize 18446744073709551615\nchunk 1048576\nsha256 " H0 "\n", -EBADMSG },
	{ "large size, no hashes",
	  "spindle-manifest 1\nsize 70368744177664\nchunk 1048576\nsha256 " H0 "\n", -EBADMSG },
	{ "other chunk", "spindle-manifest 1\nsize 0\nchunk 4096\nsha256 " H0 "\n", -EBADMSG },
	{ "hash missing", HEAD "0 " H0 "\n", -EBADMSG },
	{ "hash short", HEAD "0 " H0 "\n1 00ff\n", -EBADMSG },
	{ "hash long", HEAD "0 " H0 "\n1 " H1 "0\n", -EBADMSG },
	{ "no hexadecimal digit", HEAD "0 " H0 "\n1 g" H1 "\n", -EBADMSG },
	{ "wrong index", HEAD "0 " H0 "\n2 " H1 "\n", -EBADMSG },
	{ "something behind", HEAD "0 " H0 "\n1 " H1 "\n2 " H1 "\n", -EBADMSG },
	{ "last line cut", HEAD "0 " H0 "\n1 " H1, -EBADMSG },
};

static void manifest_read(void **state)
{
	const struct manifest_case *c = *state;
	char path[] = "/tmp/spindle-manifest-XXXXXX";
	int fd = mkstemp(path);
	struct vhd_hash h = { 0 };
	struct sp_err err = { 0 };

	assert_true(fd >= 0);
	assert_int_equal(write(fd, c->text, strlen(c->text)), (ssize_t)strlen(c->text));
	close(fd);
	assert_int_equal(tool_manifest_read(path, &h, &err), c->want);
	if (c->want == 0 && h.chunks == 2)
		assert_int_equal(h.chunk[1][31], 0xff);
	vhd_hash_fini(&h);
	unlink(path);
}

int main(void)
{
	return ROWS_RUN(sizes, size_parse) + ROWS_RUN(texts, size_format) + ROWS_RUN(format_opts, format_opts_parse) +
	       ROWS_RUN(parses, option_table) + ROWS_RUN(manifests, manifest_read);
}
