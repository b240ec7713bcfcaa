/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Integration services over a channel whose other end is played here: a guest that answers as it should, or late,
 * twice, too short, with lies; that goes and comes back.
 */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <sys/epoll.h>

#include "tests/support/ring_pair.h"
#include "tests/unit/rows.h"
#include "vmm/ic.h"
#include "vmm/ic_wire.h"

#define PATIENCE_MS 2000
#define RING_PAGES 8u			/* a KVP message takes two pages */

/* ---- the stage --------------------------------------------------------------------------------------- */

static struct {
	struct test_mem mem;
	struct ring_pair pair;
	struct vmm_loop *loop;
	struct vmm_watch *poll;
	struct vmm_ic *ic;
	bool paused, open;
	bool (*until)(void);
	unsigned waited_ms;
	/* what came last from the host */
	struct ic_header head;
	uint8_t body[8192];
	size_t body_len;
	/* callbacks */
	unsigned answers;
	int result;
	uint32_t status;
	void (*in_answer)(void);
} t;

static uint64_t reference_time(void *ctx)
{
	return 4711;
}

static bool is_paused(void *ctx)
{
	return t.paused;
}

static const struct vmm_ic_host host = { .reference_time = reference_time, .paused = is_paused };

static void on_poll(void *ctx)
{
	if (t.until() || ++t.waited_ms > PATIENCE_MS)
		vmm_loop_quit(t.loop);
}

/* Runs the loop until @what, or for as long as patience lasts. */
static bool soon(bool (*what)(void))
{
	t.until = what;
	t.waited_ms = 0;
	vmm_loop_timer_set(t.poll, 1, 1);
	assert_int_equal(vmm_loop_run(t.loop), 0);
	vmm_loop_timer_set(t.poll, 0, 0);
	return what();
}

static unsigned rounds;

static bool round_over(void)
{
	return rounds-- == 0;
}

/* What is under way has arrived, and nothing more comes of it. */
static void settle(void)
{
	rounds = 5;
	soon(round_over);
}

static const struct vmbus_device_ops *device(void)
{
	return vmm_ic_offer(t.ic)->ops;
}

static void channel_open(void)
{
	const struct vmbus_open open = { .target_vp = 0 };

	ring_pair_open(&t.pair, &t.mem, RING_PAGES, RING_PAGES);
	assert_int_equal(device()->open(vmm_ic_offer(t.ic)->device, &t.pair.host, &open), 0);
	t.open = true;
}

static void channel_close(void)
{
	device()->close(vmm_ic_offer(t.ic)->device, &t.pair.host);
	ring_pair_close(&t.pair);
	t.open = false;
}

static void start(enum vmm_ic_kind kind)
{
	struct sp_err err = { 0 };

	memset(&t, 0, sizeof(t));
	test_mem_open(&t.mem, 128);
	assert_int_equal(vmm_loop_new(&t.loop), 0);
	assert_int_equal(vmm_loop_timer(t.loop, 0, 0, on_poll, NULL, &t.poll), 0);
	assert_int_equal(vmm_ic_new(kind, t.loop, &host, &t.ic, &err), 0);
	channel_open();
}

static void end(void)
{
	if (t.open)
		channel_close();
	settle();
	vmm_ic_free(t.ic);
	vmm_loop_free(t.loop);
	test_mem_close(&t.mem);
}

/* ---- the guest --------------------------------------------------------------------------------------- */

static bool received(void)
{
	static uint64_t buf[2048];
	struct vmbus_packet p;

	if (vmbus_channel_receive(&t.pair.guest, buf, sizeof(buf), &p) <= 0)
		return false;
	assert_true(p.payload_len >= sizeof(t.head));
	memcpy(&t.head, p.payload, sizeof(t.head));
	t.body_len = le16_get(t.head.body_size);
	assert_true(t.body_len <= p.payload_len - sizeof(t.head));
	assert_int_equal(le32_get(t.head.pipe_type), IC_PIPE_DATA);
	assert_int_equal(le32_get(t.head.pipe_size), sizeof(t.head) - IC_PIPE_HEADER + t.body_len);
	memcpy(t.body, p.payload + sizeof(t.head), t.body_len);
	vmbus_channel_flush(&t.pair.guest);
	return true;
}

static bool got_message;

