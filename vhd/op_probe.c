/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * libblkid wants a file descriptor; a virtual disk has none. So the stretches libblkid looks at are copied into a
 * sparse memory file of the disk's size, and libblkid probes that. Three rounds:
 *
 *   1. head and tail of the disk -> partition table, or a file system without one
 *   2. boot records of logical partitions, which are scattered over an MBR extended partition
 *   3. head and tail of each partition -> file systems; and where a boot sector points to the label, that place too
 *
 * Only what the chain has allocated is copied; the rest is a hole of the memory file and reads as zeros.
 */
#include "vhd/probe.h"

#include <blkid/blkid.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "vhd/store.h"

#define EDGE SP_MIB(2)			/* every superblock libblkid knows is this near to one end */
#define LABEL_ROOM SP_KIB(64)		/* directory or table that holds a label */
#define COPY_UNIT ((size_t)SP_KIB(256))
#define PARTITIONS_MAX 1024
#define LOGICAL_MAX 256

struct window {
	struct vhd_disk *disk;
	struct store *memory;		/* the memory file */
	uint64_t size;
	uint8_t *buf;			/* COPY_UNIT */
	bool incomplete;
};

static void text_copy(char *dst, size_t room, const char *src)
{
	snprintf(dst, room, "%s", src ? src : "");
}

/* ---- the memory file ----------------------------------------------------------------------------- */

static int window_copy(struct window *w, uint64_t offset, uint64_t len)
{
	while (len > 0) {
		size_t n = (size_t)sp_min(len, COPY_UNIT);
		int r = vhd_disk_read(w->disk, w->buf, n, offset);

		if (r < 0) {
			w->incomplete = true;	/* one bad stretch does not hide the rest */
			if (r == -ENOMEM)
				return r;
		} else {
			r = store_write(w->memory, w->buf, n, offset);
			if (r < 0)
				return r;
		}
		offset += n;
		len -= n;
	}
	return 0;
}

/* Makes [offset, offset+len) of the memory file read as the disk does; parts past the end are ignored. */
static int window_fill(struct window *w, uint64_t offset, uint64_t len)
{
	struct vhd_range range;
	int r;

	if (offset >= w->size)
		return 0;
	len = sp_min(len, w->size - offset);
	for (; len > 0; offset += range.len, len -= range.len) {
		r = vhd_disk_map(w->disk, offset, len, &range);
		if (r == -ENOMEM)
			return r;
		if (r < 0) {		/* damaged metadata: step over it sector by sector */
			w->incomplete = true;
			range.len = sp_min(len, 4096);
			continue;
		}
		if (range.kind == VHD_RANGE_DATA) {
			r = window_copy(w, offset, range.len);
			if (r < 0)
				return r;
		} else if (range.kind != VHD_RANGE_ZERO) {
			w->incomplete = true;
		}
	}
	return 0;
}

static int window_fill_edges(struct window *w, uint64_t offset, uint64_t len)
{
	int r = window_fill(w, offset, sp_min(len, EDGE));

	if (r == 0 && len > EDGE)
		r = window_fill(w, offset + len - EDGE, EDGE);
	return r;
}

static bool window_peek(struct window *w, void *buf, size_t len, uint64_t offset)
{
	return sp_range_ok(offset, len, w->size) && store_read(w->memory, buf, len, offset) == 0;
}

/* ---- places named by other places ---------------------------------------------------------------- */

/*
 * The labels of NTFS, FAT32 and exFAT live where the boot sector says, anywhere in the partition. Only the pointer is
 * decoded here; what stands there is libblkid's business. Returns the offset in the partition, or 0.
 */
static uint64_t label_place(const uint8_t boot[static 512])
{
	uint64_t sector = (uint64_t)boot[11] | (uint64_t)boot[12] << 8, cluster = sector * boot[13];
	le16_t reserved;
	le32_t fat_sectors, root, heap;
	le64_t mft;

	memcpy(&reserved, boot + 14, sizeof(reserved));
	memcpy(&fat_sectors, boot + 36, sizeof(fat_sectors));
	memcpy(&root, boot + 44, sizeof(root));
	memcpy(&mft, boot + 48, sizeof(mft));
	if (memcmp(boot + 3, "NTFS    ", 8) == 0) {
		if (boot[13] > 128)	/* a negative power of two */
			cluster = sector << (256 - boot[13] < 16 ? 256 - boot[13] : 0);
		return le64_get(mft) < (1ull << 40) ? le64_get(mft) * cluster : 0;
	}
	if (memcmp(boot + 3, "EXFAT   ", 8) == 0) {
		unsigned sector_shift = boot[108], cluster_shift = boot[109];

		memcpy(&heap, boot + 88, sizeof(heap));
		memcpy(&root, boot + 96, sizeof(root));
		if (sector_shift < 9 || sector_shift > 12 || cluster_shift > 16 || le32_get(root) < 2)
			return 0;
		return (le32_get(heap) + ((uint64_t)(le32_get(root) - 2) << cluster_shift)) << sector_shift;
	}
	if (memcmp(boot + 82, "FAT32", 5) == 0 && le32_get(root) >= 2)
		return (le16_get(reserved) + (uint64_t)boot[16] * le32_get(fat_sectors)) * sector +
		       (uint64_t)(le32_get(root) - 2) * cluster;
	return 0;
}

