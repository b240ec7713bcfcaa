/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Backup sets in memory folders: every flipped bit is noticed, every power cut leaves whole points or incomplete ones,
 * and no manifest, whoever wrote it, does harm.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backup/backup_int.h"
#include "base/alloc.h"
#include "base/bytes.h"
#include "tests/support/rng.h"
#include "tests/support/store_log.h"

#define SIZE SP_MIB(3)
#define FLIPS 1000
#define CUTS 60

struct fixture {
	struct store_folder *images, *repo;
	struct vhd_disk *disk;
	struct backup_set *set;
	struct sp_err err;
};

static void open_source(struct fixture *f)
{
	struct vhd_format_create c = { .size = SIZE, .kind = VHD_KIND_DYNAMIC };
	struct vhd_open_opts rw = { .flags = VHD_OPEN_WRITE, .format = VHD_FORMAT_VHDX };

	assert_int_equal(store_folder_mem(&f->images), 0);
	assert_int_equal(vhd_create_in(f->images, "disk.vhdx", VHD_FORMAT_VHDX, &c, NULL), 0);
	assert_int_equal(vhd_disk_open_in(f->images, "disk.vhdx", &rw, &f->disk, NULL), 0);
}

static void change(struct fixture *f, uint64_t offset, size_t len, int byte)
{
	uint8_t *buf = malloc(len);

	assert_non_null(buf);
	for (size_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(byte * 31 + (int)i * 7 + (int)(i >> 8));
	assert_int_equal(vhd_disk_write(f->disk, buf, len, offset), 0);
	free(buf);
}

static void add_point(struct fixture *f)
{
	struct backup_source s = { .name = "disk", .path = "disk.vhdx", .disk = f->disk };
	struct backup_create_opts o = { .level = BACKUP_CRASH, .threads = 1 };
	int r = backup_create(f->set, &s, 1, &o, NULL, NULL, &f->err);

	if (r < 0)
		fail_msg("create: %s", sp_err_text(&f->err));
}

static void open_set(struct fixture *f)
{
	int r = backup_set_open_in(f->repo, "set", BACKUP_WRITE | BACKUP_CREATE, &f->set, &f->err);

	if (r < 0)
		fail_msg("open: %s", sp_err_text(&f->err));
}

static void three_points(struct fixture *f)
{
	change(f, 1000, 700000, 1);
	add_point(f);
	change(f, 500000, 9000, 2);
	change(f, 2900000, 40000, 3);
	add_point(f);
	assert_int_equal(vhd_disk_write_zeroes(f->disk, 100000, 8192), 0);
	add_point(f);
}

static void close_all(struct fixture *f)
{
	backup_set_close(f->set);
	vhd_disk_close(f->disk, NULL);
	store_folder_close(f->images);
	store_folder_close(f->repo);
}

static void count_finding(void *arg, const struct backup_finding *found)
{
	const char *file = ((const char **)arg)[0];

	if (!file || strcmp(found->file, file) == 0)
		((const char **)arg)[1] = "found";
}

/* ---- known changes ------------------------------------------------------------------------------- */

/* Only what is said to have changed is read, and all of that. */
static void known_changes(void **state)
{
	struct fixture f = { 0 };
	const struct backup_range changed[] = { { 500000, 9000 }, { 2900000, 40000 } };
	struct backup_source s = { .name = "disk", .changes_known = true, .changes_since = 1, .changed = changed,
				   .changes = SP_ARRAY_SIZE(changed) };
	struct backup_create_opts o = { .level = BACKUP_CRASH, .threads = 1 };
	struct backup_create_result result;
	struct backup_verify_opts all = { .content = true };
	struct backup_digests is;
	struct backup_manifest *m;
	uint64_t first, count;

	open_source(&f);
	assert_int_equal(store_folder_mem(&f.repo), 0);
	open_set(&f);
	change(&f, 0, SIZE, 1);
	add_point(&f);
	change(&f, 500000, 9000, 2);
	change(&f, 2900000, 40000, 3);
	s.disk = f.disk;
	assert_int_equal(backup_create(f.set, &s, 1, &o, NULL, &result, &f.err), 0);
	assert_false(result.full);
	assert_int_equal(result.bytes_read, 2 * BACKUP_CHUNK);
	assert_in_range(result.bytes_written, 49000, 49000 + 4 * 4096);
	assert_int_equal(backup_verify(f.set, &all, NULL, NULL, &f.err), 0);
	assert_int_equal(backup_digest_disk(f.disk, 1, NULL, NULL, &is, NULL), 0);
	assert_int_equal(backup_manifest_load(f.set, 2, true, &m, &f.err), 0);
	assert_false(backup_digests_differ(&is, &m->disk[0].content, &first, &count));
	backup_digests_fini(&is);
	backup_manifest_free(m);
	close_all(&f);
}

/* ---- flips --------------------------------------------------------------------------------------- */

static const char *const files[] = { "000001-disk.vhdx", "000002-disk.vhdx", "000003-disk.vhdx", "000001.json",
				     "000002.json", "000003.json", "set.json" };

static void flip(struct store_folder *f, const char *file, uint64_t bit)
{
	struct store *s;
	uint8_t byte;

	assert_int_equal(store_folder_open(f, file, STORE_RDWR | STORE_NO_LOCK, &s, NULL), 0);
	assert_int_equal(store_read(s, &byte, 1, bit / 8), 0);
	byte ^= (uint8_t)(1 << bit % 8);
	assert_int_equal(store_write(s, &byte, 1, bit / 8), 0);
	store_close(s);
}

static uint64_t size_of(struct store_folder *f, const char *file)
{
	uint64_t size = 0;
	struct store *s;

	assert_int_equal(store_folder_open(f, file, STORE_NO_LOCK, &s, NULL), 0);
	assert_int_equal(store_size(s, &size), 0);
	store_close(s);
	return size;
}

static bool noticed(struct fixture *f, const char *file)
{
	const char *found[2] = { file, NULL };
	struct backup_verify_opts o = { .only_file = file, .found = count_finding, .arg = found, .threads = 1 };
	struct backup_set *set;
	int r = backup_set_open_in(f->repo, "set", 0, &set, NULL);

	if (r < 0)
		return strcmp(file, "set.json") == 0;
	r = backup_verify(set, &o, NULL, NULL, NULL);
	backup_set_close(set);
	return r == -EBADMSG && found[1];
}

static void every_flip(void **state)
{
	struct fixture f = { 0 };
	struct backup_verify_opts all = { .content = true };
	struct rng rng;

	rng_init(&rng, 1);
	open_source(&f);
	assert_int_equal(store_folder_mem(&f.repo), 0);
	open_set(&f);
	three_points(&f);
	assert_int_equal(backup_verify(f.set, &all, NULL, NULL, &f.err), 0);
	backup_set_close(f.set);
	f.set = NULL;
	for (int i = 0; i < FLIPS; i++) {
		const char *file = files[rng_below(&rng, SP_ARRAY_SIZE(files))];
		uint64_t bit = rng_below(&rng, size_of(f.repo, file) * 8);

		flip(f.repo, file, bit);
		if (!noticed(&f, file))
			fail_msg("bit %llu of %s flipped, nobody noticed", (unsigned long long)bit, file);
		flip(f.repo, file, bit);
	}
	open_set(&f);
	assert_int_equal(backup_verify(f.set, &all, NULL, NULL, &f.err), 0);
	close_all(&f);
}

/* ---- power cuts ---------------------------------------------------------------------------------- */

static bool keep_some(void *arg, size_t index, const struct log_event *e, enum log_choice *ret_how, uint64_t *ret_k)
{
	struct rng *rng = arg;

	if (e->kind == LOG_WRITE && rng_below(rng, 4) == 0) {
		*ret_how = LOG_TORN;
		*ret_k = e->len ? rng_below(rng, e->len) : 0;
	}
	return rng_below(rng, 2);
}

/* How many points had been made, and the oldest of those that had not been pruned, when the cut came. */
static unsigned marked(const struct store_log *log, uint64_t seq)
{
	unsigned value = 0;

	for (size_t i = 0; i < log_count(log); i++) {
		const struct log_event *e = log_event(log, i);

		if (e->kind == LOG_MARK && e->begin <= seq)
			value = (unsigned)e->value;
	}
	return value;
}

static void check_after_cut(struct fixture *f, struct store_folder *left, unsigned newest, uint64_t seq)
{
	struct backup_verify_opts o = { .content = true, .threads = 1 };
	struct fixture after = { .repo = left, .disk = f->disk };
	unsigned points;

	open_set(&after);
	assert_int_equal(backup_prune(after.set, NULL, 0, NULL, NULL, &after.err), 0);
	points = backup_points(after.set);
	if (points ? backup_point_number(after.set, points - 1) < newest : newest > 0)
		fail_msg("cut at %llu: point %u is gone", (unsigned long long)seq, newest);
	if (backup_verify(after.set, &o, NULL, NULL, &after.err) != 0)
		fail_msg("cut at %llu: not whole: %s", (unsigned long long)seq, sp_err_text(&after.err));
	add_point(&after);
	assert_int_equal(backup_verify(after.set, &o, NULL, NULL, &after.err), 0);
	backup_set_close(after.set);
	store_folder_close(left);
}

static void every_cut(void **state)
{
	struct fixture f = { 0 };
	struct store_folder *inner;
	struct store_log *log;
	struct rng rng;
	const unsigned drop[] = { 1, 2 };
	uint64_t last;

	rng_init(&rng, 2);
	open_source(&f);
	assert_int_equal(store_folder_mem(&inner), 0);
	assert_int_equal(store_folder_log_new(inner, &f.repo), 0);
	log = store_folder_log(f.repo);
	open_set(&f);
	change(&f, 1000, 700000, 1);
	add_point(&f);
	log_mark(log, 1);
	change(&f, 500000, 9000, 2);
	add_point(&f);
	log_mark(log, 2);
	change(&f, 2900000, 40000, 3);
	add_point(&f);
	log_mark(log, 3);
	assert_int_equal(backup_prune(f.set, drop, 2, NULL, NULL, &f.err), 0);
	backup_set_close(f.set);
	f.set = NULL;
	last = log_seq(log);
	for (unsigned i = 0; i <= CUTS; i++) {
		uint64_t seq = last * i / CUTS;

		check_after_cut(&f, log_crash(log, seq, keep_some, &rng), marked(log, seq), seq);
	}
	close_all(&f);
}

/* ---- manifests of others ------------------------------------------------------------------------- */

struct bad {
	const char *name, *from, *to;
};

static const struct bad bads[] = {
	{ "a disk outside the folder", "\"name\": \"disk\"", "\"name\": \"../../x\"" },
	{ "a disk with a slash", "\"name\": \"disk\"", "\"name\": \"a/b\"" },
	{ "a disk of no name", "\"name\": \"disk\"", "\"name\": \"\"" },
	{ "a negative size", "\"size\": 3145728", "\"size\": -1" },
	{ "a size beyond all limits", "\"size\": 3145728", "\"size\": 9223372036854775807" },
	{ "a size that does not fit 64 bits", "\"size\": 3145728", "\"size\": 99999999999999999999999" },
	{ "a size in words", "\"size\": 3145728", "\"size\": \"much\"" },
	{ "a parent that is no older", "\"parent\": 0", "\"parent\": 1" },
	{ "a parent far away", "\"parent\": 0", "\"parent\": 4294967297" },
	{ "another format", "spindle-backup 1", "spindle-backup 2" },
	{ "a level nobody knows", "\"level\": \"crash\"", "\"level\": \"perfect\"" },
	{ "no disks", "\"disks\": [", "\"disks\": 7, \"x\": [" },
	{ "deep nesting", "\"reasons\": \"\"", "\"reasons\": [[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]" },
	{ "a member twice", "\"parent\": 0", "\"parent\": 0,\n    \"parent\": 0" },
	{ "a blank more", "\"parent\": 0", "\"parent\":  0" },
};

static char *manifest_with(struct fixture *f, const char *from, const char *to)
{
	size_t len;
	char *text, *at, *out;

	assert_int_equal(backup_file_read(f->repo, "000001.json", SP_MIB(1), &text, &len, NULL), 0);
	at = strstr(text, from);
	assert_non_null(at);
	out = sp_asprintf("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
	sp_free(text);
	assert_non_null(out);
	return out;
}

static void refused(void **state)
{
	const struct bad *b = *state;
	struct fixture f = { 0 };
	struct backup_manifest *m = NULL;
	char *text;

	open_source(&f);
	assert_int_equal(store_folder_mem(&f.repo), 0);
	open_set(&f);
	change(&f, 0, 5000, 1);
	add_point(&f);
	text = manifest_with(&f, b->from, b->to);
	assert_true(backup_manifest_decode(text, strlen(text), NULL, &m, &f.err) < 0);
	assert_null(m);
	sp_free(text);
	close_all(&f);
}

static void cut_short(void **state)
{
	struct fixture f = { 0 };
	struct backup_manifest *m = NULL;
	char *text;
	size_t len;

	open_source(&f);
	assert_int_equal(store_folder_mem(&f.repo), 0);
	open_set(&f);
	change(&f, 0, 5000, 1);
	add_point(&f);
	assert_int_equal(backup_file_read(f.repo, "000001.json", SP_MIB(1), &text, &len, NULL), 0);
	for (size_t n = 0; n < len; n++)
		assert_true(backup_manifest_decode(text, n, NULL, &m, NULL) < 0);
	sp_free(text);
	close_all(&f);
}

int main(void)
{
	struct CMUnitTest tests[SP_ARRAY_SIZE(bads) + 4] = {
		{ "known changes", known_changes, NULL, NULL, NULL },
		{ "1000 flipped bits", every_flip, NULL, NULL, NULL },
		{ "power cuts", every_cut, NULL, NULL, NULL },
		{ "a manifest cut short anywhere", cut_short, NULL, NULL, NULL },
	};

	for (size_t i = 0; i < SP_ARRAY_SIZE(bads); i++)
		tests[i + 4] = (struct CMUnitTest){ bads[i].name, refused, NULL, NULL, (void *)(uintptr_t)&bads[i] };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
