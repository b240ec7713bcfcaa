/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Discard and write-zeroes. Whole blocks go by metadata; parts of blocks that the leaf owns are punched out of its
 * file; what a parent shows is covered with zeros only when the caller insists.
 */
#include <errno.h>

#include "base/bytes.h"
#include "vhd/disk_priv.h"

#define PUNCH_UNIT 4096u
#define ZEROS_LEN (1u << 20)

static const uint8_t zeros[ZEROS_LEN];

static int write_zero_bytes(struct vhd_disk *d, uint64_t offset, uint64_t len)
{
	while (len > 0) {
		struct iovec iov = { (void *)(uintptr_t)zeros, (size_t)sp_min(len, ZEROS_LEN) };
		int r = disk_write_inside(d, &iov, 1, offset, iov.iov_len);

		if (r < 0)
			return r;
		offset += iov.iov_len;
		len -= iov.iov_len;
	}
	return 0;
}

/* Bytes of the leaf's own file: gives back what the host can take, writes zeros to the rest if it matters. */
static int punch_place(struct vhd_disk *d, const struct disk_place *p, bool must_be_zero)
{
	struct store *s = disk_store(d, p->level);
	uint64_t end = p->file_offset + p->len;
	uint64_t from = sp_align_up(p->file_offset, PUNCH_UNIT), to = sp_align_down(end, PUNCH_UNIT);
	int r = 0;

	if (from >= to)
		return must_be_zero ? store_zero(s, p->file_offset, p->len) : 0;
	r = store_punch(s, from, to - from);
	if (r == 0 && must_be_zero && from > p->file_offset)
		r = store_zero(s, p->file_offset, from - p->file_offset);
	if (r == 0 && must_be_zero && end > to)
		r = store_zero(s, to, end - to);
	return r;
}

/* What metadata alone could not do: @len bytes at @offset. */
static int zero_by_data(struct vhd_disk *d, uint64_t offset, uint64_t len, bool must_be_zero)
{
	while (len > 0) {
		struct disk_place p;
		int r = disk_resolve(d, offset, len, &p);

		if (r < 0)
			return r;
		if (disk_is_direct(d, &p))
			r = punch_place(d, &p, must_be_zero);
		else if (p.where != DISK_ZERO && must_be_zero)
			r = write_zero_bytes(d, offset, p.len);
		if (r < 0)
			return r;
		offset += p.len;
		len -= p.len;
	}
	return 0;
}

static int zero_by_metadata(struct vhd_disk *d, uint64_t offset, uint64_t len, uint64_t *ret_len, bool *ret_done)
{
	int r;

	pthread_mutex_lock(&d->meta);
	r = disk_begin_locked(d);
	if (r == 0)
		r = d->leaf->format->discard(d->leaf, offset, len, ret_len, ret_done);
	if (r == 0 && *ret_done)
		flatmap_forget(&d->map, offset, *ret_len);
	pthread_mutex_unlock(&d->meta);
	return r == -EBADMSG ? -EIO : r;
}

static int zero_sectors(struct vhd_disk *d, uint64_t offset, uint64_t len, bool must_be_zero)
{
	while (len > 0) {
		uint64_t n = 0;
		bool done = false;
		int r = zero_by_metadata(d, offset, len, &n, &done);

		if (r == 0 && !done)
			r = zero_by_data(d, offset, n, must_be_zero);
		if (r < 0)
			return r;
		offset += n;
		len -= n;
	}
	return 0;
}

int disk_zero_inside(struct vhd_disk *d, uint64_t offset, uint64_t len, bool must_be_zero)
{
	uint64_t sector = d->logical_sector;
	uint64_t from = sp_align_up(offset, sector), to = sp_align_down(offset + len, sector);
	int r = 0;

	if (from >= to) {
		r = must_be_zero ? write_zero_bytes(d, offset, len) : 0;
	} else {
		if (must_be_zero && from > offset)
			r = write_zero_bytes(d, offset, from - offset);
		if (r == 0)
			r = zero_sectors(d, from, to - from, must_be_zero);
		if (r == 0 && must_be_zero && offset + len > to)
			r = write_zero_bytes(d, to, offset + len - to);
	}
	disk_wrote(d);
	return r;
}

static int zero_entering(struct vhd_disk *d, uint64_t offset, uint64_t len, bool must_be_zero)
{
	struct epoch_member *m = epoch_shared(&d->epoch);
	int phase, r = disk_write_check(d, offset, len);

	if (r < 0 || len == 0)
		return r;
	phase = epoch_enter(&d->epoch, m);
	r = disk_track_note(d, offset, len);
	if (r == 0)
		r = disk_zero_inside(d, offset, len, must_be_zero);
	epoch_exit(m, phase);
	return r;
}

int vhd_disk_write_zeroes(struct vhd_disk *d, uint64_t offset, uint64_t len)
{
	return zero_entering(d, offset, len, true);
}

int vhd_disk_discard(struct vhd_disk *d, uint64_t offset, uint64_t len)
{
	return zero_entering(d, offset, len, false);
}
