/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * LOG SENSE: which pages there are, how much of a thin disk is in use, temperature and exceptions. SPC-4 7.3 and SBC-3
 * 6.3.
 */
#include "storvsp/scsi_spc_int.h"

#define PAGE_LIST	  0x00u
#define PAGE_PROVISIONING 0x0cu
#define PAGE_TEMPERATURE  0x0du
#define PAGE_EXCEPTIONS	  0x2fu
#define SUBPAGE_ALL	  0xffu
#define PAGE_MAX	  64u
#define BINARY_LIST	  0x03u	/* parameter control: a list, binary */
#define UNKNOWN_DEGREES	  0xffu
/* A walk over the states of a disk is bounded: a command may not keep its worker for long. */
#define STRETCHES_MAX	  4096u

static uint8_t *parameter(uint8_t *at, uint16_t code, uint8_t len)
{
	scsi_put16(at, code);
	at[2] = BINARY_LIST;
	at[3] = len;
	return at + 4;
}

/* Bytes that hold data; false when the disk is too fragmented to tell in bounded time. */
static bool used_bytes(struct scsi_lu *lu, uint64_t *ret_used)
{
	uint64_t size = scsi_lu_blocks(lu) << lu->block_shift, offset = 0, used = 0, len;
	bool mapped;

	for (unsigned i = 0; offset < size; i++) {
		if (i == STRETCHES_MAX)
			return false;
		if (lu->backend->ops->mapped(lu->backend, offset, size - offset, &len, &mapped) < 0 || len == 0)
			return false;
		used += mapped ? len : 0;
		offset += len;
	}
	*ret_used = used;
	return true;
}

static uint32_t page_provisioning(struct scsi_lu *lu, uint8_t *d)
{
	unsigned unit = scsi_threshold_exponent(lu) + lu->block_shift;
	uint64_t used;

	if (!used_bytes(lu, &used))
		return 0;
	d = parameter(d, 0x0002, 8);	/* used LBA mapping resources */
	scsi_put32(d, (uint32_t)sp_min(sp_div_ceil(used, UINT64_C(1) << unit), UINT32_MAX));
	d[4] = 0x01;			/* of this unit alone */
	return 12;
}

static uint32_t page_temperature(struct scsi_lu *lu, uint8_t *d)
{
	d = parameter(d, 0x0000, 2);
	d[1] = UNKNOWN_DEGREES;
	return 6;
}

static uint32_t page_exceptions(struct scsi_lu *lu, uint8_t *d)
{
	bool failed = lu->backend->ops->poisoned && lu->backend->ops->poisoned(lu->backend);

	d = parameter(d, 0x0000, 4);
	d[0] = failed ? 0x5d : 0;	/* failure prediction threshold exceeded: no write will succeed any more */
	d[2] = UNKNOWN_DEGREES;
	return 8;
}

static const struct page {
	uint8_t code;
	bool thin;			/* only where UNMAP is offered */
	uint32_t (*build)(struct scsi_lu *lu, uint8_t *data);
} pages[] = {
	{ PAGE_LIST },
	{ PAGE_PROVISIONING, true, page_provisioning },
	{ PAGE_TEMPERATURE, false, page_temperature },
	{ PAGE_EXCEPTIONS, false, page_exceptions },
};

static bool page_offered(const struct scsi_lu *lu, const struct page *page)
{
	return !page->thin || scsi_lu_granularity(lu) != 0;
}

/* With subpage FFh each page is named with its subpage, which is 0 for all. */
static uint32_t page_list(const struct scsi_lu *lu, bool subpages, uint8_t *d)
{
	uint32_t len = 0;

	for (size_t i = 0; i < SP_ARRAY_SIZE(pages); i++) {
		if (!page_offered(lu, &pages[i]))
			continue;
		d[len++] = pages[i].code;
		if (subpages)
			d[len++] = 0;
	}
	return len;
}

static const struct page *page_find(const struct scsi_lu *lu, uint8_t code)
{
	for (size_t i = 0; i < SP_ARRAY_SIZE(pages); i++)
		if (pages[i].code == code && page_offered(lu, &pages[i]))
			return &pages[i];
	return NULL;
}

void scsi_log_sense(struct scsi_task *t)
{
	struct scsi_lu *lu = scsi_task_lu(t);
	const struct page *page = page_find(lu, t->cdb[2] & 0x3f);
	uint8_t data[4 + PAGE_MAX] = { 0 };
	uint32_t len;

	if (!page) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 2);
		return;
	}
	if (t->cdb[3] != 0 && !(page->code == PAGE_LIST && t->cdb[3] == SUBPAGE_ALL)) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 3);
		return;
	}
	data[0] = page->code;
	len = page->build ? page->build(lu, data + 4) : page_list(lu, t->cdb[3] == SUBPAGE_ALL, data + 4);
	if (t->cdb[3] == SUBPAGE_ALL) {
		data[0] |= 0x40;
		data[1] = SUBPAGE_ALL;
	}
	/* Each page has one parameter: the pointer names it, one before it, or nothing. */
	if (page->build && scsi_get16(t->cdb + 5) > (len > 0 ? scsi_get16(data + 4) : 0)) {
		scsi_fail_field(t, SCSI_SENSE_INVALID_FIELD, true, 5);
		return;
	}
	scsi_put16(data + 2, (uint16_t)len);
	scsi_answer(t, data, 4 + len, scsi_get16(t->cdb + 7));
}
