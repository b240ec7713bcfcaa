/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SHA-256 of a disk. Digests of single MiB are independent; the digest of the whole is one long sequence. So each
 * thread reads a window once, digests its MiB on its own, then waits for its turn to feed the same bytes to the long
 * digest: while one thread is in the sequence the others do everything else.
 */
#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "vhd/op_workers.h"
#include "vhd/ops_int.h"

#define ZERO_STRIDE SP_MIB(64)		/* zeros are handed out in longer windows */

struct hash {
	struct vhd_disk *disk;
	struct vhd_hash *out;
	uint64_t offset;		/* next window; pool's lock */
	uint8_t zero_digest[32];	/* of one MiB of zeros */
	uint8_t *zeros;			/* one MiB of them */

	EVP_MD_CTX *whole;		/* NULL: not wanted */
	pthread_mutex_t turn_lock;
	pthread_cond_t turn_cond;
	uint64_t turn;			/* offset that the long digest has reached; turn_lock */
	bool failed;			/* turn_lock */
};

static int digest(const void *buf, size_t len, uint8_t ret[static 32])
{
	return EVP_Digest(buf, len, ret, NULL, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
}

/* A window is either whole MiB of zeros, or up to OP_WINDOW of anything. */
static int hash_next(void *arg, struct op_window *ret, struct sp_err *err)
{
	struct hash *h = arg;
	uint64_t left = h->out->size - h->offset;
	struct vhd_range range;
	int r;

	if (left == 0)
		return 0;
	r = op_map_joined(h->disk, h->offset, sp_min(left, ZERO_STRIDE), &range);
	if (r < 0)
		return sp_err_set(err, r, "cannot look up the bytes at %#" PRIx64 ": %s", h->offset, strerror(-r));
	ret->offset = h->offset;
	if (range.kind == VHD_RANGE_ZERO && range.len >= VHD_HASH_CHUNK)
		ret->len = sp_align_down(range.len, VHD_HASH_CHUNK);
	else
		ret->len = sp_min(left, range.kind == VHD_RANGE_ZERO ? VHD_HASH_CHUNK : OP_WINDOW);
	h->offset += ret->len;
	return 1;
}

static void hash_failed(void *arg)
{
	struct hash *h = arg;

	pthread_mutex_lock(&h->turn_lock);
	h->failed = true;
	pthread_cond_broadcast(&h->turn_cond);
	pthread_mutex_unlock(&h->turn_lock);
}

static int turn_wait(struct hash *h, uint64_t offset)
{
	bool failed;

	pthread_mutex_lock(&h->turn_lock);
	while (h->turn != offset && !h->failed)
		pthread_cond_wait(&h->turn_cond, &h->turn_lock);
	failed = h->failed;
	pthread_mutex_unlock(&h->turn_lock);
	return failed ? -ECANCELED : 0;		/* the one who failed first tells the story */
}

static void turn_pass(struct hash *h, uint64_t offset)
{
	pthread_mutex_lock(&h->turn_lock);
	h->turn = offset;
	pthread_cond_broadcast(&h->turn_cond);
	pthread_mutex_unlock(&h->turn_lock);
}

/* @buf: the window's bytes; NULL: zeros, whole MiB. */
static int feed(struct hash *h, const uint8_t *buf, const struct op_window *win)
{
	int r = turn_wait(h, win->offset);

	if (r < 0)
		return r;
	for (uint64_t done = 0; done < win->len; done += VHD_HASH_CHUNK) {
		size_t n = (size_t)sp_min(win->len - done, VHD_HASH_CHUNK);

		if (EVP_DigestUpdate(h->whole, buf ? buf + done : h->zeros, n) != 1)
			return -ENOMEM;
	}
	turn_pass(h, win->offset + win->len);
	return 0;
}

static int hash_work(void *arg, struct op_worker *w, const struct op_window *win)
{
	struct hash *h = arg;
	struct vhd_range range;
	const uint8_t *buf = NULL;
	int r = vhd_disk_map(h->disk, win->offset, win->len, &range);

	if (win->len > OP_WINDOW || (r == 0 && range.kind == VHD_RANGE_ZERO && range.len == win->len &&
				     win->len % VHD_HASH_CHUNK == 0)) {
		for (uint64_t done = 0; done < win->len; done += VHD_HASH_CHUNK)
			memcpy(h->out->chunk[(win->offset + done) / VHD_HASH_CHUNK], h->zero_digest, 32);
	} else {
		buf = w->buffer;
		r = vhd_disk_read(h->disk, w->buffer, win->len, win->offset);
		if (r < 0)
			return sp_err_set(&w->err, r, "cannot read %" PRIu64 " bytes at %#" PRIx64 ": %s", win->len,
					  win->offset, strerror(-r));
		for (uint64_t done = 0; r == 0 && done < win->len; done += VHD_HASH_CHUNK)
			r = digest(buf + done, (size_t)sp_min(win->len - done, VHD_HASH_CHUNK),
				   h->out->chunk[(win->offset + done) / VHD_HASH_CHUNK]);
	}
	if (r == 0 && h->whole)
		r = feed(h, buf, win);
	return r;
}

static int hash_prepare(struct hash *h, bool whole)
{
	struct vhd_hash *out = h->out;

	h->zeros = sp_zalloc(VHD_HASH_CHUNK);
	out->chunk = sp_calloc(sp_max(out->chunks, 1), sizeof(*out->chunk));
	if (!h->zeros || !out->chunk)
		return -ENOMEM;
	if (whole) {
		h->whole = EVP_MD_CTX_new();
		if (!h->whole || EVP_DigestInit_ex(h->whole, EVP_sha256(), NULL) != 1)
			return -ENOMEM;
	}
	return digest(h->zeros, VHD_HASH_CHUNK, h->zero_digest);
}

int op_hash(struct vhd_disk *d, uint64_t size, bool whole, unsigned threads, struct sp_job *job, struct vhd_hash *ret,
	    struct sp_err *err)
{
	struct vhd_hash out = { .size = size, .chunks = sp_div_ceil(size, VHD_HASH_CHUNK) };
	struct hash h = { .disk = d, .out = &out, .turn_lock = PTHREAD_MUTEX_INITIALIZER,
			  .turn_cond = PTHREAD_COND_INITIALIZER };
	struct op_task task = { .next = hash_next, .work = hash_work, .failed = hash_failed, .arg = &h,
				.threads = threads, .job = job };
	int r = hash_prepare(&h, whole);

	if (r < 0)
		sp_err_set(err, r, "out of memory");
	else
		r = op_run(&task, err);
	if (r == 0 && whole && EVP_DigestFinal_ex(h.whole, out.disk, NULL) != 1)
		r = sp_err_set(err, -ENOMEM, "out of memory");
	EVP_MD_CTX_free(h.whole);
	sp_free(h.zeros);
	pthread_cond_destroy(&h.turn_cond);
	pthread_mutex_destroy(&h.turn_lock);
	if (r < 0)
		vhd_hash_fini(&out);
	else
		*ret = out;
	return r;
}

int vhd_hash_disk(struct vhd_disk *d, unsigned threads, struct sp_job *job, struct vhd_hash *ret, struct sp_err *err)
{
	int r;

	sp_job_start(job, vhd_disk_size(d));
	r = op_hash(d, vhd_disk_size(d), true, threads, job, ret, err);
	if (r == 0)
		sp_job_finish(job);
	return r;
}

void vhd_hash_fini(struct vhd_hash *h)
{
	sp_free(h->chunk);
	*h = (struct vhd_hash){ 0 };
}
