/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * --files: the file system of a partition, in the same command. Our own mount goes to a private folder; a helper
 * program that knows the file system opens the partition there and mounts it where the user wants it.
 *
 *	IMAGE -> vhd-mount -> PRIVATE/p1 -> fuse2fs, ntfs-3g (or with --kernel mount(8)) -> MOUNTPOINT
 *
 *	PREPARING	e2fsck replays the journal of an ext file system that was not unmounted: fuse2fs 1.47
 *	   |		crashes after doing so itself
 *	STARTING	the helper runs; the caller waits
 *	   | MOUNTPOINT appears in mountinfo
 *	MOUNTED		the caller has been told
 *	   | the helper ends (somebody unmounted, or our SIGTERM), for the kernel: MOUNTPOINT is gone from mountinfo
 *	ENDED		everything has been written back to us: end our session
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "fuse/mount.h"
#include "vhd/probe.h"

#define ARGS_MAX 12

extern char **environ;

struct helper {
	const char *type;		/* of the file system, as libblkid calls it */
	const char *program, *package;
	const char *words;		/* for -o; NULL: "-f" keeps it in the foreground */
	bool replay;			/* journal to be replayed before */
	bool setuid;			/* installed setuid root */
};

static const struct helper helpers[] = {
	{ "ext2", "fuse2fs", "fuse2fs", NULL, false, false },
	{ "ext3", "fuse2fs", "fuse2fs", NULL, true, false },
	{ "ext4", "fuse2fs", "fuse2fs", NULL, true, false },
	{ "ntfs", "ntfs-3g", "ntfs-3g", "no_detach,no_def_opts,silent", false, true },
};

static const struct helper kernel_helper = { NULL, "mount", "mount", "loop", false, false };

enum files_state { FILES_PREPARING, FILES_STARTING, FILES_MOUNTED, FILES_ENDED };

struct files {
	struct mnt *mnt;
	const struct helper *helper;
	char type[32];			/* of the file system */
	char *device, *options;		/* what the helper is told */
	enum files_state state;
	pid_t pid;			/* the helper; 0 when it has ended */
	int output_fd;			/* what the helper prints */
	char output[4096];		/* the same, until it is known whether it matters */
	size_t output_len;
	int mountinfo_fd;
	unsigned mounts_before;		/* on the mount point, when we started */
};

static bool by_kernel(const struct files *f)
{
	return f->helper == &kernel_helper;
}

/* ---- choosing ------------------------------------------------------------------------------------ */

static const struct helper *find_helper(const struct mnt_options *o, const struct vhd_filesystem *fs)
{
	if (strcmp(fs->usage, "filesystem") != 0)
		return NULL;
	if (o->kernel)
		return &kernel_helper;
	for (size_t i = 0; i < sizeof(helpers) / sizeof(helpers[0]); i++)
		if (strcmp(helpers[i].type, fs->type) == 0)
			return &helpers[i];
	return NULL;
}

static int choose(struct files *f, const char *name, const struct vhd_filesystem *fs, struct sp_err *err)
{
	f->helper = find_helper(&f->mnt->opts, fs);
	if (!f->helper && fs->type[0])
		return sp_err_set(err, -ENOTSUP, "%s holds %s, for which no program in user space is known (for ext2, "
				  "ext3, ext4 and ntfs there is one)%s", name, fs->type,
				  strcmp(fs->usage, "filesystem") == 0 ? "; see --kernel in vhd-mount(1)" : "");
	if (!f->helper)
		return sp_err_set(err, -ENOENT, "%s holds no file system", name);
	snprintf(f->type, sizeof(f->type), "%s", fs->type);
	f->device = sp_asprintf("%s/%s", f->mnt->where, name);
	return f->device ? 0 : sp_err_set(err, -ENOMEM, "out of memory");
}

static int choose_partition(struct files *f, const struct vhd_partition *p, struct sp_err *err)
{
	char name[16];

	snprintf(name, sizeof(name), "p%u", p->number);
	return choose(f, name, &p->fs, err);
}

