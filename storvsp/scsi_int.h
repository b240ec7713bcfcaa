/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_STORVSP_SCSI_INT_H
#define SPINDLE_STORVSP_SCSI_INT_H
/*
 * Between the files of the SCSI target. A command is a row of a table: what it is called, when it may run, which bits
 * of its CDB mean something, and a handler.
 */
#include <pthread.h>

#include "storvsp/scsi.h"

/* ---- sense: key, additional code and qualifier in one number ------------------------------------------- */

#define SCSI_SENSE(key, asc, ascq) ((uint32_t)(key) << 16 | (uint32_t)(asc) << 8 | (uint32_t)(ascq))
#define SCSI_SENSE_INVALID_OPCODE	SCSI_SENSE(0x5, 0x20, 0x00)
#define SCSI_SENSE_INVALID_FIELD	SCSI_SENSE(0x5, 0x24, 0x00)
#define SCSI_SENSE_INVALID_PARAMETER	SCSI_SENSE(0x5, 0x26, 0x00)
#define SCSI_SENSE_LIST_LENGTH		SCSI_SENSE(0x5, 0x1a, 0x00)
#define SCSI_SENSE_LBA_RANGE		SCSI_SENSE(0x5, 0x21, 0x00)
#define SCSI_SENSE_SAVING		SCSI_SENSE(0x5, 0x39, 0x00)
#define SCSI_SENSE_PREVENTED		SCSI_SENSE(0x5, 0x53, 0x02)
#define SCSI_SENSE_WRITE_PROTECTED	SCSI_SENSE(0x7, 0x27, 0x00)
#define SCSI_SENSE_NO_SPACE		SCSI_SENSE(0x7, 0x27, 0x07)
#define SCSI_SENSE_READ_ERROR		SCSI_SENSE(0x3, 0x11, 0x00)
#define SCSI_SENSE_WRITE_ERROR		SCSI_SENSE(0x3, 0x0c, 0x00)
#define SCSI_SENSE_INTERNAL		SCSI_SENSE(0x4, 0x44, 0x00)
#define SCSI_SENSE_MISCOMPARE		SCSI_SENSE(0xe, 0x1d, 0x00)
#define SCSI_SENSE_ABORTED		SCSI_SENSE(0xb, 0x00, 0x00)
#define SCSI_SENSE_NO_MEDIUM_CLOSED	SCSI_SENSE(0x2, 0x3a, 0x01)
#define SCSI_SENSE_NO_MEDIUM_OPEN	SCSI_SENSE(0x2, 0x3a, 0x02)
#define SCSI_UA_POWER_ON		SCSI_SENSE(0x6, 0x29, 0x00)
#define SCSI_UA_CAPACITY		SCSI_SENSE(0x6, 0x2a, 0x09)
#define SCSI_UA_MODE			SCSI_SENSE(0x6, 0x2a, 0x01)
#define SCSI_UA_PARAMETERS		SCSI_SENSE(0x6, 0x3f, 0x02)
#define SCSI_UA_LUNS			SCSI_SENSE(0x6, 0x3f, 0x0e)
#define SCSI_UA_MEDIUM			SCSI_SENSE(0x6, 0x28, 0x00)
#define SCSI_UA_PREEMPTED		SCSI_SENSE(0x6, 0x2a, 0x03)
#define SCSI_UA_RELEASED		SCSI_SENSE(0x6, 0x2a, 0x04)

/* ---- the table ----------------------------------------------------------------------------------------- */

#define SCSI_CMD_DISK	     0x01u
#define SCSI_CMD_DVD	     0x02u
#define SCSI_CMD_DESPITE_UA  0x04u	/* INQUIRY, REPORT LUNS, REQUEST SENSE */
#define SCSI_CMD_READS	     0x08u	/* conflicts with exclusive-access reservations of others */
#define SCSI_CMD_WRITES	     0x10u	/* conflicts with every reservation of others; refused when write protected */
#define SCSI_CMD_RESERVED_OK 0x20u	/* runs despite anybody's reservation */
#define SCSI_CMD_MEDIUM	     0x40u	/* needs one */
#define SCSI_CMD_PROTECT_OK  0x80u	/* with WRITES: runs on a write protected unit (SYNCHRONIZE CACHE) */

/* What page B0h promises and the data path keeps. No limit is told for WRITE SAME and the range of UNMAP: any size
 * goes, in steps. */
