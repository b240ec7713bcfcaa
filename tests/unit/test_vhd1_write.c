/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VHD 1.0, writing: where blocks go, what a discard gives back, growing, parents; and power cuts: a recorded
 * stream of writes and barriers is cut anywhere, what no barrier covers is dropped or kept sector by sector, and the
 * image that remains must open and hold what was flushed.
 */
#include "tests/unit/vhd1_images.h"

#include <errno.h>
#include <stdio.h>

#include "base/alloc.h"
#include "tests/support/store_fault.h"

/* ---- single cases -------------------------------------------------------------------------------- */

static void finish(struct vhd_image *img)
{
	assert_int_equal(vhd_image_close(img, false), 0);
}

static struct vhd_image *open_rw(struct store *s)
{
	struct vhd_image *img = open_image(s, VHD_IMG_WRITABLE);

	assert_int_equal(vhd1_begin_write(img), 0);
	return img;
}

static int flush(struct vhd_image *img)
{
	return vhd1_flush_all(vhd1_of(img));
}

/* The image is looked at after its close: closing puts a copy of the bytes aside. */
static struct store *close_keep(struct vhd_image *img)
{
	struct vhd1 *v = vhd1_of(img);
	struct store *c;

	assert_int_equal(vhd1_flush_all(v), 0);
	assert_int_equal(vhd1_space_trim(v), 0);
	c = copy_of(img->store);
	finish(img);
	return c;
}

static void expect_both_footers(struct store *s)
{
	uint8_t head[512], tail[512];

	peek(s, head, sizeof(head), 0);
	peek(s, tail, sizeof(tail), file_size(s) - 512);
	assert_memory_equal(head, tail, sizeof(head));
	assert_int_equal(vhd1_footer_validate((struct vhd1_footer_disk *)tail, NULL), 0);
}

/* 64 MiB, a write at 5 MiB, then at 33 MiB: data on 4 KiB boundaries, as the sheet computes. */
static void placement(void **state)
{
	struct vhd_image *img = open_rw(new_image(VHD_KIND_DYNAMIC, SP_MIB(64), 0));
	uint8_t page[4096], bitmap[512];
	struct store *s;

	memset(page, 0x5a, sizeof(page));
	assert_int_equal(image_write(img, page, sizeof(page), SP_MIB(5)), 0);
	assert_int_equal(image_write(img, page, sizeof(page), SP_MIB(33)), 0);
	s = close_keep(img);
	assert_int_equal(peek_be32(s, 1536 + 2 * 4), 7);
	assert_int_equal(peek_be32(s, 1536 + 16 * 4), 4111);
	assert_int_equal(file_size(s), (4112 + 4096) * 512 + 512);
	peek(s, bitmap, sizeof(bitmap), 7 * 512);
	for (int i = 0; i < 512; i++)
		assert_int_equal(bitmap[i], 0xff);
	peek(s, page, sizeof(page), 8 * 512 + SP_MIB(1));
	assert_int_equal(page[0], 0x5a);
	expect_both_footers(s);
	store_close(s);
}

/* Between prepare and commit nothing has happened; afterwards the block is there, and in a dynamic image whole. */
static void prepare_shows_nothing(void **state)
{
	struct vhd_image *img = open_rw(new_image(VHD_KIND_DYNAMIC, SP_MIB(64), 0));
	struct vhd_ticket a, b;
	struct vhd_place p;

	assert_int_equal(vhd1_prepare_write(img, SP_MIB(2) - 512, 4096, &a), 0);
	assert_int_equal(a.len, 512);			/* to the end of the block */
	assert_int_equal(vhd1_prepare_write(img, 0, 512, &b), 0);
	assert_int_equal(a.file_offset - b.file_offset, SP_MIB(2) - 512);
	assert_int_equal(vhd1_map(img, 0, SP_MIB(64), &p), 0);
	assert_int_equal(p.where, VHD_WHERE_ZERO);
	assert_int_equal(p.len, SP_MIB(64));
	assert_false(vhd1_dirty(img));
	vhd1_abort_write(img, &a);
	assert_int_equal(vhd1_commit_write(img, &b), 0);
	assert_true(vhd1_dirty(img));
	assert_int_equal(vhd1_map(img, 512, SP_MIB(64) - 512, &p), 0);
	assert_int_equal(p.where, VHD_WHERE_DATA);
	assert_int_equal(p.len, SP_MIB(2) - 512);
	assert_true(p.direct_write);
	finish(img);
}

