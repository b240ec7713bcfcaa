/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reservations: who may do what under each type, how they come and go, whom that is told, and what survives a restart.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storvsp/scsi_reserve_int.h"
#include "tests/unit/rows.h"
#include "tests/unit/scsi_fixture.h"

#define REGISTRATIONS_PREEMPTED SCSI_SENSE(0x6, 0x2a, 0x05)
#define KEY(n) (UINT64_C(0xabc0000000000000) + (n))

enum { REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_ABORT, REGISTER_IGNORE };

/* ---- a unit with several nexuses -------------------------------------------------------------------------- */

struct nexuses {
	struct scsi_fix f;
	struct scsi_nexus n[SCSI_NEXUSES];	/* 0 is that of the fixture */
	unsigned count;
};

static struct sp_guid guid_of(unsigned i)
{
	struct sp_guid g = fix_initiator;

	g.b[15] = (uint8_t)i;
	return g;
}

static void open_unit(struct nexuses *u, unsigned count, const char *file)
{
	struct scsi_lu_opts opts = { .kind = SCSI_DISK, .identity = fix_identity, .reservations = file };

	memset(u, 0, sizeof(*u));
	must(scsi_backend_null(SP_MIB(64), 512, &opts.backend), NULL);
	fix_unit(&u->f, &opts, false);
	u->n[0] = u->f.nexus;
	u->count = count;
	for (unsigned i = 1; i < count; i++) {
		struct sp_guid g = guid_of(i);

		must(scsi_lu_connect(u->f.lu, &g, &u->n[i]), NULL);
		assert_int_equal(scsi_ua_take(u->f.lu, &u->n[i]), SCSI_UA_POWER_ON);
	}
}

static void close_unit(struct nexuses *u)
{
	for (unsigned i = 1; i < u->count; i++)
		scsi_lu_disconnect(u->f.lu, &u->n[i]);
	fix_free(&u->f);
}

static uint8_t out_flags(struct nexuses *u, unsigned who, uint8_t action, uint8_t type, uint64_t key,
			 uint64_t action_key, uint8_t flags)
{
	uint8_t list[24] = { 0 };

	scsi_put64(list, key);
	scsi_put64(list + 8, action_key);
	list[20] = flags;
	fix_run_as(&u->f, &u->n[who], CDB(0x5f, action, type, 0, 0, 0, 0, 0, 24), SCSI_TO_DEVICE, list, sizeof(list));
	return u->f.reply.status;
}

static uint8_t out(struct nexuses *u, unsigned who, uint8_t action, uint8_t type, uint64_t key, uint64_t action_key)
{
	return out_flags(u, who, action, type, key, action_key, 0);
}

static void must_out(struct nexuses *u, unsigned who, uint8_t action, uint8_t type, uint64_t key, uint64_t action_key)
{
	assert_int_equal(out(u, who, action, type, key, action_key), SCSI_GOOD);
}

static void register_all(struct nexuses *u, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		must_out(u, i, REGISTER, 0, 0, KEY(i));
}

static uint32_t in(struct nexuses *u, unsigned who, uint8_t action, uint8_t *data, uint16_t len)
{
	memset(data, 0, len);
	fix_run_as(&u->f, &u->n[who], CDB(0x5e, action, 0, 0, 0, 0, 0, (uint8_t)(len >> 8), (uint8_t)len),
		   SCSI_FROM_DEVICE, data, len);
	fix_good(&u->f);
	return scsi_get32(data + 4);
}

static unsigned keys(struct nexuses *u)
{
	uint8_t data[600];

	return in(u, 0, 0, data, sizeof(data)) / 8;
}

static uint32_t generation(struct nexuses *u)
{
	uint8_t data[8];

	in(u, 0, 0, data, sizeof(data));
	return scsi_get32(data);
}

/* Type in force, 0 without; and the key of its holder. */
static uint8_t reserved(struct nexuses *u, uint64_t *ret_key)
{
	uint8_t data[24];

	if (in(u, 0, 1, data, sizeof(data)) == 0)
		return 0;
	*ret_key = scsi_get64(data + 8);
	return data[21];
}

static uint8_t run(struct nexuses *u, unsigned who, const uint8_t cdb[16])
{
	uint8_t data[512] = { 0 };
	bool writes = cdb[0] == 0x2a;

	fix_run_as(&u->f, &u->n[who], cdb, writes ? SCSI_TO_DEVICE : SCSI_FROM_DEVICE, data, sizeof(data));
	return u->f.reply.status;
}

/* ---- the matrix of types ---------------------------------------------------------------------------------- */

