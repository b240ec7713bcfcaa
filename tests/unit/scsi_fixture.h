/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_SCSI_FIXTURE_H
#define SPINDLE_TESTS_SCSI_FIXTURE_H
/*
 * A logical unit over a chain in memory (or over nothing, or a drive), one nexus and one queue; commands run to their
 * end. The data buffer is handed over in two pieces at an odd place, as a guest's pages would be.
 *
 *	struct scsi_fix f;
 *	fix_disk(&f, &(struct fix_opts){ .size = SP_MIB(64) });		defaults: VHDX, 512-byte blocks
 *	fix_run(&f, CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1), SCSI_FROM_DEVICE, buf, sizeof(buf));
 *	fix_good(&f); fix_sense(&f, SCSI_SENSE_LBA_RANGE); f.reply.transferred ...
 *	fix_free(&f);
 */
#include "storvsp/scsi_int.h"
#include "tests/support/store_fault.h"
#include "tests/unit/chain_fixture.h"

struct fix_opts {
	uint64_t size;			/* default 64 MiB */
	uint32_t sector;		/* default 512 */
	uint32_t block;			/* of the image; default 1 MiB */
	enum vhd_format_id format;	/* AUTO: VHDX */
	bool read_only, write_through;
	const char *reservations;
	struct fault_plan *plan;	/* the files below fail by it */
	bool keep_ua;			/* leave the power-on unit attention */
};

struct scsi_fix {
	struct store_folder *folder;
	struct vhd_disk *disk;
	struct scsi_lu *lu;
	struct scsi_queue *queue;
	struct scsi_nexus nexus;
	struct scsi_task reply;		/* of the last command */
	bool done;
};

/* A CDB of up to 16 bytes, zeros behind. */
#define CDB(...) ((const uint8_t[16]){ __VA_ARGS__ })

static const struct sp_guid fix_identity = { { 0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe, 1, 2, 3, 4, 5, 6, 7 } };
static const struct sp_guid fix_initiator = { { 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 1, 1, 1, 1, 1, 1 } };

/* ---- commands -------------------------------------------------------------------------------------------- */

static inline void fix_done(struct scsi_task *t)
{
	struct scsi_fix *f = t->user;

	assert_false(f->done);
	f->done = true;
}

/* As another nexus, and with the CDB's data buffer as it comes. */
static inline void fix_run_as(struct scsi_fix *f, const struct scsi_nexus *nexus, const uint8_t cdb[16],
			      enum scsi_direction direction, void *buf, uint32_t len)
{
	uint32_t cut = len > 7 ? 7 : len;
	struct iovec iov[2] = { { buf, cut }, { (uint8_t *)buf + cut, len - cut } };
	struct scsi_task *t = &f->reply;

	memset(t, 0xee, sizeof(*t));		/* what execute does not set is not looked at */
	memcpy(t->cdb, cdb, 16);
	t->nexus = nexus;
	t->direction = direction;
	t->iov = iov;
	t->iovcnt = len == 0 ? 0 : len == cut ? 1 : 2;
	t->data_len = len;
	t->buf_index = -1;
	t->done = fix_done;
	t->user = f;
	f->done = false;
	scsi_execute(f->queue, t);
	while (!f->done) {
		scsi_queue_kick(f->queue);
		assert_true(scsi_queue_poll(f->queue) >= 0);
	}
	t->iov = NULL;
	if (t->status == SCSI_CHECK_CONDITION)
		assert_in_range(t->sense_len, 8, SCSI_SENSE_MAX);
	else
		assert_int_equal(t->sense_len, 0);
}

static inline void fix_run(struct scsi_fix *f, const uint8_t cdb[16], enum scsi_direction direction, void *buf,
			   uint32_t len)
{
	fix_run_as(f, &f->nexus, cdb, direction, buf, len);
}

/* ---- what came back -------------------------------------------------------------------------------------- */

/* SCSI_SENSE() of the last command, of either format; 0 without sense. */
static inline uint32_t fix_get_sense(const struct scsi_fix *f)
{
	const uint8_t *s = f->reply.sense;

	if (f->reply.status != SCSI_CHECK_CONDITION)
		return 0;
	return (s[0] & 0x7f) == 0x72 ? SCSI_SENSE(s[1] & 15, s[2], s[3]) : SCSI_SENSE(s[2] & 15, s[12], s[13]);
}

#define fix_good(f) fix_expect((f), SCSI_GOOD, 0, __FILE__, __LINE__)
#define fix_sense(f, want) fix_expect((f), SCSI_CHECK_CONDITION, (want), __FILE__, __LINE__)
#define fix_status(f, want) fix_expect((f), (want), 0, __FILE__, __LINE__)

