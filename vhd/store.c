/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What all stores have in common: the checks at the seam, so that an implementation sees only ranges that make
 * sense, and the answers a store may leave to us.
 */
#include "vhd/store.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "vhd/store_int.h"

uint64_t store_iov_len(const struct iovec *iov, int iovcnt)
{
	uint64_t sum = 0;

	for (int i = 0; i < iovcnt; i++) {
		if (!sp_range_ok(sum, iov[i].iov_len, STORE_OFFSET_MAX))
			return UINT64_MAX;
		sum += iov[i].iov_len;
	}
	return sum;
}

void store_iov_advance(struct iovec **iov, int *iovcnt, size_t done)
{
	while (*iovcnt > 0 && done >= (*iov)->iov_len) {
		done -= (*iov)->iov_len;
		(*iov)++;
		(*iovcnt)--;
	}
	if (done > 0) {
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + done;
		(*iov)->iov_len -= done;
	}
}

/* 0: nothing to do; 1: go on; negative: refuse. */
static int check_range(struct store *s, uint64_t offset, uint64_t len, bool writes)
{
	if (!sp_range_ok(offset, len, STORE_OFFSET_MAX))
		return -EINVAL;
	if (writes && !s->writable)
		return -EROFS;
	return len > 0;
}

int store_readv(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	int r = check_range(s, offset, store_iov_len(iov, iovcnt), false);

	return r > 0 ? s->ops->readv(s, iov, iovcnt, offset) : r;
}

int store_writev(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	int r = check_range(s, offset, store_iov_len(iov, iovcnt), true);

	return r > 0 ? s->ops->writev(s, iov, iovcnt, offset) : r;
}

int store_read(struct store *s, void *buf, size_t len, uint64_t offset)
{
	struct iovec iov = { .iov_base = buf, .iov_len = len };

	return store_readv(s, &iov, 1, offset);
}

int store_write(struct store *s, const void *buf, size_t len, uint64_t offset)
{
	/* An iovec has no const form; writev() of every store leaves the bytes alone. */
	struct iovec iov = { .iov_base = (void *)(uintptr_t)buf, .iov_len = len };

	return store_writev(s, &iov, 1, offset);
}

int store_sync(struct store *s)
{
	/* A read-only store has written nothing, and a FUSE or network file may refuse the call. */
	return s->writable ? s->ops->sync(s) : 0;
}

int store_punch(struct store *s, uint64_t offset, uint64_t len)
{
	int r = check_range(s, offset, len, true);

	return r > 0 ? s->ops->punch(s, offset, len) : r;
}

int store_zero(struct store *s, uint64_t offset, uint64_t len)
{
	int r = check_range(s, offset, len, true);

	return r > 0 ? s->ops->zero(s, offset, len) : r;
}

int store_resize(struct store *s, uint64_t size)
{
	int r = check_range(s, size, 0, true);

	return r < 0 ? r : s->ops->resize(s, size);
}

/* A store that cannot tell has data everywhere and its one hole at the end. */
static int seek(struct store *s, uint64_t offset, bool hole, uint64_t *ret_offset)
{
	uint64_t size;
	int r = store_size(s, &size);

	if (r < 0)
		return r;
	if (offset >= size) {
		*ret_offset = size;
		return 0;
	}
	if (s->ops->seek)
		return s->ops->seek(s, offset, hole, ret_offset);
	*ret_offset = hole ? size : offset;
	return 0;
}

int store_seek_data(struct store *s, uint64_t offset, uint64_t *ret_offset)
{
	return seek(s, offset, false, ret_offset);
}

int store_seek_hole(struct store *s, uint64_t offset, uint64_t *ret_offset)
{
	return seek(s, offset, true, ret_offset);
}

int store_size(struct store *s, uint64_t *ret_size)
{
	return s->ops->size(s, ret_size);
}

int store_mtime(struct store *s, int64_t *ret_unix_seconds)
{
	return s->ops->mtime(s, ret_unix_seconds);
}

int store_stamp(struct store *s, struct store_stamp *ret_stamp)
{
	return s->ops->stamp ? s->ops->stamp(s, ret_stamp) : -ENOTSUP;
}

bool store_same(const struct store *a, const struct store *b)
{
	return a->id.dev == b->id.dev && a->id.ino == b->id.ino;
}

int store_relock(struct store *s, bool hold, struct sp_err *err)
{
	return s->ops->relock ? s->ops->relock(s, hold, err) : 0;
}

void store_close(struct store *s)
{
	if (s)
		s->ops->close(s);
}

int store_read_padded(struct store *s, void *buf, size_t len, uint64_t offset)
{
	uint64_t size, there;
	int r = store_size(s, &size);

	if (r < 0)
		return r;
	there = offset < size ? sp_min(len, size - offset) : 0;
	r = store_read(s, buf, there, offset);
	if (r < 0)
		return r;
	memset((uint8_t *)buf + there, 0, len - there);
	return 0;
}
