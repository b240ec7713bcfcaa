/* SPDX-License-Identifier: BSD-2-Clause */
/* The jail, from inside: every system call there is, one process each. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <liburing.h>

#include "base/bytes.h"
#include "tests/unit/rows.h"
#include "vmm/jail.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#define CALLS 471
#define URETPROBE 335
#define UPROBE 336
#define BAD (-1l)		/* no descriptor, no address */

/* What a machine may do: on purpose not taken from the filter. */
static const short may[] = {
	SYS_read, SYS_write, SYS_pread64, SYS_pwrite64, SYS_preadv, SYS_pwritev, SYS_preadv2, SYS_pwritev2, SYS_lseek,
	SYS_fsync, SYS_fdatasync, SYS_fallocate, SYS_ftruncate, SYS_fstat, SYS_fstatfs, SYS_fadvise64, SYS_close,
	SYS_dup, SYS_dup3, SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register, SYS_epoll_ctl,
	SYS_epoll_wait, SYS_epoll_pwait, SYS_poll, SYS_ppoll, SYS_eventfd2, SYS_timerfd_create, SYS_timerfd_settime,
	SYS_futex, SYS_nanosleep, SYS_clock_nanosleep, SYS_clock_gettime, SYS_gettimeofday, SYS_time,
	SYS_restart_syscall, SYS_brk, SYS_munmap, SYS_mremap, SYS_madvise, SYS_memfd_create, SYS_getrandom,
	SYS_sched_getaffinity, SYS_sysinfo, SYS_set_robust_list, SYS_rseq, SYS_exit, SYS_exit_group, SYS_gettid,
	SYS_getpid, SYS_geteuid, SYS_tgkill, SYS_rt_sigprocmask, SYS_rt_sigaction, SYS_rt_sigreturn, SYS_wait4,
	SYS_accept4, SYS_recvfrom, SYS_recvmsg, SYS_sendto, SYS_sendmsg, SYS_getsockopt, SYS_shutdown,
};

/* With some arguments only: rows of their own below. */
static const short sometimes[] = { SYS_ioctl, SYS_fcntl, SYS_newfstatat, SYS_statx, SYS_mmap, SYS_mprotect, SYS_clone,
				   SYS_prctl };

static const short refused[] = { SYS_open, SYS_openat, SYS_openat2, SYS_readlink, SYS_readlinkat, SYS_access,
				 SYS_faccessat, SYS_faccessat2, SYS_unlink, SYS_clone3 };

/* The sanitizers' own. */
static const short sanitizers[] = { SYS_sigaltstack, SYS_sched_yield, SYS_getrusage, SYS_getdents64, SYS_getppid,
				    SYS_ptrace, SYS_prlimit64, SYS_pipe2, SYS_uname };

#define IS_IN(list, number) is_in(list, SP_ARRAY_SIZE(list), number)

static bool is_in(const short *list, size_t count, long number)
{
	for (size_t i = 0; i < count; i++)
		if (list[i] == number)
			return true;
	return false;
}

/* ---- one call in one process ------------------------------------------------------------------------------ */

enum { DIED = 1000, OTHER_SIGNAL };

static void enter(void)
{
	static const int signals[] = { SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGABRT };
	struct vmm_jail_report report;
	struct sp_err err = { 0 };

	/* The test framework would take them for a failure and go on in here. */
	for (unsigned i = 0; i < SP_ARRAY_SIZE(signals); i++)
		signal(signals[i], SIG_DFL);
	if (vmm_jail_enter(&report, &err) < 0 || !report.no_new_privs || !report.unprivileged || !report.seccomp) {
		fprintf(stderr, "the jail: %s\n", sp_err_text(&err));
		abort();
	}
}

/* What became of it: 0, an errno, DIED: killed for it. */
static int outcome(pid_t pid)
{
	int status;

	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status))
		return WTERMSIG(status) == SIGSYS ? DIED : OTHER_SIGNAL;
	return WEXITSTATUS(status);
}