static inline void fix_expect(const struct scsi_fix *f, uint8_t status, uint32_t sense, const char *file, int line)
{
	uint32_t got = fix_get_sense(f);

	if (f->reply.status == status && got == sense)
		return;
	print_error("CDB %02x: status %02x sense %06x, expected %02x %06x\n", f->reply.cdb[0], f->reply.status, got,
		    status, sense);
	_fail(file, line);
}

/* ---- units ----------------------------------------------------------------------------------------------- */

static inline void fix_unit(struct scsi_fix *f, const struct scsi_lu_opts *opts, bool keep_ua)
{
	struct sp_err err = { 0 };

	must(scsi_lu_new(opts, &f->lu, &err), &err);
	must(scsi_lu_connect(f->lu, &fix_initiator, &f->nexus), NULL);
	must(scsi_queue_new(f->lu, 32, &f->queue, &err), &err);
	if (!keep_ua)
		assert_int_equal(scsi_ua_take(f->lu, &f->nexus), SCSI_UA_POWER_ON);
}

static inline void fix_open(struct scsi_fix *f, const struct fix_opts *o)
{
	struct scsi_lu_opts opts = {
		.kind = SCSI_DISK, .identity = fix_identity, .read_only = o->read_only,
		.write_through = o->write_through, .reservations = o->reservations,
	};

	f->disk = open_rw(f->folder, "disk");
	must(scsi_backend_disk(f->disk, &opts.backend), NULL);
	fix_unit(f, &opts, o->keep_ua);
}

static inline void fix_disk(struct scsi_fix *f, const struct fix_opts *o)
{
	enum vhd_format_id format = o->format == VHD_FORMAT_AUTO ? VHD_FORMAT_VHDX : o->format;

	*f = (struct scsi_fix){ .folder = folder_new() };
	if (o->plan) {
		fault_plan_set(o->plan, FAULT_ALL, 0, 0, false, false);
		must(store_folder_fault_new(f->folder, o->plan, &f->folder), NULL);
	}
	make_base(f->folder, "disk", format, o->size ? o->size : SP_MIB(64), o->block ? o->block : (uint32_t)SP_MIB(1),
		  o->sector ? o->sector : 512);
	fix_open(f, o);
}

/* No storage below: for commands that move no data of the disk. */
static inline void fix_null(struct scsi_fix *f, uint64_t size, uint32_t block)
{
	struct scsi_lu_opts opts = { .kind = SCSI_DISK, .identity = fix_identity };

	*f = (struct scsi_fix){ 0 };
	must(scsi_backend_null(size, block, &opts.backend), NULL);
	fix_unit(f, &opts, false);
}

/* A raw file of @size bytes whose byte i of each block of 2048 is the block's number. */
static inline struct vhd_disk *fix_iso(struct store_folder *folder, const char *name, uint64_t size)
{
	struct vhd_open_opts o = { .format = VHD_FORMAT_RAW };
	struct sp_err err = { 0 };
	struct vhd_disk *d;

	make_base(folder, name, VHD_FORMAT_RAW, size, 0, 512);
	o.flags = VHD_OPEN_WRITE;
	must(vhd_disk_open_in(folder, name, &o, &d, &err), &err);
	for (uint64_t at = 0; at + 2048 <= size; at += 2048)
		write_byte(d, at, 2048, (int)(uint8_t)(at / 2048));
	must(vhd_disk_close(d, &err), &err);
	o.flags = 0;
	must(vhd_disk_open_in(folder, name, &o, &d, &err), &err);
	return d;
}

/* A drive with a disc of @size bytes; 0: empty. */
static inline void fix_dvd(struct scsi_fix *f, uint64_t size)
{
	struct scsi_lu_opts opts = { .kind = SCSI_DVD, .identity = fix_identity };

	*f = (struct scsi_fix){ .folder = folder_new() };
	if (size > 0) {
		f->disk = fix_iso(f->folder, "disc", size);
		must(scsi_backend_disk(f->disk, &opts.backend), NULL);
	}
	fix_unit(f, &opts, false);
}

/* Ends the unit; the disk may be opened again by fix_open(). */
static inline void fix_close(struct scsi_fix *f)
{
	scsi_queue_free(f->queue);
	scsi_lu_disconnect(f->lu, &f->nexus);
	scsi_lu_free(f->lu);
	f->queue = NULL;
	f->lu = NULL;
}

static inline void fix_free(struct scsi_fix *f)
{
	fix_close(f);
	if (f->disk)
		vhd_disk_abandon(f->disk);	/* a disk that was made to fail does not close well */
	if (f->folder)
		store_folder_close(f->folder);
}

#endif
