/* SPDX-License-Identifier: BSD-2-Clause */
/* Commands of the operator, beside everything else. */
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/requester_int.h"

#define ENVIRONMENT_MAX 4096u

/* The caller's environment with two more names, in @ret. */
static void environment_of(char *machine, char *snapshot, char *ret[static ENVIRONMENT_MAX])
{
	unsigned n = 0;

	ret[n++] = machine;
	ret[n++] = snapshot;
	for (char **e = environ; *e && n < ENVIRONMENT_MAX - 1; e++)
		if (strncmp(*e, "SPINDLE_MACHINE=", 16) && strncmp(*e, "SPINDLE_SNAPSHOT=", 17))
			ret[n++] = *e;
	ret[n] = NULL;
}

/* A group of its own, so that all of it can be ended; no signal is blocked there. */
static int spawn_shell(const char *command, char **environment, pid_t *ret_pid)
{
	char *const argv[] = { (char[]){ "sh" }, (char[]){ "-c" }, strdup(command), NULL };
	posix_spawnattr_t a;
	sigset_t none;
	int r;

	if (!argv[2])
		return -ENOMEM;
	sigemptyset(&none);
	posix_spawnattr_init(&a);
	posix_spawnattr_setflags(&a, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
	posix_spawnattr_setpgroup(&a, 0);
	posix_spawnattr_setsigmask(&a, &none);
	r = -posix_spawn(ret_pid, "/bin/sh", NULL, &a, argv, environment);
	posix_spawnattr_destroy(&a);
	free(argv[2]);
	return r;
}

int script_start(const char *command, const char *machine, const char *snapshot, pid_t *ret_pid)
{
	char machine_is[512], snapshot_is[512], *environment[ENVIRONMENT_MAX];
	int fd, r;

	snprintf(machine_is, sizeof(machine_is), "SPINDLE_MACHINE=%s", machine);
	snprintf(snapshot_is, sizeof(snapshot_is), "SPINDLE_SNAPSHOT=%s", snapshot);
	environment_of(machine_is, snapshot_is, environment);
	fflush(stdout);
	r = spawn_shell(command, environment, ret_pid);
	if (r < 0)
		return r;
	fd = (int)syscall(SYS_pidfd_open, *ret_pid, 0);
	if (fd >= 0)
		return fd;
	r = -errno;
	kill(-*ret_pid, SIGKILL);
	waitpid(*ret_pid, NULL, 0);
	return r;
}

bool script_ended_well(int *fd, char *ret_detail, size_t room)
{
	siginfo_t how = { 0 };
	bool known = waitid(P_PIDFD, (id_t)*fd, &how, WEXITED) == 0;

	close(*fd);
	*fd = -1;
	if (known && how.si_code == CLD_EXITED && how.si_status == 0)
		return true;
	snprintf(ret_detail, room, "%s %d", how.si_code == CLD_EXITED ? "exit status" : "ended by signal",
		 how.si_status);
	return false;
}