static bool message_came(void)
{
	return got_message = got_message || received();
}

static void expect(enum ic_message_type type)
{
	got_message = false;
	assert_true(soon(message_came));
	assert_int_equal(le16_get(t.head.type), type);
}

static void expect_silence(void)
{
	settle();
	assert_false(received());
}

static void send_bytes(const void *bytes, size_t len, uint16_t type)
{
	const struct vmbus_packet p = { .type = type, .payload = bytes, .payload_len = (uint32_t)len };

	assert_int_equal(vmbus_channel_send(&t.pair.guest, &p), 0);
	vmbus_channel_flush(&t.pair.guest);
}

/* Answers what came last with @body; @h as the guest writes it. */
static void answer_as(struct ic_header h, const void *body, size_t len)
{
	static uint64_t bytes[2048];

	memcpy(bytes, &h, sizeof(h));
	memcpy((uint8_t *)bytes + sizeof(h), body, len);
	send_bytes(bytes, (sizeof(h) + len + 7) & ~7ull, VMBUS_PACKET_INBAND);
}

static struct ic_header reply_head(uint32_t status)
{
	struct ic_header h = t.head;

	h.flags = IC_TRANSACTION | IC_RESPONSE;
	h.status = le32_make(status);
	return h;
}

static void answer(uint32_t status, const void *body, size_t len)
{
	answer_as(reply_head(status), body, len);
}

struct choice {
	struct ic_negotiate n;
	struct ic_version v[2];
};

static struct choice choose(uint16_t framework, uint16_t major, uint16_t minor)
{
	return (struct choice){
		.n = { .frameworks = le16_make(1), .messages = le16_make(1) },
		.v = { { le16_make(framework), le16_make(0) }, { le16_make(major), le16_make(minor) } },
	};
}

static void negotiate(uint16_t major, uint16_t minor)
{
	const struct choice c = choose(3, major, minor);

	expect(IC_NEGOTIATE);
	answer(0, &c, sizeof(c));
}

/* ---- what it says of itself -------------------------------------------------------------------------- */

static const char *says(const char *key)
{
	static char text[256];
	json_object *o = vmm_ic_describe(t.ic), *value;

	assert_non_null(o);
	assert_true(json_object_object_get_ex(o, key, &value));
	snprintf(text, sizeof(text), "%s", json_object_get_string(value));
	json_object_put(o);
	return text;
}

static bool is_ok(void) { return strcmp(says("state"), "ok") == 0; }
static bool is_refused(void) { return strcmp(says("state"), "refused") == 0; }
static bool is_broken(void) { return strcmp(says("state"), "broken") == 0; }
static bool is_gone(void) { return strcmp(says("state"), "no driver") == 0; }
static bool one_dropped(void) { return strcmp(says("dropped_packets"), "1") == 0; }

/* ---- negotiation ------------------------------------------------------------------------------------- */

static const struct version_row {
	const char *name;
	enum vmm_ic_kind kind;
	uint16_t frameworks, messages, framework, major, minor;
	size_t cut;			/* bytes missing at the end */
	const char *state;
} version_rows[] = {
	{ "shutdown 3.2", VMM_IC_SHUTDOWN, 1, 1, 3, 3, 2, 0, "ok" },
	{ "shutdown 1.0, framework 1", VMM_IC_SHUTDOWN, 1, 1, 1, 1, 0, 0, "ok" },
	{ "shutdown 3.3 was not offered", VMM_IC_SHUTDOWN, 1, 1, 3, 3, 3, 0, "refused" },
	{ "framework 4 was not offered", VMM_IC_SHUTDOWN, 1, 1, 4, 3, 2, 0, "refused" },
	{ "heartbeat 3.0", VMM_IC_HEARTBEAT, 1, 1, 3, 3, 0, 0, "ok" },
	{ "time 4.0", VMM_IC_TIMESYNC, 1, 1, 3, 4, 0, 0, "ok" },
	{ "kvp 5.0", VMM_IC_KVP, 1, 1, 3, 5, 0, 0, "ok" },
	{ "vss 5.0", VMM_IC_VSS, 1, 1, 3, 5, 0, 0, "ok" },
	{ "vss 1.0 was not offered", VMM_IC_VSS, 1, 1, 3, 1, 0, 0, "refused" },
	{ "nothing in common", VMM_IC_KVP, 0, 0, 0, 0, 0, 0, "refused" },
	{ "no message in common", VMM_IC_KVP, 1, 0, 3, 0, 0, 0, "refused" },
	{ "two frameworks", VMM_IC_KVP, 2, 1, 3, 5, 0, 0, "refused" },
	{ "65535 of each", VMM_IC_KVP, 65535, 65535, 3, 5, 0, 0, "refused" },
	{ "half an answer", VMM_IC_KVP, 1, 1, 3, 5, 0, 8, "refused" },
	{ "no answer in the answer", VMM_IC_KVP, 1, 1, 3, 5, 0, 16, "refused" },
};