#define SCSI_UNMAP_DESCRIPTORS_MAX 2048u
#define SCSI_COMPARE_BLOCKS_MAX	   64u

struct scsi_command {
	uint8_t opcode;
	int16_t action;			/* service action in byte 1 bits 4..0, or -1 */
	uint8_t length;			/* 6, 10, 12, 16 */
	uint8_t flags;			/* SCSI_CMD_* */
	const char *name;
	uint8_t usage[16];		/* which CDB bits are looked at: REPORT SUPPORTED OPCODES tells, and reserved
					 * bits that are set are an invalid field. usage[0] is the opcode */
	void (*execute)(struct scsi_task *t);
};

struct scsi_command_table { const struct scsi_command *command; unsigned count; };
extern const struct scsi_command_table scsi_table_spc;	/* scsi_spc.c: identification, mode, log, start/stop, opcodes */
extern const struct scsi_command_table scsi_table_sbc;	/* scsi_sbc.c: capacities, data path, provisioning */
extern const struct scsi_command_table scsi_table_reserve;	/* scsi_reserve.c */
extern const struct scsi_command_table scsi_table_mmc;	/* scsi_mmc.c */
/* The row for a CDB on a kind of unit; NULL: unknown. scsi_command.c */
const struct scsi_command *scsi_command_find(enum scsi_kind kind, const uint8_t cdb[16]);
/* Some row has this opcode: what is unknown is the service action. */
bool scsi_command_known(enum scsi_kind kind, uint8_t opcode);

/* ---- ends of a task: exactly one of them, once (scsi_task.c) -------------------------------------------- */

void scsi_good(struct scsi_task *t);
void scsi_fail(struct scsi_task *t, uint32_t sense);
void scsi_fail_at(struct scsi_task *t, uint32_t sense, uint64_t information);	/* LBA or offset */
void scsi_fail_field(struct scsi_task *t, uint32_t sense, bool in_cdb, uint16_t byte);	/* with field pointer */
void scsi_conflict(struct scsi_task *t);
/* An errno of the engine: ENOSPC 7/27/07, EROFS 7/27/00, EIO by direction, poisoned 4/44/00 ... */
void scsi_fail_errno(struct scsi_task *t, int res, bool write, uint64_t lba);
/* Any other status without sense: SCSI_BUSY, SCSI_TASK_SET_FULL. */
void scsi_end(struct scsi_task *t, uint8_t status);
/* Fixed or descriptor format: at most SCSI_SENSE_MAX bytes to @ret_sense, their number returned. @information and
 * @field (bit 31: in the CDB; low 16 bits: byte) are optional. For REQUEST SENSE and the ends above. */
uint8_t scsi_sense_build(uint8_t ret_sense[SCSI_SENSE_MAX], bool descriptor, uint32_t sense,
			 const uint64_t *information, const uint32_t *field);
/* Data-in of a small answer, cut at @allocation and at the buffer: copies out, ends the task well. */
void scsi_answer(struct scsi_task *t, const void *data, uint32_t len, uint32_t allocation);
/* Data-out of a parameter list, copied once. False: the buffer is shorter (the task has been failed). */
bool scsi_parameters(struct scsi_task *t, void *ret_data, uint32_t len);
/* @len bytes from @at of the data buffer: copied once. Within data_len: the caller has checked. */
void scsi_copy_in(const struct scsi_task *t, void *to, uint32_t at, uint32_t len);
/* Cuts the buffer to @len bytes, which it has. */
void scsi_task_cut(struct scsi_task *t, uint32_t len);

/* ---- unit ----------------------------------------------------------------------------------------------- */

#define SCSI_UAS 8u			/* queued per nexus; equal ones are kept once */

struct scsi_reservations;		/* scsi_reserve.c */
struct scsi_dvd;			/* scsi_mmc.c */

