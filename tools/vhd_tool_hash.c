/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "tools/manifest.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/progress.h"
#include "vhd/ops.h"

#define RANGES_SHOWN 10

struct hash_args {
	struct tool_look look;
	struct tool_progress progress;
	const char *write, *verify;
	unsigned threads;
	bool json;
};

/* Calls @found for each run of differing chunks; answers how many runs there are. */
static uint64_t differing_ranges(const struct vhd_hash *is, const struct vhd_hash *should,
				 void (*found)(void *arg, uint64_t offset, uint64_t len), void *arg)
{
	uint64_t runs = 0, chunks = sp_min(is->chunks, should->chunks), size = sp_min(is->size, should->size);

	for (uint64_t i = 0, end; i < chunks; i = end) {
		for (end = i; end < chunks && memcmp(is->chunk[end], should->chunk[end], 32) != 0; end++)
			;
		if (end == i) {
			end++;
			continue;
		}
		if (runs++ < RANGES_SHOWN)
			found(arg, i * VHD_HASH_CHUNK, sp_min(end * VHD_HASH_CHUNK, size) - i * VHD_HASH_CHUNK);
	}
	return runs;
}

static void print_range(void *arg, uint64_t offset, uint64_t len)
{
	printf("differs: offset %" PRIu64 " (%#" PRIx64 "), %" PRIu64 " bytes\n", offset, offset, len);
}

static void add_range(void *arg, uint64_t offset, uint64_t len)
{
	json_object *o = json_object_new_object();

	tool_json_u64(o, "start", offset);
	tool_json_u64(o, "length", len);
	json_object_array_add(arg, o);
}

/* Exit status 0 when the disk is what the manifest says, 1 when not. */
static int verify_human(const char *path, const struct hash_args *a, const struct vhd_hash *is,
			const struct vhd_hash *should)
{
	uint64_t runs;

	if (is->size != should->size)
		printf("size differs: %" PRIu64 " bytes, the manifest says %" PRIu64 "\n", is->size, should->size);
	runs = differing_ranges(is, should, print_range, NULL);
	if (runs > RANGES_SHOWN)
		printf("... and %" PRIu64 " more ranges\n", runs - RANGES_SHOWN);
	if (runs || is->size != should->size)
		return 1;
	if (!a->progress.quiet)
		printf("%s: matches %s\n", path, a->verify);
	return 0;
}

static json_object *hash_json(const char *path, const struct vhd_hash *hash)
{
	json_object *o = json_object_new_object();
	char text[TOOL_HASH_TEXT];

	tool_hash_text(hash->disk, text);
	tool_json_text(o, "filename", path);
	tool_json_u64(o, "virtual-size", hash->size);
	tool_json_text(o, "sha256", text);
	return o;
}

static int verify_json(const char *path, const struct vhd_hash *is, const struct vhd_hash *should)
{
	json_object *o = hash_json(path, is), *ranges = json_object_new_array();
	uint64_t runs = differing_ranges(is, should, add_range, ranges);
	bool same = runs == 0 && is->size == should->size;

	tool_json_bool(o, "matches", same);
	tool_json_u64(o, "expected-size", should->size);
	tool_json_u64(o, "differing-ranges", runs);
	json_object_object_add(o, "first-differences", ranges);
	tool_json_print(o);
	return !same;
}

static int verify(const char *path, const struct hash_args *a, const struct vhd_hash *hash)
{
	struct vhd_hash should = { 0 };
	struct sp_err err = { 0 };
	int status;

	if (tool_manifest_read(a->verify, &should, &err) < 0) {
		tool_fail(a->verify, &err);
		return 2;
	}
	status = a->json ? verify_json(path, hash, &should) : verify_human(path, a, hash, &should);
	vhd_hash_fini(&should);
	return status;
}

static int deliver(const char *path, const struct hash_args *a, const struct vhd_hash *hash)
{
	struct sp_err err = { 0 };
	char text[TOOL_HASH_TEXT];

	if (a->write && tool_manifest_write(a->write, hash, &err) < 0) {
		tool_fail(a->write, &err);
		return 2;
	}
	if (a->verify)
		return verify(path, a, hash);
	if (a->json) {
		tool_json_print(hash_json(path, hash));
	} else if (!(a->write && strcmp(a->write, "-") == 0)) {
		tool_hash_text(hash->disk, text);
		printf("%s  %s\n", text, path);
	}
	return 0;
}

static int hash_file(const char *path, const struct hash_args *a)
{
	struct vhd_open_opts open = tool_open_opts(&a->look);
	struct vhd_hash hash = { 0 };
	struct vhd_disk *d;
	struct sp_err err = { 0 };
	int r, status;

	r = vhd_disk_open(path, &open, &d, &err);
	if (r == 0) {
		r = vhd_hash_disk(d, a->threads, tool_job_begin(&a->progress), &hash, &err);
		vhd_disk_close(d, NULL);
	}
	status = tool_job_end(0);
	if (status)
		return status;
	if (r < 0) {
		tool_fail(path, &err);
		return 2;
	}
	status = deliver(path, a, &hash);
	vhd_hash_fini(&hash);
	return status;
}

int tool_hash(const struct tool_verb *verb, int argc, char **argv)
{
	struct hash_args a = { .progress.fd = -1 };
	const struct tool_opt opts[] = {
		TOOL_OPTS_LOOK(&a.look),
		{ 'o', "manifest", "MANIFEST", "also write the hash of every MiB to this file (\"-\": standard output)",
		  TOOL_TEXT, &a.write },
		{ 0, "verify", "MANIFEST", "compare with this manifest and name the first differing ranges", TOOL_TEXT,
		  &a.verify },
		TOOL_OPT_OUTPUT(&a.json),
		TOOL_OPT_THREADS(&a.threads),
		TOOL_OPTS_PROGRESS(&a.progress),
		TOOL_OPTS_END,
	};
	int n = tool_parse(verb, opts, argc, argv, 1, 1);

	return n < 0 ? tool_parse_exit(verb, n) : hash_file(argv[0], &a);
}
