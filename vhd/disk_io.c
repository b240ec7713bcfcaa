/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Plain I/O. Every call enters the epoch, cuts its range where places change, and moves payload without a lock.
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/seed.h"
#include "vhd/disk_priv.h"
#include "vhd/iov.h"

#define SLICE_MAX 64
#define SECTOR_MAX 4096

int disk_range_check(const struct vhd_disk *d, uint64_t offset, uint64_t len)
{
	return sp_range_ok(offset, len, d->size) ? 0 : -ERANGE;
}

int disk_write_check(const struct vhd_disk *d, uint64_t offset, uint64_t len)
{
	int poison = atomic_load_explicit(&d->poison, memory_order_relaxed);

	if (!d->writable)
		return -EROFS;
	return poison ? poison : disk_range_check(d, offset, len);
}

static int read_data(struct vhd_disk *d, const struct disk_place *p, struct iov_cursor *c)
{
	struct iovec part[SLICE_MAX];

	for (uint64_t done = 0; done < p->len;) {
		int n, r;
		uint64_t got = iov_slice(c, p->len - done, part, SLICE_MAX, &n);

		r = got ? store_readv(disk_store(d, p->level), part, n, p->file_offset + done) : -EINVAL;
		if (r < 0)
			return r == -ENODATA ? -EIO : r;	/* the file shrank behind our back */
		done += got;
	}
	return 0;
}

bool disk_reads_zero(const struct vhd_disk *d, const struct disk_place *p)
{
	return p->where == DISK_ZERO || (p->where == DISK_UNKNOWN && d->orphan == VHD_ORPHAN_ZERO);
}

int disk_read_inside(struct vhd_disk *d, const struct iovec *iov, int iovcnt, uint64_t offset, uint64_t len)
{
	struct iov_cursor c = { iov, iovcnt, 0 };

	while (len > 0) {
		struct disk_place p;
		int r = disk_resolve(d, offset, len, &p);

		if (r < 0)
			return r;
		if (p.where == DISK_DATA)
			r = read_data(d, &p, &c);
		else if (disk_reads_zero(d, &p))
			iov_zero(&c, p.len);
		else
			r = -EIO;
		if (r < 0)
			return r;
		offset += p.len;
		len -= p.len;
	}
	return 0;
}

int disk_begin_locked(struct vhd_disk *d)
{
	int r;

	if (d->begun)
		return 0;
	r = d->leaf->format->begin_write(d->leaf);
	if (r < 0)
		return r;
	d->begun = true;
	flatmap_forget(&d->map, 0, d->size);	/* places learnt before were not writable */
	return 0;
}

int disk_prepare(struct vhd_disk *d, uint64_t offset, uint64_t len, struct vhd_ticket *ret)
{
	int r;

	pthread_mutex_lock(&d->meta);
	disk_reclaim_locked(d);
	r = disk_begin_locked(d);
	if (r == 0)
		r = d->leaf->format->prepare_write(d->leaf, offset, len, ret);
	if (r == 0)
		flatmap_forget(&d->map, ret->offset, ret->len);
	pthread_mutex_unlock(&d->meta);
	return r == -EBADMSG ? -EIO : r;
}

int disk_commit_ticket(struct vhd_disk *d, const struct vhd_ticket *t, int payload_result)
{
	int r = SP_SEED_BUG(WRITE_IGNORES_ERROR) ? 0 : payload_result;

	if (t->needs_commit) {
		pthread_mutex_lock(&d->meta);
		if (r < 0)
			d->leaf->format->abort_write(d->leaf, t);
		else
			r = d->leaf->format->commit_write(d->leaf, t);
		flatmap_forget(&d->map, t->offset, t->len);
		pthread_mutex_unlock(&d->meta);
	}
	return r;
}

/* Whole sectors that need room or a record first. */
static int write_sectors(struct vhd_disk *d, struct iov_cursor *c, uint64_t offset, uint64_t len)
{
	struct iovec part[SLICE_MAX];

	while (len > 0) {
		struct vhd_ticket t;
		uint64_t done = 0;
		int n, r = disk_prepare(d, offset, len, &t);

		if (r < 0)
			return r;
		while (r == 0 && done < t.len) {
			uint64_t got = iov_slice(c, t.len - done, part, SLICE_MAX, &n);

			r = got ? store_writev(d->leaf->store, part, n, t.file_offset + done) : -EINVAL;
			done += got;
		}
		r = disk_commit_ticket(d, &t, r);
		if (r < 0)
			return r;
		offset += t.len;
		len -= t.len;
	}
	return 0;
}