/* Who: holder, registered, stranger. */
static const struct access_row {
	const char *name;
	uint8_t type;
	const char *allowed[3];		/* of the letters below */
} access_rows[] = {
	{ "no reservation", 0, { "RWVSTIMLBAPFCK", "RWVSTIMLBAPFCK", "RWVSTIMLBAPFCK" } },
	{ "write exclusive", SCSI_PR_WE, { "RWVSTIMLBAPFCK", "RVTILBAFCK", "RVTILBAFCK" } },
	{ "exclusive access", SCSI_PR_EA, { "RWVSTIMLBAPFCK", "TILBAFCK", "TILBAFCK" } },
	{ "write exclusive, registrants only", SCSI_PR_WE_RO, { "RWVSTIMLBAPFCK", "RWVSTIMLBAPFCK", "RVTILBAFCK" } },
	{ "exclusive access, registrants only", SCSI_PR_EA_RO, { "RWVSTIMLBAPFCK", "RWVSTIMLBAPFCK", "TILBAFCK" } },
	{ "write exclusive, all registrants", SCSI_PR_WE_AR, { "RWVSTIMLBAPFCK", "RWVSTIMLBAPFCK", "RVTILBAFCK" } },
	{ "exclusive access, all registrants", SCSI_PR_EA_AR, { "RWVSTIMLBAPFCK", "RWVSTIMLBAPFCK", "TILBAFCK" } },
};

static const struct { char letter; uint8_t cdb[16]; } probes[] = {
	{ 'R', { 0x28, [8] = 1 } },		/* READ(10) */
	{ 'W', { 0x2a, [8] = 1 } },		/* WRITE(10) */
	{ 'V', { 0x2f, [8] = 1 } },		/* VERIFY(10) */
	{ 'S', { 0x35 } },			/* SYNCHRONIZE CACHE(10) */
	{ 'T', { 0x00 } },			/* TEST UNIT READY */
	{ 'I', { 0x12, [4] = 36 } },		/* INQUIRY */
	{ 'M', { 0x1a, 0, 0x3f, 0, 4 } },	/* MODE SENSE(6) */
	{ 'L', { 0x4d, 0, 0x40, [8] = 64 } },	/* LOG SENSE */
	{ 'B', { 0x1b, 0, 0, 0, 1 } },		/* START STOP UNIT, start */
	{ 'A', { 0x1e } },			/* PREVENT ALLOW, allow */
	{ 'P', { 0x1e, 0, 0, 0, 1 } },		/* PREVENT ALLOW, prevent */
	{ 'F', { 0x5e, 0, [8] = 64 } },		/* PERSISTENT RESERVE IN */
	{ 'C', { 0x25 } },			/* READ CAPACITY(10) */
	{ 'K', { 0xa3, 0x0c, [9] = 64 } },	/* REPORT SUPPORTED OPERATION CODES */
};

static void access_matrix(void **state)
{
	const struct access_row *c = *state;
	struct nexuses u;

	open_unit(&u, 3, NULL);
	register_all(&u, 2);
	if (c->type != 0)
		must_out(&u, 0, RESERVE, c->type, KEY(0), 0);
	for (unsigned who = 0; who < 3; who++) {
		for (size_t i = 0; i < SP_ARRAY_SIZE(probes); i++) {
			bool allowed = strchr(c->allowed[who], probes[i].letter);
			uint8_t status = run(&u, who, probes[i].cdb);

			if (status != (allowed ? SCSI_GOOD : SCSI_RESERVATION_CONFLICT))
				fail_msg("%c by nexus %u: %02x", probes[i].letter, who, status);
		}
	}
	close_unit(&u);
}

/* ---- RESERVE and RELEASE ---------------------------------------------------------------------------------- */

static void old_reservation(void **state)
{
	static const uint8_t opcodes[2][2] = { { 0x16, 0x17 }, { 0x56, 0x57 } };
	struct nexuses u;

	for (unsigned i = 0; i < 2; i++) {
		open_unit(&u, 2, NULL);
		assert_int_equal(run(&u, 0, CDB(opcodes[i][0])), SCSI_GOOD);
		assert_int_equal(run(&u, 0, CDB(opcodes[i][0])), SCSI_GOOD);
		assert_int_equal(run(&u, 1, CDB(opcodes[i][0])), SCSI_RESERVATION_CONFLICT);
		assert_int_equal(run(&u, 1, CDB(0x00)), SCSI_RESERVATION_CONFLICT);
		assert_int_equal(run(&u, 1, CDB(0x28, [8] = 1)), SCSI_RESERVATION_CONFLICT);
		assert_int_equal(run(&u, 1, CDB(0x5e, [8] = 8)), SCSI_RESERVATION_CONFLICT);
		assert_int_equal(out(&u, 1, REGISTER, 0, 0, 1), SCSI_RESERVATION_CONFLICT);
		assert_int_equal(out(&u, 0, REGISTER, 0, 0, 1), SCSI_RESERVATION_CONFLICT);
		assert_int_equal(run(&u, 1, CDB(0x12, [4] = 36)), SCSI_GOOD);
		assert_int_equal(run(&u, 0, CDB(0x28, [8] = 1)), SCSI_GOOD);
		assert_int_equal(run(&u, 1, CDB(opcodes[i][1])), SCSI_GOOD);	/* which releases nothing */
		assert_int_equal(run(&u, 1, CDB(0x00)), SCSI_RESERVATION_CONFLICT);
		assert_int_equal(run(&u, 0, CDB(opcodes[i][1])), SCSI_GOOD);
		assert_int_equal(run(&u, 1, CDB(0x00)), SCSI_GOOD);
		close_unit(&u);
	}
}

