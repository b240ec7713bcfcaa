/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SPINDLE_TESTS_STORVSP_FIXTURE_H
#define SPINDLE_TESTS_STORVSP_FIXTURE_H
/* A guest that has said hello to a controller with a disk or two, for the tests of the provider. */
#include <stdio.h>
#include <unistd.h>

#include "tests/support/gate_backend.h"
#include "tests/support/vstor_guest.h"
#include "tests/unit/rows.h"

#define DISK_SIZE (1u << 20)
#define RING 16u			/* pages of each ring */

/* Until @holds, which is asked again and again; not for ever. */
#define WAIT_FOR(holds)                                                       \
	do {                                                                  \
		for (int tries_ = 0; !(holds) && tries_ < GUEST_WAIT_MS; tries_++) \
			usleep(1000);                                         \
		assert_true(holds);                                           \
	} while (0)

static inline struct storvsp_channel_stats channel_stats(struct guest *g)
{
	struct storvsp_channel_stats stats;

	assert_int_equal(storvsp_channel_stats(g->controller, &stats, 1), 1);
	return stats;
}

static inline struct storvsp_lun_stats lun_stats(struct guest *g)
{
	struct storvsp_lun_stats stats;

	assert_int_equal(storvsp_lun_stats(g->controller, (struct storvsp_address){ 0 }, &stats), 0);
	return stats;
}

static inline struct scsi_lu *disk_over(struct scsi_backend *backend, uint8_t number)
{
	struct scsi_lu_opts opts = { .kind = SCSI_DISK, .backend = backend, .identity = { { 1, 2, 3, number } } };
	struct scsi_lu *lu = NULL;

	assert_int_equal(scsi_lu_new(&opts, &lu, NULL), 0);
	return lu;
}

static inline int attach_lu(struct guest *g, uint8_t lun, struct scsi_lu *lu, const struct storvsp_limits *limits)
{
	return storvsp_attach(g->controller, (struct storvsp_address){ 0, 0, lun }, lu, limits, 0, NULL);
}

/* A disk with a gate (open). */
static inline struct gate *attach_gate(struct guest *g, uint8_t lun, const struct storvsp_limits *limits)
{
	struct gate *gate = gate_new(DISK_SIZE);

	assert_int_equal(attach_lu(g, lun, disk_over(gate_backend(gate), lun), limits), 0);
	return gate;
}

static inline int detach(struct guest *g, uint8_t lun)
{
	return storvsp_detach(g->controller, (struct storvsp_address){ 0, 0, lun }, NULL);
}

/* A guest that is ready, and a disk at LUN 0 that has nothing to tell any more. */
static inline struct gate *ready(struct guest *g, const struct storvsp_opts *opts, unsigned up, unsigned down)
{
	struct gate *gate;

	guest_begin(g, opts, up, down);
	gate = attach_gate(g, 0, NULL);
	guest_handshake(g);
	guest_settle(g, 0, 0);
	return gate;
}

static inline void expect_good(const struct answer *a, uint32_t moved)
{
	assert_int_equal(a->packet.u.srb.srb_status, VSTOR_SRB_SUCCESS);
	assert_int_equal(a->packet.u.srb.scsi_status, SCSI_GOOD);
	assert_int_equal(le32_get(a->packet.u.srb.transfer_length), moved);
}

static inline void expect_sense(const struct answer *a, uint32_t sense)
{
	assert_int_equal(a->packet.u.srb.srb_status, VSTOR_SRB_ERROR | VSTOR_SRB_AUTOSENSE_VALID);
	assert_int_equal(a->packet.u.srb.scsi_status, SCSI_CHECK_CONDITION);
	assert_int_equal(answer_sense(a), sense);
	assert_int_equal(le32_get(a->packet.u.srb.transfer_length), 0);
}

static inline void expect_absent(const struct answer *a)
{
	assert_int_equal(a->packet.u.srb.srb_status, VSTOR_SRB_INVALID_LUN);
	assert_int_equal(a->packet.u.srb.scsi_status, SCSI_GOOD);
	assert_int_equal(le32_get(a->packet.u.srb.transfer_length), 0);
}

/* "Look at your bus again", within a moment; and whether it came at all. */
static inline bool told(struct guest *g, int ms)
{
	struct answer a;

	if (!guest_next(g, 0, &a, ms))
		return false;
	assert_int_equal(a.type, VMBUS_PACKET_INBAND);
	assert_int_equal(a.transaction_id, 0);
	assert_int_equal(le32_get(a.packet.operation), VSTOR_ENUMERATE_BUS);
	return true;
}

#endif