/* --files=pN */
static int choose_named(struct files *f, const struct vhd_probe_result *probe, struct sp_err *err)
{
	for (size_t i = 0; i < probe->partitions; i++)
		if (probe->partition[i].number == f->mnt->opts.partition)
			return choose_partition(f, &probe->partition[i], err);
	return sp_err_set(err, -ENOENT, "there is no partition p%u (the disk has %zu)", f->mnt->opts.partition,
			  probe->partitions);
}

/* --files: the only file system there is, with or without a partition table around it. */
static int choose_only(struct files *f, const struct vhd_probe_result *probe, struct sp_err *err)
{
	const struct vhd_partition *only = NULL;
	char list[256] = "";
	unsigned count = 0;

	if (!probe->table[0])
		return choose(f, "disk", &probe->fs, err);
	for (size_t i = 0; i < probe->partitions; i++) {
		const struct vhd_partition *p = &probe->partition[i];
		size_t used = strlen(list);

		if (strcmp(p->fs.usage, "filesystem") != 0)
			continue;
		only = p;
		snprintf(list + used, sizeof(list) - used, "%sp%u (%s)", count++ ? ", " : "", p->number, p->fs.type);
	}
	if (count == 1)
		return choose_partition(f, only, err);
	return sp_err_set(err, count ? -EINVAL : -ENOENT, count ? "several file systems: choose with --files=pN from %s"
			  : "none of the partitions holds a file system%s", list);
}

/*
 * As root ntfs-3g would let everybody in (allow_other) and fuse2fs would add suid and dev. Without root fuse2fs checks
 * the owners inside the image against the user, to whom all of it belongs anyway: fakeroot.
 */
static char *helper_options(const struct files *f)
{
	const struct mnt_options *o = &f->mnt->opts;
	bool fakeroot = strcmp(f->helper->program, "fuse2fs") == 0 && geteuid() != 0;
	const char *words = f->helper->words;

	return sp_asprintf("%s,nosuid,nodev%s%s%s%s%s", mnt_readonly(o) ? "ro" : "rw", fakeroot ? ",fakeroot" : "",
			   words ? "," : "", words ? words : "", o->fuse ? "," : "", o->fuse ? o->fuse : "");
}

int files_new(struct mnt *m, struct files **ret_files, struct sp_err *err)
{
	struct vhd_probe_result probe;
	struct files *f;
	int r;

	r = vhd_probe_disk(m->disk, &probe, err);
	if (r < 0)
		return r;
	f = sp_zalloc(sizeof(*f));
	if (!f) {
		vhd_probe_fini(&probe);
		return sp_err_set(err, -ENOMEM, "out of memory");
	}
	f->mnt = m;
	f->output_fd = f->mountinfo_fd = -1;
	r = m->opts.partition ? choose_named(f, &probe, err) : choose_only(f, &probe, err);
	vhd_probe_fini(&probe);
	if (r == 0 && by_kernel(f) && geteuid() != 0)
		r = sp_err_set(err, -EPERM, "--kernel needs root");
	/* FUSE shuts out every process whose ids are not all the user's, be it on his behalf. The folder is private. */
	m->setuid_reader = r == 0 && f->helper->setuid && geteuid() != 0;
	if (r == 0 && !(f->options = helper_options(f)))
		r = sp_err_set(err, -ENOMEM, "out of memory");
	if (r < 0) {
		files_free(f);
		return r;
	}
	*ret_files = f;
	return 0;
}

void files_free(struct files *f)
{
	if (!f)
		return;
	if (f->output_fd >= 0)
		close(f->output_fd);
	if (f->mountinfo_fd >= 0)
		close(f->mountinfo_fd);
	sp_free(f->device);
	sp_free(f->options);
	sp_free(f);
}

/* ---- who is mounted where ------------------------------------------------------------------------ */