struct scsi_lu {
	enum scsi_kind kind;
	struct scsi_backend *backend;	/* DVD: NULL without medium, changes under lock */
	struct scsi_geometry geometry;	/* of the backend; DVD: blocks of 2048. Workers use the accessors below */
	bool read_only;			/* as told from outside, atomic; scsi_lu_protected() tells all */
	bool write_through;
	unsigned block_shift;		/* log2 of the logical block */
	struct sp_guid identity;
	char serial[37];
	pthread_mutex_t lock;		/* everything below, and geometry's writers. Never held over I/O */
	pthread_cond_t released;	/* DVD: a queue let go of its medium */
	struct {
		bool connected;
		struct sp_guid id;
		unsigned uas;		/* atomic read without lock: 0 is the fast path */
		uint32_t ua[SCSI_UAS];
	} nexus[SCSI_NEXUSES];
	bool d_sense, swp;		/* atomic; control mode page: format of sense, write protection */
	struct scsi_reservations *reservations;
	uint32_t reserved;		/* atomic: some reservation exists, look closer */
	struct scsi_dvd *dvd;
	bool tray_open;			/* DVD, atomic: the guest cannot reach the medium, if there is one */
	struct scsi_queue *queues;	/* list of all, for statistics and exclusive access */
	struct scsi_stats past;		/* of queues that are gone */
	struct scsi_backend *leaving;	/* DVD: out, but a queue did not let go in time */
	struct scsi_queue *exclusive;	/* atomic: whose command has the writes to itself (scsi_exclusive.c) */
};

/* Lock-free, as of now. */
static inline uint64_t scsi_lu_blocks(const struct scsi_lu *lu)
{
	return __atomic_load_n(&lu->geometry.size, __ATOMIC_RELAXED) >> lu->block_shift;
}

static inline uint32_t scsi_lu_granularity(const struct scsi_lu *lu)
{
	return __atomic_load_n(&lu->geometry.unmap_granularity, __ATOMIC_RELAXED);
}

static inline bool scsi_lu_protected(const struct scsi_lu *lu)
{
	return lu->kind == SCSI_DVD || __atomic_load_n(&lu->read_only, __ATOMIC_RELAXED) ||
	       __atomic_load_n(&lu->geometry.read_only, __ATOMIC_RELAXED) ||
	       __atomic_load_n(&lu->swp, __ATOMIC_RELAXED);
}

void scsi_ua_raise(struct scsi_lu *lu, const struct scsi_nexus *except, uint32_t ua);	/* all nexuses but @except */
void scsi_ua_raise_one(struct scsi_lu *lu, uint32_t nexus, uint32_t ua);
uint32_t scsi_ua_take(struct scsi_lu *lu, const struct scsi_nexus *nexus);	/* 0: none */

/* May this nexus run this command now? scsi_reserve.c; called only when lu->reserved is set. */
bool scsi_reservation_allows(struct scsi_lu *lu, const struct scsi_nexus *nexus, const struct scsi_command *cmd,
			     const uint8_t cdb[16]);
/* path NULL: not kept */
int scsi_reservations_new(struct store_folder *folder, const char *path, struct scsi_lu *lu, struct sp_err *err);
void scsi_reservations_free(struct scsi_lu *lu);
/* A nexus is reset or gone, without lu->lock: its RESERVE(6) ends, removal is allowed. Mode pages: at a reset only. */
void scsi_reservations_power_on(struct scsi_lu *lu, const struct scsi_nexus *nexus);
void scsi_dvd_power_on(struct scsi_lu *lu, const struct scsi_nexus *nexus);
void scsi_mode_power_on(struct scsi_lu *lu);
int scsi_dvd_new(struct scsi_lu *lu);
void scsi_dvd_free(struct scsi_lu *lu);
/* Told by scsi_lu.c under lu->lock; the guest's own eject and load set lu->tray_open themselves (the disc stays in the
 * drawer, so load finds it again). */
bool scsi_dvd_prevented(const struct scsi_lu *lu);	/* PREVENT ALLOW: removal is not wanted */
void scsi_dvd_medium_changed(struct scsi_lu *lu, bool present);	/* the host's doing; tray_open is set already */
/* 0, or the sense of a drive the guest finds empty or open. scsi_lu.c, any thread. */
uint32_t scsi_lu_medium(const struct scsi_lu *lu);

static inline struct scsi_lu *scsi_task_lu(const struct scsi_task *t);

/* ---- queue ---------------------------------------------------------------------------------------------- */