static bool is_decided(void) { return is_ok() || is_refused(); }

static void versions(void **state)
{
	const struct version_row *row = *state;
	struct choice c = choose(row->framework, row->major, row->minor);

	start(row->kind);
	expect(IC_NEGOTIATE);
	c.n.frameworks = le16_make(row->frameworks);
	c.n.messages = le16_make(row->messages);
	answer(0, &c, sizeof(c) - row->cut);
	assert_true(soon(is_decided));
	assert_string_equal(says("state"), row->state);
	end();
}

/* What is no answer to the question is dropped, and the right one is still taken. */
static const struct wrong_row {
	const char *name;
	int transaction;		/* added */
	uint16_t type;
	uint8_t flags;
	uint16_t packet;
	size_t len;			/* of all; 0: as it should be */
} wrong_rows[] = {
	{ "another transaction", 1, IC_NEGOTIATE, IC_TRANSACTION | IC_RESPONSE, VMBUS_PACKET_INBAND, 0 },
	{ "another message", 0, IC_SHUTDOWN, IC_TRANSACTION | IC_RESPONSE, VMBUS_PACKET_INBAND, 0 },
	{ "a question", 0, IC_NEGOTIATE, IC_TRANSACTION | IC_REQUEST, VMBUS_PACKET_INBAND, 0 },
	{ "a completion", 0, IC_NEGOTIATE, IC_TRANSACTION | IC_RESPONSE, VMBUS_PACKET_COMPLETION, 0 },
	{ "an empty packet", 0, IC_NEGOTIATE, IC_TRANSACTION | IC_RESPONSE, VMBUS_PACKET_INBAND, 8 },
	{ "a packet short of a header", 0, IC_NEGOTIATE, IC_TRANSACTION | IC_RESPONSE, VMBUS_PACKET_INBAND, 24 },
};

static void wrong(void **state)
{
	const struct wrong_row *row = *state;
	const struct choice c = choose(3, 3, 2);
	uint64_t bytes[16] = { 0 };
	struct ic_header h;

	start(VMM_IC_SHUTDOWN);
	expect(IC_NEGOTIATE);
	h = reply_head(0);
	h.transaction = (uint8_t)(h.transaction + row->transaction);
	h.type = le16_make(row->type);
	h.flags = row->flags;
	memcpy(bytes, &h, sizeof(h));
	memcpy((uint8_t *)bytes + sizeof(h), &c, sizeof(c));
	send_bytes(bytes, row->len ? row->len : 48, row->packet);
	assert_true(soon(one_dropped));
	assert_string_equal(says("state"), "negotiating");
	answer(0, &c, sizeof(c));
	assert_true(soon(is_ok));
	answer(0, &c, sizeof(c));	/* twice */
	settle();
	assert_string_equal(says("dropped_packets"), "2");
	assert_string_equal(says("version"), "3.2");
	end();
}

/* ---- open and close ---------------------------------------------------------------------------------- */

static void reopen(void **state)
{
	start(VMM_IC_SHUTDOWN);
	expect(IC_NEGOTIATE);
	channel_close();		/* in the middle of a question */
	assert_true(soon(is_gone));
	channel_open();
	negotiate(3, 1);
	assert_true(soon(is_ok));
	channel_close();
	channel_open();			/* before the loop has seen that it was closed */
	negotiate(3, 2);
	assert_true(soon(is_ok));
	assert_string_equal(says("version"), "3.2");
	end();
}

