/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The drive: tray, lock, events, configuration, and the table of its commands. What is on the disc: scsi_mmc_read.c.
 *
 *	in the tray, closed --START STOP, eject--> tray open, the disc still in it --START STOP, load--> closed
 *	host's eject and insert: scsi_lu.c, told here by scsi_dvd_medium_changed()
 *
 * Each change makes one media event per nexus, fetched by GET EVENT STATUS NOTIFICATION, and readiness agrees with it:
 * where the two disagree Linux stops polling for events.
 */
#include <errno.h>

#include "base/alloc.h"
#include "base/seed.h"
#include "storvsp/scsi_mmc_int.h"

#define START_POWER	0xf0u	/* START STOP UNIT byte 4 */
#define START_LOEJ	0x02u
#define START_START	0x01u
#define PREVENT		0x01u	/* PREVENT ALLOW byte 4 */
#define PERSISTENT	0x02u
#define POLLED		0x01u	/* GET EVENT STATUS byte 1 */
#define CLASS_MEDIA	4u
#define NO_EVENT_CLASS	0x80u
#define EVENT_NONE	0u
#define EVENT_NEW	2u
#define EVENT_REMOVAL	3u
#define MEDIUM_PRESENT	0x02u
#define TRAY_OPEN	0x01u

uint32_t scsi_dvd_blocks(const struct scsi_lu *lu)
{
	return scsi_lu_medium(lu) == 0 ? (uint32_t)sp_min(scsi_lu_blocks(lu), UINT32_MAX) : 0;
}

static bool tray_open(const struct scsi_lu *lu)
{
	return __atomic_load_n(&lu->tray_open, __ATOMIC_RELAXED);
}

/* ---- tray and lock -------------------------------------------------------------------------------------- */

bool scsi_dvd_prevented(const struct scsi_lu *lu)
{
	return lu->dvd->prevented != 0;
}

void scsi_dvd_medium_changed(struct scsi_lu *lu, bool present)
{
	memset(lu->dvd->event, present ? EVENT_NEW : EVENT_REMOVAL, sizeof(lu->dvd->event));
}

void scsi_dvd_power_on(struct scsi_lu *lu, const struct scsi_nexus *nexus)
{
	if (!lu->dvd)
		return;
	pthread_mutex_lock(&lu->lock);
	lu->dvd->prevented &= ~(UINT32_C(1) << nexus->index);
	pthread_mutex_unlock(&lu->lock);
}

/* Opens or closes the tray, by the guest's wish. */
static void move_tray(struct scsi_task *t, bool open)
{
	struct scsi_lu *lu = scsi_task_lu(t);
	bool prevented, changed, medium;

	pthread_mutex_lock(&lu->lock);
	prevented = open && scsi_dvd_prevented(lu) && !SP_SEED_BUG(SCSI_EJECT_LOCKED);
	changed = !prevented && lu->tray_open != open;
	medium = lu->backend != NULL;
	if (changed) {
		__atomic_store_n(&lu->tray_open, open, __ATOMIC_RELAXED);
		if (medium)
			scsi_dvd_medium_changed(lu, !open);
	}
	pthread_mutex_unlock(&lu->lock);
	if (prevented) {
		scsi_fail(t, SCSI_SENSE_PREVENTED);
		return;
	}
	if (changed && medium && !open)
		scsi_ua_raise(lu, t->nexus, SCSI_UA_MEDIUM);	/* who loads knows */
	scsi_good(t);
}

void scsi_dvd_start_stop(struct scsi_task *t)
{
	if ((t->cdb[4] & START_POWER) || !(t->cdb[4] & START_LOEJ))
		scsi_good(t);		/* power conditions and spinning have no effect */
	else
		move_tray(t, !(t->cdb[4] & START_START));
}

void scsi_dvd_prevent_allow(struct scsi_task *t)
{
	struct scsi_lu *lu = scsi_task_lu(t);
	uint32_t bit = UINT32_C(1) << t->nexus->index;

	if (t->cdb[4] & PERSISTENT) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 4);
		return;
	}
	pthread_mutex_lock(&lu->lock);
	if (t->cdb[4] & PREVENT)
		lu->dvd->prevented |= bit;
	else
		lu->dvd->prevented &= ~bit;
	pthread_mutex_unlock(&lu->lock);
	scsi_good(t);
}

