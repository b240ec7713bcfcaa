/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the active sequence of a log amounts to: for each byte it touches, the last word about it. Replay in place
 * and replay in memory both work from this plan, so they cannot differ. [MS-VHDX] 2.3.3; checks X8 to X10.
 *
 * The plan is made of disjoint stretches, so however often a hostile log zeroes the same terabyte, the work is bounded
 * by the size of the file.
 */
#include "vhd/vhdx_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/seed.h"
#include "vhd/vhdx_layout.h"

/* A sequence has a page per data descriptor in a ring of at most 1 GiB; only zero descriptors could be more. */
#define OPS_MAX (1u << 20)
/* A descriptor may write past LastFileOffset: the file had been longer. How much longer is our bound. */
#define TARGET_SLACK SP_GIB(1)
#define NONE UINT32_MAX

/* One descriptor, in the order of replay: the later one wins. */
struct op {
	uint64_t offset, len;
	const uint8_t *data;		/* NULL: zeros */
};

struct builder {
	const struct vhdx_header *h;
	const uint8_t *log;
	uint64_t limit;			/* no target reaches past it */
	struct op *op;
	uint32_t ops;
	uint8_t *pages;
	uint64_t pages_used;
};

/* ---- descriptors --------------------------------------------------------------------------------- */

static const uint8_t *ring_sector(const struct builder *b, const struct vhdx_log_entry *e, uint32_t n)
{
	return b->log + ((uint64_t)e->offset + (uint64_t)n * VHDX_LOG_SECTOR) % b->h->log_length;
}

static const uint8_t *descriptor(const struct builder *b, const struct vhdx_log_entry *e, uint32_t i)
{
	uint32_t at = sizeof(struct vhdx_log_entry_disk) / VHDX_LOG_DESC_SIZE + i;

	return ring_sector(b, e, at / VHDX_LOG_DESC_NEXT) + at % VHDX_LOG_DESC_NEXT * VHDX_LOG_DESC_SIZE;
}

static uint32_t first_data_sector(const struct vhdx_log_entry *e)
{
	return (uint32_t)sp_div_ceil(sizeof(struct vhdx_log_entry_disk) + (uint64_t)e->descriptors * VHDX_LOG_DESC_SIZE,
				     VHDX_LOG_SECTOR);
}

static int target_check(const struct builder *b, uint64_t sequence, uint64_t offset, uint64_t len, struct sp_err *err)
{
	if (SP_SEED_BUG(VHDX_REPLAY_ANY_TARGET))
		return 0;
	if (offset < VHDX_LOG_TARGET_MIN)
		return sp_err_set(err, -EBADMSG, "log entry %" PRIu64 " would overwrite the headers, at %#" PRIx64,
				  sequence, offset);
	if (sp_ranges_overlap(offset, len, b->h->log_offset, b->h->log_length))
		return sp_err_set(err, -EBADMSG, "log entry %" PRIu64 " would overwrite the log itself, at %#" PRIx64,
				  sequence, offset);
	if (!sp_range_ok(offset, len, b->limit))
		return sp_err_set(err, -EBADMSG, "log entry %" PRIu64 " reaches from %#" PRIx64 " for %#" PRIx64
				  " bytes, far past the end of the file", sequence, offset, len);
	return 0;
}

static const uint8_t *page_restore(struct builder *b, const struct vhdx_log_desc_disk *d, const uint8_t *sector)
{
	uint8_t *page = b->pages + b->pages_used;

	b->pages_used += VHDX_PAGE;
	memcpy(page, sector, VHDX_PAGE);
	memcpy(page, d->leading_bytes, sizeof(d->leading_bytes));
	memcpy(page + VHDX_PAGE - sizeof(d->trailing_bytes), d->trailing_bytes, sizeof(d->trailing_bytes));
	return page;
}

static int entry_ops(struct builder *b, const struct vhdx_log_entry *e, struct sp_err *err)
{
	uint32_t data_sector = first_data_sector(e);

	for (uint32_t i = 0; i < e->descriptors; i++) {
		struct vhdx_log_zero_disk z;
		struct vhdx_log_desc_disk d;
		struct op op;
		bool zero;
		int r;

		memcpy(&z, descriptor(b, e, i), sizeof(z));
		memcpy(&d, &z, sizeof(d));
		zero = memcmp(z.signature, VHDX_LOG_ZERO_SIGNATURE, 4) == 0;
		op = (struct op){ .offset = le64_get(z.file_offset),
				  .len = zero ? le64_get(z.zero_length) : VHDX_PAGE };
		r = target_check(b, e->sequence, op.offset, op.len, err);
		if (r < 0)
			return r;
		if (!zero)
			op.data = page_restore(b, &d, ring_sector(b, e, data_sector++));
		if (op.len > 0)
			b->op[b->ops++] = op;
	}
	return 0;
}

