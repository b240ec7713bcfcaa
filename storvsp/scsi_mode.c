/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Mode pages. Each page is built for three views: what is in force, which bits MODE SELECT may change, and the
 * defaults. What may change is two bits of the control page, and both really do something: D_SENSE chooses the format
 * of sense data, SWP write-protects the unit. WCE may not change: a guest that was told of a write cache relies on it.
 */
#include "base/seed.h"
#include "storvsp/scsi_spc_int.h"

#define SP_BIT		0x01u	/* MODE SELECT byte 1: save pages */
#define PF_BIT		0x10u	/* pages follow the standard */
#define PAGE_ALL	0x3fu
#define SUBPAGE_ALL	0xffu
#define PAGE_MAX	34u
#define WP_BIT		0x80u	/* device-specific parameter */
#define DPOFUA_BIT	0x10u
#define WCE_BIT		0x04u	/* page 08h byte 2 */
#define D_SENSE_BIT	0x04u	/* page 0Ah byte 2 */
#define SWP_BIT		0x08u	/* page 0Ah byte 4 */

enum view { VIEW_CURRENT, VIEW_CHANGEABLE, VIEW_DEFAULT, VIEW_SAVED };

struct page {
	uint8_t code, kinds;
	uint8_t len;			/* with its header of two bytes */
	void (*build)(const struct scsi_lu *lu, enum view view, uint8_t *p);	/* @p is zero but for the header */
};

static void page_nothing(const struct scsi_lu *lu, enum view view, uint8_t *p)
{
	/* All fields are zero: no retries are made or counted, and no exceptions are reported. */
}

static void page_caching(const struct scsi_lu *lu, enum view view, uint8_t *p)
{
	if (view != VIEW_CHANGEABLE && !lu->write_through)
		p[2] = WCE_BIT;
}

/* What MODE SELECT may change. */
struct control { bool d_sense, swp; };

static struct control in_force(const struct scsi_lu *lu)
{
	return (struct control){ __atomic_load_n(&lu->d_sense, __ATOMIC_RELAXED),
				__atomic_load_n(&lu->swp, __ATOMIC_RELAXED) };
}

static void page_control(const struct scsi_lu *lu, enum view view, uint8_t *p)
{
	struct control now = in_force(lu);

	if (view == VIEW_CHANGEABLE) {
		p[2] = D_SENSE_BIT;
		p[4] = lu->kind == SCSI_DISK ? SWP_BIT : 0;
		return;
	}
	p[2] = 0x02;			/* GLTSD: no log is saved */
	p[3] = 0x10;			/* commands may be reordered without restriction */
	scsi_put16(p + 8, 0xffff);	/* busy for as long as it takes */
	if (view == VIEW_CURRENT) {
		p[2] |= now.d_sense ? D_SENSE_BIT : 0;
		p[4] |= now.swp ? SWP_BIT : 0;
	}
}

/* MM capabilities: without it Linux takes the drive for one of the oldest. */
static void page_capabilities(const struct scsi_lu *lu, enum view view, uint8_t *p)
{
	if (view == VIEW_CHANGEABLE)
		return;
	p[2] = 0x08 | 0x03;		/* reads DVD-ROM, CD-R, CD-RW */
	p[4] = 0x70;			/* mode 2 forms 1 and 2, multisession */
	p[6] = 0x20 | 0x08 | 0x01;	/* tray, eject, lock */
	scsi_put16(p + 8, 11080);	/* kB/s: 8x DVD, at most and now */
	scsi_put16(p + 14, 11080);
}

static const struct page pages[] = {	/* in ascending order, as 3Fh answers */
	{ 0x01, SCSI_CMD_DISK | SCSI_CMD_DVD, 12, page_nothing },
	{ 0x08, SCSI_CMD_DISK, 20, page_caching },
	{ 0x0a, SCSI_CMD_DISK | SCSI_CMD_DVD, 12, page_control },
	{ 0x1c, SCSI_CMD_DISK | SCSI_CMD_DVD, 12, page_nothing },
	{ 0x2a, SCSI_CMD_DVD, 32, page_capabilities },
};

static bool page_offered(const struct page *page, enum scsi_kind kind)
{
	return page->kinds & (kind == SCSI_DVD ? SCSI_CMD_DVD : SCSI_CMD_DISK);
}

static uint32_t page_put(const struct scsi_lu *lu, const struct page *page, enum view view, uint8_t *p)
{
	memset(p, 0, page->len);
	p[0] = page->code;
	p[1] = (uint8_t)(page->len - 2);
	page->build(lu, view, p);
	return page->len;
}

static const struct page *page_find(const struct scsi_lu *lu, uint8_t code)
{
	for (size_t i = 0; i < SP_ARRAY_SIZE(pages); i++)
		if (pages[i].code == code && page_offered(&pages[i], lu->kind))
			return &pages[i];
	return NULL;
}

/* ---- MODE SENSE ----------------------------------------------------------------------------------------- */

static uint8_t device_specific(const struct scsi_lu *lu)
{
	if (lu->kind == SCSI_DVD)
		return 0;		/* no such bits in MMC */
	return (uint8_t)(DPOFUA_BIT | (scsi_lu_protected(lu) ? WP_BIT : 0));
}