static void old_reservation_ends(void **state)
{
	struct nexuses u;

	open_unit(&u, 2, NULL);
	assert_int_equal(run(&u, 0, CDB(0x16)), SCSI_GOOD);
	scsi_lu_power_on(u.f.lu, &u.n[1]);
	assert_int_equal(scsi_ua_take(u.f.lu, &u.n[1]), SCSI_UA_POWER_ON);
	assert_int_equal(run(&u, 1, CDB(0x00)), SCSI_RESERVATION_CONFLICT);	/* not by the reset of another */
	scsi_lu_power_on(u.f.lu, &u.n[0]);
	assert_int_equal(run(&u, 1, CDB(0x00)), SCSI_GOOD);
	assert_int_equal(run(&u, 1, CDB(0x16)), SCSI_GOOD);
	scsi_lu_disconnect(u.f.lu, &u.n[1]);
	u.count = 1;
	assert_int_equal(run(&u, 0, CDB(0x00)), SCSI_CHECK_CONDITION);		/* power on */
	assert_int_equal(run(&u, 0, CDB(0x00)), SCSI_GOOD);
	close_unit(&u);
}

static void old_and_persistent(void **state)
{
	struct nexuses u;

	open_unit(&u, 2, NULL);
	must_out(&u, 0, REGISTER, 0, 0, KEY(0));
	assert_int_equal(run(&u, 0, CDB(0x16)), SCSI_RESERVATION_CONFLICT);
	assert_int_equal(run(&u, 1, CDB(0x17)), SCSI_RESERVATION_CONFLICT);
	close_unit(&u);
}

/* ---- registration ----------------------------------------------------------------------------------------- */

static void registering(void **state)
{
	struct nexuses u;
	uint32_t g;

	open_unit(&u, 2, NULL);
	assert_int_equal(out(&u, 0, REGISTER, 0, 7, KEY(0)), SCSI_RESERVATION_CONFLICT);
	assert_int_equal(generation(&u), 0);
	must_out(&u, 0, REGISTER, 0, 0, KEY(0));
	assert_int_equal(generation(&u), 1);
	assert_int_equal(out(&u, 0, REGISTER, 0, 0, KEY(5)), SCSI_RESERVATION_CONFLICT);
	must_out(&u, 0, REGISTER, 0, KEY(0), KEY(5));
	must_out(&u, 0, REGISTER_IGNORE, 0, 99, KEY(6));
	must_out(&u, 1, REGISTER_IGNORE, 0, 99, KEY(1));
	assert_int_equal(keys(&u), 2);
	g = generation(&u);
	must_out(&u, 0, RESERVE, SCSI_PR_WE, KEY(6), 0);
	must_out(&u, 0, RELEASE, SCSI_PR_WE, KEY(6), 0);
	assert_int_equal(generation(&u), g);
	must_out(&u, 1, REGISTER, 0, KEY(1), 0);
	assert_int_equal(keys(&u), 1);
	assert_int_equal(generation(&u), g + 1);
	close_unit(&u);
}

static void reserving(void **state)
{
	struct nexuses u;
	uint64_t key = 0;

	open_unit(&u, 2, NULL);
	assert_int_equal(out(&u, 0, RESERVE, SCSI_PR_WE, 0, 0), SCSI_RESERVATION_CONFLICT);
	register_all(&u, 2);
	assert_int_equal(out(&u, 0, RESERVE, SCSI_PR_WE, KEY(1), 0), SCSI_RESERVATION_CONFLICT);
	must_out(&u, 0, RESERVE, SCSI_PR_WE, KEY(0), 0);
	must_out(&u, 0, RESERVE, SCSI_PR_WE, KEY(0), 0);
	assert_int_equal(out(&u, 0, RESERVE, SCSI_PR_EA, KEY(0), 0), SCSI_RESERVATION_CONFLICT);
	assert_int_equal(out(&u, 1, RESERVE, SCSI_PR_WE, KEY(1), 0), SCSI_RESERVATION_CONFLICT);
	assert_int_equal(reserved(&u, &key), SCSI_PR_WE);
	assert_int_equal(key, KEY(0));
	must_out(&u, 1, RELEASE, SCSI_PR_WE, KEY(1), 0);	/* not the holder: nothing happens */
	assert_int_equal(reserved(&u, &key), SCSI_PR_WE);
	out(&u, 0, RELEASE, SCSI_PR_EA, KEY(0), 0);
	fix_sense(&u.f, SCSI_SENSE(5, 0x26, 0x04));
	must_out(&u, 0, RELEASE, SCSI_PR_WE, KEY(0), 0);
	assert_int_equal(reserved(&u, &key), 0);
	must_out(&u, 1, RESERVE, SCSI_PR_EA_AR, KEY(1), 0);
	assert_int_equal(reserved(&u, &key), SCSI_PR_EA_AR);
	assert_int_equal(key, 0);
	must_out(&u, 0, RESERVE, SCSI_PR_EA_AR, KEY(0), 0);
	close_unit(&u);
}

