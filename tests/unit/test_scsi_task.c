/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The ends of a task: sense in both formats, what an errno becomes, answers cut to length, lists copied.
 */
#include <errno.h>

#include "tests/unit/rows.h"
#include "tests/unit/scsi_fixture.h"

/* ---- sense ----------------------------------------------------------------------------------------------- */

static const struct sense_row {
	const char *name;
	bool descriptor, has_information, has_field;
	uint64_t information;
	uint32_t field;
	uint8_t want_len, want[SCSI_SENSE_MAX];
} sense_rows[] = {
	{ "fixed", false, false, false, 0, 0, 18, { 0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x21, 0x07 } },
	{ "fixed, information", false, true, false, 0x01020304, 0, 18,
	  { 0xf0, 0, 5, 1, 2, 3, 4, 10, 0, 0, 0, 0, 0x21, 0x07 } },
	{ "fixed, field in the CDB", false, false, true, 0, 1u << 31 | 0x010d, 18,
	  { 0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x21, 0x07, 0, 0xc0, 1, 0x0d } },
	{ "fixed, field in the list", false, false, true, 0, 9, 18,
	  { 0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x21, 0x07, 0, 0x80, 0, 9 } },
	{ "descriptor", true, false, false, 0, 0, 8, { 0x72, 5, 0x21, 0x07 } },
	{ "descriptor, information", true, true, false, 0x01020304, 0, 20,
	  { 0x72, 5, 0x21, 0x07, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 0, 1, 2, 3, 4 } },
	{ "descriptor, field", true, false, true, 0, 1u << 31 | 13, 16,
	  { 0x72, 5, 0x21, 0x07, 0, 0, 0, 8, 2, 6, 0, 0, 0xc0, 0, 13 } },
	{ "an LBA of more than 32 bits makes it a descriptor", false, true, false, UINT64_C(0x100000000), 0, 20,
	  { 0x72, 5, 0x21, 0x07, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0 } },
	{ "the last LBA of 32 bits does not", false, true, false, UINT32_MAX, 0, 18,
	  { 0xf0, 0, 5, 0xff, 0xff, 0xff, 0xff, 10, 0, 0, 0, 0, 0x21, 0x07 } },
};

static void sense(void **state)
{
	const struct sense_row *c = *state;
	uint8_t got[SCSI_SENSE_MAX];

	assert_int_equal(scsi_sense_build(got, c->descriptor, SCSI_SENSE(5, 0x21, 7),
					  c->has_information ? &c->information : NULL, c->has_field ? &c->field : NULL),
			 c->want_len);
	assert_memory_equal(got, c->want, sizeof(got));
}

/* ---- errno ----------------------------------------------------------------------------------------------- */

static const struct errno_row {
	const char *name;
	int res;
	bool write;
	uint8_t status;
	uint32_t sense;
} errno_rows[] = {
	{ "no space", -ENOSPC, true, SCSI_CHECK_CONDITION, SCSI_SENSE_NO_SPACE },
	{ "quota", -EDQUOT, true, SCSI_CHECK_CONDITION, SCSI_SENSE_NO_SPACE },
	{ "file too big", -EFBIG, true, SCSI_CHECK_CONDITION, SCSI_SENSE_NO_SPACE },
	{ "read only", -EROFS, true, SCSI_CHECK_CONDITION, SCSI_SENSE_WRITE_PROTECTED },
	{ "past the end", -ERANGE, false, SCSI_CHECK_CONDITION, SCSI_SENSE_LBA_RANGE },
	{ "cancelled", -ECANCELED, true, SCSI_CHECK_CONDITION, SCSI_SENSE_ABORTED },
	{ "memory", -ENOMEM, false, SCSI_BUSY, 0 },
	{ "read error", -EIO, false, SCSI_CHECK_CONDITION, SCSI_SENSE_READ_ERROR },
	{ "write error", -EIO, true, SCSI_CHECK_CONDITION, SCSI_SENSE_WRITE_ERROR },
	{ "anything else", -EBADMSG, false, SCSI_CHECK_CONDITION, SCSI_SENSE_INTERNAL },
};

static void count_done(struct scsi_task *t)
{
	++*(int *)t->user;
}

static void errnos(void **state)
{
	const struct errno_row *c = *state;
	struct scsi_fix f = { 0 };
	int done = 0;

	f.reply.done = count_done;
	f.reply.user = &done;
	f.reply.transferred = 99;
	scsi_fail_errno(&f.reply, c->res, c->write, 0x1234);
	fix_expect(&f, c->status, c->sense, __FILE__, __LINE__);
	assert_int_equal(done, 1);
	assert_int_equal(f.reply.transferred, 0);
	if (c->res == -EIO) {
		static const uint8_t lba[] = { 0xf0, 0, 3, 0, 0, 0x12, 0x34 };

		assert_memory_equal(f.reply.sense, lba, sizeof(lba));
	}
}

/* ---- the data buffer ------------------------------------------------------------------------------------- */

struct buffer {
	uint8_t bytes[32];
	struct iovec iov[4];
	struct scsi_task t;
	int done;
};

/* 1 + 0 + 10 + 5 bytes, with a byte between that nobody may touch. */
static void buffer_init(struct buffer *b, enum scsi_direction direction)
{
	*b = (struct buffer){ .t = { .direction = direction, .iovcnt = 4, .data_len = 16, .done = count_done } };
	memset(b->bytes, 0xaa, sizeof(b->bytes));
	b->iov[0] = (struct iovec){ b->bytes, 1 };
	b->iov[1] = (struct iovec){ NULL, 0 };
	b->iov[2] = (struct iovec){ b->bytes + 2, 10 };
	b->iov[3] = (struct iovec){ b->bytes + 13, 5 };
	b->t.iov = b->iov;
	b->t.user = &b->done;
}

