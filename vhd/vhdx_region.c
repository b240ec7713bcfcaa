/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Region tables, and the proof that nothing in the file overlaps anything else. [MS-VHDX] 2.2.3; checks X5 to X7.
 */
#include "vhd/vhdx_int.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/seed.h"
#include "vhd/vhdx_layout.h"

static int entry_check(const struct vhdx_region *g, unsigned index, uint64_t file_size, struct sp_err *err)
{
	if (!sp_is_aligned(g->offset, VHDX_MIB) || g->offset < VHDX_HEADER_SECTION_SIZE)
		return sp_err_set(err, -EBADMSG,
				  "entry %u: offset %#" PRIx64 " is not a multiple of 1 MiB from 1 MiB up", index,
				  g->offset);
	if (g->length == 0 || !sp_is_aligned(g->length, VHDX_MIB))
		return sp_err_set(err, -EBADMSG, "entry %u: length %#" PRIx32 " is not a positive multiple of 1 MiB",
				  index, g->length);
	if (!sp_range_ok(g->offset, g->length, file_size) && !SP_SEED_BUG(VHDX_REGION_PAST_END))
		return sp_err_set(err, -EBADMSG,
				  "entry %u: region at %#" PRIx64 " + %#" PRIx32
				  " reaches past the end of the file (%#" PRIx64 ")",
				  index, g->offset, g->length, file_size);
	return 0;
}

static int entries_decode(const uint8_t *buf, uint64_t file_size, struct vhdx_region_table *t, struct sp_err *err)
{
	for (unsigned i = 0; i < t->count; i++) {
		struct vhdx_region *g = &t->entry[i];
		struct vhdx_region_entry_disk d;
		int r;

		memcpy(&d, buf + sizeof(struct vhdx_region_table_disk) + i * sizeof(d), sizeof(d));
		g->guid = d.guid;
		g->offset = le64_get(d.file_offset);
		g->length = le32_get(d.length);
		g->required = le32_get(d.flags) & VHDX_REGION_REQUIRED;
		r = entry_check(g, i, file_size, err);
		if (r < 0)
			return r;
		for (unsigned k = 0; k < i; k++) {
			if (sp_guid_equal(&t->entry[k].guid, &g->guid))
				return sp_err_set(err, -EBADMSG, "entries %u and %u have the same GUID", k, i);
		}
		if (sp_guid_equal(&g->guid, &VHDX_GUID_BAT_REGION))
			t->bat = (int)i;
		else if (sp_guid_equal(&g->guid, &VHDX_GUID_METADATA_REGION))
			t->metadata = (int)i;
	}
	if (t->bat < 0 || t->metadata < 0)
		return sp_err_set(err, -EBADMSG, "there is no %s region", t->bat < 0 ? "BAT" : "metadata");
	return 0;
}

static int refuse_unknown_required(const struct vhdx_region_table *t, struct sp_err *err)
{
	for (unsigned i = 0; i < t->count; i++) {
		char text[SP_GUID_TEXT];

		if (!t->entry[i].required || (int)i == t->bat || (int)i == t->metadata)
			continue;
		sp_guid_format_le(&t->entry[i].guid, text);
		return sp_err_set(err, -ENOTSUP, "entry %u: region %s is required but unknown here", i, text);
	}
	return 0;
}

/**
 * vhdx_region_table_decode - one copy of the region table
 * @ret_table: release ->entry with sp_free()
 *
 * Returns 0, -EBADMSG (this copy is damaged), -ENOTSUP (intact, but a required region is unknown), -ENOMEM.
 */
int vhdx_region_table_decode(const uint8_t buf[static VHDX_REGION_TABLE_SIZE], uint64_t file_size,
			     struct vhdx_region_table *ret_table, struct sp_err *err)
{
	struct vhdx_region_table t = { .bat = -1, .metadata = -1 };
	struct vhdx_region_table_disk d;
	uint32_t crc;
	int r;

	memcpy(&d, buf, sizeof(d));
	if (memcmp(d.signature, VHDX_REGION_SIGNATURE, 4) != 0)
		return sp_err_set(err, -EBADMSG, "signature is not \"regi\"");
	crc = sp_crc32c_skip(buf, VHDX_REGION_TABLE_SIZE, offsetof(struct vhdx_region_table_disk, checksum));
	if (crc != le32_get(d.checksum))
		return sp_err_set(err, -EBADMSG, "checksum is %08" PRIx32 ", computed %08" PRIx32,
				  le32_get(d.checksum), crc);
	t.count = le32_get(d.entry_count);
	if (t.count > VHDX_REGION_ENTRIES_MAX)
		return sp_err_set(err, -EBADMSG, "entry count is %u, at most %u fit", t.count, VHDX_REGION_ENTRIES_MAX);
	t.entry = sp_calloc(t.count ? t.count : 1, sizeof(*t.entry));
	if (!t.entry)
		return sp_err_set(err, -ENOMEM, "out of memory");
	r = entries_decode(buf, file_size, &t, err);
	if (r == 0)
		r = refuse_unknown_required(&t, err);
	if (r < 0) {
		sp_free(t.entry);
		return r;
	}
	*ret_table = t;
	return 0;
}

void vhdx_region_table_encode(const struct vhdx_region *entry, unsigned count,
			      uint8_t ret_buf[static VHDX_REGION_TABLE_SIZE])
{
	struct vhdx_region_table_disk d = {
		.signature = { 'r', 'e', 'g', 'i' },
		.entry_count = le32_make(count),
	};

	memset(ret_buf, 0, VHDX_REGION_TABLE_SIZE);
	memcpy(ret_buf, &d, sizeof(d));
	for (unsigned i = 0; i < count; i++) {
		struct vhdx_region_entry_disk e = {
			.guid = entry[i].guid,
			.file_offset = le64_make(entry[i].offset),
			.length = le32_make(entry[i].length),
			.flags = le32_make(entry[i].required ? VHDX_REGION_REQUIRED : 0),
		};

		memcpy(ret_buf + sizeof(d) + i * sizeof(e), &e, sizeof(e));
	}
	d.checksum = le32_make(sp_crc32c(ret_buf, VHDX_REGION_TABLE_SIZE));
	memcpy(ret_buf, &d, sizeof(d));
}

