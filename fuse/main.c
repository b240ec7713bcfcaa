/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vhd-mount - life cycle of a mount:
 *
 *	parse -> fork -> open the chain -> mount -> serve ... -> unmount -> close the chain -> exit
 *	           |                         |
 *	        the caller waits here <-- "ready"; until then errors go to the terminal and the exit status is 1
 *
 * Forking comes first because neither threads nor rings of the engine survive it.
 */
#include "fuse/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/poll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/env.h"
#include "base/seed.h"
#include "fuse/ops.h"

/* ---- messages ------------------------------------------------------------------------------------ */

void mnt_log(const char *fmt, ...)
{
	char line[SP_ERR_TEXT_MAX + 128];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	fprintf(stderr, "vhd-mount: %s\n", line);
}

void mnt_log_limited(const char *fmt, ...)
{
	static _Atomic uint64_t second, count;
	uint64_t now = sp_env_monotonic_ns() / 1000000000;
	char line[SP_ERR_TEXT_MAX + 128];
	va_list ap;

	if (atomic_exchange(&second, now) != now)
		count = 0;
	if (count++ >= 10)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	fprintf(stderr, "vhd-mount: %s\n", line);
}

/* ---- background ---------------------------------------------------------------------------------- */

/* In the caller: waits for the word of the child and exits. In the child: returns where to send it. */
static int fork_background(void)
{
	int pipefd[2], status;
	pid_t pid = -1;
	char word;

	if (pipe2(pipefd, O_CLOEXEC) == 0)
		pid = fork();
	if (pid < 0) {
		mnt_log("cannot go to the background: %s", strerror(errno));
		_exit(EXIT_FAILURE);
	}
	if (pid == 0) {
		close(pipefd[0]);
		setsid();
		return pipefd[1];
	}
	close(pipefd[1]);
	if (read(pipefd[0], &word, 1) == 1)
		_exit(EXIT_SUCCESS);
	if (waitpid(pid, &status, 0) == pid && WIFSIGNALED(status))
		mnt_log("background process died of signal %d", WTERMSIG(status));
	_exit(EXIT_FAILURE);
}

