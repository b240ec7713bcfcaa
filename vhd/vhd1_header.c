/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Dynamic header, and the list of everything in the file that is not a block. vhd-formats.md 1.8, 1.16, 5.1.
 */
#include "vhd/vhd1_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/seed.h"

void vhd1_header_seal(struct vhd1_header_disk *h)
{
	h->checksum = be32_make(vhd1_checksum(h, sizeof(*h), offsetof(struct vhd1_header_disk, checksum)));
}

static int header_validate(const struct vhd1_header_disk *h, struct sp_err *err)
{
	uint32_t sum = vhd1_checksum(h, sizeof(*h), offsetof(struct vhd1_header_disk, checksum));
	uint32_t block = be32_get(h->block_size);

	if (memcmp(h->cookie, VHD1_HEADER_COOKIE, sizeof(h->cookie)) != 0)
		return sp_err_set(err, -EBADMSG, "cookie \"cxsparse\" missing");
	if (sum != be32_get(h->checksum))
		return sp_err_set(err, -EBADMSG, "checksum is %08" PRIx32 ", computed %08" PRIx32,
				  be32_get(h->checksum), sum);
	if (be32_get(h->version) >> 16 != VHD1_VERSION >> 16)
		return sp_err_set(err, -ENOTSUP, "version is %08" PRIx32 ", expected 1.0", be32_get(h->version));
	if (!sp_is_pow2(block) || block < VHD1_BLOCK_MIN || block > VHD1_BLOCK_MAX)
		return sp_err_set(err, -EBADMSG, "block size is %" PRIu32
				  ", expected a power of two from 512 to 256 MiB", block);
	return 0;
}

static int shape_make(const struct vhd1_header_disk *h, uint64_t size, uint64_t file_size, struct vhd1_shape *g,
		      struct sp_err *err)
{
	uint64_t blocks;

	memset(g, 0, sizeof(*g));
	vhd1_shape_block_size(g, be32_get(h->block_size));
	g->size = size;
	g->max_entries = be32_get(h->max_entries);
	g->bat_offset = be64_get(h->bat_offset);
	blocks = sp_div_ceil(size, g->block_size);
	if (blocks > g->max_entries)
		return sp_err_set(err, -EBADMSG,
				  "BAT has %" PRIu32 " entries, but %" PRIu64 " bytes in blocks of %" PRIu32
				  " need %" PRIu64,
				  g->max_entries, size, g->block_size, blocks);
	g->blocks = (uint32_t)blocks;
	if (g->bat_offset % VHD1_SECTOR != 0 || g->bat_offset < VHD1_SECTOR)
		return sp_err_set(err, -EBADMSG, "BAT offset is %" PRIu64 ", expected a multiple of 512 from 512 on",
				  g->bat_offset);
	if (!sp_range_ok(g->bat_offset, vhd1_bat_bytes(g), file_size))
		return sp_err_set(err, -EBADMSG,
				  "BAT at %" PRIu64 " with %" PRIu32 " entries ends past the file of %" PRIu64 " bytes",
				  g->bat_offset, g->max_entries, file_size);
	return 0;
}

int vhd1_header_read(struct store *s, const struct vhd1_footer_disk *footer, uint64_t file_size,
		     struct vhd1_header_disk *ret_header, struct vhd1_shape *ret_shape, struct sp_err *err)
{
	uint64_t at = be64_get(footer->data_offset);
	int r;

	if (at % VHD1_SECTOR != 0 || at < VHD1_SECTOR || !sp_range_ok(at, sizeof(*ret_header), file_size))
		return sp_err_set(err, -EBADMSG, "footer: data offset is %" PRIu64
				  ", expected a multiple of 512 with a header inside the file of %" PRIu64 " bytes",
				  at, file_size);
	r = store_read(s, ret_header, sizeof(*ret_header), at);
	if (r < 0)
		return sp_err_set(err, r, "cannot read the dynamic header at %" PRIu64 ": %s", at, strerror(-r));
	r = header_validate(ret_header, err);
	if (r == 0)
		r = shape_make(ret_header, be64_get(footer->current_size), file_size, ret_shape, err);
	if (r < 0)
		return sp_err_prefix(err, r, "dynamic header at %" PRIu64, at);
	return 0;
}

/* ---- structures that are no blocks --------------------------------------------------------------- */

/* No file gets longer: an entry of the BAT counts sectors in 32 bits, and the last block follows. */
#define FILE_SIZE_MAX SP_TIB(3)

static void fill_extent(struct vhd1_extent *e, uint64_t offset, uint64_t len, const char *name, int number)
{
	e->offset = offset;
	e->len = len;
	e->text = number >= 0;
	if (number >= 0)
		snprintf(e->name, sizeof(e->name), "%s %d", name, number);
	else
		snprintf(e->name, sizeof(e->name), "%s", name);
}

static void add_extent(struct vhd1_extents *x, uint64_t offset, uint64_t len, const char *name, int number)
{
	fill_extent(&x->item[x->count++], offset, len, name, number);
	x->end = sp_max(x->end, offset + len);
}

