/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Kernels out of file systems that mke2fs makes, on raw disks; then with bytes of those changed.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "tests/support/rng.h"
#include "tests/unit/rows.h"
#include "vmm/kernel_file.h"

#define KERNEL 300001u
#define INODE 256u
#define DISK SP_MIB(12)
#define PART_OFFSET SP_MIB(2)		/* the second of two partitions */

static char folder[] = "/tmp/spindle-kernel-XXXXXX";
static uint8_t content[KERNEL];
static struct vhd_disk *disk[3];	/* a bare file system; partitions; nothing recognisable */

static int run(const char *format, ...) __attribute__((format(printf, 1, 2)));

static int run(const char *format, ...)
{
	char command[1024];
	va_list ap;

	va_start(ap, format);
	vsnprintf(command, sizeof(command), format, ap);
	va_end(ap);
	return system(command);
}

static void write_file(const char *name, const void *bytes, size_t len)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(bytes, 1, len, f), len);
	fclose(f);
}

static struct vhd_disk *open_disk(const char *name, unsigned flags)
{
	struct vhd_open_opts o = { .format = VHD_FORMAT_RAW, .flags = flags };
	struct vhd_disk *d = NULL;
	struct sp_err err = { 0 };
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	if (vhd_disk_open(path, &o, &d, &err) < 0)
		fail_msg("%s", sp_err_text(&err));
	return d;
}

static int group_setup(void **state)
{
	struct rng rng;

	if (system("mke2fs -V >/dev/null 2>&1 && sfdisk -v >/dev/null 2>&1") != 0)
		return 0;
	rng_init(&rng, 5);
	rng_fill(&rng, content, sizeof(content));
	assert_non_null(mkdtemp(folder));
	assert_int_equal(run("cd %s && mkdir -p t/boot && ln -s boot/vmlinuz-6.1 t/vmlinuz && ln -s /boot/vmlinuz-6.1 "
			     "t/absolute && ln -s loop t/loop && ln -s ../../../boot/vmlinuz-6.1 t/boot/up && "
			     "ln -s /etc/passwd t/outside && mkfifo t/fifo && : >t/empty && truncate -s 1073741825 "
			     "t/large",
			     folder), 0);
	write_file("t/boot/vmlinuz-6.1", content, sizeof(content));
	assert_int_equal(run("cd %s && mke2fs -q -t ext4 -b 1024 -I %u -O ^metadata_csum -d t fs 9M >/dev/null && "
			     "truncate -s %u disk && "
			     "printf 'label: gpt\\nstart=2048, size=2048\\nstart=4096, size=18432\\n' | sfdisk -q "
			     "disk && "
			     "dd if=fs of=disk bs=1M seek=2 conv=notrunc status=none && truncate -s 4M blank", folder,
			     INODE, (unsigned)DISK), 0);
	disk[0] = open_disk("fs", 0);
	disk[1] = open_disk("disk", 0);
	disk[2] = open_disk("blank", 0);
	return 0;
}

static int group_teardown(void **state)
{
	for (unsigned i = 0; i < 3; i++)
		if (disk[i])
			vhd_disk_close(disk[i], NULL);
	return disk[0] ? run("rm -r %s", folder) : 0;
}

/* ---- names ----------------------------------------------------------------------------------------- */

