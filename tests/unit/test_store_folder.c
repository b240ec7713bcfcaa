/* SPDX-License-Identifier: BSD-2-Clause */
/* Folders: what names may reach, in the host's file system and in memory. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "tests/unit/rows.h"
#include "vhd/store.h"
#include "vhd/store_mem_int.h"

/*
 * base/outside		base/root/inside	base/root/sub/deep	base/root/fifo
 * base/root/link -> inside	base/root/up -> ../outside	base/root/dir -> sub
 */
static char base[] = "/tmp/spindle-folder-XXXXXX";

static void put_file(const char *name)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", base, name);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	assert_true(fd >= 0 && write(fd, name, strlen(name)) == (ssize_t)strlen(name));
	close(fd);
}

static void put_link(const char *name, const char *target)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", base, name);
	assert_int_equal(symlink(target, path), 0);
}

static int set_up(void **state)
{
	char path[256];

	assert_non_null(mkdtemp(base));
	snprintf(path, sizeof(path), "%s/root", base);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/root/sub", base);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/root/fifo", base);
	assert_int_equal(mkfifo(path, 0600), 0);
	put_file("outside");
	put_file("root/inside");
	put_file("root/sub/deep");
	put_link("root/link", "inside");
	put_link("root/up", "../outside");
	put_link("root/dir", "sub");
	put_link("root/proc", "/proc");
	return 0;
}

static int tear_down(void **state)
{
	char command[300];

	snprintf(command, sizeof(command), "rm -rf %s", base);
	return system(command);
}

static struct store_folder *open_folder(const char *kind)
{
	static const char *const names[] = { "inside", "sub/deep" };
	struct store_folder *f = NULL;
	char path[256];

	if (strcmp(kind, "host") == 0) {
		snprintf(path, sizeof(path), "%s/root", base);
		assert_int_equal(store_folder_host(path, &f, NULL), 0);
		return f;
	}
	assert_int_equal(store_folder_mem(&f), 0);
	for (size_t i = 0; i < SP_ARRAY_SIZE(names); i++) {
		struct store *s;

		assert_int_equal(store_folder_open(f, names[i], STORE_CREATE | STORE_RDWR, &s, NULL), 0);
		assert_int_equal(store_write(s, names[i], 4, 0), 0);
		store_close(s);
	}
	return f;
}

/* ---- what a name may reach ------------------------------------------------------------------------ */

static const struct reach {
	const char *label, *name;
	int host, mem;
} reaches[] = {
	{ "plain", "inside", 0, 0 },
	{ "below", "sub/deep", 0, 0 },
	{ "dot", "./inside", 0, 0 },
	{ "up and back", "sub/../inside", 0, 0 },
	{ "double slash", "sub//deep", 0, 0 },
	{ "not there", "nothing", -ENOENT, -ENOENT },
	{ "up", "../outside", -EXDEV, -EXDEV },
	{ "up through a folder", "sub/../../outside", -EXDEV, -EXDEV },
	{ "out and in again", "../root/inside", -EXDEV, -EXDEV },
	{ "absolute", "/etc/passwd", -EXDEV, -EXDEV },
	{ "link to a file inside", "link", -EXDEV, -ENOENT },
	{ "link to the outside", "up", -EXDEV, -ENOENT },
	{ "link to a folder inside", "dir/deep", -EXDEV, -ENOENT },
	{ "link into /proc", "proc/self/maps", -EXDEV, -ENOENT },
	{ "FIFO", "fifo", -EINVAL, -ENOENT },
	{ "folder", "sub", -EISDIR, -ENOENT },
	{ "the folder itself", ".", -EISDIR, -EINVAL },
	{ "empty", "", -ENOENT, -EINVAL },
};

static void reach_by(const char *kind, const char *name, int want)
{
	struct store_folder *f = open_folder(kind);
	struct sp_err err = { 0 };
	struct store *s = NULL;

	alarm(5);
	assert_int_equal(store_folder_open(f, name, STORE_REGULAR, &s, &err), want);
	alarm(0);
	assert_int_equal(err.code, want);
	if (want == -EXDEV) {
		assert_non_null(strstr(sp_err_text(&err), "outside the allowed folder"));
		if (strcmp(kind, "host") == 0) {
			assert_non_null(strstr(sp_err_text(&err), "--image-root"));
			assert_non_null(strstr(sp_err_text(&err), base));
		}
	}
	/* What cannot be opened cannot be removed or renamed either. */
	if (want == -EXDEV && strstr(name, "..")) {
		assert_int_equal(store_folder_unlink(f, name), -EXDEV);
		assert_int_equal(store_folder_rename(f, "inside", name, true), -EXDEV);
		assert_int_equal(store_folder_rename(f, name, "inside", true), -EXDEV);
		assert_int_equal(store_folder_sync(f, name), -EXDEV);
		assert_int_equal(store_folder_open(f, name, STORE_CREATE | STORE_RDWR, &s, &err), -EXDEV);
	}
	store_close(s);
	store_folder_close(f);
}

static void reach_host(void **state)
{
	const struct reach *row = *state;

	reach_by("host", row->name, row->host);
}