/* ---- from descriptors to disjoint stretches ------------------------------------------------------ */

static int point_compare(const void *pa, const void *pb)
{
	uint64_t a = *(const uint64_t *)pa, b = *(const uint64_t *)pb;

	return a < b ? -1 : a > b;
}

/* All starts and ends, sorted, each once. Returns how many. */
static uint32_t collect_points(const struct builder *b, uint64_t *point)
{
	uint32_t n = 0, unique = 0;

	for (uint32_t i = 0; i < b->ops; i++) {
		point[n++] = b->op[i].offset;
		point[n++] = b->op[i].offset + b->op[i].len;
	}
	qsort(point, n, sizeof(*point), point_compare);
	for (uint32_t i = 0; i < n; i++) {
		if (unique == 0 || point[i] != point[unique - 1])
			point[unique++] = point[i];
	}
	return unique;
}

static uint32_t point_index(const uint64_t *point, uint32_t count, uint64_t value)
{
	const uint64_t *at = bsearch(&value, point, count, sizeof(*point), point_compare);

	return (uint32_t)(at - point);	/* every start is a point */
}

/* The first gap at or after @i that has no owner yet; shortens the path it walked. */
static uint32_t first_free(uint32_t *next, uint32_t i)
{
	uint32_t root = i;

	while (next[root] != root)
		root = next[root];
	while (next[i] != root) {
		uint32_t up = next[i];

		next[i] = root;
		i = up;
	}
	return root;
}

/* Backwards through the descriptors: the last one that covers the gap [point[i], point[i + 1]) owns it. */
static void assign_owners(const struct builder *b, const uint64_t *point, uint32_t points, uint32_t *owner,
			  uint32_t *next)
{
	for (uint32_t i = 0; i < points; i++) {
		owner[i] = NONE;
		next[i] = i;
	}
	for (uint32_t o = b->ops; o-- > 0;) {
		uint64_t end = b->op[o].offset + b->op[o].len;
		uint32_t i = first_free(next, point_index(point, points, b->op[o].offset));

		while (point[i] < end) {	/* end is a point itself and never owned from here, so i stays inside */
			owner[i] = o;
			next[i] = i + 1;
			i = first_free(next, i + 1);
		}
	}
}

static int emit(const struct builder *b, const uint64_t *point, uint32_t points, const uint32_t *owner,
		struct vhdx_plan *plan)
{
	plan->extent = sp_calloc((size_t)points + 1, sizeof(*plan->extent));
	if (!plan->extent)
		return -ENOMEM;
	for (uint32_t i = 0; i + 1 < points; i++) {
		const uint8_t *data;
		struct vhdx_extent *last = plan->count ? &plan->extent[plan->count - 1] : NULL;

		if (owner[i] == NONE)
			continue;
		data = b->op[owner[i]].data;
		if (!data && last && !last->data && last->offset + last->len == point[i]) {
			last->len += point[i + 1] - point[i];
			continue;
		}
		plan->extent[plan->count++] = (struct vhdx_extent){
			.offset = point[i], .len = point[i + 1] - point[i], .data = data,
		};
	}
	return 0;
}

static int flatten(const struct builder *b, struct vhdx_plan *plan)
{
	size_t max = 2 * (size_t)b->ops + 1;
	SP_AUTO_FREE uint64_t *point = sp_calloc(max, sizeof(*point));
	SP_AUTO_FREE uint32_t *owner = sp_calloc(max, sizeof(*owner));
	SP_AUTO_FREE uint32_t *next = sp_calloc(max, sizeof(*next));
	uint32_t points;

	if (!point || !owner || !next)
		return -ENOMEM;
	points = collect_points(b, point);
	assign_owners(b, point, points, owner, next);
	return emit(b, point, points, owner, plan);
}

/* ---- sizes --------------------------------------------------------------------------------------- */

static int sizes_check(const struct vhdx_log_sequence *seq, uint64_t file_size, uint64_t *ret_last, struct sp_err *err)
{
	const struct vhdx_log_entry *head = &seq->entry[seq->count - 1];
	uint64_t last = 0;

	if (head->flushed_file_offset > file_size)
		return sp_err_set(err, -EBADMSG,
				  "log entry %" PRIu64 " says the file had at least %#" PRIx64
				  " bytes, but it has %#" PRIx64 ": it was cut off",
				  head->sequence, head->flushed_file_offset, file_size);
	for (unsigned i = 0; i < seq->count; i++)
		last = sp_max(last, seq->entry[i].last_file_offset);
	if (last > file_size + VHDX_MAX_SIZE || last > INT64_MAX - TARGET_SLACK)
		return sp_err_set(err, -EBADMSG, "log wants the file to have %#" PRIx64 " bytes, it has %#" PRIx64
				  ": too much to be true", last, file_size);
	*ret_last = last;
	return 0;
}

