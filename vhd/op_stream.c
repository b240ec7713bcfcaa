/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A conversion into a pipe: each byte of the target is known when its turn comes.
 *
 * The format creates an empty image in sparse memory, so its metadata is made by the code that makes all images. For a
 * dynamic target the blocks that will exist are found first (by the map, and by reading when zeros inside allocated
 * data are looked for), they get places in ascending order, and their entries go into the BAT in memory. Then the
 * file is emitted from front to end:
 *
 *	fixed:		metadata before the data | the disk | metadata behind it
 *	dynamic:	metadata | (sector bitmap, data) of each block | footer
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bitmap.h"
#include "base/bytes.h"
#include "vhd/op_workers.h"
#include "vhd/ops_int.h"
#include "vhd/vhd1_int.h"
#include "vhd/vhdx_int.h"

struct stream {
	struct vhd_disk *source;
	uint64_t size;			/* of the target's disk, >= the source's */
	int fd;
	uint8_t *buf, *zeros;		/* OP_WINDOW bytes each */
	struct sp_job *job;
	struct sp_err *err;

	struct vhd_image *image;	/* the empty target, in memory */
	uint64_t image_len;		/* of its file */

	/* dynamic */
	uint64_t block_size, blocks;
	uint64_t first, stride;		/* slots of blocks in the file: bitmap, data, then a gap to the next one */
	uint64_t bitmap, gap;
	struct op_walk walk;
	bool detect_zeroes;
	uint8_t *used;			/* a bit per block; used_lock */
	pthread_mutex_t used_lock;
};

/* ---- the pipe ------------------------------------------------------------------------------------ */

static int wait_writable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };

	return poll(&p, 1, 200) < 0 && errno != EINTR ? -errno : 0;
}

static int emit(struct stream *s, const uint8_t *buf, size_t len)
{
	while (len > 0) {
		ssize_t n = write(s->fd, buf, len);
		int r = 0;

		if (n > 0) {
			buf += n;
			len -= (size_t)n;
		} else if (n < 0 && errno == EAGAIN) {
			r = wait_writable(s->fd);
		} else if (n < 0 && errno != EINTR) {
			r = -errno;
		}
		if (r < 0)
			return sp_err_set(s->err, r, "cannot write to the stream: %s", strerror(-r));
		r = sp_job_advance(s->job, 0);		/* a reader that stalls must not make us deaf */
		if (r < 0)
			return sp_err_set(s->err, r, "canceled");
	}
	return 0;
}

static int emit_zeros(struct stream *s, uint64_t len)
{
	int r = 0;

	while (r == 0 && len > 0) {
		size_t n = (size_t)sp_min(len, OP_WINDOW);

		r = emit(s, s->zeros, n);
		len -= n;
	}
	return r;
}

/* [from, to) of the empty image's file. */
static int emit_metadata(struct stream *s, uint64_t from, uint64_t to)
{
	int r = 0;

	while (r == 0 && from < to) {
		size_t n = (size_t)sp_min(to - from, OP_WINDOW);

		r = store_read(s->image->store, s->buf, n, from);
		if (r < 0)
			return sp_err_set(s->err, r, "cannot read the metadata prepared: %s", strerror(-r));
		r = emit(s, s->buf, n);
		from += n;
	}
	return r;
}

static int emit_data(struct stream *s, uint64_t offset, size_t len)
{
	int r = vhd_disk_read(s->source, s->buf, len, offset);

	if (r < 0)
		return sp_err_set(s->err, r, "cannot read %zu bytes at %#" PRIx64 " of the source: %s", len, offset,
				  strerror(-r));
	return emit(s, s->buf, len);
}

/* One stretch of the source in one state, or of what the target has beyond the source's end. */
static int emit_stretch(struct stream *s, uint64_t offset, uint64_t len, uint64_t *ret_len)
{
	uint64_t end = vhd_disk_size(s->source);
	struct vhd_range range;
	int r;

	if (offset >= end) {
		*ret_len = len;
		return emit_zeros(s, len);
	}
	r = op_map_joined(s->source, offset, sp_min(sp_min(len, end - offset), OP_WINDOW), &range);
	if (r < 0)
		return sp_err_set(s->err, r, "cannot look up the bytes at %#" PRIx64 ": %s", offset, strerror(-r));
	*ret_len = range.len;
	return range.kind == VHD_RANGE_ZERO ? emit_zeros(s, range.len) : emit_data(s, offset, (size_t)range.len);
}

static int emit_disk(struct stream *s, uint64_t offset, uint64_t len)
{
	uint64_t n = 0;
	int r = 0;

	for (uint64_t done = 0; r == 0 && done < len; done += n) {
		r = emit_stretch(s, offset + done, len - done, &n);
		if (r == 0)
			r = sp_job_advance(s->job, n);
	}
	return r;
}

/* ---- fixed --------------------------------------------------------------------------------------- */