/* A packet longer than any message: the ring cannot be read any more, until it is opened anew. */
static void too_long(void **state)
{
	static uint64_t bytes[1500];

	start(VMM_IC_SHUTDOWN);
	negotiate(3, 2);
	assert_true(soon(is_ok));
	send_bytes(bytes, sizeof(bytes), VMBUS_PACKET_INBAND);
	assert_true(soon(is_broken));
	assert_int_equal(vmm_ic_shutdown(t.ic, false, NULL, NULL), -ENOTCONN);
	channel_close();
	channel_open();
	negotiate(3, 2);
	assert_true(soon(is_ok));
	end();
}

/* ---- shutdown ---------------------------------------------------------------------------------------- */

static void shutdown_answered(void *ctx, int res)
{
	t.answers++;
	t.result = res;
}

static bool answered(void) { return t.answers == 1; }
static bool answered_twice(void) { return t.answers == 2; }

static void shutdown_once(void **state)
{
	struct ic_shutdown body;

	start(VMM_IC_SHUTDOWN);
	assert_int_equal(vmm_ic_shutdown(t.ic, false, shutdown_answered, NULL), -ENOTCONN);
	negotiate(3, 2);
	assert_true(soon(is_ok));
	assert_int_equal(vmm_ic_shutdown(t.ic, true, shutdown_answered, NULL), 0);
	assert_int_equal(vmm_ic_shutdown(t.ic, false, shutdown_answered, NULL), -EALREADY);
	expect(IC_SHUTDOWN);
	memcpy(&body, t.body, sizeof(body));
	assert_int_equal(le32_get(body.flags), IC_SHUTDOWN_FORCE | IC_SHUTDOWN_RESTART);
	answer(0x80004005, t.body, t.body_len);		/* not now */
	assert_true(soon(answered));
	assert_int_equal(t.result, -EIO);
	assert_int_equal(vmm_ic_shutdown(t.ic, false, shutdown_answered, NULL), 0);
	expect(IC_SHUTDOWN);
	memcpy(&body, t.body, sizeof(body));
	assert_int_equal(le32_get(body.flags), IC_SHUTDOWN_FORCE);
	answer(0, t.body, t.body_len);
	assert_true(soon(answered_twice));
	assert_int_equal(t.result, 0);
	assert_int_equal(vmm_ic_shutdown(t.ic, false, shutdown_answered, NULL), -EALREADY);
	channel_close();
	channel_open();			/* the next driver may be asked again */
	negotiate(3, 2);
	assert_true(soon(is_ok));
	assert_int_equal(vmm_ic_shutdown(t.ic, false, shutdown_answered, NULL), 0);
	end();
}

/* The channel has been opened anew, and the loop does not know yet: nothing goes out before the versions. */
static void nothing_before_versions(void **state)
{
	start(VMM_IC_SHUTDOWN);
	negotiate(3, 2);
	assert_true(soon(is_ok));
	channel_close();
	channel_open();
	assert_int_equal(vmm_ic_shutdown(t.ic, false, shutdown_answered, NULL), -ENOTCONN);
	expect(IC_NEGOTIATE);
	end();
}

/* ---- heartbeat, time --------------------------------------------------------------------------------- */

static bool heart_beats(void) { return strcmp(says("heartbeat"), "ok") == 0; }

static void heartbeat(void **state)
{
	struct ic_heartbeat body;

	start(VMM_IC_HEARTBEAT);
	negotiate(3, 0);
	expect(IC_HEARTBEAT);
	memcpy(&body, t.body, sizeof(body));
	assert_int_equal(le64_get(body.sequence), 0);
	body.sequence = le64_make(1);
	answer(0, &body, sizeof(body));
	assert_true(soon(heart_beats));
	assert_string_equal(says("beats"), "1");
	t.paused = true;
	assert_string_equal(says("heartbeat"), "paused");
	end();
}

static void heartbeat_short(void **state)
{
	start(VMM_IC_HEARTBEAT);
	negotiate(3, 0);
	expect(IC_HEARTBEAT);
	answer(0, "", 0);		/* padded to 4 bytes: no sequence */
	settle();
	assert_string_equal(says("beats"), "0");
	end();
}