static void leave_terminal(const struct mnt *m)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int out = -1;

	if (m->opts.log)
		out = open(m->opts.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (m->opts.log && out < 0)
		mnt_log("%s: %s; messages will be lost", m->opts.log, strerror(errno));
	if (out < 0)
		out = null;
	dup2(null, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	dup2(out, STDERR_FILENO);
	if (out != null)
		close(out);
	close(null);
	if (chdir("/") < 0)	/* only holds a folder busy */
		mnt_log("chdir to /: %s", strerror(errno));
}

void mnt_ready(struct mnt *m)
{
	if (m->ready_fd < 0)
		return;
	leave_terminal(m);
	if (write(m->ready_fd, "+", 1) != 1)
		mnt_log("the caller has gone: %s", strerror(errno));
	close(m->ready_fd);
	m->ready_fd = -1;
}

/* ---- supervisor ---------------------------------------------------------------------------------- */

void mnt_flush_kernel(struct mnt *m)
{
	int dir = open(m->where, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd;
	const struct tree_file *f;

	if (dir < 0)
		return;
	for (unsigned i = 0; (f = tree_writable(m->tree, i)); i++) {
		fd = openat(dir, f->name, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (fsync(fd) < 0) {
			mnt_log("%s: flush: %s", f->name, strerror(errno));
			m->status = EXIT_FAILURE;
		}
		close(fd);
	}
	close(dir);
}

/* libfuse's main loop only looks at its exit flag when a signal interrupts it, and may just be about to sleep. */
void mnt_end(struct mnt *m)
{
	fuse_session_exit(m->session);
	while (!m->over) {
		pthread_kill(m->main_thread, SIGUSR1);
		usleep(10000);
	}
}

static void *supervise(void *arg)
{
	struct mnt *m = arg;
	struct pollfd fds[] = { { .fd = m->signal_fd, .events = POLLIN }, { .fd = m->stop_fd, .events = POLLIN } };
	struct signalfd_siginfo si;

	for (;;) {
		if (poll(fds, 2, -1) < 0)
			continue;
		if (fds[1].revents)
			return NULL;
		if (read(m->signal_fd, &si, sizeof(si)) == sizeof(si) && si.ssi_signo != SIGCHLD)
			break;
	}
	if (!SP_SEED_BUG(MOUNT_NO_LAST_FLUSH))
		mnt_flush_kernel(m);
	mnt_end(m);
	return NULL;
}

static void ignore_signal(int sig)
{
}

/* Every thread inherits the blocked signals; SIGUSR1 only wakes main, see mnt_end(). */
static int setup_signals(struct mnt *m)
{
	struct sigaction wake = { .sa_handler = ignore_signal }, ignore = { .sa_handler = SIG_IGN };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sigaction(SIGUSR1, &wake, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
	m->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	m->stop_fd = eventfd(0, EFD_CLOEXEC);
	return m->signal_fd < 0 || m->stop_fd < 0 ? -errno : 0;
}

/* ---- session ------------------------------------------------------------------------------------- */

static int add_option(struct fuse_args *args, const char *words)
{
	return fuse_opt_add_arg(args, "-o") < 0 || fuse_opt_add_arg(args, words) < 0 ? -ENOMEM : 0;
}

static int session_args(const struct mnt *m, struct fuse_args *args)
{
	const struct mnt_options *o = &m->opts;
	SP_AUTO_FREE char *fsname = sp_asprintf("fsname=%s", o->image);
	char *escaped = NULL;
	int r;

	if (!fsname || fuse_opt_add_opt_escaped(&escaped, fsname) < 0 || fuse_opt_add_arg(args, "vhd-mount") < 0)
		return -ENOMEM;
	r = add_option(args, "default_permissions,nosuid,nodev,subtype=vhd-mount");
	if (r == 0)
		r = add_option(args, escaped);
	if (r == 0 && mnt_readonly(o))
		r = add_option(args, "ro");
	if (r == 0 && m->setuid_reader)
		r = add_option(args, "allow_other");
	if (r == 0 && o->fuse && !o->files)	/* with --files they are for the outer mount */
		r = add_option(args, o->fuse);
	free(escaped);
	return r;
}

static int mount_session(struct mnt *m, struct mnt_fs *fs)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	int r = session_args(m, &args);

	if (r < 0) {
		mnt_log("out of memory");
	} else {
		m->session = fuse_session_new(&args, &mnt_ops, sizeof(mnt_ops), fs);
		if (!m->session || fuse_session_mount(m->session, m->where) < 0)	/* libfuse said why */
			r = -EINVAL;
		if (r < 0 && m->setuid_reader)
			mnt_log("the program for this file system starts as root and can read the disk only if "
				"/etc/fuse.conf has the line user_allow_other");
	}
	fuse_opt_free_args(&args);
	return r;
}

/*
 * Requests served at once. Each may wait for the host's disk, so more than there are cores; but the kernel hands
 * requests to idle threads in turn, and every one has buffers of its own to be pulled into the caches: 16 threads on
 * two cores cost a fifth more per request than four.
 */
static unsigned workers(void)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	return cores < 2 ? 4 : cores > 16 ? 32 : 2 * (unsigned)cores;
}

static void serve(struct mnt *m)
{
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	uint64_t one = 1;
	int r = -ENOMEM;

	if (config) {
		fuse_loop_cfg_set_clone_fd(config, 1);
		fuse_loop_cfg_set_max_threads(config, workers());
		fuse_loop_cfg_set_idle_threads(config, workers());
		r = fuse_session_loop_mt(m->session, config);
		fuse_loop_cfg_destroy(config);
	}
	if (r < 0)
		m->status = EXIT_FAILURE;
	m->over = true;
	if (write(m->stop_fd, &one, sizeof(one)) != sizeof(one))
		mnt_log("supervisor not told: %s", strerror(errno));
}

static void tell_ready(void *arg)
{
	mnt_ready(arg);
}

/* Mounts and serves until the end. With @files the supervisor says when everything is ready, else the first request. */
static int run_session(struct mnt *m, struct files *files)
{
	struct mnt_fs fs = {
		.tree = m->tree, .disk = m->disk, .ready = files ? NULL : tell_ready, .arg = m, .writeback = files
	};
	pthread_t supervisor;
	int r;

	r = mount_session(m, &fs);
	if (r == 0) {
		m->main_thread = pthread_self();
		r = -pthread_create(&supervisor, NULL, files ? files_supervise : supervise,
				    files ? (void *)files : m);
		if (r == 0) {
			serve(m);
			pthread_join(supervisor, NULL);
		}
		fuse_session_unmount(m->session);
	}
	if (m->session)
		fuse_session_destroy(m->session);
	return r;
}

/* ---- the whole ----------------------------------------------------------------------------------- */

static void show_warnings(struct vhd_disk *d)
{
	struct vhd_layer_info info;

	for (unsigned n = 0; n < vhd_disk_layers(d); n++)
		if (vhd_disk_layer_info(d, n, &info) == 0 && info.warning)
			mnt_log("%s: warning: %s", info.path, info.warning);
}

/* Layers open as chains of their own, but under the same root as the leaf, wherever their files lie. */
static int find_root(struct mnt *m, struct sp_err *err)
{
	struct vhd_layer_info leaf;
	char *slash;
	int r = vhd_disk_layer_info(m->disk, 0, &leaf);

	if (r < 0)
		return sp_err_set(err, r, "%s", strerror(-r));
	m->root = sp_strdup(m->opts.image_root ? m->opts.image_root : leaf.path);
	if (!m->root)
		return sp_err_set(err, -ENOMEM, "out of memory");
	slash = strrchr(m->root, '/');
	if (!m->opts.image_root)
		slash[slash == m->root] = '\0';
	return 0;
}

static int open_disk(struct mnt *m, struct sp_err *err)
{
	int r = vhd_disk_open(m->opts.image, &m->opts.open, &m->disk, err);

	if (r == -EROFS || r == -EACCES)
		return sp_err_prefix(err, r, "%s cannot be written ('-o ro' shows it read-only)", m->opts.image);
	if (r < 0)
		return sp_err_prefix(err, r, "%s", m->opts.image);
	show_warnings(m->disk);
	r = find_root(m, err);
	return r < 0 ? r : mnt_info_text(m->disk, &m->info, err);
}

static int build_tree(struct mnt *m, struct sp_err *err)
{
	struct tree_opts t = {
		.disk = m->disk, .open = &m->opts.open, .image_root = m->root, .info = m->info,
		.layers = m->opts.layers, .uid = getuid(), .gid = getgid()
	};

	return tree_new(&t, &m->tree, err);
}

static int prepare_place(struct mnt *m, struct sp_err *err)
{
	const char *run = getenv("XDG_RUNTIME_DIR");
	struct stat st;

	if (stat(m->opts.mountpoint, &st) < 0)
		return sp_err_set(err, -errno, "%s: %s", m->opts.mountpoint, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return sp_err_set(err, -ENOTDIR, "%s is not a folder to mount on", m->opts.mountpoint);
	if (!m->opts.files) {
		m->where = sp_strdup(m->opts.mountpoint);
		return m->where ? 0 : sp_err_set(err, -ENOMEM, "out of memory");
	}
	m->where = sp_asprintf("%s/vhd-mount-XXXXXX", run && access(run, W_OK) == 0 ? run : "/tmp");
	if (!m->where)
		return sp_err_set(err, -ENOMEM, "out of memory");
	if (!mkdtemp(m->where))		/* mode 0700 */
		return sp_err_set(err, -errno, "%s: %s", m->where, strerror(errno));
	m->private_folder = true;
	return 0;
}

static int run(struct mnt *m, struct sp_err *err)
{
	struct files *files = NULL;
	int r;

	r = setup_signals(m);
	if (r < 0)
		return sp_err_set(err, r, "signals: %s", strerror(-r));
	r = prepare_place(m, err);
	if (r == 0)
		r = open_disk(m, err);
	if (r == 0)
		r = build_tree(m, err);
	if (r == 0 && m->opts.files)
		r = files_new(m, &files, err);
	if (r == 0)
		r = run_session(m, files);
	files_free(files);
	return r;
}

/* The flush in vhd_disk_close() is the last one: its failure is a failure of the whole mount. */
static void clean_up(struct mnt *m)
{
	struct sp_err err = { 0 };

	tree_free(m->tree);
	if (m->disk && vhd_disk_close(m->disk, &err) < 0) {
		mnt_log("%s: closing: %s", m->opts.image, sp_err_text(&err));
		m->status = EXIT_FAILURE;
	}
	if (m->private_folder && rmdir(m->where) < 0)
		mnt_log("%s: %s", m->where, strerror(errno));
	sp_free(m->info);
	sp_free(m->root);
	sp_free(m->where);
	mnt_options_fini(&m->opts);
}

int main(int argc, char **argv)
{
	struct mnt m = { .ready_fd = -1, .status = EXIT_SUCCESS };
	struct sp_err err = { 0 };

	switch (mnt_options_parse(argc, argv, &m.opts)) {
	case MNT_USAGE:
		m.status = EXIT_FAILURE;
		/* fall through */
	case MNT_DONE:
		mnt_options_fini(&m.opts);
		return m.status;
	case MNT_RUN:
		break;
	}
	if (!m.opts.foreground)
		m.ready_fd = fork_background();
	if (run(&m, &err) < 0) {
		if (err.code)
			mnt_log("%s", sp_err_text(&err));
		m.status = EXIT_FAILURE;
	}
	clean_up(&m);
	return m.status;
}