static const struct bad_row {
	const char *name;
	uint8_t cdb[16], len, flags;
	uint32_t sense;
} bad_rows[] = {
	{ "type 0", { 0x5f, RESERVE, 0, [8] = 24 }, 24, 0, SCSI_SENSE_INVALID_FIELD },
	{ "type 2", { 0x5f, RESERVE, 2, [8] = 24 }, 24, 0, SCSI_SENSE_INVALID_FIELD },
	{ "type 9", { 0x5f, RESERVE, 9, [8] = 24 }, 24, 0, SCSI_SENSE_INVALID_FIELD },
	{ "scope of an element", { 0x5f, RESERVE, 0x21, [8] = 24 }, 24, 0, SCSI_SENSE_INVALID_FIELD },
	{ "list of 23", { 0x5f, REGISTER, 0, [8] = 23 }, 24, 0, SCSI_SENSE_LIST_LENGTH },
	{ "list of 25", { 0x5f, REGISTER, 0, [8] = 25 }, 32, 0, SCSI_SENSE_LIST_LENGTH },
	{ "list of 64 Ki + 24", { 0x5f, REGISTER, 0, [6] = 1, [8] = 24 }, 24, 0, SCSI_SENSE_LIST_LENGTH },
	{ "buffer shorter than the list", { 0x5f, REGISTER, 0, [8] = 24 }, 23, 0, SCSI_SENSE_LIST_LENGTH },
	{ "other initiators named", { 0x5f, REGISTER, 0, [8] = 24 }, 24, 0x08, SCSI_SENSE_INVALID_PARAMETER },
	{ "all target ports", { 0x5f, REGISTER, 0, [8] = 24 }, 24, 0x04, SCSI_SENSE_INVALID_PARAMETER },
	{ "to be kept, but nowhere", { 0x5f, REGISTER, 0, [8] = 24 }, 24, 0x01, SCSI_SENSE_INVALID_PARAMETER },
	{ "REGISTER AND MOVE", { 0x5f, 7, 0, [8] = 24 }, 24, 0, SCSI_SENSE_INVALID_FIELD },
	{ "action 1Fh", { 0x5f, 0x1f, 0, [8] = 24 }, 24, 0, SCSI_SENSE_INVALID_FIELD },
	{ "reserved bit", { 0x5f, REGISTER, 0, 1, [8] = 24 }, 24, 0, SCSI_SENSE_INVALID_FIELD },
};

static void bad_out(void **state)
{
	const struct bad_row *c = *state;
	uint8_t list[32] = { [15] = 1 };
	struct nexuses u;

	open_unit(&u, 1, NULL);
	list[20] = c->flags;
	fix_run(&u.f, c->cdb, SCSI_TO_DEVICE, list, c->len);
	fix_sense(&u.f, c->sense);
	assert_int_equal(keys(&u), 0);
	close_unit(&u);
}

/* ---- endings, and who hears of them ------------------------------------------------------------------------ */

