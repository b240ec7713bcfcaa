/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_VMM_MACHINE_INT_H
#define SPINDLE_VMM_MACHINE_INT_H
/*
 * What the files of the machine share:
 *
 *   machine.c		put together, taken apart, states and events
 *   machine_guest.c	load, run, reset, end of the guest; what it tells by MSR
 *   machine_console.c	serial port, clock, power
 *   machine_disks.c	controllers, disks, changes while it runs
 *   machine_report.c	status and statistics as JSON
 *	machine_snapshot.c	snapshots of all disks at once
 *	machine_merge.c		which there are, deleting one
 *	machine_recover.c	what an interrupted one left
 *	machine_track.c		change tracking of its disks
 *	machine_setup.c		its configuration as it is now
 */
#include <pthread.h>
#include <stdatomic.h>

#include "storvsp/storvsp.h"
#include "vmbus/socket_server.h"
#include "vhd/vhd.h"
#include "vmm/broker.h"
#include "vmm/hyperv.h"
#include "vmm/ic.h"
#include "vmm/machine.h"
#include "vmm/memory.h"
#include "vmm/partition.h"
#include "vmm/pio.h"
#include "vmm/power.h"
#include "vmm/rtc.h"
#include "vmm/serial.h"
#include "vmm/vmbus_server.h"

#define MACHINE_LISTENERS 16u
#define MACHINE_SERVICES  5u
#define CRASH_TEXT_MAX	  4096u

/* A disk or a DVD drive in use. */
struct machine_disk {
	struct vmm_disk_config config;	/* strings are ours */
	struct vhd_disk *disk;		/* NULL: a drive without medium */
	struct store_folder *folder;	/* for what lies beside the image; NULL: paths of the host are opened */
	char *name;			/* of the image in it */
	struct sp_guid identity;
	char *scratch;			/* throw-away child, deleted at the end */
	bool stuck;			/* a medium that is out, but whose requests have not ended */
	struct storvsp_address at;
	unsigned controller;
	struct machine_disk *next;
};

struct machine_snapshot;
struct machine_merge;
struct vmm_vss_guest;

struct machine_controller {
	struct storvsp *vsp;		/* NULL: not there */
	char name[16];			/* "scsi0" */
	uint32_t offer;
};

struct vmm_machine {
	const struct vmm_config *config;	/* the caller's */
	char *here;			/* the folder that names in it count from */
	struct vmm_loop *loop;
	enum vmm_state state;
	bool started, ending;
	bool sealed;			/* no file can be made any more: see vmm_machine_seal() */

	struct vmm_memory *memory;
	struct vmm_pio *pio;
	struct vmm_partition *partition;
	struct vmm_hv *hv;
	struct vmm_bus *bus;
	struct vmm_watch *stop_watch;
	struct vmm_boot_state boot;

	struct vmm_serial *serial;
	struct vmm_serial_backend *console;
	struct vmm_rtc *rtc;
	struct vmm_power *power;

	struct machine_controller controller[VMM_CONTROLLERS];
	struct machine_disk *disks;
	struct vmbus_socket_server *server;	/* of controller VMM_SERVED; NULL: the guest has it */
	struct vmm_ic *service[MACHINE_SERVICES];	/* by enum vmm_ic_kind; NULL: not there */
	struct vmm_vss_guest *vss_guest;
	struct machine_snapshot *snapshot;	/* NULL: none is being made */
	struct machine_merge *merge;	/* the last one; NULL: none yet */
	struct vmm_broker *broker;	/* the caller's; NULL: files are opened here */

	/* From vCPU threads: what the guest said when it died. */
	pthread_mutex_t crash_lock;
	char crash_text[CRASH_TEXT_MAX + 1];
	bool crashed;			/* crash_lock */
	int attention_fd;		/* eventfd */
	struct vmm_watch *attention_watch;

	struct { vmm_event_fn fn; void *ctx; } listener[MACHINE_LISTENERS];
	unsigned listeners;
	struct sp_err failure;		/* why, in state FAILED */
	void (*ended)(void *ctx);
	void *ended_ctx;
	uint64_t started_ns;
	unsigned resets;
};

void machine_event(struct vmm_machine *m, const char *name, void *data);	/* takes @data over */

/* machine_guest.c */
int machine_guest_new(struct vmm_machine *m, struct sp_err *err);
void machine_guest_free(struct vmm_machine *m);
int machine_guest_load(struct vmm_machine *m, struct sp_err *err);
int machine_guest_run(struct vmm_machine *m, struct sp_err *err);
void machine_end(struct vmm_machine *m, enum vmm_state state);

/* machine_console.c */
int machine_console_new(struct vmm_machine *m, struct sp_err *err);
void machine_console_free(struct vmm_machine *m);

/* machine_track.c: a disk that has just been opened is tracked if it is to be, or was before */
int machine_track_begin(struct machine_disk *d, struct sp_err *err);

/* machine_recover.c: before the disks are opened */
int machine_recover(struct vmm_machine *m, struct sp_err *err);

/* machine_disks.c */
int machine_disks_new(struct vmm_machine *m, struct sp_err *err);
void machine_disks_free(struct vmm_machine *m);
/* "scsi0:3", "0:3", or "3": NULL when there is none. */
struct machine_disk *machine_disk_find(struct vmm_machine *m, const char *at);

#endif
