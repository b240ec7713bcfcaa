/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * VHD 1.0 against other programs, where they are installed: what we write qemu-img and libvhdi read, and the other way
 * round. Known defects of theirs are stepped around: QEMU takes a fixed VHD for raw unless told, sees sizes by CHS for
 * most creators, and has no differencing images; libvhdi takes the original size.
 */
#include "tests/unit/vhd1_images.h"

#include <stdio.h>
#include <unistd.h>

#define DISK SP_MIB(40)

static char folder[] = "/tmp/spindle-vhd1-XXXXXX";

static int run(const char *format, ...) __attribute__((format(printf, 1, 2)));

static int run(const char *format, ...)
{
	char command[1024], line[1100];
	va_list ap;

	va_start(ap, format);
	vsnprintf(command, sizeof(command), format, ap);
	va_end(ap);
	snprintf(line, sizeof(line), "cd %s && { %s; } >out 2>&1", folder, command);
	return system(line);
}

static void need(const char *program)
{
	if (run("command -v %s", program) != 0)
		skip();
}

static struct store *open_file(const char *name, unsigned flags)
{
	char path[256];
	struct store *s;
	struct sp_err err = { 0 };

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	if (store_file_open(path, flags, &s, &err) < 0)
		fail_msg("%s", sp_err_text(&err));
	return s;
}

/* Disk contents that say where they are, in some places. */
static void pattern(uint8_t *disk)
{
	memset(disk, 0, DISK);
	for (uint64_t at = 0; at < DISK; at += 5 * SP_MIB(1) + 4096)
		for (uint64_t i = 0; i < 20480 && at + i < DISK; i++)
			disk[at + i] = (uint8_t)((at + i) >> 9 | 1);
}

static void write_pattern(struct vhd_image *img, const uint8_t *disk)
{
	assert_int_equal(vhd1_begin_write(img), 0);
	for (uint64_t at = 0; at < DISK; at += 4096)
		if (disk[at] || disk[at + 4095])
			assert_int_equal(image_write(img, disk + at, 4096, at), 0);
}

static void expect_raw(const char *name, const uint8_t *disk)
{
	struct store *s = open_file(name, 0);
	uint8_t *got = test_malloc(DISK);

	assert_true(file_size(s) >= DISK);
	peek(s, got, DISK, 0);
	assert_memory_equal(got, disk, DISK);
	test_free(got);
	store_close(s);
}

static const struct kind_row { const char *name; enum vhd_kind kind; } kind_rows[] = {
	{ "QEMU reads fixed", VHD_KIND_FIXED }, { "QEMU reads dynamic", VHD_KIND_DYNAMIC },
};

static void qemu_reads_ours(void **state)
{
	const struct kind_row *row = *state;
	struct vhd_format_create c = { .size = DISK, .kind = row->kind };
	uint8_t *disk = test_malloc(DISK);
	struct store *s;
	struct vhd_image *img;

	need("qemu-img");
	run("rm -f a.vhd a.raw");
	s = open_file("a.vhd", STORE_RDWR | STORE_CREATE);
	assert_int_equal(vhd1_create(s, &c, NULL), 0);
	img = open_image(s, VHD_IMG_WRITABLE);
	pattern(disk);
	write_pattern(img, disk);
	assert_int_equal(vhd_image_close(img, false), 0);
	assert_int_equal(run("qemu-img info -f vpc a.vhd | grep '(%llu bytes)'", (unsigned long long)DISK), 0);
	assert_int_equal(run("qemu-img convert -f vpc -O raw a.vhd a.raw"), 0);
	expect_raw("a.raw", disk);
	if (row->kind == VHD_KIND_DYNAMIC)	/* QEMU probes a fixed one as raw */
		assert_int_equal(run("qemu-img info a.vhd | grep 'file format: vpc'"), 0);
	test_free(disk);
}

/* QEMU's image has blocks at 512-byte places: we go on writing to it, then it reads. */
static void we_write_theirs(void **state)
{
	uint8_t *disk = test_malloc(DISK), *got = test_malloc(DISK);
	struct vhd_report rep = { 0 };
	struct vhd_image *img;
	struct store *s;

	need("qemu-io");
	run("rm -f b.vhd b.raw");
	assert_int_equal(run("qemu-img create -f vpc -o subformat=dynamic,force_size=on b.vhd 40M"), 0);
	assert_int_equal(run("qemu-io -f vpc -c 'write -P 0x5a 6M 64k' -c 'write -P 0x5b 33M 4k' b.vhd"), 0);
	img = open_image(open_file("b.vhd", STORE_RDWR), VHD_IMG_WRITABLE);
	assert_null(img->warning);
	assert_int_equal(img->size, DISK);
	pattern(disk);
	write_pattern(img, disk);
	memset(disk + SP_MIB(6), 0x5a, 65536);
	memset(disk + SP_MIB(33), 0x5b, 4096);
	assert_int_equal(image_write(img, disk + SP_MIB(6), 65536, SP_MIB(6)), 0);
	image_read(img, got, DISK, 0);
	assert_memory_equal(got, disk, DISK);
	assert_int_equal(vhd_image_close(img, false), 0);

	assert_int_equal(run("qemu-img convert -f vpc -O raw b.vhd b.raw"), 0);
	expect_raw("b.raw", disk);
	s = open_file("b.vhd", 0);
	assert_int_equal(vhd1_check(s, &rep), 0);
	for (size_t i = 0; i < rep.findings; i++)
		print_message("%s: %s\n", rep.finding[i].structure, rep.finding[i].text);
	assert_int_equal(rep.errors + rep.leaks, 0);
	vhd_report_fini(&rep);
	store_close(s);
	test_free(got);
	test_free(disk);
}

static void libvhdi_reads_ours(void **state)
{
	struct vhd_format_create c = { .size = DISK, .kind = VHD_KIND_DIFFERENCING, .parent_relative = "base.vhd",
				       .parent_absolute = "/vm/base.vhd" };
	struct store *s;

	need("vhdiinfo");
	for (int i = 0; i < 16; i++)
		c.parent_identity.b[i] = (uint8_t)i;
	run("rm -f c.vhd");
	s = open_file("c.vhd", STORE_RDWR | STORE_CREATE);
	assert_int_equal(vhd1_create(s, &c, NULL), 0);
	store_close(s);
	assert_int_equal(run("vhdiinfo c.vhd"), 0);
	assert_int_equal(run("vhdiinfo c.vhd | grep -i 'differential'"), 0);
	assert_int_equal(run("vhdiinfo c.vhd | grep -F '(%llu bytes)'", (unsigned long long)DISK), 0);
	assert_int_equal(run("vhdiinfo c.vhd | grep -i '00010203-0405-0607-0809-0a0b0c0d0e0f'"), 0);
	assert_int_equal(run("vhdiinfo c.vhd | grep -F 'base.vhd'"), 0);
}

static const struct single_row single_rows[] = {
	{ "QEMU's image, written by us", we_write_theirs },
	{ "libvhdi reads a differencing image", libvhdi_reads_ours },
};

int main(void)
{
	int failed = 0;

	if (!mkdtemp(folder))
		return 1;
	failed += ROWS_RUN(kind_rows, qemu_reads_ours);
	failed += ROWS_RUN(single_rows, rows_single);
	run("rm -f ./*");
	rmdir(folder);
	return failed != 0;
}