static int stream_fixed(struct stream *s)
{
	uint64_t front = 0;	/* where the disk begins; creating lays its blocks out in one piece */
	int r = 0;

	if (s->image->format->id == VHD_FORMAT_VHDX) {
		r = vhdx_bat_get(vhdx_of(s->image), 0, &front);
		front = VHDX_BAT_OFFSET(front);
	}
	if (r < 0)
		return sp_err_set(s->err, r, "cannot read the block allocation table prepared: %s", strerror(-r));
	r = emit_metadata(s, 0, front);
	if (r == 0)
		r = emit_disk(s, 0, s->size);
	return r < 0 ? r : emit_metadata(s, front + s->size, s->image_len);
}

static int stream_raw(struct stream *s)
{
	return emit_disk(s, 0, s->size);
}

/* ---- dynamic: which blocks, and where ------------------------------------------------------------ */

static int used_next(void *arg, struct op_window *ret, struct sp_err *err)
{
	struct stream *s = arg;

	return op_walk_next(&s->walk, ret, err);
}

static void mark_used(struct stream *s, uint64_t offset, uint64_t len)
{
	uint64_t from = offset / s->block_size, to = (offset + len - 1) / s->block_size;

	pthread_mutex_lock(&s->used_lock);
	sp_bits_set(s->used, from, to - from + 1, false);
	pthread_mutex_unlock(&s->used_lock);
}

static int used_stretch(struct stream *s, struct op_worker *w, uint64_t offset, size_t len)
{
	int r;

	if (!s->detect_zeroes) {
		mark_used(s, offset, len);
		return 0;
	}
	r = vhd_disk_read(s->source, w->buffer, len, offset);
	if (r < 0)
		return sp_err_set(&w->err, r, "cannot read %zu bytes at %#" PRIx64 " of the source: %s", len, offset,
				  strerror(-r));
	for (size_t done = 0, run; done < len; done += run) {
		bool zero;

		run = op_zero_run(w->buffer + done, offset + done, len - done, &zero);
		if (!zero)
			mark_used(s, offset + done, run);
	}
	return 0;
}

static int used_work(void *arg, struct op_worker *w, const struct op_window *win)
{
	struct stream *s = arg;
	struct vhd_range range;
	int r = 0;

	for (uint64_t done = 0; r == 0 && done < win->len; done += range.len) {
		r = op_map_joined(s->source, win->offset + done, win->len - done, &range);
		if (r < 0)
			return sp_err_set(&w->err, r, "cannot look up the bytes at %#" PRIx64 ": %s",
					  win->offset + done, strerror(-r));
		if (range.kind == VHD_RANGE_DATA)
			r = used_stretch(s, w, range.offset, (size_t)range.len);
	}
	return r;
}

static int find_used(struct stream *s, const struct vhd_convert_opts *o)
{
	struct op_task task = { .next = used_next, .work = used_work, .arg = s, .threads = o->threads };

	s->used = sp_calloc(1, sp_div_ceil(s->blocks, 8));
	if (!s->used)
		return sp_err_set(s->err, -ENOMEM, "out of memory");
	s->walk = (struct op_walk){
		.disk = s->source, .end = vhd_disk_size(s->source), .want = OP_DATA,
		.refuse = OP_BELOW | (o->source.orphan == VHD_ORPHAN_ZERO ? 0 : OP_UNKNOWN),
	};
	return op_run(&task, s->err);
}

static int bat_entry(struct stream *s, uint64_t block, uint64_t slot)
{
	struct store *store = s->image->store;

	if (s->image->format->id == VHD_FORMAT_VHDX) {
		struct vhdx *x = vhdx_of(s->image);
		le64_t e = le64_make(slot | VHDX_FULLY_PRESENT);

		return store_write(store, &e, sizeof(e), x->bat_offset + 8 * vhdx_payload_index(&x->geo, block));
	} else {
		uint64_t sector = slot / VHD1_SECTOR;
		be32_t e = be32_make((uint32_t)sector);

		if (sector > VHD1_LAST_SECTOR)
			return -EFBIG;
		return store_write(store, &e, sizeof(e), vhd1_of(s->image)->shape.bat_offset + 4 * block);
	}
}

static int fill_bat(struct stream *s)
{
	uint64_t slot = s->first;
	int r = 0;

	for (uint64_t b = 0; r == 0 && b < s->blocks; b++) {
		if (!sp_bit_get(s->used, b, false))
			continue;
		r = bat_entry(s, b, slot);
		slot += s->stride;
	}
	return r < 0 ? sp_err_set(s->err, r, "cannot prepare the block allocation table: %s", strerror(-r)) : 0;
}

/* VHDX: blocks stand at whole MiB. VHD: the data of each block is aligned to 4 KiB, its bitmap right before it. */
static void plan_slots(struct stream *s)
{
	s->block_size = s->image->block_size;
	s->blocks = sp_div_ceil(s->size, s->block_size);
	if (s->image->format->id == VHD_FORMAT_VHDX) {
		s->first = sp_align_up(s->image_len, VHDX_MIB);
		s->stride = s->block_size;
	} else {
		s->bitmap = (uint64_t)vhd1_of(s->image)->shape.bitmap_sectors * VHD1_SECTOR;
		/* The footer moves to the end. */
		s->first = sp_align_up(s->image_len - VHD1_SECTOR + s->bitmap, OP_GRAIN) - s->bitmap;
		s->stride = sp_align_up(s->bitmap, OP_GRAIN) + sp_align_up(s->block_size, OP_GRAIN);
	}
	s->gap = s->stride - s->bitmap - s->block_size;
}