static void abort_returns_space(void **state)
{
	struct vhd_image *img = open_rw(new_image(VHD_KIND_DYNAMIC, SP_MIB(64), 0));
	struct vhd_ticket t;
	uint8_t byte[512] = { 1 };
	uint64_t first;

	assert_int_equal(vhd1_prepare_write(img, 0, 512, &t), 0);
	first = t.file_offset;
	poke(img->store, byte, sizeof(byte), t.file_offset);	/* failed half-way */
	vhd1_abort_write(img, &t);
	assert_int_equal(vhd1_prepare_write(img, SP_MIB(8), 4096, &t), 0);
	assert_int_equal(t.file_offset, first);
	assert_int_equal(vhd1_commit_write(img, &t), 0);
	image_read(img, byte, sizeof(byte), SP_MIB(8));
	assert_int_equal(byte[0], 0);				/* not another block's remains */
	finish(img);
}

static void discard_gives_back(void **state)
{
	struct vhd_image *img = open_rw(new_image(VHD_KIND_DYNAMIC, SP_MIB(7), 0));
	uint8_t data[512];
	uint64_t len, before;
	bool done;
	struct vhd_ticket t;

	memset(data, 7, sizeof(data));
	for (uint64_t at = 0; at < SP_MIB(7); at += SP_MIB(1))
		assert_int_equal(image_write(img, data, sizeof(data), at), 0);
	assert_int_equal(flush(img), 0);
	assert_int_equal(vhd1_discard(img, SP_MIB(1), SP_MIB(3), &len, &done), 0);	/* the second half of block 0 */
	assert_int_equal(len, SP_MIB(1));
	assert_false(done);
	/* Up to the end: the odd block too. */
	assert_int_equal(vhd1_discard(img, SP_MIB(2), SP_MIB(5), &len, &done), 0);
	assert_int_equal(len, SP_MIB(5));
	assert_true(done);
	assert_int_equal(vhd1_freed_tag(img), 0);		/* not durable yet */
	image_read(img, data, sizeof(data), SP_MIB(4));
	assert_int_equal(data[0], 0);
	assert_int_equal(flush(img), 0);
	before = vhd1_of(img)->next_free;
	assert_true(vhd1_freed_tag(img) > 0);
	vhd1_release(img, vhd1_freed_tag(img));
	assert_int_equal(vhd1_freed_tag(img), 0);
	assert_int_equal(vhd1_prepare_write(img, SP_MIB(4), 512, &t), 0);
	assert_true(t.file_offset < before);
	assert_int_equal(vhd1_of(img)->next_free, before);	/* reused, not extended */
	assert_int_equal(vhd1_commit_write(img, &t), 0);
	image_read(img, data, sizeof(data), SP_MIB(4));
	assert_int_equal(data[0], 0);				/* punched before */
	finish(img);
}

/* A child cannot hide its parent by metadata alone. */
static void discard_in_child(void **state)
{
	struct vhd_image *img = open_rw(new_image(VHD_KIND_DIFFERENCING, SP_MIB(8), 0));
	uint64_t len;
	bool done;

	assert_int_equal(vhd1_discard(img, 0, SP_MIB(8), &len, &done), 0);
	assert_int_equal(len, SP_MIB(8));
	assert_false(done);
	finish(img);
}

static void saved_state(void **state)
{
	struct store *s = new_image(VHD_KIND_DYNAMIC, SP_MIB(8), 0);
	struct vhd_image *img;
	struct sp_err err = { 0 };
	uint8_t data[512] = { 1 };
	uint64_t len;
	bool done;

	poke(s, data, 1, 84);
	poke(s, data, 1, file_size(s) - 512 + 84);
	reseal_footer(s, 0);
	reseal_footer(s, file_size(s) - 512);
	img = open_rw(s);
	assert_non_null(strstr(img->warning, "saved state"));
	assert_int_equal(image_write(img, data, sizeof(data), 0), 0);
	assert_int_equal(vhd1_discard(img, 0, SP_MIB(2), &len, &done), 0);
	assert_false(done);
	assert_int_equal(vhd1_grow(img, SP_MIB(16), &err), -ENOTSUP);
	assert_non_null(strstr(sp_err_text(&err), "saved state"));
	finish(img);
}