/* mountinfo writes blank, tab, newline and backslash as three octal digits. */
static void unescape(char *s)
{
	char *out = s;

	while (*s) {
		unsigned value;

		if (*s == '\\' && sscanf(s + 1, "%3o", &value) == 1) {
			*out++ = (char)value;
			s += 4;
		} else {
			*out++ = *s++;
		}
	}
	*out = '\0';
}

/* How many file systems are mounted, one over the other, on the mount point. */
static unsigned count_mounts(const struct files *f)
{
	FILE *in = fopen("/proc/self/mountinfo", "re");
	char *line = NULL, *where;
	unsigned count = 0;
	size_t room = 0;

	while (in && getline(&line, &room, in) > 0) {
		char *rest = line;

		for (int i = 0; i < 4; i++)	/* id, parent, device, root */
			strsep(&rest, " ");
		where = strsep(&rest, " ");
		if (where)
			unescape(where);
		if (where && strcmp(where, f->mnt->opts.mountpoint) == 0)
			count++;
	}
	free(line);
	if (in)
		fclose(in);
	return count;
}

/* ---- the helper ---------------------------------------------------------------------------------- */

static void helper_args(struct files *f, char *argv[static ARGS_MAX])
{
	int n = 0;

	argv[n++] = (char *)(uintptr_t)f->helper->program;
	if (by_kernel(f)) {
		argv[n++] = (char *)(uintptr_t)"-t";
		argv[n++] = f->type;
	} else if (!f->helper->words) {
		argv[n++] = (char *)(uintptr_t)"-f";
	}
	argv[n++] = (char *)(uintptr_t)"-o";
	argv[n++] = f->options;
	argv[n++] = f->device;
	argv[n++] = f->mnt->opts.mountpoint;
	argv[n] = NULL;
}

/* Starts a program with its output in a pipe of ours and the default signals. Returns 0 or a negative errno. */
static int spawn(struct files *f, char *const argv[], pid_t *ret_pid)
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int pipefd[2], r;

	if (pipe2(pipefd, O_CLOEXEC) < 0)
		return -errno;
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&files, pipefd[1], STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&files, pipefd[1], STDERR_FILENO);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	r = -posix_spawnp(ret_pid, argv[0], &files, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&files);
	close(pipefd[1]);
	if (r < 0) {
		close(pipefd[0]);
		return r;
	}
	if (f->output_fd >= 0)
		close(f->output_fd);
	f->output_fd = pipefd[0];
	return 0;
}

static int start_helper(struct files *f)
{
	char *argv[ARGS_MAX];
	int r;

	f->state = FILES_STARTING;
	helper_args(f, argv);
	r = spawn(f, argv, &f->pid);
	if (r == -ENOENT)
		mnt_log("%s is not installed: it mounts %s file systems (Debian package %s)", f->helper->program,
			f->type, f->helper->package);
	else if (r < 0)
		mnt_log("%s: %s", f->helper->program, strerror(-r));
	return r;
}

/* Without e2fsck, or when it fails, the helper will have something to say. */
static int start(struct files *f)
{
	char *argv[] = { (char *)(uintptr_t)"e2fsck", (char *)(uintptr_t)"-p", (char *)(uintptr_t)"-E",
			 (char *)(uintptr_t)"journal_only", f->device, NULL };

	f->mountinfo_fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	f->mounts_before = count_mounts(f);
	if (f->helper->replay && !mnt_readonly(&f->mnt->opts) && spawn(f, argv, &f->pid) == 0)
		return 0;
	return start_helper(f);
}

static void show_output(struct files *f)
{
	if (f->output_len && write(STDERR_FILENO, f->output, f->output_len) < 0)
		return;		/* nobody there to be told */
	f->output_len = 0;
}

/* Helpers chatter: the caller sees it only when the mount fails, later it goes to the log. */
static void take_output(struct files *f)
{
	ssize_t n;

	if (f->state == FILES_MOUNTED || f->output_len == sizeof(f->output))
		show_output(f);
	n = read(f->output_fd, f->output + f->output_len, sizeof(f->output) - f->output_len);
	if (n <= 0) {
		close(f->output_fd);
		f->output_fd = -1;
	} else {
		f->output_len += (size_t)n;
	}
	if (f->state == FILES_MOUNTED)
		show_output(f);
}

