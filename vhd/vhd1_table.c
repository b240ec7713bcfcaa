/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A longer BAT. It grows where it stands, because some readers look for it in front, so what follows it has to go:
 *
 *	footer ahead -> blocks copied, their entries switched -> locator texts copied, header switched
 *	-> new entries filled with FF -> header with the new count
 *
 * After each arrow everything before it is durable, and the image is whole with the old table.
 */
#include "vhd/vhd1_int.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"

#define CHUNK (1u << 20)

/* Holes stay holes. */
static int copy_bytes(struct store *s, uint64_t from, uint64_t to, uint64_t len)
{
	uint8_t *buf = sp_alloc(CHUNK);
	uint64_t end = from + len, at = from;
	int r = buf ? 0 : -ENOMEM;

	while (r == 0 && at < end) {
		uint64_t data, n;

		r = store_seek_data(s, at, &data);
		if (r < 0 || data >= end)
			break;
		n = sp_min(CHUNK, end - data);
		r = store_read(s, buf, (size_t)n, data);
		if (r == 0)
			r = store_write(s, buf, (size_t)n, to + (data - from));
		at = data + n;
	}
	sp_free(buf);
	return r;
}

static int move_blocks(struct vhd1 *v, uint64_t from, uint64_t end)
{
	uint64_t len = vhd1_slot_bytes(&v->shape);

	for (uint32_t b = 0; b < v->shape.blocks; b++) {
		uint64_t at = (uint64_t)v->bat[b] * VHD1_SECTOR;
		uint32_t slot;
		bool recycled;
		int r;

		if (v->bat[b] == VHD1_UNUSED || !sp_ranges_overlap(at, len, from, end - from))
			continue;
		r = vhd1_slot_take(v, &slot, &recycled);
		if (r == 0)
			r = copy_bytes(v->img->store, at, (uint64_t)slot * VHD1_SECTOR, len);
		if (r < 0)
			return r;
		vhd1_bat_set(v, b, slot);
		v->barrier = true;
	}
	return vhd1_flush_all(v);
}

static int move_texts(struct vhd1 *v, uint64_t from, uint64_t end)
{
	struct vhd1_header_disk h = v->header;
	struct vhd1_locator l;
	uint64_t home = be64_get(v->footer.data_offset), file_size, at;
	const char *why;
	bool moved = false;
	int r = store_size(v->img->store, &file_size);

	for (unsigned i = 0; i < VHD1_LOCATORS && r == 0; i++) {
		if (vhd1_locator_decode(&h.locator[i], file_size, &l, &why) < 0 ||
		    !sp_ranges_overlap(l.offset, l.space, from, end - from))
			continue;
		r = vhd1_room_take(v, l.space, &at);
		if (r == 0)
			r = copy_bytes(v->img->store, l.offset, at, l.space);
		h.locator[i].data_offset = be64_make(at);
		moved = true;
	}
	if (r < 0 || !moved)
		return r;
	r = vhd1_room_take(v, sizeof(h), &at);
	if (r == 0)
		r = vhd1_header_leave(v, &h, at);
	return r < 0 ? r : vhd1_header_return(v, &h, home);
}

static int fill_unused(struct vhd1 *v, uint64_t from, uint64_t end)
{
	uint8_t *unused = sp_alloc(CHUNK);
	int r = unused ? 0 : -ENOMEM;

	if (unused)
		memset(unused, 0xff, CHUNK);
	for (uint64_t at = from; r == 0 && at < end; at += CHUNK)
		r = store_write(v->img->store, unused, (size_t)sp_min(CHUNK, end - at), at);
	sp_free(unused);
	return r < 0 ? r : store_sync(v->img->store);
}

int vhd1_table_extend(struct vhd1 *v, uint32_t entries, struct sp_err *err)
{
	struct vhd1_header_disk h;
	uint64_t from = v->shape.bat_offset + vhd1_bat_bytes(&v->shape);
	uint64_t end = v->shape.bat_offset + sp_align_up((uint64_t)entries * 4, VHD1_SECTOR);
	const struct vhd1_extent *hit;
	int r = 0;

	if (v->batmap)
		return sp_err_set(err, -ENOTSUP,
				  "XenServer's batmap stands behind the BAT, which would have to grow from %" PRIu32
				  " to %" PRIu32 " entries; convert the image",
				  v->shape.max_entries, entries);
	hit = vhd1_extents_hit(&v->extents, from, end - from);
	if (hit && !hit->text)
		return sp_err_set(err, -ENOTSUP,
				  "the %s at %" PRIu64 " stands where the BAT would have to grow; convert the image",
				  hit->name, hit->offset);
	if (end > from) {
		r = vhd1_space_reserve(v, end);
		if (r == 0)
			r = move_blocks(v, from, end);
		if (r == 0)
			r = move_texts(v, from, end);
		if (r == 0)
			r = fill_unused(v, from, end);
	}
	if (r == 0) {
		h = v->header;
		h.max_entries = be32_make(entries);
		vhd1_header_seal(&h);
		v->shape.max_entries = entries;
		r = vhd1_header_update(v, &h);
	}
	if (r < 0 && v->failed == 0)
		v->failed = r;		/* half-way: sound on disk, but not what memory says */
	return r < 0 ? sp_err_set(err, r, "cannot make the BAT longer: %s", strerror(-r)) : 0;
}