static const struct name {
	const char *name, *text;
	int want;
	bool in_disk;
	unsigned disk, partition;
	const char *path;
} names[] = {
	{ "of the host", "/boot/vmlinuz", 0, false, 0, 0, "/boot/vmlinuz" },
	{ "of the host, relative", "vmlinuz", 0, false, 0, 0, "vmlinuz" },
	{ "begins like a disk", "diskette", 0, false, 0, 0, "diskette" },
	{ "a number, no colon", "disk0", 0, false, 0, 0, "disk0" },
	{ "escaped", "./disk0:/x", 0, false, 0, 0, "./disk0:/x" },
	{ "in a disk", "disk0:/vmlinuz", 0, true, 0, 0, "/vmlinuz" },
	{ "in disk 12", "disk12:/a:b", 0, true, 12, 0, "/a:b" },
	{ "in a partition", "disk1:p3:/boot/x", 0, true, 1, 3, "/boot/x" },
	{ "nothing", "", -EINVAL, false, 0, 0, NULL },
	{ "relative in a disk", "disk0:vmlinuz", -EINVAL, false, 0, 0, NULL },
	{ "no path", "disk0:", -EINVAL, false, 0, 0, NULL },
	{ "partition 0", "disk0:p0:/x", -EINVAL, false, 0, 0, NULL },
	{ "partition without number", "disk0:p:/x", -EINVAL, false, 0, 0, NULL },
	{ "partition without path", "disk0:p1", -EINVAL, false, 0, 0, NULL },
	{ "disk number too large", "disk4294967296:/x", -EINVAL, false, 0, 0, NULL },
	{ "disk number with more", "disk0x:/x", -EINVAL, false, 0, 0, NULL },
};

static void parse(void **state)
{
	const struct name *c = *state;
	struct vmm_kernel_file f = { 0 };

	assert_int_equal(vmm_kernel_file_parse(c->text, &f, NULL), c->want);
	if (c->want < 0)
		return;
	assert_int_equal(f.in_disk, c->in_disk);
	assert_int_equal(f.disk, c->disk);
	assert_int_equal(f.partition, c->partition);
	assert_string_equal(f.path, c->path);
}

/* ---- reading --------------------------------------------------------------------------------------- */

static const struct row {
	const char *name, *file;
	int want;
	const char *says;
} rows[] = {
	{ "by its name", "disk0:/boot/vmlinuz-6.1", 0, NULL },
	{ "by a link", "disk0:/vmlinuz", 0, NULL },
	{ "by an absolute link", "disk0:/absolute", 0, NULL },
	{ "by a link above the root", "disk0:/boot/up", 0, NULL },
	{ "in a named partition", "disk1:p2:/vmlinuz", 0, NULL },
	{ "in whichever partition has it", "disk1:/vmlinuz", 0, NULL },
	{ "missing", "disk0:/initrd.img", -ENOENT, "/initrd.img: not found" },
	{ "missing in every partition", "disk1:/initrd.img", -ENOENT, "partition 2" },
	{ "missing folder", "disk0:/efi/x", -ENOENT, "not found" },
	{ "below a file", "disk0:/vmlinuz/x", -ENOENT, "not found" },
	{ "a link to a file of the host stays inside", "disk0:/outside", -ENOENT, "not found" },
	{ "a link to itself", "disk0:/loop", -ELOOP, "loop" },
	{ "a folder", "disk0:/boot", -EINVAL, "no regular file" },
	{ "the root", "disk0:/", -EINVAL, "no regular file" },
	{ "a FIFO", "disk0:/fifo", -EINVAL, "no regular file" },
	{ "empty", "disk0:/empty", -EINVAL, "empty" },
	{ "a byte too large", "disk0:/large", -EFBIG, "1073741825" },
	{ "partition without file system", "disk1:p1:/vmlinuz", -ENOTSUP, "no file system" },
	{ "no such partition", "disk1:p9:/vmlinuz", -ENOENT, "no partition 9" },
	{ "blank disk", "disk2:/vmlinuz", -ENOTSUP, "no file system" },
	{ "no such disk", "disk3:/vmlinuz", -ENOENT, "no disk 3" },
	{ "no name", "", -EINVAL, "empty" },
};

static void read_row(void **state)
{
	const struct row *c = *state;
	struct sp_err err = { 0 };
	uint8_t *bytes = NULL;
	size_t len = 0;

	if (!disk[0])
		skip();
	assert_int_equal(vmm_kernel_file_read(c->file, disk, 3, &bytes, &len, &err), c->want);
	if (c->want == 0) {
		assert_int_equal(len, KERNEL);
		assert_memory_equal(bytes, content, KERNEL);
	} else {
		assert_null(bytes);
		if (!strstr(err.text, c->says) || strncmp(err.text, c->file, strlen(c->file)) != 0)
			fail_msg("%s", err.text);
	}
	sp_free(bytes);
}