static int fill_label(struct window *w, uint64_t offset, uint64_t len)
{
	uint8_t boot[512];
	uint64_t place;

	if (!window_peek(w, boot, sizeof(boot), offset))
		return 0;
	place = label_place(boot);
	return place && sp_range_ok(place, 512, len) ? window_fill(w, offset + place, LABEL_ROOM) : 0;
}

/* Follows the chain of boot records inside an extended partition, so that libblkid finds every one of them. */
static int fill_boot_records(struct window *w, uint64_t base, uint64_t len, uint32_t sector_size)
{
	uint64_t at = 0;

	for (unsigned i = 0; i < LOGICAL_MAX && at < len; i++) {
		uint8_t record[512];
		uint64_t next = 0;
		int r = window_fill(w, base + at, sector_size);

		if (r < 0)
			return r;
		if (!window_peek(w, record, sizeof(record), base + at) || record[510] != 0x55 || record[511] != 0xaa)
			return 0;
		for (unsigned slot = 0; slot < 4; slot++) {
			const uint8_t *e = record + 446 + 16 * slot;
			le32_t start;

			memcpy(&start, e + 8, sizeof(start));
			if (e[4] == 0x05 || e[4] == 0x0f || e[4] == 0x85)
				next = (uint64_t)le32_get(start) * sector_size;
		}
		if (next == 0)
			return 0;
		at = next;
	}
	return 0;
}

/* ---- libblkid ------------------------------------------------------------------------------------ */

static blkid_probe probe_new(struct window *w, uint64_t offset, uint64_t len, bool table, bool filesystem)
{
	blkid_probe pr = blkid_new_probe();

	if (!pr)
		return NULL;
	if (blkid_probe_set_device(pr, w->memory->ops->fd(w->memory), (blkid_loff_t)offset, (blkid_loff_t)len) < 0 ||
	    blkid_probe_set_sectorsize(pr, vhd_disk_logical_sector(w->disk)) < 0) {
		blkid_free_probe(pr);
		return NULL;
	}
	blkid_probe_enable_partitions(pr, table);
	blkid_probe_enable_superblocks(pr, filesystem);
	blkid_probe_set_superblocks_flags(pr, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE | BLKID_SUBLKS_LABEL |
					  BLKID_SUBLKS_UUID);
	return pr;
}

static const char *probe_value(blkid_probe pr, const char *name)
{
	const char *value = NULL;

	return blkid_probe_lookup_value(pr, name, &value, NULL) == 0 ? value : NULL;
}

static int probe_filesystem(struct window *w, uint64_t offset, uint64_t len, struct vhd_filesystem *ret_fs)
{
	blkid_probe pr;
	int r;

	r = window_fill_edges(w, offset, len);
	if (r == 0)
		r = fill_label(w, offset, len);
	if (r < 0)
		return r;
	pr = probe_new(w, offset, len, false, true);
	if (!pr)
		return -ENOMEM;
	r = blkid_do_safeprobe(pr);
	if (r == -2) {
		text_copy(ret_fs->type, sizeof(ret_fs->type), "ambiguous");
	} else if (r == 0) {
		text_copy(ret_fs->type, sizeof(ret_fs->type), probe_value(pr, "TYPE"));
		text_copy(ret_fs->usage, sizeof(ret_fs->usage), probe_value(pr, "USAGE"));
		text_copy(ret_fs->label, sizeof(ret_fs->label), probe_value(pr, "LABEL"));
		text_copy(ret_fs->uuid, sizeof(ret_fs->uuid), probe_value(pr, "UUID"));
	}
	blkid_free_probe(pr);
	return 0;
}