/* Room left by a crash may hold anything; what is put there reads zeros all the same. */
static void stale_room(void **state)
{
	struct vhd_image *img = open_rw(new_image(VHD_KIND_DYNAMIC, SP_MIB(64), 0));
	uint8_t data[4096];
	struct vhd_ticket t;
	struct store *s;

	memset(data, 0xbb, sizeof(data));
	assert_int_equal(vhd1_prepare_write(img, 0, 4096, &t), 0);
	poke(img->store, data, sizeof(data), t.file_offset);
	s = copy_of(img->store);		/* the power fails: no BAT entry */
	vhd1_abort_write(img, &t);
	finish(img);
	img = open_rw(s);
	assert_int_equal(vhd1_prepare_write(img, SP_MIB(2), 512, &t), 0);
	poke(img->store, (uint8_t[512]){ 1 }, 512, t.file_offset);
	assert_int_equal(vhd1_commit_write(img, &t), 0);
	image_read(img, data, sizeof(data), SP_MIB(2));
	assert_int_equal(data[0], 1);
	assert_int_equal(data[512], 0);
	finish(img);
}

/* 2040 GiB open in no time and little memory, also for writing, and can be written at the end. */
static void largest(void **state)
{
	struct vhd_image *img = open_rw(new_image(VHD_KIND_DYNAMIC, SP_GIB(2040), 0));
	uint8_t data[512] = { 9 };
	struct vhd_place p;
	struct sp_err err = { 0 };

	assert_int_equal(vhd1_map(img, 0, SP_GIB(2040), &p), 0);
	assert_int_equal(p.len, SP_GIB(2040));
	assert_int_equal(image_write(img, data, sizeof(data), SP_GIB(2040) - 512), 0);
	assert_int_equal(vhd1_grow(img, SP_GIB(2040) + 512, &err), -EINVAL);
	finish(img);
}

/* Sector numbers have 32 bits: the last place a block may end. */
static void addresses_run_out(void **state)
{
	struct vhd_image *img = open_rw(new_image(VHD_KIND_DYNAMIC, SP_GIB(2040), 0));
	struct vhd1 *v = vhd1_of(img);
	struct vhd_ticket t;

	v->next_free = (0xfffffffeull - 4096) * 512;
	v->footer_offset = v->next_free;
	assert_int_equal(vhd1_prepare_write(img, 0, 512, &t), -ENOSPC);
	v->next_free = v->footer_offset = (0xfffffffeull - 4096 - 8) * 512;
	assert_int_equal(vhd1_prepare_write(img, 0, 512, &t), 0);
	assert_true(t.file_offset / 512 - 1 <= 0xfffffffe);
	vhd1_abort_write(img, &t);
	vhd_image_close(img, true);
}

/* ---- modifying ----------------------------------------------------------------------------------- */

static const struct grow_row {
	const char *name;
	enum vhd_kind kind;
	uint32_t block_size;
	uint64_t from, to;
} grow_rows[] = {
	{ "fixed", VHD_KIND_FIXED, 0, SP_MIB(1), SP_MIB(3) },
	{ "fixed, one sector", VHD_KIND_FIXED, 0, SP_MIB(1), SP_MIB(1) + 512 },
	{ "dynamic, inside the last block", VHD_KIND_DYNAMIC, 65536, SP_KIB(100), SP_KIB(110) },
	{ "dynamic, inside the last sector of the BAT", VHD_KIND_DYNAMIC, 65536, SP_KIB(100), SP_KIB(700) },
	{ "dynamic, longer BAT", VHD_KIND_DYNAMIC, 4096, SP_KIB(508), SP_MIB(16) },
	{ "differencing, inside the last block", VHD_KIND_DIFFERENCING, 65536, SP_KIB(100), SP_KIB(110) },
	{ "differencing, more blocks", VHD_KIND_DIFFERENCING, 65536, SP_KIB(100), SP_KIB(700) },
	{ "differencing, longer BAT over locators", VHD_KIND_DIFFERENCING, 4096, SP_KIB(508), SP_MIB(16) },
};

