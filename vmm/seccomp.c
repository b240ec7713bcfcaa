/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a running machine asks the kernel for, and nothing else: I/O on what it holds, memory, threads, time, its
 * connections. Opening is refused, not punished: the engine asks /proc who holds a lock, and can do without the answer.
 * Anything else kills the process. Not in the list, on purpose: execve, connect, ptrace, mprotect to executable.
 */
#include <errno.h>
#include <seccomp.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "vmm/jail_int.h"

static const int allowed[] = {
	/* data */
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64), SCMP_SYS(pwrite64),
	SCMP_SYS(preadv), SCMP_SYS(pwritev), SCMP_SYS(preadv2), SCMP_SYS(pwritev2), SCMP_SYS(lseek), SCMP_SYS(fsync),
	SCMP_SYS(fdatasync), SCMP_SYS(fallocate), SCMP_SYS(ftruncate), SCMP_SYS(fstat), SCMP_SYS(newfstatat),
	SCMP_SYS(fstatfs), SCMP_SYS(statx), SCMP_SYS(fcntl), SCMP_SYS(close), SCMP_SYS(dup), SCMP_SYS(dup3),
	SCMP_SYS(fadvise64),
	SCMP_SYS(sync_file_range), SCMP_SYS(io_uring_setup), SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register),
	/* the virtual machine; terminals and block devices, too */
	SCMP_SYS(ioctl),
	/* waiting */
	SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(poll),
	SCMP_SYS(ppoll), SCMP_SYS(eventfd2), SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime), SCMP_SYS(futex),
	SCMP_SYS(nanosleep), SCMP_SYS(clock_nanosleep), SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday),
	SCMP_SYS(sched_yield), SCMP_SYS(restart_syscall),
	/* memory */
	SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(membarrier),
	/* threads */
	SCMP_SYS(clone), SCMP_SYS(clone3), SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(exit),
	SCMP_SYS(exit_group), SCMP_SYS(gettid), SCMP_SYS(getpid), SCMP_SYS(tgkill), SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack), SCMP_SYS(getrandom), SCMP_SYS(sched_getaffinity),
	SCMP_SYS(sched_setaffinity), SCMP_SYS(wait4), SCMP_SYS(uname), SCMP_SYS(geteuid), SCMP_SYS(getuid),
	SCMP_SYS(prlimit64), SCMP_SYS(sysinfo), SCMP_SYS(getcpu), SCMP_SYS(set_tid_address),
	/* connections that exist, and clients of sockets that listen */
	SCMP_SYS(accept4), SCMP_SYS(recvfrom), SCMP_SYS(recvmsg), SCMP_SYS(sendto), SCMP_SYS(sendmsg),
	SCMP_SYS(getsockopt), SCMP_SYS(shutdown), SCMP_SYS(unlink),
};

static const int refused[] = { SCMP_SYS(open), SCMP_SYS(openat), SCMP_SYS(openat2), SCMP_SYS(readlink),
			       SCMP_SYS(readlinkat), SCMP_SYS(access), SCMP_SYS(faccessat), SCMP_SYS(faccessat2) };

/* Names: only when the thread has a name to give itself. */
#define PR_SET_NAME_ARG 15

static int fill(scmp_filter_ctx c)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < SP_ARRAY_SIZE(allowed); i++)
		r = seccomp_rule_add(c, SCMP_ACT_ALLOW, allowed[i], 0);
	for (unsigned i = 0; r == 0 && i < SP_ARRAY_SIZE(refused); i++)
		r = seccomp_rule_add(c, SCMP_ACT_ERRNO(EACCES), refused[i], 0);
	/* No memory that can be executed. */
	if (r == 0)
		r = seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (r == 0)
		r = seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
				     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (r == 0)
		r = seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME_ARG));
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
	if (r == 0)
		r = seccomp_load(c);
	seccomp_release(c);
	return r;
}