static uint64_t size_after(const struct vhdx_log_sequence *seq, const struct vhdx_plan *plan, uint64_t file_size)
{
	uint64_t size = file_size;

	if (!SP_SEED_BUG(VHDX_REPLAY_NO_LAST_FILE_OFFSET))
		size = sp_max(size, sp_align_up(seq->entry[seq->count - 1].last_file_offset, VHDX_MIB));
	if (plan->count > 0) {
		const struct vhdx_extent *end = &plan->extent[plan->count - 1];

		if (end->offset + end->len > size)
			size = sp_align_up(end->offset + end->len, VHDX_MIB);
	}
	return size;
}

/* ---- together ------------------------------------------------------------------------------------ */

static int build(struct builder *b, const struct vhdx_log_sequence *seq, uint64_t file_size, struct vhdx_plan *plan,
		 struct sp_err *err)
{
	uint64_t ops = 0, sectors = 0, last = 0;
	int r = sizes_check(seq, file_size, &last, err);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < seq->count; i++) {
		ops += seq->entry[i].descriptors;
		sectors += seq->entry[i].length / VHDX_LOG_SECTOR - first_data_sector(&seq->entry[i]);
	}
	if (ops > OPS_MAX)
		return sp_err_set(err, -EBADMSG, "log holds %" PRIu64 " descriptors to replay, more than %u", ops,
				  OPS_MAX);
	b->limit = sp_max(file_size, last) + TARGET_SLACK;
	b->op = sp_calloc((size_t)ops + 1, sizeof(*b->op));
	b->pages = sp_alloc((size_t)(sectors + 1) * VHDX_PAGE);
	if (!b->op || !b->pages)
		return sp_err_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < seq->count && r == 0; i++)
		r = entry_ops(b, &seq->entry[i], err);
	if (r == 0 && flatten(b, plan) < 0)
		r = sp_err_set(err, -ENOMEM, "out of memory");
	return r;
}

/* Holes stay untouched memory, so a sparse log of 1 GiB costs what it holds. */
static int log_read(struct store *s, const struct vhdx_header *h, uint8_t *log, struct sp_err *err)
{
	uint64_t at = h->log_offset, end = h->log_offset + h->log_length, data_end;
	int r = 0;

	while (r == 0 && at < end) {
		r = store_seek_data(s, at, &at);
		if (r < 0 || at >= end)
			break;
		r = store_seek_hole(s, at, &data_end);
		if (r < 0)
			break;
		data_end = sp_min(data_end, end);
		if (data_end <= at)	/* the file changes under us */
			r = -EIO;
		else
			r = store_read(s, log + (at - h->log_offset), data_end - at, at);
		at = data_end;
	}
	return r < 0 ? sp_err_set(err, r, "log at %#" PRIx64 " cannot be read: %s", h->log_offset, strerror(-r)) : 0;
}

/**
 * vhdx_plan_make - read the log of @s and work out what its replay changes
 * @h: the current header, checked; its LogGuid is not zero
 * @ret_plan: release with vhdx_plan_fini()
 *
 * Returns 0, -EBADMSG (no active sequence, a cut-off file, or a sequence that no sane writer made), -ENOMEM, or what
 * reading failed with. Nothing is written.
 */
int vhdx_plan_make(struct store *s, const struct vhdx_header *h, uint64_t file_size, struct vhdx_plan *ret_plan,
		   struct sp_err *err)
{
	SP_AUTO_FREE uint8_t *log = sp_zalloc(h->log_length);
	struct builder b = { .h = h, .log = log };
	struct vhdx_log_sequence seq = { 0 };
	struct vhdx_plan plan = { 0 };
	int r;

	if (!log)
		return sp_err_set(err, -ENOMEM, "out of memory");
	r = log_read(s, h, log, err);
	if (r == 0)
		r = vhdx_log_scan(log, h->log_length, &h->log_guid, &seq, err);
	if (r == 0 && seq.count == 0)
		r = sp_err_set(err, -EBADMSG,
			       "the header says the log at %#" PRIx64 " must be replayed, but it holds no valid "
			       "sequence of entries",
			       h->log_offset);
	if (r == 0)
		r = build(&b, &seq, file_size, &plan, err);
	if (r == 0) {
		plan.file_size = size_after(&seq, &plan, file_size);
		plan.entries = seq.count;
		plan.pages = sp_take(b.pages);
		*ret_plan = plan;
	}
	sp_free(seq.entry);
	sp_free(b.op);
	sp_free(b.pages);
	return r;
}

void vhdx_plan_fini(struct vhdx_plan *plan)
{
	sp_free(plan->extent);
	sp_free(plan->pages);
	*plan = (struct vhdx_plan){ 0 };
}
