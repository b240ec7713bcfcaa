/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Checksums put right after the changes of an input, where the input asks for it (mutations do in 7 of 8 cases):
 * without this a fuzzer of checksummed formats mostly tests the checksums. Only what a change touched is sealed.
 */
#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "tests/fuzz/fuzz.h"
#include "vhd/store_mem_int.h"
#include "vhd/vhd1_layout.h"
#include "vhd/vhdx_int.h"
#include "vhd/vhdx_layout.h"

#define LOG_MAX (16u << 20)	/* longer logs stay as they are */

static bool touched(const struct fz_case *c, unsigned file, uint64_t offset, uint64_t len)
{
	for (unsigned i = 0; i < c->in.records; i++) {
		const struct fz_record *rec = &c->in.record[i];
		uint64_t n = rec->kind == FZ_ZERO ? (uint64_t)rec->len << 9 : rec->len;

		if ((rec->kind == FZ_PATCH || rec->kind == FZ_ZERO) && rec->file % c->seed->files == file &&
		    sp_ranges_overlap(rec->offset, n, offset, len))
			return true;
	}
	return false;
}

/* ---- VHDX ------------------------------------------------------------------------------------------ */

/* CRC at byte 4 of the structure. */
static void seal_crc(struct store *s, uint64_t offset, uint32_t len)
{
	static uint8_t buf[VHDX_REGION_TABLE_SIZE];
	le32_t crc;

	if (store_read(s, buf, len, offset) < 0)
		return;
	crc = le32_make(sp_crc32c_skip(buf, len, 4));
	store_write(s, &crc, sizeof(crc), offset + 4);
}

static void put32(uint8_t *p, uint64_t v)
{
	le32_t x = le32_make((uint32_t)v);

	memcpy(p, &x, sizeof(x));
}

static void put64(uint8_t *p, uint64_t v)
{
	le64_t x = le64_make(v);

	memcpy(p, &x, sizeof(x));
}

/* Descriptors and data sectors say the sequence number of their entry. */
static void sync_entry(uint8_t *entry, uint32_t length, const struct vhdx_log_entry_disk *d, const uint8_t guid[16])
{
	uint64_t sequence = le64_get(d->sequence_number);
	uint32_t count = le32_get(d->descriptor_count);

	memcpy(entry + offsetof(struct vhdx_log_entry_disk, log_guid), guid, 16);
	for (uint64_t i = 0; i < count && 64 + 32 * i + 32 <= length; i++)
		put64(entry + 64 + 32 * i + 24, sequence);
	for (uint32_t at = VHDX_LOG_SECTOR; at < length; at += VHDX_LOG_SECTOR) {
		if (memcmp(entry + at, "data", 4) != 0)
			continue;
		put32(entry + at + 4, sequence >> 32);
		put32(entry + at + 4092, sequence);
	}
}

/* Reads or writes [at, at + len) of the log, which goes on at its start. */
static int log_io(struct store *s, bool write, const struct vhdx_header_disk *h, uint8_t *buf, uint32_t at,
		  uint32_t len)
{
	uint64_t offset = le64_get(h->log_offset);
	uint32_t first = (uint32_t)sp_min(len, le32_get(h->log_length) - at);
	int r = write ? store_write(s, buf, first, offset + at) : store_read(s, buf, first, offset + at);

	buf += first;
	len -= first;
	if (r < 0 || len == 0)
		return r;
	return write ? store_write(s, buf, len, offset) : store_read(s, buf, len, offset);
}

static void seal_entry(struct store *s, const struct vhdx_header_disk *h, uint32_t at, unsigned flags)
{
	static uint8_t entry[LOG_MAX];
	struct vhdx_log_entry_disk d;
	uint32_t length;

	if (log_io(s, false, h, (uint8_t *)&d, at, sizeof(d)) < 0 || memcmp(d.signature, "loge", 4) != 0)
		return;
	length = le32_get(d.entry_length);
	if (length < VHDX_LOG_SECTOR || length % VHDX_LOG_SECTOR || length > le32_get(h->log_length) ||
	    log_io(s, false, h, entry, at, length) < 0)
		return;
	if (flags & FZ_LOG_SYNC)
		sync_entry(entry, length, &d, h->log_guid.b);
	put32(entry + 4, sp_crc32c_skip(entry, length, 4));
	log_io(s, true, h, entry, at, length);
}