static void mechanism_status(struct scsi_task *t)
{
	uint8_t data[8] = { 0, tray_open(scsi_task_lu(t)) ? 0x10 : 0 };

	scsi_answer(t, data, sizeof(data), scsi_get16(t->cdb + 8));
}

/* ---- events --------------------------------------------------------------------------------------------- */

static uint8_t take_event(struct scsi_lu *lu, const struct scsi_nexus *nexus)
{
	uint8_t event;

	pthread_mutex_lock(&lu->lock);
	event = lu->dvd->event[nexus->index];
	lu->dvd->event[nexus->index] = EVENT_NONE;
	pthread_mutex_unlock(&lu->lock);
	return event;
}

static void get_event_status(struct scsi_task *t)
{
	struct scsi_lu *lu = scsi_task_lu(t);
	uint32_t allocation = scsi_get16(t->cdb + 7);
	uint8_t data[8] = { 0, 2, NO_EVENT_CLASS, 1u << CLASS_MEDIA };

	if (!(t->cdb[1] & POLLED)) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 1);
		return;
	}
	if (!(t->cdb[4] & 1u << CLASS_MEDIA)) {
		scsi_answer(t, data, 4, allocation);
		return;
	}
	data[1] = 6;
	data[2] = CLASS_MEDIA;
	if (allocation > 4)		/* an event that would be cut off stays */
		data[4] = take_event(lu, t->nexus);
	data[5] = (uint8_t)((scsi_lu_medium(lu) == 0 ? MEDIUM_PRESENT : 0) | (tray_open(lu) ? TRAY_OPEN : 0));
	scsi_answer(t, data, sizeof(data), allocation);
}

/* ---- configuration -------------------------------------------------------------------------------------- */

#define ALWAYS	    0xffffu	/* current whatever is in the drive */
#define WITH_MEDIUM 0xfffeu
#define PERSISTENT_FEATURE 0x02u
#define CURRENT	    0x01u

static const struct feature {
	uint16_t code, current;		/* a profile, or one of the above */
	uint8_t version, len, data[12];
} features[] = {
	{ 0x0000, ALWAYS, 0, 8, { 0x00, 0x10, 0, 0, 0x00, 0x08, 0, 0 } },		/* profile list */
	{ 0x0001, ALWAYS, 2, 8, { 0, 0, 0, 1 } },					/* core: SCSI */
	{ 0x0002, ALWAYS, 1, 4 },							/* morphing */
	{ 0x0003, ALWAYS, 1, 4, { 0x39 } },			/* removable: tray, load, eject, lock */
	{ 0x0010, WITH_MEDIUM, 0, 8, { 0, 0, SCSI_DVD_BLOCK >> 8, 0, 0, 16, 0x01 } },	/* random readable */
	{ 0x001e, SCSI_PROFILE_CD, 2, 4 },						/* CD read */
	{ 0x001f, SCSI_PROFILE_DVD, 1, 4 },						/* DVD read */
	{ 0x0100, ALWAYS, 0, 0 },							/* power management */
	{ 0x0105, ALWAYS, 1, 4 },							/* timeout */
};

enum { REQUEST_ALL, REQUEST_CURRENT, REQUEST_ONE };

static uint16_t profile_of(const struct scsi_lu *lu)
{
	uint32_t blocks = scsi_dvd_blocks(lu);

	if (blocks == 0)
		return SCSI_PROFILE_NONE;
	return blocks <= SCSI_CD_BLOCKS ? SCSI_PROFILE_CD : SCSI_PROFILE_DVD;
}

static bool feature_current(const struct feature *f, uint16_t profile)
{
	if (f->current == WITH_MEDIUM)
		return profile != SCSI_PROFILE_NONE;
	return f->current == ALWAYS || f->current == profile;
}

