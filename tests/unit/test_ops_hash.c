/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Digests against OpenSSL on the flat model; comparing with the lowest difference known.
 */
#include "tests/unit/ops_fixture.h"

#include <errno.h>
#include <openssl/evp.h>

#define SIZE (SP_MIB(9) + 512)

/* ---- hash ---------------------------------------------------------------------------------------- */

struct hash_case {
	const char *name;
	enum vhd_format_id format;
	uint64_t size;
	unsigned threads;
	uint64_t at[3], len[3];		/* what is written */
};

static const struct hash_case hashes[] = {
	{ "empty, one thread", VHD_FORMAT_VHDX, SIZE, 1 },
	{ "empty, four threads", VHD_FORMAT_VHDX, SIZE, 4 },
	{ "first and last byte", VHD_FORMAT_VHDX, SIZE, 2, { 0, SIZE - 1 }, { 1, 1 } },
	{ "across MiB", VHD_FORMAT_VHDX, SIZE, 3, { SP_MIB(1) - 512, SP_MIB(5) - 7 }, { 1024, SP_MIB(2) } },
	{ "all of it", VHD_FORMAT_VHDX, SIZE, 4, { 0 }, { SIZE } },
	{ "vhd", VHD_FORMAT_VHD, SIZE, 2, { 100, SP_MIB(8) }, { 5000, 4096 } },
	{ "raw, odd size", VHD_FORMAT_RAW, SP_MIB(3) + 1, 4, { SP_MIB(3) }, { 1 } },
	{ "raw, shorter than a MiB", VHD_FORMAT_RAW, 12345, 4, { 77 }, { 1 } },
	{ "raw, zeros after data", VHD_FORMAT_RAW, SP_MIB(70), 4, { 0 }, { 10 } },
};

static void sha256(const uint8_t *buf, size_t len, uint8_t ret[static 32])
{
	assert_int_equal(EVP_Digest(buf, len, ret, NULL, EVP_sha256(), NULL), 1);
}

static void hash_row(void **state)
{
	const struct hash_case *c = *state;
	struct store_folder *f = folder_new();
	struct vhd_hash h = { 0 };
	struct sp_err err = { 0 };
	struct vhd_disk *d;
	uint8_t want[32];
	struct model m;

	model_init(&m, sp_align_up(c->size, 512));	/* a raw file's last sector is continued with zeros */
	make_image(f, "d", c->format, VHD_KIND_DYNAMIC, c->size, c->format == VHD_FORMAT_RAW ? 0 : 1 << 20, NULL);
	for (unsigned i = 0; i < 3 && c->len[i]; i++)
		put(f, "d", c->format, &m, c->at[i], c->len[i], i + 1);
	d = open_disk(f, "d", c->format, 0);
	assert_done(vhd_hash_disk(d, c->threads, NULL, &h, &err), &err);
	sha256(m.bytes, m.size, want);
	assert_memory_equal(h.disk, want, 32);
	assert_int_equal(h.size, m.size);
	assert_int_equal(h.chunks, sp_div_ceil(m.size, VHD_HASH_CHUNK));
	for (uint64_t i = 0; i < h.chunks; i++) {
		uint64_t at = i * VHD_HASH_CHUNK;

		sha256(m.bytes + at, (size_t)sp_min(VHD_HASH_CHUNK, m.size - at), want);
		assert_memory_equal(h.chunk[i], want, 32);
	}
	vhd_hash_fini(&h);
	vhd_disk_close(d, NULL);
	store_folder_close(f);
	model_fini(&m);
}

static void hash_cancels(void **state)
{
	struct store_folder *f = folder_new();
	struct sp_job job = SP_JOB_INIT;
	struct sp_err err = { 0 };
	struct vhd_hash h;
	struct vhd_disk *d;

	make_image(f, "d", VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, SP_GIB(1), 0, NULL);
	d = open_disk(f, "d", VHD_FORMAT_VHDX, 0);
	atomic_store(&job.cancel, true);
	assert_int_equal(vhd_hash_disk(d, 4, &job, &h, &err), -ECANCELED);
	vhd_disk_close(d, NULL);
	store_folder_close(f);
}

/* ---- compare ------------------------------------------------------------------------------------- */

struct compare_case {
	const char *name;
	uint64_t size_b;
	bool strict;
	uint64_t at[3];		/* single bytes that differ in b; 0: none */
	bool differs;
	uint64_t offset;
	bool size_differs;
};

