/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The process that opens files for a jailed machine: what it opens, what it refuses, what it takes away at the end.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "tests/unit/rows.h"
#include "vhd/vhd.h"
#include "vmm/broker.h"

static char top[] = "/tmp/test-vmm-broker.XXXXXX";
static struct vmm_broker *b;
static struct sp_err err;

static void put(const char *name, const char *text)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static bool is_there(const char *name)
{
	return access(name, F_OK) == 0;
}

/* images/ with a file in it, a link to it, and links that lead out; other/ beside. */
static void begin(void)
{
	strcpy(top + strlen(top) - 6, "XXXXXX");
	assert_non_null(mkdtemp(top));
	assert_int_equal(chdir(top), 0);
	assert_int_equal(mkdir("images", 0700) | mkdir("images/deep", 0700) | mkdir("other", 0700), 0);
	put("images/a", "alpha");
	put("images/deep/b", "beta");
	put("other/secret", "secret");
	assert_int_equal(symlink("images/a", "link") | symlink("../other/secret", "images/out") |
			 symlink("a", "images/near"), 0);
	err = (struct sp_err){ 0 };
	assert_int_equal(vmm_broker_start(&b, &err), 0);
}

static void finish(void)
{
	char command[64];

	vmm_broker_stop(b);
	assert_int_equal(chdir("/"), 0);
	snprintf(command, sizeof(command), "rm -rf %s", top);
	assert_int_equal(system(command), 0);
}

static int read_in(struct store_folder *f, const char *name, char text[16])
{
	struct store *s;
	int r = store_folder_open(f, name, STORE_NO_LOCK, &s, &err);

	if (r < 0)
		return r;
	memset(text, 0, 16);
	r = (int)pread(s->ops->fd(s), text, 15, 0);
	store_close(s);
	return r;
}

/* ---- folders ----------------------------------------------------------------------------------------- */

static const struct folder_row {
	const char *name, *path, *root, *found;
	int result;
} folder_rows[] = {
	{ "a file", "images/a", NULL, "a", 0 },
	{ "a link stands for its target", "link", NULL, "a", 0 },
	{ "a root above", "images/deep/b", "images", "deep/b", 0 },
	{ "a root that is a link's", "link", "images", "a", 0 },
	{ "outside of its root", "other/secret", "images", NULL, -EXDEV },
	{ "a link out of its root", "images/out", "images", NULL, -EXDEV },
	{ "a root with the same beginning", "images/a", "image", NULL, -ENOENT },
	{ "missing", "images/none", NULL, NULL, -ENOENT },
	{ "a missing folder", "none/a", NULL, NULL, -ENOENT },
	{ "not a folder", "images/a/b", NULL, NULL, -ENOTDIR },
	{ "nothing", "", NULL, NULL, -ENOENT },
};

static void folder(void **state)
{
	const struct folder_row *row = *state;
	struct store_folder *f;
	char *name, text[16];

	begin();
	assert_int_equal(vmm_broker_folder(b, row->path, row->root, &f, &name, &err), row->result);
	if (row->result < 0) {
		assert_non_null(strstr(err.text, row->root && row->result == -ENOENT ? row->root : row->path));
	} else {
		assert_string_equal(name, row->found);
		assert_true(read_in(f, name, text) > 0);
		sp_free(name);
		store_folder_close(f);
	}
	finish();
}

static const struct name_row {
	const char *name, *in;		/* of folder images/ */
	int result;
} name_rows[] = {
	{ "a name", "a", 5 },
	{ "a name below", "deep/b", 4 },
	{ "up and out", "../other/secret", -EXDEV },
	{ "absolute", "/etc/passwd", -EXDEV },
	{ "a link out", "out", -ELOOP },
	{ "a link inside", "near", -ELOOP },
	{ "missing", "none", -ENOENT },
	{ "the folder itself", ".", -EINVAL },
};

static void confined(void **state)
{
	const struct name_row *row = *state;
	struct store_folder *f;
	char *name, text[16];
	int r;

	begin();
	assert_int_equal(vmm_broker_folder(b, "images/a", NULL, &f, &name, &err), 0);
	sp_free(name);
	r = read_in(f, row->in, text);
	if (row->result > 0)
		assert_int_equal(r, row->result);
	else
		assert_true(r < 0);
	store_folder_close(f);
	finish();
}