static void ask_helper_to_end(struct files *f)
{
	char *argv[] = { (char *)(uintptr_t)"umount", f->mnt->opts.mountpoint, NULL };

	if (!by_kernel(f))
		kill(f->pid, SIGTERM);
	else if (spawn(f, argv, &f->pid) < 0)	/* when it is busy umount says so, and we go on serving */
		mnt_log("cannot start umount");
}

/* ---- events -------------------------------------------------------------------------------------- */

static void mounts_changed(struct files *f)
{
	unsigned now = count_mounts(f);

	if (f->state == FILES_STARTING && now > f->mounts_before) {
		f->state = FILES_MOUNTED;
		mnt_ready(f->mnt);
		show_output(f);
	} else if (f->state == FILES_MOUNTED && now <= f->mounts_before && by_kernel(f)) {
		f->state = FILES_ENDED;
	}
}

static void fail(struct files *f)
{
	show_output(f);
	f->mnt->status = EXIT_FAILURE;
	f->state = FILES_ENDED;
}

/* A helper that crashed leaves its mount behind, where every access fails. */
static void remove_leftover(struct files *f)
{
	char *argv[] = { (char *)(uintptr_t)"fusermount3", (char *)(uintptr_t)"-u", (char *)(uintptr_t)"-z",
			 f->mnt->opts.mountpoint, NULL };
	pid_t pid;

	if (count_mounts(f) > f->mounts_before && spawn(f, argv, &pid) == 0)
		waitpid(pid, NULL, 0);
}

/* mount(8) ends when it is done, the others when they have unmounted. */
static void helper_ended(struct files *f)
{
	int status;

	if (f->pid == 0 || waitpid(f->pid, &status, WNOHANG) != f->pid)
		return;
	f->pid = 0;
	if (f->output_fd >= 0)
		take_output(f);
	if (f->state == FILES_PREPARING) {
		if (start_helper(f) < 0)
			fail(f);
		return;
	}
	mounts_changed(f);
	if (by_kernel(f) && f->state == FILES_MOUNTED)
		return;
	if (f->state == FILES_STARTING || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		mnt_log("%s %s", f->helper->program, f->state == FILES_STARTING ? "could not mount the file system" :
			"ended with an error");
		fail(f);
		remove_leftover(f);
	}
	f->state = FILES_ENDED;
}

static void signal_came(struct files *f)
{
	struct signalfd_siginfo si;

	if (read(f->mnt->signal_fd, &si, sizeof(si)) != sizeof(si))
		return;
	if (si.ssi_signo == SIGCHLD)
		helper_ended(f);
	else if (f->state != FILES_ENDED)
		ask_helper_to_end(f);
}

static void wait_for_event(struct files *f)
{
	struct pollfd fds[] = {
		{ .fd = f->mnt->signal_fd, .events = POLLIN },
		{ .fd = f->mountinfo_fd, .events = POLLPRI },
		{ .fd = f->output_fd, .events = POLLIN },
		{ .fd = f->mnt->stop_fd, .events = POLLIN },
	};

	if (poll(fds, 4, -1) < 0)
		return;
	if (fds[2].revents)
		take_output(f);
	if (fds[1].revents)
		mounts_changed(f);
	if (fds[0].revents)
		signal_came(f);
	if (fds[3].revents && f->state != FILES_ENDED) {	/* our own mount was torn away below the helper */
		mnt_log("the private mount of the disk is gone");
		fail(f);
		if (f->pid)
			kill(f->pid, SIGTERM);
	}
}

void *files_supervise(void *arg)
{
	struct files *f = arg;

	if (start(f) < 0)
		fail(f);
	while (f->state != FILES_ENDED)
		wait_for_event(f);
	mnt_flush_kernel(f->mnt);
	mnt_end(f->mnt);
	return NULL;
}