static void grow(void **state)
{
	const struct grow_row *row = *state;
	struct store *s = new_image(row->kind, row->from, row->block_size);
	uint8_t *want = test_calloc(1, row->to), *got = test_malloc(row->to);
	struct vhd_image *img = open_rw(s);
	struct sp_err err = { 0 };

	if (row->kind == VHD_KIND_DIFFERENCING)
		memset(want, 0xee, row->from);
	for (uint64_t at = 0; at < row->from; at += 3 * 4096 + 512) {
		memset(want + at, (int)(at / 512) | 1, 512);
		assert_int_equal(image_write(img, want + at, 512, at), 0);
	}
	if (row->kind == VHD_KIND_DYNAMIC && row->block_size == 65536) {	/* somebody's remains behind the end */
		uint32_t last = (uint32_t)(row->from / 65536);

		memset(want + row->from - 512, 0x33, 512);
		assert_int_equal(image_write(img, want + row->from - 512, 512, row->from - 512), 0);
		poke(img->store, want + row->from - 512, 512,
		     vhd1_data_offset(&vhd1_of(img)->shape, vhd1_of(img)->bat[last]) + row->from % 65536);
	}
	if (vhd1_grow(img, row->to, &err) < 0)
		fail_msg("%s", sp_err_text(&err));
	assert_int_equal(img->size, row->to);
	image_read(img, got, row->to, 0);
	assert_memory_equal(got, want, row->to);
	memset(want + row->to - 512, 0x77, 512);
	assert_int_equal(image_write(img, want + row->to - 512, 512, row->to - 512), 0);
	if (row->kind == VHD_KIND_FIXED) {
		s = copy_of(img->store);
		finish(img);
	} else {
		s = close_keep(img);
		expect_both_footers(s);
	}
	img = open_rw(s);
	assert_null(img->warning);
	assert_int_equal(img->size, row->to);
	if (row->kind == VHD_KIND_DIFFERENCING)
		assert_string_equal(img->parent.path[0].text, ".\\base.vhd");
	image_read(img, got, row->to, 0);
	assert_memory_equal(got, want, row->to);
	finish(img);
	test_free(want);
	test_free(got);
}

static void identity(void **state)
{
	struct vhd_image *img = open_rw(new_image(VHD_KIND_DYNAMIC, SP_MIB(8), 0));
	struct sp_guid id = { { 1, 2, 3 } };
	struct store *s;

	assert_int_equal(vhd1_set_identity(img, &id, NULL), 0);
	s = copy_of(img->store);
	finish(img);
	expect_both_footers(s);
	img = open_image(s, 0);
	assert_true(sp_guid_equal(&img->identity, &id));
	finish(img);
}

static void another_parent(void **state)
{
	struct vhd_set_parent p = { .identity = { { { 5 } } }, .identities = 1, .mtime = VHD1_EPOCH + 77,
				    .relative = "../new/parent.vhd", .absolute = "/srv/new/parent.vhd" };
	struct store *s = new_image(VHD_KIND_DIFFERENCING, SP_MIB(8), 0);
	uint64_t size = file_size(s);
	struct vhd_image *img = open_rw(s);
	struct sp_err err = { 0 };

	if (vhd1_set_parent(img, &p, &err) < 0)
		fail_msg("%s", sp_err_text(&err));
	assert_string_equal(img->parent.path[0].text, "..\\new\\parent.vhd");
	s = copy_of(img->store);
	finish(img);
	assert_int_equal(file_size(s), size);		/* the texts fit where they were */
	expect_both_footers(s);
	img = open_rw(copy_of(s));
	assert_null(img->warning);
	assert_int_equal(img->parent.paths, 3);
	assert_string_equal(img->parent.path[0].text, "..\\new\\parent.vhd");
	assert_string_equal(img->parent.path[1].text, "\\srv\\new\\parent.vhd");
	assert_string_equal(img->parent.path[2].text, "parent.vhd");
	assert_int_equal(img->parent.identity[0].b[0], 5);
	assert_int_equal(img->parent.mtime, VHD1_EPOCH + 77);
	p.relative = p.absolute = NULL;			/* identity alone */
	p.identity[0].b[0] = 6;
	assert_int_equal(vhd1_set_parent(img, &p, &err), 0);
	assert_int_equal(img->parent.identity[0].b[0], 6);
	assert_string_equal(img->parent.path[0].text, "..\\new\\parent.vhd");
	p.identities = 2;
	assert_int_equal(vhd1_set_parent(img, &p, &err), -ENOTSUP);
	finish(img);
	store_close(s);
}

/* ---- recording store ----------------------------------------------------------------------------- */

enum { OP_WRITE, OP_SYNC, OP_ZERO, OP_RESIZE };

struct op {
	int kind;
	uint64_t offset, len;
	uint8_t *bytes;
	uint64_t mark;		/* how far the test had come */
};