static void names_change(void **state)
{
	struct store_folder *f;
	char *name;

	begin();
	assert_int_equal(vmm_broker_folder(b, "images/a", NULL, &f, &name, &err), 0);
	sp_free(name);
	assert_int_equal(store_folder_rename(f, "a", "c", false), 0);
	assert_true(is_there("images/c"));
	assert_int_equal(store_folder_link(f, "c", "d"), 0);
	assert_int_equal(store_folder_rename(f, "c", "d", false), -EEXIST);
	assert_int_equal(store_folder_unlink(f, "d"), 0);
	assert_int_equal(store_folder_sync(f, "c"), 0);
	assert_true(store_folder_rename(f, "c", "../other/c", false) < 0);
	assert_true(store_folder_unlink(f, "../other/secret") < 0);
	assert_true(is_there("other/secret"));
	store_folder_close(f);
	finish();
}

static void many_folders(void **state)
{
	struct store_folder *f[600];
	unsigned n = 0;
	char *name;
	int r = 0;

	begin();
	while (n < 600 && (r = vmm_broker_folder(b, "images/a", NULL, &f[n], &name, &err)) == 0) {
		sp_free(name);
		n++;
	}
	assert_int_equal(r, -EMFILE);
	store_folder_close(f[--n]);		/* room for one again */
	assert_int_equal(vmm_broker_folder(b, "images/a", NULL, &f[n++], &name, &err), 0);
	sp_free(name);
	while (n)
		store_folder_close(f[--n]);
	finish();
}

/* ---- sealed ------------------------------------------------------------------------------------------ */

static void plain_files(void **state)
{
	int fd;

	begin();
	assert_int_equal(vmm_broker_open(b, "images/a", O_RDONLY, &fd, &err), 0);
	close(fd);
	assert_int_equal(vmm_broker_open(b, "images/none", O_RDONLY, &fd, &err), -ENOENT);
	assert_non_null(strstr(err.text, "images/none"));
	assert_int_equal(mkfifo("images/fifo", 0600), 0);
	assert_int_equal(vmm_broker_open(b, "images/fifo", O_RDONLY, &fd, &err), 0);	/* does not wait */
	close(fd);
	assert_int_equal(vmm_broker_seal(b, &err), 0);
	assert_int_equal(vmm_broker_open(b, "images/a", O_RDONLY, &fd, &err), 0);	/* the kernel, at a reset */
	close(fd);
	assert_int_equal(vmm_broker_open(b, "images/a", O_RDWR, &fd, &err), -EPERM);
	assert_int_equal(vmm_broker_open(b, "images/a", O_RDONLY | O_TRUNC, &fd, &err), -EPERM);
	assert_int_equal(vmm_broker_open(b, "other/secret", O_RDONLY, &fd, &err), -EPERM);
	assert_int_equal(vmm_broker_open(b, "images/../images/a", O_RDONLY, &fd, &err), -EPERM);
	finish();
}

static int try_folder(const char *path, const char *root)
{
	struct store_folder *f;
	char *name;
	int r = vmm_broker_folder(b, path, root, &f, &name, &err);

	if (r == 0) {
		sp_free(name);
		store_folder_close(f);
	}
	return r;
}

static void sealed_folders(void **state)
{
	begin();
	assert_int_equal(mkdir("images2", 0700) | mkdir("allowed", 0700), 0);
	put("images2/a", "");
	put("allowed/a", "");
	assert_int_equal(try_folder("images/a", NULL), 0);
	assert_int_equal(vmm_broker_allow(b, "allowed", &err), 0);
	assert_int_equal(vmm_broker_allow(b, "none", &err), -ENOENT);
	assert_int_equal(vmm_broker_seal(b, &err), 0);
	assert_int_equal(try_folder("images/a", NULL), 0);
	assert_int_equal(try_folder("images/deep/b", NULL), 0);
	assert_int_equal(try_folder("allowed/a", NULL), 0);
	assert_int_equal(try_folder("other/secret", NULL), -EPERM);
	assert_non_null(strstr(err.text, "--attach-from"));
	assert_int_equal(try_folder("images/out", NULL), -EPERM);
	assert_int_equal(try_folder("images2/a", NULL), -EPERM);
	assert_int_equal(try_folder("images/a", "/"), -EPERM);
	assert_int_equal(vmm_broker_allow(b, "other", &err), -EPERM);
	assert_int_equal(vmm_broker_remove_at_end(b, "other/secret"), -EPERM);
	finish();
}

