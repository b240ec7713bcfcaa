/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_BROKER_INT_H
#define SPINDLE_VMM_BROKER_INT_H
/* One record there, one record back, of fixed size, over a SOCK_SEQPACKET pair. A descriptor travels beside it. */
#include <limits.h>
#include <stdint.h>

#include "base/err.h"

enum broker_op { BROKER_OPEN, BROKER_FOLDER, BROKER_FOLDER_OPEN, BROKER_RENAME, BROKER_LINK, BROKER_UNLINK, BROKER_SYNC,
		 BROKER_FOLDER_CLOSE, BROKER_REMOVE_AT_END, BROKER_ALLOW, BROKER_SEAL };

#define BROKER_FOLDERS 512u
#define BROKER_REMOVALS 512u
#define BROKER_GROUNDS 512u		/* folders that may be opened once sealed */
#define BROKER_NAMES 16u		/* files that may be opened again once sealed */

struct broker_request {
	uint32_t op, flags, folder;
	char a[PATH_MAX], b[PATH_MAX];	/* NUL-terminated */
};

struct broker_answer {
	int32_t result;
	uint32_t folder;
	char name[PATH_MAX];		/* FOLDER: of the image in it */
	char root[PATH_MAX];		/* FOLDER: where it is */
	char text[SP_ERR_TEXT_MAX];	/* when result < 0 */
};

/* The broker's process: until the other end has gone. Closes every other descriptor from 3 on. */
void broker_serve(int socket_fd);

#endif
