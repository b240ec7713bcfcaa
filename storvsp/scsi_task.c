/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The ends of a task, and its data buffer. Every task ends in task_end(), exactly once.
 */
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "storvsp/scsi_int.h"
#include "storvsp/scsi_queue_int.h"
#include "vmbus/mem.h"

/* ---- sense --------------------------------------------------------------------------------------------- */

#define SENSE_FIXED	   0x70u
#define SENSE_DESCRIPTOR   0x72u
#define SENSE_VALID	   0x80u
#define SENSE_FIELD_IN_CDB 0x40u
#define FIELD_IN_CDB	   (1u << 31)

static void put_be16(uint8_t *p, uint16_t x)
{
	memcpy(p, be16_make(x).b, 2);
}

static void put_be32(uint8_t *p, uint32_t x)
{
	memcpy(p, be32_make(x).b, 4);
}

static void put_be64(uint8_t *p, uint64_t x)
{
	memcpy(p, be64_make(x).b, 8);
}

/* SPC sense-key specific data: three bytes that point at the byte of CDB or list that is wrong. */
static void put_field(uint8_t *p, uint32_t field)
{
	p[0] = (uint8_t)(SENSE_VALID | (field & FIELD_IN_CDB ? SENSE_FIELD_IN_CDB : 0));
	put_be16(p + 1, (uint16_t)field);
}

static uint8_t sense_fixed(uint8_t *s, uint32_t sense, const uint64_t *information, const uint32_t *field)
{
	s[0] = SENSE_FIXED;
	s[2] = (uint8_t)(sense >> 16);
	if (information) {
		s[0] |= SENSE_VALID;
		put_be32(s + 3, (uint32_t)*information);
	}
	s[7] = 10;
	s[12] = (uint8_t)(sense >> 8);
	s[13] = (uint8_t)sense;
	if (field)
		put_field(s + 15, *field);
	return 18;
}

/* One descriptor: with two, twenty bytes would not do. */
static uint8_t sense_descriptor(uint8_t *s, uint32_t sense, const uint64_t *information, const uint32_t *field)
{
	s[0] = SENSE_DESCRIPTOR;
	s[1] = (uint8_t)(sense >> 16);
	s[2] = (uint8_t)(sense >> 8);
	s[3] = (uint8_t)sense;
	if (information) {
		s[9] = 10;
		s[10] = SENSE_VALID;
		put_be64(s + 12, *information);
		s[7] = 12;
	} else if (field) {
		s[8] = 2;
		s[9] = 6;
		put_field(s + 12, *field);
		s[7] = 8;
	}
	return (uint8_t)(8 + s[7]);
}

uint8_t scsi_sense_build(uint8_t ret_sense[SCSI_SENSE_MAX], bool descriptor, uint32_t sense,
			 const uint64_t *information, const uint32_t *field)
{
	memset(ret_sense, 0, SCSI_SENSE_MAX);
	/* Fixed format has 32 bits for an LBA: one that is larger makes the descriptor, whatever D_SENSE says. */
	if (descriptor || (information && *information > UINT32_MAX))
		return sense_descriptor(ret_sense, sense, information, field);
	return sense_fixed(ret_sense, sense, information, field);
}

/* ---- ends ---------------------------------------------------------------------------------------------- */

static void task_end(struct scsi_task *t, uint8_t status)
{
	t->status = status;
	if (status != SCSI_GOOD)
		t->transferred = 0;
	sp_free(t->state);
	t->state = NULL;
	t->step = NULL;
	if (t->queue)
		scsi_queue_ended(t->queue, t);
	t->done(t);
}

void scsi_good(struct scsi_task *t)
{
	task_end(t, SCSI_GOOD);
}

void scsi_end(struct scsi_task *t, uint8_t status)
{
	task_end(t, status);
}

void scsi_conflict(struct scsi_task *t)
{
	task_end(t, SCSI_RESERVATION_CONFLICT);
}

static void check_condition(struct scsi_task *t, uint32_t sense, const uint64_t *information, const uint32_t *field)
{
	bool descriptor = t->queue && __atomic_load_n(&scsi_task_lu(t)->d_sense, __ATOMIC_RELAXED);

	t->sense_len = scsi_sense_build(t->sense, descriptor, sense, information, field);
	task_end(t, SCSI_CHECK_CONDITION);
}