/* ---- the end ----------------------------------------------------------------------------------------- */

static void removed_at_end(void **state)
{
	begin();
	put("images/socket", "");
	put("images/replaced", "");
	put("images/gone", "");
	assert_int_equal(vmm_broker_remove_at_end(b, "images/socket"), 0);
	assert_int_equal(vmm_broker_remove_at_end(b, "images/replaced"), 0);
	assert_int_equal(vmm_broker_remove_at_end(b, "images/gone"), 0);
	assert_int_equal(vmm_broker_remove_at_end(b, "images/none"), -ENOENT);
	put("images/new", "of another machine");
	assert_int_equal(rename("images/new", "images/replaced"), 0);
	assert_int_equal(unlink("images/gone"), 0);
	vmm_broker_stop(b);
	b = NULL;
	assert_false(is_there("images/socket"));
	assert_true(is_there("images/replaced"));
	assert_true(is_there("images/a"));
	finish();
}

/* The machine is killed: the broker notices, and holds none of its sockets meanwhile. */
static void machine_killed(void **state)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "images/listening" };
	int pair[2], listener, probe, tries = 200;
	char byte;
	pid_t machine;

	begin();
	vmm_broker_stop(b);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	machine = fork();
	if (machine == 0) {
		listener = socket(AF_UNIX, SOCK_STREAM, 0);
		if (bind(listener, (struct sockaddr *)&a, sizeof(a)) || listen(listener, 1) ||
		    vmm_broker_start(&b, &err) || vmm_broker_remove_at_end(b, "images/listening"))
			_exit(1);
		if (write(pair[1], "", 1) != 1)
			_exit(1);
		pause();
	}
	close(pair[1]);
	assert_int_equal(read(pair[0], &byte, 1), 1);
	kill(machine, SIGKILL);
	assert_int_equal(waitpid(machine, NULL, 0), machine);
	probe = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(connect(probe, (struct sockaddr *)&a, sizeof(a)), -1);
	close(probe);
	while (is_there("images/listening") && tries--)
		usleep(10000);
	assert_false(is_there("images/listening"));
	assert_int_equal(read(pair[0], &byte, 1), 0);	/* the broker has kept no end of it */
	close(pair[0]);
	b = NULL;
	finish();
}

static void broker_gone(void **state)
{
	struct store_folder *f;
	char *name, text[16];
	FILE *children;
	int fd, only;

	begin();
	assert_int_equal(vmm_broker_folder(b, "images/a", NULL, &f, &name, &err), 0);
	sp_free(name);
	children = fopen("/proc/thread-self/children", "re");
	assert_non_null(children);
	assert_int_equal(fscanf(children, "%d", &only), 1);
	fclose(children);
	assert_int_equal(kill(only, SIGKILL), 0);
	assert_int_equal(vmm_broker_open(b, "images/a", O_RDONLY, &fd, &err), -EPIPE);
	assert_int_equal(read_in(f, "a", text), -EPIPE);
	store_folder_close(f);
	finish();
}

static void long_names(void **state)
{
	char name[5000];
	int fd;

	begin();
	memset(name, 'a', sizeof(name));
	name[4999] = '\0';
	assert_int_equal(vmm_broker_open(b, name, O_RDONLY, &fd, &err), -ENAMETOOLONG);
	finish();
}

static const struct single_row others[] = {
	{ "names change inside a folder only", names_change },
	{ "more folders than it holds", many_folders },
	{ "sealed: files", plain_files },
	{ "sealed: folders", sealed_folders },
	{ "removed at the end, if it is still the same", removed_at_end },
	{ "the machine is killed", machine_killed },
	{ "the broker is killed", broker_gone },
	{ "a name too long", long_names },
};

int main(void)
{
	return ROWS_RUN(folder_rows, folder) + ROWS_RUN(name_rows, confined) + ROWS_RUN(others, rows_single);
}