static struct {
	struct op *op;
	size_t count, room;
	uint64_t mark;
} tape;

/* Passes everything on and writes it down. */
struct tape_store {
	struct store s;
	struct store *inner;
};

static void tape_add(int kind, uint64_t offset, uint64_t len, const struct iovec *iov, int iovcnt)
{
	struct op o = { .kind = kind, .offset = offset, .len = len, .mark = tape.mark };

	if (tape.count == tape.room) {
		tape.room = tape.room ? tape.room * 2 : 1024;
		tape.op = realloc(tape.op, tape.room * sizeof(*tape.op));
	}
	if (kind == OP_WRITE) {
		for (int i = 0; i < iovcnt; i++) {
			o.bytes = realloc(o.bytes, o.len + iov[i].iov_len);
			memcpy(o.bytes + o.len, iov[i].iov_base, iov[i].iov_len);
			o.len += iov[i].iov_len;
		}
	}
	tape.op[tape.count++] = o;
}

static struct store *inner_of(struct store *s)
{
	return ((struct tape_store *)s)->inner;
}

static int tape_readv(struct store *s, const struct iovec *iov, int n, uint64_t at)
{
	return store_readv(inner_of(s), iov, n, at);
}

static int tape_writev(struct store *s, const struct iovec *iov, int n, uint64_t at)
{
	tape_add(OP_WRITE, at, 0, iov, n);
	return store_writev(inner_of(s), iov, n, at);
}

static int tape_sync(struct store *s)
{
	tape_add(OP_SYNC, 0, 0, NULL, 0);
	return 0;
}

static int tape_zero(struct store *s, uint64_t at, uint64_t len)
{
	tape_add(OP_ZERO, at, len, NULL, 0);
	return store_zero(inner_of(s), at, len);
}

static int tape_resize(struct store *s, uint64_t size)
{
	tape_add(OP_RESIZE, size, 0, NULL, 0);
	return store_resize(inner_of(s), size);
}

static int tape_size(struct store *s, uint64_t *ret)
{
	return store_size(inner_of(s), ret);
}

static void tape_close(struct store *s)
{
	store_close(inner_of(s));
	sp_free(s->name);
	sp_free(s);
}

static struct store *tape_new(struct store *inner)
{
	static const struct store_ops ops = {
		.name = "tape", .readv = tape_readv, .writev = tape_writev, .sync = tape_sync, .punch = tape_zero,
		.zero = tape_zero, .resize = tape_resize, .size = tape_size, .close = tape_close,
	};
	struct tape_store *t = sp_zalloc(sizeof(*t));

	t->s = (struct store){ .ops = &ops, .name = sp_strdup("tape"), .writable = true };
	t->inner = inner;
	return &t->s;
}

static uint64_t rng_state;

static uint32_t rnd(uint32_t below)
{
	rng_state = rng_state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(rng_state >> 33) % below;
}

/* ---- power cuts ---------------------------------------------------------------------------------- */

#define DISK SP_KIB(256)
#define SECTORS (DISK / 512)
#define STEPS 400

/* What each step of the workload did to each sector: the sequence number in it, or zeros again. */
static struct {
	uint64_t step_of_flush[STEPS + 1];	/* last step whose flush was complete when the step had ended */
	uint32_t content[STEPS + 1][SECTORS];	/* 0: never written or discarded */
} model;

static void fill(uint8_t *sector, uint32_t number, uint32_t seq)
{
	for (int i = 0; i < 128; i++)
		((uint32_t *)(void *)sector)[i] = i % 2 ? number + 1 : seq;
}

static void step_write(struct vhd_image *img, uint32_t step)
{
	uint32_t count = 1 + rnd(12), from = rnd((uint32_t)SECTORS - count);
	uint8_t buf[12 * 512];

	for (uint32_t i = 0; i < count; i++) {
		fill(buf + i * 512, from + i, step);
		model.content[step][from + i] = step;
	}
	assert_int_equal(image_write(img, buf, count * 512, from * 512ull), 0);
}

static void step_discard(struct vhd_image *img, uint32_t step)
{
	uint32_t count = 8 * (1 + rnd(4)), from = 8 * rnd((uint32_t)SECTORS / 8 - 4);
	uint64_t len = 0;
	bool done = false;

	assert_int_equal(vhd1_discard(img, from * 512ull, count * 512ull, &len, &done), 0);
	for (uint32_t i = 0; done && i < len / 512; i++)
		model.content[step][from + i] = 0;
}