/* Nexus 0 holds, 1 and 2 are registered, 1 acts where it is not 0. */
static const struct ending_row {
	const char *name;
	uint8_t type;			/* reserved before */
	unsigned who;
	uint8_t action, with;
	uint64_t action_key;
	uint8_t left;			/* type afterwards */
	unsigned keys;
	uint32_t ua[3];
} ending_rows[] = {
	{ "release WE", SCSI_PR_WE, 0, RELEASE, SCSI_PR_WE, 0, 0, 3, { 0, 0, 0 } },
	{ "release EA, registrants only", SCSI_PR_EA_RO, 0, RELEASE, SCSI_PR_EA_RO, 0, 0, 3,
	  { 0, SCSI_UA_RELEASED, SCSI_UA_RELEASED } },
	{ "release WE, all registrants, by one of them", SCSI_PR_WE_AR, 1, RELEASE, SCSI_PR_WE_AR, 0, 0, 3,
	  { SCSI_UA_RELEASED, 0, SCSI_UA_RELEASED } },
	{ "the holder of WE unregisters", SCSI_PR_WE, 0, REGISTER, 0, 0, 0, 2, { 0, 0, 0 } },
	{ "the holder of WE, registrants only, unregisters", SCSI_PR_WE_RO, 0, REGISTER, 0, 0, 0, 2,
	  { 0, SCSI_UA_RELEASED, SCSI_UA_RELEASED } },
	{ "one of all registrants unregisters", SCSI_PR_WE_AR, 0, REGISTER, 0, 0, SCSI_PR_WE_AR, 2, { 0, 0, 0 } },
	{ "clear", SCSI_PR_EA, 1, CLEAR, 0, 0, 0, 0, { SCSI_UA_PREEMPTED, 0, SCSI_UA_PREEMPTED } },
	{ "clear without a reservation", 0, 1, CLEAR, 0, 0, 0, 0, { SCSI_UA_PREEMPTED, 0, SCSI_UA_PREEMPTED } },
	{ "preempt the holder, same type", SCSI_PR_EA, 1, PREEMPT, SCSI_PR_EA, KEY(0), SCSI_PR_EA, 2,
	  { REGISTRATIONS_PREEMPTED, 0, 0 } },
	{ "preempt the holder, other type", SCSI_PR_EA, 1, PREEMPT, SCSI_PR_WE, KEY(0), SCSI_PR_WE, 2,
	  { REGISTRATIONS_PREEMPTED, 0, SCSI_UA_RELEASED } },
	{ "preempt and abort the holder", SCSI_PR_EA, 1, PREEMPT_ABORT, SCSI_PR_EA, KEY(0), SCSI_PR_EA, 2,
	  { REGISTRATIONS_PREEMPTED, 0, 0 } },
	{ "preempt somebody else", SCSI_PR_EA, 1, PREEMPT, SCSI_PR_WE, KEY(2), SCSI_PR_EA, 2,
	  { 0, 0, REGISTRATIONS_PREEMPTED } },
	{ "the holder changes its type", SCSI_PR_EA_RO, 0, PREEMPT, SCSI_PR_WE_RO, KEY(0), SCSI_PR_WE_RO, 3,
	  { 0, SCSI_UA_RELEASED, SCSI_UA_RELEASED } },
	{ "preempt without a reservation", 0, 1, PREEMPT, SCSI_PR_WE, KEY(2), 0, 2,
	  { 0, 0, REGISTRATIONS_PREEMPTED } },
	{ "preempt all registrants", SCSI_PR_EA_AR, 1, PREEMPT, SCSI_PR_WE, 0, SCSI_PR_WE, 1,
	  { REGISTRATIONS_PREEMPTED, 0, REGISTRATIONS_PREEMPTED } },
	{ "preempt one of all registrants", SCSI_PR_EA_AR, 1, PREEMPT, SCSI_PR_WE, KEY(2), SCSI_PR_EA_AR, 2,
	  { 0, 0, REGISTRATIONS_PREEMPTED } },
};

static void endings(void **state)
{
	const struct ending_row *c = *state;
	struct nexuses u;
	uint64_t key = 0;

	open_unit(&u, 3, NULL);
	register_all(&u, 3);
	if (c->type != 0)
		must_out(&u, 0, RESERVE, c->type, KEY(0), 0);
	must_out(&u, c->who, c->action, c->with, KEY(c->who), c->action_key);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(scsi_ua_take(u.f.lu, &u.n[i]), c->ua[i]);
		assert_int_equal(scsi_ua_take(u.f.lu, &u.n[i]), 0);
	}
	assert_int_equal(reserved(&u, &key), c->left);
	assert_int_equal(keys(&u), c->keys);
	if (c->action == PREEMPT && c->left == c->with && !scsi_pr_all_registrants(c->left))
		assert_int_equal(key, KEY(c->who));
	close_unit(&u);
}

static void preempting_nobody(void **state)
{
	struct nexuses u;

	open_unit(&u, 2, NULL);
	register_all(&u, 2);
	assert_int_equal(out(&u, 0, PREEMPT, SCSI_PR_WE, KEY(0), 12345), SCSI_RESERVATION_CONFLICT);
	out(&u, 0, PREEMPT, SCSI_PR_WE, KEY(0), 0);
	fix_sense(&u.f, SCSI_SENSE_INVALID_PARAMETER);
	must_out(&u, 1, RESERVE, SCSI_PR_WE, KEY(1), 0);
	out(&u, 0, PREEMPT, 2, KEY(0), KEY(1));
	fix_sense(&u.f, SCSI_SENSE_INVALID_FIELD);
	assert_int_equal(keys(&u), 2);
	close_unit(&u);
}