static int try_call(long number, long a, long b, long c, long d)
{
	pid_t pid = fork();

	if (pid == 0) {
		enter();
		syscall(SYS_exit_group, syscall(number, a, b, c, d, 0l, 0l) < 0 ? errno : 0);
	}
	return outcome(pid);
}

static void every_number(void **state)
{
	for (long number = 0; number < CALLS; number++) {
		int r;

		if (IS_IN(sometimes, number) || (SANITIZED && IS_IN(sanitizers, number)))
			continue;
		r = try_call(number, BAD, 1, 0, 0);
		/* Kernels that have these two ask no filter: whoever is not a probe gets an error or SIGILL. */
		if (number == URETPROBE || number == UPROBE)
			assert_int_not_equal(r, 0);
		else if (IS_IN(refused, number))
			assert_true(r == EACCES || r == ENOSYS);
		else if ((r == DIED) == IS_IN(may, number))
			fail_msg("system call %ld: %s", number, r == DIED ? "the machine needs it" : "nobody needs it");
	}
}

/* ---- arguments ----------------------------------------------------------------------------------------------- */

struct call_row {
	const char *name;
	long number, a, b, c, d;
	bool dies;
	bool sanitizers_may;
};

static const struct call_row call_rows[] = {
	{ "KVM_RUN", SYS_ioctl, BAD, KVM_RUN },
	{ "KVM_IOEVENTFD", SYS_ioctl, BAD, KVM_IOEVENTFD },
	{ "BLKGETSIZE64", SYS_ioctl, BAD, (long)0x80081272 },
	{ "settings of a terminal", SYS_ioctl, BAD, TCSETSF },
	{ "typing into a terminal", SYS_ioctl, BAD, TIOCSTI, .dies = true },
	{ "a terminal of one's own", SYS_ioctl, BAD, TIOCSCTTY, .dies = true },
	{ "a console's selection", SYS_ioctl, BAD, TIOCLINUX, .dies = true },
	{ "requests of networks", SYS_ioctl, BAD, 0x8927, .dies = true },
	{ "cloning a file", SYS_ioctl, BAD, 0x40049409, .dies = true },
	{ "a lock", SYS_fcntl, BAD, F_OFD_SETLK },
	{ "a signal owner", SYS_fcntl, BAD, F_SETOWN, .dies = true },
	{ "a lease", SYS_fcntl, BAD, F_SETLEASE, .dies = true },
	{ "fstat", SYS_newfstatat, BAD, 1, 1, AT_EMPTY_PATH },
	{ "statx", SYS_statx, BAD, 1, AT_EMPTY_PATH, 0 },
	{ "memory", SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE },
	{ "memory to be executed", SYS_mmap, 0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, .dies = true },
	{ "to be executed later", SYS_mprotect, 0, 4096, PROT_EXEC, 0, .dies = true },
	{ "a name for a thread", SYS_prctl, PR_SET_NAME, (long)"jail" },
	{ "dumps", SYS_prctl, PR_SET_DUMPABLE, 1, .dies = true, .sanitizers_may = true },
	{ "a filter less", SYS_prctl, PR_SET_SECCOMP, 0, .dies = true, .sanitizers_may = true },
	{ "a process", SYS_clone, SIGCHLD, 0, .dies = true, .sanitizers_may = true },
};

static void arguments(void **state)
{
	const struct call_row *row = *state;
	bool dies = row->dies && !(SANITIZED && row->sanitizers_may);
	int r = try_call(row->number, row->a, row->b, row->c, row->d);

	assert_int_equal(r == DIED, dies);
	assert_int_not_equal(r, OTHER_SIGNAL);
}

/* ---- what it is for -------------------------------------------------------------------------------------------- */

static void no_file(void **state)
{
	static const char *const paths[] = { "/etc/passwd", "/proc/self/mem", "/dev/null", ".", "/tmp/new" };

	for (unsigned i = 0; i < SP_ARRAY_SIZE(paths); i++) {
		assert_int_equal(try_call(SYS_openat, AT_FDCWD, (long)paths[i], O_RDONLY, 0), EACCES);
		assert_int_equal(try_call(SYS_open, (long)paths[i], O_WRONLY | O_CREAT, 0600, 0), EACCES);
		assert_int_equal(try_call(SYS_newfstatat, AT_FDCWD, (long)paths[i], BAD, 0), EACCES);
		assert_int_equal(try_call(SYS_statx, AT_FDCWD, (long)paths[i], 0, 0), EACCES);
	}
}