static void workload(struct store *s, bool reopen)
{
	struct vhd_image *img = open_rw(s);

	tape.mark = 0;
	for (uint32_t step = 1; step <= STEPS; step++) {
		uint32_t dice = rnd(20);

		memcpy(model.content[step], model.content[step - 1], sizeof(model.content[step]));
		model.step_of_flush[step] = model.step_of_flush[step - 1];
		if (dice < 12) {
			step_write(img, step);
		} else if (dice < 15) {
			step_discard(img, step);
		} else if (dice < 19) {
			assert_int_equal(flush(img), 0);
			model.step_of_flush[step] = step;
		} else if (vhd1_freed_tag(img)) {
			vhd1_release(img, vhd1_freed_tag(img));
		}
		tape.mark = step;
	}
	if (reopen)
		finish(img);
	else
		vhd_image_close(img, true);
	tape.mark = STEPS;
}

static void apply(struct store *s, const struct op *o, bool torn)
{
	switch (o->kind) {
	case OP_WRITE:
		for (uint64_t at = 0; at < o->len; at += 512)
			if (!torn || rnd(2))
				poke(s, o->bytes + at, (size_t)sp_min(512, o->len - at), o->offset + at);
		break;
	case OP_ZERO:
		if ((!torn || rnd(2)) && o->offset < file_size(s))
			assert_int_equal(store_zero(s, o->offset, sp_min(o->len, file_size(s) - o->offset)), 0);
		break;
	case OP_RESIZE:
		if (!torn || rnd(2))
			assert_int_equal(store_resize(s, o->offset), 0);
		break;
	}
}

/* The file after a cut before operation @cut. */
static struct store *after_cut(struct store *start, size_t cut)
{
	struct store *s = copy_of(start);
	size_t synced = cut;

	while (synced > 0 && tape.op[synced - 1].kind != OP_SYNC)
		synced--;
	for (size_t i = 0; i < cut; i++)
		apply(s, &tape.op[i], i >= synced);
	return s;
}

/* Each sector holds what it held at the last flush, or what any later step put there. */
static void expect_sectors(struct vhd_image *img, uint64_t mark, bool child)
{
	static uint8_t disk[DISK];
	uint8_t want[512];
	uint64_t last = sp_min(mark + 1, STEPS);

	image_read(img, disk, sizeof(disk), 0);
	for (uint32_t n = 0; n < SECTORS; n++) {
		bool ok = false;

		for (uint64_t step = model.step_of_flush[mark]; step <= last && !ok; step++) {
			uint32_t seq = model.content[step][n];

			memset(want, child ? 0xee : 0, sizeof(want));
			if (seq)
				fill(want, n, seq);
			ok = memcmp(disk + n * 512ull, want, sizeof(want)) == 0;
		}
		if (!ok)
			fail_msg("after step %u sector %u holds %02x%02x%02x%02x", (unsigned)mark, n, disk[n * 512],
				 disk[n * 512 + 1], disk[n * 512 + 2], disk[n * 512 + 3]);
	}
}

static void check_cut(struct store *start, size_t cut, bool child)
{
	uint64_t mark = cut < tape.count ? tape.op[cut].mark : STEPS;
	struct store *s = after_cut(start, cut);
	struct vhd_report rep = { 0 };
	struct vhd_image *img;
	uint8_t data[512];

	assert_int_equal(vhd1_check(s, &rep), 0);
	for (size_t i = 0; i < rep.findings; i++)
		if (rep.finding[i].severity == VHD_SEV_ERROR && !rep.finding[i].fixable)
			fail_msg("cut %zu: %s: %s", cut, rep.finding[i].structure, rep.finding[i].text);
	vhd_report_fini(&rep);
	img = open_image(copy_of(s), 0);
	expect_sectors(img, mark, child);
	finish(img);
	img = open_rw(s);
	expect_sectors(img, mark, child);
	/* Blocks allocated after the crash must not show remains of it. */
	for (uint32_t n = 0; n < SECTORS; n += 8) {
		struct vhd_place p;

		assert_int_equal(vhd1_map(img, n * 512ull, 4096, &p), 0);
		if (p.where == VHD_WHERE_DATA || p.len < 4096)
			continue;
		memset(data, 0x42, sizeof(data));
		assert_int_equal(image_write(img, data, sizeof(data), n * 512ull), 0);
		image_read(img, data, sizeof(data), n * 512ull + 512);
		for (int i = 0; i < 512; i++)
			assert_int_equal(data[i], child ? 0xee : 0);
	}
	finish(img);
}