static uint32_t put_feature(uint8_t *d, const struct feature *f, uint16_t profile)
{
	scsi_put16(d, f->code);
	d[2] = (uint8_t)(f->version << 2 | (f->current == ALWAYS ? PERSISTENT_FEATURE : 0) |
			 (feature_current(f, profile) ? CURRENT : 0));
	d[3] = f->len;
	memcpy(d + 4, f->data, f->len);
	if (f->code == 0x0000)
		for (unsigned i = 4; i < 12; i += 4)
			d[i + 2] = scsi_get16(d + i) == profile;
	return 4u + f->len;
}

static void get_configuration(struct scsi_task *t)
{
	uint8_t data[8 + SP_ARRAY_SIZE(features) * (4 + sizeof(features[0].data))] = { 0 };
	uint16_t profile = profile_of(scsi_task_lu(t)), start = scsi_get16(t->cdb + 2);
	unsigned request = t->cdb[1] & 0x03;
	uint32_t len = 8;

	if (request > REQUEST_ONE) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 1);
		return;
	}
	for (size_t i = 0; i < SP_ARRAY_SIZE(features); i++) {
		const struct feature *f = &features[i];

		if (request == REQUEST_ONE ? f->code == start :
		    f->code >= start && (request == REQUEST_ALL || feature_current(f, profile)))
			len += put_feature(data + len, f, profile);
	}
	scsi_put32(data, len - 4);
	scsi_put16(data + 6, profile);
	scsi_answer(t, data, len, scsi_get16(t->cdb + 7));
}

/* ---- life and table ------------------------------------------------------------------------------------- */

int scsi_dvd_new(struct scsi_lu *lu)
{
	lu->dvd = sp_zalloc(sizeof(*lu->dvd));
	return lu->dvd ? 0 : -ENOMEM;
}

void scsi_dvd_free(struct scsi_lu *lu)
{
	sp_free(lu->dvd);
	lu->dvd = NULL;
}

static void refuse_write(struct scsi_task *t)
{
	scsi_fail(t, SCSI_SENSE_WRITE_PROTECTED);
}

#define DISC  (SCSI_CMD_DVD | SCSI_CMD_MEDIUM)
#define DRIVE SCSI_CMD_DVD
#define EVER  (SCSI_CMD_DVD | SCSI_CMD_DESPITE_UA)

/* READ, VERIFY and READ CAPACITY are those of disks. */
static const struct scsi_command commands[] = {
	{ 0x2a, -1, 10, DISC | SCSI_CMD_WRITES, "WRITE(10)", { 0x2a, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff },
	  refuse_write },
	{ 0xaa, -1, 12, DISC | SCSI_CMD_WRITES, "WRITE(12)",
	  { 0xaa, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff }, refuse_write },
	{ 0x43, -1, 10, DISC, "READ TOC/PMA/ATIP", { 0x43, 0x02, 0x0f, 0, 0, 0, 0xff, 0xff, 0xff, 0xc0 },
	  scsi_dvd_read_toc },
	{ 0x46, -1, 10, EVER, "GET CONFIGURATION", { 0x46, 0x03, 0xff, 0xff, 0, 0, 0, 0xff, 0xff }, get_configuration },
	{ 0x4a, -1, 10, EVER, "GET EVENT STATUS NOTIFICATION", { 0x4a, 0x01, 0, 0, 0xff, 0, 0, 0xff, 0xff },
	  get_event_status },
	{ 0x51, -1, 10, DISC, "READ DISC INFORMATION", { 0x51, 0x07, 0, 0, 0, 0, 0, 0xff, 0xff },
	  scsi_dvd_read_disc_information },
	{ 0x52, -1, 10, DISC, "READ TRACK INFORMATION", { 0x52, 0x03, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff },
	  scsi_dvd_read_track_information },
	{ 0xac, -1, 12, DISC, "GET PERFORMANCE", { 0xac, 0x1f, 0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff },
	  scsi_dvd_get_performance },
	{ 0xad, -1, 12, DISC, "READ DVD STRUCTURE",
	  { 0xad, 0x0f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc0 }, scsi_dvd_read_structure },
	{ 0xbd, -1, 12, DRIVE, "MECHANISM STATUS", { 0xbd, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff }, mechanism_status },
};

const struct scsi_command_table scsi_table_mmc = { commands, SP_ARRAY_SIZE(commands) };
