/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest as a writer: what is sent to it, in which order, when it is late, refuses, goes and comes back. The service
 * is played here.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/rows.h"
#include "vmm/vss_guest.h"

#define CHECK	 2
#define COMPLETE 4
#define FREEZE	 5
#define THAW	 6

static struct {
	struct vmm_loop *loop;
	struct vmm_vss_guest *guest;
	/* the service */
	bool no_driver, refused;
	uint8_t working;		/* on that operation */
	char sent[64];			/* operations as digits */
	void (*answered)(void *ctx, int res, uint32_t status);
	void *ctx;
	/* what the set has heard */
	char heard[256];
} t;

int vmm_ic_vss(struct vmm_ic *ic, uint8_t operation, unsigned timeout_ms,
	       void (*answered)(void *ctx, int res, uint32_t status), void *ctx)
{
	char digit[2] = { (char)('0' + operation) };

	if (t.no_driver || t.refused)
		return -ENOTCONN;
	if (t.working)
		return -EBUSY;
	memcpy(t.sent + strlen(t.sent), digit, sizeof(digit));
	t.working = operation;
	t.answered = answered;
	t.ctx = ctx;
	return 0;
}

bool vmm_ic_refused(struct vmm_ic *ic)
{
	return t.refused;
}

static void answer(int res)
{
	assert_true(t.working);
	t.working = 0;
	t.answered(t.ctx, res, 0);
}

static void heard(void *ctx, enum vss_op op, int res, enum vss_reason why)
{
	static const char *const name[] = { "check", "freeze", "thaw" };
	size_t at = strlen(t.heard);

	snprintf(t.heard + at, sizeof(t.heard) - at, "%s%s %s", at ? ", " : "", name[op],
		 res == 0 ? "good" : why ? vss_reason_name(why) : "bad");
}

static void quit(void *ctx)
{
	vmm_loop_quit(t.loop);
}

static void wait_ms(unsigned ms)
{
	struct vmm_watch *w;

	assert_int_equal(vmm_loop_timer(t.loop, ms, 0, quit, NULL, &w), 0);
	assert_int_equal(vmm_loop_run(t.loop), 0);
	vmm_loop_remove(w);
}

static void start(void)
{
	memset(&t, 0, sizeof(t));
	assert_int_equal(vmm_loop_new(&t.loop), 0);
	assert_int_equal(vmm_vss_guest_new(NULL, t.loop, &t.guest), 0);
	vmm_vss_guest_answer_to(t.guest, heard, NULL);
}

static void end(const char *sent, const char *told)
{
	assert_string_equal(t.sent, sent);
	assert_string_equal(t.heard, told);
	vmm_vss_guest_free(t.guest);
	vmm_loop_free(t.loop);
}

static void check(void)
{
	vmm_vss_guest_ops.check(t.guest);
}

static void freeze(void)
{
	vmm_vss_guest_ops.freeze(t.guest, 60000);
}

static void thaw(void)
{
	vmm_vss_guest_ops.thaw(t.guest);
}

static void frozen(void)
{
	start();
	check();
	answer(0);
	freeze();
	answer(0);
}

/* ---- stories ------------------------------------------------------------------------------------------ */

static void all_is_well(void **state)
{
	frozen();
	thaw();
	answer(0);
	vmm_vss_guest_ops.complete(t.guest, true);
	check();			/* the next set does not wait for the answer to "complete" */
	answer(0);
	answer(0);
	assert_false(vmm_vss_guest_owed(t.guest));
	end("256" "42", "check good, freeze good, thaw good, check good");
}

static void no_driver(void **state)
{
	start();
	t.no_driver = true;
	check();
	end("", "check no-channel");
}

static void other_versions(void **state)
{
	start();
	t.refused = true;
	check();
	end("", "check negotiation-failed");
}

static void no_daemon(void **state)
{
	start();
	check();
	answer(-EIO);
	end("2", "check bad");
}

/* Told to thaw before it has answered: the thaw follows at once, however late the answer is. */
static void late_freeze(void **state)
{
	start();
	check();
	answer(0);
	freeze();
	thaw();
	thaw();
	assert_string_equal(t.sent, "25");
	answer(0);
	assert_string_equal(t.sent, "256");
	answer(0);
	assert_false(vmm_vss_guest_owed(t.guest));
	end("256", "check good, freeze good, thaw good");
}

static void busy_with_the_last_set(void **state)
{
	start();
	check();			/* hangs */
	check();
	answer(0);
	end("2", "check busy, check good");
}

static void refused_thaw_is_owed(void **state)
{
	frozen();
	thaw();
	answer(-EIO);
	assert_true(vmm_vss_guest_owed(t.guest));
	check();			/* no new set before that */
	wait_ms(2500);
	assert_string_equal(t.sent, "2566");
	answer(0);
	assert_false(vmm_vss_guest_owed(t.guest));
	end("2566", "check good, freeze good, thaw bad, check busy, thaw good");
}

/* The driver goes while everything is frozen, and comes back. */
static void channel_closes(void **state)
{
	frozen();
	t.no_driver = true;
	thaw();
	assert_true(vmm_vss_guest_owed(t.guest));
	t.no_driver = false;
	wait_ms(2500);
	answer(0);
	assert_false(vmm_vss_guest_owed(t.guest));
	end("256", "check good, freeze good, thaw writer-gone, thaw good");
}

static void closes_while_freezing(void **state)
{
	start();
	check();
	answer(0);
	freeze();
	t.no_driver = true;
	answer(-ENOTCONN);
	thaw();
	t.no_driver = false;
	wait_ms(2500);
	answer(0);
	end("256", "check good, freeze writer-gone, thaw writer-gone, thaw good");
}

static void reset_pays(void **state)
{
	frozen();
	t.no_driver = true;
	thaw();
	vmm_vss_guest_reset(t.guest);
	assert_false(vmm_vss_guest_owed(t.guest));
	t.no_driver = false;
	wait_ms(2500);
	end("25", "check good, freeze good, thaw writer-gone");
}

/* Whoever answers after a reset was never frozen, however quickly it is there. */
static void reset_while_frozen(void **state)
{
	frozen();
	vmm_vss_guest_reset(t.guest);
	assert_string_equal(t.heard, "check good, freeze good, freeze writer-gone");
	vmm_vss_guest_reset(t.guest);
	thaw();
	answer(0);
	end("256", "check good, freeze good, freeze writer-gone, thaw good");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_is_well), cmocka_unit_test(no_driver), cmocka_unit_test(other_versions),
		cmocka_unit_test(no_daemon), cmocka_unit_test(late_freeze), cmocka_unit_test(busy_with_the_last_set),
		cmocka_unit_test(refused_thaw_is_owed), cmocka_unit_test(channel_closes),
		cmocka_unit_test(closes_while_freezing), cmocka_unit_test(reset_pays),
		cmocka_unit_test(reset_while_frozen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