static void seal_log(struct fz_case *c, struct store *s, const struct vhdx_header_disk *h)
{
	uint64_t offset = le64_get(h->log_offset), size;
	uint32_t length = le32_get(h->log_length);

	if (length % VHDX_LOG_SECTOR || length > LOG_MAX || store_size(s, &size) < 0 ||
	    !sp_range_ok(offset, length, size))
		return;
	length = (uint32_t)sp_min(length, c->seed->log_used);
	for (uint32_t at = 0; at < length; at += VHDX_LOG_SECTOR)
		seal_entry(s, h, at, c->in.flags);
}

static void seal_vhdx(struct fz_case *c, struct store *s, unsigned file)
{
	for (unsigned i = 1; i <= 4; i++) {
		uint32_t len = i <= 2 ? VHDX_HEADER_SIZE : VHDX_REGION_TABLE_SIZE;

		if (touched(c, file, i * 0x10000u, len))
			seal_crc(s, i * 0x10000u, len);
	}
	if (file > 0 || !touched(c, 0, c->seed->log_offset, c->seed->log_used))
		return;
	for (unsigned i = 1; i <= 2; i++) {
		struct vhdx_header_disk h;

		if (store_read(s, &h, sizeof(h), i * 0x10000u) == 0)
			seal_log(c, s, &h);
	}
}

/* ---- VHD ------------------------------------------------------------------------------------------- */

static void seal_sum(struct store *s, uint64_t offset, uint32_t len, uint32_t field)
{
	uint8_t buf[sizeof(struct vhd1_header_disk)];
	be32_t sum;
	uint32_t x = 0;

	if (store_read(s, buf, len, offset) < 0)
		return;
	memset(buf + field, 0, 4);
	for (uint32_t i = 0; i < len; i++)
		x += buf[i];
	sum = be32_make(~x);
	store_write(s, &sum, sizeof(sum), offset + field);
}

static void seal_vhd(struct fz_case *c, struct store *s, unsigned file)
{
	struct vhd1_footer_disk f;
	uint64_t size, header;

	if (store_size(s, &size) < 0 || size < sizeof(f))
		return;
	seal_sum(s, size - sizeof(f), sizeof(f), offsetof(struct vhd1_footer_disk, checksum));
	if (store_read(s, &f, sizeof(f), 0) < 0 || memcmp(f.cookie, VHD1_COOKIE, 8) != 0)
		return;
	seal_sum(s, 0, sizeof(f), offsetof(struct vhd1_footer_disk, checksum));
	header = be64_get(f.data_offset);
	if (header < size && touched(c, file, header, sizeof(struct vhd1_header_disk)))
		seal_sum(s, header, sizeof(struct vhd1_header_disk), offsetof(struct vhd1_header_disk, checksum));
}

/* A changed file size would leave the footer behind. */
static void footer_follow(struct fz_case *c, struct store *s, unsigned file)
{
	struct mem_file *before = store_folder_mem_get(c->seed->folder, c->seed->name[file]);
	uint8_t footer[VHD1_SECTOR];
	struct store *old;
	uint64_t was, now;

	if (mem_file_open(before, "seed", false, &old) < 0)
		return;
	if (store_size(old, &was) == 0 && store_size(s, &now) == 0 && was != now && now >= VHD1_SECTOR &&
	    store_read(old, footer, sizeof(footer), was - VHD1_SECTOR) == 0)
		store_write(s, footer, sizeof(footer), now - VHD1_SECTOR);
	store_close(old);
}

void fz_seal(struct fz_case *c, unsigned file)
{
	struct mem_file *f = store_folder_mem_get(c->folder, c->seed->name[file]);
	struct store *s;

	if (mem_file_open(f, "input", true, &s) < 0)
		return;
	if (c->seed->format == VHD_FORMAT_VHD && (c->in.flags & FZ_FOOTER))
		footer_follow(c, s, file);
	if ((c->in.flags & FZ_SEAL) && c->in.records > 0) {
		if (c->seed->format == VHD_FORMAT_VHDX)
			seal_vhdx(c, s, file);
		else
			seal_vhd(c, s, file);
	}
	store_close(s);
}
