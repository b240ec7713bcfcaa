/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_STORVSP_SCSI_H
#define SPINDLE_STORVSP_SCSI_H
/*
 * SCSI target: logical units that execute commands. Knows nothing of VMBus; tests and the conformance shim use it as
 * the provider does.
 *
 *	backend		where the blocks are: a chain, a raw device, an ISO file, nothing at all (benchmarks)
 *	logical unit	identity, mode pages, unit attentions, reservations, statistics; shared by all workers
 *	queue		one worker's door into the backend of one unit; belongs to that worker's thread
 *	task		one command, in storage of the caller
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/guid.h"
#include "vhd/vhd.h"

/* ---- backend ------------------------------------------------------------------------------------------ */

struct scsi_geometry {
	uint64_t size;			/* bytes, multiple of logical_block */
	uint32_t logical_block, physical_block;
	uint32_t unmap_granularity;	/* bytes; 0: UNMAP is not offered */
	bool read_only;
	bool rotational;
	bool unmapped_reads_zero;	/* LBPRZ: true through the whole chain */
};

struct scsi_backend;
struct scsi_bqueue;

struct scsi_backend_ops {
	void (*geometry)(struct scsi_backend *b, struct scsi_geometry *ret);	/* as of now; any thread */
	/* A stretch of equal state, for GET LBA STATUS: 0 and whether it holds data. Any thread, may read metadata. */
	int (*mapped)(struct scsi_backend *b, uint64_t offset, uint64_t len, uint64_t *ret_len, bool *ret_mapped);
	int (*queue_new)(struct scsi_backend *b, unsigned depth, struct scsi_bqueue **ret, struct sp_err *err);
	void (*free)(struct scsi_backend *b);
	/* The rest: thread of the queue. Meanings as of vhd_queue_*. */
	void (*queue_free)(struct scsi_bqueue *q);	/* waits for what is in flight */
	int (*register_buffers)(struct scsi_bqueue *q, const struct iovec *iov, unsigned count);
	void (*submit)(struct scsi_bqueue *q, struct vhd_req *req);
	int (*kick)(struct scsi_bqueue *q);
	int (*poll)(struct scsi_bqueue *q);
	int (*fd)(struct scsi_bqueue *q);
	/* Any thread: makes the fd readable, if one has been asked for. */
	void (*wake)(struct scsi_bqueue *q);
	/* Optional; any thread: a flush has failed, nothing can be written any more. */
	bool (*poisoned)(struct scsi_backend *b);
};
struct scsi_backend { const struct scsi_backend_ops *ops; };	/* first member of each implementation */
struct scsi_bqueue { const struct scsi_backend_ops *ops; };

/* @disk stays the caller's and must outlive the backend. */
int scsi_backend_disk(struct vhd_disk *disk, struct scsi_backend **ret_backend);
/* Completes everything at once; reads leave the buffers alone. For benchmarks. */
int scsi_backend_null(uint64_t size, uint32_t logical_block, struct scsi_backend **ret_backend);

struct store_folder;

/* ---- logical unit ------------------------------------------------------------------------------------- */

enum scsi_kind { SCSI_DISK, SCSI_DVD };

/* Who sends commands: one controller of one guest, or one connection. Has its own unit attentions and registrations. */
struct scsi_nexus {
	struct sp_guid id;		/* stable: reservations survive restarts under it */
	uint32_t index;			/* 0 .. SCSI_NEXUSES - 1 within a unit: given by scsi_lu_connect() */
};
#define SCSI_NEXUSES 8u

struct scsi_lu;

struct scsi_lu_opts {
	enum scsi_kind kind;
	struct scsi_backend *backend;	/* taken over; NULL: a DVD drive without medium */
	bool read_only;			/* in addition to what the backend says */
	bool write_through;		/* WCE=0: every write is FUA */
	struct sp_guid identity;	/* NAA and T10 designators, serial number: stable over snapshots and moves */
	const char *serial;		/* NULL: from identity */
	const char *reservations;	/* file of persistent reservations (APTPL); NULL: they end with the unit */
	struct store_folder *folder;	/* where @reservations is; outlives the unit; NULL: a path of the host */
};

int scsi_lu_new(const struct scsi_lu_opts *opts, struct scsi_lu **ret_lu, struct sp_err *err);
void scsi_lu_free(struct scsi_lu *lu);		/* no queue, no nexus left */
int scsi_lu_connect(struct scsi_lu *lu, const struct sp_guid *id, struct scsi_nexus *ret_nexus);	/* -EMFILE */
void scsi_lu_disconnect(struct scsi_lu *lu, struct scsi_nexus *nexus);
void scsi_lu_geometry(struct scsi_lu *lu, struct scsi_geometry *ret);
enum scsi_kind scsi_lu_kind(const struct scsi_lu *lu);

/* Changes from the host's side; each raises the unit attentions its nexuses must hear. Any thread. */
void scsi_lu_resized(struct scsi_lu *lu);
void scsi_lu_set_read_only(struct scsi_lu *lu, bool read_only);
void scsi_lu_parameters_changed(struct scsi_lu *lu);	/* discard granularity after a snapshot */
void scsi_lu_power_on(struct scsi_lu *lu, struct scsi_nexus *nexus);	/* guest reset: 29/00, RESERVE(6) gone */
/* DVD: takes the medium out and frees its backend, once every queue let go of it. From any thread that holds no task
 * of the unit in flight. -EBUSY when the guest prevents it, -ENOMEDIUM when there is none, -ETIMEDOUT when requests
 * did not end within 10 s: it is out then, but what is below the backend must stay until the unit is freed. */
