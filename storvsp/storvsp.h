/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_STORVSP_STORVSP_H
#define SPINDLE_STORVSP_STORVSP_H
/*
 * The storage provider: a SCSI controller (or the accelerator channel of an IDE disk) behind a VMBus offer, with
 * logical units, limits and statistics. One worker thread per channel.
 *
 * Management calls come from any thread, one at a time per controller (it locks itself).
 */
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/guid.h"
#include "storvsp/scsi.h"
#include "vmbus/channel.h"

struct storvsp;

enum storvsp_kind { STORVSP_SCSI, STORVSP_IDE };

#define STORVSP_PATHS	8u
#define STORVSP_TARGETS 2u
#define STORVSP_LUNS	64u

struct storvsp_opts {
	enum storvsp_kind kind;
	const char *name;		/* "scsi0", for messages, threads and statistics */
	struct sp_guid instance;	/* IDE: ide_channel and ide_device make it */
	unsigned ide_channel, ide_device;	/* 0 or 1 */
	unsigned max_subchannels;	/* vCPUs - 1 */
	uint32_t max_transfer;		/* bytes; 0: 1 MiB */
	unsigned queue_depth;		/* requests in flight per channel; 0: 512 */
	unsigned poll_us;		/* spin so long after the last work; 0: adaptive to 50; UINT32_MAX: always */
	unsigned newest_version;	/* VSTOR_VERSION_*; 0: 6.2. For tests */
};

int storvsp_new(const struct storvsp_opts *opts, struct storvsp **ret_controller, struct sp_err *err);
void storvsp_free(struct storvsp *c);		/* all channels closed */
/* What to put on a bus; lives as long as the controller. */
const struct vmbus_offer *storvsp_offer(const struct storvsp *c);

/* ---- units -------------------------------------------------------------------------------------------- */

struct storvsp_address { uint8_t path, target, lun; };

struct storvsp_limits {			/* 0: no limit */
	uint64_t iops;			/* in units of 8 KiB, as Hyper-V counts: a 64 KiB request is eight */
	uint64_t bps;			/* bytes per second */
	uint64_t burst_iops, burst_bps;	/* bucket sizes; 0: a tenth of a second's worth */
	uint64_t min_iops;		/* share under contention */
};

/* @lu is taken over, unless this fails. Linux hears of it at once (ENUMERATE_BUS). An IDE disk's address is its
 * channel, its device, 0. -EEXIST, -EINVAL, -EMFILE, -EBUSY (the guest has not yet seen that the former unit is gone,
 * though @wait_ms have passed). */
int storvsp_attach(struct storvsp *c, struct storvsp_address at, struct scsi_lu *lu,
		   const struct storvsp_limits *limits, unsigned wait_ms, struct sp_err *err);
/* New requests are refused at once, those in flight are finished; then the unit is freed. -ENOENT. */
int storvsp_detach(struct storvsp *c, struct storvsp_address at, struct sp_err *err);
/* The unit, for changes through scsi_lu_*; NULL: none. Valid until detached (same thread of management). */
struct scsi_lu *storvsp_lu(struct storvsp *c, struct storvsp_address at);
/* After scsi_lu_resized() and friends: an idle guest looks again. */
void storvsp_notify(struct storvsp *c);
int storvsp_set_limits(struct storvsp *c, struct storvsp_address at, const struct storvsp_limits *limits);

/* The guest has been reset: unit attention 29/00 on every unit, reservations of RESERVE(6) end. */
void storvsp_power_on(struct storvsp *c);

/* Between hold and release no request of any channel is started or in flight, not even a flush that has been answered
 * (live snapshots). 0 or -ETIMEDOUT. */
int storvsp_hold(struct storvsp *c, unsigned timeout_ms);
void storvsp_release(struct storvsp *c);

/* ---- statistics --------------------------------------------------------------------------------------- */

struct storvsp_lun_stats {
	struct storvsp_address at;
	struct scsi_stats scsi;
	uint64_t throttled, throttled_ns;	/* requests delayed, and for how long together */
	uint32_t queued;			/* waiting for their limit now */
};

struct storvsp_channel_stats {
	unsigned subchannel;
	uint64_t requests, batches, signals_sent, signals_received, ring_full, polls, sleeps, bad_packets;
	uint32_t inflight;
};

int storvsp_lun_stats(struct storvsp *c, struct storvsp_address at, struct storvsp_lun_stats *ret_stats);
unsigned storvsp_channel_stats(struct storvsp *c, struct storvsp_channel_stats *ret_stats, unsigned room);
/* Addresses in use, in order: how many. */
unsigned storvsp_addresses(struct storvsp *c, struct storvsp_address *ret_at, unsigned room);
unsigned storvsp_version(struct storvsp *c);	/* negotiated VSTOR_VERSION_*, 0: not yet */
/* JSON of all of it with the classic counters' names (reads_per_sec ...): a json-c object, the caller's. */
void *storvsp_describe(struct storvsp *c);

#endif
