/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Change tracking: every reason to know nothing. Other programs, other files, damage.
 */
#include "tests/unit/track_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vhd/store_mem_int.h"

/* ---- reasons to know nothing ---------------------------------------------------------------------- */

static void test_written_by_others(void **state)
{
	const struct format_row *row = *state;
	struct store_folder *f = folder_new();
	struct vhd_disk *d = fresh(f, row->format);

	point(d, "a");
	write_at(d, UNIT, 512, 1);
	point(d, "b");
	finish(d);
	d = open_format(f, "disk", row->format, true);
	write_at(d, 9 * UNIT, 512, 1);
	expect_everything(d, "a", VHD_TRACK_FOREIGN);
	track(d);			/* too late */
	expect_everything(d, "a", VHD_TRACK_FOREIGN);
	expect_blocks(d, "a", "b", 1);
	finish(d);
	d = open_format(f, "disk", row->format, true);
	write_at(d, 9 * UNIT, 512, 2);
	finish(d);
	d = open_format(f, "disk", row->format, true);
	expect_everything(d, "b", VHD_TRACK_FOREIGN);
	track(d);
	expect_everything(d, "b", VHD_TRACK_FOREIGN);
	point(d, "c");
	write_at(d, 5 * UNIT, 512, 2);
	expect_blocks(d, "c", NULL, 5);
	finish(d);
	store_folder_close(f);
}

/* The side-car of @f, one byte or its end changed: the answer still holds blocks 3 and 300, and 3 before "b". */
static void damaged(struct store_folder *f, uint64_t at, int bit)
{
	struct store_folder *copy;
	struct answer w;
	struct vhd_disk *d;
	struct store *s;
	uint8_t byte;

	assert_int_equal(store_folder_mem_clone(f, &copy), 0);
	assert_int_equal(store_folder_open(copy, "disk.track", STORE_RDWR, &s, NULL), 0);
	if (bit < 0) {
		assert_int_equal(store_resize(s, at), 0);
	} else {
		assert_int_equal(store_read(s, &byte, 1, at), 0);
		byte ^= (uint8_t)(1u << bit);
		assert_int_equal(store_write(s, &byte, 1, at), 0);
	}
	store_close(s);
	d = open_format(copy, "disk", VHD_FORMAT_VHDX, at % 2);
	if (at % 2)
		track(d);
	ask(d, "a", NULL, &w);
	if (!w.block[3] || !w.block[300])
		fail_msg("byte %#llx bit %d: a change is lost", (unsigned long long)at, bit);
	ask(d, "b", NULL, &w);
	if (!w.block[300])
		fail_msg("byte %#llx bit %d: a change is lost", (unsigned long long)at, bit);
	ask(d, "a", "b", &w);
	if (!w.block[3])
		fail_msg("byte %#llx bit %d: an old change is lost", (unsigned long long)at, bit);
	vhd_disk_abandon(d);
	store_folder_close(copy);
}

static void test_damage(void **state)
{
	struct store_folder *f = folder_new();
	struct vhd_disk *d = fresh(f, VHD_FORMAT_VHDX);
	const bool crashed = state != NULL;
	uint64_t size;
	struct store *s;
	uint8_t byte;

	point(d, "a");
	write_at(d, 3 * UNIT, 512, 1);
	point(d, "b");
	write_at(d, 300 * UNIT, 512, 1);
	if (crashed)
		vhd_disk_abandon(d);
	else
		finish(d);
	assert_int_equal(store_folder_open(f, "disk.track", 0, &s, NULL), 0);
	assert_int_equal(store_size(s, &size), 0);
	for (uint64_t at = TRACK_BODY; at < size; at++) {
		assert_int_equal(store_read(s, &byte, 1, at), 0);
		if (byte)
			damaged(f, at, __builtin_ctz(byte));	/* a change that is taken away */
	}
	store_close(s);
	for (uint64_t at = 0; at < size; at += at % TRACK_PAGE < TRACK_HEADER_SIZE ? 5 : 512)
		damaged(f, at, (int)(at % 8));
	for (uint64_t at = 0; at < size; at += 512)
		damaged(f, at, -1);
	store_folder_close(f);
}