static void reach_mem(void **state)
{
	const struct reach *row = *state;

	reach_by("mem", row->name, row->mem);
}

/* ---- life of a file ------------------------------------------------------------------------------- */

static void lives(struct store_folder *f)
{
	struct store *s, *t;
	char buf[4];

	assert_int_equal(store_folder_open(f, "new", STORE_CREATE | STORE_RDWR, &s, NULL), 0);
	assert_int_equal(store_write(s, "new!", 4, 0), 0);
	assert_int_equal(store_folder_open(f, "new", STORE_CREATE | STORE_RDWR, &t, NULL), -EEXIST);
	assert_int_equal(store_folder_sync(f, "new"), 0);
	assert_int_equal(store_folder_rename(f, "new", "inside", false), -EEXIST);
	assert_int_equal(store_folder_rename(f, "new", "sub/moved", false), 0);
	assert_int_equal(store_folder_open(f, "new", 0, &t, NULL), -ENOENT);
	assert_int_equal(store_folder_open(f, "sub/moved", STORE_NO_LOCK, &t, NULL), 0);
	assert_true(store_same(s, t));
	store_close(t);
	assert_int_equal(store_folder_rename(f, "sub/moved", "inside", true), 0);
	assert_int_equal(store_folder_sync(f, "inside"), 0);
	store_close(s);
	assert_int_equal(store_folder_open(f, "inside", 0, &s, NULL), 0);	/* content outlives the handle */
	assert_int_equal(store_read(s, buf, 4, 0), 0);
	assert_memory_equal(buf, "new!", 4);
	assert_int_equal(store_write(s, buf, 1, 0), -EROFS);
	assert_int_equal(store_folder_unlink(f, "inside"), 0);
	assert_int_equal(store_read(s, buf, 4, 0), 0);	/* and the handle outlives the name */
	store_close(s);
	assert_int_equal(store_folder_unlink(f, "inside"), -ENOENT);
	assert_int_equal(store_folder_rename(f, "inside", "other", true), -ENOENT);
}

static void lives_host(void **state)
{
	struct store_folder *f = open_folder("host");

	lives(f);
	store_folder_close(f);
	put_file("root/inside");
}

static void lives_mem(void **state)
{
	struct store_folder *f = open_folder("mem");

	lives(f);
	store_folder_close(f);
}

/* Files opened in a folder are locked as others are. */
static void locked(void **state)
{
	struct store_folder *f = open_folder("host");
	struct sp_err err = { 0 };
	struct store *s, *t;

	assert_int_equal(store_folder_open(f, "inside", STORE_RDWR, &s, NULL), 0);
	assert_int_equal(store_folder_open(f, "inside", STORE_REGULAR, &t, &err), -EBUSY);
	assert_non_null(strstr(sp_err_text(&err), "pid"));
	store_close(s);
	store_folder_close(f);
}

static void no_folder(void **state)
{
	struct sp_err err = { 0 };
	struct store_folder *f;

	assert_int_equal(store_folder_host("/tmp/spindle-not-there", &f, &err), -ENOENT);
	assert_int_equal(store_folder_host("/etc/passwd", &f, &err), -ENOTDIR);
}

static void cloned(void **state)
{
	struct store_folder *f = open_folder("mem"), *c, *host = open_folder("host");
	struct store *s;
	char buf[4];

	assert_int_equal(store_folder_mem_clone(host, &c), -EINVAL);
	assert_int_equal(store_folder_mem_clone(f, &c), 0);
	assert_int_equal(store_folder_open(c, "sub/deep", STORE_RDWR, &s, NULL), 0);
	assert_int_equal(store_write(s, "XXXX", 4, 0), 0);
	store_close(s);
	assert_int_equal(store_folder_unlink(c, "inside"), 0);
	assert_int_equal(store_folder_open(f, "sub/deep", 0, &s, NULL), 0);
	assert_int_equal(store_read(s, buf, 4, 0), 0);
	assert_memory_equal(buf, "sub/", 4);
	store_close(s);
	assert_non_null(store_folder_mem_get(f, "./inside"));
	assert_null(store_folder_mem_get(c, "inside"));
	assert_int_equal(store_folder_mem_put(c, "inside", store_folder_mem_get(f, "inside")), 0);
	assert_ptr_equal(store_folder_mem_get(c, "inside"), store_folder_mem_get(f, "inside"));
	assert_int_equal(store_folder_mem_put(c, "inside", NULL), 0);
	assert_null(store_folder_mem_get(c, "inside"));
	store_folder_close(f);
	store_folder_close(c);
	store_folder_close(host);
}

int main(void)
{
	const struct CMUnitTest others[] = {
		cmocka_unit_test(lives_host), cmocka_unit_test(lives_mem), cmocka_unit_test(locked),
		cmocka_unit_test(no_folder), cmocka_unit_test(cloned),
	};
	int failed = set_up(NULL);

	failed += ROWS_RUN(reaches, reach_host);
	failed += ROWS_RUN(reaches, reach_mem);
	failed += cmocka_run_group_tests(others, NULL, NULL);
	return failed + tear_down(NULL) != 0;
}