static void time_set_once(void **state)
{
	struct ic_timesync body;

	start(VMM_IC_TIMESYNC);
	negotiate(4, 0);
	expect(IC_TIMESYNC);
	assert_int_equal(t.body_len, sizeof(body));
	memcpy(&body, t.body, sizeof(body));
	assert_int_equal(body.flags, IC_TIMESYNC_SYNC);
	assert_int_equal(le64_get(body.reference), 4711);
	assert_true(le64_get(body.host_time) > 133000000000000000ull);		/* after 2022 */
	answer(0, t.body, t.body_len);
	settle();
	vmm_ic_sync_time(t.ic);
	expect(IC_TIMESYNC);
	memcpy(&body, t.body, sizeof(body));
	assert_int_equal(body.flags, IC_TIMESYNC_SYNC);
	end();
}

static void time_of_old_guests(void **state)
{
	struct ic_timesync_old body;

	start(VMM_IC_TIMESYNC);
	negotiate(3, 0);
	expect(IC_TIMESYNC);
	assert_int_equal(t.body_len, sizeof(body));
	memcpy(&body, t.body, sizeof(body));
	assert_int_equal(body.flags, IC_TIMESYNC_SYNC);
	end();
}

/* ---- KVP --------------------------------------------------------------------------------------------- */

static size_t utf16(uint8_t *to, const char *text)
{
	size_t n = 0;

	for (; *text; text++, n += 2)
		to[n] = (uint8_t)*text, to[n + 1] = 0;
	return n + 2;
}

static struct ic_kvp *item(const char *key, const char *value)
{
	static struct ic_kvp k;

	memset(&k, 0, sizeof(k));
	k.key_size = le32_make((uint32_t)utf16(k.key, key));
	k.value_size = le32_make((uint32_t)utf16(k.value, value));
	return &k;
}

static uint32_t asked_for(void)
{
	struct ic_kvp k;

	expect(IC_KVP);
	assert_int_equal(t.body_len, sizeof(k));
	memcpy(&k, t.body, sizeof(k));
	assert_int_equal(k.operation, IC_KVP_ENUMERATE);
	return le32_get(k.index);
}

/* The value of @key, "-" when there is none, and how many there are. */
static const char *guest_says(const char *key, int *ret_count)
{
	static char text[2048];
	json_object *o = vmm_ic_describe(t.ic), *guest, *value;

	assert_true(json_object_object_get_ex(o, "guest", &guest));
	snprintf(text, sizeof(text), "%s",
		 json_object_object_get_ex(guest, key, &value) ? json_object_get_string(value) : "-");
	*ret_count = json_object_object_length(guest);
	json_object_put(o);
	return text;
}

static void kvp_items(void **state)
{
	int count;

	start(VMM_IC_KVP);
	negotiate(5, 0);
	assert_int_equal(asked_for(), 0);
	answer(0, item("FullyQualifiedDomainName", "guest.example"), sizeof(struct ic_kvp));
	assert_int_equal(asked_for(), 1);
	answer(0, item("OSName", "\x1b[2J\x7f"), sizeof(struct ic_kvp));
	assert_int_equal(asked_for(), 2);
	answer(IC_STATUS_NO_MORE_ITEMS, item("", ""), sizeof(struct ic_kvp));
	settle();
	assert_string_equal(guest_says("FullyQualifiedDomainName", &count), "guest.example");
	assert_string_equal(guest_says("OSName", &count), "?[2J?");
	assert_int_equal(count, 2);
	end();
}

/* One item, as a hostile guest writes it. */
static const struct hostile_row {
	const char *name;
	uint32_t key_size, value_size;
	uint16_t fill;			/* unit that fills key and value */
	const char *want;		/* how the value begins; NULL: nothing is kept */
	size_t cut;			/* bytes missing at the end of the body */
} hostile_rows[] = {
	{ "sizes of 2^32 - 1", UINT32_MAX, UINT32_MAX, 'a', "aaaa", 0 },
	{ "sizes one beyond the fields", 513, 2049, 'a', "aaaa", 0 },
	{ "sizes of 0", 0, 0, 'a', "", 0 },
	{ "odd sizes", 3, 5, 'a', "aa", 0 },
	{ "no terminator", 512, 2048, 'a', "aaaa", 0 },
	{ "controls", 512, 2048, 0x1b, "????", 0 },
	{ "controls above ASCII", 512, 2048, 0x9b, "????", 0 },
	{ "delete", 512, 2048, 0x7f, "????", 0 },
	{ "halves of characters", 512, 2048, 0xdc00, "????", 0 },
	{ "characters of two bytes", 512, 2048, 0xe9, "\xc3\xa9", 0 },
	{ "characters of three bytes", 512, 2048, 0x20ac, "\xe2\x82\xac", 0 },
	{ "a short body", 2, 2, 'a', NULL, sizeof(struct ic_kvp) - 600 },
	{ "no body", 2, 2, 'a', NULL, sizeof(struct ic_kvp) - 4 },
};