static const struct cut_row { const char *name; enum vhd_kind kind; uint32_t block_size; bool reopen; } cut_rows[] = {
	{ "dynamic, blocks of 4 KiB", VHD_KIND_DYNAMIC, 4096, true },
	{ "dynamic, blocks of 16 KiB", VHD_KIND_DYNAMIC, 16384, true },
	{ "dynamic, twice", VHD_KIND_DYNAMIC, 4096, false },
	{ "differencing, blocks of 4 KiB", VHD_KIND_DIFFERENCING, 4096, true },
	{ "differencing, blocks of 64 KiB", VHD_KIND_DIFFERENCING, 65536, true },
};

static void power_cut(void **state)
{
	const struct cut_row *row = *state;
	bool child = row->kind == VHD_KIND_DIFFERENCING;
	struct store *start;

	memset(&tape, 0, sizeof(tape));		/* a row that failed may have left something */
	for (uint64_t seed = 1; seed <= 3; seed++) {
		rng_state = seed * 977;
		start = new_image(row->kind, DISK, row->block_size);
		memset(&model, 0, sizeof(model));
		workload(tape_new(copy_of(start)), row->reopen);
		for (int i = 0; i < 60; i++)
			check_cut(start, rnd((uint32_t)tape.count + 1), child);
		for (size_t i = 0; i < tape.count; i++)
			free(tape.op[i].bytes);
		tape.count = 0;
		store_close(start);
	}
	free(tape.op);
	memset(&tape, 0, sizeof(tape));
}

/* The same for operations that restructure: each cut leaves the old or the new. */
static void modify(struct store *s, bool parent)
{
	struct vhd_set_parent p = { .identity = { { { 5 } } }, .identities = 1, .relative = "other.vhd",
				    .absolute = "/other.vhd" };
	struct vhd_image *img = open_rw(s);
	struct sp_err err = { 0 };

	if ((parent ? vhd1_set_parent(img, &p, &err) : vhd1_grow(img, SP_MIB(16), &err)) < 0)
		fail_msg("%s", sp_err_text(&err));
	finish(img);
}

static const struct modify_row { const char *name; enum vhd_kind kind; bool parent; } modify_rows[] = {
	{ "set_parent", VHD_KIND_DIFFERENCING, true },
	{ "grow a child, longer BAT", VHD_KIND_DIFFERENCING, false },
	{ "grow dynamic, longer BAT", VHD_KIND_DYNAMIC, false },
};

static void modify_cut(void **state)
{
	const struct modify_row *row = *state;
	bool child = row->kind == VHD_KIND_DIFFERENCING;
	struct store *start = new_image(row->kind, SP_KIB(508), 4096);
	struct vhd_image *img = open_rw(start);
	static uint8_t disk[SP_KIB(508)], got[SP_KIB(508)];

	memset(disk, child ? 0xee : 0, sizeof(disk));
	for (uint32_t n = 0; n < 127; n += 3) {
		fill(disk + n * 4096, n * 8, 1);
		assert_int_equal(image_write(img, disk + n * 4096, 512, n * 4096), 0);
	}
	start = close_keep(img);
	rng_state = 5;
	memset(&tape, 0, sizeof(tape));
	modify(tape_new(copy_of(start)), row->parent);
	for (size_t k = 0; k < 150; k++) {
		size_t cut = tape.count <= 150 ? k : rnd((uint32_t)tape.count + 1);

		if (cut > tape.count)
			break;
		img = open_rw(after_cut(start, cut));
		assert_true(img->size == SP_KIB(508) || img->size == SP_MIB(16));
		image_read(img, got, sizeof(got), 0);
		assert_memory_equal(got, disk, sizeof(disk));
		if (child) {
			bool is_new = img->parent.identity[0].b[0] == 5;

			assert_string_equal(img->parent.path[0].text, is_new ? ".\\other.vhd" : ".\\base.vhd");
			assert_string_equal(img->parent.path[1].text, is_new ? "\\other.vhd" : "\\vm\\base.vhd");
		}
		finish(img);
	}
	for (size_t i = 0; i < tape.count; i++)
		free(tape.op[i].bytes);
	free(tape.op);
	memset(&tape, 0, sizeof(tape));
	store_close(start);
}