static void test_missing(void **state)
{
	struct store_folder *f = folder_new();
	struct vhd_disk *d = fresh(f, VHD_FORMAT_VHDX);

	point(d, "p");
	finish(d);
	assert_int_equal(store_folder_unlink(f, "disk.track"), 0);
	d = open_format(f, "disk", VHD_FORMAT_VHDX, true);
	expect_everything(d, "p", VHD_TRACK_OFF);
	assert_int_equal(vhd_disk_track(d, false, NULL), -ENOENT);
	track(d);
	expect_everything(d, "p", VHD_TRACK_NO_POINT);
	finish(d);
	store_folder_close(f);
}

/* ---- other programs, copies ----------------------------------------------------------------------- */

static void test_host_reopen(void **state)
{
	const struct format_row *row = *state;
	struct vhd_disk *d;

	host_begin(row->format);
	for (int i = 0; i < 3; i++) {
		d = host_open(row->format, i > 0);
		if (i > 0)
			track(d);
		expect_blocks(d, "p", NULL, 3);
		finish(d);
	}
	host_end();
}

static void test_qemu_writes(void **state)
{
	const struct format_row *row = *state;
	static const char *const names[] = { [VHD_FORMAT_RAW] = "raw", [VHD_FORMAT_VHD] = "vpc",
					     [VHD_FORMAT_VHDX] = "vhdx" };
	struct vhd_disk *d;

	if (system("qemu-io --version >/dev/null 2>&1") != 0)
		skip();
	host_begin(row->format);
	shell("qemu-io -f %s -c 'write -P 7 640k 4k' %s >/dev/null", names[row->format], host_path("disk"));
	d = host_open(row->format, false);
	expect_everything(d, "p", VHD_TRACK_FOREIGN);
	finish(d);
	d = host_open(row->format, true);
	track(d);
	expect_everything(d, "p", VHD_TRACK_FOREIGN);
	finish(d);
	host_end();
}

/* At once after the close, in the same tick of the file system's clock if that were possible. */
static void test_write_at_once(void **state)
{
	const struct format_row *row = *state;
	struct vhd_disk *d;
	int fd;

	for (int i = 0; i < 5; i++) {
		host_begin(row->format);
		fd = open(host_path("disk"), O_RDWR | O_CLOEXEC);
		assert_int_equal(pwrite(fd, "x", 1, 70000), 1);
		close(fd);
		d = host_open(VHD_FORMAT_RAW, false);
		assert_int_equal(vhd_disk_close(d, NULL), 0);
		if (row->format != VHD_FORMAT_VHDX) {	/* there it is metadata, damaged */
			d = host_open(row->format, false);
			expect_everything(d, "p", VHD_TRACK_FOREIGN);
			finish(d);
		}
		host_end();
	}
}

static void test_copied(void **state)
{
	const struct format_row *row = *state;
	struct vhd_disk *d;

	host_begin(row->format);
	shell("cp -p %s %s", host_path("disk"), host_path("copy"));
	shell("mv %s %s", host_path("copy"), host_path("disk"));
	d = host_open(row->format, true);
	track(d);
	expect_everything(d, "p", VHD_TRACK_FOREIGN);
	finish(d);
	host_end();
}

static const struct single_row singles[] = {
	{ "side-car missing", test_missing },
	{ "side-car damaged, after an orderly end", test_damage },
};

static void test_damage_crashed(void **state)
{
	test_damage((void *[]){ NULL });
}

static const struct single_row damages[] = { { "side-car damaged, after a crash", test_damage_crashed } };

int main(void)
{
	return ROWS_RUN(formats, test_written_by_others) + ROWS_RUN(formats, test_host_reopen) +
	       ROWS_RUN(formats, test_qemu_writes) + ROWS_RUN(formats, test_write_at_once) +
	       ROWS_RUN(formats, test_copied) + ROWS_RUN(singles, rows_single) + ROWS_RUN(damages, rows_single);
}
