/* SPDX-License-Identifier: BSD-2-Clause */
#include "vmm/jail.h"

#include <errno.h>
#include <grp.h>
#include <linux/landlock.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/jail_int.h"

#define RIGHTS_OF_FIRST_ABI 13u		/* then: linking across folders, truncating by name */
#define ABI_OF_TRUNCATE 3

/* Rights of all files, as far as this kernel knows them: a ruleset that handles them and allows none forbids them. */
static int landlock(void)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	long more = abi < ABI_OF_TRUNCATE ? abi - 1 : ABI_OF_TRUNCATE - 1;
	struct landlock_ruleset_attr none = { 0 };
	long fd;
	int r;

	if (abi < 0)
		return -errno;
	none.handled_access_fs = (1ull << (RIGHTS_OF_FIRST_ABI + (unsigned)more)) - 1;
	fd = syscall(SYS_landlock_create_ruleset, &none, sizeof(none), 0);
	if (fd < 0)
		return -errno;
	r = syscall(SYS_landlock_restrict_self, fd, 0) < 0 ? -errno : 0;
	close((int)fd);
	return r;
}

/* Root becomes nobody; who is not root has nothing to give up. */
static int drop_privileges(void)
{
	const unsigned nobody = 65534;

	if (geteuid() != 0)
		return 0;
	if (setgroups(0, NULL) < 0 || setresgid(nobody, nobody, nobody) < 0 || setresuid(nobody, nobody, nobody) < 0)
		return -errno;
	return 0;
}

int vmm_jail_enter(struct vmm_jail_report *ret_report, struct sp_err *err)
{
	int r;

	*ret_report = (struct vmm_jail_report){ 0 };
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return sp_err_set(err, -errno, "jail: no_new_privs: %s", strerror(errno));
	ret_report->no_new_privs = true;
	r = drop_privileges();
	if (r < 0)
		return sp_err_set(err, r, "jail: cannot give up root: %s", strerror(-r));
	ret_report->unprivileged = true;
	ret_report->landlock = landlock() == 0;		/* missing in older kernels: seccomp remains */
	r = jail_seccomp();
	if (r < 0)
		return sp_err_set(err, r, "jail: seccomp: %s", strerror(-r));
	ret_report->seccomp = true;
	return 0;
}