/* ---- everything fails once ----------------------------------------------------------------------- */

static int countdown(void *arg)
{
	return (*(int64_t *)arg)-- == 0;
}

/* Writes, discards, flushes, grows, names another parent; goes on after errors as a guest would. */
static void stubborn_workload(struct vhd_image *img, struct sp_err *err)
{
	struct vhd_set_parent p = { .identity = { { { 5 } } }, .identities = 1, .relative = "other.vhd",
				    .absolute = "/other.vhd" };
	uint8_t data[8192];
	uint64_t len;
	bool done;

	memset(data, 0x21, sizeof(data));
	vhd1_begin_write(img);
	for (uint64_t at = 0; at < SP_KIB(256); at += 24576) {
		image_write(img, data, sizeof(data), at);
		if (at % 3 == 0)
			flush(img);
		vhd1_discard(img, at, 4096, &len, &done);
	}
	flush(img);
	vhd1_release(img, vhd1_freed_tag(img));
	image_write(img, data, sizeof(data), SP_KIB(128) + 512);
	vhd1_set_parent(img, &p, err);
	vhd1_grow(img, SP_MIB(1), err);
}

/* Takes what is left over after a failure of I/O number @k or of allocation number @k. False: nothing failed. */
static bool fail_once(enum vhd_kind kind, bool io, uint64_t k)
{
	struct store *inner = new_image(kind, SP_KIB(508), 4096), *s, *left_over;
	struct fault_plan plan;
	struct vhd_report rep = { 0 };
	struct vhd_image *img = NULL;
	struct sp_err err = { 0 };
	int64_t left = (int64_t)k;
	bool hit;

	fault_plan_set(&plan, FAULT_ALL, io ? k : 0, -EIO, false, true);
	assert_int_equal(store_fault_new(inner, &plan, &s), 0);
	if (!io)
		sp_alloc_set_fault(countdown, &left);
	if (vhd_image_open(s, "t.vhd", &vhd_format_vhd1, VHD_IMG_WRITABLE, &img, &err) == 0)
		stubborn_workload(img, &err);
	sp_alloc_set_fault(NULL, NULL);
	hit = io ? plan.hits > 0 : left < 0;
	if (!img)
		return hit;
	left_over = copy_of(inner);
	vhd_image_close(img, k % 2);
	assert_int_equal(vhd1_check(left_over, &rep), 0);
	for (size_t i = 0; i < rep.findings; i++)
		if (rep.finding[i].severity == VHD_SEV_ERROR && !rep.finding[i].fixable)
			fail_msg("%s %u: %s: %s", io ? "I/O" : "allocation", (unsigned)k, rep.finding[i].structure,
				 rep.finding[i].text);
	vhd_report_fini(&rep);
	expect_open(left_over, VHD_IMG_WRITABLE, 0, NULL);
	return hit;
}

static const struct fail_row { const char *name; enum vhd_kind kind; bool io; } fail_rows[] = {
	{ "I/O, dynamic", VHD_KIND_DYNAMIC, true },
	{ "I/O, differencing", VHD_KIND_DIFFERENCING, true },
	{ "memory, dynamic", VHD_KIND_DYNAMIC, false },
	{ "memory, differencing", VHD_KIND_DIFFERENCING, false },
};

static void each_fails_once(void **state)
{
	const struct fail_row *row = *state;
	uint64_t k = row->io ? 1 : 0;

	while (fail_once(row->kind, row->io, k))
		k++;
	assert_true(k > 20);
}

static const struct single_row single_rows[] = {
	{ "placement", placement },
	{ "prepare shows nothing", prepare_shows_nothing },
	{ "abort returns space", abort_returns_space },
	{ "discard gives back", discard_gives_back },
	{ "discard in a child", discard_in_child },
	{ "saved state", saved_state },
	{ "stale room", stale_room },
	{ "largest", largest },
	{ "addresses run out", addresses_run_out },
	{ "identity", identity },
	{ "another parent", another_parent },
};

int main(void)
{
	int failed = 0;

	vhd1_test_env();
	failed += ROWS_RUN(single_rows, rows_single);
	failed += ROWS_RUN(grow_rows, grow);
	failed += ROWS_RUN(cut_rows, power_cut);
	failed += ROWS_RUN(modify_rows, modify_cut);
	failed += ROWS_RUN(fail_rows, each_fails_once);
	return failed != 0;
}