/**
 * vhdx_region_tables_read - copy 1, or copy 2 when copy 1 is damaged or unreadable
 * @ret_copy: which one was used, 0 or 1
 */
int vhdx_region_tables_read(struct store *s, uint64_t file_size, struct vhdx_region_table *ret_table,
			    unsigned *ret_copy, struct sp_err *err)
{
	SP_AUTO_FREE uint8_t *buf = sp_alloc(VHDX_REGION_TABLE_SIZE);
	struct sp_err why[2] = { 0 };
	int r;

	if (!buf)
		return sp_err_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < 2; i++) {
		r = store_read(s, buf, VHDX_REGION_TABLE_SIZE, VHDX_REGION_TABLE_OFFSET(i));
		if (r < 0)
			sp_err_set(&why[i], r, "cannot be read: %s", strerror(-r));
		else
			r = vhdx_region_table_decode(buf, file_size, ret_table, &why[i]);
		if (r == 0) {
			*ret_copy = i;
			return 0;
		}
		if (r != -EBADMSG && r != -EIO && r != -ENODATA)
			return sp_err_set(err, r, "region table %u at %#x: %s", i + 1, VHDX_REGION_TABLE_OFFSET(i),
					  sp_err_text(&why[i]));
	}
	return sp_err_set(err, -EBADMSG, "no valid region table: copy 1 at 0x30000: %s; copy 2 at 0x40000: %s",
			  sp_err_text(&why[0]), sp_err_text(&why[1]));
}

/**
 * vhdx_region_table_restore - the other copy becomes what copy @from is; durable on return
 *
 * Power may fail in the middle: copy @from stays, and half a copy has no valid checksum.
 * Returns 0 (also when they are the same already), -ENOMEM or an I/O error.
 */
int vhdx_region_table_restore(struct store *s, unsigned from)
{
	SP_AUTO_FREE uint8_t *good = sp_alloc_aligned(VHDX_PAGE, VHDX_REGION_TABLE_SIZE);
	SP_AUTO_FREE uint8_t *other = sp_alloc_aligned(VHDX_PAGE, VHDX_REGION_TABLE_SIZE);
	int r;

	if (!good || !other)
		return -ENOMEM;
	r = store_read(s, good, VHDX_REGION_TABLE_SIZE, VHDX_REGION_TABLE_OFFSET(from));
	if (r < 0)
		return r;
	if (store_read(s, other, VHDX_REGION_TABLE_SIZE, VHDX_REGION_TABLE_OFFSET(!from)) == 0 &&
	    memcmp(good, other, VHDX_REGION_TABLE_SIZE) == 0)
		return 0;
	r = store_write(s, good, VHDX_REGION_TABLE_SIZE, VHDX_REGION_TABLE_OFFSET(!from));
	return r < 0 ? r : store_sync(s);
}

struct span {
	uint64_t offset, len;
	char what[SP_GUID_TEXT + 8];
};

static int span_compare(const void *pa, const void *pb)
{
	const struct span *a = pa, *b = pb;

	return a->offset < b->offset ? -1 : a->offset > b->offset;
}

static void span_of_region(const struct vhdx_region_table *t, unsigned i, struct span *ret_span)
{
	char text[SP_GUID_TEXT];

	ret_span->offset = t->entry[i].offset;
	ret_span->len = t->entry[i].length;
	sp_guid_format_le(&t->entry[i].guid, text);
	if ((int)i == t->bat)
		strcpy(ret_span->what, "BAT region");
	else if ((int)i == t->metadata)
		strcpy(ret_span->what, "metadata region");
	else
		snprintf(ret_span->what, sizeof(ret_span->what), "region %s", text);
}

/**
 * vhdx_layout_check - log and regions are pairwise disjoint (X6)
 *
 * That they lie behind the header section and inside the file has been seen by the decoders.
 * Returns 0, -EBADMSG naming both, -ENOMEM.
 */
int vhdx_layout_check(const struct vhdx_header *h, const struct vhdx_region_table *t, uint64_t file_size,
		      struct sp_err *err)
{
	SP_AUTO_FREE struct span *span = sp_calloc(t->count + 1, sizeof(*span));
	unsigned n = 0;

	if (!span)
		return sp_err_set(err, -ENOMEM, "out of memory");
	for (; n < t->count; n++)
		span_of_region(t, n, &span[n]);
	if (h->log_length > 0) {
		span[n] = (struct span){ .offset = h->log_offset, .len = h->log_length, .what = "log" };
		n++;
	}
	qsort(span, n, sizeof(*span), span_compare);
	for (unsigned i = 0; i < n; i++) {
		if (!sp_range_ok(span[i].offset, span[i].len, file_size))
			return sp_err_set(err, -EBADMSG,
					  "%s at %#" PRIx64 " reaches past the end of the file (%#" PRIx64 ")",
					  span[i].what, span[i].offset, file_size);
		if (i > 0 && sp_ranges_overlap(span[i - 1].offset, span[i - 1].len, span[i].offset, span[i].len))
			return sp_err_set(err, -EBADMSG, "%s at %#" PRIx64 " and %s at %#" PRIx64 " overlap",
					  span[i - 1].what, span[i - 1].offset, span[i].what, span[i].offset);
	}
	return 0;
}
