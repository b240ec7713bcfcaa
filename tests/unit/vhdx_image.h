/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_VHDX_IMAGE_H
#define SPINDLE_TESTS_VHDX_IMAGE_H
/*
 * VHDX structures put together by hand from the vectors in vhd-formats 6.6, so that the reader is tested against bytes
 * our own writer had no part in. M1: an empty dynamic disk of 8 MiB, 2 MiB blocks; log at 1 MiB, metadata at 2 MiB, BAT
 * at 3 MiB.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "vhd/image.h"
#include "vhd/vhdx_int.h"
#include "vhd/vhdx_layout.h"

#define M1_SIZE SP_MIB(4)
#define M1_LOG SP_MIB(1)
#define M1_METADATA SP_MIB(2)
#define M1_ITEMS (M1_METADATA + SP_KIB(64))
#define M1_BAT SP_MIB(3)

static inline void put16(uint8_t *p, uint16_t v)
{
	le16_t x = le16_make(v);

	memcpy(p, &x, sizeof(x));
}

static inline void put32(uint8_t *p, uint32_t v)
{
	le32_t x = le32_make(v);

	memcpy(p, &x, sizeof(x));
}

static inline void put64(uint8_t *p, uint64_t v)
{
	le64_t x = le64_make(v);

	memcpy(p, &x, sizeof(x));
}

static inline uint32_t get32(const uint8_t *p)
{
	le32_t x;

	memcpy(&x, p, sizeof(x));
	return le32_get(x);
}

/* Every checksummed structure has its CRC at byte 4. */
static inline void seal(uint8_t *bytes, size_t len)
{
	memset(bytes + 4, 0, 4);
	put32(bytes + 4, sp_crc32c(bytes, len));
}

/* H1: LogGuid 16 x @log_guid, the other GUIDs as in the vector. */
static inline void make_header(uint8_t buf[static 4096], uint64_t sequence, uint8_t log_guid)
{
	memset(buf, 0, 4096);
	memcpy(buf, "head", 4);
	put64(buf + 8, sequence);
	memset(buf + 16, 0x01, 16);
	memset(buf + 32, 0x02, 16);
	memset(buf + 48, log_guid, 16);
	put16(buf + 66, 1);
	put32(buf + 68, 1 << 20);
	put64(buf + 72, 1 << 20);
	seal(buf, 4096);
}

static inline void put_region(uint8_t *entry, const struct sp_guid *guid, uint64_t offset, uint32_t length,
			      uint32_t flags)
{
	memcpy(entry, guid, 16);
	put64(entry + 16, offset);
	put32(entry + 24, length);
	put32(entry + 28, flags);
}

/* R1 */
static inline void make_region_table(uint8_t buf[static 65536])
{
	memset(buf, 0, 65536);
	memcpy(buf, "regi", 4);
	put32(buf + 8, 2);
	put_region(buf + 16, &VHDX_GUID_BAT_REGION, M1_BAT, 1 << 20, 1);
	put_region(buf + 48, &VHDX_GUID_METADATA_REGION, M1_METADATA, 1 << 20, 1);
	seal(buf, 65536);
}

static inline void put_item(uint8_t *table, unsigned index, const struct sp_guid *guid, uint32_t offset,
			    uint32_t length, uint32_t flags)
{
	uint8_t *entry = table + 32 + 32 * index;

	memset(entry, 0, 32);
	memcpy(entry, guid, 16);
	put32(entry + 16, offset);
	put32(entry + 20, length);
	put32(entry + 24, flags);
	if (table[10] < index + 1)
		put16(table + 10, (uint16_t)(index + 1));
}

/* The first 64 KiB + 40 bytes of M1's metadata region. */
static inline void make_metadata(uint8_t buf[static 65536 + 40])
{
	static const uint8_t items[40] = {
		0x00, 0x00, 0x20, 0x00, 0, 0, 0, 0,
		0x00, 0x00, 0x80, 0x00, 0, 0, 0, 0,
		0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f,
		0x00, 0x02, 0x00, 0x00,
		0x00, 0x10, 0x00, 0x00,
	};

	memset(buf, 0, 65536);
	memcpy(buf, "metadata", 8);
	put_item(buf, 0, &VHDX_GUID_FILE_PARAMETERS, 0x10000, 8, 4);
	put_item(buf, 1, &VHDX_GUID_DISK_SIZE, 0x10008, 8, 6);
	put_item(buf, 2, &VHDX_GUID_DISK_ID, 0x10010, 16, 6);
	put_item(buf, 3, &VHDX_GUID_LOGICAL_SECTOR, 0x10020, 4, 6);
	put_item(buf, 4, &VHDX_GUID_PHYSICAL_SECTOR, 0x10024, 4, 6);
	memcpy(buf + 65536, items, sizeof(items));
}

static inline void must(int r)
{
	assert_int_equal(r, 0);
}

