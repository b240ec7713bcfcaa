/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VHD_IOV_H
#define SPINDLE_VHD_IOV_H
/*
 * A position in a caller's vector, and pieces cut from it. The vector itself is never changed.
 */
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

struct iov_cursor {
	const struct iovec *iov;
	int iovcnt;
	size_t done;		/* of iov[0] */
};

/* The rest of the current element, at most @len; 0 at the end of the vector. Moves behind it. */
static inline size_t iov_next(struct iov_cursor *c, uint64_t len, void **ret_base)
{
	while (c->iovcnt > 0) {
		size_t left = c->iov->iov_len - c->done, piece = left < len ? left : (size_t)len;

		*ret_base = (char *)c->iov->iov_base + c->done;
		c->done += piece;
		if (piece == left) {
			c->iov++;
			c->iovcnt--;
			c->done = 0;
		}
		if (piece > 0)
			return piece;
		if (len == 0)
			return 0;
	}
	return 0;
}

/* Cuts up to @len bytes in at most @max pieces into @out; returns the bytes. */
static inline uint64_t iov_slice(struct iov_cursor *c, uint64_t len, struct iovec *out, int max, int *ret_count)
{
	uint64_t got = 0;
	int n = 0;

	while (got < len && n < max) {
		size_t piece = iov_next(c, len - got, &out[n].iov_base);

		if (piece == 0)
			break;
		out[n++].iov_len = piece;
		got += piece;
	}
	*ret_count = n;
	return got;
}

/* How many bytes the next @max pieces hold, at most @len. */
static inline uint64_t iov_reach(struct iov_cursor c, uint64_t len, int max)
{
	uint64_t got = 0;
	void *base;

	for (int n = 0; n < max && got < len; n++) {
		size_t piece = iov_next(&c, len - got, &base);

		if (piece == 0)
			break;
		got += piece;
	}
	return got;
}

static inline void iov_zero(struct iov_cursor *c, uint64_t len)
{
	void *base;
	size_t piece;

	while (len > 0 && (piece = iov_next(c, len, &base)) > 0) {
		memset(base, 0, piece);
		len -= piece;
	}
}

#endif