static const struct compare_case compares[] = {
	{ "equal", SIZE, true, { 0 }, false, 0, false },
	{ "last byte", SIZE, true, { SIZE - 1 }, true, SIZE - 1, false },
	{ "the lowest of three wins", SIZE, true, { SP_MIB(8), SP_MIB(6) + 5, SP_MIB(6) + 4 }, true, SP_MIB(6) + 4,
	  false },
	{ "inside a hole of the other", SIZE, false, { SP_MIB(7) + 3 }, true, SP_MIB(7) + 3, false },
	{ "longer with zeros", SIZE + 512, false, { 0 }, false, 0, true },
	{ "longer with zeros, strict", SIZE + 512, true, { 0 }, true, SIZE, true },
	{ "longer with data", SIZE + 1024, false, { SIZE + 600 }, true, SIZE + 600, true },
	{ "longer, strict, but differs before", SIZE + 512, true, { 9 }, true, 9, true },
};

static void compare_once(const struct compare_case *c, struct vhd_disk *a, struct vhd_disk *b, unsigned threads)
{
	struct vhd_difference diff = { 0 };
	struct sp_err err = { 0 };

	assert_done(vhd_compare(a, b, c->strict, threads, NULL, &diff, &err), &err);
	assert_int_equal(diff.differs, c->differs);
	assert_int_equal(diff.offset, c->offset);
	assert_int_equal(diff.size_differs, c->size_differs);
}

static void compare_row(void **state)
{
	const struct compare_case *c = *state;
	struct store_folder *f = folder_new();
	struct model m, other;
	struct vhd_disk *a, *b;

	model_init(&m, SIZE);
	model_init(&other, c->size_b);
	make_image(f, "a", VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, SIZE, 1 << 20, NULL);
	make_image(f, "b", VHD_FORMAT_VHD, VHD_KIND_DYNAMIC, c->size_b, 0, NULL);
	put(f, "a", VHD_FORMAT_VHDX, &m, 4096, SP_MIB(3), 1);
	put(f, "b", VHD_FORMAT_VHD, &other, 4096, SP_MIB(3), 1);
	for (unsigned i = 0; i < 3 && c->at[i]; i++)
		put(f, "b", VHD_FORMAT_VHD, &other, c->at[i], 1, 9);
	a = open_disk(f, "a", VHD_FORMAT_VHDX, 0);
	b = open_disk(f, "b", VHD_FORMAT_VHD, 0);
	for (unsigned threads = 1; threads <= 4; threads++) {
		compare_once(c, a, b, threads);
		compare_once(c, b, a, threads);
	}
	vhd_disk_close(a, NULL);
	vhd_disk_close(b, NULL);
	store_folder_close(f);
	model_fini(&m);
	model_fini(&other);
}

/* Two children of one parent: what they share is equal without being read. */
static void compare_siblings(void **state)
{
	struct store_folder *f = folder_new();
	struct vhd_difference diff;
	struct sp_err err = { 0 };
	struct vhd_disk *a, *b;
	struct model m, n;

	model_init(&m, SIZE);
	make_image(f, "base", VHD_FORMAT_VHDX, VHD_KIND_DYNAMIC, SIZE, 1 << 20, NULL);
	put(f, "base", VHD_FORMAT_VHDX, &m, 0, SIZE, 1);
	model_copy(&n, &m);
	make_image(f, "a", VHD_FORMAT_VHDX, VHD_KIND_DIFFERENCING, SIZE, 0, "base");
	make_image(f, "b", VHD_FORMAT_VHDX, VHD_KIND_DIFFERENCING, SIZE, 0, "base");
	put(f, "b", VHD_FORMAT_VHDX, &n, SP_MIB(5) + 512, 512, 2);
	a = open_disk(f, "a", VHD_FORMAT_VHDX, 0);
	b = open_disk(f, "b", VHD_FORMAT_VHDX, 0);
	assert_done(vhd_compare(a, b, true, 2, NULL, &diff, &err), &err);
	assert_true(diff.differs);
	assert_int_equal(diff.offset, SP_MIB(5) + 512);
	vhd_disk_close(a, NULL);
	vhd_disk_close(b, NULL);
	store_folder_close(f);
	model_fini(&m);
	model_fini(&n);
}

int main(void)
{
	const struct CMUnitTest others[] = {
		cmocka_unit_test(hash_cancels), cmocka_unit_test(compare_siblings),
	};

	return ROWS_RUN(hashes, hash_row) + ROWS_RUN(compares, compare_row) +
	       cmocka_run_group_tests(others, NULL, NULL);
}
