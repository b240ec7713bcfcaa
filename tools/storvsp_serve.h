/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TOOLS_STORVSP_SERVE_H
#define SPINDLE_TOOLS_STORVSP_SERVE_H
/*
 * storvsp-serve: disks of this host behind a socket, for clients of storvsc/.
 */
#include <stdbool.h>
#include <stdint.h>

#include "storvsp/storvsp.h"
#include "vhd/vhd.h"

struct serve_disk {
	char *path;			/* NULL: nothing behind it */
	uint64_t null_size;
	int lun;			/* -1: the next free one */
	bool read_only;
	enum vhd_format_id format;
	struct storvsp_limits limits;
	/* once open */
	struct vhd_disk *disk;
	char *reservations;
};

/* "FILE[,KEY[=VALUE]]...". Nothing to free on failure. */
int serve_disk_parse(struct serve_disk *ret_disk, const char *spec, struct sp_err *err);
/* Opens it and attaches it at @d->lun of @controller. */
int serve_disk_open(struct serve_disk *d, struct storvsp *controller, struct sp_err *err);
/* After the controller has been freed. -EIO: something may not have reached the disk. */
int serve_disk_close(struct serve_disk *d, struct sp_err *err);

#endif
