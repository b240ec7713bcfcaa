/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_CONFIG_H
#define SPINDLE_VMM_CONFIG_H
/*
 * What the operator wants: from options or from a JSON file with the same names. Plain data, owned by the config.
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/guid.h"
#include "vhd/vhd.h"

#define VMM_NAME_MAX	64u
#define VMM_CONTROLLERS 4u
#define VMM_LUNS	64u
#define VMM_CPUS_MAX	64u
#define VMM_SERVED	(VMM_CONTROLLERS - 1)	/* with storvsp_socket: for clients on the host, not for the guest */

struct vmm_disk_config {		/* --disk FILE[,key=value...]; --dvd FILE|none[,...] */
	char *path;			/* NULL: a DVD drive without medium */
	bool dvd;
	enum vhd_format_id format;	/* format=; AUTO: pinned when the machine opens it, never probed again */
	int controller, lun;		/* -1: controller 0; -1: the next free one */
	bool read_only;			/* ro */
	bool snapshot;			/* writes go to a throw-away child, deleted at the end */
	bool write_through;		/* cache=writethrough */
	bool track;			/* changes are recorded; without it only where they were before */
	uint64_t iops, bps, burst_iops, burst_bps, min_iops;
	char *serial;			/* NULL: from the image's identity, else from its name */
	char *image_root;		/* NULL: the folder of the file */
};

struct vmm_config {
	char name[VMM_NAME_MAX + 1];	/* [A-Za-z0-9._-]; default: from the first disk's name */
	uint64_t memory;		/* bytes; default 512 MiB */
	unsigned cpus;			/* default 1 */
	char *kernel, *initrd;		/* paths; "diskN:/path" lies inside a guest's own disk */
	char *append;
	char *serial;			/* stdio | none | unix:PATH | pty | file:PATH | tcp:PORT; default stdio */
	char *qmp;			/* more control sockets beside the machine's own; NULL */
	char *attach_from;		/* files below may be attached later, besides those beside its disks; NULL */
	char *storvsp_socket;		/* controller VMM_SERVED is for clients there: a disk has one master; NULL */
	struct vmm_disk_config *disk;
	unsigned disks;
	bool paused;			/* do not start the processors */
	bool no_reboot;			/* a reset of the guest ends the machine */
	bool no_jail;			/* for debuggers */
	unsigned poll_us;		/* storvsp_opts.poll_us */
	struct sp_guid id;		/* of the machine: instance GUIDs derive from it; default from the name */
};

void vmm_config_init(struct vmm_config *c);
void vmm_config_fini(struct vmm_config *c);
/* One "--disk" or "--dvd" argument. -EINVAL names the key. Nothing to free on failure. */
int vmm_disk_config_parse(struct vmm_disk_config *ret_disk, const char *spec, bool dvd, struct sp_err *err);
int vmm_disk_config_copy(const struct vmm_disk_config *from, struct vmm_disk_config *ret_copy);	/* -ENOMEM */
void vmm_disk_config_fini(struct vmm_disk_config *c);
int vmm_config_add_disk(struct vmm_config *c, const char *spec, bool dvd, struct sp_err *err);
/* A JSON object with the names of the options ("disks" and "dvds" are lists); what it does not name stays.
 * -EINVAL, -ERANGE: what it says; else it cannot be read. */
int vmm_config_json(struct vmm_config *c, const char *path, struct sp_err *err);
/* Everything is there and fits together; fills in defaults, and gives each disk its place. */
int vmm_config_check(struct vmm_config *c, struct sp_err *err);

#endif