static void of_host(void **state)
{
	struct sp_err err = { 0 };
	uint8_t *bytes = NULL;
	char path[256];
	size_t len = 0;

	if (!disk[0])
		skip();
	snprintf(path, sizeof(path), "%s/t/vmlinuz", folder);
	assert_int_equal(vmm_kernel_file_read(path, NULL, 0, &bytes, &len, &err), 0);
	assert_int_equal(len, KERNEL);
	assert_memory_equal(bytes, content, KERNEL);
	sp_free(bytes);
	snprintf(path, sizeof(path), "%s/t/fifo", folder);
	assert_int_equal(vmm_kernel_file_read(path, NULL, 0, &bytes, &len, &err), -EINVAL);
	snprintf(path, sizeof(path), "%s/t/large", folder);
	assert_int_equal(vmm_kernel_file_read(path, NULL, 0, &bytes, &len, &err), -EFBIG);
	snprintf(path, sizeof(path), "%s/t/empty", folder);
	assert_int_equal(vmm_kernel_file_read(path, NULL, 0, &bytes, &len, &err), -EINVAL);
	assert_int_equal(vmm_kernel_file_read(folder, NULL, 0, &bytes, &len, &err), -EINVAL);
	assert_int_equal(vmm_kernel_file_read("/no/such/file", NULL, 0, &bytes, &len, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/no/such/file"));
}

/* ---- hostile --------------------------------------------------------------------------------------- */

/* A copy of the file system, writable. */
static struct vhd_disk *copy_fs(void)
{
	assert_int_equal(run("cp %s/fs %s/bad", folder, folder), 0);
	return open_disk("bad", VHD_OPEN_WRITE);
}

static int read_bad(struct vhd_disk *d, struct sp_err *err)
{
	uint8_t *bytes = NULL;
	size_t len = 0;
	int r = vmm_kernel_file_read("disk0:/vmlinuz", &d, 1, &bytes, &len, err);

	assert_true((r == 0) == (bytes != NULL));
	sp_free(bytes);
	return r;
}

static const struct superblock {
	const char *name;
	unsigned at, bytes;
	uint64_t value;
} superblocks[] = {
	{ "more blocks than the disk", 0x04, 4, 0x7fffffff },
	{ "no blocks per group", 0x20, 4, 0 },
	{ "eight blocks per group", 0x20, 4, 8 },
	{ "block size 2^42", 0x18, 4, 32 },
	{ "block size 64 KiB", 0x18, 4, 6 },
	{ "first data block", 0x14, 4, 0xffffffff },
	{ "inodes per group", 0x28, 4, 0xffffffff },
	{ "inode size", 0x58, 2, 0xffff },
	{ "descriptor size", 0xfe, 2, 0xffff },
	{ "feature nobody knows", 0x60, 4, 0xffffffff },
};

static void superblock(void **state)
{
	const struct superblock *c = *state;
	struct sp_err err = { 0 };
	struct vhd_disk *d;
	le64_t value = le64_make(c->value);
	int r;

	if (!disk[0])
		skip();
	d = copy_fs();
	assert_int_equal(vhd_disk_write(d, &value, c->bytes, 1024 + c->at), 0);
	r = read_bad(d, &err);
	assert_true(r < 0 && err.text[0]);
	vhd_disk_close(d, NULL);
}

/* 84 ways to one and the same block below, six levels deep: 84^5 steps, each of which looks fine. */
#define FS_BLOCK 1024u
#define FAN ((FS_BLOCK - 12) / 12)
#define TREE 8500u			/* blocks near the end of the file system, which nothing else uses */

static void put_index(uint8_t *node, unsigned entries, unsigned depth, uint32_t block)
{
	le16_t header[4] = { le16_make(0xf30a), le16_make((uint16_t)entries), le16_make((uint16_t)entries),
			     le16_make((uint16_t)depth) };

	memset(node, 0, 12 + 12 * entries);
	memcpy(node, header, sizeof(header));
	for (unsigned i = 0; i < entries; i++) {
		le32_t first = le32_make(i), at = le32_make(block);

		memcpy(node + 12 + 12 * i, &first, 4);
		if (depth) {
			memcpy(node + 12 + 12 * i + 4, &at, 4);
		} else {
			node[12 + 12 * i + 4] = 1;	/* one block */
			memcpy(node + 12 + 12 * i + 8, &at, 4);
		}
	}
}

static void too_long(int number)
{
	run("rm -r %s", folder);
	_exit(1);
}

static void wide_tree(void **state)
{
	struct sp_err err = { 0 };
	struct vhd_disk *d;
	uint8_t node[FS_BLOCK] = { 0 };
	le32_t table, leaf;
	uint8_t *bytes;
	size_t len;
	uint64_t map;

	if (!disk[0])
		skip();
	d = copy_fs();
	assert_int_equal(vhd_disk_read(d, node, 8, 1024 + 24), 0);
	assert_int_equal(node[0], 0);		/* blocks of 1 KiB, so descriptors are in block 2 */
	assert_int_equal(vhd_disk_read(d, &table, 4, 2 * FS_BLOCK + 8), 0);
	map = (uint64_t)le32_get(table) * FS_BLOCK + INODE + 40;	/* of the root folder, inode 2 */
	assert_int_equal(vhd_disk_read(d, &leaf, 4, map + 12 + 8), 0);
	for (unsigned level = 0; level < 5; level++) {
		put_index(node, FAN, 4 - level, level < 4 ? TREE + level + 1 : le32_get(leaf));
		assert_int_equal(vhd_disk_write(d, node, FS_BLOCK, (TREE + (uint64_t)level) * FS_BLOCK), 0);
	}
	put_index(node, 4, 5, TREE);
	assert_int_equal(vhd_disk_write(d, node, 60, map), 0);
	signal(SIGALRM, too_long);
	alarm(5);				/* would take years */
	assert_int_equal(vmm_kernel_file_read("disk0:/no", &d, 1, &bytes, &len, &err), -EBADMSG);
	alarm(0);
	assert_non_null(strstr(err.text, "circles"));
	vhd_disk_close(d, NULL);
}

static void any_bytes(void **state)
{
	struct vhd_disk *d;
	struct rng rng;

	if (!disk[0])
		skip();
	rng_init(&rng, 3);
	d = copy_fs();
	for (unsigned round = 0; round < 150; round++) {
		struct sp_err err = { 0 };
		uint64_t at[8];
		uint8_t before[8], byte;

		for (unsigned i = 0; i < 8; i++) {
			at[i] = i < 2 ? 1024 + rng_below(&rng, 1024) : rng_below(&rng, SP_MIB(1));
			byte = (uint8_t)rng_u64(&rng);
			assert_int_equal(vhd_disk_read(d, &before[i], 1, at[i]), 0);
			assert_int_equal(vhd_disk_write(d, &byte, 1, at[i]), 0);
		}
		if (read_bad(d, &err) < 0)
			assert_true(err.text[0]);
		for (unsigned i = 8; i-- > 0;)
			assert_int_equal(vhd_disk_write(d, &before[i], 1, at[i]), 0);
	}
	vhd_disk_close(d, NULL);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(of_host), cmocka_unit_test(wide_tree), cmocka_unit_test(any_bytes),
	};
	int failed;

	group_setup(NULL);
	failed = cmocka_run_group_tests_name("kernel_file", tests, NULL, NULL);
	failed += ROWS_RUN(names, parse);
	failed += ROWS_RUN(rows, read_row);
	failed += ROWS_RUN(superblocks, superblock);
	group_teardown(NULL);
	return failed != 0;
}