/* ---- dynamic: emit ------------------------------------------------------------------------------- */

static int emit_bitmap(struct stream *s)
{
	int r = 0;

	for (uint64_t done = 0; r == 0 && done < s->bitmap;) {
		size_t n = (size_t)sp_min(s->bitmap - done, OP_WINDOW);

		memset(s->buf, 0xff, n);
		r = emit(s, s->buf, n);
		done += n;
	}
	return r;
}

static int emit_block(struct stream *s, uint64_t block, bool first)
{
	uint64_t offset = block * s->block_size, inside = sp_min(s->block_size, s->size - offset);
	int r = first ? 0 : emit_zeros(s, s->gap);

	if (r == 0)
		r = emit_bitmap(s);
	if (r == 0)
		r = emit_disk(s, offset, inside);
	return r < 0 ? r : emit_zeros(s, s->block_size - inside);
}

static int emit_blocks(struct stream *s)
{
	bool first = true;
	int r = 0;

	for (uint64_t b = 0; r == 0 && b < s->blocks; b++) {
		if (sp_bit_get(s->used, b, false)) {
			r = emit_block(s, b, first);
			first = false;
		} else {
			r = sp_job_advance(s->job, sp_min(s->block_size, s->size - b * s->block_size));
		}
	}
	return r;
}

static int stream_dynamic(struct stream *s, const struct vhd_convert_opts *o)
{
	bool vhd = s->image->format->id == VHD_FORMAT_VHD;
	uint64_t head;
	int r;

	plan_slots(s);
	head = vhd ? s->image_len - VHD1_SECTOR : s->image_len;
	r = find_used(s, o);
	if (r == 0)
		r = fill_bat(s);
	if (r == 0)
		r = emit_metadata(s, 0, head);
	if (r == 0)
		r = emit_zeros(s, s->first - head);
	if (r == 0)
		r = emit_blocks(s);
	return r == 0 && vhd ? emit_metadata(s, head, s->image_len) : r;
}

/* ---- all ----------------------------------------------------------------------------------------- */

/* The empty target in memory. Raw has no metadata and needs none. */
static int make_image(struct stream *s, enum vhd_format_id id, const struct vhd_format_create *c)
{
	const struct vhd_format *format = vhd_format_by_id(id);
	struct store *store;
	int r;

	if (id == VHD_FORMAT_RAW)
		return 0;
	r = store_mem_new("stream", 0, 0, &store);
	if (r < 0)
		return sp_err_set(s->err, r, "out of memory");
	r = format->create(store, c, s->err);
	if (r == 0)
		r = store_size(store, &s->image_len);
	if (r < 0) {
		store_close(store);
		return r;
	}
	return vhd_image_open(store, "stream", format, 0, &s->image, s->err);
}

static int stream_run(struct stream *s, const struct vhd_convert_opts *o)
{
	struct vhd_format_create c;
	int r = op_convert_params(s->source, &o->target, &c, s->err);

	if (r < 0)
		return r;
	c.preallocate = false;		/* concerns the host's file, of which we know nothing */
	s->size = c.size;
	s->buf = sp_alloc_aligned(OP_GRAIN, OP_WINDOW);
	s->zeros = sp_zalloc(OP_WINDOW);
	if (!s->buf || !s->zeros)
		return sp_err_set(s->err, -ENOMEM, "out of memory");
	r = make_image(s, o->target.format, &c);
	if (r < 0)
		return r;
	sp_job_start(s->job, s->size);
	if (!s->image)
		return stream_raw(s);
	return c.kind == VHD_KIND_FIXED ? stream_fixed(s) : stream_dynamic(s, o);
}

int op_stream_disk(struct vhd_disk *source, int fd, const struct vhd_convert_opts *o, struct sp_job *job,
		   struct sp_err *err)
{
	struct stream s = { .source = source, .fd = fd, .job = job, .err = err, .detect_zeroes = o->detect_zeroes,
			    .used_lock = PTHREAD_MUTEX_INITIALIZER };
	int r;

	if (o->target.format == VHD_FORMAT_AUTO)
		return sp_err_set(err, -EINVAL, "name the format of the target");
	r = stream_run(&s, o);
	vhd_image_close(s.image, true);
	sp_free(s.used);
	sp_free(s.buf);
	sp_free(s.zeros);
	pthread_mutex_destroy(&s.used_lock);
	if (r == 0)
		sp_job_finish(job);
	return r;
}

int vhd_convert_stream(const char *source, int fd, const struct vhd_convert_opts *o, struct sp_job *job,
		       struct sp_err *err)
{
	struct vhd_disk *d;
	int r = vhd_disk_open(source, &o->source, &d, err);

	if (r < 0)
		return r;
	r = op_stream_disk(d, fd, o, job, err);
	vhd_disk_close(d, NULL);
	return r;
}