struct scsi_queue {
	struct scsi_lu *lu;
	struct scsi_bqueue *bqueue;	/* DVD: NULL until a command needs the medium */
	struct scsi_backend *medium;	/* what bqueue belongs to; DVD: changes under lu->lock, as does @entered */
	unsigned entered;		/* DVD: this worker is inside, nobody else may touch bqueue */
	unsigned depth, inflight;	/* tasks */
	unsigned submitted;		/* requests with the backend */
	unsigned ended;			/* tasks, ever: what poll has done */
	struct scsi_stats stats;	/* written by the worker with relaxed stores, read by anybody */
	unsigned (*luns)(void *ctx, uint8_t ret_lun[256]);
	void *luns_ctx;
	struct scsi_queue *next;	/* lu->queues */
	unsigned writes_inflight;	/* atomic; see scsi_exclusive.c */
	bool writes_left;		/* some have ended since scsi_exclusive_left() */
	struct scsi_task *exclusive_task;	/* of this worker: owns lu->exclusive */
	bool exclusive_runs;		/* it has begun: the writes of others are over */
	struct vhd_req *parked, **parked_tail;	/* requests of tasks that wait for lu->exclusive */
	bool registered;		/* buffers are: buf_index may be used */
	unsigned cancels;		/* grows with each scsi_queue_cancel() */
	struct vhd_req sync;		/* of SYNCHRONIZE CACHE with IMMED, which has been answered; one at a time */
	bool sync_busy;
	uint64_t changed_ns;		/* of inflight, for busy and queue time */
	uint64_t now_ns;		/* one reading of the clock serves a batch; see scsi_queue.c */
	bool now_known;
};

static inline struct scsi_lu *scsi_task_lu(const struct scsi_task *t)
{
	return t->queue->lu;
}

enum scsi_account { SCSI_ACCOUNT_OTHER, SCSI_ACCOUNT_READ, SCSI_ACCOUNT_WRITE, SCSI_ACCOUNT_FLUSH, SCSI_ACCOUNT_UNMAP };

/* Submits t->req as filled in. Without t->step the task then ends: well, with req.len bytes transferred, or by
 * scsi_fail_errno(). Otherwise t->step(t, res) goes on; it submits again or ends the task and returns 0, or returns a
 * negative errno for the task to fail by. t->state is freed when the task ends. */
void scsi_submit(struct scsi_task *t);
/* A command of many steps shall stop. */
bool scsi_cancelled(const struct scsi_task *t);
/* What was completed before becomes durable, but nobody is told. False: one is under way already, wait for your own. */
bool scsi_queue_sync_behind(struct scsi_queue *q);

/* ---- exclusive access (scsi_exclusive.c) ---------------------------------------------------------------- */

/* t->step(t, 0) runs once no write of any worker is in flight; new ones wait until scsi_exclusive_end(), which comes
 * before the end of the task. Writes of @t itself pass. */
void scsi_exclusive_begin(struct scsi_task *t);
void scsi_exclusive_end(struct scsi_task *t);
/* Around each write: false: parked, it will be submitted later. */
bool scsi_exclusive_enter(struct scsi_task *t);
void scsi_exclusive_leave(struct scsi_task *t);
void scsi_exclusive_left(struct scsi_queue *q);		/* wakes who waits for the writes that have left */
void scsi_exclusive_poll(struct scsi_queue *q);

/* ---- data path (scsi_sbc.c) ----------------------------------------------------------------------------- */

struct scsi_range { uint64_t lba, count; };
/* LBA and count of a CDB of 6, 10, 12 or 16 bytes; a count of 0 in 6 bytes is 256. */
struct scsi_range scsi_cdb_range(const uint8_t cdb[16]);
/* The same, inside the unit; otherwise the task has been failed. */
bool scsi_range_ok(struct scsi_task *t, struct scsi_range *ret_range);
/* The data buffer goes the right way and holds @len bytes; otherwise the task has been failed. */
bool scsi_buffer_ok(struct scsi_task *t, enum scsi_direction direction, uint64_t len);
/* One request on the task's own buffer, cut to @len. */
void scsi_transfer(struct scsi_task *t, enum vhd_req_op op, unsigned flags, uint64_t offset, uint32_t len);

void scsi_sbc_verify(struct scsi_task *t);		/* scsi_compare.c */
void scsi_sbc_write_verify(struct scsi_task *t);
void scsi_sbc_prefetch(struct scsi_task *t);
void scsi_sbc_compare_and_write(struct scsi_task *t);
void scsi_sbc_unmap(struct scsi_task *t);		/* scsi_provision.c */
void scsi_sbc_write_same(struct scsi_task *t);
void scsi_sbc_get_lba_status(struct scsi_task *t);

#endif