static void last_of_all_registrants(void **state)
{
	struct nexuses u;
	uint64_t key;

	open_unit(&u, 3, NULL);
	register_all(&u, 2);
	must_out(&u, 0, RESERVE, SCSI_PR_EA_AR, KEY(0), 0);
	must_out(&u, 0, REGISTER, 0, KEY(0), 0);
	assert_int_equal(run(&u, 2, CDB(0x28, [8] = 1)), SCSI_RESERVATION_CONFLICT);
	must_out(&u, 1, REGISTER, 0, KEY(1), 0);
	assert_int_equal(reserved(&u, &key), 0);
	assert_int_equal(run(&u, 2, CDB(0x28, [8] = 1)), SCSI_GOOD);
	close_unit(&u);
}

/* ---- many ------------------------------------------------------------------------------------------------- */

static void eight_nexuses(void **state)
{
	uint8_t data[8 + 48 * SCSI_NEXUSES];
	struct nexuses u;
	struct scsi_nexus ninth;
	struct sp_guid g = guid_of(8);

	open_unit(&u, SCSI_NEXUSES, NULL);
	assert_int_equal(scsi_lu_connect(u.f.lu, &g, &ninth), -EMFILE);
	register_all(&u, SCSI_NEXUSES);
	must_out(&u, 5, RESERVE, SCSI_PR_WE, KEY(5), 0);
	assert_int_equal(in(&u, 3, 3, data, sizeof(data)), 48 * SCSI_NEXUSES);
	for (unsigned i = 0; i < SCSI_NEXUSES; i++) {
		const uint8_t *d = data + 8 + 48 * i;

		assert_int_equal(scsi_get64(d), KEY(i));
		assert_int_equal(d[12], i == 5);
		assert_int_equal(d[13], i == 5 ? SCSI_PR_WE : 0);
		assert_int_equal(scsi_get32(d + 20), 24);
		assert_int_equal(d[24], 4);
		assert_memory_equal(d + 32, u.n[i].id.b, 16);
		assert_int_equal(run(&u, i, CDB(0x2a, [8] = 1)), i == 5 ? SCSI_GOOD : SCSI_RESERVATION_CONFLICT);
	}
	close_unit(&u);
}

/* Registrations outlast connections, so there may be more of them than nexuses; but not without bound. */
static void registrations_run_out(void **state)
{
	struct nexuses u;

	open_unit(&u, 1, NULL);
	for (unsigned i = 1; i <= SCSI_REGISTRATIONS_MAX + 1; i++) {
		struct sp_guid g = guid_of(i);

		must(scsi_lu_connect(u.f.lu, &g, &u.n[1]), NULL);
		scsi_ua_take(u.f.lu, &u.n[1]);
		if (i <= SCSI_REGISTRATIONS_MAX) {
			must_out(&u, 1, REGISTER, 0, 0, KEY(i));
		} else {
			out(&u, 1, REGISTER, 0, 0, KEY(i));
			fix_sense(&u.f, SCSI_SENSE(5, 0x55, 0x04));
		}
		scsi_lu_disconnect(u.f.lu, &u.n[1]);
	}
	assert_int_equal(keys(&u), SCSI_REGISTRATIONS_MAX);
	close_unit(&u);
}

static void answers_are_cut(void **state)
{
	uint8_t data[64];
	struct nexuses u;

	open_unit(&u, 2, NULL);
	register_all(&u, 2);
	assert_int_equal(in(&u, 0, 0, data, 12), 16);		/* the length says what there is */
	assert_int_equal(u.f.reply.transferred, 12);
	in(&u, 0, 2, data, 64);
	assert_int_equal(u.f.reply.transferred, 8);
	assert_int_equal(scsi_get16(data), 8);
	assert_int_equal(data[2] | data[3], 0x80);		/* nothing is kept; the type mask is valid */
	assert_int_equal(scsi_get16(data + 4), 0xea01);
	run(&u, 0, CDB(0x5e, 4, [8] = 8));
	fix_sense(&u.f, SCSI_SENSE_INVALID_FIELD);
	close_unit(&u);
}

/* ---- restart ---------------------------------------------------------------------------------------------- */

#define APTPL 0x01u

static char folder[] = "/tmp/spindle-reserve-XXXXXX";
static char file[64], other[64];

static int group_setup(void **state)
{
	if (!mkdtemp(folder))
		return -1;
	snprintf(file, sizeof(file), "%s/disk.reservations", folder);
	snprintf(other, sizeof(other), "%s/disk.reservations.new", folder);
	return 0;
}

static int group_teardown(void **state)
{
	unlink(file);
	unlink(other);
	return rmdir(folder);
}