static void add_locator(struct vhd1_extents *x, const struct vhd1_locator_disk *d, uint64_t file_size, int number)
{
	struct vhd1_locator l;
	const char *why;

	if (vhd1_locator_decode(d, file_size, &l, &why) == 0)
		add_extent(x, l.offset, l.space, "parent locator", number);
	else if (vhd1_locator_decode(d, sp_max(file_size, FILE_SIZE_MAX), &l, &why) == 0)
		fill_extent(&x->beyond, l.offset, l.space, "parent locator", number);
}

/* Found by its cookie behind the BAT; believed only in images that say they come from tapdisk. */
static int add_batmap(struct store *s, const struct vhd1_shape *g, uint64_t file_size, struct vhd1_extents *x,
		      bool *ret_batmap, bool *ret_encrypted)
{
	uint64_t at = g->bat_offset + vhd1_bat_bytes(g);
	struct vhd1_batmap_disk d;
	uint64_t map, len;
	int r;

	if (!sp_range_ok(at, sizeof(d), file_size))
		return 0;
	r = store_read(s, &d, sizeof(d), at);
	if (r < 0)
		return r;
	if (memcmp(d.cookie, VHD1_BATMAP_COOKIE, sizeof(d.cookie)) != 0)
		return 0;
	*ret_batmap = true;
	*ret_encrypted = d.key_hash_flag == 1;
	add_extent(x, at, sizeof(d), "batmap header", -1);
	map = be64_get(d.offset);
	len = (uint64_t)be32_get(d.sectors) * VHD1_SECTOR;
	if (map % VHD1_SECTOR != 0 || len == 0)
		return 0;
	if (sp_range_ok(map, len, file_size))
		add_extent(x, map, len, "batmap", -1);
	else if (sp_range_ok(map, len, sp_max(file_size, FILE_SIZE_MAX)))
		fill_extent(&x->beyond, map, len, "batmap", -1);
	return 0;
}

int vhd1_extents_find(struct store *s, const struct vhd1_footer_disk *footer, const struct vhd1_header_disk *h,
		      const struct vhd1_shape *g, uint64_t file_size, struct vhd1_extents *ret, bool *ret_batmap,
		      bool *ret_encrypted)
{
	memset(ret, 0, sizeof(*ret));
	*ret_batmap = *ret_encrypted = false;
	add_extent(ret, 0, sizeof(*footer), "footer copy", -1);
	add_extent(ret, be64_get(footer->data_offset), sizeof(*h), "dynamic header", -1);
	add_extent(ret, g->bat_offset, vhd1_bat_bytes(g), "BAT", -1);
	for (unsigned i = 0; i < VHD1_LOCATORS; i++)
		add_locator(ret, &h->locator[i], file_size, (int)i);
	if (memcmp(footer->creator, "tap", 4) != 0)	/* its fourth byte is NUL */
		return 0;
	return add_batmap(s, g, file_size, ret, ret_batmap, ret_encrypted);
}

const struct vhd1_extent *vhd1_extents_hit(const struct vhd1_extents *x, uint64_t offset, uint64_t len)
{
	for (unsigned i = 0; i < x->count; i++)
		if (sp_ranges_overlap(x->item[i].offset, x->item[i].len, offset, len))
			return &x->item[i];
	return NULL;
}

int vhd1_extents_disjoint(const struct vhd1_extents *x, struct sp_err *err)
{
	for (unsigned i = 0; i < x->count; i++) {
		for (unsigned j = i + 1; j < x->count; j++) {
			const struct vhd1_extent *a = &x->item[i], *b = &x->item[j];

			if ((a->text && b->text) || !sp_ranges_overlap(a->offset, a->len, b->offset, b->len))
				continue;
			return sp_err_set(err, -EBADMSG,
					  "%s (%" PRIu64 " bytes at %" PRIu64 ") overlaps %s (%" PRIu64
					  " bytes at %" PRIu64 ")",
					  a->name, a->len, a->offset, b->name, b->len, b->offset);
		}
	}
	return 0;
}

int vhd1_slot_validate(const struct vhd1_shape *g, const struct vhd1_extents *x, uint64_t limit, uint32_t block,
		       uint32_t slot, struct sp_err *err)
{
	uint64_t at = (uint64_t)slot * VHD1_SECTOR, len = vhd1_slot_bytes(g);
	uint64_t entry_at = g->bat_offset + (uint64_t)block * 4;
	const struct vhd1_extent *hit;

	if (!sp_range_ok(at, len, limit) && !SP_SEED_BUG(VHD_BLOCK_PAST_FILE))
		return sp_err_set(err, -EBADMSG,
				  "BAT entry %" PRIu32 " (at %" PRIu64 "): block at %" PRIu64 " with %" PRIu64
				  " bytes ends past %" PRIu64 ", where the blocks of this file must end",
				  block, entry_at, at, len, limit);
	hit = vhd1_extents_hit(x, at, len);
	if (hit && !SP_SEED_BUG(VHD_BLOCK_OVER_METADATA))
		return sp_err_set(err, -EBADMSG,
				  "BAT entry %" PRIu32 " (at %" PRIu64 "): block at %" PRIu64 " with %" PRIu64
				  " bytes overlaps the %s (%" PRIu64 " bytes at %" PRIu64 ")",
				  block, entry_at, at, len, hit->name, hit->len, hit->offset);
	return 0;
}
