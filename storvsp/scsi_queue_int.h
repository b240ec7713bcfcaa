/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_STORVSP_SCSI_QUEUE_INT_H
#define SPINDLE_STORVSP_SCSI_QUEUE_INT_H
/*
 * Between the queue, the unit and the ends of a task.
 */
#include "storvsp/scsi_int.h"

/* ---- scsi_queue.c ---- */
void scsi_queue_ended(struct scsi_queue *q, struct scsi_task *t);	/* just before done() */
void scsi_queue_step(struct scsi_task *t, int res);

/* ---- scsi_stats.c: the worker's side ---- */
void scsi_stats_inflight(struct scsi_queue *q, int delta, uint64_t now_ns);
void scsi_stats_task(struct scsi_queue *q, const struct scsi_task *t, uint64_t now_ns);
void scsi_stats_unmapped(struct scsi_queue *q, uint64_t bytes);
void scsi_stats_sum(struct scsi_stats *to, const struct scsi_stats *from);

/* ---- scsi_medium.c: a drive's queues, and the medium that may leave them ---- */
/* While a worker is inside (it may be so several times), nobody takes its bqueue away. */
void scsi_medium_enter(struct scsi_queue *q);
void scsi_medium_leave(struct scsi_queue *q);
uint32_t scsi_medium_open(struct scsi_queue *q);	/* inside: a bqueue for the present medium; 0 or a sense */
void scsi_medium_release(struct scsi_queue *q);		/* lu->lock, nothing submitted */

/* ---- scsi_lu.c ---- */
void scsi_lu_add_queue(struct scsi_lu *lu, struct scsi_queue *q);
void scsi_lu_remove_queue(struct scsi_lu *lu, struct scsi_queue *q);
void scsi_lu_read_geometry(struct scsi_lu *lu);		/* lu->lock */

#endif