void scsi_fail(struct scsi_task *t, uint32_t sense)
{
	check_condition(t, sense, NULL, NULL);
}

void scsi_fail_at(struct scsi_task *t, uint32_t sense, uint64_t information)
{
	check_condition(t, sense, &information, NULL);
}

void scsi_fail_field(struct scsi_task *t, uint32_t sense, bool in_cdb, uint16_t byte)
{
	uint32_t field = byte | (in_cdb ? FIELD_IN_CDB : 0);

	check_condition(t, sense, NULL, &field);
}

/* After a failed flush every write fails, and a retry cannot help: a hardware error says so. */
static bool is_poisoned(const struct scsi_task *t)
{
	struct scsi_backend *b = t->queue ? t->queue->medium : NULL;

	return b && b->ops->poisoned && b->ops->poisoned(b);
}

void scsi_fail_errno(struct scsi_task *t, int res, bool write, uint64_t lba)
{
	switch (res) {
	case -ENOSPC:
	case -EDQUOT:
	case -EFBIG:
		scsi_fail(t, SCSI_SENSE_NO_SPACE);
		return;
	case -EROFS:
		scsi_fail(t, SCSI_SENSE_WRITE_PROTECTED);
		return;
	case -ERANGE:
		scsi_fail(t, SCSI_SENSE_LBA_RANGE);
		return;
	case -ECANCELED:
		scsi_fail(t, SCSI_SENSE_ABORTED);
		return;
	case -ENOMEM:
	case -EAGAIN:
		scsi_end(t, SCSI_BUSY);		/* the guest tries again; nothing is wrong with the disk */
		return;
	case -EIO:
		if (!write || !is_poisoned(t)) {
			scsi_fail_at(t, write ? SCSI_SENSE_WRITE_ERROR : SCSI_SENSE_READ_ERROR, lba);
			return;
		}
		break;
	default:
		break;
	}
	scsi_fail(t, SCSI_SENSE_INTERNAL);
}

/* ---- the data buffer: the peer's memory, so everything is copied once ----------------------------------- */

void scsi_task_cut(struct scsi_task *t, uint32_t len)
{
	uint32_t left = len;
	int n = 0;

	while (n < t->iovcnt && left > 0) {
		if (t->iov[n].iov_len > left)
			t->iov[n].iov_len = left;
		left -= (uint32_t)t->iov[n].iov_len;
		n++;
	}
	t->iovcnt = n;
	t->data_len = len - left;
}

/* Copies between a private buffer and @len bytes at @at of the task's. */
static void copy(const struct scsi_task *t, void *ours, uint32_t at, uint32_t len, bool out)
{
	uint8_t *p = ours;

	for (int i = 0; i < t->iovcnt && len > 0; i++) {
		size_t have = t->iov[i].iov_len, skip = at < have ? at : have;
		size_t piece = have - skip < len ? have - skip : len;
		uint8_t *theirs = (uint8_t *)t->iov[i].iov_base + skip;

		if (out)
			vmbus_copy_out(theirs, p, piece);
		else
			vmbus_copy_in(p, theirs, piece);
		at -= (uint32_t)skip;
		p += piece;
		len -= (uint32_t)piece;
	}
}

void scsi_copy_in(const struct scsi_task *t, void *to, uint32_t at, uint32_t len)
{
	copy(t, to, at, len, false);
}

void scsi_answer(struct scsi_task *t, const void *data, uint32_t len, uint32_t allocation)
{
	len = (uint32_t)sp_min(len, sp_min(allocation, t->direction == SCSI_NO_DATA ? 0 : t->data_len));
	if (len > 0 && t->direction != SCSI_FROM_DEVICE) {
		scsi_fail(t, SCSI_SENSE_INVALID_FIELD);
		return;
	}
	t->transferred = len;
	copy(t, (void *)(uintptr_t)data, 0, len, true);
	scsi_good(t);
}

bool scsi_parameters(struct scsi_task *t, void *ret_data, uint32_t len)
{
	if (len == 0)
		return true;
	if (t->direction != SCSI_TO_DEVICE || t->data_len < len) {
		scsi_fail(t, SCSI_SENSE_LIST_LENGTH);
		return false;
	}
	scsi_copy_in(t, ret_data, 0, len);
	t->transferred = len;
	return true;
}