static void take_partition(struct window *w, blkid_partition par, struct vhd_partition *p)
{
	/* libblkid counts in 512-byte units whatever the sector size. */
	uint64_t start = (uint64_t)blkid_partition_get_start(par), size = (uint64_t)blkid_partition_get_size(par);
	const char *type = blkid_partition_get_type_string(par);

	if (start > w->size / 512)
		return;		/* stays without a size: dropped by the caller */
	p->number = (unsigned)blkid_partition_get_partno(par);
	p->offset = start * 512;
	p->size = sp_min(size, (w->size - p->offset) / 512) * 512;
	p->container = blkid_partition_is_extended(par);
	if (type && *type)
		text_copy(p->type, sizeof(p->type), type);
	else
		snprintf(p->type, sizeof(p->type), "0x%02x", (unsigned)blkid_partition_get_type(par));
	text_copy(p->name, sizeof(p->name), blkid_partition_get_name(par));
	text_copy(p->uuid, sizeof(p->uuid), blkid_partition_get_uuid(par));
}

/* Reads the table as far as the memory file is filled; replaces what an earlier round found. */
static int probe_table(struct window *w, struct vhd_probe_result *res)
{
	blkid_probe pr = probe_new(w, 0, w->size, true, false);
	struct vhd_partition *list = NULL;
	blkid_partlist ls;
	size_t n = 0;
	int count;

	if (!pr)
		return -ENOMEM;
	blkid_probe_set_partitions_flags(pr, BLKID_PARTS_ENTRY_DETAILS);
	ls = blkid_probe_get_partitions(pr);
	count = ls ? blkid_partlist_numof_partitions(ls) : 0;
	if (ls && blkid_partlist_get_table(ls)) {
		blkid_parttable table = blkid_partlist_get_table(ls);

		text_copy(res->table, sizeof(res->table), blkid_parttable_get_type(table));
		text_copy(res->table_uuid, sizeof(res->table_uuid), blkid_parttable_get_id(table));
	}
	count = count > PARTITIONS_MAX ? PARTITIONS_MAX : count;
	list = sp_calloc((size_t)count + 1, sizeof(*list));
	for (int i = 0; list && i < count; i++) {
		take_partition(w, blkid_partlist_get_partition(ls, i), &list[n]);
		n += list[n].size > 0;
	}
	blkid_free_probe(pr);
	if (!list)
		return -ENOMEM;
	sp_free(res->partition);
	res->partition = list;
	res->partitions = n;
	return 0;
}

static int probe_all(struct window *w, struct vhd_probe_result *res)
{
	bool extended = false;
	int r;

	r = window_fill_edges(w, 0, w->size);
	if (r == 0)
		r = probe_table(w, res);
	for (size_t i = 0; r == 0 && i < res->partitions; i++) {
		if (!res->partition[i].container)
			continue;
		extended = true;
		r = fill_boot_records(w, res->partition[i].offset, res->partition[i].size,
				      vhd_disk_logical_sector(w->disk));
	}
	if (r == 0 && extended)
		r = probe_table(w, res);
	for (size_t i = 0; r == 0 && i < res->partitions; i++) {
		struct vhd_partition *p = &res->partition[i];

		if (!p->container)
			r = probe_filesystem(w, p->offset, p->size, &p->fs);
	}
	if (r == 0 && !res->table[0])
		r = probe_filesystem(w, 0, w->size, &res->fs);
	return r;
}

/* A sparse file in memory with a descriptor that libblkid can read from. */
static int window_open(struct window *w)
{
	int fd = memfd_create("spindle-probe", MFD_CLOEXEC), r;

	if (fd < 0)
		return -errno;
	r = store_file_adopt(fd, "probe", STORE_RDWR | STORE_NO_LOCK, &w->memory, NULL);
	if (r < 0) {
		close(fd);
		return r;
	}
	w->buf = sp_alloc(COPY_UNIT);
	return w->buf ? store_resize(w->memory, w->size) : -ENOMEM;
}

int vhd_probe_disk(struct vhd_disk *d, struct vhd_probe_result *ret, struct sp_err *err)
{
	struct window w = { .disk = d, .size = vhd_disk_size(d) };
	struct vhd_probe_result res = { 0 };
	int r;

	r = window_open(&w);
	if (r == 0)
		r = probe_all(&w, &res);
	store_close(w.memory);
	sp_free(w.buf);
	if (r < 0) {
		vhd_probe_fini(&res);
		return sp_err_set(err, r, "cannot look for partitions: %s", strerror(-r));
	}
	res.incomplete = w.incomplete;
	*ret = res;
	return 0;
}

void vhd_probe_fini(struct vhd_probe_result *res)
{
	sp_free(res->partition);
	*res = (struct vhd_probe_result){ 0 };
}
