/* SPDX-License-Identifier: BSD-2-Clause */
#include "vhd/op_pair.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "vhd/disk_int.h"

static int side_init(struct op_side *s, struct vhd_disk *d, const char *what)
{
	*s = (struct op_side){ .disk = d, .size = vhd_disk_size(d), .layers = vhd_disk_layers(d), .what = what };
	s->id = sp_calloc(s->layers, sizeof(*s->id));
	if (!s->id)
		return -ENOMEM;
	for (unsigned i = 0; i < s->layers; i++)
		s->id[i] = vhd_disk_image(d, i)->store->id;
	return 0;
}

int op_pair_init(struct op_pair *p, struct vhd_disk *a, const char *what_a, struct vhd_disk *b, const char *what_b,
		 struct sp_err *err)
{
	*p = (struct op_pair){ 0 };
	if (side_init(&p->a, a, what_a) == 0 && side_init(&p->b, b, what_b) == 0)
		return 0;
	op_pair_fini(p);
	return sp_err_set(err, -ENOMEM, "out of memory");
}

void op_pair_fini(struct op_pair *p)
{
	sp_free(p->a.id);
	sp_free(p->b.id);
}

static int side_look(const struct op_side *s, uint64_t offset, uint64_t len, struct vhd_range *ret, struct sp_err *err)
{
	int r;

	if (offset >= s->size) {
		*ret = (struct vhd_range){ .offset = offset, .len = len, .kind = VHD_RANGE_ZERO, .layer = s->layers,
					   .unallocated = true };
		return 0;
	}
	r = vhd_disk_map(s->disk, offset, sp_min(len, s->size - offset), ret);
	if (r < 0)
		return sp_err_set(err, r, "cannot look up the bytes at %#" PRIx64 " of the %s: %s", offset, s->what,
				  strerror(-r));
	return 0;
}

static bool same_file(const struct store_id *x, const struct store_id *y)
{
	return x->ino != 0 && x->ino == y->ino && x->dev == y->dev;
}

static bool same_place(const struct op_pair *p, const struct vhd_range *a, const struct vhd_range *b)
{
	if (a->kind == VHD_RANGE_ZERO && b->kind == VHD_RANGE_ZERO)
		return true;
	return a->kind == VHD_RANGE_DATA && b->kind == VHD_RANGE_DATA && a->file_offset == b->file_offset &&
	       a->layer < p->a.layers && b->layer < p->b.layers && same_file(&p->a.id[a->layer], &p->b.id[b->layer]);
}

int op_pair_look(const struct op_pair *p, uint64_t offset, uint64_t len, struct op_stretch *ret, struct sp_err *err)
{
	int r = side_look(&p->a, offset, len, &ret->a, err);

	if (r == 0)
		r = side_look(&p->b, offset, len, &ret->b, err);
	if (r < 0)
		return r;
	ret->len = sp_min(ret->a.len, ret->b.len);
	ret->same = same_place(p, &ret->a, &ret->b);
	return 0;
}

static int side_read(const struct op_side *s, struct op_worker *w, uint8_t *buf, uint64_t offset, size_t len)
{
	size_t inside = offset < s->size ? (size_t)sp_min(len, s->size - offset) : 0;
	int r = inside ? vhd_disk_read(s->disk, buf, inside, offset) : 0;

	if (r < 0)
		return sp_err_set(&w->err, r, "cannot read %zu bytes at %#" PRIx64 " of the %s: %s", inside, offset,
				  s->what, strerror(-r));
	memset(buf + inside, 0, len - inside);
	return 0;
}

int op_pair_read(const struct op_pair *p, struct op_worker *w, uint64_t offset, size_t len)
{
	int r = side_read(&p->a, w, w->buffer, offset, len);

	return r < 0 ? r : side_read(&p->b, w, w->buffer2, offset, len);
}
