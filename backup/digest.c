/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "backup/backup_int.h"
#include "base/alloc.h"
#include "base/bytes.h"
#include "base/env.h"
#include "base/seed.h"
#include "vhd/op_workers.h"

int backup_digests_init(struct backup_digests *d, uint64_t size)
{
	*d = (struct backup_digests){ .size = size, .count = sp_div_ceil(size, BACKUP_CHUNK) };
	d->sum = sp_calloc(d->count ? d->count : 1, sizeof(*d->sum));
	return d->sum ? 0 : -ENOMEM;
}

void backup_digests_fini(struct backup_digests *d)
{
	sp_free(d->sum);
	*d = (struct backup_digests){ 0 };
}

int backup_digests_copy(struct backup_digests *d, const struct backup_digests *from)
{
	if (from->count)
		memcpy(d->sum, from->sum, sp_min(d->count, from->count) * sizeof(*d->sum));
	return 0;
}

int backup_digest(const void *buf, size_t len, uint8_t ret[static 32])
{
	if (op_is_zero(buf, len)) {
		memset(ret, 0, 32);
		return 0;
	}
	return EVP_Digest(buf, len, ret, NULL, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
}

/* The size is part of it: two disks of zeros are different when their sizes are. */
int backup_digests_root(const struct backup_digests *d, uint8_t ret[static 32])
{
	EVP_MD_CTX *c = EVP_MD_CTX_new();
	le64_t size = le64_make(d->size);
	int ok;

	if (!c)
		return -ENOMEM;
	ok = EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1 && EVP_DigestUpdate(c, &size, sizeof(size)) == 1;
	for (uint64_t i = 0; ok && i < d->count; i++)
		ok = EVP_DigestUpdate(c, d->sum[i], sizeof(d->sum[i])) == 1;
	ok = ok && EVP_DigestFinal_ex(c, ret, NULL) == 1;
	EVP_MD_CTX_free(c);
	return ok ? 0 : -ENOMEM;
}

bool backup_sum_equal(const struct backup_digests *a, const struct backup_digests *b, uint64_t index)
{
	static const uint8_t zero[32];

	return memcmp(index < a->count ? a->sum[index] : zero, index < b->count ? b->sum[index] : zero, 32) == 0;
}

int backup_pace(struct backup_pace *p, uint64_t bytes, struct sp_job *job)
{
	uint64_t total, due, now;
	int r = 0;

	if (p->rate == 0)
		return 0;
	total = atomic_fetch_add(&p->done, bytes) + bytes;
	due = p->start_ns + (uint64_t)((double)total / (double)p->rate * 1e9);
	while (r == 0 && (now = sp_env_monotonic_ns()) < due) {
		struct timespec nap = { .tv_nsec = (long)sp_min(due - now, 50000000) };

		nanosleep(&nap, NULL);
		r = sp_job_advance(job, 0);	/* stays cancellable */
	}
	return r;
}

/* ---- a file --------------------------------------------------------------------------------------- */

struct digest_file {
	struct store *store;		/* the bytes of a file, or */
	struct vhd_disk *disk;		/* of a disk */
	const struct backup_digests *known;
	const uint8_t *is_known;
	struct backup_digests *out;
	struct backup_pace *pace;
	struct sp_job *job;
	uint64_t at;
};

static int file_next(void *arg, struct op_window *ret, struct sp_err *err)
{
	struct digest_file *d = arg;

	if (d->at >= d->out->size)
		return 0;
	ret->offset = d->at;
	ret->len = sp_min(d->out->size - d->at, OP_WINDOW);
	d->at += ret->len;
	return 1;
}

/* A hole reads zeros, which is what an untouched sum says. */
static bool in_hole(const struct digest_file *d, uint64_t offset, uint64_t len)
{
	struct vhd_range range;
	uint64_t data;

	if (d->disk)
		return vhd_disk_map(d->disk, offset, len, &range) == 0 && range.kind == VHD_RANGE_ZERO &&
		       range.len == len;
	return store_seek_data(d->store, offset, &data) == 0 && data >= offset + len;
}

static int digest_chunk(struct digest_file *d, struct op_worker *w, uint64_t index)
{
	uint64_t offset = index * BACKUP_CHUNK;
	size_t len = (size_t)sp_min(d->out->size - offset, BACKUP_CHUNK);
	int r;

	if (d->is_known && d->is_known[index]) {
		memcpy(d->out->sum[index], d->known->sum[index], 32);
		return 0;
	}
	if (in_hole(d, offset, len))
		return 0;
	r = d->disk ? vhd_disk_read(d->disk, w->buffer, len, offset) : store_read(d->store, w->buffer, len, offset);
	if (r < 0)
		return sp_err_set(&w->err, r, "cannot read %zu bytes at %#" PRIx64 ": %s", len, offset, strerror(-r));
	r = backup_digest(w->buffer, len, d->out->sum[index]);
	if (r == 0 && d->pace)
		r = backup_pace(d->pace, len, d->job);
	return r;
}

static int file_work(void *arg, struct op_worker *w, const struct op_window *win)
{
	struct digest_file *d = arg;
	int r = 0;

	for (uint64_t done = 0; r == 0 && done < win->len; done += BACKUP_CHUNK)
		r = digest_chunk(d, w, (win->offset + done) / BACKUP_CHUNK);
	return r;
}

int backup_digest_file(struct store *s, const struct backup_digests *known, const uint8_t *is_known, unsigned threads,
		       struct backup_pace *pace, struct sp_job *job, struct backup_digests *ret, struct sp_err *err)
{
	struct digest_file d = { .store = s, .known = known, .is_known = is_known, .out = ret, .pace = pace,
				 .job = job };
	struct op_task task = { .next = file_next, .work = file_work, .arg = &d, .threads = threads, .job = job };
	uint64_t size;
	int r = store_size(s, &size);

	if (r == 0)
		r = backup_digests_init(ret, size);
	if (r < 0)
		return sp_err_set(err, r, "%s: %s", s->name, strerror(-r));
	r = op_run(&task, err);
	if (r < 0)
		backup_digests_fini(ret);
	return r;
}

int backup_digest_disk(struct vhd_disk *disk, unsigned threads, struct backup_pace *pace, struct sp_job *job,
		       struct backup_digests *ret, struct sp_err *err)
{
	struct digest_file d = { .disk = disk, .out = ret, .pace = pace, .job = job };
	struct op_task task = { .next = file_next, .work = file_work, .arg = &d, .threads = threads, .job = job };
	int r = backup_digests_init(ret, vhd_disk_size(disk));

	if (r < 0)
		return sp_err_set(err, r, "out of memory");
	r = op_run(&task, err);
	if (r < 0)
		backup_digests_fini(ret);
	return r;
}

bool backup_digests_differ(const struct backup_digests *a, const struct backup_digests *b, uint64_t *ret_first,
			   uint64_t *ret_count)
{
	uint64_t n = sp_min(a->count, b->count);

	*ret_first = *ret_count = 0;
	for (uint64_t i = 0; i < n; i++) {
		if (backup_sum_equal(a, b, i))
			continue;
		if ((*ret_count)++ == 0)
			*ret_first = i;
	}
	return *ret_count > 0;
}
