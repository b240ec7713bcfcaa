/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a running machine asks the kernel for, and nothing else: I/O on what it holds, memory, threads, time, its
 * connections. What it may ask for and gets refused: names of files (the engine asks /proc who holds a lock, and can do
 * without the answer; the broker removes sockets). Anything else kills the process: execve, fork, socket, connect,
 * ptrace, memory that can be executed, typing into a terminal.
 *
 * tests/unit/test_vmm_jail.c has the list once more, and tries every number.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "base/bytes.h"
#include "base/seed.h"
#include "vmm/jail_int.h"

static const int allowed[] = {
	/* data */
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(preadv), SCMP_SYS(pwritev),
	SCMP_SYS(preadv2), SCMP_SYS(pwritev2), SCMP_SYS(lseek), SCMP_SYS(fsync), SCMP_SYS(fdatasync),
	SCMP_SYS(fallocate), SCMP_SYS(ftruncate), SCMP_SYS(fstat), SCMP_SYS(fstatfs), SCMP_SYS(fadvise64),
	SCMP_SYS(close), SCMP_SYS(dup), SCMP_SYS(dup3),
	SCMP_SYS(io_uring_setup), SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register),
	/* waiting, time */
	SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(poll), SCMP_SYS(ppoll),
	SCMP_SYS(eventfd2), SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime), SCMP_SYS(futex), SCMP_SYS(nanosleep),
	SCMP_SYS(clock_nanosleep), SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(time),
	SCMP_SYS(restart_syscall),
	/* memory; the sizes of caches and tables follow from processors and RAM */
	SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(memfd_create),
	SCMP_SYS(getrandom), SCMP_SYS(sched_getaffinity), SCMP_SYS(sysinfo),
	/* threads, and how all of it ends */
	SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(gettid),
	SCMP_SYS(getpid), SCMP_SYS(geteuid), SCMP_SYS(tgkill), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigaction),
	SCMP_SYS(rt_sigreturn), SCMP_SYS(wait4),
	/* connections that exist, and clients of sockets that listen */
	SCMP_SYS(accept4), SCMP_SYS(recvfrom), SCMP_SYS(recvmsg), SCMP_SYS(sendto), SCMP_SYS(sendmsg),
	SCMP_SYS(getsockopt), SCMP_SYS(shutdown),
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	/* the run-time library of the sanitizer, which looks for leaks from a process of its own */
	SCMP_SYS(sigaltstack), SCMP_SYS(sched_yield), SCMP_SYS(getrusage), SCMP_SYS(getdents64), SCMP_SYS(getppid),
	SCMP_SYS(ptrace), SCMP_SYS(clone), SCMP_SYS(prctl), SCMP_SYS(prlimit64), SCMP_SYS(pipe2), SCMP_SYS(uname),
#endif
};

static const int refused[] = {
	SCMP_SYS(open), SCMP_SYS(openat), SCMP_SYS(openat2), SCMP_SYS(readlink), SCMP_SYS(readlinkat),
	SCMP_SYS(access), SCMP_SYS(faccessat), SCMP_SYS(faccessat2), SCMP_SYS(unlink),
};

/* One bit or value of one argument decides. */
struct condition {
	int call;
	unsigned argument;
	uint64_t mask, value;
};

/* Requests of KVM and of block devices each have a letter of their own. Of terminals: their settings. */
#define IOCTL_TYPE 0xff00u
#define IOCTL_TYPE_KVM (KVMIO << 8)
#define IOCTL_TYPE_BLOCK 0x1200u
#define ALL_BITS UINT32_MAX

static const struct condition allowed_when[] = {
	{ SCMP_SYS(ioctl), 1, IOCTL_TYPE, IOCTL_TYPE_KVM }, { SCMP_SYS(ioctl), 1, IOCTL_TYPE, IOCTL_TYPE_BLOCK },
	{ SCMP_SYS(ioctl), 1, ALL_BITS, TCGETS }, { SCMP_SYS(ioctl), 1, ALL_BITS, TCSETS },
	{ SCMP_SYS(ioctl), 1, ALL_BITS, TCSETSW }, { SCMP_SYS(ioctl), 1, ALL_BITS, TCSETSF },
	{ SCMP_SYS(fcntl), 1, ALL_BITS, F_GETFL }, { SCMP_SYS(fcntl), 1, ALL_BITS, F_SETFL },
	{ SCMP_SYS(fcntl), 1, ALL_BITS, F_GETFD }, { SCMP_SYS(fcntl), 1, ALL_BITS, F_SETFD },
	{ SCMP_SYS(fcntl), 1, ALL_BITS, F_DUPFD_CLOEXEC }, { SCMP_SYS(fcntl), 1, ALL_BITS, F_OFD_SETLK },
	{ SCMP_SYS(fcntl), 1, ALL_BITS, F_OFD_GETLK }, { SCMP_SYS(fcntl), 1, ALL_BITS, F_ADD_SEALS },
	{ SCMP_SYS(fcntl), 1, ALL_BITS, F_GET_SEALS },
	/* of a descriptor, as fstat() asks, and change tracking */
	{ SCMP_SYS(newfstatat), 3, AT_EMPTY_PATH, AT_EMPTY_PATH },
	{ SCMP_SYS(statx), 2, AT_EMPTY_PATH, AT_EMPTY_PATH },
	/* no memory that can be executed */
	{ SCMP_SYS(mmap), 2, PROT_EXEC, 0 }, { SCMP_SYS(mprotect), 2, PROT_EXEC, 0 },
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	/* threads, not processes; and their names */
	{ SCMP_SYS(clone), 0, CLONE_THREAD, CLONE_THREAD },
	{ SCMP_SYS(prctl), 0, ALL_BITS, PR_SET_NAME },
#endif
};

static int fill(scmp_filter_ctx c)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < SP_ARRAY_SIZE(allowed); i++)
		r = seccomp_rule_add(c, SCMP_ACT_ALLOW, allowed[i], 0);
	for (unsigned i = 0; r == 0 && i < SP_ARRAY_SIZE(refused); i++)
		r = seccomp_rule_add(c, SCMP_ACT_ERRNO(EACCES), refused[i], 0);
	for (unsigned i = 0; r == 0 && i < SP_ARRAY_SIZE(allowed_when); i++) {
		const struct condition *w = &allowed_when[i];

		r = seccomp_rule_add(c, SCMP_ACT_ALLOW, w->call, 1,
				     SCMP_CMP(w->argument, SCMP_CMP_MASKED_EQ, w->mask, w->value));
	}
	/* Asking for a file by its name, as stat() does. */
	if (r == 0)
		r = seccomp_rule_add(c, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(newfstatat), 1,
				     SCMP_A3(SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, 0));
	if (r == 0)
		r = seccomp_rule_add(c, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(statx), 1,
				     SCMP_A2(SCMP_CMP_MASKED_EQ, AT_EMPTY_PATH, 0));
	/* Its flags lie in memory, where no filter sees them: the C library takes clone() instead. */
	if (r == 0)
		r = seccomp_rule_add(c, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	return r;
}

int jail_seccomp(void)
{
	scmp_filter_ctx c = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int r;

	if (!c)
		return -ENOMEM;
	r = seccomp_attr_set(c, SCMP_FLTATR_CTL_TSYNC, 1);
	if (r == 0)
		r = fill(c);
	if (r == 0 && SP_SEED_BUG(JAIL_ALLOWS_SOCKETS))
		r = seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(socket), 0);
	if (r == 0)
		r = seccomp_load(c);
	seccomp_release(c);
	return r;
}