/* M1 in a new memory store of @size bytes, at least M1_SIZE. */
static inline struct store *make_m1(uint64_t size)
{
	static const uint8_t identifier[] = "vhdxfileT\0E\0S\0T";
	static uint8_t buf[65536 + 40];
	struct store *s;

	must(store_mem_new("m1", size, 0, &s));
	must(store_write(s, identifier, sizeof(identifier), 0));
	make_header(buf, 1, 0);
	must(store_write(s, buf, 4096, 0x10000));
	make_header(buf, 2, 0);
	must(store_write(s, buf, 4096, 0x20000));
	make_region_table(buf);
	must(store_write(s, buf, 65536, 0x30000));
	must(store_write(s, buf, 65536, 0x40000));
	make_metadata(buf);
	must(store_write(s, buf, 65536 + 40, M1_METADATA));
	return s;
}

/* Both headers: sequence 3 and 4, LogGuid 16 x @log_guid. */
static inline void set_log_guid(struct store *s, uint8_t log_guid)
{
	uint8_t buf[4096];

	make_header(buf, 3, log_guid);
	must(store_write(s, buf, 4096, 0x10000));
	make_header(buf, 4, log_guid);
	must(store_write(s, buf, 4096, 0x20000));
}

static inline void put_bat(struct store *s, uint64_t index, uint64_t entry)
{
	le64_t e = le64_make(entry);

	must(store_write(s, &e, sizeof(e), M1_BAT + 8 * index));
}

/* ---- log entries --------------------------------------------------------------------------------- */

#define LOG_ENTRY_MAX (256 * 4096)

/* An entry under construction; LogGuid 16 x 11 hex. */
struct log_builder {
	uint8_t bytes[LOG_ENTRY_MAX];
	uint64_t sequence;
	uint32_t descriptors, data_sectors;
	const uint8_t *page[256];	/* of the data descriptors */
};

static inline void log_start(struct log_builder *b, uint64_t sequence, uint32_t tail, uint64_t flushed, uint64_t last)
{
	memset(b, 0, sizeof(*b));
	b->sequence = sequence;
	memcpy(b->bytes, "loge", 4);
	put32(b->bytes + 12, tail);
	put64(b->bytes + 16, sequence);
	memset(b->bytes + 32, 0x11, 16);
	put64(b->bytes + 48, flushed);
	put64(b->bytes + 56, last);
}

static inline uint8_t *log_descriptor(struct log_builder *b, const char *signature, uint64_t offset)
{
	uint8_t *d = b->bytes + 64 + 32 * b->descriptors++;

	memcpy(d, signature, 4);
	put64(d + 16, offset);
	put64(d + 24, b->sequence);
	return d;
}

static inline void log_zero(struct log_builder *b, uint64_t offset, uint64_t len)
{
	put64(log_descriptor(b, "zero", offset) + 8, len);
}

/* @page stays the caller's until log_finish(). */
static inline void log_data(struct log_builder *b, uint64_t offset, const uint8_t *page)
{
	uint8_t *d = log_descriptor(b, "desc", offset);

	memcpy(d + 4, page + 4092, 4);
	memcpy(d + 8, page, 8);
	b->page[b->data_sectors++] = page;
}

/* Returns the entry's length. */
static inline uint32_t log_finish(struct log_builder *b)
{
	uint32_t sectors = (64 + 32 * b->descriptors + 4095) / 4096;

	for (uint32_t i = 0; i < b->data_sectors; i++, sectors++) {
		uint8_t *s = b->bytes + 4096 * sectors;

		memcpy(s, b->page[i], 4096);
		memcpy(s, "data", 4);
		put32(s + 4, (uint32_t)(b->sequence >> 32));
		put32(s + 4092, (uint32_t)b->sequence);
	}
	put32(b->bytes + 8, 4096 * sectors);
	put32(b->bytes + 24, b->descriptors);
	seal(b->bytes, 4096 * sectors);
	return 4096 * sectors;
}

/* Copies @len bytes into a ring of @length at @at, around its end. Returns where the next entry goes. */
static inline uint32_t ring_put(uint8_t *ring, uint32_t length, uint32_t at, const uint8_t *bytes, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++)
		ring[(at + i) % length] = bytes[i];
	return (at + len) % length;
}

static inline void damage_byte(struct store *s, uint64_t at)
{
	uint8_t b;

	must(store_read(s, &b, 1, at));
	b ^= 0x40;
	must(store_write(s, &b, 1, at));
}

/* One more letter of a trace kept in an array. */
#define trace_note(trace, what)                              \
	do {                                                 \
		size_t trace_n = strlen(trace);              \
                                                             \
		assert_true(trace_n + 1 < sizeof(trace));    \
		(trace)[trace_n] = (what);                   \
		(trace)[trace_n + 1] = '\0';                 \
	} while (0)

#endif