static void kept(void **state)
{
	struct nexuses u;
	uint64_t key = 0;
	uint8_t data[8];

	unlink(file);
	open_unit(&u, 3, file);
	assert_int_equal(out_flags(&u, 0, REGISTER, 0, 0, KEY(0), APTPL), SCSI_GOOD);
	assert_int_equal(out_flags(&u, 1, REGISTER, 0, 0, KEY(1), APTPL), SCSI_GOOD);
	must_out(&u, 1, RESERVE, SCSI_PR_EA_RO, KEY(1), 0);
	in(&u, 0, 2, data, 8);
	assert_int_equal(data[2] & data[3], 0x01);	/* can be kept, and is */
	close_unit(&u);

	open_unit(&u, 3, file);
	assert_int_equal(keys(&u), 2);
	assert_int_equal(generation(&u), 0);
	assert_int_equal(reserved(&u, &key), SCSI_PR_EA_RO);
	assert_int_equal(key, KEY(1));
	assert_int_equal(run(&u, 0, CDB(0x2a, [8] = 1)), SCSI_GOOD);
	assert_int_equal(run(&u, 2, CDB(0x2a, [8] = 1)), SCSI_RESERVATION_CONFLICT);
	must_out(&u, 0, PREEMPT, SCSI_PR_WE, KEY(0), KEY(1));
	close_unit(&u);

	open_unit(&u, 3, file);
	assert_int_equal(reserved(&u, &key), SCSI_PR_WE);
	assert_int_equal(key, KEY(0));
	assert_int_equal(keys(&u), 1);
	must_out(&u, 0, CLEAR, 0, KEY(0), 0);
	close_unit(&u);
	assert_int_not_equal(access(file, F_OK), 0);
	open_unit(&u, 1, file);
	assert_int_equal(keys(&u), 0);
	close_unit(&u);
}

static void kept_for_all_registrants(void **state)
{
	struct nexuses u;
	uint64_t key;

	unlink(file);
	open_unit(&u, 3, file);
	assert_int_equal(out_flags(&u, 0, REGISTER, 0, 0, KEY(0), APTPL), SCSI_GOOD);
	assert_int_equal(out_flags(&u, 1, REGISTER, 0, 0, KEY(1), APTPL), SCSI_GOOD);
	must_out(&u, 0, RESERVE, SCSI_PR_EA_AR, KEY(0), 0);
	must_out(&u, 0, REGISTER, 0, KEY(0), KEY(0));	/* without APTPL: nothing is kept any more */
	close_unit(&u);
	open_unit(&u, 3, file);
	assert_int_equal(keys(&u), 0);
	assert_int_equal(out_flags(&u, 0, REGISTER, 0, 0, KEY(0), APTPL), SCSI_GOOD);
	assert_int_equal(out_flags(&u, 1, REGISTER, 0, 0, KEY(1), APTPL), SCSI_GOOD);
	must_out(&u, 0, RESERVE, SCSI_PR_EA_AR, KEY(0), 0);
	assert_int_equal(out_flags(&u, 0, REGISTER, 0, KEY(0), 0, APTPL), SCSI_GOOD);
	close_unit(&u);
	open_unit(&u, 3, file);
	assert_int_equal(reserved(&u, &key), SCSI_PR_EA_AR);
	assert_int_equal(run(&u, 1, CDB(0x28, [8] = 1)), SCSI_GOOD);
	assert_int_equal(run(&u, 2, CDB(0x28, [8] = 1)), SCSI_RESERVATION_CONFLICT);
	close_unit(&u);
}

/* A change that cannot be kept is refused and not made. */
static void cannot_be_kept(void **state)
{
	struct nexuses u;
	uint64_t key;

	unlink(file);
	open_unit(&u, 2, file);
	assert_int_equal(out_flags(&u, 0, REGISTER, 0, 0, KEY(0), APTPL), SCSI_GOOD);
	assert_int_equal(mkdir(other, 0700), 0);	/* where the new file would be written */
	out(&u, 0, RESERVE, SCSI_PR_EA, KEY(0), 0);
	fix_sense(&u.f, SCSI_SENSE_INTERNAL);
	assert_int_equal(reserved(&u, &key), 0);
	assert_int_equal(run(&u, 1, CDB(0x28, [8] = 1)), SCSI_GOOD);
	assert_int_equal(rmdir(other), 0);
	must_out(&u, 0, RESERVE, SCSI_PR_EA, KEY(0), 0);
	close_unit(&u);
}

static size_t read_file(char *text, size_t size)
{
	FILE *f = fopen(file, "r");
	size_t len;

	assert_non_null(f);
	len = fread(text, 1, size, f);
	fclose(f);
	return len;
}

static void write_file(const char *text, size_t len)
{
	FILE *f = fopen(file, "w");

	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, len, f), len);
	fclose(f);
}

static int open_again(struct sp_err *err)
{
	struct scsi_lu_opts opts = { .kind = SCSI_DISK, .identity = fix_identity, .reservations = file };
	struct scsi_lu *lu;
	int r;

	must(scsi_backend_null(SP_MIB(64), 512, &opts.backend), NULL);
	r = scsi_lu_new(&opts, &lu, err);
	if (r == 0)
		scsi_lu_free(lu);
	else
		opts.backend->ops->free(opts.backend);
	return r;
}