static const char *first_value(char *ret_key, size_t room)
{
	static char text[2048];
	json_object *o = vmm_ic_describe(t.ic), *guest;

	strcpy(text, "nothing");
	assert_true(json_object_object_get_ex(o, "guest", &guest));
	json_object_object_foreach(guest, key, value) {
		snprintf(ret_key, room, "%s", key);
		snprintf(text, sizeof(text), "%s", json_object_get_string(value));
	}
	/* It goes out as it is: a client must be able to read it. */
	json_tokener *tok = json_tokener_new();
	const char *all = json_object_to_json_string(o);
	json_object *again;

	json_tokener_set_flags(tok, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
	again = json_tokener_parse_ex(tok, all, (int)strlen(all) + 1);
	assert_non_null(again);
	json_object_put(again);
	json_tokener_free(tok);
	json_object_put(o);
	return text;
}

static void kvp_hostile(void **state)
{
	const struct hostile_row *row = *state;
	struct ic_kvp *k;
	char key[1024];

	start(VMM_IC_KVP);
	negotiate(5, 0);
	assert_int_equal(asked_for(), 0);
	k = item("", "");
	for (unsigned i = 0; i < sizeof(k->key); i += 2)
		k->key[i] = (uint8_t)row->fill, k->key[i + 1] = (uint8_t)(row->fill >> 8);
	for (unsigned i = 0; i < sizeof(k->value); i += 2)
		k->value[i] = (uint8_t)row->fill, k->value[i + 1] = (uint8_t)(row->fill >> 8);
	k->key_size = le32_make(row->key_size);
	k->value_size = le32_make(row->value_size);
	answer(0, k, sizeof(*k) - row->cut);
	settle();
	if (row->want)
		assert_memory_equal(first_value(key, sizeof(key)), row->want, strlen(row->want));
	else
		assert_string_equal(first_value(key, sizeof(key)), "nothing");
	end();
}

/* A guest that never says "no more": bounded. */
static void kvp_endless(void **state)
{
	unsigned asked = 0;
	char key[16];
	int count;

	start(VMM_IC_KVP);
	negotiate(5, 0);
	got_message = false;
	while (asked < 100 && soon(message_came)) {
		snprintf(key, sizeof(key), "%u", asked++);
		answer(0, item(key, "v"), sizeof(struct ic_kvp));
		settle();
		got_message = false;
		if (!received())
			break;
		got_message = true;
	}
	assert_int_equal(asked, 17);
	guest_says("0", &count);
	assert_int_equal(count, 16);
	end();
}

/* ---- VSS --------------------------------------------------------------------------------------------- */

static void vss_answered(void *ctx, int res, uint32_t status)
{
	t.answers++;
	t.result = res;
	t.status = status;
	if (t.in_answer)
		t.in_answer();
}

static int ask_vss(uint8_t operation, unsigned timeout_ms)
{
	return vmm_ic_vss(t.ic, operation, timeout_ms, vss_answered, NULL);
}

static void vss_start(void)
{
	start(VMM_IC_VSS);
	assert_int_equal(ask_vss(5, 1000), -ENOTCONN);
	negotiate(5, 0);
	assert_true(soon(is_ok));
}

static void vss_one_at_a_time(void **state)
{
	vss_start();
	assert_int_equal(ask_vss(5, 1000), 0);
	assert_int_equal(ask_vss(6, 1000), -EBUSY);
	expect(IC_VSS);
	assert_int_equal(t.body[0], 5);
	answer(0, t.body, t.body_len);
	assert_true(soon(answered));
	assert_int_equal(t.result, 0);
	assert_int_equal(ask_vss(6, 1000), 0);
	expect(IC_VSS);
	answer(0x80070057, t.body, t.body_len);
	assert_true(soon(answered_twice));
	assert_int_equal(t.result, -EIO);
	assert_int_equal(t.status, 0x80070057);
	expect_silence();
	end();
}

static void vss_late(void **state)
{
	vss_start();
	assert_int_equal(ask_vss(5, 5), 0);
	expect(IC_VSS);
	assert_true(soon(answered));
	assert_int_equal(t.result, -ETIMEDOUT);
	assert_int_equal(ask_vss(6, 1000), -EBUSY);	/* the guest is still at it */
	assert_string_equal(says("busy"), "true");
	answer(0, t.body, t.body_len);
	settle();
	assert_int_equal(t.answers, 1);			/* nobody waits for it any more */
	assert_string_equal(says("busy"), "false");
	assert_int_equal(ask_vss(6, 1000), 0);
	expect(IC_VSS);
	end();
}

static void vss_closed(void **state)
{
	vss_start();
	assert_int_equal(ask_vss(5, 1000), 0);
	expect(IC_VSS);
	channel_close();
	assert_true(soon(answered));
	assert_int_equal(t.result, -ENOTCONN);
	end();
}

static void vss_broken(void **state)
{
	static uint64_t bytes[1500];

	vss_start();
	assert_int_equal(ask_vss(5, 1000), 0);
	expect(IC_VSS);
	send_bytes(bytes, sizeof(bytes), VMBUS_PACKET_INBAND);
	assert_true(soon(answered));
	assert_int_equal(t.result, -ENOTCONN);
	end();
}

static void thaw(void)
{
	t.in_answer = NULL;
	assert_int_equal(ask_vss(6, 1000), 0);
}

static void vss_next_in_answer(void **state)
{
	vss_start();
	assert_int_equal(ask_vss(5, 1000), 0);
	expect(IC_VSS);
	t.in_answer = thaw;
	answer(0, t.body, t.body_len);
	expect(IC_VSS);
	assert_int_equal(t.body[0], 6);
	answer(0, t.body, t.body_len);
	assert_true(soon(answered_twice));
	end();
}

static void close_in_answer(void)
{
	device()->close(vmm_ic_offer(t.ic)->device, &t.pair.host);
	t.open = false;
}

/* The bus closes the channel while who asked hears of the answer: the lock is free then. */
static void vss_closed_in_answer(void **state)
{
	vss_start();
	assert_int_equal(ask_vss(5, 1000), 0);
	expect(IC_VSS);
	t.in_answer = close_in_answer;
	answer(0, t.body, t.body_len);
	assert_true(soon(answered));
	ring_pair_close(&t.pair);
	assert_true(soon(is_gone));
	end();
}

static void reopen_in_answer(void)
{
	t.in_answer = NULL;
	assert_int_equal(ask_vss(5, 1000), -ENOTCONN);
	channel_open();
}

static void vss_reopened_in_answer(void **state)
{
	vss_start();
	assert_int_equal(ask_vss(5, 1000), 0);
	expect(IC_VSS);
	t.in_answer = reopen_in_answer;
	channel_close();
	assert_true(soon(answered));
	negotiate(5, 0);
	assert_true(soon(is_ok));
	end();
}

static const struct single_row others[] = {
	{ "closed in the middle, opened again", reopen },
	{ "a packet too long", too_long },
	{ "shutdown is asked for once", shutdown_once },
	{ "nothing is sent before the versions", nothing_before_versions },
	{ "heartbeat", heartbeat },
	{ "heartbeat too short", heartbeat_short },
	{ "time is set once, and when asked for", time_set_once },
	{ "time of guests before 4.0", time_of_old_guests },
	{ "kvp: items", kvp_items },
	{ "kvp: without end", kvp_endless },
	{ "vss: one at a time", vss_one_at_a_time },
	{ "vss: too late", vss_late },
	{ "vss: closed", vss_closed },
	{ "vss: broken", vss_broken },
	{ "vss: the next one out of the answer", vss_next_in_answer },
	{ "vss: closed out of the answer", vss_closed_in_answer },
	{ "vss: opened anew out of the answer", vss_reopened_in_answer },
};

int main(void)
{
	return ROWS_RUN(version_rows, versions) + ROWS_RUN(wrong_rows, wrong) + ROWS_RUN(hostile_rows, kvp_hostile) +
	       ROWS_RUN(others, rows_single);
}
