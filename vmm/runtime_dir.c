/* SPDX-License-Identifier: BSD-2-Clause */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/client.h"

static void choose(char ret_path[80])
{
	const char *runtime = getenv("XDG_RUNTIME_DIR");

	if (runtime && *runtime == '/' && strlen(runtime) < 60)
		snprintf(ret_path, 80, "%s/spindle", runtime);
	else if (geteuid() == 0)
		snprintf(ret_path, 80, "/run/spindle");
	else
		snprintf(ret_path, 80, "/tmp/spindle-%u", (unsigned)geteuid());
}

/* Somebody else's folder under that name, or a link to one, must not get our sockets. */
int vm_runtime_dir(char ret_path[80], struct sp_err *err)
{
	struct stat st;

	choose(ret_path);
	if (mkdir(ret_path, 0700) < 0 && errno != EEXIST)
		return sp_err_set(err, -errno, "%s: %s", ret_path, strerror(errno));
	if (lstat(ret_path, &st) < 0)
		return sp_err_set(err, -errno, "%s: %s", ret_path, strerror(errno));
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
		return sp_err_set(err, -EPERM, "%s is not a folder of ours alone; remove it, or set XDG_RUNTIME_DIR",
				  ret_path);
	return 0;
}

int vm_socket_path(const char *name, char ret_path[108], struct sp_err *err)
{
	char dir[80];
	int n, r;

	if (strchr(name, '/')) {	/* a socket named outright */
		n = snprintf(ret_path, 108, "%s", name);
	} else {
		r = vm_runtime_dir(dir, err);
		if (r < 0)
			return r;
		n = snprintf(ret_path, 108, "%s/%s.sock", dir, name);
	}
	return n < 108 ? 0 : sp_err_set(err, -ENAMETOOLONG, "%s: the name of the socket is too long", name);
}
