/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Replay in memory: a read-only store that shows a file as it will be once its log has been replayed. The file is not
 * touched. There is no descriptor to hand out, so all I/O passes here; dirty images are rare and short-lived.
 */
#include "vhd/vhdx_int.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"

struct overlay {
	struct store store;
	struct store *base;
	bool owns_base;
	uint64_t base_size;
	struct vhdx_plan plan;
};

static struct overlay *overlay_of(struct store *s)
{
	return (struct overlay *)s;
}

/* Index of the first extent that ends behind @offset. */
static size_t extent_from(const struct vhdx_plan *p, uint64_t offset)
{
	size_t lo = 0, hi = p->count;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (p->extent[mid].offset + p->extent[mid].len <= offset)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void patch(const struct vhdx_plan *p, uint8_t *buf, uint64_t offset, uint64_t len)
{
	for (size_t i = extent_from(p, offset); i < p->count && p->extent[i].offset < offset + len; i++) {
		const struct vhdx_extent *x = &p->extent[i];
		uint64_t from = sp_max(offset, x->offset), to = sp_min(offset + len, x->offset + x->len);

		if (x->data)
			memcpy(buf + (from - offset), x->data + (from - x->offset), to - from);
		else
			memset(buf + (from - offset), 0, to - from);
	}
}

static int read_part(struct overlay *o, uint8_t *buf, uint64_t len, uint64_t offset)
{
	uint64_t there = offset < o->base_size ? sp_min(len, o->base_size - offset) : 0;
	int r = store_read(o->base, buf, there, offset);

	if (r < 0)
		return r;
	memset(buf + there, 0, len - there);
	patch(&o->plan, buf, offset, len);
	return 0;
}

static int overlay_readv(struct store *s, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct overlay *o = overlay_of(s);

	for (int i = 0; i < iovcnt; i++) {
		int r;

		if (iov[i].iov_len == 0)
			continue;
		if (!sp_range_ok(offset, iov[i].iov_len, o->plan.file_size))
			return -ENODATA;
		r = read_part(o, iov[i].iov_base, iov[i].iov_len, offset);
		if (r < 0)
			return r;
		offset += iov[i].iov_len;
	}
	return 0;
}

/* The next page of the log, or what the file says. Zero stretches count as data where the file has some. */
static int overlay_seek(struct store *s, uint64_t offset, bool hole, uint64_t *ret_offset)
{
	struct overlay *o = overlay_of(s);
	uint64_t at = o->plan.file_size;
	int r;

	if (hole) {		/* cannot tell */
		*ret_offset = at;
		return 0;
	}
	if (offset < o->base_size) {
		uint64_t base_at;

		r = store_seek_data(o->base, offset, &base_at);
		if (r < 0)
			return r;
		if (base_at < o->base_size)
			at = base_at;
	}
	for (size_t i = extent_from(&o->plan, offset); i < o->plan.count && o->plan.extent[i].offset < at; i++) {
		if (o->plan.extent[i].data) {
			at = sp_max(offset, o->plan.extent[i].offset);
			break;
		}
	}
	*ret_offset = at;
	return 0;
}

static int overlay_size(struct store *s, uint64_t *ret_size)
{
	*ret_size = overlay_of(s)->plan.file_size;
	return 0;
}

static int overlay_mtime(struct store *s, int64_t *ret_unix_seconds)
{
	return store_mtime(overlay_of(s)->base, ret_unix_seconds);
}

static int overlay_stamp(struct store *s, struct store_stamp *ret)
{
	return store_stamp(overlay_of(s)->base, ret);
}

static int overlay_fd(struct store *s)
{
	return -1;
}

static int overlay_relock(struct store *s, bool hold, struct sp_err *err)
{
	return store_relock(overlay_of(s)->base, hold, err);
}

static void overlay_close(struct store *s)
{
	struct overlay *o = overlay_of(s);

	if (o->owns_base)
		store_close(o->base);
	vhdx_plan_fini(&o->plan);
	sp_free(o->store.name);
	sp_free(o);
}

/* Never writable, so the seam refuses every other operation. */
static const struct store_ops overlay_ops = {
	.name = "vhdx-overlay",
	.readv = overlay_readv,
	.seek = overlay_seek,
	.size = overlay_size,
	.mtime = overlay_mtime,
	.stamp = overlay_stamp,
	.fd = overlay_fd,
	.relock = overlay_relock,
	.close = overlay_close,
};

/**
 * vhdx_overlay_new - @base as it will be after @plan
 *
 * Any thread may read. Returns 0, -ENOMEM, or what learning the size failed with; on failure plan and base stay the
 * caller's.
 */
int vhdx_overlay_new(struct store *base, bool owns_base, struct vhdx_plan *plan, struct store **ret_store)
{
	struct overlay *o = sp_zalloc(sizeof(*o));
	int r;

	if (!o)
		return -ENOMEM;
	o->store.ops = &overlay_ops;
	o->store.name = sp_strdup(base->name);
	o->store.id = base->id;
	r = o->store.name ? store_size(base, &o->base_size) : -ENOMEM;
	if (r < 0) {
		sp_free(o->store.name);
		sp_free(o);
		return r;
	}
	o->base = base;
	o->owns_base = owns_base;
	o->plan = *plan;
	*plan = (struct vhdx_plan){ 0 };
	*ret_store = &o->store;
	return 0;
}