static void no_program(void **state)
{
	static const char *const argv[] = { "/bin/true", NULL };

	assert_int_equal(try_call(SYS_execve, (long)argv[0], (long)argv, 0, 0), DIED);
	assert_int_equal(try_call(SYS_execveat, AT_FDCWD, (long)argv[0], (long)argv, 0), DIED);
}

/* Calls of the other ABI of this processor have numbers of their own. */
static void no_x32(void **state)
{
	assert_int_equal(try_call(0x40000000l | SYS_getpid, 0, 0, 0, 0), DIED);
}

static int write_by_ring(int fd, bool made_inside)
{
	static char text[] = "inside";
	struct io_uring ring;
	struct io_uring_cqe *cqe;

	if (!made_inside && io_uring_queue_init(4, &ring, 0) < 0)
		return 1;
	enter();
	if (made_inside && io_uring_queue_init(4, &ring, 0) < 0)
		return 2;
	io_uring_prep_write(io_uring_get_sqe(&ring), fd, text, sizeof(text) - 1, 0);
	if (io_uring_submit(&ring) != 1 || io_uring_wait_cqe(&ring, &cqe) < 0)
		return 3;
	return cqe->res == (int)sizeof(text) - 1 ? 0 : 4;
}

/* Through a ring no file can be opened either: Landlock stands before that way as well. */
static int open_by_ring(void)
{
	struct io_uring ring;
	struct io_uring_cqe *cqe;

	if (io_uring_queue_init(4, &ring, 0) < 0)
		return 1;
	enter();
	io_uring_prep_openat(io_uring_get_sqe(&ring), AT_FDCWD, "/etc/passwd", O_RDONLY, 0);
	if (io_uring_submit(&ring) != 1 || io_uring_wait_cqe(&ring, &cqe) < 0)
		return 3;
	return cqe->res == -EACCES ? 0 : 4;
}

static void rings_work(void **state)
{
	char back[8] = { 0 };
	int fd = memfd_create("file", MFD_CLOEXEC);

	for (int inside = 0; inside < 2; inside++) {
		pid_t pid = fork();

		if (pid == 0)
			syscall(SYS_exit_group, write_by_ring(fd, inside));
		assert_int_equal(outcome(pid), 0);
		assert_int_equal(pread(fd, back, sizeof(back), 0), 6);
		assert_string_equal(back, "inside");
	}
	close(fd);
}

static void rings_open_nothing(void **state)
{
	pid_t pid;

	if (syscall(SYS_landlock_create_ruleset, NULL, 0, 1) < 0)
		skip();
	pid = fork();
	if (pid == 0)
		syscall(SYS_exit_group, open_by_ring());
	assert_int_equal(outcome(pid), 0);
}

static void *thread(void *arg)
{
	return arg;
}

static void threads_start(void **state)
{
	pid_t pid = fork();

	if (pid == 0) {
		pthread_t t;
		void *ret = NULL;

		enter();
		if (pthread_create(&t, NULL, thread, &ret) != 0 || pthread_setname_np(t, "inside") < 0 ||
		    pthread_join(t, &ret) != 0)
			syscall(SYS_exit_group, 1);
		syscall(SYS_exit_group, ret == &ret ? 0 : 2);
	}
	assert_int_equal(outcome(pid), 0);
}

static const struct single_row singles[] = {
	{ "every number", every_number }, { "no file", no_file }, { "no program", no_program }, { "no x32", no_x32 },
	{ "rings work", rings_work }, { "rings open nothing", rings_open_nothing }, { "threads start", threads_start },
};

int main(void)
{
	return ROWS_RUN(singles, rows_single) + ROWS_RUN(call_rows, arguments);
}