static void make_file(void)
{
	struct nexuses u;

	unlink(file);
	open_unit(&u, 2, file);
	assert_int_equal(out_flags(&u, 0, REGISTER, 0, 0, KEY(0), APTPL), SCSI_GOOD);
	assert_int_equal(out_flags(&u, 1, REGISTER, 0, 0, KEY(1), APTPL), SCSI_GOOD);
	must_out(&u, 0, RESERVE, SCSI_PR_EA, KEY(0), 0);
	close_unit(&u);
}

/* Torn anywhere, or with any byte changed: refused with a story that says what to do; never half believed. */
static void damaged_file(void **state)
{
	char text[2048], bad[2048];
	struct sp_err err = { 0 };
	size_t len;

	make_file();
	len = read_file(text, sizeof(text));
	assert_int_equal(open_again(NULL), 0);
	for (size_t cut = 0; cut < len; cut++) {
		write_file(text, cut);
		assert_int_equal(open_again(&err), -EBADMSG);
		assert_non_null(strstr(sp_err_text(&err), file));
		assert_non_null(strstr(sp_err_text(&err), "delete the file"));
	}
	for (size_t at = 0; at < len; at++) {
		memcpy(bad, text, len);
		bad[at] ^= 0x01;
		write_file(bad, len);
		if (open_again(NULL) == 0)
			fail_msg("byte %zu was changed and nobody saw it", at);
	}
	write_file(text, len);
	assert_int_equal(open_again(NULL), 0);
}

static const struct garbage_row {
	const char *name, *text;
	size_t len;
} garbage_rows[] = {
	{ "empty", "", 0 },
	{ "NUL bytes", "spindle reservations 1\n\0\0\0\0\0\0", 29 },
	{ "another file", "# Debian packages, one per line\n", 32 },
	{ "a later version", "spindle reservations 2\nunit x\n", 30 },
	{ "first line alone", "spindle reservations 1\n", 23 },
};

static void garbage_file(void **state)
{
	const struct garbage_row *c = *state;

	write_file(c->text, c->len);
	assert_int_equal(open_again(NULL), -EBADMSG);
}

static void too_long_file(void **state)
{
	char *text = malloc(40000);

	assert_non_null(text);
	memset(text, 'x', 40000);
	write_file(text, 40000);
	free(text);
	assert_int_equal(open_again(NULL), -EBADMSG);
}

static void file_of_another_unit(void **state)
{
	struct scsi_lu_opts opts = { .kind = SCSI_DISK, .identity = { { 1, 2, 3 } }, .reservations = file };
	struct sp_err err = { 0 };
	struct scsi_lu *lu;

	make_file();
	must(scsi_backend_null(SP_MIB(64), 512, &opts.backend), NULL);
	assert_int_equal(scsi_lu_new(&opts, &lu, &err), -ESTALE);
	assert_non_null(strstr(sp_err_text(&err), "reservations of unit"));
	opts.backend->ops->free(opts.backend);
}

/* The temporary file of a writer that died is in nobody's way. */
static void left_behind(void **state)
{
	struct nexuses u;
	FILE *f;

	make_file();
	f = fopen(other, "w");
	assert_non_null(f);
	fputs("half of a fi", f);
	fclose(f);
	open_unit(&u, 2, file);
	assert_int_equal(keys(&u), 2);
	must_out(&u, 0, RELEASE, SCSI_PR_EA, KEY(0), 0);
	assert_int_not_equal(access(other, F_OK), 0);
	close_unit(&u);
}

static const struct single_row singles[] = {
	{ "RESERVE and RELEASE", old_reservation },
	{ "RESERVE ends with its nexus and at its reset", old_reservation_ends },
	{ "RESERVE conflicts with registrations", old_and_persistent },
	{ "register", registering },
	{ "reserve and release", reserving },
	{ "preempt nobody", preempting_nobody },
	{ "the last of all registrants", last_of_all_registrants },
	{ "eight nexuses", eight_nexuses },
	{ "registrations run out", registrations_run_out },
	{ "answers are cut", answers_are_cut },
};

static const struct single_row restarts[] = {
	{ "kept over a restart", kept },
	{ "kept for all registrants", kept_for_all_registrants },
	{ "cannot be kept", cannot_be_kept },
	{ "damaged file", damaged_file },
	{ "file too long", too_long_file },
	{ "file of another unit", file_of_another_unit },
	{ "a temporary file left behind", left_behind },
};

int main(void)
{
	int failed = ROWS_RUN(access_rows, access_matrix) + ROWS_RUN(bad_rows, bad_out) +
		     ROWS_RUN(ending_rows, endings) + ROWS_RUN(singles, rows_single);

	if (group_setup(NULL) != 0)
		return 1;
	failed += ROWS_RUN(restarts, rows_single) + ROWS_RUN(garbage_rows, garbage_file);
	return failed + (group_teardown(NULL) != 0);
}
