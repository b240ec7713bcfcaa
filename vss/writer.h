/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VSS_WRITER_H
#define SPINDLE_VSS_WRITER_H
/*
 * For an application on the host that can hold still while a snapshot is taken: it listens on a socket, requesters
 * connect (docs/vss-protocol.md). One requester freezes at a time; another one is refused meanwhile.
 *
 * What is frozen thaws when it is told to, when its window ends, and when the requester's connection is gone.
 *
 * Event driven: poll vss_host_fd() for reading and call vss_host_process(); or call vss_host_run(), which blocks. All
 * calls on one thread.
 */
#include "base/err.h"
#include "vss/vss.h"

#define VSS_HOST_LATER 1	/* of ->freeze: vss_host_frozen() tells */

struct vss_host_ops {
	/* 0, or negative errno: refused, *ret_why for people (static, or valid until the next call). NULL: always 0 */
	int (*check)(void *ctx, const char *snapshot, const char **ret_why);
	/* Holds still before it returns 0; or VSS_HOST_LATER. What it leaves undone when it fails, ->thaw undoes. */
	int (*freeze)(void *ctx, unsigned window_ms, const char **ret_why);
	/* Cannot fail; also told after a freeze that failed or is still under way. */
	void (*thaw)(void *ctx);
	void (*complete)(void *ctx, bool good);		/* the snapshot has ended; NULL: does not matter */
};

struct vss_host;

/*
 * @path: of the socket, made with mode 0600; what is left there of a dead writer is replaced. @name: [A-Za-z0-9._-], at
 * most 48 bytes. Errors: -EADDRINUSE (a writer listens there), -EINVAL (name), -ENAMETOOLONG, -ENOMEM, of socket calls.
 */
int vss_host_new(const char *path, const char *name, enum vss_level grants, const struct vss_host_ops *ops, void *ctx,
		 struct vss_host **ret_host, struct sp_err *err);
void vss_host_free(struct vss_host *h);		/* thaws; removes the socket. NULL is fine */
int vss_host_fd(const struct vss_host *h);	/* owned by @h */
void vss_host_process(struct vss_host *h);	/* never waits, but for the operations */
/* After VSS_HOST_LATER; without effect when it has been thawed meanwhile. */
void vss_host_frozen(struct vss_host *h, int res, const char *why);
/* Until @stop_fd is readable (-1: for ever): 0, or negative errno. */
int vss_host_run(struct vss_host *h, int stop_fd);
bool vss_host_is_frozen(const struct vss_host *h);

#endif
