/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where the numbers of a seed image are. Mutation writes hostile values there instead of searching the file for them.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "tests/fuzz/fuzz.h"
#include "vhd/store_mem_int.h"
#include "vhd/vhd1_layout.h"
#include "vhd/vhdx_int.h"
#include "vhd/vhdx_layout.h"

#define FIELDS_MAX 1024u
#define BAT_FIELDS 24u

struct list {
	struct fz_field *field;
	unsigned count;
	uint8_t file;
	bool big_endian;
	uint64_t twin_distance;		/* from a field to the same one of the other copy, 0: none */
};

static void add(struct list *l, uint64_t offset, uint8_t width)
{
	if (l->count == FIELDS_MAX)
		return;
	l->field[l->count++] = (struct fz_field){
		.offset = offset, .file = l->file, .width = width, .big_endian = l->big_endian,
		.twin = l->twin_distance ? offset + l->twin_distance : 0,
	};
}

/* Widths one behind the other. */
static void add_row(struct list *l, uint64_t offset, const char *widths)
{
	for (; *widths; widths++) {
		uint8_t w = (uint8_t)(*widths == 'g' ? 16 : *widths - '0');

		add(l, offset, w);
		offset += w;
	}
}

static void add_array(struct list *l, uint64_t offset, unsigned count, uint64_t stride, const char *widths)
{
	for (unsigned i = 0; i < count; i++)
		add_row(l, offset + i * stride, widths);
}

/* ---- VHDX ------------------------------------------------------------------------------------------ */

static void log_fields(struct list *l, struct store *s, struct fz_seed *seed)
{
	for (uint32_t at = 0; at < seed->log_length; at += VHDX_LOG_SECTOR) {
		struct vhdx_log_entry_disk d;
		uint64_t entry = seed->log_offset + at;

		if (store_read(s, &d, sizeof(d), entry) < 0 || memcmp(d.signature, "loge", 4) != 0)
			continue;
		seed->log_used = at + VHDX_LOG_SECTOR;
		add_row(l, entry, "44448" "44" "g88");
		add_array(l, entry + 64, (unsigned)sp_min(le32_get(d.descriptor_count), 8), VHDX_LOG_DESC_SIZE,
			  "44888");
		add_row(l, entry + VHDX_LOG_SECTOR, "44");
	}
}

static void locator_fields(struct list *l, struct store *s, const struct vhdx_item *item)
{
	struct vhdx_locator_disk d;
	unsigned count;

	if (store_read(s, &d, sizeof(d), item->offset) < 0)
		return;
	count = le16_get(d.key_value_count);
	add_row(l, item->offset, "g22");
	add_array(l, item->offset + sizeof(d), count, sizeof(struct vhdx_locator_entry_disk), "4422");
	for (unsigned i = 0; i < 16; i++)	/* into the texts */
		add(l, item->offset + sizeof(d) + count * 12 + i * 20, 2);
}

static void metadata_fields(struct list *l, struct store *s, const struct vhdx_region *region)
{
	struct vhdx_metadata md = { 0 };

	add(l, region->offset + 10, 2);
	if (vhdx_metadata_read(s, region, &md, NULL) < 0)
		return;
	add_array(l, region->offset + 32, md.count + 1, 32, "g4444");
	for (unsigned i = 0; i < md.count; i++) {
		uint32_t length = md.item[i].length;

		if (length <= 16)
			add_row(l, md.item[i].offset, length == 8 ? "44" : length == 4 ? "4" : "g");
		if (length == 8)	/* two numbers or one */
			add(l, md.item[i].offset, 8);
		if (sp_guid_equal(&md.item[i].guid, &VHDX_GUID_PARENT_LOCATOR))
			locator_fields(l, s, &md.item[i]);
	}
	vhdx_metadata_fini(&md);
}

static void vhdx_fields(struct list *l, struct store *s, struct fz_seed *seed)
{
	struct vhdx_region_table t;
	uint64_t size;
	unsigned copy;

	if (store_size(s, &size) < 0 || vhdx_region_tables_read(s, size, &t, &copy, NULL) < 0)
		fz_fail("a seed image has no region table");
	add(l, 0, 8);
	l->twin_distance = 0x10000;
	add_row(l, 0x10000, "448ggg2248");
	add_row(l, 0x30000, "4444");
	add_array(l, 0x30010, t.count + 1, 32, "g844");
	l->twin_distance = 0;
	metadata_fields(l, s, &t.entry[t.metadata]);
	add_array(l, t.entry[t.bat].offset, BAT_FIELDS, 8, "8");
	add_array(l, t.entry[t.bat].offset + t.entry[t.bat].length - 64, 8, 8, "8");
	if (l->file == 0)
		log_fields(l, s, seed);
	sp_free(t.entry);
}

/* ---- VHD ------------------------------------------------------------------------------------------- */

static void vhd_fields(struct list *l, struct store *s)
{
	static const char footer[] = "8448444488224" "4" "g1";
	struct vhd1_header_disk h;
	struct vhd1_footer_disk f;
	uint64_t size, at;

	if (store_size(s, &size) < 0 || store_read(s, &f, sizeof(f), size - sizeof(f)) < 0)
		fz_fail("a seed image has no footer");
	l->big_endian = true;
	at = be64_get(f.data_offset);
	if (at == VHD1_NOWHERE) {
		add_row(l, size - sizeof(f), footer);
		return;
	}
	l->twin_distance = size - sizeof(f);
	add_row(l, 0, footer);
	l->twin_distance = 0;
	if (store_read(s, &h, sizeof(h), at) < 0)
		fz_fail("a seed image has no header");
	add_row(l, at, "8884444g44");
	add_array(l, at + offsetof(struct vhd1_header_disk, parent_name), 8, 2, "2");
	add_array(l, at + offsetof(struct vhd1_header_disk, locator), VHD1_LOCATORS, sizeof(h.locator[0]), "44448");
	add_array(l, be64_get(h.bat_offset), (unsigned)sp_min(be32_get(h.max_entries), BAT_FIELDS), 4, "4");
	for (unsigned i = 0; i < VHD1_LOCATORS; i++)
		if (be32_get(h.locator[i].code) != VHD1_CODE_NONE)
			add_array(l, be64_get(h.locator[i].data_offset), 8, 2, "2");
}

void fz_fields(struct fz_seed *seed)
{
	struct list l = { .field = calloc(FIELDS_MAX, sizeof(*l.field)) };

	fz_check(l.field, "out of memory");
	for (unsigned file = 0; file < seed->files; file++) {
		struct mem_file *f = store_folder_mem_get(seed->folder, seed->name[file]);
		struct store *s;

		fz_check(mem_file_open(f, seed->name[file], false, &s) == 0, "out of memory");
		l.file = (uint8_t)file;
		if (seed->format == VHD_FORMAT_VHDX)
			vhdx_fields(&l, s, seed);
		else
			vhd_fields(&l, s);
		store_close(s);
	}
	seed->field = l.field;
	seed->fields = l.count;
}