/* No block descriptor: READ CAPACITY tells the same, for any size. */
static void mode_sense(struct scsi_task *t, uint32_t header, uint32_t allocation)
{
	struct scsi_lu *lu = scsi_task_lu(t);
	uint8_t data[8 + SP_ARRAY_SIZE(pages) * PAGE_MAX] = { 0 };
	uint8_t code = t->cdb[2] & 0x3f, subpage = t->cdb[3];
	enum view view = t->cdb[2] >> 6;
	uint32_t len = header;

	if (subpage != 0 && subpage != SUBPAGE_ALL) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 3);
		return;
	}
	for (size_t i = 0; i < SP_ARRAY_SIZE(pages); i++)
		if ((code == PAGE_ALL || code == pages[i].code) && page_offered(&pages[i], lu->kind))
			len += page_put(lu, &pages[i], view, data + len);
	if (len == header) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 2);
		return;
	}
	if (view == VIEW_SAVED) {
		scsi_fail(t, SCSI_SENSE_SAVING);
		return;
	}
	if (header == 4) {
		data[0] = (uint8_t)(len - 1);
		data[2] = device_specific(lu);
	} else {
		scsi_put16(data, (uint16_t)(len - 2));
		data[3] = device_specific(lu);
	}
	scsi_answer(t, data, len, allocation);
}

void scsi_mode_sense_6(struct scsi_task *t)
{
	mode_sense(t, 4, t->cdb[4]);
}

void scsi_mode_sense_10(struct scsi_task *t)
{
	mode_sense(t, 8, scsi_get16(t->cdb + 7));
}

/* ---- MODE SELECT ---------------------------------------------------------------------------------------- */

/* One page of the list at @at: 0, or how it fails. Only bits that may change may differ from what is in force. */
static uint32_t check_page(const struct scsi_lu *lu, const uint8_t *list, uint32_t at, uint32_t len,
			   uint32_t *ret_len, uint32_t *ret_wrong, struct control *wanted)
{
	const struct page *page = page_find(lu, list[at] & 0x3f);
	uint8_t current[PAGE_MAX], mask[PAGE_MAX];

	*ret_wrong = at;
	if (!page || (list[at] & 0x40))		/* no page has subpages */
		return SCSI_SENSE_INVALID_PARAMETER;
	if (len - at < 2)
		return SCSI_SENSE_LIST_LENGTH;
	*ret_wrong = at + 1;
	if (list[at + 1] != page->len - 2)
		return SCSI_SENSE_INVALID_PARAMETER;
	if (len - at < page->len)
		return SCSI_SENSE_LIST_LENGTH;
	page_put(lu, page, VIEW_CURRENT, current);
	page_put(lu, page, VIEW_CHANGEABLE, mask);
	for (uint32_t i = 2; i < page->len; i++) {
		*ret_wrong = at + i;
		if (!SP_SEED_BUG(SCSI_MODE_ANY_BIT) && ((list[at + i] ^ current[i]) & ~mask[i]))
			return SCSI_SENSE_INVALID_PARAMETER;
	}
	if (page->code == 0x0a) {
		wanted->d_sense = list[at + 2] & D_SENSE_BIT;
		wanted->swp = lu->kind == SCSI_DISK && (list[at + 4] & SWP_BIT);
	}
	*ret_len = page->len;
	return 0;
}

static void apply(struct scsi_lu *lu, const struct scsi_nexus *by, struct control wanted)
{
	bool changed;

	pthread_mutex_lock(&lu->lock);
	changed = wanted.d_sense != lu->d_sense || wanted.swp != lu->swp;
	__atomic_store_n(&lu->d_sense, wanted.d_sense, __ATOMIC_RELAXED);
	__atomic_store_n(&lu->swp, wanted.swp, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&lu->lock);
	if (changed)
		scsi_ua_raise(lu, by, SCSI_UA_MODE);
}

/* All pages are checked before the first takes effect. */
static void mode_select(struct scsi_task *t, uint32_t header, uint32_t len)
{
	struct scsi_lu *lu = scsi_task_lu(t);
	struct control wanted = in_force(lu);
	uint8_t list[256];
	uint32_t at = header, page_len, wrong = 0, sense;

	if (t->cdb[1] & SP_BIT || (!(t->cdb[1] & PF_BIT) && len != 0)) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 1);
		return;
	}
	if (len != 0 && (len < header || len > sizeof(list))) {
		scsi_fail(t, SCSI_SENSE_LIST_LENGTH);
		return;
	}
	if (!scsi_parameters(t, list, len))
		return;
	if (len != 0 && (list[header - 1] != 0 || (header == 8 && list[6] != 0))) {	/* block descriptors */
		scsi_fail_field(t, SCSI_SENSE_INVALID_PARAMETER, false, (uint16_t)(header == 8 ? 6 : 3));
		return;
	}
	for (; at < len; at += page_len) {
		sense = check_page(lu, list, at, len, &page_len, &wrong, &wanted);
		if (sense == SCSI_SENSE_LIST_LENGTH) {
			scsi_fail(t, sense);
			return;
		}
		if (sense != 0) {
			scsi_fail_field(t, sense, false, (uint16_t)wrong);
			return;
		}
	}
	apply(lu, t->nexus, wanted);
	scsi_good(t);
}

void scsi_mode_select_6(struct scsi_task *t)
{
	mode_select(t, 4, t->cdb[4]);
}

void scsi_mode_select_10(struct scsi_task *t)
{
	mode_select(t, 8, scsi_get16(t->cdb + 7));
}

void scsi_mode_power_on(struct scsi_lu *lu)
{
	__atomic_store_n(&lu->d_sense, false, __ATOMIC_RELAXED);
	__atomic_store_n(&lu->swp, false, __ATOMIC_RELAXED);
}