/* Part of one sector: what the caller does not bring is read through the chain first. */
static int write_partial(struct vhd_disk *d, struct iov_cursor *c, uint64_t offset, uint64_t len)
{
	uint8_t sector[SECTOR_MAX];
	uint64_t start = sp_align_down(offset, d->logical_sector);
	struct iovec whole = { sector, d->logical_sector };
	struct iov_cursor all = { &whole, 1, 0 };
	uint64_t at = offset - start, end = at + len;
	size_t piece = 1;
	void *base;
	int r;

	pthread_mutex_lock(&d->partial);
	r = disk_read_inside(d, &whole, 1, start, d->logical_sector);
	while (r == 0 && at < end && (piece = iov_next(c, end - at, &base)) > 0) {
		memcpy(sector + at, base, piece);
		at += piece;
	}
	if (r == 0 && piece == 0)
		r = -EINVAL;		/* the vector is shorter than the request */
	if (r == 0)
		r = write_sectors(d, &all, start, d->logical_sector);
	pthread_mutex_unlock(&d->partial);
	return r;
}

static int write_direct(struct vhd_disk *d, struct iov_cursor *c, const struct disk_place *p)
{
	struct iovec part[SLICE_MAX];
	uint64_t done = 0;

	while (done < p->len) {
		int n, r;
		uint64_t got = iov_slice(c, p->len - done, part, SLICE_MAX, &n);

		if (got == 0)
			return -EINVAL;
		r = store_writev(disk_store(d, p->level), part, n, p->file_offset + done);
		if (r < 0)
			return r;
		done += got;
	}
	return 0;
}

uint64_t disk_sector_piece(const struct vhd_disk *d, uint64_t offset, uint64_t len, bool *ret_whole)
{
	uint64_t sector = d->logical_sector, within = offset % sector;

	*ret_whole = within == 0 && len >= sector;
	return *ret_whole ? sp_align_down(len, sector) : sp_min(len, sector - within);
}

int disk_write_inside(struct vhd_disk *d, const struct iovec *iov, int iovcnt, uint64_t offset, uint64_t len)
{
	struct iov_cursor c = { iov, iovcnt, 0 };
	int r = 0;

	while (r == 0 && len > 0) {
		struct disk_place p;
		uint64_t piece;
		bool whole;

		r = disk_resolve(d, offset, len, &p);
		if (r < 0)
			break;
		if (disk_is_direct(d, &p)) {
			piece = p.len;
			r = write_direct(d, &c, &p);
		} else {
			piece = disk_sector_piece(d, offset, p.len, &whole);
			/* A place may end inside a sector (a raw file's tail): the sector is the unit of writing. */
			r = whole ? write_sectors(d, &c, offset, piece) : write_partial(d, &c, offset, piece);
		}
		offset += piece;
		len -= piece;
	}
	disk_wrote(d);
	return r;
}

static uint64_t iov_total(const struct iovec *iov, int iovcnt)
{
	uint64_t sum = 0;

	for (int i = 0; i < iovcnt; i++)
		sum += iov[i].iov_len;
	return sum;
}

int vhd_disk_readv(struct vhd_disk *d, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct epoch_member *m = epoch_shared(&d->epoch);
	uint64_t len = iov_total(iov, iovcnt);
	int phase, r = disk_range_check(d, offset, len);

	if (r < 0)
		return r;
	phase = epoch_enter(&d->epoch, m);
	r = disk_read_inside(d, iov, iovcnt, offset, len);
	epoch_exit(m, phase);
	return r;
}

int vhd_disk_writev(struct vhd_disk *d, const struct iovec *iov, int iovcnt, uint64_t offset)
{
	struct epoch_member *m = epoch_shared(&d->epoch);
	uint64_t len = iov_total(iov, iovcnt);
	int phase, r = disk_write_check(d, offset, len);

	if (r < 0)
		return r;
	phase = epoch_enter(&d->epoch, m);
	r = disk_track_note(d, offset, len);
	if (r == 0)
		r = disk_write_inside(d, iov, iovcnt, offset, len);
	epoch_exit(m, phase);
	return r;
}

int vhd_disk_read(struct vhd_disk *d, void *buf, size_t len, uint64_t offset)
{
	struct iovec iov = { buf, len };

	return vhd_disk_readv(d, &iov, 1, offset);
}

int vhd_disk_write(struct vhd_disk *d, const void *buf, size_t len, uint64_t offset)
{
	struct iovec iov = { (void *)(uintptr_t)buf, len };	/* only read from */

	return vhd_disk_writev(d, &iov, 1, offset);
}