int scsi_lu_eject(struct scsi_lu *lu, bool force);
int scsi_lu_insert(struct scsi_lu *lu, struct scsi_backend *medium);	/* DVD: taken over; -EBUSY when there is one */

/* ---- queue -------------------------------------------------------------------------------------------- */

struct scsi_queue;

int scsi_queue_new(struct scsi_lu *lu, unsigned depth, struct scsi_queue **ret_queue, struct sp_err *err);
void scsi_queue_free(struct scsi_queue *q);		/* waits for its tasks; their done() is called */
int scsi_queue_register_buffers(struct scsi_queue *q, const struct iovec *iov, unsigned count);
int scsi_queue_kick(struct scsi_queue *q);		/* starts what was executed; once per batch */
int scsi_queue_poll(struct scsi_queue *q);		/* kicks, calls done(): how many, or -errno */
int scsi_queue_fd(struct scsi_queue *q);		/* readable when poll has work; -1: none now (no medium) */
unsigned scsi_queue_inflight(const struct scsi_queue *q);
/* Its backend works: for a task, or for one that has ended already (SYNCHRONIZE CACHE with IMMED). */
bool scsi_queue_busy(const struct scsi_queue *q);
/* What takes many steps (UNMAP, WRITE SAME, VERIFY of a large range) ends after its present one, B/00/00; everything
 * else in flight just finishes. For resets; scsi_queue_free() does it too. */
void scsi_queue_cancel(struct scsi_queue *q);

/* ---- task --------------------------------------------------------------------------------------------- */

enum scsi_direction { SCSI_TO_DEVICE, SCSI_FROM_DEVICE, SCSI_NO_DATA };

#define SCSI_GOOD		  0x00u
#define SCSI_CHECK_CONDITION	  0x02u
#define SCSI_BUSY		  0x08u
#define SCSI_RESERVATION_CONFLICT 0x18u
#define SCSI_TASK_SET_FULL	  0x28u
#define SCSI_SENSE_MAX 20u

/* Storage of the caller from execute until done() has been called, exactly once, from execute or poll. */
struct scsi_task {
	/* in */
	uint8_t cdb[16];
	const struct scsi_nexus *nexus;
	enum scsi_direction direction;
	struct iovec *iov;		/* data buffer: the peer's memory, so it may change meanwhile. Executing cuts
					 * the list to the length moved */
	int iovcnt;
	uint32_t data_len;		/* bytes of iov */
	int buf_index;			/* registered buffer holding the single iov, or -1 */
	void (*done)(struct scsi_task *t);
	void *user;
	/* out */
	uint8_t status;			/* SCSI_GOOD, ... */
	uint8_t sense_len;
	uint8_t sense[SCSI_SENSE_MAX];
	uint32_t transferred;		/* bytes moved */
	/* private */
	struct scsi_queue *queue;
	struct vhd_req req;
	void *state;			/* of commands that take several steps; sp_alloc()ed */
	int (*step)(struct scsi_task *t, int res);
	uint64_t started_ns;
	uint8_t account;		/* enum of scsi_int.h: where statistics count it */
	bool counted;			/* among the writes in flight */
	unsigned cancels;		/* of the queue when it started */
};

/* Executes on a unit through one worker's queue. */
void scsi_execute(struct scsi_queue *q, struct scsi_task *t);
/* Answers in place of a unit that is not there: INQUIRY says so, REPORT LUNS gets @luns, everything else is for the
 * caller to refuse. True: the task has been answered (done() called). */
bool scsi_execute_absent(struct scsi_task *t, const uint8_t *luns, unsigned count);
/* LUNs that REPORT LUNS shall name for this queue's unit; called when a task needs them. */
void scsi_queue_set_luns(struct scsi_queue *q, unsigned (*luns)(void *ctx, uint8_t ret_lun[256]), void *ctx);

/* What a command costs a limit: data bytes, and whether it counts as an I/O (reads, writes, flush, unmap...). */
struct scsi_cost { uint64_t bytes; bool io; };
struct scsi_cost scsi_cost(const uint8_t cdb[16], uint32_t data_len);

/* ---- statistics --------------------------------------------------------------------------------------- */

#define SCSI_LATENCY_BUCKETS 32u	/* bucket i: below 2^i microseconds */

struct scsi_stats {
	uint64_t reads, writes, flushes, unmaps, others;
	uint64_t read_bytes, write_bytes, unmap_bytes;
	uint64_t errors, reservation_conflicts;
	uint64_t read_ns, write_ns, flush_ns;		/* sum of times */
	uint64_t busy_ns;		/* a queue has at least one task in flight; each queue counts for itself */
	uint64_t queue_ns;		/* in flight x time: / elapsed = average queue length */
	uint64_t latency[SCSI_LATENCY_BUCKETS];
	uint32_t inflight, inflight_max;
};
void scsi_lu_stats(struct scsi_lu *lu, struct scsi_stats *ret_stats);	/* sums over workers; any thread */

#endif
