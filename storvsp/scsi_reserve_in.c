/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * PERSISTENT RESERVE IN: what is registered and reserved. SPC-4 6.15.
 */
#include "storvsp/scsi_reserve_int.h"

#define HEADER		   8u
#define FULL_STATUS	   48u		/* descriptor of 24 and a transport id of 24 */
#define TRANSPORT_SRP	   0x04u
#define R_HOLDER	   0x01u
#define CAP_PTPL	   0x01u	/* reservations can survive power loss */
#define CAP_TYPE_MASK	   0x80u
#define CAP_PTPL_ACTIVE	   0x01u

static uint32_t allocation_length(const struct scsi_task *t)
{
	return scsi_get16(t->cdb + 7);
}

static struct scsi_pr copy_of(struct scsi_task *t)
{
	struct scsi_lu *lu = scsi_task_lu(t);
	struct scsi_pr pr;

	pthread_mutex_lock(&lu->lock);
	pr = lu->reservations->now;
	pthread_mutex_unlock(&lu->lock);
	return pr;
}

static void put_header(uint8_t *d, const struct scsi_pr *pr, uint32_t len)
{
	scsi_put32(d, pr->generation);
	scsi_put32(d + 4, len);
}

void scsi_pr_in_keys(struct scsi_task *t)
{
	struct scsi_pr pr = copy_of(t);
	uint8_t data[HEADER + 8 * SCSI_REGISTRATIONS_MAX];

	put_header(data, &pr, 8 * pr.count);
	for (unsigned i = 0; i < pr.count; i++)
		scsi_put64(data + HEADER + 8 * i, pr.reg[i].key);
	scsi_answer(t, data, HEADER + 8 * pr.count, allocation_length(t));
}

void scsi_pr_in_reservation(struct scsi_task *t)
{
	struct scsi_pr pr = copy_of(t);
	uint8_t data[HEADER + 16] = { 0 };
	const struct scsi_registration *holder = NULL;
	uint32_t len = pr.type != SCSI_PR_NONE ? 16 : 0;

	put_header(data, &pr, len);
	if (len != 0) {
		if (!scsi_pr_all_registrants(pr.type))
			holder = scsi_pr_find(&pr, &pr.holder);
		scsi_put64(data + HEADER, holder ? holder->key : 0);
		data[HEADER + 13] = pr.type;	/* scope 0: the unit */
	}
	scsi_answer(t, data, HEADER + len, allocation_length(t));
}

void scsi_pr_in_capabilities(struct scsi_task *t)
{
	struct scsi_pr pr = copy_of(t);
	uint8_t data[8] = { 0, 8 };

	data[2] = scsi_task_lu(t)->reservations->file ? CAP_PTPL : 0;
	data[3] = (uint8_t)(CAP_TYPE_MASK | (pr.aptpl ? CAP_PTPL_ACTIVE : 0));
	data[4] = 0x80 | 0x40 | 0x20 | 0x08 | 0x02;	/* WE-AR EA-RO WE-RO EA WE */
	data[5] = 0x01;					/* EA-AR */
	scsi_answer(t, data, sizeof(data), allocation_length(t));
}

/* There is no transport id for a VMBus. That of SRP holds sixteen bytes of port identifier, and a GUID is no more. */
static void put_status(uint8_t *d, const struct scsi_pr *pr, const struct scsi_registration *reg)
{
	memset(d, 0, FULL_STATUS);
	scsi_put64(d, reg->key);
	if (scsi_pr_holds(pr, &reg->nexus)) {
		d[12] = R_HOLDER;
		d[13] = pr->type;
	}
	scsi_put16(d + 18, 1);		/* relative target port */
	scsi_put32(d + 20, 24);
	d[24] = TRANSPORT_SRP;
	memcpy(d + 32, reg->nexus.b, sizeof(reg->nexus.b));
}

void scsi_pr_in_full_status(struct scsi_task *t)
{
	struct scsi_pr pr = copy_of(t);
	uint8_t data[HEADER + FULL_STATUS * SCSI_REGISTRATIONS_MAX];

	put_header(data, &pr, FULL_STATUS * pr.count);
	for (unsigned i = 0; i < pr.count; i++)
		put_status(data + HEADER + FULL_STATUS * i, &pr, &pr.reg[i]);
	scsi_answer(t, data, HEADER + FULL_STATUS * pr.count, allocation_length(t));
}