static const struct answer_row {
	const char *name;
	enum scsi_direction direction;
	uint32_t len, allocation, want;
	uint8_t status;
} answer_rows[] = {
	{ "whole", SCSI_FROM_DEVICE, 13, 13, 13, SCSI_GOOD },
	{ "cut at the allocation", SCSI_FROM_DEVICE, 13, 4, 4, SCSI_GOOD },
	{ "cut at the buffer", SCSI_FROM_DEVICE, 20, 255, 16, SCSI_GOOD },
	{ "allocation larger than the answer", SCSI_FROM_DEVICE, 3, 255, 3, SCSI_GOOD },
	{ "nothing wanted", SCSI_FROM_DEVICE, 13, 0, 0, SCSI_GOOD },
	{ "no buffer", SCSI_NO_DATA, 13, 13, 0, SCSI_GOOD },
	{ "buffer of the wrong direction", SCSI_TO_DEVICE, 13, 13, 0, SCSI_CHECK_CONDITION },
	{ "wrong direction, nothing wanted", SCSI_TO_DEVICE, 13, 0, 0, SCSI_GOOD },
};

static void answer(void **state)
{
	const struct answer_row *c = *state;
	static const uint8_t data[20] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20 };
	struct buffer b;
	unsigned n = 0;

	buffer_init(&b, c->direction);
	scsi_answer(&b.t, data, c->len, c->allocation);
	assert_int_equal(b.done, 1);
	assert_int_equal(b.t.status, c->status);
	assert_int_equal(b.t.transferred, c->want);
	for (unsigned i = 0; i < sizeof(b.bytes); i++) {
		bool ours = i == 0 || (i >= 2 && i < 12) || (i >= 13 && i < 18);

		assert_int_equal(b.bytes[i], ours && n < c->want ? data[n] : 0xaa);
		n += ours;
	}
}

static const struct parameters_row {
	const char *name;
	enum scsi_direction direction;
	uint32_t len;
	bool want;
} parameters_rows[] = {
	{ "whole", SCSI_TO_DEVICE, 16, true },
	{ "part", SCSI_TO_DEVICE, 9, true },
	{ "nothing", SCSI_NO_DATA, 0, true },
	{ "buffer too short", SCSI_TO_DEVICE, 17, false },
	{ "no buffer", SCSI_NO_DATA, 4, false },
	{ "wrong direction", SCSI_FROM_DEVICE, 4, false },
};

static void parameters(void **state)
{
	const struct parameters_row *c = *state;
	uint8_t got[20];
	struct buffer b;
	unsigned n = 0;

	buffer_init(&b, c->direction);
	for (unsigned i = 0; i < 4; i++) {
		for (unsigned k = 0; k < b.iov[i].iov_len; k++)
			((uint8_t *)b.iov[i].iov_base)[k] = (uint8_t)++n;
	}
	memset(got, 0, sizeof(got));
	assert_int_equal(scsi_parameters(&b.t, got, c->len), c->want);
	assert_int_equal(b.done, !c->want);
	if (!c->want) {
		assert_int_equal(b.t.sense[12], 0x1a);
		return;
	}
	assert_int_equal(b.t.transferred, c->len);
	for (unsigned i = 0; i < sizeof(got); i++)
		assert_int_equal(got[i], i < c->len ? i + 1 : 0);
}

static const struct cut_row {
	const char *name;
	uint32_t len;
	int want_count;
	size_t want_last;
} cut_rows[] = {
	{ "nothing", 0, 0, 0 },
	{ "the first piece", 1, 1, 1 },
	{ "inside the third", 6, 3, 5 },
	{ "the end of the third", 11, 3, 10 },
	{ "inside the last", 12, 4, 1 },
	{ "all", 16, 4, 5 },
};

static void cut(void **state)
{
	const struct cut_row *c = *state;
	struct buffer b;

	buffer_init(&b, SCSI_FROM_DEVICE);
	scsi_task_cut(&b.t, c->len);
	assert_int_equal(b.t.iovcnt, c->want_count);
	assert_int_equal(b.t.data_len, c->len);
	if (c->want_count > 0)
		assert_int_equal(b.iov[c->want_count - 1].iov_len, c->want_last);
}

/* ---- cost ------------------------------------------------------------------------------------------------ */

static const struct cost_row {
	const char *name;
	uint8_t opcode;
	uint32_t data_len;
	struct scsi_cost want;
} cost_rows[] = {
	{ "READ(10)", 0x28, 4096, { 4096, true } },
	{ "WRITE(16)", 0x8a, 65536, { 65536, true } },
	{ "SYNCHRONIZE CACHE(10)", 0x35, 0, { 0, true } },
	{ "UNMAP", 0x42, 24, { 24, true } },
	{ "INQUIRY", 0x12, 255, { 0, false } },
	{ "TEST UNIT READY", 0x00, 0, { 0, false } },
};

static void cost(void **state)
{
	const struct cost_row *c = *state;
	struct scsi_cost got = scsi_cost(CDB(c->opcode), c->data_len);

	assert_int_equal(got.bytes, c->want.bytes);
	assert_int_equal(got.io, c->want.io);
}

int main(void)
{
	int failed = 0;

	failed += ROWS_RUN(sense_rows, sense);
	failed += ROWS_RUN(errno_rows, errnos);
	failed += ROWS_RUN(answer_rows, answer);
	failed += ROWS_RUN(parameters_rows, parameters);
	failed += ROWS_RUN(cut_rows, cut);
	failed += ROWS_RUN(cost_rows, cost);
	return failed;
}
